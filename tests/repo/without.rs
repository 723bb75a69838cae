//! Whether a revision is without a change that was taken back, where the same change came to it in another way.

use towpath::repo::Settled;

use super::*;

/// A branch of two commits, merged into a release and into develop, which has something of its own too.
struct Merged {
    pair: Pair,
    settled: Settled,
    commits: [CommitId; 2],
    /// The merge into the release, and its revert there.
    taken: (CommitId, Option<CommitId>),
    /// The merge into develop.
    other: CommitId,
}

fn merged() -> Merged {
    let pair = pair();
    let server = &pair.server;
    server.commit("develop", "first", &[("a.yaml", "1\n"), ("b.yaml", "1\n")]);
    server.branch("r1.2", "develop");
    server.branch("fix", "develop");
    server.branch("r1.4", "develop");
    let one = server.commit("fix", "one", &[("a.yaml", "2\n")]);
    // Nobody can pick what changes nothing.
    server.commit("fix", "once more", &[("a.yaml", "2\n")]);
    let two = server.commit("fix", "two", &[("b.yaml", "2\n")]);
    let merge = server.merge("r1.2", "fix");
    let revert = server.revert("r1.2", merge);
    server.commit("develop", "beside", &[("c.yaml", "1\n")]);
    let other = server.merge("develop", "fix");
    Merged { settled: Settled::default(), commits: [one, two], taken: (merge, Some(revert)), other, pair }
}

impl Merged {
    fn is_without(&self, revision: CommitId) -> bool {
        pull(&self.pair.mirror);
        self.settled.is_without(&self.pair.mirror, revision, self.taken).unwrap()
    }

    fn contains(&self, revision: CommitId) -> bool {
        self.settled.contains(&self.pair.mirror, revision, self.taken.0).unwrap()
    }
}

#[test]
fn a_merge_of_the_same_commits_brings_what_another_merge_of_them_brought() {
    let merged = merged();
    let server = &merged.pair.server;
    let [one, two] = merged.commits;
    let develop = server.head("develop");
    assert!(!merged.is_without(develop) && merged.contains(develop));
    let before = server.head("r1.4");
    assert!(merged.is_without(before) && !merged.contains(before));
    assert!(merged.is_without(server.head("r1.2")));
    assert!(!merged.is_without(two), "the branch itself");
    assert!(merged.is_without(one), "not all of it");
    // Where it is undone in part it is there.
    server.branch("undone", "develop");
    assert!(!merged.is_without(server.revert("undone", one)));
    assert!(merged.is_without(server.revert("undone", two)));
    // Something of it is back by a later change of the same lines, which is none of it.
    let later = server.commit("undone", "later", &[("a.yaml", "3\n")]);
    assert!(merged.is_without(later));
}

#[test]
fn a_revert_of_another_merge_of_the_same_commits_counts_until_it_is_reverted() {
    let merged = merged();
    let server = &merged.pair.server;
    let revert = server.revert("develop", merged.other);
    // So that more than the files says that it is gone.
    let head = server.commit("develop", "later", &[("a.yaml", "3\n"), ("b.yaml", "3\n")]);
    assert!(merged.is_without(revert) && merged.contains(revert));
    assert!(merged.is_without(head));
    server.force("develop", revert);
    assert!(!merged.is_without(server.revert("develop", revert)));
}

#[test]
fn what_a_merge_brought_is_there_by_cherry_picks_of_all_of_it() {
    let merged = merged();
    let server = &merged.pair.server;
    let [one, two] = merged.commits;
    assert!(merged.is_without(server.cherry_pick("r1.4", one)));
    let second = server.cherry_pick("r1.4", two);
    assert!(!merged.is_without(second) && merged.contains(second));
    // The revert of the merge may be picked as well.
    server.branch("picked", "r1.4");
    server.cherry_pick("picked", merged.taken.1.unwrap());
    let later = server.commit("picked", "later", &[("a.yaml", "3\n"), ("b.yaml", "3\n")]);
    assert!(merged.is_without(later));
    // Or all goes without a word.
    let silent = server.commit("r1.4", "silent", &[("a.yaml", "1\n"), ("b.yaml", "1\n")]);
    assert!(merged.is_without(silent));
}

#[test]
fn a_long_branch_that_was_merged_and_taken_back_is_not_without_what_it_has() {
    let pair = pair();
    let server = &pair.server;
    server.commit("master", "first", &[("a.yaml", "1\n")]);
    server.branch("r1.2", "master");
    server.branch("fix", "master");
    server.commit("fix", "fix", &[("b.yaml", "1\n")]);
    server.commit("r1.2", "beside", &[("c.yaml", "1\n")]);
    server.merge("r1.2", "fix");
    let merge = server.merge("master", "r1.2");
    let revert = server.revert("master", merge);
    server.branch("r1.3", "r1.2");
    let next = server.commit("r1.3", "next", &[("d.yaml", "1\n")]);
    pull(&pair.mirror);
    let settled = Settled::default();
    let is_without = |revision: CommitId| settled.is_without(&pair.mirror, revision, (merge, Some(revert))).unwrap();
    assert!(!is_without(next));
    assert!(is_without(server.head("fix")), "it is a part of it");
    assert!(is_without(server.head("master")));
}
