//! What is there: by the watches, and by name for what the watches do not know. And how it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use towpath_core::fault::Problem;
use towpath_core::health::{self, Health};
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::Observed;
use towpath_core::policy::{Cleared, Desired};

use super::{Memory, Pass, Progress, kind_of};
use crate::cluster::{AccountClient, Kind, Kinds};

/// Workloads whose pods are asked for the reason in one pass.
const MAX_EXPLAINED: usize = 5;
/// How long an explanation is good for.
const EXPLAINED_FOR: Duration = Duration::from_secs(10);

/// A kind in a namespace: what one watch covers.
type Spot = (Kind, Option<String>);

/// Reads the cluster. With a hole in the reading there is none: unknown is never absent.
///
/// # Errors
/// When any watch has not listed, or a name could not be looked up.
pub(super) async fn observe(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    desired: &Cleared,
    kinds: &Kinds,
) -> Result<Observed, Problem> {
    let inventory = memory.inventory.clone().unwrap_or_default();
    let wanted = desired.objects().iter().map(|object| (&object.key, object.api_version.as_str()));
    let members = inventory.iter().map(|(key, member)| (key, member.api_version.as_str()));
    let mut spots: BTreeMap<&ObjectKey, Spot> = BTreeMap::new();
    // The version that is desired now goes before the one that was applied once.
    for (key, api_version) in wanted.chain(members) {
        if let Some(kind) = kind_of(kinds, api_version, key) {
            spots.entry(key).or_insert_with(|| (kind.clone(), key.namespace.clone()));
        }
    }
    follow(memory, account, spots.values().cloned().collect()).await?;

    let ours = pass.cluster.live().snapshot(&pass.environment.name);
    let left_alone: BTreeSet<&ObjectKey> =
        desired.objects().iter().filter(|object| object.leave_alone).map(|object| &object.key).collect();
    let mut unseen: HashMap<&Spot, Vec<ObjectKey>> = HashMap::new();
    for (key, spot) in &spots {
        if !ours.contains_key(*key) && !left_alone.contains(*key) {
            unseen.entry(spot).or_default().push((*key).clone());
        }
    }
    let mut foreign = BTreeMap::new();
    for ((kind, namespace), keys) in unseen {
        foreign.extend(account.look_up(kind, namespace.as_deref(), &keys, &pass.environment.name).await?);
    }
    Ok(Observed { ours, foreign })
}

/// Keeps exactly the watches that are needed, and waits until each has listed once.
async fn follow(memory: &mut Memory, account: &AccountClient, spots: Vec<Spot>) -> Result<(), Problem> {
    memory.watches.retain(|spot, _| spots.contains(spot));
    for spot in spots {
        memory.watches.entry(spot.clone()).or_insert_with(|| account.watch(&spot.0, spot.1.as_deref()));
    }
    let mut failed = None;
    for watch in memory.watches.values() {
        if let Err(problem) = watch.listed().await {
            failed = Some(problem);
        }
    }
    match failed {
        None => Ok(()),
        Some(problem) => {
            // A watch that failed may have been refused; a new one asks again at the next pass.
            memory.watches.clear();
            Err(problem)
        }
    }
}

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
        progress.health.insert(object.key.to_string(), (health, message));
    }
}

/// Asks the pods of a workload why it is not healthy. What cannot be asked is left out.
async fn explain(memory: &mut Memory, account: &AccountClient, object: &Desired, kinds: &Kinds) -> Option<String> {
    if let Some((when, text)) = memory.explained.get(&object.key)
        && when.elapsed() < EXPLAINED_FOR
    {
        return (!text.is_empty()).then(|| text.clone());
    }
    let body: Value = serde_json::from_str(&object.body).ok()?;
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
