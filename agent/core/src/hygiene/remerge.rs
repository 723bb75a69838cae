//! The trap of merging again: a merge was reverted, its branch goes on and is merged once more, and git brings nothing
//! back of what the first merge brought, for these commits are merged already.
//!
//! It takes the newest commits of one branch as a graph and gives the merges that left something out. Whether a change
//! came back by another commit is for the caller, who can read patches.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::reverts::{landing_again, reverts};
use super::{Finding, MAX_NAMED, Sort, taken_back};
use crate::commits::{Commit, Log};
use crate::revision::CommitId;

#[cfg(test)]
mod tests;

/// Commits of one branch that are looked through, the newest ones. A revert that is older is not found.
pub const MAX_HISTORY: usize = 2000;

/// A commit of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The commit.
    pub commit: Commit,
    /// Its parents, the branch's own first.
    pub parents: Vec<CommitId>,
    /// Whether it has the files of its first parent, all alike.
    pub is_empty: bool,
}

/// A merge that left something out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The merge.
    pub merge: Commit,
    /// The revert that holds against it.
    pub revert: Commit,
    /// The commits that its branch brought and that are still reverted, the newest first.
    pub missing: Vec<Commit>,
}

/// The merges into a branch that left something out, from its newest commits, the newest first. Each commit that is
/// missing is told of the first merge that should have brought it back.
///
/// A merge is one where, at its place on the branch,
///
/// * a revert stands on the branch that holds to this day, and the other side does not have that revert;
/// * the other side has commits of what was reverted *of its own*. What it has from the branch itself, because it was
///   begun there or took it over to be up to date, nobody expects it to bring.
///
/// A plain commit of the branch itself that was reverted is no trap for this reason: who was merged by fast-forward and
/// goes on cannot be told from who began there.
pub fn traps(history: &[Node]) -> Vec<Trap> {
    let graph = Graph::of(history);
    let commits: Vec<Commit> = history.iter().map(|node| node.commit.clone()).collect();
    let holding: Vec<Holding> = reverts(&commits)
        .into_iter()
        .filter_map(|(revert, reverted)| {
            let changes = graph.brought(*graph.index.get(&reverted)?);
            let at = graph.index[&revert.commit];
            (!changes.is_empty()).then(|| Holding { at, changes, told: BTreeSet::new() })
        })
        .collect();
    graph.trapped(holding)
}

/// A revert that holds.
struct Holding {
    at: usize,
    /// What it took back.
    changes: BTreeSet<usize>,
    /// What was told of it already.
    told: BTreeSet<usize>,
}

struct Graph<'h> {
    nodes: &'h [Node],
    index: HashMap<CommitId, usize>,
}

impl<'h> Graph<'h> {
    fn of(nodes: &'h [Node]) -> Graph<'h> {
        Graph { nodes, index: nodes.iter().enumerate().map(|(at, node)| (node.commit.commit, at)).collect() }
    }

    /// The parents of a commit that are known.
    fn parents(&self, at: usize) -> impl DoubleEndedIterator<Item = usize> {
        self.nodes[at].parents.iter().filter_map(|parent| self.index.get(parent).copied())
    }

    fn first_parent(&self, at: usize) -> Option<usize> {
        self.index.get(self.nodes[at].parents.first()?).copied()
    }

    fn other_parents(&self, at: usize) -> impl Iterator<Item = usize> {
        self.nodes[at].parents.iter().skip(1).filter_map(|parent| self.index.get(parent).copied())
    }

    /// Goes to everything below a commit where nobody was yet, and gives it.
    fn visit(&self, from: usize, seen: &mut [bool]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut waiting = vec![from];
        while let Some(at) = waiting.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                found.push(at);
                waiting.extend(self.parents(at));
            }
        }
        found
    }

    fn below(&self, from: usize) -> Vec<bool> {
        let mut seen = vec![false; self.nodes.len()];
        self.visit(from, &mut seen);
        seen
    }

    /// The line of first parents from a commit on, the newest first.
    fn line(&self, from: usize) -> Vec<usize> {
        std::iter::successors(Some(from), |at| self.first_parent(*at)).collect()
    }

    /// The changes that a commit brought to its first parent: itself, or what a merge merged and had not taken back.
    fn brought(&self, at: usize) -> BTreeSet<usize> {
        if !self.nodes[at].commit.is_merge {
            return BTreeSet::from([at]);
        }
        let mut seen = match self.first_parent(at) {
            Some(before) => self.below(before),
            None => return BTreeSet::new(),
        };
        let mut brought = self.visit(at, &mut seen);
        brought.sort_unstable();
        let gone = taken_back(brought.iter().map(|at| &self.nodes[*at].commit));
        let is_change = |node: &Node| !node.commit.is_merge && !node.is_empty && !gone.contains(&node.commit.commit);
        brought.into_iter().filter(|at| is_change(&self.nodes[*at])).collect()
    }

    /// What a branch has of its own when it is merged into a line: its line of first parents down to the lane's, and what
    /// it merged from elsewhere than the lane.
    fn own(&self, from: usize, is_of_lane: &[bool]) -> Vec<usize> {
        let mut line = self.line(from);
        let fork = line.iter().position(|at| is_of_lane[*at]);
        let mut seen = match fork {
            Some(at) => self.below(line[at]),
            None => vec![false; self.nodes.len()],
        };
        line.truncate(fork.unwrap_or(line.len()));
        let mut own = Vec::new();
        // The oldest first: what the branch had before it took the lane over is its own.
        for at in line.into_iter().rev() {
            for parent in self.other_parents(at) {
                let reached = self.visit(parent, &mut seen.clone());
                for of_lane in reached.iter().filter(|at| is_of_lane[**at]) {
                    self.visit(*of_lane, &mut seen);
                }
                own.extend(self.visit(parent, &mut seen));
            }
            if !std::mem::replace(&mut seen[at], true) {
                own.push(at);
            }
        }
        own
    }

    fn trapped(&self, mut holding: Vec<Holding>) -> Vec<Trap> {
        if holding.is_empty() {
            return Vec::new();
        }
        let line = self.line(0);
        let mut is_of_lane = vec![false; self.nodes.len()];
        let mut found = Vec::new();
        // The oldest first. What is newer than a merge is not of the lane yet when it is merged.
        for at in line.into_iter().rev() {
            let before = self.first_parent(at).filter(|_| self.nodes[at].commit.is_merge);
            if let Some(before) = before {
                let had = self.below(before);
                if holding.iter().any(|revert| had[revert.at]) {
                    found.extend(self.at_merge(at, &had, &is_of_lane, &mut holding));
                }
            }
            is_of_lane[at] = true;
        }
        found.reverse();
        found
    }

    fn at_merge(&self, merge: usize, had: &[bool], is_of_lane: &[bool], holding: &mut [Holding]) -> Vec<Trap> {
        let mut missing: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for other in self.other_parents(merge) {
            let has = self.below(other);
            let own = self.own(other, is_of_lane);
            for (nth, revert) in holding.iter().enumerate().filter(|(_, revert)| had[revert.at] && !has[revert.at]) {
                let left_out = own.iter().filter(|at| revert.changes.contains(at) && !revert.told.contains(at));
                missing.entry(nth).or_default().extend(left_out);
            }
        }
        let mut found = Vec::new();
        for (nth, left_out) in missing.into_iter().filter(|(_, left_out)| !left_out.is_empty()) {
            let commit = |at: usize| self.nodes[at].commit.clone();
            found.push(Trap {
                merge: commit(merge),
                revert: commit(holding[nth].at),
                missing: left_out.iter().map(|at| commit(*at)).collect(),
            });
            holding[nth].told.extend(left_out);
        }
        found
    }
}

impl Trap {
    /// As a finding.
    pub fn finding(&self, component: Option<&str>, branch: &str) -> Finding {
        let Trap { merge, revert, missing } = self;
        let place = component.map(|name| format!(" in {name}")).unwrap_or_default();
        let count = match missing.len() {
            1 => "1 change".to_owned(),
            many => format!("{many} changes"),
        };
        Finding {
            sort: Sort::MergeBringsNothingBack,
            component: component.map(str::to_owned),
            branch: branch.to_owned(),
            commit: Some(merge.commit),
            message: format!(
                "{} {} leaves {count} out of {branch}{place}, for {} {} took that back before, and git merges no commit \
                 a second time",
                merge.commit.short(),
                merge.subject,
                revert.commit.short(),
                revert.subject
            ),
            hint: landing_again(component, branch, revert),
            missing: Log {
                commits: missing.iter().take(MAX_NAMED).cloned().collect(),
                more: missing.len().saturating_sub(MAX_NAMED),
            },
        }
    }
}
