//! Small manifests for journeys.

use serde_json::{Value, json};

/// A Deployment of two pods.
pub fn deployment(name: &str, image: &str) -> String {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": image, "env": [{"name": "A", "value": "a"}]}]},
            },
        },
    })
    .to_string()
}

/// A ConfigMap with one key.
pub fn config_map(name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}}).to_string()
}

/// The image of the first container.
pub fn image(deployment: &Value) -> &str {
    deployment.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}
