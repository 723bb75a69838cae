//! Two replicas of the agent: one works, the other takes over, and who was stopped writes nothing afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent::{self, Start};
use support::audit::{Mark, Request};
use support::process::Running;
use support::world::World;

use crate::manifests::config_map;

/// Divides the times of the election: 5 s for the lease, 3.3 s to renew it, 0.7 s between looks.
const SCALE: u32 = 3;
const LEASE: Duration = Duration::from_secs(15 / SCALE as u64);
/// Writes that an agent has on their way at a time.
const SENT_AT_ONCE: usize = 16;
/// Within which another replica leads after the leader was killed, on a machine that has other things to do as well.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);

/// A world with two replicas.
struct Replicas {
    world: World,
    running: Vec<(String, Running)>,
}

impl Replicas {
    /// Starts two replicas in the same moment, each as a pod, with the rights of the manifests.
    async fn start(name: &str) -> Replicas {
        let mut world = World::new(name).await;
        world.repo.commit("master", "first", &[("prod/a.yaml", &config_map("a", "1"))]);
        world.repository().await;
        world.environment(name, json!({"lane": "master", "path": "prod"})).await;
        give_rights(&world).await;
        world.start_options().time_scale = SCALE;
        let mut replicas = Replicas { world, running: Vec::new() };
        for pod in ["agent-a", "agent-b"] {
            replicas.pod(pod).await;
        }
        for pod in ["agent-a", "agent-b"] {
            replicas.run(pod);
        }
        replicas
    }

    /// Makes the pod of a replica. Its process runs here.
    async fn pod(&self, name: &str) {
        self.world
            .apply(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": self.world.namespace, "labels": {"app.kubernetes.io/name": "towpath"}},
                "spec": {
                    "serviceAccountName": "towpath-deployer", "automountServiceAccountToken": false,
                    "containers": [{"name": "towpath", "image": "towpath"}],
                },
            }))
            .await;
    }

    fn run(&mut self, pod: &str) {
        let folder = self.world.folder();
        let lease = format!("{}/towpath", self.world.namespace);
        let options = self.world.start_options();
        let start = Start {
            cluster: "test".to_owned(),
            cache: folder.join(format!("cache-{pod}")),
            log: folder.join(format!("{pod}.log")),
            arguments: ["--leader-elect", "--lease", &lease, "--pod", pod].map(str::to_owned).to_vec(),
            ..options.clone()
        };
        self.running.push((pod.to_owned(), agent::start(&start).unwrap()));
    }

    fn process(&mut self, pod: &str) -> &mut Running {
        &mut self.running.iter_mut().find(|(name, _)| name == pod).expect("it was started").1
    }

    fn log(&self, pod: &str) -> String {
        std::fs::read_to_string(self.world.folder().join(format!("{pod}.log"))).unwrap_or_default()
    }

    fn logs(&self) -> String {
        format!("--- agent-a:\n{}\n--- agent-b:\n{}", self.log("agent-a"), self.log("agent-b"))
    }

    async fn lease(&self) -> Value {
        self.world.get("coordination.k8s.io/v1", "Lease", "towpath").await.unwrap_or_default()
    }

    /// The pod of the replica that holds the lease; empty for none.
    async fn holder(&self) -> String {
        let lease = self.lease().await;
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default();
        holder.split('_').next().unwrap_or_default().to_owned()
    }

    /// Waits until one of the replicas, or the one that is named, holds the lease.
    async fn leader(&self, wanted: Option<&str>, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            let holder = self.holder().await;
            if holder.starts_with("agent-") && wanted.is_none_or(|wanted| wanted == holder) {
                return holder;
            }
            assert!(Instant::now() < deadline, "{wanted:?} does not lead: {:#}\n{}", self.lease().await, self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until exactly this pod is labelled as the leader's.
    async fn is_labelled(&self, pod: &str) {
        for name in ["agent-a", "agent-b"] {
            let is_leader = name == pod;
            self.world
                .object_where("v1", "Pod", name, if is_leader { "labelled" } else { "not labelled" }, |object| {
                    object.pointer("/metadata/labels/towpath.dev~1leader").is_some() == is_leader
                })
                .await;
        }
    }

    /// Commits another value and waits until it is there.
    async fn is_applied(&self, value: &str) {
        self.world.repo.commit("master", value, &[("prod/a.yaml", &config_map("a", value))]);
        self.world.object_where("v1", "ConfigMap", "a", "as committed", |object| object["data"]["key"] == value).await;
        self.world.runs(&self.world.namespace, "master").await;
    }

    /// What a replica wrote since a mark, the Lease and its own pod left out.
    fn writes(&self, mark: Mark, pod: &str) -> Vec<Request> {
        let is_its = |request: &Request| request.client.contains(&format!("({pod}_"));
        let is_work = |request: &Request| !["leases", "pods"].contains(&request.resource.as_str());
        let requests = self.world.requests_since(mark).into_iter();
        requests.filter(|request| request.is_write() && is_its(request) && is_work(request)).collect()
    }
}

/// The shipped rights about Lease and pods, in the namespace of the world.
async fn give_rights(world: &World) {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/rbac.yaml");
    let text = std::fs::read_to_string(manifests).unwrap();
    let mut given = 0;
    for mut object in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
        if ["Role", "RoleBinding"].contains(&object["kind"].as_str().unwrap()) {
            object["metadata"]["namespace"] = world.namespace.clone().into();
            world.apply(object).await;
            given += 1;
        }
    }
    assert_eq!(given, 2, "a Role and its binding");
}

fn other(pod: &str) -> &'static str {
    if pod == "agent-a" { "agent-b" } else { "agent-a" }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_that_start_in_one_moment_works_and_the_other_follows_it_when_it_is_killed() {
    let mut replicas = Replicas::start("leader-killed").await;
    let start = Mark::start();
    replicas.world.runs("leader-killed", "master").await;
    let first = replicas.leader(None, TAKEN_OVER_WITHIN).await;
    let second = other(&first);
    replicas.is_labelled(&first).await;
    replicas.is_applied("2").await;
    assert!(!replicas.writes(start, &first).is_empty());
    assert_eq!(replicas.writes(start, second), [], "who stands by writes nothing");

    replicas.process(&first).kill();
    let killed = Instant::now();
    replicas.leader(Some(second), TAKEN_OVER_WITHIN).await;
    println!("took over after {:?}", killed.elapsed());
    assert!(
        killed.elapsed() >= LEASE - Duration::from_secs(2),
        "not before the lease was over: {:?}",
        killed.elapsed()
    );
    replicas.is_labelled(second).await;
    replicas.is_applied("3").await;

    // The one that was killed comes back, and stands by.
    replicas.run(&first);
    let mark = replicas.world.mark();
    replicas.is_applied("4").await;
    tokio::time::sleep(LEASE).await;
    assert_eq!(replicas.holder().await, second);
    assert_eq!(replicas.writes(mark, &first), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_end_gives_the_lease_back_and_the_other_takes_over_at_once() {
    let mut replicas = Replicas::start("leader-ended").await;
    replicas.world.runs("leader-ended", "master").await;
    let first = replicas.leader(None, TAKEN_OVER_WITHIN).await;
    replicas.is_labelled(&first).await;
    replicas.process(&first).signal(libc::SIGTERM);
    let told = Instant::now();
    let exit = loop {
        if let Some(exit) = replicas.process(&first).ended() {
            break exit;
        }
        assert!(told.elapsed() < Duration::from_secs(15), "it does not end\n{}", replicas.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(exit.success(), "{exit}");
    assert!(replicas.log(&first).contains("the lease is given back"), "{}", replicas.log(&first));
    replicas.leader(Some(other(&first)), LEASE).await;
    println!("ended and taken over after {:?}", told.elapsed());
    replicas.is_labelled(other(&first)).await;
    replicas.is_applied("2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_writes_nothing_afterwards() {
    let mut replicas = Replicas::start("leader-stopped").await;
    replicas.world.runs("leader-stopped", "master").await;
    let first = replicas.leader(None, TAKEN_OVER_WITHIN).await;
    let second = other(&first);
    replicas.is_labelled(&first).await;

    // In the middle of a sync of many objects.
    let files: Vec<(String, String)> =
        (0..150).map(|number| (format!("prod/c{number}.yaml"), config_map(&format!("c{number}"), "old"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    replicas.world.repo.commit("master", "many", &files);
    replicas.world.object_where("v1", "ConfigMap", "c0", "there", |object| !object.is_null()).await;
    replicas.process(&first).signal(libc::SIGSTOP);

    replicas.leader(Some(second), TAKEN_OVER_WITHIN).await;
    replicas.is_labelled(second).await;
    let newer: Vec<(&str, String)> =
        files.iter().map(|(path, text)| (*path, text.replace("\"old\"", "\"new\""))).collect();
    let newer: Vec<(&str, &str)> = newer.iter().map(|(path, text)| (*path, text.as_str())).collect();
    replicas.world.repo.commit("master", "newer", &newer);
    replicas.world.runs("leader-stopped", "master").await;

    let mark = replicas.world.mark();
    replicas.process(&first).signal(libc::SIGCONT);
    tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    // What was on its way when it was stopped cannot be called back; the new leader mends what that did.
    let late = replicas.writes(mark, &first);
    assert!(late.len() <= SENT_AT_ONCE, "{late:#?} {}", replicas.log(&first));
    assert!(replicas.log(&first).contains("the lease is lost"), "{}", replicas.log(&first));
    assert_eq!(replicas.holder().await, second);
    for number in 0..150 {
        let is_new = |object: &Value| object["data"]["key"] == "new";
        replicas
            .world
            .object_where("v1", "ConfigMap", &format!("c{number}"), "as the new leader left it", is_new)
            .await;
    }

    // It stands by with open eyes: when the other one goes, it works with what is true then.
    replicas.is_labelled(second).await;
    replicas.process(second).kill();
    replicas.leader(Some(&first), TAKEN_OVER_WITHIN).await;
    replicas.is_applied("3").await;
    replicas.is_labelled(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_deleted_stolen_or_out_of_reach_stops_the_work_and_nobody_crashes() {
    let mut replicas = Replicas::start("leader-lease").await;
    replicas.world.runs("leader-lease", "master").await;
    let first = replicas.leader(None, TAKEN_OVER_WITHIN).await;
    let namespace = replicas.world.namespace.clone();

    // Deleted: who leads makes it again.
    let started = Mark::start();
    replicas.world.plane.kubectl(&["delete", "lease", "towpath", "-n", &namespace]).unwrap();
    replicas.leader(Some(&first), LEASE).await;
    replicas.is_applied("2").await;
    assert_eq!(replicas.writes(started, other(&first)), []);

    // Stolen, by one whose times make no sense: nobody works until it was silent for its time.
    let theft = json!({"spec": {"holderIdentity": "thief", "renewTime": "2099-01-01T00:00:00.000000Z", "leaseDurationSeconds": 4}});
    replicas.world.patch("coordination.k8s.io/v1", "Lease", "towpath", theft).await;
    let stolen = Instant::now();
    let line = "the lease is lost";
    while !replicas.log(&first).contains(line) {
        assert!(stolen.elapsed() < LEASE, "{}", replicas.log(&first));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mark = replicas.world.mark();
    replicas.world.repo.commit("master", "3", &[("prod/a.yaml", &config_map("a", "3"))]);
    while stolen.elapsed() < Duration::from_secs(3) {
        assert_eq!(replicas.holder().await, "thief");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let writes: Vec<Request> = ["agent-a", "agent-b"].iter().flat_map(|pod| replicas.writes(mark, pod)).collect();
    assert_eq!(writes, [], "nobody leads");
    replicas.leader(None, TAKEN_OVER_WITHIN).await;
    replicas.world.object_where("v1", "ConfigMap", "a", "as committed", |object| object["data"]["key"] == "3").await;

    // Out of reach, for both.
    let leader = replicas.leader(None, TAKEN_OVER_WITHIN).await;
    let lost_before = replicas.log(&leader).matches(line).count();
    replicas.world.plane.kubectl(&["delete", "rolebinding", "towpath", "-n", &namespace]).unwrap();
    let taken_away = Instant::now();
    while replicas.log(&leader).matches(line).count() == lost_before {
        assert!(taken_away.elapsed() < LEASE * 2, "{}", replicas.log(&leader));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mark = replicas.world.mark();
    replicas.world.repo.commit("master", "4", &[("prod/a.yaml", &config_map("a", "4"))]);
    tokio::time::sleep(LEASE * 2).await;
    let writes: Vec<Request> = ["agent-a", "agent-b"].iter().flat_map(|pod| replicas.writes(mark, pod)).collect();
    assert_eq!(writes, [], "nobody leads");
    for pod in ["agent-a", "agent-b"] {
        assert!(replicas.process(pod).ended().is_none(), "{pod} crashed\n{}", replicas.log(pod));
    }
    give_rights(&replicas.world).await;
    replicas.world.object_where("v1", "ConfigMap", "a", "as committed", |object| object["data"]["key"] == "4").await;
    let leader = replicas.leader(None, TAKEN_OVER_WITHIN).await;
    replicas.is_labelled(&leader).await;
}
