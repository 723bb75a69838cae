//! Words for people: how long ago, which revision, how healthy.

use jiff::Timestamp;
use towpath_core::health::Health;

/// The word for a health; it may not be known yet.
pub(super) fn health(health: Option<Health>) -> &'static str {
    match health {
        Some(Health::Healthy) => "Healthy",
        Some(Health::Progressing) => "Progressing",
        Some(Health::Degraded) => "Degraded",
        Some(Health::Suspended) => "Suspended",
        Some(Health::Missing) => "Missing",
        Some(Health::Unknown) | None => "Unknown",
    }
}

/// How long ago something was. Clocks differ a little, so the near future is now.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs();
    match seconds {
        ..-60 => "in the future".to_owned(),
        -60..5 => "just now".to_owned(),
        5..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        86_400..172_800 => "yesterday".to_owned(),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// How long something took.
pub(super) fn took(milliseconds: i64) -> String {
    match milliseconds {
        ..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", milliseconds / 60_000, milliseconds / 1000 % 60),
        3_600_000..172_800_000 => format!("{} h {} min", milliseconds / 3_600_000, milliseconds / 60_000 % 60),
        _ => format!("{} days", milliseconds / 86_400_000),
    }
}

/// A number with its noun.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Branch and commit of `branch@sha1:<id>`; the commit is shortened to 7 digits.
pub(super) fn revision(text: &str) -> (&str, &str) {
    let (branch, commit) = text.rsplit_once("@sha1:").unwrap_or(("", text));
    (branch, commit.get(..7).unwrap_or(commit))
}

/// A message with its commits shortened to 7 digits: people compare the first few.
pub(super) fn brief(text: &str) -> String {
    let is_commit = |word: &str| word.len() == 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut brief = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let (shown, rest) = if is_commit(word) { piece.split_at(40) } else { (piece, "") };
        if is_commit(word) && brief.ends_with("@sha1:") {
            brief.truncate(brief.len() - "sha1:".len());
        }
        brief.push_str(if is_commit(word) { &shown[..7] } else { shown });
        brief.push_str(rest);
    }
    brief
}

/// An address without the password that should not be in it.
pub(super) fn shown_url(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() || (url.scheme().starts_with("http") && !url.username().is_empty()) => {
            // Both fail only for addresses without a host, which have neither.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.into()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_told_in_one_unit() {
        let now: Timestamp = "2026-08-03T12:00:00Z".parse().unwrap();
        for (then, text) in [
            ("2026-08-03T12:00:30Z", "just now"),
            ("2026-08-03T12:05:00Z", "in the future"),
            ("2026-08-03T11:59:58Z", "just now"),
            ("2026-08-03T11:59:01Z", "59 s ago"),
            ("2026-08-03T11:58:01Z", "1 min ago"),
            ("2026-08-03T10:00:01Z", "1 h ago"),
            ("2026-08-02T12:00:01Z", "23 h ago"),
            ("2026-08-02T11:00:00Z", "yesterday"),
            ("2026-07-04T12:00:00Z", "30 days ago"),
        ] {
            assert_eq!(ago(then.parse().unwrap(), now), text, "{then}");
        }
    }

    #[test]
    fn a_duration_is_told_as_people_do() {
        for (milliseconds, text) in [
            (7, "7 ms"),
            (999, "999 ms"),
            (1449, "1.4 s"),
            (61_000, "1 min 1 s"),
            (5_400_000, "1 h 30 min"),
            (250_000_000, "2 days"),
        ] {
            assert_eq!(took(milliseconds), text);
        }
    }

    #[test]
    fn a_revision_is_a_branch_and_a_short_commit() {
        assert_eq!(revision("r1.4@sha1:0123456789"), ("r1.4", "0123456"));
        assert_eq!(revision("a@sha1:b@sha1:01"), ("a@sha1:b", "01"));
        assert_eq!(revision("ääää"), ("", "ääää"));
    }

    #[test]
    fn a_message_needs_no_forty_digits() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(brief(&format!("master@sha1:{commit} is rolling out")), "master@0123456 is rolling out");
        assert_eq!(
            brief(&format!("its last state {commit} is kept, {commit}")),
            "its last state 0123456 is kept, 0123456"
        );
        assert_eq!(brief(&format!("{commit}0")), format!("{commit}0"));
        assert_eq!(brief("a/b-c: ä, 1.2\u{1F600}"), "a/b-c: ä, 1.2\u{1F600}");
        assert_eq!(brief(""), "");
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        assert_eq!(shown_url("https://bob:geheim@git.example/x.git"), "https://git.example/x.git");
        assert_eq!(shown_url("https://ghp_token@git.example/x.git"), "https://git.example/x.git");
        assert_eq!(shown_url("ssh://git@git.example/x.git"), "ssh://git@git.example/x.git");
        assert_eq!(shown_url("git@git.example:x.git"), "git@git.example:x.git");
        assert_eq!(shown_url("/srv/git/x.git"), "/srv/git/x.git");
    }
}
