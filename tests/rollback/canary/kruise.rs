//! OpenKruise Rollouts of a Deployment, in partitions.

use support::webhook::{Manner, Webhook};

use super::*;
use crate::health::reported;

const KIND: (&str, &str) = ("rollouts.kruise.io/v1beta1", "Rollout");
const MANAGER: &str = "kruise-rollout";
const PROGRESSING: &str = "/metadata/annotations/rollouts.kruise.io~1in-progressing";
const PARKED: &str = "/metadata/annotations/rollouts.kruise.io~1deployment-strategy";

/// What Kruise's webhook does to an update of a workload that a Rollout is for: a new template begins a rollout and pauses
/// it; while that is under way it stays paused, and its strategy stays with the controller.
fn webhook(request: &Value) -> Vec<Value> {
    let (old, new) = (&request["oldObject"], &request["object"]);
    if request["operation"] != "UPDATE" {
        return Vec::new();
    }
    let paused = json!({"op": "add", "path": "/spec/paused", "value": true});
    if new.pointer(PROGRESSING).is_some() {
        let mut patch = vec![paused];
        if old.pointer(PARKED).is_some() {
            patch.push(json!({"op": "add", "path": "/spec/strategy", "value": {"type": "Recreate"}}));
        }
        return patch;
    }
    if old["spec"]["template"] == new["spec"]["template"] || old["spec"]["replicas"] == 0 {
        return Vec::new();
    }
    let mut patch = vec![paused];
    if new.pointer("/metadata/annotations").is_none() {
        patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    patch.push(json!({"op": "add", "path": PROGRESSING, "value": r#"{"rolloutName":"web"}"#}));
    patch
}

fn says(name: &str, status: &str, reason: &str) -> Value {
    json!({"type": name, "status": status, "reason": reason})
}

/// One look of Kruise's controller at the Rollout `web` and its Deployment.
async fn look(rollouts: Api<DynamicObject>, deployments: Api<DynamicObject>, sets: Api<DynamicObject>) -> Option<()> {
    let (rollout, web) = (Held::read(&rollouts, "web").await?, Held::read(&deployments, "web").await?);
    let is_rolling = web.object.pointer(PROGRESSING).is_some();
    let steps = rollout.object["spec"]["strategy"]["canary"]["steps"].as_array()?.len();
    let stable = rollout.text("/status/canaryStatus/stableRevision").to_owned();
    let all = sets.list(&Default::default()).await.ok()?.items;
    let sets: Vec<Value> = all.into_iter().map(|set| serde_json::to_value(set).unwrap()).collect();
    let step = |index: usize, state: &str, stable: &str| {
        json!({
            "observedWorkloadGeneration": web.generation(), "stableRevision": stable,
            "currentStepIndex": index, "currentStepState": state,
        })
    };
    let reason = rollout.object["status"]["conditions"].as_array().into_iter().flatten();
    let reason = reason.filter(|one| one["type"] == "Progressing").find_map(|one| one["reason"].as_str());
    match (rollout.text("/status/phase"), is_rolling) {
        // The first revision needs no steps: it is the stable one when it is there.
        ("", false) => {
            let is_there = web.object["status"]["availableReplicas"] == web.object["spec"]["replicas"];
            let revision = "/metadata/annotations/deployment.kubernetes.io~1revision";
            let own = sets.iter().find(|set| set.pointer(revision) == web.object.pointer(revision));
            let hash = own.filter(|_| is_there)?["metadata"]["labels"]["pod-template-hash"].as_str()?;
            let observed = rollout.generation();
            let canary = step(steps, "Completed", hash);
            let status = json!({"observedGeneration": observed, "phase": "Healthy", "canaryStatus": canary});
            rollout.patch_status(MANAGER, status).await
        }
        ("Healthy", false) => {
            let observed = rollout.object["status"]["canaryStatus"]["observedWorkloadGeneration"].as_i64();
            if observed == Some(web.generation()) {
                return Some(());
            }
            let canary = json!({"observedWorkloadGeneration": web.generation()});
            rollout.patch_status(MANAGER, json!({ "canaryStatus": canary })).await
        }
        ("Healthy", true) => {
            // The strategy is parked in an annotation.
            let strategy = web.object["spec"]["strategy"].to_string();
            let patch = json!({
                "metadata": {
                    "labels": {"rollouts.kruise.io/stable-revision": stable},
                    "annotations": {"rollouts.kruise.io/deployment-strategy": strategy},
                },
                "spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}},
            });
            web.patch(MANAGER, patch).await?;
            let conditions = [says("Progressing", "True", "InRolling")];
            let canary = step(1, "StepPaused", &stable);
            let status = json!({"phase": "Progressing", "conditions": conditions, "canaryStatus": canary});
            rollout.patch_status(MANAGER, status).await
        }
        ("Progressing", true) if reason == Some("InRolling") => {
            let of_stable = |set: &&Value| set["metadata"]["labels"]["pod-template-hash"] == stable.as_str();
            let mut template = sets.iter().find(of_stable)?["spec"]["template"].clone();
            template["metadata"]["labels"].as_object_mut()?.remove("pod-template-hash");
            let is_back = template == web.object["spec"]["template"];
            let reason = if is_back { "Cancelling" } else { "InRolling" };
            let conditions = [says("Progressing", "True", reason)];
            let canary = step(1, "StepPaused", &stable);
            rollout.patch_status(MANAGER, json!({"conditions": conditions, "canaryStatus": canary})).await
        }
        ("Progressing", true) => {
            let strategy: Value = serde_json::from_str(web.text(PARKED)).ok()?;
            let patch = json!({
                "metadata": {
                    "labels": {"rollouts.kruise.io/stable-revision": null},
                    "annotations": {
                        "rollouts.kruise.io/in-progressing": null, "rollouts.kruise.io/deployment-strategy": null,
                    },
                },
                "spec": {"paused": false, "strategy": strategy},
            });
            web.patch(MANAGER, patch).await
        }
        ("Progressing", false) => {
            let conditions = [says("Progressing", "False", "Completed"), says("Succeeded", "False", "Cancelled")];
            let canary = step(steps, "Completed", &stable);
            let status = json!({"phase": "Healthy", "conditions": conditions, "canaryStatus": canary});
            rollout.patch_status(MANAGER, status).await
        }
        (other, _) => panic!("a Rollout in phase {other}"),
    }
}

fn web(image: &str) -> String {
    let mut object: Value = serde_json::from_str(&deployment("web", image)).unwrap();
    object["spec"]["paused"] = false.into();
    object["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    object.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_ends_a_canary_of_openkruise_that_waits_for_a_person() {
    const NAME: &str = "kruise-canary";
    let mut shop = Shop::new(NAME).await;
    shop.world.apply(reported(KIND.0, KIND.1)).await;
    shop.world.served(KIND.0, KIND.1).await;
    let kruise = Webhook::start(Manner::Change(webhook));
    let configuration =
        kruise.configuration("MutatingWebhookConfiguration", "kruise-canary.example.org", NAME, "deployments");
    shop.world.apply(configuration).await;
    let rollouts = shop.world.api(KIND.0, KIND.1).await;
    let deployments = shop.world.api("apps/v1", "Deployment").await;
    let sets = shop.world.api("apps/v1", "ReplicaSet").await;
    let _played = Played::new(move || look(rollouts.clone(), deployments.clone(), sets.clone()));
    let rollout = json!({
        "apiVersion": KIND.0, "kind": KIND.1, "metadata": {"name": "web"},
        "spec": {
            "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "strategy": {"canary": {
                "enableExtraWorkloadForCanary": false,
                "steps": [{"replicas": "50%", "pause": {}}, {"replicas": "100%"}],
            }},
        },
    });
    let files = [("prod/web.yaml", web("web:1")), ("prod/rollout.yaml", rollout.to_string())];
    let first =
        shop.world.repo.commit("master", "With steps", &files.each_ref().map(|(path, text)| (*path, text.as_str())));
    shop.begin(&[(NAME, json!({}))]).await;
    shop.ran(NAME, first).await;

    let mark = shop.world.mark_at_rest().await;
    shop.world.repo.commit("master", "Bad", &[("prod/web.yaml", &web("web:2"))]);
    let said = is_paused(&shop, NAME).await;
    assert_eq!(said, "step 1 of 2, replicas 50%, paused: waits for a person");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let object = shop.world.get("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!((&object["spec"]["paused"], &object["spec"]["strategy"]), (&json!(true), &json!({"type": "Recreate"})));
    let asked = writes(&shop, mark, "deployments", "web");
    assert!(asked.len() <= 2, "no fight while it waits: {asked:#?}");

    let said = shop.does(&["rollback", NAME, "--dry-run"]);
    let ends = "Rollout.rollouts.kruise.io kruise-canary/web is under way (step 1 of 2, replicas 50%, paused: waits for a person), and ends";
    assert!(said.contains(ends), "{said}");
    assert!(said.contains("image: web:2 → web:1"), "{said}");
    let mark = shop.world.mark_at_rest().await;
    shop.does(&["rollback", NAME, "-y"]);
    let status = is_back(&shop, NAME).await;
    assert_eq!(shop.subjects()[..2], ["Revert \"Bad\"", "Bad"]);
    assert!(status.unhealthy.is_empty(), "{:#?}", status.unhealthy);
    let object = shop.world.get("apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!(image(&object), "web:1");
    assert_eq!(object.pointer(PROGRESSING), None);
    assert!(!object["spec"]["paused"].as_bool().unwrap_or_default());
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    assert_eq!(object["spec"]["strategy"], strategy);
    let rollout = shop.world.get(KIND.0, KIND.1, "web").await.unwrap();
    let cancelled = rollout["status"]["conditions"].as_array().unwrap().iter().any(|one| one["reason"] == "Cancelled");
    assert!(cancelled, "{rollout:#}");
    // The template once; and what is git's again when the controller has let go of it.
    let asked = writes(&shop, mark, "deployments", "web");
    assert!(asked.len() <= 3, "no fight while it goes back: {asked:#?}");
    let sets = shop.world.api("apps/v1", "ReplicaSet").await.list(&Default::default()).await.unwrap();
    assert_eq!(sets.items.len(), 1, "no pod of the bad image was left to the Deployment controller");
    shop.world.plane.kubectl(&["delete", "mutatingwebhookconfiguration", "kruise-canary.example.org"]).unwrap();
}
