//! Rollbacks where one environment waits for another, and where a sync is on its way.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn prod_two_tickets_behind_staging_goes_back_and_nothing_untested_reaches_it() {
    let mut shop = Shop::new("two-stages").await;
    shop.world.namespace_for_deployer("two-stages-prod").await;
    let first = shop.world.repo.head("master");
    let prod = json!({
        "sync": "Manual", "namespace": "two-stages-prod", "allow": {"namespaces": ["two-stages-prod"]},
        "after": [{"environment": "two-stages", "soak": "1s"}],
    });
    shop.begin_with(json!({"interval": "2s", "ledger": {}}), &[("two-stages", json!({})), ("two-stages-prod", prod)])
        .await;
    shop.ran("two-stages", first).await;
    let release = async |shop: &Shop, commit: CommitId, id: &str| {
        let passed = |status: &EnvironmentStatus| {
            status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&commit.to_string()))
        };
        shop.world.status_where("two-stages-prod", &format!("offered {commit}"), passed).await;
        shop.world.request_sync("two-stages-prod", id).await;
        shop.ran("two-stages-prod", commit).await;
    };
    release(&shop, first, "r-1").await;
    let bad = shop.commit("Bad", "web:2");
    shop.ran("two-stages", bad).await;
    release(&shop, bad, "r-2").await;
    shop.world.repo.commit("master", "Newer", &[("prod/newer.yaml", &config("newer", "1"))]);
    let head = shop.world.repo.commit("master", "Newest", &[("prod/newest.yaml", &config("newest", "1"))]);
    shop.ran("two-stages", head).await;

    let said = shop.does(&["rollback", "two-stages-prod", "-y"]);
    assert!(said.contains("master has moved on by 2 commits that two-stages-prod does not run"), "{said}");
    assert!(said.contains("two-stages follows by itself: 1 object changes"), "{said}");
    let web = |object: &Value| image(object) == "web:1";
    let found = || async { shop.world.get_in("two-stages-prod", "apps/v1", "Deployment", "web").await.unwrap() };
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while !web(&found().await) {
        assert!(std::time::Instant::now() < deadline, "{}", shop.world.agent_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = shop.world.status("two-stages-prod").await;
    assert!(status.running.as_ref().unwrap().revision.ends_with(&first.to_string()), "{status:#?}");
    // Staging tests what master is now; only then prod may have it.
    let reverted = shop.world.repo.head("master");
    shop.ran("two-stages", reverted).await;
    shop.runs_image("web:1").await;
    for name in ["newer", "newest"] {
        assert!(shop.world.get("v1", "ConfigMap", name).await.is_some());
        assert!(
            shop.world.get_in("two-stages-prod", "v1", "ConfigMap", name).await.is_none(),
            "{name} is untested there"
        );
    }
    release(&shop, reverted, "r-3").await;
    assert!(shop.world.get_in("two-stages-prod", "v1", "ConfigMap", "newest").await.is_some());
    let status = shop.world.status_where("two-stages-prod", "settled", is_settled).await;
    assert_eq!(status.history.iter().filter(|sync| sync.trigger == Trigger::Rollback).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_staging_rolled_back_is_not_offered_to_prod_however_long_it_ran_well() {
    let mut shop = Shop::new("well-and-wrong").await;
    shop.world.namespace_for_deployer("well-and-wrong-prod").await;
    let server = GitServer::start(shop.world.folder());
    let first = shop.world.repo.head("master");
    let prod = json!({
        "sync": "Manual", "namespace": "well-and-wrong-prod", "allow": {"namespaces": ["well-and-wrong-prod"]},
        "after": [{"environment": "well-and-wrong", "soak": "1s"}],
    });
    let repository = json!({"url": server.url("deploy.git"), "interval": "2s", "ledger": {}});
    shop.begin_with(repository, &[("well-and-wrong", json!({})), ("well-and-wrong-prod", prod)]).await;
    shop.ran("well-and-wrong", first).await;
    let is_offered = |commit: CommitId| {
        move |status: &EnvironmentStatus| {
            status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&commit.to_string()))
        }
    };
    shop.world.status_where("well-and-wrong-prod", "offered the first", is_offered(first)).await;
    shop.world.request_sync("well-and-wrong-prod", "r-1").await;
    shop.ran("well-and-wrong-prod", first).await;
    let bad = shop.commit("Well and wrong", "web:2");
    shop.ran("well-and-wrong", bad).await;
    shop.world.status_where("well-and-wrong-prod", "offered what passed", is_offered(bad)).await;

    // Its revert waits to be merged, so nothing newer passes meanwhile.
    let protected = hook(&shop, "update", super::pushing::PROTECTED);
    shop.does(&["rollback", "well-and-wrong", "-y"]);
    shop.ran("well-and-wrong", first).await;
    let status = shop.world.status_where("well-and-wrong", "held", |status| status.state == State::Held).await;
    let branch = status.rollback.unwrap().branch.unwrap();
    let is_told = |status: &EnvironmentStatus| {
        status.gate.as_ref().is_some_and(|gate| gate.message.ends_with("well-and-wrong, where it was rolled back"))
    };
    let told = |status: &EnvironmentStatus| is_told(status) && !is_offered(bad)(status);
    shop.world.status_where("well-and-wrong-prod", "told that it was rolled back", told).await;
    shop.does(&["sync", "well-and-wrong-prod"]);
    // An agent that reads the records anew comes to the same.
    shop.world.kill_agent();
    shop.world.start_agent();
    let again = shop.world.repo.commit("master", "Newer", &[("prod/newer.yaml", &config("newer", "1"))]);
    let is_known = |status: &EnvironmentStatus| {
        status.gate.as_ref().is_some_and(|gate| gate.revision.ends_with(&again.to_string()))
    };
    let status = shop.world.status_where("well-and-wrong-prod", "waiting with the newer one", is_known).await;
    assert!(status.running.as_ref().unwrap().revision.ends_with(&first.to_string()), "{status:#?}");
    std::fs::remove_file(protected).unwrap();
    let merged = shop.world.repo.merge("master", &branch);
    shop.ran("well-and-wrong", merged).await;
    // What was asked for waited for something that passed.
    let status = shop.ran("well-and-wrong-prod", merged).await;
    assert!(!status.history.iter().any(|sync| sync.revision.ends_with(&bad.to_string())), "{status:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_hangs_in_a_wave_is_rolled_back_before_it_ran_as_a_whole() {
    let mut shop = Shop::new("in-a-wave").await;
    let early = |image: &str| {
        let mut early: Value = serde_saphyr::from_str(&deployment("early", image)).unwrap();
        early["metadata"]["annotations"] = json!({"towpath.dev/wave": "-1"});
        early.to_string()
    };
    shop.world.repo.commit("master", "Waves", &[("prod/early.yaml", &early("early:1"))]);
    let first = shop.world.repo.head("master");
    shop.begin(&[("in-a-wave", json!({"timeout": "5m"}))]).await;
    shop.ran("in-a-wave", first).await;
    let text = deployment("web", "web:2");
    let bad = shop.world.repo.commit(
        "master",
        "Hangs",
        &[("prod/early.yaml", &early("early:2-crash")), ("prod/web.yaml", &text)],
    );
    let waits = |status: &EnvironmentStatus| {
        status.sync.as_ref().is_some_and(|sync| sync.revision.ends_with(&bad.to_string()) && sync.waits.is_some())
    };
    shop.world.status_where("in-a-wave", "waiting in a wave", waits).await;
    let said = shop.does(&["rollback", "in-a-wave", "-y"]);
    assert!(said.contains("in-a-wave is on") && said.contains("Hangs"), "{said}");
    assert!(said.contains("in-a-wave goes to the revert: 2 objects change"), "{said}");
    assert!(said.contains("image: early:2-crash → early:1"), "what is there already: {said}");
    let is_it = |object: &Value| image(object) == "early:1";
    shop.world.object_where("apps/v1", "Deployment", "early", "as it was", is_it).await;
    shop.runs_image("web:1").await;
    shop.world.runs("in-a-wave", "master").await;
    assert_eq!(shop.subjects()[..2], ["Revert \"Hangs\"", "Hangs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_of_many_changes_names_every_environment_and_counts_the_lines_that_it_leaves_out() {
    let mut shop = Shop::new("many-lines").await;
    shop.world.namespace_for_deployer("many-lines-too").await;
    let release = |shop: &Shop, message: &str, value: &str| {
        let data: serde_json::Map<String, Value> = (0..5).map(|key| (format!("key{key}"), json!(value))).collect();
        let object =
            |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        let files: Vec<(String, String)> =
            (0..25).map(|n| (format!("prod/c{n}.yaml"), object(&format!("c{n:02}")).to_string())).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        shop.world.repo.commit("master", message, &files)
    };
    let first = release(&shop, "Little", "1");
    let too = json!({"namespace": "many-lines-too", "allow": {"namespaces": ["many-lines-too"]}});
    shop.begin(&[("many-lines", json!({})), ("many-lines-too", too)]).await;
    shop.ran("many-lines", first).await;
    shop.ran("many-lines-too", first).await;
    let bad = release(&shop, "Much", "2");
    shop.ran("many-lines", bad).await;
    shop.ran("many-lines-too", bad).await;
    let said = shop.does(&["rollback", "many-lines", "--dry-run"]);
    assert!(said.contains("many-lines goes to the revert: 25 objects change"), "{said}");
    assert!(said.contains("many-lines-too follows by itself: 25 objects change"), "{said}");
    assert_eq!(said.lines().filter(|line| line.ends_with(" more lines")).count(), 2, "{said}");
    assert!(said.lines().count() <= towpath_core::status::MAX_LINES, "{said}");
}
