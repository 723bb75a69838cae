//! The version of a commit: the nearest tag `vX.Y` before it, the commits since, and the commit.
//!
//! It is made of tags and the graph alone, so everybody who has both comes to the same text: the agent, a CI job and a
//! developer. Dates of commits say only in which order the graph is read; what comes out does not depend on them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt;

use crate::fault::Problem;
use crate::lane::number;
use crate::revision::CommitId;

/// A tag that begins a version: `vX.Y`, compared as two numbers, so v1.10 comes after v1.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionTag {
    /// X.
    pub major: u32,
    /// Y.
    pub minor: u32,
}

impl VersionTag {
    /// Reads `vX.Y`. Anything else (v1, v1.2.3, v01.2, v1.0-rc, V1.0) begins no version.
    pub fn parse(tag: &str) -> Option<VersionTag> {
        let (major, minor) = tag.strip_prefix('v')?.split_once('.')?;
        Some(VersionTag { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for VersionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.major, self.minor)
    }
}

/// The version of a commit.
///
/// `Display` writes `v1.0-12-e6e5d98`. The commit always has 7 digits, where git writes more in a large repository:
/// what one clone needs to tell commits apart must not change the text that others write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The nearest tag.
    pub tag: VersionTag,
    /// Commits that the commit has in its history, itself included, and the tag has not: `git rev-list --count tag..`.
    pub count: usize,
    /// The commit.
    pub commit: CommitId,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.tag, self.count, self.commit.short())
    }
}

/// What a commit says of those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestry {
    /// When it was committed, in seconds since 1970, as its committer says. It only makes reading shorter.
    pub committed_at: i64,
    /// The commits before it.
    pub parents: Vec<CommitId>,
}

/// The version of a commit, by the tags of its repository (by name) and what `read` says of each commit that is asked for.
///
/// The nearest tag is the one with the fewest commits since; of two with as many it is the higher one. Tags that are
/// not before the commit do not count, and neither do names that are not `vX.Y`.
///
/// History is read from the commit on, newest first, until all of it goes through one commit at or above which there is
/// a tag; where that never happens, to its beginning.
///
/// # Errors
/// `Setup` when no tag `vX.Y` is before the commit: nothing is invented. And whatever `read` reports.
pub fn describe(
    commit: CommitId,
    tags: &BTreeMap<String, CommitId>,
    read: impl FnMut(CommitId) -> Result<Ancestry, Problem>,
) -> Result<Version, Problem> {
    let mut tagged: HashMap<CommitId, VersionTag> = HashMap::new();
    for (name, at) in tags {
        if let Some(tag) = VersionTag::parse(name) {
            let highest = tagged.entry(*at).or_insert(tag);
            *highest = tag.max(*highest);
        }
    }
    let none = || {
        Problem::setup(format!("no tag vX.Y is at or before the commit {}", commit.short()))
            .hint("begin with one, such as `git tag -a v1.0 COMMIT`, and push it")
    };
    if tagged.is_empty() {
        return Err(none());
    }
    let history = History::read(commit, &tagged, read)?;
    let (count, tag) = history.nearest().ok_or_else(none)?;
    Ok(Version { tag, count, commit })
}

/// The commits that were read. Each has a number, in the order in which they were found; the first is the one that is
/// described.
struct History {
    parents: Vec<Vec<u32>>,
    tags: Vec<Option<VersionTag>>,
}

/// Tags that are counted at once.
const AT_ONCE: usize = u64::BITS as usize;

impl History {
    fn read(
        commit: CommitId,
        tagged: &HashMap<CommitId, VersionTag>,
        mut read: impl FnMut(CommitId) -> Result<Ancestry, Problem>,
    ) -> Result<History, Problem> {
        let mut history = History { parents: vec![Vec::new()], tags: vec![tagged.get(&commit).copied()] };
        let mut numbers = HashMap::from([(commit, 0)]);
        let mut has_tag = history.tags[0].is_some();
        let mut has_beginning = false;
        // Newest first, then in the order in which they were found.
        let mut todo = BinaryHeap::from([(i64::MAX, Reverse(0), read(commit)?.parents)]);
        loop {
            // All that was gone through comes after the one commit that is left, for none of it is a beginning. So what
            // was not found yet is before that one, and before every tag that was found.
            if todo.len() == 1 && has_tag && !has_beginning {
                return Ok(history);
            }
            let Some((_, Reverse(number), parents)) = todo.pop() else { return Ok(history) };
            has_beginning |= parents.is_empty();
            for parent in parents {
                let next = u32::try_from(history.parents.len()).expect("a history of commits that fits into memory");
                let at = *numbers.entry(parent).or_insert(next);
                history.parents[number as usize].push(at);
                if at == next {
                    let found = read(parent)?;
                    todo.push((found.committed_at, Reverse(at), found.parents));
                    let tag = tagged.get(&parent).copied();
                    has_tag |= tag.is_some();
                    history.tags.push(tag);
                    history.parents.push(Vec::new());
                }
            }
        }
    }

    /// The tag with the fewest commits since, and how many.
    fn nearest(&self) -> Option<(usize, VersionTag)> {
        let order = self.newest_first();
        // A tag before another one is not nearer than that.
        let mut is_behind_tag = vec![false; order.len()];
        let mut candidates = Vec::new();
        for at in order.iter().map(|at| *at as usize) {
            match self.tags[at] {
                Some(tag) if !is_behind_tag[at] => candidates.push((at, tag)),
                _ => {}
            }
            if is_behind_tag[at] || self.tags[at].is_some() {
                self.parents[at].iter().for_each(|parent| is_behind_tag[*parent as usize] = true);
            }
        }
        let counted = candidates.chunks(AT_ONCE).flat_map(|some| {
            let before = self.count_before(&order, some);
            some.iter().zip(before).map(|((_, tag), before)| (order.len() - before, *tag)).collect::<Vec<_>>()
        });
        counted.min_by_key(|(count, tag)| (*count, Reverse(*tag)))
    }

    /// How many commits are at or before each of some tags.
    fn count_before(&self, order: &[u32], tags: &[(usize, VersionTag)]) -> [usize; AT_ONCE] {
        let mut before = vec![0_u64; order.len()];
        tags.iter().enumerate().for_each(|(bit, (at, _))| before[*at] |= 1 << bit);
        let mut counts = [0; AT_ONCE];
        for at in order.iter().map(|at| *at as usize) {
            let mut bits = before[at];
            self.parents[at].iter().for_each(|parent| before[*parent as usize] |= bits);
            while bits != 0 {
                counts[bits.trailing_zeros() as usize] += 1;
                bits &= bits - 1;
            }
        }
        counts
    }

    /// All commits, each before its parents.
    fn newest_first(&self) -> Vec<u32> {
        let mut children = vec![0_u32; self.parents.len()];
        self.parents.iter().flatten().for_each(|parent| children[*parent as usize] += 1);
        let mut order = Vec::with_capacity(self.parents.len());
        let mut ready = vec![0];
        while let Some(at) = ready.pop() {
            order.push(at);
            for parent in &self.parents[at as usize] {
                let left = &mut children[*parent as usize];
                *left -= 1;
                if *left == 0 {
                    ready.push(*parent);
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests;
