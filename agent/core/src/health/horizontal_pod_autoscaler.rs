//! HorizontalPodAutoscalers. That one stands at its limit, or cannot read a metric at the moment, is information about
//! load and metrics; the rollout does not depend on it.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{false_condition, true_condition};

pub(super) fn assess(autoscaler: &Value) -> ObjectHealth {
    let notable = false_condition(autoscaler, "AbleToScale")
        .or_else(|| false_condition(autoscaler, "ScalingActive"))
        .or_else(|| true_condition(autoscaler, "ScalingLimited"));
    ObjectHealth::healthy(notable.map(|condition| condition.says()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use crate::health::Health::Healthy;
    use crate::health::tests::check;

    #[test]
    fn standing_at_a_limit_is_information() {
        check(
            "horizontal-pod-autoscaler/limited",
            Healthy,
            "TooManyReplicas: the desired replica count is more than the maximum replica count",
        );
    }

    #[test]
    fn one_that_scales_has_nothing_to_say() {
        check("horizontal-pod-autoscaler/scaling", Healthy, "");
    }
}
