//! The token server before a registry, as Harbor has one: an endpoint that looks at a login and signs what it may do.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::{PASSWORD, ROBOT};

/// What the registry calls itself.
pub(super) const SERVICE: &str = "harbor-registry";
/// Who signs.
pub(super) const ISSUER: &str = "harbor-token-issuer";
/// The name of the one key.
const KEY: &str = "test";
/// Seconds for which a token is good.
const VALID: i64 = 300;

/// A token server. It ends when it is dropped.
pub(super) struct Tokens {
    address: SocketAddr,
    signer: Arc<Ed25519KeyPair>,
    asked: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

impl Tokens {
    /// Starts a server with a new key, and writes the public half to a file.
    pub(super) fn start(keys: &Path) -> Result<Tokens> {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new())
            .map_err(|_unspecified| anyhow!("no key can be made"))?;
        let signer = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|error| anyhow!("{error}"))?;
        let public = URL_SAFE_NO_PAD.encode(signer.public_key().as_ref());
        let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": KEY, "alg": "EdDSA", "use": "sig", "x": public});
        std::fs::write(keys, json!({"keys": [key]}).to_string())?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let tokens = Tokens {
            address: listener.local_addr()?,
            signer: Arc::new(signer),
            asked: Arc::default(),
            is_over: Arc::default(),
        };
        let (signer, asked, is_over) = (tokens.signer.clone(), tokens.asked.clone(), tokens.is_over.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                // An error is a client that went away.
                let _ = answer(stream, &signer, &asked);
            }
        });
        Ok(tokens)
    }

    /// Where tokens are asked for.
    pub(super) fn realm(&self) -> String {
        format!("http://{}/service/token", self.address)
    }

    /// The logins that it was shown.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nothing panics while it holds this lock").clone()
    }

    /// A token that allows something on a repository.
    pub(super) fn token(&self, repository: &str, actions: &[&str]) -> String {
        sign(&self.signer, &json!([{"type": "repository", "name": repository, "actions": actions}]))
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers one request and ends the connection.
fn answer(stream: TcpStream, signer: &Ed25519KeyPair, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut login = String::new();
    for line in lines.by_ref() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            login = value.trim().to_owned();
        }
    }
    asked.lock().expect("nothing panics while it holds this lock").push(login.clone());
    let query = first.split(' ').nth(1).and_then(|target| target.split_once('?')).map_or("", |(_, query)| query);
    let value = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.unwrap_or_default().replace("%3A", ":").replace("%2F", "/")
    };
    let good = format!("Basic {}", STANDARD.encode(format!("{ROBOT}:{PASSWORD}")));
    let (status, body) = match () {
        () if value("service") != SERVICE => ("400 Bad Request", json!({})),
        // Nobody in particular gets a token that allows nothing, as at Harbor.
        () if login.is_empty() => ("200 OK", json!({"token": sign(signer, &json!([]))})),
        () if login != good => ("401 Unauthorized", json!({"errors": [{"code": "UNAUTHORIZED"}]})),
        () => {
            let scope = value("scope");
            let mut parts = scope.splitn(3, ':');
            let (kind, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let access = json!([{"type": kind, "name": name, "actions": ["pull"]}]);
            ("200 OK", json!({"token": sign(signer, &access), "expires_in": VALID}))
        }
    };
    let body = body.to_string();
    write!(
        &stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A token as the registry reads it: a JWT, signed with Ed25519.
fn sign(signer: &Ed25519KeyPair, access: &Value) -> String {
    let now = Timestamp::now().as_second();
    let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let head = encode(json!({"alg": "EdDSA", "typ": "JWT", "kid": KEY}));
    let claims = encode(json!({
        "iss": ISSUER, "sub": ROBOT, "aud": SERVICE, "exp": now + VALID, "nbf": now - 10, "iat": now, "jti": "1",
        "access": access,
    }));
    let signed = format!("{head}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}
