//! The door to git against a real server, and against what a hostile one or a hostile commit could do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use git2::{FileMode, Oid};
use support::deploy_repo::DeployRepo;
use support::git_server::{Fault, GitServer};
use towpath::repo::{Credentials, Mirror, Remote};
use towpath_core::fault::{self, Problem, Problems};
use towpath_core::revision::CommitId;
use towpath_core::tree::Tree;

struct Scene {
    folder: tempfile::TempDir,
    repo: DeployRepo,
    server: GitServer,
}

impl Scene {
    async fn new() -> Scene {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let repo = DeployRepo::new(&folder.path().join("deploy.git"));
        let server = GitServer::start(folder.path()).await.unwrap();
        Scene { folder, repo, server }
    }

    fn mirror_of(&self, url: &str, name: &str, credentials: Credentials) -> Arc<Mirror> {
        let remote = Remote::parse(url).unwrap();
        let folder = self.folder.path().join(name);
        Arc::new(Mirror::open(&folder, remote, credentials, &PathBuf::from("ssh")).unwrap())
    }

    fn mirror(&self) -> Arc<Mirror> {
        self.mirror_of(&self.server.url("deploy.git"), "mirror.git", Credentials::default())
    }
}

/// Runs a blocking call beside the runtime, as the agent does.
async fn call<T: Send + 'static>(mirror: &Arc<Mirror>, work: impl FnOnce(&Mirror) -> T + Send + 'static) -> T {
    let mirror = mirror.clone();
    tokio::task::spawn_blocking(move || work(&mirror)).await.unwrap()
}

/// Looks, fetches every branch, and gives the head of one.
async fn pull(mirror: &Arc<Mirror>, branch: &str) -> Result<CommitId, Problem> {
    let branch = branch.to_owned();
    call(mirror, move |mirror| {
        let heads = mirror.heads()?;
        let wanted: Vec<_> = heads.iter().map(|(name, commit)| (name.clone(), *commit)).collect();
        mirror.fetch(&wanted)?;
        Ok(heads[&branch])
    })
    .await
}

async fn tree(mirror: &Arc<Mirror>, commit: CommitId) -> Result<Arc<Tree>, Problems> {
    call(mirror, move |mirror| mirror.tree(commit)).await
}

/// What is said of the tree at the head of `master`.
async fn refused(scene: &Scene) -> String {
    let mirror = scene.mirror_of(&scene.repo.url(), "mirror-local.git", Credentials::default());
    let commit = pull(&mirror, "master").await.unwrap();
    tree(&mirror, commit).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_pulled_over_http_with_a_login() {
    let scene = Scene::new().await;
    scene.server.login("ada", "secret");
    let first = scene.repo.commit("master", "First\n\nwith a body", &[("a/b.yaml", "x"), ("c", "y")]);
    let mirror = scene.mirror_of(&scene.server.url("deploy.git"), "m.git", Credentials::basic("ada", "secret"));
    let commit = pull(&mirror, "master").await.unwrap();
    assert_eq!(commit.to_string(), first.to_string());
    let found = tree(&mirror, commit).await.unwrap();
    assert_eq!(found.text("a/b.yaml").unwrap(), Some("x"));
    let revision = call(&mirror, move |mirror| mirror.revision(commit, "master")).await.unwrap();
    assert_eq!((revision.subject.as_str(), revision.author.as_str()), ("First", "Ada"));

    let second = scene.repo.commit("master", "Second", &[("c", "z")]);
    assert_eq!(pull(&mirror, "master").await.unwrap().to_string(), second.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_without_news_is_one_request_however_many_references_there_are() {
    let scene = Scene::new().await;
    let head = scene.repo.commit("master", "first", &[("a", "x")]);
    for number in 0..500 {
        scene.repo.git().reference(&format!("refs/merge-requests/{number}/head"), head, true, "").unwrap();
    }
    let mirror = scene.mirror();
    call(&mirror, |mirror| mirror.heads()).await.unwrap();
    let before = scene.server.requests();
    let heads = call(&mirror, |mirror| mirror.heads()).await.unwrap();
    assert_eq!(scene.server.requests() - before, 1);
    assert_eq!(heads.keys().collect::<Vec<_>>(), ["master"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_wanted_branches_are_fetched() {
    let scene = Scene::new().await;
    let master = scene.repo.commit("master", "first", &[("a", "x")]);
    let other = scene.repo.commit("feature", "other", &[("b", "y")]);
    let mirror = scene.mirror();
    call(&mirror, move |mirror| {
        let heads = mirror.heads().unwrap();
        mirror.fetch(&[("master".into(), heads["master"])]).unwrap();
        assert!(mirror.contains(master.to_string().parse().unwrap()));
        assert!(!mirror.contains(other.to_string().parse().unwrap()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_rotated_credentials_are_told_from_a_server_that_is_away() {
    let scene = Scene::new().await;
    scene.repo.commit("master", "first", &[("a", "x")]);
    scene.server.login("ada", "old");
    let mirror = scene.mirror_of(&scene.server.url("deploy.git"), "m.git", Credentials::basic("ada", "old"));
    pull(&mirror, "master").await.unwrap();

    scene.server.login("ada", "new");
    let problem = pull(&mirror, "master").await.unwrap_err();
    assert_eq!(problem.fault, fault::Fault::Setup);
    assert!(problem.message.contains("refuses the credentials"), "{problem}");
    assert!(!problem.to_string().contains("old"), "{problem}");
    mirror.set_credentials(Credentials::basic("ada", "new")).unwrap();
    pull(&mirror, "master").await.unwrap();

    scene.server.fault(Some(Fault::Status(503)));
    assert_eq!(pull(&mirror, "master").await.unwrap_err().fault, fault::Fault::Passing);
    scene.server.fault(Some(Fault::Page));
    let problem = pull(&mirror, "master").await.unwrap_err();
    assert!(problem.message.contains("which is not git"), "{problem}");
    scene.server.fault(None);
    pull(&mirror, "master").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_repositories_on_one_host_do_not_share_credentials() {
    let scene = Scene::new().await;
    scene.repo.commit("master", "first", &[("a", "x")]);
    let url = scene.server.url("deploy.git");
    let one = scene.mirror_of(&url, "one.git", Credentials::basic("one", "1"));
    let two = scene.mirror_of(&url, "two.git", Credentials::basic("two", "2"));
    scene.server.login("one", "1");
    pull(&one, "master").await.unwrap();
    assert!(pull(&two, "master").await.is_err());
    scene.server.login("two", "2");
    assert!(pull(&one, "master").await.is_err());
    pull(&two, "master").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_refused_and_no_credentials_leave_the_host() {
    let scene = Scene::new().await;
    let elsewhere = GitServer::start(scene.folder.path()).await.unwrap();
    elsewhere.login("nobody", "x");
    scene.repo.commit("master", "first", &[("a", "x")]);
    let mirror = scene.mirror_of(&scene.server.url("deploy.git"), "m.git", Credentials::basic("ada", "secret"));
    pull(&mirror, "master").await.unwrap();
    let target = format!("{}/info/refs?service=git-upload-pack", elsewhere.url("deploy.git"));
    scene.server.fault(Some(Fault::Redirect(target)));
    for _ in 0..2 {
        let problem = pull(&mirror, "master").await.unwrap_err();
        assert!(problem.message.contains("redirects are not followed"), "{problem}");
        assert_eq!(problem.fault, fault::Fault::Setup);
    }
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_leaves_the_old_state_and_nothing_behind() {
    let scene = Scene::new().await;
    scene.repo.commit("master", "first", &[("a", "x")]);
    let mirror = scene.mirror();
    let first = pull(&mirror, "master").await.unwrap();
    // Content that does not compress, so that the faults hit it and not what the server says beside it.
    let noise: String = (0..2000u64).map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    scene.repo.commit("master", "second", &[("a", &noise), ("b", "z")]);
    for fault in [
        Fault::CutPack(1),
        Fault::CutPack(1000),
        Fault::CutPack(usize::MAX),
        Fault::FlipPack(1000),
        Fault::FlipPack(5000),
    ] {
        scene.server.fault(Some(fault.clone()));
        let result = pull(&mirror, "master").await;
        assert!(result.is_err(), "{fault:?}");
        assert_eq!(tree(&mirror, first).await.unwrap().text("a").unwrap(), Some("x"), "{fault:?}");
    }
    scene.server.fault(None);
    let second = pull(&mirror, "master").await.unwrap();
    assert_eq!(tree(&mirror, second).await.unwrap().text("b").unwrap(), Some("z"));
    let packs = std::fs::read_dir(scene.folder.path().join("mirror.git/objects/pack")).unwrap();
    let left: Vec<_> = packs
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().contains("git2_"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_branch_is_told_with_both_commits_and_the_old_one_stays() {
    let scene = Scene::new().await;
    let base = scene.repo.commit("master", "base", &[("a", "1")]);
    let old = scene.repo.commit("master", "old", &[("a", "2")]);
    let mirror = scene.mirror();
    let before = pull(&mirror, "master").await.unwrap();
    scene.repo.force("master", base);
    let new = scene.repo.commit("master", "new", &[("a", "3")]);
    let moved = call(&mirror, |mirror| {
        let heads = mirror.heads().unwrap();
        mirror.fetch(&[("master".into(), heads["master"])]).unwrap()
    })
    .await;
    assert!(moved[0].rewritten);
    assert_eq!(moved[0].from.map(|from| from.to_string()), Some(old.to_string()));
    assert_eq!(moved[0].to.to_string(), new.to_string());
    assert_eq!(tree(&mirror, before).await.unwrap().text("a").unwrap(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_has_no_branches_and_is_no_error() {
    let scene = Scene::new().await;
    assert!(call(&scene.mirror(), |mirror| mirror.heads()).await.unwrap().is_empty());
    let local = scene.mirror_of(&scene.repo.url(), "local.git", Credentials::default());
    assert!(call(&local, |mirror| mirror.heads()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_branches_with_odd_names_are_no_trouble() {
    let scene = Scene::new().await;
    let head = scene.repo.commit("master", "first", &[("a", "x")]);
    let packed: String = (0..10_000).map(|number| format!("{head} refs/heads/b{number}\n")).collect();
    let packed = format!("# pack-refs with: peeled fully-peeled sorted \n{packed}{head} refs/heads/m\u{430}ster\n");
    std::fs::write(scene.repo.path().join("packed-refs"), packed).unwrap();
    let heads = call(&scene.mirror(), |mirror| mirror.heads()).await.unwrap();
    assert_eq!(heads.len(), 10_001);
    assert!(!heads.contains_key("m\u{430}ster"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_is_cleared_and_a_damaged_mirror_is_made_anew() {
    let scene = Scene::new().await;
    scene.repo.commit("master", "first", &[("a", "x")]);
    let folder = scene.folder.path().join("mirror.git");
    pull(&scene.mirror(), "master").await.unwrap();
    std::fs::write(folder.join("refs/heads/master.lock"), "").unwrap();
    std::fs::write(folder.join("objects/pack/pack_git2_half"), "half").unwrap();
    scene.repo.commit("master", "second", &[("a", "y")]);
    pull(&scene.mirror(), "master").await.unwrap();
    assert!(!folder.join("objects/pack/pack_git2_half").exists());

    std::fs::write(folder.join("HEAD"), "\0\0\0").unwrap();
    std::fs::remove_file(folder.join("config")).unwrap();
    std::fs::remove_dir_all(folder.join("refs")).unwrap();
    let commit = pull(&scene.mirror(), "master").await.unwrap();
    assert_eq!(tree(&scene.mirror(), commit).await.unwrap().text("a").unwrap(), Some("y"));

    // Every pack is bent while the mirror is open: the next read notices, the next fetch makes it anew.
    let mirror = scene.mirror();
    for entry in std::fs::read_dir(folder.join("objects/pack")).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    assert!(tree(&mirror, commit).await.is_err());
    let commit = pull(&mirror, "master").await.unwrap();
    assert_eq!(tree(&mirror, commit).await.unwrap().text("a").unwrap(), Some("y"));
}

#[tokio::test(flavor = "multi_thread")]
async fn symbolic_links_are_refused_by_name_and_never_followed() {
    let scene = Scene::new().await;
    scene.repo.commit("master", "first", &[("a", "x")]);
    for (path, target) in
        [("prod/token", "/var/run/secrets/token"), ("prod/other", "../../elsewhere"), ("loop", "loop")]
    {
        scene.repo.odd_entry("master", path, target.as_bytes(), FileMode::Link);
    }
    let said = refused(&scene).await;
    for path in ["prod/token", "prod/other", "loop"] {
        assert!(said.contains(&format!("{path}: refused: a symbolic link")), "{said}");
    }
    assert!(!said.contains("/var/run"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_and_malformed_trees_are_refused() {
    let scene = Scene::new().await;
    let blob = scene.repo.git().blob(b"x").unwrap();
    let file = |name: &'static [u8]| (0o100_644, name, blob);
    type Entry<'a> = (u32, &'a [u8], Oid);
    let cases: Vec<(Vec<Entry<'_>>, &str)> = vec![
        (vec![file(b"..")], "empty, . or .."),
        (vec![file(b".GIT")], "git's own folder"),
        (vec![file(b"git~1")], "git's own folder"),
        (vec![file(b"a\\b")], "a control character"),
        (vec![file(b"a\rb")], "a control character"),
        (vec![file(b"\xff\xfe")], "not UTF-8"),
        (vec![file(b"a"), file(b"a")], "there twice"),
        (vec![file(b"b"), file(b"a")], "out of order"),
    ];
    for (entries, says) in cases {
        let tree = scene.repo.raw_tree(&entries);
        scene.repo.commit_tree("master", tree);
        let said = refused(&scene).await;
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_trees_is_refused_quickly() {
    let scene = Scene::new().await;
    let blob = scene.repo.git().blob(b"x").unwrap();
    let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    for (leaf, mode) in [(blob, 0o100_644), (scene.repo.raw_tree(&[]), 0o040_000)] {
        let mut below = (mode, leaf);
        for _ in 0..10 {
            let entries: Vec<(u32, &[u8], Oid)> =
                names.iter().map(|name| (below.0, name.as_bytes(), below.1)).collect();
            below = (0o040_000, scene.repo.raw_tree(&entries));
        }
        scene.repo.commit_tree("master", below.1);
        let began = Instant::now();
        let said = refused(&scene).await;
        assert!(said.contains("more than"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    let mut deep = scene.repo.raw_tree(&[(0o100_644, b"f", blob)]);
    for _ in 0..1000 {
        deep = scene.repo.raw_tree(&[(0o040_000, b"d", deep)]);
    }
    scene.repo.commit_tree("master", deep);
    assert!(refused(&scene).await.contains("folders below each other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_is_refused_before_it_is_loaded() {
    let scene = Scene::new().await;
    scene.repo.commit("master", "large", &[("big.bin", &"x".repeat(9 << 20)), ("small", "x")]);
    let said = refused(&scene).await;
    assert!(said.contains("big.bin") && said.contains("a file may have"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_is_started_with_fixed_arguments_and_strict_host_keys() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new().await;
    scene.repo.commit("master", "first", &[("a", "x")]);
    // A stand-in for the ssh program and the far side: it writes down how it was called, and runs the command here.
    let script = scene.folder.path().join("ssh");
    let log = scene.folder.path().join("ssh.log");
    let text = format!(
        "#!/bin/bash\nprintf '%s\\n' \"$@\" > {log}\nenv >> {log}\nfor last; do :; done\nexport HOME=/nonexistent GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\neval \"exec $last\"\n",
        log = log.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let url = format!("ssh://git@git.example.com:2222{}", scene.repo.path().display());
    let open = |credentials| {
        let folder = scene.folder.path().join("ssh-mirror.git");
        Arc::new(Mirror::open(&folder, Remote::parse(&url).unwrap(), credentials, &script).unwrap())
    };
    let problem = pull(&open(Credentials::default()), "master").await.unwrap_err();
    assert!(problem.message.contains("no ssh key"), "{problem}");

    let mirror = open(Credentials::key("PRIVATE KEY", "git.example.com ssh-ed25519 AAAA"));
    let commit = pull(&mirror, "master").await.unwrap();
    assert_eq!(tree(&mirror, commit).await.unwrap().text("a").unwrap(), Some("x"));
    let called = std::fs::read_to_string(&log).unwrap();
    for argument in
        ["StrictHostKeyChecking=yes", "BatchMode=yes", "-p\n2222", "-l\ngit\n--\ngit.example.com\ngit-upload-pack '"]
    {
        assert!(called.contains(argument), "{argument} is not in:\n{called}");
    }
    assert!(!called.contains("KUBE") && !called.contains("CARGO"), "its environment is empty:\n{called}");
    let left = std::fs::read_dir(scene.folder.path().join("ssh-mirror.git")).unwrap().flatten();
    assert!(left.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().starts_with(".key")));
}
