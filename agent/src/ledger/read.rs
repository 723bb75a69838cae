//! Reading ledgers: the heads at the server, the records behind them, and whether both can be trusted.
//!
//! A record is verified by its signature and by the rules of the chain. The record at the head holds the ids of all
//! before it, so it is enough to verify as far back as is read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use towpath_core::fault::{Fault, Problem};
use towpath_core::ledger::chain::{self, Link};
use towpath_core::ledger::passed::{self, Ran};
use towpath_core::ledger::{Entry, LedgerName, Record};
use towpath_core::names::EnvironmentName;
use towpath_core::revision::CommitId;
use towpath_core::signature;
use towpath_core::status::Outcome;
use towpath_core::tree::Tree;

use super::write::year_of;
use super::{Books, Head, Keys, Ledger, Mark};
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
/// Refs of one ledger that are tried, from the newest year.
const MAX_YEARS: usize = 3;

/// Where a ledger stands at the server, by one of its refs.
#[derive(Clone, Debug)]
struct At {
    year: i16,
    reference: String,
    commit: CommitId,
}

/// A ledger, and a ref of it as it is fetched.
type Ref<'a> = (&'a LedgerName, (String, CommitId));

/// Ledgers that cannot be read, and clusters whose ledgers did not come.
type Brought = (BTreeMap<LedgerName, Problem>, BTreeMap<String, Problem>);

/// Records whose signatures were found good, so that a page that is looked at again costs nothing.
#[derive(Default)]
pub struct Verified(Mutex<HashMap<CommitId, Stored>>);

/// A verified record with its parents.
#[derive(Clone)]
struct Stored {
    record: Arc<Record>,
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

impl Books {
    /// Asks the server where the ledgers stand, and reads what is new. Gives the alarms.
    ///
    /// # Errors
    /// When the server cannot be asked, or sends nothing of what it has. What was known before stays.
    pub fn refresh(&mut self) -> Result<Vec<String>, Problem> {
        let mut alarms = Vec::new();
        let listed = self.mirror.refs(self.below)?;
        // By year, the newest first.
        let mut stand: BTreeMap<LedgerName, Vec<At>> = BTreeMap::new();
        for (reference, commit) in &listed {
            let Some((name, year)) = LedgerName::of_reference(reference) else { continue };
            if self.keys.knows(&name.cluster) {
                let at = At { year, reference: reference.clone(), commit: *commit };
                stand.entry(name).or_default().push(at);
            }
        }
        stand.values_mut().for_each(|years| years.sort_by_key(|at| std::cmp::Reverse(at.year)));
        self.forget_what_is_not_there();
        let is_known = |name: &LedgerName, commit: CommitId| {
            let ledger = self.ledgers.get(name).filter(|ledger| ledger.trouble.is_none() && ledger.head.is_some());
            ledger.and_then(|ledger| ledger.mark).is_some_and(|mark| mark.commit == commit)
        };
        let unknown = stand.iter().filter(|(name, years)| !is_known(name, years[0].commit));
        let mut open: Vec<(LedgerName, At)> = unknown.map(|(name, years)| (name.clone(), years[0].clone())).collect();
        let mut refused: BTreeMap<LedgerName, Problem> = BTreeMap::new();
        let reader = self.reader();
        for rank in 0..MAX_YEARS {
            let (unreadable, late) = self.bring(&open)?;
            for problem in late.values() {
                self.alarm(&mut alarms, problem.message.clone());
            }
            let mut next = Vec::new();
            for (name, at) in open {
                if late.contains_key(&name.cluster) {
                    continue;
                }
                let result = match unreadable.get(&name) {
                    Some(problem) => Err(problem.clone()),
                    None => self.adopt(&reader, &name, &at, &mut alarms),
                };
                match result {
                    Ok(()) => {
                        if let Some(problem) = refused.remove(&name) {
                            let instead = format!("{}: {} is used instead", problem.message, at.reference);
                            self.alarm(&mut alarms, instead);
                        }
                    }
                    Err(problem) if problem.fault == Fault::Passing => return Err(problem),
                    Err(problem) => {
                        let has_mark = self.ledgers.get(&name).is_some_and(|ledger| ledger.mark.is_some());
                        // Somebody may have made a ref of another year: what was known goes on where it stood.
                        let earlier = stand[&name].get(rank + 1).filter(|_| has_mark);
                        next.extend(earlier.map(|at| (name.clone(), at.clone())));
                        refused.entry(name).or_insert(problem);
                    }
                }
            }
            open = next;
            if open.is_empty() {
                break;
            }
        }
        self.listed = listed;
        for (name, problem) in refused {
            self.distrust(&name, problem, &mut alarms);
        }
        let gone: Vec<LedgerName> = self.ledgers.keys().filter(|name| !stand.contains_key(name)).cloned().collect();
        for name in gone {
            self.is_gone(&name, &mut alarms);
        }
        Ok(alarms)
    }

    /// A mirror that was damaged and fetched anew has lost what nobody else keeps there. What an agent of an earlier life
    /// wrote into it is there.
    fn forget_what_is_not_there(&mut self) {
        for ledger in self.ledgers.values_mut() {
            ledger.head.take_if(|head| !self.mirror.contains(head.commit));
        }
        let reader = self.reader();
        for (name, ledger) in &mut self.ledgers {
            let (true, None, Some(mark)) = (name.cluster == self.keys.cluster, &ledger.head, ledger.mark) else {
                continue;
            };
            if self.mirror.contains(mark.commit) {
                ledger.head = reader.head_at(name, mark.commit, None).ok();
            }
        }
    }

    /// Fetches commits of ledgers. What is wrong with one must not keep the others away: gives what is, and the clusters
    /// whose ledgers did not come this time.
    fn bring(&self, wanted: &[(LedgerName, At)]) -> Result<Brought, Problem> {
        let (mut unreadable, mut late) = (BTreeMap::new(), BTreeMap::new());
        let mut by_cluster: BTreeMap<&str, Vec<Ref<'_>>> = BTreeMap::new();
        for (name, at) in wanted {
            by_cluster.entry(&name.cluster).or_default().push((name, (at.reference.clone(), at.commit)));
        }
        let clusters = by_cluster.len();
        for (cluster, group) in by_cluster {
            let refs: Vec<(String, CommitId)> = group.iter().map(|(_, at)| at.clone()).collect();
            // Where the mirror keeps a ref says nothing: what counts is the last record that was verified.
            let alone = match self.mirror.fetch_refs(&refs) {
                Ok(_) => continue,
                Err(problem) if problem.fault == Fault::Passing => Err(problem),
                Err(problem) if refs.len() == 1 => {
                    unreadable.insert(group[0].0.clone(), of_ledger(group[0].0, problem));
                    continue;
                }
                Err(_) => {
                    group.iter().try_for_each(|(name, at)| match self.mirror.fetch_refs(std::slice::from_ref(at)) {
                        Err(problem) if problem.fault != Fault::Passing => {
                            unreadable.insert((*name).clone(), of_ledger(name, problem));
                            Ok(())
                        }
                        result => result.map(drop),
                    })
                }
            };
            if let Err(problem) = alone {
                let message = format!("the ledgers of cluster {cluster} did not come: {}", problem.message);
                late.insert(cluster.to_owned(), Problem { message, ..problem });
            }
        }
        match late.pop_first() {
            Some((_, problem)) if late.len() + 1 == clusters => Err(problem),
            Some((cluster, problem)) => {
                late.insert(cluster, problem);
                Ok((unreadable, late))
            }
            None => Ok((unreadable, late)),
        }
    }

    /// Takes a commit that the server has for the last record of a ledger, if it goes on from what was verified before.
    fn adopt(&mut self, reader: &Reader, name: &LedgerName, at: &At, alarms: &mut Vec<String>) -> Result<(), Problem> {
        let commit = at.commit;
        let known = self.ledgers.get(name).cloned().unwrap_or_default();
        let is_own = name.cluster == self.keys.cluster;
        let is_in_ours = match &known.head {
            Some(head) => is_own && self.mirror.is_ancestor(commit, head.commit)?,
            None => false,
        };
        let goes_on = match known.mark {
            // What is remembered may not be here: then it is not behind the commit either.
            Some(mark) => self.mirror.is_ancestor(mark.commit, commit).unwrap_or(false),
            None => true,
        };
        if !goes_on && !is_in_ours {
            let mark = known.mark.expect("without one everything goes on");
            return Err(went_back(name, commit, mark).hint(format!(
                "put it back with git push --force <repository> {}:{}; if that ref was never there before, delete it",
                mark.commit, at.reference
            )));
        }
        if is_in_ours {
            if !goes_on {
                self.alarm(alarms, format!("ledger {name} went back to {commit} at the server: it is pushed again"));
            }
            let ledger = self.ledgers.entry(name.clone()).or_default();
            if goes_on && let Ok(stored) = reader.one(name, commit) {
                ledger.mark = Some(Mark { sequence: stored.record.sequence, commit, seen: None });
            }
            ledger.trouble = None;
            return Ok(());
        }
        // Where our own records are beside it, another replica wrote that had the lease before us: what is ours alone is
        // written anew after it.
        let head = reader.read_head(name, at, known.mark)?;
        let mark = Some(Mark { sequence: head.record.sequence, commit, seen: None });
        self.ledgers.insert(name.clone(), Ledger { head: Some(head), mark, trouble: None });
        Ok(())
    }

    /// A ledger that the server does not have, or no longer.
    fn is_gone(&mut self, name: &LedgerName, alarms: &mut Vec<String>) {
        let ledger = &self.ledgers[name];
        let Some(mark) = ledger.mark else { return };
        if !self.keys.knows(&name.cluster) {
            self.ledgers.remove(name);
        } else if name.cluster == self.keys.cluster && ledger.head.is_some() {
            self.alarm(alarms, format!("ledger {name} is gone at the server: it is pushed again"));
        } else {
            self.distrust(name, gone(name, mark), alarms);
        }
    }

    /// Holds what a status remembers of a ledger against what was read.
    pub fn remember(&mut self, name: &LedgerName, mark: Mark, alarms: &mut Vec<String>) {
        if !self.keys.knows(&name.cluster) {
            return;
        }
        let ledger = self.ledgers.entry(name.clone()).or_default();
        let head = ledger.head.as_ref().map(|head| (head.commit, head.record.sequence));
        if ledger.trouble.is_some() || ledger.mark.is_some_and(|known| known.commit == mark.commit) {
            return;
        }
        let goes_on = head.is_some_and(|(commit, sequence)| {
            sequence >= mark.sequence && self.mirror.is_ancestor(mark.commit, commit).unwrap_or(false)
        });
        if goes_on {
            return;
        }
        ledger.mark = Some(mark);
        let problem = match head {
            Some((commit, _)) => went_back(name, commit, mark).hint("put it back from a clone that has this commit"),
            None => gone(name, mark),
        };
        // It is read again, and used, once it goes on from there.
        self.distrust(name, problem, alarms);
    }

    /// The ledger of an environment of this agent, for [`Books::remember`].
    pub fn own(&self, environment: &EnvironmentName) -> LedgerName {
        self.name_of(environment)
    }
}

fn went_back(name: &LedgerName, commit: CommitId, mark: Mark) -> Problem {
    let Mark { sequence, commit: before, .. } = mark;
    Problem::setup(format!("ledger {name} was rewritten: {commit} does not come after record {sequence}, {before}"))
}

fn gone(name: &LedgerName, mark: Mark) -> Problem {
    let Mark { sequence, commit, .. } = mark;
    Problem::setup(format!("ledger {name} is gone at the server; its last record was {sequence}, {commit}"))
        .hint("put it back from a clone that has this commit")
}

fn of_ledger(name: &LedgerName, problem: Problem) -> Problem {
    Problem { message: format!("ledger {name}: {}", problem.message), ..problem }
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
    fn read_head(&self, name: &LedgerName, at: &At, mark: Option<Mark>) -> Result<Head, Problem> {
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
    fn head_at(&self, name: &LedgerName, commit: CommitId, looked_for: Option<i16>) -> Result<Head, Problem> {
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
    fn one(&self, name: &LedgerName, commit: CommitId) -> Result<Stored, Problem> {
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

impl Ledgers for Reader {
    fn cluster(&self) -> &str {
        Reader::cluster(self)
    }

    fn heads(&self) -> Vec<(LedgerName, Result<Last, Problem>)> {
        let records = |head: &Head| [head.record.clone(), head.sync.clone()];
        let record = |head: &Result<Head, Problem>| head.as_ref().map(records).map_err(Clone::clone);
        self.heads.iter().map(|(name, head)| (name.clone(), record(head))).collect()
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
        self.mirror.tree(commit).map_err(|problems| problems.into_vec().remove(0))
    }
}
