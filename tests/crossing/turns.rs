//! Whose turn it is, whatever happens beside it.

use std::time::Duration;

use serde_json::{Value, json};
use support::world::World;
use towpath_core::status::{HookOutcome, Outcome, State};

use super::runs_hook;
use crate::hooks::{hook, jobs, name};
use crate::manifests::{anything, config_map, definition, deployment};
use crate::waves::{in_wave, make_ready, names, waits_for, written};

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_and_a_namespace_with_waves_of_their_own_come_in_their_turn() {
    let mut world = World::new("late-ground").await;
    world.administers();
    let lock = json!({"apiVersion": "late.example.com/v1", "kind": "Lock", "metadata": {"name": "lock"}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late-ground-new"}});
    let inside =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "namespace": "late-ground-new"}});
    let mark = world.mark();
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/b.yaml", &in_wave(&inside.to_string(), 2)),
            ("prod/crd.yaml", &in_wave(&definition("late.example.com/v1", "Lock", anything()).to_string(), 1)),
            ("prod/lock.yaml", &in_wave(&lock.to_string(), 2)),
            ("prod/ns.yaml", &in_wave(&namespace.to_string(), 1)),
        ],
    );
    let allow = json!({
        "clusterKinds": ["CustomResourceDefinition.apiextensions.k8s.io", "Namespace"], "namespaces": ["late-ground-new"],
    });
    world.follow("late-ground", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    let status = world.runs("late-ground", "master").await;
    assert_eq!((status.history.len(), status.history[0].outcome), (1, Outcome::Applied), "{:#?}", status.history);
    assert_eq!(names(&written(&world, mark)), ["a", "locks.late.example.com", "lock"]);
    assert!(world.get_in("late-ground-new", "v1", "ConfigMap", "b").await.is_some());
    world.plane.kubectl(&["delete", "crd", "locks.late.example.com", "--wait=false"]).unwrap();
    world.plane.kubectl(&["delete", "namespace", "late-ground-new", "--wait=false"]).unwrap();
}

/// Takes our labels from a ConfigMap.
async fn strip(world: &World, name: &str) {
    let labels = json!({"towpath.dev/environment": null, "applyset.kubernetes.io/part-of": null});
    world.patch("v1", "ConfigMap", name, json!({"metadata": {"labels": labels}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_our_label_gets_what_is_new_in_git_and_not_before_its_turn() {
    let mut world = World::new("stripped").await;
    let commit = |world: &World, value: &str, more: &[(&str, &str)]| {
        let one = in_wave(&config_map("one", value), 1);
        let reported = config_map("reported", value);
        let other = config_map("other", value);
        let files = [("prod/one.yaml", &*one), ("report/a.yaml", &*reported), ("report/b.yaml", &*other)];
        world.repo.commit("master", value, &[&files, more].concat());
    };
    commit(&world, "1", &[]);
    world.follow("stripped", json!({"lane": "master", "path": "prod"})).await;
    world.environment("stripped-report", json!({"lane": "master", "path": "report", "drift": "Report"})).await;
    world.runs("stripped", "master").await;
    world.runs("stripped-report", "master").await;
    strip(&world, "reported").await;
    world
        .status_where("stripped-report", "told of the label", |status| {
            status.drift.iter().any(|drift| drift.object.contains("reported"))
        })
        .await;

    commit(&world, "2", &[("prod/db.yaml", &deployment("db", "db:1-never-ready"))]);
    waits_for(&world, "stripped", "wave 0: Deployment.apps stripped/db").await;
    strip(&world, "one").await;
    let is_new = |object: &Value| object["data"]["key"] == "2" && object["metadata"]["labels"].is_object();
    world.object_where("v1", "ConfigMap", "reported", "applied, for git has something new", is_new).await;
    world.runs("stripped-report", "master").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.get("v1", "ConfigMap", "one").await.unwrap()["data"]["key"], "1", "its wave has not begun");
    make_ready(&world, "app=db");
    world.object_where("v1", "ConfigMap", "one", "applied in its turn", is_new).await;
    world.runs("stripped", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_wait_for_a_wave_are_under_way_also_after_a_restart() {
    let mut world = World::new("half-set").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("one/settings.yaml", &in_wave(&config_map("settings", "1"), 1)),
            ("two/settings.yaml", &in_wave(&config_map("settings", "2"), 1)),
            ("two/db.yaml", &deployment("db", "db:1-never-ready")),
        ],
    );
    world.follow("half-set", json!({"lane": "master", "path": "one", "drift": "Report"})).await;
    world.runs("half-set", "master").await;
    world.patch("towpath.dev/v1alpha1", "Environment", "half-set", json!({"spec": {"path": "two"}})).await;
    waits_for(&world, "half-set", "wave 0: Deployment.apps half-set/db").await;
    assert_eq!(world.status("half-set").await.state, State::OutOfSync);
    world.kill_agent();
    make_ready(&world, "app=db");
    world.start_agent();
    world.object_where("v1", "ConfigMap", "settings", "applied", |object| object["data"]["key"] == "2").await;
    let status = world.runs("half-set", "master").await;
    assert_eq!((status.state, status.drift), (State::Synced, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_nothing_new_here_goes_on_with_the_hook_that_runs() {
    let mut world = World::new("elsewhere").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:1-never-ready")),
        ],
    );
    let first = world.repo.head("master").to_string();
    world.follow("elsewhere", json!({"lane": "master", "path": "prod"})).await;
    world.status_where("elsewhere", "running its hook", |status| runs_hook(status, &first)).await;
    let before = jobs(&world, "migrate").await;
    world.repo.commit("master", "second", &[("other/b.yaml", &config_map("b", "1"))]);
    let second = world.repo.head("master").to_string();
    let status = world.status_where("elsewhere", "going on with its hook", |status| runs_hook(status, &second)).await;
    assert_eq!(status.history, [], "nothing has ended");
    let after = jobs(&world, "migrate").await;
    assert_eq!(after.len(), 1);
    assert_eq!((&after[0]["metadata"]["uid"], name(&after[0])), (&before[0]["metadata"]["uid"], name(&before[0])));
    assert!(after[0]["metadata"]["deletionTimestamp"].is_null(), "{after:#?}");
    make_ready(&world, &format!("batch.kubernetes.io/job-name={}", name(&before[0])));
    let status = world.runs("elsewhere", "master").await;
    let syncs: Vec<_> = status.history.iter().map(|sync| (sync.subject.as_str(), sync.hooks[0].outcome)).collect();
    assert_eq!(syncs, [("second", HookOutcome::Succeeded)]);
}
