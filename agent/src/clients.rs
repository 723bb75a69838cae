//! What the doors that speak http have in common: clients that trust an authority, and what is wrong with a connection.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, Response};
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;
use url::{Host, Url};

/// What the agent calls itself.
const USER_AGENT: &str = concat!("towpath/", env!("CARGO_PKG_VERSION"));
/// Clients that are kept. Beyond it all are made anew.
const MAX_CLIENTS: usize = 64;
/// Characters of an error that are shown.
const SHOWN_CHARACTERS: usize = 200;

/// An authority that vouches for a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authority<'a> {
    /// Its certificates in PEM.
    pub pem: &'a str,
    /// The Secret that they are in.
    pub secret: &'a str,
}

/// Clients that follow no redirect. One for each authority that is trusted beside those of the system, and on loopback
/// another, which asks no proxy.
pub(crate) struct Clients {
    /// Time for one request, from the connection to the last byte.
    request: Duration,
    /// Time until a server takes the connection.
    connect: Duration,
    kept: Mutex<HashMap<(Option<String>, bool), Client>>,
}

impl Clients {
    /// Clients with these times.
    pub(crate) fn new(request: Duration, connect: Duration) -> Clients {
        Clients { request, connect, kept: Mutex::default() }
    }

    /// The client for a server.
    ///
    /// # Errors
    /// `Setup` when there is no certificate in what the authority's Secret has.
    pub(crate) fn of(&self, authority: Option<Authority<'_>>, is_local: bool) -> Result<Client, Problem> {
        let key = (authority.map(|authority| authority.pem.to_owned()), is_local);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.get(&key) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.connect)
            .timeout(self.request);
        if let Some(Authority { pem, secret }) = authority {
            let unreadable = || {
                Problem::setup(format!("ca.crt of Secret {secret} cannot be read"))
                    .hint("give one or more certificates in PEM")
            };
            builder = builder.tls_certs_merge(certificates(pem).ok_or_else(unreadable)?);
        }
        if is_local {
            builder = builder.no_proxy();
        }
        let no_client = |error| Problem::setup(format!("no http client: {}", innermost(&error)));
        let client = builder.build().map_err(no_client)?;
        if kept.len() >= MAX_CLIENTS {
            kept.clear();
        }
        kept.insert(key, client.clone());
        Ok(client)
    }
}

/// The certificates of a text in PEM. None where there is none.
pub(crate) fn certificates(pem: &str) -> Option<Vec<Certificate>> {
    Certificate::from_pem_bundle(pem.as_bytes()).ok().filter(|found| !found.is_empty())
}

/// Why there was no answer.
pub(crate) enum Silence {
    /// It did not come in time.
    Late,
    /// The server's certificate is not trusted, and why.
    Distrusted(String),
    /// The server is away, or the connection broke, and why.
    Away(String),
}

impl From<&reqwest::Error> for Silence {
    fn from(error: &reqwest::Error) -> Silence {
        if error.is_timeout() {
            return Silence::Late;
        }
        let why = innermost(error);
        let lower = why.to_ascii_lowercase();
        match lower.contains("certificate") || lower.contains("unknownissuer") {
            true => Silence::Distrusted(why),
            false => Silence::Away(why),
        }
    }
}

/// The whole of an answer's body; `None` where it is longer than it may be.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn body(mut answer: Response, limit: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut read = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if read.len() + chunk.len() > limit {
            return Ok(None);
        }
        read.extend_from_slice(&chunk);
    }
    Ok(Some(read))
}

/// The words of the innermost cause, for the outer ones say only that there was one.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    clean_line(&cause.to_string(), SHOWN_CHARACTERS)
}

/// The host of an address, with its port where one is named.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether an address is on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_an_address_and_a_name() {
        let is_local = |text: &str| is_loopback(&Url::parse(text).unwrap());
        assert!(is_local("http://127.8.0.1:80") && is_local("http://[::1]") && is_local("http://localhost:9093/a"));
        assert!(!is_local("http://localhost.example") && !is_local("http://10.0.0.1") && !is_local("http://[::2]"));
        assert_eq!(host_of(&Url::parse("https://example.org:8443/a").unwrap()), "example.org:8443");
        assert_eq!(host_of(&Url::parse("https://example.org:443/a").unwrap()), "example.org");
    }

    #[test]
    fn a_text_without_a_certificate_names_its_secret() {
        let clients = Clients::new(Duration::from_secs(1), Duration::from_secs(1));
        let problem = clients.of(Some(Authority { pem: "nothing", secret: "ours" }), false).unwrap_err();
        assert!(problem.message.contains("ca.crt of Secret ours"), "{problem}");
    }
}
