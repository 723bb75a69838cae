//! The dry run before the first write: what is refused is said all at once, by name, and nothing is written.

use std::time::Duration;

use serde_json::{Value, json};
use support::webhook::{Manner, Webhook};
use support::world::World;
use towpath_core::status::{EnvironmentStatus, Outcome, State};

use crate::manifests::{config_map, definition, deployment};
use crate::waves::written;

fn secret(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"key": "hunter2"}})
        .to_string()
}

fn says(status: &EnvironmentStatus, parts: &[&str]) -> bool {
    status.problems.iter().any(|problem| parts.iter().all(|part| problem.contains(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_refused_is_said_at_once_with_who_refused_it() {
    let mut world = World::new("denials").await;
    let webhook = Webhook::start(Manner::Deny("secrets are kept elsewhere".into()));
    world
        .apply(webhook.configuration("ValidatingWebhookConfiguration", "no-secrets.example.com", "denials", "secrets"))
        .await;
    world
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "denials-no-x"},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "denials"}},
                    "resourceRules": [{
                        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                        "resources": ["configmaps"],
                    }],
                },
                "validations": [{
                    "expression": "!has(object.data) || !('key' in object.data) || object.data.key != 'x'",
                    "message": "key must not be x",
                }],
            },
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "denials-no-x"},
            "spec": {"policyName": "denials-no-x", "validationActions": ["Deny"]},
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small", "namespace": "denials"},
            "spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]},
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": "denials"},
            "spec": {"hard": {"count/services": "0"}},
        }))
        .await;
    world.plane.kubectl(&["label", "ns", "denials", "pod-security.kubernetes.io/enforce=restricted"]).unwrap();
    // A policy and a webhook are enforced a moment after they are made.
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    let probe = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe", "namespace": "denials"}, "data": {"key": "x"},
    });
    while support::world::apply(&world.admin, &probe).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the policy is not enforced");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let mut odd: Value = serde_json::from_str(&deployment("odd", "odd:1")).unwrap();
    odd["spec"]["replica"] = 1.into();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "large"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"},
        "spec": {"containers": [{"name": "c", "image": "c:1"}]},
    });
    let mark = world.mark();
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &config_map("good", "1")),
            ("prod/b.yaml", &config_map("bad", "x")),
            ("prod/c.yaml", &secret("keys")),
            ("prod/d.yaml", &odd.to_string()),
            ("prod/e.yaml", &claim.to_string()),
            ("prod/f.yaml", &service.to_string()),
            ("prod/g.yaml", &pod.to_string()),
        ],
    );
    world.follow("denials", json!({"lane": "master", "path": "prod"})).await;
    let status = world.status_where("denials", "blocked", |status| status.problems.len() >= 6).await;
    assert_eq!(status.state, State::Blocked);
    for parts in [
        &["prod/b.yaml:1: ConfigMap denials/bad", "ValidatingAdmissionPolicy 'denials-no-x'", "key must not be x"][..],
        &["prod/c.yaml:1: Secret denials/keys", "no-secrets.example.com"],
        &["prod/d.yaml:1: Deployment.apps denials/odd", ".spec.replica: field not declared"],
        &["prod/e.yaml:1: PersistentVolumeClaim denials/large", "maximum storage usage", "LimitRange"],
        &["prod/f.yaml:1: Service denials/web", "exceeded quota: none", "raise the quota"],
        &["prod/g.yaml:1: Pod denials/bare", "violates PodSecurity", "runAsNonRoot"],
    ] {
        assert!(says(&status, parts), "{parts:?} is not in {:#?}", status.problems);
    }
    assert_eq!(status.problems.len(), 6, "{:#?}", status.problems);
    assert!(status.problems.is_sorted(), "by place: {:#?}", status.problems);
    assert!(!format!("{status:?}").contains("hunter2"));
    assert_eq!(written(&world, mark), [], "nothing is written");
    assert!(webhook.asked() > 0);

    // Rules may change without a commit: then it goes on by itself.
    webhook.set(Manner::Allow);
    world.plane.kubectl(&["delete", "validatingadmissionpolicybinding", "denials-no-x"]).unwrap();
    world.plane.kubectl(&["delete", "limitrange,resourcequota", "--all", "-n", "denials"]).unwrap();
    world.plane.kubectl(&["label", "ns", "denials", "pod-security.kubernetes.io/enforce-"]).unwrap();
    world.repo.commit("master", "second", &[("prod/d.yaml", &config_map("odd", "1"))]);
    world.status_where("denials", "applied", |status| status.running.is_some()).await;
    world.plane.kubectl(&["delete", "validatingwebhookconfiguration", "no-secrets.example.com"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_cannot_change_are_all_named_before_anything_is_written() {
    let mut world = World::new("immutable").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/a.yaml", &deployment("one", "web:1")),
            ("prod/b.yaml", &deployment("two", "web:1")),
            ("prod/c.yaml", &config_map("c", "1")),
        ],
    );
    world.follow("immutable", json!({"lane": "master", "path": "prod"})).await;
    world.runs("immutable", "master").await;
    let mark = world.mark();
    let moved = |name: &str| deployment(name, "web:2").replace(&format!(r#""app":"{name}""#), r#""app":"other""#);
    world.repo.commit(
        "master",
        "second",
        &[("prod/a.yaml", &moved("one")), ("prod/b.yaml", &moved("two")), ("prod/c.yaml", &config_map("c", "2"))],
    );
    let status = world.status_where("immutable", "blocked", |status| status.problems.len() == 2).await;
    for (place, name) in [("prod/a.yaml:1", "one"), ("prod/b.yaml:1", "two")] {
        assert!(says(&status, &[place, name, "immutable"]), "{:#?}", status.problems);
    }
    assert_eq!(written(&world, mark), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_namespace_or_definition_of_the_same_commit_is_tried_when_they_are_there() {
    let mut world = World::new("staged").await;
    world.administers();
    let crd = |fields: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "integer"}))).collect();
        let schema = json!({
            "type": "object", "properties": {"spec": {"type": "object", "properties": properties}},
        });
        definition("staged.example.com/v1", "Gear", schema).to_string()
    };
    let gear = |spec: Value| {
        json!({"apiVersion": "staged.example.com/v1", "kind": "Gear", "metadata": {"name": "g", "namespace": "staged-new"}, "spec": spec})
            .to_string()
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "staged-new"}}).to_string();
    let mark = world.mark();
    world.repo.commit(
        "master",
        "bad",
        &[
            ("prod/crd.yaml", &crd(&["teeth"])),
            ("prod/gear.yaml", &gear(json!({"teeth": 12, "colour": 3}))),
            ("prod/ns.yaml", &namespace),
            ("prod/a.yaml", &config_map("a", "1")),
        ],
    );
    world.repository().await;
    let allow = json!({
        "clusterKinds": ["CustomResourceDefinition.apiextensions.k8s.io", "Namespace"],
        "namespaces": ["staged-new"],
    });
    world.environment("staged", json!({"lane": "master", "path": "prod", "allow": allow})).await;
    world.start_agent();
    let status = world.status_where("staged", "blocked", |status| says(status, &["prod/gear.yaml:1", "colour"])).await;
    assert!(
        says(&status, &["made or changed before that, and kept: Namespace staged-new, CustomResourceDefinition"]),
        "{:#?}",
        status.problems
    );
    let names: Vec<String> = written(&world, mark).into_iter().map(|request| request.name).collect();
    assert_eq!(names, ["gears.staged.example.com"], "and the namespace, which is counted to itself");

    world.repo.commit("master", "good", &[("prod/gear.yaml", &gear(json!({"teeth": 12})))]);
    world.runs("staged", "master").await;
    // A definition that is widened, and an object that needs it, in one commit.
    world.repo.commit(
        "master",
        "wider",
        &[("prod/crd.yaml", &crd(&["teeth", "colour"])), ("prod/gear.yaml", &gear(json!({"teeth": 12, "colour": 3})))],
    );
    let status = world.runs("staged", "master").await;
    assert_eq!(status.history[0].outcome, Outcome::Applied);
    let gear = world.get_in("staged-new", "staged.example.com/v1", "Gear", "g").await.unwrap();
    assert_eq!(gear["spec"]["colour"], 3);
    world.plane.kubectl(&["delete", "crd", "gears.staged.example.com", "--wait=false"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_and_its_binding_come_in_one_commit_also_for_an_account_without_the_verb_bind() {
    let mut world = World::new("bindings").await;
    world.plane.kubectl(&["delete", "rolebinding", "towpath-deployer", "-n", "bindings"]).unwrap();
    world
        .plane
        .kubectl(&[
            "create",
            "rolebinding",
            "towpath-deployer",
            "-n",
            "bindings",
            "--clusterrole=admin",
            "--serviceaccount=bindings:towpath-deployer",
        ])
        .unwrap();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "a-reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "bindings"}],
    });
    world.repo.commit("master", "first", &[("prod/a.yaml", &binding.to_string()), ("prod/b.yaml", &role.to_string())]);
    world.follow("bindings", json!({"lane": "master", "path": "prod"})).await;
    let status = world.runs("bindings", "master").await;
    assert_eq!(status.history.len(), 1, "at the first try: {:#?}", status.history);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_hangs_or_fails_is_named_and_waited_out() {
    let mut world = World::new("webhooks").await;
    let webhook = Webhook::start(Manner::Hang);
    world
        .apply(webhook.configuration("ValidatingWebhookConfiguration", "slow.example.com", "webhooks", "secrets"))
        .await;
    world.repo.commit(
        "master",
        "first",
        &[("prod/a.yaml", &secret("a")), ("prod/b.yaml", &secret("b")), ("prod/c.yaml", &config_map("c", "1"))],
    );
    world.repository().await;
    world.environment("webhooks", json!({"lane": "master", "path": "prod"})).await;
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    let probe = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "probe", "namespace": "webhooks"}});
    while support::world::apply(&world.admin, &probe).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the webhook is not asked");
        world.plane.kubectl(&["delete", "secret", "probe", "-n", "webhooks"]).unwrap();
    }
    world.start_agent();
    let status = world
        .status_where("webhooks", "told of it", |status| says(status, &["prod/a.yaml:1", "slow.example.com"]))
        .await;
    assert_eq!(status.state, State::OutOfSync, "it may pass: {status:#?}");
    assert!(world.get("v1", "ConfigMap", "c").await.is_none(), "nothing is written");
    webhook.set(Manner::FailEverySecond);
    world.runs("webhooks", "master").await;
    world.plane.kubectl(&["delete", "validatingwebhookconfiguration", "slow.example.com"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_adds_something_each_time_makes_no_drift() {
    let mut world = World::new("adding").await;
    let webhook = Webhook::start(Manner::Add);
    world.apply(webhook.configuration("MutatingWebhookConfiguration", "adding.example.com", "adding", "secrets")).await;
    world.repo.commit("master", "first", &[("prod/a.yaml", &secret("a")), ("prod/b.yaml", &secret("b"))]);
    world.follow("adding", json!({"lane": "master", "path": "prod"})).await;
    world.runs("adding", "master").await;
    // The first may have come before the webhook was asked at all.
    world.repo.commit("master", "second", &[("prod/c.yaml", &secret("c"))]);
    world.runs("adding", "master").await;
    for name in ["a", "b", "c"] {
        world.patch("v1", "Secret", name, json!({"data": {"other": "eA=="}})).await;
    }
    let mark = world.mark_at_rest().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(written(&world, mark), []);
    world.kill_agent();
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.runs("adding", "master").await;
    assert!(webhook.asked() > 0);
    assert_eq!(world.status("adding").await.drift, None);
    world.plane.kubectl(&["delete", "mutatingwebhookconfiguration", "adding.example.com"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_a_workload_may_not_have_are_said_by_its_health() {
    let mut world = World::new("standards").await;
    world.plane.kubectl(&["label", "ns", "standards", "pod-security.kubernetes.io/enforce=restricted"]).unwrap();
    world.repo.commit("master", "first", &[("prod/web.yaml", &deployment("web", "web:1"))]);
    world.follow("standards", json!({"lane": "master", "path": "prod"})).await;
    world
        .status_where("standards", "explained", |status| {
            status.unhealthy.iter().any(|object| object.message.contains("violates PodSecurity"))
        })
        .await;
}
