//! Reverts that are not settled, held against what plain git's merges do.

use towpath::board::Releases;
use towpath_core::hygiene::Sort;

use super::super::{Place, cherry_pick};
use super::{after_merging, look, of, tidy};

const BETTER: &str = "better\n";

/// The only finding there is, as its branch, its message and its hint.
fn only(place: &Place) -> (String, String, String) {
    let hygiene = look(place);
    assert_eq!(hygiene.findings.len(), 1, "{hygiene:#?}");
    let finding = of(&hygiene, Sort::RevertNotSettled)[0];
    (finding.branch.clone(), finding.message.clone(), finding.hint.clone())
}

#[test]
fn what_master_took_back_does_not_come_again_with_the_same_commit() {
    let place = tidy();
    let change = place.deploy.commit("develop", "Better", &[("b.yaml", BETTER)]);
    place.deploy.merge("master", "develop");
    let revert = place.deploy.revert("master", change);
    let (branch, message, hint) = only(&place);
    assert!(branch == "master" && message.ends_with("and it lives on in develop"), "{message}");
    assert!(
        hint.starts_with(
            "merging develop into master will not bring it back, and merging master into develop takes it out there; "
        ),
        "{hint}"
    );
    assert!(hint.contains(&format!("towpath reland master {}; or take", revert.short())), "{hint}");
    assert_eq!(after_merging(&place, "develop", "master", "b.yaml"), "b\n");

    // A release that is cut from develop has it, and says the same.
    place.deploy.branch("r1.3", "develop");
    place.part("web").branch("r1.3", "develop");
    let (_, message, hint) = only(&place);
    assert!(message.ends_with("and it lives on in r1.3, develop"), "{message}");
    assert!(hint.starts_with("merging r1.3, develop into master will not bring it back, and merging master into r1.3, develop takes it out there; "), "{hint}");
    assert_eq!(after_merging(&place, "r1.3", "master", "b.yaml"), "b\n");

    // Landed again there, it is settled.
    place.deploy.revert("master", revert);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
}

#[test]
fn what_master_took_back_comes_again_with_another_commit_of_the_same_patch() {
    let place = tidy();
    let change = place.deploy.commit("master", "Better", &[("b.yaml", BETTER)]);
    cherry_pick(&place.deploy, "develop", change);
    place.deploy.revert("master", change);
    let (_, _, hint) = only(&place);
    assert!(hint.starts_with("merging develop into master brings it back, for it is another commit there; "), "{hint}");
    assert_eq!(after_merging(&place, "develop", "master", "b.yaml"), BETTER);
}

#[test]
fn what_a_release_took_back_is_listed_until_develop_has_it_back_too_or_the_release_has_it_again() {
    let place = tidy();
    let change = place.deploy.commit("develop", "Better", &[("b.yaml", BETTER)]);
    place.deploy.merge("r1.2", "develop");
    let revert = place.deploy.revert("r1.2", change);
    let (branch, message, hint) = only(&place);
    assert!(branch == "r1.2" && message.ends_with("back on r1.2, and it lives on in develop"), "{message}");
    assert!(hint.starts_with("merging r1.2 into develop takes it back there too; "), "{hint}");
    assert!(hint.contains(&format!("towpath reland r1.2 {}", revert.short())), "{hint}");
    assert_eq!(after_merging(&place, "r1.2", "develop", "b.yaml"), "b\n");

    let before = place.deploy.head("develop");
    place.deploy.revert("develop", change);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
    // Taken back there too, and landed again there alone.
    place.deploy.revert("develop", place.deploy.head("develop"));
    assert_eq!(only(&place).0, "r1.2");
    place.deploy.force("develop", before);
    place.deploy.merge("develop", "r1.2");
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
    place.deploy.force("develop", before);
    place.deploy.revert("r1.2", revert);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
}

#[test]
fn what_was_landed_again_and_taken_back_again_is_told_with_the_last_revert() {
    let place = tidy();
    let change = place.deploy.commit("develop", "Better", &[("b.yaml", BETTER)]);
    place.deploy.merge("master", "develop");
    let landed = place.deploy.revert("master", place.deploy.revert("master", change));
    let last = place.deploy.revert("master", landed);
    assert!(only(&place).2.contains(&format!("towpath reland master {}", last.short())), "{:#?}", look(&place));
    // The other branch has all but the last.
    place.deploy.force("develop", landed);
    let (_, message, _) = only(&place);
    assert!(message.contains(&format!("takes {} back on master, and it lives on in develop", landed.short())));
    assert_eq!(after_merging(&place, "develop", "master", "b.yaml"), "b\n");
    place.deploy.revert("master", last);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
}

#[test]
fn a_copy_of_what_a_release_took_back_stays_where_the_release_is_merged() {
    let place = tidy();
    let change = place.deploy.commit("r1.2", "Better", &[("b.yaml", BETTER)]);
    for branch in ["develop", "master"] {
        cherry_pick(&place.deploy, branch, change);
    }
    place.deploy.revert("r1.2", change);
    let (_, message, hint) = only(&place);
    assert!(message.ends_with("back on r1.2, and it lives on in develop, master"), "{message}");
    assert!(hint.starts_with("merging r1.2 into develop, master leaves it there, for it is another commit"), "{hint}");
    for branch in ["develop", "master"] {
        assert_eq!(after_merging(&place, "r1.2", branch, "b.yaml"), BETTER);
    }
}

#[test]
fn what_a_release_took_back_of_master_goes_there_with_its_merge_and_is_no_finding() {
    let place = tidy();
    let change = place.deploy.commit("r1.2", "Better", &[("b.yaml", BETTER)]);
    place.deploy.merge("master", "r1.2");
    place.deploy.revert("r1.2", change);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
    assert_eq!(after_merging(&place, "r1.2", "master", "b.yaml"), "b\n");
}

#[test]
fn a_revert_that_several_branches_have_is_told_once() {
    let place = tidy();
    let change = place.deploy.commit("develop", "Better", &[("b.yaml", BETTER)]);
    place.deploy.merge("r1.2", "develop");
    place.deploy.revert("r1.2", change);
    place.deploy.merge("master", "r1.2");
    assert_eq!(only(&place).0, "master");
}

#[test]
fn what_came_back_or_went_without_a_word_is_settled() {
    let place = tidy();
    let change = place.deploy.commit("develop", "Better", &[("b.yaml", BETTER)]);
    place.deploy.merge("master", "develop");
    place.deploy.revert("master", change);
    assert_eq!(only(&place).0, "master");
    let (develop, master) = (place.deploy.head("develop"), place.deploy.head("master"));
    // Written anew by hand, in one with something else.
    place.deploy.commit("master", "By hand", &[("b.yaml", BETTER), ("c.yaml", "c\n")]);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
    // Picked anew, and changed further since.
    place.deploy.force("master", master);
    cherry_pick(&place.deploy, "master", change);
    place.deploy.commit("master", "Further", &[("b.yaml", "best\n")]);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
    // Taken out of develop by hand.
    place.deploy.force("master", master);
    place.deploy.commit("develop", "By hand", &[("b.yaml", "b\n"), ("c.yaml", "c\n")]);
    assert!(look(&place).findings.is_empty(), "{:#?}", look(&place));
    place.deploy.force("develop", develop);
    assert_eq!(only(&place).0, "master");
}

#[test]
fn what_lives_on_in_a_commit_is_told_for_it_and_its_components() {
    let place = tidy();
    let change = place.deploy.commit("develop", "Better", &[("b.yaml", BETTER)]);
    let web = place.part("web");
    let in_web = web.commit("develop", "Better in web", &[("b", "1")]);
    place.pin("develop", "web", in_web);
    let earlier = place.deploy.head("r1.2");
    place.deploy.merge("master", "develop");
    web.merge("master", "develop");
    place.deploy.revert("master", change);
    web.revert("master", in_web);
    let told = place.reading().alive_at("develop", place.deploy.head("develop")).unwrap();
    let found: Vec<_> = told.findings.iter().map(|finding| (finding.component.as_deref(), &finding.branch)).collect();
    assert_eq!(found, [(None, &"master".to_owned()), (Some("web"), &"master".to_owned())], "{told:#?}");
    assert!(told.findings[0].message.ends_with("and it lives on in develop"), "{told:#?}");
    assert!(told.unknown.is_empty(), "{told:#?}");
    // A commit that never had it has nothing to settle.
    let told = place.reading().alive_at("r1.2", earlier).unwrap();
    assert!(told.findings.is_empty() && told.unknown.is_empty(), "{told:#?}");
}
