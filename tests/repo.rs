//! The git door against real repositories.

mod brought;
pub mod commits;
mod damage;
mod hostile;
mod http;
mod lean;
mod push;
mod refs;
mod revert;
mod ssh;
mod versions;
mod watch;
mod without;

use std::sync::Arc;

use support::deploy_repo::DeployRepo;
use tempfile::TempDir;
use towpath::repo::{Credentials, Mirror, Moved};
use towpath_core::revision::CommitId;

/// A deploy repository and a mirror of it, over `file://`.
struct Pair {
    server: DeployRepo,
    mirror: Mirror,
    folder: TempDir,
}

fn pair() -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let server = DeployRepo::new(folder.path().join("deploy.git"));
    let mirror = open(&folder, &server.url());
    Pair { server, mirror, folder }
}

fn open(folder: &TempDir, address: &str) -> Mirror {
    Mirror::open(&folder.path().join("mirror"), address.parse().unwrap(), Credentials::default()).unwrap()
}

/// Fetches what is on the server.
fn pull(mirror: &Mirror) -> Vec<Moved> {
    let wanted: Vec<(String, CommitId)> = mirror.heads().unwrap().into_iter().collect();
    mirror.fetch(&wanted).unwrap()
}

#[test]
fn a_commit_is_fetched_and_read() {
    let pair = pair();
    let Pair { server, mirror, .. } = &pair;
    let first = server.commit("develop", "first\n\nbody", &[("a/b.yaml", "x: 1"), ("c.yaml", "y")]);
    assert_eq!(mirror.heads().unwrap().into_iter().collect::<Vec<_>>(), [("develop".to_owned(), first)]);
    assert!(!mirror.contains(first));
    let moved = pull(mirror);
    assert_eq!(moved, [Moved { branch: "develop".into(), from: None, to: first, rewritten: false }]);
    assert!(mirror.contains(first));

    let revision = mirror.revision(first, "develop").unwrap();
    assert_eq!((revision.subject.as_str(), revision.author.as_str()), ("first", "Robin Bargee"));
    assert_eq!(revision.committed_at.to_string(), "2026-01-05T09:00:00Z");
    let tree = mirror.tree(first).unwrap();
    assert_eq!(tree.text("a/b.yaml").unwrap(), Some("x: 1"));
    assert_eq!(tree.len(), 2);

    let second = server.commit("develop", "second", &[("c.yaml", "z")]);
    assert_eq!(pull(mirror)[0].from, Some(first));
    let after = mirror.tree(second).unwrap();
    assert_eq!(after.text("c.yaml").unwrap(), Some("z"));
    assert!(Arc::ptr_eq(&tree.file("a/b.yaml").unwrap().bytes, &after.file("a/b.yaml").unwrap().bytes));
    assert!(mirror.is_ancestor(first, second).unwrap() && !mirror.is_ancestor(second, first).unwrap());
    assert_eq!(mirror.count_between(first, second).unwrap(), 1);
    assert_eq!(pull(mirror), []);
}

#[test]
fn an_empty_repository_has_no_branches() {
    assert!(pair().mirror.heads().unwrap().is_empty());
}

#[test]
fn only_the_wanted_branches_are_fetched() {
    let pair = pair();
    let Pair { server, mirror, .. } = &pair;
    let wanted = server.commit("develop", "wanted", &[("a", "1")]);
    let other = server.commit("other", "other", &[("b", "2")]);
    mirror.fetch(&[("develop".into(), wanted)]).unwrap();
    assert!(mirror.contains(wanted) && !mirror.contains(other));
}

#[test]
fn a_rewritten_branch_is_reported_and_its_old_commit_stays() {
    let pair = pair();
    let Pair { server, mirror, folder } = &pair;
    let first = server.commit("develop", "first", &[("a", "1")]);
    let second = server.commit("develop", "second", &[("a", "2")]);
    pull(mirror);
    server.force("develop", first);
    let third = server.commit("develop", "third", &[("a", "3")]);
    let moved = Moved { branch: "develop".into(), from: Some(second), to: third, rewritten: true };
    assert_eq!(pull(mirror), [moved]);
    assert_eq!(mirror.tree(second).unwrap().text("a").unwrap(), Some("2"));
    let kept = folder.path().join(format!("mirror/refs/kept/{second}"));
    assert!(kept.exists());
}

#[test]
fn a_commit_that_the_server_does_not_have_is_retried() {
    let pair = pair();
    let Pair { server, mirror, .. } = &pair;
    server.commit("develop", "first", &[("a", "1")]);
    let nowhere = CommitId::from_bytes([7; 20]);
    let problem = mirror.fetch(&[("develop".into(), nowhere)]).unwrap_err();
    assert_eq!(problem.fault, towpath_core::fault::Fault::Passing, "{problem}");
}
