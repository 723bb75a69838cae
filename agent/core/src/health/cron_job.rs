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
