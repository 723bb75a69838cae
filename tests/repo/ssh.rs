//! Over ssh, with a script in the place of `ssh` that runs the command on this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::deploy_repo::DeployRepo;
use tempfile::TempDir;
use towpath::repo::{Credentials, Login, Mirror, Terms};
use towpath_core::fault::{Fault, Problem};

use super::pull;

struct Over {
    repo: DeployRepo,
    folder: TempDir,
}

impl Over {
    fn new() -> Over {
        let folder = tempfile::tempdir().unwrap();
        let repo = DeployRepo::new(folder.path().join("deploy.git"));
        repo.commit("develop", "first", &[("a.yaml", "1")]);
        Over { repo, folder }
    }

    /// A mirror whose `ssh` is a script: `$seen` is a file for what it sees, `$command` the command for the server.
    fn mirror(&self, script: &str) -> Mirror {
        self.mirror_on(script, Terms::default())
    }

    fn mirror_on(&self, script: &str, terms: Terms) -> Mirror {
        let seen = self.seen();
        let text = format!(
            "#!/bin/sh\nseen='{}'\nfor command; do :; done\nprintf '%s\\n' \"$@\" > \"$seen\"\nenv >> \"$seen\"\nstat -c '%a %n' . key known_hosts >> \"$seen\"\n{script}\n",
            seen.display()
        );
        let program = self.folder.path().join("ssh");
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let terms = Terms { ssh: program, ..terms };
        let address = format!("ssh://git@git.example.org:2222{}", self.repo.path().display());
        Mirror::open_on(&self.folder.path().join("mirror"), address.parse().unwrap(), key(), terms).unwrap()
    }

    fn seen(&self) -> PathBuf {
        self.folder.path().join("seen")
    }
}

/// What a server does with the command that a login asks for.
const SERVE: &str = "exec sh -c \"$command\"";

fn key() -> Credentials {
    Login::SshKey { private_key: "PRIVATE".into(), known_hosts: "git.example.org ssh-ed25519 AAAA".into() }.into()
}

#[track_caller]
fn check_problem(problem: &Problem, fault: Fault, part: &str) {
    assert!(problem.fault == fault && problem.to_string().contains(part), "{:?}: {problem}", problem.fault);
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn commits_are_fetched_in_either_version() {
    for script in [SERVE, "unset GIT_PROTOCOL; exec sh -c \"$command\""] {
        let over = Over::new();
        let mirror = over.mirror(script);
        pull(&mirror);
        let second = over.repo.commit("develop", "second", &[("a.yaml", "2")]);
        over.repo.branch("r1.0", "develop");
        assert_eq!(pull(&mirror).len(), 2);
        assert_eq!(mirror.tree(second).unwrap().text("a.yaml").unwrap(), Some("2"));
        assert!(pull(&mirror).is_empty());
    }
}

#[test]
fn ssh_gets_fixed_arguments_an_empty_environment_and_private_files() {
    let over = Over::new();
    let mirror = over.mirror(SERVE);
    mirror.heads().unwrap();
    let seen = std::fs::read_to_string(over.seen()).unwrap();
    for line in [
        "-F\nnone",
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=known_hosts",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "-p\n2222\n-l\ngit\n--\ngit.example.org\ngit-upload-pack '",
        "700 .",
        "600 key",
        "600 known_hosts",
    ] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    for line in ["HOME=", "CARGO", "SSH_AUTH_SOCK", "PRIVATE"] {
        assert!(!seen.contains(line), "{line}: {seen}");
    }
    assert!(is_empty(&over.folder.path().join("mirror.ssh")), "the key is removed");
}

#[test]
fn the_last_words_of_ssh_say_who_must_act() {
    for (words, fault, part) in [
        ("Host key verification failed.", Fault::Setup, "not the trusted one"),
        ("git@git.example.org: Permission denied (publickey).", Fault::Setup, "credentials refused"),
        ("Load key \"key\": invalid format", Fault::Setup, "cannot be read"),
        ("ERROR: Repository not found.", Fault::Setup, "no git repository"),
        ("ssh: connect to host x port 22: Connection refused", Fault::Passing, "Connection refused"),
        ("ssh: Could not resolve hostname x: Name or service not known", Fault::Passing, "resolve"),
        ("", Fault::Passing, "cut short"),
    ] {
        let over = Over::new();
        let mirror = over.mirror(&format!("echo '{words}' >&2; exit 255"));
        check_problem(&mirror.heads().unwrap_err(), fault, part);
        assert!(is_empty(&over.folder.path().join("mirror.ssh")));
    }
}

#[test]
fn a_refused_key_is_not_tried_for_ever() {
    let over = Over::new();
    let mirror = over.mirror("echo x >> \"$seen.count\"; echo 'Permission denied (publickey).' >&2; exit 255");
    for _ in 0..10 {
        check_problem(&mirror.heads().unwrap_err(), Fault::Setup, "credentials refused");
    }
    assert_eq!(std::fs::read_to_string(over.folder.path().join("seen.count")).unwrap().lines().count(), 3);
}

#[test]
fn an_ssh_that_never_ends_is_ended() {
    for script in ["exec sleep 600", "sleep 5", "yes 000fxxxxxxxxxx | tr -d '\\n'"] {
        let over = Over::new();
        let (idle, whole) = (Duration::from_millis(500), Duration::from_millis(900));
        let mirror = over.mirror_on(script, Terms { idle, whole, ..Terms::default() });
        let start = Instant::now();
        let problem = mirror.heads().unwrap_err();
        assert_ne!(problem.fault, Fault::Content, "{problem}");
        assert!(start.elapsed() < Duration::from_secs(4), "{script}: {:?}", start.elapsed());
        assert!(is_empty(&over.folder.path().join("mirror.ssh")));
    }
}

#[test]
fn a_pack_that_is_cut_changes_nothing() {
    let over = Over::new();
    let idle = Duration::from_millis(500);
    let mirror = over.mirror_on("sh -c \"$command\" | head -c 700", Terms { idle, ..Terms::default() });
    let problem = mirror.fetch(&[("develop".into(), over.repo.head("develop"))]).unwrap_err();
    assert_eq!(problem.fault, Fault::Passing, "{problem}");
    assert!(!mirror.contains(over.repo.head("develop")));
}

#[test]
fn without_a_key_or_a_trusted_host_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let open = |credentials: Credentials| {
        let address = "git@git.example.org:group/deploy.git".parse().unwrap();
        Mirror::open(&folder.path().join("mirror"), address, credentials).map(drop).unwrap_err()
    };
    check_problem(&open(Credentials::default()), Fault::Setup, "no ssh key");
    let unknown = Login::SshKey { private_key: "x".into(), known_hosts: "# nothing\n\n".into() };
    check_problem(&open(unknown.into()), Fault::Setup, "known_hosts is empty");
    let empty = Login::SshKey { private_key: " \n".into(), known_hosts: "x".into() };
    check_problem(&open(empty.into()), Fault::Setup, "key for git.example.org is empty");
}

#[test]
fn an_ssh_that_is_not_there_is_told() {
    let over = Over::new();
    let mirror = over.mirror(SERVE);
    std::fs::remove_file(over.folder.path().join("ssh")).unwrap();
    check_problem(&mirror.heads().unwrap_err(), Fault::Setup, "cannot be started");
}

#[test]
fn the_real_ssh_takes_the_arguments() {
    // Nothing listens on port 1: what it complains about must be the connection.
    let folder = tempfile::tempdir().unwrap();
    let address = "ssh://git@127.0.0.1:1/deploy.git".parse().unwrap();
    let mirror = Mirror::open(&folder.path().join("mirror"), address, key()).unwrap();
    check_problem(&mirror.heads().unwrap_err(), Fault::Passing, "Connection refused");
}
