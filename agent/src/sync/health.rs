//! How the objects of an environment are, and why those are not well that are not.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use towpath_core::health::{self, Health};
use towpath_core::policy::{Cleared, Desired};

use super::{Memory, Pass, Progress};
use crate::cluster::{AccountClient, Kinds};

/// Workloads whose pods are asked for the reason in one pass.
const MAX_EXPLAINED: usize = 5;
/// How long an explanation is good for.
const EXPLAINED_FOR: Duration = Duration::from_secs(10);

/// Assesses the objects of an environment after everything was done.
pub(super) async fn health(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    desired: &Cleared,
    kinds: &Kinds,
    progress: &mut Progress,
) {
    let live = pass.cluster.live().snapshot(&pass.environment.name);
    let mut asked = 0;
    for object in desired.objects() {
        let (health, mut message) = match live.get(&object.key) {
            Some(seen) if seen.health.health == Health::Healthy => {
                progress.objects += 1;
                continue;
            }
            Some(seen) => (seen.health.health, seen.health.message.clone()),
            None if object.leave_alone => continue,
            None => (Health::Missing, "it is not there".to_owned()),
        };
        let may_have_pods = matches!(
            object.key.kind.as_str(),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "Rollout" | "CloneSet"
        );
        if matches!(health, Health::Progressing | Health::Degraded) && may_have_pods && asked < MAX_EXPLAINED {
            asked += 1;
            if let Some(why) = explain(memory, account, object, kinds).await {
                message = format!("{message}; {why}");
            }
        }
        progress.objects += 1;
        progress.unhealthy.insert(object.key.to_string(), (health, message));
    }
}

/// Asks the pods of a workload why it is not healthy. What cannot be asked is left out.
async fn explain(memory: &mut Memory, account: &AccountClient, object: &Desired, kinds: &Kinds) -> Option<String> {
    if let Some((when, text)) = memory.explained.get(&object.key)
        && when.elapsed() < EXPLAINED_FOR
    {
        return (!text.is_empty()).then(|| text.clone());
    }
    let body = Value::Object(object.body());
    let labels = match body.pointer("/spec/selector/matchLabels") {
        Some(Value::Object(labels)) => labels
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)))
            .collect::<Vec<_>>()
            .join(","),
        _ if object.key.kind == "Job" => format!("batch.kubernetes.io/job-name={}", object.key.name),
        _ => return None,
    };
    let pods = account.list(kinds.get("v1", "Pod")?, object.key.namespace.as_deref()?, &labels).await.ok()?;
    let text = health::explain_pods(&pods, Timestamp::now());
    memory.explained.insert(object.key.clone(), (Instant::now(), text.clone().unwrap_or_default()));
    text
}
