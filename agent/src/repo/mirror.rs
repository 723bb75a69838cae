//! A bare copy of the branches that somebody needs, in a cache folder. It holds no truth: it may be deleted at any
//! time, and a damaged one is fetched anew.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use git2::{ErrorClass, ErrorCode, Oid, Repository};
use jiff::Timestamp;
use towpath_core::fault::{Problem, Problems};
use towpath_core::lane::is_branch_name;
use towpath_core::revision::{CommitId, Revision, clean_line};
use towpath_core::tree::Tree;

use super::compact;
use super::fetch::{Holds, Needed};
use super::remote::{Credentials, Remote};
use super::source::Source;
use super::terms::Terms;
use super::tree::{self, TreeCache, Unreadable, commit_id, oid};

mod brought;
mod commits;
mod component;
mod folder;
mod log;
mod push;
mod refs;
mod revert;

use folder::{Incoming, beside, move_aside, open_or_create, remove_leftovers, take_ownership, unwritable};

pub use brought::BroughtLimits;
pub use commits::{NewCommit, Rooted, Sign};
pub use component::ComponentLook;
pub use log::MIN_PREFIX;
pub use refs::{Look, RefMove};
pub use revert::{Chain, Reversal, Undoing};

/// Bytes of one commit object: header, signature and message.
pub const MAX_COMMIT_BYTES: usize = 4 << 20;
/// Characters of a subject or an author that are shown.
const SHOWN_CHARACTERS: usize = 200;
/// Commits that are named to a server as present.
const MAX_HAVES: usize = 256;
/// Commits between two that are named, at most.
const MAX_STEP: usize = 4096;
/// A damaged mirror is fetched anew at most this often.
const REBUILD_EVERY: Duration = Duration::from_secs(600);

const HEADS: &str = "refs/heads/";
const KEPT: &str = "refs/kept/";

/// A bare copy of some branches of a repository.
///
/// # Guarantees
/// * `Send` and `Sync`; reading never waits for the network.
/// * One folder belongs to one `Mirror`: a second one is refused, also from another process.
/// * What is fetched lies in a folder beside the mirror until every new commit has been found complete. Only then is it
///   moved in and branches move.
/// * Commits that branches left by a rewrite stay, so that an environment that runs one can still be mended.
pub struct Mirror {
    folder: PathBuf,
    remote: Remote,
    holds: Holds,
    source: Source,
    store: Mutex<Store>,
    /// One fetch at a time; holds when the mirror was last fetched anew.
    fetching: Mutex<Option<Instant>>,
    /// Whoever adds packs, or takes them out. Locked after `fetching` and before `store`.
    packs: Mutex<()>,
    /// An object was missing or damaged when it was read.
    suspect: AtomicBool,
    described: Mutex<component::Described>,
    /// Locked while this mirror lives.
    _owner: File,
}

struct Store {
    repository: Repository,
    trees: TreeCache,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("folder", &self.folder).field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// A branch that now stands elsewhere in the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The branch.
    pub branch: String,
    /// Where it stood in the mirror. `None` when it was not there.
    pub from: Option<CommitId>,
    /// Where it stands.
    pub to: CommitId,
    /// Whether `from` is no ancestor of `to`: history was rewritten. `from` is still there.
    pub rewritten: bool,
}

impl Mirror {
    /// Opens the mirror in a folder, and creates it when it is not there. Contacts nobody.
    ///
    /// A folder that is no repository, or the mirror of another address, is moved aside (to the same name with
    /// `.damaged`). Locks and half-written packs of a process that was killed are removed.
    ///
    /// # Errors
    /// A `Setup` problem when the folder cannot be written, when another `Mirror` has it, or when the credentials do
    /// not fit the address.
    pub fn open(folder: &Path, remote: Remote, credentials: Credentials) -> Result<Mirror, Problem> {
        Mirror::open_on(folder, remote, credentials, Terms::default())
    }

    /// [`Mirror::open`] with other times or another ssh program.
    ///
    /// # Errors
    /// As [`Mirror::open`].
    pub fn open_on(folder: &Path, remote: Remote, credentials: Credentials, terms: Terms) -> Result<Mirror, Problem> {
        Mirror::open_that_holds(Holds::Everything, folder, remote, credentials, terms)
    }

    /// [`Mirror::open_on`] for a mirror that needs commits only: neither folders nor files are asked for, and
    /// [`Mirror::tree`] is refused. A server that cannot leave them out sends them all the same.
    ///
    /// # Errors
    /// As [`Mirror::open`].
    pub fn open_commits_on(
        folder: &Path,
        remote: Remote,
        credentials: Credentials,
        terms: Terms,
    ) -> Result<Mirror, Problem> {
        Mirror::open_that_holds(Holds::Commits, folder, remote, credentials, terms)
    }

    fn open_that_holds(
        holds: Holds,
        folder: &Path,
        remote: Remote,
        credentials: Credentials,
        terms: Terms,
    ) -> Result<Mirror, Problem> {
        super::init();
        let folder = &std::path::absolute(folder).map_err(|error| unwritable(folder, &error))?;
        let source = Source::new(&remote, credentials, beside(folder, "ssh"), terms)?;
        let owner = take_ownership(folder)?;
        remove_leftovers(folder);
        let repository = open_or_create(folder, &remote, holds)?;
        Ok(Mirror {
            folder: folder.to_owned(),
            remote,
            holds,
            source,
            store: Mutex::new(Store { repository, trees: TreeCache::default() }),
            fetching: Mutex::new(None),
            packs: Mutex::new(()),
            suspect: AtomicBool::new(false),
            described: Mutex::default(),
            _owner: owner,
        })
    }

    /// Uses other credentials from now on.
    ///
    /// # Errors
    /// A `Setup` problem when they do not fit the address; the old ones stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), Problem> {
        self.source.set_credentials(credentials)
    }

    /// Fetches exactly these branches, and moves the mirror's branches to exactly these commits. What is there already
    /// is not fetched: when nothing is missing, nobody is contacted.
    ///
    /// # Errors
    /// `Passing` when the server did not send all that is needed, `Setup` when somebody must act, `Content` when the
    /// history is malformed or beyond the limits. Nothing incomplete has come in then, and no branch has moved.
    pub fn fetch(&self, wanted: &[(String, CommitId)]) -> Result<Vec<Moved>, Problem> {
        if let Some((branch, _)) = wanted.iter().find(|(branch, _)| !is_branch_name(branch)) {
            return Err(Problem::setup(format!("{branch:?} is not the name of a branch")));
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut rebuilt_at = lock(&self.fetching);
        let fetched = match self.suspect.load(Ordering::Acquire) {
            true => Err(Failure::Damaged("an object could not be read".to_owned())),
            false => self.fetch_into(&self.folder, wanted),
        };
        let why = match fetched {
            Ok(moved) => {
                self.compact();
                return Ok(moved);
            }
            Err(Failure::Problem(problem)) => return Err(problem),
            Err(Failure::Damaged(why)) => why,
        };
        if rebuilt_at.is_some_and(|at| at.elapsed() < REBUILD_EVERY) {
            return Err(Problem::setup(format!("the mirror in {} is damaged again: {why}", self.folder.display()))
                .hint("look for errors of the disk below it"));
        }
        tracing::warn!(folder = %self.folder.display(), why, "the mirror is damaged and fetched anew");
        let moved = self.rebuild(wanted)?;
        *rebuilt_at = Some(Instant::now());
        Ok(moved)
    }

    /// What is known of a commit, as found on a branch.
    ///
    /// # Errors
    /// `Content` when the commit is malformed, `Passing` when it is not in the mirror.
    pub fn revision(&self, commit: CommitId, branch: &str) -> Result<Revision, Problem> {
        let store = lock(&self.store);
        let malformed = |why: &str| {
            Problem::content(format!("the commit {commit} is malformed: {}", clean_line(why, SHOWN_CHARACTERS)))
        };
        let odb = store.repository.odb().map_err(|error| self.damaged(&error))?;
        let (size, kind) = odb.read_header(oid(commit)).map_err(|error| self.absent(commit, &error))?;
        if kind != git2::ObjectType::Commit {
            return Err(malformed("it is no commit"));
        }
        if size > MAX_COMMIT_BYTES {
            return Err(malformed("it is too long"));
        }
        let found = match store.repository.find_commit(oid(commit)) {
            Ok(found) => found,
            Err(error) if error.class() == ErrorClass::Odb => return Err(self.damaged(&error)),
            Err(error) => return Err(malformed(error.message())),
        };
        let line = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            clean_line(text.trim_start().lines().next().unwrap_or_default(), SHOWN_CHARACTERS)
        };
        let seconds = found.time().seconds();
        let nearest = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Ok(Revision {
            commit,
            branch: branch.to_owned(),
            subject: line(found.message_bytes()),
            author: line(found.author().name_bytes()),
            committed_at: Timestamp::from_second(seconds).unwrap_or(nearest),
        })
    }

    /// Every file of a commit. The last trees are kept, and files that did not change share their bytes.
    ///
    /// # Errors
    /// All that is wrong with the tree, up to a limit: symbolic links, names, sizes. Or one `Passing` problem when the
    /// commit is not in the mirror or the mirror is damaged. `Setup` for a mirror that holds commits only.
    pub fn tree(&self, commit: CommitId) -> Result<Arc<Tree>, Problems> {
        if self.holds == Holds::Commits {
            let problem = Problem::setup(format!("the mirror of {} holds commits only, not their files", self.remote));
            return Err(problem.hint("name it as the url of a Repository of its own to read its files").into());
        }
        let mut store = lock(&self.store);
        let Store { repository, trees } = &mut *store;
        trees.read(repository, commit).map_err(|unreadable| match unreadable {
            Unreadable::Refused(problems) => problems,
            Unreadable::Absent(error) => self.absent(commit, &error).into(),
            Unreadable::Damaged(error) => self.damaged(&error).into(),
        })
    }

    /// Whether `ancestor` is `commit` or comes before it.
    ///
    /// # Errors
    /// `Passing` when one of them is not in the mirror.
    pub fn is_ancestor(&self, ancestor: CommitId, commit: CommitId) -> Result<bool, Problem> {
        let store = lock(&self.store);
        for id in [ancestor, commit] {
            store.repository.find_commit(oid(id)).map_err(|error| self.absent(id, &error))?;
        }
        is_ancestor(&store.repository, ancestor, commit).map_err(|error| self.damaged(&error))
    }

    /// How many commits can be reached from `to` and not from `from`.
    ///
    /// # Errors
    /// `Passing` when one of them is not in the mirror.
    pub fn count_between(&self, from: CommitId, to: CommitId) -> Result<usize, Problem> {
        let store = lock(&self.store);
        for id in [from, to] {
            store.repository.find_commit(oid(id)).map_err(|error| self.absent(id, &error))?;
        }
        let counted = store.repository.graph_ahead_behind(oid(to), oid(from));
        counted.map(|(ahead, _)| ahead).map_err(|error| self.damaged(&error))
    }

    /// Whether a commit is in the mirror. Always `false` while the mirror is known to be damaged, so that the next
    /// fetch mends it.
    pub fn contains(&self, commit: CommitId) -> bool {
        !self.suspect.load(Ordering::Acquire) && lock(&self.store).repository.find_commit(oid(commit)).is_ok()
    }

    /// Whether a commit is in the mirror, where that is known.
    ///
    /// # Errors
    /// `Passing` while the mirror is known to be damaged.
    pub fn has(&self, commit: CommitId) -> Result<bool, Problem> {
        let store = lock(&self.store);
        if self.suspect.load(Ordering::Acquire) {
            let folder = self.folder.display();
            return Err(Problem::passing(format!("the mirror in {folder} is damaged and will be fetched anew")));
        }
        match store.repository.find_commit(oid(commit)) {
            Ok(_) => Ok(true),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(false),
            Err(error) => Err(self.damaged(&error)),
        }
    }

    /// The address that the mirror fetches from.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// One fetch into a mirror: what is missing comes into a folder beside it, is checked there, and is moved in before
    /// branches move.
    fn fetch_into(&self, folder: &Path, wanted: &[(String, CommitId)]) -> Result<Vec<Moved>, Failure> {
        let repository = Repository::open_bare(folder).map_err(Failure::damaged)?;
        let moving: Vec<&(String, CommitId)> =
            wanted.iter().filter(|(branch, commit)| branch_head(&repository, branch) != Some(*commit)).collect();
        let named = moving.iter().map(|(branch, commit)| (format!("{HEADS}{branch}"), *commit)).collect::<Vec<_>>();
        let known = tips(&repository, &[HEADS, KEPT]);
        let likely = moving.iter().filter_map(|(branch, _)| branch_head(&repository, branch)).collect();
        self.bring(&repository, folder, named, known, likely)?;
        let mut all = Vec::new();
        for (branch, commit) in moving {
            all.extend(move_branch(&repository, branch, *commit).map_err(Failure::damaged)?);
        }
        Ok(all)
    }

    /// Brings what is missing of some commits, by the refs on which the server has them: into a folder beside the mirror,
    /// where it is checked before it is moved in. `known` is complete here; `likely` of it are near what is missing.
    fn bring(
        &self,
        repository: &Repository,
        folder: &Path,
        mut wanted: Vec<(String, CommitId)>,
        known: Vec<Oid>,
        likely: Vec<CommitId>,
    ) -> Result<(), Failure> {
        wanted.retain(|(_, commit)| check_new(repository, *commit, &known, self.holds).is_err());
        if wanted.is_empty() {
            return Ok(());
        }
        let haves = haves(repository, likely.into_iter().map(oid).chain(known.iter().copied()));
        let incoming = Incoming::prepare(folder)?;
        let odb = incoming.repository.odb().map_err(Failure::damaged)?;
        self.source.fetch(Needed { wanted: &wanted, haves: &haves, holds: self.holds }, &odb)?;
        for (_, commit) in &wanted {
            if let Err(error) = check_new(&incoming.repository, *commit, &known, self.holds) {
                return Err(blame(repository, &known, &error, self.holds));
            }
        }
        let _packs = lock(&self.packs);
        incoming.accept().map_err(|error| unwritable(folder, &error))?;
        Ok(())
    }

    /// Puts small packs together when there are many. A mirror that cannot be compacted works as before.
    fn compact(&self) {
        let _packs = lock(&self.packs);
        let Some(small) = compact::too_many(&self.folder) else { return };
        let count = small.len();
        let merged = Repository::open_bare(&self.folder).and_then(|repository| compact::merge(&repository, small));
        let mut store = lock(&self.store);
        let reopened = merged.and_then(|merged| {
            compact::remove(&merged);
            // The handle for reading may know the old packs only.
            Repository::open_bare(&self.folder)
        });
        match reopened {
            Ok(repository) => {
                store.repository = repository;
                tracing::debug!(folder = %self.folder.display(), count, "packs put together");
            }
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), error = error.message(), "packs not put together");
            }
        }
    }

    /// Fetches everything into a new folder beside the mirror and puts it in its place. Until that has worked the
    /// damaged one stays, for some of it may still be readable.
    fn rebuild(&self, wanted: &[(String, CommitId)]) -> Result<Vec<Moved>, Problem> {
        let unwritable = |error: std::io::Error| unwritable(&self.folder, &error);
        let fresh = beside(&self.folder, "fresh");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(unwritable)?;
        }
        let before = {
            let store = lock(&self.store);
            wanted.iter().map(|(branch, _)| branch_head(&store.repository, branch)).collect::<Vec<_>>()
        };
        let repository = open_or_create(&fresh, &self.remote, self.holds)?;
        let mut all = match self.fetch_into(&fresh, wanted) {
            Ok(moved) => moved,
            Err(failure) => {
                // Nothing of use is lost with it; the next one begins by removing it too.
                let _ = fs::remove_dir_all(&fresh);
                return Err(failure.into_problem());
            }
        };
        for moved in &mut all {
            let old = wanted.iter().zip(&before).find(|((branch, _), _)| *branch == moved.branch);
            moved.from = old.and_then(|(_, before)| *before);
            // A commit that is not there any more cannot be shown to be an ancestor.
            moved.rewritten = moved.from.is_some_and(|from| !is_ancestor(&repository, from, moved.to).unwrap_or(false));
        }
        drop(repository);
        let _packs = lock(&self.packs);
        let mut store = lock(&self.store);
        if self.folder.exists() {
            move_aside(&self.folder).map_err(unwritable)?;
        }
        fs::rename(&fresh, &self.folder).map_err(unwritable)?;
        *store =
            Store { repository: open_or_create(&self.folder, &self.remote, self.holds)?, trees: TreeCache::default() };
        self.suspect.store(false, Ordering::Release);
        Ok(all)
    }

    /// The problem of an object that could not be read, which also makes the next fetch mend the mirror.
    fn damaged(&self, error: &git2::Error) -> Problem {
        let why = clean_line(error.message(), SHOWN_CHARACTERS);
        if is_shortage(error) {
            return Problem::passing(format!("the mirror in {} cannot be read now: {why}", self.folder.display()));
        }
        self.suspect.store(true, Ordering::Release);
        Problem::passing(format!("the mirror in {} is damaged and will be fetched anew: {why}", self.folder.display()))
    }

    /// A commit that cannot be had: one that is not there was not fetched yet, anything else is damage.
    fn absent(&self, commit: CommitId, error: &git2::Error) -> Problem {
        if error.code() == ErrorCode::NotFound {
            Problem::passing(format!("the commit {commit} is not in the mirror yet"))
        } else {
            self.damaged(error)
        }
    }
}

/// Why a fetch failed.
enum Failure {
    Problem(Problem),
    /// The mirror itself is at fault.
    Damaged(String),
}

impl Failure {
    fn damaged(error: git2::Error) -> Self {
        let why = clean_line(error.message(), SHOWN_CHARACTERS);
        if is_shortage(&error) {
            return Failure::Problem(Problem::passing(format!("the mirror cannot be used now: {why}")));
        }
        Failure::Damaged(why)
    }

    fn into_problem(self) -> Problem {
        match self {
            Failure::Problem(problem) => problem,
            Failure::Damaged(why) => Problem::passing(format!("the mirror is damaged: {why}")),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure::Problem(problem)
    }
}

/// Whether an error is the machine's (no memory, too many open files, a full disk) and says nothing about the mirror.
fn is_shortage(error: &git2::Error) -> bool {
    let is_of_the_system = matches!(error.class(), ErrorClass::Os | ErrorClass::NoMemory);
    is_of_the_system && error.code() != ErrorCode::NotFound
}

/// Looks whether a commit is there, with its history back to what is known and, where the mirror holds that, all that the
/// trees in it need.
fn check_new(repository: &Repository, commit: CommitId, known: &[Oid], holds: Holds) -> Result<(), git2::Error> {
    let odb = repository.odb()?;
    if odb.read_header(oid(commit))?.1 != git2::ObjectType::Commit {
        return Err(git2::Error::new(ErrorCode::Invalid, ErrorClass::Object, "a ref stands on no commit"));
    }
    let mut walk = repository.revwalk()?;
    walk.push(repository.find_commit(oid(commit))?.id())?;
    for tip in known {
        walk.hide(*tip)?;
    }
    if holds == Holds::Commits {
        // A commit that is missing ends the walk with an error.
        return walk.into_iter().try_for_each(|id| id.map(drop));
    }
    let mut seen = HashSet::new();
    for id in walk {
        let commit = repository.find_commit(id?)?;
        let before = if commit.parent_count() > 0 { Some(commit.parent(0)?.tree_id()) } else { None };
        tree::check_complete(&odb, commit.tree_id(), before, &mut seen)?;
    }
    Ok(())
}

/// Who is at fault when something is missing after a fetch: the mirror, if what it had before has holes too.
fn blame(repository: &Repository, known: &[Oid], error: &git2::Error, holds: Holds) -> Failure {
    let intact = known.iter().try_for_each(|tip| check_new(repository, commit_id(*tip), &[], holds));
    let why = clean_line(error.message(), SHOWN_CHARACTERS);
    match intact {
        Ok(()) if tree::is_malformed(error) => Failure::Problem(tree::malformed(error)),
        Ok(()) => Failure::Problem(Problem::passing(format!("the git server sent an incomplete history: {why}"))),
        Err(damage) => Failure::damaged(damage),
    }
}

/// Where a branch of the mirror stands.
fn branch_head(repository: &Repository, branch: &str) -> Option<CommitId> {
    repository.refname_to_id(&format!("{HEADS}{branch}")).ok().map(commit_id)
}

/// Every commit that a ref of the mirror below some prefixes stands on.
fn tips(repository: &Repository, prefixes: &[&str]) -> Vec<Oid> {
    let below = |prefix: &&str| repository.references_glob(&format!("{prefix}*")).into_iter().flatten().flatten();
    let mut tips: Vec<Oid> = prefixes.iter().flat_map(below).filter_map(|reference| reference.target()).collect();
    tips.sort();
    tips.dedup();
    tips
}

/// What to name to a server as present: the tips, the likeliest first, and commits behind them in growing steps, for a
/// tip may be one that the server has forgotten.
fn haves(repository: &Repository, tips: impl Iterator<Item = Oid>) -> Vec<CommitId> {
    let mut haves = Vec::new();
    let mut seen = HashSet::new();
    let tips: Vec<Oid> = tips.filter(|tip| seen.insert(*tip)).take(MAX_HAVES).collect();
    haves.extend(&tips);
    for tip in tips {
        let (mut commit, mut step) = (repository.find_commit(tip).ok(), 1);
        while let Some(found) = commit.take_if(|_| haves.len() < MAX_HAVES && step <= MAX_STEP) {
            commit = (0..step).try_fold(found, |commit, _| commit.parent(0)).ok();
            haves.extend(commit.as_ref().map(git2::Commit::id).filter(|id| seen.insert(*id)));
            step *= 2;
        }
    }
    haves.into_iter().map(commit_id).collect()
}

fn is_ancestor(repository: &Repository, ancestor: CommitId, commit: CommitId) -> Result<bool, git2::Error> {
    Ok(ancestor == commit || repository.graph_descendant_of(oid(commit), oid(ancestor))?)
}

/// Moves a branch of the mirror, and keeps the commit that a rewrite leaves behind.
fn move_branch(repository: &Repository, branch: &str, to: CommitId) -> Result<Option<Moved>, git2::Error> {
    let from = branch_head(repository, branch);
    if from == Some(to) {
        return Ok(None);
    }
    let rewritten = match from {
        Some(from) => !is_ancestor(repository, from, to)?,
        None => false,
    };
    if let (Some(from), true) = (from, rewritten) {
        keep(repository, from)?;
    }
    make_room(repository, branch)?;
    repository.reference(&format!("{HEADS}{branch}"), oid(to), true, "fetched")?;
    Ok(Some(Moved { branch: branch.to_owned(), from, to, rewritten }))
}

fn keep(repository: &Repository, commit: CommitId) -> Result<(), git2::Error> {
    repository.reference(&format!("{KEPT}{commit}"), oid(commit), true, "kept").map(drop)
}

/// Git keeps no branch `a` beside a branch `a/b`. The one in the way is no longer on the server; its commit stays.
fn make_room(repository: &Repository, branch: &str) -> Result<(), git2::Error> {
    for reference in repository.references_glob(&format!("{HEADS}*"))? {
        let mut reference = reference?;
        let Some(other) = reference.name().ok().and_then(|name| name.strip_prefix(HEADS)) else { continue };
        let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        if below(other, branch) || below(branch, other) {
            if let Some(commit) = reference.target() {
                keep(repository, commit_id(commit))?;
            }
            reference.delete()?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves nothing half done that the next call would not find out from the disk.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
