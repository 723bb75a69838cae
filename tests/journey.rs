//! The whole story over http, with the shop of the examples and its two components.

use std::time::Duration;

use serde_json::{Value, json};
use support::deploy_repo::DeployRepo;
use support::git_server::{Fault, GitServer};
use support::world::World;
use towpath_core::status::State;

use crate::manifests::image;

/// Asks the agent's API.
async fn api(world: &mut World, method: reqwest::Method, path: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://127.0.0.1:{}{path}", world.start_options().port);
    let answer = client.request(method, url).bearer_auth("a-token-for-the-test").send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn develop_release_master_and_prod_over_http_with_a_kill_in_the_middle() {
    let mut world = World::new("journey").await;
    let server = GitServer::start(world.folder());
    server.require_login("", "ada", "secret");
    let web = DeployRepo::new(world.folder().join("web.git"));
    let first = web.commit("develop", "A first page", &[("index.html", "1")]);
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop/repo");
    world.repo.commit_folder("develop", "The shop", &examples);
    world.repo.submodule("develop", "components/web", "../web.git", first);
    world.repo.submodule("develop", "components/api", "../api.git", first);
    world.repo.branch("r1.1", "develop");
    world.repo.branch("master", "r1.1");

    world
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "towpath-git", "namespace": "journey"},
            "stringData": {"username": "ada", "password": "secret"},
        }))
        .await;
    world
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": "shop", "namespace": "journey"},
            "spec": {"url": server.url("deploy.git"), "secretRef": {"name": "towpath-git"}, "interval": "2s"},
        }))
        .await;
    for (name, lane, sync) in [
        ("dev", "develop", "Automatic"),
        ("test", "release", "Automatic"),
        ("staging", "master", "Automatic"),
        ("prod", "master", "Manual"),
    ] {
        let namespace = format!("journey-{name}");
        world.namespace_for_deployer(&namespace).await;
        let spec = json!({"lane": lane, "path": format!("environments/{name}"), "namespace": namespace, "sync": sync});
        world.environment(&format!("journey-{name}"), spec).await;
    }
    let token = world.folder().join("token");
    std::fs::write(&token, "a-token-for-the-test\n").unwrap();
    world.listen();
    world.start_options().arguments = vec!["--token-file".into(), token.display().to_string()];
    world.start_agent();

    world.runs("journey-dev", "develop").await;
    world.runs("journey-test", "r1.1").await;
    world.runs("journey-staging", "master").await;
    assert!(world.status("journey-prod").await.running.is_none(), "prod waits");

    // A component moves on develop.
    let second = web.commit("develop", "A better page", &[("index.html", "2")]);
    world.repo.submodule("develop", "components/web", "../web.git", second);
    world.runs("journey-dev", "develop").await;
    let deployment = world.get_in("journey-dev", "apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!(image(&deployment), format!("registry.example.com/shop/web:develop-{}", second.short()));

    // A new release branch, then the release on master; the agent is killed in between.
    world.repo.branch("r1.2", "develop");
    world.runs("journey-test", "r1.2").await;
    world.repo.merge("master", "r1.2");
    world.kill_agent();
    world.start_agent();
    world.runs("journey-staging", "master").await;
    assert!(world.status("journey-prod").await.running.is_none(), "prod waits");

    // Prod, by the endpoint.
    let path = "/api/v1/environments/journey-prod/sync?wait=60s";
    let (status, answer) = api(&mut world, reqwest::Method::POST, path).await;
    assert_eq!((status, answer["state"].as_str()), (200, Some("Synced")), "{answer}");
    world.runs("journey-prod", "master").await;
    let (status, answer) = api(&mut world, reqwest::Method::GET, "/api/v1/environments/journey-prod").await;
    assert_eq!((status, answer["status"]["state"].as_str()), (200, Some("Synced")), "{answer}");

    // The server is gone for a while: what runs is mended, the status says why, and it heals by itself.
    server.misbehave(Some(Fault::Status(503)));
    world
        .status_where("journey-staging", "told that git is away", |status| {
            status.problems.iter().any(|problem| problem.contains("503")) && status.state == State::OutOfSync
        })
        .await;
    world.plane.kubectl(&["scale", "deployment/web", "--replicas=7", "-n", "journey-staging"]).unwrap();
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while world.get_in("journey-staging", "apps/v1", "Deployment", "web").await.unwrap()["spec"]["replicas"] != 2 {
        assert!(std::time::Instant::now() < deadline, "not mended\n{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.misbehave(None);
    world.runs("journey-staging", "master").await;

    // Credentials that are refused are told from that; the Secret is read again when it changes.
    server.require_login("", "ada", "rotated");
    world
        .status_where("journey-dev", "told of the credentials", |status| {
            status.state == State::Blocked
                && status.problems.iter().any(|problem| problem.contains("credentials refused"))
        })
        .await;
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "towpath-git", "namespace": "journey"},
            "stringData": {"username": "ada", "password": "rotated"},
        }))
        .await;
    world.runs("journey-dev", "develop").await;

    // What leaves git goes; a changed configuration file rolls the pods by its new name.
    let before = world.get_in("journey-dev", "apps/v1", "Deployment", "web").await.unwrap();
    let name = |deployment: &Value| {
        deployment.pointer("/spec/template/spec/volumes/0/configMap/name").and_then(Value::as_str).unwrap().to_owned()
    };
    world.repo.delete("develop", "templates/web/service.yaml.hbs");
    world.repo.commit("develop", "Another port", &[("config/web/nginx.conf", "server { listen 8081; }\n")]);
    world.runs("journey-dev", "develop").await;
    assert!(world.get_in("journey-dev", "v1", "Service", "web").await.is_none());
    let after = world.get_in("journey-dev", "apps/v1", "Deployment", "web").await.unwrap();
    assert_ne!(name(&before), name(&after));
    for config_map in [name(&before), name(&after)] {
        let found = world.get_in("journey-dev", "v1", "ConfigMap", &config_map).await;
        assert!(found.is_some(), "{config_map} is kept for as long as a ReplicaSet could go back to it");
    }
}
