//! What an expression may say, what it says of an object, and where it ends.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::health::Health::{self, Degraded, Healthy, Progressing, Unknown};
use crate::health::assess;
use crate::health::tests::NOW;
use crate::limits::MAX_EXPRESSION_DEPTH;

fn rule(in_progress: Option<&str>, failed: Option<&str>, current: &str) -> HealthRule {
    HealthRule {
        api_version: "example.org/v1".into(),
        kind: "Database".into(),
        in_progress: in_progress.map(Into::into),
        failed: failed.map(Into::into),
        current: current.into(),
    }
}

fn said(rule: HealthRule, object: &Value) -> (Health, String) {
    let rules = HealthRules::read(&[rule]).unwrap();
    let found = assess(object, &rules, NOW.parse().unwrap());
    (found.health, found.message)
}

fn current(expression: &str, object: &Value) -> (Health, String) {
    said(rule(None, None, expression), object)
}

fn database(status: Value) -> Value {
    json!({"apiVersion": "example.org/v1beta1", "kind": "Database", "metadata": {"name": "a", "generation": 2},
           "spec": {"replicas": 3}, "status": status})
}

fn refused(expression: &str) -> String {
    HealthRules::read(&[rule(None, None, expression)]).unwrap_err().to_string()
}

#[test]
fn the_first_that_is_true_decides_and_none_means_on_its_way() {
    let rules = || rule(Some("status.phase == 'Working'"), Some("status.phase == 'Broken'"), "status.phase == 'Fine'");
    let of = |phase: &str| said(rules(), &database(json!({"phase": phase})));
    assert_eq!(of("Working"), (Progressing, "in progress: Working".into()));
    assert_eq!(of("Broken"), (Degraded, "failed: Broken".into()));
    assert_eq!(of("Fine"), (Healthy, "current".into()));
    assert_eq!(of("Odd"), (Progressing, "not current yet: Odd".into()));
    assert_eq!(said(rule(Some("true"), Some("true"), "true"), &database(json!({}))).0, Progressing);
    assert_eq!(said(rule(None, Some("true"), "true"), &database(json!({}))).0, Degraded);
}

#[test]
fn generations_are_compared_before_any_expression() {
    let behind = database(json!({"observedGeneration": 1, "phase": "Fine"}));
    assert_eq!(current("status.phase == 'Fine'", &behind).0, Progressing);
    let seen = database(json!({"observedGeneration": 2, "phase": "Fine"}));
    assert_eq!(current("status.phase == 'Fine'", &seen).0, Healthy);
}

#[test]
fn what_is_being_deleted_is_not_asked() {
    let mut object = database(json!({"phase": "Fine"}));
    object["metadata"]["deletionTimestamp"] = NOW.into();
    assert_eq!(current("true", &object), (Progressing, "being deleted".into()));
}

#[test]
fn expressions_as_they_are_written_for_flux_say_what_they_say_there() {
    let conditions =
        |ready: &str| json!({"conditions": [{"type": "Synced", "status": "True"}, {"type": "Ready", "status": ready}]});
    let ready = "status.conditions.filter(e, e.type == 'Ready').all(e, e.status == 'True')";
    assert_eq!(current(ready, &database(conditions("True"))).0, Healthy);
    assert_eq!(current(ready, &database(conditions("False"))).0, Progressing);
    let failed = "has(status.conditions) && status.conditions.exists(e, e.type == 'Ready' && e.status == 'False')";
    assert_eq!(said(rule(None, Some(failed), "true"), &database(conditions("False"))).0, Degraded);
    assert_eq!(said(rule(None, Some(failed), "true"), &database(json!({}))).0, Healthy);
    let optional = "status.?conditions.orValue([]).exists(c, c.type == 'Ready' && c.status == 'True')";
    assert_eq!(current(optional, &database(conditions("True"))).0, Healthy);
    assert_eq!(current(optional, &database(json!({}))).0, Progressing);
    let generation =
        "status.conditions.filter(e, e.type == 'Ready').all(e, e.observedGeneration == metadata.generation)";
    let seen = |generation: u32| json!({"conditions": [{"type": "Ready", "observedGeneration": generation}]});
    assert_eq!(current(generation, &database(seen(2))).0, Healthy);
    assert_eq!(current(generation, &database(seen(1))).0, Progressing);
}

#[test]
fn the_whole_object_is_self_and_any_field_a_variable() {
    assert_eq!(current("self.spec.replicas == status.ready", &database(json!({"ready": 3}))).0, Healthy);
    assert_eq!(current("spec.replicas - 1 == status.ready", &database(json!({"ready": 2}))).0, Healthy);
    let data = json!({"apiVersion": "example.org/v1", "kind": "Database", "data": {"state": "up"}, "status": {}});
    assert_eq!(current("data.state == 'up'", &data).0, Healthy);
    assert_eq!(current("status.ready / double(spec.replicas) > 0.5", &database(json!({"ready": 2.0}))).0, Healthy);
}

#[test]
fn an_object_without_a_status_waits_for_its_controller() {
    let mut object = database(Value::Null);
    object.as_object_mut().unwrap().remove("status");
    let waits = (Progressing, "its controller has written no status yet".to_owned());
    assert_eq!(current("status.phase == 'Fine'", &object), waits);
    assert_eq!(current("has(status.phase)", &object), waits);
    assert_eq!(current("spec.replicas == 3", &object).0, Healthy, "what asks for no status needs none");
}

#[test]
fn what_cannot_be_evaluated_is_unknown_with_the_reason_and_without_values() {
    let of = |expression: &str| current(expression, &database(json!({"phase": "s3cret", "list": ["s3cret"]})));
    let unknown = |why: &str| (Unknown, format!("spec.health, current: {why}"));
    assert_eq!(of("status.nothing == 1"), unknown("there is no field nothing; ask for it with has(…) first"));
    assert_eq!(of("stat.phase == 'x'"), unknown("the object has no stat"));
    assert_eq!(of("status.phase"), unknown("it is neither true nor false"));
    for expression in ["status.phase > 7", "status.phase + 7 == 1", "status.list[7] == 'x'", "int(status.phase) == 1"] {
        let (health, message) = of(expression);
        assert_eq!(health, Unknown, "{expression}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn a_rule_goes_by_group_and_kind_and_outweighs_what_is_known_of_a_kind() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7"}, "status": {}});
    let waits = HealthRule {
        api_version: "v1".into(),
        kind: "Service".into(),
        ..rule(None, None, "spec.type != 'LoadBalancer' || has(status.loadBalancer.ingress)")
    };
    assert_eq!(said(waits, &service).0, Unknown);
    let other = json!({"apiVersion": "other.org/v1", "kind": "Database", "status": {}});
    assert_eq!(current("false", &other).0, Healthy);
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let bad = HealthRule { kind: "Other".into(), ..rule(Some("status."), Some("status.phase ="), "upper(status)") };
    let problems = HealthRules::read(&[rule(None, None, "true"), bad, rule(None, None, "true")]).unwrap_err();
    let lines: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("spec.health[1].inProgress: ") && line.contains("\"status.\"")));
    assert!(lines.iter().any(|line| line.starts_with("spec.health[1].failed: ")));
    assert!(lines.contains(&"spec.health[1].current: unknown function upper in \"upper(status)\"".to_owned()));
    assert!(lines.contains(&"spec.health[2]: there are two rules for Database".to_owned()));
}

#[test]
fn an_expression_has_a_length_and_a_depth() {
    let text = |bytes: usize| format!("true{}", " ".repeat(bytes - 4));
    assert!(HealthRules::read(&[rule(None, None, &text(MAX_EXPRESSION_BYTES))]).is_ok());
    assert!(refused(&text(MAX_EXPRESSION_BYTES + 1)).contains("more than 2048 bytes"));
    let chain = |parts: usize| format!("1{} == 1", " - 1".repeat(parts));
    assert!(HealthRules::read(&[rule(None, None, &chain(MAX_EXPRESSION_DEPTH - 1))]).is_ok());
    for deep in [
        chain(MAX_EXPRESSION_DEPTH),
        format!("1{}", " - 1".repeat(450)),
        format!("{}1{}", "[".repeat(900), "]".repeat(900)),
        format!("{}true{}", "!(".repeat(600), ")".repeat(600)),
        format!("{}true{}", "-[".repeat(600), "]".repeat(600)),
        "(".repeat(2000),
        "[".repeat(2000),
        format!("a{}", ".a".repeat(MAX_EXPRESSION_DEPTH + 1)),
        format!("a{}", ".a".repeat(1000)),
        format!("a{}", "[0]".repeat(600)),
        format!("a{}", "?a:a".repeat(450)),
        format!("a{}", " in a".repeat(400)),
    ] {
        assert!(HealthRules::read(&[rule(None, None, &deep)]).is_err(), "{deep}");
    }
    for odd in ["", "'", "(", "\"\\", "a.b.c(", "[1,", "{'a':", "a ? b", "\u{0}", "🚲"] {
        assert!(HealthRules::read(&[rule(None, None, odd)]).is_err(), "{odd}");
    }
    let many = |count: usize| {
        let of = |number| HealthRule { kind: format!("Kind{number}"), ..rule(None, None, "true") };
        HealthRules::read(&(0..count).map(of).collect::<Vec<_>>())
    };
    assert!(many(MAX_HEALTH_RULES).is_ok());
    assert!(many(MAX_HEALTH_RULES + 1).is_err());
}

#[test]
fn no_value_can_be_made_to_grow() {
    assert!(refused("[status].map(a, [a, a]).size() > 0").contains("of constants"));
    assert!(refused("[status.phase].map(a, a + a).size() > 0").contains("added within a loop"));
    assert!(refused("[1].map(a, {'x': a}).size() > 0").contains("no map"));
    assert!(
        refused("status.l.exists(a, status.l.exists(b, status.l.exists(c, status.l.exists(d, a == b))))")
            .contains("3 loops")
    );
    assert!(refused("optional.of(1).optMap(a, a + a).hasValue()").contains("unknown function optMap"));
    for fine in [
        "status.l.exists(a, a.type in ['Ready', 'Done'])",
        "status.l.map(a, a.name).size() == 2",
        "status.l.filter(a, a.ok).size() + 1 > 2",
    ] {
        assert!(HealthRules::read(&[rule(None, None, fine)]).is_ok(), "{fine}");
    }
}

#[test]
fn what_takes_too_many_steps_is_not_run() {
    let list = |length: usize| database(json!({"l": vec![json!(1); length]}));
    let pairs = "status.l.all(a, status.l.all(b, a == 1))";
    assert_eq!(current(pairs, &list(100)).0, Healthy);
    assert_eq!(
        current(pairs, &list(10_000)),
        (Unknown, "spec.health, current: it takes too many steps for an object of this size".into())
    );
    assert_eq!(current("status.l.all(a, a == 1)", &list(10_000)).0, Healthy);
}

#[test]
fn rules_are_equal_by_what_they_say() {
    let read = |expression: &str| HealthRules::read(&[rule(None, None, expression)]).unwrap();
    assert_eq!(read("true"), read("true"));
    assert_ne!(read("true"), read("false"));
    assert_ne!(read("true"), HealthRules::default());
}

#[test]
fn secrets_are_not_read_by_expressions() {
    let secret = HealthRule { api_version: "v1".into(), kind: "Secret".into(), ..rule(None, None, "true") };
    assert!(HealthRules::read(&[secret]).unwrap_err().to_string().contains("Secrets"));
}

proptest! {
    /// Whatever is written of the pieces of expressions is refused or evaluated, within the stack and without a panic.
    #[test]
    fn any_expression_comes_to_an_end(pieces in prop::collection::vec(prop::sample::select(PIECES), 1..60)) {
        let text = pieces.concat();
        if let Ok(rules) = HealthRules::read(&[rule(None, None, &text)]) {
            let object = database(json!({"phase": "Fine", "conditions": [{"type": "Ready", "status": "True", "n": 3}]}));
            assess(&object, &rules, NOW.parse().unwrap());
        }
    }
}

const PIECES: &[&str] = &[
    "status",
    ".phase",
    ".?conditions",
    ".conditions",
    "self",
    "[0]",
    "[?0]",
    ".exists(e, ",
    ".all(e, ",
    ".map(e, ",
    ".filter(e, ",
    "e.type",
    "e",
    ")",
    "(",
    "has(",
    "== ",
    "!= ",
    "> ",
    " in ",
    "['Ready', 'x']",
    "'x'",
    "\"\"",
    "1",
    "0.5",
    "9223372036854775807",
    "-",
    "+ ",
    "* ",
    "/ ",
    "% ",
    "! ",
    "&& ",
    "|| ",
    "? ",
    ": ",
    "true",
    "null",
    "{",
    "}",
    "[",
    "]",
    ",",
    ".size()",
    "size(",
    ".matches('a+')",
    ".orValue(",
    "optional.of(",
    "optional.none()",
    ".optMap(e, ",
    "int(",
    "string(",
    "double(",
    "type(",
    "dyn(",
    " ",
    "\n",
    "//",
];
