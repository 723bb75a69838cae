//! Rollbacks through the door. The agent is played by what is handed in to write annotations.

use std::sync::Mutex;

use base64::Engine;
use serde_json::json;
use towpath_core::names::annotation;
use towpath_core::status::{RollbackPhase, RollbackStatus};

use super::*;
use crate::resources::RollbackAsk;

const FORM: &str = "application/x-www-form-urlencoded";
const ORIGIN: (&str, &str) = ("origin", "http://localhost:8080");
const API: &str = "/api/v1/environments/staging/rollback";
const PAGE: &str = "/environments/staging/rollback";

/// An agent that prepares what it is asked for and begins what is confirmed with `good`. It keeps every request.
fn agent(board: &Arc<Board>, asked: &Arc<Mutex<Vec<RollbackAsk>>>) -> Annotate {
    let (board, asked) = (board.clone(), asked.clone());
    Arc::new(move |id, annotations| {
        let (board, asked) = (board.clone(), asked.clone());
        Box::pin(async move {
            let text = annotations[annotation::ROLLBACK].as_str().unwrap().to_owned();
            assert_eq!(annotations, json!({annotation::ROLLBACK: &text, annotation::ROLLBACK_BY: "api"}));
            let ask: RollbackAsk = serde_json::from_str(&text).unwrap();
            asked.lock().unwrap().push(ask.clone());
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                let mut environment = (*board.environments.get(&id).unwrap()).clone();
                environment.metadata.annotations.get_or_insert_default().insert(annotation::ROLLBACK.into(), text);
                let status = environment.status.as_mut().unwrap();
                let phase = match ask.confirm.as_deref() {
                    _ if ask.wish.to.as_deref() == Some("nowhere") => RollbackPhase::Refused,
                    Some("good") => RollbackPhase::Pushing,
                    _ => RollbackPhase::Prepared,
                };
                let answer = RollbackStatus {
                    phase,
                    at: Some(ask.at),
                    id: ask.id,
                    digest: Some("good".into()),
                    lines: vec!["back to <b>5</b>".into()],
                    wish: Some(ask.wish),
                    ..RollbackStatus::default()
                };
                if phase == RollbackPhase::Pushing {
                    status.rollback = Some(answer)
                } else {
                    status.prepared = Some(answer)
                }
                board.environments.put(id, Arc::new(environment));
            });
            Ok(())
        })
    })
}

type Requests = Arc<Mutex<Vec<RollbackAsk>>>;

fn answering() -> (Router, Arc<Board>, Requests) {
    let (board, asked) = (sample(Timestamp::now()), Requests::default());
    let settings = settings("127.0.0.1:8080", Some(TOKEN));
    (router(board.clone(), agent(&board, &asked), settings, CancellationToken::new()), board, asked)
}

fn basic() -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{TOKEN}")))
}

async fn ask(routes: &Router, path: &str, body: &str) -> (u16, Value) {
    let headers = [("authorization", &*bearer(TOKEN)), ("content-type", "application/json")];
    let (status, text) = send(routes, "POST", path, &headers, body).await;
    (status.as_u16(), serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn a_form_is_taken_only_from_a_page_of_ours_and_with_the_token() {
    let (routes, _, asked) = answering();
    let (basic, bearer) = (basic(), bearer(TOKEN));
    let form = ("content-type", FORM);
    let of_basic = ("authorization", &*basic);
    for (status, path, headers) in [
        (401, PAGE, vec![form, ORIGIN]),
        (401, PAGE, vec![form, ORIGIN, ("authorization", "Basic bWU6eA==")]),
        (403, PAGE, vec![form, of_basic]),
        (403, PAGE, vec![form, of_basic, ("origin", "http://evil.example")]),
        (403, PAGE, vec![form, of_basic, ("origin", "null")]),
        (403, PAGE, vec![form, of_basic, ORIGIN, ("sec-fetch-site", "same-site")]),
        (403, PAGE, vec![form, of_basic, ORIGIN, ("origin", "http://evil.example")]),
        (415, PAGE, vec![("content-type", "text/plain"), of_basic, ORIGIN]),
        (404, "/environments/nowhere/rollback", vec![form, of_basic, ORIGIN]),
        (401, API, vec![of_basic, ORIGIN]),
        (403, API, vec![("authorization", &*bearer), ("origin", "http://evil.example")]),
        (401, API, vec![]),
    ] {
        let (got, text) = send(&routes, "POST", path, &headers, "").await;
        assert_eq!(got.as_u16(), status, "{path} {headers:?}: {text}");
    }
    assert!(asked.lock().unwrap().is_empty());
    let same = [form, of_basic, ORIGIN, ("sec-fetch-site", "same-origin")];
    assert_eq!(send(&routes, "POST", PAGE, &same, "").await.0, StatusCode::SEE_OTHER);
    assert_eq!(asked.lock().unwrap().len(), 1);

    let closed = super::routes("127.0.0.1:8080", None);
    assert_eq!(send(&closed, "POST", PAGE, &same, "").await.0, StatusCode::FORBIDDEN);
    let (_, text) = send(&closed, "GET", PAGE, &[], "").await;
    assert!(text.contains("towpath rollback staging") && !text.contains("<form"), "{text}");
}

#[tokio::test]
async fn a_request_says_what_is_known_and_nothing_else() {
    let (routes, _, asked) = answering();
    let reland = "/api/v1/environments/staging/reland";
    for (status, path, body) in [
        (400, API, r#"{"override": true}"#),
        (400, API, r#"{"reland": "abc"}"#),
        (400, API, r#"{"to": "1", "ticket": "abc"}"#),
        (400, API, r#"{"ticket": "abc", "restore": true}"#),
        (400, API, "[]"),
        (400, reland, ""),
        (400, reland, r#"{"commit": ""}"#),
        (400, reland, r#"{"commit": "abc", "emergency": true}"#),
        (400, "/api/v1/environments/staging/rollback?wait=soon", ""),
        (404, "/api/v1/environments/nowhere/rollback", ""),
    ] {
        let (got, answer) = ask(&routes, path, body).await;
        assert_eq!(got, status, "{path} {body}: {answer}");
    }
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(ask(&routes, reland, r#"{"commit": "abc", "reason": "fixed"}"#).await.0, 200);
    assert_eq!(ask(&routes, API, r#"{"to": "staging@3", "backOutLane": true}"#).await.0, 200);
    let asked = asked.lock().unwrap();
    assert_eq!((asked[0].wish.reland.as_deref(), asked[0].reason.as_deref()), (Some("abc"), Some("fixed")));
    assert!(asked[1].wish.back_out_lane && asked[1].wish.to.as_deref() == Some("staging@3"));
}

#[tokio::test]
async fn nothing_is_done_without_the_digest_of_what_was_shown() {
    let (routes, _, _) = answering();
    let (status, answer) = ask(&routes, API, "").await;
    assert_eq!((status, &answer["phase"], &answer["digest"]), (200, &json!("Prepared"), &json!("good")));
    assert_eq!((&answer["environment"], &answer["lines"][0]), (&json!("staging"), &json!("back to <b>5</b>")));
    let (status, answer) = ask(&routes, API, r#"{"confirm": "old"}"#).await;
    assert_eq!((status, &answer["phase"], &answer["digest"]), (409, &json!("Prepared"), &json!("good")));
    assert!(answer["error"].as_str().unwrap().contains("nothing was done"), "{answer}");
    let (status, answer) = ask(&routes, API, r#"{"to": "nowhere"}"#).await;
    assert_eq!((status, &answer["error"]), (409, &json!("back to <b>5</b>")));
    let (status, answer) = ask(&routes, API, r#"{"confirm": "good"}"#).await;
    assert_eq!((status, &answer["phase"]), (202, &json!("Pushing")));
}

#[tokio::test]
async fn the_same_confirmation_at_one_time_is_one_request() {
    let (routes, _, asked) = answering();
    let confirm = || ask(&routes, API, r#"{"confirm": "good"}"#);
    let (first, second, third) = tokio::join!(confirm(), confirm(), confirm());
    assert_eq!((first.0, second.0, third.0), (202, 202, 202));
    assert!(first.1["id"] == second.1["id"] && second.1["id"] == third.1["id"], "{first:?} {second:?}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn who_waits_is_told_when_the_environment_is_there() {
    let (routes, board, _) = answering();
    let waiting = ask(&routes, "/api/v1/environments/staging/rollback?wait=30s", r#"{"confirm": "good"}"#);
    let ending = async {
        let id: Id = ("shop".into(), "staging".into());
        loop {
            tokio::task::yield_now().await;
            let mut environment = (*board.environments.get(&id).unwrap()).clone();
            let Some(rollback) = environment.status.as_mut().unwrap().rollback.as_mut() else { continue };
            rollback.phase = RollbackPhase::Done;
            board.environments.put(id, Arc::new(environment));
            break;
        }
    };
    let ((status, answer), ()) = tokio::join!(waiting, ending);
    assert_eq!((status, &answer["phase"]), (200, &json!("Done")));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_said() {
    let silent: Annotate = Arc::new(|_, _| Box::pin(async { Ok(()) }));
    let settings = settings("127.0.0.1:8080", Some(TOKEN));
    let routes = router(sample(Timestamp::now()), silent, settings, CancellationToken::new());
    let (status, answer) = ask(&routes, API, "").await;
    assert_eq!(status, 503, "{answer}");
    let headers = [("authorization", &*basic()), ("content-type", FORM), ORIGIN];
    let (status, text) = send(&routes, "POST", PAGE, &headers, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(words_of(&text).contains("has not answered in time"), "{text}");
}

#[tokio::test]
async fn the_forms_lead_from_a_preview_to_what_was_confirmed() {
    let (routes, _, asked) = answering();
    let headers = [("authorization", &*basic()), ("content-type", FORM), ORIGIN];
    let to = async |body: &str| {
        let response = answer(&routes, "POST", PAGE, &headers, body).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        response.headers()["location"].to_str().unwrap().to_owned()
    };
    let preview = to("to=staging%403&reason=").await;
    assert!(preview.starts_with("/environments/staging/rollback?id=20"), "{preview}");
    let (_, text) = send(&routes, "GET", &preview, &[], "").await;
    for part in ["back to &lt;b&gt;5&lt;/b&gt;", r#"name="confirm" value="good""#, r#"name="to" value="staging@3""#] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("not the preview that you asked for"), "{text}");
    let (_, text) = send(&routes, "GET", &format!("{PAGE}?id=another"), &[], "").await;
    assert!(text.contains("not the preview that you asked for"), "{text}");

    let changed = to("to=staging%403&confirm=old").await;
    let (_, text) = send(&routes, "GET", &changed, &[], "").await;
    assert!(text.contains("The world has changed: nothing was done."), "{text}");
    let refused = to("to=nowhere").await;
    let (_, text) = send(&routes, "GET", &refused, &[], "").await;
    assert!(text.contains("This cannot be done") && !text.contains(r#"name="confirm""#), "{text}");
    assert_eq!(to("to=staging%403&confirm=good&reason=too+slow").await, "/environments/staging");
    assert_eq!(asked.lock().unwrap().last().unwrap().reason.as_deref(), Some("too slow"));
    let (_, text) = send(&routes, "GET", "/environments/staging", &[], "").await;
    assert!(words_of(&text).contains("The reverts are being pushed to"), "{text}");
}

/// The sample with `staging` as somebody would have to look at it.
fn with(status: Value) -> (Arc<Board>, Router) {
    let board = sample(Timestamp::now());
    let id: Id = ("shop".into(), "staging".into());
    let mut environment = serde_json::to_value(&*board.environments.get(&id).unwrap()).unwrap();
    for (key, value) in status.as_object().unwrap() {
        environment["status"][key] = value.clone();
    }
    board.environments.put(id, Arc::new(serde_json::from_value(environment).unwrap()));
    let settings = settings("127.0.0.1:8080", Some(TOKEN));
    (board.clone(), router(board, no_cluster(), settings, CancellationToken::new()))
}

#[tokio::test]
async fn what_is_held_and_what_a_rollback_waits_for_is_said_on_every_page() {
    let (_, routes) = with(json!({
        "state": "Held", "held": "master has no revision without 1234567",
        "rollback": {
            "id": "r-1", "phase": "WaitsForMerge", "from": "master@sha1:01", "branch": "towpath/revert-staging-77",
            "lines": ["master may not be pushed to: protected"],
        },
        "rolledBack": [{"commit": "1234567000000000000000000000000000000000"}],
    }));
    for path in ["/", "/environments/staging"] {
        let said = words_of(&send(&routes, "GET", path, &[], "").await.1);
        for part in ["Held", "is held on what it runs", "master has no revision without 1234567"] {
            assert!(said.contains(part), "{path}: {part}\n{said}");
        }
        let merge = if path == "/" { "merge towpath/revert-staging-77 into master" } else { "Waits for a merge" };
        assert!(said.contains(merge), "{path}\n{said}");
    }
    let (_, text) = send(&routes, "GET", "/environments/staging", &[], "").await;
    assert!(text.contains(r#"name="reland" value="1234567000000000000000000000000000000000""#), "{text}");
    assert!(text.contains("master may not be pushed to: protected"), "{text}");
}

#[tokio::test]
async fn reverts_that_cannot_be_pushed_are_not_said_to_be_on_their_way() {
    let rollback = json!({
        "id": "r-1", "phase": "Pushing", "from": "master@sha1:01", "commit": "02", "goesTo": "master@sha1:02",
        "lines": ["its reverts cannot be pushed: the key is refused"],
    });
    let (_, routes) = with(json!({"state": "Held", "held": "held", "rollback": rollback}));
    let said = words_of(&send(&routes, "GET", "/environments/staging", &[], "").await.1);
    for part in ["Cannot be pushed", "before somebody has seen to it", "Until then it stays on what it runs"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert!(!said.contains("On its way to"), "{said}");
}

#[tokio::test]
async fn why_a_rollback_was_not_done_is_said_before_where_it_goes_all_the_same() {
    let (_, routes) = with(json!({
        "state": "Held", "held": "1234567 was rolled back",
        "rollback": {
            "id": "r-1", "phase": "Refused", "from": "master@sha1:02", "goesTo": "master@sha1:01",
            "lines": ["it went back in the cluster, but its revert is not on the branch:"],
        },
    }));
    let said = words_of(&send(&routes, "GET", "/environments/staging", &[], "").await.1);
    let (why, goes) = (said.find("its revert is not on the branch").unwrap(), said.find("On its way to").unwrap());
    assert!(why < goes, "{said}");
}

#[tokio::test]
async fn a_rollback_that_the_agent_prepared_waits_for_a_person() {
    let prepared = json!({"id": "auto-12", "phase": "Prepared", "digest": "d-1", "lines": ["back to 5"], "wish": {}});
    let (_, routes) = with(json!({"prepared": prepared}));
    let said = words_of(&send(&routes, "GET", "/", &[], "").await.1);
    assert!(said.contains("could be rolled back, and waits for a person"), "{said}");
    let (_, text) = send(&routes, "GET", "/environments/staging", &[], "").await;
    assert!(
        text.contains(r#"href="/environments/staging/rollback?id=auto-12""#) && text.contains("back to 5"),
        "{text}"
    );
    let (_, text) = send(&routes, "GET", "/environments/staging/rollback?id=auto-12", &[], "").await;
    assert!(text.contains(r#"name="confirm" value="d-1""#) && text.contains("Roll back now"), "{text}");
    // What somebody only looked at is nobody's news.
    let looked = json!({"id": "2026-08-03", "phase": "Prepared", "digest": "d-1", "lines": ["back to 5"]});
    let (_, routes) = with(json!({"prepared": looked}));
    let (_, text) = send(&routes, "GET", "/environments/staging", &[], "").await;
    assert!(!text.contains("rollback?id="), "{text}");
}

#[tokio::test]
async fn each_earlier_healthy_release_has_a_way_back() {
    let sync = |number: u64, digit: &str, is_healthy: bool| {
        json!({
            "number": number, "revision": format!("master@sha1:{}", digit.repeat(40)), "subject": "x", "trigger": "Commit",
            "startedAt": "2026-08-03T10:00:00Z", "tookMs": 1, "outcome": "Applied", "created": 0, "configured": 1,
            "unchanged": 0, "pruned": 0, "failed": 0,
            "health": {"isHealthy": is_healthy, "since": "2026-08-03T10:00:00Z"},
        })
    };
    let running = format!("master@sha1:{}", "5".repeat(40));
    let offered = async |history: Value, rolled_back: Value| {
        let (_, routes) =
            with(json!({"running": {"revision": running}, "history": history, "rolledBack": rolled_back}));
        let (_, text) = send(&routes, "GET", "/environments/staging", &[], "").await;
        let parts: Vec<&str> = text.split(r#"name="to" value=""#).skip(1).collect();
        parts.iter().map(|rest| rest.split_once('"').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    let plain =
        json!([sync(5, "5", true), sync(4, "4", false), sync(3, "3", true), sync(2, "3", true), sync(1, "5", true)]);
    assert_eq!(offered(plain.clone(), json!([])).await, ["staging@3"]);
    assert_eq!(offered(plain, json!([{"commit": "3".repeat(40)}])).await, [""; 0], "it is to stay away");
    let mut back = sync(5, "5", true);
    back["trigger"] = json!("Rollback");
    let rolled = json!([back, sync(4, "4", true), sync(3, "5", true), sync(2, "4", true), sync(1, "1", true)]);
    assert_eq!(offered(rolled, json!([])).await, ["staging@1"]);
}
