//! Makes manifests of documents: each is held to what every object must have, and brought into the one form in which
//! it is applied and compared.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::fault::{Place, Problem};
use crate::limits;
use crate::manifest::{Identity, Manifest, ObjectKey, group_of};
use crate::names;
use crate::yaml::{Document, Scan};

/// The manifests of a text's documents. `place` tells where a line of the text comes from.
///
/// A `List` is taken apart, once. Problems and manifests stand beside each other, so that all are found.
pub(super) fn manifests(
    documents: Vec<Document>,
    scan: &Scan<'_>,
    place: &dyn Fn(u32) -> Place,
    problems: &mut Vec<Problem>,
) -> Vec<Manifest> {
    let mut manifests = Vec::with_capacity(documents.len());
    for (index, Document { body, line }) in documents.into_iter().enumerate() {
        let source = place(line);
        let Value::Object(mut body) = body else {
            let what = match body {
                Value::Null => "null",
                Value::Array(_) => "a list",
                _ => "a scalar",
            };
            problems.push(Problem::content(format!("the document is {what}, not an object")).at(source));
            continue;
        };
        let field_place = |path: &[&str]| place(scan.place_of(index, path).map_or(line, |(line, _)| line));
        match take_list(&mut body) {
            None => {
                if let Some(manifest) = manifest(body, source, &field_place, problems) {
                    manifests.push(manifest);
                }
            }
            Some(items) if items.is_empty() => {
                problems.push(Problem::content("a List without items").at(source).hint("delete the document"));
            }
            Some(items) => {
                let lines = scan.places_of_items(index, "items");
                for (number, item) in items.into_iter().enumerate() {
                    // The items of an alias stand elsewhere.
                    let source = place(lines.get(number).map_or(line, |(line, _)| *line));
                    let item_place = |_: &[&str]| source.clone();
                    match item {
                        Value::Object(item) if !is_list(&item) => {
                            if let Some(manifest) = manifest(item, source.clone(), &item_place, problems) {
                                manifests.push(manifest);
                            }
                        }
                        Value::Object(_) => problems.push(Problem::content("a List within a List").at(source)),
                        _ => problems.push(Problem::content("an item of a List that is no object").at(source)),
                    }
                }
            }
        }
    }
    manifests
}

/// Whether kubectl would take an object apart.
fn is_list(body: &Map<String, Value>) -> bool {
    let kind = body.get("kind").and_then(Value::as_str).unwrap_or_default();
    let is_named = body.get("metadata").is_some_and(|metadata| metadata.get("name").is_some());
    !is_named && (kind == "List" || kind.ends_with("List") && body.get("items").is_some_and(Value::is_array))
}

/// The items of a `List`.
fn take_list(body: &mut Map<String, Value>) -> Option<Vec<Value>> {
    if !is_list(body) {
        return None;
    }
    match body.remove("items") {
        Some(Value::Array(items)) => Some(items),
        _ => Some(Vec::new()),
    }
}

fn manifest(
    mut body: Map<String, Value>,
    source: Place,
    place: &dyn Fn(&[&str]) -> Place,
    problems: &mut Vec<Problem>,
) -> Option<Manifest> {
    let found_before = problems.len();
    let mut missing = Vec::new();
    let mut text = |path: &[&str], is_needed: bool| -> Option<String> {
        let field = path.join(".");
        match body.get(path[0]).and_then(|value| path[1..].iter().try_fold(value, |value, key| value.get(*key))) {
            Some(Value::String(text)) => return Some(text.clone()),
            Some(_) => problems.push(Problem::content(format!("{field} is no text")).at(place(path)).hint("quote it")),
            None if is_needed => missing.push(field),
            None => {}
        }
        None
    };
    let api_version = text(&["apiVersion"], true);
    let kind = text(&["kind"], true);
    let name = text(&["metadata", "name"], true);
    let namespace = text(&["metadata", "namespace"], false);
    let mut problem = |path: &[&str], message: String, hint: &str| {
        problems.push(Problem::content(message).at(place(path)).hint(hint));
    };
    if body.get("metadata").is_some_and(|metadata| metadata.get("generateName").is_some()) {
        problem(
            &["metadata", "generateName"],
            "refused: metadata.generateName, which makes a new object at each apply".to_owned(),
            "write metadata.name",
        );
    } else if !missing.is_empty() {
        problem(&[], format!("no {}", missing.join(", no ")), "every object has apiVersion, kind and metadata.name");
    }
    let is_word =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'/'));
    if let Some(text) = &api_version
        && (text.is_empty() || !is_word(text) || text.matches('/').count() > 1)
    {
        problem(&["apiVersion"], format!("{text:?} is no apiVersion"), "write v1, or group/v1");
    }
    if let Some(text) = &kind
        && (text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    {
        problem(&["kind"], format!("{text:?} is no kind"), "write it as kubectl explain shows it");
    }
    let is_name = |name: &str| {
        (1..=253).contains(&name.len())
            && !matches!(name, "." | "..")
            && name.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '%'))
    };
    if let Some(text) = name.as_deref().filter(|name| !is_name(name)) {
        let hint = "use letters, digits, - and ., at most 253 of them";
        problem(&["metadata", "name"], format!("{text:?} is no name of an object"), hint);
    }
    if let Some(text) = namespace.as_deref().filter(|namespace| !names::is_dns_label(namespace)) {
        problem(&["metadata", "namespace"], format!("{text:?} is no namespace"), "use up to 63 of a-z, 0-9 and -");
    }
    let (api_version, kind, name) = (api_version?, kind?, name?);
    if api_version == "v1" && kind == "Secret" {
        encode_string_data(&mut body, &mut |key, message| {
            problem(&["stringData", key], message, "quote it");
        });
    }
    if group_of(&api_version) == "rbac.authorization.k8s.io"
        && kind == "ClusterRole"
        && body.contains_key("aggregationRule")
    {
        // The control plane fills them in, and would be fought.
        body.remove("rules");
    }
    let size = size_of(&body);
    if size > limits::MAX_OBJECT_BYTES {
        let limit = limits::MAX_OBJECT_BYTES;
        problem(&[], format!("the object has {size} bytes, more than the {limit} a cluster takes"), "split it");
    }
    if problems.len() > found_before {
        return None;
    }
    let key = ObjectKey::from(Identity { group: group_of(&api_version).to_owned(), kind, namespace, name });
    Some(Manifest { key, api_version, body, source })
}

/// Moves the `stringData` of a Secret into `data`, as the API server would: it is what comes back, so it is what is
/// compared.
fn encode_string_data(body: &mut Map<String, Value>, problem: &mut dyn FnMut(&str, String)) {
    let Some(texts) = body.remove("stringData") else { return };
    let Value::Object(texts) = texts else {
        problem("", "stringData is no map".to_owned());
        return;
    };
    let mut encoded = Map::new();
    let mut wrong = Vec::new();
    for (key, value) in texts {
        match value {
            Value::String(text) => {
                encoded.insert(key, Value::String(STANDARD.encode(text)));
            }
            _ => wrong.push(key),
        }
    }
    for key in wrong.iter().take(10) {
        problem(key, format!("stringData.{key} is no text"));
    }
    match body.get_mut("data") {
        Some(Value::Object(data)) => data.extend(encoded),
        _ => {
            body.insert("data".to_owned(), Value::Object(encoded));
        }
    }
}

/// Bytes of an object as JSON.
pub(super) fn size_of(body: &Map<String, Value>) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, body).expect("JSON in memory can always be written");
    counter.0
}
