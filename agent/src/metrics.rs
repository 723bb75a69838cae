//! What is counted while the agent runs. What can be read from the custom resources is not counted here: the web door
//! derives it when it is asked.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use towpath_core::status::Outcome;

/// Upper ends of the classes of a sync's duration, in seconds.
const SYNC_SECONDS: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The counters of one agent.
#[derive(Clone)]
pub struct Metrics {
    syncs: Family<SyncLabels, Counter>,
    sync_seconds: Family<EnvironmentLabels, Histogram, fn() -> Histogram>,
    drifts: Family<EnvironmentLabels, Counter>,
    fights: Family<EnvironmentLabels, Counter>,
    contended: Family<EnvironmentLabels, Gauge>,
    alarms: Family<RepositoryLabels, Counter>,
    rollbacks: Family<RollbackLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RollbackLabels {
    environment: String,
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum By {
    Person,
    Agent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SyncLabels {
    environment: String,
    outcome: Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Ended {
    Applied,
    Failed,
    Overtaken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EnvironmentLabels {
    environment: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepositoryLabels {
    repository: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            syncs: Family::default(),
            sync_seconds: Family::new_with_constructor(|| Histogram::new(SYNC_SECONDS)),
            drifts: Family::default(),
            fights: Family::default(),
            contended: Family::default(),
            alarms: Family::default(),
            rollbacks: Family::default(),
        }
    }
}

impl Metrics {
    /// A sync ended.
    pub fn sync(&self, environment: &str, outcome: Outcome, duration: Duration) {
        let outcome = match outcome {
            Outcome::Applied => Ended::Applied,
            Outcome::Failed => Ended::Failed,
            Outcome::Overtaken => Ended::Overtaken,
        };
        self.syncs.get_or_create(&SyncLabels { environment: environment.to_owned(), outcome }).inc();
        let labels = EnvironmentLabels { environment: environment.to_owned() };
        self.sync_seconds.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// An object differed from what was applied.
    pub fn drift(&self, environment: &str) {
        self.drifts.get_or_create(&EnvironmentLabels { environment: environment.to_owned() }).inc();
    }

    /// Somebody began to fight over an object.
    pub fn fight(&self, environment: &str) {
        self.fights.get_or_create(&EnvironmentLabels { environment: environment.to_owned() }).inc();
    }

    /// How many objects somebody fights over now.
    pub fn contended(&self, environment: &str, objects: u32) {
        let labels = EnvironmentLabels { environment: environment.to_owned() };
        self.contended.get_or_create(&labels).set(i64::from(objects));
    }

    /// A branch was rewritten, deleted, or came back.
    pub fn alarm(&self, repository: &str) {
        self.alarms.get_or_create(&RepositoryLabels { repository: repository.to_owned() }).inc();
    }

    /// A rollback was begun, by a person or without one.
    pub fn rollback(&self, environment: &str, is_by_itself: bool) {
        let by = if is_by_itself { By::Agent } else { By::Person };
        self.rollbacks.get_or_create(&RollbackLabels { environment: environment.to_owned(), by }).inc();
    }

    /// The environment is gone, and its series end.
    pub fn forget(&self, environment: &str) {
        let labels = EnvironmentLabels { environment: environment.to_owned() };
        self.sync_seconds.remove(&labels);
        self.drifts.remove(&labels);
        self.fights.remove(&labels);
        self.contended.remove(&labels);
        for by in [By::Person, By::Agent] {
            self.rollbacks.remove(&RollbackLabels { environment: environment.to_owned(), by });
        }
        for outcome in [Ended::Applied, Ended::Failed, Ended::Overtaken] {
            self.syncs.remove(&SyncLabels { environment: environment.to_owned(), outcome });
        }
    }

    /// Adds the counters to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("towpath_sync", "Syncs by how they ended", self.syncs.clone());
        registry.register_with_unit(
            "towpath_sync_duration",
            "How long syncs took",
            Unit::Seconds,
            self.sync_seconds.clone(),
        );
        registry.register("towpath_drift", "Objects that differed from what was applied", self.drifts.clone());
        registry.register("towpath_fights", "Objects that somebody began to fight over", self.fights.clone());
        registry.register(
            "towpath_contended_objects",
            "Objects that somebody fights over now, mended at most every 30 s",
            self.contended.clone(),
        );
        registry.register(
            "towpath_branch_alarms",
            "Branches that were rewritten, deleted, or came back",
            self.alarms.clone(),
        );
        registry.register("towpath_rollbacks", "Rollbacks that were begun", self.rollbacks.clone());
    }
}
