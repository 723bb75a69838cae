//! What others do to the cluster while a release is under way or the agent is down.

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use support::faults::{Action, On};
use support::world::World;
use towpath_core::status::{EnvironmentStatus, State};

use super::release::Release;
use crate::manifests::config_map;
use crate::settled::{deleted, inventory, runs_on, uid};

/// A world whose environment, named like it, runs three ConfigMaps.
async fn settled(name: &str) -> World {
    let files = ["a", "b", "c"].map(|name| (format!("prod/{name}.yaml"), config_map(name, "1")));
    runs_on(World::new(name).await, &files).await
}

/// Writes an inventory as somebody would who edits it.
async fn edit_inventory(world: &World, lines: &str) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(lines.as_bytes()).unwrap();
    let packed = base64::engine::general_purpose::STANDARD.encode(encoder.finish().unwrap());
    let name = format!("towpath-inventory-{}", world.namespace);
    world.patch("v1", "ConfigMap", &name, json!({"binaryData": {"members.gz": packed}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_made_anew_while_nobody_watched_is_a_new_member() {
    let mut world = settled("renewed").await;
    let before = uid(&world.get("v1", "ConfigMap", "a").await.unwrap());
    world.kill_agent();
    // The same name, and even our label: but not what the inventory knows.
    let mut copy: Value = serde_json::from_str(&config_map("a", "theirs")).unwrap();
    copy["metadata"]["labels"] = world.get("v1", "ConfigMap", "a").await.unwrap()["metadata"]["labels"].clone();
    copy["metadata"]["namespace"] = "renewed".into();
    world.plane.kubectl(&["delete", "configmap", "a", "-n", "renewed"]).unwrap();
    world.apply(copy).await;
    world.start_agent();
    world.object_where("v1", "ConfigMap", "a", "ours again", |object| object["data"]["key"] == "1").await;
    world.runs("renewed", "master").await;
    let after = uid(&world.get("v1", "ConfigMap", "a").await.unwrap());
    assert_ne!(before, after);
    let mut lines = inventory(&world).await;
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while !lines.contains(&after) {
        assert!(std::time::Instant::now() < deadline, "{lines}\n{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
        lines = inventory(&world).await;
    }
    assert!(!lines.contains(&before), "{lines}");
    // And it is pruned as what it is.
    world.repo.delete("master", "prod/a.yaml");
    world.object_where("v1", "ConfigMap", "a", "pruned", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_that_others_annotate_or_delete_holds_up_no_pass_and_loses_nobody() {
    let world = settled("touched").await;
    let name = "towpath-inventory-touched";
    let lists_all = async |names: &[&str]| {
        let lines = inventory(&world).await;
        for name in names {
            let uid = uid(&world.get("v1", "ConfigMap", name).await.unwrap());
            assert!(lines.contains(&format!(" {name} {uid}")), "{name}: {lines}\n{}", world.agent_log());
        }
        assert_eq!(lines.lines().count(), names.len(), "{lines}");
    };
    let note = json!({"metadata": {"annotations": {"example.com/backup": "done"}}});
    world.patch("v1", "ConfigMap", name, note).await;
    world.repo.commit("master", "second", &[("prod/d.yaml", &config_map("d", "1"))]);
    world.runs("touched", "master").await;
    lists_all(&["a", "b", "c", "d"]).await;

    world.delete("v1", "ConfigMap", name).await;
    world.repo.commit("master", "third", &[("prod/e.yaml", &config_map("e", "1"))]);
    world.runs("touched", "master").await;
    lists_all(&["a", "b", "c", "d", "e"]).await;
    let log = world.agent_log();
    assert!(!log.contains("the inventory"), "a pass failed\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_bears_the_agents_name_is_pruned_once_and_without_delay() {
    let world = settled("namesake").await;
    let mut namesake: Value = serde_json::from_str(&config_map("namesake", "1")).unwrap();
    namesake["metadata"]["labels"] = json!({"app.kubernetes.io/name": "towpath"});
    world.repo.commit("master", "second", &[("prod/namesake.yaml", &namesake.to_string())]);
    world.runs("namesake", "master").await;
    let mark = world.mark();
    // The version that is known is not the one that is there.
    for number in 0..3 {
        let note = json!({"metadata": {"annotations": {"example.com/count": number.to_string()}}});
        world.patch("v1", "ConfigMap", "namesake", note).await;
    }
    world.repo.delete("master", "prod/namesake.yaml");
    world.object_where("v1", "ConfigMap", "namesake", "pruned", Value::is_null).await;
    world.runs("namesake", "master").await;
    assert!(deleted(&world, mark).iter().all(|name| name == "namesake"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_that_lists_what_is_not_ours_deletes_none_of_it() {
    let mut world = settled("forged").await;
    let foreign = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "forged", "labels": labels}, "data": {"key": "theirs"},
        })
    };
    let ours = world.get("v1", "ConfigMap", "a").await.unwrap()["metadata"]["labels"].clone();
    world.apply(foreign("plain", json!({}))).await;
    world.apply(foreign("labelled", ours)).await;
    world.kill_agent();
    let mut lines = inventory(&world).await;
    for name in ["plain", "labelled"] {
        let uid = uid(&world.get("v1", "ConfigMap", name).await.unwrap());
        lines += &format!("v1 ConfigMap forged {name} {uid}\n");
    }
    let root = "kube-root-ca.crt";
    let root_uid = uid(&world.get("v1", "ConfigMap", root).await.unwrap());
    lines += &format!("v1 ConfigMap forged {root} {root_uid}\n");
    edit_inventory(&world, &lines).await;
    let mark = world.mark();
    world.start_agent();
    world.repo.delete("master", "prod/c.yaml");
    world.object_where("v1", "ConfigMap", "c", "pruned", Value::is_null).await;
    world.runs("forged", "master").await;
    assert_eq!(deleted(&world, mark), ["c"], "only what carries our label and what we applied");
    let lines = inventory(&world).await;
    // What carries our label and nothing else of ours stays in sight of people, and nobody deletes it.
    assert!(!lines.contains("plain") && !lines.contains(root), "{lines}");
    let is_named =
        |status: &EnvironmentStatus| status.leftovers.orphans.iter().any(|orphan| orphan.object.ends_with("labelled"));
    world.status_where("forged", "told of it", is_named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_and_a_status_that_somebody_deleted_come_back() {
    let mut world = settled("erased").await;
    world.kill_agent();
    let before = inventory(&world).await;
    world.plane.kubectl(&["delete", "configmap", "towpath-inventory-erased", "-n", "erased"]).unwrap();
    let clear = ["patch", "environment", "erased", "-n", "erased", "--subresource=status", "--type=json"];
    world.plane.kubectl(&[&clear[..], &["-p", r#"[{"op": "remove", "path": "/status"}]"#]].concat()).unwrap();
    // Meanwhile git drops one of them: found by its label.
    world.repo.delete("master", "prod/c.yaml");
    let mark = world.mark();
    world.start_agent();
    world.object_where("v1", "ConfigMap", "c", "pruned", Value::is_null).await;
    world.runs("erased", "master").await;
    let status = world.status_where("erased", "synced", |status| status.state == State::Synced).await;
    assert_eq!(status.objects, 2);
    let kept = |lines: &str| lines.lines().filter(|line| !line.contains(" c ")).map(str::to_owned).collect::<Vec<_>>();
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    loop {
        let now = inventory(&world).await;
        if kept(&now) == kept(&before) && !now.contains(" c ") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let requests = world.requests_since(mark);
    let made = requests.iter().filter(|request| request.impersonated.is_some() && request.code == 201).count();
    assert_eq!(made, 0, "nothing is made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_in_the_middle_of_a_release_is_named_and_heals() {
    let mut release = Release::prepare("unbound").await;
    release.world.start_agent();
    release.settle().await;
    release.comes_to_rest().await;
    // When the first object of the second commit is applied, the account loses its rights; the rest waits a moment.
    let later =
        On::those(|asked| asked.is_write() && ["deployments", "serviceaccounts"].contains(&asked.resource.as_str()));
    release.proxy.inject(later, Action::Delay(Duration::from_secs(2)));
    release.second_commit();
    release.world.object_where("v1", "ConfigMap", "joins", "there", |object| !object.is_null()).await;
    let mark = release.world.mark();
    release.world.plane.kubectl(&["delete", "rolebinding", "towpath-deployer", "-n", "unbound"]).unwrap();
    let status = release
        .world
        .status_where("unbound", "told of the right", |status| {
            status.problems.iter().any(|problem| problem.contains("deployments") && problem.contains("patch"))
        })
        .await;
    assert_eq!(status.state, State::Blocked);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let requests = release.world.requests_since(mark);
    assert!(!requests.iter().any(|request| request.verb == "delete" && request.code < 300), "{requests:#?}");
    release.proxy.heal();
    release
        .world
        .apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "towpath-deployer", "namespace": "unbound"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "towpath-deployer", "namespace": "unbound"}],
        }))
        .await;
    release.settle().await;
    release.comes_to_rest().await;
    release.rests(Duration::from_secs(2)).await;
    let end = release.end().await;
    assert_eq!(end.members, end.labelled);
    assert!(end.effects.values().all(|(created, deleted)| *created <= 1 && *deleted <= 1), "{:?}", end.effects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_kinds_that_is_not_served_for_a_while_deletes_nothing() {
    let mut world = World::new("unserved").await;
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "barges.faults.example.com"},
        "spec": {
            "group": "faults.example.com", "scope": "Namespaced",
            "names": {"kind": "Barge", "plural": "barges", "singular": "barge"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }}}],
        },
    });
    world.apply(crd).await;
    world.plane.kubectl(&["wait", "--for=condition=Established", "crd/barges.faults.example.com"]).unwrap();
    let barge = |name: &str| {
        let text = json!({"apiVersion": "faults.example.com/v1", "kind": "Barge", "metadata": {"name": name}, "spec": {"tons": 40}});
        text.to_string()
    };
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/b.yaml", &barge("one")),
            ("prod/d.yaml", &barge("two")),
            ("prod/c.yaml", &config_map("settings", "1")),
            ("prod/e.yaml", &config_map("leaves", "1")),
            ("other/c.yaml", &config_map("other", "1")),
            ("other/e.yaml", &config_map("other-leaves", "1")),
        ],
    );
    world.repository().await;
    world.environment("unserved", json!({"lane": "master", "path": "prod"})).await;
    world.environment("unserved-other", json!({"lane": "master", "path": "other"})).await;
    world.start_agent();
    world.runs("unserved", "master").await;
    world.runs("unserved-other", "master").await;

    // The group is handed to a server that is not there. Without its label nobody puts the registration right again.
    let service = "v1.faults.example.com";
    let nowhere = json!([
        {"op": "remove", "path": "/metadata/labels/kube-aggregator.kubernetes.io~1automanaged"},
        {"op": "add", "path": "/spec/service", "value": {"name": "nowhere", "namespace": "unserved", "port": 443}},
        {"op": "add", "path": "/spec/insecureSkipTLSVerify", "value": true},
    ]);
    world.plane.kubectl(&["patch", "apiservice", service, "--type=json", "-p", &nowhere.to_string()]).unwrap();
    world
        .plane
        .kubectl(&["wait", "--for=condition=Available=False", &format!("apiservice/{service}"), "--timeout=30s"])
        .unwrap();
    let mark = world.mark();
    // At a start, and at a commit that drops one of each.
    world.kill_agent();
    world.repo.branch("next", "master");
    for file in ["prod/d.yaml", "prod/e.yaml", "other/e.yaml"] {
        world.repo.delete("next", file);
    }
    world.repo.branch("master", "next");
    world.start_agent();
    // Who has nothing of that group goes on.
    world.runs("unserved-other", "master").await;
    // It waits a while for the other environment, which might want it and cannot look at git.
    world.object_where("v1", "ConfigMap", "other-leaves", "pruned", Value::is_null).await;
    world
        .status_where("unserved", "told of the group", |status| {
            status.state != State::Synced
                && status.problems.iter().any(|problem| problem.contains("Barge") || problem.contains("barges"))
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(deleted(&world, mark), ["other-leaves"]);

    // It is registered anew by itself when the wrong registration goes.
    world.plane.kubectl(&["delete", "apiservice", service]).unwrap();
    world.object_where("v1", "ConfigMap", "leaves", "pruned", Value::is_null).await;
    world.runs("unserved", "master").await;
    let barges = world.plane.kubectl(&["get", "barges", "-n", "unserved", "-o", "name"]).unwrap();
    assert_eq!(barges.trim(), "barge.faults.example.com/one");
    world.plane.kubectl(&["delete", "crd", "barges.faults.example.com", "--wait=false"]).unwrap();
}
