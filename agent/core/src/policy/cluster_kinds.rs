//! Cluster-scoped kinds must be listed in `spec.allow.clusterKinds`.

use crate::environment::Environment;
use crate::fault::Problem;
use crate::manifest::Manifest;

/// Refuses a cluster-scoped object whose kind is not listed, as `Kind` for the core group or as `Kind.group`.
pub(super) fn judge(manifest: &Manifest, environment: &Environment, found: &mut Vec<Problem>) {
    let kind = &manifest.key.kind;
    let full = if manifest.key.group.is_empty() { kind.clone() } else { format!("{kind}.{}", manifest.key.group) };
    if environment.allowed_cluster_kinds.contains(&full) {
        return;
    }
    found.push(
        Problem::content(format!("{} is cluster-scoped, and this environment may not have any {full}", manifest.key))
            .at(manifest.source.clone())
            .hint(format!("whoever owns the Environment can add {full} to spec.allow.clusterKinds")),
    );
}
