//! Our own labels and annotations: the agent's marks may not come from git, and what people may write is checked.

use serde_json::Value;

use crate::course;
use crate::fault::Problem;
use crate::manifest::{Manifest, is_protected};
use crate::names::annotation;
use crate::pointer::{NotAPointer, Pointer};

/// Refuses forged ownership marks, unknown annotations under our name, and values that mean nothing.
pub(super) fn judge(manifest: &Manifest, found: &mut Vec<Problem>) {
    let mut refuse = |message: String, hint: &str| {
        found.push(Problem::content(message).at(manifest.source.clone()).hint(hint));
    };
    let metadata = manifest.body.get("metadata");
    let map = |name: &str| metadata.and_then(|metadata| metadata.get(name)).and_then(Value::as_object);

    for (name, value) in map("labels").into_iter().flatten() {
        if name.starts_with("towpath.dev/") || name.starts_with("applyset.kubernetes.io/") {
            refuse(format!("label {name} of {} is a mark of ownership", manifest.key), "remove it: the agent sets it");
        } else if !value.is_string() {
            refuse(format!("label {name} of {} is not a text", manifest.key), "quote the value");
        }
    }
    for (name, value) in map("annotations").into_iter().flatten() {
        let Some(text) = value.as_str() else {
            refuse(format!("annotation {name} of {} is not a text", manifest.key), "quote the value");
            continue;
        };
        if name.starts_with("applyset.kubernetes.io/") {
            refuse(format!("annotation {name} of {} is a mark of ownership", manifest.key), "remove it");
        }
        if !name.starts_with("towpath.dev/") {
            continue;
        }
        if !annotation::FOR_OBJECTS.contains(&name.as_str()) {
            refuse(
                format!("annotation {name} of {} is not one that objects may have", manifest.key),
                &format!("use one of {}", annotation::FOR_OBJECTS.join(", ")),
            );
            continue;
        }
        let meaning = match name.as_str() {
            annotation::PRUNE => (text == "Never").then_some(()).ok_or("the only value is Never"),
            annotation::REPLACE if is_protected(&manifest.key) => {
                Err("what takes more with it than itself is never replaced: remove the annotation")
            }
            annotation::ADOPT | annotation::REPLACE => {
                (text == "true").then_some(()).ok_or("the only value is \"true\"")
            }
            annotation::RECONCILE => (text == "Disabled").then_some(()).ok_or("the only value is Disabled"),
            annotation::WAVE => course::wave(text).map(drop).ok_or("a whole number is needed, in quotes"),
            annotation::HOOK => course::phases(text).map(drop).ok_or("BeforeSync, AfterSync, or both with a comma"),
            // Any reason, and none too.
            annotation::NOT_REVERTIBLE => Ok(()),
            _ => pointers(text)
                .iter()
                .all(Result::is_ok)
                .then_some(())
                .ok_or("JSON pointers such as /spec/replicas, separated by commas; not the object's identity"),
        };
        if let Err(hint) = meaning {
            refuse(format!("annotation {name} of {} cannot be {text:?}", manifest.key), hint);
        }
    }
}

/// The JSON pointers of an `ignore` annotation.
pub(super) fn pointers(text: &str) -> Vec<Result<Pointer, NotAPointer>> {
    let parts = text.split([',', ' ', '\n']).map(str::trim).filter(|pointer| !pointer.is_empty());
    parts.map(Pointer::parse).collect()
}
