//! Where a repository, its ledgers and its environments meet: what environments tell, and what is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use towpath_core::fault::Problem;
use towpath_core::ledger::LedgerName;
use towpath_core::names::EnvironmentName;
use towpath_core::policy::Cleared;
use towpath_core::status::{self, EnvironmentStatus, Outcome, Recorded, SyncRecord};

use crate::ledger::{Pending, Reader};

/// Syncs of one environment that wait to be recorded. The status remembers no more.
const MAX_TOLD: usize = 2 * status::MAX_HISTORY;
/// Syncs of one environment whose manifests are held until they are recorded.
const MAX_HELD: usize = 3;

/// Where a repository's ledgers, its task and the tasks of its environments meet.
#[derive(Default)]
pub struct Desk {
    state: Mutex<State>,
    /// Somebody has told something.
    pub(super) told: Notify,
    /// The task of the ledgers has done something.
    pub(in crate::agent) news: Notify,
    /// What is known of the ledgers; none before the first look, or where none are kept.
    pub(super) known: watch::Sender<Option<Known>>,
    /// Whether the first look is over, however it went.
    pub(super) tried: watch::Sender<bool>,
}

#[derive(Default)]
pub(super) struct State {
    /// Whether records are taken.
    pub(super) is_on: bool,
    /// Whether the server is to be asked in the next round.
    pub(super) look_again: bool,
    /// Goes up each time that the task begins anew: then everything is told again.
    pub(super) epoch: u64,
    /// Shared with the round that writes it, and copied only where something is told meanwhile.
    pub(super) pending: BTreeMap<EnvironmentName, Arc<Pending>>,
    /// What statuses of environments remember of their ledgers. Never taken away: who begins anew holds it against what
    /// the server has.
    pub(super) remembered: BTreeMap<EnvironmentName, String>,
    /// Those of which the task does not know yet.
    pub(super) unheard: BTreeSet<EnvironmentName>,
    /// Ledgers that environments wait for.
    pub(super) gates: BTreeMap<EnvironmentName, BTreeSet<LedgerName>>,
    pub(super) alarms: Vec<String>,
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
}

impl Desk {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
        let pending = Arc::make_mut(state.pending.entry(environment.clone()).or_default());
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
    pub(super) async fn gather(&self, quiet: Duration, limit: Duration) {
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
    pub(super) fn begin(&self) -> BTreeMap<EnvironmentName, String> {
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
