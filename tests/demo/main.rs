//! The demo: a cluster, a deploy repository with two components, and the agent, on this machine.
//!
//! `make demo` starts everything, says what runs where and what to type next, and ends everything with Ctrl-C.
//! `make demo DEMO=--once` tells the whole story without a person, checks it, and ends. With `KUBECONFIG` set it uses
//! that cluster, as a user who may do everything there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use support::agent::{self, Start};
use support::control_plane::{self, ControlPlane};
use support::deploy_repo::DeployRepo;
use support::process::Running;

/// How long a step of the story may take.
const PATIENCE: Duration = Duration::from_secs(60);
const ENVIRONMENTS: [&str; 4] = ["dev", "test", "staging", "prod"];

const USAGE: &str = "\
usage: make demo               a cluster, a git server and an agent, until Ctrl-C
       make demo DEMO=--once   the same with a story that tells its steps, and ends";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--once"] => true,
        ["--help"] => {
            println!("{USAGE}");
            return Ok(());
        }
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    };
    let mut demo = Demo::start().await?;
    demo.first_release().await?;
    if once {
        demo.story().await?;
        say("the story holds");
        return Ok(());
    }
    demo.say_what_next();
    tokio::signal::ctrl_c().await?;
    say("ending");
    Ok(())
}

/// Everything that runs.
struct Demo {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    deploy: DeployRepo,
    web: DeployRepo,
    api: DeployRepo,
    page: String,
    token: String,
    client: reqwest::Client,
    _agent: Running,
    _plane: Option<ControlPlane>,
}

impl Demo {
    async fn start() -> Result<Demo> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("towpath-demo-").tempdir()?;
        let (plane, kubeconfig, kubectl) = match std::env::var_os("KUBECONFIG") {
            Some(kubeconfig) => {
                say("using the cluster of KUBECONFIG");
                let kubectl = tokio::task::spawn_blocking(|| control_plane::build(&["kubectl"])).await??;
                (None, PathBuf::from(kubeconfig), kubectl.get("kubectl").context("kubectl was built")?.clone())
            }
            None => {
                say("starting a control plane (the first time its servers are built, which takes some minutes)");
                let plane = tokio::task::spawn_blocking(ControlPlane::start).await??;
                let kubeconfig = plane.admin_kubeconfig();
                let kubectl = plane.binary("kubectl").context("kubectl was built")?.to_owned();
                (Some(plane), kubeconfig, kubectl)
            }
        };

        let git = folder.path().join("git");
        let deploy = DeployRepo::new(git.join("deploy.git"));
        let web = DeployRepo::new(git.join("web.git"));
        let api = DeployRepo::new(git.join("api.git"));

        let port = control_plane::free_port()?;
        let token = format!("demo-{:016x}", port as u64 * 0x9e37_79b9_7f4a);
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, &token)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        run(
            &kubectl,
            &kubeconfig,
            &["apply", "--server-side", "-k", &root.join("manifests/crds").display().to_string()],
            None,
        )?;
        for crd in ["environments", "repositories"] {
            let crd = format!("crd/{crd}.towpath.dev");
            run(&kubectl, &kubeconfig, &["wait", "--for=condition=Established", &crd, "--timeout=30s"], None)?;
        }
        let start = Start {
            cluster: "demo".to_owned(),
            kubeconfig: kubeconfig.clone(),
            namespace: Some("shop".to_owned()),
            cache: folder.path().join("cache"),
            log: folder.path().join("agent.log"),
            port,
            probes: control_plane::free_port()?,
            time_scale: 1,
            arguments: ["--token-file", &token_file.display().to_string(), "--own-namespace", "shop"]
                .map(String::from)
                .into(),
            program: None,
            variables: Vec::new(),
        };
        let agent = agent::start(&start)?;
        Ok(Demo {
            kubeconfig,
            kubectl,
            deploy,
            web,
            api,
            page: format!("http://127.0.0.1:{port}"),
            token,
            client: reqwest::Client::builder().no_proxy().build()?,
            _agent: agent,
            _plane: plane,
            folder,
        })
    }

    /// Writes the repositories and the custom resources, and waits until dev, test and staging run.
    async fn first_release(&mut self) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let web = self.web.commit("develop", "A first page", &[("index.html", "<h1>shop</h1>\n")]);
        let api = self.api.commit("develop", "A first answer", &[("main.rs", "fn main() {}\n")]);
        self.deploy.commit_folder("develop", "The shop", &root.join("examples/shop/repo"));
        self.deploy.submodule("develop", "components/web", "../web.git", web);
        self.deploy.submodule("develop", "components/api", "../api.git", api);
        self.deploy.branch("r1.0", "develop");
        self.deploy.branch("master", "r1.0");
        for component in [&self.web, &self.api] {
            component.tag("v1.0", component.head("develop"));
            component.branch("r1.0", "develop");
            component.branch("master", "develop");
        }

        for namespace in ["shop", "shop-dev", "shop-test", "shop-staging", "shop-prod"] {
            self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
        }
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "towpath-deployer", "namespace": "shop"},
        }))?;
        for environment in ENVIRONMENTS {
            self.apply(&json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": "towpath-deployer", "namespace": format!("shop-{environment}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
                "subjects": [{"kind": "ServiceAccount", "name": "towpath-deployer", "namespace": "shop"}],
            }))?;
        }
        let text = std::fs::read_to_string(root.join("examples/shop/environments.yaml"))?;
        for document in text.split("\n---\n") {
            let mut object: Value = serde_saphyr::from_str(document)?;
            if object["kind"] == "Repository" {
                let bumps = json!([{"lane": "develop", "bump": "Commit", "window": "1s"}]);
                object["spec"] = json!({"url": self.deploy.url(), "ledger": {}, "steward": true, "bumps": bumps});
            }
            self.apply(&object)?;
        }
        say("pushed develop, r1.0 and master of the deploy repository and of two components");
        for (environment, branch) in [("dev", "develop"), ("test", "r1.0"), ("staging", "master")] {
            self.runs(environment, branch).await?;
        }
        self.show().await
    }

    /// The whole story, each step checked.
    async fn story(&mut self) -> Result<()> {
        ensure!(self.environment("prod").await?["status"]["running"].is_null(), "prod waits for a request");

        say("\n1. a commit in a component: the agent moves its submodule on develop, and dev follows");
        let before = self.deploy.head("develop");
        let web = self.web.commit("develop", "A better page", &[("index.html", "<h1>Shop!</h1>\n")]);
        self.until("the submodule is moved", |demo| Ok(demo.deploy.head("develop") != before)).await?;
        self.runs("dev", "develop").await?;
        let wanted = format!("registry.example.com/shop/web:develop-{}", web.short());
        self.runs_image("shop-dev", "web", &wanted)?;
        self.show().await?;

        say("\n2. a release is cut, with a branch r1.1 in every repository: test follows it");
        say(&self.towpath(&["release", "cut", "r1.1", "--repository", "shop", "-n", "shop"])?);
        ensure!(self.web.try_head("r1.1") == Some(web), "the component has its branch");
        self.runs("test", "r1.1").await?;

        say("\n3. the release merged to master: staging follows, prod waits");
        self.deploy.merge("master", "r1.1");
        self.runs("staging", "master").await?;
        ensure!(self.environment("prod").await?["status"]["running"].is_null(), "prod waits for a request");
        self.show().await?;

        say("\n4. prod is synced by the endpoint");
        let answer = self.sync("prod").await?;
        ensure!(answer["status"] == "Done" && answer["state"] == "Synced", "prod is synced: {answer}");
        self.runs("prod", "master").await?;

        say("\n5. somebody scales prod by hand: it is mended");
        self.kubectl(&["scale", "deployment/web", "-n", "shop-prod", "--replicas=9"])?;
        self.until("prod is mended", |demo| {
            let replicas =
                demo.kubectl(&["get", "deployment/web", "-n", "shop-prod", "-o", "jsonpath={.spec.replicas}"])?;
            Ok(replicas == "3")
        })
        .await?;

        say("\n6. a bad commit on develop: dev says what is wrong and keeps what runs");
        let good = self.deploy.head("develop");
        let values = "host: dev.shop.example.com\nweb: {replicas: 1}\napi: {replicas: 1, env: null}\n";
        self.deploy.commit("develop", "Break it", &[("environments/dev/values.yaml", values)]);
        let mut blocked = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while blocked["status"]["state"] != "Blocked" {
            ensure!(Instant::now() < deadline, "dev is blocked: {blocked}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            blocked = self.environment("dev").await?;
        }
        say(&format!("   {}", blocked["status"]["problems"][0].as_str().unwrap_or_default()));
        self.deploy.force("develop", good);
        self.runs("dev", "develop").await?;

        say("\n7. a file deleted in git: the object goes");
        self.deploy.delete("develop", "templates/web/service.yaml.hbs");
        self.until("the service is gone", |demo| {
            Ok(demo.kubectl(&["get", "services", "-n", "shop-dev", "-o", "name"])?.trim().is_empty())
        })
        .await?;
        self.runs("dev", "develop").await?;
        self.show().await?;

        say("\n8. a bad release in staging and prod: prod is rolled back, by a revert on master that staging follows");
        let values = self.deploy.text("master", "environments/prod/values.yaml").context("there are values of prod")?;
        let bad = values.replace("replicas: 3", "replicas: 1");
        ensure!(bad != values, "prod has three replicas: {values}");
        self.deploy.commit("master", "Save some money", &[("environments/prod/values.yaml", &bad)]);
        self.runs("staging", "master").await?;
        self.sync("prod").await?;
        self.runs("prod", "master").await?;
        say(&self.towpath(&["rollback", "prod", "-n", "shop", "--yes", "--reason", "too slow with one"])?);
        self.runs("prod", "master").await?;
        self.runs("staging", "master").await?;
        say(&self.log("master")?.lines().take(3).collect::<Vec<_>>().join("\n"));

        say("\n9. what ran in prod is in git, each sync a signed commit");
        let ledger = format!("refs/towpath/demo/prod/{}", self.year());
        self.until("prod is recorded", |demo| Ok(demo.log(&ledger)?.contains("prod@1 is healthy"))).await?;
        say(&self.log(&ledger)?);
        Ok(())
    }

    /// Runs the command line. Gives what it prints.
    fn towpath(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(agent::binary()?);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        let said = support::process::output(command, None)?;
        Ok(said.lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n"))
    }

    fn year(&self) -> i16 {
        jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year()
    }

    /// What plain git says of a ref of the deploy repository.
    fn log(&self, reference: &str) -> Result<String> {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.deploy.path()).args(["log", "--format=   %h %s", reference, "--"]);
        Ok(support::process::output(git, None).unwrap_or_default())
    }

    fn say_what_next(&self) {
        let folder = self.folder.path().display();
        let binary = agent::binary().map_or_else(|_| "towpath".to_owned(), |path| path.display().to_string());
        say(&format!(
            "
The page:     {page}/
The log:      tail -f {folder}/agent.log
Look:         export KUBECONFIG={kubeconfig}
              {binary} get -n shop
              {kubectl} get deployments -A
Commit:       git -c protocol.file.allow=always clone {folder}/git/deploy.git /tmp/deploy && cd /tmp/deploy
              git switch develop && sed -i 's/info/debug/' values.yaml && git commit -am 'More words' && git push
Release:      git push origin develop:r1.1
Merge:        git switch master && git merge origin/develop && git push
Sync prod:    {binary} sync prod -n shop --wait
         or:  curl -X POST -H 'Authorization: Bearer {token}' '{page}/api/v1/environments/prod/sync?wait=60s'
What ran:     {binary} history prod --agent {page} --token-file {folder}/token
              git -C {folder}/git/deploy.git log refs/towpath/demo/staging/{year}
Roll back:    {binary} rollback prod -n shop     (after a second release of prod: it shows what it would do, and asks)
Break it:     {kubectl} scale deployment/web -n shop-dev --replicas=5   (and see it mended)

Ctrl-C ends everything.",
            page = self.page,
            kubeconfig = self.kubeconfig.display(),
            kubectl = self.kubectl.display(),
            token = self.token,
            year = self.year(),
        ));
    }

    /// Says what runs where, as the API has it.
    async fn show(&self) -> Result<()> {
        say(&format!("   {:<9} {:<9} {:<11} {:<12} runs", "name", "lane", "state", "health"));
        for name in ENVIRONMENTS {
            let environment = self.environment(name).await?;
            let status = &environment["status"];
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let running = &status["running"];
            let revision = text(&running["revision"]);
            let revision = match revision.split_once("@sha1:") {
                Some((branch, commit)) => format!("{branch}@{commit:.7} {}", text(&running["subject"])),
                None => "nothing yet".to_owned(),
            };
            let lane = text(&environment["spec"]["lane"]);
            let lane = if lane == "-" { text(&environment["lane"]) } else { lane };
            say(&format!(
                "   {name:<9} {lane:<9} {:<11} {:<12} {revision}",
                text(&status["state"]),
                text(&status["health"])
            ));
        }
        Ok(())
    }

    async fn environment(&self, name: &str) -> Result<Value> {
        let url = format!("{}/api/v1/environments/{name}", self.page);
        let answer = self.client.get(url).bearer_auth(&self.token).send().await?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }

    async fn sync(&self, name: &str) -> Result<Value> {
        let url = format!("{}/api/v1/environments/{name}/sync?wait=60s", self.page);
        let answer = self.client.post(url).bearer_auth(&self.token).send().await?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }

    /// Waits until an environment runs the head of a branch and is healthy.
    async fn runs(&self, name: &str, branch: &str) -> Result<()> {
        let head = self.deploy.head(branch);
        let deadline = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        while Instant::now() < deadline {
            if let Ok(environment) = self.environment(name).await {
                let status = &environment["status"];
                let runs_it =
                    status["running"]["revision"].as_str().is_some_and(|text| text.ends_with(&head.to_string()));
                if runs_it && status["state"] == "Synced" && status["health"] == "Healthy" {
                    return Ok(());
                }
                last = environment;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default();
        bail!("{name} does not run {branch}@{head}: {last:#}\n{log}")
    }

    fn runs_image(&self, namespace: &str, deployment: &str, image: &str) -> Result<()> {
        let path = "jsonpath={.spec.template.spec.containers[0].image}";
        let found = self.kubectl(&["get", "deployment", deployment, "-n", namespace, "-o", path])?;
        ensure!(found == image, "{deployment} runs {found}, not {image}");
        Ok(())
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Demo) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self)? {
            ensure!(Instant::now() < deadline, "it does not come to this: {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(&self.kubectl, &self.kubeconfig, arguments, None)
    }

    fn apply(&self, object: &Value) -> Result<()> {
        run(&self.kubectl, &self.kubeconfig, &["apply", "--server-side", "-f", "-"], Some(&object.to_string()))
            .map(drop)
    }
}

fn run(kubectl: &Path, kubeconfig: &Path, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let mut command = Command::new(kubectl);
    command.arg(format!("--kubeconfig={}", kubeconfig.display())).args(arguments);
    support::process::output(command, input)
}

#[allow(clippy::print_stdout, reason = "this is what the program is for")]
fn say(text: &str) {
    println!("{text}");
}
