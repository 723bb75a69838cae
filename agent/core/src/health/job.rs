//! Jobs. A Job is a task: until it has completed, what comes after it has to wait.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{count, flag, number, text, true_condition};

pub(super) fn assess(job: &Value) -> ObjectHealth {
    let succeeded = count(job, "/status/succeeded");
    let wanted = number(job, "/spec/completions").unwrap_or(1);

    if true_condition(job, "Complete").is_some() {
        return ObjectHealth::healthy(format!("completed at {}", text(job, "/status/completionTime")));
    }
    if let Some(failed) = true_condition(job, "Failed") {
        return ObjectHealth::degraded(failed.says());
    }
    if flag(job, "/spec/suspend") {
        return ObjectHealth::suspended(format!("suspended, {succeeded} of {wanted} completed"));
    }
    if text(job, "/status/startTime").is_empty() {
        return ObjectHealth::progressing("not started yet");
    }
    let tries = match count(job, "/status/failed") {
        0 => String::new(),
        failed => format!(", failed pods: {failed}"),
    };
    ObjectHealth::progressing(format!("running, {succeeded} of {wanted} completed{tries}"))
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn one_that_was_just_made_is_waited_for() {
        check("job/not-started", Progressing, "not started yet");
    }

    #[test]
    fn one_suspended_after_it_completed_has_completed() {
        check("job/suspended-when-complete", Healthy, "completed at 2026-03-02T11:30:00Z");
    }
}
