//! What the server says we own of an object, and a short hash of it.
//!
//! Takes a live object with its `managedFields` and gives back only our part: the values at the paths of our own
//! server-side-apply entry. It needs no schema, because the server has already said which lists are merged by key,
//! which are sets and which are taken whole. What others put into the object (defaults, sidecars, list entries,
//! status) is not in our entry and therefore no drift; a changed value, a removed entry, a changed order of our own
//! entries and lost ownership all are.
//!
//! Two fingerprints of live objects can always be compared with each other. The fingerprint of a desired object equals
//! that of the live one only where the server stores what it was sent: equal means clean, unequal means "apply it".
//!
//! Known limit: an empty map or list that was applied looks like a value owned as a whole. What others put into it
//! shows as drift once, until the next apply has answered.

mod drift;
mod fields;

use std::fmt;

use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use crate::names;

pub use drift::{Culprit, FieldPath, Step, differences, other_owners};
pub use fields::{FieldSet, co_owners, others};
pub(crate) use fields::{entries_of_others, has_subresource, text_of};

/// The first 16 bytes of the SHA-256 of an object's canonical JSON: keys sorted, no blanks, integral floats written as
/// integers.
///
/// # Guarantees
/// Equal values have equal fingerprints, whatever the order of their keys. The order of lists counts, and so does
/// where a value stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl fmt::Display for Fingerprint {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The fingerprint of our part of a live object. `None` as in [`project`].
pub fn of_live(live: &Value) -> Option<Fingerprint> {
    project(live).map(|owned| of_value(&owned))
}

/// The fingerprint that the live object has if the server stores `body` unchanged.
pub fn of_desired(body: &Map<String, Value>) -> Fingerprint {
    of_value(&expected(body))
}

/// The fingerprint of any value.
fn of_value(value: &Value) -> Fingerprint {
    let mut text = Vec::new();
    write_canonical(value, &mut text);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(&text)[..16]);
    Fingerprint(bytes)
}

/// What [`project`] gives if the server stores `body` unchanged: the body without `apiVersion`, `kind`,
/// `metadata.name`, `metadata.namespace`, and without `metadata` if nothing else is in it. Nobody can own those.
pub fn expected(body: &Map<String, Value>) -> Value {
    let mut rest = Map::new();
    for (key, value) in body {
        match (key.as_str(), value) {
            ("apiVersion" | "kind", _) => {}
            ("metadata", Value::Object(metadata)) => {
                let is_owned = |name: &str| name != "name" && name != "namespace";
                let metadata: Map<_, _> =
                    metadata.iter().filter(|(name, _)| is_owned(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
                if !metadata.is_empty() {
                    rest.insert(key.clone(), Value::Object(metadata));
                }
            }
            _ => {
                rest.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(rest)
}

/// Our part of a live object: exactly the values at the paths of our `managedFields` entry.
///
/// Lists hold only our own elements, in the order in which they stand in the live list. A path that we own and that
/// has no value is left out, so that it differs from what was applied.
///
/// `None` where the object has no entry of ours: it was never applied, or `managedFields` was wiped.
///
/// # Guarantees
/// Where the server stored what it was sent, this equals [`expected`] of what was applied.
pub fn project(live: &Value) -> Option<Value> {
    let entry = our_entry(live)?;
    let fields = entry.get("fieldsV1").and_then(Value::as_object);
    let mut owned = match fields.filter(|fields| !fields.is_empty()).and_then(|fields| project_fields(fields, live)) {
        Some(Value::Object(owned)) => owned,
        // An object can be applied without owning anything of it; it is never owned as a whole.
        _ => Map::new(),
    };
    if owned.get("metadata").and_then(Value::as_object).is_some_and(Map::is_empty) {
        owned.remove("metadata");
    }
    Some(Value::Object(owned))
}

/// Our own Apply entry in `managedFields`. Of several (one for each version that was applied), the one whose paths are
/// in the version in which the object was read.
fn our_entry(live: &Value) -> Option<&Value> {
    let mut ours = managed_fields(live).filter(|entry| is_ours(entry)).peekable();
    let first = *ours.peek()?;
    let version = live.get("apiVersion");
    Some(ours.find(|entry| entry.get("apiVersion") == version).unwrap_or(first))
}

fn managed_fields(live: &Value) -> impl Iterator<Item = &Value> {
    live.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten()
}

/// Whether an entry is the one that our applies write. Somebody who updates under our name makes another entry.
fn is_ours(entry: &Value) -> bool {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    text("manager") == names::FIELD_MANAGER && text("operation") == "Apply" && text("subresource").is_empty()
}

/// The values of `live` at the paths of `fields`. `None` where `live` is not of the shape that the paths speak of.
fn project_fields(fields: &Map<String, Value>, live: &Value) -> Option<Value> {
    let children: Vec<(Child, &Map<String, Value>)> =
        fields.iter().filter_map(|(key, below)| Some((Child::parse(key)?, below.as_object()?))).collect();
    match live {
        _ if fields.is_empty() => Some(live.clone()),
        Value::Object(live) => {
            let values = children.iter().filter_map(|(child, below)| match child {
                Child::Field(name) => Some(((*name).to_owned(), project_fields(below, live.get(*name)?)?)),
                _ => None,
            });
            Some(Value::Object(values.collect()))
        }
        Value::Array(live) => {
            let values = live.iter().enumerate().filter_map(|(index, element)| {
                let (_, below) = children.iter().find(|(child, _)| child.selects(index, element))?;
                project_fields(below, element)
            });
            Some(Value::Array(values.collect()))
        }
        // Only the thing itself can be owned of a scalar.
        scalar => fields.contains_key(".").then(|| scalar.clone()),
    }
}

/// One path element of FieldsV1. `.`, the thing itself, is none: it leads nowhere.
pub(crate) enum Child<'a> {
    /// `f:name`: a key of a map.
    Field(&'a str),
    /// `k:{"name":"web"}`: the list element with these keys.
    Keys(Map<String, Value>),
    /// `v:"text"`: the element of a set.
    Item(Value),
    /// `i:3`: the list element at this place.
    Index(usize),
}

impl<'a> Child<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Child<'a>> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Child::Field(rest)),
            "k" => serde_json::from_str(rest).ok().map(Child::Keys),
            "v" => serde_json::from_str(rest).ok().map(Child::Item),
            "i" => rest.parse().ok().map(Child::Index),
            _ => None,
        }
    }

    /// Whether it means this element of a list. An absent key is never equal to a key's default.
    pub(crate) fn selects(&self, index: usize, element: &Value) -> bool {
        match self {
            Child::Field(_) => false,
            Child::Keys(keys) => keys.iter().all(|(name, value)| element.get(name) == Some(value)),
            Child::Item(value) => element == value,
            Child::Index(wanted) => index == *wanted,
        }
    }
}

/// Writes JSON with sorted keys, without blanks, and with integral floats as integers.
fn write_canonical(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Null => text.extend(b"null"),
        Value::Bool(value) => text.extend(value.to_string().into_bytes()),
        Value::Number(number) => text.extend(canonical_number(number).into_bytes()),
        Value::String(value) => write_string(value, text),
        Value::Array(values) => {
            text.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_canonical(value, text);
            }
            text.push(b']');
        }
        Value::Object(values) => {
            let mut values: Vec<(&String, &Value)> = values.iter().collect();
            values.sort_unstable_by_key(|(key, _)| *key);
            text.push(b'{');
            for (index, (key, value)) in values.into_iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_string(key, text);
                text.push(b':');
                write_canonical(value, text);
            }
            text.push(b'}');
        }
    }
}

fn write_string(value: &str, text: &mut Vec<u8>) {
    serde_json::to_writer(text, value).expect("a string is always JSON, and a Vec takes every byte");
}

/// `1e3`, `1000.0` and `1000` are one number: YAML and the server write it in different ways.
fn canonical_number(number: &Number) -> String {
    /// Every integral float below this is an `i64` without loss.
    const TWO_TO_THE_63: f64 = 9_223_372_036_854_775_808.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < TWO_TO_THE_63 => {
            (float as i64).to_string()
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests;
