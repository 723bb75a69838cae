//! The rules by which each record follows the one before it.
//!
//! Who signed it is not judged here: what comes in was signed by the ledger's own agent.

use super::{Fact, LedgerName, Record};
use crate::fault::Problem;
use crate::revision::CommitId;

/// A commit of a ledger whose signature was found good.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Its id.
    pub commit: CommitId,
    /// Its parents.
    pub parents: &'a [CommitId],
    /// What it says.
    pub record: &'a Record,
}

/// Checks that a commit is the record after `before`, or the first one.
///
/// # Errors
/// `Content` where it is one of another ledger, or does not follow: another parent, a number that was skipped or is
/// there already.
pub fn follow(ledger: &LedgerName, before: Option<(CommitId, &Record)>, link: Link<'_>) -> Result<(), Problem> {
    let of = |why: String| Problem::content(format!("record {} of ledger {ledger}: {why}", link.commit));
    let record = link.record;
    if record.ledger != *ledger {
        return Err(of(format!("it is one of ledger {}", record.ledger)));
    }
    let parents: Vec<CommitId> = before.iter().map(|(commit, _)| *commit).collect();
    if link.parents != parents {
        return Err(of("its parent is not the record before it".to_owned()));
    }
    let expected = before.map_or(1, |(_, before)| before.sequence + 1);
    if record.sequence != expected {
        return Err(of(format!("its number is {} where {expected} comes next", record.sequence)));
    }
    let last = before.map_or(0, |(_, before)| before.sync);
    let fits = match &record.fact {
        Fact::Sync(_) => record.sync > last,
        Fact::Health(health) => record.sync == last && (1..=last).contains(&health.of),
    };
    if !fits {
        return Err(of(format!("it is about sync {} after sync {last}", record.sync)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::HealthFact;
    use super::super::tests::{degraded, sync};
    use super::*;

    const FIRST: CommitId = CommitId::from_bytes([1; 20]);
    const SECOND: CommitId = CommitId::from_bytes([2; 20]);

    fn check(before: Option<(CommitId, &Record)>, record: &Record, parents: &[CommitId]) -> Result<(), Problem> {
        follow(&sync(1).ledger, before, Link { commit: SECOND, parents, record })
    }

    fn of(record: Record, sync: u64) -> Record {
        let Fact::Health(health) = record.fact.clone() else { return record };
        Record { fact: Fact::Health(HealthFact { of: sync, ..health }), ..record }
    }

    #[test]
    fn records_follow_each_other() {
        let (one, two) = (sync(1), sync(2));
        check(None, &one, &[]).unwrap();
        check(Some((FIRST, &one)), &two, &[FIRST]).unwrap();
        let after = Record { sync: 2, ..of(degraded(3), 2) };
        check(Some((FIRST, &two)), &after, &[FIRST]).unwrap();
        // A sync whose record was lost leaves a gap among the syncs, never in the ledger.
        let late = Record { sequence: 3, ..sync(9) };
        assert!(check(Some((FIRST, &two)), &late, &[FIRST]).is_ok());
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        let (one, two) = (sync(1), sync(2));
        let other = LedgerName { cluster: "west".into(), ..two.ledger.clone() };
        for (why, before, record, parents) in [
            ("another parent", Some((FIRST, &one)), two.clone(), vec![SECOND]),
            ("no parent", Some((FIRST, &one)), two.clone(), vec![]),
            ("two parents", Some((FIRST, &one)), two.clone(), vec![FIRST, SECOND]),
            ("a first one with a parent", None, one.clone(), vec![FIRST]),
            ("skipped", Some((FIRST, &one)), sync(3), vec![FIRST]),
            ("replayed", Some((FIRST, &one)), one.clone(), vec![FIRST]),
            ("it does not begin at 1", None, two.clone(), vec![]),
            ("of another cluster", Some((FIRST, &one)), Record { ledger: other, ..two.clone() }, vec![FIRST]),
            ("health of another sync", Some((FIRST, &one)), degraded(2), vec![FIRST]),
            ("health of a sync to come", Some((FIRST, &one)), of(Record { sync: 1, ..degraded(2) }, 2), vec![FIRST]),
            ("the same sync twice", Some((FIRST, &one)), Record { sync: 1, ..two.clone() }, vec![FIRST]),
        ] {
            assert!(check(before, &record, &parents).is_err(), "{why}");
        }
    }
}
