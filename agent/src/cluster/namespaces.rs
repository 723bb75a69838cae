//! Whether a namespace is on its way out, and what holds it.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;

use super::{Cluster, call};

/// Characters that are shown of what holds a namespace.
const MAX_SHOWN: usize = 400;

/// How a namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceState {
    /// It is not there.
    Absent,
    /// It is there to stay.
    Active,
    /// It is being deleted; this holds it, in words, as far as its controller has said so.
    Terminating(String),
}

impl Cluster {
    /// Asks for a namespace.
    ///
    /// # Errors
    /// `Passing`, or `Setup` when the agent lacks the right.
    pub async fn namespace_state(&self, name: &str) -> Result<NamespaceState, Problem> {
        let api: Api<Namespace> = Api::all(self.own_client());
        let Some(namespace) = call::own(&self.permits, api.get_opt(name)).await? else {
            return Ok(NamespaceState::Absent);
        };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(NamespaceState::Active);
        }
        // Its controller says what is left in conditions such as NamespaceFinalizersRemaining.
        let conditions = namespace.status.and_then(|status| status.conditions).unwrap_or_default();
        let holding = conditions.into_iter().filter(|condition| condition.status == "True");
        let said: Vec<String> = holding.filter_map(|condition| condition.message).collect();
        Ok(NamespaceState::Terminating(clean_line(&said.join("; "), MAX_SHOWN)))
    }
}
