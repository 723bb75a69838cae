//! Pushing to real git: over http, over ssh (a script in the place of `ssh`) and into a folder.

mod faults;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::deploy_repo::{DeployRepo, commit_id, oid};
use support::git_server::{GitServer, Purpose};
use tempfile::TempDir;
use towpath::repo::{Credentials, Login, Mirror, NewTree, Outcome, Refusal, Terms, Update};
use towpath_core::fault::Fault as Who;
use towpath_core::revision::CommitId;

use super::commits::{git_says, write, write_tree};

const NAME: &str = "refs/towpath/test/shop/2026";
const OTHER: &str = "refs/towpath/test/web/2026";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Http,
    Ssh,
    Folder,
}

const WIRE: [Way; 2] = [Way::Http, Way::Ssh];
const ALL: [Way; 3] = [Way::Http, Way::Ssh, Way::Folder];

/// A deploy repository with one commit, and a mirror of it.
struct Site {
    repo: DeployRepo,
    server: GitServer,
    mirror: Mirror,
    credentials: Credentials,
    folder: TempDir,
}

impl Site {
    fn new(way: Way) -> Site {
        Site::with_terms(way, Terms::default())
    }

    fn with_terms(way: Way, terms: Terms) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let repo = DeployRepo::new(folder.path().join("served/deploy.git"));
        repo.commit("develop", "first", &[("a.yaml", "1"), ("folder/b.yaml", "2")]);
        let server = GitServer::start(folder.path().join("served"));
        let ssh = folder.path().join("ssh");
        script(&ssh, "for command; do :; done\nexec sh -c \"$command\"");
        let (address, credentials) = match way {
            Way::Http => (server.url("deploy.git"), Credentials::default()),
            Way::Ssh => (format!("ssh://git@git.example.org{}", repo.path().display()), key()),
            Way::Folder => (repo.url(), Credentials::default()),
        };
        let terms = Terms { ssh, ..terms };
        let path = folder.path().join("mirror");
        let mirror = Mirror::open_on(&path, address.parse().unwrap(), credentials.clone(), terms).unwrap();
        Site { repo, server, mirror, credentials, folder }
    }

    fn push(&self, updates: &[Update]) -> Vec<Outcome> {
        self.mirror.push(updates, &self.credentials).unwrap()
    }

    /// Pushes a new commit on a ref that must be where it was put last.
    fn record(&self, name: &str, old: Option<CommitId>, text: &str) -> (CommitId, Outcome) {
        let new = write(&self.mirror, &old.into_iter().collect::<Vec<_>>(), text, &[("record", text)]);
        (new, self.push(&[update(name, old, new)]).remove(0))
    }

    /// Where a ref stands on the server.
    fn stands(&self, name: &str) -> Option<CommitId> {
        self.repo.git().refname_to_id(name).ok().map(commit_id)
    }

    fn hook(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.repo.path().join("hooks")).unwrap();
        script(&self.repo.path().join("hooks").join(name), text);
    }

    fn configure(&self, key: &str, value: &str) {
        self.repo.git().config().unwrap().set_str(key, value).unwrap();
    }

    /// The repository on the server, and every record in it, is sound.
    fn check(&self, heads: &[CommitId]) {
        git_says(self.repo.path(), &["fsck", "--full", "--strict", "--connectivity-only"]);
        for head in heads {
            let head = head.to_string();
            let said = git_says(self.repo.path(), &["log", "--show-signature", "--format=%H", &head]);
            let count = git_says(self.repo.path(), &["rev-list", "--count", &head]);
            assert_eq!(said.matches("Good \"git\" signature").count().to_string(), count.trim(), "{said}");
        }
    }
}

fn key() -> Credentials {
    Login::SshKey { private_key: "PRIVATE".into(), known_hosts: "git.example.org ssh-ed25519 AAAA".into() }.into()
}

fn script(path: &Path, text: &str) {
    // In one go: a program that somebody still writes cannot be started.
    let draft = path.with_extension("draft");
    std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(draft, path).unwrap();
}

fn update(name: &str, old: Option<CommitId>, new: CommitId) -> Update {
    Update { name: name.into(), old, new }
}

#[track_caller]
fn check_refused(outcome: &Outcome, expected: Refusal, part: &str) {
    match outcome {
        Outcome::Refused { refusal, why } if *refusal == expected && why.contains(part) => {}
        other => panic!("not {expected:?} with {part:?}: {other:?}"),
    }
}

#[test]
fn a_new_ref_and_what_follows_arrive_whole() {
    for way in ALL {
        let site = Site::new(way);
        let (first, done) = site.record(NAME, None, "prod@1");
        assert_eq!((done, site.stands(NAME)), (Outcome::Done, Some(first)), "{way:?}");
        let (second, done) = site.record(NAME, Some(first), "prod@2");
        assert_eq!((done, site.stands(NAME)), (Outcome::Done, Some(second)), "{way:?}");
        assert_eq!(site.mirror.kept_ref(NAME), Some(second));
        site.check(&[second]);
        let said = git_says(site.repo.path(), &["show", &format!("{NAME}:record")]);
        assert_eq!(said, "prod@2");
        assert_eq!(site.mirror.refs("refs/towpath/").unwrap()[NAME], second);
    }
}

#[test]
fn a_revert_on_a_branch_is_pushed_without_what_the_server_has() {
    for way in ALL {
        let site = Site::new(way);
        super::pull(&site.mirror);
        let head = site.repo.head("develop");
        let new = write(&site.mirror, &[head], "Revert", &[("a.yaml", "0"), ("folder/b.yaml", "2")]);
        let before = site.mirror.kept_refs("refs/");
        assert_eq!(site.push(&[update("refs/heads/develop", Some(head), new)]), [Outcome::Done], "{way:?}");
        assert_eq!(site.repo.head("develop"), new);
        assert_eq!(site.repo.text("develop", "folder/b.yaml").as_deref(), Some("2"));
        assert_eq!(before.len() + 1, site.mirror.kept_refs("refs/").len());
        site.check(&[]);
    }
}

#[test]
fn many_refs_are_one_push() {
    for way in ALL {
        let site = Site::new(way);
        let updates: Vec<Update> = (0..50)
            .map(|number| {
                let text = format!("prod@{number}");
                let new = write(&site.mirror, &[], &text, &[("record", &text)]);
                update(&format!("refs/towpath/test/e{number}/2026"), None, new)
            })
            .collect();
        site.server.take_requests();
        assert!(site.push(&updates).iter().all(|outcome| *outcome == Outcome::Done), "{way:?}");
        if way == Way::Http {
            let seen: Vec<Purpose> = site.server.take_requests().iter().map(|request| request.purpose).collect();
            assert_eq!(seen, [Purpose::Greeting, Purpose::Push]);
        }
        assert_eq!(site.mirror.refs("refs/towpath/").unwrap().len(), 50);
        site.check(&[]);
    }
}

#[test]
fn pushes_one_after_another_keep_the_connection() {
    let site = Site::new(Way::Http);
    super::pull(&site.mirror);
    let mut old = None;
    for number in 0..5 {
        let (new, done) = site.record(NAME, old, &format!("prod@{number}"));
        assert_eq!(done, Outcome::Done);
        old = Some(new);
    }
    assert_eq!(site.server.connections(), 1);
}

#[test]
fn the_same_push_again_is_done_and_sends_nothing() {
    for way in ALL {
        let site = Site::new(way);
        let (first, _) = site.record(NAME, None, "prod@1");
        site.server.take_requests();
        for old in [None, Some(first)] {
            assert_eq!(site.push(&[update(NAME, old, first)]), [Outcome::Done], "{way:?}");
        }
        assert!(site.server.take_requests().iter().all(|request| request.purpose == Purpose::Greeting));
    }
}

#[test]
fn a_ref_that_moved_in_the_meantime_is_left_where_it_is() {
    for way in ALL {
        let site = Site::new(way);
        let (first, _) = site.record(NAME, None, "prod@1");
        let theirs = write(&site.mirror, &[first], "theirs", &[("record", "theirs")]);
        let ours = write(&site.mirror, &[first], "ours", &[("record", "ours")]);
        assert_eq!(site.push(&[update(NAME, Some(first), theirs)]), [Outcome::Done]);
        let moved = [Outcome::Moved { now: Some(theirs) }];
        assert_eq!(site.push(&[update(NAME, Some(first), ours)]), moved, "{way:?}");
        let new = write(&site.mirror, &[], "new", &[("record", "new")]);
        assert_eq!(site.push(&[update(NAME, None, new)]), moved);
        assert_eq!(site.push(&[update(OTHER, Some(first), ours)]), [Outcome::Moved { now: None }]);
        assert_eq!((site.stands(NAME), site.stands(OTHER)), (Some(theirs), None));
        assert_eq!(site.mirror.kept_ref(NAME), Some(theirs));
    }
}

#[test]
fn somebody_who_is_quicker_within_the_push_wins() {
    for way in WIRE {
        let site = Site::new(way);
        let (first, _) = site.record(NAME, None, "prod@1");
        let theirs = write(&site.mirror, &[first], "theirs", &[("record", "theirs")]);
        assert_eq!(site.push(&[update(OTHER, None, theirs)]), [Outcome::Done]);
        // The server itself moves the ref while it takes the push.
        let competing = format!(
            "unset $(git rev-parse --local-env-vars) GIT_QUARANTINE_PATH\ngit --git-dir='{}' update-ref {NAME} {theirs}",
            site.repo.path().display()
        );
        site.hook("pre-receive", &competing);
        let ours = write(&site.mirror, &[first], "ours", &[("record", "ours")]);
        let outcome = site.push(&[update(NAME, Some(first), ours)]);
        assert_eq!(outcome, [Outcome::Moved { now: Some(theirs) }], "{way:?}");
        assert_eq!(site.stands(NAME), Some(theirs));
        let rebuilt = write(&site.mirror, &[theirs], "ours", &[("record", "ours")]);
        std::fs::remove_file(site.repo.path().join("hooks/pre-receive")).unwrap();
        assert_eq!(site.push(&[update(NAME, Some(theirs), rebuilt)]), [Outcome::Done]);
        site.check(&[rebuilt]);
    }
}

#[test]
fn a_hook_that_declines_is_told_with_its_words() {
    for way in WIRE {
        let site = Site::new(way);
        site.hook("pre-receive", "cat >/dev/null; printf 'not on \\033[31mFridays\\n\\n' >&2; exit 1");
        let (_, outcome) = site.record(NAME, None, "prod@1");
        check_refused(&outcome, Refusal::Hook, "pre-receive hook of the git server declined: not on [31mFridays");
        site.hook("pre-receive", "echo 'GitLab: You are not allowed to push code to protected branches' >&2; exit 1");
        let (_, outcome) = site.record(NAME, None, "prod@1");
        check_refused(&outcome, Refusal::Protected, "protected on the git server: GitLab: You are not allowed");
        assert_eq!((site.stands(NAME), site.mirror.kept_ref(NAME)), (None, None), "{way:?}");
        site.check(&[]);
    }
}

#[test]
fn an_update_hook_may_refuse_one_of_two() {
    for way in WIRE {
        let site = Site::new(way);
        site.hook("update", &format!("[ \"$1\" != {NAME} ] || {{ echo 'frozen' >&2; exit 1; }}"));
        let new = write(&site.mirror, &[], "prod@1", &[("record", "1")]);
        let outcomes = site.push(&[update(NAME, None, new), update(OTHER, None, new)]);
        check_refused(&outcomes[0], Refusal::Hook, "update hook of the git server declined: frozen");
        assert_eq!(outcomes[1], Outcome::Done);
        assert_eq!((site.stands(NAME), site.stands(OTHER)), (None, Some(new)), "{way:?}");
        assert_eq!((site.mirror.kept_ref(NAME), site.mirror.kept_ref(OTHER)), (None, Some(new)));
    }
}

#[test]
fn refs_that_the_server_hides_are_told_to_need_a_branch() {
    for way in ALL {
        let site = Site::new(way);
        site.configure("receive.hideRefs", "refs/towpath");
        let (new, outcome) = site.record(NAME, None, "prod@1");
        check_refused(&outcome, Refusal::Name, "takes no refs of this name");
        let branch = "refs/heads/towpath/test/shop/2026";
        assert_eq!(site.push(&[update(branch, None, new)]), [Outcome::Done], "{way:?}");
        assert_eq!((site.stands(NAME), site.stands(branch)), (None, Some(new)));
    }
}

#[test]
fn a_folder_with_hooks_is_not_gone_around() {
    for hook in ["pre-receive", "update"] {
        let site = Site::new(Way::Folder);
        site.hook(hook, "exit 0");
        let (_, outcome) = site.record(NAME, None, "prod@1");
        check_refused(&outcome, Refusal::Hook, "push over ssh or http");
        assert_eq!(site.stands(NAME), None);
        std::fs::rename(site.repo.path().join("hooks"), site.repo.path().join("others")).unwrap();
        site.configure("core.hooksPath", "others");
        assert!(matches!(site.record(NAME, None, "prod@1").1, Outcome::Refused { .. }));
        std::fs::remove_dir_all(site.repo.path().join("others")).unwrap();
        assert_eq!(site.record(NAME, None, "prod@1").1, Outcome::Done);
    }
}

#[test]
fn the_branch_that_somebody_works_on_is_not_moved_below_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("work");
    git2::Repository::init(&path).unwrap();
    let repo = DeployRepo::open(path.join(".git"));
    let branch = repo.git().find_reference("HEAD").unwrap().symbolic_target().unwrap().unwrap().to_owned();
    let head = repo.commit(branch.strip_prefix("refs/heads/").unwrap(), "first", &[("a", "1")]);
    let mirror = super::open(&folder, path.to_str().unwrap());
    super::pull(&mirror);
    let new = write(&mirror, &[head], "second", &[("a", "2")]);
    let outcomes = mirror.push(&[update(&branch, Some(head), new), update(NAME, None, new)], &Credentials::default());
    let outcomes = outcomes.unwrap();
    check_refused(&outcomes[0], Refusal::Other, "checked out");
    assert_eq!(outcomes[1], Outcome::Done);
}

#[test]
fn nothing_is_ever_forced_or_deleted() {
    for way in ALL {
        let site = Site::new(way);
        let (first, _) = site.record(NAME, None, "prod@1");
        let (second, _) = site.record(NAME, Some(first), "prod@2");
        let aside = write(&site.mirror, &[], "aside", &[("record", "aside")]);
        site.server.take_requests();
        for (old, new) in [(second, first), (second, aside)] {
            let problem = site.mirror.push(&[update(NAME, Some(old), new)], &site.credentials).unwrap_err();
            assert!(problem.fault == Who::Setup && problem.message.contains("does not come after"), "{problem}");
        }
        let nowhere = CommitId::from_bytes([0; 20]);
        let problem = site.mirror.push(&[update(NAME, Some(second), nowhere)], &site.credentials).unwrap_err();
        assert_eq!(problem.fault, Who::Passing, "{problem}");
        for bad in ["HEAD", "refs/heads/../../x", "refs/heads/x y", "develop", "refs/heads/x\n", "refs/x.lock"] {
            let problem = site.mirror.push(&[update(bad, None, first)], &site.credentials).unwrap_err();
            assert_eq!(problem.fault, Who::Setup, "{bad:?}: {problem}");
        }
        let twice = [update(OTHER, None, first), update(OTHER, None, second)];
        assert_eq!(site.mirror.push(&twice, &site.credentials).unwrap_err().fault, Who::Setup);
        assert_eq!(site.server.take_requests(), [], "nobody was asked");
        assert_eq!(site.stands(NAME), Some(second), "{way:?}");
    }
}

#[test]
fn a_server_that_denies_what_we_never_do_takes_what_we_do() {
    for way in ALL {
        let site = Site::new(way);
        for key in ["receive.denyNonFastForwards", "receive.denyDeletes", "receive.fsckObjects", "transfer.fsckObjects"]
        {
            site.configure(key, "true");
        }
        let (first, done) = site.record(NAME, None, "prod@1");
        assert_eq!(done, Outcome::Done, "{way:?}");
        assert_eq!(site.record(NAME, Some(first), "prod@2").1, Outcome::Done, "{way:?}");
    }
}

#[test]
fn ten_thousand_files_are_pushed_and_one_of_them_changed_is_little() {
    let site = Site::new(Way::Http);
    let files = |changed: usize| {
        let mut tree = NewTree::default();
        for number in 0..10_000 {
            let content = format!("kind: Deployment\nname: web-{number}\nreplicas: {}\n", (number == changed) as u8);
            tree.file(&format!("n{}/web-{number}.yaml", number % 100), content.into_bytes()).unwrap();
        }
        tree
    };
    let first = write_tree(&site.mirror, &[], "prod@1", &files(0)).unwrap();
    assert_eq!(site.push(&[update(NAME, None, first)]), [Outcome::Done]);
    let second = write_tree(&site.mirror, &[first], "prod@2", &files(1)).unwrap();
    assert_eq!(site.push(&[update(NAME, Some(first), second)]), [Outcome::Done]);
    site.check(&[second]);
    // Small pushes are unpacked by the server: the commit, the root, two folders and two files.
    assert_eq!(
        git_says(site.repo.path(), &["rev-list", "--objects", "--count", &format!("{first}..{second}")]).trim(),
        "6"
    );
    let loose: usize = git_says(site.repo.path(), &["count-objects"]).split(' ').next().unwrap().parse().unwrap();
    assert!(loose < 40, "{loose}");
}

#[test]
fn what_hangs_far_behind_the_server_is_sent_without_all_of_history() {
    let site = Site::new(Way::Http);
    super::pull(&site.mirror);
    let old = site.repo.head("develop");
    for number in 0..1200 {
        site.repo.commit("develop", "more", &[("a.yaml", &number.to_string())]);
    }
    super::pull(&site.mirror);
    // A new branch from a commit that no ref of the server stands on.
    let base = commit_id(site.repo.git().find_commit(oid(site.repo.head("develop"))).unwrap().parent_id(0).unwrap());
    let new = write(&site.mirror, &[base], "aside", &[("a.yaml", "x")]);
    assert_eq!(site.push(&[update("refs/heads/aside", None, new)]), [Outcome::Done]);
    assert!(site.mirror.is_ancestor(old, new).unwrap());
    site.check(&[]);
}

#[test]
fn over_ssh_the_key_is_gone_afterwards_and_the_command_is_fixed() {
    let site = Site::new(Way::Ssh);
    let seen = site.folder.path().join("seen");
    let text = format!(
        "for command; do :; done\necho \"$command\" > '{0}'\nenv >> '{0}'\nexec sh -c \"$command\"",
        seen.display()
    );
    script(&site.folder.path().join("ssh"), &text);
    assert_eq!(site.record(NAME, None, "prod@1").1, Outcome::Done);
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.starts_with(&format!("git-receive-pack '{}'\n", site.repo.path().display())), "{seen}");
    assert!(!seen.contains("GIT_PROTOCOL") && !seen.contains("PRIVATE"), "{seen}");
    let left: Vec<PathBuf> = std::fs::read_dir(site.folder.path().join("mirror.ssh"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}
