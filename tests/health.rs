//! How objects are, as people see it: in the status, on the page and in the terminal.

use std::process::Command;

use serde_json::{Value, json};
use support::agent;
use support::world::World;
use towpath_core::health::Health;
use towpath_core::status::ObjectStatus;

use crate::manifests::{anything, definition, deployment};

/// The first object of a status that is not healthy, once one is as it should be.
async fn unhealthy(world: &World, name: &str, what: &str, is_so: impl Fn(&ObjectStatus) -> bool) -> ObjectStatus {
    let status = world.status_where(name, what, |status| status.unhealthy.first().is_some_and(&is_so)).await;
    status.unhealthy[0].clone()
}

fn job(name: &str, image: &str) -> String {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "migrate", "image": image}],
        }}},
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_crashes_is_shown_with_its_last_words() {
    let mut world = World::new("crashes").await;
    world.repo.commit("master", "bad", &[("prod/web.yaml", &deployment("web", "web:1-crash"))]);
    world.repository().await;
    world.environment("crashes", json!({"lane": "master", "path": "prod"})).await;
    world.listen();
    world.start_agent();
    let found = unhealthy(&world, "crashes", "explained", |object| !object.log.is_empty()).await;
    assert_eq!(found.health, Health::Progressing, "until its deadline");
    for part in ["CrashLoopBackOff", "exit 1: \"container web exits with code 1: the tag of its image says so\""] {
        assert!(found.message.contains(part), "{found:?}");
    }
    assert_eq!(
        found.log,
        [
            "starting",
            "connecting to postgres://***@db:5432/shop",
            "settings: API_TOKEN=*** LEVEL=info",
            "fatal: cannot open /etc/web/settings.yaml",
        ],
        "of the run before, with the secrets masked"
    );
    assert!(!world.agent_log().contains("hunter2"), "a log is for the status alone");

    let text = page(&world).await;
    assert!(text.contains("CrashLoopBackOff") && text.contains("fatal: cannot open /etc/web/settings.yaml"), "{text}");
    let text = terminal(&world, &["get", "crashes", "-n", "crashes", "-o", "wide"]);
    assert!(
        text.contains("is rolling out: Deployment.apps crashes/web") && text.contains("CrashLoopBackOff"),
        "{text}"
    );

    let never = json!({"spec": {"logs": "Never"}});
    world.patch("towpath.dev/v1alpha1", "Environment", "crashes", never).await;
    let found = unhealthy(&world, "crashes", "without a log", |object| object.log.is_empty()).await;
    assert!(found.message.contains("CrashLoopBackOff"), "{found:?}");

    world.repo.commit("master", "good", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    assert!(world.runs("crashes", "master").await.unhealthy.is_empty());
}

async fn page(world: &World) -> String {
    let url = format!("http://127.0.0.1:{}/environments/crashes", world.port());
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

fn terminal(world: &World, arguments: &[&str]) -> String {
    let mut command = Command::new(agent::binary().unwrap());
    let output = command.args(arguments).env("KUBECONFIG", world.plane.admin_kubeconfig()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_read_logs_shows_none_and_is_no_problem() {
    let mut world = World::new("quiet-logs").await;
    // The rights of the shipped role, without the logs.
    let role =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/tenant/deployer.yaml")).unwrap();
    let documents: Vec<Value> = role.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    let mut role = documents.into_iter().find(|document| document["kind"] == "Role").expect("it has a Role");
    let rules = role["rules"].as_array_mut().unwrap();
    let with_logs = rules.len();
    rules.retain(|rule| rule["resources"] != json!(["pods/log"]));
    assert_eq!(rules.len(), with_logs - 1);
    role["metadata"] = json!({"name": "deployer", "namespace": "quiet-logs"});
    world.apply(role).await;
    world.delete("rbac.authorization.k8s.io/v1", "RoleBinding", "towpath-deployer").await;
    world
        .apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "deployer", "namespace": "quiet-logs"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer"},
            "subjects": [{"kind": "ServiceAccount", "name": "towpath-deployer", "namespace": "quiet-logs"}],
        }))
        .await;
    world.repo.commit("master", "bad", &[("prod/web.yaml", &deployment("web", "web:1-crash"))]);
    world.follow("quiet-logs", json!({"lane": "master", "path": "prod"})).await;
    let is_told = |object: &ObjectStatus| object.message.contains("CrashLoopBackOff");
    let found = unhealthy(&world, "quiet-logs", "explained", is_told).await;
    assert!(found.log.is_empty(), "{found:?}");
    assert!(world.status("quiet-logs").await.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_says_how_it_ended() {
    let mut world = World::new("fails").await;
    world.repo.commit("master", "bad", &[("prod/job.yaml", &job("migrate", "task:1-fail"))]);
    world.follow("fails", json!({"lane": "master", "path": "prod"})).await;
    let found =
        unhealthy(&world, "fails", "failed", |object| object.health == Health::Degraded && !object.log.is_empty())
            .await;
    assert!(found.message.contains("BackoffLimitExceeded"), "{found:?}");
    assert!(found.message.contains("container migrate failed, exit 1"), "{found:?}");
    assert_eq!(found.log, ["starting", "at work"], "of its only run");
}

/// The definition of a kind whose controller is played by the test.
pub fn reported(api_version: &str, kind: &str) -> Value {
    let mut definition = definition(api_version, kind, anything());
    definition["spec"]["versions"][0]["subresources"] = json!({"status": {}});
    definition
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_resource_goes_by_the_rule_of_its_environment() {
    let mut world = World::new("rules").await;
    world.apply(reported("health.example.org/v1", "Database")).await;
    world.served("health.example.org/v1", "Database").await;
    let database = json!({
        "apiVersion": "health.example.org/v1", "kind": "Database", "metadata": {"name": "orders"}, "spec": {"plan": "s"},
    });
    world.repo.commit("master", "first", &[("prod/database.yaml", &database.to_string())]);
    world.repository().await;
    let rule = json!({
        "apiVersion": "health.example.org/v1", "kind": "Database",
        "failed": "status.stage == 'Broken'", "current": "status.stage == 'Fine'",
    });
    world.environment("rules", json!({"lane": "master", "path": "prod", "health": [rule]})).await;
    world.start_agent();
    let found = unhealthy(&world, "rules", "waiting for its controller", |_| true).await;
    assert_eq!(
        (found.health, found.message.as_str()),
        (Health::Progressing, "its controller has written no status yet")
    );

    let stage = |stage: &str| json!({"status": {"stage": stage, "message": "on disk 7"}});
    world.patch_status("health.example.org/v1", "Database", "orders", stage("Building")).await;
    let is_building = |object: &ObjectStatus| object.message == "not current yet: on disk 7";
    unhealthy(&world, "rules", "not current", is_building).await;
    world.patch_status("health.example.org/v1", "Database", "orders", stage("Broken")).await;
    unhealthy(&world, "rules", "failed", |object| object.health == Health::Degraded).await;
    world.patch_status("health.example.org/v1", "Database", "orders", stage("Fine")).await;
    world.runs("rules", "master").await;

    // Other rules say something else of the same object, which nobody changed.
    let other =
        json!([{"apiVersion": "health.example.org/v1", "kind": "Database", "current": "status.stage == 'Better'"}]);
    world.patch("towpath.dev/v1alpha1", "Environment", "rules", json!({"spec": {"health": other}})).await;
    unhealthy(&world, "rules", "judged anew", |object| object.health == Health::Progressing).await;
    world.patch("towpath.dev/v1alpha1", "Environment", "rules", json!({"spec": {"health": null}})).await;
    world.status_where("rules", "without rules", |status| status.health == Some(Health::Healthy)).await;

    let bad = json!([{"apiVersion": "health.example.org/v1", "kind": "Database", "current": "status.stage = 'Fine'"}]);
    world.patch("towpath.dev/v1alpha1", "Environment", "rules", json!({"spec": {"health": bad}})).await;
    let status = world.status_where("rules", "blocked", |status| !status.problems.is_empty()).await;
    let problem = &status.problems[0];
    assert!(problem.starts_with("spec.health[0].current: ") && problem.contains("status.stage = 'Fine'"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_speaks_for_its_workload_and_is_done_when_it_has_seen_it() {
    const KIND: (&str, &str, &str) = ("rollouts.kruise.io/v1beta1", "Rollout", "web");
    let mut world = World::new("steps").await;
    world.apply(reported(KIND.0, KIND.1)).await;
    world.served(KIND.0, KIND.1).await;
    let rollout = json!({
        "apiVersion": KIND.0, "kind": KIND.1, "metadata": {"name": KIND.2},
        "spec": {
            "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "strategy": {"canary": {"steps": [{"replicas": "20%", "pause": {}}, {"replicas": "100%"}]}},
        },
    });
    let files = [("prod/web.yaml", deployment("web", "web:1")), ("prod/rollout.yaml", rollout.to_string())];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    world.repo.commit("master", "first", &files);
    world.follow("steps", json!({"lane": "master", "path": "prod"})).await;
    let waits = |object: &ObjectStatus| object.message == "waits for its workload Deployment web";
    unhealthy(&world, "steps", "waiting for the controller", waits).await;

    // It has looked, before the change that counts.
    let done = |generation: i64| {
        let canary =
            json!({"observedWorkloadGeneration": generation, "currentStepIndex": 2, "currentStepState": "Completed"});
        json!({"status": {"observedGeneration": 1, "phase": "Healthy", "canaryStatus": canary}})
    };
    world.patch_status(KIND.0, KIND.1, KIND.2, done(0)).await;
    let behind = |object: &ObjectStatus| object.message == "has not seen the last change of Deployment web";
    unhealthy(&world, "steps", "behind", behind).await;
    let web = world.get("apps/v1", "Deployment", "web").await.unwrap();
    world.patch_status(KIND.0, KIND.1, KIND.2, done(web["metadata"]["generation"].as_i64().unwrap())).await;
    world.runs("steps", "master").await;

    // While it moves the Deployment, that says nothing; the step waits for a person.
    let mark = json!({"metadata": {"annotations": {"rollouts.kruise.io/in-progressing": r#"{"rolloutName":"web"}"#}}});
    world.patch("apps/v1", "Deployment", "web", mark).await;
    let paused = json!({"status": {
        "phase": "Progressing", "conditions": [{"type": "Progressing", "status": "True", "reason": "InRolling"}],
        "canaryStatus": {"currentStepIndex": 1, "currentStepState": "StepPaused"},
    }});
    world.patch_status(KIND.0, KIND.1, KIND.2, paused).await;
    let status = world.status_where("steps", "paused", |status| status.health == Some(Health::Suspended)).await;
    let objects: Vec<&str> = status.unhealthy.iter().map(|object| object.object.as_str()).collect();
    assert_eq!(objects, ["Rollout.rollouts.kruise.io steps/web"]);
}
