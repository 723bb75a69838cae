//! One request to the API server: permit, deadline, few tries, and an error that says what happens next.

use std::future::Future;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde_json::Value;
use tokio::sync::Semaphore;
use towpath_core::fault::Problem;

/// Time for one read or write, all tries together.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// Time for one list.
pub(super) const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// Tries of one request that may be repeated without harm.
const TRIES: u32 = 4;
/// The longest pause that a server may ask for within a call.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of one answer.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// An answer with a good status.
pub(super) struct Answer {
    /// 200 or 201.
    pub(super) status: http::StatusCode,
    /// Its body as JSON.
    pub(super) body: Value,
}

/// Why a request did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no, and why.
    Refused(Box<Status>),
    /// There was no answer, or one that could not be read. What was asked may have been done or not.
    NoAnswer(String),
}

impl Failure {
    /// Whether the object is not there. A path that is not served is another 404: it says nothing of the object.
    pub(super) fn is_not_found(&self) -> bool {
        let names_it = |status: &Status| status.details.as_ref().is_some_and(|details| !details.name.is_empty());
        matches!(self, Failure::Refused(status) if status.code == 404 && names_it(status))
    }

    fn code(&self) -> u16 {
        match self {
            Failure::Refused(status) => status.code,
            Failure::NoAnswer(_) => 0,
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Failure::Refused(status) if status.code == 409)
    }
}

/// Sends a request that may be sent again: a server-side apply, a read, a deletion with preconditions.
pub(super) async fn repeatable(
    client: &Client,
    permits: &Semaphore,
    deadline: Duration,
    request: &http::Request<Vec<u8>>,
) -> Result<Answer, Failure> {
    let tries = async {
        let mut pause = Duration::from_millis(100);
        for number in 1.. {
            let permit = permits.acquire().await.expect("the semaphore is never closed");
            let result = send(client, request).await;
            drop(permit);
            match result {
                Err((failure, may_pass)) if may_pass.is_some() && number < TRIES => {
                    let asked = may_pass.flatten().unwrap_or(Duration::ZERO);
                    // Not what it said: that may repeat a Secret.
                    tracing::debug!(
                        code = failure.code(),
                        number,
                        "the API server did not take the request; trying again"
                    );
                    tokio::time::sleep(asked.max(pause).min(LONGEST_PAUSE)).await;
                    pause *= 3;
                }
                Err((failure, _)) => return Err(failure),
                Ok(answer) => return Ok(answer),
            }
        }
        unreachable!("the loop ends by returning")
    };
    match tokio::time::timeout(deadline, tries).await {
        Ok(result) => result,
        Err(_) => Err(Failure::NoAnswer(format!("no answer within {} s", deadline.as_secs()))),
    }
}

/// `Some` beside the failure where another try may help; inside it the pause that the server asked for.
type MayPass = Option<Option<Duration>>;

async fn send(client: &Client, request: &http::Request<Vec<u8>>) -> Result<Answer, (Failure, MayPass)> {
    let mut copy = http::Request::new(Body::from(request.body().clone()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();

    let no_answer = |error: &dyn std::fmt::Display| (Failure::NoAnswer(error.to_string()), Some(None));
    let response = client.send(copy).await.map_err(|error| no_answer(&error))?;
    let status = response.status();
    let asked_pause = response
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| no_answer(&error))?
        .to_bytes();
    if status.is_success() {
        // An answer that is cut short or no JSON is no answer: never an empty list, never "not there".
        let body = serde_json::from_slice(&body).map_err(|error| no_answer(&format!("unreadable answer: {error}")))?;
        return Ok(Answer { status, body });
    }
    let refused = serde_json::from_slice::<Status>(&body).ok().filter(|said| said.code != 0);
    let refused = refused.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        Status { code: status.as_u16(), message: format!("{status}: {text}"), ..Status::default() }
    });
    let may_pass = match status.as_u16() {
        429 | 502..=504 => Some(asked_pause),
        500 if !is_untypable(&refused) => Some(None),
        _ => None,
    };
    Err((Failure::Refused(Box::new(refused)), may_pass))
}

/// A body that does not fit the schema of its kind is answered with 500 by the typed kinds, but no waiting mends it.
fn is_untypable(status: &Status) -> bool {
    status.message.starts_with("failed to create typed patch object")
}

/// A call of the agent's own, made by kube's typed API.
pub(super) async fn own<T>(permits: &Semaphore, call: impl Future<Output = kube::Result<T>>) -> Result<T, Problem> {
    let permit = permits.acquire().await.expect("the semaphore is never closed");
    let result = tokio::time::timeout(CALL_DEADLINE, call).await;
    drop(permit);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(problem(&Failure::Refused(status), "the agent", false)),
        Ok(Err(error)) => Err(problem(&Failure::NoAnswer(error.to_string()), "the agent", false)),
        Err(_) => Err(Problem::passing(format!("the API server did not answer within {} s", CALL_DEADLINE.as_secs()))),
    }
}

/// A failure for people. What the server says of a Secret may hold its values, so it is left out.
pub(super) fn problem(failure: &Failure, who: &str, is_secret: bool) -> Problem {
    let status = match failure {
        Failure::NoAnswer(text) => return Problem::passing(format!("the API server did not answer: {text}")),
        Failure::Refused(status) => status,
    };
    let said = if is_secret { "(what the server says of a Secret is not shown)" } else { status.message.as_str() };
    let said = towpath_core::revision::clean_line(said, 500);
    let is_webhook = status.message.contains("admission webhook") || status.message.contains("calling webhook");
    match status.code {
        401 => Problem::setup(format!("{who} is not known to the API server: {said}"))
            .hint("check the agent's service account token"),
        403 if is_webhook => Problem::setup(said),
        403 => Problem::setup(said).hint(format!("give {who} this right with a Role and a RoleBinding")),
        404 => Problem::setup(said),
        400 | 413 | 422 if !is_webhook => Problem::content(said),
        500 if is_untypable(status) => Problem::content(said),
        400 | 422 => Problem::setup(said),
        _ => Problem::passing(said),
    }
}
