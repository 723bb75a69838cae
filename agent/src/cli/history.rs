//! `towpath history`: the last syncs of an environment, by its status, or all of them, by its ledger.

use jiff::Timestamp;
use towpath_core::ledger::Entry;
use towpath_core::revision::clean_line;
use towpath_core::status::SyncRecord;

use super::access::Flags;
use super::exit::{Code, Failure};
use super::output::{self, Document, Format};
use super::remote::Remote;
use crate::web::records::{History, MAX_LIMIT, RecordEntry};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the environment; cluster/environment for one of another agent, which needs --agent.
    name: String,
    /// What ran at this time, such as 2026-03-01T12:00:00Z. Needs --agent.
    #[arg(long, value_name = "TIME", requires = "agent")]
    at: Option<Timestamp>,
    /// How many records of the ledger are shown at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, requires = "agent")]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
    /// How the syncs are printed.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Flags,
}

const HEADER: [&str; 8] = ["AGE", "REVISION", "SUBJECT", "TRIGGER", "BY", "OUTCOME", "TOOK", "CHANGES"];

const RECORD_HEADER: [&str; 7] = ["SYNC", "AT", "WHAT", "REVISION", "BY", "TOOK", "CHANGES"];

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    if args.remote.agent.is_some() {
        return of_ledger(args).await;
    }
    let access = args.access.open().await?;
    let environment = access.environment(&args.name).await?;
    let history = environment.status.unwrap_or_default().history;
    match args.output {
        Format::Json => output::document(&history, Document::Json)?,
        Format::Yaml => output::document(&history, Document::Yaml)?,
        Format::Name => {
            let revisions: String = history.iter().map(|sync| format!("{}\n", sync.revision)).collect();
            output::data(&revisions)?;
        }
        Format::Table | Format::Wide if history.is_empty() => {
            output::progress(&format!("{} was never synced", args.name));
        }
        Format::Table => output::data(&table(&history, Timestamp::now(), false, output::terminal_width()))?,
        Format::Wide => output::data(&table(&history, Timestamp::now(), true, None))?,
    }
    Ok(Code::Done)
}

/// By the ledger, which an agent reads and verifies.
async fn of_ledger(args: Args) -> Result<Code, Failure> {
    let entry: Entry = args.name.parse()?;
    let (limit, at) = (args.limit.to_string(), args.at.map(|at| at.to_string()));
    let mut query = vec![("limit", limit.as_str())];
    query.extend(entry.cluster.as_deref().map(|cluster| ("cluster", cluster)));
    query.extend(at.as_deref().map(|at| ("at", at)));
    let history: History = args.remote.ask(&["environments", entry.environment.as_str(), "history"], &query).await?;
    match args.output {
        Format::Json => output::document(&history, Document::Json)?,
        Format::Yaml => output::document(&history, Document::Yaml)?,
        Format::Name => {
            output::data(&history.records.iter().map(|record| format!("{}\n", record.name)).collect::<String>())?;
        }
        Format::Table | Format::Wide if history.records.is_empty() => output::progress("there is no such record"),
        Format::Table | Format::Wide => {
            let is_wide = args.output == Format::Wide;
            let rows: Vec<Vec<String>> = history.records.iter().map(|record| recorded(record, is_wide)).collect();
            let width = if is_wide { None } else { output::terminal_width() };
            output::data(&output::table(&RECORD_HEADER, &rows, width))?;
            if history.has_more && at.is_none() {
                let more = if (args.limit as usize) < MAX_LIMIT { "--limit shows more" } else { "git log shows them" };
                output::progress(&format!("there are older records: {more}"));
            }
        }
    }
    Ok(Code::Done)
}

fn recorded(record: &RecordEntry, is_wide: bool) -> Vec<String> {
    let clean = |text: &str| clean_line(text, 200);
    let dash = || "-".to_owned();
    let what = match (&record.health, record.outcome) {
        (Some(health), _) => health.clone(),
        (None, Some(outcome)) => format!("{outcome:?}"),
        (None, None) => dash(),
    };
    let revision = record.revision.as_deref().map(clean);
    let revision = if is_wide { revision } else { revision.map(|text| output::short_revisions(&text)) };
    let changes = match record.objects {
        Some([created, configured, _, pruned, failed]) => counted([created, configured, pruned, failed]),
        None => record.message.as_deref().map_or_else(dash, clean),
    };
    vec![
        clean(&record.name),
        record.at.round(jiff::Unit::Second).unwrap_or(record.at).to_string(),
        what,
        revision.unwrap_or_else(dash),
        record.requested_by.as_deref().map_or_else(dash, clean),
        record.took_ms.map_or_else(dash, took),
        changes,
    ]
}

fn table(history: &[SyncRecord], now: Timestamp, is_wide: bool, width: Option<usize>) -> String {
    let header = if is_wide { [&HEADER[..], &["MESSAGE"]].concat() } else { HEADER.to_vec() };
    let rows: Vec<Vec<String>> = history.iter().map(|sync| row(sync, now, is_wide)).collect();
    output::table(&header, &rows, width)
}

fn row(sync: &SyncRecord, now: Timestamp, is_wide: bool) -> Vec<String> {
    let revision = if is_wide { sync.revision.clone() } else { output::short_revisions(&sync.revision) };
    let subject: String = if is_wide { sync.subject.clone() } else { sync.subject.chars().take(50).collect() };
    let mut row = vec![
        output::age(sync.started_at, now),
        revision,
        subject,
        format!("{:?}", sync.trigger),
        sync.requested_by.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{:?}", sync.outcome),
        took(sync.took_ms),
        changes(sync),
    ];
    if is_wide {
        row.push(sync.message.as_deref().map(output::short_revisions).unwrap_or_default());
    }
    row
}

fn took(milliseconds: i64) -> String {
    match milliseconds {
        ..1000 => format!("{milliseconds}ms"),
        1000..60_000 => format!("{:.1}s", milliseconds as f64 / 1000.0),
        _ => format!("{}m{}s", milliseconds / 60_000, milliseconds / 1000 % 60),
    }
}

/// Only what happened: `3 created, 1 pruned`.
fn changes(sync: &SyncRecord) -> String {
    let SyncRecord { created, configured, pruned, failed, .. } = sync;
    counted([*created, *configured, *pruned, *failed])
}

fn counted(counts: [u32; 4]) -> String {
    let named = counts.iter().zip(["created", "configured", "pruned", "failed"]);
    let said: Vec<String> =
        named.filter(|(count, _)| **count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if said.is_empty() { "none".to_owned() } else { said.join(", ") }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use towpath_core::status::{Outcome, Trigger};

    use super::*;

    #[test]
    fn a_history_reads_newest_first_with_what_happened() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let id = "0123456789abcdef0123456789abcdef01234567";
        let good = SyncRecord {
            number: 1,
            request: None,
            health: None,
            revision: format!("master@sha1:{id}"),
            subject: "Raise the memory limit".into(),
            trigger: Trigger::Commit,
            requested_by: None,
            started_at: "2026-01-01T11:57:00Z".parse().unwrap(),
            took_ms: 1234,
            outcome: Outcome::Applied,
            created: 2,
            configured: 1,
            unchanged: 9,
            pruned: 0,
            failed: 0,
            took_over: Vec::new(),
            message: None,
            hooks: Vec::new(),
        };
        let bad = SyncRecord {
            trigger: Trigger::Request,
            requested_by: Some("ada".into()),
            started_at: "2026-01-01T10:00:00Z".parse().unwrap(),
            took_ms: 80_000,
            outcome: Outcome::Failed,
            created: 0,
            configured: 0,
            failed: 1,
            message: Some("forbidden".into()),
            ..good.clone()
        };
        let text = table(&[good, bad], now, false, None);
        expect![[r#"
            AGE  REVISION        SUBJECT                 TRIGGER  BY   OUTCOME  TOOK   CHANGES
            3m   master@0123456  Raise the memory limit  Commit   -    Applied  1.2s   2 created, 1 configured
            2h   master@0123456  Raise the memory limit  Request  ada  Failed   1m20s  1 failed
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&text).to_string());
    }
}
