//! The dry run before the first write.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt};
use towpath_core::environment::Preflight;
use towpath_core::fault::Problem;
use towpath_core::plan::{Action, Plan, Stage, Step};
use towpath_core::policy::Cleared;

use super::{CONCURRENCY, Pass, replace};
use crate::cluster::{AccountClient, Kinds};

/// Sends what would change as a dry run, and gives everything that was refused. One object alone is sent for good at
/// once: its own answer comes as early. What lives in a namespace or is of a kind that this plan brings cannot be tried.
pub(super) async fn preflight(
    pass: &Pass<'_>,
    account: &AccountClient,
    desired: &Cleared,
    plan: &Plan,
    kinds: &Kinds,
) -> Vec<Problem> {
    let writes: Vec<&Step> = plan.writes().collect();
    if pass.environment.preflight == Preflight::Never || writes.len() < 2 {
        return Vec::new();
    }
    let new_namespaces: BTreeSet<&str> = writes
        .iter()
        .filter(|step| step.stage == Stage::Namespaces && step.action == Action::Create)
        .map(|step| step.key.name.as_str())
        .collect();
    let can_be_tried = |step: &&Step| {
        let namespace = step.key.namespace.as_deref();
        !namespace.is_some_and(|namespace| new_namespaces.contains(namespace))
    };
    let mut tries = Vec::new();
    for step in writes.into_iter().filter(can_be_tried) {
        let object = &desired.objects()[step.index];
        if let Some(kind) = kinds.get(&object.api_version, &object.key.kind) {
            tries.push(replace::denial(account, kind, object, step).boxed());
        }
    }
    futures::stream::iter(tries).buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await
}
