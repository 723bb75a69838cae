//! Argo Rollouts, with traffic that Services split.

use super::*;
use crate::health::reported;

const KIND: (&str, &str) = ("argoproj.io/v1alpha1", "Rollout");
const MANAGER: &str = "rollouts-controller";
/// Done steps and the one that pauses.
const STEPS: usize = 3;

/// How long the controller is busy elsewhere before it sees a new template.
const BUSY: Duration = Duration::from_secs(1);
/// The generation of the workload that the Rollout has its template from, as the controller has seen it.
const WORKLOAD: &str = "rollout.argoproj.io/workload-generation";

/// One look of Argo's controller at the Rollout `web` and its Services. The stable revision comes back without steps; a
/// change of the template ends an abort.
async fn look(
    rollouts: Api<DynamicObject>,
    deployments: Api<DynamicObject>,
    services: Api<DynamicObject>,
) -> Option<()> {
    let rollout = Held::read(&rollouts, "web").await?;
    let workload = match rollout.object["spec"].get("workloadRef") {
        Some(workload) => Some(Held::read(&deployments, workload["name"].as_str()?).await?),
        None => None,
    };
    let template = |held: &Held| held.object["spec"]["template"].clone();
    let hash = hash_of(&template(workload.as_ref().unwrap_or(&rollout)));
    let is_new = rollout.text("/status/currentPodHash") != hash;
    if is_new {
        tokio::time::sleep(BUSY).await;
    }
    let observed_workload = workload.as_ref().map(|workload| workload.generation().to_string());
    if rollout.object["metadata"]["annotations"].get(WORKLOAD).and_then(Value::as_str) != observed_workload.as_deref() {
        let patch = json!({"metadata": {"annotations": {WORKLOAD: observed_workload}}});
        rollout.patch(MANAGER, patch).await?;
        return None;
    }
    let generation = rollout.generation().to_string();
    let stable = rollout.text("/status/stableRS").to_owned();
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
    if is_new {
        let at_rest = json!({
            "observedGeneration": generation, "workloadObservedGeneration": observed_workload, "currentPodHash": hash, "availableReplicas": replicas,
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
    let observed = (rollout.text("/status/observedGeneration"), rollout.text("/status/workloadObservedGeneration"));
    if observed != (generation.as_str(), observed_workload.as_deref().unwrap_or_default()) {
        let status = json!({"observedGeneration": generation, "workloadObservedGeneration": observed_workload});
        return rollout.patch_status(MANAGER, status).await;
    }
    Some(())
}

fn hash_of(template: &Value) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

/// Where a Rollout has its template.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Template {
    Own,
    OfDeployment,
}

/// The files of a release.
fn release(image: &str, template: Template) -> Vec<(&'static str, String)> {
    let mut rollout: Value = serde_json::from_str(&rollout(image)).unwrap();
    let mut files = Vec::new();
    if template == Template::OfDeployment {
        let spec = rollout["spec"].as_object_mut().unwrap();
        spec.remove("selector");
        spec.remove("template");
        spec.insert(
            "workloadRef".into(),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "scaleDown": "never"}),
        );
        let mut workload: Value = serde_json::from_str(&deployment("web", image)).unwrap();
        workload["spec"]["replicas"] = 0.into();
        files.push(("prod/workload.yaml", workload.to_string()));
    }
    files.push(("prod/web.yaml", rollout.to_string()));
    files
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

fn commit(shop: &Shop, message: &str, files: &[(&str, String)]) -> CommitId {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    shop.world.repo.commit("master", message, &files)
}

/// An Environment whose canary of a second release waits for a person.
async fn in_a_canary(name: &str, template: Template, more: Value) -> (Shop, Played, CommitId) {
    let mut shop = Shop::new(name).await;
    shop.world.apply(reported(KIND.0, KIND.1)).await;
    shop.world.served(KIND.0, KIND.1).await;
    let rollouts = shop.world.api(KIND.0, KIND.1).await;
    let deployments = shop.world.api("apps/v1", "Deployment").await;
    let services = shop.world.api("v1", "Service").await;
    let played = Played::new(move || look(rollouts.clone(), deployments.clone(), services.clone()));
    let mut files = release("web:1", template);
    files.extend([("prod/stable.yaml", service("web-stable")), ("prod/canary.yaml", service("web-canary"))]);
    let first = commit(&shop, "With steps", &files);
    shop.begin(&[(name, more)]).await;
    shop.ran(name, first).await;
    let bad = commit(&shop, "Bad", &release("web:2", template));
    assert_eq!(is_paused(&shop, name).await, "step 2 of 3, weight 20, paused: waits for a person");
    (shop, played, bad)
}

/// Demands that the stable revision runs without steps, and that the Services are still the controller's.
async fn is_stable(shop: &Shop) {
    let web = shop.world.get(KIND.0, KIND.1, "web").await.unwrap();
    let workload = shop.world.get("apps/v1", "Deployment", "web").await;
    assert_eq!(image(workload.as_ref().unwrap_or(&web)), "web:1");
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
    let (shop, _played, _) = in_a_canary(NAME, Template::Own, json!({})).await;
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
    for (name, template) in [("argo-aborted", Template::Own), ("argo-aborted-ref", Template::OfDeployment)] {
        let (shop, _played, bad) = in_a_canary(name, template, json!({"rollback": {"automatic": ["Aborted"]}})).await;
        // As `kubectl argo rollouts abort` does it.
        shop.world.patch_status(KIND.0, KIND.1, "web", json!({"status": {"abort": true}})).await;
        shop.world.status_where(name, "begun", |status| status.tried == [bad.to_string()]).await;
        shop.world.status_where(name, "done", |status| phase(status) == Some(RollbackPhase::Done)).await;
        let status = is_back(&shop, name).await;
        assert_eq!(status.tried, [bad.to_string()]);
        assert_eq!(shop.subjects(), ["Revert \"Bad\"", "Bad", "With steps", "The first release"]);
        let message = shop.git(&["log", "-1", "--format=%B", "master"]);
        // The flag may be seen before the controller has said more.
        let reason = format!("Reason: Rollout.argoproj.io {name}/web: aborted: ");
        assert!(message.contains(&reason), "{message}");
        is_stable(&shop).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_that_comes_after_an_abort_is_not_blamed_for_it() {
    for (name, template) in [("argo-fixed", Template::Own), ("argo-fixed-ref", Template::OfDeployment)] {
        let (shop, _played, bad) = in_a_canary(name, template, json!({})).await;
        shop.world.patch_status(KIND.0, KIND.1, "web", json!({"status": {"abort": true}})).await;
        shop.world.status_where(name, "offered a rollback", |status| status.prepared.is_some()).await;
        let rules = json!({"spec": {"rollback": {"automatic": ["Aborted"]}}});
        shop.world.patch("towpath.dev/v1alpha1", "Environment", name, rules).await;
        let fix = commit(&shop, "A fix", &release("web:3", template));
        let is_it = |status: &EnvironmentStatus| {
            let runs = status.running.as_ref().is_some_and(|running| running.revision.ends_with(&fix.to_string()));
            runs && status.health == Some(Health::Suspended)
        };
        let status = shop.world.status_where(name, "in the canary of the fix", is_it).await;
        assert_eq!((status.rollback, status.tried), (None, Vec::new()));
        assert!(status.prepared.is_none_or(|prepared| prepared.id.ends_with(&bad.to_string())));
        assert_eq!(shop.world.repo.head("master"), fix, "{}", shop.world.agent_log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_rollout_waits_for_a_person_where_no_rule_lets_it_go_back() {
    const NAME: &str = "argo-abandoned";
    let (shop, _played, bad) = in_a_canary(NAME, Template::Own, json!({})).await;
    shop.world.patch_status(KIND.0, KIND.1, "web", json!({"status": {"abort": true}})).await;
    let status = shop.world.status_where(NAME, "offered a rollback", |status| status.prepared.is_some()).await;
    let prepared = status.prepared.unwrap();
    assert!(prepared.lines[0].contains("web: aborted: "), "{prepared:#?}");
    assert_eq!(shop.world.repo.head("master"), bad);
    shop.does(&["rollback", NAME, "--confirm", &prepared.digest.unwrap()]);
    is_back(&shop, NAME).await;
    is_stable(&shop).await;
}
