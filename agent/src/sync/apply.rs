//! Applying a plan, stage by stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use towpath_core::fault::Problem;
use towpath_core::inventory::Member;
use towpath_core::plan::{Action, Known, Plan, Stage, Step};
use towpath_core::policy::Cleared;
use towpath_core::scope::defined_kind;

use super::send::{self, Sent};
use super::{CONCURRENCY, Memory, Pass, Progress};
use crate::cluster::{AccountClient, Kinds, Outcome};

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
    if memory.known.len() > desired.objects().len() {
        memory.known.retain(|key, _| desired.get(key).is_some());
    }
    for stage in [Stage::Namespaces, Stage::Definitions, Stage::Foundations, Stage::Workloads, Stage::Gates] {
        let steps: Vec<&Step> = plan.writes().filter(|step| step.stage == stage).collect();
        let is_ending = plan.terminating().any(|step| step.stage == stage);
        if steps.is_empty() {
            if is_ending {
                return;
            }
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
            sends.push(send::send(pass, account, &desired.objects()[step.index], step, kinds).boxed());
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
                Sent::Waits(problem, notices) => {
                    progress.notices.extend(notices);
                    progress.wait(problem);
                }
                Sent::Done(step, mut done) => {
                    // Created anew after it was created once: somebody deleted it.
                    done.is_correction |= step.action == Action::Create && memory.known.contains_key(&step.key);
                    memory.ownership.sent(pass, &step.key, &mut done);
                    let applied = done.applied;
                    match applied.outcome {
                        Outcome::Created => progress.created += 1,
                        Outcome::Configured => progress.configured += 1,
                    }
                    progress.drift.extend(done.drift.map(|text| (step.key.to_string(), text)));
                    progress.notices.extend(done.notices);
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
        if is_ending || progress.overtaken || progress.problems.len() > problems_before {
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
