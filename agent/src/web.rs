//! The web door: the status page, the HTTP API, and on a port of their own the probes and the metrics.
//!
//! It reads the [`Board`] and nothing else, and writes nothing but the annotations that ask for a sync or a rollback: what
//! is done about them is the agent's business. Every page works without JavaScript and without a mouse.
//!
//! Who may come in: with a token everyone who has it. Without one the door listens on the machine itself only, shows
//! what there is, and takes no requests. Probes and metrics are open, for kubelet and Prometheus have no token.

mod api;
mod assets;
mod guard;
mod listen;
mod lookout;
mod page;
mod probes;
pub mod records;
pub mod releases;
mod request;
mod rollback;
mod standing;
mod words;

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Has;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures::future::BoxFuture;
use kube::ResourceExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use towpath_core::fault::Problem;
use towpath_core::lease::Standing;

use crate::board::{Board, Id};
use crate::metrics::Metrics;
use crate::resources::Environment;
use listen::Listener;

/// Bytes of a request's body.
pub const MAX_BODY_BYTES: usize = 64 << 10;
/// Connections of page and API at one time; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 512;
/// Connections of probes and metrics at one time.
pub const MAX_PROBE_CONNECTIONS: usize = 64;
/// Characters that a token must have at least: it can be guessed at over the network.
pub const MIN_TOKEN_CHARS: usize = 16;
/// Time for everything but a request that waits.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Where the door is and who may come in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where page and API listen.
    pub listen: SocketAddr,
    /// Where probes and metrics listen.
    pub probes: SocketAddr,
    /// What callers must know.
    pub token: Option<Token>,
    /// Whether this replica leads: one that stands by has nothing to show.
    pub standing: watch::Receiver<Standing>,
}

/// The token that callers must know. It may be replaced while the agent runs.
#[derive(Clone, Debug)]
pub struct Token(Arc<RwLock<SecretString>>);

impl Token {
    /// A token.
    pub fn new(token: SecretString) -> Token {
        Token(Arc::new(RwLock::new(token)))
    }

    /// Another one from now on.
    ///
    /// # Errors
    /// `Setup` when it is easily guessed; the old one then stays.
    pub fn replace(&self, token: SecretString) -> Result<(), Problem> {
        check_length(&token)?;
        *self.0.write().expect("nothing panics while it holds this lock") = token;
        Ok(())
    }

    fn read(&self) -> SecretString {
        self.0.read().expect("nothing panics while it holds this lock").clone()
    }
}

fn check_length(token: &SecretString) -> Result<(), Problem> {
    if token.expose_secret().chars().count() < MIN_TOKEN_CHARS {
        return Err(Problem::setup(format!("the token is shorter than {MIN_TOKEN_CHARS} characters"))
            .hint("make one with: openssl rand -hex 32"));
    }
    Ok(())
}

impl Settings {
    /// # Errors
    /// `Setup` where the page would be open to a network, or the token is easily guessed.
    fn check(&self) -> Result<(), Problem> {
        match &self.token {
            None if !self.is_local() => Err(Problem::setup(format!(
                "the page would listen on {}, which others can reach, without a token",
                self.listen
            ))
            .hint("give it one with --token-file, or listen on 127.0.0.1")),
            Some(token) => check_length(&token.read()),
            None => Ok(()),
        }
    }

    /// Whether only the machine itself can reach the page.
    fn is_local(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }
}

/// Writes annotations of an Environment: the only thing that this door does to the cluster, handed in by who opens it.
pub type Annotate = Arc<dyn Fn(Id, serde_json::Value) -> BoxFuture<'static, Result<(), Problem>> + Send + Sync>;

/// What the routes share.
#[derive(Clone)]
struct State {
    board: Arc<Board>,
    annotate: Annotate,
    settings: Arc<Settings>,
    asked: Arc<request::Asked>,
    asking: Arc<rollback::Asking>,
    stop: CancellationToken,
}

impl State {
    /// The Environment of a name. Names are unique in one agent; where two claim one, it is the one that runs
    /// something, for the other is refused.
    fn environment(&self, name: &str) -> Option<Arc<Environment>> {
        let runs_nothing =
            |environment: &Arc<Environment>| environment.status.as_ref().is_none_or(|status| status.running.is_none());
        let named = self.board.environments().into_iter().filter(|environment| environment.name_any() == name);
        named.min_by_key(runs_nothing)
    }
}

/// Listens until `stop`. Requests under way then have five seconds.
///
/// # Errors
/// `Setup` when the settings would leave the door open, or an address cannot be listened on.
pub async fn serve(
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    annotate: Annotate,
    settings: Settings,
    stop: CancellationToken,
) -> Result<(), Problem> {
    settings.check()?;
    let page = Listener::bind(settings.listen, MAX_CONNECTIONS).await?;
    let probes = Listener::bind(settings.probes, MAX_PROBE_CONNECTIONS).await?;
    tracing::info!(page = %page.address, probes = %probes.address, "listening");
    let standing = settings.standing.clone();
    let routes = router(board.clone(), annotate, settings, stop.clone());
    tokio::join!(page.run(routes, stop.clone()), probes.run(probes::router(board, metrics, standing), stop));
    Ok(())
}

/// Page and API.
pub fn router(board: Arc<Board>, annotate: Annotate, settings: Settings, stop: CancellationToken) -> Router {
    let settings = Arc::new(settings);
    let state = State { board, annotate, settings, asked: Arc::default(), asking: Arc::default(), stop };
    let quick = Router::new()
        .route("/", get(overview))
        .route("/environments/{name}", get(environment))
        .route("/releases", get(releases::page))
        .route("/assets/{file}", get(assets::serve))
        .route("/api/v1/environments", get(api::environments))
        .route("/api/v1/environments/{name}", get(api::environment))
        .route("/api/v1/environments/{name}/history", get(records::history))
        .route("/api/v1/environments/{name}/syncs/{number}", get(records::sync))
        .route("/api/v1/environments/{name}/figures", get(records::figures))
        .route("/api/v1/diff", get(records::diff))
        .route("/api/v1/components", get(releases::components))
        .route("/api/v1/changelog", get(releases::changelog))
        .route("/api/v1/hygiene", get(releases::hygiene))
        .route("/api/v1/ledgers", get(records::ledgers))
        .route("/api/v1/repositories", get(api::repositories))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN));
    // They may wait for long, and have deadlines of their own.
    let patient = Router::new()
        .route("/environments/{name}/rollback", get(rollback::forms::show).post(rollback::forms::send))
        .route("/api/v1/environments/{name}/sync", post(request::sync))
        .route("/api/v1/environments/{name}/rollback", post(rollback::rollback))
        .route("/api/v1/environments/{name}/reland", post(rollback::reland));
    quick
        .merge(patient)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            let problem = api::Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "this is a mistake in towpath itself");
            problem.hint("the log has the details").into_response()
        }))
        .layer(axum::middleware::from_fn_with_state(state.clone(), standing::stand_by))
        .layer(axum::middleware::from_fn_with_state(state.clone(), guard::admit))
        .layer(axum::middleware::from_fn(guard::add_headers))
        .with_state(state)
}

async fn overview(Has(state): Has<State>) -> Html<String> {
    let now = jiff::Timestamp::now();
    let (environments, repositories) = (state.board.environments(), state.board.repositories());
    Html(page::overview(&environments, &repositories, &records::list(&state), state.board.is_ready(), now))
}

async fn environment(Has(state): Has<State>, axum::extract::Path(name): axum::extract::Path<String>) -> Response {
    let Some(environment) = state.environment(&name) else { return not_found("there is no environment of this name") };
    let repositories = state.board.repositories();
    let page = records::newest(&state, &name).await;
    let records = page.as_ref().map(|page| &page.records[..]);
    let brings = releases::brings(&state, &environment).await;
    let may_ask = state.settings.token.is_some();
    let known = page::Known { repositories: &repositories, records, brings: brings.as_ref(), may_ask };
    Html(page::environment(&environment, &known, jiff::Timestamp::now())).into_response()
}

async fn unknown(uri: Uri) -> Response {
    if uri.path().starts_with("/api/") {
        return api::Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path").into_response();
    }
    not_found("there is nothing at this path")
}

async fn wrong_method(method: Method) -> api::Refusal {
    api::Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible here"))
}

fn not_found(what: &str) -> Response {
    (StatusCode::NOT_FOUND, Html(page::not_found(what))).into_response()
}

#[cfg(test)]
mod tests;
