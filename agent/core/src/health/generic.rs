//! What holds for every kind, and all that holds for kinds without a file of their own: generations, and the conditions
//! that most controllers write.
//!
//! kstatus reads `Reconciling`, `Stalled` and `Ready`. Beyond it stand here the conventions that are as common:
//! `Available`, `Failed` and `Degraded`, the `Synced` of Crossplane, the `Programmed` and `Accepted` of the Gateway API,
//! generations in a condition, and what pauses.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{Condition, condition, flag, list, number, reason_and_message, text, true_condition};

/// Said where the generations differ.
const NOT_OBSERVED: &str = "its controller has not seen the last change yet";

/// The condition that decides, the first of these that an object has.
const DECIDING: [&str; 8] =
    ["Ready", "Available", "Healthy", "Succeeded", "Programmed", "Accepted", "Synced", "Reconciled"];

/// Conditions that say a failure when they are true.
const FAILURES: [&str; 2] = ["Failed", "Degraded"];

/// What is being deleted, and whom that waits for.
pub(super) fn being_deleted(object: &Value) -> Option<ObjectHealth> {
    object.pointer("/metadata/deletionTimestamp")?;
    let finalizers: Vec<&str> = list(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
    Some(ObjectHealth::progressing(match finalizers.as_slice() {
        [] => "being deleted".to_owned(),
        finalizers => format!("being deleted: waits for {}", finalizers.join(", ")),
    }))
}

/// Its controller has not seen the last change.
pub(super) fn not_observed(object: &Value) -> Option<ObjectHealth> {
    let generation = number(object, "/metadata/generation")?;
    let observed = number(object, "/status/observedGeneration")?;
    (generation != observed).then(|| ObjectHealth::progressing(NOT_OBSERVED))
}

/// What outweighs the rules of a kind: its controller has not seen the last change, or says itself that it is still at
/// work or stuck.
pub(super) fn at_work(object: &Value) -> Option<ObjectHealth> {
    let said = || {
        if let Some(reconciling) = true_condition(object, "Reconciling") {
            return Some(ObjectHealth::progressing(reconciling.says()));
        }
        true_condition(object, "Stalled").map(|stalled| ObjectHealth::degraded(stalled.says()))
    };
    not_observed(object).or_else(said)
}

/// By conditions. What has none has nothing to get ready: ConfigMaps, Secrets, roles.
pub(super) fn assess(object: &Value) -> ObjectHealth {
    // A controller that is told to leave an object alone does not observe its changes either.
    if flag(object, "/spec/suspend") {
        return ObjectHealth::suspended("suspended by spec.suspend");
    }
    if let Some(paused) = true_condition(object, "Paused") {
        return ObjectHealth::suspended(reason_and_message("paused", &paused.says()));
    }
    if let Some(at_work) = at_work(object) {
        return at_work;
    }
    let synced = condition(object, "Synced").filter(|synced| synced.status() == "False");
    match synced.as_ref().map(Condition::reason) {
        Some("ReconcilePaused") => return ObjectHealth::suspended("ReconcilePaused"),
        Some(_) => return ObjectHealth::degraded(synced.map(|synced| synced.says()).unwrap_or_default()),
        None => {}
    }
    if let Some(failure) = FAILURES.into_iter().find_map(|kind| true_condition(object, kind)) {
        return ObjectHealth::degraded(failure.says());
    }
    // Where all three of these are written, `Progressing` ends with the work; else it may stay for ever, as in a
    // Deployment.
    let ends = condition(object, "Available").is_some() && condition(object, "Degraded").is_some();
    if let Some(progressing) = true_condition(object, "Progressing").filter(|_| ends) {
        return ObjectHealth::progressing(progressing.says());
    }
    match DECIDING.into_iter().find_map(|kind| Some((kind, condition(object, kind)?))) {
        Some((kind, deciding)) => by_condition(object, kind, &deciding),
        None => by_phase(object),
    }
}

fn by_condition(object: &Value, kind: &str, deciding: &Condition<'_>) -> ObjectHealth {
    let generation = number(object, "/metadata/generation");
    if deciding.observed_generation().is_some_and(|observed| generation.is_some_and(|now| observed < now)) {
        return ObjectHealth::progressing(NOT_OBSERVED);
    }
    let not = || reason_and_message(&format!("not {}", kind.to_ascii_lowercase()), &deciding.says());
    match (deciding.status(), kind) {
        ("True", _) => ObjectHealth::healthy(deciding.says()),
        // A run that ended; while it runs this condition is Unknown.
        ("False", "Succeeded") => ObjectHealth::degraded(deciding.says()),
        _ => ObjectHealth::progressing(not()),
    }
}

/// Without a condition only what is plainly a failure or a beginning counts: phases are words of each kind's own.
fn by_phase(object: &Value) -> ObjectHealth {
    let phase = text(object, "/status/phase");
    let said = reason_and_message(phase, text(object, "/status/message"));
    match phase {
        "Failed" | "Error" => ObjectHealth::degraded(said),
        "Pending" | "Creating" | "Provisioning" => ObjectHealth::progressing(said),
        _ => ObjectHealth::healthy(phase),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::health::Health::{self, Degraded, Healthy, Progressing, Suspended};
    use crate::health::tests::check;

    #[test]
    fn what_is_being_deleted_is_on_its_way() {
        check(
            "custom-resource/deleting",
            Progressing,
            "being deleted: waits for example.org/cleanup, foregroundDeletion",
        );
        check("custom-resource/deleting-freely", Progressing, "being deleted");
    }

    #[test]
    fn a_controller_that_says_it_is_at_work_is_waited_for() {
        check("custom-resource/reconciling", Progressing, "Provisioning: creating the database");
        check("custom-resource/ready-unknown", Progressing, "not ready: Checking");
    }

    #[test]
    fn a_controller_that_says_it_is_stuck_has_failed() {
        check("custom-resource/stalled", Degraded, "InvalidPlan: plan \"huge\" is not offered");
    }

    #[test]
    fn a_certificate_of_cert_manager() {
        check(
            "operators/cert-manager-certificate-ready",
            Healthy,
            "Ready: Certificate is up to date and has not expired",
        );
        check(
            "operators/cert-manager-certificate-issuing",
            Progressing,
            "not ready: DoesNotExist: Issuing certificate as Secret does not exist",
        );
        check(
            "operators/cert-manager-certificate-changed",
            Progressing,
            "its controller has not seen the last change yet",
        );
    }

    #[test]
    fn objects_of_flux() {
        check(
            "operators/flux-helm-release-ready",
            Healthy,
            "InstallSucceeded: Helm install succeeded for release web/web.v1 with chart web@1.2.3",
        );
        check(
            "operators/flux-helm-release-installing",
            Progressing,
            "Progressing: Running 'install' action with timeout of 5m0s",
        );
        check("operators/flux-helm-release-stalled", Degraded, "RetriesExceeded: Failed to install after 3 attempt(s)");
        check("operators/flux-kustomization-suspended", Suspended, "suspended by spec.suspend");
    }

    #[test]
    fn managed_resources_of_crossplane() {
        check("operators/crossplane-bucket-ready", Healthy, "Available");
        check("operators/crossplane-bucket-creating", Progressing, "not ready: Creating");
        check(
            "operators/crossplane-bucket-not-synced",
            Degraded,
            "ReconcileError: observe failed: cannot get bucket: AccessDenied",
        );
        check("operators/crossplane-bucket-paused", Suspended, "ReconcilePaused");
    }

    #[test]
    fn a_cluster_of_cloud_native_pg() {
        check("operators/cloud-native-pg-cluster-ready", Healthy, "ClusterIsReady: Cluster is Ready");
        check(
            "operators/cloud-native-pg-cluster-setting-up",
            Progressing,
            "not ready: ClusterIsNotReady: Cluster Is Not Ready",
        );
    }

    #[test]
    fn a_gateway_and_a_run_of_tekton() {
        check("operators/gateway-not-programmed", Progressing, "not programmed: AddressNotAssigned: no addresses");
        check("operators/tekton-run-running", Progressing, "not succeeded: Running: Tasks Completed: 1, Incomplete: 1");
        check("operators/tekton-run-failed", Degraded, "Failed: Tasks Completed: 1 (Failed: 1), Skipped: 1");
    }

    #[test]
    fn an_operator_with_available_progressing_and_degraded() {
        check("operators/prometheus-degraded", Progressing, "not available: SomePodsNotReady: shard 0: 1 of 2 pods");
        check("operators/cluster-operator-progressing", Progressing, "RolloutInProgress: 1 of 3 nodes updated");
        check("operators/cluster-operator-degraded", Degraded, "QuorumLost: 1 of 3 members answer");
    }

    fn said(status: Value) -> (Health, String) {
        let object =
            json!({"apiVersion": "example.org/v1", "kind": "A", "metadata": {"generation": 2}, "status": status});
        let found = crate::health::assess(
            &object,
            &crate::health::HealthRules::default(),
            crate::health::tests::NOW.parse().unwrap(),
        );
        (found.health, found.message)
    }

    #[test]
    fn a_failure_outweighs_ready() {
        let conditions = json!([
            {"type": "Ready", "status": "True"},
            {"type": "Failed", "status": "True", "reason": "DiskLost"},
        ]);
        assert_eq!(said(json!({"conditions": conditions})), (Degraded, "DiskLost".into()));
    }

    #[test]
    fn a_condition_that_is_as_new_as_the_object_counts() {
        let ready =
            |generation| json!({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": generation}]});
        assert_eq!(said(ready(1)).0, Progressing);
        assert_eq!(said(ready(2)).0, Healthy);
    }

    #[test]
    fn one_that_only_goes_on_progressing_like_a_deployment_is_healthy() {
        let conditions = json!([
            {"type": "Available", "status": "True"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
        ]);
        assert_eq!(said(json!({"conditions": conditions})).0, Healthy);
    }

    #[test]
    fn without_conditions_only_a_plain_phase_counts() {
        assert_eq!(said(json!({"phase": "Failed", "message": "no space"})), (Degraded, "Failed: no space".into()));
        assert_eq!(said(json!({"phase": "Pending"})), (Progressing, "Pending".into()));
        assert_eq!(said(json!({"phase": "Bound"})), (Healthy, "Bound".into()));
    }
}
