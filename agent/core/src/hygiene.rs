//! Branch hygiene: what was fixed on one branch and is missing on another, and pins that are not where they belong.
//!
//! A fix is known again on another branch by a mark. In the deploy repository that is the id of its patch, in a component,
//! of which only commits are known, what a cherry-pick keeps: author, author's date and subject.
//! What was reverted, and where it lives on, is in [`reverts`]; merges that bring nothing back are in [`remerge`].

pub mod remerge;
pub mod reverts;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::commits::{Commit, Log};
use crate::lane::{BranchNames, Lane, Release};
use crate::revision::CommitId;

/// Release branches that are compared, the newest ones. Older ones are no longer served by a fix.
pub const MAX_RELEASES: usize = 3;
/// Commits of one branch that are compared with another, the newest ones.
pub const MAX_COMPARED: usize = 1000;
/// Findings of one sort in one repository that are named; the rest is counted.
pub const MAX_FINDINGS: usize = 50;
/// Commits that one finding names; the rest is counted.
pub const MAX_NAMED: usize = 20;

/// The condition of a Repository that says whether all reverts are settled.
pub const REVERTS_SETTLED: &str = "RevertsSettled";

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sort {
    /// A component lacks the lane's branch.
    BranchMissing,
    /// A component is pinned to a commit that is not on the branch of that name.
    PinNotOnBranch,
    /// A fix of a release that another branch lacks.
    FixMissing,
    /// What was reverted on one branch lives on in another.
    RevertNotSettled,
    /// A merge left commits out, because a revert on its branch still holds.
    MergeBringsNothingBack,
}

impl Sort {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Sort::BranchMissing => "component without the branch",
            Sort::PinNotOnBranch => "pin that is not on its branch",
            Sort::FixMissing => "fix that is missing elsewhere",
            Sort::RevertNotSettled => "reverted, and alive elsewhere",
            Sort::MergeBringsNothingBack => "merged again, and still reverted",
        }
    }

    /// Whether it is about a revert that somebody must settle before the next release is stable.
    pub fn is_of_reverts(self) -> bool {
        matches!(self, Sort::RevertNotSettled | Sort::MergeBringsNothingBack)
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub sort: Sort,
    /// The component; none for the deploy repository itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The branch that it is about.
    pub branch: String,
    /// The commit, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// For people: lower case, no full stop.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// The commits whose changes are missing, where it is about some: the first [`MAX_NAMED`], the newest first.
    #[serde(default, skip_serializing_if = "Log::is_empty")]
    pub missing: Log,
}

/// How clean the branches of one deploy repository are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hygiene {
    /// Namespace and name of the Repository.
    pub repository: String,
    /// The branches that were compared.
    pub compared: Vec<String>,
    /// What was not compared or not found out, and why.
    #[serde(default)]
    pub unknown: Vec<String>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// How many more were found and are not named.
    #[serde(default)]
    pub more: usize,
}

impl Hygiene {
    /// What is to be settled about reverts.
    pub fn of_reverts(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.sort.is_of_reverts())
    }
}

/// A commit, and the mark by which it is known on other branches. Without a mark it is not compared: a merge, a move of
/// submodules alone, a commit that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The commit.
    pub commit: Commit,
    /// Its mark.
    pub mark: Option<String>,
}

/// The branches that are compared, in the order in which fixes are to wander: the newest releases, the oldest of them
/// first, then develop, then master. Others are nobody's release.
pub fn compared<'b>(branches: impl IntoIterator<Item = &'b String>, names: &BranchNames) -> Vec<&'b str> {
    let mut releases: Vec<(Release, &str)> = Vec::new();
    let (mut develop, mut master) = (None, None);
    for branch in branches {
        match Lane::of(branch, names) {
            Lane::Release(release) => releases.push((release, branch)),
            Lane::Develop => develop = Some(branch.as_str()),
            Lane::Master => master = Some(branch.as_str()),
            Lane::Other(_) => {}
        }
    }
    releases.sort();
    let newest = releases.split_off(releases.len().saturating_sub(MAX_RELEASES));
    newest.into_iter().map(|(_, branch)| branch).chain(develop).chain(master).collect()
}

/// The branches that a fix on a release must reach: develop, and every newer release. None for what is no release.
pub fn must_reach<'b>(branch: &str, compared: &[&'b str], names: &BranchNames) -> Vec<&'b str> {
    let Lane::Release(release) = Lane::of(branch, names) else { return Vec::new() };
    let is_later = |other: &&&str| match Lane::of(other, names) {
        Lane::Develop => true,
        Lane::Release(other) => other > release,
        Lane::Master | Lane::Other(_) => false,
    };
    compared.iter().filter(is_later).copied().collect()
}

/// The fixes on a branch that another one lacks. `ours` are commits of the branch that the other does not contain,
/// `theirs` commits of the other that the branch does not contain. A fix that was taken back on its own branch is none.
pub fn missing<'m>(ours: &'m [Marked], theirs: &[Marked]) -> Vec<&'m Commit> {
    let marks: BTreeSet<&String> = theirs.iter().filter_map(|marked| marked.mark.as_ref()).collect();
    let taken_back = taken_back(ours.iter().map(|marked| &marked.commit));
    let lacks = |marked: &&Marked| {
        marked.mark.as_ref().is_some_and(|mark| !marks.contains(mark)) && !taken_back.contains(&marked.commit.commit)
    };
    ours.iter().filter(lacks).map(|marked| &marked.commit).collect()
}

/// Commits that a later one of the same branch reverts, and those reverts. A revert of a revert brings the first back.
/// The newest come first.
pub fn taken_back<'c>(commits: impl Iterator<Item = &'c Commit> + Clone) -> BTreeSet<CommitId> {
    let known: BTreeSet<CommitId> = commits.clone().map(|commit| commit.commit).collect();
    let mut gone = BTreeSet::new();
    // The newest first, so that a revert that was reverted itself takes nothing back.
    for commit in commits {
        if gone.contains(&commit.commit) {
            continue;
        }
        for reverted in commit.reverts.iter().filter(|reverted| known.contains(reverted)) {
            gone.insert(*reverted);
            gone.insert(commit.commit);
        }
    }
    gone
}

/// A fix that branches lack, as a finding.
pub fn fix_missing(component: Option<&str>, branch: &str, commit: &Commit, lacking: &[&str]) -> Finding {
    let lacking = lacking.join(", ");
    let (short, subject, author) = (commit.commit.short(), &commit.subject, &commit.author);
    let place = component.map(|name| format!(" in {name}")).unwrap_or_default();
    Finding {
        sort: Sort::FixMissing,
        component: component.map(str::to_owned),
        branch: branch.to_owned(),
        commit: Some(commit.commit),
        message: format!("{short} {subject} ({author}) is on {branch}{place} and not on {lacking}"),
        hint: format!("merge {branch} into {lacking}, or git cherry-pick -x {} there", commit.commit),
        missing: Log::default(),
    }
}

/// A component without a branch, as a finding.
pub fn branch_missing(component: &str, branch: &str) -> Finding {
    Finding {
        sort: Sort::BranchMissing,
        component: Some(component.to_owned()),
        branch: branch.to_owned(),
        commit: None,
        message: format!("component {component} has no branch {branch}"),
        hint: format!("push {branch} to the repository of {component}, from the commit that it is pinned to"),
        missing: Log::default(),
    }
}

/// A pin on a lane that is not on the branch that its submodule follows there, as a finding.
pub fn pin_not_on_branch(component: &str, lane: &str, branch: &str, pin: CommitId) -> Finding {
    Finding {
        sort: Sort::PinNotOnBranch,
        component: Some(component.to_owned()),
        branch: lane.to_owned(),
        commit: Some(pin),
        message: format!(
            "on {lane} component {component} is pinned to {}, which is not on its branch {branch}",
            pin.short()
        ),
        hint: format!("merge {pin} into {branch} of {component}, or move the submodule to a commit of that branch"),
        missing: Log::default(),
    }
}

/// Sorts what was found, keeps [`MAX_FINDINGS`] of each sort, and counts the rest.
pub fn cut(mut findings: Vec<Finding>) -> (Vec<Finding>, usize) {
    findings.sort_by(|one, other| (one.sort, &one.component).cmp(&(other.sort, &other.component)));
    let mut counts: BTreeMap<Sort, usize> = BTreeMap::new();
    let all = findings.len();
    findings.retain(|finding| {
        let count = counts.entry(finding.sort).or_default();
        *count += 1;
        *count <= MAX_FINDINGS
    });
    let more = all - findings.len();
    (findings, more)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn commit(byte: u8, reverts: &[u8]) -> Commit {
        Commit {
            commit: CommitId::from_bytes([byte; 20]),
            subject: format!("change {byte}"),
            author: "Ada".to_owned(),
            authored_at: "2026-01-05T09:00:00Z".parse().unwrap(),
            is_merge: false,
            email: "ada@example.org".to_owned(),
            reverts: reverts.iter().map(|byte| CommitId::from_bytes([*byte; 20])).collect(),
        }
    }

    fn marked(byte: u8, mark: Option<&str>, reverts: &[u8]) -> Marked {
        Marked { commit: commit(byte, reverts), mark: mark.map(str::to_owned) }
    }

    #[test]
    fn the_newest_releases_and_the_long_lived_branches_are_compared() {
        let names = BranchNames::default();
        let branches = ["feature/x", "r1.10", "r1.9", "master", "r0.1", "r1.2", "develop"].map(str::to_owned);
        let found = compared(&branches, &names);
        assert_eq!(found, ["r1.2", "r1.9", "r1.10", "develop", "master"]);
        assert_eq!(must_reach("r1.9", &found, &names), ["r1.10", "develop"]);
        assert_eq!(must_reach("r1.10", &found, &names), ["develop"]);
        assert!(must_reach("master", &found, &names).is_empty() && must_reach("develop", &found, &names).is_empty());
    }

    #[test]
    fn a_fix_is_missing_until_its_mark_is_there() {
        let ours = [marked(1, Some("a"), &[]), marked(2, Some("b"), &[]), marked(3, None, &[])];
        let theirs = [marked(9, Some("b"), &[])];
        let found: Vec<u8> = missing(&ours, &theirs).iter().map(|commit| commit.commit.as_bytes()[0]).collect();
        assert_eq!(found, [1]);
    }

    #[test]
    fn a_fix_that_was_taken_back_is_not_missed() {
        let revert = marked(2, Some("b"), &[1]);
        let fix = marked(1, Some("a"), &[]);
        assert!(missing(&[revert.clone(), fix.clone()], &[]).is_empty());
        // A revert of the revert brings it back.
        let again = marked(3, Some("c"), &[2]);
        let found = [again, revert, fix];
        assert_eq!(missing(&found, &[]).iter().map(|commit| commit.commit.as_bytes()[0]).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn each_finding_says_where_and_what_to_do() {
        let fix = fix_missing(None, "r1.2", &commit(1, &[]), &["r1.3", "develop"]);
        assert_eq!(fix.message, "0101010 change 1 (Ada) is on r1.2 and not on r1.3, develop");
        assert!(fix.hint.contains(&"01".repeat(20)));
        assert!(branch_missing("web", "r1.3").message.contains("no branch r1.3"));
    }

    #[test]
    fn many_findings_of_one_sort_hide_no_other() {
        let mut findings: Vec<Finding> = (0..MAX_FINDINGS + 1).map(|_| branch_missing("web", "r1.3")).collect();
        findings.push(pin_not_on_branch("web", "r1.3", "r1.3", CommitId::from_bytes([1; 20])));
        let (named, more) = cut(findings);
        assert_eq!((named.len(), more), (MAX_FINDINGS + 1, 1));
        assert_eq!(named.last().unwrap().sort, Sort::PinNotOnBranch);
        assert_eq!(cut(named).1, 0);
    }
}
