//! Objects: their identity, their content, and the line they come from.

mod key;

pub use key::{Identity, ObjectKey};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::fault::Place;

/// One object as a file of the deploy repository has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its identity as written: the namespace may still be open.
    pub key: ObjectKey,
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// The whole document, `apiVersion`, `kind` and `metadata` included. Nulls are dropped.
    pub body: Map<String, Value>,
    /// The file and line where the document begins. For a template: the line of the template.
    pub source: Place,
}

impl Manifest {
    /// The version part of `apiVersion`.
    pub fn version(&self) -> &str {
        version_of(&self.api_version)
    }

    /// An annotation of the object.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        annotation_of(&self.body, name)
    }

    /// A label of the object.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.body.get("metadata")?.get("labels")?.get(name)?.as_str()
    }
}

/// A manifest at rest: its document as JSON text, which takes a fraction of the memory of its tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// Its identity as written: the namespace may still be open.
    pub key: ObjectKey,
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// The file and line where the document begins.
    pub source: Place,
    text: Box<str>,
    digest: [u8; 16],
}

impl Packed {
    /// Packs a manifest.
    pub fn of(manifest: Manifest) -> Packed {
        let text = serde_json::to_string(&manifest.body).expect("a tree of JSON values can always be written");
        let mut hash = Sha256::new();
        hash.update(manifest.source.to_string());
        hash.update([0]);
        hash.update(&text);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        let Manifest { key, api_version, body: _, source } = manifest;
        Packed { key, api_version, source, text: text.into(), digest }
    }

    /// The manifest again.
    pub fn open(&self) -> Manifest {
        let body = serde_json::from_str(&self.text).expect("it was written as JSON");
        Manifest { key: self.key.clone(), api_version: self.api_version.clone(), body, source: self.source.clone() }
    }

    /// The document as JSON.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Equal digests mean the same document from the same place.
    pub fn digest(&self) -> [u8; 16] {
        self.digest
    }
}

/// Kinds whose deletion takes more with it than the object.
pub fn is_protected(key: &ObjectKey) -> bool {
    matches!(
        (key.group.as_str(), key.kind.as_str()),
        ("", "Namespace" | "PersistentVolumeClaim") | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

/// An annotation of an object.
pub fn annotation_of<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    body.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

/// The group part of an `apiVersion`; empty for the core group.
pub fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The version part of an `apiVersion`.
pub fn version_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or(api_version, |(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_group_has_no_name() {
        assert_eq!((group_of("v1"), version_of("v1")), ("", "v1"));
        assert_eq!((group_of("apps/v1"), version_of("apps/v1")), ("apps", "v1"));
    }
}
