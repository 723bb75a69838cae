//! What is told of components: the release matrix, changelogs and the hygiene of branches, over real repositories.
//!
//! The mirrors of components hold commits and nothing else, as an agent's do.

mod hygiene;
mod journey;
mod library;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use git2::{ObjectType, Oid, Repository, Signature, Time};
use support::deploy_repo::{DeployRepo, commit_id, oid};
use towpath::board::Releases;
use towpath::releases::Reading;
use towpath::repo::{Credentials, Mirror, Part, Parts, Remote, View};
use towpath_core::changelog::{Changelog, End, MAX_NAMED, Way};
use towpath_core::fault::Problem;
use towpath_core::lane::{BranchNames, Heads};
use towpath_core::matrix::{Cell, Snapshot};
use towpath_core::revision::CommitId;
use towpath_core::status::ComponentStatus;

/// A deploy repository and its components, on disk.
struct Place {
    folder: tempfile::TempDir,
    deploy: DeployRepo,
    parts: BTreeMap<String, Result<DeployRepo, Problem>>,
    /// Components whose mirrors hold folders and files too.
    whole: BTreeSet<String>,
    mirrors: std::cell::Cell<usize>,
}

/// The addresses of components in `.gitmodules`, as they stand below the deploy repository's own.
fn url(name: &str) -> String {
    format!("../{name}.git")
}

impl Place {
    fn new(components: &[&str]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let deploy = DeployRepo::new(folder.path().join("deploy.git"));
        let part = |name: &&str| ((*name).to_owned(), Ok(DeployRepo::new(folder.path().join(format!("{name}.git")))));
        let parts = components.iter().map(part).collect();
        Place { folder, deploy, parts, whole: BTreeSet::new(), mirrors: std::cell::Cell::default() }
    }

    fn part(&self, name: &str) -> &DeployRepo {
        self.parts[name].as_ref().unwrap()
    }

    /// Pins a component on a branch of the deploy repository.
    fn pin(&self, branch: &str, name: &str, commit: CommitId) -> CommitId {
        self.deploy.submodule(branch, &format!("components/{name}"), &url(name), commit)
    }

    fn fresh(&self, name: &str) -> PathBuf {
        self.mirrors.set(self.mirrors.get() + 1);
        self.folder.path().join(format!("mirror-{}-{name}", self.mirrors.get()))
    }

    /// What an agent would know of it now, where it follows every branch.
    fn view(&self) -> View {
        let remote: Remote = self.deploy.url().parse().unwrap();
        let mirror = Mirror::open(&self.fresh("deploy"), remote.clone(), Credentials::default()).unwrap();
        let heads = mirror.heads().unwrap();
        mirror.fetch(&heads.clone().into_iter().collect::<Vec<_>>()).unwrap();
        let part = |(name, part): (&String, &Result<DeployRepo, Problem>)| {
            let address = format!("file://{}/{name}.git", self.folder.path().display());
            let part = part.as_ref().map_err(Clone::clone).map(|repo| {
                let folder = self.fresh(name);
                let remote: Remote = repo.url().parse().unwrap();
                let mirror = Arc::new(Mirror::open(&folder, remote, Credentials::default()).unwrap());
                let look = mirror.look(&["refs/tags/v"]).unwrap();
                let tag = |(name, commit): (&String, &CommitId)| (name["refs/tags/".len()..].to_owned(), *commit);
                let tags = look.refs.iter().map(tag).collect();
                if self.whole.contains(name) {
                    mirror.fetch(&look.heads.clone().into_iter().collect::<Vec<_>>()).unwrap();
                } else {
                    copy_commits(&repo.git(), &Repository::open_bare(&folder).unwrap());
                }
                Arc::new(Part {
                    mirror,
                    heads: look.heads,
                    tags,
                    other_tags: BTreeMap::new(),
                    deleted: BTreeSet::new(),
                    missing: BTreeMap::new(),
                    problem: None,
                })
            });
            (address, part)
        };
        View {
            heads,
            deleted: BTreeSet::new(),
            branches: BranchNames::default(),
            allowed_from: BTreeSet::new(),
            problem: None,
            tags: Arc::default(),
            gates: Arc::default(),
            mirror: Arc::new(mirror),
            parts: Arc::new(Parts { deploy: Some(remote), parts: self.parts.iter().map(part).collect() }),
        }
    }

    fn reading(&self) -> Reading {
        reading(self.view())
    }

    fn at(&self, branch: &str) -> String {
        format!("{branch}@sha1:{}", self.deploy.head(branch))
    }
}

fn reading(view: View) -> Reading {
    let view = Arc::new(view);
    Reading::new("shop/shop".into(), Arc::new(move || Ok(view.clone())))
}

/// Copies the commits of a repository, without folders and files.
fn copy_commits(from: &Repository, to: &Repository) {
    let (from, to) = (from.odb().unwrap(), to.odb().unwrap());
    let mut ids = Vec::new();
    from.foreach(|id| {
        ids.push(*id);
        true
    })
    .unwrap();
    for id in ids {
        let object = from.read(id).unwrap();
        if object.kind() == ObjectType::Commit {
            to.write(ObjectType::Commit, object.data()).unwrap();
        }
    }
}

/// Picks a commit onto a branch as `git cherry-pick` does: with its author and the author's date, and a later committer.
fn cherry_pick(repo: &DeployRepo, branch: &str, commit: CommitId) -> CommitId {
    let git = repo.git();
    let (picked, head) = (git.find_commit(oid(commit)).unwrap(), git.find_commit(oid(repo.head(branch))).unwrap());
    let mut index = git.cherrypick_commit(&picked, &head, 0, None).unwrap();
    assert!(!index.has_conflicts());
    let tree = git.find_tree(index.write_tree_to(&git).unwrap()).unwrap();
    let committer = Signature::new("Kim", "kim@example.org", &Time::new(1_800_000_000, 60)).unwrap();
    let message = String::from_utf8_lossy(picked.message_bytes()).into_owned();
    let reference = format!("refs/heads/{branch}");
    commit_id(git.commit(Some(&reference), &picked.author(), &committer, &message, &tree, &[&head]).unwrap())
}

fn cell<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Cell {
    snapshot.components.iter().find(|cell| cell.name == name).unwrap()
}

fn end(name: &str, revision: &str) -> End {
    End { name: name.to_owned(), revision: revision.to_owned() }
}

fn told(place: &Place, from: &str, to: &str) -> Changelog {
    place.reading().changelog(end("one", from), end("other", to)).unwrap()
}

#[test]
fn each_pin_is_held_against_the_branch_of_its_lane() {
    let mut place = Place::new(&["web", "api"]);
    let web = place.part("web");
    let first = web.commit("r1.2", "first", &[("a", "1")]);
    web.branch("develop", "r1.2");
    web.git().reference("refs/tags/v1.2", oid(first), false, "tag").unwrap();
    let second = web.commit("r1.2", "second", &[("a", "2")]);
    let on_develop = web.commit("develop", "on develop", &[("b", "1")]);
    let api = place.part("api").commit("main", "first", &[("a", "1")]);
    place.deploy.commit(
        "r1.2",
        "towpath",
        &[("towpath.yaml", "components: {web: {image: harbor.example/web, tag: '{{short}}'}}\n")],
    );
    place.pin("r1.2", "web", first);
    place.pin("r1.2", "api", api);

    let snapshot = place.reading().snapshot(&place.at("r1.2"), &[]).unwrap();
    let found = cell(&snapshot, "web");
    assert_eq!((found.ahead, found.behind, found.branch.as_str()), (Some(0), Some(1), "r1.2"));
    assert_eq!(found.image, Some(format!("harbor.example/web:{}", first.short())));
    assert!(found.committed_at.is_some() && found.commit == first);
    let found = cell(&snapshot, "api");
    assert_eq!((found.ahead, found.behind), (None, None));
    assert!(
        found.unknown.iter().any(|why| why.contains("component components/api: its repository has no branch r1.2")),
        "{found:?}"
    );

    // At the head, and beside the branch.
    place.pin("r1.2", "web", second);
    let snapshot = place.reading().snapshot(&place.at("r1.2"), &[]).unwrap();
    assert_eq!(cell(&snapshot, "web").standing(), "at the head");
    assert_eq!(cell(&snapshot, "web").title(), format!("v1.2-1-{}", second.short()));
    assert!(cell(&snapshot, "web").unknown.is_empty());
    place.pin("r1.2", "web", on_develop);
    let beside = place.reading().snapshot(&place.at("r1.2"), &[]).unwrap();
    assert_eq!(cell(&beside, "web").standing(), "1 ahead, 1 behind");

    // A commit that was never there, and a repository that cannot be read, are told with their reasons.
    let lost = CommitId::from_bytes([7; 20]);
    place.pin("r1.2", "web", lost);
    let refused = Problem::setup("https://git.example.com answered 401").hint("renew the token");
    place.parts.insert("api".into(), Err(refused));
    let unknown = place.reading().snapshot(&place.at("r1.2"), &[]).unwrap();
    let found = cell(&unknown, "web");
    assert_eq!((found.standing().as_str(), found.committed_at), ("unknown", None));
    let reason = found.unknown.join("\n");
    assert!(reason.contains("component components/web (../web.git)") && reason.contains(&lost.to_string()), "{reason}");
    assert!(cell(&unknown, "api").unknown.join("\n").contains("401 (help: renew the token)"));
}

#[test]
fn a_submodule_that_follows_a_branch_of_its_own_is_held_against_that() {
    let place = Place::new(&["web"]);
    let first = place.part("web").commit("stable", "first", &[("a", "1")]);
    place.part("web").commit("stable", "second", &[("a", "2")]);
    place.pin("master", "web", first);
    let modules = place.deploy.text("master", ".gitmodules").unwrap().replace("branch = .", "branch = stable");
    place.deploy.commit("master", "follow stable", &[(".gitmodules", &modules)]);
    let snapshot = place.reading().snapshot(&place.at("master"), &[]).unwrap();
    let found = cell(&snapshot, "web");
    assert_eq!((found.branch.as_str(), found.standing().as_str()), ("stable", "1 behind"));
}

#[test]
fn what_runs_keeps_the_version_that_it_runs_with() {
    let place = Place::new(&["web"]);
    let first = place.part("web").commit("master", "first", &[("a", "1")]);
    place.pin("master", "web", first);
    let runs = ComponentStatus {
        path: "components/web".into(),
        commit: first.to_string(),
        committed_at: "2026-01-05T09:00:00Z".parse().unwrap(),
        version: Some("v0.9-3-abcdefa".into()),
        git_tag: None,
        digests: BTreeMap::new(),
    };
    let reading = place.reading();
    let version =
        |runs: &[ComponentStatus]| cell(&reading.snapshot(&place.at("master"), runs).unwrap(), "web").version.clone();
    assert_eq!(version(std::slice::from_ref(&runs)).as_deref(), Some("v0.9-3-abcdefa"));
    assert_ne!(version(&[]).as_deref(), Some("v0.9-3-abcdefa"), "nobody else runs it so");
    let other = ComponentStatus { commit: "0".repeat(40), ..runs };
    assert_ne!(version(&[other]).as_deref(), Some("v0.9-3-abcdefa"));
}

#[test]
fn a_revision_that_cannot_be_read_is_unknown_and_not_empty() {
    let place = Place::new(&["web"]);
    place.pin("master", "web", place.part("web").commit("master", "first", &[("a", "1")]));
    place.deploy.commit("master", "broken", &[("towpath.yaml", "componets: {}\n")]);
    let reading = place.reading();
    let snapshot = reading.snapshot(&place.at("master"), &[]).unwrap();
    assert!(snapshot.components.is_empty() && snapshot.problems[0].contains("unknown field componets"), "{snapshot:?}");
    let lost = format!("master@sha1:{}", CommitId::from_bytes([9; 20]));
    assert!(reading.snapshot(&lost, &[]).unwrap_err().message.contains("is not in the mirror"));
    assert!(reading.snapshot("master", &[]).is_err());
}

#[test]
fn a_changelog_names_what_comes_with_merges_as_one_line() {
    let place = Place::new(&["web", "new", "old"]);
    let web = place.part("web");
    let first = web.commit("master", "first", &[("a", "1")]);
    web.branch("feature", "master");
    web.commit("feature", "half of it", &[("b", "1")]);
    web.commit("feature", "the other half", &[("c", "1")]);
    web.commit("master", "a fix", &[("a", "2")]);
    let merge = web.merge("master", "feature");
    let old = place.part("old").commit("master", "first", &[("a", "1")]);
    place.pin("master", "web", first);
    place.pin("master", "old", old);
    let before = place.at("master");
    place.pin("master", "web", merge);
    place.deploy.delete("master", "components/old");
    let modules = place.deploy.text("master", ".gitmodules").unwrap();
    let without: String =
        modules.split_inclusive("[submodule").filter(|part| !part.contains("components/old")).collect();
    let without = without.trim_end_matches("[submodule").to_owned();
    place.deploy.commit("master", "old goes", &[(".gitmodules", &without)]);
    place.pin("master", "new", place.part("new").commit("master", "first", &[("a", "1")]));
    let after = place.at("master");

    let found = told(&place, &before, &after);
    let moves: Vec<(&str, Way)> = found.components.iter().map(|one| (one.name.as_str(), one.moved.way)).collect();
    assert_eq!(moves, [("new", Way::Added), ("old", Way::Removed), ("web", Way::Forward)]);
    let subjects: Vec<&str> =
        found.components[2].moved.coming.commits.iter().map(|commit| commit.subject.as_str()).collect();
    assert_eq!(subjects, ["Merge branch 'feature' into master", "a fix"], "by first parent, the newest first");
    assert_eq!((found.deploy.way, found.deploy.coming.len()), (Way::Forward, 4));

    // The other way round it is a downgrade, and says what is lost.
    let back = told(&place, &after, &before);
    let web = back.components.iter().find(|one| one.name == "web").unwrap();
    assert_eq!((web.moved.way, web.moved.coming.len(), web.moved.going.len()), (Way::Back, 0, 2));
    assert_eq!(back.deploy.way, Way::Back);
}

#[test]
fn histories_that_part_or_never_met_are_told_as_such() {
    let place = Place::new(&["web"]);
    let web = place.part("web");
    let base = web.commit("master", "base", &[("a", "1")]);
    let ours = web.commit("master", "ours", &[("a", "2")]);
    web.force("other", base);
    let theirs = web.commit("other", "theirs", &[("a", "3")]);
    let stranger = web.commit("orphan", "rewritten", &[("z", "1")]);
    let mut revisions = Vec::new();
    for commit in [ours, theirs, stranger] {
        place.pin("master", "web", commit);
        revisions.push(place.at("master"));
    }
    let way = |from: usize, to: usize| told(&place, &revisions[from], &revisions[to]).components[0].moved.clone();
    let aside = way(0, 1);
    assert_eq!((aside.way, aside.coming.len(), aside.going.len()), (Way::Aside, 1, 1));
    assert_eq!(way(0, 2).way, Way::Unrelated);
    // A pin that is not there is not known, and the rest is told all the same.
    place.pin("master", "web", CommitId::from_bytes([7; 20]));
    let lost = told(&place, &revisions[0], &place.at("master"));
    assert_eq!((lost.components[0].moved.way, lost.deploy.way), (Way::Unknown, Way::Forward));
    assert!(lost.components[0].moved.unknown.as_ref().unwrap().contains("component components/web (../web.git)"));
}

#[test]
fn a_long_changelog_is_cut_and_counted_and_hostile_subjects_stay_text() {
    let place = Place::new(&["web"]);
    let web = place.part("web");
    place.pin("master", "web", web.commit("master", "first", &[("a", "0")]));
    let before = place.at("master");
    for number in 0..MAX_NAMED + 3 {
        web.commit("master", "<img src=x onerror=alert(1)> \u{1b}[2J\u{202e}@ops", &[("a", &number.to_string())]);
    }
    place.pin("master", "web", web.head("master"));
    let found = told(&place, &before, &place.at("master"));
    let coming = &found.components[0].moved.coming;
    assert_eq!((coming.commits.len(), coming.more, coming.len()), (MAX_NAMED, 3, MAX_NAMED + 3));
    assert_eq!(coming.commits[0].subject, "<img src=x onerror=alert(1)> [2J@ops");
    let markdown = found.markdown();
    assert!(markdown.contains("\\<img src=x onerror=alert(1)\\> \\[2J\\@\u{2060}ops"), "{markdown}");
    assert!(!markdown.contains('\u{1b}') && !markdown.contains("- <img"), "{markdown}");
}

#[test]
fn an_address_that_changed_is_said() {
    let place = Place::new(&["web", "fork"]);
    place.pin("master", "web", place.part("web").commit("master", "first", &[("a", "1")]));
    let before = place.at("master");
    let fork = place.part("fork").commit("master", "another beginning", &[("z", "1")]);
    let modules = place.deploy.text("master", ".gitmodules").unwrap().replace("../web.git", "../fork.git");
    place.deploy.commit("master", "move to the fork", &[(".gitmodules", &modules)]);
    place.deploy.submodule("master", "components/web", "../fork.git", fork);
    let found = told(&place, &before, &place.at("master"));
    let why = found.components[0].moved.unknown.as_ref().unwrap();
    assert!(why.contains("changed from ../web.git to ../fork.git"), "{why}");
}

#[test]
fn an_end_is_found_by_branch_and_by_the_first_digits_of_its_commit() {
    let place = Place::new(&[]);
    let first = place.deploy.commit("master", "first", &[("a", "1")]);
    place.deploy.commit("master", "second", &[("a", "2")]);
    let reading = place.reading();
    assert_eq!(reading.find("master").unwrap(), Some(place.at("master")));
    assert_eq!(reading.find("refs/heads/master").unwrap(), Some(place.at("master")));
    assert_eq!(reading.find(&first.short()).unwrap(), Some(format!("{first}@sha1:{first}")));
    for nothing in ["develop", "HEAD", "HEAD~1", &first.short()[..6], ":/first", "0000000", "--all"] {
        assert_eq!(reading.find(nothing).unwrap(), None, "{nothing}");
    }
    // A file is no revision.
    let blob: Oid = place.deploy.blob(b"1");
    assert_eq!(reading.find(&blob.to_string()).unwrap(), None);
}

#[test]
fn what_was_read_once_is_not_read_again() {
    let place = Place::new(&["web"]);
    place.pin("master", "web", place.part("web").commit("master", "first", &[("a", "1")]));
    let before = place.at("master");
    place.pin("master", "web", place.part("web").commit("master", "second", &[("a", "2")]));
    let view = place.view();
    let heads: Heads = view.heads.clone();
    let folders: Vec<PathBuf> = (1..=place.mirrors.get())
        .flat_map(|number| ["deploy", "web"].map(|name| place.folder.path().join(format!("mirror-{number}-{name}"))))
        .filter(|folder| folder.exists())
        .collect();
    let reading = reading(view);
    let ask = || {
        let after = format!("master@sha1:{}", heads["master"]);
        let told = reading.changelog(end("a", &before), end("b", &after)).unwrap();
        (reading.snapshot(&after, &[]).unwrap(), told, reading.hygiene().unwrap())
    };
    let first = ask();
    assert_eq!(first.1.components[0].moved.way, Way::Forward);
    assert_eq!(folders.len(), 2);
    for folder in folders {
        std::fs::remove_dir_all(folder.join("objects")).unwrap();
    }
    let again = ask();
    assert_eq!((first.0, first.1), (again.0, again.1));
    assert!(Arc::ptr_eq(&first.2, &again.2));
}
