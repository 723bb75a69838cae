//! Whose fields are whose: what is taken over from the tool that had an object before, what an apply took from others,
//! and what git dropped and others keep.
//!
//! Takes live objects with their `managedFields` and gives patches and sentences. No sentence holds a value.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fingerprint::{FieldPath, FieldSet, entries_of_others, has_subresource, text_of};
use crate::names::FIELD_MANAGER;

/// Tools that had an object before us, by the name of their field manager: what they applied is taken over, so that
/// what git does not have goes.
///
/// kubectl (client-side and server-side apply, create, replace), Flux and Argo CD. Controllers are not among them.
pub const FORMER_TOOLS: [&str; 9] = [
    "kubectl",
    "kubectl-client-side-apply",
    "kubectl-create",
    "kubectl-last-applied",
    "kubectl-replace",
    "kustomize-controller",
    "argocd-controller",
    "argocd-application-controller",
    BEFORE_FIRST_APPLY,
];

/// The manager that the API server makes up for what an object held when it was first applied without `managedFields`.
/// It owns everything, also what controllers wrote, so only what we own too is taken from it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Where kubectl's client-side apply keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields that are named in one sentence; the rest is counted.
const NAMED_FIELDS: usize = 5;

/// Whether what a manager applied is taken over.
pub fn is_former(manager: &str, also: &BTreeSet<String>) -> bool {
    FORMER_TOOLS.contains(&manager) || also.contains(manager)
}

/// How an object is taken over.
#[derive(Clone, Debug, PartialEq)]
pub struct TakeOver {
    /// A JSON patch (RFC 6902) of `managedFields`, which holds only for the resource version that was read.
    pub patch: Value,
    /// What was taken from whom, by manager and field.
    pub taken: Vec<String>,
}

/// Takes over what former tools own of an object, as client-go's `csaupgrade` does: their fields become ours, and the
/// next apply removes those that git does not have. `None` where there is nothing to take over.
///
/// Of an object that is adopted every former tool's entry is taken; of one that is ours already only those that share
/// a value with us. `also` names managers beside [`FORMER_TOOLS`]. What was written through a subresource stays where
/// it is.
pub fn take_over(live: &Value, also: &BTreeSet<String>, is_adopted: bool) -> Option<TakeOver> {
    let ours = FieldSet::ours(live);
    let own = ours.clone().unwrap_or_default();
    let mut merged = own.clone();
    let mut newest: Option<&Value> = None;
    let mut kept = Vec::new();
    let mut taken = Vec::new();
    for entry in entries_of_others(live) {
        let manager = text_of(entry, "manager");
        let theirs = FieldSet::of_entry(entry);
        let is_meant = is_former(manager, also)
            && !has_subresource(entry)
            && (theirs.shares_a_value_with(&own) || (is_adopted && manager != BEFORE_FIRST_APPLY));
        if !is_meant {
            kept.push(entry.clone());
            continue;
        }
        if manager == BEFORE_FIRST_APPLY {
            let rest = theirs.minus(&own);
            taken.push(sentence(&theirs.both(&own).paths(), manager));
            if !rest.is_empty() {
                let mut entry = entry.clone();
                entry["fieldsV1"] = rest.to_value();
                kept.push(entry);
            }
            continue;
        }
        taken.push(sentence(&theirs.paths(), manager));
        merged = merged.union(&theirs);
        if newest.is_none_or(|newest| text_of(newest, "time") < text_of(entry, "time")) {
            newest = Some(entry);
        }
    }
    if taken.is_empty() {
        return None;
    }
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
    let own_entry = entries.clone().find(|entry| is_own(entry)).or(newest);
    if let Some(from) = own_entry {
        let mut entry = json!({
            "manager": FIELD_MANAGER, "operation": "Apply", "apiVersion": text_of(from, "apiVersion"),
            "fieldsType": "FieldsV1", "fieldsV1": merged.to_value(),
        });
        if let Some(time) = from.get("time") {
            entry["time"] = time.clone();
        }
        kept.retain(|entry| !is_own(entry));
        kept.insert(0, entry);
    }
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]}),
        json!({"op": "replace", "path": "/metadata/managedFields", "value": kept}),
    ];
    if live["metadata"]["annotations"].get(LAST_APPLIED).is_some() {
        let path = format!("/metadata/annotations/{}", LAST_APPLIED.replace('/', "~1"));
        patch.push(json!({"op": "remove", "path": path}));
    }
    Some(TakeOver { patch: Value::Array(patch), taken })
}

fn is_own(entry: &Value) -> bool {
    text_of(entry, "manager") == FIELD_MANAGER && text_of(entry, "operation") == "Apply" && !has_subresource(entry)
}

/// What a forced apply took from others: fields that somebody else owned before and that are ours alone now. One
/// sentence for each manager.
pub fn taken(before: &Value, after: &Value) -> Vec<String> {
    let Some(ours) = FieldSet::ours(after) else { return Vec::new() };
    let id = |entry: &Value| -> [String; 4] {
        ["manager", "operation", "subresource", "apiVersion"].map(|name| text_of(entry, name).to_owned())
    };
    let mut sentences = Vec::new();
    for entry in entries_of_others(before) {
        let still = entries_of_others(after).find(|later| id(later) == id(entry));
        let still = still.map(FieldSet::of_entry).unwrap_or_default();
        let lost = FieldSet::of_entry(entry).minus(&still).both(&ours).paths();
        if !lost.is_empty() {
            sentences.push(sentence(&lost, text_of(entry, "manager")));
        }
    }
    sentences
}

/// What git dropped and others keep: fields that were ours before an apply and are not after it, and that somebody
/// else owns. One sentence for each manager. What was left to somebody on purpose is named in `left`.
pub fn staying(before: &Value, after: &Value, left: &[FieldPath]) -> Vec<String> {
    let (Some(before), Some(ours)) = (FieldSet::ours(before), FieldSet::ours(after)) else { return Vec::new() };
    let dropped = before.minus(&ours);
    let mut sentences = Vec::new();
    for entry in entries_of_others(after) {
        let mut paths = dropped.both(&FieldSet::of_entry(entry)).paths();
        paths.retain(|path| !left.contains(path));
        if !paths.is_empty() {
            let manager = text_of(entry, "manager");
            sentences.push(format!("{} left git and stays: {manager} has it too", named(&paths)));
        }
    }
    sentences
}

/// `spec.replicas, spec.paused from helm`.
fn sentence(paths: &[FieldPath], manager: &str) -> String {
    format!("{} from {manager}", named(paths))
}

fn named(paths: &[FieldPath]) -> String {
    let mut text: Vec<String> = paths.iter().take(NAMED_FIELDS).map(ToString::to_string).collect();
    if paths.len() > NAMED_FIELDS {
        text.push(format!("and {} more", paths.len() - NAMED_FIELDS));
    }
    match text.is_empty() {
        true => "nothing".to_owned(),
        false => text.join(", "),
    }
}

#[cfg(test)]
mod tests;
