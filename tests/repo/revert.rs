//! Reverts that are made in the mirror, held against plain git in a clone.

mod history;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use git2::FileMode;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use support::deploy_repo::oid;
use support::git_server::git;
use tempfile::TempDir;
use towpath::repo::{Chain, Credentials, Mirror, Reversal, Terms, Undoing};
use towpath_core::fault::{Fault, Problem};
use towpath_core::revert::{Cause, Conflict, Conflicts, MAX_REVERTS, Reverted, message, order, restoring};
use towpath_core::revision::CommitId;
use towpath_core::signature;

use self::history::Made;
use super::commits::{git_says, key, towpath};
use super::{Pair, pair, pull};

fn sign(bytes: &[u8]) -> Result<String, Problem> {
    Ok(key().sign(signature::GIT, bytes))
}

fn id(byte: u8) -> CommitId {
    CommitId::from_bytes([byte; 20])
}

/// Reverts with git's own words.
fn reverse_all(mirror: &Mirror, commits: &[CommitId], onto: CommitId) -> Result<Chain, Problem> {
    let cause = Cause { cluster: "test".into(), request: Some("r-1".into()), ..Cause::default() };
    let revert = |commit: &CommitId| {
        let told = mirror.told(*commit).unwrap();
        let mainline = told.is_merge.then(|| mirror.commit(*commit).unwrap().parents[0]);
        (*commit, message(&Reverted { commit: *commit, subject: told.subject, mainline }, &cause))
    };
    let reverts: Vec<(CommitId, String)> = commits.iter().map(revert).collect();
    mirror.reverse_all(&reverts, onto, &towpath(), &sign)
}

#[track_caller]
fn written(chain: Result<Chain, Problem>) -> Vec<CommitId> {
    match chain.unwrap() {
        Chain::Written(commits) => commits,
        Chain::Conflicts { commit, conflicts } => panic!("{commit} conflicts: {conflicts:?}"),
    }
}

fn file(path: &str) -> Conflict {
    Conflict::File { path: path.into() }
}

fn conflicts(of: impl IntoIterator<Item = Conflict>) -> Reversal {
    Reversal::Conflicts(Conflicts::of(of))
}

/// A working copy for plain git.
struct Clone {
    folder: PathBuf,
}

impl Clone {
    fn new(folder: &TempDir, from: &Path) -> Clone {
        let clone = Clone { folder: folder.path().join("clone") };
        let (from, to) = (from.to_str().unwrap().to_owned(), clone.folder.to_str().unwrap().to_owned());
        let output = git(folder.path()).args(["clone", "--quiet", &from, &to]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        clone
    }

    /// What git says when it succeeds.
    fn try_run(&self, arguments: &[&str]) -> Option<String> {
        let mut command = git(&self.folder);
        command.args(["-c", "user.name=Robin", "-c", "user.email=robin@example.org"]).args(arguments);
        let output = command.current_dir(&self.folder).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|| panic!("git {arguments:?}"))
    }

    /// What `git revert` makes of a commit on the head: the tree, or the files that conflict.
    fn revert(&self, commit: CommitId, is_merge: bool) -> Result<String, BTreeSet<String>> {
        let commit = commit.to_string();
        let mainline: &[&str] = if is_merge { &["-m", "1"] } else { &[] };
        // Without a commit: one of nothing would be an error.
        let is_done = self.try_run(&[&["revert", "--no-commit"], mainline, &[&commit]].concat()).is_some();
        let made = match is_done {
            true => Ok(self.run(&["write-tree"])),
            false => Err(self.run(&["diff", "--name-only", "--diff-filter=U"])),
        };
        self.run(&["reset", "--quiet", "--hard"]);
        // What is in the way of a folder gets a name with a tilde.
        let name = |line: &str| line.split('~').next().unwrap_or_default().to_owned();
        made.map_err(|unmerged| {
            self.run(&["clean", "--quiet", "-ffdx"]);
            unmerged.lines().map(name).collect()
        })
    }
}

fn paths(conflicts: &Conflicts) -> BTreeSet<String> {
    let path = |conflict: &Conflict| match conflict {
        Conflict::File { path } | Conflict::Submodule { path, .. } => path.clone(),
    };
    conflicts.named.iter().map(path).collect()
}

/// How often git and we came to what.
#[derive(Debug, Default)]
struct Tally {
    same: usize,
    conflicts: usize,
    /// Conflicts of ours where git has none.
    careful: usize,
    /// Conflicts of both in other files.
    elsewhere: usize,
}

fn reverts_as_git_does(
    steps: &[history::Step],
    is_repeating: bool,
    tally: &RefCell<Tally>,
) -> Result<(), TestCaseError> {
    let Pair { server, mirror, folder } = pair();
    let made = history::write(server.path(), steps, is_repeating);
    pull(&mirror);
    let clone = Clone::new(&folder, server.path());
    let on_main: Vec<&Made> = made.iter().filter(|made| made.on_main.is_some()).collect();
    let head = on_main.last().unwrap().id;
    let head_tree = mirror.commit(head).unwrap().tree;
    let mut tally = tally.borrow_mut();
    for one in made.iter().skip(1) {
        let ours = mirror.reverse(one.id, head).unwrap();
        match (&ours, clone.revert(one.id, one.parents > 1)) {
            (Reversal::Clean(tree), Ok(theirs)) => {
                prop_assert_eq!(tree.to_string(), theirs, "{}", one.id);
                tally.same += 1;
            }
            (Reversal::Nothing, Ok(theirs)) => prop_assert_eq!(head_tree.to_string(), theirs, "{}", one.id),
            (Reversal::Conflicts(_), Ok(_)) => tally.careful += 1,
            (Reversal::Conflicts(ours), Err(theirs)) if paths(ours) == theirs => tally.conflicts += 1,
            (Reversal::Conflicts(_), Err(_)) => tally.elsewhere += 1,
            (ours, Err(theirs)) => prop_assert!(false, "{}: {:?}, and git conflicts in {:?}", one.id, ours, theirs),
        }
    }

    // Every range from the head back ends in the tree before it.
    for last in 1..on_main.len() {
        let range: Vec<CommitId> = on_main[last..].iter().rev().map(|made| made.id).collect();
        let commits = written(reverse_all(&mirror, &range, head));
        let before = mirror.commit(on_main[last - 1].id).unwrap().tree;
        let end = commits.last().copied().unwrap_or(head);
        prop_assert_eq!(mirror.commit(end).unwrap().tree, before);
        if last == 1 {
            git_says(&folder.path().join("mirror"), &["fsck", "--strict", "--full", &end.to_string()]);
        }
    }
    Ok(())
}

fn runs(cases: u32, renames: bool, is_repeating: bool) -> Tally {
    let tally = RefCell::default();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, random)
        .run(&history::steps(renames), |steps| reverts_as_git_does(&steps, is_repeating, &tally));
    if let Err(error) = result {
        panic!("{error}");
    }
    tally.into_inner()
}

#[test]
fn a_revert_has_the_tree_that_git_gives_or_conflicts_in_the_same_files() {
    for is_repeating in [false, true] {
        let tally = runs(20, false, is_repeating);
        assert!(tally.same > 100 && tally.conflicts > 30, "{tally:?}");
        assert_eq!(tally.elsewhere, 0, "{tally:?}");
        // A file that was deleted and one that is new may be one that was renamed.
        assert!(tally.careful <= tally.same / 100, "{tally:?}");
    }
}

/// Where two files of one name meet, or a folder was renamed, git may merge what is a conflict here, and calls what
/// conflicts by the name that it would have had. It is never another tree, and never a conflict of git alone.
#[test]
fn where_files_are_renamed_a_revert_is_the_one_of_git_or_a_conflict() {
    for is_repeating in [false, true] {
        let tally = runs(20, true, is_repeating);
        assert!(tally.same > 100 && tally.conflicts > 30, "{tally:?}");
        assert!(tally.careful + tally.elsewhere < tally.conflicts / 8, "{tally:?}");
    }
}

/// Lets a clone fetch what the mirror has made.
fn show(mirror: &Path, commit: CommitId) {
    let git = git2::Repository::open_bare(mirror).unwrap();
    git.reference("refs/heads/shown", oid(commit), true, "for the test").unwrap();
}

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

#[test]
fn plain_git_reads_and_reverts_our_reverts() {
    let Pair { server, mirror, folder } = pair();
    let first = server.commit("develop", "first", &[("a.yaml", LINES), ("b.yaml", "x\n")]);
    server.branch("topic", "develop");
    server.commit("topic", "topic", &[("a.yaml", &LINES.replace('2', "two"))]);
    server.commit("develop", "meanwhile", &[("b.yaml", "y\n")]);
    let merge = server.merge("develop", "topic");
    let head = server.commit("develop", "later", &[("a.yaml", &LINES.replace('2', "two").replace('8', "eight"))]);
    pull(&mirror);

    let revert = written(reverse_all(&mirror, &[merge], head))[0];
    assert_eq!(mirror.tree(revert).unwrap().text("a.yaml").unwrap(), Some(LINES.replace('8', "eight").as_str()));
    let again = written(reverse_all(&mirror, &[revert], revert))[0];
    assert_eq!(mirror.commit(again).unwrap().tree, mirror.commit(head).unwrap().tree);
    let third = written(reverse_all(&mirror, &[again], again))[0];
    assert_eq!(mirror.told(revert).unwrap().reverts, [merge]);
    assert_eq!(mirror.is_ancestor(first, third), Ok(true));

    let place = folder.path().join("mirror");
    show(&place, third);
    git_says(&place, &["fsck", "--strict", "--full"]);
    let said = git_says(&place, &["verify-commit", "--verbose", &revert.to_string()]);
    assert!(said.contains("Good \"git\" signature for towpath@test"), "{said}");
    let clone = Clone::new(&folder, &place);
    clone.run(&["checkout", "--quiet", &third.to_string()]);
    let log = clone.run(&["log", "--first-parent", "--format=%s"]);
    let subjects: Vec<&str> = log.lines().collect();
    assert_eq!(
        subjects,
        [
            "Revert \"Reapply \"Merge branch 'topic' into develop\"\"",
            "Reapply \"Merge branch 'topic' into develop\"",
            "Revert \"Merge branch 'topic' into develop\"",
            "later",
            "Merge branch 'topic' into develop",
            "meanwhile",
            "first"
        ]
    );
    let body = clone.run(&["log", "-1", "--format=%b", &revert.to_string()]);
    let mainline = mirror.commit(merge).unwrap().parents[0];
    let expected = format!("This reverts commit {merge}, reversing\nchanges made to {mainline}.\n");
    assert!(body.starts_with(&expected), "{body}");
    let trailers = clone.run(&["log", "-1", "--format=%(trailers:only)", &revert.to_string()]);
    assert_eq!(trailers.trim_end(), "Towpath-Revert: test\nRequest: r-1");
    let tree = |commit: CommitId| mirror.commit(commit).unwrap().tree.to_string();
    assert_eq!(clone.revert(third, false), Ok(tree(again)));
    assert_eq!(clone.revert(again, false), Ok(tree(third)));
}

#[test]
fn the_same_reverts_are_the_same_commits_and_leave_two_files() {
    let Pair { server, mirror, folder } = pair();
    for number in 0..4 {
        server.commit("develop", &format!("change {number}"), &[("a/b/c.yaml", &format!("{number}\n"))]);
    }
    pull(&mirror);
    let head = server.head("develop");
    let commits = mirror.commits_of(head, &[], 3).unwrap().0;
    let range: Vec<CommitId> = commits.iter().map(|commit| commit.commit).collect();
    let oldest_first: Vec<CommitId> = range.iter().rev().copied().collect();
    assert_eq!(order(&range, &oldest_first).unwrap(), range);
    let count = || walk(&folder.path().join("mirror/objects"));
    let before = count();
    let written_once = written(reverse_all(&mirror, &range, head));
    assert_eq!((written_once.len(), count() - before), (3, 2), "one pack and its index");
    assert_eq!(written(reverse_all(&mirror, &range, head)), written_once);
    assert_eq!(count() - before, 2);
    assert_eq!(mirror.commit(written_once[0]).unwrap().parents, [head]);
}

fn walk(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_revert_that_does_not_fit_writes_nothing_and_the_tree_can_be_restored() {
    let Pair { server, mirror, folder } = pair();
    let good = server.commit("develop", "good", &[("a.yaml", LINES), ("b.yaml", "x\n")]);
    let bad = server.commit("develop", "bad", &[("a.yaml", &LINES.replace('5', "bad")), ("b.yaml", "y\n")]);
    let head = server.commit("develop", "on top", &[("a.yaml", &LINES.replace('5', "worse"))]);
    pull(&mirror);
    let before = walk(&folder.path().join("mirror/objects"));
    assert_eq!(mirror.reverse(bad, head).unwrap(), conflicts([file("a.yaml")]));
    let chain = reverse_all(&mirror, &[bad], head).unwrap();
    assert_eq!(chain, Chain::Conflicts { commit: bad, conflicts: Conflicts::of([file("a.yaml")]) });
    assert_eq!(walk(&folder.path().join("mirror/objects")), before);

    let text = restoring(good, "good", &Cause { cluster: "test".into(), ..Cause::default() });
    let restored = mirror.restore(good, head, &text, &towpath(), &sign).unwrap().unwrap();
    assert_eq!(mirror.commit(restored).unwrap().tree, mirror.commit(good).unwrap().tree);
    assert_eq!(mirror.commit(restored).unwrap().parents, [head]);
    assert_eq!(mirror.restore(good, restored, &text, &towpath(), &sign), Ok(None));
    let place = folder.path().join("mirror");
    git_says(&place, &["fsck", "--strict", "--full", &restored.to_string()]);
    show(&place, restored);
    let clone = Clone::new(&folder, &place);
    clone.run(&["checkout", "--quiet", &restored.to_string()]);
    assert_eq!(clone.revert(restored, false), Ok(mirror.commit(head).unwrap().tree.to_string()));
}

#[test]
fn what_is_gone_already_is_not_reverted_twice() {
    let Pair { server, mirror, folder: _folder } = pair();
    server.commit("develop", "first", &[("a.yaml", "1\n"), ("b.yaml", "1\n")]);
    let bad = server.commit("develop", "bad", &[("a.yaml", "2\n")]);
    let empty = server.commit("develop", "empty", &[]);
    let other = server.commit("develop", "other", &[("b.yaml", "2\n")]);
    let head = server.revert("develop", bad);
    pull(&mirror);
    assert_eq!(mirror.reverse(bad, head), Ok(Reversal::Nothing));
    assert_eq!(mirror.reverse(empty, head), Ok(Reversal::Nothing));
    let commits = written(reverse_all(&mirror, &[other, empty, bad], head));
    assert_eq!(commits.len(), 1);
    assert!(written(reverse_all(&mirror, &[empty], head)).is_empty());
}

#[test]
fn what_reverts_come_to_together_is_found_again_however_it_was_merged() {
    let Pair { server, mirror, folder: _folder } = pair();
    let good = server.commit("develop", "good", &[("a.yaml", LINES), ("b.yaml", "x\n")]);
    let first = server.commit("develop", "first", &[("a.yaml", &LINES.replace('5', "bad"))]);
    let second = server.commit("develop", "second", &[("a.yaml", &LINES.replace('5', "worse"))]);
    let beside = server.commit("develop", "beside", &[("b.yaml", "y\n"), ("a.yaml", &LINES.replace('5', "worse"))]);
    let squashed = server.commit("develop", "squashed", &[("a.yaml", LINES)]);
    let after = server.commit("develop", "after", &[("a.yaml", &LINES.replace('5', "other"))]);
    pull(&mirror);
    // One by one they do not fit any more.
    assert!(matches!(mirror.reverse(second, squashed), Ok(Reversal::Conflicts(_))));
    let both = Undoing::Reverts(vec![second, first]);
    assert_eq!(mirror.first_with(&both, second, &[beside]), Ok(None));
    assert_eq!(mirror.first_with(&both, second, &[beside, squashed, after]), Ok(Some(squashed)));
    assert_eq!(mirror.first_with(&Undoing::Restoring(good), second, &[beside, squashed]), Ok(Some(squashed)));
    assert_eq!(mirror.first_with(&Undoing::Restoring(good), beside, &[squashed]), Ok(None), "beside is there still");
    assert_eq!(mirror.first_with(&Undoing::Reverts(vec![first]), second, &[squashed]), Ok(None), "it does not fit");
    // What changes nothing is in everything.
    assert_eq!(mirror.first_with(&Undoing::Restoring(second), second, &[beside]), Ok(None));
}

#[test]
fn a_submodule_goes_back_only_where_it_still_is_what_the_commit_set() {
    let Pair { server, mirror, folder } = pair();
    const URL: &str = "https://example.org/web.git";
    server.commit("develop", "first", &[("a.yaml", "1\n")]);
    let added = server.submodule("develop", "components/web", URL, id(1));
    let bumped = server.submodule("develop", "components/web", URL, id(2));
    let kept = server.commit("develop", "kept", &[("a.yaml", "2\n")]);
    pull(&mirror);
    let Ok(Reversal::Clean(tree)) = mirror.reverse(bumped, kept) else { panic!("the pin is what it was") };
    assert_eq!(Ok(tree.to_string()), Clone::new(&folder, server.path()).revert(bumped, false));

    let moved = server.submodule("develop", "components/web", URL, id(3));
    pull(&mirror);
    let pin = |before, set, now| Conflict::Submodule { path: "components/web".into(), before, set, now };
    let expected = [pin(Some(id(1)), Some(id(2)), Some(id(3)))];
    assert_eq!(mirror.reverse(bumped, moved).unwrap(), conflicts(expected));
    let expected = [pin(None, Some(id(1)), Some(id(3)))];
    assert_eq!(mirror.reverse(added, moved).unwrap(), conflicts(expected));
    let removed = server.delete("develop", "components/web");
    pull(&mirror);
    let expected = [pin(Some(id(1)), Some(id(2)), None)];
    assert_eq!(mirror.reverse(bumped, removed).unwrap(), conflicts(expected));
    // Somebody has set it back by hand.
    let back = server.submodule("develop", "components/web", URL, id(1));
    pull(&mirror);
    assert_eq!(mirror.reverse(bumped, back), Ok(Reversal::Nothing));
}

#[test]
fn what_git_would_do_with_attributes_links_or_renamed_folders_is_a_conflict() {
    let Pair { server, mirror, folder: _folder } = pair();
    let file_of = |number: usize| LINES.replace('\n', &format!(" of {number}\n"));
    server.commit("develop", "first", &[("web/a.yaml", LINES), ("web/b.yaml", &file_of(1)), ("c.yaml", &file_of(2))]);
    let edit = server.commit("develop", "edit", &[("web/a.yaml", &LINES.replace('2', "two"))]);
    let both = LINES.replace('2', "two").replace('8', "eight");
    let head = server.commit("develop", "elsewhere in it", &[("web/a.yaml", &both)]);
    pull(&mirror);
    assert!(matches!(mirror.reverse(edit, head), Ok(Reversal::Clean(_))));
    let head = server.commit("develop", "attributes", &[("web/.gitattributes", "*.yaml merge=union\n")]);
    pull(&mirror);
    assert_eq!(mirror.reverse(edit, head).unwrap(), conflicts([file("web/a.yaml")]));
    server.delete("develop", "web/.gitattributes");

    server.entry("develop", "link", FileMode::Link, b"c.yaml");
    let link = server.entry("develop", "link", FileMode::Link, b"web/b.yaml");
    let head = server.entry("develop", "link", FileMode::Link, b"web/a.yaml");
    pull(&mirror);
    assert_eq!(mirror.reverse(link, head).unwrap(), conflicts([file("link")]));

    let gone = server.delete("develop", "web/b.yaml");
    server.delete("develop", "web/a.yaml");
    let head = server.commit("develop", "a folder with another name", &[("site/a.yaml", &both)]);
    pull(&mirror);
    assert_eq!(mirror.reverse(gone, head).unwrap(), conflicts([file("web/b.yaml")]));
}

#[test]
fn a_file_that_has_another_name_now_is_reverted_there() {
    let Pair { server, mirror, folder } = pair();
    server.commit("develop", "first", &[("a.yaml", LINES), ("b.yaml", "x\n")]);
    let edit = server.commit("develop", "edit", &[("a.yaml", &LINES.replace('2', "two"))]);
    server.delete("develop", "a.yaml");
    let both = LINES.replace('2', "two").replace('8', "eight");
    let head = server.commit("develop", "another name", &[("new/c.yaml", &both)]);
    pull(&mirror);
    // A rename is one commit for git as well as two.
    let Ok(Reversal::Clean(tree)) = mirror.reverse(edit, head) else { panic!("{:?}", mirror.reverse(edit, head)) };
    assert_eq!(Ok(tree.to_string()), Clone::new(&folder, server.path()).revert(edit, false));
}

#[test]
fn what_cannot_be_reverted_says_why() {
    let Pair { server, mirror, folder } = pair();
    let first = server.commit("develop", "first", &[("a.yaml", "1\n")]);
    let head = server.commit("develop", "second", &[("a.yaml", "2\n")]);
    pull(&mirror);
    assert_eq!(mirror.reverse(id(7), head).unwrap_err().fault, Fault::Passing);
    assert_eq!(mirror.reverse(head, id(7)).unwrap_err().fault, Fault::Passing);
    let many = vec![(head, "Revert".to_owned()); MAX_REVERTS + 1];
    let problem = mirror.reverse_all(&many, head, &towpath(), &sign).unwrap_err();
    assert_eq!(problem.fault, Fault::Content, "{problem}");
    let unsigned = mirror.reverse_all(&many[..1], head, &towpath(), &|_| Err(Problem::setup("there is no key")));
    assert_eq!(unsigned.unwrap_err().message, "there is no key");

    // The first commit of all is reverted to nothing, as git does.
    let first_alone = mirror.reverse(first, first).unwrap();
    assert_eq!(first_alone, Reversal::Clean("4b825dc642cb6eb9a060e54bf8d69288fbee4904".parse().unwrap()));

    let remote = server.url().parse().unwrap();
    let lean = folder.path().join("lean");
    let lean = Mirror::open_commits_on(&lean, remote, Credentials::default(), Terms::default()).unwrap();
    pull(&lean);
    for problem in [
        lean.reverse(head, head).unwrap_err(),
        lean.restore(first, head, "x", &towpath(), &sign).unwrap_err(),
        reverse_all(&lean, &[head], head).unwrap_err(),
    ] {
        assert!(problem.fault == Fault::Setup && problem.message.contains("commits only"), "{problem}");
    }
}
