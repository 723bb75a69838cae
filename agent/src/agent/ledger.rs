//! The task of one Repository's ledgers: it gathers what environments tell, writes and pushes it, and reads what the
//! agents of other clusters wrote.

mod desk;
mod round;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towpath_core::ledger::LedgerName;
use towpath_core::ledger::passed::Gates;
use towpath_core::names::EnvironmentName;
use towpath_core::signature::{PublicKey, SigningKey};

use self::round::{Done, Kept, Round};
use super::Shared;
use crate::blocking::blocking;
use crate::ledger::{Books, Keys, Mark, Reader};
use crate::repo::{Credentials, Mirror};

pub use desk::{Desk, Known};

/// Syncs are gathered for as long as another one comes within this time,
const QUIET: Duration = Duration::from_secs(1);
/// but no longer than this; then they are written and pushed together. Until then nothing is taken from the syncs that
/// still go on.
const GATHERED: Duration = Duration::from_secs(30);
/// The longest pause before a push that failed is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What the task works with: another value begins it anew.
#[derive(Clone)]
pub struct Terms {
    /// The deploy repository.
    pub source: Arc<Mirror>,
    /// Where the ledgers are kept: the same mirror, or another repository.
    pub mirror: Arc<Mirror>,
    /// To push with.
    pub credentials: Credentials,
    /// Whether they are branches.
    pub as_branches: bool,
    /// The keys of others.
    pub peers: Vec<(String, PublicKey)>,
    /// The agent's own key.
    pub key: Arc<SigningKey>,
    /// How often the server is asked.
    pub interval: Duration,
}

/// Runs until `stop`. `publish` is told what gates have come to, and how ledgers are read now.
pub(super) async fn run(
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    terms: Terms,
    remembered: Vec<String>,
    publish: impl Fn(Gates, Option<Reader>) + Send + Sync,
    stop: CancellationToken,
) {
    let cluster = shared.settings.cluster_name.clone();
    let keys = Keys { cluster, own: terms.key.clone(), peers: terms.peers.clone() };
    let mut books = Books::new(terms.mirror.clone(), terms.as_branches, keys);
    let own = desk.begin().into_iter().map(|(environment, mark)| format!("{} {mark}", books.own(&environment)));
    let own: Vec<String> = own.collect();
    books.remember_all(&own);
    books.remember_all(&remembered);
    let mut task = Task {
        scale: shared.settings.time_scale.max(1),
        desk,
        terms,
        kept: Some(Kept { books, ran: BTreeMap::new(), heads: BTreeMap::new(), arrived: BTreeMap::new(), as_of: None }),
        looked_at: None,
        tried_at: None,
        failures: 0,
    };
    loop {
        let (gates, pause) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            done = task.round() => done,
        };
        if stop.is_cancelled() {
            return;
        }
        publish(gates, task.desk.known().map(|known| known.reader));
        tokio::select! {
            () = stop.cancelled() => return,
            () = task.desk.told.notified() => {
                tokio::select! {
                    () = task.desk.gather(QUIET / task.scale, GATHERED / task.scale) => {}
                    () = stop.cancelled() => return,
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Task {
    scale: u32,
    desk: Arc<Desk>,
    terms: Terms,
    /// Away while a thread works with it.
    kept: Option<Kept>,
    /// When the server was last asked with success,
    looked_at: Option<Instant>,
    /// and when at all.
    tried_at: Option<Instant>,
    failures: u32,
}

impl Task {
    /// One round: look where that is due, write, push. Gives what environments that others wait for have run, and the
    /// time until the next round at the latest.
    async fn round(&mut self) -> (Gates, Duration) {
        let interval = self.terms.interval;
        let Some(kept) = self.kept.take() else { return (Gates::new(), interval) };
        let round = {
            let mut state = self.desk.lock();
            let look_again = std::mem::take(&mut state.look_again);
            Round {
                terms: self.terms.clone(),
                pending: state.pending.clone(),
                remembered: {
                    let unheard = std::mem::take(&mut state.unheard);
                    let text = |name: EnvironmentName| Some((name.clone(), state.remembered.get(&name)?.clone()));
                    unheard.into_iter().filter_map(text).collect()
                },
                gates: state.gates.values().flatten().cloned().collect(),
                is_due: look_again || self.looked_at.is_none_or(|at| at.elapsed() >= interval),
                scale: self.scale,
            }
        };
        if round.is_due {
            self.tried_at = Some(Instant::now());
        }
        let done = blocking(move || round.run(kept)).await;
        if done.has_looked {
            self.looked_at = Some(Instant::now());
        }
        self.failures = if done.problem.is_some() { self.failures + 1 } else { 0 };
        let until = |at: Timestamp| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        let mut pause = self.tried_at.map_or(interval, |at| interval.saturating_sub(at.elapsed()));
        if done.problem.is_some() || done.kept.books.waiting() > 0 {
            pause = towpath_core::decide::back_off(self.failures.max(1)).min(LONGEST_PAUSE) / self.scale;
        }
        let pause = done.look_at.map_or(pause, |at| pause.min(until(at)));
        self.tell(&done);
        self.kept = Some(done.kept);
        (done.gates, pause.max(Duration::from_millis(50)))
    }

    /// Says to everybody what is known now.
    fn tell(&mut self, done: &Done) {
        let books = &done.kept.books;
        let mut state = self.desk.lock();
        // What the server has need not be held any longer; what was told meanwhile stays.
        for (environment, written) in &done.pending {
            let name = books.own(environment);
            let ledger = books.ledgers().get(&name);
            let is_over = ledger.is_some_and(|ledger| ledger.has_all(&written.history)) && !books.is_behind(&name);
            if is_over && state.pending.get(environment).is_some_and(|now| now.history == written.history) {
                state.pending.remove(environment);
            }
        }
        state.alarms.extend(done.alarms.iter().cloned());
        // Nothing was compared with the server: that is still to be done.
        state.unheard.extend(done.unheard.keys().cloned());
        drop(state);
        if let Some(as_of) = done.kept.as_of {
            let place = books.place();
            let marks = books.ledgers().iter().filter(|(_, ledger)| ledger.trouble.is_none());
            let text = |mark: Mark| {
                let seen = done.kept.arrived.get(&mark.commit).copied().or(mark.seen);
                Mark { seen, ..mark }.to_text(&place)
            };
            let marks: BTreeMap<LedgerName, String> =
                marks.filter_map(|(name, ledger)| Some((name.clone(), text(ledger.mark?)))).collect();
            let mut state = self.desk.lock();
            for (name, mark) in marks.iter().filter(|(name, _)| **name == books.own(&name.environment)) {
                if !state.unheard.contains(&name.environment) {
                    state.remembered.insert(name.environment.clone(), mark.clone());
                }
            }
            drop(state);
            self.desk.known.send_replace(Some(Known {
                reader: books.reader(),
                marks: Arc::new(marks),
                as_of,
                problem: done.problem.clone(),
            }));
        }
        self.desk.tried.send_if_modified(|tried| !std::mem::replace(tried, true));
    }
}
