//! The task of one Repository: it looks at the server's branches, fetches what environments follow, and publishes what
//! it sees.

mod components;
mod keeping;
mod settling;
mod stewarding;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use rand::RngExt;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use towpath_core::fault::{Fault, Problem};
use towpath_core::lane::{BranchNames, Heads, LaneRule, newest_release};
use towpath_core::names::annotation;
use towpath_core::revision::CommitId;
use towpath_core::status::Condition;

use self::components::Components;
use self::keeping::Keeping;
use self::settling::Settling;
use self::stewarding::Stewarding;
use super::kept::Kept;
use super::open::Open;
use super::{Id, Shared, Sight, Slot};
use crate::blocking::blocking;
use crate::cluster::Severity;
use crate::repo::watch::watch_local;
use crate::repo::{self, Mirror, Remote, View};
use crate::resources::{BranchStatus, Repository, RepositoryStatus, ResolvedRepository};

/// Alarms that are remembered.
const MAX_ALARMS: usize = 20;
/// The longest pause between looks at a server that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs until the Repository is gone or the agent stops.
pub(super) async fn run(shared: Arc<Shared>, mut resource: watch::Receiver<Arc<Repository>>, stop: CancellationToken) {
    let first = resource.borrow().clone();
    let id: Id = (first.namespace().unwrap_or_default(), first.name_any());
    let slot = shared.slots.of(&id);
    let local_change = Arc::new(Notify::new());
    let mut task = Task {
        status: Kept::found(first.status.as_ref()),
        seen: Seen::after(first.status.as_ref()),
        shared: shared.clone(),
        slot: slot.clone(),
        id,
        open: None,
        problem: None,
        components: Components::default(),
        stewarding: Stewarding::default(),
        settling: Arc::default(),
        ledger: None,
        ledger_problem: None,
        failures: 0,
        local_change: local_change.clone(),
    };
    let settling = task.settling.clone();
    let looking = stop.child_token();
    let _looking = looking.clone().drop_guard();
    tokio::spawn(settling.clone().run(shared.clone(), slot.clone(), task.id.clone(), looking));
    loop {
        let now = resource.borrow_and_update().clone();
        let pause = tokio::select! {
            pause = task.look(&now) => pause,
            () = stop.cancelled() => break,
        };
        let look_at = tokio::time::Instant::now() + pause;
        let goes_on = loop {
            tokio::select! {
                changed = resource.changed() => break changed.is_ok(),
                () = slot.poke.notified() => break true,
                () = local_change.notified() => break true,
                () = tokio::time::sleep_until(look_at) => break true,
                () = stop.cancelled() => break false,
                () = slot.desk.news.notified() => task.write(&now, task.problem.clone()).await,
                () = settling.news.notified() => task.write(&now, task.problem.clone()).await,
                () = slot.seen_components.notified() => break true,
            }
        };
        if !goes_on {
            break;
        }
    }
    task.end_ledger();
    slot.sight.send_replace(Sight::Nothing);
}

/// What was seen of the branches so far.
#[derive(Clone, Default)]
struct Seen {
    heads: Heads,
    /// Tags `vX.Y`.
    tags: Arc<BTreeMap<String, CommitId>>,
    deleted: BTreeSet<String>,
    alarms: Vec<String>,
}

impl Seen {
    /// What the status remembers: a branch that was deleted while the agent was away is noticed all the same.
    fn after(status: Option<&RepositoryStatus>) -> Seen {
        let mut seen = Seen::default();
        let Some(status) = status else { return seen };
        seen.alarms = status.alarms.clone();
        for branch in &status.branches {
            if let Ok(commit) = branch.commit.parse() {
                seen.heads.insert(branch.name.clone(), commit);
                if branch.deleted {
                    seen.deleted.insert(branch.name.clone());
                }
            }
        }
        seen
    }
}

/// The mirror of the deploy repository, and by which address and Secret it was opened.
struct Opened {
    url: String,
    secret: Option<String>,
    open: Open,
}

struct Task {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    id: Id,
    status: Kept<RepositoryStatus>,
    seen: Seen,
    open: Option<Opened>,
    /// What was wrong at the last look.
    problem: Option<Problem>,
    components: Components,
    stewarding: Stewarding,
    settling: Arc<Settling>,
    ledger: Option<Keeping>,
    /// Why no ledger can be kept although one is wanted.
    ledger_problem: Option<Problem>,
    failures: u32,
    local_change: Arc<Notify>,
}

impl Task {
    /// One look. Gives the time until the next one.
    async fn look(&mut self, resource: &Repository) -> Duration {
        self.slot.looks.send_modify(|(begun, _)| *begun += 1);
        let settings = &self.shared.settings;
        let mut interval = settings.scaled(Duration::from_secs(60));
        let result = match resource.resolve() {
            Err(problems) => Err(problems.into_first()),
            Ok(resolved) => {
                interval = settings.scaled(resolved.interval);
                let mut result = self.fetch(&resolved).await;
                // The Secret is read again when it matters: credentials are rotated more rarely than branches move.
                let was_refused = matches!(&result, Err(problem) if problem.fault == Fault::Setup);
                let is_old = self.open.as_ref().is_some_and(|opened| opened.open.is_old());
                if was_refused || is_old {
                    let has_others = self.renew(&resolved).await.unwrap_or(false);
                    if was_refused && has_others {
                        result = self.fetch(&resolved).await;
                    }
                }
                self.keep_ledger(&resolved).await;
                let is_asked = self.is_asked(resource);
                self.look_at_components(&resolved, is_asked).await;
                if result.is_ok() {
                    self.steward(resource, &resolved).await;
                }
                self.publish(&resolved, result.as_ref().err());
                result
            }
        };
        if let Err(problem) = &result {
            self.decline(resource, problem);
        }
        self.failures = if result.is_err() { self.failures + 1 } else { 0 };
        self.problem = result.err();
        self.write(resource, self.problem.clone()).await;
        let begun = self.slot.looks.borrow().0;
        self.slot.looks.send_modify(|(_, over)| *over = begun);
        // Ten per cent of jitter, so that many agents do not ask one server in step.
        let pause = if self.failures > 0 {
            let back_off = towpath_core::decide::back_off(self.failures).min(LONGEST_PAUSE);
            self.shared.settings.scaled(back_off).min(interval)
        } else {
            interval
        };
        let pause = self.status.pause(pause, &self.shared.settings).mul_f64(rand::rng().random_range(0.9..1.1));
        self.stewarding.look_in.map_or(pause, |due| pause.min(due))
    }

    /// Reads the branches, and fetches those that are followed or were before: all that is shown together was there at one
    /// moment. Right after a start only some Environments have said which lanes they follow.
    async fn fetch(&mut self, resolved: &ResolvedRepository) -> Result<(), Problem> {
        let mirror = self.mirror(resolved).await?;
        let look = {
            let mirror = mirror.clone();
            blocking(move || mirror.heads_and_tags()).await?
        };
        let heads = look.heads;
        let mut lanes = self.slot.lanes(|namespace| is_for(resolved, namespace));
        lanes.extend(resolved.bumps.iter().filter(|_| resolved.steward).map(|rule| rule.lane.clone()));
        let followed = followed(&heads, &lanes, &self.seen.heads, &resolved.branches);
        let missing = followed
            .iter()
            .filter(|(branch, commit)| self.seen.heads.get(*branch) != Some(commit) || !mirror.contains(**commit))
            .map(|(branch, commit)| (branch.clone(), *commit))
            .collect::<Vec<_>>();
        if !missing.is_empty() {
            let moved = blocking(move || mirror.fetch(&missing)).await?;
            for moved in moved.into_iter().filter(|moved| moved.rewritten) {
                let from = moved.from.map(|from| from.to_string()).unwrap_or_default();
                self.alarm(format!("branch {} was rewritten: {from} is no ancestor of {}", moved.branch, moved.to));
            }
        }

        // A branch that is gone keeps its last state. Nothing falls back to an older one.
        let known: Vec<String> = self.seen.heads.keys().cloned().collect();
        for branch in known {
            if !heads.contains_key(&branch) && self.seen.deleted.insert(branch.clone()) {
                let commit = self.seen.heads[&branch];
                self.alarm(format!("branch {branch} was deleted; its last state {commit} is kept"));
            } else if heads.contains_key(&branch) && self.seen.deleted.remove(&branch) {
                self.alarm(format!("branch {branch} is back"));
            }
        }
        self.seen.heads.extend(followed);
        if *self.seen.tags != look.tags {
            self.seen.tags = Arc::new(look.tags);
        }
        Ok(())
    }

    /// The mirror, opened again where the address or the name of the Secret changed.
    async fn mirror(&mut self, resolved: &ResolvedRepository) -> Result<Arc<Mirror>, Problem> {
        if let Some(opened) = &self.open
            && (&opened.url, &opened.secret) == (&resolved.url, &resolved.secret)
        {
            return Ok(opened.open.mirror.clone());
        }
        let credentials = self.shared.credentials(&resolved.home, resolved.secret.as_deref()).await?;
        if let Some(opened) = self.open.as_mut().filter(|opened| opened.url == resolved.url) {
            // Only the Secret is another one: nobody need open the folder again.
            opened.open.renew(credentials).await?;
            opened.secret = resolved.secret.clone();
            return Ok(opened.open.mirror.clone());
        }
        // The ledgers of the earlier address hold its mirror.
        self.end_ledger();
        let remote: Remote = resolved.url.parse()?;
        let folder = self.folder(&resolved.url);
        // Only one mirror may own a folder.
        self.open = None;
        let watch = remote.folder().and_then(|path| {
            let changed = self.local_change.clone();
            watch_local(path, move || changed.notify_one())
                .inspect_err(|problem| tracing::info!(%problem, "the local repository is only polled"))
                .ok()
        });
        let open = Open::new(&self.shared, (&folder, true), remote, credentials, watch).await?;
        let mirror = open.mirror.clone();
        self.open = Some(Opened { url: resolved.url.clone(), secret: resolved.secret.clone(), open });
        Ok(mirror)
    }

    /// Reads the Secret again, after credentials were refused or a while has passed. Gives whether it holds others now.
    async fn renew(&mut self, resolved: &ResolvedRepository) -> Result<bool, Problem> {
        if resolved.secret.is_none() {
            return Ok(false);
        }
        let credentials = self.shared.credentials(&resolved.home, resolved.secret.as_deref()).await?;
        let Some(opened) = &mut self.open else { return Ok(false) };
        let has_others = opened.open.renew(credentials).await?;
        if has_others {
            tracing::info!(repository = self.id.1, "the credentials changed");
        }
        Ok(has_others)
    }

    /// Repositories with the same address share no folder: their credentials may differ.
    fn folder(&self, url: &str) -> PathBuf {
        use sha2::Digest;
        let hash = hex::encode(&sha2::Sha256::digest(format!("{}/{} {url}", self.id.0, self.id.1))[..8]);
        self.shared.settings.cache.join(format!("{}-{hash}.git", self.id.1))
    }

    fn publish(&self, resolved: &ResolvedRepository, problem: Option<&Problem>) {
        let Some(Opened { open, .. }) = &self.open else {
            // Never seen anything: there is no view, but environments should hear why.
            if let Some(problem) = problem {
                self.slot.sight.send_replace(Sight::Trouble(problem.clone()));
            }
            return;
        };
        let view = View {
            heads: self.seen.heads.clone(),
            deleted: self.seen.deleted.clone(),
            branches: resolved.branches.clone(),
            allowed_from: resolved.allowed_from.clone(),
            problem: problem.cloned().map(|problem| Problem {
                message: format!("repository {}: {}", resolved.name, problem.message),
                ..problem
            }),
            gates: self.slot.gates(),
            mirror: open.mirror.clone(),
            parts: self.components.parts.clone(),
            tags: self.seen.tags.clone(),
        };
        self.slot.sight.send_if_modified(|known| {
            let is_news = !matches!(known, Sight::View(known) if known.says_the_same(&view));
            if is_news {
                *known = Sight::View(Arc::new(view));
            }
            is_news
        });
    }

    fn alarm(&mut self, alarm: String) {
        tracing::warn!(repository = self.id.1, alarm, "alarm");
        self.shared.metrics.alarm(&self.id.1);
        self.seen
            .alarms
            .insert(0, format!("{}: {alarm}", Timestamp::now().round(jiff::Unit::Second).unwrap_or_default()));
        self.seen.alarms.truncate(MAX_ALARMS);
    }

    async fn write(&mut self, resource: &Repository, problem: Option<Problem>) {
        for alarm in self.slot.desk.take_alarms() {
            self.alarm(alarm);
        }
        let now = Timestamp::now();
        let generation = resource.metadata.generation;
        let (value, reason, message) = match &problem {
            None => ("True", "Fetched", format!("{} branches are followed", self.seen.heads.len())),
            Some(problem) if problem.fault == Fault::Passing => ("False", "FetchFailed", problem.to_string()),
            Some(problem) => ("False", "SetupFailed", problem.to_string()),
        };
        let condition = |type_: &str, status: &str| {
            Condition::after(&self.status.conditions, now, (type_, status), reason, message.clone())
                .of_generation(generation)
        };
        let mut conditions = vec![condition("Ready", value)];
        match &problem {
            Some(problem) if problem.fault == Fault::Passing => conditions.push(condition("Reconciling", "True")),
            Some(_) => conditions.push(condition("Stalled", "True")),
            None => {}
        }
        conditions.push(self.recorded(resource, now));
        conditions.extend(self.components_read(resource, now));
        conditions.extend(self.bumped(resource, now));
        conditions.extend(self.reverts_settled(resource, now));
        let next = RepositoryStatus {
            observed_generation: generation,
            last_handled_request: resource.annotations().get(annotation::REQUESTED_AT).cloned(),
            branches: self
                .seen
                .heads
                .iter()
                .map(|(name, commit)| BranchStatus {
                    name: name.clone(),
                    commit: commit.to_string(),
                    deleted: self.seen.deleted.contains(name),
                })
                .collect(),
            alarms: self.seen.alarms.clone(),
            ledgers: self.ledgers(),
            bumps: self.bumps(),
            answer: self.answered(),
            conditions,
        };
        if self.status.is(&next) {
            return;
        }
        if next.alarms.first() != self.status.alarms.first()
            && let Some(alarm) = next.alarms.first()
        {
            self.shared.cluster.event(resource, Severity::Warning, "BranchAlarm", alarm);
        }
        self.status.write::<Repository>(&self.shared.cluster, &self.id, next).await;
    }
}

fn is_for(resolved: &ResolvedRepository, namespace: &str) -> bool {
    repo::is_allowed(&resolved.allowed_from, namespace, &resolved.home)
}

/// The branches that some lane follows or that are known already, out of those that the server has.
fn followed(heads: &Heads, lanes: &[LaneRule], known: &Heads, branches: &BranchNames) -> BTreeMap<String, CommitId> {
    let mut names: BTreeSet<&str> = lanes.iter().filter_map(|lane| lane.branch(heads, branches)).collect();
    // An exact commit must be on one of the branches that every repository has.
    if lanes.iter().any(|lane| matches!(lane, LaneRule::Commit(_))) {
        let usual = [LaneRule::Develop, LaneRule::Master];
        names.extend(usual.iter().filter_map(|lane| lane.branch(heads, branches)));
        names.extend(newest_release(heads.keys()).map(|(name, _)| name));
    }
    names.extend(heads.keys().filter(|name| known.contains_key(*name)).map(String::as_str));
    names.into_iter().map(|name| (name.to_owned(), heads[name])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_is_shown_as_it_is_at_the_same_moment_although_nobody_follows_it_yet() {
        let commit = |digit: &str| digit.repeat(40).parse().unwrap();
        let heads: Heads = [("master", "b"), ("develop", "b"), ("feature", "b")]
            .map(|(name, digit)| (name.to_owned(), commit(digit)))
            .into();
        let known: Heads =
            [("develop", "a"), ("gone", "a")].map(|(name, digit)| (name.to_owned(), commit(digit))).into();
        let followed = followed(&heads, &[LaneRule::Master], &known, &BranchNames::default());
        assert_eq!(followed.keys().collect::<Vec<_>>(), ["develop", "master"]);
        assert_eq!(followed["develop"], heads["develop"]);
    }
}
