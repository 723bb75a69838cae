//! Rollbacks that need attention.

use kube::ResourceExt;
use towpath_core::status::RollbackPhase;

use super::super::words;
use super::{Entry, Urgency};
use crate::resources::{Environment, prepared_by_itself};

/// What a rollback waits for, and one that was not finished.
pub(super) fn about(environment: &Environment) -> Option<Entry> {
    let status = environment.status.as_ref()?;
    let name = environment.name_any();
    let entry = |urgency, what: &str, lines, command| Entry::of(&name, urgency, what, lines, command);
    if let Some(one) = &status.rollback {
        let lane = one.from.as_deref().map_or("the lane's branch", |from| words::revision(from).0);
        match (one.phase, &one.branch) {
            (RollbackPhase::WaitsForMerge, Some(branch)) => {
                let line = format!("merge {branch} into {lane}");
                return Some(entry(Urgency::Waiting, "waits for its revert to be merged", vec![line], None));
            }
            (RollbackPhase::WaitsForGit, _) => {
                let line = format!("its revert is pushed to {lane} when the git server is back");
                return Some(entry(Urgency::Waiting, "was rolled back without git", vec![line], None));
            }
            (RollbackPhase::Refused, _) if status.held.is_some() => {
                let what = "went back, and its branch did not";
                return Some(entry(Urgency::Failing, what, one.lines.clone(), None));
            }
            _ => {}
        }
    }
    let prepared = prepared_by_itself(status).filter(|prepared| prepared.phase == RollbackPhase::Prepared)?;
    let command = format!("towpath rollback -n {} {name}", environment.namespace().unwrap_or_default());
    let what = "could be rolled back, and waits for a person";
    Some(entry(Urgency::Waiting, what, prepared.lines.clone(), Some(command)))
}
