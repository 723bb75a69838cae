//! Versions on histories made by hand, and on generated ones against counting everything.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::fault::Fault;

/// A history: for each commit, by its number, when it was committed and its parents.
type Graph = Vec<(i64, Vec<usize>)>;

fn id(number: usize) -> CommitId {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    CommitId::from_bytes(bytes)
}

fn number_of(id: CommitId) -> usize {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().unwrap()) as usize
}

fn tags(tags: &[(&str, usize)]) -> BTreeMap<String, CommitId> {
    tags.iter().map(|(name, at)| ((*name).to_owned(), id(*at))).collect()
}

/// The version of a commit, and how many commits were read for it.
fn read(graph: &Graph, head: usize, tags: &BTreeMap<String, CommitId>) -> (Result<Version, Problem>, usize) {
    let read = RefCell::new(0);
    let version = describe(id(head), tags, |commit| {
        *read.borrow_mut() += 1;
        let (committed_at, parents) = &graph[number_of(commit)];
        Ok(Ancestry { committed_at: *committed_at, parents: parents.iter().map(|parent| id(*parent)).collect() })
    });
    (version, read.into_inner())
}

fn version(graph: &Graph, head: usize, tags: &BTreeMap<String, CommitId>) -> Result<Version, Problem> {
    read(graph, head, tags).0
}

/// One commit after the other, a minute between two.
fn line(length: usize) -> Graph {
    (0..length).map(|at| (at as i64 * 60, at.checked_sub(1).into_iter().collect())).collect()
}

#[test]
fn it_is_the_tag_the_commits_since_and_seven_digits() {
    let found = version(&line(20), 13, &tags(&[("v1.0", 1)])).unwrap();
    assert_eq!(found.to_string(), "v1.0-12-0000000");
    assert_eq!(version(&line(20), 1, &tags(&[("v1.0", 1)])).unwrap().to_string(), "v1.0-0-0000000");
}

#[test]
fn only_two_numbers_begin_a_version() {
    assert_eq!(VersionTag::parse("v1.10"), Some(VersionTag { major: 1, minor: 10 }));
    assert_eq!(VersionTag::parse("v0.0").unwrap().to_string(), "v0.0");
    assert!(VersionTag::parse("v1.10") > VersionTag::parse("v1.9"));
    for other in
        ["", "v", "v1", "v1.", "v.1", "v1.2.3", "v01.2", "v1.02", "v1.0-rc", "V1.0", "1.0", "v+1.0", "v4294967296.0"]
    {
        assert_eq!(VersionTag::parse(other), None, "{other}");
    }
}

#[test]
fn without_a_tag_nothing_is_invented() {
    let graph = line(5);
    for tags in [tags(&[]), tags(&[("v1.0.1", 1), ("latest", 0)]), tags(&[("v1.0", 4)])] {
        let problem = version(&graph, 3, &tags).unwrap_err();
        assert_eq!(problem.fault, Fault::Setup);
        assert!(problem.to_string().contains("git tag -a v1.0"), "{problem}");
    }
}

#[test]
fn what_cannot_be_read_is_no_version() {
    let gone = |_| Err(Problem::passing("gone"));
    assert_eq!(describe(id(3), &tags(&[("v1.0", 1)]), gone), Err(Problem::passing("gone")));
}

#[test]
fn of_two_tags_that_are_as_near_the_higher_one_counts() {
    let found = version(&line(5), 4, &tags(&[("v1.9", 2), ("v1.10", 2)])).unwrap();
    assert_eq!(found.to_string(), "v1.10-2-0000000");
    // 3 merges 1 and 2, which both come after 0.
    let graph = vec![(0, vec![]), (60, vec![0]), (60, vec![0]), (120, vec![1, 2])];
    for pair in [[("v1.0", 1), ("v2.0", 2)], [("v2.0", 1), ("v1.0", 2)]] {
        assert_eq!(version(&graph, 3, &tags(&pair)).unwrap().to_string(), "v2.0-2-0000000");
    }
}

#[test]
fn a_near_tag_is_found_without_reading_all_of_a_long_history() {
    let graph = line(20_000);
    let (found, read) = read(&graph, 19_999, &tags(&[("v1.0", 19_987), ("v0.1", 3)]));
    assert_eq!(found.unwrap().count, 12);
    assert!(read < 20, "{read}");
}

#[test]
fn each_commit_of_a_long_history_with_many_tags_is_read_once() {
    // Two branches that merge each other all the time, and a tag on every tenth commit of both.
    let graph: Graph = (0..20_000_usize)
        .map(|at| {
            let parents = match at {
                0 | 1 => vec![],
                _ if at % 6 < 2 => vec![at - 2, at - 1 - 2 * (at % 2)],
                _ => vec![at - 2],
            };
            (0, parents)
        })
        .collect();
    let many: BTreeMap<String, CommitId> = (0..2000).map(|at| (format!("v0.{at}"), id(at * 10))).collect();
    let (found, times) = read(&graph, 19_999, &many);
    assert!(found.is_ok());
    assert!(times <= 20_000, "{times}");
    // Where no tag is behind another one: 2000 of them, each on a branch of its own.
    let mut graph = line(16_000);
    for _ in 0..2000 {
        graph.push((0, vec![15_999]));
    }
    for at in 0..2000 {
        let before = if at == 0 { 15_999 } else { graph.len() - 1 };
        graph.push((0, vec![before, 16_000 + at]));
    }
    let many = (0..2000).map(|at| (format!("v0.{at}"), id(16_000 + at))).collect();
    let (found, times) = read(&graph, 19_999, &many);
    assert_eq!(found.unwrap(), Version { tag: VersionTag { major: 0, minor: 1999 }, count: 3999, commit: id(19_999) });
    assert!(times <= 20_000, "{times}");
}

/// Every commit that can be reached from one, itself included.
fn reach(graph: &Graph, from: usize) -> BTreeSet<usize> {
    let (mut found, mut todo) = (BTreeSet::new(), vec![from]);
    while let Some(at) = todo.pop() {
        if found.insert(at) {
            todo.extend(&graph[at].1);
        }
    }
    found
}

fn graphs() -> impl Strategy<Value = (Graph, Vec<usize>)> {
    // Parents by how far back they are; dates of all sorts, wrong ones too; some commits have none before them.
    let commit = (0..6_i64, proptest::collection::vec(1..6_usize, 0..3), 0..12_u32);
    proptest::collection::vec(commit, 1..40).prop_flat_map(|commits| {
        let graph: Graph = commits
            .into_iter()
            .enumerate()
            .map(|(at, (time, back, dice))| {
                let parents: BTreeSet<usize> = back.iter().filter_map(|back| at.checked_sub(*back)).collect();
                let parents =
                    if dice > 0 && parents.is_empty() { at.checked_sub(1).into_iter().collect() } else { parents };
                (time, parents.into_iter().collect())
            })
            .collect();
        let tags = proptest::collection::vec(0..graph.len(), 0..6);
        (Just(graph), tags)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_counting_everything_says((graph, tagged) in graphs()) {
        let tags: BTreeMap<String, CommitId> =
            tagged.iter().enumerate().map(|(minor, at)| (format!("v1.{minor}"), id(*at))).collect();
        for head in 0..graph.len() {
            let ours = reach(&graph, head);
            let nearest = tagged.iter().enumerate().filter(|(_, at)| ours.contains(at)).map(|(minor, at)| {
                (ours.difference(&reach(&graph, *at)).count(), Reverse(minor as u32))
            });
            let nearest = nearest.min().map(|(count, minor)| (count, minor.0));
            let found = version(&graph, head, &tags).ok().map(|version| (version.count, version.tag.minor));
            prop_assert_eq!(found, nearest);
        }
    }
}
