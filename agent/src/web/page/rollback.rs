//! Rollbacks on the page: how far one is, the buttons that lead to a preview, and the page on which it is confirmed.

use jiff::Timestamp;
use kube::ResourceExt;
use maud::{Markup, html};
use towpath_core::status::{EnvironmentStatus, RollbackPhase, RollbackStatus, Trigger, Wish};

use super::super::words;
use super::{badges, frame, time};
use crate::resources::{BY_ITSELF, Environment, prepared_by_itself};

/// What the page of a rollback is to show.
#[derive(Clone, Debug, Default)]
pub(in crate::web) struct View {
    /// The request whose preview is meant; the last one where none is named.
    pub(in crate::web) id: Option<String>,
    /// Whether what was confirmed is not what would be done now.
    pub(in crate::web) has_changed: bool,
    /// Whether something can be asked of the agent through its page.
    pub(in crate::web) may_ask: bool,
}

/// What is needed to know which release has a way back.
pub(super) struct Back {
    environment: String,
    running: String,
    away: Vec<String>,
    is_offered: bool,
}

/// A sync in a list.
pub(super) struct Listed<'a> {
    pub(super) number: u64,
    pub(super) revision: &'a str,
    pub(super) trigger: Trigger,
    /// Whether it was applied and seen healthy.
    pub(super) was_healthy: bool,
}

/// What has come up in a list that is read from the newest sync on.
#[derive(Default)]
pub(super) struct Passed {
    revisions: Vec<String>,
    was_rollback: bool,
}

impl Back {
    pub(super) fn new(environment: &Environment, status: &EnvironmentStatus, may_ask: bool) -> Back {
        let running = status.running.as_ref().map(|running| running.revision.clone()).unwrap_or_default();
        Back {
            environment: environment.name_any(),
            is_offered: may_ask && !running.is_empty(),
            away: status.rolled_back.iter().map(|one| one.commit.clone()).collect(),
            running,
        }
    }

    /// Whether there are buttons at all.
    pub(super) fn is_offered(&self) -> bool {
        self.is_offered
    }

    /// A button for a sync that was healthy. None for what runs, for what was rolled back, and where a newer sync of the
    /// same has one already.
    pub(super) fn button(&self, sync: &Listed<'_>, passed: &mut Passed) -> Markup {
        let is_known = sync.revision == self.running || passed.revisions.iter().any(|known| known == sync.revision);
        let is_away = self.away.iter().any(|commit| sync.revision.ends_with(commit.as_str()));
        // What ran before a rollback is what was rolled back.
        let is_left = std::mem::replace(&mut passed.was_rollback, sync.trigger == Trigger::Rollback);
        let has_one = self.is_offered && sync.was_healthy && !is_known && !is_away && !is_left;
        if !is_known && (has_one || is_left) {
            passed.revisions.push(sync.revision.to_owned());
        }
        let name = format!("{}@{}", self.environment, sync.number);
        html! {
            @if has_one {
                form method="post" action={ "/environments/" (self.environment) "/rollback" } {
                    input type="hidden" name="to" value=(name);
                    button.quiet id={ "back-" (name) } type="submit" aria-label={ "Roll back to " (name) } { "Roll back to this" }
                }
            }
        }
    }
}

/// How far a rollback is that is not over, and one that waits for a person. Nothing where there is neither.
pub(super) fn course(name: &str, status: &EnvironmentStatus, now: Timestamp) -> Markup {
    let is_shown = |one: &&RollbackStatus| is_open(one, status);
    html! {
        @if let Some(prepared) = prepared_by_itself(status) {
            @let waits = prepared.phase == RollbackPhase::Prepared;
            section.card.course aria-labelledby="awaited" {
                h2 #awaited {
                    @if waits { "A rollback waits for a person" } @else { "The agent did not go back by itself" }
                    " " (badge(prepared))
                }
                (said(prepared, now))
                @if waits {
                    div.actions { a.button href={ "/environments/" (name) "/rollback?id=" (prepared.id) } { "Look at it and confirm…" } }
                }
            }
        }
        @if let Some(rollback) = status.rollback.as_ref().filter(is_shown) {
            section.card.course aria-labelledby="course" {
                h2 #course { (title(rollback)) " " (badge(rollback)) }
                // Why it was not done comes before where it is nevertheless.
                @if rollback.phase == RollbackPhase::Refused { (said(rollback, now)) (waits(rollback)) }
                @else { (waits(rollback)) (said(rollback, now)) }
            }
        }
    }
}

/// Whether there is something left to do, for the agent or for a person.
fn is_open(rollback: &RollbackStatus, status: &EnvironmentStatus) -> bool {
    let is_stuck = rollback.phase == RollbackPhase::Refused && status.held.is_some();
    rollback.phase.is_under_way() || rollback.goes_to.is_some() || is_stuck
}

/// What becomes of a rollback, and of what it waits for.
fn waits(rollback: &RollbackStatus) -> Markup {
    let lane = rollback.from.as_deref().map_or("the lane's branch", |from| words::revision(from).0);
    html! {
        @match (&rollback.branch, rollback.phase) {
            (Some(branch), RollbackPhase::WaitsForMerge) => p {
                "It waits for a person: merge " code.pick { (branch) } " into " code { (lane) } "."
            },
            (_, RollbackPhase::WaitsForGit) => p {
                "The git server is away. The reverts are pushed to " code { (lane) } " when it is back."
            },
            (_, RollbackPhase::Pushing) if rollback.cannot_push().is_some() => p {
                "The reverts cannot be pushed to " code { (lane) } " before somebody has seen to it; it is tried again."
            },
            (_, RollbackPhase::Pushing) => p { "The reverts are being pushed to " code { (lane) } "." },
            _ => {},
        }
        @if let Some(goes_to) = &rollback.goes_to {
            @let is_revert = rollback.commit.as_ref().is_some_and(|commit| goes_to.ends_with(commit));
            @let is_stuck = rollback.phase == RollbackPhase::WaitsForMerge || rollback.cannot_push().is_some();
            @if is_stuck && is_revert {
                p { "Until then it stays on what it runs." }
            } @else {
                p { "On its way to " code { (words::brief(goes_to)) } "." }
            }
        }
    }
}

/// The heading of a rollback.
fn title(rollback: &RollbackStatus) -> &'static str {
    if rollback.lands() { "Landing again" } else { "Rollback" }
}

fn badge(rollback: &RollbackStatus) -> Markup {
    let (tone, word) = match rollback.phase {
        RollbackPhase::Pushing if rollback.cannot_push().is_some() => ("wait", "Cannot be pushed"),
        RollbackPhase::Prepared => ("wait", "Prepared"),
        RollbackPhase::Pushing => ("busy", "Pushing"),
        RollbackPhase::WaitsForMerge => ("wait", "Waits for a merge"),
        RollbackPhase::WaitsForGit => ("wait", "Waits for git"),
        RollbackPhase::Done => ("good", "Done"),
        RollbackPhase::Refused => ("bad", "Not done"),
    };
    html! { span.badge.(tone) { (word) } }
}

/// Who wanted it, when and why, and all its lines.
fn said(rollback: &RollbackStatus, now: Timestamp) -> Markup {
    html! {
        p.soft {
            @if rollback.id.starts_with(BY_ITSELF) { "By the agent itself" } @else { "Asked for" }
            @if let Some(by) = &rollback.by { " by " (by) }
            @if let Some(at) = rollback.at { " " (time(at, now)) }
            @if let Some(reason) = &rollback.reason { ": " (reason) }
        }
        (lines(&rollback.lines))
    }
}

fn lines(lines: &[String]) -> Markup {
    html! { @if !lines.is_empty() { pre.said tabindex="0" { (lines.join("\n")) } } }
}

/// The section on the page of an environment: the last rollback, what stays away, and the way to another one.
pub(super) fn section(environment: &Environment, status: &EnvironmentStatus, may_ask: bool, now: Timestamp) -> Markup {
    let name = environment.name_any();
    let last = status.rollback.as_ref().filter(|last| !is_open(last, status));
    let is_empty = status.running.is_none() && last.is_none() && status.rolled_back.is_empty();
    html! {
        @if !is_empty && (may_ask || last.is_some() || !status.rolled_back.is_empty()) {
            section aria-labelledby="rollback" {
                h2 #rollback { "Roll back" }
                @if status.running.is_some() && may_ask {
                    div.actions {
                        form method="post" action={ "/environments/" (name) "/rollback" } {
                            button #back type="submit" { "Roll back to the release before…" }
                        }
                        a href={ "/environments/" (name) "/rollback" } { "Another release, or one change" }
                    }
                    p.soft { "Both first show what would be done." }
                }
                @if !status.rolled_back.is_empty() { (rolled_back(&name, status, may_ask)) }
                @if let Some(last) = last {
                    details.card #last-rollback {
                        summary { "The last one: " (badge(last)) " " @if let Some(at) = last.at { (time(at, now)) } }
                        (said(last, now))
                    }
                }
            }
        }
    }
}

/// What may come with no revision that the environment moves to.
fn rolled_back(name: &str, status: &EnvironmentStatus, may_ask: bool) -> Markup {
    let subject = |commit: &str| {
        let known = [&status.rollback, &status.prepared].into_iter().flatten().flat_map(|one| &one.reverts);
        known.into_iter().find(|one| one.commit == commit).map(|one| one.subject.clone()).unwrap_or_default()
    };
    html! {
        div.card.away {
            h3 { "Rolled back: it moves to no revision that has them" }
            ul {
                @for one in &status.rolled_back {
                    li {
                        span { code.commit title=(one.commit) { (words::revision(&one.commit).1) } " " (subject(&one.commit)) }
                        @if may_ask {
                            form method="post" action={ "/environments/" (name) "/rollback" } {
                                input type="hidden" name="reland" value=(one.commit);
                                button.quiet id={ "again-" (one.commit) } type="submit"
                                    aria-label={ "Land " (words::revision(&one.commit).1) " again" } { "Land again" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The page on which a rollback is looked at and confirmed.
pub(in crate::web) fn rollback(environment: &Environment, view: &View, now: Timestamp) -> String {
    let name = environment.name_any();
    let unknown = EnvironmentStatus::default();
    let status = environment.status.as_ref().unwrap_or(&unknown);
    let prepared = status.prepared.as_ref();
    let is_another = view.id.is_some() && prepared.is_none_or(|one| view.id.as_ref() != Some(&one.id));
    let heading = if prepared.is_some_and(RollbackStatus::lands) { "Land again in" } else { "Roll back" };
    let main = html! {
        p.back { a href={ "/environments/" (name) } { (name) } }
        div.headline {
            h1 { (heading) " " (name) }
            p { (badges(environment.status.as_ref())) }
        }
        @if view.has_changed {
            p.plain.loud role="alert" { strong { "The world has changed: nothing was done." } " Below is what would be done now." }
        } @else if is_another && prepared.is_some() {
            p.plain.loud role="alert" { strong { "This is not the preview that you asked for." } " Somebody has asked after you." }
        } @else if is_another {
            p.plain { "There is no such preview any more: it was confirmed, or another took its place." }
        }
        @if let Some(prepared) = prepared { (preview(&name, prepared, view.may_ask, now)) }
        @if view.may_ask {
            (another(&name, prepared.is_none()))
        } @else {
            p.plain { "This agent has no token, so nothing can be asked of it here. " code { "towpath rollback " (name) } " does the same." }
        }
    };
    frame(&format!("Roll back {name} – Towpath"), main)
}

/// What would be done, and the button that does it; or why it cannot be done.
fn preview(name: &str, prepared: &RollbackStatus, may_ask: bool, now: Timestamp) -> Markup {
    let wish = prepared.wish.clone().unwrap_or_default();
    let is_possible = prepared.phase == RollbackPhase::Prepared;
    html! {
        section.card.course aria-labelledby="preview" {
            h2 #preview {
                @if is_possible { "What would be done" } @else { "This cannot be done" }
                " " (badge(prepared))
            }
            (said(prepared, now))
            @if let (true, true, Some(digest)) = (is_possible, may_ask, &prepared.digest) {
                form.confirm method="post" action={ "/environments/" (name) "/rollback" } {
                    (hidden(&wish))
                    input type="hidden" name="confirm" value=(digest);
                    p.field {
                        label for="reason" { "Why? It stands in the commits." }
                        input #reason name="reason" type="text" maxlength="200" autocomplete="off"
                            value=(prepared.reason.as_deref().unwrap_or_default());
                    }
                    div.actions {
                        button.strong type="submit" { @if prepared.lands() { "Land again now" } @else { "Roll back now" } }
                        a href={ "/environments/" (name) } { "Do nothing" }
                    }
                    p.soft { "Exactly this is done, or nothing: it is confirmed as " code { (digest) } "." }
                }
            }
            @if !is_possible && may_ask { (ways_out(name, prepared, &wish)) }
        }
    }
}

/// Buttons for what the agent offers instead, by the flags of the command line.
fn ways_out(name: &str, refused: &RollbackStatus, wish: &Wish) -> Markup {
    let is_named = |flag: &str| refused.lines.iter().any(|line| line.contains(flag));
    let restored = Wish { restore: true, ..wish.clone() };
    let at_once = Wish { emergency: true, ..wish.clone() };
    let ways = [
        (!wish.restore && is_named("--restore"), restored, "Bring back exactly the files of the older release…"),
        (!wish.emergency && is_named("--emergency"), at_once, "Go back in the cluster at once, and push later…"),
    ];
    html! {
        div.actions {
            @for (_, wish, text) in ways.iter().filter(|(is_offered, ..)| *is_offered) {
                form method="post" action={ "/environments/" (name) "/rollback" } {
                    (hidden(wish))
                    button.quiet type="submit" { (text) }
                }
            }
        }
    }
}

fn hidden(wish: &Wish) -> Markup {
    let texts = [("to", &wish.to), ("ticket", &wish.ticket), ("reland", &wish.reland)];
    let flags = [("backOutLane", wish.back_out_lane), ("restore", wish.restore), ("emergency", wish.emergency)];
    html! {
        @for (key, value) in texts {
            @if let Some(value) = value { input type="hidden" name=(key) value=(value); }
        }
        @for (key, is_set) in flags {
            @if is_set { input type="hidden" name=(key) value="on"; }
        }
    }
}

/// A form for everything that can be asked for.
fn another(name: &str, is_open: bool) -> Markup {
    let tick = |key: &str, text: &str| {
        html! { p.tick { input id=(key) name=(key) type="checkbox"; " " label for=(key) { (text) } } }
    };
    html! {
        section {
            details.card #another open[is_open] {
                summary { @if is_open { "What is to be rolled back" } @else { "Something else" } }
                form method="post" action={ "/environments/" (name) "/rollback" } {
                    p.field {
                        label for="to" { "Back to a release: a sync such as " code { (name) "@7" } ", or a commit that it ran" }
                        input #to name="to" type="text" maxlength="200" autocomplete="off" placeholder="the release before";
                    }
                    p.field {
                        label for="ticket" { "Or take back only one merge or commit of the branch, or a range " code { "a..b" } }
                        input #ticket name="ticket" type="text" maxlength="200" autocomplete="off";
                    }
                    fieldset {
                        legend { "How" }
                        (tick("backOutLane", "Take back everything that came to the branch since, also what does not run here yet"))
                        (tick("restore", "One commit with exactly the files of the older release, where reverts do not fit"))
                        (tick("emergency", "Go back in the cluster at once, also while the git server is away"))
                    }
                    div.actions { button type="submit" { "Show what would be done" } }
                }
            }
        }
    }
}

/// A form was not taken.
pub(in crate::web) fn not_taken(name: &str, error: &str, hint: Option<&str>) -> String {
    let main = html! {
        p.back { a href={ "/environments/" (name) } { (name) } }
        h1 { "Not done" }
        p.plain.loud role="alert" { strong { (error) } @if let Some(hint) = hint { ": " (hint) } }
        p { a href={ "/environments/" (name) "/rollback" } { "Roll back " (name) } }
    };
    frame(&format!("Not done – {name} – Towpath"), main)
}
