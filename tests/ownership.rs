//! What counts as drift: stable under real controllers, and true under what people and controllers do.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::world::World;

use crate::manifests::image;
use crate::settled::runs_on;

/// A Deployment and a Service full of what servers store otherwise than it was written.
fn odd() -> Vec<(String, String)> {
    let deployment = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: odd
  annotations: {empty: null}
spec:
  replicas: 2
  selector: {matchLabels: {app: odd}}
  template:
    metadata: {labels: {app: odd}}
    spec:
      containers:
      - name: web
        image: web:1
        resources: {requests: {cpu: 1000m, memory: 1024Mi}, limits: {cpu: '2.0'}}
        env:
        - {name: FIRST, value: a}
        - {name: SECOND, value: b}
        ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP, name: udp}]
";
    let service = "
apiVersion: v1
kind: Service
metadata: {name: odd}
spec:
  selector: {app: odd}
  ports: [{port: 80, targetPort: 8080}]
";
    vec![("prod/deployment.yaml".into(), deployment.into()), ("prod/service.yaml".into(), service.into())]
}

async fn odd_world(name: &str) -> World {
    runs_on(World::new(name).await, &odd()).await
}

/// How often the agent writes to workloads within a while after an act. Says which writes they are.
async fn writes_after(world: &World, act: impl Future<Output = ()>) -> usize {
    let mark = world.mark_at_rest().await;
    act.await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let is_workload_write = |request: &support::audit::Request| request.is_write() && request.impersonated.is_some();
    let writes: Vec<_> = world.requests_since(mark).into_iter().filter(is_workload_write).collect();
    for write in &writes {
        println!("{} {} {}", write.verb, write.uri, write.code);
    }
    writes.len()
}

/// A strategic merge patch, as `kubectl patch` sends it.
async fn strategic(world: &World, patch: Value) {
    let params = PatchParams { field_manager: Some("hand".into()), ..PatchParams::default() };
    let api = world.api("apps/v1", "Deployment").await;
    api.patch("odd", &params, &Patch::Strategic(patch)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_add_is_no_drift() {
    let world = odd_world("additions").await;
    assert_eq!(writes_after(&world, async {}).await, 0, "normalised quantities, defaults and nulls are no drift");

    let sidecar = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "sidecar"}, {"name": "web"}],
        "containers": [{"name": "sidecar", "image": "mesh:1"}],
    }}}});
    let writes = writes_after(&world, async {
        strategic(&world, sidecar).await;
        world
            .object_where("apps/v1", "Deployment", "odd", "given a sidecar in front", |object| {
                image(object) == "mesh:1"
            })
            .await;
    })
    .await;
    assert_eq!(writes, 0, "a sidecar put in front is not ours");

    let writes = writes_after(&world, async {
        strategic(
            &world,
            json!({"metadata": {"annotations": {"theirs": "1"}}, "spec": {"template": {"spec": {
                "containers": [{"name": "web", "env": [{"name": "THEIRS", "value": "1"}]}],
            }}}}),
        )
        .await;
    })
    .await;
    assert_eq!(writes, 0, "neither is an entry of a list that is merged by name");

    let writes = writes_after(&world, async {
        world.plane.kubectl(&["rollout", "restart", "deployment/odd", "-n", "additions"]).unwrap();
    })
    .await;
    assert_eq!(writes, 0, "nor is a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_of_ours_is_mended() {
    let world = odd_world("changes").await;
    let replicas = |count: u32| move |object: &Value| object["spec"]["replicas"] == count;

    world.plane.kubectl(&["scale", "deployment/odd", "--replicas=4", "-n", "changes"]).unwrap();
    world.object_where("apps/v1", "Deployment", "odd", "scaled back", replicas(2)).await;

    strategic(
        &world,
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "web", "env": [{"name": "FIRST", "$patch": "delete"}]},
        ]}}}}),
    )
    .await;
    world
        .object_where("apps/v1", "Deployment", "odd", "given its variable back", |object| {
            object["spec"]["template"]["spec"]["containers"][0]["env"]
                .as_array()
                .is_some_and(|list| list.iter().any(|entry| entry["name"] == "FIRST"))
        })
        .await;

    world.plane.kubectl(&["label", "deployment/odd", "towpath.dev/environment-", "-n", "changes"]).unwrap();
    world
        .object_where("apps/v1", "Deployment", "odd", "labelled again", |object| {
            object["metadata"]["labels"]["towpath.dev/environment"] == "changes"
        })
        .await;

    let wiped = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let wiped: kube::api::Patch<()> = Patch::Json(serde_json::from_value(wiped).unwrap());
    world.api("apps/v1", "Deployment").await.patch("odd", &PatchParams::default(), &wiped).await.unwrap();
    world
        .object_where("apps/v1", "Deployment", "odd", "owned again", |object| {
            object["metadata"]["managedFields"].as_array().is_some_and(|entries| {
                entries.iter().any(|entry| entry["manager"] == "towpath" && entry["operation"] == "Apply")
            })
        })
        .await;

    world.plane.kubectl(&["delete", "service/odd", "-n", "changes"]).unwrap();
    world.object_where("v1", "Service", "odd", "back", |object| !object.is_null()).await;
    assert_eq!(writes_after(&world, async {}).await, 0, "and then it rests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_rewrites_our_image_starts_no_fight() {
    let world = World::new("rewriting-policy").await;
    let name = "rewriting.journey.example.com";
    world.apply(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "rewriting"}},
                "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}],
            },
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'replace', path: '/spec/template/spec/containers/0/image', value: 'mirror.example/web:1'}]"}}],
        },
    }))
    .await;
    world
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name},
        }))
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(world);
    let world = odd_world("rewriting").await;
    let deployment = world.get("apps/v1", "Deployment", "odd").await.unwrap();
    assert_eq!(image(&deployment), "mirror.example/web:1", "the policy is at work");
    assert_eq!(writes_after(&world, async {}).await, 0);
}
