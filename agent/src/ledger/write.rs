//! Writing records: what the statuses of the environments tell becomes commits in the mirror.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use towpath_core::fault::{Fault, Problem};
use towpath_core::ledger::{Fact, HealthFact, LedgerName, Record, SyncFact, files};
use towpath_core::names::EnvironmentName;
use towpath_core::policy::Cleared;
use towpath_core::revision::CommitId;
use towpath_core::signature;
use towpath_core::status::{Outcome, SyncHealth, SyncRecord};

use super::{Books, Head, Ledger, Mark};
use crate::repo::{Mirror, NewCommit, NewTree, Person, Rooted};

/// How soon after a record of health it may be recorded that an environment is healthy again. That it degraded is
/// recorded at once: others may be about to go by what was said before.
const HEALTH_APART: SignedDuration = SignedDuration::from_secs(60);
/// Records that are written at one time.
const AT_ONCE: usize = 50;
/// Rounds of one writing: each writes one record of each environment.
const MAX_ROUNDS: usize = 64;

/// What an environment has told and may not be recorded yet.
#[derive(Clone, Default)]
pub struct Pending {
    /// Its last syncs, the oldest first.
    pub history: Vec<SyncRecord>,
    /// What was applied, by the number of the sync.
    pub manifests: BTreeMap<u64, Arc<Cleared>>,
    /// What the status remembers of the ledger, as [`Mark::to_text`] gives it.
    pub remembered: Option<String>,
}

/// A record to be written, and what it shows.
struct Next {
    record: Record,
    manifests: Option<Arc<Cleared>>,
    year: i16,
}

impl Books {
    /// Writes what is not recorded yet. `source` is the deploy repository that was synced from. Gives when to write
    /// again at the latest, for the sake of what waits.
    ///
    /// # Errors
    /// When the mirror cannot be written. What was written before stays, and the rest is written at the next call.
    pub fn write(
        &mut self,
        pending: &BTreeMap<EnvironmentName, Arc<Pending>>,
        source: &Mirror,
        (now, time_scale): (Timestamp, u32),
        alarms: &mut Vec<String>,
    ) -> Result<Option<Timestamp>, Problem> {
        let apart = HEALTH_APART / i32::try_from(time_scale.max(1)).unwrap_or(1);
        let mut look_at: Option<Timestamp> = None;
        let place = self.place();
        for _ in 0..MAX_ROUNDS {
            let (mut round, mut doubled) = (Vec::new(), Vec::new());
            for (environment, pending) in pending {
                let name = self.own(environment);
                let ledger = self.ledgers.entry(name.clone()).or_default();
                if ledger.trouble.is_some() {
                    continue;
                }
                let is_counted_on = pending.remembered.as_ref().is_some_and(|text| Mark::parse(text, &place).is_some());
                match next(&name, ledger, (pending, is_counted_on), (now, apart)) {
                    Wanted::Nothing => {}
                    Wanted::Taken(sync) => doubled.push((name, sync)),
                    Wanted::Later(at) => look_at = Some(look_at.map_or(at, |known| known.min(at))),
                    Wanted::Record(next) => round.push(*next),
                }
            }
            for (name, sync) in doubled {
                self.alarm(
                    alarms,
                    format!("sync {sync} of ledger {name} was recorded by another agent with the same name and key"),
                );
            }
            if round.is_empty() {
                return Ok(look_at);
            }
            // In portions: nobody needs the files of all environments in memory at one time.
            while !round.is_empty() {
                let rest = round.split_off(round.len().min(AT_ONCE));
                self.write_round(std::mem::replace(&mut round, rest), source, alarms)?;
            }
        }
        // Nobody has so much to tell; the rest comes at the next call.
        Ok(Some(now))
    }

    fn write_round(&mut self, round: Vec<Next>, source: &Mirror, alarms: &mut Vec<String>) -> Result<(), Problem> {
        let mut ready: Vec<(Next, NewTree)> = Vec::new();
        for mut next in round {
            describe_source(&mut next.record, source);
            // Asked for only where there is a Secret: it costs a signature.
            let ledger = next.record.ledger.clone();
            let hiding = LazyCell::new(|| hmac::Key::new(hmac::HMAC_SHA256, &self.keys.hiding(&ledger)));
            let stand_in = |value: &str| {
                let tag = hmac::sign(&hiding, value.as_bytes());
                format!("hidden:{}", hex::encode(&tag.as_ref()[..16]))
            };
            let before = self.ledgers.get(&next.record.ledger).and_then(|ledger| ledger.head.as_ref());
            match tree(&next, before.map(|head| head.commit), &self.mirror, &stand_in) {
                Ok(tree) => ready.push((next, tree)),
                Err(problem) if problem.fault == Fault::Passing => return Err(problem),
                // What cannot be written of one environment keeps no other away.
                Err(problem) => {
                    let name = next.record.ledger.clone();
                    let message = format!("ledger {name} cannot be written: {}", problem.message);
                    self.distrust(&name, Problem { message, ..problem }, alarms);
                }
            }
        }
        let own = self.keys.own.clone();
        let sign = move |bytes: &[u8]| Ok(own.sign(signature::GIT, bytes));
        let commits: Vec<NewCommit<'_>> = ready
            .iter()
            .map(|(next, tree)| {
                let before = self.ledgers.get(&next.record.ledger).and_then(|ledger| ledger.head.as_ref());
                let person = Person::agent_of(&next.record.ledger.cluster, next.record.at);
                NewCommit {
                    tree,
                    parents: before.map(|head| head.commit).into_iter().collect(),
                    author: person.clone(),
                    committer: person,
                    message: next.record.message(),
                    sign: Some(&sign),
                }
            })
            .collect();
        let written = self.mirror.write_commits(&commits)?;
        drop(commits);
        for ((next, _), commit) in ready.into_iter().zip(written) {
            let ledger = self.ledgers.entry(next.record.ledger.clone()).or_default();
            ledger.head = Some(Head::after(ledger.head.as_ref(), commit, Arc::new(next.record), next.year));
        }
        Ok(())
    }
}

/// What an environment has to tell next.
enum Wanted {
    Nothing,
    /// Something, but not before this time.
    Later(Timestamp),
    /// The number of this sync is taken by one that was not ours.
    Taken(u64),
    Record(Box<Next>),
}

fn next(
    name: &LedgerName,
    ledger: &Ledger,
    (pending, is_counted_on): (&Pending, bool),
    (now, apart): (Timestamp, SignedDuration),
) -> Wanted {
    let head = ledger.head.as_ref();
    let last = head.map_or(0, |head| head.recorded().sync);
    let sequence = head.map_or(1, |head| head.record.sequence + 1);
    let started_at = head.and_then(|head| head.recorded().started_at);
    let is_last = |sync: &SyncRecord| started_at.is_none_or(|started_at| sync.started_at == started_at);
    match pending.history.iter().find(|sync| sync.number == last).map(is_last) {
        Some(false) if is_counted_on => return Wanted::Taken(last),
        // Syncs of an Environment that was made anew have other numbers as soon as it knows of the ledger.
        Some(false) => return Wanted::Nothing,
        None if head.is_some() && !is_counted_on => return Wanted::Nothing,
        _ => {}
    }
    // First how the environment came to be after what is recorded, then what came after that.
    let recorded = |sync: &&SyncRecord| sync.number <= last;
    let felt = pending.history.iter().rev().filter(recorded).find_map(|sync| Some((sync, sync.health.as_ref()?)));
    let is_news =
        |(sync, health): &(&SyncRecord, &SyncHealth)| head.is_none_or(|head| !head.knows_health(sync.number, health));
    if let Some((sync, health)) = felt.filter(is_news) {
        let known = head.and_then(|head| head.health_after(sync.number)).filter(|_| health.is_healthy);
        let due = known.and_then(|(_, at)| at.checked_add(apart).ok()).filter(|due| *due > now);
        let waits = pending.history.iter().all(|sync| sync.number <= last);
        if let Some(due) = due.filter(|_| waits) {
            return Wanted::Later(due);
        }
        if due.is_none() {
            let fact = HealthFact { of: sync.number, is_healthy: health.is_healthy, message: health.message.clone() };
            let record =
                Record { ledger: name.clone(), sequence, sync: last, at: health.since, fact: Fact::Health(fact) };
            return Wanted::Record(Box::new(Next { year: year_after(head, record.at), record, manifests: None }));
        }
    }
    let Some(sync) = pending.history.iter().find(|sync| sync.number > last) else { return Wanted::Nothing };
    let took = SignedDuration::from_millis(sync.took_ms.max(0));
    let at = sync.started_at.checked_add(took).unwrap_or(sync.started_at);
    let manifests = pending.manifests.get(&sync.number).filter(|_| sync.outcome == Outcome::Applied).cloned();
    let fact = SyncFact {
        commit: sync.revision.rsplit_once("@sha1:").and_then(|(_, commit)| commit.parse().ok()),
        tree: None,
        committed_at: None,
        components: Vec::new(),
        has_manifests: manifests.is_some(),
        sync: SyncRecord { health: None, ..sync.clone() },
    };
    let fact = Fact::Sync(Box::new(fact));
    let record = Record { ledger: name.clone(), sequence, sync: sync.number, at, fact };
    Wanted::Record(Box::new(Next { year: year_after(head, at), record, manifests }))
}

/// The year of a time, in UTC.
pub(super) fn year_of(at: Timestamp) -> i16 {
    at.to_zoned(jiff::tz::TimeZone::UTC).year()
}

/// The year whose ref a record belongs to. Where a clock went back it stays in the year that was begun.
fn year_after(head: Option<&Head>, at: Timestamp) -> i16 {
    head.map_or(year_of(at), |head| head.year.max(year_of(at)))
}

/// Adds what the deploy repository says of the revision. A commit that is no longer there is only named.
fn describe_source(record: &mut Record, source: &Mirror) {
    let Fact::Sync(fact) = &mut record.fact else { return };
    let Some(commit) = fact.commit else { return };
    if let Ok(stored) = source.commit(commit) {
        fact.tree = Some(stored.tree);
        fact.committed_at = Some(stored.committer.at);
    }
    if let Ok(tree) = source.tree(commit) {
        fact.components = tree.submodules().map(|(path, commit)| (path.to_owned(), commit)).collect();
    }
}

/// The files of a record.
fn tree(
    next: &Next,
    before: Option<CommitId>,
    mirror: &Mirror,
    stand_in: &dyn Fn(&str) -> String,
) -> Result<NewTree, Problem> {
    let mut tree = NewTree::default();
    match &next.manifests {
        Some(manifests) => {
            for object in manifests.objects() {
                tree.file(&files::path_of(&object.key), files::text_of(&object.body(), stand_in).into_bytes())?;
            }
        }
        None => {
            // Nothing of it is read: it is as it was.
            for (path, rooted) in before.map(|before| mirror.root(before)).transpose()?.unwrap_or_default() {
                match rooted {
                    Rooted::File(_) if path == files::LOG && next.record.sync().is_some() => {}
                    Rooted::File(id) => tree.known(&path, id)?,
                    Rooted::Folder(id) => tree.known_folder(&path, id)?,
                }
            }
        }
    }
    if let Some(fact) = next.record.sync() {
        tree.file(files::LOG, files::log_of(&fact.sync).into_bytes())?;
    }
    Ok(tree)
}
