//! In one word how an environment stands, and its conditions: `Ready`, `Reconciling`, `Stalled`.

use jiff::Timestamp;

use super::{Condition, EnvironmentStatus, Report, State, shorten};
use crate::fault::Fault;
use crate::health::Health;

/// The reason of `Stalled` where the time of a sync is over.
const LATE: &str = "TimedOut";
/// How a problem begins that is an image that no registry has yet.
pub const IMAGE_WAIT: &str = "waits for image ";

impl EnvironmentStatus {
    /// Whether the time of its sync is over, and it is not healthy.
    pub fn is_late(&self) -> bool {
        self.conditions.iter().any(|one| one.type_ == "Stalled" && one.status == "True" && one.reason == LATE)
    }
}

pub(super) fn state_of(status: &EnvironmentStatus, report: &Report) -> State {
    let needs_a_person = report.problems.iter().any(|problem| problem.fault != Fault::Passing);
    // Also where only the settings changed, and a wave or a hook is waited for.
    let is_on_its_way = status.sync.as_ref().is_some_and(|sync| !sync.applied);
    if report.suspended {
        State::Suspended
    } else if needs_a_person {
        State::Blocked
    } else if status.held.is_some() && report.problems.is_empty() && !is_on_its_way && !is_going_back(status) {
        State::Held
    } else if !report.problems.is_empty()
        || status.candidate.is_some()
        || status.gate.is_some()
        || status.running.is_none()
        || is_on_its_way
    {
        State::OutOfSync
    } else {
        State::Synced
    }
}

/// Whether a rollback takes it somewhere and it is not there yet.
fn is_going_back(status: &EnvironmentStatus) -> bool {
    let rollback = status.rollback.as_ref().filter(|rollback| rollback.goes_to.is_some());
    rollback.is_some_and(|rollback| !rollback.waits_for_its_revert())
}

pub(super) fn conditions(
    before: &EnvironmentStatus,
    status: &EnvironmentStatus,
    report: &Report,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |type_: &str, value: &str, reason: &str, message: String| {
        Condition::after(&before.conditions, now, (type_, value), reason, shorten(&message))
            .of_generation(Some(report.generation))
    };
    let (is_ready, reason, message) = readiness(status, report);
    let mut conditions = vec![condition("Ready", if is_ready { "True" } else { "False" }, reason, message.clone())];
    if !is_ready && !report.suspended {
        match status.state {
            State::Blocked => conditions.push(condition("Stalled", "True", reason, message)),
            _ if report.is_late => conditions.push(condition("Stalled", "True", LATE, lateness(status))),
            _ if matches!(reason, "WaitsForRequest" | "WaitsForEnvironment" | "Held") => {}
            _ => conditions.push(condition("Reconciling", "True", reason, message)),
        }
    }
    conditions
}

/// Whether it is ready, with a reason and a sentence.
fn readiness(status: &EnvironmentStatus, report: &Report) -> (bool, &'static str, String) {
    let runs = status.running.as_ref().map_or("nothing", |running| running.revision.as_str());
    if report.suspended {
        return (false, "Suspended", format!("suspended on {runs}: neither synced nor mended"));
    }
    if let Some(first) = report.problems.first() {
        let others = match report.problems.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        let reason = match first.fault {
            Fault::Content => "ContentFailed",
            Fault::Setup => "SetupFailed",
            Fault::Passing if first.message.starts_with(IMAGE_WAIT) => "WaitsForImage",
            Fault::Passing => "Retrying",
        };
        return (false, reason, format!("{first}{others}"));
    }
    if let Some((sync, waits)) = status.sync.as_ref().and_then(|sync| Some((sync, sync.waits.as_ref()?))) {
        if report.is_late {
            return (false, LATE, lateness(status));
        }
        return (false, waits.reason.as_str(), format!("{} waits for {}", sync.revision, waits.message));
    }
    if let Some(held) = status.held.as_ref().filter(|_| status.state == State::Held) {
        return (false, "Held", format!("held on {runs}: {held}"));
    }
    if let (Some(gate), None) = (&status.gate, &status.candidate) {
        let runs = if status.running.is_some() { format!("runs {runs}; ") } else { String::new() };
        return (false, "WaitsForEnvironment", format!("{runs}{} {}", gate.revision, gate.message));
    }
    if let (Some(candidate), true) = (&status.candidate, report.settled_on.is_some() || status.running.is_none()) {
        return (false, "WaitsForRequest", format!("runs {runs}; {} waits for a sync request", candidate.revision));
    }
    if report.is_late {
        return (false, LATE, lateness(status));
    }
    let worst = worst(status);
    match status.health {
        Some(Health::Healthy) => (true, "Synced", format!("runs {runs}")),
        Some(Health::Suspended) => (false, "RolloutPaused", format!("{runs} waits for a person{worst}")),
        Some(Health::Progressing) => (false, "Progressing", format!("{runs} is rolling out{worst}")),
        Some(Health::Degraded) => (false, "Degraded", format!("{runs} is degraded{worst}")),
        Some(Health::Missing) => (false, "Missing", format!("objects of {runs} are missing{worst}")),
        Some(Health::Unknown) | None => (false, "Unknown", format!("runs {runs}; its health is not known yet")),
    }
}

/// What a sync whose time is over waits for, or shows.
fn lateness(status: &EnvironmentStatus) -> String {
    if let Some((sync, waits)) = status.sync.as_ref().and_then(|sync| Some((sync, sync.waits.as_ref()?))) {
        return format!("{} waits for too long for {}", sync.revision, waits.message);
    }
    let runs = status.running.as_ref().map_or("nothing", |running| running.revision.as_str());
    format!("{runs} did not become healthy in time{}", worst(status))
}

/// The object that is worst off, as the end of a sentence.
fn worst(status: &EnvironmentStatus) -> String {
    let worst = status.unhealthy.first();
    worst.map(|object| format!(": {}: {}", object.object, object.message)).unwrap_or_default()
}
