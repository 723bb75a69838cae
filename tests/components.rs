//! Components: submodules that move on their lanes, by themselves, by hand, and into a new release.

mod by_hand;
mod once;
mod servers;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent;
use support::deploy_repo::DeployRepo;
use support::git_server::{Fault, GitServer, Purpose};
use support::world::{PATIENCE, World, repository};
use towpath::resources::RepositoryStatus;
use towpath_core::revision::CommitId;

use crate::manifests::{deployment, image};

/// A shop with one component beside its deploy repository, both with the branches develop, r1.2 and master.
struct Shop {
    world: World,
    web: DeployRepo,
}

const DECLARED: &str = "components:\n  web:\n    path: components/web\n    image: registry.example/web\n";

impl Shop {
    /// `tag` is how `towpath.yaml` says that tags are made; by versions where it is empty.
    async fn new(name: &str, tag: &str) -> Shop {
        let mut world = World::new(name).await;
        world.own_key("east").await;
        let web = component(&world, "web");
        let declared = if tag.is_empty() { DECLARED.to_owned() } else { format!("{DECLARED}    tag: \"{tag}\"\n") };
        let template = deployment("web", "IMAGE").replace("IMAGE", "{{components.web.image}}");
        let files = [
            ("towpath.yaml", declared.as_str()),
            ("templates/web.yaml.hbs", template.as_str()),
            ("environments/all/values.yaml", "{}\n"),
        ];
        world.repo.commit("develop", "The shop", &files);
        world.repo.submodule("develop", "components/web", "../web.git", web.head("develop"));
        for branch in ["r1.2", "master"] {
            world.repo.branch(branch, "develop");
        }
        Shop { world, web }
    }

    /// Makes the Repository, in which the steward moves components on these lanes.
    async fn steward(&self, lanes: &[&str]) {
        let bumps: Vec<Value> =
            lanes.iter().map(|lane| json!({"lane": lane, "bump": "Commit", "window": "1s"})).collect();
        self.world.repository_with(json!({"interval": "2s", "steward": true, "bumps": bumps})).await;
    }

    async fn environment(&self, name: &str, lane: &str) {
        self.world.environment(name, json!({"lane": lane, "path": "environments/all"})).await;
    }

    /// The commit that a deploy branch pins the component to.
    fn pin(&self, branch: &str) -> CommitId {
        let git = self.world.repo.git();
        let tree = git.find_branch(branch, git2::BranchType::Local).unwrap().get().peel_to_tree().unwrap();
        let id = tree.get_path(std::path::Path::new("components/web")).unwrap().id();
        id.to_string().parse().unwrap()
    }

    /// Waits until a deploy branch pins the component to a commit.
    async fn is_pinned(&self, branch: &str, commit: CommitId) {
        let deadline = Instant::now() + PATIENCE;
        while self.pin(branch) != commit {
            let log = self.world.agent_log();
            assert!(Instant::now() < deadline, "{branch} pins {} and not {commit}\n{log}", self.pin(branch));
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn runs_image(&self, wanted: &str) {
        let is_it = |object: &Value| image(object) == wanted;
        self.world.object_where("apps/v1", "Deployment", "web", &format!("of {wanted}"), is_it).await;
    }

    /// Subjects of a deploy branch's commits, the newest first.
    fn subjects(&self, branch: &str) -> Vec<String> {
        git(self.world.repo.path(), &["log", "--format=%s", branch]).lines().map(str::to_owned).collect()
    }

    /// Runs the command line as the administrator. Gives its code, stdout and stderr.
    fn towpath(&self, arguments: &[&str]) -> (i32, String, String) {
        self.world.towpath(arguments)
    }

    async fn repository_where(&self, what: &str, is_so: impl Fn(&RepositoryStatus) -> bool) -> RepositoryStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = repository(&self.world, "shop").await.status.unwrap_or_default();
            if is_so(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "not {what}: {status:#?}\n{}", self.world.agent_log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A component's repository beside the deploy repository, with a tag v1.0 and one commit after it.
fn component(world: &World, name: &str) -> DeployRepo {
    let repo = DeployRepo::new(world.folder().join(format!("{name}.git")));
    repo.commit("develop", "The first", &[("main.rs", "fn main() {}\n")]);
    repo.tag("v1.0", repo.head("develop"));
    repo.commit("develop", "The second", &[("main.rs", "fn main() { run() }\n")]);
    for branch in ["r1.2", "master"] {
        repo.branch(branch, "develop");
    }
    repo
}

fn git(repository: &std::path::Path, arguments: &[&str]) -> String {
    let output = support::git_server::git(repository).arg("-C").arg(repository).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn condition<'a>(status: &'a RepositoryStatus, type_: &str) -> Option<&'a towpath_core::status::Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_a_component_is_pinned_on_its_lane_and_runs() {
    let mut shop = Shop::new("bumped", "").await;
    shop.steward(&["release", "develop"]).await;
    shop.environment("bumped", "release").await;
    shop.world.start_agent();
    shop.world.runs("bumped", "r1.2").await;
    let before = shop.world.repo.head("r1.2");
    shop.runs_image(&format!("registry.example/web:v1.0-1-{}", shop.web.head("r1.2").short())).await;

    let fix = shop.web.commit("r1.2", "Faster", &[("main.rs", "fn main() { sprint() }\n")]);
    shop.is_pinned("r1.2", fix).await;
    shop.runs_image(&format!("registry.example/web:v1.0-2-{}", fix.short())).await;
    shop.world.runs("bumped", "r1.2").await;
    let log = git(shop.world.repo.path(), &["log", "-1", "--format=%B", "r1.2"]);
    assert!(
        log.contains("* components/web v1.0-1-")
            && log.contains("(1 commit)\n  Faster\n")
            && log.contains("Towpath-Bump: east"),
        "{log}"
    );
    assert_eq!(git(shop.world.repo.path(), &["rev-parse", "r1.2^"]).trim(), before.to_string());
    // The other lanes stay where they are, and a bump makes no other bump.
    assert_eq!(shop.pin("develop"), shop.web.head("develop"));
    let head = shop.world.repo.head("r1.2");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shop.world.repo.head("r1.2"), head);
    assert_eq!(shop.subjects("r1.2").len(), 3, "{:?}", shop.subjects("r1.2"));

    // develop follows too although no environment does; master is not asked for.
    let work = shop.web.commit("develop", "Work", &[("main.rs", "fn main() { work() }\n")]);
    shop.web.commit("master", "Mend", &[("main.rs", "fn main() { mend() }\n")]);
    shop.is_pinned("develop", work).await;
    assert_eq!(shop.subjects("master").len(), 2);
    let status = shop.repository_where("told", |status| status.bumps.len() == 2).await;
    assert!(status.bumps[0].starts_with("develop@"), "{:?}", status.bumps);
    assert_eq!(condition(&status, "Bumped").unwrap().status, "True");
    git(shop.world.repo.path(), &["fsck", "--strict"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_keeps_its_version_and_what_has_none_does_not_run() {
    let mut shop = Shop::new("versions", "").await;
    git(shop.web.path(), &["tag", "-d", "v1.0"]);
    shop.steward(&["master"]).await;
    shop.environment("versions", "master").await;
    shop.world.start_agent();
    let is_lacking =
        |problem: &String| problem.contains("component components/web (../web.git)") && problem.contains("vX.Y");
    let status = shop.world.status_where("versions", "lacking", |status| status.problems.iter().any(is_lacking)).await;
    assert!(status.running.is_none(), "nothing is invented");

    let head = shop.web.head("master");
    shop.web.tag("v1.1", head);
    shop.world.runs("versions", "master").await;
    let image = format!("registry.example/web:v1.1-0-{}", head.short());
    shop.runs_image(&image).await;
    let status = shop.world.status("versions").await;
    assert_eq!(status.components[0].version.as_deref(), Some(&*format!("v1.1-0-{}", head.short())));

    // A tag that is made later releases nothing, not even with the next commit of the deploy repository.
    shop.web.tag("v2.0", head);
    shop.world.repo.commit("master", "Unrelated", &[("environments/all/values.yaml", "a: 1\n")]);
    shop.world.runs("versions", "master").await;
    shop.runs_image(&image).await;
    // What runs is mended also by an agent that knows nothing and cannot ask the component's server.
    shop.world.kill_agent();
    std::fs::rename(shop.web.path(), shop.world.folder().join("gone.git")).unwrap();
    std::fs::remove_dir_all(shop.world.folder().join("cache")).unwrap();
    shop.world.start_agent();
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "drifted"}]}}}});
    shop.world.patch("apps/v1", "Deployment", "web", patch).await;
    shop.runs_image(&image).await;
    std::fs::rename(shop.world.folder().join("gone.git"), shop.web.path()).unwrap();
    let fix = shop.web.commit("master", "A fix", &[("f", "1")]);
    shop.is_pinned("master", fix).await;
    shop.runs_image(&format!("registry.example/web:v2.0-1-{}", fix.short())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_without_versions_is_mended_too_while_its_server_is_away() {
    let mut shop = Shop::new("by-time", "{{time}}").await;
    git(shop.web.path(), &["tag", "-d", "v1.0"]);
    shop.world.repository_with(json!({"interval": "2s"})).await;
    shop.environment("by-time", "master").await;
    shop.world.start_agent();
    shop.world.runs("by-time", "master").await;
    let image = "registry.example/web:2026-01-05-09-01";
    shop.runs_image(image).await;
    shop.world.kill_agent();
    std::fs::rename(shop.web.path(), shop.world.folder().join("gone.git")).unwrap();
    std::fs::remove_dir_all(shop.world.folder().join("cache")).unwrap();
    shop.world.start_agent();
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "drifted"}]}}}});
    shop.world.patch("apps/v1", "Deployment", "web", patch).await;
    shop.runs_image(image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_moves_within_the_window_are_one_commit_and_one_push() {
    let mut shop = Shop::new("gathered", "{{short}}").await;
    let api = component(&shop.world, "api");
    shop.world.repo.submodule("master", "components/api", "../api.git", api.head("master"));
    let server = GitServer::start(shop.world.folder());
    // Gathered for 2 s: the window is 20 s, and time runs ten times as fast.
    let bumps = json!([{"lane": "master", "bump": "Commit", "window": "20s"}]);
    let spec = json!({"url": server.url("deploy.git"), "interval": "2s", "steward": true, "bumps": bumps});
    shop.world.repository_with(spec).await;
    shop.environment("gathered", "master").await;
    shop.world.start_agent();
    shop.world.runs("gathered", "master").await;
    drop(server.take_requests());
    let commits = shop.subjects("master").len();
    shop.web.commit("master", "One", &[("a", "1")]);
    let second = shop.web.commit("master", "Two", &[("a", "2")]);
    let other = api.commit("master", "Three", &[("a", "3")]);
    shop.is_pinned("master", second).await;
    assert_eq!(shop.subjects("master").len(), commits + 1);
    assert_eq!(shop.subjects("master")[0], "components: move api, web");
    let tree = git(shop.world.repo.path(), &["ls-tree", "master", "components/"]);
    assert!(tree.contains(&other.to_string()), "{tree}");
    let pushes = server.take_requests().iter().filter(|request| request.purpose == Purpose::Push).count();
    assert_eq!(pushes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way_from_a_commit_in_a_component_to_a_new_release() {
    let mut shop = Shop::new("whole-way", "").await;
    let server = GitServer::start(shop.world.folder());
    for name in ["deploy.git", "web.git"] {
        server.require_login(name, "towpath", "reads");
        server.require_login_to_push(name, "towpath", "writes");
    }
    secret(&shop.world, "reads", json!({"username": "towpath", "password": "reads"})).await;
    secret(&shop.world, "writes", json!({"username": "towpath", "password": "writes"})).await;
    let lanes = ["develop", "release", "master"];
    let bumps: Vec<Value> = lanes.iter().map(|lane| json!({"lane": lane, "bump": "Commit", "window": "1s"})).collect();
    let spec = json!({
        "url": server.url("deploy.git"), "interval": "2s", "steward": true, "bumps": bumps,
        "secretRef": {"name": "reads"}, "writeSecretRef": {"name": "writes"},
    });
    shop.world.repository_with(spec).await;
    for (name, lane) in [("dev", "develop"), ("test", "release"), ("staging", "master")] {
        let namespace = format!("whole-way-{name}");
        shop.world.namespace_for_deployer(&namespace).await;
        let spec = json!({"lane": lane, "path": "environments/all", "namespace": namespace});
        shop.world.environment(&namespace, spec).await;
    }
    let token = shop.world.folder().join("token");
    std::fs::write(&token, "a-token-for-the-test\n").unwrap();
    shop.world.listen();
    shop.world.start_options().arguments.extend(["--token-file".into(), token.display().to_string()]);
    shop.world.start_agent();
    let environments = [("whole-way-dev", "develop"), ("whole-way-test", "r1.2"), ("whole-way-staging", "master")];
    for (environment, branch) in environments {
        shop.world.runs(environment, branch).await;
    }
    for (environment, branch) in environments {
        let commit = shop.web.commit(branch, &format!("Work on {branch}"), &[("w", branch)]);
        shop.is_pinned(branch, commit).await;
        shop.world.runs(environment, branch).await;
        let live = shop.world.get_in(environment, "apps/v1", "Deployment", "web").await.unwrap();
        assert_eq!(image(&live), format!("registry.example/web:v1.0-2-{}", commit.short()));
    }
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3"]);
    assert_eq!(code, 0, "{said}{errors}");
    shop.world.runs("whole-way-test", "r1.3").await;
    // The tag is on the commit that runs: what was cut is a version of the new release, for dev too once it moves.
    let head = shop.web.head("r1.3");
    let live = shop.world.get_in("whole-way-test", "apps/v1", "Deployment", "web").await.unwrap();
    assert_eq!(image(&live), format!("registry.example/web:v1.3-0-{}", head.short()));
    let fix = shop.web.commit("r1.3", "Fix the release", &[("f", "1")]);
    shop.is_pinned("r1.3", fix).await;
    shop.world.runs("whole-way-test", "r1.3").await;

    let asked = |arguments: &[&str]| -> Value {
        let output = Command::new(agent::binary().unwrap())
            .args(arguments)
            .args(["-o", "json"])
            .env("TOWPATH_AGENT", format!("http://127.0.0.1:{}", shop.world.port()))
            .env("TOWPATH_TOKEN_FILE", &token)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let matrix = asked(&["components"]).to_string();
    for branch in ["develop", "r1.3", "master"] {
        assert!(matrix.contains(&shop.web.head(branch).to_string()), "{branch}: {matrix}");
    }
    assert!(matrix.contains(&format!("v1.3-1-{}", fix.short())), "{matrix}");
    // The deploy repository has a version too.
    let deploy = shop.world.repo.head("r1.3");
    assert!(matrix.contains(&format!("v1.3-1-{}", deploy.short())), "{matrix}");
    let changelog = asked(&["changelog", "whole-way-staging..whole-way-test"]).to_string();
    for subject in ["Fix the release", "Work on develop", "Work on master"] {
        assert!(changelog.contains(subject), "{changelog}");
    }
}

async fn secret(world: &World, name: &str, data: Value) {
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": world.namespace},
            "stringData": data,
        }))
        .await;
}
