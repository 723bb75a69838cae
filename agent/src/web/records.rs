//! The API's view of the ledgers: what ran where, when and by whom, what it was, and how well releases go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

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
use towpath_core::names::{ENVIRONMENT_LABEL, PART_OF_LABEL};
use towpath_core::revision::CommitId;
use towpath_core::status::{Outcome, Trigger};
use towpath_core::tree::Tree;

use super::State;
use super::api::Refusal;
use crate::blocking::blocking;
use crate::board::{Ledgers, Page};
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
/// Bytes of the two sides of one file that are compared line by line.
const MAX_COMPARED: usize = 1 << 20;
/// Files of one difference.
const MAX_FILES: usize = 2000;
/// Bytes of one difference; files after that are only named.
const MAX_SHOWN: usize = 8 << 20;
/// For comparing two files in the shortest way; after that in one that is good enough.
const PATIENCE: Duration = Duration::from_millis(200);
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
        let (files, more) = differences(&before, &after, old.ledger != new.ledger);
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

fn with_files(ledgers: &dyn Ledgers, entry: &Entry) -> Result<(CommitId, Arc<Record>, Arc<Tree>), Problem> {
    let (commit, record) = ledgers.sync(entry)?;
    let tree = ledgers.files(commit)?;
    Ok((commit, record, tree))
}

/// The ledgers that have an entry's, and its name there. Where several repositories have one, that of the Repository that
/// the Environment has now counts, then one that is used, then the one with the newest record.
fn keeper(state: &State, entry: &Entry) -> Result<(Arc<dyn Ledgers>, LedgerName), Refusal> {
    let environments = state.board.environments();
    let is_it = |environment: &&Arc<Environment>| environment.name_any() == entry.environment.as_str();
    let repository = environments.iter().find(is_it).map(|environment| environment.repository_id());
    let all = state.board.ledgers();
    let found = all.into_iter().filter_map(|(id, ledgers)| {
        let cluster = entry.cluster.clone().unwrap_or_else(|| ledgers.cluster().to_owned());
        let is_own = cluster == ledgers.cluster();
        let name = LedgerName { cluster, environment: entry.environment.clone() };
        let (_, head) = ledgers.heads().into_iter().find(|(known, _)| *known == name)?;
        let is_meant = is_own && repository.as_ref() == Some(&id);
        Some(((is_meant, head.ok().map(|[last, _]| last.at)), (ledgers, name)))
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
fn refusal(problem: Problem) -> Refusal {
    use towpath_core::fault::Fault;
    let is_missing = problem.fault == Fault::Setup;
    let refusal = Refusal::from(problem);
    if is_missing { Refusal { status: StatusCode::NOT_FOUND, ..refusal } } else { refusal }
}

/// A file of each side, or of one.
type Pair<'a> = (Option<&'a str>, Option<&'a str>);

/// The files to be compared. Across environments an object of the same kind and name is the same one in another
/// namespace, where there is only one on each side.
fn pairs<'a>(before: &'a Tree, after: &'a Tree, is_across: bool) -> Vec<Pair<'a>> {
    let below = |tree: &'a Tree| tree.below(files::MANIFESTS).map(|(path, _)| path).collect::<BTreeSet<&str>>();
    let (old, new) = (below(before), below(after));
    let mut pairs: Vec<Pair<'a>> = old.intersection(&new).map(|path| (Some(*path), Some(*path))).collect();
    let (gone, come): (Vec<&str>, Vec<&str>) =
        (old.difference(&new).copied().collect(), new.difference(&old).copied().collect());
    // By kind and name, those that stand on one side only.
    let alone = |paths: &[&'a str]| {
        let mut all: BTreeMap<&'a str, Option<&'a str>> = BTreeMap::new();
        for path in paths.iter().filter(|_| is_across) {
            let object = object_of(path).unwrap_or(path);
            all.entry(object).and_modify(|one| *one = None).or_insert(Some(path));
        }
        all
    };
    let (lost, found) = (alone(&gone), alone(&come));
    let twin = |path: &str, here: &BTreeMap<&'a str, Option<&'a str>>, there: &BTreeMap<&'a str, Option<&'a str>>| {
        let object = object_of(path).unwrap_or(path);
        here.get(object).copied().flatten()?;
        there.get(object).copied().flatten()
    };
    pairs.extend(gone.iter().map(|path| (Some(*path), twin(path, &lost, &found))));
    let only_new = come.iter().filter(|path| twin(path, &found, &lost).is_none());
    pairs.extend(only_new.map(|path| (None, Some(*path))));
    pairs.sort_by_key(|(old, new)| old.or(*new));
    pairs
}

/// Kind and name of a file `manifests/<namespace>/<Kind>/<name>.yaml`.
fn object_of(path: &str) -> Option<&str> {
    let (_, object) = shown(path).split_once('/')?;
    Some(object)
}

/// A path as people see it.
fn shown(path: &str) -> &str {
    path.strip_prefix(files::MANIFESTS).unwrap_or(path).trim_start_matches('/')
}

/// The text of a file; across environments without what only says whose it is.
fn text(tree: &Tree, path: Option<&str>, is_across: bool) -> Option<String> {
    const OWN: [&str; 2] = [ENVIRONMENT_LABEL, PART_OF_LABEL];
    let path = path?;
    let whole = String::from_utf8_lossy(&tree.file(path)?.bytes).into_owned();
    if !is_across {
        return Some(whole);
    }
    let namespace = shown(path).split_once('/').map(|(namespace, _)| format!("  namespace: {namespace}"));
    let is_own = |line: &&str| {
        let is_label = line.trim_start().split_once(": ").is_some_and(|(name, _)| OWN.contains(&name));
        is_label || namespace.as_deref() == Some(*line)
    };
    Some(whole.lines().filter(|line| !is_own(line)).flat_map(|line| [line, "\n"]).collect())
}

fn differences(before: &Tree, after: &Tree, is_across: bool) -> (Vec<FileDifference>, usize) {
    let (mut found, mut more, mut shown_bytes) = (Vec::new(), 0, 0);
    for (old_path, new_path) in pairs(before, after, is_across) {
        let id = |tree: &Tree, path: Option<&str>| path.and_then(|path| tree.file(path)).map(|file| file.id);
        if old_path == new_path && id(before, old_path) == id(after, new_path) {
            continue;
        }
        let (old, new) = (text(before, old_path, is_across), text(after, new_path, is_across));
        if old == new {
            continue;
        }
        if found.len() == MAX_FILES {
            more += 1;
            continue;
        }
        let (change, path) = match (old_path, new_path) {
            (None, _) => ("added", shown(new_path.unwrap_or_default()).to_owned()),
            (Some(old), None) => ("removed", shown(old).to_owned()),
            (Some(old), Some(new)) if old == new => ("changed", shown(old).to_owned()),
            (Some(old), Some(new)) => ("changed", format!("{} → {}", shown(old), shown(new))),
        };
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let diff = if old.len() + new.len() > MAX_COMPARED || shown_bytes > MAX_SHOWN {
            "too long to be compared here\n".to_owned()
        } else {
            let compared = similar::TextDiff::configure().timeout(PATIENCE).diff_lines(&old, &new);
            compared.unified_diff().context_radius(3).to_string()
        };
        shown_bytes += diff.len();
        found.push(FileDifference { path, change: change.to_owned(), diff });
    }
    (found, more)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use towpath_core::revision::BlobId;
    use towpath_core::tree::{File, TreeBuilder};

    use super::*;

    fn said(before: &Tree, after: &Tree, is_across: bool) -> String {
        let (files, more) = differences(before, after, is_across);
        let files = files.iter().map(|file| format!("{} ({})\n{}", file.path, file.change, file.diff));
        format!("{}{more} more", files.collect::<String>())
    }

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = TreeBuilder::default();
        for (path, text) in files {
            let file = File { id: BlobId::from_bytes([text.len() as u8; 20]), bytes: text.as_bytes().into() };
            tree.file(format!("manifests/{path}"), file).unwrap();
        }
        tree.build()
    }

    #[test]
    fn two_syncs_of_one_environment_differ_by_their_files() {
        let before = tree(&[("web/ConfigMap/a.yaml", "a: 1\n"), ("web/ConfigMap/b.yaml", "b: 1\n")]);
        let after = tree(&[("web/ConfigMap/a.yaml", "a: 10\n"), ("other/ConfigMap/b.yaml", "b: 1\n")]);
        expect![[r#"
            other/ConfigMap/b.yaml (added)
            @@ -0,0 +1 @@
            +b: 1
            web/ConfigMap/a.yaml (changed)
            @@ -1 +1 @@
            -a: 1
            +a: 10
            web/ConfigMap/b.yaml (removed)
            @@ -1 +0,0 @@
            -b: 1
            0 more"#]]
        .assert_eq(&said(&before, &after, false));
    }

    #[test]
    fn across_environments_the_same_object_stands_in_another_namespace() {
        let text = |namespace: &str, environment: &str, replicas: u8| {
            format!(
                "kind: Deployment\nmetadata:\n  labels:\n    towpath.dev/environment: {environment}\n  namespace: {namespace}\nspec:\n  replicas: {replicas}\n"
            )
        };
        let (staging, prod) = (text("shop-staging", "staging", 2), text("shop-prod", "prod", 3));
        let before = tree(&[("shop-staging/Deployment.apps/web.yaml", &staging), ("_cluster/Namespace/x.yaml", "x\n")]);
        let after = tree(&[("shop-prod/Deployment.apps/web.yaml", &prod), ("_cluster/Namespace/x.yaml", "x\n")]);
        expect![[r#"
            shop-staging/Deployment.apps/web.yaml → shop-prod/Deployment.apps/web.yaml (changed)
            @@ -2,4 +2,4 @@
             metadata:
               labels:
             spec:
            -  replicas: 2
            +  replicas: 3
            0 more"#]]
        .assert_eq(&said(&before, &after, true));
        let same = tree(&[("shop-prod/Deployment.apps/web.yaml", &text("shop-prod", "prod", 2))]);
        let before = tree(&[("shop-staging/Deployment.apps/web.yaml", &staging)]);
        assert_eq!(said(&before, &same, true), "0 more");
        // Where there are two of that name it is not known which one is meant.
        let two = tree(&[("a/Deployment.apps/web.yaml", "1\n"), ("b/Deployment.apps/web.yaml", "2\n")]);
        assert_eq!(differences(&before, &two, true).0.len(), 3);
    }
}
