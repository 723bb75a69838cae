//! Branches that are merged again after their merge was reverted.

use git2::build::TreeUpdateBuilder;
use support::deploy_repo::oid;
use towpath_core::hygiene::Sort;
use towpath_core::revision::CommitId;

use super::super::{Place, cherry_pick};
use super::{look, of, tidy};

/// The merges that left something out, with the subjects of what is missing.
fn traps(place: &Place) -> Vec<(CommitId, String, Vec<String>)> {
    let hygiene = look(place);
    let found = of(&hygiene, Sort::MergeBringsNothingBack).into_iter().map(|finding| {
        let missing = finding.missing.commits.iter().map(|commit| commit.subject.clone()).collect();
        (finding.commit.unwrap(), finding.branch.clone(), missing)
    });
    found.collect()
}

/// A topic of two commits that was merged into develop and reverted there. Gives the revert.
fn reverted(place: &Place) -> CommitId {
    place.deploy.branch("topic", "develop");
    place.deploy.commit("topic", "One", &[("one.yaml", "1\n")]);
    place.deploy.commit("topic", "Two", &[("two.yaml", "2\n")]);
    let merge = place.deploy.merge("develop", "topic");
    place.deploy.revert("develop", merge)
}

#[test]
fn a_branch_that_is_merged_again_says_what_it_leaves_out_until_that_is_landed_again() {
    let place = tidy();
    let revert = reverted(&place);
    assert!(look(&place).findings.is_empty(), "nothing was merged again: {:#?}", look(&place));
    place.deploy.commit("topic", "Three", &[("three.yaml", "3\n")]);
    let merge = place.deploy.merge("develop", "topic");
    assert_eq!(traps(&place), [(merge, "develop".to_owned(), vec!["Two".to_owned(), "One".to_owned()])]);
    let text = |file: &str| place.deploy.text("develop", file);
    assert_eq!((text("one.yaml"), text("two.yaml"), text("three.yaml")), (None, None, Some("3\n".to_owned())));
    let hygiene = look(&place);
    assert_eq!(hygiene.findings[0].hint, format!("land it again with towpath reland develop {}", revert.short()));
    assert!(hygiene.findings[0].message.contains("leaves 2 changes out of develop"), "{hygiene:#?}");

    // Whoever cuts a release there takes the trap along.
    place.deploy.branch("r1.3", "develop");
    place.part("web").branch("r1.3", "develop");
    assert_eq!(traps(&place).len(), 2, "{:#?}", look(&place));
    place.deploy.revert("develop", revert);
    place.deploy.force("r1.3", place.deploy.head("develop"));
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
    assert_eq!(text("one.yaml").as_deref(), Some("1\n"));
}

#[test]
fn only_what_is_still_missing_is_named() {
    let place = tidy();
    reverted(&place);
    let one = git_parent(&place, "topic");
    place.deploy.commit("topic", "Three", &[("three.yaml", "3\n")]);
    place.deploy.merge("develop", "topic");
    // One of both was picked anew.
    cherry_pick(&place.deploy, "develop", one);
    assert_eq!(traps(&place)[0].2, ["Two"]);
    // Picked and taken back once more, it is missing again.
    place.deploy.revert("develop", place.deploy.head("develop"));
    assert_eq!(traps(&place)[0].2, ["Two", "One"]);
    // All of it by hand.
    place.deploy.commit("develop", "By hand", &[("one.yaml", "1\n"), ("two.yaml", "2\n")]);
    assert!(traps(&place).is_empty(), "{:#?}", look(&place));
}

fn git_parent(place: &Place, branch: &str) -> CommitId {
    let git = place.deploy.git();
    let head = git.find_commit(oid(place.deploy.head(branch))).unwrap();
    support::deploy_repo::commit_id(head.parent_id(0).unwrap())
}

#[test]
fn a_rebased_branch_and_a_squash_bring_everything() {
    let place = tidy();
    reverted(&place);
    let (two, one) = (place.deploy.head("topic"), git_parent(&place, "topic"));
    place.deploy.force("topic", place.deploy.head("master"));
    place.deploy.commit("topic", "Zero", &[("zero.yaml", "0\n")]);
    for commit in [one, two] {
        cherry_pick(&place.deploy, "topic", commit);
    }
    place.deploy.merge("develop", "topic");
    assert_eq!(place.deploy.text("develop", "one.yaml").as_deref(), Some("1\n"));
    assert!(traps(&place).is_empty(), "{:#?}", look(&place));

    // A squash that was reverted is no commit of the topic: the merge after it brings what git does not know yet.
    let place = tidy();
    place.deploy.branch("topic", "develop");
    place.deploy.commit("topic", "One", &[("one.yaml", "1\n")]);
    place.deploy.commit("topic", "Two", &[("two.yaml", "2\n")]);
    let squash = place.deploy.commit("develop", "Squash", &[("one.yaml", "1\n"), ("two.yaml", "2\n")]);
    place.deploy.revert("develop", squash);
    place.deploy.merge("develop", "topic");
    assert_eq!(place.deploy.text("develop", "one.yaml").as_deref(), Some("1\n"));
    assert!(traps(&place).is_empty(), "{:#?}", look(&place));
}

#[test]
fn a_release_that_comes_again_to_master_is_told_of_with_its_plain_commits() {
    let place = tidy();
    let change = place.deploy.commit("develop", "Better", &[("b.yaml", "better\n")]);
    place.deploy.merge("master", "develop");
    place.deploy.revert("master", change);
    // A hotfix that begins on master is not expected to bring it.
    place.deploy.branch("hotfix", "master");
    place.deploy.commit("hotfix", "Hot", &[("c.yaml", "c\n")]);
    place.deploy.merge("master", "hotfix");
    assert!(traps(&place).is_empty(), "{:#?}", look(&place));
    place.deploy.commit("develop", "More", &[("d.yaml", "d\n")]);
    let merge = place.deploy.merge("master", "develop");
    assert_eq!(place.deploy.text("master", "b.yaml").as_deref(), Some("b\n"));
    assert_eq!(traps(&place), [(merge, "master".to_owned(), vec!["Better".to_owned()])]);
}

#[test]
fn components_and_their_pins_are_told_of_too() {
    let place = tidy();
    let web = place.part("web");
    web.branch("topic", "develop");
    web.commit("topic", "One", &[("one", "1")]);
    let revert = {
        let merge = web.merge("develop", "topic");
        web.revert("develop", merge)
    };
    web.commit("topic", "Two", &[("two", "2")]);
    let merge = web.merge("develop", "topic");
    let hygiene = look(&place);
    let found = of(&hygiene, Sort::MergeBringsNothingBack);
    assert_eq!(found.len(), 1, "{hygiene:#?}");
    assert_eq!((found[0].component.as_deref(), found[0].commit), (Some("web"), Some(merge)));
    assert_eq!(found[0].missing.commits[0].subject, "One");
    assert_eq!(found[0].hint, format!("land it again with git revert {revert} on develop of web"));

    // A pin that was taken back on master, and that the next release does not move.
    let place = tidy();
    let next = place.part("web").commit("develop", "Next", &[("b", "1")]);
    let first = place.part("web").head("master");
    let pinned = place.pin("develop", "web", next);
    place.deploy.merge("master", "develop");
    place.deploy.revert("master", pinned);
    place.deploy.commit("develop", "More", &[("d.yaml", "d\n")]);
    place.deploy.merge("master", "develop");
    assert_eq!(pin_of(&place, "master"), first);
    assert_eq!(traps(&place)[0].2, [format!("components/web: move to {}", next.short())]);
    // Where it has moved on by then, nothing is missing.
    place.pin("master", "web", place.part("web").commit("develop", "Later", &[("b", "2")]));
    assert!(traps(&place).is_empty(), "{:#?}", look(&place));
}

fn pin_of(place: &Place, branch: &str) -> CommitId {
    let git = place.deploy.git();
    let tree = git.find_commit(oid(place.deploy.head(branch))).unwrap().tree().unwrap();
    support::deploy_repo::commit_id(tree.get_path(std::path::Path::new("components/web")).unwrap().id())
}

#[test]
fn each_branch_of_an_octopus_is_looked_at() {
    let place = tidy();
    for (branch, subject, file) in [("one", "One", "one.yaml"), ("two", "Two", "two.yaml")] {
        place.deploy.branch(branch, "develop");
        place.deploy.commit(branch, subject, &[(file, "1\n")]);
    }
    let first = octopus(&place, &[("one.yaml", "1\n"), ("two.yaml", "1\n")]);
    place.deploy.revert("develop", first);
    for branch in ["one", "two"] {
        place.deploy.commit(branch, "More", &[(&format!("{branch}-more.yaml"), "1\n")]);
    }
    let second = octopus(&place, &[("one-more.yaml", "1\n"), ("two-more.yaml", "1\n")]);
    assert_eq!(traps(&place), [(second, "develop".to_owned(), vec!["Two".to_owned(), "One".to_owned()])]);
}

/// Merges one and two into develop with one commit that adds some files.
fn octopus(place: &Place, files: &[(&str, &str)]) -> CommitId {
    let git = place.deploy.git();
    let parents = ["develop", "one", "two"].map(|branch| git.find_commit(oid(place.deploy.head(branch))).unwrap());
    let mut update = TreeUpdateBuilder::new();
    for (file, content) in files {
        update.upsert(*file, git.blob(content.as_bytes()).unwrap(), git2::FileMode::Blob);
    }
    let tree = update.create_updated(&git, &parents[0].tree().unwrap()).unwrap();
    let tree = git.find_tree(tree).unwrap();
    // After what it merges, as git's clock would have it.
    let when = git2::Time::new(parents.iter().map(|parent| parent.time().seconds()).max().unwrap() + 1, 0);
    let who = git2::Signature::new("Robin", "robin@example.org", &when).unwrap();
    let parents: Vec<&git2::Commit<'_>> = parents.iter().collect();
    let commit = git.commit(Some("refs/heads/develop"), &who, &who, "Octopus", &tree, &parents).unwrap();
    support::deploy_repo::commit_id(commit)
}
