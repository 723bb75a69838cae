//! CustomResourceDefinitions: objects of the kind can be applied once it is established.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{false_condition, true_condition};

pub(super) fn assess(definition: &Value) -> ObjectHealth {
    if let Some(refused) = false_condition(definition, "NamesAccepted") {
        return ObjectHealth::degraded(refused.says());
    }
    if let Some(not) = false_condition(definition, "Established")
        && not.reason() != "Installing"
    {
        return ObjectHealth::degraded(not.says());
    }
    match true_condition(definition, "Established") {
        Some(_) => ObjectHealth::healthy("established"),
        None => ObjectHealth::progressing("not established yet"),
    }
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Degraded, Progressing};
    use crate::health::tests::check;

    #[test]
    fn one_that_is_being_installed_is_waited_for() {
        check("custom-resource-definition/installing", Progressing, "not established yet");
        check("custom-resource-definition/just-created", Progressing, "not established yet");
    }

    #[test]
    fn one_whose_names_are_taken_has_failed() {
        check("custom-resource-definition/not-accepted", Degraded, "NotAccepted: not all names are accepted");
    }
}
