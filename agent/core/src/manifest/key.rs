//! The identity of an object, and the key by which tables know it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

/// What an object is called in a cluster. The version is no part of it: `apps/v1` and `apps/v1beta1` are views of one
/// object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace. `None` for cluster-scoped objects, and for manifests that do not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// The identity of an object, by which tables know it. Each object stands in many tables, so a key is held in memory once
/// however often it is made: a copy costs nothing, and two that are equal are the same.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Identity", into = "Identity")]
pub struct ObjectKey(Arc<Held>);

/// An identity that somebody holds, and its hash.
struct Held {
    hash: u64,
    identity: Identity,
}

type Part = HashMap<u64, Weak<Held>>;

/// Parts of the book of what is held, so that threads do not wait for each other.
const PARTS: usize = 16;

/// Everything that is held, by its hash. Of two identities with one hash only the first stands here; the other is held
/// as often as it is made, which only takes memory.
static BOOK: LazyLock<[Mutex<Part>; PARTS]> = LazyLock::new(|| std::array::from_fn(|_| Mutex::default()));

fn book(hash: u64) -> MutexGuard<'static, Part> {
    BOOK[hash as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut book = book(self.hash);
        // It may have been made anew since the last one went.
        if book.get(&self.hash).is_some_and(|held| held.strong_count() == 0) {
            book.remove(&self.hash);
        }
    }
}

impl From<Identity> for ObjectKey {
    fn from(identity: Identity) -> ObjectKey {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        let hash = hasher.finish();
        // Nothing may be dropped while the book is open, for that opens it too.
        let known = book(hash).get(&hash).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.identity == identity) {
            return ObjectKey(known);
        }
        let made = Arc::new(Held { hash, identity });
        let mut book = book(hash);
        let known = book.get(&hash).and_then(Weak::upgrade);
        if known.is_none() {
            book.insert(hash, Arc::downgrade(&made));
        }
        drop(book);
        ObjectKey(known.filter(|known| known.identity == made.identity).unwrap_or(made))
    }
}

impl From<ObjectKey> for Identity {
    fn from(key: ObjectKey) -> Identity {
        key.0.identity.clone()
    }
}

impl Deref for ObjectKey {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0.identity
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Hash for ObjectKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl PartialEq for ObjectKey {
    fn eq(&self, other: &ObjectKey) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.hash == other.0.hash && **self == **other)
    }
}

impl Eq for ObjectKey {}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &ObjectKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ObjectKey {
    fn cmp(&self, other: &ObjectKey) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { (**self).cmp(other) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl fmt::Display for Identity {
    /// `Deployment.apps web/api`, as kubectl would name it, with the namespace before the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " {namespace}/{}", self.name),
            None => write!(f, " {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        Identity { group: String::new(), kind: "Namespace".into(), namespace: None, name: name.into() }.into()
    }

    #[test]
    fn equal_keys_are_one_in_memory_until_the_last_is_gone() {
        let (one, other) = (key("held-once"), key("held-once"));
        let hash = one.0.hash;
        assert!(Arc::ptr_eq(&one.0, &other.0));
        assert!(one == other && one != key("another"));
        drop(one);
        assert!(book(hash).contains_key(&hash));
        drop(other);
        assert!(!book(hash).contains_key(&hash));
    }

    #[test]
    fn threads_that_make_and_drop_one_key_agree() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        assert_eq!(key("raced").name, "raced");
                    }
                });
            }
        });
        let hash = key("raced").0.hash;
        assert!(!book(hash).contains_key(&hash));
    }

    #[test]
    fn a_key_reads_as_kubectl_names_it() {
        let key = ObjectKey::from(Identity {
            group: "apps".into(),
            kind: "Deployment".into(),
            namespace: Some("web".into()),
            name: "api".into(),
        });
        assert_eq!(key.to_string(), "Deployment.apps web/api");
        let key = ObjectKey::from(Identity {
            group: String::new(),
            kind: "Namespace".into(),
            namespace: None,
            name: "web".into(),
        });
        assert_eq!(key.to_string(), "Namespace web");
    }
}
