//! How the objects of an environment are, and why those are not well that are not.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use towpath_core::environment::LogMode;
use towpath_core::fault::Problem;
use towpath_core::health::{self, Explanation, Health};
use towpath_core::limits::MAX_LOG_LINES;
use towpath_core::manifest::{Identity, ObjectKey};
use towpath_core::plan::Table;
use towpath_core::policy::{Cleared, Desired};
use towpath_core::status::Unhealthy;

use super::{Memory, Pass, Progress, kind_of};
use crate::cluster::{AccountClient, Kinds};

/// Workloads whose pods are asked for the reason in one pass.
const MAX_EXPLAINED: usize = 5;
/// How long an explanation is good for.
const EXPLAINED_FOR: Duration = Duration::from_secs(10);

/// The group of OpenKruise's Rollouts.
const KRUISE: &str = "rollouts.kruise.io";
/// The group of Argo's Rollouts.
const ARGO: &str = "argoproj.io";

/// What was found out about workloads, for a while.
#[derive(Default)]
pub(super) struct Explained(HashMap<ObjectKey, (Instant, Option<Reason>)>);

/// Why a workload is not well.
#[derive(Clone)]
struct Reason {
    line: String,
    log: Vec<String>,
}

/// Sets the rules that health is read by, and reads once more what was read by others.
pub(super) async fn rules(pass: &Pass<'_>, account: &AccountClient, kinds: &Kinds) -> Result<(), Problem> {
    let (live, environment) = (pass.cluster.live(), pass.environment);
    live.set_rules(&environment.name, &environment.health);
    for (group, kind, namespace) in live.stale(&environment.name) {
        if let Some(kind) = kinds.any_version(&group, &kind) {
            account.read_again(kind, namespace.as_deref(), &environment.name).await?;
        }
    }
    Ok(())
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
    let is_rolling = progress.moved || pass.status.rolling_since.is_some();
    memory.explained.0.retain(|_, (when, _)| when.elapsed() < EXPLAINED_FOR);
    let mut asked = 0;
    for (index, object) in desired.objects().iter().enumerate() {
        let mut found = match live.get(&object.key) {
            Some(seen)
                if seen.health.health == Health::Healthy && !(is_rolling && may_be_behind(object, Health::Healthy)) =>
            {
                progress.objects += 1;
                continue;
            }
            Some(seen) if is_spoken_for(&object.key, seen.health.moved_by.as_deref(), &live) => {
                progress.objects += 1;
                continue;
            }
            Some(seen) => seen.health.clone(),
            None if object.leave_alone => continue,
            None => health::ObjectHealth::missing(),
        };
        progress.objects += 1;
        if is_rolling && may_be_behind(object, found.health) {
            match behind(account, object, kinds).await {
                Some(behind) => found = behind,
                None if found.health == Health::Healthy => continue,
                None => {}
            }
        }
        let mut unhealthy = Unhealthy { health: found.health, message: found.message, log: Vec::new() };
        let may_have_pods = matches!(
            object.key.kind.as_str(),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "Rollout" | "CloneSet"
        );
        // The pods of what was sent a moment ago are those of before, or not there yet: the next look asks.
        let is_askable = match unhealthy.health {
            Health::Progressing => !progress.sent.contains(&index),
            health => health == Health::Degraded,
        };
        if is_askable && may_have_pods && asked < MAX_EXPLAINED {
            asked += 1;
            if let Some(why) = explain(pass, memory, account, object, kinds).await {
                unhealthy.message = format!("{}; {}", unhealthy.message, why.line);
                unhealthy.log = why.log;
            }
        }
        progress.unhealthy.insert(object.key.to_string(), unhealthy);
    }
}

/// Whether a Rollout that is known moves this workload, so that only the Rollout's health counts: it alone knows
/// whether a person is waited for.
fn is_spoken_for(workload: &ObjectKey, rollout: Option<&str>, live: &Table) -> bool {
    let of = |name: &str| {
        ObjectKey::from(Identity {
            group: KRUISE.to_owned(),
            kind: "Rollout".to_owned(),
            namespace: workload.namespace.clone(),
            name: name.to_owned(),
        })
    };
    rollout.is_some_and(|name| live.contains_key(&of(name)))
}

/// Whether an object speaks for a workload beside it, and what it says may be about the revision before: that it is done;
/// and of Argo's that have their template from a workload also that they were aborted, or wait.
fn may_be_behind(object: &Desired, said: Health) -> bool {
    let has_workload = || object.body().get("spec").is_some_and(|spec| spec.get("workloadRef").is_some());
    match (object.key.group.as_str(), object.key.kind.as_str()) {
        (KRUISE, "Rollout") => said == Health::Healthy,
        (ARGO, "Rollout") => matches!(said, Health::Healthy | Health::Degraded | Health::Suspended) && has_workload(),
        _ => false,
    }
}

/// Asks a Rollout that may be behind, while a sync is becoming healthy, whether it has seen the workload as it is now.
async fn behind(account: &AccountClient, object: &Desired, kinds: &Kinds) -> Option<health::ObjectHealth> {
    let rollout = account.read(kind_of(kinds, &object.api_version, &object.key)?, &object.key).await.ok()??;
    let (api_version, kind, name) = health::target_of(&rollout)?;
    let kind = kinds.get(api_version, kind)?;
    let group = towpath_core::manifest::group_of(api_version).to_owned();
    let key = ObjectKey::from(Identity {
        group,
        kind: kind.kind.clone(),
        name: name.to_owned(),
        ..Identity::from(object.key.clone())
    });
    let workload = account.read(kind, &key).await.ok()??;
    health::of_workload(&rollout, &workload)
}

/// Asks the pods of a workload why it is not healthy. What cannot be asked is left out.
async fn explain(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    object: &Desired,
    kinds: &Kinds,
) -> Option<Reason> {
    if let Some((_, reason)) = memory.explained.0.get(&object.key) {
        return reason.clone();
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
    let (kind, namespace) = (kinds.get("v1", "Pod")?, object.key.namespace.as_deref()?);
    let pods = account.list(kind, namespace, &labels).await.ok()?;
    let reason = match health::explain_pods(&pods, Timestamp::now()) {
        None => None,
        Some(Explanation { line, log: None }) => Some(Reason { line, log: Vec::new() }),
        Some(Explanation { line, log: Some(_) }) if pass.environment.logs == LogMode::Never => {
            Some(Reason { line, log: Vec::new() })
        }
        Some(Explanation { line, log: Some(source) }) => {
            // Twice the lines that are shown, for empty ones are not. Without the right to read logs there are none.
            let text = account.pod_log(kind, namespace, &source, 2 * MAX_LOG_LINES).await;
            let text = text.inspect_err(|problem| tracing::debug!(%problem, object = %object.key, "no log"));
            Some(Reason { line, log: health::last_lines(&text.unwrap_or_default()) })
        }
    };
    memory.explained.0.insert(object.key.clone(), (Instant::now(), reason.clone()));
    reason
}
