//! The finalizer of an Environment whose members are deleted with it.

use kube::api::{Api, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::json;
use towpath_core::fault::Problem;
use towpath_core::names::FINALIZER;

use super::{Cluster, call};

/// How often a change of finalizers is tried that somebody else's write came before.
const TRIES: u32 = 5;

impl Cluster {
    /// Puts our finalizer on one of the agent's own custom resources, or takes it off. Other finalizers stay, and a
    /// resource of that name with another UID is not touched.
    ///
    /// # Errors
    /// `Passing`, or `Setup` when the agent lacks the right.
    pub async fn set_finalizer<K>(&self, namespace: &str, name: &str, uid: &str, wanted: bool) -> Result<(), Problem>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.own_client(), namespace);
        let mut tried = 0;
        loop {
            let Some(resource) = call::own(&self.permits, api.get_opt(name)).await? else { return Ok(()) };
            let meta = resource.meta();
            let mut finalizers = meta.finalizers.clone().unwrap_or_default();
            let is_there = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
            if meta.uid.as_deref() != Some(uid) || is_there == wanted {
                return Ok(());
            }
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            if wanted {
                finalizers.push(FINALIZER.to_owned());
            }
            // A list is replaced as a whole, so it must be the list that was read.
            let version = &meta.resource_version;
            let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } });
            let patch = Patch::Merge(patch);
            let params = PatchParams::default();
            match call::own(&self.permits, api.patch(name, &params, &patch)).await {
                Err(problem) if tried + 1 < TRIES && problem.fault != towpath_core::fault::Fault::Setup => tried += 1,
                answer => return answer.map(drop),
            }
        }
    }
}
