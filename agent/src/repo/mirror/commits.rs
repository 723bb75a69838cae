//! Commits that are made here, and commits that are read to the byte.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use git2::{ObjectType, Odb, OdbLookupFlags, Oid, Repository};
use jiff::Timestamp;
use towpath_core::fault::Problem;
use towpath_core::revision::{BlobId, CommitId, TreeId, clean_line};

use super::super::commit::{self, Person, StoredCommit};
use super::super::new_tree::{Needed, NewTree};
use super::super::tree::{commit_id, oid};
use super::{MAX_COMMIT_BYTES, Mirror, SHOWN_CHARACTERS, is_shortage, lock};

/// Commits of a branch that are looked through for one that is like something.
const MAX_LOOKED_BACK: usize = 20_000;
/// Commits that are looked through for the one that brought a pin.
const MAX_BROUGHT: usize = 2000;
/// How wrong the clock of a committer may be.
const SKEW_SECONDS: i64 = 86_400;

/// Makes a signature in its armour for the bytes of a commit.
pub type Sign<'a> = dyn Fn(&[u8]) -> Result<String, Problem> + 'a;

/// What stands at the root of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rooted {
    /// A folder.
    Folder(TreeId),
    /// A file.
    File(BlobId),
}

/// A commit that is to be written.
pub struct NewCommit<'a> {
    /// All of its files.
    pub tree: &'a NewTree,
    /// The commits before it.
    pub parents: Vec<CommitId>,
    /// Who wrote it.
    pub author: Person,
    /// Who commits it.
    pub committer: Person,
    /// For people, with trailers for machines.
    pub message: String,
    /// Signs it, as `git commit -S` does.
    pub sign: Option<&'a Sign<'a>>,
}

impl std::fmt::Debug for NewCommit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCommit").field("parents", &self.parents).field("message", &self.message).finish()
    }
}

impl Mirror {
    /// Writes a commit with its files into the mirror. No ref moves, and nobody is contacted.
    ///
    /// What the mirror has already is not written again. All that is new becomes one pack, so a commit of many files
    /// leaves two files behind. Nothing refers to the commit: in a mirror that is fetched anew it is gone.
    ///
    /// # Errors
    /// `Setup` when the mirror cannot be written or the commit would not read back, `Passing` when a parent or a known
    /// file is not in the mirror, and whatever the signing reports.
    pub fn write_commit(&self, new: &NewCommit<'_>) -> Result<CommitId, Problem> {
        self.write_commits(std::slice::from_ref(new)).map(|written| written[0])
    }

    /// [`Mirror::write_commit`] for several at once, which become one pack. Gives the ids in the same order.
    ///
    /// # Errors
    /// As [`Mirror::write_commit`]; nothing is written then.
    pub fn write_commits(&self, new: &[NewCommit<'_>]) -> Result<Vec<CommitId>, Problem> {
        let unusable = |error: git2::Error| self.unusable(&error);
        let repository = Repository::open_bare(&self.folder).map_err(unusable)?;
        let odb = repository.odb().map_err(unusable)?;
        let mut fresh = Fresh::new(&odb).map_err(unusable)?;
        let mut written = Vec::new();
        for new in new {
            let known = |parent: &&CommitId| !written.contains(*parent) && !fresh.is_stored(oid(**parent));
            if let Some(parent) = new.parents.iter().find(known) {
                return Err(Problem::passing(format!("the commit {parent} is not in the mirror yet")));
            }
            let tree = new.tree.root().each(&mut |needed| fresh.add(&needed).map_err(unusable)?)?;
            let tree = TreeId::from_bytes(tree.as_bytes().try_into().expect("an id has 20 bytes"));
            let mut bytes = commit::write(tree, &new.parents, &new.author, &new.committer, &new.message)?;
            if let Some(sign) = new.sign {
                bytes = commit::sign(&bytes, &sign(&bytes)?);
            }
            if bytes.len() > MAX_COMMIT_BYTES {
                return Err(Problem::setup(format!("a commit of more than {MAX_COMMIT_BYTES} bytes is not made"))
                    .hint("its message is too long"));
            }
            if let Err(why) = commit::read(&bytes) {
                return Err(Problem::setup(format!("a commit that would not read back is not made: {why}")));
            }
            let id = Oid::hash_object(ObjectType::Commit, &bytes).map_err(unusable)?;
            fresh.add(&Needed { id, kind: ObjectType::Commit, bytes: Some(&bytes) }).map_err(unusable)??;
            written.push(commit_id(id));
        }
        {
            let _packs = lock(&self.packs);
            fresh.store(&odb).map_err(unusable)?;
        }
        self.compact();
        Ok(written)
    }

    /// Writes a commit after another one, which differs from that in the commits of some submodules only. No ref moves, and
    /// nobody is contacted.
    ///
    /// # Errors
    /// `Content` when a path is no submodule there, otherwise as [`Mirror::write_commit`].
    pub fn repin(
        &self,
        base: CommitId,
        pins: &[(String, CommitId)],
        who: &Person,
        message: &str,
        sign: &Sign<'_>,
    ) -> Result<CommitId, Problem> {
        let unusable = |error: git2::Error| self.unusable(&error);
        let repository = Repository::open_bare(&self.folder).map_err(unusable)?;
        let before = repository.find_commit(oid(base)).and_then(|commit| commit.tree());
        let before = before.map_err(|error| self.absent(base, &error))?;
        let mut update = git2::build::TreeUpdateBuilder::new();
        for (path, commit) in pins {
            let entry = before.get_path(std::path::Path::new(path)).ok();
            if entry.is_none_or(|entry| entry.filemode() != i32::from(git2::FileMode::Commit)) {
                return Err(Problem::content(format!("{path} is no submodule at {base}")));
            }
            update.upsert(path.as_str(), oid(*commit), git2::FileMode::Commit);
        }
        let _packs = lock(&self.packs);
        let tree = update.create_updated(&repository, &before).map_err(unusable)?;
        let tree = TreeId::from_bytes(tree.as_bytes().try_into().expect("an id has 20 bytes"));
        let bytes = commit::write(tree, &[base], who, who, message)?;
        let bytes = commit::sign(&bytes, &sign(&bytes)?);
        let odb = repository.odb().map_err(unusable)?;
        odb.write(ObjectType::Commit, &bytes).map(commit_id).map_err(unusable)
    }

    /// The commit that brought the pin of a submodule as it stands at `head`, along first parents. None where that is too
    /// far back, or is not here.
    pub fn brought(&self, head: CommitId, path: &str) -> Option<CommitId> {
        let path = std::path::Path::new(path);
        let store = lock(&self.store);
        let pin = |commit: &git2::Commit<'_>| Some(commit.tree().ok()?.get_path(path).ok()?.id());
        let mut commit = store.repository.find_commit(oid(head)).ok()?;
        let pinned = pin(&commit)?;
        for _ in 0..MAX_BROUGHT {
            match commit.parent(0) {
                Ok(before) if pin(&before) == Some(pinned) => commit = before,
                _ => return Some(commit_id(commit.id())),
            }
        }
        None
    }

    /// Whether a submodule was pinned to a commit anywhere in the history of a branch that was committed after a time.
    ///
    /// # Errors
    /// `Passing` when something of it is not in the mirror, `Content` when there are too many commits to know.
    pub fn was_pinned(&self, head: CommitId, path: &str, to: CommitId, since: Timestamp) -> Result<bool, Problem> {
        let path = std::path::Path::new(path);
        let pins =
            |commit: &git2::Commit<'_>| Ok(commit.tree()?.get_path(path).is_ok_and(|entry| entry.id() == oid(to)));
        self.newest_where(head, since, pins).map(|found| found.is_some())
    }

    /// The newest commit in the history of a branch, committed after a time, whose message is like that.
    ///
    /// # Errors
    /// As [`Mirror::was_pinned`].
    pub fn newest_that_says(
        &self,
        head: CommitId,
        since: Timestamp,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<Option<CommitId>, Problem> {
        self.newest_where(head, since, |commit| Ok(is_it(&String::from_utf8_lossy(commit.message_bytes()))))
    }

    fn newest_where(
        &self,
        head: CommitId,
        since: Timestamp,
        is_it: impl Fn(&git2::Commit<'_>) -> Result<bool, git2::Error>,
    ) -> Result<Option<CommitId>, Problem> {
        let since = since.as_second() - SKEW_SECONDS;
        let repository = Repository::open_bare(&self.folder).map_err(|error| self.damaged(&error))?;
        repository.find_commit(oid(head)).map_err(|error| self.absent(head, &error))?;
        let walk = || -> Result<Option<Option<CommitId>>, git2::Error> {
            let mut walk = repository.revwalk()?;
            walk.set_sorting(git2::Sort::TIME)?;
            walk.push(oid(head))?;
            for (count, id) in walk.enumerate() {
                let commit = repository.find_commit(id?)?;
                if commit.time().seconds() < since {
                    return Ok(Some(None));
                }
                if count == MAX_LOOKED_BACK {
                    return Ok(None);
                }
                if is_it(&commit)? {
                    return Ok(Some(Some(commit_id(commit.id()))));
                }
            }
            Ok(Some(None))
        };
        let found = walk().map_err(|error| self.damaged(&error))?;
        found.ok_or_else(|| Problem::content(format!("more than {MAX_LOOKED_BACK} commits to look through")))
    }

    /// A commit to the byte, read strictly.
    ///
    /// # Errors
    /// `Content` when it is malformed, or could be understood in two ways (a header twice); `Passing` when it is not in
    /// the mirror.
    pub fn commit(&self, id: CommitId) -> Result<StoredCommit, Problem> {
        let malformed = |why: &str| Problem::content(format!("the commit {id} is malformed: {why}"));
        let store = lock(&self.store);
        let odb = store.repository.odb().map_err(|error| self.damaged(&error))?;
        let (size, kind) = odb.read_header(oid(id)).map_err(|error| self.absent(id, &error))?;
        if kind != ObjectType::Commit {
            return Err(malformed("it is no commit"));
        }
        if size > MAX_COMMIT_BYTES {
            return Err(malformed("it is too long"));
        }
        let object = odb.read(oid(id)).map_err(|error| self.absent(id, &error))?;
        commit::read(object.data()).map_err(malformed)
    }

    /// What stands at the root of a commit's tree, by name, without reading what is below.
    ///
    /// # Errors
    /// `Passing` when the commit or its tree is not in the mirror.
    pub fn root(&self, id: CommitId) -> Result<BTreeMap<String, Rooted>, Problem> {
        let store = lock(&self.store);
        let tree = store.repository.find_commit(oid(id)).and_then(|commit| commit.tree());
        let tree = tree.map_err(|error| self.absent(id, &error))?;
        let known = |id: Oid| id.as_bytes().try_into().expect("an id has 20 bytes");
        let entry = |entry: git2::TreeEntry<'_>| {
            let rooted = match entry.kind()? {
                ObjectType::Tree => Rooted::Folder(TreeId::from_bytes(known(entry.id()))),
                ObjectType::Blob => Rooted::File(BlobId::from_bytes(known(entry.id()))),
                _ => return None,
            };
            Some((entry.name().ok()?.to_owned(), rooted))
        };
        Ok(tree.iter().filter_map(entry).collect())
    }

    /// The problem of a mirror in which something could not be written.
    pub(super) fn unusable(&self, error: &git2::Error) -> Problem {
        let why = clean_line(error.message(), SHOWN_CHARACTERS);
        if is_shortage(error) {
            return super::unwritable(&self.folder, &why);
        }
        Problem::passing(format!("the mirror in {} cannot be written: {why}", self.folder.display()))
    }
}

/// Objects that are not in the mirror yet, in memory.
pub(super) struct Fresh<'a> {
    stored: &'a Odb<'a>,
    memory: Odb<'static>,
    /// In the order in which they came, without repeats.
    ids: Vec<Oid>,
    seen: HashSet<Oid>,
}

impl<'a> Fresh<'a> {
    pub(super) fn new(stored: &'a Odb<'a>) -> Result<Self, git2::Error> {
        let memory = Odb::new()?;
        memory.add_new_mempack_backend(1)?;
        Ok(Fresh { stored, memory, ids: Vec::new(), seen: HashSet::new() })
    }

    pub(super) fn is_stored(&self, id: Oid) -> bool {
        // Without looking for new packs at each: the handle was opened just now.
        self.stored.exists_ext(id, OdbLookupFlags::NO_REFRESH)
    }

    /// Takes an object, unless it is there. The inner error is that it should be there and is not.
    pub(super) fn add(&mut self, needed: &Needed<'_>) -> Result<Result<(), Problem>, git2::Error> {
        if !self.seen.insert(needed.id) || self.is_stored(needed.id) {
            return Ok(Ok(()));
        }
        let Some(bytes) = needed.bytes else {
            let id = needed.id;
            return Ok(Err(Problem::passing(format!("the file {id} is not in the mirror"))));
        };
        self.ids.push(self.memory.write(needed.kind, bytes)?);
        Ok(Ok(()))
    }

    /// Writes them as one pack.
    pub(super) fn store(self, to: &Odb<'_>) -> Result<(), git2::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let repository = Repository::from_odb(self.memory)?;
        let mut pack = repository.packbuilder()?;
        pack.set_threads(1);
        for id in self.ids {
            pack.insert_object(id, None)?;
        }
        let mut writer = to.packwriter()?;
        let mut written = Ok(());
        pack.foreach(|bytes| {
            written = writer.write_all(bytes);
            written.is_ok()
        })?;
        written.map_err(|error| git2::Error::from_str(&error.to_string()))?;
        writer.commit().map(drop)
    }
}
