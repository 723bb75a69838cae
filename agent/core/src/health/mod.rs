//! How a live object is doing, read from its own status, in words that say what is waited for.
//!
//! The rules are those of kstatus (kubernetes-sigs/cli-utils), read for people: a Job is done only when it completed, a
//! paused workload waits for a person and is not broken, and a rollout controller is asked before the workload it
//! moves. One kind stands in one file; a kind without a file goes by the conditions and generations that most
//! controllers write ([`generic`]). The rules of an Environment ([`HealthRules`]) come before those of any kind.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::limits::MAX_MESSAGE_CHARACTERS;
use crate::manifest::group_of;
use crate::revision::clean_line;

mod api_service;
mod argo_rollout;
mod cron_job;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod generic;
mod horizontal_pod_autoscaler;
mod ingress;
mod job;
mod knative;
mod kruise_rollout;
mod log_lines;
mod namespace;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod reading;
mod replica_set;
mod rules;
mod service;
mod stateful_set;

pub use kruise_rollout::{moved_by, target_of};
pub use log_lines::{last_lines, last_lines_within};
pub use pod::{Explanation, LogSource, explain_pods};
pub use rules::{HealthRule, HealthRules};

/// How an object, or a whole environment, is doing.
///
/// The order is from best to worst, so the health of many is the greatest of theirs. A known failure outweighs what is
/// not known, and what still moves outweighs what waits for a person: it may yet end otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Health {
    /// It does what it was told.
    Healthy,
    /// It waits for a person, by intent: paused, suspended, a step that somebody has to approve.
    Suspended,
    /// It is on its way and goes on by itself.
    Progressing,
    /// Its state cannot be read.
    Unknown,
    /// It should be there and is not.
    Missing,
    /// It failed, or does not get further without a change.
    Degraded,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The health of one object and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHealth {
    /// How it is doing.
    pub health: Health,
    /// What is waited for or what failed, in one clean line of at most 300 characters: `2 of 3 replicas available`.
    /// It says times as points, never as "for 5 minutes", so that it changes only when the object does.
    pub message: String,
    /// The Rollout of OpenKruise, in the same namespace, that moves this workload at the moment and speaks for it:
    /// where its health is known, this one does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_by: Option<Box<str>>,
}

impl ObjectHealth {
    fn new(health: Health, message: impl AsRef<str>) -> Self {
        ObjectHealth { health, message: one_line(message.as_ref()), moved_by: None }
    }

    fn healthy(message: impl AsRef<str>) -> Self {
        ObjectHealth::new(Health::Healthy, message)
    }

    fn suspended(message: impl AsRef<str>) -> Self {
        ObjectHealth::new(Health::Suspended, message)
    }

    fn progressing(message: impl AsRef<str>) -> Self {
        ObjectHealth::new(Health::Progressing, message)
    }

    fn unknown(message: impl AsRef<str>) -> Self {
        ObjectHealth::new(Health::Unknown, message)
    }

    /// An object that should be there and is not.
    pub fn missing() -> Self {
        ObjectHealth::new(Health::Missing, "not there")
    }

    fn degraded(message: impl AsRef<str>) -> Self {
        ObjectHealth::new(Health::Degraded, message)
    }
}

/// Text of a status in one line: line ends become blanks, whatever could fool a terminal goes, and so does the end of
/// what is too long.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    clean_line(&words.join(" "), MAX_MESSAGE_CHARACTERS)
}

/// The health of a live object, status included.
///
/// # Guarantees
/// Every value has a health; one that is no object of a cluster is `Unknown`. `Missing` is never the answer: whoever
/// finds no object says [`ObjectHealth::missing`].
pub fn assess(object: &Value, rules: &HealthRules, now: Timestamp) -> ObjectHealth {
    let (group, kind) = (group_of(reading::text(object, "/apiVersion")), reading::text(object, "/kind"));
    if (group, kind) == ("", "Namespace") {
        return namespace::assess(object);
    }
    if let Some(deleted) = generic::being_deleted(object) {
        return deleted;
    }
    if rules.cover(group, kind) {
        let behind = generic::not_observed(object);
        return behind.or_else(|| rules.assess(object, group, kind)).unwrap_or_else(|| generic::assess(object));
    }
    match own_rules(group, kind) {
        Some(assess) => generic::at_work(object).unwrap_or_else(|| assess(object, now)),
        None => generic::assess(object),
    }
}

/// How a kind with a file of its own is read.
type Assess = fn(&Value, Timestamp) -> ObjectHealth;

fn own_rules(group: &str, kind: &str) -> Option<Assess> {
    Some(match (group, kind) {
        (_, "") => |_, _| ObjectHealth::unknown("not an object: it has no kind"),
        ("", "PersistentVolumeClaim") => |object, _| persistent_volume_claim::assess(object),
        ("", "Pod") => pod::assess,
        ("", "Service") => |object, _| service::assess(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => |object, _| custom_resource_definition::assess(object),
        ("apiregistration.k8s.io", "APIService") => |object, _| api_service::assess(object),
        ("apps", "DaemonSet") => |object, _| daemon_set::assess(object),
        ("apps", "Deployment") => |object, _| deployment::assess(object),
        ("apps", "ReplicaSet") => |object, _| replica_set::assess(object),
        ("apps", "StatefulSet") => |object, _| stateful_set::assess(object),
        ("argoproj.io", "Rollout") => |object, _| argo_rollout::assess(object),
        ("autoscaling", "HorizontalPodAutoscaler") => |object, _| horizontal_pod_autoscaler::assess(object),
        ("batch", "CronJob") => |object, _| cron_job::assess(object),
        ("batch", "Job") => |object, _| job::assess(object),
        ("networking.k8s.io", "Ingress") => |object, _| ingress::assess(object),
        ("policy", "PodDisruptionBudget") => |object, _| pod_disruption_budget::assess(object),
        ("rollouts.kruise.io", "Rollout") => |object, _| kruise_rollout::assess(object),
        (group, _) if group.ends_with(".knative.dev") => |object, _| knative::assess(object),
        _ => return None,
    })
}

/// What to say of a Rollout beside the workload that it is about, both as they are now, where its status is about an older
/// one. `None` where it has seen the workload, or does not say.
pub fn of_workload(rollout: &Value, workload: &Value) -> Option<ObjectHealth> {
    match group_of(reading::text(rollout, "/apiVersion")) {
        "argoproj.io" => argo_rollout::of_workload(rollout, workload),
        _ => kruise_rollout::of_workload(rollout, workload),
    }
}

/// The health of many. Of none it is `Healthy`: there is nothing to wait for.
pub fn worst(healths: impl IntoIterator<Item = Health>) -> Health {
    healths.into_iter().max().unwrap_or(Health::Healthy)
}

#[cfg(test)]
mod tests;
