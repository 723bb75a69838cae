//! Reading ledgers: the heads at the server, the records behind them, and whether both can be trusted.
//!
//! A record is verified by its signature and by the rules of the chain. The record at the head holds the ids of all
//! before it, so it is enough to verify as far back as is read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use towpath_core::fault::{Problem, Problems};
use towpath_core::ledger::chain::{self, Link};
use towpath_core::ledger::passed::{self, Ran};
use towpath_core::ledger::{Entry, LedgerName, Record};
use towpath_core::revision::CommitId;
use towpath_core::signature;
use towpath_core::status::Outcome;
use towpath_core::tree::Tree;

use super::look::At;
use super::write::year_of;
use super::{Head, Keys, Ledger, Mark};
use crate::board::{Last, Ledgers, Page};
use crate::repo::{Mirror, StoredCommit};

/// Records that one question reads, from the newest.
pub const MAX_READ: usize = 10_000;
/// Records of a ledger that say which revisions passed there.
const MAX_JUDGED: usize = 200;
/// Verified records that are kept in memory, about 1 KiB each.
const MAX_KEPT: usize = 10_000;

/// Records that may stand after the last one of health for its arrival to be known after a restart.
const MAX_AFTER_HEALTH: usize = 20;

/// Records whose signatures were found good, so that a page that is looked at again costs nothing.
#[derive(Default)]
pub struct Verified(Mutex<HashMap<CommitId, Stored>>);

/// A verified record with its parents.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) record: Arc<Record>,
    parents: Arc<[CommitId]>,
}

impl Verified {
    fn get(&self, commit: CommitId) -> Option<Stored> {
        self.0.lock().expect("nothing panics while it holds this lock").get(&commit).cloned()
    }

    fn insert(&self, commit: CommitId, stored: Stored) {
        let mut all = self.0.lock().expect("nothing panics while it holds this lock");
        if all.len() >= MAX_KEPT {
            all.clear();
        }
        all.insert(commit, stored);
    }
}

/// Reads records that are in the mirror.
#[derive(Clone)]
pub struct Reader {
    mirror: Arc<Mirror>,
    keys: Keys,
    heads: Arc<BTreeMap<LedgerName, Result<Head, Problem>>>,
    verified: Arc<Verified>,
}

impl Reader {
    pub(super) fn new(
        mirror: Arc<Mirror>,
        keys: Keys,
        ledgers: &BTreeMap<LedgerName, Ledger>,
        verified: Arc<Verified>,
    ) -> Reader {
        let head = |ledger: &Ledger| match (&ledger.trouble, &ledger.head) {
            (Some(problem), _) => Some(Err(problem.clone())),
            (None, Some(head)) => Some(Ok(head.clone())),
            (None, None) => None,
        };
        let heads = ledgers.iter().filter_map(|(name, ledger)| Some((name.clone(), head(ledger)?))).collect();
        Reader { mirror, keys, heads: Arc::new(heads), verified }
    }

    /// The last record of every ledger, or why it is not used.
    pub fn heads(&self) -> &BTreeMap<LedgerName, Result<Head, Problem>> {
        &self.heads
    }

    /// The agent's own cluster.
    pub fn cluster(&self) -> &str {
        &self.keys.cluster
    }

    /// The head of a ledger.
    ///
    /// # Errors
    /// `Setup` where there is none, or where it is not used.
    pub fn head(&self, name: &LedgerName) -> Result<&Head, Problem> {
        match self.heads.get(name) {
            Some(Ok(head)) => Ok(head),
            Some(Err(problem)) => Err(problem.clone()),
            None if !self.keys.knows(&name.cluster) => {
                let hint = format!("add cluster {} and its key to spec.peers of the Repository", name.cluster);
                Err(Problem::setup(format!("there is no key to read ledger {name} with")).hint(hint))
            }
            None => Err(Problem::setup(format!("there is no ledger {name}"))
                .hint("an environment has one once it was synced and its Repository has spec.ledger")),
        }
    }

    /// Which revisions an environment ran and passed. A record counts from when it arrived here, where that is known: the
    /// clock of its agent may be slow.
    ///
    /// # Errors
    /// As [`Reader::head`].
    pub fn ran(&self, name: &LedgerName, arrived: &BTreeMap<CommitId, Timestamp>) -> Result<Vec<Ran>, Problem> {
        let head = self.head(name)?;
        let records = self.walk(name, head.commit, None, MAX_JUDGED)?;
        let at_arrival = |(commit, record): &(CommitId, Arc<Record>)| {
            let at = arrived.get(commit).map_or(record.at, |arrived| record.at.max(*arrived));
            Record { at, ..(**record).clone() }
        };
        Ok(passed::ran(&records.iter().map(at_arrival).collect::<Vec<_>>()))
    }

    /// The last release of which `is_it` holds, given the number of its sync and its commit: of all that is read, not only
    /// of what says which revisions passed.
    ///
    /// # Errors
    /// As [`Reader::head`].
    pub fn release(&self, name: &LedgerName, is_it: impl Fn(u64, CommitId) -> bool) -> Result<Option<Ran>, Problem> {
        let mut next = Some(self.head(name)?.commit);
        // The sync after the one that is looked at, and what was said between the two.
        let mut since: Vec<Arc<Record>> = Vec::new();
        for _ in 0..MAX_READ {
            let Some(commit) = next else { break };
            let Stored { record, parents } = self.one(name, commit)?;
            next = parents.first().copied();
            let Some(fact) = record.sync() else {
                since.push(record);
                continue;
            };
            let is_found = fact.commit.is_some_and(|commit| is_it(record.sync, commit));
            if is_found && fact.sync.outcome == Outcome::Applied {
                since.push(record);
                return Ok(passed::ran(since.iter().rev().map(|record| &**record)).into_iter().next());
            }
            since = vec![record];
        }
        Ok(None)
    }

    /// The commits of the records of a ledger that came after one of them, or all of the last ones.
    ///
    /// # Errors
    /// As [`Reader::head`].
    pub fn since(&self, name: &LedgerName, earlier: CommitId) -> Result<Vec<CommitId>, Problem> {
        let records = self.walk(name, self.head(name)?.commit, Some(earlier), MAX_JUDGED)?;
        Ok(records.into_iter().map(|(commit, _)| commit).collect())
    }

    /// The last record of a ledger that says how its environment was, at or before a commit, where it is among the last.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn last_health(&self, name: &LedgerName, commit: CommitId) -> Result<Option<CommitId>, Problem> {
        let records = self.walk(name, commit, None, MAX_AFTER_HEALTH)?;
        Ok(records.iter().rev().find(|(_, record)| record.sync().is_none()).map(|(commit, _)| *commit))
    }

    fn find(
        &self,
        name: &LedgerName,
        is_it: impl Fn(&Record) -> bool,
    ) -> Result<Option<(CommitId, Arc<Record>)>, Problem> {
        let head = self.head(name)?;
        let mut commit = head.commit;
        for _ in 0..MAX_READ {
            let stored = self.one(name, commit)?;
            if is_it(&stored.record) {
                return Ok(Some((commit, stored.record)));
            }
            match stored.parents.first() {
                Some(parent) => commit = *parent,
                None => break,
            }
        }
        Ok(None)
    }

    /// Reads the record at a ref as the head of a ledger, and verifies what is new since a mark.
    pub(super) fn read_head(&self, name: &LedgerName, at: &At, mark: Option<Mark>) -> Result<Head, Problem> {
        let limit = if mark.is_some() { MAX_JUDGED } else { 1 };
        self.walk(name, at.commit, mark.map(|mark| mark.commit), limit)?;
        let head = self.head_at(name, at.commit, Some(at.year))?;
        if head.year == at.year {
            return Ok(head);
        }
        let message = format!("ledger {name} stands on {}, where its records are of {}", at.reference, head.year);
        Err(Problem::content(message).hint(format!("delete the ref {}", at.reference)))
    }

    /// The record at a commit as the head of a ledger. Its year is the newest of the last records, for a clock may have
    /// gone back; what is `looked_for` is found further back.
    pub(super) fn head_at(
        &self,
        name: &LedgerName,
        commit: CommitId,
        looked_for: Option<i16>,
    ) -> Result<Head, Problem> {
        let newest = self.one(name, commit)?;
        let (mut sync, mut health) = (None, None);
        let mut year = i16::MIN;
        let mut next = Some(newest.clone());
        for _ in 0..MAX_JUDGED {
            let Some(Stored { record, parents }) = next.take() else { break };
            year = year.max(year_of(record.at));
            if record.sync().is_some() {
                sync = sync.or(Some(record));
            } else {
                health = health.or(Some(record));
            }
            if sync.is_some() && health.is_some() && looked_for.is_none_or(|looked_for| looked_for <= year) {
                break;
            }
            let Some(before) = parents.first() else { break };
            next = Some(self.one(name, *before)?);
        }
        let record = newest.record;
        Ok(Head { commit, year, sync: sync.unwrap_or_else(|| record.clone()), health, record })
    }

    /// One record whose signature is good, by itself.
    pub(super) fn one(&self, name: &LedgerName, commit: CommitId) -> Result<Stored, Problem> {
        let known = self.verified.get(commit);
        let is_new = known.is_none();
        let stored = match known {
            Some(stored) => stored,
            None => {
                let stored = self.mirror.commit(commit)?;
                self.verify(name, commit, &stored)?;
                let bad = |problem: Problem| {
                    let message = format!("record {commit} of ledger {name}: {}", problem.message);
                    Problem { message, ..problem }
                };
                let record = Arc::new(Record::parse(&stored.message).map_err(bad)?);
                Stored { record, parents: stored.parents.into() }
            }
        };
        if stored.record.ledger != *name {
            let other = &stored.record.ledger;
            return Err(Problem::content(format!("record {commit} of ledger {name} is one of ledger {other}")));
        }
        if is_new {
            self.verified.insert(commit, stored.clone());
        }
        Ok(stored)
    }

    /// The records from `stop` (not included) or from as far back as `limit` allows to `head`, the oldest first.
    pub(super) fn walk(
        &self,
        name: &LedgerName,
        head: CommitId,
        stop: Option<CommitId>,
        limit: usize,
    ) -> Result<Vec<(CommitId, Arc<Record>)>, Problem> {
        let mut commits: Vec<(CommitId, Stored)> = Vec::new();
        let mut next = Some(head);
        while let Some(commit) = next.filter(|commit| Some(*commit) != stop && commits.len() < limit) {
            let stored = self.one(name, commit)?;
            next = stored.parents.first().copied();
            commits.push((commit, stored));
        }
        // The record before the oldest that is read says what must follow.
        let mut before = match next {
            Some(before) => Some((before, self.one(name, before)?.record)),
            None => None,
        };
        let mut records: Vec<(CommitId, Arc<Record>)> = Vec::with_capacity(commits.len());
        for (commit, Stored { record, parents }) in commits.into_iter().rev() {
            let last = before.as_ref().map(|(commit, record)| (*commit, &**record));
            chain::follow(name, last, Link { commit, parents: &parents, record: &record })?;
            before = Some((commit, record.clone()));
            records.push((commit, record));
        }
        Ok(records)
    }

    fn verify(&self, name: &LedgerName, commit: CommitId, stored: &StoredCommit) -> Result<(), Problem> {
        let bad = |why: String| Problem::content(format!("record {commit} of ledger {name} {why}"));
        let armoured = stored.signature.as_ref().ok_or_else(|| bad("is not signed".to_owned()))?;
        let claimed =
            signature::signer(armoured).map_err(|problem| bad(format!("is badly signed: {}", problem.message)))?;
        if !self.keys.of(&name.cluster).contains(&claimed) {
            let hint = if name.cluster == self.keys.cluster {
                "is another agent called so too? if the key was replaced, add the earlier one to spec.peers"
            } else {
                "compare with what towpath key prints there, and correct spec.peers"
            };
            let key = claimed.fingerprint();
            let bad = bad(format!("is signed by {key}, which is no key of cluster {}", name.cluster));
            return Err(bad.hint(format!("{hint}; that key is {claimed}")));
        }
        signature::verify(&claimed, signature::GIT, &stored.signed_payload, armoured)
            .map_err(|problem| bad(format!("is badly signed: {}", problem.message)))
    }
}

fn last_of(head: &Result<Head, Problem>) -> Result<Last, Problem> {
    head.as_ref().map(|head| [head.record.clone(), head.sync.clone()]).map_err(Clone::clone)
}

impl Ledgers for Reader {
    fn cluster(&self) -> &str {
        Reader::cluster(self)
    }

    fn heads(&self) -> Vec<(LedgerName, Result<Last, Problem>)> {
        self.heads.iter().map(|(name, head)| (name.clone(), last_of(head))).collect()
    }

    fn last(&self, name: &LedgerName) -> Option<Result<Last, Problem>> {
        self.heads.get(name).map(last_of)
    }

    fn history(&self, name: &LedgerName, limit: usize) -> Result<Page, Problem> {
        let head = self.head(name)?;
        let mut records = self.walk(name, head.commit, None, limit.min(MAX_READ))?;
        let has_more = records.first().is_some_and(|(_, oldest)| oldest.sequence > 1);
        records.reverse();
        Ok(Page { records, has_more })
    }

    fn sync(&self, entry: &Entry) -> Result<(CommitId, Arc<Record>), Problem> {
        let cluster = entry.cluster.clone().unwrap_or_else(|| self.keys.cluster.clone());
        let name = LedgerName { cluster, environment: entry.environment.clone() };
        let is_it = |record: &Record| record.sync().is_some() && entry.sync.is_none_or(|wanted| record.sync == wanted);
        let found = self.find(&name, is_it)?;
        let last = self.head(&name)?.record.sequence;
        if found.is_none() && last > MAX_READ as u64 {
            let message = format!("the last {MAX_READ} records of ledger {name} do not tell of it");
            return Err(Problem::setup(message).hint("read the older ones with git log"));
        }
        found.ok_or_else(|| {
            let what = entry.sync.map_or_else(|| "sync".to_owned(), |sync| format!("sync {sync}"));
            Problem::setup(format!("ledger {name} has no {what}"))
                .hint(format!("towpath history {} lists what there is", name.environment))
        })
    }

    fn at(&self, name: &LedgerName, at: Timestamp) -> Result<Option<(CommitId, Arc<Record>)>, Problem> {
        let is_applied = |record: &Record| record.sync().is_some_and(|fact| fact.sync.outcome == Outcome::Applied);
        self.find(name, |record| record.at <= at && is_applied(record))
    }

    fn files(&self, commit: CommitId) -> Result<Arc<Tree>, Problem> {
        self.mirror.tree(commit).map_err(Problems::into_first)
    }
}
