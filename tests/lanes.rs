//! Which branch an environment follows.

use std::time::Duration;

use serde_json::json;
use support::world::{World, repository};
use towpath_core::status::{Outcome, State};

use crate::manifests::config_map;

#[tokio::test(flavor = "multi_thread")]
async fn each_environment_follows_its_lane_and_prod_waits_for_a_request() {
    let mut world = World::new("lanes").await;
    for branch in ["develop", "master"] {
        let files: Vec<(String, String)> = ["dev", "test", "staging", "prod"]
            .iter()
            .map(|name| (format!("{name}/c.yaml"), config_map(&format!("{name}-settings"), branch)))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        world.repo.commit(branch, "first", &files);
    }
    world.repository().await;
    world.environment("lanes-dev", json!({"lane": "develop", "path": "dev"})).await;
    world.environment("lanes-test", json!({"lane": "release", "path": "test"})).await;
    world.environment("lanes-staging", json!({"lane": "master", "path": "staging"})).await;
    world.environment("lanes-prod", json!({"lane": "master", "path": "prod", "sync": "Manual"})).await;
    world.start_agent();
    world.runs("lanes-dev", "develop").await;
    world.runs("lanes-staging", "master").await;
    let status = world.status_where("lanes-test", "without a branch", |status| status.state == State::Blocked).await;
    assert!(status.problems[0].contains("no release branch rX.Y"), "{status:#?}");

    world.repo.branch("r1.9", "develop");
    world.runs("lanes-test", "r1.9").await;
    // r1.10 is newer than r1.9; the others are no release branches.
    for branch in ["r1.10", "r2.0-rc", "r01.11", "release-3.0"] {
        world.repo.branch(branch, "develop");
        world.repo.commit(branch, "newer", &[("test/c.yaml", &config_map("test-settings", branch))]);
    }
    world.runs("lanes-test", "r1.10").await;
    assert_eq!(world.get("v1", "ConfigMap", "test-settings").await.unwrap()["data"]["key"], "r1.10");

    let status = world.status("lanes-prod").await;
    assert!(status.running.is_none(), "prod waits: {status:#?}");
    assert!(world.get("v1", "ConfigMap", "prod-settings").await.is_none());
    world.request_sync("lanes-prod", "2026-01-01T00:00:00Z").await;
    let status = world.runs("lanes-prod", "master").await;
    assert_eq!(status.last_handled_request.as_deref(), Some("2026-01-01T00:00:00Z"));
    assert_eq!(status.history[0].requested_by.as_deref(), Some("ada"));

    // A later commit waits again, and drift is mended against what runs.
    let running = status.running.unwrap().revision;
    world.repo.commit("master", "second", &[("prod/c.yaml", &config_map("prod-settings", "second"))]);
    let status = world.status_where("lanes-prod", "shown a candidate", |status| status.candidate.is_some()).await;
    assert_eq!(status.state, State::OutOfSync);
    world.patch("v1", "ConfigMap", "prod-settings", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "prod-settings", "mended", |object| object["data"]["key"] == "master").await;
    assert_eq!(world.status("lanes-prod").await.running.unwrap().revision, running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_branch_keeps_its_last_state_and_raises_an_alarm() {
    let mut world = World::new("deleted").await;
    world.repo.commit("r1.1", "old", &[("test/c.yaml", &config_map("settings", "1.1"))]);
    world.repo.branch("r1.2", "r1.1");
    world.repo.commit("r1.2", "new", &[("test/c.yaml", &config_map("settings", "1.2"))]);
    world.follow("deleted", json!({"lane": "release", "path": "test"})).await;
    world.runs("deleted", "r1.2").await;

    let mark = world.mark();
    world.repo.delete_branch("r1.2");
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    loop {
        let status = repository(&world, "shop").await.status.unwrap_or_default();
        if status.alarms.first().is_some_and(|alarm| alarm.contains("branch r1.2 was deleted")) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no alarm: {status:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "settings", "mended", |object| object["data"]["key"] == "1.2").await;
    let deletes: Vec<_> = world.requests_since(mark).into_iter().filter(|request| request.verb == "delete").collect();
    assert!(deletes.is_empty(), "{deletes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_release_branch_that_cannot_be_applied_stays_a_candidate() {
    let mut world = World::new("half-ready").await;
    world.repo.commit("r1.1", "old", &[("test/c.yaml", &config_map("settings", "1.1"))]);
    world.follow("half-ready", json!({"lane": "release", "path": "test"})).await;
    let first = world.runs("half-ready", "r1.1").await;

    // Under its name when it is whole: a branch of that name that is still the old one would be followed.
    world.repo.branch("next", "r1.1");
    world.repo.commit("next", "broken", &[("test/c.yaml", "apiVersion: v1\nkind: [\n")]);
    world.repo.branch("r1.2", "next");
    let status = world.status_where("half-ready", "blocked", |status| status.state == State::Blocked).await;
    assert_eq!(status.running, first.running);
    assert!(status.candidate.unwrap().revision.starts_with("r1.2@sha1:"));
    assert!(status.problems[0].contains("test/c.yaml"), "{:?}", status.problems);
    assert_eq!(status.history[0].outcome, Outcome::Failed, "what could not be applied is in the history");
    assert!(status.history[0].revision.starts_with("r1.2@sha1:"));
    // What runs is mended all the same.
    world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "settings", "mended", |object| object["data"]["key"] == "1.1").await;

    world.repo.commit("r1.2", "repaired", &[("test/c.yaml", &config_map("settings", "1.2"))]);
    world.runs("half-ready", "r1.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_release_branch_at_the_same_commit_is_followed() {
    let mut world = World::new("same-commit").await;
    world.repo.commit("r1.1", "first", &[("test/c.yaml", &config_map("settings", "1"))]);
    world.follow("same-commit", json!({"lane": "release", "path": "test"})).await;
    world.runs("same-commit", "r1.1").await;
    world.repo.branch("r1.2", "r1.1");
    world
        .status_where("same-commit", "synced on r1.2", |status| {
            let runs = status.running.as_ref().is_some_and(|running| running.revision.starts_with("r1.2@"));
            runs && status.state == State::Synced
        })
        .await;
}
