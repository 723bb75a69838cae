//! What becomes of the reverts on the server: one push, once, beside others, and beside a branch that is protected.

use support::git_server::Fault;

use super::*;

/// Refuses pushes to master.
pub(super) const PROTECTED: &str =
    "[ \"$1\" != refs/heads/master ] || { echo 'master is protected: open a merge request' >&2; exit 1; }";

async fn with_a_bad_release(name: &str, more: Value) -> (Shop, CommitId, CommitId) {
    let mut shop = Shop::new(name).await;
    let first = shop.world.repo.head("master");
    shop.begin(&[(name, more)]).await;
    shop.ran(name, first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.ran(name, bad).await;
    (shop, first, bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn reverts_of_a_protected_branch_stand_on_their_own_and_are_recognised_however_they_are_merged() {
    for (name, how) in
        [("merged-ff", "ff"), ("merged-commit", "merge"), ("merged-squash", "squash"), ("merged-by-hand", "hand")]
    {
        let mut shop = Shop::new(name).await;
        let server = GitServer::start(shop.world.folder());
        let (first, bad) = shop.ran_a_bad_release(name, &server).await;
        let protected = hook(&shop, "update", PROTECTED);
        let said = shop.does(&["rollback", name, "-y"]);
        assert!(said.contains("master may not be pushed to") && said.contains("open a merge request"), "{said}");
        assert!(said.contains(&format!("{name} goes back to {} until then", first.short())), "{said}");
        // Nobody has to merge anything before the people who use it are well again.
        shop.runs_image("web:1").await;
        let is_waiting = |status: &EnvironmentStatus| status.state == State::Held;
        let status = shop.world.status_where(name, "waiting for a merge", is_waiting).await;
        let branch = status.rollback.clone().unwrap().branch.unwrap();
        assert!(branch.starts_with(&format!("towpath/revert-{name}-")), "{branch}");
        assert!(status.held.unwrap().contains(&format!("waits for {branch} to be merged into master")));
        assert_eq!(shop.world.repo.head("master"), bad);
        // Nothing else comes meanwhile that has the change in it.
        let image = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}}).to_string();
        shop.world.repo.commit("master", "Later", &[("prod/later.yaml", &image)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(shop.world.get("v1", "ConfigMap", "later").await.is_none());
        std::fs::remove_file(protected).unwrap();
        match how {
            "merge" => drop(shop.world.repo.merge("master", &branch)),
            "hand" => drop(shop.world.repo.revert("master", bad)),
            "squash" => {
                // The forge writes a message of its own.
                let text = deployment("web", "web:1");
                shop.world.repo.commit("master", "Go back (!7)", &[("prod/web.yaml", &text)]);
            }
            _ => {
                // Without what came later.
                let tip = shop.world.repo.head(&branch);
                shop.world.repo.force("master", tip);
            }
        }
        let status =
            shop.world.status_where(name, "recognised", |status| phase(status) == Some(RollbackPhase::Done)).await;
        let rollback = status.rollback.unwrap();
        assert_eq!(rollback.branch.unwrap(), branch);
        assert!(!rollback.lines.iter().any(|line| line.contains("until then") || line.contains("merge it into")));
        shop.runs_image("web:1").await;
        shop.world.runs(name, "master").await;
        let status = shop.world.status_where(name, "settled", is_settled).await;
        assert_eq!(status.held, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reverts_of_one_line_that_were_squashed_are_recognised_after_the_lane_or_the_agent_has_moved() {
    for (name, restores, moves, loses) in [
        ("squashed-later", false, true, false),
        ("squashed-unseen", false, false, true),
        ("squashed-restore", true, true, true),
    ] {
        let mut shop = Shop::new(name).await;
        let server = GitServer::start(shop.world.folder());
        let (first, _) = shop.ran_a_bad_release(name, &server).await;
        let worse = shop.commit("Worse", "web:3");
        shop.ran(name, worse).await;
        let protected = hook(&shop, "update", PROTECTED);
        let (first, mut arguments) = (first.short(), vec!["rollback", name, "-y", "--to"]);
        arguments.push(&first);
        arguments.extend(restores.then_some("--restore"));
        shop.does(&arguments);
        shop.world.status_where(name, "waiting for a merge", |status| status.state == State::Held).await;
        if loses {
            shop.world.kill_agent();
            std::fs::remove_dir_all(shop.world.folder().join("cache")).unwrap();
        }
        let image = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}}).to_string();
        if moves {
            shop.world.repo.commit("master", "Later", &[("prod/later.yaml", &image)]);
        }
        std::fs::remove_file(protected).unwrap();
        let squashed = shop.commit("Go back (!7)", "web:1");
        if loses {
            shop.world.start_agent();
        }
        shop.world.status_where(name, "recognised", |status| phase(status) == Some(RollbackPhase::Done)).await;
        shop.ran(name, squashed).await;
        shop.runs_image("web:1").await;
        shop.world.status_where(name, "settled", is_settled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_reset_has_no_revert_and_the_change_does_not_come_back_with_a_push() {
    let mut shop = Shop::new("reset-lane").await;
    let server = GitServer::start(shop.world.folder());
    let (first, bad) = shop.ran_a_bad_release("reset-lane", &server).await;
    hook(&shop, "update", PROTECTED);
    shop.does(&["rollback", "reset-lane", "-y"]);
    shop.world.status_where("reset-lane", "waiting for a merge", |status| status.state == State::Held).await;
    // Somebody who may do so takes it off the branch.
    shop.world.repo.force("master", first);
    shop.world
        .status_where("reset-lane", "over", |status| {
            phase(status) == Some(RollbackPhase::Done) && status.held.is_none()
        })
        .await;
    shop.runs_image("web:1").await;
    // A colleague whose clone still has it pushes it again.
    shop.world.repo.force("master", bad);
    let status = shop.world.status_where("reset-lane", "held", |status| status.held.is_some()).await;
    assert!(status.held.unwrap().contains("master does not have its revert"));
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_over_where_its_environment_follows_another_repository() {
    for (name, is_moved) in [("other-repository", false), ("other-url", true)] {
        let mut shop = Shop::new(name).await;
        let server = GitServer::start(shop.world.folder());
        shop.ran_a_bad_release(name, &server).await;
        hook(&shop, "update", PROTECTED);
        shop.does(&["rollback", name, "-y"]);
        shop.world.status_where(name, "waiting for a merge", |status| status.held.is_some()).await;

        let other = support::deploy_repo::DeployRepo::new(shop.world.folder().join("other.git"));
        other.commit("master", "Of another repository", &[("prod/web.yaml", &deployment("web", "web:other"))]);
        const API: &str = "towpath.dev/v1alpha1";
        let said = if is_moved {
            let patch = json!({"spec": {"url": other.url(), "writeSecretRef": null}});
            shop.world.patch(API, "Repository", "shop", patch).await;
            format!("nothing that it was begun with is in Repository {name}/shop any more")
        } else {
            let metadata = json!({"name": "other", "namespace": name});
            let repository =
                json!({"apiVersion": API, "kind": "Repository", "metadata": metadata, "spec": {"url": other.url()}});
            shop.world.apply(repository).await;
            shop.world.patch(API, "Environment", name, json!({"spec": {"repository": "other"}})).await;
            format!("it was begun in Repository {name}/shop, and {name} follows {name}/other now")
        };
        let is_over = |status: &EnvironmentStatus| !status.rollback.as_ref().unwrap().phase.is_under_way();
        let status = shop.world.status_where(name, "over", is_over).await;
        let rollback = status.rollback.unwrap();
        assert_eq!(rollback.phase, RollbackPhase::Refused, "{rollback:#?}");
        assert!(rollback.lines.iter().any(|line| line.contains(&said)), "{:#?}", rollback.lines);
        shop.runs_image("web:other").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_be_landed_again_and_is_not_says_nothing_of_going_back() {
    let mut shop = Shop::new("reland-elsewhere").await;
    let server = GitServer::start(shop.world.folder());
    let (first, bad) = shop.ran_a_bad_release("reland-elsewhere", &server).await;
    shop.does(&["rollback", "reland-elsewhere", "-y"]);
    shop.ran("reland-elsewhere", shop.world.repo.head("master")).await;
    hook(&shop, "update", PROTECTED);
    let (code, said, _) = shop.towpath(&["reland", "reland-elsewhere", &bad.short(), "-y"]);
    assert!(code == 4 && said.contains("merge it into master"), "{code}: {said}");
    let is_waiting = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::WaitsForMerge);
    shop.world.status_where("reland-elsewhere", "waiting for a merge", is_waiting).await;
    shop.world.repo.force("r1.2", first);
    let patch = json!({"spec": {"lane": "release"}});
    shop.world.patch("towpath.dev/v1alpha1", "Environment", "reland-elsewhere", patch).await;
    let is_over = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::Refused);
    let status = shop.world.status_where("reland-elsewhere", "over", is_over).await;
    let lines = status.rollback.unwrap().lines;
    assert!(lines[0].contains("it was begun on master, and reland-elsewhere follows r1.2 now"), "{lines:#?}");
    assert!(lines[0].contains("land it again on master"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_cannot_be_moved_for_a_moment_is_tried_again_before_anything_is_pushed_beside_it() {
    for (name, passes) in [("locked-shortly", true), ("locked-long", false)] {
        let mut shop = Shop::new(name).await;
        let server = GitServer::start(shop.world.folder());
        shop.ran_a_bad_release(name, &server).await;
        shop.does(&["rollback", name, "--dry-run"]);
        let digest = shop.world.status(name).await.prepared.unwrap().digest;
        let lock = shop.world.repo.path().join("refs/heads/master.lock");
        std::fs::write(&lock, "").unwrap();
        let ask = json!({"id": "locked", "at": jiff::Timestamp::now(), "confirm": digest, "wish": {}}).to_string();
        let patch =
            json!({"metadata": {"annotations": {"towpath.dev/rollback": ask, "towpath.dev/rollbackBy": "admin"}}});
        shop.world.patch("towpath.dev/v1alpha1", "Environment", name, patch).await;
        if passes {
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while !shop.world.agent_log().contains("could not move the ref at the moment") {
                assert!(std::time::Instant::now() < deadline, "{}", shop.world.agent_log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(phase(&shop.world.status(name).await), Some(RollbackPhase::Pushing));
            std::fs::remove_file(lock).unwrap();
            shop.world.status_where(name, "over", |status| phase(status) == Some(RollbackPhase::Done)).await;
            assert_eq!(shop.git(&["branch", "--list", "towpath/*"]), "");
            assert_eq!(shop.subjects()[..2], ["Revert \"Bad\"", "Bad"]);
        } else {
            let is_beside = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::WaitsForMerge);
            shop.world.status_where(name, "on a branch of its own", is_beside).await;
            let branches = shop.git(&["branch", "--list", "towpath/*"]);
            assert!(branches.contains(&format!("towpath/revert-{name}-")), "{branches}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_may_be_pushed_to_again_has_its_reverts_without_a_merge() {
    let mut shop = Shop::new("open-again").await;
    // Ten minutes are six seconds.
    shop.world.start_options().time_scale = 100;
    let server = GitServer::start(shop.world.folder());
    shop.ran_a_bad_release("open-again", &server).await;
    let protected = hook(&shop, "update", PROTECTED);
    shop.does(&["rollback", "open-again", "-y"]);
    let is_beside = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::WaitsForMerge);
    let status = shop.world.status_where("open-again", "waiting for a merge", is_beside).await;
    let tip = status.rollback.unwrap().commit.unwrap();
    std::fs::remove_file(protected).unwrap();
    shop.world.status_where("open-again", "over", |status| phase(status) == Some(RollbackPhase::Done)).await;
    assert_eq!(shop.world.repo.head("master").to_string(), tip);
    shop.ran("open-again", shop.world.repo.head("master")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reverts_that_somebody_declined_by_deleting_their_branch_are_not_pushed_after_all() {
    let mut shop = Shop::new("declined").await;
    shop.world.start_options().time_scale = 100;
    let server = GitServer::start(shop.world.folder());
    let bad = shop.ran_a_bad_release("declined", &server).await.1;
    let protected = hook(&shop, "update", PROTECTED);
    shop.does(&["rollback", "declined", "-y"]);
    let is_beside = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::WaitsForMerge);
    let status = shop.world.status_where("declined", "waiting for a merge", is_beside).await;
    shop.world.repo.delete_branch(&status.rollback.unwrap().branch.unwrap());
    std::fs::remove_file(protected).unwrap();
    // By now it would have been tried twice.
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(shop.world.repo.head("master"), bad);
    let held = shop.world.status("declined").await.held.unwrap();
    let way = format!("where it was mended otherwise: towpath reland declined {}", bad.short());
    assert!(held.ends_with(&way), "{held}");
    shop.does(&["reland", "declined", &bad.short(), "-y"]);
    shop.runs_image("web:2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_took_out_of_the_branch_by_a_reset_does_not_come_back_with_reverts() {
    let mut shop = Shop::new("reset-since").await;
    shop.world.start_options().time_scale = 100;
    let server = GitServer::start(shop.world.folder());
    let bad = shop.ran_a_bad_release("reset-since", &server).await.1;
    let secret = shop.world.repo.commit("master", "A secret", &[("secret.txt", "hush")]);
    shop.ran("reset-since", secret).await;
    let protected = hook(&shop, "update", PROTECTED);
    shop.towpath(&["rollback", "reset-since", "--ticket", &bad.short(), "-y"]);
    let is_beside = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::WaitsForMerge);
    let status = shop.world.status_where("reset-since", "waiting for a merge", is_beside).await;
    shop.world.repo.force("master", bad);
    std::fs::remove_file(protected).unwrap();
    // By now it would have been tried twice.
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(shop.world.repo.head("master"), bad);
    assert_eq!(phase(&shop.world.status("reset-since").await), Some(RollbackPhase::WaitsForMerge));
    shop.world.repo.merge("master", &status.rollback.unwrap().branch.unwrap());
    shop.world.status_where("reset-since", "over", |status| phase(status) == Some(RollbackPhase::Done)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_reverts_can_be_pushed_nowhere_the_release_before_runs_all_the_same_until_they_can() {
    let mut shop = Shop::new("push-nowhere").await;
    let server = GitServer::start(shop.world.folder());
    let first = shop.world.repo.head("master");
    let url = server.url("deploy.git");
    shop.begin_with(json!({"url": url, "interval": "2s"}), &[("push-nowhere", json!({"sync": "Manual"}))]).await;
    shop.world.request_sync("push-nowhere", "r-1").await;
    shop.ran("push-nowhere", first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.world.status_where("push-nowhere", "offered it", |status| status.candidate.is_some()).await;
    shop.world.request_sync("push-nowhere", "r-2").await;
    shop.ran("push-nowhere", bad).await;
    let shut = hook(&shop, "update", "echo 'nobody may push' >&2; exit 1");
    let said = shop.does(&["rollback", "push-nowhere", "-y"]);
    assert!(said.contains("its reverts cannot be pushed") && said.contains("nobody may push"), "{said}");
    assert!(said.contains(&format!("push-nowhere runs master@{}, held", first.short())), "{said}");
    let status = shop.world.status_where("push-nowhere", "back, and held", is_held_on(first)).await;
    let lines = status.rollback.unwrap().lines;
    assert!(lines[1].contains(&format!("goes back to {} until then", first.short())), "{lines:#?}");
    std::fs::remove_file(shut).unwrap();
    shop.world.status_where("push-nowhere", "done", |status| phase(status) == Some(RollbackPhase::Done)).await;
    // It has the files of the head, and so it is there.
    let status = shop.world.runs("push-nowhere", "master").await;
    assert_eq!((status.candidate, status.held), (None, None));
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_who_push_at_the_same_time_lose_nothing_and_the_revert_lands() {
    let mut shop = Shop::new("competing").await;
    let first = shop.world.repo.head("master");
    // A status alone has room for 20 releases.
    shop.begin_with(json!({"interval": "1s", "ledger": {}}), &[("competing", json!({}))]).await;
    shop.ran("competing", first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.ran("competing", bad).await;
    let repo = support::deploy_repo::DeployRepo::open(shop.world.repo.path());
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ends = over.clone();
    let others = std::thread::spawn(move || {
        let mut made = 0;
        while !ends.load(std::sync::atomic::Ordering::Relaxed) && made < 200 {
            made += 1;
            repo.commit("master", &format!("Somebody's {made}"), &[("notes.md", &made.to_string())]);
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    let said = shop.does(&["rollback", "competing", "--ticket", &bad.to_string(), "--dry-run"]);
    assert!(said.contains("takes back"), "{said}");
    // What would be done is another thing with each commit, so it is confirmed until it fits.
    let mut is_done = false;
    for _ in 0..20 {
        let (code, _, _) = shop.towpath(&["rollback", "competing", "--ticket", &bad.to_string(), "-y"]);
        is_done = code == 0;
        if is_done {
            break;
        }
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    others.join().unwrap();
    assert!(is_done, "{}", shop.world.agent_log());
    shop.runs_image("web:1").await;
    let subjects = shop.subjects();
    let reverts = subjects.iter().filter(|subject| **subject == "Revert \"Bad\"").count();
    assert_eq!(reverts, 1, "{subjects:#?}");
    let theirs = subjects.iter().filter(|subject| subject.starts_with("Somebody's")).count();
    assert_eq!(theirs, subjects.len() - 3, "nothing of others is lost: {subjects:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_and_pushes_whose_answers_are_lost_make_one_revert() {
    let mut shop = Shop::new("revert-killed").await;
    let server = GitServer::start(shop.world.folder());
    let first = shop.world.repo.head("master");
    let spec = json!({"url": server.url("deploy.git"), "interval": "1s", "ledger": {}});
    shop.begin_with(spec, &[("revert-killed", json!({}))]).await;
    shop.ran("revert-killed", first).await;
    let faults = [
        None,
        None,
        None,
        Some(Fault::CutReport(0)),
        Some(Fault::LatePush(Duration::from_millis(500))),
        Some(Fault::PushStatus(503)),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let bad = shop.commit(&format!("Bad {number}"), &format!("web:bad{number}"));
        shop.ran("revert-killed", bad).await;
        let said = shop.does(&["rollback", "revert-killed", "--dry-run"]);
        assert!(said.contains("in one push"), "{said}");
        let id = format!("killed-{number}");
        let digest = shop.world.status("revert-killed").await.prepared.unwrap().digest;
        let ask = json!({"id": id, "at": jiff::Timestamp::now(), "confirm": digest, "wish": {}}).to_string();
        let patch =
            json!({"metadata": {"annotations": {"towpath.dev/rollback": ask, "towpath.dev/rollbackBy": "admin"}}});
        server.misbehave(fault.clone());
        shop.world.patch("towpath.dev/v1alpha1", "Environment", "revert-killed", patch).await;
        if fault.is_none() {
            // Somewhere between the request, the commits, the push and the sync.
            tokio::time::sleep(Duration::from_millis(60 + 70 * number as u64)).await;
            shop.world.kill_agent();
            shop.world.start_agent();
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            server.misbehave(None);
        }
        let is_over = |status: &EnvironmentStatus| {
            let rollback = status.rollback.as_ref().filter(|rollback| rollback.id == id);
            rollback.is_some_and(|rollback| rollback.phase == RollbackPhase::Done && rollback.goes_to.is_none())
        };
        shop.world.status_where("revert-killed", &format!("rolled back ({id})"), is_over).await;
        let subjects = shop.subjects();
        let revert = format!("Revert \"Bad {number}\"");
        assert_eq!(subjects.iter().filter(|subject| **subject == revert).count(), 1, "{subjects:#?}");
        shop.ran("revert-killed", shop.world.repo.head("master")).await;
    }
    assert_eq!(shop.subjects().len(), 13);
    shop.git(&["fsck", "--strict"]);
    // One record for each sync of a rollback.
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    loop {
        let log = shop.git(&["log", "--format=%B", "--glob=refs/towpath/*"]);
        let records: Vec<&str> = log.lines().filter(|line| line.starts_with("Request: killed-")).collect();
        let distinct: std::collections::BTreeSet<&&str> = records.iter().collect();
        assert_eq!(records.len(), distinct.len(), "{records:?}");
        if distinct.len() == 6 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{records:?}\n{log}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_that_roll_back_at_once_make_one_revert() {
    let (shop, _, bad) = with_a_bad_release("two-clusters", json!({})).await;
    let mut other = World::elsewhere("two-clusters-too").await;
    other.own_key("west").await;
    other.repository_with(json!({"url": shop.world.repo.url(), "interval": "2s"})).await;
    other.environment("two-clusters-too", json!({"lane": "master", "path": "prod"})).await;
    other.start_agent();
    let runs = |status: &EnvironmentStatus| {
        status.running.as_ref().is_some_and(|running| running.revision.ends_with(&bad.to_string()))
    };
    other.status_where("two-clusters-too", "on the bad release", runs).await;
    // It never ran what came before, so it takes the ticket back.
    let there = {
        let kubeconfig = other.plane.admin_kubeconfig();
        let bad = bad.to_string();
        std::thread::spawn(move || {
            Command::new(agent::binary().unwrap())
                .args(["rollback", "two-clusters-too", "--ticket", &bad, "-y", "-n", "two-clusters-too"])
                .env("KUBECONFIG", kubeconfig)
                .output()
                .unwrap()
        })
    };
    let here = shop.towpath(&["rollback", "two-clusters", "-y"]);
    let there = there.join().unwrap();
    let said = String::from_utf8_lossy(&there.stderr).into_owned();
    // Who was later may have been told that it is another thing now.
    assert!(here.0 == 0 || there.status.success(), "{here:?} {said}");
    shop.runs_image("web:1").await;
    other.object_where("apps/v1", "Deployment", "web", "of the good image", |object| image(object) == "web:1").await;
    assert_eq!(shop.subjects(), ["Revert \"Bad\"", "Bad", "The first release"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_push_is_told_before_and_not_after() {
    let mut shop = Shop::new("no-login").await;
    let server = GitServer::start(shop.world.folder());
    server.require_login_to_push("deploy.git", "towpath", "secret");
    let (_, bad) = shop.ran_a_bad_release("no-login", &server).await;
    let why = shop.fails(&["rollback", "no-login", "--dry-run"]);
    assert!(why.contains("the revert could not be pushed"), "{why}");
    assert_eq!(shop.world.repo.head("master"), bad);
    assert_eq!(shop.world.status("no-login").await.held, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_for_another_world_is_asked_again() {
    let (shop, _, bad) = with_a_bad_release("changed-world", json!({"sync": "Automatic"})).await;
    shop.does(&["rollback", "changed-world", "--dry-run"]);
    let digest = shop.world.status("changed-world").await.prepared.unwrap().digest.unwrap();
    let next = shop.commit("Another", "web:3");
    shop.ran("changed-world", next).await;
    let (code, said, why) = shop.towpath(&["rollback", "changed-world", "--confirm", &digest]);
    assert_eq!(code, 1, "{said}{why}");
    assert!(
        said.contains("what was confirmed is not what would be done now") && why.contains("nothing was done"),
        "{said}{why}"
    );
    assert_eq!(shop.world.repo.head("master"), next);
    // An old request that is found later is not done.
    let ask = json!({"id": "old", "at": "2026-01-01T00:00:00Z", "confirm": digest, "wish": {}}).to_string();
    let patch = json!({"metadata": {"annotations": {"towpath.dev/rollback": ask, "towpath.dev/rollbackBy": "admin"}}});
    shop.world.patch("towpath.dev/v1alpha1", "Environment", "changed-world", patch).await;
    let is_it = |status: &EnvironmentStatus| status.prepared.as_ref().is_some_and(|answer| answer.id == "old");
    let status = shop.world.status_where("changed-world", "answered", is_it).await;
    assert!(status.prepared.unwrap().lines[0].contains("ask again"));
    let text = "{\"to\": \"x\"}";
    let unreadable =
        json!({"metadata": {"annotations": {"towpath.dev/rollback": text, "towpath.dev/rollbackBy": "admin"}}});
    shop.world.patch("towpath.dev/v1alpha1", "Environment", "changed-world", unreadable).await;
    let is_it = |status: &EnvironmentStatus| {
        status.prepared.as_ref().is_some_and(|answer| answer.id.starts_with("unreadable-"))
    };
    shop.world.status_where("changed-world", "told that it cannot be read", is_it).await;
    assert_eq!(shop.world.repo.head("master"), next);
    let _ = bad;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_at_once_make_one_revert() {
    let (shop, _, _) = with_a_bad_release("two-people", json!({"sync": "Automatic"})).await;
    let worse = shop.commit("Worse", "web:3");
    shop.ran("two-people", worse).await;
    let answers = std::thread::scope(|scope| {
        let people: Vec<_> = (0..3).map(|_| scope.spawn(|| shop.towpath(&["rollback", "two-people", "-y"]))).collect();
        people.into_iter().map(|person| person.join().unwrap()).collect::<Vec<_>>()
    });
    shop.runs_image("web:2").await;
    // Nobody goes further back than they were shown.
    assert_eq!(shop.subjects(), ["Revert \"Worse\"", "Worse", "Bad", "The first release"]);
    for (code, said, why) in answers {
        // Whoever was not the one is told.
        let is_told =
            ["somebody else", "has taken its place", "what a rollback came to", "under way", "what was confirmed"];
        assert!(code == 0 || is_told.iter().any(|told| why.contains(told)), "{said}{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_environment_at_its_head_goes_to_the_revert_and_to_nothing_after_it() {
    let mut shop = Shop::new("by-hand-only").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("by-hand-only", json!({"sync": "Manual"}))]).await;
    shop.world.request_sync("by-hand-only", "r-1").await;
    shop.ran("by-hand-only", first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.world.status_where("by-hand-only", "offered it", |status| status.candidate.is_some()).await;
    shop.world.request_sync("by-hand-only", "r-2").await;
    shop.ran("by-hand-only", bad).await;
    shop.does(&["rollback", "by-hand-only", "-y"]);
    let status = shop.ran("by-hand-only", shop.world.repo.head("master")).await;
    assert_eq!((status.history[0].trigger, status.state), (Trigger::Rollback, State::Synced));
    let next = shop.commit("Next", "web:3");
    let waits = |status: &EnvironmentStatus| {
        status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&next.to_string()))
    };
    shop.world.status_where("by-hand-only", "waiting for a request", waits).await;
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_follows_a_repository_from_elsewhere_writes_nothing_to_it() {
    let mut shop = Shop::of(World::elsewhere("owner-of-it").await).await;
    let first = shop.world.repo.head("master");
    shop.begin_with(json!({"interval": "2s", "allowedFrom": ["*"]}), &[("owner-of-it", json!({}))]).await;
    shop.ran("owner-of-it", first).await;
    let mut other = shop.world.beside("follower").await;
    other.own_key("west").await;
    // One agent for both namespaces.
    other.watch_all_namespaces();
    shop.world.kill_agent();
    other
        .apply(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Environment",
            "metadata": {"name": "follower", "namespace": "follower"},
            "spec": {"repository": "owner-of-it/shop", "lane": "master", "path": "prod"},
        }))
        .await;
    let bad = shop.commit("Bad", "web:2");
    other.start_agent();
    let runs = |status: &EnvironmentStatus| {
        status.running.as_ref().is_some_and(|running| running.revision.ends_with(&bad.to_string()))
    };
    other.status_where("follower", "on the bad release", runs).await;
    let ask = json!({"id": "x", "at": jiff::Timestamp::now(), "wish": {"ticket": bad}}).to_string();
    let patch = json!({"metadata": {"annotations": {"towpath.dev/rollback": ask, "towpath.dev/rollbackBy": "admin"}}});
    other.patch("towpath.dev/v1alpha1", "Environment", "follower", patch).await;
    let status = other.status_where("follower", "answered", |status| status.prepared.is_some()).await;
    let prepared = status.prepared.unwrap();
    assert_eq!(prepared.phase, RollbackPhase::Refused);
    assert!(prepared.lines.join(" ").contains("spec.rollbacksFrom"), "{prepared:#?}");
    assert_eq!(shop.world.repo.head("master"), bad);
}
