//! Generated histories of a lane and its topics, in which each commit adds a file of its own: whether a change is there is
//! whether its file is.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::Config;
use support::deploy_repo::oid;
use towpath_core::hygiene::{MAX_NAMED, Sort};
use towpath_core::revision::CommitId;

use super::super::Place;
use super::{look, of};

const LANE: &str = "develop";
const TOPICS: [&str; 2] = ["one", "two"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A commit on a topic.
    Work(usize),
    /// A commit on the lane itself.
    Straight,
    /// A topic is merged into the lane.
    Merge(usize),
    /// A topic is brought up to date with the lane.
    Update(usize),
    /// A topic begins anew on the lane.
    Begin(usize),
    /// One of the newest commits of the lane is reverted, or any commit of a topic.
    Revert(usize),
    RevertOne(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let topic = || 0..TOPICS.len();
    let step = prop_oneof![
        16 => topic().prop_map(Step::Work),
        2 => Just(Step::Straight),
        16 => topic().prop_map(Step::Merge),
        2 => topic().prop_map(Step::Update),
        1 => topic().prop_map(Step::Begin),
        8 => (0..3_usize).prop_map(Step::Revert),
        4 => (0..64_usize).prop_map(Step::RevertOne),
    ];
    prop::collection::vec(step, 8..32)
}

/// What was done, and what must be found.
#[derive(Default)]
struct Story {
    /// The commits of the lane itself, the oldest first.
    lane: Vec<CommitId>,
    /// The file of each commit that added one.
    files: BTreeMap<CommitId, String>,
    /// What each topic has of its own.
    own: BTreeMap<usize, BTreeSet<CommitId>>,
    /// What a merge should have brought and did not, and what is missing since.
    missing: BTreeSet<CommitId>,
}

impl Story {
    fn work(&mut self, place: &Place, branch: &str) -> CommitId {
        let number = self.files.len();
        let file = format!("{number}.yaml");
        // Nothing like any other, so that nobody takes one for another under a new name.
        let content: String = (1..9).map(|line| format!("line {line} of {number}\n")).collect();
        let commit = place.deploy.commit(branch, &format!("Add {file}"), &[(&file, &content)]);
        self.files.insert(commit, file);
        commit
    }

    fn has(&self, place: &Place, branch: &str, commit: CommitId) -> bool {
        place.deploy.text(branch, &self.files[&commit]).is_some()
    }

    fn go(&mut self, place: &Place, step: Step) {
        let commit = match step {
            Step::Work(topic) => {
                let commit = self.work(place, TOPICS[topic]);
                self.own.entry(topic).or_default().insert(commit);
                return;
            }
            Step::Begin(topic) => {
                place.deploy.force(TOPICS[topic], place.deploy.head(LANE));
                self.own.remove(&topic);
                return;
            }
            Step::Update(topic) => {
                place.deploy.merge(TOPICS[topic], LANE);
                return;
            }
            Step::Straight => self.work(place, LANE),
            Step::Merge(topic) => {
                let commit = place.deploy.merge(LANE, TOPICS[topic]);
                let own = self.own.get(&topic).into_iter().flatten();
                let brought = own.filter(|commit| self.has(place, TOPICS[topic], **commit));
                let left_out: Vec<_> = brought.filter(|commit| !self.has(place, LANE, **commit)).copied().collect();
                self.missing.extend(left_out);
                commit
            }
            Step::Revert(back) => {
                let Some(at) = self.lane.len().checked_sub(1 + back).filter(|at| *at > 0) else { return };
                match revert(place, self.lane[at]) {
                    Some(revert) => revert,
                    None => return,
                }
            }
            Step::RevertOne(which) => {
                let there: Vec<CommitId> =
                    self.files.keys().copied().filter(|commit| self.has(place, LANE, *commit)).collect();
                let Some(commit) = there.get(which % there.len().max(1)) else { return };
                match revert(place, *commit) {
                    Some(revert) => revert,
                    None => return,
                }
            }
        };
        self.lane.push(commit);
        let back: Vec<_> = self.missing.iter().filter(|commit| self.has(place, LANE, **commit)).copied().collect();
        self.missing.retain(|commit| !back.contains(commit));
    }
}

/// Reverts a commit on the lane, where something of it is left to revert: git makes no empty reverts.
fn revert(place: &Place, commit: CommitId) -> Option<CommitId> {
    let before = place.deploy.head(LANE);
    let revert = place.deploy.revert(LANE, commit);
    let git = place.deploy.git();
    let tree = |commit: CommitId| git.find_commit(oid(commit)).unwrap().tree_id();
    if tree(before) == tree(revert) {
        place.deploy.force(LANE, before);
        return None;
    }
    Some(revert)
}

#[test]
fn what_is_told_is_missing_and_what_merges_left_out_is_told() {
    let told_at_all = std::cell::Cell::new(0);
    let config = Config { cases: 100, failure_persistence: None, ..Config::default() };
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let result = runner.run(&steps(), |steps| {
        let place = Place::new(&[]);
        let mut story = Story::default();
        let first = story.work(&place, LANE);
        story.lane.push(first);
        for topic in TOPICS {
            place.deploy.branch(topic, LANE);
        }
        for step in &steps {
            story.go(&place, *step);
        }
        let hygiene = look(&place);
        let mut told = BTreeSet::new();
        for finding in of(&hygiene, Sort::MergeBringsNothingBack) {
            prop_assert!(finding.missing.more == 0 && finding.missing.len() <= MAX_NAMED);
            told.extend(finding.missing.commits.iter().map(|commit| commit.commit));
        }
        for commit in &told {
            let file = &story.files[commit];
            prop_assert!(!story.has(&place, LANE, *commit), "{file} is there: {steps:?} {hygiene:#?}");
        }
        let silent: Vec<&String> = story.missing.difference(&told).map(|commit| &story.files[commit]).collect();
        prop_assert!(silent.is_empty(), "nothing is said of {silent:?}: {steps:?} {hygiene:#?}");
        told_at_all.set(told_at_all.get() + told.len());
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(told_at_all.get() > 30, "they hold something to find: {}", told_at_all.get());
}
