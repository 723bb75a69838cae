//! Whether what was rendered may be applied at all. Only this room builds [`Cleared`].
//!
//! One rule a file. Every rule returns all it found, and what is refused is refused as a whole: an environment is
//! applied completely or not at all.

mod cluster_kinds;
mod duplicates;
mod marks;
mod namespaces;
mod own_resources;
mod server_fields;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::environment::Environment;
use crate::fault::{Place, Problem, Problems};
use crate::fingerprint::{self, Fingerprint};
use crate::limits;
use crate::manifest::{Manifest, ObjectKey};
use crate::names::{self, EnvironmentName, annotation};
use crate::render::Rendered;
use crate::scope::{Scope, Scopes};

/// What the rules may know beside the manifests.
pub struct Facts<'a> {
    /// The environment that they are for.
    pub environment: &'a Environment,
    /// Kinds and their scopes.
    pub scopes: &'a Scopes,
    /// Which other environment has an object already.
    pub claimed: &'a dyn Fn(&ObjectKey) -> Option<EnvironmentName>,
}

/// One object that may be applied, complete: its namespace is filled in and it carries our labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Its identity in the cluster.
    pub key: ObjectKey,
    /// The version that it is applied in.
    pub api_version: String,
    /// What is sent: the object as JSON text, which is smaller in memory than its tree.
    pub body: String,
    /// Fingerprint of what is sent: equal to the fingerprint of the live object where the server changed nothing of it.
    pub fingerprint: Fingerprint,
    /// Where it comes from.
    pub source: Place,
    /// It may be taken over from somebody else.
    pub adopt: bool,
    /// It is neither applied nor mended.
    pub leave_alone: bool,
}

/// Everything an environment should have, allowed by every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Cleared {
    objects: Vec<Desired>,
    warnings: Vec<Problem>,
}

impl Cleared {
    /// The objects, in the order of their keys.
    pub fn objects(&self) -> &[Desired] {
        &self.objects
    }

    /// An object by its key.
    pub fn get(&self, key: &ObjectKey) -> Option<&Desired> {
        self.objects.binary_search_by(|object| object.key.cmp(key)).ok().map(|index| &self.objects[index])
    }

    /// What is allowed but worth a look.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

/// Judges manifests by every built-in rule, fills in namespaces, and stamps our labels.
///
/// # Errors
/// Everything that any rule refused.
pub fn clear(rendered: Rendered, facts: &Facts) -> Result<Cleared, Problems> {
    let warnings = rendered.warnings().to_vec();
    judge(rendered.into_manifests(), warnings, facts)
}

pub(crate) fn judge(manifests: Vec<Manifest>, mut warnings: Vec<Problem>, facts: &Facts) -> Result<Cleared, Problems> {
    if manifests.is_empty() {
        let problem = Problem::content("nothing was rendered: the environment would be empty")
            .at(Place::file(&facts.environment.path))
            .hint("an empty environment is never applied; delete the Environment instead");
        return Err(problem.into());
    }

    // A definition that comes in the same commit makes its kind known.
    let mut scopes = facts.scopes.clone();
    manifests.iter().for_each(|manifest| scopes.insert_defined_by(&manifest.body));

    let mut found = Vec::new();
    let mut placed = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        own_resources::judge(&manifest, &mut found);
        server_fields::judge(&manifest, &mut found);
        marks::judge(&manifest, &mut found, &mut warnings);
        match scopes.get(&manifest.key.group, &manifest.key.kind) {
            None => found.push(unknown_kind(&manifest)),
            Some(Scope::Cluster) => {
                cluster_kinds::judge(&manifest, facts.environment, &mut found);
                placed.push(at_namespace(manifest, None));
            }
            Some(Scope::Namespaced) => {
                namespaces::judge(&manifest, facts.environment, &mut found);
                let namespace = manifest.key.namespace.clone().unwrap_or_else(|| facts.environment.namespace.clone());
                placed.push(at_namespace(manifest, Some(namespace)));
            }
        }
    }
    duplicates::judge(&placed, &mut found);
    found.extend(within_object_limit(placed.len()).err());
    for manifest in &placed {
        if let Some(other) = (facts.claimed)(&manifest.key) {
            found.push(
                Problem::setup(format!("{} belongs to environment {other} already", manifest.key))
                    .at(manifest.source.clone())
                    .hint("two environments cannot have one object: rename it, or put it in another namespace"),
            );
        }
    }
    Problems::check(found)?;

    let mut objects: Vec<Desired> = placed.into_iter().map(|manifest| stamp(manifest, facts)).collect();
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Cleared { objects, warnings })
}

fn unknown_kind(manifest: &Manifest) -> Problem {
    Problem::setup(format!("the cluster has no kind {} in {}", manifest.key.kind, manifest.api_version))
        .at(manifest.source.clone())
        .hint("install its CustomResourceDefinition, add it to this environment, or correct apiVersion and kind")
}

fn at_namespace(mut manifest: Manifest, namespace: Option<String>) -> Manifest {
    let metadata = metadata_of(&mut manifest.body);
    match &namespace {
        Some(namespace) => drop(metadata.insert("namespace".to_owned(), Value::from(namespace.as_str()))),
        None => drop(metadata.remove("namespace")),
    }
    manifest.key.namespace = namespace;
    manifest
}

fn stamp(mut manifest: Manifest, facts: &Facts) -> Desired {
    let says = |name: &str, value: &str| manifest.annotation(name) == Some(value);
    let adopt = says(annotation::ADOPT, "true");
    let leave_alone = says(annotation::RECONCILE, "Disabled");
    let ignored: Vec<String> = marks::pointers(manifest.annotation(annotation::IGNORE).unwrap_or_default());
    for pointer in &ignored {
        remove_at(&mut manifest.body, pointer);
    }
    server_fields::strip(&mut manifest.body);

    let labels = child_of(metadata_of(&mut manifest.body), "labels");
    labels.insert(names::ENVIRONMENT_LABEL.to_owned(), Value::from(facts.environment.name.as_str()));
    labels.insert(names::PART_OF_LABEL.to_owned(), Value::from(apply_set(facts.environment)));

    Desired {
        fingerprint: fingerprint::of_desired(&manifest.body),
        key: manifest.key,
        api_version: manifest.api_version,
        body: serde_json::to_string(&manifest.body).expect("a tree of JSON values can always be written"),
        source: manifest.source,
        adopt,
        leave_alone,
    }
}

/// The id of the ApplySet whose parent is an Environment (KEP-3659: base64url of the SHA-256 of
/// `name.namespace.kind.group`).
pub fn apply_set(environment: &Environment) -> String {
    use base64::Engine;
    use sha2::Digest;
    let hash = sha2::Sha256::digest(format!("{}.{}.Environment.{}", environment.name, environment.home, names::GROUP));
    format!("applyset-{}-v1", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash))
}

/// Removes what a JSON pointer (RFC 6901) points to, if it is there.
fn remove_at(body: &mut Map<String, Value>, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return };
    let last = last.replace("~1", "/").replace("~0", "~");
    if parent.is_empty() {
        body.shift_remove(&last);
        return;
    }
    let (first, rest) = parent[1..].split_once('/').map_or((&parent[1..], ""), |(first, rest)| (first, rest));
    let Some(child) = body.get_mut(&first.replace("~1", "/").replace("~0", "~")) else { return };
    let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
    match child.pointer_mut(&rest) {
        Some(Value::Object(map)) => drop(map.shift_remove(&last)),
        Some(Value::Array(list)) => {
            if let Some(index) = last.parse::<usize>().ok().filter(|index| *index < list.len()) {
                list.remove(index);
            }
        }
        _ => {}
    }
}

fn metadata_of(body: &mut Map<String, Value>) -> &mut Map<String, Value> {
    child_of(body, "metadata")
}

/// A map within a map, made where it is missing or something else.
fn child_of<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let child = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("it was just made a map")
}

/// How often each key occurs, with the places.
fn places_by_key(manifests: &[Manifest]) -> BTreeMap<&ObjectKey, Vec<&Place>> {
    let mut places: BTreeMap<&ObjectKey, Vec<&Place>> = BTreeMap::new();
    for manifest in manifests {
        places.entry(&manifest.key).or_default().push(&manifest.source);
    }
    places
}

/// Whether there are more objects than an environment may have.
fn within_object_limit(count: usize) -> Result<(), Problem> {
    if count > limits::MAX_OBJECTS {
        return Err(Problem::content(format!(
            "{count} objects, more than the {} one environment may have",
            limits::MAX_OBJECTS
        ))
        .hint("split it into several environments"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
