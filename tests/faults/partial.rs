//! What is known only in part deletes nothing, is said, and heals by itself.

use std::time::Duration;

use serde_json::{Value, json};
use support::audit::Mark;
use support::faults::{Action, Answer, Asked, On};
use support::git_server::{Fault, GitServer};
use support::world::World;
use towpath_core::status::{EnvironmentStatus, State};

use crate::manifests::config_map;

/// How many ConfigMaps the environment has. Half of them are more than may be deleted without a confirmation.
const OBJECTS: usize = 10;

/// A world whose environment, named like it, runs ten ConfigMaps from a git server.
async fn settled(name: &str, lane: &str, branch: &str) -> (World, GitServer) {
    let mut world = World::new(name).await;
    let server = GitServer::start(world.folder());
    write(&world, branch, 0..OBJECTS, "1");
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "towpath-git", "namespace": name},
            "stringData": {"username": "ada", "password": "secret"},
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "shop", "namespace": name},
            "spec": {"url": server.url("deploy.git"), "secretRef": {"name": "towpath-git"}, "interval": "2s"},
        }))
        .await;
    world.environment(name, json!({"lane": lane, "path": "prod"})).await;
    world.through_proxy().await;
    world.start_agent();
    world.runs(name, branch).await;
    (world, server)
}

/// Commits these ConfigMaps with a value.
fn write(world: &World, branch: &str, numbers: impl IntoIterator<Item = usize>, value: &str) {
    let files = numbers.into_iter().map(|number| (path(number), config_map(&format!("c{number}"), value)));
    let files: Vec<(String, String)> = files.collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit(branch, value, &files);
}

fn path(number: usize) -> String {
    format!("prod/c{number}.yaml")
}

/// Removes files in one step: the branch moves once.
fn remove(world: &World, branch: &str, numbers: impl IntoIterator<Item = usize>) {
    world.repo.branch("next", branch);
    for number in numbers {
        world.repo.delete("next", &path(number));
    }
    world.repo.branch(branch, "next");
}

/// Waits until the status says something about what is wrong.
async fn says(world: &World, what: &str) -> EnvironmentStatus {
    let is_said = |status: &EnvironmentStatus| {
        status.state != State::Synced && status.problems.iter().any(|problem| problem.contains(what))
    };
    world.status_where(&world.namespace, &format!("told of {what:?}"), is_said).await
}

/// # Panics
/// When the agent deleted anything since a mark, or any object is missing.
async fn nothing_was_deleted(world: &World, since: Mark) {
    let requests = world.requests_since(since);
    let deletes: Vec<_> = requests.iter().filter(|request| request.verb.starts_with("delete")).collect();
    assert!(deletes.is_empty(), "{deletes:#?}\n{}", world.agent_log());
    for number in 0..OBJECTS {
        assert!(world.get("v1", "ConfigMap", &format!("c{number}")).await.is_some(), "c{number} is gone");
    }
}

/// Long enough for several passes, for waits are divided by ten.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_only_in_part_deletes_nothing() {
    let (world, server) = settled("half-fetched", "master", "master").await;
    let mark = world.mark();
    // Away, an error, and a pack that is cut, ends too early or is damaged: of a commit that removes an object.
    for (number, fault) in
        [Fault::Status(500), Fault::CutPack(40), Fault::ShortenPack(60), Fault::FlipPack(30)].into_iter().enumerate()
    {
        server.misbehave(Some(fault.clone()));
        remove(&world, "master", [number]);
        let said = says(&world, "repository shop").await;
        assert!(
            said.running.is_some_and(|running| !running.revision.ends_with(&world.repo.head("master").to_string()))
        );
        a_while().await;
        let requests = world.requests_since(mark);
        assert!(
            !requests.iter().any(|request| request.verb == "delete" && request.name == format!("c{number}")),
            "{fault:?}"
        );
        server.misbehave(None);
        world.runs("half-fetched", "master").await;
        assert!(
            world.get("v1", "ConfigMap", &format!("c{number}")).await.is_none(),
            "what left git goes when it is known"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_revoked_delete_nothing() {
    let (world, server) = settled("revoked", "master", "master").await;
    let mark = world.mark();
    server.require_login("", "ada", "another");
    remove(&world, "master", [0]);
    says(&world, "credentials refused").await;
    a_while().await;
    nothing_was_deleted(&world, mark).await;
    // The ones that were refused are left alone for a minute; new ones are taken up at once.
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "towpath-git", "namespace": "revoked"},
            "stringData": {"username": "ada", "password": "another"},
        }))
        .await;
    world.runs("revoked", "master").await;
    assert!(world.get("v1", "ConfigMap", "c0").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_a_cache_while_git_is_away_deletes_nothing() {
    let (mut world, server) = settled("cacheless", "master", "master").await;
    let mark = world.mark();
    world.kill_agent();
    std::fs::remove_dir_all(world.folder().join("cache")).unwrap();
    let port = server.port();
    drop(server);
    world.start_agent();
    says(&world, "127.0.0.1").await;
    a_while().await;
    nothing_was_deleted(&world, mark).await;
    let writes: Vec<_> = world
        .requests_since(mark)
        .into_iter()
        .filter(|request| request.is_write() && request.impersonated.is_some())
        .collect();
    assert!(writes.is_empty(), "{writes:#?}");

    let _server = GitServer::start_on(world.folder(), port);
    remove(&world, "master", [0]);
    world.object_where("v1", "ConfigMap", "c0", "pruned", Value::is_null).await;
    world.runs("cacheless", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_manifests_deletes_nothing() {
    let (world, _server) = settled("emptied", "master", "master").await;
    let mark = world.mark();
    world.repo.branch("next", "master");
    world.repo.commit("next", "empty", &[("prod/README.md", "Nothing is here.\n")]);
    for number in 0..OBJECTS {
        world.repo.delete("next", &path(number));
    }
    world.repo.branch("master", "next");
    says(&world, "prod").await;
    a_while().await;
    nothing_was_deleted(&world, mark).await;
    write(&world, "master", 0..OBJECTS, "2");
    world.runs("emptied", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_branch_deletes_nothing() {
    let (world, _server) = settled("mistaken", "master", "master").await;
    let mark = world.mark();
    let follow = async |lane: &str| {
        let patch = json!({"spec": {"lane": lane}});
        world.patch("towpath.dev/v1alpha1", "Environment", "mistaken", patch).await;
    };
    // A branch that is not there, one without the folder, and one that has nearly nothing of it.
    follow("typo").await;
    says(&world, "typo").await;
    world.repo.commit("other", "elsewhere", &[("test/c.yaml", &config_map("c", "1"))]);
    follow("other").await;
    says(&world, "prod").await;
    write(&world, "nearly-empty", [0], "1");
    follow("nearly-empty").await;
    world
        .status_where("mistaken", "asking for a confirmation", |status| status.leftovers.confirm_prune.is_some())
        .await;
    a_while().await;
    nothing_was_deleted(&world, mark).await;
    follow("master").await;
    world.runs("mistaken", "master").await;
    world.status_where("mistaken", "asking nothing any more", |status| status.leftovers.confirm_prune.is_none()).await;
    nothing_was_deleted(&world, mark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_branch_that_has_only_half_deletes_nothing() {
    let (world, _server) = settled("half-release", "release", "r1.1").await;
    let mark = world.mark();
    write(&world, "r1.2", 0..4, "half");
    let status = world
        .status_where("half-release", "asking for a confirmation", |status| status.leftovers.confirm_prune.is_some())
        .await;
    assert_eq!(status.leftovers.kept.len(), 6, "{status:#?}");
    a_while().await;
    nothing_was_deleted(&world, mark).await;
    write(&world, "r1.2", 0..OBJECTS, "whole");
    let status = world.runs("half-release", "r1.2").await;
    assert_eq!((status.leftovers.confirm_prune, status.leftovers.kept.len()), (None, 0));
    nothing_was_deleted(&world, mark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_is_no_empty_list() {
    let (mut world, _server) = settled("listless", "master", "master").await;
    let proxy = world.through_proxy().await;
    let lists = || On::those(|asked| matches!(asked.verb, "list" | "watch" | "get") && asked.resource == "configmaps");
    let faults = [
        Action::Answer(Answer::status(500, "etcdserver: request timed out")),
        Action::Answer(Answer::status(410, "the provided continue parameter is too old")),
        Action::Answer(Answer {
            status: 200,
            headers: vec![("content-type", "text/html".into())],
            body: "<p>Sign in".into(),
        }),
        Action::Answer(Answer { status: 200, headers: vec![], body: String::new() }),
        // In the middle of the first list: it ends as if it was over, or with the connection.
        Action::Shorten(3000),
        Action::CutAnswer(3000),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        world.kill_agent();
        let mark = world.mark();
        // Something is to be deleted, so that a wrong reading has an occasion.
        remove(&world, "master", [number]);
        proxy.inject(lists(), fault.clone());
        world.start_agent();
        a_while().await;
        let writes: Vec<_> = world
            .requests_since(mark)
            .into_iter()
            .filter(|request| request.is_write() && request.impersonated.is_some())
            .collect();
        assert!(writes.is_empty(), "{fault:?}: {writes:#?}");
        proxy.heal();
        world.object_where("v1", "ConfigMap", &format!("c{number}"), "pruned", Value::is_null).await;
        world.runs("listless", "master").await;
        let requests = world.requests_since(mark);
        let deleted: Vec<&str> =
            requests.iter().filter(|request| request.verb == "delete").map(|request| request.name.as_str()).collect();
        assert_eq!(deleted, [format!("c{number}")], "{fault:?}");
        let created = requests
            .iter()
            .any(|request| request.is_write() && request.code == 201 && request.resource == "configmaps");
        assert!(!created, "{fault:?}: {requests:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_that_cannot_be_listed_end_nothing() {
    let (mut world, _server) = settled("tabled", "master", "master").await;
    let proxy = world.through_proxy().await;
    world.start_agent();
    write(&world, "master", [9], "1.1");
    world.runs("tabled", "master").await;
    let mark = world.mark();
    let theirs = |asked: &Asked| matches!(asked.resource.as_str(), "environments" | "repositories");
    let lists = || On::those(move |asked| matches!(asked.verb, "list" | "watch") && theirs(asked));
    let empty = r#"{"kind": "Status", "apiVersion": "v1", "status": "Success"}"#.to_owned();
    for fault in [
        Action::Answer(Answer::status(410, "the provided continue parameter is too old")),
        Action::Answer(Answer { status: 200, headers: vec![("content-type", "application/json".into())], body: empty }),
        Action::CutAnswer(200),
    ] {
        proxy.inject(lists(), fault.clone());
        proxy.cut_all();
        world.patch("v1", "ConfigMap", "c0", json!({"data": {"key": "by hand"}})).await;
        world.object_where("v1", "ConfigMap", "c0", "mended", |object| object["data"]["key"] == "1").await;
        a_while().await;
        nothing_was_deleted(&world, mark).await;
        proxy.heal();
    }
    write(&world, "master", 0..OBJECTS, "2");
    world.runs("tabled", "master").await;
    nothing_was_deleted(&world, mark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_custom_resources_says_so_and_ends() {
    let mut world = World::new("undefined").await;
    let proxy = world.through_proxy().await;
    proxy.inject(
        On::those(|asked| matches!(asked.resource.as_str(), "environments" | "repositories")),
        Action::Answer(Answer::status(404, "the server could not find the requested resource")),
    );
    world.start_agent();
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while world.agent().ended().is_none() {
        assert!(std::time::Instant::now() < deadline, "it runs on\n{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.agent_log().contains("install the custom resources"), "{}", world.agent_log());
}
