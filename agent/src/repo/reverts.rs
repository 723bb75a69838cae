//! What a branch says of reverts: which changes were taken back, and whether a revision is without a change.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use towpath_core::commits::Commit;
use towpath_core::fault::Problem;
use towpath_core::revision::CommitId;

use super::{Mirror, Reversal};

/// Commits of a branch that are looked through for reverts, from its newest.
pub const MAX_LOOKED_AT: usize = 2000;
/// Commits of another branch that are looked through for cherry-picks of a change, from its newest.
const MAX_COPIES_LOOKED_AT: usize = 500;
/// Answers that are remembered.
const MAX_SETTLED: usize = 60_000;
const UNHARMED: &str = "nothing panics while it holds this lock";

/// A revert that still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandingRevert {
    /// The commit that it takes back.
    pub taken: CommitId,
    /// The revert.
    pub revert: CommitId,
}

/// The reverts that a revision contains and that were not reverted themselves; those that some older ones contain are left
/// out.
///
/// # Errors
/// `Passing` when something of it is not in the mirror.
pub fn reverts(mirror: &Mirror, head: CommitId, without: &[CommitId]) -> Result<Vec<StandingRevert>, Problem> {
    let without: Vec<CommitId> = without.iter().copied().filter(|one| mirror.contains(*one)).collect();
    let (commits, _) = mirror.commits_of(head, &without, MAX_LOOKED_AT)?;
    let mut gone = BTreeSet::new();
    let mut standing = Vec::new();
    // The newest first, so that a revert that was reverted takes nothing back.
    for commit in commits.iter().filter(|commit| !commit.reverts.is_empty()) {
        if gone.contains(&commit.commit) {
            continue;
        }
        for taken in &commit.reverts {
            gone.insert(*taken);
            // With a merge goes what it brought: of reverts, what they took back is there again.
            gone.extend(brought(mirror, *taken)?.iter().map(|one| one.commit));
        }
        standing.extend(commit.reverts.iter().map(|taken| StandingRevert { taken: *taken, revert: commit.commit }));
    }
    Ok(standing)
}

/// The commits that a merge brought to the branch; none for a plain commit, or for one that is not here.
///
/// # Errors
/// `Passing` when something of it is not in the mirror.
pub fn brought(mirror: &Mirror, merge: CommitId) -> Result<Vec<Commit>, Problem> {
    let parents = mirror.commit(merge).map(|stored| stored.parents).unwrap_or_default();
    match parents[..] {
        [before, _, ..] => {
            let (commits, _) = mirror.commits_of(merge, &[before], MAX_LOOKED_AT)?;
            Ok(commits.into_iter().filter(|one| one.commit != merge).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Whether revisions are without changes that were rolled back. What was found out once is remembered, for commits never
/// change.
#[derive(Default)]
pub struct Settled {
    known: Mutex<HashMap<Question, bool>>,
    /// The newest commits of the revision that was looked through last.
    picks: Mutex<Option<(CommitId, Arc<Picks>)>>,
}

/// A change, its revert where one is known, and a revision.
type Question = (CommitId, Option<CommitId>, CommitId);
/// Commits by what a cherry-pick keeps of them.
type Picks = HashMap<String, Vec<CommitId>>;

impl Settled {
    /// Whether a revision is without a change: it does not contain it, nor a cherry-pick of it, or contains its revert, or
    /// a revert of it that somebody else made, or nothing of it is left.
    ///
    /// # Errors
    /// `Passing` when the revision or something of it is not in the mirror: that is not remembered.
    pub fn is_without(
        &self,
        mirror: &Mirror,
        revision: CommitId,
        (taken, revert): (CommitId, Option<CommitId>),
    ) -> Result<bool, Problem> {
        let lock = || self.known.lock().expect(UNHARMED);
        let question = (taken, revert, revision);
        if let Some(known) = lock().get(&question) {
            return Ok(*known);
        }
        let is_without = self.find_out(mirror, question)?;
        let mut known = lock();
        if known.len() >= MAX_SETTLED {
            known.clear();
        }
        known.insert(question, is_without);
        Ok(is_without)
    }

    /// Whether a revision contains a change or a cherry-pick of it, whatever became of it.
    ///
    /// # Errors
    /// As [`Settled::is_without`].
    pub fn contains(&self, mirror: &Mirror, revision: CommitId, change: CommitId) -> Result<bool, Problem> {
        if !mirror.has(change)? {
            return Ok(false);
        }
        Ok(mirror.is_ancestor(change, revision)? || !self.copies(mirror, change, revision)?.is_empty())
    }

    fn find_out(&self, mirror: &Mirror, (taken, revert, revision): Question) -> Result<bool, Problem> {
        // An empty or damaged mirror says nothing of anything.
        if !mirror.has(revision)? {
            return Err(Problem::passing(format!("the commit {revision} is not in the mirror yet")));
        }
        // A mirror has the whole history of each branch: what is not in it is in none of them.
        if !mirror.has(taken)? {
            return Ok(true);
        }
        if !mirror.is_ancestor(taken, revision)? {
            for copy in self.copies(mirror, taken, revision)? {
                // A revert may have been picked too, and says whose it was.
                if !is_undone(mirror, copy, &[copy, taken], revision)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        // What does not come after a change takes nothing of it back: the branch was reset to it.
        if let Some(revert) = revert.filter(|revert| mirror.contains(*revert))
            && mirror.is_ancestor(taken, revert)?
            && mirror.is_ancestor(revert, revision)?
        {
            return Ok(true);
        }
        is_undone(mirror, taken, &[taken], revision)
    }

    /// The same change as other commits of a revision: cherry-picks, by what they keep and by what they change. One that
    /// was changed on the way is another change.
    fn copies(&self, mirror: &Mirror, taken: CommitId, revision: CommitId) -> Result<Vec<CommitId>, Problem> {
        let picks = self.picks_of(mirror, revision)?;
        let mut copies = Vec::new();
        for pick in picks.get(&mirror.told(taken)?.kept_by_a_cherry_pick()).into_iter().flatten() {
            let (one, other) = (mirror.patch_id(taken)?, mirror.patch_id(*pick)?);
            if one.is_some() && one == other {
                copies.push(*pick);
            }
        }
        Ok(copies)
    }

    fn picks_of(&self, mirror: &Mirror, revision: CommitId) -> Result<Arc<Picks>, Problem> {
        let lock = || self.picks.lock().expect(UNHARMED);
        if let Some((_, known)) = lock().as_ref().filter(|(of, _)| *of == revision) {
            return Ok(known.clone());
        }
        let mut picks = Picks::new();
        for commit in mirror.commits_of(revision, &[], MAX_COPIES_LOOKED_AT)?.0 {
            picks.entry(commit.kept_by_a_cherry_pick()).or_default().push(commit.commit);
        }
        let picks = Arc::new(picks);
        *lock() = Some((revision, picks.clone()));
        Ok(picks)
    }
}

/// Whether a revision that contains a change has a revert of it, by one of its names, or nothing of it is left.
fn is_undone(mirror: &Mirror, change: CommitId, names: &[CommitId], revision: CommitId) -> Result<bool, Problem> {
    Ok(reverts(mirror, revision, &[change])?.iter().any(|one| names.contains(&one.taken))
        || mirror.reverse(change, revision)? == Reversal::Nothing)
}
