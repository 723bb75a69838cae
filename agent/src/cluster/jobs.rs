//! What the pods of a Job said, read as an environment's account.

use serde_json::Value;
use towpath_core::fault::Problem;
use towpath_core::health::LogSource;
use towpath_core::manifest::ObjectKey;

use super::{AccountClient, Kinds};

/// Lines of a log that are asked for: more than are shown, for empty ones are not.
const LOG_LINES: usize = 50;

impl AccountClient {
    /// The end of the log of a Job: of the pod that failed last, or else of the newest one. `None` where no container
    /// has run.
    ///
    /// # Errors
    /// When the account may not read pods or their logs, or nobody answers.
    pub async fn job_log(&self, kinds: &Kinds, job: &ObjectKey) -> Result<Option<String>, Problem> {
        let (Some(kind), Some(namespace)) = (kinds.get("v1", "Pod"), job.namespace.as_deref()) else { return Ok(None) };
        let mut pods = self.list(kind, namespace, &format!("batch.kubernetes.io/job-name={}", job.name)).await?;
        let text =
            |pod: &Value, pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        pods.sort_by_key(|pod| {
            (
                text(pod, "/status/phase") == "Failed",
                text(pod, "/metadata/creationTimestamp"),
                text(pod, "/metadata/name"),
            )
        });
        let Some((pod, container)) = pods.last().and_then(|pod| Some((pod, container_of(pod)?))) else {
            return Ok(None);
        };
        let source = LogSource { pod: text(pod, "/metadata/name"), container: container.to_owned(), previous: false };
        self.pod_log(kind, namespace, &source, LOG_LINES).await.map(Some)
    }
}

/// The container of a pod whose log says most: one that failed, or else the first that has run, init containers first.
fn container_of(pod: &Value) -> Option<&str> {
    let statuses: Vec<&Value> = ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .filter_map(|list| pod.pointer(list)?.as_array())
        .flatten()
        .collect();
    let has_run = |status: &&&Value| ["running", "terminated"].iter().any(|state| status["state"].get(state).is_some());
    let failed = |status: &&&Value| status["state"]["terminated"]["exitCode"].as_i64().is_some_and(|code| code != 0);
    let first_of_its_own = pod
        .pointer("/status/containerStatuses")
        .and_then(Value::as_array)
        .and_then(|statuses| statuses.iter().find(|status| has_run(&status)));
    let found = statuses.iter().find(failed).copied().or(first_of_its_own);
    found.or_else(|| statuses.iter().find(has_run).copied())?["name"].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_that_failed_is_asked() {
        let ended = |name: &str, code: i64| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        let pod = json!({"status": {
            "initContainerStatuses": [ended("init", 0)],
            "containerStatuses": [ended("one", 0), ended("two", 1)],
        }});
        assert_eq!(container_of(&pod), Some("two"));
        let pod = json!({"status": {
            "initContainerStatuses": [ended("init", 0)], "containerStatuses": [ended("one", 0)],
        }});
        assert_eq!(container_of(&pod), Some("one"));
        let pod = json!({"status": {
            "initContainerStatuses": [ended("init", 3)],
            "containerStatuses": [{"name": "one", "state": {"waiting": {"reason": "PodInitializing"}}}],
        }});
        assert_eq!(container_of(&pod), Some("init"));
        assert_eq!(container_of(&json!({"status": {"phase": "Pending"}})), None);
    }
}
