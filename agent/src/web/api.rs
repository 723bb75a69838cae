//! The HTTP API, version 1: what the page shows, as JSON, and errors as `{"error": …, "hint": …}`.
//!
//! Values of an Environment are left out, for people put secrets there that they should not.

use axum::Json;
use axum::extract::{Path, State as Has};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kube::ResourceExt;
use serde::Serialize;
use towpath_core::fault::{Fault, Problem};
use towpath_core::names::annotation;
use towpath_core::status::EnvironmentStatus;

use super::State;
use crate::resources::{Drift, Environment, Preflights, Repository, RepositoryStatus, Sync};

/// Why a request is not answered.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    #[serde(skip)]
    pub(super) status: StatusCode,
    pub(super) error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal { status, error: error.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn no_environment(name: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, format!("there is no environment {name:?}"))
            .hint("GET /api/v1/environments lists them")
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        let status = match problem.fault {
            Fault::Passing => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Content | Fault::Setup => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal { status, error: problem.message, hint: problem.hint }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

#[derive(Serialize)]
pub(super) struct Environments {
    environments: Vec<EnvironmentEntry>,
}

#[derive(Serialize)]
pub(super) struct Repositories {
    repositories: Vec<RepositoryEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvironmentEntry {
    name: String,
    home: String,
    generation: i64,
    spec: Spec,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestEntry>,
    status: EnvironmentStatus,
}

/// The last request for a sync.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestEntry {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_by: Option<String>,
    handled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    repository: String,
    lane: String,
    path: String,
    namespace: String,
    sync: Sync,
    drift: Drift,
    preflight: Preflights,
    prune: bool,
    suspend: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RepositoryEntry {
    name: String,
    home: String,
    generation: i64,
    url: String,
    status: RepositoryStatus,
}

/// Every Environment, in the order of the page.
pub(super) async fn environments(Has(state): Has<State>) -> Json<Environments> {
    let repositories = state.board.repositories();
    let sorted = super::lookout::in_order(&state.board.environments(), &repositories);
    Json(Environments { environments: sorted.iter().map(|environment| EnvironmentEntry::of(environment)).collect() })
}

/// One Environment.
pub(super) async fn environment(
    Has(state): Has<State>,
    Path(name): Path<String>,
) -> Result<Json<EnvironmentEntry>, Refusal> {
    let environment = state.environment(&name).ok_or_else(|| Refusal::no_environment(&name))?;
    Ok(Json(EnvironmentEntry::of(&environment)))
}

/// Every Repository.
pub(super) async fn repositories(Has(state): Has<State>) -> Json<Repositories> {
    let repositories = state.board.repositories();
    Json(Repositories { repositories: repositories.iter().map(|repository| RepositoryEntry::of(repository)).collect() })
}

impl EnvironmentEntry {
    fn of(environment: &Environment) -> EnvironmentEntry {
        let spec = &environment.spec;
        let home = environment.namespace().unwrap_or_default();
        let status = environment.status.clone().unwrap_or_default();
        let annotations = environment.annotations();
        let request = annotations.get(annotation::REQUESTED_AT).map(|id| RequestEntry {
            id: id.clone(),
            requested_by: annotations.get(annotation::REQUESTED_BY).cloned(),
            handled: status.last_handled_request.as_ref() == Some(id),
        });
        EnvironmentEntry {
            name: environment.name_any(),
            generation: environment.metadata.generation.unwrap_or_default(),
            spec: Spec {
                repository: spec.repository.clone(),
                lane: spec.lane.clone(),
                path: spec.path.clone(),
                namespace: spec.namespace.clone().unwrap_or_else(|| home.clone()),
                sync: spec.sync,
                drift: spec.drift,
                preflight: spec.preflight,
                prune: spec.prune.unwrap_or(true),
                suspend: spec.suspend,
            },
            home,
            request,
            status,
        }
    }
}

impl RepositoryEntry {
    fn of(repository: &Repository) -> RepositoryEntry {
        RepositoryEntry {
            name: repository.name_any(),
            home: repository.namespace().unwrap_or_default(),
            generation: repository.metadata.generation.unwrap_or_default(),
            url: super::words::shown_url(&repository.spec.url),
            status: repository.status.clone().unwrap_or_default(),
        }
    }
}
