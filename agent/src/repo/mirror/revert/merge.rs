//! The three-way merge of a revert. Each path is decided here: libgit2's own merge treats submodules, folders that were
//! renamed, similar files, attributes and lines otherwise than git.
//!
//! Whatever is not certain to come out as git has it is a conflict.

use std::collections::BTreeMap;

use git2::{Oid, Repository};
use towpath_core::revert::Conflict;
use towpath_core::revision::CommitId;

use super::super::super::tree::commit_id;
use super::trees::{self, Leaf, Path, SUBMODULE, Sides};
use super::{Worked, lines, renames};

/// Bytes of a file that is merged line by line. Larger ones conflict.
const MAX_MERGED_BYTES: usize = 1 << 20;
/// Bytes of attributes of one folder that are read.
const MAX_ATTRIBUTES_BYTES: usize = 64 << 10;

/// The tree, or why there is none.
type Merged = Result<Oid, Vec<Conflict>>;

/// Merges three trees: what `theirs` differs from `base` in, made to `ours`.
pub(super) fn merge(repository: &Repository, roots: Sides<Oid>) -> Worked<Merged> {
    let mut difference = match trees::difference(repository, roots)? {
        Ok(difference) => difference,
        Err(problem) => return Ok(Err(problem)),
    };
    let ours = repository.find_tree(roots.ours)?;
    let mut conflicts = renames::follow(repository, &mut difference)?;
    let mut decided: BTreeMap<&Path, Option<Leaf>> = BTreeMap::new();
    for (path, sides) in &difference.changed {
        match decide(repository, &ours, path, sides)? {
            Ok(leaf) => drop(decided.insert(path, leaf)),
            Err(conflict) => conflicts.push(conflict),
        }
    }
    for (path, _) in decided.iter().filter(|(_, leaf)| leaf.is_some()) {
        let folders = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| path[..at].to_vec());
        conflicts.extend(folders.filter(|folder| decided.get(folder).is_some_and(Option::is_some)).map(file));
    }
    if !conflicts.is_empty() {
        return Ok(Ok(Err(conflicts)));
    }
    let changes = decided.iter().map(|(path, leaf)| (path.as_slice(), *leaf)).collect();
    let tree = match trees::with(repository, Some(&ours), &changes)? {
        Some(tree) => tree,
        None => repository.treebuilder(None)?.write()?,
    };
    Ok(Ok(Ok(tree)))
}

/// A conflict in a file.
pub(super) fn file(path: impl AsRef<[u8]>) -> Conflict {
    Conflict::File { path: String::from_utf8_lossy(path.as_ref()).into_owned() }
}

/// What stands at one path afterwards.
fn decide(
    repository: &Repository,
    tree: &git2::Tree<'_>,
    path: &Path,
    sides: &Sides<Option<Leaf>>,
) -> Result<Result<Option<Leaf>, Conflict>, git2::Error> {
    let Sides { base, ours, theirs } = *sides;
    if ours == base {
        return Ok(Ok(theirs));
    }
    if theirs == base || ours == theirs {
        return Ok(Ok(ours));
    }
    let all = [base, ours, theirs];
    if all.iter().flatten().all(|leaf| leaf.mode == SUBMODULE) {
        let pin = |leaf: Option<Leaf>| -> Option<CommitId> { leaf.map(|leaf| commit_id(leaf.id)) };
        let path = String::from_utf8_lossy(path).into_owned();
        let conflict = Conflict::Submodule { path, before: pin(theirs), set: pin(base), now: pin(ours) };
        return Ok(Err(conflict));
    }
    let (Some(base), Some(ours), Some(theirs)) = (base, ours, theirs) else { return Ok(Err(file(path))) };
    if !all.iter().flatten().all(Leaf::is_file) {
        return Ok(Err(file(path)));
    }
    let mode = if ours.mode == base.mode { theirs.mode } else { ours.mode };
    let id = match () {
        () if ours.id == base.id => theirs.id,
        () if theirs.id == base.id || ours.id == theirs.id => ours.id,
        () => match merge_lines(repository, tree, path, Sides { base: base.id, ours: ours.id, theirs: theirs.id })? {
            Some(id) => id,
            None => return Ok(Err(file(path))),
        },
    };
    Ok(Ok(Some(Leaf { mode, id })))
}

/// Merges the lines of a file. None where they conflict, and where git may see it otherwise.
fn merge_lines(
    repository: &Repository,
    tree: &git2::Tree<'_>,
    path: &Path,
    ids: Sides<Oid>,
) -> Result<Option<Oid>, git2::Error> {
    let odb = repository.odb()?;
    for id in [ids.base, ids.ours, ids.theirs] {
        if odb.read_header(id)?.0 > MAX_MERGED_BYTES {
            return Ok(None);
        }
    }
    if has_merge_attributes(repository, tree, path)? {
        return Ok(None);
    }
    let (base, ours, theirs) = (odb.read(ids.base)?, odb.read(ids.ours)?, odb.read(ids.theirs)?);
    let merged = lines::merge(Sides { base: base.data(), ours: ours.data(), theirs: theirs.data() });
    merged.map(|text| repository.blob(&text)).transpose()
}

/// Whether attributes may say how a file is merged: `merge=union`, `-merge`, `binary`, a macro. Git reads them, and the
/// programs that they name are not here.
fn has_merge_attributes(repository: &Repository, tree: &git2::Tree<'_>, path: &Path) -> Result<bool, git2::Error> {
    let mut folder = tree.clone();
    let mut parts = path.split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        if let Some(entry) = folder.iter().find(|entry| entry.name_bytes() == b".gitattributes") {
            let odb = repository.odb()?;
            if odb.read_header(entry.id())?.0 > MAX_ATTRIBUTES_BYTES {
                return Ok(true);
            }
            let object = odb.read(entry.id())?;
            let says = |word: &[u8]| object.data().windows(word.len()).any(|window| window == word);
            if says(b"merge") || says(b"binary") || says(b"[attr]") {
                return Ok(true);
            }
        }
        if parts.peek().is_none() {
            return Ok(false);
        }
        let below = folder.iter().find(|entry| entry.name_bytes() == part).map(|entry| entry.id());
        // A folder that a rename makes has no attributes yet.
        let Some(Ok(next)) = below.map(|id| repository.find_tree(id)) else { return Ok(false) };
        folder = next;
    }
    Ok(false)
}
