//! What is known of an environment's objects in the cluster, as a table that is cheap to copy.

use std::collections::HashMap;
use std::sync::Arc;

use super::Seen;
use crate::manifest::ObjectKey;

/// Objects by identity. A copy shares its rows with the original until one of the two is changed, so that a pass can
/// look at one state of things while the watches go on writing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(Arc<HashMap<ObjectKey, Row>>);

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was read.
    pub seen: Seen,
    /// The resource version that was read; 0 where it is no number.
    pub version: u64,
    /// When it was put in, by the count of whoever keeps the table.
    pub tick: u64,
}

impl Table {
    /// What is known of an object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Seen> {
        self.0.get(key).map(|row| &row.seen)
    }

    /// The same, with when it was read.
    pub fn row(&self, key: &ObjectKey) -> Option<&Row> {
        self.0.get(key)
    }

    /// Whether an object is known.
    pub fn contains_key(&self, key: &ObjectKey) -> bool {
        self.0.contains_key(key)
    }

    /// All objects, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Seen)> {
        self.0.iter().map(|(key, row)| (key, &row.seen))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts an object in.
    pub fn put(&mut self, key: ObjectKey, row: Row) {
        Arc::make_mut(&mut self.0).insert(key, row);
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &ObjectKey) {
        if self.contains_key(key) {
            Arc::make_mut(&mut self.0).remove(key);
        }
    }

    /// Keeps only some objects. Nothing is copied where all stay.
    pub fn retain(&mut self, stays: impl Fn(&ObjectKey, &Row) -> bool) {
        if !self.0.iter().all(|(key, row)| stays(key, row)) {
            Arc::make_mut(&mut self.0).retain(|key, row| stays(key, row));
        }
    }
}

#[cfg(test)]
impl Table {
    /// Puts an object in that was read at no time in particular.
    pub(crate) fn insert(&mut self, key: ObjectKey, seen: Seen) {
        self.put(key, Row { seen, version: 0, tick: 0 });
    }

    pub(crate) fn get_mut(&mut self, key: &ObjectKey) -> Option<&mut Seen> {
        Arc::make_mut(&mut self.0).get_mut(key).map(|row| &mut row.seen)
    }

    pub(crate) fn clear(&mut self) {
        *self = Table::default();
    }
}
