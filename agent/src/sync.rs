//! One pass over one environment, top to bottom.
//!
//! The rooms decide, the doors act, and this file says in which order:
//!
//! 1. candidate: what may run, by the branches
//! 2. desire: tree → render → policy
//! 3. observe: what is there, by the watches, and by name for what they do not know
//! 4. plan
//! 5. images: where components say so, nothing is moved to that no registry has
//! 6. preflight: a dry run of everything that would change
//! 7. enroll: write down who will be a member
//! 8. apply namespaces and definitions, and dry-run what needs them
//! 9. apply the waves below 0, then the BeforeSync hooks, then the other waves
//! 10. prune, only after everything was applied
//! 11. health, the AfterSync hooks, and the decision
//!
//! A pass never waits for the cluster to become healthy. Where a wave or a hook is not done, the pass ends, and the next
//! one finds by what is applied and healthy where to go on. What a person must mend is in the report, never an early exit
//! that leaves something half said. A revision that cannot be applied leaves the one before it running and mended.

mod apply;
mod autoscale;
mod claims;
mod course;
mod desire;
mod ending;
mod farewell;
mod foresee;
mod gate;
mod handover;
mod health;
mod hooks;
mod images;
mod in_use;
mod members;
mod neighbours;
mod observe;
mod ownership;
mod pins;
mod preflight;
mod prune;
mod replace;
mod report;
mod send;
mod work;

pub use claims::Claims;
pub use course::{revision_of, revision_text};
pub(crate) use desire::is_hash_named;
pub use farewell::{Farewell, Parting, farewell};
pub use foresee::{Foreseen, foresee};
pub use gate::{Standing, Wanted, wanted};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use towpath_core::candidate::Candidate;
use towpath_core::components::Pins;
use towpath_core::course::Phase;
use towpath_core::environment::{DriftMode, Environment};
use towpath_core::fault::Problem;
use towpath_core::fingerprint::Fingerprint;
use towpath_core::inventory::Inventory;
use towpath_core::manifest::ObjectKey;
use towpath_core::names::EnvironmentName;
use towpath_core::plan::{self, Action, Fate, Keep, Known, Observed, Plan, Why};
use towpath_core::policy::{self, Cleared, PolicyCache};
use towpath_core::render::RenderCache;
use towpath_core::status::{EnvironmentStatus, KeptStatus, Leftovers, Notice, Recorded, Report, Unhealthy, WaitStatus};

use self::course::{Course, Journal, Role};
use self::preflight::Rehearsal;
use self::work::Work;
use crate::cluster::{Account, Cluster, Kind, Kinds, Stored, WatchHandle};
use crate::registry::Registries;
use crate::repo::{Parts, View};
use claims::Wants;

/// How long what runs is not mended beside something newer, after the inventory was not as it was read.
const DOUBTED_FOR: Duration = Duration::from_secs(30);
/// Objects that are sent at one time.
const CONCURRENCY: usize = 16;

/// A request for a sync, as the annotations say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The value of `towpath.dev/requestedAt`.
    pub id: String,
    /// The value of `towpath.dev/requestedBy`.
    pub by: Option<String>,
}

/// What a pass is given.
pub struct Pass<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The name that the agent gives its cluster.
    pub cluster_name: &'a str,
    /// The environment.
    pub environment: &'a Environment,
    /// Its status before.
    pub status: &'a EnvironmentStatus,
    /// The registries that images of components are looked up in.
    pub registries: &'a Registries,
    /// What is known of its repository.
    pub view: &'a View,
    /// What it may move to, or why that cannot be said.
    pub wanted: &'a Result<Wanted, Problem>,
    /// Where an emergency goes back to. It ran before, so its images count as there for as long as no registry says that
    /// they are gone.
    pub trusted: Option<Candidate>,
    /// A request that was not handled yet.
    pub request: Option<&'a Request>,
    /// The value of the annotation that confirms deletions.
    pub confirmed: Option<&'a str>,
    /// Who has which object.
    pub claims: &'a Claims,
    /// The namespace that the agent itself runs in, where it is known.
    pub own_namespace: Option<&'a str>,
    /// Other environments of this agent that may have objects in one of these namespaces (`None`: cluster-scoped).
    pub neighbours: &'a (dyn Fn(&BTreeSet<Option<&str>>) -> Vec<Environment> + Send + Sync),
    /// What the ledger knows of the last sync of this environment.
    pub recorded: Option<Recorded>,
    /// Divides the waits of a pass; 1 except in tests.
    pub time_scale: u32,
    /// Whether something newer makes this pass pointless: asked before each write.
    pub overtaken: &'a (dyn Fn() -> bool + Send + Sync),
}

impl Pass<'_> {
    /// Whether an emergency goes back to a revision.
    fn trusts(&self, revision: &Candidate) -> bool {
        self.trusted.as_ref() == Some(revision)
    }

    /// Another environment of this agent that has an object in git, as far as is known now.
    fn wanted_by(&self, key: &ObjectKey) -> Option<EnvironmentName> {
        self.claims.wanted_by(&self.environment.name, self.environment.moved_from.as_ref(), key)
    }
}

/// What is kept between passes to save work. None of it is truth: an empty memory comes to the same end.
#[derive(Default)]
pub struct Memory {
    /// Templates that were rendered before.
    cache: RenderCache,
    /// Objects that were cleared before.
    cleared: PolicyCache,
    /// What was known of components.
    pins: pins::Remembered,
    /// What registries said of their images.
    images: images::Lookups,
    desired: Option<(DesiredKey, Arc<Cleared>)>,
    /// What was refused, by what was known of components then: a library may be there by now.
    refused: Option<(DesiredKey, Weak<Parts>, Vec<Problem>)>,
    known: HashMap<ObjectKey, Known>,
    inventory: Option<Inventory>,
    /// When it was last not as it was read.
    doubted_at: Option<Instant>,
    /// The inventory as it is stored; `None` where that is not known.
    recorded: Option<Stored>,
    /// Drift that was reported, and what was found then.
    reported: BTreeMap<ObjectKey, Option<Fingerprint>>,
    /// Since when the known kinds are doubted: a watch or look-up failed by them.
    kinds_doubtful: Option<Instant>,
    /// Whom the watches belong to.
    account: Option<Account>,
    watches: HashMap<(Kind, Option<String>), Arc<WatchHandle>>,
    explained: health::Explained,
    in_use: in_use::Memory,
    /// What is known of other managers.
    ownership: ownership::Ownership,
    /// Deletions that were refused, and when they are tried again.
    refused_deletions: BTreeMap<ObjectKey, prune::RefusedDeletion>,
    /// Since when deletions have been waiting for other environments to look.
    waits_since: Option<(Instant, BTreeSet<ObjectKey>)>,
    /// Namespaces on their way out.
    ending: BTreeMap<String, ending::Ending>,
    /// Where members may be although there is no inventory.
    lost_in: BTreeSet<members::Place>,
    /// What is in git although it cannot be applied, for others have some of it.
    wanted: Option<BTreeSet<ObjectKey>>,
    /// Whether this pass has told others what is in git.
    has_told: bool,
    /// The content whose dry run nobody refused.
    rehearsed: Option<String>,
    /// The content that was refused after its namespaces and definitions were made, and which those are.
    stands: Option<(String, String)>,
    /// The end of the log of the hook that is under way, and when it was read.
    hook_log: Option<(ObjectKey, Instant, Vec<String>)>,
    failures: u32,
}

impl Memory {
    /// What was applied of a revision, if that is what is kept: the very same content.
    pub fn desired_of(&self, revision: &str, content: &str) -> Option<Arc<Cleared>> {
        let (key, cleared) = self.desired.as_ref()?;
        let is_it = revision_text(&key.candidate) == revision && cleared.content() == content;
        is_it.then(|| cleared.clone())
    }

    /// When another pass is needed although nothing wakes one.
    pub fn look_at(&self) -> Option<Instant> {
        self.ownership.look_at().into_iter().chain(self.images.look_at()).min()
    }

    /// What was refused, and what of the same revision stands all the same.
    fn with_what_stands(&self, desired: &Cleared, mut denied: Vec<Problem>) -> Vec<Problem> {
        let stands = self.stands.as_ref().filter(|(content, _)| content == desired.content());
        if let (Some((_, stands)), Some(first)) = (stands, denied.first()) {
            denied.push(Problem { fault: first.fault, place: None, message: stands.clone(), hint: None });
        }
        denied
    }
}

/// What decides about the desired objects: the same key means the same objects.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DesiredKey {
    candidate: Candidate,
    generation: i64,
    kinds: u64,
    pins: Arc<Pins>,
}

/// How far one revision came in a pass.
enum Attempt {
    /// It was worked on; the report says how it went.
    Done(Box<Progress>),
    /// It cannot be applied, and nothing was touched.
    Untouched(Vec<Problem>),
}

/// What was done for one revision.
#[derive(Default)]
struct Progress {
    created: u32,
    configured: u32,
    unchanged: u32,
    pruned: u32,
    failed: u32,
    /// The places in `Cleared::objects` of what this pass has sent.
    sent: HashSet<usize>,
    overtaken: bool,
    /// Whether everything that is in git is applied, and what left it was dealt with.
    is_applied: bool,
    /// Whether a wave or hook is waited for: what is new is not sent.
    is_held: bool,
    /// Whether something is being deleted that has to be made again before what comes after it.
    is_ending: bool,
    /// The wave or hook that is waited for.
    awaited: Option<WaitStatus>,
    /// When to look again at the latest, for the sake of what is waited for.
    look_by: Option<Timestamp>,
    /// What stands of the sync after this pass.
    course: Option<Course>,
    /// How many of the problems are objects that were refused: they stop no other.
    refused: usize,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    leftovers: Leftovers,
    /// The images of what was worked on, and the components that they are of.
    images: Vec<(String, Option<String>)>,
    drift: Vec<(String, String)>,
    notices: Vec<Notice>,
    /// Objects that somebody fights over.
    contended: u32,
    /// How many of the problems are only waits for something to end.
    waits: usize,
    /// Whether anything was sent for another reason than drift.
    moved: bool,
    /// How many objects there are, and those that are not healthy.
    objects: u32,
    unhealthy: BTreeMap<String, Unhealthy>,
}

impl Progress {
    /// Something must end before the rest can be done.
    fn wait(&mut self, problem: Problem) {
        self.waits += 1;
        self.problems.push(problem);
    }

    /// Whether nothing more is sent in this pass.
    fn is_stopped(&self) -> bool {
        self.overtaken || self.is_ending || self.problems.len() > self.refused
    }

    /// Notes the wave or hook that is waited for; what is waited for first is said.
    fn awaits(&mut self, awaited: WaitStatus) {
        self.awaited.get_or_insert(awaited);
    }

    /// Looks again at this time at the latest.
    fn look_by(&mut self, at: Timestamp) {
        self.look_by = Some(self.look_by.map_or(at, |before| before.min(at)));
    }
}

/// Runs one pass.
pub async fn run(pass: &Pass<'_>, memory: &mut Memory) -> Report {
    let started = Timestamp::now();
    let environment = pass.environment;
    memory.ownership.begin();
    memory.images.begin();
    if environment.suspend {
        memory.watches.clear();
        return report::suspended(pass);
    }

    let mut problems: Vec<Problem> = pass.view.problem.iter().cloned().collect();
    let candidate = match pass.wanted {
        Ok(wanted) => wanted.candidate.clone(),
        Err(problem) => {
            // With the server away nobody knows which branches there are; that is said already.
            if problems.is_empty() {
                problems.push(problem.clone());
            }
            None
        }
    };
    let running = pass.status.running.as_ref().and_then(|running| revision_of(&running.revision));
    let mut journal = Journal { under_way: pass.status.sync.clone(), ended: Vec::new() };
    memory.has_told = false;
    let mut done = None;
    let mut refused = None;
    for (wanted, is_move) in course::revisions(pass, candidate.as_ref(), running.as_ref()) {
        let role = match &refused {
            None => Role::Wanted,
            Some(_) if is_move => Role::UnderWay,
            Some(_) => Role::Fallback,
        };
        // By an old status another revision runs than the one that does.
        let doubted_for = DOUBTED_FOR / pass.time_scale;
        if role == Role::Fallback && memory.doubted_at.is_some_and(|at| at.elapsed() < doubted_for) {
            break;
        }
        match attempt(pass, memory, &wanted, (is_move, role), &mut journal).await {
            Attempt::Done(progress) => {
                done = Some((wanted, is_move, progress));
                break;
            }
            Attempt::Untouched(found) => {
                problems.extend(found);
                let stays = !course::gives_way(&journal, &wanted);
                if is_move {
                    refused.get_or_insert(wanted);
                }
                if stays {
                    break;
                }
            }
        }
    }

    report::report(pass, memory, report::Ended { started, candidate, refused, done, problems, journal }).await
}

/// Says in the log how long each stage of a pass took.
struct Stages<'a> {
    environment: &'a EnvironmentName,
    since: Instant,
}

impl Stages<'_> {
    fn done(&mut self, stage: &str) {
        let took_us = self.since.elapsed().as_micros() as u64;
        tracing::debug!(environment = %self.environment, stage, took_us);
        self.since = Instant::now();
    }
}

/// Works on one revision.
async fn attempt(
    pass: &Pass<'_>,
    memory: &mut Memory,
    wanted: &Candidate,
    (is_move, role): (bool, Role),
    journal: &mut Journal,
) -> Attempt {
    let untouched = |problem: Problem| Attempt::Untouched(vec![problem]);
    let mut stages = Stages { environment: &pass.environment.name, since: Instant::now() };
    let account = match Account::new(&pass.environment.home, &pass.environment.account) {
        Ok(account) => {
            if memory.account.as_ref() != Some(&account) {
                memory.watches.clear();
                memory.account = Some(account.clone());
            }
            pass.cluster.act_as(&account)
        }
        Err(problem) => return untouched(problem),
    };
    let mut kinds = match pass.cluster.kinds(memory.kinds_doubtful.take()).await {
        Ok(kinds) => kinds,
        Err(problem) => return untouched(problem),
    };
    let found = desire::desired(pass, memory, (wanted, is_move), &account, &mut kinds).await;
    if let Err(problem) = members::load(pass, memory).await {
        return untouched(problem);
    }
    tell_others(pass, memory, wanted, found.as_ref().ok().map(|(desired, _)| desired));
    let (desired, held_back) = match found {
        Ok(found) => found,
        Err(problems) => return Attempt::Untouched(problems),
    };
    stages.done("desire");
    ending::look(pass, memory, &desired).await;
    if let Err(problem) = health::rules(pass, &account, &kinds).await {
        return untouched(problem);
    }
    let observed = match observe::observe(pass, memory, &account, &desired, &kinds).await {
        Ok(observed) => observed,
        Err(problem) => {
            // It may have failed because the cluster serves something else by now.
            memory.kinds_doubtful = Some(Instant::now());
            let mut problems = vec![problem];
            ending::learn(pass, memory, &desired, &mut problems).await;
            return Attempt::Untouched(problems);
        }
    };

    stages.done("observe");
    autoscale::take_back(pass, memory, &account, &desired, &observed, &kinds).await;
    let mut plan = plan::plan(&plan::Facts {
        environment: pass.environment,
        commit: wanted.commit,
        desired: &desired,
        observed: &observed,
        known: &memory.known,
        inventory: memory.inventory.as_ref().expect("it was loaded above"),
        generated: &is_hash_named,
        confirmed: pass.confirmed,
        own_namespace: pass.own_namespace,
        wanted_by: &|key| pass.wanted_by(key),
    });
    let mut course = course::take_up(pass, wanted, (is_move, role), &desired, Timestamp::now()).await;
    members::find_again(memory, &plan, &observed, &kinds);
    ownership::prepare(pass, memory, &mut plan);
    let has_new_settings = pass.status.observed_generation != Some(pass.environment.generation);
    let is_new = is_move || has_new_settings || course.is_change;
    let unproven = match is_new {
        true => Vec::new(),
        false => ownership::prove(pass, memory, &account, &desired, &observed, &kinds, &mut plan).await,
    };
    stages.done("plan");
    let mut refused: Vec<Problem> = plan.refusals().cloned().collect();
    refused.dedup();
    if is_move && !refused.is_empty() {
        return Attempt::Untouched(refused);
    }
    if is_move && !course.has_begun {
        let mut missing = images::missing(pass, memory, &account, &kinds, &desired).await;
        missing.retain(|problem| !pass.trusts(wanted) || images::is_gone(problem));
        if !missing.is_empty() {
            return Attempt::Untouched(missing);
        }
    }
    let work = Work { pass, account: &account, desired: &desired, observed: &observed, plan: &plan };
    let stopped = work.hooks(&kinds).stopped(&course, Phase::BeforeSync);
    if !stopped.is_empty() {
        return Attempt::Untouched(stopped);
    }
    let jobs = if course.is_change { work.hooks(&kinds).jobs(&course, Phase::BeforeSync) } else { Vec::new() };
    let jobs: Vec<_> = jobs.into_iter().filter(|job| !observed.hooks.contains_key(&job.key)).collect();
    let is_rehearsed = course.is_change && memory.rehearsed.as_deref() == Some(desired.content());
    let rehearsal = Rehearsal::new(pass, &desired, &plan, &jobs, is_rehearsed);
    let mut denied = rehearsal.first(&account, &kinds).await;
    ending::learn(pass, memory, &desired, &mut denied).await;
    if !denied.is_empty() {
        return Attempt::Untouched(memory.with_what_stands(&desired, denied));
    }

    stages.done("preflight");
    let mut progress = Progress { problems: refused, warnings: desired.warnings().to_vec(), ..Progress::default() };
    progress.problems.extend(unproven);
    // For a move it is no more than what a registry did not say.
    progress.problems.extend(held_back.into_iter().filter(|_| !is_move));
    progress.refused = progress.problems.len();
    progress.failed = progress.refused as u32;
    progress.moved = is_move || plan.writes().any(|step| matches!(step.action, Action::Configure(Why::Changed)));
    if let Err(problem) = members::enroll(pass, memory, &desired, &plan).await {
        return untouched(problem);
    }
    let mut denied = work.ground(&rehearsal, &course, memory, &mut kinds, &mut progress).await;
    ending::learn(pass, memory, &desired, &mut denied).await;
    if !denied.is_empty() {
        memory.stands = Some((desired.content().to_owned(), rehearsal.stands()));
        return Attempt::Untouched(memory.with_what_stands(&desired, denied));
    }
    if role != Role::Fallback {
        // A stuck hook of an older revision holds nothing up, once this one has passed all of its dry run.
        work.hooks(&kinds).end_others(&mut course, &mut progress).await;
        journal.turn_to(&mut course);
    }
    memory.stands.take_if(|(content, _)| content == desired.content());
    if !progress.is_stopped() {
        memory.rehearsed = course.is_change.then(|| desired.content().to_owned());
    }
    work.waves(&mut course, memory, &mut kinds, &mut progress).await;
    if pass.environment.drift == DriftMode::Correct || is_new {
        handover::mark(&work, &kinds, &mut progress).await;
    }
    ownership::conclude(pass, memory, &desired, &plan, &mut progress);
    ending::learn(pass, memory, &desired, &mut progress.problems).await;
    stages.done("apply");
    let stopped = work.hooks(&kinds).stopped(&course, Phase::BeforeSync);
    if !stopped.is_empty() {
        // What runs goes on, and is mended; what the hook was for is not begun.
        journal.stopped(course, &progress);
        let unrecorded = members::record(pass, memory).await.err();
        return Attempt::Untouched(stopped.into_iter().chain(unrecorded).collect());
    }
    if !progress.is_held {
        prune::prune(&work, memory, &kinds, &wanted.commit.short(), &mut progress).await;
    }
    if let Err(problem) = members::record(pass, memory).await {
        progress.problems.push(problem);
    }
    stages.done("prune");
    progress.is_applied = !progress.is_held && !progress.overtaken && progress.problems.is_empty();
    health::health(pass, memory, &account, &desired, &kinds, &mut progress).await;
    stages.done("health");
    work.after(&mut course, memory, &kinds, &mut progress).await;
    stages.done("hooks");
    summarize(&plan, &observed, memory, &mut progress);
    progress.course = Some(course);
    progress.images = images::seen(&desired);
    Attempt::Done(Box::new(progress))
}

/// Says what is in git here, so that other environments know what they may delete, and wakes those that waited for it.
fn tell_others(pass: &Pass<'_>, memory: &mut Memory, wanted: &Candidate, desired: Option<&Arc<Cleared>>) {
    let wants = match (desired, memory.wanted.take()) {
        (Some(desired), _) => Wants::Cleared(desired.clone()),
        (None, Some(keys)) => Wants::Keys(keys),
        // Nothing is known of what is in git.
        (None, None) => return,
    };
    let (environment, inventory) = (pass.environment, memory.inventory.as_ref());
    let set = policy::apply_set(environment);
    let is_first = !std::mem::replace(&mut memory.has_told, true);
    for waiting in pass.claims.looked(&environment.name, set, wanted, wants, is_first, inventory) {
        pass.cluster.live().wakes(&waiting).moved.notify_one();
    }
}

/// What the plan itself has to say.
fn summarize(plan: &Plan, observed: &Observed, memory: &mut Memory, progress: &mut Progress) {
    progress.unchanged = plan.steps.iter().filter(|step| step.action == Action::Leave).count() as u32;
    let leftovers = &mut progress.leftovers;
    for (key, fate) in &plan.removals {
        if let Fate::Keep(reason) = fate {
            let since = match reason {
                Keep::Terminating { since, .. } => Some(*since),
                // It is listed with the orphans.
                Keep::Unproven(_) => continue,
                _ => None,
            };
            leftovers.kept.push(KeptStatus { since, ..KeptStatus::new(key, reason) });
        }
    }
    leftovers.orphans = plan.orphans.iter().map(|(key, why)| KeptStatus::new(key, why)).collect();
    if let Some(confirmation) = &plan.confirmation {
        leftovers.confirmation = Some(confirmation.value.clone());
        leftovers.to_confirm = confirmation.objects.iter().map(ToString::to_string).collect();
        if confirmation.is_other_confirmed {
            let said = "what was confirmed is another list of deletions, or another commit: it confirms nothing";
            progress.warnings.push(Problem::setup(said).hint("look at the list and confirm it with towpath confirm"));
        }
    }
    leftovers.kinds = memory.inventory.as_ref().map(members::kinds_of).unwrap_or_default();
    // Drift that is only reported is told once for each state that it is found in.
    let mut reported = BTreeMap::new();
    for step in plan.steps.iter().filter(|step| step.action == Action::Report) {
        let found = observed.ours.get(&step.key).and_then(|seen| seen.fingerprint);
        if memory.reported.get(&step.key) != Some(&found) {
            progress.drift.push((step.key.to_string(), "differs from git; drift is only reported here".to_owned()));
        }
        reported.insert(step.key.clone(), found);
    }
    memory.reported = reported;
}

/// The kind of a member or desired object, in the version it was written in or else in any that is served.
fn kind_of<'a>(kinds: &'a Kinds, api_version: &str, key: &ObjectKey) -> Option<&'a Kind> {
    kinds.get(api_version, &key.kind).or_else(|| kinds.any_version(&key.group, &key.kind))
}
