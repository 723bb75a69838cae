//! What holds for every kind, and all that holds for kinds without a file of their own: conditions and generations.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{condition, list, number, reason_and_message, text, true_condition};

/// What outweighs the rules of any kind: it is being deleted, its controller has not seen the last change, or says
/// itself that it is still at work or stuck.
pub(super) fn first_of_all(object: &Value) -> Option<ObjectHealth> {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        let finalizers: Vec<&str> = list(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
        return Some(ObjectHealth::progressing(match finalizers.as_slice() {
            [] => "being deleted".to_owned(),
            finalizers => format!("being deleted: waits for {}", finalizers.join(", ")),
        }));
    }
    let generations = (number(object, "/metadata/generation"), number(object, "/status/observedGeneration"));
    if let (Some(generation), Some(observed)) = generations
        && generation != observed
    {
        return Some(ObjectHealth::progressing("its controller has not seen the last change yet"));
    }
    if let Some(reconciling) = true_condition(object, "Reconciling") {
        return Some(ObjectHealth::progressing(reconciling.says()));
    }
    true_condition(object, "Stalled").map(|stalled| ObjectHealth::degraded(stalled.says()))
}

/// By the condition `Ready`. What has none has nothing to get ready: ConfigMaps, Secrets, roles.
pub(super) fn assess(object: &Value) -> ObjectHealth {
    match condition(object, "Ready") {
        None => ObjectHealth::healthy(text(object, "/status/phase")),
        Some(ready) if ready.status() == "True" => ObjectHealth::healthy(ready.says()),
        Some(ready) => ObjectHealth::progressing(reason_and_message("not ready", &ready.says())),
    }
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Degraded, Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn what_is_being_deleted_is_on_its_way() {
        check("generic-deleting", Progressing, "being deleted: waits for example.org/cleanup, foregroundDeletion");
        check("generic-deleting-freely", Progressing, "being deleted");
    }

    #[test]
    fn a_change_that_the_controller_has_not_seen_is_waited_for() {
        check("generic-generation-not-observed", Progressing, "its controller has not seen the last change yet");
    }

    #[test]
    fn a_controller_that_says_it_is_at_work_is_waited_for() {
        check("generic-reconciling", Progressing, "Provisioning: creating the database");
    }

    #[test]
    fn a_controller_that_says_it_is_stuck_has_failed() {
        check("generic-stalled", Degraded, "InvalidPlan: plan \"huge\" is not offered");
    }

    #[test]
    fn ready_decides_where_there_is_such_a_condition() {
        check("generic-ready", Healthy, "Issued: certificate is up to date");
        check("generic-not-ready", Progressing, "not ready: Pending: waits for the DNS record");
        check("generic-ready-unknown", Progressing, "not ready: Checking");
    }

    #[test]
    fn what_has_no_status_is_healthy() {
        check("config-map", Healthy, "");
        check("secret", Healthy, "");
        check("namespace-active", Healthy, "Active");
        check("ingress-without-address", Healthy, "");
    }

    #[test]
    fn a_disruption_budget_is_healthy_once_it_was_seen() {
        check("pod-disruption-budget", Healthy, "");
        check("pod-disruption-budget-not-observed", Progressing, "its controller has not seen the last change yet");
    }
}
