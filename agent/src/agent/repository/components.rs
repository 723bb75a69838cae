//! What a Repository's task does for its components: it says what of their repositories is needed, has it fetched, and
//! publishes what is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use towpath_core::components::{self, Declarations, Submodule};
use towpath_core::fault::Problem;
use towpath_core::lane::{Heads, LaneRule};
use towpath_core::revision::CommitId;
use towpath_core::status::Condition;
use towpath_core::tree::Tree;

use super::Task;
use crate::agent::sources::{Origin, Source, Wanted};
use crate::blocking::blocking;
use crate::repo::{Mirror, Part, Parts};
use crate::resources::{Repository, ResolvedRepository, secret_for};

/// How long a look at the deploy repository waits for its components, where a revision needs what is not here yet. What
/// takes longer is told when it is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// The condition that says whether the repositories of components could be read.
const READ: &str = "ComponentsRead";

/// The submodules of one revision.
type Submodules = Arc<Vec<Needed>>;

/// A submodule of a revision.
struct Needed {
    submodule: Submodule,
    commit: CommitId,
    /// Whether its files are needed: it is a library.
    is_whole: bool,
}

/// What is known of the components' repositories.
#[derive(Default)]
pub(super) struct Components {
    /// Held as long as somebody needs them.
    sources: BTreeMap<String, Result<Arc<Source>, Problem>>,
    /// What was read of revisions that are still needed.
    revisions: BTreeMap<CommitId, Submodules>,
    /// Looks that go on, by address.
    looks: BTreeMap<String, JoinHandle<()>>,
    needs: Needs,
    /// What was published.
    pub(super) parts: Arc<Parts>,
}

/// What of which addresses is needed.
type Needs = BTreeMap<String, Wanted>;

impl Task {
    /// Has the repositories of components looked at that followed revisions need. Waits for what is not here yet, but
    /// not for long, and once only for each look. `is_asked` says that a person waits for what stands there now.
    pub(super) async fn look_at_components(&mut self, resolved: &ResolvedRepository, is_asked: bool) {
        let Some(mirror) = self.open.as_ref().map(|opened| opened.open.mirror.clone()) else { return };
        let needs = self.needs(resolved, mirror).await;
        let shared = self.shared.clone();
        let sources: BTreeMap<String, Result<Arc<Source>, Problem>> = needs
            .keys()
            .map(|address| {
                let secret = secret_for(&resolved.components, address);
                let source = secret.map(|secret| {
                    let secret = secret.map(|name| (resolved.home.clone(), name.to_owned()));
                    let is_whole = needs[address].is_whole;
                    shared.sources.of(&Origin { address: address.clone(), secret, is_whole }, &self.local_change)
                });
                (address.clone(), source)
            })
            .collect();
        for (address, source) in &sources {
            if let (Err(problem), None | Some(Ok(_))) = (source, self.components.sources.get(address)) {
                tracing::warn!(repository = self.id.1, %problem, "a component is not read");
            }
        }
        self.components.sources = sources;
        let interval = if is_asked { Duration::ZERO } else { shared.settings.scaled(resolved.interval) };
        self.components.looks.retain(|_, look| !look.is_finished());
        let mut waited_for = Vec::new();
        for (address, source) in &self.components.sources {
            let Ok(source) = source else { continue };
            // One that is slow is not asked again before it has answered, and not waited for again.
            if self.components.looks.contains_key(address) {
                continue;
            }
            let (source, wanted, shared, slot) =
                (source.clone(), needs[address].clone(), shared.clone(), self.slot.clone());
            let is_waited_for = is_asked || !source.has_looked_for(&wanted);
            let before = source.seen();
            let (over, is_over) = tokio::sync::oneshot::channel::<()>();
            let look = tokio::spawn(async move {
                source.clone().look(shared, wanted, interval).await;
                drop(over);
                let is_news = match (before, source.seen()) {
                    (Some(Ok(before)), Some(Ok(now))) => !Arc::ptr_eq(&before, &now),
                    (before, now) => before.map(Result::err) != now.map(Result::err),
                };
                if is_news {
                    slot.seen_components.notify_one();
                }
            });
            self.components.looks.insert(address.clone(), look);
            if is_waited_for {
                waited_for.push(is_over);
            }
        }
        if !waited_for.is_empty() {
            let _ = tokio::time::timeout(PATIENCE, join_all(waited_for)).await;
        }
        self.gather_components(resolved);
        self.components.needs = needs;
    }

    /// Takes what was found of the components' repositories.
    fn gather_components(&mut self, resolved: &ResolvedRepository) {
        let unseen = |address: &String| Problem::passing(format!("{address} was not looked at yet"));
        let part = |address: &String, source: &Result<Arc<Source>, Problem>| -> Result<Arc<Part>, Problem> {
            source.clone().and_then(|source| source.seen().unwrap_or_else(|| Err(unseen(address))))
        };
        let parts = self.components.sources.iter().map(|(address, source)| (address.clone(), part(address, source)));
        let parts = Parts { deploy: resolved.url.parse().ok(), parts: parts.collect() };
        // The same again is the very same, so that nobody takes it for news.
        if !parts.is_same(&self.components.parts) {
            self.components.parts = Arc::new(parts);
        }
    }

    /// What the revisions need that are followed or run.
    async fn needs(&mut self, resolved: &ResolvedRepository, mirror: Arc<Mirror>) -> Needs {
        let heads = self.seen.heads.clone();
        let mut running = self.slot.running();
        running.extend(self.slot.lanes(|_| true).into_iter().filter_map(|lane| match lane {
            LaneRule::Commit(commit) => Some(commit),
            _ => None,
        }));
        let known = std::mem::take(&mut self.components.revisions);
        let deploy = resolved.url.clone();
        let (needs, revisions) = blocking(move || needs(&mirror, &deploy, &heads, running, &known)).await;
        self.components.revisions = revisions;
        needs
    }

    /// Whether the repositories of components could be read, as a condition. None where there are no components.
    pub(super) fn components_read(&self, resource: &Repository, now: Timestamp) -> Option<Condition> {
        let parts = &self.components.parts.parts;
        if parts.is_empty() {
            return None;
        }
        let trouble = parts.iter().find_map(|(address, part)| {
            let wanted = self.components.needs.get(address)?;
            let problem = match part {
                Err(problem) => Some(problem),
                // Other Repositories may want other commits.
                Ok(part) => {
                    part.problem.as_ref().or_else(|| wanted.commits.iter().find_map(|commit| part.missing.get(commit)))
                }
            };
            problem.map(|problem| (address, problem))
        });
        let (status, reason, message) = match trouble {
            None => ("True", "Read", format!("{} repositories of components are read", parts.len())),
            Some((address, problem)) if problem.message.contains(address.as_str()) => {
                ("False", "NotRead", problem.to_string())
            }
            Some((address, problem)) => ("False", "NotRead", format!("{address}: {problem}")),
        };
        let condition = Condition::after(&self.status.conditions, now, (READ, status), reason, message);
        Some(condition.of_generation(resource.metadata.generation))
    }
}

fn needs(
    mirror: &Mirror,
    deploy: &str,
    heads: &Heads,
    running: BTreeSet<CommitId>,
    known: &BTreeMap<CommitId, Submodules>,
) -> (Needs, BTreeMap<CommitId, Submodules>) {
    let mut needs = Needs::new();
    let mut revisions = BTreeMap::new();
    let lanes = heads.iter().map(|(lane, commit)| (Some(lane), *commit));
    for (lane, commit) in lanes.chain(running.into_iter().map(|commit| (None, commit))) {
        let submodules = match known.get(&commit) {
            Some(submodules) => submodules.clone(),
            // One that cannot be read is no revision without submodules: it is read again at the next look.
            None => match mirror.tree(commit) {
                Ok(tree) => submodules_of(&tree),
                Err(_) => continue,
            },
        };
        revisions.insert(commit, submodules.clone());
        for Needed { submodule, commit, is_whole } in submodules.iter() {
            let Ok(address) = components::address(deploy, &submodule.url) else { continue };
            let wanted = needs.entry(address).or_default();
            wanted.branches.extend(lane.map(|lane| submodule.branch_for(lane).to_owned()));
            wanted.commits.insert(*commit);
            wanted.is_whole |= is_whole;
        }
    }
    (needs, revisions)
}

/// The submodules of a revision that `.gitmodules` names. What is wrong with it is told by whoever renders it.
fn submodules_of(tree: &Tree) -> Submodules {
    let named = components::submodules_of(tree).unwrap_or_default();
    let declarations = Declarations::of(tree).unwrap_or_default();
    let libraries = components::libraries(&declarations);
    let needed = named.into_iter().filter_map(|submodule| {
        let commit = tree.submodule(&submodule.path)?;
        let is_whole = libraries.contains(&submodule.path.as_str());
        Some(Needed { submodule, commit, is_whole })
    });
    Arc::new(needed.collect())
}
