//! The page of one environment: what runs, what is wrong, what was done, and the branches it may follow.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use maud::{Markup, html};
use towpath_core::changelog::Changelog;
use towpath_core::hygiene::REVERTS_SETTLED;
use towpath_core::ledger::Record;
use towpath_core::names::annotation;
use towpath_core::revision::CommitId;
use towpath_core::status::{EnvironmentStatus, KeptStatus, Outcome, SyncRecord, Trigger};

use super::super::lookout;
use super::super::words;
use super::rollback::{Back, Listed, Passed};
use super::{badges, frame, ledger, list, releases, revision, rollback, sync_mode, time, tone_of_health};
use crate::resources::{Drift, Environment, Repository};

/// What is known beside an environment.
pub(in crate::web) struct Known<'a> {
    /// Of all repositories.
    pub(in crate::web) repositories: &'a [Arc<Repository>],
    /// The newest records of its ledger, where it has one.
    pub(in crate::web) records: Option<&'a [(CommitId, Arc<Record>)]>,
    /// What its candidate would bring.
    pub(in crate::web) brings: Option<&'a Result<Changelog, String>>,
    /// Whether something can be asked of the agent through its page.
    pub(in crate::web) may_ask: bool,
}

/// The page of one environment.
pub(in crate::web) fn environment(environment: &Environment, known: &Known<'_>, now: Timestamp) -> String {
    let Known { repositories, records, brings, may_ask } = *known;
    let name = environment.name_any();
    let repository = lookout::repository_of(environment, repositories);
    let unknown = EnvironmentStatus::default();
    let status = environment.status.as_ref().unwrap_or(&unknown);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let entries = lookout::about_environment(environment);
    let back = Back::new(environment, status, may_ask);
    let main = html! {
        p.back { a href="/" { "All environments" } }
        div.headline {
            h1 { (name) }
            p { (badges(environment.status.as_ref())) }
        }
        p.summary {
            @match ready {
                Some(ready) => (words::brief(&ready.message)),
                None => "The agent has not looked at it yet.",
            }
        }
        (request(environment, status))
        @if !entries.is_empty() { (list(&entries, false)) }
        (rollback::course(&name, status, now))
        div.pair {
            section.card {
                h2 { "Running" }
                @match &status.running {
                    Some(running) => {
                        (revision(running, status.running_since, now))
                        p.soft.address { (running.revision) }
                    },
                    None => p.soft { "Nothing yet" },
                }
            }
            section.card {
                h2 { "Candidate" }
                @match &status.candidate {
                    Some(candidate) => {
                        (revision(candidate, None, now))
                        p.soft.address { (candidate.revision) }
                    },
                    None => @match (&status.held, &status.gate) {
                        (Some(held), _) => p { span.wait { "Held: " } (words::brief(held)) },
                        (None, Some(gate)) => p { span.wait { (words::brief(&gate.revision)) } " " (words::brief(&gate.message)) },
                        (None, None) => p.soft { "Nothing newer: it runs what its lane says." },
                    },
                }
            }
        }
        @if let Some(told) = brings { (releases::brings(told, now)) }
        (facts(environment, repository.map(|found| &**found)))
        (listed("Problems", &status.problems))
        (listed("Warnings", &status.warnings))
        (unhealthy(status))
        (leftovers("Kept although they left git", &status.leftovers.kept, status.leftovers.kept_count, now))
        (leftovers("Orphans: not proven to be ours, never deleted", &status.leftovers.orphans, status.leftovers.orphan_count, now))
        (drift(environment, status, now))
        (rollback::section(environment, status, may_ask, now))
        @match records {
            Some(records) => (ledger::section(records, &back, now)),
            None => (history(&status.history, &back, now)),
        }
        (conditions(status, now))
        @if let Some(repository) = repository { (branches(repository)) }
    };
    frame(&format!("{name} – Towpath"), main)
}

/// A request for a sync that was not acted on yet, or how to make one.
fn request(environment: &Environment, status: &EnvironmentStatus) -> Markup {
    let annotations = environment.annotations();
    let requested = annotations.get(annotation::REQUESTED_AT).filter(|id| !id.is_empty());
    let pending = requested.filter(|id| status.last_handled_request.as_ref() != Some(id));
    html! {
        @if let Some(id) = pending {
            p.plain {
                "A sync was requested"
                @if let Some(by) = annotations.get(annotation::REQUESTED_BY) { " by " (by) }
                " and is not acted on yet (" code { (id) } ")."
            }
        }
    }
}

fn facts(environment: &Environment, repository: Option<&Repository>) -> Markup {
    let spec = &environment.spec;
    let stage = lookout::stage(environment, repository);
    let home = environment.namespace().unwrap_or_default();
    let objects = environment.status.as_ref().map_or(0, |status| status.objects);
    let drift = match spec.drift {
        Drift::Correct => "mended at once",
        Drift::Report => "only reported",
    };
    let deletion = if spec.prune.unwrap_or(true) { "of objects that leave git" } else { "of nothing" };
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    let lane = html! { (stage.name) @if !stage.note.is_empty() { " " span.soft { "(" (stage.note) ")" } } };
    html! {
        section aria-label="Settings" {
            dl.facts {
                (fact("Lane", lane))
                (fact("Path", html! { code { (spec.path) } }))
                (fact("Namespace", html! { (spec.namespace.as_deref().unwrap_or(&home)) }))
                (fact("Repository", html! { (home) "/" (spec.repository) }))
                (fact("Sync", html! { (sync_mode(spec.sync)) }))
                (fact("Drift", html! { (drift) }))
                (fact("Deletion", html! { (deletion) }))
                (fact("Objects", html! { (objects) }))
            }
        }
    }
}

fn listed(heading: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            section {
                (counted(heading, lines.len()))
                ul.lines.card { @for line in lines { li { (line) } } }
            }
        }
    }
}

fn counted(heading: &str, count: usize) -> Markup {
    html! { h2 { (heading) " " span.number { (count) } } }
}

/// A table that becomes a list of cards where there is no room for it; each cell repeats its heading there.
pub(super) fn table(headings: &[&str], rows: impl Iterator<Item = Vec<Markup>>) -> Markup {
    html! {
        table.cards {
            thead { tr { @for heading in headings { th { (heading) } } } }
            tbody {
                @for row in rows {
                    tr {
                        @for (cell, heading) in row.iter().zip(headings) { td data-label=(heading) { div { (cell) } } }
                    }
                }
            }
        }
    }
}

fn unhealthy(status: &EnvironmentStatus) -> Markup {
    let rows = status.unhealthy.iter().map(|object| {
        let health = Some(object.health);
        vec![
            html! { code { (object.object) } },
            html! { span.badge.(tone_of_health(health)) { (words::health(health)) } },
            html! {
                (object.message)
                @if !object.log.is_empty() {
                    details { summary { "What its container said last" } pre { (object.log.join("\n")) } }
                }
            },
        ]
    });
    html! {
        @if !status.unhealthy.is_empty() {
            section {
                (counted("Objects that are not healthy", status.unhealthy.len()))
                (table(&["Object", "Health", "Why"], rows))
            }
        }
    }
}

fn leftovers(heading: &str, objects: &[KeptStatus], count: u32, now: Timestamp) -> Markup {
    let rows = objects.iter().map(|object| {
        vec![
            html! { code { (object.object) } },
            html! { (words::brief(&object.reason)) },
            object.since.map_or_else(Markup::default, |since| time(since, now)),
        ]
    });
    html! {
        @if !objects.is_empty() {
            section {
                (counted(heading, objects.len().max(count as usize)))
                (table(&["Object", "Why it stays", "Since"], rows))
            }
        }
    }
}

fn drift(environment: &Environment, status: &EnvironmentStatus, now: Timestamp) -> Markup {
    let done = if environment.spec.drift == Drift::Report { "reported" } else { "mended" };
    html! {
        @if let Some(drift) = &status.drift {
            section {
                h2 { "Drift" }
                p.card {
                    code { (drift.object) } ": " (drift.message) br;
                    span.soft {
                        "Last found " (time(drift.at, now)) "; " (done) " "
                        (words::count(drift.count as usize, "time", "times")) " since this revision runs."
                    }
                }
            }
        }
    }
}

fn history(history: &[SyncRecord], back: &Back, now: Timestamp) -> Markup {
    let headings = ["When", "Revision", "Why", "Outcome", "Objects", "Took", "Back"];
    let headings = &headings[..headings.len() - usize::from(!back.is_offered())];
    let mut passed = Passed::default();
    let mut row = |sync: &SyncRecord| {
        let was_healthy = sync.outcome == Outcome::Applied && sync.health.as_ref().is_some_and(|seen| seen.is_healthy);
        let listed = Listed { number: sync.number, revision: &sync.revision, trigger: sync.trigger, was_healthy };
        let mut cells = record(sync, now);
        cells.push(back.button(&listed, &mut passed));
        cells
    };
    html! {
        section {
            h2 { "History" }
            @if history.is_empty() { p.soft { "Nothing was synced yet." } }
            @else { (table(headings, history.iter().map(&mut row))) }
        }
    }
}

fn record(sync: &SyncRecord, now: Timestamp) -> Vec<Markup> {
    let (branch, commit) = words::revision(&sync.revision);
    let (tone, outcome) = match sync.outcome {
        Outcome::Applied => ("good", "Applied"),
        Outcome::Failed => ("bad", "Failed"),
        Outcome::Overtaken => ("idle", "Overtaken"),
    };
    let why = match sync.trigger {
        Trigger::Commit => "new commit",
        Trigger::Request => "requested",
        Trigger::Settings => "settings changed",
        Trigger::Retry => "tried again",
        Trigger::Drift => "drift",
        Trigger::Rollback => "rollback",
    };
    let counts = [
        (sync.created, "created"),
        (sync.configured, "configured"),
        (sync.pruned, "pruned"),
        (sync.failed, "failed"),
        (sync.unchanged, "unchanged"),
    ];
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    vec![
        time(sync.started_at, now),
        html! {
            code.commit title=(sync.revision) { (commit) } " " span.soft { (branch) }
            div.clip { (sync.subject) }
        },
        html! { (why) @if let Some(by) = &sync.requested_by { " by " (by) } },
        html! {
            span.badge.(tone) { (outcome) }
            @if let Some(message) = &sync.message { div.clip { (message) } }
        },
        html! { (counts) },
        html! { span.word { (words::took(sync.took_ms)) } },
    ]
}

fn conditions(status: &EnvironmentStatus, now: Timestamp) -> Markup {
    let rows = status.conditions.iter().map(|condition| {
        vec![
            html! { span.word { (condition.type_) } },
            html! { span.word { (condition.status) } },
            html! { span.word { (condition.reason) } },
            html! { (words::brief(&condition.message)) },
            time(condition.last_transition_time, now),
        ]
    });
    html! {
        @if !status.conditions.is_empty() {
            section {
                h2 { "Conditions" }
                (table(&["Type", "Status", "Reason", "Message", "Since"], rows))
            }
        }
    }
}

fn branches(repository: &Repository) -> Markup {
    let status = repository.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let settled = status.conditions.iter().find(|condition| condition.type_ == REVERTS_SETTLED);
    html! {
        section {
            h2 { "Repository " (repository.name_any()) }
            div.card {
                p.address { (words::shown_url(&repository.spec.url)) }
                @if let Some(ready) = ready {
                    @let tone = if ready.status == "True" { "good" } else { "bad" };
                    p { span.badge.(tone) { (ready.reason) } " " (ready.message) }
                }
                @if let Some(settled) = settled.filter(|settled| settled.status == "False") {
                    p { span.badge.wait { "Reverts to settle" } " " (words::brief(&settled.message)) " " a href="/releases" { "All of them" } }
                }
                ul.branches {
                    @for branch in &status.branches {
                        li {
                            span.branch { (branch.name) } " "
                            code.commit title=(branch.commit) { (words::revision(&branch.commit).1) }
                            @if branch.deleted { " " span.badge.bad { "deleted on the server" } }
                        }
                    }
                }
                @if !status.alarms.is_empty() {
                    h3 { "Alarms" }
                    ul.lines { @for alarm in &status.alarms { li { (words::brief(alarm)) } } }
                }
            }
        }
    }
}
