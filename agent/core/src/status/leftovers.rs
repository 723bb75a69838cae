//! What is not in git and is still there: members that are kept, deletions that wait, and orphans.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MAX_LISTED, shorten};

/// Objects that are listed for a person to confirm their deletion; the rest is counted.
pub const MAX_TO_CONFIRM: usize = 200;
/// Kinds in namespaces that are remembered for an inventory that gets lost.
pub const MAX_KINDS: usize = 500;

/// A member that is no longer in git and stays, or an orphan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptStatus {
    /// `ConfigMap web/old`.
    pub object: String,
    /// Why it stays.
    pub reason: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl KeptStatus {
    /// An object and why it stays.
    pub fn new(object: impl ToString, reason: impl ToString) -> KeptStatus {
        KeptStatus { object: object.to_string(), reason: reason.to_string(), since: None }
    }
}

/// What is not in git and is still there, as the status says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftoverStatus {
    /// Members that are no longer in git and stay, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptStatus>,
    /// How many of them there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept_count: u32,
    /// What to put into the annotation `towpath.dev/confirmPrune` to have the objects of `toConfirm` deleted:
    /// `towpath confirm` does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_prune: Option<String>,
    /// The objects whose deletion waits for that, at most 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_confirm: Vec<String>,
    /// How many of them there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub to_confirm_count: u32,
    /// Objects that look like members and cannot be proven to be ours, at most 20. They are never deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<KeptStatus>,
    /// How many of them there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub orphan_count: u32,
    /// Where members may be, as `apps/v1 Deployment shop`, to find them again by their labels should the inventory be
    /// lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What a pass found that is not in git and is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Members that stay.
    pub kept: Vec<KeptStatus>,
    /// What a person must say to have the deletions done that wait.
    pub confirmation: Option<String>,
    /// The objects whose deletion waits for that.
    pub to_confirm: Vec<String>,
    /// What cannot be proven to be ours.
    pub orphans: Vec<KeptStatus>,
    /// Where members may be.
    pub kinds: BTreeSet<String>,
    /// When a deletion that did not succeed is tried again.
    pub again: Option<Timestamp>,
}

/// Folds what was found into what was known: an object that was there before keeps its time.
pub(super) fn fold(before: &LeftoverStatus, found: &Leftovers, now: Timestamp) -> LeftoverStatus {
    let listed = |list: &[KeptStatus], before: &[KeptStatus]| -> Vec<KeptStatus> {
        let since = |kept: &KeptStatus| {
            let known = before.iter().find(|known| known.object == kept.object).and_then(|known| known.since);
            kept.since.or(known).or(Some(now))
        };
        let kept = list.iter().take(MAX_LISTED);
        kept.map(|kept| KeptStatus { since: since(kept), reason: shorten(&kept.reason), ..kept.clone() }).collect()
    };
    LeftoverStatus {
        kept: listed(&found.kept, &before.kept),
        kept_count: found.kept.len() as u32,
        confirm_prune: found.confirmation.clone(),
        to_confirm: found.to_confirm.iter().take(MAX_TO_CONFIRM).cloned().collect(),
        to_confirm_count: found.to_confirm.len() as u32,
        orphans: listed(&found.orphans, &before.orphans),
        orphan_count: found.orphans.len() as u32,
        kinds: found.kinds.iter().take(MAX_KINDS).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_stays_keeps_the_time_since_when_it_stays() {
        let mut found = Leftovers { kept: vec![KeptStatus::new("ConfigMap a/b", "denied")], ..Leftovers::default() };
        let first = fold(&LeftoverStatus::default(), &found, at(1));
        found.kept[0].reason = "denied for another reason".to_owned();
        found.kept.push(KeptStatus { since: Some(at(2)), ..KeptStatus::new("ConfigMap a/c", "it is being deleted") });
        let second = fold(&first, &found, at(9));
        assert_eq!(second.kept.iter().map(|kept| kept.since).collect::<Vec<_>>(), [Some(at(1)), Some(at(2))]);
        assert_eq!(fold(&second, &Leftovers::default(), at(10)), LeftoverStatus::default());
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let objects = |count: usize| (0..count).map(|number| format!("ConfigMap a/{number}"));
        let found = Leftovers {
            kept: objects(MAX_LISTED + 1).map(|object| KeptStatus::new(object, "x")).collect(),
            to_confirm: objects(MAX_TO_CONFIRM + 1).collect(),
            kinds: objects(MAX_KINDS + 1).collect(),
            ..Leftovers::default()
        };
        let status = fold(&LeftoverStatus::default(), &found, at(1));
        assert_eq!((status.kept.len(), status.kept_count as usize), (MAX_LISTED, MAX_LISTED + 1));
        assert_eq!((status.to_confirm.len(), status.to_confirm_count as usize), (MAX_TO_CONFIRM, MAX_TO_CONFIRM + 1));
        assert_eq!(status.kinds.len(), MAX_KINDS);
    }
}
