//! Rollbacks that nobody asked for.

use jiff::Timestamp;
use support::alertmanager::{Access, Alertmanager};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_does_not_become_healthy_goes_back_by_itself_once_and_what_is_behind_it_is_left_alone() {
    let mut shop = Shop::new("by-itself").await;
    let first = shop.world.repo.head("master");
    let rules = json!({"automatic": ["Degraded"]});
    let staging = json!({"timeout": "10s", "rollback": rules, "namespace": "by-itself"});
    shop.world.namespace_for_deployer("by-itself-prod").await;
    let prod = json!({"sync": "Manual", "namespace": "by-itself-prod", "allow": {"namespaces": ["by-itself-prod"]}});
    shop.begin_with(json!({"interval": "2s", "ledger": {}}), &[("by-itself", staging), ("by-itself-prod", prod)]).await;
    shop.world.request_sync("by-itself-prod", "r-1").await;
    shop.ran("by-itself", first).await;
    shop.ran("by-itself-prod", first).await;
    let good = shop.commit("The second release", "web:2");
    shop.ran("by-itself", good).await;

    let bad = shop.commit("A bad image", "web:3-crash");
    let status = shop
        .world
        .status_where("by-itself", "back by itself", |status| {
            phase(status) == Some(RollbackPhase::Done)
                && status.state == State::Synced
                && status.health == Some(towpath_core::health::Health::Healthy)
        })
        .await;
    shop.runs_image("web:2").await;
    assert_eq!(shop.subjects()[..2], ["Revert \"A bad image\"", "A bad image"]);
    assert_eq!(shop.tree("master"), shop.tree(&good.to_string()));
    assert_eq!(status.tried, [bad.to_string()]);
    let message = shop.git(&["log", "-1", "--format=%B", "master"]);
    assert!(message.contains("Reason: it did not become healthy in time"), "{message}");
    // Nobody has asked for anything in prod.
    let prod = shop.world.status("by-itself-prod").await;
    assert!(prod.running.unwrap().revision.ends_with(&first.to_string()));
    assert_eq!(prod.rollback, None);
    // A revert is never taken back by itself, and the same commit not twice.
    let head = shop.world.repo.head("master");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(shop.world.repo.head("master"), head);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_went_back_and_cannot_be_pushed_stays_there_whatever_comes_to_the_branch() {
    let mut shop = Shop::new("stays-back").await;
    let server = GitServer::start(shop.world.folder());
    let first = shop.world.repo.head("master");
    let rules = json!({"automatic": ["Degraded"]});
    let url = server.url("deploy.git");
    let spec = json!({"timeout": "10s", "rollback": rules});
    shop.begin_with(json!({"url": url, "interval": "2s"}), &[("stays-back", spec)]).await;
    shop.ran("stays-back", first).await;
    hook(&shop, "update", "echo 'nobody may push' >&2; exit 1");
    shop.commit("A bad image", "web:2-crash");
    shop.world.status_where("stays-back", "back, and held", is_held_on(first)).await;
    let text = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "beside"}}).to_string();
    shop.world.repo.commit("master", "Beside", &[("prod/beside.yaml", &text)]);
    let is_told = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::Refused);
    let status = shop.world.status_where("stays-back", "told that a person must see to it", is_told).await;
    let lines = status.rollback.unwrap().lines;
    assert!(lines.iter().any(|line| line.contains("has something newer")), "{lines:#?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(is_held_on(first)(&shop.world.status("stays-back").await));
    assert!(shop.world.get("v1", "ConfigMap", "beside").await.is_none());
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_rule_a_rollback_is_made_ready_and_waits_for_a_person() {
    let mut shop = Shop::new("made-ready").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("made-ready", json!({"timeout": "10s"}))]).await;
    shop.ran("made-ready", first).await;
    let bad = shop.commit("A bad image", "web:2-crash");
    let status = shop.world.status_where("made-ready", "offered a rollback", |status| status.prepared.is_some()).await;
    let prepared = status.prepared.unwrap();
    assert_eq!(prepared.phase, RollbackPhase::Prepared);
    assert!(prepared.lines[0].contains("did not become healthy in time"), "{prepared:#?}");
    assert!(prepared.lines[2].contains("towpath rollback made-ready -n made-ready --confirm "), "{prepared:#?}");
    assert_eq!(shop.world.repo.head("master"), bad);
    let digest = prepared.digest.unwrap();
    assert!(prepared.lines.iter().any(|line| line.contains(&format!("--confirm {digest}"))), "{:#?}", prepared.lines);
    let said = shop.does(&["rollback", "made-ready", "--confirm", &digest]);
    assert!(said.contains("made-ready runs master@"), "{said}");
    shop.runs_image("web:1").await;
    // The revert of a revert is nothing that is done by itself either.
    let revert = shop.world.repo.head("master");
    assert_eq!(shop.subjects()[0], "Revert \"A bad image\"");
    shop.ran("made-ready", revert).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_begins_after_a_release_takes_it_back_and_an_older_one_does_not() {
    let mut shop = Shop::new("alerted").await;
    let mut alertmanager = Alertmanager::start(&shop.world.folder(), Access::Open).await.unwrap();
    let before = Timestamp::now() - jiff::SignedDuration::from_secs(60);
    let old = json!({"alertname": "Old", "namespace": "alerted"});
    alertmanager.fire(old, json!({}), before).await;
    let first = shop.world.repo.head("master");
    let rules = json!({
        "automatic": ["Alert"], "soak": "10m",
        "alerts": {"url": alertmanager.url(), "filter": ["namespace=\"alerted\""]},
    });
    shop.begin(&[("alerted", json!({"rollback": rules}))]).await;
    shop.ran("alerted", first).await;
    let bad = shop.commit("Too slow", "web:2");
    shop.ran("alerted", bad).await;
    // An Alertmanager that does not answer is no reason.
    alertmanager.go_away();
    shop.world
        .status_where("alerted", "told that alerts are not known", |status| {
            status.warnings.iter().any(|warning| warning.contains("alerts are not known"))
        })
        .await;
    assert_eq!(shop.world.repo.head("master"), bad);
    alertmanager.come_back().await.unwrap();
    let other = json!({"alertname": "Slow", "namespace": "elsewhere"});
    alertmanager.fire(other, json!({}), Timestamp::now()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(shop.world.repo.head("master"), bad, "that is another one's alert");
    let slow = json!({"alertname": "Slow", "namespace": "alerted"});
    alertmanager.fire(slow, json!({"summary": "p99 is 4 s"}), Timestamp::now()).await;
    shop.runs_image("web:1").await;
    let status = shop.world.status_where("alerted", "over", |status| phase(status) == Some(RollbackPhase::Done)).await;
    let reason = status.rollback.unwrap().reason.unwrap();
    assert!(reason.contains("Slow") && reason.contains("p99 is 4 s"), "{reason}");
    shop.ran("alerted", shop.world.repo.head("master")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_release_from_going_back_by_itself_is_told_and_it_goes_back_once_that_is_over() {
    let mut shop = Shop::new("kept-back").await;
    let alertmanager = Alertmanager::start(&shop.world.folder(), Access::Open).await.unwrap();
    let server = GitServer::start(shop.world.folder());
    let (url, port) = (server.url("deploy.git"), server.port());
    let first = shop.world.repo.head("master");
    let alerts = json!({"url": alertmanager.url(), "filter": ["namespace=\"kept-back\""]});
    let spec = json!({"rollback": {"automatic": ["Alert"], "alerts": alerts}});
    shop.begin_with(json!({"url": url, "interval": "2s"}), &[("kept-back", spec)]).await;
    shop.ran("kept-back", first).await;
    let bad = shop.commit("Too slow", "web:2");
    shop.ran("kept-back", bad).await;
    drop(server);
    let is_away =
        |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("repository shop"));
    shop.world.status_where("kept-back", "without git", is_away).await;
    alertmanager.fire(json!({"alertname": "Slow", "namespace": "kept-back"}), json!({}), Timestamp::now()).await;
    let is_told = |status: &EnvironmentStatus| status.prepared.is_some();
    let status = shop.world.status_where("kept-back", "told what keeps it", is_told).await;
    let told = status.prepared.unwrap();
    assert_eq!(told.phase, RollbackPhase::Refused);
    assert!(told.lines[0].contains("yet, which is tried again"), "{:#?}", told.lines);
    assert!(told.lines[1].contains("towpath rollback kept-back -n kept-back --emergency"), "{:#?}", told.lines);
    assert!(!status.answered.contains(&told.id), "it is not given up");
    let events = shop.world.plane.kubectl(&["get", "events", "-n", "kept-back", "-o", "jsonpath={.items[*].reason}"]);
    let events = events.unwrap();
    assert_eq!(events.split_whitespace().filter(|reason| *reason == "RollbackWaits").count(), 1, "{events}");

    let _server = GitServer::start_on(shop.world.folder(), port);
    let is_back = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::Done);
    let status = shop.world.status_where("kept-back", "back by itself", is_back).await;
    assert_eq!((status.prepared, status.tried), (None, vec![bad.to_string()]));
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_time_is_over_while_git_is_away_is_told_of_and_goes_back_when_git_is_there() {
    let mut shop = Shop::new("late-alone").await;
    let server = GitServer::start(shop.world.folder());
    let (url, port) = (server.url("deploy.git"), server.port());
    let first = shop.world.repo.head("master");
    let spec = json!({"timeout": "15s", "rollback": {"automatic": ["Degraded"]}});
    shop.begin_with(json!({"url": url, "interval": "1s"}), &[("late-alone", spec)]).await;
    shop.ran("late-alone", first).await;
    let bad = shop.commit("A bad image", "web:2-crash");
    shop.world.status_where("late-alone", "applied it", |status| status.running_commit() == Some(bad)).await;
    drop(server);
    let is_told = |status: &EnvironmentStatus| status.prepared.is_some();
    let status = shop.world.status_where("late-alone", "told what keeps it", is_told).await;
    assert!(status.is_late() && status.problems.iter().any(|problem| problem.contains("repository shop")));
    let told = status.prepared.unwrap();
    assert!(told.lines[0].starts_with("it did not become healthy in time"), "{:#?}", told.lines);
    assert!(told.lines[0].ends_with("and it cannot go back by itself yet, which is tried again:"), "{:#?}", told.lines);
    assert!(told.lines[1].contains("--emergency"), "{:#?}", told.lines);

    let _server = GitServer::start_on(shop.world.folder(), port);
    let is_back = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::Done);
    let status = shop.world.status_where("late-alone", "back by itself", is_back).await;
    assert_eq!((status.prepared, status.tried), (None, vec![bad.to_string()]));
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_release_of_the_next_branch_is_not_emptied_by_itself() {
    let mut shop = Shop::new("next-branch").await;
    shop.world.repo.branch("r1.2", "master");
    let first = shop.world.repo.head("r1.2");
    let spec = json!({"lane": "release", "timeout": "10s", "rollback": {"automatic": ["Degraded"]}});
    shop.begin_with(json!({"interval": "1s"}), &[("next-branch", spec)]).await;
    shop.ran("next-branch", first).await;
    let fix = shop.world.repo.commit("r1.2", "Only of r1.2", &[("prod/web.yaml", &deployment("web", "web:1.2"))]);
    shop.ran("next-branch", fix).await;
    let is_prepared = |from: CommitId| {
        move |status: &EnvironmentStatus| {
            let told = status.prepared.as_ref().filter(|told| told.id.starts_with("auto-"));
            told.is_some_and(|told| told.from.as_ref().is_some_and(|on| on.ends_with(&from.to_string())))
        }
    };

    // What it ran last is no part of it: what ran before that is not gone back to in its place.
    shop.world.repo.branch("next", "master");
    let bad = shop.world.repo.commit("next", "Of r1.3", &[("prod/web.yaml", &deployment("web", "web:1.3-crash"))]);
    shop.world.repo.branch("r1.3", "next");
    let status = shop.world.status_where("next-branch", "told", is_prepared(bad)).await;
    let told = status.prepared.unwrap();
    assert_eq!(told.phase, RollbackPhase::Refused, "{told:#?}");
    assert!(told.lines[1].contains("which r1.3 does not contain: it ran as r1.2"), "{:#?}", told.lines);
    let why = shop.fails(&["rollback", "next-branch", "--dry-run"]);
    assert!(why.contains("to run r1.2 again, set spec.lane of the Environment to it"), "{why}");
    assert_eq!(shop.world.repo.head("r1.3"), bad);
    let back_to = |lane: &str| json!({"spec": {"lane": lane}});
    shop.world.patch("towpath.dev/v1alpha1", "Environment", "next-branch", back_to("r1.2")).await;
    shop.ran("next-branch", fix).await;

    // Where it is a part, a person decides whether the branch is to lose all that it has since.
    shop.world.repo.branch("after", "r1.2");
    let bad = shop.world.repo.commit("after", "Of r1.4", &[("prod/web.yaml", &deployment("web", "web:1.4-crash"))]);
    shop.world.repo.branch("r1.4", "after");
    shop.world.patch("towpath.dev/v1alpha1", "Environment", "next-branch", back_to("release")).await;
    let status = shop.world.status_where("next-branch", "prepared", is_prepared(bad)).await;
    let told = status.prepared.unwrap();
    assert_eq!(told.phase, RollbackPhase::Prepared, "{told:#?}");
    let why = "a rollback waits for a person: what ran before was of r1.2, and r1.4 would lose all that it has since";
    assert_eq!(told.lines[1], why);
    assert_eq!(shop.world.repo.head("r1.4"), bad);
    let said = shop.does(&["rollback", "next-branch", "-y"]);
    assert!(
        said.contains("that ran as r1.2: r1.4 loses all that it has since; to run r1.2 again, set spec.lane to it")
    );
    shop.runs_image("web:1.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_of_a_branch_that_the_lane_has_left_is_answered_once_and_not_prepared_again_and_again() {
    let mut shop = Shop::new("left-behind").await;
    shop.world.repo.branch("r1.1", "master");
    let first = shop.world.repo.head("r1.1");
    let spec = json!({"lane": "release", "sync": "Manual", "timeout": "10s"});
    shop.begin(&[("left-behind", spec)]).await;
    shop.world.request_sync("left-behind", "r-1").await;
    shop.ran("left-behind", first).await;
    let has = |status: &EnvironmentStatus, commit: CommitId| {
        status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&commit.to_string()))
    };
    let good = shop.world.repo.commit("r1.1", "Good", &[("prod/web.yaml", &deployment("web", "web:good"))]);
    shop.world.status_where("left-behind", "offered the good one", |status| has(status, good)).await;
    shop.world.request_sync("left-behind", "r-2").await;
    shop.ran("left-behind", good).await;
    shop.world.repo.branch("aside", "r1.1");
    let mut early: Value = serde_saphyr::from_str(&deployment("early", "early:1-crash")).unwrap();
    early["metadata"]["annotations"] = json!({"towpath.dev/wave": "-1"});
    let files = [("prod/early.yaml", early.to_string()), ("prod/web.yaml", deployment("web", "web:2"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let bad = shop.world.repo.commit("r1.1", "Hangs", &files);
    shop.world.status_where("left-behind", "offered it", |status| has(status, bad)).await;
    shop.world.request_sync("left-behind", "r-3").await;
    let waits = |status: &EnvironmentStatus| {
        status.sync.as_ref().is_some_and(|sync| sync.revision.ends_with(&bad.to_string()) && sync.waits.is_some())
    };
    shop.world.status_where("left-behind", "waiting in a wave", waits).await;
    shop.world.repo.branch("r1.2", "aside");
    let newer = shop.world.repo.commit("r1.2", "Newer", &[("prod/web.yaml", &deployment("web", "web:3"))]);
    shop.world.status_where("left-behind", "offered the newer branch", |status| has(status, newer)).await;
    let is_told = |status: &EnvironmentStatus| status.prepared.is_some();
    let status = shop.world.status_where("left-behind", "told", is_told).await;
    let told = status.prepared.unwrap();
    assert!(status.answered.contains(&told.id), "{told:#?}");
    assert!(told.lines[1].contains("is of another branch, and the lane has r1.2 now"), "{:#?}", told.lines);
    assert_eq!((told.phase, shop.world.repo.head("r1.1")), (RollbackPhase::Refused, bad));
}
