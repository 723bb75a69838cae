//! What the repositories tell of releases: the components of a revision, what lies between two, and how clean branches
//! are. The page and the API ask.
//!
//! It reads mirrors and contacts nobody. Commits never change, so what was read of one is kept: asking again costs what
//! has moved since.

mod branches;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use towpath_core::changelog::{self, Between, Changelog, End, Moved};
use towpath_core::components::{self, Declarations, GITMODULES, TOWPATH_YAML, components};
use towpath_core::fault::{Fault, Problem, Problems};
use towpath_core::hygiene::Hygiene;
use towpath_core::hygiene::remerge::Trap;
use towpath_core::lane::{BranchNames, Heads};
use towpath_core::matrix::{self, Cell, Held, Snapshot, Standing};
use towpath_core::revision::CommitId;
use towpath_core::status::ComponentStatus;
use towpath_core::tree::{Tree, TreeBuilder};

use crate::board::Releases;
use crate::repo::{MIN_PREFIX, Mirror, Parts, Pinned, View};

/// Revisions of which it is remembered what they say of components.
const MAX_REVISIONS: usize = 4000;
/// Pairs of commits of which it is remembered how they stand to each other.
const MAX_STANDINGS: usize = 20_000;
/// Pairs of commits of which it is remembered what lies between them: at most 200 commits each.
const MAX_BETWEEN: usize = 64;
/// Commits of which it is remembered by what mark they are known on other branches.
const MAX_MARKS: usize = 50_000;
/// Heads of branches of which it is remembered which merges left something out.
const MAX_TRAPS: usize = 200;

/// Gives what is known of a repository now, or why nothing is.
pub type See = Arc<dyn Fn() -> Result<Arc<View>, Problem> + Send + Sync>;

/// Reads the revisions of one repository.
pub struct Reading {
    /// Namespace and name of the Repository.
    name: String,
    see: See,
    /// What a revision says of components, without its other files.
    sketches: Memory<CommitId, Arc<Tree>>,
    snapshots: Memory<String, (Weak<Parts>, Arc<Snapshot>)>,
    standings: Memory<(CommitId, CommitId), Standing>,
    between: Memory<(CommitId, CommitId), Arc<Between>>,
    marks: Memory<CommitId, Option<String>>,
    traps: Memory<CommitId, Arc<Vec<Trap>>>,
    /// Held while the branches are looked at, so that whoever else asks waits for the same look.
    looking: Mutex<()>,
    hygiene: Mutex<Option<(Seen, Arc<Hygiene>)>>,
}

/// What was seen of a repository. It holds no mirror: one that nobody needs any more can be opened anew.
struct Seen {
    heads: Heads,
    deleted: BTreeSet<String>,
    branches: BranchNames,
    parts: Weak<Parts>,
    mirror: Weak<Mirror>,
}

impl Seen {
    fn of(view: &View) -> Seen {
        Seen {
            heads: view.heads.clone(),
            deleted: view.deleted.clone(),
            branches: view.branches.clone(),
            parts: Arc::downgrade(&view.parts),
            mirror: Arc::downgrade(&view.mirror),
        }
    }

    fn is(&self, other: &Seen) -> bool {
        let Seen { heads, deleted, branches, parts, mirror } = self;
        (heads, deleted, branches) == (&other.heads, &other.deleted, &other.branches)
            && parts.ptr_eq(&other.parts)
            && mirror.ptr_eq(&other.mirror)
    }
}

/// What was read once. Where it grows beyond its limit, half of it is forgotten.
struct Memory<K, V> {
    known: Mutex<HashMap<K, V>>,
    limit: usize,
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn new(limit: usize) -> Self {
        Memory { known: Mutex::default(), limit }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.known.lock().expect("nothing panics while it holds this lock").get(key).cloned()
    }

    fn keep(&self, key: K, value: &V) {
        let mut known = self.known.lock().expect("nothing panics while it holds this lock");
        if known.len() >= self.limit {
            // In no order: a page that reads more than the limit still finds most of it.
            let mut count = 0;
            known.retain(|_, _| {
                count += 1;
                count % 2 == 0
            });
        }
        known.insert(key, value.clone());
    }

    fn get_or<E>(&self, key: K, read: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        if let Some(known) = self.get(&key) {
            return Ok(known);
        }
        let value = read()?;
        self.keep(key, &value);
        Ok(value)
    }
}

impl Reading {
    /// For the Repository of a name (`namespace/name`).
    pub fn new(name: String, see: See) -> Reading {
        Reading {
            name,
            see,
            sketches: Memory::new(MAX_REVISIONS),
            snapshots: Memory::new(MAX_REVISIONS),
            standings: Memory::new(MAX_STANDINGS),
            between: Memory::new(MAX_BETWEEN),
            marks: Memory::new(MAX_MARKS),
            traps: Memory::new(MAX_TRAPS),
            looking: Mutex::default(),
            hygiene: Mutex::default(),
        }
    }

    /// What a revision says of components: its submodules, `.gitmodules` and `towpath.yaml`.
    fn sketch(&self, view: &View, commit: CommitId) -> Result<Arc<Tree>, Problem> {
        self.sketches.get_or(commit, || {
            let tree = view.mirror.tree(commit).map_err(Problems::into_first)?;
            let mut sketch = TreeBuilder::default();
            for path in [GITMODULES, TOWPATH_YAML] {
                if let Some(file) = tree.file(path) {
                    sketch.file(path.to_owned(), file.clone())?;
                }
            }
            for (path, commit) in tree.submodules() {
                sketch.submodule(path.to_owned(), commit)?;
            }
            Ok(Arc::new(sketch.build()))
        })
    }

    fn standing(&self, mirror: &Mirror, pin: CommitId, head: CommitId) -> Result<Standing, Problem> {
        self.standings.get_or((pin, head), || mirror.standing(pin, head))
    }

    fn between(&self, mirror: &Mirror, from: CommitId, to: CommitId) -> Result<Between, Problem> {
        let read = || mirror.between(from, to, changelog::MAX_NAMED).map(Arc::new);
        self.between.get_or((from, to), read).map(|between| (*between).clone())
    }

    fn snapshot_of(&self, view: &View, revision: &str, runs: &[ComponentStatus]) -> Result<Arc<Snapshot>, Problem> {
        let (branch, commit) = parse(revision)?;
        let version = view.mirror.describe(commit, &view.tags).ok().map(|version| version.to_string());
        let key = format!("{revision} {version:?} {runs:?}");
        let known = self.snapshots.get(&key);
        if let Some((_, known)) = known.filter(|(parts, _)| std::ptr::eq(parts.as_ptr(), Arc::as_ptr(&view.parts))) {
            return Ok(known);
        }
        let tree = self.sketch(view, commit)?;
        let pinned = view.parts.of(&tree);
        let pin = |pinned: &Pinned| {
            let runs = ComponentStatus::find(runs, &pinned.submodule.path, pinned.commit);
            runs.map_or_else(|| pinned.pin(), |runs| Ok(runs.pin(|| pinned.pin())))
        };
        let pins = pinned.iter().map(|pinned| (pinned.submodule.path.clone(), pin(pinned))).collect();
        let held = |pinned: &Pinned| Held {
            branch: pinned.submodule.branch_for(branch).to_owned(),
            standing: self.standing_on(pinned, branch),
        };
        let held = pinned.iter().map(|pinned| (pinned.submodule.path.clone(), held(pinned))).collect();
        let found = Declarations::of(&tree).and_then(|declarations| components(&tree, &declarations, branch, &pins));
        let snapshot = Arc::new(matrix::snapshot((revision, version), found, &pins, &held));
        self.snapshots.keep(key, &(Arc::downgrade(&view.parts), snapshot.clone()));
        Ok(snapshot)
    }

    /// Where a pin stands against the branch that its submodule follows on a lane: most often that of the same name.
    fn standing_on(&self, pinned: &Pinned, lane: &str) -> Result<Standing, Problem> {
        let name = &pinned.submodule.path;
        let branch = pinned.submodule.branch_for(lane);
        if branch.parse::<CommitId>().is_ok() {
            let problem = Problem::setup(format!("component {name}: its revision is of no branch to compare with"));
            return Err(problem.hint("only environments that follow a branch are compared"));
        }
        let part = pinned.part.clone()?;
        let Some(head) = part.heads.get(branch).filter(|_| !part.deleted.contains(branch)) else {
            return Err(part.problem.as_ref().map(|problem| of_part(pinned, problem)).unwrap_or_else(|| {
                Problem::setup(format!("component {name}: its repository has no branch {branch}"))
                    .hint(format!("push {branch} there"))
            }));
        };
        self.standing(&part.mirror, pinned.commit, *head).map_err(|problem| of_part(pinned, &problem))
    }

    /// What lies between two pins of a component.
    fn component_between(
        &self,
        (before, old): (&[Pinned], &Cell),
        (after, new): (&[Pinned], &Cell),
    ) -> Result<Between, String> {
        let find =
            |pinned: &'_ [Pinned], cell: &Cell| pinned.iter().position(|pinned| pinned.submodule.path == cell.path);
        let unknown = || "nothing is known of its repository".to_owned();
        let earlier = &before[find(before, old).ok_or_else(unknown)?];
        let later = &after[find(after, new).ok_or_else(unknown)?];
        let part = later.part.clone().map_err(|problem| problem.to_string())?;
        self.between(&part.mirror, old.commit, new.commit).map_err(|problem| {
            if earlier.submodule.url != later.submodule.url && !part.mirror.contains(old.commit) {
                return format!(
                    "its address was changed from {} to {}, where {} is not known",
                    earlier.submodule.url,
                    later.submodule.url,
                    old.commit.short()
                );
            }
            of_part(later, &problem).to_string()
        })
    }
}

impl Releases for Reading {
    fn snapshot(&self, revision: &str, runs: &[ComponentStatus]) -> Result<Arc<Snapshot>, Problem> {
        self.snapshot_of(&*(self.see)()?, revision, runs)
    }

    fn find(&self, name: &str) -> Result<Option<String>, Problem> {
        let view = (self.see)()?;
        let branch = name.strip_prefix("refs/heads/").unwrap_or(name);
        if let Some(head) = view.heads.get(branch) {
            return Ok(Some(format!("{branch}@sha1:{head}")));
        }
        let found = if name.len() >= MIN_PREFIX { view.mirror.find(name)? } else { None };
        Ok(found.map(|commit| format!("{commit}@sha1:{commit}")))
    }

    fn changelog(&self, from: End, to: End) -> Result<Changelog, Problem> {
        let view = (self.see)()?;
        let [before, after] = [&from, &to].map(|end| -> Result<_, Problem> {
            let (_, commit) = parse(&end.revision)?;
            let snapshot = self.snapshot_of(&view, &end.revision, &[])?;
            let pinned = view.parts.of(&*self.sketch(&view, commit)?);
            Ok((commit, snapshot, pinned))
        });
        let ((old, before, pinned_before), (new, after, pinned_after)) = (before?, after?);
        let deploy = Moved::of(self.between(&view.mirror, old, new).map_err(|problem| problem.to_string()));
        let problems = [&from, &to]
            .into_iter()
            .zip([&before, &after])
            .flat_map(|(end, snapshot)| snapshot.problems.iter().map(|problem| format!("{}: {problem}", end.name)));
        let problems = problems.collect();
        Ok(Changelog::of((from, &before.components), (to, &after.components), deploy, problems, |old, new| {
            self.component_between((&pinned_before, old), (&pinned_after, new))
        }))
    }

    fn alive_at(&self, name: &str, commit: CommitId) -> Result<Hygiene, Problem> {
        self.look_at_commit(&*(self.see)()?, (name, commit))
    }

    fn hygiene(&self) -> Result<Arc<Hygiene>, Problem> {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let view = (self.see)()?;
        let known = || self.hygiene.lock().expect("nothing panics while it holds this lock");
        let seen = Seen::of(&view);
        if let Some((_, hygiene)) = known().as_ref().filter(|(known, _)| known.is(&seen)) {
            return Ok(hygiene.clone());
        }
        let hygiene = Arc::new(self.look_at_branches(&view));
        *known() = Some((seen, hygiene.clone()));
        Ok(hygiene)
    }
}

/// Branch and commit of `branch@sha1:<commit>`.
fn parse(revision: &str) -> Result<(&str, CommitId), Problem> {
    let parts = revision.rsplit_once("@sha1:");
    parts
        .and_then(|(branch, commit)| Some((branch, commit.parse().ok()?)))
        .ok_or_else(|| Problem::setup(format!("{revision:?} is no revision of the form branch@sha1:<commit>")))
}

/// A problem of a component's repository, with where it is.
fn of_part(pinned: &Pinned, problem: &Problem) -> Problem {
    let components::Submodule { path, url, .. } = &pinned.submodule;
    // What kept its commits from coming says more than that they are not here.
    let part = pinned.part.as_ref().ok();
    let kept_away = part.and_then(|part| part.missing.get(&pinned.commit).or(part.problem.as_ref()));
    let reason = kept_away.filter(|_| problem.fault == Fault::Passing).unwrap_or(problem);
    Problem { message: format!("component {path} ({url}): {}", reason.message), ..reason.clone() }
}
