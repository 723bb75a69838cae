//! How a proxy listens, passes on, and breaks.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Action, Answer, Asked, Moment, Shared, past};

type Body = UnsyncBoxBody<Bytes, reqwest::Error>;

/// Time for what was written to leave: a reset throws away what is still in the socket.
const FLUSHED: Duration = Duration::from_millis(30);

pub(super) async fn listen(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = stream else { continue };
        let (open, tls) = {
            let mut state = shared.state();
            if state.is_away {
                state.refused.push(Instant::now());
                reset_when_closed(&stream);
                continue;
            }
            (state.open.clone(), state.tls.clone())
        };
        let (shared, stop) = (shared.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, tls, shared, open) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Serves one connection until its end; a reset ends it with RST.
async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>, open: CancellationToken) {
    let _ = stream.set_nodelay(true);
    // A second handle, for the first one disappears in the layers below.
    let Ok((stream, handle)) = stream.into_std().and_then(|stream| {
        let handle = stream.try_clone()?;
        Ok((TcpStream::from_std(stream)?, TcpStream::from_std(handle)?))
    }) else {
        return;
    };
    let reset = CancellationToken::new();
    let service = service_fn({
        let reset = reset.clone();
        move |request| {
            let (shared, reset) = (shared.clone(), reset.clone());
            async move { Ok::<_, Infallible>(handle_request(&shared, request, &reset).await) }
        }
    });
    let serving = async {
        // An error is a client that went away.
        match tls {
            None => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
            Some(tls) => {
                let Ok(stream) = tls.accept(stream).await else { return };
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = reset.cancelled() => reset_when_closed(&handle),
        () = open.cancelled() => reset_when_closed(&handle),
    }
}

fn reset_when_closed(stream: &TcpStream) {
    // An error is a connection that has ended already.
    let _ = stream.set_zero_linger();
}

async fn handle_request(shared: &Arc<Shared>, request: Request<Incoming>, reset: &CancellationToken) -> Response<Body> {
    let asked = Asked::of(&request);
    wait_for_kill(shared, &asked).await;
    let (index, action) = shared.meet(asked.clone());
    let end = async || {
        reset.cancel();
        pending().await
    };
    match &action {
        Some(Action::CutBefore) => return end().await,
        Some(Action::Answer(answer)) => return answer_with(answer),
        Some(Action::Delay(pause)) => tokio::time::sleep(*pause).await,
        Some(Action::Kill(Moment::Before)) => {
            shared.kill();
            return end().await;
        }
        _ => {}
    }

    if past::is_lost(shared, &asked) {
        return answer_with(&Answer::status(410, "too old resource version"));
    }
    let (status, headers, body) = if let Some(past) = past::of(shared, &asked) {
        let accept = request.headers().get(header::ACCEPT).cloned();
        let Some(told) = past::tell(shared, &past, &asked, accept).await else { return end().await };
        told
    } else if asked.verb == "watch" {
        let Some(answer) = pass_on(shared, request).await else { return end().await };
        (answer.status(), answer.headers().clone(), past::held(shared, &asked, answer.bytes_stream().boxed()))
    } else {
        // What was passed on is done to its end, also when the agent ends meanwhile: then the audit log tells of it.
        let shared = shared.clone();
        let done = tokio::spawn(async move {
            let answer = pass_on(&shared, request).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            Some((status, headers, answer.bytes().await.ok()?))
        });
        let Ok(Some((status, headers, body))) = done.await else { return end().await };
        (status, headers, stream::once(async { Ok(body) }).boxed())
    };
    shared.answered(index, status.as_u16());
    match action {
        None | Some(Action::Delay(_)) => respond(status, &headers, streamed(body)),
        Some(Action::CutAnswer(at)) => {
            let reset = reset.clone();
            let cut = stream::once(async move {
                tokio::time::sleep(FLUSHED).await;
                reset.cancel();
                pending().await
            });
            respond(status, &headers, streamed(first_bytes(body, at).chain(cut).boxed()))
        }
        Some(Action::Shorten(at)) => {
            let mut headers = headers;
            headers.remove(header::CONTENT_LENGTH);
            respond(status, &headers, streamed(first_bytes(body, at)))
        }
        Some(Action::Stall) => pending().await,
        Some(Action::AnswerAfter(answer)) => answer_with(&answer),
        Some(Action::Kill(Moment::Answered)) => {
            shared.state().holds_writes = true;
            let shared = shared.clone();
            tokio::spawn(async move {
                tokio::time::sleep(FLUSHED).await;
                shared.kill();
            });
            respond(status, &headers, streamed(body))
        }
        Some(Action::Kill(_)) => {
            shared.kill();
            end().await
        }
        _ => end().await,
    }
}

/// While the agent is about to be killed, none of its writes passes: the connection ends with the agent.
async fn wait_for_kill(shared: &Shared, asked: &Asked) {
    let holds = asked.is_write() && shared.state().holds_writes;
    if holds {
        let () = pending().await;
    }
}

/// Sends a request to the real server. `None` where there is no answer.
async fn pass_on(shared: &Shared, request: Request<Incoming>) -> Option<reqwest::Response> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let url = format!("{}{}", shared.target, parts.uri);
    let mut headers = parts.headers;
    // Answers are cut by bytes, so they come as they are.
    for name in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::ACCEPT_ENCODING] {
        headers.remove(name);
    }
    headers.remove(header::TRANSFER_ENCODING);
    shared.client.request(parts.method, url).headers(headers).body(body).send().await.ok()
}

fn respond(status: http::StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let is_for_the_connection =
        |name: &HeaderName| [header::CONNECTION, header::TRANSFER_ENCODING].contains(name) || name == "keep-alive";
    for (name, value) in headers.iter().filter(|(name, _)| !is_for_the_connection(name)) {
        response.headers_mut().append(name, value.clone());
    }
    response
}

fn answer_with(answer: &Answer) -> Response<Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let body = Full::new(Bytes::from(answer.body.clone())).map_err(|never| match never {}).boxed_unsync();
    response.body(body).expect("a test writes good headers")
}

fn streamed(bytes: BoxStream<'static, reqwest::Result<Bytes>>) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(bytes.map(|chunk| chunk.map(Frame::data))))
}

/// The first so many bytes; the rest is not even read.
fn first_bytes(
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    at: usize,
) -> BoxStream<'static, reqwest::Result<Bytes>> {
    let next = |(mut bytes, left): (BoxStream<'static, reqwest::Result<Bytes>>, usize)| async move {
        if left == 0 {
            return None;
        }
        let chunk = bytes.next().await?.map(|mut chunk| {
            chunk.truncate(left);
            chunk
        });
        let left = left - chunk.as_ref().map_or(left, Bytes::len);
        Some((chunk, (bytes, left)))
    };
    stream::unfold((bytes, at), next).boxed()
}
