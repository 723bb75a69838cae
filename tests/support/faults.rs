//! A proxy before a real server that misbehaves on demand: it cuts, delays, refuses, loses answers of writes that were
//! applied, kills the agent before or after a request, and tells of the cluster as it was.
//!
//! Before the API server it speaks https, with a certificate that the kubeconfig of [`crate::world::World`] trusts;
//! before a git server plain http. It passes requests on one for one, watches as streams, and remembers all of them.
//! Each test has a proxy of its own, so what one test breaks no other test meets.

mod asked;
mod past;
mod rule;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use asked::Asked;
pub use rule::{Action, Answer, Moment, On};

use past::Past;

use crate::control_plane::ADMIN_TOKEN;
use crate::process;

/// A proxy. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    /// Where requests go: `https://127.0.0.1:6443`.
    target: String,
    client: reqwest::Client,
    state: Mutex<State>,
    /// Wakes requests that wait for the end of the agent.
    kills: tokio::sync::watch::Sender<u32>,
    /// The past that some reads are answered from.
    past: tokio::sync::watch::Sender<Option<Arc<Past>>>,
}

#[derive(Default)]
struct State {
    rules: Vec<(On, Action, u32)>,
    seen: Vec<Asked>,
    /// Whether nobody is let in.
    is_away: bool,
    /// Connections that were refused meanwhile.
    refused: Vec<Instant>,
    /// Ends every connection that is open.
    open: CancellationToken,
    /// The process to be killed; `None` once it was.
    agent: Option<u32>,
    /// Whether the agent is about to be killed: no write passes any more.
    holds_writes: bool,
    /// How it speaks https; `None` where it speaks http.
    tls: Option<TlsAcceptor>,
    /// Watches that cannot go on from before a version.
    gaps: Vec<(On, u64)>,
}

impl Proxy {
    /// A proxy before an API server, which is trusted by its certificate. It speaks https itself.
    ///
    /// # Errors
    /// When no port is free, or a certificate cannot be read.
    pub async fn before_api_server(url: &str, ca: &Path) -> Result<Proxy> {
        towpath::repo::init();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(ca)?)?;
        let client = client().tls_certs_only([ca]).build()?;
        Proxy::start(url, client, Some(acceptor("good.pem")?)).await
    }

    /// A proxy before a server that speaks http, such as [`crate::git_server::GitServer`].
    ///
    /// # Errors
    /// When no port is free.
    pub async fn before(url: &str) -> Result<Proxy> {
        towpath::repo::init();
        Proxy::start(url, client().tls_certs_only([]).build()?, None).await
    }

    async fn start(target: &str, client: reqwest::Client, tls: Option<TlsAcceptor>) -> Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: target.trim_end_matches('/').to_owned(),
            client,
            state: Mutex::default(),
            kills: tokio::sync::watch::Sender::new(0),
            past: tokio::sync::watch::Sender::new(None),
        });
        let stop = CancellationToken::new();
        shared.state().tls = tls;
        tokio::spawn(serve::listen(listener, shared.clone(), stop.clone()));
        Ok(Proxy { address, shared, _stop: stop.drop_guard() })
    }

    /// Its address: `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that its https is trusted by.
    pub fn ca() -> PathBuf {
        certificates().join("ca.pem")
    }

    /// From now on shows a certificate that is signed by another authority, to new connections.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn change_authority(&self) -> Result<()> {
        self.shared.state().tls = Some(acceptor("next.pem")?);
        Ok(())
    }

    /// The authority of [`Proxy::change_authority`].
    pub fn next_ca() -> PathBuf {
        certificates().join("next-ca.pem")
    }

    /// From now on does this to these requests. Of several rules for one request the first one counts.
    pub fn inject(&self, on: On, action: Action) {
        self.shared.state().rules.push((on, action, 0));
    }

    /// From now on does nothing to any request.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.rules.clear();
        state.is_away = false;
    }

    /// Resets every connection, and from now on each new one at once: the server is away.
    pub fn go_away(&self) {
        let mut state = self.shared.state();
        state.is_away = true;
        state.refused.clear();
        std::mem::take(&mut state.open).cancel();
    }

    /// Resets every connection that is open now.
    pub fn cut_all(&self) {
        std::mem::take(&mut self.shared.state().open).cancel();
    }

    /// The API server's present resource version.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn version(&self) -> u64 {
        let url = format!("{}/api/v1/namespaces?limit=1", self.shared.target);
        let answer = self.shared.client.get(url).bearer_auth(ADMIN_TOKEN).send().await.expect("the server answers");
        let list: serde_json::Value = answer.json().await.expect("it answers with a list");
        let version = list["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
        version.expect("a list has a version")
    }

    /// From now on these reads tell of the cluster as it was at a version, and watches that are open stand still.
    /// Writes are done as ever.
    pub fn lag(&self, on: On, version: u64) {
        self.shared.past.send_replace(Some(Arc::new(Past::new(on, version))));
    }

    /// The lag is over: reads are true again, and watches go on where they stood.
    pub fn catch_up(&self) {
        self.shared.past.send_replace(None);
    }

    /// The lag is over, and nobody is told what happened meanwhile: watches end, and cannot be taken up where they were.
    pub async fn skip(&self) {
        let until = self.version().await;
        let past = self.shared.past.borrow().clone();
        if let Some(past) = past {
            self.shared.state().gaps.push((past.on().clone(), until));
            past.lose();
        }
        self.catch_up();
    }

    /// When connections were refused since [`Proxy::go_away`].
    pub fn refused(&self) -> Vec<Instant> {
        self.shared.state().refused.clone()
    }

    /// Every request so far, in the order of arrival.
    pub fn seen(&self) -> Vec<Asked> {
        self.shared.state().seen.clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.state().seen.clear();
    }

    /// How often a rule of this proxy has killed the agent.
    pub fn kills(&self) -> u32 {
        *self.shared.kills.borrow()
    }

    /// Says which process is to be killed where a rule says so.
    pub fn agent_is(&self, process: u32) {
        let mut state = self.shared.state();
        state.agent = Some(process);
        state.holds_writes = false;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a request, and says what is to be done to it and where it stands in the list.
    fn meet(&self, asked: Asked) -> (usize, Option<Action>) {
        let mut state = self.state();
        let mut action = None;
        for (on, todo, met) in &mut state.rules {
            if on.means(&asked) {
                *met += 1;
                if action.is_none() && on.counts(*met) {
                    action = Some(todo.clone());
                }
            }
        }
        state.seen.push(asked);
        (state.seen.len() - 1, action)
    }

    /// Remembers the status of an answer.
    fn answered(&self, index: usize, status: u16) {
        if let Some(asked) = self.state().seen.get_mut(index) {
            asked.status = Some(status);
        }
    }

    /// Kills the agent, unless it was killed already.
    fn kill(&self) {
        let agent = self.state().agent.take();
        if let Some(agent) = agent {
            process::kill(agent);
            self.kills.send_modify(|kills| *kills += 1);
        }
    }
}

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().http1_only().no_proxy().redirect(reqwest::redirect::Policy::none())
}

fn acceptor(certificate: &str) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_file(certificates().join(certificate))?;
    let key = PrivateKeyDer::from_pem_file(certificates().join("server.key"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("support/tls")
}

/// A kubeconfig like another one, for the same user, that goes through a proxy.
///
/// # Errors
/// When it cannot be read or written.
pub fn kubeconfig_through(proxy: &Proxy, kubeconfig: &Path) -> Result<PathBuf> {
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(kubeconfig)?)?;
    let cluster = config.pointer_mut("/clusters/0/cluster").context("a kubeconfig names a cluster")?;
    cluster["server"] = format!("https://{}", proxy.address).into();
    cluster["certificate-authority"] = Proxy::ca().display().to_string().into();
    let path = kubeconfig.with_extension("proxy");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}
