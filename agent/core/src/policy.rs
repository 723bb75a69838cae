//! Whether what was rendered may be applied at all. Only this room builds [`Cleared`].
//!
//! One rule a file. Every rule returns all it found, and what is refused is refused as a whole: an environment is
//! applied completely or not at all.

mod cache;
mod cluster_kinds;
mod duplicates;
mod hooks;
mod marks;
mod namespaces;
mod own_resources;
mod server_fields;

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

pub use cache::PolicyCache;

use crate::components::NamedImage;
use crate::course::{self, Phase, Wave};
use crate::environment::Environment;
use crate::fault::{Place, Problem, Problems};
use crate::fingerprint::{self, Fingerprint};
use crate::ignore::Rule;
use crate::images;
use crate::left;
use crate::limits;
use crate::manifest::{Identity, Manifest, ObjectKey, Packed, annotation_of};
use crate::names::{self, EnvironmentName, annotation};
use crate::pointer::Pointer;
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
    /// Fingerprint of what is sent: equal to the fingerprint of the live object where the server changed nothing of it.
    pub fingerprint: Fingerprint,
    /// Where it comes from.
    pub source: Place,
    /// It may be taken over from somebody else.
    pub adopt: bool,
    /// It is neither applied nor mended.
    pub leave_alone: bool,
    /// It may be deleted and created again where a field cannot be changed.
    pub replace: bool,
    /// The object whose replicas it sets, if it is an autoscaler.
    pub scales: Option<Box<ObjectKey>>,
    /// When it is applied.
    pub wave: Wave,
    /// The images that it names.
    pub images: Box<[Box<str>]>,
    phases: BTreeSet<Phase>,
    manifest: Arc<Packed>,
    stamp: Arc<Stamp>,
}

impl Desired {
    /// What is sent. It is made anew at each call: few objects are sent, and all of them are kept.
    pub fn body(&self) -> Map<String, Value> {
        complete(self.manifest.open().body, &self.key, !self.phases.is_empty(), &self.stamp)
    }
}

/// A Job that runs before or after a sync. It is no object of the environment: each run is a Job of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    /// Its identity as git has it; the Job of a run has a longer name.
    pub key: ObjectKey,
    /// The version that it is applied in.
    pub api_version: String,
    /// When it runs.
    pub phases: BTreeSet<Phase>,
    /// Hooks of one phase with a lower number end before others begin.
    pub wave: Wave,
    /// What is sent, but for the name and the marks of a run.
    pub body: Map<String, Value>,
    /// How long it may run: its own `activeDeadlineSeconds`, else the environment's timeout.
    pub timeout: Duration,
    /// Where it comes from.
    pub source: Place,
    /// The images that it names.
    pub images: Box<[Box<str>]>,
    stamp: Arc<Stamp>,
}

impl Hook {
    fn of(desired: &Desired, environment: &Environment) -> Hook {
        let body = desired.body();
        Hook {
            key: desired.key.clone(),
            api_version: desired.api_version.clone(),
            phases: desired.phases.clone(),
            wave: desired.wave,
            timeout: hooks::deadline_seconds(&body).map_or(environment.timeout, Duration::from_secs),
            body,
            source: desired.source.clone(),
            images: desired.images.clone(),
            stamp: desired.stamp.clone(),
        }
    }

    /// The Job of a run, under its own name and with its own content.
    pub fn job(&self, name: String, body: Map<String, Value>) -> Desired {
        let key = ObjectKey::from(Identity { name, ..Identity::from(self.key.clone()) });
        let (api_version, source) = (self.api_version.clone(), self.source.clone());
        let manifest = Manifest { key: key.clone(), api_version: api_version.clone(), body, source: source.clone() };
        Desired {
            fingerprint: fingerprint::of_desired(&manifest.body),
            key,
            api_version,
            source,
            adopt: false,
            leave_alone: false,
            replace: false,
            scales: None,
            wave: self.wave,
            images: Box::default(),
            phases: BTreeSet::new(),
            manifest: Arc::new(Packed::of(manifest)),
            stamp: self.stamp.clone(),
        }
    }
}

/// What every object of an environment gets, and loses.
#[derive(Debug, PartialEq)]
struct Stamp {
    environment: String,
    apply_set: String,
    /// The rules that leave fields out.
    ignore: Vec<Rule>,
    /// The pull secrets of pods that name none, and the namespace that they are in.
    pull_secrets: Vec<String>,
    namespace: String,
}

/// Everything an environment should have, allowed by every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Cleared {
    objects: Vec<Arc<Desired>>,
    by_key: HashSet<ByKey>,
    hooks: Vec<Hook>,
    named_images: Vec<NamedImage>,
    content: String,
    warnings: Vec<Problem>,
}

/// An object that is looked up by its key.
#[derive(Clone, Debug)]
struct ByKey(Arc<Desired>);

impl Borrow<ObjectKey> for ByKey {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &ByKey) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl Cleared {
    /// The objects, in the order of their keys.
    pub fn objects(&self) -> &[Arc<Desired>] {
        &self.objects
    }

    /// An object by its key.
    pub fn get(&self, key: &ObjectKey) -> Option<&Desired> {
        self.by_key.get(key).map(|object| &*object.0)
    }

    /// The hooks, in the order of their waves and keys.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Every image that an object or a hook names, each once.
    pub fn images(&self) -> BTreeSet<&str> {
        let images = self.objects.iter().map(|object| &object.images).chain(self.hooks.iter().map(|hook| &hook.images));
        images.flatten().map(|image| &**image).collect()
    }

    /// The components that have one of them.
    pub fn named_images(&self) -> &[NamedImage] {
        &self.named_images
    }

    /// A digest of everything, hooks included: another one means that something differs.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// What is allowed but worth a look.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

/// Judges manifests by every built-in rule, fills in namespaces, and stamps our labels. What was cleared before, and is
/// the same under the same terms, is taken from the cache.
///
/// # Errors
/// Everything that any rule refused.
pub fn clear(rendered: &Rendered, facts: &Facts, cache: Option<&mut PolicyCache>) -> Result<Cleared, Problems> {
    let warnings = rendered.warnings().to_vec();
    let mut cleared = judge(rendered.packed(), warnings, facts, cache.unwrap_or(&mut PolicyCache::default()))?;
    if !rendered.images().is_empty() {
        let used = cleared.images();
        let named = rendered.images().iter().filter(|named| used.contains(named.image.as_str())).cloned();
        cleared.named_images = named.collect();
        cleared.warnings.extend(cleared.named_images.iter().filter(|named| named.lacks_digest()).map(unpinned));
    }
    Ok(cleared)
}

fn judge(
    manifests: &[Arc<Packed>],
    mut warnings: Vec<Problem>,
    facts: &Facts,
    cache: &mut PolicyCache,
) -> Result<Cleared, Problems> {
    if manifests.is_empty() {
        let problem = Problem::content("nothing was rendered: the environment would be empty")
            .at(Place::file(&facts.environment.path))
            .hint("an empty environment is never applied; delete the Environment instead");
        return Err(problem.into());
    }
    // A definition that comes in the same commit makes its kind known.
    let mut scopes = facts.scopes.clone();
    let definitions = manifests.iter().filter(|manifest| manifest.key.kind == "CustomResourceDefinition");
    definitions.for_each(|definition| scopes.insert_defined_by(&definition.open().body));

    let mut kept = cache.begin(facts.environment, scopes);
    let stamp = Arc::new(Stamp {
        environment: facts.environment.name.to_string(),
        apply_set: apply_set(facts.environment),
        ignore: facts.environment.ignore.iter().filter(|rule| rule.leaves_out()).cloned().collect(),
        pull_secrets: facts.environment.image_pull_secrets.clone(),
        namespace: facts.environment.namespace.clone(),
    });
    let mut found = Vec::new();
    let mut objects = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        if let Some(known) = kept.take(manifest) {
            warnings.extend(known.warnings.iter().cloned());
            objects.push(known.desired.clone());
            cache.keep(manifest, known);
            continue;
        }
        let mut judged = Judged { found: Vec::new(), warnings: Vec::new() };
        let object = judge_one(manifest, facts.environment, cache.scopes(), &stamp, &mut judged);
        warnings.extend(judged.warnings.iter().cloned());
        if let Some(object) = object {
            let desired = Arc::new(object);
            objects.push(desired.clone());
            if judged.found.is_empty() {
                cache.keep(manifest, cache::Known { desired, warnings: judged.warnings });
            }
        }
        found.extend(judged.found);
    }
    // Stable: of two with one key, the first stays the first.
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    duplicates::judge(&objects, &mut found);
    hooks::judge_all(&objects, &mut found);
    found.extend(within_object_limit(objects.len()).err());
    for object in &objects {
        if let Some(other) = (facts.claimed)(&object.key) {
            found.push(
                Problem::setup(format!("{} belongs to environment {other} already", object.key))
                    .at(object.source.clone())
                    .hint("two environments cannot have one object: rename it, or put it in another namespace"),
            );
        }
    }
    Problems::check(found)?;

    let (hooks, objects): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| !object.phases.is_empty());
    if objects.is_empty() {
        return Err(Problem::content("only hooks were rendered: the environment would be empty")
            .at(Place::file(&facts.environment.path))
            .hint("a Job that is all there is needs no hook annotation")
            .into());
    }
    let mut hooks: Vec<Hook> = hooks.iter().map(|hook| Hook::of(hook, facts.environment)).collect();
    hooks.sort_by(|a, b| (a.wave, &a.key).cmp(&(b.wave, &b.key)));
    let content = content(&objects, &hooks);
    let by_key = objects.iter().cloned().map(ByKey).collect();
    Ok(Cleared { objects, by_key, hooks, named_images: Vec::new(), content, warnings })
}

/// The digest of everything that is desired.
fn content(objects: &[Arc<Desired>], hooks: &[Hook]) -> String {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for object in objects {
        hash.update(format!("{} {} {}\n", object.key, object.api_version, object.fingerprint));
    }
    for hook in hooks {
        let print = fingerprint::of_desired(&hook.body);
        hash.update(format!("{} {} {print} {:?}\n", hook.key, hook.api_version, hook.phases));
    }
    hex::encode(&hash.finalize()[..16])
}

/// Judges manifests that no render made.
#[cfg(test)]
pub(crate) fn judge_all(manifests: Vec<Manifest>, facts: &Facts) -> Result<Cleared, Problems> {
    let packed: Vec<Arc<Packed>> = manifests.into_iter().map(|manifest| Arc::new(Packed::of(manifest))).collect();
    judge(&packed, Vec::new(), facts, &mut PolicyCache::default())
}

/// What the rules said of one manifest.
struct Judged {
    found: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Holds one manifest to every rule that needs no other. `None` where its kind is not known.
fn judge_one(
    packed: &Arc<Packed>,
    environment: &Environment,
    scopes: &Scopes,
    stamp: &Arc<Stamp>,
    judged: &mut Judged,
) -> Option<Desired> {
    let manifest = packed.open();
    own_resources::judge(&manifest, &mut judged.found);
    server_fields::judge(&manifest, &mut judged.found);
    marks::judge(&manifest, &mut judged.found);
    hooks::judge(&manifest, &mut judged.found, &mut judged.warnings);
    let namespace = match scopes.get(&manifest.key.group, &manifest.key.kind) {
        None => {
            judged.found.push(unknown_kind(&manifest));
            return None;
        }
        Some(Scope::Cluster) => {
            cluster_kinds::judge(&manifest, environment, &mut judged.found);
            None
        }
        Some(Scope::Namespaced) => {
            namespaces::judge(&manifest, environment, &mut judged.found);
            Some(manifest.key.namespace.clone().unwrap_or_else(|| environment.namespace.clone()))
        }
    };
    let says = |name: &str, value: &str| manifest.annotation(name) == Some(value);
    let wave = Wave::of(&manifest);
    let phases = manifest.annotation(annotation::HOOK).and_then(course::phases).unwrap_or_default();
    let (adopt, leave_alone) = (says(annotation::ADOPT, "true"), says(annotation::RECONCILE, "Disabled"));
    let replace = says(annotation::REPLACE, "true");
    let Manifest { key, api_version, body, source } = manifest;
    let key = if key.namespace == namespace { key } else { Identity { namespace, ..Identity::from(key) }.into() };
    let body = complete(body, &key, !phases.is_empty(), stamp);
    Some(Desired {
        fingerprint: fingerprint::of_desired(&body),
        scales: left::scaled_by(&key, &body).map(Box::new),
        images: images::images_of(&key, &body),
        key,
        api_version,
        source,
        adopt,
        leave_alone,
        replace,
        wave,
        phases,
        manifest: packed.clone(),
        stamp: stamp.clone(),
    })
}

fn unpinned(named: &NamedImage) -> Problem {
    Problem::content(format!("component {}: its image is not named by its digest here", named.component))
        .at(Place::file(&named.path))
        .hint("an agent looks it up in the registry and adds it")
}

fn unknown_kind(manifest: &Manifest) -> Problem {
    Problem::setup(format!("the cluster has no kind {} in {}", manifest.key.kind, manifest.api_version))
        .at(manifest.source.clone())
        .hint("install its CustomResourceDefinition, add it to this environment, or correct apiVersion and kind")
}

/// A document as it is sent: in its namespace, with pull secrets and our labels, without what is ignored or the server's
/// own.
fn complete(mut body: Map<String, Value>, key: &ObjectKey, is_hook: bool, stamp: &Stamp) -> Map<String, Value> {
    // A Secret of that name in another namespace is another one, or none.
    if key.namespace.as_deref().is_none_or(|namespace| namespace == stamp.namespace) {
        images::put_pull_secrets(key, is_hook, &mut body, &stamp.pull_secrets);
    }
    let by_annotation = marks::pointers(annotation_of(&body, annotation::IGNORE).unwrap_or_default());
    let by_rule = stamp.ignore.iter().filter(|rule| rule.is_about(key)).flat_map(|rule| rule.pointers.iter().cloned());
    let mut ignored: Vec<Pointer> = by_annotation.into_iter().flatten().chain(by_rule).collect();
    // Later elements of a list first, so that a place means the element that it meant in git.
    ignored.sort_by(Pointer::by_place);
    ignored.dedup();
    ignored.iter().rev().for_each(|pointer| pointer.remove(&mut body));
    server_fields::strip(&mut body);
    let metadata = metadata_of(&mut body);
    match &key.namespace {
        Some(namespace) => drop(metadata.insert("namespace".to_owned(), Value::from(namespace.as_str()))),
        None => drop(metadata.remove("namespace")),
    }
    let stamped = child_of(metadata, "labels");
    stamped.insert(names::ENVIRONMENT_LABEL.to_owned(), Value::from(stamp.environment.as_str()));
    stamped.insert(names::PART_OF_LABEL.to_owned(), Value::from(stamp.apply_set.as_str()));
    body
}

/// The id of the ApplySet whose parent is an Environment (KEP-3659: base64url of the SHA-256 of
/// `name.namespace.kind.group`).
pub fn apply_set(environment: &Environment) -> String {
    apply_set_of(&environment.name, &environment.home)
}

/// The id of the ApplySet of an Environment by its name and namespace, whether it is still there or not.
pub fn apply_set_of(environment: &EnvironmentName, home: &str) -> String {
    use base64::Engine;
    use sha2::Digest;
    let hash = sha2::Sha256::digest(format!("{environment}.{home}.Environment.{}", names::GROUP));
    format!("applyset-{}-v1", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash))
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
