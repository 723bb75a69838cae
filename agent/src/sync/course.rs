//! The sync that a pass begins, or takes up where the pass before it ended.
//!
//! Where a sync stands follows from what is applied and healthy; only what cannot be seen in the cluster is in the
//! status: when it began, how its hooks ended, what it has done so far.

use jiff::Timestamp;
use towpath_core::candidate::Candidate;
use towpath_core::environment::SyncMode;
use towpath_core::policy::Cleared;
use towpath_core::status::{
    ContentStatus, HookOutcome, HookStatus, MAX_LISTED, NoticeKind, Outcome, SyncRecord, SyncStatus, Trigger,
};

use super::{Pass, Progress, desire};

/// Why a pass works on a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is what the environment moves to, stays on, or is on its way to.
    Wanted,
    /// What is wanted cannot be applied; this was begun before, and is gone on with.
    UnderWay,
    /// What is wanted cannot be applied; this runs and is mended meanwhile.
    Fallback,
}

/// A sync, while a pass works on it.
pub(super) struct Course {
    /// What the status says of it.
    pub(super) sync: SyncStatus,
    /// Whether it brings something new. Then waves wait for each other; mending waits for nothing.
    pub(super) is_change: bool,
    /// Whether an earlier pass has begun it: its images were there then.
    pub(super) has_begun: bool,
    /// Why this pass works on it.
    pub(super) role: Role,
    /// Another sync that was under way, and that this one ends.
    pub(super) overtaken: Option<SyncStatus>,
    /// Whether nothing of it is left to do.
    pub(super) is_over: bool,
}

/// What a pass changes in the book of syncs: the one that goes on, and those that ended.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) under_way: Option<SyncStatus>,
    pub(super) ended: Vec<SyncRecord>,
}

impl Journal {
    /// Whether the sync of a revision stands here, and how it failed stands in the history.
    pub(super) fn has_recorded(&self, revision: &str) -> bool {
        self.under_way.as_ref().is_some_and(|sync| sync.recorded && sync.revision == revision)
    }

    /// Ends the sync that was under way for the sake of another one.
    pub(super) fn turn_to(&mut self, course: &mut Course) {
        let Some(other) = course.overtaken.take() else { return };
        if !other.recorded {
            self.ended.push(record(&other, Outcome::Overtaken, &Progress::default(), Timestamp::now()));
        }
        self.under_way = None;
    }

    /// A hook stopped a sync before its waves.
    pub(super) fn stopped(&mut self, mut course: Course, progress: &Progress) {
        if !course.sync.recorded {
            count(&mut course.sync, progress);
            self.ended.push(record(&course.sync, Outcome::Failed, progress, Timestamp::now()));
        }
        course.sync.recorded = true;
        course.sync.waits = None;
        self.under_way = Some(course.sync);
    }

    /// Notes what a pass came to that worked on a sync. `is_sync` says whether that is worth a record.
    pub(super) fn close(&mut self, mut course: Course, progress: &Progress, is_sync: bool) {
        let now = Timestamp::now();
        let failed_after = course.sync.applied && !progress.problems.is_empty();
        count(&mut course.sync, progress);
        // What only waits for something to end is told when it is done.
        let only_waits = progress.waits > 0 && progress.waits == progress.problems.len();
        let outcome = match () {
            () if only_waits && !progress.overtaken => None,
            () if progress.overtaken => Some(Outcome::Overtaken),
            () if !progress.problems.is_empty() => Some(Outcome::Failed),
            () if course.is_over => Some(Outcome::Applied),
            () => None,
        };
        if let Some(outcome) = outcome.filter(|_| (is_sync || course.sync.applied) && !course.sync.recorded) {
            self.ended.push(record(&course.sync, outcome, progress, now));
            match outcome {
                Outcome::Failed if !failed_after => again(&mut course.sync, Trigger::Retry, now),
                _ => course.sync.recorded = true,
            }
        }
        if course.role == Role::Fallback && !course.sync.applied {
            return;
        }
        course.sync.waits = progress.awaited.clone();
        let goes_on = !course.is_over && (course.is_change || course.sync.applied);
        self.under_way = goes_on.then_some(course.sync);
    }
}

fn count(sync: &mut SyncStatus, progress: &Progress) {
    sync.created += progress.created;
    sync.configured += progress.configured;
    sync.pruned += progress.pruned;
    let taken = progress.notices.iter().filter(|notice| notice.kind == NoticeKind::TookOver);
    sync.took_over.extend(taken.map(|notice| format!("{}: {}", notice.object, notice.message)));
    sync.took_over.truncate(MAX_LISTED);
}

/// The revisions that a pass may work on, the most wanted first. A later one is for when those before it cannot be
/// applied.
///
/// A sync that is under way goes on where the candidate waits for a request or cannot be applied: it was wanted last.
/// Where the branch went back to what runs, it does not.
pub(super) fn revisions(
    pass: &Pass,
    candidate: Option<&Candidate>,
    running: Option<&Candidate>,
) -> Vec<(Candidate, bool)> {
    let under_way = pass.status.sync.as_ref().and_then(|sync| revision_of(&sync.revision));
    let gives_up = pass.wanted.as_ref().is_ok_and(|wanted| wanted.gives_up);
    let went_back = candidate.is_some() && candidate == running || gives_up;
    let may_move = pass.environment.sync == SyncMode::Automatic || pass.request.is_some();
    // Where a rollback takes it comes second: what is newer may be what cannot be applied.
    let moves = candidate.filter(|_| may_move).into_iter().chain(goes_to(pass)).cloned();
    let mut wanted: Vec<Candidate> = moves.chain(under_way.filter(|_| !went_back)).collect();
    wanted.extend(running.cloned());
    let mut revisions: Vec<(Candidate, bool)> = Vec::new();
    for revision in wanted {
        if !revisions.iter().any(|(known, _)| *known == revision) {
            let is_move = Some(&revision) != running;
            revisions.push((revision, is_move));
        }
    }
    // What runs is the last resort; nothing comes after it.
    if let Some(place) = revisions.iter().position(|(_, is_move)| !is_move) {
        revisions.truncate(place + 1);
    }
    revisions
}

/// Where a rollback takes the environment.
fn goes_to<'p>(pass: &'p Pass) -> Option<&'p Candidate> {
    pass.wanted.as_ref().ok()?.goes_to.as_ref()
}

/// A revision as the status writes it.
pub fn revision_of(text: &str) -> Option<Candidate> {
    let (branch, commit) = text.rsplit_once("@sha1:")?;
    Some(Candidate { branch: branch.to_owned(), commit: commit.parse().ok()? })
}

/// A candidate as the status writes it.
pub fn revision_text(candidate: &Candidate) -> String {
    format!("{}@sha1:{}", candidate.branch, candidate.commit)
}

/// Whether a revision that cannot be applied now may give way to what runs. Once a sync has begun to write nothing goes
/// back by itself, unless a hook said no before that.
pub(super) fn gives_way(journal: &Journal, wanted: &Candidate) -> bool {
    let text = revision_text(wanted);
    let under_way = journal.under_way.as_ref().filter(|sync| sync.revision == text);
    under_way.is_none_or(|sync| !sync.applied && sync.hooks.iter().any(is_stopped))
}

/// Whether a run of a hook ended otherwise than well.
pub(super) fn is_stopped(hook: &HookStatus) -> bool {
    matches!(hook.outcome, HookOutcome::Failed | HookOutcome::TimedOut | HookOutcome::Vanished)
}

/// Begins a sync, or takes up the one of this content.
pub(super) async fn take_up(
    pass: &Pass<'_>,
    wanted: &Candidate,
    (is_move, role): (bool, Role),
    desired: &Cleared,
    now: Timestamp,
) -> Course {
    let revision = revision_text(wanted);
    // What runs has its hooks to end, also while something newer is refused.
    let is_of_running = |sync: &SyncStatus| sync.applied && sync.revision == revision;
    let before = pass.status.sync.clone().filter(|sync| role != Role::Fallback || is_of_running(sync));
    let (same, other): (Option<SyncStatus>, Option<SyncStatus>) = match before {
        // A newer revision with nothing new for this environment goes on with what is under way.
        Some(sync) if sync.content == desired.content() && (sync.revision == revision || !sync.applied) => {
            (Some(sync), None)
        }
        _ if role == Role::Fallback => (None, None),
        other => (None, other),
    };
    let is_change = role != Role::Fallback
        && match &same {
            Some(sync) => !sync.applied,
            None => differs(pass, is_move, desired),
        };
    let has_begun = same.is_some();
    let mut sync = match same {
        Some(sync) if sync.revision == revision => sync,
        Some(sync) => {
            let known = desire::revision(pass.view, Some(wanted)).await;
            SyncStatus { subject: known.map(|known| known.subject).unwrap_or_default(), revision, ..sync }
        }
        None => {
            let known = if is_change || is_move { desire::revision(pass.view, Some(wanted)).await } else { None };
            SyncStatus {
                subject: known.map(|known| known.subject).unwrap_or_default(),
                content: desired.content().to_owned(),
                trigger: trigger(pass, &revision, is_move),
                requested_by: asked(pass, &revision).1,
                request: asked(pass, &revision).0,
                attempt: None,
                started_at: now,
                created: 0,
                configured: 0,
                pruned: 0,
                took_over: Vec::new(),
                applied: false,
                recorded: false,
                waits: None,
                hooks: Vec::new(),
                revision,
            }
        }
    };
    if sync.recorded && !sync.hooks.iter().any(is_stopped) {
        again(&mut sync, Trigger::Retry, now);
    }
    if let Some(request) = pass.request
        && sync.hooks.iter().any(is_stopped)
    {
        // A person wants what failed to be tried again; what succeeded is not run twice.
        sync.hooks.retain(|hook| !is_stopped(hook));
        sync.attempt = Some(request.id.clone());
        again(&mut sync, Trigger::Request, now);
        sync.requested_by = request.by.clone();
        sync.request = Some(request.id.clone());
    }
    Course { sync, is_change, has_begun, role, overtaken: other, is_over: false }
}

/// Whether the content differs from what was applied last.
fn differs(pass: &Pass, is_move: bool, desired: &Cleared) -> bool {
    match &pass.status.content {
        // A newer agent may render something otherwise: that is nobody's change.
        Some(ContentStatus { generation, .. }) if !is_move && *generation == pass.environment.generation => false,
        Some(ContentStatus { digest, .. }) => digest != desired.content(),
        // Applied before content was kept in the status.
        None => is_move,
    }
}

/// The request that a sync is for, and who made it: one for a sync, or for the rollback that it belongs to.
fn asked(pass: &Pass, revision: &str) -> (Option<String>, Option<String>) {
    let rollback = pass.status.rollback.as_ref().filter(|one| one.goes_to.as_deref() == Some(revision));
    match (pass.request, rollback) {
        (Some(request), _) => (Some(request.id.clone()), request.by.clone()),
        (None, Some(rollback)) => (Some(rollback.id.clone()), rollback.by.clone()),
        (None, None) => (None, None),
    }
}

pub(super) fn trigger(pass: &Pass, revision: &String, is_move: bool) -> Trigger {
    let is_retry = pass.status.last_attempted_revision.as_ref() == Some(revision);
    let is_rollback = goes_to(pass).is_some_and(|one| revision_text(one) == *revision);
    match pass.request {
        _ if is_move && is_rollback && !is_retry => Trigger::Rollback,
        Some(_) => Trigger::Request,
        None if is_move && is_retry => Trigger::Retry,
        None if is_move => Trigger::Commit,
        None => Trigger::Settings,
    }
}

/// Counts from here on, after what was done so far was recorded.
fn again(sync: &mut SyncStatus, trigger: Trigger, now: Timestamp) {
    sync.trigger = trigger;
    sync.started_at = now;
    (sync.created, sync.configured, sync.pruned) = (0, 0, 0);
    sync.took_over.clear();
    sync.recorded = false;
}

/// The record of a sync that ended. `progress` is what the last pass did, already counted in the sync.
fn record(sync: &SyncStatus, outcome: Outcome, progress: &Progress, now: Timestamp) -> SyncRecord {
    SyncRecord {
        number: 0,
        request: sync.request.clone(),
        health: None,
        revision: sync.revision.clone(),
        subject: sync.subject.clone(),
        trigger: sync.trigger,
        requested_by: sync.requested_by.clone(),
        started_at: sync.started_at,
        took_ms: milliseconds(sync.started_at, now),
        outcome,
        created: sync.created,
        configured: sync.configured,
        unchanged: progress.unchanged,
        pruned: sync.pruned,
        failed: progress.failed,
        took_over: sync.took_over.clone(),
        message: progress.problems.first().map(ToString::to_string),
        hooks: sync.hooks.clone(),
    }
}

pub(super) fn milliseconds(from: Timestamp, to: Timestamp) -> i64 {
    (to - from).total(jiff::Unit::Millisecond).unwrap_or(0.0) as i64
}
