//! Golden cases: each folder of `testdata` is a deploy repository as plain files, an environment, and what it renders
//! to, or the problems it has. `UPDATE_EXPECT=1 cargo test render` rewrites what is expected.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use expect_test::expect_file;
use serde_json::json;

use super::*;
use crate::environment::{DriftMode, Preflight, SyncMode};
use crate::lane::LaneRule;
use crate::revision::BlobId;
use crate::tree::{File, TreeBuilder};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/render/testdata")
}

fn facts() -> Facts {
    Facts { cluster: "lab".into(), branch: "r1.2".into(), commit: CommitId::from_bytes([0xc0; 20]) }
}

fn environment(path: &str, values: Value) -> Environment {
    let Value::Object(values) = values else { panic!("values are a map") };
    Environment {
        name: "test".parse().unwrap(),
        home: "shop".into(),
        uid: "u".into(),
        generation: 1,
        repository: "shop".into(),
        lane: LaneRule::NewestRelease,
        path: path.into(),
        namespace: "shop-test".into(),
        values,
        sync: SyncMode::Automatic,
        account: "towpath-deployer".into(),
        allowed_namespaces: BTreeSet::new(),
        allowed_cluster_kinds: BTreeSet::new(),
        prune: true,
        drift: DriftMode::Correct,
        preflight: Preflight::Always,
        timeout: Duration::from_secs(600),
        suspend: false,
    }
}

fn blob(bytes: &[u8]) -> File {
    let mut id = [0; 20];
    id.copy_from_slice(&Sha256::digest(bytes)[..20]);
    File { id: BlobId::from_bytes(id), bytes: bytes.into() }
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let mut builder = TreeBuilder::default();
    for (path, text) in files {
        builder.file((*path).to_owned(), blob(text.as_bytes())).unwrap();
    }
    builder.build()
}

/// Renders one case: `environment.yaml` has `path`, `values`, and `submodules` with their commits.
fn case(folder: &Path) -> Result<Rendered, Problems> {
    let mut builder = TreeBuilder::default();
    let repository = folder.join("repo");
    let mut open = vec![repository.clone()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
                continue;
            }
            let path = entry.path().strip_prefix(&repository).unwrap().to_str().unwrap().replace('\\', "/");
            builder.file(path, blob(&fs::read(entry.path()).unwrap())).unwrap();
        }
    }
    let said = fs::read_to_string(folder.join("environment.yaml")).unwrap_or_default();
    let said = yaml::read(&said).unwrap().pop().map_or_else(|| json!({}), |document| document.body);
    for (path, commit) in said["submodules"].as_object().into_iter().flatten() {
        builder.submodule(path.clone(), commit.as_str().unwrap().parse().unwrap()).unwrap();
    }
    let path = said["path"].as_str().unwrap_or("environments/test");
    let values = said.get("values").cloned().unwrap_or_else(|| json!({}));
    let tree = builder.build();
    let environment = environment(path, values);
    let mut cache = RenderCache::default();
    let result = render(&tree, &environment, &facts(), Some(&mut cache));
    let again = render(&tree, &environment, &facts(), Some(&mut cache));
    assert_eq!(result, again, "the cache changes nothing");
    result
}

fn check(name: &str) {
    let folder = testdata().join(name);
    assert!(folder.is_dir(), "{} is missing", folder.display());
    match case(&folder) {
        Ok(rendered) => {
            let mut text: String =
                rendered.warnings().iter().map(|warning| format!("# Warning: {warning}\n")).collect();
            text.push_str(&yaml::print(rendered.manifests()));
            expect_file![folder.join("expected.yaml")].assert_eq(&text);
            assert!(!folder.join("expected-problems.txt").exists(), "{name} was expected to fail");
        }
        Err(problems) => {
            expect_file![folder.join("expected-problems.txt")].assert_eq(&format!("{problems}\n"));
            assert!(!folder.join("expected.yaml").exists(), "{name} was expected to render");
        }
    }
}

macro_rules! cases {
    ($($test:ident = $name:literal,)*) => {
        $(#[test] fn $test() { check($name) })*

        #[test]
        fn every_case_is_claimed() {
            let claimed = BTreeSet::from([$($name.to_owned()),*]);
            let there: BTreeSet<String> = fs::read_dir(testdata())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert_eq!(claimed, there);
        }
    };
}

cases! {
    a_whole_repository = "a-whole-repository",
}
