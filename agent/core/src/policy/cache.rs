//! Keeps what was cleared, so that a pass judges only what changed.

use std::collections::HashMap;
use std::sync::Arc;

use super::Desired;
use crate::environment::Environment;
use crate::fault::Problem;
use crate::manifest::Packed;
use crate::scope::Scopes;

/// The objects of one environment that were cleared at the last call, by the digests of their manifests. It may be
/// dropped at any time.
#[derive(Debug, Default)]
pub struct PolicyCache {
    terms: Option<(Environment, Scopes)>,
    known: Kept,
}

/// What was cleared.
#[derive(Debug, Default)]
pub(super) struct Kept(HashMap<[u8; 16], Known>);

/// One object that passed every rule which needs no other object.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) desired: Arc<Desired>,
    pub(super) warnings: Vec<Problem>,
}

impl Kept {
    /// What is known of a manifest. It is kept on only if it is put back.
    pub(super) fn take(&mut self, manifest: &Packed) -> Option<Known> {
        self.0.remove(&manifest.digest())
    }
}

impl PolicyCache {
    /// Begins a call: gives what was kept under the same terms, and keeps nothing that is not put back.
    pub(super) fn begin(&mut self, environment: &Environment, scopes: Scopes) -> Kept {
        let kept = std::mem::take(&mut self.known);
        let is_same = self.terms.as_ref().is_some_and(|terms| (&terms.0, &terms.1) == (environment, &scopes));
        if is_same {
            return kept;
        }
        self.terms = Some((environment.clone(), scopes));
        Kept::default()
    }

    /// The scopes of this call.
    pub(super) fn scopes(&self) -> &Scopes {
        &self.terms.as_ref().expect("a call has begun").1
    }

    /// Keeps an object until the next call.
    pub(super) fn keep(&mut self, manifest: &Packed, known: Known) {
        self.known.0.insert(manifest.digest(), known);
    }
}
