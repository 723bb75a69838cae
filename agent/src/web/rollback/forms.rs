//! The same from a browser: a page with the preview, and the forms that lead to it and away from it.
//!
//! Each form leads to a page that can be loaded again: the preview stands in the status, not in the answer to the form.

use axum::body::Body;
use axum::extract::{Path, RawQuery, State as Has};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;
use towpath_core::status::{RollbackPhase, Wish};

use super::super::api::Refusal;
use super::super::request::{is_of, read};
use super::super::{State, not_found, page};
use super::{ANSWER, Asked, ask, check};
use crate::board::Id;

/// The page on which a rollback is looked at and confirmed.
pub(in crate::web) async fn show(
    Has(state): Has<State>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(environment) = state.environment(&name) else { return not_found("there is no environment of this name") };
    let query = query.unwrap_or_default();
    let mut view = page::View { may_ask: state.settings.token.is_some(), ..page::View::default() };
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "id" => view.id = Some(value.into_owned()),
            "changed" => view.has_changed = true,
            _ => {}
        }
    }
    Html(page::rollback(&environment, &view, Timestamp::now())).into_response()
}

/// Takes a form: prepares what it asks for, or does what it confirms.
pub(in crate::web) async fn send(
    Has(state): Has<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(environment) = state.environment(&name) else { return not_found("there is no environment of this name") };
    let id: Id = (environment.namespace().unwrap_or_default(), environment.name_any());
    match take(&state, &id, &headers, body).await {
        Ok(to) => Redirect::to(&to).into_response(),
        Err(Refusal { status, error, hint }) => {
            (status, Html(page::not_taken(&name, &error, hint.as_deref()))).into_response()
        }
    }
}

/// Gives the page that comes next.
async fn take(state: &State, id: &Id, headers: &HeaderMap, body: Body) -> Result<String, Refusal> {
    let body = read(body).await?;
    if !is_of(headers, "application/x-www-form-urlencoded") {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this is not what a form sends"));
    }
    let asked = parse(&body)?;
    check(&asked.wish)?;
    let is_confirmed = asked.confirm.is_some();
    let answer = ask(state, id, asked, Instant::now() + ANSWER).await?;
    let name = &id.1;
    let preview = || {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("id", &answer.id).finish();
        format!("/environments/{name}/rollback?{query}")
    };
    Ok(match answer.phase {
        RollbackPhase::Prepared if is_confirmed => format!("{}&changed=1", preview()),
        RollbackPhase::Prepared => preview(),
        RollbackPhase::Refused if !is_confirmed => preview(),
        RollbackPhase::Refused => {
            let is_begun = state.board.environments.get(id).and_then(|environment| {
                let status = environment.status.as_ref()?;
                Some(status.rollback.as_ref()?.id == answer.id)
            });
            if is_begun == Some(true) { format!("/environments/{name}") } else { preview() }
        }
        _ => format!("/environments/{name}"),
    })
}

/// What the fields of a form say. An empty one says nothing.
fn parse(body: &[u8]) -> Result<Asked, Refusal> {
    let mut asked = Asked::default();
    let Wish { to, ticket, reland, back_out_lane, restore, emergency } = &mut asked.wish;
    for (key, value) in url::form_urlencoded::parse(body) {
        if value.trim().is_empty() {
            continue;
        }
        let text = || Some(value.trim().to_owned());
        match &*key {
            "to" => *to = text(),
            "ticket" => *ticket = text(),
            "reland" => *reland = text(),
            "backOutLane" => *back_out_lane = true,
            "restore" => *restore = true,
            "emergency" => *emergency = true,
            "reason" => asked.reason = text(),
            "confirm" => asked.confirm = text(),
            _ => {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!("the form has a field {key:?} that is not known"),
                ));
            }
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_what_its_fields_say_and_nothing_else() {
        let asked = parse(b"to=prod%407&reason=too+slow+&restore=on&confirm=abc&ticket=").unwrap();
        assert_eq!(asked.wish, Wish { to: Some("prod@7".into()), restore: true, ..Wish::default() });
        assert_eq!((asked.reason.as_deref(), asked.confirm.as_deref()), (Some("too slow"), Some("abc")));
        assert_eq!(parse(b"").unwrap().wish, Wish::default());
        let refusal = parse(b"override=yes").unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    }
}
