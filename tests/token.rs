//! The agent's token is replaced while it runs: late, by an empty file, by none.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use support::world::World;

use crate::manifests::config_map;

/// A token of the agent's account that ends with a Secret.
async fn token(world: &World, secret: &str) -> String {
    let made = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": "towpath"}});
    world.apply(made).await;
    let reference = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Secret".into()),
        name: Some(secret.into()),
        ..BoundObjectReference::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(world.admin.clone(), "towpath");
    let spec = TokenRequestSpec { bound_object_ref: Some(reference), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = api.create_token_request("towpath", &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_replaced_late_emptied_and_deleted_stops_nothing_for_long() {
    let mut world = World::new("token").await;
    world.repo.commit("master", "first", &[("prod/a.yaml", &config_map("a", "1"))]);
    world.repository().await;
    world.environment("token", json!({"lane": "master", "path": "prod"})).await;
    let file = world.folder().join("token");
    std::fs::write(&file, token(&world, "token-1").await).unwrap();
    let kubeconfig = &mut world.start_options().kubeconfig;
    let mut config: Value = serde_json::from_slice(&std::fs::read(&*kubeconfig).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"tokenFile": file});
    std::fs::write(&*kubeconfig, config.to_string()).unwrap();
    world.start_agent();
    world.runs("token", "master").await;

    // Its time is over before there is another one. The API server remembers a good token for ten seconds.
    world.plane.kubectl(&["delete", "secret", "token-1", "-n", "towpath"]).unwrap();
    std::fs::write(&file, "").unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    world.repo.commit("master", "second", &[("prod/a.yaml", &config_map("a", "2"))]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"], "1", "the token was still good");
    assert!(world.agent().ended().is_none(), "{}", world.agent_log());

    std::fs::write(&file, format!("{}\n", token(&world, "token-2").await)).unwrap();
    world.object_where("v1", "ConfigMap", "a", "as committed", |object| object["data"]["key"] == "2").await;
    let status = world.runs("token", "master").await;
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    let events = world.plane.kubectl(&["get", "events", "-n", "token", "-o", "json"]).unwrap();
    assert!(!events.contains("Blocked"), "it was borne: {events}");
}
