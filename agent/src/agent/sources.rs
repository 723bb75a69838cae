//! The repositories of components: one mirror for all Repositories that read it with the same Secret.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use sha2::Digest;
use tokio::sync::Notify;
use towpath_core::fault::{Fault, Problem};
use towpath_core::lane::Heads;
use towpath_core::revision::CommitId;

use super::Shared;
use super::open::Open;
use crate::blocking::blocking;
use crate::repo::watch::watch_local;
use crate::repo::{Credentials, Mirror, Part, Remote};

/// Commits that are remembered as missing.
const MAX_MISSING: usize = 1000;
/// The longest pause between looks at a server that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What makes one repository another one: its address, and what it is read with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Its address.
    pub address: String,
    /// Namespace and name of the Secret.
    pub secret: Option<(String, String)>,
    /// Whether its files are needed too, and not only its commits.
    pub is_whole: bool,
}

/// What somebody needs of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its branches, where it has them.
    pub branches: BTreeSet<String>,
    /// Commits that submodules are pinned to.
    pub commits: BTreeSet<CommitId>,
    /// Whether somebody needs its files.
    pub is_whole: bool,
}

/// Every repository that some Repository needs.
#[derive(Default)]
pub struct Sources(Mutex<HashMap<Origin, Weak<Source>>>);

/// One repository of a component.
pub struct Source {
    origin: Origin,
    /// Held by whoever looks.
    looking: tokio::sync::Mutex<Looking>,
    /// What the last look came to.
    seen: Mutex<Seen>,
    /// Who is told that a repository on this machine has changed.
    listeners: Arc<Mutex<Vec<Weak<Notify>>>>,
    /// Whether it has changed since the last look.
    has_changed: Arc<AtomicBool>,
}

#[derive(Default)]
struct Looking {
    open: Option<Open>,
    looked_at: Option<Instant>,
    failures: u32,
}

#[derive(Clone, Default)]
struct Seen {
    part: Option<Result<Arc<Part>, Problem>>,
    /// The branches that anybody ever wanted and that were looked for.
    branches: BTreeSet<String>,
}

impl Sources {
    /// The repository of an origin. `listener` is told when it changes, where it is on this machine.
    pub fn of(&self, origin: &Origin, listener: &Arc<Notify>) -> Arc<Source> {
        let mut sources = self.0.lock().expect("nothing panics while it holds this lock");
        sources.retain(|_, source| source.strong_count() > 0);
        let source = sources.get(origin).and_then(Weak::upgrade).unwrap_or_else(|| {
            let source = Arc::new(Source {
                origin: origin.clone(),
                looking: tokio::sync::Mutex::default(),
                seen: Mutex::default(),
                listeners: Arc::default(),
                has_changed: Arc::default(),
            });
            sources.insert(origin.clone(), Arc::downgrade(&source));
            source
        });
        drop(sources);
        let mut listeners = source.listeners.lock().expect("nothing panics while it holds this lock");
        listeners.retain(|known| known.strong_count() > 0);
        if !listeners.iter().any(|known| known.as_ptr() == Arc::as_ptr(listener)) {
            listeners.push(Arc::downgrade(listener));
        }
        drop(listeners);
        source
    }
}

impl Source {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds this lock")
    }

    /// What the last look came to; `None` before the first one.
    pub fn seen(&self) -> Option<Result<Arc<Part>, Problem>> {
        self.lock().part.clone()
    }

    /// Whether all that is wanted was looked for already, with whatever success.
    pub fn has_looked_for(&self, wanted: &Wanted) -> bool {
        let Seen { part, branches } = self.lock().clone();
        let is_known = |commit: &CommitId| match &part {
            Some(Ok(part)) => part.missing.contains_key(commit) || part.mirror.contains(*commit),
            _ => true,
        };
        part.is_some() && branches.is_superset(&wanted.branches) && wanted.commits.iter().all(is_known)
    }

    /// Looks at the repository, unless somebody did so within `interval` and what is wanted was looked for then.
    /// Everything that is missing is fetched. One on this machine is looked at whenever it has changed.
    pub async fn look(self: Arc<Self>, shared: Arc<Shared>, wanted: Wanted, interval: Duration) {
        let mut looking = self.looking.lock().await;
        let back_off = towpath_core::decide::back_off(looking.failures).min(LONGEST_PAUSE);
        let pause = if looking.failures > 0 { shared.settings.scaled(back_off).max(interval) } else { interval };
        let is_fresh = looking.looked_at.is_some_and(|at| at.elapsed() < pause);
        let has_changed = self.has_changed.swap(false, Ordering::AcqRel);
        if is_fresh && !has_changed && self.has_looked_for(&wanted) {
            return;
        }
        let Seen { part, branches } = self.lock().clone();
        let branches = branches.union(&wanted.branches).cloned().collect();
        let wanted = Wanted { branches, ..wanted };
        let before = part.and_then(Result::ok);
        let mut found = self.try_look(&shared, &mut looking, &before, &wanted).await;
        let was_refused = found.as_ref().is_ok_and(|part| part.problem.as_ref().is_some_and(is_setup));
        if was_refused && self.renew(&shared, &mut looking).await.unwrap_or(false) {
            found = self.try_look(&shared, &mut looking, &before, &wanted).await;
        }
        // What was seen before still holds where nothing could be asked now.
        let found = match (found, &before) {
            (Err(problem), Some(before)) => Ok(Part { problem: Some(problem), ..(**before).clone() }),
            (found, _) => found,
        };
        looking.looked_at = Some(Instant::now());
        let has_failed = found.as_ref().map_or(true, |part| part.problem.is_some());
        looking.failures = if has_failed { looking.failures + 1 } else { 0 };
        // The same again is the very same, so that nobody takes it for news.
        let part = match (found, before) {
            (Ok(found), Some(before)) if found.is_same(&before) => Ok(before),
            (found, _) => found.map(Arc::new),
        };
        *self.lock() = Seen { part: Some(part), branches: wanted.branches };
    }

    async fn try_look(
        &self,
        shared: &Shared,
        looking: &mut Looking,
        before: &Option<Arc<Part>>,
        wanted: &Wanted,
    ) -> Result<Part, Problem> {
        if looking.open.as_ref().is_some_and(Open::is_old) {
            self.renew(shared, looking).await?;
        }
        let mirror = match &looking.open {
            Some(open) => open.mirror.clone(),
            None => self.open(shared, looking).await?,
        };
        let (before, wanted) = (before.clone(), wanted.clone());
        Ok(blocking(move || bring(mirror, before.as_deref(), &wanted)).await)
    }

    async fn credentials(&self, shared: &Shared) -> Result<Credentials, Problem> {
        let (namespace, name) = self.origin.secret.as_ref().map(|(a, b)| (a.as_str(), b.as_str())).unzip();
        shared.credentials(namespace.unwrap_or_default(), name).await
    }

    async fn open(&self, shared: &Shared, looking: &mut Looking) -> Result<Arc<Mirror>, Problem> {
        let remote: Remote = self.origin.address.parse()?;
        let credentials = self.credentials(shared).await?;
        let watch = remote.folder().and_then(|folder| {
            let (listeners, has_changed) = (self.listeners.clone(), self.has_changed.clone());
            let tell = move || {
                has_changed.store(true, Ordering::Release);
                let listeners = listeners.lock().expect("nothing panics while it holds this lock");
                listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener.notify_one());
            };
            watch_local(folder, tell).ok()
        });
        let place = (&*self.folder(shared), self.origin.is_whole);
        let open = Open::new(shared, place, remote, credentials, watch).await?;
        let mirror = open.mirror.clone();
        looking.open = Some(open);
        Ok(mirror)
    }

    /// Reads the Secret again. Gives whether it holds others now.
    async fn renew(&self, shared: &Shared, looking: &mut Looking) -> Result<bool, Problem> {
        let Some(open) = &mut looking.open else { return Ok(false) };
        open.renew(self.credentials(shared).await?).await
    }

    /// Its mirror's folder. Repositories with the same address share none where their Secrets differ.
    fn folder(&self, shared: &Shared) -> PathBuf {
        let Origin { address, secret, is_whole } = &self.origin;
        let (namespace, name) = secret.as_ref().map(|(a, b)| (a.as_str(), b.as_str())).unwrap_or_default();
        let hash = hex::encode(&sha2::Sha256::digest(format!("{namespace}/{name} {address}"))[..8]);
        let last = address.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        let last: String = last.trim_end_matches(".git").chars().filter(char::is_ascii_alphanumeric).take(40).collect();
        let kind = if *is_whole { "libraries" } else { "components" };
        shared.settings.cache.join(kind).join(format!("{last}-{hash}.git"))
    }
}

fn is_setup(problem: &Problem) -> bool {
    problem.fault == Fault::Setup
}

/// Looks at the server and fetches what is wanted. What went wrong stands in the part: what was seen before still holds.
fn bring(mirror: Arc<Mirror>, before: Option<&Part>, wanted: &Wanted) -> Part {
    let mut part = match before {
        Some(part) => Part { mirror: mirror.clone(), problem: None, ..part.clone() },
        None => Part {
            mirror: mirror.clone(),
            heads: Heads::new(),
            tags: BTreeMap::new(),
            other_tags: BTreeMap::new(),
            deleted: BTreeSet::new(),
            missing: BTreeMap::new(),
            problem: None,
        },
    };
    part.problem = try_to_bring(&mirror, &mut part, wanted).err();
    // Another Repository may have wanted them; they are asked for again only with those that are wanted now.
    part.missing.retain(|commit, _| !mirror.contains(*commit));
    while part.missing.len() > MAX_MISSING {
        part.missing.pop_first();
    }
    part
}

fn try_to_bring(mirror: &Mirror, part: &mut Part, wanted: &Wanted) -> Result<(), Problem> {
    let look = mirror.look_at_component(&wanted.branches)?;
    let heads = look.heads;
    let is_missing = |commit: &CommitId| !mirror.contains(*commit);
    let moved =
        |(branch, commit): &(&String, &CommitId)| part.heads.get(*branch) != Some(*commit) || is_missing(commit);
    let moving: Vec<(String, CommitId)> =
        heads.iter().filter(moved).map(|(branch, commit)| (branch.clone(), *commit)).collect();
    mirror.fetch(&moving)?;
    let all: Vec<(String, CommitId)> = heads.clone().into_iter().collect();
    part.deleted = part.heads.keys().filter(|branch| !heads.contains_key(*branch)).cloned().collect();
    part.heads.extend(heads);
    part.tags = look.tags;
    part.other_tags = look.other_tags;
    let mut passing = None;
    for commit in wanted.commits.iter().filter(|commit| is_missing(commit)) {
        if let Err(problem) = mirror.fetch_commit(*commit, &all) {
            if problem.fault == Fault::Passing {
                passing = Some(problem.clone());
            }
            part.missing.insert(*commit, problem);
        }
    }
    passing.map_or(Ok(()), Err)
}
