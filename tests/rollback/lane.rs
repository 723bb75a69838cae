//! Rollbacks on a branch on which more has happened: merges, ranges, what does not fit, and what is landed again.

use super::*;

/// Commits on a branch of its own and merges that into master.
fn ticket(shop: &Shop, name: &str, files: &[(&str, &str)]) -> CommitId {
    shop.world.repo.branch(name, "master");
    shop.world.repo.commit(name, &format!("Work on {name}"), files);
    shop.world.repo.commit(name, &format!("More work on {name}"), &[(&format!("notes/{name}.md"), "done")]);
    shop.world.repo.merge("master", name)
}

async fn value(shop: &Shop, name: &str, wanted: Option<&str>) {
    let is_it = |object: &Value| object["data"]["value"].as_str() == wanted;
    shop.world.object_where("v1", "ConfigMap", name, &format!("{wanted:?}"), is_it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_taken_back_one_revert_each_and_read_well_in_git() {
    let mut shop = Shop::new("tickets").await;
    shop.begin(&[("tickets", json!({}))]).await;
    let first = ticket(&shop, "prices", &[("prod/prices.yaml", &config("prices", "old"))]);
    shop.ran("tickets", first).await;
    let second = ticket(&shop, "names", &[("prod/names.yaml", &config("names", "new"))]);
    shop.ran("tickets", second).await;
    let third = ticket(&shop, "colours", &[("prod/colours.yaml", &config("colours", "red"))]);
    shop.ran("tickets", third).await;

    // One in the middle.
    let said = shop.does(&["rollback", "tickets", "--ticket", &second.short(), "-y"]);
    assert!(said.contains("Merge branch 'names' into master"), "{said}");
    value(&shop, "names", None).await;
    value(&shop, "colours", Some("red")).await;
    let message = shop.git(&["log", "-1", "--format=%B", "master"]);
    assert!(
        message.contains(&format!("This reverts commit {second}, reversing\nchanges made to {first}.")),
        "{message}"
    );
    assert!(message.contains(&format!("Ticket: {second}")), "{message}");
    shop.ran("tickets", shop.world.repo.head("master")).await;
    // Again is nothing.
    let why = shop.towpath(&["rollback", "tickets", "--ticket", &second.short(), "--dry-run"]);
    assert!(why.1.contains("taken back already"), "{why:?}");

    // It is landed again by reverting the revert, named by either.
    let said = shop.does(&["reland", "master", &second.short(), "-y", "--reason", "mended elsewhere"]);
    assert!(said.contains("lands again"), "{said}");
    value(&shop, "names", Some("new")).await;
    assert_eq!(
        shop.subjects()[..2],
        ["Reapply \"Merge branch 'names' into master\"", "Revert \"Merge branch 'names' into master\""]
    );
    assert_eq!(shop.tree("master"), shop.tree(&third.to_string()));
    let landed = shop.world.repo.head("master");
    shop.ran("tickets", landed).await;
    let why = shop.fails(&["reland", "tickets", &second.short(), "--dry-run"]);
    assert!(why.contains("is no revert that holds"), "{why}");

    // A range, newest first, each with its merge's own line.
    let range = format!("{}..{}", first.short(), third.short());
    let said = shop.does(&["rollback", "tickets", "--ticket", &range, "-y"]);
    assert!(said.contains("2 commits on master take back, in one push"), "{said}");
    value(&shop, "colours", None).await;
    let reverts = shop.git(&["log", "-2", "--format=%s", "master"]);
    assert_eq!(
        reverts,
        "Revert \"Reapply \"Merge branch 'names' into master\"\"\nRevert \"Merge branch 'colours' into master\"\n"
            .replace("Reapply \"Merge branch 'names' into master\"", "Merge branch 'names' into master"),
        "{reverts}"
    );

    // Plain git reverts them cleanly in a clone.
    let clone = shop.world.folder().join("clone");
    let clone_text = clone.display().to_string();
    shop.git(&["clone", "--quiet", "--branch", "master", ".", &clone_text]);
    let head = shop.world.repo.head("master").to_string();
    let output = support::git_server::git(&clone)
        .arg("-C")
        .arg(&clone)
        .args(["-c", "user.name=ada", "-c", "user.email=ada@example.com", "revert", "--no-edit", &head])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named_file_by_file_and_the_older_files_are_offered_instead() {
    let mut shop = Shop::new("conflicts").await;
    shop.world.repo.commit("master", "Settings", &[("prod/settings.yaml", &config("settings", "one"))]);
    let first = shop.world.repo.head("master");
    shop.begin(&[("conflicts", json!({}))]).await;
    shop.ran("conflicts", first).await;
    let second = shop.world.repo.commit("master", "Two", &[("prod/settings.yaml", &config("settings", "two"))]);
    shop.ran("conflicts", second).await;
    let third = shop.world.repo.commit("master", "Three", &[("prod/settings.yaml", &config("settings", "three"))]);
    shop.ran("conflicts", third).await;

    let why = shop.fails(&["rollback", "conflicts", "--ticket", &second.short(), "-y"]);
    assert!(why.contains("prod/settings.yaml") && why.contains("restore the tree of an older commit"), "{why}");
    assert_eq!(shop.world.repo.head("master"), third, "nothing is half done");
    assert_eq!(shop.world.status("conflicts").await.held, None);

    let said = shop.does(&["rollback", "conflicts", "--to", &first.short(), "--restore", "-y"]);
    assert!(said.contains(&format!("exactly the files of {}", first.short())), "{said}");
    value(&shop, "settings", Some("one")).await;
    assert_eq!(shop.tree("master"), shop.tree(&first.to_string()));
    assert!(shop.subjects()[0].starts_with("Restore the tree of "), "{:?}", shop.subjects());
    let restored = shop.world.repo.head("master");
    let status = shop.ran("conflicts", restored).await;
    assert_eq!((phase(&status), status.held), (Some(RollbackPhase::Done), None));
    // What it took back without naming it is nothing to go back to.
    let fourth = shop.commit("Four", "web:4");
    shop.ran("conflicts", fourth).await;
    let said = shop.does(&["rollback", "conflicts", "--dry-run"]);
    assert!(said.contains(&format!("back to {}", restored.short())), "{said}");
    let fourth = shop.world.repo.revert("master", fourth);
    shop.ran("conflicts", fourth).await;
    let why = shop.fails(&["rollback", "conflicts", "--dry-run"]);
    assert!(why.contains("what a rollback came to"), "{why}");
    // It takes back all that came since, so all of it is landed again, by whichever of them it is named.
    let said = shop.does(&["reland", "conflicts", &second.short(), "-y"]);
    assert!(said.contains(&restored.short()), "{said}");
    value(&shop, "settings", Some("three")).await;
    assert_eq!(shop.tree("master"), shop.tree(&third.to_string()));
    assert!(shop.subjects()[0].starts_with("Revert \"Restore the tree of "), "{:?}", shop.subjects());
    let status = shop.ran("conflicts", shop.world.repo.head("master")).await;
    assert_eq!(status.rolled_back, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_backed_out_and_the_rest_is_ready_to_be_landed_again() {
    let mut shop = Shop::new("backed-out").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("backed-out", json!({"sync": "Manual"}))]).await;
    shop.world.request_sync("backed-out", "r-1").await;
    shop.ran("backed-out", first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.world.status_where("backed-out", "offered it", |status| status.candidate.is_some()).await;
    shop.world.request_sync("backed-out", "r-2").await;
    shop.ran("backed-out", bad).await;
    shop.world.repo.commit("master", "Innocent", &[("prod/names.yaml", &config("names", "new"))]);
    let head = shop.world.repo.commit("master", "Innocent too", &[("prod/prices.yaml", &config("prices", "1"))]);
    let is_offered = |status: &EnvironmentStatus| {
        status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&head.to_string()))
    };
    shop.world.status_where("backed-out", "offered more", is_offered).await;

    let said = shop.does(&["rollback", "backed-out", "--back-out-lane", "-y"]);
    assert!(
        said.contains("3 commits on master") && said.contains("land again by merging towpath/reland-backed-out-"),
        "{said}"
    );
    assert_eq!(shop.tree("master"), shop.tree(&first.to_string()));
    shop.runs_image("web:1").await;
    let branches = shop.git(&["branch", "--format=%(refname:short)", "--list", "towpath/reland-*"]);
    let branch = branches.trim();
    shop.world.repo.merge("master", branch);
    let tree = shop.git(&["ls-tree", "--name-only", "master", "prod/"]);
    assert_eq!(tree.lines().collect::<Vec<_>>(), ["prod/names.yaml", "prod/prices.yaml", "prod/web.yaml"]);
    shop.world.request_sync("backed-out", "r-3").await;
    shop.ran("backed-out", shop.world.repo.head("master")).await;
    value(&shop, "prices", Some("1")).await;
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_protected_lane_the_rest_stands_ready_too_and_files_are_restored_as_of_the_whole_lane() {
    let mut shop = Shop::new("backed-out-beside").await;
    let server = support::git_server::GitServer::start(shop.world.folder());
    let first = shop.world.repo.head("master");
    let spec = json!({"url": server.url("deploy.git"), "interval": "2s"});
    shop.begin_with(spec, &[("backed-out-beside", json!({"sync": "Manual"}))]).await;
    shop.world.request_sync("backed-out-beside", "r-1").await;
    shop.ran("backed-out-beside", first).await;
    let bad = shop.commit("Bad", "web:2");
    shop.world.status_where("backed-out-beside", "offered it", |status| status.candidate.is_some()).await;
    shop.world.request_sync("backed-out-beside", "r-2").await;
    shop.ran("backed-out-beside", bad).await;
    let innocent = shop.world.repo.commit("master", "Innocent", &[("prod/names.yaml", &config("names", "new"))]);
    let is_offered = |status: &EnvironmentStatus| {
        status.candidate.as_ref().is_some_and(|candidate| candidate.revision.ends_with(&innocent.to_string()))
    };
    shop.world.status_where("backed-out-beside", "offered more", is_offered).await;
    let said = shop.does(&["rollback", "backed-out-beside", "--to", &first.short(), "--restore", "--dry-run"]);
    assert!(said.contains("exactly the files of"), "{said}");
    let prepared = shop.world.status("backed-out-beside").await.prepared.unwrap();
    assert_eq!(prepared.reverts.len(), 2, "what it does not run goes too: {prepared:#?}");

    hook(&shop, "update", "[ \"$1\" != refs/heads/master ] || { echo 'master is protected' >&2; exit 1; }");
    let said = shop.does(&["rollback", "backed-out-beside", "--back-out-lane", "-y"]);
    assert!(said.contains("merge it into master"), "{said}");
    let branches = shop.git(&["branch", "--format=%(refname:short)", "--list", "towpath/*"]);
    let branches: Vec<&str> = branches.lines().collect();
    assert_eq!(branches.len(), 2, "{branches:?}");
    assert!(branches[0].starts_with("towpath/reland-") && branches[1].starts_with("towpath/revert-"), "{branches:?}");
    let tree = shop.git(&["ls-tree", "--name-only", branches[0], "prod/"]);
    assert_eq!(tree.lines().collect::<Vec<_>>(), ["prod/names.yaml", "prod/web.yaml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_makes_no_sense_is_refused_with_what_would() {
    let mut shop = Shop::new("targets").await;
    let first = shop.world.repo.head("master");
    shop.world.repo.branch("r1.2", "master");
    // Before the agent is there: it never runs the first commit.
    let other = shop.world.repo.commit("r1.2", "Only of r1.2", &[("prod/web.yaml", &deployment("web", "web:1.2"))]);
    shop.begin(&[("targets", json!({"lane": "release"}))]).await;
    shop.ran("targets", other).await;
    // The branch comes with its commit, and not first at the head of master.
    shop.world.repo.branch("next", "master");
    let second = shop.world.repo.commit("next", "Of r1.3", &[("prod/web.yaml", &deployment("web", "web:1.3"))]);
    shop.world.repo.branch("r1.3", "next");
    shop.ran("targets", second).await;
    shop.world.repo.branch("side", "r1.3");
    let side = shop.world.repo.commit("side", "On the side", &[("prod/side.yaml", &config("side", "1"))]);
    let merged = shop.world.repo.merge("r1.3", "side");
    shop.ran("targets", merged).await;
    shop.world.repo.commit("r1.3", "Not yet", &[("prod/web.yaml", "a: [")]);
    let unrun = shop.world.repo.head("r1.3");
    for (arguments, wanted) in [
        (vec!["--to", "targets@99"], "targets never ran targets@99"),
        (vec!["--to", &first.short()], "never ran"),
        (vec!["--to", &other.short()], "which r1.3 does not contain: it ran as r1.2"),
        (vec!["--to", &merged.short()], "runs"),
        (vec!["--to", "prod@1"], "is no release of targets"),
        (vec!["--to", "soon"], "is no release"),
        (vec!["--ticket", &"ab".repeat(20)], "there is no commit"),
        (vec!["--ticket", &unrun.short()], "does not run"),
        (vec!["--ticket", &format!("{}..{}", merged.short(), second.short())], "does not come after"),
    ] {
        let arguments = [vec!["rollback", "targets", "--dry-run"], arguments].concat();
        let (code, said, why) = shop.towpath(&arguments);
        assert_eq!(code, 1, "{arguments:?} {said}");
        assert!(why.contains(wanted), "{arguments:?}: {why}");
    }
    let why = shop.fails(&["rollback", "targets", "--dry-run", "--ticket", &side.short()]);
    assert!(why.contains(&format!("came with {}", merged.short())), "{why}");
    // A branch that is gone is not reverted on.
    let head = shop.world.repo.head("r1.3");
    shop.world.repo.force("kept", head);
    shop.world.repo.delete_branch("r1.3");
    let why = shop.fails(&["rollback", "targets", "--dry-run", "--to", &second.short()]);
    assert!(why.contains("r1.3 is no longer on the server"), "{why}");
    shop.world.repo.force("r1.3", head);
    // A history that was rewritten is not reverted on.
    shop.world.repo.force("rewritten", second);
    let rewritten = shop.world.repo.commit("rewritten", "Rewritten", &[("prod/web.yaml", &deployment("web", "web:x"))]);
    shop.world.repo.force("r1.3", rewritten);
    let why = shop.towpath(&["rollback", "targets", "--dry-run", "--to", &second.short()]);
    assert!(why.2.contains("history was rewritten") || why.0 == 0, "{why:?}");
    assert_eq!(shop.world.repo.head("r1.3"), rewritten);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_too_old_is_said_to_be_too_old_and_not_to_be_no_commit_of_the_branch() {
    let mut shop = Shop::new("too-old").await;
    let old = shop.commit("Long ago", "web:2");
    let tree = shop.world.repo.git().find_commit(support::deploy_repo::oid(old)).unwrap().tree_id();
    for number in 0..2000 {
        shop.world.repo.commit_tree("master", &format!("Step {number}"), tree);
    }
    shop.begin(&[("too-old", json!({}))]).await;
    shop.ran("too-old", shop.world.repo.head("master")).await;
    let why = shop.fails(&["rollback", "too-old", "--ticket", &old.short(), "--dry-run"]);
    assert!(why.contains(&format!("{} is older than the last 2000 commits of the branch", old.short())), "{why}");
}
