//! A git server over http: the real `git http-backend` behind a small bridge, with faults that can be switched on.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use base64::Engine;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

/// What goes wrong with the next requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status and no git.
    Status(u16),
    /// Answers with a redirect to this address.
    Redirect(String),
    /// Answers 200 with a web page.
    Page,
    /// Sends only so many bytes of a pack and then cuts the connection.
    CutPack(usize),
    /// Turns one byte of a pack around.
    FlipPack(usize),
    /// Never answers.
    Silence,
}

/// A server that ends when it is dropped.
pub struct GitServer {
    address: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    root: PathBuf,
    /// User and password that are asked for.
    login: Mutex<Option<(String, String)>>,
    fault: Mutex<Option<Fault>>,
    requests: AtomicUsize,
    /// The last requests: method, path with query, and the Authorization header.
    seen: Mutex<VecDeque<(String, String, Option<String>)>>,
}

impl GitServer {
    /// Serves the bare repositories below a folder on a free loopback port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(root: &Path) -> Result<GitServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            login: Mutex::default(),
            fault: Mutex::default(),
            requests: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let task = tokio::spawn(async move {
            use axum::serve::ListenerExt;
            // Head and body are written apart; without this each answer waits 40 ms for an acknowledgement.
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            let _ = axum::serve(listener, router).await;
        });
        Ok(GitServer { address, shared, task })
    }

    /// The address of a repository, such as `deploy.git`.
    pub fn url(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// Asks for this login from now on.
    pub fn login(&self, user: &str, password: &str) {
        *self.shared.login.lock().expect("no test panics while it holds this lock") =
            Some((user.to_owned(), password.to_owned()));
    }

    /// Lets every request go wrong from now on, or none.
    pub fn fault(&self, fault: Option<Fault>) {
        *self.shared.fault.lock().expect("no test panics while it holds this lock") = fault;
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The last requests: method, path with query, and the Authorization header.
    pub fn seen(&self) -> Vec<(String, String, Option<String>)> {
        self.shared.seen.lock().expect("no test panics while it holds this lock").iter().cloned().collect()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    {
        let mut seen = shared.seen.lock().expect("no test panics while it holds this lock");
        seen.push_back((method.to_string(), uri.to_string(), authorization.clone()));
        if seen.len() > 100 {
            seen.pop_front();
        }
    }
    let plain = |status: u16| Response::builder().status(status).body(Body::empty()).expect("a status is enough");
    let fault = shared.fault.lock().expect("no test panics while it holds this lock").clone();
    match &fault {
        Some(Fault::Status(status)) => return plain(*status),
        Some(Fault::Redirect(to)) => {
            return Response::builder().status(302).header("location", to).body(Body::empty()).expect("a location");
        }
        Some(Fault::Page) => {
            let page = Body::from("<html>Sign in</html>");
            return Response::builder().header("content-type", "text/html").body(page).expect("a page");
        }
        Some(Fault::Silence) => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            return plain(500);
        }
        Some(Fault::CutPack(_) | Fault::FlipPack(_)) | None => {}
    }
    let login = shared.login.lock().expect("no test panics while it holds this lock").clone();
    if let Some((user, password)) = login {
        let wanted = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        if authorization != Some(format!("Basic {wanted}")) {
            return plain(401);
        }
    }
    match backend(&shared.root, &method, &uri, &headers, &body).await {
        Ok((status, headers, mut bytes)) => {
            let is_pack = uri.path().ends_with("/git-upload-pack") && body.windows(4).any(|word| word == b"done");
            let mut length = bytes.len();
            match fault {
                Some(Fault::CutPack(at)) if is_pack => length = at.min(length.saturating_sub(1)),
                Some(Fault::FlipPack(from_end)) if is_pack => {
                    let at = bytes.len().saturating_sub(from_end);
                    bytes[at] ^= 0xff;
                }
                _ => {}
            }
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            if length < bytes.len() {
                // Promise more than is sent, and end the connection.
                let sent = Bytes::from(bytes[..length].to_vec());
                let pieces: Vec<std::io::Result<Bytes>> = vec![Ok(sent), Err(std::io::Error::other("cut"))];
                return response.body(Body::from_stream(futures::stream::iter(pieces))).expect("a body");
            }
            response.body(Body::from(bytes)).expect("a body")
        }
        Err(error) => Response::builder()
            .status(StatusCode::INTERNAL_SERVER_ERROR)
            .body(Body::from(format!("{error:?}")))
            .expect("a body"),
    }
}

type CgiAnswer = (u16, Vec<(String, String)>, Vec<u8>);

/// Runs `git http-backend` as a CGI program (RFC 3875).
async fn backend(root: &Path, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<CgiAnswer> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_COUNT", "2")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("GIT_CONFIG_KEY_1", "http.receivepack")
        .env("GIT_CONFIG_VALUE_1", "true")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REQUEST_METHOD", method.as_str())
        .env("PATH_INFO", uri.path())
        .env("QUERY_STRING", uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("REMOTE_USER", "ada")
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start git http-backend")?;
    let mut input = child.stdin.take().context("stdin is piped")?;
    let body = body.to_vec();
    tokio::spawn(async move {
        let _ = input.write_all(&body).await;
    });
    let output = child.wait_with_output().await?.stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").context("the answer has a head")?;
    let head = std::str::from_utf8(&output[..end])?;
    let mut status = 200;
    let mut answer = Vec::new();
    for line in head.lines() {
        let (name, value) = line.split_once(": ").context("a header line")?;
        match name {
            "Status" => status = value.split(' ').next().unwrap_or_default().parse()?,
            _ => answer.push((name.to_owned(), value.to_owned())),
        }
    }
    Ok((status, answer, output[end + 4..].to_vec()))
}
