//! From another tool to Towpath and back: nothing of the other tool's is left over, nothing is lost.

use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::world::World;

use super::{apply_as, asked, events, managers, patch_as, writes};
use crate::manifests::config_map;

fn adopting(manifest: &Value) -> String {
    let mut manifest = manifest.clone();
    manifest["metadata"]["annotations"] = json!({"towpath.dev/adopt": "true"});
    manifest.to_string()
}

/// A Deployment with these variables.
fn web(variables: &[&str]) -> Value {
    let env: Vec<Value> = variables.iter().map(|name| json!({"name": name, "value": "1"})).collect();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1", "env": env}]},
            },
        },
    })
}

fn variables(deployment: &Value) -> Vec<&str> {
    let env = deployment.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
    env.into_iter().flatten().filter_map(|entry| entry["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_applied_is_taken_over_and_what_git_removes_goes() {
    let mut world = World::new("from-kubectl").await;
    let file = world.folder().join("web.json");
    let mut by_hand = web(&["A", "B", "OLD"]);
    by_hand["metadata"]["labels"] = json!({"theirs": "1"});
    std::fs::write(&file, by_hand.to_string()).unwrap();
    world.plane.kubectl(&["apply", "-n", "from-kubectl", "-f", &file.display().to_string()]).unwrap();
    let before = world.get("apps/v1", "Deployment", "web").await.unwrap();
    assert!(managers(&before).contains(&"kubectl-client-side-apply Update".to_owned()), "{before:#}");

    let mark = world.mark();
    world.repo.commit("master", "adopt", &[("prod/web.yaml", &adopting(&web(&["A", "B"])))]);
    world.follow("from-kubectl", json!({"lane": "master", "path": "prod"})).await;
    let status = world.runs("from-kubectl", "master").await;
    let object = world.get("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!(variables(&object), ["A", "B"], "what git does not have is gone at once");
    assert_eq!(object["metadata"]["labels"].get("theirs"), None);
    assert_eq!(object.pointer("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration"), None);
    let managers = managers(&object);
    assert!(!managers.iter().any(|manager| manager.starts_with("kubectl")), "{managers:?}");
    assert!(!managers.contains(&"towpath Update".to_owned()), "{managers:?}");
    assert_eq!(before["metadata"]["uid"], object["metadata"]["uid"]);
    // One look by name, one at the whole, the take-over, the apply.
    assert_eq!(asked(&world, mark, "web"), ["get", "get", "patch", "patch"]);
    let said = &status.history[0].took_over;
    assert!(said.iter().any(|line| line.contains("from kubectl-client-side-apply")), "{said:?}");
    assert!(!events(&world, "TookOver").is_empty());

    world.repo.commit("master", "drop", &[("prod/web.yaml", &adopting(&web(&["A"])))]);
    world.runs("from-kubectl", "master").await;
    assert_eq!(variables(&world.get("apps/v1", "Deployment", "web").await.unwrap()), ["A"]);

    // Somebody applies by hand once more: what they brought goes, and what they share with us is ours alone again.
    std::fs::write(&file, web(&["A", "HAND"]).to_string()).unwrap();
    let file = file.display().to_string();
    world.plane.kubectl(&["apply", "--server-side", "-n", "from-kubectl", "-f", &file]).unwrap();
    world
        .object_where("apps/v1", "Deployment", "web", "ours alone again", |object| {
            variables(object) == ["A"] && !super::managers(object).contains(&"kubectl Apply".to_owned())
        })
        .await;
    let mark = world.mark_at_rest().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(writes(&world, mark, "web"), 0, "and then it rests");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flux_and_argo_cd_applied_is_taken_over_whichever_way_they_did() {
    let mut world = World::new("from-tools").await;
    let object = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    let tools = ["kustomize-controller", "argocd-controller", "kubectl", "my-tool"];
    for tool in tools {
        apply_as(&world, tool, &object(&format!("{tool}-apply"), json!({"a": "1", "b": "1", "old": "1"}))).await;
        let updated =
            serde_json::from_value(object(&format!("{tool}-update"), json!({"a": "1", "b": "1", "old": "1"}))).unwrap();
        let params = PostParams { field_manager: Some(tool.into()), ..PostParams::default() };
        world.api("v1", "ConfigMap").await.create(&params, &updated).await.unwrap();
    }
    let names: Vec<String> =
        tools.iter().flat_map(|tool| [format!("{tool}-apply"), format!("{tool}-update")]).collect();
    let commit = |world: &World, data: Value| {
        let files: Vec<(String, String)> =
            names.iter().map(|name| (format!("prod/{name}.yaml"), adopting(&object(name, data.clone())))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        world.repo.commit("master", "next", &files);
    };
    commit(&world, json!({"a": "1", "b": "1"}));
    world.follow("from-tools", json!({"lane": "master", "path": "prod", "takeOver": ["my-tool"]})).await;
    world.runs("from-tools", "master").await;
    for name in &names {
        let found = world.get("v1", "ConfigMap", name).await.unwrap();
        assert_eq!(found["data"], json!({"a": "1", "b": "1"}), "{name}");
        assert_eq!(managers(&found), ["towpath Apply"], "{name}");
    }
    commit(&world, json!({"a": "1"}));
    world.runs("from-tools", "master").await;
    for name in &names {
        assert_eq!(world.get("v1", "ConfigMap", name).await.unwrap()["data"], json!({"a": "1"}), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_managed_fields_were_wiped_what_git_removes_still_goes() {
    let mut world = World::new("wiped").await;
    world.repo.commit("master", "first", &[("prod/web.yaml", &web(&["A", "B"]).to_string())]);
    world.follow("wiped", json!({"lane": "master", "path": "prod"})).await;
    world.runs("wiped", "master").await;
    let wiped = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let wiped: Patch<()> = Patch::Json(serde_json::from_value(wiped).unwrap());
    world.api("apps/v1", "Deployment").await.patch("web", &PatchParams::default(), &wiped).await.unwrap();
    world
        .object_where("apps/v1", "Deployment", "web", "ours alone", |object| {
            let image = |entry: &Value| {
                entry.pointer("/fieldsV1/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"web\"}/f:image").is_some()
            };
            let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            let owners: Vec<&str> =
                entries.iter().filter(|entry| image(entry)).filter_map(|entry| entry["manager"].as_str()).collect();
            owners == ["towpath"]
        })
        .await;
    world.repo.commit("master", "drop", &[("prod/web.yaml", &web(&["A"]).to_string())]);
    world.runs("wiped", "master").await;
    assert_eq!(variables(&world.get("apps/v1", "Deployment", "web").await.unwrap()), ["A"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_git_drops_and_another_keeps_is_named_and_so_is_what_is_taken() {
    let mut world = World::new("co-owned").await;
    let object =
        |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    world.repo.commit("master", "first", &[("prod/a.yaml", &object(json!({"key": "1", "shared": "1"})).to_string())]);
    world.follow("co-owned", json!({"lane": "master", "path": "prod"})).await;
    world.runs("co-owned", "master").await;
    // Somebody applies a value that we have too, and one of their own.
    apply_as(&world, "colleague", &object(json!({"shared": "1", "theirs": "secret-value"}))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let mark = world.mark();
    world.repo.commit("master", "drop", &[("prod/a.yaml", &object(json!({"key": "1"})).to_string())]);
    world.runs("co-owned", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["shared"], "1", "the server keeps it");
    let status = world.status("co-owned").await;
    let said = "ConfigMap co-owned/a: data.shared left git and stays: colleague has it too";
    assert!(status.warnings.iter().any(|warning| warning.contains(said)), "{:?}", status.warnings);
    assert!(events(&world, "FieldStays").iter().any(|note| note.contains("data.shared left git")));
    assert_eq!(asked(&world, mark, "a"), ["get", "patch"], "it is read first because it is shared");

    // Now git wants another value where somebody else has one.
    let mark = world.mark();
    world.repo.commit("master", "take", &[("prod/a.yaml", &object(json!({"key": "1", "theirs": "2"})).to_string())]);
    let status = world.runs("co-owned", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["theirs"], "2");
    assert_eq!(status.history[0].took_over, ["ConfigMap co-owned/a: data.theirs from colleague"]);
    let verbs = asked(&world, mark, "a");
    assert_eq!(verbs, ["patch", "get", "patch"], "it is not forced before it is known whom it is taken from");
    let log = world.agent_log();
    assert!(!log.contains("secret-value"), "values are in no report");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_leaves_git_while_it_is_disabled_stays() {
    let mut world = World::new("disabled").await;
    let mut left: Value = serde_json::from_str(&config_map("left", "2")).unwrap();
    left["metadata"]["annotations"] = json!({"towpath.dev/reconcile": "Disabled"});
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/left.yaml", &config_map("left", "1")),
            ("prod/b.yaml", &config_map("b", "1")),
            ("prod/c.yaml", &config_map("c", "1")),
        ],
    );
    world.follow("disabled", json!({"lane": "master", "path": "prod"})).await;
    world.runs("disabled", "master").await;
    world.repo.commit("master", "second", &[("prod/left.yaml", &left.to_string())]);
    let is_marked = |object: &Value| object["metadata"]["annotations"]["towpath.dev/reconcile"] == "Disabled";
    let object = world.object_where("v1", "ConfigMap", "left", "marked", is_marked).await;
    assert_eq!(object["data"]["key"], "1", "it is not applied");
    patch_as(&world, "hand", "v1", "ConfigMap", "left", json!({"data": {"key": "by hand"}})).await;
    // It is taken up again, and disabled again, and then it leaves git while nobody looks.
    world.repo.commit("master", "third", &[("prod/left.yaml", &config_map("left", "3"))]);
    let is_taken_up = |object: &Value| object["data"]["key"] == "3" && !is_marked(object);
    world.object_where("v1", "ConfigMap", "left", "taken up", is_taken_up).await;
    world.repo.commit("master", "fourth", &[("prod/left.yaml", &left.to_string())]);
    world.object_where("v1", "ConfigMap", "left", "marked", is_marked).await;
    world.runs("disabled", "master").await;
    world.kill_agent();
    world.repo.delete("master", "prod/left.yaml");
    world.start_agent();
    let status = world.runs("disabled", "master").await;
    assert!(world.get("v1", "ConfigMap", "left").await.is_some());
    assert!(
        status.leftovers.kept.iter().any(|kept| kept.object.contains("disabled/left")),
        "{:?}",
        status.leftovers.kept
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_given_away_without_being_deleted() {
    let mut world = World::new("handover").await;
    let mut given: Value = serde_json::from_str(&config_map("given", "1")).unwrap();
    given["metadata"]["annotations"] = json!({"towpath.dev/prune": "Never"});
    let others: Vec<(String, String)> =
        ["b", "c"].iter().map(|name| (format!("prod/{name}.yaml"), config_map(name, "1"))).collect();
    world.repo.commit(
        "master",
        "first",
        &[("prod/given.yaml", &given.to_string()), (&others[0].0, &others[0].1), (&others[1].0, &others[1].1)],
    );
    world.follow("handover", json!({"lane": "master", "path": "prod"})).await;
    world.runs("handover", "master").await;
    let mark = world.mark();
    world.repo.delete("master", "prod/given.yaml");
    world.runs("handover", "master").await;
    // The other tool takes it, and nobody takes it back.
    let theirs =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "given"}, "data": {"key": "theirs"}});
    apply_as(&world, "kustomize-controller", &theirs).await;
    patch_as(&world, "hand", "v1", "ConfigMap", "given", json!({"data": {"more": "1"}})).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let object = world.get("v1", "ConfigMap", "given").await.unwrap();
    assert_eq!(object["data"], json!({"key": "theirs", "more": "1"}));
    assert_eq!(writes(&world, mark, "given"), 0);
}
