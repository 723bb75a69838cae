//! The gate before a small server on loopback that answers as it is told.

use std::net::SocketAddr;

use axum::Router;
use axum::body::to_bytes;
use axum::response::IntoResponse;
use http::StatusCode;
use serde_json::json;
use towpath_core::lease::Terms;

use super::*;
use crate::cluster::call::{self, CALL_DEADLINE, Failure};
use crate::cluster::{Account, Cluster, Fence, uptime};

/// The headers of a request, and when it came.
type Seen = (http::HeaderMap, Instant);
/// A status code, and the pause that is asked for.
type Answered = (u16, Option<&'static str>);

/// What the server saw, and what it answers next; 200 after that.
#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<Vec<Answered>>>,
}

impl Server {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        let routes = Router::new().fallback(async move |request: axum::extract::Request| {
            let (head, body) = request.into_parts();
            to_bytes(body, 1 << 20).await.unwrap();
            server.seen.lock().unwrap().push((head.headers, Instant::now()));
            let mut answers = server.answers.lock().unwrap();
            let (code, pause) = if answers.is_empty() { (200, None) } else { answers.remove(0) };
            let body = match code {
                200 => json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}}),
                _ => json!({"kind": "Status", "apiVersion": "v1", "code": code, "message": "no", "details": {}}),
            };
            let mut response = (StatusCode::from_u16(code).unwrap(), body.to_string()).into_response();
            if let Some(pause) = pause {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(pause));
            }
            response
        });
        tokio::spawn(async move { serve(listener, routes).await });
        address
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn will_answer(&self, code: u16, pause: Option<&'static str>, times: usize) {
        self.answers.lock().unwrap().extend(std::iter::repeat_n((code, pause), times));
    }
}

async fn serve(listener: tokio::net::TcpListener, routes: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        let routes = hyper_util::service::TowerToHyperService::new(routes.clone());
        let stream = hyper_util::rt::TokioIo::new(stream);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, routes));
    }
}

fn config(address: SocketAddr) -> Config {
    Config::new(format!("http://{address}").parse().unwrap())
}

fn cluster(address: SocketAddr, fence: Fence) -> Cluster {
    Cluster::connect(config(address), Manner { fence, time_scale: 10, ..Manner::default() }).unwrap()
}

fn request(method: Method, uri: &str) -> Request<Vec<u8>> {
    Request::builder().method(method).uri(uri).body(b"{}".to_vec()).unwrap()
}

const OBJECT: &str = "/api/v1/namespaces/shop/configmaps/a";

#[tokio::test]
async fn whoever_does_not_lead_sends_no_write_in_any_name_and_still_looks() {
    let server = Server::default();
    let fence = Fence::of_term(Terms::default(), uptime());
    let cluster = cluster(server.start().await, fence.clone());
    let account = cluster.act_as(&Account::new("shop", "towpath-deployer").unwrap());
    let send = async |client: &Client, request: Request<Vec<u8>>| {
        call::repeatable(client, &cluster.permits, CALL_DEADLINE, &request).await
    };
    assert!(send(&cluster.client, request(Method::PATCH, OBJECT)).await.is_ok());
    assert!(send(&account.client, request(Method::PATCH, OBJECT)).await.is_ok());
    assert_eq!(server.count(), 2);

    fence.close();
    for client in [&cluster.client, &account.client] {
        for method in [Method::PATCH, Method::PUT, Method::POST, Method::DELETE] {
            let Err(Failure::NotSent(why)) = send(client, request(method, OBJECT)).await else { panic!("it is sent") };
            assert!(why.contains("does not lead"), "{why}");
        }
    }
    let problem = cluster.annotate::<crate::resources::Environment>("shop", "prod", json!({})).await.unwrap_err();
    assert!(problem.message.contains("does not lead"), "{problem}");
    assert_eq!(server.count(), 2, "nothing reached the server");

    for harmless in [
        request(Method::GET, OBJECT),
        request(Method::PATCH, &format!("{OBJECT}?fieldManager=towpath&dryRun=All")),
        request(Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
    ] {
        let uri = harmless.uri().clone();
        assert!(send(&account.client, harmless).await.is_ok(), "{uri}");
    }
    assert!(send(&account.client, request(Method::PATCH, &format!("{OBJECT}?x=dryRun=All"))).await.is_err());
}

#[tokio::test]
async fn a_pause_that_fits_is_kept_and_one_that_does_not_ends_the_call() {
    let server = Server::default();
    let cluster = cluster(server.start().await, Fence::none());
    let send = async || {
        call::repeatable(&cluster.client, &cluster.permits, CALL_DEADLINE, &request(Method::PATCH, OBJECT)).await
    };
    server.will_answer(429, Some("1"), 1);
    assert!(send().await.is_ok());
    let seen: Vec<Instant> = server.seen.lock().unwrap().iter().map(|(.., at)| *at).collect();
    let pause = seen[1] - seen[0];
    assert!(pause >= Duration::from_millis(990), "{pause:?}");

    // A tenth of a minute is the longest, by the time scale of tests; it would fit. A 503 is asked for by itself.
    server.will_answer(503, Some("86400"), 1);
    let begun = Instant::now();
    assert!(matches!(send().await, Err(Failure::Refused(status)) if status.code == 503));
    assert!(begun.elapsed() < Duration::from_secs(5), "who must wait for so long is told at once");
}

#[tokio::test]
async fn many_requests_at_once_do_not_hammer_a_server_that_throttles() {
    let server = Server::default();
    let cluster = cluster(server.start().await, Fence::none());
    server.will_answer(429, Some("1"), 1000);
    let requests = (0..16).map(|_| async {
        let request = request(Method::PATCH, OBJECT);
        call::repeatable(&cluster.client, &cluster.permits, Duration::from_secs(4), &request).await
    });
    let results = futures::future::join_all(requests).await;
    assert!(results.iter().all(Result::is_err));
    assert!(server.count() <= 16 + 5, "{} requests", server.count());
    assert_eq!(cluster.permits.gate.brake.trouble(), Some("the API server throttles this agent"));
    // The typed calls pass the same brake, and say why they took so long.
    let failure = results.into_iter().find_map(Result::err).unwrap();
    let said = call::problem(&failure, "the agent", false).to_string();
    assert!(said.contains("throttles this agent"), "{said}");

    server.answers.lock().unwrap().clear();
    // The pause that it asked for last is kept.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let recoveries = cluster.recoveries();
    for _ in 0..10 {
        let request = request(Method::PATCH, OBJECT);
        call::repeatable(&cluster.client, &cluster.permits, CALL_DEADLINE, &request).await.unwrap();
    }
    assert!(recoveries.has_changed().unwrap());
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_ever_more_rarely() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (client, gate) = open(config(address), Manner { time_scale: 1, ..Manner::default() }).unwrap();
    let end = Instant::now() + Duration::from_secs(4);
    let tries = (0..50).map(|_| async {
        let mut count = 0;
        while Instant::now() < end {
            let request = Request::get(OBJECT).body(Body::empty()).unwrap();
            count +=
                usize::from(tokio::time::timeout_at(end, client.send(request)).await.is_ok_and(|sent| sent.is_err()));
        }
        count
    });
    let count: usize = futures::future::join_all(tries).await.into_iter().sum();
    // All fifty are under way before the first of them has failed; after that it is one after one, and two seconds.
    assert!(count <= 50 + 3, "{count}");
    assert_eq!(gate.brake.trouble(), Some("the API server does not answer"));
}

#[tokio::test]
async fn the_token_is_read_from_its_file_again_when_it_is_refused_and_never_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "one\n").unwrap();
    let server = Server::default();
    let mut config = config(server.start().await);
    config.auth_info.token_file = Some(path.display().to_string());
    let manner = Manner { user_agent: Some("towpath/0 (pod_1)".into()), ..Manner::default() };
    let cluster = Cluster::connect(config, manner).unwrap();
    let send = async || {
        let request = request(Method::GET, OBJECT);
        call::repeatable(&cluster.client, &cluster.permits, CALL_DEADLINE, &request).await
    };
    let last = |header: HeaderName| server.seen.lock().unwrap().last().unwrap().0[header].to_str().unwrap().to_owned();
    assert!(send().await.is_ok());
    assert_eq!((last(AUTHORIZATION), last(USER_AGENT)), ("Bearer one".into(), "towpath/0 (pod_1)".into()));

    std::fs::write(&path, "two").unwrap();
    server.will_answer(401, None, 3);
    assert!(send().await.is_ok(), "the token was replaced a moment ago");
    assert_eq!(last(AUTHORIZATION), "Bearer two");

    std::fs::write(&path, "").unwrap();
    server.will_answer(401, None, 4);
    let Err(failure) = send().await else { panic!("it is refused") };
    let problem = call::problem(&failure, "the agent", false);
    assert_eq!(problem.fault, towpath_core::fault::Fault::Passing, "it is borne for a while: {problem}");
    assert_eq!(last(AUTHORIZATION), "Bearer two", "an empty file is no token");
    std::fs::remove_file(&path).unwrap();
    assert!(send().await.is_ok());
}

#[tokio::test]
async fn without_a_token_nothing_is_asked_until_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "").unwrap();
    let server = Server::default();
    let mut config = config(server.start().await);
    config.auth_info.token_file = Some(path.display().to_string());
    let (client, _) = open(config, Manner::default()).unwrap();
    let send = async || client.send(Request::get(OBJECT).body(Body::empty()).unwrap()).await;
    assert!(send().await.is_err());
    assert_eq!(server.count(), 0);
    std::fs::write(&path, "one").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(send().await.is_ok());
}
