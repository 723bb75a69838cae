//! Whether the release that an environment has is no good, so that it should go back.

use crate::environment::{RollbackCase, SyncMode};
use crate::health::Health;
use crate::status::{EnvironmentStatus, State, WaitReason};

/// A release that is no good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In which way.
    pub case: RollbackCase,
    /// The revision, `branch@sha1:<commit>`.
    pub revision: String,
    /// What it shows in.
    pub why: String,
    /// Whether the branch has something newer, which may be what mends it: then a person decides.
    pub is_newer_there: bool,
}

/// The release that an environment has, by what its status says: what is on its way, else what runs. None where nothing is
/// asked, because it is held or suspended, or because it moves to something newer.
pub fn release(status: &EnvironmentStatus, sync: SyncMode) -> Option<(String, bool)> {
    let goes_back =
        status.rollback.as_ref().is_some_and(|rollback| rollback.phase.is_under_way() || rollback.goes_to.is_some());
    if status.held.is_some() || goes_back || status.state == State::Suspended {
        return None;
    }
    let under_way = status.sync.as_ref().filter(|sync| !sync.applied).map(|sync| sync.revision.clone());
    let running = status.running.as_ref().map(|running| running.revision.clone());
    let revision = under_way.or(running)?;
    let candidate = status.candidate.as_ref().filter(|candidate| candidate.revision != revision);
    // A newer commit wins over an unfinished one by itself.
    if candidate.is_some() && sync == SyncMode::Automatic {
        return None;
    }
    let gate = status.gate.as_ref().filter(|gate| gate.revision != revision);
    Some((revision, candidate.is_some() || gate.is_some()))
}

/// What is wrong with it in the cluster, if anything is: its rollout was aborted, or its time is over.
pub fn trouble(status: &EnvironmentStatus, sync: SyncMode) -> Option<Trouble> {
    let (revision, is_newer_there) = release(status, sync)?;
    let waits = status.sync.as_ref().and_then(|sync| sync.waits.as_ref());
    if waits.is_some_and(|waits| waits.reason == WaitReason::RolloutPaused) {
        // A person is waited for.
        return None;
    }
    let trouble = |case, why| Some(Trouble { case, revision: revision.clone(), why, is_newer_there });
    let aborted =
        status.unhealthy.iter().find(|one| one.health == Health::Degraded && one.message.starts_with("aborted"));
    if let Some(object) = aborted {
        return trouble(RollbackCase::Aborted, format!("{}: {}", object.object, object.message));
    }
    let is_bad = matches!(status.health, Some(Health::Degraded | Health::Progressing | Health::Missing));
    if !status.is_late() || !is_bad {
        return None;
    }
    let worst = status.unhealthy.first().map(|object| format!(": {}: {}", object.object, object.message));
    trouble(RollbackCase::Degraded, format!("it did not become healthy in time{}", worst.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::status::{
        Condition, GateStatus, ObjectStatus, RevisionStatus, RollbackPhase, RollbackStatus, RolledBack,
    };

    const RUNS: &str = "master@sha1:1111111111111111111111111111111111111111";
    const NEWER: &str = "master@sha1:2222222222222222222222222222222222222222";

    fn late() -> EnvironmentStatus {
        let stalled = Condition::after(&[], Timestamp::UNIX_EPOCH, ("Stalled", "True"), "TimedOut", String::new());
        EnvironmentStatus {
            running: Some(RevisionStatus { revision: RUNS.into(), ..RevisionStatus::default() }),
            health: Some(Health::Degraded),
            conditions: vec![stalled],
            unhealthy: vec![ObjectStatus {
                object: "Deployment.apps shop/web".into(),
                health: Health::Degraded,
                message: "cannot pull".into(),
                log: Vec::new(),
            }],
            ..EnvironmentStatus::default()
        }
    }

    fn found(change: impl FnOnce(&mut EnvironmentStatus)) -> Option<Trouble> {
        let mut status = late();
        change(&mut status);
        trouble(&status, SyncMode::Automatic)
    }

    #[test]
    fn a_release_that_is_not_healthy_in_its_time_is_no_good() {
        let trouble = found(|_| {}).unwrap();
        assert_eq!((trouble.case, trouble.revision.as_str()), (RollbackCase::Degraded, RUNS));
        assert!(trouble.why.contains("web: cannot pull") && !trouble.is_newer_there, "{trouble:?}");
        assert!(found(|status| status.health = Some(Health::Progressing)).is_some());
        for health in [Health::Healthy, Health::Suspended, Health::Unknown] {
            assert_eq!(found(|status| status.health = Some(health)), None, "{health:?}");
        }
        assert_eq!(found(|status| status.conditions.clear()), None, "it has time left");
    }

    #[test]
    fn an_aborted_rollout_is_no_good_at_once() {
        let trouble = found(|status| {
            status.conditions.clear();
            status.unhealthy[0].message = "aborted: RolloutAborted".into();
        });
        assert_eq!(trouble.unwrap().case, RollbackCase::Aborted);
    }

    #[test]
    fn nothing_is_asked_where_it_is_held_or_moves_on_by_itself() {
        assert_eq!(found(|status| status.held = Some("rolled back".into())), None);
        assert_eq!(found(|status| status.state = State::Suspended), None);
        let taken = RolledBack { commit: "1".repeat(40), revert: None };
        assert!(found(|status| status.rolled_back.push(taken)).is_some(), "an earlier rollback is over");
        let phase = RollbackPhase::WaitsForGit;
        let rollback = RollbackStatus { phase, ..RollbackStatus::default() };
        assert_eq!(found(|status| status.rollback = Some(rollback)), None);
        let newer = |status: &mut EnvironmentStatus| {
            status.candidate = Some(RevisionStatus { revision: NEWER.into(), ..RevisionStatus::default() });
        };
        assert_eq!(found(newer), None);
        let mut status = late();
        newer(&mut status);
        assert!(trouble(&status, SyncMode::Manual).unwrap().is_newer_there, "a person decides");
        let gate = GateStatus { revision: NEWER.into(), message: "waits".into() };
        assert!(found(|status| status.gate = Some(gate)).unwrap().is_newer_there);
    }
}
