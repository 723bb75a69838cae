//! Each move is made once, forward, and not against anybody.

use super::*;

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
    assert!(said.contains("next commit on master, which has that in it too: revert or mend it there first"), "{said}");
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
