//! The page of one environment: what runs, what is wrong, what was done, and the branches it may follow.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use maud::{Markup, html};
use towpath_core::names::annotation;
use towpath_core::status::{EnvironmentStatus, KeptStatus, Outcome, SyncRecord, Trigger};

use super::super::lookout;
use super::super::words;
use super::{badges, entry_text, frame, revision, time, tone_of_health};
use crate::resources::{Drift, Environment, Repository, Sync};

/// The page of one environment.
pub(in crate::web) fn environment(
    environment: &Environment,
    repositories: &[Arc<Repository>],
    now: Timestamp,
) -> String {
    let name = environment.name_any();
    let repository = lookout::repository_of(environment, repositories);
    let unknown = EnvironmentStatus::default();
    let status = environment.status.as_ref().unwrap_or(&unknown);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let entries = lookout::about_environment(environment);
    let main = html! {
        p.back { a href="/" { "All environments" } }
        div.headline {
            h1 { (name) }
            p { (badges(environment.status.as_ref())) }
        }
        @if let Some(ready) = ready { p.summary { (words::brief(&ready.message)) } } @else { p.summary { "The agent has not looked at it yet." } }
        (request(environment, status))
        @if !entries.is_empty() { ul.entries { @for entry in &entries { li.entry.(entry.urgency.word()) { (entry_text(entry, false)) } } } }
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
                    None => p.soft { "Nothing newer: it runs what its lane says." },
                }
            }
        }
        (facts(environment, repository.map(|found| &**found)))
        (listed("Problems", &status.problems))
        (listed("Warnings", &status.warnings))
        (unhealthy(status))
        (kept(&status.kept))
        (drift(environment, status, now))
        (history(&status.history, now))
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
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    html! {
        section aria-label="Settings" {
            dl.facts {
                (fact("Lane", html! { (stage.name) @if !stage.note.is_empty() { " " span.soft { "(" (stage.note) ")" } } }))
                (fact("Path", html! { code { (spec.path) } }))
                (fact("Namespace", html! { (spec.namespace.as_deref().unwrap_or(&home)) }))
                (fact("Repository", html! { (home) "/" (spec.repository) }))
                (fact("Sync", html! { (if spec.sync == Sync::Manual { "on request" } else { "automatic" }) }))
                (fact("Drift", html! { (if spec.drift == Drift::Report { "only reported" } else { "mended at once" }) }))
                (fact("Deletion", html! { (if spec.prune.unwrap_or(true) { "objects that leave git are deleted" } else { "nothing is deleted" }) }))
                (fact("Objects", html! { (environment.status.as_ref().map_or(0, |status| status.objects)) }))
            }
        }
    }
}

fn listed(heading: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            section { h2 { (heading) " " span.number { (lines.len()) } } ul.lines.card { @for line in lines { li { (line) } } } }
        }
    }
}

fn unhealthy(status: &EnvironmentStatus) -> Markup {
    html! {
        @if !status.unhealthy.is_empty() {
            section {
                h2 { "Objects that are not healthy " span.number { (status.unhealthy.len()) } }
                table.cards {
                    thead { tr { th { "Object" } th { "Health" } th { "Why" } } }
                    tbody {
                        @for object in &status.unhealthy {
                            tr {
                                td data-label="Object" { code { (object.object) } }
                                td data-label="Health" { span.badge.(tone_of_health(Some(object.health))) { (words::health(Some(object.health))) } }
                                td data-label="Why" { (object.message) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn kept(kept: &[KeptStatus]) -> Markup {
    html! {
        @if !kept.is_empty() {
            section {
                h2 { "Kept although they left git " span.number { (kept.len()) } }
                table.cards {
                    thead { tr { th { "Object" } th { "Why it stays" } } }
                    tbody { @for object in kept { tr { td data-label="Object" { code { (object.object) } } td data-label="Why it stays" { (object.reason) } } } }
                }
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
                    span.soft { "Last found " (time(drift.at, now)) "; " (done) " " (words::count(drift.count as usize, "time", "times")) " since this revision runs." }
                }
            }
        }
    }
}

fn history(history: &[SyncRecord], now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "History" }
            @if history.is_empty() { p.soft { "Nothing was synced yet." } }
            @else {
                table.cards {
                    thead { tr { th { "When" } th { "Revision" } th { "Why" } th { "Outcome" } th { "Objects" } th { "Took" } } }
                    tbody { @for sync in history { (record(sync, now)) } }
                }
            }
        }
    }
}

fn record(sync: &SyncRecord, now: Timestamp) -> Markup {
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
    html! {
        tr {
            td data-label="When" { (time(sync.started_at, now)) }
            td data-label="Revision" {
                div { code.commit title=(sync.revision) { (commit) } " " span.soft { (branch) } div.clip { (sync.subject) } }
            }
            td data-label="Why" { div { (why) @if let Some(by) = &sync.requested_by { " by " (by) } } }
            td data-label="Outcome" {
                div { span.badge.(tone) { (outcome) } @if let Some(message) = &sync.message { div.clip { (message) } } }
            }
            td data-label="Objects" { (if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }) }
            td.took data-label="Took" { (words::took(sync.took_ms)) }
        }
    }
}

fn conditions(status: &EnvironmentStatus, now: Timestamp) -> Markup {
    html! {
        @if !status.conditions.is_empty() {
            section {
                h2 { "Conditions" }
                table.cards {
                    thead { tr { th { "Type" } th { "Status" } th { "Reason" } th { "Message" } th { "Since" } } }
                    tbody {
                        @for condition in &status.conditions {
                            tr {
                                td data-label="Type" { (condition.type_) }
                                td data-label="Status" { (condition.status) }
                                td data-label="Reason" { (condition.reason) }
                                td data-label="Message" { (words::brief(&condition.message)) }
                                td data-label="Since" { (time(condition.last_transition_time, now)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn branches(repository: &Repository) -> Markup {
    let status = repository.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    html! {
        section {
            h2 { "Repository " (repository.name_any()) }
            div.card {
                p.address { (words::shown_url(&repository.spec.url)) }
                @if let Some(ready) = ready {
                    p { span.badge.(if ready.status == "True" { "good" } else { "bad" }) { (ready.reason) } " " (ready.message) }
                }
                ul.branches {
                    @for branch in &status.branches {
                        li {
                            span.branch { (branch.name) } " " code.commit title=(branch.commit) { (words::revision(&branch.commit).1) }
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
