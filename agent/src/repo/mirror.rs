//! A bare mirror of a repository: what was fetched, read straight from the object database.
//!
//! There is no working copy, so symbolic links, hooks, filters and odd file names of a commit meet no file system. Only
//! the branches that somebody follows are fetched, with their whole history.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use git2::{Direction, ErrorClass, FetchOptions, ObjectType, Oid, RemoteCallbacks, Repository};
use jiff::Timestamp;
use towpath_core::fault::{Problem, Problems};
use towpath_core::lane::{Heads, is_branch_name};
use towpath_core::limits;
use towpath_core::revision::{BlobId, CommitId, Revision, clean_line};
use towpath_core::tree::{File, Tree, TreeBuilder};

use super::http::HttpRemote;
use super::ls_refs::LsRefs;
use super::remote::{Place, Remote};
use super::secret::Credentials;
use super::ssh::SshRemote;
use super::wire::{self, Wire};

/// Trees that are kept in memory.
const KEPT_TREES: usize = 4;
/// Problems of one tree that are named.
const MAX_NAMED: usize = 20;
/// Entries of one tree, folders included, that are looked at.
const MAX_ENTRIES: usize = 4 * limits::MAX_FILES;
/// Bytes that one fetch may bring.
const MAX_FETCHED: usize = 1 << 30;
/// Time for one fetch.
const FETCH_WITHIN: Duration = Duration::from_secs(600);

/// A branch that stands on another commit than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its name.
    pub branch: String,
    /// The commit before; `None` for a branch that was not followed.
    pub from: Option<CommitId>,
    /// The commit now.
    pub to: CommitId,
    /// Whether the commit before is no ancestor of the one now: history was rewritten.
    pub rewritten: bool,
}

/// The mirror of one repository. All calls block.
pub struct Mirror {
    folder: PathBuf,
    place: Place,
    wire: Option<Wire>,
    ls_refs: LsRefs,
    inner: Mutex<Inner>,
    is_damaged: AtomicBool,
}

struct Inner {
    repository: Repository,
    trees: VecDeque<(CommitId, Arc<Tree>)>,
}

impl Mirror {
    /// Opens the mirror in a folder, or makes it. What is left there of a process that was killed is cleared away, and
    /// a mirror that cannot be opened is made anew.
    ///
    /// # Errors
    /// `Setup` when the folder cannot be written.
    pub fn open(folder: &Path, remote: Remote, credentials: Credentials, ssh: &Path) -> Result<Mirror, Problem> {
        wire::prepare();
        let wire = match &remote.place {
            Place::Http(url) => Some(Wire::Http(Arc::new(HttpRemote::new(url.clone(), credentials)?))),
            Place::Ssh { user, host, port, path } => {
                let address = (user.as_str(), host.as_str(), *port, path.as_str());
                Some(Wire::Ssh(Arc::new(SshRemote::new(ssh, address, folder, credentials))))
            }
            Place::Local(_) => None,
        };
        let inner = Inner { repository: open_or_make(folder)?, trees: VecDeque::new() };
        Ok(Mirror {
            folder: folder.to_owned(),
            place: remote.place,
            wire,
            ls_refs: LsRefs::default(),
            inner: Mutex::new(inner),
            is_damaged: AtomicBool::new(false),
        })
    }

    /// Uses other credentials from the next call on.
    ///
    /// # Errors
    /// `Setup` when their certificates cannot be read; the old ones then stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), Problem> {
        match &self.wire {
            Some(Wire::Http(remote)) => remote.set_credentials(credentials),
            Some(Wire::Ssh(remote)) => {
                remote.set_credentials(credentials);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The branches of the server as they are now.
    ///
    /// # Errors
    /// `Setup` when somebody must act (credentials, address), else `Passing`. Never an empty list instead.
    pub fn heads(&self) -> Result<Heads, Problem> {
        if let Some(Wire::Http(remote)) = &self.wire {
            return self.ls_refs.heads(remote);
        }
        let inner = self.lock();
        let mut remote = inner.repository.remote_anonymous(&self.address()).map_err(|error| self.problem(&error))?;
        remote.connect(Direction::Fetch).map_err(|error| self.problem(&error))?;
        let listed = remote.list().map_err(|error| self.problem(&error))?;
        let branch = |head: &git2::RemoteHead<'_>| {
            let name = head.name().strip_prefix("refs/heads/").filter(|name| is_branch_name(name))?;
            Some((name.to_owned(), commit_id(head.oid())))
        };
        Ok(listed.iter().filter_map(branch).collect())
    }

    /// Fetches branches, each of which the server said to stand on a commit. What a branch pointed to before stays in
    /// the mirror, so that an environment that runs it can still be mended.
    ///
    /// # Errors
    /// As for [`Mirror::heads`]. The branches of the mirror are then as they were.
    pub fn fetch(&self, wanted: &[(String, CommitId)]) -> Result<Vec<Moved>, Problem> {
        if self.is_damaged.swap(false, Ordering::Relaxed) || self.lacks_what_it_names() {
            self.make_anew()?;
        }
        let inner = self.lock();
        let repository = &inner.repository;
        let before: Vec<Option<Oid>> =
            wanted.iter().map(|(branch, _)| repository.refname_to_id(&reference(branch)).ok()).collect();
        for commit in before.iter().flatten() {
            let kept = format!("refs/towpath/kept/{commit}");
            repository.reference(&kept, *commit, true, "kept").map_err(|error| self.problem(&error))?;
        }

        let deadline = Instant::now() + FETCH_WITHIN;
        let mut callbacks = RemoteCallbacks::new();
        callbacks.transfer_progress(|progress| progress.received_bytes() < MAX_FETCHED && Instant::now() < deadline);
        let mut options = FetchOptions::new();
        options.remote_callbacks(callbacks).download_tags(git2::AutotagOption::None).update_fetchhead(false);
        let refspecs: Vec<String> = wanted.iter().map(|(branch, _)| format!("+{0}:{0}", reference(branch))).collect();
        let mut remote = repository.remote_anonymous(&self.address()).map_err(|error| self.problem(&error))?;
        let fetched = remote.fetch(&refspecs, Some(&mut options), None);
        drop(remote);
        drop(options);
        if let Err(error) = fetched {
            clear_temporary(&self.folder);
            return Err(self.problem(&error));
        }

        let mut moved = Vec::new();
        for ((branch, to), from) in wanted.iter().zip(before) {
            // The branch may have moved on since it was listed; what was listed must be there all the same.
            let oid = oid(*to);
            if repository.find_commit(oid).is_err() {
                return Err(Problem::passing(format!("the server did not send commit {to} of branch {branch}")));
            }
            let rewritten = match from {
                Some(from) if from != oid => {
                    !repository.graph_descendant_of(oid, from).map_err(|error| self.problem(&error))?
                }
                _ => false,
            };
            moved.push(Moved { branch: branch.clone(), from: from.map(commit_id), to: *to, rewritten });
        }
        Ok(moved)
    }

    /// Whether the mirror has a commit.
    pub fn contains(&self, commit: CommitId) -> bool {
        !self.is_damaged.load(Ordering::Relaxed) && self.lock().repository.find_commit(oid(commit)).is_ok()
    }

    /// A commit, as found on a branch.
    ///
    /// # Errors
    /// `Passing` when the mirror does not have it.
    pub fn revision(&self, commit: CommitId, branch: &str) -> Result<Revision, Problem> {
        let inner = self.lock();
        let found = inner.repository.find_commit(oid(commit)).map_err(|error| self.problem(&error))?;
        let subject = String::from_utf8_lossy(found.summary_bytes().unwrap_or_default()).into_owned();
        let author = String::from_utf8_lossy(found.author().name_bytes()).into_owned();
        Ok(Revision {
            commit,
            branch: branch.to_owned(),
            subject: clean_line(&subject, 200),
            author: clean_line(&author, 200),
            committed_at: Timestamp::from_second(found.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }

    /// Every file of a commit.
    ///
    /// # Errors
    /// `Content` with everything that is wrong with its names, sizes and links; `Passing` when it cannot be read.
    pub fn tree(&self, commit: CommitId) -> Result<Arc<Tree>, Problems> {
        let mut inner = self.lock();
        if let Some((_, tree)) = inner.trees.iter().find(|(known, _)| *known == commit) {
            return Ok(tree.clone());
        }
        // Files that did not change share their bytes with the tree before.
        let mut known: HashMap<BlobId, Arc<[u8]>> = HashMap::new();
        if let Some((_, tree)) = inner.trees.back() {
            known.extend(tree.below("").map(|(_, file)| (file.id, file.bytes.clone())));
        }
        let tree = {
            let repository = &inner.repository;
            let root = repository.find_commit(oid(commit)).and_then(|commit| commit.tree());
            let root = root.map_err(|error| self.problem(&error))?;
            let odb = repository.odb().map_err(|error| self.problem(&error))?;
            let mut walk = Walk {
                mirror: self,
                repository,
                odb,
                builder: TreeBuilder::default(),
                known,
                entries: 0,
                found: Vec::new(),
            };
            walk.folder(&root, "")?;
            Problems::check(walk.found)?;
            Arc::new(walk.builder.build())
        };
        inner.trees.push_back((commit, tree.clone()));
        if inner.trees.len() > KEPT_TREES {
            inner.trees.pop_front();
        }
        Ok(tree)
    }

    fn address(&self) -> String {
        match (&self.wire, &self.place) {
            (Some(wire), _) => wire.address(),
            (None, Place::Local(path)) => path.display().to_string(),
            (None, Place::Http(_) | Place::Ssh { .. }) => unreachable!("a place on the network has a wire"),
        }
    }

    /// What a failure of libgit2 means. Our own transports have said it better.
    fn problem(&self, error: &git2::Error) -> Problem {
        let trouble = match &self.wire {
            Some(Wire::Http(remote)) => remote.take_trouble(),
            Some(Wire::Ssh(remote)) => remote.take_trouble(),
            None => None,
        };
        if let Some(problem) = trouble {
            return problem;
        }
        let said = clean_line(error.message(), 300);
        match (&self.place, error.code()) {
            (Place::Local(path), git2::ErrorCode::NotFound) if error.class() != ErrorClass::Odb => {
                Problem::setup(format!("{} is no repository: {said}", path.display())).hint("correct spec.url")
            }
            _ => Problem::passing(format!("git: {said}")),
        }
    }

    /// Something of a commit that the mirror has cannot be read: it is made anew at the next fetch.
    fn damage(&self, error: &git2::Error) -> Problem {
        self.is_damaged.store(true, Ordering::Relaxed);
        self.problem(error)
    }

    /// Whether a reference of the mirror names a commit that is not there.
    fn lacks_what_it_names(&self) -> bool {
        let inner = self.lock();
        let Ok(references) = inner.repository.references() else { return true };
        references
            .flatten()
            .filter_map(|reference| reference.target())
            .any(|commit| inner.repository.find_commit(commit).is_err())
    }

    fn make_anew(&self) -> Result<(), Problem> {
        let mut inner = self.lock();
        tracing::warn!(folder = %self.folder.display(), "the mirror is damaged and is made anew");
        move_aside(&self.folder)?;
        *inner = Inner { repository: open_or_make(&self.folder)?, trees: VecDeque::new() };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds this lock")
    }
}

/// Reads one commit's tree within the budget.
struct Walk<'a> {
    mirror: &'a Mirror,
    repository: &'a Repository,
    odb: git2::Odb<'a>,
    builder: TreeBuilder,
    known: HashMap<BlobId, Arc<[u8]>>,
    entries: usize,
    found: Vec<Problem>,
}

impl Walk<'_> {
    /// Problems of names and links are gathered; those of the budget end the walk.
    fn folder(&mut self, tree: &git2::Tree<'_>, folder: &str) -> Result<(), Problem> {
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        let mut before: Option<Vec<u8>> = None;
        for entry in tree {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Problem::content(format!("more than {MAX_ENTRIES} files and folders in one revision")));
            }
            if self.found.len() >= MAX_NAMED {
                return Ok(());
            }
            let name = entry.name_bytes();
            let path = match self.builder.enter(folder, name) {
                Ok(path) => path,
                Err(problem) => {
                    self.found.push(problem);
                    continue;
                }
            };
            // git sorts folders as if their names ended with a slash.
            let is_folder = entry.filemode() == 0o040_000;
            let mut sorted = name.to_vec();
            sorted.extend(is_folder.then_some(b'/'));
            if !seen.insert(name.to_vec()) || before.as_ref().is_some_and(|before| *before >= sorted) {
                self.found.push(
                    Problem::content("malformed tree: a name is there twice, or the names are out of order")
                        .at(towpath_core::fault::Place::file(&path)),
                );
                continue;
            }
            before = Some(sorted);
            match entry.filemode() {
                0o040_000 => {
                    let tree = self.repository.find_tree(entry.id()).map_err(|error| self.mirror.damage(&error))?;
                    self.folder(&tree, &path)?;
                }
                0o160_000 => {
                    let added = self.builder.submodule(path, commit_id(entry.id()));
                    self.found.extend(added.err());
                }
                0o120_000 => self.found.push(TreeBuilder::symlink(&path)),
                _ => self.file(path, entry.id())?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: String, id: Oid) -> Result<(), Problem> {
        // The size is asked before the content is loaded.
        let (size, kind) = self.odb.read_header(id).map_err(|error| self.mirror.damage(&error))?;
        self.builder.admit(&path, size as u64)?;
        if kind != ObjectType::Blob {
            self.found
                .push(Problem::content("malformed tree: this is no file").at(towpath_core::fault::Place::file(&path)));
            return Ok(());
        }
        let blob = BlobId::from_bytes(id.as_bytes().try_into().expect("an object id has 20 bytes"));
        let bytes = match self.known.get(&blob) {
            Some(bytes) => bytes.clone(),
            None => {
                let object = self.odb.read(id).map_err(|error| self.mirror.damage(&error))?;
                let bytes: Arc<[u8]> = object.data().into();
                self.known.insert(blob, bytes.clone());
                bytes
            }
        };
        let added = self.builder.file(path, File { id: blob, bytes });
        self.found.extend(added.err());
        Ok(())
    }
}

fn reference(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

fn commit_id(oid: Oid) -> CommitId {
    CommitId::from_bytes(oid.as_bytes().try_into().expect("an object id has 20 bytes"))
}

fn oid(commit: CommitId) -> Oid {
    Oid::from_bytes(commit.as_bytes()).expect("an object id has 20 bytes")
}

fn open_or_make(folder: &Path) -> Result<Repository, Problem> {
    let cannot = |why: &dyn std::fmt::Display| {
        Problem::setup(format!("cannot use the cache folder {}: {why}", folder.display()))
            .hint("--cache names a folder that the agent can write")
    };
    if folder.exists() {
        clear_temporary(folder);
        match Repository::open_bare(folder) {
            Ok(repository) => return Ok(repository),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the mirror cannot be opened and is made anew");
                move_aside(folder)?;
            }
        }
    }
    std::fs::create_dir_all(folder).map_err(|error| cannot(&error))?;
    let mut options = git2::RepositoryInitOptions::new();
    options.bare(true).external_template(false).no_reinit(false);
    Repository::init_opts(folder, &options).map_err(|error| cannot(&error.message()))
}

fn move_aside(folder: &Path) -> Result<(), Problem> {
    let aside = folder.with_extension("damaged");
    let _ = std::fs::remove_dir_all(&aside);
    std::fs::rename(folder, &aside)
        .map_err(|error| Problem::setup(format!("cannot move {} aside: {error}", folder.display())))?;
    let _ = std::fs::remove_dir_all(&aside);
    Ok(())
}

/// Removes locks and half packs of a process that was killed. Nobody else uses the folder.
fn clear_temporary(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_loose_objects = name.len() == 2 && path.is_dir();
            if path.is_dir() && !is_loose_objects {
                folders.push(path);
            } else if name.ends_with(".lock")
                || name.starts_with("pack_git2_")
                || name.starts_with("tmp_")
                || name.starts_with(".key-")
            {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}
