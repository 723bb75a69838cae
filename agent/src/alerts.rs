//! The door to Alertmanager: which alerts fire. It asks one thing and changes nothing.
//!
//! It speaks version 2 of Alertmanager's API (`api/v2/openapi.yaml` in its repository):
//! `GET <url>/api/v2/alerts`, for alerts that are active, neither silenced nor inhibited, and fit a filter. A redirect is
//! not followed, so a login stays with the host that was named.

mod keys;

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION};
use jiff::Timestamp;
use reqwest::Response;
use serde::Deserialize;
use towpath_core::alerts::Alert;
use towpath_core::environment::AlertRule;
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;
use url::Url;

pub use self::keys::AlertKeys;
use crate::clients::{self, Clients, Silence, host_of, is_loopback};

/// Time for one question, from the connection to the last byte.
const ASK: Duration = Duration::from_secs(5);
/// Bytes of an answer: a few thousand alerts.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Bytes of what is said with a refusal.
const MAX_REFUSAL_BYTES: usize = 4 << 10;
/// Characters of what an Alertmanager says that are shown.
const SHOWN_CHARACTERS: usize = 200;

/// Access to all Alertmanagers.
pub struct Alerts {
    clients: Clients,
}

impl Default for Alerts {
    fn default() -> Alerts {
        Alerts { clients: Clients::new(ASK, ASK) }
    }
}

/// What is read of an alert (`gettableAlert`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    state: String,
}

impl Alerts {
    /// The alerts that fire now and fit the filter, whenever they began, in no order.
    ///
    /// # Errors
    /// It is not known which alerts fire: `Setup` when the login or the filter is refused, the certificate is not trusted,
    /// what answers is no Alertmanager, or it says too much; `Passing` when it is away or in trouble.
    pub async fn firing(&self, rule: &AlertRule, keys: Option<&AlertKeys>) -> Result<Vec<Alert>, Problem> {
        let url = question(rule)?;
        let who = format!("Alertmanager {}", host_of(&url));
        let asked = tokio::time::timeout(ASK, self.ask(url, &who, keys)).await;
        let late = |_elapsed| Err(Problem::passing(format!("{who} does not answer within {} s", ASK.as_secs())));
        asked.unwrap_or_else(late)
    }

    async fn ask(&self, url: Url, who: &str, keys: Option<&AlertKeys>) -> Result<Vec<Alert>, Problem> {
        let authority = keys.and_then(AlertKeys::authority);
        let mut request = self.clients.of(authority, is_loopback(&url))?.get(url).header(ACCEPT, "application/json");
        if let Some(login) = keys.and_then(|keys| keys.login.as_ref()) {
            request = request.header(AUTHORIZATION, login);
        }
        let answer = request.send().await.map_err(|error| unreachable(who, &error))?;
        if answer.status() != StatusCode::OK {
            return Err(refused(who, answer, keys).await);
        }
        let Some(text) = body(answer, MAX_ANSWER_BYTES, who).await? else {
            let problem = format!("{who} answers with more than {MAX_ANSWER_BYTES} bytes");
            return Err(Problem::setup(problem).hint("have spec.rollback.alerts.filter name fewer alerts"));
        };
        let told: Vec<Told> = serde_json::from_slice(&text)
            .map_err(|_no_alerts| no_alertmanager(who, "with something else than alerts"))?;
        let firing = told.iter().filter(|told| told.status.state == "active");
        Ok(firing.map(Told::alert).collect())
    }
}

impl std::fmt::Debug for Alerts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alerts").finish_non_exhaustive()
    }
}

impl Told {
    fn alert(&self) -> Alert {
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Alert::new(labels, self.annotations.get("summary").map(String::as_str), self.starts_at)
    }
}

/// The whole address of the question.
fn question(rule: &AlertRule) -> Result<Url, Problem> {
    let mut url = Url::parse(&format!("{}/api/v2/alerts", rule.url))
        .map_err(|_no_address| Problem::setup("spec.rollback.alerts.url is no address"))?;
    url.query_pairs_mut()
        .extend_pairs([("active", "true"), ("silenced", "false"), ("inhibited", "false"), ("unprocessed", "false")])
        .extend_pairs(rule.filter.iter().map(|matcher| ("filter", matcher)));
    Ok(url)
}

/// What an answer means that is not 200.
async fn refused(who: &str, answer: Response, keys: Option<&AlertKeys>) -> Problem {
    let status = answer.status();
    let code = status.as_u16();
    match code {
        400 | 422 => {
            let said = body(answer, MAX_REFUSAL_BYTES, who).await.ok().flatten().unwrap_or_default();
            let said = serde_json::from_slice::<String>(&said).unwrap_or_default();
            let said = clean_line(&said, SHOWN_CHARACTERS);
            Problem::setup(format!("{who} refuses the question (status {code}): {said}"))
                .hint("check spec.rollback.alerts.filter")
        }
        401 | 403 => match keys.filter(|keys| keys.login.is_some()) {
            Some(keys) => Problem::setup(format!("{who} refuses the login of Secret {} (status {code})", keys.secret))
                .hint("renew it in the Secret"),
            None => Problem::setup(format!("{who} asks for a login (status {code})"))
                .hint("name a Secret with one in spec.rollback.alerts.secretRef"),
        },
        404 | 405 | 410 => no_alertmanager(who, &format!("with status {code}")),
        _ if status.is_redirection() => no_alertmanager(who, &format!("with status {code}, which leads elsewhere")),
        _ => Problem::passing(format!("{who} answers with status {code}")),
    }
}

/// What answers is another server, or the path before `/api/v2` is not the right one.
fn no_alertmanager(who: &str, how: &str) -> Problem {
    Problem::setup(format!("{who} answers {how}, and not as an Alertmanager does"))
        .hint("check spec.rollback.alerts.url: it needs the prefix that Alertmanager is served below, and no /api/v2")
}

fn unreachable(who: &str, error: &reqwest::Error) -> Problem {
    match Silence::from(error) {
        Silence::Late => Problem::passing(format!("{who} does not answer in time")),
        Silence::Distrusted(why) => Problem::setup(format!("the certificate of {who} is not trusted: {why}"))
            .hint("give its authority as ca.crt in the Secret of spec.rollback.alerts.secretRef, or renew it"),
        Silence::Away(why) => Problem::passing(format!("{who} cannot be reached: {why}")),
    }
}

/// The whole of an answer's body; `None` where it is longer than it may be.
async fn body(answer: Response, limit: usize, who: &str) -> Result<Option<Vec<u8>>, Problem> {
    clients::body(answer, limit).await.map_err(|error| unreachable(who, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_the_prefix_and_every_matcher_on_its_own() {
        let filter = vec![r#"a="b & c""#.to_owned(), r#"d=~"e|+""#.to_owned()];
        let rule = AlertRule { url: "https://example.org/alerts/main".into(), filter, secret: None };
        let url = question(&rule).unwrap();
        assert_eq!(url.path(), "/alerts/main/api/v2/alerts");
        let filters: Vec<_> = url.query_pairs().filter(|(name, _)| name == "filter").map(|(_, value)| value).collect();
        assert_eq!(filters, [r#"a="b & c""#, r#"d=~"e|+""#]);
        assert!(url.query_pairs().any(|pair| pair == ("silenced".into(), "false".into())));
    }
}
