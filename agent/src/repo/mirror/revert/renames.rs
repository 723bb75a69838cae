//! Files that were renamed on one side and changed on the other. Git finds them by how much two files have in common; so
//! does this, by the same measure, with a margin: what is near git's limit, or has two answers, is a conflict.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use git2::{Oid, Repository};
use towpath_core::revert::Conflict;

use super::merge::file;
use super::trees::{Changed, Difference, Leaf, Path, Sides};

/// Hundredths that two files must have in common for git to take one for the other (`-M50%`).
const GITS: u32 = 50;
/// How near to that is not decided.
const MARGIN: u32 = 10;
/// Bytes of a file whose content is compared.
const MAX_COMPARED_BYTES: usize = 1 << 20;
/// Pairs of files that are compared in one revert. More are not decided.
const MAX_PAIRS: usize = 50_000;
/// Git compares pieces of a line of at most this many bytes (`diffcore-delta.c`).
const PIECE_BYTES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

impl Side {
    fn of(self, sides: &Sides<Option<Leaf>>) -> Option<Leaf> {
        match self {
            Side::Ours => sides.ours,
            Side::Theirs => sides.theirs,
        }
    }

    fn other(self) -> Side {
        match self {
            Side::Ours => Side::Theirs,
            Side::Theirs => Side::Ours,
        }
    }
}

/// Where a file has gone on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gone {
    /// It is deleted.
    Deleted,
    /// It has this name now.
    To(Path),
    /// It may have one of these.
    Unclear(Vec<Path>),
}

/// Changes what is to be merged so that a file that was renamed on one side and changed on the other is merged under its
/// new name. Gives the conflicts of renames.
pub(super) fn follow(repository: &Repository, difference: &mut Difference) -> Result<Vec<Conflict>, git2::Error> {
    let mut search = Search::new(repository, &difference.changed)?;
    let mut found = Vec::new();
    let mut moves: Vec<(Side, Path, Path)> = Vec::new();
    let mut shared: Vec<(Path, Path)> = Vec::new();
    for (path, sides) in &difference.changed {
        match *sides {
            Sides { base: Some(_), ours: None, theirs: None } => {
                match (search.gone(Side::Ours, path)?, search.gone(Side::Theirs, path)?) {
                    (Gone::Deleted, Gone::Deleted) => {}
                    (Gone::To(one), Gone::To(other)) if one == other => shared.push((path.clone(), one)),
                    // Renamed twice.
                    (Gone::To(one), Gone::To(other)) => found.extend([file(path), file(one), file(other)]),
                    // Renamed here, deleted there.
                    (Gone::To(one), Gone::Deleted) | (Gone::Deleted, Gone::To(one)) => found.push(file(one)),
                    (Gone::Unclear(names), _) | (_, Gone::Unclear(names)) => {
                        found.push(file(path));
                        found.extend(names.iter().map(file));
                    }
                }
            }
            Sides { base: Some(base), ours, theirs } => {
                let side = match (ours, theirs) {
                    (None, Some(other)) if other != base => Side::Ours,
                    (Some(other), None) if other != base => Side::Theirs,
                    _ => continue,
                };
                match search.gone(side, path)? {
                    // Deleted here, changed there: the merge says so.
                    Gone::Deleted => {}
                    Gone::To(name) => moves.push((side, path.clone(), name)),
                    Gone::Unclear(names) => found.extend(names.iter().map(file).chain([file(path)])),
                }
            }
            _ => {}
        }
    }
    found.extend(search.in_lost_folders(difference)?);
    for (from, to) in shared {
        let base = difference.changed[&from].base;
        difference.changed.get_mut(&to).expect("it was found there").base = base;
    }
    for (side, from, to) in moves {
        let source = difference.changed[&from];
        let target = difference.changed.get_mut(&to).expect("it was found there");
        if side.other().of(target).is_some() {
            // The other side has something else of that name.
            found.push(file(to));
        } else {
            target.base = source.base;
            match side {
                Side::Ours => target.theirs = source.theirs,
                Side::Theirs => target.ours = source.ours,
            }
        }
        // Where it was is nothing afterwards.
        difference.changed.insert(from, Sides { base: source.ours, ours: source.ours, theirs: None });
    }
    Ok(found)
}

/// What a file is made of: how many bytes each of its pieces has in it.
type Pieces = HashMap<Vec<u8>, usize>;

struct Search<'a> {
    repository: &'a Repository,
    /// Files that one side has not, by side, and those that it has new.
    deleted: BTreeMap<bool, Vec<(Path, Leaf)>>,
    added: BTreeMap<bool, Vec<(Path, Leaf)>>,
    pieces: HashMap<Oid, Option<Rc<(Pieces, usize)>>>,
    pairs: usize,
}

impl<'a> Search<'a> {
    fn new(repository: &'a Repository, changed: &Changed) -> Result<Self, git2::Error> {
        let (mut deleted, mut added) = (BTreeMap::new(), BTreeMap::new());
        let empty = Oid::hash_object(git2::ObjectType::Blob, b"")?;
        for side in [Side::Ours, Side::Theirs] {
            let (mut gone, mut new) = (Vec::new(), Vec::new());
            for (path, sides) in changed {
                match (sides.base, side.of(sides)) {
                    // Empty files are never taken for each other.
                    (Some(leaf), None) if leaf.id != empty => gone.push((path.clone(), leaf)),
                    (None, Some(leaf)) if leaf.id != empty => new.push((path.clone(), leaf)),
                    _ => {}
                }
            }
            deleted.insert(side == Side::Ours, gone);
            added.insert(side == Side::Ours, new);
        }
        Ok(Search { repository, deleted, added, pieces: HashMap::new(), pairs: 0 })
    }

    /// Where a file of the base that one side has not any more has gone there.
    fn gone(&mut self, side: Side, path: &Path) -> Result<Gone, git2::Error> {
        let deleted = self.deleted[&(side == Side::Ours)].clone();
        let added = self.added[&(side == Side::Ours)].clone();
        let Some((_, leaf)) = deleted.iter().find(|(other, _)| other == path) else { return Ok(Gone::Deleted) };
        let is_same = |(_, other): &&(Path, Leaf)| other.id == leaf.id && other.is_file() == leaf.is_file();
        let same: Vec<&(Path, Leaf)> = added.iter().filter(is_same).collect();
        if !same.is_empty() {
            let is_alone = same.len() == 1 && deleted.iter().filter(is_same).count() == 1;
            return Ok(if is_alone && leaf.is_file() { Gone::To(same[0].0.clone()) } else { names(same) });
        }
        if !leaf.is_file() {
            return Ok(Gone::Deleted);
        }
        // What is the same as another one was that one.
        let is_taken = |new: &Leaf| deleted.iter().any(|(_, old)| old.id == new.id);
        let free: Vec<&(Path, Leaf)> = added.iter().filter(|(_, new)| new.is_file() && !is_taken(new)).collect();
        let mut near = Vec::new();
        for new in free {
            let common = self.common(leaf.id, new.1.id)?;
            if common >= GITS - MARGIN {
                near.push((new, common));
            }
        }
        let [(new, common)] = near[..] else {
            return Ok(if near.is_empty() { Gone::Deleted } else { names(near.into_iter().map(|(new, _)| new)) });
        };
        let mut is_clear = common >= GITS + MARGIN;
        for (other, old) in &deleted {
            if other != path && old.is_file() && self.common(old.id, new.1.id)? >= GITS - MARGIN {
                is_clear = false;
            }
        }
        Ok(if is_clear { Gone::To(new.0.clone()) } else { names([new]) })
    }

    /// What one side has new in a folder that the other one has renamed: git asks whether it belongs there too.
    fn in_lost_folders(&mut self, difference: &Difference) -> Result<Vec<Conflict>, git2::Error> {
        let mut found = Vec::new();
        for (side, lost) in [(Side::Ours, &difference.lost_by_ours), (Side::Theirs, &difference.lost_by_theirs)] {
            let mut moved: BTreeMap<&Path, bool> = BTreeMap::new();
            for (path, sides) in &difference.changed {
                let is_new = sides.base.is_none() && side.other().of(sides).is_some();
                if !is_new || side.of(sides) == side.other().of(sides) {
                    continue;
                }
                for folder in folders(path).iter().filter_map(|folder| lost.get(folder)) {
                    let is_moved = match moved.get(folder) {
                        Some(known) => *known,
                        None => self.is_moved(side, folder)?,
                    };
                    moved.insert(folder, is_moved);
                    if is_moved {
                        found.push(file(path));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether a file of a folder has another name on one side.
    fn is_moved(&mut self, side: Side, folder: &Path) -> Result<bool, git2::Error> {
        let below = self.deleted[&(side == Side::Ours)].iter().map(|(path, _)| path);
        let below: Vec<Path> = below.filter(|path| path.starts_with(folder)).cloned().collect();
        for path in below {
            if self.gone(side, &path)? != Gone::Deleted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many hundredths two files have in common, by git's measure: the bytes of the pieces of the old one that the new
    /// one has too, against the size of the larger one.
    fn common(&mut self, old: Oid, new: Oid) -> Result<u32, git2::Error> {
        self.pairs += 1;
        if self.pairs > MAX_PAIRS {
            return Ok(GITS);
        }
        // What is too large to look into may be anything.
        let (Some(old), Some(new)) = (self.pieces(old)?, self.pieces(new)?) else { return Ok(GITS) };
        let ((old, old_size), (new, new_size)) = (&*old, &*new);
        let copied: usize = old.iter().map(|(piece, bytes)| *bytes.min(new.get(piece).unwrap_or(&0))).sum();
        Ok((100 * copied / (*old_size).max(*new_size).max(1)) as u32)
    }

    fn pieces(&mut self, id: Oid) -> Result<Option<Rc<(Pieces, usize)>>, git2::Error> {
        if let Some(known) = self.pieces.get(&id) {
            return Ok(known.clone());
        }
        let odb = self.repository.odb()?;
        let found = if odb.read_header(id)?.0 > MAX_COMPARED_BYTES {
            None
        } else {
            let object = odb.read(id)?;
            let mut pieces = Pieces::new();
            for line in object.data().split_inclusive(|byte| *byte == b'\n') {
                for piece in line.chunks(PIECE_BYTES) {
                    *pieces.entry(piece.to_vec()).or_default() += piece.len();
                }
            }
            Some(Rc::new((pieces, object.len())))
        };
        self.pieces.insert(id, found.clone());
        Ok(found)
    }
}

fn names<'p>(of: impl IntoIterator<Item = &'p (Path, Leaf)>) -> Gone {
    Gone::Unclear(of.into_iter().map(|(path, _)| path.clone()).collect())
}

/// The folders around a path, with a slash at the end.
fn folders(path: &Path) -> BTreeSet<Path> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| path[..=at].to_vec()).collect()
}
