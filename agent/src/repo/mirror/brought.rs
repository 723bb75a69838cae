//! What a commit of a branch brought: what a revert of it takes back.

use std::collections::HashSet;

use git2::{Oid, Repository};
use towpath_core::commits::reverted;
use towpath_core::fault::Problem;
use towpath_core::revert::marks::Brought;
use towpath_core::revision::CommitId;

use super::super::fetch::Holds;
use super::super::tree::{commit_id, oid};
use super::Mirror;

/// How much is read of what one commit brought. What is beyond is said to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroughtLimits {
    /// Commits, and those that are looked through because one of them reverts another.
    pub commits: usize,
    /// Bytes of their messages together.
    pub bytes: usize,
    /// Files.
    pub paths: usize,
}

impl Default for BroughtLimits {
    /// 1000 commits, 16 MiB, 10 000 files.
    fn default() -> Self {
        BroughtLimits { commits: 1000, bytes: 16 << 20, paths: 10_000 }
    }
}

impl Mirror {
    /// What a commit brought that stands on the first-parent history of a branch: its message, for a merge those of all
    /// commits that its other parents have and its first one has not, and the files that differ from its first parent. A
    /// commit that reverts a revert brings back what that one took away: those messages are there too, as far as the mirror
    /// holds the commits.
    ///
    /// # Errors
    /// `Passing` when something of it is not in the mirror, `Setup` for a mirror that holds commits only.
    pub fn brought_by(&self, commit: CommitId, limits: BroughtLimits) -> Result<Brought, Problem> {
        if self.holds == Holds::Commits {
            let problem = Problem::setup(format!("the mirror of {} holds commits only, not their files", self.remote));
            return Err(problem.hint("only commits of a deploy repository can be looked through"));
        }
        self.read(&[commit], |repository| {
            let (messages, is_log_cut) = messages(repository, oid(commit), limits)?;
            let (paths, are_paths_cut) = paths(repository, oid(commit), limits.paths)?;
            Ok(Brought { commit, messages, is_log_cut, paths, are_paths_cut })
        })
    }
}

/// The messages, and whether there are more.
fn messages(
    repository: &Repository,
    commit: Oid,
    limits: BroughtLimits,
) -> Result<(Vec<(CommitId, String)>, bool), git2::Error> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    // A commit, and whether what it brought is there: each revert turns that round.
    let mut todo = vec![(commit, true)];
    let mut seen = HashSet::new();
    while let Some((top, is_there)) = todo.pop() {
        let mut walk = repository.revwalk()?;
        walk.push(top)?;
        if let Ok(before) = repository.find_commit(top)?.parent_id(0) {
            walk.hide(before)?;
        }
        for id in walk {
            let id = id?;
            if !seen.insert((id, is_there)) {
                continue;
            }
            let found = repository.find_commit(id)?;
            bytes += found.message_bytes().len();
            if seen.len() > limits.commits || bytes > limits.bytes {
                return Ok((messages, true));
            }
            let message = String::from_utf8_lossy(found.message_bytes()).into_owned();
            let earlier = reverted(&message).into_iter().map(oid);
            todo.extend(earlier.filter(|id| repository.find_commit(*id).is_ok()).map(|id| (id, !is_there)));
            if is_there {
                messages.push((commit_id(id), message));
            }
        }
    }
    Ok((messages, false))
}

/// The files that differ from the first parent, and whether there are more.
fn paths(repository: &Repository, commit: Oid, limit: usize) -> Result<(Vec<String>, bool), git2::Error> {
    let commit = repository.find_commit(commit)?;
    let before = if commit.parent_count() > 0 { Some(commit.parent(0)?.tree()?) } else { None };
    let diff = repository.diff_tree_to_tree(before.as_ref(), Some(&commit.tree()?), None)?;
    let mut paths: Vec<String> = Vec::new();
    for delta in diff.deltas() {
        let path = delta.new_file().path_bytes().or_else(|| delta.old_file().path_bytes()).unwrap_or_default();
        let path = String::from_utf8_lossy(path);
        // What was a file and is a link now comes twice.
        if paths.last().is_some_and(|last| *last == path) {
            continue;
        }
        if paths.len() == limit {
            return Ok((paths, true));
        }
        paths.push(path.into_owned());
    }
    Ok((paths, false))
}
