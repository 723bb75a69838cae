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

mod answers;
mod challenge;
mod hosts;
mod image;
mod keys;
mod tokens;
mod unknown;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use towpath_core::fault::Problem;
use url::Url;

use self::answers::Answers;
use self::hosts::Hosts;
pub use self::image::ImageName;
use self::keys::Key;
pub use self::keys::Keys;
use self::tokens::{Shown, Tokens, is_safe};
use self::unknown::{Unknown, body, no_registry, refused, unreachable};
use crate::clients::{Clients, host_of};

/// A digest of a login and of the Secret that it is in; zeros for none.
type Identity = [u8; 32];

/// What a manifest may be: of one platform, or a list of them.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Time for one image, all requests together.
const LOOK_UP: Duration = Duration::from_secs(8);
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
pub struct Registries {
    clients: Clients,
    /// Registries in trouble.
    hosts: Mutex<Hosts>,
    answers: Answers,
    tokens: Tokens,
}

impl Default for Registries {
    fn default() -> Registries {
        Registries {
            clients: Clients::new(LOOK_UP, CONNECT),
            hosts: Mutex::default(),
            answers: Answers::default(),
            tokens: Tokens::default(),
        }
    }
}

impl Registries {
    /// Looks an image up. Several who ask for one image with one login at about the same time get one answer.
    pub async fn look_up(&self, image: &ImageName, keys: &Keys) -> Looked {
        let key = match keys.of(image).transpose() {
            Ok(key) => key,
            Err(problem) => return Looked::Unknown(problem.clone()),
        };
        let identity = key.map(Key::identity).unwrap_or_default();
        self.answers.share(image.to_string(), identity, self.look(image, key)).await
    }

    async fn look(&self, image: &ImageName, key: Option<&Key>) -> Looked {
        let (host, began) = (image.host(), Instant::now());
        if let Err(why) = lock(&self.hosts).enter(host, began) {
            return Looked::Unknown(Problem::passing(why));
        }
        let asked = tokio::time::timeout(LOOK_UP, self.ask(image, key)).await;
        let late = || format!("registry {host} does not answer within {} s", LOOK_UP.as_secs());
        let asked = asked.unwrap_or_else(|_elapsed| Err(Unknown::silent(late())));
        let now = Instant::now();
        match &asked {
            Err(Unknown { problem, pause: Some(pause) }) => {
                lock(&self.hosts).failed(host, *pause, &problem.message, now);
            }
            Ok(_) | Err(Unknown { pause: None, .. }) => lock(&self.hosts).answered(host, now - began, now),
        }
        match asked {
            Ok(Some(digest)) => Looked::Found(digest),
            Ok(None) => Looked::Missing,
            Err(unknown) => Looked::Unknown(unknown.problem),
        }
    }

    /// The digest of an image; `None` where the registry does not have it.
    async fn ask(&self, image: &ImageName, key: Option<&Key>) -> Result<Option<String>, Unknown> {
        let authority = key.and_then(Key::authority);
        let client = self.clients.of(authority, image.is_local())?;
        let home = image.manifest(authority.is_some()).map_err(Unknown::from)?;
        let (mut url, mut method, mut shown) = (home.clone(), Method::HEAD, None::<Shown>);
        for _ in 0..MAX_REQUESTS {
            let mut request = client.request(method.clone(), url.clone()).header(ACCEPT, MANIFESTS);
            if let Some(shown) = &shown {
                request = request.header(AUTHORIZATION, &shown.header);
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
                StatusCode::UNAUTHORIZED if shown.as_ref().is_none_or(|shown| shown.is_kept) => {
                    let key = key.filter(|_| is_at_home);
                    shown = Some(self.tokens.log_in(&client, &answer, (&url, image), key, shown).await?);
                }
                status if status.is_redirection() => {
                    url = redirected(&url, answer.headers())?;
                    // What was shown to one host is not shown to another.
                    shown = None;
                }
                status => return Err(refused(&format!("registry {host}"), status, answer.headers(), key)),
            }
        }
        let host = image.host();
        Err(Problem::setup(format!("registry {host} leads from one request to the next, and never answers"))
            .hint("name the registry itself as the image's, not what redirects to it")
            .into())
    }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
