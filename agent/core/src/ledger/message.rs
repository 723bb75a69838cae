//! A record as the message of a commit, and back: a subject and a few sentences for people, trailers for machines.
//!
//! The last paragraph is trailers as `git interpret-trailers` knows them. Only they are read back. What is not known is
//! passed over, so that a later version may say more; what is said twice, malformed or missing is refused.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Fact, HealthFact, LedgerName, Record, SyncFact};
use crate::fault::Problem;
use crate::names;
use crate::revision::{CommitId, clean_line};
use crate::status::{Outcome, SyncRecord};

/// Bytes of one message: a longer one is no record.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Submodules that a record names.
pub const MAX_COMPONENTS: usize = 500;
/// Characters of a text that people wrote.
const MAX_TEXT: usize = 300;
/// The version of the format.
const VERSION: &str = "1";

impl Record {
    /// The message of its commit.
    pub fn message(&self) -> String {
        let mut text = String::new();
        let mut trailers = Trailers::default();
        trailers.put("Towpath-Record", VERSION);
        trailers.put("Cluster", &self.ledger.cluster);
        trailers.put("Environment", &self.ledger.environment);
        trailers.put("Sequence", self.sequence);
        trailers.put("Sync", self.sync);
        trailers.put("At", self.at);
        match &self.fact {
            Fact::Sync(fact) => {
                describe(&self.name(), fact, &mut text);
                put_sync(fact, &mut trailers);
            }
            Fact::Health(health) => {
                let is = if health.is_healthy { "healthy" } else { "degraded" };
                let _ = write!(text, "{} is {is}", self.name());
                if let Some(message) = &health.message {
                    let _ = write!(text, ": {}", clean_line(message, MAX_TEXT));
                }
                text.push('\n');
                trailers.put("Of-Sync", health.of);
                trailers.put("Health", if health.is_healthy { "Healthy" } else { "Degraded" });
                trailers.put_text("Message", health.message.as_deref());
            }
        }
        format!("{text}\n{}", trailers.0)
    }

    /// Reads the message of a commit.
    ///
    /// # Errors
    /// `Content` where it is no record, or not a whole one.
    pub fn parse(message: &str) -> Result<Record, Problem> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(not_a_record("it is too long"));
        }
        let trailers = Read::new(message)?;
        if trailers.needed("Towpath-Record")? != VERSION {
            return Err(not_a_record("it is of a version that is not known here"));
        }
        let cluster = trailers.needed("Cluster")?.to_owned();
        if !names::is_dns_label(&cluster) {
            return Err(not_a_record("its cluster has no proper name"));
        }
        let sequence = trailers.number("Sequence")?;
        if sequence == 0 {
            return Err(not_a_record("its sequence begins at 1"));
        }
        let fact = match trailers.0.get("Health") {
            None => Fact::Sync(Box::new(read_sync(&trailers)?)),
            Some(health) => Fact::Health(HealthFact {
                of: trailers.number("Of-Sync")?,
                is_healthy: match health[0] {
                    "Healthy" => true,
                    "Degraded" => false,
                    _ => return Err(not_a_record("its health is not known")),
                },
                message: trailers.text("Message")?,
            }),
        };
        Ok(Record {
            ledger: LedgerName { cluster, environment: trailers.parsed("Environment")? },
            sequence,
            sync: trailers.number("Sync")?,
            at: trailers.parsed("At")?,
            fact,
        })
    }
}

/// What people read.
fn describe(name: &str, fact: &SyncFact, text: &mut String) {
    let sync = &fact.sync;
    let revision = match (&fact.commit, sync.revision.split_once('@')) {
        (Some(commit), Some((branch, _))) if branch == commit.to_string() => commit.short(),
        (Some(commit), Some((branch, _))) => format!("{}@{}", clean_line(branch, MAX_TEXT), commit.short()),
        _ => clean_line(&sync.revision, MAX_TEXT),
    };
    let did = match sync.outcome {
        Outcome::Applied => "applied",
        Outcome::Failed => "could not apply",
        Outcome::Overtaken => "was overtaken applying",
    };
    let _ = writeln!(text, "{name} {did} {revision}: {}", clean_line(&sync.subject, MAX_TEXT));
    let SyncRecord { created, configured, unchanged, pruned, failed, .. } = sync;
    let seconds = sync.took_ms as f64 / 1000.0;
    let _ = writeln!(
        text,
        "\n{created} created, {configured} configured, {unchanged} unchanged, {pruned} pruned, {failed} failed in {seconds:.1} s."
    );
    if let Some(who) = &sync.requested_by {
        let _ = writeln!(text, "Asked for by {}.", clean_line(who, MAX_TEXT));
    }
    if let Some(message) = &sync.message {
        let _ = writeln!(text, "{}", clean_line(message, MAX_TEXT));
    }
}

fn put_sync(fact: &SyncFact, trailers: &mut Trailers) {
    let sync = &fact.sync;
    trailers.put_text("Revision", Some(&sync.revision));
    trailers.put_text("Subject", Some(&sync.subject));
    if let Some(commit) = fact.commit {
        trailers.put("Source-Commit", commit);
    }
    if let Some(tree) = fact.tree {
        trailers.put("Source-Tree", tree);
    }
    if let Some(at) = fact.committed_at {
        trailers.put("Source-Committed", at);
    }
    for (path, commit) in fact.components.iter().take(MAX_COMPONENTS) {
        trailers.put("Component", format!("{commit} {}", clean_line(path, MAX_TEXT)));
    }
    trailers.put("Trigger", word(&sync.trigger));
    trailers.put_text("Requested-By", sync.requested_by.as_deref());
    trailers.put_text("Request", sync.request.as_deref());
    trailers.put("Outcome", word(&sync.outcome));
    trailers.put("Started", sync.started_at);
    trailers.put("Took-Ms", sync.took_ms);
    for (name, count) in [
        ("Created", sync.created),
        ("Configured", sync.configured),
        ("Unchanged", sync.unchanged),
        ("Pruned", sync.pruned),
        ("Failed", sync.failed),
    ] {
        trailers.put(name, count);
    }
    trailers.put("Manifests", if fact.has_manifests { "Complete" } else { "Earlier" });
    trailers.put_text("Message", sync.message.as_deref());
}

fn read_sync(trailers: &Read<'_>) -> Result<SyncFact, Problem> {
    let count = |name: &str| trailers.parsed::<u32>(name);
    let component = |line: &&str| {
        let (commit, path) = line.split_once(' ')?;
        Some((path.to_owned(), commit.parse::<CommitId>().ok()?))
    };
    let components = trailers.0.get("Component").map(Vec::as_slice).unwrap_or_default();
    if components.len() > MAX_COMPONENTS {
        return Err(not_a_record("it has too many components"));
    }
    let components: Option<Vec<_>> = components.iter().map(component).collect();
    Ok(SyncFact {
        commit: trailers.optional("Source-Commit")?,
        tree: trailers.optional("Source-Tree")?,
        committed_at: trailers.optional("Source-Committed")?,
        components: components.ok_or_else(|| not_a_record("a component of it cannot be read"))?,
        has_manifests: trailers.needed("Manifests")? == "Complete",
        sync: SyncRecord {
            number: trailers.number("Sync")?,
            revision: trailers.text("Revision")?.unwrap_or_default(),
            subject: trailers.text("Subject")?.unwrap_or_default(),
            trigger: trailers.word("Trigger")?,
            requested_by: trailers.text("Requested-By")?,
            request: trailers.text("Request")?,
            started_at: trailers.parsed("Started")?,
            took_ms: trailers.parsed("Took-Ms")?,
            outcome: trailers.word("Outcome")?,
            created: count("Created")?,
            configured: count("Configured")?,
            unchanged: count("Unchanged")?,
            pruned: count("Pruned")?,
            failed: count("Failed")?,
            took_over: Vec::new(),
            message: trailers.text("Message")?,
            hooks: Vec::new(),
            health: None,
        },
    })
}

#[derive(Default)]
struct Trailers(String);

impl Trailers {
    fn put(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}: {value}");
    }

    /// A text that may have come from anywhere: one clean line, and no trailer where nothing is left of it.
    fn put_text(&mut self, name: &str, text: Option<&str>) {
        let line = clean_line(text.unwrap_or_default(), MAX_TEXT);
        if !line.trim().is_empty() {
            self.put(name, line.trim());
        }
    }
}

/// The trailers of a message.
struct Read<'a>(BTreeMap<&'a str, Vec<&'a str>>);

impl<'a> Read<'a> {
    fn new(message: &'a str) -> Result<Read<'a>, Problem> {
        let text = message.trim_end_matches('\n');
        let last = text.rsplit_once("\n\n").map(|(_, last)| last).ok_or_else(|| not_a_record("it has no trailers"))?;
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in last.split('\n') {
            let (name, value) = line.split_once(": ").ok_or_else(|| not_a_record("a trailer of it cannot be read"))?;
            let values = found.entry(name).or_default();
            values.push(value);
            if values.len() > 1 && name != "Component" {
                return Err(not_a_record(&format!("it says {} twice", clean_line(name, 40))));
            }
        }
        Ok(Read(found))
    }

    fn needed(&self, name: &str) -> Result<&'a str, Problem> {
        let values = self.0.get(name).ok_or_else(|| not_a_record(&format!("it does not say {name}")))?;
        Ok(values[0])
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Result<T, Problem> {
        self.needed(name)?.parse().map_err(|_| not_a_record(&format!("its {name} cannot be read")))
    }

    fn optional<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        if self.0.contains_key(name) { self.parsed(name).map(Some) } else { Ok(None) }
    }

    /// Only digits: a sign or blanks would be a second way to write the same.
    fn number(&self, name: &str) -> Result<u64, Problem> {
        let text = self.needed(name)?;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain).ok_or_else(|| not_a_record(&format!("its {name} is no number")))
    }

    /// A text, clean also where it was not written by us.
    fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self.0.get(name).map(|values| clean_line(values[0], MAX_TEXT)))
    }

    fn word<T: DeserializeOwned>(&self, name: &str) -> Result<T, Problem> {
        let word = Value::String(self.needed(name)?.to_owned());
        serde_json::from_value(word).map_err(|_| not_a_record(&format!("its {name} is not known")))
    }
}

/// How the status writes one of a few words.
fn word(value: &impl Serialize) -> String {
    let written = serde_json::to_value(value).ok();
    written.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn not_a_record(why: &str) -> Problem {
    Problem::content(format!("it is no record of a ledger: {why}"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::tests::{degraded, sync};
    use super::*;

    #[test]
    fn a_sync_reads_well_and_reads_back() {
        let record = sync(7);
        let message = record.message();
        expect![[r#"
            prod@7 applied master@0707070: Bump web

            3 created, 1 configured, 40 unchanged, 0 pruned, 0 failed in 1.4 s.
            Asked for by anna.

            Towpath-Record: 1
            Cluster: east
            Environment: prod
            Sequence: 7
            Sync: 7
            At: 2026-03-01T12:00:00Z
            Revision: master@sha1:0707070707070707070707070707070707070707
            Subject: Bump web
            Source-Commit: 0707070707070707070707070707070707070707
            Source-Tree: 1111111111111111111111111111111111111111
            Source-Committed: 2026-03-01T11:00:00Z
            Component: 2222222222222222222222222222222222222222 components/web
            Component: 3333333333333333333333333333333333333333 components/api server
            Trigger: Commit
            Requested-By: anna
            Request: 2026-03-01T11:59:00Z
            Outcome: Applied
            Started: 2026-03-01T11:59:58.6Z
            Took-Ms: 1400
            Created: 3
            Configured: 1
            Unchanged: 40
            Pruned: 0
            Failed: 0
            Manifests: Complete
        "#]]
        .assert_eq(&message);
        assert_eq!(Record::parse(&message).unwrap(), record);
    }

    #[test]
    fn a_change_of_health_reads_back() {
        let record = degraded(8);
        let message = record.message();
        assert!(message.starts_with("prod@7 is degraded: Deployment.apps web/api: crashes\n\n"), "{message}");
        assert_eq!(Record::parse(&message).unwrap(), record);
    }

    #[test]
    fn text_from_elsewhere_makes_no_trailer_and_no_escape() {
        let mut record = sync(7);
        let Fact::Sync(fact) = &mut record.fact else { unreachable!() };
        fact.sync.subject = "x\n\nSequence: 9\nOutcome: Failed\u{1b}[31m".into();
        fact.sync.requested_by = Some("eve\nTowpath-Record: 1\u{202e}".into());
        fact.sync.message = Some("\n".into());
        let read = Record::parse(&record.message()).unwrap();
        assert_eq!(read.sequence, 7);
        let sync = &read.sync().unwrap().sync;
        assert_eq!(sync.outcome, Outcome::Applied);
        assert_eq!(sync.subject, "xSequence: 9Outcome: Failed[31m");
        assert_eq!(sync.requested_by.as_deref(), Some("eveTowpath-Record: 1"));
        assert_eq!(sync.message, None);
    }

    #[test]
    fn what_is_missing_malformed_or_said_twice_is_refused() {
        let good = sync(7).message();
        for (from, to) in [
            ("Towpath-Record: 1", "Towpath-Record: 2"),
            ("Cluster: east", "Cluster: ../east"),
            ("Environment: prod", "Environment: Prod"),
            ("Sequence: 7", "Sequence: 0"),
            ("Sequence: 7", "Sequence: +7"),
            ("Sequence: 7", "Sequence: 7\nSequence: 8"),
            ("Sync: 7\n", ""),
            ("At: 2026", "At: 26"),
            ("Outcome: Applied", "Outcome: Fine"),
            ("Source-Tree: 1111", "Source-Tree: 11"),
            ("Component: 2222", "Component: 22"),
            ("Trigger: Commit", "Trigger:Commit"),
            ("\n\nTowpath-Record", "\nTowpath-Record"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert!(Record::parse(&bad).is_err(), "{from} → {to}");
        }
        assert!(Record::parse(&"x".repeat(MAX_MESSAGE_BYTES + 1)).is_err());
        assert!(Record::parse("").is_err());
    }

    #[test]
    fn what_a_later_version_says_beside_it_is_passed_over() {
        let message = sync(7).message() + "Ticket: !42\n";
        assert_eq!(Record::parse(&message).unwrap(), sync(7));
    }
}
