//! A deploy repository in a folder of this machine.
//!
//! libgit2's own local transport packs what every branch has, so the pack is made here, of the wanted commits only.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use git2::{ErrorCode, Odb, Repository};
use towpath_core::fault::Problem;
use towpath_core::lane::is_ref_name;
use towpath_core::revision::{CommitId, clean_line};

use super::fetch::{Holds, Needed};
use super::ls_refs::{Advertisement, Asked, Refs};
use super::packet::server_said;
use super::push::Update;
use super::receive::{Decide, Report, Sent, Wanted};
use super::tree::{commit_id, is_malformed, malformed, oid};

/// The refs that are asked for.
pub(super) fn refs(folder: &Path, asked: Asked<'_>) -> Result<Refs, Problem> {
    let repository = open(folder)?;
    let unreadable = |error: git2::Error| {
        Problem::passing(format!("the branches of {} cannot be read: {}", folder.display(), error.message()))
    };
    let mut refs = Refs::new();
    for prefix in asked.prefixes {
        for reference in repository.references_glob(&format!("{prefix}*")).map_err(unreadable)? {
            // A ref that is deleted while it is looked at is gone, and a damaged one is none.
            let Ok(reference) = reference else { continue };
            let Ok(name) = reference.name() else { continue };
            let Some(mut target) = reference.target() else { continue };
            if asked.is_peeled
                && let Ok(commit) = reference.peel_to_commit()
            {
                target = commit.id();
            }
            if is_ref_name(name) {
                refs.insert(name.to_owned(), commit_id(target));
            }
        }
    }
    Ok(refs)
}

/// Copies what is needed into `target`.
pub(super) fn fetch(folder: &Path, needed: Needed<'_>, target: &Odb<'_>) -> Result<(), Problem> {
    let source = open(folder)?;
    let Needed { wanted, haves, holds } = needed;
    let is_gone =
        |commit: CommitId| source.find_commit(oid(commit)).is_err_and(|why| why.code() == ErrorCode::NotFound);
    if let Some((_, gone)) = wanted.iter().find(|(_, commit)| is_gone(*commit)) {
        return Err(server_said(format!("{} has no commit {gone}", folder.display()).as_bytes()));
    }
    let copied = (|| {
        let mut walk = source.revwalk()?;
        for (_, commit) in wanted {
            walk.push(oid(*commit))?;
        }
        for commit in haves {
            if source.find_commit(oid(*commit)).is_ok() {
                walk.hide(oid(*commit))?;
            }
        }
        let mut pack = source.packbuilder()?;
        pack.set_threads(1);
        match holds {
            Holds::Everything => pack.insert_walk(&mut walk)?,
            Holds::Commits => walk.try_for_each(|id| pack.insert_object(id?, None))?,
        }
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

/// Moves refs as `git receive-pack` would, and reports.
///
/// Hooks are not run, for Towpath runs no programs. Where there is one that could decline, nothing is moved.
pub(super) fn push(folder: &Path, decide: &mut Decide<'_, '_>) -> Result<Sent, Problem> {
    let found = Advertisement { refs: refs(folder, Asked::below(&["refs/"]))?, ..Advertisement::default() };
    let Some(Wanted { updates, pack }) = decide(&found)? else { return Ok(Sent::Nothing) };
    let repository = open(folder)?;
    let mut report = Report::default();
    if let Some(hook) = deciding_hook(&repository) {
        let why = format!("{hook} hook declined");
        report.words = format!("Towpath does not run the hook {hook} of a local folder; push over ssh or http");
        report.refs = updates.iter().map(|update| (update.name.clone(), Some(why.clone()))).collect();
        return Ok(Sent::Report(report));
    }
    let stored = (|| {
        let odb = repository.odb()?;
        let mut writer = odb.packwriter()?;
        writer.write_all(&pack).map_err(|error| git2::Error::from_str(&error.to_string()))?;
        writer.commit()
    })();
    if let Err(error) = stored {
        report.unpack_failed = Some(error.message().to_owned());
        return Ok(Sent::Report(report));
    }
    for update in updates {
        let refusal = refusal(&repository, &update.name).or_else(|| move_ref(&repository, update).err());
        report.refs.insert(update.name.clone(), refusal);
    }
    Ok(Sent::Report(report))
}

/// Moves a ref if it still stands where it is thought to.
fn move_ref(repository: &Repository, update: &Update) -> Result<(), String> {
    const LOG: &str = "push";
    let Update { name, old, new } = update;
    let moved = match old {
        None => repository.reference(name, oid(*new), false, LOG),
        Some(old) => repository.reference_matching(name, oid(*new), true, oid(*old), LOG),
    };
    moved.map(drop).map_err(|error| error.message().to_owned())
}

/// A hook that could decline a push.
fn deciding_hook(repository: &Repository) -> Option<&'static str> {
    let folder = match repository.config().and_then(|config| config.get_path("core.hooksPath")) {
        Ok(path) => repository.path().join(path),
        Err(_unset) => repository.commondir().join("hooks"),
    };
    let is_program = |hook: &&str| {
        let metadata = folder.join(hook).metadata();
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    ["pre-receive", "update", "proc-receive", "reference-transaction"].into_iter().find(is_program)
}

/// Why a repository takes no push to a ref, by its configuration, in the words of git.
fn refusal(repository: &Repository, name: &str) -> Option<String> {
    let is_checked_out = || repository.find_reference("HEAD").ok()?.symbolic_target().ok()?.map(|head| head == name);
    if !repository.is_bare() && is_checked_out() == Some(true) {
        return Some("branch is currently checked out".to_owned());
    }
    is_hidden(repository, name).then(|| "deny updating a hidden ref".to_owned())
}

/// `receive.hideRefs` and `transfer.hideRefs`: of those that fit a name the last one decides, and `!` shows it again.
fn is_hidden(repository: &Repository, name: &str) -> bool {
    let Ok(config) = repository.config() else { return false };
    let mut is_hidden = false;
    for key in ["transfer.hiderefs", "receive.hiderefs"] {
        let Ok(entries) = config.multivar(key, None) else { continue };
        // An error is an entry that cannot be read, which hides nothing.
        let _ = entries.for_each(|entry| {
            let Ok(pattern) = entry.value() else { return };
            let (hides, prefix) = match pattern.strip_prefix('!') {
                Some(prefix) => (false, prefix),
                None => (true, pattern),
            };
            let prefix = prefix.trim_start_matches('^').trim_end_matches('/');
            let fits = name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if fits {
                is_hidden = hides;
            }
        });
    }
    is_hidden
}

fn open(folder: &Path) -> Result<Repository, Problem> {
    Repository::open(folder).map_err(|error| {
        let why = clean_line(error.message(), 200);
        Problem::setup(format!("{} is no git repository that can be opened: {why}", folder.display()))
            .hint("name a folder with a git repository that the agent may read")
    })
}
