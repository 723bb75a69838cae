//! A library: partials that come from a submodule's own files, by an agent's mirrors and on the disk of a person.

use std::path::Path;
use std::process::Command;

use support::agent;
use support::git_server::git;
use towpath_core::fault::Fault;
use towpath_core::revision::CommitId;

use serde_json::json;
use support::deploy_repo::DeployRepo;
use support::world::World;
use towpath_core::status::State;

use super::Place;

const TEMPLATE: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels:\n    {{> library/labels app=\"a\"}}\n";

/// A deploy repository whose library is a submodule.
fn place() -> Place {
    let mut place = Place::new(&["shared"]);
    place.whole.insert("shared".to_owned());
    let shared = place.part("shared");
    let first = shared.commit("master", "first", &[("templates/partials/labels.hbs", "app: {{app}}\nteam: boats\n")]);
    let files = [
        ("towpath.yaml", "library: components/shared\n"),
        ("templates/a.yaml.hbs", TEMPLATE),
        ("environments/test/values.yaml", "{}\n"),
    ];
    place.deploy.commit("master", "files", &files);
    place.pin("master", "shared", first);
    place
}

#[test]
fn a_library_is_read_at_the_commit_that_it_is_pinned_to() {
    let place = place();
    place.part("shared").commit("master", "later", &[("templates/partials/labels.hbs", "app: later\n")]);
    let view = place.view();
    let tree = view.mirror.tree(place.deploy.head("master")).unwrap();
    let libraries = view.parts.libraries(&tree);
    let library = libraries["components/shared"].as_ref().unwrap();
    assert_eq!(library.text("templates/partials/labels.hbs").unwrap(), Some("app: {{app}}\nteam: boats\n"));
}

#[test]
fn a_library_whose_files_are_not_here_is_a_problem_with_its_address_and_commit() {
    let mut place = place();
    place.whole.clear();
    let tree = |place: &Place| {
        let view = place.view();
        let tree = view.mirror.tree(place.deploy.head("master")).unwrap();
        (view, tree)
    };
    let (view, found) = tree(&place);
    let problem = view.parts.libraries(&found)["components/shared"].clone().unwrap_err();
    let pinned = place.part("shared").head("master");
    assert!(
        problem.message.starts_with(&format!("library components/shared (../shared.git) at {pinned}: ")),
        "{problem}"
    );
    assert_eq!(problem.fault, Fault::Passing);
    // A mirror of commits alone is not taken for a damaged one.
    let part = view.parts.of(&found)[0].part.clone().unwrap();
    assert!(part.mirror.contains(pinned));

    place.pin("master", "shared", CommitId::from_bytes([7; 20]));
    let (view, found) = tree(&place);
    let problem = view.parts.libraries(&found)["components/shared"].clone().unwrap_err();
    assert!(problem.message.contains(&"07".repeat(20)), "{problem}");
}

/// Runs plain git, which may read submodules from this disk.
fn run(folder: &Path, arguments: &[&str]) {
    let output = git(folder).current_dir(folder).args(["-c", "protocol.file.allow=always"]).args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_checkout_renders_with_the_library_that_is_checked_out() {
    let place = place();
    let clone = place.folder.path().join("clone");
    run(place.folder.path(), &["clone", "-q", "-b", "master", &place.deploy.url(), "clone"]);
    let render = |more: &[&str]| {
        let output = Command::new(agent::binary().unwrap())
            .args(["render", "-e", "test"])
            .args(more)
            .arg(&clone)
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    for more in [&[][..], &["--revision", "master"]] {
        let (is_good, text) = render(more);
        assert!(!is_good && text.contains("library components/shared at"), "{text}");
        assert!(text.contains("git submodule update --init"), "{text}");
    }
    run(&clone, &["submodule", "--quiet", "update", "--init"]);
    for more in [&[][..], &["--revision", "master"]] {
        let (is_good, text) = render(more);
        assert!(is_good && text.contains("team: boats") && text.contains("app: a"), "{text}");
    }
    // Files are read as they stand, a revision as it was committed.
    let partial = clone.join("components/shared/templates/partials/labels.hbs");
    std::fs::write(partial, "app: {{app}}\nteam: bridges\n").unwrap();
    assert!(render(&[]).1.contains("team: bridges"));
    assert!(render(&["--revision", "master"]).1.contains("team: boats"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_renders_with_a_library_and_applies_nothing_without_it() {
    let mut world = World::new("library").await;
    let shared = DeployRepo::new(world.repo.path().parent().unwrap().join("shared.git"));
    let first = shared.commit("master", "first", &[("templates/partials/labels.hbs", "app: {{app}}\nteam: boats\n")]);
    let files =
        [("towpath.yaml", "library: libs/shared\n"), ("templates/a.yaml.hbs", TEMPLATE), ("prod/values.yaml", "{}\n")];
    world.repo.commit("master", "files", &files);
    world.repo.submodule("master", "libs/shared", "../shared.git", first);
    world.follow("library", json!({"lane": "master", "path": "prod"})).await;
    world.runs("library", "master").await;
    let label = async |world: &World| {
        world.get("v1", "ConfigMap", "a").await.unwrap()["metadata"]["labels"]["team"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(label(&world).await, "boats");

    let second =
        shared.commit("master", "second", &[("templates/partials/labels.hbs", "app: {{app}}\nteam: bridges\n")]);
    world.repo.submodule("master", "libs/shared", "../shared.git", second);
    world.runs("library", "master").await;
    assert_eq!(label(&world).await, "bridges");

    let nowhere = CommitId::from_bytes([7; 20]);
    world.repo.submodule("master", "libs/shared", "../shared.git", nowhere);
    let is_told = |status: &towpath_core::status::EnvironmentStatus| {
        let told =
            status.problems.iter().any(|problem| problem.contains("library libs/shared (../shared.git) at 0707"));
        told && status.state != State::Synced
    };
    world.status_where("library", "the library cannot be had", is_told).await;
    assert_eq!(label(&world).await, "bridges", "what runs stays");
}
