//! The task of one Repository's ledgers: it gathers what environments tell, writes and pushes it, and reads what the
//! agents of other clusters wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;
use towpath_core::ledger::LedgerName;
use towpath_core::ledger::passed::{Gates, Ran};
use towpath_core::names::EnvironmentName;
use towpath_core::policy::Cleared;
use towpath_core::revision::CommitId;
use towpath_core::signature::{PublicKey, SigningKey};
use towpath_core::status::{self, EnvironmentStatus, Outcome, Recorded, SyncRecord};

use super::Shared;
use crate::blocking::blocking;
use crate::ledger::{Books, Keys, Mark, Pending, Reader};
use crate::repo::{Credentials, Mirror};

/// Syncs are gathered for as long as another one comes within this time,
const QUIET: Duration = Duration::from_secs(1);
/// but no longer than this; then they are written and pushed together.
const GATHERED: Duration = Duration::from_secs(4);
/// The longest pause before a push that failed is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often a push is tried in one round, where somebody else was there first.
const MAX_TRIES: usize = 5;
/// Records of others whose arrival is remembered.
const MAX_ARRIVALS: usize = 10_000;
/// Syncs of one environment that wait to be recorded. The status remembers no more.
const MAX_TOLD: usize = 2 * status::MAX_HISTORY;
/// Syncs of one environment whose manifests are held until they are recorded.
const MAX_HELD: usize = 3;

/// Where a repository's ledgers, its task and the tasks of its environments meet.
#[derive(Default)]
pub struct Desk {
    state: Mutex<State>,
    /// Somebody has told something.
    told: Notify,
    /// The task of the ledgers has done something.
    pub(super) news: Notify,
    /// What is known of the ledgers; none before the first look, or where none are kept.
    known: watch::Sender<Option<Known>>,
    /// Whether the first look is over, however it went.
    tried: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// Whether records are taken.
    is_on: bool,
    /// Whether the server is to be asked in the next round.
    look_again: bool,
    /// Goes up each time that the task begins anew: then everything is told again.
    epoch: u64,
    pending: BTreeMap<EnvironmentName, Pending>,
    /// What statuses of environments remember of their ledgers. Never taken away: who begins anew holds it against what
    /// the server has.
    remembered: BTreeMap<EnvironmentName, String>,
    /// Those of which the task does not know yet.
    unheard: BTreeSet<EnvironmentName>,
    /// Ledgers that environments wait for.
    gates: BTreeMap<EnvironmentName, BTreeSet<LedgerName>>,
    alarms: Vec<String>,
}

/// What is known of the ledgers of a repository.
#[derive(Clone)]
pub struct Known {
    /// For reading them.
    pub reader: Reader,
    /// The last record of each that the server was seen to have, as a status remembers it.
    pub marks: Arc<BTreeMap<LedgerName, String>>,
    /// Up to when they are known.
    pub as_of: Timestamp,
    /// What keeps records from being pushed or read.
    pub problem: Option<Problem>,
    /// How many ledgers wait to be pushed.
    pub waiting: usize,
}

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

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Whether records are kept.
    pub fn is_on(&self) -> bool {
        self.lock().is_on
    }

    /// Records are kept from now on, or no longer.
    pub fn switch(&self, is_on: bool) {
        let mut state = self.lock();
        if state.is_on == is_on {
            return;
        }
        state.is_on = is_on;
        if !is_on {
            state.pending.clear();
            drop(state);
            self.known.send_replace(None);
            self.tried.send_replace(false);
        }
    }

    /// Nobody need wait for a look: it went wrong before it began.
    pub fn cannot_look(&self) {
        self.tried.send_replace(true);
    }

    /// What is known of the ledgers.
    pub fn known(&self) -> Option<Known> {
        self.known.borrow().clone()
    }

    /// Up to when the ledgers are known.
    pub fn as_of(&self) -> Option<Timestamp> {
        self.known.borrow().as_ref().map(|known| known.as_of)
    }

    /// Asks the server soon, although it is not time yet.
    pub fn look_again(&self) {
        self.lock().look_again = true;
        self.told.notify_one();
    }

    /// Waits until the ledgers were looked at once, or `limit` has passed.
    pub async fn ready(&self, limit: Duration) {
        if self.is_on() {
            let mut tried = self.tried.subscribe();
            let _ = tokio::time::timeout(limit, tried.wait_for(|tried| *tried)).await;
        }
    }

    /// What is recorded of the last sync of an environment.
    pub fn recorded(&self, cluster: &str, environment: &EnvironmentName) -> Option<Recorded> {
        let known = self.known.borrow();
        let name = LedgerName { cluster: cluster.to_owned(), environment: environment.clone() };
        let head = known.as_ref()?.reader.heads().get(&name)?.as_ref().ok()?;
        Some(head.recorded())
    }

    /// The last record of an environment that the server was seen to have, as a status is to remember it. Nothing before
    /// what it remembers now was held against the server.
    pub fn mark(&self, cluster: &str, environment: &str) -> Option<String> {
        let name = LedgerName { cluster: cluster.to_owned(), environment: environment.parse().ok()? };
        if self.lock().unheard.contains(&name.environment) {
            return None;
        }
        self.known.borrow().as_ref()?.marks.get(&name).cloned()
    }

    /// Another value says that everything is to be told again.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Hands over what the status of an environment remembers of its ledger, before it is overwritten.
    pub fn remember(&self, environment: &EnvironmentName, text: &str) {
        let mut state = self.lock();
        if !state.remembered.contains_key(environment) {
            state.remembered.insert(environment.clone(), text.to_owned());
            state.unheard.insert(environment.clone());
            drop(state);
            self.told.notify_one();
        }
    }

    /// Says what the last syncs of an environment came to. What is recorded already is passed over.
    pub fn tell(
        &self,
        cluster: &str,
        environment: &EnvironmentName,
        status: &EnvironmentStatus,
        applied: Option<Arc<Cleared>>,
    ) {
        if !self.is_on() {
            return;
        }
        let last = self.recorded(cluster, environment).map_or(0, |recorded| recorded.sync);
        let felt = status.history.iter().find(|sync| sync.health.is_some()).map(|sync| sync.number);
        let is_news = |sync: &&SyncRecord| sync.number >= last || Some(sync.number) == felt;
        let news: Vec<SyncRecord> = status.history.iter().rev().filter(is_news).cloned().collect();
        let mut state = self.lock();
        let pending = state.pending.entry(environment.clone()).or_default();
        pending.remembered = status.ledger.clone();
        let newest = status.history.iter().find(|sync| sync.outcome == Outcome::Applied);
        if let (Some(newest), Some(applied)) = (newest.filter(|newest| newest.number > last), applied) {
            pending.manifests.entry(newest.number).or_insert(applied);
        }
        pending.manifests.retain(|number, _| *number > last);
        while pending.manifests.len() > MAX_HELD {
            pending.manifests.pop_first();
        }
        let first = news.first().map_or(u64::MAX, |first| first.number);
        pending.history.retain(|sync| sync.number < first && sync.number >= last);
        pending.history.extend(news);
        let too_many = pending.history.len().saturating_sub(MAX_TOLD);
        pending.history.drain(..too_many);
        drop(state);
        self.told.notify_one();
    }

    /// Waits until nobody has told anything for some time, or until the limit.
    async fn gather(&self, quiet: Duration, limit: Duration) {
        let goes_on = async { while tokio::time::timeout(quiet, self.told.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(limit, goes_on).await;
    }

    /// Says which ledgers an environment waits for.
    pub fn gated(&self, environment: &EnvironmentName, ledgers: BTreeSet<LedgerName>) {
        let mut state = self.lock();
        let known = state.gates.get(environment);
        if known.is_none_or(|known| *known != ledgers) && !(known.is_none() && ledgers.is_empty()) {
            state.gates.insert(environment.clone(), ledgers);
            drop(state);
            self.told.notify_one();
        }
    }

    /// The environment is gone. What it told is still recorded.
    pub fn forget(&self, environment: &EnvironmentName) {
        let mut state = self.lock();
        state.gates.remove(environment);
        state.remembered.remove(environment);
        state.unheard.remove(environment);
    }

    /// The task begins anew: gives what is remembered of the agent's own ledgers, and has everything told again.
    fn begin(&self) -> BTreeMap<EnvironmentName, String> {
        let mut state = self.lock();
        state.epoch += 1;
        state.unheard.clear();
        state.remembered.clone()
    }

    /// Alarms that were not taken yet.
    pub fn take_alarms(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().alarms)
    }
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

/// What goes from round to round.
struct Kept {
    books: Books,
    /// What environments ran, by the head that it was read from.
    ran: BTreeMap<LedgerName, (CommitId, Arc<Vec<Ran>>)>,
    /// The heads of others' ledgers at the last look.
    heads: BTreeMap<LedgerName, CommitId>,
    /// When records arrived that were not there at the look before: no later than that look.
    arrived: BTreeMap<CommitId, Timestamp>,
    /// When the last look began that was answered.
    as_of: Option<Timestamp>,
}

/// What a round is given, on a thread that may block.
struct Round {
    terms: Terms,
    pending: BTreeMap<EnvironmentName, Pending>,
    remembered: BTreeMap<EnvironmentName, String>,
    gates: BTreeSet<LedgerName>,
    is_due: bool,
    scale: u32,
}

/// What a round came to.
struct Done {
    kept: Kept,
    pending: BTreeMap<EnvironmentName, Pending>,
    /// What is remembered and was not held against the server.
    unheard: BTreeMap<EnvironmentName, String>,
    gates: Gates,
    alarms: Vec<String>,
    problem: Option<Problem>,
    look_at: Option<Timestamp>,
    has_looked: bool,
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
                waiting: books.waiting(),
            }));
        }
        self.desk.tried.send_if_modified(|tried| !std::mem::replace(tried, true));
    }
}

impl Round {
    fn run(mut self, kept: Kept) -> Done {
        let mut done = Done {
            kept,
            pending: BTreeMap::new(),
            unheard: BTreeMap::new(),
            gates: Gates::new(),
            alarms: Vec::new(),
            problem: None,
            look_at: None,
            has_looked: false,
        };
        done.problem = self.try_all(&mut done).err();
        done.gates = done.kept.gates(&self.gates);
        done.pending = self.pending;
        done.unheard = self.remembered;
        done
    }

    fn try_all(&mut self, done: &mut Done) -> Result<(), Problem> {
        let mut away = None;
        if self.is_due {
            match done.kept.look() {
                Ok(alarms) => {
                    done.alarms.extend(alarms);
                    done.has_looked = true;
                }
                // Nobody knows after which record to go on.
                Err(problem) if done.kept.as_of.is_none() => return Err(problem),
                Err(problem) => away = Some(problem),
            }
        }
        let books = &mut done.kept.books;
        let place = books.place();
        for (environment, text) in std::mem::take(&mut self.remembered) {
            if let Some(mark) = Mark::parse(&text, &place) {
                let name = books.own(&environment);
                books.remember(&name, mark, &mut done.alarms);
            }
        }
        for _ in 0..MAX_TRIES {
            let now = (Timestamp::now(), self.scale);
            done.look_at = done.kept.books.write(&self.pending, &self.terms.source, now, &mut done.alarms)?;
            if let Some(problem) = away {
                // What was written is kept here, and pushed when the server is back.
                return Err(problem);
            }
            if done.kept.books.waiting() == 0 {
                return Ok(());
            }
            let pushed = done.kept.books.push(&self.terms.credentials)?;
            if let Some(problem) = pushed.refused {
                return Err(problem);
            }
            if pushed.moved == 0 {
                return Ok(());
            }
            // Somebody else was there first: read again, and write on after that.
            done.alarms.extend(done.kept.look()?);
        }
        Err(Problem::passing("the ledgers move faster than they can be written"))
    }
}

impl Kept {
    /// Asks the server, and notes when records of others arrived.
    fn look(&mut self) -> Result<Vec<String>, Problem> {
        let (began, before) = (Timestamp::now(), self.as_of);
        let marks: BTreeMap<LedgerName, Mark> = match before {
            Some(_) => BTreeMap::new(),
            None => {
                self.books.ledgers().iter().filter_map(|(name, ledger)| Some((name.clone(), ledger.mark?))).collect()
            }
        };
        let alarms = self.books.refresh()?;
        let reader = self.books.reader();
        for (name, ledger) in self.books.ledgers() {
            let Some(head) = ledger.head.as_ref().filter(|_| name.cluster != reader.cluster()) else { continue };
            let known = self.heads.insert(name.clone(), head.commit);
            if known == Some(head.commit) || ledger.trouble.is_some() {
                continue;
            }
            match (known, before, marks.get(name)) {
                (Some(known), Some(before), _) => {
                    self.arrived.extend(reader.since(name, known)?.into_iter().map(|commit| (commit, before)));
                }
                // The first record of all.
                (None, Some(before), _) => {
                    self.arrived.extend(reader.last_health(name, head.commit)?.map(|commit| (commit, before)));
                }
                // After a restart: what came meanwhile came now, and what was there is remembered.
                (_, None, Some(mark)) => {
                    if mark.commit != head.commit {
                        self.arrived.extend(reader.since(name, mark.commit)?.into_iter().map(|commit| (commit, began)));
                    }
                    if let Some(seen) = mark.seen {
                        self.arrived.insert(mark.commit, seen);
                        self.arrived.extend(reader.last_health(name, mark.commit)?.map(|commit| (commit, seen)));
                    }
                }
                // Nobody knows since when it is there: it counts as it says.
                (_, None, None) => {}
            }
        }
        while self.arrived.len() > MAX_ARRIVALS {
            let oldest = self.arrived.iter().min_by_key(|(_, at)| **at).map(|(commit, _)| *commit);
            oldest.map(|commit| self.arrived.remove(&commit));
        }
        self.as_of = Some(began);
        Ok(alarms)
    }

    /// What the environments have run that others wait for.
    fn gates(&mut self, wanted: &BTreeSet<LedgerName>) -> Gates {
        if self.as_of.is_none() {
            return Gates::new();
        }
        let reader = self.books.reader();
        let mut read = BTreeMap::new();
        let mut ran = |name: &LedgerName| {
            let head = reader.head(name)?.commit;
            let known = self.ran.get(name).filter(|(known, _)| *known == head).map(|(_, ran)| ran.clone());
            let ran = known.map_or_else(|| reader.ran(name, &self.arrived).map(Arc::new), Ok)?;
            read.insert(name.clone(), (head, ran.clone()));
            Ok(ran)
        };
        let gates = wanted.iter().map(|name| (name.clone(), ran(name))).collect();
        self.ran = read;
        gates
    }
}
