//! What others do while the agent does not see it: events that come late or never, a server that tells of the past, an
//! agent that starts on such a server. Nothing is deleted or overwritten by mistake, and in the end all is as git says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use support::audit::{self, Mark};
use support::faults::{On, Proxy};
use support::world::World;
use towpath_core::status::EnvironmentStatus;

use crate::manifests::{config_map, deployment};
use crate::settled::{inventory, runs_on, uid};

/// How long the agent works without seeing what happens: long enough for several passes, waits being divided by ten.
const BLIND: Duration = Duration::from_secs(3);
/// An agent that wrote nothing for so long has come to rest.
const RESTED: Duration = Duration::from_millis(1500);
/// How long it may take until it has.
const PATIENCE: Duration = Duration::from_secs(60);
/// Plans that are run at one time.
const ACTIVE: usize = 4;

/// What happens unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A member is deleted and made anew by hand, with our labels.
    Renewed,
    /// What git drops is deleted, and somebody makes an object of that name.
    LeaverRenewed,
    /// The same, with our labels copied.
    LeaverRenewedWithLabels,
    /// A Deployment is scaled.
    Scaled,
    /// Members lose their label; git drops one of them.
    Unlabelled,
    /// Somebody else's object is given our labels.
    Labelled,
    /// What git drops is annotated to be kept.
    Kept,
    /// Somebody makes an object that git adds.
    Appears,
    /// The Environment is set to another path, and back.
    SettingsBack,
    /// The branch moves on, and is forced back.
    BranchBack,
}

const EVENTS: [Event; 10] = [
    Event::Renewed,
    Event::LeaverRenewed,
    Event::LeaverRenewedWithLabels,
    Event::Scaled,
    Event::Unlabelled,
    Event::Labelled,
    Event::Kept,
    Event::Appears,
    Event::SettingsBack,
    Event::BranchBack,
];

/// How it is not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The events of the watches come late.
    Late,
    /// They never come: the watches end, and cannot be taken up.
    Never,
    /// Everything that is read is as it was.
    Stale,
    /// The same from the start of an agent that was dead when it happened.
    StaleStart,
    /// The same, but what is read by name is true: a server whose cache lags.
    CacheStart,
    /// The agent saw it and did its work; then it is started again on a server that tells of the time before.
    Back,
}

const WAYS: [Way; 6] = [Way::Late, Way::Never, Way::Stale, Way::StaleStart, Way::CacheStart, Way::Back];

/// One plan.
struct Unseen {
    event: Event,
    way: Way,
    world: World,
    start: Mark,
    /// An object that is not ours to change: its name and UID.
    theirs: Option<(&'static str, String)>,
}

impl Unseen {
    async fn prepare(test: &str, event: Event, way: Way) -> Unseen {
        let name = format!("{test}-{event:?}-{way:?}").to_lowercase();
        let mut world = World::new(&name).await;
        world.through_proxy().await;
        let start = world.mark();
        let mut files: Vec<(String, String)> =
            ["a", "b", "leaves"].iter().map(|name| (format!("prod/{name}.yaml"), config_map(name, "1"))).collect();
        files.push(("prod/web.yaml".into(), deployment("web", "web:1")));
        files.push(("other/other.yaml".into(), config_map("other", "1")));
        let world = runs_on(world, &files).await;
        Unseen { event, way, world, start, theirs: None }
    }

    /// The commit that changes one, adds one and removes one.
    fn commit(&self) {
        let repo = &self.world.repo;
        repo.branch("next", "master");
        repo.delete("next", "prod/leaves.yaml");
        let files = [("prod/b.yaml", config_map("b", "2")), ("prod/joins.yaml", config_map("joins", "2"))];
        repo.commit("next", "second", &files.each_ref().map(|(path, text)| (*path, text.as_str())));
        repo.branch("master", "next");
    }

    async fn run(mut self, proxy: &Proxy) {
        let before = proxy.version().await;
        match self.way {
            Way::Late | Way::Never | Way::Stale => {
                proxy.lag(if self.way == Way::Stale { reads() } else { watches() }, before);
                self.happen().await;
                self.commit();
                tokio::time::sleep(BLIND).await;
                if self.way == Way::Never { proxy.skip().await } else { proxy.catch_up() }
            }
            Way::StaleStart | Way::CacheStart => {
                self.world.kill_agent();
                self.happen().await;
                self.commit();
                proxy.lag(if self.way == Way::StaleStart { reads() } else { cache() }, before);
                self.world.start_agent();
                tokio::time::sleep(BLIND).await;
                proxy.catch_up();
            }
            Way::Back => {
                // At the first commit what the second one drops is a member, and an agent that sees it mends it.
                let is_of_leaver =
                    matches!(self.event, Event::LeaverRenewed | Event::LeaverRenewedWithLabels | Event::Unlabelled);
                if is_of_leaver {
                    self.world.kill_agent();
                }
                self.happen().await;
                self.commit();
                if is_of_leaver {
                    self.world.start_agent();
                }
                self.settles().await;
                self.world.kill_agent();
                proxy.lag(reads(), before);
                self.world.start_agent();
                tokio::time::sleep(BLIND).await;
                proxy.catch_up();
            }
        }
        self.settles().await;
        self.becomes_well().await;
    }

    /// What nobody tells the agent of.
    async fn happen(&mut self) {
        let world = &mut self.world;
        let namespace = world.namespace.clone();
        let ours = world.get("v1", "ConfigMap", "a").await.unwrap()["metadata"]["labels"].clone();
        let theirs = |name: &str, labels: &Value| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace, "labels": labels}, "data": {"key": "theirs"},
            })
        };
        let mut is_theirs = None;
        match self.event {
            Event::Renewed => {
                world.delete("v1", "ConfigMap", "a").await;
                world.apply(theirs("a", &ours)).await;
            }
            Event::LeaverRenewed | Event::LeaverRenewedWithLabels => {
                world.delete("v1", "ConfigMap", "leaves").await;
                let labels = if self.event == Event::LeaverRenewed { json!({}) } else { ours };
                world.apply(theirs("leaves", &labels)).await;
                is_theirs = Some("leaves");
            }
            Event::Scaled => world.patch("apps/v1", "Deployment", "web", json!({"spec": {"replicas": 5}})).await,
            Event::Unlabelled => {
                for name in ["a", "leaves"] {
                    let none = json!({"metadata": {"labels": {"towpath.dev/environment": null}}});
                    world.patch("v1", "ConfigMap", name, none).await;
                }
                is_theirs = Some("leaves");
            }
            Event::Labelled => {
                world.apply(theirs("stranger", &json!({}))).await;
                world.patch("v1", "ConfigMap", "stranger", json!({"metadata": {"labels": ours}})).await;
                is_theirs = Some("stranger");
            }
            Event::Kept => {
                let never = json!({"metadata": {"annotations": {"towpath.dev/prune": "Never"}}});
                world.patch("v1", "ConfigMap", "leaves", never).await;
                is_theirs = Some("leaves");
            }
            Event::Appears => {
                world.apply(theirs("joins", &json!({}))).await;
                is_theirs = Some("joins");
            }
            Event::SettingsBack => {
                for path in ["other", "prod"] {
                    let patch = json!({"spec": {"path": path}});
                    world.patch("towpath.dev/v1alpha1", "Environment", &namespace, patch).await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
            Event::BranchBack => {
                let good = world.repo.head("master");
                let is_running = !matches!(self.way, Way::StaleStart | Way::CacheStart);
                if is_running {
                    world.agent().signal(libc::SIGSTOP);
                }
                for name in ["a", "b"] {
                    world.repo.delete("master", &format!("prod/{name}.yaml"));
                }
                world.repo.force("master", good);
                if is_running {
                    world.agent().signal(libc::SIGCONT);
                }
            }
        }
        if let Some(name) = is_theirs {
            self.theirs = Some((name, uid(&world.get("v1", "ConfigMap", name).await.unwrap())));
        }
    }

    /// Waits until the agent is done with the second commit, as far as it can.
    async fn settles(&self) {
        let name = &self.world.namespace;
        if self.event == Event::Appears {
            let is_told = |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("joins"));
            self.world.status_where(name, "told of what appeared", is_told).await;
        } else {
            self.world.runs(name, "master").await;
        }
    }

    async fn comes_to_rest(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mark = self.world.mark();
            tokio::time::sleep(RESTED).await;
            let mut writes = self.world.requests_since(mark);
            writes.retain(|request| {
                let is_told_again = self.event == Event::Appears && request.resource.contains("status");
                request.is_write() && !["leases", "events"].contains(&request.resource.as_str()) && !is_told_again
            });
            if writes.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{writes:#?}\n{}", self.world.agent_log());
        }
    }

    /// # Panics
    /// When anything was deleted or overwritten by mistake, or all does not become well.
    async fn becomes_well(mut self) {
        let what = format!("{:?}, {:?}", self.event, self.way);
        if self.event == Event::Appears {
            self.theirs_stands(&what).await;
            // When they have taken it away, git comes to its right.
            self.world.delete("v1", "ConfigMap", "joins").await;
            self.theirs = None;
            let name = self.world.namespace.clone();
            self.world.request_sync(&name, "they took it away").await;
            self.world.runs(&name, "master").await;
        }
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = self.is_as_git_says().await {
            assert!(Instant::now() < deadline, "{what}: {why}\n{}", self.world.agent_log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.comes_to_rest().await;
        let why = self.is_as_git_says().await;
        assert_eq!(why, Ok(()), "{what}, at rest\n{}", self.world.agent_log());
        self.theirs_stands(&what).await;
        self.nothing_was_deleted_but(&["leaves", "other"], &what);
    }

    /// # Panics
    /// When what is not ours to change is gone or changed.
    async fn theirs_stands(&self, what: &str) {
        let Some((name, known)) = &self.theirs else { return };
        let found = self.world.get("v1", "ConfigMap", name).await.unwrap_or_default();
        let log = self.world.agent_log();
        assert_eq!(&uid(&found), known, "{what}: {name} was deleted\n{log}");
        let value = if self.is_made_by_others() { "theirs" } else { "1" };
        assert_eq!(found["data"]["key"], value, "{what}: {name} was written\n{log}");
    }

    /// Compares what is there, what carries our label, and the inventory.
    async fn is_as_git_says(&self) -> Result<(), String> {
        let mut values = BTreeMap::new();
        let mut labelled = BTreeSet::new();
        let theirs = self.theirs.as_ref().map(|(name, _)| *name);
        for map in self.world.api("v1", "ConfigMap").await.list(&ListParams::default()).await.unwrap() {
            let map = serde_json::to_value(map).unwrap();
            let name = map["metadata"]["name"].as_str().unwrap().to_owned();
            let is_labelled = map["metadata"]["labels"]["towpath.dev/environment"] == self.world.namespace.as_str();
            if theirs == Some(name.as_str()) {
                let status = self.world.status(&self.world.namespace).await;
                let mut listed = status.leftovers.orphans.iter().chain(&status.leftovers.kept);
                if is_labelled && !listed.any(|left| left.object.ends_with(&format!("/{name}"))) {
                    return Err(format!("{name} carries our label and nobody is told: {:?}", status.leftovers));
                }
                continue;
            }
            if is_labelled {
                labelled.insert((name.clone(), uid(&map)));
            }
            if let Some(value) = map["data"]["key"].as_str() {
                values.insert(name, value.to_owned());
            }
        }
        let wanted = [("a", "1"), ("b", "2"), ("joins", "2")];
        if !values.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(wanted) {
            return Err(format!("{values:?}"));
        }
        let web = self.world.get("apps/v1", "Deployment", "web").await.unwrap();
        if web["spec"]["replicas"] != 2 {
            return Err(format!("{} replicas", web["spec"]["replicas"]));
        }
        let lines = inventory(&self.world).await;
        let members = lines.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let members = members.filter(|fields| fields[1] == "ConfigMap" && theirs != Some(fields[3]));
        let members: BTreeSet<_> = members.map(|fields| (fields[3].to_owned(), fields[4].to_owned())).collect();
        if members != labelled {
            return Err(format!("the inventory has {members:?}, and labelled are {labelled:?}"));
        }
        Ok(())
    }

    fn is_made_by_others(&self) -> bool {
        !matches!(self.event, Event::Unlabelled | Event::Kept)
    }

    /// # Panics
    /// When the agent deleted something else, or one object twice.
    fn nothing_was_deleted_but(&self, names: &[&str], what: &str) {
        let requests = audit::since(&self.world.plane.audit_log(), self.start).expect("the audit log can be read");
        let mut deleted: BTreeMap<String, Vec<audit::Request>> = BTreeMap::new();
        for request in requests {
            let is_its = request.namespace == self.world.namespace && request.impersonated.is_some();
            if is_its && request.verb.starts_with("delete") && request.code < 300 {
                deleted.entry(request.name.clone()).or_default().push(request);
            }
        }
        let is_right = |(name, times): (&String, &Vec<_>)| times.len() == 1 && names.contains(&name.as_str());
        assert!(deleted.iter().all(is_right), "{what}: {deleted:#?}\n{}", self.world.agent_log());
    }
}

/// Everything that is read but the Lease, whose answers nobody else takes for the state of the cluster.
fn reads() -> On {
    On::those(|asked| asked.resource != "leases")
}

/// What an API server answers from its cache, at worst.
fn cache() -> On {
    On::those(|asked| matches!(asked.verb, "list" | "watch") && asked.resource != "leases")
}

fn watches() -> On {
    On::those(|asked| asked.verb == "watch")
}

/// All tests share one cluster, so each has a name of its own for its worlds.
async fn run_all(test: &'static str, plans: impl IntoIterator<Item = (Event, Way)>) {
    let runs = plans.into_iter().map(|(event, way)| async move {
        // A task of its own, so that a panic ends this plan only.
        let run = tokio::spawn(async move {
            let plan = Unseen::prepare(test, event, way).await;
            let proxy = plan.world.proxy();
            plan.run(&proxy).await;
        });
        run.await.is_err().then_some((event, way))
    });
    let failed: Vec<_> =
        futures::stream::iter(runs).buffer_unordered(ACTIVE).filter_map(std::future::ready).collect().await;
    assert!(failed.is_empty(), "failed (see above): {failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_unseen_is_undone_or_respected_and_never_destroyed() {
    run_all(
        "unseen",
        [
            (Event::Renewed, Way::Back),
            (Event::LeaverRenewed, Way::Stale),
            (Event::Kept, Way::Late),
            (Event::SettingsBack, Way::Never),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn whatever_happens_in_whatever_way_it_is_not_seen_nothing_is_destroyed() {
    let plans = EVENTS.iter().flat_map(|event| WAYS.iter().map(|way| (*event, *way)));
    let only = std::env::var("TOWPATH_PLANS").unwrap_or_default();
    run_all("whatever", plans.filter(|plan| format!("{plan:?}").contains(&only))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_was_made_anew_survives_an_old_view_of_its_end() {
    const NAME: &str = "reborn";
    const ENVIRONMENT: (&str, &str) = ("towpath.dev/v1alpha1", "Environment");
    let mut world = World::new(NAME).await;
    let proxy = world.through_proxy().await;
    let files = ["a", "b"].map(|name| (format!("prod/{name}.yaml"), config_map(name, "1")));
    let mut world = runs_on(world, &files).await;
    world.patch(ENVIRONMENT.0, ENVIRONMENT.1, NAME, json!({"spec": {"deletionPolicy": "Prune"}})).await;
    let has_finalizer = |found: &Value| !found["metadata"]["finalizers"].is_null();
    world.object_where(ENVIRONMENT.0, ENVIRONMENT.1, NAME, "held", has_finalizer).await;
    world.kill_agent();
    world.delete(ENVIRONMENT.0, ENVIRONMENT.1, NAME).await;
    let at_its_end = proxy.version().await;
    world.start_agent();
    world.object_where(ENVIRONMENT.0, ENVIRONMENT.1, NAME, "gone", Value::is_null).await;
    world.environment(NAME, json!({"lane": "master", "path": "prod", "deletionPolicy": "Prune"})).await;
    world.runs(NAME, "master").await;
    let mut known = Vec::new();
    for name in ["a", "b"] {
        known.push(uid(&world.get("v1", "ConfigMap", name).await.unwrap()));
    }
    world.kill_agent();
    let mark = world.mark();
    proxy.lag(reads(), at_its_end);
    world.start_agent();
    tokio::time::sleep(BLIND).await;
    proxy.catch_up();
    world.runs(NAME, "master").await;
    let requests = world.requests_since(mark);
    let deleted: Vec<_> =
        requests.iter().filter(|request| request.verb.starts_with("delete") && request.code < 300).collect();
    assert!(deleted.is_empty(), "{deleted:#?}\n{}", world.agent_log());
    for (name, known) in ["a", "b"].iter().zip(&known) {
        assert_eq!(uid(&world.get("v1", "ConfigMap", name).await.unwrap()), *known);
    }
    let environment = world.get(ENVIRONMENT.0, ENVIRONMENT.1, NAME).await.unwrap();
    assert!(environment["metadata"]["deletionTimestamp"].is_null() && has_finalizer(&environment), "{environment:#}");
    let deletions = requests.iter().filter(|request| request.verb == "delete").count();
    assert!(deletions > 0, "the old view was not believed: this test shows nothing");
}
