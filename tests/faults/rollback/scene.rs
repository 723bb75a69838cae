//! Two environments with releases and an agent at rest, behind proxies, and what must be so when one was rolled back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use support::audit::{self, Mark};
use support::faults::{Asked, Proxy};
use support::git_server::{GitServer, Purpose};
use towpath_core::health::Health;
use towpath_core::revision::CommitId;
use towpath_core::status::{EnvironmentStatus, RollbackPhase, State, Trigger};

use crate::faults::release::{Point, records, told};
use crate::manifests::{config_map, image};
use crate::rollback::Shop;

/// How long a rollback may take, whatever happens to it.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long nothing is written before a rollback begins, and after it is over.
const RESTED: Duration = Duration::from_secs(1);
/// The request of a person.
const REQUEST: &str = "the-request";

/// Who rolls back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A person takes a ticket back that production runs. Master has a later one that only staging runs.
    Person,
    /// Staging, by itself, for its image does not start.
    Nobody,
}

/// Where a blow falls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A write to the API server.
    Cluster(Point),
    /// A push, from 1. The first is that of the reverts; the others are of the ledger.
    Push(u32),
}

/// Staging, which follows master by itself, and production, which does not, with releases and an agent at rest.
pub struct Scene {
    who: Who,
    pub shop: Shop,
    /// Before the API server.
    pub cluster: Arc<Proxy>,
    /// Before the git server.
    pub git: Proxy,
    pub server: GitServer,
    restarts: u32,
    start: Mark,
    first: CommitId,
    bad: CommitId,
}

impl Scene {
    pub async fn new(name: &str, who: Who) -> Scene {
        let mut shop = Shop::new(name).await;
        let start = shop.world.mark();
        let cluster = shop.world.through_proxy().await;
        let server = GitServer::start(shop.world.folder());
        let git = Proxy::before(&server.url("")).await.unwrap();
        let production = format!("{name}-prod");
        shop.world.namespace_for_deployer(&production).await;
        let rules = if who == Who::Nobody { json!({"automatic": ["Degraded"]}) } else { json!({}) };
        let of_staging = json!({"timeout": "10s", "rollback": rules});
        let of_production =
            json!({"sync": "Manual", "namespace": production, "allow": {"namespaces": [production.as_str()]}});
        let url = format!("http://{}/deploy.git", git.address());
        let repository = json!({"url": url, "interval": "2s", "ledger": {}});
        shop.begin_with(repository, &[(name, of_staging), (&production, of_production)]).await;
        let first = shop.world.repo.head("master");
        let mut scene = Scene { who, shop, cluster, git, server, restarts: 0, start, first, bad: first };
        scene.git.agent_is(scene.shop.world.agent().id());
        scene.production_runs(first, "r-1").await;
        if who == Who::Person {
            scene.bad = scene.shop.commit("Bad", "web:2");
            scene.production_runs(scene.bad, "r-2").await;
            let files = [("prod/later.yaml", config_map("later", "untested"))];
            let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
            let later = scene.shop.world.repo.commit("master", "Later", &files);
            scene.shop.ran(name, later).await;
            scene.is_offered(later).await;
        }
        scene.comes_to_rest().await;
        scene
    }

    /// The name of staging, and of its namespace.
    fn staging(&self) -> String {
        self.shop.world.namespace.clone()
    }

    /// The name of production, and of its namespace.
    fn production(&self) -> String {
        format!("{}-prod", self.shop.world.namespace)
    }

    async fn is_offered(&self, commit: CommitId) {
        let is_it = |status: &EnvironmentStatus| {
            status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&commit.to_string()))
        };
        self.shop.world.status_where(&self.production(), &format!("offered {commit}"), is_it).await;
    }

    async fn production_runs(&self, commit: CommitId, request: &str) {
        self.shop.ran(&self.staging(), commit).await;
        self.is_offered(commit).await;
        self.shop.world.request_sync(&self.production(), request).await;
        self.shop.ran(&self.production(), commit).await;
    }

    fn requests(&self) -> Vec<Asked> {
        let is_write = |asked: &Asked| asked.is_write() && asked.resource != "leases";
        self.cluster
            .seen()
            .into_iter()
            .chain(self.git.seen())
            .filter(|asked| is_write(asked) && !is_fetch(asked))
            .collect()
    }

    /// Waits until everything is recorded and the agent writes nothing any more.
    async fn comes_to_rest(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.requests().len();
            tokio::time::sleep(RESTED).await;
            // A kill may come as late as this: at the last write of all.
            self.restart_if_killed();
            let missing = self.missing_records().await;
            if self.requests().len() == before && missing.is_empty() {
                return;
            }
            let log = || self.shop.world.agent_log();
            assert!(Instant::now() < deadline, "no rest: {missing:?} {:#?}\n{}", &self.requests()[before..], log());
        }
    }

    /// What of the two ledgers is not as the statuses tell it.
    async fn missing_records(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for name in [self.staging(), self.production()] {
            let told = told(&self.shop.world.status(&name).await);
            let (recorded, is_healthy) = records(&self.shop.world, &format!("refs/towpath/east/{name}/*"));
            assert!(recorded.len() <= told.len(), "{name}: recorded {recorded:#?}, told {told:#?}");
            if recorded != told || !is_healthy {
                missing.push(format!("{name}: told {told:?}, recorded {recorded:?}, healthy: {is_healthy}"));
            }
        }
        missing
    }

    pub fn kills(&self) -> u32 {
        self.cluster.kills() + self.git.kills()
    }

    fn restart_if_killed(&mut self) {
        if self.kills() > self.restarts {
            self.restarts += 1;
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.shop.world.start_agent();
        self.git.agent_is(self.shop.world.agent().id());
    }

    /// Has a preview made, and gives the request that confirms it. By annotations: the command line would hold up a thread
    /// that a proxy needs.
    async fn confirmation(&self) -> Value {
        let ask = |id: &str, confirm: Option<String>| {
            let ask = json!({"id": id, "at": Timestamp::now(), "confirm": confirm, "wish": {}}).to_string();
            json!({"metadata": {"annotations": {"towpath.dev/rollback": ask, "towpath.dev/rollbackBy": "admin"}}})
        };
        let (world, name) = (&self.shop.world, self.production());
        world.patch("towpath.dev/v1alpha1", "Environment", &name, ask("a-preview", None)).await;
        let status = world.status_where(&name, "prepared", |status| status.prepared.is_some()).await;
        ask(REQUEST, status.prepared.unwrap().digest)
    }

    /// Has what begins it happen; `blow` is done just before.
    pub async fn begin(&mut self, blow: impl FnOnce(&Scene)) {
        match self.who {
            Who::Person => {
                let patch = self.confirmation().await;
                self.comes_to_rest().await;
                self.forget();
                blow(self);
                self.shop.world.patch("towpath.dev/v1alpha1", "Environment", &self.production(), patch).await;
            }
            Who::Nobody => {
                self.forget();
                blow(self);
                self.bad = self.shop.commit("Bad", "web:2-crash");
            }
        }
    }

    fn forget(&self) {
        self.cluster.forget();
        self.git.forget();
        self.server.take_requests();
    }

    fn request(&self) -> String {
        match self.who {
            Who::Person => REQUEST.to_owned(),
            Who::Nobody => format!("auto-Degraded-{}", self.bad),
        }
    }

    /// Waits for the end, and starts the agent again when it was killed.
    pub async fn ends(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let of = if self.who == Who::Person { self.production() } else { self.staging() };
        loop {
            self.restart_if_killed();
            let status = self.shop.world.status(&of).await;
            let staging = self.shop.world.status(&self.staging()).await;
            let is_done = status.rollback.as_ref().is_some_and(|rollback| {
                rollback.id == self.request()
                    && rollback.phase == RollbackPhase::Done
                    && rollback
                        .goes_to
                        .as_ref()
                        .is_none_or(|to| status.running.as_ref().is_some_and(|now| now.revision == *to))
            });
            let head = self.shop.world.repo.head("master").to_string();
            let follows = staging.running.as_ref().is_some_and(|running| running.revision.ends_with(&head));
            let is_well = |status: &EnvironmentStatus| status.health == Some(Health::Healthy) && status.sync.is_none();
            if is_done && follows && is_well(&status) && is_well(&staging) {
                break;
            }
            let log = self.shop.world.agent_log();
            assert!(Instant::now() < deadline, "{}: not rolled back: {status:#?}\n{staging:#?}\n{log}", self.staging());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        self.comes_to_rest().await;
    }

    /// What must be so, whatever has happened.
    pub async fn must_be_right(&mut self, what: &str) {
        let log = self.shop.world.agent_log();
        let (staging, production) = (self.staging(), self.production());
        let subjects = match self.who {
            Who::Person => vec!["Revert \"Bad\"", "Later", "Bad", "The first release"],
            Who::Nobody => vec!["Revert \"Bad\"", "Bad", "The first release"],
        };
        assert_eq!(self.shop.subjects(), subjects, "{what}\n{log}");
        assert_eq!(self.shop.git(&["for-each-ref", "--format=%(refname)", "refs/heads"]).trim(), "refs/heads/master");
        let message = self.shop.git(&["log", "-1", "--format=%B", "master"]);
        assert!(message.contains(&format!("This reverts commit {}.", self.bad)), "{what}: {message}");
        self.shop.git(&["fsck", "--strict"]);

        let recorded = self.shop.git(&["log", "--format=%B", "--glob=refs/towpath/*"]);
        let request = format!("Request: {}", self.request());
        assert_eq!(recorded.lines().filter(|line| *line == request).count(), 1, "{what}: {recorded}\n{log}");

        let of_staging = self.shop.world.status(&staging).await;
        let of_production = self.shop.world.status(&production).await;
        let rolled = if self.who == Who::Person { &of_production } else { &of_staging };
        let syncs = rolled.history.iter().filter(|sync| sync.trigger == Trigger::Rollback);
        assert_eq!(syncs.count(), 1, "{what}: {:#?}\n{log}", rolled.history);
        let phase = rolled.rollback.as_ref().map(|rollback| (rollback.phase, rollback.goes_to.clone()));
        assert_eq!(phase, Some((RollbackPhase::Done, None)), "{what}\n{log}");
        assert_eq!((&of_staging.held, &of_production.held), (&None, &None), "{what}\n{log}");
        assert_eq!((&of_staging.prepared, &of_production.prepared), (&None, &None), "{what}\n{log}");
        assert_eq!(of_staging.state, State::Synced, "{what}\n{log}");
        let tried: Vec<String> = if self.who == Who::Nobody { vec![self.bad.to_string()] } else { Vec::new() };
        assert_eq!((&of_staging.tried, &of_production.tried), (&tried, &Vec::new()), "{what}\n{log}");

        // Production runs what it ran before, and ran nothing else meanwhile.
        let running = of_production.running.as_ref().unwrap();
        assert!(running.revision.ends_with(&self.first.to_string()), "{what}: {running:?}\n{log}");
        let web =
            async |namespace: &str| self.shop.world.get_in(namespace, "apps/v1", "Deployment", "web").await.unwrap();
        assert_eq!((image(&web(&staging).await), image(&web(&production).await)), ("web:1", "web:1"), "{what}\n{log}");
        let made = self.made_in(&production);
        let expected = if self.who == Who::Person { 2 } else { 1 };
        assert_eq!(made.get("replicasets"), Some(&expected), "{what}: {made:?}\n{log}");
        assert_eq!(made.get("later"), None, "{what}: {made:?}\n{log}");
        let later = self.shop.world.get_in(&staging, "v1", "ConfigMap", "later").await;
        assert_eq!(later.is_some(), self.who == Who::Person, "{what}");

        let written = self.requests().len();
        tokio::time::sleep(RESTED).await;
        assert_eq!(self.requests()[written..].len(), 0, "{what}: {:#?}\n{log}", &self.requests()[written..]);
        assert!(self.shop.world.agent().ended().is_none(), "the agent ended: {log}");
    }

    /// How often something was made in a namespace since the scene began, by the audit log: ReplicaSets by their kind, for
    /// there is one for each template of a Deployment; the rest by name.
    fn made_in(&self, namespace: &str) -> BTreeMap<String, u32> {
        let mut made = BTreeMap::new();
        let requests = audit::since(&self.shop.world.plane.audit_log(), self.start).expect("the audit log can be read");
        for request in requests.iter().filter(|request| request.namespace == namespace && request.code == 201) {
            let name = if request.resource == "replicasets" { &request.resource } else { &request.name };
            *made.entry(name.clone()).or_default() += 1;
        }
        made
    }

    /// Everything at which a blow can fall, as it was seen.
    pub fn places(&self) -> Vec<Place> {
        let pushes = self.git.seen().iter().filter(|asked| is_push(asked)).count();
        let pushes = (1..=u32::try_from(pushes).unwrap()).map(Place::Push);
        let points = Point::all(&self.cluster, &self.shop.world.namespace).into_iter();
        points.map(Place::Cluster).chain(pushes).collect()
    }

    /// Waits for the first push, which a server that misbehaves has taken, and has it behave from then on.
    pub async fn is_pushed_to(&mut self, is_killed: bool) {
        let deadline = Instant::now() + PATIENCE;
        while self.server.take_requests().iter().all(|request| request.purpose != Purpose::Push) {
            assert!(Instant::now() < deadline, "no push: {}", self.shop.world.agent_log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.server.misbehave(None);
        if is_killed {
            self.shop.world.kill_agent();
            self.restart();
        }
    }
}

pub fn is_push(asked: &Asked) -> bool {
    asked.verb == "create" && asked.path.ends_with("/git-receive-pack")
}

fn is_fetch(asked: &Asked) -> bool {
    asked.path.ends_with("/git-upload-pack")
}
