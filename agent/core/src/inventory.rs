//! The members of an environment: every object it has brought into the cluster and has not seen go.
//!
//! A member is written down before it is first applied and taken out only after its deletion was confirmed, so that
//! neither a crash nor a stripped label orphans it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::manifest::{Identity, ObjectKey};

/// One object of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The version it was last applied in.
    pub api_version: String,
    /// Its UID; `None` between the moment it was written down and the answer to its first apply.
    pub uid: Option<String>,
}

/// All members by identity. A copy shares them with the original until one of the two is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    members: Arc<HashMap<ObjectKey, Member>>,
    /// Members whose deletion a person confirmed, and for which commit (its first digits). A confirmation is for one
    /// exact list, so what it said of each member must outlive a deletion that is cut short.
    confirmed: BTreeMap<ObjectKey, String>,
}

/// Why a stored inventory cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the inventory cannot be read: {text:?}")]
pub struct Unreadable {
    /// Its number, from 1.
    pub line: usize,
    /// Its beginning.
    pub text: String,
}

impl Inventory {
    /// A member.
    pub fn get(&self, key: &ObjectKey) -> Option<&Member> {
        self.members.get(key)
    }

    /// All members, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Member)> {
        self.members.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Adds a member, or learns its UID and version. What was confirmed of it no longer holds.
    pub fn insert(&mut self, key: ObjectKey, member: Member) {
        self.confirmed.remove(&key);
        if self.members.get(&key) != Some(&member) {
            Arc::make_mut(&mut self.members).insert(key, member);
        }
    }

    /// Takes a member out. Only for one whose absence was confirmed by the API server.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.confirmed.remove(key);
        if self.members.contains_key(key) {
            Arc::make_mut(&mut self.members).remove(key);
        }
    }

    /// Writes down that a person confirmed the deletion of a member at a commit.
    pub fn confirm(&mut self, key: &ObjectKey, commit: &str) {
        if self.members.contains_key(key) {
            self.confirmed.insert(key.clone(), commit.to_owned());
        }
    }

    /// Whether the deletion of a member was confirmed at this very commit.
    pub fn is_confirmed(&self, key: &ObjectKey, commit: &str) -> bool {
        self.confirmed.get(key).is_some_and(|known| known == commit)
    }

    /// As lines of `apiVersion kind namespace name uid`, `-` for what is not there, and behind it the commit at which
    /// its deletion was confirmed. None of them can hold a blank.
    pub fn to_lines(&self) -> String {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let line = |(key, member): (&ObjectKey, &Member)| {
            let Identity { group: _, kind, namespace, name } = &**key;
            let confirmed = self.confirmed.get(key).map(|commit| format!(" {commit}")).unwrap_or_default();
            format!("{} {kind} {} {name} {}{confirmed}\n", member.api_version, dash(namespace), dash(&member.uid))
        };
        let mut members: Vec<(&ObjectKey, &Member)> = self.members.iter().collect();
        members.sort_by_key(|(key, _)| *key);
        members.into_iter().map(line).collect()
    }

    /// Reads what [`Inventory::to_lines`] wrote.
    ///
    /// # Errors
    /// At the first line that cannot be read. A part of an inventory is never taken for the whole.
    pub fn from_lines(text: &str) -> Result<Inventory, Unreadable> {
        let mut inventory = Inventory::default();
        for (index, line) in text.lines().enumerate() {
            let fields: Vec<&str> = line.split(' ').collect();
            let ([api_version, kind, namespace, name, uid] | [api_version, kind, namespace, name, uid, _]) = fields[..]
            else {
                return Err(Unreadable { line: index + 1, text: line.chars().take(80).collect() });
            };
            let present = |text: &str| (text != "-").then(|| text.to_owned());
            let key = ObjectKey::from(Identity {
                group: crate::manifest::group_of(api_version).to_owned(),
                kind: kind.to_owned(),
                namespace: present(namespace),
                name: name.to_owned(),
            });
            inventory.insert(key.clone(), Member { api_version: api_version.to_owned(), uid: present(uid) });
            if let Some(commit) = fields.get(5) {
                inventory.confirm(&key, commit);
            }
        }
        Ok(inventory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, namespace: Option<&str>, name: &str) -> ObjectKey {
        ObjectKey::from(Identity {
            group: "apps".into(),
            kind: kind.into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
        })
    }

    #[test]
    fn an_inventory_reads_back() {
        let mut inventory = Inventory::default();
        inventory.insert(
            key("Deployment", Some("web"), "api"),
            Member { api_version: "apps/v1".into(), uid: Some("1-2".into()) },
        );
        inventory.insert(key("Odd", None, "a.b"), Member { api_version: "apps/v1".into(), uid: None });
        inventory.confirm(&key("Odd", None, "a.b"), "abababa");
        assert_eq!(Inventory::from_lines(&inventory.to_lines()), Ok(inventory));
    }

    #[test]
    fn a_damaged_inventory_is_no_smaller_inventory() {
        let error = Inventory::from_lines("apps/v1 Deployment web api 1\nv1 ConfigMap we").unwrap_err();
        assert_eq!(error.line, 2);
    }

    #[test]
    fn what_is_applied_again_is_no_longer_confirmed_for_deletion() {
        let (odd, member) = (key("Odd", None, "a"), Member { api_version: "apps/v1".into(), uid: Some("1".into()) });
        let mut inventory = Inventory::default();
        inventory.insert(odd.clone(), member.clone());
        inventory.confirm(&odd, "abababa");
        assert!(inventory.is_confirmed(&odd, "abababa") && !inventory.is_confirmed(&odd, "cdcdcdc"));
        inventory.insert(odd.clone(), member);
        assert!(!inventory.is_confirmed(&odd, "abababa"));
    }
}
