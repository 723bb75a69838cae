//! A Deployment that another tool applied, and what becomes of each entry.

use super::*;

fn entry(manager: &str, operation: &str, fields: Value) -> Value {
    json!({
        "manager": manager, "operation": operation, "apiVersion": "apps/v1", "time": "2026-03-02T10:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    })
}

fn live(entries: Vec<Value>) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {
        "name": "web", "resourceVersion": "7", "managedFields": entries,
    }})
}

fn nobody() -> BTreeSet<String> {
    BTreeSet::new()
}

/// The entries after a take-over, as `manager operation: fields`.
fn entries(take_over: &TakeOver) -> Vec<String> {
    let entries = take_over.patch[1]["value"].as_array().unwrap();
    let line =
        |entry: &Value| format!("{} {}: {}", text_of(entry, "manager"), text_of(entry, "operation"), entry["fieldsV1"]);
    entries.iter().map(line).collect()
}

#[test]
fn what_a_former_tool_applied_becomes_ours_when_it_is_adopted() {
    for tool in ["kubectl-client-side-apply", "kustomize-controller", "argocd-controller", "kubectl"] {
        for operation in ["Apply", "Update"] {
            let object = live(vec![
                entry(tool, operation, json!({"f:spec": {"f:replicas": {}, "f:paused": {}}})),
                entry("hand", "Update", json!({"f:metadata": {"f:labels": {"f:x": {}}}})),
            ]);
            let taken = take_over(&object, &nobody(), true).unwrap();
            assert_eq!(
                entries(&taken),
                [
                    r#"towpath Apply: {"f:spec":{"f:paused":{},"f:replicas":{}}}"#,
                    r#"hand Update: {"f:metadata":{"f:labels":{"f:x":{}}}}"#,
                ]
            );
            assert_eq!(taken.taken, [format!("spec.paused, spec.replicas from {tool}")]);
            assert_eq!(taken.patch[0], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"}));
        }
    }
}

#[test]
fn an_object_that_is_ours_is_cured_only_of_a_tool_that_shares_a_value() {
    let ours = entry("towpath", "Apply", json!({"f:spec": {"f:replicas": {}}}));
    let apart = live(vec![ours.clone(), entry("kubectl", "Apply", json!({"f:spec": {"f:paused": {}}}))]);
    assert_eq!(take_over(&apart, &nobody(), false), None);
    let sharing = live(vec![ours, entry("kubectl", "Apply", json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}))]);
    let taken = take_over(&sharing, &nobody(), false).unwrap();
    assert_eq!(entries(&taken), [r#"towpath Apply: {"f:spec":{"f:paused":{},"f:replicas":{}}}"#]);
}

#[test]
fn what_was_there_before_the_first_apply_is_only_disentangled() {
    let object = live(vec![
        entry("towpath", "Apply", json!({"f:spec": {"f:replicas": {}}})),
        entry("before-first-apply", "Update", json!({"f:spec": {".": {}, "f:replicas": {}, "f:sidecar": {}}})),
    ]);
    let taken = take_over(&object, &nobody(), false).unwrap();
    assert_eq!(
        entries(&taken),
        [
            r#"towpath Apply: {"f:spec":{"f:replicas":{}}}"#,
            r#"before-first-apply Update: {"f:spec":{".":{},"f:sidecar":{}}}"#,
        ]
    );
    assert_eq!(taken.taken, ["spec.replicas from before-first-apply"]);
}

#[test]
fn controllers_subresources_and_strangers_keep_what_they_have() {
    let mut scale = entry("kubectl", "Update", json!({"f:spec": {"f:replicas": {}}}));
    scale["subresource"] = "scale".into();
    let object = live(vec![
        entry("kube-controller-manager", "Update", json!({"f:spec": {"f:replicas": {}}})),
        entry("helm", "Update", json!({"f:spec": {"f:paused": {}}})),
        scale,
    ]);
    assert_eq!(take_over(&object, &nobody(), true), None);
    let also = BTreeSet::from(["helm".to_owned()]);
    let taken = take_over(&object, &also, true).unwrap();
    assert_eq!(taken.taken, ["spec.paused from helm"]);
    assert_eq!(entries(&taken).len(), 3);
}

#[test]
fn the_annotation_of_client_side_apply_goes_with_it() {
    let mut object = live(vec![entry("kubectl-client-side-apply", "Update", json!({"f:spec": {"f:paused": {}}}))]);
    object["metadata"]["annotations"] = json!({ LAST_APPLIED: "{}" });
    let taken = take_over(&object, &nobody(), true).unwrap();
    assert_eq!(
        taken.patch[2],
        json!({"op": "remove", "path": "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration"})
    );
}

#[test]
fn the_version_of_our_own_entry_stays_else_the_last_writers_counts() {
    let mut old = entry("kubectl-client-side-apply", "Update", json!({"f:spec": {"f:a": {}}}));
    old["apiVersion"] = "extensions/v1beta1".into();
    old["time"] = "2020-01-01T00:00:00Z".into();
    let new = entry("kustomize-controller", "Apply", json!({"f:spec": {"f:b": {}}}));
    let taken = take_over(&live(vec![old.clone(), new]), &nobody(), true).unwrap();
    assert_eq!(taken.patch[1]["value"][0]["apiVersion"], "apps/v1");
    let ours = entry("towpath", "Apply", json!({"f:spec": {"f:a": {}}}));
    let taken = take_over(&live(vec![old, ours]), &nobody(), false).unwrap();
    assert_eq!(taken.patch[1]["value"][0]["apiVersion"], "apps/v1");
}

#[test]
fn what_an_apply_took_is_named_by_field_and_manager() {
    let before = live(vec![entry("kubectl-edit", "Update", json!({"f:spec": {"f:replicas": {}, "f:paused": {}}}))]);
    let after = live(vec![
        entry("towpath", "Apply", json!({"f:spec": {"f:replicas": {}}})),
        entry("kubectl-edit", "Update", json!({"f:spec": {"f:paused": {}}})),
    ]);
    assert_eq!(taken(&before, &after), ["spec.replicas from kubectl-edit"]);
    assert_eq!(taken(&after, &after), [""; 0]);
}

#[test]
fn what_git_dropped_and_another_keeps_is_named() {
    let theirs = entry("hand", "Update", json!({"f:spec": {"f:replicas": {}}}));
    let before = live(vec![
        entry("towpath", "Apply", json!({"f:spec": {"f:replicas": {}, "f:paused": {}, "f:gone": {}}})),
        theirs.clone(),
    ]);
    let after = live(vec![entry("towpath", "Apply", json!({"f:spec": {"f:paused": {}}})), theirs]);
    assert_eq!(staying(&before, &after, &[]), ["spec.replicas left git and stays: hand has it too"]);
    let left = FieldSet::of_entry(&json!({"fieldsV1": {"f:spec": {"f:replicas": {}}}})).paths();
    assert_eq!(staying(&before, &after, &left), [""; 0]);
}

#[test]
fn many_fields_are_counted() {
    let fields = json!({"f:data": {"f:a": {}, "f:b": {}, "f:c": {}, "f:d": {}, "f:e": {}, "f:f": {}, "f:g": {}}});
    let taken = take_over(&live(vec![entry("kubectl", "Apply", fields)]), &nobody(), true).unwrap();
    assert_eq!(taken.taken, ["data.a, data.b, data.c, data.d, data.e, and 2 more from kubectl"]);
}
