//! Somebody who undoes every correction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use serde_json::json;
use support::control_plane;
use support::world::World;

use super::{events, writes};
use crate::manifests::config_map;

#[tokio::test(flavor = "multi_thread")]
async fn who_changes_an_object_again_and_again_is_named_and_backed_off() {
    let mut world = World::new("contention").await;
    world.repo.commit(
        "master",
        "first",
        &[("prod/a.yaml", &config_map("a", "ours")), ("prod/b.yaml", &config_map("b", "ours"))],
    );
    world.repository().await;
    world.environment("contention", json!({"lane": "master", "path": "prod"})).await;
    world.start_options().probes = control_plane::free_port().unwrap();
    world.start_agent();
    world.runs("contention", "master").await;

    // Every 100 ms for as long as a production agent would wait for a minute and a half.
    let mark = world.mark();
    let is_over = Arc::new(AtomicBool::new(false));
    let monkey = tokio::spawn({
        let (api, is_over) = (world.api("v1", "ConfigMap").await, is_over.clone());
        async move {
            let params = PatchParams { field_manager: Some("monkey".into()), ..PatchParams::default() };
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let patch = Patch::Merge(json!({"data": {"key": format!("theirs-{number}")}}));
                api.patch("a", &params, &patch).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let began = Instant::now();
    let status = world
        .status_where("contention", "told of the fight", |status| {
            status
                .warnings
                .iter()
                .any(|line| line.contains("ConfigMap contention/a is contended: data.key changed by monkey"))
        })
        .await;
    assert!(status.problems.is_empty(), "{status:#?}");
    // The others are mended at once all the same.
    world.patch("v1", "ConfigMap", "b", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "b", "mended", |object| object["data"]["key"] == "ours").await;
    tokio::time::sleep(Duration::from_secs(9).saturating_sub(began.elapsed())).await;
    let took = began.elapsed();
    let written = writes(&world, mark, "a");
    // Five at once, then one in 3 s: 30 s at a time scale of 10.
    let most = 5 + 1 + took.as_secs() as usize / 3;
    assert!((5..=most).contains(&written), "{written} corrections in {took:?}, at most {most}");
    let url = format!("http://127.0.0.1:{}/metrics", world.start_options().probes);
    let metrics = reqwest::get(&url).await.unwrap().text().await.unwrap();
    for line in [
        r#"towpath_fights_total{environment="contention"} 1"#,
        r#"towpath_contended_objects{environment="contention"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(events(&world, "Contended").iter().any(|note| note.contains("data.key changed by monkey")));

    is_over.store(true, Ordering::Relaxed);
    monkey.await.unwrap();
    world.object_where("v1", "ConfigMap", "a", "mended for good", |object| object["data"]["key"] == "ours").await;
    world.status_where("contention", "at peace", |status| status.warnings.is_empty()).await;
    assert_eq!(events(&world, "ContentionEnded").len(), 1);
    world.patch("v1", "ConfigMap", "a", json!({"data": {"key": "once"}})).await;
    world.object_where("v1", "ConfigMap", "a", "mended at once", |object| object["data"]["key"] == "ours").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fight_that_git_gives_in_to_is_over() {
    let mut world = World::new("rests").await;
    world.start_options().time_scale = 20;
    world.repo.commit("master", "first", &[("prod/a.yaml", &config_map("a", "ours"))]);
    world.follow("rests", json!({"lane": "master", "path": "prod"})).await;
    world.runs("rests", "master").await;
    for number in 0..5 {
        world.patch("v1", "ConfigMap", "a", json!({"data": {"key": format!("theirs-{number}")}})).await;
        world.object_where("v1", "ConfigMap", "a", "mended", |object| object["data"]["key"] == "ours").await;
    }
    // From now on it waits 1.5 s for its turn.
    world.patch("v1", "ConfigMap", "a", json!({"data": {"key": "theirs"}})).await;
    let is_contended = |line: &String| line.contains("ConfigMap rests/a is contended");
    world.status_where("rests", "contended", |status| status.warnings.iter().any(is_contended)).await;
    world.repo.commit("master", "give in", &[("prod/a.yaml", &config_map("a", "theirs"))]);
    world.runs("rests", "master").await;
    world.status_where("rests", "at peace", |status| status.warnings.is_empty()).await;
    assert_eq!(events(&world, "ContentionEnded").len(), 1);
}
