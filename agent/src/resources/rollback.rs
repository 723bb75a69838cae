//! What an Environment says about going back by itself: in which cases, and which alerts count.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use towpath_core::alerts::is_matcher;
use towpath_core::environment::{AlertRule, DEFAULT_ALERT_SOAK, RollbackCase, RollbackRules};
use towpath_core::fault::Problem;
use towpath_core::names;
use url::Url;

use super::SecretReference;
use super::resolve::duration;
use crate::clients::is_loopback;

/// Matchers of one filter.
const MAX_MATCHERS: usize = 20;
/// Bytes of the address of an Alertmanager.
const MAX_URL: usize = 2048;
/// Bytes of one matcher.
const MAX_MATCHER: usize = 500;

/// When an environment goes back to the release before by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.automatic) || !('Alert' in self.automatic) || has(self.alerts)",
    "message": "Alert needs alerts: say where they are asked for and which of them count"
}]))]
pub struct RollbackSpec {
    /// The cases in which it goes back by itself: `Degraded`, the sync did not become healthy within `timeout`;
    /// `Aborted`, a rollout controller gave the new revision up; `Alert`, an alert fires that began after the release.
    /// None by default: the rollback is prepared and waits for a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub automatic: Vec<RollbackCase>,
    /// How long after a release alerts are asked for, such as `10m`, which is the default: between 1 s and 24 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub soak: Option<String>,
    /// Where alerts are asked for, and which of them count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<AlertsSpec>,
}

/// Where alerts are asked for, and which of them count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertsSpec {
    /// The address of an Alertmanager, such as `http://alertmanager.monitoring.svc:9093`, with its path prefix if it has
    /// one. Never with a login in it.
    #[schemars(length(min = 8, max = MAX_URL), regex(pattern = r"^https?://[^/@?#\s]+(/[^@?#\s]*)?$"))]
    pub url: String,
    /// Matchers in Alertmanager's own syntax, such as `namespace="shop"` or `severity=~"critical|page"`. An alert counts
    /// that fits all of them.
    #[schemars(length(min = 1, max = MAX_MATCHERS), inner(length(min = 1, max = MAX_MATCHER)))]
    pub filter: Vec<String>,
    /// A Secret in the same namespace with `token`, or `username` and `password`, and `ca.crt` where the server's
    /// certificate needs it. It is read as the environment's account; a login is sent over https only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

impl RollbackSpec {
    pub(super) fn resolve(self, found: &mut Vec<Problem>) -> RollbackRules {
        let soak = match self.soak.as_deref() {
            None => DEFAULT_ALERT_SOAK,
            Some(text) => duration("rollback.soak", text).unwrap_or_else(|problem| {
                found.push(problem);
                Duration::ZERO
            }),
        };
        if self.automatic.contains(&RollbackCase::Alert) && self.alerts.is_none() {
            let problem = Problem::setup("spec.rollback.automatic: Alert needs spec.rollback.alerts");
            found.push(problem.hint("say where alerts are asked for and which of them count, or leave Alert out"));
        }
        let alerts = self.alerts.map(|alerts| alerts.resolve(found));
        RollbackRules { automatic: self.automatic.into_iter().collect(), soak, alerts }
    }
}

impl AlertsSpec {
    fn resolve(self, found: &mut Vec<Problem>) -> AlertRule {
        const FIELD: &str = "spec.rollback.alerts";
        let url = match address(&self.url) {
            Ok(url) => {
                if self.secret_ref.is_some() && url.scheme() == "http" && !is_loopback(&url) {
                    let problem = format!("{FIELD}.url: what is in a Secret is not sent over http");
                    found.push(Problem::setup(problem).hint("name an https address, or leave secretRef out"));
                }
                url.as_str().trim_end_matches('/').to_owned()
            }
            Err(why) => {
                let problem = Problem::setup(format!("{FIELD}.url: {why}"));
                found.push(problem.hint("write it as http://alertmanager.monitoring.svc:9093"));
                String::new()
            }
        };
        if self.filter.is_empty() || self.filter.len() > MAX_MATCHERS {
            let problem = format!("{FIELD}.filter: there are {} matchers, not 1 to {MAX_MATCHERS}", self.filter.len());
            found.push(Problem::setup(problem).hint("say which alerts are about this environment: namespace=\"shop\""));
        }
        for (place, matcher) in self.filter.iter().enumerate() {
            if matcher.len() > MAX_MATCHER || !is_matcher(matcher) {
                let shown: String = matcher.chars().take(80).collect();
                let problem = Problem::setup(format!("{FIELD}.filter[{place}]: {shown:?} is no matcher"));
                found.push(problem.hint("write name=\"value\", or != =~ !~ instead of =, and double quotes"));
            }
        }
        let secret = self.secret_ref.map(|secret| secret.name);
        if let Some(name) = secret.as_ref().filter(|name| !names::is_dns_subdomain(name)) {
            found.push(Problem::setup(format!("{FIELD}.secretRef.name: {name:?} is not a name")));
        }
        AlertRule { url, filter: self.filter, secret }
    }
}

/// Reads an address. Why it is none never quotes it, for somebody may have put a password in it.
fn address(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is no address")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("it is no http or https address");
    }
    if !url.username().is_empty() || url.password().is_some() || text.contains('@') {
        return Err("it has a login in it, which belongs in the Secret that secretRef names");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has something after ? or #");
    }
    if text.len() > MAX_URL {
        return Err("it is too long");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
automatic: [Degraded, Alert]
soak: 5m
alerts:
  url: https://alertmanager.example/prefix/
  filter: ['namespace="shop"', 'severity=~"critical|page"']
  secretRef: {name: alertmanager}
"#;

    fn resolve(yaml: &str) -> (RollbackRules, Vec<String>) {
        let spec: RollbackSpec = serde_saphyr::from_str(yaml).unwrap();
        let mut found = Vec::new();
        let rules = spec.resolve(&mut found);
        assert!(found.iter().all(|problem| problem.fault == towpath_core::fault::Fault::Setup));
        (rules, found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_said_is_resolved() {
        let (rules, found) = resolve(FULL);
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(rules.automatic, [RollbackCase::Degraded, RollbackCase::Alert].into());
        assert_eq!(rules.soak, Duration::from_secs(300));
        let alerts = rules.alerts.unwrap();
        assert_eq!(alerts.url, "https://alertmanager.example/prefix");
        assert_eq!(alerts.filter.len(), 2);
        assert_eq!(alerts.secret.as_deref(), Some("alertmanager"));
    }

    #[test]
    fn nothing_goes_back_by_itself_where_nothing_is_said() {
        let (rules, found) = resolve("{}");
        assert_eq!((rules, found.len()), (RollbackRules::default(), 0));
        assert_eq!(RollbackRules::default().soak, Duration::from_secs(600));
        assert!(RollbackRules::default().automatic.is_empty());
    }

    #[test]
    fn what_means_nothing_is_named_with_its_field() {
        for (from, to, expected) in [
            ("soak: 5m", "soak: 0s", "spec.rollback.soak: \"0s\" is not between 1s and 24h"),
            ("soak: 5m", "soak: 25h", "spec.rollback.soak"),
            (
                "https://alertmanager.example/prefix/",
                "ftp://alertmanager",
                "alerts.url: it is no http or https address",
            ),
            ("https://alertmanager.example/prefix/", "alertmanager:9093", "alerts.url: it is no http or https address"),
            ("https://alertmanager.example/prefix/", "https://a/?x=1", "alerts.url: it has something after ? or #"),
            ("https://", "https://robin:hush@", "alerts.url: it has a login in it"),
            ("https://", "https://@", "alerts.url: it has a login in it"),
            ("https://", "http://", "alerts.url: what is in a Secret is not sent over http"),
            ("namespace=\"shop\"", "namespace", "alerts.filter[0]: \"namespace\" is no matcher"),
            ("name: alertmanager", "name: A/B", "alerts.secretRef.name: \"A/B\" is not a name"),
        ] {
            let (_, found) = resolve(&FULL.replace(from, to));
            assert!(found.len() == 1 && found[0].contains(expected) && !found[0].contains("hush"), "{to}: {found:?}");
        }
        let (_, found) = resolve("automatic: [Alert]");
        assert!(found[0].starts_with("spec.rollback.automatic: Alert needs spec.rollback.alerts"), "{found:?}");
    }

    #[test]
    fn a_filter_has_at_least_one_matcher_and_at_most_twenty() {
        let of = |count: usize| {
            resolve(&format!("alerts: {{url: 'http://a:9093', filter: [{}]}}", "'a=\"b\"', ".repeat(count))).1.len()
        };
        assert_eq!((of(0), of(1), of(MAX_MATCHERS), of(MAX_MATCHERS + 1)), (1, 0, 0, 1));
    }

    #[test]
    fn a_login_is_sent_over_http_on_this_machine_only() {
        let of = |url: &str| resolve(&FULL.replace("https://alertmanager.example/prefix/", url)).1.len();
        assert_eq!((of("http://127.0.0.1:9093"), of("http://[::1]:9093"), of("http://10.0.0.1:9093")), (0, 0, 1));
    }
}
