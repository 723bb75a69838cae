//! What the benchmark applies, and how it sees that it has arrived.

use std::time::Instant;

use anyhow::Result;
use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher;
use serde_json::{Value, json};
use support::world::World;

/// Objects in one file.
pub const GROUP: usize = 4;

/// Four objects in one file, as JSON documents of a YAML stream.
pub fn objects(number: usize, image: &str) -> Vec<Value> {
    let name = format!("web-{number}");
    let labels = json!({"app": name});
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"serviceAccountName": name, "containers": [{
                    "name": "web", "image": image,
                    "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                    "env": [{"name": "A", "value": "a"}, {"name": "B", "value": "b"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                }]},
            }},
        }),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "labels": labels}}),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "labels": labels},
            "spec": {"rules": [{"host": format!("{name}.example.com"), "http": {"paths": [{
                "path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": name, "port": {"number": 80}}},
            }]}}]},
        }),
    ]
}

pub fn group(number: usize, image: &str) -> String {
    objects(number, image).iter().map(|object| format!("---\n{object}\n")).collect()
}

/// Commits so many groups to `prod/`, one file each.
pub fn commit_groups(world: &World, groups: usize) {
    let files: Vec<(String, String)> =
        (0..groups).map(|number| (format!("prod/{number}.yaml"), group(number, "web:1"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", "first", &files);
}

/// When a Deployment was first seen with an image.
pub async fn wait_for_image(client: kube::Client, namespace: String, name: String, image: String) -> Result<Instant> {
    let mut events = watch(client, &namespace, &name);
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event
            && image_of(&object) == image
        {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("the watch ended")
}

/// When a Deployment was changed to a foreign image and back.
pub async fn wait_for_image_after(client: kube::Client, namespace: String, name: String) -> Result<Instant> {
    let mut events = watch(client, &namespace, &name);
    let mut drifted = false;
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(object)) = event else { continue };
        let is_foreign = image_of(&object) == "drift:1";
        if drifted && !is_foreign {
            return Ok(Instant::now());
        }
        drifted |= is_foreign;
    }
    anyhow::bail!("the watch ended")
}

pub fn watch(
    client: kube::Client,
    namespace: &str,
    name: &str,
) -> std::pin::Pin<Box<dyn futures::Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send>> {
    let resource = kube::api::ApiResource {
        group: "apps".into(),
        version: "v1".into(),
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        plural: "deployments".into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
    Box::pin(watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}"))))
}

pub fn image_of(object: &DynamicObject) -> &str {
    object.data.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}
