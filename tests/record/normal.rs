//! An object without what differs from run to run.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The first line of every recorded fixture.
pub const FIRST_LINE: &str = "# Recorded from the real controllers by `make record-health`; not edited.";

/// Stands for every point in time: five minutes before the tests of the health room look.
const TIME: &str = "2026-03-02T11:55:00Z";

/// The object as it is written down: stable times, UIDs, versions and addresses, and without `managedFields`.
pub fn normal(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("annotations");
        if metadata.contains_key("resourceVersion") {
            metadata.insert("resourceVersion".into(), "1".into());
        }
    }
    let mut uids = BTreeMap::new();
    replace(&mut object, &mut uids);
    object
}

/// A pod that a controller named, under a name of its own.
pub fn renamed(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let base = pod["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    pod["metadata"]["name"] = format!("{base}abcde").into();
    pod
}

fn replace(value: &mut Value, uids: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            addresses(fields);
            fields.values_mut().for_each(|value| replace(value, uids));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, uids)),
        Value::String(text) if is_time(text) => *text = TIME.into(),
        Value::String(text) if is_uid(text) => {
            let next = format!("00000000-0000-4000-8000-{:012}", uids.len() + 1);
            *text = uids.entry(text.clone()).or_insert(next).clone();
        }
        Value::String(text) => name_refused_pod(text),
        _ => {}
    }
}

/// A controller that may not make a pod names the one it tried: `pods "web-7d9f-x2k4p" is forbidden`.
fn name_refused_pod(text: &mut String) {
    if let Some(end) = text.strip_prefix("pods \"").and_then(|rest| Some(rest.find("\" is forbidden")? + 6)) {
        text.replace_range(end - 5..end, "abcde");
    }
}

fn addresses(fields: &mut Map<String, Value>) {
    for (name, address) in [("clusterIP", "10.96.0.7"), ("podIP", "10.244.0.7"), ("ip", "10.244.0.7")] {
        if fields.get(name).and_then(Value::as_str).is_some_and(|now| now.starts_with("10.")) {
            fields.insert(name.into(), address.into());
        }
    }
    if let Some(Value::Array(all)) = fields.get_mut("clusterIPs") {
        all.iter_mut().for_each(|one| *one = "10.96.0.7".into());
    }
    for port in ["nodePort", "healthCheckNodePort"] {
        if fields.get(port).is_some_and(Value::is_number) {
            fields.insert(port.into(), 30_007.into());
        }
    }
}

fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && text.ends_with('Z') && bytes[0].is_ascii_digit()
}

fn is_uid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}
