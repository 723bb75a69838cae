//! Sets of owned fields as `managedFields` has them (FieldsV1), and the algebra that taking over needs.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::drift::{FieldPath, Step};
use super::{Child, is_ours, managed_fields, our_entry};

/// The fields that one entry of `managedFields` owns.
///
/// A node is owned itself, or something below it is, or both. The words are those of structured-merge-diff, which
/// writes FieldsV1: `{}` and `.` say that the thing itself is owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    is_owned: bool,
    below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads the FieldsV1 of an entry. What cannot be read is left out.
    pub fn of_entry(entry: &Value) -> FieldSet {
        let fields = entry.get("fieldsV1").and_then(Value::as_object);
        // The root is never owned as a whole: an entry without fields owns nothing.
        FieldSet { is_owned: false, ..fields.map(FieldSet::read).unwrap_or_default() }
    }

    /// What our own Apply entry owns, `None` where there is no such entry.
    pub fn ours(live: &Value) -> Option<FieldSet> {
        our_entry(live).map(FieldSet::of_entry)
    }

    fn read(fields: &Map<String, Value>) -> FieldSet {
        let below = fields.iter().filter(|(key, _)| *key != ".");
        let below = below.filter_map(|(key, below)| Some((key.clone(), FieldSet::read(below.as_object()?))));
        FieldSet { is_owned: fields.is_empty() || fields.contains_key("."), below: below.collect() }
    }

    /// As FieldsV1.
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        if self.is_owned && !self.below.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        fields.extend(self.below.iter().map(|(key, below)| (key.clone(), below.to_value())));
        Value::Object(fields)
    }

    /// Whether nothing is owned.
    pub fn is_empty(&self) -> bool {
        !self.is_owned && self.below.is_empty()
    }

    /// What either owns.
    #[must_use]
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut result = self.clone();
        result.is_owned |= other.is_owned;
        for (key, theirs) in &other.below {
            let both = result.below.get(key).map_or_else(|| theirs.clone(), |ours| ours.union(theirs));
            result.below.insert(key.clone(), both);
        }
        result
    }

    /// What this one owns and the other does not.
    #[must_use]
    pub fn minus(&self, other: &FieldSet) -> FieldSet {
        let below = self.below.iter().map(|(key, ours)| {
            let rest = other.below.get(key).map_or_else(|| ours.clone(), |theirs| ours.minus(theirs));
            (key.clone(), rest)
        });
        FieldSet {
            is_owned: self.is_owned && !other.is_owned,
            below: below.filter(|(_, rest)| !rest.is_empty()).collect(),
        }
    }

    /// What both own.
    #[must_use]
    pub fn both(&self, other: &FieldSet) -> FieldSet {
        self.minus(&self.minus(other))
    }

    /// The ways to what is owned, without the maps and list elements around it and without the keys by which elements
    /// are known: nobody can write into an element without owning its keys.
    pub fn paths(&self) -> Vec<FieldPath> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, steps: &mut Vec<Step>, paths: &mut Vec<FieldPath>) {
        if self.below.is_empty() {
            if self.is_owned {
                paths.push(FieldPath::of(steps.clone()));
            }
            return;
        }
        for (text, below) in &self.below {
            let Some(child) = Child::parse(text) else { continue };
            let keys = match &child {
                Child::Keys(keys) => Some(keys.clone()),
                _ => None,
            };
            steps.push(step_of(child));
            match keys {
                // An element of which only the keys are left is named by itself.
                Some(keys) if below.below.keys().all(|field| is_key(field, &keys)) => {
                    if below.is_owned {
                        paths.push(FieldPath::of(steps.clone()));
                    }
                }
                Some(keys) => below.without_keys(&keys).collect(steps, paths),
                None => below.collect(steps, paths),
            }
            steps.pop();
        }
    }

    /// The same element without the keys that make it known.
    fn without_keys(&self, keys: &Map<String, Value>) -> FieldSet {
        let below = self.below.iter().filter(|(field, _)| !is_key(field, keys));
        FieldSet {
            is_owned: self.is_owned,
            below: below.map(|(field, below)| (field.clone(), below.clone())).collect(),
        }
    }

    /// Whether both own a value, an element of a set, or a map or list as a whole. The keys of a list element that both
    /// write into do not count.
    pub fn shares_a_value_with(&self, other: &FieldSet) -> bool {
        self.below.iter().any(|(text, ours)| {
            let Some(theirs) = other.below.get(text) else { return false };
            let is_shared = ours.is_owned && theirs.is_owned && (ours.below.is_empty() || theirs.below.is_empty());
            is_shared
                || match Child::parse(text) {
                    Some(Child::Keys(keys)) => {
                        ours.without_keys(&keys).shares_a_value_with(&theirs.without_keys(&keys))
                    }
                    _ => ours.shares_a_value_with(theirs),
                }
        })
    }
}

fn is_key(field: &str, keys: &Map<String, Value>) -> bool {
    field.strip_prefix("f:").is_some_and(|name| keys.contains_key(name))
}

fn step_of(child: Child<'_>) -> Step {
    match child {
        Child::Field(name) => Step::Key(name.to_owned()),
        Child::Keys(keys) => match keys.into_iter().next() {
            Some((key, value)) => Step::Element { key, value },
            None => Step::Key(String::new()),
        },
        Child::Item(value) => Step::Item(value),
        Child::Index(index) => Step::Item(Value::from(index)),
    }
}

/// Managers who own a value together with us, each once, in order. Who wrote through a subresource is left out.
pub fn co_owners(live: &Value) -> Vec<String> {
    let others: Vec<&Value> = managed_fields(live).filter(|entry| !is_ours(entry) && !has_subresource(entry)).collect();
    if others.is_empty() {
        return Vec::new();
    }
    let Some(ours) = FieldSet::ours(live) else { return Vec::new() };
    let sharing = others.into_iter().filter(|entry| FieldSet::of_entry(entry).shares_a_value_with(&ours));
    let mut managers: Vec<String> = sharing.map(|entry| text_of(entry, "manager").to_owned()).collect();
    managers.sort_unstable();
    managers.dedup();
    managers
}

/// A number that stands for who else owns what of an object, whenever they wrote it. Owners of its status are left out:
/// they change while nothing happens. Only good for comparing within one process.
pub fn others(live: &Value) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    for entry in managed_fields(live).filter(|entry| !is_ours(entry) && text_of(entry, "subresource") != "status") {
        text_of(entry, "manager").hash(&mut hash);
        text_of(entry, "operation").hash(&mut hash);
        text_of(entry, "subresource").hash(&mut hash);
        entry.get("fieldsV1").hash(&mut hash);
    }
    hash.finish()
}

pub(crate) fn has_subresource(entry: &Value) -> bool {
    !text_of(entry, "subresource").is_empty()
}

pub(crate) fn text_of<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The entries of others, as they stand in `managedFields`.
pub(crate) fn entries_of_others(live: &Value) -> impl Iterator<Item = &Value> {
    managed_fields(live).filter(|entry| !is_ours(entry))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> FieldSet {
        FieldSet::of_entry(&json!({ "fieldsV1": fields }))
    }

    fn paths(set: &FieldSet) -> Vec<String> {
        set.paths().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_set_reads_back_as_it_was_written() {
        let fields = json!({
            "f:spec": {".": {}, "f:replicas": {}, "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}},
            "f:zones": {"v:\"eu\"": {}},
        });
        assert_eq!(set(fields.clone()).to_value(), fields);
        assert!(set(json!({})).is_empty());
        assert!(set(Value::Null).is_empty());
    }

    #[test]
    fn union_and_difference_are_by_field() {
        let a = set(json!({"f:spec": {"f:replicas": {}, "f:paused": {}}}));
        let b = set(json!({"f:spec": {"f:replicas": {}}, "f:data": {".": {}, "f:x": {}}}));
        assert_eq!(
            a.union(&b),
            set(json!({"f:spec": {"f:replicas": {}, "f:paused": {}}, "f:data": {".": {}, "f:x": {}}}))
        );
        assert_eq!(a.minus(&b), set(json!({"f:spec": {"f:paused": {}}})));
        assert_eq!(b.minus(&b), FieldSet::default());
        assert_eq!(a.both(&b), set(json!({"f:spec": {"f:replicas": {}}})));
    }

    #[test]
    fn paths_name_values_and_elements_but_not_what_makes_elements_known() {
        let owned = set(json!({
            "f:containers": {
                "k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:image": {}},
                "k:{\"name\":\"bare\"}": {".": {}, "f:name": {}},
            },
            "f:labels": {".": {}, "f:app": {}},
            "f:zones": {"v:\"eu\"": {}},
        }));
        assert_eq!(paths(&owned), ["containers[name=bare]", "containers[name=web].image", "labels.app", "zones[eu]"]);
    }

    #[test]
    fn a_value_is_shared_but_the_key_of_an_element_is_not() {
        let ours = set(json!({"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:image": {}}}}));
        let envs = set(json!({"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:env": {}}}}));
        assert!(!ours.shares_a_value_with(&envs));
        let image = set(json!({"f:containers": {"k:{\"name\":\"web\"}": {"f:image": {}}}}));
        assert!(ours.shares_a_value_with(&image));
        let map = set(json!({"f:labels": {".": {}, "f:theirs": {}}}));
        assert!(!set(json!({"f:labels": {"f:ours": {}}})).shares_a_value_with(&map));
        assert!(set(json!({"f:args": {}})).shares_a_value_with(&set(json!({"f:args": {}}))));
    }

    #[test]
    fn other_owners_are_told_apart_but_not_when_they_wrote() {
        let live = |manager: &str, subresource: &str, time: &str| {
            let theirs = json!({
                "manager": manager, "operation": "Update", "subresource": subresource, "time": time,
                "fieldsV1": {"f:spec": {"f:replicas": {}}},
            });
            others(&json!({"metadata": {"managedFields": [theirs]}}))
        };
        assert_eq!(live("a", "", "1"), live("a", "", "2"));
        assert_ne!(live("a", "", "1"), live("b", "", "1"));
        assert_ne!(live("a", "", "1"), live("a", "scale", "1"));
        assert_eq!(live("a", "status", "1"), live("b", "status", "1"));
    }

    #[test]
    fn co_owners_are_named_once_and_never_for_a_subresource() {
        let entry = |manager: &str, subresource: &str, fields: Value| {
            json!({"manager": manager, "operation": if manager == "towpath" {"Apply"} else {"Update"},
                   "subresource": subresource, "apiVersion": "v1", "fieldsV1": fields})
        };
        let live = json!({"apiVersion": "v1", "metadata": {"managedFields": [
            entry("towpath", "", json!({"f:data": {"f:a": {}}, "f:spec": {"f:replicas": {}}})),
            entry("kubectl-client-side-apply", "", json!({"f:data": {".": {}, "f:a": {}}})),
            entry("hand", "", json!({"f:data": {"f:b": {}}})),
            entry("kube-controller-manager", "scale", json!({"f:spec": {"f:replicas": {}}})),
        ]}});
        assert_eq!(co_owners(&live), ["kubectl-client-side-apply"]);
    }
}
