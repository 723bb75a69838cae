//! The port for kubelet and Prometheus: is the agent alive, does it know its custom resources, and its figures.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Has;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kube::ResourceExt;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use towpath_core::lease::Standing;
use towpath_core::status::Condition;

use super::words;
use crate::board::Board;
use crate::metrics::Metrics;

/// Time for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct State {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    standing: watch::Receiver<Standing>,
}

/// `/healthz`, `/readyz` and `/metrics`.
pub(super) fn router(board: Arc<Board>, metrics: Arc<Metrics>, standing: watch::Receiver<Standing>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN))
        .layer(RequestBodyLimitLayer::new(0))
        .layer(axum::middleware::from_fn(super::guard::add_headers))
        .with_state(State { board, metrics, standing })
}

async fn ready(Has(state): Has<State>) -> Response {
    match &*state.standing.borrow() {
        // It is ready to take over as soon as it has seen the Lease.
        Standing::StandingBy { leader: Some(_) } => return "ok: stands by\n".into_response(),
        Standing::StandingBy { leader: None } => {
            return (StatusCode::SERVICE_UNAVAILABLE, "the lease was not read yet\n").into_response();
        }
        Standing::Alone | Standing::Leading if state.board.is_ready() => return "ok\n".into_response(),
        Standing::Alone | Standing::Leading => {}
    }
    (StatusCode::SERVICE_UNAVAILABLE, "the custom resources are not listed yet\n").into_response()
}

async fn metrics_text(Has(state): Has<State>) -> Response {
    let mut text = String::new();
    let written = write(&state, &mut text);
    if written.is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn write(state: &State, text: &mut String) -> std::fmt::Result {
    let mut registry = Registry::default();
    state.metrics.register(&mut registry);
    let leads = Gauge::<i64>::default();
    leads.set(i64::from(state.standing.borrow().works()));
    registry.register("towpath_leader", "1 where this replica works, 0 where it stands by", leads);
    derive(&state.board, &mut registry);
    text::encode(text, &registry)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    environment: String,
    lane: String,
    state: String,
    health: String,
    revision: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEnvironment {
    environment: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRepository {
    repository: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// What can be read from the custom resources as they are now.
fn derive(board: &Board, registry: &mut Registry) {
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
    registry.register("towpath_build_info", "The version of the agent", build);

    let (info, is_ready, objects) = (Family::<Info, Gauge>::default(), Family::default(), Family::default());
    let (problems, unhealthy) = (Family::default(), Family::default());
    let (orphans, kept, to_confirm) = (Family::default(), Family::default(), Family::default());
    for environment in board.environments() {
        let status = environment.status.clone().unwrap_or_default();
        let labels = OfEnvironment { environment: environment.name_any() };
        let set = |family: &Family<OfEnvironment, Gauge>, value: usize| {
            family.get_or_create(&labels).set(value as i64);
        };
        set(&is_ready, usize::from(is_true(&status.conditions, "Ready")));
        set(&objects, status.objects as usize);
        set(&problems, status.problems.len());
        set(&unhealthy, status.unhealthy.len());
        set(&orphans, status.leftovers.orphan_count as usize);
        set(&kept, status.leftovers.kept_count as usize);
        set(&to_confirm, status.leftovers.to_confirm_count as usize);
        let series = Info {
            environment: environment.name_any(),
            lane: environment.spec.lane.clone(),
            state: status.state.to_string(),
            health: words::health(status.health).to_owned(),
            revision: status.running.map(|running| running.revision).unwrap_or_default(),
        };
        info.get_or_create(&series).set(1);
    }
    registry.register("towpath_environment_info", "How each environment is, in words", info);
    registry.register("towpath_environment_ready", "1 where the condition Ready is true", is_ready);
    registry.register("towpath_environment_objects", "Objects of each environment", objects);
    registry.register("towpath_environment_problems", "What is wrong, counted up to 20", problems);
    registry.register("towpath_environment_unhealthy_objects", "Objects not healthy, counted up to 20", unhealthy);
    registry.register("towpath_orphans", "Objects that look like members and are not proven to be ours", orphans);
    registry.register("towpath_environment_kept_objects", "Members that left git and stay", kept);
    registry.register("towpath_environment_unconfirmed_deletions", "Deletions that wait for a person", to_confirm);

    let (is_ready, branches) = (Family::<OfRepository, Gauge>::default(), Family::<OfRepository, Gauge>::default());
    for repository in board.repositories() {
        let labels = OfRepository { repository: repository.name_any() };
        let status = repository.status.clone().unwrap_or_default();
        is_ready.get_or_create(&labels).set(i64::from(is_true(&status.conditions, "Ready")));
        branches.get_or_create(&labels).set(status.branches.len() as i64);
    }
    registry.register("towpath_repository_ready", "1 where the condition Ready is true", is_ready);
    registry.register("towpath_repository_branches", "Branches that are followed", branches);
}

fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}
