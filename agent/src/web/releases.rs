//! The API's view of releases: which component stands where, what lies between two revisions, and how clean branches are.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State as Has};
use axum::http::StatusCode;
use axum::response::Html;
use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use towpath_core::changelog::{Changelog, End};
use towpath_core::fault::Problem;
use towpath_core::hygiene::Hygiene;
use towpath_core::ledger::Entry;
use towpath_core::matrix::{self, Column, Matrix, Next, Snapshot};

use super::api::Refusal;
use super::{State, lookout, page, records};
use crate::blocking::blocking;
use crate::board::{Id, Releases};
use crate::resources::Environment;

/// Questions that are read from mirrors at one time.
static AT_ONCE: Semaphore = Semaphore::const_new(2);
/// Looks at the branches of all repositories at one time; the first one is long.
static LOOKS: Semaphore = Semaphore::const_new(1);

/// How long the page waits for the look at the branches; after that it is shown without.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);
/// How long the API waits for it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(8);

/// The matrices of all repositories, or of one environment.
#[derive(Serialize, Deserialize, Debug)]
pub struct Matrices {
    /// One for each repository that environments follow.
    pub repositories: Vec<Matrix>,
}

/// How clean the branches of repositories are.
#[derive(Serialize, Deserialize, Debug)]
pub struct Looks {
    /// One for each repository.
    pub repositories: Vec<Looked>,
}

/// How clean the branches of one repository are, or why that is not known.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// What was found.
    #[serde(flatten)]
    pub hygiene: Hygiene,
    /// Why nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfEnvironment {
    environment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfRepository {
    repository: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ends {
    from: String,
    to: String,
    repository: Option<String>,
}

/// The components of every environment, or of one.
pub(super) async fn components(
    Has(state): Has<State>,
    Query(query): Query<OfEnvironment>,
) -> Result<Json<Matrices>, Refusal> {
    let only = match &query.environment {
        None => None,
        Some(name) => Some(state.environment(name).ok_or_else(|| Refusal::no_environment(name))?),
    };
    let repositories = at_once(ANSWERED_WITHIN, move || matrices(&state, only.as_ref())).await;
    Ok(Json(Matrices { repositories: repositories.ok_or_else(slow)? }))
}

/// What lies between two revisions.
pub(super) async fn changelog(Has(state): Has<State>, Query(query): Query<Ends>) -> Result<Json<Changelog>, Refusal> {
    at_once(ANSWERED_WITHIN, move || between(&state, &query)).await.ok_or_else(slow)?.map(Json)
}

/// What is said of a read that takes long.
fn slow() -> Refusal {
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the commits are still being read");
    refusal.hint("ask again in a moment: what was read is kept")
}

/// Reads beside the runtime's own threads, not many at a time; none where that is not done within some time.
async fn at_once<T: Send + 'static>(within: Duration, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let reading = async {
        let permit = AT_ONCE.acquire().await.expect("it is never closed");
        blocking(move || {
            // Held until the work is done, also where nobody waits for it any more.
            let _permit = permit;
            read()
        })
        .await
    };
    tokio::time::timeout(within, reading).await.ok()
}

/// How clean the branches are.
pub(super) async fn hygiene(Has(state): Has<State>, Query(query): Query<OfRepository>) -> Result<Json<Looks>, Refusal> {
    let Some(looked) = looks(&state, ANSWERED_WITHIN).await else {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the branches are still being compared");
        return Err(refusal.hint("ask again in a moment: what was compared is kept"));
    };
    let Some(name) = query.repository else { return Ok(Json(Looks { repositories: looked })) };
    let repositories: Vec<Looked> =
        looked.into_iter().filter(|looked| is_called(&looked.hygiene.repository, &name)).collect();
    if repositories.is_empty() {
        let refusal = Refusal::new(StatusCode::NOT_FOUND, format!("there is no repository {name:?}"));
        return Err(refusal.hint("GET /api/v1/repositories lists them"));
    }
    Ok(Json(Looks { repositories }))
}

/// The page with the matrix and the branches.
pub(super) async fn page(Has(state): Has<State>) -> Result<Html<String>, Refusal> {
    let of_all = state.clone();
    let found = at_once(ANSWERED_WITHIN, move || matrices(&of_all, None)).await.ok_or_else(slow)?;
    let looked = looks(&state, SHOWN_WITHIN).await;
    Ok(Html(page::releases(&found, looked.as_deref(), Timestamp::now())))
}

/// What the candidate of an environment brings, or why that is not known; none where there is no candidate.
pub(super) async fn brings(state: &State, environment: &Environment) -> Option<Result<Changelog, String>> {
    let status = environment.status.as_ref()?;
    let (running, candidate) = (status.running.as_ref()?, status.candidate.as_ref()?);
    let releases = state.board.releases_of(&environment.repository_id())?;
    let end = |name: &str, revision: &str| End { name: name.to_owned(), revision: revision.to_owned() };
    let (from, to) = (end("running", &running.revision), end("candidate", &candidate.revision));
    let told = at_once(SHOWN_WITHIN, move || releases.changelog(from, to)).await;
    Some(match told {
        Some(told) => told.map_err(|problem| problem.to_string()),
        None => Err("it is still being read: look again in a moment".to_owned()),
    })
}

/// The environments side by side, by repository.
fn matrices(state: &State, only: Option<&Arc<Environment>>) -> Vec<Matrix> {
    let repositories = state.board.repositories();
    let environments = match only {
        Some(only) => vec![only.clone()],
        None => lookout::in_order(&state.board.environments(), &repositories),
    };
    let is_of_one = |one: &Arc<Environment>, other: &Arc<Environment>| one.repository_id() == other.repository_id();
    let matrix = |group: &[Arc<Environment>]| {
        let id = group[0].repository_id();
        let releases = state.board.releases_of(&id);
        let environments = group.iter().map(|environment| column(environment, releases.as_deref())).collect();
        Matrix { repository: format!("{}/{}", id.0, id.1), environments }
    };
    environments.chunk_by(is_of_one).map(matrix).collect()
}

fn column(environment: &Environment, releases: Option<&dyn Releases>) -> Column {
    let mut column = Column {
        environment: environment.name_any(),
        lane: environment.spec.lane.clone(),
        running: None,
        next: None,
        unknown: None,
    };
    let status = environment.status.as_ref();
    let Some(running) = status.and_then(|status| status.running.as_ref()) else { return column };
    let runs = status.map(|status| &status.components[..]).unwrap_or_default();
    let read = |revision: &str| match releases {
        Some(releases) => releases.snapshot(revision, runs),
        None => Err(Problem::passing("there is no Repository of this name, or it was not looked at yet")),
    };
    match read(&running.revision) {
        Ok(snapshot) => column.running = Some(Snapshot::clone(&snapshot)),
        Err(problem) => column.unknown = Some(problem.to_string()),
    }
    if let Some(candidate) = status.and_then(|status| status.candidate.as_ref()) {
        column.next = Some(match (read(&candidate.revision), &column.unknown) {
            (Ok(snapshot), None) => matrix::next(column.running.as_ref(), &snapshot),
            (Ok(_), Some(why)) => unknown(&candidate.revision, why.clone()),
            (Err(problem), _) => unknown(&candidate.revision, problem.to_string()),
        });
    }
    column
}

fn unknown(revision: &str, why: String) -> Next {
    Next { revision: revision.to_owned(), components: Vec::new(), removed: Vec::new(), problems: vec![why] }
}

/// Looks at the branches of all repositories; none where that is not done within some time. It goes on then, and is kept
/// for whoever asks next.
async fn looks(state: &State, within: Duration) -> Option<Vec<Looked>> {
    let all = state.board.releases();
    let looking = async {
        let permit = LOOKS.acquire().await.expect("it is never closed");
        blocking(move || {
            let _permit = permit;
            all.into_iter().map(looked).collect()
        })
        .await
    };
    tokio::time::timeout(within, looking).await.ok()
}

fn looked((id, releases): (Id, Arc<dyn Releases>)) -> Looked {
    let repository = format!("{}/{}", id.0, id.1);
    match releases.hygiene() {
        Ok(hygiene) => Looked { hygiene: Hygiene { repository, ..(*hygiene).clone() }, problem: None },
        Err(problem) => {
            let hygiene = Hygiene { repository, ..Hygiene::default() };
            Looked { hygiene, problem: Some(problem.to_string()) }
        }
    }
}

fn is_called(repository: &str, name: &str) -> bool {
    repository == name || repository.rsplit('/').next() == Some(name)
}

/// Finds both ends in one repository, and what lies between them.
fn between(state: &State, query: &Ends) -> Result<Changelog, Refusal> {
    let [from, to] = [&query.from, &query.to].map(|name| found(state, name));
    let (from, to) = (from?, to?);
    let is_meant =
        |id: &Id| query.repository.as_ref().is_none_or(|name| is_called(&format!("{}/{}", id.0, id.1), name));
    let mut pairs: Vec<(&Id, &str, &str)> = from
        .iter()
        .filter(|(id, _)| is_meant(id))
        .filter_map(|(id, from)| Some((id, &**from, &*to.iter().find(|(other, _)| other == id)?.1)))
        .collect();
    let (id, one, other) = match (pairs.pop(), pairs.is_empty()) {
        (Some(pair), true) => pair,
        (Some(_), false) => {
            let error = format!("{} and {} are in several repositories", query.from, query.to);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, error).hint("name one with repository"));
        }
        (None, _) => {
            let error = format!("{} and {} are not of one repository", query.from, query.to);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
        }
    };
    let releases = state.board.releases_of(id).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("the Repository {}/{} is gone, or was not looked at yet", id.0, id.1),
        )
    })?;
    let end = |name: &str, revision: &str| End { name: name.to_owned(), revision: revision.to_owned() };
    releases.changelog(end(&query.from, one), end(&query.to, other)).map_err(Refusal::from)
}

/// The revisions that somebody may mean: what an environment runs, what a sync was of, a branch, a commit.
fn found(state: &State, name: &str) -> Result<Vec<(Id, String)>, Refusal> {
    if let Some(environment) = state.environment(name) {
        let running = environment.status.as_ref().and_then(|status| status.running.as_ref());
        let Some(running) = running else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("environment {name} runs nothing yet")));
        };
        return Ok(vec![(environment.repository_id(), running.revision.clone())]);
    }
    let (mut revisions, mut trouble) = (Vec::new(), None);
    for (id, releases) in state.board.releases() {
        match releases.find(name) {
            Ok(revision) => revisions.extend(revision.map(|revision| (id, revision))),
            Err(problem) => trouble = Some(problem),
        }
    }
    if !revisions.is_empty() {
        return Ok(revisions);
    }
    // `cluster/environment` may also be the name of a branch, which was looked for above.
    if (name.contains('@') || name.contains('/'))
        && let Ok(entry) = name.parse::<Entry>()
    {
        return records::revision(state, &entry).map(|found| vec![found]);
    }
    match trouble {
        Some(problem) => Err(records::refusal(problem)),
        None => {
            let error = format!("there is no environment, no followed branch and no commit {name:?}");
            let hint = "write an environment, a sync such as prod@3, a branch that an environment follows, or at least 7 digits of a commit";
            Err(Refusal::new(StatusCode::NOT_FOUND, error).hint(hint))
        }
    }
}
