//! Rollbacks over the API and the page.

use reqwest::{Method, Response, StatusCode};

use super::pushing::PROTECTED;
use super::*;

const TOKEN: &str = "a-token-for-the-test";

/// Has the agent listen, with a token.
fn listen(world: &mut World) {
    let token = world.folder().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    world.listen();
    world.start_options().arguments.extend(["--token-file".into(), token.display().to_string()]);
}

/// Sends a request to the API. Gives the status and the answer.
async fn ask(world: &World, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("http://127.0.0.1:{}/api/v1/environments/{path}", world.port());
    let sent = reqwest::Client::new().post(url).bearer_auth(TOKEN);
    let sent = sent.header("content-type", "application/json").body(body.to_string());
    let answer = sent.send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Sends what a browser sends for a page or a form, and follows no redirect.
async fn browse(world: &World, method: Method, path: &str, fields: &[(&str, &str)]) -> Response {
    let at = format!("http://127.0.0.1:{}", world.port());
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = client.request(method.clone(), format!("{at}{path}")).basic_auth("ada", Some(TOKEN));
    let request = match method {
        Method::POST => {
            let pairs: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key}={}", value.replace(' ', "+"))).collect();
            let body = pairs.join("&");
            request.header("origin", at).header("content-type", "application/x-www-form-urlencoded").body(body)
        }
        _ => request,
    };
    request.send().await.unwrap()
}

async fn text_of(world: &World, path: &str) -> String {
    browse(world, Method::GET, path, &[]).await.text().await.unwrap()
}

/// Where a form leads.
async fn leads(world: &World, path: &str, fields: &[(&str, &str)]) -> String {
    let answer = browse(world, Method::POST, path, fields).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{}", world.agent_log());
    answer.headers()["location"].to_str().unwrap().to_owned()
}

/// The value of a field of a form.
fn field(text: &str, name: &str) -> String {
    let (_, rest) = text.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("{name}: {text}"));
    rest.split_once('"').unwrap().0.to_owned()
}

/// An environment with two releases behind it, the second one bad. Gives the two.
async fn two_releases(name: &str) -> (Shop, CommitId, CommitId) {
    let mut shop = Shop::new(name).await;
    let first = shop.world.repo.head("master");
    listen(&mut shop.world);
    shop.begin(&[(name, json!({}))]).await;
    shop.ran(name, first).await;
    let bad = shop.commit("The second release", "web:2");
    shop.ran(name, bad).await;
    (shop, first, bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_shows_first_and_does_only_what_was_shown() {
    let (shop, first, bad) = two_releases("asked").await;
    let world = &shop.world;
    let url = format!("http://127.0.0.1:{}/api/v1/environments/asked/rollback", world.port());
    let sent = async |token: &str, origin: Option<&str>| {
        let request = reqwest::Client::new().post(&url).bearer_auth(token);
        let request = origin.into_iter().fold(request, |request, origin| request.header("origin", origin));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(sent("another-token-of-nobody", None).await, 401);
    assert_eq!(sent(TOKEN, Some("http://evil.example")).await, 403);
    let (status, answer) = ask(world, "asked/rollback", &json!({"to": "asked@99"})).await;
    assert_eq!((status, &answer["phase"]), (409, &json!("Refused")), "{answer}");

    let (status, preview) = ask(world, "asked/rollback", &json!({})).await;
    assert_eq!((status, &preview["phase"]), (200, &json!("Prepared")), "{preview}");
    assert!(preview["to"].as_str().unwrap().ends_with(&first.to_string()), "{preview}");
    assert_eq!(preview["reverts"][0]["commit"], bad.to_string());
    assert_eq!(world.repo.head("master"), bad, "nothing was done");

    // The branch moves on: what was agreed to is not what would be done.
    let next = world.repo.commit("master", "Another", &[("prod/more.txt", "x")]);
    shop.ran("asked", next).await;
    let (status, changed) = ask(world, "asked/rollback", &json!({"confirm": preview["digest"]})).await;
    assert_eq!((status, &changed["phase"]), (409, &json!("Prepared")), "{changed}");
    assert!(changed["error"].as_str().unwrap().contains("nothing was done"), "{changed}");
    assert_ne!(changed["digest"], preview["digest"]);
    assert_eq!(world.repo.head("master"), next, "nothing was done");

    // Two people, or one twice: one rollback.
    let to = json!({"to": first.to_string()});
    let (_, preview) = ask(world, "asked/rollback", &to).await;
    let confirm = json!({"to": first.to_string(), "confirm": preview["digest"], "reason": "too slow"});
    let confirm = || ask(world, "asked/rollback?wait=60s", &confirm);
    let ((one, first_answer), (other, second_answer)) = tokio::join!(confirm(), confirm());
    assert_eq!((one, other), (200, 200), "{first_answer} {second_answer}");
    assert_eq!((&first_answer["phase"], &first_answer["id"]), (&json!("Done"), &second_answer["id"]));
    shop.runs_image("web:1").await;
    let reverts: Vec<String> = shop.subjects().into_iter().filter(|subject| subject.starts_with("Revert")).collect();
    assert_eq!(reverts, ["Revert \"The second release\"", "Revert \"Another\""]);
    let message = shop.git(&["log", "-1", "--format=%B", "master"]);
    assert!(message.contains("Reason: too slow"), "{message}");
    let (status, again) = confirm().await;
    assert_eq!((status, &again["id"]), (200, &first_answer["id"]));
    assert_eq!(shop.subjects().len(), 5);
    let status = &world.status("asked").await;
    assert_eq!(status.rollback.as_ref().unwrap().by.as_deref(), Some("api"));

    // And back again.
    let (status, preview) = ask(world, "asked/reland", &json!({"commit": bad.to_string()})).await;
    assert_eq!((status, &preview["phase"]), (200, &json!("Prepared")), "{preview}");
    let confirm = json!({"commit": bad.to_string(), "confirm": preview["digest"]});
    let (status, answer) = ask(world, "asked/reland?wait=60s", &confirm).await;
    assert_eq!((status, &answer["phase"]), (200, &json!("Done")), "{answer}");
    shop.runs_image("web:2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_leads_from_a_release_to_a_preview_and_back_to_what_was_done() {
    let (shop, first, bad) = two_releases("paged").await;
    let world = &shop.world;
    let text = text_of(world, "/environments/paged").await;
    assert_eq!(field(&text, "to"), "paged@1", "the earlier release has a button");
    let page = "/environments/paged/rollback";
    let preview = leads(world, page, &[("to", "paged@1")]).await;
    let text = text_of(world, &preview).await;
    assert!(text.contains("back to") && text.contains("image: web:2 → web:1"), "{text}");
    assert_eq!(world.repo.head("master"), bad, "nothing was done");

    let wrong = leads(world, page, &[("to", "paged@1"), ("confirm", "0123456789abcdef")]).await;
    assert!(text_of(world, &wrong).await.contains("The world has changed: nothing was done."));
    assert_eq!(world.repo.head("master"), bad, "nothing was done");

    let (to, digest) = (field(&text, "to"), field(&text, "confirm"));
    let fields = [("to", &*to), ("confirm", &*digest), ("reason", "too slow")];
    assert_eq!(leads(world, page, &fields).await, "/environments/paged");
    shop.runs_image("web:1").await;
    assert_eq!(shop.tree("master"), shop.tree(&first.to_string()));
    world.status_where("paged", "done", |status| phase(status) == Some(RollbackPhase::Done)).await;
    let is_shown = async || text_of(world, "/environments/paged").await.contains("too slow");
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while !is_shown().await {
        assert!(std::time::Instant::now() < deadline, "{}", text_of(world, "/environments/paged").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(text_of(world, "/environments/paged").await.contains("rollback"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_at_once_which_branch_waits_to_be_merged() {
    let mut shop = Shop::new("shut").await;
    let server = GitServer::start(shop.world.folder());
    listen(&mut shop.world);
    shop.ran_a_bad_release("shut", &server).await;
    let protected = hook(&shop, "update", PROTECTED);
    let world = &shop.world;
    let (_, preview) = ask(world, "shut/rollback", &json!({})).await;
    let begun = std::time::Instant::now();
    let confirm = json!({"confirm": preview["digest"]});
    let (status, answer) = ask(world, "shut/rollback?wait=5m", &confirm).await;
    assert_eq!((status, &answer["phase"]), (202, &json!("WaitsForMerge")), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(60), "nobody merges while somebody waits");
    let branch = answer["branch"].as_str().unwrap();
    let (_, again) = ask(world, "shut/rollback", &confirm).await;
    assert_eq!(again["id"], answer["id"], "it is joined for as long as it waits");

    world.status_where("shut", "held", |status| status.state == State::Held).await;
    for (path, part) in [("/", format!("merge {branch} into master")), ("/environments/shut", branch.to_owned())] {
        let deadline = std::time::Instant::now() + support::world::PATIENCE;
        loop {
            let text = text_of(world, path).await;
            if text.contains(&part) && text.contains("is held on what it runs") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{path}: {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let said = shop.does(&["get", "shut"]);
    assert!(said.contains("Held") && said.contains(&format!("rolled back: merge {branch} into master")), "{said}");
    std::fs::remove_file(protected).unwrap();
    world.repo.merge("master", branch);
    shop.runs_image("web:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_the_agent_prepared_is_confirmed_on_the_page() {
    let mut shop = Shop::new("awaited").await;
    let first = shop.world.repo.head("master");
    listen(&mut shop.world);
    shop.begin(&[("awaited", json!({"timeout": "10s"}))]).await;
    shop.ran("awaited", first).await;
    let bad = shop.commit("A bad image", "web:2-crash");
    let world = &shop.world;
    let is_prepared = |status: &EnvironmentStatus| {
        status.prepared.as_ref().is_some_and(|prepared| prepared.phase == RollbackPhase::Prepared)
    };
    world.status_where("awaited", "ready to go back", is_prepared).await;
    let page = format!("/environments/awaited/rollback?id=auto-Degraded-{bad}");
    let deadline = std::time::Instant::now() + support::world::PATIENCE;
    while !text_of(world, "/environments/awaited").await.contains(&format!("href=\"{page}\"")) {
        assert!(std::time::Instant::now() < deadline, "{}", text_of(world, "/environments/awaited").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = shop.does(&["get", "awaited"]);
    assert!(said.contains("a rollback waits for a person; "), "{said}");
    assert_eq!(world.repo.head("master"), bad, "nothing was done");
    let digest = field(&text_of(world, &page).await, "confirm");
    let to = leads(world, "/environments/awaited/rollback", &[("confirm", &digest)]).await;
    assert_eq!(to, "/environments/awaited");
    shop.runs_image("web:1").await;
    assert_eq!(shop.subjects(), ["Revert \"A bad image\"", "A bad image", "The first release"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_agent_itself_may_ask_in_the_name_of_its_api() {
    let (shop, _, bad) = two_releases("nameless").await;
    let world = &shop.world;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "towpath", "namespace": "nameless"}});
    world.apply(account).await;
    let admin = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "another", "namespace": "nameless"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "towpath", "namespace": "nameless"}],
    });
    world.apply(admin).await;
    let ask = json!({"id": "r-1", "at": jiff::Timestamp::now(), "wish": {}}).to_string();
    let annotate = |by: &str| {
        world.plane.kubectl(&[
            "annotate",
            "environment/nameless",
            "-n",
            "nameless",
            "--as=system:serviceaccount:nameless:towpath",
            &format!("towpath.dev/rollback={ask}"),
            &format!("towpath.dev/rollbackBy={by}"),
            "--overwrite",
        ])
    };
    let refusal = format!("{:?}", annotate("api").unwrap_err());
    assert!(refusal.contains("rollbackBy must be the name of whoever sets"), "{refusal}");
    annotate("system:serviceaccount:nameless:towpath").unwrap();
    world
        .status_where("nameless", "answered", |status| status.prepared.as_ref().is_some_and(|one| one.id == "r-1"))
        .await;
    assert_eq!(world.repo.head("master"), bad);
}
