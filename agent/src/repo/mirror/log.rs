//! Reading the lines of history between commits. Each call has a handle of its own, so that a long walk holds nobody up.

use std::collections::BTreeSet;

use git2::{Delta, DiffOptions, ErrorCode, FileMode, MergeOptions, Oid, Repository, Sort};
use jiff::Timestamp;
use towpath_core::changelog::Between;
use towpath_core::commits::{self, Commit, Log};
use towpath_core::fault::Problem;
use towpath_core::hygiene::remerge::Node;
use towpath_core::matrix::Standing;
use towpath_core::revision::{CommitId, clean_line};

use super::super::commit::StoredCommit;
use super::super::fetch::Holds;
use super::super::tree::{commit_id, oid};
use super::{MAX_COMMIT_BYTES, Mirror, SHOWN_CHARACTERS};

/// Digits that a commit must at least be named by.
pub const MIN_PREFIX: usize = 7;
/// Bytes of a file beyond which it is compared as a whole.
const MAX_PATCH_BYTES: i64 = 1 << 20;
/// Files that a commit may change for its patch to be compared with others.
const MAX_PATCH_FILES: usize = 2000;

impl Mirror {
    /// Where a commit stands against another one, such as the head of a branch.
    ///
    /// # Errors
    /// `Passing` when one of them is not in the mirror.
    pub fn standing(&self, pin: CommitId, head: CommitId) -> Result<Standing, Problem> {
        self.read(&[pin, head], |repository| {
            let (ahead, behind) = repository.graph_ahead_behind(oid(pin), oid(head))?;
            Ok(Standing { ahead, behind })
        })
    }

    /// What lies between two commits: the first parents of each up to what the other one contains, so that a merge is one
    /// commit with what it says. At most `limit` of each are read, the rest is counted.
    ///
    /// # Errors
    /// `Passing` when one of them is not in the mirror.
    pub fn between(&self, from: CommitId, to: CommitId, limit: usize) -> Result<Between, Problem> {
        self.read(&[from, to], |repository| {
            Ok(Between {
                coming: log(repository, to, from, limit)?,
                going: log(repository, from, to, limit)?,
                is_related: match repository.merge_base(oid(from), oid(to)) {
                    Ok(_) => true,
                    Err(error) if error.code() == ErrorCode::NotFound => false,
                    Err(error) => return Err(error),
                },
            })
        })
    }

    /// Commits that one contains and none of some others does, merges and all that they bring too, the newest first and at
    /// most `limit`; and whether there are more.
    ///
    /// # Errors
    /// `Passing` when one of them is not in the mirror.
    pub fn commits_of(
        &self,
        head: CommitId,
        without: &[CommitId],
        limit: usize,
    ) -> Result<(Vec<Commit>, bool), Problem> {
        self.read(&[&[head], without].concat(), |repository| {
            let mut walk = repository.revwalk()?;
            walk.set_sorting(Sort::TIME | Sort::TOPOLOGICAL)?;
            walk.push(oid(head))?;
            for without in without {
                walk.hide(oid(*without))?;
            }
            let ids: Vec<Oid> = walk.take(limit + 1).collect::<Result<_, _>>()?;
            let commits = ids.iter().take(limit).map(|id| told(repository, *id)).collect::<Result<_, _>>()?;
            Ok((commits, ids.len() > limit))
        })
    }

    /// The newest commits that one contains, itself included, with their parents: the newest first and at most `limit`.
    ///
    /// # Errors
    /// `Passing` when one of them is not in the mirror.
    pub fn history(&self, head: CommitId, limit: usize) -> Result<Vec<Node>, Problem> {
        self.read(&[head], |repository| {
            let mut walk = repository.revwalk()?;
            // Not topological: for that the whole history would be read first.
            walk.set_sorting(Sort::TIME)?;
            walk.push(oid(head))?;
            walk.take(limit).map(|id| node(repository, id?)).collect()
        })
    }

    /// Whether nothing of a commit is left to revert on another one, because it is not there or was taken back by whatever
    /// way; of a merge, of what it brought to its first parent. None where that is not certain: for files that were changed
    /// since, and in a mirror that holds commits only. Nothing is written.
    ///
    /// # Errors
    /// `Passing` when one of them is not in the mirror.
    pub fn is_gone(&self, commit: CommitId, on: CommitId) -> Result<Option<bool>, Problem> {
        if self.holds == Holds::Commits {
            return Ok(None);
        }
        self.read(&[commit, on], |repository| {
            let (change, onto) = (repository.find_commit(oid(commit))?, repository.find_commit(oid(on))?);
            let mainline = u32::from(change.parent_count() > 1);
            let mut options = MergeOptions::new();
            // Where a file has another name, it is not certain.
            options.find_renames(false);
            let index = repository.revert_commit(&change, &onto, mainline, Some(&options))?;
            if index.has_conflicts() {
                return Ok(None);
            }
            let diff = repository.diff_tree_to_index(Some(&onto.tree()?), Some(&index), None)?;
            Ok(Some(diff.deltas().len() == 0))
        })
    }

    /// The commits of a branch itself: from one on back along first parents, to the first of all or to one that cannot be
    /// read.
    pub fn line(&self, from: CommitId) -> impl Iterator<Item = Result<(CommitId, StoredCommit), Problem>> + '_ {
        let mut next = Some(from);
        std::iter::from_fn(move || {
            let id = next.take()?;
            let stored = self.commit(id);
            next = stored.as_ref().ok().and_then(|stored| stored.parents.first().copied());
            Some(stored.map(|stored| (id, stored)))
        })
    }

    /// A commit as people read it.
    ///
    /// # Errors
    /// `Passing` when it is not in the mirror.
    pub fn told(&self, commit: CommitId) -> Result<Commit, Problem> {
        self.read(&[commit], |repository| told(repository, oid(commit)))
    }

    /// The id of the patch of a commit, which a cherry-pick onto other files around it keeps: `git patch-id`. None for a
    /// merge, for a commit that changes no file, and for one that moves submodules alone, which is another matter on each
    /// branch; none for one that changes very many files, and none in a mirror that holds commits only.
    ///
    /// # Errors
    /// `Passing` when the commit or what it changes is not in the mirror.
    pub fn patch_id(&self, commit: CommitId) -> Result<Option<String>, Problem> {
        if self.holds == Holds::Commits {
            return Ok(None);
        }
        self.read(&[commit], |repository| patch_id(repository, oid(commit)))
    }

    /// The commit whose id begins with some digits.
    ///
    /// # Errors
    /// `Setup` when there are several, or they are too few.
    pub fn find(&self, digits: &str) -> Result<Option<CommitId>, Problem> {
        let is_hex = digits.len() <= 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || digits.len() < MIN_PREFIX {
            return Ok(None);
        }
        let repository = Repository::open_bare(&self.folder).map_err(|error| self.damaged(&error))?;
        match repository.find_commit_by_prefix(digits) {
            Ok(found) => Ok(Some(commit_id(found.id()))),
            Err(error) if error.code() == ErrorCode::Ambiguous => {
                Err(Problem::setup(format!("there are several commits {digits}")).hint("write more of its digits"))
            }
            // What begins so may also be a file or a folder.
            Err(_) => Ok(None),
        }
    }

    /// Reads with a handle of its own, after a look whether some commits are there. Packs may be put together meanwhile,
    /// and a handle may then miss what it had not opened yet: another one finds it.
    pub(super) fn read<T>(
        &self,
        needed: &[CommitId],
        read: impl Fn(&Repository) -> Result<T, git2::Error>,
    ) -> Result<T, Problem> {
        let try_once = || {
            let repository = Repository::open_bare(&self.folder)?;
            for id in needed {
                if let Err(error) = repository.find_commit(oid(*id)) {
                    return Ok(Err((*id, error)));
                }
            }
            read(&repository).map(Ok)
        };
        let again = try_once().or_else(|_: git2::Error| try_once());
        match again {
            Ok(found) => found.map_err(|(id, error)| self.absent(id, &error)),
            // A walk that came to a commit that was never fetched is no damage.
            Err(error) if error.code() == ErrorCode::NotFound => {
                Err(Problem::passing("its history is not complete in the mirror"))
            }
            Err(error) => Err(self.damaged(&error)),
        }
    }
}

/// The first parents of one commit that another one does not contain.
fn log(repository: &Repository, of: CommitId, without: CommitId, limit: usize) -> Result<Log, git2::Error> {
    let mut walk = repository.revwalk()?;
    walk.set_sorting(Sort::TIME | Sort::TOPOLOGICAL)?;
    walk.simplify_first_parent()?;
    walk.push(oid(of))?;
    walk.hide(oid(without))?;
    let ids: Vec<Oid> = walk.collect::<Result<_, _>>()?;
    let commits = ids.iter().take(limit).map(|id| told(repository, *id)).collect::<Result<_, _>>()?;
    Ok(Log { commits, more: ids.len().saturating_sub(limit) })
}

fn told(repository: &Repository, id: Oid) -> Result<Commit, git2::Error> {
    let found = repository.find_commit(id)?;
    let line = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        clean_line(text.trim_start().lines().next().unwrap_or_default(), SHOWN_CHARACTERS)
    };
    let author = found.author();
    let message = String::from_utf8_lossy(&found.message_bytes()[..found.message_bytes().len().min(MAX_COMMIT_BYTES)]);
    let seconds = author.when().seconds();
    let nearest = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Ok(Commit {
        commit: commit_id(id),
        subject: line(found.message_bytes()),
        author: line(author.name_bytes()),
        authored_at: Timestamp::from_second(seconds).unwrap_or(nearest),
        is_merge: found.parent_count() > 1,
        email: line(author.email_bytes()),
        reverts: commits::reverted(&message),
    })
}

fn node(repository: &Repository, id: Oid) -> Result<Node, git2::Error> {
    let found = repository.find_commit(id)?;
    let before = found.parent_ids().next().map(|before| repository.find_commit(before)).transpose()?;
    Ok(Node {
        commit: told(repository, id)?,
        parents: found.parent_ids().map(commit_id).collect(),
        is_empty: before.is_some_and(|before| before.tree_id() == found.tree_id()),
    })
}

fn patch_id(repository: &Repository, id: Oid) -> Result<Option<String>, git2::Error> {
    let commit = repository.find_commit(id)?;
    if commit.parent_count() > 1 {
        return Ok(None);
    }
    let before = if commit.parent_count() == 1 { Some(commit.parent(0)?.tree()?) } else { None };
    let mut options = DiffOptions::new();
    options.ignore_submodules(true).max_size(MAX_PATCH_BYTES);
    let diff = repository.diff_tree_to_tree(before.as_ref(), Some(&commit.tree()?), Some(&mut options))?;
    let is_file = |mode: FileMode| !matches!(mode, FileMode::Commit | FileMode::Unreadable);
    let files: BTreeSet<Option<Vec<u8>>> = diff
        .deltas()
        .filter(|delta| delta.status() != Delta::Unmodified)
        .filter(|delta| is_file(delta.new_file().mode()) || is_file(delta.old_file().mode()))
        .map(|delta| delta.new_file().path_bytes().map(<[u8]>::to_vec))
        .collect();
    if files.is_empty() || files.len() > MAX_PATCH_FILES {
        return Ok(None);
    }
    diff.patchid(None).map(|id| Some(id.to_string()))
}
