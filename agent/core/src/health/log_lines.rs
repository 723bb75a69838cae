//! The last lines of a container's log, fit for a status that more people read than may read logs: few, short, clean,
//! and with what looks like a secret masked.
//!
//! Masking goes by what secrets look like, so it masks too much sooner than too little, and still cannot know them all.

use std::sync::LazyLock;

use regex::Regex;

use crate::limits::{MAX_LOG_BYTES, MAX_LOG_LINES};
use crate::revision::clean_line;

/// Stands where something was masked.
const MASK: &str = "***";

/// Characters of one line.
const MAX_LINE: usize = 300;

/// What is masked, in this order, and what stays of it.
static SECRETS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let of = |pattern: &str, stays| (Regex::new(pattern).expect("the pattern is a constant"), stays);
    vec![
        of(r"(?i)\b(bearer)\s+\S{6,}", "$1 ***"),
        of(r"(?i)\b(basic)\s+[a-z0-9+/]{12,}={0,2}", "$1 ***"),
        // A user and a password in a URL.
        of(r#"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@"']+(?::[^\s"']*)?@"#, "$1***@"),
        // A name that says what its value is: DB_PASSWORD=…, "apiKey": "…", token: ….
        of(
            concat!(
                r"(?i)([\w.-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|api[_-]?key|access[_-]?key",
                r"|private[_-]?key|authorization|cookie)",
                r#"[\w.-]*\\?["']?\s*[=:]\s*\\?)("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,;&}"']+)"#,
            ),
            "$1***",
        ),
        // A JSON web token.
        of(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*", MASK),
        // Keys and hashes. A digest of an image is none.
        of(r"(?P<digest>sha256:[0-9a-f]{64})|\b[A-Za-z0-9+=_]{32,}", "$digest"),
    ]
});

static COLOURS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\x1b\[[0-9;?]*[A-Za-z]").expect("the pattern is a constant"));

/// The last lines of a log that say anything: at most [`MAX_LOG_LINES`], and [`MAX_LOG_BYTES`] together, where the
/// oldest give way first.
pub fn last_lines(log: &str) -> Vec<String> {
    last_lines_within(log, MAX_LOG_LINES, MAX_LOG_BYTES)
}

/// The last lines of a log that say anything: at most so many, and so many bytes together.
pub fn last_lines_within(log: &str, max_lines: usize, max_bytes: usize) -> Vec<String> {
    let plain = COLOURS.replace_all(log, "");
    let mut lines = Vec::new();
    let mut bytes = 0;
    for line in without_keys(&plain).into_iter().rev() {
        let line = clean_line(&masked(line).replace('\t', " "), MAX_LINE);
        let line = line.trim_end();
        if line.trim().is_empty() {
            continue;
        }
        bytes += line.len();
        if lines.len() == max_lines || bytes > max_bytes {
            break;
        }
        lines.push(line.to_owned());
    }
    lines.reverse();
    lines
}

/// A line in which what looks like a secret is masked.
pub(super) fn masked(line: &str) -> String {
    let mut line = line.to_owned();
    for (secret, stays) in SECRETS.iter() {
        let replaced = secret.replace_all(&line, |found: &regex::Captures<'_>| {
            if *stays != "$digest" {
                let mut kept = String::new();
                found.expand(stays, &mut kept);
                return kept;
            }
            let text = &found[0];
            // A long word without a digit is the name of a class.
            let is_word = !text.contains(|c: char| c.is_ascii_digit()) || text.starts_with("sha256:");
            if is_word { text.to_owned() } else { MASK.to_owned() }
        });
        line = replaced.into_owned();
    }
    line
}

/// The lines of a text, of which those of a private key are masked. It may begin in the middle of one.
fn without_keys(text: &str) -> Vec<&str> {
    let is_begin = |line: &str| line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
    let is_end = |line: &str| line.contains("-----END") && line.contains("PRIVATE KEY");
    let lines: Vec<&str> = text.lines().collect();
    let first_end = lines.iter().position(|line| is_end(line));
    let first_begin = lines.iter().position(|line| is_begin(line));
    let mut within = first_end.is_some_and(|end| first_begin.is_none_or(|begin| end < begin));
    let mut kept = Vec::with_capacity(lines.len());
    for line in lines {
        within |= is_begin(line);
        if !within {
            kept.push(line);
        } else if is_end(line) {
            within = false;
            kept.push(MASK);
        }
    }
    if within {
        kept.push(MASK);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        last_lines(line).join("|")
    }

    #[test]
    fn only_the_last_lines_that_say_anything_stay() {
        let lines = |count: usize| (1..=count).map(|number| format!("line {number}\n\n")).collect::<String>();
        assert_eq!(last_lines(&lines(3)), ["line 1", "line 2", "line 3"]);
        let eleven = last_lines(&lines(MAX_LOG_LINES + 1));
        assert_eq!((eleven.len(), eleven[0].as_str()), (MAX_LOG_LINES, "line 2"));
        assert!(last_lines("\n \n").is_empty());
    }

    #[test]
    fn all_lines_together_have_a_size() {
        let half = "word ".repeat(100);
        let fits = format!("{half}\n{half}\n{half}\n{half}");
        let kept = last_lines(&fits);
        assert!(kept.iter().map(String::len).sum::<usize>() <= MAX_LOG_BYTES, "{kept:?}");
        assert_eq!(kept.len(), 3, "of 300 characters each");
        assert_eq!(last_lines(&"ä".repeat(5000)).concat().chars().count(), MAX_LINE);
    }

    #[test]
    fn a_line_is_fit_for_a_terminal() {
        assert_eq!(said("\u{1b}[31mred\u{1b}[0m\tand\u{202e} \u{7}bell  "), "red and bell");
    }

    #[test]
    fn what_explains_a_failure_stays() {
        for line in [
            "panic: runtime error: invalid memory address or nil pointer dereference",
            "  at org.springframework.beans.factory.support.AbstractAutowireCapableBeanFactory.createBean(Factory.java:542)",
            "connection to db.shop.svc:5432 refused",
            "/usr/lib/python3.11/site-packages/app/main.py line 7",
            "pod 7d1f3c52-8a3b-4f5e-9c1d-2b6a7e8f9012 has no volume",
            "pulled registry.example/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(said(line), line);
        }
    }

    #[test]
    fn what_looks_like_a_secret_is_masked() {
        for (line, masked) in [
            ("DB_PASSWORD=hunter2 user=web", "DB_PASSWORD=*** user=web"),
            (r#"{"level":"error","apiKey":"a b\"c","n":1}"#, r#"{"level":"error","apiKey":***,"n":1}"#),
            (r#"msg="{\"token\":\"abc\"}""#, r#"msg="{\"token\":\***"#),
            ("client_secret: 's p a c e' rest", "client_secret: *** rest"),
            ("Authorization: Bearer abcdef123456", "Authorization: *** ***"),
            ("header basic dXNlcjpwYXNzd29yZA==", "header basic ***"),
            ("dial postgres://web:p/a@ss@db:5432/shop failed", "dial postgres://***@db:5432/shop failed"),
            ("dial redis://:hunter2@cache:6379", "dial redis://***@cache:6379"),
            ("key AKIAIOSFODNN7EXAMPLE0123456789abcdef used", "key *** used"),
            ("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.x", "***"),
        ] {
            assert_eq!(said(line), masked, "{line}");
        }
    }

    #[test]
    fn a_private_key_is_masked_wherever_the_log_begins() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIB/q+\nabc\n-----END RSA PRIVATE KEY-----";
        assert_eq!(said(&format!("before\n{key}\nafter")), "before|***|after");
        assert_eq!(said(&format!("{}\nafter", key.split_once('\n').unwrap().1)), "***|after");
        assert_eq!(said("before\n-----BEGIN EC PRIVATE KEY-----\nMIIB"), "before|***");
    }
}
