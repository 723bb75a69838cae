//! `towpath version` and the versions of components in what is rendered from files, in clones made by git itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use support::deploy_repo::{DeployRepo, oid};
use support::git_server::git;
use tempfile::TempDir;
use towpath_core::revision::CommitId;

/// A component with a tag two commits ago, and a deploy repository that has it as a submodule.
struct World {
    web: DeployRepo,
    deploy: DeployRepo,
    folder: TempDir,
}

fn tag(repo: &DeployRepo, name: &str, commit: CommitId) {
    let git = repo.git();
    let tagger = git2::Signature::new("Robin", "r@example.org", &git2::Time::new(1_767_603_600, 0)).unwrap();
    git.tag(name, &git.find_object(oid(commit), None).unwrap(), &tagger, "a release", false).unwrap();
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let web = DeployRepo::new(folder.path().join("web.git"));
    let first = web.commit("develop", "one", &[("a", "1")]);
    tag(&web, "v1.0", first);
    web.commit("develop", "two", &[("a", "2")]);
    let third = web.commit("develop", "three", &[("a", "3")]);
    let deploy = DeployRepo::new(folder.path().join("deploy.git"));
    let declared = "components:\n  web: {path: components/web, image: registry.example/web}\n";
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata:\n  image: {{components.web.image}}\n";
    let begin = deploy.commit(
        "develop",
        "begin",
        &[("towpath.yaml", declared), ("templates/web.yaml.hbs", template), ("environments/dev/values.yaml", "a: 1\n")],
    );
    tag(&deploy, "v0.3", begin);
    deploy.submodule("develop", "components/web", "../web.git", third);
    World { web, deploy, folder }
}

impl World {
    fn git(&self, at: &Path, arguments: &[&str]) {
        let output = git(self.folder.path())
            .current_dir(at)
            .args(["-c", "protocol.file.allow=always", "-c", "advice.detachedHead=false"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn clone(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let to = self.folder.path().join(name);
        let url = self.deploy.url();
        self.git(self.folder.path(), &[&["clone", "-q"], arguments, &[&url, to.to_str().unwrap()]].concat());
        to
    }

    /// What the deploy repository's newest commit is called.
    fn deployed(&self) -> String {
        format!("v0.3-1-{}", self.deploy.head("develop").short())
    }

    fn built(&self) -> String {
        format!("v1.0-2-{}", self.web.head("develop").short())
    }
}

/// Runs the program in a folder, and gives what it says.
fn towpath(at: &Path, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(support::agent::binary().unwrap()).current_dir(at).args(arguments).env_clear().output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(text(output.stdout)),
        code => {
            assert_eq!((code, output.stdout.len()), (Some(1), 0), "a number may not be printed with an error");
            Err(text(output.stderr))
        }
    }
}

#[test]
fn a_checkout_says_its_version_however_it_was_made() {
    let world = world();
    let clone = world.clone("clone", &["--recurse-submodules"]);
    assert_eq!(towpath(&clone, &["version"]), Ok(world.deployed()));
    assert_eq!(towpath(&clone.join("templates"), &["version"]), Ok(world.deployed()));
    assert_eq!(towpath(&clone, &["version", "components/web"]), Ok(world.built()));
    assert_eq!(towpath(&clone.join("components/web"), &["version"]), Ok(world.built()));
    // What is not committed does not matter.
    std::fs::write(clone.join("towpath.yaml"), "changed").unwrap();
    assert_eq!(towpath(&clone, &["version"]), Ok(world.deployed()));
    world.git(&clone, &["worktree", "add", "-q", "--detach", "../tree", "v0.3"]);
    let begin = world.deploy.git().revparse_single("v0.3^{commit}").unwrap().id();
    let tree = world.folder.path().join("tree");
    assert_eq!(towpath(&tree, &["version"]), Ok(format!("v0.3-0-{}", &begin.to_string()[..7])));
    world.git(&clone.join("components/web"), &["checkout", "-q", "HEAD~1"]);
    assert!(towpath(&clone, &["version", "components/web"]).unwrap().starts_with("v1.0-1-"));
    // A bare repository, too.
    assert_eq!(towpath(world.web.path(), &["version"]), Ok(world.built()));
}

#[test]
fn a_shallow_clone_is_an_error_that_names_the_setting_and_never_a_number() {
    let world = world();
    // The tag is within the two commits that came; it is an error all the same, for another may be nearer.
    let shallow = world.clone("shallow", &["--depth", "2", "--recurse-submodules", "--shallow-submodules"]);
    world.git(&shallow, &["worktree", "add", "-q", "--detach", "../shallow-tree"]);
    for at in ["shallow", "shallow/components/web", "shallow-tree"] {
        let said = towpath(&world.folder.path().join(at), &["version"]).unwrap_err();
        for part in ["shallow", "fetch-depth: 0", "GIT_DEPTH: 0", "git fetch --unshallow --tags"] {
            assert!(said.contains(part), "{at}: {said}");
        }
    }
    world.git(&shallow, &["fetch", "-q", "--unshallow", "--tags"]);
    assert_eq!(towpath(&shallow, &["version"]), Ok(world.deployed()));
}

#[test]
fn without_a_tag_or_a_checkout_it_says_what_to_do() {
    let world = world();
    let bare = world.clone("no-tags", &["--no-tags"]);
    let said = towpath(&bare, &["version"]).unwrap_err();
    assert!(said.contains("no tag vX.Y") && said.contains("git fetch --tags"), "{said}");
    // The folder of a submodule that was not checked out is in the repository around it, which is another one.
    let said = towpath(&bare, &["version", "components/web"]).unwrap_err();
    assert!(said.contains("not checked out") && said.contains("git submodule update --init components/web"), "{said}");
    let outside = tempfile::tempdir().unwrap();
    let said = towpath(outside.path(), &["version"]).unwrap_err();
    assert!(said.contains("in no git repository") && said.contains("towpath --version"), "{said}");
    let said = towpath(outside.path(), &["version", "nothing"]).unwrap_err();
    assert!(said.contains("in no git repository"), "{said}");
    DeployRepo::new(outside.path().join("empty"));
    let said = towpath(&outside.path().join("empty"), &["version"]).unwrap_err();
    assert!(said.contains("there is no commit"), "{said}");
    assert_eq!(towpath(outside.path(), &["--version"]), Ok(concat!("towpath ", env!("CARGO_PKG_VERSION")).to_owned()));
}

#[test]
fn a_tag_of_an_image_is_made_by_the_template_of_towpath_yaml() {
    let world = world();
    let clone = world.clone("clone", &[]);
    let short = world.deploy.head("develop").short();
    let with = |template: &str| towpath(&clone, &["version", "--tag", template]);
    assert_eq!(with("{{branch}}-{{short}}"), Ok(format!("develop-{short}")));
    assert_eq!(with("{{version}}"), Ok(world.deployed()));
    assert_eq!(with("{{time}}"), Ok("2026-01-05-09-01".to_owned()));
    assert!(with("{{clock}}").unwrap_err().contains("{{version}}, {{commit}}"));
    assert!(with("{{branch}}/x").unwrap_err().contains("is no tag of an image"));
    world.git(&clone, &["checkout", "-q", "--detach"]);
    assert!(with("{{branch}}").unwrap_err().contains("--branch"));
    assert_eq!(towpath(&clone, &["version", "--tag", "{{branch}}", "--branch", "r1.2"]), Ok("r1.2".to_owned()));
    let json = towpath(&clone, &["version", "-o", "json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["nearestTag"], &json["commitsSince"]), (&"v0.3".into(), &1.into()));
}

#[test]
fn components_that_are_checked_out_have_their_version_in_what_is_rendered() {
    let world = world();
    let clone = world.clone("clone", &["--recurse-submodules"]);
    let image = format!("registry.example/web:{}", world.built());
    for arguments in [&["render"][..], &["render", "--revision", "develop"]] {
        let said = towpath(&clone, arguments).unwrap();
        assert!(said.contains(&image), "{said}");
    }
    // Where another revision is checked out, git keeps the clone elsewhere.
    world.git(&clone, &["checkout", "-q", "v0.3"]);
    std::fs::remove_dir_all(clone.join("components")).unwrap_or_default();
    world.git(&clone, &["checkout", "-q", "develop", "--no-recurse-submodules"]);
    assert!(towpath(&clone, &["render"]).unwrap().contains(&image));
    // What is not here is not guessed.
    let without = world.clone("without", &[]);
    let said = towpath(&without, &["render"]).unwrap_err();
    assert!(said.contains("components.web.image") || said.contains("check its submodule out"), "{said}");
    let shallow = world.clone("shallow", &["--recurse-submodules", "--shallow-submodules"]);
    let said = towpath(&shallow, &["render"]).unwrap_err();
    assert!(said.contains("submodule components/web: the clone is shallow"), "{said}");
}
