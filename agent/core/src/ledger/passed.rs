//! Which revisions an environment has run and passed, as others may go by.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Fact, LedgerName, Record};
use crate::environment::Required;
use crate::fault::Problem;
use crate::revision::{CommitId, TreeId};
use crate::status::{Outcome, SyncRecord, Trigger};

/// A revision that an environment ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The number of the sync.
    pub sync: u64,
    /// The commit.
    pub commit: CommitId,
    /// Its tree in git.
    pub tree: Option<TreeId>,
    /// Since when it was healthy there, if that is the last that is known of it.
    pub healthy_since: Option<Timestamp>,
    /// When another sync took its place.
    pub until: Option<Timestamp>,
    /// Whether a rollback left it behind.
    pub was_rolled_back: bool,
}

/// What the environments ran that others wait for, or why their ledgers are not used.
pub type Gates = BTreeMap<LedgerName, Result<Arc<Vec<Ran>>, Problem>>;

/// How a revision stands with an environment that it must have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It ran there, and was healthy for long enough.
    Passed,
    /// It runs there healthy, and will have passed at this time if it stays so.
    Soaks(Timestamp),
    /// It ran there and did not pass, or has not become healthy yet.
    Waits,
    /// It ran there, however well, and was rolled back.
    RolledBack,
    /// It never ran there.
    Unseen,
}

/// What an environment ran, by its ledger, the oldest first. A revision that ran again stands here again.
pub fn ran<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Ran> {
    let mut all: Vec<Ran> = Vec::new();
    // Where a rollback was to go that was refused as a whole: it is tried again as another sync.
    let mut goes_back_to: Option<CommitId> = None;
    for record in records {
        match &record.fact {
            Fact::Sync(fact) => {
                let SyncRecord { trigger, outcome, created, configured, pruned, failed, .. } = &fact.sync;
                let tries_again = fact.commit.is_some() && fact.commit == goes_back_to;
                let goes_back = *trigger == Trigger::Rollback || tries_again;
                goes_back_to = fact.commit.filter(|_| goes_back);
                // What was refused as a whole has left everything as it was.
                if *outcome != Outcome::Applied && created + configured + pruned + failed == 0 {
                    continue;
                }
                if goes_back {
                    leave(&mut all, (fact.commit, fact.tree));
                }
                if let Some(last) = all.last_mut() {
                    last.until.get_or_insert(record.at);
                }
                // What was applied only in part is what nobody has tested.
                if let (Outcome::Applied, Some(commit)) = (outcome, fact.commit) {
                    let (sync, tree) = (record.sync, fact.tree);
                    all.push(Ran { sync, commit, tree, healthy_since: None, until: None, was_rolled_back: false });
                }
            }
            Fact::Health(health) => {
                if let Some(last) = all.last_mut().filter(|last| last.until.is_none() && last.sync == health.of) {
                    last.healthy_since = health.is_healthy.then_some(record.at);
                }
            }
        }
    }
    all
}

/// A rollback leaves what came after the content that it goes back to. Content that never ran is that of a newer release
/// without one of its changes: which of the others had that change is not known here.
fn leave(all: &mut [Ran], (commit, tree): (Option<CommitId>, Option<TreeId>)) {
    let is_it = |ran: &Ran| commit == Some(ran.commit) || (tree.is_some() && ran.tree == tree);
    let kept = all.iter().rposition(is_it).map_or(0, |at| at + 1);
    for left in &mut all[kept..] {
        left.was_rolled_back = true;
    }
}

/// How a revision stands. The same tree is the same content, whatever the commit says.
pub fn standing(
    ran: &[Ran],
    (commit, tree): (CommitId, Option<TreeId>),
    soak: SignedDuration,
    now: Timestamp,
) -> Standing {
    let is_it = |ran: &&Ran| ran.commit == commit || (tree.is_some() && ran.tree == tree);
    let Some(last) = ran.iter().rev().find(is_it) else { return Standing::Unseen };
    if last.was_rolled_back {
        return Standing::RolledBack;
    }
    let Some(since) = last.healthy_since else { return Standing::Waits };
    let Ok(done) = since.checked_add(soak) else { return Standing::Waits };
    match last.until {
        Some(until) if until >= done => Standing::Passed,
        Some(_) => Standing::Waits,
        None if now >= done => Standing::Passed,
        None => Standing::Soaks(done),
    }
}

/// What may be moved to along a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The newest revision that passed everywhere.
    pub commit: Option<CommitId>,
    /// Why the newest of all may not be moved to, where it is another one.
    pub waits: Option<String>,
    /// When time alone makes another revision pass.
    pub look_at: Option<Timestamp>,
}

/// Finds the newest revision that passed in every environment that is required. `history` are the commits of the lane,
/// the newest first, and their trees.
pub fn newest_passed(
    history: impl IntoIterator<Item = (CommitId, TreeId)>,
    (required, cluster): (&[Required], &str),
    gates: &Gates,
    now: Timestamp,
) -> Verdict {
    let mut verdict = Verdict::default();
    for (commit, tree) in history {
        let mut waits = None;
        let mut soaks_until: Option<Timestamp> = None;
        let mut only_soaks = true;
        for one in required {
            let name = one.ledger(cluster);
            let soak = SignedDuration::try_from(one.soak).unwrap_or(SignedDuration::MAX);
            let why = match gates.get(&name) {
                None => "whose ledger was not read yet (the Repository's spec.ledger says where they are)".to_owned(),
                Some(Err(problem)) => {
                    let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                    format!("whose ledger is not used: {}{hint}", problem.message)
                }
                Some(Ok(ran)) => match standing(ran, (commit, Some(tree)), soak, now) {
                    Standing::Passed => continue,
                    Standing::Soaks(until) => {
                        soaks_until = soaks_until.max(Some(until));
                        waits.get_or_insert(format!("waits for {name}, where it must stay healthy until {until}"));
                        continue;
                    }
                    Standing::Waits => "where it has not passed".to_owned(),
                    Standing::RolledBack => "where it was rolled back".to_owned(),
                    Standing::Unseen => "where it has not run".to_owned(),
                },
            };
            only_soaks = false;
            waits.get_or_insert(format!("waits for {name}, {why}"));
        }
        match waits {
            None => {
                verdict.commit = Some(commit);
                break;
            }
            Some(why) => {
                verdict.waits.get_or_insert(why);
                if let Some(until) = soaks_until.filter(|_| only_soaks) {
                    verdict.look_at = Some(verdict.look_at.map_or(until, |known| known.min(until)));
                }
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::tests::sync;
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
        let health = HealthFact { of: number.into(), is_healthy: true, message: None };
        Record { at: minute(at), fact: Fact::Health(health), ..sync(number) }
    }

    fn sick(number: u8, at: i64) -> Record {
        let health = HealthFact { of: number.into(), is_healthy: false, message: None };
        Record { at: minute(at), fact: Fact::Health(health), ..sync(number) }
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
        // What was refused as a whole changed nothing.
        let mut refused = failed(2, 8);
        let Fact::Sync(fact) = &mut refused.fact else { unreachable!() };
        (fact.sync.created, fact.sync.configured) = (0, 0);
        assert_eq!(stands(&[synced(1, 0), healthy(1, 5), refused], 1, 15), Standing::Passed);
    }

    /// A sync of the commit and the files that are made of a number.
    fn went(sync: u8, (content, trigger): (u8, Trigger), at: i64) -> Record {
        let mut record = synced(sync, at);
        let Fact::Sync(fact) = &mut record.fact else { unreachable!() };
        fact.sync.trigger = trigger;
        (fact.commit, fact.tree) = (Some(CommitId::from_bytes([sync; 20])), Some(TreeId::from_bytes([content; 20])));
        record
    }

    /// Three releases that were healthy for long enough, and what came then.
    fn after_three(more: impl IntoIterator<Item = Record>) -> Vec<Record> {
        let three = (1..4).flat_map(|number| {
            let at = i64::from(number) * 60;
            [went(number, (number, Trigger::Commit), at), healthy(number, at + 1)]
        });
        three.chain(more).collect()
    }

    fn content_stands(records: &[Record], content: u8, now: i64) -> Standing {
        let commit = CommitId::from_bytes([99; 20]);
        standing(&ran(records), (commit, Some(TreeId::from_bytes([content; 20]))), SOAK, minute(now))
    }

    #[test]
    fn what_a_rollback_left_has_not_passed_however_well_it_ran() {
        let before = after_three([]);
        assert_eq!(content_stands(&before, 3, 999), Standing::Passed);
        // To the revert, which has the files of the one before.
        let back = went(4, (2, Trigger::Rollback), 300);
        let records = after_three([back.clone(), healthy(4, 301)]);
        assert_eq!(content_stands(&records, 3, 999), Standing::RolledBack);
        assert_eq!(content_stands(&records, 2, 302), Standing::Soaks(minute(311)));
        assert_eq!(
            (content_stands(&records, 2, 311), content_stands(&records, 1, 302)),
            (Standing::Passed, Standing::Passed)
        );
        // By its own commit, of which nothing else may be known.
        let number =
            |number: u8| standing(&ran(&records), (CommitId::from_bytes([number; 20]), None), SOAK, minute(999));
        assert_eq!((number(3), number(2)), (Standing::RolledBack, Standing::Passed));
        // Two releases back, at once by that release itself and then with the revert.
        let mut at_once = went(4, (1, Trigger::Rollback), 300);
        let Fact::Sync(fact) = &mut at_once.fact else { unreachable!() };
        fact.commit = Some(CommitId::from_bytes([1; 20]));
        let records = after_three([at_once, healthy(4, 301), went(5, (1, Trigger::Rollback), 320), healthy(5, 321)]);
        assert_eq!(content_stands(&records, 3, 999), Standing::RolledBack);
        assert_eq!(content_stands(&records, 2, 999), Standing::RolledBack);
        assert_eq!(content_stands(&records, 1, 999), Standing::Passed);
        let has_healthy = |sync: u64| ran(&records).iter().any(|one| one.sync == sync && one.healthy_since.is_some());
        assert!(has_healthy(1) && has_healthy(4), "what was kept is still there to be gone back to");
        // Back once, and once more.
        let further = went(5, (1, Trigger::Rollback), 320);
        assert_eq!(content_stands(&after_three([back, healthy(4, 301), further]), 2, 999), Standing::RolledBack);
    }

    #[test]
    fn what_ran_without_one_change_leaves_all_that_may_have_had_it() {
        let records = after_three([went(4, (44, Trigger::Rollback), 300), healthy(4, 301)]);
        for content in [1, 2, 3] {
            assert_eq!(content_stands(&records, content, 999), Standing::RolledBack, "{content}");
        }
        assert_eq!(content_stands(&records, 44, 999), Standing::Passed);
    }

    #[test]
    fn what_was_rolled_back_and_landed_again_passes_anew() {
        let landed = [went(4, (2, Trigger::Rollback), 300), healthy(4, 320), went(5, (3, Trigger::Commit), 400)];
        let records = after_three(landed.into_iter().chain([healthy(5, 401)]));
        assert_eq!(content_stands(&records, 3, 402), Standing::Soaks(minute(411)));
        assert_eq!(content_stands(&records, 3, 411), Standing::Passed);
        assert_eq!(content_stands(&records, 2, 402), Standing::Passed);
    }

    #[test]
    fn a_rollback_that_was_refused_or_failed_leaves_what_it_takes_back_once_it_writes() {
        let refused = |mut record: Record, created: u32| {
            let Fact::Sync(fact) = &mut record.fact else { unreachable!() };
            fact.sync.outcome = Outcome::Failed;
            (fact.sync.created, fact.sync.configured) = (created, 0);
            record
        };
        let back = |trigger: Trigger| went(4, (2, trigger), 300);
        let first = refused(back(Trigger::Rollback), 0);
        assert_eq!(content_stands(&after_three([first.clone()]), 3, 999), Standing::Passed);
        for again in [Trigger::Retry, Trigger::Request] {
            let records = after_three([first.clone(), refused(back(Trigger::Retry), 0), back(again)]);
            assert_eq!(content_stands(&records, 3, 999), Standing::RolledBack);
        }
        // Somebody landed it again before it went anywhere, and what came then is no rollback.
        let records = after_three([first, went(5, (5, Trigger::Commit), 310), back(Trigger::Commit)]);
        assert_eq!(content_stands(&records, 3, 999), Standing::Passed);
        let in_part = refused(back(Trigger::Rollback), 1);
        assert_eq!(content_stands(&after_three([in_part]), 3, 999), Standing::RolledBack);
    }

    #[test]
    fn the_same_tree_is_the_same_content() {
        let other = CommitId::from_bytes([9; 20]);
        let tree = Some(TreeId::from_bytes([0x11; 20]));
        let ran = ran(&[synced(1, 0), healthy(1, 5)]);
        assert_eq!(standing(&ran, (other, tree), SOAK, minute(60)), Standing::Passed);
        assert_eq!(standing(&ran, (other, None), SOAK, minute(60)), Standing::Unseen);
    }

    #[test]
    fn the_newest_revision_that_passed_everywhere_is_taken() {
        let required = |cluster: Option<&str>, environment: &str| Required {
            cluster: cluster.map(Into::into),
            environment: environment.parse().unwrap(),
            soak: std::time::Duration::from_secs(600),
        };
        let commits = |numbers: &[u8]| -> Vec<(CommitId, TreeId)> {
            numbers
                .iter()
                .map(|number| (CommitId::from_bytes([*number; 20]), TreeId::from_bytes([*number; 20])))
                .collect()
        };
        let name = |cluster: &str, environment: &str| LedgerName {
            cluster: cluster.into(),
            environment: environment.parse().unwrap(),
        };
        let records = [synced(1, 0), healthy(1, 1), synced(2, 20), healthy(2, 21)];
        let mut gates: Gates = [(name("west", "test"), Ok(Arc::new(ran(&records))))].into();
        let after = [required(Some("west"), "test")];
        let judge = |after: &[Required], gates: &Gates, now: i64| {
            newest_passed(commits(&[3, 2, 1]), (after, "east"), gates, minute(now))
        };
        let verdict = judge(&after, &gates, 25);
        assert_eq!(verdict.commit, Some(CommitId::from_bytes([1; 20])));
        assert_eq!(verdict.waits.as_deref(), Some("waits for west/test, where it has not run"));
        assert_eq!(verdict.look_at, Some(minute(31)));
        assert_eq!(judge(&after, &gates, 31).commit, Some(CommitId::from_bytes([2; 20])));

        // Everywhere, and what is not known has not passed.
        let after = [required(Some("west"), "test"), required(None, "staging")];
        let verdict = judge(&after, &gates, 60);
        assert_eq!((verdict.commit, verdict.look_at), (None, None));
        assert_eq!(verdict.waits.as_deref(), Some("waits for west/test, where it has not run"));
        gates.insert(name("east", "staging"), Ok(Arc::new(ran(&records[..2]))));
        assert_eq!(judge(&after, &gates, 60).commit, Some(CommitId::from_bytes([1; 20])));
        gates.insert(name("west", "test"), Err(Problem::setup("it was rewritten")));
        assert_eq!(judge(&after, &gates, 60).commit, None);
        assert_eq!(judge(&[], &gates, 0).commit, Some(CommitId::from_bytes([3; 20])));
    }
}
