//! Environments that are deleted: their objects stay, or go in order, and no namespace is ever held.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::world::World;

use crate::manifests::{config_map, deployment};
use crate::settled::deleted;

const ENVIRONMENT: (&str, &str) = ("towpath.dev/v1alpha1", "Environment");

/// An environment whose objects go with it: two ConfigMaps, a Deployment, a claim, and one that is never pruned.
async fn leaving(name: &str, spec: Value) -> World {
    let mut world = World::new(name).await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let mut never: Value = serde_json::from_str(&config_map("never", "1")).unwrap();
    never["metadata"]["annotations"] = json!({"towpath.dev/prune": "Never"});
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/b.yaml", &config_map("b", "1")),
            ("prod/web.yaml", &deployment("web", "web:1")),
            ("prod/data.yaml", &claim.to_string()),
            ("prod/never.yaml", &never.to_string()),
        ],
    );
    world.repository().await;
    let mut whole = json!({"lane": "master", "path": "prod", "deletionPolicy": "Prune"});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    world.environment(name, whole).await;
    // The times of a farewell are minutes.
    world.start_options().time_scale = 60;
    world.start_agent();
    // A claim that nobody binds never becomes healthy.
    world.status_where(name, "applied", |status| status.running.is_some()).await;
    world
}

async fn delete(world: &World, name: &str) {
    let api = world.api(ENVIRONMENT.0, ENVIRONMENT.1).await;
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

async fn is_gone(world: &World, name: &str) {
    world.object_where(ENVIRONMENT.0, ENVIRONMENT.1, name, "gone", Value::is_null).await;
}

async fn is_there(world: &World, kind: &str, name: &str) -> bool {
    let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
    world.get(version, kind, name).await.is_some_and(|object| object["metadata"]["deletionTimestamp"].is_null())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_with_its_environment_goes_in_order_and_what_is_protected_stays_and_is_named() {
    let world = leaving("farewell", json!({})).await;
    let mark = world.mark();
    delete(&world, "farewell").await;
    is_gone(&world, "farewell").await;
    let deleted = deleted(&world, mark);
    assert_eq!(deleted[0], "web", "workloads first: {deleted:?}");
    assert_eq!(deleted.len(), 3, "{deleted:?}");
    assert!(is_there(&world, "ConfigMap", "never").await);
    assert!(is_there(&world, "PersistentVolumeClaim", "data").await);
    let events =
        world.plane.kubectl(&["get", "events", "-n", "farewell", "-o", "jsonpath={..note}{..message}"]).unwrap();
    assert!(events.contains("PersistentVolumeClaim farewell/data") && events.contains("left behind"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_is_deleted_while_the_agent_is_away_and_git_is_gone_takes_its_objects_along() {
    let mut world = leaving("farewell-away", json!({})).await;
    world.kill_agent();
    delete(&world, "farewell-away").await;
    world.plane.kubectl(&["delete", "repository", "shop", "-n", "farewell-away"]).unwrap();
    // Without the inventory, too: the status says where to look.
    world.plane.kubectl(&["delete", "configmap", "towpath-inventory-farewell-away", "-n", "farewell-away"]).unwrap();
    world.start_agent();
    is_gone(&world, "farewell-away").await;
    for (kind, name) in [("ConfigMap", "a"), ("ConfigMap", "b"), ("Deployment", "web")] {
        assert!(!is_there(&world, kind, name).await, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_environment_and_one_that_leaves_orphans_delete_nothing() {
    let world = leaving("farewell-orphan", json!({})).await;
    let mark = world.mark();
    world.patch(ENVIRONMENT.0, ENVIRONMENT.1, "farewell-orphan", json!({"spec": {"suspend": true}})).await;
    delete(&world, "farewell-orphan").await;
    is_gone(&world, "farewell-orphan").await;
    let uid = world.get("v1", "ConfigMap", "a").await.unwrap()["metadata"]["uid"].clone();

    // One of the same name takes them up again, and now leaves them by its policy.
    world.environment("farewell-orphan", json!({"repository": "shop", "lane": "master", "path": "prod"})).await;
    world.status_where("farewell-orphan", "applied", |status| status.running.is_some()).await;
    let environment = world.get(ENVIRONMENT.0, ENVIRONMENT.1, "farewell-orphan").await.unwrap();
    assert!(environment["metadata"]["finalizers"].is_null(), "{environment:#}");
    delete(&world, "farewell-orphan").await;
    is_gone(&world, "farewell-orphan").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["metadata"]["uid"], uid);
    let requests = world.requests_since(mark);
    let touched: Vec<_> = requests
        .iter()
        .filter(|request| request.impersonated.is_some() && (request.verb == "delete" || request.code == 201))
        .collect();
    assert!(touched.is_empty(), "{touched:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stuck_is_waited_for_and_given_up_in_the_end() {
    let world = leaving("farewell-stuck", json!({})).await;
    world.patch("apps/v1", "Deployment", "web", json!({"metadata": {"finalizers": ["example.com/slow"]}})).await;
    delete(&world, "farewell-stuck").await;
    world
        .status_where("farewell-stuck", "naming it", |status| {
            status.leftovers.kept.iter().any(|kept| kept.reason.contains("finalizer example.com/slow"))
        })
        .await;
    assert!(is_there(&world, "ConfigMap", "a").await, "what workloads stand on goes after them");
    // Ten minutes, divided by the scale of this agent.
    is_gone(&world, "farewell-stuck").await;
    let events =
        world.plane.kubectl(&["get", "events", "-n", "farewell-stuck", "-o", "jsonpath={..note}{..message}"]).unwrap();
    assert!(events.contains("example.com/slow"), "{events}");
    world.patch("apps/v1", "Deployment", "web", json!({"metadata": {"finalizers": null}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_whose_account_is_gone_can_be_deleted() {
    let world = leaving("farewell-account", json!({})).await;
    world.plane.kubectl(&["delete", "rolebinding", "towpath-deployer", "-n", "farewell-account"]).unwrap();
    world.plane.kubectl(&["delete", "serviceaccount", "towpath-deployer", "-n", "farewell-account"]).unwrap();
    delete(&world, "farewell-account").await;
    is_gone(&world, "farewell-account").await;
    assert!(is_there(&world, "ConfigMap", "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_environments_and_their_account_goes_at_once() {
    let mut world = leaving("farewell-namespace", json!({})).await;
    // With the waits of production: it must not be a time that runs out.
    world.kill_agent();
    world.start_options().time_scale = 1;
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.plane.kubectl(&["delete", "namespace", "farewell-namespace", "--timeout=25s"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_environment_has_in_git_is_handed_to_it_before_the_environment_goes() {
    let world = leaving("farewell-heir", json!({})).await;
    let uid = world.get("v1", "ConfigMap", "a").await.unwrap()["metadata"]["uid"].clone();
    world.repo.commit("master", "also there", &[("heir/a.yaml", &config_map("a", "heir"))]);
    world.environment("farewell-heir-two", json!({"lane": "master", "path": "heir"})).await;
    world
        .status_where("farewell-heir-two", "waiting for it", |status| {
            status.problems.iter().any(|problem| problem.contains("belongs to environment farewell-heir already"))
        })
        .await;
    delete(&world, "farewell-heir").await;
    world.runs("farewell-heir-two", "master").await;
    is_gone(&world, "farewell-heir").await;
    let object = world.get("v1", "ConfigMap", "a").await.unwrap();
    assert_eq!((&object["metadata"]["uid"], &object["data"]["key"]), (&uid, &json!("heir")));
    assert!(!is_there(&world, "ConfigMap", "b").await);
}
