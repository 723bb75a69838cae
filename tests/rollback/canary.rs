//! Going back while a rollout controller is in the middle of a canary. The controllers are no part of the test control
//! plane: they are played, with what they keep and demand by their documents.

mod argo;
mod kruise;

use std::future::Future;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use support::audit::{Mark, Request};
use towpath_core::health::Health;

use super::*;

/// How often a controller looks.
const LOOKS: Duration = Duration::from_millis(100);

/// A controller that is played until it is dropped.
struct Played(tokio::task::JoinHandle<()>);

impl Played {
    fn new<Looking>(mut look: impl FnMut() -> Looking + Send + 'static) -> Played
    where
        Looking: Future<Output = Option<()>> + Send + 'static,
    {
        Played(tokio::spawn(async move {
            loop {
                // None is an object that is not there yet, or has changed in this moment: it looks again.
                let _ = look().await;
                tokio::time::sleep(LOOKS).await;
            }
        }))
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An object with its API, as a controller has it.
struct Held {
    api: Api<DynamicObject>,
    object: Value,
}

impl Held {
    async fn read(api: &Api<DynamicObject>, name: &str) -> Option<Held> {
        let object = api.get(name).await.ok()?;
        Some(Held { api: api.clone(), object: serde_json::to_value(object).unwrap() })
    }

    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn generation(&self) -> i64 {
        self.object["metadata"]["generation"].as_i64().unwrap_or_default()
    }

    /// Merge-patches it, where it is still as it was read.
    async fn patch(&self, manager: &str, patch: Value) -> Option<()> {
        let params = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
        let patch = Patch::Merge(self.as_read(patch));
        self.api.patch(self.text("/metadata/name"), &params, &patch).await.ok().map(drop)
    }

    /// The same for its status.
    async fn patch_status(&self, manager: &str, status: Value) -> Option<()> {
        let params = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
        let patch = Patch::Merge(self.as_read(json!({ "status": status })));
        self.api.patch_status(self.text("/metadata/name"), &params, &patch).await.ok().map(drop)
    }

    fn as_read(&self, mut patch: Value) -> Value {
        patch["metadata"]["resourceVersion"] = self.object["metadata"]["resourceVersion"].clone();
        patch
    }
}

/// What the agent wrote to an object since a mark.
fn writes(shop: &Shop, mark: Mark, resource: &str, name: &str) -> Vec<Request> {
    let requests = shop.world.requests_since(mark).into_iter();
    requests.filter(|one| one.is_write() && one.resource == resource && one.name == name).collect()
}

/// Waits until an Environment waits for a person because of a canary. Gives what it says of it.
async fn is_paused(shop: &Shop, name: &str) -> String {
    let is_it = |status: &EnvironmentStatus| status.health == Some(Health::Suspended) && !status.unhealthy.is_empty();
    let status = shop.world.status_where(name, "paused", is_it).await;
    assert_eq!(status.unhealthy.len(), 1, "{:#?}", status.unhealthy);
    status.unhealthy[0].message.clone()
}

/// Waits until an Environment is healthy on the head of master after a rollback, and demands that it stays so.
async fn is_back(shop: &Shop, name: &str) -> EnvironmentStatus {
    let head = shop.world.repo.head("master").to_string();
    let is_it = |status: &EnvironmentStatus| {
        let runs = status.running.as_ref().is_some_and(|running| running.revision.ends_with(&head));
        let is_well = status.state == State::Synced && status.health == Some(Health::Healthy);
        runs && is_well && phase(status) == Some(RollbackPhase::Done) && is_settled(status)
    };
    shop.world.status_where(name, "back", is_it).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = shop.world.status(name).await;
    assert!(is_it(&status), "{status:#?}\n{}", shop.world.agent_log());
    assert_eq!(shop.world.repo.head("master").to_string(), head);
    assert_eq!((&status.held, &status.prepared, &status.warnings), (&None, &None, &Vec::new()), "{status:#?}");
    assert_eq!(status.history[0].trigger, Trigger::Rollback);
    status
}
