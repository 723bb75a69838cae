//! What happens to members that git no longer has.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest, Sha256};

use super::Facts;
use crate::manifest::{ObjectKey, is_protected};
use crate::revision::CommitId;

/// What to do with a member that is no longer desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Deleted, with its UID as a precondition.
    Prune {
        /// The UID that must match.
        uid: String,
    },
    /// It is gone already; the member is taken out of the inventory.
    Gone,
    /// It stays, and stays a member.
    Keep(Keep),
    /// It stays and is no member any longer: it is not ours.
    Release(&'static str),
}

/// Why a member that is no longer desired stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// `spec.prune` is off.
    PruneIsOff,
    /// Its own annotation said `Never`.
    NeverPrune,
    /// Namespaces, CustomResourceDefinitions and PersistentVolumeClaims take more with them than themselves.
    ProtectedKind,
    /// Too many would go at once.
    OverBudget,
    /// It is on its way out.
    Terminating,
    /// The cluster does not serve its kind: nothing is known of it.
    Unserved,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keep::PruneIsOff => "spec.prune is off",
            Keep::NeverPrune => "its annotation says that it is never pruned",
            Keep::ProtectedKind => "objects of this kind are deleted only after a confirmation",
            Keep::OverBudget => "more would be deleted than the deletion budget allows",
            Keep::Terminating => "it is being deleted",
            Keep::Unserved => "the cluster does not serve its kind, so nothing is known of it",
        })
    }
}

/// How many of `members` may be deleted at once without a confirmation: the larger of 5 and a fifth, but never more
/// than half.
pub fn deletion_budget(members: usize) -> usize {
    (members / 5).max(5).min(members / 2)
}

/// The fate of every member that is not desired, and what would confirm the deletions that are kept back.
pub(super) fn removals(facts: &Facts) -> (Vec<(ObjectKey, Fate)>, Option<String>) {
    let desired: BTreeSet<&ObjectKey> = facts.desired.objects().iter().map(|desired| &desired.key).collect();
    // Objects that carry our label and our Apply entry but are in no list: written by a sync that was killed before
    // its answer arrived. They are members all the same.
    let unlisted =
        facts.observed.ours.iter().filter(|(key, seen)| {
            facts.inventory.get(key).is_none() && seen.fingerprint.is_some() && !seen.has_controller
        });
    let left: BTreeSet<&ObjectKey> = facts
        .inventory
        .iter()
        .map(|(key, _)| key)
        .chain(unlisted.map(|(key, _)| key))
        .filter(|key| !desired.contains(key))
        .collect();

    let mut fates: Vec<(ObjectKey, Fate)> = left.into_iter().map(|key| (key.clone(), fate_of(key, facts))).collect();

    let is_pruned = |fate: &Fate| matches!(fate, Fate::Prune { .. });
    let counted = fates.iter().filter(|(key, fate)| is_pruned(fate) && !(facts.generated)(key)).count();
    let members = facts.inventory.iter().filter(|(key, _)| !(facts.generated)(key)).count();
    let wanted: Vec<&ObjectKey> = fates
        .iter()
        .filter(|(_, fate)| is_pruned(fate) || *fate == Fate::Keep(Keep::ProtectedKind))
        .map(|(key, _)| key)
        .collect();
    let digest = confirmation(facts.commit, &wanted);
    let is_confirmed = facts.confirmed == Some(digest.as_str());
    let is_over_budget = counted > deletion_budget(members);

    let mut needs_confirmation = false;
    for (key, fate) in &mut fates {
        match fate {
            Fate::Prune { .. } if is_over_budget && !is_confirmed && !(facts.generated)(key) => {
                *fate = Fate::Keep(Keep::OverBudget);
                needs_confirmation = true;
            }
            Fate::Keep(Keep::ProtectedKind) => match facts.observed.ours.get(key) {
                Some(seen) if is_confirmed => *fate = Fate::Prune { uid: seen.uid.clone() },
                _ => needs_confirmation = true,
            },
            _ => {}
        }
    }
    (fates, needs_confirmation.then_some(digest))
}

fn fate_of(key: &ObjectKey, facts: &Facts) -> Fate {
    let Some(seen) = facts.observed.ours.get(key) else {
        // The door reads by name what lost its label before it may be called gone.
        return match facts.observed.foreign.get(key) {
            None if facts.observed.unserved.contains(key) => Fate::Keep(Keep::Unserved),
            Some(_) => Fate::Release("it no longer carries our label"),
            None => Fate::Gone,
        };
    };
    if seen.has_controller {
        return Fate::Release("a controller owns it now");
    }
    if seen.fingerprint.is_none() {
        return Fate::Release("nothing of it is applied by us any longer");
    }
    if seen.is_terminating {
        return Fate::Keep(Keep::Terminating);
    }
    if seen.never_prune {
        return Fate::Keep(Keep::NeverPrune);
    }
    if !facts.environment.prune {
        return Fate::Keep(Keep::PruneIsOff);
    }
    if is_protected(key) {
        return Fate::Keep(Keep::ProtectedKind);
    }
    Fate::Prune { uid: seen.uid.clone() }
}

/// What stands for exactly these deletions at exactly this commit.
fn confirmation(commit: CommitId, keys: &[&ObjectKey]) -> String {
    let mut hash = Sha256::new();
    for key in keys {
        hash.update(key.to_string());
        hash.update("\n");
    }
    format!("{}:{}", commit.short(), hex::encode(&hash.finalize()[..6]))
}
