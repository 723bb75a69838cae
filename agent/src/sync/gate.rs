//! What an environment may move to: the head of its lane, or the newest revision that passed where it must have and is
//! without what was rolled back.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use towpath_core::candidate::{self, Candidate};
use towpath_core::environment::Environment;
use towpath_core::fault::Problem;
use towpath_core::lane::LaneRule;
use towpath_core::ledger::passed;
use towpath_core::revision::CommitId;
use towpath_core::status::{EnvironmentStatus, GateStatus, RollbackPhase, RollbackStatus};

use super::course;
use crate::repo::{Settled, View};

/// Commits of a lane that are looked at, from its head, by their first parents.
const MAX_WALK: usize = 500;

/// What an environment may move to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The revision. None where it waits for others: then what is under way goes on, and what runs stays.
    pub candidate: Option<Candidate>,
    /// The head of the lane, where it may not be moved to yet.
    pub gate: Option<GateStatus>,
    /// When time alone lets another revision pass.
    pub look_at: Option<Timestamp>,
    /// Where a rollback takes it, whether it moves by itself or not.
    pub goes_to: Option<Candidate>,
    /// Why it is kept where it is: no revision that it may move to is without what was rolled back.
    pub held: Option<String>,
    /// Whether what is under way has in it what was rolled back.
    pub gives_up: bool,
}

/// What a status says that decides where its environment may move to.
#[derive(Clone)]
pub struct Standing {
    environment: String,
    running: Option<CommitId>,
    under_way: Option<CommitId>,
    rollback: Option<RollbackStatus>,
    rolled_back: Vec<Change>,
    /// Those of them that what runs leaves open, once that was asked.
    open: Arc<OnceLock<Vec<Change>>>,
    settled: Arc<Settled>,
}

/// A change that was rolled back, and its revert where one is known.
type Change = (CommitId, Option<CommitId>);

fn is_in(view: &View, commit: CommitId, revision: CommitId) -> bool {
    view.mirror.contains(commit) && view.mirror.is_ancestor(commit, revision).unwrap_or(false)
}

impl Standing {
    /// Reads it. What was found out of commits before is in `settled`.
    pub fn of(environment: &str, status: &EnvironmentStatus, settled: Arc<Settled>) -> Standing {
        let under_way = status.sync.as_ref().filter(|sync| !sync.applied);
        Standing {
            environment: environment.to_owned(),
            running: status.running_commit(),
            under_way: under_way.and_then(|sync| Some(course::revision_of(&sync.revision)?.commit)),
            rollback: status.rollback.clone().filter(|one| one.goes_to.is_some() || one.phase.is_under_way()),
            rolled_back: status.changes_rolled_back(),
            open: Arc::default(),
            settled,
        }
    }

    /// The first change that was rolled back and that a revision has in it. What cannot be found out counts as one.
    pub fn has_in(&self, view: &View, revision: CommitId) -> Option<CommitId> {
        if self.rolled_back.is_empty() {
            return None;
        }
        // What comes after what runs has every revert that this has.
        let is_after = self.running.is_some_and(|running| is_in(view, running, revision));
        let changes = if is_after { self.open(view) } else { &self.rolled_back };
        let is_without = |change: &Change| self.settled.is_without(&view.mirror, revision, *change).unwrap_or(false);
        changes.iter().find(|change| !is_without(change)).map(|(taken, _)| *taken)
    }

    /// The changes that what runs does not have together with their reverts.
    fn open(&self, view: &View) -> &[Change] {
        self.open.get_or_init(|| {
            let is_over = |change: &&Change| {
                let is_without = |running| self.settled.is_without(&view.mirror, running, **change).unwrap_or(false);
                let contains = |running| self.settled.contains(&view.mirror, running, change.0).unwrap_or(false);
                self.running.is_some_and(|running| contains(running) && is_without(running))
            };
            self.rolled_back.iter().filter(|change| !is_over(change)).copied().collect()
        })
    }

    /// What is waited for, in words.
    fn waits_for(&self, taken: CommitId, branch: &str) -> String {
        let short = taken.short();
        // An older one that gave way to the one under way has a branch of its own.
        let why = match self.rollback.as_ref().filter(|rollback| rollback.commits().contains(&taken)) {
            Some(RollbackStatus { phase: RollbackPhase::WaitsForMerge, branch: Some(beside), .. }) => {
                format!("{short} was rolled back, and waits for {beside} to be merged into {branch}")
            }
            Some(RollbackStatus { phase: RollbackPhase::WaitsForGit, .. }) => {
                return format!(
                    "{short} was rolled back in the cluster alone, and its revert waits for the git server"
                );
            }
            Some(rollback) if rollback.cannot_push().is_some() => {
                format!("{short} was rolled back; {}", rollback.cannot_push().unwrap_or_default())
            }
            Some(RollbackStatus { phase: RollbackPhase::Pushing, .. }) => {
                return format!("{short} was rolled back, and its revert is being pushed to {branch}");
            }
            _ => {
                let its = |(one, revert): &Change| revert.filter(|_| *one == taken);
                let revert = self.rolled_back.iter().find_map(its).map(|revert| format!(" {}", revert.short()));
                format!("{short} was rolled back, and {branch} does not have its revert{}", revert.unwrap_or_default())
            }
        };
        format!("{why}; where it was mended otherwise: towpath reland {} {short}", self.environment)
    }
}

/// Finds it. Nothing older than what runs is moved to. `as_of` is the time up to which the ledgers are known.
///
/// # Errors
/// `Setup` when the lane has no branch.
pub fn wanted(
    view: &View,
    environment: &Environment,
    (standing, cluster): (&Standing, &str),
    as_of: Timestamp,
) -> Result<Wanted, Problem> {
    let head = candidate::find(&environment.lane, &view.heads, &view.branches)?;
    let branch = head.branch.clone();
    let rolled_back = standing.has_in(view, head.commit);
    let goes_to = standing.rollback.as_ref().and_then(|rollback| course::revision_of(rollback.goes_to.as_ref()?));
    // Nothing but a commit of the lane is applied, whatever a status says.
    let is_on_lane = |one: &Candidate| view.mirror.is_ancestor(one.commit, head.commit).unwrap_or(false);
    let back = Wanted {
        goes_to: goes_to.filter(|one| Some(one.commit) != standing.running && is_on_lane(one)),
        gives_up: standing.under_way.is_some_and(|commit| standing.has_in(view, commit).is_some()),
        ..Wanted::default()
    };
    let passed = passed(view, environment, head, (standing, cluster), as_of);
    match (&passed.candidate, rolled_back) {
        (None, Some(taken)) => {
            Ok(Wanted { held: Some(standing.waits_for(taken, &branch)), gate: None, look_at: passed.look_at, ..back })
        }
        _ => Ok(Wanted { goes_to: back.goes_to, gives_up: back.gives_up, ..passed }),
    }
}

/// The newest revision that is without what was rolled back and that passed where it must have.
fn passed(
    view: &View,
    environment: &Environment,
    head: Candidate,
    (standing, cluster): (&Standing, &str),
    as_of: Timestamp,
) -> Wanted {
    let running = standing.running;
    let is_without = |commit: CommitId| standing.has_in(view, commit).is_none();
    let is_all = environment.after.is_empty() || running == Some(head.commit);
    if is_all && !is_without(head.commit) {
        return Wanted::default();
    }
    if is_all {
        return Wanted { candidate: Some(head), ..Wanted::default() };
    }
    // What is not in the mirror ends the walk: nothing older is judged by guess.
    let line = view.mirror.line(head.commit).map_while(Result::ok);
    let history = line.map(|(commit, stored)| (commit, stored.tree)).take_while(|(commit, _)| Some(*commit) != running);
    // Who names one commit means that one.
    let length = if matches!(environment.lane, LaneRule::Commit(_)) { 1 } else { MAX_WALK };
    let history = history.take(length).filter(|(commit, _)| is_without(*commit));
    let verdict = passed::newest_passed(history, (&environment.after, cluster), &view.gates, as_of);
    // The lane may have moved to another branch, or been reset: what is part of what runs is no step forward.
    let is_forward =
        |commit: CommitId| running.is_none_or(|running| !view.mirror.is_ancestor(commit, running).unwrap_or(true));
    let gate = verdict.waits.map(|message| GateStatus { revision: course::revision_text(&head), message });
    let commit = verdict.commit.filter(|commit| is_forward(*commit));
    let candidate = commit.map(|commit| Candidate { branch: head.branch, commit });
    Wanted { candidate, gate, look_at: verdict.look_at, ..Wanted::default() }
}
