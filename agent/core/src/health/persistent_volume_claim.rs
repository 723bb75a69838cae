//! PersistentVolumeClaims. A class may bind its claims only when the first pod uses them, and the claim does not say
//! whether it does, so an unbound claim is never a failure by itself.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::text;

pub(super) fn assess(claim: &Value) -> ObjectHealth {
    match text(claim, "/status/phase") {
        "Bound" => ObjectHealth::healthy("bound"),
        "Lost" => ObjectHealth::degraded(format!("its volume {} is lost", text(claim, "/spec/volumeName"))),
        _ => match text(claim, "/spec/storageClassName") {
            "" => ObjectHealth::progressing("waits for a volume, or for its first pod"),
            class => ObjectHealth::progressing(format!("waits for a volume of class {class}, or for its first pod")),
        },
    }
}
