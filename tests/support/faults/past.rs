//! Reads as they were: a server whose cache lags behind, and watches whose events do not come.
//!
//! Nothing is made up. What was there at a resource version is asked from the real server, which keeps its history for
//! five minutes; writes reach it as ever, for a server that lags writes to the same store.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Asked, On, Shared};
use crate::control_plane::ADMIN_TOKEN;

/// An answer: its status, its headers and its body.
pub(super) type Told = (StatusCode, HeaderMap, BoxStream<'static, reqwest::Result<Bytes>>);

/// What is told to whom.
pub(super) struct Past {
    on: On,
    version: u64,
    /// Cancelled where nobody is ever told what happened meanwhile.
    is_lost: CancellationToken,
}

impl Past {
    pub(super) fn new(on: On, version: u64) -> Past {
        Past { on, version, is_lost: CancellationToken::new() }
    }

    pub(super) fn lose(&self) {
        self.is_lost.cancel();
    }

    pub(super) fn on(&self) -> &On {
        &self.on
    }
}

/// The past that a request is answered from; `None` for one that is answered as things are.
pub(super) fn of(shared: &Shared, asked: &Asked) -> Option<Arc<Past>> {
    let is_read = matches!(asked.verb, "get" | "list" | "watch");
    let may_be_told = is_read && !asked.resource.is_empty() && !asked.resource.contains('/');
    shared.past.borrow().clone().filter(|past| may_be_told && past.on.means(asked))
}

/// Whether a watch wants to go on from where nobody knows any more what came after it.
pub(super) fn is_lost(shared: &Shared, asked: &Asked) -> bool {
    let from = parameter(&asked.query, "resourceVersion").and_then(|version| version.parse::<u64>().ok());
    let goes_on = asked.verb == "watch" && parameter(&asked.query, "sendInitialEvents").is_none();
    let gaps = &shared.state().gaps;
    goes_on && gaps.iter().any(|(on, until)| on.means(asked) && from.is_some_and(|from| from > 0 && from < *until))
}

/// Answers a read from the past. `None` where the real server does not answer.
pub(super) async fn tell(
    shared: &Arc<Shared>,
    past: &Past,
    asked: &Asked,
    accept: Option<HeaderValue>,
) -> Option<Told> {
    match asked.verb {
        "watch" => watch(shared, past, asked).await,
        "get" => {
            let path = asked.path.trim_end_matches(&asked.name);
            let query = format!("fieldSelector=metadata.name%3D{}", asked.name);
            let (status, list) = list(shared, past.version, path, &query, accept.map(of_a_list)).await?;
            let item = list["items"].get(0).cloned();
            Some(match item {
                _ if !status.is_success() => json_answer(status, &list),
                Some(item) => json_answer(status, &with_kind(item, &list)),
                None => json_answer(
                    StatusCode::NOT_FOUND,
                    &json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
                        "message": format!("{} \"{}\" not found", asked.resource, asked.name), "code": 404,
                        "details": {"name": asked.name, "kind": asked.resource},
                    }),
                ),
            })
        }
        _ => {
            let (status, list) = list(shared, past.version, &asked.path, &asked.query, accept).await?;
            Some(json_answer(status, &list))
        }
    }
}

/// A watch that was opened during the lag: what was there, where that was asked for, and what came after it when the lag
/// is over.
async fn watch(shared: &Arc<Shared>, past: &Past, asked: &Asked) -> Option<Told> {
    let wants_list = parameter(&asked.query, "sendInitialEvents") == Some("true");
    let mut lines = String::new();
    let mut from = parameter(&asked.query, "resourceVersion").unwrap_or_default().to_owned();
    if wants_list {
        let (status, list) = list(shared, past.version, &asked.path, &asked.query, None).await?;
        if !status.is_success() {
            return Some(json_answer(status, &list));
        }
        for item in list["items"].as_array().into_iter().flatten() {
            lines += &format!("{}\n", json!({"type": "ADDED", "object": with_kind(item.clone(), &list)}));
        }
        from = past.version.to_string();
        let metadata = json!({"resourceVersion": from, "annotations": {"k8s.io/initial-events-end": "true"}});
        let end = with_kind(json!({ "metadata": metadata }), &list);
        lines += &format!("{}\n", json!({"type": "BOOKMARK", "object": end}));
    }
    let later = {
        let (shared, is_lost) = (shared.clone(), past.is_lost.clone());
        let query = without(&asked.query, &["sendInitialEvents", "resourceVersion", "resourceVersionMatch"]);
        let url = format!("{}{}?{query}&resourceVersion={from}", shared.target, asked.path);
        let asked = asked.clone();
        stream::once(async move {
            let mut changes = shared.past.subscribe();
            let over = changes.wait_for(|past| past.as_ref().is_none_or(|past| !past.on.means(&asked)));
            tokio::select! {
                biased;
                () = is_lost.cancelled() => return stream::empty().boxed(),
                _ = over => {}
            }
            match shared.client.get(url).bearer_auth(ADMIN_TOKEN).send().await {
                Ok(answer) => held(&shared, &asked, answer.bytes_stream().boxed()),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
    };
    let body = stream::iter((!lines.is_empty()).then(|| Ok(Bytes::from(lines)))).chain(later).boxed();
    Some((StatusCode::OK, json_headers(), body))
}

/// The events of a watch; during a lag that means it they wait.
pub(super) fn held(
    shared: &Arc<Shared>,
    asked: &Asked,
    events: BoxStream<'static, reqwest::Result<Bytes>>,
) -> BoxStream<'static, reqwest::Result<Bytes>> {
    let state = (events, shared.past.subscribe(), asked.clone());
    type Waiting = (BoxStream<'static, reqwest::Result<Bytes>>, tokio::sync::watch::Receiver<Option<Arc<Past>>>, Asked);
    let next = |(mut events, mut changes, asked): Waiting| async move {
        loop {
            let past = changes.borrow_and_update().clone();
            let past = past.filter(|past| past.on.means(&asked));
            let is_lost = async {
                match &past {
                    Some(past) => past.is_lost.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = is_lost => return None,
                changed = changes.changed() => changed.ok()?,
                event = events.next(), if past.is_none() => return Some((event?, (events, changes, asked))),
            }
        }
    };
    stream::unfold(state, next).boxed()
}

/// A list as it was.
async fn list(
    shared: &Shared,
    version: u64,
    path: &str,
    query: &str,
    accept: Option<HeaderValue>,
) -> Option<(StatusCode, Value)> {
    let dropped = [
        "resourceVersion",
        "resourceVersionMatch",
        "watch",
        "sendInitialEvents",
        "allowWatchBookmarks",
        "timeoutSeconds",
        "limit",
    ];
    let query = without(query, &dropped);
    let path = path.trim_end_matches('/');
    let url = format!("{}{path}?{query}&resourceVersion={version}&resourceVersionMatch=Exact", shared.target);
    let accept = accept.unwrap_or(HeaderValue::from_static("application/json"));
    let answer = shared.client.get(url).bearer_auth(ADMIN_TOKEN).header(header::ACCEPT, accept).send().await.ok()?;
    Some((answer.status(), answer.json().await.ok()?))
}

/// What asks for one object as its metadata alone, asking for a list of such.
fn of_a_list(accept: HeaderValue) -> HeaderValue {
    let text = accept.to_str().unwrap_or_default();
    let of_list = text.replace("as=PartialObjectMetadata;", "as=PartialObjectMetadataList;");
    HeaderValue::from_str(&of_list).unwrap_or(accept)
}

/// An item of a list with its type, which the list alone says.
fn with_kind(mut item: Value, list: &Value) -> Value {
    if item["kind"].is_null() {
        item["apiVersion"] = list["apiVersion"].clone();
        item["kind"] = list["kind"].as_str().unwrap_or_default().trim_end_matches("List").into();
    }
    item
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn without(query: &str, names: &[&str]) -> String {
    let is_kept = |pair: &&str| !names.contains(&pair.split('=').next().unwrap_or_default());
    query.split('&').filter(is_kept).collect::<Vec<_>>().join("&")
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

fn json_answer(status: StatusCode, value: &Value) -> Told {
    let body = Bytes::from(value.to_string());
    (status, json_headers(), stream::once(async { Ok(body) }).boxed())
}
