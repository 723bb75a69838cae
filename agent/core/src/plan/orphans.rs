//! What looks like a member and cannot be proven to be one: it is listed for people, and left alone.

use super::{Facts, Fate, Keep};
use crate::manifest::ObjectKey;

const OTHER_SET: &str = "it carries the label of this environment and is part of another ApplySet";
const NOT_APPLIED: &str = "it carries the label of this environment and no field of it is applied by us";
const CONTROLLED: &str = "it carries the label of this environment and a controller owns it";

/// Objects with our label that are neither desired nor members, and members that lost one of the proofs.
pub(super) fn orphans(facts: &Facts, fates: &[(ObjectKey, Fate)]) -> Vec<(ObjectKey, &'static str)> {
    let is_unknown = |key: &ObjectKey| facts.desired.get(key).is_none() && facts.inventory.get(key).is_none();
    let strays = facts.observed.strays.keys().map(|key| (key, OTHER_SET));
    let labelled = facts.observed.ours.iter().filter_map(|(key, seen)| match seen {
        seen if seen.has_controller => Some((key, CONTROLLED)),
        seen if seen.fingerprint.is_none() => Some((key, NOT_APPLIED)),
        _ => None,
    });
    let unknown = strays.chain(labelled).filter(|(key, _)| is_unknown(key)).map(|(key, why)| (key.clone(), why));
    let members = fates.iter().filter_map(|(key, fate)| match fate {
        Fate::Keep(Keep::Unproven(why)) => Some((key.clone(), *why)),
        _ => None,
    });
    let mut orphans: Vec<(ObjectKey, &'static str)> = unknown.chain(members).collect();
    orphans.sort();
    orphans
}
