//! Asking for a rollback, or for a change to be landed again: an annotation on the Environment, and the agent's answer in its
//! status.
//!
//! Without a confirmation there is a preview and nothing else; the confirmation bears the digest of what was shown. At one
//! time there is one request for an environment, because the annotation holds one. Nothing is overridden through this door:
//! whoever has the token has no name.

pub(super) mod forms;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State as Has};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use towpath_core::names::annotation;
use towpath_core::status::{RollbackPhase, RollbackStatus, Wish};

use super::State;
use super::api::Refusal;
use super::request::{REQUESTED_BY, fresh_id, read_json, wait};
use crate::board::Id;
use crate::resources::{Environment, RollbackAsk};

/// How long the agent's answer is waited for where no other time is said.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the answer to somebody else's request is waited for, before ours takes its place.
const OTHERS_FIRST: Duration = Duration::from_secs(15);
/// How long the same confirmation means the same rollback after that was begun.
const SAME_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// Held for an environment while it is asked through this door, so that callers at one time do not take each other's place.
#[derive(Default)]
pub(super) struct Asking(Mutex<HashMap<Id, Arc<tokio::sync::Mutex<()>>>>);

/// What is asked for.
#[derive(Clone, Debug, Default)]
struct Asked {
    wish: Wish,
    reason: Option<String>,
    confirm: Option<String>,
}

/// The body of a request for a rollback.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RollbackBody {
    to: Option<String>,
    ticket: Option<String>,
    reason: Option<String>,
    back_out_lane: bool,
    restore: bool,
    emergency: bool,
    confirm: Option<String>,
}

/// The body of a request to land something again.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RelandBody {
    commit: Option<String>,
    reason: Option<String>,
    confirm: Option<String>,
}

/// What is answered: what the status says of the request, and why it was not done.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    environment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(flatten)]
    rollback: RollbackStatus,
}

/// Rolls back, or says what that would do.
pub(super) async fn rollback(
    Has(state): Has<State>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let wait = wait(query.as_deref())?;
    let hint = "it may say to, ticket, reason, backOutLane, restore, emergency and confirm";
    let RollbackBody { to, ticket, reason, back_out_lane, restore, emergency, confirm } =
        read_json(&headers, body, hint).await?;
    let wish = Wish { to, ticket, reland: None, back_out_lane, restore, emergency };
    answer(&state, &name, wait, Asked { wish, reason, confirm }).await
}

/// Lands something again, or says what that would do.
pub(super) async fn reland(
    Has(state): Has<State>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let wait = wait(query.as_deref())?;
    let hint = "it says commit, and may say reason and confirm";
    let RelandBody { commit, reason, confirm } = read_json(&headers, body, hint).await?;
    if commit.as_ref().is_none_or(String::is_empty) {
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "what is to be landed again is not said");
        return Err(refusal.hint("name the revert, or the commit that it takes back, as commit"));
    }
    let wish = Wish { reland: commit, ..Wish::default() };
    answer(&state, &name, wait, Asked { wish, reason, confirm }).await
}

/// Asks, and with a confirmation and a time follows the rollback until it is settled.
async fn answer(state: &State, name: &str, wait: Option<Duration>, asked: Asked) -> Result<Response, Refusal> {
    check(&asked.wish)?;
    let environment = state.environment(name).ok_or_else(|| Refusal::no_environment(name))?;
    let id: Id = (environment.namespace().unwrap_or_default(), environment.name_any());
    let until = Instant::now() + wait.unwrap_or(ANSWER);
    let is_confirmed = asked.confirm.is_some();
    let mut rollback = ask(state, &id, asked, until).await?;
    if wait.is_some() && is_confirmed && rollback.phase.is_under_way() {
        rollback = follow(state, &id, rollback, until).await?;
    }
    let (status, error, hint) = match rollback.phase {
        RollbackPhase::Prepared if is_confirmed => (
            StatusCode::CONFLICT,
            Some("what was confirmed is not what would be done now: nothing was done".to_owned()),
            Some("look at the lines, and confirm the new digest"),
        ),
        RollbackPhase::Prepared => (StatusCode::OK, None, None),
        RollbackPhase::Refused => (StatusCode::CONFLICT, Some(rollback.lines.join("; ")), None),
        RollbackPhase::Done if rollback.goes_to.is_none() => (StatusCode::OK, None, None),
        _ => (StatusCode::ACCEPTED, None, None),
    };
    Ok((status, Json(Told { environment: name.to_owned(), error, hint, rollback })).into_response())
}

/// # Errors
/// Where a wish says two things that do not go together.
fn check(wish: &Wish) -> Result<(), Refusal> {
    if wish.ticket.is_some() && (wish.to.is_some() || wish.back_out_lane || wish.restore) {
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "ticket goes with neither to, backOutLane nor restore");
        return Err(refusal.hint("a ticket is taken back by itself"));
    }
    Ok(())
}

/// What a status says of a request.
fn find<'s>(environment: &'s Environment, id: &str) -> Option<&'s RollbackStatus> {
    environment.status.as_ref()?.rollback_of(id)
}

/// The request that the annotation holds, where it was not answered yet.
fn pending(environment: &Environment) -> Option<RollbackAsk> {
    let text = environment.annotations().get(annotation::ROLLBACK)?;
    let ask: RollbackAsk = serde_json::from_str(text).ok()?;
    let is_new = Timestamp::now().duration_since(ask.at) < SAME_WITHIN;
    let was_answered = environment.status.as_ref().is_some_and(|status| status.answered.contains(&ask.id));
    (is_new && !was_answered && find(environment, &ask.id).is_none()).then_some(ask)
}

/// The rollback that was begun with a confirmation, not long ago.
fn begun<'s>(environment: &'s Environment, digest: &str) -> Option<&'s RollbackStatus> {
    let rollback = environment.status.as_ref()?.rollback.as_ref()?;
    let is_new = rollback.at.is_some_and(|at| Timestamp::now().duration_since(at) < SAME_WITHIN);
    let counts = rollback.phase.is_under_way() || rollback.phase == RollbackPhase::Done && is_new;
    (counts && rollback.digest.as_deref() == Some(digest)).then_some(rollback)
}

/// Writes a request and waits for the first answer. A confirmation that somebody has given already is joined.
///
/// # Errors
/// Where the agent does not answer in time, or another request has taken the place of this one.
async fn ask(state: &State, id: &Id, asked: Asked, until: Instant) -> Result<RollbackStatus, Refusal> {
    let place = {
        let mut asking = state.asking.0.lock().expect("nothing panics while it holds this lock");
        asking.retain(|known, _| known == id || state.board.environments.get(known).is_some());
        asking.entry(id.clone()).or_default().clone()
    };
    let no_answer = || {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the agent has not answered in time");
        refusal.hint("ask again; what was confirmed may still be done, and is then in the status")
    };
    let _place = tokio::time::timeout_at(until, place.lock()).await.map_err(|_| no_answer())?;
    let first = until.min(Instant::now() + OTHERS_FIRST);
    let joins = |pending: &RollbackAsk| pending.confirm.is_some() && pending.confirm == asked.confirm;
    let is_free = |environment: &Environment| pending(environment).is_none_or(|pending| joins(&pending)).then_some(());
    when(state, id, first, is_free).await?;
    let environment = state.board.environments.get(id).ok_or_else(|| Refusal::no_environment(&id.1))?;
    if let Some(begun) = asked.confirm.as_deref().and_then(|digest| begun(&environment, digest)) {
        return Ok(begun.clone());
    }
    let before = environment.annotations().get(annotation::ROLLBACK).cloned();
    let request = match pending(&environment).filter(joins) {
        Some(pending) => pending.id,
        None => write(state, id, asked).await?,
    };
    let answer = when(state, id, until, |environment| {
        if let Some(found) = find(environment, &request) {
            return Some(Some(found.clone()));
        }
        // The board is a moment late: another request counts once it is answered.
        let other = environment.annotations().get(annotation::ROLLBACK).filter(|shown| Some(*shown) != before.as_ref());
        let other = serde_json::from_str::<RollbackAsk>(other?).ok().filter(|other| other.id != request)?;
        find(environment, &other.id).map(|_| None)
    });
    answer.await?.ok_or_else(no_answer)?.ok_or_else(|| {
        let refusal = Refusal::new(StatusCode::CONFLICT, "somebody else has asked in the same moment");
        refusal.hint("look at the status, and ask again")
    })
}

/// Writes a request. Gives its id.
async fn write(state: &State, id: &Id, asked: Asked) -> Result<String, Refusal> {
    let at = Timestamp::now();
    let Asked { wish, reason, confirm } = asked;
    let ask = RollbackAsk { id: fresh_id(at), at, reason, confirm, wish };
    let text = serde_json::to_string(&ask).expect("a request is made of texts");
    let annotations = json!({ annotation::ROLLBACK: text, annotation::ROLLBACK_BY: REQUESTED_BY });
    (state.annotate)(id.clone(), annotations).await?;
    let is_confirmed = ask.confirm.is_some();
    tracing::info!(environment = id.1, request = ask.id, by = REQUESTED_BY, is_confirmed, "rollback requested");
    Ok(ask.id)
}

/// Waits until a rollback is settled: the environment is where it goes and nothing but a person can bring it further.
async fn follow(state: &State, id: &Id, rollback: RollbackStatus, until: Instant) -> Result<RollbackStatus, Refusal> {
    let request = rollback.id.clone();
    let settled = when(state, id, until, |environment| match find(environment, &request) {
        None => Some(None),
        Some(found) => is_settled(found).then(|| Some(found.clone())),
    });
    match settled.await? {
        Some(Some(settled)) => Ok(settled),
        Some(None) => Err(Refusal::new(StatusCode::CONFLICT, "another rollback has taken its place")),
        None => {
            let now = state.board.environments.get(id);
            Ok(now.and_then(|now| find(&now, &request).cloned()).unwrap_or(rollback))
        }
    }
}

fn is_settled(rollback: &RollbackStatus) -> bool {
    match (rollback.phase, &rollback.goes_to) {
        (RollbackPhase::Refused, _) => true,
        (RollbackPhase::Pushing | RollbackPhase::WaitsForMerge, _) => rollback.waits_for_somebody(),
        (_, goes_to) => goes_to.is_none(),
    }
}

/// Waits until an Environment shows something. None when the time is over before, or the agent ends.
///
/// # Errors
/// When it is gone.
async fn when<T>(
    state: &State,
    id: &Id,
    until: Instant,
    shows: impl Fn(&Environment) -> Option<T>,
) -> Result<Option<T>, Refusal> {
    let mut changes = state.board.environments.changes();
    let shown = async {
        loop {
            changes.borrow_and_update();
            let environment = state.board.environments.get(id).ok_or_else(|| Refusal::no_environment(&id.1))?;
            if let Some(shown) = shows(&environment) {
                return Ok(Some(shown));
            }
            // The board lives as long as the door.
            let _ = changes.changed().await;
        }
    };
    tokio::select! {
        shown = shown => shown,
        () = tokio::time::sleep_until(until) => Ok(None),
        () = state.stop.cancelled() => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_not_kept_by_reverts_that_somebody_must_see_to() {
        let pushing = |line: &str, goes_to: Option<&str>| RollbackStatus {
            phase: RollbackPhase::Pushing,
            commit: Some("02".into()),
            goes_to: goes_to.map(str::to_owned),
            lines: vec![line.to_owned()],
            ..RollbackStatus::default()
        };
        let cannot = "its reverts cannot be pushed: the key is refused";
        assert!(is_settled(&pushing(cannot, None)));
        assert!(is_settled(&pushing(cannot, Some("master@sha1:02"))));
        assert!(!is_settled(&pushing(cannot, Some("master@sha1:01"))), "it goes there all the same");
        assert!(!is_settled(&pushing("1 commit takes back", None)));
    }
}
