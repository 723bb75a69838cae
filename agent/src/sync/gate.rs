//! What an environment may move to: the head of its lane, or the newest revision that passed where it must have.

use jiff::Timestamp;
use towpath_core::candidate::{self, Candidate};
use towpath_core::environment::Environment;
use towpath_core::fault::Problem;
use towpath_core::lane::LaneRule;
use towpath_core::ledger::passed;
use towpath_core::revision::CommitId;
use towpath_core::status::GateStatus;

use super::course;
use crate::repo::View;

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
}

/// Finds it. Nothing older than what runs is moved to. `as_of` is the time up to which the ledgers are known.
///
/// # Errors
/// `Setup` when the lane has no branch.
pub fn wanted(
    view: &View,
    environment: &Environment,
    (running, cluster): (Option<CommitId>, &str),
    as_of: Timestamp,
) -> Result<Wanted, Problem> {
    let head = candidate::find(&environment.lane, &view.heads, &view.branches)?;
    if environment.after.is_empty() || running == Some(head.commit) {
        return Ok(Wanted { candidate: Some(head), ..Wanted::default() });
    }
    let mut next = Some(head.commit);
    let history = std::iter::from_fn(|| {
        let commit = next.take().filter(|commit| Some(*commit) != running)?;
        // What is not in the mirror ends the walk: nothing older is judged by guess.
        let stored = view.mirror.commit(commit).ok()?;
        next = stored.parents.first().copied();
        Some((commit, stored.tree))
    });
    // Who names one commit means that one.
    let length = if matches!(environment.lane, LaneRule::Commit(_)) { 1 } else { MAX_WALK };
    let verdict = passed::newest_passed(history.take(length), (&environment.after, cluster), &view.gates, as_of);
    // The lane may have moved to another branch, or been reset: what is part of what runs is no step forward.
    let is_forward =
        |commit: CommitId| running.is_none_or(|running| !view.mirror.is_ancestor(commit, running).unwrap_or(true));
    let gate = verdict.waits.map(|message| GateStatus { revision: course::revision_text(&head), message });
    let commit = verdict.commit.filter(|commit| is_forward(*commit));
    let candidate = commit.map(|commit| Candidate { branch: head.branch, commit });
    Ok(Wanted { candidate, gate, look_at: verdict.look_at })
}
