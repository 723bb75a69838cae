//! What the agent itself is made of. It is never deleted, whoever has it as a member: an agent that prunes itself leaves
//! nobody to put it back.

use crate::manifest::ObjectKey;
use crate::names::{AGENT, GROUP};

/// What decides whether an object is a part of the agent.
pub(super) struct Own<'a> {
    /// The namespace that the agent runs in, where it is known.
    pub(super) namespace: Option<&'a str>,
    /// The namespace and the name of the account that the environment is applied with.
    pub(super) account: (&'a str, &'a str),
}

impl Own<'_> {
    /// Whether an object belongs to the agent, or to the rights that this environment is applied with. `is_labelled`
    /// says that it carries the agent's own name as its label.
    pub(super) fn has(&self, key: &ObjectKey, is_labelled: bool) -> bool {
        let is_agents_name =
            key.name == AGENT || key.name.strip_prefix(AGENT).is_some_and(|rest| rest.starts_with('-'));
        let defines_ours = key.kind == "CustomResourceDefinition" && key.name.ends_with(&format!(".{GROUP}"));
        if key.group == GROUP || defines_ours {
            return true;
        }
        match key.namespace.as_deref() {
            None if key.kind == "Namespace" && key.group.is_empty() => Some(key.name.as_str()) == self.namespace,
            None => is_labelled || (is_agents_name && is_right(key)),
            Some(namespace) => {
                let is_home = Some(namespace) == self.namespace;
                let is_account = (namespace, key.name.as_str()) == self.account && is_right(key);
                (is_home && (is_labelled || is_agents_name)) || is_account
            }
        }
    }
}

/// An account, or a right, or a policy about rights.
fn is_right(key: &ObjectKey) -> bool {
    matches!(key.group.as_str(), "rbac.authorization.k8s.io" | "admissionregistration.k8s.io")
        || (key.group.is_empty() && key.kind == "ServiceAccount")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Identity;

    fn key(group: &str, kind: &str, namespace: Option<&str>, name: &str) -> ObjectKey {
        ObjectKey::from(Identity {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
        })
    }

    #[test]
    fn every_object_that_installs_the_agent_is_its_own_and_no_other_is() {
        let own = Own { namespace: Some("system"), account: ("shop", "towpath-deployer") };
        let rbac = "rbac.authorization.k8s.io";
        for (key, is_labelled) in [
            (key("towpath.dev", "Environment", Some("shop"), "prod"), false),
            (key("apiextensions.k8s.io", "CustomResourceDefinition", None, "environments.towpath.dev"), false),
            (key("", "Namespace", None, "system"), false),
            (key("apps", "Deployment", Some("system"), "towpath"), false),
            (key("apps", "Deployment", Some("system"), "renamed"), true),
            (key("", "Secret", Some("system"), "towpath-token"), false),
            (key(rbac, "ClusterRole", None, "towpath"), false),
            (key(rbac, "ClusterRoleBinding", None, "renamed"), true),
            (key(rbac, "RoleBinding", Some("shop"), "towpath-deployer"), false),
            (key("", "ServiceAccount", Some("shop"), "towpath-deployer"), false),
        ] {
            assert!(own.has(&key, is_labelled), "{key}");
        }
        for (key, is_labelled) in [
            (key("", "Namespace", None, "shop"), true),
            (key("", "Namespace", None, "towpath-demo"), false),
            (key("apps", "Deployment", Some("shop"), "towpath"), true),
            (key("apps", "Deployment", Some("system"), "web"), false),
            (key("", "ConfigMap", Some("shop"), "towpath-deployer"), false),
            (key(rbac, "ClusterRole", None, "towpathology"), false),
            (key("", "ServiceAccount", Some("other"), "towpath-deployer"), false),
        ] {
            assert!(!own.has(&key, is_labelled), "{key}");
        }
    }
}
