//! What a Repository's task does for its components: it says what of their repositories is needed, has it fetched, and
//! publishes what is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use jiff::Timestamp;
use towpath_core::components::{self, Submodule};
use towpath_core::fault::Problem;
use towpath_core::lane::Heads;
use towpath_core::revision::CommitId;
use towpath_core::status::Condition;

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
type Submodules = Arc<Vec<(Submodule, CommitId)>>;

/// What is known of the components' repositories.
#[derive(Default)]
pub(super) struct Components {
    /// Held as long as somebody needs them.
    sources: BTreeMap<String, Result<Arc<Source>, Problem>>,
    /// What was read of revisions that are still needed.
    revisions: BTreeMap<CommitId, Submodules>,
    /// What was published.
    pub(super) parts: Arc<Parts>,
}

/// What of which addresses is needed.
type Needs = BTreeMap<String, Wanted>;

impl Task {
    /// Has the repositories of components looked at that followed revisions need. Waits for what is not here yet, but
    /// not for long.
    pub(super) async fn look_at_components(&mut self, resolved: &ResolvedRepository) {
        let Some(mirror) = self.open.as_ref().map(|open| open.mirror.clone()) else { return };
        let needs = self.needs(resolved, mirror).await;
        let listener = self.local_change.clone();
        let shared = self.shared.clone();
        let known = &self.components.sources;
        let sources: BTreeMap<String, Result<Arc<Source>, Problem>> = needs
            .keys()
            .map(|address| {
                let secret = secret_for(&resolved.components, address);
                let source = secret.map(|secret| {
                    let secret = secret.map(|name| (resolved.home.clone(), name.to_owned()));
                    shared.sources.of(&Origin { address: address.clone(), secret }, &listener)
                });
                (address.clone(), source)
            })
            .collect();
        for (address, source) in &sources {
            if let (Err(problem), None | Some(Ok(_))) = (source, known.get(address)) {
                tracing::warn!(repository = self.id.1, %problem, "a component is not read");
            }
        }
        let interval = shared.settings.scaled(resolved.interval);
        let is_waited_for = sources
            .iter()
            .any(|(address, source)| source.as_ref().is_ok_and(|source| !source.has_looked_for(&needs[address])));
        let looks = sources.iter().filter_map(|(address, source)| {
            let source = source.as_ref().ok()?.clone();
            let (shared, wanted, slot) = (shared.clone(), needs[address].clone(), self.slot.clone());
            Some(tokio::spawn(async move {
                let before = source.seen();
                source.clone().look(shared, wanted, interval).await;
                let is_news = match (before, source.seen()) {
                    (Some(Ok(before)), Some(Ok(now))) => !Arc::ptr_eq(&before, &now),
                    (before, now) => before.map(Result::err) != now.map(Result::err),
                };
                if is_news {
                    slot.seen_components.notify_one();
                }
            }))
        });
        let looks = looks.collect::<Vec<_>>();
        self.components.sources = sources;
        if is_waited_for {
            let _ = tokio::time::timeout(PATIENCE, join_all(looks)).await;
            // What was seen until now is gathered here.
            let _ = self.slot.seen_components.notified().now_or_never();
        }
        self.gather_components(resolved);
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
        let running = self.slot.running();
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
            let problem = match part {
                Err(problem) => Some(problem),
                Ok(part) => part.problem.as_ref().or(part.missing.values().next()),
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
        let read = || {
            let Ok(tree) = mirror.tree(commit) else { return Submodules::default() };
            // What is wrong with it is told by whoever renders it.
            let text = tree.text(components::GITMODULES).ok().flatten().unwrap_or_default();
            let named = components::read_gitmodules(text).unwrap_or_default();
            let pinned = named.into_iter().filter_map(|submodule| {
                let commit = tree.submodule(&submodule.path)?;
                Some((submodule, commit))
            });
            Arc::new(pinned.collect())
        };
        let submodules = revisions.entry(commit).or_insert_with(|| known.get(&commit).cloned().unwrap_or_else(read));
        for (submodule, pinned) in submodules.iter() {
            let Ok(address) = components::address(deploy, &submodule.url) else { continue };
            let wanted = needs.entry(address).or_default();
            wanted.branches.extend(lane.map(|lane| submodule.branch_for(lane).to_owned()));
            wanted.commits.insert(*pinned);
        }
    }
    (needs, revisions)
}
