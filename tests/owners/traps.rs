//! Content that servers and controllers make something else of: none of it is a fight, and what git drops goes.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::world::World;

use super::{patch_as, writes};
use crate::manifests::deployment;

fn secret(texts: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": texts})
}

fn autoscaler() -> Value {
    json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "old"},
        "spec": {"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 60,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nothing"}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_otherwise_than_it_was_sent_is_known_and_goes_when_it_leaves_git() {
    let mut world = World::new("traps").await;
    world.administers();
    let aggregated = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "traps-all"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"traps": "yes"}}]}, "rules": [],
    });
    let part = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "traps-part", "labels": {"traps": "yes"}},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    });
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1000"}},
    });
    let mut web: Value = serde_json::from_str(&deployment("web", "web:1")).unwrap();
    web["metadata"]["annotations"] = json!({"nothing": null});
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/all.yaml", &aggregated.to_string()),
            ("prod/part.yaml", &part.to_string()),
            ("prod/q.yaml", &quota.to_string()),
            ("prod/web.yaml", &web.to_string()),
            ("prod/login.yaml", &secret(json!({"user": "ada", "password": "x"})).to_string()),
            ("prod/old.yaml", &autoscaler().to_string()),
        ],
    );
    world.repository().await;
    let allow = json!({"clusterKinds": ["ClusterRole.rbac.authorization.k8s.io"]});
    world.environment("traps", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    world.start_agent();
    world.runs("traps", "master").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mark = world.mark_at_rest().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for name in ["traps-all", "traps-part", "q", "web", "login", "old"] {
        assert_eq!(writes(&world, mark, name), 0, "{name} rests");
    }
    let found = world.plane.kubectl(&["get", "clusterrole", "traps-all", "-o", "jsonpath={.rules}"]).unwrap();
    assert!(found.contains("pods"), "the control plane fills it in: {found}");

    // What others do to a Secret that was written as stringData is seen, and a key that git drops goes.
    patch_as(&world, "hand", "v1", "Secret", "login", json!({"stringData": {"password": "hacked"}})).await;
    let is_ours = |object: &Value| object["data"]["password"] == "eA==";
    world.object_where("v1", "Secret", "login", "mended", is_ours).await;
    world.repo.commit("master", "drop", &[("prod/login.yaml", &secret(json!({"user": "ada"})).to_string())]);
    world
        .object_where("v1", "Secret", "login", "without the key", |object| object["data"].get("password").is_none())
        .await;

    // Replicas that leave git go to the default: one.
    let mut without: Value = web.clone();
    without["spec"].as_object_mut().unwrap().remove("replicas");
    world.repo.commit("master", "no replicas", &[("prod/web.yaml", &without.to_string())]);
    world
        .object_where("apps/v1", "Deployment", "web", "at the default", |object| object["spec"]["replicas"] == 1)
        .await;
    world.runs("traps", "master").await;

    // Somebody who writes under our own name makes no hole.
    patch_as(&world, "towpath", "v1", "ResourceQuota", "q", json!({"spec": {"hard": {"pods": "5"}}})).await;
    world.object_where("v1", "ResourceQuota", "q", "mended", |object| object["spec"]["hard"]["pods"] == "1k").await;
    let theirs = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "7"}}});
    let params = PatchParams::apply("towpath").force();
    world.api("v1", "ResourceQuota").await.patch("q", &params, &Patch::Apply(&theirs)).await.unwrap();
    world
        .object_where("v1", "ResourceQuota", "q", "ours again, with its label", |object| {
            object["spec"]["hard"]["pods"] == "1k" && object["metadata"]["labels"]["towpath.dev/environment"] == "traps"
        })
        .await;
    let _ = world.plane.kubectl(&["delete", "clusterrole", "traps-all", "traps-part"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_drift_is_only_reported_a_restart_writes_nothing() {
    let mut world = World::new("reporting").await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "1000", "services": "10"}},
    });
    world.repo.commit(
        "master",
        "first",
        &[("prod/q.yaml", &quota.to_string()), ("prod/web.yaml", &deployment("web", "web:1"))],
    );
    world.follow("reporting", json!({"lane": "master", "path": "prod", "drift": "Report"})).await;
    world.runs("reporting", "master").await;
    world.kill_agent();
    let mark = world.mark();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(writes(&world, mark, "q") + writes(&world, mark, "web"), 0);
    assert!(super::asked(&world, mark, "q").contains(&"patch?dry-run".to_owned()), "it is tried");
    assert!(world.status("reporting").await.drift.is_none());

    // Drift from the time when nobody looked is reported and left.
    world.kill_agent();
    patch_as(&world, "hand", "v1", "ResourceQuota", "q", json!({"spec": {"hard": {"services": "3"}}})).await;
    let mark = world.mark();
    world.start_agent();
    world.status_where("reporting", "told of drift", |status| status.drift.is_some()).await;
    assert_eq!(writes(&world, mark, "q"), 0);
    // A new revision is applied.
    let quota = quota.to_string().replace("\"10\"", "\"12\"");
    world.repo.commit("master", "second", &[("prod/q.yaml", &quota)]);
    world
        .object_where("v1", "ResourceQuota", "q", "applied", |object| object["spec"]["hard"]["services"] == "12")
        .await;
}
