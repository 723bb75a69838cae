//! git's smart HTTP protocol (v0) over our own client: deadlines, byte caps, no redirects, credentials to one host only.
//!
//! <https://git-scm.com/docs/http-protocol>

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use git2::transport::Service;
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use tokio::runtime::Handle;
use towpath_core::fault::Problem;
use url::Url;

use super::secret::{Credentials, Proof};

/// Time until a connection stands.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Time without a byte.
const IDLE: Duration = Duration::from_secs(30);
/// Time for one request with its answer.
const DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of a list of references.
pub(super) const MAX_ADVERTISEMENT: u64 = 64 << 20;
/// Bytes of a pack.
const MAX_PACK: u64 = 1 << 30;

/// A repository behind http or https.
pub(super) struct HttpRemote {
    url: Url,
    runtime: Handle,
    access: Mutex<Access>,
    /// What went wrong in a stream: libgit2 passes on the words, not who must act.
    trouble: Mutex<Option<Problem>>,
}

struct Access {
    client: Client,
    credentials: Credentials,
}

impl HttpRemote {
    /// A remote. No connection is made.
    ///
    /// # Errors
    /// `Setup` when the certificates of the credentials cannot be read.
    pub(super) fn new(url: Url, credentials: Credentials) -> Result<HttpRemote, Problem> {
        let runtime = Handle::try_current().map_err(|_| Problem::setup("there is no runtime for git over http"))?;
        let access = Access { client: client(&url, &credentials)?, credentials };
        Ok(HttpRemote { url, runtime, access: Mutex::new(access), trouble: Mutex::new(None) })
    }

    /// Uses other credentials from the next request on. Connections are kept unless the certificates changed.
    ///
    /// # Errors
    /// As for [`HttpRemote::new`]; the old credentials then stay.
    pub(super) fn set_credentials(&self, credentials: Credentials) -> Result<(), Problem> {
        let mut access = self.access.lock().expect("nothing panics while it holds this lock");
        if access.credentials.ca != credentials.ca {
            access.client = client(&self.url, &credentials)?;
        }
        access.credentials = credentials;
        Ok(())
    }

    /// The last trouble of a stream, taken away.
    pub(super) fn take_trouble(&self) -> Option<Problem> {
        self.trouble.lock().expect("nothing panics while it holds this lock").take()
    }

    /// A stream for libgit2.
    pub(super) fn stream(self: &Arc<Self>, service: Service) -> HttpStream {
        HttpStream { remote: self.clone(), service, request: Vec::new(), body: None }
    }

    /// Asks, and reads the whole answer, at most `limit` bytes of it.
    ///
    /// # Errors
    /// As the status, the network or the limit has it.
    pub(super) fn exchange(&self, ask: &Ask<'_>, limit: u64) -> Result<Vec<u8>, Problem> {
        let mut body = self.open(ask, limit)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next(&self.runtime)? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn open(&self, ask: &Ask<'_>, limit: u64) -> Result<Body, Problem> {
        let (client, credentials) = {
            let access = self.access.lock().expect("nothing panics while it holds this lock");
            (access.client.clone(), access.credentials.clone())
        };
        let url = format!("{}{}", self.url, ask.path);
        let mut request = client.request(ask.method.clone(), url).header("User-Agent", "git/2 (towpath)");
        if ask.version_2 {
            request = request.header("Git-Protocol", "version=2");
        }
        if let Some((kind, bytes)) = &ask.body {
            request = request.header("Content-Type", *kind).body(bytes.to_vec());
        }
        if let Some(kind) = ask.accept {
            request = request.header("Accept", kind);
        }
        request = prove(request, &credentials);
        let deadline = Instant::now() + DEADLINE;
        let response = self
            .runtime
            .block_on(async { tokio::time::timeout(IDLE + CONNECT_WITHIN, request.send()).await })
            .map_err(|_| {
                Problem::passing(format!("{} did not answer within {} s", self.url, (IDLE + CONNECT_WITHIN).as_secs()))
            })?
            .map_err(|error| self.unreachable(&error))?;
        self.judge(&response, ask)?;
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(self.too_large(limit));
        }
        Ok(Body { response, deadline, left: limit, limit, rest: Vec::new(), url: self.url.clone() })
    }

    fn judge(&self, response: &Response, ask: &Ask<'_>) -> Result<(), Problem> {
        let status = response.status();
        let url = &self.url;
        if status.is_redirection() {
            let target = response
                .headers()
                .get("location")
                .and_then(|location| url.join(location.to_str().ok()?).ok())
                .and_then(|location| Some(location.host_str()?.to_owned()))
                .unwrap_or_else(|| "elsewhere".to_owned());
            return Err(Problem::setup(format!("{url} redirects to {target}, and redirects are not followed"))
                .hint("set spec.url to where the repository is now"));
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(Problem::setup(format!("{url} refuses the credentials ({status})"))
                    .hint("check the Secret that spec.secretRef names, and the token's rights and expiry"));
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(Problem::setup(format!("{url} is not there, or not for these credentials ({status})"))
                    .hint("check spec.url and the token's rights"));
            }
            status if !status.is_success() => return Err(Problem::passing(format!("{url} answered {status}"))),
            _ => {}
        }
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if ask.accept.is_some_and(|wanted| kind != wanted) {
            return Err(Problem::setup(format!("{url} answers {kind:?}, which is not git"))
                .hint("check spec.url: a web page or a login page may stand there"));
        }
        Ok(())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Problem {
        // The innermost reason says most: "connection refused", "invalid peer certificate".
        let mut reason: &dyn std::error::Error = error;
        while let Some(source) = reason.source() {
            reason = source;
        }
        let reason = reason.to_string();
        let problem = Problem::passing(format!("cannot reach {}: {reason}", self.url));
        if reason.contains("certificate") || reason.contains("UnknownIssuer") {
            return Problem { fault: towpath_core::fault::Fault::Setup, ..problem }
                .hint("put the certificate of the issuer as ca.crt into the Secret that spec.secretRef names");
        }
        problem
    }

    fn too_large(&self, limit: u64) -> Problem {
        Problem::setup(format!("the answer of {} is larger than {limit} bytes", self.url))
    }
}

/// One request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// What follows the repository's address.
    pub(super) path: &'a str,
    /// Content type and bytes.
    pub(super) body: Option<(&'a str, &'a [u8])>,
    /// The content type that the answer must have.
    pub(super) accept: Option<&'a str>,
    pub(super) version_2: bool,
}

/// An answer that is read piece by piece, within its limits.
struct Body {
    response: Response,
    deadline: Instant,
    left: u64,
    limit: u64,
    rest: Vec<u8>,
    url: Url,
}

impl Body {
    fn next(&mut self, runtime: &Handle) -> Result<Option<Vec<u8>>, Problem> {
        let url = &self.url;
        let wait = IDLE.min(self.deadline.saturating_duration_since(Instant::now()));
        let chunk = runtime
            .block_on(async { tokio::time::timeout(wait, self.response.chunk()).await })
            .map_err(|_| Problem::passing(format!("{url} stopped answering")))?
            .map_err(|error| Problem::passing(format!("the answer of {url} broke off: {error}")))?;
        let Some(chunk) = chunk else { return Ok(None) };
        self.left = self
            .left
            .checked_sub(chunk.len() as u64)
            .ok_or_else(|| Problem::setup(format!("the answer of {url} is larger than {} bytes", self.limit)))?;
        Ok(Some(chunk.to_vec()))
    }
}

/// What libgit2 reads from and writes to: one request and its answer.
pub(super) struct HttpStream {
    remote: Arc<HttpRemote>,
    service: Service,
    request: Vec<u8>,
    body: Option<Body>,
}

impl HttpStream {
    fn ask(&mut self) -> Result<Body, Problem> {
        let (path, method, kind, accept, limit) = match self.service {
            Service::UploadPackLs => (
                "/info/refs?service=git-upload-pack",
                Method::GET,
                None,
                "application/x-git-upload-pack-advertisement",
                MAX_ADVERTISEMENT,
            ),
            Service::UploadPack => (
                "/git-upload-pack",
                Method::POST,
                Some("application/x-git-upload-pack-request"),
                "application/x-git-upload-pack-result",
                MAX_PACK,
            ),
            Service::ReceivePackLs => (
                "/info/refs?service=git-receive-pack",
                Method::GET,
                None,
                "application/x-git-receive-pack-advertisement",
                MAX_ADVERTISEMENT,
            ),
            Service::ReceivePack => (
                "/git-receive-pack",
                Method::POST,
                Some("application/x-git-receive-pack-request"),
                "application/x-git-receive-pack-result",
                MAX_PACK,
            ),
        };
        let request = std::mem::take(&mut self.request);
        let body = kind.map(|kind| (kind, request.as_slice()));
        self.remote.open(&Ask { method, path, body, accept: Some(accept), version_2: false }, limit)
    }

    fn fail(&self, problem: Problem) -> io::Error {
        let text = problem.message.clone();
        *self.remote.trouble.lock().expect("nothing panics while it holds this lock") = Some(problem);
        io::Error::other(text)
    }
}

impl Read for HttpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.ask().map_err(|problem| self.fail(problem))?,
        };
        if body.rest.is_empty()
            && let Some(chunk) = body.next(&self.remote.runtime).map_err(|problem| self.fail(problem))?
        {
            body.rest = chunk;
        }
        let count = body.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&body.rest[..count]);
        body.rest.drain(..count);
        self.body = Some(body);
        Ok(count)
    }
}

impl Write for HttpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(url: &Url, credentials: &Credentials) -> Result<Client, Problem> {
    let mut builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_secs(90));
    if url.scheme() == "http" {
        builder = builder.no_proxy();
    }
    if let Some(pem) = &credentials.ca {
        let certificates = Certificate::from_pem_bundle(pem).map_err(|error| {
            Problem::setup(format!("ca.crt cannot be read: {error}")).hint("it must hold certificates in PEM format")
        })?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| Problem::setup(format!("cannot make an http client: {error}")))
}

fn prove(request: RequestBuilder, credentials: &Credentials) -> RequestBuilder {
    match &credentials.proof {
        Proof::Basic { user, password } => request.basic_auth(user, Some(password.expose_secret())),
        Proof::None | Proof::Key { .. } => request,
    }
}
