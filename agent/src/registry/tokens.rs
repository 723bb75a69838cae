//! What is shown to a registry that asks who asks: a password, or a token of the server that it names. Tokens are kept for
//! as long as they last, so that the images of one repository cost one.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use reqwest::{Client, Response};
use secrecy::ExposeSecret;
use serde_json::Value;
use towpath_core::fault::Problem;
use url::Url;

use super::challenge::{Challenge, Realm};
use super::keys::{Key, Login};
use super::unknown::{Unknown, body, refused, unreachable};
use super::{Identity, ImageName, lock};
use crate::clients::{host_of, is_loopback};

/// Bytes of a token server's answer.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// How long a token lasts whose server does not say it (Docker's token specification, `expires_in`).
const LASTS: Duration = Duration::from_secs(60);
/// How long a token is kept at the longest: what its login may do can change.
const LONGEST: Duration = Duration::from_secs(300);
/// Tokens that are kept. Beyond it all are asked for anew.
const MAX_TOKENS: usize = 1000;

/// Tokens, by the address that they were asked for with, scope included, and the login; and until when they last.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<(String, Identity), (Instant, HeaderValue)>>);

/// What is sent as `authorization`.
pub(super) struct Shown {
    pub(super) header: HeaderValue,
    /// Whether it was asked for earlier, and may be worth nothing by now.
    pub(super) is_kept: bool,
}

impl Tokens {
    /// What a registry wants to be shown, that answered so. Where it refused what was kept, that is asked for anew.
    pub(super) async fn log_in(
        &self,
        client: &Client,
        answer: &Response,
        (url, image): (&Url, &ImageName),
        key: Option<&Key>,
        before: Option<Shown>,
    ) -> Result<Shown, Unknown> {
        let login = key.and_then(|key| key.login.as_ref());
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let host = host_of(url);
        match Challenge::read(challenges) {
            Some(Challenge::Basic) => match login {
                Some(login) => Ok(Shown { header: basic(login), is_kept: false }),
                None => Err(refused(&format!("registry {host}"), StatusCode::UNAUTHORIZED, answer.headers(), key)),
            },
            Some(Challenge::Bearer(realm)) => {
                let address = address_of(&realm, url, image)?;
                let at = (address.to_string(), key.map(Key::identity).unwrap_or_default());
                let kept = || lock(&self.0).get(&at).filter(|(until, _)| *until > Instant::now()).cloned();
                if let Some((_, header)) = kept().filter(|_| before.is_none()) {
                    return Ok(Shown { header, is_kept: true });
                }
                let server = format!("the token server {} of registry {host}", host_of(&address));
                let (header, lasts) = token(client, address, &server, key).await?;
                let mut tokens = lock(&self.0);
                if tokens.len() >= MAX_TOKENS {
                    tokens.clear();
                }
                tokens.insert(at, (Instant::now() + lasts, header.clone()));
                Ok(Shown { header, is_kept: false })
            }
            None => Err(Problem::setup(format!("registry {host} asks for a login in a manner that is not known here"))
                .hint("registries ask with Basic or Bearer; check the address of the image")
                .into()),
        }
    }
}

/// Where a token is asked for, with the service and the scope that it is for.
fn address_of(realm: &Realm, url: &Url, image: &ImageName) -> Result<Url, Unknown> {
    let mut address = Url::parse(&realm.address).ok().filter(|address| is_safe(address, url)).ok_or_else(|| {
        let registry = host_of(url);
        Problem::setup(format!("registry {registry} sends for a token to an address that is not https"))
            .hint("correct the address of the token service in the registry's configuration")
    })?;
    let scope = realm.scope.clone().unwrap_or_else(|| format!("repository:{}:pull", image.path()));
    let mut query = address.query_pairs_mut();
    if let Some(service) = &realm.service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", &scope);
    drop(query);
    Ok(address)
}

/// Asks a token server for a token, and how long it lasts.
async fn token(
    client: &Client,
    address: Url,
    server: &str,
    key: Option<&Key>,
) -> Result<(HeaderValue, Duration), Unknown> {
    let mut request = client.get(address);
    if let Some(login) = key.and_then(|key| key.login.as_ref()) {
        request = request.header(AUTHORIZATION, basic(login));
    }
    let answer = request.send().await.map_err(|error| unreachable(server, &error))?;
    if answer.status() != StatusCode::OK {
        return Err(refused(server, answer.status(), answer.headers(), key));
    }
    let answer = body(answer, MAX_TOKEN_BYTES, server).await?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let token = ["token", "access_token"].iter().find_map(|name| answer[name].as_str());
    let header = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    let mut header = header.ok_or_else(|| Problem::passing(format!("{server} answers without a token")))?;
    header.set_sensitive(true);
    let lasts = answer["expires_in"].as_u64().map_or(LASTS, Duration::from_secs);
    Ok((header, lasts.min(LONGEST)))
}

/// Whether a token may be asked for at an address that a registry names.
pub(super) fn is_safe(realm: &Url, registry: &Url) -> bool {
    match realm.scheme() {
        "https" => true,
        "http" => is_loopback(realm) && is_loopback(registry),
        _ => false,
    }
}

fn basic(login: &Login) -> HeaderValue {
    let login = STANDARD.encode(format!("{}:{}", login.user, login.password.expose_secret()));
    let mut header = HeaderValue::from_str(&format!("Basic {login}")).expect("base64 is a header's text");
    header.set_sensitive(true);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_over_https_or_on_loopback() {
        let safe = |realm: &str, registry: &str| is_safe(&Url::parse(realm).unwrap(), &Url::parse(registry).unwrap());
        assert!(safe("https://auth.example/token", "https://harbor.example/v2/"));
        assert!(safe("http://127.0.0.1:8000/token", "http://127.0.0.1:5000/v2/"));
        assert!(!safe("http://auth.example/token", "https://harbor.example/v2/"));
        assert!(!safe("http://127.0.0.1:8000/token", "https://harbor.example/v2/"));
        assert!(!safe("file:///etc/passwd", "https://harbor.example/v2/"));
    }
}
