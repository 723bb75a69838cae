//! How well releases go, by the records: the four figures of the DORA reports (<https://dora.dev/guides/dora-metrics/>),
//! and how long syncs take.

use jiff::Timestamp;
use serde::Serialize;

use super::{Fact, Record};
use crate::revision::CommitId;
use crate::status::{Outcome, Trigger};

/// The figures of one environment in one window of time. What there is nothing to say about is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Syncs that brought another revision.
    pub deployments: u32,
    /// The same for a day of the window.
    pub deployments_a_day: f64,
    /// Median seconds from the commit to its end as a sync. A rollback does not count.
    pub lead_time_seconds: Option<f64>,
    /// Deployments that failed or were degraded before the next one, as a part of all: 0 to 1.
    pub change_failure_rate: Option<f64>,
    /// Median seconds from a failure to the next time that it was healthy.
    pub time_to_restore_seconds: Option<f64>,
    /// Median milliseconds of a sync.
    pub sync_p50_ms: Option<f64>,
    /// Of twenty syncs nineteen took at most so many milliseconds.
    pub sync_p95_ms: Option<f64>,
}

/// The figures of `[from, to)`. `records` is the ledger from its beginning or from anywhere before, the oldest first.
pub fn figures<'a>(records: impl IntoIterator<Item = &'a Record>, from: Timestamp, to: Timestamp) -> Figures {
    let is_in = |at: Timestamp| from <= at && at < to;
    let mut runs: Option<CommitId> = None;
    let (mut leads, mut restores, mut durations) = (Vec::new(), Vec::new(), Vec::new());
    // Whether each deployment of the window failed, and since when the environment has been bad.
    let mut deployments: Vec<bool> = Vec::new();
    let mut is_deployment_in = false;
    let mut bad_since: Option<Timestamp> = None;
    for record in records {
        match &record.fact {
            Fact::Sync(fact) => {
                let is_bad = fact.sync.outcome == Outcome::Failed;
                if is_in(record.at) {
                    durations.push(fact.sync.took_ms as f64);
                }
                if fact.commit.is_some() && fact.commit != runs && fact.sync.outcome != Outcome::Overtaken {
                    runs = fact.commit;
                    is_deployment_in = is_in(record.at);
                    if is_deployment_in {
                        deployments.push(is_bad);
                        let lead = fact.committed_at.map(|committed| seconds(committed, record.at));
                        // What ran before is no change that somebody waited for.
                        let is_change = !is_bad && fact.sync.trigger != Trigger::Rollback;
                        leads.extend(lead.filter(|lead| *lead >= 0.0 && is_change));
                    }
                } else if is_bad {
                    fail(&mut deployments, is_deployment_in);
                }
                if is_bad {
                    bad_since.get_or_insert(record.at);
                }
            }
            Fact::Health(health) if health.is_healthy => {
                if let Some(since) = bad_since.take().filter(|_| is_in(record.at)) {
                    restores.push(seconds(since, record.at));
                }
            }
            Fact::Health(_) => {
                fail(&mut deployments, is_deployment_in);
                bad_since.get_or_insert(record.at);
            }
        }
    }
    let count = deployments.len();
    let failed = deployments.iter().filter(|failed| **failed).count();
    let days = seconds(from, to) / 86_400.0;
    Figures {
        deployments: count as u32,
        deployments_a_day: if days > 0.0 { count as f64 / days } else { 0.0 },
        lead_time_seconds: quantile(&mut leads, 0.5),
        change_failure_rate: (count > 0).then(|| failed as f64 / count as f64),
        time_to_restore_seconds: quantile(&mut restores, 0.5),
        sync_p50_ms: quantile(&mut durations, 0.5),
        sync_p95_ms: quantile(&mut durations, 0.95),
    }
}

/// The last deployment failed, if it is one of the window.
fn fail(deployments: &mut [bool], is_deployment_in: bool) {
    if let Some(last) = deployments.last_mut().filter(|_| is_deployment_in) {
        *last = true;
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// The value at a part of the sorted values: the nearest rank.
fn quantile(values: &mut [f64], part: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * part).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::super::tests::sync;
    use super::super::{HealthFact, Record};
    use super::*;

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 3600 * hour).unwrap()
    }

    fn synced(number: u8, at: i64, outcome: Outcome) -> Record {
        let mut record = Record { at: hour(at), ..sync(number) };
        let Fact::Sync(fact) = &mut record.fact else { unreachable!() };
        fact.sync.outcome = outcome;
        fact.committed_at = Some(hour(at - i64::from(number)));
        fact.sync.took_ms = i64::from(number) * 1000;
        record
    }

    fn health(is_healthy: bool, at: i64) -> Record {
        Record { at: hour(at), fact: Fact::Health(HealthFact { of: 1, is_healthy, message: None }), ..sync(1) }
    }

    #[test]
    fn nothing_recorded_says_nothing() {
        assert_eq!(figures([], hour(0), hour(24)), Figures::default());
    }

    #[test]
    fn a_week_is_summed_up() {
        let records = [
            synced(1, -10, Outcome::Applied),
            health(true, -9),
            synced(2, 1, Outcome::Applied),
            health(true, 2),
            // The same commit again is no deployment.
            synced(2, 3, Outcome::Applied),
            synced(3, 4, Outcome::Applied),
            health(false, 5),
            health(true, 8),
            synced(4, 10, Outcome::Failed),
            synced(5, 11, Outcome::Applied),
            health(true, 12),
            synced(6, 500, Outcome::Applied),
        ];
        let found = figures(&records, hour(0), hour(48));
        assert_eq!(found.deployments, 4);
        assert_eq!(found.deployments_a_day, 2.0);
        assert_eq!(found.change_failure_rate, Some(0.5));
        assert_eq!(found.time_to_restore_seconds, Some(2.0 * 3600.0));
        assert_eq!(found.lead_time_seconds, Some(3.0 * 3600.0));
        assert_eq!((found.sync_p50_ms, found.sync_p95_ms), (Some(3000.0), Some(5000.0)));
    }

    #[test]
    fn what_ran_before_has_no_lead_time() {
        let mut back = synced(2, 5, Outcome::Applied);
        let Fact::Sync(fact) = &mut back.fact else { unreachable!() };
        fact.sync.trigger = Trigger::Rollback;
        fact.commit = Some(CommitId::from_bytes([9; 20]));
        let found = figures(&[synced(1, 2, Outcome::Applied), back], hour(0), hour(24));
        assert_eq!((found.deployments, found.lead_time_seconds), (2, Some(3600.0)));
    }

    #[test]
    fn a_failure_before_the_window_is_no_failure_of_it() {
        let records = [synced(1, -10, Outcome::Applied), health(false, 1), synced(2, 2, Outcome::Applied)];
        assert_eq!(figures(&records, hour(0), hour(24)).change_failure_rate, Some(0.0));
    }
}
