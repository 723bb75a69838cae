//! The one document that says how an environment is: folded from what a pass reports, written in one place.
//!
//! [`EnvironmentStatus`] is the `status` of the custom resource, and what the page, the API and the command line show.

mod components;
mod conditions;
mod images;
mod leftovers;
mod rollback;
mod syncs;

pub use components::ComponentStatus;
pub use images::{ImageStatus, ImagesSeen, MAX_IMAGES};
pub use leftovers::{KeptStatus, LeftoverStatus, Leftovers};
pub use rollback::{
    CANNOT_PUSH, MAX_ANSWERED, MAX_LINES, MAX_ROLLED_BACK, MAX_TRIED, RevertStatus, RollbackPhase, RollbackStatus,
    RolledBack, Wish,
};
pub use syncs::{
    ContentStatus, HookOutcome, HookStatus, Outcome, Recorded, SyncHealth, SyncRecord, SyncStatus, Trigger, WaitReason,
    WaitStatus,
};

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::conditions::IMAGE_WAIT;
use self::conditions::{conditions, state_of};
use crate::decide::Decision;
use crate::fault::Problem;
use crate::health::Health;
use crate::revision::{CommitId, Revision};

/// Syncs that are remembered.
pub const MAX_HISTORY: usize = 20;
/// Problems, unhealthy objects and kept objects that are listed; the rest is counted.
pub const MAX_LISTED: usize = 20;
/// Syncs, from the newest, whose hooks keep their logs.
pub const MAX_LOGGED: usize = 5;
/// Characters of one message.
pub const MAX_MESSAGE: usize = 1000;

/// How an environment is, in one word for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// What runs is what git says.
    Synced,
    /// It is not, and it is being worked on or waits for a request.
    #[default]
    OutOfSync,
    /// It is not, and somebody must act.
    Blocked,
    /// It is kept on a revision on purpose.
    Held,
    /// Nobody syncs or mends it.
    Suspended,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A revision as people see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// `branch@sha1:<id>`.
    pub revision: String,
    /// First line of the commit's message.
    #[serde(default)]
    pub subject: String,
    /// Who wrote it.
    #[serde(default)]
    pub author: String,
    /// When it was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Timestamp>,
}

impl RevisionStatus {
    /// The commit of the revision.
    pub fn commit(&self) -> Option<CommitId> {
        self.revision.rsplit_once("@sha1:").and_then(|(_, commit)| commit.parse().ok())
    }
}

impl From<&Revision> for RevisionStatus {
    fn from(revision: &Revision) -> Self {
        RevisionStatus {
            revision: revision.to_string(),
            subject: revision.subject.clone(),
            author: revision.author.clone(),
            committed_at: Some(revision.committed_at),
        }
    }
}

/// A revision that waits for other environments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GateStatus {
    /// `branch@sha1:<id>`.
    pub revision: String,
    /// For whom it waits, and why.
    pub message: String,
}

/// An object that is worth naming.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectStatus {
    /// `Deployment.apps web/api`.
    pub object: String,
    /// How it is.
    pub health: Health,
    /// Why.
    #[serde(default)]
    pub message: String,
    /// What its failing container said last, at most 10 lines, with what looks like a secret masked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// The last drift that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftStatus {
    /// The object.
    pub object: String,
    /// What differed and who did it, where that can be said.
    pub message: String,
    /// When it was found.
    pub at: Timestamp,
    /// How often drift was mended or reported since the environment last moved.
    pub count: u32,
}

/// A condition in the manner of Kubernetes and kstatus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `Reconciling`, `Stalled`. The last two are there only while they are true.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// The generation of the Environment that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition with the time since when it has its status, by the conditions before it. Says nothing yet of a
    /// generation.
    pub fn after(
        before: &[Condition],
        now: Timestamp,
        (type_, status): (&str, &str),
        reason: &str,
        message: String,
    ) -> Condition {
        let earlier = before.iter().find(|earlier| earlier.type_ == type_ && earlier.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: earlier.map_or(now, |earlier| earlier.last_transition_time),
            observed_generation: None,
        }
    }

    /// The same, about a generation.
    pub fn of_generation(self, generation: Option<i64>) -> Condition {
        Condition { observed_generation: generation, ..self }
    }
}

/// The `status` of an Environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentStatus {
    /// The generation that was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word.
    #[serde(default)]
    pub state: State,
    /// The worst health of its objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What runs: the revision that was last applied completely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RevisionStatus>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Timestamp>,
    /// What of it was applied: where it is the same again, no hook runs and no wave waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentStatus>,
    /// The components of what runs. For as long as a component stays on its commit it keeps its version, also where a tag
    /// is made or moved later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ComponentStatus>,
    /// The images that its objects name, what runs first; then those that the syncs in the history ran before, at most 200
    /// together. Absent until that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImageStatus>>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_none_left")]
    pub images_left_out: u32,
    /// Since when the list is whole: what earlier syncs ran may lack in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_since: Option<Timestamp>,
    /// The sync that is under way, or was stopped by a hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncStatus>,
    /// The revision that it may move to now; absent where it is what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<RevisionStatus>,
    /// The head of the lane, where it may not be moved to yet, and for whom it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateStatus>,
    /// Why it is kept on a revision on purpose, and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The last preview of a rollback, until it is confirmed, or why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<RollbackStatus>,
    /// The last rollback that was begun: under way or over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackStatus>,
    /// What was rolled back and may come with no revision that it moves to, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rolled_back: Vec<RolledBack>,
    /// The requests for rollbacks that were answered, the newest first, at most 50: none is done twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
    /// The commits that were rolled back without a person, the newest first, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
    /// The last record in the ledger when this was written, as `sequence commit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// The revision of the last sync, whether it came to its end or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempted_revision: Option<String>,
    /// The last value of the annotation `towpath.dev/requestedAt` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,
    /// When the sync that is becoming healthy was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_since: Option<Timestamp>,
    /// How many objects it has.
    #[serde(default)]
    pub objects: u32,
    /// What is wrong, at most 20 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What is worth a look, at most 20 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Objects that are not healthy, the worst first, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unhealthy: Vec<ObjectStatus>,
    /// What is not in git and is still there.
    #[serde(flatten)]
    pub leftovers: LeftoverStatus,
    /// The last drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftStatus>,
    /// How many syncs were counted: the number of the last one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub syncs: u64,
    /// The last syncs, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<SyncRecord>,
    /// `Ready`, and while they are true `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What kind of thing a [`Notice`] tells. The name is the reason of the Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// Fields of another manager are ours now.
    TookOver,
    /// Git dropped a field, and it stays because somebody else has it too.
    FieldStays,
    /// Somebody changes an object again and again; it is mended more slowly from now on.
    Contended,
    /// A contended object has come to rest.
    ContentionEnded,
    /// An object was deleted to be created anew.
    Replaced,
}

impl NoticeKind {
    /// Whether somebody should look.
    pub fn is_warning(self) -> bool {
        matches!(self, NoticeKind::FieldStays | NoticeKind::Contended)
    }
}

/// Something that happened once to an object and is worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Of what kind.
    pub kind: NoticeKind,
    /// The object.
    pub object: String,
    /// What happened. Never with a value.
    pub message: String,
}

/// An object that is not healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhealthy {
    /// How it is.
    pub health: Health,
    /// Why.
    pub message: String,
    /// The last lines of a container that failed, clean and masked.
    pub log: Vec<String>,
}

/// What one pass found and did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The generation of the Environment that was looked at.
    pub generation: i64,
    /// Whether the Environment is suspended.
    pub suspended: bool,
    /// What it may move to.
    pub candidate: Option<Revision>,
    /// The head of the lane, where it is not what it may move to.
    pub gate: Option<GateStatus>,
    /// Why it is kept on a revision on purpose.
    pub held: Option<String>,
    /// The revision that everything desired was applied from, if the pass came so far.
    pub settled_on: Option<Revision>,
    /// The revision that was worked on.
    pub attempted: Option<Revision>,
    /// The request that was acted on.
    pub handled_request: Option<String>,
    /// The content of `settled_on`.
    pub content: Option<ContentStatus>,
    /// The components of `settled_on`.
    pub components: Vec<ComponentStatus>,
    /// The images of the revision that was worked on, if the pass came so far.
    pub images: Option<ImagesSeen>,
    /// The sync that goes on.
    pub under_way: Option<SyncStatus>,
    /// What the ledger knows of the last sync: what ends now is counted on from there.
    pub recorded: Option<Recorded>,
    /// The syncs that ended, the older one first. Their numbers are not counted yet.
    pub ended: Vec<SyncRecord>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is worth a look.
    pub warnings: Vec<Problem>,
    /// How many objects there are; 0 where the pass did not come so far.
    pub objects: u32,
    /// Those that are not healthy, by their names.
    pub unhealthy: BTreeMap<String, Unhealthy>,
    /// The worst of them, `None` where it is not known.
    pub worst: Option<Health>,
    /// What is not in git and is still there.
    pub leftovers: Leftovers,
    /// Drift that was found.
    pub drift: Vec<(String, String)>,
    /// What happened that is worth an Event.
    pub notices: Vec<Notice>,
    /// How many objects somebody fights over.
    pub contended: u32,
    /// Since when the sync has been becoming healthy.
    pub rolling_since: Option<Timestamp>,
    /// Whether the time of the sync is over, and it is not healthy.
    pub is_late: bool,
    /// What the pass came to.
    pub decision: Decision,
}

impl Report {
    /// The report of a look at an Environment of a generation that came to nothing.
    pub fn of_nothing(generation: i64, before: &EnvironmentStatus, decision: Decision) -> Report {
        Report {
            generation,
            suspended: false,
            candidate: None,
            gate: None,
            held: before.held.clone(),
            settled_on: None,
            attempted: None,
            handled_request: None,
            content: None,
            components: Vec::new(),
            images: None,
            under_way: before.sync.clone(),
            recorded: None,
            ended: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            objects: 0,
            unhealthy: BTreeMap::new(),
            worst: None,
            leftovers: Leftovers::default(),
            drift: Vec::new(),
            notices: Vec::new(),
            contended: 0,
            rolling_since: before.rolling_since,
            is_late: before.is_late(),
            decision,
        }
    }
}

/// Folds a report into the status before it.
pub fn fold(before: &EnvironmentStatus, report: &Report, now: Timestamp) -> EnvironmentStatus {
    let mut status = before.clone();
    status.observed_generation = Some(report.generation);

    if let Some(revision) = &report.settled_on {
        let text = revision.to_string();
        if before.running.as_ref().is_none_or(|running| running.revision != text) {
            status.running_since = Some(now);
            status.drift = None;
        }
        status.running = Some(revision.into());
        status.content = report.content.clone();
        status.components = report.components.clone();
        status.objects = report.objects;
    }
    if let Some(revision) = &report.attempted {
        status.last_attempted_revision = Some(revision.to_string());
    }
    let runs = status.running.as_ref().map(|running| running.revision.clone());
    status.candidate =
        report.candidate.as_ref().filter(|candidate| Some(candidate.to_string()) != runs).map(Into::into);
    status.gate = report.gate.clone();
    status.held = report.held.clone();
    let has_moved = runs != before.running.as_ref().map(|running| running.revision.clone());
    let is_there = |rollback: &RollbackStatus| rollback.goes_to == runs || !rollback.waits_for_its_revert();
    if let Some(rollback) = status.rollback.as_mut().filter(|rollback| has_moved && is_there(rollback)) {
        // It is there, or somewhere newer: from now on it moves as it always does.
        rollback.goes_to = None;
    }
    if let Some(request) = &report.handled_request {
        status.last_handled_request = Some(request.clone());
    }
    status.sync = report.under_way.clone();
    count_on(&mut status, report.recorded);
    for sync in &report.ended {
        // The same failure, tried again, is said already.
        let runs = |sync: &SyncRecord| sync.hooks.iter().map(|hook| hook.run.clone()).collect::<Vec<_>>();
        let says_the_same = |earlier: &SyncRecord| {
            earlier.outcome == Outcome::Failed
                && sync.outcome == Outcome::Failed
                && (&earlier.revision, &earlier.message) == (&sync.revision, &sync.message)
                && runs(earlier) == runs(sync)
        };
        if !status.history.first().is_some_and(says_the_same) {
            status.syncs += 1;
            status.history.insert(0, SyncRecord { number: status.syncs, ..sync.clone() });
        }
        status.history.truncate(MAX_HISTORY);
        for hook in status.history.iter_mut().skip(MAX_LOGGED).flat_map(|sync| &mut sync.hooks) {
            hook.log.clear();
        }
    }
    if let Some(seen) = &report.images {
        images::fold(before, &mut status, seen, now);
    }
    for (object, message) in &report.drift {
        let count = status.drift.as_ref().map_or(0, |drift| drift.count) + 1;
        status.drift = Some(DriftStatus { object: object.clone(), message: shorten(message), at: now, count });
    }
    if report.worst.is_some() {
        status.health = report.worst;
        // The worst first: it is the one that the condition names.
        let mut unhealthy: Vec<_> = report.unhealthy.iter().collect();
        unhealthy.sort_by_key(|(_, object)| Reverse(object.health));
        status.unhealthy = unhealthy
            .into_iter()
            .take(MAX_LISTED)
            .map(|(object, unhealthy)| ObjectStatus {
                object: object.clone(),
                health: unhealthy.health,
                message: shorten(&unhealthy.message),
                log: unhealthy.log.clone(),
            })
            .collect();
        status.leftovers = leftovers::fold(&before.leftovers, &report.leftovers, now);
        note_health(&mut status, now);
    }
    status.rolling_since = report.rolling_since;
    status.problems = lines(&report.problems);
    status.warnings = lines(&report.warnings);
    status.state = state_of(&status, report);
    status.conditions = conditions(before, &status, report, now);
    status
}

/// Counts on from what the ledger knows. Syncs that were counted before it was known, by an Environment that was made
/// anew, get numbers after those.
fn count_on(status: &mut EnvironmentStatus, recorded: Option<Recorded>) {
    let Some(recorded) = recorded else { return };
    if status.ledger.is_none() && !status.history.iter().any(|sync| recorded.is(sync)) {
        for sync in &mut status.history {
            sync.number += recorded.sync;
        }
        status.syncs += recorded.sync;
    }
    status.syncs = status.syncs.max(recorded.sync);
}

/// Says of the last sync that was applied how the environment came to be after it.
fn note_health(status: &mut EnvironmentStatus, now: Timestamp) {
    // What is on its way has pods of its own.
    if status.sync.as_ref().is_some_and(|sync| !sync.applied) {
        return;
    }
    let runs = status.running.as_ref().map(|running| running.revision.as_str());
    let is_healthy = match status.health {
        Some(Health::Healthy) => true,
        Some(Health::Degraded) => false,
        _ => return,
    };
    let message = status.unhealthy.first().map(|object| format!("{}: {}", object.object, object.message));
    let Some(last) = status.history.iter_mut().find(|sync| sync.has_run()) else { return };
    let is_it = last.outcome == Outcome::Applied && Some(last.revision.as_str()) == runs;
    if is_it && last.health.as_ref().is_none_or(|known| known.is_healthy != is_healthy) {
        let message = message.filter(|_| !is_healthy);
        last.health = Some(SyncHealth { is_healthy, since: now, message });
    }
}

fn is_none_left(number: &u32) -> bool {
    *number == 0
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().take(MAX_LISTED).map(|problem| shorten(&problem.to_string())).collect()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_MESSAGE {
        return text.to_owned();
    }
    text.chars().take(MAX_MESSAGE - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
