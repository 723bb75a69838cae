//! Images in objects: which ones an object names, and the pull secrets that its pods get.

use serde_json::{Map, Value};

use crate::manifest::ObjectKey;

/// Characters of the name of an image; longer texts are none.
const MAX_CHARACTERS: usize = 512;

/// What fields called `image` an object has, in order and each once: those of containers, and those of custom resources
/// that make pods. Configuration, Secrets and schemas name none.
pub fn images_of(key: &ObjectKey, body: &Map<String, Value>) -> Box<[Box<str>]> {
    let mut found = Vec::new();
    let is_data = matches!(
        (key.group.as_str(), key.kind.as_str()),
        ("", "ConfigMap" | "Secret") | ("apiextensions.k8s.io", "CustomResourceDefinition")
    );
    if !is_data {
        for (name, value) in body.iter().filter(|(name, _)| *name != "metadata" && *name != "status") {
            collect(name, value, &mut found);
        }
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(Box::from).collect()
}

fn collect<'v>(name: &str, value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) if name == "image" && (1..=MAX_CHARACTERS).contains(&text.len()) => found.push(text),
        Value::Object(map) => map.iter().for_each(|(name, value)| collect(name, value, found)),
        Value::Array(items) => items.iter().for_each(|value| collect("", value, found)),
        _ => {}
    }
}

/// Puts pull secrets into the template of an object's pods that says nothing of them itself: of a Deployment, a StatefulSet,
/// a DaemonSet, a ReplicaSet, a CronJob or a Rollout, and of a Pod or a Job that is a hook. An empty list says something,
/// too. A Pod or Job that is no hook stays as it is written: what is there cannot be changed in this field.
pub fn put_pull_secrets(key: &ObjectKey, is_hook: bool, body: &mut Map<String, Value>, secrets: &[String]) {
    let stays = matches!((key.group.as_str(), key.kind.as_str()), ("", "Pod") | ("batch", "Job")) && !is_hook;
    if stays || secrets.is_empty() {
        return;
    }
    let Some(spec) = pod_spec(key, body) else { return };
    if spec.contains_key("containers") && !spec.contains_key("imagePullSecrets") {
        let names =
            secrets.iter().map(|name| Value::Object([("name".to_owned(), name.as_str().into())].into_iter().collect()));
        spec.insert("imagePullSecrets".to_owned(), names.collect());
    }
}

/// The spec of an object's pods.
fn pod_spec<'b>(key: &ObjectKey, body: &'b mut Map<String, Value>) -> Option<&'b mut Map<String, Value>> {
    let path: &[&str] = match (key.group.as_str(), key.kind.as_str()) {
        ("", "Pod") => &["spec"],
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("argoproj.io", "Rollout") => &["spec", "template", "spec"],
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template", "spec"],
        _ => return None,
    };
    path.iter().try_fold(body, |map, name| map.get_mut(*name)?.as_object_mut())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::Identity;

    fn key(group: &str, kind: &str) -> ObjectKey {
        let (group, kind, name) = (group.to_owned(), kind.to_owned(), "a".to_owned());
        Identity { group, kind, namespace: None, name }.into()
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn images_are_found_wherever_pods_are_made_of_them() {
        let pods = json!({
            "containers": [{"name": "a", "image": "web:1"}, {"name": "b", "image": "log:1"}],
            "initContainers": [{"name": "c", "image": "web:1"}],
        });
        let found = |group: &str, kind: &str, body: Value| images_of(&key(group, kind), &map(body)).join(" ");
        assert_eq!(found("apps", "Deployment", json!({"spec": {"template": {"spec": pods}}})), "log:1 web:1");
        assert_eq!(found("", "Pod", json!({"spec": pods})), "log:1 web:1");
        let job = json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": pods}}}}});
        assert_eq!(found("batch", "CronJob", job), "log:1 web:1");
        assert_eq!(
            found("db.example", "Database", json!({"spec": {"image": "db:1", "parts": [{"image": ""}]}})),
            "db:1"
        );
        assert_eq!(found("", "ConfigMap", json!({"data": {"image": "web:1"}})), "");
        assert_eq!(found("db.example", "Database", json!({"metadata": {"annotations": {"image": "x"}}})), "");
        assert_eq!(found("db.example", "Database", json!({"spec": {"image": {"tag": "1"}}})), "");
    }

    #[test]
    fn pull_secrets_are_put_where_they_lack() {
        let containers = json!([{"name": "a", "image": "web:1"}]);
        let wanted = json!([{"name": "one"}, {"name": "two"}]);
        let put = |group: &str, kind: &str, body: Value| {
            let mut body = map(body);
            put_pull_secrets(&key(group, kind), true, &mut body, &["one".to_owned(), "two".to_owned()]);
            Value::Object(body)
        };
        let template = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        for (group, kind) in [
            ("apps", "Deployment"),
            ("apps", "StatefulSet"),
            ("apps", "DaemonSet"),
            ("batch", "Job"),
            ("argoproj.io", "Rollout"),
        ] {
            let body = put(group, kind, template.clone());
            assert_eq!(body.pointer("/spec/template/spec/imagePullSecrets"), Some(&wanted), "{kind}");
        }
        let body = put("", "Pod", json!({"spec": {"containers": containers}}));
        assert_eq!(body.pointer("/spec/imagePullSecrets"), Some(&wanted));
        let body = put("batch", "CronJob", json!({"spec": {"jobTemplate": {"spec": template["spec"]}}}));
        assert_eq!(body.pointer("/spec/jobTemplate/spec/template/spec/imagePullSecrets"), Some(&wanted));

        for said in [json!([]), json!([{"name": "own"}])] {
            let own = json!({"spec": {"containers": containers, "imagePullSecrets": said}});
            assert_eq!(put("", "Pod", own.clone()), own);
        }
        for (group, kind, other) in [
            ("", "Service", json!({"spec": {"containers": containers}})),
            ("argoproj.io", "Rollout", json!({"spec": {"workloadRef": {"name": "web"}}})),
            ("other.example", "Deployment", template.clone()),
        ] {
            assert_eq!(put(group, kind, other.clone()), other, "{kind}");
        }
        let mut body = map(template.clone());
        put_pull_secrets(&key("apps", "Deployment"), true, &mut body, &[]);
        assert_eq!(Value::Object(body), template);
        // Only the Job of a hook is made anew each time.
        for (group, kind, pods) in
            [("", "Pod", json!({"spec": {"containers": containers}})), ("batch", "Job", template)]
        {
            let mut body = map(pods.clone());
            put_pull_secrets(&key(group, kind), false, &mut body, &["one".to_owned()]);
            assert_eq!(Value::Object(body), pods, "{kind}");
        }
    }
}
