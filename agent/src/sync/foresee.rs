//! What would change in an environment if it moved to a revision, found out without a write.

use std::sync::Arc;

use towpath_core::candidate::Candidate;
use towpath_core::fault::Problem;
use towpath_core::policy::Cleared;
use towpath_core::rollback::{self, Changed};

use super::{Memory, Pass, desire, images};
use crate::cluster::Account;

/// What would change.
pub struct Foreseen {
    /// What is desired at the revision that it runs. None where nothing runs, or where that can no longer be rendered.
    pub now: Option<Arc<Cleared>>,
    /// What would be desired.
    pub then: Arc<Cleared>,
    /// The difference.
    pub changes: Vec<Changed>,
    /// Images that it would need and that no registry has.
    pub missing: Vec<Problem>,
}

/// Renders both revisions, judges them by every rule, and looks images up as a sync would.
///
/// # Errors
/// Everything that keeps the revision from being applied.
pub async fn foresee(pass: &Pass<'_>, now: Option<&Candidate>, then: &Candidate) -> Result<Foreseen, Vec<Problem>> {
    let one = |problem: Problem| vec![problem];
    let mut memory = Memory::default();
    let account = Account::new(&pass.environment.home, &pass.environment.account).map_err(one)?;
    let account = pass.cluster.act_as(&account);
    let mut kinds = pass.cluster.kinds(None).await.map_err(one)?;
    memory.images.begin();
    let before = match now {
        Some(now) => desire::desired(pass, &mut memory, (now, false), &account, &mut kinds).await.ok(),
        None => None,
    };
    let now = before.map(|(cleared, _)| cleared);
    let (then, _) = desire::desired(pass, &mut memory, (then, true), &account, &mut kinds).await?;
    let missing = images::missing(pass, &mut memory, &account, &kinds, &then).await;
    let changes = rollback::changes(now.as_deref(), &then);
    Ok(Foreseen { now, then, changes, missing })
}
