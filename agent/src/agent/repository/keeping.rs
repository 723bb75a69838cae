//! What a Repository's task does for the task of its ledgers: it begins that one, with what the custom resource says,
//! and tells of it in the status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;
use towpath_core::ledger::LedgerName;
use towpath_core::ledger::passed::Gates;
use towpath_core::names;
use towpath_core::status::Condition;

use super::Task;
use crate::agent::ledger::{self, Known, Terms};
use crate::agent::open::READ_SECRET_AFTER;
use crate::blocking::blocking;
use crate::board::Ledgers;
use crate::ledger::{Head, Reader, remembered};
use crate::repo::{self, Credentials, Mirror, Remote};
use crate::resources::{LedgerRule, Repository, ResolvedRepository};

/// Ledgers of others whose heads are remembered in the status.
const MAX_REMEMBERED: usize = 1000;
/// The condition that says whether syncs are recorded.
const RECORDED: &str = "Recorded";

/// The task of the ledgers, and what it was begun with.
pub(super) struct Keeping {
    /// Another one begins the task anew.
    begun_with: Begun,
    credentials: Credentials,
    read_at: Instant,
    /// Where the ledgers are kept, if that is another repository.
    elsewhere: Option<(String, Arc<Mirror>)>,
    stop: CancellationToken,
    /// Ends before it is stopped only by a panic: then it is begun anew.
    task: JoinHandle<()>,
}

#[derive(Clone, PartialEq)]
struct Begun {
    rule: LedgerRule,
    peers: Vec<(String, towpath_core::signature::PublicKey)>,
    interval: std::time::Duration,
    url: String,
}

/// A mirror with other credentials: only one may have its folder.
async fn renewed(mirror: Arc<Mirror>, credentials: Credentials) -> Result<Arc<Mirror>, Problem> {
    let same = mirror.clone();
    blocking(move || same.set_credentials(credentials)).await?;
    Ok(mirror)
}

/// The last records of the agent's own ledgers, or why they are not used.
fn own_heads(known: &Known) -> impl Iterator<Item = &Result<Head, Problem>> {
    let own = |name: &LedgerName| name.cluster == known.reader.cluster();
    known.reader.heads().iter().filter(move |(name, _)| own(name)).map(|(_, head)| head)
}

impl Task {
    /// Begins the task of the ledgers where one is wanted, begins it anew where something about it has changed, and ends
    /// it where none is wanted.
    pub(super) async fn keep_ledger(&mut self, resolved: &ResolvedRepository) {
        let Some(rule) = resolved.ledger.clone() else {
            self.ledger_problem = None;
            self.end_ledger();
            return;
        };
        // Environments wait for the first look before they count their syncs.
        self.slot.desk.switch(true);
        if let Err(problem) = self.try_to_keep(resolved, rule).await {
            tracing::warn!(repository = self.id.1, %problem, "the ledgers cannot be kept");
            self.slot.desk.cannot_look();
            self.ledger_problem = Some(problem);
        } else {
            self.ledger_problem = None;
        }
    }

    async fn try_to_keep(&mut self, resolved: &ResolvedRepository, rule: LedgerRule) -> Result<(), Problem> {
        let Some(source) = self.open.as_ref().map(|opened| opened.open.mirror.clone()) else { return Ok(()) };
        let cluster = &self.shared.settings.cluster_name;
        if !names::is_dns_label(cluster) {
            return Err(Problem::setup(format!("{cluster:?} cannot be the name of a ledger's cluster"))
                .hint("start the agent with --cluster and up to 63 of a-z, 0-9 and -"));
        }
        let begun_with = Begun {
            rule: rule.clone(),
            peers: resolved.peers.clone(),
            interval: resolved.interval,
            url: resolved.url.clone(),
        };
        if let Some(keeping) = &mut self.ledger
            && keeping.begun_with == begun_with
            && !keeping.task.is_finished()
        {
            let has_trouble = self.slot.desk.known().is_some_and(|known| known.problem.is_some());
            if !has_trouble && keeping.read_at.elapsed() < READ_SECRET_AFTER {
                return Ok(());
            }
            keeping.read_at = Instant::now();
        }
        let credentials = self.shared.credentials(&resolved.home, rule.secret.as_deref()).await?;
        let is_same = |keeping: &Keeping| {
            keeping.begun_with == begun_with && keeping.credentials.is_same(&credentials) && !keeping.task.is_finished()
        };
        if self.ledger.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        let key = self.shared.key().await?;
        // What was told and is not written yet stays on the desk.
        let before = self.ledger.take();
        if let Some(before) = &before {
            before.stop.cancel();
        }
        let elsewhere = match &rule.url {
            None => None,
            Some(url) => {
                let open = before.and_then(|before| before.elsewhere).filter(|(known, _)| known == url);
                let mirror = match open {
                    Some((_, mirror)) => renewed(mirror, credentials.clone()).await?,
                    None => self.mirror_of(url, credentials.clone()).await?,
                };
                Some((url.clone(), mirror))
            }
        };
        let mirror = elsewhere.as_ref().map_or_else(|| source.clone(), |(_, mirror)| mirror.clone());
        let terms = Terms {
            source,
            mirror,
            credentials: credentials.clone(),
            as_branches: rule.as_branches,
            peers: resolved.peers.clone(),
            key,
            interval: self.shared.settings.scaled(resolved.interval),
        };
        let stop = CancellationToken::new();
        let (slot, shared) = (self.slot.clone(), self.shared.clone());
        let publish = {
            let (slot, shared, id) = (slot.clone(), shared.clone(), self.id.clone());
            move |gates, reader: Option<Reader>| {
                slot.publish_gates(gates);
                shared.board.put_ledgers(&id, reader.map(|reader| Arc::new(reader) as Arc<dyn Ledgers>));
                // The repository's task takes alarms and tells of the ledgers in its status.
                slot.desk.news.notify_one();
            }
        };
        let remembered = self.status.ledgers.clone();
        let task = tokio::spawn(ledger::run(shared, slot.desk.clone(), terms, remembered, publish, stop.clone()));
        self.ledger = Some(Keeping { begun_with, credentials, read_at: Instant::now(), elsewhere, stop, task });
        Ok(())
    }

    /// A mirror for ledgers that are kept in another repository.
    async fn mirror_of(&self, url: &str, credentials: Credentials) -> Result<Arc<Mirror>, Problem> {
        let remote: Remote = url.parse()?;
        let folder = self.folder(&format!("ledger {url}"));
        let terms = repo::Terms { ssh: self.shared.settings.ssh.clone(), ..repo::Terms::default() };
        Ok(Arc::new(blocking(move || Mirror::open_on(&folder, remote, credentials, terms)).await?))
    }

    /// Ends the task of the ledgers, if there is one.
    pub(super) fn end_ledger(&mut self) {
        if let Some(keeping) = self.ledger.take() {
            keeping.stop.cancel();
        }
        self.slot.desk.switch(false);
        self.slot.publish_gates(Gates::new());
        self.shared.board.put_ledgers(&self.id, None);
    }

    /// The last records of others' ledgers, as the status remembers them. What is not used now stays as it was.
    pub(super) fn ledgers(&self) -> Vec<String> {
        let Some(known) = self.slot.desk.known() else { return self.status.ledgers.clone() };
        let is_other = |name: &LedgerName| name.cluster != known.reader.cluster();
        let mut marks: BTreeMap<LedgerName, String> = BTreeMap::new();
        for line in &self.status.ledgers {
            marks.extend(remembered(line).map(|(name, mark)| (name, mark.to_owned())));
        }
        let now = known.marks.iter().filter(|(name, _)| is_other(name));
        marks.extend(now.map(|(name, mark)| (name.clone(), mark.clone())));
        // What others wait for comes first, and what nobody can read any more is not remembered.
        let gates = self.slot.gates();
        let is_read = |name: &LedgerName| known.reader.heads().contains_key(name);
        let (gating, rest): (Vec<_>, Vec<_>) =
            marks.into_iter().filter(|(name, _)| is_read(name)).partition(|(name, _)| gates.contains_key(name));
        let mut kept: Vec<_> = gating.into_iter().chain(rest).take(MAX_REMEMBERED).collect();
        kept.sort();
        kept.into_iter().map(|(name, mark)| format!("{name} {mark}")).collect()
    }

    /// Whether syncs are recorded, as a condition.
    pub(super) fn recorded(&self, resource: &Repository, now: Timestamp) -> Condition {
        let known = self.slot.desk.known();
        let mut problem = self.ledger_problem.clone();
        if let (Some(known), None) = (&known, &problem) {
            let trouble = own_heads(known).find_map(|head| head.as_ref().err().cloned());
            problem = known.problem.clone().or(trouble);
        }
        let is_wanted = self.ledger.is_some() || self.ledger_problem.is_some();
        let (status, reason, message) = match (problem, known) {
            (Some(problem), _) => ("False", "NotRecorded", problem.to_string()),
            (None, Some(known)) => ("True", "Recorded", format!("{} ledgers are kept", own_heads(&known).count())),
            (None, None) if is_wanted => ("Unknown", "NotReadYet", "the ledgers were not read yet".to_owned()),
            (None, None) => {
                ("False", "Off", "no ledger is kept (spec.ledger); the last syncs stand in the statuses".to_owned())
            }
        };
        Condition::after(&self.status.conditions, now, (RECORDED, status), reason, message)
            .of_generation(resource.metadata.generation)
    }
}
