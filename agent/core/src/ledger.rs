//! The ledger: one signed commit for each fact about an environment, each with the one before it as its parent.
//!
//! A [`Record`] is what such a commit says; [`message`](Record::message) and [`parse`](Record::parse) turn it into the
//! text of a commit and back. What was applied is the commit's tree ([`files`]). [`chain`] holds a ledger against the
//! rules, and [`passed`] and [`figures`] are what is read from it. A ledger is evidence and never desired state.

pub mod chain;
pub mod figures;
pub mod files;
mod message;
pub mod passed;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::fault::Problem;
pub use crate::names::LedgerName;
use crate::names::{self, EnvironmentName};
use crate::revision::{CommitId, TreeId};
use crate::status::SyncRecord;

pub use message::{MAX_COMPONENTS, MAX_MESSAGE_BYTES};

/// Where ledgers stand in a repository.
pub const REFS: &str = "refs/towpath/";
/// Where they stand if branches are wanted.
pub const BRANCHES: &str = "refs/heads/towpath/";

impl LedgerName {
    /// The ref of one year below [`REFS`] or [`BRANCHES`].
    pub fn reference(&self, below: &str, year: i16) -> String {
        format!("{below}{}/{}/{year:04}", self.cluster, self.environment)
    }

    /// The ledger and the year of a ref below [`REFS`] or [`BRANCHES`]; `None` for any other.
    pub fn of_reference(reference: &str) -> Option<(LedgerName, i16)> {
        let rest = reference.strip_prefix(REFS).or_else(|| reference.strip_prefix(BRANCHES))?;
        let mut parts = rest.split('/');
        let (cluster, environment, year) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !names::is_dns_label(cluster) || year.len() != 4 {
            return None;
        }
        let year = year.bytes().all(|byte| byte.is_ascii_digit()).then(|| year.parse().ok())??;
        Some((LedgerName { cluster: cluster.to_owned(), environment: environment.parse().ok()? }, year))
    }
}

/// One record of a ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Whose.
    pub ledger: LedgerName,
    /// Its number in the ledger, from 1: each record has the one after that of its parent.
    pub sequence: u64,
    /// The number of the last sync at that time: `prod@7` is the seventh of prod.
    pub sync: u64,
    /// When it happened, by the clock of the agent that wrote it.
    pub at: Timestamp,
    /// What happened.
    pub fact: Fact,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A sync ended.
    Sync(Box<SyncFact>),
    /// After a sync the environment became healthy, or degraded.
    Health(HealthFact),
}

/// A sync that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncFact {
    /// As the status tells of it. Its hooks and what it took over stand in the log, not in the message.
    pub sync: SyncRecord,
    /// The commit of `sync.revision`.
    pub commit: Option<CommitId>,
    /// The tree of that commit in git: another commit with the same tree is the same content.
    pub tree: Option<TreeId>,
    /// When that commit was made, as its committer says.
    pub committed_at: Option<Timestamp>,
    /// Submodules and the commits that they stood on.
    pub components: Vec<(String, CommitId)>,
    /// Whether the tree of this record holds what was applied. Else it holds what the record before it did: the sync did
    /// not come to its end, or the agent was ended before it could write the record and could not render the same again.
    pub has_manifests: bool,
}

/// How an environment came to be after a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthFact {
    /// The number of that sync. Others that changed nothing may have come after it.
    pub of: u64,
    /// Healthy or degraded.
    pub is_healthy: bool,
    /// Why it is not.
    pub message: Option<String>,
}

impl Record {
    /// `prod@7`.
    pub fn name(&self) -> String {
        let sync = match &self.fact {
            Fact::Sync(_) => self.sync,
            Fact::Health(health) => health.of,
        };
        format!("{}@{sync}", self.ledger.environment)
    }

    /// The sync, for a record of one.
    pub fn sync(&self) -> Option<&SyncFact> {
        match &self.fact {
            Fact::Sync(sync) => Some(sync),
            Fact::Health(_) => None,
        }
    }
}

/// A sync that somebody names: `prod@7`, or `prod` for the last one; `east/prod@7` of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cluster, where it is said.
    pub cluster: Option<String>,
    /// The environment.
    pub environment: EnvironmentName,
    /// The number of the sync; the last one where none is said.
    pub sync: Option<u64>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cluster) = &self.cluster {
            write!(f, "{cluster}/")?;
        }
        write!(f, "{}", self.environment)?;
        self.sync.map_or(Ok(()), |sync| write!(f, "@{sync}"))
    }
}

impl FromStr for Entry {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Entry, Problem> {
        let wrong = || {
            Problem::setup(format!("{text:?} names no sync"))
                .hint("write environment@number such as prod@7, or cluster/environment@number")
        };
        let (cluster, rest) = match text.split_once('/') {
            Some((cluster, rest)) => (Some(cluster.to_owned()), rest),
            None => (None, text),
        };
        let (environment, sync) = match rest.split_once('@') {
            Some((environment, number)) => {
                let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
                (environment, Some(number.parse().ok().filter(|_| is_number).ok_or_else(wrong)?))
            }
            None => (rest, None),
        };
        if cluster.as_ref().is_some_and(|cluster| !names::is_dns_label(cluster)) {
            return Err(wrong());
        }
        Ok(Entry { cluster, environment: environment.parse().map_err(|_| wrong())?, sync })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Outcome, Trigger};

    fn ledger() -> LedgerName {
        LedgerName { cluster: "east".into(), environment: "prod".parse().unwrap() }
    }

    /// A sync of the commit that is made of its number.
    pub(super) fn sync(number: u8) -> Record {
        let commit = CommitId::from_bytes([number; 20]);
        let component = |path: &str, byte: u8| (path.to_owned(), CommitId::from_bytes([byte; 20]));
        Record {
            ledger: ledger(),
            sequence: number.into(),
            sync: number.into(),
            at: "2026-03-01T12:00:00Z".parse().unwrap(),
            fact: Fact::Sync(Box::new(SyncFact {
                sync: SyncRecord {
                    number: number.into(),
                    revision: format!("master@sha1:{commit}"),
                    subject: "Bump web".into(),
                    trigger: Trigger::Commit,
                    requested_by: Some("anna".into()),
                    request: Some("2026-03-01T11:59:00Z".into()),
                    started_at: "2026-03-01T11:59:58.6Z".parse().unwrap(),
                    took_ms: 1400,
                    outcome: Outcome::Applied,
                    created: 3,
                    configured: 1,
                    unchanged: 40,
                    pruned: 0,
                    failed: 0,
                    took_over: Vec::new(),
                    message: None,
                    hooks: Vec::new(),
                    health: None,
                },
                commit: Some(commit),
                tree: Some(TreeId::from_bytes([0x11; 20])),
                committed_at: Some("2026-03-01T11:00:00Z".parse().unwrap()),
                components: vec![component("components/web", 0x22), component("components/api server", 0x33)],
                has_manifests: true,
            })),
        }
    }

    /// The environment of sync 7 degraded.
    pub(super) fn degraded(sequence: u64) -> Record {
        let message = Some("Deployment.apps web/api: crashes".to_owned());
        Record { sequence, fact: Fact::Health(HealthFact { of: 7, is_healthy: false, message }), ..sync(7) }
    }

    #[test]
    fn a_ref_names_its_ledger_and_nothing_else_does() {
        let ledger = ledger();
        for below in [REFS, BRANCHES] {
            let reference = ledger.reference(below, 2026);
            assert_eq!(reference, format!("{below}east/prod/2026"));
            assert_eq!(LedgerName::of_reference(&reference), Some((ledger.clone(), 2026)));
        }
        for other in [
            "refs/heads/master",
            "refs/towpath/east/prod",
            "refs/towpath/east/prod/2026/more",
            "refs/towpath/east/prod/26",
            "refs/towpath/east/prod/+026",
            "refs/towpath/east/../2026",
            "refs/towpath/kept/0123456789abcdef0123456789abcdef01234567",
        ] {
            assert_eq!(LedgerName::of_reference(other), None, "{other}");
        }
    }

    #[test]
    fn a_sync_is_named_by_its_number() {
        let entry: Entry = "prod@7".parse().unwrap();
        assert_eq!((entry.cluster, entry.environment.to_string().as_str(), entry.sync), (None, "prod", Some(7)));
        let entry: Entry = "east/prod".parse().unwrap();
        assert_eq!((entry.cluster.as_deref(), entry.sync), (Some("east"), None));
        for bad in ["", "@7", "prod@", "prod@-1", "prod@+1", "prod@x", "/prod", "a/b/c", "prod@18446744073709551616"] {
            assert!(bad.parse::<Entry>().is_err(), "{bad}");
        }
    }
}
