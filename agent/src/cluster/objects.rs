//! Reading and writing workloads as an environment's account.

use std::collections::BTreeMap;

use http::Request;
use jiff::Timestamp;
use serde_json::Value;
use towpath_core::fault::Problem;
use towpath_core::manifest::ObjectKey;
use towpath_core::names::{ENVIRONMENT_LABEL, EnvironmentName, FIELD_MANAGER, PART_OF_LABEL};
use towpath_core::plan::{Foreign, Known};
use towpath_core::policy::Desired;

use super::call::{self, CALL_DEADLINE, Failure, LIST_DEADLINE};
use super::kinds::encoded;
use super::{AccountClient, Kind};

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The object was made.
    Created,
    /// It was changed, or only confirmed.
    Configured,
}

/// The answer to an apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What it did.
    pub outcome: Outcome,
    /// UID of the object.
    pub uid: String,
    /// What was sent, and what the server says we own.
    pub known: Option<Known>,
}

const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

impl AccountClient {
    /// Applies one object by server-side apply, forced, under our field manager, or only asks what would happen.
    ///
    /// # Errors
    /// `Content` when the server refuses what is sent, `Setup` when the account may not, else `Passing`; at the
    /// object's place in the repository.
    pub async fn apply(&self, kind: &Kind, desired: &Desired, dry_run: bool) -> Result<Applied, Problem> {
        let sent = self.send(kind, desired, &desired.body(), true, dry_run).await;
        sent.map(|(applied, _)| applied).map_err(|refused| refused.problem)
    }

    /// Looks for objects by name, whatever their labels: one request for one name, one list of metadata for more.
    /// Gives those that exist and carry none of the marks (an environment's label and its ApplySet); those that do are
    /// taken into the live table.
    ///
    /// # Errors
    /// When it could not be asked: then nothing is known.
    pub async fn look_up(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        keys: &[ObjectKey],
        marks: &[(&EnvironmentName, &str)],
    ) -> Result<BTreeMap<ObjectKey, Foreign>, Problem> {
        let (name, accept, deadline) = match keys {
            [] => return Ok(BTreeMap::new()),
            [key] => (Some(key.name.as_str()), METADATA_ONLY, CALL_DEADLINE),
            _ => (None, METADATA_LIST, LIST_DEADLINE),
        };
        let request = Request::get(kind.path(namespace, name))
            .header(http::header::ACCEPT, accept)
            .body(Vec::new())
            .expect("the parts of the path are names that were checked");
        let answer = match call::repeatable(&self.client, &self.permits, deadline, &request).await {
            Ok(answer) => answer.body,
            Err(failure) if failure.is_not_found() && name.is_some() => return Ok(BTreeMap::new()),
            Err(failure) => return Err(self.problem(&failure, &keys[0])),
        };
        let objects = match (name, answer) {
            (Some(_), object) => vec![object],
            (None, list) => items_of(list)?,
        };
        let by_name: BTreeMap<&str, &ObjectKey> = keys.iter().map(|key| (key.name.as_str(), key)).collect();
        let mut found = BTreeMap::new();
        for object in &objects {
            let metadata = &object["metadata"];
            let Some(key) = metadata["name"].as_str().and_then(|name| by_name.get(name)) else { continue };
            let labels = &metadata["labels"];
            let is_marked = |(environment, apply_set): &(&EnvironmentName, &str)| {
                labels[ENVIRONMENT_LABEL] == environment.as_str() && labels[PART_OF_LABEL] == *apply_set
            };
            if marks.iter().any(is_marked) {
                // Ours, and the watch has not told of it yet.
                if let Some(object) = self.read(kind, key).await?
                    && let Some(reading) = self.live.read(&object, Timestamp::now())
                {
                    self.live.put(reading);
                }
                continue;
            }
            let uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
            let of = labels[ENVIRONMENT_LABEL].as_str();
            let foreign = Foreign {
                uid,
                owner: owner_of(metadata),
                is_applied_by_us: is_applied_by_us(metadata),
                is_of_other_environment: of.is_some_and(|name| marks.iter().all(|(known, _)| known.as_str() != name)),
            };
            found.insert((*key).clone(), foreign);
        }
        Ok(found)
    }

    /// Reads one object as it is, for a person to compare. `None` where it is not there.
    ///
    /// # Errors
    /// When it could not be asked.
    pub async fn read(&self, kind: &Kind, key: &ObjectKey) -> Result<Option<Value>, Problem> {
        let request = Request::get(kind.path(key.namespace.as_deref(), Some(&key.name)))
            .header(http::header::ACCEPT, "application/json")
            .body(Vec::new())
            .expect("the parts of the path are names that were checked");
        match call::repeatable(&self.client, &self.permits, CALL_DEADLINE, &request).await {
            Ok(answer) => Ok(Some(answer.body)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(self.problem(&failure, key)),
        }
    }

    /// Lists the objects of a kind in a namespace, by labels (`a=b,c=d`; empty for all).
    ///
    /// # Errors
    /// When it could not be asked.
    pub async fn list(&self, kind: &Kind, namespace: &str, labels: &str) -> Result<Vec<Value>, Problem> {
        let mut path = kind.path(Some(namespace), None);
        if !labels.is_empty() {
            path.push_str(&format!("?labelSelector={}", encoded(labels)));
        }
        let request = Request::get(path)
            .header(http::header::ACCEPT, "application/json")
            .body(Vec::new())
            .expect("the parts of the path are names that were checked");
        let answer = call::repeatable(&self.client, &self.permits, LIST_DEADLINE, &request).await;
        items_of(answer.map_err(|failure| call::problem(&failure, &self.account.to_string(), false))?.body)
    }

    /// Lists an environment's objects of one kind and takes them into the live table.
    ///
    /// # Errors
    /// When it could not be asked: then nothing is known.
    pub async fn read_again(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        environment: &EnvironmentName,
    ) -> Result<(), Problem> {
        let selector = encoded(&format!("{ENVIRONMENT_LABEL}={environment}"));
        let request = Request::get(format!("{}?labelSelector={selector}", kind.path(namespace, None)))
            .header(http::header::ACCEPT, "application/json")
            .body(Vec::new())
            .expect("the parts of the path are names that were checked");
        let answer = call::repeatable(&self.client, &self.permits, LIST_DEADLINE, &request).await;
        let answer = answer.map_err(|failure| call::problem(&failure, &self.account.to_string(), false))?;
        for mut object in items_of(answer.body)? {
            // Items of a list come without their type.
            object["apiVersion"] = kind.api_version.clone().into();
            object["kind"] = kind.kind.clone().into();
            if let Some(reading) = self.live.read(&object, Timestamp::now()) {
                self.live.put(reading);
            }
        }
        Ok(())
    }

    pub(super) fn problem(&self, failure: &Failure, key: &ObjectKey) -> Problem {
        let is_secret = key.group.is_empty() && key.kind == "Secret";
        let mut problem = call::problem(failure, &self.account.to_string(), is_secret);
        problem.message = format!("{key}: {}", problem.message);
        problem
    }
}

/// The items of a list. An empty list of metadata has `items: null`; an answer that is no list is not an empty one.
fn items_of(mut list: Value) -> Result<Vec<Value>, Problem> {
    let is_list = list["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => Ok(items),
        Some(Value::Null) if is_list => Ok(Vec::new()),
        _ => Err(Problem::passing("the API server answered something else than a list")),
    }
}

/// Whether managedFields hold an Apply entry of ours.
fn is_applied_by_us(metadata: &Value) -> bool {
    let mut entries = metadata["managedFields"].as_array().into_iter().flatten();
    entries.any(|entry| {
        entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply" && entry.get("subresource").is_none()
    })
}

/// Who seems to have an object, in words.
fn owner_of(metadata: &Value) -> String {
    const MARKS: [(&str, &str, &str); 6] = [
        ("labels", ENVIRONMENT_LABEL, "Towpath's environment"),
        ("labels", "kustomize.toolkit.fluxcd.io/name", "Flux's Kustomization"),
        ("labels", "helm.toolkit.fluxcd.io/name", "Flux's HelmRelease"),
        ("annotations", "argocd.argoproj.io/tracking-id", "Argo CD's application"),
        ("annotations", "meta.helm.sh/release-name", "Helm's release"),
        ("labels", "app.kubernetes.io/managed-by", "an object managed by"),
    ];
    for (map, name, owner) in MARKS {
        if let Some(value) = metadata[map][name].as_str() {
            return format!("{owner} {value}");
        }
    }
    let managers: std::collections::BTreeSet<&str> = metadata["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["manager"].as_str())
        .collect();
    match managers.len() {
        0 => "it carries no mark of this environment".to_owned(),
        _ => format!("written by {}", managers.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_list_is_not_an_empty_one() {
        assert_eq!(items_of(json!({"kind": "PodList", "items": [1]})), Ok(vec![json!(1)]));
        assert_eq!(items_of(json!({"kind": "PartialObjectMetadataList", "items": null})), Ok(vec![]));
        for bad in [json!({}), json!({"kind": "Status"}), json!({"kind": "PodList"}), json!({"items": []}), json!([])] {
            assert!(items_of(bad.clone()).is_err(), "{bad}");
        }
    }
}
