//! Rollbacks of components: a pin is one value, and its image may be gone.

use support::deploy_repo::DeployRepo;
use support::registry::{Access, Registry};

use super::*;

/// How long the agent takes the answer of a registry for that to the same question.
const ANSWERS_ARE_SHARED: Duration = Duration::from_secs(11);

/// A shop with a component `web` beside its deploy repository, pinned to its first commit; its image has the tag of its
/// commit.
async fn with_component(name: &str, registry: &str, check: &str) -> (Shop, DeployRepo) {
    let mut world = World::new(name).await;
    world.own_key("east").await;
    let web = DeployRepo::new(world.folder().join("web.git"));
    web.commit("master", "The first", &[("main.rs", "1")]);
    let declared = declared(registry, "{{short}}", check);
    let template = deployment("web", "IMAGE").replace("IMAGE", "{{components.web.image}}");
    let files = [
        ("towpath.yaml", declared.as_str()),
        ("templates/web.yaml.hbs", template.as_str()),
        ("environments/all/values.yaml", "{}\n"),
    ];
    world.repo.commit("master", "The shop", &files);
    world.repo.submodule("master", "components/web", "../web.git", web.head("master"));
    (Shop { world }, web)
}

/// A `towpath.yaml` with the component.
fn declared(registry: &str, tag: &str, check: &str) -> String {
    format!(
        "components:\n  web:\n    path: components/web\n    image: {registry}/web\n    tag: \"{tag}\"\n    check: {check}\n"
    )
}

fn pin(shop: &Shop, web: &DeployRepo) -> CommitId {
    shop.world.repo.submodule("master", "components/web", "../web.git", web.head("master"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bump_is_taken_back_and_not_made_again_and_one_that_moved_since_names_three_commits() {
    let (mut shop, web) = with_component("bump-back", "registry.example", "Never").await;
    let (one, first) = (web.head("master"), shop.world.repo.head("master"));
    let bumps = json!([{"lane": "master", "bump": "Commit", "window": "0s"}]);
    let spec = json!({"interval": "2s", "steward": true, "bumps": bumps});
    shop.begin_with(spec, &[("bump-back", json!({"path": "environments/all"}))]).await;
    shop.ran("bump-back", first).await;
    let two = web.commit("master", "The second", &[("main.rs", "2")]);
    shop.runs_image(&format!("registry.example/web:{}", two.short())).await;
    let bumped = shop.world.repo.head("master");
    shop.ran("bump-back", bumped).await;
    let said = shop.does(&["rollback", "bump-back", "-y"]);
    assert!(said.contains(&format!("web:{} → registry.example/web:{}", two.short(), one.short())), "{said}");
    let next = format!("on with its next commit, which has {} in it unless that is reverted there", two.short());
    assert!(said.contains(&next), "{said}");
    shop.runs_image(&format!("registry.example/web:{}", one.short())).await;
    let reverted = shop.world.repo.head("master");
    shop.ran("bump-back", reverted).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shop.world.repo.head("master"), reverted, "it is not bumped again");

    // The next one goes on; the one before that cannot be taken back alone any more.
    let three = web.commit("master", "The third", &[("main.rs", "3")]);
    shop.runs_image(&format!("registry.example/web:{}", three.short())).await;
    let third = shop.world.repo.head("master");
    shop.ran("bump-back", third).await;
    let four = web.commit("master", "The fourth", &[("main.rs", "4")]);
    shop.runs_image(&format!("registry.example/web:{}", four.short())).await;
    shop.ran("bump-back", shop.world.repo.head("master")).await;
    let why = shop.fails(&["rollback", "bump-back", "--ticket", &third.short(), "--dry-run"]);
    for commit in [one, three, four] {
        assert!(why.contains(&commit.to_string()), "{commit}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_image_is_gone_is_not_gone_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), Access::Open).await.unwrap();
    let host = registry.address().to_string();
    let (mut shop, web) = with_component("image-gone", &host, "Exists").await;
    let image = |commit: CommitId| commit.short();
    let one = web.head("master");
    let digest = registry.push("web", &image(one), "one").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("image-gone", json!({"path": "environments/all"}))]).await;
    shop.ran("image-gone", first).await;
    let two = web.commit("master", "The second", &[("main.rs", "2")]);
    registry.push("web", &image(two), "two").await;
    let second = pin(&shop, &web);
    shop.ran("image-gone", second).await;
    registry.delete("web", &digest).await;
    // What was asked a moment ago is not asked again.
    tokio::time::sleep(ANSWERS_ARE_SHARED).await;
    let why = shop.fails(&["rollback", "image-gone", "-y"]);
    assert!(why.contains(&format!("web:{}", one.short())) && why.contains("does not have it"), "{why}");
    assert_eq!(shop.world.repo.head("master"), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_cannot_go_back_by_itself_for_want_of_an_image_is_told_and_goes_back_when_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), Access::Open).await.unwrap();
    let host = registry.address().to_string();
    let (mut shop, web) = with_component("image-awaited", &host, "Exists").await;
    let tag = web.head("master").short();
    let digest = registry.push("web", &tag, "one").await;
    let first = shop.world.repo.head("master");
    let spec = json!({"path": "environments/all", "timeout": "10s", "rollback": {"automatic": ["Degraded"]}});
    shop.begin(&[("image-awaited", spec)]).await;
    shop.ran("image-awaited", first).await;
    registry.push("web", &format!("{tag}-crash"), "two").await;
    let text = declared(&host, "{{short}}-crash", "Exists");
    let bad = shop.world.repo.commit("master", "Another tag", &[("towpath.yaml", &text)]);
    shop.runs_image(&format!("{host}/web:{tag}-crash")).await;
    registry.delete("web", &digest).await;
    let is_told = |status: &EnvironmentStatus| status.prepared.is_some();
    let status = shop.world.status_where("image-awaited", "told what keeps it", is_told).await;
    let told = status.prepared.unwrap();
    assert!(told.lines[0].contains("cannot go back by itself yet"), "{:#?}", told.lines);
    assert!(told.lines[1].contains(&format!("web:{tag} ")) && told.lines[1].contains("does not have it"), "{told:#?}");
    assert_eq!((told.phase, shop.world.repo.head("master")), (RollbackPhase::Refused, bad));
    registry.push("web", &tag, "one").await;
    shop.runs_image(&format!("{host}/web:{tag}")).await;
    let is_back = |status: &EnvironmentStatus| phase(status) == Some(RollbackPhase::Done);
    let status = shop.world.status_where("image-awaited", "back by itself", is_back).await;
    assert_eq!((status.prepared, status.tried), (None, vec![bad.to_string()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_emergency_an_image_that_ran_counts_as_there_unless_its_registry_says_that_it_is_gone() {
    for (name, check) in [("alone-exists", "Exists"), ("alone-digest", "Digest")] {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::start(folder.path(), Access::Open).await.unwrap();
        let host = registry.address().to_string();
        let (mut shop, web) = with_component(name, &host, check).await;
        let server = GitServer::start(shop.world.folder());
        let tag = web.head("master").short();
        let digest = registry.push("web", &tag, "one").await;
        let first = shop.world.repo.head("master");
        let repository = json!({"url": server.url("deploy.git"), "interval": "2s"});
        shop.begin_with(repository, &[(name, json!({"path": "environments/all"}))]).await;
        shop.ran(name, first).await;
        let two = web.commit("master", "The second", &[("main.rs", "2")]);
        registry.push("web", &two.short(), "two").await;
        let second = pin(&shop, &web);
        shop.ran(name, second).await;
        drop(server);
        let is_away =
            |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("repository shop"));
        shop.world.status_where(name, "without git", is_away).await;
        registry.delete("web", &digest).await;
        tokio::time::sleep(ANSWERS_ARE_SHARED).await;
        let why = shop.fails(&["rollback", name, "--emergency", "-y"]);
        assert!(why.contains(&format!("web:{tag} ")) && why.contains("does not have it"), "{why}");

        registry.go_away();
        // An agent that has looked nothing up yet.
        shop.world.kill_agent();
        shop.world.start_agent();
        shop.world.status_where(name, "without git", is_away).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let said = shop.does(&["rollback", name, "--emergency", "-y"]);
        let line = said.lines().find(|line| line.starts_with("not known, and done all the same: image ")).unwrap_or("");
        assert!(line.contains(&format!("web:{tag} ")) && line.contains("cannot be reached"), "{said}");
        let wanted = format!("{host}/web:{tag}");
        let wanted = if check == "Digest" { format!("{wanted}@{digest}") } else { wanted };
        shop.runs_image(&wanted).await;
        let status = shop.world.status(name).await;
        assert_eq!(phase(&status), Some(RollbackPhase::WaitsForGit));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_component_cannot_be_fetched_any_more_is_not_gone_back_to() {
    let (mut shop, web) = with_component("commit-gone", "registry.example", "Never").await;
    let one = web.head("master");
    let first = shop.world.repo.head("master");
    shop.begin(&[("commit-gone", json!({"path": "environments/all"}))]).await;
    shop.ran("commit-gone", first).await;
    // Its history is written anew, without the commit that was released first.
    let tree = web.git().find_commit(support::deploy_repo::oid(one)).unwrap().tree_id();
    web.delete_branch("master");
    web.commit_tree("master", "Written anew", tree);
    let second = pin(&shop, &web);
    shop.ran("commit-gone", second).await;
    shop.world.kill_agent();
    std::fs::remove_dir_all(shop.world.folder().join("cache")).unwrap();
    support::git_server::git(web.path())
        .arg("-C")
        .arg(web.path())
        .args(["gc", "--prune=now", "--quiet"])
        .status()
        .unwrap();
    assert!(web.git().find_commit(support::deploy_repo::oid(one)).is_err(), "it is gone");
    shop.world.start_agent();
    shop.world.runs("commit-gone", "master").await;
    let (code, said, why) = shop.towpath(&["rollback", "commit-gone", "--to", &first.short(), "-y"]);
    assert_ne!(code, 0, "{said}");
    assert!(why.contains(&one.to_string()) || why.contains("has not answered"), "{said}{why}");
    assert_eq!(shop.world.repo.head("master"), second, "nothing was pushed");
}
