//! A whole release that faults are tried on: two commits that create, change, add and remove, and everything that can
//! be said of its end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use kube::api::ListParams;
use serde_json::{Value, json};
use support::audit::{self, Mark};
use support::faults::Proxy;
use support::world::World;

use crate::manifests::config_map;

/// How long one of the two commits may take, whatever happens to it.
const PATIENCE: Duration = Duration::from_secs(90);
/// An agent that wrote nothing for so long has come to rest; on a busy machine a single write takes a second.
const RESTED: Duration = Duration::from_secs(3);
/// The kinds that are compared: those of the release, and those that controllers or a confused agent could add.
const KINDS: [(&str, &str); 8] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("batch/v1", "Job"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "Secret"),
    ("v1", "PersistentVolumeClaim"),
];

/// A release under way.
pub struct Release {
    pub world: World,
    pub proxy: Arc<Proxy>,
    start: Mark,
    restarts: u32,
}

/// Everything that is compared between a run with faults and one without.
#[derive(Debug, PartialEq)]
pub struct End {
    /// Every object of the namespace, without what differs by chance.
    pub objects: BTreeMap<String, Value>,
    /// How often each object was created and deleted.
    pub effects: BTreeMap<String, (u32, u32)>,
    /// The members, as the inventory has them.
    pub members: BTreeSet<String>,
    /// The objects with the environment's label.
    pub labelled: BTreeSet<String>,
    /// What the status says, times left out.
    pub status: Value,
}

impl End {
    /// # Panics
    /// When it is another end than expected: with the first difference.
    pub fn must_be(&self, expected: &End, what: &str, log: &str) {
        assert_eq!(self.effects, expected.effects, "{what}\n{log}");
        assert_eq!(self.members, expected.members, "{what}\n{log}");
        assert_eq!(self.labelled, expected.labelled, "{what}\n{log}");
        assert_eq!(self.status, expected.status, "{what}\n{log}");
        let names = |end: &End| end.objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(expected), "{what}\n{log}");
        for (identity, object) in &expected.objects {
            assert_eq!(&self.objects[identity], object, "{what}: {identity}\n{log}");
        }
    }
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
        world.repository().await;
        world.environment(name, json!({"lane": "master", "path": "environments/prod"})).await;
        Release { world, proxy, start, restarts: 0 }
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
        let mut counts: BTreeMap<(&str, String, String), u32> = BTreeMap::new();
        let mut points = Vec::new();
        for asked in self.proxy.seen().into_iter().filter(|asked| asked.is_write() && asked.resource != "leases") {
            let name = self.masked(&asked.name);
            let number = counts.entry((asked.verb, asked.resource.clone(), name.clone())).or_default();
            *number += 1;
            points.push(Point { verb: asked.verb, resource: asked.resource, name, number: *number });
        }
        points
    }

    /// The requests that a point means, in this release.
    pub fn on(&self, point: &Point) -> support::faults::On {
        let (wanted, namespace) = (point.clone(), self.world.namespace.clone());
        support::faults::On::those(move |asked| {
            let name = asked.name.replace(&namespace, NAMESPACE);
            asked.is_write() && (asked.verb, &asked.resource, &name) == (wanted.verb, &wanted.resource, &wanted.name)
        })
        .nth(point.number)
    }

    fn masked(&self, text: &str) -> String {
        text.replace(&self.world.namespace, NAMESPACE)
    }

    /// Everything that is compared. UIDs of the inventory must be those of the objects.
    pub async fn end(&self) -> End {
        let mut objects = BTreeMap::new();
        let mut labelled = BTreeSet::new();
        let mut members = BTreeSet::new();
        let mut uids = BTreeMap::new();
        let mut inventory = String::new();
        for (api_version, kind) in KINDS {
            let api = self.world.api(api_version, kind).await;
            for object in api.list(&ListParams::default()).await.expect("an administrator may list") {
                let mut object = serde_json::to_value(object).expect("it was read as JSON");
                let name = self.masked(object["metadata"]["name"].as_str().unwrap_or_default());
                let identity = format!("{kind} {name}");
                uids.insert(identity.clone(), object["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
                if object["metadata"]["labels"]["towpath.dev/environment"] == self.world.namespace.as_str() {
                    labelled.insert(identity.clone());
                }
                if name.starts_with("towpath-inventory-") {
                    inventory = unpacked(object["binaryData"]["members.gz"].as_str().unwrap_or_default());
                    object["binaryData"].take();
                }
                without_chance(&mut object, kind);
                let text = self.masked(&object.to_string());
                objects.insert(identity, serde_json::from_str(&text).expect("it is still JSON"));
            }
        }
        for line in inventory.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let identity = format!("{} {}", fields[1], fields[3]);
            assert_eq!(uids.get(&identity).map(String::as_str), Some(fields[4]), "{line}\n{}", self.world.agent_log());
            members.insert(identity);
        }
        End { objects, effects: self.effects(), members, labelled, status: self.status().await }
    }

    /// Creations and deletions that happened, by the audit log: those of the agent, and those of controllers that make
    /// one object for each change of another.
    fn effects(&self) -> BTreeMap<String, (u32, u32)> {
        let mut effects: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        let requests = audit::since(&self.world.plane.audit_log(), self.start).expect("the audit log can be read");
        for request in requests.iter().filter(|request| request.namespace == self.world.namespace) {
            let is_ours = request.user == "system:serviceaccount:towpath:towpath";
            let counts = is_ours && !matches!(request.resource.as_str(), "events" | "leases");
            if !request.is_write() || !(counts || request.resource == "replicasets") {
                continue;
            }
            let entry = effects.entry(format!("{}/{}", request.resource, self.masked(&request.name))).or_default();
            match (request.verb.as_str(), request.code) {
                ("create" | "patch" | "update", 201) => entry.0 += 1,
                ("delete" | "deletecollection", 200 | 202) => entry.1 += 1,
                _ => {}
            }
        }
        effects.retain(|_, effect| *effect != (0, 0));
        effects
    }

    async fn status(&self) -> Value {
        let status = self.world.status(&self.world.namespace).await;
        let conditions: BTreeMap<&str, (&str, &str)> = status
            .conditions
            .iter()
            .map(|condition| (condition.type_.as_str(), (condition.status.as_str(), condition.reason.as_str())))
            .collect();
        let text = json!({
            "state": status.state,
            "running": status.running,
            "candidate": status.candidate,
            "problems": status.problems,
            "objects": status.objects,
            "kept": status.leftovers.kept.iter().map(|kept| (&kept.object, &kept.reason)).collect::<Vec<_>>(),
            "unhealthy": status.unhealthy,
            "conditions": conditions,
        });
        serde_json::from_str(&self.masked(&text.to_string())).expect("it is still JSON")
    }
}

const NAMESPACE: &str = "the-namespace";

/// The lines of an inventory.
pub fn unpacked(base64: &str) -> String {
    let packed = base64::engine::general_purpose::STANDARD.decode(base64).expect("bytes are written as base64");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("an inventory is compressed");
    text
}

/// Takes out what differs between two runs although nothing went wrong.
fn without_chance(object: &mut Value, kind: &str) {
    let metadata = &mut object["metadata"];
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        metadata[field].take();
    }
    let empty = Vec::new();
    for owner in metadata["ownerReferences"].as_array_mut().unwrap_or(&mut empty.clone()) {
        owner["uid"].take();
    }
    // What is ours of it must be the same; what controllers write besides is theirs.
    let entries = metadata["managedFields"].take();
    let ours = entries.as_array().unwrap_or(&empty).iter().filter(|entry| entry["manager"] == "towpath");
    metadata["ours"] = ours.map(|entry| json!([entry["operation"], entry["fieldsV1"]])).collect();
    if kind == "ConfigMap" && metadata["name"].as_str().is_some_and(|name| name.starts_with("towpath-inventory-")) {
        metadata["ours"].take();
    }
    if let Some(label) = metadata["labels"].get_mut("applyset.kubernetes.io/part-of") {
        *label = "this environment".into();
    }
    object["status"].take();
    match kind {
        "Service" => {
            for field in ["clusterIP", "clusterIPs"] {
                object["spec"][field].take();
            }
        }
        "Job" => {
            let places = ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"];
            for place in places {
                let Some(Value::Object(labels)) = object.pointer_mut(place) else { continue };
                labels.retain(|name, _| !name.ends_with("controller-uid"));
            }
        }
        _ => {}
    }
}
