//! An Environment that is deleted: its finalizer, and what is done before it may go.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use towpath_core::decide::Decision;
use towpath_core::environment::DeletionPolicy;
use towpath_core::fault::Problem;
use towpath_core::health::Health;
use towpath_core::names::FINALIZER;
use towpath_core::status::{Leftovers, Report};

use super::environment::{Task, blocked};
use super::kin;
use crate::cluster::Severity;
use crate::resources::Environment;
use crate::sync::{self, Farewell};

/// How soon members on their way out are looked at again.
const LOOK: Duration = Duration::from_secs(5);
/// Objects that are named when they are left behind; the rest is counted.
const MAX_NAMED: usize = 5;

impl Task {
    /// Puts the finalizer on an Environment whose members are to go with it, and takes it off where they are to stay.
    pub(super) async fn keep_finalizer(&self, resource: &Environment, policy: DeletionPolicy) {
        // The board is fresher than what the task was handed: only some changes are handed on.
        let shown = self.shared.board.environments.get(&self.id);
        let is_there = shown.as_deref().unwrap_or(resource).finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let is_wanted = policy == DeletionPolicy::Prune;
        if is_there != is_wanted {
            self.set_finalizer(resource, is_wanted).await;
        }
    }

    async fn set_finalizer(&self, resource: &Environment, wanted: bool) {
        let uid = resource.uid().unwrap_or_default();
        let cluster = &self.shared.cluster;
        if let Err(problem) = cluster.set_finalizer::<Environment>(&self.id.0, &self.id.1, &uid, wanted).await {
            tracing::warn!(environment = self.id.1, %problem, "the finalizer could not be changed; it is tried again");
        }
    }

    /// One look at an Environment that is being deleted. Gives when to look again; nothing is left to do after the
    /// finalizer was taken off, and the next event is its end.
    pub(super) async fn part(&mut self, resource: &Environment) -> Duration {
        let pause = self.shared.settings.scaled(LOOK);
        let is_held = resource.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let since = resource.meta().deletion_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
        if !is_held {
            return pause;
        }
        let left = match self.reason_to_leave_all(resource) {
            Some(why) => {
                tracing::info!(environment = self.id.1, why, "the Environment is deleted, and its objects stay");
                Vec::new()
            }
            None => {
                let Ok(environment) = resource.resolve() else { return pause };
                let inventory_places: Vec<String> = self.status.leftovers.kinds.clone();
                let places: BTreeSet<Option<&str>> =
                    inventory_places.iter().map(|kind| kind.rsplit(' ').next().filter(|name| *name != "-")).collect();
                let neighbours = kin::neighbours(&self.shared.board, &self.id, &places);
                let parting = sync::farewell(&Farewell {
                    cluster: &self.shared.cluster,
                    environment: &environment,
                    status: &self.status,
                    since,
                    claims: &self.shared.claims,
                    own_namespace: self.shared.settings.own_namespace.as_deref(),
                    neighbours: &neighbours,
                    time_scale: self.shared.settings.time_scale.max(1),
                })
                .await;
                tracing::info!(
                    environment = self.id.1,
                    deleted = parting.deleted,
                    left = parting.left.len(),
                    is_over = parting.is_over,
                    "the Environment is being deleted"
                );
                if !parting.is_over {
                    let report = self.leaving(resource, parting);
                    self.write(resource, &report, None).await;
                    return pause;
                }
                parting.left
            }
        };
        if !left.is_empty() {
            let named: Vec<String> =
                left.iter().take(MAX_NAMED).map(|kept| format!("{} ({})", kept.object, kept.reason)).collect();
            let more = left.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let note = format!("left behind: {}{more}", named.join(", "));
            tracing::warn!(environment = self.id.1, note, "the Environment is deleted");
            // Nothing else says so when the Environment is gone.
            self.shared.cluster.event_first(resource, Severity::Warning, "LeftBehind", &note).await;
        }
        self.set_finalizer(resource, false).await;
        pause
    }

    /// Why nothing of it is deleted, if that is so.
    fn reason_to_leave_all(&self, resource: &Environment) -> Option<String> {
        if let Some(successor) = kin::successor(&self.shared.board, &self.id) {
            return Some(format!("environment {successor} has taken over"));
        }
        if resource.spec.suspend {
            return Some("it is suspended".to_owned());
        }
        if self.shared.take_name(&self.id).is_err() {
            return Some("another Environment has its name".to_owned());
        }
        match resource.resolve() {
            Ok(environment) if environment.deletion_policy == DeletionPolicy::Prune => None,
            Ok(_) => Some("spec.deletionPolicy is Orphan".to_owned()),
            Err(problems) => Some(format!("its settings mean nothing: {problems}")),
        }
    }

    fn leaving(&self, resource: &Environment, parting: sync::Parting) -> Report {
        let said = format!("the Environment is being deleted; left so far: {}", parting.left.len());
        let kinds = self.status.leftovers.kinds.iter().cloned().collect();
        Report {
            worst: Some(Health::Unknown),
            leftovers: Leftovers { kept: parting.left, kinds, ..Leftovers::default() },
            is_late: false,
            decision: Decision::Settled,
            ..blocked(resource, &self.status, vec![Problem::passing(said)])
        }
    }
}
