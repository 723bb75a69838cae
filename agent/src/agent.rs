//! The agent: it watches its own custom resources, and gives each Repository and each Environment a task.
//!
//! Tasks share nothing but [`Slots`]: a repository's task publishes what it sees of git, and an environment's task says
//! which lane it follows and asks for a look. They end with the custom resource that they are for.

mod environment;
mod kept;
mod kin;
mod lead;
mod ledger;
mod open;
mod parting;
mod repository;
mod sources;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;
use towpath_core::lane::LaneRule;
use towpath_core::ledger::passed::Gates;
use towpath_core::revision::CommitId;
use towpath_core::signature::SigningKey;

use crate::alerts::Alerts;
use crate::board::Shelf;
pub use crate::board::{Board, Id};
use crate::cluster::{self, Cluster};
use crate::metrics::Metrics;
use crate::registry::Registries;
use crate::releases::Reading;
use crate::repo::View;
use crate::resources::{Environment, Repository};
use crate::sync::Claims;
pub use lead::{Replica, Start, lead};
pub use ledger::{Desk, Known};

/// Passes that run at one time. Each waits for the API server most of its time.
const MAX_PASSES: usize = 16;

/// How the agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the cluster, for templates and people.
    pub cluster_name: String,
    /// The only namespace whose custom resources are watched; `None` for all.
    pub namespace: Option<String>,
    /// Where the mirrors are kept.
    pub cache: PathBuf,
    /// The `ssh` program.
    pub ssh: PathBuf,
    /// The namespace that the agent itself runs in, where it is known: nothing of the agent is ever pruned.
    pub own_namespace: Option<String>,
    /// Divides every wait of minutes and seconds (polls, back-off); 1 except in tests.
    pub time_scale: u32,
}

impl Settings {
    fn scaled(&self, duration: Duration) -> Duration {
        duration / self.time_scale.max(1)
    }
}

/// What all tasks share.
pub struct Shared {
    /// How the agent runs.
    pub settings: Settings,
    /// The door to the cluster.
    pub cluster: Cluster,
    /// Where repositories and environments meet.
    pub slots: Slots,
    /// Which environment has which object.
    pub claims: Claims,
    /// The door to registries.
    pub registries: Registries,
    /// The door to Alertmanager.
    alerts: Alerts,
    /// The repositories of components.
    sources: sources::Sources,
    /// The custom resources as they are now, for the page and the API.
    pub board: Arc<Board>,
    /// What is counted while the agent runs.
    pub metrics: Arc<Metrics>,
    key: tokio::sync::OnceCell<Arc<SigningKey>>,
    passes: Semaphore,
    names: Mutex<HashMap<String, Id>>,
    /// Who acts for an environment holds its reins, so that one that takes over another never acts beside it.
    reins: Mutex<HashMap<Id, Arc<tokio::sync::Mutex<()>>>>,
}

/// Where a repository's task and the tasks of its environments meet.
#[derive(Default)]
pub struct Slots(Mutex<HashMap<Id, Arc<Slot>>>);

/// One repository, whether its custom resource is there already or not.
pub struct Slot {
    /// What was last seen.
    pub sight: watch::Sender<Sight>,
    /// How many looks were begun, and how many of them are over.
    pub looks: watch::Sender<(u64, u64)>,
    /// Asks for a look now.
    pub poke: Notify,
    /// Something of its components was seen.
    seen_components: Notify,
    /// Where its ledgers are written and read.
    pub desk: Arc<Desk>,
    /// What the environments ran that others wait for.
    gates: Mutex<Arc<Gates>>,
    /// The lanes that environments follow.
    lanes: Mutex<HashMap<Id, LaneRule>>,
    /// What environments run or may go back to: the components of it are needed too.
    running: Mutex<HashMap<Id, BTreeSet<CommitId>>>,
}

/// What can be said of a repository.
#[derive(Clone, Default)]
pub enum Sight {
    /// There is no custom resource, or it was not looked at yet.
    #[default]
    Nothing,
    /// It could never be looked at.
    Trouble(Problem),
    /// What was last seen.
    View(Arc<View>),
}

impl Slots {
    /// The slot of a repository, made when it is first asked for.
    pub fn of(&self, id: &Id) -> Arc<Slot> {
        let mut slots = self.0.lock().expect("nothing panics while it holds this lock");
        let make = || {
            Arc::new(Slot {
                sight: watch::Sender::default(),
                looks: watch::Sender::new((0, 0)),
                poke: Notify::new(),
                seen_components: Notify::new(),
                desk: Arc::default(),
                gates: Mutex::default(),
                lanes: Mutex::default(),
                running: Mutex::default(),
            })
        };
        slots.entry(id.clone()).or_insert_with(make).clone()
    }
}

impl Slot {
    /// Says which lane an environment follows. A new one asks for a look, for its branch may not be here yet.
    fn follow(&self, environment: &Id, lane: &LaneRule) {
        let mut lanes = self.lanes.lock().expect("nothing panics while it holds this lock");
        let is_new_lane = !lanes.values().any(|known| known == lane);
        lanes.insert(environment.clone(), lane.clone());
        drop(lanes);
        if is_new_lane {
            self.poke.notify_one();
        }
    }

    /// The environment no longer follows this repository.
    fn leave(&self, environment: &Id) {
        self.lanes.lock().expect("nothing panics while it holds this lock").remove(environment);
        self.running.lock().expect("nothing panics while it holds this lock").remove(environment);
    }

    /// Says what an environment runs, or may go back to.
    fn runs(&self, environment: &Id, commits: BTreeSet<CommitId>) {
        self.running.lock().expect("nothing panics while it holds this lock").insert(environment.clone(), commits);
    }

    /// What environments run or may go back to, each commit once.
    fn running(&self) -> BTreeSet<CommitId> {
        self.running.lock().expect("nothing panics while it holds this lock").values().flatten().copied().collect()
    }

    /// The lanes that are followed from namespaces that may, each once.
    fn lanes(&self, may: impl Fn(&str) -> bool) -> Vec<LaneRule> {
        let lanes = self.lanes.lock().expect("nothing panics while it holds this lock");
        let mut lanes: Vec<LaneRule> =
            lanes.iter().filter(|(id, _)| may(&id.0)).map(|(_, lane)| lane.clone()).collect();
        lanes.sort();
        lanes.dedup();
        lanes
    }

    /// Says what the environments ran that others wait for.
    fn publish_gates(&self, gates: Gates) {
        let gates = Arc::new(gates);
        *self.gates.lock().expect("nothing panics while it holds this lock") = gates.clone();
        self.sight.send_if_modified(|sight| match sight {
            Sight::View(view) if view.gates != gates => {
                *view = Arc::new(View { gates, ..(**view).clone() });
                true
            }
            _ => false,
        });
    }

    fn gates(&self) -> Arc<Gates> {
        self.gates.lock().expect("nothing panics while it holds this lock").clone()
    }

    /// Asks for a look and waits until one that began after this call is over, or `limit` has passed.
    async fn look(&self, limit: Duration) {
        let mut looks = self.looks.subscribe();
        // A look that is under way may have read the branches already: the one after it counts.
        let enough = looks.borrow_and_update().0 + 1;
        self.poke.notify_one();
        let _ = tokio::time::timeout(limit, looks.wait_for(|(_, over)| *over >= enough)).await;
    }
}

impl Shared {
    /// Everything that tasks share, before any of them runs. What outlives them is handed in.
    pub fn new(settings: Settings, cluster: Cluster, board: Arc<Board>, metrics: Arc<Metrics>) -> Arc<Shared> {
        Arc::new(Shared {
            settings,
            cluster,
            slots: Slots::default(),
            claims: Claims::default(),
            registries: Registries::default(),
            alerts: Alerts::default(),
            sources: sources::Sources::default(),
            board,
            metrics,
            key: tokio::sync::OnceCell::new(),
            passes: Semaphore::new(MAX_PASSES),
            names: Mutex::default(),
            reins: Mutex::default(),
        })
    }

    /// Takes the name of an environment for a custom resource: names are unique in one agent, the first one keeps it.
    fn take_name(&self, id: &Id) -> Result<(), Problem> {
        let mut names = self.names.lock().expect("nothing panics while it holds this lock");
        let owner = names.entry(id.1.clone()).or_insert_with(|| id.clone());
        if owner == id {
            return Ok(());
        }
        Err(Problem::setup(format!("an Environment of this name is already in namespace {}", owner.0))
            .hint("give one of the two another name: a name is a label value, and unique in one agent"))
    }

    /// Takes the reins of an environment, and of the one that it takes over.
    async fn reins(&self, id: &Id, resource: &Environment) -> Vec<tokio::sync::OwnedMutexGuard<()>> {
        let earlier = resource.spec.moved_from.as_ref().map(|name| (id.0.clone(), name.clone()));
        let mut ids: Vec<Id> = earlier.into_iter().chain([id.clone()]).collect();
        // Always in the same order, or two that name each other would wait for each other.
        ids.sort();
        ids.dedup();
        let mut held = Vec::new();
        for id in ids {
            let mutex = {
                let mut reins = self.reins.lock().expect("nothing panics while it holds this lock");
                reins.entry(id).or_default().clone()
            };
            held.push(mutex.lock_owned().await);
        }
        held
    }

    /// The agent's own key, made where there is none yet.
    ///
    /// # Errors
    /// `Setup` where it may not be read or made, or where nobody knows which namespace it is in.
    async fn key(&self) -> Result<Arc<SigningKey>, Problem> {
        let make = || async {
            let settings = &self.settings;
            let Some(namespace) = &settings.own_namespace else {
                return Err(Problem::setup("the agent does not know in which namespace its own key is")
                    .hint("run it in a pod, or with --own-namespace"));
            };
            let comment = format!("towpath@{}", settings.cluster_name);
            self.cluster.signing_key(namespace, &comment).await.map(Arc::new)
        };
        self.key.get_or_try_init(make).await.cloned()
    }

    fn give_name_back(&self, id: &Id) {
        self.names.lock().expect("nothing panics while it holds this lock").retain(|_, owner| owner != id);
    }
}

/// Runs until `stop`, then ends every task. A write that is under way is finished or abandoned within its deadline.
///
/// # Errors
/// `Setup` when the custom resources are not installed or may not be read.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> Result<(), Problem> {
    let environments = tend(
        shared.clone(),
        stop.clone(),
        Tending {
            shelf: |board| &board.environments,
            task: |shared, resource, stop| environment::run(shared, resource, stop).boxed(),
            what: "environments",
        },
    );
    let repositories = tend(
        shared.clone(),
        stop.clone(),
        Tending {
            shelf: |board| &board.repositories,
            task: |shared, resource, stop| showing(shared, resource, stop).boxed(),
            what: "repositories",
        },
    );
    let (first, second) = tokio::join!(environments, repositories);
    first.and(second)
}

/// The task of a Repository, whose revisions are on the board for as long as it runs.
async fn showing(shared: Arc<Shared>, resource: watch::Receiver<Arc<Repository>>, stop: CancellationToken) {
    let id: Id = {
        let resource = resource.borrow();
        (resource.namespace().unwrap_or_default(), resource.name_any())
    };
    let slot = shared.slots.of(&id);
    let see = move || match &*slot.sight.borrow() {
        Sight::View(view) => Ok(view.clone()),
        Sight::Trouble(problem) => Err(problem.clone()),
        Sight::Nothing => Err(Problem::passing("the repository was not looked at yet")),
    };
    let name = format!("{}/{}", id.0, id.1);
    shared.board.put_releases(&id, Some(Arc::new(Reading::new(name, Arc::new(see)))));
    repository::run(shared.clone(), resource, stop).await;
    shared.board.put_releases(&id, None);
}

/// How one kind of custom resource is tended.
struct Tending<K, Task> {
    shelf: fn(&Board) -> &Shelf<K>,
    task: Task,
    what: &'static str,
}

/// A running task, and where its custom resource is handed to it.
struct Tended<K> {
    resource: watch::Sender<Arc<K>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Gives every custom resource of a kind a task, hands it each change that matters, and ends it with the resource.
async fn tend<K, Task, Running>(
    shared: Arc<Shared>,
    stop: CancellationToken,
    tending: Tending<K, Task>,
) -> Result<(), Problem>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
    Task: Fn(Arc<Shared>, watch::Receiver<Arc<K>>, CancellationToken) -> Running + Clone + Send + Sync + 'static,
    Running: Future<Output = ()> + Send + 'static,
{
    let client = shared.cluster.own_client();
    let api: Api<K> = match &shared.settings.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let shelf = (tending.shelf)(&shared.board);
    let mut events = std::pin::pin!(cluster::events(api, watcher::Config::default()));
    let mut tasks: HashMap<Id, Tended<K>> = HashMap::new();
    let mut listed: Vec<Id> = Vec::new();
    let mut has_listed = false;
    // Tasks whose resource is gone: one for a new resource of that name begins after the old one has ended.
    let mut ending: HashMap<Id, JoinHandle<()>> = HashMap::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => break,
        };
        match event {
            None => break,
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(mut resource) | Event::Apply(mut resource))) => {
                // Nobody here asks who wrote which field of it, and that is most of its size.
                resource.meta_mut().managed_fields = None;
                let id = (resource.namespace().unwrap_or_default(), resource.name_any());
                let resource = Arc::new(resource);
                shelf.put(id.clone(), resource.clone());
                listed.push(id.clone());
                match tasks.get(&id) {
                    Some(tended) if tended.resource.borrow().uid() == resource.uid() => {
                        hand_over(&tended.resource, resource);
                    }
                    _ => {
                        if let Some(tended) = tasks.remove(&id) {
                            tended.stop.cancel();
                            ending.insert(id.clone(), tended.task);
                        }
                        let (sender, receiver) = watch::channel(resource);
                        let stop = stop.child_token();
                        let before = ending.remove(&id);
                        let task = (tending.task)(shared.clone(), receiver.clone(), stop.clone());
                        let again = tending.task.clone();
                        let task = tokio::spawn(supervise(task, before, {
                            let (shared, stop) = (shared.clone(), stop.clone());
                            move || again(shared.clone(), receiver.clone(), stop.clone())
                        }));
                        tasks.insert(id, Tended { resource: sender, stop, task });
                    }
                }
            }
            Some(Ok(Event::Delete(resource))) => {
                let id = (resource.namespace().unwrap_or_default(), resource.name_any());
                shelf.remove(&id);
                if let Some(tended) = tasks.remove(&id) {
                    tended.stop.cancel();
                    ending.insert(id, tended.task);
                }
            }
            Some(Ok(Event::InitDone)) => {
                has_listed = true;
                shelf.listed(&listed);
                tasks.retain(|id, tended| {
                    let stays = listed.contains(id);
                    if !stays {
                        tended.stop.cancel();
                    }
                    stays
                });
            }
            Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(status))))
                if status.code == 404 && !has_listed =>
            {
                return Err(Problem::setup(format!("the cluster has no {}.towpath.dev", tending.what))
                    .hint("install the custom resources: kubectl apply -k manifests/crds"));
            }
            Some(Err(error)) => {
                tracing::warn!(%error, what = tending.what, "cannot watch the custom resources; trying again")
            }
        }
        ending.retain(|_, task| !task.is_finished());
    }
    for (id, tended) in tasks {
        tended.stop.cancel();
        ending.insert(id, tended.task);
    }
    let all_ended = futures::future::join_all(ending.into_values());
    if tokio::time::timeout(Duration::from_secs(10), all_ended).await.is_err() {
        tracing::warn!(what = tending.what, "a task did not end in time");
    }
    Ok(())
}

/// How long a task that panicked is left alone.
const PANICKED: Duration = Duration::from_secs(30);

/// Runs a task after the one before it has ended, and again if it panics: one bad input must not stop the others, nor
/// leave its own environment unwatched.
async fn supervise<Running: Future<Output = ()>>(
    mut task: Running,
    before: Option<JoinHandle<()>>,
    again: impl Fn() -> Running,
) {
    if let Some(before) = before {
        let _ = before.await;
    }
    while let Err(panic) = std::panic::AssertUnwindSafe(task).catch_unwind().await {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        tracing::error!(
            panic = said.unwrap_or("something"),
            "a task panicked and begins anew in a while; please report it"
        );
        tokio::time::sleep(PANICKED).await;
        task = again();
    }
}

/// Hands a changed custom resource to its task. Our own writes of its status are no news.
fn hand_over<K: Resource>(sender: &watch::Sender<Arc<K>>, resource: Arc<K>) {
    sender.send_if_modified(|known| {
        let is_news = known.meta().generation != resource.meta().generation
            || known.annotations() != resource.annotations()
            || known.meta().deletion_timestamp.is_some() != resource.meta().deletion_timestamp.is_some();
        if is_news {
            *known = resource;
        }
        is_news
    });
}
