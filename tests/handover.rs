//! Objects that move: within the repository, from one environment to another, and with an environment that is renamed.
//! Nothing of it deletes or makes anything.

use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::audit::{Mark, Request};
use support::world::World;
use towpath_core::status::State;

use crate::manifests::{config_map, deployment};

/// Deletions, and what was made, since a mark; the agent's own things are left out.
fn deleted_or_made(world: &World, mark: Mark) -> Vec<Request> {
    let requests = world.requests_since(mark).into_iter().filter(Request::is_write);
    requests.filter(|request| request.verb == "delete" || (request.verb == "patch" && request.code == 201)).collect()
}

fn writes(world: &World, mark: Mark) -> Vec<Request> {
    world
        .requests_since(mark)
        .into_iter()
        .filter(|request| request.is_write() && request.impersonated.is_some())
        .collect()
}

fn label(object: &Value) -> &str {
    object["metadata"]["labels"]["towpath.dev/environment"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_moves_within_the_repository_is_no_change() {
    let mut world = World::new("files").await;
    let web = deployment("web", "web:1");
    world.repo.commit("master", "first", &[("prod/web.yaml", &web), ("prod/a.yaml", &config_map("a", "1"))]);
    world.follow("files", json!({"lane": "master", "path": "prod"})).await;
    world.runs("files", "master").await;
    let uid = world.get("apps/v1", "Deployment", "web").await.unwrap()["metadata"]["uid"].clone();

    let mark = world.mark();
    world.repo.branch("next", "master");
    world.repo.delete("next", "prod/web.yaml");
    world.repo.delete("next", "prod/a.yaml");
    let both = format!("{}\n---\n{}", config_map("a", "1"), web);
    world.repo.commit("next", "move", &[("prod/deep/down/all.yaml", &both)]);
    world.repo.branch("master", "next");
    world.runs("files", "master").await;
    assert_eq!(writes(&world, mark), [], "the content is the same");
    assert_eq!(world.get("apps/v1", "Deployment", "web").await.unwrap()["metadata"]["uid"], uid);
}

/// Two environments in one namespace, on one branch or on two, with an object that is to move from the first to the
/// second.
async fn two_environments(name: &str, branches: [&str; 2]) -> (World, [String; 2], Value) {
    let mut world = World::new(name).await;
    let [one, two] = [format!("{name}-one"), format!("{name}-two")];
    let files = [
        ("one/a.yaml", config_map("a", "1")),
        ("one/b.yaml", config_map("b", "1")),
        ("one/moves.yaml", config_map("moves", "one")),
        ("two/c.yaml", config_map("c", "1")),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    world.repo.commit(branches[0], "first", &files);
    if branches[0] != branches[1] {
        world.repo.branch(branches[1], branches[0]);
    }
    world.repository().await;
    world.environment(&one, json!({"lane": branches[0], "path": "one"})).await;
    world.environment(&two, json!({"lane": branches[1], "path": "two"})).await;
    world.start_agent();
    world.runs(&one, branches[0]).await;
    world.runs(&two, branches[1]).await;
    let moves = world.get("v1", "ConfigMap", "moves").await.unwrap();
    assert_eq!(label(&moves), one);
    (world, [one, two], moves["metadata"]["uid"].clone())
}

async fn is_handed_over(world: &World, [one, two]: &[String; 2], branches: [&str; 2], uid: &Value, mark: Mark) {
    world.runs(two, branches[1]).await;
    world.runs(one, branches[0]).await;
    let moves = world.object_where("v1", "ConfigMap", "moves", "of the second", |object| label(object) == two).await;
    assert_eq!(moves["metadata"]["uid"], *uid, "it is the same object\n{}", world.agent_log());
    assert_eq!(moves["data"]["key"], "two");
    world.status_where(one, "rid of it", |status| status.leftovers.kept.is_empty()).await;
    assert_eq!(deleted_or_made(world, mark), []);
    let writes = writes(world, mark);
    assert_eq!(writes.len(), 1, "{writes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_moves_to_another_environment_in_one_commit_is_handed_over() {
    let branches = ["master", "master"];
    let (world, names, uid) = two_environments("handed", branches).await;
    let mark = world.mark();
    world.repo.branch("next", "master");
    world.repo.delete("next", "one/moves.yaml");
    world.repo.commit("next", "move", &[("two/moves.yaml", &config_map("moves", "two"))]);
    world.repo.branch("master", "next");
    is_handed_over(&world, &names, branches, &uid, mark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_branches_the_one_that_takes_an_object_may_come_first() {
    let branches = ["master", "develop"];
    let (world, names, uid) = two_environments("taking", branches).await;
    let mark = world.mark();
    world.repo.commit("develop", "take", &[("two/moves.yaml", &config_map("moves", "two"))]);
    world
        .status_where(&names[1], "waiting for it", |status| {
            status.state == State::Blocked && status.problems.iter().any(|problem| problem.contains("belongs to"))
        })
        .await;
    world.repo.delete("master", "one/moves.yaml");
    is_handed_over(&world, &names, branches, &uid, mark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_branches_the_one_that_drops_an_object_may_be_seen_first() {
    let branches = ["master", "develop"];
    let (mut world, names, uid) = two_environments("dropping", branches).await;
    // Both are pushed while the agent is away, and the one that drops the object is looked at first.
    world.kill_agent();
    let mark = world.mark();
    world.repo.commit("develop", "take", &[("two/moves.yaml", &config_map("moves", "two"))]);
    world.repo.delete("master", "one/moves.yaml");
    world.start_agent();
    is_handed_over(&world, &names, branches, &uid, mark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_is_pruned_although_others_could_have() {
    let (world, names, _) = two_environments("untaken", ["master", "develop"]).await;
    world.repo.delete("master", "one/moves.yaml");
    world.object_where("v1", "ConfigMap", "moves", "pruned", Value::is_null).await;
    world.runs(&names[0], "master").await;
}

/// An environment with a member of each sort that a rename could lose.
async fn to_be_renamed(name: &str) -> (World, String, Vec<Value>) {
    let mut world = World::new(name).await;
    let old = format!("{name}-old");
    let mut never: Value = serde_json::from_str(&config_map("never", "1")).unwrap();
    never["metadata"]["annotations"] = json!({"towpath.dev/prune": "Never"});
    let numbered: Vec<(String, String)> =
        (0..10).map(|number| (format!("prod/{number}.yaml"), config_map(&format!("c{number}"), "1"))).collect();
    let mut files: Vec<(&str, &str)> = numbered.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let (web, never) = (deployment("web", "web:1"), never.to_string());
    files.extend([("prod/web.yaml", web.as_str()), ("prod/never.yaml", never.as_str())]);
    world.repo.commit("master", "first", &files);
    world.follow(&old, json!({"lane": "master", "path": "prod"})).await;
    world.runs(&old, "master").await;
    let uids = uids(&world).await;
    (world, old, uids)
}

async fn uids(world: &World) -> Vec<Value> {
    let mut uids = vec![world.get("apps/v1", "Deployment", "web").await.unwrap()["metadata"]["uid"].clone()];
    for name in (0..10).map(|number| format!("c{number}")).chain(["never".to_owned()]) {
        uids.push(world.get("v1", "ConfigMap", &name).await.unwrap()["metadata"]["uid"].clone());
    }
    uids
}

async fn is_renamed(world: &World, new: &str, before: &[Value], mark: Mark) {
    world.runs(new, "master").await;
    assert_eq!(uids(world).await, before, "every object is the one that it was");
    for name in ["c0", "c9", "never"] {
        let object = world.get("v1", "ConfigMap", name).await.unwrap();
        assert_eq!(label(&object), new, "{name}");
    }
    assert_eq!(deleted_or_made(world, mark).iter().filter(|request| request.impersonated.is_some()).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_renamed_while_the_earlier_one_stands_beside_it() {
    let (world, old, before) = to_be_renamed("renamed").await;
    let mark = world.mark();
    world.environment("renamed-new", json!({"lane": "master", "path": "prod", "movedFrom": old})).await;
    is_renamed(&world, "renamed-new", &before, mark).await;
    let status = world.status_where(&old, "standing aside", |status| status.state == State::Suspended).await;
    assert!(status.warnings[0].contains("renamed-new has taken over"), "{status:#?}");

    // It prunes what it took over as its own, and the earlier one mends nothing of that.
    world.repo.delete("master", "prod/9.yaml");
    world.object_where("v1", "ConfigMap", "c9", "pruned", Value::is_null).await;
    world.runs("renamed-new", "master").await;
    let mark = world.mark();
    world.plane.kubectl(&["delete", "environment", &old, "-n", "renamed"]).unwrap();
    world.repo.commit("master", "more", &[("prod/more.yaml", &config_map("more", "1"))]);
    world.runs("renamed-new", "master").await;
    let writes = writes(&world, mark);
    assert_eq!(writes.len(), 1, "{writes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_was_deleted_before_can_still_be_taken_over() {
    let (world, old, before) = to_be_renamed("after").await;
    let mark = world.mark();
    world.plane.kubectl(&["delete", "environment", &old, "-n", "after"]).unwrap();
    world.environment("after-new", json!({"lane": "master", "path": "prod", "movedFrom": old})).await;
    is_renamed(&world, "after-new", &before, mark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_environment_may_be_deleted_in_the_middle_even_where_its_objects_go_with_it() {
    let (mut world, old, before) = to_be_renamed("middle").await;
    let patch = json!({"spec": {"deletionPolicy": "Prune"}});
    world.patch("towpath.dev/v1alpha1", "Environment", &old, patch).await;
    world
        .object_where("towpath.dev/v1alpha1", "Environment", &old, "held by the finalizer", |object| {
            object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
        })
        .await;
    let mark = world.mark();
    world.environment("middle-new", json!({"lane": "master", "path": "prod", "movedFrom": old})).await;
    // Killed somewhere between the first and the last of the labels.
    world.object_where("v1", "ConfigMap", "c0", "of the new one", |object| label(object) == "middle-new").await;
    world.kill_agent();
    let api = world.api("towpath.dev/v1alpha1", "Environment").await;
    api.delete(&old, &DeleteParams::default()).await.unwrap();
    world.start_agent();
    is_renamed(&world, "middle-new", &before, mark).await;
    world.object_where("towpath.dev/v1alpha1", "Environment", &old, "gone", Value::is_null).await;
    is_renamed(&world, "middle-new", &before, mark).await;
}
