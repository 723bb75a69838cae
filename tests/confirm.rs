//! Confirmations: asked for by list, taken from whoever may, and finished when they are cut short.

use std::process::Command;

use serde_json::{Value, json};
use support::world::World;
use towpath_core::status::EnvironmentStatus;

use crate::manifests::config_map;
use crate::prune::{deny_deletions, drop_files, running};

const ENVIRONMENT: (&str, &str) = ("towpath.dev/v1alpha1", "Environment");

/// Runs the command line as a user of the cluster, who may do what `rules` say.
pub fn towpath(world: &World, user: &str, arguments: &[&str]) -> (bool, String) {
    let token = world.plane.kubectl(&["create", "token", user, "-n", &world.namespace]).unwrap();
    let kubeconfig = world.plane.kubeconfig_for(&format!("{}-{user}", world.namespace), token.trim()).unwrap();
    let output = Command::new(support::agent::binary().unwrap())
        .args(arguments)
        .args(["-n", &world.namespace])
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", "/nonexistent")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Makes a user that may do something with Environments.
pub async fn user(world: &World, name: &str, verbs: &[&str]) {
    let namespace = &world.namespace;
    world
        .apply(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}),
        )
        .await;
    world
        .apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name, "namespace": namespace},
            "rules": [{"apiGroups": ["towpath.dev"], "resources": ["environments"], "verbs": verbs}],
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_is_asked_for_by_list_and_taken_from_whoever_may_confirm() {
    let world = running("confirming", 8, &[]).await;
    user(&world, "tester", &["get", "patch"]).await;
    user(&world, "owner", &["get", "patch", "confirm"]).await;
    let (done, said) = towpath(&world, "owner", &["confirm", "confirming"]);
    assert!(done && said.contains("no deletion of confirming waits"), "{said}");

    let dropped: Vec<String> = (0..6).map(|number| format!("prod/{number}.yaml")).collect();
    let dropped: Vec<&str> = dropped.iter().map(String::as_str).collect();
    drop_files(&world, &dropped);
    let waits = |status: &EnvironmentStatus| status.leftovers.to_confirm_count == 6;
    let first = world.status_where("confirming", "asking for a confirmation", waits).await;
    assert_eq!(first.leftovers.to_confirm.len(), 6);

    let (done, said) = towpath(&world, "owner", &["confirm", "confirming"]);
    assert!(!done && said.contains("ConfigMap confirming/c5") && said.contains("nobody to ask"), "{said}");
    let (done, said) = towpath(&world, "tester", &["confirm", "confirming", "-y"]);
    assert!(!done && said.contains("verb confirm"), "{said}");

    // One for another list: it does nothing, and that is said.
    let stale = first.leftovers.confirm_prune.unwrap();
    drop_files(&world, &["prod/6.yaml"]);
    world.status_where("confirming", "asking for one more", |status| status.leftovers.to_confirm_count == 7).await;
    let (done, said) = towpath(&world, "owner", &["confirm", "confirming", "-y", "--only", &stale]);
    assert!(!done && said.contains("no longer"), "{said}");
    let annotate = json!({"metadata": {"annotations": {"towpath.dev/confirmPrune": stale}}});
    world.patch(ENVIRONMENT.0, ENVIRONMENT.1, "confirming", annotate).await;
    world
        .status_where("confirming", "saying that it confirms nothing", |status| {
            status.warnings.iter().any(|warning| warning.contains("it confirms nothing"))
        })
        .await;
    assert!(world.get("v1", "ConfigMap", "c0").await.is_some());

    let (done, said) = towpath(&world, "owner", &["confirm", "confirming", "-y"]);
    assert!(done && said.contains("deletions confirmed"), "{said}");
    world.status_where("confirming", "rid of them", |status| status.leftovers.kept.is_empty()).await;
    for number in 0..7 {
        assert!(world.get("v1", "ConfigMap", &format!("c{number}")).await.is_none(), "c{number}");
    }
    let environment = world.get(ENVIRONMENT.0, ENVIRONMENT.1, "confirming").await.unwrap();
    let by = &environment["metadata"]["annotations"]["towpath.dev/confirmedBy"];
    assert_eq!(by, "system:serviceaccount:confirming:owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_is_finished_although_the_agent_was_killed_in_the_middle() {
    let mut world = running("cut-short", 8, &[]).await;
    // One of them takes its time, so that the list that was confirmed is not the list that is left.
    world.patch("v1", "ConfigMap", "c0", json!({"metadata": {"finalizers": ["example.com/slow"]}})).await;
    deny_deletions(&world, "cut-short.journey.example.com").await;
    world.repo.commit("master", "precious", &[("prod/1.yaml", &config_map("c1", "precious"))]);
    world.runs("cut-short", "master").await;
    let dropped: Vec<String> = (0..6).map(|number| format!("prod/{number}.yaml")).collect();
    let dropped: Vec<&str> = dropped.iter().map(String::as_str).collect();
    drop_files(&world, &dropped);
    let waits = |status: &EnvironmentStatus| status.leftovers.to_confirm_count == 6;
    let confirm = world.status_where("cut-short", "asking", waits).await.leftovers.confirm_prune;
    let annotate = json!({"metadata": {"annotations": {"towpath.dev/confirmPrune": confirm}}});
    world.patch(ENVIRONMENT.0, ENVIRONMENT.1, "cut-short", annotate).await;
    world.object_where("v1", "ConfigMap", "c5", "gone", Value::is_null).await;
    world.kill_agent();
    world.plane.kubectl(&["delete", "validatingadmissionpolicybinding", "cut-short.journey.example.com"]).unwrap();
    world.start_agent();
    world.object_where("v1", "ConfigMap", "c1", "gone without another word", Value::is_null).await;
    world.patch("v1", "ConfigMap", "c0", json!({"metadata": {"finalizers": null}})).await;
    world.status_where("cut-short", "rid of them", |status| status.leftovers.kept.is_empty()).await;
}
