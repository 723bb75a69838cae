//! Watching a repository on this machine.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use support::deploy_repo::DeployRepo;
use support::git_server::git;
use towpath::repo::watch::{Watch, watch_local};

fn watch(path: &Path) -> (Watch, Receiver<Instant>) {
    let (changed, changes) = channel();
    let tell = move || {
        // The test may have seen enough.
        let _ = changed.send(Instant::now());
    };
    let watch = watch_local(path, tell).unwrap();
    (watch, changes)
}

#[track_caller]
fn check_told(changes: &Receiver<Instant>, start: Instant) {
    let at = changes.recv_timeout(Duration::from_secs(2)).expect("a change is told");
    assert!(at - start < Duration::from_secs(1), "{:?}", at - start);
    while changes.recv_timeout(Duration::from_millis(100)).is_ok() {}
}

#[test]
fn commits_new_branches_and_packed_refs_are_told_of_a_bare_repository() {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("deploy.git"));
    repo.commit("develop", "first", &[("a", "1")]);
    let (_watch, changes) = watch(repo.path());
    let start = Instant::now();
    repo.commit("develop", "second", &[("a", "2")]);
    check_told(&changes, start);
    let start = Instant::now();
    repo.branch("feature/x/y", "develop");
    check_told(&changes, start);
    let start = Instant::now();
    repo.commit("feature/x/y", "third", &[("a", "3")]);
    check_told(&changes, start);
    let start = Instant::now();
    assert!(git(folder.path()).arg("-C").arg(repo.path()).args(["pack-refs", "--all"]).status().unwrap().success());
    check_told(&changes, start);
    let start = Instant::now();
    repo.delete_branch("feature/x/y");
    check_told(&changes, start);
}

#[test]
fn commits_by_git_in_a_working_copy_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("work");
    let run = |arguments: &[&str]| {
        let mut command = git(folder.path());
        command.args(["-c", "user.name=x", "-c", "user.email=x@example.org"]).arg("-C").arg(&path).args(arguments);
        assert!(command.output().unwrap().status.success(), "{arguments:?}");
    };
    std::fs::create_dir(&path).unwrap();
    run(&["init", "-q"]);
    run(&["commit", "-q", "--allow-empty", "-m", "first"]);
    let (_watch, changes) = watch(&path);
    let start = Instant::now();
    run(&["commit", "-q", "--allow-empty", "-m", "second"]);
    check_told(&changes, start);
}

#[test]
fn a_burst_is_told_a_few_times_and_not_for_each_change() {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("deploy.git"));
    let head = repo.commit("develop", "first", &[("a", "1")]);
    let (_watch, changes) = watch(repo.path());
    let start = Instant::now();
    for number in 0..200 {
        repo.force(&format!("r1.{number}"), head);
    }
    let took = start.elapsed();
    std::thread::sleep(Duration::from_millis(300));
    let told = changes.try_iter().count();
    assert!(told >= 1 && told <= 3 + took.as_millis() as usize / 3, "{told} in {took:?}");
}

#[test]
fn objects_and_locks_alone_are_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("deploy.git"));
    repo.commit("develop", "first", &[("a", "1")]);
    let (_watch, changes) = watch(repo.path());
    repo.blob(b"nobody's");
    std::fs::write(repo.path().join("refs/heads/x.lock"), "").unwrap();
    std::fs::remove_file(repo.path().join("refs/heads/x.lock")).unwrap();
    std::fs::read(repo.path().join("HEAD")).unwrap();
    assert!(changes.recv_timeout(Duration::from_millis(200)).is_err());
}

#[test]
fn a_folder_without_a_repository_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let problem = watch_local(folder.path(), || {}).map(drop).unwrap_err();
    assert_eq!(problem.fault, towpath_core::fault::Fault::Setup);
}

#[test]
fn a_watch_ends_when_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("deploy.git"));
    repo.commit("develop", "first", &[("a", "1")]);
    let (watch, changes) = watch(repo.path());
    drop(watch);
    repo.commit("develop", "second", &[("a", "2")]);
    let ended = changes.recv_timeout(Duration::from_secs(2));
    assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}
