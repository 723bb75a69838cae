//! Waves and hooks: what cannot work is refused before anything is applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Desired;
use crate::course::{self, Phase, Wave};
use crate::fault::{Place, Problem};
use crate::limits;
use crate::manifest::Manifest;
use crate::names::annotation;
use crate::scope::defined_kind;

/// Judges one manifest by itself: only a Job can be a hook, and its end must be seen before it goes.
pub(super) fn judge(manifest: &Manifest, found: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let is_job = manifest.key.group == "batch" && manifest.key.kind == "Job";
    let seconds_kept = manifest.body.get("spec").and_then(|spec| spec.get("ttlSecondsAfterFinished")?.as_i64());
    if !is_hook(manifest) {
        if is_job && seconds_kept.is_some() {
            let said = format!("{} is made again each time that ttlSecondsAfterFinished removes it", manifest.key);
            let hint = "make it a hook (towpath.dev/hook), or leave ttlSecondsAfterFinished out";
            warnings.push(Problem::content(said).at(manifest.source.clone()).hint(hint));
        }
        return;
    }
    // What the annotation says is judged with the others.
    let says_something = manifest.annotation(annotation::HOOK).and_then(course::phases).is_some();
    if !is_job && says_something {
        found.push(
            Problem::content(format!("{} cannot be a hook", manifest.key))
                .at(manifest.source.clone())
                .hint("only a Job can: what a hook needs goes into a wave below 0"),
        );
        return;
    }
    if seconds_kept.is_some_and(|seconds| seconds < limits::MIN_HOOK_KEPT_SECONDS) {
        found.push(
            Problem::content(format!("hook {} would be removed before its end is seen", manifest.key))
                .at(manifest.source.clone())
                .hint(format!(
                    "set ttlSecondsAfterFinished to {} or more, or leave it out: the last Job of a hook is deleted \
                     when the next one begins",
                    limits::MIN_HOOK_KEPT_SECONDS
                )),
        );
    }
    for name in [annotation::ADOPT, annotation::RECONCILE, annotation::REPLACE, annotation::PRUNE] {
        if manifest.annotation(name).is_some() {
            let said = format!("annotation {name} of {} has no effect: it is a hook", manifest.key);
            warnings.push(Problem::content(said).at(manifest.source.clone()));
        }
    }
}

/// Judges all objects together: a namespace or definition must not come after what needs it.
pub(super) fn judge_all(objects: &[Arc<Desired>], found: &mut Vec<Problem>) {
    let mut namespaces: BTreeMap<&str, (Wave, &Place)> = BTreeMap::new();
    let mut kinds: BTreeMap<(String, String), (Wave, &Place)> = BTreeMap::new();
    for object in objects {
        let here = (object.wave, &object.source);
        match (object.key.group.as_str(), object.key.kind.as_str()) {
            ("", "Namespace") => drop(namespaces.insert(&object.key.name, here)),
            // One without a wave comes first of all: nothing can come before it.
            ("apiextensions.k8s.io", "CustomResourceDefinition") if object.wave != Wave::Ground => {
                if let Some((group, kind, _)) = defined_kind(&object.body()) {
                    kinds.insert((group.to_owned(), kind.to_owned()), here);
                }
            }
            _ => {}
        }
    }
    for object in objects {
        let needs_it_in = needed_in(object);
        let namespace = object.key.namespace.as_deref().and_then(|name| namespaces.get(name));
        let kind = (!kinds.is_empty()).then(|| kinds.get(&(object.key.group.clone(), object.key.kind.clone())));
        for (what, (comes_in, place)) in [("its namespace", namespace), ("its definition", kind.flatten())]
            .into_iter()
            .filter_map(|(what, need)| Some((what, need?)))
            .filter(|(_, (comes_in, _))| *comes_in > needs_it_in)
        {
            found.push(
                Problem::content(format!(
                    "{} is applied before {what}, which comes in {comes_in} ({place})",
                    object.key
                ))
                .at(object.source.clone())
                .hint("leave the wave of the Namespace or CustomResourceDefinition out: then it comes first of all"),
            );
        }
    }
    let hooks = objects.iter().filter(|object| !object.phases.is_empty()).count();
    if hooks > limits::MAX_HOOKS {
        found.push(Problem::content(format!(
            "{hooks} hooks, more than the {} one environment may have",
            limits::MAX_HOOKS
        )));
    }
}

/// Whether a manifest says that it is a hook.
fn is_hook(manifest: &Manifest) -> bool {
    manifest.annotation(annotation::HOOK).is_some()
}

/// The wave in which an object is first sent.
fn needed_in(object: &Desired) -> Wave {
    match () {
        () if object.phases.contains(&Phase::BeforeSync) => Wave::Number(-1),
        () if !object.phases.is_empty() => Wave::Number(i32::MAX),
        () => object.wave,
    }
}

/// How long the pods of a hook may work: `spec.activeDeadlineSeconds`, in seconds.
pub(super) fn deadline_seconds(body: &serde_json::Map<String, Value>) -> Option<u64> {
    body.get("spec")?.get("activeDeadlineSeconds")?.as_u64()
}
