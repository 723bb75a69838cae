//! Git over http: one client for one address, with deadlines, byte caps and no redirects.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use secrecy::ExposeSecret;
use towpath_core::fault::{Fault, Problem};
use towpath_core::revision::clean_line;
use url::Url;

use super::fetch::{self, MAX_PACK_BYTES, Needed};
use super::ls_refs::{self, Asked, Greeting, MAX_LISTING_BYTES, Refs};
use super::packet::{PacketReader, garbled};
use super::receive::{self, Decide, MAX_REPORT_BYTES, Sent};
use super::remote::{Credentials, Login};
use super::terms::{Deadline, Refusals, Terms, too_long};
use crate::clients::{Silence, certificates, innermost, is_loopback};

/// Servers refuse or answer with a web page where the name does not begin like git's own.
const USER_AGENT: &str = concat!("git/2.0 (towpath ", env!("CARGO_PKG_VERSION"), ")");
/// How long an unused connection is kept: longer than the default interval between two looks.
const KEEP_CONNECTION: Duration = Duration::from_secs(150);
/// Times of silence that a server has for the first byte of its answer to a push, while it takes the pack and its hooks
/// run.
const PUSH_PATIENCE: u32 = 3;

/// A repository behind http, with one login. Other credentials need another `Http`, so logins cannot mix.
pub(super) struct Http {
    base: Url,
    client: Client,
    authorization: Option<HeaderValue>,
    terms: Terms,
    /// How the server greets, once it has shown that it speaks version 2.
    greeting: Mutex<Option<Arc<Greeting>>>,
    reading: Refusals,
    writing: Refusals,
}

/// What is asked of a server, by the name of git's program for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    Read,
    Write,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::Read => "git-upload-pack",
            Service::Write => "git-receive-pack",
        }
    }
}

/// Which of the two answers of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Advertisement,
    Result,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Advertisement => "advertisement",
            Part::Result => "result",
        }
    }
}

impl Http {
    /// # Errors
    /// `Setup` when the credentials are not for http or cannot be read.
    pub(super) fn new(base: &Url, credentials: &Credentials, terms: Terms) -> Result<Http, Problem> {
        let authorization = match &credentials.login {
            Login::None => None,
            Login::Basic { username, password } => {
                let login = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
                Some(format!("Basic {login}"))
            }
            Login::Bearer(token) => Some(format!("Bearer {}", token.expose_secret())),
            Login::SshKey { .. } => {
                return Err(Problem::setup(format!("an ssh key is no login for {base}"))
                    .hint("give a user and a password or token, or use an ssh address"));
            }
        };
        let authorization = authorization
            .map(|text| {
                let mut value = HeaderValue::from_str(&text).map_err(|_not_a_header| {
                    Problem::setup(format!("the token for {base} has a line end or another control character"))
                        .hint("write it into the Secret without a line end")
                })?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(terms.connect)
            // Of a blocking client this is the time without progress; the whole is bounded by `Deadline`.
            .timeout(terms.idle)
            .pool_idle_timeout(KEEP_CONNECTION)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30));
        if is_loopback(base) {
            builder = builder.no_proxy();
        }
        if let Some(pem) = &credentials.certificate_authorities {
            let unreadable = || {
                Problem::setup(format!("the certificate authorities for {base} cannot be read"))
                    .hint("give one or more certificates in PEM")
            };
            builder = builder.tls_certs_merge(certificates(pem).ok_or_else(unreadable)?);
        }
        let client = builder
            .build()
            .map_err(|error| Problem::setup(format!("no http client for {base}: {}", innermost(&error))))?;
        Ok(Http {
            base: base.clone(),
            client,
            authorization,
            terms,
            greeting: Mutex::new(None),
            reading: Refusals::default(),
            writing: Refusals::default(),
        })
    }

    /// The refs that are asked for. One request, once it is known that the server speaks version 2.
    pub(super) fn refs(&self, asked: Asked<'_>) -> Result<Refs, Problem> {
        let deadline = Deadline::after(self.terms.whole);
        let greeting = self.greeting(deadline)?;
        match &*greeting {
            Greeting::V0(found) => Ok(found.answer(asked)),
            Greeting::V2(capabilities) => {
                let request = ls_refs::request(capabilities, asked);
                let mut packets = self.command(request, true, MAX_LISTING_BYTES, deadline)?;
                let refs = self.forget_greeting_on_error(ls_refs::read_answer(&mut packets, asked))?;
                packets.drain();
                Ok(refs)
            }
        }
    }

    /// Writes a pack with what is needed to `pack`.
    pub(super) fn fetch(&self, needed: Needed<'_>, pack: &mut dyn io::Write) -> Result<(), Problem> {
        let deadline = Deadline::after(if needed.haves.is_empty() { self.terms.first } else { self.terms.whole });
        let greeting = self.greeting(deadline)?;
        let request = fetch::request(&greeting, needed)?;
        let is_version_2 = matches!(*greeting, Greeting::V2(_));
        let mut packets = self.command(request, is_version_2, MAX_PACK_BYTES, deadline)?;
        self.forget_greeting_on_error(fetch::read_answer(&greeting, &mut packets, pack))?;
        packets.drain();
        Ok(())
    }

    /// Shows what the server has to `decide`, and asks what that says: two requests, or one where it asks nothing.
    pub(super) fn push(&self, decide: &mut Decide<'_, '_>) -> Result<Sent, Problem> {
        let deadline = Deadline::after(self.terms.whole);
        let Greeting::V0(found) = self.greet(Service::Write, deadline)? else { return Err(garbled()) };
        let Some(wanted) = decide(&found)? else { return Ok(Sent::Nothing) };
        let body = receive::request(&found.capabilities, &wanted)?;
        deadline.check()?;
        let request = self
            .client
            .post(format!("{}/{}", self.base, Service::Write.name()))
            .header(CONTENT_TYPE, "application/x-git-receive-pack-request")
            // Hooks of the server may take their time before the first byte.
            .timeout(self.terms.idle * PUSH_PATIENCE)
            .body(body);
        let answered = self.send(request, Service::Write, Part::Result).and_then(|response| {
            let mut packets = packets(response, MAX_REPORT_BYTES, deadline);
            let report = receive::read_report(&found.capabilities, &mut packets)?;
            packets.drain();
            Ok(report)
        });
        Ok(answered.map_or_else(Sent::Lost, Sent::Report))
    }

    /// How the server greets. Asked again until it speaks version 2, for a greeting of version 0 holds the refs.
    fn greeting(&self, deadline: Deadline) -> Result<Arc<Greeting>, Problem> {
        if let Some(greeting) = &*lock(&self.greeting) {
            return Ok(greeting.clone());
        }
        let greeting = Arc::new(self.greet(Service::Read, deadline)?);
        if let Greeting::V2(_) = *greeting {
            *lock(&self.greeting) = Some(greeting.clone());
        }
        Ok(greeting)
    }

    fn greet(&self, service: Service, deadline: Deadline) -> Result<Greeting, Problem> {
        let mut request = self.client.get(format!("{}/info/refs?service={}", self.base, service.name()));
        if service == Service::Read {
            request = request.header("Git-Protocol", "version=2");
        }
        let response = self.send(request, service, Part::Advertisement)?;
        let mut packets = packets(response, MAX_LISTING_BYTES, deadline);
        let greeting = ls_refs::read_greeting(&mut packets)?;
        packets.drain();
        Ok(greeting)
    }

    fn command(
        &self,
        body: Vec<u8>,
        is_version_2: bool,
        limit: u64,
        deadline: Deadline,
    ) -> Result<PacketReader<BufReader<Body>>, Problem> {
        deadline.check()?;
        let mut request = self
            .client
            .post(format!("{}/git-upload-pack", self.base))
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            .body(body);
        if is_version_2 {
            request = request.header("Git-Protocol", "version=2");
        }
        let response = self.forget_greeting_on_error(self.send(request, Service::Read, Part::Result))?;
        Ok(packets(response, limit, deadline))
    }

    /// A server that was replaced may greet otherwise.
    fn forget_greeting_on_error<T>(&self, result: Result<T, Problem>) -> Result<T, Problem> {
        if result.is_err() {
            *lock(&self.greeting) = None;
        }
        result
    }

    /// Sends a request with the login, and takes an answer only if it is git's.
    fn send(&self, request: RequestBuilder, service: Service, part: Part) -> Result<Response, Problem> {
        let refusals = match service {
            Service::Read => &self.reading,
            Service::Write => &self.writing,
        };
        refusals.check()?;
        let request = match &self.authorization {
            Some(login) => request.header(AUTHORIZATION, login.clone()),
            None => request,
        };
        let is_push = service == Service::Write && part == Part::Result;
        let again = if is_push { None } else { request.try_clone() };
        let sent = request.send().or_else(|error| match again {
            // The server has closed a kept connection in the moment of its use. Reading may be repeated.
            Some(again) if !error.is_timeout() && !error.is_connect() => again.send(),
            _ => Err(error),
        });
        let response = sent.map_err(|error| self.unreachable(&error))?;
        match self.judge(&response, service, part) {
            Ok(()) => {
                refusals.clear();
                Ok(response)
            }
            Err(problem) => {
                let is_refused = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                if is_refused && problem.fault == Fault::Setup {
                    refusals.note(&problem);
                }
                Err(problem)
            }
        }
    }

    fn judge(&self, response: &Response, service: Service, part: Part) -> Result<(), Problem> {
        let base = &self.base;
        let need = match service {
            Service::Read => "read",
            Service::Write => "write to",
        };
        let status = response.status();
        if status.is_redirection() {
            return Err(self.redirected(response.headers()));
        }
        match status.as_u16() {
            200 => {}
            // A forge that limits how often it is asked says 403 and when to come back.
            403 if response.headers().contains_key(RETRY_AFTER) => {
                return Err(Problem::passing(format!("the git server of {base} limits how often it is asked")));
            }
            401 | 403 if self.authorization.is_none() => {
                return Err(Problem::setup(format!("{base} asks for credentials (status {status})"))
                    .hint("name a Secret with credentials in the Repository"));
            }
            401 | 403 => {
                return Err(Problem::setup(format!("credentials refused for {base} (status {status})"))
                    .hint(format!("renew the token in the Secret; it must be allowed to {need} the repository")));
            }
            404 | 410 => {
                return Err(Problem::setup(format!("there is no git repository at {base} (status {status})"))
                    .hint(format!("check the url, and that the credentials may {need} the repository")));
            }
            413 => {
                return Err(Problem::setup(format!(
                    "the git server of {base} takes no request of that size (status 413)"
                ))
                .hint("raise the limit on the size of requests there"));
            }
            408 | 425 | 429 | 500.. => {
                return Err(Problem::passing(format!("the git server of {base} answers with status {status}")));
            }
            _ => {
                return Err(Problem::setup(format!("the git server of {base} answers with status {status}"))
                    .hint("check the url"));
            }
        }
        let found = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let found = found.split(';').next().unwrap_or("").trim();
        if found.eq_ignore_ascii_case(&format!("application/x-{}-{}", service.name(), part.name())) {
            Ok(())
        } else if found.eq_ignore_ascii_case("text/html") {
            Err(Problem::setup(format!("{base} answers with a web page, not as a git repository"))
                .hint("set the url to the one that `git clone` uses"))
        } else {
            let found = clean_line(found, 80);
            Err(Problem::setup(format!("{base} does not answer as a git repository (content type {found:?})"))
                .hint("set the url to the one that `git clone` uses; servers of the dumb protocol are not supported"))
        }
    }

    fn redirected(&self, headers: &HeaderMap) -> Problem {
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let target = location.and_then(|location| self.base.join(location).ok());
        let problem =
            |to: &str| Problem::setup(format!("{} redirects to {to}, and redirects are not followed", self.base));
        match target {
            Some(mut target) if target.host_str().is_some() => {
                target.set_query(None);
                target.set_fragment(None);
                // An error means that the scheme has no login, which is as good.
                let _ = target.set_username("").and_then(|()| target.set_password(None));
                let host = target.host_str().unwrap_or_default().to_owned();
                let url = target.as_str().trim_end_matches("/info/refs");
                let url = url.trim_end_matches("/git-upload-pack").trim_end_matches("/git-receive-pack");
                problem(&host).hint(format!("set the url to {}, if you trust that host", clean_line(url, 200)))
            }
            _ => problem("nowhere").hint("check the url"),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Problem {
        let base = &self.base;
        match Silence::from(error) {
            Silence::Late => Problem::passing(format!("the git server of {base} does not answer in time")),
            Silence::Distrusted(why) => Problem::setup(format!("the certificate of {base} is not trusted: {why}"))
                .hint("give the certificate authority in the Secret, or renew the certificate"),
            Silence::Away(why) => Problem::passing(format!("the git server of {base} cannot be reached: {why}")),
        }
    }
}

fn packets(response: Response, limit: u64, deadline: Deadline) -> PacketReader<BufReader<Body>> {
    PacketReader::new(BufReader::with_capacity(64 << 10, Body { response, left: limit, limit, deadline }))
}

/// The body of an answer, which ends at a deadline or after too many bytes.
struct Body {
    response: Response,
    left: u64,
    limit: u64,
    deadline: Deadline,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.deadline.check().map_err(io::Error::other)?;
        let read = self.response.read(buffer).map_err(|error| {
            let why = clean_line(&error.to_string(), 200);
            io::Error::other(Problem::passing(format!("the connection to the git server broke: {why}")))
        })?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(too_long(self.limit)))?;
        Ok(read)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
