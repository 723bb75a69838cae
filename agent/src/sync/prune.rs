//! Deleting what left git.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use towpath_core::fault::Problem;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Fate, Plan};
use towpath_core::status::KeptStatus;

use super::{Memory, Pass, Progress, desire, kind_of};
use crate::cluster::{AccountClient, Deleted, Kinds};
use crate::seeded;

/// How long it is good to know which old ConfigMaps are still read.
const IN_USE_FOR: Duration = Duration::from_secs(300);

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
        if seeded::has("strike-off-first") {
            let mut left = inventory.clone();
            left.remove(key);
            let _ = pass.cluster.write_inventory(pass.environment, &left).await;
        }
        match account.delete(kind, key, uid).await {
            Err(_) if seeded::has("failed-delete-is-done") => inventory.remove(key),
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
