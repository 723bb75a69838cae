//! Carrying out a plan: dry run, writing down, applying, deleting.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use serde_json::Value;
use towpath_core::environment::Preflight;
use towpath_core::fault::Problem;
use towpath_core::fingerprint;
use towpath_core::inventory::Member;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Action, Fate, Known, Plan, Stage, Step, Why};
use towpath_core::policy::{Cleared, Desired};
use towpath_core::scope::defined_kind;
use towpath_core::status::KeptStatus;

use super::{Memory, Pass, Progress, desire, kind_of};
use crate::cluster::{AccountClient, Applied, Deleted, Kinds, Outcome};

/// Objects that are applied at one time.
const CONCURRENCY: usize = 16;
/// How long it is good to know which old ConfigMaps are still read.
const IN_USE_FOR: Duration = Duration::from_secs(300);
/// How long a CustomResourceDefinition may take until its kind is served.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(20);

/// Sends what would change as a dry run, and gives everything that was refused. One object alone is sent for good at
/// once: its own answer comes as early. What lives in a namespace or is of a kind that this plan brings cannot be tried.
pub(super) async fn preflight(
    pass: &Pass<'_>,
    account: &AccountClient,
    desired: &Cleared,
    plan: &Plan,
    kinds: &Kinds,
) -> Vec<Problem> {
    let writes: Vec<&Step> = plan.writes().collect();
    if pass.environment.preflight == Preflight::Never || writes.len() < 2 {
        return Vec::new();
    }
    let new_namespaces: BTreeSet<&str> = writes
        .iter()
        .filter(|step| step.stage == Stage::Namespaces && step.action == Action::Create)
        .map(|step| step.key.name.as_str())
        .collect();
    let can_be_tried = |step: &&Step| {
        let namespace = step.key.namespace.as_deref();
        !namespace.is_some_and(|namespace| new_namespaces.contains(namespace))
    };
    let mut tries = Vec::new();
    for step in writes.into_iter().filter(can_be_tried) {
        let object = &desired.objects()[step.index];
        if let Some(kind) = kinds.get(&object.api_version, &object.key.kind) {
            tries.push(async move { account.apply(kind, object, true).await.err() }.boxed());
        }
    }
    futures::stream::iter(tries).buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await
}

/// Writes down every new member before it is applied, so that a crash in between orphans nothing.
///
/// # Errors
/// When it could not be written: then nothing may be applied.
pub(super) async fn enroll(
    pass: &Pass<'_>,
    memory: &mut Memory,
    desired: &Cleared,
    plan: &Plan,
) -> Result<(), Problem> {
    let taken: Vec<&ObjectKey> = plan.writes().map(|step| &step.key).collect();
    if let Err(problem) = pass.claims.take(&pass.environment.name, &taken) {
        // Another environment came first since policy asked; it is asked again at the next pass.
        memory.desired = None;
        return Err(problem);
    }
    let inventory = memory.inventory.as_mut().expect("a pass loads it before it plans");
    let before = inventory.len();
    for step in plan.writes() {
        let object = &desired.objects()[step.index];
        if inventory.get(&object.key).is_none() {
            let member = Member { api_version: object.api_version.clone(), uid: None };
            inventory.insert(object.key.clone(), member);
        }
    }
    if inventory.len() == before {
        return Ok(());
    }
    let written = pass.cluster.write_inventory(pass.environment, inventory).await;
    if written.is_err() {
        // What is stored is not known any more; the next pass reads it again.
        memory.inventory = None;
    }
    memory.recorded = memory.inventory.clone();
    written
}

/// Applies stage by stage. After a stage in which something failed no later one is begun.
pub(super) async fn apply(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    desired: &Cleared,
    plan: &Plan,
    kinds: &mut Arc<Kinds>,
    progress: &mut Progress,
) {
    let desired_keys: BTreeSet<&ObjectKey> = plan.steps.iter().map(|step| &step.key).collect();
    memory.known.retain(|key, _| desired_keys.contains(key));
    for stage in [Stage::Namespaces, Stage::Definitions, Stage::Foundations, Stage::Workloads, Stage::Gates] {
        let steps: Vec<&Step> = plan.writes().filter(|step| step.stage == stage).collect();
        if steps.is_empty() {
            continue;
        }
        if stage > Stage::Definitions
            && let Err(problem) = wait_for_kinds(pass, desired, &steps, kinds).await
        {
            progress.problems.push(problem);
            return;
        }
        let mut sends = Vec::new();
        for step in steps {
            sends.push(send(pass, account, &desired.objects()[step.index], step, kinds).boxed());
        }
        let mut results = futures::stream::iter(sends).buffer_unordered(CONCURRENCY);
        let problems_before = progress.problems.len();
        while let Some(sent) = results.next().await {
            match sent {
                Sent::Overtaken => progress.overtaken = true,
                Sent::Failed(problem) => {
                    progress.failed += 1;
                    progress.problems.push(problem);
                }
                Sent::Done(step, applied, drift) => {
                    match applied.outcome {
                        Outcome::Created => progress.created += 1,
                        Outcome::Configured => progress.configured += 1,
                    }
                    progress.drift.extend(drift);
                    match applied.known {
                        Some(known) => drop(memory.known.insert(step.key.clone(), known)),
                        None => drop(memory.known.remove(&step.key)),
                    }
                    let object = &desired.objects()[step.index];
                    let member = Member { api_version: object.api_version.clone(), uid: Some(applied.uid) };
                    if let Some(inventory) = &mut memory.inventory {
                        inventory.insert(step.key.clone(), member);
                    }
                }
            }
        }
        if progress.overtaken || progress.problems.len() > problems_before {
            return;
        }
    }
    // What is right already is known from here on, and a member even if it was found by its label only.
    let live = pass.cluster.live().snapshot(&pass.environment.name);
    for step in plan.steps.iter().filter(|step| step.action == Action::Leave) {
        let object = &desired.objects()[step.index];
        let Some(seen) = live.get(&step.key).filter(|_| !object.leave_alone) else { continue };
        // Nothing was known of it, and it was left: so what was found is what is desired. It is not what is there now,
        // which somebody may have changed in between.
        let known = Known { sent: object.fingerprint, held: object.fingerprint };
        memory.known.entry(step.key.clone()).or_insert(known);
        if let Some(inventory) = &mut memory.inventory {
            let uid = Some(seen.uid.clone());
            if inventory.get(&step.key).is_none_or(|member| member.uid != uid) {
                inventory.insert(step.key.clone(), Member { api_version: object.api_version.clone(), uid });
            }
        }
    }
}

enum Sent<'a> {
    Done(&'a Step, Applied, Option<(String, String)>),
    Failed(Problem),
    Overtaken,
}

async fn send<'a>(
    pass: &Pass<'_>,
    account: &AccountClient,
    object: &Desired,
    step: &'a Step,
    kinds: &Kinds,
) -> Sent<'a> {
    if (pass.overtaken)() {
        return Sent::Overtaken;
    }
    let Some(kind) = kinds.get(&object.api_version, &object.key.kind) else {
        return Sent::Failed(
            Problem::passing(format!("the cluster does not serve {} {} yet", object.api_version, object.key.kind))
                .at(object.source.clone()),
        );
    };
    let drift = match step.action {
        Action::Configure(Why::Drifted) => {
            // Who changed what can only be said before it is mended.
            let found = account.read(kind, &object.key).await.ok().flatten();
            Some(found.map_or_else(|| "it was deleted".to_owned(), |found| describe_drift(object, &found)))
        }
        Action::Configure(Why::Disowned) => Some("our label or our ownership of its fields was gone".to_owned()),
        _ => None,
    };
    match account.apply(kind, object, false).await {
        Ok(applied) => Sent::Done(step, applied, drift.map(|text| (object.key.to_string(), text))),
        Err(problem) => Sent::Failed(problem),
    }
}

/// Which fields differ, and whose they are now. Values are left out: a Secret has some.
fn describe_drift(object: &Desired, found: &Value) -> String {
    let expected: Value = serde_json::from_str(&object.body).unwrap_or_default();
    let Some((expected, found_ours)) = expected.as_object().map(fingerprint::expected).zip(fingerprint::project(found))
    else {
        return "none of its fields is ours any longer".to_owned();
    };
    let paths = fingerprint::differences(&expected, &found_ours);
    let culprits = fingerprint::other_owners(found, &paths);
    if culprits.is_empty() {
        return "it differed from git".to_owned();
    }
    let lines: Vec<String> =
        culprits.iter().take(5).map(|culprit| format!("{} changed by {}", culprit.path, culprit.manager)).collect();
    lines.join(", ")
}

/// Waits until the kinds of these steps are served. Only kinds that this very plan defines are waited for.
async fn wait_for_kinds(
    pass: &Pass<'_>,
    desired: &Cleared,
    steps: &[&Step],
    kinds: &mut Arc<Kinds>,
) -> Result<(), Problem> {
    let missing = |kinds: &Kinds| {
        steps
            .iter()
            .map(|step| &desired.objects()[step.index])
            .find(|object| kinds.get(&object.api_version, &object.key.kind).is_none())
            .map(|object| (object.key.kind.clone(), object.source.clone()))
    };
    let deadline = Instant::now() + ESTABLISHED_WITHIN;
    while let Some((kind, place)) = missing(kinds) {
        let is_defined_here = desired.objects().iter().any(|object| {
            object.key.kind == "CustomResourceDefinition"
                && serde_json::from_str::<Value>(&object.body)
                    .ok()
                    .and_then(|body| Some(defined_kind(body.as_object()?)?.1 == kind))
                    .unwrap_or(false)
        });
        if !is_defined_here || Instant::now() >= deadline {
            return Err(Problem::passing(format!("the cluster does not serve kind {kind} yet")).at(place));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        *kinds = pass.cluster.kinds(Some(Instant::now())).await?;
    }
    Ok(())
}

/// Deletes what left git, after everything that is in git was applied. A member leaves the inventory only when its
/// absence was confirmed.
pub(super) async fn prune(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    plan: &Plan,
    kinds: &Kinds,
    progress: &mut Progress,
) {
    if progress.overtaken || !progress.problems.is_empty() || plan.removals.is_empty() {
        return;
    }
    let in_use = match config_maps_in_use(memory, account, plan, kinds).await {
        Ok(in_use) => in_use,
        Err(problem) => return progress.problems.push(problem),
    };
    let Some(inventory) = &mut memory.inventory else { return };
    for (key, fate) in &plan.removals {
        let uid = match fate {
            Fate::Keep(_) => continue,
            Fate::Gone => {
                inventory.remove(key);
                continue;
            }
            Fate::Release(why) => {
                progress.warnings.push(Problem::setup(format!("{key} is left where it is: {why}")));
                inventory.remove(key);
                continue;
            }
            Fate::Prune { uid } => uid,
        };
        if desire::is_hash_named(key) && in_use.contains(key) {
            let reason = "a ReplicaSet or pod still uses it".to_owned();
            progress.kept.push(KeptStatus { object: key.to_string(), reason });
            continue;
        }
        if (pass.overtaken)() {
            progress.overtaken = true;
            return;
        }
        let member = inventory.get(key).map_or("v1", |member| member.api_version.as_str());
        let Some(kind) = kind_of(kinds, member, key) else {
            let reason = "the cluster no longer serves its kind".to_owned();
            progress.kept.push(KeptStatus { object: key.to_string(), reason });
            continue;
        };
        match account.delete(kind, key, uid).await {
            Ok(Deleted::Gone) => {
                progress.pruned += 1;
                inventory.remove(key);
            }
            Ok(Deleted::Pending) => {
                progress.pruned += 1;
                let reason = "it is being deleted".to_owned();
                progress.kept.push(KeptStatus { object: key.to_string(), reason });
            }
            // Another object under the same name is not the one that was ours.
            Ok(Deleted::Replaced) => inventory.remove(key),
            Err(problem) => {
                progress.failed += 1;
                progress.problems.push(problem);
            }
        }
    }
}

/// The hash-named ConfigMaps that a ReplicaSet, ControllerRevision or pod still reads. Asked only where one would go.
async fn config_maps_in_use(
    memory: &mut Memory,
    account: &AccountClient,
    plan: &Plan,
    kinds: &Kinds,
) -> Result<BTreeSet<ObjectKey>, Problem> {
    let candidates: BTreeSet<ObjectKey> = plan
        .removals
        .iter()
        .filter(|(key, fate)| matches!(fate, Fate::Prune { .. }) && desire::is_hash_named(key))
        .map(|(key, _)| key.clone())
        .collect();
    if let Some((asked, for_these, in_use)) = &memory.in_use
        && *for_these == candidates
        && asked.elapsed() < IN_USE_FOR
    {
        return Ok(in_use.clone());
    }
    let namespaces: BTreeSet<&str> = candidates.iter().filter_map(|key| key.namespace.as_deref()).collect();
    let mut in_use = BTreeSet::new();
    for namespace in namespaces {
        for (api_version, kind) in [("apps/v1", "ReplicaSet"), ("apps/v1", "ControllerRevision"), ("v1", "Pod")] {
            let Some(kind) = kinds.get(api_version, kind) else { continue };
            for user in account.list(kind, namespace, "").await? {
                // An old ReplicaSet without pods can still be gone back to, so it counts.
                let text = user.to_string();
                for key in candidates.iter().filter(|key| key.namespace.as_deref() == Some(namespace)) {
                    if text.contains(&format!("\"{}\"", key.name)) {
                        in_use.insert((*key).clone());
                    }
                }
            }
        }
    }
    memory.in_use = Some((Instant::now(), candidates, in_use.clone()));
    Ok(in_use)
}

/// Writes the inventory if it is another than the one that is stored.
///
/// # Errors
/// When it could not be written; it is written again at the next pass.
pub(super) async fn record(pass: &Pass<'_>, memory: &mut Memory) -> Result<(), Problem> {
    if memory.inventory == memory.recorded {
        return Ok(());
    }
    let Some(inventory) = &memory.inventory else { return Ok(()) };
    pass.cluster.write_inventory(pass.environment, inventory).await?;
    pass.claims.set(&pass.environment.name, inventory);
    memory.recorded = memory.inventory.clone();
    Ok(())
}
