//! What the ledgers say: how well releases go, what was recorded, and the environments of other clusters.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use towpath_core::ledger::figures::{Figures, figures};
use towpath_core::ledger::{Fact, Record};
use towpath_core::revision::CommitId;
use towpath_core::status::{Outcome, SyncRecord, Trigger};

use super::super::records::{LedgerEntry, RecordEntry, USUAL_DAYS};
use super::super::words;
use super::detail::table;
use super::rollback::{Back, Listed, Passed};
use super::time;

/// Records that a page lists.
const LISTED: usize = 15;
/// Width of the plot of one day, in its own units.
const DAY: usize = 12;
/// Height of the plot.
const HEIGHT: usize = 64;

/// Figures, a plot of each day, and the last records of one environment. `records` are the newest first.
pub(super) fn section(records: &[(CommitId, Arc<Record>)], back: &Back, now: Timestamp) -> Markup {
    let headings = ["Sync", "When", "What", "Revision", "Record", "Back"];
    let headings = &headings[..headings.len() - usize::from(!back.is_offered())];
    let seen_healthy: BTreeSet<u64> =
        records.iter().filter(|(_, record)| is_healthy(record)).map(|(_, record)| record.sync).collect();
    let mut passed = Passed::default();
    let mut line = |(commit, record): &(CommitId, Arc<Record>)| {
        let mut cells = row(*commit, record, now);
        cells.push(match &record.fact {
            Fact::Sync(fact) if fact.sync.outcome == Outcome::Applied => {
                let SyncRecord { revision, trigger, .. } = &fact.sync;
                let was_healthy = seen_healthy.contains(&record.sync);
                let listed = Listed { number: record.sync, revision, trigger: *trigger, was_healthy };
                back.button(&listed, &mut passed)
            }
            _ => Markup::default(),
        });
        cells
    };
    let from = now - SignedDuration::from_hours(24 * i64::from(USUAL_DAYS));
    let found = figures(records.iter().rev().map(|(_, record)| &**record), from, now);
    html! {
        section aria-labelledby="releases" {
            h2 #releases { "Releases of the last " (USUAL_DAYS) " days" }
            div.card {
                (numbers(&found))
                (plot(records, now))
            }
        }
        section {
            h2 { "Ledger" }
            (table(headings, records.iter().take(LISTED).map(&mut line)))
        }
    }
}

fn numbers(found: &Figures) -> Markup {
    let fact = |name: &str, value: String| html! { div { dt { (name) } dd { (value) } } };
    let dash = || "–".to_owned();
    let lasting = |seconds: Option<f64>| seconds.map_or_else(dash, |seconds| words::took((seconds * 1000.0) as i64));
    let part = found.change_failure_rate.map_or_else(dash, |rate| format!("{:.0} %", rate * 100.0));
    html! {
        dl.facts {
            (fact("Deployments", format!("{} ({:.1} a day)", found.deployments, found.deployments_a_day)))
            (fact("Lead time, median", lasting(found.lead_time_seconds)))
            (fact("Changes that failed", part))
            (fact("Time to restore, median", lasting(found.time_to_restore_seconds)))
            (fact("Sync, median", found.sync_p50_ms.map_or_else(dash, |took| words::took(took as i64))))
            (fact("Sync, 95 of 100", found.sync_p95_ms.map_or_else(dash, |took| words::took(took as i64))))
        }
    }
}

/// Syncs of each day: those that were applied, and on top of them those that failed.
fn plot(records: &[(CommitId, Arc<Record>)], now: Timestamp) -> Markup {
    let days = usize::from(USUAL_DAYS);
    let mut counts = vec![(0usize, 0usize); days];
    for (_, record) in records {
        let Fact::Sync(fact) = &record.fact else { continue };
        let ago = now.duration_since(record.at).as_hours() / 24;
        let Some(count) = usize::try_from(ago).ok().and_then(|ago| days.checked_sub(ago + 1)) else { continue };
        match fact.sync.outcome {
            Outcome::Failed => counts[count].1 += 1,
            Outcome::Applied | Outcome::Overtaken => counts[count].0 += 1,
        }
    }
    let most = counts.iter().map(|(good, bad)| good + bad).max().unwrap_or(0).max(1);
    let (good, bad) = counts.iter().fold((0, 0), |(good, bad), count| (good + count.0, bad + count.1));
    let said = format!(
        "Syncs of each of the last {days} days: {good} were applied and {bad} failed, at most {most} on one day."
    );
    let height = |count: usize| count * HEIGHT / most;
    html! {
        svg.plot viewBox={ "0 0 " (days * DAY) " " (HEIGHT + 4) } role="img" aria-label=(said) preserveAspectRatio="none" {
            line.axis x1="0" x2=(days * DAY) y1=(HEIGHT + 2) y2=(HEIGHT + 2) {}
            @for (day, (good, bad)) in counts.iter().enumerate() {
                @if *good > 0 {
                    rect.good x=(day * DAY + 2) width=(DAY - 4) y=(HEIGHT - height(*good)) height=(height(*good)) rx="1.5" {}
                }
                @if *bad > 0 {
                    rect.bad x=(day * DAY + 2) width=(DAY - 4) y=(HEIGHT - height(*good) - height(*bad)) height=(height(*bad)) rx="1.5" {}
                }
            }
        }
        p.soft { "Syncs a day: applied " span.good { "■" } ", failed " span.bad { "■" } ", today on the right." }
    }
}

fn is_healthy(record: &Record) -> bool {
    matches!(&record.fact, Fact::Health(health) if health.is_healthy)
}

fn row(commit: CommitId, record: &Record, now: Timestamp) -> Vec<Markup> {
    let entry = RecordEntry::of(record, Some(commit));
    let (tone, what) = outcome(&entry);
    vec![
        html! { span.word { (entry.name) } },
        time(entry.at, now),
        html! {
            span.badge.(tone) { (what) }
            @if entry.trigger == Some(Trigger::Rollback) { " " span.soft { "rollback" } }
            @if let Some(by) = &entry.requested_by { " " span.soft { "for " (by) } }
            @if let Some(message) = &entry.message { div.clip { (message) } }
        },
        html! {
            @if let Some(revision) = &entry.revision {
                code.commit title=(revision) { (words::revision(revision).1) } " "
                @if let Some(subject) = &entry.subject { div.clip { (subject) } }
            }
        },
        html! { code.commit title=(commit) { (commit.short()) } },
    ]
}

fn outcome(entry: &RecordEntry) -> (&'static str, String) {
    match (&entry.health, entry.outcome) {
        (Some(health), _) => (if health == "Healthy" { "good" } else { "bad" }, health.clone()),
        (None, Some(Outcome::Applied)) => ("good", "Applied".to_owned()),
        (None, Some(Outcome::Failed)) => ("bad", "Failed".to_owned()),
        (None, _) => ("idle", "Overtaken".to_owned()),
    }
}

/// The environments of other clusters, and ledgers of any that are not used.
pub(super) fn others(ledgers: &[LedgerEntry], now: Timestamp) -> Markup {
    let shown: Vec<&LedgerEntry> = ledgers.iter().filter(|ledger| !ledger.own || ledger.problem.is_some()).collect();
    let row = |ledger: &&LedgerEntry| {
        let last = ledger.last.as_ref();
        vec![
            html! { span.word { (ledger.cluster) } },
            html! { span.word { (ledger.environment) } },
            html! {
                @if let Some(revision) = last.and_then(|last| last.revision.as_ref()) {
                    code.commit title=(revision) { (words::revision(revision).1) } " "
                    span.soft { (words::revision(revision).0) }
                }
                @if let Some(last) = last { " " span.soft { (last.name) } }
            },
            html! {
                @match (&ledger.problem, last) {
                    (Some(problem), _) => { span.badge.bad { "not used" } div.clip { (problem) } }
                    (None, Some(last)) => { @let (tone, what) = outcome(last); span.badge.(tone) { (what) } }
                    (None, None) => {}
                }
            },
            html! { @if let Some(last) = last { (time(last.at, now)) } },
        ]
    };
    html! {
        @if !shown.is_empty() {
            section aria-labelledby="others" {
                h2 #others { "Other clusters, by their ledgers" }
                (table(&["Cluster", "Environment", "Last sync", "How it went", "When"], shown.iter().map(row)))
            }
        }
    }
}
