//! What a pass came to, said once: the report that the status is folded from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use towpath_core::candidate::Candidate;
use towpath_core::decide::{self, Decision};
use towpath_core::fault::{Fault, Problem};
use towpath_core::health::{self, Health};
use towpath_core::revision::Revision;
use towpath_core::status::{Leftovers, MAX_LISTED, Notice, NoticeKind, Outcome, Report, SyncRecord, Trigger};

use super::{Memory, Pass, Progress, desire};

/// Everything that a pass leaves behind.
pub(super) struct Ended {
    pub(super) started: Timestamp,
    pub(super) candidate: Option<Candidate>,
    /// The revision that the environment should have moved to and could not.
    pub(super) refused: Option<Candidate>,
    /// The revision that was worked on, whether that was a move, and how it went.
    pub(super) done: Option<(Candidate, bool, Box<Progress>)>,
    /// What went wrong before the work began.
    pub(super) problems: Vec<Problem>,
}

/// Puts a report together.
pub(super) async fn report(pass: &Pass<'_>, memory: &mut Memory, ended: Ended) -> Report {
    let Ended { started, candidate, refused, done, mut problems } = ended;
    let now = Timestamp::now();
    let candidate = desire::revision(pass.view, candidate.as_ref()).await;
    let refused = desire::revision(pass.view, refused.as_ref()).await;
    let worked_on = desire::revision(pass.view, done.as_ref().map(|(wanted, ..)| wanted)).await;
    let (is_move, progress) = match done {
        Some((_, is_move, progress)) => (is_move, Some(*progress)),
        None => (false, None),
    };

    let is_refusal_of_content = problems.iter().any(|problem| problem.fault == Fault::Content);
    let is_complete = progress.as_ref().is_some_and(|progress| !progress.overtaken && progress.problems.is_empty());
    let has_progress = progress.is_some();
    let progress = progress.unwrap_or_default();
    problems.extend(progress.problems.iter().cloned());

    let worst = has_progress.then(|| health::worst(progress.unhealthy.values().map(|unhealthy| unhealthy.health)));
    let rolling_since = if is_complete && is_move { Some(now) } else { pass.status.rolling_since };
    let fault = problems.iter().map(|problem| problem.fault).min();
    memory.failures = if matches!(fault, Some(Fault::Passing | Fault::Setup)) { memory.failures + 1 } else { 0 };
    let decision = decide::decide(&decide::Facts {
        // What is tried again is tried again, whatever else a commit must change.
        fault: problems.iter().map(|problem| problem.fault).max(),
        failures: memory.failures,
        health: worst.unwrap_or(Health::Unknown),
        rolling_since,
        timeout: pass.environment.timeout,
        now,
    });

    let did_something = progress.created + progress.configured + progress.pruned + progress.failed > 0;
    let sync = match (&refused, &worked_on) {
        // Git or the cluster being away is no sync; a commit that cannot be applied is one that failed.
        (Some(refused), _) if is_refusal_of_content => {
            let nothing = Progress { problems: problems.clone(), ..Progress::default() };
            Some(record(pass, refused, true, &nothing, (started, now)))
        }
        // What only waits for something to end is told when it is done.
        (None, Some(_)) if progress.waits > 0 && progress.waits == problems.len() => None,
        (None, Some(revision)) if is_move || (did_something && progress.moved) => {
            Some(record(pass, revision, is_move, &progress, (started, now)))
        }
        _ => None,
    };

    // A request is answered once it was acted on: not while git is away or an apply is tried again.
    let is_answered = fault != Some(Fault::Passing) && !progress.overtaken;
    Report {
        generation: pass.environment.generation,
        suspended: false,
        candidate,
        settled_on: worked_on.clone().filter(|_| is_complete),
        attempted: refused.or(worked_on),
        handled_request: pass.request.filter(|_| is_answered).map(|request| request.id.clone()),
        sync,
        problems,
        warnings: progress.warnings,
        objects: progress.objects,
        unhealthy: progress.unhealthy,
        worst,
        leftovers: progress.leftovers,
        drift: progress.drift,
        notices: progress.notices,
        contended: progress.contended,
        rolling_since: rolling_since.filter(|_| decision != Decision::Settled),
        decision,
    }
}

fn record(
    pass: &Pass<'_>,
    revision: &Revision,
    is_move: bool,
    progress: &Progress,
    (started, now): (Timestamp, Timestamp),
) -> SyncRecord {
    let text = revision.to_string();
    let is_retry = pass.status.last_attempted_revision.as_ref() == Some(&text);
    SyncRecord {
        revision: text,
        subject: revision.subject.clone(),
        trigger: match pass.request {
            Some(_) => Trigger::Request,
            None if is_move && is_retry => Trigger::Retry,
            None if is_move => Trigger::Commit,
            None => Trigger::Settings,
        },
        requested_by: pass.request.and_then(|request| request.by.clone()),
        started_at: started,
        took_ms: (now - started).total(jiff::Unit::Millisecond).unwrap_or(0.0) as i64,
        outcome: match () {
            () if progress.overtaken => Outcome::Overtaken,
            () if progress.problems.is_empty() => Outcome::Applied,
            () => Outcome::Failed,
        },
        created: progress.created,
        configured: progress.configured,
        unchanged: progress.unchanged,
        pruned: progress.pruned,
        failed: progress.failed,
        took_over: took_over(&progress.notices),
        message: progress.problems.first().map(ToString::to_string),
    }
}

/// What was taken from other managers, as lines of the record.
fn took_over(notices: &[Notice]) -> Vec<String> {
    let taken = notices.iter().filter(|notice| notice.kind == NoticeKind::TookOver);
    taken.take(MAX_LISTED).map(|notice| format!("{}: {}", notice.object, notice.message)).collect()
}

/// The report of an environment that is suspended: nothing was looked at.
pub(super) fn suspended(pass: &Pass<'_>) -> Report {
    Report {
        generation: pass.environment.generation,
        suspended: true,
        candidate: None,
        settled_on: None,
        attempted: None,
        handled_request: pass.request.map(|request| request.id.clone()),
        sync: None,
        problems: Vec::new(),
        warnings: Vec::new(),
        objects: 0,
        unhealthy: BTreeMap::new(),
        worst: None,
        leftovers: Leftovers::default(),
        drift: Vec::new(),
        notices: Vec::new(),
        contended: 0,
        rolling_since: pass.status.rolling_since,
        decision: Decision::Settled,
    }
}
