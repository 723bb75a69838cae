//! Which kinds the cluster serves: asked once, and again when a kind is missing or a definition was applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kube::Discovery;
use kube::api::ApiResource;
use kube::discovery::Scope as ServedScope;
use tokio::sync::Mutex;
use towpath_core::fault::Problem;
use towpath_core::manifest::{group_of, version_of};
use towpath_core::scope::{Scope, Scopes};

use super::Cluster;

/// A kind as it is served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// The name in URLs.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub is_namespaced: bool,
}

impl Kind {
    pub(super) fn api_resource(&self) -> ApiResource {
        ApiResource {
            group: group_of(&self.api_version).to_owned(),
            version: version_of(&self.api_version).to_owned(),
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// The path of one object, or of the list where `name` is `None`.
    pub(super) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = if self.api_version.contains('/') { "/apis" } else { "/api" };
        let mut path = format!("{root}/{}", self.api_version);
        if let Some(namespace) = namespace.filter(|_| self.is_namespaced) {
            path.push_str("/namespaces/");
            path.push_str(&encoded(namespace));
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(&encoded(name));
        }
        path
    }
}

/// A text as one segment of a path or one value of a query (RFC 3986): most kinds' names need none of it, but not all.
pub(super) fn encoded(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    name.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// What the cluster served when it was last asked.
#[derive(Clone, Debug)]
pub struct Kinds {
    by_version: BTreeMap<(String, String), Kind>,
    scopes: Scopes,
    /// Changes with each answer that differs.
    pub number: u64,
}

impl Kinds {
    /// A kind in exactly one version.
    pub fn get(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.by_version.get(&(api_version.to_owned(), kind.to_owned()))
    }

    /// A kind in whichever version is served, for an object whose own version no longer is.
    pub fn any_version(&self, group: &str, kind: &str) -> Option<&Kind> {
        self.by_version.values().find(|served| served.kind == kind && group_of(&served.api_version) == group)
    }

    /// The scopes of all kinds.
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }
}

#[derive(Default)]
pub(super) struct Cache {
    state: Mutex<Option<(Instant, Arc<Kinds>)>>,
}

impl Cluster {
    /// The kinds that the cluster serves, as they were asked for no earlier than `not_before`; `None` takes any answer.
    ///
    /// # Errors
    /// `Passing`: what could not be asked is unknown, not absent.
    pub async fn kinds(&self, not_before: Option<Instant>) -> Result<Arc<Kinds>, Problem> {
        let mut state = self.kinds.state.lock().await;
        if let Some((asked, kinds)) = &*state
            && not_before.is_none_or(|instant| *asked >= instant)
        {
            return Ok(kinds.clone());
        }
        let asked = Instant::now();
        let discovery = super::call::own(&self.permits, Discovery::new(self.client.clone()).run_aggregated()).await?;
        let mut by_version = BTreeMap::new();
        for group in discovery.groups() {
            for version in group.versions() {
                for (resource, capabilities) in group.versioned_resources(version) {
                    let kind = Kind {
                        api_version: resource.api_version,
                        kind: resource.kind,
                        plural: resource.plural,
                        is_namespaced: capabilities.scope == ServedScope::Namespaced,
                    };
                    by_version.insert((kind.api_version.clone(), kind.kind.clone()), kind);
                }
            }
        }
        let before = state.as_ref().map(|(_, kinds)| kinds.clone());
        let kinds = match before {
            Some(kinds) if kinds.by_version == by_version => kinds,
            before => {
                let mut scopes = Scopes::of_cluster();
                for kind in by_version.values() {
                    let scope = if kind.is_namespaced { Scope::Namespaced } else { Scope::Cluster };
                    scopes.insert(group_of(&kind.api_version), &kind.kind, scope);
                }
                Arc::new(Kinds { by_version, scopes, number: before.map_or(0, |kinds| kinds.number) + 1 })
            }
        };
        *state = Some((asked, kinds.clone()));
        Ok(kinds)
    }
}
