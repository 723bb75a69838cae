//! Real git over http on loopback: `git http-backend`, started for each request as a web server does, behind a few
//! lines of HTTP/1.1 that count requests, ask for logins and misbehave on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A git server for all bare repositories below a folder. It ends when it is dropped.
#[derive(Debug)]
pub struct GitServer {
    address: SocketAddr,
    is_tls: bool,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    logins: BTreeMap<String, String>,
    writers: BTreeMap<String, String>,
    fault: Option<Fault>,
    speaks_only_version_0: bool,
    connections: Vec<TcpStream>,
    connected: usize,
    sent: usize,
    is_over: bool,
}

/// One request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The header `authorization`, as it came.
    pub authorization: Option<String>,
    /// What the request is for.
    pub purpose: Purpose,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// How the server greets.
    Greeting,
    /// The branches.
    Refs,
    /// A pack from the server.
    Fetch,
    /// A pack to the server.
    Push,
    /// Something else.
    Other,
}

/// How the server misbehaves.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with this status and an empty body.
    Status(u16),
    /// Answers with a redirect to an address, followed by the path.
    Redirect(String),
    /// Answers with a web page.
    Html,
    /// Waits before it answers.
    Delay(Duration),
    /// Takes the request and never answers.
    Silence,
    /// Ends the connection after so many bytes of a pack's answer.
    CutPack(usize),
    /// Ends a pack's answer properly after so many bytes.
    ShortenPack(usize),
    /// Turns one byte of a pack's answer around.
    FlipPack(usize),
    /// Answers a fetch with these bytes on the pack's band.
    ReplacePack(Vec<u8>),
    /// Sends the body of each answer one byte at a time, with this pause between two.
    Drip(Duration),
    /// Answers a request for the branches with these bytes.
    ReplaceRefs(Vec<u8>),
    /// Ends the connection after so many bytes of what is pushed. Git gets nothing.
    CutPush(usize),
    /// Gives git so many bytes of what is pushed, and ends the connection then.
    BreakPush(usize),
    /// Takes what is pushed, and ends the connection after so many bytes of the report.
    CutReport(usize),
    /// Ends the connection once it has all that is pushed, and gives it to git after a while.
    LatePush(Duration),
    /// Answers a push with this status.
    PushStatus(u16),
}

impl GitServer {
    /// Serves the repositories below a folder, on a free port.
    pub fn start(root: impl AsRef<Path>) -> GitServer {
        GitServer::start_on(root, 0)
    }

    /// The same on a port of one's choice.
    pub fn start_on(root: impl AsRef<Path>, port: u16) -> GitServer {
        GitServer::listen(root.as_ref(), port, None)
    }

    /// The same over https on a free port, with one of the certificates in `tls/` (`good`, `expired`, `other-name`).
    pub fn start_tls(root: impl AsRef<Path>, certificate: &str) -> GitServer {
        towpath::repo::init();
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/support/tls"));
        let certificate =
            CertificateDer::from_pem_file(folder.join(format!("{certificate}.pem"))).expect("it is there");
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("it is there");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        GitServer::listen(root.as_ref(), 0, Some(Arc::new(config.expect("key and certificate fit"))))
    }

    /// The authority that signed the certificates in `tls/`, in PEM.
    pub fn authority() -> &'static str {
        include_str!("tls/ca.pem")
    }

    fn listen(root: &Path, port: u16, tls: Option<Arc<ServerConfig>>) -> GitServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared { root: root.to_owned(), state: Mutex::default() });
        let server = GitServer { address, is_tls: tls.is_some(), shared: shared.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let mut state = shared.state();
                if state.is_over {
                    return;
                }
                state.connected += 1;
                state.connections.extend(stream.try_clone());
                drop(state);
                let (shared, tls) = (shared.clone(), tls.clone());
                thread::spawn(move || {
                    // An error is a client that went away.
                    let _ = shared.accept(stream, tls);
                });
            }
        });
        server
    }

    /// The address of a repository by the name of its folder: `http://127.0.0.1:<port>/<name>`.
    pub fn url(&self, name: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}/{name}", self.address)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on asks for this login wherever a path begins with `name`.
    pub fn require_login(&self, name: &str, user: &str, password: &str) {
        use base64::Engine;
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.shared.state().logins.insert(name.to_owned(), format!("Basic {login}"));
    }

    /// From now on asks for this login, and no other, where somebody wants to push.
    pub fn require_login_to_push(&self, name: &str, user: &str, password: &str) {
        use base64::Engine;
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.shared.state().writers.insert(name.to_owned(), format!("Basic {login}"));
    }

    /// From now on asks for no login any more where somebody wants to push.
    pub fn let_everybody_push(&self, name: &str) {
        self.shared.state().writers.remove(name);
    }

    /// From now on misbehaves, or no longer.
    pub fn misbehave(&self, fault: Option<Fault>) {
        self.shared.state().fault = fault;
    }

    /// From now on speaks only version 0 of git's protocol.
    pub fn speak_only_version_0(&self) {
        self.shared.state().speaks_only_version_0 = true;
    }

    /// The requests since the last call, oldest first.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.state().requests)
    }

    /// Bytes of the answers since the last call, without their headers.
    pub fn take_sent(&self) -> usize {
        std::mem::take(&mut self.shared.state().sent)
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connected
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_over = true;
        // An error means that the client has closed it.
        state.connections.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(state);
        // Wakes the listener, so that it ends and frees the port.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> std::io::Result<()> {
        // Without this each answer on a kept connection waits 40 ms for an acknowledgement.
        stream.set_nodelay(true)?;
        let control = stream.try_clone()?;
        match tls {
            None => self.serve(stream, &control),
            Some(config) => {
                let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
                self.serve(StreamOwned::new(connection, stream), &control)
            }
        }
    }

    /// Answers the requests of one connection.
    fn serve(&self, stream: impl Read + Write, control: &TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let cut = || match self.state().fault {
            Some(Fault::CutPush(at)) => Some(at),
            _ => None,
        };
        loop {
            let Some((request, headers, body)) = read_request(&mut stream, &cut)? else {
                return control.shutdown(Shutdown::Both);
            };
            let to = stream.get_mut();
            let (login, fault, only_version_0) = {
                let mut state = self.state();
                state.requests.push(request.clone());
                let path = request.target.trim_start_matches('/');
                let logins = if path.contains("git-receive-pack") && !state.writers.is_empty() {
                    &state.writers
                } else {
                    &state.logins
                };
                let login = logins.iter().find(|(name, _)| path.starts_with(*name)).map(|(_, login)| login.clone());
                (login, state.fault.clone(), state.speaks_only_version_0)
            };
            match &fault {
                Some(Fault::Delay(pause)) => thread::sleep(*pause),
                Some(Fault::Silence) => {
                    thread::sleep(Duration::from_secs(600));
                    return Ok(());
                }
                Some(Fault::Status(status)) => {
                    answer(to, *status, &[], b"")?;
                    continue;
                }
                Some(Fault::Redirect(host)) => {
                    let location = format!("Location: {host}{}", request.target);
                    answer(to, 302, &[location], b"")?;
                    continue;
                }
                Some(Fault::Html) => {
                    answer(to, 200, &["Content-Type: text/html".to_owned()], b"<!doctype html><p>Sign in")?;
                    continue;
                }
                _ => {}
            }
            if request.purpose == Purpose::Push
                && let Some(Fault::PushStatus(status)) = fault
            {
                answer(to, status, &[], b"")?;
                continue;
            }
            if login.is_some() && login != request.authorization {
                answer(to, 401, &["WWW-Authenticate: Basic realm=\"git\"".to_owned()], b"")?;
                continue;
            }
            if request.purpose == Purpose::Push {
                match &fault {
                    Some(Fault::BreakPush(at)) => {
                        self.run_backend(&request, &headers, &body[..body.len().min(*at)], only_version_0)?;
                        return control.shutdown(Shutdown::Both);
                    }
                    Some(Fault::LatePush(pause)) => {
                        control.shutdown(Shutdown::Both)?;
                        thread::sleep(*pause);
                        self.run_backend(&request, &headers, &body, only_version_0)?;
                        return Ok(());
                    }
                    _ => {}
                }
            }
            let (status, headers, mut body) = self.run_backend(&request, &headers, &body, only_version_0)?;
            match (request.purpose, &fault) {
                (Purpose::Fetch, Some(Fault::CutPack(at))) | (Purpose::Push, Some(Fault::CutReport(at))) => {
                    let length = body.len();
                    body.truncate(*at);
                    let head = head(status, &headers, length.max(at + 1));
                    to.write_all(&[head.as_bytes(), &body].concat())?;
                    to.flush()?;
                    return control.shutdown(Shutdown::Both);
                }
                (Purpose::Fetch, Some(Fault::ShortenPack(at))) => body.truncate(*at),
                (Purpose::Fetch, Some(Fault::FlipPack(at))) => {
                    if let Some(byte) = body.get_mut(*at) {
                        *byte ^= 0xff;
                    }
                }
                (Purpose::Fetch, Some(Fault::ReplacePack(pack))) => {
                    body = b"000dpackfile\n".to_vec();
                    for chunk in pack.chunks(60_000) {
                        body.extend([format!("{:04x}\x01", chunk.len() + 5).as_bytes(), chunk].concat());
                    }
                    body.extend(b"0000");
                }
                (Purpose::Refs, Some(Fault::ReplaceRefs(refs))) => body.clone_from(refs),
                (_, Some(Fault::Drip(pause))) => {
                    to.write_all(head(status, &headers, body.len()).as_bytes())?;
                    for byte in body {
                        to.write_all(&[byte])?;
                        to.flush()?;
                        thread::sleep(*pause);
                    }
                    continue;
                }
                _ => {}
            }
            self.state().sent += body.len();
            answer(to, status, &headers, &body)?;
        }
    }

    /// Runs `git http-backend` (CGI) and gives status, headers and body.
    fn run_backend(
        &self,
        request: &Request,
        headers: &BTreeMap<String, String>,
        body: &[u8],
        only_version_0: bool,
    ) -> std::io::Result<(u16, Vec<String>, Vec<u8>)> {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
        let mut command = git(&self.root);
        command
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REMOTE_USER", "somebody")
            .env("REMOTE_ADDR", "127.0.0.1")
            .env("REQUEST_METHOD", &request.method)
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("CONTENT_TYPE", header("content-type"))
            .env("CONTENT_LENGTH", body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", header("content-encoding"));
        if !only_version_0 {
            command.env("GIT_PROTOCOL", header("git-protocol"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        let body = body.to_vec();
        let writer = thread::spawn(move || stdin.write_all(&body));
        let output = child.wait_with_output()?.stdout;
        // The backend need not read everything.
        let _ = writer.join();
        let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len().saturating_sub(4));
        let mut status = 200;
        let mut headers = Vec::new();
        for line in String::from_utf8_lossy(&output[..end]).lines() {
            match line.strip_prefix("Status: ") {
                Some(said) => status = said[..3].parse().unwrap_or(500),
                None => headers.push(line.to_owned()),
            }
        }
        Ok((status, headers, output.get(end + 4..).unwrap_or_default().to_vec()))
    }
}

/// The `git` program without the configuration of this machine.
pub fn git(home: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*");
    command
}

type Incoming = (Request, BTreeMap<String, String>, Vec<u8>);

/// Reads one request. `None` when the client has gone, or when what is pushed is to be cut.
fn read_request<S: Read + Write>(
    from: &mut BufReader<S>,
    cut: &dyn Fn() -> Option<usize>,
) -> std::io::Result<Option<Incoming>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if headers.contains_key("expect") {
        from.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        loop {
            let mut size = String::new();
            from.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            from.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            body.extend(&chunk[..size]);
        }
    } else if let Some(length) = headers.get("content-length").and_then(|length| length.parse().ok()) {
        let is_push = method == "POST" && target.ends_with("git-receive-pack");
        let cut = cut().filter(|at| is_push && *at < length);
        body.resize(cut.unwrap_or(length), 0);
        from.read_exact(&mut body)?;
        if cut.is_some() {
            return Ok(None);
        }
    }
    let has = |text: &[u8]| body.windows(text.len()).any(|window| window == text);
    let purpose = match (method.as_str(), target.rsplit('/').next().unwrap_or_default()) {
        ("GET", target) if target.starts_with("refs") => Purpose::Greeting,
        ("POST", "git-upload-pack") if has(b"command=ls-refs") => Purpose::Refs,
        ("POST", "git-upload-pack") => Purpose::Fetch,
        ("POST", "git-receive-pack") => Purpose::Push,
        _ => Purpose::Other,
    };
    let authorization = headers.get("authorization").cloned();
    Ok(Some((Request { method, target, authorization, purpose }, headers, body)))
}

fn head(status: u16, headers: &[String], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n");
    for header in headers.iter().filter(|header| !header.to_ascii_lowercase().starts_with("content-length")) {
        head += header;
        head += "\r\n";
    }
    head + "\r\n"
}

fn answer(to: &mut impl Write, status: u16, headers: &[String], body: &[u8]) -> std::io::Result<()> {
    to.write_all(&[head(status, headers, body.len()).as_bytes(), body].concat())?;
    to.flush()
}
