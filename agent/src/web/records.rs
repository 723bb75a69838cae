//! The API's view of the ledgers: what ran where, when and by whom, what it was, and how well releases go.

mod diff;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Has};
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use towpath_core::fault::Problem;
use towpath_core::ledger::figures::{self, Figures};
use towpath_core::ledger::{Entry, Fact, LedgerName, Record, files};
use towpath_core::revision::CommitId;
use towpath_core::status::{Outcome, Trigger};
use towpath_core::tree::Tree;

use super::State;
use super::api::Refusal;
use crate::blocking::blocking;
use crate::board::{Id, Ledgers, Page};
use crate::resources::Environment;

/// Records of one answer, where nothing is said.
const USUAL_LIMIT: usize = 50;
/// The most records of one answer.
pub const MAX_LIMIT: usize = 1000;
/// Days that figures are of, where nothing is said.
pub(super) const USUAL_DAYS: u16 = 30;
/// The most days that figures are of.
const MAX_DAYS: u16 = 366;
/// Records that figures are made of, from the newest.
const MAX_COUNTED: usize = 5000;
/// Differences that are made at one time.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// A ledger, as a list shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LedgerEntry {
    pub(super) cluster: String,
    pub(super) environment: String,
    /// Whether it is one of this agent.
    pub(super) own: bool,
    /// The Repository that it belongs to.
    pub(super) repository: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<RecordEntry>,
    /// Why it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

#[derive(Serialize)]
pub(super) struct LedgerList {
    ledgers: Vec<LedgerEntry>,
}

/// A record.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecordEntry {
    /// `prod@7`.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// The environment.
    pub environment: String,
    /// The number of the record.
    pub sequence: u64,
    /// The number of the sync.
    pub sync: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The commit of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// `Healthy` or `Degraded`, for a record of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// `branch@sha1:<commit>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// First line of that commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How the sync ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<i64>,
    /// Objects made, changed, left, deleted and failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<[u32; 5]>,
    /// Submodules and their commits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<(String, CommitId)>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl RecordEntry {
    pub(super) fn of(record: &Record, commit: Option<CommitId>) -> RecordEntry {
        let mut entry = RecordEntry {
            name: record.name(),
            cluster: record.ledger.cluster.clone(),
            environment: record.ledger.environment.to_string(),
            sequence: record.sequence,
            sync: record.sync,
            at: record.at,
            commit,
            health: None,
            revision: None,
            subject: None,
            outcome: None,
            trigger: None,
            requested_by: None,
            request: None,
            took_ms: None,
            objects: None,
            components: Vec::new(),
            message: None,
        };
        match &record.fact {
            Fact::Health(health) => {
                entry.health = Some(if health.is_healthy { "Healthy" } else { "Degraded" }.to_owned());
                entry.message = health.message.clone();
            }
            Fact::Sync(fact) => {
                let sync = &fact.sync;
                entry.revision = Some(sync.revision.clone());
                entry.subject = Some(sync.subject.clone());
                entry.outcome = Some(sync.outcome);
                entry.trigger = Some(sync.trigger);
                entry.requested_by = sync.requested_by.clone();
                entry.request = sync.request.clone();
                entry.took_ms = Some(sync.took_ms);
                entry.objects = Some([sync.created, sync.configured, sync.unchanged, sync.pruned, sync.failed]);
                entry.components = fact.components.clone();
                entry.message = sync.message.clone();
            }
        }
        entry
    }
}

/// An answer with records, the newest first.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The records.
    pub records: Vec<RecordEntry>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// One sync with its log and the files that it applied.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct SyncEntry {
    /// The record.
    #[serde(flatten)]
    pub record: RecordEntry,
    /// The log.
    pub log: String,
    /// Whether `files` is what was applied by this sync, and not by an earlier one.
    pub complete: bool,
    /// What was applied, with values of Secrets hidden.
    pub files: Vec<String>,
}

/// What differs between two syncs.
#[derive(Serialize, Deserialize, Debug)]
pub struct Difference {
    /// From this one.
    pub from: RecordEntry,
    /// To this one.
    pub to: RecordEntry,
    /// The files that differ.
    pub files: Vec<FileDifference>,
    /// How many more differ and are not shown.
    pub more: usize,
}

/// How one file differs.
#[derive(Serialize, Deserialize, Debug)]
pub struct FileDifference {
    /// Its path below `manifests/`.
    pub path: String,
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// A unified difference.
    pub diff: String,
}

/// Figures of one environment.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FiguresEntry {
    environment: String,
    cluster: String,
    from: Timestamp,
    to: Timestamp,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Deserialize, Default)]
pub(super) struct HistoryQuery {
    limit: Option<usize>,
    at: Option<Timestamp>,
    cluster: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct OfCluster {
    cluster: Option<String>,
    days: Option<u16>,
}

#[derive(Deserialize)]
pub(super) struct DiffQuery {
    from: String,
    to: String,
}

/// Every ledger, own ones and those of peers.
pub(super) async fn ledgers(Has(state): Has<State>) -> Json<LedgerList> {
    Json(LedgerList { ledgers: list(&state) })
}

/// Every ledger that the board shows.
pub(super) fn list(state: &State) -> Vec<LedgerEntry> {
    let mut all = Vec::new();
    for ((_, repository), ledgers) in state.board.ledgers() {
        for (name, head) in ledgers.heads() {
            all.push(LedgerEntry {
                own: name.cluster == ledgers.cluster(),
                cluster: name.cluster,
                environment: name.environment.to_string(),
                repository: repository.clone(),
                last: head.as_ref().ok().map(|[last, sync]| {
                    // What runs, also where the last record says how it fares.
                    let sync = RecordEntry::of(sync, None);
                    RecordEntry { revision: sync.revision, subject: sync.subject, ..RecordEntry::of(last, None) }
                }),
                problem: head.err().map(|problem| problem.message),
            });
        }
    }
    all
}

/// The records of one environment.
pub(super) async fn history(
    Has(state): Has<State>,
    Path(name): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<History>, Refusal> {
    let entry = entry(&name, query.cluster.as_deref(), None)?;
    let limit = query.limit.unwrap_or(USUAL_LIMIT).clamp(1, MAX_LIMIT);
    let (ledgers, name) = keeper(&state, &entry)?;
    let page = blocking(move || match query.at {
        None => ledgers.history(&name, limit),
        Some(at) => ledgers.at(&name, at).map(|found| Page { records: found.into_iter().collect(), has_more: false }),
    })
    .await
    .map_err(refusal)?;
    let records = page.records.iter().map(|(commit, record)| RecordEntry::of(record, Some(*commit))).collect();
    Ok(Json(History { records, has_more: page.has_more }))
}

/// One sync.
pub(super) async fn sync(
    Has(state): Has<State>,
    Path((name, number)): Path<(String, u64)>,
    Query(query): Query<OfCluster>,
) -> Result<Json<SyncEntry>, Refusal> {
    let entry = entry(&name, query.cluster.as_deref(), Some(number))?;
    let (ledgers, _) = keeper(&state, &entry)?;
    let (commit, record, tree) = blocking(move || with_files(&*ledgers, &entry)).await.map_err(refusal)?;
    let log = tree.file(files::LOG).map(|file| String::from_utf8_lossy(&file.bytes).into_owned()).unwrap_or_default();
    Ok(Json(SyncEntry {
        complete: record.sync().is_some_and(|fact| fact.has_manifests),
        record: RecordEntry::of(&record, Some(commit)),
        log,
        files: tree.below(files::MANIFESTS).map(|(path, _)| path.to_owned()).collect(),
    }))
}

/// What differs between two syncs, which may be of different environments and clusters.
pub(super) async fn diff(Has(state): Has<State>, Query(query): Query<DiffQuery>) -> Result<Json<Difference>, Refusal> {
    let (from, to): (Entry, Entry) = (parse(&query.from)?, parse(&query.to)?);
    let ((ledgers_from, _), (ledgers_to, _)) = (keeper(&state, &from)?, keeper(&state, &to)?);
    let permit = AT_ONCE.acquire().await.expect("it is never closed");
    let found = blocking(move || {
        // Held until the work is done, also where nobody waits for it any more.
        let _permit = permit;
        let (one, old, before) = with_files(&*ledgers_from, &from)?;
        let (other, new, after) = with_files(&*ledgers_to, &to)?;
        let (files, more) = diff::differences(&before, &after, old.ledger != new.ledger);
        Ok(Difference { from: RecordEntry::of(&old, Some(one)), to: RecordEntry::of(&new, Some(other)), files, more })
    });
    found.await.map(Json).map_err(refusal)
}

/// How well the releases of one environment go.
pub(super) async fn figures(
    Has(state): Has<State>,
    Path(name): Path<String>,
    Query(query): Query<OfCluster>,
) -> Result<Json<FiguresEntry>, Refusal> {
    let entry = entry(&name, query.cluster.as_deref(), None)?;
    let (ledgers, name) = keeper(&state, &entry)?;
    let to = Timestamp::now();
    let from = to - SignedDuration::from_hours(24 * i64::from(query.days.unwrap_or(USUAL_DAYS).clamp(1, MAX_DAYS)));
    let of = name.clone();
    let page = blocking(move || ledgers.history(&of, MAX_COUNTED)).await.map_err(refusal)?;
    let figures = figures::figures(page.records.iter().rev().map(|(_, record)| &**record), from, to);
    Ok(Json(FiguresEntry { environment: name.environment.to_string(), cluster: name.cluster, from, to, figures }))
}

/// The newest records of an environment of this agent, for the page; none where it has no ledger.
pub(super) async fn newest(state: &State, environment: &str) -> Option<Page> {
    let entry = entry(environment, None, None).ok()?;
    let (ledgers, name) = keeper(state, &entry).ok()?;
    blocking(move || ledgers.history(&name, MAX_COUNTED)).await.ok()
}

/// The repository of a sync and the revision that it was of, `branch@sha1:<commit>`; of an environment without a number
/// what it last ran. It reads files and blocks.
pub(super) fn revision(state: &State, entry: &Entry) -> Result<(Id, String), Refusal> {
    let (id, ledgers, name) = keeper_and_repository(state, entry)?;
    let record = match entry.sync {
        Some(_) => ledgers.sync(entry).map(|(_, record)| record).map_err(refusal)?,
        None => {
            let last = ledgers.at(&name, Timestamp::now()).map_err(refusal)?;
            last.map(|(_, record)| record)
                .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("ledger {name} has nothing that ran")))?
        }
    };
    let revision = record.sync().map(|fact| fact.sync.revision.clone());
    revision
        .map(|revision| (id, revision))
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("{entry} is no sync of a revision")))
}

fn with_files(ledgers: &dyn Ledgers, entry: &Entry) -> Result<(CommitId, Arc<Record>, Arc<Tree>), Problem> {
    let (commit, record) = ledgers.sync(entry)?;
    let tree = ledgers.files(commit)?;
    Ok((commit, record, tree))
}

/// The ledgers that have an entry's, and its name there. Where several repositories have one, that of the Repository that
/// the Environment has now counts, then one that is used, then the one with the newest record.
fn keeper(state: &State, entry: &Entry) -> Result<(Arc<dyn Ledgers>, LedgerName), Refusal> {
    keeper_and_repository(state, entry).map(|(_, ledgers, name)| (ledgers, name))
}

fn keeper_and_repository(state: &State, entry: &Entry) -> Result<(Id, Arc<dyn Ledgers>, LedgerName), Refusal> {
    let environments = state.board.environments();
    let is_it = |environment: &&Arc<Environment>| environment.name_any() == entry.environment.as_str();
    let repository = environments.iter().find(is_it).map(|environment| environment.repository_id());
    let all = state.board.ledgers();
    let found = all.into_iter().filter_map(|(id, ledgers)| {
        let cluster = entry.cluster.clone().unwrap_or_else(|| ledgers.cluster().to_owned());
        let is_own = cluster == ledgers.cluster();
        let name = LedgerName { cluster, environment: entry.environment.clone() };
        let last = ledgers.last(&name)?;
        let is_meant = is_own && repository.as_ref() == Some(&id);
        Some(((is_meant, last.ok().map(|[last, _]| last.at)), (id, ledgers, name)))
    });
    if let Some((_, keeper)) = found.max_by_key(|(rank, _)| *rank) {
        return Ok(keeper);
    }
    let cluster = entry.cluster.as_ref().map(|cluster| format!("{cluster}/")).unwrap_or_default();
    let refusal = Refusal::new(StatusCode::NOT_FOUND, format!("there is no ledger {cluster}{}", entry.environment));
    Err(refusal.hint("an environment has one once it was synced and its Repository has spec.ledger; one of another cluster needs that cluster in spec.peers"))
}

fn entry(name: &str, cluster: Option<&str>, sync: Option<u64>) -> Result<Entry, Refusal> {
    let cluster = cluster.map(|cluster| format!("{cluster}/")).unwrap_or_default();
    let sync = sync.map(|sync| format!("@{sync}")).unwrap_or_default();
    parse(&format!("{cluster}{name}{sync}"))
}

fn parse(text: &str) -> Result<Entry, Refusal> {
    text.parse().map_err(|problem: Problem| Refusal {
        status: StatusCode::BAD_REQUEST,
        error: problem.message,
        hint: problem.hint,
    })
}

/// What the ledger does not have is not there; what cannot be verified is not shown.
pub(super) fn refusal(problem: Problem) -> Refusal {
    use towpath_core::fault::Fault;
    let is_missing = problem.fault == Fault::Setup;
    let refusal = Refusal::from(problem);
    if is_missing { Refusal { status: StatusCode::NOT_FOUND, ..refusal } } else { refusal }
}
