//! What is said of objects as the real controllers leave them: a row for each state of each row of kstatus's table.
//!
//! `make record-health` wrote the fixtures. `kstatus` is what that library says of the same object; where we say
//! something else, that is on purpose.

use Kstatus::{Current, Failed, InProgress, Terminating};

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kstatus {
    InProgress,
    Failed,
    Current,
    Terminating,
}

/// Fixture, what kstatus says, what we say, and why.
type Row = (&'static str, Kstatus, Health, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("api-service/available", Current, Health::Healthy, "Local APIServices are always available"),
    ("api-service/unavailable", Current, Health::Progressing, r#"ServiceNotFound: service/metrics in "health" is not present"#),
    ("config-map/any", Current, Health::Healthy, ""),
    ("cron-job/has-run", Current, Health::Healthy, "last run at 2026-03-02T11:55:00Z"),
    ("cron-job/never-run", Current, Health::Healthy, "not run yet"),
    ("cron-job/suspended", Current, Health::Suspended, "suspended"),
    ("custom-resource/condition-not-observed", Current, Health::Progressing, "its controller has not seen the last change yet"),
    ("custom-resource/generation-not-observed", InProgress, Health::Progressing, "its controller has not seen the last change yet"),
    ("custom-resource/not-ready", InProgress, Health::Progressing, "not ready: Provisioning: waits for a disk"),
    ("custom-resource/ready", Current, Health::Healthy, "Provisioned: ready to use"),
    ("custom-resource/without-status", Current, Health::Healthy, ""),
    ("custom-resource-definition/established", Current, Health::Healthy, "established"),
    ("custom-resource-definition/names-conflict", Failed, Health::Degraded, r#"ListKindConflict: "DatabaseList" is already in use"#),
    ("daemon-set/available", Current, Health::Healthy, "2 of 2 pods available"),
    ("daemon-set/not-available", InProgress, Health::Progressing, "0 of 2 pods available"),
    // kstatus waits for ever for pods that somebody has to delete.
    ("daemon-set/on-delete", InProgress, Health::Healthy, "2 of 2 pods available"),
    ("daemon-set/rolling", InProgress, Health::Progressing, "1 of 2 pods updated"),
    ("daemon-set/without-nodes", Current, Health::Healthy, "0 of 0 pods available"),
    ("deployment/available", Current, Health::Healthy, "3 of 3 replicas available"),
    ("deployment/deadline-exceeded", Failed, Health::Degraded,
        r#"ProgressDeadlineExceeded: ReplicaSet "late-5d89ff589b" has timed out progressing, 0 of 3 replicas available"#),
    // A paused one waits for a person; its condition is `Progressing=Unknown`, so kstatus waits with it.
    ("deployment/paused", InProgress, Health::Suspended, "paused, 3 of 3 replicas available"),
    ("deployment/progressing", InProgress, Health::Progressing, "0 of 3 replicas available"),
    ("deployment/quota", InProgress, Health::Progressing,
        r#"0 of 2 replicas exist, FailedCreate: pods "full-779b64cf9b-abcde" is forbidden: exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0"#),
    ("deployment/quota-deadline-exceeded", Failed, Health::Degraded,
        r#"ProgressDeadlineExceeded: ReplicaSet "full-779b64cf9b" has timed out progressing, FailedCreate: pods "full-779b64cf9b-abcde" is forbidden: exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0"#),
    ("deployment/rolling-update", InProgress, Health::Progressing, "1 of 3 replicas updated"),
    ("deployment/scaled-to-zero", Current, Health::Healthy, "0 of 0 replicas available"),
    ("deployment/without-deadline", Current, Health::Healthy, "1 of 1 replicas available"),
    ("horizontal-pod-autoscaler/without-metrics", Current, Health::Healthy,
        "FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"),
    ("ingress/without-address", Current, Health::Healthy, "no address yet"),
    ("job/complete", Current, Health::Healthy, "completed at 2026-03-02T11:55:00Z"),
    ("job/failed", Failed, Health::Degraded, "BackoffLimitExceeded: Job has reached the specified backoff limit"),
    // A Job is a task: what comes after it waits until it is done.
    ("job/retrying", Current, Health::Progressing, "running, 0 of 1 completed, failed pods: 1"),
    ("job/running", Current, Health::Progressing, "running, 0 of 3 completed"),
    ("job/suspended", Current, Health::Suspended, "suspended, 0 of 1 completed"),
    ("namespace/active", Current, Health::Healthy, "Active"),
    ("namespace/terminating", Terminating, Health::Progressing,
        "being deleted: SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.org/backup in 1 resource instances"),
    ("persistent-volume-claim/bound", Current, Health::Healthy, "bound"),
    ("persistent-volume-claim/lost", InProgress, Health::Degraded, "its volume disk-1 is lost"),
    ("persistent-volume-claim/pending", InProgress, Health::Progressing, "waits for a volume, or for its first pod"),
    ("persistent-volume-claim/waits-for-first-consumer", InProgress, Health::Progressing,
        "waits for a volume of class late, or for its first pod"),
    ("pod/crash-loop-back-off", Failed, Health::Degraded,
        r#"container web CrashLoopBackOff, exit 1: "container web exits with code 1: the tag of its image says so" (3 restarts)"#),
    // To kstatus a pod that has ended is current, however it ended.
    ("pod/failed", Current, Health::Degraded,
        r#"container web failed, exit 1: "container web exits with code 1: the tag of its image says so""#),
    ("pod/image-pull-back-off", InProgress, Health::Degraded,
        r#"container web ImagePullBackOff, image registry.example/web:1-no-such-image: Back-off pulling image "registry.example/web:1-no-such-image": ErrImagePull: failed to resolve reference "registry.example/web:1-no-such-image": not found"#),
    ("pod/ready", Current, Health::Healthy, "ready"),
    ("pod/running-not-ready", InProgress, Health::Progressing,
        "container web runs since 2026-03-02T11:55:00Z and is not ready: readiness probe GET :8080/healthz"),
    ("pod/scheduling-gated", InProgress, Health::Progressing, "SchedulingGated: Scheduling is blocked due to non-empty scheduling gates"),
    ("pod/succeeded", Current, Health::Healthy, "completed"),
    ("pod/terminating", Terminating, Health::Progressing, "being deleted: waits for example.org/drain"),
    ("pod/unschedulable", Failed, Health::Degraded,
        "Unschedulable: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling"),
    ("pod-disruption-budget/allowed", Current, Health::Healthy, ""),
    ("pod-disruption-budget/not-allowed", Current, Health::Healthy, "no pod may be evicted: InsufficientPods, 2 healthy of 2 needed"),
    ("replica-set/available", Current, Health::Healthy, "2 of 2 replicas available"),
    ("replica-set/not-available", InProgress, Health::Progressing, "0 of 2 replicas available"),
    ("replica-set/quota", InProgress, Health::Progressing,
        r#"FailedCreate: pods "set-full-abcde" is forbidden: exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0"#),
    ("secret/any", Current, Health::Healthy, ""),
    ("service/cluster-ip", Current, Health::Healthy, ""),
    ("service/external-name", Current, Health::Healthy, ""),
    ("service/load-balancer-without-address", Current, Health::Healthy, "no outer address yet"),
    ("service/node-port", Current, Health::Healthy, ""),
    ("stateful-set/available", Current, Health::Healthy, "3 of 3 replicas ready"),
    ("stateful-set/first-pod-not-ready", InProgress, Health::Progressing, "1 of 3 replicas exist"),
    ("stateful-set/on-delete", Current, Health::Healthy, "3 of 3 replicas ready, updated as they are deleted"),
    ("stateful-set/partition-done", Current, Health::Healthy, "3 of 3 replicas ready, 1 updated (partition 2)"),
    ("stateful-set/partition-updating", InProgress, Health::Progressing, "2 of 3 replicas ready"),
    ("stateful-set/rolling", InProgress, Health::Progressing, "2 of 3 replicas ready"),
];

#[test]
fn each_state_that_the_real_controllers_know_is_told() {
    for (fixture, _, health, message) in ROWS {
        check(fixture, *health, message);
    }
}

#[test]
fn every_recording_is_in_the_table_and_nothing_else_is() {
    let recorded: BTreeSet<String> = fixtures()
        .into_iter()
        .filter(|name| text_of(name).starts_with("# Recorded from the real controllers"))
        .collect();
    assert_eq!(ROWS.iter().map(|(name, ..)| (*name).to_owned()).collect::<BTreeSet<_>>(), recorded);
}

#[test]
fn what_kstatus_calls_current_or_failed_is_told_otherwise_only_where_that_is_meant() {
    let differs = |row: &&Row| {
        let expected = match row.1 {
            InProgress | Terminating => Health::Progressing,
            Failed => Health::Degraded,
            Current => Health::Healthy,
        };
        row.2 != expected
    };
    let names: Vec<&str> = ROWS.iter().filter(differs).map(|(name, ..)| *name).collect();
    assert_eq!(
        names,
        [
            "api-service/unavailable",
            "cron-job/suspended",
            "custom-resource/condition-not-observed",
            "daemon-set/on-delete",
            "deployment/paused",
            "job/retrying",
            "job/running",
            "job/suspended",
            "persistent-volume-claim/lost",
            "pod/failed",
            "pod/image-pull-back-off",
        ]
    );
}
