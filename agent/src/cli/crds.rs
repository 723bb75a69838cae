//! `towpath crds`: what `manifests/crds` is generated with.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;
use towpath_core::fault::Problem;

use super::exit::{Code, Failure};
use super::output;
use crate::resources::{Environment, Repository};

/// Marks a kind whose objects are parents of ApplySets (KEP-3659).
const PARENT_LABEL: &str = "applyset.kubernetes.io/is-parent-type";

pub(super) fn run() -> Result<Code, Failure> {
    output::data(&yaml()?)?;
    Ok(Code::Done)
}

/// Every custom resource definition, as it is installed.
pub(super) fn definitions() -> [CustomResourceDefinition; 2] {
    let mut environment = Environment::crd();
    environment.metadata.labels.get_or_insert_default().insert(PARENT_LABEL.to_owned(), "true".to_owned());
    [environment, Repository::crd()].map(without_unsigned_formats)
}

/// The API server knows no unsigned formats and warns of each at every apply; `minimum: 0` says the same.
fn without_unsigned_formats(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                    map.shift_remove("format");
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(definition).expect("a definition is JSON");
    strip(&mut value);
    serde_json::from_value(value).expect("it is still a definition")
}

/// All of them in one text.
///
/// # Errors
/// When one cannot be written as YAML.
pub(super) fn yaml() -> Result<String, Problem> {
    let mut text = String::new();
    for definition in definitions() {
        text.push_str("---\n");
        text.push_str(&output::yaml(&definition)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_read_back() {
        let text = yaml().unwrap();
        let read: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(read, definitions());
    }

    #[test]
    fn the_server_has_nothing_to_warn_of() {
        assert!(!yaml().unwrap().contains("format: uint"));
    }

    #[test]
    fn an_environment_is_the_parent_of_an_apply_set() {
        let [environment, repository] = definitions();
        assert_eq!(environment.metadata.labels.unwrap()[PARENT_LABEL], "true");
        assert_eq!(repository.metadata.labels, None);
    }
}
