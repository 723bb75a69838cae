//! A deploy repository in a folder of this machine.
//!
//! libgit2's own local transport packs what every branch has, so the pack is made here, of the wanted commits only.

use std::io::Write;
use std::path::Path;

use git2::{Odb, Repository};
use towpath_core::fault::Problem;
use towpath_core::lane::is_ref_name;
use towpath_core::revision::{CommitId, clean_line};

use super::ls_refs::Refs;
use super::tree::{commit_id, is_malformed, malformed, oid};

/// The refs whose names begin with one of some prefixes.
pub(super) fn refs(folder: &Path, prefixes: &[&str]) -> Result<Refs, Problem> {
    let repository = open(folder)?;
    let unreadable = |error: git2::Error| {
        Problem::passing(format!("the branches of {} cannot be read: {}", folder.display(), error.message()))
    };
    let mut refs = Refs::new();
    for prefix in prefixes {
        for reference in repository.references_glob(&format!("{prefix}*")).map_err(unreadable)? {
            // A ref that is deleted while it is looked at is gone, and a damaged one is none.
            let Ok(reference) = reference else { continue };
            let Ok(name) = reference.name() else { continue };
            let Some(target) = reference.target() else { continue };
            if is_ref_name(name) {
                refs.insert(name.to_owned(), commit_id(target));
            }
        }
    }
    Ok(refs)
}

/// Copies the wanted commits, and what they need and `haves` do not have, into `target`.
pub(super) fn fetch(folder: &Path, wanted: &[CommitId], haves: &[CommitId], target: &Odb<'_>) -> Result<(), Problem> {
    let source = open(folder)?;
    let copied = (|| {
        let mut walk = source.revwalk()?;
        for commit in wanted {
            walk.push(oid(*commit))?;
        }
        for commit in haves {
            if source.find_commit(oid(*commit)).is_ok() {
                walk.hide(oid(*commit))?;
            }
        }
        let mut pack = source.packbuilder()?;
        pack.set_threads(1);
        pack.insert_walk(&mut walk)?;
        let mut writer = target.packwriter()?;
        let mut written = Ok(());
        pack.foreach(|bytes| {
            written = writer.write_all(bytes);
            written.is_ok()
        })?;
        written.map_err(|error| git2::Error::from_str(&error.to_string()))?;
        writer.commit()
    })();
    copied.map(drop).map_err(|error: git2::Error| {
        if is_malformed(&error) {
            return malformed(&error);
        }
        let why = clean_line(error.message(), 200);
        Problem::passing(format!("the repository in {} could not be copied: {why}", folder.display()))
    })
}

fn open(folder: &Path) -> Result<Repository, Problem> {
    Repository::open(folder).map_err(|error| {
        let why = clean_line(error.message(), 200);
        Problem::setup(format!("{} is no git repository that can be opened: {why}", folder.display()))
            .hint("name a folder with a git repository that the agent may read")
    })
}
