//! Which alerts fire, asked of a real Alertmanager.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use support::alertmanager::{Access, Alertmanager, PASSWORD, USER};
use support::git_server::GitServer;
use tempfile::TempDir;
use towpath::alerts::{AlertKeys, Alerts, MAX_ANSWER_BYTES};
use towpath_core::alerts::{Alert, blamed};
use towpath_core::environment::AlertRule;
use towpath_core::fault::{Fault, Problem};

/// An Alertmanager, and what holds its folder.
struct Place {
    alertmanager: Alertmanager,
    _folder: TempDir,
}

impl Place {
    async fn start(access: Access) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let alertmanager = Alertmanager::start(folder.path(), access).await.unwrap();
        Place { alertmanager, _folder: folder }
    }

    /// Has an alert of the shop fire, which began some seconds ago.
    async fn fire(&self, name: &str, seconds: i64) {
        let annotations = json!({"summary": format!("{name} is broken"), "description": "more of it"});
        self.alertmanager.fire(of_shop(name), annotations, ago(seconds)).await;
    }

    fn rule(&self) -> AlertRule {
        rule(self.alertmanager.url())
    }

    async fn firing(&self) -> Vec<Alert> {
        Alerts::default().firing(&self.rule(), None).await.unwrap()
    }
}

fn rule(url: String) -> AlertRule {
    AlertRule { url, filter: vec![r#"namespace="shop""#.into(), r#"severity=~"critical|page""#.into()], secret: None }
}

fn of_shop(name: &str) -> Value {
    json!({"alertname": name, "namespace": "shop", "severity": "page"})
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_secs(seconds)
}

fn names(alerts: &[Alert]) -> Vec<&str> {
    let mut names: Vec<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn secret(data: &[(&str, &str)]) -> AlertKeys {
    let data: Map<String, Value> =
        data.iter().map(|(key, value)| ((*key).to_owned(), Value::from(STANDARD.encode(value)))).collect();
    AlertKeys::read("alertmanager", &json!({"data": data})).unwrap()
}

fn authority() -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("support/tls/ca.pem");
    std::fs::read_to_string(file).unwrap()
}

async fn refused(rule: &AlertRule, keys: Option<&AlertKeys>) -> Problem {
    match Alerts::default().firing(rule, keys).await {
        Err(problem) => problem,
        Ok(alerts) => panic!("{alerts:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_counts_that_fires_and_fits_the_filter() {
    let place = Place::start(Access::Open).await;
    assert_eq!(place.firing().await, []);
    place.fire("Errors", 30).await;
    place.fire("Known", 30).await;
    place.fire("Over", 30).await;
    let others = [("namespace", "elsewhere"), ("severity", "info")];
    for (label, value) in others {
        let mut labels = of_shop("Other");
        labels[label] = value.into();
        place.alertmanager.fire(labels, json!({}), ago(30)).await;
    }
    assert_eq!(names(&place.firing().await), ["Errors", "Known", "Over"]);
    place.alertmanager.silence("alertname", "Known").await;
    place.alertmanager.resolve(of_shop("Over"), ago(30)).await;
    let firing = place.firing().await;
    assert_eq!(names(&firing), ["Errors"]);
    assert_eq!(firing[0].labels, "namespace=shop, severity=page");
    assert_eq!(firing[0].summary, "Errors is broken");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_is_older_than_the_release_is_not_its_fault() {
    let place = Place::start(Access::Open).await;
    place.fire("Before", 600).await;
    let released_at = ago(60);
    assert!(blamed(place.firing().await, released_at).is_empty());
    place.fire("After", 30).await;
    // Prometheus sends it again and again, and it is as old as it was.
    place.fire("Before", 600).await;
    assert_eq!(names(&blamed(place.firing().await, released_at).alerts), ["After"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alertmanager_that_is_away_is_asked_again() {
    let mut place = Place::start(Access::Open).await;
    let alerts = Alerts::default();
    place.alertmanager.go_away();
    let problem = alerts.firing(&place.rule(), None).await.unwrap_err();
    assert!(problem.fault == Fault::Passing && problem.message.contains("cannot be reached"), "{problem}");
    place.alertmanager.come_back().await.unwrap();
    place.fire("Errors", 1).await;
    assert_eq!(names(&alerts.firing(&place.rule(), None).await.unwrap()), ["Errors"]);
    place.alertmanager.fall_silent();
    let began = Instant::now();
    let problem = alerts.firing(&place.rule(), None).await.unwrap_err();
    assert!(problem.fault == Fault::Passing && problem.message.contains("does not answer"), "{problem}");
    assert!(began.elapsed() >= Duration::from_secs(5), "it was given its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_belongs_to_the_address() {
    let place = Place::start(Access::Below).await;
    place.fire("Errors", 1).await;
    assert_eq!(names(&place.firing().await), ["Errors"]);
    let without = place.alertmanager.url().replace("/monitoring/alerts", "");
    for url in [without.clone(), format!("{without}/elsewhere"), format!("{}/api/v2", place.alertmanager.url())] {
        let problem = refused(&rule(url), None).await;
        assert!(problem.fault == Fault::Setup && problem.message.contains("not as an Alertmanager does"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_alertmanager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let git = GitServer::start(folder.path());
    let problem = refused(&rule(git.url("nothing")), None).await;
    assert!(problem.fault == Fault::Setup && problem.message.contains("not as an Alertmanager does"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_alertmanager_refuses_is_told_in_its_words() {
    let place = Place::start(Access::Open).await;
    let bad = AlertRule { filter: vec![r#"a=~"(""#.into()], ..place.rule() };
    let problem = refused(&bad, None).await;
    assert!(problem.fault == Fault::Setup && problem.message.contains("status 400): "), "{problem}");
    assert!(problem.to_string().contains("missing closing )"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_and_an_authority_come_from_a_secret() {
    let place = Place::start(Access::Locked).await;
    place.fire("Errors", 1).await;
    let (authority, rule) = (authority(), place.rule());
    let with =
        |user: &str, password: &str| secret(&[("username", user), ("password", password), ("ca.crt", &authority)]);
    let firing = Alerts::default().firing(&rule, Some(&with(USER, PASSWORD))).await.unwrap();
    assert_eq!(names(&firing), ["Errors"]);
    for (keys, expected) in [
        (with(USER, "wrong"), "refuses the login of Secret alertmanager (status 401)"),
        (
            secret(&[("token", "wrong"), ("ca.crt", &authority)]),
            "refuses the login of Secret alertmanager (status 401)",
        ),
        (secret(&[("ca.crt", &authority)]), "asks for a login (status 401)"),
        (secret(&[("username", USER), ("password", PASSWORD)]), "is not trusted"),
        (secret(&[("ca.crt", "no certificate")]), "ca.crt of Secret alertmanager cannot be read"),
    ] {
        let problem = refused(&rule, Some(&keys)).await;
        assert!(problem.fault == Fault::Setup && problem.message.contains(expected), "{expected}: {problem}");
        assert!(problem.hint.is_some() && !problem.to_string().contains(PASSWORD), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_texts_of_alerts_are_harmless() {
    let place = Place::start(Access::Open).await;
    let hostile = format!("\u{1b}[2J\nerror: all is lost\r\u{202e}{}", "x".repeat(10_000));
    let mut labels = of_shop(&hostile);
    labels["pod"] = hostile.clone().into();
    place.alertmanager.fire(labels, json!({"summary": hostile}), ago(1)).await;
    let firing = place.firing().await;
    assert_eq!(firing.len(), 1);
    for text in [&firing[0].name, &firing[0].labels, &firing[0].summary] {
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.chars().count() <= 200, "{}", text.len());
    }
    assert!(firing[0].name.starts_with("[2Jerror: all is lost"), "{}", firing[0].name);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
    let place = Place::start(Access::Open).await;
    let long = "x".repeat(MAX_ANSWER_BYTES / 4);
    for name in ["A", "B", "C"] {
        place.alertmanager.fire(of_shop(name), json!({"description": long}), ago(1)).await;
    }
    assert_eq!(names(&place.firing().await), ["A", "B", "C"]);
    place.alertmanager.fire(of_shop("D"), json!({"description": long}), ago(1)).await;
    let problem = refused(&place.rule(), None).await;
    assert!(problem.fault == Fault::Setup && problem.message.contains("more than 1048576 bytes"), "{problem}");
}
