//! Going back while the git server is away.

use super::*;

/// A shop whose environment went back to the first release while git is away. Gives the port of the git server too.
async fn went_back_without_git(name: &str, more: &[&str]) -> (Shop, u16) {
    let mut shop = Shop::new(name).await;
    let server = GitServer::start(shop.world.folder());
    let port = server.port();
    shop.ran_a_bad_release(name, &server).await;
    drop(server);
    let is_away =
        |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("repository shop"));
    shop.world.status_where(name, "without git", is_away).await;
    shop.does(&[&["rollback", name, "--emergency", "-y"], more].concat());
    shop.runs_image("web:1").await;
    (shop, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_goes_back_while_git_is_away_and_the_revert_follows() {
    let mut shop = Shop::new("emergency").await;
    let server = GitServer::start(shop.world.folder());
    let port = server.port();
    let (first, bad) = shop.ran_a_bad_release("emergency", &server).await;
    drop(server);
    let is_away =
        |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("repository shop"));
    shop.world.status_where("emergency", "without git", is_away).await;

    let why = shop.fails(&["rollback", "emergency", "-y"]);
    assert!(why.contains("--emergency"), "{why}");
    let said = shop.does(&["rollback", "emergency", "--emergency", "-y", "--reason", "it burns"]);
    assert!(said.contains(&format!("emergency goes back to {} at once, and is held", first.short())), "{said}");
    assert!(said.contains("the git server is away"), "{said}");
    shop.runs_image("web:1").await;
    let status = shop.world.status("emergency").await;
    assert_eq!(phase(&status), Some(RollbackPhase::WaitsForGit));
    assert!(status.held.unwrap().contains("its revert waits for the git server"));
    // It is mended and stays there, also with another agent.
    shop.world.kill_agent();
    shop.world.start_agent();
    shop.world.patch("apps/v1", "Deployment", "web", json!({"spec": {"replicas": 5}})).await;
    shop.world.object_where("apps/v1", "Deployment", "web", "mended", |object| object["spec"]["replicas"] != 5).await;
    shop.runs_image("web:1").await;
    assert_eq!(shop.world.repo.head("master"), bad);

    let _server = GitServer::start_on(shop.world.folder(), port);
    let status = shop
        .world
        .status_where("emergency", "reverted in git too", |status| phase(status) == Some(RollbackPhase::Done))
        .await;
    assert_eq!(shop.subjects()[..2], ["Revert \"Bad\"", "Bad"]);
    let message = shop.git(&["log", "-1", "--format=%B", "master"]);
    assert!(message.contains("Reason: it burns"), "{message}");
    let _ = status;
    shop.world.runs("emergency", "master").await;
    shop.world.status_where("emergency", "no longer held", |status| status.held.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_mirror_is_gone_while_git_is_away_waits_and_pushes_the_revert_then() {
    let (mut shop, port) = went_back_without_git("empty-mirror", &[]).await;
    let bad = shop.world.repo.head("master");

    // Its Pod comes to another node.
    shop.world.kill_agent();
    std::fs::remove_dir_all(shop.world.folder().join("cache")).unwrap();
    shop.world.start_agent();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = shop.world.status("empty-mirror").await;
    assert_eq!(phase(&status), Some(RollbackPhase::WaitsForGit), "{status:#?}");
    assert_eq!(status.rolled_back[0].revert, None);

    let _server = GitServer::start_on(shop.world.folder(), port);
    shop.world.status_where("empty-mirror", "reverted", |status| phase(status) == Some(RollbackPhase::Done)).await;
    assert_eq!(shop.subjects()[..2], ["Revert \"Bad\"", "Bad"]);
    let status = shop.ran("empty-mirror", shop.world.repo.head("master")).await;
    shop.runs_image("web:1").await;
    assert_eq!(status.history.iter().filter(|sync| sync.revision.ends_with(&bad.to_string())).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_not_restored_over_commits_that_nobody_agreed_to_lose() {
    let (mut shop, port) = went_back_without_git("restore-later", &["--restore"]).await;
    // The agent comes to another node, and somebody pushes before it sees git again.
    shop.world.kill_agent();
    std::fs::remove_dir_all(shop.world.folder().join("cache")).unwrap();
    let theirs = shop.world.repo.commit("master", "Theirs", &[("notes.md", "of somebody else")]);
    let _server = GitServer::start_on(shop.world.folder(), port);
    shop.world.start_agent();
    let is_over = |status: &EnvironmentStatus| !status.rollback.as_ref().unwrap().phase.is_under_way();
    let status = shop.world.status_where("restore-later", "over", is_over).await;
    let lines = status.rollback.clone().unwrap().lines;
    assert_eq!(phase(&status), Some(RollbackPhase::Refused), "{lines:#?}");
    assert!(lines[1].contains("master has moved on, and would lose what came since"), "{lines:#?}");
    assert_eq!(shop.world.repo.head("master"), theirs);
    shop.world.status_where("restore-later", "held", |status| status.state == State::Held).await;
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_no_longer_fits_when_git_is_back_is_told_and_the_environment_stays_held() {
    let mut shop = Shop::new("no-fit").await;
    let server = GitServer::start(shop.world.folder());
    let port = server.port();
    let (first, bad) = shop.ran_a_bad_release("no-fit", &server).await;
    drop(server);
    let is_away =
        |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("repository shop"));
    shop.world.status_where("no-fit", "without git", is_away).await;
    shop.does(&["rollback", "no-fit", "--emergency", "-y"]);
    shop.runs_image("web:1").await;
    // Somebody changes the same line before the agent is there again.
    shop.commit("Another", "web:3");
    let _server = GitServer::start_on(shop.world.folder(), port);
    let status =
        shop.world.status_where("no-fit", "told", |status| phase(status) == Some(RollbackPhase::Refused)).await;
    let lines = status.rollback.unwrap().lines;
    assert!(lines[0].contains("its revert is not on the branch") && lines[1].contains("prod/web.yaml"), "{lines:#?}");
    let status = shop.world.status_where("no-fit", "held", |status| status.state == State::Held).await;
    assert!(status.running.unwrap().revision.ends_with(&first.to_string()));
    // A person who lets it go on says so.
    let said = shop.does(&["reland", "no-fit", &bad.short(), "-y"]);
    assert!(said.contains("no-fit"), "{said}");
    shop.runs_image("web:3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_push_when_git_is_back_is_told_that_and_not_that_git_is_away() {
    let (shop, port) = went_back_without_git("no-login-then", &[]).await;
    let server = GitServer::start_on(shop.world.folder(), port);
    server.require_login_to_push("deploy.git", "towpath", "secret");
    let is_told = |status: &EnvironmentStatus| {
        status.rollback.as_ref().is_some_and(|rollback| rollback.lines[0].starts_with("its reverts cannot be pushed"))
    };
    let status = shop.world.status_where("no-login-then", "told", is_told).await;
    assert_eq!(phase(&status), Some(RollbackPhase::Pushing));
    let is_told =
        |status: &EnvironmentStatus| status.held.as_ref().is_some_and(|held| held.contains("cannot be pushed"));
    shop.world.status_where("no-login-then", "held for that", is_told).await;
    server.let_everybody_push("deploy.git");
    let status =
        shop.world.status_where("no-login-then", "reverted", |status| phase(status) == Some(RollbackPhase::Done)).await;
    let lines = status.rollback.unwrap().lines;
    assert!(!lines.iter().any(|line| line.contains("cannot be pushed")), "{lines:#?}");
    assert_eq!(shop.subjects()[..2], ["Revert \"Bad\"", "Bad"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_gone_when_git_is_back_is_waited_for_by_its_name() {
    let (shop, port) = went_back_without_git("gone-lane", &[]).await;
    let bad = shop.world.repo.head("master");
    shop.world.repo.delete_branch("master");
    let _server = GitServer::start_on(shop.world.folder(), port);
    let is_told = |status: &EnvironmentStatus| {
        status.held.as_ref().is_some_and(|held| held.contains("branch master is no longer on the server"))
    };
    shop.world.status_where("gone-lane", "told", is_told).await;
    assert_eq!(shop.world.repo.try_head("master"), None, "nobody makes it again");
    shop.runs_image("web:1").await;
    shop.world.repo.force("master", bad);
    shop.world.status_where("gone-lane", "reverted", |status| phase(status) == Some(RollbackPhase::Done)).await;
    assert_eq!(shop.subjects()[..2], ["Revert \"Bad\"", "Bad"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_reads_at_once_why_a_rollback_was_not_done_although_the_environment_still_goes_somewhere() {
    let shop = Shop::new("told-at-once").await;
    shop.environment("told-at-once", &json!({})).await;
    // Nobody but this test plays the agent.
    let command = Command::new(agent::binary().unwrap())
        .args(["rollback", "told-at-once", "-n", "told-at-once", "--confirm", "d-1", "--timeout", "20s"])
        .env("KUBECONFIG", shop.world.plane.admin_kubeconfig())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let asked = |object: &Value| object["metadata"]["annotations"]["towpath.dev/rollback"].is_string();
    let kind = ("towpath.dev/v1alpha1", "Environment");
    let object = shop.world.object_where(kind.0, kind.1, "told-at-once", "asked", asked).await;
    let text = object["metadata"]["annotations"]["towpath.dev/rollback"].as_str().unwrap();
    let id = serde_json::from_str::<Value>(text).unwrap()["id"].clone();
    for (phase, line) in [("Pushing", "it begins"), ("Refused", "its revert is not on the branch:")] {
        let rollback = json!({
            "id": id, "phase": phase, "from": "master@sha1:02", "goesTo": "master@sha1:01", "lines": [line, "prod/web.yaml"],
        });
        let status = json!({"status": {"state": "Held", "rollback": rollback}});
        shop.world.patch_status(kind.0, kind.1, "told-at-once", status).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let output = tokio::task::spawn_blocking(|| command.wait_with_output()).await.unwrap().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(why.contains("its revert is not on the branch") && why.contains("prod/web.yaml"), "{why}");
    assert_eq!(output.status.code(), Some(1), "{why}");
}
