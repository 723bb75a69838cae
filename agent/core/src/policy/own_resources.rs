//! Towpath never applies its own resources: what an agent may touch is said in the cluster, not in a repository.

use crate::fault::Problem;
use crate::manifest::Manifest;
use crate::names;

/// Refuses objects of our own group, and definitions of it.
pub(super) fn judge(manifest: &Manifest, found: &mut Vec<Problem>) {
    let defines_ours = manifest.key.kind == "CustomResourceDefinition" && manifest.key.name.ends_with(".towpath.dev");
    if manifest.key.group == names::GROUP || defines_ours {
        found.push(
            Problem::content(format!("{} is a resource of Towpath itself", manifest.key))
                .at(manifest.source.clone())
                .hint("apply it with kubectl: a deploy repository cannot say what its own agent may do"),
        );
    }
}
