//! Each act of others that was tried on a real server, as the server leaves the object behind. Every test begins with
//! an object just applied and changes one thing.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What was applied.
fn desired() -> Value {
    serde_saphyr::from_str(include_str!("testdata/deployment.yaml")).unwrap()
}

/// The same object as kube-apiserver 1.36.3 answered: with defaults, a status, and the entries of two managers.
fn live() -> Value {
    serde_saphyr::from_str(include_str!("testdata/deployment-live.yaml")).unwrap()
}

const ENTRIES: &str = "/metadata/managedFields";
const OURS: &str = "/metadata/managedFields/0/fieldsV1";
const CONTAINERS: &str = "/spec/template/spec/containers";
const OUR_CONTAINER: &str = r#"/f:spec/f:template/f:spec/f:containers/k:{"name":"web"}"#;

/// The value at a JSON pointer, to be changed.
fn at<'a>(object: &'a mut Value, pointer: &str) -> &'a mut Value {
    object.pointer_mut(pointer).unwrap_or_else(|| panic!("the test object has nothing at {pointer}"))
}

fn list_at<'a>(object: &'a mut Value, pointer: &str) -> &'a mut Vec<Value> {
    at(object, pointer).as_array_mut().expect("a list")
}

/// Takes a field out of our entry, as the server does when another manager changes it.
fn disown(object: &mut Value, below: &str, field: &str) {
    let fields = at(object, &format!("{OURS}{below}")).as_object_mut().expect("a field set");
    fields.remove(field).unwrap_or_else(|| panic!("we do not own {field}"));
}

/// Adds the entry of another manager.
fn owned_by(object: &mut Value, manager: &str, fields: Value) {
    list_at(object, ENTRIES).push(json!({
        "manager": manager, "operation": "Update", "apiVersion": "apps/v1",
        "time": "2026-03-02T10:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields,
    }));
}

/// The fingerprint before and after an act on the applied object.
fn act(change: impl FnOnce(&mut Value)) -> (Option<Fingerprint>, Option<Fingerprint>) {
    let mut object = live();
    change(&mut object);
    (of_live(&live()), of_live(&object))
}

#[track_caller]
fn check_no_drift(change: impl FnOnce(&mut Value)) {
    let (before, after) = act(change);
    assert!(before.is_some());
    assert_eq!(before, after);
}

#[track_caller]
fn check_drift(change: impl FnOnce(&mut Value)) {
    let (before, after) = act(change);
    assert!(after.is_some(), "our entry is still there");
    assert_ne!(before, after);
}

fn body_of(object: &Value) -> &Map<String, Value> {
    object.as_object().expect("an object")
}

#[test]
fn what_was_applied_is_what_we_own() {
    assert_eq!(project(&live()), Some(expected(body_of(&desired()))));
    assert_eq!(of_live(&live()), Some(of_desired(body_of(&desired()))));
}

#[test]
fn a_co_owner_of_the_same_value_changes_nothing() {
    check_no_drift(|object| owned_by(object, "helm", json!({"f:spec": {"f:replicas": {}}})));
}

#[test]
fn a_value_changed_by_a_forced_apply_is_drift() {
    check_drift(|object| {
        *at(object, "/spec/replicas") = json!(5);
        disown(object, "/f:spec", "f:replicas");
        owned_by(object, "kubectl", json!({"f:spec": {"f:replicas": {}}}));
    });
}

#[test]
fn a_value_rewritten_by_admission_while_we_still_own_it_is_drift() {
    check_drift(|object| *at(object, &format!("{CONTAINERS}/0/image")) = json!("mirror.example/web:1"));
}

#[test]
fn a_value_changed_away_and_back_is_lost_ownership() {
    check_drift(|object| {
        disown(object, "/f:spec", "f:replicas");
        owned_by(object, "kubectl-edit", json!({"f:spec": {"f:replicas": {}}}));
    });
}

#[test]
fn a_sidecar_appended_is_none_of_ours() {
    check_no_drift(|object| list_at(object, CONTAINERS).push(json!({"name": "proxy", "image": "istio/proxy:1"})));
}

#[test]
fn a_sidecar_put_in_front_is_none_of_ours() {
    check_no_drift(|object| list_at(object, CONTAINERS).insert(0, json!({"name": "proxy", "image": "istio/proxy:1"})));
}

#[test]
fn an_env_entry_of_another_is_none_of_ours() {
    check_no_drift(|object| {
        list_at(object, &format!("{CONTAINERS}/0/env")).insert(1, json!({"name": "C", "value": "3"}));
    });
}

#[test]
fn our_env_entries_in_another_order_are_drift() {
    check_drift(|object| list_at(object, &format!("{CONTAINERS}/0/env")).reverse());
}

#[test]
fn our_env_entry_removed_is_drift() {
    check_drift(|object| {
        list_at(object, &format!("{CONTAINERS}/0/env")).pop();
        disown(object, &format!("{OUR_CONTAINER}/f:env"), r#"k:{"name":"B"}"#);
    });
}

#[test]
fn a_value_that_is_gone_while_we_still_own_it_is_drift() {
    check_drift(|object| {
        list_at(object, &format!("{CONTAINERS}/0/env")).pop();
    });
    check_drift(|object| {
        at(object, "/metadata").as_object_mut().unwrap().remove("labels");
    });
}

#[test]
fn an_atomic_list_appended_is_drift() {
    check_drift(|object| list_at(object, &format!("{CONTAINERS}/0/args")).push(json!("--debug")));
}

#[test]
fn an_element_put_into_a_list_that_is_owned_whole_is_drift() {
    check_drift(|object| {
        list_at(object, "/spec/template/spec/tolerations").push(json!({"key": "b", "operator": "Exists"}));
        disown(object, "/f:spec/f:template/f:spec", "f:tolerations");
        owned_by(object, "other", json!({"f:spec": {"f:template": {"f:spec": {"f:tolerations": {}}}}}));
    });
}

#[test]
fn a_status_write_is_none_of_ours() {
    check_no_drift(|object| {
        *at(object, "/status") = json!({"observedGeneration": 2, "replicas": 1});
        *at(object, "/metadata/resourceVersion") = json!("900");
    });
}

#[test]
fn a_rollout_restart_is_none_of_ours() {
    check_no_drift(|object| {
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": "2026-03-02T11:00:00Z"});
        at(object, "/spec/template/metadata")["annotations"] = annotations;
    });
}

#[test]
fn our_label_removed_is_drift() {
    check_drift(|object| {
        at(object, "/metadata").as_object_mut().unwrap().remove("labels");
        disown(object, "", "f:metadata");
    });
}

#[test]
fn wiped_managed_fields_mean_that_nothing_is_known() {
    let (_, after) = act(|object| {
        at(object, "/metadata").as_object_mut().unwrap().remove("managedFields");
    });
    assert_eq!(after, None);
    let (_, after) = act(|object| *at(object, ENTRIES) = json!([]));
    assert_eq!(after, None);
}

#[test]
fn entries_that_only_look_like_ours_do_not_count() {
    for (field, value) in [("manager", "towpath-agent"), ("operation", "Update"), ("subresource", "status")] {
        let (_, after) = act(|object| at(object, ENTRIES)[0][field] = json!(value));
        assert_eq!(after, None, "{field}: {value}");
    }
}

#[test]
fn an_update_under_our_name_is_another_entry() {
    check_drift(|object| {
        *at(object, "/spec/replicas") = json!(5);
        disown(object, "/f:spec", "f:replicas");
        owned_by(object, "towpath", json!({"f:spec": {"f:replicas": {}}}));
    });
}

#[test]
fn of_several_versions_the_one_that_was_read_counts() {
    let old = json!({
        "manager": "towpath", "operation": "Apply", "apiVersion": "extensions/v1beta1",
        "fieldsV1": {"f:spec": {"f:replicas": {}}},
    });
    check_no_drift(|object| list_at(object, ENTRIES).insert(0, old.clone()));
    check_no_drift(|object| list_at(object, ENTRIES).push(old.clone()));

    let mut only_old = live();
    *at(&mut only_old, ENTRIES) = json!([old]);
    assert_eq!(project(&only_old), Some(json!({"spec": {"replicas": 3}})));
}

#[test]
fn a_defaulted_key_of_a_list_element_is_found() {
    let owned = project(&live()).unwrap();
    assert_eq!(owned.pointer(&format!("{CONTAINERS}/0/ports")), Some(&json!([{"containerPort": 8080}])));
}

#[test]
fn an_element_without_a_key_is_not_the_element_with_the_default() {
    check_drift(|object| {
        at(object, &format!("{CONTAINERS}/0/ports/0")).as_object_mut().unwrap().remove("protocol");
    });
}

/// A custom resource with a list of each type.
fn custom_resource() -> Value {
    json!({
        "apiVersion": "example.org/v1", "kind": "Gateway",
        "metadata": {"name": "g", "managedFields": [{
            "manager": "towpath", "operation": "Apply", "apiVersion": "example.org/v1",
            "fieldsV1": {"f:spec": {
                "f:routes": {"k:{\"host\":\"a\",\"path\":\"/\"}": {".": {}, "f:host": {}, "f:path": {}, "f:to": {}}},
                "f:zones": {"v:\"eu\"": {}, "v:\"us\"": {}},
                "f:ports": {"v:80": {}},
                "f:steps": {"i:0": {"f:weight": {}}},
            }},
        }]},
        "spec": {
            "routes": [{"host": "a", "path": "/", "to": "web", "timeout": "10s"}],
            "zones": ["eu", "us"],
            "ports": [80],
            "steps": [{"weight": 20, "pause": true}],
        },
    })
}

#[test]
fn map_and_set_lists_of_custom_resources_keep_to_our_elements() {
    let spec = json!({
        "routes": [{"host": "a", "path": "/", "to": "web"}],
        "zones": ["eu", "us"],
        "ports": [80],
        "steps": [{"weight": 20}],
    });
    assert_eq!(project(&custom_resource()), Some(json!({"spec": spec})));

    let mut with_others = custom_resource();
    list_at(&mut with_others, "/spec/routes").insert(0, json!({"host": "a", "path": "/api", "to": "api"}));
    list_at(&mut with_others, "/spec/zones").insert(1, json!("asia"));
    list_at(&mut with_others, "/spec/ports").push(json!(443));
    assert_eq!(of_live(&with_others), of_live(&custom_resource()));

    let mut reordered = custom_resource();
    list_at(&mut reordered, "/spec/zones").reverse();
    assert_ne!(of_live(&reordered), of_live(&custom_resource()));
}

#[test]
fn an_injected_ca_bundle_is_none_of_ours() {
    let webhook = |config: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "w", "managedFields": [{
                "manager": "towpath", "operation": "Apply", "apiVersion": "admissionregistration.k8s.io/v1",
                "fieldsV1": {"f:webhooks": {"k:{\"name\":\"w.example.org\"}": {
                    ".": {}, "f:name": {}, "f:clientConfig": {"f:service": {"f:name": {}, "f:namespace": {}}},
                }}},
            }]},
            "webhooks": [{"name": "w.example.org", "clientConfig": config}],
        })
    };
    let service = json!({"name": "w", "namespace": "shop", "port": 443});
    let before = webhook(json!({"service": service}));
    let after = webhook(json!({"service": service, "caBundle": "LS0tLS1CRUdJTg=="}));
    assert_eq!(of_live(&before), of_live(&after));
}

#[test]
fn an_owned_map_without_owned_keys_is_an_empty_map() {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"managedFields": [{
            "manager": "towpath", "operation": "Apply", "apiVersion": "v1",
            "fieldsV1": {"f:data": {".": {}}, "f:list": {".": {}}, "f:text": {".": {}}, "f:gone": {".": {}}},
        }]},
        "data": {"theirs": "1"}, "list": [1], "text": "x",
    });
    assert_eq!(project(&object), Some(json!({"data": {}, "list": [], "text": "x"})));
}

#[test]
fn an_object_applied_without_content_owns_nothing() {
    for fields in [json!({}), Value::Null] {
        let entry = json!({"manager": "towpath", "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields});
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": [entry]}, "data": {}});
        assert_eq!(project(&object), Some(json!({})));
    }
}

#[test]
fn an_entry_that_cannot_be_read_selects_nothing_and_does_not_panic() {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"managedFields": [{
            "manager": "towpath", "operation": "Apply", "apiVersion": "v1",
            "fieldsV1": {"f:spec": {"k:{oops": {}, "v:": {}, "i:-1": {}, "x:y": {}, "f:a": 3, "nonsense": {}}},
        }]},
        "spec": [{"a": 1}],
    });
    assert_eq!(project(&object), Some(json!({"spec": []})));
}

/// A quantity that the server writes in its own way, and an annotation that it cannot hold as null.
fn normalised(limit: &str, note: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {
            "name": "q",
            "annotations": {"note": note},
            "managedFields": [{
                "manager": "towpath", "operation": "Apply", "apiVersion": "v1",
                "fieldsV1": {
                    "f:metadata": {"f:annotations": {"f:note": {}}},
                    "f:spec": {"f:hard": {"f:requests.cpu": {}}},
                },
            }],
        },
        "spec": {"hard": {"requests.cpu": limit}},
    })
}

#[test]
fn what_the_server_normalises_is_equal_only_among_live_objects() {
    let desired = |limit: &str, note: Value| {
        let mut object = normalised(limit, note);
        at(&mut object, "/metadata").as_object_mut().unwrap().remove("managedFields");
        of_desired(body_of(&object))
    };
    let live = normalised("1", json!(""));
    assert_eq!(of_live(&live), of_live(&live.clone()));
    assert_eq!(of_live(&live), Some(desired("1", json!(""))));
    assert_ne!(of_live(&live), Some(desired("1000m", json!(""))));
    assert_ne!(of_live(&live), Some(desired("1", Value::Null)));
}

#[test]
fn a_desired_object_is_known_by_its_content_not_by_its_name() {
    let body = |text: &str| of_desired(body_of(&serde_json::from_str(text).unwrap()));
    let one =
        body(r#"{"apiVersion": "v1", "kind": "A", "metadata": {"name": "a", "namespace": "b"}, "data": {"k": 1}}"#);
    assert_eq!(one, body(r#"{"data": {"k": 1}}"#));
    assert_eq!(one, body(r#"{"metadata": {}, "data": {"k": 1.0}}"#));
    assert_ne!(one, body(r#"{"data": {"k": "1"}}"#));
    assert_ne!(one, body(r#"{"data": {"k": 1.5}}"#));
    assert_ne!(one, body(r#"{"metadata": {"labels": {"a": "b"}}, "data": {"k": 1}}"#));
    assert_ne!(body(r#"{"l": [1, 2]}"#), body(r#"{"l": [2, 1]}"#));
    assert_eq!(body(r#"{"a": 1, "b": -0.0}"#), body(r#"{"b": 0, "a": 1e0}"#));
}

#[test]
fn a_fingerprint_reads_as_32_digits_that_never_change() {
    assert_eq!(
        of_value(&json!({"b": [true, null], "a": "x\n"})).to_string(),
        of_text(r#"{"a":"x\n","b":[true,null]}"#)
    );
}

/// The definition, independent of the writer: truncated SHA-256 of the text.
fn of_text(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..16])
}

/// The paths as text.
fn paths(expected: Value, found: Value) -> Vec<String> {
    differences(&expected, &found).iter().map(ToString::to_string).collect()
}

#[test]
fn equal_projections_have_no_differences() {
    assert_eq!(differences(&expected(body_of(&desired())), &project(&live()).unwrap()), []);
    assert_eq!(paths(json!({"a": 1}), json!({"a": 1.0})), [""; 0]);
}

#[test]
fn differences_name_list_elements_by_their_key() {
    let container = |image: &str, env: Value| json!({"containers": [{"name": "web", "image": image, "env": env}]});
    let a = json!({"name": "A", "value": "1"});
    let b = json!({"name": "B", "value": "2"});
    let before = container("web:1", json!([a, b]));
    assert_eq!(paths(before.clone(), container("web:2", json!([a, b]))), ["containers[name=web].image"]);
    assert_eq!(paths(before.clone(), container("web:1", json!([a]))), ["containers[name=web].env[name=B]"]);
    assert_eq!(paths(container("web:1", json!([a])), before.clone()), ["containers[name=web].env[name=B]"]);
    assert_eq!(paths(before, container("web:1", json!([b, a]))), ["containers[name=web].env"]);
    assert_eq!(
        paths(
            json!({"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81}]}),
            json!({"ports": [{"containerPort": 80, "name": "b"}, {"containerPort": 81}]}),
        ),
        ["ports[containerPort=80].name"]
    );
}

#[test]
fn a_list_without_keys_differs_as_a_whole() {
    assert_eq!(paths(json!({"args": ["a"]}), json!({"args": ["a", "b"]})), ["args"]);
    let twice = json!([{"name": "a"}, {"name": "a"}]);
    assert_eq!(paths(json!({"rules": twice}), json!({"rules": [{"name": "a"}]})), ["rules"]);
    assert_eq!(paths(json!({"rules": [{"name": "a"}]}), json!({"rules": [{"name": "a"}, 3]})), ["rules"]);
}

#[test]
fn a_missing_map_is_named_by_what_is_missing_in_it() {
    let labels = json!({"metadata": {"labels": {"app.kubernetes.io/name": "web", "tier": "front"}}});
    assert_eq!(
        paths(labels.clone(), json!({"spec": {"empty": {}}})),
        ["metadata.labels[app.kubernetes.io/name]", "metadata.labels.tier", "spec.empty"]
    );
    assert_eq!(paths(json!({"a": {"b": 1}}), json!({"a": 1})), ["a"]);
    assert_eq!(paths(json!({"a": {}}), json!({})), ["a"]);
}

/// What a report would say about a change to the applied object: paths, values and managers.
fn report(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut object = live();
    change(&mut object);
    let paths = differences(&expected(body_of(&desired())), &project(&object).unwrap());
    let desired = desired();
    other_owners(&object, &paths)
        .iter()
        .map(|culprit| {
            let value = |object| culprit.path.find(object).cloned().unwrap_or_default();
            format!("{culprit}: {} → {}", value(&desired), value(&object))
        })
        .collect()
}

#[test]
fn drift_is_reported_with_values_and_the_manager() {
    let report = report(|object| {
        *at(object, "/spec/replicas") = json!(5);
        *at(object, &format!("{CONTAINERS}/0/image")) = json!("web:hack");
        disown(object, "/f:spec", "f:replicas");
        disown(object, OUR_CONTAINER, "f:image");
        owned_by(object, "kube-controller-manager", json!({"f:spec": {"f:replicas": {}}}));
        at(object, ENTRIES)[2]["subresource"] = json!("scale");
        let image = json!({"f:containers": {"k:{\"name\":\"web\"}": {"f:image": {}}}});
        owned_by(object, "kubectl-edit", json!({"f:spec": {"f:template": {"f:spec": image}}}));
        at(object, ENTRIES)[3]["subresource"] = json!("");
    });
    assert_eq!(
        report,
        [
            "spec.replicas by kube-controller-manager (scale): 3 → 5",
            r#"spec.template.spec.containers[name=web].image by kubectl-edit: "harbor.example/web:1" → "web:hack""#,
        ]
    );
}

#[test]
fn an_owner_of_the_whole_list_owns_its_elements() {
    let report = report(|object| {
        list_at(object, "/spec/template/spec/tolerations").push(json!({"key": "b"}));
        owned_by(object, "other", json!({"f:spec": {"f:template": {"f:spec": {"f:tolerations": {}}}}}));
    });
    assert_eq!(report, [r#"spec.template.spec.tolerations[key=b] by other: null → {"key":"b"}"#]);
}

#[test]
fn who_wrote_last_is_named_first_and_we_are_not_named() {
    let mut object = live();
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    for manager in ["unknown-time", "older", "newer"] {
        owned_by(&mut object, manager, replicas.clone());
    }
    at(&mut object, ENTRIES)[2]["time"] = Value::Null;
    at(&mut object, ENTRIES)[4]["time"] = json!("2026-03-02T12:00:00Z");
    let replicas = differences(&json!({"spec": {"replicas": 1}}), &json!({"spec": {"replicas": 2}}));
    let culprits = other_owners(&object, &replicas);
    let managers: Vec<&str> = culprits.iter().map(|culprit| culprit.manager.as_str()).collect();
    assert_eq!(managers, ["newer", "older", "unknown-time"]);
    assert_eq!(culprits[0].time, Some("2026-03-02T12:00:00Z".parse::<Timestamp>().unwrap()));
    assert_eq!(culprits[0].operation, "Update");
}

#[test]
fn a_path_that_nobody_else_owns_names_nobody() {
    assert_eq!(report(|object| *at(object, "/spec/replicas") = json!(5)), [""; 0]);
}

/// The entry that the server writes for an applied value: lists of named maps are merged by name, other lists and
/// empty maps are owned whole.
fn mask_of(value: &Value) -> Value {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().map(|(key, value)| (format!("f:{key}"), mask_of(value))).collect()
        }
        Value::Array(list) if !list.is_empty() && list.iter().all(|element| element.get("name").is_some()) => list
            .iter()
            .map(|element| {
                let Value::Object(mut fields) = mask_of(element) else { unreachable!("a named element is a map") };
                fields.insert(".".to_owned(), json!({}));
                (format!("k:{}", json!({"name": element["name"]})), Value::Object(fields))
            })
            .collect(),
        _ => json!({}),
    }
}

/// A live object that stores `body` as it was sent.
fn stored(body: &Map<String, Value>) -> Value {
    let mut live = body.clone();
    let ours = json!({
        "manager": "towpath", "operation": "Apply", "apiVersion": "v1", "fieldsV1": mask_of(&expected(body)),
    });
    let metadata = live.entry("metadata").or_insert_with(|| json!({}));
    metadata["managedFields"] = json!([ours]);
    live.insert("apiVersion".to_owned(), json!("v1"));
    Value::Object(live)
}

/// Puts something of another manager into every map and, at both ends, into every list that is merged by name.
fn with_additions(value: &Value) -> Value {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut map: Map<_, _> = map.iter().map(|(key, value)| (key.clone(), with_additions(value))).collect();
            map.insert("theirs".to_owned(), json!({"x": 1}));
            Value::Object(map)
        }
        Value::Array(list) if !list.is_empty() && list.iter().all(|element| element.get("name").is_some()) => {
            let ours = list.iter().map(with_additions);
            let before = std::iter::once(json!({"name": "#before"}));
            let after = std::iter::once(json!({"name": "#after"}));
            Value::Array(before.chain(ours).chain(after).collect())
        }
        other => other.clone(),
    }
}

/// Small bodies, with named lists, plain lists and maps within each other.
fn bodies() -> impl Strategy<Value = Map<String, Value>> {
    let scalar = prop_oneof![
        Just(json!(true)),
        (-3i64..1000).prop_map(|number| json!(number)),
        "[a-z0-9:./\"{}]{0,6}".prop_map(|text| json!(text)),
    ];
    let value = scalar.prop_recursive(4, 40, 4, |inner| {
        let fields = prop::collection::btree_map("[a-z./:]{1,4}", inner.clone(), 0..4);
        let map = fields.clone().prop_map(|fields| Value::Object(fields.into_iter().collect()));
        let named = prop::collection::btree_map("[a-z\":]{1,4}", fields, 1..4).prop_map(|elements| {
            let with_name = |(name, fields): (String, std::collections::BTreeMap<String, Value>)| {
                let fields: Map<String, Value> = fields.into_iter().filter(|(key, _)| key != "name").collect();
                let mut element = Map::from_iter([("name".to_owned(), json!(name))]);
                element.extend(fields);
                Value::Object(element)
            };
            Value::Array(elements.into_iter().map(with_name).collect())
        });
        let plain = prop::collection::vec(inner, 0..4).prop_map(Value::Array);
        prop_oneof![map, named, plain]
    });
    prop::collection::btree_map("spec|data|[a-z]{1,3}", value, 0..4).prop_map(|fields| fields.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stored_unchanged_is_projected_unchanged(body in bodies()) {
        let live = stored(&body);
        prop_assert_eq!(project(&live).unwrap(), expected(&body));
        prop_assert_eq!(of_live(&live), Some(of_desired(&body)));
    }

    #[test]
    fn what_others_add_never_matters(body in bodies()) {
        let live = stored(&body);
        let mut crowded: Map<String, Value> =
            body.iter().map(|(key, value)| (key.clone(), with_additions(value))).collect();
        crowded.insert("metadata".to_owned(), live["metadata"].clone());
        crowded.insert("apiVersion".to_owned(), json!("v1"));
        crowded.insert("status".to_owned(), json!({"ready": true}));
        prop_assert_eq!(of_live(&Value::Object(crowded)), of_live(&live));
    }

    #[test]
    fn fingerprints_are_equal_exactly_when_nothing_differs(a in bodies(), b in bodies()) {
        let (a, b) = (expected(&a), expected(&b));
        prop_assert_eq!(of_value(&a) == of_value(&b), differences(&a, &b).is_empty());
        prop_assert!(differences(&a, &a).is_empty());
    }
}
