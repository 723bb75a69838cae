//! One valid manifest, one thing broken at a time.

use serde_json::json;

use super::*;
use crate::manifest::Identity;
use crate::manifest::group_of;

fn environment() -> Environment {
    Environment {
        allowed_namespaces: ["shared".to_owned()].into(),
        allowed_cluster_kinds: ["PriorityClass.scheduling.k8s.io".to_owned()].into(),
        ..crate::environment::sample()
    }
}

fn manifest(line: u32, body: Value) -> Manifest {
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let api_version = text("/apiVersion").unwrap();
    Manifest {
        key: ObjectKey::from(Identity {
            group: group_of(&api_version).to_owned(),
            kind: text("/kind").unwrap(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap(),
        }),
        api_version,
        body: body.as_object().unwrap().clone(),
        source: Place::line("web.yaml", line),
    }
}

fn config_map(change: impl FnOnce(&mut Value)) -> Manifest {
    let mut body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    change(&mut body);
    manifest(1, body)
}

fn judge(manifests: Vec<Manifest>) -> Result<Cleared, Problems> {
    let environment = environment();
    let claimed = |key: &ObjectKey| (key.name == "taken").then(|| "test".parse().unwrap());
    let facts = Facts { environment: &environment, scopes: &Scopes::offline(), claimed: &claimed };
    judge_all(manifests, &facts)
}

/// The one problem of a broken manifest.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let problems = judge(vec![config_map(change)]).unwrap_err();
    assert_eq!(problems.iter().count(), 1, "{problems}");
    problems.to_string()
}

#[test]
fn what_passes_is_complete_and_carries_our_labels() {
    let cleared = judge(vec![config_map(|_| {})]).unwrap();
    let object = &cleared.objects()[0];
    assert_eq!(object.key.namespace.as_deref(), Some("shop"));
    let body = Value::Object(object.body());
    assert_eq!(body["metadata"]["namespace"], "shop");
    assert_eq!(body["metadata"]["labels"]["towpath.dev/environment"], "prod");
    // As kubectl computes it: printf %s prod.shop.Environment.towpath.dev | openssl dgst -sha256 -binary | base64
    assert_eq!(
        body["metadata"]["labels"]["applyset.kubernetes.io/part-of"],
        "applyset-eNFcARo-CeeCJtE2NDvCzS2rBW7dk5NAxP_b-RrEBRA-v1"
    );
}

#[test]
fn nothing_at_all_is_refused() {
    assert!(judge(Vec::new()).unwrap_err().to_string().contains("nothing was rendered"));
}

#[test]
fn another_namespace_must_be_allowed() {
    assert!(judge(vec![config_map(|body| body["metadata"]["namespace"] = "shared".into())]).is_ok());
    let said = refused(|body| body["metadata"]["namespace"] = "kube-system".into());
    assert!(said.contains("namespace kube-system, which this environment may not touch"), "{said}");
}

#[test]
fn a_cluster_scoped_kind_must_be_allowed() {
    let priority =
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "x"}, "value": 1});
    let cleared = judge(vec![manifest(1, priority)]).unwrap();
    assert_eq!(cleared.objects()[0].key.namespace, None);
    let binding =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "x"}});
    let said = judge(vec![manifest(1, binding)]).unwrap_err().to_string();
    assert!(said.contains("ClusterRoleBinding.rbac.authorization.k8s.io"), "{said}");
}

#[test]
fn our_own_resources_are_refused() {
    let ours = json!({"apiVersion": "towpath.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "x"}});
    assert!(judge(vec![manifest(1, ours)]).unwrap_err().to_string().contains("a resource of Towpath itself"));
}

#[test]
fn forged_marks_are_refused() {
    let said = refused(|body| body["metadata"]["labels"] = json!({"towpath.dev/environment": "test"}));
    assert!(said.contains("mark of ownership"), "{said}");
    let said = refused(|body| body["metadata"]["labels"] = json!({"applyset.kubernetes.io/part-of": "x"}));
    assert!(said.contains("mark of ownership"), "{said}");
    let said = refused(|body| body["metadata"]["annotations"] = json!({"towpath.dev/requestedAt": "x"}));
    assert!(said.contains("not one that objects may have"), "{said}");
}

#[test]
fn a_mistyped_annotation_is_refused() {
    for (name, value) in [
        ("towpath.dev/prune", "never"),
        ("towpath.dev/adopt", "yes"),
        ("towpath.dev/wave", "first"),
        ("towpath.dev/hook", "PreSync"),
        ("towpath.dev/ignore", "spec.replicas"),
        ("towpath.dev/ignore", "/metadata/labels"),
    ] {
        refused(|body| body["metadata"]["annotations"] = json!({ name: value }));
    }
    refused(|body| body["metadata"]["annotations"] = json!({"towpath.dev/wave": 1}));
}

#[test]
fn what_may_not_be_taken_back_is_marked_with_any_reason() {
    for reason in ["the schema only goes forward", ""] {
        let annotations = json!({"towpath.dev/notRevertible": reason});
        let manifest = config_map(|body| body["metadata"]["annotations"] = annotations);
        let found = judge(vec![manifest]).unwrap();
        let body = Value::Object(found.objects()[0].body());
        assert_eq!(body["metadata"]["annotations"]["towpath.dev/notRevertible"], reason);
    }
    refused(|body| body["metadata"]["annotations"] = json!({"towpath.dev/notRevertible": true}));
}

fn job(line: u32, name: &str, annotations: Value) -> Manifest {
    manifest(
        line,
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "annotations": annotations},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "c:1"}], "restartPolicy": "Never"}}},
        }),
    )
}

#[test]
fn a_hook_is_no_object_and_belongs_to_the_content() {
    let hook = |phases: &str| job(3, "migrate", json!({"towpath.dev/hook": phases}));
    let cleared = judge(vec![config_map(|_| {}), hook("BeforeSync,AfterSync")]).unwrap();
    assert_eq!(cleared.objects().len(), 1);
    let found = &cleared.hooks()[0];
    assert_eq!((found.key.to_string().as_str(), found.phases.len()), ("Job.batch shop/migrate", 2));
    assert_eq!(found.timeout, Duration::from_secs(600), "the environment's");
    assert_eq!(found.body["metadata"]["labels"]["towpath.dev/environment"], "prod");
    let same = judge(vec![config_map(|_| {}), hook("BeforeSync,AfterSync")]).unwrap();
    assert_eq!(cleared.content(), same.content());
    let mut other = hook("BeforeSync,AfterSync");
    other.body["spec"]["activeDeadlineSeconds"] = 30.into();
    let other = judge(vec![config_map(|_| {}), other]).unwrap();
    assert_ne!(cleared.content(), other.content());
    assert_eq!(other.hooks()[0].timeout, Duration::from_secs(30));
}

#[test]
fn only_a_job_can_be_a_hook_and_its_end_must_be_seen() {
    let said = refused(|body| body["metadata"]["annotations"] = json!({"towpath.dev/hook": "AfterSync"}));
    assert!(said.contains("web.yaml:1: ConfigMap a cannot be a hook"), "{said}");
    let mut hasty = job(3, "migrate", json!({"towpath.dev/hook": "AfterSync"}));
    for (seconds, is_allowed) in [(limits::MIN_HOOK_KEPT_SECONDS - 1, false), (limits::MIN_HOOK_KEPT_SECONDS, true)] {
        hasty.body["spec"]["ttlSecondsAfterFinished"] = seconds.into();
        let result = judge(vec![config_map(|_| {}), hasty.clone()]);
        assert_eq!(result.is_ok(), is_allowed, "{seconds}");
    }
    let said = judge(vec![job(3, "migrate", json!({"towpath.dev/hook": "AfterSync"}))]).unwrap_err().to_string();
    assert!(said.contains("only hooks were rendered"), "{said}");
}

#[test]
fn a_job_that_removes_itself_and_is_no_hook_is_worth_a_warning() {
    let mut plain = job(3, "once", json!({}));
    plain.body["spec"]["ttlSecondsAfterFinished"] = 0.into();
    let cleared = judge(vec![plain]).unwrap();
    assert!(cleared.warnings()[0].message.contains("made again each time"), "{:?}", cleared.warnings());
}

#[test]
fn a_namespace_or_definition_must_not_come_after_what_needs_it() {
    let namespace = |annotations: Value| {
        let body = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shared", "annotations": annotations}});
        manifest(8, body)
    };
    let inside = |wave: &str| {
        config_map(|body| {
            body["metadata"]["namespace"] = "shared".into();
            body["metadata"]["annotations"] = json!({"towpath.dev/wave": wave});
        })
    };
    let mut environment = environment();
    environment.allowed_cluster_kinds.insert("Namespace".into());
    let facts = Facts { environment: &environment, scopes: &Scopes::offline(), claimed: &|_| None };
    let judge = |manifests| judge_all(manifests, &facts);
    assert!(judge(vec![namespace(json!({})), inside("-5")]).is_ok(), "without a wave it comes first of all");
    let said = judge(vec![namespace(json!({"towpath.dev/wave": "1"})), inside("0")]).unwrap_err().to_string();
    assert!(said.contains("its namespace, which comes in wave 1 (web.yaml:8)"), "{said}");
    let mut hook = job(3, "migrate", json!({"towpath.dev/hook": "BeforeSync"}));
    hook.key = Identity { namespace: Some("shared".into()), ..hook.key.into() }.into();
    hook.body["metadata"]["namespace"] = "shared".into();
    let said = judge(vec![namespace(json!({"towpath.dev/wave": "0"})), config_map(|_| {}), hook]).unwrap_err();
    assert!(said.to_string().contains("Job.batch shared/migrate is applied before its namespace"), "{said}");
}

#[test]
fn the_number_of_hooks_has_a_limit() {
    let hooks = |count: usize| {
        let hook = |number| job(3, &format!("h{number}"), json!({"towpath.dev/hook": "AfterSync"}));
        (0..count).map(hook).chain([config_map(|_| {})]).collect()
    };
    assert!(judge(hooks(limits::MAX_HOOKS)).is_ok());
    assert!(judge(hooks(limits::MAX_HOOKS + 1)).is_err());
}

#[test]
fn fields_of_the_server_are_refused_or_dropped() {
    let said = refused(|body| body["metadata"]["resourceVersion"] = "1".into());
    assert!(said.contains("metadata.resourceVersion"), "{said}");
    refused(|body| body["metadata"]["managedFields"] = json!([]));
    refused(|body| body["metadata"]["ownerReferences"] = json!([{"uid": "x"}]));
    let cleared = judge(vec![config_map(|body| {
        body["status"] = json!({"x": 1});
        body["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    })])
    .unwrap();
    assert!(!cleared.objects()[0].body().contains_key("status"));
    assert!(!cleared.objects()[0].body()["metadata"].to_string().contains("creationTimestamp"));
}

#[test]
fn one_object_twice_names_both_places() {
    let twice = vec![
        config_map(|_| {}),
        manifest(9, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop"}})),
    ];
    assert_eq!(
        judge(twice).unwrap_err().to_string(),
        "web.yaml:9: ConfigMap shop/a is here and in web.yaml:1 (help: remove or rename one of the two)"
    );
}

#[test]
fn an_object_of_another_environment_is_refused() {
    let said = refused(|body| body["metadata"]["name"] = "taken".into());
    assert!(said.contains("belongs to environment test already"), "{said}");
}

#[test]
fn ignored_fields_are_not_sent() {
    let cleared = judge(vec![config_map(|body| {
        body["metadata"]["annotations"] = json!({"towpath.dev/ignore": "/data/k, /spec/list/1"});
        body["spec"] = json!({"list": [1, 2, 3]});
    })])
    .unwrap();
    let body = Value::Object(cleared.objects()[0].body());
    assert_eq!(body["data"], json!({}));
    assert_eq!(body["spec"]["list"], json!([1, 3]));
}

#[test]
fn a_kind_that_comes_in_the_same_commit_is_known() {
    let widget = || manifest(1, json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}));
    let crd = manifest(
        2,
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com"},
            "spec": {"group": "example.com", "names": {"kind": "Widget"}, "scope": "Namespaced"},
        }),
    );
    let mut environment = environment();
    environment.allowed_cluster_kinds.insert("CustomResourceDefinition.apiextensions.k8s.io".into());
    let mut scopes = Scopes::of_cluster();
    scopes.insert("apiextensions.k8s.io", "CustomResourceDefinition", Scope::Cluster);
    let facts = Facts { environment: &environment, scopes: &scopes, claimed: &|_| None };
    assert!(judge_all(vec![widget()], &facts).unwrap_err().to_string().contains("no kind Widget"));
    assert_eq!(judge_all(vec![widget(), crd], &facts).unwrap().objects().len(), 2);
}

#[test]
fn the_number_of_objects_has_a_limit() {
    assert!(within_object_limit(limits::MAX_OBJECTS).is_ok());
    assert!(within_object_limit(limits::MAX_OBJECTS + 1).is_err());
}

#[test]
fn everything_is_said_at_once() {
    let many = vec![
        config_map(|body| body["metadata"]["namespace"] = "other".into()),
        manifest(7, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}})),
    ];
    assert_eq!(judge(many).unwrap_err().iter().count(), 3);
}

#[test]
fn what_was_cleared_is_taken_from_the_cache_only_under_the_same_terms() {
    let environment = environment();
    let manifests: Vec<_> =
        ["a", "b"].map(|name| Arc::new(Packed::of(config_map(|body| body["metadata"]["name"] = name.into())))).into();
    let mut cache = PolicyCache::default();
    let mut judge = |environment: &Environment, manifests: &[Arc<Packed>]| {
        let facts = Facts { environment, scopes: &Scopes::offline(), claimed: &|_| None };
        super::judge(manifests, Vec::new(), &facts, &mut cache).unwrap()
    };
    let is_same =
        |one: &Cleared, other: &Cleared, index: usize| Arc::ptr_eq(&one.objects[index], &other.objects[index]);
    let first = judge(&environment, &manifests);
    let again = judge(&environment, &manifests);
    assert!(is_same(&first, &again, 0) && is_same(&first, &again, 1));

    let changed = Arc::new(Packed::of(config_map(|body| {
        body["metadata"]["name"] = "b".into();
        body["data"]["k"] = "2".into();
    })));
    let second = judge(&environment, &[manifests[0].clone(), changed]);
    assert!(is_same(&first, &second, 0) && !is_same(&first, &second, 1));
    assert_ne!(first.objects[1].fingerprint, second.objects[1].fingerprint);

    let elsewhere = Environment { namespace: "elsewhere".into(), ..environment };
    assert_eq!(judge(&elsewhere, &manifests).objects[0].key.namespace.as_deref(), Some("elsewhere"));
}

#[test]
fn a_rule_of_the_environment_leaves_fields_out() {
    let rule = |pointers: &[&str], managers: &[&str]| Rule {
        kind: Some("ConfigMap".into()),
        pointers: pointers.iter().map(|pointer| Pointer::parse(pointer).unwrap()).collect(),
        managers: managers.iter().map(|name| (*name).to_owned()).collect(),
        ..Rule::default()
    };
    let data = |rules| {
        let environment = Environment { ignore: rules, ..environment() };
        let facts = Facts { environment: &environment, scopes: &Scopes::offline(), claimed: &|_| None };
        let list = config_map(|body| body["spec"] = json!({"list": [1, 2, 3]}));
        let cleared = judge_all(vec![list], &facts).unwrap();
        let body = Value::Object(cleared.objects()[0].body());
        (body["data"].clone(), body["spec"]["list"].clone())
    };
    assert_eq!(data(vec![rule(&["/data/k"], &[])]), (json!({}), json!([1, 2, 3])));
    assert_eq!(
        data(vec![rule(&["/data/k"], &["tuner"])]),
        (json!({"k": "v"}), json!([1, 2, 3])),
        "only while it owns it"
    );
    // Places are those in git, whatever goes first.
    assert_eq!(data(vec![rule(&["/spec/list/0", "/spec/list/1"], &[])]).1, json!([3]));
}

#[test]
fn what_takes_more_with_it_is_never_replaced() {
    let replaced = |kind: &str| {
        let annotations = json!({"towpath.dev/replace": "true"});
        let metadata = json!({"name": "a", "annotations": annotations});
        judge(vec![manifest(1, json!({"apiVersion": "v1", "kind": kind, "metadata": metadata}))])
    };
    assert!(replaced("ConfigMap").unwrap().objects()[0].replace);
    let said = replaced("PersistentVolumeClaim").unwrap_err().to_string();
    assert!(said.contains("never replaced"), "{said}");
}

#[test]
fn pods_get_the_pull_secrets_of_their_environment_before_they_are_compared() {
    let deployment = |namespace: &str, pods: Value| {
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": pods});
        let spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template});
        let metadata = json!({"name": "a", "namespace": namespace});
        manifest(1, json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}))
    };
    let put_in = |namespace: &str, secrets: &[&str], pods: Value| {
        let secrets = secrets.iter().map(|name| (*name).to_owned()).collect();
        let environment = Environment { image_pull_secrets: secrets, ..environment() };
        let scopes = Scopes::offline();
        let facts = Facts { environment: &environment, scopes: &scopes, claimed: &|_| None };
        let cleared = judge_all(vec![deployment(namespace, pods)], &facts).unwrap();
        let object = cleared.objects()[0].clone();
        let secrets = Value::Object(object.body()).pointer("/spec/template/spec/imagePullSecrets").cloned();
        (secrets, object.fingerprint, cleared.content().to_owned())
    };
    let with = |secrets: &[&str], pods: Value| put_in("shop", secrets, pods);
    let pods = json!({"containers": [{"name": "a", "image": "web:1"}]});
    let (none, without, content) = with(&[], pods.clone());
    assert_eq!(none, None);
    let (put, fingerprint, other) = with(&["harbor"], pods.clone());
    assert_eq!(put, Some(json!([{"name": "harbor"}])));
    assert!(fingerprint != without && other != content);
    let (kept, ..) = with(&["harbor"], json!({"containers": [{"name": "a"}], "imagePullSecrets": [{"name": "own"}]}));
    assert_eq!(kept, Some(json!([{"name": "own"}])));
    // The Secret is in the namespace of the environment, and in no other.
    assert_eq!(put_in("shared", &["harbor"], pods).0, None);
}
