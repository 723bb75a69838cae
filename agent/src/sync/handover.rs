//! Objects that git keeps and the agent does not touch: they say so in the cluster, too.

use futures::{FutureExt, StreamExt};
use serde_json::{Map, Value, json};
use towpath_core::fault::Problem;
use towpath_core::fingerprint;
use towpath_core::names::annotation;
use towpath_core::policy::Desired;

use super::work::Work;
use super::{CONCURRENCY, Progress};
use crate::cluster::{AccountClient, Kind, Kinds};

/// Puts `towpath.dev/reconcile: Disabled` on members that are disabled in git, and changes no other field. Without it a
/// member that leaves git later would look like any other, and be pruned.
pub(super) async fn mark(work: &Work<'_>, kinds: &Kinds, progress: &mut Progress) {
    let Work { pass, account, desired, observed, plan } = *work;
    let mut marks = Vec::new();
    for step in &plan.steps {
        let object = &desired.objects()[step.index];
        let is_unmarked = |seen: &towpath_core::plan::Seen| {
            !seen.never_prune && seen.terminating.is_none() && seen.fingerprint.is_some()
        };
        if !object.leave_alone || !observed.ours.get(&step.key).is_some_and(is_unmarked) || (pass.overtaken)() {
            continue;
        }
        if let Some(kind) = kinds.get(&object.api_version, &object.key.kind) {
            marks.push(mark_one(account, kind, object).boxed());
        }
    }
    let failed = futures::stream::iter(marks).buffer_unordered(CONCURRENCY);
    let failed: Vec<Problem> = failed.filter_map(|result| std::future::ready(result.err())).collect().await;
    progress.problems.extend(failed);
}

/// Applies what is ours of an object as it is there now, with the annotation.
async fn mark_one(account: &AccountClient, kind: &Kind, object: &Desired) -> Result<(), Problem> {
    let Some(live) = account.read(kind, &object.key).await? else { return Ok(()) };
    let Some(Value::Object(body)) = fingerprint::project(&live).map(|ours| marked(ours, &live)) else { return Ok(()) };
    // Not forced: whatever somebody changed in between is theirs.
    account.send(kind, object, &body, false, false).await.map(drop).map_err(|refused| refused.problem)
}

/// Our part of a live object as an apply of it, with the annotation.
fn marked(mut ours: Value, live: &Value) -> Value {
    for name in ["apiVersion", "kind"] {
        ours[name] = live[name].clone();
    }
    if !ours["metadata"].is_object() {
        ours["metadata"] = Value::Object(Map::new());
    }
    for name in ["name", "namespace"] {
        if let Some(value) = live["metadata"].get(name) {
            ours["metadata"][name] = value.clone();
        }
    }
    if !ours["metadata"]["annotations"].is_object() {
        ours["metadata"]["annotations"] = json!({});
    }
    ours["metadata"]["annotations"][annotation::RECONCILE] = "Disabled".into();
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_changes_nothing_but_the_annotation() {
        let live = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": "web", "labels": {"x": "1", "theirs": "2"}},
            "data": {"k": "changed by hand"},
        });
        let ours = json!({"metadata": {"labels": {"x": "1"}}, "data": {"k": "changed by hand"}});
        assert_eq!(
            marked(ours, &live),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {
                    "name": "a", "namespace": "web", "labels": {"x": "1"},
                    "annotations": {"towpath.dev/reconcile": "Disabled"},
                },
                "data": {"k": "changed by hand"},
            })
        );
    }
}
