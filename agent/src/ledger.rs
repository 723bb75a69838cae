//! The flow of a repository's ledgers: what syncs came to becomes signed commits, these are pushed, and those of others
//! are read and verified.
//!
//! Everything here works on a mirror and blocks. [`Books`] holds no truth: what was not written yet is in the statuses
//! of the environments, and what was written is in git.
//!
//! # Guarantees
//! * A record follows the newest one that is known; it is pushed by compare-and-swap, and never forced.
//! * A ledger of which something cannot be verified is not used, and nothing is added to it.
//! * The number of a sync says whether it was recorded: it is recorded once, whoever asks again.

mod look;
mod push;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use towpath_core::fault::Problem;
use towpath_core::ledger::{self, Fact, LedgerName, Record};
use towpath_core::names::EnvironmentName;
use towpath_core::revision::CommitId;
use towpath_core::signature::{PublicKey, SigningKey};
use towpath_core::status::{Recorded, SyncHealth, SyncRecord};

use crate::repo::Mirror;

pub use push::Pushed;
pub use read::{MAX_READ, Reader, Verified};
pub use write::Pending;

/// The last record of a ledger, and what it goes on from.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its commit.
    pub commit: CommitId,
    /// The record.
    pub record: Arc<Record>,
    /// The year of the ref that it stands on.
    pub year: i16,
    /// The last record of a sync: the same, or one before it.
    pub sync: Arc<Record>,
    /// The last record of how the environment came to be.
    pub health: Option<Arc<Record>>,
}

impl Head {
    /// The head after another record.
    fn after(before: Option<&Head>, commit: CommitId, record: Arc<Record>, year: i16) -> Head {
        let is_sync = record.sync().is_some();
        let earlier = |of: fn(&Head) -> Option<Arc<Record>>| before.and_then(of);
        Head {
            commit,
            year,
            sync: if is_sync {
                record.clone()
            } else {
                earlier(|head| Some(head.sync.clone())).unwrap_or(record.clone())
            },
            health: if is_sync { earlier(|head| head.health.clone()) } else { Some(record.clone()) },
            record,
        }
    }

    /// What is recorded of the last sync.
    pub fn recorded(&self) -> Recorded {
        let started_at = self.sync.sync().map(|fact| fact.sync.started_at);
        Recorded { sync: self.record.sync.max(self.sync.sync), started_at }
    }

    /// How the environment came to be after a sync, and since when, where that is recorded. A sync that was refused as a
    /// whole may have come after it.
    fn health_after(&self, sync: u64) -> Option<(bool, Timestamp)> {
        let record = self.health.as_ref()?;
        match &record.fact {
            Fact::Health(health) if health.of == sync => Some((health.is_healthy, record.at)),
            _ => None,
        }
    }

    /// Whether it is recorded how the environment came to be after a sync. What was healthy, degraded and became healthy
    /// again is news.
    fn knows_health(&self, sync: u64, health: &SyncHealth) -> bool {
        self.health_after(sync).is_some_and(|(is_healthy, at)| is_healthy == health.is_healthy && at >= health.since)
    }
}

/// A record that the server had, as a status remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub sequence: u64,
    /// Its commit.
    pub commit: CommitId,
    /// When this agent first saw it, if it is another's.
    pub seen: Option<Timestamp>,
}

impl Mark {
    /// As a status remembers it: `sequence commit place`, and the time.
    pub fn to_text(self, place: &str) -> String {
        let seen = self.seen.map(|seen| format!(" {seen}")).unwrap_or_default();
        format!("{} {} {place}{seen}", self.sequence, self.commit)
    }

    /// Reads what a status remembers; `None` where that is of another place, or nothing.
    pub fn parse(text: &str, place: &str) -> Option<Mark> {
        let mut parts = text.split(' ');
        let (sequence, commit) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let is_here = parts.next() == Some(place);
        let seen = parts.next().and_then(|seen| seen.parse().ok());
        (is_here && parts.next().is_none()).then_some(Mark { sequence, commit, seen })
    }
}

/// What is known of one ledger.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// Its last record; none where it has none. The agent's own may be ahead of the server.
    pub head: Option<Head>,
    /// The last record that the server was seen to have, now or in an earlier life: it must go on from there.
    pub mark: Option<Mark>,
    /// Why it is not used.
    pub trouble: Option<Problem>,
}

/// Whose signature counts.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The name of the agent's own cluster.
    pub cluster: String,
    /// The agent's own key.
    pub own: Arc<SigningKey>,
    /// The keys of other clusters, and earlier ones of its own.
    pub peers: Vec<(String, PublicKey)>,
}

impl Keys {
    /// The keys that may sign the ledgers of a cluster.
    fn of(&self, cluster: &str) -> BTreeSet<PublicKey> {
        let peers = self.peers.iter().filter(|(name, _)| name == cluster).map(|(_, key)| *key);
        peers.chain((cluster == self.cluster).then(|| self.own.public())).collect()
    }

    /// Whether anything is to be read of a cluster.
    fn knows(&self, cluster: &str) -> bool {
        cluster == self.cluster || self.peers.iter().any(|(name, _)| name == cluster)
    }

    /// The key that hides values of Secrets in one ledger: the same for as long as the signing key is, and nobody else's.
    /// Each ledger has its own, or whoever may write Secrets of one environment could try values of another.
    fn hiding(&self, ledger: &LedgerName) -> [u8; 32] {
        const NAMESPACE: &str = "towpath.dev/hidden-values";
        // Ed25519 is deterministic (RFC 8032), so this is a secret that only the holder of the key can make again.
        Sha256::digest(self.own.sign(NAMESPACE, ledger.to_string().as_bytes())).into()
    }
}

/// All ledgers of one repository.
pub struct Books {
    mirror: Arc<Mirror>,
    /// Where they stand: [`ledger::REFS`] or [`ledger::BRANCHES`].
    below: &'static str,
    keys: Keys,
    ledgers: BTreeMap<LedgerName, Ledger>,
    /// Where the server had each ref when it was last asked or moved.
    listed: BTreeMap<String, CommitId>,
    /// Records that need not be verified again.
    verified: Arc<Verified>,
    /// What was said already, so that it is an alarm once.
    alarmed: BTreeSet<String>,
}

impl Books {
    /// Nothing is read yet.
    pub fn new(mirror: Arc<Mirror>, as_branches: bool, keys: Keys) -> Books {
        let below = if as_branches { ledger::BRANCHES } else { ledger::REFS };
        let (ledgers, listed, alarmed) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Books { mirror, below, keys, ledgers, listed, verified: Arc::default(), alarmed }
    }

    /// What a status remembers of others' ledgers: lines of `cluster/environment`, and the mark.
    pub fn remember_all(&mut self, lines: &[String]) {
        let place = self.place();
        for line in lines {
            if let Some((name, mark)) =
                remembered(line).and_then(|(name, rest)| Some((name, Mark::parse(rest, &place)?)))
                && self.keys.knows(&name.cluster)
            {
                self.ledgers.entry(name).or_default().mark = Some(mark);
            }
        }
    }

    /// Every ledger that is known.
    pub fn ledgers(&self) -> &BTreeMap<LedgerName, Ledger> {
        &self.ledgers
    }

    /// Stands for the place of the ledgers: what is remembered of another place says nothing here.
    pub fn place(&self) -> String {
        place_of(&self.mirror.remote().to_string(), self.below)
    }

    /// The ledger of an environment of this agent.
    pub fn own(&self, environment: &EnvironmentName) -> LedgerName {
        LedgerName { cluster: self.keys.cluster.clone(), environment: environment.clone() }
    }

    /// Whether the server lacks records of a ledger of this agent.
    pub fn is_behind(&self, name: &LedgerName) -> bool {
        let Some(ledger) = self.ledgers.get(name).filter(|ledger| ledger.trouble.is_none()) else { return false };
        name.cluster == self.keys.cluster
            && ledger
                .head
                .as_ref()
                .is_some_and(|head| self.listed.get(&name.reference(self.below, head.year)) != Some(&head.commit))
    }

    /// How many ledgers have records that the server lacks.
    pub fn waiting(&self) -> usize {
        self.ledgers.keys().filter(|name| self.is_behind(name)).count()
    }

    /// For reading, beside the work.
    pub fn reader(&self) -> Reader {
        Reader::new(self.mirror.clone(), self.keys.clone(), &self.ledgers, self.verified.clone())
    }

    /// Says what is wrong with a ledger, once.
    fn alarm(&mut self, alarms: &mut Vec<String>, text: String) {
        if self.alarmed.insert(text.clone()) {
            alarms.push(text);
        }
    }

    /// A ledger that is not used from now on.
    fn distrust(&mut self, name: &LedgerName, problem: Problem, alarms: &mut Vec<String>) {
        self.alarm(alarms, format!("{}: it is not used", problem.message));
        self.ledgers.entry(name.clone()).or_default().trouble = Some(problem);
    }
}

/// A line of a status that remembers another's ledger, and the rest of it.
pub fn remembered(line: &str) -> Option<(LedgerName, &str)> {
    let (name, rest) = line.split_once(' ')?;
    let (cluster, environment) = name.split_once('/')?;
    Some((LedgerName { cluster: cluster.to_owned(), environment: environment.parse().ok()? }, rest))
}

/// The place that a mark is of, as [`Mark::to_text`] gives it.
pub fn mark_place(text: Option<&String>) -> Option<&str> {
    text?.split(' ').nth(2)
}

/// Stands for a place of ledgers.
fn place_of(remote: &str, below: &str) -> String {
    hex::encode(&Sha256::digest(format!("{remote} {below}"))[..4])
}

impl Ledger {
    /// Whether everything that an environment told is recorded.
    pub fn has_all(&self, history: &[SyncRecord]) -> bool {
        let Some(head) = &self.head else { return history.is_empty() };
        let is_recorded = |sync: &SyncRecord| {
            let knows = sync.health.as_ref().is_none_or(|health| head.knows_health(sync.number, health));
            sync.number <= head.record.sync && knows
        };
        history.last().is_none_or(|last| last.number <= head.record.sync)
            && history.iter().rev().find(|sync| sync.health.is_some()).is_none_or(is_recorded)
    }
}
