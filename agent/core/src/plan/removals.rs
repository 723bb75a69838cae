//! What happens to members that git no longer has.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::own::Own;
use super::{Facts, Seen, stage_of};
use crate::manifest::{ObjectKey, is_protected};
use crate::names::EnvironmentName;
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
    /// It carries the label of another environment: it is that one's member now.
    HandedOver,
    /// It stays and is no member any longer: it is not ours.
    Release(&'static str),
}

/// Why a member that is no longer desired stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// `spec.prune` is off.
    PruneIsOff,
    /// Its own annotation said `Never`.
    NeverPrune,
    /// Namespaces, CustomResourceDefinitions and PersistentVolumeClaims take more with them than themselves.
    ProtectedKind,
    /// The agent itself is made of it.
    OwnResource,
    /// Too many would go at once.
    OverBudget,
    /// Another environment of this agent has it in git.
    TakenOver(EnvironmentName),
    /// It is on its way out.
    Terminating {
        /// Since when.
        since: Timestamp,
        /// What holds it.
        finalizers: Vec<String>,
    },
    /// It lost one of the proofs that it is ours.
    Unproven(&'static str),
    /// The cluster does not serve its kind, or the account may not list it: nothing is known of it.
    Unserved,
    /// Its namespace is being deleted, and it is not asked for there.
    NamespaceEnds,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keep::PruneIsOff => "spec.prune is off",
            Keep::NeverPrune => "its annotation says that it is never pruned",
            Keep::ProtectedKind => "objects of this kind are deleted only after a confirmation",
            Keep::OwnResource => "the agent itself is made of it",
            Keep::OverBudget => "more would be deleted than the deletion budget allows",
            Keep::TakenOver(environment) => return write!(f, "environment {environment} takes it over"),
            Keep::Terminating { finalizers, .. } if finalizers.is_empty() => "it is being deleted",
            Keep::Terminating { finalizers, .. } => {
                return write!(f, "it is being deleted, and held by finalizer {}", finalizers.join(", "));
            }
            Keep::Unproven(why) => why,
            Keep::Unserved => "its kind is not served or may not be listed, so nothing is known of it",
            Keep::NamespaceEnds => "its namespace is being deleted",
        })
    }
}

/// What a person must confirm, bound to one commit and one exact list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// What stands for it: `<commit>:<digest of the list>`.
    pub value: String,
    /// The list.
    pub objects: Vec<ObjectKey>,
    /// Whether somebody confirmed something else: another commit, or another list.
    pub is_other_confirmed: bool,
}

/// How many of `members` may be deleted at once without a confirmation: the larger of 5 and a fifth, but never more
/// than half.
pub fn deletion_budget(members: usize) -> usize {
    (members / 5).max(5).min(members / 2)
}

pub(super) struct Removals {
    /// In the order of deletion.
    pub(super) fates: Vec<(ObjectKey, Fate)>,
    pub(super) confirmation: Option<Confirmation>,
    pub(super) newly_confirmed: Vec<ObjectKey>,
    pub(super) unlisted: Vec<ObjectKey>,
}

/// The fate of every member that is not desired, and what would confirm the deletions that are kept back.
pub(super) fn removals(facts: &Facts) -> Removals {
    // Objects that carry our label and our Apply entry but are in no list: written by a sync that was killed before
    // its answer arrived, or known before the inventory was lost. They are members all the same.
    let is_proven = |seen: &Seen| seen.fingerprint.is_some() && !seen.has_controller;
    let is_unlisted = |key: &ObjectKey, seen: &Seen| is_proven(seen) && facts.inventory.get(key).is_none();
    let mut unlisted: Vec<ObjectKey> =
        facts.observed.ours.iter().filter(|(key, seen)| is_unlisted(key, seen)).map(|(key, _)| key.clone()).collect();
    unlisted.sort();
    // The Jobs of hooks come and go with syncs.
    let is_hook = |key: &ObjectKey| facts.observed.hooks.contains_key(key);
    let members = || facts.inventory.iter().map(|(key, _)| key).chain(&unlisted).filter(|key| !is_hook(key));
    let left: BTreeSet<&ObjectKey> = members().filter(|key| facts.desired.get(key).is_none()).collect();
    let mut fates: Vec<(ObjectKey, Fate)> = left.into_iter().map(|key| (key.clone(), fate_of(key, facts))).collect();

    // What is confirmed already, and not over yet, neither counts nor is asked for again.
    let commit = facts.commit.short();
    let is_confirmed = |key: &ObjectKey| facts.inventory.is_confirmed(key, &commit);
    let is_pruned = |fate: &Fate| matches!(fate, Fate::Prune { .. });
    let counts = |key: &ObjectKey, fate: &Fate| is_pruned(fate) && !(facts.generated)(key) && !is_confirmed(key);
    let counted = fates.iter().filter(|(key, fate)| counts(key, fate)).count();
    let budget = deletion_budget(members().filter(|key| !(facts.generated)(key)).count());
    let is_over_budget = counted > budget;

    let waits = |(key, fate): &&(ObjectKey, Fate)| match fate {
        Fate::Keep(Keep::ProtectedKind) => !is_confirmed(key),
        _ => is_over_budget && counts(key, fate),
    };
    let wanted: Vec<ObjectKey> = fates.iter().filter(waits).map(|(key, _)| key.clone()).collect();
    let value = confirmation(facts, &wanted);
    let is_confirmed_now = facts.confirmed == Some(value.as_str());

    let mut needs_confirmation = false;
    for (key, fate) in &mut fates {
        let may_go = is_confirmed_now || is_confirmed(key);
        match fate {
            Fate::Prune { .. } if is_over_budget && !may_go && !(facts.generated)(key) => {
                *fate = Fate::Keep(Keep::OverBudget);
                needs_confirmation = true;
            }
            Fate::Keep(Keep::ProtectedKind) => match facts.observed.ours.get(key) {
                Some(seen) if may_go => *fate = Fate::Prune { uid: seen.uid.clone() },
                _ => needs_confirmation = true,
            },
            _ => {}
        }
    }
    let newly_confirmed = if is_confirmed_now { wanted.clone() } else { Vec::new() };
    in_order_of_deletion(&mut fates);
    let is_other_confirmed = facts.confirmed.is_some_and(|said| !said.is_empty() && said != value);
    let confirmation = Confirmation { value, objects: wanted, is_other_confirmed };
    Removals { fates, confirmation: needs_confirmation.then_some(confirmation), newly_confirmed, unlisted }
}

/// The reverse of the order in which kinds are applied: what could refuse a deletion first, then workloads, and what
/// they stand on last.
pub(super) fn in_order_of_deletion(fates: &mut [(ObjectKey, Fate)]) {
    fates.sort_by_key(|(key, _)| Reverse(stage_of(key)));
}

fn fate_of(key: &ObjectKey, facts: &Facts) -> Fate {
    let Some(seen) = facts.observed.ours.get(key) else { return fate_of_unseen(key, facts) };
    let environment = facts.environment;
    let own = Own { namespace: facts.own_namespace, account: (&environment.home, &environment.account) };
    let uid = match fate_of_seen(key, seen, &own) {
        Fate::Prune { uid } => uid,
        fate => return fate,
    };
    if let Some(environment) = (facts.wanted_by)(key) {
        return Fate::Keep(Keep::TakenOver(environment));
    }
    if !environment.prune {
        return Fate::Keep(Keep::PruneIsOff);
    }
    if is_protected(key) {
        return Fate::Keep(Keep::ProtectedKind);
    }
    Fate::Prune { uid }
}

/// The door reads by name what lost its label before it may be called gone.
fn fate_of_unseen(key: &ObjectKey, facts: &Facts) -> Fate {
    match facts.observed.foreign.get(key) {
        None if facts.observed.unserved.contains(key) => Fate::Keep(Keep::Unserved),
        None if facts.observed.ending_of(key).is_some() => Fate::Keep(Keep::NamespaceEnds),
        None => Fate::Gone,
        Some(foreign) => {
            let known = facts.inventory.get(key).and_then(|member| member.uid.as_ref());
            if foreign.is_of_other_environment {
                return Fate::HandedOver;
            }
            if foreign.is_applied_by_us && known == Some(&foreign.uid) {
                return Fate::Keep(Keep::Unproven("it is a member that lost the label of this environment"));
            }
            Fate::Release("it no longer carries our label")
        }
    }
}

/// What the proofs say: a label, an Apply entry that is ours, and no controller that owns it.
pub(super) fn fate_of_seen(key: &ObjectKey, seen: &Seen, own: &Own) -> Fate {
    if seen.has_controller {
        return Fate::Keep(Keep::Unproven("it is a member that a controller owns now"));
    }
    if seen.fingerprint.is_none() {
        return Fate::Keep(Keep::Unproven("it is a member of which no field is applied by us any longer"));
    }
    if let Some(terminating) = &seen.terminating {
        let (since, finalizers) = (terminating.since, terminating.finalizers.clone());
        return Fate::Keep(Keep::Terminating { since, finalizers });
    }
    if own.has(key, seen.is_of_agent) {
        return Fate::Keep(Keep::OwnResource);
    }
    if seen.never_prune {
        return Fate::Keep(Keep::NeverPrune);
    }
    Fate::Prune { uid: seen.uid.clone() }
}

/// What stands for exactly these deletions at exactly this commit. An object that was made anew is another one.
fn confirmation(facts: &Facts, keys: &[ObjectKey]) -> String {
    let commit: CommitId = facts.commit;
    let mut hash = Sha256::new();
    hash.update(commit.as_bytes());
    for key in keys {
        let uid = facts.observed.ours.get(key).map_or("", |seen| seen.uid.as_str());
        hash.update(format!("{key} {uid}\n"));
    }
    format!("{}:{}", commit.short(), hex::encode(&hash.finalize()[..6]))
}
