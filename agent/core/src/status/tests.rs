//! One report at a time, folded into what was there before.

use super::*;
use crate::course::Phase;
use crate::revision::CommitId;

pub(super) fn revision(number: u8) -> Revision {
    Revision {
        commit: CommitId::from_bytes([number; 20]),
        branch: "master".into(),
        subject: format!("change {number}"),
        author: "Ada".into(),
        committed_at: Timestamp::UNIX_EPOCH,
    }
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The report of a pass that found revision 1 running and everything well.
fn report() -> Report {
    Report {
        generation: 1,
        suspended: false,
        candidate: Some(revision(1)),
        gate: None,
        held: None,
        settled_on: Some(revision(1)),
        attempted: Some(revision(1)),
        handled_request: None,
        content: None,
        components: Vec::new(),
        images: None,
        under_way: None,
        recorded: None,
        ended: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        objects: 1,
        unhealthy: BTreeMap::new(),
        worst: Some(Health::Healthy),
        leftovers: Leftovers::default(),
        drift: Vec::new(),
        notices: Vec::new(),
        contended: 0,
        rolling_since: None,
        is_late: false,
        decision: Decision::Settled,
    }
}

fn ready(status: &EnvironmentStatus) -> (&str, &str) {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    (ready.status.as_str(), ready.reason.as_str())
}

fn has(status: &EnvironmentStatus, type_: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_)
}

pub(super) fn record(number: i64, outcome: Outcome) -> SyncRecord {
    SyncRecord {
        number: 0,
        request: None,
        health: None,
        revision: revision(1).to_string(),
        subject: String::new(),
        trigger: Trigger::Commit,
        requested_by: None,
        started_at: at(number),
        took_ms: 1,
        outcome,
        created: 1,
        configured: 0,
        unchanged: 0,
        pruned: 0,
        failed: 0,
        took_over: Vec::new(),
        message: (outcome == Outcome::Failed).then(|| "no".to_owned()),
        hooks: Vec::new(),
    }
}

#[test]
fn what_is_applied_and_healthy_is_synced_and_ready() {
    let status = fold(&EnvironmentStatus::default(), &report(), at(10));
    assert_eq!(status.state, State::Synced);
    assert_eq!(ready(&status), ("True", "Synced"));
    assert_eq!(status.running_since, Some(at(10)));
    assert_eq!(status.candidate, None);
    assert!(!has(&status, "Reconciling") && !has(&status, "Stalled"));
}

#[test]
fn a_pass_that_found_nothing_new_changes_nothing() {
    let before = fold(&EnvironmentStatus::default(), &report(), at(10));
    assert_eq!(fold(&before, &report(), at(99)), before);
}

#[test]
fn a_bad_commit_blocks_and_what_runs_stays_named() {
    let before = fold(&EnvironmentStatus::default(), &report(), at(10));
    let report = Report {
        candidate: Some(revision(2)),
        settled_on: None,
        attempted: Some(revision(2)),
        problems: vec![Problem::content("missing variable")],
        decision: Decision::WaitForChange,
        ..report()
    };
    let status = fold(&before, &report, at(20));
    assert_eq!(status.state, State::Blocked);
    assert_eq!(ready(&status), ("False", "ContentFailed"));
    assert!(has(&status, "Stalled"));
    assert_eq!(status.running.as_ref().unwrap().subject, "change 1");
    assert_eq!(status.candidate.as_ref().unwrap().subject, "change 2");
}

#[test]
fn what_is_retried_is_no_stall() {
    let report = Report { problems: vec![Problem::passing("git is away")], settled_on: None, ..report() };
    let status = fold(&EnvironmentStatus::default(), &report, at(20));
    assert_eq!(status.state, State::OutOfSync);
    assert!(has(&status, "Reconciling") && !has(&status, "Stalled"));
}

#[test]
fn a_manual_environment_waits_for_a_request() {
    let before = fold(&EnvironmentStatus::default(), &report(), at(10));
    let status = fold(&before, &Report { candidate: Some(revision(2)), ..report() }, at(20));
    assert_eq!(status.state, State::OutOfSync);
    assert_eq!(ready(&status), ("False", "WaitsForRequest"));
    assert!(!has(&status, "Reconciling"));
}

fn unhealthy(object: &str, health: Health, message: &str) -> (String, Unhealthy) {
    (object.to_owned(), Unhealthy { health, message: message.to_owned(), log: vec!["no such table".to_owned()] })
}

#[test]
fn the_worst_object_stands_first_and_what_its_container_said_stands_only_there() {
    let report = Report {
        unhealthy: [
            unhealthy("Deployment.apps shop/a", Health::Progressing, "1 of 2"),
            unhealthy("Deployment.apps shop/b", Health::Degraded, "crashes"),
        ]
        .into(),
        worst: Some(Health::Degraded),
        ..report()
    };
    let status = fold(&EnvironmentStatus::default(), &report, at(20));
    assert_eq!(status.unhealthy[0].object, "Deployment.apps shop/b");
    assert_eq!(status.unhealthy[0].log, ["no such table"]);
    let ready = &status.conditions[0].message;
    assert!(ready.contains("shop/b: crashes") && !ready.contains("table"), "{ready}");
}

#[test]
fn a_rollout_is_not_ready_until_it_is_healthy() {
    let report = Report {
        unhealthy: [unhealthy("Deployment.apps shop/web", Health::Progressing, "1 of 2")].into(),
        worst: Some(Health::Progressing),
        rolling_since: Some(at(5)),
        decision: Decision::KeepWatching { until: at(600) },
        ..report()
    };
    let status = fold(&EnvironmentStatus::default(), &report, at(20));
    assert_eq!(ready(&status), ("False", "Progressing"));
    assert!(has(&status, "Reconciling"));
    assert_eq!(status.unhealthy[0].message, "1 of 2");
    let late = Report { is_late: true, decision: Decision::TimedOut, ..report };
    let status = fold(&status, &late, at(700));
    assert_eq!(ready(&status), ("False", "TimedOut"));
    assert!(has(&status, "Stalled") && status.is_late());
    // It is no less late while git is away, and when it runs late then.
    let decision = Decision::Retry { at: at(702) };
    let away = Report { problems: vec![Problem::passing("git is away")], decision, ..late };
    for before in [&status, &EnvironmentStatus::default()] {
        let status = fold(before, &away, at(701));
        assert_eq!((ready(&status), status.is_late()), (("False", "Retrying"), true));
        assert!(!has(&status, "Reconciling"));
        let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
        assert!(stalled.message.contains("did not become healthy in time: Deployment.apps shop/web: 1 of 2"));
    }
}

#[test]
fn a_suspended_environment_says_so() {
    let status = fold(&EnvironmentStatus::default(), &Report { suspended: true, ..report() }, at(20));
    assert_eq!(status.state, State::Suspended);
    assert_eq!(ready(&status), ("False", "Suspended"));
}

#[test]
fn a_condition_keeps_its_time_while_it_stays_the_same() {
    let before = fold(&EnvironmentStatus::default(), &report(), at(10));
    let degraded = Report { worst: Some(Health::Degraded), ..report() };
    let status = fold(&before, &degraded, at(20));
    assert_eq!(status.conditions[0].last_transition_time, at(20));
    assert_eq!(fold(&status, &degraded, at(30)).conditions[0].last_transition_time, at(20));
}

#[test]
fn twenty_syncs_are_remembered() {
    let mut status = EnvironmentStatus::default();
    for number in 0..MAX_HISTORY as i64 + 5 {
        status = fold(&status, &Report { ended: vec![record(number, Outcome::Applied)], ..report() }, at(number));
    }
    assert_eq!(status.history.len(), MAX_HISTORY);
    assert_eq!(status.history[0].started_at, at(24));
}

#[test]
fn the_same_failure_again_takes_no_second_line() {
    let mut status = EnvironmentStatus::default();
    for number in 0..3 {
        let report = Report { ended: vec![record(number, Outcome::Failed)], ..report() };
        status = fold(&status, &report, at(number));
    }
    assert_eq!(status.history.len(), 1);
    assert_eq!(status.history[0].started_at, at(0), "a retry alone is no news");
}

#[test]
fn long_lists_and_messages_are_cut() {
    let problems = (0..30).map(|number| Problem::content(format!("{number} {}", "x".repeat(2000)))).collect();
    let status = fold(&EnvironmentStatus::default(), &Report { problems, ..report() }, at(1));
    assert_eq!(status.problems.len(), MAX_LISTED);
    assert!(status.problems[0].chars().count() <= MAX_MESSAGE);
}

fn hook(run: &str) -> HookStatus {
    HookStatus {
        hook: "Job.batch shop/migrate".into(),
        phase: Phase::BeforeSync,
        job: format!("Job.batch shop/migrate-{run}"),
        run: run.into(),
        uid: "u".into(),
        outcome: HookOutcome::Failed,
        started_at: at(1),
        took_ms: Some(1),
        message: None,
        log: vec!["no".into()],
    }
}

#[test]
fn a_hook_that_fails_again_is_another_failure_and_old_logs_go() {
    let mut status = EnvironmentStatus::default();
    for number in 0..8 {
        let run = SyncRecord { hooks: vec![hook(&number.to_string())], ..record(number, Outcome::Failed) };
        status = fold(&status, &Report { ended: vec![run.clone(), run], ..report() }, at(number));
    }
    assert_eq!(status.history.len(), 8);
    let logs: Vec<usize> = status.history.iter().map(|sync| sync.hooks[0].log.len()).collect();
    assert_eq!(logs, [1, 1, 1, 1, 1, 0, 0, 0]);
}

#[test]
fn a_sync_that_waits_says_for_what_and_when_it_takes_too_long() {
    let waits = WaitStatus {
        reason: WaitReason::WaitsForWave,
        message: "wave 0: Deployment.apps shop/db: 0 of 1 replicas available".into(),
        since: at(1),
        until: at(60),
    };
    let under_way = SyncStatus {
        revision: revision(2).to_string(),
        content: "c".into(),
        subject: String::new(),
        trigger: Trigger::Commit,
        requested_by: None,
        request: None,
        attempt: None,
        started_at: at(1),
        created: 1,
        configured: 0,
        pruned: 0,
        took_over: Vec::new(),
        applied: false,
        recorded: false,
        waits: Some(waits),
        hooks: Vec::new(),
    };
    let mut report = Report {
        candidate: Some(revision(2)),
        settled_on: None,
        under_way: Some(under_way),
        decision: Decision::KeepWatching { until: at(60) },
        ..report()
    };
    let status = fold(&EnvironmentStatus::default(), &report, at(10));
    assert_eq!((status.state, ready(&status)), (State::OutOfSync, ("False", "WaitsForWave")));
    assert!(has(&status, "Reconciling") && status.conditions[0].message.contains("wave 0: Deployment.apps shop/db"));
    (report.is_late, report.decision) = (true, Decision::TimedOut);
    let status = fold(&status, &report, at(60));
    assert_eq!(ready(&status), ("False", "TimedOut"));
    assert!(has(&status, "Stalled"));
    report.under_way = None;
    report.settled_on = Some(revision(2));
    report.content = Some(ContentStatus { digest: "c".into(), generation: 1 });
    (report.is_late, report.decision) = (false, Decision::Settled);
    let status = fold(&status, &report, at(70));
    assert_eq!((status.sync, status.content.unwrap().digest.as_str()), (None, "c"));
}

#[test]
fn syncs_are_counted_on_from_what_the_ledger_knows() {
    let ended = vec![record(1, Outcome::Applied), record(2, Outcome::Applied)];
    let status = fold(&EnvironmentStatus::default(), &Report { ended, ..report() }, at(10));
    let numbers = |status: &EnvironmentStatus| status.history.iter().map(|sync| sync.number).collect::<Vec<_>>();
    assert_eq!((numbers(&status), status.syncs), (vec![2, 1], 2));
    // Made anew beside a ledger that knows seventeen others: these come after them, once.
    let recorded = Some(Recorded { sync: 17, started_at: Some(at(99)) });
    let ended = vec![record(3, Outcome::Applied)];
    let mut status = fold(&status, &Report { ended: ended.clone(), recorded, ..report() }, at(11));
    assert_eq!((numbers(&status), status.syncs), (vec![20, 19, 18], 20));
    status.ledger = Some("40 0123 abcd".into());
    let recorded = Some(Recorded { sync: 20, started_at: Some(at(3)) });
    let status = fold(&status, &Report { ended, recorded, ..report() }, at(12));
    assert_eq!((numbers(&status), status.syncs), (vec![21, 20, 19, 18], 21));
}

#[test]
fn a_refusal_as_a_whole_says_nothing_of_what_runs() {
    let ended = vec![record(1, Outcome::Applied)];
    let status = fold(&EnvironmentStatus::default(), &Report { ended, ..report() }, at(10));
    let refused = SyncRecord { created: 0, ..record(2, Outcome::Failed) };
    let degraded = Report { ended: vec![refused], worst: Some(Health::Degraded), ..report() };
    let status = fold(&status, &degraded, at(11));
    assert_eq!(status.history[0].health, None);
    assert_eq!(status.history[1].health.as_ref().map(|health| health.is_healthy), Some(false));
}

#[test]
fn the_last_sync_says_how_the_environment_came_to_be() {
    let ended = vec![record(1, Outcome::Applied)];
    let progressing = Report { ended, worst: Some(Health::Progressing), ..report() };
    let status = fold(&EnvironmentStatus::default(), &progressing, at(10));
    assert_eq!(status.history[0].health, None);
    let status = fold(&status, &report(), at(11));
    let healthy = SyncHealth { is_healthy: true, since: at(11), message: None };
    assert_eq!(status.history[0].health, Some(healthy.clone()));
    assert_eq!(fold(&status, &report(), at(12)).history[0].health, Some(healthy));
    let degraded = Report { worst: Some(Health::Degraded), ..report() };
    let status = fold(&status, &degraded, at(13));
    assert_eq!(status.history[0].health, Some(SyncHealth { is_healthy: false, since: at(13), message: None }));
}
