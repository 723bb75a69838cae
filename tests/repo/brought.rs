//! What a commit of a branch brought, read from histories that plain git made.

use std::fs;
use std::path::PathBuf;

use support::git_server::git;
use tempfile::TempDir;
use towpath::repo::{BroughtLimits, Credentials, Mirror};
use towpath_core::components::read_declarations;
use towpath_core::fault::Fault;
use towpath_core::revert::marks::{Brought, of_commit};
use towpath_core::revision::CommitId;

use super::pull;

/// A working copy of which a mirror reads.
struct Copy {
    folder: TempDir,
    work: PathBuf,
    mirror: Mirror,
}

impl Copy {
    fn new() -> Copy {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        let url = format!("file://{}", work.display());
        let mirror = Mirror::open(&folder.path().join("mirror"), url.parse().unwrap(), Credentials::default()).unwrap();
        let copy = Copy { folder, work, mirror };
        copy.run(&["init", "--quiet", "--initial-branch=master"]);
        copy
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let mut command = git(self.folder.path());
        command.args(["-c", "user.name=Robin", "-c", "user.email=robin@example.org"]).args(arguments);
        let output = command.current_dir(&self.work).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn head(&self) -> CommitId {
        self.run(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    fn commit(&self, message: &str, files: &[(&str, &str)]) -> CommitId {
        for (path, content) in files {
            let path = self.work.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.run(&["add", "--all"]);
        self.run(&["commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "-m", message]);
        self.head()
    }

    fn revert(&self, commit: CommitId, is_merge: bool) -> CommitId {
        let commit = commit.to_string();
        let mainline: &[&str] = if is_merge { &["-m", "1"] } else { &[] };
        self.run(&[&["revert", "--no-edit"], mainline, &[&commit]].concat());
        self.head()
    }

    fn brought(&self, commit: CommitId) -> Brought {
        pull(&self.mirror);
        self.mirror.brought_by(commit, BroughtLimits::default()).unwrap()
    }

    /// A merge of a branch of two commits, the first of which is marked, while the main branch moves on. Gives the marked
    /// commit and the merge.
    fn merged(&self) -> (CommitId, CommitId) {
        self.commit("First", &[("values.yaml", "a: 1\n")]);
        self.run(&["switch", "--quiet", "-c", "topic"]);
        let marked = self.commit("Add a column\n\nNot-Revertible: the column has data", &[("migrations/1.sql", "x\n")]);
        self.commit("Use it", &[("web/a.yaml", "a\n")]);
        self.run(&["switch", "--quiet", "master"]);
        self.commit("Elsewhere\n\nNot-Revertible: elsewhere", &[("other.yaml", "a\n")]);
        self.run(&["merge", "--quiet", "--no-ff", "-m", "Merge branch 'topic'", "topic"]);
        (marked, self.head())
    }
}

fn ids(brought: &Brought) -> Vec<CommitId> {
    brought.messages.iter().map(|(id, _)| *id).collect()
}

fn reasons(brought: &Brought) -> Vec<String> {
    of_commit(brought, &[]).into_iter().map(|mark| mark.reason).collect()
}

#[test]
fn a_commit_brings_itself_and_the_files_that_it_changes() {
    let copy = Copy::new();
    let first = copy.commit("First", &[("a.yaml", "1\n"), ("b/c.yaml", "1\n")]);
    fs::remove_file(copy.work.join("a.yaml")).unwrap();
    let second = copy.commit("Second\n\nNot-Revertible: lost\n", &[("b/d.yaml", "1\n")]);
    let brought = copy.brought(second);
    assert_eq!(brought.messages, [(second, "Second\n\nNot-Revertible: lost\n".to_owned())]);
    assert_eq!(brought.paths, ["a.yaml", "b/d.yaml"]);
    assert!(!brought.is_log_cut && !brought.are_paths_cut);
    assert_eq!(reasons(&brought), ["lost"]);
    let brought = copy.brought(first);
    assert_eq!((ids(&brought), reasons(&brought).len()), (vec![first], 0));
    assert_eq!(brought.paths, ["a.yaml", "b/c.yaml"], "the first commit brings all there is");
}

#[test]
fn a_merge_brings_what_its_branch_had_and_nothing_else() {
    let copy = Copy::new();
    let (marked, merge) = copy.merged();
    let brought = copy.brought(merge);
    let listed = copy.run(&["rev-list", "HEAD^1..HEAD"]);
    let mut expected: Vec<CommitId> = listed.lines().map(|line| line.parse().unwrap()).collect();
    let mut found = ids(&brought);
    expected.sort();
    found.sort();
    assert_eq!((found.len(), found), (3, expected));
    assert_eq!(brought.paths, ["migrations/1.sql", "web/a.yaml"]);
    assert_eq!(reasons(&brought), ["the column has data"]);
    let rules = read_declarations("notRevertible: [{paths: ['migrations/**'], reason: forward only}]").unwrap();
    let marks = of_commit(&brought, &rules.not_revertible);
    let what: Vec<&str> = marks.iter().map(|mark| mark.what.as_str()).collect();
    assert_eq!(what, [format!("{} says so", marked.short()).as_str(), "it changes migrations/1.sql"]);
    assert!(marks.iter().all(|mark| mark.commit == Some(merge)));
}

#[test]
fn a_revert_that_is_taken_back_brings_the_marks_of_what_it_reverted() {
    let copy = Copy::new();
    let (marked, merge) = copy.merged();
    let revert = copy.revert(merge, true);
    assert_eq!(reasons(&copy.brought(revert)), Vec::<String>::new(), "taking a revert back loses nothing");
    let again = copy.revert(revert, false);
    let brought = copy.brought(again);
    assert!(ids(&brought).contains(&marked), "{brought:?}");
    assert_eq!(reasons(&brought), ["the column has data"]);
    let third = copy.revert(again, false);
    assert_eq!(reasons(&copy.brought(third)), Vec::<String>::new());
}

#[test]
fn a_revert_of_what_nobody_has_brings_itself() {
    let copy = Copy::new();
    let unknown = "7".repeat(40);
    let commit = copy.commit(&format!("Revert \"x\"\n\nThis reverts commit {unknown}.\n"), &[("a", "1")]);
    let brought = copy.brought(commit);
    assert_eq!((ids(&brought), brought.is_log_cut), (vec![commit], false));
}

#[test]
fn what_is_beyond_the_limits_is_said_to_be_there() {
    let copy = Copy::new();
    let (_, merge) = copy.merged();
    pull(&copy.mirror);
    let all = copy.mirror.brought_by(merge, BroughtLimits::default()).unwrap();
    let bytes: usize = all.messages.iter().map(|(_, message)| message.len()).sum();
    let exact = BroughtLimits { commits: 3, bytes, paths: 2 };
    assert_eq!(copy.mirror.brought_by(merge, exact).unwrap(), all);
    for (limits, log, paths) in [
        (BroughtLimits { commits: 2, ..exact }, true, false),
        (BroughtLimits { bytes: bytes - 1, ..exact }, true, false),
        (BroughtLimits { paths: 1, ..exact }, false, true),
    ] {
        let cut = copy.mirror.brought_by(merge, limits).unwrap();
        assert_eq!((cut.is_log_cut, cut.are_paths_cut), (log, paths), "{limits:?}");
        let rules = read_declarations("notRevertible: [{paths: [nothing]}]").unwrap().not_revertible;
        let last = of_commit(&cut, &rules).pop().unwrap();
        assert_eq!(last.reason, "not all of them were looked at");
    }
}

#[test]
fn a_commit_that_is_not_in_the_mirror_is_asked_for_later() {
    let copy = Copy::new();
    copy.commit("First", &[("a", "1")]);
    pull(&copy.mirror);
    let problem = copy.mirror.brought_by(CommitId::from_bytes([7; 20]), BroughtLimits::default()).unwrap_err();
    assert_eq!(problem.fault, Fault::Passing, "{problem}");
}
