//! Services. The outer address of a load balancer is not waited for: many clusters have nobody who gives one.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{addresses, text};

pub(super) fn assess(service: &Value) -> ObjectHealth {
    if text(service, "/spec/type") != "LoadBalancer" {
        return ObjectHealth::healthy("");
    }
    if text(service, "/spec/clusterIP").is_empty() {
        return ObjectHealth::progressing("waits for its cluster IP");
    }
    ObjectHealth::healthy(match addresses(service).as_slice() {
        [] => "no outer address yet".to_owned(),
        addresses => addresses.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn a_load_balancer_waits_for_its_cluster_ip_only() {
        check("service/load-balancer-without-cluster-ip", Progressing, "waits for its cluster IP");
        check("service/load-balancer", Healthy, "203.0.113.7, web.example.org");
    }
}
