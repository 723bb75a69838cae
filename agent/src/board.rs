//! The custom resources as they are now: the flows put them up, the web door reads them.
//!
//! It is a copy of what the API server says, a moment old. Nothing is decided from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::watch;
use towpath_core::changelog::{Changelog, End};
use towpath_core::fault::Problem;
use towpath_core::hygiene::Hygiene;
use towpath_core::ledger::{Entry, LedgerName, Record};
use towpath_core::matrix::Snapshot;
use towpath_core::revision::CommitId;
use towpath_core::status::ComponentStatus;
use towpath_core::tree::Tree;

use crate::resources::{Environment, Repository};

/// Namespace and name of a custom resource.
pub type Id = (String, String);

/// All Environments and Repositories.
#[derive(Default)]
pub struct Board {
    /// The Environments.
    pub environments: Shelf<Environment>,
    /// The Repositories.
    pub repositories: Shelf<Repository>,
    /// The ledgers, by the Repository that they belong to.
    ledgers: Mutex<BTreeMap<Id, Arc<dyn Ledgers>>>,
    /// What can be told of the revisions of each Repository.
    releases: Mutex<BTreeMap<Id, Arc<dyn Releases>>>,
}

/// The last record of a ledger and its last one of a sync, which may be the same.
pub type Last = [Arc<Record>; 2];

/// The ledgers of one repository, for reading. Its calls read files and block.
pub trait Ledgers: Send + Sync {
    /// The cluster of the agent itself.
    fn cluster(&self) -> &str;
    /// Every ledger: its last record and its last one of a sync, which may be the same, or why it is not used.
    fn heads(&self) -> Vec<(LedgerName, Result<Last, Problem>)>;
    /// The same of one ledger; none where it is not there.
    fn last(&self, name: &LedgerName) -> Option<Result<Last, Problem>>;
    /// The newest records of a ledger, the newest first, and whether there are older ones.
    ///
    /// # Errors
    /// `Setup` where there is no such ledger, `Content` where it cannot be verified.
    fn history(&self, name: &LedgerName, limit: usize) -> Result<Page, Problem>;
    /// The record of a sync, and its commit.
    ///
    /// # Errors
    /// As [`Ledgers::history`], and where there is no such sync.
    fn sync(&self, entry: &Entry) -> Result<(CommitId, Arc<Record>), Problem>;
    /// What an environment ran at a time.
    ///
    /// # Errors
    /// As [`Ledgers::history`].
    fn at(&self, name: &LedgerName, at: Timestamp) -> Result<Option<(CommitId, Arc<Record>)>, Problem>;
    /// The files of a record.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn files(&self, commit: CommitId) -> Result<Arc<Tree>, Problem>;
}

/// The revisions of one repository and their components, for reading. Its calls read files and block; what was read once
/// is not read again.
pub trait Releases: Send + Sync {
    /// The components of a revision, `branch@sha1:<commit>`. One that is at the commit that an environment runs has the
    /// version that it runs with.
    ///
    /// # Errors
    /// Where the revision is not known or cannot be read.
    fn snapshot(&self, revision: &str, runs: &[ComponentStatus]) -> Result<Arc<Snapshot>, Problem>;
    /// The revision that somebody means by the name of a branch or the first digits of a commit.
    ///
    /// # Errors
    /// `Setup` where it could be several, and where nothing is known of the repository.
    fn find(&self, name: &str) -> Result<Option<String>, Problem>;
    /// What lies between two revisions.
    ///
    /// # Errors
    /// As [`Releases::snapshot`].
    fn changelog(&self, from: End, to: End) -> Result<Changelog, Problem>;
    /// How clean the branches are.
    ///
    /// # Errors
    /// Where nothing is known of the repository.
    fn hygiene(&self) -> Result<Arc<Hygiene>, Problem>;
    /// What was reverted on master or on a release and lives on at a commit, which is called by some name.
    ///
    /// # Errors
    /// Where nothing is known of the repository or of the commit.
    fn alive_at(&self, name: &str, commit: CommitId) -> Result<Hygiene, Problem>;
}

/// Some records of a ledger, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The records with their commits.
    pub records: Vec<(CommitId, Arc<Record>)>,
    /// Whether there are older ones.
    pub has_more: bool,
}

impl Board {
    /// All Environments, by namespace and name.
    pub fn environments(&self) -> Vec<Arc<Environment>> {
        self.environments.all()
    }

    /// All Repositories, by namespace and name.
    pub fn repositories(&self) -> Vec<Arc<Repository>> {
        self.repositories.all()
    }

    /// The ledgers of all Repositories.
    pub fn ledgers(&self) -> Vec<(Id, Arc<dyn Ledgers>)> {
        let ledgers = self.ledgers.lock().expect("nothing panics while it holds this lock");
        ledgers.iter().map(|(id, ledgers)| (id.clone(), ledgers.clone())).collect()
    }

    /// Puts up the ledgers of a Repository, or takes them down.
    pub fn put_ledgers(&self, id: &Id, ledgers: Option<Arc<dyn Ledgers>>) {
        let mut all = self.ledgers.lock().expect("nothing panics while it holds this lock");
        match ledgers {
            Some(ledgers) => drop(all.insert(id.clone(), ledgers)),
            None => drop(all.remove(id)),
        }
    }

    /// What can be told of the revisions of all Repositories.
    pub fn releases(&self) -> Vec<(Id, Arc<dyn Releases>)> {
        let releases = self.releases.lock().expect("nothing panics while it holds this lock");
        releases.iter().map(|(id, releases)| (id.clone(), releases.clone())).collect()
    }

    /// The same of one Repository.
    pub fn releases_of(&self, id: &Id) -> Option<Arc<dyn Releases>> {
        self.releases.lock().expect("nothing panics while it holds this lock").get(id).cloned()
    }

    /// Puts up what can be told of a Repository's revisions, or takes it down.
    pub fn put_releases(&self, id: &Id, releases: Option<Arc<dyn Releases>>) {
        let mut all = self.releases.lock().expect("nothing panics while it holds this lock");
        match releases {
            Some(releases) => drop(all.insert(id.clone(), releases)),
            None => drop(all.remove(id)),
        }
    }

    /// Forgets everything: nobody keeps it up to date any more.
    pub fn clear(&self) {
        self.ledgers.lock().expect("nothing panics while it holds this lock").clear();
        self.releases.lock().expect("nothing panics while it holds this lock").clear();
        self.environments.clear();
        self.repositories.clear();
    }

    /// Whether both have been listed once: before that nothing is known.
    pub fn is_ready(&self) -> bool {
        self.environments.is_listed() && self.repositories.is_listed()
    }
}

/// The custom resources of one kind.
pub struct Shelf<K> {
    resources: Mutex<BTreeMap<Id, Arc<K>>>,
    /// Whether they were listed once, and how often anything changed.
    changes: watch::Sender<(bool, u64)>,
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Shelf { resources: Mutex::default(), changes: watch::Sender::new((false, 0)) }
    }
}

impl<K> Shelf<K> {
    /// All of them.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.resources.lock().expect("nothing panics while it holds this lock").values().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, id: &Id) -> Option<Arc<K>> {
        self.resources.lock().expect("nothing panics while it holds this lock").get(id).cloned()
    }

    /// Puts one up, new or changed.
    pub fn put(&self, id: Id, resource: Arc<K>) {
        self.resources.lock().expect("nothing panics while it holds this lock").insert(id, resource);
        self.changes.send_modify(|(_, count)| *count += 1);
    }

    /// Takes one down.
    pub fn remove(&self, id: &Id) {
        self.resources.lock().expect("nothing panics while it holds this lock").remove(id);
        self.changes.send_modify(|(_, count)| *count += 1);
    }

    /// A list came to its end: what it did not name is gone.
    pub fn listed(&self, ids: &[Id]) {
        self.resources.lock().expect("nothing panics while it holds this lock").retain(|id, _| ids.contains(id));
        self.changes.send_modify(|(listed, count)| (*listed, *count) = (true, *count + 1));
    }

    /// Forgets all of them: nothing is known until they are listed again.
    fn clear(&self) {
        self.resources.lock().expect("nothing panics while it holds this lock").clear();
        self.changes.send_modify(|(listed, count)| (*listed, *count) = (false, *count + 1));
    }

    /// Whether they were listed once.
    pub fn is_listed(&self) -> bool {
        self.changes.borrow().0
    }

    /// Wakes whenever something is put up or taken down.
    pub fn changes(&self) -> watch::Receiver<(bool, u64)> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Arc<Repository> {
        Arc::new(Repository::new("shop", serde_saphyr::from_str("{url: https://git.example/x.git}").unwrap()))
    }

    #[test]
    fn what_a_list_does_not_name_is_gone() {
        let board = Board::default();
        let (first, second) = (("a".to_owned(), "x".to_owned()), ("b".to_owned(), "x".to_owned()));
        board.repositories.put(first.clone(), repository());
        board.repositories.put(second.clone(), repository());
        board.repositories.listed(&[second]);
        assert!(board.repositories.get(&first).is_none());
        assert_eq!(board.repositories().len(), 1);
    }

    #[test]
    fn it_is_ready_when_both_kinds_were_listed() {
        let board = Board::default();
        board.environments.listed(&[]);
        assert!(!board.is_ready());
        board.repositories.listed(&[]);
        assert!(board.is_ready());
        board.clear();
        assert!(!board.is_ready(), "what nobody keeps up to date is not known");
    }
}
