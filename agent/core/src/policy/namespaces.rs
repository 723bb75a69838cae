//! Objects stay in the environment's own namespace, or in one listed in `spec.allow.namespaces`.

use crate::environment::Environment;
use crate::fault::Problem;
use crate::manifest::Manifest;

/// Refuses an object that names another namespace.
pub(super) fn judge(manifest: &Manifest, environment: &Environment, found: &mut Vec<Problem>) {
    let Some(namespace) = &manifest.key.namespace else { return };
    if *namespace == environment.namespace || environment.allowed_namespaces.contains(namespace) {
        return;
    }
    found.push(
        Problem::content(format!("{} is in namespace {namespace}, which this environment may not touch", manifest.key))
            .at(manifest.source.clone())
            .hint(format!(
                "leave metadata.namespace out to use {}; whoever owns the Environment can add {namespace} to spec.allow.namespaces",
                environment.namespace
            )),
    );
}
