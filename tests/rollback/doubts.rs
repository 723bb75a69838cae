//! What only looks like the fault of a release, and what would take more back than anybody means.

use jiff::Timestamp;
use support::alertmanager::{Access, Alertmanager};
use towpath_core::health::Health;

use super::pushing::PROTECTED;
use super::*;

/// The rollback that the agent made ready for a person, and why.
async fn prepared(shop: &Shop, name: &str, from: CommitId) -> String {
    let is_told = |status: &EnvironmentStatus| {
        let told = status.prepared.as_ref().filter(|told| told.phase == RollbackPhase::Prepared);
        told.is_some_and(|told| told.from.as_ref().is_some_and(|on| on.ends_with(&from.to_string())))
    };
    let status = shop.world.status_where(name, "prepared", is_told).await;
    assert_eq!(status.rollback, None, "nothing was done");
    status.prepared.unwrap().lines[1].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_changes_nothing_here_is_not_blamed_by_itself() {
    let mut shop = Shop::new("no-change").await;
    let alertmanager = Alertmanager::start(&shop.world.folder(), Access::Open).await.unwrap();
    let first = shop.world.repo.head("master");
    let alerts = json!({"url": alertmanager.url(), "filter": ["namespace=\"no-change\""]});
    let spec = json!({"rollback": {"automatic": ["Alert"], "alerts": alerts}});
    shop.begin(&[("no-change", spec)]).await;
    shop.ran("no-change", first).await;
    let other = shop.world.repo.commit("master", "Of another team", &[("billing/c.yaml", &config("billing", "1"))]);
    shop.ran("no-change", other).await;
    alertmanager.fire(json!({"alertname": "Slow", "namespace": "no-change"}), json!({}), Timestamp::now()).await;
    let why = prepared(&shop, "no-change", other).await;
    assert_eq!(why, "a rollback waits for a person: taking it back changes nothing in no-change");
    assert_eq!(shop.world.repo.head("master"), other);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_back_from_master_is_not_taken_out_of_it_by_itself() {
    let mut shop = Shop::new("merge-back").await;
    shop.world.repo.branch("r1.3", "master");
    let first = shop.world.repo.head("r1.3");
    let rules = json!({"automatic": ["Degraded"]});
    shop.world.namespace_for_deployer("merge-back-prod").await;
    let prod = json!({"lane": "master", "sync": "Manual", "namespace": "merge-back-prod",
                      "allow": {"namespaces": ["merge-back-prod"]}});
    let test = json!({"lane": "release", "timeout": "10s", "rollback": rules});
    shop.begin_with(json!({"interval": "1s"}), &[("merge-back", test), ("merge-back-prod", prod)]).await;
    shop.ran("merge-back", first).await;
    // A fix for production, which does not go well with what test has.
    let files = [("prod/web.yaml", &*deployment("web", "web:1.2.1-crash"))];
    let hotfix = shop.world.repo.commit("master", "Mend production", &files);
    let merged = shop.world.repo.merge("r1.3", "master");
    let why = prepared(&shop, "merge-back", merged).await;
    let brought = format!(
        "{} brought {} from master: taking it back takes that out of master too once r1.3 is merged there",
        merged.short(),
        hotfix.short()
    );
    assert_eq!(why, format!("a rollback waits for a person: {brought}"));
    assert_eq!(shop.world.repo.head("r1.3"), merged);
    let said = shop.does(&["rollback", "merge-back", "--dry-run"]);
    assert!(said.contains(&brought), "{said}");
    let again =
        format!("merging that again brings nothing back: to land it again, towpath reland r1.3 {}", merged.short());
    assert!(said.contains(&again), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_not_blamed_by_itself_for_settings_that_are_no_good() {
    let mut shop = Shop::new("bad-settings").await;
    let files = [("worse/web.yaml", &*deployment("web", "web:1-crash"))];
    let first = shop.world.repo.commit("master", "The first release", &files);
    let spec = json!({"timeout": "10s", "rollback": {"automatic": ["Degraded"]}});
    shop.begin(&[("bad-settings", spec)]).await;
    shop.ran("bad-settings", first).await;
    shop.world.status_where("bad-settings", "healthy", |status| status.health == Some(Health::Healthy)).await;
    let patch = json!({"spec": {"path": "worse"}});
    shop.world.patch("towpath.dev/v1alpha1", "Environment", "bad-settings", patch).await;
    shop.world.status_where("bad-settings", "not healthy", |status| status.health != Some(Health::Healthy)).await;
    let files = [("worse/c.yaml", &*config("innocent", "1"))];
    let innocent = shop.world.repo.commit("master", "Innocent", &files);
    let why = prepared(&shop, "bad-settings", innocent).await;
    assert_eq!(why, format!("a rollback waits for a person: {} was not healthy when it ran last", first.short()));
    assert_eq!(shop.world.repo.head("master"), innocent);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rolls_back_after_somebody_else_did_goes_no_further_back_without_saying_so() {
    let mut shop = Shop::new("second").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("second", json!({}))]).await;
    shop.ran("second", first).await;
    let good = shop.commit("Good", "web:2");
    shop.ran("second", good).await;
    let bad = shop.commit("Bad", "web:3");
    shop.ran("second", bad).await;
    shop.does(&["rollback", "second", "-y"]);
    let revert = shop.world.repo.head("master");
    shop.ran("second", revert).await;
    let why = shop.fails(&["rollback", "second", "-y"]);
    assert!(why.contains(&format!("second runs what a rollback came to: {}", revert.short())), "{why}");
    assert!(why.contains("to go further back name the release: --to second@1"), "{why}");
    assert_eq!(shop.world.repo.head("master"), revert);
    shop.runs_image("web:2").await;
    shop.does(&["rollback", "second", "--to", "second@1", "-y"]);
    shop.runs_image("web:1").await;

    // The same where it is held on what it went back to.
    let mut other = Shop::new("second-held").await;
    let first = other.world.repo.head("master");
    let server = GitServer::start(other.world.folder());
    let repository = json!({"url": server.url("deploy.git"), "interval": "2s"});
    other.begin_with(repository, &[("second-held", json!({}))]).await;
    other.ran("second-held", first).await;
    let good = other.commit("Good", "web:2");
    other.ran("second-held", good).await;
    let bad = other.commit("Bad", "web:3");
    other.ran("second-held", bad).await;
    hook(&other, "update", PROTECTED);
    other.does(&["rollback", "second-held", "-y"]);
    let status = other.world.status_where("second-held", "back, and held", is_held_on(good)).await;
    let held = status.held.unwrap();
    assert!(held.contains(&format!("towpath reland second-held {}", bad.short())), "{held}");
    let why = other.fails(&["rollback", "second-held", "-y"]);
    assert!(why.contains(&format!("was rolled back already, and is held on {}", good.short())), "{why}");
    other.runs_image("web:2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_that_wait_for_a_confirmation_are_named_before_and_after() {
    let mut shop = Shop::new("many-gone").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("many-gone", json!({}))]).await;
    shop.ran("many-gone", first).await;
    let files: Vec<(String, String)> =
        (0..8).map(|number| (format!("prod/c{number}.yaml"), config(&format!("c{number}"), "1"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let bad = shop.world.repo.commit("master", "Bad", &files);
    shop.ran("many-gone", bad).await;
    let said = shop.does(&["rollback", "many-gone", "-y"]);
    assert!(said.contains("8 of the deletions wait for a confirmation after that"), "{said}");
    assert!(said.contains("; 8 objects stay until towpath confirm many-gone"), "{said}");
    assert!(shop.world.get("v1", "ConfigMap", "c0").await.is_some());
}
