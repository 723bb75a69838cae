//! Components: submodules that move on their lanes, by themselves, by hand, and into a new release.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent;
use support::deploy_repo::DeployRepo;
use support::git_server::{Fault, GitServer, Purpose};
use support::world::{World, repository};
use towpath::resources::RepositoryStatus;
use towpath_core::revision::CommitId;

use crate::manifests::{deployment, image};

const PATIENCE: Duration = Duration::from_secs(30);

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
        let output = Command::new(agent::binary().unwrap())
            .args(arguments)
            .args(["--namespace", &self.world.namespace])
            .env("KUBECONFIG", self.world.plane.admin_kubeconfig())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
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
async fn a_move_that_somebody_reverted_is_not_made_again() {
    let mut shop = Shop::new("taken-back", "").await;
    shop.steward(&["master"]).await;
    shop.environment("taken-back", "master").await;
    shop.world.start_agent();
    shop.world.runs("taken-back", "master").await;
    let good = shop.pin("master");
    let bad = shop.web.commit("master", "Bad", &[("b", "1")]);
    shop.is_pinned("master", bad).await;
    shop.world.runs("taken-back", "master").await;
    let moved = shop.world.repo.head("master");
    shop.world.repo.revert("master", moved);
    // Somebody who had not pulled merges it, so that it is not on the line of first parents.
    let reverted = shop.world.repo.head("master");
    let before: CommitId = git(shop.world.repo.path(), &["rev-parse", "master~2"]).trim().parse().unwrap();
    shop.world.repo.force("own", before);
    shop.world.repo.commit("own", "Own work", &[("own.md", "own")]);
    shop.world.repo.force("theirs", reverted);
    let merged = shop.world.repo.merge("own", "theirs");
    shop.world.repo.force("master", merged);
    shop.world.runs("taken-back", "master").await;
    shop.runs_image(&format!("registry.example/web:v1.0-1-{}", good.short())).await;
    let is_told = |status: &RepositoryStatus| condition(status, "Bumped").is_some_and(|told| told.status == "False");
    let status = shop.repository_where("told", is_told).await;
    let said = &condition(&status, "Bumped").unwrap().message;
    assert!(said.contains(&format!("components/web: {} was taken back from master", bad.short())), "{said}");
    shop.world.kill_agent();
    shop.world.start_agent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shop.pin("master"), good);
    let better = shop.web.commit("master", "Better", &[("b", "2")]);
    shop.is_pinned("master", better).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_moves_back_or_aside_by_itself() {
    let mut shop = Shop::new("aside", "{{short}}").await;
    let fork = shop.web.branch("feature", "develop");
    let feature = shop.web.commit("feature", "A feature", &[("f", "1")]);
    shop.world.repo.submodule("master", "components/web", "../web.git", feature);
    shop.steward(&["master", "develop"]).await;
    shop.environment("aside", "master").await;
    shop.world.start_agent();
    shop.world.runs("aside", "master").await;
    // The pin is ahead of its branch: it stays.
    let status = shop.repository_where("read", |status| condition(status, "Bumped").is_some()).await;
    assert_eq!(condition(&status, "Bumped").unwrap().status, "True", "{status:#?}");
    // The branch goes another way: the pin is on none of it.
    shop.web.commit("master", "Another way", &[("m", "1")]);
    let is_told = |status: &RepositoryStatus| condition(status, "Bumped").is_some_and(|told| told.status == "False");
    let status = shop.repository_where("told", is_told).await;
    let said = &condition(&status, "Bumped").unwrap().message;
    assert!(said.contains("components/web") && said.contains("is not on its branch master"), "{said}");
    assert_eq!(shop.pin("master"), feature);
    // A branch that was rewound takes nothing back.
    shop.web.force("develop", fork);
    let before = shop.world.repo.head("develop");
    git(shop.web.path(), &["update-ref", "refs/heads/develop", "develop^"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shop.world.repo.head("develop"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_moved_by_hand_to_a_tag_and_not_outside_of_its_branch() {
    let mut shop = Shop::new("by-hand", "{{short}}").await;
    let feature = shop.web.branch("feature", "develop");
    let feature = {
        let _ = feature;
        shop.web.commit("feature", "A feature", &[("f", "1")])
    };
    shop.world.repository_with(json!({"interval": "2s", "steward": true})).await;
    shop.environment("by-hand", "master").await;
    shop.world.start_agent();
    shop.world.runs("by-hand", "master").await;
    let tagged: CommitId = git(shop.web.path(), &["rev-parse", "v1.0"]).trim().parse().unwrap();

    let (code, said, errors) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.0", "--dry-run"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.starts_with("components/web: "), "{said}");
    assert_ne!(shop.pin("master"), tagged);
    let (code, said, errors) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.0"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.starts_with("master moved to "), "{said}");
    assert_eq!(shop.pin("master"), tagged);
    let log = git(shop.world.repo.path(), &["log", "-1", "--format=%B", "master"]);
    assert!(log.contains("not forward") && log.contains("Requested-By: ") && log.contains("(unverified)"), "{log}");
    shop.world.runs("by-hand", "master").await;

    // Again changes nothing.
    let head = shop.world.repo.head("master");
    let (code, said, _) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.0"]);
    assert_eq!((code, said.starts_with("nothing to move")), (0, true), "{said}");
    assert_eq!(shop.world.repo.head("master"), head);
    for (arguments, wanted) in [
        (vec!["bump", "web", "--lane", "master", "--to", "v9.9"], "its tags are: v1.0"),
        (vec!["bump", "none", "--lane", "master"], "there are: components/web"),
        (vec!["bump", "web", "--lane", "elsewhere"], "followed are: master"),
        (vec!["bump", "web", "--lane", "master", "--to", &feature.to_string()], "is not on its branch master"),
        (vec!["bump", "web", "--lane", "master", "--to", &"ab".repeat(20)], "the server has no such commit"),
    ] {
        let (code, _, errors) = shop.towpath(&arguments);
        assert_eq!(code, 1, "{arguments:?}");
        assert!(errors.contains(wanted), "{arguments:?}: {errors}");
    }
    // A tag that was made this moment is known.
    shop.web.commit("master", "Work", &[("w", "1")]);
    shop.web.tag("v1.1", shop.web.head("master"));
    let (code, said, errors) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.1", "--dry-run"]);
    assert!(code == 0 && said.contains("to v1.1-0-"), "{said}{errors}");
    assert_eq!(shop.world.repo.head("master"), head);
    // All that can go forward.
    let (code, _, errors) = shop.towpath(&["bump", "--lane", "master"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(shop.pin("master"), shop.web.head("master"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_cut_in_every_component_first_and_goes_on_where_it_ended() {
    let mut shop = Shop::new("cut", "{{short}}").await;
    let api = component(&shop.world, "api");
    shop.world.repo.submodule("develop", "components/api", "../api.git", api.head("develop"));
    // Somebody has made the branch in one of them from elsewhere.
    api.branch("r1.3", "develop");
    git(api.path(), &["update-ref", "refs/heads/r1.3", "develop^"]);
    shop.world.repository_with(json!({"interval": "2s", "steward": true})).await;
    shop.environment("cut", "develop").await;
    shop.world.start_agent();
    shop.world.runs("cut", "develop").await;

    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3"]);
    assert_eq!(code, 1, "{said}");
    assert!(errors.contains("components/api: its branch r1.3 stands on"), "{errors}");
    assert!(errors.contains("the deploy repository: waits for the components"), "{errors}");
    assert_eq!(shop.web.try_head("r1.3"), Some(shop.web.head("develop")), "the other one is cut");
    assert_eq!(shop.world.repo.try_head("r1.3"), None);

    api.delete_branch("r1.3");
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3", "--dry-run"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("components/api: r1.3 and v1.3 would be made"), "{said}");
    assert_eq!(api.try_head("r1.3"), None);
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("components/web: r1.3 is there, v1.3 is there"), "{said}");
    for repo in [&shop.web, &api, &shop.world.repo] {
        assert_eq!(repo.try_head("r1.3"), Some(repo.head("develop")));
        assert_eq!(git(repo.path(), &["rev-parse", "v1.3"]).trim(), repo.head("develop").to_string());
    }
    let (code, _, errors) = shop.towpath(&["release", "cut", "1.4"]);
    assert!(code == 1 && errors.contains("write it as r1.3"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_elsewhere_is_read_only_where_that_is_allowed() {
    let mut shop = Shop::new("beyond", "{{short}}").await;
    // Beside the group that the deploy repository is in.
    shop.world.repo.submodule("master", "components/lib", "../../others/lib.git", shop.web.head("master"));
    let uses = crate::manifests::config_map("lib", "{{components.lib.version}}");
    shop.world.repo.commit("master", "Use it", &[("templates/lib.yaml.hbs", &uses)]);
    shop.world.repository_with(json!({"interval": "2s"})).await;
    shop.environment("beyond", "master").await;
    shop.world.start_agent();
    let is_refused = |problem: &String| problem.contains("components: [{prefix: ");
    let status = shop.world.status_where("beyond", "refused", |status| status.problems.iter().any(is_refused)).await;
    let said = status.problems.join("\n");
    let pinned = shop.web.head("master");
    assert!(said.contains(&format!("component components/lib (../../others/lib.git) at {pinned}")), "{said}");
    assert!(status.running.is_none());
    let told = shop.repository_where("told", |status| condition(status, "ComponentsRead").is_some()).await;
    assert!(condition(&told, "ComponentsRead").unwrap().message.contains("/others/lib.git may not be read"));
    assert_eq!(condition(&told, "Ready").unwrap().status, "True", "the deploy repository itself is well");
    // What nobody uses keeps nothing away.
    shop.world.repo.delete("master", "templates/lib.yaml.hbs");
    shop.world.runs("beyond", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_secret_is_shown_to_the_servers_that_it_is_for_and_a_new_address_is_followed() {
    let mut shop = Shop::new("mixed", "").await;
    let (deploy, folder) = (GitServer::start(shop.world.folder()), shop.world.folder().join("others"));
    let elsewhere = GitServer::start_tls(&folder, "good");
    deploy.require_login("deploy.git", "deployer", "for-deploy");
    deploy.require_login("web.git", "deployer", "for-deploy");
    elsewhere.require_login("lib.git", "reader", "for-libraries");
    let library = DeployRepo::new(folder.join("lib.git"));
    library.commit("develop", "A library", &[("lib.rs", "")]);
    library.tag("v3.1", library.head("develop"));
    library.branch("master", "develop");
    // A submodule of the component itself, which nobody can reach and nobody needs.
    shop.web.submodule("master", "vendored", "https://127.0.0.1:1/private/vendored.git", library.head("master"));
    shop.world.repo.submodule("master", "components/web", "../web.git", shop.web.head("master"));
    shop.world.repo.submodule("master", "components/lib", &elsewhere.url("lib.git"), library.head("master"));
    let uses = crate::manifests::config_map("lib", "{{components.lib.version}}");
    shop.world.repo.commit("master", "Use it", &[("templates/lib.yaml.hbs", &uses)]);
    secret(&shop.world, "own", json!({"username": "deployer", "password": "for-deploy"})).await;
    let libraries = json!({"username": "reader", "password": "expired", "ca.crt": GitServer::authority()});
    secret(&shop.world, "libraries", libraries).await;
    let prefix = elsewhere.url("lib.git").trim_end_matches("/lib.git").to_owned();
    let spec = json!({
        "url": deploy.url("deploy.git"), "interval": "2s", "secretRef": {"name": "own"},
        "components": [{"prefix": prefix, "secretRef": {"name": "libraries"}}],
    });
    shop.world.repository_with(spec).await;
    shop.environment("mixed", "master").await;
    shop.world.start_agent();
    let is_refused = |problem: &String| problem.contains("component components/lib (https://");
    let status = shop.world.status_where("mixed", "refused", |status| status.problems.iter().any(is_refused)).await;
    let said = status.problems.join("\n");
    assert!(said.contains(&library.head("master").to_string()) && !said.contains("expired\""), "{said}");

    // The credentials are mended while the agent runs.
    let libraries = json!({"username": "reader", "password": "for-libraries", "ca.crt": GitServer::authority()});
    secret(&shop.world, "libraries", libraries).await;
    shop.world.runs("mixed", "master").await;
    let lib = shop.world.get("v1", "ConfigMap", "lib").await.unwrap();
    assert_eq!(lib["data"]["key"], format!("v3.1-0-{}", library.head("master").short()));
    let shown = |server: &GitServer| -> Vec<String> {
        server.take_requests().into_iter().filter_map(|request| request.authorization).collect()
    };
    let basic = |text: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    };
    let (here, there) = (shown(&deploy), shown(&elsewhere));
    assert!(!here.is_empty() && here.iter().all(|shown| *shown == basic("deployer:for-deploy")), "{here:?}");
    assert!(!there.is_empty() && there.iter().all(|shown| shown.starts_with("Basic cmVhZGVy")), "{there:?}");

    // The address moves in a commit, within what is allowed.
    std::fs::rename(folder.join("lib.git"), folder.join("library.git")).unwrap();
    elsewhere.require_login("library.git", "reader", "for-libraries");
    let library = DeployRepo::open(folder.join("library.git"));
    let newer = library.commit("master", "Newer", &[("lib.rs", "//")]);
    let text = shop.world.repo.text("master", ".gitmodules").unwrap().replace("/lib.git", "/library.git");
    shop.world.repo.commit("master", "It has moved", &[(".gitmodules", &text)]);
    shop.world.repo.submodule("master", "components/lib", &elsewhere.url("library.git"), newer);
    shop.world.runs("mixed", "master").await;
    let lib = shop.world.get("v1", "ConfigMap", "lib").await.unwrap();
    assert_eq!(lib["data"]["key"], format!("v3.1-1-{}", newer.short()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_whose_server_is_silent_holds_nothing_else_up() {
    let mut shop = Shop::new("silent", "").await;
    let folder = shop.world.folder().join("others");
    let elsewhere = GitServer::start_tls(&folder, "good");
    let library = DeployRepo::new(folder.join("lib.git"));
    library.commit("master", "A library", &[("lib.rs", "")]);
    shop.world.repo.submodule("master", "components/lib", &elsewhere.url("lib.git"), library.head("master"));
    secret(&shop.world, "libraries", json!({"ca.crt": GitServer::authority()})).await;
    let prefix = elsewhere.url("lib.git").trim_end_matches("/lib.git").to_owned();
    let spec = json!({"interval": "2s", "components": [{"prefix": prefix, "secretRef": {"name": "libraries"}}]});
    shop.world.repository_with(spec).await;
    shop.environment("silent", "master").await;
    elsewhere.misbehave(Some(Fault::Silence));
    shop.world.start_agent();
    // Nobody uses the library, so nobody waits for it for long.
    shop.world.runs("silent", "master").await;
    let before = Instant::now();
    let fix = shop.web.commit("master", "A fix", &[("f", "1")]);
    shop.world.repo.submodule("master", "components/web", "../web.git", fix);
    shop.world.runs("silent", "master").await;
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    shop.runs_image(&format!("registry.example/web:v1.0-2-{}", fix.short())).await;
    elsewhere.misbehave(None);
    let is_read =
        |status: &RepositoryStatus| condition(status, "ComponentsRead").is_some_and(|told| told.status == "True");
    shop.repository_where("read", is_read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stewards_make_each_move_once() {
    let mut shop = Shop::new("stewards", "").await;
    shop.steward(&["master"]).await;
    shop.environment("stewards", "master").await;
    // Another cluster whose agent was made steward by mistake.
    let mut other = World::elsewhere("stewards-too").await;
    other.own_key("west").await;
    let bumps = json!([{"lane": "master", "bump": "Commit", "window": "1s"}]);
    let spec = json!({"url": shop.world.repo.url(), "interval": "2s", "steward": true, "bumps": bumps});
    other.repository_with(spec).await;
    shop.world.start_agent();
    other.start_agent();
    shop.world.runs("stewards", "master").await;
    let before = shop.subjects("master").len();
    for number in 1..=5 {
        let commit = shop.web.commit("master", "Work", &[("f", &number.to_string())]);
        shop.is_pinned("master", commit).await;
        assert_eq!(shop.subjects("master").len(), before + number, "{:?}", shop.subjects("master"));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shop.subjects("master").len(), before + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_and_pushes_whose_answers_are_lost_make_each_move_once() {
    let mut shop = Shop::new("bump-killed", "").await;
    let server = GitServer::start(shop.world.folder());
    let bumps = json!([{"lane": "master", "bump": "Commit", "window": "0s"}]);
    let spec = json!({"url": server.url("deploy.git"), "interval": "1s", "steward": true, "bumps": bumps});
    shop.world.repository_with(spec).await;
    shop.environment("bump-killed", "master").await;
    shop.world.start_agent();
    shop.world.runs("bump-killed", "master").await;
    let before = shop.subjects("master").len();
    // The commit may be made, written, pushed or seen when the agent ends.
    for number in 1..=6_u64 {
        let commit = shop.web.commit("master", "Work", &[("f", &number.to_string())]);
        tokio::time::sleep(Duration::from_millis(40 * number)).await;
        shop.world.kill_agent();
        shop.world.start_agent();
        shop.is_pinned("master", commit).await;
    }
    for fault in [Fault::CutReport(0), Fault::LatePush(Duration::from_millis(500)), Fault::PushStatus(503)] {
        server.misbehave(Some(fault));
        let commit = shop.web.commit("master", "More", &[("f", &shop.subjects("master").len().to_string())]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.misbehave(None);
        shop.is_pinned("master", commit).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let made = shop.subjects("master");
    assert_eq!(made.len(), before + 9, "{made:#?}");
    let pins =
        git(shop.world.repo.path(), &["log", "--format=", "--raw", "--no-abbrev", "master", "--", "components/web"]);
    let to: Vec<&str> = pins.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    let distinct: std::collections::BTreeSet<&&str> = to.iter().collect();
    assert_eq!((to.len(), distinct.len()), (10, 10), "{pins}");
    git(shop.world.repo.path(), &["fsck", "--strict"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_refuses_the_push_is_told_and_left_alone() {
    let mut shop = Shop::new("bump-refused", "").await;
    let server = GitServer::start(shop.world.folder());
    let hook = shop.world.repo.path().join("hooks/update");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho 'master is protected: open a merge request' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bumps = json!([{"lane": "master", "bump": "Commit", "window": "0s"}]);
    let spec = json!({"url": server.url("deploy.git"), "interval": "1s", "steward": true, "bumps": bumps});
    shop.world.repository_with(spec).await;
    shop.environment("bump-refused", "master").await;
    shop.world.start_agent();
    shop.world.runs("bump-refused", "master").await;
    let before = shop.world.repo.head("master");
    drop(server.take_requests());
    shop.web.commit("master", "Work", &[("f", "1")]);
    let is_told = |status: &RepositoryStatus| condition(status, "Bumped").is_some_and(|told| told.status == "False");
    let status = shop.repository_where("told", is_told).await;
    let said = &condition(&status, "Bumped").unwrap().message;
    assert!(said.contains("branch master") && said.contains("open a merge request"), "{said}");
    // It is not tried at each look: an interval is a tenth of a second here.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pushes = server.take_requests().iter().filter(|request| request.purpose == Purpose::Push).count();
    assert!(pushes <= 2, "{pushes} pushes");
    assert_eq!(shop.world.repo.head("master"), before);
    // Whoever lifts it need not say so: the next move is another push.
    std::fs::remove_file(&hook).unwrap();
    let newer = shop.web.commit("master", "More work", &[("f", "2")]);
    shop.is_pinned("master", newer).await;
}

async fn secret(world: &World, name: &str, data: Value) {
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": world.namespace},
            "stringData": data,
        }))
        .await;
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
