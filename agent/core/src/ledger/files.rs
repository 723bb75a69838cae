//! The tree of a record: one file an object, below folders by namespace and kind, and the log of the sync.

use std::fmt::Write;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::manifest::ObjectKey;
use crate::redact;
use crate::revision::clean_line;
use crate::status::{HookStatus, SyncRecord};

/// The folder of what was applied.
pub const MANIFESTS: &str = "manifests";
/// The file that says what happened.
pub const LOG: &str = "log";
/// Where objects stand that are in no namespace. No namespace can be called so.
const CLUSTER: &str = "_cluster";
/// Bytes of a file's name before its ending: git hosts take 255 with it.
const MAX_NAME: usize = 240;
/// Characters of one line of the log.
const MAX_LINE: usize = 1000;

/// The file of an object: `manifests/web/Deployment.apps/api.yaml`. Different objects have different files, also where
/// names have characters that a path does not take: those stand as `%` and two digits.
pub fn path_of(key: &ObjectKey) -> String {
    let mut path = format!("{MANIFESTS}/");
    match &key.namespace {
        Some(namespace) => escape(namespace, &mut path),
        None => path.push_str(CLUSTER),
    }
    path.push('/');
    escape(&key.kind, &mut path);
    if !key.group.is_empty() {
        path.push('.');
        escape(&key.group, &mut path);
    }
    path.push('/');
    let mut name = String::new();
    escape(&key.name, &mut name);
    if name.len() > MAX_NAME {
        // Different names stay different.
        let digest = hex::encode(&Sha256::digest(&key.name)[..8]);
        name.truncate(MAX_NAME - digest.len() - 1);
        name = format!("{name}~{digest}");
    }
    path.push_str(&name);
    path.push_str(".yaml");
    path
}

fn escape(text: &str, path: &mut String) {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            // A leading dot or tilde means something to git and to shells; names that differ only in case share no file.
            b'.' | b'~' if at == 0 => drop(write!(path, "%{byte:02x}")),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => path.push(byte.into()),
            _ => drop(write!(path, "%{byte:02x}")),
        }
    }
}

/// The text of an object's file: YAML, in which a stand-in hides each value of a Secret.
pub fn text_of(body: &Map<String, Value>, stand_in: &dyn Fn(&str) -> String) -> String {
    let mut body = body.clone();
    redact::secret(&mut body, stand_in);
    serde_yaml::to_string(&body).expect("a tree of JSON values can always be written")
}

/// The log of a sync: what it took from others, and its hooks with their last lines.
pub fn log_of(sync: &SyncRecord) -> String {
    let mut log = String::new();
    let line = |log: &mut String, text: &str| {
        log.push_str(&clean_line(text, MAX_LINE));
        log.push('\n');
    };
    line(&mut log, &format!("{} began a sync of {}", sync.started_at, sync.revision));
    for taken in &sync.took_over {
        line(&mut log, &format!("took over {taken}"));
    }
    for hook in &sync.hooks {
        let HookStatus { hook: name, phase, job, outcome, took_ms, message, .. } = hook;
        let took = took_ms.map(|took| format!(" in {took} ms")).unwrap_or_default();
        line(&mut log, &format!("hook {name} ({phase:?}), {job}: {outcome:?}{took}"));
        message.iter().for_each(|message| line(&mut log, &format!("  {message}")));
        hook.log.iter().for_each(|said| line(&mut log, &format!("  | {said}")));
    }
    message_of(sync).iter().for_each(|message| line(&mut log, message));
    let ended = sync.started_at.checked_add(jiff::SignedDuration::from_millis(sync.took_ms)).unwrap_or(sync.started_at);
    line(&mut log, &format!("{ended} {:?}", sync.outcome));
    log
}

fn message_of(sync: &SyncRecord) -> Option<String> {
    sync.message.as_ref().map(|message| format!("failed: {message}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::sync;
    use super::*;
    use crate::manifest::Identity;

    fn key(group: &str, kind: &str, namespace: Option<&str>, name: &str) -> ObjectKey {
        ObjectKey::from(Identity {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
        })
    }

    #[test]
    fn each_object_has_a_file_of_its_own() {
        for (key, path) in [
            (key("apps", "Deployment", Some("web"), "api"), "manifests/web/Deployment.apps/api.yaml"),
            (key("", "Namespace", None, "web"), "manifests/_cluster/Namespace/web.yaml"),
            (
                key("rbac.authorization.k8s.io", "ClusterRole", None, "system:a/b%2f"),
                "manifests/_cluster/ClusterRole.rbac.authorization.k8s.io/system%3aa%2fb%252f.yaml",
            ),
            (
                key("", "ConfigMap", Some("web"), &"a".repeat(253)),
                &format!("manifests/web/ConfigMap/{}~32859a3ab65ac529.yaml", "a".repeat(223)),
            ),
            (key("", "ConfigMap", Some("web"), ".git"), "manifests/web/ConfigMap/%2egit.yaml"),
        ] {
            assert_eq!(path_of(&key), path);
        }
    }

    #[test]
    fn a_file_shows_no_value_of_a_secret() {
        let Value::Object(body) = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "aHVudGVyMg=="}})
        else {
            unreachable!()
        };
        let text = text_of(&body, &|_| "hidden".to_owned());
        assert_eq!(text, "apiVersion: v1\nkind: Secret\ndata:\n  password: hidden\n");
    }

    #[test]
    fn the_log_is_clean_text() {
        let mut sync = sync(7).sync().unwrap().sync.clone();
        sync.message = Some("no\u{1b}[31m\nway".into());
        let log = log_of(&sync);
        assert!(log.contains("failed: no[31mway\n"), "{log}");
        assert!(log.ends_with("2026-03-01T12:00:00Z Applied\n"), "{log}");
    }
}
