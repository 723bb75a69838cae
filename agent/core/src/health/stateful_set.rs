//! StatefulSets, with partitions.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{count, number, text};

pub(super) fn assess(set: &Value) -> ObjectHealth {
    let wanted = number(set, "/spec/replicas").unwrap_or(1);
    let existing = count(set, "/status/replicas");
    let ready = count(set, "/status/readyReplicas");
    let updated = count(set, "/status/updatedReplicas");
    let current = count(set, "/status/currentReplicas");

    // Whoever chose this strategy replaces the pods by hand, so there is nothing that would come by itself.
    if text(set, "/spec/updateStrategy/type") == "OnDelete" {
        return ObjectHealth::healthy(format!("{ready} of {wanted} replicas ready, updated as they are deleted"));
    }
    if existing < wanted {
        return ObjectHealth::progressing(format!("{existing} of {wanted} replicas exist"));
    }
    if ready < wanted {
        return ObjectHealth::progressing(format!("{ready} of {wanted} replicas ready"));
    }
    if existing > wanted {
        return ObjectHealth::progressing(format!("replicas still to end: {}", existing - wanted));
    }
    if let Some(partition) = number(set, "/spec/updateStrategy/rollingUpdate/partition") {
        let to_update = (wanted - partition).max(0);
        return if updated < to_update {
            ObjectHealth::progressing(format!("{updated} of {to_update} replicas updated"))
        } else if partition > 0 {
            ObjectHealth::healthy(format!(
                "{ready} of {wanted} replicas ready, {updated} updated (partition {partition})"
            ))
        } else {
            ObjectHealth::healthy(format!("{ready} of {wanted} replicas ready"))
        };
    }
    if current < wanted {
        return ObjectHealth::progressing(format!("{current} of {wanted} replicas at the current revision"));
    }
    if text(set, "/status/currentRevision") != text(set, "/status/updateRevision") {
        return ObjectHealth::progressing("waits for the new revision to become the current one");
    }
    ObjectHealth::healthy(format!("{ready} of {wanted} replicas ready"))
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn it_is_healthy_when_all_replicas_are_ready_at_one_revision() {
        check("stateful-set/without-partition", Healthy, "3 of 3 replicas ready");
    }

    #[test]
    fn replicas_are_waited_for() {
        check("stateful-set/not-ready", Progressing, "2 of 3 replicas ready");
        check("stateful-set/too-many", Progressing, "replicas still to end: 2");
    }

    #[test]
    fn an_update_is_waited_for() {
        check("stateful-set/updating", Progressing, "1 of 3 replicas updated");
        check("stateful-set/not-current", Progressing, "2 of 3 replicas at the current revision");
        check("stateful-set/two-revisions", Progressing, "waits for the new revision to become the current one");
    }
}
