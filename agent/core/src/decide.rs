//! What a pass comes to: is it done, is it watched on, must somebody act. Time is an argument.

use std::time::Duration;

use jiff::Timestamp;

use crate::fault::Fault;
use crate::health::Health;

/// How long the agent waits before it tries again what failed in passing, by the number of failures in a row.
pub fn back_off(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);
    FIRST.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST)
}

/// What is known at the end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The fault of what went wrong, if anything did.
    pub fault: Option<Fault>,
    /// Failures in passing in a row, this one included.
    pub failures: u32,
    /// A wave or hook of the sync is waited for, and until then at the most.
    pub waits_until: Option<Timestamp>,
    /// The worst health of the environment's objects.
    pub health: Health,
    /// When the last sync was applied, for as long as it has not been called done.
    pub rolling_since: Option<Timestamp>,
    /// How long a sync may take to become healthy.
    pub timeout: Duration,
    /// Now.
    pub now: Timestamp,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing until something changes.
    Settled,
    /// The sync is applied and becoming healthy. The pass ends; another looks when the cluster changes, and at `until`
    /// at the latest, when its time is over.
    KeepWatching {
        /// When the time of this sync is over.
        until: Timestamp,
    },
    /// The time of the sync is over and it is not healthy.
    TimedOut,
    /// Tried again at this time.
    Retry {
        /// When.
        at: Timestamp,
    },
    /// Nothing until a commit or a setting changes.
    WaitForChange,
}

/// How a sync stands, whatever else is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// Nothing is waited for.
    Done,
    /// It has time until then.
    Until(Timestamp),
    /// Its time is over, and it is not healthy.
    Late,
}

/// Whether a sync is in time. It has its time from when it was applied, also while git is away.
pub fn rollout(facts: &Facts) -> Rollout {
    let is_well = matches!(facts.health, Health::Healthy | Health::Suspended);
    let rolls_until = facts.rolling_since.filter(|_| !is_well).map(|since| since + facts.timeout);
    match facts.waits_until.or(rolls_until) {
        None => Rollout::Done,
        Some(until) if facts.now >= until => Rollout::Late,
        Some(until) => Rollout::Until(until),
    }
}

/// Decides.
pub fn decide(facts: &Facts) -> Decision {
    match facts.fault {
        Some(Fault::Content) => return Decision::WaitForChange,
        // What an operator mends (an account, a right, a credential) often sends no event: it is looked at again.
        Some(Fault::Setup | Fault::Passing) => {
            return Decision::Retry { at: facts.now + back_off(facts.failures) };
        }
        None => {}
    }
    match rollout(facts) {
        Rollout::Done => Decision::Settled,
        Rollout::Until(until) => Decision::KeepWatching { until },
        Rollout::Late => Decision::TimedOut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            fault: None,
            failures: 0,
            waits_until: None,
            health: Health::Healthy,
            rolling_since: Some(Timestamp::UNIX_EPOCH),
            timeout: Duration::from_secs(600),
            now: Timestamp::from_second(60).unwrap(),
        }
    }

    #[test]
    fn a_healthy_environment_is_settled() {
        assert_eq!(decide(&facts()), Decision::Settled);
    }

    #[test]
    fn a_rollout_under_way_is_watched_until_its_time_is_over() {
        let mut facts = Facts { health: Health::Progressing, ..facts() };
        assert_eq!(decide(&facts), Decision::KeepWatching { until: Timestamp::from_second(600).unwrap() });
        facts.now = Timestamp::from_second(600).unwrap();
        assert_eq!(decide(&facts), Decision::TimedOut);
    }

    #[test]
    fn a_sync_that_waits_is_watched_whatever_the_health_of_what_is_there() {
        let until = Timestamp::from_second(90).unwrap();
        let mut facts = Facts { waits_until: Some(until), rolling_since: None, ..facts() };
        assert_eq!(decide(&facts), Decision::KeepWatching { until });
        facts.now = until;
        assert_eq!(decide(&facts), Decision::TimedOut);
        facts.fault = Some(Fault::Content);
        assert_eq!(decide(&facts), Decision::WaitForChange);
    }

    #[test]
    fn a_release_is_late_also_while_something_else_is_tried_again() {
        let until = Timestamp::from_second(600).unwrap();
        let mut facts = Facts { health: Health::Degraded, fault: Some(Fault::Passing), failures: 1, ..facts() };
        assert_eq!(rollout(&facts), Rollout::Until(until));
        facts.now = until;
        assert_eq!(rollout(&facts), Rollout::Late);
        assert!(matches!(decide(&facts), Decision::Retry { .. }));
        assert_eq!(rollout(&Facts { health: Health::Healthy, ..facts }), Rollout::Done);
        assert_eq!(rollout(&Facts { rolling_since: None, ..facts }), Rollout::Done);
    }

    #[test]
    fn a_bad_commit_is_not_tried_again() {
        assert_eq!(decide(&Facts { fault: Some(Fault::Content), ..facts() }), Decision::WaitForChange);
    }

    #[test]
    fn what_failed_in_passing_is_tried_again_ever_more_slowly() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 40].map(|failures| back_off(failures).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60]);
        let facts = Facts { fault: Some(Fault::Passing), failures: 2, ..facts() };
        assert_eq!(decide(&facts), Decision::Retry { at: Timestamp::from_second(62).unwrap() });
    }
}
