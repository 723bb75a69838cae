//! What a person asks of the steward.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_moved_by_hand_to_a_tag_and_not_outside_of_its_branch() {
    let mut shop = Shop::new("by-hand", "{{short}}").await;
    let feature = shop.web.branch("feature", "develop");
    let feature = {
        let _ = feature;
        shop.web.commit("feature", "A feature", &[("f", "1")])
    };
    shop.world.repository_with(json!({"interval": "2s", "steward": true})).await;
    shop.environment("by-hand", "master").await;
    shop.world.start_agent();
    shop.world.runs("by-hand", "master").await;
    let tagged: CommitId = git(shop.web.path(), &["rev-parse", "v1.0"]).trim().parse().unwrap();

    let (code, said, errors) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.0", "--dry-run"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.starts_with("components/web: "), "{said}");
    assert_ne!(shop.pin("master"), tagged);
    let (code, said, errors) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.0"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.starts_with("master moved to "), "{said}");
    assert_eq!(shop.pin("master"), tagged);
    let log = git(shop.world.repo.path(), &["log", "-1", "--format=%B", "master"]);
    assert!(log.contains("not forward") && log.contains("Requested-By: ") && log.contains("(unverified)"), "{log}");
    shop.world.runs("by-hand", "master").await;

    // Again changes nothing.
    let head = shop.world.repo.head("master");
    let (code, said, _) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.0"]);
    assert_eq!((code, said.starts_with("nothing to move")), (0, true), "{said}");
    assert_eq!(shop.world.repo.head("master"), head);
    for (arguments, wanted) in [
        (vec!["bump", "web", "--lane", "master", "--to", "v9.9"], "its tags are: v1.0"),
        (vec!["bump", "none", "--lane", "master"], "there are: components/web"),
        (vec!["bump", "web", "--lane", "elsewhere"], "followed are: master"),
        (vec!["bump", "web", "--lane", "master", "--to", &feature.to_string()], "is not on its branch master"),
        (vec!["bump", "web", "--lane", "master", "--to", &"ab".repeat(20)], "the server has no such commit"),
    ] {
        let (code, _, errors) = shop.towpath(&arguments);
        assert_eq!(code, 1, "{arguments:?}");
        assert!(errors.contains(wanted), "{arguments:?}: {errors}");
    }
    // A tag that was made this moment is known.
    shop.web.commit("master", "Work", &[("w", "1")]);
    shop.web.tag("v1.1", shop.web.head("master"));
    let (code, said, errors) = shop.towpath(&["bump", "web", "--lane", "master", "--to", "v1.1", "--dry-run"]);
    assert!(code == 0 && said.contains("to v1.1-0-"), "{said}{errors}");
    assert_eq!(shop.world.repo.head("master"), head);
    // All that can go forward.
    let (code, _, errors) = shop.towpath(&["bump", "--lane", "master"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(shop.pin("master"), shop.web.head("master"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_cut_in_every_component_first_and_goes_on_where_it_ended() {
    let mut shop = Shop::new("cut", "{{short}}").await;
    let api = component(&shop.world, "api");
    shop.world.repo.submodule("develop", "components/api", "../api.git", api.head("develop"));
    // Somebody has made the branch in one of them from elsewhere.
    api.branch("r1.3", "develop");
    git(api.path(), &["update-ref", "refs/heads/r1.3", "develop^"]);
    shop.world.repository_with(json!({"interval": "2s", "steward": true})).await;
    shop.environment("cut", "develop").await;
    shop.world.start_agent();
    shop.world.runs("cut", "develop").await;

    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3"]);
    assert_eq!(code, 1, "{said}");
    assert!(errors.contains("components/api: its branch r1.3 stands on"), "{errors}");
    assert!(errors.contains("the deploy repository: waits for the components"), "{errors}");
    assert_eq!(shop.web.try_head("r1.3"), Some(shop.web.head("develop")), "the other one is cut");
    assert_eq!(shop.world.repo.try_head("r1.3"), None);

    api.delete_branch("r1.3");
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3", "--dry-run"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("components/api: r1.3 and v1.3 would be made"), "{said}");
    assert_eq!(api.try_head("r1.3"), None);
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3"]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("components/web: r1.3 is there, v1.3 is there"), "{said}");
    for repo in [&shop.web, &api, &shop.world.repo] {
        assert_eq!(repo.try_head("r1.3"), Some(repo.head("develop")));
        assert_eq!(git(repo.path(), &["rev-parse", "v1.3"]).trim(), repo.head("develop").to_string());
    }
    let (code, _, errors) = shop.towpath(&["release", "cut", "1.4"]);
    assert!(code == 1 && errors.contains("write it as r1.3"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cuts_a_release_is_warned_of_what_master_took_back() {
    let mut shop = Shop::new("cut-warned", "{{short}}").await;
    let file = "environments/all/values.yaml";
    let change = shop.world.repo.commit("develop", "Faster", &[(file, "fast: true\n")]);
    shop.world.repo.merge("master", "develop");
    let in_web = shop.web.commit("develop", "Faster in web", &[("f", "1")]);
    shop.world.repo.submodule("develop", "components/web", "../web.git", in_web);
    shop.web.merge("master", "develop");
    shop.web.revert("master", in_web);
    shop.world.repository_with(json!({"interval": "60s", "steward": true})).await;
    shop.environment("cut-warned", "develop").await;
    // It only has master followed: both would have the same objects.
    let too = json!({"lane": "master", "path": "environments/all", "suspend": true});
    shop.world.environment("cut-warned-too", too).await;
    shop.world.start_agent();
    shop.world.runs("cut-warned", "develop").await;
    let follows_both = |status: &RepositoryStatus| status.branches.len() == 2;
    shop.repository_where("following both", follows_both).await;
    // After the last look: what is fetched for the cut counts.
    let revert = shop.world.repo.revert("master", change);
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3", "--dry-run"]);
    assert_eq!(code, 0, "{errors}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 2, "{said}");
    assert!(warnings[0].contains(&format!("{} Revert \"Faster\" takes", revert.short())), "{said}");
    assert!(warnings[0].ends_with("back on master, and it lives on in develop"), "{said}");
    assert!(warnings[1].contains("back on master in web, and it lives on in develop"), "{said}");
    assert!(said.contains(&format!("towpath reland master {}", revert.short())), "{said}");
    // It is a warning: the release is cut.
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.3"]);
    assert!(code == 0 && said.contains("warning: "), "{said}{errors}");
    assert_eq!(shop.world.repo.try_head("r1.3"), Some(shop.world.repo.head("develop")));
    // Settled in develop, nobody is warned.
    shop.world.repo.merge("develop", "master");
    shop.web.merge("develop", "master");
    shop.world.repo.submodule("develop", "components/web", "../web.git", shop.web.head("develop"));
    let (code, said, errors) = shop.towpath(&["release", "cut", "r1.4", "--dry-run"]);
    assert!(code == 0 && !said.contains("warning: "), "{said}{errors}");
}
