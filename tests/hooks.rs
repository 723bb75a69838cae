//! Hooks: Jobs before and after a sync, once for each that changes something.

use std::time::Duration;

use serde_json::{Value, json};
use support::world::World;
use towpath_core::course::Phase;
use towpath_core::status::{HookOutcome, Outcome, State};

use crate::manifests::{config_map, deployment};
use crate::waves::{in_wave, written};

/// A Job that is a hook.
pub fn hook(name: &str, phases: &str, image: &str) -> String {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "annotations": {"towpath.dev/hook": phases}},
        "spec": {
            "backoffLimit": 0,
            "template": {"spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "work", "image": image}],
            }},
        },
    })
    .to_string()
}

/// The Jobs of a hook that are there.
pub async fn jobs(world: &World, hook: &str) -> Vec<Value> {
    let selector = format!("towpath.dev/hook={hook}");
    let list = world.plane.kubectl(&["get", "jobs", "-n", &world.namespace, "-l", &selector, "-o", "json"]).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    list["items"].as_array().unwrap().clone()
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_before_and_after_a_sync_once_for_each_that_changes_something() {
    let mut world = World::new("hooks").await;
    let mark = world.mark();
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/web.yaml", &deployment("web", "web:1")),
            ("prod/settings.yaml", &config_map("settings", "1")),
            ("prod/needed.yaml", &in_wave(&config_map("needed", "1"), -1)),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:1")),
            ("prod/smoke.yaml", &hook("smoke", "AfterSync", "smoke:1")),
        ],
    );
    world.follow("hooks", json!({"lane": "master", "path": "prod"})).await;
    let status = world.runs("hooks", "master").await;
    let first = written(&world, mark);
    let order: Vec<&str> = first.iter().map(|request| request.name.as_str()).collect();
    assert_eq!(order.len(), 5, "{order:?}");
    assert_eq!(order[0], "needed");
    assert!(order[1].starts_with("migrate-"), "{order:?}");
    assert!(order[4].starts_with("smoke-"), "{order:?}");
    assert_eq!(status.history.len(), 1, "{:#?}", status.history);
    let sync = &status.history[0];
    assert_eq!((sync.outcome, sync.created), (Outcome::Applied, 3));
    let runs: Vec<_> = sync.hooks.iter().map(|run| (run.hook.as_str(), run.phase, run.outcome)).collect();
    assert_eq!(
        runs,
        [
            ("Job.batch hooks/migrate", Phase::BeforeSync, HookOutcome::Succeeded),
            ("Job.batch hooks/smoke", Phase::AfterSync, HookOutcome::Succeeded),
        ]
    );
    assert!(sync.hooks.iter().all(|run| run.took_ms.is_some()));
    assert!(sync.hooks.iter().all(|run| run.log == ["starting", "at work"]), "{:#?}", sync.hooks);

    // Neither drift, nor a restart, nor a commit that changes nothing here runs one again.
    let quiet = world.mark();
    world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "settings", "mended", |object| object["data"]["key"] == "1").await;
    world.kill_agent();
    world.start_agent();
    world.repo.commit("master", "elsewhere", &[("other/a.yaml", &config_map("a", "1"))]);
    world.runs("hooks", "master").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let writes = written(&world, quiet);
    assert!(writes.iter().all(|request| request.resource == "configmaps"), "{writes:#?}");

    // What changes something does, and the Jobs of the run before go.
    world.repo.commit("master", "second", &[("prod/settings.yaml", &config_map("settings", "2"))]);
    world.runs("hooks", "master").await;
    for hook in ["migrate", "smoke"] {
        let names: Vec<String> = jobs(&world, hook).await.iter().map(|job| name(job).to_owned()).collect();
        assert_eq!(names.len(), 1, "the last one is kept: {names:?}");
        assert!(!order.contains(&names[0].as_str()), "{names:?}");
    }

    // A hook that left git takes its Job with it.
    world.repo.delete("master", "prod/smoke.yaml");
    world.runs("hooks", "master").await;
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while !jobs(&world, "smoke").await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "the Job of a hook that is gone is still there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(jobs(&world, "migrate").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_blocks_the_sync_and_what_runs_goes_on() {
    let mut world = World::new("failing-hook").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/b.yaml", &config_map("b", "1")),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:1")),
        ],
    );
    world.follow("failing-hook", json!({"lane": "master", "path": "prod"})).await;
    let good = world.runs("failing-hook", "master").await.running.unwrap().revision;

    world.repo.commit(
        "master",
        "bad",
        &[
            ("prod/a.yaml", &config_map("a", "2")),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:2-fail")),
        ],
    );
    let is_blocked = |status: &towpath_core::status::EnvironmentStatus| {
        status.state == State::Blocked
            && status
                .problems
                .iter()
                .any(|problem| problem.contains("BeforeSync hook Job.batch failing-hook/migrate failed"))
    };
    let status = world.status_where("failing-hook", "blocked by its hook", is_blocked).await;
    assert!(status.problems[0].starts_with("prod/migrate.yaml:1: "), "{:?}", status.problems);
    assert_eq!(status.running.as_ref().unwrap().revision, good);
    assert_eq!((status.history[0].subject.as_str(), status.history[0].outcome), ("bad", Outcome::Failed));
    assert_eq!(status.history[0].hooks[0].outcome, HookOutcome::Failed);
    assert_eq!(status.history[0].hooks[0].log, ["starting", "at work"]);
    assert!(status.problems[0].contains("last line of its log: at work"), "{:?}", status.problems);
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "1", "nothing was written");
    world.patch("v1", "ConfigMap", "a", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "a", "mended", |object| object["data"]["key"] == "1").await;

    // It is not tried again by itself, not even by another agent.
    let before: Vec<String> = jobs(&world, "migrate").await.iter().map(|job| name(job).to_owned()).collect();
    world.kill_agent();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after: Vec<String> = jobs(&world, "migrate").await.iter().map(|job| name(job).to_owned()).collect();
    assert_eq!((before.len(), &before), (1, &after));
    world.status_where("failing-hook", "still blocked", is_blocked).await;

    // It is when a person asks for it.
    world.request_sync("failing-hook", "again").await;
    world
        .status_where("failing-hook", "tried again", |status| {
            let run = status.history.first().and_then(|sync| sync.hooks.first());
            status.last_handled_request.as_deref() == Some("again")
                && run.is_some_and(|run| run.outcome == HookOutcome::Failed && !before[0].ends_with(&run.run))
        })
        .await;
    world.repo.commit("master", "good", &[("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:3"))]);
    world.runs("failing-hook", "master").await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "2");
    assert_eq!(jobs(&world, "migrate").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_hook_survives_a_restart_and_gives_way_to_a_newer_commit() {
    let mut world = World::new("stuck-hook").await;
    world.repo.commit(
        "master",
        "stuck",
        &[
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:1-never-ready")),
        ],
    );
    world.repository().await;
    world.environment("stuck-hook", json!({"lane": "master", "path": "prod"})).await;
    let mark = world.mark();
    world.start_agent();
    let is_waiting = |status: &towpath_core::status::EnvironmentStatus| {
        let waits = status.sync.as_ref().and_then(|sync| sync.waits.as_ref());
        waits.is_some_and(|waits| waits.message.contains("BeforeSync hook Job.batch stuck-hook/migrate"))
    };
    let status = world.status_where("stuck-hook", "waiting for its hook", is_waiting).await;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(ready.reason, "WaitsForHook", "{ready:?}");
    world.kill_agent();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.status_where("stuck-hook", "waiting for its hook", is_waiting).await;
    let writes = written(&world, mark);
    assert_eq!(writes.len(), 1, "one Job and nothing else: {writes:#?}");
    let stuck = writes[0].name.clone();

    let mark = world.mark();
    world.repo.commit("master", "good", &[("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:2"))]);
    let status = world.runs("stuck-hook", "master").await;
    let writes: Vec<_> = written(&world, mark).into_iter().map(|request| (request.verb, request.name)).collect();
    assert_eq!(writes[0], ("delete".to_owned(), stuck), "{writes:?}");
    assert!(writes[1].1.starts_with("migrate-") && writes[2].1 == "a", "{writes:?}");
    let syncs: Vec<_> = status.history.iter().map(|sync| (sync.outcome, sync.hooks[0].outcome)).collect();
    assert_eq!(syncs, [(Outcome::Applied, HookOutcome::Succeeded), (Outcome::Overtaken, HookOutcome::Overtaken)]);
    assert_eq!(jobs(&world, "migrate").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_after_the_sync_runs_when_all_is_healthy_and_its_failure_stays_to_be_seen() {
    let mut world = World::new("after-hook").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/web.yaml", &deployment("web", "web:1-never-ready")),
            ("prod/smoke.yaml", &hook("smoke", "AfterSync", "smoke:1-fail")),
        ],
    );
    world.follow("after-hook", json!({"lane": "master", "path": "prod"})).await;
    world.status_where("after-hook", "rolling out", |status| status.running.is_some() && status.sync.is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(jobs(&world, "smoke").await.is_empty(), "it is not healthy yet");

    world.repo.commit("master", "second", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    let failed = |status: &towpath_core::status::EnvironmentStatus| {
        status.state == State::Blocked
            && status
                .problems
                .iter()
                .any(|problem| problem.contains("AfterSync hook Job.batch after-hook/smoke failed"))
    };
    let status = world.status_where("after-hook", "failed", failed).await;
    let head = world.repo.head("master").to_string();
    assert!(status.running.as_ref().unwrap().revision.ends_with(&head), "nothing goes back by itself");
    assert_eq!((status.history[0].subject.as_str(), status.history[0].outcome), ("second", Outcome::Failed));
    assert_eq!((status.history[1].subject.as_str(), status.history[1].outcome), ("first", Outcome::Overtaken));
    world.kill_agent();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = world.status_where("after-hook", "still failed", failed).await;
    assert_eq!(status.history.len(), 2);
    assert_eq!(jobs(&world, "smoke").await.len(), 1, "it was not run again");
    world.repo.commit("master", "good", &[("prod/smoke.yaml", &hook("smoke", "AfterSync", "smoke:2"))]);
    world.runs("after-hook", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_takes_too_long_and_one_that_vanishes_are_told_apart() {
    let mut world = World::new("late-hook").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &config_map("a", "1")),
            ("prod/migrate.yaml", &hook("migrate", "BeforeSync", "migrate:1-never-ready")),
        ],
    );
    world.follow("late-hook", json!({"lane": "master", "path": "prod", "timeout": "3s"})).await;
    let status = world
        .status_where("late-hook", "timed out", |status| {
            status.problems.iter().any(|problem| problem.contains("late-hook/migrate timed out"))
        })
        .await;
    assert_eq!(status.history[0].hooks[0].outcome, HookOutcome::TimedOut);
    // Its pod is gone by now.
    assert_eq!(status.history[0].hooks[0].log, ["starting", "at work"]);
    assert!(world.get("v1", "ConfigMap", "a").await.is_none());

    world.patch("towpath.dev/v1alpha1", "Environment", "late-hook", json!({"spec": {"timeout": "10m"}})).await;
    world.request_sync("late-hook", "again").await;
    let is_running = |status: &towpath_core::status::EnvironmentStatus| {
        status.sync.as_ref().is_some_and(|sync| sync.hooks.iter().any(|run| run.outcome == HookOutcome::Running))
    };
    let status = world.status_where("late-hook", "tried again", is_running).await;
    let run = status.sync.unwrap().hooks[0].clone();
    let job = run.job.rsplit_once('/').unwrap().1.to_owned();
    world.plane.kubectl(&["delete", "job", &job, "-n", "late-hook"]).unwrap();
    let status = world
        .status_where("late-hook", "told that it vanished", |status| {
            status.problems.iter().any(|problem| problem.contains("nobody knows whether it succeeded"))
        })
        .await;
    assert_eq!(status.history[0].hooks[0].outcome, HookOutcome::Vanished);
    assert!(jobs(&world, "migrate").await.is_empty(), "it is not run again by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_of_the_first_sync_finds_what_waves_below_0_bring_and_its_failure_takes_nothing_away() {
    let mut world = World::new("first-hook").await;
    world.administers();
    let elsewhere = |manifest: &str| {
        let mut manifest: Value = serde_json::from_str(manifest).unwrap();
        manifest["metadata"]["namespace"] = "first-hook-new".into();
        manifest
    };
    let mut migrate = elsewhere(&hook("migrate", "BeforeSync", "migrate:1"));
    migrate["spec"]["template"]["spec"]["serviceAccountName"] = "migrator".into();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "migrator"}}).to_string();
    let account = in_wave(&elsewhere(&account).to_string(), -1);
    let needed = |value: &str| in_wave(&elsewhere(&config_map("needed", value)).to_string(), -1);
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "first-hook-new"}}).to_string();
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/migrate.yaml", &migrate.to_string()),
            ("prod/account.yaml", &account),
            ("prod/needed.yaml", &needed("1")),
            ("prod/ns.yaml", &namespace),
            ("prod/a.yaml", &elsewhere(&config_map("a", "1")).to_string()),
        ],
    );
    world.repository().await;
    let allow = json!({"clusterKinds": ["Namespace"], "namespaces": ["first-hook-new"]});
    world.environment("first-hook", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    world.start_agent();
    let status = world.runs("first-hook", "master").await;
    assert_eq!(status.history.len(), 1, "at the first try: {:#?}", status.history);
    assert_eq!(status.history[0].hooks[0].outcome, HookOutcome::Succeeded);

    // What a failed hook was given goes back to what runs.
    let mut bad = migrate.clone();
    bad["spec"]["template"]["spec"]["containers"][0]["image"] = "migrate:2-fail".into();
    world.repo.commit("master", "bad", &[("prod/migrate.yaml", &bad.to_string()), ("prod/needed.yaml", &needed("2"))]);
    world.status_where("first-hook", "blocked", |status| status.state == State::Blocked).await;
    let needed = world.get_in("first-hook-new", "v1", "ConfigMap", "needed").await.unwrap();
    assert_eq!(needed["data"]["key"], "1");
    let mark = world.mark();
    world.kill_agent();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let writes: Vec<_> = world.requests_since(mark).into_iter().filter(|request| request.is_write()).collect();
    assert_eq!(writes, [], "nothing goes to and fro");
    world.plane.kubectl(&["delete", "namespace", "first-hook-new", "--wait=false"]).unwrap();
}
