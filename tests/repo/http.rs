//! Over http, against `git http-backend`.

use std::time::{Duration, Instant};

use support::deploy_repo::DeployRepo;
use support::git_server::{Fault, GitServer, Purpose};
use tempfile::TempDir;
use towpath::repo::{Credentials, Login, Mirror, Terms};
use towpath_core::fault::{Fault as Who, Problem};
use towpath_core::revision::CommitId;

use super::pull;

struct Served {
    repo: DeployRepo,
    server: GitServer,
    mirror: Mirror,
    folder: TempDir,
}

/// A deploy repository with one commit, behind http, and an empty mirror.
fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("served/deploy.git"));
    repo.commit("develop", "first", &[("a.yaml", "1"), ("folder/b.yaml", "2")]);
    let server = GitServer::start(folder.path().join("served"));
    let mirror = mirror(&folder, "mirror", &server.url("deploy.git"), Credentials::default());
    Served { repo, server, mirror, folder }
}

fn mirror(folder: &TempDir, name: &str, address: &str, credentials: Credentials) -> Mirror {
    Mirror::open(&folder.path().join(name), address.parse().unwrap(), credentials).unwrap()
}

/// A mirror that does not wait for long.
fn hasty(folder: &TempDir, address: &str) -> Mirror {
    let terms = Terms {
        connect: Duration::from_secs(2),
        idle: Duration::from_millis(400),
        whole: Duration::from_millis(900),
        first: Duration::from_millis(900),
        ..Terms::default()
    };
    Mirror::open_on(&folder.path().join("hasty"), address.parse().unwrap(), Credentials::default(), terms).unwrap()
}

fn basic(user: &str, password: &str) -> Credentials {
    Login::Basic { username: user.into(), password: password.into() }.into()
}

#[track_caller]
fn check_problem(problem: &Problem, who: Who, part: &str) {
    assert!(problem.fault == who && problem.to_string().contains(part), "{:?}: {problem}", problem.fault);
}

/// Everything below a folder, as text.
fn listing(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        found.extend(listing(&entry.path()));
    }
    found.sort();
    found
}

#[test]
fn a_commit_is_fetched_and_read() {
    let Served { repo, server: _server, mirror, folder: _folder } = served();
    pull(&mirror);
    let second = repo.commit("develop", "second", &[("a.yaml", "changed")]);
    let moved = pull(&mirror);
    assert_eq!((moved.len(), moved[0].to, moved[0].rewritten), (1, second, false));
    let tree = mirror.tree(second).unwrap();
    assert_eq!(tree.text("a.yaml").unwrap(), Some("changed"));
    assert_eq!(tree.text("folder/b.yaml").unwrap(), Some("2"));
}

#[test]
fn a_look_without_news_is_one_request_and_a_fetch_one_more() {
    let Served { repo, server, mirror, folder: _folder } = served();
    pull(&mirror);
    server.take_requests();
    assert!(pull(&mirror).is_empty());
    let purposes =
        |server: &GitServer| server.take_requests().iter().map(|request| request.purpose).collect::<Vec<_>>();
    assert_eq!(purposes(&server), [Purpose::Refs]);
    repo.commit("develop", "second", &[("a.yaml", "2")]);
    pull(&mirror);
    assert_eq!(purposes(&server), [Purpose::Refs, Purpose::Fetch]);
    assert_eq!(server.connections(), 1, "the connection is kept");
}

#[test]
fn a_server_of_version_0_is_read_too() {
    let Served { repo, server, mirror, folder: _folder } = served();
    server.speak_only_version_0();
    pull(&mirror);
    let second = repo.commit("develop", "second", &[("a.yaml", "2")]);
    let other = repo.commit("r1.0", "other", &[("x", "y")]);
    assert_eq!(pull(&mirror).len(), 2);
    // With more than one commit here that the server has, too.
    repo.commit("r1.0", "another", &[("x", "z")]);
    repo.commit("r1.0", "and another", &[("x", "z")]);
    assert_eq!(pull(&mirror).len(), 1);
    repo.commit("r1.0", "and one more", &[("x", "y")]);
    assert_eq!(pull(&mirror).len(), 1);
    assert_eq!(mirror.tree(second).unwrap().text("a.yaml").unwrap(), Some("2"));
    assert_eq!(mirror.tree(other).unwrap().len(), 1);
}

#[test]
fn an_empty_repository_has_no_branches_in_either_version() {
    let Served { server, folder, .. } = served();
    DeployRepo::new(folder.path().join("served/empty.git"));
    let version_2 = mirror(&folder, "mirror-2", &server.url("empty.git"), Credentials::default());
    assert!(version_2.heads().unwrap().is_empty());
    server.speak_only_version_0();
    let version_0 = mirror(&folder, "mirror-0", &server.url("empty.git"), Credentials::default());
    assert!(version_0.heads().unwrap().is_empty());
}

#[test]
fn many_branches_and_a_forced_one_are_fetched_at_once() {
    let Served { repo, server: _server, mirror, folder: _folder } = served();
    for number in 0..30 {
        repo.commit(&format!("r1.{number}"), "release", &[("n", &number.to_string())]);
    }
    assert_eq!(pull(&mirror).len(), 31);
    let old = repo.commit("develop", "to be lost", &[("a.yaml", "2")]);
    pull(&mirror);
    repo.force("develop", repo.head("r1.3"));
    let new = repo.commit("develop", "other history", &[("a.yaml", "3")]);
    let moved = pull(&mirror);
    assert_eq!((moved[0].from, moved[0].to, moved[0].rewritten), (Some(old), new, true));
    assert!(mirror.contains(old) && mirror.tree(old).is_ok());
}

#[test]
fn a_branch_that_moves_between_look_and_fetch_is_fetched_as_it_was_seen() {
    for version_0 in [false, true] {
        let Served { repo, server, mirror, folder: _folder } = served();
        if version_0 {
            server.speak_only_version_0();
        }
        let seen = repo.head("develop");
        repo.commit("develop", "later", &[("a.yaml", "2")]);
        mirror.fetch(&[("develop".into(), seen)]).unwrap();
        assert!(mirror.contains(seen));
    }
}

#[test]
fn a_branch_that_is_gone_changes_nothing_here() {
    let Served { repo, server: _server, mirror, folder: _folder } = served();
    let head = repo.head("develop");
    repo.branch("r1.0", "develop");
    pull(&mirror);
    repo.delete_branch("develop");
    assert_eq!(mirror.heads().unwrap().keys().collect::<Vec<_>>(), ["r1.0"]);
    assert!(pull(&mirror).is_empty() && mirror.contains(head));
    let again = repo.commit("develop", "other history", &[("z", "1")]);
    let moved = pull(&mirror);
    assert_eq!((moved[0].from, moved[0].to, moved[0].rewritten), (Some(head), again, true));
}

#[test]
fn a_branch_may_take_the_place_of_a_folder_of_branches() {
    let Served { repo, server: _server, mirror, folder: _folder } = served();
    repo.branch("a/b", "develop");
    pull(&mirror);
    repo.delete_branch("a/b");
    repo.branch("a", "develop");
    assert_eq!(pull(&mirror)[0].branch, "a");
}

#[test]
fn ten_thousand_branches_are_listed_and_one_is_fetched() {
    let Served { repo, server: _server, mirror, folder: _folder } = served();
    let head = repo.head("develop");
    let packed: String = (0..10_000).map(|number| format!("{head} refs/heads/r{number}.0\n")).collect();
    std::fs::write(repo.path().join("packed-refs"), format!("# pack-refs with: peeled fully-peeled sorted \n{packed}"))
        .unwrap();
    assert_eq!(mirror.heads().unwrap().len(), 10_001);
    assert_eq!(mirror.fetch(&[("r7.0".into(), head)]).unwrap().len(), 1);
}

#[test]
fn wrong_credentials_are_told_and_not_tried_for_ever() {
    let Served { server, folder, .. } = served();
    server.require_login("deploy.git", "agent", "right");
    let anonymous = mirror(&folder, "anonymous", &server.url("deploy.git"), Credentials::default());
    check_problem(&anonymous.heads().unwrap_err(), Who::Setup, "asks for credentials");
    let refused = mirror(&folder, "refused", &server.url("deploy.git"), basic("agent", "wrong"));
    server.take_requests();
    for _ in 0..10 {
        let problem = refused.heads().unwrap_err();
        check_problem(&problem, Who::Setup, "credentials refused");
        assert!(!problem.to_string().contains("wrong"), "{problem}");
    }
    assert_eq!(server.take_requests().len(), 3);
    refused.set_credentials(basic("agent", "right")).unwrap();
    assert_eq!(pull(&refused).len(), 1);
}

#[test]
fn rotated_credentials_are_used_from_the_next_request_on() {
    let Served { repo, server, folder, .. } = served();
    server.require_login("deploy.git", "agent", "old");
    let mirror = mirror(&folder, "other", &server.url("deploy.git"), basic("agent", "old"));
    pull(&mirror);
    server.require_login("deploy.git", "agent", "new");
    check_problem(&mirror.heads().unwrap_err(), Who::Setup, "credentials refused");
    mirror.set_credentials(basic("agent", "new")).unwrap();
    let second = repo.commit("develop", "second", &[("a.yaml", "2")]);
    pull(&mirror);
    assert!(mirror.contains(second));
}

#[test]
fn the_same_credentials_again_keep_the_connection() {
    let Served { server, folder, .. } = served();
    let mirror = mirror(&folder, "other", &server.url("deploy.git"), basic("agent", "x"));
    for _ in 0..3 {
        mirror.set_credentials(basic("agent", "x")).unwrap();
        mirror.heads().unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn two_repositories_on_one_host_do_not_mix_their_credentials() {
    let Served { server, folder, .. } = served();
    let other = DeployRepo::new(folder.path().join("served/other.git"));
    other.commit("develop", "first", &[("a", "1")]);
    server.require_login("deploy.git", "one", "1");
    server.require_login("other.git", "two", "2");
    let one = mirror(&folder, "one", &server.url("deploy.git"), basic("one", "1"));
    let two = mirror(&folder, "two", &server.url("other.git"), basic("two", "2"));
    std::thread::scope(|scope| {
        for mirror in [&one, &two, &one, &two] {
            scope.spawn(|| (0..5).for_each(|_| drop(pull(mirror))));
        }
    });
    let requests = server.take_requests();
    assert!(requests.len() >= 20);
    for request in requests {
        let own = if request.target.starts_with("/deploy.git") { "Basic b25lOjE=" } else { "Basic dHdvOjI=" };
        assert_eq!(request.authorization.as_deref(), Some(own), "{request:?}");
    }
}

#[test]
fn a_redirect_is_refused_and_the_other_host_gets_nothing() {
    let Served { server, folder, .. } = served();
    let trap = GitServer::start(folder.path().join("served"));
    trap.misbehave(Some(Fault::Status(401)));
    server.misbehave(Some(Fault::Redirect(format!("http://localhost:{}", trap.port()))));
    let mirror = mirror(&folder, "other", &server.url("deploy.git"), basic("agent", "secret"));
    let problem = mirror.heads().unwrap_err();
    check_problem(&problem, Who::Setup, "redirects to localhost");
    check_problem(&problem, Who::Setup, &format!("set the url to http://localhost:{}/deploy.git", trap.port()));
    assert_eq!(trap.take_requests(), []);
}

#[test]
fn a_web_page_is_no_repository() {
    let Served { server, mirror, folder: _folder, .. } = served();
    server.misbehave(Some(Fault::Html));
    check_problem(&mirror.heads().unwrap_err(), Who::Setup, "web page");
    server.misbehave(None);
    mirror.heads().unwrap();
    server.misbehave(Some(Fault::Html));
    check_problem(&mirror.heads().unwrap_err(), Who::Setup, "web page");
}

#[test]
fn a_status_says_who_must_act() {
    let Served { server, mirror, folder: _folder, .. } = served();
    for (status, who) in
        [(404, Who::Setup), (400, Who::Setup), (429, Who::Passing), (500, Who::Passing), (503, Who::Passing)]
    {
        server.misbehave(Some(Fault::Status(status)));
        check_problem(&mirror.heads().unwrap_err(), who, &status.to_string());
    }
    server.misbehave(None);
    assert_eq!(mirror.heads().unwrap().len(), 1);
}

#[test]
fn a_repository_that_is_not_there_is_told() {
    let Served { server, folder, .. } = served();
    let mirror = mirror(&folder, "other", &server.url("nothing.git"), Credentials::default());
    check_problem(&mirror.heads().unwrap_err(), Who::Setup, "no git repository");
}

#[test]
fn a_server_that_is_gone_and_back_is_read_again() {
    let Served { repo, server, mirror, folder } = served();
    pull(&mirror);
    let port = server.port();
    drop(server);
    check_problem(&mirror.heads().unwrap_err(), Who::Passing, "cannot be reached");
    let second = repo.commit("develop", "second", &[("a.yaml", "2")]);
    let _server = loop {
        // The old listener ends in its own time.
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            break GitServer::start_on(folder.path().join("served"), port);
        }
    };
    pull(&mirror);
    assert!(mirror.contains(second));
}

#[test]
fn a_server_that_is_slow_in_any_way_is_given_up_in_time() {
    let Served { server, folder, .. } = served();
    let mirror = hasty(&folder, &server.url("deploy.git"));
    for fault in [Fault::Silence, Fault::Delay(Duration::from_secs(2)), Fault::Drip(Duration::from_millis(100))] {
        server.misbehave(Some(fault.clone()));
        let start = Instant::now();
        check_problem(&mirror.heads().unwrap_err(), Who::Passing, "the git server");
        assert!(start.elapsed() < Duration::from_secs(3), "{fault:?}: {:?}", start.elapsed());
    }
}

#[test]
fn a_pack_that_is_cut_anywhere_changes_nothing() {
    let Served { repo, server, mirror, folder } = served();
    pull(&mirror);
    let first = repo.head("develop");
    // More than fits into one buffer, and no two lines alike.
    let long: String =
        (0..20_000).map(|number: u64| format!("{}\n", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let second = repo.commit("develop", "second", &[("long", &long)]);
    let before = listing(&folder.path().join("mirror"));
    let wanted = [("develop".to_owned(), second)];
    let faults = [
        Fault::CutPack(1),
        Fault::CutPack(30),
        Fault::CutPack(1024),
        Fault::CutPack(60_000),
        Fault::ShortenPack(30),
        Fault::ShortenPack(60_000),
        Fault::FlipPack(3),
        Fault::FlipPack(25),
        Fault::FlipPack(40),
        Fault::FlipPack(60_000),
        Fault::ReplacePack(b"PACK".to_vec()),
        Fault::ReplacePack(b"PACK\0\0\0\x02\0\0\0\x05".to_vec()),
        Fault::ReplacePack(vec![0; 100_000]),
        Fault::ReplacePack(missing_base()),
    ];
    for fault in faults {
        server.misbehave(Some(fault.clone()));
        let problem = mirror.fetch(&wanted).expect_err(&format!("{fault:?}"));
        assert_eq!(problem.fault, Who::Passing, "{fault:?}: {problem}");
        assert_eq!(listing(&folder.path().join("mirror")), before, "{fault:?}");
        assert!(mirror.contains(first) && !mirror.contains(second), "{fault:?}");
    }
    server.misbehave(None);
    mirror.fetch(&wanted).unwrap();
    assert_eq!(mirror.tree(second).unwrap().text("long").unwrap(), Some(long.as_str()));
}

/// A pack with one difference against an object that nobody has.
fn missing_base() -> Vec<u8> {
    // Copies one byte of a base of one byte.
    pack_of(&[[vec![0x74], vec![7; 20], zlib_stored(&[1, 1, 0x90, 1])].concat()])
}

/// A pack with a right trailer.
fn pack_of(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut pack = [b"PACK\0\0\0\x02".as_slice(), &(objects.len() as u32).to_be_bytes(), &objects.concat()].concat();
    pack.extend(git2::Oid::from_str(&sha1_by_git(&pack)).unwrap().as_bytes());
    pack
}

fn sha1_by_git(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new("sha1sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..40].to_owned()
}

/// A zlib stream without compression.
fn zlib_stored(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u16).to_le_bytes();
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let check = ((b << 16) | a).to_be_bytes();
    [&[0x78, 0x01, 1], &length[..], &length.map(|byte| !byte)[..], bytes, &check[..]].concat()
}

#[test]
fn a_pack_that_would_unpack_to_gigabytes_is_refused() {
    let Served { repo, server, mirror, folder: _folder } = served();
    // A difference of eight bytes whose result would have 2^34.
    let bomb = [vec![0x78], vec![7; 20], zlib_stored(&[1, 0x80, 0x80, 0x80, 0x80, 0x40, 0x90, 1])].concat();
    server.misbehave(Some(Fault::ReplacePack(pack_of(&[bomb]))));
    let problem = mirror.fetch(&[("develop".into(), repo.head("develop"))]).unwrap_err();
    check_problem(&problem, Who::Content, "too much");
}

#[test]
fn a_pack_without_the_wanted_commit_changes_nothing() {
    let Served { repo, server, mirror, folder: _folder } = served();
    server.misbehave(Some(Fault::ReplacePack(pack_of(&[]))));
    let problem = mirror.fetch(&[("develop".into(), repo.head("develop"))]).unwrap_err();
    check_problem(&problem, Who::Passing, "incomplete");
    server.misbehave(None);
    pull(&mirror);
    assert!(mirror.contains(repo.head("develop")));
}

#[test]
fn a_history_with_holes_is_not_taken_and_harms_nothing() {
    let Served { repo, server: _server, mirror, folder: _folder } = served();
    pull(&mirror);
    let first = repo.head("develop");
    let hole = git2::Oid::from_bytes(&[9; 20]).unwrap();
    let good = repo.blob(b"here");
    let tree = repo.raw_tree(&[("100644", b"good", good), ("100644", b"hole", hole)]);
    let head = repo.commit_tree("develop", "a hole", tree);
    let problem = mirror.fetch(&[("develop".into(), head)]).unwrap_err();
    assert_eq!(problem.fault, Who::Passing, "{problem}");
    assert!(mirror.tree(first).is_ok());
    repo.force("develop", first);
    let next = repo.commit("develop", "mended", &[("a.yaml", "2")]);
    pull(&mirror);
    assert!(mirror.tree(next).is_ok());
}

#[test]
fn a_list_of_branches_that_is_garbled_is_refused_and_never_a_shorter_list() {
    let Served { server, mirror, folder: _folder, .. } = served();
    mirror.heads().unwrap();
    for refs in ["", "00", "zzzz", "0009ERR x", "0001", "0006x\n0000"] {
        server.misbehave(Some(Fault::ReplaceRefs(refs.into())));
        let problem = mirror.heads().expect_err(refs);
        assert_eq!(problem.fault, Who::Passing, "{problem}");
        server.misbehave(None);
        mirror.heads().unwrap();
    }
}

#[test]
fn a_million_refs_are_cut_off() {
    let Served { server, mirror, folder: _folder, .. } = served();
    mirror.heads().unwrap();
    let id = "1".repeat(40);
    let refs: String = (0..1_000_000).map(|number| format!("0041{id} refs/heads/r{number:07}\n")).collect();
    assert_eq!(refs.len(), 1_000_000 * 0x41);
    server.misbehave(Some(Fault::ReplaceRefs(refs.into_bytes())));
    let start = Instant::now();
    check_problem(&mirror.heads().unwrap_err(), Who::Setup, "longer than 16777216 bytes");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn only_what_a_branch_needs_is_fetched() {
    let Served { repo, server: _server, mirror, folder: _folder } = served();
    let other = repo.commit("other", "other", &[("b", "2")]);
    mirror.fetch(&[("develop".into(), repo.head("develop"))]).unwrap();
    assert!(!mirror.contains(other));
}

#[test]
fn a_commit_that_nobody_has_is_retried() {
    for version_0 in [false, true] {
        let Served { repo: _repo, server, mirror, folder: _folder } = served();
        if version_0 {
            server.speak_only_version_0();
        }
        let nowhere = CommitId::from_bytes([7; 20]);
        let problem = mirror.fetch(&[("develop".into(), nowhere)]).unwrap_err();
        assert_eq!(problem.fault, Who::Passing, "{problem}");
    }
}

#[test]
fn a_token_with_a_line_end_and_a_bad_authority_are_told_at_once() {
    let Served { server, folder, .. } = served();
    let open = |credentials: Credentials| {
        let address = server.url("deploy.git").parse().unwrap();
        Mirror::open(&folder.path().join("other"), address, credentials).map(drop).unwrap_err()
    };
    check_problem(&open(Login::Bearer("secret\n".into()).into()), Who::Setup, "line end");
    let authority = Credentials { login: Login::None, certificate_authorities: Some("no pem".into()) };
    check_problem(&open(authority), Who::Setup, "certificate authorities");
    let key = Login::SshKey { private_key: "x".into(), known_hosts: "y".into() };
    check_problem(&open(key.into()), Who::Setup, "no login");
}

#[test]
fn over_tls_only_a_trusted_certificate_is_taken() {
    let Served { folder, .. } = served();
    let trusting = || Credentials {
        login: Login::Basic { username: "agent".into(), password: "secret".into() },
        certificate_authorities: Some(GitServer::authority().to_owned()),
    };
    let root = folder.path().join("served");
    let good = GitServer::start_tls(&root, "good");
    let ours = mirror(&folder, "ours", &good.url("deploy.git"), trusting());
    assert_eq!(pull(&ours).len(), 1);

    let stranger = mirror(&folder, "stranger", &good.url("deploy.git"), basic("agent", "secret"));
    check_problem(&stranger.heads().unwrap_err(), Who::Setup, "not trusted");
    for certificate in ["expired", "other-name"] {
        let bad = GitServer::start_tls(&root, certificate);
        let mirror = mirror(&folder, certificate, &bad.url("deploy.git"), trusting());
        check_problem(&mirror.heads().unwrap_err(), Who::Setup, "not trusted");
        assert_eq!(bad.take_requests(), [], "nothing is sent to it");
    }
}

#[test]
fn the_mirror_of_another_address_is_not_used() {
    let Served { repo, server, mirror: first, folder } = served();
    pull(&first);
    let head = repo.head("develop");
    assert!(first.contains(head));
    drop(first);
    DeployRepo::new(folder.path().join("served/other.git"));
    let second = mirror(&folder, "mirror", &server.url("other.git"), Credentials::default());
    assert!(!second.contains(head) && second.heads().unwrap().is_empty());
}

#[tokio::test]
async fn a_mirror_may_be_dropped_where_nothing_may_block() {
    let open_and_pull = || {
        let served = served();
        pull(&served.mirror);
        served
    };
    let served = tokio::task::spawn_blocking(open_and_pull).await.unwrap();
    drop(served.mirror);
}
