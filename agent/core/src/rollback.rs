//! Rollbacks: what is gone back to, what is taken back for it, and what a person is told before it is done.

mod fit;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::fault::Problem;
use crate::fingerprint;
use crate::manifest::ObjectKey;
use crate::policy::{Cleared, Desired, Hook};
use crate::redact;
use crate::revision::{CommitId, TreeId, clean_line};
pub use fit::{Part, cut, fit};
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
    /// The branch of which it ran that, where it is known.
    pub branch: Option<String>,
    /// Whether the environment was healthy with it.
    pub was_healthy: bool,
}

impl Past {
    /// The branch that it ran as, where that is known to be another one.
    pub fn of_another(&self, branch: &str) -> Option<&str> {
        self.branch.as_deref().filter(|of| *of != branch)
    }
}

/// How a past release stands to the one that is rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its commit is part of the history of the one that is rolled back.
    pub is_part: bool,
    /// It has the same files.
    pub has_same_files: bool,
    /// Its files, where they are known.
    pub files: Option<TreeId>,
    /// It has something in it that was rolled back.
    pub has_rolled_back: bool,
}

/// The newest release before `from` that was healthy, is another one, and has nothing in it that was rolled back; and the
/// newest that only was not healthy when it was left. `past` is the newest first. `standing` is asked for as few as possible.
///
/// # Errors
/// `Content` where there is none, or where a newer one ran healthy that `branch` does not contain, and whatever `standing`
/// reports.
pub fn previous<'a>(
    past: &'a [Past],
    (branch, from): (&str, CommitId),
    mut standing: impl FnMut(&Past) -> Result<Standing, Problem>,
) -> Result<(&'a Past, Option<&'a Past>), Problem> {
    // One that is not there is newer than all that are.
    let newest = past.iter().position(|one| one.commit == from).unwrap_or_default();
    let mut unhealthy = None;
    let mut beside: Option<(&Past, Option<TreeId>)> = None;
    for one in past[newest..].iter().filter(|one| one.commit != from) {
        if !one.was_healthy && unhealthy.is_some() {
            continue;
        }
        let Standing { is_part, has_same_files, has_rolled_back, files } = standing(one)?;
        match () {
            () if has_same_files || has_rolled_back => {}
            () if !is_part && one.was_healthy && (files.is_some() || one.of_another(branch).is_some()) => {
                beside.get_or_insert((one, files));
            }
            () if !is_part => {}
            () if one.was_healthy => match beside {
                // What it ran later is not forgotten, unless these are the same files.
                Some((newer, its)) if its.is_none() || its != files => return Err(is_beside(newer, branch, Some(one))),
                _ => return Ok((one, unhealthy)),
            },
            () => drop(unhealthy.get_or_insert(one)),
        }
    }
    if let Some((newer, _)) = beside {
        return Err(is_beside(newer, branch, None));
    }
    let hint = match unhealthy {
        Some(one) => format!("sync {} was never healthy; to go back to it all the same, name it with --to", one.sync),
        None => "take a ticket back with --ticket, or name a sync with --to".to_owned(),
    };
    Err(Problem::content("no earlier release is known that was healthy").hint(hint))
}

/// A release that reverts cannot bring back, for the branch does not contain it.
pub fn is_beside(one: &Past, branch: &str, older: Option<&Past>) -> Problem {
    let of = one.of_another(branch);
    let why = of.map_or("its history was rewritten since".to_owned(), |of| format!("it ran as {of}"));
    let said = format!("sync {} ran {}, which {branch} does not contain: {why}", one.sync, one.commit.short());
    let back = of.map(|of| format!("to run {of} again, set spec.lane of the Environment to it"));
    let older = older.map(|older| {
        let Past { sync, commit, .. } = older;
        format!("to have {branch} go back to sync {sync} ({}) all the same, name that with --to", commit.short())
    });
    let ways: Vec<String> = back.into_iter().chain(older).collect();
    let hint = if ways.is_empty() {
        "name a later release with --to, or take a ticket back with --ticket".to_owned()
    } else {
        ways.join("; ")
    };
    Problem::content(said).hint(hint)
}

/// What somebody means by the name of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The sync of this number.
    Sync(u64),
    /// A commit that begins with these digits.
    Commit(String),
}

/// Reads `prod@7`, `<cluster>/prod@7`, `@7`, `7`, or at least 7 digits of a commit.
///
/// # Errors
/// When it is none of these, or a sync of another environment, or of the one of this name in another cluster.
pub fn named((cluster, environment): (&str, &str), text: &str) -> Result<Named, Problem> {
    let wrong = || {
        Problem::content(format!("{:?} is no release", clean_line(text, SHOWN_CHARACTERS)))
            .hint(format!("write it as {environment}@7, or as a commit of at least {MIN_DIGITS} digits"))
    };
    if let Some((name, number)) = text.rsplit_once('@') {
        let is_it = name.is_empty() || name == environment || name.split_once('/') == Some((cluster, environment));
        if !is_it {
            let said =
                format!("{} is no release of {environment} in cluster {cluster}", clean_line(text, SHOWN_CHARACTERS));
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
    /// What it is, where it is there.
    pub before: Option<Map<String, Value>>,
    /// What it becomes.
    pub after: Option<Map<String, Value>>,
}

/// An object or a hook of one side.
enum Body<'a> {
    Object(&'a Desired),
    Hook(&'a Hook),
}

impl Body<'_> {
    fn value(&self) -> Map<String, Value> {
        match self {
            Body::Object(object) => object.body(),
            Body::Hook(hook) => hook.body.clone(),
        }
    }

    fn is_same(&self, other: &Body<'_>) -> bool {
        match (self, other) {
            (Body::Object(one), Body::Object(other)) => {
                (one.fingerprint, &one.api_version) == (other.fingerprint, &other.api_version)
            }
            _ => self.value() == other.value(),
        }
    }
}

fn bodies(cleared: &Cleared) -> BTreeMap<&ObjectKey, Body<'_>> {
    let objects = cleared.objects().iter().map(|object| (&object.key, Body::Object(object)));
    objects.chain(cleared.hooks().iter().map(|hook| (&hook.key, Body::Hook(hook)))).collect()
}

/// What differs between what is desired now and then, hooks included, by their keys.
pub fn changes(now: Option<&Cleared>, then: &Cleared) -> Vec<Changed> {
    let (before, after) = (now.map(bodies).unwrap_or_default(), bodies(then));
    let keys: BTreeSet<&ObjectKey> = before.keys().chain(after.keys()).copied().collect();
    let change = |key: &&ObjectKey| match (before.get(key), after.get(key)) {
        (Some(old), Some(new)) if old.is_same(new) => None,
        (old, new) => Some(changed(key, old.map(Body::value), new.map(Body::value))),
    };
    keys.iter().filter_map(change).collect()
}

fn changed(key: &ObjectKey, before: Option<Map<String, Value>>, after: Option<Map<String, Value>>) -> Changed {
    let sign = match (&before, &after) {
        (None, _) => '+',
        (_, None) => '-',
        _ => '~',
    };
    let shown = |body: &Option<Map<String, Value>>| {
        let mut body = body.clone().unwrap_or_default();
        redact::secret(&mut body, &|_| "***".to_owned());
        Value::Object(body)
    };
    let (shown_before, shown_after) = (shown(&before), shown(&after));
    let whole = |body: &Option<Map<String, Value>>| Value::Object(body.clone().unwrap_or_default());
    let digest = Sha256::digest(whole(&after).to_string())[..8].iter().fold(String::new(), hex);
    let paths = match sign {
        '~' => fingerprint::differences(&whole(&before), &whole(&after)),
        _ => Vec::new(),
    };
    let say = |value: Option<&Value>| match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => clean_line(text, SHOWN_CHARACTERS),
        Some(other) => clean_line(&other.to_string(), SHOWN_CHARACTERS),
    };
    let fields = paths.iter().take(MAX_FIELDS).map(|path| {
        let (before, after) = (say(path.find(&shown_before)), say(path.find(&shown_after)));
        format!("{}: {before} → {after}", clean_line(&path.to_string(), SHOWN_CHARACTERS))
    });
    let (fields, more) = (fields.collect(), paths.len().saturating_sub(MAX_FIELDS));
    Changed { key: key.clone(), sign, fields, more, digest, before, after }
}

fn hex(mut text: String, byte: &u8) -> String {
    let _ = write!(text, "{byte:02x}");
    text
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
        Sha256::digest(&self.0)[..8].iter().fold(String::new(), hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 20])
    }

    fn past(sync: u64, byte: u8, was_healthy: bool) -> Past {
        Past { sync, commit: id(byte), branch: None, was_healthy }
    }

    fn part(_: &Past) -> Result<Standing, Problem> {
        Ok(Standing { is_part: true, ..Standing::default() })
    }

    #[test]
    fn the_release_before_is_the_newest_that_was_healthy() {
        let all = [past(4, 4, false), past(3, 3, false), past(2, 2, true), past(1, 1, true)];
        let (before, passed_over) = previous(&all, ("r1.3", id(4)), part).unwrap();
        assert_eq!((before.sync, passed_over.map(|one| one.sync)), (2, Some(3)));
        assert_eq!(previous(&all, ("r1.3", id(2)), part).unwrap().0.sync, 1);
        // One that was never recorded is newer than all that were.
        assert_eq!(previous(&all, ("r1.3", id(9)), part).unwrap().0.sync, 2);
        let problem = previous(&all[..2], ("r1.3", id(4)), part).unwrap_err();
        assert!(problem.hint.unwrap().contains("sync 3 was never healthy"));
        assert!(previous(&all, ("r1.3", id(1)), part).is_err());
        assert!(previous(&[], ("r1.3", id(1)), part).is_err());
    }

    #[test]
    fn what_was_rolled_back_or_is_the_same_or_on_another_line_is_not_gone_back_to() {
        let all = [past(5, 5, true), past(4, 4, true), past(3, 3, true), past(2, 2, true), past(1, 1, true)];
        let standing = |one: &Past| {
            let (has_same_files, has_rolled_back) = (one.sync == 3, one.sync == 4);
            Ok(Standing { is_part: one.sync != 2, has_same_files, files: None, has_rolled_back })
        };
        assert_eq!(previous(&all, ("r1.3", id(5)), standing).unwrap().0.sync, 1);
        let failing = |_: &Past| Err(Problem::passing("away"));
        assert_eq!(previous(&all, ("r1.3", id(5)), failing).unwrap_err().message, "away");
    }

    #[test]
    fn what_ran_before_on_another_branch_is_not_passed_over_for_something_older() {
        let of = |name: &str| Some(name.to_owned());
        let all = [
            Past { branch: of("r1.3"), ..past(3, 3, true) },
            Past { branch: of("r1.2"), ..past(2, 2, true) },
            Past { branch: of("r1.2"), ..past(1, 1, true) },
        ];
        let files = |byte: u8| Some(TreeId::from_bytes([byte; 20]));
        let standing = |of_the_newer: Option<TreeId>| {
            move |one: &Past| {
                let files = if one.sync == 1 { files(1) } else { of_the_newer };
                Ok(Standing { is_part: one.sync != 2, files, ..Standing::default() })
            }
        };
        let problem = previous(&all, ("r1.3", id(3)), standing(files(2))).unwrap_err();
        assert!(problem.message.contains("which r1.3 does not contain: it ran as r1.2"), "{problem}");
        let hint = problem.hint.unwrap();
        assert!(
            hint.contains("set spec.lane of the Environment to it") && hint.contains("go back to sync 1"),
            "{hint}"
        );
        // Lost, and so not to be compared.
        assert!(previous(&all, ("r1.3", id(3)), standing(None)).is_err());
        assert!(previous(&all[..2], ("r1.3", id(3)), standing(files(2))).is_err());
        // Merged as another commit, it is the same.
        assert_eq!(previous(&all, ("r1.3", id(3)), standing(files(1))).unwrap().0.sync, 1);
        // A commit that a rewritten history has lost says nothing.
        let rewritten = all.clone().map(|one| Past { branch: of("r1.3"), ..one });
        assert_eq!(previous(&rewritten, ("r1.3", id(3)), standing(None)).unwrap().0.sync, 1);
        let problem = previous(&rewritten, ("r1.3", id(3)), standing(files(2))).unwrap_err();
        assert!(problem.message.contains("its history was rewritten since"), "{problem}");
    }

    #[test]
    fn a_revision_that_ran_twice_is_gone_back_from_to_what_ran_before_its_last_time() {
        let all = [past(4, 2, true), past(3, 3, true), past(2, 2, true), past(1, 1, true)];
        assert_eq!(previous(&all, ("r1.3", id(2)), part).unwrap().0.sync, 3);
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
            assert_eq!(named(("east", "prod"), text), Ok(expected), "{text}");
        }
        for bad in
            ["", "staging@7", "west/prod@7", "prod@", "prod@x", "abc", "latest", "-1", "123456g", &"a".repeat(41)]
        {
            assert!(named(("east", "prod"), bad).unwrap_err().hint.is_some(), "{bad}");
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
            before: None,
            after: None,
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
                before: None,
                after: None,
            })
            .collect();
        let lines = lines(&all);
        assert_eq!(lines[..3], ["  ~ ConfigMap shop/c00", "      data.a: 1 → 2", "      and 3 more fields"]);
        assert_eq!(lines.last().unwrap(), "  and 2 more objects");
    }
}
