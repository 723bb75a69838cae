//! The objects, and what has to happen to each until it stands in the phase that is recorded.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{Recorder, has_condition, is_observed, number, text};

const NAMESPACE: &str = "health";
/// A namespace where no pod may be.
const FULL: &str = "health-full";

/// Records everything, one kind after the other.
pub async fn all(recorder: &Recorder) -> Result<()> {
    for name in [NAMESPACE, FULL] {
        recorder.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    recorder
        .apply(&json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": FULL},
            "spec": {"hard": {"pods": "0"}},
        }))
        .await?;
    recorder
        .apply(&json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-2", "labels": {"kubernetes.io/hostname": "node-2", "kubernetes.io/os": "linux"}},
        }))
        .await?;
    deployments(recorder).await?;
    stateful_sets(recorder).await?;
    daemon_sets(recorder).await?;
    replica_sets(recorder).await?;
    jobs(recorder).await?;
    claims(recorder).await?;
    pods(recorder).await?;
    services(recorder).await?;
    definitions(recorder).await?;
    others(recorder).await?;
    cron_jobs(recorder).await
}

/// An object of a workload kind with one container whose image says what becomes of its pods.
fn workload(kind: &str, name: &str, namespace: &str, image: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    object["spec"]["selector"] = json!({"matchLabels": {"app": name}});
    object["spec"]["template"] = json!({"metadata": {"labels": {"app": name}}, "spec": pod_spec(image)});
    object
}

fn pod_spec(image: &str) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "web", "image": image}],
    })
}

fn set_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}})
}

async fn deployments(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "deployment") {
        return Ok(());
    }
    let of =
        |name: &str, namespace: &str, image: &str, spec: Value| workload("Deployment", name, namespace, image, spec);
    let is_available = |object: &Value| {
        is_observed(object)
            && number(object, "/status/availableReplicas") == 3
            && has_condition(object, "Progressing", "True", "NewReplicaSetAvailable")
    };

    let web = of("web", NAMESPACE, "web:1", json!({"replicas": 3}));
    recorder.apply(&web).await?;
    recorder.record("deployment/available", &web, is_available).await?;
    recorder.patch(&web, &set_image("web:2-never-ready"), false).await?;
    let is_rolling = |object: &Value| {
        is_observed(object)
            && number(object, "/status/updatedReplicas") == 1
            && number(object, "/status/replicas") == 4
            && number(object, "/status/unavailableReplicas") == 1
    };
    recorder.record("deployment/rolling-update", &web, is_rolling).await?;
    recorder.patch(&web, &set_image("web:1"), false).await?;
    recorder.wait("the old image", &web, is_available).await?;
    recorder.patch(&web, &json!({"spec": {"paused": true}}), false).await?;
    let is_paused = |object: &Value| is_observed(object) && has_condition(object, "Progressing", "Unknown", "");
    recorder.record("deployment/paused", &web, is_paused).await?;

    let none = of("none", NAMESPACE, "web:1", json!({"replicas": 0}));
    recorder.apply(&none).await?;
    let is_done =
        |object: &Value| is_observed(object) && has_condition(object, "Progressing", "True", "NewReplicaSetAvailable");
    recorder.record("deployment/scaled-to-zero", &none, is_done).await?;

    let slow = of("slow", NAMESPACE, "web:1-never-ready", json!({"replicas": 3}));
    recorder.apply(&slow).await?;
    let is_progressing = |object: &Value| is_observed(object) && number(object, "/status/updatedReplicas") == 3;
    recorder.record("deployment/progressing", &slow, is_progressing).await?;

    let late = of("late", NAMESPACE, "web:1-never-ready", json!({"replicas": 3, "progressDeadlineSeconds": 2}));
    recorder.apply(&late).await?;
    let is_late = |object: &Value| has_condition(object, "Progressing", "False", "ProgressDeadlineExceeded");
    recorder.record("deployment/deadline-exceeded", &late, is_late).await?;

    let endless = of("endless", NAMESPACE, "web:1", json!({"replicas": 1, "progressDeadlineSeconds": i32::MAX}));
    recorder.apply(&endless).await?;
    let is_ready = |object: &Value| is_observed(object) && number(object, "/status/availableReplicas") == 1;
    recorder.record("deployment/without-deadline", &endless, is_ready).await?;

    let full = of("full", FULL, "web:1", json!({"replicas": 2, "progressDeadlineSeconds": 4}));
    recorder.apply(&full).await?;
    recorder.record("deployment/quota", &full, |object| has_condition(object, "ReplicaFailure", "True", "")).await?;
    recorder.record("deployment/quota-deadline-exceeded", &full, is_late).await?;
    Ok(())
}

async fn stateful_sets(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "stateful-set") {
        return Ok(());
    }
    let of = |name: &str, image: &str, spec: Value| {
        let mut set = workload("StatefulSet", name, NAMESPACE, image, spec);
        set["spec"]["serviceName"] = name.into();
        set
    };
    let all_ready = |object: &Value| {
        is_observed(object)
            && number(object, "/status/readyReplicas") == 3
            && number(object, "/status/currentReplicas") == 3
            && text(object, "/status/currentRevision") == text(object, "/status/updateRevision")
    };
    let db = of("db", "db:1", json!({"replicas": 3}));
    recorder.apply(&db).await?;
    recorder.record("stateful-set/available", &db, all_ready).await?;
    recorder.patch(&db, &set_image("db:2-never-ready"), false).await?;
    let is_rolling = |object: &Value| {
        is_observed(object)
            && number(object, "/status/updatedReplicas") == 1
            && number(object, "/status/readyReplicas") == 2
            && number(object, "/status/replicas") == 3
    };
    recorder.record("stateful-set/rolling", &db, is_rolling).await?;

    let partition = |value: u32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": value}});
    let part = of("part", "db:1", json!({"replicas": 3, "updateStrategy": partition(2)}));
    recorder.apply(&part).await?;
    recorder.wait("the first revision", &part, all_ready).await?;
    recorder.patch(&part, &set_image("db:2"), false).await?;
    let is_above_the_partition = |object: &Value| {
        is_observed(object)
            && number(object, "/status/updatedReplicas") == 1
            && number(object, "/status/readyReplicas") == 3
            && number(object, "/status/replicas") == 3
    };
    recorder.record("stateful-set/partition-done", &part, is_above_the_partition).await?;

    let stuck = of("stuck", "db:1", json!({"replicas": 3, "updateStrategy": partition(1)}));
    recorder.apply(&stuck).await?;
    recorder.wait("the first revision", &stuck, all_ready).await?;
    recorder.patch(&stuck, &set_image("db:2-never-ready"), false).await?;
    recorder.record("stateful-set/partition-updating", &stuck, is_rolling).await?;

    let by_hand = of("by-hand", "db:1", json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}}));
    recorder.apply(&by_hand).await?;
    recorder.wait("the first revision", &by_hand, |object| number(object, "/status/readyReplicas") == 3).await?;
    recorder.patch(&by_hand, &set_image("db:2"), false).await?;
    let is_outdated = |object: &Value| {
        is_observed(object) && text(object, "/status/currentRevision") != text(object, "/status/updateRevision")
    };
    recorder.record("stateful-set/on-delete", &by_hand, is_outdated).await?;

    let first = of("first", "db:1-never-ready", json!({"replicas": 3}));
    recorder.apply(&first).await?;
    let waits = |object: &Value| is_observed(object) && number(object, "/status/replicas") == 1;
    recorder.record("stateful-set/first-pod-not-ready", &first, waits).await?;
    Ok(())
}

async fn daemon_sets(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "daemon-set") {
        return Ok(());
    }
    let of = |name: &str, image: &str, spec: Value| workload("DaemonSet", name, NAMESPACE, image, spec);
    let available = |object: &Value| is_observed(object) && number(object, "/status/numberAvailable") == 2;
    let agent = of("agent", "agent:1", json!({}));
    recorder.apply(&agent).await?;
    recorder.record("daemon-set/available", &agent, available).await?;
    recorder.patch(&agent, &set_image("agent:2-never-ready"), false).await?;
    let rolling = |object: &Value| {
        is_observed(object)
            && number(object, "/status/updatedNumberScheduled") == 1
            && number(object, "/status/numberAvailable") == 1
    };
    recorder.record("daemon-set/rolling", &agent, rolling).await?;

    let slow = of("agent-slow", "agent:1-never-ready", json!({}));
    recorder.apply(&slow).await?;
    let scheduled = |object: &Value| is_observed(object) && number(object, "/status/updatedNumberScheduled") == 2;
    recorder.record("daemon-set/not-available", &slow, scheduled).await?;

    let mut nowhere = of("agent-nowhere", "agent:1", json!({}));
    nowhere["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "none"});
    recorder.apply(&nowhere).await?;
    recorder.record("daemon-set/without-nodes", &nowhere, is_observed).await?;

    let by_hand = of("agent-by-hand", "agent:1", json!({"updateStrategy": {"type": "OnDelete"}}));
    recorder.apply(&by_hand).await?;
    recorder.wait("the first revision", &by_hand, available).await?;
    recorder.patch(&by_hand, &set_image("agent:2"), false).await?;
    let outdated = |object: &Value| available(object) && number(object, "/status/updatedNumberScheduled") == 0;
    recorder.record("daemon-set/on-delete", &by_hand, outdated).await?;
    Ok(())
}

async fn replica_sets(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "replica-set") {
        return Ok(());
    }
    let of = |name: &str, namespace: &str, image: &str| {
        workload("ReplicaSet", name, namespace, image, json!({"replicas": 2}))
    };
    let good = of("set", NAMESPACE, "web:1");
    recorder.apply(&good).await?;
    let is_available = |object: &Value| is_observed(object) && number(object, "/status/availableReplicas") == 2;
    recorder.record("replica-set/available", &good, is_available).await?;
    let slow = of("set-slow", NAMESPACE, "web:1-never-ready");
    recorder.apply(&slow).await?;
    let exist = |object: &Value| is_observed(object) && number(object, "/status/fullyLabeledReplicas") == 2;
    recorder.record("replica-set/not-available", &slow, exist).await?;
    let full = of("set-full", FULL, "web:1");
    recorder.apply(&full).await?;
    recorder.record("replica-set/quota", &full, |object| has_condition(object, "ReplicaFailure", "True", "")).await?;
    Ok(())
}

fn job(name: &str, image: &str, spec: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    });
    job["spec"]["template"] = json!({"spec": pod_spec(image)});
    let policy = if name == "retrying" { "OnFailure" } else { "Never" };
    job["spec"]["template"]["spec"]["restartPolicy"] = policy.into();
    job
}

async fn jobs(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "job") && skips(recorder, "pod") {
        return Ok(());
    }
    let done = job("done", "task:1", json!({}));
    recorder.apply(&done).await?;
    recorder.record("job/complete", &done, |object| has_condition(object, "Complete", "True", "")).await?;
    let succeeded = |pod: &Value| text(pod, "/status/phase") == "Succeeded";
    recorder.record_pod_of("pod/succeeded", NAMESPACE, "job-name=done", succeeded).await?;

    let runs = job("runs", "task:1-never-ready", json!({"completions": 3, "parallelism": 1}));
    recorder.apply(&runs).await?;
    recorder.record("job/running", &runs, |object| number(object, "/status/active") == 1).await?;

    let fails = job("fails", "task:1-fail", json!({"backoffLimit": 0}));
    recorder.apply(&fails).await?;
    recorder.record("job/failed", &fails, |object| has_condition(object, "Failed", "True", "")).await?;
    let failed = |pod: &Value| text(pod, "/status/phase") == "Failed";
    recorder.record_pod_of("pod/failed", NAMESPACE, "job-name=fails", failed).await?;

    let tries = job("tries", "task:1-fail", json!({"backoffLimit": 3}));
    recorder.apply(&tries).await?;
    recorder.record("job/retrying", &tries, |object| number(object, "/status/failed") == 1).await?;

    let waits = job("waits", "task:1", json!({"suspend": true}));
    recorder.apply(&waits).await?;
    recorder.record("job/suspended", &waits, |object| has_condition(object, "Suspended", "True", "")).await?;
    Ok(())
}

async fn cron_jobs(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "cron-job") {
        return Ok(());
    }
    let of = |name: &str, schedule: &str, suspend: bool| {
        let mut template = json!({"template": {"spec": pod_spec("task:1")}});
        template["template"]["spec"]["restartPolicy"] = "Never".into();
        json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"schedule": schedule, "suspend": suspend, "jobTemplate": {"spec": template}},
        })
    };
    let yearly = of("yearly", "0 3 1 1 *", false);
    recorder.apply(&yearly).await?;
    recorder.record("cron-job/never-run", &yearly, |_| true).await?;
    let off = of("off", "0 3 * * *", true);
    recorder.apply(&off).await?;
    recorder.record("cron-job/suspended", &off, |_| true).await?;
    let minutely = of("minutely", "* * * * *", false);
    recorder.apply(&minutely).await?;
    let has_run = |object: &Value| !text(object, "/status/lastSuccessfulTime").is_empty();
    recorder.record("cron-job/has-run", &minutely, has_run).await?;
    Ok(())
}

async fn claims(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "persistent-volume-claim") {
        return Ok(());
    }
    recorder
        .apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"},
            "provisioner": "example.org/nobody", "volumeBindingMode": "WaitForFirstConsumer",
        }))
        .await?;
    let claim = |name: &str, class: &str| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        })
    };
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk-1"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/nowhere"},
        },
    });
    let nothing = claim("nothing", "");
    recorder.apply(&nothing).await?;
    recorder
        .record("persistent-volume-claim/pending", &nothing, |object| text(object, "/status/phase") == "Pending")
        .await?;
    let late = claim("late", "late");
    recorder.apply(&late).await?;
    let pending = |object: &Value| text(object, "/status/phase") == "Pending";
    recorder.record("persistent-volume-claim/waits-for-first-consumer", &late, pending).await?;
    recorder.apply(&volume).await?;
    let bound = claim("bound", "by-hand");
    recorder.apply(&bound).await?;
    let is_bound = |object: &Value| text(object, "/status/phase") == "Bound";
    recorder.record("persistent-volume-claim/bound", &bound, is_bound).await?;
    recorder.patch(&volume, &json!({"metadata": {"finalizers": null}}), false).await?;
    recorder.delete(&volume).await?;
    // The protection may have been put back between the two.
    let _ = recorder.patch(&volume, &json!({"metadata": {"finalizers": null}}), false).await;
    let is_lost = |object: &Value| text(object, "/status/phase") == "Lost";
    recorder.record("persistent-volume-claim/lost", &bound, is_lost).await?;
    Ok(())
}

async fn pods(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "pod/") {
        return Ok(());
    }
    let pod = |name: &str, image: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": pod_spec(image),
        })
    };
    let waiting = |object: &Value| text(object, "/status/containerStatuses/0/state/waiting/reason").to_owned();

    let ready = pod("ready", "web:1");
    recorder.apply(&ready).await?;
    recorder.record("pod/ready", &ready, |object| has_condition(object, "Ready", "True", "")).await?;

    let mut unready = pod("unready", "web:1-never-ready");
    unready["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/healthz", "port": 8080}});
    recorder.apply(&unready).await?;
    recorder.record("pod/running-not-ready", &unready, |object| text(object, "/status/phase") == "Running").await?;

    let crash = pod("crash", "web:1-crash");
    recorder.apply(&crash).await?;
    let is_crashing = |object: &Value| {
        waiting(object) == "CrashLoopBackOff" && number(object, "/status/containerStatuses/0/restartCount") == 3
    };
    recorder.record("pod/crash-loop-back-off", &crash, is_crashing).await?;

    let image = pod("image", "registry.example/web:1-no-such-image");
    recorder.apply(&image).await?;
    recorder.record("pod/image-pull-back-off", &image, |object| waiting(object) == "ImagePullBackOff").await?;

    let mut nowhere = pod("nowhere", "web:1");
    nowhere["spec"]["nodeSelector"] = json!({"disk": "none"});
    recorder.apply(&nowhere).await?;
    let is_unschedulable = |object: &Value| has_condition(object, "PodScheduled", "False", "Unschedulable");
    recorder.record("pod/unschedulable", &nowhere, is_unschedulable).await?;

    let mut gated = pod("gated", "web:1");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.org/budget"}]);
    recorder.apply(&gated).await?;
    let is_gated = |object: &Value| has_condition(object, "PodScheduled", "False", "SchedulingGated");
    recorder.record("pod/scheduling-gated", &gated, is_gated).await?;

    let mut held = pod("held", "web:1");
    held["metadata"]["finalizers"] = json!(["example.org/drain"]);
    recorder.apply(&held).await?;
    recorder.wait("it runs", &held, |object| has_condition(object, "Ready", "True", "")).await?;
    recorder.delete(&held).await?;
    let goes = |object: &Value| !text(object, "/metadata/deletionTimestamp").is_empty();
    recorder.record("pod/terminating", &held, goes).await?;
    recorder.patch(&held, &json!({"metadata": {"finalizers": null}}), false).await
}

async fn services(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "service") && skips(recorder, "ingress") {
        return Ok(());
    }
    let service = |name: &str, kind: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"type": kind, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        })
    };
    for (fixture, object) in [
        ("service/cluster-ip", service("inside", "ClusterIP")),
        ("service/node-port", service("node-port", "NodePort")),
        ("service/load-balancer-without-address", service("outside", "LoadBalancer")),
    ] {
        recorder.apply(&object).await?;
        recorder.record(fixture, &object, |object| !text(object, "/spec/clusterIP").is_empty()).await?;
    }
    let name = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere", "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "db.example.org"},
    });
    recorder.apply(&name).await?;
    recorder.record("service/external-name", &name, |_| true).await?;
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"defaultBackend": {"service": {"name": "inside", "port": {"number": 80}}}},
    });
    recorder.apply(&ingress).await?;
    recorder.record("ingress/without-address", &ingress, |_| true).await?;
    Ok(())
}

fn definition(plural: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.org")},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

async fn definitions(recorder: &Recorder) -> Result<()> {
    if skips(recorder, "custom-resource") {
        return Ok(());
    }
    let databases = definition("databases", "Database");
    recorder.apply(&databases).await?;
    let is_established = |object: &Value| has_condition(object, "Established", "True", "");
    recorder.record("custom-resource-definition/established", &databases, is_established).await?;
    let stores = definition("stores", "Database");
    recorder.apply(&stores).await?;
    let is_refused = |object: &Value| has_condition(object, "NamesAccepted", "False", "");
    recorder.record("custom-resource-definition/names-conflict", &stores, is_refused).await?;

    // The status is written here, as a controller would; generations are counted by the API server.
    let database = |name: &str| {
        json!({
            "apiVersion": "example.org/v1", "kind": "Database",
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"plan": "small"},
        })
    };
    let ready = |status: &str, reason: &str, message: &str| {
        json!({"type": "Ready", "status": status, "reason": reason, "message": message,
               "lastTransitionTime": "2026-03-02T11:55:00Z"})
    };
    let new = database("new");
    recorder.apply(&new).await?;
    recorder.record("custom-resource/without-status", &new, |_| true).await?;
    let good = database("good");
    recorder.apply(&good).await?;
    let status = json!({"observedGeneration": 1, "conditions": [ready("True", "Provisioned", "ready to use")]});
    recorder.patch(&good, &json!({"status": status}), true).await?;
    recorder.record("custom-resource/ready", &good, |object| has_condition(object, "Ready", "True", "")).await?;
    recorder.patch(&good, &json!({"spec": {"plan": "large"}}), false).await?;
    recorder
        .record("custom-resource/generation-not-observed", &good, |object| number(object, "/metadata/generation") == 2)
        .await?;
    let slow = database("slow");
    recorder.apply(&slow).await?;
    let status = json!({"observedGeneration": 1, "conditions": [ready("False", "Provisioning", "waits for a disk")]});
    recorder.patch(&slow, &json!({"status": status}), true).await?;
    recorder.record("custom-resource/not-ready", &slow, |object| has_condition(object, "Ready", "False", "")).await?;
    let mut by_condition = ready("True", "Provisioned", "ready to use");
    by_condition["observedGeneration"] = 1.into();
    let old = database("old");
    recorder.apply(&old).await?;
    recorder.patch(&old, &json!({"status": {"conditions": [by_condition]}}), true).await?;
    recorder.patch(&old, &json!({"spec": {"plan": "large"}}), false).await?;
    recorder
        .record("custom-resource/condition-not-observed", &old, |object| number(object, "/metadata/generation") == 2)
        .await?;
    Ok(())
}

async fn others(recorder: &Recorder) -> Result<()> {
    if ["namespace", "horizontal", "pod-disruption-budget", "api-service", "config-map", "secret"]
        .iter()
        .all(|kind| skips(recorder, kind))
    {
        return Ok(());
    }
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    recorder.apply(&namespace("active")).await?;
    recorder
        .record("namespace/active", &namespace("active"), |object| text(object, "/status/phase") == "Active")
        .await?;

    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": NAMESPACE},
        "data": {"key": "value"},
    });
    recorder.apply(&config).await?;
    recorder.record("config-map/any", &config, |_| true).await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password", "namespace": NAMESPACE},
        "data": {"key": "dmFsdWU="},
    });
    recorder.apply(&secret).await?;
    recorder.record("secret/any", &secret, |_| true).await?;

    recorder.apply(&namespace("ending")).await?;
    let held = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": "ending", "finalizers": ["example.org/backup"]},
    });
    recorder.apply(&held).await?;
    recorder.delete(&namespace("ending")).await?;
    let is_held = |object: &Value| has_condition(object, "NamespaceFinalizersRemaining", "True", "");
    recorder.record("namespace/terminating", &namespace("ending"), is_held).await?;
    recorder.patch(&held, &json!({"metadata": {"finalizers": null}}), false).await?;

    let target = workload("Deployment", "scaled", NAMESPACE, "web:1", json!({"replicas": 2}));
    recorder.apply(&target).await?;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaled", "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled"},
            "minReplicas": 2, "maxReplicas": 5,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
        },
    });
    recorder.apply(&autoscaler).await?;
    let has_none = |object: &Value| has_condition(object, "ScalingActive", "False", "");
    recorder.record("horizontal-pod-autoscaler/without-metrics", &autoscaler, has_none).await?;

    let budget = |name: &str, available: u32| {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"minAvailable": available, "selector": {"matchLabels": {"app": "scaled"}}},
        })
    };
    let (wide, tight) = (budget("wide", 1), budget("tight", 2));
    recorder.apply(&wide).await?;
    let allows = |object: &Value| is_observed(object) && has_condition(object, "DisruptionAllowed", "True", "");
    recorder.record("pod-disruption-budget/allowed", &wide, allows).await?;
    recorder.apply(&tight).await?;
    let refuses = |object: &Value| is_observed(object) && has_condition(object, "DisruptionAllowed", "False", "");
    recorder.record("pod-disruption-budget/not-allowed", &tight, refuses).await?;

    let local =
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.apps"}});
    let available = |object: &Value| has_condition(object, "Available", "True", "");
    recorder.record("api-service/available", &local, available).await?;
    let remote = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.metrics.example.org"},
        "spec": {
            "group": "metrics.example.org", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10,
            "insecureSkipTLSVerify": true, "service": {"name": "metrics", "namespace": NAMESPACE},
        },
    });
    recorder.apply(&remote).await?;
    let unavailable = |object: &Value| has_condition(object, "Available", "False", "");
    recorder.record("api-service/unavailable", &remote, unavailable).await?;
    recorder.delete(&remote).await
}

/// Whether nothing of a kind is wanted.
fn skips(recorder: &Recorder, kind: &str) -> bool {
    recorder.only.as_ref().is_some_and(|only| !only.starts_with(kind.trim_end_matches('/')))
}
