//! What is there: by the watches, and by name for what the watches do not know.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use towpath_core::fault::{Fault, Problem};
use towpath_core::manifest::{ObjectKey, group_of};
use towpath_core::names::EnvironmentName;
use towpath_core::plan::{Foreign, Observed, Seen, Table};
use towpath_core::policy::{self, Cleared};

use super::{Memory, Pass, kind_of};
use crate::cluster::{AccountClient, Kind, Kinds, WatchHandle};
use crate::seeded;

/// A kind in a namespace: what one watch covers.
type Spot = (Kind, Option<String>);

/// Version, kind and namespace as they are written.
type Name<'a> = (&'a str, &'a str, Option<&'a str>);

/// Reads the cluster. With a hole in the reading there is none: unknown is never absent.
///
/// # Errors
/// When any watch has not listed, or a name could not be looked up.
pub(super) async fn observe(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    desired: &Cleared,
    kinds: &Kinds,
) -> Result<Observed, Problem> {
    let inventory = memory.inventory.as_ref().expect("a pass loads it before it looks");
    let wanted = desired.objects().iter().map(|object| (&object.key, object.api_version.as_str()));
    // The version that is desired now goes before the one that was applied once.
    let others = inventory.iter().filter(|(key, _)| desired.get(key).is_none());
    let others = others.map(|(key, member)| (key, member.api_version.as_str()));
    let mut spots: HashMap<Name<'_>, (Option<Spot>, Vec<&ObjectKey>)> = HashMap::new();
    for (key, api_version) in wanted.chain(others) {
        let name = (api_version, key.kind.as_str(), key.namespace.as_deref());
        let spot = || kind_of(kinds, api_version, key).map(|kind| (kind.clone(), key.namespace.clone()));
        spots.entry(name).or_insert_with(|| (spot(), Vec::new())).1.push(key);
    }
    for (api_version, kind, namespace) in &memory.lost_in {
        let name = (api_version.as_str(), kind.as_str(), namespace.as_deref());
        let spot = || kinds.get(api_version, kind).map(|kind| (kind.clone(), namespace.clone()));
        spots.entry(name).or_insert_with(|| (spot(), Vec::new()));
    }
    // The Job of a hook wakes us when it ends, and the pass that makes it begins no watch of its own.
    for hook in desired.hooks() {
        let name = (hook.api_version.as_str(), hook.key.kind.as_str(), hook.key.namespace.as_deref());
        let spot = kind_of(kinds, &hook.api_version, &hook.key).map(|kind| (kind.clone(), hook.key.namespace.clone()));
        spots.entry(name).or_insert_with(|| (spot, Vec::new()));
    }
    let ends = |namespace: Option<&String>| namespace.is_some_and(|name| memory.ending.contains_key(name));
    let wanted = spots.values().filter_map(|(spot, _)| spot.clone());
    // Where a namespace ends, the rights to watch in it go early: no watch is begun there.
    let wanted: HashSet<Spot> =
        wanted.filter(|spot| memory.watches.contains_key(spot) || !ends(spot.1.as_ref())).collect();
    let failed = follow(&mut memory.watches, account, wanted).await;
    // Only members that git no longer has are there: that they cannot be seen keeps them, and nobody else from syncing.
    for ((_, kind, at), (spot, keys)) in &mut spots {
        let is_hook = |hook: &policy::Hook| hook.key.kind == *kind && hook.key.namespace.as_deref() == *at;
        let is_desired = keys.iter().any(|key| desired.get(key).is_some()) || desired.hooks().iter().any(is_hook);
        let Some((_, namespace)) = spot.as_ref() else { continue };
        if let Some(failure) = spot.as_ref().and_then(|spot| failed.get(spot)) {
            let may_fail = ends(namespace.as_ref()) || (!is_desired && failure.fault == Fault::Setup);
            if !may_fail {
                return Err(failure.clone());
            }
            *spot = None;
        }
    }

    let environment = pass.environment;
    let live = pass.cluster.live();
    let apply_set = policy::apply_set(pass.environment);
    // The label alone is no proof: another agent may have an environment of this name, and labels are easily copied.
    let is_ours = |key: &ObjectKey, seen: &Seen| {
        let is_member = inventory.get(key).is_some_and(|member| member.uid.as_ref() == Some(&seen.uid));
        seen.part_of.as_deref() == Some(apply_set.as_str()) || is_member
    };
    // The table may still have what no watch follows any longer: nobody would tell of its end.
    let watched: HashSet<(&str, &str, Option<&str>)> = spots
        .values()
        .filter_map(|(spot, _)| spot.as_ref())
        .map(|(kind, namespace)| (group_of(&kind.api_version), kind.kind.as_str(), namespace.as_deref()))
        .collect();
    let is_watched = |key: &ObjectKey| watched.contains(&(&*key.group, &*key.kind, key.namespace.as_deref()));
    let earlier = environment.moved_from.as_ref().map(|name| (name, policy::apply_set_of(name, &environment.home)));
    let read_table = || {
        let mut ours = live.snapshot(&environment.name);
        ours.retain(|key, _| is_watched(key));
        let strays = ours.iter().filter(|(key, seen)| !is_ours(key, seen));
        let strays: BTreeMap<ObjectKey, Seen> = strays.map(|(key, seen)| (key.clone(), seen.clone())).collect();
        ours.retain(|key, _| !strays.contains_key(key));
        let mut inherited = BTreeMap::new();
        if let Some((name, set)) = &earlier {
            let theirs = live.snapshot(name);
            let of_set = theirs
                .iter()
                .filter(|(key, seen)| seen.part_of.as_deref() == Some(set.as_str()) && !ours.contains_key(key));
            inherited = of_set.map(|(key, _)| (key.clone(), (*name).clone())).collect();
            for key in inherited.keys() {
                ours.put(key.clone(), theirs.row(key).expect("it was listed above").clone());
            }
        }
        (ours, inherited, strays)
    };
    let (mut ours, mut inherited, mut strays) = read_table();
    let is_unseen = |key: &&&ObjectKey| {
        let is_left_alone = desired.get(key).is_some_and(|object| object.leave_alone);
        !ours.contains_key(key) && !ends(key.namespace.as_ref()) && !is_left_alone
    };
    let unseen = spots.values().filter_map(|(spot, keys)| {
        let keys: Vec<ObjectKey> = keys.iter().filter(is_unseen).map(|key| (*key).clone()).collect();
        (!keys.is_empty()).then_some((spot.clone()?, keys))
    });
    let unseen: Vec<(Spot, Vec<ObjectKey>)> = unseen.collect();
    let mut foreign = BTreeMap::new();
    let was_complete = unseen.is_empty();
    let mut marks = vec![(&environment.name, apply_set.as_str())];
    marks.extend(earlier.as_ref().map(|(name, set)| (*name, set.as_str())));
    for ((kind, namespace), keys) in unseen {
        match account.look_up(&kind, namespace.as_deref(), &keys, &marks).await {
            Ok(found) => foreign.extend(found),
            Err(_) if seeded::has("failed-list-is-empty") => {}
            Err(problem) => return Err(problem),
        }
    }
    if !was_complete {
        // A look may have found what no watch has told of yet.
        (ours, inherited, strays) = read_table();
    }
    // What is of a kind that the cluster does not serve was not looked for: it is unknown, not gone.
    let unserved = spots.values().filter(|(spot, _)| spot.is_none()).flat_map(|(_, keys)| keys);
    let unserved: BTreeSet<ObjectKey> = unserved.map(|key| (*key).clone()).collect();
    // Nor is what the table still has of it: the watch ended with the kind, and may not have told of the end.
    ours.retain(|key, _| !unserved.contains(key));
    inherit(pass, &mut ours, &mut foreign, &mut inherited);
    inherited.retain(|key, _| ours.contains_key(key));
    let ending = memory.ending.iter().map(|(name, ending)| (name.clone(), ending.problem.clone())).collect();
    let is_hook = |key: &ObjectKey, seen: &Seen| seen.hook.is_some() && desired.get(key).is_none();
    let hooks = ours.iter().filter(|(key, seen)| is_hook(key, seen));
    let hooks: BTreeMap<ObjectKey, Seen> = hooks.map(|(key, seen)| (key.clone(), seen.clone())).collect();
    if !hooks.is_empty() {
        ours.retain(|key, _| !hooks.contains_key(key));
    }
    Ok(Observed { ours, hooks, foreign, unserved, inherited, strays, ending })
}

/// What another environment hands over is ours from here on, although it still carries that one's label.
fn inherit(
    pass: &Pass<'_>,
    ours: &mut Table,
    foreign: &mut BTreeMap<ObjectKey, Foreign>,
    inherited: &mut BTreeMap<ObjectKey, EnvironmentName>,
) {
    let name = &pass.environment.name;
    let others =
        if foreign.values().any(|found| found.is_of_other_environment) { pass.claims.others(name) } else { Vec::new() };
    foreign.retain(|key, found| {
        let given = others.iter().filter(|_| found.is_of_other_environment).find_map(|from| {
            let row = pass.cluster.live().get(from, key).filter(|row| row.seen.uid == found.uid)?;
            pass.claims.may_inherit(name, from, row.seen.part_of.as_deref(), key).then_some((from.clone(), row))
        });
        let Some((from, row)) = given else { return true };
        ours.put(key.clone(), row);
        inherited.insert(key.clone(), from);
        false
    });
}

/// Keeps exactly the watches that are needed, and waits until each has listed once. Gives those that could not.
async fn follow(
    watches: &mut HashMap<Spot, Arc<WatchHandle>>,
    account: &AccountClient,
    spots: HashSet<Spot>,
) -> HashMap<Spot, Problem> {
    watches.retain(|spot, _| spots.contains(spot));
    for spot in spots {
        watches.entry(spot.clone()).or_insert_with(|| account.watch(&spot.0, spot.1.as_deref()));
    }
    let mut failed = HashMap::new();
    if seeded::has("failed-list-is-empty") {
        return failed;
    }
    for (spot, watch) in watches.iter() {
        if let Err(problem) = watch.listed().await {
            failed.insert(spot.clone(), problem);
        }
    }
    // A watch that was refused does not ask again; a new one does at the next pass.
    watches.retain(|spot, _| !failed.contains_key(spot));
    failed
}
