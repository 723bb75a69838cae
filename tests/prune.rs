//! Prune for real life: deletions that are refused or stuck, and what is never deleted.

use std::time::Duration;

use serde_json::{Value, json};
use support::audit::{Mark, Request};
use support::world::World;
use towpath_core::status::EnvironmentStatus;

use crate::manifests::config_map;

/// Deletions by the agent since a mark.
pub fn deletes(world: &World, mark: Mark) -> Vec<Request> {
    world.requests_since(mark).into_iter().filter(|request| request.verb == "delete").collect()
}

/// Whether an object is kept for a reason.
pub fn keeps(status: &EnvironmentStatus, object: &str, why: &str) -> bool {
    status.leftovers.kept.iter().any(|kept| kept.object.ends_with(object) && kept.reason.contains(why))
}

/// A world that runs `count` ConfigMaps `c0`… from `prod`, and whatever else is said.
pub async fn running(name: &str, count: usize, more: &[(&str, &str)]) -> World {
    let mut world = World::new(name).await;
    let files: Vec<(String, String)> =
        (0..count).map(|number| (format!("prod/{number}.yaml"), config_map(&format!("c{number}"), "1"))).collect();
    let mut files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    files.extend(more);
    world.repo.commit("master", "first", &files);
    world.follow(name, json!({"lane": "master", "path": "prod"})).await;
    world.runs(name, "master").await;
    world
}

/// Drops files in one push.
pub fn drop_files(world: &World, paths: &[&str]) {
    world.repo.branch("next", "master");
    for path in paths {
        world.repo.delete("next", path);
    }
    world.repo.branch("master", "next");
}

/// Has every deletion of ConfigMaps with a label refused by a real admission policy of this namespace.
pub async fn deny_deletions(world: &World, name: &str) {
    world
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
                    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["configmaps"]}],
                },
                "validations": [{"expression": "!has(oldObject.data) || oldObject.data.key != 'precious'", "message": "precious things stay"}],
            },
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]},
        }))
        .await;
    // The server takes a policy up a moment after it was made.
    world.apply(serde_json::from_str(&placed("probe", "precious", &world.namespace)).unwrap()).await;
    for _ in 0..100 {
        let said = world.plane.kubectl(&["delete", "configmap", "probe", "-n", &world.namespace, "--dry-run=server"]);
        if said.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the policy refuses nothing");
}

/// A ConfigMap in a namespace.
pub fn placed(name: &str, value: &str, namespace: &str) -> String {
    let mut object: Value = serde_json::from_str(&config_map(name, value)).unwrap();
    object["metadata"]["namespace"] = namespace.into();
    object.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_policy_refuses_holds_up_nothing_and_is_done_when_it_may() {
    let world = running("denied", 6, &[("prod/precious.yaml", &config_map("precious", "precious"))]).await;
    deny_deletions(&world, "denied.journey.example.com").await;
    let mark = world.mark();
    drop_files(&world, &["prod/precious.yaml", "prod/0.yaml"]);
    let status = world
        .status_where("denied", "telling of the refusal", |status| keeps(status, "precious", "precious things stay"))
        .await;
    let since = status.leftovers.kept[0].since.unwrap();
    world.runs("denied", "master").await;
    assert!(world.get("v1", "ConfigMap", "c0").await.is_none(), "the other one is gone");

    // A newer commit is synced all the same, and what was refused is not tried at every look.
    for value in ["2", "3", "4"] {
        world.repo.commit("master", value, &[("prod/1.yaml", &config_map("c1", value))]);
        let status = world.runs("denied", "master").await;
        assert!(keeps(&status, "precious", "precious things stay"), "{status:#?}");
        assert_eq!(status.leftovers.kept[0].since, Some(since), "since when it is so");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tries = deletes(&world, mark).iter().filter(|request| request.name == "precious").count();
    assert!((1..=6).contains(&tries), "{tries} tries");

    world.plane.kubectl(&["delete", "validatingadmissionpolicybinding", "denied.journey.example.com"]).unwrap();
    world.object_where("v1", "ConfigMap", "precious", "gone", Value::is_null).await;
    world.status_where("denied", "rid of it", |status| status.leftovers.kept.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_the_account_may_not_do_is_named_and_done_when_it_may() {
    let world = running("forbidden", 6, &[]).await;
    // Everything but delete, as some teams have it.
    world
        .apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "no-delete", "namespace": "forbidden"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create", "patch"]}],
        }))
        .await;
    let bind = |kind: &str, role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": format!("deployer-{role}"), "namespace": "forbidden"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "towpath-deployer", "namespace": "forbidden"}],
        })
    };
    world.apply(bind("Role", "no-delete")).await;
    world.plane.kubectl(&["delete", "rolebinding", "towpath-deployer", "-n", "forbidden"]).unwrap();
    drop_files(&world, &["prod/0.yaml"]);
    world.status_where("forbidden", "naming the right", |status| keeps(status, "c0", "cannot delete")).await;
    world.repo.commit("master", "newer", &[("prod/1.yaml", &config_map("c1", "2"))]);
    world.runs("forbidden", "master").await;
    world.apply(bind("ClusterRole", "admin")).await;
    world.object_where("v1", "ConfigMap", "c0", "gone", Value::is_null).await;
    world.status_where("forbidden", "rid of it", |status| status.leftovers.kept.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_stuck_names_the_finalizer_until_it_is_over() {
    let mut world = running("stuck", 6, &[]).await;
    world.patch("v1", "ConfigMap", "c0", json!({"metadata": {"finalizers": ["example.com/slow"]}})).await;
    let mark = world.mark();
    drop_files(&world, &["prod/0.yaml", "prod/1.yaml"]);
    let status =
        world.status_where("stuck", "naming it", |status| keeps(status, "c0", "finalizer example.com/slow")).await;
    let deleted = world.get("v1", "ConfigMap", "c0").await.unwrap()["metadata"]["deletionTimestamp"].clone();
    assert_eq!(json!(status.leftovers.kept[0].since), deleted);
    assert!(world.get("v1", "ConfigMap", "c1").await.is_none());
    world.runs("stuck", "master").await;
    for _ in 0..2 {
        world.kill_agent();
        world.start_agent();
        world.repo.commit("master", "again", &[("prod/2.yaml", &config_map("c2", &world.repo.head("master").short()))]);
        world.runs("stuck", "master").await;
    }
    let asked = deletes(&world, mark).iter().filter(|request| request.name == "c0").count();
    assert_eq!(asked, 1, "it is asked for once");
    world.patch("v1", "ConfigMap", "c0", json!({"metadata": {"finalizers": null}})).await;
    world.status_where("stuck", "rid of it", |status| status.leftovers.kept.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_does_not_prune_what_it_is_made_of() {
    let mut world = World::new("itself").await;
    world.start_options().arguments.extend(["--own-namespace".to_owned(), "itself".to_owned()]);
    let deployment = |name: &str| crate::manifests::deployment(name, "web:1");
    let mut labelled: Value = serde_json::from_str(&config_map("renamed", "1")).unwrap();
    labelled["metadata"]["labels"] = json!({"app.kubernetes.io/name": "towpath"});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "towpath-deployer", "annotations": {"towpath.dev/adopt": "true"}}});
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/agent.yaml", &deployment("towpath")),
            ("prod/renamed.yaml", &labelled.to_string()),
            ("prod/account.yaml", &account.to_string()),
            ("prod/web.yaml", &deployment("web")),
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/b.yaml", &config_map("b", "1")),
            ("prod/c.yaml", &config_map("c", "1")),
        ],
    );
    world.follow("itself", json!({"lane": "master", "path": "prod"})).await;
    world.runs("itself", "master").await;
    let mark = world.mark();
    drop_files(&world, &["prod/agent.yaml", "prod/renamed.yaml", "prod/account.yaml", "prod/web.yaml"]);
    world.object_where("apps/v1", "Deployment", "web", "pruned", Value::is_null).await;
    let status = world.status_where("itself", "keeping the agent", |status| status.leftovers.kept_count == 3).await;
    assert!(status.leftovers.kept.iter().all(|kept| kept.reason.contains("the agent itself")), "{status:#?}");
    let deleted: Vec<String> = deletes(&world, mark).into_iter().map(|request| request.name).collect();
    assert_eq!(deleted, ["web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_config_map_stays_for_as_long_as_a_rollout_could_go_back_to_it() {
    let mut world = World::new("in-use").await;
    let deployment = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  revisionHistoryLimit: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: 'web:1'}]
      volumes: [{name: config, configMap: {name: web}}]
";
    let files = |text: &'static str| {
        [
            ("towpath.yaml", "{}\n"),
            ("environments/prod/values.yaml", "{}\n"),
            ("templates/web/deployment.yaml.hbs", deployment),
            ("config/web/web.conf", text),
        ]
    };
    world.repo.commit("master", "first", &files("one"));
    world.follow("in-use", json!({"lane": "master", "path": "environments/prod"})).await;
    world.runs("in-use", "master").await;
    let name = |deployment: &Value| {
        let name = deployment.pointer("/spec/template/spec/volumes/0/configMap/name").and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    let first = name(&world.get("apps/v1", "Deployment", "web").await.unwrap());
    assert!(first.starts_with("web-"), "{first}");

    world.repo.commit("master", "second", &files("two"));
    let status = world.runs("in-use", "master").await;
    assert!(keeps(&status, &first, "still uses it"), "{status:#?}");
    assert!(world.get("v1", "ConfigMap", &first).await.is_some(), "a rollback would need it");

    // A third one pushes the first ReplicaSet out of the history.
    world.repo.commit("master", "third", &files("three"));
    world.runs("in-use", "master").await;
    for number in 0..100 {
        if world.get("v1", "ConfigMap", &first).await.is_none() {
            return;
        }
        // Nothing of ours changes when an old ReplicaSet goes; a request looks at once.
        world.request_sync("in-use", &format!("look {number}")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("it is still there: {:#?}", world.status("in-use").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_deletion_waits_its_own_time_for_an_environment_that_cannot_look() {
    let mut world = running("own-time", 6, &[]).await;
    world.start_options().time_scale = 20;
    world.start_agent();
    world
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": "gone", "namespace": "own-time"}, "spec": {"url": "file:///nowhere/at/all.git"},
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Environment",
            "metadata": {"name": "own-time-blind", "namespace": "own-time"},
            "spec": {"repository": "gone", "lane": "master", "path": "prod"},
        }))
        .await;
    world.status_where("own-time-blind", "without a repository", |status| !status.problems.is_empty()).await;
    for number in [0, 1] {
        let object = format!("c{number}");
        drop_files(&world, &[&format!("prod/{number}.yaml")]);
        world
            .status_where("own-time", &format!("waiting with {object}"), |status| {
                keeps(status, &object, "until environment own-time-blind has looked at git")
            })
            .await;
        world.object_where("v1", "ConfigMap", &object, "pruned", Value::is_null).await;
    }
}
