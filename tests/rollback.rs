//! Rollbacks: what ran before comes back by reverts in git, and what was rolled back does not.

mod again;
mod by_itself;
mod canary;
mod components;
mod doubts;
mod emergency;
mod lane;
mod marks;
mod pushing;
mod staged;
mod web;

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::agent;
use support::git_server::GitServer;
use support::world::World;
use towpath_core::revision::CommitId;
use towpath_core::status::{EnvironmentStatus, RollbackPhase, State, Trigger};

use crate::manifests::{deployment, image};

/// A shop whose master has had some releases.
pub struct Shop {
    pub world: World,
}

impl Shop {
    /// With a master on which the first release stands, of the image `web:1`.
    pub async fn new(name: &str) -> Shop {
        Shop::of(World::new(name).await).await
    }

    /// The same in a world that is there.
    async fn of(mut world: World) -> Shop {
        world.own_key("east").await;
        let shop = Shop { world };
        shop.commit("The first release", "web:1");
        shop
    }

    async fn begin(&mut self, environments: &[(&str, Value)]) {
        self.begin_with(json!({"interval": "2s"}), environments).await;
    }

    pub async fn begin_with(&mut self, repository: Value, environments: &[(&str, Value)]) {
        self.world.repository_with(repository).await;
        for (name, more) in environments {
            self.environment(name, more).await;
        }
        self.world.start_agent();
    }

    /// The same with a git server, with one environment that ran the first release and then a bad one. Gives the two.
    async fn ran_a_bad_release(&mut self, name: &str, server: &GitServer) -> (CommitId, CommitId) {
        let first = self.world.repo.head("master");
        let repository = json!({"url": server.url("deploy.git"), "interval": "2s"});
        self.begin_with(repository, &[(name, json!({}))]).await;
        self.ran(name, first).await;
        let bad = self.commit("Bad", "web:2");
        self.ran(name, bad).await;
        (first, bad)
    }

    async fn environment(&self, name: &str, more: &Value) {
        let mut spec = json!({"lane": "master", "path": "prod", "namespace": self.world.namespace});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.world.environment(name, spec).await;
    }

    pub fn commit(&self, message: &str, image: &str) -> CommitId {
        self.world.repo.commit("master", message, &[("prod/web.yaml", &deployment("web", image))])
    }

    /// Waits until an Environment runs a commit and was seen healthy with it.
    pub async fn ran(&self, name: &str, commit: CommitId) -> EnvironmentStatus {
        let is_it = |status: &EnvironmentStatus| {
            let last = status.history.first().filter(|sync| sync.revision.ends_with(&commit.to_string()));
            last.is_some_and(|sync| sync.health.as_ref().is_some_and(|health| health.is_healthy))
        };
        self.world.status_where(name, &format!("healthy on {commit}"), is_it).await
    }

    async fn runs_image(&self, wanted: &str) {
        let is_it = |object: &Value| image(object) == wanted;
        self.world.object_where("apps/v1", "Deployment", "web", &format!("of {wanted}"), is_it).await;
    }

    /// Runs the command line as the administrator. Gives its code, stdout and stderr.
    fn towpath(&self, arguments: &[&str]) -> (i32, String, String) {
        self.world.towpath(arguments)
    }

    /// Runs the command line, which must succeed.
    fn does(&self, arguments: &[&str]) -> String {
        let (code, said, errors) = self.towpath(arguments);
        assert_eq!(code, 0, "{arguments:?}\n{said}{errors}\n{}", self.world.agent_log());
        said
    }

    /// Runs the command line, which must fail. Gives why.
    fn fails(&self, arguments: &[&str]) -> String {
        let (code, said, errors) = self.towpath(arguments);
        assert_eq!(code, 1, "{arguments:?}\n{said}{errors}");
        errors
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let folder = self.world.repo.path();
        let output = support::git_server::git(folder).arg("-C").arg(folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The subjects of the branch, the newest first.
    pub fn subjects(&self) -> Vec<String> {
        self.git(&["log", "--first-parent", "--format=%s", "master"]).lines().map(str::to_owned).collect()
    }

    fn tree(&self, revision: &str) -> String {
        self.git(&["rev-parse", &format!("{revision}^{{tree}}")]).trim().to_owned()
    }
}

/// A hook of a bare repository, as a shell script.
fn hook(shop: &Shop, name: &str, script: &str) -> std::path::PathBuf {
    let hook = shop.world.repo.path().join("hooks").join(name);
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    hook
}

/// Whether nothing is kept away for want of a revert.
fn is_settled(status: &EnvironmentStatus) -> bool {
    status.held.is_none() && status.rolled_back.iter().all(|one| one.revert.is_some())
}

/// A ConfigMap with one value.
fn config(name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}}).to_string()
}

/// Whether an environment is held on a commit.
fn is_held_on(commit: CommitId) -> impl Fn(&EnvironmentStatus) -> bool {
    move |status| status.state == State::Held && status.running_commit() == Some(commit)
}

pub fn phase(status: &EnvironmentStatus) -> Option<RollbackPhase> {
    status.rollback.as_ref().map(|rollback| rollback.phase)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_before_comes_back_by_a_revert_and_automatic_sync_stays_on() {
    let mut shop = Shop::new("rolled").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("rolled", json!({}))]).await;
    shop.ran("rolled", first).await;
    let bad = shop.commit("The second release", "web:2");
    shop.ran("rolled", bad).await;

    let said = shop.does(&["rollback", "rolled", "--dry-run"]);
    assert!(said.contains("back to") && said.contains("The first release"), "{said}");
    assert!(said.contains("rolled goes to the revert: 1 object changes"), "{said}");
    assert!(said.contains("image: web:2 → web:1"), "{said}");
    assert_eq!(shop.world.repo.head("master"), bad, "nothing was done");

    let why = shop.fails(&["rollback", "rolled"]);
    assert!(why.contains("nobody to ask"), "{why}");
    let said = shop.does(&["rollback", "rolled", "-y", "--reason", "too slow"]);
    assert!(said.contains("rolled runs master@"), "{said}");
    shop.runs_image("web:1").await;
    let head = shop.world.repo.head("master");
    assert_eq!(shop.subjects(), ["Revert \"The second release\"", "The second release", "The first release"]);
    assert_eq!(shop.tree("master"), shop.tree(&first.to_string()));
    let message = shop.git(&["log", "-1", "--format=%B", "master"]);
    assert!(message.contains(&format!("This reverts commit {bad}.")), "{message}");
    for line in ["Towpath-Revert: east", "Environment: rolled", "Reason: too slow", "Request: "] {
        assert!(message.contains(line), "{message}");
    }
    let status = shop.world.runs("rolled", "master").await;
    assert_eq!((phase(&status), status.held.as_ref()), (Some(RollbackPhase::Done), None));
    assert_eq!(status.history[0].trigger, Trigger::Rollback);
    assert_eq!(status.history[0].request, status.rollback.as_ref().map(|rollback| rollback.id.clone()));

    // What was rolled back is no release to go back to, and asking again is no second rollback.
    let why = shop.fails(&["rollback", "rolled", "--dry-run"]);
    assert!(why.contains(&format!("runs what a rollback came to: {}", head.short())), "{why}");
    // Automatic sync goes on.
    let third = shop.commit("The third release", "web:3");
    shop.ran("rolled", third).await;
    let said = shop.does(&["rollback", "rolled", "--dry-run"]);
    assert!(said.contains(&format!("back to {}", head.short())), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_behind_its_lane_goes_back_at_once_and_is_held_until_the_lane_is_without_it() {
    let mut shop = Shop::new("behind").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("behind", json!({"sync": "Manual"}))]).await;
    shop.world.request_sync("behind", "r-1").await;
    shop.ran("behind", first).await;
    let bad = shop.world.repo.commit("master", "Bad", &[("prod/web.yaml", &deployment("web", "web:bad"))]);
    shop.world.status_where("behind", "offered it", |status| status.candidate.is_some()).await;
    shop.world.request_sync("behind", "r-2").await;
    shop.ran("behind", bad).await;
    // Two tickets that it does not run.
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}).to_string();
    shop.world.repo.commit("master", "Untested", &[("prod/other.yaml", &other)]);
    let later = shop.world.repo.commit("master", "Untested too", &[("prod/more.txt", "x")]);
    shop.world
        .status_where("behind", "offered more", |status| {
            status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&later.to_string()))
        })
        .await;

    let said = shop.does(&["rollback", "behind", "-y"]);
    assert!(said.contains("master has moved on by 2 commits that behind does not run"), "{said}");
    assert!(said.contains(&format!("behind goes back to {} at once, and is held", first.short())), "{said}");
    shop.runs_image("web:1").await;
    assert!(shop.world.get("v1", "ConfigMap", "other").await.is_none(), "nothing untested reaches it");
    assert_eq!(shop.subjects()[0], "Revert \"Bad\"");
    let status = shop
        .world
        .status_where("behind", "waiting for a request", |status| {
            status.candidate.is_some() && status.state == State::OutOfSync
        })
        .await;
    assert!(status.running.unwrap().revision.ends_with(&first.to_string()));
    assert_eq!(phase(&shop.world.status("behind").await), Some(RollbackPhase::Done));
    // The next release has the revert.
    shop.world.request_sync("behind", "r-3").await;
    shop.ran("behind", shop.world.repo.head("master")).await;
    shop.runs_image("web:1").await;
    assert!(shop.world.get("v1", "ConfigMap", "other").await.is_some());
    let status = shop.world.status_where("behind", "settled", is_settled).await;
    assert_eq!(status.state, State::Synced);
}
