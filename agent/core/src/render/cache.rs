//! Keeps what was rendered, so that a pass costs what changed.
//!
//! Equal keys mean equal bytes: a key is made of the ids of the template and the partials it reaches, and of the part
//! of the context that they can name.

use std::collections::HashMap;
use std::sync::Arc;

use super::template::Template;
use crate::fault::Problem;
use crate::manifest::Packed;
use crate::revision::BlobId;

/// What one file renders to.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) manifests: Vec<Arc<Packed>>,
    pub(super) warnings: Vec<Problem>,
    /// Bytes of its manifests as JSON.
    pub(super) bytes: usize,
}

/// Templates that were read and manifests that were rendered, kept between passes by whoever calls
/// [`render`](super::render). It may be shared by environments, and dropped at any time.
#[derive(Debug)]
pub struct RenderCache {
    templates: HashMap<(BlobId, String), Entry<Arc<Template>>>,
    pieces: HashMap<[u8; 32], Entry<Arc<Piece>>>,
    bytes: usize,
    limit: usize,
    pass: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    bytes: usize,
    used: u64,
}

/// For how many passes a result may go unused before it is dropped. A pass renders one revision: where a newer one is
/// refused, it and the one that runs are rendered in turn.
const UNUSED_PASSES: u64 = 1;
/// What a byte of a template's source comes to in memory, roughly: a tree of small strings and maps.
const TREE_FACTOR: usize = 4;
/// What a manifest takes beside its text: its identity, its place.
const BESIDE_TEXT: usize = 512;

impl Default for RenderCache {
    /// A cache that holds 10 000 objects of the usual size.
    fn default() -> Self {
        RenderCache::with_limit(32 << 20)
    }
}

impl RenderCache {
    /// A cache that stays near a number of bytes: what was not used longest is dropped first.
    pub fn with_limit(bytes: usize) -> Self {
        RenderCache { templates: HashMap::new(), pieces: HashMap::new(), bytes: 0, limit: bytes, pass: 0 }
    }

    /// How many files' results are kept.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.templates.is_empty()
    }

    pub(super) fn begin(&mut self) {
        self.pass += 1;
    }

    pub(super) fn template(&mut self, id: BlobId, file: &str) -> Option<Arc<Template>> {
        let pass = self.pass;
        self.templates.get_mut(&(id, file.to_owned())).map(|entry| {
            entry.used = pass;
            Arc::clone(&entry.value)
        })
    }

    pub(super) fn keep_template(&mut self, id: BlobId, template: &Arc<Template>) {
        let bytes = template.source.len() * TREE_FACTOR + 1024;
        self.bytes += bytes;
        let key = (id, template.file.to_string());
        let entry = Entry { value: Arc::clone(template), bytes, used: self.pass };
        if let Some(old) = self.templates.insert(key, entry) {
            self.bytes -= old.bytes;
        }
    }

    pub(super) fn piece(&mut self, key: &[u8; 32]) -> Option<Arc<Piece>> {
        let pass = self.pass;
        self.pieces.get_mut(key).map(|entry| {
            entry.used = pass;
            Arc::clone(&entry.value)
        })
    }

    pub(super) fn keep_piece(&mut self, key: [u8; 32], piece: &Arc<Piece>) {
        let bytes = piece.bytes + piece.manifests.len() * BESIDE_TEXT + 256;
        self.bytes += bytes;
        let entry = Entry { value: Arc::clone(piece), bytes, used: self.pass };
        if let Some(old) = self.pieces.insert(key, entry) {
            self.bytes -= old.bytes;
        }
    }

    /// Drops what was not used lately, and what was not used longest until the rest fits.
    pub(super) fn end(&mut self) {
        let oldest = self.pass.saturating_sub(UNUSED_PASSES);
        self.keep_from(oldest);
        if self.bytes <= self.limit {
            return;
        }
        let mut ages: Vec<(u64, usize)> = self
            .templates
            .values()
            .map(|entry| (entry.used, entry.bytes))
            .chain(self.pieces.values().map(|entry| (entry.used, entry.bytes)))
            .collect();
        ages.sort_unstable();
        // Everything used up to this pass goes.
        let mut excess = self.bytes - self.limit;
        let mut oldest_kept = 0;
        for (used, bytes) in ages {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            oldest_kept = used + 1;
        }
        self.keep_from(oldest_kept);
    }

    /// Drops what was last used before a pass.
    fn keep_from(&mut self, oldest: u64) {
        let bytes = &mut self.bytes;
        let mut stays = |used: u64, size: usize| {
            let stays = used >= oldest;
            *bytes -= if stays { 0 } else { size };
            stays
        };
        self.templates.retain(|_, entry| stays(entry.used, entry.bytes));
        self.pieces.retain(|_, entry| stays(entry.used, entry.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_revisions_in_turn_need_stays_and_what_neither_needs_goes() {
        let mut cache = RenderCache::default();
        for number in 0..7u8 {
            cache.begin();
            let revision = if number == 0 { 9 } else { number % 2 };
            if cache.piece(&[revision; 32]).is_none() {
                assert!(number < 3, "rendered once more at pass {number}");
                cache.keep_piece([revision; 32], &Arc::new(Piece { bytes: 500, ..Piece::default() }));
            }
            cache.end();
        }
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.bytes, 2 * (500 + 256));
    }

    #[test]
    fn a_cache_keeps_its_limit_and_drops_what_was_not_used_longest() {
        let mut cache = RenderCache::with_limit(10_000);
        for number in 0..20u8 {
            cache.begin();
            cache.keep_piece([number; 32], &Arc::new(Piece { bytes: 500, ..Piece::default() }));
            cache.piece(&[0; 32]);
            cache.end();
        }
        assert!(cache.bytes <= 10_000 && cache.len() >= 2, "{}", cache.len());
        assert!(cache.piece(&[0; 32]).is_some());
        assert!(cache.piece(&[19; 32]).is_some());
        assert!(cache.piece(&[1; 32]).is_none());
    }
}
