//! A revision that is refused, and what goes on meanwhile.

use serde_json::{Value, json};
use support::faults::{Action, Answer, On};
use support::world::World;
use towpath_core::status::{EnvironmentStatus, HookOutcome, Outcome, State};

use super::{gear, gears, runs_hook};
use crate::hooks::{hook, jobs};
use crate::manifests::{config_map, deployment};
use crate::waves::make_ready;

/// A definition of the cluster.
fn crd(world: &World, name: &str) -> Value {
    serde_json::from_str(&world.plane.kubectl(&["get", "crd", name, "-o", "json"]).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_after_its_definitions_were_made_leaves_the_sync_under_way_alone() {
    const GROUP: &str = "under-way.example.com";
    let mut world = World::new("under-way").await;
    world.administers();
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/crd.yaml", &gears(GROUP, &["teeth"])),
            ("prod/gear.yaml", &gear(GROUP, json!({"teeth": 12}))),
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:1-never-ready")),
        ],
    );
    let first = world.repo.head("master").to_string();
    let allow = json!({"clusterKinds": ["CustomResourceDefinition.apiextensions.k8s.io"]});
    world.follow("under-way", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    world.status_where("under-way", "running its hook", |status| runs_hook(status, &first)).await;
    let before = jobs(&world, "migrate").await;

    world.repo.commit(
        "master",
        "second",
        &[
            ("prod/crd.yaml", &gears(GROUP, &["teeth", "size"])),
            ("prod/gear.yaml", &gear(GROUP, json!({"teeth": 12, "colour": 3}))),
        ],
    );
    let is_refused = |status: &EnvironmentStatus| {
        status.state == State::Blocked && status.problems.iter().any(|problem| problem.contains("colour"))
    };
    let status = world.status_where("under-way", "told what is refused", is_refused).await;
    assert!(runs_hook(&status, &first), "{:#?}", status.sync);
    assert!(!status.history.iter().any(|sync| sync.revision.ends_with(&first)), "it goes on: {:#?}", status.history);
    let name = format!("gears.{GROUP}");
    let definition = crd(&world, &name);
    let size = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size";
    assert!(definition.pointer(size).is_some(), "it stays as the refused one made it: {definition:#}");

    // Neither goes to and fro.
    world.request_sync("under-way", "again").await;
    world
        .status_where("under-way", "still refused", |status| {
            status.last_handled_request.as_deref() == Some("again") && is_refused(status)
        })
        .await;
    assert_eq!(crd(&world, &name)["metadata"]["generation"], definition["metadata"]["generation"]);
    let after = jobs(&world, "migrate").await;
    let uids = |jobs: &[Value]| jobs.iter().map(|job| job["metadata"]["uid"].clone()).collect::<Vec<_>>();
    assert_eq!(uids(&after), uids(&before));
    assert!(after.iter().all(|job| job["metadata"]["deletionTimestamp"].is_null()), "{after:#?}");

    // What is under way ends well, and what is mended comes after it.
    make_ready(&world, &format!("batch.kubernetes.io/job-name={}", before[0]["metadata"]["name"].as_str().unwrap()));
    world.object_where("v1", "ConfigMap", "a", "applied", |object| object["data"]["key"] == "1").await;
    world.repo.commit(
        "master",
        "third",
        &[
            ("prod/gear.yaml", &gear(GROUP, json!({"teeth": 12, "size": 3}))),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:3")),
        ],
    );
    world.runs("under-way", "master").await;
    world.plane.kubectl(&["delete", "crd", &name, "--wait=false"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_that_was_cut_short_is_done_before_anything_else_is_written() {
    const GROUP: &str = "cut-dry-run.example.com";
    let mut world = World::new("cut-dry-run").await;
    world.administers();
    let proxy = world.through_proxy().await;
    // Every try of a pass to make the definition for good fails.
    let on = On::verb("patch", "customresourcedefinitions").first(4);
    proxy.inject(on, Action::Answer(Answer::status(500, "the disk is full")));
    world.repo.commit(
        "master",
        "bad",
        &[
            ("prod/crd.yaml", &gears(GROUP, &["teeth"])),
            ("prod/gear.yaml", &gear(GROUP, json!({"colour": 3}))),
            ("prod/a.yaml", &config_map("a", "1")),
        ],
    );
    let allow = json!({"clusterKinds": ["CustomResourceDefinition.apiextensions.k8s.io"]});
    world.follow("cut-dry-run", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    world
        .status_where("cut-dry-run", "told what is refused", |status| {
            status.problems.iter().any(|problem| problem.contains("prod/gear.yaml:1") && problem.contains("colour"))
        })
        .await;
    assert!(world.get("v1", "ConfigMap", "a").await.is_none(), "nothing else is written");
    world.repo.commit("master", "good", &[("prod/gear.yaml", &gear(GROUP, json!({"teeth": 12})))]);
    world.runs("cut-dry-run", "master").await;
    world.plane.kubectl(&["delete", "crd", &format!("gears.{GROUP}"), "--wait=false"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_after_a_sync_run_although_something_newer_is_refused() {
    let mut world = World::new("late-smoke").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/web.yaml", &deployment("web", "web:1-never-ready")),
            ("prod/smoke.yaml", &hook("smoke", "AfterSync", "smoke:1")),
        ],
    );
    let first = world.repo.head("master").to_string();
    world.follow("late-smoke", json!({"lane": "master", "path": "prod"})).await;
    world.status_where("late-smoke", "applied", |status| status.sync.as_ref().is_some_and(|sync| sync.applied)).await;
    world.repo.commit("master", "second", &[("prod/bad.yaml", "{ not: [yaml")]);
    world.status_where("late-smoke", "blocked", |status| status.state == State::Blocked).await;
    make_ready(&world, "app=web");
    let of_first =
        |status: &EnvironmentStatus| status.history.iter().find(|sync| sync.revision.ends_with(&first)).cloned();
    let status = world.status_where("late-smoke", "done with its hook", |status| of_first(status).is_some()).await;
    let sync = of_first(&status).unwrap();
    let hooks: Vec<_> = sync.hooks.iter().map(|run| run.outcome).collect();
    assert_eq!((sync.outcome, hooks), (Outcome::Applied, vec![HookOutcome::Succeeded]));
    assert_eq!(jobs(&world, "smoke").await.len(), 1);
    assert_eq!(world.status("late-smoke").await.state, State::Blocked, "by the newer one");
}
