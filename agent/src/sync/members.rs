//! The members of an environment, written down before they are applied and struck off after they are gone.

use std::collections::BTreeSet;
use std::time::Instant;

use towpath_core::fault::Problem;
use towpath_core::inventory::{Inventory, Member};
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Observed, Plan};
use towpath_core::policy::Cleared;

use super::{Memory, Pass};
use crate::cluster::{Kinds, Stored};
use crate::seeded;

/// What is stored is not known, because a write of it failed in this pass.
const UNKNOWN: &str = "the inventory has to be read again";

/// Version, kind and namespace of members that may be there: where to look for them by their labels.
pub(super) type Place = (String, String, Option<String>);

/// Reads the inventory, once. Where it takes another environment over, that one's members are its own. Where the
/// inventory was lost, the status still says where to look.
///
/// # Errors
/// When it could not be read: a part of it is never taken for the whole.
pub(super) async fn load(pass: &Pass<'_>, memory: &mut Memory) -> Result<(), Problem> {
    if memory.inventory.is_some() && memory.recorded.is_some() {
        return Ok(());
    }
    let environment = pass.environment;
    let stored = pass.cluster.find_inventory(&environment.home, &environment.name).await?;
    if stored.is_none() {
        memory.lost_in = places(&pass.status.leftovers.kinds);
    }
    let recorded = stored.unwrap_or_default();
    let mut inventory = recorded.inventory.clone();
    if let Some(earlier) = &environment.moved_from
        && let Some(inherited) = pass.cluster.find_inventory(&environment.home, earlier).await?
    {
        for (key, member) in inherited.inventory.iter().filter(|(key, _)| recorded.inventory.get(key).is_none()) {
            inventory.insert(key.clone(), member.clone());
        }
    }
    pass.claims.set(&environment.name, &inventory);
    memory.recorded = Some(recorded);
    memory.inventory = Some(inventory);
    Ok(())
}

/// Reads places as [`kinds_of`] writes them. Others are none.
pub(super) fn places(kinds: &[String]) -> BTreeSet<Place> {
    let place = |text: &String| {
        let mut words = text.split(' ');
        let (version, kind, namespace) = (words.next()?, words.next()?, words.next()?);
        Some((version.to_owned(), kind.to_owned(), (namespace != "-").then(|| namespace.to_owned())))
    };
    kinds.iter().filter_map(place).collect()
}

/// Where the members are, as `apps/v1 Deployment shop`, with `-` for no namespace.
pub(super) fn kinds_of(inventory: &Inventory) -> BTreeSet<String> {
    let place =
        |(key, member): (&ObjectKey, &Member)| (member.api_version.clone(), key.kind.clone(), key.namespace.clone());
    let mut seen: BTreeSet<Place> = BTreeSet::new();
    for (key, member) in inventory.iter() {
        // Keys are in order of kind and namespace, so that most repeat the one before.
        if seen
            .last()
            .is_none_or(|last| (&last.0, &last.1, &last.2) != (&member.api_version, &key.kind, &key.namespace))
        {
            seen.insert(place((key, member)));
        }
    }
    seen.into_iter()
        .map(|(version, kind, namespace)| format!("{version} {kind} {}", namespace.as_deref().unwrap_or("-")))
        .collect()
}

/// Takes into the inventory what the plan found to be ours although no list has it.
pub(super) fn find_again(memory: &mut Memory, plan: &Plan, observed: &Observed, kinds: &Kinds) {
    memory.lost_in.clear();
    let Some(inventory) = &mut memory.inventory else { return };
    for key in &plan.unlisted {
        if let Some(seen) = observed.ours.get(key)
            && let Some(kind) = kinds.any_version(&key.group, &key.kind)
        {
            let uid = Some(seen.uid.clone());
            inventory.insert(key.clone(), Member { api_version: kind.api_version.clone(), uid });
        }
    }
}

/// Writes down every new member before it is applied, so that a crash in between orphans nothing.
///
/// # Errors
/// When it could not be written: then nothing may be applied.
pub(super) async fn enroll(
    pass: &Pass<'_>,
    memory: &mut Memory,
    desired: &Cleared,
    plan: &Plan,
) -> Result<(), Problem> {
    let environment = pass.environment;
    let taken: Vec<&ObjectKey> = plan.writes().map(|step| &step.key).collect();
    if let Err(problem) = pass.claims.take(&environment.name, environment.moved_from.as_ref(), &taken) {
        // Another environment came first since policy asked; it is asked again at the next pass.
        memory.desired = None;
        return Err(problem);
    }
    let objects: Vec<(&ObjectKey, &str)> =
        plan.writes().map(|step| (&step.key, desired.objects()[step.index].api_version.as_str())).collect();
    write_down(pass, memory, &objects).await
}

/// Writes down objects, by identity and version, that are not members yet.
///
/// # Errors
/// When they could not be written: then nothing of them may be applied.
pub(super) async fn write_down(
    pass: &Pass<'_>,
    memory: &mut Memory,
    objects: &[(&ObjectKey, &str)],
) -> Result<(), Problem> {
    let Some(inventory) = &mut memory.inventory else {
        return Err(Problem::passing(UNKNOWN));
    };
    let before = inventory.len();
    for (key, api_version) in objects {
        if inventory.get(key).is_none() {
            let member = Member { api_version: (*api_version).to_owned(), uid: None };
            inventory.insert((*key).clone(), member);
        }
    }
    // What was taken over from another inventory is written down before that one may go.
    let is_stored = memory.recorded.as_ref().is_some_and(|recorded| recorded.inventory.len() == inventory.len());
    let has_nothing_new = inventory.len() == before && (is_stored || pass.environment.moved_from.is_none());
    if has_nothing_new || seeded::has("enroll-late") {
        return Ok(());
    }
    store(pass, memory).await
}

/// What has to be known and written down before the first deletion: that the inventory is as it was read, for with an old
/// one, and the old status that is read beside it, what was added since would look as if it had left git; and which
/// deletions a person has confirmed.
///
/// # Errors
/// When it is not as it was read, or could not be written: then nothing may be deleted.
pub(super) async fn before_deletions(
    pass: &Pass<'_>,
    memory: &mut Memory,
    plan: &Plan,
    commit: &str,
) -> Result<(), Problem> {
    let Some(inventory) = &mut memory.inventory else { return Ok(()) };
    if plan.newly_confirmed.is_empty() {
        let Some(recorded) = memory.recorded.take() else {
            return Err(Problem::passing(UNKNOWN));
        };
        let confirmed = pass.cluster.confirm_inventory(pass.environment, &recorded).await;
        return stored(memory, confirmed);
    }
    for key in &plan.newly_confirmed {
        inventory.confirm(key, commit);
    }
    store(pass, memory).await
}

/// Writes the inventory if it is another than the one that is stored.
///
/// # Errors
/// When it could not be written; it is written again at the next pass.
pub(super) async fn record(pass: &Pass<'_>, memory: &mut Memory) -> Result<(), Problem> {
    // Where it is not known what is stored, a write has failed, and said so: it is read again before the next one.
    let is_due =
        memory.recorded.as_ref().is_some_and(|recorded| memory.inventory.as_ref() != Some(&recorded.inventory));
    if !is_due {
        return Ok(());
    }
    store(pass, memory).await?;
    if let Some(inventory) = &memory.inventory {
        pass.claims.set(&pass.environment.name, inventory);
    }
    Ok(())
}

async fn store(pass: &Pass<'_>, memory: &mut Memory) -> Result<(), Problem> {
    let Some(inventory) = &memory.inventory else { return Ok(()) };
    let Some(before) = memory.recorded.take() else {
        return Err(Problem::passing(UNKNOWN));
    };
    // Where this fails, what is stored is not known any more; the next pass reads it again.
    let written = pass.cluster.write_inventory(pass.environment, inventory, &before).await;
    stored(memory, written)
}

/// Notes what is stored. Where it is not as it was read, the status that was read beside it may be as old.
fn stored(memory: &mut Memory, result: Result<Stored, Problem>) -> Result<(), Problem> {
    match result {
        Ok(stored) => memory.recorded = Some(stored),
        Err(problem) => {
            memory.doubted_at = Some(Instant::now());
            return Err(problem);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_members_are_reads_back() {
        let lines = "apps/v1 Deployment shop web 1\napps/v1 Deployment shop api 2\nv1 Namespace - shop 3\n";
        let kinds = kinds_of(&Inventory::from_lines(lines).unwrap());
        assert_eq!(kinds, ["apps/v1 Deployment shop".to_owned(), "v1 Namespace -".to_owned()].into());
        let kinds: Vec<String> = kinds.into_iter().chain(["nonsense".to_owned()]).collect();
        assert_eq!(places(&kinds).len(), 2);
    }
}
