//! Keeps the number of files in a mirror small: every fetch leaves a pack and its index, and each one more makes
//! reading slower.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use git2::{Oid, Repository};

/// Small packs that may lie beside each other.
pub const MAX_SMALL_PACKS: usize = 50;
/// Bytes of a pack up to which it is small. Larger ones are not written again.
const SMALL_BYTES: u64 = 1 << 20;

/// The small packs of a mirror, when there are too many of them.
pub(super) fn too_many(folder: &Path) -> Option<Vec<PathBuf>> {
    let small: Vec<PathBuf> = packs(folder)
        .into_iter()
        .filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() <= SMALL_BYTES))
        .collect();
    if small.len() > MAX_SMALL_PACKS { Some(small) } else { None }
}

/// Writes what is in some packs into one. Gives the packs that are needed no longer.
///
/// # Errors
/// When an object cannot be read or the pack not be written. Nothing is lost then.
pub(super) fn merge(repository: &Repository, small: Vec<PathBuf>) -> Result<Vec<PathBuf>, git2::Error> {
    let mut builder = repository.packbuilder()?;
    builder.set_threads(1);
    for pack in &small {
        for id in ids(&pack.with_extension("idx"))? {
            builder.insert_object(id, None)?;
        }
    }
    let before = packs(repository.path());
    let odb = repository.odb()?;
    let mut writer = odb.packwriter()?;
    let mut written = Ok(());
    builder.foreach(|bytes| {
        written = writer.write_all(bytes);
        written.is_ok()
    })?;
    written.map_err(|error| git2::Error::from_str(&error.to_string()))?;
    writer.commit()?;
    // A pack is named after its content: one that is the same as before must stay.
    let is_new = packs(repository.path()).difference(&before).next().is_some();
    Ok(if is_new { small } else { Vec::new() })
}

/// Removes packs with their indexes. The index goes last, for one without a pack is ignored.
pub(super) fn remove(packs: &[PathBuf]) {
    for pack in packs {
        // What stays is read as before.
        let _ = fs::remove_file(pack);
        let _ = fs::remove_file(pack.with_extension("idx"));
    }
}

fn packs(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder.join("objects/pack")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let is_pack = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "pack");
    // One without an index was being moved in when the process was killed. Nobody reads it.
    paths.filter(|path| is_pack(path) && path.with_extension("idx").exists()).collect()
}

/// The ids in an index of version 2: a magic number and the version, 256 counts, then all ids.
fn ids(index: &Path) -> Result<Vec<Oid>, git2::Error> {
    const START: usize = 8 + 4 * 256;
    let malformed = || git2::Error::from_str("malformed index of a pack");
    let bytes = fs::read(index).map_err(|error| git2::Error::from_str(&error.to_string()))?;
    if !bytes.starts_with(b"\xfftOc\0\0\0\x02") {
        return Err(malformed());
    }
    let count = bytes.get(START - 4..START).ok_or_else(malformed)?;
    let count = u32::from_be_bytes(count.try_into().expect("these are four bytes")) as usize;
    let ids = bytes.get(START..START.saturating_add(20 * count)).ok_or_else(malformed)?;
    ids.chunks(20).map(Oid::from_bytes).collect()
}
