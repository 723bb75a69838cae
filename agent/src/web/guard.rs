//! Who comes in: paths as they should be written, the token, and requests that another site makes a browser send.
//!
//! A token is taken as `Authorization: Bearer`, and for reading also as the password of `Basic`, which is how a browser
//! asks for it. A browser sends `Basic` along by itself, on behalf of any site: so it allows no change through the API, and
//! through a form only where the browser says that a page of ours has sent it.

use axum::extract::{Request, State as Has};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::api::Refusal;
use super::{Settings, State};

/// Characters of a path. No own path is near it.
const MAX_PATH_CHARS: usize = 512;

/// Lets a request in, or says why not.
pub(super) async fn admit(Has(state): Has<State>, request: Request, next: Next) -> Response {
    let may_enter = check(&state.settings, request.method(), request.uri(), request.headers());
    match may_enter {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The whole decision.
pub(super) fn check(settings: &Settings, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    if !is_plain(uri.path()) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path"));
    }
    let only_reads = method == Method::GET || method == Method::HEAD;
    if !only_reads && is_from_another_site(headers) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "another site made your browser send this"));
    }
    let is_form = method == Method::POST && !uri.path().starts_with("/api/");
    if is_form && !says_its_origin(headers) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "only a form of this page may be sent here")
            .hint("programs use the API, below /api/v1"));
    }
    let Some(token) = &settings.token else {
        if !only_reads {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "this agent has no token, so nothing can be asked of it")
                .hint("give the agent a token with --token-file"));
        }
        return is_named_locally(uri, headers);
    };
    if knows(&token.read(), headers, only_reads || is_form) {
        return Ok(());
    }
    if only_reads && settings.is_local() && !headers.contains_key(header::AUTHORIZATION) {
        return is_named_locally(uri, headers);
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "this needs the token of the agent")
        .hint("send it as: Authorization: Bearer <token>"))
}

/// Whether a path is written the one way that paths are written here. Encodings, dots and doubled slashes are none of
/// ours, and must not be one thing to this check and another to a router or a proxy.
fn is_plain(path: &str) -> bool {
    let is_plain_char = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_plain_part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(is_plain_char);
    path == "/"
        || path.len() <= MAX_PATH_CHARS && path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_plain_part))
}

/// Whether a browser says that a page of another site is behind this. Programs say nothing of the kind.
fn is_from_another_site(headers: &HeaderMap) -> bool {
    let fetched_by = headers.get_all("sec-fetch-site").iter();
    if fetched_by.into_iter().any(|site| site != "same-origin" && site != "none") {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_none_or(|(_, authority)| Some(authority) != host)
    })
}

/// Whether a browser says which page is behind this, once. That it is one of ours is checked before.
fn says_its_origin(headers: &HeaderMap) -> bool {
    headers.contains_key(header::HOST) && headers.get_all(header::ORIGIN).iter().count() == 1
}

/// Where nothing but the address protects the page, a name that only pretends to be this machine must not open it: a
/// site may let its own name point to 127.0.0.1 and then read the page as its own.
fn is_named_locally(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    let authority = host.map(str::to_owned).or_else(|| uri.authority().map(ToString::to_string));
    let Some(authority) = authority else { return Ok(()) };
    let is_local = authority.parse::<http::uri::Authority>().is_ok_and(|authority| {
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    });
    if is_local {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "without a token this page is for its own machine only")
        .hint("call it localhost, or let the proxy in front of it send the token"))
}

/// Whether a request brings the token, where `may_be_basic` also as a browser sends it. Two of them bring none: whoever is in between might judge by the other.
fn knows(token: &SecretString, headers: &HeaderMap, may_be_basic: bool) -> bool {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return false };
    let Some((scheme, value)) = given.to_str().ok().and_then(|given| given.split_once(' ')) else { return false };
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return is_same(token, value.as_bytes());
    }
    if scheme.eq_ignore_ascii_case("basic") && may_be_basic {
        let Ok(pair) = base64::engine::general_purpose::STANDARD.decode(value) else { return false };
        let Some(colon) = pair.iter().position(|byte| *byte == b':') else { return false };
        return is_same(token, &pair[colon + 1..]);
    }
    false
}

/// Compares in a time that tells neither where the two differ nor how long the token is.
fn is_same(token: &SecretString, given: &[u8]) -> bool {
    let hash = |bytes: &[u8]| Sha256::digest(bytes);
    hash(token.expose_secret().as_bytes()).ct_eq(&hash(given)).into()
}

/// What every answer says to the browser.
pub(super) async fn add_headers(request: Request, next: Next) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
    let mut response = next.run(request).await;
    let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // With `no-referrer` a browser would not say which page a form is from.
    set(header::REFERRER_POLICY, "same-origin");
    if is_unauthorized {
        set(header::WWW_AUTHENTICATE, "Basic realm=\"towpath\", charset=\"UTF-8\"");
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_way_to_be_written() {
        for good in ["/", "/environments/prod", "/api/v1/environments", "/assets/page.0a1b.css", "/environments/a.b"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            "//",
            "/environments/",
            "//environments",
            "/environments/../x",
            "/./x",
            "/environments/%70rod",
            "/%00",
            "/a;b",
            "/a\\b",
            "/ä",
            "*",
            "environments",
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert!(is_plain(&format!("/{}", "a".repeat(MAX_PATH_CHARS - 1))));
        assert!(!is_plain(&format!("/{}", "a".repeat(MAX_PATH_CHARS))));
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_browser_on_another_site_is_noticed() {
        for (is_other, pairs) in [
            (false, &[][..]),
            (false, &[("host", "towpath:8080"), ("origin", "http://towpath:8080")]),
            (false, &[("host", "a"), ("origin", "https://a"), ("sec-fetch-site", "same-origin")]),
            (true, &[("host", "towpath:8080"), ("origin", "http://evil")]),
            (true, &[("host", "towpath:8080"), ("origin", "null")]),
            (true, &[("origin", "http://evil")]),
            (true, &[("sec-fetch-site", "cross-site")]),
            (true, &[("sec-fetch-site", "same-site")]),
            (true, &[("host", "a"), ("origin", "https://a"), ("origin", "https://b")]),
        ] {
            assert_eq!(is_from_another_site(&headers(pairs)), is_other, "{pairs:?}");
        }
    }

    #[test]
    fn a_token_is_known_by_bearer_and_for_reading_by_basic() {
        let token = SecretString::from("0123456789abcdef");
        let basic = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        for (value, reading, writing) in [
            ("Bearer 0123456789abcdef", true, true),
            ("bearer 0123456789abcdef", true, true),
            ("Bearer 0123456789abcdeF", false, false),
            ("Bearer 0123456789abcde", false, false),
            ("Bearer ", false, false),
            ("Bearer", false, false),
            ("0123456789abcdef", false, false),
            (&basic("anybody:0123456789abcdef"), true, false),
            (&basic(":0123456789abcdef"), true, false),
            (&basic("0123456789abcdef"), false, false),
            ("Basic %%%", false, false),
        ] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!((knows(&token, &headers, true), knows(&token, &headers, false)), (reading, writing), "{value}");
        }
        let twice = headers(&[("authorization", "Bearer 0123456789abcdef"), ("authorization", "Bearer x")]);
        assert!(!knows(&token, &twice, true));
    }

    #[test]
    fn a_foreign_name_for_this_machine_opens_nothing() {
        let uri = Uri::from_static("/");
        for good in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.8.8.8"] {
            assert!(is_named_locally(&uri, &headers(&[("host", good)])).is_ok(), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.nip.io:8080"] {
            assert!(is_named_locally(&uri, &headers(&[("host", bad)])).is_err(), "{bad}");
        }
    }
}
