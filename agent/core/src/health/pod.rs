//! Pods: how one is doing, and which line of which pod explains best why a workload does not get ready.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::log_lines::masked;
use super::reading::{condition, count, flag, list, reason_and_message, text, time};
use super::{ObjectHealth, one_line};

/// How long a pod may be unschedulable before it counts as failed: the scheduler tries again when a node is added or
/// another pod ends, which is often only seconds away.
const UNSCHEDULABLE_AFTER: SignedDuration = SignedDuration::from_secs(15);

/// How long a restart explains a workload that is not ready although its pods are at the moment.
const RESTART_EXPLAINS_FOR: SignedDuration = SignedDuration::from_mins(10);

pub(super) fn assess(pod: &Value, now: Timestamp) -> ObjectHealth {
    let Some(Trouble { rank, line, .. }) = trouble(pod, now) else {
        return ObjectHealth::healthy(match text(pod, "/status/phase") {
            "Succeeded" => "completed",
            _ => "ready",
        });
    };
    match rank {
        Rank::Restarted => ObjectHealth::healthy(line),
        Rank::Starting | Rank::NotReady | Rank::Unscheduled => ObjectHealth::progressing(line),
        Rank::Failed | Rank::Unschedulable | Rank::Stuck => ObjectHealth::degraded(line),
        Rank::Lost => ObjectHealth::unknown(line),
    }
}

/// Why a workload is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// In one line.
    pub line: String,
    /// Whose log says more, where a container ended badly.
    pub log: Option<LogSource>,
}

/// One run of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// Name of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
    /// Whether it is the run before the current one.
    pub previous: bool,
}

/// The single line that tells most about why the pods of a workload are not all ready, such as
/// `pod web-5d-abc: container web CrashLoopBackOff, exit 1: "bad config" (3 restarts)`.
///
/// Pods that are being deleted do not count. `None` when nothing is wrong with any.
pub fn explain_pods(pods: &[Value], now: Timestamp) -> Option<Explanation> {
    let remains = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
    let troubles = pods.iter().filter(remains).filter_map(|pod| Some((trouble(pod, now)?, pod)));
    // Of equal troubles the newest pod tells most, for it belongs to the newest revision.
    let (trouble, pod) = troubles.max_by_key(|(trouble, pod)| {
        (trouble.rank, time(pod, "/metadata/creationTimestamp"), text(pod, "/metadata/name"))
    })?;
    let name = text(pod, "/metadata/name");
    let log = trouble.log.map(|(container, previous)| LogSource { pod: name.to_owned(), container, previous });
    Some(Explanation { line: one_line(&format!("pod {name}: {}", trouble.line)), log })
}

/// What is wrong with one pod.
struct Trouble {
    rank: Rank,
    line: String,
    /// A container that ended badly, and whether it was its run before the current one.
    log: Option<(String, bool)>,
}

impl Trouble {
    fn new(rank: Rank, line: String) -> Self {
        Trouble { rank, line, log: None }
    }
}

/// What a trouble is, in the order of how much it explains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It is ready, but one of its containers ended a moment ago.
    Restarted,
    /// Nothing is wrong yet.
    Starting,
    /// Its node does not answer.
    Lost,
    /// It ended and stays so.
    Failed,
    /// It runs, but says that it is not ready.
    NotReady,
    /// No node was found yet.
    Unscheduled,
    /// No node takes it.
    Unschedulable,
    /// A container cannot start, or does not stay up.
    Stuck,
}

/// `None` for a pod that is ready or has completed.
fn trouble(pod: &Value, now: Timestamp) -> Option<Trouble> {
    let (phase, status_message) = (text(pod, "/status/phase"), text(pod, "/status/message"));
    let trouble = |rank, line| Some(Trouble::new(rank, line));
    match phase {
        "Succeeded" => return None,
        "Failed" => return Some(failure(pod)),
        "Unknown" => {
            return trouble(Rank::Lost, reason_and_message("its node does not answer", status_message));
        }
        _ => {}
    }
    if condition(pod, "Ready").is_some_and(|ready| ready.status() == "True") {
        return containers(pod).find_map(|container| container.restarted_after(now - RESTART_EXPLAINS_FOR));
    }
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|scheduled| scheduled.status() == "False") {
        let is_young = scheduled.since().is_some_and(|since| now.duration_since(since) < UNSCHEDULABLE_AFTER);
        let is_failure = scheduled.reason() == "Unschedulable" && !is_young;
        return trouble(if is_failure { Rank::Unschedulable } else { Rank::Unscheduled }, scheduled.says());
    }
    let worst = containers(pod).filter_map(|container| container.trouble()).reduce(|first, other| {
        // The first of equal rank: init containers come before what waits for them.
        if other.rank > first.rank { other } else { first }
    });
    if worst.is_some() {
        return worst;
    }
    match condition(pod, "Ready") {
        Some(ready) if phase == "Running" => trouble(Rank::NotReady, reason_and_message("not ready", &ready.says())),
        _ => trouble(Rank::Starting, if phase.is_empty() { "not seen by a node yet" } else { "starting" }.to_owned()),
    }
}

/// How a failed pod ended: by its node (evicted, deadline) or by a container.
fn failure(pod: &Value) -> Trouble {
    let of_the_pod = reason_and_message(text(pod, "/status/reason"), text(pod, "/status/message"));
    if !of_the_pod.is_empty() {
        return Trouble::new(Rank::Failed, format!("failed, {of_the_pod}"));
    }
    let ended = containers(pod).find_map(|container| {
        let terminated = container.status.pointer("/state/terminated")?;
        (count(terminated, "/exitCode") != 0).then(|| Trouble {
            rank: Rank::Failed,
            line: format!("{container} failed, {}", ending(terminated)),
            log: Some((container.name(), false)),
        })
    });
    ended.unwrap_or_else(|| Trouble::new(Rank::Failed, "failed".to_owned()))
}

/// `exit 1: "bad config"`, `OOMKilled, exit 137`.
fn ending(terminated: &Value) -> String {
    let mut line = String::new();
    let reason = text(terminated, "/reason");
    if !matches!(reason, "" | "Error" | "Completed") {
        let _ = write!(line, "{reason}, ");
    }
    let _ = write!(line, "exit {}", count(terminated, "/exitCode"));
    // The message may be the tail of the log; what a program says last is mostly why it ends.
    if let Some(message) = text(terminated, "/message").lines().map(str::trim).rfind(|line| !line.is_empty()) {
        let _ = write!(line, ": \"{}\"", masked(message));
    }
    line
}

/// One container of a pod and its status.
struct Container<'a> {
    status: &'a Value,
    pod: &'a Value,
    is_init: bool,
}

impl std::fmt::Display for Container<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_init { "init container" } else { "container" };
        write!(f, "{kind} {}", text(self.status, "/name"))
    }
}

/// Init containers first, for the others wait for them.
fn containers(pod: &Value) -> impl Iterator<Item = Container<'_>> {
    let init = list(pod, "/status/initContainerStatuses").iter();
    let init = init.map(move |status| Container { status, pod, is_init: true });
    let main = list(pod, "/status/containerStatuses").iter();
    init.chain(main.map(move |status| Container { status, pod, is_init: false }))
}

impl Container<'_> {
    fn name(&self) -> String {
        text(self.status, "/name").to_owned()
    }

    fn trouble(&self) -> Option<Trouble> {
        let waiting = text(self.status, "/state/waiting/reason");
        let message = text(self.status, "/state/waiting/message");
        match waiting {
            "" => self.runs_without_being_ready(),
            "PodInitializing" => None,
            "ContainerCreating" => Some(Trouble::new(Rank::Starting, format!("{self} is being created"))),
            "CrashLoopBackOff" => {
                let last = self.status.pointer("/lastState/terminated").map(|last| format!(", {}", ending(last)));
                let line = format!("{self} {waiting}{}{}", last.unwrap_or_default(), self.restarts());
                Some(Trouble { rank: Rank::Stuck, line, log: Some((self.name(), true)) })
            }
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                let image = text(self.status, "/image");
                let line = reason_and_message(&format!("{self} {waiting}, image {image}"), message);
                Some(Trouble::new(Rank::Stuck, line))
            }
            _ => Some(Trouble::new(Rank::Stuck, reason_and_message(&format!("{self} {waiting}"), message))),
        }
    }

    fn runs_without_being_ready(&self) -> Option<Trouble> {
        if let Some(terminated) = self.status.pointer("/state/terminated") {
            let has_failed = count(terminated, "/exitCode") != 0;
            let line = || format!("{self} ended, {}{}", ending(terminated), self.restarts());
            let log = Some((self.name(), false));
            return has_failed.then(|| Trouble { rank: Rank::NotReady, line: line(), log });
        }
        let since = text(self.status, "/state/running/startedAt");
        if since.is_empty() || flag(self.status, "/ready") {
            return None;
        }
        if self.is_init {
            let line = format!("{self} runs since {since}{}", self.restarts());
            return Some(Trouble::new(Rank::Starting, line));
        }
        let has_started = !matches!(self.status.pointer("/started"), Some(Value::Bool(false)));
        let probe = if has_started { "readiness" } else { "startup" };
        let line = format!("{self} runs since {since} and is not ready{}{}", self.probe(probe), self.restarts());
        Some(Trouble::new(Rank::NotReady, line))
    }

    /// For a container that is ready: that it ended a moment ago all the same.
    fn restarted_after(&self, time_limit: Timestamp) -> Option<Trouble> {
        let last = self.status.pointer("/lastState/terminated")?;
        let is_recent = time(last, "/finishedAt").is_some_and(|finished| finished > time_limit);
        let line = || format!("{self} was restarted after {}{}", ending(last), self.restarts());
        is_recent.then(|| Trouble::new(Rank::Restarted, line()))
    }

    /// ` (3 restarts)`, or nothing.
    fn restarts(&self) -> String {
        match count(self.status, "/restartCount") {
            0 => String::new(),
            1 => " (1 restart)".to_owned(),
            restarts => format!(" ({restarts} restarts)"),
        }
    }

    /// `: readiness probe GET :8080/healthz`, or nothing.
    fn probe(&self, kind: &str) -> String {
        let name = text(self.status, "/name");
        let container = list(self.pod, "/spec/containers").iter().find(|container| text(container, "/name") == name);
        let Some(probe) = container.and_then(|container| container.get(format!("{kind}Probe"))) else {
            return String::new();
        };
        let port = |pointer: &str| match probe.pointer(pointer) {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let what = if probe.get("httpGet").is_some() {
            let path = Some(text(probe, "/httpGet/path")).filter(|path| !path.is_empty()).unwrap_or("/");
            format!(" GET :{}{path}", port("/httpGet/port"))
        } else if probe.get("tcpSocket").is_some() {
            format!(" TCP :{}", port("/tcpSocket/port"))
        } else if probe.get("grpc").is_some() {
            format!(" gRPC :{}", port("/grpc/port"))
        } else {
            let command: Vec<&str> = list(probe, "/exec/command").iter().filter_map(Value::as_str).collect();
            format!(" {}", command.join(" "))
        };
        format!(": {kind} probe{what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health::{Degraded, Healthy, Progressing, Unknown};
    use crate::health::tests::{NOW, check, fixture};

    #[test]
    fn one_that_starts_is_waited_for() {
        check("pod/without-phase", Progressing, "not seen by a node yet");
        check("pod/pending", Progressing, "starting");
        check("pod/creating", Progressing, "container web is being created");
        check("pod/init-running", Progressing, "init container migrate runs since 2026-03-02T11:58:00Z");
    }

    #[test]
    fn one_that_is_not_ready_names_its_probe() {
        check(
            "pod/not-started",
            Progressing,
            "container web runs since 2026-03-02T11:50:00Z and is not ready: startup probe TCP :http",
        );
        check(
            "pod/readiness-gate",
            Progressing,
            "not ready: ReadinessGatesNotReady: the status of pod readiness gate \"lb.example.org\" is not \"True\"",
        );
    }

    #[test]
    fn a_crash_loop_says_how_the_container_ended() {
        check(
            "pod/crash-loop",
            Degraded,
            "container web CrashLoopBackOff, exit 1: \"bad config: no such key db.url\" (3 restarts)",
        );
        check(
            "pod/crash-loop-out-of-memory",
            Degraded,
            "container web CrashLoopBackOff, OOMKilled, exit 137 (1 restart)",
        );
        check("pod/crash-loop-init", Degraded, "init container migrate CrashLoopBackOff, exit 2 (5 restarts)");
    }

    #[test]
    fn last_words_are_told_without_their_secrets() {
        let mut pod = fixture("pod/crash-loop");
        pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"] = "no login: DB_PASSWORD=x".into();
        let found = assess(&pod, NOW.parse().unwrap());
        assert!(found.message.contains("no login: DB_PASSWORD=***"), "{}", found.message);
    }

    #[test]
    fn one_between_two_crashes_has_not_failed_yet() {
        check("pod/just-crashed", Progressing, "container web ended, exit 1 (1 restart)");
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named() {
        check(
            "pod/image-pull-error",
            Degraded,
            "container web ErrImagePull, image harbor.example/web:v9: harbor.example/web:v9: not found",
        );
        check(
            "pod/image-name-invalid",
            Degraded,
            "container web InvalidImageName, image harbor.example/Web:v9: couldn't parse image name",
        );
    }

    #[test]
    fn a_container_that_cannot_be_made_says_why() {
        check("pod/without-secret", Degraded, "container web CreateContainerConfigError: secret \"db\" not found");
    }

    #[test]
    fn one_that_no_node_takes_has_failed_after_15_seconds() {
        const WHY: &str = "Unschedulable: 0/3 nodes are available: 3 Insufficient memory";
        check("pod/unschedulable-for-14-seconds", Progressing, WHY);
        check("pod/unschedulable-for-15-seconds", Degraded, WHY);
    }

    #[test]
    fn one_that_ended_badly_has_failed() {
        check("pod/evicted", Degraded, "failed, Evicted: The node was low on resource: memory");
        check("pod/failed-without-reason", Degraded, "failed");
    }

    #[test]
    fn one_on_a_lost_node_is_unknown() {
        check("pod/unknown", Unknown, "its node does not answer: Node kw-2 which was running pod is unresponsive");
    }

    #[test]
    fn a_restart_is_told_for_10_minutes() {
        check("pod/restarted", Healthy, "container web was restarted after OOMKilled, exit 137 (1 restart)");
        check("pod/restarted-10-minutes-ago", Healthy, "ready");
    }

    /// What is said of a workload with these pods.
    #[track_caller]
    fn check_explained(pods: &[&str], line: Option<&str>) {
        let pods: Vec<Value> = pods.iter().map(|name| fixture(name)).collect();
        assert_eq!(explained(&pods).as_deref(), line);
    }

    fn explained(pods: &[Value]) -> Option<String> {
        explain_pods(pods, NOW.parse().unwrap()).map(|explanation| explanation.line)
    }

    #[test]
    fn a_container_that_ended_badly_has_a_log_to_read() {
        let log = |pod: &str| explain_pods(&[fixture(pod)], NOW.parse().unwrap()).unwrap().log;
        let of =
            |pod: &str, container: &str, previous| LogSource { pod: pod.into(), container: container.into(), previous };
        assert_eq!(log("pod/crash-loop-back-off"), Some(of("crash", "web", true)));
        assert_eq!(log("pod/failed"), Some(of("fails-abcde", "web", false)));
        assert_eq!(log("pod/just-crashed"), Some(of("web-just-crashed", "web", false)));
        for pod in ["pod/image-pull-back-off", "pod/unschedulable", "pod/evicted", "pod/running-not-ready"] {
            assert_eq!(log(pod), None, "{pod}");
        }
    }

    #[test]
    fn nothing_is_explained_where_nothing_is_wrong() {
        check_explained(&[], None);
        check_explained(&["pod/ready", "pod/succeeded"], None);
    }

    #[test]
    fn a_crash_explains_more_than_its_neighbours() {
        check_explained(
            &[
                "pod/ready",
                "pod/running-not-ready",
                "pod/crash-loop",
                "pod/unschedulable-for-15-seconds",
                "pod/evicted",
            ],
            Some(
                "pod web-crash-loop: container web CrashLoopBackOff, exit 1: \"bad config: no such key db.url\" \
                 (3 restarts)",
            ),
        );
    }

    #[test]
    fn an_unschedulable_pod_explains_more_than_one_that_starts() {
        check_explained(
            &["pod/creating", "pod/evicted", "pod/unschedulable-for-14-seconds"],
            Some("pod web-unschedulable-for-14-seconds: Unschedulable: 0/3 nodes are available: 3 Insufficient memory"),
        );
    }

    #[test]
    fn a_failed_try_explains_more_than_the_next_one_that_starts() {
        check_explained(
            &["pod/failed", "pod/creating"],
            Some(
                "pod fails-abcde: container web failed, exit 1: \"container web exits with code 1: the tag of its \
                 image says so\"",
            ),
        );
    }

    #[test]
    fn of_two_equal_troubles_the_newest_pod_tells() {
        let (old, mut new) = (fixture("pod/crash-loop"), fixture("pod/without-secret"));
        new["metadata"]["creationTimestamp"] = "2026-03-02T11:59:00Z".into();
        let line = Some("pod web-without-secret: container web CreateContainerConfigError: secret \"db\" not found");
        for pods in [[old.clone(), new.clone()], [new, old]] {
            assert_eq!(explained(&pods).as_deref(), line);
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_explains_nothing() {
        let mut pod = fixture("pod/crash-loop");
        pod["metadata"]["deletionTimestamp"] = NOW.into();
        assert_eq!(explained(&[pod]), None);
    }
}
