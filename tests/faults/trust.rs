//! The authority that signs the API server's certificate changes while the agent runs.

use std::time::{Duration, Instant};

use serde_json::Value;
use support::faults::Proxy;
use support::world::World;

use crate::manifests::config_map;
use crate::settled::runs_on;

/// How soon a new authority is trusted. Its file is read once a minute.
const TRUSTED_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn a_new_authority_is_trusted_from_its_file_and_not_before() {
    let mut world = World::new("trust").await;
    let proxy = world.through_proxy().await;
    let authority = world.folder().join("ca.pem");
    std::fs::copy(Proxy::ca(), &authority).unwrap();
    let kubeconfig = world.start_options().kubeconfig.clone();
    let mut config: Value = serde_json::from_slice(&std::fs::read(&kubeconfig).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["certificate-authority"] = authority.display().to_string().into();
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let mut world = runs_on(world, &[("prod/a.yaml".into(), config_map("a", "1"))]).await;

    proxy.change_authority().unwrap();
    proxy.cut_all();
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.forget();
    world.repo.commit("master", "second", &[("prod/a.yaml", &config_map("a", "2"))]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(proxy.seen().is_empty(), "nothing is sent to a server that nobody vouches for: {:?}", proxy.seen());

    // First a file that is written only in part.
    let next = std::fs::read(Proxy::next_ca()).unwrap();
    std::fs::write(&authority, &next[..next.len() / 2]).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    std::fs::write(&authority, &next).unwrap();
    let deadline = Instant::now() + TRUSTED_WITHIN;
    while world.get("v1", "ConfigMap", "a").await.unwrap()["data"]["key"] != "2" {
        assert!(Instant::now() < deadline, "{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.runs("trust", "master").await;
    assert!(world.agent().ended().is_none());
}
