//! What is there: by the watches, and by name for what the watches do not know.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use towpath_core::fault::Problem;
use towpath_core::manifest::{ObjectKey, group_of};
use towpath_core::plan::{Observed, Seen};
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
    let wanted: HashSet<Spot> = spots.values().filter_map(|(spot, _)| spot.clone()).collect();
    follow(&mut memory.watches, account, wanted).await?;

    let apply_set = policy::apply_set(pass.environment);
    // The label alone is no proof: another agent may have an environment of this name, and labels are easily copied.
    let is_ours = |key: &ObjectKey, seen: &Seen| {
        let is_member = inventory.get(key).is_some_and(|member| member.uid.as_ref() == Some(&seen.uid));
        seen.part_of.as_ref() == Some(&apply_set) || is_member
    };
    // The table may still have what no watch follows any longer: nobody would tell of its end.
    let watched: HashSet<(&str, &str, Option<&str>)> = spots
        .values()
        .filter_map(|(spot, _)| spot.as_ref())
        .map(|(kind, namespace)| (group_of(&kind.api_version), kind.kind.as_str(), namespace.as_deref()))
        .collect();
    let is_watched = |key: &ObjectKey| watched.contains(&(&*key.group, &*key.kind, key.namespace.as_deref()));
    let read_table = || {
        let mut ours = pass.cluster.live().snapshot(&pass.environment.name);
        ours.retain(|key, row| is_watched(key) && is_ours(key, &row.seen));
        ours
    };
    let mut ours = read_table();
    let is_unseen =
        |key: &&&ObjectKey| !ours.contains_key(key) && !desired.get(key).is_some_and(|object| object.leave_alone);
    let unseen = spots.values().filter_map(|(spot, keys)| {
        let keys: Vec<ObjectKey> = keys.iter().filter(is_unseen).map(|key| (*key).clone()).collect();
        (!keys.is_empty()).then_some((spot.clone()?, keys))
    });
    let unseen: Vec<(Spot, Vec<ObjectKey>)> = unseen.collect();
    let mut foreign = BTreeMap::new();
    let was_complete = unseen.is_empty();
    for ((kind, namespace), keys) in unseen {
        match account.look_up(&kind, namespace.as_deref(), &keys, &pass.environment.name, &apply_set).await {
            Ok(found) => foreign.extend(found),
            Err(_) if seeded::has("failed-list-is-empty") => {}
            Err(problem) => return Err(problem),
        }
    }
    if !was_complete {
        // A look may have found what no watch has told of yet.
        ours = read_table();
    }
    // What is of a kind that the cluster does not serve was not looked for: it is unknown, not gone.
    let unserved = spots.values().filter(|(spot, _)| spot.is_none()).flat_map(|(_, keys)| keys);
    let unserved: BTreeSet<ObjectKey> = unserved.map(|key| (*key).clone()).collect();
    // Nor is what the table still has of it: the watch ended with the kind, and may not have told of the end.
    ours.retain(|key, _| !unserved.contains(key));
    Ok(Observed { ours, foreign, unserved })
}

/// Keeps exactly the watches that are needed, and waits until each has listed once.
async fn follow(
    watches: &mut HashMap<Spot, Arc<WatchHandle>>,
    account: &AccountClient,
    spots: HashSet<Spot>,
) -> Result<(), Problem> {
    watches.retain(|spot, _| spots.contains(spot));
    for spot in spots {
        watches.entry(spot.clone()).or_insert_with(|| account.watch(&spot.0, spot.1.as_deref()));
    }
    if seeded::has("failed-list-is-empty") {
        return Ok(());
    }
    let mut failed = None;
    let mut ended = Vec::new();
    for (spot, watch) in watches.iter() {
        if let Err(problem) = watch.listed().await {
            failed = Some(problem);
            ended.push(spot.clone());
        }
    }
    // A watch that was refused does not ask again; a new one does at the next pass.
    for spot in ended {
        watches.remove(&spot);
    }
    failed.map_or(Ok(()), Err)
}
