//! Where our part of an object is not what it should be, and who has their hands in it.

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Child, is_ours, managed_fields};

/// The way to a value inside an object.
///
/// `Display` writes `spec.template.spec.containers[name=web].image`; a key that is no plain word stands in brackets, as
/// in `metadata.labels[app.kubernetes.io/name]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Step>);

/// One step of a [`FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The key of a map.
    Key(String),
    /// The element of a list that has this value at this key.
    Element {
        /// `name`, `containerPort`.
        key: String,
        /// A scalar.
        value: Value,
    },
    /// The element of a set.
    Item(Value),
}

impl FieldPath {
    /// The steps, outermost first.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The value at this path in an object, so that a report can say `3 → 5`. A caller that shows it must redact
    /// Secrets first.
    pub fn find<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(object, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Element { key, value: wanted } => {
                value.as_array()?.iter().find(|element| element.get(key) == Some(wanted))
            }
            Step::Item(wanted) => value.as_array()?.iter().find(|element| *element == wanted),
        })
    }

    pub(crate) fn of(steps: Vec<Step>) -> FieldPath {
        FieldPath(steps)
    }

    pub(crate) fn of_keys(keys: &[&str]) -> FieldPath {
        FieldPath(keys.iter().map(|key| Step::Key((*key).to_owned())).collect())
    }

    fn below(&self, step: Step) -> FieldPath {
        let mut steps = self.0.clone();
        steps.push(step);
        FieldPath(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if !is_plain(key) => write!(f, "[{key}]")?,
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Element { key, value: Value::String(value) } => write!(f, "[{key}={value}]")?,
                Step::Element { key, value } => write!(f, "[{key}={value}]")?,
                Step::Item(Value::String(value)) => write!(f, "[{value}]")?,
                Step::Item(value) => write!(f, "[{value}]")?,
            }
        }
        Ok(())
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

impl Serialize for FieldPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The paths at which two projections differ, in the order of `expected`.
///
/// A missing map is named by the values that are missing in it, a missing list element by itself. A list whose
/// elements are all there but in another order, and a list without keys, are named as a whole. Empty exactly when the
/// two have the same fingerprint.
pub fn differences(expected: &Value, found: &Value) -> Vec<FieldPath> {
    let mut paths = Vec::new();
    compare(&FieldPath(Vec::new()), Some(expected), Some(found), &mut paths);
    paths
}

fn compare(path: &FieldPath, expected: Option<&Value>, found: Option<&Value>, paths: &mut Vec<FieldPath>) {
    let nothing = Map::new();
    match (expected, found) {
        (Some(Value::Object(expected)), Some(Value::Object(found))) => compare_maps(path, expected, found, paths),
        (Some(Value::Object(expected)), None) if !expected.is_empty() => {
            compare_maps(path, expected, &nothing, paths);
        }
        (None, Some(Value::Object(found))) if !found.is_empty() => compare_maps(path, &nothing, found, paths),
        (Some(Value::Array(expected)), Some(Value::Array(found))) => compare_lists(path, expected, found, paths),
        (Some(expected), Some(found)) if super::of_value(expected) == super::of_value(found) => {}
        (None, None) => {}
        _ => paths.push(path.clone()),
    }
}

fn compare_maps(
    path: &FieldPath,
    expected: &Map<String, Value>,
    found: &Map<String, Value>,
    paths: &mut Vec<FieldPath>,
) {
    let added = found.keys().filter(|key| !expected.contains_key(*key));
    for key in expected.keys().chain(added) {
        compare(&path.below(Step::Key(key.clone())), expected.get(key), found.get(key), paths);
    }
}

fn compare_lists(path: &FieldPath, expected: &[Value], found: &[Value], paths: &mut Vec<FieldPath>) {
    let Some(key) = identifying_key(expected, found) else {
        if super::of_value(&Value::from(expected)) != super::of_value(&Value::from(found)) {
            paths.push(path.clone());
        }
        return;
    };
    let with_same_key = |element: &Value, list: &[Value]| list.iter().position(|other| other[key] == element[key]);
    let below = |element: &Value| path.below(Step::Element { key: key.to_owned(), value: element[key].clone() });

    let places: Vec<Option<usize>> = expected.iter().map(|element| with_same_key(element, found)).collect();
    if !places.iter().flatten().is_sorted() {
        paths.push(path.clone());
    }
    for (element, place) in expected.iter().zip(&places) {
        match place {
            Some(place) => compare(&below(element), Some(element), Some(&found[*place]), paths),
            None => paths.push(below(element)),
        }
    }
    paths.extend(found.iter().filter(|element| with_same_key(element, expected).is_none()).map(below));
}

/// The key by which the elements of two lists can be told apart: every element has it, and no two of one list have the
/// same value. These are the keys by which Kubernetes merges its own lists, and `name` is what custom resources use.
fn identifying_key(expected: &[Value], found: &[Value]) -> Option<&'static str> {
    const KEYS: [&str; 12] = [
        "name",
        "key",
        "containerPort",
        "port",
        "mountPath",
        "devicePath",
        "type",
        "ip",
        "topologyKey",
        "uid",
        "id",
        "host",
    ];
    let tells_apart = |list: &[Value], key: &str| {
        let mut seen = HashSet::new();
        list.iter().all(|element| match element.get(key) {
            Some(value @ (Value::String(_) | Value::Number(_))) => seen.insert(value),
            _ => false,
        })
    };
    KEYS.into_iter().find(|key| tells_apart(expected, key) && tells_apart(found, key))
}

/// Somebody other than our own apply who owns a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Culprit {
    /// Name of the field manager, such as `kubectl-edit`.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// `scale` where the field was changed through it; `None` for the object itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
    /// The field.
    pub path: FieldPath,
    /// When that manager last wrote the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

impl fmt::Display for Culprit {
    /// `spec.replicas by kubectl-edit`, and how where it was through a subresource: `by kubectl (scale)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.path, self.manager)?;
        match &self.subresource {
            Some(subresource) => write!(f, " ({subresource})"),
            None => Ok(()),
        }
    }
}

/// Who else owns the fields at some paths, path by path, whoever wrote last first.
///
/// A path that nobody else owns names nobody: the field was removed, or the server stores it otherwise than it was
/// sent. Of a path to a whole map or list, everybody is named who owns something in it.
pub fn other_owners(live: &Value, paths: &[FieldPath]) -> Vec<Culprit> {
    let mut culprits = Vec::new();
    for path in paths {
        let owners = managed_fields(live).filter(|entry| {
            let fields = entry.get("fieldsV1").and_then(Value::as_object);
            !is_ours(entry) && fields.is_some_and(|fields| owns(fields, &path.0, live))
        });
        let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut of_this_path: Vec<Culprit> = owners
            .map(|entry| Culprit {
                manager: text(entry, "manager"),
                operation: text(entry, "operation"),
                subresource: Some(text(entry, "subresource")).filter(|name| !name.is_empty()),
                path: path.clone(),
                time: text(entry, "time").parse().ok(),
            })
            .collect();
        of_this_path.sort_by_key(|culprit| std::cmp::Reverse(culprit.time));
        culprits.extend(of_this_path);
    }
    culprits
}

/// Whether a set of owned fields holds the value at `path`, something around it that is owned whole, or something
/// in it. `live` is the value that the set speaks of.
fn owns(fields: &Map<String, Value>, path: &[Step], live: &Value) -> bool {
    let Some((step, rest)) = path.split_first() else { return true };
    let owned_whole = fields.is_empty();
    owned_whole
        || fields.iter().any(|(child, below)| {
            let (Some(child), Some(below)) = (Child::parse(child), below.as_object()) else { return false };
            match step {
                Step::Key(key) => {
                    let is_meant = matches!(child, Child::Field(name) if name == key);
                    is_meant && owns(below, rest, live.get(key).unwrap_or(&Value::Null))
                }
                Step::Element { key, value } => {
                    live.as_array().into_iter().flatten().enumerate().any(|(place, element)| {
                        element.get(key) == Some(value) && child.selects(place, element) && owns(below, rest, element)
                    })
                }
                Step::Item(value) => matches!(&child, Child::Item(item) if item == value),
            }
        })
}
