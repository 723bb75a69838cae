//! Deleting what left git.

use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use towpath_core::fault::Problem;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Fate, Keep, Plan, stage_of};
use towpath_core::status::KeptStatus;

use super::in_use::{self, config_maps_in_use};
use super::work::Work;
use super::{CONCURRENCY, Memory, Pass, Progress, desire, kind_of, members, neighbours};
use crate::cluster::{Deleted, Kinds};
use crate::seeded;

/// How soon a deletion that was refused is tried again. Each time it takes twice as long.
const REFUSED_FIRST: Duration = Duration::from_secs(5);
/// The longest time until it is tried again.
const REFUSED_LONGEST: Duration = Duration::from_secs(600);
/// How soon it is looked again whether other environments have looked at git; they wake us before that.
const NEIGHBOURS_LOOK: Duration = Duration::from_secs(5);

/// A deletion that was refused.
pub(super) struct RefusedDeletion {
    uid: String,
    tries: u32,
    again: Instant,
    why: String,
    problem: Problem,
}

/// Deletes what left git, after everything that is in git was applied. A member leaves the inventory only when its
/// absence was confirmed. A deletion that is refused or stuck holds up neither the others nor the environment.
pub(super) async fn prune(work: &Work<'_>, memory: &mut Memory, kinds: &Kinds, commit: &str, progress: &mut Progress) {
    let Work { pass, account, observed, plan, .. } = *work;
    if !plan.removals.iter().any(|(_, fate)| matches!(fate, Fate::Prune { .. })) {
        // Nothing waits any longer: what comes next waits its own time.
        memory.waits_since = None;
    }
    if progress.overtaken || !progress.problems.is_empty() || plan.removals.is_empty() {
        return;
    }
    strike_off(pass, memory, plan, progress);
    let due = due(work, memory, kinds, progress).await;
    if due.is_empty() {
        return;
    }
    if let Err(problem) = members::before_deletions(pass, memory, plan, commit).await {
        return progress.problems.push(problem);
    }
    for stage in due.chunk_by(|(one, _), (other, _)| stage_of(one) == stage_of(other)) {
        if seeded::has("strike-off-first") {
            let mut left = memory.inventory.clone().unwrap_or_default();
            stage.iter().for_each(|(key, _)| left.remove(key));
            let before = memory.recorded.clone().unwrap_or_default();
            memory.recorded = pass.cluster.write_inventory(pass.environment, &left, &before).await.ok();
        }
        let mut deletions = Vec::new();
        for (key, uid) in stage {
            let member = memory.inventory.as_ref().and_then(|inventory| inventory.get(key));
            let kind = kind_of(kinds, member.map_or("v1", |member| member.api_version.as_str()), key);
            let Some(kind) = kind else {
                progress.leftovers.kept.push(KeptStatus::new(key, Keep::Unserved));
                continue;
            };
            let Some(row) = observed.ours.row(key) else { continue };
            let label = observed.inherited.get(key).unwrap_or(&pass.environment.name);
            deletions.push(
                async move {
                    let result =
                        if (pass.overtaken)() { None } else { Some(account.delete(kind, key, label, row).await) };
                    (key, uid, result)
                }
                .boxed(),
            );
        }
        let mut results = futures::stream::iter(deletions).buffer_unordered(CONCURRENCY);
        while let Some((key, uid, result)) = results.next().await {
            match result {
                None => progress.overtaken = true,
                Some(result) => settle(pass, memory, key, uid, result, progress),
            }
        }
        if progress.overtaken {
            return;
        }
    }
}

/// Takes out of the inventory what is gone or is somebody else's, and gives away what another environment has in git.
fn strike_off(pass: &Pass<'_>, memory: &mut Memory, plan: &Plan, progress: &mut Progress) {
    let Some(inventory) = &mut memory.inventory else { return };
    for (key, fate) in &plan.removals {
        match fate {
            Fate::Gone | Fate::HandedOver => inventory.remove(key),
            Fate::Release(why) => {
                progress.warnings.push(Problem::setup(format!("{key} is left where it is: {why}")));
                inventory.remove(key);
            }
            Fate::Keep(_) | Fate::Prune { .. } => {}
        }
    }
    neighbours::give_away(
        pass.cluster,
        pass.claims,
        &pass.environment.name,
        plan.removals.iter().filter_map(|(key, fate)| match fate {
            Fate::Keep(Keep::TakenOver(other)) => Some((key, other)),
            _ => None,
        }),
    );
    memory.refused_deletions.retain(|key, _| inventory.get(key).is_some());
}

/// What is deleted now; what waits is said.
async fn due(work: &Work<'_>, memory: &mut Memory, kinds: &Kinds, progress: &mut Progress) -> Vec<(ObjectKey, String)> {
    let Work { pass, account, plan, .. } = *work;
    let wanted: Vec<(&ObjectKey, &String)> = plan
        .removals
        .iter()
        .filter_map(|(key, fate)| match fate {
            Fate::Prune { uid } => Some((key, uid)),
            _ => None,
        })
        .collect();
    let keys: Vec<&ObjectKey> = wanted.iter().map(|(key, _)| *key).collect();
    if let Some(other) = neighbours::to_wait_for(pass, memory, &keys) {
        let why = format!("it waits until environment {other} has looked at git, which may have it");
        progress.leftovers.kept.extend(keys.iter().map(|key| KeptStatus::new(key, &why)));
        try_again(progress, NEIGHBOURS_LOOK / pass.time_scale);
        return Vec::new();
    }
    // The plan asked before everybody had looked: what somebody was found to have in git since then is given away.
    let (taken, wanted): (Vec<_>, Vec<_>) =
        wanted.into_iter().map(|(key, uid)| (key, uid, pass.wanted_by(key))).partition(|(_, _, other)| other.is_some());
    let taken: Vec<_> = taken.into_iter().filter_map(|(key, _, other)| Some((key, other?))).collect();
    let given = taken.iter().map(|(key, other)| (*key, other));
    neighbours::give_away(pass.cluster, pass.claims, &pass.environment.name, given);
    progress
        .leftovers
        .kept
        .extend(taken.iter().map(|(key, other)| KeptStatus::new(key, Keep::TakenOver(other.clone()))));
    let in_use = config_maps_in_use(pass, &mut memory.in_use, account, plan, kinds).await;
    let mut due = Vec::new();
    for (key, uid, _) in wanted {
        let stays = match &in_use {
            _ if !desire::is_hash_named(key) => None,
            Ok(in_use) => in_use.contains(key).then(|| "a ReplicaSet, pod or Rollout still uses it".to_owned()),
            Err(problem) => Some(format!("whether something still uses it could not be asked: {problem}")),
        };
        if let Some(why) = stays {
            progress.leftovers.kept.push(KeptStatus::new(key, why));
            try_again(progress, in_use::IN_USE_FOR / pass.time_scale);
            continue;
        }
        let refused = memory.refused_deletions.get(key).filter(|refused| refused.uid == *uid);
        match refused.filter(|refused| refused.again > Instant::now() && pass.request.is_none()) {
            Some(refused) => {
                progress.leftovers.kept.push(KeptStatus::new(key, &refused.why));
                progress.warnings.push(refused.problem.clone());
                let pause = refused.again - Instant::now();
                try_again(progress, pause);
            }
            None => due.push((key.clone(), uid.clone())),
        }
    }
    due
}

/// What came of a deletion.
fn settle(
    pass: &Pass<'_>,
    memory: &mut Memory,
    key: &ObjectKey,
    uid: &str,
    result: Result<Deleted, Problem>,
    progress: &mut Progress,
) {
    let tries =
        memory.refused_deletions.remove(key).filter(|refused| refused.uid == uid).map_or(0, |refused| refused.tries);
    let Some(inventory) = &mut memory.inventory else { return };
    match result {
        Ok(Deleted::Gone) => {
            progress.pruned += 1;
            inventory.remove(key);
        }
        Ok(Deleted::Pending(terminating)) => {
            progress.pruned += 1;
            let since = terminating.since;
            let reason = Keep::Terminating { since, finalizers: terminating.finalizers };
            progress.leftovers.kept.push(KeptStatus { since: Some(since), ..KeptStatus::new(key, reason) });
        }
        // Another object under the same name is not the one that was ours.
        Ok(Deleted::Replaced) => inventory.remove(key),
        Ok(Deleted::Changed) => {
            progress.leftovers.kept.push(KeptStatus::new(key, "it was changed a moment ago, and is looked at again"));
            try_again(progress, REFUSED_FIRST / pass.time_scale);
        }
        Err(_) if seeded::has("failed-delete-is-done") => inventory.remove(key),
        Err(problem) => {
            progress.failed += 1;
            let pause = REFUSED_FIRST.saturating_mul(2u32.saturating_pow(tries)).min(REFUSED_LONGEST) / pass.time_scale;
            let why = format!("its deletion was refused: {}", problem.message);
            progress.leftovers.kept.push(KeptStatus::new(key, &why));
            progress.warnings.push(problem.clone());
            try_again(progress, pause);
            let again = Instant::now() + pause;
            let refused = RefusedDeletion { uid: uid.to_owned(), tries: tries + 1, again, why, problem };
            memory.refused_deletions.insert(key.clone(), refused);
        }
    }
}

/// The earliest of all times at which something is tried again.
fn try_again(progress: &mut Progress, pause: Duration) {
    let at = Timestamp::now() + pause;
    let again = &mut progress.leftovers.again;
    *again = Some(again.map_or(at, |known| known.min(at)));
}
