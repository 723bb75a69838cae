//! What was rolled back does not come back by another way: merges, other branches, a second rollback, an old request.

use super::*;

fn ask(id: &str, wish: Value, confirm: Option<&str>) -> Value {
    let ask = json!({"id": id, "at": jiff::Timestamp::now(), "confirm": confirm, "wish": wish}).to_string();
    json!({"metadata": {"annotations": {"towpath.dev/rollback": ask, "towpath.dev/rollbackBy": "admin"}}})
}

const ENVIRONMENT: (&str, &str) = ("towpath.dev/v1alpha1", "Environment");

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_was_merged_is_taken_back_with_its_merge_and_landed_again_by_it() {
    let mut shop = Shop::new("merged-revert").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("merged-revert", json!({}))]).await;
    shop.ran("merged-revert", first).await;
    let bad = shop.commit("Bad", "web:bad");
    shop.ran("merged-revert", bad).await;
    // A person reverts it on a branch and merges that, as a forge does.
    shop.world.repo.branch("undo", "master");
    let revert = shop.world.repo.revert("undo", bad);
    shop.world.repo.commit("master", "Beside", &[("prod/beside.yaml", &config("beside", "1"))]);
    let merged = shop.world.repo.merge("master", "undo");
    shop.ran("merged-revert", merged).await;
    let next = shop.commit("Next", "web:next");
    shop.ran("merged-revert", next).await;

    // Over the merge of the revert back to the first: not to what the revert took back.
    let said = shop.does(&["rollback", "merged-revert", "--to", &first.short(), "--dry-run"]);
    assert!(said.contains("image: web:next → web:1"), "{said}");
    shop.does(&["rollback", "merged-revert", "--to", &first.short(), "-y"]);
    shop.runs_image("web:1").await;
    assert_eq!(shop.tree("master"), shop.tree(&first.to_string()));
    let status = shop.ran("merged-revert", shop.world.repo.head("master")).await;
    assert_eq!(status.held, None);

    // What was taken back by a revert from the side is landed again by the merge that brought it.
    let mut other = Shop::new("merged-revert-2").await;
    let first = other.world.repo.head("master");
    other.begin(&[("merged-revert-2", json!({}))]).await;
    other.ran("merged-revert-2", first).await;
    let good = other.commit("Good after all", "web:good");
    other.ran("merged-revert-2", good).await;
    other.world.repo.branch("undo", "master");
    other.world.repo.revert("undo", good);
    other.world.repo.commit("master", "Beside", &[("prod/beside.yaml", &config("beside", "1"))]);
    let merged = other.world.repo.merge("master", "undo");
    other.ran("merged-revert-2", merged).await;
    let said = other.does(&["reland", "merged-revert-2", &good.short(), "-y"]);
    assert!(said.contains("lands again"), "{said}");
    other.runs_image("web:good").await;
    assert_eq!(other.subjects()[0], "Revert \"Merge branch 'undo' into master\"");
    let why = other.fails(&["reland", "merged-revert-2", &good.short(), "--dry-run"]);
    assert!(why.contains("is no revert that holds"), "{why}");
    let _ = revert;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_branch_with_the_change_and_without_its_revert_is_not_moved_to() {
    let mut shop = Shop::new("other-branch").await;
    shop.world.repo.branch("r1.2", "master");
    let first = shop.world.repo.head("r1.2");
    shop.begin(&[("other-branch", json!({"lane": "release"}))]).await;
    shop.ran("other-branch", first).await;
    let bad = shop.world.repo.commit("r1.2", "Bad", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    shop.ran("other-branch", bad).await;
    shop.does(&["rollback", "other-branch", "-y"]);
    shop.ran("other-branch", shop.world.repo.head("r1.2")).await;
    // The next release is cut from where the change lives on.
    shop.world.repo.force("r1.3", bad);
    let status = shop.world.status_where("other-branch", "held", |status| status.state == State::Held).await;
    assert!(status.held.unwrap().contains("r1.3 does not have its revert"));
    shop.runs_image("web:1").await;
    // A person may want it.
    shop.does(&["reland", "other-branch", &bad.short(), "-y"]);
    shop.runs_image("web:2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cherry_pick_of_what_was_rolled_back_is_the_same_change_and_one_that_was_mended_is_not() {
    let mut shop = Shop::new("picked").await;
    shop.world.repo.branch("r1.2", "master");
    let first = shop.world.repo.head("r1.2");
    shop.begin(&[("picked", json!({"lane": "release"}))]).await;
    shop.ran("picked", first).await;
    let bad = shop.world.repo.commit("r1.2", "Bad", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    shop.ran("picked", bad).await;
    shop.does(&["rollback", "picked", "-y"]);
    shop.ran("picked", shop.world.repo.head("r1.2")).await;
    // The next release is cut from a branch that has the change as a commit of its own.
    let beside = config("beside", "1");
    shop.world.repo.branch("develop", "master");
    shop.world.repo.commit("develop", "Beside", &[("prod/beside.yaml", &beside)]);
    let picked = shop.world.repo.cherry_pick("develop", bad);
    assert_ne!(picked, bad);
    shop.world.repo.branch("r1.3", "develop");
    let status = shop.world.status_where("picked", "held", |status| status.state == State::Held).await;
    assert!(status.held.unwrap().contains("r1.3 does not have its revert"));
    assert!(shop.world.get("v1", "ConfigMap", "beside").await.is_none());
    // It is reverted there too.
    shop.world.repo.revert("r1.3", picked);
    shop.ran("picked", shop.world.repo.head("r1.3")).await;
    assert!(shop.world.get("v1", "ConfigMap", "beside").await.is_some());
    // Another change by the same name is none of this.
    shop.world.repo.branch("r1.4", "master");
    shop.world.repo.commit("r1.4", "Bad", &[("prod/web.yaml", &deployment("web", "web:3"))]);
    shop.ran("picked", shop.world.repo.head("r1.4")).await;
    shop.runs_image("web:3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_as_one_merge_is_the_same_change_as_another_merge_of_its_branch() {
    let mut shop = Shop::new("merged-twice").await;
    shop.world.repo.branch("r1.2", "master");
    shop.world.repo.branch("develop", "master");
    shop.world.repo.branch("fix", "master");
    let first = shop.world.repo.head("r1.2");
    shop.begin(&[("merged-twice", json!({"lane": "release"}))]).await;
    shop.ran("merged-twice", first).await;
    shop.world.repo.commit("fix", "Bad", &[("prod/web.yaml", &deployment("web", "web:2"))]);
    let merge = shop.world.repo.merge("r1.2", "fix");
    shop.ran("merged-twice", merge).await;
    shop.does(&["rollback", "merged-twice", "-y"]);
    shop.ran("merged-twice", shop.world.repo.head("r1.2")).await;
    // The next release is cut from where the same branch was merged too.
    shop.world.repo.commit("develop", "Beside", &[("prod/beside.yaml", &config("beside", "1"))]);
    let other = shop.world.repo.merge("develop", "fix");
    shop.world.repo.branch("r1.3", "develop");
    let status = shop.world.status_where("merged-twice", "held", |status| status.state == State::Held).await;
    assert!(status.held.unwrap().contains("r1.3 does not have its revert"));
    assert!(shop.world.get("v1", "ConfigMap", "beside").await.is_none());
    shop.runs_image("web:1").await;
    // It is reverted there too.
    shop.world.repo.revert("r1.3", other);
    let status = shop.ran("merged-twice", shop.world.repo.head("r1.3")).await;
    assert_eq!(status.held, None);
    assert!(shop.world.get("v1", "ConfigMap", "beside").await.is_some());
    // A person may want it: what develop has since is taken once it is landed.
    shop.world.repo.force("r1.4", other);
    shop.world.status_where("merged-twice", "held again", |status| status.state == State::Held).await;
    shop.does(&["reland", "merged-twice", &merge.short(), "-y"]);
    shop.runs_image("web:2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_branch_has_newer_and_cannot_be_applied_does_not_keep_it_from_going_back() {
    let mut shop = Shop::new("bad-head").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("bad-head", json!({}))]).await;
    shop.ran("bad-head", first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.ran("bad-head", bad).await;
    shop.world.repo.commit("master", "Does not read", &[("prod/other.yaml", "a: [")]);
    shop.world.status_where("bad-head", "blocked", |status| status.state == State::Blocked).await;
    let said = shop.does(&["rollback", "bad-head", "-y"]);
    assert!(said.contains(&format!("bad-head goes back to {} at once", first.short())), "{said}");
    shop.runs_image("web:1").await;
    let status = shop.world.status("bad-head").await;
    assert!(status.running.unwrap().revision.ends_with(&first.to_string()));
    // What mends it is taken, and nothing goes back again.
    shop.world.repo.delete("master", "prod/other.yaml");
    shop.world.runs("bad-head", "master").await;
    shop.runs_image("web:1").await;
    let status = shop.world.status_where("bad-head", "over", is_settled).await;
    assert_eq!(status.rollback.unwrap().goes_to, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_back_behind_a_migration_that_stays_on_the_branch_is_stopped() {
    let mut shop = Shop::new("behind-migration").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("behind-migration", json!({"sync": "Manual"}))]).await;
    shop.world.request_sync("behind-migration", "r-1").await;
    shop.ran("behind-migration", first).await;
    let bad = shop.commit("Bad", "web:2");
    let migration = shop.world.repo.commit(
        "master",
        "Migrate\n\nNot-Revertible: rows were dropped",
        &[("prod/migrated.yaml", &config("migrated", "1"))],
    );
    let offered = |commit: CommitId| {
        move |status: &EnvironmentStatus| {
            status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&commit.to_string()))
        }
    };
    shop.world.status_where("behind-migration", "offered it", offered(migration)).await;
    shop.world.request_sync("behind-migration", "r-2").await;
    shop.ran("behind-migration", migration).await;
    let later = shop.world.repo.commit("master", "Later", &[("prod/later.yaml", &config("later", "1"))]);
    shop.world.status_where("behind-migration", "offered more", offered(later)).await;
    // The ticket alone can be reverted, but going back at once would leave the migration behind.
    let why = shop.fails(&["rollback", "behind-migration", "--ticket", &bad.short(), "-y"]);
    assert!(why.contains("rows were dropped"), "{why}");
    let said = shop.does(&[
        "rollback",
        "behind-migration",
        "--ticket",
        &bad.short(),
        "--override",
        "--reason",
        "it is empty",
        "--dry-run",
    ]);
    assert!(
        said.contains("until it moves on, behind-migration is also without:") && said.contains("Migrate"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_rollback_is_brought_to_its_end_before_another_and_no_request_is_done_twice() {
    let mut shop = Shop::new("one-by-one").await;
    let server = GitServer::start(shop.world.folder());
    let (url, port) = (server.url("deploy.git"), server.port());
    let first = shop.world.repo.head("master");
    shop.begin_with(json!({"url": url, "interval": "2s"}), &[("one-by-one", json!({}))]).await;
    shop.ran("one-by-one", first).await;
    let second = shop.commit("Second", "web:2");
    shop.ran("one-by-one", second).await;
    let bad = shop.commit("Bad", "web:3");
    shop.ran("one-by-one", bad).await;
    drop(server);
    let is_away =
        |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("repository shop"));
    shop.world.status_where("one-by-one", "without git", is_away).await;
    shop.does(&["rollback", "one-by-one", "--emergency", "-y"]);
    shop.runs_image("web:2").await;
    let why = shop.fails(&["rollback", "one-by-one", "--to", &first.short(), "-y"]);
    assert!(why.contains("another rollback is under way"), "{why}");
    let begun = shop.world.status("one-by-one").await.rollback.unwrap();
    // A ticket alone would leave the other one without its revert.
    let why = shop.fails(&["rollback", "one-by-one", "--emergency", "--ticket", &second.short(), "-y"]);
    assert!(why.contains("another rollback is under way"), "{why}");
    // That one was no good either: it goes further back, and both are taken back.
    let why = shop.fails(&["rollback", "one-by-one", "--emergency", "-y"]);
    assert!(why.contains("name an older release with --to"), "{why}");
    shop.does(&["rollback", "one-by-one", "--emergency", "--to", &first.short(), "-y"]);
    shop.runs_image("web:1").await;
    let _server = GitServer::start_on(shop.world.folder(), port);
    shop.world.status_where("one-by-one", "over", |status| phase(status) == Some(RollbackPhase::Done)).await;
    shop.world.runs("one-by-one", "master").await;
    assert_eq!(shop.subjects()[..2], ["Revert \"Second\"", "Revert \"Bad\""]);
    assert_eq!(shop.tree("master"), shop.tree(&first.to_string()));
    let third = shop.commit("Third", "web:4");
    shop.ran("one-by-one", third).await;

    // The very same request again, written by somebody who found it, is nothing new: not even after another one.
    shop.does(&["rollback", "one-by-one", "--to", &first.short(), "--dry-run"]);
    let head = shop.world.repo.head("master");
    let status = shop.world.status("one-by-one").await;
    assert!(status.answered.contains(&begun.id));
    let again = ask(&begun.id, json!({"to": first.to_string()}), status.prepared.unwrap().digest.as_deref());
    shop.world.patch(ENVIRONMENT.0, ENVIRONMENT.1, "one-by-one", again).await;
    let late = json!({"id": "late", "at": "2199-01-01T00:00:00Z", "wish": {}}).to_string();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shop.world.repo.head("master"), head);
    let late = json!({"metadata": {"annotations": {"towpath.dev/rollback": late, "towpath.dev/rollbackBy": "admin"}}});
    shop.world.patch(ENVIRONMENT.0, ENVIRONMENT.1, "one-by-one", late).await;
    let is_told = |status: &EnvironmentStatus| {
        status.prepared.as_ref().is_some_and(|answer| answer.id == "late" && answer.phase == RollbackPhase::Refused)
    };
    shop.world.status_where("one-by-one", "told that it is to come", is_told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_before_one_that_landed_something_again_is_the_one_without_that() {
    let mut shop = Shop::new("landed-again").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("landed-again", json!({}))]).await;
    shop.ran("landed-again", first).await;
    let slow = shop.commit("Slow", "web:2");
    shop.ran("landed-again", slow).await;
    let good = shop.world.repo.commit("master", "Good", &[("prod/good.yaml", &config("good", "1"))]);
    shop.ran("landed-again", good).await;
    shop.does(&["rollback", "landed-again", "--ticket", &slow.short(), "-y"]);
    let without = shop.world.repo.head("master");
    shop.ran("landed-again", without).await;
    shop.does(&["reland", "landed-again", &slow.short(), "-y"]);
    shop.ran("landed-again", shop.world.repo.head("master")).await;
    let said = shop.does(&["rollback", "landed-again", "-y"]);
    assert!(said.contains(&format!("back to {}", without.short())), "{said}");
    assert!(said.contains("image: web:2 → web:1") && !said.contains("ConfigMap"), "{said}");
    // What was landed and taken back once more is nothing to go back to either.
    let next = shop.commit("Next", "web:3");
    shop.ran("landed-again", next).await;
    let said = shop.does(&["rollback", "landed-again", "--dry-run"]);
    assert!(said.contains("image: web:3 → web:1") && !said.contains("ConfigMap"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_landed_again_by_hand_is_not_rolled_back_any_more() {
    let mut shop = Shop::new("landed-by-hand").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("landed-by-hand", json!({}))]).await;
    shop.ran("landed-by-hand", first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.ran("landed-by-hand", bad).await;
    shop.does(&["rollback", "landed-by-hand", "-y"]);
    let revert = shop.world.repo.head("master");
    let status = shop.ran("landed-by-hand", revert).await;
    assert_eq!(status.rolled_back.len(), 1);
    let unrelated = shop.world.repo.commit("master", "Other", &[("prod/other.yaml", &config("other", "1"))]);
    let status = shop.ran("landed-by-hand", unrelated).await;
    assert_eq!(status.rolled_back.len(), 1);
    shop.ran("landed-by-hand", shop.world.repo.revert("master", revert)).await;
    shop.runs_image("web:2").await;
    shop.world.status_where("landed-by-hand", "without it", |status| status.rolled_back.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn landing_something_else_does_not_end_a_rollback_that_cannot_be_pushed_yet() {
    let mut shop = Shop::new("not-for-this").await;
    let server = GitServer::start(shop.world.folder());
    let first = shop.world.repo.head("master");
    let url = server.url("deploy.git");
    shop.begin_with(json!({"url": url, "interval": "2s"}), &[("not-for-this", json!({}))]).await;
    shop.ran("not-for-this", first).await;
    let slow = shop.world.repo.commit("master", "Slow", &[("prod/slow.yaml", &config("slow", "1"))]);
    shop.ran("not-for-this", slow).await;
    shop.does(&["rollback", "not-for-this", "-y"]);
    shop.ran("not-for-this", shop.world.repo.head("master")).await;
    let bad = shop.commit("Bad", "web:2");
    shop.ran("not-for-this", bad).await;
    let spec = |secret: Value| json!({"spec": {"writeSecretRef": secret}});
    let (version, kind) = ("towpath.dev/v1alpha1", "Repository");
    shop.world.patch(version, kind, "shop", spec(json!({"name": "not-there"}))).await;
    shop.does(&["rollback", "not-for-this", "--emergency", "-y"]);
    shop.runs_image("web:1").await;
    let begun = shop.world.status("not-for-this").await.rollback.unwrap();
    let why = shop.fails(&["reland", "not-for-this", &slow.short(), "-y"]);
    assert!(why.contains("another rollback is under way") && why.contains(&bad.short()), "{why}");
    assert_eq!(shop.world.status("not-for-this").await.rollback.unwrap().id, begun.id);
    shop.world.patch(version, kind, "shop", spec(Value::Null)).await;
    shop.world.status_where("not-for-this", "over", |status| phase(status) == Some(RollbackPhase::Done)).await;
    assert_eq!(shop.subjects()[0], "Revert \"Bad\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_is_renamed_stays_away_from_what_was_rolled_back() {
    let mut shop = Shop::new("renamed-held").await;
    let server = GitServer::start(shop.world.folder());
    let (first, _) = shop.ran_a_bad_release("renamed-held", &server).await;
    let protected = hook(&shop, "update", super::pushing::PROTECTED);
    shop.does(&["rollback", "renamed-held", "-y"]);
    shop.runs_image("web:1").await;
    let status = shop.world.status_where("renamed-held", "held", is_held_on(first)).await;
    let branch = status.rollback.unwrap().branch.unwrap();
    let generation = |object: Option<Value>| object.unwrap()["metadata"]["generation"].clone();
    let before = generation(shop.world.get("apps/v1", "Deployment", "web").await);
    shop.environment("renamed-held-new", &json!({"movedFrom": "renamed-held"})).await;
    let status = shop.world.status_where("renamed-held-new", "held too", is_held_on(first)).await;
    assert!(status.held.unwrap().contains(&format!("waits for {branch} to be merged")));
    shop.world.plane.kubectl(&["delete", "environment/renamed-held", "-n", "renamed-held"]).unwrap();
    std::fs::remove_file(protected).unwrap();
    shop.world.repo.merge("master", &branch);
    shop.world.runs("renamed-held-new", "master").await;
    let status = shop.world.status_where("renamed-held-new", "settled", is_settled).await;
    assert_eq!((phase(&status), status.held), (Some(RollbackPhase::Done), None));
    let after = generation(shop.world.get("apps/v1", "Deployment", "web").await);
    assert_eq!(after, before, "it changed hands, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_what_was_made_ready_is_answered_once_and_disturbs_nothing() {
    let mut shop = Shop::new("no-flapping").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("no-flapping", json!({"timeout": "10s"}))]).await;
    shop.ran("no-flapping", first).await;
    shop.commit("A bad image", "web:2-crash");
    shop.world.status_where("no-flapping", "offered a rollback", |status| status.prepared.is_some()).await;
    shop.does(&["rollback", "no-flapping", "--dry-run"]);
    let before = shop.world.status("no-flapping").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = shop.world.status("no-flapping").await;
    assert_eq!((before.prepared, before.answered), (after.prepared, after.answered));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_settings_that_are_no_good_take_no_commit_back() {
    let mut shop = Shop::new("settings").await;
    shop.commit("Before", "web:0");
    let before = shop.world.repo.head("master");
    let rules = json!({"automatic": ["Degraded"]});
    shop.begin(&[("settings", json!({"timeout": "10s", "rollback": rules}))]).await;
    shop.ran("settings", before).await;
    let good = shop.commit("Good", "web:1");
    shop.ran("settings", good).await;
    // The same commit, which was healthy, and something else that breaks it.
    shop.commit("Bad", "web:1-crash");
    shop.world.status_where("settings", "back by itself", |status| phase(status) == Some(RollbackPhase::Done)).await;
    let revert = shop.world.repo.head("master");
    shop.ran("settings", revert).await;
    shop.world
        .patch("apps/v1", "Deployment", "web", json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}))
        .await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(shop.world.repo.head("master"), revert);
}

#[tokio::test(flavor = "multi_thread")]
async fn reverts_that_a_forge_merged_as_one_commit_are_recognised_and_not_landed_again_by_nothing() {
    let mut shop = Shop::new("as-one").await;
    let server = GitServer::start(shop.world.folder());
    let first = shop.world.repo.head("master");
    shop.begin_with(json!({"url": server.url("deploy.git"), "interval": "2s"}), &[("as-one", json!({}))]).await;
    shop.ran("as-one", first).await;
    let second = shop.commit("Second", "web:2");
    shop.ran("as-one", second).await;
    let third = shop.commit("Third", "web:3");
    shop.ran("as-one", third).await;
    let protected =
        hook(&shop, "update", "[ \"$1\" != refs/heads/master ] || { echo 'master is protected' >&2; exit 1; }");
    shop.does(&["rollback", "as-one", "--to", &first.short(), "-y"]);
    let waits = |status: &EnvironmentStatus| status.state == State::Held;
    shop.world.status_where("as-one", "waiting for a merge", waits).await;
    std::fs::remove_file(protected).unwrap();
    // One commit, whose message says nothing of what it takes back, and another one right after it.
    shop.commit("Go back (!8)", "web:1");
    shop.world.repo.commit("master", "Beside", &[("prod/beside.yaml", &config("beside", "1"))]);
    shop.world.status_where("as-one", "over", |status| phase(status) == Some(RollbackPhase::Done)).await;
    shop.runs_image("web:1").await;
    shop.world.runs("as-one", "master").await;
    let status = shop.world.status_where("as-one", "settled", is_settled).await;
    assert_eq!(status.held, None);
    let head = shop.world.repo.head("master");
    let why = shop.fails(&["reland", "as-one", &third.short(), "-y"]);
    assert!(why.contains("which does not say so"), "{why}");
    assert_eq!(shop.world.repo.head("master"), head);
}
