//! Which kinds live in namespaces and which belong to the whole cluster.
//!
//! The kinds of Kubernetes itself are known without a cluster, so that `towpath render` and `lint` judge as the agent
//! does. What a cluster serves beside them is added by the door that asked it, and what a rendered
//! CustomResourceDefinition will bring is added from its manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Beside the namespaces.
    Cluster,
}

/// The scope of every kind that is known. A copy shares what the original knows until one of the two learns more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes {
    known: Arc<BTreeMap<(String, String), Scope>>,
    /// What is assumed of a kind that is not known: `None` with a cluster at hand, which knows all its kinds.
    unknown: Option<Scope>,
}

impl Scopes {
    /// Without a cluster: the kinds of Kubernetes itself; all others are taken to be namespaced.
    pub fn offline() -> Scopes {
        let mut scopes = Scopes { known: Arc::default(), unknown: Some(Scope::Namespaced) };
        for (group, kind) in CLUSTER_SCOPED {
            scopes.insert(group, kind, Scope::Cluster);
        }
        scopes
    }

    /// With a cluster: only what it serves. Its kinds are added with [`Scopes::insert`].
    pub fn of_cluster() -> Scopes {
        Scopes { known: Arc::default(), unknown: None }
    }

    /// Adds a kind.
    pub fn insert(&mut self, group: &str, kind: &str, scope: Scope) {
        Arc::make_mut(&mut self.known).insert((group.to_owned(), kind.to_owned()), scope);
    }

    /// Adds the kind that a CustomResourceDefinition defines. Anything else is left alone.
    pub fn insert_defined_by(&mut self, body: &Map<String, Value>) {
        if let Some((group, kind, scope)) = defined_kind(body) {
            self.insert(group, kind, scope);
        }
    }

    /// The scope of a kind, `None` where the cluster does not know the kind.
    pub fn get(&self, group: &str, kind: &str) -> Option<Scope> {
        self.known.get(&(group.to_owned(), kind.to_owned())).copied().or(self.unknown)
    }
}

/// Group, kind and scope that a CustomResourceDefinition brings.
pub fn defined_kind(body: &Map<String, Value>) -> Option<(&str, &str, Scope)> {
    if body.get("kind")?.as_str()? != "CustomResourceDefinition" {
        return None;
    }
    let spec = body.get("spec")?;
    let group = spec.get("group")?.as_str()?;
    let kind = spec.get("names")?.get("kind")?.as_str()?;
    let scope = if spec.get("scope")?.as_str()? == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
    Some((group, kind, scope))
}

/// The cluster-scoped kinds of Kubernetes 1.36.
const CLUSTER_SCOPED: [(&str, &str); 30] = [
    ("", "ComponentStatus"),
    ("", "Namespace"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("certificates.k8s.io", "ClusterTrustBundle"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "IPAddress"),
    ("networking.k8s.io", "ServiceCIDR"),
    ("node.k8s.io", "RuntimeClass"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("resource.k8s.io", "DeviceClass"),
    ("resource.k8s.io", "ResourceSlice"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "CSINode"),
    ("storage.k8s.io", "StorageClass"),
    ("storage.k8s.io", "VolumeAttachment"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cluster_a_strange_kind_is_taken_to_be_namespaced() {
        let scopes = Scopes::offline();
        assert_eq!(scopes.get("", "Namespace"), Some(Scope::Cluster));
        assert_eq!(scopes.get("apps", "Deployment"), Some(Scope::Namespaced));
        assert_eq!(scopes.get("example.com", "Widget"), Some(Scope::Namespaced));
    }

    #[test]
    fn with_a_cluster_a_strange_kind_is_unknown_until_its_definition_comes() {
        let mut scopes = Scopes::of_cluster();
        assert_eq!(scopes.get("example.com", "Widget"), None);
        let crd = serde_json::json!({
            "kind": "CustomResourceDefinition",
            "spec": {"group": "example.com", "names": {"kind": "Widget"}, "scope": "Cluster"},
        });
        scopes.insert_defined_by(crd.as_object().unwrap());
        assert_eq!(scopes.get("example.com", "Widget"), Some(Scope::Cluster));
    }
}
