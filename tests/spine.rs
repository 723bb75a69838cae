//! The main job: what is pushed runs, what is changed by hand is mended, what leaves git goes.

use std::time::Duration;

use serde_json::{Value, json};
use support::audit::Request;
use support::world::World;
use towpath_core::status::{Outcome, State, Trigger};

use crate::manifests::{config_map, deployment, image};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_applied_drift_is_mended_and_what_leaves_git_is_pruned() {
    let mut world = World::new("spine").await;
    world.repo.commit(
        "master",
        "first",
        &[("prod/web.yaml", &deployment("web", "web:1")), ("prod/config.yaml", &config_map("settings", "1"))],
    );
    world.follow("spine", json!({"lane": "master", "path": "prod"})).await;
    let status = world.runs("spine", "master").await;
    assert_eq!(image(&world.get("apps/v1", "Deployment", "web").await.unwrap()), "web:1");
    assert_eq!(status.state, State::Synced);
    assert_eq!((status.history[0].trigger, status.history[0].outcome), (Trigger::Commit, Outcome::Applied));
    assert_eq!(status.history[0].created, 2);

    let mark = world.mark();
    world.repo.commit("master", "second", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    world.runs("spine", "master").await;
    assert_eq!(image(&world.get("apps/v1", "Deployment", "web").await.unwrap()), "web:2");
    let writes = workload_writes(&world.requests_since(mark));
    assert_eq!(writes.len(), 1, "one changed object is one write: {writes:#?}");

    world.patch("apps/v1", "Deployment", "web", json!({"spec": {"replicas": 5}})).await;
    world.object_where("apps/v1", "Deployment", "web", "mended", |object| object["spec"]["replicas"] == 2).await;
    let status = world.status_where("spine", "told of drift", |status| status.drift.is_some()).await;
    let drift = status.drift.unwrap();
    assert!(drift.message.contains("spec.replicas changed by hand"), "{drift:?}");

    world.repo.delete("master", "prod/config.yaml");
    world.object_where("v1", "ConfigMap", "settings", "pruned", Value::is_null).await;
    world.runs("spine", "master").await;
}

fn workload_writes(requests: &[Request]) -> Vec<Request> {
    requests.iter().filter(|request| request.is_write() && request.impersonated.is_some()).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_comes_to_the_same_end_without_a_needless_write() {
    let mut world = World::new("killed").await;
    let files: Vec<(String, String)> =
        (0..30).map(|number| (format!("prod/{number}.yaml"), config_map(&format!("c{number}"), "1"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", "first", &files);
    world.repository().await;
    world.environment("killed", json!({"lane": "master", "path": "prod"})).await;
    // Somewhere in the middle: as soon as the first object is there.
    world.start_agent();
    world.object_where("v1", "ConfigMap", "c0", "there", |object| !object.is_null()).await;
    world.kill_agent();
    world.start_agent();
    world.runs("killed", "master").await;
    for (path, _) in &files {
        let name = format!("c{}", path.trim_start_matches("prod/").trim_end_matches(".yaml"));
        assert!(world.get("v1", "ConfigMap", &name).await.is_some(), "{name}");
    }

    // Settled, it is started once more: nothing is to do, so nothing is written.
    world.kill_agent();
    let mark = world.mark();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = world.requests_since(mark);
    assert!(
        requests.iter().any(|request| request.verb == "watch" && request.resource == "configmaps"),
        "{requests:#?}"
    );
    let writes: Vec<_> = requests.iter().filter(|request| request.is_write()).collect();
    assert!(writes.is_empty(), "{writes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_changes_nothing_is_asked_and_workloads_are_only_touched_as_the_account() {
    let mut world = World::new("quiet").await;
    let start = world.mark();
    world.repo.commit(
        "master",
        "first",
        &[("prod/web.yaml", &deployment("web", "web:1")), ("prod/config.yaml", &config_map("settings", "1"))],
    );
    world.repository().await;
    world.environment("quiet", json!({"lane": "master", "path": "prod"})).await;
    // With the waits of production: the polls are part of the quiet.
    world.start_options().time_scale = 1;
    world.start_agent();
    world.runs("quiet", "master").await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let quiet = world.mark_at_rest().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let requests = world.requests_since(quiet);
    let not_a_watch: Vec<_> = requests.iter().filter(|request| request.verb != "watch").collect();
    assert!(not_a_watch.is_empty(), "{not_a_watch:#?}");

    world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "2"}})).await;
    world.object_where("v1", "ConfigMap", "settings", "mended", |object| object["data"]["key"] == "1").await;
    let account = "system:serviceaccount:quiet:towpath-deployer";
    for request in world.requests_since(start) {
        let is_own = matches!(
            request.resource.as_str(),
            "environments" | "repositories" | "environments/status" | "repositories/status" | "events" | ""
        ) || (request.resource == "configmaps" && request.name.starts_with("towpath-inventory-"));
        match request.impersonated.as_deref() {
            None => assert!(is_own, "the agent itself touched a workload: {request:#?}"),
            Some(user) => assert_eq!(user, account, "{request:#?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_cannot_become_healthy_says_why_and_a_newer_commit_wins() {
    let mut world = World::new("rollout").await;
    world.repo.commit("master", "bad", &[("prod/web.yaml", &deployment("web", "web:1-no-such-image"))]);
    world.follow("rollout", json!({"lane": "master", "path": "prod", "timeout": "20s"})).await;
    let status = world
        .status_where("rollout", "explained", |status| {
            status.unhealthy.iter().any(|object| object.message.contains("ImagePullBackOff"))
        })
        .await;
    assert!(status.running.is_some(), "it is applied, and not healthy: {status:#?}");
    world.repo.commit("master", "good", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    world.runs("rollout", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_environment_is_neither_synced_nor_mended() {
    let mut world = World::new("suspended").await;
    world.repo.commit("master", "first", &[("prod/config.yaml", &config_map("settings", "1"))]);
    world.follow("suspended", json!({"lane": "master", "path": "prod"})).await;
    world.runs("suspended", "master").await;
    world.patch("towpath.dev/v1alpha1", "Environment", "suspended", json!({"spec": {"suspend": true}})).await;
    world.status_where("suspended", "suspended", |status| status.state == State::Suspended).await;
    world.repo.commit("master", "second", &[("prod/config.yaml", &config_map("settings", "2"))]);
    world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "by hand"}})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.get("v1", "ConfigMap", "settings").await.unwrap()["data"]["key"], "by hand");
    world.patch("towpath.dev/v1alpha1", "Environment", "suspended", json!({"spec": {"suspend": false}})).await;
    world.runs("suspended", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "settings").await.unwrap()["data"]["key"], "2");
}
