//! The label on the pod of the replica that leads: the Service selects it, so people always meet the leader's page.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use towpath_core::lease::Standing;
use towpath_core::names::LEADER_LABEL;

use super::Lease;

/// How soon a label that could not be written is written again.
const AGAIN: Duration = Duration::from_secs(5);
/// Time for one request.
const DEADLINE: Duration = Duration::from_secs(5);

/// The pod that this agent runs in.
#[derive(Clone)]
pub struct Pod {
    api: Api<PodObject>,
    name: String,
}

impl Pod {
    /// A pod beside the Lease. It is reached over the connections of the election: a label is taken off by one who does
    /// not lead any more, which no fence would let through, and it is the pod's own.
    pub fn beside(lease: &Lease, name: &str) -> Pod {
        Pod { api: Api::namespaced(lease.client(), &lease.place().namespace), name: name.to_owned() }
    }

    /// Keeps the label as this replica stands, until it is dropped.
    pub async fn follow(&self, mut standing: watch::Receiver<Standing>) {
        loop {
            let leads = *standing.borrow_and_update() == Standing::Leading;
            let mut is_done = false;
            while !is_done && !standing.has_changed().unwrap_or(true) {
                is_done = match self.label(leads).await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(%error, pod = self.name, "the label of the leader was not written; trying again");
                        tokio::select! {
                            () = tokio::time::sleep(AGAIN) => {}
                            changed = standing.changed() => if changed.is_err() { return } else { break },
                        }
                        false
                    }
                };
            }
            if is_done && standing.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes the label off, at the end. Whoever leads next does it too.
    pub async fn step_down(&self) {
        if let Err(error) = self.label(false).await {
            tracing::debug!(%error, pod = self.name, "the label of the leader was not taken off");
        }
    }

    async fn label(&self, leads: bool) -> Result<(), String> {
        if leads {
            // First the others: a leader that is stopped or lost cannot do it.
            let labelled = ListParams::default().labels(LEADER_LABEL);
            for pod in in_time(self.api.list_metadata(&labelled)).await?.items {
                if pod.name_any() != self.name {
                    self.set(&pod.name_any(), false).await?;
                }
            }
        }
        self.set(&self.name, leads).await
    }

    async fn set(&self, name: &str, leads: bool) -> Result<(), String> {
        let value = if leads { json!("true") } else { json!(null) };
        let patch = Patch::Merge(json!({ "metadata": { "labels": { LEADER_LABEL: value } } }));
        match in_time(self.api.patch_metadata(name, &PatchParams::default(), &patch)).await {
            Err(error) if error.contains("not found") => Ok(()),
            result => result.map(drop),
        }
    }
}

async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
