//! Refs besides the branches that are followed: looked at with them, fetched, and never moved backwards.

use support::deploy_repo::{DeployRepo, oid};
use support::git_server::{GitServer, Purpose};
use tempfile::TempDir;
use towpath::repo::{Credentials, Mirror, RefMove, Refs};
use towpath_core::fault::Fault;
use towpath_core::revision::CommitId;

use super::{pair, pull};

const NAME: &str = "refs/towpath/test/shop/2026";
const PREFIX: &str = "refs/towpath/";

/// A record on the server, on a ref of its own.
fn record(server: &DeployRepo, name: &str, text: &str) -> CommitId {
    let commit = server.commit("records", text, &[("record", text)]);
    server.git().reference(name, oid(commit), true, "record").unwrap();
    commit
}

fn point(server: &DeployRepo, name: &str, commit: CommitId) {
    server.git().reference(name, oid(commit), true, "forced").unwrap();
}

fn wanted(refs: &Refs) -> Vec<(String, CommitId)> {
    refs.iter().map(|(name, commit)| (name.clone(), *commit)).collect()
}

struct Served {
    repo: DeployRepo,
    server: GitServer,
    mirror: Mirror,
    _folder: TempDir,
}

fn served(version_0: bool) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("served/deploy.git"));
    repo.commit("develop", "first", &[("a.yaml", "1")]);
    let server = GitServer::start(folder.path().join("served"));
    if version_0 {
        server.speak_only_version_0();
    }
    let address = server.url("deploy.git").parse().unwrap();
    let mirror = Mirror::open(&folder.path().join("mirror"), address, Credentials::default()).unwrap();
    Served { repo, server, mirror, _folder: folder }
}

#[test]
fn branches_and_other_refs_are_one_request() {
    for version_0 in [false, true] {
        let served = served(version_0);
        let commit = record(&served.repo, NAME, "one");
        record(&served.repo, "refs/other/x", "two");
        served.mirror.heads().unwrap();
        served.server.take_requests();
        let look = served.mirror.look(&[PREFIX]).unwrap();
        assert_eq!(look.heads.keys().collect::<Vec<_>>(), ["develop", "records"]);
        assert_eq!(wanted(&look.refs), [(NAME.to_owned(), commit)]);
        assert_eq!(look.refs, served.mirror.refs(PREFIX).unwrap());
        let purpose = if version_0 { Purpose::Greeting } else { Purpose::Refs };
        let seen: Vec<Purpose> = served.server.take_requests().iter().map(|request| request.purpose).collect();
        assert_eq!(seen, [purpose, purpose]);
    }
}

#[test]
fn a_ledger_on_a_branch_is_among_both() {
    let served = served(false);
    let commit = record(&served.repo, "refs/heads/towpath/test/shop/2026", "one");
    let look = served.mirror.look(&["refs/heads/towpath/"]).unwrap();
    assert_eq!(look.heads["towpath/test/shop/2026"], commit);
    assert_eq!(look.refs.keys().collect::<Vec<_>>(), ["refs/heads/towpath/test/shop/2026"]);
    let moved = served.mirror.fetch_refs(&wanted(&look.refs)).unwrap();
    assert!(matches!(&moved[..], [RefMove::Advanced { from: None, .. }]), "{moved:?}");
    served.mirror.fetch(&[("towpath".into(), served.repo.head("develop"))]).unwrap();
    assert_eq!(
        served.mirror.kept_ref("refs/heads/towpath/test/shop/2026"),
        Some(commit),
        "a branch pushes it not away"
    );
}

#[test]
fn refs_are_fetched_once_and_only_what_is_new() {
    for version_0 in [false, true] {
        let Served { repo, server, mirror, .. } = &served(version_0);
        let first = record(repo, NAME, "one");
        let refs = mirror.refs(PREFIX).unwrap();
        let moved = mirror.fetch_refs(&wanted(&refs)).unwrap();
        assert_eq!(moved, [RefMove::Advanced { name: NAME.into(), from: None, to: first }]);
        assert_eq!(mirror.tree(first).unwrap().text("record").unwrap(), Some("one"));
        server.take_requests();
        assert_eq!(mirror.fetch_refs(&wanted(&refs)).unwrap(), []);
        assert_eq!(server.take_requests(), []);

        let second = record(repo, NAME, "two");
        let other = record(repo, "refs/towpath/test/web/2026", "three");
        let moved = mirror.fetch_refs(&wanted(&mirror.refs(PREFIX).unwrap())).unwrap();
        assert_eq!(moved.len(), 2, "{moved:?}");
        assert_eq!((mirror.kept_ref(NAME), mirror.kept_refs(PREFIX).len()), (Some(second), 2));
        assert_eq!(mirror.kept_refs("refs/towpath/test/web/").values().collect::<Vec<_>>(), [&other]);
        assert_eq!(mirror.kept_refs("refs/towpath/prod/"), Refs::new());
    }
}

#[test]
fn over_a_folder_they_are_read_too() {
    let pair = pair();
    let commit = record(&pair.server, NAME, "one");
    assert_eq!(wanted(&pair.mirror.look(&[PREFIX]).unwrap().refs), [(NAME.to_owned(), commit)]);
    assert_eq!(pair.mirror.fetch_refs(&[(NAME.into(), commit)]).unwrap().len(), 1);
    assert!(pair.mirror.contains(commit));
}

#[test]
fn a_ref_that_was_rewound_or_rewritten_stays_and_both_ends_are_told() {
    let pair = pair();
    let first = record(&pair.server, NAME, "one");
    let second = record(&pair.server, NAME, "two");
    pair.mirror.fetch_refs(&[(NAME.into(), second)]).unwrap();
    pair.server.force("records", first);
    let aside = record(&pair.server, NAME, "forged");
    for theirs in [first, aside] {
        point(&pair.server, NAME, theirs);
        for _ in 0..2 {
            let moved = pair.mirror.fetch_refs(&[(NAME.into(), theirs)]).unwrap();
            assert_eq!(moved, [RefMove::Rewritten { name: NAME.into(), ours: second, theirs }]);
            assert_eq!(pair.mirror.kept_ref(NAME), Some(second));
            assert!(pair.mirror.commit(theirs).is_ok() && pair.mirror.tree(second).is_ok());
        }
    }
}

#[test]
fn a_ref_that_is_gone_from_the_server_stays() {
    let pair = pair();
    let commit = record(&pair.server, NAME, "one");
    pair.mirror.fetch_refs(&[(NAME.into(), commit)]).unwrap();
    pair.server.git().find_reference(NAME).unwrap().delete().unwrap();
    assert_eq!(pair.mirror.refs(PREFIX).unwrap(), Refs::new());
    assert_eq!(pair.mirror.kept_ref(NAME), Some(commit));
}

#[test]
fn a_ref_that_takes_the_place_of_a_folder_holds_up_no_other() {
    let pair = pair();
    let first = record(&pair.server, NAME, "one");
    pair.mirror.fetch_refs(&[(NAME.into(), first)]).unwrap();
    pair.server.git().find_reference(NAME).unwrap().delete().unwrap();
    let other = record(&pair.server, "refs/towpath/test/web/2026", "three");
    for name in ["refs/towpath/test/shop", "refs/towpath/test/shop/2026/x"] {
        let bad = pair.mirror.fetch_refs(&[(name.into(), other), ("refs/towpath/test/web/2026".into(), other)]);
        assert_eq!(bad.unwrap_err().fault, Fault::Content);
        assert_eq!(pair.mirror.kept_ref("refs/towpath/test/web/2026"), Some(other));
        assert_eq!(pair.mirror.kept_ref(NAME), Some(first));
    }
}

#[test]
fn a_commit_that_the_server_does_not_have_moves_nothing() {
    let served = served(false);
    let first = record(&served.repo, NAME, "one");
    served.mirror.fetch_refs(&[(NAME.into(), first)]).unwrap();
    let nowhere = CommitId::from_bytes([7; 20]);
    let problem = served.mirror.fetch_refs(&[(NAME.into(), nowhere)]).unwrap_err();
    assert_eq!(problem.fault, Fault::Passing, "{problem}");
    assert_eq!(served.mirror.kept_ref(NAME), Some(first));
}

#[test]
fn names_that_are_none_are_not_asked_for() {
    let pair = pair();
    let commit = pair.server.commit("develop", "first", &[("a", "1")]);
    for bad in ["", "towpath/x", "refs/", "refs/../x", "refs/a b", "refs/x\nref-prefix refs/", "refs/x.lock"] {
        assert_eq!(pair.mirror.fetch_refs(&[(bad.to_owned(), commit)]).unwrap_err().fault, Fault::Setup, "{bad:?}");
        assert_eq!(pair.mirror.refs(bad).unwrap_err().fault, Fault::Setup, "{bad:?}");
        assert_eq!(pair.mirror.look(&[bad]).unwrap_err().fault, Fault::Setup, "{bad:?}");
    }
}

#[test]
fn thousands_of_refs_are_no_burden_for_branches() {
    let served = served(false);
    let commit = record(&served.repo, NAME, "one");
    let packed: String = (0..5_000).map(|number| format!("{commit} refs/towpath/test/e{number}/2026\n")).collect();
    let header = "# pack-refs with: peeled fully-peeled sorted \n";
    std::fs::write(served.repo.path().join("packed-refs"), format!("{header}{packed}")).unwrap();
    assert_eq!(served.mirror.look(&[PREFIX]).unwrap().refs.len(), 5_001);
    assert_eq!(served.mirror.heads().unwrap().len(), 2);
    pull(&served.mirror);
    assert!(served.mirror.kept_refs("refs/").is_empty());
}
