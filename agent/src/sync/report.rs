//! What a pass came to, said once: the report that the status is folded from.

use jiff::Timestamp;
use towpath_core::candidate::Candidate;
use towpath_core::decide::{self, Decision, Rollout};
use towpath_core::fault::{Fault, Problem};
use towpath_core::health::{self, Health};
use towpath_core::revision::Revision;
use towpath_core::status::{ContentStatus, ImagesSeen, Outcome, Report, SyncRecord};

use super::course::{self, Journal};
use super::{Memory, Pass, Progress, Wanted, desire};

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
    /// The syncs that ended, and the one that goes on.
    pub(super) journal: Journal,
}

/// Puts a report together.
pub(super) async fn report(pass: &Pass<'_>, memory: &mut Memory, ended: Ended) -> Report {
    let Ended { started, candidate, refused, done, mut problems, mut journal } = ended;
    let now = Timestamp::now();
    let newest = desire::revision(pass.view, candidate.as_ref()).await;
    let refused = desire::revision(pass.view, refused.as_ref()).await;
    let worked_on = match done.as_ref().map(|(wanted, ..)| wanted) {
        wanted if wanted == candidate.as_ref() => newest.clone(),
        wanted => desire::revision(pass.view, wanted).await,
    };
    let candidate = newest;
    let (is_move, progress) = match done {
        Some((_, is_move, progress)) => (is_move, Some(*progress)),
        None => (false, None),
    };

    // Git or the cluster being away is no sync; a commit that cannot be applied is one that failed.
    let is_refusal_of_content = problems.iter().any(|problem| problem.fault == Fault::Content);
    if let Some(refused) = refused.as_ref().filter(|_| is_refusal_of_content)
        && !journal.has_recorded(&refused.to_string())
    {
        journal.ended.push(refusal(pass, refused, &problems, (started, now)));
    }
    let has_progress = progress.is_some();
    let mut progress = progress.unwrap_or_default();
    let mut content = None;
    let mut is_change = false;
    if let Some(course) = progress.course.take() {
        let did_something = progress.created + progress.configured + progress.pruned + progress.failed > 0;
        is_change = course.is_change;
        let is_sync = is_move || is_change || (did_something && progress.moved);
        let digest = course.sync.content.clone();
        content = Some(ContentStatus { digest, generation: pass.environment.generation });
        journal.close(course, &progress, is_sync);
    }
    problems.extend(progress.problems.iter().cloned());
    let images = std::mem::take(&mut progress.images);
    let images = worked_on.as_ref().filter(|_| has_progress).map(|on| ImagesSeen {
        images,
        revision: on.to_string(),
        is_applied: progress.is_applied,
    });

    let worst = has_progress.then(|| health::worst(progress.unhealthy.values().map(|unhealthy| unhealthy.health)));
    // A commit that brings nothing here has nothing to become healthy from.
    let begins = progress.is_applied && is_move && is_change;
    let rolling_since = if begins { Some(now) } else { pass.status.rolling_since };
    let fault = problems.iter().map(|problem| problem.fault).min();
    memory.failures = if matches!(fault, Some(Fault::Passing | Fault::Setup)) { memory.failures + 1 } else { 0 };
    let facts = decide::Facts {
        // What is tried again is tried again, whatever else a commit must change.
        fault: problems.iter().map(|problem| problem.fault).max(),
        failures: memory.failures,
        waits_until: progress.look_by,
        health: worst.or(pass.status.health).unwrap_or(Health::Unknown),
        rolling_since,
        timeout: pass.environment.timeout,
        now,
    };
    let (decision, rollout) = (decide::decide(&facts), decide::rollout(&facts));

    let again = pass.wanted.as_ref().ok().and_then(|wanted| wanted.look_at);
    progress.leftovers.again = progress.leftovers.again.into_iter().chain(again).min();

    // A request is answered once it was acted on: not while git is away or an apply is tried again.
    // Nor while the revision that it is about waits for other environments, or for an image: also where the login for
    // another one is refused, which is the graver fault.
    let waits = |wanted: &Wanted| wanted.gate.is_some() && wanted.candidate.is_none();
    let is_gated = !is_move && pass.wanted.as_ref().is_ok_and(waits);
    let is_waiting = is_gated || memory.images.are_waited_for();
    let is_answered = fault != Some(Fault::Passing) && !progress.overtaken && !is_waiting;
    Report {
        generation: pass.environment.generation,
        suspended: false,
        candidate,
        gate: pass.wanted.as_ref().ok().and_then(|wanted| wanted.gate.clone()),
        held: pass.wanted.as_ref().map_or_else(|_| pass.status.held.clone(), |wanted| wanted.held.clone()),
        components: worked_on.as_ref().map(|on| memory.components_of(on.commit)).unwrap_or_default(),
        images,
        settled_on: worked_on.clone().filter(|_| progress.is_applied),
        content,
        attempted: refused.or(worked_on),
        handled_request: pass.request.filter(|_| is_answered).map(|request| request.id.clone()),
        under_way: journal.under_way,
        recorded: pass.recorded,
        ended: journal.ended,
        problems,
        warnings: progress.warnings,
        objects: progress.objects,
        unhealthy: progress.unhealthy,
        worst,
        leftovers: progress.leftovers,
        drift: progress.drift,
        notices: progress.notices,
        contended: progress.contended,
        rolling_since: rolling_since.filter(|_| rollout != Rollout::Done),
        is_late: rollout == Rollout::Late,
        decision,
    }
}

/// The record of a revision that was refused as a whole.
fn refusal(
    pass: &Pass,
    revision: &Revision,
    problems: &[Problem],
    (started, now): (Timestamp, Timestamp),
) -> SyncRecord {
    let text = revision.to_string();
    SyncRecord {
        number: 0,
        request: pass.request.map(|request| request.id.clone()),
        health: None,
        subject: revision.subject.clone(),
        trigger: course::trigger(pass, &text, true),
        requested_by: pass.request.and_then(|request| request.by.clone()),
        started_at: started,
        took_ms: course::milliseconds(started, now),
        outcome: Outcome::Failed,
        created: 0,
        configured: 0,
        unchanged: 0,
        pruned: 0,
        failed: 0,
        took_over: Vec::new(),
        message: problems.first().map(ToString::to_string),
        hooks: Vec::new(),
        revision: text,
    }
}

/// The report of an environment that is suspended: nothing was looked at.
pub(super) fn suspended(pass: &Pass<'_>) -> Report {
    Report {
        suspended: true,
        handled_request: pass.request.map(|request| request.id.clone()),
        ..Report::of_nothing(pass.environment.generation, pass.status, Decision::Settled)
    }
}
