//! Commits that somebody made to do harm.

use std::time::{Duration, Instant};

use git2::{FileMode, ObjectType, Oid};
use support::deploy_repo::DeployRepo;
use towpath_core::fault::{Fault, Problem};
use towpath_core::limits;
use towpath_core::revision::CommitId;

use super::{Pair, pair, pull};

/// What is wrong with the tree of a commit.
fn problems(pair: &Pair, commit: CommitId) -> Vec<Problem> {
    pull(&pair.mirror);
    pair.mirror.tree(commit).map(drop).unwrap_err().into_vec()
}

/// The same of a tree that git's own programs might not even send.
fn problems_if_sent(pair: &Pair, branch: &str, commit: CommitId) -> Option<Vec<Problem>> {
    pair.mirror.fetch(&[(branch.to_owned(), commit)]).ok()?;
    Some(pair.mirror.tree(commit).map(drop).unwrap_err().into_vec())
}

fn blob(server: &DeployRepo) -> Oid {
    server.blob(b"x: 1")
}

#[test]
fn symbolic_links_are_refused_by_name_and_all_at_once() {
    let pair = pair();
    for (path, target) in [
        ("token", "/var/run/secrets/kubernetes.io/serviceaccount/token"),
        ("templates", "../other"),
        ("a/loop", "loop"),
    ] {
        pair.server.entry("develop", path, FileMode::Link, target.as_bytes());
    }
    let head = pair.server.commit("develop", "and a good file", &[("a.yaml", "1")]);
    let found = problems(&pair, head);
    let places: Vec<String> =
        found.iter().filter_map(|problem| problem.place.as_ref()).map(ToString::to_string).collect();
    assert_eq!(places, ["a/loop", "templates", "token"]);
    for problem in &found {
        assert!(problem.fault == Fault::Content && problem.message.contains("symbolic link"), "{problem}");
        assert!(!problem.to_string().contains("secrets"), "{problem}");
    }
}

#[test]
fn a_file_that_becomes_a_symbolic_link_is_refused() {
    let pair = pair();
    let good = pair.server.commit("develop", "a file", &[("values.yaml", "1")]);
    pull(&pair.mirror);
    pair.mirror.tree(good).unwrap();
    let bad = pair.server.entry("develop", "values.yaml", FileMode::Link, b"/etc/passwd");
    assert_eq!(problems(&pair, bad).len(), 1);
    assert!(pair.mirror.tree(good).is_ok());
}

#[test]
fn names_that_fool_somebody_are_refused_and_shown_escaped() {
    let long = vec![b'x'; 5000];
    let names: [&[u8]; 15] = [
        b"..",
        b".",
        b"",
        b".git",
        b".GIT",
        b"git~1",
        b".git\xe2\x80\x8c",
        b"a/b",
        b"a\\b",
        b"a\r",
        b"a ",
        b"a.",
        b"a\nb",
        b"\xff\xfe",
        &long,
    ];
    let pair = pair();
    for (number, name) in names.iter().enumerate() {
        let branch = format!("b{number}");
        let tree = pair.server.raw_tree(&[("100644", name, blob(&pair.server))]);
        let head = pair.server.commit_tree(&branch, "hostile", tree);
        let Some(found) = problems_if_sent(&pair, &branch, head) else {
            assert!(name.is_empty());
            continue;
        };
        assert_eq!((found.len(), found[0].fault), (1, Fault::Content), "{}", name.escape_ascii());
        assert!(found[0].to_string().is_ascii() && !found[0].to_string().contains(char::is_control), "{}", found[0]);
    }
}

#[test]
fn a_name_twice_and_names_out_of_order_are_malformed() {
    let pair = pair();
    let (file, other) = (blob(&pair.server), pair.server.blob(b"/etc/passwd"));
    let folder = pair.server.raw_tree(&[("100644", b"x", file)]);
    let trees = [
        pair.server.raw_tree(&[("100644", b"a", file), ("120000", b"a", other)]),
        pair.server.raw_tree(&[("100644", b"a", file), ("40000", b"a", folder)]),
        pair.server.raw_tree(&[("100644", b"a", file), ("100644", b"a.b", file), ("40000", b"a", folder)]),
        pair.server.raw_tree(&[("100644", b"b", file), ("100644", b"a", file)]),
        pair.server.raw_tree(&[("107777", b"a", file)]),
        pair.server.raw_object(ObjectType::Tree, b"100644 a"),
        pair.server.raw_tree(&[("100644", b"a", folder)]),
    ];
    for (number, tree) in trees.into_iter().enumerate() {
        let branch = format!("b{number}");
        let head = pair.server.commit_tree(&branch, "malformed", tree);
        let Some(found) = problems_if_sent(&pair, &branch, head) else {
            assert!(number >= 5, "{number}");
            continue;
        };
        assert!(
            found[0].fault == Fault::Content && found[0].message.contains("malformed tree"),
            "{number}: {}",
            found[0]
        );
    }
}

#[test]
fn ten_to_the_tenth_files_in_twelve_objects_are_refused_in_time() {
    let pair = pair();
    let names: Vec<String> = (0..10).map(|number| format!("d{number}")).collect();
    let mut tree = {
        let file = blob(&pair.server);
        pair.server.raw_tree(&names.iter().map(|name| ("100644", name.as_bytes(), file)).collect::<Vec<_>>())
    };
    for _ in 0..9 {
        tree = pair.server.raw_tree(&names.iter().map(|name| ("40000", name.as_bytes(), tree)).collect::<Vec<_>>());
    }
    let head = pair.server.commit_tree("develop", "bomb", tree);
    let start = Instant::now();
    let found = problems(&pair, head);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(found[0].message.contains("more than 20000 files"), "{}", found[0]);
}

#[test]
fn folders_without_a_file_have_a_limit_too() {
    let pair = pair();
    let names: Vec<String> = (0..10).map(|number| format!("d{number}")).collect();
    let mut tree = pair.server.raw_tree(&[]);
    for _ in 0..10 {
        tree = pair.server.raw_tree(&names.iter().map(|name| ("40000", name.as_bytes(), tree)).collect::<Vec<_>>());
    }
    let head = pair.server.commit_tree("develop", "bomb", tree);
    let start = Instant::now();
    let found = problems(&pair, head);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(found[0].message.contains("files and folders"), "{}", found[0]);
}

#[test]
fn a_folder_whose_list_is_too_long_is_refused_before_it_is_read() {
    let pair = pair();
    let file = blob(&pair.server);
    let names: Vec<String> = (0..towpath::repo::MAX_TREE_OBJECT_BYTES / 35 + 1).map(|n| format!("f{n:07}")).collect();
    let entries: Vec<_> = names.iter().map(|name| ("100644", name.as_bytes(), file)).collect();
    let head = pair.server.commit_tree("develop", "long", pair.server.raw_tree(&entries));
    let found = problems(&pair, head);
    assert!(found.len() == 1 && found[0].message.contains("too many entries"), "{}", found[0]);
}

#[test]
fn a_tree_thousands_of_folders_deep_is_refused() {
    let pair = pair();
    let mut tree = pair.server.raw_tree(&[("100644", b"f", blob(&pair.server))]);
    {
        // One handle for all of them.
        let git = pair.server.git();
        let odb = git.odb().unwrap();
        for _ in 0..3_000 {
            tree = odb.write(ObjectType::Tree, &[b"40000 d\0", tree.as_bytes()].concat()).unwrap();
        }
    }
    let head = pair.server.commit_tree("develop", "deep", tree);
    let found = problems(&pair, head);
    assert!(found[0].message.contains("folders below each other"), "{}", found[0]);
}

#[test]
fn a_big_file_is_refused_by_its_size_and_the_rest_is_still_looked_at() {
    let pair = pair();
    let big = pair.server.blob(&vec![b'x'; limits::MAX_FILE_BYTES as usize + 1]);
    let just = pair.server.blob(&vec![b'x'; limits::MAX_FILE_BYTES as usize]);
    let link = pair.server.blob(b"x");
    let tree = pair.server.raw_tree(&[("100644", b"big", big), ("100644", b"just", just), ("120000", b"link", link)]);
    let head = pair.server.commit_tree("develop", "big", tree);
    let found = problems(&pair, head);
    assert_eq!(found.len(), 2);
    assert!(found[0].message.contains("bytes"), "{}", found[0]);
}

#[test]
fn only_so_many_problems_are_collected() {
    let pair = pair();
    let target = pair.server.blob(b"/etc/passwd");
    let names: Vec<String> = (0..100).map(|number| format!("l{number:03}")).collect();
    let entries: Vec<_> = names.iter().map(|name| ("120000", name.as_bytes(), target)).collect();
    let head = pair.server.commit_tree("develop", "links", pair.server.raw_tree(&entries));
    assert_eq!(problems(&pair, head).len(), 20);
}

#[test]
fn a_submodule_is_a_commit_and_its_folder_is_empty() {
    let pair = pair();
    let pinned = CommitId::from_bytes([7; 20]);
    let head = pair.server.submodule("develop", "components/web", "../web.git", pinned);
    pull(&pair.mirror);
    let tree = pair.mirror.tree(head).unwrap();
    assert_eq!(tree.submodules().collect::<Vec<_>>(), [("components/web", pinned)]);
    assert_eq!(tree.below("components").count(), 0);
    assert!(tree.text(".gitmodules").unwrap().unwrap().contains("url = ../web.git"));
}

#[test]
fn attributes_of_git_do_not_change_a_byte() {
    let pair = pair();
    let attributes = "* text eol=crlf ident export-subst filter=evil working-tree-encoding=UTF-16\n";
    let head = pair.server.commit("develop", "a", &[(".gitattributes", attributes), ("a", "$Id$\n$Format:%H$\n")]);
    pull(&pair.mirror);
    assert_eq!(pair.mirror.tree(head).unwrap().text("a").unwrap(), Some("$Id$\n$Format:%H$\n"));
}

#[test]
fn replaced_objects_are_not_replaced() {
    let pair = pair();
    let good = pair.server.commit("develop", "good", &[("a", "good")]);
    let evil = pair.server.commit("evil", "evil", &[("a", "evil")]);
    let git = pair.server.git();
    git.reference(&format!("refs/replace/{good}"), support::deploy_repo::oid(evil), true, "").unwrap();
    pull(&pair.mirror);
    assert_eq!(pair.mirror.tree(good).unwrap().text("a").unwrap(), Some("good"));
}

#[test]
fn odd_commits_are_shown_or_refused_and_never_a_panic() {
    let pair = pair();
    let tree = pair.server.raw_tree(&[("100644", b"a", blob(&pair.server))]);
    let person = "Robin <robin@example.org>";
    let commit = |name: &str, text: String| {
        let id = support::deploy_repo::commit_id(pair.server.raw_object(ObjectType::Commit, text.as_bytes()));
        pair.server.force(name, id);
        pair.mirror.fetch(&[(name.to_owned(), id)]).unwrap();
        pair.mirror.revision(id, name)
    };
    let shown = |name: &str, text: String| commit(name, text).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    let ended = |date: &str| format!("author {person} {date} +0000\ncommitter {person} {date} +0000\n");

    let old = shown("old", format!("tree {tree}\n{}\nx\n", ended("-99999999999999")));
    let new = shown("new", format!("tree {tree}\n{}\nx\n", ended("253402300800000")));
    assert!(old.committed_at < new.committed_at);
    let odd = shown(
        "odd",
        format!("tree {tree}\n{}encoding klingon\ngpgsig x\n y\ngpgsig z\n\n\x1b[31mred\u{202e}\nbody", ended("1")),
    );
    assert_eq!(odd.subject, "[31mred");
    let long = shown("long", format!("tree {tree}\n{}\n{}", ended("1"), "x".repeat(1 << 20)));
    assert_eq!(long.subject.len(), 200);
    let too_long = commit("too-long", format!("tree {tree}\n{}\n{}", ended("1"), "x".repeat(5 << 20))).unwrap_err();
    assert_eq!(too_long.fault, Fault::Content);
    let empty = shown("empty", format!("tree {tree}\n{}\n", ended("1")));
    assert_eq!(empty.subject, "");
    // Without an author, or with two trees: shown or refused, but not tried for ever.
    for (name, text) in [
        ("no-author", format!("tree {tree}\ncommitter {person} 1 +0000\n\nx")),
        ("two-trees", format!("tree {tree}\ntree {tree}\n{}\nx", ended("1"))),
    ] {
        let id = support::deploy_repo::commit_id(pair.server.raw_object(ObjectType::Commit, text.as_bytes()));
        pair.server.force(name, id);
        let fetched = pair.mirror.fetch(&[(name.to_owned(), id)]);
        match fetched {
            Ok(_) => assert!(pair.mirror.tree(id).is_ok(), "{name}"),
            Err(problem) => assert_eq!(problem.fault, Fault::Content, "{name}: {problem}"),
        }
    }
}

#[test]
fn a_branch_on_something_that_is_no_commit_is_not_taken() {
    let pair = pair();
    let good = pair.server.commit("develop", "good", &[("a", "1")]);
    let tree = pair.server.raw_tree(&[("100644", b"a", blob(&pair.server))]);
    std::fs::write(pair.server.path().join("refs/heads/odd"), format!("{tree}\n")).unwrap();
    let odd = support::deploy_repo::commit_id(tree);
    assert!(pair.mirror.fetch(&[("odd".into(), odd)]).is_err());
    assert!(!pair.mirror.contains(odd) && pair.mirror.revision(odd, "odd").is_err());
    pair.mirror.fetch(&[("develop".into(), good)]).unwrap();
}

#[test]
fn branches_with_names_that_git_would_not_take_are_not_there() {
    let pair = pair();
    let head = pair.server.commit("develop", "good", &[("a", "1")]);
    let names = ["-x", "a b", "m\u{430}ster", "r1.2 ", "a..b", "@{-1}", "HEAD", "good"];
    let packed: String = names.iter().map(|name| format!("{head} refs/heads/{name}\n")).collect();
    std::fs::write(pair.server.path().join("packed-refs"), packed).unwrap();
    // A list that git itself would not read is an error, and never a shorter list.
    if let Ok(heads) = pair.mirror.heads() {
        assert!(heads.keys().all(|name| towpath_core::lane::is_branch_name(name)), "{heads:?}");
        assert!(heads.contains_key("develop"));
    }
    let problem = pair.mirror.fetch(&[("--upload-pack=x".into(), head)]).unwrap_err();
    assert_eq!(problem.fault, Fault::Setup);
}

#[test]
fn a_malformed_commit_over_http_is_refused_for_good() {
    let Pair { server: repo, folder, .. } = pair();
    let tree = repo.raw_tree(&[("100644", b"a", blob(&repo))]);
    repo.commit("develop", "good", &[("a", "1")]);
    let text = format!("tree {tree}\ncommitter Robin <robin@example.org> 1 +0000\n\nx");
    let id = support::deploy_repo::commit_id(repo.raw_object(ObjectType::Commit, text.as_bytes()));
    repo.force("develop", id);
    let server = support::git_server::GitServer::start(folder.path());
    let address = server.url("deploy.git").parse().unwrap();
    let mirror = towpath::repo::Mirror::open(&folder.path().join("other"), address, Default::default()).unwrap();
    match mirror.fetch(&[("develop".into(), id)]) {
        Ok(_) => assert!(mirror.tree(id).is_ok() && mirror.revision(id, "develop").is_ok()),
        Err(problem) => assert_eq!(problem.fault, Fault::Content, "{problem}"),
    }
}
