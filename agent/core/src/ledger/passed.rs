//! Which revisions an environment has run and passed, as others may go by.

use jiff::{SignedDuration, Timestamp};

use super::{Fact, Record};
use crate::revision::CommitId;
use crate::status::Outcome;

/// A revision that an environment ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The commit.
    pub commit: CommitId,
    /// Its tree in git.
    pub tree: Option<CommitId>,
    /// Since when it was healthy there, if that is the last that is known of it.
    pub healthy_since: Option<Timestamp>,
    /// When another sync took its place.
    pub until: Option<Timestamp>,
}

/// How a revision stands with an environment that it must have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It ran there, and was healthy for long enough.
    Passed,
    /// It runs there healthy, and will have passed at this time if it stays so.
    Soaks(Timestamp),
    /// It ran there and did not pass, or has not become healthy yet.
    Waits,
    /// It never ran there.
    Unseen,
}

/// What an environment ran, by its ledger, the oldest first. A revision that ran again stands here again.
pub fn ran<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Ran> {
    let mut all: Vec<Ran> = Vec::new();
    for record in records {
        match &record.fact {
            Fact::Sync(fact) if fact.sync.outcome == Outcome::Applied => {
                if let Some(last) = all.last_mut() {
                    last.until.get_or_insert(record.at);
                }
                if let Some(commit) = fact.commit {
                    all.push(Ran { commit, tree: fact.tree, healthy_since: None, until: None });
                }
            }
            // What was applied only in part is what nobody has tested.
            Fact::Sync(_) => {
                if let Some(last) = all.last_mut() {
                    last.until.get_or_insert(record.at);
                }
            }
            Fact::Health(health) => {
                if let Some(last) = all.last_mut().filter(|last| last.until.is_none()) {
                    last.healthy_since = health.is_healthy.then_some(record.at);
                }
            }
        }
    }
    all
}

/// How a revision stands. The same tree is the same content, whatever the commit says.
pub fn standing(
    ran: &[Ran],
    (commit, tree): (CommitId, Option<CommitId>),
    soak: SignedDuration,
    now: Timestamp,
) -> Standing {
    let is_it = |ran: &&Ran| ran.commit == commit || (tree.is_some() && ran.tree == tree);
    let Some(last) = ran.iter().rev().find(is_it) else { return Standing::Unseen };
    let Some(since) = last.healthy_since else { return Standing::Waits };
    let Ok(done) = since.checked_add(soak) else { return Standing::Waits };
    match last.until {
        Some(until) if until >= done => Standing::Passed,
        Some(_) => Standing::Waits,
        None if now >= done => Standing::Passed,
        None => Standing::Soaks(done),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{degraded, sync};
    use super::super::{HealthFact, SyncFact};
    use super::*;

    const SOAK: SignedDuration = SignedDuration::from_mins(10);

    fn minute(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 60 * minute).unwrap()
    }

    fn synced(number: u8, at: i64) -> Record {
        Record { at: minute(at), ..sync(number) }
    }

    fn failed(number: u8, at: i64) -> Record {
        let mut record = synced(number, at);
        let Fact::Sync(fact) = &mut record.fact else { unreachable!() };
        fact.sync.outcome = Outcome::Failed;
        record
    }

    fn healthy(number: u8, at: i64) -> Record {
        Record { at: minute(at), fact: Fact::Health(HealthFact { is_healthy: true, message: None }), ..sync(number) }
    }

    fn sick(number: u8, at: i64) -> Record {
        Record { at: minute(at), sync: number.into(), ..degraded(1) }
    }

    fn stands(records: &[Record], number: u8, now: i64) -> Standing {
        let tree = match &sync(number).fact {
            Fact::Sync(fact) => SyncFact { tree: None, ..(**fact).clone() }.tree,
            Fact::Health(_) => unreachable!(),
        };
        standing(&ran(records), (CommitId::from_bytes([number; 20]), tree), SOAK, minute(now))
    }

    #[test]
    fn a_revision_passes_when_it_was_healthy_for_long_enough() {
        let records = [synced(1, 0), healthy(1, 5)];
        assert_eq!(stands(&records, 1, 6), Standing::Soaks(minute(15)));
        assert_eq!(stands(&records, 1, 15), Standing::Passed);
        assert_eq!(stands(&records, 2, 15), Standing::Unseen);
        assert_eq!(stands(&records[..1], 1, 90), Standing::Waits);
    }

    #[test]
    fn what_degraded_or_was_replaced_too_early_did_not_pass() {
        assert_eq!(stands(&[synced(1, 0), healthy(1, 5), sick(1, 20)], 1, 90), Standing::Waits);
        assert_eq!(
            stands(&[synced(1, 0), healthy(1, 5), sick(1, 20), healthy(1, 30)], 1, 35),
            Standing::Soaks(minute(40))
        );
        assert_eq!(stands(&[synced(1, 0), healthy(1, 5), synced(2, 14)], 1, 90), Standing::Waits);
        assert_eq!(stands(&[synced(1, 0), healthy(1, 5), synced(2, 15)], 1, 90), Standing::Passed);
        assert_eq!(stands(&[synced(1, 0), healthy(1, 5), failed(2, 8)], 1, 90), Standing::Waits);
        assert_eq!(stands(&[failed(1, 0), healthy(1, 5)], 1, 90), Standing::Unseen);
    }

    #[test]
    fn the_same_tree_is_the_same_content() {
        let other = CommitId::from_bytes([9; 20]);
        let tree = Some(CommitId::from_bytes([0x11; 20]));
        let ran = ran(&[synced(1, 0), healthy(1, 5)]);
        assert_eq!(standing(&ran, (other, tree), SOAK, minute(60)), Standing::Passed);
        assert_eq!(standing(&ran, (other, None), SOAK, minute(60)), Standing::Unseen);
    }
}
