//! Everything of Knative (`*.knative.dev`): its conditions have three values on purpose. `Unknown` is on its way,
//! `False` has failed and waits for a change (knative.dev, "Knative API specification", error signalling).

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{condition, reason_and_message};

pub(super) fn assess(object: &Value) -> ObjectHealth {
    match condition(object, "Ready") {
        Some(ready) if ready.status() == "True" => ObjectHealth::healthy(ready.says()),
        Some(ready) if ready.status() == "False" => ObjectHealth::degraded(ready.says()),
        Some(ready) => ObjectHealth::progressing(reason_and_message("not ready", &ready.says())),
        None => ObjectHealth::progressing("its controller has not seen it yet"),
    }
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Degraded, Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn false_is_a_failure_and_unknown_is_not() {
        check("knative/service-ready", Healthy, "");
        check(
            "knative/service-failed",
            Degraded,
            "RevisionMissing: Configuration \"hello\" does not have any ready Revision",
        );
        check("knative/service-deploying", Progressing, "not ready: RevisionMissing");
        check("knative/service-just-created", Progressing, "its controller has not seen it yet");
    }
}
