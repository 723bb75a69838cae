//! Fields that git names and that are somebody else's for now: an autoscaler's, a rollout controller's, a manager's.

use std::time::Duration;

use serde_json::{Value, json};
use support::world::World;
use towpath_core::status::State;

use super::{patch_as, scale_as, writes};
use crate::manifests::{config_map, deployment, image};

fn autoscaler(version: &str) -> Value {
    let metrics = match version {
        "autoscaling/v1" => json!({"targetCPUUtilizationPercentage": 60}),
        _ => {
            json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}]})
        }
    };
    let mut object = json!({
        "apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"minReplicas": 1, "maxReplicas": 20,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    });
    object["spec"].as_object_mut().unwrap().extend(metrics.as_object().unwrap().clone());
    object
}

fn replicas(object: &Value) -> u64 {
    object["spec"]["replicas"].as_u64().unwrap_or_default()
}

/// Looks at the replicas until `done`, and gives every number that was seen.
async fn numbers_seen(world: &World, done: impl Future<Output = ()>) -> Vec<u64> {
    let mut seen = Vec::new();
    tokio::pin!(done);
    loop {
        if let Some(object) = world.get("apps/v1", "Deployment", "web").await
            && seen.last() != Some(&replicas(&object))
        {
            seen.push(replicas(&object));
        }
        tokio::select! {
            () = &mut done => return seen,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_the_autoscalers_once_it_has_set_them_and_gits_again_when_it_is_gone() {
    let mut world = World::new("autoscaled").await;
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/web.yaml", &deployment("web", "web:1")),
            ("prod/hpa.yaml", &autoscaler("autoscaling/v2").to_string()),
            ("prod/other.yaml", &config_map("other", "1")),
        ],
    );
    world.follow("autoscaled", json!({"lane": "master", "path": "prod"})).await;
    world.runs("autoscaled", "master").await;
    let object = world.get("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!(replicas(&object), 2, "until the autoscaler writes, they are git's");

    let mark = world.mark();
    let seen = numbers_seen(&world, async {
        scale_as(&world, "kube-controller-manager", "web", 5).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.repo.commit("master", "second", &[("prod/web.yaml", &deployment("web", "web:2"))]);
        world.runs("autoscaled", "master").await;
    })
    .await;
    assert!(seen.iter().all(|number| [2, 5].contains(number)) && seen.last() == Some(&5), "{seen:?}");
    assert_eq!(image(&world.get("apps/v1", "Deployment", "web").await.unwrap()), "web:2");
    assert!(writes(&world, mark, "web") <= 3, "no fight: {:?}", super::asked(&world, mark, "web"));

    // A restart knows nothing of all this.
    world.kill_agent();
    world.start_agent();
    world.repo.commit("master", "third", &[("prod/web.yaml", &deployment("web", "web:3"))]);
    world.runs("autoscaled", "master").await;
    scale_as(&world, "kube-controller-manager", "web", 7).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(replicas(&world.get("apps/v1", "Deployment", "web").await.unwrap()), 7);

    // The autoscaler leaves git, and is pruned.
    world.repo.delete("master", "prod/hpa.yaml");
    world.object_where("apps/v1", "Deployment", "web", "back at git's replicas", |object| replicas(object) == 2).await;
    assert!(world.get("autoscaling/v2", "HorizontalPodAutoscaler", "web").await.is_none());

    // One that is only in the cluster counts as well.
    super::apply_as(&world, "somebody", &autoscaler("autoscaling/v2")).await;
    scale_as(&world, "kube-controller-manager", "web", 4).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(replicas(&world.get("apps/v1", "Deployment", "web").await.unwrap()), 4);
    world.plane.kubectl(&["scale", "deployment/web", "--replicas=9", "-n", "autoscaled"]).unwrap();
    world.plane.kubectl(&["delete", "hpa", "web", "-n", "autoscaled"]).unwrap();
    world.object_where("apps/v1", "Deployment", "web", "back at git's replicas", |object| replicas(object) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_leaves_fields_to_a_manager_and_others_out() {
    let mut world = World::new("ignoring").await;
    let mut annotated: Value = serde_json::from_str(&config_map("annotated", "git")).unwrap();
    annotated["metadata"]["annotations"] = json!({"towpath.dev/ignore": "/data/key"});
    annotated["data"]["other"] = "git".into();
    world.repo.commit(
        "master",
        "first",
        &[
            ("prod/web.yaml", &deployment("web", "web:1")),
            ("prod/left-out.yaml", &config_map("left-out", "git")),
            ("prod/annotated.yaml", &annotated.to_string()),
        ],
    );
    world.repository().await;
    let bad = json!({"lane": "master", "path": "prod", "ignore": [{"pointers": ["spec.replicas"]}]});
    world.environment("ignoring", bad).await;
    world.start_agent();
    world
        .status_where("ignoring", "blocked by a bad rule", |status| {
            let said = "spec.ignore[0].pointers[0]: \"spec.replicas\" is not a JSON pointer";
            status.state == State::Blocked && status.problems.iter().any(|problem| problem.contains(said))
        })
        .await;
    let rules = json!([
        {"kind": "Deployment", "pointers": ["/spec"], "managers": ["tuner"]},
        {"group": "", "kind": "ConfigMap", "name": "left-*", "pointers": ["/data/key"]},
    ]);
    world.environment("ignoring", json!({"lane": "master", "path": "prod", "ignore": rules})).await;
    world.runs("ignoring", "master").await;
    for name in ["left-out", "annotated"] {
        assert_eq!(world.get("v1", "ConfigMap", name).await.unwrap()["data"].get("key"), None, "{name}");
        patch_as(&world, "anybody", "v1", "ConfigMap", name, json!({"data": {"key": "theirs"}})).await;
    }
    patch_as(&world, "tuner", "apps/v1", "Deployment", "web", json!({"spec": {"replicas": 6}})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(replicas(&world.get("apps/v1", "Deployment", "web").await.unwrap()), 6, "it is the tuner's");
    world.repo.commit("master", "second", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    world.runs("ignoring", "master").await;
    let object = world.get("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!((replicas(&object), image(&object)), (6, "web:2"));
    for name in ["left-out", "annotated"] {
        assert_eq!(world.get("v1", "ConfigMap", name).await.unwrap()["data"]["key"], "theirs", "{name}");
    }
    // Another manager is no tuner.
    patch_as(&world, "hand", "apps/v1", "Deployment", "web", json!({"spec": {"replicas": 1}})).await;
    world.object_where("apps/v1", "Deployment", "web", "mended", |object| replicas(object) == 2).await;
    // A field that its kind cannot be without is missed by the server, by name.
    let mut broken: Value = serde_json::from_str(&deployment("broken", "web:1")).unwrap();
    broken["metadata"]["annotations"] = json!({"towpath.dev/ignore": "/spec/selector"});
    world.repo.commit("master", "broken", &[("prod/broken.yaml", &broken.to_string())]);
    world
        .status_where("ignoring", "blocked by the missing field", |status| {
            status
                .problems
                .iter()
                .any(|problem| problem.contains("prod/broken.yaml") && problem.contains("spec.selector"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_controller_is_not_fought_while_it_works() {
    let mut world = World::new("rolling").await;
    let web = |image: &str| {
        let mut object: Value = serde_json::from_str(&deployment("web", image)).unwrap();
        object["spec"]["strategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        object.to_string()
    };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world.repo.commit("master", "first", &[("prod/web.yaml", &web("web:1")), ("prod/svc.yaml", &service.to_string())]);
    world.follow("rolling", json!({"lane": "master", "path": "prod"})).await;
    world.runs("rolling", "master").await;

    // What OpenKruise's webhook and controller leave on a workload in a partition rollout, and Argo's in a Service.
    let mark = world.mark();
    let rolling = json!({
        "metadata": {
            "labels": {"rollouts.kruise.io/stable-revision": "abc"},
            "annotations": {
                "rollouts.kruise.io/in-progressing": "{\"rolloutName\":\"web\"}",
                "rollouts.kruise.io/deployment-strategy": "{}",
            },
        },
        "spec": {"paused": true, "strategy": {"type": "Recreate", "rollingUpdate": null}},
    });
    patch_as(&world, "kruise-rollout", "apps/v1", "Deployment", "web", rolling).await;
    let split = json!({
        "metadata": {"annotations": {"argo-rollouts.argoproj.io/managed-by-rollouts": "web"}},
        "spec": {"selector": {"app": "web", "rollouts-pod-template-hash": "abc"}},
    });
    patch_as(&world, "rollouts-controller", "v1", "Service", "web", split).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let strategy = |object: &Value| object["spec"]["strategy"]["type"].as_str().unwrap_or_default().to_owned();
    let object = world.get("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!((strategy(&object), &object["spec"]["paused"]), ("Recreate".into(), &json!(true)));
    let found = world.get("v1", "Service", "web").await.unwrap();
    assert_eq!(found["spec"]["selector"]["rollouts-pod-template-hash"], "abc");
    assert!(writes(&world, mark, "web") <= 2, "no fight: {:?}", super::asked(&world, mark, "web"));

    // A newer image goes out all the same, and anything else is mended.
    world.repo.commit("master", "second", &[("prod/web.yaml", &web("web:2"))]);
    world.object_where("apps/v1", "Deployment", "web", "given the image", |object| image(object) == "web:2").await;
    patch_as(&world, "hand", "apps/v1", "Deployment", "web", json!({"spec": {"replicas": 9}})).await;
    let object = world.object_where("apps/v1", "Deployment", "web", "mended", |object| replicas(object) == 2).await;
    assert_eq!((strategy(&object), &object["spec"]["paused"]), ("Recreate".into(), &json!(true)));

    // The rollout is over: git's strategy is put back, whoever does it.
    let over = json!({
        "metadata": {"annotations": {"rollouts.kruise.io/in-progressing": null}}, "spec": {"paused": false},
    });
    patch_as(&world, "kruise-rollout", "apps/v1", "Deployment", "web", over).await;
    world
        .object_where("apps/v1", "Deployment", "web", "as git has it", |object| strategy(object) == "RollingUpdate")
        .await;
    world.runs("rolling", "master").await;
}
