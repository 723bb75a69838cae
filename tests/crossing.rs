//! Where waves, hooks, dry runs, drift and newer commits meet.

mod refused;
mod turns;

use serde_json::{Value, json};
use towpath_core::status::{EnvironmentStatus, HookOutcome};

use crate::manifests::definition;

/// The definition of a Gear with fields that are numbers: a Gear with another field is refused.
fn gears(group: &str, fields: &[&str]) -> String {
    let numbers: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), json!({"type": "integer"}))).collect();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": numbers}}});
    definition(&format!("{group}/v1"), "Gear", schema).to_string()
}

fn gear(group: &str, spec: Value) -> String {
    json!({"apiVersion": format!("{group}/v1"), "kind": "Gear", "metadata": {"name": "g"}, "spec": spec}).to_string()
}

/// Whether the sync under way is that of a commit, and has a hook that runs.
fn runs_hook(status: &EnvironmentStatus, commit: &str) -> bool {
    status.sync.as_ref().is_some_and(|sync| {
        sync.revision.ends_with(commit) && sync.hooks.iter().any(|run| run.outcome == HookOutcome::Running)
    })
}
