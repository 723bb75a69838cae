//! Commits that the mirror writes, as git and ssh-keygen see them; and commits that somebody forged.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use git2::ObjectType;
use support::deploy_repo::commit_id;
use support::git_server::git;
use towpath::repo::{Mirror, NewCommit, NewTree, Person};
use towpath_core::fault::{Fault, Problem};
use towpath_core::revision::CommitId;
use towpath_core::signature::{self, PublicKey, SigningKey};

use super::{Pair, pair, pull};

pub fn towpath() -> Person {
    Person { name: "towpath in test".into(), email: "towpath@test".into(), at: "2026-11-21T10:00:00Z".parse().unwrap() }
}

pub fn tree(files: &[(&str, &str)]) -> NewTree {
    let mut tree = NewTree::default();
    for (path, content) in files {
        tree.file(path, content.as_bytes()).unwrap();
    }
    tree
}

pub fn key() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

/// Writes a signed commit with these files.
pub fn write(mirror: &Mirror, parents: &[CommitId], message: &str, files: &[(&str, &str)]) -> CommitId {
    write_tree(mirror, parents, message, &tree(files)).unwrap()
}

pub fn write_tree(mirror: &Mirror, parents: &[CommitId], message: &str, tree: &NewTree) -> Result<CommitId, Problem> {
    let key = key();
    mirror.write_commit(&NewCommit {
        tree,
        parents: parents.to_vec(),
        author: towpath(),
        committer: towpath(),
        message: message.into(),
        sign: Some(&|bytes| Ok(key.sign(signature::GIT, bytes))),
    })
}

/// Runs git in a repository, as somebody who trusts one key.
pub fn run_git(repository: &Path, trusted: &PublicKey, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let signers = home.path().join("allowed_signers");
    std::fs::write(&signers, format!("towpath@test {trusted}\n")).unwrap();
    let mut command = git(home.path());
    command.args(["-c", "gpg.format=ssh", "-c"]).arg(format!("gpg.ssh.allowedSignersFile={}", signers.display()));
    command.arg("-C").arg(repository).args(arguments).output().unwrap()
}

/// What git says on success.
#[track_caller]
pub fn git_says(repository: &Path, arguments: &[&str]) -> String {
    let output = run_git(repository, &key().public(), arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

fn mirror_folder(pair: &Pair) -> PathBuf {
    pair.folder.path().join("mirror")
}

fn count_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

#[test]
fn git_takes_a_commit_with_its_signature_and_its_files() {
    let pair = pair();
    let first = write(&pair.mirror, &[], "prod@1: r1.2\n\nSequence: 1", &[("a/b.yaml", "x: 1"), ("c.yaml", "y")]);
    let second = write(&pair.mirror, &[first], "prod@2: r1.3", &[("a/b.yaml", "x: 2"), ("c.yaml", "y"), ("a.b", "z")]);
    let folder = mirror_folder(&pair);
    git_says(&folder, &["fsck", "--strict", "--full", &second.to_string()]);
    for commit in [first, second] {
        let said = git_says(&folder, &["verify-commit", "--verbose", &commit.to_string()]);
        assert!(said.contains("Good \"git\" signature for towpath@test"), "{said}");
    }
    let said = git_says(&folder, &["log", "--show-signature", "--format=%an <%ae> %aI %s", &second.to_string()]);
    assert!(said.contains("towpath in test <towpath@test> 2026-11-21T10:00:00+00:00 prod@2: r1.3"), "{said}");
    assert_eq!(said.matches("Good \"git\" signature").count(), 2, "{said}");
    let said = git_says(&folder, &["diff", "--name-status", &first.to_string(), &second.to_string()]);
    assert_eq!(said, "A\ta.b\nM\ta/b.yaml\n");
    assert_eq!(pair.mirror.tree(second).unwrap().text("a/b.yaml").unwrap(), Some("x: 2"));
}

#[test]
fn a_signature_by_git_is_verified_and_by_another_key_is_not() {
    let pair = pair();
    let folder = pair.folder.path().join("work");
    let key_file = pair.folder.path().join("key");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&key_file, key().to_openssh("towpath")).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    git_says(&folder, &["init", "-q", "-b", "main"]);
    let mut commit = git(pair.folder.path());
    commit.args(["-c", "gpg.format=ssh", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c"]);
    commit.arg(format!("user.signingKey={}", key_file.display())).arg("-C").arg(&folder);
    commit.args(["commit", "-q", "-S", "--allow-empty", "-m", "by git"]);
    let output = commit.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let folder = tempfile::tempdir().unwrap();
    let mirror = super::open(&folder, pair.folder.path().join("work").to_str().unwrap());
    let moved = pull(&mirror);
    let commit = mirror.commit(moved[0].to).unwrap();
    let signature = commit.signature.unwrap();
    signature::verify(&key().public(), signature::GIT, &commit.signed_payload, &signature).unwrap();
    let other = SigningKey::from_seed([8; 32]).public();
    assert!(signature::verify(&other, signature::GIT, &commit.signed_payload, &signature).is_err());
    assert_eq!((commit.message.as_str(), commit.author.name.as_str()), ("by git\n", "x"));
}

#[test]
fn a_forged_signature_is_found_by_git_and_by_us() {
    let pair = pair();
    let good = write(&pair.mirror, &[], "prod@1", &[("a", "1")]);
    let stored = pair.mirror.commit(good).unwrap();
    let signature = stored.signature.unwrap();
    let payload = String::from_utf8(stored.signed_payload).unwrap();
    let header = format!("gpgsig {}\n", signature.trim_end().replace('\n', "\n "));
    for (forged, is_read) in [
        (payload.replace("prod@1", "prod@2"), true),
        (payload.replace("towpath in test", "somebody"), true),
        (payload.replacen("\n\n", &format!("\nparent {good}\n\n"), 1), false),
        (payload.replacen("\n\n", "\nextra header\n\n", 1), true),
    ] {
        let text = forged.replacen("\n\n", &format!("\n{header}\n"), 1);
        let id = commit_id(pair.server.raw_object(ObjectType::Commit, text.as_bytes()));
        pair.server.raw_object(ObjectType::Tree, &tree_bytes(&pair, good));
        pair.server.blob(b"1");
        pair.server.force("forged", id);
        if !is_read {
            let fetched = pair.mirror.fetch(&[("forged".into(), id)]);
            assert!(fetched.is_err() || pair.mirror.commit(id).unwrap_err().fault == Fault::Content);
            continue;
        }
        pair.mirror.fetch(&[("forged".into(), id)]).unwrap();
        let found = pair.mirror.commit(id).unwrap();
        let verified =
            signature::verify(&key().public(), signature::GIT, &found.signed_payload, &found.signature.unwrap());
        assert!(verified.unwrap_err().message.contains("does not fit"));
        let said = run_git(&mirror_folder(&pair), &key().public(), &["verify-commit", &id.to_string()]);
        assert!(!said.status.success());
    }
}

fn tree_bytes(pair: &Pair, commit: CommitId) -> Vec<u8> {
    let tree = pair.mirror.commit(commit).unwrap().tree;
    let git = git2::Repository::open_bare(mirror_folder(pair)).unwrap();
    let odb = git.odb().unwrap();
    odb.read(git2::Oid::from_bytes(tree.as_bytes()).unwrap()).unwrap().data().to_vec()
}

#[test]
fn a_commit_with_two_trees_or_two_signatures_is_refused() {
    let pair = pair();
    let good = pair.server.commit("develop", "first", &[("a", "1")]);
    pull(&pair.mirror);
    let text = String::from_utf8(pair.mirror.commit(good).unwrap().signed_payload).unwrap();
    let tree = &text[..=text.find('\n').unwrap()];
    let signed = "gpgsig one\ngpgsig two\n";
    let mut refused = 0;
    for bad in
        [text.replacen("author", &format!("{tree}author"), 1), text.replacen("\n\n", &format!("\n{signed}\n"), 1)]
    {
        let id = commit_id(pair.server.raw_object(ObjectType::Commit, bad.as_bytes()));
        pair.server.force("bad", id);
        // libgit2 may refuse it sooner.
        let Ok(_) = pair.mirror.fetch(&[("bad".into(), id)]) else { continue };
        let problem = pair.mirror.commit(id).unwrap_err();
        assert!(problem.fault == Fault::Content && problem.message.contains("malformed"), "{problem}");
        refused += 1;
    }
    assert!(refused > 0, "libgit2 takes two signatures");
    let blob = CommitId::from_bytes(pair.server.blob(b"1").as_bytes().try_into().unwrap());
    assert!(pair.mirror.commit(blob).unwrap_err().message.contains("no commit"));
    let nowhere = CommitId::from_bytes([7; 20]);
    assert_eq!(pair.mirror.commit(nowhere).unwrap_err().fault, Fault::Passing);
}

#[test]
fn ten_thousand_files_are_one_pack_and_one_of_them_changed_is_a_small_one() {
    let pair = pair();
    let manifest = |number: usize, replicas: usize| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web-{number}\nspec:\n  replicas: {replicas}\n"
        )
    };
    let files = |changed: usize| {
        let mut tree = NewTree::default();
        for number in 0..10_000 {
            let content = manifest(number, if number == changed { 3 } else { 1 });
            tree.file(&format!("namespace-{}/apps.Deployment.web-{number}.yaml", number % 100), content.into_bytes())
                .unwrap();
        }
        tree
    };
    let objects = mirror_folder(&pair).join("objects");
    let before = count_files(&objects);
    let start = Instant::now();
    let first = write_tree(&pair.mirror, &[], "prod@1", &files(0)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(count_files(&objects) - before, 2, "one pack and its index");
    assert_eq!(pair.mirror.tree(first).unwrap().len(), 10_000);

    let start = Instant::now();
    let second = write_tree(&pair.mirror, &[first], "prod@2", &files(1)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let said = git_says(&mirror_folder(&pair), &["rev-list", "--objects", "--count", &format!("{first}..{second}")]);
    // The commit, the root, and in each of two folders the list and the file.
    assert_eq!(said.trim(), "6");
    let packs: Vec<u64> = std::fs::read_dir(objects.join("pack"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(packs.len() == 2 && packs.iter().any(|bytes| *bytes < 20_000), "{packs:?}");
    git_says(&mirror_folder(&pair), &["fsck", "--strict", &second.to_string()]);
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let pair = pair();
    let first = write(&pair.mirror, &[], "prod@1", &[("a", "1"), ("b/c", "2")]);
    let files = count_files(&mirror_folder(&pair));
    assert_eq!(write(&pair.mirror, &[], "prod@1", &[("a", "1"), ("b/c", "2")]), first);
    assert_eq!(count_files(&mirror_folder(&pair)), files);

    let id = pair.mirror.tree(first).unwrap().file("b/c").unwrap().id;
    let mut tree = NewTree::default();
    tree.known("b/d", id).unwrap();
    let second = write_tree(&pair.mirror, &[first], "prod@2", &tree).unwrap();
    assert_eq!(pair.mirror.tree(second).unwrap().text("b/d").unwrap(), Some("2"));
}

#[test]
fn what_is_not_there_cannot_be_referred_to() {
    let pair = pair();
    let nowhere = CommitId::from_bytes([7; 20]);
    let problem = write_tree(&pair.mirror, &[nowhere], "prod@1", &tree(&[("a", "1")])).unwrap_err();
    assert_eq!(problem.fault, Fault::Passing, "{problem}");
    let mut unknown = NewTree::default();
    unknown.known("a", towpath_core::revision::BlobId::from_bytes([7; 20])).unwrap();
    let problem = write_tree(&pair.mirror, &[], "prod@1", &unknown).unwrap_err();
    assert_eq!(problem.fault, Fault::Passing, "{problem}");
}

#[test]
fn a_batch_is_one_pack_and_may_build_on_itself() {
    let pair = pair();
    let trees: Vec<NewTree> = (0..100).map(|number| tree(&[("a", &number.to_string())])).collect();
    let commit = |tree, parents: Vec<CommitId>, message: &str| NewCommit {
        tree,
        parents,
        author: towpath(),
        committer: towpath(),
        message: message.to_owned(),
        sign: None,
    };
    let new: Vec<NewCommit<'_>> = trees.iter().map(|tree| commit(tree, Vec::new(), "one")).collect();
    let before = count_files(&mirror_folder(&pair));
    let ids = pair.mirror.write_commits(&new).unwrap();
    assert_eq!((ids.len(), count_files(&mirror_folder(&pair)) - before), (100, 2));
    let first = commit(&trees[0], Vec::new(), "first");
    let id = pair.mirror.write_commit(&first).unwrap();
    let both = pair.mirror.write_commits(&[first, commit(&trees[1], vec![id], "second")]).unwrap();
    assert_eq!(pair.mirror.commit(both[1]).unwrap().parents, [id]);
    assert_eq!(pair.mirror.commit(both[1]).unwrap().signature, None);
}

#[test]
fn a_signing_that_fails_writes_nothing() {
    let pair = pair();
    let files = count_files(&mirror_folder(&pair));
    let failed = pair.mirror.write_commit(&NewCommit {
        tree: &tree(&[("a", "1")]),
        parents: Vec::new(),
        author: towpath(),
        committer: towpath(),
        message: "prod@1".into(),
        sign: Some(&|_| Err(Problem::setup("there is no key"))),
    });
    assert_eq!(failed.unwrap_err().message, "there is no key");
    assert_eq!(count_files(&mirror_folder(&pair)), files);
}

#[test]
fn many_small_commits_leave_few_files_and_all_can_be_read() {
    let pair = pair();
    let mut commits: Vec<CommitId> = Vec::new();
    for number in 0..120 {
        let parent: Vec<CommitId> = commits.last().copied().into_iter().collect();
        commits.push(write(&pair.mirror, &parent, "prod", &[("a", &number.to_string())]));
    }
    assert!(count_files(&mirror_folder(&pair).join("objects")) <= 2 * 60);
    for (number, commit) in commits.iter().enumerate() {
        assert_eq!(pair.mirror.tree(*commit).unwrap().text("a").unwrap(), Some(number.to_string().as_str()));
    }
}

#[test]
fn the_key_is_one_that_ssh_keygen_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, key().to_openssh("towpath in test")).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let keygen = |arguments: &[&str]| {
        let output = std::process::Command::new("ssh-keygen").args(arguments).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(keygen(&["-y", "-f"]).trim(), format!("{} towpath in test", key().public()));
    assert!(keygen(&["-l", "-f"]).contains(&key().public().fingerprint()));
    keygen(&["-q", "-p", "-N", "", "-P", "", "-f"]);
    let written_by_ssh = std::fs::read_to_string(&file).unwrap();
    assert_eq!(SigningKey::from_openssh(&written_by_ssh).unwrap().public(), key().public());
}
