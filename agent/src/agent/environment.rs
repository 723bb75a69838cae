//! The task of one Environment: it wakes for a closed list of reasons, runs a pass, and writes the status.

mod rollback;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towpath_core::candidate;
use towpath_core::decide::Decision;
use towpath_core::environment;
use towpath_core::fault::Problem;
use towpath_core::lane::LaneRule;
use towpath_core::ledger::LedgerName;
use towpath_core::names::{EnvironmentName, annotation};
use towpath_core::revision::CommitId;
use towpath_core::status::{self, EnvironmentStatus, Notice, NoticeKind, Outcome, Report, State};

use super::kept::Kept;
use super::{Desk, Id, Shared, Sight, Slot, kin};
use crate::blocking::blocking;
use crate::cluster::{Severity, Wakes};
use crate::ledger::mark_place;
use crate::repo::{Settled, View};
use crate::resources::Environment;
use crate::sync::{self, Memory, Request, Wanted};

/// How long changes of health are gathered before they are looked at.
const HEALTH_GATHERED: Duration = Duration::from_millis(150);
/// How often a rollout under way is looked at although nothing woke us: its pods send no events here.
const ROLLOUT_LOOK: Duration = Duration::from_secs(10);
/// How often everything is looked at although nothing woke us.
const FULL_LOOK: Duration = Duration::from_secs(600);
/// How long the first look at a repository may take before its absence is said.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Notices of one pass that become Events.
const MAX_NOTICES: usize = 20;
/// How long a request waits for a fresh look at the repository.
const FRESH_LOOK: Duration = Duration::from_secs(60);

/// How long the first sync waits for the ledger that it is counted on from.
const LEDGER_WAIT: Duration = Duration::from_secs(5);
/// How soon a pass is repeated that asked for another look at the ledgers.
const LOOKED_AGAIN: Duration = Duration::from_secs(3);

/// Runs until the Environment is gone or the agent stops.
pub(super) async fn run(shared: Arc<Shared>, mut resource: watch::Receiver<Arc<Environment>>, stop: CancellationToken) {
    let first = resource.borrow().clone();
    let id: Id = (first.namespace().unwrap_or_default(), first.name_any());
    let mut task = Task {
        shared: shared.clone(),
        status: Kept::found(first.status.as_ref()),
        id: id.clone(),
        memory: Memory::default(),
        resolved: None,
        last_request: None,
        told: None,
        seen: None,
        looked_for: None,
        settled: Arc::default(),
        is_unanswered: false,
        noted_for: None,
        pushes: rollback::Pushes::default(),
        tried: None,
        hurried_at: None,
        alerts: rollback::Asked::default(),
    };
    let mut slot: Option<Arc<Slot>> = None;
    // What Environments are to each other is known when all of them are.
    let mut board = shared.board.environments.changes();
    tokio::select! {
        _ = board.wait_for(|(is_listed, _)| *is_listed) => {}
        () = stop.cancelled() => {}
    }
    let mut recoveries = shared.cluster.recoveries();
    while !stop.is_cancelled() {
        recoveries.borrow_and_update();
        let now = resource.borrow_and_update().clone();
        if now.meta().deletion_timestamp.is_some() {
            let looks = Box::pin(async {
                let _reins = shared.reins(&id, &now).await;
                task.part(&now).await
            });
            let pause = tokio::select! {
                pause = looks => pause,
                () = stop.cancelled() => break,
            };
            tokio::select! {
                changed = resource.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
            continue;
        }
        let (decision, again, view, wakes, waits_for) = match task.prepare(&now, &mut slot) {
            Err(problems) => {
                let report = blocked(&now, &task.status, problems);
                tokio::select! {
                    () = Box::pin(task.write(&now, &report, None)) => {}
                    () = stop.cancelled() => break,
                }
                (Decision::WaitForChange, None, None, None, BTreeSet::new())
            }
            Ok((environment, slot)) => {
                Box::pin(task.keep_finalizer(&now, environment.deletion_policy)).await;
                let wakes = shared.cluster.live().wakes(&environment.name);
                let mut view = slot.sight.subscribe();
                // A pass is large, and few run at a time; a task is there for each environment.
                let report = tokio::select! {
                    report = Box::pin(task.pass(&now, &environment, &slot, &mut view, &resource)) => report,
                    () = stop.cancelled() => break,
                };
                tokio::select! {
                    () = Box::pin(task.write(&now, &report, Some(&slot.desk))) => {}
                    () = stop.cancelled() => break,
                }
                let waits_for = environment.waits_for(&shared.settings.cluster_name);
                (report.decision, report.leftovers.again, Some(view), Some(wakes), waits_for)
            }
        };
        let pause = task.pause(decision, again);
        let is_troubled = matches!(decision, Decision::Retry { .. }) || !task.status.is_written();
        tokio::select! {
            changed = resource.changed() => if changed.is_err() { break },
            () = news(view, task.seen.take(), &waits_for) => {}
            () = drift(&wakes) => {}
            () = health(&wakes) => tokio::time::sleep(HEALTH_GATHERED).await,
            // Whoever waits for an API server that was away need not wait longer.
            Ok(()) = recoveries.changed(), if is_troubled => {}
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => break,
        }
    }
    if let Some(slot) = &slot {
        slot.leave(&id);
    }
    if let Ok(name) = id.1.parse::<EnvironmentName>() {
        if let Some(slot) = &slot {
            slot.desk.forget(&name);
        }
        shared.claims.forget(&name);
        shared.cluster.live().forget(&name);
    }
    shared.metrics.forget(&id.1);
    shared.give_name_back(&id);
}

/// The repository shows something else than before that means something to an environment that waits for these ledgers.
async fn news(view: Option<watch::Receiver<Sight>>, seen: Option<Arc<View>>, waits_for: &BTreeSet<LedgerName>) {
    let Some(mut view) = view else { return std::future::pending().await };
    while view.changed().await.is_ok() {
        match (&*view.borrow_and_update(), &seen) {
            (Sight::View(now), Some(seen)) if now.says_the_same_to(waits_for, seen) => {}
            _ => return,
        }
    }
}

async fn drift(wakes: &Option<Wakes>) {
    match wakes {
        Some(wakes) => wakes.moved.notified().await,
        None => std::future::pending().await,
    }
}

async fn health(wakes: &Option<Wakes>) {
    match wakes {
        Some(wakes) => wakes.health.notified().await,
        None => std::future::pending().await,
    }
}

/// What the ledger was told: where all of it is the same there is nothing new.
#[derive(PartialEq)]
struct Told {
    /// By which of the ledger's beginnings.
    epoch: u64,
    /// The number of the last sync.
    last: u64,
    /// The last sync after which it is known how the environment came to be, and since when.
    felt: Option<(u64, Timestamp)>,
    /// The place of the ledger that syncs are counted on from.
    place: Option<String>,
}

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) id: Id,
    pub(super) status: Kept<EnvironmentStatus>,
    memory: Memory,
    /// The resource as it was resolved last.
    resolved: Option<environment::Environment>,
    last_request: Option<String>,
    /// What the ledger was told last.
    told: Option<Told>,
    /// What the last pass saw of the repository.
    seen: Option<Arc<View>>,
    /// The lane that a look was asked for because it was not there.
    looked_for: Option<LaneRule>,
    /// What was found out of changes that were rolled back.
    settled: Arc<Settled>,
    /// Whether somebody waits for an answer to a request for a rollback.
    is_unanswered: bool,
    /// What ran when it was last looked through for what was landed again.
    noted_for: Option<CommitId>,
    /// What came of pushes of the rollback that is under way.
    pushes: rollback::Pushes,
    /// How often it was tried to go back without a person.
    tried: Option<rollback::Tried>,
    /// When a pass was last begun at once for it.
    hurried_at: Option<Instant>,
    /// Alerts that fire because of the release.
    alerts: rollback::Asked,
}

/// How soon a pass comes at the earliest for the sake of something that is tried again.
const SOONEST: Duration = Duration::from_millis(500);

impl Task {
    /// Resolves the resource, takes its name, and joins the slot of its repository.
    fn prepare(
        &mut self,
        resource: &Environment,
        joined: &mut Option<Arc<Slot>>,
    ) -> Result<(environment::Environment, Arc<Slot>), Vec<Problem>> {
        let environment = self.resolved(resource)?;
        self.shared.take_name(&self.id).map_err(|problem| vec![problem])?;
        let slot = self.shared.slots.of(&(environment.repository_home.clone(), environment.repository.clone()));
        if let Some(earlier) = joined.take().filter(|earlier| !Arc::ptr_eq(earlier, &slot)) {
            earlier.leave(&self.id);
        }
        slot.follow(&self.id, &environment.lane);
        let rollback = self.status.rollback.as_ref();
        let needed = [
            self.status.running.as_ref().map(|running| &running.revision),
            rollback.and_then(|rollback| rollback.goes_to.as_ref()),
        ];
        let needed = needed.into_iter().flatten().filter_map(|text| Some(sync::revision_of(text)?.commit));
        slot.runs(&self.id, needed.collect());
        *joined = Some(slot.clone());
        Ok((environment, slot))
    }

    /// The resource with every default filled in: anew only when it has changed, for its expressions take time to read.
    fn resolved(&mut self, resource: &Environment) -> Result<environment::Environment, Vec<Problem>> {
        let is_same = |known: &environment::Environment| {
            resource.uid().as_ref() == Some(&known.uid) && resource.metadata.generation == Some(known.generation)
        };
        if let Some(known) = self.resolved.as_ref().filter(|known| is_same(known)) {
            return Ok(known.clone());
        }
        let environment = resource.resolve().map_err(|problems| problems.into_vec())?;
        self.resolved = Some(environment.clone());
        Ok(environment)
    }

    async fn pass(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        slot: &Arc<Slot>,
        view: &mut watch::Receiver<Sight>,
        changes: &watch::Receiver<Arc<Environment>>,
    ) -> Report {
        let request = request(resource, &self.status);
        if let Some(request) = &request
            && self.last_request.as_ref() != Some(&request.id)
        {
            // Who asks for a sync means what git says now, not what it said at the last poll.
            slot.look(self.shared.settings.scaled(FRESH_LOOK)).await;
            self.last_request = Some(request.id.clone());
        }
        // After a start the repository is looked at in a moment; until then there is nothing to say.
        let _ = tokio::time::timeout(FIRST_LOOK, view.wait_for(|sight| !matches!(sight, Sight::Nothing))).await;
        let is_lacking = |view: &View| candidate::find(&environment.lane, &view.heads, &view.branches).is_err();
        let is_lacking = matches!(&*view.borrow(), Sight::View(view) if is_lacking(view));
        if is_lacking && self.looked_for.as_ref() != Some(&environment.lane) {
            // Only branches that somebody follows are here, and the last look may have been before we did.
            slot.look(self.shared.settings.scaled(FRESH_LOOK)).await;
            self.looked_for = Some(environment.lane.clone());
        }
        let sight = view.borrow_and_update().clone();
        let seen = match sight {
            Sight::View(seen) if seen.is_for(&environment.home, &environment.repository_home) => seen,
            Sight::View(_) => {
                let environment::Environment { home, repository_home, repository, .. } = environment;
                let refused = format!("Repository {repository_home}/{repository} is not for namespace {home}");
                let hint = format!("add {home} to spec.allowedFrom of the Repository");
                return blocked(resource, &self.status, vec![Problem::setup(refused).hint(hint)]);
            }
            Sight::Trouble(problem) => return blocked(resource, &self.status, vec![problem]),
            Sight::Nothing => {
                let missing =
                    format!("there is no Repository {}/{} yet", environment.repository_home, environment.repository);
                let problem = Problem::passing(missing).hint("create it, or correct spec.repository");
                return blocked(resource, &self.status, vec![problem]);
            }
        };
        let seen = Box::pin(self.roll_back(resource, environment, slot, seen)).await;
        view.borrow_and_update();
        let cluster = &self.shared.settings.cluster_name;
        slot.desk.gated(&environment.name, environment.waits_for(cluster));
        if let Some(remembered) = &self.status.ledger {
            slot.desk.remember(&environment.name, remembered);
        }
        if self.status.syncs == 0 || !environment.after.is_empty() {
            // Syncs are counted on from what the ledger knows, if it can be read soon.
            slot.desk.ready(self.shared.settings.scaled(LEDGER_WAIT)).await;
        }
        let seen = match &*view.borrow_and_update() {
            Sight::View(newer) if Arc::ptr_eq(&newer.mirror, &seen.mirror) => newer.clone(),
            _ => seen,
        };
        self.seen = Some(seen.clone());
        let standing = sync::Standing::of(&self.id.1, &self.status, self.settled.clone());
        let as_of = slot.desk.as_of().unwrap_or_else(Timestamp::now);
        let wanted = move |view: &View, environment: &environment::Environment, cluster: &str| {
            sync::wanted(view, environment, (&standing, cluster), as_of)
        };
        let mut at_start = {
            let (seen, environment, cluster) = (seen.clone(), environment.clone(), cluster.clone());
            let wanted = wanted.clone();
            blocking(move || wanted(&seen, &environment, &cluster)).await
        };
        if let Ok(Wanted { look_at: Some(at), .. }) = &mut at_start
            && *at <= Timestamp::now()
        {
            // By now it may have passed: that is known when the ledgers were looked at again.
            slot.desk.look_again();
            *at = Timestamp::now() + self.shared.settings.scaled(LOOKED_AGAIN);
        }
        let candidate = |wanted: &Result<Wanted, Problem>| {
            wanted.as_ref().ok().map(|wanted| (wanted.candidate.clone(), wanted.goes_to.clone(), wanted.gives_up))
        };
        let (watched, wanted_at_start) = (view.clone(), candidate(&at_start));
        // Asked before each write: what a view says is found out once.
        let judged: Mutex<Option<(Arc<View>, bool)>> = Mutex::default();
        let overtaken = || {
            let is_other = |view: &Arc<View>| {
                if Arc::ptr_eq(view, &seen) {
                    return false;
                }
                let mut judged = judged.lock().expect("nothing panics while it holds this lock");
                match &*judged {
                    Some((known, is_other)) if Arc::ptr_eq(known, view) => *is_other,
                    _ => {
                        let look = || candidate(&wanted(view, environment, cluster));
                        // Where it waits for others, many commits may be read for it.
                        let is_quick = environment.after.is_empty() && self.status.rolled_back.is_empty();
                        let now = if is_quick { look() } else { tokio::task::block_in_place(look) };
                        let is_other = now != wanted_at_start;
                        *judged = Some((view.clone(), is_other));
                        is_other
                    }
                }
            };
            let moved = matches!(&*watched.borrow(), Sight::View(view) if is_other(view));
            moved || changes.has_changed().unwrap_or(true)
        };
        // First the reins, then the permit: who holds a permit waits for nobody but the API server.
        let _reins = self.shared.reins(&self.id, resource).await;
        if let Some(successor) = kin::successor(&self.shared.board, &self.id) {
            self.memory = Memory::default();
            self.shared.claims.forget(&environment.name);
            return moved(resource, &successor);
        }
        let neighbours = |places: &BTreeSet<Option<&str>>| kin::neighbours(&self.shared.board, &self.id, places);
        let _permit = self.shared.passes.acquire().await.expect("the semaphore is never closed");
        let pass = sync::Pass {
            cluster: &self.shared.cluster,
            cluster_name: &self.shared.settings.cluster_name,
            environment,
            status: &self.status,
            registries: &self.shared.registries,
            view: &seen,
            wanted: &at_start,
            trusted: self.goes_back_in_an_emergency(),
            request: request.as_ref(),
            confirmed: resource.annotations().get(annotation::CONFIRM_PRUNE).map(String::as_str),
            claims: &self.shared.claims,
            own_namespace: self.shared.settings.own_namespace.as_deref(),
            neighbours: &neighbours,
            recorded: slot.desk.recorded(cluster, &environment.name),
            time_scale: self.shared.settings.time_scale.max(1),
            overtaken: &overtaken,
        };
        let mut report = sync::run(&pass, &mut self.memory).await;
        report.warnings.extend(self.alerts.problem.clone());
        report
    }

    /// Folds a report into the status, and writes it if it says something new.
    pub(super) async fn write(&mut self, resource: &Environment, report: &Report, desk: Option<&Desk>) {
        let mut next = status::fold(&self.status, report, Timestamp::now());
        self.tell(resource, report, &next);
        // It goes along with what is written anyway: a record that is somewhat older is good enough to go on from. Where no
        // sync that is remembered is the last of the ledger, it alone says that they are counted on from there.
        let cluster = &self.shared.settings.cluster_name;
        let mark = desk.and_then(|desk| desk.mark(cluster, &self.id.1));
        let recorded = desk.and_then(|desk| desk.recorded(cluster, &self.id.1.parse().ok()?));
        let is_first = mark.is_some()
            && mark_place(mark.as_ref()) != mark_place(self.status.ledger.as_ref())
            && recorded.is_some_and(|recorded| !next.history.iter().any(|sync| recorded.is(sync)));
        if is_first || !self.status.is(&next) {
            next.ledger = mark.or(next.ledger);
            self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
        }
        if let Some(desk) = desk
            && self.status.is_written()
        {
            self.record(desk);
        }
    }

    /// Tells the ledger what the last syncs came to. What is in the status is recorded, also after a restart.
    fn record(&mut self, desk: &Desk) {
        let Ok(name) = self.id.1.parse::<EnvironmentName>() else { return };
        let Some(newest) = self.status.history.first() else { return };
        let felt = self.status.history.iter().find_map(|sync| Some((sync.number, sync.health.as_ref()?.since)));
        let place = mark_place(self.status.ledger.as_ref()).map(str::to_owned);
        let told = Some(Told { epoch: desk.epoch(), last: newest.number, felt, place });
        if !desk.is_on() || self.told == told {
            return;
        }
        let applied = Some(newest).filter(|sync| sync.outcome == Outcome::Applied);
        let content = self.status.content.as_ref().map(|content| content.digest.as_str()).unwrap_or_default();
        let applied = applied.and_then(|sync| self.memory.desired_of(&sync.revision, content));
        desk.tell(&self.shared.settings.cluster_name, &name, &self.status, applied);
        self.told = told;
    }

    /// Events and the log.
    fn tell(&self, resource: &Environment, report: &Report, next: &EnvironmentStatus) {
        let cluster = &self.shared.cluster;
        let name = &self.id.1;
        for sync in &report.ended {
            let counts = format!(
                "{} created, {} configured, {} unchanged, {} pruned, {} failed",
                sync.created, sync.configured, sync.unchanged, sync.pruned, sync.failed
            );
            tracing::info!(environment = name, revision = sync.revision, outcome = ?sync.outcome, took_ms = sync.took_ms, counts, "sync");
            let (severity, reason) = match sync.outcome {
                Outcome::Applied => (Severity::Normal, "Synced"),
                Outcome::Failed => (Severity::Warning, "SyncFailed"),
                Outcome::Overtaken => (Severity::Normal, "SyncOvertaken"),
            };
            let message = sync.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
            self.shared.metrics.sync(name, sync.outcome, Duration::from_millis(sync.took_ms.max(0) as u64));
            cluster.event(resource, severity, reason, &format!("{}: {counts}{message}", sync.revision));
        }
        for (object, what) in &report.drift {
            tracing::info!(environment = name, object, what, "drift");
            self.shared.metrics.drift(name);
            cluster.event(resource, Severity::Normal, "Drift", &format!("{object}: {what}"));
        }
        for (number, notice) in report.notices.iter().enumerate() {
            let Notice { kind, object, message } = notice;
            tracing::info!(environment = name, object, message, "{kind:?}");
            let severity = if kind.is_warning() { Severity::Warning } else { Severity::Normal };
            // A thousand objects may be adopted at once; the rest is in the log and in the sync's record.
            if number < MAX_NOTICES {
                cluster.event(resource, severity, &format!("{kind:?}"), &format!("{object}: {message}"));
            }
            if *kind == NoticeKind::Contended {
                self.shared.metrics.fight(name);
            }
        }
        self.shared.metrics.contended(name, report.contended);
        if next.state == State::Blocked && next.problems != self.status.problems {
            for problem in &next.problems {
                tracing::warn!(environment = name, problem, "blocked");
            }
            cluster.event(resource, Severity::Warning, "Blocked", &next.problems.join("; "));
        } else if next.problems != self.status.problems {
            for problem in &next.problems {
                tracing::info!(environment = name, problem, "trying again");
            }
        }
    }

    /// How long it is at most until the next pass: by the decision, and by a time at which something is tried again.
    fn pause(&mut self, decision: Decision, again: Option<Timestamp>) -> Duration {
        let shared = self.shared.clone();
        let settings = &shared.settings;
        let until = |at: Timestamp| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        let pause = match decision {
            Decision::Settled | Decision::WaitForChange => settings.scaled(FULL_LOOK),
            Decision::TimedOut => settings.scaled(ROLLOUT_LOOK),
            Decision::KeepWatching { until: at } => settings.scaled(ROLLOUT_LOOK).min(until(at)),
            Decision::Retry { at } => settings.scaled(until(at)),
        };
        let pause = again.map_or(pause, |at| pause.min(until(at)));
        let soon = self.memory.look_at().map(|at| at.saturating_duration_since(Instant::now()));
        // What is due may be no business of this pass: an Environment that cannot be resolved does not look.
        let soon = soon.map(|soon| soon.max(settings.scaled(SOONEST)));
        let pause = soon.map_or(pause, |soon| pause.min(soon));
        let pushes = self.status.rollback.as_ref().is_some_and(|rollback| rollback.phase.pushes());
        let hurries = self.resolved.as_ref().is_some_and(|environment| self.is_in_trouble(environment))
            && self.hurried_at.is_none_or(|at| at.elapsed() >= settings.scaled(rollback::AGAIN));
        let pause = if hurries { Duration::ZERO } else { pause };
        self.hurried_at = if hurries { Some(Instant::now()) } else { self.hurried_at };
        let tries = self.resolved.as_ref().and_then(|environment| self.tries_in(environment));
        let pause = tries.filter(|pause| !pause.is_zero()).map_or(pause, |soon| pause.min(soon));
        let alerts = self.resolved.as_ref().and_then(|environment| self.alerts_in(environment));
        let pause = alerts.map_or(pause, |soon| pause.min(soon));
        let pause = if pushes || self.is_unanswered { pause.min(settings.scaled(rollback::AGAIN)) } else { pause };
        self.status.pause(pause, settings).max(Duration::from_millis(20))
    }
}

/// A request that was not handled yet.
fn request(resource: &Environment, status: &EnvironmentStatus) -> Option<Request> {
    let id = resource.annotations().get(annotation::REQUESTED_AT)?;
    let is_handled = status.last_handled_request.as_ref() == Some(id);
    let by = resource.annotations().get(annotation::REQUESTED_BY);
    (!is_handled && !id.is_empty()).then(|| Request { id: id.clone(), by: by.cloned() })
}

/// The report of an Environment whose objects another one has taken over: it does nothing.
fn moved(resource: &Environment, successor: &str) -> Report {
    let said = format!("environment {successor} has taken over everything of this one (spec.movedFrom)");
    Report {
        suspended: true,
        warnings: vec![Problem::setup(said).hint("delete this Environment; its objects stay")],
        decision: Decision::Settled,
        ..blocked(resource, &resource.status.clone().unwrap_or_default(), Vec::new())
    }
}

/// The report of an Environment that cannot even be looked at.
pub(super) fn blocked(resource: &Environment, status: &EnvironmentStatus, problems: Vec<Problem>) -> Report {
    let generation = resource.metadata.generation.unwrap_or_default();
    Report {
        suspended: resource.spec.suspend,
        problems,
        ..Report::of_nothing(generation, status, Decision::WaitForChange)
    }
}
