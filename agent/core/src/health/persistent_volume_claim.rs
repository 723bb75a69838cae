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

#[cfg(test)]
mod tests {
    use crate::health::Health::{Degraded, Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn it_is_healthy_when_it_is_bound() {
        check("persistent-volume-claim-bound", Healthy, "bound");
    }

    #[test]
    fn one_that_waits_for_its_first_pod_has_not_failed() {
        check("persistent-volume-claim-pending", Progressing, "waits for a volume of class fast, or for its first pod");
        check("persistent-volume-claim-without-class", Progressing, "waits for a volume, or for its first pod");
    }

    #[test]
    fn one_whose_volume_is_gone_has_failed() {
        check("persistent-volume-claim-lost", Degraded, "its volume pv-7 is lost");
    }
}
