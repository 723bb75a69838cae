//! OpenKruise Rollouts (`rollouts.kruise.io`, v1beta1 and v1alpha1, canary and blue-green).
//!
//! The Rollout speaks for its workload: while it moves one, it forces the workload's `paused` and its strategy, so the
//! workload's own status says nothing.

use serde_json::Value;

use super::reading::{condition, count, false_condition, flag, list, number, text};
use super::{Health, ObjectHealth};

/// Set on the workload while a Rollout moves it: `{"rolloutName": "web"}`.
const IN_PROGRESSING: &str = "/metadata/annotations/rollouts.kruise.io~1in-progressing";

/// The name of the OpenKruise Rollout that moves a workload at the moment. Where that Rollout is known too, its health
/// is the one that counts: it alone knows whether a person is waited for.
pub fn moved_by(workload: &Value) -> Option<String> {
    let annotation = workload.pointer(IN_PROGRESSING)?.as_str()?;
    let state: Value = serde_json::from_str(annotation).unwrap_or_default();
    Some(text(&state, "/rolloutName").to_owned())
}

/// What to say of a Rollout beside its workload, both as they are now: that it has not seen the last change of the
/// workload yet, so what its status says is about the revision before. `None` where it has, or does not say.
///
/// The controller keeps `observedWorkloadGeneration` at the workload's generation whenever it has looked.
pub(super) fn of_workload(rollout: &Value, workload: &Value) -> Option<ObjectHealth> {
    let generation = number(workload, "/metadata/generation")?;
    let status = ["/status/canaryStatus", "/status/blueGreenStatus"].iter().find_map(|path| rollout.pointer(path))?;
    let observed = number(status, "/observedWorkloadGeneration")?;
    let kind_and_name = workload_of(rollout);
    (observed < generation)
        .then(|| ObjectHealth::progressing(format!("has not seen the last change of {kind_and_name}")))
}

/// `apiVersion`, `kind` and name of the workload that a Rollout moves, or has its template from.
pub fn target_of(rollout: &Value) -> Option<(&str, &str, &str)> {
    let target = reference(rollout)?;
    Some((text(target, "/apiVersion"), text(target, "/kind"), text(target, "/name")))
}

pub(super) fn assess(rollout: &Value) -> ObjectHealth {
    let message = text(rollout, "/status/message");
    match text(rollout, "/status/phase") {
        "Healthy" if false_condition(rollout, "Succeeded").is_some() => {
            ObjectHealth::healthy("the last rollout was cancelled: the stable revision runs")
        }
        "Healthy" => ObjectHealth::healthy("the last rollout is done"),
        "Progressing" => progressing(rollout),
        "Disabled" => ObjectHealth::suspended("disabled: its workload moves without steps"),
        "Disabling" => ObjectHealth::progressing("being disabled"),
        "Terminating" => ObjectHealth::progressing("being deleted"),
        "Initial" if !message.is_empty() => ObjectHealth::progressing(message),
        _ => ObjectHealth::progressing(format!("waits for its workload {}", workload_of(rollout))),
    }
}

fn progressing(rollout: &Value) -> ObjectHealth {
    let reason = condition(rollout, "Progressing").map(|progressing| progressing.reason()).unwrap_or_default();
    match reason {
        "Cancelling" => return ObjectHealth::progressing("being cancelled: goes back to the stable revision"),
        "Finalising" | "Completed" => return ObjectHealth::progressing("all steps done: cleans up"),
        "Initializing" => return ObjectHealth::progressing("prepares its first step"),
        _ => {}
    }
    let Some(step) = Step::of(rollout) else { return ObjectHealth::progressing("prepares its first step") };
    if flag(rollout, "/spec/strategy/paused") || reason == "Paused" {
        return ObjectHealth::suspended(format!("{step}, paused by spec.strategy.paused: waits for a person"));
    }
    let (health, what) = match (step.state, step.pause_seconds) {
        ("StepPaused", None) if step.is_the_whole => (Health::Progressing, "finishes".to_owned()),
        ("StepPaused", None) => (Health::Suspended, "paused: waits for a person".to_owned()),
        ("StepPaused", Some(seconds)) => (Health::Progressing, format!("pauses for {seconds} s")),
        ("BeforeStepUpgrade" | "StepUpgrade", _) => {
            (Health::Progressing, format!("{} of {} new replicas ready", step.ready, step.updated))
        }
        ("StepTrafficRouting", _) => (Health::Progressing, "moves traffic".to_owned()),
        ("StepMetricsAnalysis", _) => (Health::Progressing, "analyses".to_owned()),
        ("StepReady", _) => (Health::Progressing, "done, goes on".to_owned()),
        ("Completed", _) => (Health::Progressing, "last step done".to_owned()),
        (other, _) => (Health::Progressing, other.to_owned()),
    };
    ObjectHealth::new(health, format!("{step}, {what}"))
}

/// Where a Rollout has got to.
struct Step<'a> {
    /// From 1.
    index: i64,
    /// How many there are.
    of: usize,
    /// How far this step goes: `20%`, `1`.
    replicas: String,
    /// How much traffic it moves.
    traffic: String,
    /// `StepUpgrade`, `StepPaused`.
    state: &'a str,
    /// How long its pause is. `None` waits for a person.
    pause_seconds: Option<i64>,
    /// Whether it is the last one and replaces all replicas: that one never waits.
    is_the_whole: bool,
    /// New replicas.
    updated: i64,
    /// New replicas that are ready.
    ready: i64,
}

impl<'a> Step<'a> {
    /// `None` before the first one.
    fn of(rollout: &'a Value) -> Option<Step<'a>> {
        let (style, status, replicas) = if rollout.pointer("/spec/strategy/blueGreen").is_some() {
            ("blueGreen", "blueGreenStatus", "updated")
        } else {
            ("canary", "canaryStatus", "canary")
        };
        let steps = list(rollout, &format!("/spec/strategy/{style}/steps"));
        let status = rollout.pointer(&format!("/status/{status}"))?;
        let index = number(status, "/currentStepIndex").filter(|index| *index > 0)?;
        let step = steps.get(usize::try_from(index - 1).ok()?)?;
        // v1alpha1 knows a `weight` in percent, which stands for the replicas too where there are none.
        let weight = number(step, "/weight").map(|weight| format!("{weight}%")).unwrap_or_default();
        let or_weight = |text: String| if text.is_empty() { weight.clone() } else { text };
        let step_replicas = or_weight(amount(step, "/replicas"));
        Some(Step {
            index,
            of: steps.len(),
            state: text(status, "/currentStepState"),
            pause_seconds: number(step, "/pause/duration"),
            is_the_whole: usize::try_from(index).is_ok_and(|index| index == steps.len()) && step_replicas == "100%",
            replicas: step_replicas,
            traffic: or_weight(amount(step, "/traffic")),
            updated: count(status, &format!("/{replicas}Replicas")),
            ready: count(status, &format!("/{replicas}ReadyReplicas")),
        })
    }
}

impl std::fmt::Display for Step<'_> {
    /// `step 2 of 5, replicas 40%, traffic 20%`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {} of {}", self.index, self.of)?;
        if !self.replicas.is_empty() {
            write!(f, ", replicas {}", self.replicas)?;
        }
        if !self.traffic.is_empty() {
            write!(f, ", traffic {}", self.traffic)?;
        }
        Ok(())
    }
}

/// A number or a percentage, as text.
fn amount(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// `Deployment web`.
fn workload_of(rollout: &Value) -> String {
    reference(rollout).map(|target| format!("{} {}", text(target, "/kind"), text(target, "/name"))).unwrap_or_default()
}

fn reference(rollout: &Value) -> Option<&Value> {
    ["/spec/workloadRef", "/spec/objectRef/workloadRef"].iter().find_map(|path| rollout.pointer(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{moved_by, of_workload, target_of};
    use crate::health::Health::{Healthy, Progressing, Suspended};
    use crate::health::tests::{check, fixture};

    #[test]
    fn it_is_healthy_when_it_has_nothing_to_do() {
        check("kruise-rollout/healthy", Healthy, "the last rollout is done");
        check("kruise-rollout/cancelled", Healthy, "the last rollout was cancelled: the stable revision runs");
    }

    #[test]
    fn a_workload_that_is_not_there_is_waited_for() {
        check("kruise-rollout/initial", Progressing, "Workload Not Found");
        check("kruise-rollout/without-status", Progressing, "waits for its workload Deployment web");
        check("kruise-rollout/v1alpha1-without-status", Progressing, "waits for its workload Deployment web");
    }

    #[test]
    fn a_step_that_moves_is_progress() {
        check("kruise-rollout/initializing", Progressing, "prepares its first step");
        check(
            "kruise-rollout/upgrading",
            Progressing,
            "step 1 of 3, replicas 20%, traffic 20%, 0 of 1 new replicas ready",
        );
        check("kruise-rollout/routing", Progressing, "step 1 of 3, replicas 20%, traffic 20%, moves traffic");
        check("kruise-rollout/step-ready", Progressing, "step 1 of 3, replicas 20%, traffic 20%, done, goes on");
        check("kruise-rollout/finalising", Progressing, "all steps done: cleans up");
    }

    #[test]
    fn a_pause_without_end_waits_for_a_person() {
        check("kruise-rollout/paused", Suspended, "step 1 of 3, replicas 20%, traffic 20%, paused: waits for a person");
        check(
            "kruise-rollout/v1alpha1-paused",
            Suspended,
            "step 1 of 2, replicas 20%, traffic 20%, paused: waits for a person",
        );
        check(
            "kruise-rollout/blue-green-paused",
            Suspended,
            "step 1 of 2, replicas 100%, traffic 0%, paused: waits for a person",
        );
    }

    #[test]
    fn a_pause_that_ends_by_itself_is_progress() {
        check("kruise-rollout/paused-for-a-time", Progressing, "step 2 of 3, replicas 2, pauses for 60 s");
    }

    #[test]
    fn the_last_step_never_waits_when_it_replaces_everything() {
        check("kruise-rollout/last-step", Progressing, "step 3 of 3, replicas 100%, finishes");
    }

    #[test]
    fn one_that_is_paused_as_a_whole_waits_for_a_person() {
        check(
            "kruise-rollout/paused-by-spec",
            Suspended,
            "step 1 of 3, replicas 20%, traffic 20%, paused by spec.strategy.paused: waits for a person",
        );
    }

    #[test]
    fn a_cancelled_one_goes_back() {
        check("kruise-rollout/cancelling", Progressing, "being cancelled: goes back to the stable revision");
    }

    #[test]
    fn a_disabled_one_is_suspended() {
        check("kruise-rollout/disabled", Suspended, "disabled: its workload moves without steps");
        check("kruise-rollout/disabling", Progressing, "being disabled");
    }

    #[test]
    fn one_that_ends_is_waited_for() {
        check("kruise-rollout/terminating", Progressing, "being deleted");
    }

    #[test]
    fn one_that_has_not_seen_the_last_change_of_its_workload_is_not_done() {
        let mut rollout = fixture("kruise-rollout/healthy");
        let workload = |generation: i64| json!({"metadata": {"generation": generation}});
        assert_eq!(of_workload(&rollout, &workload(7)), None, "a controller of this age does not say");
        rollout["status"]["canaryStatus"]["observedWorkloadGeneration"] = 7.into();
        assert_eq!(of_workload(&rollout, &workload(7)), None);
        let behind = of_workload(&rollout, &workload(8)).unwrap();
        assert_eq!(
            (behind.health, behind.message.as_str()),
            (Progressing, "has not seen the last change of Deployment web")
        );
        let mut blue_green = fixture("kruise-rollout/blue-green-paused");
        blue_green["status"]["blueGreenStatus"]["observedWorkloadGeneration"] = 7.into();
        assert!(of_workload(&blue_green, &workload(8)).is_some());
        assert_eq!(target_of(&rollout), Some(("apps/v1", "Deployment", "web")));
    }

    #[test]
    fn a_workload_that_is_moved_says_who_speaks_for_it() {
        let found = crate::health::assess(
            &fixture("deployment/under-kruise-rollout"),
            &crate::health::HealthRules::default(),
            crate::health::tests::NOW.parse().unwrap(),
        );
        assert_eq!(found.moved_by.as_deref(), Some("web"));
    }

    #[test]
    fn a_workload_names_the_rollout_that_moves_it() {
        let workload = |mark: &str| json!({"metadata": {"annotations": {"rollouts.kruise.io/in-progressing": mark}}});
        assert_eq!(moved_by(&workload(r#"{"rolloutName":"web"}"#)), Some("web".to_owned()));
        assert_eq!(moved_by(&workload("not JSON")), Some(String::new()));
        assert_eq!(moved_by(&json!({"metadata": {"annotations": {}}})), None);
    }
}
