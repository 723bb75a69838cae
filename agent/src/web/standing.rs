//! A replica that stands by knows nothing of the environments, and says so rather than that there are none.

use axum::extract::{Request, State as Has};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use towpath_core::lease::Standing;

use super::api::Refusal;
use super::{State, page};

/// Lets a request through where this replica leads.
pub(super) async fn stand_by(Has(state): Has<State>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let standing = state.settings.standing.borrow().clone();
    let Standing::StandingBy { leader } = standing else { return next.run(request).await };
    if path.starts_with("/assets/") {
        return next.run(request).await;
    }
    let leader = leader.filter(|leader| !leader.is_empty());
    let who = leader.map_or_else(|| "nobody leads at the moment".to_owned(), |leader| format!("{leader} leads"));
    if path.starts_with("/api/") {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "this replica of the agent stands by")
            .hint(format!("{who}; the Service leads to it"))
            .into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Html(page::stands_by(&who))).into_response()
}
