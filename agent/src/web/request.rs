//! Asking for a sync: two annotations on the Environment, and if wanted a wait until the agent has acted on them.
//!
//! Requests for one environment merge into one: who asks while another request is pending gets the id of that one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State as Has};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use towpath_core::health::Health;
use towpath_core::names::annotation;
use towpath_core::status::State as EnvironmentState;

use super::api::Refusal;
use super::{MAX_BODY_BYTES, State};
use crate::board::Id;
use crate::resources::Environment;

/// Who asked, until callers have names.
pub(super) const REQUESTED_BY: &str = "api";
/// How long `?wait` waits where it says no time.
const USUAL_WAIT: Duration = Duration::from_secs(60);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Time for the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// How long a request that we wrote is believed to be pending although the board does not show it.
const BOARD_LAGS: Duration = Duration::from_secs(10);

/// What was asked through this door, for each environment. Its lock is held while an annotation is written, so that two
/// callers at one time are one request.
#[derive(Default)]
pub(super) struct Asked(Mutex<HashMap<Id, Arc<tokio::sync::Mutex<Option<Written>>>>>);

/// A request that this door wrote.
struct Written {
    pending: Pending,
    at: Instant,
}

/// A request, and what the annotation held before it.
#[derive(Clone, Debug, PartialEq)]
struct Pending {
    id: String,
    before: Option<String>,
}

/// The annotation and the answer to it, as the board shows them.
#[derive(Clone, Copy, Debug)]
struct Shown<'a> {
    requested: Option<&'a str>,
    handled: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(environment: &'a Environment) -> Shown<'a> {
        Shown {
            requested: environment.annotations().get(annotation::REQUESTED_AT).map(String::as_str),
            handled: environment.status.as_ref().and_then(|status| status.last_handled_request.as_deref()),
        }
    }
}

/// The request that a caller joins; `None` where a new one must be written.
fn pending(shown: Shown<'_>, written: Option<&Pending>) -> Option<Pending> {
    // The board is a moment late: our own request may be written and not be shown yet.
    if let Some(written) = written
        && shown.requested == written.before.as_deref()
        && shown.handled != Some(&written.id)
    {
        return Some(written.clone());
    }
    let requested = shown.requested.filter(|requested| !requested.is_empty() && shown.handled != Some(requested))?;
    let before = written.filter(|written| written.id == requested).and_then(|written| written.before.clone());
    Some(Pending { id: requested.to_owned(), before })
}

/// Whether a request was acted on, by itself or within a later one that took its place.
fn is_over(shown: Shown<'_>, pending: &Pending) -> bool {
    let was_replaced = shown.requested != Some(&pending.id) && shown.requested != pending.before.as_deref();
    shown.handled == Some(&pending.id) || was_replaced && shown.handled == shown.requested
}

/// A new id: readable, sortable, and not the same for two callers within a millisecond.
pub(super) fn fresh_id(now: Timestamp) -> String {
    format!("{now:.3}-{:06x}", rand::random::<u32>() >> 8)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    id: String,
    environment: String,
    status: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finished {
    id: String,
    environment: String,
    status: &'static str,
    state: EnvironmentState,
    health: Option<Health>,
    revision: Option<String>,
    problems: Vec<String>,
}

/// The body of a request for a sync. Nothing can be said in it yet.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wishes {}

/// Asks for a sync.
pub(super) async fn sync(
    Has(state): Has<State>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let wait = wait(query.as_deref())?;
    let Wishes {} = read_json(&headers, body, "send no body at all").await?;
    let environment = state.environment(&name).ok_or_else(|| Refusal::no_environment(&name))?;
    let id: Id = (environment.namespace().unwrap_or_default(), environment.name_any());
    let pending = ask(&state, &id).await?;
    if let Some(wait) = wait
        && let Some(environment) = finished(&state, &id, &pending, wait).await?
    {
        let status = environment.status.clone().unwrap_or_default();
        return Ok(Json(Finished {
            id: pending.id,
            environment: name,
            status: "Done",
            state: status.state,
            health: status.health,
            revision: status.running.map(|running| running.revision),
            problems: status.problems,
        })
        .into_response());
    }
    let accepted = Accepted { id: pending.id, environment: name, status: "Pending" };
    Ok((StatusCode::ACCEPTED, Json(accepted)).into_response())
}

/// Joins the pending request, or writes one.
async fn ask(state: &State, id: &Id) -> Result<Pending, Refusal> {
    let asked = {
        let mut asked = state.asked.0.lock().expect("nothing panics while it holds this lock");
        asked.retain(|known, _| known == id || state.board.environments.get(known).is_some());
        asked.entry(id.clone()).or_default().clone()
    };
    let mut written = asked.lock().await;
    let environment = state.board.environments.get(id).ok_or_else(|| Refusal::no_environment(&id.1))?;
    let shown = Shown::of(&environment);
    let recent = written.as_ref().filter(|written| written.at.elapsed() < BOARD_LAGS);
    if let Some(pending) = pending(shown, recent.map(|written| &written.pending)) {
        return Ok(pending);
    }
    let pending = Pending { id: fresh_id(Timestamp::now()), before: shown.requested.map(str::to_owned) };
    let annotations = json!({ annotation::REQUESTED_AT: pending.id, annotation::REQUESTED_BY: REQUESTED_BY });
    (state.annotate)(id.clone(), annotations).await?;
    tracing::info!(environment = id.1, request = pending.id, by = REQUESTED_BY, "sync requested");
    *written = Some(Written { pending: pending.clone(), at: Instant::now() });
    Ok(pending)
}

/// Waits until a request was acted on. `None` when the time was over before.
async fn finished(
    state: &State,
    id: &Id,
    pending: &Pending,
    wait: Duration,
) -> Result<Option<Arc<Environment>>, Refusal> {
    let mut changes = state.board.environments.changes();
    let over = async {
        loop {
            changes.borrow_and_update();
            match state.board.environments.get(id) {
                None => return Err(Refusal::no_environment(&id.1)),
                Some(environment) if is_over(Shown::of(&environment), pending) => return Ok(environment),
                Some(_) => {}
            }
            // The board lives as long as the door.
            let _ = changes.changed().await;
        }
    };
    tokio::select! {
        result = over => result.map(Some),
        () = tokio::time::sleep(wait) => Ok(None),
        () = state.stop.cancelled() => Ok(None),
    }
}

/// How long to wait: `?wait=90s`, or `?wait` for a minute.
pub(super) fn wait(query: Option<&str>) -> Result<Option<Duration>, Refusal> {
    let refuse = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why).hint("write it as ?wait=60s");
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    let (name, value) = query.split_once('=').unwrap_or((query, ""));
    if name != "wait" {
        return Err(refuse("only wait can be said here".into()));
    }
    if value.is_empty() {
        return Ok(Some(USUAL_WAIT));
    }
    let wait = value.parse::<jiff::SignedDuration>().ok().and_then(|wait| Duration::try_from(wait).ok());
    match wait {
        Some(wait) => Ok(Some(wait.min(LONGEST_WAIT))),
        None => Err(refuse("wait is not a duration".into())),
    }
}

/// The body of a request, which is small and comes soon.
pub(super) async fn read(body: Body) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let error = format!("the body cannot be read, or is larger than {} KiB", MAX_BODY_BYTES >> 10);
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error))
        }
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

/// Whether a body is of a kind.
pub(super) fn is_of(headers: &HeaderMap, wanted: &str) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap_or("?"));
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted)
}

/// Reads the body, which must be empty or a JSON object. `hint` says what may be in it.
pub(super) async fn read_json<T>(headers: &HeaderMap, body: Body, hint: &str) -> Result<T, Refusal>
where
    T: DeserializeOwned + Default,
{
    let body = read(body).await?;
    let is_json = is_of(headers, "application/json");
    if body.is_empty() && (!headers.contains_key(header::CONTENT_TYPE) || is_json) {
        return Ok(T::default());
    }
    if !is_json {
        let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is not application/json");
        return Err(refusal.hint(hint));
    }
    let refuse = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why).hint(hint);
    // A list would be read as the fields in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(refuse("the body is not a JSON object".to_owned()));
    }
    serde_json::from_slice(&body).map_err(|error| refuse(format!("the body says nothing known: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(requested: Option<&'a str>, handled: Option<&'a str>) -> Shown<'a> {
        Shown { requested, handled }
    }

    fn written(id: &str, before: Option<&str>) -> Pending {
        Pending { id: id.into(), before: before.map(Into::into) }
    }

    #[test]
    fn a_request_joins_the_one_that_is_pending() {
        let joined = |shown, written: Option<&Pending>| pending(shown, written).map(|pending| pending.id);
        assert_eq!(joined(shown(None, None), None), None);
        assert_eq!(joined(shown(Some("a"), Some("a")), None), None);
        assert_eq!(joined(shown(Some(""), None), None), None);
        assert_eq!(joined(shown(Some("a"), None), None).as_deref(), Some("a"));
        assert_eq!(joined(shown(Some("b"), Some("a")), None).as_deref(), Some("b"));
    }

    #[test]
    fn a_request_that_the_board_does_not_show_yet_is_pending() {
        let ours = written("b", Some("a"));
        let joined = |shown| pending(shown, Some(&ours)).map(|pending| pending.id);
        assert_eq!(joined(shown(Some("a"), Some("a"))).as_deref(), Some("b"));
        assert_eq!(joined(shown(Some("b"), Some("a"))).as_deref(), Some("b"));
        assert_eq!(joined(shown(Some("b"), Some("b"))), None, "it was acted on");
        assert_eq!(joined(shown(Some("c"), Some("a"))).as_deref(), Some("c"), "somebody asked after us");
        assert_eq!(joined(shown(Some("c"), Some("c"))), None);
    }

    #[test]
    fn a_request_is_over_when_it_or_its_successor_was_acted_on() {
        let ours = written("b", Some("a"));
        assert!(!is_over(shown(Some("a"), Some("a")), &ours), "the board is late");
        assert!(!is_over(shown(Some("b"), Some("a")), &ours));
        assert!(is_over(shown(Some("b"), Some("b")), &ours));
        assert!(!is_over(shown(Some("c"), Some("a")), &ours));
        assert!(is_over(shown(Some("c"), Some("b")), &ours));
        assert!(is_over(shown(Some("c"), Some("c")), &ours));
    }

    #[test]
    fn a_wait_has_an_end() {
        assert_eq!(wait(None).unwrap(), None);
        assert_eq!(wait(Some("wait")).unwrap(), Some(USUAL_WAIT));
        assert_eq!(wait(Some("wait=5s")).unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(wait(Some("wait=5m")).unwrap(), Some(LONGEST_WAIT));
        assert_eq!(wait(Some("wait=301s")).unwrap(), Some(LONGEST_WAIT));
        for bad in ["wait=-1s", "wait=soon", "wiat=1s", "wait=1s&to=x"] {
            assert!(wait(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_begins_with_the_time() {
        let id = fresh_id("2026-08-03T10:00:00Z".parse().unwrap());
        assert!(id.starts_with("2026-08-03T10:00:00.000Z-"), "{id}");
        assert_eq!(id.len(), 31);
    }
}
