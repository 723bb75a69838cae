//! Objects with a field that cannot be changed.

use std::time::Duration;

use serde_json::{Value, json};
use support::audit::{Mark, Request};
use support::world::World;
use towpath_core::status::State;

use crate::manifests::config_map;

fn job(image: &str, annotations: Value) -> String {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate", "annotations": annotations},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "m", "image": image}]}}},
    })
    .to_string()
}

fn replaceable() -> Value {
    json!({"towpath.dev/replace": "true"})
}

/// What the account did to Jobs since a mark, in order: `patch 422`, `create 201?dry-run`, `delete 200`.
fn jobs(world: &World, mark: Mark) -> Vec<String> {
    let is_meant = |request: &&Request| request.impersonated.is_some() && request.resource == "jobs";
    let requests = world.requests_since(mark);
    let line = |request: &Request| {
        let dry_run = if request.uri.contains("dryRun=All") { "?dry-run" } else { "" };
        format!("{} {}{dry_run}", request.verb, request.code)
    };
    let writes =
        requests.iter().filter(is_meant).filter(|request| !matches!(request.verb.as_str(), "get" | "watch" | "list"));
    writes.map(line).collect()
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

async fn start(name: &str, files: &[(&str, &str)]) -> World {
    let mut world = World::new(name).await;
    world.repo.commit("master", "first", files);
    world.follow(name, json!({"lane": "master", "path": "prod"})).await;
    world.object_where("batch/v1", "Job", "migrate", "there", |object| !object.is_null()).await;
    world.status_where(name, "applied", |status| status.running.is_some()).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_cannot_be_changed_is_named_and_only_an_annotation_replaces_the_object() {
    let world =
        start("replacing", &[("prod/job.yaml", &job("m:1", json!({}))), ("prod/a.yaml", &config_map("a", "1"))]).await;
    let before = world.get("batch/v1", "Job", "migrate").await.unwrap();
    let mark = world.mark();
    world.repo.commit(
        "master",
        "second",
        &[("prod/job.yaml", &job("m:2", json!({}))), ("prod/a.yaml", &config_map("a", "2"))],
    );
    let status = world
        .status_where("replacing", "blocked by the field", |status| {
            let is_so = |problem: &String| {
                problem.contains("Job.batch replacing/migrate: spec.template cannot be changed once it is set")
                    && problem.contains("towpath.dev/replace: \"true\"")
            };
            status.state == State::Blocked && status.problems.iter().any(is_so)
        })
        .await;
    assert!(!status.problems.iter().any(|problem| problem.contains("m:2")), "no values: {:?}", status.problems);
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "1", "all or nothing");
    assert!(!jobs(&world, mark).iter().any(|verb| verb.starts_with("delete")));

    let mark = world.mark();
    world.repo.commit("master", "third", &[("prod/job.yaml", &job("m:2", replaceable()))]);
    let after = world
        .object_where("batch/v1", "Job", "migrate", "made anew", |object| {
            !object.is_null() && uid(object) != uid(&before)
        })
        .await;
    assert_eq!(after.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str), Some("m:2"));
    let did = jobs(&world, mark);
    let place = |what: &str| did.iter().position(|verb| verb == what).unwrap_or_else(|| panic!("no {what} in {did:?}"));
    assert!(place("create 201?dry-run") < place("delete 200"), "{did:?}");
    assert_eq!(did.iter().filter(|verb| verb.starts_with("delete")).count(), 1, "{did:?}");
    world.status_where("replacing", "settled", |status| status.problems.is_empty()).await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_for_a_new_object_that_would_be_refused() {
    let world = start("refusing-jobs", &[("prod/job.yaml", &job("m:1", replaceable()))]).await;
    let name = "refusing.journey.example.com";
    world
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "refusing-jobs"}},
                    "resourceRules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}],
                },
                "validations": [{"expression": "!object.spec.template.spec.containers.exists(c, c.image == 'm:bad')",
                    "message": "bad images are not for us"}],
            },
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]},
        }))
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mark = world.mark();
    let before = world.get("batch/v1", "Job", "migrate").await.unwrap();
    world.repo.commit("master", "second", &[("prod/job.yaml", &job("m:bad", replaceable()))]);
    world
        .status_where("refusing-jobs", "told why it is not replaced", |status| {
            status.problems.iter().any(|problem| {
                problem.contains("it is not replaced, because the new one would be refused")
                    && problem.contains("bad images are not for us")
            })
        })
        .await;
    assert!(!jobs(&world, mark).iter().any(|verb| verb.starts_with("delete")), "{:?}", jobs(&world, mark));
    assert_eq!(uid(&world.get("batch/v1", "Job", "migrate").await.unwrap()), uid(&before));
    world.repo.commit("master", "third", &[("prod/job.yaml", &job("m:good", replaceable()))]);
    world
        .object_where("batch/v1", "Job", "migrate", "made anew", |object| {
            !object.is_null() && uid(object) != uid(&before)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_between_deleting_and_creating_comes_to_the_same_end() {
    let mut world =
        start("between", &[("prod/job.yaml", &job("m:1", replaceable())), ("prod/a.yaml", &config_map("a", "1"))])
            .await;
    let before = world.get("batch/v1", "Job", "migrate").await.unwrap();
    // Something holds the old one.
    world.patch("batch/v1", "Job", "migrate", json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    let mark = world.mark();
    world.repo.commit("master", "second", &[("prod/job.yaml", &job("m:2", replaceable()))]);
    let is_ending = |object: &Value| object["metadata"].get("deletionTimestamp").is_some();
    world.object_where("batch/v1", "Job", "migrate", "on its way out", is_ending).await;
    world
        .status_where("between", "waiting for the end", |status| {
            status
                .problems
                .iter()
                .any(|problem| problem.contains("is being deleted: it is created again when it is gone"))
        })
        .await;
    world.kill_agent();
    world.patch("batch/v1", "Job", "migrate", json!({"metadata": {"finalizers": null}})).await;
    world.object_where("batch/v1", "Job", "migrate", "gone", Value::is_null).await;
    world.start_agent();
    let after = world.object_where("batch/v1", "Job", "migrate", "made anew", |object| !object.is_null()).await;
    assert_ne!(uid(&after), uid(&before));
    world.status_where("between", "settled", |status| status.problems.is_empty()).await;
    let deletes = jobs(&world, mark).iter().filter(|verb| verb.starts_with("delete")).count();
    assert_eq!(deletes, 1, "{:?}", jobs(&world, mark));
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_an_object_again_and_again_is_no_fight() {
    let world = start("often", &[("prod/job.yaml", &job("m:1", replaceable()))]).await;
    for number in 2..=6 {
        let image = format!("m:{number}");
        world.repo.commit("master", &image, &[("prod/job.yaml", &job(&image, replaceable()))]);
        let has_image =
            |object: &Value| object.pointer("/spec/template/spec/containers/0/image") == Some(&json!(image));
        world.object_where("batch/v1", "Job", "migrate", "made anew", has_image).await;
        let head = world.repo.head("master").to_string();
        world
            .status_where("often", "settled", |status| {
                let running = status.running.as_ref();
                status.problems.is_empty() && running.is_some_and(|running| running.revision.ends_with(&head))
            })
            .await;
    }
    assert_eq!(world.status("often").await.warnings, Vec::<String>::new());
}
