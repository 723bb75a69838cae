//! What is not in git and is still there: found again where it is ours, listed where that cannot be proven.

use serde_json::{Value, json};
use support::world::World;

use crate::confirm::{towpath, user};
use crate::prune::{deletes, drop_files, placed, running};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_inventory_is_found_again_by_labels_and_a_forged_one_prunes_nothing() {
    let mut world = running("inventory", 6, &[]).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "alone", "namespace": "inventory"}});
    let foreign =
        ["theirs", "copied"].map(|name| serde_json::from_str::<Value>(&placed(name, "x", "inventory")).unwrap());
    for object in &foreign {
        world.apply(object.clone()).await;
    }
    // Its label is copied, and nothing else of it is ours.
    let labels = world.get("v1", "ConfigMap", "c0").await.unwrap()["metadata"]["labels"].clone();
    world.patch("v1", "ConfigMap", "copied", json!({"metadata": {"labels": labels}})).await;
    let status =
        world.status_where("inventory", "listing the orphan", |status| status.leftovers.orphan_count == 1).await;
    assert_eq!(status.leftovers.orphans[0].object, "ConfigMap inventory/copied");

    // The only object of its kind leaves git while nobody knows of it.
    world.repo.commit("master", "a secret", &[("prod/secret.yaml", &secret.to_string())]);
    world.runs("inventory", "master").await;
    world.kill_agent();
    world.plane.kubectl(&["delete", "configmap", "towpath-inventory-inventory", "-n", "inventory"]).unwrap();
    drop_files(&world, &["prod/secret.yaml", "prod/0.yaml"]);
    world.start_agent();
    world.object_where("v1", "Secret", "alone", "pruned", Value::is_null).await;
    world.object_where("v1", "ConfigMap", "c0", "pruned", Value::is_null).await;
    world.runs("inventory", "master").await;

    // Somebody writes foreign objects into it.
    world.kill_agent();
    let uid = |name: &'static str| {
        let world = &world;
        async move { world.get("v1", "ConfigMap", name).await.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned() }
    };
    let lines = format!(
        "v1 ConfigMap inventory theirs {}\nv1 ConfigMap inventory copied {}\nv1 ConfigMap kube-system other 1\n",
        uid("theirs").await,
        uid("copied").await
    );
    write_inventory(&world, "inventory", &lines).await;
    let mark = world.mark();
    drop_files(&world, &["prod/1.yaml"]);
    world.start_agent();
    world.object_where("v1", "ConfigMap", "c1", "pruned", Value::is_null).await;
    world.runs("inventory", "master").await;
    let deleted: Vec<String> = deletes(&world, mark).into_iter().map(|request| request.name).collect();
    assert_eq!(deleted, ["c1"]);
    for name in ["theirs", "copied"] {
        assert!(world.get("v1", "ConfigMap", name).await.is_some(), "{name}");
    }
}

async fn write_inventory(world: &World, environment: &str, lines: &str) {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(lines.as_bytes()).unwrap();
    let packed = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, packed.finish().unwrap());
    let patch = json!({"binaryData": {"members.gz": packed}});
    world.patch("v1", "ConfigMap", &format!("towpath-inventory-{environment}"), patch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_label_is_an_orphan_until_it_is_labelled_or_let_go() {
    let mut world = running("unlabelled", 6, &[]).await;
    world.kill_agent();
    drop_files(&world, &["prod/0.yaml", "prod/1.yaml"]);
    for name in ["c0", "c1"] {
        world.plane.kubectl(&["label", "configmap", name, "towpath.dev/environment-", "-n", "unlabelled"]).unwrap();
    }
    let mark = world.mark();
    world.start_agent();
    let status = world.status_where("unlabelled", "listing them", |status| status.leftovers.orphan_count == 2).await;
    assert!(status.leftovers.orphans[0].reason.contains("lost the label"), "{status:#?}");
    assert_eq!(deletes(&world, mark), []);
    user(&world, "viewer", &["get", "list"]).await;
    let (_, said) = towpath(&world, "viewer", &["get", "unlabelled", "--orphans"]);
    assert!(said.contains("ConfigMap unlabelled/c0") && said.contains("orphan"), "{said}");

    world
        .plane
        .kubectl(&["label", "configmap", "c0", "towpath.dev/environment=unlabelled", "-n", "unlabelled"])
        .unwrap();
    world.object_where("v1", "ConfigMap", "c0", "pruned", Value::is_null).await;
    world.plane.kubectl(&["delete", "configmap", "c1", "-n", "unlabelled"]).unwrap();
    world.request_sync("unlabelled", "now").await;
    world.status_where("unlabelled", "rid of them", |status| status.leftovers.orphan_count == 0).await;
}
