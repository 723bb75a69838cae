//! Makes ConfigMaps of configuration files, and lets what uses them follow their names.
//!
//! A ConfigMap's name carries a hash of its content. So a changed file makes a new ConfigMap, the pods that use it are
//! rolled because their template names the new one, and the old one is there for as long as old pods are.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::fault::{Place, Problem};
use crate::manifest::{Identity, Manifest, ObjectKey};
use crate::names;

/// Names of ConfigMaps as people write them, and as they are.
pub(super) type Renames = BTreeMap<String, String>;

/// The ConfigMap of a folder of files.
pub(super) fn config_map(folder: &str, name: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<Manifest, Problem> {
    let mut data = Map::new();
    let mut binary = Map::new();
    for (key, bytes) in files {
        let is_key = key.len() <= 253
            && !matches!(&**key, "." | "..")
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !is_key {
            return Err(Problem::content(format!("{key:?} is no key of a ConfigMap"))
                .at(Place::file(format!("{folder}/{key}")))
                .hint("use letters, digits, -, _ and . in its name"));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => data.insert(key.clone(), Value::from(text)),
            Err(_) => binary.insert(key.clone(), Value::from(STANDARD.encode(bytes))),
        };
    }
    // Lengths go into the hash, so that no two contents can run together.
    let mut hash = Sha256::new();
    for (key, bytes) in files {
        for part in [key.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    let full_name = format!("{name}-{}", &hex::encode(hash.finalize())[..10]);
    if !names::is_dns_subdomain(&full_name) {
        return Err(Problem::content(format!("{name:?} is no name of a ConfigMap"))
            .at(Place::file(folder))
            .hint("call the folder by a-z, 0-9, - and ., at most 242 of them"));
    }
    let mut body = Map::new();
    body.insert("apiVersion".to_owned(), "v1".into());
    body.insert("kind".to_owned(), "ConfigMap".into());
    body.insert("metadata".to_owned(), json!({ "name": full_name }));
    for (field, entries) in [("data", data), ("binaryData", binary)] {
        if !entries.is_empty() {
            body.insert(field.to_owned(), Value::Object(entries));
        }
    }
    let key = ObjectKey::from(Identity {
        group: String::new(),
        kind: "ConfigMap".to_owned(),
        namespace: None,
        name: full_name,
    });
    Ok(Manifest { key, api_version: "v1".to_owned(), body, source: Place::file(folder) })
}

/// Puts the full names where pods are described: in pods, and in everything that has a template of them.
pub(super) fn follow(manifest: &mut Manifest, renames: &Renames) {
    let is_pod = manifest.key.kind == "Pod" && manifest.key.group.is_empty();
    let Some(spec) = manifest.body.get_mut("spec") else { return };
    if is_pod {
        pod_spec(spec, renames);
        return;
    }
    for pointer in ["/template/spec", "/jobTemplate/spec/template/spec"] {
        if let Some(spec) = spec.pointer_mut(pointer) {
            pod_spec(spec, renames);
        }
    }
}

fn pod_spec(spec: &mut Value, renames: &Renames) {
    let rename = |source: Option<&mut Value>| {
        let name = source.and_then(|source| source.get_mut("name"));
        if let Some(Value::String(name)) = name
            && let Some(full) = renames.get(name)
        {
            name.clone_from(full);
        }
    };
    for volume in items(spec, "volumes") {
        rename(volume.get_mut("configMap"));
        if let Some(projected) = volume.get_mut("projected") {
            for source in items(projected, "sources") {
                rename(source.get_mut("configMap"));
            }
        }
    }
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(spec, containers) {
            for source in items(container, "envFrom") {
                rename(source.get_mut("configMapRef"));
            }
            for variable in items(container, "env") {
                rename(variable.pointer_mut("/valueFrom/configMapKeyRef"));
            }
        }
    }
}

fn items<'v>(value: &'v mut Value, field: &str) -> &'v mut [Value] {
    match value.get_mut(field) {
        Some(Value::Array(items)) => items,
        _ => &mut [],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_keys_make_the_hash() {
        let name = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(key, text)| ((*key).to_owned(), text.as_bytes().to_vec())).collect();
            config_map("config/web", "web", &files).unwrap().key.name.clone()
        };
        assert_eq!(name(&[("a", "1")]), name(&[("a", "1")]));
        assert_ne!(name(&[("a", "1")]), name(&[("a", "2")]));
        assert_ne!(name(&[("a", "1")]), name(&[("b", "1")]));
        assert_ne!(name(&[("a", "1b")]), name(&[("a", "1"), ("b", "")]));
    }

    #[test]
    fn every_reference_of_a_pod_follows() {
        let spec = json!({
            "volumes": [
                {"configMap": {"name": "web"}},
                {"projected": {"sources": [{"configMap": {"name": "web"}}, {"secret": {"name": "web"}}]}}
            ],
            "containers": [{"envFrom": [{"configMapRef": {"name": "web"}}, {"secretRef": {"name": "web"}}],
                            "env": [{"valueFrom": {"configMapKeyRef": {"name": "web", "key": "k"}}}, {"value": "web"}]}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "web"}}]}],
            "ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "other"}}]}]
        });
        let renames = Renames::from([("web".to_owned(), "web-1".to_owned())]);
        type Wrap = fn(Value) -> Value;
        let wraps: [(&str, Wrap); 4] = [
            ("Pod", |spec| json!({"spec": spec})),
            ("Deployment", |spec| json!({"spec": {"template": {"spec": spec}}})),
            ("CronJob", |spec| json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}})),
            ("Rollout", |spec| json!({"spec": {"template": {"spec": spec}}})),
        ];
        for (kind, wrap) in wraps {
            let Value::Object(body) = wrap(spec.clone()) else { unreachable!("every wrap is a map") };
            let key = ObjectKey::from(Identity {
                group: String::new(),
                kind: kind.into(),
                namespace: None,
                name: "x".into(),
            });
            let mut manifest = Manifest { key, api_version: "v1".into(), body, source: Place::file("x") };
            follow(&mut manifest, &renames);
            let text = serde_json::to_string(&manifest.body).unwrap();
            assert_eq!(text.matches("\"name\":\"web-1\"").count(), 5, "{kind}: {text}");
            assert_eq!(text.matches("\"name\":\"web\"").count(), 2, "{kind}: {text}");
        }
    }
}
