//! `towpath crds`: what `manifests/crds` is generated with.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
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
    [environment, Repository::crd()]
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
    fn an_environment_is_the_parent_of_an_apply_set() {
        let [environment, repository] = definitions();
        assert_eq!(environment.metadata.labels.unwrap()[PARENT_LABEL], "true");
        assert_eq!(repository.metadata.labels, None);
    }
}
