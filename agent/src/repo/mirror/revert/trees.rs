//! Three trees beside each other, path by path, and a tree with some paths changed.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectType, Oid, Repository, Tree};
use towpath_core::fault::Problem;

use super::Worked;

/// Files in which the three trees of one revert may differ.
const MAX_CHANGED: usize = 20_000;
/// Bytes of a path.
const MAX_PATH_BYTES: usize = 4096;

/// The trees of a three-way merge, or what stands at one path in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sides<T> {
    /// Of the commit that is reverted.
    pub base: T,
    /// What it is reverted on.
    pub ours: T,
    /// Before the commit that is reverted.
    pub theirs: T,
}

impl<T> Sides<T> {
    pub(super) fn map<U>(&self, mut to: impl FnMut(&T) -> U) -> Sides<U> {
        Sides { base: to(&self.base), ours: to(&self.ours), theirs: to(&self.theirs) }
    }
}

/// A file, a symbolic link or a submodule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub mode: i32,
    pub id: Oid,
}

pub(super) const FILE: i32 = 0o100_644;
pub(super) const EXECUTABLE: i32 = 0o100_755;
pub(super) const SUBMODULE: i32 = 0o160_000;
const FOLDER: i32 = 0o040_000;

impl Leaf {
    pub(super) fn is_file(&self) -> bool {
        matches!(self.mode, FILE | EXECUTABLE)
    }
}

/// A path from the root, as git has it.
pub(super) type Path = Vec<u8>;
/// The paths at which not all three trees have the same.
pub(super) type Changed = BTreeMap<Path, Sides<Option<Leaf>>>;

/// Where three trees differ.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub changed: Changed,
    /// Folders that the base has and ours has not, with a slash at the end.
    pub lost_by_ours: BTreeSet<Path>,
    /// Folders that the base has and theirs has not.
    pub lost_by_theirs: BTreeSet<Path>,
}

/// Reads where three trees differ. The inner error is that it is too much.
pub(super) fn difference(repository: &Repository, roots: Sides<Oid>) -> Worked<Difference> {
    let mut found = Difference::default();
    let mut todo = vec![(Path::new(), roots.map(|id| Some(*id)))];
    while let Some((folder, ids)) = todo.pop() {
        if ids.base == ids.ours && ids.base == ids.theirs {
            continue;
        }
        if ids.base.is_some() && ids.ours.is_none() {
            found.lost_by_ours.insert(folder.clone());
        }
        if ids.base.is_some() && ids.theirs.is_none() {
            found.lost_by_theirs.insert(folder.clone());
        }
        let mut names: BTreeMap<Vec<u8>, Sides<Option<Leaf>>> = BTreeMap::new();
        let nothing = Sides { base: None, ours: None, theirs: None };
        let mut read = |id: Option<Oid>, put: fn(&mut Sides<Option<Leaf>>, Leaf)| -> Result<(), git2::Error> {
            if let Some(id) = id {
                for entry in repository.find_tree(id)?.iter() {
                    let sides = names.entry(entry.name_bytes().to_vec()).or_insert(nothing);
                    put(sides, Leaf { mode: entry.filemode(), id: entry.id() });
                }
            }
            Ok(())
        };
        read(ids.base, |sides, leaf| sides.base = Some(leaf))?;
        read(ids.ours, |sides, leaf| sides.ours = Some(leaf))?;
        read(ids.theirs, |sides, leaf| sides.theirs = Some(leaf))?;
        for (name, sides) in names {
            if sides.base == sides.ours && sides.base == sides.theirs {
                continue;
            }
            let path = [folder.as_slice(), &name].concat();
            if path.len() > MAX_PATH_BYTES || found.changed.len() + todo.len() > MAX_CHANGED {
                let message = format!("a revert over more than {MAX_CHANGED} files, or with a very long path");
                return Ok(Err(Problem::content(message).hint("restore the tree of an older commit instead")));
            }
            let is_folder = |leaf: &Leaf| leaf.mode == FOLDER;
            let folders = sides.map(|leaf| leaf.filter(is_folder).map(|leaf| leaf.id));
            let leaves = sides.map(|leaf| leaf.filter(|leaf| !is_folder(leaf)));
            if leaves != nothing {
                found.changed.insert(path.clone(), leaves);
            }
            if folders != (Sides { base: None, ours: None, theirs: None }) {
                todo.push(([path.as_slice(), b"/"].concat(), folders));
            }
        }
    }
    // A path that is the same leaf in all three came in only beside a folder.
    found.changed.retain(|_, sides| sides.base != sides.ours || sides.base != sides.theirs);
    Ok(Ok(found))
}

/// A tree in which some paths are something else, or nothing. None when nothing is left of it.
pub(super) fn with(
    repository: &Repository,
    before: Option<&Tree<'_>>,
    changes: &BTreeMap<&[u8], Option<Leaf>>,
) -> Result<Option<Oid>, git2::Error> {
    let mut builder = repository.treebuilder(before)?;
    let mut below: BTreeMap<&[u8], BTreeMap<&[u8], Option<Leaf>>> = BTreeMap::new();
    for (path, leaf) in changes {
        if let Some(slash) = path.iter().position(|byte| *byte == b'/') {
            below.entry(&path[..slash]).or_default().insert(&path[slash + 1..], *leaf);
        } else if builder.get(path)?.is_some_and(|entry| entry.kind() != Some(ObjectType::Tree)) && leaf.is_none() {
            builder.remove(path)?;
        }
    }
    for (name, changes) in below {
        let folder = match before.and_then(|before| before.iter().find(|entry| entry.name_bytes() == name)) {
            Some(entry) if entry.kind() == Some(ObjectType::Tree) => Some(repository.find_tree(entry.id())?),
            _ => None,
        };
        match with(repository, folder.as_ref(), &changes)? {
            Some(tree) => drop(builder.insert(name, tree, FOLDER)?),
            None if folder.is_some() => builder.remove(name)?,
            None => {}
        }
    }
    for (path, leaf) in changes {
        if let (Some(leaf), false) = (leaf, path.contains(&b'/')) {
            builder.insert(*path, leaf.id, leaf.mode)?;
        }
    }
    if builder.is_empty() { Ok(None) } else { builder.write().map(Some) }
}
