//! ReplicaSets that stand in git themselves.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{count, number, true_condition};

pub(super) fn assess(set: &Value) -> ObjectHealth {
    if let Some(failure) = true_condition(set, "ReplicaFailure") {
        return ObjectHealth::progressing(failure.says());
    }
    let wanted = number(set, "/spec/replicas").unwrap_or(1);
    let existing = count(set, "/status/replicas");
    let labeled = count(set, "/status/fullyLabeledReplicas");
    let available = count(set, "/status/availableReplicas");
    let ready = count(set, "/status/readyReplicas");

    if labeled < wanted {
        ObjectHealth::progressing(format!("{labeled} of {wanted} replicas have their labels"))
    } else if available < wanted {
        ObjectHealth::progressing(format!("{available} of {wanted} replicas available"))
    } else if ready < wanted {
        ObjectHealth::progressing(format!("{ready} of {wanted} replicas ready"))
    } else if existing > wanted {
        ObjectHealth::progressing(format!("replicas still to end: {}", existing - wanted))
    } else {
        ObjectHealth::healthy(format!("{available} of {wanted} replicas available"))
    }
}

#[cfg(test)]
mod tests {
    use crate::health::Health::Progressing;
    use crate::health::tests::check;

    #[test]
    fn replicas_are_waited_for() {
        check("replica-set/not-labeled", Progressing, "1 of 2 replicas have their labels");
        check("replica-set/not-ready", Progressing, "1 of 2 replicas ready");
        check("replica-set/too-many", Progressing, "replicas still to end: 1");
    }
}
