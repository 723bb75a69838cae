//! Fields that only the API server sets.

use serde_json::{Map, Value};

use crate::fault::Problem;
use crate::manifest::Manifest;

/// Naming one of these in git is a mistake that would change what an apply means.
const REFUSED: [&str; 8] = [
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Refuses `metadata` fields that the server sets.
pub(super) fn judge(manifest: &Manifest, found: &mut Vec<Problem>) {
    let Some(metadata) = manifest.body.get("metadata").and_then(Value::as_object) else { return };
    for field in REFUSED.iter().filter(|field| metadata.contains_key(**field)) {
        found.push(
            Problem::content(format!("metadata.{field} of {} is set by the API server", manifest.key))
                .at(manifest.source.clone())
                .hint("remove the field; `kubectl get -o yaml` prints more than a manifest should have"),
        );
    }
}

/// Drops what generators write and the server ignores: `status` and `metadata.creationTimestamp`.
pub(super) fn strip(body: &mut Map<String, Value>) {
    body.shift_remove("status");
    if let Some(Value::Object(metadata)) = body.get_mut("metadata") {
        metadata.shift_remove("creationTimestamp");
    }
}
