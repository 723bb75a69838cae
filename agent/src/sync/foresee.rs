//! What would change in an environment if it moved to a revision, found out without a write.

use towpath_core::candidate::Candidate;
use towpath_core::fault::Problem;
use towpath_core::rollback::{self, Changed};

use super::{Memory, Pass, desire, images, revision_of};
use crate::cluster::Account;

/// What would change.
pub struct Foreseen {
    /// The difference to what it has. Of an object that differs from what runs and from what is under way it is the one to
    /// what is under way.
    pub changes: Vec<Changed>,
    /// The other difference of such an object: to what runs.
    pub also: Vec<Changed>,
    /// Images that it would need and that no registry has.
    pub missing: Vec<Problem>,
    /// Images of which that is not known, and which count as there in an emergency.
    pub unknown: Vec<Problem>,
}

/// Renders all revisions, judges them by every rule, and looks images up as a sync would.
///
/// It is compared with what runs, and with what is under way: some of that may be there already, and nobody knows how much
/// of it. Where one of these can no longer be rendered, every object counts as new.
///
/// # Errors
/// Everything that keeps the revision from being applied.
pub async fn foresee(pass: &Pass<'_>, then: &Candidate) -> Result<Foreseen, Vec<Problem>> {
    let one = |problem: Problem| vec![problem];
    let mut memory = Memory::default();
    let account = Account::new(&pass.environment.home, &pass.environment.account).map_err(one)?;
    let account = pass.cluster.act_as(&account);
    let mut kinds = pass.cluster.kinds(None).await.map_err(one)?;
    memory.images.begin();
    let runs = pass.status.running.as_ref().and_then(|running| revision_of(&running.revision));
    let under_way = pass.status.sync.as_ref().and_then(|sync| revision_of(&sync.revision));
    let mut had = Vec::new();
    for revision in under_way.iter().filter(|under_way| Some(*under_way) != runs.as_ref()).chain(&runs) {
        let found = desire::desired(pass, &mut memory, (revision, false), &account, &mut kinds).await;
        had.push(found.ok().map(|(cleared, _)| cleared));
    }
    if had.is_empty() {
        had.push(None);
    }
    let is_trusted = pass.trusts(then);
    let (then, mut unknown) = desire::desired(pass, &mut memory, (then, true), &account, &mut kinds).await?;
    let missing = images::missing(pass, &mut memory, &account, &kinds, &then).await;
    let (missing, unsaid): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|problem| !is_trusted || images::is_gone(problem));
    unknown.extend(unsaid);
    let (mut changes, mut also) = (Vec::<Changed>::new(), Vec::new());
    for had in &had {
        for change in rollback::changes(had.as_deref(), &then) {
            let is_known = changes.iter().any(|known| known.key == change.key);
            if is_known { also.push(change) } else { changes.push(change) }
        }
    }
    changes.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(Foreseen { changes, also, missing, unknown })
}
