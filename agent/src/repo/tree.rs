//! Reads the tree of a commit out of the object database, with nothing but bytes believed.
//!
//! Tree objects are read by an own parser of a few lines: libgit2's is made to be tolerant, and here a name twice or
//! out of order is a reason to refuse.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use git2::{ErrorClass, ErrorCode, Odb, Oid, Repository};
use towpath_core::fault::{Place, Problem, Problems};
use towpath_core::limits;
use towpath_core::revision::{BlobId, CommitId, clean_line};
use towpath_core::tree::{File, Tree, TreeBuilder};

/// Bytes of one tree object: 20 000 entries with long names fit.
pub const MAX_TREE_OBJECT_BYTES: usize = 8 << 20;
/// Entries of one revision: files, folders and submodules.
pub const MAX_ENTRIES: usize = 2 * limits::MAX_FILES;
/// Problems of one tree that are collected before reading stops.
pub const MAX_TREE_PROBLEMS: usize = 20;
/// Trees that are kept.
const KEPT_TREES: usize = 3;
/// Bytes of all kept trees together, beyond which the oldest goes. The newest always stays.
const KEPT_BYTES: usize = 16 << 20;

/// The last trees that were read, and the contents that they hold.
#[derive(Default)]
pub(super) struct TreeCache {
    trees: VecDeque<(CommitId, Arc<Tree>, usize)>,
    contents: HashMap<BlobId, Weak<[u8]>>,
}

impl TreeCache {
    /// The tree of a commit, from the cache or from the repository. A file that did not change shares its bytes with
    /// the trees that are still in memory.
    ///
    /// # Errors
    /// What is wrong with the tree, at most [`MAX_TREE_PROBLEMS`] times; or that an object is missing or damaged.
    pub(super) fn read(&mut self, repository: &Repository, commit: CommitId) -> Result<Arc<Tree>, Unreadable> {
        if let Some(index) = self.trees.iter().position(|(cached, _, _)| *cached == commit) {
            let entry = self.trees.remove(index).expect("the index was just found");
            let tree = entry.1.clone();
            self.trees.push_back(entry);
            return Ok(tree);
        }
        let odb = repository.odb().map_err(Unreadable::Damaged)?;
        let found = repository.find_commit(oid(commit)).map_err(Unreadable::Absent)?;
        let mut walk = Walk {
            odb: &odb,
            contents: &mut self.contents,
            builder: TreeBuilder::default(),
            problems: Vec::new(),
            entries: 0,
        };
        match walk.folder(found.tree_id(), "") {
            Ok(()) | Err(Stop::Enough) => {}
            Err(Stop::Damaged(error)) => return Err(Unreadable::Damaged(error)),
        }
        Problems::check(walk.problems).map_err(Unreadable::Refused)?;
        let tree = Arc::new(walk.builder.build());
        let bytes = tree.below("").map(|(path, file)| path.len() + file.bytes.len()).sum();
        self.trees.push_back((commit, tree.clone(), bytes));
        while self.trees.len() > 1
            && (self.trees.len() > KEPT_TREES
                || self.trees.iter().map(|(_, _, bytes)| bytes).sum::<usize>() > KEPT_BYTES)
        {
            self.trees.pop_front();
            self.contents.retain(|_, content| content.strong_count() > 0);
        }
        Ok(tree)
    }
}

/// Why there is no tree.
pub(super) enum Unreadable {
    /// A person must change something.
    Refused(Problems),
    /// The commit itself could not be had.
    Absent(git2::Error),
    /// Another object is missing or damaged.
    Damaged(git2::Error),
}

enum Stop {
    Enough,
    Damaged(git2::Error),
}

impl From<git2::Error> for Stop {
    fn from(error: git2::Error) -> Self {
        Stop::Damaged(error)
    }
}

struct Walk<'a> {
    odb: &'a Odb<'a>,
    contents: &'a mut HashMap<BlobId, Weak<[u8]>>,
    builder: TreeBuilder,
    problems: Vec<Problem>,
    entries: usize,
}

impl Walk<'_> {
    /// Reads one folder and those below it. The depth is bounded, for the builder refuses deeper names.
    fn folder(&mut self, tree: Oid, path: &str) -> Result<(), Stop> {
        let place = || Place::file(if path.is_empty() { "." } else { path });
        let (size, _) = self.odb.read_header(tree)?;
        if size > MAX_TREE_OBJECT_BYTES {
            return self.report(Problem::content("a folder with too many entries").at(place()));
        }
        let object = self.odb.read(tree)?;
        let entries = match parse(object.data()) {
            Ok(entries) => entries,
            Err(why) => return self.report(Problem::content(format!("malformed tree: {why}")).at(place())),
        };
        for entry in &entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let message = format!("more than {MAX_ENTRIES} files and folders in one revision");
                self.report(Problem::content(message).at(place()))?;
                return Err(Stop::Enough);
            }
            match self.builder.enter(path, entry.name) {
                Ok(path) => self.entry(entry, path)?,
                Err(problem) => self.report(problem)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>, path: String) -> Result<(), Stop> {
        match entry.kind {
            Kind::Folder => self.folder(entry.id, &path),
            Kind::File => self.file(entry.id, path),
            Kind::Symlink => self.report(TreeBuilder::symlink(&path)),
            Kind::Submodule => {
                let added = self.builder.submodule(path, commit_id(entry.id));
                added.or_else(|problem| self.report(problem))
            }
        }
    }

    fn file(&mut self, blob: Oid, path: String) -> Result<(), Stop> {
        // The header is read before the content, so that a huge file costs nothing.
        let (size, kind) = self.odb.read_header(blob)?;
        if kind != git2::ObjectType::Blob {
            return self.report(Problem::content("malformed tree: a file that is none").at(Place::file(path)));
        }
        if let Err(problem) = self.builder.admit(&path, size as u64) {
            let is_only_this_file = size as u64 > limits::MAX_FILE_BYTES;
            self.report(problem)?;
            return if is_only_this_file { Ok(()) } else { Err(Stop::Enough) };
        }
        let id = BlobId::from_bytes(raw(blob));
        let bytes = match self.contents.get(&id).and_then(Weak::upgrade) {
            Some(bytes) => bytes,
            None => {
                let bytes: Arc<[u8]> = self.odb.read(blob)?.data().into();
                self.contents.insert(id, Arc::downgrade(&bytes));
                bytes
            }
        };
        self.builder.file(path, File { id, bytes }).or_else(|problem| self.report(problem))
    }

    fn report(&mut self, problem: Problem) -> Result<(), Stop> {
        self.problems.push(problem);
        if self.problems.len() >= MAX_TREE_PROBLEMS { Err(Stop::Enough) } else { Ok(()) }
    }
}

/// Looks whether everything that a tree needs is there, and leaves judging it to [`TreeCache::read`]. What the tree of
/// `known` holds at the same place is there already. What is in `seen` is not looked at again, and what was looked at
/// comes into it.
///
/// # Errors
/// The first object that is missing or damaged.
pub(super) fn check_complete(
    odb: &Odb<'_>,
    tree: Oid,
    known: Option<Oid>,
    seen: &mut HashSet<Oid>,
) -> Result<(), git2::Error> {
    let mut todo = vec![(tree, known)];
    while let Some((tree, known)) = todo.pop() {
        if Some(tree) == known || !seen.insert(tree) {
            continue;
        }
        if odb.read_header(tree)?.0 > MAX_TREE_OBJECT_BYTES {
            continue;
        }
        let object = odb.read(tree)?;
        let old = match known {
            Some(known) if odb.read_header(known).is_ok_and(|(size, _)| size <= MAX_TREE_OBJECT_BYTES) => {
                odb.read(known).ok()
            }
            _ => None,
        };
        let old = old.as_ref().and_then(|old| parse(old.data()).ok()).unwrap_or_default();
        let old: HashMap<&[u8], Oid> = old.iter().map(|entry| (entry.name, entry.id)).collect();
        for entry in parse(object.data()).unwrap_or_default() {
            let before = old.get(entry.name).copied();
            if before == Some(entry.id) {
                continue;
            }
            match entry.kind {
                Kind::Folder => todo.push((entry.id, before)),
                Kind::File | Kind::Symlink => {
                    if seen.insert(entry.id) {
                        odb.read_header(entry.id)?;
                    }
                }
                Kind::Submodule => {}
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Symlink,
    Submodule,
}

#[derive(Debug)]
struct Entry<'a> {
    kind: Kind,
    name: &'a [u8],
    id: Oid,
}

/// Reads a tree object: `<mode> <name>\0<20 bytes>`, again and again, in git's order and without a name twice.
fn parse(mut bytes: &[u8]) -> Result<Vec<Entry<'_>>, &'static str> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut names = HashSet::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().take(8).position(|byte| *byte == b' ').ok_or("no mode before a name")?;
        let kind = match &bytes[..blank] {
            b"40000" => Kind::Folder,
            b"100644" | b"100755" | b"100664" => Kind::File,
            b"120000" => Kind::Symlink,
            b"160000" => Kind::Submodule,
            _ => return Err("a mode that git does not have"),
        };
        let rest = &bytes[blank + 1..];
        let end = rest.iter().position(|byte| *byte == 0).ok_or("a name without an end")?;
        let name = &rest[..end];
        let id = rest.get(end + 1..end + 21).ok_or("it ends within an id")?;
        let id = Oid::from_bytes(id).expect("an id has 20 bytes");
        bytes = &rest[end + 21..];
        if !names.insert(name) {
            return Err("a name is there twice");
        }
        if entries.last().is_some_and(|last| sort_key(last.kind, last.name).ge(sort_key(kind, name))) {
            return Err("the names are out of order");
        }
        entries.push(Entry { kind, name, id });
    }
    Ok(entries)
}

/// Git compares the names of folders as if they ended with a slash.
fn sort_key(kind: Kind, name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().copied().chain((kind == Kind::Folder).then_some(b'/'))
}

/// Whether libgit2 could not make sense of an object: a commit must change.
pub(super) fn is_malformed(error: &git2::Error) -> bool {
    matches!(error.class(), ErrorClass::Object | ErrorClass::Tree | ErrorClass::Invalid)
        && error.code() != ErrorCode::NotFound
}

/// The problem of such an object.
pub(super) fn malformed(error: &git2::Error) -> Problem {
    let why = clean_line(error.message(), 200);
    Problem::content(format!("the history holds a malformed object: {why}"))
        .hint("take the commit that made it out of the history")
}

/// A commit's id as libgit2 has it.
pub(super) fn oid(commit: CommitId) -> Oid {
    Oid::from_bytes(commit.as_bytes()).expect("an id has 20 bytes")
}

/// A commit's id as core has it.
pub(super) fn commit_id(oid: Oid) -> CommitId {
    CommitId::from_bytes(raw(oid))
}

fn raw(oid: Oid) -> [u8; 20] {
    oid.as_bytes().try_into().expect("repositories with SHA-256 are never opened")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, &str)]) -> Vec<u8> {
        let entry = |(mode, name): &(&str, &str)| [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[7; 20]].concat();
        entries.iter().flat_map(entry).collect()
    }

    #[test]
    fn a_tree_is_read_in_git_order() {
        let bytes = tree(&[("100644", "a"), ("100755", "a.b"), ("40000", "a.c"), ("160000", "b"), ("40000", "c")]);
        let entries = parse(&bytes).unwrap();
        let kinds: Vec<Kind> = entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::File, Kind::File, Kind::Folder, Kind::Submodule, Kind::Folder]);
        // `a` the folder comes after `a.b`, for it is compared as `a/`.
        assert!(parse(&tree(&[("100644", "a.b"), ("40000", "a")])).is_ok());
        assert!(parse(&tree(&[("40000", "a"), ("100644", "a.b")])).is_err());
    }

    #[test]
    fn a_malformed_tree_is_refused_without_a_panic() {
        let good = tree(&[("100644", "a"), ("40000", "b")]);
        for end in 1..good.len() {
            let is_whole_entry = end == good.len() / 2 + 1 || end == tree(&[("100644", "a")]).len();
            assert!(is_whole_entry || parse(&good[..end]).is_err(), "{end}");
        }
        for bad in [
            tree(&[("100644", "b"), ("100644", "a")]),
            tree(&[("100644", "a"), ("100644", "a")]),
            tree(&[("100644", "a"), ("100644", "a.b"), ("40000", "a")]),
            tree(&[("100600", "a")]),
            tree(&[("0", "a")]),
            tree(&[("", "a")]),
            b"100644".to_vec(),
            b"100644 name without end".to_vec(),
        ] {
            assert!(parse(&bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
