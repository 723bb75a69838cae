//! Values of Secrets are taken out of an object in this one place, before it is shown, compared or written anywhere.

use serde_json::{Map, Value};

use crate::manifest::annotation_of;

/// Where kubectl keeps a whole copy of an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whether an object holds values that nobody may see.
pub fn is_secret(object: &Map<String, Value>) -> bool {
    object.get("kind").is_some_and(|kind| kind == "Secret")
        && object.get("apiVersion").is_some_and(|version| version == "v1")
}

/// Puts a stand-in for each value of a Secret; other objects stay as they are. The stand-in is made of the value as
/// text: a `data` value as it is encoded, anything that is no text as JSON.
pub fn secret(object: &mut Map<String, Value>, stand_in: &dyn Fn(&str) -> String) {
    if !is_secret(object) {
        return;
    }
    let hide = |value: &mut Value| {
        *value = Value::String(match &*value {
            Value::String(text) => stand_in(text),
            other => stand_in(&other.to_string()),
        });
    };
    for part in ["data", "stringData"] {
        match object.get_mut(part) {
            Some(Value::Object(values)) => values.values_mut().for_each(hide),
            Some(other) if !other.is_null() => hide(other),
            _ => {}
        }
    }
    if annotation_of(object, LAST_APPLIED).is_some() {
        hide(&mut object["metadata"]["annotations"][LAST_APPLIED]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hidden(object: Value) -> Value {
        let Value::Object(mut object) = object else { unreachable!() };
        secret(&mut object, &|value| format!("<{}>", value.len()));
        Value::Object(object)
    }

    #[test]
    fn every_value_of_a_secret_is_hidden_and_its_copy_too() {
        let found = hidden(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"annotations": {LAST_APPLIED: "{\"data\":1}", "other": "stays"}},
            "data": {"a": "c2VjcmV0", "odd": 7}, "stringData": "none",
        }));
        assert_eq!(
            found,
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"annotations": {LAST_APPLIED: "<10>", "other": "stays"}},
                "data": {"a": "<8>", "odd": "<1>"}, "stringData": "<4>",
            })
        );
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        for object in [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}),
            json!({"apiVersion": "example.org/v1", "kind": "Secret", "data": {"a": "b"}}),
        ] {
            assert_eq!(hidden(object.clone()), object);
        }
    }
}
