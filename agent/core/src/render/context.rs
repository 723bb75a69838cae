//! What templates see, and the keys by which what they render to is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::Facts;
use super::layout::Source;
use super::template::Template;
use crate::components::Component;
use crate::environment::Environment;

/// What templates see, and a digest of each part of it.
pub(super) struct Context {
    pub(super) root: Value,
    digests: BTreeMap<&'static str, [u8; 32]>,
}

impl Context {
    pub(super) fn new(
        environment: &Environment,
        facts: &Facts,
        values: Map<String, Value>,
        components: &BTreeMap<String, Component>,
    ) -> Context {
        let components: Map<String, Value> =
            components.iter().map(|(name, component)| (name.clone(), component.to_json())).collect();
        let parts: [(&'static str, Value); 6] = [
            ("values", Value::Object(values)),
            ("environment", json!({ "name": environment.name.as_str(), "namespace": environment.namespace })),
            ("cluster", Value::from(facts.cluster.as_str())),
            ("lane", Value::from(facts.branch.as_str())),
            ("revision", Value::from(facts.commit.to_string())),
            ("components", Value::Object(components)),
        ];
        let digests = parts
            .iter()
            .map(|(name, value)| {
                let text = serde_json::to_vec(value).expect("JSON in memory can always be written");
                (*name, digest(&[&text]))
            })
            .collect();
        let root = parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Context { root: Value::Object(root), digests }
    }
}

/// The key of a rendered template: all that can decide what it renders to.
pub(super) fn key_of(
    source: Source<'_>,
    template: &Template,
    reached: &[&Arc<Template>],
    context: &Context,
) -> [u8; 32] {
    let mut parts: Vec<&[u8]> = vec![b"template", source.path.as_bytes(), source.file.id.as_bytes()];
    for partial in reached {
        parts.push(partial.file.as_bytes());
        parts.push(partial.source.as_bytes());
    }
    let mentions = |name: &str| {
        std::iter::once(template)
            .chain(reached.iter().map(|partial| &***partial))
            .any(|template| template.mentions.as_ref().is_none_or(|mentions| mentions.contains(name)))
    };
    for (name, digest) in &context.digests {
        if mentions(name) {
            parts.push(name.as_bytes());
            parts.push(digest);
        }
    }
    digest(&parts)
}

/// One key for several texts, whatever they hold.
pub(super) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
