//! The servers of components: which are read, with what, and what becomes of one that is away.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_component_elsewhere_is_read_only_where_that_is_allowed() {
    let mut shop = Shop::new("beyond", "{{short}}").await;
    // Beside the group that the deploy repository is in.
    shop.world.repo.submodule("master", "components/lib", "../../others/lib.git", shop.web.head("master"));
    let uses = crate::manifests::config_map("lib", "{{components.lib.version}}");
    shop.world.repo.commit("master", "Use it", &[("templates/lib.yaml.hbs", &uses)]);
    shop.world.repository_with(json!({"interval": "2s"})).await;
    shop.environment("beyond", "master").await;
    shop.world.start_agent();
    let is_refused = |problem: &String| problem.contains("components: [{prefix: ");
    let status = shop.world.status_where("beyond", "refused", |status| status.problems.iter().any(is_refused)).await;
    let said = status.problems.join("\n");
    let pinned = shop.web.head("master");
    assert!(said.contains(&format!("component components/lib (../../others/lib.git) at {pinned}")), "{said}");
    let brought = git(shop.world.repo.path(), &["rev-parse", "--short=7", "master~1"]);
    assert!(said.contains(&format!("(pinned by {} here)", brought.trim())), "{said}");
    assert!(status.running.is_none());
    let told = shop.repository_where("told", |status| condition(status, "ComponentsRead").is_some()).await;
    assert!(condition(&told, "ComponentsRead").unwrap().message.contains("/others/lib.git may not be read"));
    assert_eq!(condition(&told, "Ready").unwrap().status, "True", "the deploy repository itself is well");
    // What nobody uses keeps nothing away.
    shop.world.repo.delete("master", "templates/lib.yaml.hbs");
    shop.world.runs("beyond", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_secret_is_shown_to_the_servers_that_it_is_for_and_a_new_address_is_followed() {
    let mut shop = Shop::new("mixed", "").await;
    let (deploy, folder) = (GitServer::start(shop.world.folder()), shop.world.folder().join("others"));
    let elsewhere = GitServer::start_tls(&folder, "good");
    deploy.require_login("deploy.git", "deployer", "for-deploy");
    deploy.require_login("web.git", "deployer", "for-deploy");
    elsewhere.require_login("lib.git", "reader", "for-libraries");
    let library = DeployRepo::new(folder.join("lib.git"));
    library.commit("develop", "A library", &[("lib.rs", "")]);
    library.tag("v3.1", library.head("develop"));
    library.branch("master", "develop");
    // A submodule of the component itself, which nobody can reach and nobody needs.
    shop.web.submodule("master", "vendored", "https://127.0.0.1:1/private/vendored.git", library.head("master"));
    shop.world.repo.submodule("master", "components/web", "../web.git", shop.web.head("master"));
    shop.world.repo.submodule("master", "components/lib", &elsewhere.url("lib.git"), library.head("master"));
    let uses = crate::manifests::config_map("lib", "{{components.lib.version}}");
    shop.world.repo.commit("master", "Use it", &[("templates/lib.yaml.hbs", &uses)]);
    secret(&shop.world, "own", json!({"username": "deployer", "password": "for-deploy"})).await;
    let libraries = json!({"username": "reader", "password": "expired", "ca.crt": GitServer::authority()});
    secret(&shop.world, "libraries", libraries).await;
    let prefix = elsewhere.url("lib.git").trim_end_matches("/lib.git").to_owned();
    let spec = json!({
        "url": deploy.url("deploy.git"), "interval": "2s", "secretRef": {"name": "own"},
        "components": [{"prefix": prefix, "secretRef": {"name": "libraries"}}],
    });
    shop.world.repository_with(spec).await;
    shop.environment("mixed", "master").await;
    shop.world.start_agent();
    let is_refused = |problem: &String| problem.contains("component components/lib (https://");
    let status = shop.world.status_where("mixed", "refused", |status| status.problems.iter().any(is_refused)).await;
    let said = status.problems.join("\n");
    assert!(said.contains(&library.head("master").to_string()) && !said.contains("expired\""), "{said}");

    // The credentials are mended while the agent runs.
    let libraries = json!({"username": "reader", "password": "for-libraries", "ca.crt": GitServer::authority()});
    secret(&shop.world, "libraries", libraries).await;
    shop.world.runs("mixed", "master").await;
    let lib = shop.world.get("v1", "ConfigMap", "lib").await.unwrap();
    assert_eq!(lib["data"]["key"], format!("v3.1-0-{}", library.head("master").short()));
    let shown = |server: &GitServer| -> Vec<String> {
        server.take_requests().into_iter().filter_map(|request| request.authorization).collect()
    };
    let basic = |text: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    };
    let (here, there) = (shown(&deploy), shown(&elsewhere));
    assert!(!here.is_empty() && here.iter().all(|shown| *shown == basic("deployer:for-deploy")), "{here:?}");
    assert!(!there.is_empty() && there.iter().all(|shown| shown.starts_with("Basic cmVhZGVy")), "{there:?}");

    // The address moves in a commit, within what is allowed.
    std::fs::rename(folder.join("lib.git"), folder.join("library.git")).unwrap();
    elsewhere.require_login("library.git", "reader", "for-libraries");
    let library = DeployRepo::open(folder.join("library.git"));
    let newer = library.commit("master", "Newer", &[("lib.rs", "//")]);
    let text = shop.world.repo.text("master", ".gitmodules").unwrap().replace("/lib.git", "/library.git");
    shop.world.repo.commit("master", "It has moved", &[(".gitmodules", &text)]);
    shop.world.repo.submodule("master", "components/lib", &elsewhere.url("library.git"), newer);
    shop.world.runs("mixed", "master").await;
    let lib = shop.world.get("v1", "ConfigMap", "lib").await.unwrap();
    assert_eq!(lib["data"]["key"], format!("v3.1-1-{}", newer.short()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_whose_server_is_silent_holds_nothing_else_up() {
    let mut shop = Shop::new("silent", "").await;
    let folder = shop.world.folder().join("others");
    let elsewhere = GitServer::start_tls(&folder, "good");
    let library = DeployRepo::new(folder.join("lib.git"));
    library.commit("master", "A library", &[("lib.rs", "")]);
    shop.world.repo.submodule("master", "components/lib", &elsewhere.url("lib.git"), library.head("master"));
    secret(&shop.world, "libraries", json!({"ca.crt": GitServer::authority()})).await;
    let prefix = elsewhere.url("lib.git").trim_end_matches("/lib.git").to_owned();
    let spec = json!({"interval": "2s", "components": [{"prefix": prefix, "secretRef": {"name": "libraries"}}]});
    shop.world.repository_with(spec).await;
    shop.environment("silent", "master").await;
    elsewhere.misbehave(Some(Fault::Silence));
    shop.world.start_agent();
    // Nobody uses the library, so nobody waits for it for long.
    shop.world.runs("silent", "master").await;
    let before = Instant::now();
    let fix = shop.web.commit("master", "A fix", &[("f", "1")]);
    shop.world.repo.submodule("master", "components/web", "../web.git", fix);
    shop.world.runs("silent", "master").await;
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    shop.runs_image(&format!("registry.example/web:v1.0-2-{}", fix.short())).await;
    elsewhere.misbehave(None);
    let is_read =
        |status: &RepositoryStatus| condition(status, "ComponentsRead").is_some_and(|told| told.status == "True");
    shop.repository_where("read", is_read).await;
}
