//! Whether a branch has what a rollback makes, by whatever way it came to it, and what becomes of the environment then.

use std::sync::Arc;

use towpath_core::environment;
use towpath_core::fault::{Fault, Problem};
use towpath_core::revision::CommitId;
use towpath_core::status::{EnvironmentStatus, RollbackPhase, RollbackStatus, RolledBack};

use super::Task;
use super::landing::{Lane, is_of_waiting};
use super::preview::revision;
use crate::blocking::blocking;
use crate::repo::{Mirror, Undoing, View};
use crate::resources::Environment;

/// Commits of a branch that are looked through for one with the files of reverts.
const MAX_MERGED: usize = 500;
/// Commits of a branch, since it was agreed to, that are looked through for one with all that reverts change.
const MAX_LOOKED_INTO: usize = 100;

impl Task {
    /// The commit by which the branch has the reverts, made by us or by anybody.
    pub(super) async fn has_reverts(
        &mut self,
        view: &Arc<View>,
        lane: &Lane,
        rollback: &RollbackStatus,
    ) -> Result<Option<CommitId>, Problem> {
        let tip = rollback.tip();
        // What a branch does not have, it has not as long as it stands there.
        let asked = (rollback.id.clone(), tip, lane.head);
        if self.pushes.not_landed.as_ref() == Some(&asked) {
            return Ok(None);
        }
        let undoing = undoing(rollback);
        let (mirror, chosen, settled) = (view.mirror.clone(), rollback.commits(), self.settled.clone());
        let head = lane.head;
        let found: Result<Option<CommitId>, Problem> = blocking(move || {
            if let Some(tip) = tip.filter(|tip| mirror.contains(*tip)) {
                if mirror.is_ancestor(tip, head)? {
                    return Ok(Some(tip));
                }
                if let Some(same) = merged_as_one(&mirror, tip, head)? {
                    return Ok(Some(same));
                }
            }
            if let Some((undoing, made_on)) = undoing
                && let Some(by) = merged_with_others(&mirror, &undoing, made_on, head)?
            {
                return Ok(Some(by));
            }
            for commit in &chosen {
                if !settled.is_without(&mirror, head, (*commit, None))? {
                    return Ok(None);
                }
            }
            Ok((!chosen.is_empty()).then_some(head))
        })
        .await;
        self.pushes.not_landed = matches!(found, Ok(None)).then_some(asked);
        found
    }

    /// The branch has the reverts, by a commit.
    pub(super) async fn has_landed(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &Arc<View>,
        (lane, by): (&Lane, CommitId),
        rollback: RollbackStatus,
    ) {
        let rollback = self.with_rest(environment, view, rollback).await;
        let tip = rollback.tip();
        let commits: Vec<String> = rollback.reverts.iter().map(|one| one.commit.clone()).collect();
        let (mirror, head, noted) = (view.mirror.clone(), lane.head, self.status.rolled_back.clone());
        let running = self.status.running_commit();
        let (is_same, runs_the_same, has_tip, noted) = blocking(move || {
            let tree = |commit: CommitId| mirror.commit(commit).map(|stored| stored.tree).ok();
            let is_in = |commit: CommitId| mirror.contains(commit) && mirror.is_ancestor(commit, head).unwrap_or(false);
            // Merged as it was made: that is what was agreed to, by whatever commit.
            let is_same = tip.is_some_and(|tip| tree(tip).is_some() && tree(tip) == tree(head));
            let runs_the_same = running.is_some_and(|running| tree(running).is_some() && tree(running) == tree(head));
            let noted = noted.into_iter().map(|one| {
                let Some((commit, revert)) = one.change() else { return one };
                let is_known = revert.is_some_and(is_in);
                let comes_after = mirror.contains(commit) && mirror.is_ancestor(commit, by).unwrap_or(false);
                // Reverted in another way: what it was known to be without it, whatever came or comes after. Where the
                // branch was reset to before it, that takes nothing back: it may be pushed again.
                let is_noted = commits.contains(&one.commit) && !is_known && comes_after;
                RolledBack { revert: if is_noted { Some(by.to_string()) } else { one.revert }, ..one }
            });
            (is_same, runs_the_same, tip.is_some_and(is_in), noted.collect::<Vec<_>>())
        })
        .await;
        let waited_for_tip =
            rollback.goes_to.is_some() && rollback.goes_to == tip.map(|tip| revision(&lane.branch, tip));
        let goes_to = match () {
            // Where it went back to the same files meanwhile, nothing changes by it.
            () if is_same && (waited_for_tip || runs_the_same) => Some(revision(&lane.branch, lane.head)),
            () if waited_for_tip && !has_tip => None,
            () => rollback.goes_to.clone(),
        };
        // An environment that is there already need not go.
        let goes_to = self.not_there(goes_to);
        let commit = if is_same { Some(lane.head.to_string()) } else { rollback.commit.clone() };
        let lines = rollback.lines.iter().filter(|line| !is_of_waiting(line)).cloned().collect();
        let next = RollbackStatus { phase: RollbackPhase::Done, goes_to, commit, lines, ..rollback };
        let status = EnvironmentStatus { rolled_back: noted, ..(*self.status).clone() };
        self.show_with(resource, status, next).await;
    }
}

/// The commit of the branch that has the very files of some reverts, although it is none of them: they were merged as one.
fn merged_as_one(mirror: &Mirror, tip: CommitId, head: CommitId) -> Result<Option<CommitId>, Problem> {
    let tree = mirror.commit(tip)?.tree;
    let mut found = None;
    for step in mirror.line(head).take(MAX_MERGED) {
        let (commit, stored) = step?;
        if mirror.is_ancestor(commit, tip)? {
            // What they were made on had other files, or these say nothing.
            return Ok(found.filter(|_| stored.tree != tree));
        }
        if stored.tree == tree {
            found = Some(commit);
        }
    }
    Ok(None)
}

/// What a rollback comes to, and the commit on which that is known to fit.
fn undoing(rollback: &RollbackStatus) -> Option<(Undoing, CommitId)> {
    let chosen = rollback.commits();
    let onto = rollback.onto.as_ref().and_then(|onto| onto.parse().ok());
    let made_on = onto.or(chosen.first().copied())?;
    if rollback.wish.as_ref().is_some_and(|wish| wish.restore) {
        let to = crate::sync::revision_of(rollback.to.as_ref()?)?;
        return Some((Undoing::Restoring(to.commit), made_on));
    }
    (!chosen.is_empty()).then_some((Undoing::Reverts(chosen), made_on))
}

/// The commit of the branch since which it has all that reverts change, together with whatever else: they were merged as one
/// after the branch had moved on. It is found without the commits that were made, for the mirror may have lost them.
fn merged_with_others(
    mirror: &Mirror,
    undoing: &Undoing,
    made_on: CommitId,
    head: CommitId,
) -> Result<Option<CommitId>, Problem> {
    if !undoing.commits().iter().chain([&made_on]).all(|commit| mirror.contains(*commit)) {
        return Ok(None);
    }
    let mut since = Vec::new();
    for step in mirror.line(head).take(MAX_LOOKED_INTO) {
        let (commit, _) = step?;
        if mirror.is_ancestor(commit, made_on)? {
            break;
        }
        since.push(commit);
    }
    since.reverse();
    if since.is_empty() {
        return Ok(None);
    }
    match mirror.first_with(undoing, made_on, &since) {
        // What is beyond the limits is not found in this way.
        Err(problem) if problem.fault == Fault::Content => Ok(None),
        found => found,
    }
}
