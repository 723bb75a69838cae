//! Namespaces on their way out.

use std::time::Duration;

use serde_json::{Value, json};
use support::world::World;
use towpath_core::status::State;

use crate::manifests::config_map;
use crate::prune::placed;

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_on_its_way_out_is_named_and_not_hammered() {
    let mut world = World::new("ending").await;
    world.namespace_for_deployer("ending-target").await;
    let files: Vec<(String, String)> =
        (0..20).map(|number| (format!("prod/{number}.yaml"), config_map(&format!("c{number}"), "1"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", "first", &files);
    world.follow("ending", json!({"lane": "master", "path": "prod", "namespace": "ending-target"})).await;
    world.runs("ending", "master").await;
    // Something of somebody else holds it.
    let mut holder: Value = serde_json::from_str(&placed("holder", "x", "ending-target")).unwrap();
    holder["metadata"]["finalizers"] = json!(["example.com/slow"]);
    world.apply(holder).await;
    let mark = world.mark();
    world.plane.kubectl(&["delete", "namespace", "ending-target", "--wait=false"]).unwrap();
    world
        .status_where("ending", "naming what holds it", |status| {
            status.state == State::Blocked && status.problems.iter().any(|problem| problem.contains("example.com/slow"))
        })
        .await;
    // Nothing of it hammers: 20 objects went, each with an event, and each look could try to make 20 of them.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = support::audit::since(&world.plane.audit_log(), mark).unwrap();
    let account = "system:serviceaccount:ending:towpath-deployer";
    let tries =
        requests.iter().filter(|request| request.impersonated.as_deref() == Some(account) && request.verb == "patch");
    let tries = tries.count();
    assert!(tries <= 200, "{tries} tries");
    let quiet = world.mark_at_rest().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let requests = support::audit::since(&world.plane.audit_log(), quiet).unwrap();
    let ours = requests.iter().filter(|request| request.user == "system:serviceaccount:towpath:towpath");
    let ours: Vec<_> =
        ours.filter(|request| request.uri.contains("ending-target") || request.namespace == "ending").collect();
    assert!(ours.len() <= 12, "{ours:#?}");

    let api = world.get_in("ending-target", "v1", "ConfigMap", "holder").await;
    assert!(api.is_some());
    world
        .plane
        .kubectl(&[
            "patch",
            "configmap",
            "holder",
            "-n",
            "ending-target",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])
        .unwrap();
    world.plane.kubectl(&["wait", "--for=delete", "namespace/ending-target", "--timeout=30s"]).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.plane.kubectl(&["get", "namespace", "ending-target"]).is_err(), "git does not declare it");
    world.namespace_for_deployer("ending-target").await;
    world.runs("ending", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_git_declares_comes_back_with_what_is_in_it() {
    let mut world = World::new("declared").await;
    world.administers();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "declared-target"}});
    world.repo.commit(
        "master",
        "first",
        &[("prod/namespace.yaml", &namespace.to_string()), ("prod/a.yaml", &config_map("a", "1"))],
    );
    world.repository().await;
    let spec = json!({"lane": "master", "path": "prod", "namespace": "declared-target", "allow": {"clusterKinds": ["Namespace"]}});
    world.environment("declared", spec).await;
    world.start_agent();
    world.runs("declared", "master").await;
    let before = world.get_in("declared-target", "v1", "ConfigMap", "a").await.unwrap();
    world.plane.kubectl(&["delete", "namespace", "declared-target", "--timeout=30s"]).unwrap();
    for _ in 0..300 {
        let now = world.get_in("declared-target", "v1", "ConfigMap", "a").await.unwrap_or_default();
        if now["metadata"]["uid"].is_string() && now["metadata"]["uid"] != before["metadata"]["uid"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it did not come back: {:#?}\n{}", world.status("declared").await, world.agent_log());
}
