//! A real registry on loopback: `distribution`, with its store in the test's folder. It asks for no login, for a password,
//! or for a token as Harbor does, whose server stands here: it gives a token to the robot account alone.

mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use serde_json::{Value, json};

use self::tokens::Tokens;
use crate::control_plane;
use crate::process::{self, Running};

/// The robot account that every registry here knows.
pub const ROBOT: &str = "robot$towpath";
/// Its password.
pub const PASSWORD: &str = "robot-pass";
/// The same as a line of htpasswd, with the least rounds of bcrypt.
const HTPASSWD: &str = "robot$towpath:$2b$05$abcdefghijklmnopqrstuupvMjdP.mwuUmW8PmUoxV2WNs6velEOK\n";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// How long the registry may take to listen.
const READY: Duration = Duration::from_secs(20);

/// How a registry knows who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It does not ask.
    Open,
    /// By a password (htpasswd): 401 with a Basic challenge.
    Password,
    /// By a token of another server: 401 with a Bearer challenge.
    Token,
    /// Open, over https with the certificate `good` of `tls/`.
    Tls,
}

/// A registry. It ends when it is dropped.
pub struct Registry {
    port: u16,
    access: Access,
    folder: PathBuf,
    tokens: Option<Tokens>,
    client: reqwest::Client,
    process: Option<Running>,
}

impl Registry {
    /// Starts a registry in a folder of the test's.
    ///
    /// # Errors
    /// When it cannot be built or does not listen in time.
    pub async fn start(folder: &Path, access: Access) -> Result<Registry> {
        towpath::repo::init();
        let folder = folder.join("registry");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("htpasswd"), HTPASSWD)?;
        let port = control_plane::free_port()?;
        let tokens = match access {
            Access::Token => Some(Tokens::start(&folder.join("keys.json"))?),
            _ => None,
        };
        let auth = match (&tokens, access) {
            (Some(tokens), _) => json!({"token": {
                "realm": tokens.realm(), "service": tokens::SERVICE, "issuer": tokens::ISSUER,
                "jwks": folder.join("keys.json"),
            }}),
            (None, Access::Password) => {
                json!({"htpasswd": {"realm": "registry", "path": folder.join("htpasswd")}})
            }
            _ => json!({}),
        };
        let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/tls");
        let tls = match access {
            Access::Tls => {
                json!({"certificate": certificates.join("good.pem"), "key": certificates.join("server.key")})
            }
            _ => json!({}),
        };
        // JSON is YAML.
        let config = json!({
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": folder.join("store")}, "delete": {"enabled": true}},
            "auth": auth,
            "http": {"addr": format!("127.0.0.1:{port}"), "relativeurls": true, "tls": tls},
        });
        std::fs::write(folder.join("config.yaml"), config.to_string())?;
        let authority = reqwest::Certificate::from_pem(&std::fs::read(certificates.join("ca.pem"))?)?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build()?;
        let mut registry = Registry { port, access, folder, tokens, client, process: None };
        registry.come_back().await?;
        Ok(registry)
    }

    /// Ends its process; what was pushed stays.
    pub fn go_away(&mut self) {
        self.process = None;
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn come_back(&mut self) -> Result<()> {
        let program = tokio::task::spawn_blocking(program).await??;
        let mut command = Command::new(program);
        // Else a variable of the machine could mean something to it.
        command.args(["serve", "config.yaml"]).current_dir(&self.folder).env_clear();
        command.env("OTEL_TRACES_EXPORTER", "none");
        let log = self.folder.join("log");
        self.process = Some(process::spawn(command, &log)?);
        let deadline = Instant::now() + READY;
        while self.client.get(format!("{}/v2/", self.url())).send().await.is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            ensure!(Instant::now() < deadline, "the registry does not listen:\n{}", said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Where it listens: what stands before the `/` of an image.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its address with its scheme.
    pub fn url(&self) -> String {
        let scheme = if self.access == Access::Tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// What the token server was sent as `authorization`, one for each request; empty where nothing was.
    pub fn asked_for_tokens(&self) -> Vec<String> {
        self.tokens.as_ref().map(Tokens::asked).unwrap_or_default()
    }

    /// What it asks for where nothing is shown: its header `www-authenticate`, for the repository `shop/web`.
    ///
    /// # Panics
    /// When it asks for nothing.
    pub async fn challenge(&self) -> String {
        let answer = self.client.get(format!("{}/v2/shop/web/manifests/v1", self.url())).send().await;
        let answer = answer.expect("the registry answers");
        let asked = answer.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
        asked.expect("the registry asks for a login").to_owned()
    }

    /// The content of a Secret's `.dockerconfigjson` with a login at `at`: a registry, or one with a path.
    pub fn docker_config(at: &str, user: &str, password: &str) -> String {
        let login = STANDARD.encode(format!("{user}:{password}"));
        json!({"auths": {at: {"auth": login}}}).to_string()
    }

    /// Pushes an image without layers under a tag, and gives its digest. Other content has another digest.
    ///
    /// # Panics
    /// When the registry does not take it.
    pub async fn push(&self, repository: &str, tag: &str, content: &str) -> String {
        self.try_push(repository, tag, content).await.unwrap_or_else(|error| panic!("{repository}:{tag}: {error:?}"))
    }

    async fn try_push(&self, repository: &str, tag: &str, content: &str) -> Result<String> {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Labels": {"content": content}},
            "rootfs": {"type": "layers", "diff_ids": []},
        })
        .to_string();
        let digest = digest_of(&config);
        let begun = self.ask(Method::POST, repository, "blobs/uploads/", None).await?;
        let at = begun.headers().get(LOCATION).context("an upload has a place")?.to_str()?.to_owned();
        let at = format!("{at}{}digest={digest}", if at.contains('?') { '&' } else { '?' });
        self.send(Method::PUT, repository, at, Some(("application/octet-stream", config.clone()))).await?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest, "size": config.len()}, "layers": [],
        })
        .to_string();
        let digest = digest_of(&manifest);
        self.ask(Method::PUT, repository, &format!("manifests/{tag}"), Some((MANIFEST, manifest))).await?;
        Ok(digest)
    }

    /// Deletes the image that a tag stands on.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn delete(&self, repository: &str, digest: &str) {
        let deleted = self.ask(Method::DELETE, repository, &format!("manifests/{digest}"), None).await;
        deleted.unwrap_or_else(|error| panic!("{repository}@{digest}: {error:?}"));
    }

    async fn ask(
        &self,
        method: Method,
        repository: &str,
        what: &str,
        body: Option<(&str, String)>,
    ) -> Result<reqwest::Response> {
        self.send(method, repository, format!("/v2/{repository}/{what}"), body).await
    }

    async fn send(
        &self,
        method: Method,
        repository: &str,
        at: String,
        body: Option<(&str, String)>,
    ) -> Result<reqwest::Response> {
        let mut request = self.client.request(method, format!("{}{at}", self.url())).header(ACCEPT, MANIFEST);
        request = match (self.access, &self.tokens) {
            (Access::Password, _) => request.basic_auth(ROBOT, Some(PASSWORD)),
            (_, Some(tokens)) => request.bearer_auth(tokens.token(repository, &["pull", "push", "delete"])),
            _ => request,
        };
        if let Some((kind, body)) = body {
            request = request.header(CONTENT_TYPE, kind).body(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "{at}: {status} {}", answer.text().await.unwrap_or_default());
        Ok(answer)
    }
}

/// The program, built once.
fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let built: Option<PathBuf> = control_plane::build(&["registry"])?.remove("registry");
    Ok(PROGRAM.get_or_init(|| built.expect("what was asked for is in the answer")).clone())
}

/// The digest of a document as registries write it.
pub fn digest_of(content: &str) -> String {
    use std::fmt::Write;
    let hash = ring::digest::digest(&ring::digest::SHA256, content.as_bytes());
    let mut text = String::from("sha256:");
    hash.as_ref().iter().for_each(|byte| write!(text, "{byte:02x}").expect("a text can be written to"));
    text
}

/// An object that is a pull secret, with an authority where one is given.
pub fn pull_secret(namespace: &str, name: &str, config: &str, authority: Option<&str>) -> Value {
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": name, "namespace": namespace},
        "data": {".dockerconfigjson": STANDARD.encode(config)},
    });
    if let Some(authority) = authority {
        secret["data"]["ca.crt"] = STANDARD.encode(authority).into();
    }
    secret
}
