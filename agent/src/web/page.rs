//! The status page. It is made on the server from what the board shows, and is whole without the script, which only
//! fetches it again.
//!
//! Everything that comes from commits, objects or people is escaped by maud. Links lead to own paths only, and every
//! state is said in a word: colour repeats it.

mod detail;
mod ledger;
mod releases;
mod rollback;

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use maud::{DOCTYPE, Markup, html};
use towpath_core::health::Health;
use towpath_core::status::{EnvironmentStatus, RevisionStatus, State};

use super::assets;
use super::lookout::{self, Entry, Stage};
use super::records::LedgerEntry;
use super::words;
use crate::resources::{Environment, Repository, Sync};

pub(super) use detail::{Known, environment};
pub(super) use releases::releases;
pub(super) use rollback::{View, not_taken, rollback};

/// The frame around every page.
fn frame(title: &str, main: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" type="image/svg+xml" href=(assets::SIGN.path);
                link rel="stylesheet" href=(assets::STYLE.path);
                script src=(assets::SCRIPT.path) defer {}
            }
            body {
                header.top {
                    a.brand href="/" {
                        img src=(assets::SIGN.path) alt="" width="28" height="28";
                        "Towpath"
                    }
                    nav aria-label="Pages" { a href="/" { "Environments" } " " a href="/releases" { "Releases" } }
                    p #connection hidden role="status" { "The agent does not answer: this page may be out of date." }
                }
                main { (main) }
                footer {
                    "Towpath " (env!("CARGO_PKG_VERSION")) " · the same as JSON: "
                    a href="/api/v1/environments" { "environments" } ", "
                    a href="/api/v1/repositories" { "repositories" } ", "
                    a href="/api/v1/components" { "components" } ", "
                    a href="/api/v1/hygiene" { "branches" }
                }
            }
        }
    };
    page.into_string()
}

/// A page that says that there is none.
pub(super) fn not_found(what: &str) -> String {
    frame(
        "Not found – Towpath",
        html! {
            h1 { "Not found" }
            p { (what) "." }
            p { a href="/" { "All environments" } }
        },
    )
}

/// What a replica shows that stands by. `who` says who leads.
pub(super) fn stands_by(who: &str) -> String {
    frame(
        "Standing by – Towpath",
        html! {
            h1 { "Standing by" }
            p { "This replica of the agent does not work at the moment: " (who) "." }
            p { "The Service leads to the one that does, such as by " code { "kubectl -n towpath port-forward service/towpath 8080:80" } "." }
        },
    )
}

/// All environments.
pub(super) fn overview(
    environments: &[Arc<Environment>],
    repositories: &[Arc<Repository>],
    ledgers: &[LedgerEntry],
    is_ready: bool,
    now: Timestamp,
) -> String {
    let environments = lookout::in_order(environments, repositories);
    let entries = lookout::attention(&environments, repositories, now);
    let title = match entries.len() {
        0 => "Towpath".to_owned(),
        count => format!("({count}) Towpath"),
    };
    let main = html! {
        div.headline {
            h1 { "Environments" }
            (tally(&environments))
        }
        @if !is_ready {
            p.plain { "The agent has just started and does not know all its environments yet." }
        }
        @if !environments.is_empty() { (attention(&entries)) }
        @for group in environments.chunk_by(|first, second| Environment::repository_id(first) == Environment::repository_id(second)) {
            (lanes(group, repositories, now))
        }
        (ledger::others(ledgers, now))
        @if environments.is_empty() && is_ready {
            section.card.plain {
                h2 { "No environments yet" }
                p { "An Environment names a lane, a path and a namespace. Create one, and it appears here." }
            }
        }
    };
    frame(&title, main)
}

/// How many environments are in which state.
fn tally(environments: &[Arc<Environment>]) -> Markup {
    let states = [State::Synced, State::OutOfSync, State::Blocked, State::Held, State::Suspended];
    let counted = states.map(|state| {
        let is_in =
            |environment: &&Arc<Environment>| environment.status.as_ref().is_some_and(|status| status.state == state);
        (state, environments.iter().filter(is_in).count())
    });
    let is_new = |environment: &&Arc<Environment>| environment.status.is_none();
    let new = environments.iter().filter(is_new).count();
    html! {
        p.tally {
            (words::count(environments.len(), "environment", "environments"))
            @for (state, count) in counted {
                @if count > 0 { " · " span class=(tone_of_state(state)) { (count) " " (state) } }
            }
            @if new > 0 { " · " span.idle { (new) " New" } }
        }
    }
}

/// The list of what needs attention.
fn attention(entries: &[Entry]) -> Markup {
    html! {
        section.attention aria-labelledby="attention" {
            @if entries.is_empty() {
                h2 #attention.quiet { "Nothing needs attention" }
            } @else {
                h2 #attention { "Needs attention " span.number { (entries.len()) } }
                (list(entries, true))
            }
        }
    }
}

/// Things that need attention, one below the other.
fn list(entries: &[Entry], has_links: bool) -> Markup {
    html! {
        ul.entries {
            @for entry in entries { li.entry.(entry.urgency.word()) { (sentence(entry, has_links)) } }
        }
    }
}

/// What is the matter, in detail, and what helps.
fn sentence(entry: &Entry, has_link: bool) -> Markup {
    html! {
        p.sentence {
            span.badge.(tone_of_urgency(entry)) { (entry.urgency.word()) } " "
            @if entry.is_environment && has_link {
                a href={ "/environments/" (entry.who) } { (entry.who) }
            } @else {
                strong { (entry.who) }
            }
            " " (entry.what)
        }
        @if !entry.lines.is_empty() { ul.lines { @for line in &entry.lines { li { (words::brief(line)) } } } }
        @if let Some(command) = &entry.command { p.command { code { (command) } } }
    }
}

/// The environments of one repository, lane after lane.
fn lanes(environments: &[Arc<Environment>], repositories: &[Arc<Repository>], now: Timestamp) -> Markup {
    let repository = environments.first().and_then(|first| lookout::repository_of(first, repositories));
    let name = environments.first().map(|first| first.spec.repository.as_str()).unwrap_or_default();
    let staged: Vec<(Stage, &Arc<Environment>)> = environments
        .iter()
        .map(|environment| (lookout::stage(environment, repository.map(|found| &**found)), environment))
        .collect();
    html! {
        section.repository aria-label={ "Repository " (name) } {
            div.headline {
                h2 { (name) }
                p.soft {
                    @match repository {
                        Some(repository) => span.address { (words::shown_url(&repository.spec.url)) },
                        None => span.bad { "There is no Repository of this name" },
                    }
                }
            }
            @for way in staged.chunk_by(|first, second| first.0.is_aside() == second.0.is_aside()) {
                ol.lanes.aside[way[0].0.is_aside()] {
                    @for lane in way.chunk_by(|first, second| first.0 == second.0) { (lane_of(lane, now)) }
                }
            }
        }
    }
}

/// One lane and the environments that follow it.
fn lane_of(lane: &[(Stage, &Arc<Environment>)], now: Timestamp) -> Markup {
    let stage = &lane[0].0;
    html! {
        li.lane {
            h3.mark {
                span.stop aria-hidden="true" {}
                span { (stage.name) @if !stage.note.is_empty() { " " small { (stage.note) } } }
            }
            div.rows { @for (_, environment) in lane { (row(environment, now)) } }
        }
    }
}

/// One environment in a line.
fn row(environment: &Environment, now: Timestamp) -> Markup {
    let spec = &environment.spec;
    let name = environment.name_any();
    let status = environment.status.as_ref();
    html! {
        article.row {
            div.who {
                h4 { a href={ "/environments/" (name) } { (name) } }
                p.soft {
                    (sync_mode(spec.sync))
                    @if let Some(status) = status {
                        " · " (words::count(status.objects as usize, "object", "objects"))
                    }
                }
            }
            div.what {
                @match status.and_then(|status| status.running.as_ref()) {
                    Some(running) => (revision(running, status.and_then(|status| status.running_since), now)),
                    None => p.soft { "runs nothing yet" },
                }
            }
            div.how { (badges(status)) }
            @if let Some(status) = status {
                @if let Some((tone, message)) = why(status) { p.why.(tone) { (words::brief(message)) } }
                @if let Some(candidate) = &status.candidate {
                    p.next { "next: " (short(candidate)) " " (candidate.subject) }
                }
                @if let (Some(gate), None) = (&status.gate, &status.candidate) {
                    p.next { (words::brief(&gate.revision)) " " (words::brief(&gate.message)) }
                }
            }
        }
    }
}

fn sync_mode(mode: Sync) -> &'static str {
    match mode {
        Sync::Automatic => "automatic",
        Sync::Manual => "on request",
    }
}

/// Why an environment is not as it should be.
fn why(status: &EnvironmentStatus) -> Option<(&'static str, &str)> {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    if ready.status == "True" || matches!(ready.reason.as_str(), "WaitsForRequest" | "WaitsForEnvironment") {
        return None;
    }
    let is_failing = status.state == State::Blocked
        || ready.reason == "TimedOut"
        || status.state != State::Suspended && matches!(status.health, Some(Health::Degraded | Health::Missing));
    let tone = match status.state {
        _ if is_failing => "bad",
        State::Suspended => "idle",
        State::Held => "wait",
        _ => "busy",
    };
    Some((tone, &ready.message))
}

/// A revision with its subject, author, and since when it is there.
fn revision(revision: &RevisionStatus, since: Option<Timestamp>, now: Timestamp) -> Markup {
    html! {
        p.subject { (short(revision)) " " (revision.subject) }
        p.soft {
            (revision.author)
            @if let Some(since) = since { " · synced " (time(since, now)) }
        }
    }
}

/// The short commit of a revision; the whole of it where the mouse rests.
fn short(revision: &RevisionStatus) -> Markup {
    let (_, commit) = words::revision(&revision.revision);
    html! { code.commit title=(revision.revision) { (commit) } }
}

/// A point in time, as people say it and as machines do.
fn time(then: Timestamp, now: Timestamp) -> Markup {
    let exact = then.strftime("%Y-%m-%d %H:%M:%S UTC");
    html! { time datetime=(then) title=(exact) { (words::ago(then, now)) } }
}

/// State and health.
fn badges(status: Option<&EnvironmentStatus>) -> Markup {
    html! {
        @match status {
            None => span.badge.idle { "New" },
            Some(status) => {
                span.badge.(tone_of_state(status.state)) title="state" { (status.state) } " "
                span.badge.(tone_of_health(status.health)) title="health" { (words::health(status.health)) }
            },
        }
    }
}

fn tone_of_state(state: State) -> &'static str {
    match state {
        State::Synced => "good",
        State::OutOfSync => "busy",
        State::Blocked => "bad",
        State::Held => "wait",
        State::Suspended => "idle",
    }
}

fn tone_of_health(health: Option<Health>) -> &'static str {
    match health {
        Some(Health::Healthy) => "good",
        Some(Health::Progressing) => "busy",
        Some(Health::Degraded | Health::Missing) => "bad",
        Some(Health::Suspended) => "wait",
        Some(Health::Unknown) | None => "idle",
    }
}

fn tone_of_urgency(entry: &Entry) -> &'static str {
    match entry.urgency {
        lookout::Urgency::Failing => "bad",
        lookout::Urgency::Waiting => "wait",
        lookout::Urgency::Notable => "idle",
    }
}
