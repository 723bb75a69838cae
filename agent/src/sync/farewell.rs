//! What is done when an Environment is deleted whose members go with it: one look after the other, until nothing of it is
//! left or nothing more can be done. It needs no git, and it never holds up a namespace for good.
//!
//! 1. find the members by their labels, wherever the inventory or the status says that there are some
//! 2. stage by stage, workloads before what they stand on: delete with the UID, and wait until they are gone
//! 3. give up what cannot be deleted, and say so

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use towpath_core::environment::Environment;
use towpath_core::fault::{Fault, Problem};
use towpath_core::inventory::Inventory;
use towpath_core::manifest::{ObjectKey, group_of};
use towpath_core::plan::{self, Fate, Keep, Leaving, Row, Seen, stage_of};
use towpath_core::policy;
use towpath_core::status::{EnvironmentStatus, KeptStatus};

use super::members::{Place, kinds_of, places};
use super::{CONCURRENCY, Claims, kind_of, neighbours};
use crate::cluster::{Account, AccountClient, Cluster, Deleted, Kind, Kinds, NamespaceState};

/// How long the members may take to go. Those that are left then are on their way, or held by somebody else.
const WITHIN: Duration = Duration::from_secs(600);
/// How long a right or an account may be missing before what needs it is left.
const FORBIDDEN_WITHIN: Duration = Duration::from_secs(30);
/// How long other environments have to say that they want some of it.
const NEIGHBOURS_WITHIN: Duration = Duration::from_secs(30);

/// An Environment that is being deleted.
pub struct Farewell<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The environment.
    pub environment: &'a Environment,
    /// Its status.
    pub status: &'a EnvironmentStatus,
    /// When it was deleted.
    pub since: Timestamp,
    /// Who has which object.
    pub claims: &'a Claims,
    /// The namespace that the agent itself runs in.
    pub own_namespace: Option<&'a str>,
    /// Other environments that may have its objects in git.
    pub neighbours: &'a [Environment],
    /// Divides the waits.
    pub time_scale: u32,
}

/// What one look came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// Whether the Environment may go.
    pub is_over: bool,
    /// How many objects were deleted.
    pub deleted: u32,
    /// What is still there, and why. When it is over: what is left for good.
    pub left: Vec<KeptStatus>,
}

/// What stands in the way for now.
#[derive(Default)]
struct Found {
    deleted: u32,
    /// What is on its way, or is left on purpose.
    left: Vec<KeptStatus>,
    is_waiting: bool,
    obstacles: Vec<(String, Problem)>,
}

/// Looks once, and deletes what can be deleted now.
pub async fn farewell(farewell: &Farewell<'_>) -> Parting {
    let environment = farewell.environment;
    farewell.claims.leaves(&environment.name, policy::apply_set(environment));
    let waited = Duration::try_from(Timestamp::now().duration_since(farewell.since)).unwrap_or_default();
    let is_over = |limit: Duration| waited >= limit / farewell.time_scale;
    let home = farewell.cluster.namespace_state(&environment.home).await;
    // What lives there goes with it, and so do the rights of the account: it is tried once.
    let home_ends = matches!(home, Ok(NamespaceState::Terminating(_)));

    let unheard = farewell.neighbours.iter().find(|other| !farewell.claims.has_looked(&other.name, None));
    if let Some(other) = unheard
        && !home_ends
        && !is_over(NEIGHBOURS_WITHIN)
    {
        let why = format!("environment {} has not looked at git yet, which may have some of it", other.name);
        return Parting { is_over: false, deleted: 0, left: vec![KeptStatus::new("everything", why)] };
    }

    let mut found = Found::default();
    if let Err(problem) = delete_what_can_be(farewell, home_ends, &mut found).await {
        found.obstacles.push(("everything".to_owned(), problem));
    }
    let Found { deleted, mut left, is_waiting, obstacles } = found;
    let can_only_be_granted = !is_waiting && obstacles.iter().all(|(_, problem)| problem.fault == Fault::Setup);
    let limit = if can_only_be_granted { FORBIDDEN_WITHIN } else { WITHIN };
    let is_done = !is_waiting && obstacles.is_empty();
    left.extend(obstacles.into_iter().map(|(object, problem)| KeptStatus::new(object, problem.message)));
    Parting { is_over: is_done || home_ends || is_over(limit), deleted, left }
}

async fn delete_what_can_be(farewell: &Farewell<'_>, home_ends: bool, found: &mut Found) -> Result<(), Problem> {
    let environment = farewell.environment;
    let cluster = farewell.cluster;
    let account = cluster.act_as(&Account::new(&environment.home, &environment.account)?);
    let kinds = cluster.kinds(None).await?;
    // An inventory that cannot be read is none: the status knows where to look, and the labels say what is ours.
    let inventory = cluster.find_inventory(&environment.home, &environment.name).await;
    let inventory = match inventory {
        Err(problem) if problem.fault == Fault::Passing => return Err(problem),
        stored => stored.unwrap_or_default().map(|stored| stored.inventory).unwrap_or_default(),
    };
    let known = kinds_of(&inventory).into_iter().chain(farewell.status.leftovers.kinds.iter().cloned());
    let known: Vec<String> = known.collect();
    let observed = observe(environment, &account, &kinds, &places(&known), &inventory, found).await;
    let fates = plan::farewell(&Leaving {
        environment,
        observed: &observed,
        own_namespace: farewell.own_namespace,
        wanted_by: &|key| farewell.claims.wanted_by(&environment.name, None, key),
    });
    for stage in fates.chunk_by(|(one, _), (other, _)| stage_of(one) == stage_of(other)) {
        delete_stage(farewell, (&account, &kinds), (&inventory, &observed), stage, found).await;
        let is_held = found.is_waiting || !found.obstacles.is_empty();
        if is_held && !home_ends {
            return Ok(());
        }
    }
    Ok(())
}

async fn delete_stage(
    farewell: &Farewell<'_>,
    (account, kinds): (&AccountClient, &Kinds),
    (inventory, observed): (&Inventory, &[(ObjectKey, Row)]),
    stage: &[(ObjectKey, Fate)],
    found: &mut Found,
) {
    let rows: BTreeMap<&ObjectKey, &Row> = observed.iter().map(|(key, row)| (key, row)).collect();
    let label = &farewell.environment.name;
    let mut deletions = Vec::new();
    for (key, fate) in stage {
        match fate {
            Fate::Prune { .. } => {
                let version = inventory.get(key).map_or("", |member| member.api_version.as_str());
                if let (Some(kind), Some(row)) = (kind_of(kinds, version, key), rows.get(key)) {
                    deletions.push(async move { (key, account.delete(kind, key, label, row).await) });
                }
            }
            Fate::Keep(keep) => {
                if let Keep::TakenOver(other) = keep {
                    let name = &farewell.environment.name;
                    neighbours::give_away(farewell.cluster, farewell.claims, name, [(key, other)].into_iter());
                }
                found.is_waiting |= matches!(keep, Keep::Terminating { .. } | Keep::TakenOver(_));
                found.left.push(KeptStatus::new(key, keep));
            }
            Fate::Gone | Fate::HandedOver | Fate::Release(_) => {}
        }
    }
    let mut results = futures::stream::iter(deletions).buffer_unordered(CONCURRENCY);
    while let Some((key, result)) = results.next().await {
        match result {
            Ok(Deleted::Gone) => found.deleted += 1,
            Ok(Deleted::Pending(terminating)) => {
                found.deleted += 1;
                found.is_waiting = true;
                let reason = Keep::Terminating { since: terminating.since, finalizers: terminating.finalizers };
                found.left.push(KeptStatus::new(key, reason));
            }
            Ok(Deleted::Replaced) => {}
            Ok(Deleted::Changed) => {
                found.is_waiting = true;
                found.left.push(KeptStatus::new(key, "it was changed a moment ago, and is looked at again"));
            }
            Err(problem) => found.obstacles.push((key.to_string(), problem)),
        }
    }
}

/// Everything with the environment's label that is of its ApplySet, or is a member by its UID.
async fn observe(
    environment: &Environment,
    account: &AccountClient,
    kinds: &Kinds,
    places: &BTreeSet<Place>,
    inventory: &Inventory,
    found: &mut Found,
) -> Vec<(ObjectKey, Row)> {
    let apply_set = policy::apply_set(environment);
    let mut spots: BTreeMap<(&str, &str, Option<&str>), &Kind> = BTreeMap::new();
    for (version, kind, namespace) in places {
        // What is not served is not there any more either: its objects went with its definition.
        if let Some(served) = kinds.get(version, kind).or_else(|| kinds.any_version(group_of(version), kind)) {
            spots.insert((&served.api_version, &served.kind, namespace.as_deref()), served);
        }
    }
    let mut observed = BTreeMap::new();
    for ((_, _, namespace), kind) in spots {
        match account.labelled(kind, namespace, &environment.name).await {
            Ok(objects) => observed.extend(objects),
            Err(problem) => {
                let place = namespace.map(|namespace| format!(" in {namespace}")).unwrap_or_default();
                found.obstacles.push((format!("every {}{place}", kind.kind), problem));
            }
        }
    }
    let is_ours = |key: &ObjectKey, seen: &Seen| {
        let is_member = inventory.get(key).is_some_and(|member| member.uid.as_ref() == Some(&seen.uid));
        seen.part_of.as_deref() == Some(apply_set.as_str()) || is_member
    };
    observed.into_iter().filter(|(key, row): &(_, Row)| is_ours(key, &row.seen)).collect()
}
