//! The door to registries, on a real one: what is there, what is missing, and what is not known.

use std::time::{Duration, Instant};

use serde_json::Value;
use support::faults::{Action, Answer, On, Proxy};
use support::git_server::GitServer;
use support::registry::{Access, PASSWORD, ROBOT, Registry, pull_secret};
use towpath::registry::{ImageName, Keys, Looked, Registries};
use towpath_core::fault::Fault;

/// A registry, and what holds its folder.
struct Place {
    registry: Registry,
    _folder: tempfile::TempDir,
}

impl Place {
    async fn start(access: Access) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::start(folder.path(), access).await.unwrap();
        Place { registry, _folder: folder }
    }

    fn image(&self, rest: &str) -> ImageName {
        image(&self.registry.address().to_string(), rest)
    }
}

fn image(host: &str, rest: &str) -> ImageName {
    ImageName::parse(&format!("{host}/{rest}")).unwrap()
}

fn keys(secret: &Value) -> Keys {
    let mut keys = Keys::default();
    keys.add("pull", secret).unwrap();
    keys
}

fn login(at: &str, user: &str, password: &str) -> Keys {
    keys(&pull_secret("shop", "pull", &Registry::docker_config(at, user, password), None))
}

/// What is unknown, and whose fault that is.
fn unknown(looked: Looked) -> (Fault, String) {
    match looked {
        Looked::Unknown(problem) => (problem.fault, problem.to_string()),
        known => panic!("{known:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_there_missing_or_deleted() {
    let place = Place::start(Access::Open).await;
    // Without what was answered a moment ago.
    let look = async |image: &ImageName| Registries::default().look_up(image, &Keys::default()).await;
    let web = place.image("shop/web:v1");
    assert_eq!(look(&web).await, Looked::Missing);
    let digest = place.registry.push("shop/web", "v1", "one").await;
    assert_eq!(look(&web).await, Looked::Found(digest.clone()));
    assert_eq!(look(&place.image("shop/web:v2")).await, Looked::Missing);
    let pinned = place.image(&format!("shop/web:v9@{digest}"));
    assert_eq!(look(&pinned).await, Looked::Found(digest.clone()));
    place.registry.delete("shop/web", &digest).await;
    assert_eq!(look(&web).await, Looked::Missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_is_unknown_and_soon_asked_again() {
    let mut place = Place::start(Access::Open).await;
    let (registries, none) = (Registries::default(), Keys::default());
    let web = place.image("shop/web:v1");
    let digest = place.registry.push("shop/web", "v1", "one").await;
    place.registry.go_away();
    let (fault, said) = unknown(registries.look_up(&web, &none).await);
    assert_eq!(fault, Fault::Passing);
    assert!(said.contains("cannot be reached"), "{said}");
    place.registry.come_back().await.unwrap();
    let deadline = Instant::now() + support::world::PATIENCE;
    while registries.look_up(&web, &none).await != Looked::Found(digest.clone()) {
        assert!(Instant::now() < deadline, "it is asked again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_shown_where_it_is_asked_for() {
    let place = Place::start(Access::Password).await;
    let host = place.registry.address().to_string();
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let registries = Registries::default();
    let web = place.image("shop/web:v1");
    assert_eq!(registries.look_up(&web, &login(&host, ROBOT, PASSWORD)).await, Looked::Found(digest));
    let missing = registries.look_up(&place.image("shop/web:v2"), &login(&host, ROBOT, PASSWORD)).await;
    assert_eq!(missing, Looked::Missing);

    let (fault, said) = unknown(registries.look_up(&web, &Keys::default()).await);
    assert_eq!(fault, Fault::Setup);
    assert!(said.contains("asks for a login") && said.contains("spec.imagePullSecrets"), "{said}");
    let (fault, said) = unknown(registries.look_up(&web, &login(&host, ROBOT, "another-pass")).await);
    assert_eq!(fault, Fault::Setup);
    assert!(said.contains("refuses the login of Secret pull") && !said.contains("another-pass"), "{said}");
    // A login for another folder is none for this one.
    let (_, said) = unknown(registries.look_up(&web, &login(&format!("{host}/other"), ROBOT, PASSWORD)).await);
    assert!(said.contains("asks for a login"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_robot_account_gets_a_token_as_at_harbor() {
    let place = Place::start(Access::Token).await;
    let host = place.registry.address().to_string();
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let registries = Registries::default();
    let web = place.image("shop/web:v1");
    let good = login(&format!("https://{host}/shop"), ROBOT, PASSWORD);
    assert_eq!(registries.look_up(&web, &good).await, Looked::Found(digest));
    assert_eq!(registries.look_up(&place.image("shop/web:v2"), &good).await, Looked::Missing);
    assert!(place.registry.asked_for_tokens().iter().all(|login| login.starts_with("Basic ")));

    // Nobody gets a token that allows nothing; a wrong password gets none.
    let (fault, said) = unknown(registries.look_up(&web, &Keys::default()).await);
    assert_eq!(fault, Fault::Setup);
    assert!(said.contains("asks for a login"), "{said}");
    assert_eq!(place.registry.asked_for_tokens().last().unwrap(), "");
    let (fault, said) = unknown(registries.look_up(&web, &login(&host, ROBOT, "another-pass")).await);
    assert_eq!(fault, Fault::Setup);
    assert!(said.contains("the token server") && said.contains("refuses the login of Secret pull"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_trusted_by_the_authority_in_the_secret_and_no_other() {
    let place = Place::start(Access::Tls).await;
    let host = place.registry.address().to_string();
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let registries = Registries::default();
    let web = place.image("shop/web:v1");
    let with = |at: &str, authority: &str| {
        keys(&pull_secret("shop", "pull", &format!("{{\"auths\":{{{at:?}:{{}}}}}}"), Some(authority)))
    };
    assert_eq!(registries.look_up(&web, &with(&host, GitServer::authority())).await, Looked::Found(digest));
    let other = std::fs::read_to_string(Proxy::next_ca()).unwrap();
    let (fault, said) = unknown(registries.look_up(&web, &with(&host, &other)).await);
    assert_eq!(fault, Fault::Setup);
    assert!(said.contains("is not trusted"), "{said}");
    let (fault, said) = unknown(registries.look_up(&web, &with(&host, "no certificate")).await);
    assert_eq!(fault, Fault::Setup);
    assert!(said.contains("ca.crt of Secret pull cannot be read"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_asked_too_much_is_left_alone_for_as_long_as_it_says() {
    let place = Place::start(Access::Open).await;
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let proxy = Proxy::before(&place.registry.url()).await.unwrap();
    let host = proxy.address().to_string();
    let too_many = Answer { status: 429, headers: Vec::new(), body: String::new() }.header("retry-after", "2");
    proxy.inject(On::everything().first(1), Action::Answer(too_many));
    let (registries, none) = (Registries::default(), Keys::default());
    let began = Instant::now();
    for tag in ["v1", "v1", "v2", "v3"] {
        let (fault, said) = unknown(registries.look_up(&image(&host, &format!("shop/web:{tag}")), &none).await);
        assert_eq!(fault, Fault::Passing);
        assert!(said.contains("429"), "{said}");
    }
    assert_eq!(proxy.seen().len(), 1, "the one request that was refused");
    while registries.look_up(&image(&host, "shop/web:v1"), &none).await != Looked::Found(digest.clone()) {
        assert!(began.elapsed() < Duration::from_secs(20), "it is asked again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(proxy.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_digest_is_asked_for_whole_and_one_that_never_comes_is_unknown() {
    let place = Place::start(Access::Open).await;
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let proxy = Proxy::before(&place.registry.url()).await.unwrap();
    let web = image(&proxy.address().to_string(), "shop/web:v1");
    let (registries, none) = (Registries::default(), Keys::default());
    let bare = Answer { status: 200, headers: Vec::new(), body: String::new() };
    proxy.inject(On::everything().first(1), Action::Answer(bare));
    assert_eq!(registries.look_up(&web, &none).await, Looked::Found(digest));
    assert_eq!(proxy.seen().len(), 2);

    proxy.heal();
    proxy.inject(On::everything(), Action::Stall);
    let web = image(&proxy.address().to_string(), "shop/web:v2");
    let (fault, said) = unknown(registries.look_up(&web, &none).await);
    assert_eq!(fault, Fault::Passing);
    assert!(said.contains("does not answer"), "{said}");
    // Who waits for one image does not wait for all of the registry's.
    let began = Instant::now();
    unknown(registries.look_up(&image(&proxy.address().to_string(), "shop/web:v3"), &none).await);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_for_one_image_ask_the_registry_once() {
    let place = Place::start(Access::Password).await;
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let proxy = Proxy::before(&place.registry.url()).await.unwrap();
    let host = proxy.address().to_string();
    let (registries, good) = (Registries::default(), login(&host, ROBOT, PASSWORD));
    let web = image(&host, "shop/web:v1");
    let looks = (0..100).map(|_| registries.look_up(&web, &good));
    for looked in futures::future::join_all(looks).await {
        assert_eq!(looked, Looked::Found(digest.clone()));
    }
    // Also a moment later.
    assert_eq!(registries.look_up(&web, &good).await, Looked::Found(digest));
    assert_eq!(proxy.seen().len(), 2, "without the login, and with it: {:?}", proxy.seen());
    // What one may see, another one may not.
    unknown(registries.look_up(&web, &Keys::default()).await);
    unknown(registries.look_up(&web, &login(&host, ROBOT, "another-pass")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_missing_a_moment_ago_is_soon_asked_for_again() {
    let place = Place::start(Access::Open).await;
    let (registries, none) = (Registries::default(), Keys::default());
    let web = place.image("shop/web:v1");
    assert_eq!(registries.look_up(&web, &none).await, Looked::Missing);
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while registries.look_up(&web, &none).await != Looked::Found(digest.clone()) {
        assert!(Instant::now() < deadline, "it is asked for again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_and_anew_where_it_counts_no_more() {
    let place = Place::start(Access::Token).await;
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let proxy = Proxy::before(&place.registry.url()).await.unwrap();
    let host = proxy.address().to_string();
    let (registries, good) = (Registries::default(), login(&host, ROBOT, PASSWORD));
    let pushed = place.registry.asked_for_tokens().len();
    let asked = || place.registry.asked_for_tokens().len() - pushed;
    assert_eq!(registries.look_up(&image(&host, "shop/web:v1"), &good).await, Looked::Found(digest.clone()));
    for tag in ["v2", "v3", "v4"] {
        assert_eq!(registries.look_up(&image(&host, &format!("shop/web:{tag}")), &good).await, Looked::Missing);
    }
    assert_eq!(asked(), 1);
    // A registry with another key takes none of the old ones.
    let realm = place.registry.challenge().await;
    let anew = Answer { status: 401, headers: Vec::new(), body: String::new() }.header("www-authenticate", &realm);
    proxy.inject(On::everything().first(2), Action::Answer(anew));
    let pinned = image(&host, &format!("shop/web@{digest}"));
    assert_eq!(registries.look_up(&pinned, &good).await, Looked::Found(digest));
    assert_eq!(asked(), 2);
    // Another login has another token, or none.
    unknown(registries.look_up(&image(&host, "shop/web:v5"), &login(&host, ROBOT, "another-pass")).await);
    assert_eq!(asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_in_a_registrys_place_has_no_image_and_lacks_none() {
    let place = Place::start(Access::Open).await;
    let digest = place.registry.push("shop/web", "v1", "one").await;
    let proxy = Proxy::before(&place.registry.url()).await.unwrap();
    let web = image(&proxy.address().to_string(), "shop/web:v1");
    let looked = async |status: u16, (name, value): (&'static str, &str), body: &str| {
        proxy.heal();
        let answer = Answer { status, headers: Vec::new(), body: body.to_owned() }.header(name, value);
        proxy.inject(On::everything(), Action::Answer(answer));
        Registries::default().look_up(&web, &Keys::default()).await
    };
    let (html, json) = (("content-type", "text/html"), ("content-type", "application/json"));
    // Even one that says which digest it has.
    for header in [html, json, ("docker-content-digest", digest.as_str())] {
        let (fault, said) = unknown(looked(200, header, "<h1>Welcome</h1>").await);
        assert_eq!(fault, Fault::Setup);
        assert!(said.contains("no manifest"), "{said}");
    }
    for body in ["<h1>No such page</h1>", "{}", r#"{"errors": [{"code": "DENIED"}]}"#] {
        let (fault, said) = unknown(looked(404, json, body).await);
        assert_eq!(fault, Fault::Setup);
        assert!(said.contains("not as a registry does"), "{said}");
    }
    for code in ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"] {
        let body = serde_json::json!({"errors": [{"code": code}]}).to_string();
        assert_eq!(looked(404, json, &body).await, Looked::Missing, "{code}");
    }
    assert_eq!(looked(404, ("docker-distribution-api-version", "registry/2.0"), "").await, Looked::Missing);
    let manifest = r#"{"schemaVersion": 2}"#;
    assert!(matches!(looked(200, json, manifest).await, Looked::Found(_)));
    assert!(matches!(looked(200, json, r#"{"schemaVersion": 1}"#).await, Looked::Unknown(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_never_shown_to_another_host() {
    let place = Place::start(Access::Password).await;
    place.registry.push("shop/web", "v1", "one").await;
    let proxy = Proxy::before(&place.registry.url()).await.unwrap();
    let host = proxy.address().to_string();
    let elsewhere = format!("{}/v2/shop/web/manifests/v1", place.registry.url());
    let moved = Answer { status: 307, headers: Vec::new(), body: String::new() }.header("location", &elsewhere);
    proxy.inject(On::everything(), Action::Answer(moved));
    let registries = Registries::default();
    // The other host asks for a login, and would take this one.
    let looked = registries.look_up(&image(&host, "shop/web:v1"), &login(&host, ROBOT, PASSWORD)).await;
    let (fault, said) = unknown(looked);
    assert_eq!(fault, Fault::Setup);
    assert!(said.contains("asks for a login"), "{said}");

    proxy.heal();
    let moved =
        Answer { status: 307, headers: Vec::new(), body: String::new() }.header("location", "http://registry.example/");
    proxy.inject(On::everything(), Action::Answer(moved));
    let (_, said) = unknown(registries.look_up(&image(&host, "shop/web:v1"), &Keys::default()).await);
    assert!(said.contains("not https"), "{said}");
}
