//! Histories drawn by hand.

use super::super::tests::commit;
use super::*;

/// A history from the oldest to the newest: each commit, its parents and what it reverts.
fn history(commits: &[(u8, &[u8], &[u8])]) -> Vec<Node> {
    let id = |byte: &u8| CommitId::from_bytes([*byte; 20]);
    let node = |(byte, parents, reverts): &(u8, &[u8], &[u8])| Node {
        commit: Commit { is_merge: parents.len() > 1, ..commit(*byte, reverts) },
        parents: parents.iter().map(id).collect(),
        is_empty: false,
    };
    commits.iter().rev().map(node).collect()
}

/// The merge, the revert and what is missing, the newest first.
fn found(commits: &[(u8, &[u8], &[u8])]) -> Vec<(u8, u8, Vec<u8>)> {
    let byte = |commit: &Commit| commit.commit.as_bytes()[0];
    let trap = |trap: &Trap| (byte(&trap.merge), byte(&trap.revert), trap.missing.iter().map(byte).collect());
    traps(&history(commits)).iter().map(trap).collect()
}

#[test]
fn a_branch_that_is_merged_again_after_its_merge_was_reverted_leaves_out_what_the_first_brought() {
    let mut commits: Vec<(u8, &[u8], &[u8])> = vec![
        (1, &[], &[]),
        (10, &[1], &[]),
        (11, &[10], &[]),
        (2, &[1, 11], &[]),
        (3, &[2], &[2]),
        (12, &[11], &[]),
        (4, &[3, 12], &[]),
    ];
    assert_eq!(found(&commits), [(4, 3, vec![11, 10])]);
    // A second merge of the same branch is not told again.
    commits.extend([(13, &[12][..], &[][..]), (5, &[4, 13], &[])]);
    assert_eq!(found(&commits), [(4, 3, vec![11, 10])]);
    commits.push((6, &[5], &[3]));
    assert!(found(&commits).is_empty(), "the revert was reverted");
    commits.push((7, &[6], &[6]));
    assert!(found(&commits).is_empty(), "and that one too: what was left out before had been landed");
    commits.extend([(14, &[13][..], &[][..]), (8, &[7, 14], &[])]);
    assert_eq!(found(&commits), [(8, 7, vec![11, 10])], "the last revert holds");
}

#[test]
fn a_branch_that_took_the_lane_over_meanwhile_is_told_all_the_same() {
    // The topic merges the lane after its own merge, and before the revert.
    let commits: [(u8, &[u8], &[u8]); 7] = [
        (1, &[], &[]),
        (10, &[1], &[]),
        (2, &[1, 10], &[]),
        (11, &[10, 2], &[]),
        (3, &[2], &[2]),
        (12, &[11], &[]),
        (4, &[3, 12], &[]),
    ];
    assert_eq!(found(&commits), [(4, 3, vec![10])]);
}

#[test]
fn who_began_on_the_lane_or_took_it_over_is_not_expected_to_bring_it() {
    // Begun on the lane after the merge.
    let begun: [(u8, &[u8], &[u8]); 6] =
        [(1, &[], &[]), (10, &[1], &[]), (2, &[1, 10], &[]), (3, &[2], &[2]), (20, &[2], &[]), (4, &[3, 20], &[])];
    assert!(found(&begun).is_empty());
    // Begun before, and brought up to date with the lane.
    let updated: [(u8, &[u8], &[u8]); 7] = [
        (1, &[], &[]),
        (10, &[1], &[]),
        (2, &[1, 10], &[]),
        (20, &[1], &[]),
        (21, &[20, 2], &[]),
        (3, &[2], &[2]),
        (4, &[3, 21], &[]),
    ];
    assert!(found(&updated).is_empty());
    // A plain commit of the lane.
    let plain: [(u8, &[u8], &[u8]); 5] =
        [(1, &[], &[]), (2, &[1], &[]), (3, &[2], &[2]), (20, &[2], &[]), (4, &[3, 20], &[])];
    assert!(found(&plain).is_empty());
    // Another branch merges a branch that was brought up to date.
    let through: [(u8, &[u8], &[u8]); 9] = [
        (1, &[], &[]),
        (10, &[1], &[]),
        (2, &[1, 10], &[]),
        (20, &[2], &[]),
        (30, &[1], &[]),
        (31, &[30, 20], &[]),
        (3, &[2], &[2]),
        (32, &[31], &[]),
        (4, &[3, 32], &[]),
    ];
    assert!(found(&through).is_empty());
}

#[test]
fn a_lane_that_comes_again_leaves_out_what_the_other_lane_reverted() {
    // 1x is develop, x is master; master took 11 back, and was merged back into develop before that.
    let commits: [(u8, &[u8], &[u8]); 8] = [
        (1, &[], &[]),
        (10, &[1], &[]),
        (11, &[10], &[]),
        (2, &[1, 11], &[]),
        (12, &[11, 2], &[]),
        (3, &[2], &[11]),
        (13, &[12], &[]),
        (4, &[3, 13], &[]),
    ];
    assert_eq!(found(&commits), [(4, 3, vec![11])]);
}

#[test]
fn a_branch_that_has_the_revert_or_took_it_back_itself_is_no_trap() {
    // The lane with its revert was merged into the topic.
    let knows: [(u8, &[u8], &[u8]); 6] =
        [(1, &[], &[]), (10, &[1], &[]), (2, &[1, 10], &[]), (3, &[2], &[2]), (11, &[10, 3], &[]), (4, &[3, 11], &[])];
    assert!(found(&knows).is_empty());
    // Taken back within a branch that is merged later.
    let within: [(u8, &[u8], &[u8]); 5] =
        [(1, &[], &[]), (10, &[1], &[]), (11, &[10], &[10]), (2, &[1, 11], &[]), (3, &[2], &[])];
    assert!(found(&within).is_empty());
    // What the topic took back before it was merged is not missed after.
    let half: [(u8, &[u8], &[u8]); 8] = [
        (1, &[], &[]),
        (10, &[1], &[]),
        (11, &[10], &[10]),
        (12, &[11], &[]),
        (2, &[1, 12], &[]),
        (3, &[2], &[2]),
        (13, &[12], &[]),
        (4, &[3, 13], &[]),
    ];
    assert_eq!(found(&half), [(4, 3, vec![12])]);
}

#[test]
fn each_side_of_an_octopus_counts() {
    let commits: [(u8, &[u8], &[u8]); 8] = [
        (1, &[], &[]),
        (10, &[1], &[]),
        (20, &[1], &[]),
        (2, &[1, 10, 20], &[]),
        (3, &[2], &[2]),
        (11, &[10], &[]),
        (21, &[20], &[]),
        (4, &[3, 11, 21], &[]),
    ];
    assert_eq!(found(&commits), [(4, 3, vec![20, 10])]);
}

#[test]
fn a_history_that_is_cut_short_is_judged_as_far_as_it_is_known() {
    // What was reverted is older than what is known.
    let commits: [(u8, &[u8], &[u8]); 3] = [(3, &[2], &[2]), (12, &[11], &[]), (4, &[3, 12], &[])];
    assert!(found(&commits).is_empty());
    assert!(traps(&[]).is_empty());
}

#[test]
fn many_commits_are_named_in_part_and_counted() {
    let many =
        |count: usize| Trap { merge: commit(9, &[]), revert: commit(8, &[7]), missing: vec![commit(1, &[]); count] };
    let named = many(MAX_NAMED).finding(None, "develop");
    assert_eq!((named.missing.commits.len(), named.missing.more), (MAX_NAMED, 0));
    let more = many(MAX_NAMED + 1).finding(None, "develop");
    assert_eq!((more.missing.commits.len(), more.missing.more), (MAX_NAMED, 1));
    assert_eq!(more.hint, "land it again with towpath reland develop 0808080");
    assert!(more.message.starts_with("0909090 change 9 leaves 21 changes out of develop, for 0808080"));
    assert!(many(1).finding(Some("web"), "r1.2").message.contains("leaves 1 change out of r1.2 in web"));
}
