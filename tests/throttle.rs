//! An API server that says "too many requests": all of the agent's requests slow down, and all is well soon after.

use std::time::{Duration, Instant};

use serde_json::json;
use support::deploy_repo::DeployRepo;
use support::faults::{Action, Answer, Asked, On, Proxy};
use support::world::World;
use towpath_core::health::Health;
use towpath_core::status::State;

use crate::manifests::config_map;

/// Many objects, so that many requests are under way when the first is refused.
fn files(value: &str) -> Vec<(String, String)> {
    (0..40).map(|number| (format!("prod/c{number}.yaml"), config_map(&format!("c{number}"), value))).collect()
}

async fn commit(world: &World, value: &str) {
    let files = files(value);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", value, &files);
}

async fn prepare(name: &str) -> (World, std::sync::Arc<Proxy>) {
    let mut world = World::new(name).await;
    let proxy = world.through_proxy().await;
    commit(&world, "1").await;
    world.repository().await;
    world.environment(name, json!({"lane": "master", "path": "prod"})).await;
    // With the waits of production: they are what is judged.
    world.start_options().time_scale = 1;
    world.start_agent();
    world.runs(name, "master").await;
    (world, proxy)
}

/// Whether it changes something, dry runs included: an API server counts both as writes.
fn is_write(asked: &Asked) -> bool {
    !["get", "list", "watch"].contains(&asked.verb)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refusals_slow_all_writes_down_and_it_converges_when_they_end() {
    let (world, proxy) = prepare("throttle").await;
    proxy.forget();
    proxy.inject(
        On::those(is_write),
        Action::Answer(Answer::status(429, "too many requests").header("retry-after", "1")),
    );
    let begun = Instant::now();
    commit(&world, "2").await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    let refused: Vec<Instant> = proxy.seen().iter().filter(|asked| is_write(asked)).map(|asked| asked.at).collect();
    // Sixteen are under way at most when the first is refused; after them it is one after one.
    let after_first = refused.iter().filter(|at| at.duration_since(refused[0]) > Duration::from_secs(1)).count();
    assert!(!refused.is_empty() && refused.len() - after_first <= 16 + 1, "{} at once", refused.len() - after_first);
    assert!(after_first as f64 <= begun.elapsed().as_secs_f64(), "{after_first} in {:?}", begun.elapsed());
    assert!(after_first > 0, "nobody asked whether it is over");

    proxy.heal();
    let healed = Instant::now();
    world.runs("throttle", "master").await;
    assert!(healed.elapsed() < Duration::from_secs(60), "{:?}", healed.elapsed());
    for number in [0, 20, 39] {
        assert_eq!(world.get("v1", "ConfigMap", &format!("c{number}")).await.unwrap()["data"]["key"], "2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_of_nonsense_are_capped_and_the_status_says_that_the_server_throttles() {
    for (number, pause) in ["86400", "-1", "Fri, 31 Dec 2099 23:59:59 GMT", "soon"].into_iter().enumerate() {
        let name = format!("throttle-{number}");
        let (mut world, proxy) = prepare(&name).await;
        // The cap is a minute; a test has less patience.
        world.start_options().time_scale = 30;
        world.start_agent();
        world.runs(&name, "master").await;
        let on = On::those(|asked| asked.resource == "configmaps" && asked.verb == "patch");
        proxy.inject(on, Action::Answer(Answer::status(429, "too many requests").header("retry-after", pause)));
        commit(&world, "2").await;
        world
            .status_where(&name, "told that the server throttles", |status| {
                status.problems.iter().any(|problem| problem.contains("the API server throttles"))
            })
            .await;
        proxy.heal();
        world.runs(&name, "master").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_for_the_pause_of_writes() {
    let (world, proxy) = prepare("throttle-reads").await;
    // One of another repository: no commit gives it a status to write.
    let other = DeployRepo::new(world.folder().join("other.git"));
    other.commit("master", "first", &[("prod/x.yaml", &config_map("x", "1"))]);
    world
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": "other", "namespace": "throttle-reads"}, "spec": {"url": other.url()},
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Environment",
            "metadata": {"name": "throttle-reads-other", "namespace": "throttle-reads"},
            "spec": {"repository": "other", "lane": "master", "path": "prod"},
        }))
        .await;
    world
        .status_where("throttle-reads-other", "synced and healthy", |status| {
            (status.state, status.health) == (State::Synced, Some(Health::Healthy))
        })
        .await;
    proxy.inject(
        On::those(is_write),
        Action::Answer(Answer::status(429, "too many requests").header("retry-after", "20")),
    );
    proxy.forget();
    commit(&world, "2").await;
    let deadline = Instant::now() + support::world::PATIENCE;
    while !proxy.seen().iter().any(is_write) {
        assert!(Instant::now() < deadline, "nothing is written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // By now as many writes as may be under way wait for the end of the pause.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // What left the selection of a watch is read by its name.
    let labels = json!({"towpath.dev/environment": null, "applyset.kubernetes.io/part-of": null});
    world.patch("v1", "ConfigMap", "x", json!({"metadata": {"labels": labels}})).await;
    let deadline = Instant::now() + Duration::from_secs(15);
    let is_read = |asked: &Asked| asked.verb == "get" && asked.resource == "configmaps" && asked.name == "x";
    while !proxy.seen().iter().any(is_read) {
        assert!(Instant::now() < deadline, "nobody has read it: {:#?}", proxy.seen());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.heal();
}
