//! The runs of hooks: which Job a run is, and what its end means.
//!
//! A hook runs once for each sync that changes something. Its Job is named after the environment, the commit, the
//! content and the attempt, so that whoever comes again after a crash finds it and makes no second one; it is run again
//! for the same content only where a person asks for it after a failure.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::course::Phase;
use crate::environment::Environment;
use crate::health::{self, Health, ObjectHealth};
use crate::limits::{MAX_HOOK_LOG_BYTES, MAX_HOOK_LOG_LINES};
use crate::manifest::ObjectKey;
use crate::names;
use crate::policy::{Desired, Hook};
use crate::status::HookOutcome;

/// Characters that the name of a Job may have: it becomes the value of a label on its pods.
const MAX_JOB_NAME: usize = 63;
/// Digits of a run, at the end of the Job's name.
const RUN_DIGITS: usize = 10;

/// What a run belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// The environment.
    pub environment: &'a Environment,
    /// The revision, as text.
    pub revision: &'a str,
    /// The digest of everything that is desired.
    pub content: &'a str,
    /// The request by which it is tried again.
    pub attempt: Option<&'a str>,
}

/// Which run of a hook this is: the same for the same occasion.
pub fn run(hook: &Hook, phase: Phase, occasion: &Occasion) -> String {
    let Occasion { environment, revision, content, attempt } = occasion;
    let mut hash = Sha256::new();
    let (home, name) = (&environment.home, &environment.name);
    for part in [home, name.as_str(), revision, content, &hook.key.to_string(), &phase.to_string()] {
        hash.update(part);
        hash.update("\n");
    }
    hash.update(attempt.unwrap_or_default());
    hex::encode(hash.finalize())[..RUN_DIGITS].to_owned()
}

/// The Job of a run.
pub fn job(hook: &Hook, run: &str) -> Desired {
    let name = format!("{}-{run}", stem(hook));
    let mut body = hook.body.clone();
    let metadata = child_of(&mut body, "metadata");
    metadata.insert("name".to_owned(), Value::from(name.as_str()));
    child_of(metadata, "labels").insert(names::HOOK_LABEL.to_owned(), Value::from(label(&hook.key)));
    child_of(metadata, "annotations").insert(names::HOOK_RUN_ANNOTATION.to_owned(), Value::from(run));
    // Kubernetes ends it in time, also while the agent is away.
    child_of(&mut body, "spec")
        .entry("activeDeadlineSeconds")
        .or_insert_with(|| Value::from(hook.timeout.as_secs().max(1)));
    hook.job(name, body)
}

/// Whether an object has the name of a run of this hook.
pub fn is_run_of(hook: &Hook, key: &ObjectKey) -> bool {
    let run = key.name.strip_prefix(&stem(hook)).and_then(|rest| rest.strip_prefix('-')).unwrap_or_default();
    let is_run = run.len() == RUN_DIGITS && run.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_run && (&key.group, &key.kind, &key.namespace) == (&hook.key.group, &hook.key.kind, &hook.key.namespace)
}

/// How the names of a hook's Jobs begin.
fn stem(hook: &Hook) -> String {
    let stem: String = hook.key.name.chars().take(MAX_JOB_NAME - RUN_DIGITS - 1).collect();
    stem.trim_end_matches(['-', '.']).to_owned()
}

/// The value of the label by which the Jobs of a hook are known.
pub fn label(hook: &ObjectKey) -> String {
    let stem: String = hook.name.chars().take(MAX_JOB_NAME).collect();
    stem.trim_end_matches(['-', '.', '_']).to_owned()
}

/// How the Job of a run is, by its health: a Job is healthy only when it has completed.
pub fn outcome(health: &ObjectHealth) -> HookOutcome {
    match health.health {
        Health::Healthy => HookOutcome::Succeeded,
        Health::Degraded if health.message.starts_with("DeadlineExceeded") => HookOutcome::TimedOut,
        Health::Degraded => HookOutcome::Failed,
        _ => HookOutcome::Running,
    }
}

/// The last lines of a log, clean and with what looks like a secret masked.
pub fn log_tail(text: &str) -> Vec<String> {
    health::last_lines_within(text, MAX_HOOK_LOG_LINES, MAX_HOOK_LOG_BYTES)
}

/// A map within a map, made where it is missing or something else.
fn child_of<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let child = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("it was just made a map")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fault::Place;
    use crate::manifest::Identity;
    use crate::manifest::{Manifest, group_of};
    use crate::policy;
    use crate::scope::Scopes;

    fn manifest(kind: &str, name: &str, body: Value) -> Manifest {
        let api_version = if kind == "Job" { "batch/v1" } else { "v1" };
        Manifest {
            key: ObjectKey::from(Identity {
                group: group_of(api_version).into(),
                kind: kind.into(),
                namespace: None,
                name: name.into(),
            }),
            api_version: api_version.into(),
            body: body.as_object().unwrap().clone(),
            source: Place::line("migrate.yaml", 1),
        }
    }

    fn hook(name: &str) -> Hook {
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {},
            "metadata": {"name": name, "annotations": {"towpath.dev/hook": "BeforeSync"}}});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let environment = crate::environment::sample();
        let facts = policy::Facts { environment: &environment, scopes: &Scopes::offline(), claimed: &|_| None };
        let manifests = vec![manifest("Job", name, job), manifest("ConfigMap", "a", map)];
        policy::judge_all(manifests, &facts).unwrap().hooks()[0].clone()
    }

    #[test]
    fn a_run_is_the_same_for_the_same_occasion_and_another_for_any_other() {
        let environment = crate::environment::sample();
        let one = Occasion { environment: &environment, revision: "master@1", content: "c", attempt: None };
        let of = |occasion: &Occasion| run(&hook("migrate"), Phase::BeforeSync, occasion);
        assert_eq!(of(&one), of(&one));
        for other in [
            Occasion { revision: "master@2", ..one },
            Occasion { content: "d", ..one },
            Occasion { attempt: Some("again"), ..one },
        ] {
            assert_ne!(of(&one), of(&other), "{other:?}");
        }
        assert_ne!(of(&one), run(&hook("migrate"), Phase::AfterSync, &one));
        assert_ne!(of(&one), run(&hook("smoke"), Phase::BeforeSync, &one));
    }

    #[test]
    fn the_job_of_a_run_has_a_name_of_its_own_and_says_what_it_is() {
        let job = job(&hook("migrate"), "0123456789");
        let body = Value::Object(job.body());
        assert_eq!(job.key.name, "migrate-0123456789");
        assert!(is_run_of(&hook("migrate"), &job.key) && !is_run_of(&hook("migrate-a"), &job.key));
        assert!(!is_run_of(&hook("migrate"), &hook("migrate-by-hand").key));
        assert_eq!(body["metadata"]["name"], "migrate-0123456789");
        assert_eq!(body["metadata"]["labels"]["towpath.dev/hook"], "migrate");
        assert_eq!(body["metadata"]["annotations"]["towpath.dev/hookRun"], "0123456789");
        assert_eq!(body["metadata"]["labels"]["towpath.dev/environment"], "prod");
        assert_eq!(body["spec"]["activeDeadlineSeconds"], 600);
    }

    #[test]
    fn a_long_name_is_cut_and_its_own_deadline_stays() {
        let mut long = hook(&format!("{}-{}", "a".repeat(51), "b".repeat(20)));
        long.body["spec"] = json!({"activeDeadlineSeconds": 5});
        let job = job(&long, "0123456789");
        assert_eq!(job.key.name, format!("{}-0123456789", "a".repeat(51)));
        assert_eq!(job.body()["spec"]["activeDeadlineSeconds"], 5);
    }

    #[test]
    fn only_a_completed_job_has_succeeded() {
        let of = |health, message: &str| outcome(&ObjectHealth { health, message: message.into(), moved_by: None });
        assert_eq!(of(Health::Healthy, "completed"), HookOutcome::Succeeded);
        assert_eq!(of(Health::Degraded, "BackoffLimitExceeded: no"), HookOutcome::Failed);
        assert_eq!(of(Health::Degraded, "DeadlineExceeded: no"), HookOutcome::TimedOut);
        for other in [Health::Progressing, Health::Suspended, Health::Unknown] {
            assert_eq!(of(other, ""), HookOutcome::Running);
        }
    }

    #[test]
    fn of_a_log_the_last_lines_are_kept() {
        let long: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let tail = log_tail(&long);
        assert_eq!((tail.len(), tail[19].as_str()), (MAX_HOOK_LOG_LINES, "line 99"));
        assert_eq!(log_tail("\u{1b}[31ma\u{1b}[0m\n\nDB_PASSWORD=hunter2\n"), ["a", "DB_PASSWORD=***"]);
        let wide = format!("{}\n", "word ".repeat(50)).repeat(30);
        let bytes: usize = log_tail(&wide).iter().map(String::len).sum();
        assert!(bytes <= MAX_HOOK_LOG_BYTES && bytes > MAX_HOOK_LOG_BYTES / 2, "{bytes}");
    }
}
