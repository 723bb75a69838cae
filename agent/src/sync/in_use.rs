//! Which old hash-named ConfigMaps are still read. They stay for as long as anything could go back to them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use towpath_core::fault::Problem;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Fate, Plan};

use super::{Pass, desire};
use crate::cluster::{AccountClient, Kinds};

/// How long it is good to know which old ConfigMaps are still read.
pub(super) const IN_USE_FOR: Duration = Duration::from_secs(300);

/// What reads ConfigMaps and is not itself in git: an old ReplicaSet without pods can still be gone back to.
const READERS: [(&str, &str); 3] = [("apps/v1", "ReplicaSet"), ("apps/v1", "ControllerRevision"), ("v1", "Pod")];
/// Rollouts hold the templates that they go back to. Asked for only where the environment has some, for the account may
/// have no right to list what it has none of.
const ROLLOUTS: [(&str, &str); 3] = [
    ("argoproj.io/v1alpha1", "Rollout"),
    ("rollouts.kruise.io/v1beta1", "Rollout"),
    ("rollouts.kruise.io/v1beta1", "BatchRelease"),
];

/// When it was asked about these ConfigMaps, and the answer.
#[derive(Default)]
pub(super) struct Memory(Option<(Instant, BTreeSet<ObjectKey>, BTreeSet<ObjectKey>)>);

/// The hash-named ConfigMaps that would be pruned and are still read. Asked only where one would go.
///
/// # Errors
/// When it could not be asked: then it is unknown, and all of them stay.
pub(super) async fn config_maps_in_use(
    pass: &Pass<'_>,
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
    if let Some((asked, for_these, in_use)) = &memory.0
        && *for_these == candidates
        && asked.elapsed() < IN_USE_FOR / pass.time_scale
        && pass.request.is_none()
    {
        return Ok(in_use.clone());
    }
    let namespaces: BTreeSet<&str> = candidates.iter().filter_map(|key| key.namespace.as_deref()).collect();
    let mut in_use = BTreeSet::new();
    for namespace in namespaces {
        let has_rollouts = plan.steps.iter().any(|step| step.key.kind == "Rollout");
        let rollouts = ROLLOUTS.into_iter().filter(|_| has_rollouts);
        for (api_version, kind) in READERS.into_iter().chain(rollouts) {
            let Some(kind) = kinds.get(api_version, kind) else { continue };
            for user in account.list(kind, namespace, "").await? {
                let text = user.to_string();
                for key in candidates.iter().filter(|key| key.namespace.as_deref() == Some(namespace)) {
                    if text.contains(&format!("\"{}\"", key.name)) {
                        in_use.insert((*key).clone());
                    }
                }
            }
        }
    }
    memory.0 = Some((Instant::now(), candidates, in_use.clone()));
    Ok(in_use)
}
