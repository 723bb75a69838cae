//! The ledger: what a sync leaves in git, who may add to it, and what is read from it.

mod evidence;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent;
use support::git_server::{Fault, GitServer, Purpose, git};
use support::world::{PATIENCE, World, repository};
use towpath::resources::RepositoryStatus;
use towpath_core::status::{Condition, State};

use crate::manifests::{config_map, deployment};

/// Makes the Repository `shop`, which is asked often, with more in its spec.
async fn shop(world: &World, mut spec: Value) {
    spec["interval"] = "2s".into();
    world.repository_with(spec).await;
}

/// The line of a ledger's commits, the oldest first, by plain git.
fn log(world: &World, reference: &str, format: &str) -> Vec<String> {
    let text = plain_git(world, &["log", "--reverse", &format!("--format={format}"), reference, "--"]);
    text.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Runs plain git in the deploy repository.
fn plain_git(world: &World, arguments: &[&str]) -> Result<String, String> {
    plain_git_in(world.repo.path(), arguments)
}

/// Runs plain git in a repository.
fn plain_git_in(repository: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = git(repository).arg("-C").arg(repository).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}

/// Waits until a ledger has so many records, and gives their subjects.
async fn records(world: &World, reference: &str, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = log(world, reference, "%s");
        if found.len() >= count {
            assert_eq!(found.len(), count, "{found:#?}");
            return found;
        }
        let log = world.agent_log();
        assert!(Instant::now() < deadline, "{reference} has {found:#?}\n--- agent:\n{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn this_year(cluster: &str, environment: &str) -> String {
    let year = jiff::Timestamp::now().strftime("%Y").to_string();
    format!("refs/towpath/{cluster}/{environment}/{year}")
}

/// The public key of a world's agent, as `towpath key` prints it.
fn public_key(world: &World) -> String {
    let output = Command::new(agent::binary().unwrap())
        .args(["key", "--namespace", &world.namespace])
        .env("KUBECONFIG", world.plane.admin_kubeconfig())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs the command line against a world's agent. Gives its code, stdout and stderr.
fn towpath(world: &World, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(agent::binary().unwrap())
        .args(arguments)
        .env("TOWPATH_AGENT", format!("http://127.0.0.1:{}", world.port()))
        .env("TOWPATH_TOKEN_FILE", world.folder().join("token"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Has the agent listen, with a token.
fn listen(world: &mut World) {
    let token = world.folder().join("token");
    std::fs::write(&token, "a-token-for-the-test\n").unwrap();
    world.listen();
    world.start_options().arguments.extend(["--token-file".into(), token.display().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sync_is_one_signed_commit_that_plain_git_reads() {
    let mut world = World::new("recorded").await;
    world.own_key("east").await;
    listen(&mut world);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"password": "hunter2"},
    });
    let files = [("prod/a.yaml", config_map("a", "one")), ("prod/secret.yaml", secret.to_string())];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    world.repo.commit("master", "The first release", &files);
    shop(&world, json!({"ledger": {}})).await;
    world.environment("recorded", json!({"lane": "master", "path": "prod"})).await;
    world.start_agent();
    world.runs("recorded", "master").await;
    let reference = this_year("east", "recorded");
    let found = records(&world, &reference, 2).await;
    let head = world.repo.head("master").short();
    assert_eq!(found, [&format!("recorded@1 applied master@{head}: The first release"), "recorded@1 is healthy"]);

    world.repo.commit("master", "Another value", &[("prod/a.yaml", &config_map("a", "two"))]);
    world.runs("recorded", "master").await;
    records(&world, &reference, 4).await;
    world.repo.commit("master", "A mistake", &[("prod/a.yaml", "{")]);
    world.status_where("recorded", "blocked", |status| status.state == State::Blocked).await;
    let found = records(&world, &reference, 5).await;
    assert!(found[4].starts_with("recorded@3 could not apply master@"), "{found:#?}");

    // Killed and started again, nothing is recorded twice.
    world.kill_agent();
    world.start_agent();
    world.repo.commit("master", "Mended", &[("prod/a.yaml", &config_map("a", "three"))]);
    world.runs("recorded", "master").await;
    records(&world, &reference, 7).await;
    let sequences = log(&world, &reference, "%(trailers:key=Sequence,valueonly)");
    let sequences: Vec<&String> = sequences.iter().filter(|line| !line.is_empty()).collect();
    assert_eq!(sequences, ["1", "2", "3", "4", "5", "6", "7"]);

    // Signed, so that git itself says so.
    let signers = world.folder().join("signers");
    std::fs::write(&signers, format!("towpath@east {}\n", public_key(&world))).unwrap();
    let allowed = format!("gpg.ssh.allowedSignersFile={}", signers.display());
    for commit in log(&world, &reference, "%H") {
        plain_git(&world, &["-c", "gpg.format=ssh", "-c", &allowed, "verify-commit", &commit]).unwrap();
    }
    plain_git(&world, &["fsck", "--strict"]).unwrap();

    // What ran, and what differs; no value of a Secret is anywhere.
    let diff = plain_git(&world, &["diff", &format!("{reference}~6"), &reference, "--", "manifests"]).unwrap();
    assert!(diff.contains("-  key: one") && diff.contains("+  key: three"), "{diff}");
    let all = plain_git(&world, &["log", "-p", "--format=%B", &reference]).unwrap();
    assert!(all.contains("manifests/recorded/Secret/login.yaml") && all.contains("password: hidden:"), "{all}");
    assert!(!all.contains("hunter2") && !all.contains("aHVudGVyMg"), "{all}");

    // The same by the agent, which verifies it.
    let (code, out, said) = towpath(&world, &["history", "recorded"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(out.lines().count(), 8, "{out}");
    let (_, out, _) = towpath(&world, &["show", "recorded@2"]);
    assert!(out.contains("subject    Another value") && out.contains("manifests/recorded/ConfigMap/a.yaml"), "{out}");
    let (code, out, said) = towpath(&world, &["diff", "recorded@1", "recorded@4"]);
    assert_eq!(code, 1, "{said}");
    assert!(out.contains("recorded/ConfigMap/a.yaml (changed)") && out.contains("+  key: three"), "{out}");
    let times = log(&world, &reference, "%(trailers:key=At,valueonly)");
    let between = times.iter().filter(|line| !line.is_empty()).nth(2).unwrap();
    let (_, out, said) = towpath(&world, &["history", "recorded", "--at", between]);
    assert!(out.contains("recorded@2"), "{out}{said}");
    let (code, _, said) = towpath(&world, &["show", "recorded@9"]);
    assert_eq!(code, 1);
    assert!(said.contains("ledger east/recorded has no sync 9"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_wait_while_git_is_away_and_are_pushed_once() {
    let mut world = World::new("apart").await;
    world.own_key("east").await;
    let server = GitServer::start(world.folder());
    git(&world.folder()).args(["init", "--bare", "-q"]).arg(world.folder().join("ledger.git")).status().unwrap();
    world.repo.commit("master", "one", &[("prod/a.yaml", &config_map("a", "one"))]);
    shop(&world, json!({"ledger": {"url": server.url("ledger.git")}})).await;
    world.environment("apart", json!({"lane": "master", "path": "prod"})).await;
    world.start_agent();
    world.runs("apart", "master").await;
    let reference = this_year("east", "apart");
    let count = |world: &World| {
        let counted = plain_git_in(&world.folder().join("ledger.git"), &["rev-list", "--count", &reference]);
        counted.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0usize)
    };
    let until = async |world: &World, wanted: usize| {
        let deadline = Instant::now() + PATIENCE;
        while count(world) != wanted {
            let found = || plain_git_in(&world.folder().join("ledger.git"), &["log", "--format=%s%n%b", &reference]);
            assert!(Instant::now() < deadline, "{} of {wanted}\n{:?}\n{}", count(world), found(), world.agent_log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(&world, 2).await;

    server.misbehave(Some(Fault::Status(503)));
    for value in ["two", "three"] {
        world.repo.commit("master", value, &[("prod/a.yaml", &config_map("a", value))]);
        world.runs("apart", "master").await;
    }
    shop_where(&world, "not recorded", |status| recorded(status).is_some_and(|it| it.status == "False")).await;
    world.kill_agent();
    world.start_agent();
    world.repo.commit("master", "four", &[("prod/a.yaml", &config_map("a", "four"))]);
    world.runs("apart", "master").await;
    assert_eq!(count(&world), 2);
    server.misbehave(None);
    until(&world, 8).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count(&world), 8, "nothing is recorded twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_such_refs_is_said_and_branches_do() {
    let mut world = World::new("refusing").await;
    world.own_key("east").await;
    let server = GitServer::start(world.folder());
    plain_git(&world, &["config", "receive.hideRefs", "refs/towpath"]).unwrap();
    world.repo.commit("master", "one", &[("prod/a.yaml", &config_map("a", "one"))]);
    shop(&world, json!({"url": server.url("deploy.git"), "ledger": {}})).await;
    world.environment("refusing", json!({"lane": "master", "path": "prod"})).await;
    world.start_agent();
    world.runs("refusing", "master").await;
    let says_what_to_do = |status: &RepositoryStatus| {
        recorded(status).is_some_and(|it| it.status == "False" && it.message.contains("set spec.ledger.as to Branch"))
    };
    shop_where(&world, "told what to do", says_what_to_do).await;
    shop(&world, json!({"url": server.url("deploy.git"), "ledger": {"as": "Branch"}})).await;
    records(&world, &this_year("east", "refusing").replace("refs/", "refs/heads/"), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_syncs_at_once_are_one_push() {
    let mut world = World::new("batch").await;
    world.own_key("east").await;
    let server = GitServer::start(world.folder());
    let names: Vec<String> = (0..20).map(|number| format!("batch-{number}")).collect();
    let files: Vec<(String, String)> =
        names.iter().map(|name| (format!("{name}/a.yaml"), config_map(name, "one"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", "one", &files);
    shop(&world, json!({"url": server.url("deploy.git"), "ledger": {}})).await;
    // At the usual pace: all are gathered.
    world.start_options().time_scale = 1;
    for name in &names {
        world.environment(name, json!({"lane": "master", "path": name})).await;
    }
    world.start_agent();
    for name in &names {
        world.runs(name, "master").await;
    }
    for name in &names {
        records(&world, &this_year("east", name), 2).await;
    }
    let pushes = server.take_requests().iter().filter(|request| request.purpose == Purpose::Push).count();
    assert!((1..=3).contains(&pushes), "{pushes} pushes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_rewritten_raises_an_alarm_and_syncing_goes_on() {
    let mut world = World::new("rewritten").await;
    world.own_key("east").await;
    world.repo.commit("master", "one", &[("prod/a.yaml", &config_map("a", "one"))]);
    shop(&world, json!({"ledger": {}})).await;
    world.environment("rewritten", json!({"lane": "master", "path": "prod"})).await;
    world.start_agent();
    world.runs("rewritten", "master").await;
    let reference = this_year("east", "rewritten");
    records(&world, &reference, 2).await;

    // Gone: all of it is still here, and is pushed again.
    plain_git(&world, &["update-ref", "-d", &reference]).unwrap();
    alarm(&world, "is gone at the server: it is pushed again").await;
    records(&world, &reference, 2).await;

    // Another history: it is not used, and nothing is added to it.
    let tree = plain_git(&world, &["rev-parse", &format!("{reference}^{{tree}}")]).unwrap();
    let forged = plain_git(
        &world,
        &["-c", "user.name=eve", "-c", "user.email=eve@x", "commit-tree", tree.trim(), "-m", "hello"],
    )
    .unwrap();
    plain_git(&world, &["update-ref", &reference, forged.trim()]).unwrap();
    alarm(&world, "does not come after").await;
    world.repo.commit("master", "two", &[("prod/a.yaml", &config_map("a", "two"))]);
    world.runs("rewritten", "master").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(log(&world, &reference, "%s"), ["hello"]);
}

/// Waits for an alarm of the Repository `shop`.
async fn alarm(world: &World, text: &str) {
    shop_where(world, text, |status| status.alarms.iter().any(|alarm| alarm.contains(text))).await;
}

/// The condition that says whether syncs are recorded.
fn recorded(status: &RepositoryStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == "Recorded")
}

/// Waits until the status of the Repository `shop` is as it should be.
async fn shop_where(world: &World, what: &str, is_so: impl Fn(&RepositoryStatus) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = repository(world, "shop").await.status.unwrap_or_default();
        if is_so(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "shop is never {what}: {status:#?}\n{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_in_one_cluster_waits_for_the_record_of_test_in_another() {
    let (mut east, mut west) = (World::new("east").await, World::elsewhere("west").await);
    east.own_key("east").await;
    west.own_key("west").await;
    let server = GitServer::start(east.folder());
    let files = [("test/a.yaml", config_map("a", "one")), ("staging/b.yaml", config_map("b", "one"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let first = east.repo.commit("master", "one", &files);
    let (key_east, key_west) = (public_key(&east), public_key(&west));
    let url = server.url("deploy.git");
    let spec =
        |peer: &str, key: &str| json!({"url": url, "ledger": {}, "peers": [{"cluster": peer, "publicKey": key}]});
    shop(&east, spec("west", &key_west)).await;
    shop(&west, spec("east", &key_east)).await;
    let after = json!([{"cluster": "west", "environment": "test", "soak": "10s"}]);
    east.environment("staging", json!({"lane": "master", "path": "staging", "after": after})).await;
    east.environment("prod", json!({"lane": "master", "path": "staging", "sync": "Manual", "namespace": "east"})).await;
    listen(&mut east);
    east.start_agent();
    let waits = |text: &'static str| {
        move |status: &towpath_core::status::EnvironmentStatus| {
            status.gate.as_ref().is_some_and(|gate| gate.message.contains(text))
        }
    };
    let status = east.status_where("staging", "waiting", waits("waits for west/test")).await;
    assert!(status.running.is_none(), "{status:#?}");
    assert_eq!(status.conditions[0].reason, "WaitsForEnvironment");

    // A record that somebody else wrote opens nothing.
    forge(&east, "west", "test", &first.to_string());
    alarm(&east, "ledger west/test is not signed").await;
    assert!(east.status("staging").await.running.is_none());
    plain_git(&east, &["update-ref", "-d", &this_year("west", "test")]).unwrap();

    // Test runs it and is healthy, for long enough.
    west.environment("test", json!({"lane": "master", "path": "test"})).await;
    west.start_agent();
    let is_first = |status: &towpath_core::status::EnvironmentStatus| {
        status.running.as_ref().is_some_and(|running| running.revision.ends_with(&first.to_string()))
    };
    west.status_where("test", "running the first commit", is_first).await;
    east.runs("staging", "master").await;
    let reference = this_year("west", "test");
    records(&east, &reference, 2).await;
    let healthy = east.status("staging").await.history[0].started_at;
    let since: jiff::Timestamp = log(&east, &reference, "%cI")[1].parse().unwrap();
    assert!(healthy.duration_since(since).as_secs() >= 9, "it soaked: {since} {healthy}");

    // The next commit waits again, and what runs stays.
    west.kill_agent();
    east.repo.commit("master", "two", &[("staging/b.yaml", &config_map("b", "two"))]);
    let status = east.status_where("staging", "waiting again", waits("where it has not run")).await;
    assert!(status.running.unwrap().revision.ends_with(&first.to_string()));
    assert_eq!(status.state, State::OutOfSync);

    // Each shows the other's environments.
    let url = format!("http://127.0.0.1:{}/api/v1/ledgers", east.port());
    let answer = reqwest::Client::new().get(url).bearer_auth("a-token-for-the-test").send().await.unwrap();
    let found: Value = answer.json().await.unwrap();
    let test = found["ledgers"].as_array().unwrap().iter().find(|ledger| ledger["cluster"] == "west").unwrap();
    assert_eq!((&test["own"], &test["environment"]), (&json!(false), &json!("test")), "{found:#}");
    assert!(test["last"]["revision"].as_str().unwrap().ends_with(&first.to_string()), "{found:#}");
    assert_eq!(test["last"]["health"], "Healthy", "{found:#}");
    records(&east, &this_year("east", "staging"), 2).await;
    let (_, out, said) = towpath(&east, &["history", "west/test"]);
    assert!(out.contains("test@1") && out.contains("Healthy"), "{out}{said}");
    let (code, out, said) = towpath(&east, &["diff", "west/test@1", "staging@1"]);
    assert_eq!(code, 1, "{said}");
    assert!(out.contains("ConfigMap/b.yaml (added)"), "{out}");

    west.start_agent();
    east.runs("staging", "master").await;
}

/// Writes a record of a sync that never was, without a signature.
fn forge(world: &World, cluster: &str, environment: &str, commit: &str) {
    let message = format!(
        "{environment}@1 applied\n\nTowpath-Record: 1\nCluster: {cluster}\nEnvironment: {environment}\nSequence: 1\nSync: 1\n\
         At: 2026-01-01T00:00:00Z\nRevision: master@sha1:{commit}\nSource-Commit: {commit}\nTrigger: Commit\nOutcome: Applied\n\
         Started: 2026-01-01T00:00:00Z\nTook-Ms: 1\nCreated: 1\nConfigured: 0\nUnchanged: 0\nPruned: 0\nFailed: 0\nManifests: Complete\n"
    );
    let tree = plain_git(world, &["rev-parse", "master^{tree}"]).unwrap();
    let identity = ["-c", "user.name=towpath", "-c", "user.email=towpath@west"];
    let forged = plain_git(world, &[&identity[..], &["commit-tree", tree.trim(), "-m", &message]].concat()).unwrap();
    plain_git(world, &["update-ref", &this_year(cluster, environment), forged.trim()]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cluster_comes_to_the_same_end_and_its_ledger_goes_on() {
    let mut world = World::new("lost").await;
    world.own_key("east").await;
    world.repo.commit("master", "one", &[("prod/web.yaml", &deployment("web", "web:1"))]);
    shop(&world, json!({"ledger": {}})).await;
    world.environment("lost", json!({"lane": "master", "path": "prod"})).await;
    world.start_agent();
    world.runs("lost", "master").await;
    let reference = this_year("east", "lost");
    records(&world, &reference, 2).await;
    world.kill_agent();

    // Another cluster, with nothing but the manifests, the custom resources, and the key.
    let mut new = World::elsewhere("lost").await;
    new.own_key("east").await;
    let key = world.get("v1", "Secret", "towpath-key").await.unwrap();
    new.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "towpath-key", "namespace": "lost"},
        "type": key["type"], "data": key["data"],
    }))
    .await;
    shop(&new, json!({"url": world.repo.url(), "ledger": {}})).await;
    new.environment("lost", json!({"lane": "master", "path": "prod"})).await;
    new.start_agent();
    let head = world.repo.head("master").to_string();
    let status = new
        .status_where("lost", "running", |status| {
            status.running.as_ref().is_some_and(|running| running.revision.ends_with(&head))
                && status.history.first().is_some_and(|sync| sync.number == 2)
        })
        .await;
    assert_eq!(status.syncs, 2, "it counts on from the ledger");
    records(&world, &reference, 4).await;
    assert!(new.get("apps/v1", "Deployment", "web").await.is_some());
    let _: (PathBuf, &Path) = (new.folder(), world.repo.path());
}
