//! Fields that git names and that are left to somebody else for now: to a manager by a rule, to an autoscaler, to a
//! rollout controller.
//!
//! A field is left only while somebody else owns it. What nobody but us owns is never dropped: the server would set it
//! to its default, one replica instead of ten.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::fingerprint::{Child, FieldPath, Step, entries_of_others, text_of};
use crate::ignore::Rule;
use crate::manifest::{Identity, ObjectKey};
use crate::pointer::{self, Pointer};

/// Why a field is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// `spec.ignore` says so.
    Rule,
    /// An autoscaler sets it.
    Autoscaler,
    /// A rollout controller sets it while it works.
    Rollout,
}

/// A field that is left.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// The field.
    pub path: FieldPath,
    /// Whose it is.
    pub manager: String,
    /// Why.
    pub because: Because,
}

/// What decides about an object.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its identity.
    pub key: &'a ObjectKey,
    /// The rules of its environment.
    pub rules: &'a [Rule],
    /// Whether an autoscaler has it for a target.
    pub is_autoscaled: bool,
}

/// The object whose replicas an object sets: that of a HorizontalPodAutoscaler, of a KEDA ScaledObject, or of an Argo
/// Rollout that scales the workload down which it took its template from.
pub fn scaled_by(key: &ObjectKey, body: &Map<String, Value>) -> Option<ObjectKey> {
    let spec = body.get("spec")?;
    let (target, version, kind) = match (key.group.as_str(), key.kind.as_str()) {
        ("autoscaling", "HorizontalPodAutoscaler") => (spec.get("scaleTargetRef")?, "", ""),
        ("keda.sh", "ScaledObject") => (spec.get("scaleTargetRef")?, "apps/v1", "Deployment"),
        ("argoproj.io", "Rollout") => {
            let workload = spec.get("workloadRef")?;
            let scales = matches!(workload.get("scaleDown")?.as_str()?, "onsuccess" | "progressively");
            (scales.then_some(workload)?, "apps/v1", "Deployment")
        }
        _ => return None,
    };
    let text =
        |name: &str, default: &'static str| target.get(name).and_then(Value::as_str).unwrap_or(default).to_owned();
    Some(ObjectKey::from(Identity {
        group: crate::manifest::group_of(&text("apiVersion", version)).to_owned(),
        kind: text("kind", kind),
        namespace: key.namespace.clone(),
        name: target.get("name")?.as_str()?.to_owned(),
    }))
}

/// Whether a rollout controller has its hands in an object: OpenKruise while it rolls a workload out, Argo Rollouts in
/// a Service that it splits traffic with.
pub fn is_rolled(live: &Value) -> bool {
    let annotations = live.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let has = |name: &str| annotations.is_some_and(|annotations| annotations.get(name).is_some());
    has("rollouts.kruise.io/in-progressing") || has("argo-rollouts.argoproj.io/managed-by-rollouts")
}

/// Who set `spec.replicas` through the subresource `scale`, as autoscalers do. `None` where it was us, a person with
/// kubectl, or nobody.
pub fn scaler(live: &Value) -> Option<&str> {
    let replicas = |entry: &&Value| {
        text_of(entry, "subresource") == "scale" && entry.pointer("/fieldsV1/f:spec/f:replicas").is_some()
    };
    entries_of_others(live)
        .find(replicas)
        .map(|entry| text_of(entry, "manager"))
        .filter(|manager| !manager.starts_with("kubectl"))
}

/// What rollout controllers write into the workloads that they roll, below `spec`.
const ROLLED_FIELDS: [&str; 3] = ["paused", "strategy", "updateStrategy"];
/// What Argo Rollouts writes into the Services that it splits traffic with, below `spec`.
const SPLIT_FIELDS: [&str; 1] = ["selector"];

/// What is left of an object's content now, and the content without it.
pub fn left(body: &Map<String, Value>, live: &Value, facts: &Facts<'_>) -> (Map<String, Value>, Vec<Left>) {
    let mut found = Vec::new();
    let mut rest = body.clone();
    let rules: Vec<&Rule> = facts.rules.iter().filter(|rule| !rule.leaves_out() && rule.is_about(facts.key)).collect();
    let is_rolled = is_rolled(live);
    if rules.is_empty() && !facts.is_autoscaled && !is_rolled {
        return (rest, found);
    }
    if is_rolled {
        let fields = if facts.key.kind == "Service" { &SPLIT_FIELDS[..] } else { &ROLLED_FIELDS[..] };
        found.extend(fields.iter().filter_map(|field| rolled(&mut rest, live, field)));
    }
    for entry in entries_of_others(live) {
        let manager = text_of(entry, "manager");
        let pointers: BTreeSet<&Pointer> =
            rules.iter().filter(|rule| rule.managers.contains(manager)).flat_map(|rule| &rule.pointers).collect();
        let all_is_theirs = rules.iter().any(|rule| rule.managers.contains(manager) && rule.pointers.is_empty());
        let because = |path: &[String]| {
            let is_below = |steps: &[&str]| path.len() >= steps.len() && path.iter().zip(steps).all(|(a, b)| a == b);
            if facts.is_autoscaled && is_below(&["spec", "replicas"]) {
                return Some(Because::Autoscaler);
            }
            let is_ruled = all_is_theirs || pointers.iter().any(|pointer| path.starts_with(pointer.steps()));
            (is_ruled && !pointer::is_identity(path)).then_some(Because::Rule)
        };
        let Some(fields) = entry.get("fieldsV1").and_then(Value::as_object).filter(|fields| !fields.is_empty()) else {
            continue;
        };
        let mut walk = Walk { manager, because: &because, path: Vec::new(), steps: Vec::new(), found: &mut found };
        walk.map(&mut rest, fields, live);
    }
    let is_unowned = live.pointer("/metadata/managedFields").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if facts.is_autoscaled && is_unowned && live.pointer("/spec/replicas").is_some() {
        // Nobody knows who set them, and one who counts is at work.
        let replicas = Pointer::parse("/spec/replicas").expect("it is a pointer");
        replicas.remove(&mut rest);
        let path = FieldPath::of_keys(&["spec", "replicas"]);
        found.push(Left { path, manager: "an autoscaler".to_owned(), because: Because::Autoscaler });
    }
    (rest, found)
}

/// Takes a field out of `spec` if somebody else has written anything of it: the parts of a strategy only fit together.
fn rolled(body: &mut Map<String, Value>, live: &Value, field: &str) -> Option<Left> {
    let pointer = format!("/fieldsV1/f:spec/f:{field}");
    let theirs = entries_of_others(live).find(|entry| entry.pointer(&pointer).is_some())?;
    body.get_mut("spec")?.as_object_mut()?.shift_remove(field)?;
    let path = FieldPath::of_keys(&["spec", field]);
    Some(Left { path, manager: text_of(theirs, "manager").to_owned(), because: Because::Rollout })
}

/// Takes what a manager owns out of a content, where it may be left.
struct Walk<'a> {
    manager: &'a str,
    /// Why what is at a path may be left, if it may.
    because: &'a dyn Fn(&[String]) -> Option<Because>,
    /// The path as a pointer has it, with places in lists.
    path: Vec<String>,
    /// The path as people read it.
    steps: Vec<Step>,
    found: &'a mut Vec<Left>,
}

impl Walk<'_> {
    fn map(&mut self, map: &mut Map<String, Value>, fields: &Map<String, Value>, live: &Value) {
        for (text, below) in fields {
            let (Some(Child::Field(name)), Some(below)) = (Child::parse(text), below.as_object()) else { continue };
            let Some(value) = map.get_mut(name) else { continue };
            self.path.push(name.to_owned());
            self.steps.push(Step::Key(name.to_owned()));
            if self.value(value, below, live.get(name).unwrap_or(&Value::Null)) {
                map.shift_remove(name);
            }
            self.path.pop();
            self.steps.pop();
        }
    }

    /// Whether the value goes as a whole.
    fn value(&mut self, value: &mut Value, fields: &Map<String, Value>, live: &Value) -> bool {
        if fields.is_empty() {
            let Some(because) = (self.because)(&self.path) else { return false };
            self.leave(because);
            return true;
        }
        match value {
            Value::Object(map) => {
                let had_fields = !map.is_empty();
                self.map(map, fields, live);
                had_fields && map.is_empty()
            }
            Value::Array(list) => {
                self.list(list, fields, live);
                false
            }
            _ => false,
        }
    }

    fn list(&mut self, list: &mut Vec<Value>, fields: &Map<String, Value>, live: &Value) {
        let mut gone = BTreeSet::new();
        for (text, below) in fields {
            let (Some(child), Some(below)) = (Child::parse(text), below.as_object()) else { continue };
            for (place, element) in list.iter_mut().enumerate() {
                // What git writes may lack a key that has a default.
                let is_meant = match &child {
                    Child::Keys(keys) => {
                        keys.iter().all(|(name, value)| element.get(name).is_none_or(|found| found == value))
                            && keys.keys().any(|name| element.get(name).is_some())
                    }
                    Child::Item(value) => element == value,
                    Child::Field(_) | Child::Index(_) => false,
                };
                if !is_meant {
                    continue;
                }
                self.path.push(place.to_string());
                match &child {
                    Child::Keys(keys) => {
                        let (key, value) = keys.iter().next().expect("one of its keys was found");
                        self.steps.push(Step::Element { key: key.clone(), value: value.clone() });
                        let theirs = live.as_array().into_iter().flatten();
                        let theirs = theirs.enumerate().find(|(index, theirs)| child.selects(*index, theirs));
                        let owned = below
                            .iter()
                            .filter(|(field, _)| !field.strip_prefix("f:").is_some_and(|name| keys.contains_key(name)));
                        let owned: Map<String, Value> = owned.map(|(k, v)| (k.clone(), v.clone())).collect();
                        if let Value::Object(element) = element {
                            self.map(element, &owned, theirs.map_or(&Value::Null, |(_, theirs)| theirs));
                            let is_bare = element.keys().all(|field| keys.contains_key(field));
                            if is_bare && below.contains_key(".") && (self.because)(&self.path).is_some() {
                                gone.insert(place);
                            }
                        }
                    }
                    _ => {
                        self.steps.push(Step::Item(element.clone()));
                        if let Some(because) = (self.because)(&self.path) {
                            self.leave(because);
                            gone.insert(place);
                        }
                    }
                }
                self.path.pop();
                self.steps.pop();
            }
        }
        let mut place = 0;
        list.retain(|_| {
            place += 1;
            !gone.contains(&(place - 1))
        });
    }

    fn leave(&mut self, because: Because) {
        let path = FieldPath::of(self.steps.clone());
        self.found.push(Left { path, manager: self.manager.to_owned(), because });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::from(Identity {
            group: "apps".into(),
            kind: "Deployment".into(),
            namespace: Some("web".into()),
            name: "web".into(),
        })
    }

    fn body() -> Map<String, Value> {
        json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 3, "strategy": {"type": "RollingUpdate"},
                "containers": [
                    {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}]},
                    {"name": "side", "image": "side:1"},
                ],
            },
        })
        .as_object()
        .unwrap()
        .clone()
    }

    fn live(manager: &str, subresource: &str, fields: Value) -> Value {
        let ours = json!({"manager": "towpath", "operation": "Apply", "fieldsV1": {"f:spec": {"f:strategy": {}}}});
        let theirs = json!({"manager": manager, "operation": "Update", "subresource": subresource, "fieldsV1": fields});
        json!({"metadata": {"managedFields": [ours, theirs]}, "spec": body()["spec"]})
    }

    /// The paths that are left, and the content without them.
    fn left_of(live: &Value, rules: &[Rule], is_autoscaled: bool) -> (Vec<String>, Value) {
        let (rest, found) = left(&body(), live, &Facts { key: &key(), rules, is_autoscaled });
        let text = |left: &Left| format!("{} to {} ({:?})", left.path, left.manager, left.because);
        (found.iter().map(text).collect(), Value::Object(rest))
    }

    fn rule(managers: &[&str], pointers: &[&str]) -> Rule {
        Rule {
            managers: managers.iter().map(|name| (*name).to_owned()).collect(),
            pointers: pointers.iter().map(|pointer| Pointer::parse(pointer).unwrap()).collect(),
            ..Rule::default()
        }
    }

    #[test]
    fn replicas_are_left_to_an_autoscaler_once_it_has_written_them() {
        let scaled = live("kube-controller-manager", "scale", json!({"f:spec": {"f:replicas": {}}}));
        let (left, rest) = left_of(&scaled, &[], true);
        assert_eq!(left, ["spec.replicas to kube-controller-manager (Autoscaler)"]);
        assert_eq!(rest["spec"].get("replicas"), None);
        assert_eq!(left_of(&scaled, &[], false).0, [""; 0], "without one they are git's");
        let untouched = live("hand", "", json!({"f:spec": {"f:paused": {}}}));
        let (left, rest) = left_of(&untouched, &[], true);
        assert_eq!((left.len(), &rest["spec"]["replicas"]), (0, &json!(3)), "dropped too early they would fall to 1");
    }

    #[test]
    fn replicas_of_which_nobody_is_the_owner_are_the_autoscalers() {
        let mut wiped = live("x", "", json!({}));
        wiped["metadata"] = json!({});
        assert_eq!(left_of(&wiped, &[], true).0, ["spec.replicas to an autoscaler (Autoscaler)"]);
    }

    #[test]
    fn a_rollout_under_way_keeps_its_strategy() {
        let mut object =
            live("kruise-manager", "", json!({"f:spec": {"f:strategy": {"f:type": {}}, "f:replicas": {}}}));
        assert_eq!(left_of(&object, &[], false).0, [""; 0]);
        object["metadata"]["annotations"] = json!({"rollouts.kruise.io/in-progressing": "{}"});
        let (left, rest) = left_of(&object, &[], false);
        assert_eq!(left, ["spec.strategy to kruise-manager (Rollout)"]);
        assert_eq!(rest["spec"].get("strategy"), None);
        assert_eq!(rest["spec"]["replicas"], 3, "they are no business of a rollout");
    }

    #[test]
    fn a_managers_fields_are_left_to_it_where_a_rule_says_so() {
        let fields = json!({"f:spec": {"f:replicas": {}, "f:containers": {
            "k:{\"name\":\"web\"}": {"f:image": {}},
            "k:{\"name\":\"side\"}": {".": {}, "f:name": {}, "f:image": {}},
        }}});
        let object = live("tuner", "", fields);
        let (left, rest) = left_of(&object, &[rule(&["tuner"], &[])], false);
        assert_eq!(
            left,
            [
                "spec.replicas to tuner (Rule)",
                "spec.containers[name=web].image to tuner (Rule)",
                "spec.containers[name=side].image to tuner (Rule)",
            ]
        );
        assert_eq!(rest["spec"]["containers"], json!([{"name": "web", "env": [{"name": "A", "value": "1"}]}]));

        let (left, _) = left_of(&object, &[rule(&["tuner"], &["/spec/containers/0"])], false);
        assert_eq!(left, ["spec.containers[name=web].image to tuner (Rule)"]);
        assert_eq!(left_of(&object, &[rule(&["other"], &[])], false).0, [""; 0]);
        let elsewhere = Rule { name: Some("api*".into()), ..rule(&["tuner"], &[]) };
        assert_eq!(left_of(&object, &[elsewhere], false).0, [""; 0]);
    }

    #[test]
    fn the_identity_and_our_labels_are_never_left() {
        let mut body = body();
        body["metadata"]["labels"] = json!({"towpath.dev/environment": "prod", "app": "web"});
        let fields = json!({"f:metadata": {"f:labels": {"f:towpath.dev/environment": {}, "f:app": {}}}});
        let object = live("tuner", "", fields);
        let rules = [rule(&["tuner"], &[])];
        let (rest, found) = left(&body, &object, &Facts { key: &key(), rules: &rules, is_autoscaled: false });
        assert_eq!(found.len(), 1);
        assert_eq!(rest["metadata"]["labels"], json!({"towpath.dev/environment": "prod"}));
    }

    #[test]
    fn who_scales_is_told_from_a_person_with_kubectl() {
        let fields = || json!({"f:spec": {"f:replicas": {}}});
        assert_eq!(scaler(&live("kube-controller-manager", "scale", fields())), Some("kube-controller-manager"));
        assert_eq!(scaler(&live("kubectl", "scale", fields())), None);
        assert_eq!(scaler(&live("kube-controller-manager", "", fields())), None);
    }

    #[test]
    fn targets_of_autoscalers_are_read() {
        let target = |group: &str, kind: &str, spec: Value| {
            let key = ObjectKey::from(Identity { group: group.into(), kind: kind.into(), ..Identity::from(key()) });
            scaled_by(&key, json!({ "spec": spec }).as_object().unwrap()).map(|key| key.to_string())
        };
        let reference = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"});
        assert_eq!(
            target("autoscaling", "HorizontalPodAutoscaler", json!({ "scaleTargetRef": reference })),
            Some("StatefulSet.apps web/db".into())
        );
        assert_eq!(
            target("keda.sh", "ScaledObject", json!({"scaleTargetRef": {"name": "api"}})),
            Some("Deployment.apps web/api".into())
        );
        let rollout = |how: &str| {
            let workload = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "api", "scaleDown": how});
            target("argoproj.io", "Rollout", json!({ "workloadRef": workload }))
        };
        assert_eq!(rollout("onsuccess"), Some("Deployment.apps web/api".into()));
        assert_eq!(rollout("never"), None);
        assert_eq!(target("apps", "Deployment", json!({"scaleTargetRef": {"name": "api"}})), None);
    }
}
