//! Sockets: how many connections there may be, and how long each may take.
//!
//! Without these limits whoever sends one byte a minute keeps a connection for ever. A connection ends when the head of
//! a request is not there in time, which also ends one that is idle; after ten minutes it takes no further
//! request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;

/// Time until the head of a request is there; also how long a connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Fields in the head of a request.
const MAX_FIELDS: usize = 64;
/// After this a connection takes no further request.
const OLDEST: Duration = Duration::from_secs(600);
/// How long its last request may take: longer than any that waits for a sync.
const LAST_REQUEST: Duration = Duration::from_secs(330);
/// How long a request under way may still take when the agent stops.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A socket that is listened on.
pub(super) struct Listener {
    /// Where.
    pub(super) address: SocketAddr,
    socket: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener {
    /// Listens. Port 0 is any free one.
    ///
    /// # Errors
    /// `Setup` when the address is taken or none of ours.
    pub(super) async fn bind(address: SocketAddr, max_connections: usize) -> Result<Listener, Problem> {
        let refuse = |error: std::io::Error| {
            Problem::setup(format!("cannot listen on {address}: {error}")).hint("choose another address or port")
        };
        let socket = TcpListener::bind(address).await.map_err(refuse)?;
        let address = socket.local_addr().map_err(refuse)?;
        Ok(Listener { address, socket, places: Arc::new(Semaphore::new(max_connections)) })
    }

    /// Serves until `stop`, and then until every connection has ended.
    pub(super) async fn run(self, routes: Router, stop: CancellationToken) {
        let connections = tokio_util::task::TaskTracker::new();
        loop {
            let place = tokio::select! {
                place = self.places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
                () = stop.cancelled() => break,
            };
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (routes, stop) = (routes.clone(), stop.clone());
                    connections.spawn(async move {
                        converse(stream, routes, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

/// One connection, from its first request to its last.
async fn converse(stream: TcpStream, routes: Router, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = std::pin::pin!(connection);
    // How a connection ended is the caller's business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(OLDEST) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LAST_REQUEST) => {}
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listener(max_connections: usize) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), max_connections).await.unwrap();
        let (address, stop) = (listener.address, CancellationToken::new());
        let routes = Router::new().route("/", axum::routing::get(async || "here"));
        (address, stop.clone(), tokio::spawn(listener.run(routes, stop)))
    }

    async fn answer(stream: &mut TcpStream, head: &str) -> String {
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let count = stream.read(&mut bytes).await.unwrap_or(0);
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let (address, _stop, _task) = listener(8).await;
        let fields = |count: usize| (0..count).map(|number| format!("x-{number}: y\r\n")).collect::<String>();
        for (count, status) in [(MAX_FIELDS - 1, "200"), (MAX_FIELDS, "431")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", fields(count));
            let text = answer(&mut stream, &head).await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{count}: {text}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(MAX_HEAD_BYTES));
        let text = answer(&mut stream, &head).await;
        assert!(!text.starts_with("HTTP/1.1 200"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed() {
        let (address, _stop, _task) = listener(8).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(HEAD_WITHIN * 2, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_for_a_place() {
        let (address, _stop, _task) = listener(1).await;
        let get = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(answer(&mut first, get).await.contains("here"));
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(get.as_bytes()).await.unwrap();
        let mut byte = [0];
        let silence = tokio::time::timeout(Duration::from_millis(100), second.read(&mut byte)).await;
        assert!(silence.is_err());
        drop(first);
        second.read_exact(&mut byte).await.unwrap();
    }

    #[tokio::test]
    async fn stopping_ends_an_idle_connection() {
        let (address, stop, task) = listener(8).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(answer(&mut stream, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.contains("here"));
        stop.cancel();
        tokio::time::timeout(GRACE, task).await.unwrap().unwrap();
    }
}
