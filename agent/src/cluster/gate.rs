//! What every request to the API server passes, whoever makes it: the brake, the fence, the token.
//!
//! It stands below kube's client, so nothing goes around it: not the typed calls, not the watches, not the Events.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::MapErr;
use hyper::body::Body as HttpBody;
use jiff::Timestamp;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::{Layer, Service};
use towpath_core::fault::Problem;

use super::brake::{self, Brake, Ended, Sort};
use super::fence::Fence;
use super::token::TokenFile;

/// A request that was given up counts as unanswered if it had this long.
const LONG_ENOUGH: Duration = Duration::from_secs(8);
/// How long the API server may refuse the agent's token before that is said to be somebody's business: a token that is
/// being replaced is nobody's.
const TOKEN_PATIENCE: Duration = Duration::from_secs(120);

type BoxError = Box<dyn Error + Send + Sync>;

/// How the agent's connections are opened.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// The fence before every write.
    pub fence: Fence,
    /// Who it says it is, in the header `User-Agent`: the API server's audit log shows it.
    pub user_agent: Option<String>,
    /// Divides pauses of the agent's own choice; 1 except in tests.
    pub time_scale: u32,
    /// Whether requests are sent although the server throttles. For the few of the election only: they come in their
    /// own pace, and a leader must not lose its lease by a brake.
    pub unbraked: bool,
}

/// What the requests of one pool share.
pub(super) struct Gate {
    fence: Fence,
    pub(super) brake: Brake,
    is_braked: bool,
    token: Option<TokenFile>,
    /// Since when the token is refused.
    refused_since: Mutex<Option<Instant>>,
}

/// Permits for requests, and the gate that they pass.
pub(super) struct Permits {
    semaphore: Semaphore,
    pub(super) gate: Arc<Gate>,
}

impl Permits {
    pub(super) fn new(count: usize, gate: Arc<Gate>) -> Permits {
        Permits { semaphore: Semaphore::new(count), gate }
    }

    pub(super) async fn acquire(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.semaphore.acquire().await.expect("the semaphore is never closed")
    }
}

/// Opens a pool of connections behind a gate. No request is made.
///
/// # Errors
/// `Setup` when the configuration names certificates or credentials that cannot be read, or asks for a program to be run
/// for credentials, which is never done.
pub(super) fn open(mut config: Config, manner: Manner) -> Result<(Client, Arc<Gate>), Problem> {
    if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
        return Err(Problem::setup("the kubeconfig wants a program to be run for credentials")
            .hint("use a kubeconfig with a token or a client certificate"));
    }
    // Each call has its own deadline and few tries; the default retries for many minutes (15 tries, up to 1000 s).
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = None;
    // An inline token goes before a file, as in kubectl.
    let file = config.auth_info.token_file.take().filter(|_| config.auth_info.token.is_none());
    if let Some(name) = manner.user_agent {
        let name = HeaderValue::try_from(name).map_err(|_| {
            Problem::setup("the name of this agent cannot stand in a header").hint("choose plain ASCII")
        })?;
        config.headers.retain(|(header, _): &(HeaderName, HeaderValue)| header != USER_AGENT);
        config.headers.push((USER_AGENT, name));
    }
    let gate = Arc::new(Gate {
        fence: manner.fence,
        brake: Brake::new(manner.time_scale),
        is_braked: !manner.unbraked,
        token: file.map(|file| TokenFile::new(file.into())),
        refused_since: Mutex::default(),
    });
    let builder = ClientBuilder::try_from(config)
        .map_err(|error| Problem::setup(format!("cannot reach the API server: {error}")))?;
    Ok((builder.with_layer(&Gated(gate.clone())).build(), gate))
}

impl Gate {
    /// How long the API server has been refusing the token, if it is to be borne for now.
    pub(super) fn bears_refusal(&self) -> bool {
        let since = self.refused_since.lock().expect("nothing panics while it holds this lock");
        self.token.is_some() && since.is_some_and(|since| since.elapsed() < TOKEN_PATIENCE)
    }

    fn answered(&self, code: u16) {
        let mut since = self.refused_since.lock().expect("nothing panics while it holds this lock");
        if code == 401 {
            since.get_or_insert_with(Instant::now);
        } else {
            *since = None;
        }
        if let Some(token) = &self.token {
            if code == 401 { token.refused() } else { token.taken() }
        }
    }
}

/// Whether a request changes something, if it succeeds: neither a look, nor a dry run, nor a question about rights.
fn changes(method: &Method, uri: &http::Uri) -> bool {
    let is_dry = uri.query().is_some_and(|query| query.split('&').any(|part| part == "dryRun=All"));
    let asks = ["/apis/authentication.k8s.io/", "/apis/authorization.k8s.io/"];
    let is_question = asks.iter().any(|prefix| uri.path().starts_with(prefix));
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !is_dry && !is_question
}

#[derive(Clone)]
struct Gated(Arc<Gate>);

impl<S> Layer<S> for Gated {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, gate: self.0.clone() }
    }
}

struct Guarded<S> {
    inner: S,
    gate: Arc<Gate>,
}

/// The body of an answer, whose end without its last byte is noticed.
type Watched<B> = MapErr<B, Box<dyn FnMut(<B as HttpBody>::Error) -> <B as HttpBody>::Error + Send + Sync>>;

impl<S, B> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: HttpBody + 'static,
{
    type Response = Response<Watched<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = &self.gate.token {
            match token.header(std::time::Instant::now()) {
                Some(header) => drop(request.headers_mut().insert(AUTHORIZATION, header)),
                None => return Box::pin(async { Err("the file of the agent's token is empty or not there".into()) }),
            }
        }
        let changes = changes(request.method(), request.uri());
        let sort = if request.method() == Method::GET { Sort::Read } else { Sort::Write };
        let gate = self.gate.clone();
        // It does nothing until it is polled: that is after the brake, and each time after the fence.
        let sending = self.inner.call(request);
        Box::pin(async move {
            if gate.is_braked {
                gate.brake.turn(sort).await;
            }
            let mut under_way = UnderWay { gate: gate.clone(), sort, begun: Instant::now(), is_over: false };
            let result = match changes {
                true => match gate.fence.guard(sending).await {
                    Ok(result) => result,
                    Err(fenced) => {
                        under_way.is_over = true;
                        return Err(fenced.into());
                    }
                },
                false => sending.await,
            };
            under_way.is_over = true;
            let ended = match &result {
                Err(_) => Ended::Unanswered,
                Ok(response) => {
                    let code = response.status().as_u16();
                    gate.answered(code);
                    let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                    Ended::Answered { code, pause: pause.and_then(|value| brake::retry_after(value, Timestamp::now())) }
                }
            };
            gate.brake.ended(sort, under_way.begun, ended);
            // A watch is answered for minutes, and may break then.
            let begun = under_way.begun;
            let broken: Box<dyn FnMut(B::Error) -> B::Error + Send + Sync> = Box::new(move |error| {
                gate.brake.ended(sort, begun, Ended::Unanswered);
                error
            });
            Ok(result?.map(|body| body.map_err(broken)))
        })
    }
}

/// A request whose answer is awaited. Where the one who asked gave up after a long while, there was none.
struct UnderWay {
    gate: Arc<Gate>,
    sort: Sort,
    begun: Instant,
    is_over: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_over && self.begun.elapsed() >= LONG_ENOUGH {
            self.gate.brake.ended(self.sort, self.begun, Ended::Unanswered);
        }
    }
}

#[cfg(test)]
mod tests;
