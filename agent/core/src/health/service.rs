//! Services. The outer address of a load balancer is not waited for: many clusters have nobody who gives one.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{list, text};

pub(super) fn assess(service: &Value) -> ObjectHealth {
    if text(service, "/spec/type") != "LoadBalancer" {
        return ObjectHealth::healthy("");
    }
    if text(service, "/spec/clusterIP").is_empty() {
        return ObjectHealth::progressing("waits for its cluster IP");
    }
    let addresses: Vec<&str> = list(service, "/status/loadBalancer/ingress")
        .iter()
        .map(|address| Some(text(address, "/hostname")).filter(|name| !name.is_empty()).unwrap_or(text(address, "/ip")))
        .collect();
    ObjectHealth::healthy(match addresses.as_slice() {
        [] => "no outer address yet".to_owned(),
        addresses => addresses.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use crate::health::Health::{Healthy, Progressing};
    use crate::health::tests::check;

    #[test]
    fn one_inside_the_cluster_is_healthy() {
        check("service-cluster-ip", Healthy, "");
    }

    #[test]
    fn a_load_balancer_waits_for_its_cluster_ip_only() {
        check("service-load-balancer-without-cluster-ip", Progressing, "waits for its cluster IP");
        check("service-load-balancer-without-address", Healthy, "no outer address yet");
        check("service-load-balancer", Healthy, "203.0.113.7, web.example.org");
    }
}
