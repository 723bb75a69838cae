//! Waves: each waits for the health of those before it, and no pass waits for anything.

use std::time::Duration;

use serde_json::{Value, json};
use support::audit::{Mark, Request};
use support::world::World;
use towpath_core::health::Health;
use towpath_core::status::{Outcome, WaitReason};

use crate::manifests::{config_map, deployment};

/// A manifest in a wave.
pub fn in_wave(manifest: &str, wave: i32) -> String {
    let mut manifest: Value = serde_json::from_str(manifest).unwrap();
    manifest["metadata"]["annotations"]["towpath.dev/wave"] = wave.to_string().into();
    manifest.to_string()
}

/// What the account wrote after a mark, in the order in which it was answered.
pub fn written(world: &World, mark: Mark) -> Vec<Request> {
    let requests = world.requests_since(mark).into_iter();
    requests.filter(|request| request.is_write() && request.impersonated.is_some() && request.code < 300).collect()
}

pub fn names(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.name.as_str()).collect()
}

/// Makes pods ready, as a kubelet would whose probe succeeds at last.
pub fn make_ready(world: &World, selector: &str) {
    let pods = world.plane.kubectl(&["get", "pods", "-n", &world.namespace, "-l", selector, "-o", "name"]).unwrap();
    for pod in pods.lines() {
        let patch = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"},
        ]}});
        let patch = patch.to_string();
        world
            .plane
            .kubectl(&["patch", pod, "-n", &world.namespace, "--subresource=status", "--type=strategic", "-p", &patch])
            .unwrap();
    }
}

/// Waits until a sync waits for a wave because of an object.
pub async fn waits_for(world: &World, environment: &str, object: &str) {
    world
        .status_where(environment, &format!("waiting for {object}"), |status| {
            let waits = status.sync.as_ref().and_then(|sync| sync.waits.as_ref());
            waits.is_some_and(|waits| waits.message.contains(object))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wave_begins_when_those_before_it_are_healthy_also_for_an_agent_that_was_killed() {
    let mut world = World::new("waves").await;
    let mark = world.mark();
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a-web.yaml", &in_wave(&deployment("web", "web:1"), 2)),
            ("prod/b-settings.yaml", &in_wave(&config_map("settings", "1"), 1)),
            ("prod/c-db.yaml", &deployment("db", "db:1-never-ready")),
            ("prod/d-secret.yaml", &in_wave(&config_map("early", "1"), -1)),
        ],
    );
    world.follow("waves", json!({"lane": "master", "path": "prod"})).await;
    waits_for(&world, "waves", "wave 0: Deployment.apps waves/db").await;
    let status = world.status("waves").await;
    assert!(status.running.is_none() && status.candidate.is_some(), "{status:#?}");
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "WaitsForWave"), "{ready:?}");
    assert!(status.history.is_empty(), "it has not ended: {:?}", status.history);
    assert!(status.unhealthy.iter().all(|object| object.health != Health::Missing), "{:?}", status.unhealthy);
    assert_eq!(names(&written(&world, mark)), ["early", "db"]);

    world.kill_agent();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(names(&written(&world, mark)), ["early", "db"], "it waits on after a restart");
    world.kill_agent();
    make_ready(&world, "app=db");
    world.start_agent();
    let status = world.runs("waves", "master").await;
    assert_eq!(names(&written(&world, mark)), ["early", "db", "settings", "web"], "nothing is skipped or repeated");
    assert_eq!(status.sync, None);
    assert_eq!(status.history.len(), 1, "one sync: {:#?}", status.history);
    assert_eq!((status.history[0].outcome, status.history[0].created), (Outcome::Applied, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_wave_stops_later_ones_but_no_mending_and_no_newer_commit() {
    let mut world = World::new("stuck-wave").await;
    let commit = |world: &World, message: &str, db: &str, value: &str| {
        let files = [
            ("prod/db.yaml", deployment("db", db)),
            ("prod/one.yaml", in_wave(&config_map("one", value), 1)),
            ("prod/two.yaml", in_wave(&config_map("two", "always"), 2)),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        world.repo.commit("master", message, &files);
    };
    commit(&world, "first", "db:1", "1");
    world.follow("stuck-wave", json!({"lane": "master", "path": "prod"})).await;
    world.runs("stuck-wave", "master").await;

    commit(&world, "stuck", "db:2-crash", "2");
    waits_for(&world, "stuck-wave", "wave 0: Deployment.apps stuck-wave/db").await;
    // Another wave, the same content as before: mended at once.
    world.patch("v1", "ConfigMap", "two", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "two", "mended", |object| object["data"]["key"] == "always").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.get("v1", "ConfigMap", "one").await.unwrap()["data"]["key"], "1", "its wave has not begun");

    commit(&world, "good", "db:3", "3");
    let status = world.runs("stuck-wave", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "one").await.unwrap()["data"]["key"], "3");
    let outcomes: Vec<_> = status.history.iter().map(|sync| (sync.subject.as_str(), sync.outcome)).collect();
    assert_eq!(outcomes, [("good", Outcome::Applied), ("stuck", Outcome::Overtaken), ("first", Outcome::Applied)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_that_takes_too_long_is_named_and_goes_on_when_it_is_healthy_after_all() {
    let mut world = World::new("slow-wave").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/db.yaml", &deployment("db", "db:1-never-ready")),
            ("prod/one.yaml", &in_wave(&config_map("one", "1"), 1)),
        ],
    );
    world.follow("slow-wave", json!({"lane": "master", "path": "prod", "timeout": "3s"})).await;
    let status = world
        .status_where("slow-wave", "stalled", |status| {
            status.conditions.iter().any(|condition| condition.type_ == "Stalled")
        })
        .await;
    let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
    assert_eq!(stalled.reason, "TimedOut");
    assert!(stalled.message.contains("for too long for wave 0: Deployment.apps slow-wave/db"), "{stalled:?}");
    assert!(world.get("v1", "ConfigMap", "one").await.is_none());
    make_ready(&world, "app=db");
    world.runs("slow-wave", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_refuses_in_a_later_wave_stops_there_and_goes_on_from_there() {
    let mut world = World::new("refused-wave").await;
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": "refused-wave"},
            "spec": {"hard": {"count/configmaps": "4"}},
        }))
        .await;
    world
        .object_where("v1", "ResourceQuota", "few", "counted", |quota| {
            quota["status"]["used"]["count/configmaps"].is_string()
        })
        .await;
    let mark = world.mark();
    // With the cluster's own certificate and the inventory there is room for two: each passes the dry run by itself.
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/one.yaml", &in_wave(&config_map("one", "1"), 1)),
            ("prod/two.yaml", &in_wave(&config_map("two", "1"), 2)),
            ("prod/three.yaml", &in_wave(&config_map("three", "1"), 3)),
            ("prod/four.yaml", &in_wave(&config_map("four", "1"), 4)),
        ],
    );
    world.follow("refused-wave", json!({"lane": "master", "path": "prod"})).await;
    let status = world
        .status_where("refused-wave", "refused", |status| {
            status.problems.iter().any(|problem| problem.contains("exceeded quota: few"))
        })
        .await;
    let problem = &status.problems[0];
    assert!(problem.contains("prod/three.yaml:1: ConfigMap refused-wave/three"), "{problem}");
    assert!(problem.contains("raise the quota"), "{problem}");
    assert_eq!(names(&written(&world, mark)), ["one", "two"]);
    assert_eq!(status.sync.as_ref().map(|sync| sync.hooks.len()), Some(0), "it goes on: {status:#?}");

    world.plane.kubectl(&["delete", "resourcequota", "few", "-n", "refused-wave"]).unwrap();
    let status = world.runs("refused-wave", "master").await;
    assert_eq!(names(&written(&world, mark)), ["one", "two", "three", "four"]);
    assert_eq!(status.history[0].outcome, Outcome::Applied);
    assert_eq!(status.warnings, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_rollout_holds_the_next_wave_until_a_person_acts() {
    let mut world = World::new("paused-wave").await;
    let mut paused: Value = serde_json::from_str(&deployment("db", "db:1")).unwrap();
    paused["spec"]["paused"] = true.into();
    world.repo.commit(
        "master",
        "first",
        &[("prod/db.yaml", &paused.to_string()), ("prod/one.yaml", &in_wave(&config_map("one", "1"), 1))],
    );
    world.follow("paused-wave", json!({"lane": "master", "path": "prod"})).await;
    waits_for(&world, "paused-wave", "Deployment.apps paused-wave/db").await;
    let status = world.status("paused-wave").await;
    assert_eq!(status.sync.unwrap().waits.unwrap().reason, WaitReason::RolloutPaused);
    assert!(world.get("v1", "ConfigMap", "one").await.is_none());
    paused["spec"]["paused"] = false.into();
    world.repo.commit("master", "go on", &[("prod/db.yaml", &paused.to_string())]);
    world.runs("paused-wave", "master").await;
}
