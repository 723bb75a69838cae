//! Versions by the tags of a component, held against `git describe` and `git rev-list` on generated histories.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::deploy_repo::{DeployRepo, oid};
use support::git_server::{GitServer, Purpose, git};
use towpath::repo::{Credentials, Mirror};
use towpath_core::fault::Fault;
use towpath_core::revision::CommitId;

fn run(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = git(folder).current_dir(folder).args(arguments).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Gives a repository what `git fast-import` reads.
fn import(folder: &Path, stream: &[u8]) {
    let mut child =
        git(folder).current_dir(folder).args(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stream).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A commit of a generated history: how many seconds late it is, and its parents by how far back they are.
type Step = (u8, Vec<usize>);
/// A tag: on which commit, and whether it is one of its own (annotated).
type Tag = (prop::sample::Index, bool);

fn histories() -> impl Strategy<Value = (Vec<Step>, Vec<Tag>)> {
    // In half of them each commit is newer than those before it; in the others times are equal, or go back.
    let step = |late: u8| (0..=late, prop::collection::vec(1..6_usize, 1..4));
    let steps = prop_oneof![prop::collection::vec(step(0), 2..40), prop::collection::vec(step(3), 2..40)];
    (steps, prop::collection::vec(any::<Tag>(), 1..6))
}

fn time((at, (time, _)): (usize, &Step)) -> usize {
    1_700_000_000 + at + usize::from(*time)
}

fn parents((at, (_, back)): (usize, &Step)) -> Vec<usize> {
    let mut parents: Vec<usize> = back.iter().filter_map(|back| at.checked_sub(*back)).collect();
    parents.sort_unstable();
    parents.dedup();
    parents
}

/// Whether a commit is not newer than one before it.
fn is_skewed(steps: &[Step]) -> bool {
    let time_of = |at: usize| time((at, &steps[at]));
    steps.iter().enumerate().any(|step| parents(step).into_iter().any(|parent| time_of(parent) >= time(step)))
}

/// Writes a history into a new bare repository. Its newest commit is on `develop`.
fn write(folder: &Path, (steps, tags): &(Vec<Step>, Vec<Tag>)) -> PathBuf {
    let bare = folder.join("component.git");
    git(folder).args(["init", "--quiet", "--bare", "-b", "develop"]).arg(&bare).status().unwrap();
    let mut stream = String::new();
    for step in steps.iter().enumerate() {
        let at = step.0;
        stream += &format!("commit refs/imported/{at}\nmark :{}\n", at + 1);
        stream += &format!("committer Robin <r@example.org> {} +0000\ndata 1\n\n", time(step));
        for (index, parent) in parents(step).iter().rev().enumerate() {
            stream += &format!("{} :{}\n", if index == 0 { "from" } else { "merge" }, parent + 1);
        }
        stream.push('\n');
    }
    stream += &format!("reset refs/heads/develop\nfrom :{}\n\n", steps.len());
    for (minor, (at, is_annotated)) in tags.iter().enumerate() {
        let mark = at.index(steps.len()) + 1;
        if *is_annotated {
            stream += &format!("tag v1.{minor}\nfrom :{mark}\ntagger R <r@example.org> 1700000000 +0000\ndata 1\n\n");
        } else {
            stream += &format!("reset refs/tags/v1.{minor}\nfrom :{mark}\n\n");
        }
    }
    // What is no version is never the nearest.
    stream += &format!("reset refs/tags/v9.9.9\nfrom :{0}\n\nreset refs/tags/latest\nfrom :{0}\n\n", steps.len());
    import(&bare, stream.as_bytes());
    bare
}

#[test]
fn a_version_counts_as_git_does_on_generated_histories() {
    let same = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let result = runner.run(&histories(), |history| {
        let folder = tempfile::tempdir().unwrap();
        let bare = write(folder.path(), &history);
        let mirror = super::open(&folder, &format!("file://{}", bare.display()));
        let look = mirror.look_at_component(["develop"]).unwrap();
        prop_assert_eq!(look.tags.len(), history.1.len());
        let head = look.heads["develop"];
        mirror.fetch(&[("develop".to_owned(), head)]).unwrap();
        let ours = mirror.describe(head, &look.tags);
        let text = head.to_string();
        // git's own pattern cannot say that two numbers are all.
        let theirs =
            run(&bare, &["describe", "--long", "--tags", "--match", "v[0-9]*.[0-9]*", "--exclude", "v*.*.*", &text]);
        let count = |tag: &str| -> usize {
            run(&bare, &["rev-list", "--count", &format!("{tag}..{text}")]).unwrap().parse().unwrap()
        };
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) => {
                let their_tag = theirs.split('-').next().unwrap();
                prop_assert_eq!(count(&ours.tag.to_string()), ours.count);
                prop_assert!(ours.count <= count(their_tag), "{} and not {}", theirs, ours);
                // Where a commit is not newer than all before it, git's own two ways of counting can differ.
                if ours.tag.to_string() == their_tag && !is_skewed(&history.0) {
                    same.set(same.get() + 1);
                    let (front, short) = theirs.rsplit_once("-g").unwrap();
                    prop_assert_eq!(format!("{front}-{}", &short[..7]), ours.to_string());
                }
                // No other tag is nearer.
                for tag in look.tags.keys().filter(|tag| mirror.is_ancestor(look.tags[*tag], head).unwrap_or(false)) {
                    prop_assert!(ours.count <= count(tag));
                }
            }
            (Err(problem), None) => prop_assert!(problem.message.contains("no tag vX.Y"), "{}", problem),
            (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
        }
        Ok(())
    });
    result.unwrap();
    // About every second time; it must not be that nothing was compared.
    assert!(same.get() > 5, "git took the same tag only {} times", same.get());
}

/// A component with tags of both kinds, and what its tags lead to.
fn tagged(repo: &DeployRepo) -> BTreeMap<String, CommitId> {
    let first = repo.commit("develop", "first", &[("a", "1")]);
    let second = repo.commit("develop", "second", &[("a", "2")]);
    repo.commit("develop-old", "other", &[("a", "1")]);
    repo.commit("r1.0", "release", &[("a", "3")]);
    let git = repo.git();
    let object = |commit: CommitId| git.find_object(oid(commit), None).unwrap();
    let tagger = git2::Signature::new("Robin", "r@example.org", &git2::Time::new(1_700_000_000, 0)).unwrap();
    let annotated = git.tag("v1.0", &object(first), &tagger, "one", false).unwrap();
    git.tag_lightweight("v1.1", &object(second), false).unwrap();
    // A tag of a tag, one of a file, and names that are no versions.
    git.tag("v1.2", &git.find_object(annotated, None).unwrap(), &tagger, "again", false).unwrap();
    git.tag_lightweight("v1.3", &git.find_object(repo.blob(b"file"), None).unwrap(), false).unwrap();
    git.tag_lightweight("v1.3.1", &object(second), false).unwrap();
    git.tag_lightweight("latest", &object(second), false).unwrap();
    let file = git.refname_to_id("refs/tags/v1.3").unwrap();
    [("v1.0", first), ("v1.1", second), ("v1.2", first), ("v1.3", support::deploy_repo::commit_id(file))]
        .map(|(name, commit)| (name.to_owned(), commit))
        .into()
}

#[test]
fn one_request_shows_the_branches_that_are_asked_for_and_what_tags_lead_to() {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("served/web.git"));
    let tags = tagged(&repo);
    for (name, way) in [("version 2", 2), ("version 0", 0), ("a folder", 1)] {
        let server = GitServer::start(folder.path().join("served"));
        if way == 0 {
            server.speak_only_version_0();
        }
        let address = if way == 1 { repo.url() } else { server.url("web.git") };
        let mirror = Mirror::open(&folder.path().join(name), address.parse().unwrap(), Credentials::default()).unwrap();
        mirror.heads().unwrap();
        server.take_requests();
        let look = mirror.look_at_component(["develop", "gone"]).unwrap();
        assert_eq!(look.heads.into_iter().collect::<Vec<_>>(), [("develop".to_owned(), repo.head("develop"))]);
        assert_eq!(look.tags, tags, "{name}");
        let purposes: Vec<Purpose> = server.take_requests().iter().map(|request| request.purpose).collect();
        let expected: &[Purpose] = [&[Purpose::Greeting], &[][..], &[Purpose::Refs]][way];
        assert_eq!(purposes, expected, "{name}");
        assert_eq!(mirror.look_at_component([] as [&str; 0]).unwrap().tags, tags);
        assert_eq!(mirror.look_at_component(["../x"]).unwrap_err().fault, Fault::Setup);
    }
}

#[test]
fn a_version_follows_a_tag_that_moves() {
    let pair = super::pair();
    let super::Pair { server, mirror, .. } = &pair;
    let mut tags = tagged(server);
    super::pull(mirror);
    let (head, first) = (server.head("develop"), tags["v1.0"]);
    let describe = |commit, tags: &_| mirror.describe(commit, tags).map(|version| version.to_string());
    assert_eq!(describe(head, &tags), Ok(format!("v1.1-0-{}", head.short())));
    tags.remove("v1.1");
    // Of two on one commit the higher one counts, and a tag on a file is before nothing.
    assert_eq!(describe(head, &tags), Ok(format!("v1.2-1-{}", head.short())));
    tags.retain(|tag, _| tag == "v1.0");
    assert_eq!(describe(head, &tags), Ok(format!("v1.0-1-{}", head.short())));
    tags.insert("v1.0".into(), head);
    assert_eq!(describe(head, &tags), Ok(format!("v1.0-0-{}", head.short())));
    let problem = describe(first, &tags).unwrap_err();
    assert_eq!(problem.fault, Fault::Setup, "{problem}");
    assert!(problem.message.contains("no tag vX.Y"), "{problem}");
    let nowhere = mirror.describe(CommitId::from_bytes([7; 20]), &tags).unwrap_err();
    assert_eq!(nowhere.fault, Fault::Passing, "{nowhere}");
}
