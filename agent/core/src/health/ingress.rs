//! Ingresses. As with load balancers the address is shown and not waited for: many controllers never write one. Who
//! wants to wait for it says so in `spec.health` of the Environment.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::addresses;

pub(super) fn assess(ingress: &Value) -> ObjectHealth {
    ObjectHealth::healthy(match addresses(ingress).as_slice() {
        [] => "no address yet".to_owned(),
        addresses => addresses.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use crate::health::Health::Healthy;
    use crate::health::tests::check;

    #[test]
    fn an_address_is_shown() {
        check("ingress/with-address", Healthy, "203.0.113.7, web.example.org");
    }
}
