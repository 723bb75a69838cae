//! APIServices of the aggregation layer. One that is not available makes its whole group unreadable, and the deletion of
//! namespaces hang; it mends itself when the pods behind it are ready.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::condition;

pub(super) fn assess(service: &Value) -> ObjectHealth {
    match condition(service, "Available") {
        Some(available) if available.status() == "True" => ObjectHealth::healthy(available.says()),
        Some(available) => ObjectHealth::progressing(available.says()),
        None => ObjectHealth::progressing("the API server has not asked it yet"),
    }
}

#[cfg(test)]
mod tests {
    use crate::health::Health::Progressing;
    use crate::health::tests::check;

    #[test]
    fn one_that_nobody_has_asked_yet_is_waited_for() {
        check("api-service/just-created", Progressing, "the API server has not asked it yet");
    }
}
