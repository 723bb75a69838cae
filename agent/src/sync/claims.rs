//! Which environment of this agent has which object, and which one wants it: at most one has it at any moment.
//!
//! An environment that drops an object another one has in git hands it over: it keeps it until the other has put its own
//! label on it, and nobody deletes it. All of this is memory: after a start it is made anew from inventories and looks
//! at git, and until an environment has looked nobody takes anything of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use towpath_core::candidate::Candidate;
use towpath_core::fault::Problem;
use towpath_core::inventory::Inventory;
use towpath_core::manifest::ObjectKey;
use towpath_core::names::EnvironmentName;
use towpath_core::policy::Cleared;

/// Who has what, and who wants what.
#[derive(Default)]
pub struct Claims(Mutex<State>);

#[derive(Default)]
struct State {
    owners: HashMap<ObjectKey, EnvironmentName>,
    /// The same the other way round: what an environment has, or once had.
    owned: HashMap<EnvironmentName, Vec<ObjectKey>>,
    looks: BTreeMap<EnvironmentName, Look>,
    /// Environments whose deletions wait until another one has looked.
    waiting: BTreeSet<EnvironmentName>,
}

/// What an environment saw in git when it last looked.
struct Look {
    apply_set: String,
    /// The revision; none for one that is leaving.
    candidate: Option<Candidate>,
    /// What it has in git there. Beside a revision that it cannot move to, also what it still runs.
    wants: Vec<Wants>,
}

impl Look {
    /// Whether it says that one revision is cleared, and the very same of it.
    fn is_of(&self, candidate: &Candidate, wants: &Wants) -> bool {
        match (&self.wants[..], wants) {
            ([Wants::Cleared(known)], Wants::Cleared(cleared)) => {
                self.candidate.as_ref() == Some(candidate) && Arc::ptr_eq(known, cleared)
            }
            _ => false,
        }
    }

    fn wants(&self, key: &ObjectKey) -> bool {
        self.wants.iter().any(|wants| wants.has(key))
    }
}

/// What an environment has in git.
pub(super) enum Wants {
    /// It may be applied.
    Cleared(Arc<Cleared>),
    /// It could be applied if others did not have some of it.
    Keys(BTreeSet<ObjectKey>),
}

impl Wants {
    fn has(&self, key: &ObjectKey) -> bool {
        match self {
            Wants::Cleared(cleared) => cleared.get(key).is_some(),
            Wants::Keys(keys) => keys.contains(key),
        }
    }
}

impl Claims {
    /// The other environment that has an object. One that `environment` takes over as a whole does not count.
    pub(super) fn other_than(
        &self,
        environment: &EnvironmentName,
        predecessor: Option<&EnvironmentName>,
        key: &ObjectKey,
    ) -> Option<EnvironmentName> {
        self.lock().other_than(environment, predecessor, key)
    }

    /// Takes objects for an environment, all of them or none.
    pub(super) fn take(
        &self,
        environment: &EnvironmentName,
        predecessor: Option<&EnvironmentName>,
        keys: &[&ObjectKey],
    ) -> Result<(), Problem> {
        let mut state = self.lock();
        for key in keys {
            if let Some(owner) = state.other_than(environment, predecessor, key) {
                return Err(belongs_to(key, &owner));
            }
        }
        keys.iter().for_each(|key| state.give(environment, key));
        Ok(())
    }

    /// Sets what an environment has. What was handed to it stays with it for as long as it wants it.
    pub fn set(&self, environment: &EnvironmentName, inventory: &Inventory) {
        let mut state = self.lock();
        state.let_go(environment, inventory);
        for (key, _) in inventory.iter() {
            if !state.owners.contains_key(key) {
                state.give(environment, key);
            }
        }
    }

    /// An environment looked at git, at one revision after another where it cannot move to the first. Gives those that
    /// waited for somebody to look.
    pub(super) fn looked(
        &self,
        environment: &EnvironmentName,
        apply_set: String,
        candidate: &Candidate,
        wants: Wants,
        is_first: bool,
        inventory: Option<&Inventory>,
    ) -> BTreeSet<EnvironmentName> {
        let mut state = self.lock();
        let known = state.looks.get(environment).filter(|look| look.is_of(candidate, &wants));
        if is_first && known.is_some() && state.waiting.is_empty() {
            return BTreeSet::new();
        }
        match state.looks.get_mut(environment).filter(|_| !is_first) {
            Some(look) => look.wants.push(wants),
            None => {
                let look = Look { apply_set, candidate: Some(candidate.clone()), wants: vec![wants] };
                state.looks.insert(environment.clone(), look);
            }
        }
        if let Some(inventory) = inventory {
            state.let_go(environment, inventory);
        }
        state.waiting.remove(environment);
        std::mem::take(&mut state.waiting)
    }

    /// Whether an environment has looked at git since the agent started; at `expected` where that is known.
    pub(super) fn has_looked(&self, environment: &EnvironmentName, expected: Option<&Candidate>) -> bool {
        let state = self.lock();
        let look = state.looks.get(environment);
        look.is_some_and(|look| expected.is_none_or(|expected| look.candidate.as_ref() == Some(expected)))
    }

    /// Wakes `environment` when the next other one has looked.
    pub(super) fn wait(&self, environment: &EnvironmentName) {
        self.lock().waiting.insert(environment.clone());
    }

    /// An environment is on its way out: it wants nothing any longer.
    pub(super) fn leaves(&self, environment: &EnvironmentName, apply_set: String) {
        let look = Look { apply_set, candidate: None, wants: Vec::new() };
        self.lock().looks.insert(environment.clone(), look);
    }

    /// Another environment that has an object in git: the first by name. One that `environment` takes over as a whole
    /// does not count.
    pub(super) fn wanted_by(
        &self,
        environment: &EnvironmentName,
        predecessor: Option<&EnvironmentName>,
        key: &ObjectKey,
    ) -> Option<EnvironmentName> {
        let state = self.lock();
        let mut others = state.looks.iter().filter(|(name, _)| *name != environment && Some(*name) != predecessor);
        others.find(|(_, look)| look.wants(key)).map(|(name, _)| name.clone())
    }

    /// Gives an object that `environment` no longer has in git to one that has. Whether that is news.
    pub(super) fn hand_over(&self, environment: &EnvironmentName, to: &EnvironmentName, key: &ObjectKey) -> bool {
        let mut state = self.lock();
        let is_ours = state.owners.get(key).is_none_or(|owner| owner == environment);
        if is_ours {
            state.give(to, key);
        }
        is_ours
    }

    /// Whether `environment` may put its label on an object of `from`, which says to be part of `apply_set`: it was
    /// handed over, and `from` has looked at git and has it no longer.
    pub(super) fn may_inherit(
        &self,
        environment: &EnvironmentName,
        from: &EnvironmentName,
        apply_set: Option<&str>,
        key: &ObjectKey,
    ) -> bool {
        let state = self.lock();
        let has_dropped = |look: &Look| !look.wants(key) && Some(look.apply_set.as_str()) == apply_set;
        state.owners.get(key) == Some(environment) && state.looks.get(from).is_some_and(has_dropped)
    }

    /// The environments that have looked, which are those of this agent.
    pub(super) fn others(&self, environment: &EnvironmentName) -> Vec<EnvironmentName> {
        self.lock().looks.keys().filter(|name| *name != environment).cloned().collect()
    }

    /// Forgets an environment that is no longer there, or no longer acts.
    pub fn forget(&self, environment: &EnvironmentName) {
        let mut state = self.lock();
        for key in state.owned.remove(environment).unwrap_or_default() {
            if state.owners.get(&key) == Some(environment) {
                state.owners.remove(&key);
            }
        }
        state.looks.remove(environment);
        state.waiting.remove(environment);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

impl State {
    fn other_than(
        &self,
        environment: &EnvironmentName,
        predecessor: Option<&EnvironmentName>,
        key: &ObjectKey,
    ) -> Option<EnvironmentName> {
        self.owners.get(key).filter(|owner| *owner != environment && Some(*owner) != predecessor).cloned()
    }

    fn give(&mut self, environment: &EnvironmentName, key: &ObjectKey) {
        if self.owners.insert(key.clone(), environment.clone()).as_ref() != Some(environment) {
            self.owned.entry(environment.clone()).or_default().push(key.clone());
        }
    }

    /// Takes back the claims of an environment on what it neither has nor wants.
    fn let_go(&mut self, environment: &EnvironmentName, inventory: &Inventory) {
        let look = self.looks.get(environment);
        let Some(owned) = self.owned.get_mut(environment) else { return };
        let owners = &mut self.owners;
        owned.retain(|key| {
            let is_owner = owners.get(key) == Some(environment);
            let stays = is_owner && (inventory.get(key).is_some() || look.is_some_and(|look| look.wants(key)));
            if is_owner && !stays {
                owners.remove(key);
            }
            stays
        });
    }
}

fn belongs_to(key: &ObjectKey, owner: &EnvironmentName) -> Problem {
    Problem::setup(format!("{key} belongs to environment {owner} already"))
        .hint("two environments cannot have one object: rename it, or put it in another namespace")
}

#[cfg(test)]
mod tests {
    use towpath_core::inventory::Member;

    use super::*;
    use towpath_core::manifest::Identity;

    fn name(text: &str) -> EnvironmentName {
        text.parse().unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::from(Identity {
            group: String::new(),
            kind: "ConfigMap".into(),
            namespace: Some("a".into()),
            name: name.into(),
        })
    }

    fn inventory(names: &[&str]) -> Inventory {
        let mut inventory = Inventory::default();
        for name in names {
            inventory.insert(key(name), Member { api_version: "v1".into(), uid: Some("u".into()) });
        }
        inventory
    }

    fn look(claims: &Claims, environment: &str, wants: &[&str]) -> BTreeSet<EnvironmentName> {
        let candidate = Candidate { branch: "master".into(), commit: "ab".repeat(20).parse().unwrap() };
        let wants = Wants::Keys(wants.iter().map(|name| key(name)).collect());
        claims.looked(&name(environment), format!("set-of-{environment}"), &candidate, wants, true, None)
    }

    #[test]
    fn an_object_goes_from_one_to_the_other_and_is_never_of_both() {
        let claims = Claims::default();
        let (one, two, moves) = (name("one"), name("two"), key("moves"));
        claims.set(&one, &inventory(&["moves", "stays"]));
        look(&claims, "two", &["moves"]);
        assert_eq!(claims.other_than(&two, None, &moves), Some(one.clone()));
        assert!(!claims.may_inherit(&two, &one, Some("set-of-one"), &moves), "nobody gave it");

        look(&claims, "one", &["stays"]);
        assert_eq!(claims.wanted_by(&one, None, &moves), Some(two.clone()));
        assert!(claims.hand_over(&one, &two, &moves));
        assert!(!claims.hand_over(&one, &two, &moves), "once");
        assert!(claims.may_inherit(&two, &one, Some("set-of-one"), &moves));
        assert!(!claims.may_inherit(&two, &one, Some("forged"), &moves));
        claims.set(&one, &inventory(&["moves", "stays"]));
        assert_eq!(claims.other_than(&one, None, &moves), Some(two), "it stays given while it is still listed");
    }

    #[test]
    fn who_no_longer_wants_what_was_given_lets_go_of_it() {
        let claims = Claims::default();
        let (one, two, moves) = (name("one"), name("two"), key("moves"));
        claims.set(&one, &inventory(&["moves"]));
        look(&claims, "two", &["moves"]);
        claims.hand_over(&one, &two, &moves);
        look(&claims, "two", &[]);
        claims.set(&two, &inventory(&[]));
        claims.set(&one, &inventory(&["moves"]));
        assert_eq!(claims.other_than(&two, None, &moves), Some(one));
    }

    #[test]
    fn a_revision_that_cannot_be_moved_to_yet_is_wanted_beside_the_one_that_runs() {
        let claims = Claims::default();
        look(&claims, "two", &["moves"]);
        let candidate = Candidate { branch: "master".into(), commit: "cd".repeat(20).parse().unwrap() };
        let runs = Wants::Keys([key("stays")].into());
        claims.looked(&name("two"), "set-of-two".into(), &candidate, runs, false, None);
        for wanted in ["moves", "stays"] {
            assert_eq!(claims.wanted_by(&name("one"), None, &key(wanted)), Some(name("two")), "{wanted}");
        }
        look(&claims, "two", &["stays"]);
        assert_eq!(claims.wanted_by(&name("one"), None, &key("moves")), None);
    }

    #[test]
    fn who_waits_is_woken_by_the_next_look_of_another() {
        let claims = Claims::default();
        claims.wait(&name("one"));
        assert!(!claims.has_looked(&name("two"), None));
        assert_eq!(look(&claims, "two", &[]), [name("one")].into());
        assert!(claims.has_looked(&name("two"), None));
        assert_eq!(look(&claims, "two", &[]), BTreeSet::new());
    }

    #[test]
    fn a_predecessor_stands_in_nobodys_way() {
        let claims = Claims::default();
        let (old, new, key) = (name("old"), name("new"), key("a"));
        claims.set(&old, &inventory(&["a"]));
        assert!(claims.take(&new, None, &[&key]).is_err());
        assert!(claims.take(&new, Some(&old), &[&key]).is_ok());
        assert_eq!(claims.other_than(&old, None, &key), Some(new));
    }
}
