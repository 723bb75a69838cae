//! What was reverted on one branch and lives on in another, and merges that bring nothing back.

use std::collections::BTreeSet;
use std::sync::Arc;

use towpath_core::commits::Commit;
use towpath_core::fault::Problem;
use towpath_core::hygiene::remerge::{self, MAX_HISTORY};
use towpath_core::hygiene::reverts::{self, Alive, Unsettled};
use towpath_core::hygiene::{self, Hygiene, MAX_COMPARED};
use towpath_core::lane::Lane;
use towpath_core::revision::CommitId;

use super::{Found, Look};
use crate::releases::Reading;
use crate::repo::View;

/// Reverts of reverts that are followed.
const MAX_CHAIN: usize = 32;

/// Commits that a merge left out of which each is held against the files that are there, the newest ones. Older ones are
/// known again by their marks alone.
const MAX_WEIGHED: usize = 200;

/// The marks of commits.
type Marks = BTreeSet<String>;

impl Look<'_> {
    /// Reverts whose change lives on in a branch that is released after. `judged` gets those that were looked at, however
    /// they are.
    pub(super) fn reverts(&self, found: &mut Found, judged: &mut BTreeSet<CommitId>) -> Result<(), Problem> {
        let compared = hygiene::compared(self.heads.keys(), self.names);
        let mut told: BTreeSet<(CommitId, String)> = BTreeSet::new();
        // Master first, then the newest release: what several branches have is told of the first of them.
        for branch in compared.iter().rev() {
            let mut unsettled: Vec<Unsettled> = Vec::new();
            for other in reverts::must_settle(branch, &compared, self.names) {
                let alive = self.unsettled(branch, (other, self.heads[other]), found, judged)?;
                for (revert, reverted, alive) in alive {
                    let is_news = told.insert((revert.commit, other.to_owned()));
                    let is_release = matches!(Lane::of(branch, self.names), Lane::Release(_));
                    if !is_news || !reverts::is_told(other, alive, is_release, self.names) {
                        continue;
                    }
                    let lives = (other.to_owned(), alive);
                    let known = |one: &&mut Unsettled| (one.revert.commit, one.reverted) == (revert.commit, reverted);
                    match unsettled.iter_mut().find(known) {
                        Some(one) => one.lives.push(lives),
                        None => {
                            let branch = (*branch).to_owned();
                            unsettled.push(Unsettled { branch, revert, reverted, lives: vec![lives] });
                        }
                    }
                }
            }
            found.findings.extend(unsettled.iter().map(|one| one.finding(self.component, self.names)));
        }
        Ok(())
    }

    /// The reverts that hold on a branch and whose change lives on at another commit, and how.
    pub(super) fn unsettled(
        &self,
        branch: &str,
        (other, at): (&str, CommitId),
        found: &mut Found,
        judged: &mut BTreeSet<CommitId>,
    ) -> Result<Vec<(Commit, CommitId, Alive)>, Problem> {
        let head = self.heads[branch];
        // What the other one contains too is settled there.
        let (ours, is_cut) = self.mirror.commits_of(head, &[at], MAX_COMPARED)?;
        self.note_cut(is_cut, branch, found);
        let holding = reverts::reverts(&ours);
        if holding.is_empty() {
            return Ok(Vec::new());
        }
        let theirs = self.marked((other, at), head, found)?;
        let gone = hygiene::taken_back(theirs.iter().map(|marked| &marked.commit));
        let holds = theirs.iter().filter(|marked| !gone.contains(&marked.commit.commit));
        let marks: Marks = holds.filter_map(|marked| marked.mark.clone()).collect();
        let taken_back: Vec<Commit> = theirs.into_iter().map(|marked| marked.commit).collect();
        let taken_back: BTreeSet<CommitId> = reverts::reverts(&taken_back).iter().map(|(_, change)| *change).collect();
        let mut unsettled = Vec::new();
        for (revert, change) in holding {
            // A message may name a commit of another repository, or one that was never here. A revert that was reverted
            // brings a change to the branch: that is no change to be taken out elsewhere.
            if self.takes_back(change, MAX_CHAIN) != Some(false) {
                continue;
            }
            judged.insert(revert.commit);
            let is_settled =
                taken_back.contains(&change) || self.mark(revert)?.is_some_and(|mark| marks.contains(&mark));
            if is_settled {
                continue;
            }
            let brought = self.brought(change)?;
            if let Some(alive) = self.lives(&brought, change, at, &marks)?
                && !self.is_back(&brought, revert, (branch, head), found)?
            {
                unsettled.push((revert.clone(), change, alive));
            }
        }
        Ok(unsettled)
    }

    /// Whether a commit takes something back: one that reverts a change does, and one that reverts such a revert lands
    /// the change again. None where it is not here, or reverts follow reverts for too long.
    fn takes_back(&self, commit: CommitId, chain: usize) -> Option<bool> {
        let told = self.mirror.told(commit).ok()?;
        let Some(first) = told.reverts.first() else { return Some(false) };
        Some(!self.takes_back(*first, chain.checked_sub(1)?)?)
    }

    /// Whether nothing of a commit is left on another one; none where that is not certain, as in a component, of which
    /// only commits are here.
    fn is_gone(&self, commit: CommitId, on: CommitId) -> Result<Option<bool>, Problem> {
        if self.component.is_some() { Ok(None) } else { self.mirror.is_gone(commit, on) }
    }

    /// What a commit brought to its first parent: itself, or what a merge merged.
    fn brought(&self, change: CommitId) -> Result<Vec<Commit>, Problem> {
        let before: Vec<CommitId> = self.mirror.commit(change)?.parents.first().copied().into_iter().collect();
        Ok(self.mirror.commits_of(change, &before, MAX_COMPARED)?.0)
    }

    /// How a commit has what a change brought.
    fn lives(
        &self,
        brought: &[Commit],
        change: CommitId,
        at: CommitId,
        marks: &Marks,
    ) -> Result<Option<Alive>, Problem> {
        let before = self.mirror.commit(change)?.parents.first().copied();
        let without: Vec<CommitId> = before.into_iter().chain([at]).collect();
        let (elsewhere, _) = self.mirror.commits_of(change, &without, MAX_COMPARED)?;
        let mut alive = (elsewhere.len() < brought.len()).then_some(Alive::Same);
        for commit in brought {
            if alive.is_none() && self.mark(commit)?.is_some_and(|mark| marks.contains(&mark)) {
                alive = Some(Alive::Copy);
            }
        }
        // It may have been taken out without a word.
        Ok(match alive {
            Some(alive) if self.is_gone(change, at)? != Some(true) => Some(alive),
            _ => None,
        })
    }

    /// Whether all of what a revert took back came to its branch again, otherwise than by a revert of it.
    fn is_back(
        &self,
        changes: &[Commit],
        revert: &Commit,
        (branch, head): (&str, CommitId),
        found: &mut Found,
    ) -> Result<bool, Problem> {
        if self.is_gone(revert.commit, head)? == Some(true) {
            return Ok(true);
        }
        let anew = self.anew(revert.commit, (branch, head), found)?;
        let gone = hygiene::taken_back(changes.iter());
        let mut wanted = changes.iter().filter(|commit| !commit.is_merge && !gone.contains(&commit.commit)).peekable();
        if wanted.peek().is_none() {
            return Ok(false);
        }
        for commit in wanted {
            if !self.mark(commit)?.is_some_and(|mark| anew.contains(&mark)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The marks of what a branch got after a revert, apart from reverts and from what was taken back again.
    fn anew(&self, revert: CommitId, head: (&str, CommitId), found: &mut Found) -> Result<Marks, Problem> {
        let after = self.marked(head, revert, found)?;
        let gone = hygiene::taken_back(after.iter().map(|marked| &marked.commit));
        let is_anew = |commit: &Commit| commit.reverts.is_empty() && !gone.contains(&commit.commit);
        Ok(after.into_iter().filter(|marked| is_anew(&marked.commit)).filter_map(|marked| marked.mark).collect())
    }

    /// Merges that left something out, because a revert on their branch still holds.
    pub(super) fn traps(&self, found: &mut Found) -> Result<(), Problem> {
        for branch in hygiene::compared(self.heads.keys(), self.names) {
            let head = self.heads[branch];
            let traps = self.reading.traps.get_or(head, || {
                let history = self.mirror.history(head, MAX_HISTORY)?;
                Ok(Arc::new(remerge::traps(&history)))
            })?;
            for trap in &*traps {
                if self.is_gone(trap.revert.commit, head)? == Some(true) {
                    continue;
                }
                let anew = self.anew(trap.revert.commit, (branch, head), found)?;
                let mut trap = trap.clone();
                let mut missing = Vec::new();
                for (nth, commit) in trap.missing.into_iter().enumerate() {
                    let is_gone = if nth < MAX_WEIGHED { self.is_gone(commit.commit, head)? } else { None };
                    let is_missing = match (self.mark(&commit)?, is_gone) {
                        (_, Some(false)) => false,
                        (Some(mark), _) => !anew.contains(&mark),
                        // A move of submodules: where these have moved on since, nothing is missed.
                        (None, is_gone) => is_gone == Some(true),
                    };
                    if is_missing {
                        missing.push(commit);
                    }
                }
                trap.missing = missing;
                if !trap.missing.is_empty() {
                    found.findings.push(trap.finding(self.component, branch));
                }
            }
        }
        Ok(())
    }
}

impl Look<'_> {
    /// What was reverted on master or on a release and lives on at another commit.
    fn alive_at(&self, at: (&str, CommitId), found: &mut Found) {
        let mut told = BTreeSet::new();
        for branch in hygiene::compared(self.heads.keys(), self.names).into_iter().rev() {
            if Lane::of(branch, self.names) == Lane::Develop {
                continue;
            }
            let alive = self.unsettled(branch, at, found, &mut BTreeSet::new());
            let Some(alive) = self.or_unknown(alive, found) else { continue };
            for (revert, reverted, alive) in alive {
                if told.insert(revert.commit) {
                    let lives = vec![(at.0.to_owned(), alive)];
                    let one = Unsettled { branch: branch.to_owned(), revert, reverted, lives };
                    found.findings.push(one.finding(self.component, self.names));
                }
            }
        }
    }
}

impl Reading {
    /// What was reverted on master or on a release and lives on at a commit of the deploy repository (which is called by
    /// some name), or at the commits to which it pins its components.
    ///
    /// # Errors
    /// Where the commit is not in the mirror.
    pub(in crate::releases) fn look_at_commit(
        &self,
        view: &View,
        (name, at): (&str, CommitId),
    ) -> Result<Hygiene, Problem> {
        let names = &view.branches;
        let called = name;
        let mut found = Found::default();
        let lanes = super::lanes_of(&view.heads, &view.deleted, |_| true);
        if !lanes.contains_key(&names.master) {
            found.unknown.insert(super::not_followed(&names.master));
        }
        let deploy = Look { reading: self, names, mirror: &view.mirror, heads: &lanes, component: None };
        deploy.alive_at((called, at), &mut found);
        let tree = self.sketch(view, at)?;
        let snapshot = self.snapshot_of(view, &format!("{at}@sha1:{at}"), &[]);
        for pinned in view.parts.of(&tree) {
            let path = &pinned.submodule.path;
            let cell = snapshot.as_ref().ok().and_then(|known| known.components.iter().find(|cell| cell.path == *path));
            let name = cell.map_or(path.as_str(), |cell| cell.name.as_str());
            match &pinned.part {
                Err(problem) => drop(found.unknown.insert(format!("{name}: {problem}"))),
                Ok(part) => {
                    let heads = super::lanes_of(&part.heads, &part.deleted, |branch| lanes.contains_key(branch));
                    let (mirror, component) = (&*part.mirror, Some(name));
                    let look = Look { reading: self, names, mirror, heads: &heads, component };
                    look.alive_at((called, pinned.commit), &mut found);
                }
            }
        }
        let compared = hygiene::compared(lanes.keys(), names).into_iter().map(str::to_owned).collect();
        Ok(found.hygiene(self.name.clone(), compared))
    }
}
