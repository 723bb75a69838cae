//! Deployments. A Deployment that a rollout controller moves is not judged by its replicas, and not called paused
//! because that controller pauses it.

use serde_json::Value;

use super::ObjectHealth;
use super::kruise_rollout;
use super::reading::{condition, count, flag, number, true_condition};

/// What `progressDeadlineSeconds` says where there is no deadline: the controller then writes no `Progressing`.
const NO_DEADLINE: i64 = i32::MAX as i64;

pub(super) fn assess(deployment: &Value) -> ObjectHealth {
    if let Some(rollout) = kruise_rollout::moved_by(deployment) {
        let health = ObjectHealth::progressing(format!("Rollout {rollout} moves it; see there what is waited for"));
        return ObjectHealth { moved_by: Some(rollout.into()), ..health };
    }
    let wanted = number(deployment, "/spec/replicas").unwrap_or(1);
    let existing = count(deployment, "/status/replicas");
    let updated = count(deployment, "/status/updatedReplicas");
    let available = count(deployment, "/status/availableReplicas");
    let ready = count(deployment, "/status/readyReplicas");

    if flag(deployment, "/spec/paused") {
        return ObjectHealth::suspended(format!("paused, {available} of {wanted} replicas available"));
    }

    // Why pods could not even be created: a quota, a denying webhook. It may pass, so by itself it is no failure.
    let no_pods = true_condition(deployment, "ReplicaFailure").map(|failure| failure.says());
    let waits_for = |text: String| match &no_pods {
        Some(why) => ObjectHealth::progressing(format!("{text}, {why}")),
        None => ObjectHealth::progressing(text),
    };

    let progressing = condition(deployment, "Progressing");
    if let Some(progressing) = &progressing
        && progressing.reason() == "ProgressDeadlineExceeded"
    {
        let why = no_pods.unwrap_or_else(|| format!("{available} of {wanted} replicas available"));
        return ObjectHealth::degraded(format!("{}, {why}", progressing.says()));
    }
    let has_deadline =
        number(deployment, "/spec/progressDeadlineSeconds").is_some_and(|seconds| seconds != NO_DEADLINE);
    let is_rolled_out = !has_deadline
        || progressing.is_some_and(|progressing| {
            progressing.status() == "True" && progressing.reason() == "NewReplicaSetAvailable"
        });

    if existing < wanted {
        waits_for(format!("{existing} of {wanted} replicas exist"))
    } else if updated < wanted {
        waits_for(format!("{updated} of {wanted} replicas updated"))
    } else if existing > wanted {
        waits_for(format!("old replicas still to end: {}", existing - wanted))
    } else if available < updated {
        waits_for(format!("{available} of {updated} replicas available"))
    } else if ready < wanted {
        waits_for(format!("{ready} of {wanted} replicas ready"))
    } else if !is_rolled_out {
        waits_for("the new ReplicaSet is not available yet".to_owned())
    } else if true_condition(deployment, "Available").is_none() {
        waits_for("not available yet".to_owned())
    } else {
        ObjectHealth::healthy(format!("{available} of {wanted} replicas available"))
    }
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn one_without_a_deadline_needs_no_progress_condition() {
        check("deployment/deadline-absent", Healthy, "1 of 1 replicas available");
    }

    #[test]
    fn one_just_created_waits_for_replicas() {
        check("deployment/just-created", Progressing, "0 of 1 replicas exist");
        check("deployment/too-few", Progressing, "1 of 3 replicas exist");
    }

    #[test]
    fn every_step_of_a_rolling_update_is_waited_for() {
        check("deployment/old-replicas", Progressing, "old replicas still to end: 1");
        check("deployment/not-ready", Progressing, "2 of 3 replicas ready");
        check("deployment/replica-set-not-available", Progressing, "the new ReplicaSet is not available yet");
        check("deployment/condition-not-available", Progressing, "not available yet");
    }

    #[test]
    fn one_that_a_rollout_moves_is_not_called_paused() {
        check("deployment/under-kruise-rollout", Progressing, "Rollout web moves it; see there what is waited for");
    }
}
