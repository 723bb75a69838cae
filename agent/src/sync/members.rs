//! The members of an environment, written down before they are applied and struck off after they are gone.

use towpath_core::fault::Problem;
use towpath_core::inventory::Member;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::Plan;
use towpath_core::policy::Cleared;

use super::{Memory, Pass};
use crate::seeded;

/// Reads the inventory, once.
///
/// # Errors
/// When it could not be read: a part of it is never taken for the whole.
pub(super) async fn load(pass: &Pass<'_>, memory: &mut Memory) -> Result<(), Problem> {
    if memory.inventory.is_none() {
        let inventory = pass.cluster.read_inventory(pass.environment).await?;
        pass.claims.set(&pass.environment.name, &inventory);
        memory.recorded = Some(inventory.clone());
        memory.inventory = Some(inventory);
    }
    Ok(())
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
    let taken: Vec<&ObjectKey> = plan.writes().map(|step| &step.key).collect();
    if let Err(problem) = pass.claims.take(&pass.environment.name, &taken) {
        // Another environment came first since policy asked; it is asked again at the next pass.
        memory.desired = None;
        return Err(problem);
    }
    let inventory = memory.inventory.as_mut().expect("a pass loads it before it plans");
    let before = inventory.len();
    for step in plan.writes() {
        let object = &desired.objects()[step.index];
        if inventory.get(&object.key).is_none() {
            let member = Member { api_version: object.api_version.clone(), uid: None };
            inventory.insert(object.key.clone(), member);
        }
    }
    if inventory.len() == before || seeded::has("enroll-late") {
        return Ok(());
    }
    let written = pass.cluster.write_inventory(pass.environment, inventory).await;
    if written.is_err() {
        // What is stored is not known any more; the next pass reads it again.
        memory.inventory = None;
    }
    memory.recorded = memory.inventory.clone();
    written
}

/// Writes the inventory if it is another than the one that is stored.
///
/// # Errors
/// When it could not be written; it is written again at the next pass.
pub(super) async fn record(pass: &Pass<'_>, memory: &mut Memory) -> Result<(), Problem> {
    if memory.inventory == memory.recorded {
        return Ok(());
    }
    let Some(inventory) = &memory.inventory else { return Ok(()) };
    pass.cluster.write_inventory(pass.environment, inventory).await?;
    pass.claims.set(&pass.environment.name, inventory);
    memory.recorded = memory.inventory.clone();
    Ok(())
}
