//! Argo Rollouts (`argoproj.io/v1alpha1`), read in the order in which their own client reads them.
//!
//! A pause that ends by itself is progress. A pause that needs a person is `Suspended`.

use serde_json::Value;

use super::reading::{count, flag, joined, list, number, text, true_condition};
use super::{Health, ObjectHealth};

const WORKLOAD_GENERATION: &str = "/metadata/annotations/rollout.argoproj.io~1workload-generation";

pub(super) fn assess(rollout: &Value) -> ObjectHealth {
    // A text. One that is no number, or greater, counts as seen: earlier versions wrote a hash here.
    let observed = text(rollout, "/status/observedGeneration").parse::<i64>().ok();
    if observed.is_some_and(|observed| observed < count(rollout, "/metadata/generation")) {
        return ObjectHealth::progressing("its controller has not seen the last change yet");
    }
    if let Some(invalid) = true_condition(rollout, "InvalidSpec") {
        return ObjectHealth::degraded(invalid.says());
    }
    let pauses = list(rollout, "/status/pauseConditions");
    if flag(rollout, "/status/controllerPause") && pauses.is_empty() {
        return ObjectHealth::progressing(joined(&step(rollout), "was released from its pause"));
    }
    let has_workload = rollout.pointer("/spec/workloadRef").is_some();
    let workload = text(rollout, WORKLOAD_GENERATION).parse::<i64>().ok();
    let observed_workload = text(rollout, "/status/workloadObservedGeneration").parse::<i64>().ok();
    if has_workload && observed_workload < workload {
        return ObjectHealth::progressing("its controller has not seen the last change of the workload yet");
    }

    let message = text(rollout, "/status/message");
    if flag(rollout, "/status/abort") {
        let why = if message.is_empty() { "a revert in git ends this" } else { message };
        return ObjectHealth::degraded(format!("aborted: {why}"));
    }
    match text(rollout, "/status/phase") {
        "Healthy" => ObjectHealth::healthy(format!(
            "{} of {} replicas available",
            count(rollout, "/status/availableReplicas"),
            number(rollout, "/spec/replicas").unwrap_or(1)
        )),
        "Degraded" => ObjectHealth::degraded(joined(&step(rollout), message)),
        "Paused" => {
            let (health, why) = pause(rollout);
            ObjectHealth::new(health, joined(&step(rollout), &why))
        }
        "Progressing" => ObjectHealth::progressing(joined(&step(rollout), message)),
        _ => ObjectHealth::progressing("its controller has not seen it yet"),
    }
}

/// What to say of a Rollout beside the workload that it has its template from, both as they are now: that it has not seen
/// the last change of the workload yet, so what its status says, an abort included, is about the revision before. `None`
/// where it has, or does not say.
///
/// The annotation that [`assess`] compares with is written by the controller as well, so it is as old as the status.
pub(super) fn of_workload(rollout: &Value, workload: &Value) -> Option<ObjectHealth> {
    let generation = number(workload, "/metadata/generation")?;
    let observed = text(rollout, "/status/workloadObservedGeneration").parse::<i64>().ok()?;
    let (kind, name) = (text(rollout, "/spec/workloadRef/kind"), text(rollout, "/spec/workloadRef/name"));
    (observed < generation)
        .then(|| ObjectHealth::progressing(format!("its controller has not seen the last change of {kind} {name} yet")))
}

/// `step 2 of 5, weight 40`. Empty without steps: blue-green, or a canary without any.
fn step(rollout: &Value) -> String {
    let steps = list(rollout, "/spec/strategy/canary/steps");
    let Some(index) = number(rollout, "/status/currentStepIndex").filter(|_| !steps.is_empty()) else {
        return String::new();
    };
    let reached = usize::try_from(index).unwrap_or(0);
    if reached >= steps.len() {
        return format!("all {} steps done", steps.len());
    }
    // The measured weight is there only with traffic routing; without it the last one asked for is what holds.
    let asked_for = || steps[..=reached].iter().rev().find_map(|step| number(step, "/setWeight"));
    let weight = number(rollout, "/status/canary/weights/canary/weight").or_else(asked_for);
    let weight = weight.map(|weight| format!(", weight {weight}")).unwrap_or_default();
    format!("step {} of {}{weight}", reached + 1, steps.len())
}

/// What a pause waits for.
fn pause(rollout: &Value) -> (Health, String) {
    let reasons: Vec<&str> =
        list(rollout, "/status/pauseConditions").iter().map(|pause| text(pause, "/reason")).collect();
    let waits_for_a_person = |what: &str| (Health::Suspended, format!("{what}: waits for a person"));

    if reasons.iter().any(|reason| reason.starts_with("Inconclusive")) {
        return waits_for_a_person("analysis was inconclusive");
    }
    if reasons.contains(&"CanaryPauseStep") {
        let index = count(rollout, "/status/currentStepIndex");
        return match rollout.pointer(&format!("/spec/strategy/canary/steps/{index}/pause/duration")) {
            Some(Value::String(duration)) => (Health::Progressing, format!("pauses for {duration}")),
            Some(Value::Number(seconds)) => (Health::Progressing, format!("pauses for {seconds} s")),
            _ => waits_for_a_person("paused"),
        };
    }
    if reasons.contains(&"BlueGreenPause") {
        return match number(rollout, "/spec/strategy/blueGreen/autoPromotionSeconds") {
            Some(seconds) if seconds > 0 => (Health::Progressing, format!("promoted by itself after {seconds} s")),
            _ => waits_for_a_person("paused before promotion"),
        };
    }
    if flag(rollout, "/spec/paused") {
        return waits_for_a_person("paused by spec.paused");
    }
    waits_for_a_person(&joined("paused", text(rollout, "/status/message")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::of_workload;
    use crate::health::Health::{Degraded, Healthy, Progressing, Suspended};
    use crate::health::tests::{check, fixture};

    #[test]
    fn it_is_healthy_when_its_controller_says_so() {
        check("argo-rollout/healthy", Healthy, "5 of 5 replicas available");
    }

    #[test]
    fn a_change_that_the_controller_has_not_seen_is_waited_for() {
        check("argo-rollout/not-observed", Progressing, "its controller has not seen the last change yet");
        check("argo-rollout/without-status", Progressing, "its controller has not seen it yet");
    }

    #[test]
    fn an_observed_generation_that_is_no_number_counts_as_seen() {
        check("argo-rollout/observed-hash", Healthy, "1 of 1 replicas available");
    }

    #[test]
    fn a_change_of_its_workload_is_waited_for() {
        check(
            "argo-rollout/workload-not-observed",
            Progressing,
            "its controller has not seen the last change of the workload yet",
        );
    }

    #[test]
    fn what_it_says_of_an_older_workload_says_nothing_of_this_one() {
        let workload = |generation: i64| json!({"metadata": {"generation": generation}});
        let mut rollout = fixture("argo-rollout/aborted");
        assert_eq!(of_workload(&rollout, &workload(7)), None, "it has a template of its own");
        rollout["spec"]["workloadRef"] = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        rollout["status"]["workloadObservedGeneration"] = "6".into();
        assert_eq!(of_workload(&rollout, &workload(6)), None);
        let behind = of_workload(&rollout, &workload(7)).unwrap();
        assert_eq!(
            (behind.health, behind.message.as_str()),
            (Progressing, "its controller has not seen the last change of Deployment web yet")
        );
    }

    #[test]
    fn a_step_that_moves_is_progress() {
        check("argo-rollout/progressing", Progressing, "step 3 of 5, weight 60, more replicas need to be updated");
        check("argo-rollout/steps-done", Progressing, "all 2 steps done, old replicas are pending termination");
    }

    #[test]
    fn the_measured_weight_is_shown_where_there_is_one() {
        check("argo-rollout/measured-weight", Suspended, "step 2 of 2, weight 35, paused: waits for a person");
    }

    #[test]
    fn a_pause_without_end_waits_for_a_person() {
        check("argo-rollout/paused", Suspended, "step 2 of 5, weight 40, paused: waits for a person");
        check("argo-rollout/paused-by-spec", Suspended, "paused by spec.paused: waits for a person");
        check(
            "argo-rollout/inconclusive",
            Suspended,
            "step 2 of 3, weight 20, analysis was inconclusive: waits for a person",
        );
    }

    #[test]
    fn a_pause_that_ends_by_itself_is_progress() {
        check("argo-rollout/paused-for-a-time", Progressing, "step 2 of 3, weight 20, pauses for 10m");
        check("argo-rollout/paused-for-seconds", Progressing, "step 2 of 3, weight 20, pauses for 90 s");
        check("argo-rollout/unpausing", Progressing, "step 2 of 3, weight 20, was released from its pause");
    }

    #[test]
    fn a_blue_green_one_waits_for_its_promotion() {
        check("argo-rollout/blue-green-paused", Suspended, "paused before promotion: waits for a person");
        check("argo-rollout/blue-green-timed", Progressing, "promoted by itself after 30 s");
    }

    #[test]
    fn an_aborted_one_has_failed() {
        check("argo-rollout/aborted", Degraded, "aborted: RolloutAborted: Rollout aborted update to revision 2");
    }

    #[test]
    fn one_that_cannot_go_on_has_failed() {
        check(
            "argo-rollout/degraded",
            Degraded,
            "step 1 of 2, weight 20, ProgressDeadlineExceeded: ReplicaSet \"web-5f7\" has timed out progressing.",
        );
        check(
            "argo-rollout/invalid",
            Degraded,
            "InvalidSpec: The Rollout \"web\" is invalid: spec.selector: Required value",
        );
    }
}
