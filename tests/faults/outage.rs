//! Servers that are away: they are not stormed, what was pushed meanwhile runs soon after they are back, and then there
//! is quiet.

use std::time::{Duration, Instant};

use serde_json::json;
use support::audit::Request;
use support::faults::{Action, Answer, Asked, On, Proxy};
use support::git_server::GitServer;
use support::world::World;
use towpath_core::status::State;

use super::end::End;
use super::release::Release;
use crate::manifests::config_map;

/// How soon all is well after a server is back.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// Checks what a server that is away had to bear: at most one request a second on average, and five in any second.
fn was_not_stormed(refused: &[Instant], away: Duration) {
    let average = refused.len() as f64 / away.as_secs_f64();
    let in_second_after = |first: &Instant| {
        refused.iter().filter(|at| **at >= *first && at.duration_since(*first) < Duration::from_secs(1)).count()
    };
    let peak = refused.iter().map(in_second_after).max().unwrap_or(0);
    assert!(average <= 1.0, "{average:.2} requests a second on average, {peak} at most");
    assert!(peak <= 5, "{peak} requests within a second");
    assert!(!refused.is_empty(), "nobody asked whether it is back");
}

async fn api_server_is_away(name: &str, away: Duration, quiet: Duration) {
    let mut release = Release::prepare(name).await;
    // With the waits of production: they are what is judged.
    release.world.start_options().time_scale = 1;
    release.world.start_agent();
    release.settle().await;
    release.comes_to_rest().await;

    release.proxy.go_away();
    release.second_commit();
    tokio::time::sleep(away).await;
    was_not_stormed(&release.proxy.refused(), away);
    release.proxy.heal();
    let back = Instant::now();
    release.settle().await;
    assert!(back.elapsed() < HEALED_WITHIN, "in sync after {:?}", back.elapsed());
    // What could not be written while the server was away is written in its own time.
    let head = release.world.repo.head("master").to_string();
    let names_head = |found: &serde_json::Value| found["status"]["branches"].to_string().contains(&head);
    release.world.object_where("towpath.dev/v1alpha1", "Repository", "shop", "up to date", names_head).await;
    release.comes_to_rest().await;
    release.rests(quiet).await;
    is_clean(&release.end().await);
}

/// What holds after any release that came to its end.
fn is_clean(end: &End) {
    assert_eq!(end.members, end.labelled);
    assert_eq!(end.members.len(), 7, "six of the second commit, and the old configuration: {:?}", end.members);
    assert!(end.effects.values().all(|(created, deleted)| *created <= 1 && *deleted <= 1), "{:?}", end.effects);
    assert_eq!(end.effects["configmaps/leaves"], (1, 1));
    assert_eq!(end.status["state"], "Synced");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_is_not_stormed_and_all_is_well_when_it_is_back() {
    api_server_is_away("api-away", Duration::from_secs(20), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn an_api_server_that_is_away_for_five_minutes_is_not_stormed() {
    api_server_is_away("api-away-long", Duration::from_secs(300), Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_server_that_is_away_is_not_stormed_and_what_runs_is_mended() {
    let mut world = World::new("git-away").await;
    let server = GitServer::start(world.folder());
    let proxy = Proxy::before(&server.url("").to_string()).await.unwrap();
    world.repo.commit("master", "first", &[("prod/c.yaml", &config_map("settings", "1"))]);
    world
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": "shop", "namespace": "git-away"},
            "spec": {"url": format!("http://{}/deploy.git", proxy.address()), "interval": "5s"},
        }))
        .await;
    world.environment("git-away", json!({"lane": "master", "path": "prod"})).await;
    // With the waits of production: they are what is judged.
    world.start_options().time_scale = 1;
    world.start_agent();
    world.runs("git-away", "master").await;

    let (mark, away) = (world.mark(), Duration::from_secs(15));
    let begun = Instant::now();
    proxy.go_away();
    world.repo.commit("master", "second", &[("prod/c.yaml", &config_map("settings", "2"))]);
    world
        .status_where("git-away", "told that git is away", |status| {
            status.state == State::OutOfSync
                && status.problems.iter().any(|problem| problem.contains("repository shop"))
        })
        .await;
    world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "settings", "mended", |object| object["data"]["key"] == "1").await;
    tokio::time::sleep(away.saturating_sub(begun.elapsed())).await;
    was_not_stormed(&proxy.refused(), begun.elapsed());
    proxy.heal();
    let back = Instant::now();
    world.object_where("v1", "ConfigMap", "settings", "as git says", |object| object["data"]["key"] == "2").await;
    assert!(back.elapsed() < HEALED_WITHIN, "in sync after {:?}", back.elapsed());
    world.runs("git-away", "master").await;
    let deletes = world.requests_since(mark).iter().filter(|request| request.verb == "delete").count();
    assert_eq!(deletes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_all_the_time_change_nothing_in_the_end() {
    let mut release = Release::prepare("breaking").await;
    // In the first list of each watch, in the answers of writes, and before some of them.
    release.proxy.inject(On::those(|asked| asked.verb == "watch").first(6), Action::CutAnswer(700));
    release.proxy.inject(On::those(|asked| asked.verb == "list").first(2), Action::CutAnswer(100));
    release.proxy.inject(On::writes().nth(3), Action::CutAnswer(50));
    release.proxy.inject(On::writes().nth(5), Action::CutBefore);
    release.world.start_agent();
    release.settle().await;
    release.second_commit();
    // And all connections at once, again and again, while the second commit is applied.
    for _ in 0..20 {
        release.proxy.cut_all();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    release.settle().await;
    release.comes_to_rest().await;
    release.rests(Duration::from_secs(3)).await;
    is_clean(&release.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_taken_up_where_the_api_server_left_it() {
    let mut release = Release::prepare("half-way").await;
    release.world.start_agent();
    release.settle().await;
    // The server goes away when the second commit is half applied: at its Deployment, which comes after its ConfigMaps.
    release.proxy.forget();
    release.proxy.inject(On::verb("patch", "deployments"), Action::Stall);
    release.second_commit();
    let is_half = |seen: &[Asked]| {
        seen.iter().any(|asked| asked.is_write() && asked.resource == "deployments")
            && seen.iter().any(|asked| asked.is_write() && asked.name == "joins" && asked.status == Some(201))
    };
    is_away_after(&mut release, is_half).await;
    release.rests(Duration::from_secs(3)).await;
    is_clean(&release.end().await);
}

/// Has the API server go away for a while once these requests were seen, and waits until the release is at its end.
async fn is_away_after(release: &mut Release, is_seen: impl Fn(&[Asked]) -> bool) {
    let deadline = Instant::now() + support::world::PATIENCE;
    while !is_seen(&release.proxy.seen()) {
        assert!(Instant::now() < deadline, "it was not tried\n{}", release.world.agent_log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    release.proxy.go_away();
    tokio::time::sleep(Duration::from_secs(3)).await;
    release.proxy.heal();
    release.settle().await;
    release.comes_to_rest().await;
}

/// Runs the second commit of a release with waves and a hook; at this request the answer is lost and the server goes away
/// for a while. Nothing may be skipped, be done twice or come before its turn.
async fn is_taken_up(name: &str, verb: &'static str, resource: &'static str, object: &'static str) {
    let mut release = Release::staged(name).await;
    release.world.start_agent();
    release.settle().await;
    release.comes_to_rest().await;
    release.proxy.forget();
    let is_meant = move |asked: &Asked| {
        asked.is_write() && asked.verb == verb && asked.resource == resource && asked.name.starts_with(object)
    };
    release.proxy.inject(On::those(is_meant), Action::Stall);
    let mark = release.world.mark();
    release.second_commit();
    is_away_after(&mut release, |seen| seen.iter().any(|asked| is_meant(asked) && asked.status.is_some())).await;
    release.rests(Duration::from_secs(2)).await;

    let end = release.end().await;
    assert_eq!(end.members, end.labelled);
    assert_eq!(end.effects["jobs/prepare-a-run"], (2, 1), "one Job for each commit\n{}", release.world.agent_log());
    let others = end.effects.iter().filter(|(object, _)| *object != "jobs/prepare-a-run");
    assert!(others.clone().all(|(_, (created, deleted))| *created <= 1 && *deleted <= 1), "{:?}", end.effects);
    let requests = release.world.requests_since(mark);
    let place = |name: &str, find_last: bool| {
        let is_it = |request: &Request| request.is_write() && request.code < 300 && request.name.starts_with(name);
        let found = if find_last { requests.iter().rposition(is_it) } else { requests.iter().position(is_it) };
        found.unwrap_or_else(|| panic!("{name} was not written: {requests:#?}"))
    };
    let order = ["early", "prepare-", "web", "late", "last"];
    for (before, after) in order.iter().zip(&order[1..]) {
        let log = release.world.agent_log();
        assert!(
            place(before, true) < place(after, false),
            "{after} came before {before} was done: {requests:#?}\n{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_is_taken_up_where_the_api_server_left_it() {
    is_taken_up("half-wave", "patch", "configmaps", "late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_ends_while_the_api_server_is_away_is_not_run_again() {
    is_taken_up("half-hook", "patch", "jobs", "prepare-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_throttles_or_fails_for_a_while_is_asked_slowly() {
    let mut release = Release::prepare("throttled").await;
    release.world.start_options().time_scale = 1;
    release.world.start_agent();
    release.settle().await;
    release.comes_to_rest().await;
    let away = Duration::from_secs(15);
    let answers = [
        Answer::status(503, "the server is currently unable to handle the request"),
        Answer::status(429, "too many requests").header("retry-after", "1"),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        release.proxy.forget();
        release.proxy.inject(On::everything(), Action::Answer(answer));
        release.proxy.cut_all();
        release.world.repo.commit(
            "master",
            "next",
            &[("environments/prod/n.yaml", &config_map("n", &number.to_string()))],
        );
        tokio::time::sleep(away).await;
        let asked = release.proxy.seen().len();
        // One a second, and what was under way when it began.
        assert!(asked as u64 <= away.as_secs() + 10, "{asked} requests in {away:?}");
        release.proxy.heal();
        let back = Instant::now();
        release.settle().await;
        assert!(back.elapsed() < HEALED_WITHIN, "in sync after {:?}", back.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_while_its_watch_was_away_is_not_deleted_again_and_again() {
    let mut release = Release::prepare("unwatched-end").await;
    release.world.start_agent();
    release.settle().await;
    release.comes_to_rest().await;
    // The watch on the only kind whose last member goes does not come back.
    let watch = On::those(|asked| asked.verb == "watch" && asked.resource == "serviceaccounts");
    release.proxy.inject(watch, Action::Answer(Answer::status(500, "etcdserver: request timed out")));
    release.proxy.cut_all();
    release.proxy.forget();
    release.second_commit();
    release.settle().await;
    for _ in 0..3 {
        release.world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "by hand"}})).await;
        release.world.object_where("v1", "ConfigMap", "settings", "mended", |found| found["data"]["key"] == "2").await;
    }
    release.comes_to_rest().await;
    let is_deletion = |asked: &&Asked| asked.verb == "delete" && asked.resource == "serviceaccounts";
    let deletions = release.proxy.seen().iter().filter(is_deletion).count();
    assert!(deletions <= 2, "{deletions} deletions of one object\n{}", release.world.agent_log());
    is_clean(&release.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_cannot_be_taken_up_are_begun_anew_ever_more_slowly() {
    const FORGETFUL: Duration = Duration::from_secs(10);
    let mut release = Release::prepare("forgetful").await;
    release.world.start_agent();
    release.settle().await;
    release.comes_to_rest().await;
    let is_watch = |asked: &Asked| asked.verb == "watch" && asked.resource == "configmaps";
    release.proxy.inject(On::those(is_watch), Action::Answer(Answer::status(410, "too old resource version")));
    release.proxy.forget();
    release.proxy.cut_all();
    tokio::time::sleep(FORGETFUL).await;
    let asked = release.proxy.seen().iter().filter(|asked| is_watch(asked)).count();
    // The pauses are 0.4 s at least, then 0.8, 1.6, 3.2 and 6.4 s.
    assert!((2..=6).contains(&asked), "{asked} watches in {FORGETFUL:?}");
    release.proxy.heal();
    release.world.patch("v1", "ConfigMap", "settings", json!({"data": {"key": "by hand"}})).await;
    release.world.object_where("v1", "ConfigMap", "settings", "mended", |found| found["data"]["key"] == "1").await;
}
