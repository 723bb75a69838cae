//! Namespaces. One that ends says in its conditions what is still in it, and whose finalizers hold that.

use serde_json::Value;

use super::ObjectHealth;
use super::reading::{text, true_condition};

pub(super) fn assess(namespace: &Value) -> ObjectHealth {
    if namespace.pointer("/metadata/deletionTimestamp").is_none() && text(namespace, "/status/phase") != "Terminating" {
        return ObjectHealth::healthy(text(namespace, "/status/phase"));
    }
    // The most telling first: a finalizer that nobody removes is what holds most namespaces for ever.
    let why = [
        "NamespaceFinalizersRemaining",
        "NamespaceDeletionDiscoveryFailure",
        "NamespaceDeletionContentFailure",
        "NamespaceDeletionGroupVersionParsingFailure",
        "NamespaceContentRemaining",
    ]
    .into_iter()
    .find_map(|kind| true_condition(namespace, kind));
    match why {
        Some(why) => ObjectHealth::progressing(format!("being deleted: {}", why.says())),
        None => ObjectHealth::progressing("being deleted"),
    }
}
