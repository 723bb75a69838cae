//! Objects that are not only ours: taken over, shared, fought over, given away.

mod contention;
mod sharing;
mod takeover;
mod traps;

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::Value;
use support::audit::{Mark, Request};
use support::world::World;

/// Applies an object of this world's namespace by server-side apply, forced, as a manager of this name.
async fn apply_as(world: &World, manager: &str, object: &Value) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let api = world.api(text("/apiVersion"), text("/kind")).await;
    let params = PatchParams::apply(manager).force();
    api.patch(text("/metadata/name"), &params, &Patch::Apply(object)).await.expect("the apply is taken");
}

/// Merge-patches an object as a manager of this name.
async fn patch_as(world: &World, manager: &str, api_version: &str, kind: &str, name: &str, patch: Value) {
    let params = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
    world.api(api_version, kind).await.patch(name, &params, &Patch::Merge(patch)).await.expect("the patch is taken");
}

/// Sets the replicas of a Deployment through its scale, as a manager of this name.
async fn scale_as(world: &World, manager: &str, name: &str, replicas: u32) {
    let params = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
    let patch = serde_json::json!({"spec": {"replicas": replicas}});
    let api = world.api("apps/v1", "Deployment").await;
    api.patch_scale(name, &params, &Patch::Merge(patch)).await.expect("the scale is taken");
}

/// The managers of an object, as `manager Operation`, with the subresource.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let line = |entry: &Value| {
        let subresource = text(entry, "subresource");
        let subresource = if subresource.is_empty() { subresource } else { format!(" {subresource}") };
        format!("{} {}{subresource}", text(entry, "manager"), text(entry, "operation"))
    };
    entries.map(line).collect()
}

/// The notes of the Events of one reason about the Environments of this world, as soon as there is one: they come a
/// moment after the status that says the same.
fn events(world: &World, reason: &str) -> Vec<String> {
    let arguments =
        ["get", "events", "-n", &world.namespace, "--field-selector", &format!("reason={reason}"), "-o", "json"];
    for _ in 0..100 {
        let list: Value = serde_json::from_str(&world.plane.kubectl(&arguments).unwrap()).unwrap();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        if !items.is_empty() {
            return items.iter().filter_map(|event| event["message"].as_str().map(str::to_owned)).collect();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Vec::new()
}

/// What the account asked for about one object since a mark, as `verb` or `verb?dry-run`.
fn asked(world: &World, mark: Mark, name: &str) -> Vec<String> {
    let is_meant = |request: &&Request| request.impersonated.is_some() && request.name == name;
    let requests = world.requests_since(mark);
    let line = |request: &Request| match request.uri.contains("dryRun=All") {
        true => format!("{}?dry-run", request.verb),
        false => request.verb.clone(),
    };
    requests.iter().filter(is_meant).map(line).collect()
}

/// How often the account wrote an object since a mark.
fn writes(world: &World, mark: Mark, name: &str) -> usize {
    asked(world, mark, name)
        .iter()
        .filter(|verb| matches!(verb.as_str(), "patch" | "create" | "update" | "delete"))
        .count()
}
