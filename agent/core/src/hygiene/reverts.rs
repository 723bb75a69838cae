//! Reverts that hold on one branch while what they took back lives on in another, and what a merge of the two would do.
//!
//! A merge weighs what both sides did since the commit they have in common. So it depends on how the other branch has
//! the change:
//!
//! * As the same commit. Both branches have it, so only the revert counts as a change, and it wins whichever is merged
//!   into which: the branch that has the revert does not get the change back, and the other one loses it.
//! * As another commit with the same patch, picked or rebased. The branch that reverted has, on the whole, done nothing,
//!   so the change wins whichever is merged into which: it comes back, or it stays.

use std::collections::BTreeSet;

use super::{Finding, Sort};
use crate::commits::{Commit, Log};
use crate::lane::{BranchNames, Lane};
use crate::revision::CommitId;

/// How a branch has what was reverted on another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alive {
    /// It contains the commit itself, or one of those that a merge brought.
    Same,
    /// It contains another commit with the same patch.
    Copy,
}

/// A revert that holds, and the branches in which its change lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The branch on which it holds.
    pub branch: String,
    /// The revert.
    pub revert: Commit,
    /// What it reverts.
    pub reverted: CommitId,
    /// Where that lives on, and how.
    pub lives: Vec<(String, Alive)>,
}

/// Reverts of a branch that still hold: the revert, and what it reverts. The newest come first, here and there. What was
/// landed again, and taken back again by a revert of that, is held by the last one.
pub fn reverts(branch: &[Commit]) -> Vec<(&Commit, CommitId)> {
    let mut undone = BTreeSet::new();
    let mut found = Vec::new();
    for commit in branch {
        if undone.contains(&commit.commit) {
            continue;
        }
        for reverted in &commit.reverts {
            undone.insert(*reverted);
            found.push((commit, *reverted));
        }
    }
    // A revert that reverts a revert brings a change back: there is nothing to settle.
    let of_reverts: BTreeSet<CommitId> =
        branch.iter().filter(|commit| !commit.reverts.is_empty()).map(|commit| commit.commit).collect();
    found.retain(|(_, reverted)| !of_reverts.contains(reverted));
    let reverter = |of: CommitId, is_meant: &dyn Fn(&Commit) -> bool| {
        branch.iter().find(|it| it.reverts.contains(&of) && is_meant(it))
    };
    for (revert, _) in &mut found {
        while let Some(again) = reverter(revert.commit, &|_| true)
            && let Some(last) = reverter(again.commit, &|commit| !undone.contains(&commit.commit))
        {
            *revert = last;
        }
    }
    found
}

/// The branches in which what was reverted on a branch should not live on unseen. For master those that come to it,
/// develop and the newest release; for a release develop, every newer release, and master.
pub fn must_settle<'b>(branch: &str, compared: &[&'b str], names: &BranchNames) -> Vec<&'b str> {
    let newest = compared.iter().rev().find(|other| matches!(Lane::of(other, names), Lane::Release(_)));
    let lane = Lane::of(branch, names);
    let is_meant = |other: &&&str| match (&lane, Lane::of(other, names)) {
        (Lane::Master | Lane::Release(_), Lane::Develop) | (Lane::Release(_), Lane::Master) => true,
        (Lane::Master, Lane::Release(_)) => Some(*other) == newest,
        (Lane::Release(release), Lane::Release(other)) => other > *release,
        _ => false,
    };
    compared.iter().filter(is_meant).copied().collect()
}

/// Whether it is told that what a branch reverted lives on in another one. What a release took back stays in master until
/// the release is merged there, which takes it back: that is how it is meant. Where master has it as another commit, it
/// would stay.
pub fn is_told(other: &str, alive: Alive, of_release: bool, names: &BranchNames) -> bool {
    !(of_release && alive == Alive::Same && Lane::of(other, names) == Lane::Master)
}

/// How a change that was reverted is landed again on a branch, for people.
pub fn landing_again(component: Option<&str>, branch: &str, revert: &Commit) -> String {
    match component {
        None => format!("land it again with towpath reland {branch} {}", revert.commit.short()),
        Some(component) => format!("land it again with git revert {} on {branch} of {component}", revert.commit),
    }
}

impl Unsettled {
    /// As a finding.
    pub fn finding(&self, component: Option<&str>, names: &BranchNames) -> Finding {
        let Unsettled { branch, revert, reverted, lives } = self;
        let place = component.map(|name| format!(" in {name}")).unwrap_or_default();
        let all = |wanted: Option<Alive>| {
            let those = lives.iter().filter(|(_, alive)| wanted.is_none_or(|wanted| wanted == *alive));
            those.map(|(other, _)| other.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (same, copies) = (all(Some(Alive::Same)), all(Some(Alive::Copy)));
        let is_release = matches!(Lane::of(branch, names), Lane::Release(_));
        let mut hints = Vec::new();
        if !same.is_empty() {
            hints.push(match is_release {
                true => format!("merging {branch} into {same} takes it back there too"),
                false => format!(
                    "merging {same} into {branch} will not bring it back, and merging {branch} into {same} takes it out there"
                ),
            });
        }
        if !copies.is_empty() {
            hints.push(match is_release {
                true => format!("merging {branch} into {copies} leaves it there, for it is another commit"),
                false => format!("merging {copies} into {branch} brings it back, for it is another commit there"),
            });
        }
        hints.push(landing_again(component, branch, revert));
        hints.push(format!("or take it back with git cherry-pick -x {} on {}", revert.commit, all(None)));
        Finding {
            sort: Sort::RevertNotSettled,
            component: component.map(str::to_owned),
            branch: branch.clone(),
            commit: Some(revert.commit),
            message: format!(
                "{} {} takes {} back on {branch}{place}, and it lives on in {}",
                revert.commit.short(),
                revert.subject,
                reverted.short(),
                all(None)
            ),
            hint: hints.join("; "),
            missing: Log::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::commit;
    use super::*;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 20])
    }

    #[test]
    fn a_revert_counts_until_it_is_reverted_itself() {
        let master = [commit(2, &[1]), commit(1, &[])];
        assert_eq!(reverts(&master).iter().map(|(_, reverted)| *reverted).collect::<Vec<_>>(), [id(1)]);
        let master = [commit(3, &[2]), commit(2, &[1]), commit(1, &[])];
        assert!(reverts(&master).is_empty());
        let master = [commit(4, &[1]), commit(3, &[2]), commit(2, &[1]), commit(1, &[])];
        assert_eq!(reverts(&master).iter().map(|(_, reverted)| *reverted).collect::<Vec<_>>(), [id(1)]);
        // Landed again, and taken back again by a revert of that.
        let master = [commit(4, &[3]), commit(3, &[2]), commit(2, &[1]), commit(1, &[])];
        assert_eq!(reverts(&master), [(&master[0], id(1))]);
        let master = [commit(5, &[4]), commit(4, &[3]), commit(3, &[2]), commit(2, &[1]), commit(1, &[])];
        assert!(reverts(&master).is_empty());
    }

    #[test]
    fn a_revert_is_to_reach_what_is_released_after_it() {
        let names = BranchNames::default();
        let compared = ["r1.2", "r1.3", "develop", "master"];
        assert_eq!(must_settle("master", &compared, &names), ["r1.3", "develop"]);
        assert_eq!(must_settle("r1.2", &compared, &names), ["r1.3", "develop", "master"]);
        assert_eq!(must_settle("r1.3", &compared, &names), ["develop", "master"]);
        assert!(must_settle("develop", &compared, &names).is_empty());
        assert!(must_settle("feature", &compared, &names).is_empty());
        assert!(is_told("master", Alive::Copy, true, &names) && !is_told("master", Alive::Same, true, &names));
        assert!(is_told("develop", Alive::Same, true, &names) && is_told("develop", Alive::Same, false, &names));
    }

    #[test]
    fn the_hint_says_what_a_merge_would_do() {
        let names = BranchNames::default();
        let of = |branch: &str, lives: &[(&str, Alive)], component| {
            let lives = lives.iter().map(|(other, alive)| ((*other).to_owned(), *alive)).collect();
            let revert = commit(2, &[1]);
            Unsettled { branch: branch.to_owned(), revert, reverted: id(1), lives }.finding(component, &names)
        };
        let found = of("master", &[("r1.3", Alive::Same), ("develop", Alive::Same)], None);
        assert_eq!(found.message, "0202020 change 2 takes 0101010 back on master, and it lives on in r1.3, develop");
        let twos = "02".repeat(20);
        assert_eq!(
            found.hint,
            format!(
                "merging r1.3, develop into master will not bring it back, and merging master into r1.3, develop takes it out there; land it again with towpath reland master \
                 0202020; or take it back with git cherry-pick -x {twos} on r1.3, develop"
            )
        );
        let found = of("master", &[("r1.3", Alive::Same), ("develop", Alive::Copy)], None).hint;
        assert!(found.contains("merging r1.3 into master will not bring it back, and merging master into r1.3 takes it out there; merging develop into master brings"));
        let found = of("r1.2", &[("develop", Alive::Same)], None).hint;
        assert!(found.starts_with("merging r1.2 into develop takes it back there too; "), "{found}");
        let found = of("r1.2", &[("master", Alive::Copy)], Some("web"));
        assert!(found.hint.starts_with("merging r1.2 into master leaves it there"), "{}", found.hint);
        assert!(found.hint.contains(&format!("git revert {twos} on r1.2 of web")), "{}", found.hint);
        assert!(found.message.contains("back on r1.2 in web,"), "{}", found.message);
    }
}
