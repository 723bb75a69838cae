//! `towpath show`: one sync as the ledger has it.

use std::fmt::Write;

use towpath_core::fault::Problem;
use towpath_core::ledger::Entry;
use towpath_core::revision::clean_line;

use super::exit::{Code, Failure};
use super::output::{self, Document};
use super::remote::Remote;
use crate::web::records::{RecordEntry, SyncEntry};

/// Characters of a text that may have come from anywhere.
const MAX_TEXT: usize = 500;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sync: environment@number such as prod@7, or cluster/environment@number.
    #[arg(value_name = "SYNC")]
    sync: Entry,
    /// The whole record as a document.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<Document>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let Some(number) = args.sync.sync else {
        let problem = Problem::setup(format!("it is not said which sync of {} is meant", args.sync.environment));
        return Err(problem.hint(format!("write {}@ and a number of towpath history", args.sync.environment)).into());
    };
    let number = number.to_string();
    let cluster: Vec<(&str, &str)> = args.sync.cluster.iter().map(|cluster| ("cluster", cluster.as_str())).collect();
    let path = ["environments", args.sync.environment.as_str(), "syncs", &number];
    let entry: SyncEntry = args.remote.ask(&path, &cluster).await?;
    match args.output {
        Some(format) => output::document(&entry, format)?,
        None => output::data(&text(&entry))?,
    }
    Ok(Code::Done)
}

fn text(entry: &SyncEntry) -> String {
    let RecordEntry { name, cluster, at, revision, subject, outcome, trigger, objects, .. } = &entry.record;
    let mut text = String::new();
    let clean = |text: &Option<String>| text.as_deref().map(|text| clean_line(text, MAX_TEXT)).unwrap_or_default();
    let _ = writeln!(text, "{name} in {cluster}, {at}");
    let _ = writeln!(text, "revision   {}", clean(revision));
    let _ = writeln!(text, "subject    {}", clean(subject));
    if let (Some(outcome), Some(trigger)) = (outcome, trigger) {
        let _ = writeln!(text, "outcome    {outcome:?}, by {trigger:?}");
    }
    if let Some(who) = &entry.record.requested_by {
        let _ = writeln!(text, "asked by   {}", clean_line(who, MAX_TEXT));
    }
    if let Some([created, configured, unchanged, pruned, failed]) = objects {
        let _ = writeln!(
            text,
            "objects    {created} created, {configured} configured, {unchanged} unchanged, {pruned} pruned, {failed} failed"
        );
    }
    for (path, commit) in &entry.record.components {
        let _ = writeln!(text, "component  {} {}", clean_line(path, MAX_TEXT), commit.short());
    }
    if let Some(commit) = &entry.record.commit {
        let _ = writeln!(text, "record     {commit}");
    }
    text.push('\n');
    for line in entry.log.lines() {
        let _ = writeln!(text, "  {}", clean_line(line, 1000));
    }
    let whose = if entry.complete { "applied" } else { "applied by an earlier sync" };
    let _ = writeln!(text, "\n{} {whose}:", output::counted(entry.files.len(), "file"));
    for file in &entry.files {
        let _ = writeln!(text, "  {}", clean_line(file, MAX_TEXT));
    }
    text
}
