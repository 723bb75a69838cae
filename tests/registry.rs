//! Images are looked up before an environment moves to them: on a real registry.

mod door;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::deploy_repo::DeployRepo;
use support::faults::{Action, Answer, On, Proxy};
use support::registry::{Access, PASSWORD, ROBOT, Registry, pull_secret};
use support::world::World;
use towpath_core::status::{EnvironmentStatus, State};

use crate::manifests::{config_map, deployment, image};
use crate::waves::{make_ready, waits_for};

/// A deploy repository with one component, and the registry of its images.
struct Shop {
    world: World,
    registry: Registry,
    component: DeployRepo,
    /// What stands before the `/` of images.
    host: String,
}

impl Shop {
    async fn new(name: &str, access: Access) -> Shop {
        let world = World::new(name).await;
        let registry = Registry::start(&world.folder(), access).await.unwrap();
        let component = DeployRepo::new(world.folder().join("web.git"));
        let host = registry.address().to_string();
        Shop { world, registry, component, host }
    }

    /// Writes the deploy repository, with what `towpath.yaml` says of the component beside its image.
    fn declare(&self, more: &str) {
        let image = format!("image: \"{}/shop/web\"", self.host);
        let tag = if more.contains("tag: ") { "" } else { "tag: \"{{short}}\", " };
        let declared = format!("components:\n  web: {{{image}, {tag}{more}}}\n");
        let web = deployment("web", "{{components.web.image}}");
        let files = [
            ("towpath.yaml", declared.as_str()),
            ("templates/web.yaml.hbs", &web),
            ("environments/prod/values.yaml", "{}"),
        ];
        self.world.repo.commit("master", "What is deployed", &files);
    }

    /// Commits to the component and moves its submodule there. Gives its tag.
    fn release(&self, content: &str) -> String {
        let commit = self.component.commit("master", &format!("Say {content}"), &[("index.html", content)]);
        self.world.repo.submodule("master", "components/web", "../web.git", commit);
        commit.short()
    }

    fn image(&self, tag: &str) -> String {
        format!("{}/shop/web:{tag}", self.host)
    }

    async fn follow(&mut self, name: &str, more: Value) {
        let mut spec = json!({"lane": "master", "path": "environments/prod"});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        self.world.follow(name, spec).await;
    }

    /// What `towpath images` prints.
    fn images(&self, arguments: &[&str]) -> String {
        let output = Command::new(support::agent::binary().unwrap())
            .arg("images")
            .args(arguments)
            .args(["-n", &self.world.namespace])
            .env("KUBECONFIG", self.world.plane.admin_kubeconfig())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn live(&self) -> Value {
        self.world.get("apps/v1", "Deployment", "web").await.unwrap_or_default()
    }

    /// Changes the Deployment by hand and waits until that is mended.
    async fn is_mended(&self) {
        self.world.patch("apps/v1", "Deployment", "web", json!({"spec": {"replicas": 5}})).await;
        self.world
            .object_where("apps/v1", "Deployment", "web", "mended", |object| object["spec"]["replicas"] == 2)
            .await;
    }
}

fn ready(status: &EnvironmentStatus) -> (&str, &str) {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    ready.map_or(("", ""), |ready| (ready.reason.as_str(), ready.message.as_str()))
}

fn running_images(status: &EnvironmentStatus) -> Vec<&str> {
    let images = status.images.iter().flatten();
    images.filter(|image| image.until.is_none()).map(|image| image.image.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_waited_for_by_name_and_moved_to_when_it_is_pushed() {
    let mut shop = Shop::new("image-missing", Access::Open).await;
    shop.declare("check: Exists");
    let first = shop.release("one");
    shop.registry.push("shop/web", &first, "one").await;
    shop.follow("image-missing", json!({})).await;
    let status = shop.world.runs("image-missing", "master").await;
    assert_eq!(running_images(&status), [shop.image(&first)]);
    assert_eq!(status.images.unwrap()[0].component.as_deref(), Some("web"));

    let second = shop.release("two");
    let wanted = shop.image(&second);
    let waits = |status: &EnvironmentStatus| ready(status).0 == "WaitsForImage";
    let status = shop.world.status_where("image-missing", "waiting", waits).await;
    let (_, said) = ready(&status);
    assert!(said.starts_with(&format!("waits for image {wanted} of component web at ")), "{said}");
    assert!(said.contains("does not have it"), "{said}");
    assert_eq!(status.state, State::OutOfSync);
    assert_eq!(running_images(&status), [shop.image(&first)]);
    shop.is_mended().await;
    assert_eq!(image(&shop.live().await), shop.image(&first));
    // It is known after a restart, too.
    shop.world.kill_agent();
    shop.world.start_agent();
    shop.is_mended().await;
    shop.world.status_where("image-missing", "waiting", waits).await;

    shop.registry.push("shop/web", &second, "two").await;
    let status = shop.world.runs("image-missing", "master").await;
    assert_eq!(image(&shop.live().await), wanted);
    // What a rollback needs is remembered.
    assert_eq!(running_images(&status), [wanted.as_str()]);
    assert_eq!(shop.images(&["-o", "name"]), wanted.clone() + "\n");
    let both = shop.images(&["--in-use", "-o", "name"]);
    assert_eq!(both.lines().collect::<BTreeSet<_>>(), [wanted.as_str(), &shop.image(&first)].into());
    let table = shop.images(&["--in-use"]);
    let line = table.lines().find(|line| line.starts_with(&wanted)).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[1], words[2], words[4]), ("image-missing/image-missing", "web", "now"), "{table}");

    // An image that is gone from the registry stops neither what runs nor what stays as it is.
    let settings = config_map("settings", "1");
    let digest = shop.registry.push("shop/web", &second, "two").await;
    shop.registry.delete("shop/web", &digest).await;
    shop.world.repo.commit("master", "Settings", &[("environments/prod/settings.yaml", &settings)]);
    shop.world.runs("image-missing", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_registry_is_away_nothing_moves_and_what_runs_is_mended() {
    let mut shop = Shop::new("registry-away", Access::Open).await;
    shop.declare("check: Exists");
    let first = shop.release("one");
    shop.registry.push("shop/web", &first, "one").await;
    shop.follow("registry-away", json!({})).await;
    shop.world.runs("registry-away", "master").await;

    let second = shop.release("two");
    shop.registry.push("shop/web", &second, "two").await;
    // The push may have come too late for the first look; then this is the second one.
    shop.world.runs("registry-away", "master").await;
    shop.registry.go_away();
    let third = shop.release("three");
    let away = |status: &EnvironmentStatus| ready(status).1.contains("cannot be reached");
    let status = shop.world.status_where("registry-away", "told", away).await;
    assert_eq!((ready(&status).0, status.state), ("Retrying", State::OutOfSync));
    assert!(ready(&status).1.contains(&shop.image(&third)), "{:?}", ready(&status));
    shop.is_mended().await;
    assert_eq!(image(&shop.live().await), shop.image(&second));

    shop.registry.come_back().await.unwrap();
    shop.registry.push("shop/web", &third, "three").await;
    shop.world.runs("registry-away", "master").await;
    assert_eq!(image(&shop.live().await), shop.image(&third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_names_its_secret_and_pods_get_it() {
    let mut shop = Shop::new("pull-secret", Access::Token).await;
    shop.declare("check: Exists");
    let first = shop.release("one");
    shop.registry.push("shop/web", &first, "one").await;
    shop.follow("pull-secret", json!({"imagePullSecrets": ["harbor"]})).await;
    let told = |what: &'static str| move |status: &EnvironmentStatus| ready(status).1.contains(what);
    let status = shop.world.status_where("pull-secret", "asked for a login", told("asks for a login")).await;
    assert_eq!(status.state, State::Blocked);
    assert!(ready(&status).1.contains("Secret harbor of spec.imagePullSecrets cannot be read"), "{:?}", ready(&status));

    let secret = |password: &str| {
        pull_secret("pull-secret", "harbor", &Registry::docker_config(&shop.host, ROBOT, password), None)
    };
    shop.world.apply(secret("yesterday's")).await;
    let refused = told("refuses the login of Secret harbor");
    let status = shop.world.status_where("pull-secret", "refused", refused).await;
    assert!(!serde_json::to_string(&status).unwrap().contains("yesterday's"));
    assert!(!shop.world.agent_log().contains("yesterday's"));
    assert_eq!(shop.live().await, Value::Null, "nothing was applied");

    shop.world.apply(secret(PASSWORD)).await;
    shop.world.runs("pull-secret", "master").await;
    let put = shop.live().await.pointer("/spec/template/spec/imagePullSecrets").cloned();
    assert_eq!(put, Some(json!([{"name": "harbor"}])));
    // It was read with the rights of the environment's account, and no other Secret was.
    let mark = shop.world.mark();
    let second = shop.release("two");
    shop.registry.push("shop/web", &second, "two").await;
    shop.world.runs("pull-secret", "master").await;
    let secrets: Vec<_> =
        shop.world.requests_since(mark).into_iter().filter(|request| request.resource == "secrets").collect();
    assert!(!secrets.is_empty());
    for request in &secrets {
        let account = request.impersonated.as_deref();
        assert_eq!(account, Some("system:serviceaccount:pull-secret:towpath-deployer"), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_asked_too_much_is_not_stormed() {
    let mut shop = Shop::new("registry-busy", Access::Open).await;
    let proxy = Proxy::before(&shop.registry.url()).await.unwrap();
    shop.host = proxy.address().to_string();
    shop.declare("check: Exists");
    let first = shop.release("one");
    shop.registry.push("shop/web", &first, "one").await;
    let busy = Answer { status: 429, headers: Vec::new(), body: String::new() }.header("retry-after", "4");
    proxy.inject(On::everything().first(1), Action::Answer(busy));
    let began = Instant::now();
    shop.follow("registry-busy", json!({})).await;
    let told = |status: &EnvironmentStatus| ready(status).1.contains("429");
    let status = shop.world.status_where("registry-busy", "told", told).await;
    assert_eq!(ready(&status).0, "Retrying");
    // A person who asks again and again changes nothing about it.
    for number in 0..5 {
        shop.world.request_sync("registry-busy", &format!("request-{number}")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if began.elapsed() < Duration::from_secs(4) {
        assert_eq!(proxy.seen().len(), 1, "{:?}", proxy.seen());
    }
    shop.world.runs("registry-busy", "master").await;
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(proxy.seen().len(), 2, "{:?}", proxy.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_stays_open_for_an_image_also_where_the_login_for_another_is_refused() {
    let mut shop = Shop::new("image-request", Access::Open).await;
    let proxy = Proxy::before(&shop.registry.url()).await.unwrap();
    let login = Answer { status: 401, headers: Vec::new(), body: String::new() }.header("www-authenticate", "Basic");
    proxy.inject(On::everything(), Action::Answer(login));
    let (web, api) = (shop.host.clone(), proxy.address());
    let component = |name: &str, host: &str| {
        format!("  {name}: {{image: \"{host}/shop/{name}\", tag: \"{{{{short}}}}\", check: Exists}}\n")
    };
    let declared = format!("components:\n{}{}", component("web", &web), component("api", &api.to_string()));
    let files = [
        ("towpath.yaml", declared.as_str()),
        ("templates/web.yaml.hbs", &deployment("web", "{{components.web.image}}")),
        ("templates/api.yaml.hbs", &deployment("api", "{{components.api.image}}")),
        ("environments/prod/values.yaml", "{}"),
    ];
    shop.world.repo.commit("master", "What is deployed", &files);
    let tag = shop.release("one");
    shop.world.repo.submodule("master", "components/api", "../web.git", shop.component.head("master"));
    shop.follow("image-request", json!({})).await;
    let told = |status: &EnvironmentStatus| ready(status).1.contains("asks for a login");
    shop.world.status_where("image-request", "told", told).await;

    let before = proxy.seen().len();
    shop.world.request_sync("image-request", "now").await;
    let deadline = Instant::now() + support::world::PATIENCE;
    while proxy.seen().len() == before {
        assert!(Instant::now() < deadline, "it is looked for again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(shop.world.status("image-request").await.last_handled_request, None, "the image is not there");
    }
    // Now nothing is wrong but the login, and that is the answer.
    shop.registry.push("shop/web", &tag, "one").await;
    let is_answered = |status: &EnvironmentStatus| status.last_handled_request.as_deref() == Some("now");
    let status = shop.world.status_where("image-request", "answered", is_answered).await;
    assert_eq!(status.state, State::Blocked);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_named_by_its_digest_and_keeps_it_while_its_component_stays() {
    let mut shop = Shop::new("image-digest", Access::Open).await;
    shop.declare("check: Digest");
    let first = shop.release("one");
    shop.follow("image-digest", json!({})).await;
    let waits = |status: &EnvironmentStatus| ready(status).0 == "WaitsForImage";
    shop.world.status_where("image-digest", "waiting", waits).await;
    let digest = shop.registry.push("shop/web", &first, "one").await;
    let status = shop.world.runs("image-digest", "master").await;
    let pinned = format!("{}@{digest}", shop.image(&first));
    assert_eq!(image(&shop.live().await), pinned);
    assert_eq!(running_images(&status), [pinned.as_str()]);

    // The tag moves, and then the registry goes: what runs is what ran, also for an agent that starts anew.
    assert_ne!(shop.registry.push("shop/web", &first, "another").await, digest);
    shop.registry.go_away();
    shop.world.kill_agent();
    shop.world.start_agent();
    shop.is_mended().await;
    assert_eq!(image(&shop.live().await), pinned);
    // A revision in which the component stays moves without the registry.
    let settings = config_map("settings", "1");
    shop.world.repo.commit("master", "Settings", &[("environments/prod/settings.yaml", &settings)]);
    shop.world.runs("image-digest", "master").await;
    assert_eq!(image(&shop.live().await), pinned);

    let second = shop.release("two");
    let away = |status: &EnvironmentStatus| ready(status).1.contains("cannot be reached");
    shop.world.status_where("image-digest", "told", away).await;
    shop.is_mended().await;
    assert_eq!(image(&shop.live().await), pinned);
    shop.registry.come_back().await.unwrap();
    let digest = shop.registry.push("shop/web", &second, "two").await;
    shop.world.runs("image-digest", "master").await;
    assert_eq!(image(&shop.live().await), format!("{}@{digest}", shop.image(&second)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_on_its_way_keeps_its_digests_for_an_agent_that_was_killed() {
    let mut shop = Shop::new("image-on-its-way", Access::Open).await;
    shop.declare("check: Digest, tag: \"{{short}}-never-ready\"");
    let tag = shop.release("one") + "-never-ready";
    let digest = shop.registry.push("shop/web", &tag, "one").await;
    let later = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later", "annotations": {"towpath.dev/wave": "1"}},
    });
    shop.world.repo.commit("master", "Later", &[("environments/prod/later.yaml", &later.to_string())]);
    shop.follow("image-on-its-way", json!({})).await;
    waits_for(&shop.world, "image-on-its-way", "web").await;
    let pinned = format!("{}@{digest}", shop.image(&tag));
    assert_eq!(image(&shop.live().await), pinned);
    let status = shop.world.status("image-on-its-way").await;
    assert_eq!((status.running.as_ref(), running_images(&status)), (None, vec![pinned.as_str()]));

    shop.registry.go_away();
    shop.world.kill_agent();
    shop.world.start_agent();
    shop.is_mended().await;
    make_ready(&shop.world, "app=web");
    shop.world.runs("image-on-its-way", "master").await;
    assert_eq!(image(&shop.live().await), pinned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_a_component_needs_is_asked_for_before_anything_is_applied() {
    let mut shop = Shop::new("image-required", Access::Open).await;
    shop.declare("required: [web.port]");
    shop.release("one");
    shop.follow("image-required", json!({})).await;
    let lacks = |status: &EnvironmentStatus| ready(status).0 == "ContentFailed";
    let status = shop.world.status_where("image-required", "refused", lacks).await;
    let (_, said) = ready(&status);
    assert!(said.starts_with("towpath.yaml:2:"), "{said}");
    assert!(said.contains("component web: required variable values.web.port is missing"), "{said}");
    assert!(said.contains("environments/prod/values.yaml"), "{said}");
    assert_eq!(shop.live().await, Value::Null);
    shop.world.repo.commit("master", "A port", &[("environments/prod/values.yaml", "web: {port: 80}")]);
    shop.world.runs("image-required", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_needs_a_missing_image_waits_while_the_rest_is_mended() {
    let mut shop = Shop::new("image-setting", Access::Open).await;
    shop.declare("check: Digest");
    let first = shop.release("one");
    shop.registry.push("shop/web", &first, "one").await;
    // A second image of the same repository, for who switches it on.
    let declared = shop.world.repo.text("master", "towpath.yaml").unwrap();
    let worker = declared.lines().nth(1).unwrap().replace("web: ", "worker: ").replace("shop/web", "shop/worker");
    let worker = worker.replace("{image", "{path: components/web, image");
    let template = deployment("worker", "{{components.worker.image}}");
    let files = [
        ("towpath.yaml", format!("{declared}{worker}\n")),
        ("templates/worker.yaml.hbs", format!("{{{{#if values.worker}}}}\n{template}\n{{{{/if}}}}\n")),
        ("environments/prod/values.yaml", "worker: false\n".to_owned()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    shop.world.repo.commit("master", "Two images of one repository", &files);
    shop.follow("image-setting", json!({})).await;
    shop.world.runs("image-setting", "master").await;
    let patch = json!({"spec": {"values": {"worker": true}}});
    shop.world.patch("towpath.dev/v1alpha1", "Environment", "image-setting", patch).await;
    let waits = |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.contains("shop/worker"));
    shop.world.status_where("image-setting", "waiting", waits).await;
    shop.is_mended().await;
    let digest = shop.registry.push("shop/worker", &first, "the worker").await;
    let wanted = format!("{}/shop/worker:{first}@{digest}", shop.host);
    let has_it = |object: &Value| image(object) == wanted;
    shop.world.object_where("apps/v1", "Deployment", "worker", "there", has_it).await;
    assert!(image(&shop.live().await).starts_with(&shop.image(&first)));
    assert_ne!(image(&shop.live().await), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_pinned_only_when_its_image_is_there() {
    let mut shop = Shop::new("image-bumped", Access::Password).await;
    shop.world.own_key("east").await;
    shop.declare("check: Exists");
    let first = shop.release("one");
    shop.registry.push("shop/web", &first, "one").await;
    let logins = Registry::docker_config(&shop.host, ROBOT, PASSWORD);
    shop.world.apply(pull_secret(&shop.world.namespace, "harbor", &logins, None)).await;
    let bumps = json!([{"lane": "master", "bump": "Commit", "window": "0s"}]);
    let spec = json!({"interval": "2s", "steward": true, "bumps": bumps, "imagePullSecrets": ["harbor"]});
    shop.world.repository_with(spec).await;
    let environment = json!({"lane": "master", "path": "environments/prod", "imagePullSecrets": ["harbor"]});
    shop.world.environment("image-bumped", environment).await;
    shop.world.start_agent();
    shop.world.runs("image-bumped", "master").await;

    let head = shop.world.repo.head("master");
    let second = shop.component.commit("master", "Say two", &[("index.html", "two")]).short();
    let waited_for = format!("component components/web waits for its image {}", shop.image(&second));
    let deadline = Instant::now() + support::world::PATIENCE;
    loop {
        let status = support::world::repository(&shop.world, "shop").await.status.unwrap_or_default();
        if status.conditions.iter().any(|told| told.type_ == "Bumped" && told.message.starts_with(&waited_for)) {
            break;
        }
        assert!(Instant::now() < deadline, "{status:#?}\n{}", shop.world.agent_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(shop.world.repo.head("master"), head, "nothing is pinned that cannot run");
    shop.registry.push("shop/web", &second, "two").await;
    let wanted = shop.image(&second);
    let runs_it = |object: &Value| image(object) == wanted;
    shop.world.object_where("apps/v1", "Deployment", "web", "of the second", runs_it).await;
    assert_ne!(shop.world.repo.head("master"), head);
}
