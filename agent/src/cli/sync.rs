//! `towpath sync`: asks for a sync, and waits for its end where that is wanted.
//!
//! A request is an annotation of the Environment; a new one takes the place of one that was not answered yet, so that
//! both become one sync of what git says at the later moment. Whoever waits for the earlier one waits for that sync.

use std::io::Write;
use std::time::Duration;

use jiff::{Timestamp, Zoned};
use kube::ResourceExt;
use rand::RngExt;
use serde_json::json;
use tokio::time::Instant;
use towpath_core::fault::Problem;
use towpath_core::health::Health;
use towpath_core::names::annotation;
use towpath_core::status::{EnvironmentStatus, State};

use super::access::{Access, Flags};
use super::exit::{self, Code, Failure};
use super::output;
use crate::resources::Environment;

/// How often the Environment is read while somebody waits.
const LOOK: Duration = Duration::from_millis(500);
/// How long a blocked environment may leave a request unanswered: one whose settings are wrong never answers.
const ANSWER: Duration = Duration::from_secs(15);
/// Failures to read the Environment, one after the other, that are waited out.
const MAX_FAILURES: u32 = 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 requested, and with --wait synced and healthy; 1 error; 3 degraded, blocked or suspended; 4 timed out.")]
pub(super) struct Args {
    /// The name of the environment.
    name: String,
    /// Wait until it is healthy, degraded or blocked.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait, such as 90s, 5m or 1h30m.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, requires = "wait")]
    timeout: Duration,
    #[command(flatten)]
    access: Flags,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|_| "write it as 90s, 5m or 1h30m".to_owned())?;
    Duration::try_from(duration).map_err(|_| "it is negative".to_owned())
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let access = args.access.open().await?;
    let before = access.environment(&args.name).await?;
    if before.spec.suspend {
        let problem = Problem::setup(format!("{} is suspended: it is neither synced nor mended", args.name));
        return Err(problem.hint(format!("towpath resume {}", args.name)).into());
    }
    if let Some(by) = pending(&before) {
        output::progress(&format!("{} has a request of {by} that is not answered yet; both become one", args.name));
    }
    let request = new_request(Timestamp::now());
    let annotations = json!({ annotation::REQUESTED_AT: request, annotation::REQUESTED_BY: access.user().await });
    access.patch(&args.name, &json!({ "metadata": { "annotations": annotations } })).await?;
    if !args.wait {
        output::data(&format!("environment.towpath.dev/{} sync requested", args.name))?;
        return Ok(Code::Done);
    }
    wait(&access, &args, &request).await
}

/// A value that no other request has: the time for people, the rest for two at the same time.
pub(super) fn new_request(at: Timestamp) -> String {
    let suffix: u32 = rand::rng().random();
    format!("{}-{suffix:08x}", at.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

/// Who made the request that is not answered yet.
fn pending(environment: &Environment) -> Option<String> {
    let request = environment.annotations().get(annotation::REQUESTED_AT).filter(|request| !request.is_empty())?;
    let handled = environment.status.as_ref().and_then(|status| status.last_handled_request.as_ref());
    let by = environment.annotations().get(annotation::REQUESTED_BY);
    (handled != Some(request)).then(|| by.cloned().unwrap_or_else(|| "somebody".to_owned()))
}

async fn wait(access: &Access, args: &Args, request: &str) -> Result<Code, Failure> {
    let name = &args.name;
    let started = Instant::now();
    let mut said = String::new();
    let mut failures = 0;
    let mut last = None;
    tell(name, "sync requested");
    while started.elapsed() < args.timeout {
        let environment = match access.environment(name).await {
            Ok(environment) => environment,
            Err(problem) if problem.fault == towpath_core::fault::Fault::Passing && failures < MAX_FAILURES => {
                failures += 1;
                tell(name, &problem.message);
                tokio::time::sleep(LOOK * failures).await;
                continue;
            }
            Err(problem) => return Err(problem.into()),
        };
        failures = 0;
        let verdict = judge(&environment, request, started.elapsed());
        let status = environment.status.unwrap_or_default();
        match verdict {
            Verdict::Synced => {
                let runs = status.running.as_ref().map_or("nothing", |running| running.revision.as_str());
                tell(name, &format!("healthy after {}", took(started.elapsed())));
                let runs = output::short_revisions(runs);
                output::data(&format!("environment.towpath.dev/{name} synced: {runs}"))?;
                return Ok(Code::Done);
            }
            Verdict::Stuck(why) => {
                fail(&Problem::setup(format!("{name} is {why}")), &status)?;
                return Ok(Code::Degraded);
            }
            Verdict::Wait(what) => {
                if what != said {
                    tell(name, &what);
                    said = what;
                }
                last = Some(status);
            }
        }
        tokio::time::sleep(LOOK.min(args.timeout.saturating_sub(started.elapsed()))).await;
    }
    let problem = Problem::passing(format!("{name} was not healthy within {}: {said}", took(args.timeout)))
        .hint(format!("it goes on by itself; see towpath get {name}"));
    fail(&problem, &last.unwrap_or_default())?;
    Ok(Code::TimedOut)
}

/// What can be said of a request after a look at the Environment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is under way, and this is what happens.
    Wait(String),
    /// What was asked for runs and is healthy.
    Synced,
    /// It will not become so without a person, for this reason.
    Stuck(String),
}

/// Looks at an Environment for whoever made `request` and has waited for so long.
fn judge(environment: &Environment, request: &str, waited: Duration) -> Verdict {
    let Some(status) = &environment.status else {
        return Verdict::Wait("waits for the agent to look at it".to_owned());
    };
    let condition = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let said = |type_: &str| condition(type_).map(|found| output::short_revisions(&found.message));
    let message = said("Ready").unwrap_or_default();
    let blocked = || format!("blocked: {message}");

    let handled = status.last_handled_request.as_deref();
    let current = environment.annotations().get(annotation::REQUESTED_AT).map(String::as_str);
    // A later request takes the place of ours; once that is answered, so is ours.
    let is_answered = handled.is_some() && (handled == Some(request) || handled == current);
    if !is_answered {
        return match status.state {
            State::Blocked if waited >= ANSWER => Verdict::Stuck(blocked()),
            State::Blocked => Verdict::Wait("the agent has not answered yet; so far it is blocked".to_owned()),
            // It is answered when the image is there.
            _ if condition("Ready").is_some_and(|ready| ready.reason == "WaitsForImage") => Verdict::Wait(message),
            _ => Verdict::Wait("waits for the agent".to_owned()),
        };
    }
    if status.observed_generation < environment.metadata.generation {
        return Verdict::Wait("its settings were changed; waits for the agent".to_owned());
    }
    let ready = condition("Ready");
    let has_reason = |reason: &str| ready.is_some_and(|ready| ready.reason == reason);
    let is_stalled = condition("Stalled").is_some_and(|stalled| stalled.status == "True");
    match (status.state, status.health) {
        (State::Suspended, _) => Verdict::Stuck("suspended: it is neither synced nor mended".to_owned()),
        (State::Blocked, _) => Verdict::Stuck(blocked()),
        _ if ready.is_some_and(|ready| ready.status == "True") => Verdict::Synced,
        // What was asked for runs; only after that has git moved on.
        (_, Some(Health::Healthy)) if has_reason("WaitsForRequest") => Verdict::Synced,
        _ if is_stalled => Verdict::Stuck(format!("stalled: {message}")),
        (_, Some(Health::Degraded)) if has_reason("Degraded") => Verdict::Stuck(format!("degraded: {message}")),
        _ if message.is_empty() => Verdict::Wait("in progress".to_owned()),
        _ => Verdict::Wait(message),
    }
}

/// The error, then every object that is not healthy, and every further problem.
fn fail(problem: &Problem, status: &EnvironmentStatus) -> Result<(), Failure> {
    let mut out = anstream::stderr();
    exit::explain(&mut out, std::slice::from_ref(problem))?;
    details(&mut out, status, &problem.message)?;
    Ok(())
}

fn details(out: &mut impl Write, status: &EnvironmentStatus, said: &str) -> std::io::Result<()> {
    for problem in status.problems.iter().map(|problem| output::short_revisions(problem)) {
        if !said.contains(&problem) {
            writeln!(out, "  {problem}")?;
        }
    }
    for object in &status.unhealthy {
        writeln!(out, "  {} is {:?}: {}", object.object, object.health, object.message)?;
        for line in &object.log {
            writeln!(out, "    | {line}")?;
        }
    }
    Ok(())
}

fn tell(name: &str, what: &str) {
    output::progress(&format!("{} {name}: {what}", Zoned::now().strftime("%H:%M:%S")));
}

fn took(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const MINE: &str = "2026-01-01T12:00:00Z-00000001";
    const LATER: &str = "2026-01-01T12:00:01Z-00000002";

    /// A request that was answered, and an environment that is healthy.
    fn answered() -> Value {
        json!({
            "apiVersion": "towpath.dev/v1alpha1",
            "kind": "Environment",
            "metadata": {"name": "prod", "generation": 2, "annotations": {"towpath.dev/requestedAt": MINE}},
            "spec": {"repository": "shop", "lane": "master", "path": "environments/prod"},
            "status": {
                "observedGeneration": 2, "state": "Synced", "health": "Healthy", "lastHandledRequest": MINE,
                "conditions": [condition("Ready", "True", "Synced", "runs master")],
            },
        })
    }

    fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({
            "type": type_, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T12:00:00Z",
        })
    }

    fn check(change: impl FnOnce(&mut Value)) -> Verdict {
        check_after(0, change)
    }

    fn check_after(seconds: u64, change: impl FnOnce(&mut Value)) -> Verdict {
        let mut environment = answered();
        change(&mut environment);
        judge(&serde_json::from_value(environment).unwrap(), MINE, Duration::from_secs(seconds))
    }

    fn not_ready(environment: &mut Value, reason: &str, health: &str) {
        environment["status"]["health"] = health.into();
        environment["status"]["conditions"] = json!([condition("Ready", "False", reason, "because")]);
    }

    #[test]
    fn a_sync_is_done_when_it_is_answered_and_healthy() {
        assert_eq!(check(|_| {}), Verdict::Synced);
    }

    #[test]
    fn health_from_before_the_request_does_not_count() {
        let verdict = check(|environment| environment["status"]["lastHandledRequest"] = "earlier".into());
        assert!(matches!(verdict, Verdict::Wait(_)));
        let verdict = check(|environment| environment["status"] = Value::Null);
        assert!(matches!(verdict, Verdict::Wait(_)));
        let verdict = check(|environment| environment["status"]["observedGeneration"] = 1.into());
        assert!(matches!(verdict, Verdict::Wait(_)));
    }

    #[test]
    fn a_later_request_answers_an_earlier_one() {
        let both = |handled: &'static str| {
            move |environment: &mut Value| {
                environment["metadata"]["annotations"]["towpath.dev/requestedAt"] = LATER.into();
                environment["status"]["lastHandledRequest"] = handled.into();
            }
        };
        assert_eq!(check(both(LATER)), Verdict::Synced);
        assert!(matches!(check(both("earlier")), Verdict::Wait(_)));
    }

    #[test]
    fn what_rolls_out_is_waited_for() {
        assert_eq!(
            check(|environment| not_ready(environment, "Progressing", "Progressing")),
            Verdict::Wait("because".into())
        );
        assert!(matches!(check(|environment| not_ready(environment, "RolloutPaused", "Suspended")), Verdict::Wait(_)));
    }

    #[test]
    fn what_only_a_person_can_mend_ends_the_wait() {
        assert!(matches!(check(|environment| not_ready(environment, "Degraded", "Degraded")), Verdict::Stuck(_)));
        let timed_out = |environment: &mut Value| {
            not_ready(environment, "TimedOut", "Progressing");
            let stalled = condition("Stalled", "True", "TimedOut", "because");
            environment["status"]["conditions"].as_array_mut().unwrap().push(stalled);
        };
        assert!(matches!(check(timed_out), Verdict::Stuck(_)));
        assert!(matches!(check(|environment| environment["status"]["state"] = "Suspended".into()), Verdict::Stuck(_)));
        assert!(matches!(check(|environment| environment["status"]["state"] = "Blocked".into()), Verdict::Stuck(_)));
    }

    #[test]
    fn an_environment_that_was_blocked_before_may_still_answer() {
        let blocked = |environment: &mut Value| {
            environment["status"]["state"] = "Blocked".into();
            environment["status"]["lastHandledRequest"] = "earlier".into();
        };
        assert!(matches!(check_after(1, blocked), Verdict::Wait(_)));
        assert!(matches!(check_after(ANSWER.as_secs(), blocked), Verdict::Stuck(_)));
    }

    #[test]
    fn who_waits_for_an_image_is_told_which() {
        let waiting = |environment: &mut Value| {
            not_ready(environment, "WaitsForImage", "Healthy");
            environment["status"]["lastHandledRequest"] = "earlier".into();
        };
        let Verdict::Wait(said) = check(waiting) else { panic!("it is waited for") };
        assert_ne!(said, "waits for the agent");
    }

    #[test]
    fn a_commit_after_the_one_that_was_asked_for_does_not_matter() {
        assert_eq!(check(|environment| not_ready(environment, "WaitsForRequest", "Healthy")), Verdict::Synced);
    }

    #[test]
    fn only_an_unanswered_request_is_pending() {
        let environment: Environment = serde_json::from_value(answered()).unwrap();
        assert_eq!(pending(&environment), None);
        let mut unanswered = answered();
        unanswered["status"]["lastHandledRequest"] = Value::Null;
        unanswered["metadata"]["annotations"]["towpath.dev/requestedBy"] = "ada".into();
        assert_eq!(pending(&serde_json::from_value(unanswered).unwrap()), Some("ada".to_owned()));
    }

    #[test]
    fn each_request_is_another() {
        let (one, two) = (new_request(Timestamp::now()), new_request(Timestamp::now()));
        assert_ne!(one, two);
        assert!(one[..20].parse::<Timestamp>().is_ok(), "{one}");
    }

    #[test]
    fn a_failure_names_the_objects_that_are_not_healthy() {
        let status = serde_json::from_value(json!({
            "problems": ["a.yaml:3: wrong", "b.yaml:3: wrong"],
            "unhealthy": [{"object": "Deployment.apps web/api", "health": "Degraded", "message": "crashes",
                           "log": ["no such table"]}],
        }));
        let mut out = Vec::new();
        details(&mut out, &status.unwrap(), "prod is blocked: b.yaml:3: wrong").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "  a.yaml:3: wrong\n  Deployment.apps web/api is Degraded: crashes\n    | no such table\n");
    }

    #[test]
    fn a_timeout_is_a_duration() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "-1s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
