//! A whole agent: what runs in two environments, by the command line, the API and the page.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent;
use support::deploy_repo::DeployRepo;
use support::git_server::git;
use support::world::{PATIENCE, World, repository};

use crate::manifests::config_map;

/// Runs the command line against a world's agent. Gives its code, stdout and stderr.
fn towpath(world: &World, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(agent::binary().unwrap())
        .args(arguments)
        .env("TOWPATH_AGENT", format!("http://127.0.0.1:{}", world.port()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

async fn get(world: &World, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", world.port())).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Asks until an answer is as it should be.
async fn until(world: &World, path: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // An agent that was just started does not listen yet.
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", world.port())).await;
        let found: Value = match answer {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        };
        if is_so(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: {found:#}\n--- agent:\n{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_the_changelog_and_the_branches_are_told_by_a_whole_agent() {
    let mut world = World::new("matrix").await;
    world.own_key("east").await;
    world.listen();
    let web = DeployRepo::new(world.repo.path().parent().unwrap().join("web.git"));
    let first = web.commit("master", "First", &[("a", "1")]);
    let pin = |world: &World, branch: &str, commit| {
        world.repo.submodule(branch, "components/web", "../web.git", commit);
    };
    world.repo.commit(
        "master",
        "Files",
        &[("env/a.yaml", &config_map("a", "one")), ("test/b.yaml", &config_map("b", "one"))],
    );
    pin(&world, "master", first);
    world.repo.branch("r1.2", "master");
    web.branch("r1.2", "master");
    let second = web.commit("r1.2", "<b>Second</b>", &[("a", "2")]);
    pin(&world, "r1.2", second);
    let fix = world.repo.commit("r1.2", "A fix", &[("env/a.yaml", &config_map("a", "two"))]);

    world.repository_with(json!({"interval": "2s", "ledger": {}})).await;
    world.environment("matrix-test", json!({"lane": "r1.2", "path": "test", "namespace": world.namespace})).await;
    let prod = json!({"lane": "master", "path": "env", "sync": "Manual", "namespace": world.namespace});
    world.start_agent();
    world.runs("matrix-test", "r1.2").await;
    world.environment("matrix-prod", prod).await;
    world.request_sync("matrix-prod", "first").await;
    world.runs("matrix-prod", "master").await;

    // What the candidate would bring, before anybody takes it.
    let third = web.commit("master", "Third", &[("a", "3")]);
    pin(&world, "master", third);
    let cell = |found: &Value| found["repositories"][0]["environments"][0].clone();
    let path = "/api/v1/components?environment=matrix-prod";
    let found = until(&world, path, "the candidate", |found| {
        let column = cell(found);
        column["next"]["components"][0]["commit"] == json!(third.to_string())
            && column["running"]["components"][0]["behind"] == json!(1)
    })
    .await;
    let running = &cell(&found)["running"]["components"][0];
    assert_eq!(
        (&running["name"], &running["commit"], &running["ahead"]),
        (&json!("web"), &json!(first.to_string()), &json!(0))
    );
    let (code, out, said) = towpath(&world, &["components"]);
    assert_eq!(code, 0, "{said}");
    assert!(out.contains("MATRIX-TEST") && out.contains("MATRIX-PROD") && out.contains("(1 behind) → "), "{out}{said}");
    let (status, page) = get(&world, "/releases").await;
    assert!(status == 200 && page.contains("1 behind") && page.contains(&third.to_string()), "{page}");
    let (_, page) = get(&world, "/environments/matrix-prod").await;
    assert!(page.contains("What the candidate brings") && page.contains("Third"), "{page}");

    world.request_sync("matrix-prod", "second").await;
    world.runs("matrix-prod", "master").await;
    let between = "/api/v1/changelog?from=matrix-prod@1&to=matrix-prod@2";
    let told = until(&world, between, "two syncs", |told| told["components"][0]["way"] == "Forward").await;
    assert_eq!(told["components"][0]["coming"]["commits"][0]["subject"], "Third");
    let (code, out, said) = towpath(&world, &["changelog", "matrix-prod@1..matrix-prod@2"]);
    assert!(code == 0 && out.contains("  + ") && out.contains("Third (Robin Bargee)"), "{out}{said}");
    let (code, out, said) = towpath(&world, &["changelog", "master..r1.2", "-o", "markdown"]);
    assert!(code == 0 && out.contains("\\<b\\>Second\\</b\\>") && !out.contains("<b>"), "{out}{said}");
    let (code, out, said) = towpath(&world, &["changelog", "matrix-prod..matrix-test"]);
    assert!(code == 0 && out.contains("to another line of history"), "{out}{said}");
    let (code, _, said) = towpath(&world, &["changelog", "nowhere..matrix-prod"]);
    assert!(code == 1 && said.contains("no environment, no followed branch and no commit \"nowhere\""), "{said}");

    // The fix on r1.2 is missing nowhere yet: develop is not followed, which is said.
    let (code, _, said) = towpath(&world, &["lint", "--repository", "shop"]);
    assert!(code == 0 && said.contains("no environment follows develop"), "{said}");
    world.repo.branch("develop", "master");
    web.branch("develop", "master");
    world
        .environment(
            "matrix-dev",
            json!({"lane": "develop", "path": "dev", "namespace": world.namespace, "sync": "Manual"}),
        )
        .await;
    let looked = until(&world, "/api/v1/hygiene", "the fix", |found| {
        found["repositories"][0]["findings"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    assert_eq!(looked["repositories"][0]["findings"][0]["commit"], json!(fix.to_string()), "{looked:#}");
    let (code, out, said) = towpath(&world, &["lint", "--repository"]);
    assert_eq!(code, 1, "{out}{said}");
    assert!(out.contains("A fix (Robin Bargee) is on r1.2 and not on develop"), "{out}");
    assert!(out.contains(&format!("git cherry-pick -x {second}")), "{out}");
    let (status, text) = get(&world, "/api/v1/hygiene?repository=nowhere").await;
    assert!(status == 404 && text.contains("there is no repository"), "{text}");
    let (_, page) = get(&world, "/releases").await;
    assert!(page.contains("&lt;b&gt;Second&lt;/b&gt;") && !page.contains("<b>Second"), "{page}");
}

/// The condition about reverts of a world's Repository: its status and its message.
async fn settled(world: &World, wanted: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = repository(world, "shop").await.status.unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        assert!(ready.is_none_or(|ready| ready.status == "True"), "{status:#?}");
        let found = status.conditions.iter().find(|condition| condition.type_ == "RevertsSettled");
        if let Some(found) = found.filter(|found| found.status == wanted) {
            return found.message.clone();
        }
        assert!(Instant::now() < deadline, "not {wanted}: {status:#?}\n{}", world.agent_log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs plain git.
fn plain_git(folder: &Path, arguments: &[&str]) {
    let who = ["-c", "user.name=Robin", "-c", "user.email=robin@example.org"];
    let output = git(folder).arg("-C").arg(folder).args(who).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_brings_nothing_back_is_told_everywhere_until_the_revert_was_reverted() {
    let mut world = World::new("remerge").await;
    world.listen();
    world.repo.commit("master", "Files", &[("env/a.yaml", &config_map("a", "one"))]);
    world.repo.branch("develop", "master");
    world.repository_with(json!({"interval": "1s"})).await;
    for (name, lane) in [("remerge-dev", "develop"), ("remerge-prod", "master")] {
        let spec = json!({"lane": lane, "path": "env", "namespace": world.namespace, "sync": "Manual"});
        world.environment(name, spec).await;
    }
    world.start_agent();
    let found = until(&world, "/api/v1/hygiene", "both lanes", |found| {
        found["repositories"][0]["compared"] == json!(["develop", "master"])
    });
    assert_eq!(found.await["repositories"][0]["findings"], json!([]));

    // Everything by plain git in a clone: merged, reverted, gone on with, merged again.
    let folder = world.folder();
    let clone = folder.join("clone");
    plain_git(&folder, &["clone", "-q", "-b", "develop", &world.repo.url(), "clone"]);
    let run = |arguments: &[&str]| plain_git(&clone, arguments);
    let write = |file: &str, subject: &str| {
        std::fs::write(clone.join("env").join(file), config_map("b", file)).unwrap();
        run(&["add", "."]);
        run(&["commit", "-qm", subject]);
    };
    run(&["checkout", "-qb", "topic"]);
    write("b.yaml", "<b>Faster</b>");
    run(&["checkout", "-q", "develop"]);
    run(&["merge", "-q", "--no-ff", "--no-edit", "topic"]);
    run(&["revert", "--no-edit", "-m", "1", "HEAD"]);
    run(&["push", "-q", "origin", "develop"]);
    let revert = world.repo.head("develop");
    run(&["checkout", "-q", "topic"]);
    write("c.yaml", "More");
    run(&["checkout", "-q", "develop"]);
    run(&["merge", "-q", "--no-ff", "--no-edit", "topic"]);
    run(&["push", "-q", "origin", "develop"]);
    assert_eq!(world.repo.text("develop", "env/b.yaml"), None);
    let merge = world.repo.head("develop");

    let reland = format!("towpath reland develop {}", revert.short());
    let message = settled(&world, "False").await;
    assert!(message.starts_with("1 finding about reverts; the first: ") && message.contains(&reland), "{message}");
    let (code, out, said) = towpath(&world, &["lint", "--repository", "shop"]);
    assert_eq!(code, 1, "{out}{said}");
    assert!(out.contains("merged again, and still reverted") && out.contains(&reland), "{out}");
    assert!(out.contains("  missing: ") && out.contains(" <b>Faster</b>\n") && !out.contains("More"), "{out}");
    let found = until(&world, "/api/v1/hygiene", "the trap", |_| true).await;
    let finding = &found["repositories"][0]["findings"][0];
    assert_eq!(
        (&finding["sort"], &finding["commit"], &finding["branch"]),
        (&json!("MergeBringsNothingBack"), &json!(merge.to_string()), &json!("develop"))
    );
    assert_eq!(finding["missing"]["commits"][0]["subject"], "<b>Faster</b>");
    let (_, page) = get(&world, "/releases").await;
    assert!(page.contains("&lt;b&gt;Faster&lt;/b&gt;") && page.contains(&reland), "{page}");
    let (_, page) = get(&world, "/environments/remerge-dev").await;
    assert!(page.contains("Reverts to settle") && page.contains(&reland), "{page}");

    // An agent that is started again knows it too.
    run(&["revert", "--no-edit", &revert.to_string()]);
    world.kill_agent();
    world.start_agent();
    settled(&world, "False").await;
    run(&["push", "-q", "origin", "develop"]);
    settled(&world, "True").await;
    assert!(world.repo.text("develop", "env/b.yaml").is_some());
    let (code, out, said) = towpath(&world, &["lint", "--repository", "shop"]);
    assert_eq!(code, 0, "{out}{said}");
    let (_, page) = get(&world, "/environments/remerge-dev").await;
    assert!(!page.contains("Reverts to settle"), "{page}");

    // What nothing of moved is not looked at again: nobody writes the status.
    let mark = world.mark_at_rest().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = world.requests_since(mark);
    assert!(requests.is_empty(), "{requests:#?}");
}
