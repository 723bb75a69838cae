//! What the rest of the agent knows of a repository.

use std::collections::BTreeSet;
use std::sync::Arc;

use towpath_core::fault::Problem;
use towpath_core::lane::{BranchNames, Heads};

use super::Mirror;

/// The branches as they were last seen, and the mirror that holds their commits.
#[derive(Clone)]
pub struct View {
    /// The branches that are followed. One that the server no longer has keeps its last commit.
    pub heads: Heads,
    /// Those that the server no longer has.
    pub deleted: BTreeSet<String>,
    /// What the long-lived branches are called.
    pub branches: BranchNames,
    /// Why the last look failed, if it did.
    pub problem: Option<Problem>,
    /// Where commits are read from.
    pub mirror: Arc<Mirror>,
}

impl View {
    /// Whether an environment would come to the same end with the other one.
    pub fn says_the_same(&self, other: &View) -> bool {
        self.heads == other.heads
            && self.deleted == other.deleted
            && self.branches == other.branches
            && self.problem == other.problem
            && Arc::ptr_eq(&self.mirror, &other.mirror)
    }
}
