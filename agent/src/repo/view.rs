//! What the rest of the agent knows of a repository.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use towpath_core::fault::Problem;
use towpath_core::lane::{BranchNames, Heads};
use towpath_core::ledger::LedgerName;
use towpath_core::ledger::passed::Gates;
use towpath_core::revision::CommitId;

use super::{Mirror, Parts};

/// The branches as they were last seen, and the mirror that holds their commits.
#[derive(Clone)]
pub struct View {
    /// The branches that are followed. One that the server no longer has keeps its last commit.
    pub heads: Heads,
    /// Those that the server no longer has.
    pub deleted: BTreeSet<String>,
    /// What the long-lived branches are called.
    pub branches: BranchNames,
    /// Other namespaces whose environments may follow it; `*` stands for all.
    pub allowed_from: BTreeSet<String>,
    /// Why the last look failed, if it did.
    pub problem: Option<Problem>,
    /// What the environments ran that others wait for.
    pub gates: Arc<Gates>,
    /// Where commits are read from.
    pub mirror: Arc<Mirror>,
    /// Its tags `vX.Y`, and the commits that they stand on. They only say what revisions are called.
    pub tags: Arc<BTreeMap<String, CommitId>>,
    /// The repositories of components. Another value says that something of them is new.
    pub parts: Arc<Parts>,
}

/// Whether environments of a namespace may follow a repository.
///
/// ```
/// # use towpath::repo::is_allowed;
/// let only_shop = ["shop".to_owned()].into();
/// assert!(is_allowed(&only_shop, "shop", "infra"));
/// assert!(is_allowed(&only_shop, "infra", "infra"));
/// assert!(!is_allowed(&only_shop, "bank", "infra"));
/// assert!(is_allowed(&["*".to_owned()].into(), "bank", "infra"));
/// ```
pub fn is_allowed(allowed_from: &BTreeSet<String>, namespace: &str, repository_home: &str) -> bool {
    namespace == repository_home || allowed_from.contains(namespace) || allowed_from.contains("*")
}

impl View {
    /// Whether environments of a namespace may follow it.
    pub fn is_for(&self, namespace: &str, repository_home: &str) -> bool {
        is_allowed(&self.allowed_from, namespace, repository_home)
    }

    /// Whether an environment that waits for these ledgers would come to the same end with the other one.
    pub fn says_the_same_to(&self, waits_for: &BTreeSet<LedgerName>, other: &View) -> bool {
        let gates = |view: &View| waits_for.iter().map(|name| view.gates.get(name).cloned()).collect::<Vec<_>>();
        self.says_the_same_of_git(other) && (Arc::ptr_eq(&self.gates, &other.gates) || gates(self) == gates(other))
    }

    /// Whether every environment would come to the same end with the other one.
    pub fn says_the_same(&self, other: &View) -> bool {
        self.says_the_same_of_git(other) && self.gates == other.gates && self.tags == other.tags
    }

    fn says_the_same_of_git(&self, other: &View) -> bool {
        self.heads == other.heads
            && self.deleted == other.deleted
            && self.branches == other.branches
            && self.allowed_from == other.allowed_from
            && self.problem == other.problem
            && Arc::ptr_eq(&self.mirror, &other.mirror)
            && Arc::ptr_eq(&self.parts, &other.parts)
    }
}
