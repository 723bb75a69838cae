//! A real Kubernetes control plane on loopback: etcd, kube-apiserver, controller-manager, scheduler, and kwok as kubelet.

use std::collections::{BTreeSet, HashMap};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::process::{Running, remove_at_the_end, spawn};

/// A control plane that ends with this process.
pub struct ControlPlane {
    folder: tempfile::TempDir,
    binaries: HashMap<String, PathBuf>,
    url: String,
    _servers: Vec<Running>,
}

/// The token of a cluster administrator.
pub(crate) const ADMIN_TOKEN: &str = "admin-token";

/// The control plane of this process, started when it is first asked for.
///
/// # Panics
/// When it cannot be built or started: a test that needs it fails and says why.
pub fn shared() -> &'static ControlPlane {
    static SHARED: OnceLock<ControlPlane> = OnceLock::new();
    SHARED.get_or_init(|| ControlPlane::start().unwrap_or_else(|error| panic!("no control plane: {error:?}")))
}

impl ControlPlane {
    /// Where its servers keep their files. It goes with this process.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Builds what is missing and starts everything.
    ///
    /// # Errors
    /// When a server cannot be built, or does not become ready within a minute.
    pub fn start() -> Result<ControlPlane> {
        let binaries = build(&[])?;
        let folder = tempfile::Builder::new().prefix("towpath-").tempdir()?;
        remove_at_the_end(folder.path())?;
        let at = |name: &str| folder.path().join(name);
        let show = |name: &str| at(name).display().to_string();
        let scripts = scripts();

        std::fs::write(at("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin-uid,\"system:masters\"\n"))?;
        let port = free_port()?;
        let url = format!("https://127.0.0.1:{port}");

        let mut servers = Vec::new();
        let mut start = |name: &str, arguments: Vec<String>| -> Result<()> {
            let binary = binaries.get(name).with_context(|| format!("{name} was not built"))?;
            let mut command = Command::new(binary);
            command.args(arguments).env("HOME", folder.path());
            servers.push(spawn(command, &folder.path().join(format!("{name}.log")))?);
            Ok(())
        };
        start(
            "etcd",
            vec![
                "--name=test".into(),
                "--initial-cluster=test=http://localhost:2380".into(),
                format!("--data-dir={}", show("etcd")),
                "--unsafe-no-fsync".into(),
                "--log-level=warn".into(),
                format!("--listen-client-urls=unix://{}", show("etcd.sock")),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                format!("--listen-peer-urls=unix://{}", show("peer.sock")),
            ],
        )?;
        start(
            "kube-apiserver",
            vec![
                format!("--etcd-servers=unix://{}", show("etcd.sock")),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                format!("--secure-port={port}"),
                format!("--cert-dir={}", show("certs")),
                "--endpoint-reconciler-type=none".into(),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={}", show("certs/apiserver.key")),
                format!("--service-account-signing-key-file={}", show("certs/apiserver.key")),
                format!("--token-auth-file={}", show("tokens.csv")),
                "--authorization-mode=RBAC".into(),
                // The names of the nodes are known to no name server.
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!("--audit-policy-file={}", scripts.join("audit-policy.yaml").display()),
                format!("--audit-log-path={}", show("audit.log")),
                // In MiB: where it begins a new file, as it does at 100, marks in the old one mean nothing any more.
                "--audit-log-maxsize=10000".into(),
            ],
        )?;
        wait_until_ready(port, &at("certs/apiserver.crt"), &at("kube-apiserver.log"))?;
        std::fs::write(at("kubeconfig"), kubeconfig(&url, &at("certs/apiserver.crt"), ADMIN_TOKEN))?;

        let kubeconfig_flag = format!("--kubeconfig={}", show("kubeconfig"));
        let mut manager = vec![
            kubeconfig_flag.clone(),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            format!("--service-account-private-key-file={}", show("certs/apiserver.key")),
            format!("--root-ca-file={}", show("certs/apiserver.crt")),
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
            "--concurrent-gc-syncs=20".into(),
            "--concurrent-serviceaccount-token-syncs=5".into(),
        ];
        manager.extend(
            ["deployment", "replicaset", "job", "statefulset", "namespace"]
                .map(|kind| format!("--concurrent-{kind}-syncs=10")),
        );
        start("kube-controller-manager", manager)?;
        start(
            "kube-scheduler",
            vec![
                kubeconfig_flag.clone(),
                "--leader-elect=false".into(),
                "--secure-port=0".into(),
                "--kube-api-qps=500".into(),
                "--kube-api-burst=1000".into(),
            ],
        )?;
        let logs = scripts.join("logs");
        std::fs::write(at("kwok-logs.yaml"), cluster_logs(&logs.join("current.log"), &logs.join("previous.log")))?;
        let kubelet = free_port()?;
        start(
            "kwok",
            vec![
                format!("--config={}", scripts.join("kwok.yaml").display()),
                format!("--config={}", show("kwok-logs.yaml")),
                // Where the API server asks for the logs of containers.
                format!("--server-address=127.0.0.1:{kubelet}"),
                format!("--node-port={kubelet}"),
                "--manage-all-nodes=true".into(),
                kubeconfig_flag,
                "--node-lease-duration-seconds=40".into(),
                "--node-ip=127.0.0.1".into(),
                "--cidr=10.244.0.0/16".into(),
            ],
        )?;

        let plane = ControlPlane { url, _servers: servers, binaries, folder };
        plane.kubectl_apply(&json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node-1", "labels": {"kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux"}},
        }))?;
        Ok(plane)
    }

    /// Where the API server listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate that signs the API server's.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("certs/apiserver.crt")
    }

    /// The kubeconfig of a cluster administrator.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Writes a kubeconfig for a token, such as a service account's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_for(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("kubeconfig-{name}"));
        std::fs::write(&path, kubeconfig(&self.url, &self.ca(), token))?;
        Ok(path)
    }

    /// The audit log of the API server, one JSON document a line.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// The log of one of the servers.
    pub fn log(&self, server: &str) -> PathBuf {
        self.folder.path().join(format!("{server}.log"))
    }

    /// A program that was built, such as `kubectl`.
    pub fn binary(&self, name: &str) -> Option<&Path> {
        self.binaries.get(name).map(PathBuf::as_path)
    }

    /// Runs kubectl as the administrator and gives what it printed.
    ///
    /// # Errors
    /// When it fails; what it said is in the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run_kubectl(arguments, None)
    }

    /// Applies one object as the administrator.
    ///
    /// # Errors
    /// When it is refused.
    pub fn kubectl_apply(&self, object: &serde_json::Value) -> Result<String> {
        self.run_kubectl(&["apply", "--server-side", "--validate=false", "-f", "-"], Some(&object.to_string()))
    }

    fn run_kubectl(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new(self.binary("kubectl").context("kubectl was not built")?);
        command
            .arg(format!("--kubeconfig={}", self.admin_kubeconfig().display()))
            .args(arguments)
            .env("HOME", self.folder.path());
        crate::process::output(command, input)
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("control-plane")
}

/// Builds servers and tools, or finds them in the cache; all of them where none is named.
///
/// # Errors
/// When one cannot be built; what the build said is in the error.
pub fn build(names: &[&str]) -> Result<HashMap<String, PathBuf>> {
    let script = scripts().join("build");
    let output =
        Command::new("bash").arg(&script).args(names).output().with_context(|| script.display().to_string())?;
    ensure!(output.status.success(), "{} failed:\n{}", script.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, path)| (name.to_owned(), PathBuf::from(path))).collect())
}

/// A port that was free a moment ago, and that nobody else in this process was given.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    // The system likes to give a port out again that was just given back.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("nothing panics while it holds this lock");
    loop {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if given.insert(port) {
            return Ok(port);
        }
    }
}

fn kubeconfig(url: &str, ca: &Path, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": ca}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    })
    .to_string()
}

/// What every container has said: always the same, in its run and in the run before.
fn cluster_logs(current: &Path, previous: &Path) -> String {
    json!({
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "ClusterLogs",
        "metadata": {"name": "all"},
        "spec": {"logs": [{"logsFile": current, "previousLogsFile": previous}]},
    })
    .to_string()
}

fn wait_until_ready(port: u16, ca: &Path, log: &Path) -> Result<()> {
    let url = format!("https://127.0.0.1:{port}/readyz");
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = String::from("it does not listen");
    while Instant::now() < deadline {
        if let Ok(pem) = std::fs::read(ca)
            && let Ok(certificate) = reqwest::Certificate::from_pem(&pem)
        {
            let answer = std::thread::spawn({
                let url = url.clone();
                move || -> Result<String> {
                    let client = reqwest::blocking::Client::builder()
                        .tls_certs_only([certificate])
                        .no_proxy()
                        .timeout(Duration::from_secs(2))
                        .build()?;
                    Ok(client.get(url).bearer_auth(ADMIN_TOKEN).send()?.text()?)
                }
            })
            .join();
            match answer {
                Ok(Ok(text)) if text == "ok" => return Ok(()),
                Ok(Ok(text)) => last = text,
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => bail!("the check for readiness panicked"),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(20).collect();
    bail!("the API server was not ready within 60 s: {last}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}
