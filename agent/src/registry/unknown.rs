//! Why it is not known whether an image is there, and how long the registry is left alone for it.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use reqwest::Response;
use towpath_core::fault::Problem;

use super::hosts::{LONGEST_PAUSE, Pause, UNREACHABLE};
use super::keys::Key;
use crate::clients::{self, Silence};

/// How long a registry is left alone that says it is asked too much, and not for how long.
const TOO_MUCH: Duration = Duration::from_secs(30);

/// Why nothing is known, and how long the registry is left alone for it.
pub(super) struct Unknown {
    pub(super) problem: Problem,
    pub(super) pause: Option<Pause>,
}

impl Unknown {
    fn later(message: String, pause: Duration) -> Unknown {
        Unknown { problem: Problem::passing(message), pause: Some(Pause::For(pause)) }
    }

    /// Somebody did not answer in time.
    pub(super) fn silent(message: String) -> Unknown {
        Unknown { problem: Problem::passing(message), pause: Some(Pause::Silent) }
    }
}

impl From<Problem> for Unknown {
    fn from(problem: Problem) -> Unknown {
        Unknown { problem, pause: None }
    }
}

/// What an answer means that is neither yes nor no.
pub(super) fn refused(who: &str, status: StatusCode, headers: &HeaderMap, key: Option<&Key>) -> Unknown {
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

pub(super) fn unreachable(who: &str, error: &reqwest::Error) -> Unknown {
    match Silence::from(error) {
        Silence::Late => Unknown::silent(format!("{who} does not answer in time")),
        Silence::Distrusted(why) => Problem::setup(format!("the certificate of {who} is not trusted: {why}"))
            .hint("give its authority as ca.crt in the pull secret, or renew the certificate")
            .into(),
        Silence::Away(why) => Unknown::later(format!("{who} cannot be reached: {why}"), UNREACHABLE),
    }
}

/// The whole of an answer's body, if it is no longer than it may be.
pub(super) async fn body(answer: Response, limit: usize, who: &str) -> Result<Vec<u8>, Unknown> {
    let read = clients::body(answer, limit).await.map_err(|error| unreachable(who, &error))?;
    read.ok_or_else(|| {
        Problem::setup(format!("{who} answers with more than {limit} bytes"))
            .hint("check the address of the image")
            .into()
    })
}

/// What answers is no registry: a page of a proxy, or of a server that knows nothing of images.
pub(super) fn no_registry(host: &str, how: &str) -> Unknown {
    Problem::setup(format!("registry {host} answers {how}"))
        .hint("check the address of the image, and what stands before the registry")
        .into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use towpath_core::fault::Fault;

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
    fn only_a_limit_or_an_absence_passes_by_itself() {
        let paused = |pause: Duration| Some(Pause::For(pause));
        let fault = |status: u16, headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            let unknown = refused("it", StatusCode::from_u16(status).unwrap(), &headers.collect(), None);
            (unknown.problem.fault, unknown.pause)
        };
        assert_eq!(fault(429, &[]), (Fault::Passing, paused(TOO_MUCH)));
        assert_eq!(fault(429, &[("retry-after", "3")]), (Fault::Passing, paused(Duration::from_secs(3))));
        assert_eq!(fault(403, &[("retry-after", "3")]), (Fault::Passing, paused(Duration::from_secs(3))));
        assert_eq!(fault(502, &[]), (Fault::Passing, paused(UNREACHABLE)));
        for status in [400, 401, 403, 406] {
            assert_eq!(fault(status, &[]), (Fault::Setup, None), "{status}");
        }
    }
}
