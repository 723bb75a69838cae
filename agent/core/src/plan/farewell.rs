//! What becomes of the members when their Environment is deleted.

use super::own::Own;
use super::removals::{Fate, Keep, fate_of_seen, in_order_of_deletion};
use super::{Row, Seen, is_protected};
use crate::environment::Environment;
use crate::manifest::ObjectKey;
use crate::names::EnvironmentName;

/// An Environment on its way out, and what is there with its label.
pub struct Leaving<'a> {
    /// The environment.
    pub environment: &'a Environment,
    /// Objects with its label and of its ApplySet, or members by their UID.
    pub observed: &'a [(ObjectKey, Row)],
    /// The namespace that the agent itself runs in.
    pub own_namespace: Option<&'a str>,
    /// Which other environment of this agent wants an object.
    pub wanted_by: &'a dyn Fn(&ObjectKey) -> Option<EnvironmentName>,
}

/// The fate of each object, in the order of deletion: workloads before what they stand on. The same proofs are asked as
/// for a prune. What is of a protected kind stays for good: nobody is left to confirm its deletion to, and an Environment
/// that waited for one would hold its namespace. There is no budget, for somebody deleted the Environment by its name.
pub fn farewell(leaving: &Leaving) -> Vec<(ObjectKey, Fate)> {
    let environment = leaving.environment;
    let own = Own { namespace: leaving.own_namespace, account: (&environment.home, &environment.account) };
    let fate = |key: &ObjectKey, seen: &Seen| match fate_of_seen(key, seen, &own) {
        Fate::Prune { .. } if is_protected(key) => Fate::Keep(Keep::ProtectedKind),
        Fate::Prune { uid } => match (leaving.wanted_by)(key) {
            Some(other) => Fate::Keep(Keep::TakenOver(other)),
            None => Fate::Prune { uid },
        },
        fate => fate,
    };
    let mut fates: Vec<_> = leaving.observed.iter().map(|(key, row)| (key.clone(), fate(key, &row.seen))).collect();
    in_order_of_deletion(&mut fates);
    fates
}
