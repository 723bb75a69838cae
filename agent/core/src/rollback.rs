//! Rollbacks: what is gone back to, what is taken back for it, and what a person is told before it is done.

mod trouble;

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::fault::Problem;
use crate::fingerprint;
use crate::manifest::ObjectKey;
use crate::policy::{Cleared, Desired};
use crate::redact;
use crate::revision::{CommitId, clean_line};
pub use trouble::{Trouble, release, trouble};

/// Digits that a commit must at least be named by.
const MIN_DIGITS: usize = 7;
/// Objects of one difference that are named; the rest is counted.
const MAX_NAMED: usize = 20;
/// Fields of one object that are named; the rest is counted.
const MAX_FIELDS: usize = 5;
/// Characters of a value.
const SHOWN_CHARACTERS: usize = 100;

/// A release that an environment ran: a sync of which everything was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The number of the sync.
    pub sync: u64,
    /// The commit that it was of.
    pub commit: CommitId,
    /// Whether the environment was healthy with it.
    pub was_healthy: bool,
}

/// How a past release stands to the one that is rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its commit is part of the history of the one that is rolled back.
    pub is_part: bool,
    /// It has the same files.
    pub has_same_files: bool,
    /// It has something in it that was rolled back.
    pub has_rolled_back: bool,
}

/// The newest release before `from` that was healthy, is another one, and has nothing in it that was rolled back. `past` is
/// the newest first. `standing` is asked for as few as possible.
///
/// # Errors
/// `Content` where there is none, and whatever `standing` reports.
pub fn previous(
    past: &[Past],
    from: CommitId,
    mut standing: impl FnMut(&Past) -> Result<Standing, Problem>,
) -> Result<&Past, Problem> {
    // One that is not there is newer than all that are.
    let newest = past.iter().position(|one| one.commit == from).unwrap_or_default();
    let mut unhealthy = None;
    for one in past[newest..].iter().filter(|one| one.commit != from) {
        let Standing { is_part, has_same_files, has_rolled_back } = standing(one)?;
        match () {
            () if !is_part || has_same_files || has_rolled_back => {}
            () if one.was_healthy => return Ok(one),
            () => drop(unhealthy.get_or_insert(one)),
        }
    }
    let hint = match unhealthy {
        Some(one) => format!("sync {} was never healthy; to go back to it all the same, name it with --to", one.sync),
        None => "take a ticket back with --ticket, or name a sync with --to".to_owned(),
    };
    Err(Problem::content("no earlier release is known that was healthy").hint(hint))
}

/// What somebody means by the name of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The sync of this number.
    Sync(u64),
    /// A commit that begins with these digits.
    Commit(String),
}

/// Reads `prod@7`, `@7`, `7`, or at least 7 digits of a commit.
///
/// # Errors
/// When it is none of these, or a sync of another environment.
pub fn named(environment: &str, text: &str) -> Result<Named, Problem> {
    let wrong = || {
        Problem::content(format!("{:?} is no release", clean_line(text, SHOWN_CHARACTERS)))
            .hint(format!("write it as {environment}@7, or as a commit of at least {MIN_DIGITS} digits"))
    };
    if let Some((name, number)) = text.rsplit_once('@') {
        if !name.is_empty() && name != environment && name.rsplit('/').next() != Some(environment) {
            let said = format!("{} is no release of {environment}", clean_line(text, SHOWN_CHARACTERS));
            return Err(Problem::content(said).hint("name one of its own; towpath history lists them"));
        }
        return number.parse().map(Named::Sync).map_err(|_| wrong());
    }
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.parse() {
        // As many digits as a commit needs are rather a commit.
        Ok(number) if text.len() < MIN_DIGITS => Ok(Named::Sync(number)),
        _ if is_hex && (MIN_DIGITS..=40).contains(&text.len()) => Ok(Named::Commit(text.to_ascii_lowercase())),
        _ => Err(wrong()),
    }
}

/// An object that a rollback changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The object.
    pub key: ObjectKey,
    /// `+`, `-` or `~`.
    pub sign: char,
    /// The fields that differ, with what they are and become. Values of Secrets are not in it.
    pub fields: Vec<String>,
    /// How many more fields there are.
    pub more: usize,
    /// A digest of what it becomes.
    pub digest: String,
}

/// What differs between what is desired now and then, hooks included, by their keys.
pub fn changes(now: Option<&Cleared>, then: &Cleared) -> Vec<Changed> {
    let mut changes: Vec<Changed> = Vec::new();
    let before = |key: &ObjectKey| now.and_then(|now| now.get(key));
    for object in then.objects() {
        match before(&object.key) {
            None => changes.push(changed('+', &object.key, None, Some(object))),
            Some(old) if old.fingerprint == object.fingerprint && old.api_version == object.api_version => {}
            Some(old) => changes.push(changed('~', &object.key, Some(old), Some(object))),
        }
    }
    let gone = now.into_iter().flat_map(|now| now.objects()).filter(|object| then.get(&object.key).is_none());
    changes.extend(gone.map(|object| changed('-', &object.key, Some(object), None)));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

fn changed(sign: char, key: &ObjectKey, old: Option<&Desired>, new: Option<&Desired>) -> Changed {
    let value = |object: Option<&Desired>, hides: bool| {
        let mut body = object?.body();
        if hides {
            redact::secret(&mut body, &|_| "***".to_owned());
        }
        Some(serde_json::Value::Object(body))
    };
    let digest = new.map(|new| new.fingerprint.to_string()).unwrap_or_default();
    let (Some(before), Some(after)) = (value(old, false), value(new, false)) else {
        return Changed { key: key.clone(), sign, fields: Vec::new(), more: 0, digest };
    };
    let (shown_before, shown_after) = (value(old, true), value(new, true));
    let paths = fingerprint::differences(&before, &after);
    let say = |value: Option<&serde_json::Value>| match value {
        None => "nothing".to_owned(),
        Some(serde_json::Value::String(text)) => clean_line(text, SHOWN_CHARACTERS),
        Some(other) => clean_line(&other.to_string(), SHOWN_CHARACTERS),
    };
    let fields = paths.iter().take(MAX_FIELDS).map(|path| {
        let find = |value: &Option<serde_json::Value>| say(value.as_ref().and_then(|value| path.find(value)));
        let path_text = clean_line(&path.to_string(), SHOWN_CHARACTERS);
        format!("{path_text}: {} → {}", find(&shown_before), find(&shown_after))
    });
    Changed { key: key.clone(), sign, fields: fields.collect(), more: paths.len().saturating_sub(MAX_FIELDS), digest }
}

/// What changes, for people: a line for each object and each field.
pub fn lines(changes: &[Changed]) -> Vec<String> {
    let mut lines = Vec::new();
    for Changed { key, sign, fields, more, .. } in changes.iter().take(MAX_NAMED) {
        lines.push(format!("  {sign} {key}"));
        lines.extend(fields.iter().map(|field| format!("      {field}")));
        if *more > 0 {
            lines.push(format!("      and {more} more fields"));
        }
    }
    if changes.len() > MAX_NAMED {
        lines.push(format!("  and {} more objects", changes.len() - MAX_NAMED));
    }
    lines
}

/// What a confirmation stands for: another digest means that something of it is otherwise.
#[derive(Default)]
pub struct Confirmed(String);

impl Confirmed {
    /// Adds something that it stands for.
    pub fn add(&mut self, what: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{what} {value}");
    }

    /// Adds what changes in an environment.
    pub fn add_changes(&mut self, environment: &str, changes: &[Changed]) {
        for Changed { key, sign, digest, .. } in changes {
            let _ = writeln!(self.0, "{environment} {sign} {key} {digest}");
        }
    }

    /// 16 digits.
    pub fn digest(&self) -> String {
        Sha256::digest(&self.0)[..8].iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 20])
    }

    fn past(sync: u64, byte: u8, was_healthy: bool) -> Past {
        Past { sync, commit: id(byte), was_healthy }
    }

    fn part(_: &Past) -> Result<Standing, Problem> {
        Ok(Standing { is_part: true, ..Standing::default() })
    }

    #[test]
    fn the_release_before_is_the_newest_that_was_healthy() {
        let all = [past(4, 4, false), past(3, 3, false), past(2, 2, true), past(1, 1, true)];
        assert_eq!(previous(&all, id(4), part).unwrap().sync, 2);
        assert_eq!(previous(&all, id(2), part).unwrap().sync, 1);
        // One that was never recorded is newer than all that were.
        assert_eq!(previous(&all, id(9), part).unwrap().sync, 2);
        let problem = previous(&all[..2], id(4), part).unwrap_err();
        assert!(problem.hint.unwrap().contains("sync 3 was never healthy"));
        assert!(previous(&all, id(1), part).is_err());
        assert!(previous(&[], id(1), part).is_err());
    }

    #[test]
    fn what_was_rolled_back_or_is_the_same_or_on_another_line_is_not_gone_back_to() {
        let all = [past(5, 5, true), past(4, 4, true), past(3, 3, true), past(2, 2, true), past(1, 1, true)];
        let standing = |one: &Past| {
            Ok(Standing { is_part: one.sync != 2, has_same_files: one.sync == 3, has_rolled_back: one.sync == 4 })
        };
        assert_eq!(previous(&all, id(5), standing).unwrap().sync, 1);
        let failing = |_: &Past| Err(Problem::passing("away"));
        assert_eq!(previous(&all, id(5), failing).unwrap_err().message, "away");
    }

    #[test]
    fn a_revision_that_ran_twice_is_gone_back_from_to_what_ran_before_its_last_time() {
        let all = [past(4, 2, true), past(3, 3, true), past(2, 2, true), past(1, 1, true)];
        assert_eq!(previous(&all, id(2), part).unwrap().sync, 3);
    }

    #[test]
    fn a_release_is_named_by_its_number_or_its_commit() {
        for (text, expected) in [
            ("prod@7", Named::Sync(7)),
            ("east/prod@7", Named::Sync(7)),
            ("@7", Named::Sync(7)),
            ("7", Named::Sync(7)),
            ("1234567", Named::Commit("1234567".into())),
            ("ABCDEF0", Named::Commit("abcdef0".into())),
        ] {
            assert_eq!(named("prod", text), Ok(expected), "{text}");
        }
        for bad in ["", "staging@7", "prod@", "prod@x", "abc", "latest", "-1", "123456g", &"a".repeat(41)] {
            assert!(named("prod", bad).unwrap_err().hint.is_some(), "{bad}");
        }
    }

    #[test]
    fn a_digest_changes_with_whatever_it_stands_for() {
        let change = |digest: &str| Changed {
            key: crate::manifest::Identity {
                group: String::new(),
                kind: "ConfigMap".into(),
                namespace: None,
                name: "a".into(),
            }
            .into(),
            sign: '~',
            fields: Vec::new(),
            more: 0,
            digest: digest.into(),
        };
        let of = |head: u8, environment: &str, digest: &str| {
            let mut confirmed = Confirmed::default();
            confirmed.add("head", id(head));
            confirmed.add_changes(environment, &[change(digest)]);
            confirmed.digest()
        };
        let one = of(1, "prod", "a");
        assert_eq!(one, of(1, "prod", "a"));
        assert_eq!(one.len(), 16);
        for other in [of(2, "prod", "a"), of(1, "staging", "a"), of(1, "prod", "b")] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn many_changes_are_counted() {
        let key = |number: usize| {
            ObjectKey::from(crate::manifest::Identity {
                group: String::new(),
                kind: "ConfigMap".into(),
                namespace: Some("shop".into()),
                name: format!("c{number:02}"),
            })
        };
        let all: Vec<Changed> = (0..MAX_NAMED + 2)
            .map(|number| Changed {
                key: key(number),
                sign: '~',
                fields: vec!["data.a: 1 → 2".into()],
                more: 3,
                digest: String::new(),
            })
            .collect();
        let lines = lines(&all);
        assert_eq!(lines[..3], ["  ~ ConfigMap shop/c00", "      data.a: 1 → 2", "      and 3 more fields"]);
        assert_eq!(lines.last().unwrap(), "  and 2 more objects");
    }
}
