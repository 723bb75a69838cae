//! The door to registries: whether an image is there, and its digest. It pulls nothing and pushes nothing.
//!
//! It speaks the distribution API of OCI: `HEAD /v2/<name>/manifests/<reference>`, and `GET` where the answer has no
//! digest. A login is shown only where the registry asks for one, and only
//!
//! * to the registry that the Secret names, never to a host that it redirects to, and
//! * to the token server that this registry names (`realm`), over https, wherever it is. That is how Docker and the
//!   kubelet do it: whoever is trusted with the login says where tokens are had. A realm over http counts only where
//!   realm and registry are both on loopback.
//!
//! Everything else is https; http is spoken only to loopback, and there where the Secret has no `ca.crt`.

mod challenge;
mod image;
mod keys;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use reqwest::{Certificate, Client, Response};
use secrecy::ExposeSecret;
use serde_json::Value;
use sha2::{Digest, Sha256};
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;
use url::Url;

use self::challenge::{Challenge, Realm};
pub use self::image::ImageName;
pub use self::keys::Keys;
use self::keys::{Key, Login};

/// What a manifest may be: of one platform, or a list of them.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Time for one image, all requests together.
const LOOK_UP: Duration = Duration::from_secs(10);
/// Time until a registry takes the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Requests for one image: the question, the login, redirects, and the question again.
const MAX_REQUESTS: usize = 8;
/// Bytes of a manifest: what registries have to take (OCI distribution, "Pushing Manifests").
const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Bytes of what a registry says of an image that it does not have.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// What Docker's registry and most others write on every answer.
const API_VERSION: &str = "docker-distribution-api-version";
/// Codes of "there is no such image" (OCI distribution, "Error Codes"), and those of Harbor and Quay.
const MISSING_CODES: [&str; 4] = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND", "TAG_EXPIRED"];
/// Bytes of a token server's answer.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// How long a registry is left alone that says it is asked too much, and not for how long.
const TOO_MUCH: Duration = Duration::from_secs(30);
/// The longest that a registry may ask to be left alone for.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long a registry is left alone that cannot be reached, so that not each of its images waits for it.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// What was found out about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is there, and this is its digest.
    Found(String),
    /// The registry does not have it.
    Missing,
    /// That is not known: the registry is away or busy (`Passing`), or it asks for a login, refuses it, or cannot be
    /// trusted (`Setup`).
    Unknown(Problem),
}

/// Access to all registries.
#[derive(Default)]
pub struct Registries {
    /// One client for each authority that is trusted (`None` for those of the system), on loopback another.
    clients: Mutex<HashMap<(Option<String>, bool), Client>>,
    /// Registries that are left alone, until when, and why.
    paused: Mutex<HashMap<String, (Instant, String)>>,
}

impl Registries {
    /// Looks an image up.
    pub async fn look_up(&self, image: &ImageName, keys: &Keys) -> Looked {
        let host = image.host();
        let is_paused = |(until, _): &(Instant, String)| *until > Instant::now();
        if let Some((_, why)) = lock(&self.paused).get(host).filter(|paused| is_paused(paused)) {
            return Looked::Unknown(Problem::passing(why.clone()));
        }
        let key = match keys.of(image).transpose() {
            Ok(key) => key,
            Err(problem) => return Looked::Unknown(problem.clone()),
        };
        let asked = tokio::time::timeout(LOOK_UP, self.ask(image, key)).await;
        let late = || {
            let seconds = LOOK_UP.as_secs();
            Unknown::later(format!("registry {host} does not answer within {seconds} s"), UNREACHABLE)
        };
        match asked.unwrap_or_else(|_elapsed| Err(late())) {
            Ok(Some(digest)) => Looked::Found(digest),
            Ok(None) => Looked::Missing,
            Err(Unknown { problem, pause }) => {
                if let Some(pause) = pause {
                    let mut paused = lock(&self.paused);
                    paused.retain(|_, paused| is_paused(paused));
                    paused.insert(host.to_owned(), (Instant::now() + pause, problem.message.clone()));
                }
                Looked::Unknown(problem)
            }
        }
    }

    /// The digest of an image; `None` where the registry does not have it.
    async fn ask(&self, image: &ImageName, key: Option<&Key>) -> Result<Option<String>, Unknown> {
        let client = self.client(key, image.is_local())?;
        let has_authority = key.is_some_and(|key| key.authority.is_some());
        let home = image.manifest(has_authority).map_err(Unknown::from)?;
        let (mut url, mut method, mut authorization) = (home.clone(), Method::HEAD, None);
        for _ in 0..MAX_REQUESTS {
            let mut request = client.request(method.clone(), url.clone()).header(ACCEPT, MANIFESTS);
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let host = host_of(&url);
            let answer = request.send().await.map_err(|error| unreachable(&format!("registry {host}"), &error))?;
            let is_at_home = url.origin() == home.origin();
            match answer.status() {
                StatusCode::OK => {
                    let (digest, is_manifest) = (digest_in(answer.headers()), is_manifest(answer.headers()));
                    match digest {
                        Some(digest) if is_manifest => return Ok(Some(digest)),
                        _ if method == Method::HEAD => method = Method::GET,
                        digest => {
                            let manifest = body(answer, MAX_MANIFEST_BYTES, &format!("registry {host}")).await?;
                            if !is_manifest && !is_schema_2(&manifest) {
                                return Err(no_registry(&host, "with something that is no manifest"));
                            }
                            let of_body = || format!("sha256:{}", hex::encode(Sha256::digest(&manifest)));
                            return Ok(Some(digest.unwrap_or_else(of_body)));
                        }
                    }
                }
                StatusCode::NOT_FOUND if answer.headers().contains_key(API_VERSION) => return Ok(None),
                StatusCode::NOT_FOUND if method == Method::HEAD => method = Method::GET,
                StatusCode::NOT_FOUND => {
                    let said = body(answer, MAX_ERROR_BYTES, &format!("registry {host}")).await?;
                    if says_missing(&said) {
                        return Ok(None);
                    }
                    return Err(no_registry(&host, "with status 404, and not as a registry does"));
                }
                StatusCode::METHOD_NOT_ALLOWED if method == Method::HEAD => method = Method::GET,
                StatusCode::UNAUTHORIZED if authorization.is_none() => {
                    let key = key.filter(|_| is_at_home);
                    authorization = Some(log_in(&client, &answer, (&url, image), key).await?);
                }
                status if status.is_redirection() => {
                    url = redirected(&url, answer.headers())?;
                    // What was shown to one host is not shown to another.
                    authorization = None;
                }
                status => return Err(refused(&format!("registry {host}"), status, answer.headers(), key)),
            }
        }
        let host = image.host();
        Err(Problem::setup(format!("registry {host} leads from one request to the next, and never answers"))
            .hint("name the registry itself as the image's, not what redirects to it")
            .into())
    }

    fn client(&self, key: Option<&Key>, is_local: bool) -> Result<Client, Unknown> {
        let authority = key.and_then(|key| key.authority.clone());
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&(authority.clone(), is_local)) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .user_agent(concat!("towpath/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(LOOK_UP);
        if let Some(pem) = &authority {
            let certificates = Certificate::from_pem_bundle(pem.as_bytes()).ok().filter(|found| !found.is_empty());
            let secret = key.map_or("", |key| &key.secret);
            let certificates = certificates.ok_or_else(|| {
                Problem::setup(format!("ca.crt of Secret {secret} cannot be read"))
                    .hint("give one or more certificates in PEM")
            })?;
            builder = builder.tls_certs_merge(certificates);
        }
        if is_local {
            builder = builder.no_proxy();
        }
        let client =
            builder.build().map_err(|error| Problem::setup(format!("no http client: {}", innermost(&error))))?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert((authority, is_local), client.clone());
        Ok(client)
    }
}

/// Clients that are kept. Beyond it all are made anew.
const MAX_CLIENTS: usize = 64;

/// Why nothing is known, and how long the registry is left alone for it.
struct Unknown {
    problem: Problem,
    pause: Option<Duration>,
}

impl Unknown {
    fn later(message: String, pause: Duration) -> Unknown {
        Unknown { problem: Problem::passing(message), pause: Some(pause) }
    }
}

impl From<Problem> for Unknown {
    fn from(problem: Problem) -> Unknown {
        Unknown { problem, pause: None }
    }
}

/// What is sent as `authorization` after a registry asked for it.
async fn log_in(
    client: &Client,
    answer: &Response,
    (url, image): (&Url, &ImageName),
    key: Option<&Key>,
) -> Result<HeaderValue, Unknown> {
    let login = key.and_then(|key| key.login.as_ref());
    let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let host = host_of(url);
    match Challenge::read(challenges) {
        Some(Challenge::Basic) => match login {
            Some(login) => Ok(basic(login)),
            None => Err(refused(&format!("registry {host}"), StatusCode::UNAUTHORIZED, answer.headers(), key)),
        },
        Some(Challenge::Bearer(realm)) => token(client, &realm, (url, image), key).await,
        None => Err(Problem::setup(format!("registry {host} asks for a login in a manner that is not known here"))
            .hint("registries ask with Basic or Bearer; check the address of the image")
            .into()),
    }
}

/// Asks a token server for a token.
async fn token(
    client: &Client,
    realm: &Realm,
    (url, image): (&Url, &ImageName),
    key: Option<&Key>,
) -> Result<HeaderValue, Unknown> {
    let registry = host_of(url);
    let mut address = Url::parse(&realm.address).ok().filter(|address| is_safe(address, url)).ok_or_else(|| {
        Problem::setup(format!("registry {registry} sends for a token to an address that is not https"))
            .hint("correct the address of the token service in the registry's configuration")
    })?;
    let scope = realm.scope.clone().unwrap_or_else(|| format!("repository:{}:pull", image.path()));
    // In a block of its own: it must not live across a wait.
    {
        let mut query = address.query_pairs_mut();
        if let Some(service) = &realm.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &scope);
    }
    let server = format!("the token server {} of registry {registry}", host_of(&address));
    let mut request = client.get(address);
    if let Some(login) = key.and_then(|key| key.login.as_ref()) {
        request = request.header(AUTHORIZATION, basic(login));
    }
    let answer = request.send().await.map_err(|error| unreachable(&server, &error))?;
    if answer.status() != StatusCode::OK {
        return Err(refused(&server, answer.status(), answer.headers(), key));
    }
    let answer = body(answer, MAX_TOKEN_BYTES, &server).await?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let token = ["token", "access_token"].iter().find_map(|name| answer[name].as_str());
    let header = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    let mut header = header.ok_or_else(|| Problem::passing(format!("{server} answers without a token")))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Whether a token may be asked for at an address that a registry names.
fn is_safe(realm: &Url, registry: &Url) -> bool {
    let is_local = |url: &Url| url.host_str().is_some_and(image::is_loopback);
    match realm.scheme() {
        "https" => true,
        "http" => is_local(realm) && is_local(registry),
        _ => false,
    }
}

fn basic(login: &Login) -> HeaderValue {
    let login = STANDARD.encode(format!("{}:{}", login.user, login.password.expose_secret()));
    let mut header = HeaderValue::from_str(&format!("Basic {login}")).expect("base64 is a header's text");
    header.set_sensitive(true);
    header
}

fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, Unknown> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok()).filter(|to| is_safe(to, from));
    to.ok_or_else(|| {
        Problem::setup(format!("registry {} redirects to an address that is not https", host_of(from)))
            .hint("name the registry itself as the image's, not what redirects to it")
            .into()
    })
}

/// What an answer means that is neither yes nor no.
fn refused(who: &str, status: StatusCode, headers: &HeaderMap, key: Option<&Key>) -> Unknown {
    let pause = headers.get(RETRY_AFTER).and_then(|value| pause_of(value.to_str().ok()?));
    match status.as_u16() {
        429 => Unknown::later(format!("{who} is asked too much (status 429)"), pause.unwrap_or(TOO_MUCH)),
        // Forges that limit how often they are asked say so.
        403 | 503 if pause.is_some() => {
            Unknown::later(format!("{who} asks for patience (status {status})"), pause.unwrap_or(TOO_MUCH))
        }
        401 | 403 => match key.filter(|key| key.login.is_some()) {
            Some(key) => {
                Problem::setup(format!("{who} refuses the login of Secret {} (status {})", key.secret, status.as_u16()))
                    .hint("renew it in the Secret; it must be allowed to pull the image")
            }
            None => Problem::setup(format!("{who} asks for a login (status {})", status.as_u16())).hint(
                "name a Secret with one in spec.imagePullSecrets; some registries also ask where there is no such image",
            ),
        }
        .into(),
        408 | 425 | 500.. => Unknown::later(format!("{who} answers with status {}", status.as_u16()), UNREACHABLE),
        _ => Problem::setup(format!("{who} answers with status {}", status.as_u16()))
            .hint("check the address of the image")
            .into(),
    }
}

/// The pause of a `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn pause_of(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse::<u64>().ok().map(Duration::from_secs);
    let until = || {
        let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
        Some(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default())
    };
    seconds.or_else(until).map(|pause| pause.min(LONGEST_PAUSE))
}

fn unreachable(who: &str, error: &reqwest::Error) -> Unknown {
    if error.is_timeout() {
        return Unknown::later(format!("{who} does not answer in time"), UNREACHABLE);
    }
    let why = innermost(error);
    let lower = why.to_ascii_lowercase();
    if lower.contains("certificate") || lower.contains("unknownissuer") {
        return Problem::setup(format!("the certificate of {who} is not trusted: {why}"))
            .hint("give its authority as ca.crt in the pull secret, or renew the certificate")
            .into();
    }
    Unknown::later(format!("{who} cannot be reached: {why}"), UNREACHABLE)
}

/// The words of the innermost cause, for the outer ones say only that there was one.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    clean_line(&cause.to_string(), 200)
}

/// The whole of an answer's body, if it is no longer than it may be.
async fn body(mut answer: Response, limit: usize, who: &str) -> Result<Vec<u8>, Unknown> {
    let mut read = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(who, &error))? {
        if read.len() + chunk.len() > limit {
            return Err(Problem::setup(format!("{who} answers with more than {limit} bytes"))
                .hint("check the address of the image")
                .into());
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read)
}

/// The digest that an answer has in its header, if it is one.
fn digest_in(headers: &HeaderMap) -> Option<String> {
    let digest = headers.get("docker-content-digest")?.to_str().ok()?.trim();
    image::is_digest(digest).then(|| digest.to_owned())
}

/// Whether an answer says that it is a manifest.
fn is_manifest(headers: &HeaderMap) -> bool {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said = said.split(';').next().unwrap_or_default().trim();
    MANIFESTS.split(", ").any(|kind| said.eq_ignore_ascii_case(kind))
}

/// Whether a text is a manifest, whatever it is called: some servers call every JSON by one name.
fn is_schema_2(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).is_ok_and(|manifest| manifest["schemaVersion"] == 2)
}

/// Whether a registry says that it does not have an image, in the words of OCI.
fn says_missing(text: &[u8]) -> bool {
    let said: Value = serde_json::from_slice(text).unwrap_or_default();
    let is_missing = |error: &Value| error["code"].as_str().is_some_and(|code| MISSING_CODES.contains(&code));
    said["errors"].as_array().is_some_and(|errors| errors.iter().any(is_missing))
}

/// What answers is no registry: a page of a proxy, or of a server that knows nothing of images.
fn no_registry(host: &str, how: &str) -> Unknown {
    Problem::setup(format!("registry {host} answers {how}"))
        .hint("check the address of the image, and what stands before the registry")
        .into()
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date_and_never_too_long() {
        assert_eq!(pause_of("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause_of("86400"), Some(LONGEST_PAUSE));
        assert_eq!(pause_of("Fri, 01 Jan 2100 00:00:00 GMT"), Some(LONGEST_PAUSE));
        assert_eq!(pause_of("Sat, 01 Jan 2000 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause_of("soon"), None);
    }

    #[test]
    fn a_token_is_asked_for_over_https_or_on_loopback() {
        let safe = |realm: &str, registry: &str| is_safe(&Url::parse(realm).unwrap(), &Url::parse(registry).unwrap());
        assert!(safe("https://auth.example/token", "https://harbor.example/v2/"));
        assert!(safe("http://127.0.0.1:8000/token", "http://127.0.0.1:5000/v2/"));
        assert!(!safe("http://auth.example/token", "https://harbor.example/v2/"));
        assert!(!safe("http://127.0.0.1:8000/token", "https://harbor.example/v2/"));
        assert!(!safe("file:///etc/passwd", "https://harbor.example/v2/"));
    }

    #[test]
    fn only_a_limit_or_an_absence_passes_by_itself() {
        use towpath_core::fault::Fault;
        let fault = |status: u16, headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            let unknown = refused("it", StatusCode::from_u16(status).unwrap(), &headers.collect(), None);
            (unknown.problem.fault, unknown.pause)
        };
        assert_eq!(fault(429, &[]), (Fault::Passing, Some(TOO_MUCH)));
        assert_eq!(fault(429, &[("retry-after", "3")]), (Fault::Passing, Some(Duration::from_secs(3))));
        assert_eq!(fault(403, &[("retry-after", "3")]), (Fault::Passing, Some(Duration::from_secs(3))));
        assert_eq!(fault(502, &[]), (Fault::Passing, Some(UNREACHABLE)));
        for status in [400, 401, 403, 406] {
            assert_eq!(fault(status, &[]), (Fault::Setup, None), "{status}");
        }
    }
}
