//! Argo Rollouts, with traffic that Services split.

use super::*;
use crate::health::reported;

const KIND: (&str, &str) = ("argoproj.io/v1alpha1", "Rollout");
const MANAGER: &str = "rollouts-controller";
/// Done steps and the one that pauses.
const STEPS: usize = 3;

/// One look of Argo's controller at the Rollout `web` and its Services. The stable revision comes back without steps; a
/// change of the template ends an abort.
async fn look(rollouts: Api<DynamicObject>, services: Api<DynamicObject>) -> Option<()> {
    let rollout = Held::read(&rollouts, "web").await?;
    let hash = hash_of(&rollout.object["spec"]["template"]);
    let generation = rollout.generation().to_string();
    let (stable, current) = (rollout.text("/status/stableRS").to_owned(), rollout.text("/status/currentPodHash"));
    let replicas = &rollout.object["spec"]["replicas"];
    for (service, hash) in [("web-stable", if stable.is_empty() { &hash } else { &stable }), ("web-canary", &hash)] {
        let service = Held::read(&services, service).await?;
        if service.text("/spec/selector/rollouts-pod-template-hash") != hash {
            let patch = json!({
                "metadata": {"annotations": {"argo-rollouts.argoproj.io/managed-by-rollouts": "web"}},
                "spec": {"selector": {"rollouts-pod-template-hash": hash}},
            });
            service.patch(MANAGER, patch).await?;
        }
    }
    if current != hash {
        let at_rest = json!({
            "observedGeneration": generation, "currentPodHash": hash, "availableReplicas": replicas,
            "abort": null, "abortedAt": null, "pauseConditions": null, "controllerPause": false, "message": null,
        });
        let more = if stable.is_empty() || stable == hash {
            json!({"phase": "Healthy", "stableRS": hash, "currentStepIndex": STEPS})
        } else {
            json!({
                "phase": "Paused", "message": "CanaryPauseStep", "currentStepIndex": 1, "controllerPause": true,
                "pauseConditions": [{"reason": "CanaryPauseStep", "startTime": jiff::Timestamp::now()}],
            })
        };
        let mut status = at_rest;
        status.as_object_mut()?.extend(more.as_object()?.clone());
        return rollout.patch_status(MANAGER, status).await;
    }
    if rollout.object["status"]["abort"] == true && rollout.text("/status/phase") != "Degraded" {
        let status = json!({
            "phase": "Degraded", "message": "RolloutAborted: Rollout aborted update to revision 2",
            "abortedAt": jiff::Timestamp::now(), "currentStepIndex": 0, "pauseConditions": null, "controllerPause": false,
        });
        return rollout.patch_status(MANAGER, status).await;
    }
    if rollout.text("/status/observedGeneration") != generation {
        return rollout.patch_status(MANAGER, json!({ "observedGeneration": generation })).await;
    }
    Some(())
}

fn hash_of(template: &Value) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

fn rollout(image: &str) -> String {
    json!({
        "apiVersion": KIND.0, "kind": KIND.1, "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
            "strategy": {"canary": {
                "stableService": "web-stable", "canaryService": "web-canary",
                "steps": [{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}],
            }},
        },
    })
    .to_string()
}

fn service(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    })
    .to_string()
}

/// An Environment whose canary of a second release waits for a person.
async fn in_a_canary(name: &str, more: Value) -> (Shop, Played, CommitId) {
    let mut shop = Shop::new(name).await;
    shop.world.apply(reported(KIND.0, KIND.1)).await;
    shop.world.served(KIND.0, KIND.1).await;
    let rollouts = shop.world.api(KIND.0, KIND.1).await;
    let services = shop.world.api("v1", "Service").await;
    let played = Played::new(move || look(rollouts.clone(), services.clone()));
    let files = [
        ("prod/web.yaml", rollout("web:1")),
        ("prod/stable.yaml", service("web-stable")),
        ("prod/canary.yaml", service("web-canary")),
    ];
    let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
    let first = shop.world.repo.commit("master", "With steps", &files);
    shop.begin(&[(name, more)]).await;
    shop.ran(name, first).await;
    let bad = shop.world.repo.commit("master", "Bad", &[("prod/web.yaml", &rollout("web:2"))]);
    assert_eq!(is_paused(&shop, name).await, "step 2 of 3, weight 20, paused: waits for a person");
    (shop, played, bad)
}

/// Demands that the stable revision runs without steps, and that the Services are still the controller's.
async fn is_stable(shop: &Shop) {
    let web = shop.world.get(KIND.0, KIND.1, "web").await.unwrap();
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "web:1");
    let status = &web["status"];
    assert_eq!((&status["phase"], &status["currentStepIndex"]), (&json!("Healthy"), &json!(STEPS)), "{web:#}");
    assert_eq!((&status["stableRS"], &status["abort"]), (&status["currentPodHash"], &Value::Null), "{web:#}");
    for name in ["web-stable", "web-canary"] {
        let service = shop.world.get("v1", "Service", name).await.unwrap();
        assert_eq!(service["spec"]["selector"]["rollouts-pod-template-hash"], status["stableRS"], "{service:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_ends_a_canary_of_argo_that_waits_for_a_person() {
    const NAME: &str = "argo-canary";
    let (shop, _played, _) = in_a_canary(NAME, json!({})).await;
    let said = shop.does(&["rollback", NAME, "--dry-run"]);
    let ends = "Rollout.argoproj.io argo-canary/web is under way (step 2 of 3, weight 20, paused: waits for a person), and ends";
    assert!(said.contains(ends), "{said}");
    assert!(said.contains("image: web:2 → web:1"), "{said}");
    let mark = shop.world.mark_at_rest().await;
    shop.does(&["rollback", NAME, "-y"]);
    let status = is_back(&shop, NAME).await;
    assert!(status.unhealthy.is_empty(), "{:#?}", status.unhealthy);
    assert_eq!(shop.subjects()[..2], ["Revert \"Bad\"", "Bad"]);
    is_stable(&shop).await;
    assert_eq!(writes(&shop, mark, "rollouts", "web").len(), 1);
    for service in ["web-stable", "web-canary"] {
        let asked = writes(&shop, mark, "services", service);
        assert!(asked.is_empty(), "{asked:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_rollout_goes_back_by_itself_once() {
    const NAME: &str = "argo-aborted";
    let (shop, _played, bad) = in_a_canary(NAME, json!({"rollback": {"automatic": ["Aborted"]}})).await;
    // As `kubectl argo rollouts abort` does it.
    shop.world.patch_status(KIND.0, KIND.1, "web", json!({"status": {"abort": true}})).await;
    shop.world.status_where(NAME, "begun", |status| status.tried == [bad.to_string()]).await;
    shop.world.status_where(NAME, "done", |status| phase(status) == Some(RollbackPhase::Done)).await;
    let status = is_back(&shop, NAME).await;
    assert_eq!(status.tried, [bad.to_string()]);
    assert_eq!(shop.subjects(), ["Revert \"Bad\"", "Bad", "With steps", "The first release"]);
    let message = shop.git(&["log", "-1", "--format=%B", "master"]);
    assert!(message.contains("Reason: Rollout.argoproj.io argo-aborted/web: aborted: RolloutAborted"), "{message}");
    is_stable(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_rollout_waits_for_a_person_where_no_rule_lets_it_go_back() {
    const NAME: &str = "argo-abandoned";
    let (shop, _played, bad) = in_a_canary(NAME, json!({})).await;
    shop.world.patch_status(KIND.0, KIND.1, "web", json!({"status": {"abort": true}})).await;
    let status = shop.world.status_where(NAME, "offered a rollback", |status| status.prepared.is_some()).await;
    let prepared = status.prepared.unwrap();
    assert!(prepared.lines[0].contains("aborted: RolloutAborted"), "{prepared:#?}");
    assert_eq!(shop.world.repo.head("master"), bad);
    shop.does(&["rollback", NAME, "--confirm", &prepared.digest.unwrap()]);
    is_back(&shop, NAME).await;
    is_stable(&shop).await;
}
