//! A namespace of its own for one test: a deploy repository, an account to apply with, an agent, and questions to ask.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use towpath::resources::{Environment, Repository};
use towpath_core::status::EnvironmentStatus;

use crate::agent::{self, Start};
use crate::audit::{self, Mark, Request};
use crate::control_plane::{self, ControlPlane};
use crate::deploy_repo::DeployRepo;
use crate::faults::{self, Proxy};
use crate::process::Running;

/// How long anything may take before a test fails: a machine may be slow, and busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One test's world.
pub struct World {
    /// Its namespace.
    pub namespace: String,
    /// The control plane, shared with other tests.
    pub plane: &'static ControlPlane,
    /// A cluster administrator.
    pub admin: Client,
    /// The deploy repository.
    pub repo: DeployRepo,
    folder: tempfile::TempDir,
    agent: Option<Running>,
    start: Start,
    proxy: Option<Arc<Proxy>>,
}

impl World {
    /// A world with a namespace, an account that may do everything in it, and an empty deploy repository. No agent runs.
    ///
    /// # Panics
    /// When anything of it cannot be made: a test without a world has failed.
    pub async fn new(name: &str) -> World {
        let plane = tokio::task::spawn_blocking(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
            static INSTALLED: OnceLock<()> = OnceLock::new();
            let plane = control_plane::shared();
            INSTALLED.get_or_init(|| install(plane));
            plane
        });
        let plane = plane.await.unwrap_or_else(|error| panic!("no control plane: {error:?}"));
        World::try_new(plane, name).await.unwrap_or_else(|error| panic!("no world for {name}: {error:?}"))
    }

    /// A world in another cluster, which lives for as long as this process.
    ///
    /// # Panics
    /// When anything of it cannot be made.
    pub async fn elsewhere(name: &str) -> World {
        let plane = tokio::task::spawn_blocking(|| {
            let plane = ControlPlane::start().unwrap_or_else(|error| panic!("no second control plane: {error:?}"));
            let plane: &'static ControlPlane = Box::leak(Box::new(plane));
            install(plane);
            plane
        });
        let plane = plane.await.unwrap_or_else(|error| panic!("no second control plane: {error:?}"));
        World::try_new(plane, name).await.unwrap_or_else(|error| panic!("no world for {name}: {error:?}"))
    }

    /// Another world in the same cluster.
    ///
    /// # Panics
    /// When anything of it cannot be made.
    pub async fn beside(&self, name: &str) -> World {
        World::try_new(self.plane, name).await.unwrap_or_else(|error| panic!("no world for {name}: {error:?}"))
    }

    async fn try_new(plane: &'static ControlPlane, name: &str) -> Result<World> {
        static NAMES: Mutex<BTreeSet<(usize, String)>> = Mutex::new(BTreeSet::new());
        let is_new = NAMES.lock().unwrap().insert((std::ptr::from_ref(plane).addr(), name.to_owned()));
        anyhow::ensure!(is_new, "another test of this cluster has a world of this name");
        let admin = client(&plane.admin_kubeconfig()).await?;
        let namespace = name.to_owned();
        apply(&admin, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await?;
        apply(
            &admin,
            &json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "towpath-deployer", "namespace": namespace},
            }),
        )
        .await?;
        apply(
            &admin,
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": "towpath-deployer", "namespace": namespace},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": "towpath-deployer", "namespace": namespace}],
            }),
        )
        .await?;
        let token = token(&admin, "towpath", "towpath").await?;
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(plane.folder())?;
        let repo = DeployRepo::new(folder.path().join("deploy.git"));
        let start = Start {
            kubeconfig: plane.kubeconfig_for(&namespace, &token)?,
            cluster: "test".to_owned(),
            namespace: Some(namespace.clone()),
            cache: folder.path().join("cache"),
            log: folder.path().join("agent.log"),
            // Any: a test that asks the agent chooses one.
            port: 0,
            probes: 0,
            time_scale: 10,
            arguments: Vec::new(),
            program: None,
            variables: Vec::new(),
        };
        Ok(World { namespace, plane, admin, repo, folder, agent: None, start, proxy: None })
    }

    /// A folder that goes with the world.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Has the agent listen where a test can ask it, from its next start on.
    ///
    /// # Panics
    /// When no port is free.
    pub fn listen(&mut self) {
        self.start.port = control_plane::free_port().expect("a port is free");
    }

    /// How the agent is started: to be changed before [`World::start_agent`].
    pub fn start_options(&mut self) -> &mut Start {
        &mut self.start
    }

    /// Has the agent watch all namespaces, from its next start on.
    ///
    /// # Panics
    /// In the cluster that tests share: it would sync what theirs are about.
    pub fn watch_all_namespaces(&mut self) {
        assert!(!std::ptr::eq(self.plane, control_plane::shared()), "World::elsewhere has a cluster of its own");
        self.start.namespace = None;
    }

    /// Puts a proxy between the agent and the API server, from its next start on.
    ///
    /// # Panics
    /// When there can be none.
    pub async fn through_proxy(&mut self) -> Arc<Proxy> {
        let proxy = Proxy::before_api_server(self.plane.url(), &self.plane.ca()).await;
        let proxy = Arc::new(proxy.unwrap_or_else(|error| panic!("no proxy: {error:?}")));
        let kubeconfig = faults::kubeconfig_through(&proxy, &self.start.kubeconfig);
        self.start.kubeconfig = kubeconfig.unwrap_or_else(|error| panic!("no kubeconfig: {error:?}"));
        self.proxy = Some(proxy.clone());
        proxy
    }

    /// The proxy between the agent and the API server, after [`World::through_proxy`].
    pub fn proxy(&self) -> Arc<Proxy> {
        self.proxy.clone().expect("through_proxy comes first")
    }

    /// Starts the agent, or starts it again.
    pub fn start_agent(&mut self) {
        self.agent = None;
        let agent = agent::start(&self.start).unwrap_or_else(|error| panic!("no agent: {error:?}"));
        if let Some(proxy) = &self.proxy {
            proxy.agent_is(agent.id());
        }
        self.agent = Some(agent);
    }

    /// The running agent.
    pub fn agent(&mut self) -> &mut Running {
        self.agent.as_mut().expect("start_agent comes first")
    }

    /// Ends the agent by SIGKILL.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// What the agent said so far.
    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(&self.start.log).unwrap_or_default()
    }

    /// Makes the Repository `shop` for this world's deploy repository.
    pub async fn repository(&self) {
        self.repository_with(json!({})).await;
    }

    /// The same with more in its spec.
    pub async fn repository_with(&self, more: Value) {
        let mut spec = json!({"url": self.repo.url()});
        for (name, value) in more.as_object().expect("it is a map") {
            spec[name] = value.clone();
        }
        self.apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": "shop", "namespace": self.namespace}, "spec": spec,
        }))
        .await;
    }

    /// Lets the agent have its own key in this world's namespace, and names its cluster. For ledgers; before
    /// [`World::start_agent`].
    pub async fn own_key(&mut self, cluster: &str) {
        self.start.cluster = cluster.to_owned();
        self.start.arguments.extend(["--own-namespace".to_owned(), self.namespace.clone()]);
        for (kind, extra) in [
            ("Role", json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create"]}]})),
            (
                "RoleBinding",
                json!({
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "own-key"},
                    "subjects": [{"kind": "ServiceAccount", "name": "towpath", "namespace": "towpath"}],
                }),
            ),
        ] {
            let mut object = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
                "metadata": {"name": "own-key", "namespace": self.namespace},
            });
            for (name, value) in extra.as_object().expect("it is a map") {
                object[name] = value.clone();
            }
            self.apply(object).await;
        }
    }

    /// Makes an Environment. Its name must be that of no other test's: names are unique in the cluster's labels.
    pub async fn environment(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["repository"] = "shop".into();
        self.apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Environment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }))
        .await;
    }

    /// Makes the Repository and an Environment that follows it, and starts the agent.
    pub async fn follow(&mut self, environment: &str, spec: Value) {
        self.repository().await;
        self.environment(environment, spec).await;
        self.start_agent();
    }

    /// Applies an object as the administrator, by server-side apply under the manager `test`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn apply(&self, object: Value) {
        apply(&self.admin, &object).await.unwrap_or_else(|error| panic!("{object}: {error:?}"));
    }

    /// The status of an Environment.
    pub async fn status(&self, name: &str) -> EnvironmentStatus {
        let api: Api<Environment> = Api::namespaced(self.admin.clone(), &self.namespace);
        api.get(name).await.ok().and_then(|environment| environment.status).unwrap_or_default()
    }

    /// Waits until the status of an Environment is as it should be.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`]; the status and the agent's log are said.
    pub async fn status_where(
        &self,
        name: &str,
        what: &str,
        is_so: impl Fn(&EnvironmentStatus) -> bool,
    ) -> EnvironmentStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name).await;
            if is_so(&status) {
                return status;
            }
            if Instant::now() > deadline {
                panic!("{name} is not {what}: {status:#?}\n--- agent:\n{}", self.agent_log());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until an Environment runs the head of a branch and is ready.
    pub async fn runs(&self, name: &str, branch: &str) -> EnvironmentStatus {
        let head = self.repo.head(branch).to_string();
        self.status_where(name, &format!("ready on {branch}@{head}"), |status| {
            let runs_it = status.running.as_ref().is_some_and(|running| running.revision.ends_with(&head));
            let is_ready =
                status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            runs_it && is_ready
        })
        .await
    }

    /// Lets this world's account do everything in the cluster.
    ///
    /// # Panics
    /// When that cannot be said.
    pub fn administers(&self) {
        let name = format!("{}-deployer", self.namespace);
        let account = format!("--serviceaccount={}:towpath-deployer", self.namespace);
        self.plane
            .kubectl(&["create", "clusterrolebinding", &name, "--clusterrole=cluster-admin", &account])
            .expect("a binding can be made");
    }

    /// Makes another namespace in which this world's account may do everything.
    pub async fn namespace_for_deployer(&self, namespace: &str) {
        self.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
        self.apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "towpath-deployer", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "towpath-deployer", "namespace": self.namespace}],
        }))
        .await;
    }

    /// Reads an object of another namespace as the administrator.
    pub async fn get_in(&self, namespace: &str, api_version: &str, kind: &str, name: &str) -> Option<Value> {
        let api = self.api_in(namespace, api_version, kind).await;
        api.get_opt(name).await.ok().flatten().map(|object| serde_json::to_value(object).expect("it was read as JSON"))
    }

    /// Reads an object as the administrator.
    pub async fn get(&self, api_version: &str, kind: &str, name: &str) -> Option<Value> {
        self.get_in(&self.namespace, api_version, kind, name).await
    }

    /// Waits until an object is as it should be; a null stands for one that is not there.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`].
    pub async fn object_where(
        &self,
        api_version: &str,
        kind: &str,
        name: &str,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let object = self.get(api_version, kind, name).await.unwrap_or(Value::Null);
            if is_so(&object) {
                return object;
            }
            if Instant::now() > deadline {
                panic!("{kind} {name} is not {what}: {object:#}\n--- agent:\n{}", self.agent_log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// An API for a kind of this namespace, as the administrator.
    pub async fn api(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        self.api_in(&self.namespace, api_version, kind).await
    }

    async fn api_in(&self, namespace: &str, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
        let (resource, _) = kube::discovery::pinned_kind(&self.admin, &gvk).await.expect("the kind is served");
        Api::namespaced_with(self.admin.clone(), namespace, &resource)
    }

    /// Merge-patches an object as a manager named `hand`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn patch(&self, api_version: &str, kind: &str, name: &str, patch: Value) {
        let params = PatchParams { field_manager: Some("hand".into()), ..PatchParams::default() };
        self.api(api_version, kind).await.patch(name, &params, &Patch::Merge(patch)).await.expect("the patch is taken");
    }

    /// Merge-patches the status of an object, as its controller would.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn patch_status(&self, api_version: &str, kind: &str, name: &str, patch: Value) {
        let params = PatchParams { field_manager: Some("controller".into()), ..PatchParams::default() };
        let api = self.api(api_version, kind).await;
        api.patch_status(name, &params, &Patch::Merge(patch)).await.expect("the patch is taken");
    }

    /// Deletes an object as the administrator.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, api_version: &str, kind: &str, name: &str) {
        self.api(api_version, kind).await.delete(name, &Default::default()).await.expect("the deletion is taken");
    }

    /// Waits until a kind is served.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`].
    pub async fn served(&self, api_version: &str, kind: &str) {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
        let deadline = Instant::now() + PATIENCE;
        while kube::discovery::pinned_kind(&self.admin, &gvk).await.is_err() {
            assert!(Instant::now() < deadline, "{kind} is not served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The port of the agent's page and API, after [`World::listen`].
    pub fn port(&self) -> u16 {
        self.start.port
    }

    /// Asks for a sync by annotation, as `kubectl annotate` would.
    pub async fn request_sync(&self, environment: &str, id: &str) {
        let patch =
            json!({"metadata": {"annotations": {"towpath.dev/requestedAt": id, "towpath.dev/requestedBy": "ada"}}});
        self.patch("towpath.dev/v1alpha1", "Environment", environment, patch).await;
    }

    /// Runs the command line in this world's namespace as the administrator. Gives its code, stdout and stderr.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn towpath(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = std::process::Command::new(agent::binary().expect("it was built"))
            .args(arguments)
            .args(["--namespace", &self.namespace])
            .env("KUBECONFIG", self.plane.admin_kubeconfig())
            .output()
            .expect("it can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// The end of the audit log, once what has been done until now is in it.
    ///
    /// The API server logs a request after it has answered it, so what somebody has seen done may come into the log a
    /// moment later.
    pub async fn mark_at_rest(&self) -> Mark {
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.mark()
    }

    /// The end of the audit log as it is now.
    pub fn mark(&self) -> Mark {
        audit::mark(&self.plane.audit_log()).expect("the audit log can be read")
    }

    /// The requests about this namespace, or none, that were made by the agent after a mark, as itself or as an account.
    pub fn requests_since(&self, mark: Mark) -> Vec<Request> {
        let mut requests = self.all_requests_since(mark);
        requests.retain(|request| {
            let is_its = request.client.contains(&format!("({}_", self.namespace));
            request.namespace == self.namespace || (request.namespace.is_empty() && is_its)
        });
        requests
    }

    /// The requests that the agent made after a mark, whatever they are about. Agents of other tests are not told apart.
    pub fn all_requests_since(&self, mark: Mark) -> Vec<Request> {
        let mut requests = audit::since(&self.plane.audit_log(), mark).expect("the audit log can be read");
        requests.retain(|request| request.user == "system:serviceaccount:towpath:towpath");
        requests
    }
}

/// Installs the custom resources and the agent's rights.
fn install(plane: &ControlPlane) {
    let manifests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let manifests = manifests.display().to_string();
    plane.kubectl(&["apply", "--server-side", "-k", &manifests]).expect("the manifests can be applied");
    for crd in ["environments", "repositories"] {
        let crd = format!("crd/{crd}.towpath.dev");
        plane.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=20s"]).expect("it is established");
    }
}

/// A client for a kubeconfig.
///
/// # Errors
/// When it cannot be read.
pub async fn client(kubeconfig: &std::path::Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Applies an object by server-side apply under the manager `test`.
///
/// # Errors
/// When it is refused.
pub async fn apply(client: &Client, object: &Value) -> Result<()> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
    let gvk = kube::core::GroupVersionKind::gvk(group, version, text("/kind"));
    let (resource, _) = kube::discovery::pinned_kind(client, &gvk).await?;
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    api.patch(text("/metadata/name"), &PatchParams::apply("test").force(), &Patch::Apply(object)).await?;
    Ok(())
}

/// A token of a service account.
///
/// # Errors
/// When there is no such account.
pub async fn token(client: &Client, namespace: &str, account: &str) -> Result<String> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec { audiences: Vec::new(), expiration_seconds: Some(7200), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
    answer.status.map(|status| status.token).context("the answer has no token")
}

/// All Repositories of a namespace.
pub async fn repository(world: &World, name: &str) -> Repository {
    let api: Api<Repository> = Api::namespaced(world.admin.clone(), &world.namespace);
    api.get(name).await.expect("it is there")
}
