//! The page of releases: which component stands where, and what is untidy on branches. And on the page of an environment,
//! what its candidate brings.

use jiff::Timestamp;
use maud::{Markup, html};
use towpath_core::changelog::{Changelog, ComponentMove, Moved, Way};
use towpath_core::commits::Log;
use towpath_core::hygiene::Finding;
use towpath_core::matrix::{Cell, Change, Column, Matrix, Next, Spot};

use super::super::releases::Looked;
use super::super::words;
use super::detail::table;
use super::{frame, time};

/// Commits of one repository that the page of an environment names before they are folded away.
const MAX_OPEN: usize = 5;

/// The page of releases.
pub(in crate::web) fn releases(matrices: &[Matrix], looks: Option<&[Looked]>, now: Timestamp) -> String {
    let main = html! {
        p.back { a href="/" { "All environments" } }
        div.headline { h1 { "Releases" } }
        @if matrices.is_empty() { p.plain { "There are no environments yet." } }
        @for matrix in matrices { (matrix_of(matrix, now)) }
        @match looks {
            Some(looks) => @for looked in looks { (hygiene(looked)) },
            None => section { h2 { "Branches" } p.plain { "They are still being compared. Reload the page in a moment." } },
        }
    };
    frame("Releases – Towpath", main)
}

fn matrix_of(matrix: &Matrix, now: Timestamp) -> Markup {
    let names = matrix.names();
    let troubles: Vec<(&str, &str)> = matrix.environments.iter().flat_map(troubles).collect();
    html! {
        section aria-label={ "Components of " (matrix.repository) } {
            div.headline { h2 { (matrix.repository) } p.soft { (words::count(names.len(), "component", "components")) } }
            @if !troubles.is_empty() {
                ul.lines.card { @for (who, why) in &troubles { li { strong { (who) } ": " (why) } } }
            }
            @if names.is_empty() && troubles.is_empty() {
                p.soft { "No environment runs a revision with submodules." }
            }
            @if !names.is_empty() {
                div.scroll tabindex="0" role="region" aria-label={ "Release matrix of " (matrix.repository) } {
                    table.matrix {
                        thead { tr {
                            th scope="col" { "Component" }
                            @for column in &matrix.environments {
                                th scope="col" {
                                    a href={ "/environments/" (column.environment) } { (column.environment) }
                                    small { (at(column)) }
                                }
                            }
                        } }
                        tbody {
                            @for name in &names {
                                tr {
                                    th scope="row" { (name) }
                                    @for column in &matrix.environments { td { (cell(column, name, now)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Why the components of an environment, or of its candidate, are not known.
fn troubles(column: &Column) -> impl Iterator<Item = (&str, &str)> {
    let running = column.running.iter().flat_map(|running| &running.problems);
    let next = column.next.iter().flat_map(|next: &Next| &next.problems);
    let mut said: Vec<&str> = column.unknown.iter().chain(running).chain(next).map(String::as_str).collect();
    said.dedup();
    said.into_iter().map(|why| (column.environment.as_str(), why))
}

/// What an environment runs, briefly.
fn at(column: &Column) -> Markup {
    match &column.running {
        Some(running) => {
            let (branch, commit) = words::revision(&running.revision);
            html! {
                (branch) " · " code title=(running.revision) { (commit) }
                @if let Some(version) = &running.version { " · " (version) }
            }
        }
        None if column.unknown.is_some() => html! { "not known" },
        None => html! { "runs nothing yet" },
    }
}

fn cell(column: &Column, name: &str, now: Timestamp) -> Markup {
    let change = column.change(name);
    html! {
        @match column.spot(name) {
            Spot::Runs(cell) => (pin(cell, &column.environment, now)),
            Spot::Absent => { span.idle { @if change.is_some() { "not yet" } @else { "not part of it" } } },
            Spot::Unknown(why) => {
                @if column.unknown.is_none() && column.running.is_none() { span.idle { (why) } }
                @else { span.badge.idle { "unknown" } p.soft.reason title=(why) { (words::brief(why)) } }
            },
        }
        @match change {
            Some(Change::To(cell)) => {
                p.coming { "next " code title=(cell.commit) { (cell.title()) } }
                @if !cell.unknown.is_empty() { (why(&cell.unknown, &format!("next-{}-{name}", column.environment))) }
            },
            Some(Change::Goes) => { p.coming { "next: removed" } },
            Some(Change::Unknown(why)) => { p.coming { "next: not known" } p.soft.reason title=(why) { (words::brief(why)) } },
            None => {},
        }
    }
}

fn pin(cell: &Cell, environment: &str, now: Timestamp) -> Markup {
    let tone = match (cell.ahead, cell.behind) {
        (Some(0), Some(0)) => "good",
        (Some(0), Some(_)) => "busy",
        (Some(_), Some(_)) => "bad",
        _ => "idle",
    };
    html! {
        p.pin { code.commit title=(cell.commit) { (cell.title()) } }
        p.soft {
            (cell.branch) ": " span.(tone) { (cell.standing()) }
            @if let Some(at) = cell.committed_at { " · " (time(at, now)) }
        }
        @if let Some(image) = &cell.image { p.soft.image title=(image) { code { (image) } } }
        @if !cell.unknown.is_empty() { (why(&cell.unknown, &format!("why-{environment}-{}", cell.name))) }
    }
}

/// The reasons why something is not known, folded: the first of them is enough to go on.
fn why(reasons: &[String], id: &str) -> Markup {
    html! {
        details id=(id) {
            summary { span.badge.idle { "partly unknown" } }
            ul.lines { @for reason in reasons { li { (words::brief(reason)) } } }
        }
    }
}

fn hygiene(looked: &Looked) -> Markup {
    let hygiene = &looked.hygiene;
    let count = hygiene.findings.len() + hygiene.more;
    let row = |finding: &Finding| {
        let tone = if finding.sort.is_of_reverts() { "bad" } else { "wait" };
        let commits = finding.missing.commits.iter();
        vec![
            html! { span.badge.(tone) { (finding.sort.words()) } },
            html! { span.word { (finding.component.as_deref().unwrap_or("deploy repository")) } },
            html! {
                (words::brief(&finding.message))
                @if !finding.missing.is_empty() {
                    ul.log {
                        @for commit in commits { li { code.commit title=(commit.commit) { (commit.commit.short()) } " " (commit.subject) } }
                        @if finding.missing.more > 0 { li.soft { "and " (finding.missing.more) " more" } }
                    }
                }
                p.soft { (words::brief(&finding.hint)) }
                @if let Some(commit) = finding.commit { p.soft { code { (commit) } } }
            },
        ]
    };
    html! {
        section aria-label={ "Branches of " (hygiene.repository) } {
            div.headline {
                h2 { "Branches of " (hygiene.repository) " " span.number { (count) } }
                @if !hygiene.compared.is_empty() { p.soft { "Compared: " (hygiene.compared.join(", ")) } }
            }
            @if let Some(problem) = &looked.problem {
                p.plain { span.badge.idle { "unknown" } " " (problem) }
            } @else if hygiene.findings.is_empty() {
                p.soft { "Nothing was found on what was compared." }
            } @else {
                (table(&["What", "Where", "Which, and what to do"], hygiene.findings.iter().map(row)))
                @if hygiene.more > 0 { p.soft { "And " (hygiene.more) " more." } }
            }
            @if !hygiene.unknown.is_empty() {
                details.notes id={ "notes-" (hygiene.repository) } {
                    summary { "Not known or not compared " span.number { (hygiene.unknown.len()) } }
                    ul.lines.card { @for line in &hygiene.unknown { li { (words::brief(line)) } } }
                }
            }
        }
    }
}

/// What the candidate of an environment brings.
pub(super) fn brings(told: &Result<Changelog, String>, now: Timestamp) -> Markup {
    html! {
        section aria-labelledby="brings" {
            h2 #brings { "What the candidate brings" }
            @match told {
                Err(why) => { p.plain { span.badge.idle { "unknown" } " " (words::brief(why)) } },
                Ok(told) => (changelog(told, now)),
            }
        }
    }
}

fn changelog(told: &Changelog, now: Timestamp) -> Markup {
    html! {
        div.changelog.card {
            @if !told.problems.is_empty() {
                ul.lines { @for problem in &told.problems { li { span.badge.idle { "unknown" } " " (problem) } } }
            }
            @for component in &told.components {
                h3 { (component.name) " " (pins(component)) " " (way(component.moved.way)) }
                (moved(&component.moved, &component.name, now))
            }
            @if told.components.is_empty() && told.problems.is_empty() { p.soft { "No component moves." } }
            h3 { "Deploy repository " (way(told.deploy.way)) }
            (moved(&told.deploy, "", now))
        }
    }
}

fn pins(component: &ComponentMove) -> Markup {
    html! {
        @match (&component.from, &component.to) {
            (Some(from), Some(to)) => { code.commit { (from) } " → " code.commit { (to) } },
            (Some(one), None) | (None, Some(one)) => { code.commit { (one) } },
            (None, None) => {},
        }
    }
}

fn way(way: Way) -> Markup {
    let tone = match way {
        Way::Forward | Way::Added => return html! { @if way == Way::Added { span.badge.good { (way.words()) } } },
        Way::Same | Way::Unknown => "idle",
        Way::Removed | Way::Aside => "wait",
        Way::Back | Way::Unrelated => "bad",
    };
    html! { span.badge.(tone) { (way.words()) } }
}

fn moved(moved: &Moved, name: &str, now: Timestamp) -> Markup {
    html! {
        @if let Some(why) = &moved.unknown { p.soft { "Not known: " (words::brief(why)) } }
        (log(&moved.coming, &format!("coming-{name}"), now))
        @if !moved.going.is_empty() { p.bad { "No longer in it:" } (log(&moved.going, &format!("going-{name}"), now)) }
    }
}

fn log(log: &Log, id: &str, now: Timestamp) -> Markup {
    let (open, folded) = log.commits.split_at(log.commits.len().min(MAX_OPEN));
    let line = |commit: &towpath_core::commits::Commit| {
        html! {
            li {
                code.commit title=(commit.commit) { (commit.commit.short()) } " " (commit.subject)
                span.soft { " – " (commit.author) ", " (time(commit.authored_at, now)) }
            }
        }
    };
    html! {
        @if !open.is_empty() { ul.log { @for commit in open { (line(commit)) } } }
        @if !folded.is_empty() {
            details id=(id) {
                summary { (folded.len() + log.more) " more" }
                ul.log { @for commit in folded { (line(commit)) } }
                @if log.more > 0 { p.soft { "and " (log.more) " that are not named" } }
            }
        } @else if log.more > 0 {
            p.soft { "and " (log.more) " more" }
        }
    }
}
