//! The order in which kinds are applied.

use crate::manifest::ObjectKey;

/// The order of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Namespaces.
    Namespaces,
    /// CustomResourceDefinitions; the next stage waits until they are established.
    Definitions,
    /// Accounts, rights and configuration: what workloads read when they start.
    Foundations,
    /// Bindings of roles: the API server refuses one whose role is not there.
    Bindings,
    /// Workloads and everything else.
    Workloads,
    /// Admission webhooks and APIServices: what could refuse the objects before them.
    Gates,
}

/// Where a kind stands in the order.
pub fn stage_of(key: &ObjectKey) -> Stage {
    match (key.group.as_str(), key.kind.as_str()) {
        ("", "Namespace") => Stage::Namespaces,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Stage::Definitions,
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => Stage::Gates,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => Stage::Bindings,
        ("rbac.authorization.k8s.io" | "storage.k8s.io" | "scheduling.k8s.io", _)
        | (
            "",
            "ConfigMap"
            | "LimitRange"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "ResourceQuota"
            | "Secret"
            | "Service"
            | "ServiceAccount",
        ) => Stage::Foundations,
        _ => Stage::Workloads,
    }
}
