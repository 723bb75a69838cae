//! PodDisruptionBudgets. That no pod may be evicted at the moment is information for whoever drains a node.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{count, false_condition};

pub(super) fn assess(budget: &Value) -> ObjectHealth {
    let (healthy, wanted) = (count(budget, "/status/currentHealthy"), count(budget, "/status/desiredHealthy"));
    ObjectHealth::healthy(match false_condition(budget, "DisruptionAllowed") {
        Some(refused) => {
            format!("no pod may be evicted: {}, {healthy} healthy of {wanted} needed", refused.says())
        }
        None => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use crate::health::Health::Progressing;
    use crate::health::tests::check;

    #[test]
    fn one_that_was_changed_is_waited_for() {
        check("pod-disruption-budget/not-observed", Progressing, "its controller has not seen the last change yet");
    }
}
