//! What must not happen: nothing is lost, pruned or half done.

use std::time::Duration;

use serde_json::{Value, json};
use support::world::World;
use towpath_core::status::State;

use crate::manifests::{anything, config_map, definition, deployment};

/// Waits until the environment is blocked with a problem that says something.
async fn blocked(world: &World, environment: &str, with: &str) {
    world
        .status_where(environment, &format!("blocked: {with}"), |status| {
            status.state == State::Blocked && status.problems.iter().any(|problem| problem.contains(with))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_is_refused_until_adoption_is_said() {
    let mut world = World::new("foreign").await;
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "foreign"}, "data": {"key": "theirs"},
        }))
        .await;
    world.repo.commit(
        "master",
        "first",
        &[("prod/a.yaml", &config_map("settings", "ours")), ("prod/b.yaml", &config_map("other", "1"))],
    );
    world.follow("foreign", json!({"lane": "master", "path": "prod"})).await;
    blocked(&world, "foreign", "exists already and is not ours").await;
    assert_eq!(world.get("v1", "ConfigMap", "settings").await.unwrap()["data"]["key"], "theirs");
    assert!(world.get("v1", "ConfigMap", "other").await.is_none(), "all or nothing");

    let mut adopting: Value = serde_json::from_str(&config_map("settings", "ours")).unwrap();
    adopting["metadata"]["annotations"] = json!({"towpath.dev/adopt": "true"});
    world.repo.commit("master", "adopt", &[("prod/a.yaml", &adopting.to_string())]);
    world.runs("foreign", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "settings").await.unwrap()["data"]["key"], "ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mass_deletion_waits_for_a_confirmation_of_this_very_list() {
    let mut world = World::new("budget").await;
    let files: Vec<(String, String)> =
        (0..8).map(|number| (format!("prod/{number}.yaml"), config_map(&format!("c{number}"), "1"))).collect();
    let all: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", "first", &all);
    world.follow("budget", json!({"lane": "master", "path": "prod"})).await;
    world.runs("budget", "master").await;

    let mark = world.mark();
    world.repo.branch("next", "master");
    for (path, _) in &all[..6] {
        world.repo.delete("next", path);
    }
    world.repo.branch("master", "next");
    let status = world
        .status_where("budget", "asking for a confirmation", |status| {
            status.leftovers.confirm_prune.is_some() && status.leftovers.kept.len() == 6
        })
        .await;
    let deletes: Vec<_> = world.requests_since(mark).into_iter().filter(|request| request.verb == "delete").collect();
    assert!(deletes.is_empty(), "{deletes:#?}");
    let confirm = status.leftovers.confirm_prune.unwrap();
    let patch = json!({"metadata": {"annotations": {"towpath.dev/confirmPrune": confirm}}});
    world.patch("towpath.dev/v1alpha1", "Environment", "budget", patch).await;
    for number in 0..6 {
        world.object_where("v1", "ConfigMap", &format!("c{number}"), "pruned", Value::is_null).await;
    }
    assert!(world.get("v1", "ConfigMap", "c7").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_deletes_nothing_and_heals_by_itself() {
    let mut world = World::new("partial").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/b.yaml", &config_map("b", "1")),
            ("prod/c.yaml", &config_map("c", "1")),
        ],
    );
    world.follow("partial", json!({"lane": "master", "path": "prod"})).await;
    world.runs("partial", "master").await;
    let mark = world.mark();

    // Half of it cannot be read.
    world.repo.commit("master", "half", &[("prod/b.yaml", "{ not: [yaml"), ("prod/a.yaml", &config_map("a", "2"))]);
    blocked(&world, "partial", "prod/b.yaml").await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "1", "all or nothing");
    // A kind that nobody knows.
    let unknown = r#"{"apiVersion": "example.com/v1", "kind": "Nonsense", "metadata": {"name": "x"}}"#;
    world.repo.commit("master", "unknown kind", &[("prod/b.yaml", unknown)]);
    blocked(&world, "partial", "no kind Nonsense").await;
    // Something that the API server refuses.
    let invalid = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"key": {"x": 1}}}"#;
    world.repo.commit("master", "invalid", &[("prod/b.yaml", invalid)]);
    blocked(&world, "partial", "ConfigMap partial/b").await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "1", "the dry run comes first");
    // Nothing at all.
    for file in ["prod/a.yaml", "prod/b.yaml"] {
        world.repo.delete("master", file);
    }
    world.repo.commit("master", "moved", &[("elsewhere/c.yaml", &config_map("c", "1"))]);
    world.repo.delete("master", "prod/c.yaml");
    blocked(&world, "partial", "prod").await;

    let deletes: Vec<_> = world.requests_since(mark).into_iter().filter(|request| request.verb == "delete").collect();
    assert!(deletes.is_empty(), "{deletes:#?}");
    world.repo.commit(
        "master",
        "back",
        &[("prod/a.yaml", &config_map("a", "3")), ("prod/c.yaml", &config_map("c", "1"))],
    );
    world.runs("partial", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_and_heals_when_it_is_given() {
    let mut world = World::new("rights").await;
    world.plane.kubectl(&["delete", "rolebinding", "towpath-deployer", "-n", "rights"]).unwrap();
    world.repo.commit("master", "first", &[("prod/a.yaml", &config_map("a", "1"))]);
    world.follow("rights", json!({"lane": "master", "path": "prod"})).await;
    blocked(&world, "rights", "configmaps").await;
    world
        .plane
        .kubectl(&[
            "create",
            "rolebinding",
            "towpath-deployer",
            "-n",
            "rights",
            "--clusterrole=admin",
            "--serviceaccount=rights:towpath-deployer",
        ])
        .unwrap();
    world.runs("rights", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_and_its_object_come_in_one_commit() {
    let mut world = World::new("definitions").await;
    world.administers();
    let crd = definition("journey.example.com/v1", "Widget", anything());
    let widget = json!({"apiVersion": "journey.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}});
    world.repo.commit(
        "master",
        "first",
        &[("prod/a-widget.yaml", &widget.to_string()), ("prod/crd.yaml", &crd.to_string())],
    );
    world.repository().await;
    let allow = json!({"clusterKinds": ["CustomResourceDefinition.apiextensions.k8s.io"]});
    world.environment("definitions", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    world.start_agent();
    world.runs("definitions", "master").await;
    assert_eq!(world.get("journey.example.com/v1", "Widget", "w").await.unwrap()["spec"]["size"], 1);
    world.plane.kubectl(&["delete", "crd", "widgets.journey.example.com", "--wait=false"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_environments_cannot_have_one_object_and_neither_prunes_it() {
    let mut world = World::new("claims").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("one/a.yaml", &config_map("shared", "one")),
            ("two/a.yaml", &config_map("shared", "two")),
            ("two/b.yaml", &config_map("other", "two")),
        ],
    );
    world.follow("claims-one", json!({"lane": "master", "path": "one"})).await;
    world.runs("claims-one", "master").await;
    world.environment("claims-two", json!({"lane": "master", "path": "two"})).await;
    blocked(&world, "claims-two", "belongs to environment claims-one already").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.get("v1", "ConfigMap", "shared").await.unwrap()["data"]["key"], "one");
    assert!(world.get("v1", "ConfigMap", "other").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_was_not_allowed_is_refused_before_any_write() {
    let mut world = World::new("walls").await;
    let mut outside: Value = serde_json::from_str(&deployment("web", "web:1")).unwrap();
    outside["metadata"]["namespace"] = "kube-system".into();
    world.repo.commit(
        "master",
        "first",
        &[("prod/a.yaml", &outside.to_string()), ("prod/b.yaml", &config_map("b", "1"))],
    );
    world.follow("walls", json!({"lane": "master", "path": "prod"})).await;
    blocked(&world, "walls", "namespace kube-system").await;
    assert!(world.get("v1", "ConfigMap", "b").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_environment_leaves_its_objects() {
    let mut world = World::new("orphans").await;
    world.repo.commit("master", "first", &[("prod/a.yaml", &config_map("a", "1"))]);
    world.follow("orphans", json!({"lane": "master", "path": "prod"})).await;
    world.runs("orphans", "master").await;
    world.plane.kubectl(&["delete", "environment", "orphans", "-n", "orphans"]).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.get("v1", "ConfigMap", "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_pruned_stays_also_when_git_dropped_it_while_the_agent_was_away() {
    let mut world = World::new("never").await;
    let mut precious: Value = serde_json::from_str(&config_map("precious", "1")).unwrap();
    precious["metadata"]["annotations"] = json!({"towpath.dev/prune": "Never"});
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/precious.yaml", &precious.to_string()),
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/b.yaml", &config_map("b", "1")),
            ("prod/c.yaml", &config_map("c", "1")),
        ],
    );
    world.follow("never", json!({"lane": "master", "path": "prod"})).await;
    world.runs("never", "master").await;
    world.kill_agent();
    world.repo.delete("master", "prod/precious.yaml");
    world.repo.delete("master", "prod/a.yaml");
    world.start_agent();
    world.object_where("v1", "ConfigMap", "a", "pruned", Value::is_null).await;
    world.runs("never", "master").await;
    assert!(world.get("v1", "ConfigMap", "precious").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_nobody_watched_comes_back() {
    let mut world = World::new("unwatched").await;
    world.repo.commit(
        "master",
        "first",
        &[("prod/a.yaml", &config_map("a", "1")), ("prod/b.yaml", &config_map("b", "1"))],
    );
    world.follow("unwatched", json!({"lane": "master", "path": "prod"})).await;
    world.runs("unwatched", "master").await;
    world.patch("towpath.dev/v1alpha1", "Environment", "unwatched", json!({"spec": {"suspend": true}})).await;
    world.status_where("unwatched", "suspended", |status| status.state == State::Suspended).await;
    world.plane.kubectl(&["delete", "configmap", "a", "-n", "unwatched"]).unwrap();
    world.patch("towpath.dev/v1alpha1", "Environment", "unwatched", json!({"spec": {"suspend": false}})).await;
    world.object_where("v1", "ConfigMap", "a", "back", |object| !object.is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_moves_from_one_environment_to_another_in_one_commit() {
    let mut world = World::new("moving").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("one/a.yaml", &config_map("a", "1")),
            ("one/moves.yaml", &config_map("moves", "one")),
            ("one/b.yaml", &config_map("b", "1")),
            ("two/c.yaml", &config_map("c", "1")),
        ],
    );
    world.repository().await;
    world.environment("moving-one", json!({"lane": "master", "path": "one"})).await;
    world.environment("moving-two", json!({"lane": "master", "path": "two"})).await;
    world.start_agent();
    world.runs("moving-one", "master").await;
    world.runs("moving-two", "master").await;
    world.repo.branch("next", "master");
    world.repo.delete("next", "one/moves.yaml");
    world.repo.commit("next", "move", &[("two/moves.yaml", &config_map("moves", "two"))]);
    world.repo.branch("master", "next");
    world.runs("moving-two", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "moves").await.unwrap()["data"]["key"], "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_was_deleted_by_hand_comes_back_with_its_objects() {
    let mut world = World::new("redefined").await;
    world.administers();
    let crd = definition("journey.example.com/v1", "Gadget", anything());
    let gadget = json!({"apiVersion": "journey.example.com/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {"size": 1}});
    world.repo.commit("master", "first", &[("prod/g.yaml", &gadget.to_string()), ("prod/crd.yaml", &crd.to_string())]);
    world.repository().await;
    let allow = json!({"clusterKinds": ["CustomResourceDefinition.apiextensions.k8s.io"]});
    world.environment("redefined", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    world.start_agent();
    world.runs("redefined", "master").await;
    world.plane.kubectl(&["delete", "crd", "gadgets.journey.example.com"]).unwrap();
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while world.plane.kubectl(&["get", "gadgets.journey.example.com", "g", "-n", "redefined"]).is_err() {
        assert!(std::time::Instant::now() < deadline, "not back\n{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world.runs("redefined", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_missing_is_named_and_heals_when_it_is_there() {
    let mut world = World::new("nowhere").await;
    world.repo.commit("master", "first", &[("prod/a.yaml", &config_map("a", "1"))]);
    world.follow("nowhere", json!({"lane": "master", "path": "prod", "namespace": "nowhere-yet"})).await;
    blocked(&world, "nowhere", "nowhere-yet").await;
    world.namespace_for_deployer("nowhere-yet").await;
    world.runs("nowhere", "master").await;
    assert!(world.get_in("nowhere-yet", "v1", "ConfigMap", "a").await.is_some());
}
