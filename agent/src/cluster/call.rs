//! One request to the API server: permit, deadline, few tries, and an error that says what happens next.

use std::future::Future;
use std::time::Duration;

use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde_json::Value;
use tokio::time::Instant;
use towpath_core::fault::Problem;

use super::brake::{self, Sort};
use super::fence;
use super::gate::Permits;

/// Time for one read or write, all tries together.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// Time for one list.
pub(super) const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// Tries of one request that may be repeated without harm.
const TRIES: u32 = 4;
/// The first pause between two tries; each further one is three times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
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
    /// It was not sent, and why.
    NotSent(String),
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
            Failure::NoAnswer(_) | Failure::NotSent(_) => 0,
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Failure::Refused(status) if status.code == 409)
    }
}

/// Sends a request that may be sent again: a server-side apply, a read, a deletion with preconditions.
///
/// A pause that the server asks for is kept. One that is longer than what is left of the deadline ends the call at once:
/// whoever asked tries again later, and holds no permit until then.
pub(super) async fn repeatable(
    client: &Client,
    permits: &Permits,
    deadline: Duration,
    request: &http::Request<Vec<u8>>,
) -> Result<Answer, Failure> {
    let end = Instant::now() + deadline;
    let brake = &permits.gate.brake;
    let sort = if request.method() == http::Method::GET { Sort::Read } else { Sort::Write };
    // What was said last, for when there is no time for another try.
    let said_last = std::sync::Mutex::new(None);
    let tries = async {
        let mut pause = FIRST_PAUSE;
        for number in 1.. {
            // Whoever waits for the brake holds no permit: a read need not wait for the pause of writes.
            if !brake.is_hopeless(sort)
                && let Some(free_at) = brake.free_at(sort)
            {
                tokio::time::sleep_until(free_at).await;
            }
            let permit = permits.acquire().await;
            if brake.is_hopeless(sort) {
                return Err(Failure::NotSent(brake.trouble().unwrap_or("the API server is in trouble").to_owned()));
            }
            let result = send(client, request).await;
            drop(permit);
            match result {
                Err((failure, may_pass)) if may_pass.is_some() && number < TRIES => {
                    // Not what it said: that may repeat a Secret.
                    tracing::debug!(
                        code = failure.code(),
                        number,
                        "the API server did not take the request; trying again"
                    );
                    let wait = may_pass.flatten().unwrap_or(Duration::ZERO).max(pause);
                    let next = (Instant::now() + wait).max(brake.free_at(sort).unwrap_or_else(Instant::now));
                    if next >= end {
                        return Err(failure);
                    }
                    *said_last.lock().expect("nothing panics while it holds this lock") = Some(failure);
                    tokio::time::sleep(wait).await;
                    pause *= 3;
                }
                Err((failure, _)) => return Err(failure),
                Ok(answer) => return Ok(answer),
            }
        }
        unreachable!("the loop ends by returning")
    };
    match tokio::time::timeout_at(end, tries).await {
        Ok(Err(Failure::Refused(status))) if status.code == 401 && permits.gate.bears_refusal() => {
            Err(Failure::NoAnswer(TOKEN_REFUSED.to_owned()))
        }
        Ok(result) => result,
        // A webhook that hangs is named by the first try, and there is no time for the last.
        Err(_) => Err(said_last
            .into_inner()
            .expect("nothing panics while it holds this lock")
            .unwrap_or_else(|| Failure::NoAnswer(no_answer_within(deadline, permits)))),
    }
}

/// While the agent's token is being replaced.
const TOKEN_REFUSED: &str = "it does not take the agent's token at the moment";

fn no_answer_within(deadline: Duration, permits: &Permits) -> String {
    let why = permits.gate.brake.trouble().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("no answer within {} s{why}", deadline.as_secs())
}

/// `Some` beside the failure where another try may help; inside it the pause that the server asked for.
type MayPass = Option<Option<Duration>>;

async fn send(client: &Client, request: &http::Request<Vec<u8>>) -> Result<Answer, (Failure, MayPass)> {
    let mut copy = http::Request::new(Body::from(request.body().clone()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();

    let no_answer = |error: &dyn std::fmt::Display| (Failure::NoAnswer(error.to_string()), Some(None));
    let response = client.send(copy).await.map_err(|error| match fence::is_fenced(&error) {
        true => (Failure::NotSent(fence::Fenced.to_string()), None),
        false => no_answer(&error),
    })?;
    let status = response.status();
    let asked_pause = response
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| brake::retry_after(value.to_str().ok()?, Timestamp::now()));
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
        // The token may just have been replaced.
        401 => Some(None),
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
pub(super) async fn own<T>(permits: &Permits, call: impl Future<Output = kube::Result<T>>) -> Result<T, Problem> {
    let permit = permits.acquire().await;
    let result = tokio::time::timeout(CALL_DEADLINE, call).await;
    drop(permit);
    let failure = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.code == 401 && permits.gate.bears_refusal() => {
            Failure::NoAnswer(TOKEN_REFUSED.to_owned())
        }
        Ok(Err(kube::Error::Api(status))) => Failure::Refused(status),
        Ok(Err(error)) if fence::is_fenced(&error) => Failure::NotSent(fence::Fenced.to_string()),
        Ok(Err(error)) => Failure::NoAnswer(error.to_string()),
        Err(_) => Failure::NoAnswer(no_answer_within(CALL_DEADLINE, permits)),
    };
    Err(problem(&failure, "the agent", false))
}

/// A failure for people. What the server says of a Secret may hold its values, so it is left out.
pub(super) fn problem(failure: &Failure, who: &str, is_secret: bool) -> Problem {
    let status = match failure {
        Failure::NoAnswer(text) => return Problem::passing(format!("the API server did not answer: {text}")),
        Failure::NotSent(text) => return Problem::passing(text.clone()),
        Failure::Refused(status) => status,
    };
    let hidden = || {
        let refuser = refuser(&status.message).map(|name| format!("{name} ")).unwrap_or_default();
        format!("{refuser}(what the server says of a Secret is not shown)")
    };
    let said = if is_secret { hidden() } else { status.message.clone() };
    let said = towpath_core::revision::clean_line(&said, 500);
    if let Some(hint) = admission_hint(&status.message) {
        return match status.code {
            // It could not be asked: that may pass.
            500.. => Problem::passing(said).hint(hint),
            _ => Problem::setup(said).hint(hint),
        };
    }
    match status.code {
        429 => Problem::passing(format!("the API server throttles this agent: {said}")),
        401 => Problem::setup(format!("{who} is not known to the API server: {said}"))
            .hint("check the agent's service account token"),
        403 => Problem::setup(said).hint(format!("give {who} this right with a Role and a RoleBinding")),
        404 => Problem::setup(said),
        400 | 413 | 422 => Problem::content(said),
        500 if is_untypable(status) => Problem::content(said),
        _ => Problem::passing(said),
    }
}

/// What to do about a refusal by admission: by a webhook, a policy, a quota, a limit range or a pod security standard.
/// They name themselves; who may not do something at all is another matter. The rule may be changed as well as the
/// object, so such a refusal is tried again.
fn admission_hint(message: &str) -> Option<&'static str> {
    let says = |text: &str| message.contains(text);
    if says("failed calling webhook") || says("calling webhook") {
        return Some(
            "the webhook that is named did not answer well: see whether its pods run and its certificate is good",
        );
    }
    if says("admission webhook") {
        return Some("change the object as the webhook says, or have its rule changed");
    }
    if says("ValidatingAdmissionPolicy") || says("MutatingAdmissionPolicy") {
        return Some("change the object as the policy says, or have the policy changed");
    }
    if says("exceeded quota") || says("failed quota") {
        return Some("ask for less, or have somebody raise the quota");
    }
    if says("violates PodSecurity") {
        return Some("change the pod's security context, or the namespace's pod-security.kubernetes.io label");
    }
    let of_limit_range = ["maximum ", "minimum "].iter().any(|limit| {
        let usage = [" usage per Container is", " usage per Pod is", " usage per PersistentVolumeClaim is"];
        says(limit) && usage.iter().any(|usage| says(usage))
    });
    let of_limit_range = of_limit_range || says("max limit to request ratio per");
    of_limit_range.then_some("change its resources, or have somebody change the LimitRange")
}

/// The webhook, policy or quota that refused something, by its name, which holds nothing of what was sent.
fn refuser(message: &str) -> Option<String> {
    const MARKS: [(&str, char); 5] = [
        ("admission webhook \"", '"'),
        ("calling webhook \"", '"'),
        ("AdmissionPolicy '", '\''),
        ("exceeded quota: ", ','),
        ("failed quota: ", ':'),
    ];
    MARKS.iter().find_map(|(mark, end)| {
        let (_, rest) = message.split_once(mark)?;
        let (name, _) = rest.split_once(*end)?;
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let what = mark.trim_end_matches(['"', '\'', ' ', ':']);
        name.bytes().all(is_name).then(|| format!("{what} {name}"))
    })
}

#[cfg(test)]
mod tests {
    use towpath_core::fault::Fault;

    use super::*;

    fn refused(code: u16, message: &str) -> Problem {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        problem(&Failure::Refused(Box::new(status)), "service account shop/deployer", false)
    }

    #[test]
    fn a_missing_right_is_told_from_a_rule_that_says_no() {
        let right = "deployments.apps is forbidden: User \"x\" cannot patch resource";
        assert!(refused(403, right).hint.unwrap().contains("RoleBinding"));
        for (code, message, hint) in [
            (403, "admission webhook \"deny.example.com\" denied the request: no", "as the webhook says"),
            (
                500,
                "Internal error occurred: failed calling webhook \"a.b\": context deadline exceeded",
                "did not answer",
            ),
            (422, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", "as the policy says"),
            (
                403,
                "configmaps \"a\" is forbidden: exceeded quota: few, requested: count/configmaps=1",
                "raise the quota",
            ),
            (403, "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\"", "pod-security"),
            (403, "pods \"a\" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi", "LimitRange"),
        ] {
            let found = refused(code, message);
            assert!(found.hint.as_ref().unwrap().contains(hint), "{found:?}");
            assert_eq!(found.fault, if code == 500 { Fault::Passing } else { Fault::Setup }, "{message}");
        }
    }

    #[test]
    fn of_a_secret_only_who_refused_it_is_said() {
        let said = |message: &str| {
            let status = Status { code: 403, message: message.to_owned(), ..Status::default() };
            problem(&Failure::Refused(Box::new(status)), "x", true).message
        };
        let shown = said("admission webhook \"deny.example.com\" denied the request: hunter2 is weak");
        assert!(shown.starts_with("admission webhook deny.example.com ("), "{shown}");
        for message in
            ["admission webhook \"deny\" denied: hunter2", "admission webhook \"hunter2 \" x", "hunter2 is not base64"]
        {
            assert!(!said(message).contains("hunter2"), "{message}");
        }
    }
}
