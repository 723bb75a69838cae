//! What is shipped works: examples render to what stands beside them, and manifests say what the code needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;
use support::deploy_repo::DeployRepo;
use towpath_core::revision::CommitId;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The shop as a real repository with two submodules.
fn shop(folder: &Path) -> DeployRepo {
    let repo = DeployRepo::new(folder.join("shop.git"));
    repo.commit_folder("master", "The shop", &root().join("examples/shop/repo"));
    let commit = |digit: u8| CommitId::from_bytes([digit * 0x11; 20]);
    repo.submodule("master", "components/web", "../web.git", commit(1));
    repo.submodule("master", "components/api", "../api.git", commit(2));
    repo
}

/// Runs the command line on the shop's repository and gives exit code, stdout and stderr.
fn towpath(repo: &DeployRepo, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(support::agent::binary().unwrap())
        .args(arguments)
        .arg(repo.path())
        .args(["--revision", "master", "--file"])
        .arg(root().join("examples/shop/environments.yaml"))
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn each_environment_of_the_shop_renders_to_what_stands_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let repo = shop(folder.path());
    for (environment, branch) in [("dev", "develop"), ("test", "r1.0"), ("staging", "master"), ("prod", "master")] {
        let (code, rendered, errors) = towpath(&repo, &["render", "-e", environment, "--branch", branch]);
        assert_eq!(code, Some(0), "{errors}");
        expect_file![root().join(format!("examples/shop/expected/{environment}.yaml"))].assert_eq(&rendered);
    }
}

#[test]
fn the_shop_has_nothing_that_lint_would_name() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, errors) = towpath(&shop(folder.path()), &["lint"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("0 problems, 0 warnings"), "{errors}");
}

#[test]
fn the_migration_renders_to_what_stands_beside_it_and_lint_has_nothing_to_say() {
    let example = root().join("examples/migration");
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("migration.git"));
    repo.commit_folder("master", "A migration", &example.join("repo"));
    let run = |arguments: &[&str]| {
        let output = Command::new(support::agent::binary().unwrap())
            .args(arguments)
            .arg(repo.path())
            .args(["--revision", "master", "-e", "prod", "-n", "shop"])
            .env_remove("KUBECONFIG")
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{errors}");
        (String::from_utf8(output.stdout).unwrap(), errors)
    };
    expect_file![example.join("expected.yaml")].assert_eq(&run(&["render"]).0);
    assert!(run(&["lint"]).1.contains("0 problems, 0 warnings"));
}

#[test]
fn lint_names_file_line_and_what_to_do_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let repo = shop(folder.path());
    repo.commit("master", "Break it", &[("environments/prod/values.yaml", "web: {replicas: 3}\n")]);
    let (code, problems, errors) = towpath(&repo, &["lint"]);
    assert_eq!(code, Some(1), "{errors}");
    let said = format!("{problems}{errors}");
    assert!(said.contains("towpath.yaml:") && said.contains("host"), "{said}");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let repo = shop(folder.path());
    let script = format!(
        "set -o pipefail; {} render {} --revision master -e prod | head -1 >/dev/null",
        support::agent::binary().unwrap().display(),
        repo.path().display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
}
