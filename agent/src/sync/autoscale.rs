//! Autoscalers that are in the cluster and not in git.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use towpath_core::left::{self, Because};
use towpath_core::manifest::{Identity, ObjectKey};
use towpath_core::plan::Observed;
use towpath_core::policy::Cleared;

use super::{Memory, Pass};
use crate::cluster::{AccountClient, Kinds};

/// How long a list of autoscalers is good for.
const LISTED_FOR: Duration = Duration::from_secs(5);
/// How often it is looked whether an autoscaler that is not in git is still there: nothing tells of its end.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Whether a HorizontalPodAutoscaler in the cluster has an object for its target. Where that cannot be asked there is
/// one: somebody scales the object, and setting it back would be a fight.
pub(super) async fn is_target(account: &AccountClient, kinds: &Kinds, key: &ObjectKey) -> bool {
    let Some(namespace) = key.namespace.as_deref() else { return false };
    targets(account, kinds, namespace).await.is_none_or(|targets| targets.contains(key))
}

/// What the HorizontalPodAutoscalers of a namespace scale; KEDA makes such, too. `None` where it cannot be asked.
async fn targets(account: &AccountClient, kinds: &Kinds, namespace: &str) -> Option<BTreeSet<ObjectKey>> {
    let kind = kinds.any_version("autoscaling", "HorizontalPodAutoscaler")?;
    let listed = match account.list(kind, namespace, "").await {
        Ok(listed) => listed,
        Err(problem) => {
            tracing::debug!(namespace, %problem, "autoscalers cannot be listed");
            return None;
        }
    };
    let of = ObjectKey::from(Identity {
        group: "autoscaling".to_owned(),
        kind: kind.kind.clone(),
        namespace: Some(namespace.to_owned()),
        name: String::new(),
    });
    Some(listed.iter().filter_map(|object| left::scaled_by(&of, object.as_object()?)).collect())
}

/// Forgets what is known of objects of which something was left to an autoscaler that is no longer there, to a rollout
/// that is over, or to a manager that others have taken it from: those are looked at and applied again.
pub(super) async fn take_back(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    desired: &Cleared,
    observed: &Observed,
    kinds: &Kinds,
) {
    let in_git: BTreeSet<&ObjectKey> = desired.objects().iter().filter_map(|object| object.scales.as_deref()).collect();
    let left_to = |because: Because| {
        let is_so = move |left: &&left::Left| left.because == because;
        memory.ownership.left.iter().filter(move |(_, left)| left.iter().any(|left| is_so(&left))).map(|(key, _)| key)
    };
    let scaled: Vec<ObjectKey> = left_to(Because::Autoscaler).filter(|key| !in_git.contains(key)).cloned().collect();
    // Who else owns them has changed since it was decided what is left to whom: that is decided again.
    for (key, owners) in &memory.ownership.owners {
        if observed.ours.get(key).is_some_and(|seen| seen.others != *owners) {
            memory.known.remove(key);
        }
    }
    let rolled: Vec<ObjectKey> = left_to(Because::Rollout).cloned().collect();
    for key in rolled {
        if observed.ours.get(&key).is_some_and(|seen| !seen.is_rolled) {
            memory.known.remove(&key);
        }
    }
    for key in scaled {
        let namespace = key.namespace.clone().unwrap_or_default();
        let is_listed = |(at, _): &(Instant, _)| at.elapsed() < LISTED_FOR / pass.time_scale;
        if !memory.ownership.autoscalers.get(&namespace).is_some_and(is_listed) {
            let Some(targets) = targets(account, kinds, &namespace).await else { continue };
            memory.ownership.autoscalers.insert(namespace.clone(), (Instant::now(), targets));
        }
        let is_scaled = memory.ownership.autoscalers.get(&namespace).is_some_and(|(_, targets)| targets.contains(&key));
        if is_scaled {
            memory.ownership.look_within(LOOK_AGAIN / pass.time_scale);
        } else {
            memory.known.remove(&key);
        }
    }
}
