//! CronJobs. Whether the last run went well is a matter of its Job, not of the rollout.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{flag, text};

pub(super) fn assess(cron_job: &Value) -> ObjectHealth {
    if flag(cron_job, "/spec/suspend") {
        return ObjectHealth::suspended("suspended");
    }
    ObjectHealth::healthy(match text(cron_job, "/status/lastScheduleTime") {
        "" => "not run yet".to_owned(),
        time => format!("last run at {time}"),
    })
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Healthy, Suspended};
    use crate::health::tests::check;

    #[test]
    fn it_is_always_healthy() {
        check("cron-job", Healthy, "last run at 2026-03-02T03:00:00Z");
        check("cron-job-never-run", Healthy, "not run yet");
    }

    #[test]
    fn a_suspended_one_waits_for_a_person() {
        check("cron-job-suspended", Suspended, "suspended");
    }
}
