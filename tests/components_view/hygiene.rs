//! Branch hygiene: each thing that is to be found, and what is not to be taken for it.

mod generated;
mod remerge;
mod reverts;

use std::sync::Arc;

use support::git_server::git;
use towpath::board::Releases;
use towpath::repo::{Part, Parts};
use towpath_core::hygiene::{Finding, Hygiene, Sort};

use super::{Place, cherry_pick, reading};

/// A deploy repository with r1.2, develop and master, and one component with the same, all alike.
fn tidy() -> Place {
    let place = Place::new(&["web"]);
    let web = place.part("web");
    let first = web.commit("master", "first", &[("a", "1\n2\n3\n4\n5\n6\n7\n8\n")]);
    place.pin("master", "web", first);
    place.deploy.commit("master", "files", &[("a.yaml", "1\n2\n3\n4\n5\n6\n7\n8\n"), ("b.yaml", "b\n")]);
    for branch in ["develop", "r1.2"] {
        web.branch(branch, "master");
        place.deploy.branch(branch, "master");
    }
    place
}

fn look(place: &Place) -> Hygiene {
    let hygiene = place.reading().hygiene().unwrap();
    (*hygiene).clone()
}

fn of(hygiene: &Hygiene, sort: Sort) -> Vec<&Finding> {
    hygiene.findings.iter().filter(|finding| finding.sort == sort).collect()
}

/// What a file says after plain git has merged one branch into another, which leaves both as they are.
fn after_merging(place: &Place, from: &str, into: &str, file: &str) -> String {
    let run = |arguments: &[&str]| {
        let folder = place.folder.path().join("deploy.git");
        let output = git(place.folder.path()).arg("-C").arg(folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let tree = run(&["merge-tree", "--write-tree", into, from]);
    run(&["show", &format!("{}:{file}", tree.trim())])
}

#[test]
fn tidy_branches_have_no_findings() {
    let hygiene = look(&tidy());
    assert_eq!(hygiene.compared, ["r1.2", "develop", "master"]);
    assert!(hygiene.findings.is_empty() && hygiene.unknown.is_empty(), "{hygiene:#?}");
}

#[test]
fn components_without_the_branch_and_pins_beside_it_are_found() {
    let place = tidy();
    place.deploy.branch("r1.3", "develop");
    let stray = place.part("web").commit("feature", "a stray commit", &[("z", "1")]);
    place.pin("r1.2", "web", stray);
    let hygiene = look(&place);
    let missing = of(&hygiene, Sort::BranchMissing);
    assert_eq!(missing.len(), 1, "{hygiene:#?}");
    assert_eq!((missing[0].component.as_deref(), missing[0].branch.as_str()), (Some("web"), "r1.3"));
    let beside = of(&hygiene, Sort::PinNotOnBranch);
    assert_eq!(beside.len(), 1, "{hygiene:#?}");
    assert_eq!((beside[0].commit, beside[0].branch.as_str()), (Some(stray), "r1.2"));
    assert!(of(&hygiene, Sort::FixMissing).is_empty(), "a move of a submodule is no fix: {hygiene:#?}");
}

#[test]
fn a_branch_that_was_deleted_is_missing_and_one_that_gitmodules_fixes_is_enough() {
    let place = tidy();
    let mut view = place.view();
    let address = view.parts.parts.keys().next().unwrap().clone();
    let mut part = Part::clone(view.parts.parts[&address].as_ref().unwrap());
    part.deleted.insert("r1.2".into());
    view.parts = Arc::new(Parts { parts: [(address, Ok(Arc::new(part)))].into(), ..(*view.parts).clone() });
    let hygiene = reading(view).hygiene().unwrap();
    assert_eq!(of(&hygiene, Sort::BranchMissing).len(), 1, "{hygiene:#?}");

    let place = Place::new(&["lib"]);
    place.pin("master", "lib", place.part("lib").commit("stable", "first", &[("a", "1")]));
    let modules = place.deploy.text("master", ".gitmodules").unwrap().replace("branch = .", "branch = stable");
    place.deploy.commit("master", "follow stable", &[(".gitmodules", &modules)]);
    place.deploy.branch("develop", "master");
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
}

#[test]
fn a_fix_is_missed_until_it_is_picked_whatever_stands_around_it() {
    let place = tidy();
    // Another line of the same file has moved on develop, so a picked fix is another commit with another tree.
    place.deploy.commit("develop", "more", &[("a.yaml", "0\n1\n2\n3\n4\n5\n6\n7\n8\n")]);
    let fix = place.deploy.commit("r1.2", "A fix", &[("a.yaml", "1\n2\n3\n4\n5\n6\n7\nfixed\n")]);
    place.deploy.branch("r1.3", "develop");
    place.part("web").branch("r1.3", "develop");
    let web = place.part("web");
    let in_web = web.commit("r1.2", "A fix in web", &[("a", "1\n2\n3\n4\n5\n6\n7\nfixed\n")]);
    let hygiene = look(&place);
    let found = of(&hygiene, Sort::FixMissing);
    assert_eq!(found.len(), 2, "{hygiene:#?}");
    assert_eq!((found[0].component.as_deref(), found[0].commit), (None, Some(fix)));
    assert!(found[0].message.ends_with("is on r1.2 and not on r1.3, develop"), "{}", found[0].message);
    assert_eq!((found[1].component.as_deref(), found[1].commit), (Some("web"), Some(in_web)));
    assert!(found[1].hint.contains(&format!("git cherry-pick -x {in_web}")));

    cherry_pick(&place.deploy, "develop", fix);
    cherry_pick(web, "develop", in_web);
    let hygiene = look(&place);
    let found = of(&hygiene, Sort::FixMissing);
    assert_eq!(found.len(), 2, "{hygiene:#?}");
    assert!(found.iter().all(|finding| finding.message.contains("and not on r1.3")), "{hygiene:#?}");
    place.deploy.merge("r1.3", "develop");
    web.merge("r1.3", "develop");
    assert!(of(&look(&place), Sort::FixMissing).is_empty());
}

#[test]
fn a_fix_that_was_taken_back_is_not_missed() {
    let place = tidy();
    let fix = place.deploy.commit("r1.2", "A mistake", &[("b.yaml", "worse\n")]);
    place.deploy.revert("r1.2", fix);
    let hygiene = look(&place);
    assert!(hygiene.findings.is_empty(), "{hygiene:#?}");
}

#[test]
fn a_revert_on_master_is_shown_until_develop_has_settled_it() {
    let place = tidy();
    let bad = place.deploy.commit("develop", "A mistake", &[("b.yaml", "worse\n")]);
    place.deploy.merge("master", "develop");
    let revert = place.deploy.revert("master", bad);
    let hygiene = look(&place);
    let found = of(&hygiene, Sort::RevertNotSettled);
    assert_eq!(found.len(), 1, "{hygiene:#?}");
    assert_eq!((found[0].commit, found[0].branch.as_str()), (Some(revert), "master"));
    assert!(found[0].message.contains(&format!("takes {} back", bad.short())), "{}", found[0].message);

    cherry_pick(&place.deploy, "develop", revert);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
}

#[test]
fn a_merge_that_was_reverted_lives_on_in_what_it_brought() {
    let place = tidy();
    let web = place.part("web");
    web.commit("develop", "A mistake", &[("b", "1")]);
    let merge = web.merge("master", "develop");
    let revert = web.revert("master", merge);
    let hygiene = look(&place);
    let found = of(&hygiene, Sort::RevertNotSettled);
    assert_eq!(found.len(), 1, "{hygiene:#?}");
    assert_eq!((found[0].component.as_deref(), found[0].commit), (Some("web"), Some(revert)));
    // Relanded on master: nothing to settle.
    web.revert("master", revert);
    assert!(of(&look(&place), Sort::RevertNotSettled).is_empty());
}

#[test]
fn a_revert_of_what_develop_never_had_is_settled() {
    let place = tidy();
    let hotfix = place.deploy.commit("master", "A hotfix", &[("b.yaml", "hot\n")]);
    place.deploy.revert("master", hotfix);
    assert!(look(&place).findings.is_empty());
    // A message may name anything.
    place.deploy.commit("master", &format!("x\n\nThis reverts commit {}.", "0".repeat(40)), &[("b.yaml", "c\n")]);
    assert!(look(&place).findings.is_empty());
}

#[test]
fn what_is_not_followed_or_cannot_be_read_is_said_and_not_judged() {
    let mut place = tidy();
    place.deploy.branch("r1.3", "develop");
    place.parts.insert("web".into(), Err(towpath_core::fault::Problem::setup("web: 401")));
    let mut view = place.view();
    view.heads.remove("develop");
    view.deleted.insert("r1.2".into());
    let hygiene = reading(view).hygiene().unwrap();
    assert_eq!(hygiene.compared, ["r1.3", "master"]);
    assert!(hygiene.findings.is_empty(), "{hygiene:#?}");
    assert!(hygiene.unknown.iter().any(|line| line.contains("no environment follows develop")), "{hygiene:#?}");
    assert!(hygiene.unknown.iter().any(|line| line.contains("web: 401")), "{hygiene:#?}");
}
