//! The version of a checkout, and what is known of the submodules that are checked out in it.
//!
//! Only commits and tags count: a file that was changed and not committed changes no version.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use git2::{ErrorCode, Repository};
use jiff::Timestamp;
use towpath_core::components::{self, Pin, Pins};
use towpath_core::fault::{Fault, Problem};
use towpath_core::revision::{CommitId, clean_line};
use towpath_core::version::{self, Ancestry, Version};

use super::{commit_id, oid, part_of};

/// What a clone that was cut short needs.
const WHOLE: &str = "fetch all of it with `git fetch --unshallow --tags`; in CI set `fetch-depth: 0` (checkout action of \
                     GitHub and Gitea) or `GIT_DEPTH: 0` (GitLab)";

/// A checkout, by its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The version of the commit that is checked out.
    pub version: Version,
    /// When that was committed.
    pub committed_at: Timestamp,
    /// The tag that begins with `v` and stands on it, or why there is none.
    pub git_tag: Result<String, Problem>,
    /// The branch that is checked out.
    pub branch: Option<String>,
}

/// The version of the checkout that a folder is in, which may be a submodule or a worktree. What is not committed does
/// not matter.
///
/// # Errors
/// `Setup` where there is no git repository, no commit, no tag `vX.Y` before it, or not all of its history.
pub fn version(folder: &Path) -> Result<Versioned, Problem> {
    let git = Repository::discover(folder).map_err(|error| {
        let why = clean_line(error.message(), 200);
        Problem::setup(format!("{} is in no git repository: {why}", folder.display()))
            .hint("name a checkout; `towpath --version` prints the version of the program itself")
    })?;
    if let Some(path) = submodule_around(&git, folder) {
        return Err(Problem::setup(format!("the submodule {path} is not checked out"))
            .hint(format!("check it out with `git submodule update --init {path}`")));
    }
    let commit = git.head().and_then(|head| head.peel_to_commit()).map_err(|error| {
        let why = clean_line(error.message(), 200);
        Problem::setup(format!("there is no commit in {}: {why}", folder.display())).hint("check one out")
    })?;
    let version = describe(&git, commit_id(commit.id()))?;
    let git_tag = tags(&git).and_then(|tags| components::tag_on(version.commit, &tags));
    let branch = git.head().ok().filter(git2::Reference::is_branch);
    let branch = branch.and_then(|head| head.shorthand().ok().map(ToOwned::to_owned));
    Ok(Versioned { version, committed_at: time(&commit), git_tag, branch })
}

/// What the repositories of submodules say of some commits, where they were cloned: by the paths of the submodules from
/// `root`. What is not here has no entry.
pub(super) fn pins<'a>(
    git: &Repository,
    root: &Path,
    submodules: impl IntoIterator<Item = (&'a str, CommitId)>,
) -> Pins {
    let part = part_of(git, root);
    let mut names: BTreeMap<PathBuf, String> = BTreeMap::new();
    for submodule in git.submodules().unwrap_or_default() {
        if let Ok(name) = submodule.name() {
            names.insert(submodule.path().to_owned(), name.to_owned());
        }
    }
    let pin = |(path, commit): (&str, CommitId)| {
        let from_root = part.join(path);
        let clone = clone_of(git, &from_root, names.get(&from_root).map(String::as_str))?;
        let found = clone.find_commit(oid(commit)).ok()?;
        let of_this =
            |problem: Problem| Problem { message: format!("submodule {path}: {}", problem.message), ..problem };
        let version = describe(&clone, commit).map(|version| version.to_string()).map_err(of_this);
        let git_tag = tags(&clone).and_then(|tags| components::tag_on(commit, &tags)).map_err(of_this);
        Some((path.to_owned(), Ok(Pin { version, committed_at: time(&found), git_tag, digests: BTreeMap::new() })))
    };
    submodules.into_iter().filter_map(pin).collect()
}

/// The clone of a submodule: in its folder, or where git keeps it while another revision is checked out.
fn clone_of(git: &Repository, path: &Path, name: Option<&str>) -> Option<Repository> {
    let checked_out = git.workdir().map(|workdir| workdir.join(path)).filter(|folder| folder.join(".git").exists());
    if let Some(clone) = checked_out.and_then(|folder| Repository::open(folder).ok()) {
        return Some(clone);
    }
    let name = Path::new(name?);
    // A name comes from a file that anybody may have written.
    if !name.components().all(|component| matches!(component, Component::Normal(_))) {
        return None;
    }
    // A worktree has its own.
    let mut places = [git.path(), git.commondir()].into_iter().map(|place| place.join("modules").join(name));
    places.find_map(|place| Repository::open_bare(place).ok())
}

fn unreadable(error: git2::Error) -> Problem {
    Problem::setup(format!("the repository cannot be read: {}", clean_line(error.message(), 200)))
}

/// The tags that begin with `v`, and the commits that they stand on.
fn tags(git: &Repository) -> Result<BTreeMap<String, CommitId>, Problem> {
    let mut tags = BTreeMap::new();
    for reference in git.references_glob("refs/tags/v*").map_err(unreadable)? {
        let reference = reference.map_err(unreadable)?;
        let Some(name) = reference.name().ok().and_then(|name| name.strip_prefix("refs/tags/")) else { continue };
        // One that leads to a file or a folder is before no commit.
        if let Ok(at) = reference.peel_to_commit() {
            tags.insert(name.to_owned(), commit_id(at.id()));
        }
    }
    Ok(tags)
}

fn describe(git: &Repository, commit: CommitId) -> Result<Version, Problem> {
    // libgit2 looks for this file in the folder of a worktree, where it never is.
    let cut_short = git.commondir().join("shallow");
    if std::fs::metadata(cut_short).is_ok_and(|file| file.len() > 0) {
        let message = "the clone is shallow: commits before it are missing, so they cannot be counted";
        return Err(Problem::setup(message).hint(WHOLE));
    }
    let tags = tags(git)?;
    let read = |id: CommitId| {
        let commit = git.find_commit(oid(id)).map_err(|error| match error.code() {
            ErrorCode::NotFound => {
                Problem::passing(format!("the clone has holes: the commit {id} is missing")).hint("clone it again")
            }
            _ => unreadable(error),
        })?;
        Ok(Ancestry { committed_at: commit.time().seconds(), parents: commit.parent_ids().map(commit_id).collect() })
    };
    version::describe(commit, &tags, read).map_err(|problem| match problem.fault {
        Fault::Setup if problem.hint.is_some() => problem.hint(
            "fetch the tags with `git fetch --tags`; where there is none yet, begin with one, such as \
             `git tag -a v1.0 COMMIT`, and push it",
        ),
        _ => problem,
    })
}

/// The submodule that a folder is in or below, which is not checked out: the repository around it is another one.
fn submodule_around(git: &Repository, folder: &Path) -> Option<String> {
    const SUBMODULE: u32 = 0o160_000;
    let part = part_of(git, folder);
    let index = git.index().ok()?;
    let entries = index.iter().filter(|entry| entry.mode == SUBMODULE);
    let mut paths = entries.filter_map(|entry| String::from_utf8(entry.path).ok());
    paths.find(|path| part.starts_with(path))
}

fn time(commit: &git2::Commit<'_>) -> Timestamp {
    let seconds = commit.time().seconds();
    let nearest = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(seconds).unwrap_or(nearest)
}
