//! What a branch says of reverts: which changes were taken back, and whether a revision is without a change.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use towpath_core::commits::Commit;
use towpath_core::fault::Problem;
use towpath_core::revision::CommitId;

use super::{Mirror, Reversal};

/// Commits of a branch that are looked through for reverts, from its newest.
pub const MAX_LOOKED_AT: usize = 2000;
/// Commits of another branch that are looked through for cherry-picks of a change, from its newest. A merge that brought
/// more than that which a branch does not contain cannot be there by cherry-picks alone.
const MAX_COPIES_LOOKED_AT: usize = 500;
/// Answers of a kind that are remembered.
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
    /// Whether a revision contains a change.
    contained: Mutex<HashMap<(CommitId, CommitId), bool>>,
    /// The newest commits of the revision that was looked through last.
    picks: Mutex<Option<(CommitId, Arc<Picks>)>>,
}

/// A change, its revert where one is known, and a revision.
type Question = (CommitId, Option<CommitId>, CommitId);
/// Commits by what a cherry-pick keeps of them.
type Picks = HashMap<String, Vec<CommitId>>;

impl Settled {
    /// Whether a revision is without a change: it does not contain it, nor a cherry-pick of it, nor all that it brought
    /// where it is a merge, or contains its revert, or a revert of it that somebody else made, or nothing of it is left.
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
        remember(&mut lock(), question, is_without);
        Ok(is_without)
    }

    /// Whether a revision contains a change, a cherry-pick of it, or all that it brought where it is a merge, whatever
    /// became of it.
    ///
    /// # Errors
    /// As [`Settled::is_without`].
    pub fn contains(&self, mirror: &Mirror, revision: CommitId, change: CommitId) -> Result<bool, Problem> {
        if !mirror.has(change)? {
            return Ok(false);
        }
        let known = || self.contained.lock().expect(UNHARMED);
        if let Some(contains) = known().get(&(change, revision)) {
            return Ok(*contains);
        }
        let contains = mirror.is_ancestor(change, revision)?
            || !self.copies(mirror, change, revision)?.is_empty()
            || self.merged_otherwise(mirror, change, revision)?.is_some();
        remember(&mut known(), (change, revision), contains);
        Ok(contains)
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
            return match self.merged_otherwise(mirror, taken, revision)? {
                Some(merged) => is_all_undone(mirror, taken, &merged, revision),
                None => Ok(true),
            };
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

    /// What a merge brought, where a revision that does not contain the merge has all of that in another way: by another
    /// merge of the same commits, or by cherry-picks of them. None where any of it is not there, where the merge brought
    /// no commit but merges, and for a plain commit.
    fn merged_otherwise(
        &self,
        mirror: &Mirror,
        merge: CommitId,
        revision: CommitId,
    ) -> Result<Option<Merged>, Problem> {
        let [before, _, ..] = mirror.commit(merge)?.parents[..] else { return Ok(None) };
        let (missing, is_cut) = mirror.commits_of(merge, &[before, revision], MAX_COPIES_LOOKED_AT)?;
        if is_cut {
            return Ok(None);
        }
        let mut copies = HashMap::new();
        for one in missing.iter().filter(|one| !one.is_merge) {
            let found = self.copies(mirror, one.commit, revision)?;
            if found.is_empty() && !is_empty(mirror, one.commit)? {
                return Ok(None);
            }
            copies.insert(one.commit, found);
        }
        let (commits, is_cut) = mirror.commits_of(merge, &[before], MAX_LOOKED_AT)?;
        // What changes nothing and is not there was passed over by whoever picked the others.
        let is_there = |one: &&Commit| !one.is_merge && copies.get(&one.commit).is_none_or(|found| !found.is_empty());
        let names: Vec<CommitId> = commits.iter().filter(is_there).map(|one| one.commit).collect();
        let names: Vec<_> = names.into_iter().map(|one| (one, copies.remove(&one).unwrap_or_default())).collect();
        Ok((!names.is_empty()).then_some(Merged { before, names, is_cut }))
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

fn remember<K: Eq + Hash>(known: &mut HashMap<K, bool>, question: K, answer: bool) {
    if known.len() >= MAX_SETTLED {
        known.clear();
    }
    known.insert(question, answer);
}

/// What a merge brought, as a revision has it that does not contain the merge.
struct Merged {
    /// The branch before the merge.
    before: CommitId,
    /// Its plain commits, each with its cherry-picks where it is there by these alone.
    names: Vec<(CommitId, Vec<CommitId>)>,
    /// Whether there are more than are looked through.
    is_cut: bool,
}

/// Whether all that a merge brought is undone in a revision that has it in another way: by a revert of the merge that was
/// picked, by reverts of each of its commits or of merges that brought them, or nothing of it is left. What is only undone
/// in part is there.
fn is_all_undone(mirror: &Mirror, merge: CommitId, merged: &Merged, revision: CommitId) -> Result<bool, Problem> {
    let mut gone = BTreeSet::new();
    for one in reverts(mirror, revision, &[merged.before])? {
        gone.insert(one.taken);
        gone.extend(brought(mirror, one.taken)?.iter().map(|one| one.commit));
    }
    // A revert may have been picked too, and says whose it was.
    let mut is_all = !merged.is_cut;
    for (one, picks) in &merged.names {
        let is_gone = gone.contains(one) || (!picks.is_empty() && picks.iter().all(|pick| gone.contains(pick)));
        is_all = is_all && (is_gone || is_empty(mirror, *one)?);
    }
    // Of more than were looked through nobody knows that each of them is undone.
    Ok(gone.contains(&merge) || is_all || mirror.reverse(merge, revision)? == Reversal::Nothing)
}

/// Whether a plain commit changes nothing at all: nobody can pick that.
fn is_empty(mirror: &Mirror, commit: CommitId) -> Result<bool, Problem> {
    let stored = mirror.commit(commit)?;
    match stored.parents[..] {
        [before] => Ok(mirror.commit(before)?.tree == stored.tree),
        _ => Ok(false),
    }
}

/// Whether a revision that contains a change has a revert of it, by one of its names, or nothing of it is left.
fn is_undone(mirror: &Mirror, change: CommitId, names: &[CommitId], revision: CommitId) -> Result<bool, Problem> {
    Ok(reverts(mirror, revision, &[change])?.iter().any(|one| names.contains(&one.taken))
        || mirror.reverse(change, revision)? == Reversal::Nothing)
}
