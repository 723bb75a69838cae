//! The folders of a mirror: whose it is, how it is made, what lies beside it, and what a killed process left.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{Repository, RepositoryInitOptions};
use towpath_core::fault::Problem;

use super::super::fetch::Holds;
use super::super::remote::Remote;

/// How long a lock that was let go may still be held: by a process that is being started, such as ssh, until it is
/// another program.
const INHERITED: Duration = Duration::from_secs(1);

/// Locks the file beside a mirror that stands for its owner. The lock ends with the process.
pub(super) fn take_ownership(folder: &Path) -> Result<File, Problem> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|error| unwritable(folder, &error))?;
    }
    let owner = File::create(beside(folder, "owner")).map_err(|error| unwritable(folder, &error))?;
    let began = Instant::now();
    loop {
        match owner.try_lock() {
            Ok(()) => return Ok(owner),
            Err(TryLockError::WouldBlock) if began.elapsed() < INHERITED => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Problem::setup(format!("the mirror in {} is used by another agent", folder.display()))
                    .hint("give each agent its own cache folder"));
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(folder, &error)),
        }
    }
}

/// `<folder>.<suffix>`.
pub(super) fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn move_aside(folder: &Path) -> std::io::Result<()> {
    let damaged = beside(folder, "damaged");
    if damaged.exists() {
        fs::remove_dir_all(&damaged)?;
    }
    fs::rename(folder, damaged)
}

/// The mirror of an address, which stands in its configuration: commits of another repository must not be found in it.
/// So does whether it holds commits only, for one that does has no files to read.
pub(super) fn open_or_create(folder: &Path, remote: &Remote, holds: Holds) -> Result<Repository, Problem> {
    const ADDRESS: &str = "towpath.address";
    const COMMITS_ONLY: &str = "towpath.commitsOnly";
    if folder.exists() {
        let opened = Repository::open_bare(folder).and_then(|repository| {
            let config = repository.config()?.snapshot()?;
            let address = config.get_string(ADDRESS)?;
            let found = if config.get_bool(COMMITS_ONLY).unwrap_or(false) { Holds::Commits } else { Holds::Everything };
            Ok((repository, address, found))
        });
        match opened {
            Ok((repository, address, found)) if address == remote.to_string() && found == holds => {
                return Ok(repository);
            }
            Ok((_, address, found)) if address == remote.to_string() => {
                tracing::warn!(folder = %folder.display(), ?found, "the mirror holds something else, moved aside");
            }
            Ok((_, address, _)) => {
                tracing::warn!(folder = %folder.display(), address, "the mirror of another address, moved aside");
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), error = error.message(), "no mirror, moved aside");
            }
        }
        move_aside(folder).map_err(|error| unwritable(folder, &error))?;
    }
    let mut options = RepositoryInitOptions::new();
    options.bare(true).no_reinit(true).external_template(false);
    let created = Repository::init_opts(folder, &options).and_then(|repository| {
        let mut config = repository.config()?;
        // Written first: without its address it is no mirror.
        config.set_bool(COMMITS_ONLY, holds == Holds::Commits)?;
        config.set_str(ADDRESS, &remote.to_string())?;
        Ok(repository)
    });
    created.map_err(|error| unwritable(folder, &error.message()))
}

pub(super) fn unwritable(folder: &Path, why: &dyn std::fmt::Display) -> Problem {
    Problem::setup(format!("the mirror in {} cannot be written: {why}", folder.display()))
        .hint("the agent must be able to write there, and the disk must have room")
}

/// Removes what a killed process leaves: locks, and packs that were never finished. The folder has one owner, so
/// nobody else can be holding them.
pub(super) fn remove_leftovers(folder: &Path) {
    for suffix in ["ssh", "incoming", "fresh", "fresh.incoming"] {
        // An error means that there is none.
        let _ = fs::remove_dir_all(beside(folder, suffix));
    }
    let mut todo = vec![folder.to_owned()];
    let objects = folder.join("objects");
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_unfinished = name.starts_with("pack_git2_") || name.starts_with("tmp_");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            } else if name.ends_with(".lock") || (is_unfinished && folder.starts_with(&objects)) {
                // One that cannot be removed shows itself at the next fetch.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Where what is fetched lies until it has been checked: a repository of its own beside the mirror, which sees the
/// mirror's objects too. What is not accepted is removed.
pub(super) struct Incoming {
    pub(super) repository: Repository,
    mirror: PathBuf,
}

impl Incoming {
    pub(super) fn prepare(mirror: &Path) -> Result<Incoming, Problem> {
        let folder = beside(mirror, "incoming");
        let prepare = || {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            for part in ["objects/info", "objects/pack", "refs"] {
                fs::create_dir_all(folder.join(part))?;
            }
            fs::write(folder.join("HEAD"), "ref: refs/heads/none\n")?;
            fs::write(folder.join("objects/info/alternates"), [path_bytes(&mirror.join("objects")), b"\n"].concat())
        };
        prepare().map_err(|error| unwritable(mirror, &error))?;
        let repository = Repository::open_bare(&folder).map_err(|error| {
            Problem::passing(format!("what is fetched has no place beside the mirror: {}", error.message()))
        })?;
        Ok(Incoming { repository, mirror: mirror.to_owned() })
    }

    /// Moves what was fetched into the mirror. Indexes go last: a pack without one is not looked at.
    pub(super) fn accept(&self) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.repository.path().join("objects/pack"))? {
            files.push(entry?.path());
        }
        files.sort_by_key(|path| path.extension().is_some_and(|extension| extension == "idx"));
        for path in files {
            let name = path.file_name().expect("entries of a folder have names");
            fs::rename(&path, self.mirror.join("objects/pack").join(name))?;
        }
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        let _ = fs::remove_dir_all(self.repository.path());
    }
}

fn path_bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}
