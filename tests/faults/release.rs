//! A whole release that faults are tried on: two commits that create, change, add and remove, and everything that can
//! be said of its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use support::audit::{self, Mark};
use support::faults::{Action, On, Proxy};
use support::git_server::git;
use support::world::World;
use towpath_core::status::EnvironmentStatus;

use crate::hooks::hook;
use crate::manifests::config_map;
use crate::waves::in_wave;

/// How long one of the two commits may take, whatever happens to it.
const PATIENCE: Duration = Duration::from_secs(90);
/// An agent that wrote nothing for so long has come to rest; on a busy machine a single write takes a second.
const RESTED: Duration = Duration::from_secs(3);
/// A release under way.
pub struct Release {
    pub world: World,
    pub proxy: Arc<Proxy>,
    pub start: Mark,
    restarts: u32,
    is_staged: bool,
    /// What is done to the proxy when an agent that was killed is started again; the first is next.
    pub at_restart: VecDeque<(On, Action)>,
}

/// A write of the agent: which one it is among those to the same object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub verb: &'static str,
    pub resource: String,
    pub name: String,
    /// From 1.
    pub number: u32,
}

impl Point {
    /// The writes that a proxy has seen so far. What differs by the name of the namespace is masked.
    pub fn all(proxy: &Proxy, namespace: &str) -> Vec<Point> {
        let mut counts: BTreeMap<(&str, String, String), u32> = BTreeMap::new();
        let mut points = Vec::new();
        for asked in proxy.seen().into_iter().filter(|asked| asked.is_write() && asked.resource != "leases") {
            let name = masked(&asked.name, namespace);
            let number = counts.entry((asked.verb, asked.resource.clone(), name.clone())).or_default();
            *number += 1;
            points.push(Point { verb: asked.verb, resource: asked.resource, name, number: *number });
        }
        points
    }

    /// The request that it means, in this namespace.
    pub fn on(&self, namespace: &str) -> On {
        let (wanted, namespace) = (self.clone(), namespace.to_owned());
        On::those(move |asked| {
            let name = masked(&asked.name, &namespace);
            asked.is_write() && (asked.verb, &asked.resource, &name) == (wanted.verb, &wanted.resource, &wanted.name)
        })
        .nth(self.number)
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{} #{}", self.verb, self.resource, self.name, self.number)
    }
}

fn deployment(image: &str) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{"name": "web", "image": image}],
                    "volumes": [{"name": "nginx", "configMap": {"name": "web"}}],
                },
            },
        },
    })
    .to_string()
}

impl Release {
    /// A namespace with the first commit in git. No agent runs.
    pub async fn prepare(name: &str) -> Release {
        Release::with_stages(name, false).await
    }

    /// The same with waves and a hook before them.
    pub async fn staged(name: &str) -> Release {
        Release::with_stages(name, true).await
    }

    async fn with_stages(name: &str, is_staged: bool) -> Release {
        let mut world = World::new(name).await;
        let start = world.mark();
        let proxy = world.through_proxy().await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        });
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "leaves"}});
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "m", "image": "migrate:1"}]}}},
        });
        world.repo.commit(
            "master",
            "first",
            &[
                ("towpath.yaml", ""),
                ("config/web/nginx.conf", "listen 8080;\n"),
                ("environments/prod/web.yaml", &deployment("web:1")),
                ("environments/prod/service.yaml", &service.to_string()),
                ("environments/prod/job.yaml", &job.to_string()),
                ("environments/prod/settings.yaml", &config_map("settings", "1")),
                ("environments/prod/leaves.yaml", &config_map("leaves", "1")),
                ("environments/prod/account.yaml", &account.to_string()),
            ],
        );
        if is_staged {
            let hook = [("environments/prod/hook.yaml".to_owned(), hook("prepare", "BeforeSync", "prepare:1"))];
            commit(&world, "stages", &[hook.to_vec(), staged("1")].concat());
        }
        world.own_key("faults").await;
        world.repository_with(json!({"ledger": {}})).await;
        world.environment(name, json!({"lane": "master", "path": "environments/prod"})).await;
        Release { world, proxy, start, restarts: 0, is_staged, at_restart: VecDeque::new() }
    }

    /// Runs both commits to their end. An agent that is killed by a rule of the proxy is started again.
    pub async fn run(&mut self) {
        self.world.start_agent();
        self.settle().await;
        self.second_commit();
        self.settle().await;
    }

    /// The commit that changes one, adds one and removes two.
    pub fn second_commit(&self) {
        let repo = &self.world.repo;
        repo.branch("next", "master");
        repo.delete("next", "environments/prod/leaves.yaml");
        repo.delete("next", "environments/prod/account.yaml");
        repo.commit(
            "next",
            "second",
            &[
                ("config/web/nginx.conf", "listen 8081;\n"),
                ("environments/prod/web.yaml", &deployment("web:2")),
                ("environments/prod/settings.yaml", &config_map("settings", "2")),
                ("environments/prod/joins.yaml", &config_map("joins", "2")),
            ],
        );
        if self.is_staged {
            let files = staged("2");
            repo.commit(
                "next",
                "stages",
                &files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>(),
            );
        }
        repo.branch("master", "next");
    }

    /// Waits until the environment runs the head of the branch and is ready, and starts the agent again when it was
    /// killed.
    pub async fn settle(&mut self) {
        let head = self.world.repo.head("master").to_string();
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.restart_if_killed();
            let status = self.world.status(&self.world.namespace).await;
            let runs = status.running.as_ref().is_some_and(|running| running.revision.ends_with(&head));
            let is_ready =
                |condition: &towpath_core::status::Condition| condition.type_ == "Ready" && condition.status == "True";
            if runs && status.conditions.iter().any(is_ready) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{}: not ready on {head}: {status:#?}\n--- agent:\n{}\n--- requests:\n{}",
                self.world.namespace,
                self.world.agent_log(),
                self.requests()
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until a rule of the proxy has killed the agent. It is not started again.
    pub async fn is_killed(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.proxy.kills() == self.restarts {
            assert!(Instant::now() < deadline, "nobody was killed: {}", self.world.agent_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.restarts += 1;
    }

    fn restart_if_killed(&mut self) {
        if self.proxy.kills() > self.restarts {
            self.restarts += 1;
            if let Some((on, action)) = self.at_restart.pop_front() {
                self.proxy.inject(on, action);
            }
            self.world.start_agent();
        }
    }

    /// What the proxy has seen, for people.
    fn requests(&self) -> String {
        let line = |asked: &support::faults::Asked| {
            format!("{:?} {} {}?{}\n", asked.status, asked.verb, asked.path, asked.query)
        };
        self.proxy.seen().iter().map(line).collect()
    }

    /// Waits until the agent writes nothing any more.
    pub async fn comes_to_rest(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mark = self.world.mark();
            tokio::time::sleep(RESTED).await;
            // A kill may come as late as this: at the last write of all.
            self.restart_if_killed();
            let writes = self.writes_since(mark);
            if writes.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{} does not come to rest: {writes:#?}", self.world.namespace);
        }
    }

    /// Demands that the ledger has exactly one record of each sync that the status tells of, one after the other, and
    /// that the last one says how the environment fares.
    pub async fn is_recorded(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.world.status(&self.world.namespace).await;
            let told = told(&status);
            let (recorded, is_healthy) = records(&self.world, "refs/towpath/*");
            if recorded == told && is_healthy {
                return;
            }
            let is_late = Instant::now() > deadline;
            assert!(!is_late, "recorded {recorded:#?}\n{}", self.world.agent_log());
            assert!(recorded.len() <= told.len(), "recorded {recorded:#?}, told {told:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Demands that the agent writes nothing for a while.
    pub async fn rests(&mut self, watched: Duration) {
        let mark = self.world.mark();
        tokio::time::sleep(watched).await;
        let writes = self.writes_since(mark);
        assert!(writes.is_empty(), "{} writes: {writes:#?}\n{}", self.world.namespace, self.world.agent_log());
        assert!(self.world.agent().ended().is_none(), "the agent ended: {}", self.world.agent_log());
    }

    fn writes_since(&self, mark: Mark) -> Vec<audit::Request> {
        let requests = self.world.requests_since(mark).into_iter();
        requests.filter(|request| request.is_write() && request.resource != "leases").collect()
    }

    /// The writes that the proxy has seen so far.
    pub fn points(&self) -> Vec<Point> {
        Point::all(&self.proxy, &self.world.namespace)
    }

    /// The requests that a point means, in this release.
    pub fn on(&self, point: &Point) -> On {
        point.on(&self.world.namespace)
    }

    /// A text in which nothing differs that differs between two releases by their names.
    pub fn masked(&self, text: &str) -> String {
        masked(text, &self.world.namespace)
    }
}

/// The syncs that a status tells of, the oldest first, as [`records`] has them.
pub fn told(status: &EnvironmentStatus) -> Vec<String> {
    let syncs = status.history.iter().rev();
    syncs.map(|sync| format!("{} {:?} {}", sync.number, sync.outcome, sync.revision)).collect()
}

/// The syncs of one ledger in its own order, and whether what runs is recorded as healthy. `refs` is the pattern of its
/// refs.
pub fn records(world: &World, refs: &str) -> (Vec<String>, bool) {
    const FORMAT: &str =
        "%(trailers:key=Sequence,key=Sync,key=Outcome,key=Revision,key=Of-Sync,key=Health,valueonly,separator=%x20)";
    let output = git(&world.folder())
        .arg("-C")
        .arg(world.repo.path())
        .args(["log", "--reverse", &format!("--glob={refs}"), &format!("--format={FORMAT}")])
        .output()
        .expect("git runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (mut syncs, mut healthy, mut applied) = (Vec::new(), None, None);
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!(fields[0], (number + 1).to_string(), "{text}");
        match fields[2..] {
            [of, health] if health == "Healthy" || health == "Degraded" => {
                healthy = (health == "Healthy").then(|| of.to_owned());
            }
            [revision, outcome] => {
                if outcome == "Applied" {
                    applied = Some(fields[1].to_owned());
                }
                syncs.push(format!("{} {outcome} {revision}", fields[1]));
            }
            _ => panic!("{line}"),
        }
    }
    (syncs, applied.is_some() && healthy == applied)
}

const NAMESPACE: &str = "the-namespace";

/// How the names of the hook's Jobs begin, and how many digits of a run follow.
const RUNS: (&str, usize) = ("prepare-", 10);

/// A text in which nothing differs that differs between two releases by their names.
fn masked(text: &str, namespace: &str) -> String {
    let mut masked = text.replace(namespace, NAMESPACE);
    let runs: BTreeSet<String> = masked
        .match_indices(RUNS.0)
        .filter_map(|(at, stem)| masked.get(at + stem.len()..at + stem.len() + RUNS.1))
        .filter(|run| run.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_owned)
        .collect();
    for run in runs {
        masked = masked.replace(&run, "a-run");
    }
    masked
}

/// The objects of the waves around wave 0, with a value.
fn staged(value: &str) -> Vec<(String, String)> {
    let waves = [("early", -1), ("late", 1), ("last", 2)];
    waves
        .map(|(name, wave)| (format!("environments/prod/{name}.yaml"), in_wave(&config_map(name, value), wave)))
        .to_vec()
}

fn commit(world: &World, message: &str, files: &[(String, String)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", message, &files);
}
