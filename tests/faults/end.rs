//! The end of a release: everything that is compared with the end of a run without faults.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::ListParams;
use serde_json::{Value, json};
use support::audit;

use super::release::Release;
use crate::settled::unpacked;

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

impl Release {
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
                // The agent's own key differs by chance.
                if name == "towpath-key" {
                    continue;
                }
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
            let identity = self.masked(&format!("{} {}", fields[1], fields[3]));
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
