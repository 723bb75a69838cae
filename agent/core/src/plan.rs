//! What should be there, compared with what is there: the ordered list of what to do, and why.
//!
//! A plan is total: every desired object and every member stands in it once. It holds no bodies and does nothing.
//!
//! # Guarantees
//! - What exists and is not ours is refused unless adoption is said.
//! - An object is deleted only as a member whose label and Apply entry are ours and which no controller owns.
//! - The deletion budget, the protected kinds and `Never` hold; only a confirmation for exactly this revision and
//!   exactly this list lifts the first two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest, Sha256};

use crate::environment::{DriftMode, Environment};
use crate::fault::Problem;
use crate::fingerprint::Fingerprint;
use crate::health::ObjectHealth;
use crate::inventory::Inventory;
use crate::manifest::ObjectKey;
use crate::policy::{Cleared, Desired};
use crate::revision::CommitId;

/// What the cluster says of one object that carries our label.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its UID.
    pub uid: String,
    /// What we own of it; `None` where no Apply entry is ours.
    pub fingerprint: Option<Fingerprint>,
    /// Whether a controller owns it (`ownerReferences[].controller`).
    pub has_controller: bool,
    /// Whether it is being deleted.
    pub is_terminating: bool,
    /// Whether its annotation, as it was applied, says that it is never pruned.
    pub never_prune: bool,
    /// The ApplySet that it says to be part of.
    pub part_of: Option<String>,
    /// How it is.
    pub health: ObjectHealth,
}

/// An object that exists without our label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its UID.
    pub uid: String,
    /// Who seems to have it, in words: a label of another tool, or the field managers.
    pub owner: String,
}

/// One complete reading of the cluster. A reading with a hole in it is none: the door gives an error instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Objects with our label, by identity.
    pub ours: BTreeMap<ObjectKey, Seen>,
    /// Objects that stand where a desired one would go, and do not carry our label.
    pub foreign: BTreeMap<ObjectKey, Foreign>,
    /// Objects of kinds that the cluster does not serve now: nothing is known of them.
    pub unserved: BTreeSet<ObjectKey>,
}

/// What is remembered of an object's last apply by this process. Without it (after a restart) the rendered content is
/// compared with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Fingerprint of what was sent.
    pub sent: Fingerprint,
    /// Fingerprint of what the server then said we own.
    pub held: Fingerprint,
}

/// Why an object is applied although it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its content in git changed.
    Changed,
    /// Somebody changed it in the cluster.
    Drifted,
    /// Our label or our ownership of its fields is gone.
    Disowned,
    /// It is taken over, as its annotation says.
    Adopted,
    /// Nobody remembers what was sent, and what is there is not literally what is desired.
    Unproven,
}

/// What to do with a desired object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is not there.
    Create,
    /// It is there and differs.
    Configure(Why),
    /// Nothing.
    Leave,
    /// It has drifted, and drift is only reported.
    Report,
    /// It must not be touched.
    Refuse(Problem),
}

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

/// One desired object and what to do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its place in `Cleared::objects`.
    pub index: usize,
    /// Its identity.
    pub key: ObjectKey,
    /// Its place in the order of kinds: all of one stage is applied before any of the next.
    pub stage: Stage,
    /// What to do.
    pub action: Action,
}

/// The order of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Namespaces.
    Namespaces,
    /// CustomResourceDefinitions; the next stage waits until they are established.
    Definitions,
    /// Accounts, rights and configuration: what workloads read when they start.
    Foundations,
    /// Workloads and everything else.
    Workloads,
    /// Admission webhooks and APIServices: what could refuse the objects before them.
    Gates,
}

/// What to do for one environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The desired objects in the order in which they are applied.
    pub steps: Vec<Step>,
    /// The members that are no longer desired.
    pub removals: Vec<(ObjectKey, Fate)>,
    /// What a person must confirm before the kept deletions happen: `<commit>:<digest>`.
    pub confirmation: Option<String>,
}

impl Plan {
    /// Steps that send something.
    pub fn writes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| matches!(step.action, Action::Create | Action::Configure(_)))
    }

    /// Whether nothing is sent, deleted or struck off.
    pub fn is_idle(&self) -> bool {
        let stays = |(_, fate): &(ObjectKey, Fate)| matches!(fate, Fate::Keep(_));
        self.writes().next().is_none() && self.removals.iter().all(stays)
    }

    /// What was refused.
    pub fn refusals(&self) -> impl Iterator<Item = &Problem> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Refuse(problem) => Some(problem),
            _ => None,
        })
    }
}

/// Everything a plan is made of.
pub struct Facts<'a> {
    /// The environment.
    pub environment: &'a Environment,
    /// The commit that `desired` was rendered from.
    pub commit: CommitId,
    /// What should be there.
    pub desired: &'a Cleared,
    /// What is there.
    pub observed: &'a Observed,
    /// What was sent before.
    pub known: &'a BTreeMap<ObjectKey, Known>,
    /// The members.
    pub inventory: &'a Inventory,
    /// Hash-named ConfigMaps: replaced at each change, so they do not count for the budget.
    pub generated: &'a dyn Fn(&ObjectKey) -> bool,
    /// The value of the confirmation annotation.
    pub confirmed: Option<&'a str>,
}

/// Compares what should be there with what is there.
pub fn plan(facts: &Facts) -> Plan {
    let mut steps: Vec<Step> = facts
        .desired
        .objects()
        .iter()
        .enumerate()
        .map(|(index, desired)| Step {
            index,
            key: desired.key.clone(),
            stage: stage_of(&desired.key),
            action: action_for(desired, facts),
        })
        .collect();
    // A stable sort: within a stage the order of keys stays.
    steps.sort_by_key(|step| step.stage);
    let (removals, confirmation) = removals(facts);
    Plan { steps, removals, confirmation }
}

fn action_for(desired: &Desired, facts: &Facts) -> Action {
    if desired.leave_alone {
        return Action::Leave;
    }
    if let Some(foreign) = facts.observed.foreign.get(&desired.key) {
        let is_member = facts.inventory.get(&desired.key).and_then(|member| member.uid.as_ref()) == Some(&foreign.uid);
        if is_member {
            return drifted(Why::Disowned, facts.environment.drift);
        }
        if desired.adopt {
            return Action::Configure(Why::Adopted);
        }
        return Action::Refuse(
            Problem::content(format!("{} exists already and is not ours: {}", desired.key, foreign.owner))
                .at(desired.source.clone())
                .hint("annotate the manifest with towpath.dev/adopt: \"true\" to take it over, or rename it"),
        );
    }
    let Some(seen) = facts.observed.ours.get(&desired.key) else { return Action::Create };
    let Some(found) = seen.fingerprint else { return drifted(Why::Disowned, facts.environment.drift) };
    match facts.known.get(&desired.key) {
        Some(known) if known.sent != desired.fingerprint => Action::Configure(Why::Changed),
        Some(known) if known.held == found => Action::Leave,
        Some(_) => drifted(Why::Drifted, facts.environment.drift),
        None if found == desired.fingerprint => Action::Leave,
        None => Action::Configure(Why::Unproven),
    }
}

fn drifted(why: Why, mode: DriftMode) -> Action {
    match mode {
        DriftMode::Correct => Action::Configure(why),
        DriftMode::Report => Action::Report,
    }
}

/// Where a kind stands in the order.
pub fn stage_of(key: &ObjectKey) -> Stage {
    match (key.group.as_str(), key.kind.as_str()) {
        ("", "Namespace") => Stage::Namespaces,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Stage::Definitions,
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => Stage::Gates,
        ("rbac.authorization.k8s.io" | "storage.k8s.io" | "scheduling.k8s.io", _)
        | (
            "",
            "ConfigMap"
            | "LimitRange"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "ResourceQuota"
            | "Secret"
            | "Service"
            | "ServiceAccount",
        ) => Stage::Foundations,
        _ => Stage::Workloads,
    }
}

/// Kinds whose deletion takes more with it than the object.
pub fn is_protected(key: &ObjectKey) -> bool {
    matches!(
        (key.group.as_str(), key.kind.as_str()),
        ("", "Namespace" | "PersistentVolumeClaim") | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

/// How many of `members` may be deleted at once without a confirmation: the larger of 5 and a fifth, but never more
/// than half.
pub fn deletion_budget(members: usize) -> usize {
    (members / 5).max(5).min(members / 2)
}

fn removals(facts: &Facts) -> (Vec<(ObjectKey, Fate)>, Option<String>) {
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

#[cfg(test)]
mod tests;
