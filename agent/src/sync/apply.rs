//! Applying a plan, stage by stage.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use serde_json::Value;
use towpath_core::fault::Problem;
use towpath_core::fingerprint;
use towpath_core::inventory::Member;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Action, Known, Plan, Stage, Step, Why};
use towpath_core::policy::{Cleared, Desired};
use towpath_core::scope::defined_kind;

use super::{CONCURRENCY, Memory, Pass, Progress};
use crate::cluster::{AccountClient, Applied, Kinds, Outcome};

/// How long a CustomResourceDefinition may take until its kind is served.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(20);

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
        if !memory.known.contains_key(&step.key) {
            // Nothing was known of it, and it was left: so what was found is what is desired. It is not what is there
            // now, which somebody may have changed in between.
            memory.known.insert(step.key.clone(), Known { sent: object.fingerprint, held: object.fingerprint });
        }
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
    let expected = fingerprint::expected(&object.body());
    let Some(found_ours) = fingerprint::project(found) else {
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
                && defined_kind(&object.body()).is_some_and(|(_, defined, _)| defined == kind)
        });
        if !is_defined_here || Instant::now() >= deadline {
            return Err(Problem::passing(format!("the cluster does not serve kind {kind} yet")).at(place));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        *kinds = pass.cluster.kinds(Some(Instant::now())).await?;
    }
    Ok(())
}
