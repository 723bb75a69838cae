//! DaemonSets. The status of one that no controller has looked at yet says 0 of 0, so the generations have to be
//! there.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{count, number, text};

pub(super) fn assess(set: &Value) -> ObjectHealth {
    let has_generations =
        number(set, "/metadata/generation").is_some() && number(set, "/status/observedGeneration").is_some();
    let Some(wanted) = number(set, "/status/desiredNumberScheduled").filter(|_| has_generations) else {
        return ObjectHealth::progressing("its controller has not seen it yet");
    };
    let scheduled = count(set, "/status/currentNumberScheduled");
    let updated = count(set, "/status/updatedNumberScheduled");
    let available = count(set, "/status/numberAvailable");
    let ready = count(set, "/status/numberReady");
    // As with StatefulSets: somebody replaces the pods by hand.
    let updates_itself = text(set, "/spec/updateStrategy/type") != "OnDelete";

    if scheduled < wanted {
        ObjectHealth::progressing(format!("{scheduled} of {wanted} pods scheduled"))
    } else if updated < wanted && updates_itself {
        ObjectHealth::progressing(format!("{updated} of {wanted} pods updated"))
    } else if available < wanted {
        ObjectHealth::progressing(format!("{available} of {wanted} pods available"))
    } else if ready < wanted {
        ObjectHealth::progressing(format!("{ready} of {wanted} pods ready"))
    } else {
        ObjectHealth::healthy(format!("{available} of {wanted} pods available"))
    }
}

#[cfg(test)]
mod tests {
    use crate::health::Health::Progressing;
    use crate::health::tests::check;

    #[test]
    fn one_that_no_controller_has_seen_is_not_healthy_by_zeros() {
        check("daemon-set/without-observed-generation", Progressing, "its controller has not seen it yet");
        check("daemon-set/without-desired-number", Progressing, "its controller has not seen it yet");
    }

    #[test]
    fn pods_are_waited_for() {
        check("daemon-set/not-scheduled", Progressing, "1 of 2 pods scheduled");
        check("daemon-set/not-ready", Progressing, "1 of 2 pods ready");
    }
}
