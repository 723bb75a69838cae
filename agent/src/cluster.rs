//! The door to the API server.
//!
//! Two identities pass through it. [`Cluster`] is the agent's own: custom resources, inventories, Events, discovery.
//! [`AccountClient`] is an environment's service account, and the only one that can read or write workloads. Both
//! share one pool of connections; an account is a header on each request.

mod brake;
mod call;
mod delete;
mod events;
mod fence;
mod gate;
mod identity;
mod inventory;
mod jobs;
mod key;
mod kinds;
mod lease;
mod finalizer;
mod labelled;
mod live;
mod logs;
mod namespaces;
mod objects;
mod pod;
mod send;
mod token;
mod watch;

pub use delete::Deleted;
pub use events::Severity;
pub use fence::{Fence, uptime};
pub use gate::Manner;
pub use identity::{Account, AccountClient};
pub use inventory::Stored;
pub use key::KEY_SECRET;
pub use kinds::{Kind, Kinds};
pub use lease::{Lease, Place};
pub use live::{Live, Wakes};
pub use namespaces::NamespaceState;
pub use objects::{Applied, Outcome};
pub use pod::Pod;
pub use send::{Propagation, Refusal, Refused};
pub use watch::{WatchHandle, events};

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Config};
use serde_json::{Value, json};
use towpath_core::fault::Problem;

use gate::Permits;

/// Requests under way at one time, watches not counted. Beyond 32 only the latency of a kube-apiserver grows.
const MAX_REQUESTS: usize = 16;

/// How an agent calls itself in the header `User-Agent`.
pub fn user_agent(identity: &str) -> String {
    format!("towpath/{} ({identity})", env!("CARGO_PKG_VERSION"))
}

/// The agent's own access to its cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    permits: Arc<Permits>,
    kinds: Arc<kinds::Cache>,
    live: Arc<Live>,
    watches: Arc<watch::Watches>,
    clients: Arc<identity::Clients>,
    events: Arc<events::Events>,
}

impl Cluster {
    /// Opens a pool of connections. No request is made.
    ///
    /// # Errors
    /// `Setup` when the configuration names certificates or credentials that cannot be read, or asks for a program to
    /// be run for credentials, which is never done.
    pub fn connect(config: Config, manner: Manner) -> Result<Cluster, Problem> {
        let (client, gate) = gate::open(config, manner)?;
        Ok(Cluster {
            client,
            permits: Arc::new(Permits::new(MAX_REQUESTS, gate)),
            kinds: Arc::default(),
            live: Arc::default(),
            watches: Arc::default(),
            clients: Arc::default(),
            events: Arc::default(),
        })
    }

    /// The kube client with the agent's own identity, for its own custom resources.
    pub fn own_client(&self) -> Client {
        self.client.clone()
    }

    /// Changes whenever the API server is well again after it was away or throttled.
    pub fn recoveries(&self) -> tokio::sync::watch::Receiver<u64> {
        self.permits.gate.brake.recoveries()
    }

    /// What the watches have seen.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Merge-patches the status of one of the agent's own custom resources.
    ///
    /// # Errors
    /// `Passing`, or `Setup` when the agent lacks the right.
    pub async fn patch_status<K>(
        &self,
        namespace: &str,
        name: &str,
        status: &impl serde::Serialize,
    ) -> Result<(), Problem>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        let params = PatchParams::default();
        call::own(&self.permits, api.patch_status(name, &params, &patch)).await.map(drop)
    }

    /// Sets annotations of one of the agent's own custom resources.
    ///
    /// # Errors
    /// `Passing`, or `Setup` when the agent lacks the right or the object is gone.
    pub async fn annotate<K>(&self, namespace: &str, name: &str, annotations: Value) -> Result<K, Problem>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
        let params = PatchParams::default();
        call::own(&self.permits, api.patch(name, &params, &patch)).await
    }

    /// Reads a Secret of the agent's own use, such as a Repository's credentials.
    ///
    /// # Errors
    /// `Setup` when it is not there or may not be read.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, Problem> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        call::own(&self.permits, api.get(name)).await.map_err(|problem| Problem {
            message: format!("Secret {namespace}/{name}: {}", problem.message),
            ..problem
        })
    }
}
