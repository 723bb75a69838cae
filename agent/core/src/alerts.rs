//! Alerts of an Alertmanager, and which of them a release has to answer for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::revision::clean_line;

/// Alerts that are named; the rest is counted.
pub const MAX_ALERTS: usize = 20;
/// Characters of a name, of a summary, and of all labels together.
const SHOWN_CHARACTERS: usize = 200;
/// Labels that are shown.
const MAX_LABELS: usize = 20;

/// An alert that fires. Its texts are one line each, fit for a terminal, for anybody may have written them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Its label `alertname`.
    pub name: String,
    /// Its other labels, `name=value` with commas between them.
    pub labels: String,
    /// Its annotation `summary`; empty where it has none.
    pub summary: String,
    /// When it began, by the clock of who sent it.
    pub started_at: Timestamp,
}

impl Alert {
    /// From its labels, sorted by their names, and its summary.
    pub fn new<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        summary: Option<&str>,
        started_at: Timestamp,
    ) -> Alert {
        let clean = |text: &str| clean_line(text, SHOWN_CHARACTERS);
        let (mut name, mut others) = ("", Vec::new());
        for (label, value) in labels {
            match label {
                "alertname" => name = value,
                _ if others.len() < MAX_LABELS => others.push(format!("{}={}", clean(label), clean(value))),
                _ => {}
            }
        }
        let summary = summary.map(clean).unwrap_or_default();
        Alert { name: clean(name), labels: clean(&others.join(", ")), summary, started_at }
    }
}

/// The alerts that a release has to answer for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blamed {
    /// The first [`MAX_ALERTS`], those that began first before the others.
    pub alerts: Vec<Alert>,
    /// How many more there are.
    pub more: usize,
}

impl Blamed {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }
}

/// The alerts that began when the release did, or later. One that fired before is not this release's fault, whatever it
/// does while the release soaks.
pub fn blamed(mut firing: Vec<Alert>, released_at: Timestamp) -> Blamed {
    firing.retain(|alert| alert.started_at >= released_at);
    firing.sort_by(|a, b| (a.started_at, &a.name, &a.labels).cmp(&(b.started_at, &b.name, &b.labels)));
    let more = firing.len().saturating_sub(MAX_ALERTS);
    firing.truncate(MAX_ALERTS);
    Blamed { alerts: firing, more }
}

/// Whether a text is one matcher in Alertmanager's own syntax: a name, one of `=`, `!=`, `=~` and `!~`, and a value in
/// double quotes. A name of other characters than letters, digits, `_` and `:` is quoted too. Whether the expression of
/// `=~` and `!~` is one, Alertmanager itself says.
pub fn is_matcher(text: &str) -> bool {
    let text = text.trim();
    let name = match text.strip_prefix('"') {
        Some(_) => quoted(text).filter(|end| *end > 2),
        None => Some(text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len()))
            .filter(|end| *end > 0 && !text.starts_with(|c: char| c.is_ascii_digit())),
    };
    let Some(rest) = name.map(|end| text[end..].trim_start()) else { return false };
    let operator = ["=~", "!~", "!=", "="].into_iter().find_map(|operator| rest.strip_prefix(operator));
    let Some(value) = operator.map(str::trim_start) else { return false };
    !text.chars().any(char::is_control) && quoted(value) == Some(value.len())
}

/// Where a text in double quotes ends that something begins with, in which a backslash protects what follows.
fn quoted(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('"')?;
    let mut is_protected = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if is_protected => is_protected = false,
            '\\' => is_protected = true,
            '"' => return Some(at + 2),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(name: &str, began: &str) -> Alert {
        Alert::new([("alertname", name)], None, began.parse().unwrap())
    }

    #[test]
    fn an_alert_that_fired_before_the_release_is_not_its_fault() {
        let released: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let firing = vec![
            alert("later", "2026-03-01T10:05:00Z"),
            alert("before", "2026-03-01T09:59:59.999Z"),
            alert("with it", "2026-03-01T10:00:00Z"),
        ];
        let found = blamed(firing, released);
        let names: Vec<&str> = found.alerts.iter().map(|alert| alert.name.as_str()).collect();
        assert_eq!((names, found.more), (vec!["with it", "later"], 0));
        assert!(blamed(vec![alert("before", "2026-03-01T09:00:00Z")], released).is_empty());
    }

    #[test]
    fn twenty_alerts_are_named_and_the_rest_is_counted() {
        let of = |count: usize| {
            let found = blamed(vec![alert("a", "2026-03-01T10:00:00Z"); count], Timestamp::UNIX_EPOCH);
            (found.alerts.len(), found.more)
        };
        assert_eq!((of(MAX_ALERTS), of(MAX_ALERTS + 1)), ((MAX_ALERTS, 0), (MAX_ALERTS, 1)));
    }

    #[test]
    fn the_texts_of_an_alert_do_not_reach_a_terminal_as_they_are() {
        let hostile = "a\u{1b}[2J\nb\u{202e}";
        let found = Alert::new([("alertname", hostile), (hostile, hostile)], Some(hostile), Timestamp::UNIX_EPOCH);
        assert_eq!((found.name.as_str(), found.summary.as_str()), ("a[2Jb", "a[2Jb"));
        assert_eq!(found.labels, "a[2Jb=a[2Jb");
        let long = "x".repeat(5000);
        let found = Alert::new([("alertname", long.as_str()), ("b", &long)], Some(&long), Timestamp::UNIX_EPOCH);
        let longest = [&found.name, &found.labels, &found.summary].map(|text| text.chars().count());
        assert_eq!(longest, [SHOWN_CHARACTERS; 3]);
    }

    #[test]
    fn a_matcher_is_read_as_alertmanager_does() {
        for good in [
            r#"namespace="shop""#,
            r#"severity=~"critical|page""#,
            r#" team != "" "#,
            r#"a:b_1!~"x""#,
            r#"path="a\"b\\""#,
            r#""a.b"="ä""#,
        ] {
            assert!(is_matcher(good), "{good}");
        }
        for bad in [
            "",
            "namespace",
            r#"="shop""#,
            "namespace=shop",
            r#"namespace=="shop""#,
            r#"namespace="shop"#,
            r#"namespace="sh"op""#,
            r#"namespace="shop\""#,
            r#"a="b",c="d""#,
            r#"{a="b"}"#,
            r#"1a="b""#,
            r#"a.b="c""#,
            r#"""="b""#,
            "a=\"b\nc\"",
        ] {
            assert!(!is_matcher(bad), "{bad}");
        }
    }
}
