//! A real Alertmanager on loopback, with its data in the test's folder. It is alone in its cluster and tells nobody.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::control_plane;
use crate::process::{self, Running};

/// Who may ask where it asks for a login.
pub const USER: &str = "towpath";
/// Their password.
pub const PASSWORD: &str = "robot-pass";
/// The same with the least rounds of bcrypt.
const BCRYPT: &str = "$2b$05$abcdefghijklmnopqrstuupvMjdP.mwuUmW8PmUoxV2WNs6velEOK";
/// How long it may take to listen.
const READY: Duration = Duration::from_secs(20);
/// How long an alert lasts that nobody sends again.
const LASTS: SignedDuration = SignedDuration::from_hours(1);

/// How an Alertmanager is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By http and without a login, with everything below `/`.
    Open,
    /// The same below `/monitoring/alerts`.
    Below,
    /// By https with the certificate `good` of `tls/`, and with a password.
    Locked,
}

/// An Alertmanager. It ends when it is dropped.
pub struct Alertmanager {
    port: u16,
    access: Access,
    folder: PathBuf,
    client: reqwest::Client,
    process: Option<Running>,
}

impl Alertmanager {
    /// Starts one in a folder of the test's.
    ///
    /// # Errors
    /// When it cannot be built or does not listen in time.
    pub async fn start(folder: &Path, access: Access) -> Result<Alertmanager> {
        towpath::repo::init();
        let folder = folder.join("alertmanager");
        std::fs::create_dir_all(&folder)?;
        // JSON is YAML.
        let config = json!({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]});
        std::fs::write(folder.join("config.yaml"), config.to_string())?;
        let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/tls");
        let web = match access {
            Access::Locked => json!({
                "tls_server_config": {"cert_file": tls.join("good.pem"), "key_file": tls.join("server.key")},
                "basic_auth_users": {USER: BCRYPT},
            }),
            Access::Open | Access::Below => json!({}),
        };
        std::fs::write(folder.join("web.yaml"), web.to_string())?;
        let authority = reqwest::Certificate::from_pem(&std::fs::read(tls.join("ca.pem"))?)?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build()?;
        let port = control_plane::free_port()?;
        let mut alertmanager = Alertmanager { port, access, folder, client, process: None };
        alertmanager.come_back().await?;
        Ok(alertmanager)
    }

    /// Ends its process.
    pub fn go_away(&mut self) {
        self.process = None;
    }

    /// Stops its process where it is, so that it takes connections and answers nothing.
    pub fn fall_silent(&self) {
        self.process.as_ref().expect("it runs").signal(libc::SIGSTOP);
    }

    /// Starts it again where it was. Alerts are gone, for it keeps none on its disk.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn come_back(&mut self) -> Result<()> {
        let program = tokio::task::spawn_blocking(program).await??;
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env_clear();
        command.args(["--config.file=config.yaml", "--web.config.file=web.yaml", "--storage.path=data"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{}", self.port));
        command.arg(format!("--web.external-url={}", self.url()));
        // It looks for no others.
        command.arg("--cluster.listen-address=");
        let log = self.folder.join("log");
        self.process = Some(process::spawn(command, &log)?);
        let deadline = Instant::now() + READY;
        while !self.ask("GET", "/-/ready", None).await.is_ok_and(|status| status == 200) {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            ensure!(Instant::now() < deadline, "Alertmanager does not listen:\n{}", said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Its address, with its prefix.
    pub fn url(&self) -> String {
        let (scheme, prefix) = match self.access {
            Access::Open => ("http", ""),
            Access::Below => ("http", "/monitoring/alerts"),
            Access::Locked => ("https", ""),
        };
        format!("{scheme}://127.0.0.1:{}{prefix}", self.port)
    }

    /// Has an alert fire that began at a time, as Prometheus does.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn fire(&self, labels: Value, annotations: Value, since: Timestamp) {
        self.send(labels, annotations, since, Timestamp::now() + LASTS).await;
    }

    /// Has an alert end that fires.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn resolve(&self, labels: Value, since: Timestamp) {
        self.send(labels, json!({}), since, Timestamp::now()).await;
    }

    async fn send(&self, labels: Value, annotations: Value, since: Timestamp, until: Timestamp) {
        let (since, until) = (since.to_string(), until.to_string());
        let alert = json!({"labels": labels, "annotations": annotations, "startsAt": since, "endsAt": until});
        let status = self.ask("POST", "/api/v2/alerts", Some(json!([alert]))).await;
        assert_eq!(status.expect("it answers"), 200, "{alert}");
    }

    /// Silences what has a label, for an hour.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn silence(&self, label: &str, value: &str) {
        let now = Timestamp::now();
        let silence = json!({
            "matchers": [{"name": label, "value": value, "isRegex": false, "isEqual": true}],
            "startsAt": now.to_string(), "endsAt": (now + LASTS).to_string(),
            "createdBy": "test", "comment": "it is known",
        });
        let status = self.ask("POST", "/api/v2/silences", Some(silence)).await;
        assert_eq!(status.expect("it answers"), 200);
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<u16> {
        let mut request = self.client.request(method.parse()?, format!("{}{path}", self.url()));
        if self.access == Access::Locked {
            request = request.basic_auth(USER, Some(PASSWORD));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        Ok(request.send().await?.status().as_u16())
    }
}

/// The program, built once.
fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let built: Option<PathBuf> = control_plane::build(&["alertmanager"])?.remove("alertmanager");
    Ok(PROGRAM.get_or_init(|| built.expect("what was asked for is in the answer")).clone())
}
