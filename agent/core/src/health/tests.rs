//! One fixture for each state that an object can be in: `testdata/<kind>/<state>.yaml`. Those that the real controllers
//! produce are recorded, and stand in one table ([`recorded`]); what they do not produce in the test control plane is
//! written by hand, says why in its first line, and is checked in the file of its kind. Here are the check they share
//! and what holds for all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

mod recorded;

/// When the fixtures are looked at.
pub(super) const NOW: &str = "2026-03-02T12:00:00Z";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/health")
}

/// The live object of a fixture.
#[track_caller]
pub(super) fn fixture(name: &str) -> Value {
    serde_saphyr::from_str(&text_of(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn text_of(name: &str) -> String {
    let file = folder().join("testdata").join(format!("{name}.yaml"));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The names of all fixtures.
fn fixtures() -> BTreeSet<String> {
    let files = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let names = files(&folder().join("testdata")).into_iter().flat_map(|kind| files(&kind));
    names
        .map(|file| {
            let state = file.with_extension("");
            let parts: Vec<_> = state.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned()).collect();
            format!("{}/{}", parts[1], parts[0])
        })
        .collect()
}

/// What is said of a fixture.
#[track_caller]
pub(super) fn check(name: &str, health: Health, message: &str) {
    let found = assess(&fixture(name), &HealthRules::default(), NOW.parse().unwrap());
    assert_eq!((found.health, found.message.as_str()), (health, message), "{name}");
}

#[test]
fn every_fixture_is_checked_and_says_where_it_is_from() {
    let sources = [folder(), folder().join("tests")].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let sources = sources.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let rows: String = sources.map(|file| fs::read_to_string(file).unwrap()).collect();
    let fixtures = fixtures();
    let unclaimed: Vec<&String> = fixtures.iter().filter(|name| !rows.contains(&format!("\"{name}\""))).collect();
    assert_eq!(unclaimed, Vec::<&String>::new());
    assert!(!fixtures.is_empty());
    for name in &fixtures {
        let text = text_of(name);
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("# Recorded from ") || first.starts_with("# Written by hand: "), "{name}: {first}");
    }
}

#[test]
fn the_health_of_many_is_the_worst_of_theirs() {
    use Health::*;
    let from_best_to_worst = [Healthy, Suspended, Progressing, Unknown, Missing, Degraded];
    assert!(from_best_to_worst.is_sorted());
    assert_eq!(worst(from_best_to_worst), Degraded);
    assert_eq!(worst([Suspended, Healthy]), Suspended);
    assert_eq!(worst([]), Healthy);
}

#[test]
fn what_is_no_object_is_unknown_and_never_a_panic() {
    for value in [json!(null), json!([]), json!({}), json!({"apiVersion": "v1", "status": {}})] {
        assert_eq!(assess(&value, &HealthRules::default(), NOW.parse().unwrap()).health, Health::Unknown, "{value}");
    }
}

#[test]
fn a_status_of_another_shape_is_never_a_panic() {
    let kinds = [
        ("v1", "Pod"),
        ("v1", "Service"),
        ("v1", "PersistentVolumeClaim"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
        ("argoproj.io/v1alpha1", "Rollout"),
        ("rollouts.kruise.io/v1beta1", "Rollout"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("apiregistration.k8s.io/v1", "APIService"),
        ("networking.k8s.io/v1", "Ingress"),
        ("policy/v1", "PodDisruptionBudget"),
        ("serving.knative.dev/v1", "Service"),
        ("v1", "Namespace"),
    ];
    let odd = [json!(null), json!("x"), json!([1]), json!({"conditions": "x", "replicas": "3", "phase": 7})];
    for (api_version, kind) in kinds {
        for part in &odd {
            let object =
                json!({"apiVersion": api_version, "kind": kind, "metadata": part, "spec": part, "status": part});
            assess(&object, &HealthRules::default(), NOW.parse().unwrap());
        }
    }
}

#[test]
fn a_kind_of_another_group_is_not_judged_by_its_name() {
    let object = json!({"apiVersion": "example.org/v1", "kind": "Deployment", "spec": {"paused": true}});
    assert_eq!(assess(&object, &HealthRules::default(), NOW.parse().unwrap()).health, Health::Healthy);
}

#[test]
fn a_message_is_one_clean_line_of_at_most_300_characters() {
    let message = |text: String| {
        let ready = json!({"type": "Stalled", "status": "True", "message": text});
        let object = json!({"apiVersion": "v1", "kind": "A", "status": {"conditions": [ready]}});
        assess(&object, &HealthRules::default(), NOW.parse().unwrap()).message
    };
    assert_eq!(message("a\n\tb\u{1b}[31mc\u{202e}".to_owned()), "a b[31mc");
    assert_eq!(message("ä".repeat(300)).chars().count(), 300);
    assert_eq!(message("ä".repeat(301)).chars().count(), 300);
}

#[test]
fn health_reads_and_writes_as_its_name() {
    assert_eq!(Health::Degraded.to_string(), "Degraded");
    let health = ObjectHealth::missing();
    assert_eq!(serde_json::to_value(&health).unwrap(), json!({"health": "Missing", "message": "not there"}));
    assert_eq!(
        serde_json::from_value::<ObjectHealth>(json!({"health": "Missing", "message": "not there"})).unwrap(),
        health
    );
}
