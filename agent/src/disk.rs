//! The door to the disk of whoever types a command: a checkout of a deploy repository, or one revision of it, as a
//! [`Tree`]. The agent never reads manifests this way; it reads commits out of its mirror. What comes this way to it are
//! the files of its own configuration, which are watched.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};
use towpath_core::components::Pins;
use towpath_core::fault::{Place, Problem, Problems};
use towpath_core::lane::Heads;
use towpath_core::limits;
use towpath_core::revision::{BlobId, CommitId};
use towpath_core::tree::{File, Tree, TreeBuilder};

mod version;

pub use version::{Versioned, version};

/// Calls `on_change` after a file changed, however it was changed: written, replaced, or behind the links that
/// Kubernetes swaps when a mounted Secret or ConfigMap changes (`..data`). It ends with what is returned.
///
/// # Errors
/// `Passing` where the system cannot watch: the file is then read only once.
pub fn watch_file(file: &Path, on_change: impl Fn() + Send + 'static) -> Result<notify::RecommendedWatcher, Problem> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let cannot = |error: notify::Error| Problem::passing(format!("cannot watch {}: {error}", folder.display()));
    let wanted = file.file_name().unwrap_or_default().to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Others may write beside it, the log of this very process for one.
        let concerns_it = match &event {
            Ok(event) => {
                let is_meant = |path: &PathBuf| {
                    path.file_name()
                        .is_some_and(|name| name == wanted || name.as_encoded_bytes().starts_with(b"..data"))
                };
                !matches!(event.kind, notify::EventKind::Access(_)) && event.paths.iter().any(is_meant)
            }
            // Events were lost: look.
            Err(_) => true,
        };
        if concerns_it {
            on_change();
        }
    })
    .map_err(cannot)?;
    // The folder and not the file: a replaced file is another one, and its watch would go with the old one.
    notify::Watcher::watch(&mut watcher, folder, notify::RecursiveMode::NonRecursive).map_err(cannot)?;
    Ok(watcher)
}

/// What was read, and what git says about it where there is git.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkout {
    /// Every file.
    pub tree: Tree,
    /// The commit that was read, or that the folder is a checkout of.
    pub commit: Option<CommitId>,
    /// The branch that is checked out.
    pub branch: Option<String>,
    /// The branches that are known here: those of `origin`, and before them the local ones.
    pub heads: Heads,
    /// What is known of the commits of submodules, of those that were cloned.
    pub pins: Pins,
}

/// The folder that is meant where none is named: the root of the repository around `here`, or else `here`.
pub fn root_around(here: &Path) -> PathBuf {
    let root = Repository::discover(here).ok().and_then(|git| git.workdir().map(Path::to_path_buf));
    root.unwrap_or_else(|| here.to_path_buf())
}

/// Reads a folder as it stands, with everything that is not committed yet.
///
/// What git ignores is left out, and so are other repositories inside the folder; those that are submodules count with
/// the commit that they are on.
///
/// # Errors
/// Every symbolic link, every refused name, every file over the budget.
pub fn folder(root: &Path) -> Result<Checkout, Problems> {
    let git = Repository::discover(root).ok().filter(|git| git.workdir().is_some());
    let mut walk = Walk { git: git.as_ref(), builder: TreeBuilder::default(), found: Vec::new() };
    let submodules = git.as_ref().map_or_else(Vec::new, |git| submodules_below(git, root));
    for (path, commit) in &submodules {
        walk.found.extend(walk.builder.submodule(path.clone(), *commit).err());
    }
    if !fs::metadata(root).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Problem::setup(format!("{} is not a folder", root.display()))
            .hint("name the root of a checkout of the deploy repository")
            .into());
    }
    walk.folder(root, "", &submodules);
    Problems::check(walk.found)?;
    let tree = walk.builder.build();
    let (commit, branch, heads) = git.as_ref().map_or_else(Default::default, about);
    let pins = git.as_ref().map_or_else(Pins::new, |git| version::pins(git, root, tree.submodules()));
    Ok(Checkout { tree, commit, branch, heads, pins })
}

/// Reads one revision of the local repository that `root` is in, as git has it and not as the folder stands. Of a
/// folder below the root of the repository only that part is read.
///
/// # Errors
/// When there is no such repository or revision, and for everything that [`folder`] refuses.
pub fn revision(root: &Path, revision: &str) -> Result<Checkout, Problems> {
    let git = Repository::discover(root).map_err(|error| {
        Problem::setup(format!("{} is in no git repository: {}", root.display(), error.message()))
            .hint("--revision reads a local clone; name its folder")
    })?;
    let unknown = |error: git2::Error| {
        Problem::setup(format!("there is no revision {revision:?} here: {}", error.message()))
            .hint("fetch it first, and name a branch, a tag or a commit")
    };
    let commit = git.revparse_single(revision).and_then(|object| object.peel_to_commit()).map_err(unknown)?;
    let below = part_of(&git, root);
    let unreadable = |error: git2::Error| Problem::setup(format!("the repository cannot be read: {}", error.message()));
    let mut git_tree = commit.tree().map_err(unreadable)?;
    if !below.as_os_str().is_empty() {
        let entry = git_tree.get_path(&below).map_err(unknown)?;
        git_tree = entry.to_object(&git).and_then(|object| object.peel_to_tree()).map_err(unknown)?;
    }
    let mut walk = Walk { git: Some(&git), builder: TreeBuilder::default(), found: Vec::new() };
    walk.git_tree(&git, &git_tree, "");
    Problems::check(walk.found)?;
    let tree = walk.builder.build();
    let (_, _, heads) = about(&git);
    let branch = heads.contains_key(revision).then(|| revision.to_owned());
    let pins = version::pins(&git, root, tree.submodules());
    Ok(Checkout { tree, commit: Some(commit_id(commit.id())), branch, heads, pins })
}

/// Reads a commit of a submodule that is checked out in a folder.
///
/// # Errors
/// As [`revision`], and when the folder is not a repository of its own: the one around it is another one.
pub fn submodule(folder: &Path, commit: CommitId) -> Result<Checkout, Problems> {
    if !folder.join(".git").exists() {
        return Err(Problem::setup(format!("{} is not checked out", folder.display()))
            .hint("git submodule update --init checks it out")
            .into());
    }
    revision(folder, &commit.to_string())
}

/// A walk, and what it collects.
struct Walk<'a> {
    git: Option<&'a Repository>,
    builder: TreeBuilder,
    found: Vec<Problem>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, path: &str, submodules: &[(String, CommitId)]) {
        let failed = |what: &Path, error: std::io::Error| Problem::setup(format!("{}: {error}", what.display()));
        let entries = match fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(mut entries) => {
                entries.sort_by_key(fs::DirEntry::file_name);
                entries
            }
            Err(error) => return self.found.push(failed(folder, error)),
        };
        for entry in entries {
            let (name, location) = (entry.file_name(), entry.path());
            let is_ignored = |git: &Repository| git.is_path_ignored(&location).unwrap_or(false);
            if name == ".git" || self.git.is_some_and(is_ignored) {
                continue;
            }
            // The kind of the entry itself: a symbolic link is not followed to find out what it leads to.
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) => {
                    self.found.push(failed(&location, error));
                    continue;
                }
            };
            let path = match self.builder.enter(path, name.as_encoded_bytes()) {
                Ok(path) => path,
                Err(problem) => {
                    self.found.push(problem);
                    continue;
                }
            };
            if kind.is_symlink() {
                self.found.push(TreeBuilder::symlink(&path));
            } else if kind.is_dir() {
                let is_other_repository = location.join(".git").exists();
                if !is_other_repository && !submodules.iter().any(|(submodule, _)| *submodule == path) {
                    self.folder(&location, &path, submodules);
                }
            } else if kind.is_file() {
                let refused = self.file(&location, path).err();
                self.found.extend(refused);
            } else {
                self.found.push(
                    Problem::content("refused: neither a file nor a folder").at(Place::file(path)).hint("remove it"),
                );
            }
        }
    }

    fn file(&mut self, location: &Path, path: String) -> Result<(), Problem> {
        let failed = |error: std::io::Error| Problem::setup(format!("cannot be read: {error}")).at(Place::file(&path));
        let file = fs::File::open(location).map_err(failed)?;
        self.builder.admit(&path, file.metadata().map_err(failed)?.len())?;
        let mut bytes = Vec::new();
        // One more than allowed, so that a file that grows while it is read is refused and not cut.
        file.take(limits::MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > limits::MAX_FILE_BYTES {
            return Err(Problem::content("it grew while it was read").at(Place::file(path)));
        }
        let id = Oid::hash_object(ObjectType::Blob, &bytes).expect("hashing bytes in memory does not fail");
        self.builder.file(path, File { id: blob_id(id), bytes: bytes.into() })
    }

    fn git_tree(&mut self, git: &Repository, tree: &git2::Tree<'_>, path: &str) {
        for entry in tree {
            let path = match self.builder.enter(path, entry.name_bytes()) {
                Ok(path) => path,
                Err(problem) => {
                    self.found.push(problem);
                    continue;
                }
            };
            let result = match entry.filemode() {
                0o120_000 => Err(TreeBuilder::symlink(&path)),
                0o160_000 => self.builder.submodule(path, commit_id(entry.id())),
                0o040_000 => match git.find_tree(entry.id()) {
                    Ok(below) => {
                        self.git_tree(git, &below, &path);
                        Ok(())
                    }
                    Err(error) => Err(Problem::setup(error.message()).at(Place::file(path))),
                },
                _ => self.blob(git, entry.id(), path),
            };
            self.found.extend(result.err());
        }
    }

    fn blob(&mut self, git: &Repository, id: Oid, path: String) -> Result<(), Problem> {
        let failed = |error: git2::Error| Problem::setup(error.message()).at(Place::file(&path));
        let (size, _) = git.odb().and_then(|odb| odb.read_header(id)).map_err(failed)?;
        self.builder.admit(&path, size as u64)?;
        let blob = git.find_blob(id).map_err(failed)?;
        self.builder.file(path, File { id: blob_id(id), bytes: blob.content().into() })
    }
}

/// Commit, branch and heads of a repository.
fn about(git: &Repository) -> (Option<CommitId>, Option<String>, Heads) {
    let head = git.head().ok();
    let commit = head.as_ref().and_then(|head| head.peel_to_commit().ok()).map(|commit| commit_id(commit.id()));
    let branch = head.filter(|head| head.is_branch()).and_then(|head| head.shorthand().ok().map(ToOwned::to_owned));
    let mut heads = Heads::new();
    for kind in [git2::BranchType::Remote, git2::BranchType::Local] {
        for (found, _) in git.branches(Some(kind)).into_iter().flatten().flatten() {
            let (Ok(Some(name)), Some(target)) = (found.name(), found.get().target()) else { continue };
            let name = match kind {
                git2::BranchType::Remote => match name.strip_prefix("origin/") {
                    Some(name) => name,
                    None => continue,
                },
                git2::BranchType::Local => name,
            };
            heads.insert(name.to_owned(), commit_id(target));
        }
    }
    (commit, branch, heads)
}

/// The path of a folder from the root of the repository that it is in.
fn part_of(git: &Repository, folder: &Path) -> PathBuf {
    let part = || {
        let workdir = fs::canonicalize(git.workdir()?).ok()?;
        Some(fs::canonicalize(folder).ok()?.strip_prefix(workdir).ok()?.to_path_buf())
    };
    part().unwrap_or_default()
}

/// The submodules below a folder, by their paths from it, each with the commit it is checked out at, or else the one
/// that is staged.
fn submodules_below(git: &Repository, folder: &Path) -> Vec<(String, CommitId)> {
    let part = part_of(git, folder);
    let mut found: Vec<(String, CommitId)> = git
        .submodules()
        .unwrap_or_default()
        .iter()
        .filter_map(|submodule| {
            let path = submodule.path().strip_prefix(&part).ok()?.to_str()?.to_owned();
            let commit = submodule.workdir_id().or_else(|| submodule.index_id())?;
            Some((path, commit_id(commit)))
        })
        .collect();
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    found
}

fn commit_id(id: Oid) -> CommitId {
    CommitId::from_bytes(raw(id))
}

fn oid(commit: CommitId) -> Oid {
    Oid::from_bytes(commit.as_bytes()).expect("an id has 20 bytes")
}

fn blob_id(id: Oid) -> BlobId {
    BlobId::from_bytes(raw(id))
}

fn raw(id: Oid) -> [u8; 20] {
    let mut bytes = [0; 20];
    let length = id.as_bytes().len().min(20);
    bytes[..length].copy_from_slice(&id.as_bytes()[..length]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_beside_a_watched_file_is_no_change_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "first").unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let _watch = watch_file(&file, move || sender.send(()).unwrap_or_default()).unwrap();
        for number in 0..10 {
            fs::write(folder.path().join("agent.log"), number.to_string()).unwrap();
        }
        assert!(receiver.recv_timeout(std::time::Duration::from_millis(300)).is_err());
        fs::write(&file, "second").unwrap();
        receiver.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_mounted_file_that_is_swapped_by_its_links_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let write = |version: &str, text: &str| {
            let real = folder.path().join(version);
            fs::create_dir(&real).unwrap();
            fs::write(real.join("token"), text).unwrap();
            std::os::unix::fs::symlink(version, folder.path().join("..data_tmp")).unwrap();
            fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        };
        write("..one", "first");
        let file = folder.path().join("token");
        std::os::unix::fs::symlink("..data/token", &file).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let seen = file.clone();
        let watch = watch_file(&file, move || {
            let _ = sender.send(fs::read_to_string(&seen).unwrap_or_default());
        });
        let _watch = watch.unwrap();
        write("..two", "second");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while receiver.recv_timeout(std::time::Duration::from_secs(10)).unwrap() != "second" {
            assert!(std::time::Instant::now() < deadline);
        }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn commit_everything(git: &Repository) -> Oid {
        let mut index = git.index().unwrap();
        index.add_all(["*"], git2::IndexAddOption::DEFAULT, None).unwrap();
        let tree = git.find_tree(index.write_tree().unwrap()).unwrap();
        let who = git2::Signature::now("Tester", "tester@example.com").unwrap();
        git.commit(Some("HEAD"), &who, &who, "all", &tree, &[]).unwrap()
    }

    fn paths(checkout: &Checkout) -> Vec<&str> {
        checkout.tree.below("").map(|(path, _)| path).collect()
    }

    #[test]
    fn a_folder_needs_no_git() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "environments/prod/values.yaml", "a: 1\n");
        let checkout = super::folder(folder.path()).unwrap();
        assert_eq!(paths(&checkout), ["environments/prod/values.yaml"]);
        assert_eq!(checkout.commit, None);
    }

    #[test]
    fn a_file_has_the_id_that_git_gives_it() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a", "hello\n");
        let checkout = super::folder(folder.path()).unwrap();
        let id = checkout.tree.file("a").unwrap().id;
        assert_eq!(id.to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn a_symbolic_link_is_refused_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.yaml", "a: 1\n");
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link.yaml")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("folder")).unwrap();
        let problems = super::folder(folder.path()).unwrap_err();
        let files: Vec<&str> = problems.iter().map(|problem| problem.place.as_ref().unwrap().file.as_str()).collect();
        assert_eq!(files, ["folder", "link.yaml"]);
    }

    #[test]
    fn what_git_ignores_and_other_repositories_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        Repository::init(folder.path()).unwrap();
        Repository::init(folder.path().join("other")).unwrap();
        write(folder.path(), ".gitignore", "target/\n");
        write(folder.path(), "target/big.yaml", "a: 1\n");
        write(folder.path(), "other/a.yaml", "a: 1\n");
        write(folder.path(), "new.yaml", "a: 1\n");
        assert_eq!(paths(&super::folder(folder.path()).unwrap()), [".gitignore", "new.yaml"]);
    }

    #[test]
    fn a_revision_is_what_was_committed_and_a_folder_what_stands_there() {
        let folder = tempfile::tempdir().unwrap();
        let git = Repository::init(folder.path()).unwrap();
        git.set_head("refs/heads/master").unwrap();
        write(folder.path(), "shop/a.yaml", "a: 1\n");
        let commit = commit_everything(&git);
        write(folder.path(), "shop/a.yaml", "a: 2\n");

        let committed = revision(folder.path(), "master").unwrap();
        assert_eq!(committed.tree.text("shop/a.yaml").unwrap(), Some("a: 1\n"));
        assert_eq!(committed.commit, Some(commit_id(commit)));
        assert_eq!(committed.branch.as_deref(), Some("master"));
        let standing = super::folder(folder.path()).unwrap();
        assert_eq!(standing.tree.text("shop/a.yaml").unwrap(), Some("a: 2\n"));
        assert_eq!(standing.heads, committed.heads);

        let part = revision(&folder.path().join("shop"), "HEAD").unwrap();
        assert_eq!(paths(&part), ["a.yaml"]);
        assert!(revision(folder.path(), "nothing").is_err());
    }
}
