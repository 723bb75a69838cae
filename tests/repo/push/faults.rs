//! Pushes whose connection breaks, whose server is at fault, or whose login is wrong: nothing is guessed.

use std::time::{Duration, Instant};

use support::git_server::Fault;
use towpath::repo::{Credentials, Login, Outcome, Refusal, Terms};
use towpath_core::fault::Fault as Who;

use super::super::commits::write;
use super::{NAME, OTHER, Site, Way, check_refused, script, update};

fn basic(user: &str, password: &str) -> Credentials {
    Login::Basic { username: user.into(), password: password.into() }.into()
}

#[test]
fn a_connection_that_is_cut_before_git_has_everything_changes_nothing() {
    let site = Site::new(Way::Http);
    let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
    for fault in [
        Fault::CutPush(0),
        Fault::CutPush(1),
        Fault::CutPush(60),
        Fault::CutPush(300),
        Fault::BreakPush(1),
        Fault::BreakPush(60),
        Fault::BreakPush(200),
        Fault::BreakPush(300),
    ] {
        site.server.misbehave(Some(fault.clone()));
        let outcomes = site.push(&[update(NAME, None, new)]);
        assert!(matches!(&outcomes[..], [Outcome::Unsure { .. }]), "{fault:?}: {outcomes:?}");
        assert_eq!((site.stands(NAME), site.mirror.kept_ref(NAME)), (None, None), "{fault:?}");
    }
    site.server.misbehave(None);
    assert_eq!(site.push(&[update(NAME, None, new)]), [Outcome::Done]);
    site.check(&[new]);
}

#[test]
fn a_lost_report_is_made_up_for_by_a_look() {
    let site = Site::new(Way::Http);
    let mut old = None;
    for (number, at) in [0, 1, 8, 20, 40, 60].into_iter().enumerate() {
        site.server.misbehave(Some(Fault::CutReport(at)));
        let (new, outcome) = site.record(NAME, old, &format!("prod@{number}"));
        assert_eq!((outcome, site.stands(NAME)), (Outcome::Done, Some(new)), "{at}");
        assert_eq!(site.mirror.kept_ref(NAME), Some(new));
        old = Some(new);
    }
    site.server.misbehave(None);
    site.check(&[old.unwrap()]);
    let said = super::git_says(site.repo.path(), &["rev-list", "--count", NAME]);
    assert_eq!(said.trim(), "6", "no record is there twice");
}

#[test]
fn of_two_refs_whose_report_is_lost_each_is_looked_at() {
    let site = Site::new(Way::Http);
    site.hook("update", &format!("[ \"$1\" != {NAME} ]"));
    let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
    site.server.misbehave(Some(Fault::CutReport(0)));
    let outcomes = site.push(&[update(NAME, None, new), update(OTHER, None, new)]);
    assert!(matches!(outcomes[0], Outcome::Unsure { .. }), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Done);
}

#[test]
fn what_is_done_after_the_look_is_found_by_the_same_push() {
    let site = Site::new(Way::Http);
    let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
    site.server.misbehave(Some(Fault::LatePush(Duration::from_millis(700))));
    let outcomes = site.push(&[update(NAME, None, new)]);
    assert!(matches!(&outcomes[..], [Outcome::Unsure { .. }]), "{outcomes:?}");
    site.server.misbehave(None);
    let until = Instant::now() + Duration::from_secs(20);
    while site.stands(NAME).is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(site.stands(NAME), Some(new));
    assert_eq!(site.push(&[update(NAME, None, new)]), [Outcome::Done]);
}

#[test]
fn a_server_that_is_down_or_silent_is_given_up_in_time() {
    let terms = Terms { idle: Duration::from_millis(300), whole: Duration::from_secs(2), ..Terms::default() };
    let site = Site::with_terms(Way::Http, terms);
    let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
    for fault in [Fault::Status(503), Fault::Silence] {
        site.server.misbehave(Some(fault));
        let start = Instant::now();
        let problem = site.mirror.push(&[update(NAME, None, new)], &site.credentials).unwrap_err();
        assert_eq!(problem.fault, Who::Passing, "{problem}");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }
    site.server.misbehave(Some(Fault::PushStatus(502)));
    let outcomes = site.push(&[update(NAME, None, new)]);
    assert!(matches!(&outcomes[..], [Outcome::Unsure { .. }]), "{outcomes:?}");
    site.server.misbehave(Some(Fault::PushStatus(413)));
    let problem = site.mirror.push(&[update(NAME, None, new)], &site.credentials).unwrap_err();
    assert!(problem.fault == Who::Setup && problem.message.contains("413"), "{problem}");
}

#[test]
fn a_hook_that_thinks_for_long_is_waited_for() {
    let terms = Terms { idle: Duration::from_millis(700), ..Terms::default() };
    let site = Site::with_terms(Way::Http, terms);
    site.hook("pre-receive", "sleep 1.2");
    assert_eq!(site.record(NAME, None, "prod@1").1, Outcome::Done);
}

#[test]
fn a_server_that_cannot_store_the_pack_says_so() {
    for way in [Way::Http, Way::Ssh] {
        let site = Site::new(way);
        site.repo.git().config().unwrap().set_i64("receive.maxInputSize", 100).unwrap();
        let text: String = (0..500u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()).collect();
        let (_, outcome) = site.record(NAME, None, &text);
        check_refused(&outcome, Refusal::Storage, "could not store what was pushed");
        assert_eq!(site.stands(NAME), None);
    }
}

#[test]
fn a_ref_that_somebody_deleted_is_not_made_again() {
    for way in [Way::Http, Way::Ssh, Way::Folder] {
        let site = Site::new(way);
        let (first, _) = site.record(NAME, None, "prod@1");
        let second = write(&site.mirror, &[first], "prod@2", &[("record", "2")]);
        site.repo.git().find_reference(NAME).unwrap().delete().unwrap();
        assert_eq!(site.push(&[update(NAME, Some(first), second)]), [Outcome::Moved { now: None }]);
        assert_eq!(site.stands(NAME), None);
    }
}

#[test]
fn credentials_for_writing_are_others_than_those_for_reading() {
    let site = Site::new(Way::Http);
    site.server.require_login("deploy.git", "reader", "1");
    site.server.require_login_to_push("deploy.git", "writer", "2");
    site.mirror.set_credentials(basic("reader", "1")).unwrap();
    let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
    let push = |credentials: &Credentials| site.mirror.push(&[update(NAME, None, new)], credentials);
    site.server.take_requests();
    for _ in 0..6 {
        let problem = push(&basic("reader", "1")).unwrap_err();
        assert!(problem.fault == Who::Setup && problem.message.contains("credentials refused"), "{problem}");
        assert!(problem.hint.as_deref().unwrap_or_default().contains("write to the repository"), "{problem}");
    }
    assert_eq!(site.server.take_requests().len(), 3, "no account gets locked");
    assert_eq!(site.mirror.heads().unwrap().len(), 1, "and reading goes on");
    let problem = push(&Credentials::default()).unwrap_err();
    assert!(problem.fault == Who::Setup && problem.message.contains("asks for credentials"), "{problem}");
    assert!(push(&basic("writer", "wrong")).is_err());
    site.server.take_requests();
    assert_eq!(push(&basic("writer", "2")).unwrap(), [Outcome::Done]);
    assert_eq!(site.mirror.refs("refs/towpath/").unwrap()[NAME], new);
    for request in site.server.take_requests() {
        let is_push = request.target.contains("git-receive-pack");
        let login = if is_push { "Basic d3JpdGVyOjI=" } else { "Basic cmVhZGVyOjE=" };
        assert_eq!(request.authorization.as_deref(), Some(login), "{request:?}");
    }
}

#[test]
fn a_login_that_may_not_write_is_told_in_either_status() {
    for status in [401, 403] {
        let site = Site::new(Way::Http);
        let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
        site.server.misbehave(Some(Fault::PushStatus(status)));
        let problem = site.mirror.push(&[update(NAME, None, new)], &basic("writer", "2")).unwrap_err();
        assert!(problem.fault == Who::Setup && problem.message.contains(&status.to_string()), "{problem}");
    }
    let site = Site::new(Way::Http);
    site.configure("http.receivepack", "false");
    let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
    let problem = site.mirror.push(&[update(NAME, None, new)], &basic("writer", "2")).unwrap_err();
    assert!(problem.fault == Who::Setup && problem.message.contains("403"), "{problem}");
}

#[test]
fn a_redirect_is_refused_and_the_other_host_gets_nothing() {
    let site = Site::new(Way::Http);
    let trap = support::git_server::GitServer::start(site.folder.path().join("served"));
    let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
    site.server.misbehave(Some(Fault::Redirect(trap.url("").trim_end_matches('/').to_owned())));
    let problem = site.mirror.push(&[update(NAME, None, new)], &basic("writer", "2")).unwrap_err();
    assert!(problem.fault == Who::Setup && problem.message.contains("redirects are not followed"), "{problem}");
    assert_eq!(trap.take_requests(), []);
    assert_eq!(site.stands(NAME), None);
}

/// A stand-in for `ssh` that misbehaves in its first conversation only.
fn misbehave_once(site: &Site, text: &str) {
    let once = site.folder.path().join("once");
    let repo = site.repo.path().display();
    script(
        &site.folder.path().join("ssh"),
        &format!(
            "for command; do :; done\nif [ ! -e '{0}' ]; then\ntouch '{0}'\nlength=$(git receive-pack --http-backend-info-refs '{repo}' | wc -c)\n{text}\nfi\nexec sh -c \"$command\"",
            once.display()
        ),
    );
}

#[test]
fn over_ssh_a_lost_report_is_made_up_for_by_a_look() {
    for more in [0, 1, 10] {
        let site = Site::new(Way::Ssh);
        misbehave_once(
            &site,
            &format!("sh -c \"$command\" | dd bs=1 count=$((length + {more})) 2>/dev/null\nexit 255"),
        );
        let (new, outcome) = site.record(NAME, None, "prod@1");
        assert_eq!((outcome, site.stands(NAME)), (Outcome::Done, Some(new)), "{more}");
    }
}

#[test]
fn over_ssh_a_connection_that_is_cut_before_git_has_everything_changes_nothing() {
    for at in [0, 60, 300] {
        let site = Site::new(Way::Ssh);
        misbehave_once(&site, &format!("head -c {at} | sh -c \"$command\" | head -c $length\nexit 255"));
        let (new, outcome) = site.record(NAME, None, "prod@1");
        assert!(matches!(outcome, Outcome::Unsure { .. }), "{at}: {outcome:?}");
        assert_eq!(site.stands(NAME), None, "{at}");
        assert_eq!(site.push(&[update(NAME, None, new)]), [Outcome::Done]);
    }
}

#[test]
fn over_ssh_the_last_words_say_that_a_key_may_not_write() {
    for words in [
        "ERROR: The key you are authenticating with has been marked as read only.",
        "GitLab: This deploy key does not have write access to this project.",
        "git@git.example.org: Permission denied (publickey).",
    ] {
        let site = Site::new(Way::Ssh);
        let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
        script(&site.folder.path().join("ssh"), &format!("echo '{words}' >&2; exit 128"));
        let problem = site.mirror.push(&[update(NAME, None, new)], &site.credentials).unwrap_err();
        assert_eq!(problem.fault, Who::Setup, "{problem}");
    }
}
