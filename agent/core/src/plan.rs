//! What should be there, compared with what is there: the ordered list of what to do, and why.
//!
//! A plan is total: every desired object and every member stands in it once. It holds no bodies and does nothing.
//!
//! # Guarantees
//! - What exists and is not ours is refused unless adoption is said.
//! - An object is deleted only as a member whose label and Apply entry are ours and which no controller owns.
//! - The deletion budget, the protected kinds and `Never` hold; only a confirmation for exactly this revision and
//!   exactly this list lifts the first two.

mod farewell;
mod order;
mod orphans;
mod own;
mod removals;
mod table;
mod waves;

pub use crate::manifest::is_protected;
pub use farewell::{Leaving, farewell};
pub use order::{Stage, stage_of};
pub use removals::{Confirmation, Fate, Keep, deletion_budget};
pub use table::{Row, Table};
pub use waves::{Held, held_by};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::course::Wave;
use crate::environment::{DriftMode, Environment};
use crate::fault::Problem;
use crate::fingerprint::Fingerprint;
use crate::health::ObjectHealth;
use crate::inventory::Inventory;
use crate::manifest::ObjectKey;
use crate::names::EnvironmentName;
use crate::owners;
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
    /// Set while it is being deleted.
    pub terminating: Option<Box<Terminating>>,
    /// Whether its annotations, as they were applied, say that it is never pruned, or not touched at all.
    pub never_prune: bool,
    /// Whether it is labelled as a part of the agent itself (`app.kubernetes.io/name: towpath`).
    pub is_of_agent: bool,
    /// Managers who own a value together with us.
    pub co_owners: Vec<String>,
    /// Stands for who else owns what of it, status not counted: another number, other owners.
    pub others: u64,
    /// Whether a rollout controller has its hands in it.
    pub is_rolled: bool,
    /// The ApplySet that it says to be part of.
    pub part_of: Option<Arc<str>>,
    /// The run that it is the Job of, where it is one of a hook.
    pub hook: Option<HookMark>,
    /// How it is.
    pub health: ObjectHealth,
}

impl Seen {
    /// Whether a decision to delete it that was made from an earlier reading still stands: it is the same object of the
    /// same ApplySet, and nothing has come up since that would keep it.
    pub fn may_still_go(&self, decided_on: &Seen) -> bool {
        let is_same = self.uid == decided_on.uid && self.part_of == decided_on.part_of;
        let is_agents_now = self.is_of_agent && !decided_on.is_of_agent;
        let is_kept = self.has_controller || self.never_prune || is_agents_now;
        is_same && !is_kept && self.fingerprint.is_some()
    }
}

/// What is known of an object on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminating {
    /// Since when.
    pub since: Timestamp,
    /// What holds it.
    pub finalizers: Vec<String>,
}

/// What the Job of a hook says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookMark {
    /// The hook's name in git, as far as a label can hold it.
    pub hook: String,
    /// Which run of it this is.
    pub run: String,
}

/// An object that exists without our label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its UID.
    pub uid: String,
    /// Who seems to have it, in words: a label of another tool, or the field managers.
    pub owner: String,
    /// Whether our Apply entry is in its managedFields: it was ours, and its label was taken off.
    pub is_applied_by_us: bool,
    /// Whether it carries the label of another environment.
    pub is_of_other_environment: bool,
}

/// One complete reading of the cluster. A reading with a hole in it is none: the door gives an error instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Objects with our label, by identity.
    pub ours: Table,
    /// The Jobs of hooks, by identity. They come and go with syncs: the plan has no say in them.
    pub hooks: BTreeMap<ObjectKey, Seen>,
    /// Objects that stand where a desired one would go, and do not carry our label.
    pub foreign: BTreeMap<ObjectKey, Foreign>,
    /// Objects of kinds that the cluster does not serve now, or that may not be listed: nothing is known of them.
    pub unserved: BTreeSet<ObjectKey>,
    /// Those of `ours` that still carry the label of the environment that they are taken over from, and which that is.
    pub inherited: BTreeMap<ObjectKey, EnvironmentName>,
    /// Objects with our label that say to be part of another ApplySet, and are no members.
    pub strays: BTreeMap<ObjectKey, Seen>,
    /// Namespaces that are being deleted, with what holds them. Nothing can be made there, and what is not seen there
    /// is not asked for.
    pub ending: BTreeMap<String, Problem>,
}

impl Observed {
    /// Why nothing is done about an object: its namespace is on its way out.
    fn ending_of(&self, key: &ObjectKey) -> Option<&Problem> {
        self.ending.get(key.namespace.as_ref()?)
    }
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
    /// A tool that had it before owns values together with us: what git drops would stay.
    CoOwned,
    /// Another environment of this agent hands it over.
    HandedOver,
    /// Nobody remembers what was sent, and what is there is not literally what is desired.
    Unproven,
}

/// What an object waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Somebody fights over it: it is mended later.
    Contended,
    /// It is being deleted: it is created when it is gone.
    Terminating,
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
    /// It is not touched now, and looked at again.
    Wait(Wait),
    /// It must not be touched.
    Refuse(Problem),
}

/// One desired object and what to do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its place in `Cleared::objects`.
    pub index: usize,
    /// Its identity.
    pub key: ObjectKey,
    /// When its turn is.
    pub wave: Wave,
    /// Its place in the order of kinds within a wave: all of one stage is applied before any of the next.
    pub stage: Stage,
    /// Whether it only puts right again what was applied before. That waits for no wave and no hook.
    pub mends: bool,
    /// What to do.
    pub action: Action,
    /// Whether it is read before it is sent: others have their hands in it, or may have.
    pub is_looked_at: bool,
    /// Whether an autoscaler in git has it for a target.
    pub is_autoscaled: bool,
}

/// What to do for one environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The desired objects in the order in which they are applied.
    pub steps: Vec<Step>,
    /// The members that are no longer desired.
    pub removals: Vec<(ObjectKey, Fate)>,
    /// What a person must confirm before the kept deletions happen.
    pub confirmation: Option<Confirmation>,
    /// Members whose deletion was confirmed just now: to be written down before the first of them is deleted.
    pub newly_confirmed: Vec<ObjectKey>,
    /// Objects that are proven to be ours and are in no inventory: its list was lost, or a sync was killed before it could
    /// say that it had made them. They are members from here on.
    pub unlisted: Vec<ObjectKey>,
    /// Objects that look like members and cannot be proven to be ours, and why. Nothing is done about them.
    pub orphans: Vec<(ObjectKey, &'static str)>,
}

impl Plan {
    /// Steps that send something.
    pub fn writes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| matches!(step.action, Action::Create | Action::Configure(_)))
    }

    /// Objects that are not touched because they are being deleted.
    pub fn terminating(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.action == Action::Wait(Wait::Terminating))
    }

    /// The waves that have objects, in order.
    pub fn waves(&self) -> Vec<Wave> {
        let mut waves: Vec<Wave> = self.steps.iter().map(|step| step.wave).collect();
        waves.dedup();
        waves
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
    pub known: &'a HashMap<ObjectKey, Known>,
    /// The members.
    pub inventory: &'a Inventory,
    /// Hash-named ConfigMaps: replaced at each change, so they do not count for the budget.
    pub generated: &'a dyn Fn(&ObjectKey) -> bool,
    /// The value of the confirmation annotation.
    pub confirmed: Option<&'a str>,
    /// The namespace that the agent itself runs in.
    pub own_namespace: Option<&'a str>,
    /// Which other environment of this agent wants an object that this one no longer has in git.
    pub wanted_by: &'a dyn Fn(&ObjectKey) -> Option<EnvironmentName>,
}

/// Compares what should be there with what is there.
pub fn plan(facts: &Facts) -> Plan {
    let targets: BTreeSet<&ObjectKey> = facts.desired.objects().iter().filter_map(|it| it.scales.as_deref()).collect();
    let step = |(index, desired): (usize, &Arc<Desired>)| {
        let action = action_for(desired, facts);
        let is_autoscaled = targets.contains(&desired.key);
        let is_shared =
            facts.observed.ours.get(&desired.key).is_some_and(|seen| seen.is_rolled || !seen.co_owners.is_empty());
        let is_looked_at = match action {
            Action::Configure(Why::Changed | Why::Unproven) => is_autoscaled || is_shared,
            Action::Configure(_) => true,
            _ => false,
        };
        let mends = mends(&action, desired, facts);
        let (key, wave) = (desired.key.clone(), desired.wave);
        Step { index, wave, stage: stage_of(&key), key, mends, action, is_looked_at, is_autoscaled }
    };
    let mut steps: Vec<Step> = facts.desired.objects().iter().enumerate().map(step).collect();
    // A stable sort: within a stage the order of keys stays.
    steps.sort_by_key(|step| (step.wave, step.stage));
    let removals::Removals { fates, confirmation, newly_confirmed, unlisted } = removals::removals(facts);
    let orphans = orphans::orphans(facts, &fates);
    Plan { steps, removals: fates, confirmation, newly_confirmed, unlisted, orphans }
}

fn action_for(desired: &Desired, facts: &Facts) -> Action {
    if desired.leave_alone {
        return Action::Leave;
    }
    let action = action_by_what_is_there(desired, facts);
    match facts.observed.ending_of(&desired.key) {
        Some(problem) if matches!(action, Action::Create | Action::Configure(_)) => Action::Refuse(problem.clone()),
        _ => action,
    }
}

fn action_by_what_is_there(desired: &Desired, facts: &Facts) -> Action {
    if facts.observed.inherited.contains_key(&desired.key) {
        return Action::Configure(Why::HandedOver);
    }
    if let Some(foreign) = facts.observed.foreign.get(&desired.key) {
        let is_member = facts.inventory.get(&desired.key).and_then(|member| member.uid.as_ref()) == Some(&foreign.uid);
        if is_member {
            return disowned(desired, facts);
        }
        if desired.adopt {
            return Action::Configure(Why::Adopted);
        }
        let said = format!("{} exists already and is not ours: {}", desired.key, foreign.owner);
        // Another environment may give it up without a commit of ours.
        let problem = if foreign.is_of_other_environment { Problem::setup(said) } else { Problem::content(said) };
        return Action::Refuse(
            problem
                .at(desired.source.clone())
                .hint("annotate the manifest with towpath.dev/adopt: \"true\" to take it over, or rename it"),
        );
    }
    let Some(seen) = facts.observed.ours.get(&desired.key) else { return Action::Create };
    if seen.terminating.is_some() {
        return Action::Wait(Wait::Terminating);
    }
    let Some(found) = seen.fingerprint else { return disowned(desired, facts) };
    let is_co_owned = facts.environment.drift == DriftMode::Correct
        && seen.co_owners.iter().any(|manager| owners::is_former(manager, &facts.environment.take_over));
    match facts.known.get(&desired.key) {
        Some(known) if known.sent != desired.fingerprint => Action::Configure(Why::Changed),
        Some(known) if known.held == found && is_co_owned => Action::Configure(Why::CoOwned),
        Some(known) if known.held == found => Action::Leave,
        Some(_) => drifted(Why::Drifted, facts.environment.drift),
        None if found == desired.fingerprint && is_co_owned => Action::Configure(Why::CoOwned),
        None if found == desired.fingerprint => Action::Leave,
        None => Action::Configure(Why::Unproven),
    }
}

/// Whether exactly this content was applied before. What nobody remembers counts as new.
fn mends(action: &Action, desired: &Desired, facts: &Facts) -> bool {
    let was_sent = facts.known.get(&desired.key).is_some_and(|known| known.sent == desired.fingerprint);
    match action {
        Action::Configure(Why::Drifted | Why::CoOwned) => true,
        _ => was_sent,
    }
}

/// Our label or our fields are gone. Where git has something else by now it is applied, whatever is done about drift.
fn disowned(desired: &Desired, facts: &Facts) -> Action {
    match facts.known.get(&desired.key) {
        Some(known) if known.sent != desired.fingerprint => Action::Configure(Why::Disowned),
        _ => drifted(Why::Disowned, facts.environment.drift),
    }
}

fn drifted(why: Why, mode: DriftMode) -> Action {
    match mode {
        DriftMode::Correct => Action::Configure(why),
        DriftMode::Report => Action::Report,
    }
}

#[cfg(test)]
mod tests;
