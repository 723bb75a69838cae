//! An Environment with every default filled in: what the rooms after this one work with.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::health::HealthRules;
use crate::ignore::Rule;
use crate::lane::LaneRule;
use crate::names::{EnvironmentName, LedgerName};

/// Whether an environment moves to its candidate by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// It moves by itself.
    Automatic,
    /// It waits for a request. Drift is mended all the same.
    Manual,
}

/// What is done about drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftMode {
    /// It is mended at once.
    Correct,
    /// It is only shown.
    Report,
}

/// Whether what would change is sent as a dry run before the first write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preflight {
    /// Where more than one object changes.
    Always,
    /// Not at all.
    Never,
}

/// What becomes of the members when the Environment is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// They stay as they are, with their labels.
    Orphan,
    /// They are deleted.
    Prune,
}

/// Whether what a failing container said last is read and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// In the status of the environment, with what looks like a secret masked.
    Failing,
    /// Not at all.
    Never,
}

/// An environment that must have run and passed a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Required {
    /// Its cluster; the agent's own where none is said.
    pub cluster: Option<String>,
    /// Its name.
    pub environment: EnvironmentName,
    /// How long the revision must have been healthy there.
    pub soak: Duration,
}

impl Required {
    /// Its ledger, for an agent of this cluster.
    pub fn ledger(&self, cluster: &str) -> LedgerName {
        LedgerName {
            cluster: self.cluster.clone().unwrap_or_else(|| cluster.to_owned()),
            environment: self.environment.clone(),
        }
    }
}

/// How long after a release alerts are asked for, where nothing is said.
pub const DEFAULT_ALERT_SOAK: Duration = Duration::from_secs(600);

/// A case in which a release is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RollbackCase {
    /// The sync did not become healthy in its time.
    Degraded,
    /// A rollout controller gave the new revision up.
    Aborted,
    /// An alert that began after the release fires.
    Alert,
}

/// Where alerts are asked for, and which of them count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// The Alertmanager: http or https, with its path prefix if it has one, and without a slash at the end.
    pub url: String,
    /// Matchers in Alertmanager's own syntax. An alert counts that fits all of them.
    pub filter: Vec<String>,
    /// The Secret in `home` to ask with.
    pub secret: Option<String>,
}

/// When an environment goes back by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackRules {
    /// In these cases; in all others it waits for a person.
    pub automatic: BTreeSet<RollbackCase>,
    /// How long after a release alerts are asked for.
    pub soak: Duration,
    /// Where they are asked for; nowhere for `None`.
    pub alerts: Option<AlertRule>,
}

impl Default for RollbackRules {
    /// Nothing is done by itself, and no alerts are asked for.
    fn default() -> Self {
        RollbackRules { automatic: BTreeSet::new(), soak: DEFAULT_ALERT_SOAK, alerts: None }
    }
}

/// An Environment, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Environment {
    /// Its name, which is its label value: unique in one agent.
    pub name: EnvironmentName,
    /// The namespace of the custom resource. The account is looked up here.
    pub home: String,
    /// UID of the custom resource.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Namespace of the Repository.
    pub repository_home: String,
    /// Name of the Repository.
    pub repository: String,
    /// Which branch it follows.
    pub lane: LaneRule,
    /// Folder in the repository, without slashes at its ends.
    pub path: String,
    /// Where objects go that name no namespace.
    pub namespace: String,
    /// The last layer of values.
    pub values: Map<String, Value>,
    /// Whether it moves by itself.
    pub sync: SyncMode,
    /// The service account in `home` that applies it.
    pub account: String,
    /// Other namespaces that objects may name.
    pub allowed_namespaces: BTreeSet<String>,
    /// Cluster-scoped kinds that it may have, as `Kind` or `Kind.group`.
    pub allowed_cluster_kinds: BTreeSet<String>,
    /// Whether objects that left git are deleted.
    pub prune: bool,
    /// What is done about drift.
    pub drift: DriftMode,
    /// Dry run first or not.
    pub preflight: Preflight,
    /// Field managers whose fields are taken over beside those of the known former tools.
    pub take_over: BTreeSet<String>,
    /// Fields that are left out, or left to others.
    pub ignore: Vec<Rule>,
    /// How long a sync may take to become healthy.
    pub timeout: Duration,
    /// How the health of kinds is read that nothing else is known of.
    pub health: HealthRules,
    /// Whether the last lines of a container that fails are shown.
    pub logs: LogMode,
    /// What must have run and passed a revision before this one moves to it.
    pub after: Vec<Required>,
    /// When it goes back by itself.
    pub rollback: RollbackRules,
    /// Pull secrets, in the namespace of the pods: for pods that name none, and for looking images up.
    pub image_pull_secrets: Vec<String>,
    /// Neither synced nor mended.
    pub suspend: bool,
    /// What becomes of its members when it is deleted.
    pub deletion_policy: DeletionPolicy,
    /// The Environment of the same namespace whose members it takes over, without making any of them anew.
    pub moved_from: Option<EnvironmentName>,
}

impl Environment {
    /// The ledgers that must say that a revision passed. `cluster` is the agent's own.
    pub fn waits_for(&self, cluster: &str) -> BTreeSet<LedgerName> {
        self.after.iter().map(|one| one.ledger(cluster)).collect()
    }
}

/// A production environment, for the tests of the rooms after this one.
#[cfg(test)]
pub(crate) fn sample() -> Environment {
    Environment {
        name: "prod".parse().unwrap(),
        home: "shop".into(),
        uid: "e".into(),
        generation: 1,
        repository_home: "shop".into(),
        repository: "shop".into(),
        lane: LaneRule::Master,
        path: "environments/prod".into(),
        namespace: "shop".into(),
        values: Map::new(),
        sync: SyncMode::Automatic,
        account: "towpath-deployer".into(),
        allowed_namespaces: BTreeSet::new(),
        allowed_cluster_kinds: ["Namespace".to_owned()].into(),
        prune: true,
        drift: DriftMode::Correct,
        preflight: Preflight::Always,
        take_over: BTreeSet::new(),
        ignore: Vec::new(),
        timeout: Duration::from_secs(600),
        health: HealthRules::default(),
        logs: LogMode::Failing,
        after: Vec::new(),
        rollback: RollbackRules::default(),
        image_pull_secrets: Vec::new(),
        suspend: false,
        deletion_policy: DeletionPolicy::Orphan,
        moved_from: None,
    }
}
