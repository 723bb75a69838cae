//! The router as a caller meets it, without a socket. The board is `testdata/board.yaml`.

mod rollback;

use axum::body::Body;
use axum::http::{Request, Response};
use expect_test::expect_file;
use jiff::Timestamp;
use kube::Resource;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::board::Id;
use crate::resources::Repository;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The sample board, as it would be at a time.
fn sample(now: Timestamp) -> Arc<Board> {
    let mut yaml = String::new();
    for (index, part) in include_str!("testdata/board.yaml").split("@-").enumerate() {
        let number_of = |part: &str| part.find(['s', 'm', 'h']).filter(|end| part[..*end].parse::<i64>().is_ok());
        match number_of(part).filter(|_| index > 0) {
            Some(end) => {
                let ago: jiff::SignedDuration = part[..=end].parse().unwrap();
                yaml.push_str(&(now - ago).round(jiff::Unit::Second).unwrap().to_string());
                yaml.push_str(&part[end + 1..]);
            }
            None if index > 0 => {
                yaml.push_str("@-");
                yaml.push_str(part);
            }
            None => yaml.push_str(part),
        }
    }
    fn id(resource: &impl Resource) -> Id {
        (resource.meta().namespace.clone().unwrap(), resource.meta().name.clone().unwrap())
    }
    let board = Board::default();
    for document in serde_saphyr::from_multiple::<Value>(&yaml).unwrap() {
        if document["kind"] == "Repository" {
            let repository: Repository = serde_json::from_value(document).unwrap();
            board.repositories.put(id(&repository), Arc::new(repository));
        } else {
            let environment: Environment = serde_json::from_value(document).unwrap();
            board.environments.put(id(&environment), Arc::new(environment));
        }
    }
    Arc::new(board)
}

/// A cluster that does not answer.
fn no_cluster() -> Annotate {
    Arc::new(|_, _| Box::pin(async { Err(Problem::passing("the API server did not answer")) }))
}

/// There is no election.
fn alone() -> watch::Receiver<Standing> {
    watch::Sender::new(Standing::Alone).subscribe()
}

fn settings(listen: &str, token: Option<&str>) -> Settings {
    Settings {
        listen: listen.parse().unwrap(),
        probes: "127.0.0.1:0".parse().unwrap(),
        token: token.map(|token| Token::new(SecretString::from(token))),
        standing: alone(),
    }
}

fn routes(listen: &str, token: Option<&str>) -> Router {
    router(sample(Timestamp::now()), no_cluster(), settings(listen, token), CancellationToken::new())
}

async fn send(routes: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, String) {
    let response = answer(routes, method, path, headers, body).await;
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn answer(routes: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    routes.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

const READS: [&str; 10] = [
    "/",
    "/releases",
    "/api/v1/components",
    "/api/v1/hygiene",
    "/environments/prod",
    "/api/v1/environments",
    "/api/v1/environments/prod",
    "/api/v1/repositories",
    "/environments/nowhere",
    "/nothing",
];

#[tokio::test]
async fn every_route_needs_the_token_where_others_can_reach_it() {
    let routes = routes("0.0.0.0:8080", Some(TOKEN));
    let style = assets::STYLE.path.clone();
    for path in READS.into_iter().chain([style.as_str()]) {
        let is_there = !path.contains("no");
        let good = if is_there { StatusCode::OK } else { StatusCode::NOT_FOUND };
        assert_eq!(send(&routes, "GET", path, &[], "").await.0, StatusCode::UNAUTHORIZED, "{path}");
        let wrong = bearer("0123456789abcdef0123456789abcdeF");
        let with_wrong = send(&routes, "GET", path, &[("authorization", &wrong)], "").await.0;
        assert_eq!(with_wrong, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(send(&routes, "GET", path, &[("authorization", &bearer(TOKEN))], "").await.0, good, "{path}");
    }
    let sync = "/api/v1/environments/nowhere/sync";
    assert_eq!(send(&routes, "POST", sync, &[], "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&routes, "POST", sync, &[("authorization", "Bearer x")], "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&routes, "POST", sync, &[("authorization", &bearer(TOKEN))], "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_there_is_not_told_to_those_without_the_token() {
    let routes = routes("0.0.0.0:8080", Some(TOKEN));
    for pair in [["/environments/prod", "/environments/nowhere"], ["/api/v1/environments", "/api/v1/other"]] {
        assert_eq!(send(&routes, "GET", pair[0], &[], "").await, send(&routes, "GET", pair[1], &[], "").await);
    }
}

#[tokio::test]
async fn on_the_machine_itself_reading_is_open_and_asking_is_not() {
    let routes = routes("127.0.0.1:8080", Some(TOKEN));
    assert_eq!(send(&routes, "GET", "/", &[], "").await.0, StatusCode::OK);
    assert_eq!(send(&routes, "GET", "/", &[("authorization", "Bearer x")], "").await.0, StatusCode::UNAUTHORIZED);
    let sync = "/api/v1/environments/prod/sync";
    assert_eq!(send(&routes, "POST", sync, &[], "").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn without_a_token_nothing_can_be_asked() {
    let routes = routes("[::1]:8080", None);
    assert_eq!(send(&routes, "GET", "/api/v1/environments", &[], "").await.0, StatusCode::OK);
    let (status, text) = send(&routes, "POST", "/api/v1/environments/prod/sync", &[], "").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(text.contains("--token-file"), "{text}");
}

#[tokio::test]
async fn the_door_does_not_open_to_a_network_without_a_token() {
    for (listen, token, is_good) in [
        ("0.0.0.0:0", None, false),
        ("[::]:0", None, false),
        ("0.0.0.0:0", Some(""), false),
        ("0.0.0.0:0", Some("fifteen letters"), false),
        ("127.0.0.1:0", Some("fifteen letters"), false),
        ("0.0.0.0:0", Some("sixteen letters."), true),
        ("127.0.0.1:0", None, true),
        ("[::ffff:127.0.0.1]:0", None, true),
    ] {
        assert_eq!(settings(listen, token).check().is_ok(), is_good, "{listen} {token:?}");
    }
    let (board, metrics, stop) = (Arc::default(), Arc::default(), CancellationToken::new());
    let result = serve(board, metrics, no_cluster(), settings("0.0.0.0:0", None), stop).await;
    assert!(result.unwrap_err().hint.unwrap().contains("--token-file"));
}

#[tokio::test]
async fn a_request_for_a_sync_says_nothing_more() {
    let routes = routes("127.0.0.1:8080", Some(TOKEN));
    let token = bearer(TOKEN);
    // The environment is not there, which is found out after the body was judged.
    let sync = "/api/v1/environments/nowhere/sync";
    let json = ("content-type", "application/json");
    for (status, query, headers, body) in [
        (404, "", vec![], String::new()),
        (404, "", vec![json], "{}".to_owned()),
        (404, "", vec![("content-type", "application/json; charset=utf-8")], " {} ".to_owned()),
        (404, "?wait=1s", vec![json], String::new()),
        (400, "?wait=soon", vec![], String::new()),
        (400, "?to=x", vec![], String::new()),
        (400, "", vec![json], "{\"revision\": \"x\"}".to_owned()),
        (400, "", vec![json], "[".repeat(60_000)),
        (415, "", vec![("content-type", "text/plain")], "{}".to_owned()),
        (415, "", vec![("content-type", "text/plain")], String::new()),
        (415, "", vec![], "{}".to_owned()),
        (413, "", vec![json], format!("{{}}{}", " ".repeat(MAX_BODY_BYTES - 1))),
        (404, "", vec![json], format!("{{}}{}", " ".repeat(MAX_BODY_BYTES - 2))),
        (403, "", vec![("origin", "http://evil.example")], String::new()),
        (403, "", vec![("sec-fetch-site", "cross-site")], String::new()),
        (404, "", vec![("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")], String::new()),
    ] {
        let mut headers = headers;
        headers.push(("authorization", &token));
        let (got, text) = send(&routes, "POST", &format!("{sync}{query}"), &headers, &body).await;
        assert_eq!(got.as_u16(), status, "{query} {headers:?}: {text}");
    }
}

#[tokio::test]
async fn a_pending_request_is_joined() {
    let routes = routes("127.0.0.1:8080", Some(TOKEN));
    let headers = [("authorization", &*bearer(TOKEN))];
    let (status, text) = send(&routes, "POST", "/api/v1/environments/staging/sync", &headers, "").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let answer: Value = serde_json::from_str(&text).unwrap();
    let id = "2026-08-03T11:59:00.000Z-abcdef";
    assert_eq!(answer, serde_json::json!({"id": id, "environment": "staging", "status": "Pending"}));
}

#[tokio::test]
async fn who_waits_is_told_how_it_ended() {
    let board = sample(Timestamp::now());
    let settings = settings("127.0.0.1:8080", Some(TOKEN));
    let routes = router(board.clone(), no_cluster(), settings, CancellationToken::new());
    let headers = [("authorization", &*bearer(TOKEN))];
    let path = "/api/v1/environments/staging/sync";
    assert_eq!(send(&routes, "POST", &format!("{path}?wait=10ms"), &headers, "").await.0, StatusCode::ACCEPTED);

    let id: Id = ("shop".into(), "staging".into());
    let mut done = (*board.environments.get(&id).unwrap()).clone();
    done.status.as_mut().unwrap().last_handled_request = Some("2026-08-03T11:59:00.000Z-abcdef".into());
    let waiting = send(&routes, "POST", "/api/v1/environments/staging/sync?wait=30s", &headers, "");
    let acting = async {
        tokio::task::yield_now().await;
        board.environments.put(id, Arc::new(done));
    };
    let ((status, text), ()) = tokio::join!(waiting, acting);
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["status"], "Done");
    assert_eq!(answer["health"], "Degraded");
    assert_eq!(answer["revision"], "master@sha1:9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d00112233");
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_said() {
    let routes = routes("127.0.0.1:8080", Some(TOKEN));
    let headers = [("authorization", &*bearer(TOKEN))];
    let (status, text) = send(&routes, "POST", "/api/v1/environments/prod/sync", &headers, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    assert!(serde_json::from_str::<Value>(&text).unwrap()["error"].is_string());
}

#[tokio::test]
async fn odd_paths_lead_nowhere() {
    let routes = routes("127.0.0.1:8080", None);
    for path in [
        "/environments/%70rod",
        "/environments/prod/",
        "//environments/prod",
        "/environments/../environments/prod",
        "/environments/prod%00",
        "/assets/..%2fpage.css",
        "/assets/page.css",
        "/Environments/prod",
        "/api/v1/environments;x",
        "/api/v2/environments",
        "/healthz",
        "/metrics",
    ] {
        assert_eq!(send(&routes, "GET", path, &[], "").await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for (method, path) in [("DELETE", "/"), ("PUT", "/api/v1/environments/prod"), ("TRACE", "/")] {
        assert_ne!(send(&routes, method, path, &[], "").await.0, StatusCode::OK, "{method} {path}");
    }
    let sync = "/api/v1/environments/prod/sync";
    assert_eq!(send(&routes, "GET", sync, &[], "").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn every_answer_tells_the_browser_what_it_may_do() {
    let routes = routes("0.0.0.0:8080", Some(TOKEN));
    let token = bearer(TOKEN);
    for (path, headers) in [("/", vec![]), ("/", vec![("authorization", token.as_str())]), ("//", vec![])] {
        let response = answer(&routes, "GET", path, &headers, "").await;
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert!(header("content-security-policy").unwrap().starts_with("default-src 'none'; script-src 'self';"));
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(header("referrer-policy").as_deref(), Some("same-origin"));
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(header("www-authenticate").is_some(), response.status() == StatusCode::UNAUTHORIZED);
    }
    let response = answer(&routes, "GET", &assets::SCRIPT.path, &[("authorization", &token)], "").await;
    assert!(response.headers()["cache-control"].to_str().unwrap().contains("immutable"));
}

#[tokio::test]
async fn text_from_commits_is_not_markup() {
    let routes = routes("127.0.0.1:8080", None);
    for path in ["/", "/environments/test-payments"] {
        let (_, text) = send(&routes, "GET", path, &[], "").await;
        assert!(text.contains("&lt;script&gt;alert("), "{path}");
        assert!(!text.contains("<script>"), "{path}");
        // The policy forbids both, so they would do nothing but break the page.
        assert!(!text.contains(" style=") && !text.contains(" onclick="), "{path}");
    }
}

#[tokio::test]
async fn the_api_shows_no_values_and_no_passwords() {
    let board = sample(Timestamp::now());
    let id: Id = ("shop".into(), "prod".into());
    let mut environment = (*board.environments.get(&id).unwrap()).clone();
    environment.spec.values.insert("password".into(), "geheim".into());
    board.environments.put(id, Arc::new(environment));
    let mut repository = (*board.repositories()[0]).clone();
    repository.spec.url = "https://bob:geheim@git.example.com/x.git".into();
    board.repositories.put(("shop".into(), "shop".into()), Arc::new(repository));
    let routes = router(board, no_cluster(), settings("127.0.0.1:8080", None), CancellationToken::new());
    for path in READS {
        let (_, text) = send(&routes, "GET", path, &[], "").await;
        assert!(!text.contains("geheim"), "{path}");
    }
}

#[tokio::test]
async fn the_api_lists_environments_in_the_order_of_promotion() {
    let routes = routes("127.0.0.1:8080", None);
    let (_, text) = send(&routes, "GET", "/api/v1/environments", &[], "").await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> =
        answer["environments"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dev", "test", "test-payments", "staging", "prod", "load-test", "preview-812"]);
    let (_, text) = send(&routes, "GET", "/api/v1/environments/staging", &[], "").await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["spec"]["sync"], "Automatic");
    assert_eq!(answer["request"]["handled"], false);
    assert!(answer["status"]["runningSince"].is_string());
}

/// The words of a page, a line for each piece of text.
fn words_of(html: &str) -> String {
    let body = html.split_once("<main>").unwrap().1.split_once("</main>").unwrap().0;
    let mut lines = String::new();
    for piece in body.split('<') {
        let text = piece.split_once('>').map_or(piece, |(_, text)| text).trim();
        if !text.is_empty() {
            lines.push_str(text);
            lines.push('\n');
        }
    }
    lines
}

#[test]
fn the_pages_say_in_words_how_everything_is() {
    let now: Timestamp = "2026-08-03T12:00:00Z".parse().unwrap();
    let board = sample(now);
    let (environments, repositories) = (board.environments(), board.repositories());
    let overview = words_of(&page::overview(&environments, &repositories, &[], true, now));
    for word in ["Synced", "OutOfSync", "Blocked", "Suspended", "Healthy", "Progressing", "Degraded", "New"] {
        assert!(overview.contains(word), "{word}");
    }
    expect_file!["testdata/overview.txt"].assert_eq(&overview);
    let staging = environments.iter().find(|environment| environment.name_any() == "staging").unwrap();
    let known = page::Known { repositories: &repositories, records: None, brings: None, may_ask: false };
    expect_file!["testdata/staging.txt"].assert_eq(&words_of(&page::environment(staging, &known, now)));
}

#[test]
fn an_empty_board_is_a_page_too() {
    let now: Timestamp = "2026-08-03T12:00:00Z".parse().unwrap();
    assert!(words_of(&page::overview(&[], &[], &[], true, now)).contains("No environments yet"));
    assert!(words_of(&page::overview(&[], &[], &[], false, now)).contains("just started"));
}

#[tokio::test]
async fn the_agent_is_ready_when_it_knows_its_resources() {
    let board = sample(Timestamp::now());
    let routes = probes::router(board.clone(), Arc::default(), alone());
    assert_eq!(send(&routes, "GET", "/healthz", &[], "").await.0, StatusCode::OK);
    assert_eq!(send(&routes, "GET", "/readyz", &[], "").await.0, StatusCode::SERVICE_UNAVAILABLE);
    board.environments.listed(&[]);
    board.repositories.listed(&[]);
    assert_eq!(send(&routes, "GET", "/readyz", &[], "").await.0, StatusCode::OK);
    assert_eq!(send(&routes, "GET", "/", &[], "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_replica_that_stands_by_is_ready_and_shows_who_leads() {
    let standing = watch::Sender::new(Standing::StandingBy { leader: None });
    let board = Arc::new(Board::default());
    let probes = probes::router(board.clone(), Arc::default(), standing.subscribe());
    assert_eq!(send(&probes, "GET", "/healthz", &[], "").await.0, StatusCode::OK);
    assert_eq!(send(&probes, "GET", "/readyz", &[], "").await.0, StatusCode::SERVICE_UNAVAILABLE);
    standing.send_replace(Standing::StandingBy { leader: Some("towpath-x2k_1".into()) });
    assert_eq!(send(&probes, "GET", "/readyz", &[], "").await.0, StatusCode::OK);
    assert!(send(&probes, "GET", "/metrics", &[], "").await.1.contains("towpath_leader 0\n"));

    let settings = Settings { standing: standing.subscribe(), ..settings("0.0.0.0:8080", Some(TOKEN)) };
    let page = router(board, no_cluster(), settings, CancellationToken::new());
    let bearer = bearer(TOKEN);
    for path in ["/", "/environments/prod", "/api/v1/environments"] {
        let (status, text) = send(&page, "GET", path, &[("authorization", &*bearer)], "").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(text.contains("towpath-x2k_1 leads"), "{text}");
        assert_eq!(send(&page, "GET", path, &[], "").await.0, StatusCode::UNAUTHORIZED, "strangers learn nothing");
    }
    standing.send_replace(Standing::Leading);
    assert_eq!(send(&page, "GET", "/", &[("authorization", &*bearer)], "").await.0, StatusCode::OK);
    assert_eq!(send(&probes, "GET", "/readyz", &[], "").await.0, StatusCode::SERVICE_UNAVAILABLE, "not listed yet");
}

#[tokio::test]
async fn metrics_are_what_was_counted_and_what_the_board_shows() {
    use towpath_core::status::Outcome;
    let metrics = Arc::new(Metrics::default());
    metrics.sync("dev", Outcome::Applied, Duration::from_millis(60));
    metrics.sync("dev", Outcome::Failed, Duration::from_millis(600));
    metrics.sync("gone", Outcome::Applied, Duration::from_millis(1));
    metrics.forget("gone");
    metrics.drift("staging");
    metrics.alarm("shop");
    let routes = probes::router(sample(Timestamp::now()), metrics, alone());
    let (status, text) = send(&routes, "GET", "/metrics", &[], "").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        r#"towpath_sync_total{environment="dev",outcome="Applied"} 1"#,
        r#"towpath_sync_total{environment="dev",outcome="Failed"} 1"#,
        r#"towpath_sync_duration_seconds_count{environment="dev"} 2"#,
        r#"towpath_drift_total{environment="staging"} 1"#,
        r#"towpath_branch_alarms_total{repository="shop"} 1"#,
        r#"towpath_environment_info{environment="prod",lane="master",state="OutOfSync",health="Healthy",revision="master@sha1:5a5a5a5d3b7d4bad9bdd2b0d7b3dcb6d00112233"} 1"#,
        r#"towpath_environment_ready{environment="test"} 1"#,
        r#"towpath_environment_ready{environment="prod"} 0"#,
        r#"towpath_environment_objects{environment="staging"} 184"#,
        r#"towpath_environment_problems{environment="test-payments"} 2"#,
        r#"towpath_repository_ready{repository="shop"} 1"#,
        "towpath_leader 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\nis not in\n{text}");
    }
    assert!(!text.contains("gone"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

/// Serves the sample board at 127.0.0.1:8099, to look at the page while it is worked on:
/// `cargo test -p towpath --lib serve_the_sample -- --ignored`
#[tokio::test]
#[ignore = "it serves until it is ended"]
async fn serve_the_sample() {
    let board = sample(Timestamp::now());
    board.environments.listed(
        &board.environments().iter().map(|known| (known.namespace().unwrap(), known.name_any())).collect::<Vec<_>>(),
    );
    board.repositories.listed(&[("shop".into(), "shop".into())]);
    let settings = Settings { probes: "127.0.0.1:8098".parse().unwrap(), ..settings("127.0.0.1:8099", None) };
    serve(board, Arc::default(), no_cluster(), settings, CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn a_token_is_replaced_while_the_door_is_open() {
    let settings = settings("0.0.0.0:8080", Some(TOKEN));
    let token = settings.token.clone().unwrap();
    let routes = router(sample(Timestamp::now()), no_cluster(), settings, CancellationToken::new());
    let ask = async |token: &str| {
        send(&routes, "GET", "/api/v1/environments", &[("authorization", &*bearer(token))], "").await.0
    };
    assert_eq!(ask(TOKEN).await, StatusCode::OK);
    assert!(token.replace("short".into()).is_err());
    assert_eq!(ask(TOKEN).await, StatusCode::OK);
    token.replace("another-token-of-this-agent".into()).unwrap();
    assert_eq!(ask(TOKEN).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("another-token-of-this-agent").await, StatusCode::OK);
}
