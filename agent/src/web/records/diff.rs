//! What differs between the files of two records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use towpath_core::ledger::files;
use towpath_core::names::{ENVIRONMENT_LABEL, PART_OF_LABEL};
use towpath_core::tree::Tree;

use super::FileDifference;

/// Bytes of the two sides of one file that are compared line by line.
const MAX_COMPARED: usize = 1 << 20;
/// Files of one difference.
const MAX_FILES: usize = 2000;
/// Bytes of one difference; files after that are only named.
const MAX_SHOWN: usize = 8 << 20;
/// For comparing two files in the shortest way; after that in one that is good enough.
const PATIENCE: Duration = Duration::from_millis(200);

/// A file of each side, or of one.
type Pair<'a> = (Option<&'a str>, Option<&'a str>);

/// The files to be compared. Across environments an object of the same kind and name is the same one in another
/// namespace, where there is only one on each side.
fn pairs<'a>(before: &'a Tree, after: &'a Tree, is_across: bool) -> Vec<Pair<'a>> {
    let below = |tree: &'a Tree| tree.below(files::MANIFESTS).map(|(path, _)| path).collect::<BTreeSet<&str>>();
    let (old, new) = (below(before), below(after));
    let mut pairs: Vec<Pair<'a>> = old.intersection(&new).map(|path| (Some(*path), Some(*path))).collect();
    let (gone, come): (Vec<&str>, Vec<&str>) =
        (old.difference(&new).copied().collect(), new.difference(&old).copied().collect());
    // By kind and name, those that stand on one side only.
    let alone = |paths: &[&'a str]| {
        let mut all: BTreeMap<&'a str, Option<&'a str>> = BTreeMap::new();
        for path in paths.iter().filter(|_| is_across) {
            let object = object_of(path).unwrap_or(path);
            all.entry(object).and_modify(|one| *one = None).or_insert(Some(path));
        }
        all
    };
    let (lost, found) = (alone(&gone), alone(&come));
    let twin = |path: &str, here: &BTreeMap<&'a str, Option<&'a str>>, there: &BTreeMap<&'a str, Option<&'a str>>| {
        let object = object_of(path).unwrap_or(path);
        here.get(object).copied().flatten()?;
        there.get(object).copied().flatten()
    };
    pairs.extend(gone.iter().map(|path| (Some(*path), twin(path, &lost, &found))));
    let only_new = come.iter().filter(|path| twin(path, &found, &lost).is_none());
    pairs.extend(only_new.map(|path| (None, Some(*path))));
    pairs.sort_by_key(|(old, new)| old.or(*new));
    pairs
}

/// Kind and name of a file `manifests/<namespace>/<Kind>/<name>.yaml`.
fn object_of(path: &str) -> Option<&str> {
    let (_, object) = shown(path).split_once('/')?;
    Some(object)
}

/// A path as people see it.
fn shown(path: &str) -> &str {
    path.strip_prefix(files::MANIFESTS).unwrap_or(path).trim_start_matches('/')
}

/// The text of a file; across environments without what only says whose it is.
fn text(tree: &Tree, path: Option<&str>, is_across: bool) -> Option<String> {
    const OWN: [&str; 2] = [ENVIRONMENT_LABEL, PART_OF_LABEL];
    let path = path?;
    let whole = String::from_utf8_lossy(&tree.file(path)?.bytes).into_owned();
    if !is_across {
        return Some(whole);
    }
    let namespace = shown(path).split_once('/').map(|(namespace, _)| format!("  namespace: {namespace}"));
    let is_own = |line: &&str| {
        let is_label = line.trim_start().split_once(": ").is_some_and(|(name, _)| OWN.contains(&name));
        is_label || namespace.as_deref() == Some(*line)
    };
    Some(whole.lines().filter(|line| !is_own(line)).flat_map(|line| [line, "\n"]).collect())
}

/// How the files of two records differ, and how many more do that are not shown.
pub(super) fn differences(before: &Tree, after: &Tree, is_across: bool) -> (Vec<FileDifference>, usize) {
    let (mut found, mut more, mut shown_bytes) = (Vec::new(), 0, 0);
    for (old_path, new_path) in pairs(before, after, is_across) {
        let id = |tree: &Tree, path: Option<&str>| path.and_then(|path| tree.file(path)).map(|file| file.id);
        if old_path == new_path && id(before, old_path) == id(after, new_path) {
            continue;
        }
        let (old, new) = (text(before, old_path, is_across), text(after, new_path, is_across));
        if old == new {
            continue;
        }
        if found.len() == MAX_FILES {
            more += 1;
            continue;
        }
        let (change, path) = match (old_path, new_path) {
            (None, _) => ("added", shown(new_path.unwrap_or_default()).to_owned()),
            (Some(old), None) => ("removed", shown(old).to_owned()),
            (Some(old), Some(new)) if old == new => ("changed", shown(old).to_owned()),
            (Some(old), Some(new)) => ("changed", format!("{} → {}", shown(old), shown(new))),
        };
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let diff = if old.len() + new.len() > MAX_COMPARED || shown_bytes > MAX_SHOWN {
            "too long to be compared here\n".to_owned()
        } else {
            let compared = similar::TextDiff::configure().timeout(PATIENCE).diff_lines(&old, &new);
            compared.unified_diff().context_radius(3).to_string()
        };
        shown_bytes += diff.len();
        found.push(FileDifference { path, change: change.to_owned(), diff });
    }
    (found, more)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use towpath_core::revision::BlobId;
    use towpath_core::tree::{File, TreeBuilder};

    use super::*;

    fn said(before: &Tree, after: &Tree, is_across: bool) -> String {
        let (files, more) = differences(before, after, is_across);
        let files = files.iter().map(|file| format!("{} ({})\n{}", file.path, file.change, file.diff));
        format!("{}{more} more", files.collect::<String>())
    }

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = TreeBuilder::default();
        for (path, text) in files {
            let file = File { id: BlobId::from_bytes([text.len() as u8; 20]), bytes: text.as_bytes().into() };
            tree.file(format!("manifests/{path}"), file).unwrap();
        }
        tree.build()
    }

    #[test]
    fn two_syncs_of_one_environment_differ_by_their_files() {
        let before = tree(&[("web/ConfigMap/a.yaml", "a: 1\n"), ("web/ConfigMap/b.yaml", "b: 1\n")]);
        let after = tree(&[("web/ConfigMap/a.yaml", "a: 10\n"), ("other/ConfigMap/b.yaml", "b: 1\n")]);
        expect![[r#"
            other/ConfigMap/b.yaml (added)
            @@ -0,0 +1 @@
            +b: 1
            web/ConfigMap/a.yaml (changed)
            @@ -1 +1 @@
            -a: 1
            +a: 10
            web/ConfigMap/b.yaml (removed)
            @@ -1 +0,0 @@
            -b: 1
            0 more"#]]
        .assert_eq(&said(&before, &after, false));
    }

    #[test]
    fn across_environments_the_same_object_stands_in_another_namespace() {
        let text = |namespace: &str, environment: &str, replicas: u8| {
            format!(
                "kind: Deployment\nmetadata:\n  labels:\n    towpath.dev/environment: {environment}\n  namespace: {namespace}\nspec:\n  replicas: {replicas}\n"
            )
        };
        let (staging, prod) = (text("shop-staging", "staging", 2), text("shop-prod", "prod", 3));
        let before = tree(&[("shop-staging/Deployment.apps/web.yaml", &staging), ("_cluster/Namespace/x.yaml", "x\n")]);
        let after = tree(&[("shop-prod/Deployment.apps/web.yaml", &prod), ("_cluster/Namespace/x.yaml", "x\n")]);
        expect![[r#"
            shop-staging/Deployment.apps/web.yaml → shop-prod/Deployment.apps/web.yaml (changed)
            @@ -2,4 +2,4 @@
             metadata:
               labels:
             spec:
            -  replicas: 2
            +  replicas: 3
            0 more"#]]
        .assert_eq(&said(&before, &after, true));
        let same = tree(&[("shop-prod/Deployment.apps/web.yaml", &text("shop-prod", "prod", 2))]);
        let before = tree(&[("shop-staging/Deployment.apps/web.yaml", &staging)]);
        assert_eq!(said(&before, &same, true), "0 more");
        // Where there are two of that name it is not known which one is meant.
        let two = tree(&[("a/Deployment.apps/web.yaml", "1\n"), ("b/Deployment.apps/web.yaml", "2\n")]);
        assert_eq!(differences(&before, &two, true).0.len(), 3);
    }
}
