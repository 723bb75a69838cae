//! Mirrors that hold commits only, and commits that are on no branch.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use support::deploy_repo::{DeployRepo, oid};
use support::git_server::{Fault, GitServer, Purpose, git};
use tempfile::TempDir;
use towpath::repo::{Credentials, Login, Mirror, Outcome, Terms, Update};
use towpath_core::fault::{Fault as Who, Problem};
use towpath_core::revision::CommitId;

struct Served {
    repo: DeployRepo,
    server: GitServer,
    folder: TempDir,
}

/// A component behind http, whose server can leave out folders and files.
fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("served/web.git"));
    repo.git().config().unwrap().set_bool("uploadpack.allowFilter", true).unwrap();
    repo.commit("develop", "first", &[("a/b.txt", "1"), ("c.txt", "2")]);
    let server = GitServer::start(folder.path().join("served"));
    Served { repo, server, folder }
}

fn lean(folder: &TempDir, name: &str, address: &str) -> Mirror {
    let credentials = Login::Basic { username: "agent".into(), password: "secret".into() }.into();
    Mirror::open_commits_on(&folder.path().join(name), address.parse().unwrap(), credentials, Terms::default()).unwrap()
}

fn pull(mirror: &Mirror) {
    super::pull(mirror);
}

/// Objects of a mirror that are no commits.
fn besides_commits(mirror: &Path) -> usize {
    let git = git2::Repository::open_bare(mirror).unwrap();
    let odb = git.odb().unwrap();
    let mut count = 0;
    odb.foreach(|id| {
        count += usize::from(odb.read_header(*id).unwrap().1 != git2::ObjectType::Commit);
        true
    })
    .unwrap();
    count
}

/// Bytes that nothing makes smaller.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(step).take(length).collect()
}

/// Adds a long history to `develop`, of which each commit brings a new file.
fn import(repo: &DeployRepo, commits: usize, bytes_each: usize) {
    let mut child = git(repo.path())
        .current_dir(repo.path())
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = std::io::BufWriter::new(child.stdin.take().unwrap());
    for at in 0..commits {
        let mut head = format!("commit refs/heads/develop\ncommitter R <r@example.org> {} +0000\n", 1_768_000_000 + at);
        write!(head, "data 7\nchange\n").unwrap();
        if at == 0 {
            head += "from refs/heads/develop^0\n";
        }
        write!(head, "M 100644 inline {}/{}.bin\ndata {bytes_each}\n", at % 20, at % 400).unwrap();
        stdin.write_all(head.as_bytes()).unwrap();
        stdin.write_all(&noise(at as u64 + 1, bytes_each)).unwrap();
        stdin.write_all(b"\n").unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn of_a_long_history_with_large_files_only_the_commits_come() {
    const COMMITS: usize = 20_000;
    const FILES: usize = COMMITS * 2048;
    let Served { repo, server, folder } = served();
    let first = repo.head("develop");
    import(&repo, COMMITS, 2048);
    let git = repo.git();
    git.tag_lightweight("v1.0", &git.revparse_single("develop~12").unwrap(), false).unwrap();
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    server.take_sent();
    pull(&mirror);
    let sent = server.take_sent();
    assert!(sent > COMMITS * 20 && sent < FILES / 8, "{sent} bytes");
    assert_eq!(besides_commits(&folder.path().join("lean")), 0);
    let head = repo.head("develop");
    assert_eq!(mirror.count_between(first, head).unwrap(), COMMITS);
    let tags = mirror.look_at_component(["develop"]).unwrap().tags;
    assert_eq!(mirror.describe(head, &tags).unwrap().to_string(), format!("v1.0-12-{}", head.short()));

    repo.commit("develop", "one more", &[("large", &"x".repeat(100_000))]);
    repo.commit("develop", "and one", &[("c.txt", "3")]);
    server.take_sent();
    pull(&mirror);
    let sent = server.take_sent();
    assert!(sent < 2000, "{sent} bytes");
    assert!(mirror.contains(repo.head("develop")));
}

#[test]
fn a_server_that_sends_all_or_sends_it_some_time_is_read_too() {
    for version_0 in [false, true] {
        let Served { repo, server, folder } = served();
        let mut config = repo.git().config().unwrap();
        config.set_bool("uploadpack.allowFilter", false).unwrap();
        if version_0 {
            server.speak_only_version_0();
        }
        let mirror = lean(&folder, "lean", &server.url("web.git"));
        pull(&mirror);
        assert!(besides_commits(&folder.path().join("lean")) > 0);
        repo.commit("develop", "second", &[("c.txt", "3")]);
        pull(&mirror);
        assert!(mirror.contains(repo.head("develop")));
        drop(mirror);

        // Files that never came are not counted on: what is sent now is a difference to none of them.
        let text = |last: &str| (0..5000).map(|line| format!("{line}\n")).collect::<String>() + last;
        config.set_bool("uploadpack.allowFilter", true).unwrap();
        repo.commit("develop", "third", &[("long", &text("a"))]);
        let mirror = lean(&folder, "other", &server.url("web.git"));
        pull(&mirror);
        config.set_bool("uploadpack.allowFilter", false).unwrap();
        repo.commit("develop", "fourth", &[("long", &text("b"))]);
        drop(mirror);
        let mirror = lean(&folder, "other", &server.url("web.git"));
        pull(&mirror);
        assert!(mirror.contains(repo.head("develop")));
    }
}

#[test]
fn commits_come_alone_from_a_folder_too_and_have_no_files() {
    let Served { repo, server, folder } = served();
    for (name, address) in [("folder", repo.url()), ("http", server.url("web.git"))] {
        let mirror = lean(&folder, name, &address);
        pull(&mirror);
        repo.commit("develop", "more", &[("c.txt", name)]);
        repo.branch("r1.0", "develop");
        pull(&mirror);
        let head = repo.head("develop");
        assert_eq!(besides_commits(&folder.path().join(name)), 0, "{name}");
        assert_eq!(mirror.revision(head, "develop").unwrap().subject, "more");
        let refused = mirror.tree(head).unwrap_err();
        assert!(refused.fault() == Who::Setup && refused.to_string().contains("holds commits only"), "{refused}");
        assert!(mirror.contains(head), "a refusal is no damage");
        drop(mirror);
        // The same folder is not taken for a mirror with files.
        let whole = Mirror::open(&folder.path().join(name), address.parse().unwrap(), Credentials::default()).unwrap();
        assert!(!whole.contains(head));
        pull(&whole);
        assert!(whole.tree(head).is_ok());
    }
}

#[test]
fn a_history_of_commits_with_a_hole_is_not_taken() {
    let Served { repo, server, folder } = served();
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    pull(&mirror);
    let before = repo.head("develop");
    repo.commit("develop", "left out", &[("c.txt", "3")]);
    let head = repo.commit("develop", "head", &[("c.txt", "4")]);
    let git = repo.git();
    let mut pack = git.packbuilder().unwrap();
    pack.insert_object(oid(head), None).unwrap();
    let mut bytes = git2::Buf::new();
    pack.write_buf(&mut bytes).unwrap();
    server.misbehave(Some(Fault::ReplacePack(bytes.to_vec())));
    let problem = mirror.fetch(&[("develop".into(), head)]).unwrap_err();
    assert!(problem.fault == Who::Passing && problem.message.contains("incomplete"), "{problem}");
    assert!(mirror.contains(before) && !mirror.contains(head));
    server.misbehave(None);
    pull(&mirror);
    assert!(mirror.contains(head));
}

#[test]
fn a_branch_can_be_put_on_a_commit_that_the_server_has() {
    let Served { repo, server, folder } = served();
    for (name, address) in [("http", server.url("web.git")), ("folder", repo.url())] {
        let mirror = lean(&folder, name, &address);
        pull(&mirror);
        let head = repo.head("develop");
        let update = Update { name: format!("refs/heads/r1.3-{name}"), old: None, new: head };
        let outcome = mirror.push(&[update], &Credentials::default()).unwrap();
        assert_eq!(outcome, [Outcome::Done]);
        assert_eq!(repo.head(&format!("r1.3-{name}")), head);
        // A commit that the server has lost is refused by it.
        repo.delete_branch(&format!("r1.3-{name}"));
        let before = head;
        let lost = repo.commit("develop", "to be lost", &[("c.txt", name)]);
        pull(&mirror);
        repo.force("develop", before);
        prune(&repo);
        let update = Update { name: "refs/heads/lost".into(), old: None, new: lost };
        let outcome = mirror.push(&[update], &Credentials::default());
        assert!(!matches!(outcome.as_deref(), Ok([Outcome::Done])), "{outcome:?}");
        assert_eq!(repo.try_head("lost"), None);
        assert!(mirror.contains(lost));
    }
}

/// Throws away what no branch leads to.
fn prune(repo: &DeployRepo) {
    for arguments in [&["reflog", "expire", "--expire=all", "--all"][..], &["gc", "--quiet", "--prune=now"]] {
        assert!(git(repo.path()).arg("-C").arg(repo.path()).args(arguments).status().unwrap().success());
    }
}

#[track_caller]
fn check(problem: &Problem, who: Who, part: &str) {
    assert!(problem.fault == who && problem.to_string().contains(part), "{:?}: {problem}", problem.fault);
}

fn purposes(server: &GitServer) -> Vec<Purpose> {
    server.take_requests().iter().map(|request| request.purpose).collect()
}

#[test]
fn a_commit_that_comes_with_a_branch_or_is_here_is_asked_for_by_no_other_way() {
    let Served { repo, server, folder } = served();
    let pinned = repo.commit("develop", "pinned", &[("c.txt", "3")]);
    let head = repo.commit("develop", "head", &[("c.txt", "4")]);
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    mirror.heads().unwrap();
    server.take_requests();
    mirror.fetch_commit(pinned, &[("develop".into(), head)]).unwrap();
    assert!(mirror.contains(pinned) && mirror.contains(head));
    assert_eq!(purposes(&server), [Purpose::Fetch]);
    mirror.fetch_commit(pinned, &[("develop".into(), head)]).unwrap();
    assert_eq!(purposes(&server), []);
}

#[test]
fn a_commit_on_no_branch_comes_by_its_id_and_stays() {
    let Served { repo, server, folder } = served();
    let first = repo.head("develop");
    let pinned = repo.commit("feature", "pinned", &[("c.txt", "3")]);
    repo.delete_branch("feature");
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    mirror.fetch_commit(pinned, &[("develop".into(), first)]).unwrap();
    assert!(mirror.contains(pinned));
    assert!(folder.path().join(format!("lean/refs/kept/{pinned}")).exists());
    // An old server that gives every commit, too; and a folder.
    server.speak_only_version_0();
    repo.git().config().unwrap().set_bool("uploadpack.allowAnySHA1InWant", true).unwrap();
    for (name, address) in [("old", server.url("web.git")), ("folder", repo.url())] {
        let mirror = lean(&folder, name, &address);
        mirror.fetch_commit(pinned, &[("develop".into(), first)]).unwrap();
        assert!(mirror.contains(pinned), "{name}");
    }
}

#[test]
fn where_a_server_gives_no_commit_by_its_id_all_its_branches_are_looked_through() {
    let Served { repo, server, folder } = served();
    let first = repo.head("develop");
    let pinned = repo.commit("feature", "pinned", &[("c.txt", "3")]);
    repo.commit("feature", "above it", &[("c.txt", "4")]);
    server.speak_only_version_0();
    repo.git().config().unwrap().set_bool("uploadpack.allowAnySHA1InWant", false).unwrap();
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    mirror.fetch_commit(pinned, &[("develop".into(), first)]).unwrap();
    assert!(mirror.contains(pinned));

    // Once the branch is gone nothing helps, and who has it already keeps it.
    repo.delete_branch("feature");
    let other = lean(&folder, "other", &server.url("web.git"));
    let problem = other.fetch_commit(pinned, &[("develop".into(), first)]).unwrap_err();
    check(&problem, Who::Content, "no such commit on any branch");
    assert!(other.contains(first), "what could be had has come");
    mirror.fetch_commit(pinned, &[("develop".into(), first)]).unwrap();
}

#[test]
fn a_commit_that_the_server_no_longer_has_is_told_in_every_way_of_asking() {
    let Served { repo, server, folder } = served();
    let first = repo.head("develop");
    let lost = repo.commit("feature", "to be lost", &[("c.txt", "3")]);
    repo.delete_branch("feature");
    prune(&repo);
    for (name, address) in [("http", server.url("web.git")), ("folder", repo.url())] {
        let mirror = lean(&folder, name, &address);
        let problem = mirror.fetch_commit(lost, &[("develop".into(), first)]).unwrap_err();
        check(&problem, Who::Content, "push the commit, or move the submodule");
        assert!(mirror.contains(first) && !mirror.contains(lost));
        // Once somebody has pushed it, it comes.
        let again = repo.commit("feature", "pushed", &[("c.txt", name)]);
        mirror.fetch_commit(again, &[]).unwrap();
        repo.delete_branch("feature");
    }
    server.misbehave(Some(Fault::Status(503)));
    let mirror = lean(&folder, "away", &server.url("web.git"));
    check(&mirror.fetch_commit(lost, &[]).unwrap_err(), Who::Passing, "503");
    server.misbehave(None);
    // An answer that is cut short says nothing about the commit.
    server.misbehave(Some(Fault::CutPack(10)));
    assert_eq!(mirror.fetch_commit(first, &[]).unwrap_err().fault, Who::Passing);
}

#[test]
fn a_component_that_redirects_elsewhere_is_not_followed_and_no_credentials_go_there() {
    let Served { repo, server, folder } = served();
    let trap = GitServer::start(folder.path().join("served"));
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    let head = repo.head("develop");
    for knows_the_server in [false, true] {
        if knows_the_server {
            mirror.heads().unwrap();
        }
        server.misbehave(Some(Fault::Redirect(format!("http://localhost:{}", trap.port()))));
        server.take_requests();
        check(&mirror.look_at_component(["develop"]).unwrap_err(), Who::Setup, "redirects to localhost");
        check(&mirror.fetch_commit(head, &[]).unwrap_err(), Who::Setup, "redirects to localhost");
        check(&mirror.fetch_commit(head, &[("develop".into(), head)]).unwrap_err(), Who::Setup, "redirects");
        assert!(server.take_requests().iter().all(|request| request.authorization.is_some()));
        assert_eq!(trap.take_requests(), []);
        server.misbehave(None);
    }
    mirror.fetch_commit(head, &[]).unwrap();
}

#[test]
fn a_damaged_mirror_is_mended_on_the_way_to_a_commit() {
    let Served { repo, server, folder } = served();
    let pinned = repo.commit("feature", "pinned", &[("c.txt", "3")]);
    repo.delete_branch("feature");
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    pull(&mirror);
    mirror.fetch_commit(pinned, &[]).unwrap();
    drop(mirror);
    for entry in std::fs::read_dir(folder.path().join("lean/objects/pack")).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    let mirror = lean(&folder, "lean", &server.url("web.git"));
    mirror.fetch_commit(pinned, &[("develop".into(), repo.head("develop"))]).unwrap();
    assert!(mirror.contains(pinned) && mirror.contains(repo.head("develop")));
    let nowhere = CommitId::from_bytes([7; 20]);
    check(&mirror.fetch_commit(nowhere, &[]).unwrap_err(), Who::Content, "no such commit");
}
