//! Reverts that are made in memory: the tree that a revert has, chains of them as commits, and the way out where one does
//! not fit. Only the mirror's objects are read and written; no ref moves, and nobody is contacted.

use git2::{ObjectType, Odb, Oid, Repository, TreeWalkMode, TreeWalkResult};
use towpath_core::fault::Problem;
use towpath_core::revert::{Conflicts, MAX_REVERTS};
use towpath_core::revision::{CommitId, TreeId};

use super::super::commit::{self, Person};
use super::super::fetch::Holds;
use super::super::new_tree::Needed;
use super::super::tree::{commit_id, is_malformed, malformed, oid};
use super::commits::Fresh;
use super::{MAX_COMMIT_BYTES, Mirror, Sign, lock};

mod histogram;
mod lines;
mod merge;
mod renames;
mod trees;

/// The backend of the object database that takes what is written: before those of the disk.
const IN_MEMORY_FIRST: i32 = 1000;

/// What comes of a revert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reversal {
    /// The tree that it ends in, which is in the mirror.
    Clean(TreeId),
    /// Nothing of the commit is left to revert.
    Nothing,
    /// It does not fit.
    Conflicts(Conflicts),
}

/// What comes of reverts one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Their commits, in the order in which they follow each other. A commit of which nothing was left has none.
    Written(Vec<CommitId>),
    /// One of them does not fit. Nothing is written.
    Conflicts {
        /// The commit that cannot be reverted.
        commit: CommitId,
        /// Where.
        conflicts: Conflicts,
    },
}

/// What takes something back, all of it together.
#[derive(Clone, Debug)]
pub enum Undoing {
    /// Commits are reverted, in this order.
    Reverts(Vec<CommitId>),
    /// All files are those of an older commit.
    Restoring(CommitId),
}

impl Undoing {
    /// The commits that it is made of.
    pub fn commits(&self) -> &[CommitId] {
        match self {
            Undoing::Reverts(reverts) => reverts,
            Undoing::Restoring(to) => std::slice::from_ref(to),
        }
    }
}

impl Mirror {
    /// What a revert of a commit gives on another one: the tree that `git revert` gives, of a merge with `-m 1`; or, where
    /// that is not certain, conflicts.
    ///
    /// # Errors
    /// `Passing` when something of it is not in the mirror, `Setup` for a mirror that holds commits only or that cannot be
    /// written, `Content` when a tree is malformed or beyond the limits.
    pub fn reverse(&self, commit: CommitId, onto: CommitId) -> Result<Reversal, Problem> {
        self.in_memory(&[commit, onto], |workshop| {
            let ours = workshop.repository.find_commit(oid(onto))?.tree_id();
            let tree = match workshop.reverse(commit, ours)? {
                Ok(Made::Tree(tree)) => tree,
                Ok(Made::Nothing) => return Ok(Ok(Reversal::Nothing)),
                Ok(Made::Conflicts(conflicts)) => return Ok(Ok(Reversal::Conflicts(conflicts))),
                Err(problem) => return Ok(Err(problem)),
            };
            let stored = workshop.on_disk.odb()?;
            let mut fresh = Fresh::new(&stored)?;
            workshop.take(tree, &mut fresh)?;
            self.keep_all(fresh, &stored)?;
            Ok(Ok(Reversal::Clean(tree_id(tree))))
        })
    }

    /// Reverts commits one after the other, each with its message, and writes the commits: signed, the first one after
    /// `onto`. The newest first, a whole range never conflicts and ends in the tree before it. The same call gives the same
    /// commits again.
    ///
    /// # Errors
    /// As [`Mirror::reverse`], `Content` too when they are more than [`MAX_REVERTS`], and whatever the signing reports.
    /// Nothing is written then.
    pub fn reverse_all(
        &self,
        reverts: &[(CommitId, String)],
        onto: CommitId,
        who: &Person,
        sign: &Sign<'_>,
    ) -> Result<Chain, Problem> {
        if reverts.len() > MAX_REVERTS {
            return Err(Problem::content(format!("more than {MAX_REVERTS} commits are not reverted in one go"))
                .hint("restore the tree of an older commit instead"));
        }
        let needed: Vec<CommitId> = reverts.iter().map(|(commit, _)| *commit).chain([onto]).collect();
        self.in_memory(&needed, |workshop| {
            let stored = workshop.on_disk.odb()?;
            let mut fresh = Fresh::new(&stored)?;
            let (mut head, mut tree) = (onto, workshop.repository.find_commit(oid(onto))?.tree_id());
            let mut written = Vec::new();
            for (commit, message) in reverts {
                tree = match workshop.reverse(*commit, tree)? {
                    Ok(Made::Tree(tree)) => tree,
                    Ok(Made::Nothing) => continue,
                    Ok(Made::Conflicts(conflicts)) => return Ok(Ok(Chain::Conflicts { commit: *commit, conflicts })),
                    Err(problem) => return Ok(Err(problem)),
                };
                workshop.take(tree, &mut fresh)?;
                head = match add_commit(&mut fresh, tree, head, message, who, sign)? {
                    Ok(commit) => commit,
                    Err(problem) => return Ok(Err(problem)),
                };
                written.push(head);
            }
            self.keep_all(fresh, &stored)?;
            Ok(Ok(Chain::Written(written)))
        })
    }

    /// Writes one commit after `onto` that has exactly the tree of an older one: what is left where reverts do not fit.
    /// None when it has that tree already.
    ///
    /// # Errors
    /// As [`Mirror::reverse_all`].
    pub fn restore(
        &self,
        older: CommitId,
        onto: CommitId,
        message: &str,
        who: &Person,
        sign: &Sign<'_>,
    ) -> Result<Option<CommitId>, Problem> {
        self.in_memory(&[older, onto], |workshop| {
            let tree = workshop.repository.find_commit(oid(older))?.tree_id();
            if tree == workshop.repository.find_commit(oid(onto))?.tree_id() {
                return Ok(Ok(None));
            }
            let stored = workshop.on_disk.odb()?;
            let mut fresh = Fresh::new(&stored)?;
            let written = add_commit(&mut fresh, tree, onto, message, who, sign)?;
            if written.is_ok() {
                self.keep_all(fresh, &stored)?;
            }
            Ok(written.map(Some))
        })
    }

    /// The first of some commits that has all that something comes to on a commit which it fits, by whatever way: merged
    /// into it, that changes nothing. None too where it does not fit there or changes no file.
    ///
    /// # Errors
    /// As [`Mirror::reverse`].
    pub fn first_with(
        &self,
        undoing: &Undoing,
        made_on: CommitId,
        commits: &[CommitId],
    ) -> Result<Option<CommitId>, Problem> {
        let needed: Vec<CommitId> = undoing.commits().iter().chain([&made_on]).chain(commits).copied().collect();
        self.in_memory(&needed, |workshop| {
            let tree = |commit: CommitId| workshop.repository.find_commit(oid(commit)).map(|commit| commit.tree_id());
            let base = tree(made_on)?;
            let mut theirs = base;
            match undoing {
                Undoing::Restoring(to) => theirs = tree(*to)?,
                Undoing::Reverts(reverts) => {
                    for commit in reverts {
                        theirs = match workshop.reverse(*commit, theirs)? {
                            Ok(Made::Tree(tree)) => tree,
                            Ok(Made::Nothing) => continue,
                            Ok(Made::Conflicts(_)) => return Ok(Ok(None)),
                            Err(problem) => return Ok(Err(problem)),
                        };
                    }
                }
            }
            if theirs == base {
                return Ok(Ok(None));
            }
            for commit in commits {
                let ours = tree(*commit)?;
                let has_all = ours == theirs
                    || match merge::merge(&workshop.repository, trees::Sides { base, ours, theirs })? {
                        Ok(merged) => merged.is_ok_and(|tree| tree == ours),
                        Err(problem) => return Ok(Err(problem)),
                    };
                if has_all {
                    return Ok(Ok(Some(*commit)));
                }
            }
            Ok(Ok(None))
        })
    }

    /// Works with handles of its own, after a look whether some commits are there. Packs may be put together meanwhile: a
    /// second try finds what has moved.
    fn in_memory<T>(&self, needed: &[CommitId], work: impl Fn(&Workshop) -> Worked<T>) -> Result<T, Problem> {
        if self.holds == Holds::Commits {
            let problem = Problem::setup(format!("the mirror of {} holds commits only, not their files", self.remote));
            return Err(problem.hint("name it as the url of a Repository of its own to revert its commits"));
        }
        let try_once = || -> Worked<T> {
            let workshop = Workshop::open(&self.folder)?;
            for id in needed {
                if let Err(error) = workshop.repository.find_commit(oid(*id)) {
                    return Ok(Err(self.absent(*id, &error)));
                }
            }
            work(&workshop)
        };
        match try_once().or_else(|_| try_once()) {
            Ok(done) => {
                self.compact();
                done
            }
            Err(error) if is_malformed(&error) => Err(malformed(&error)),
            Err(error) if super::is_shortage(&error) => Err(self.unusable(&error)),
            Err(error) => Err(self.damaged(&error)),
        }
    }

    fn keep_all(&self, fresh: Fresh<'_>, stored: &Odb<'_>) -> Result<(), git2::Error> {
        let _packs = lock(&self.packs);
        fresh.store(stored)
    }
}

/// The outer error is the repository's, the inner one is for people.
type Worked<T> = Result<Result<T, Problem>, git2::Error>;

/// What comes of one revert, in memory.
enum Made {
    Tree(Oid),
    Nothing,
    Conflicts(Conflicts),
}

/// The mirror, in which whatever is written stays in memory.
struct Workshop {
    repository: Repository,
    /// The mirror as it is on the disk.
    on_disk: Repository,
}

impl Workshop {
    fn open(mirror: &std::path::Path) -> Result<Workshop, git2::Error> {
        let repository = Repository::open_bare(mirror)?;
        repository.odb()?.add_new_mempack_backend(IN_MEMORY_FIRST)?;
        Ok(Workshop { repository, on_disk: Repository::open_bare(mirror)? })
    }

    /// Reverts a commit on a tree.
    fn reverse(&self, commit: CommitId, ours: Oid) -> Worked<Made> {
        let commit = self.repository.find_commit(oid(commit))?;
        let base = commit.tree_id();
        // Of a merge what it brought to the branch, which is its first parent. Before the first commit there is nothing.
        let theirs = match commit.parent_count() {
            0 => self.repository.treebuilder(None)?.write()?,
            _ => commit.parent(0)?.tree_id(),
        };
        // The second is the newest of a branch: whatever it did, its parent's tree is what it was.
        let made = match () {
            () if base == theirs || ours == theirs => return Ok(Ok(Made::Nothing)),
            () if ours == base => Ok(theirs),
            () => match merge::merge(&self.repository, trees::Sides { base, ours, theirs })? {
                Ok(merged) => merged,
                Err(problem) => return Ok(Err(problem)),
            },
        };
        Ok(Ok(match made {
            Ok(tree) if tree == ours => Made::Nothing,
            Ok(tree) => Made::Tree(tree),
            Err(conflicts) => Made::Conflicts(Conflicts::of(conflicts)),
        }))
    }

    /// Takes whatever a tree needs that is not on the disk.
    fn take(&self, tree: Oid, fresh: &mut Fresh<'_>) -> Result<(), git2::Error> {
        let odb = self.repository.odb()?;
        let mut add = |id: Oid| -> Result<bool, git2::Error> {
            if fresh.is_stored(id) {
                return Ok(false);
            }
            let object = odb.read(id)?;
            // Its bytes are at hand, so that it is missing cannot be said.
            let _ = fresh.add(&Needed { id, kind: object.kind(), bytes: Some(object.data()) })?;
            Ok(true)
        };
        if !add(tree)? {
            return Ok(());
        }
        let mut failed = None;
        let walked = self.repository.find_tree(tree)?.walk(TreeWalkMode::PreOrder, |_, entry| {
            if entry.kind() == Some(ObjectType::Commit) {
                return TreeWalkResult::Ok;
            }
            match add(entry.id()) {
                Ok(true) => TreeWalkResult::Ok,
                Ok(false) => TreeWalkResult::Skip,
                Err(error) => {
                    failed = Some(error);
                    TreeWalkResult::Abort
                }
            }
        });
        match failed {
            Some(error) => Err(error),
            None => walked,
        }
    }
}

fn add_commit(
    fresh: &mut Fresh<'_>,
    tree: Oid,
    parent: CommitId,
    message: &str,
    who: &Person,
    sign: &Sign<'_>,
) -> Worked<CommitId> {
    let signed = || {
        let bytes = commit::write(tree_id(tree), &[parent], who, who, message)?;
        let bytes = commit::sign(&bytes, &sign(&bytes)?);
        if bytes.len() > MAX_COMMIT_BYTES {
            return Err(Problem::setup(format!("a commit of more than {MAX_COMMIT_BYTES} bytes is not made")));
        }
        match commit::read(&bytes) {
            Ok(_) => Ok(bytes),
            Err(why) => Err(Problem::setup(format!("a commit that would not read back is not made: {why}"))),
        }
    };
    let bytes = match signed() {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Err(problem)),
    };
    let id = Oid::hash_object(ObjectType::Commit, &bytes)?;
    let added = fresh.add(&Needed { id, kind: ObjectType::Commit, bytes: Some(&bytes) })?;
    Ok(added.map(|()| commit_id(id)))
}

fn tree_id(tree: Oid) -> TreeId {
    TreeId::from_bytes(tree.as_bytes().try_into().expect("an id has 20 bytes"))
}
