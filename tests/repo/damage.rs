//! What a crash, a bad disk or a second agent does to a mirror.

use std::fs;
use std::path::{Path, PathBuf};

use support::deploy_repo::DeployRepo;
use towpath::repo::{Credentials, Mirror};
use towpath_core::fault::Fault;

use super::{Pair, open, pair, pull};

/// Everything below a folder that is a file.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// Damages every pack of the mirror in its middle.
fn damage(pair: &Pair) {
    for path in files(&pair.folder.path().join("mirror/objects")) {
        if path.extension().is_some_and(|extension| extension == "pack") {
            let mut bytes = fs::read(&path).unwrap();
            let middle = 12 + (bytes.len() - 32) / 2;
            bytes[12..middle].fill(0x55);
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
}

/// The same mirror in a new process: opened again.
fn reopen(pair: Pair) -> Pair {
    let Pair { server, mirror, folder } = pair;
    drop(mirror);
    let mirror = open(&folder, &server.url());
    Pair { server, mirror, folder }
}

#[test]
fn a_folder_that_is_no_repository_is_moved_aside_and_fetched_anew() {
    let pair = pair();
    let head = pair.server.commit("develop", "first", &[("a", "1")]);
    pull(&pair.mirror);
    fs::remove_file(pair.folder.path().join("mirror/HEAD")).unwrap();
    let pair = reopen(pair);
    assert!(!pair.mirror.contains(head));
    pull(&pair.mirror);
    assert!(pair.mirror.tree(head).is_ok());
    assert!(pair.folder.path().join("mirror.damaged").exists());
}

#[test]
fn a_damaged_mirror_is_noticed_by_reading_and_fetched_anew_once() {
    let pair = pair();
    let text: String = (0..5000u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()).collect();
    let head = pair.server.commit("develop", "first", &[("a", &text), ("b", "2")]);
    pull(&pair.mirror);
    damage(&pair);
    let pair = reopen(pair);
    let problems = pair.mirror.tree(head).map(drop).unwrap_err();
    assert_eq!(problems.fault(), Fault::Passing, "{problems}");
    assert!(!pair.mirror.contains(head), "so that it is fetched");
    let moved = pair.mirror.fetch(&[("develop".into(), head)]).unwrap();
    assert_eq!((moved[0].from, moved[0].to, moved[0].rewritten), (Some(head), head, false));
    assert_eq!(pair.mirror.tree(head).unwrap().text("a").unwrap(), Some(text.as_str()));
    assert!(pair.mirror.contains(head));

    damage(&pair);
    let pair = reopen(pair);
    assert!(pair.mirror.tree(head).is_err());
    pair.mirror.fetch(&[("develop".into(), head)]).unwrap();
}

#[test]
fn a_mirror_that_is_damaged_again_at_once_is_a_matter_for_the_operator() {
    let pair = pair();
    let first = pair.server.commit("develop", "first", &[("a", "1")]);
    pull(&pair.mirror);
    for path in files(&pair.folder.path().join("mirror/objects")) {
        fs::remove_file(path).unwrap();
    }
    let second = pair.server.commit("develop", "second", &[("a", "2")]);
    pull(&pair.mirror);
    assert!(pair.mirror.contains(second));
    for path in files(&pair.folder.path().join("mirror/objects")) {
        fs::remove_file(path).unwrap();
    }
    let third = pair.server.commit("develop", "third", &[("a", "3")]);
    let problem = pair.mirror.fetch(&[("develop".into(), third)]).unwrap_err();
    assert!(problem.fault == Fault::Setup && problem.message.contains("damaged again"), "{problem}");
    let _ = first;
}

#[test]
fn a_ref_that_a_power_cut_left_empty_is_mended() {
    let pair = pair();
    pair.server.commit("develop", "first", &[("a", "1")]);
    pull(&pair.mirror);
    fs::write(pair.folder.path().join("mirror/refs/heads/develop"), "").unwrap();
    let pair = reopen(pair);
    let second = pair.server.commit("develop", "second", &[("a", "2")]);
    pull(&pair.mirror);
    assert!(pair.mirror.tree(second).is_ok());
    assert!(pull(&pair.mirror).is_empty());
}

#[test]
fn a_mirror_stays_while_the_server_cannot_replace_it() {
    let pair = pair();
    let first = pair.server.commit("develop", "first", &[("a", "1")]);
    pull(&pair.mirror);
    fs::rename(pair.server.path(), pair.folder.path().join("away")).unwrap();
    fs::remove_file(pair.folder.path().join("mirror/HEAD")).unwrap();
    assert!(pair.mirror.fetch(&[("develop".into(), towpath_core::revision::CommitId::from_bytes([7; 20]))]).is_err());
    assert!(pair.mirror.tree(first).is_ok(), "what can be read is still read");
    assert!(pair.folder.path().join("mirror").exists());
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let pair = pair();
    pair.server.commit("develop", "first", &[("a", "1")]);
    pull(&pair.mirror);
    let mirror = pair.folder.path().join("mirror");
    let left =
        ["HEAD.lock", "packed-refs.lock", "config.lock", "refs/heads/develop.lock", "objects/pack/pack_git2_abcdef"];
    for name in left {
        fs::write(mirror.join(name), "").unwrap();
    }
    fs::create_dir_all(pair.folder.path().join("mirror.ssh/0")).unwrap();
    fs::write(pair.folder.path().join("mirror.ssh/0/key"), "secret").unwrap();
    let pair = reopen(pair);
    for name in left {
        assert!(!mirror.join(name).exists(), "{name}");
    }
    assert!(!pair.folder.path().join("mirror.ssh").exists());
    let second = pair.server.commit("develop", "second", &[("a", "2")]);
    pull(&pair.mirror);
    assert!(pair.mirror.contains(second));
}

#[test]
fn a_folder_has_one_owner() {
    let pair = pair();
    let path = pair.folder.path().join("mirror");
    let second = Mirror::open(&path, pair.server.url().parse().unwrap(), Credentials::default());
    let problem = second.map(drop).unwrap_err();
    assert!(problem.fault == Fault::Setup && problem.message.contains("another agent"), "{problem}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/mirror");
    let problem =
        Mirror::open(&path, "/srv/deploy.git".parse().unwrap(), Credentials::default()).map(drop).unwrap_err();
    assert_eq!(problem.fault, Fault::Setup);
}

#[test]
fn a_local_repository_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = open(&folder, "/nowhere/deploy.git");
    assert_eq!(mirror.heads().unwrap_err().fault, Fault::Setup);
}

#[test]
fn many_small_fetches_leave_few_files() {
    let pair = pair();
    let mut heads = Vec::new();
    for number in 0..60 {
        heads.push(pair.server.commit("develop", "next", &[("a", &number.to_string())]));
        pull(&pair.mirror);
    }
    let packs = files(&pair.folder.path().join("mirror/objects/pack"));
    assert!(packs.len() < 2 * 20, "{}", packs.len());
    let read = |pair: &Pair| {
        for (number, head) in heads.iter().enumerate() {
            assert_eq!(pair.mirror.tree(*head).unwrap().text("a").unwrap(), Some(number.to_string().as_str()));
        }
    };
    read(&pair);
    read(&reopen(pair));
}

#[test]
fn reading_goes_on_beside_fetching() {
    let pair = pair();
    let first = pair.server.commit("develop", "first", &[("a", "1")]);
    pull(&pair.mirror);
    std::thread::scope(|scope| {
        let mirror = &pair.mirror;
        scope.spawn(move || {
            for _ in 0..300 {
                assert!(mirror.tree(first).is_ok() && mirror.contains(first));
            }
        });
        for number in 0..40 {
            pair.server.commit("develop", "next", &[("a", &number.to_string())]);
            pull(mirror);
        }
    });
}

#[test]
fn a_repository_with_a_working_copy_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("work");
    git2::Repository::init(&path).unwrap();
    let repo = DeployRepo::open(path.join(".git"));
    let head = repo.commit("main", "first", &[("a", "1")]);
    let mirror = open(&folder, path.to_str().unwrap());
    pull(&mirror);
    assert!(mirror.contains(head));
}
