//! The custom resources of `towpath.dev/v1alpha1`: what people say in the cluster, and how it is resolved.
//!
//! The YAML in `manifests/crds` is generated from these types by `towpath crds`, and a test holds the two together.

mod ledger;

pub use ledger::{After, LedgerPlace, LedgerRule, LedgerSpec, Peer};

use std::collections::BTreeSet;
use std::time::Duration;

use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use towpath_core::environment::{self, DeletionPolicy, DriftMode, LogMode, Preflight, SyncMode};
use towpath_core::fault::{Problem, Problems};
use towpath_core::health::{HealthRule, HealthRules};
use towpath_core::ignore::Rule;
use towpath_core::lane::{BranchNames, LaneRule, is_branch_name};
use towpath_core::limits::MAX_HEALTH_RULES;
use towpath_core::names::{self, EnvironmentName};
use towpath_core::pointer::Pointer;
use towpath_core::signature::PublicKey;
use towpath_core::status::{Condition, EnvironmentStatus};

/// A deploy repository that the agent watches.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "towpath.dev",
    version = "v1alpha1",
    kind = "Repository",
    plural = "repositories",
    namespaced,
    status = "RepositoryStatus",
    shortname = "tpr",
    category = "towpath",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".spec.url"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositorySpec {
    /// Where it is: https, ssh, file, or an absolute path on the agent's own disk. Never with a password in it.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// A Secret in the same namespace with `username` and `password`, or `token`, or `ssh-privatekey` and
    /// `known_hosts`, and `ca.crt` where the server's certificate needs it. Only for reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// How often the server is asked for its branches, such as `60s` or `5m`: between 1 s and 24 h, 60 s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: Option<String>,
    /// What the long-lived branches are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branches: Option<Branches>,
    /// Other namespaces whose Environments may follow this Repository, by name; `*` stands for all. Whoever may make an
    /// Environment there can see in the cluster what the repository holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_from: Vec<String>,
    /// Where a signed record of every sync is kept. Without it none is: the last 20 syncs stand in the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerSpec>,
    /// The agents of other clusters that work from this repository, and the keys that they sign their records with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub peers: Vec<Peer>,
    /// Whether this agent is the one that writes what is said about the repository as a whole. At most one of the agents
    /// of a repository is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub steward: bool,
}

/// A Secret by its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The names of the long-lived branches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Branches {
    /// `develop` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub develop: Option<String>,
    /// `master` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
}

/// The `status` of a Repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// The generation that was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The last value of `towpath.dev/requestedAt` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,
    /// The branches that environments follow, and the commit of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<BranchStatus>,
    /// What happened to branches that should not happen: rewritten or deleted. The newest first, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// The last record that was seen of each peer's ledger: `cluster/environment sequence commit`, at most 1000. A ledger
    /// that does not go on from there was rewritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ledgers: Vec<String>,
    /// `Ready`, and while they are true `Stalled` and `Reconciling`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BranchStatus {
    /// Its name.
    pub name: String,
    /// The commit it stands on.
    pub commit: String,
    /// Set where the server no longer has the branch: the last state is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// A lane, a path, a namespace, and the rules to sync them.
///
/// Who may edit an Environment can do everything that its service account can do.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "towpath.dev",
    version = "v1alpha1",
    kind = "Environment",
    plural = "environments",
    namespaced,
    status = "EnvironmentStatus",
    shortname = "tpe",
    category = "towpath",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Lane","type":"string","jsonPath":".spec.lane"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Health","type":"string","jsonPath":".status.health"}"#,
    printcolumn = r#"{"name":"Revision","type":"string","jsonPath":".status.running.revision"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Status","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// The name of a Repository in the same namespace, or `namespace/name` of one whose `allowedFrom` names ours.
    #[schemars(length(min = 1, max = 317))]
    pub repository: String,
    /// `develop`, `release` (the newest rX.Y), `master`, the name of a branch, or a commit of 40 digits.
    #[schemars(length(min = 1, max = 200))]
    pub lane: String,
    /// The folder of this environment in the repository. Without a `towpath.yaml` at the root of the repository it is a
    /// plain folder of YAML.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
    /// Where objects go that name no namespace. The Environment's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The last layer of values.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub values: Map<String, Value>,
    /// `Automatic` moves to the candidate by itself, `Manual` waits for a request. Drift is mended in both.
    #[serde(default)]
    pub sync: Sync,
    /// The service account, in the Environment's own namespace, that everything is read and written with.
    /// `towpath-deployer` by default, and the only name that the shipped role lets the agent impersonate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// What this environment may touch beside its own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
    /// Whether objects that left git are deleted. On by default, within the deletion budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<bool>,
    /// `Correct` mends drift at once, `Report` only shows it.
    #[serde(default)]
    pub drift: Drift,
    /// `Always` sends what would change as a dry run before the first write, `Never` does not.
    #[serde(default)]
    pub preflight: Preflights,
    /// Field managers, beside those of kubectl, Flux and Argo CD, that had objects before: what they own of an object
    /// that is adopted, or own together with us, becomes ours, so that what git does not have goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub take_over: Vec<String>,
    /// Fields that are not sent, or are left to other managers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub ignore: Vec<Ignore>,
    /// How long a sync may take to become healthy, such as `10m`, which is the default: between 1 s and 24 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub timeout: Option<String>,
    /// How the health of kinds is read that Towpath knows nothing of, or should read otherwise: expressions in CEL, one
    /// rule for each kind. Entries of Flux's `healthCheckExprs` can be used as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_HEALTH_RULES))]
    pub health: Vec<HealthRule>,
    /// `Failing` reads the last lines of the log of a container that fails and shows them in the status, with what looks
    /// like a secret masked; `Never` does not. Whoever may read this Environment may read these lines.
    #[serde(default)]
    pub logs: Logs,
    /// Environments that a revision must have run in and passed before this one may move to it: it was applied there and
    /// was healthy for the time to soak, by the ledger of its agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub after: Vec<After>,
    /// Neither synced nor mended while it is true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// What becomes of its objects when the Environment is deleted. `Orphan` leaves them as they are, so that an
    /// Environment of the same name takes them up again. `Prune` deletes them, workloads first; Namespaces,
    /// CustomResourceDefinitions, PersistentVolumeClaims and what is never pruned stay.
    #[serde(default)]
    pub deletion_policy: Deletion,
    /// The name that this Environment had before, in the same namespace: it takes over everything of that one, and
    /// nothing is deleted or made anew. While both are there, the earlier one does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub moved_from: Option<String>,
}

/// What an environment may touch beside its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Allow {
    /// Other namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Cluster-scoped kinds, as `Namespace` or `ClusterRole.rbac.authorization.k8s.io`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_kinds: Vec<String>,
}

/// Fields of some objects that are not sent, or are left to other managers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ignore {
    /// The API group of the objects, `""` for the core group. Any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Their kind. Any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Their name, in which `*` stands for any text. Any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON pointers such as `/spec/replicas`. Without managers these fields are never sent, not even when the object
    /// is created. All fields by default, which needs managers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub pointers: Vec<String>,
    /// Field managers: what they own is left to them for as long as they own it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub managers: Vec<String>,
}

impl Ignore {
    /// Reads the pointers of the rule in this place of the list.
    fn resolve(self, place: usize, found: &mut Vec<Problem>) -> Rule {
        let mut pointers = Vec::new();
        for (index, text) in self.pointers.iter().enumerate() {
            match Pointer::parse(text) {
                Ok(pointer) => pointers.push(pointer),
                Err(error) => {
                    found.push(Problem::setup(format!("spec.ignore[{place}].pointers[{index}]: {error}")));
                }
            }
        }
        if self.pointers.is_empty() && self.managers.is_empty() {
            let problem = Problem::setup(format!("spec.ignore[{place}]: neither pointers nor managers"));
            found.push(problem.hint("name the fields, or whose fields they are"));
        }
        for (index, manager) in self.managers.iter().enumerate() {
            if manager.is_empty() || manager == names::FIELD_MANAGER {
                let text = format!("spec.ignore[{place}].managers[{index}]: {manager:?} is no other manager");
                found.push(Problem::setup(text));
            }
        }
        let managers = self.managers.into_iter().collect();
        Rule { group: self.group, kind: self.kind, name: self.name, pointers, managers }
    }
}

/// Whether an environment moves by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Sync {
    /// By itself.
    #[default]
    Automatic,
    /// On request.
    Manual,
}

/// What is done about drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Drift {
    /// Mended at once.
    #[default]
    Correct,
    /// Only shown.
    Report,
}

/// What becomes of the objects of an Environment that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Deletion {
    /// They stay.
    #[default]
    Orphan,
    /// They are deleted.
    Prune,
}

/// Whether what would change is sent as a dry run first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Preflights {
    /// Where more than one object changes.
    #[default]
    Always,
    /// Not at all.
    Never,
}

/// Whether what a failing container said last is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Logs {
    /// In the status.
    #[default]
    Failing,
    /// Not at all.
    Never,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Reads a duration such as `90s` or `1h30m`.
///
/// # Errors
/// When it is none, or not between 1 s and 24 h.
fn duration(field: &str, text: &str) -> Result<Duration, Problem> {
    let refuse = |why: String| Problem::setup(format!("spec.{field}: {why}")).hint("write it as 30s, 5m or 1h30m");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| refuse(format!("{text:?} is not a duration")))?;
    let duration = Duration::try_from(duration).map_err(|_| refuse(format!("{text:?} is negative")))?;
    if (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&duration) {
        Ok(duration)
    } else {
        Err(refuse(format!("{text:?} is not between 1s and 24h")))
    }
}

/// A Repository with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedRepository {
    /// Namespace of the custom resource, and of its Secret.
    pub home: String,
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: i64,
    /// Where it is.
    pub url: String,
    /// The Secret for reading.
    pub secret: Option<String>,
    /// How often it is polled.
    pub interval: Duration,
    /// What the long-lived branches are called.
    pub branches: BranchNames,
    /// Other namespaces whose Environments may follow it; `*` stands for all.
    pub allowed_from: BTreeSet<String>,
    /// Where ledgers are kept.
    pub ledger: Option<LedgerRule>,
    /// Whose signatures count for which cluster.
    pub peers: Vec<(String, PublicKey)>,
    /// Whether this agent writes what is said about the repository as a whole.
    pub steward: bool,
}

impl Repository {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// Everything in the spec that means nothing.
    pub fn resolve(&self) -> Result<ResolvedRepository, Problems> {
        let mut found = Vec::new();
        let interval = match &self.spec.interval {
            None => Duration::from_secs(60),
            Some(text) => duration("interval", text).unwrap_or_else(|problem| {
                found.push(problem);
                Duration::ZERO
            }),
        };
        let mut branches = BranchNames::default();
        let named = self.spec.branches.clone().unwrap_or_default();
        for (field, name, into) in
            [("develop", named.develop, &mut branches.develop), ("master", named.master, &mut branches.master)]
        {
            match name {
                Some(name) if is_branch_name(&name) => *into = name,
                Some(name) => {
                    found.push(Problem::setup(format!("spec.branches.{field}: {name:?} is not a branch name")));
                }
                None => {}
            }
        }
        let peers = self.spec.peers.iter().enumerate();
        let peers = peers.filter_map(|(place, peer)| peer.resolve(place, &mut found)).collect();
        Problems::check(found)?;
        Ok(ResolvedRepository {
            home: self.namespace().unwrap_or_default(),
            name: self.name_any(),
            generation: self.metadata.generation.unwrap_or_default(),
            url: self.spec.url.clone(),
            secret: self.spec.secret_ref.as_ref().map(|secret| secret.name.clone()),
            interval,
            branches,
            allowed_from: self.spec.allowed_from.iter().cloned().collect(),
            ledger: self.spec.ledger.as_ref().and_then(|ledger| ledger.resolve(self.spec.secret_ref.as_ref())),
            peers,
            steward: self.spec.steward,
        })
    }
}

impl Environment {
    /// Namespace and name of its Repository.
    pub fn repository_id(&self) -> (String, String) {
        let named = &self.spec.repository;
        let (namespace, name) = named.split_once('/').map_or((None, named.as_str()), |(home, name)| (Some(home), name));
        (namespace.map(str::to_owned).or_else(|| self.namespace()).unwrap_or_default(), name.to_owned())
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// Everything in the spec that means nothing.
    pub fn resolve(&self) -> Result<environment::Environment, Problems> {
        let (repository_home, repository) = self.repository_id();
        let EnvironmentSpec {
            repository: _,
            lane,
            path,
            namespace,
            values,
            sync,
            service_account_name,
            allow,
            prune,
            drift,
            preflight,
            take_over,
            ignore,
            timeout,
            health,
            logs,
            after,
            suspend,
            deletion_policy,
            moved_from,
        } = self.spec.clone();
        let home = self.namespace().unwrap_or_default();
        let mut found = Vec::new();
        let name = self.name_any().parse().map_err(|error| Problem::setup(format!("metadata.name: {error}")));
        let lane = LaneRule::parse(&lane).map_err(|error| Problem::setup(format!("spec.lane: {error}")));
        let path = clean_path(&path);
        let timeout = timeout.map_or(Ok(Duration::from_secs(600)), |text| duration("timeout", &text));
        let account = service_account_name.unwrap_or_else(|| names::DEFAULT_ACCOUNT.to_owned());
        if !names::is_dns_subdomain(&account) {
            found.push(Problem::setup(format!("spec.serviceAccountName: {account:?} is not a name")));
        }
        if !names::is_dns_label(&repository_home) && repository_home != home || !names::is_dns_subdomain(&repository) {
            let named = &self.spec.repository;
            found.push(
                Problem::setup(format!("spec.repository: {named:?} is no Repository"))
                    .hint("write its name, or namespace/name where it is in another namespace"),
            );
        }
        let moved_from = moved_from.map(|earlier| match earlier.parse::<EnvironmentName>() {
            Ok(earlier) if earlier.as_str() != self.name_any() => Ok(earlier),
            Ok(_) => Err(Problem::setup("spec.movedFrom: it names the Environment itself")),
            Err(error) => Err(Problem::setup(format!("spec.movedFrom: {error}"))),
        });
        let moved_from = moved_from.transpose().unwrap_or_else(|problem| {
            found.push(problem);
            None
        });
        let namespace = namespace.unwrap_or_else(|| home.clone());
        let allow = allow.unwrap_or_default();
        for namespace in allow.namespaces.iter().chain([&namespace]) {
            if !names::is_dns_label(namespace) {
                found.push(Problem::setup(format!("{namespace:?} is not the name of a namespace")));
            }
        }
        let ignore: Vec<Rule> =
            ignore.into_iter().enumerate().map(|(place, rule)| rule.resolve(place, &mut found)).collect();
        let after = after.iter().enumerate();
        let after = after.filter_map(|(place, after)| after.resolve(place, &mut found)).collect();
        let health = HealthRules::read(&health).unwrap_or_else(|problems| {
            found.extend(problems.into_vec());
            HealthRules::default()
        });
        match (name, lane, path, timeout) {
            (Ok(name), Ok(lane), Ok(path), Ok(timeout)) if found.is_empty() => Ok(environment::Environment {
                name,
                home,
                uid: self.uid().unwrap_or_default(),
                generation: self.metadata.generation.unwrap_or_default(),
                repository_home,
                repository,
                lane,
                path,
                namespace,
                values,
                sync: match sync {
                    Sync::Automatic => SyncMode::Automatic,
                    Sync::Manual => SyncMode::Manual,
                },
                account,
                allowed_namespaces: allow.namespaces.into_iter().collect(),
                allowed_cluster_kinds: allow.cluster_kinds.into_iter().collect(),
                prune: prune.unwrap_or(true),
                drift: match drift {
                    Drift::Correct => DriftMode::Correct,
                    Drift::Report => DriftMode::Report,
                },
                preflight: match preflight {
                    Preflights::Always => Preflight::Always,
                    Preflights::Never => Preflight::Never,
                },
                take_over: take_over.into_iter().filter(|manager| manager != names::FIELD_MANAGER).collect(),
                ignore,
                timeout,
                health,
                logs: match logs {
                    Logs::Failing => LogMode::Failing,
                    Logs::Never => LogMode::Never,
                },
                after,
                suspend,
                deletion_policy: match deletion_policy {
                    Deletion::Orphan => DeletionPolicy::Orphan,
                    Deletion::Prune => DeletionPolicy::Prune,
                },
                moved_from,
            }),
            (name, lane, path, timeout) => {
                found.extend([name.err(), lane.err(), path.err(), timeout.err()].into_iter().flatten());
                Err(Problems::check(found).expect_err("something was found, or everything would be resolved"))
            }
        }
    }
}

/// A path without `.` and slashes at its ends; `""` for the root.
fn clean_path(path: &str) -> Result<String, Problem> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if path.starts_with('/') || parts.contains(&"..") || path.contains(['\\', '\0', '\n']) {
        return Err(Problem::setup(format!("spec.path: {path:?} leaves the repository"))
            .hint("name a folder by its path from the root of the repository"));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(change: impl FnOnce(&mut Environment)) -> Result<environment::Environment, Problems> {
        let yaml = "{repository: shop, lane: master, path: environments/prod}";
        let mut environment = Environment::new("prod", serde_saphyr::from_str(yaml).unwrap());
        environment.metadata.namespace = Some("shop".into());
        change(&mut environment);
        environment.resolve()
    }

    #[test]
    fn a_health_rule_that_cannot_be_read_is_named() {
        let rule = |current: &str| HealthRule {
            api_version: "example.org/v1".into(),
            kind: "Database".into(),
            in_progress: None,
            failed: None,
            current: current.into(),
        };
        let with = |rules: Vec<HealthRule>| environment(|environment| environment.spec.health = rules);
        assert!(with(vec![rule("status.ready")]).unwrap().health.cover("example.org", "Database"));
        let problems = with(vec![rule("status.ready"), rule("status.(")]).unwrap_err();
        let text = problems.to_string();
        assert!(text.contains("spec.health[1].current: ") && text.contains("two rules for Database"), "{text}");
        assert!(problems.iter().all(|problem| problem.fault == towpath_core::fault::Fault::Setup));
    }

    #[test]
    fn an_environment_needs_only_repository_lane_and_path() {
        let resolved = environment(|_| {}).unwrap();
        assert_eq!(resolved.namespace, "shop");
        assert_eq!(resolved.account, "towpath-deployer");
        assert_eq!(resolved.timeout, Duration::from_secs(600));
        assert!(resolved.prune);
        assert_eq!(resolved.deletion_policy, DeletionPolicy::Orphan);
    }

    #[test]
    fn an_environment_cannot_be_moved_from_itself() {
        let moved = |from: &str| environment(|environment| environment.spec.moved_from = Some(from.into()));
        assert!(moved("prod").is_err());
        assert!(moved("").is_err());
        assert_eq!(moved("production").unwrap().moved_from, Some("production".parse().unwrap()));
    }

    #[test]
    fn what_means_nothing_is_refused_all_at_once() {
        let problems = environment(|environment| {
            environment.metadata.name = Some("Prod".into());
            environment.spec.lane = "--force".into();
            environment.spec.path = "../other".into();
            environment.spec.timeout = Some("-1s".into());
            environment.spec.moved_from = Some("Prod".into());
        })
        .unwrap_err();
        assert_eq!(problems.iter().count(), 5, "{problems}");
    }

    #[test]
    fn an_absurd_duration_is_refused() {
        for bad in ["-1s", "0s", "1e300h", "", "10", "25h", "999ms"] {
            assert!(environment(|environment| environment.spec.timeout = Some(bad.into())).is_err(), "{bad}");
        }
        for good in ["1s", "24h", "1h30m"] {
            assert!(environment(|environment| environment.spec.timeout = Some(good.into())).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_bad_rule_is_refused_with_its_field() {
        let refused = |rule: &str| {
            let rule = serde_saphyr::from_str(rule).unwrap();
            let problems = environment(|environment| environment.spec.ignore = vec![Ignore::default(), rule]);
            problems.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(refused("{pointers: [/spec/replicas]}").contains("spec.ignore[0]: neither pointers nor managers"));
        let said = refused("{pointers: [/spec/replicas, spec.replicas]}");
        assert!(said.contains("spec.ignore[1].pointers[1]: \"spec.replicas\" is not a JSON pointer"), "{said}");
        let said = refused("{pointers: [/metadata/name]}");
        assert!(said.contains("spec.ignore[1].pointers[0]: \"/metadata/name\" is the identity"), "{said}");
        let said = refused("{managers: [towpath]}");
        assert!(said.contains("spec.ignore[1].managers[0]"), "{said}");
        let good = Ignore { managers: vec!["tuner".into()], ..Ignore::default() };
        let resolved = environment(|environment| environment.spec.ignore = vec![good]).unwrap();
        assert!(!resolved.ignore[0].leaves_out());
    }

    #[test]
    fn an_empty_account_cannot_be_said() {
        assert!(environment(|environment| environment.spec.service_account_name = Some(String::new())).is_err());
    }

    #[test]
    fn a_path_is_cleaned() {
        assert_eq!(clean_path("./a//b/").unwrap(), "a/b");
        assert_eq!(clean_path(".").unwrap(), "");
        for bad in ["/etc", "a/../../b", "a\\b"] {
            assert!(clean_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repository_elsewhere_is_named_with_its_namespace() {
        let id = |named: &str| {
            environment(|environment| environment.spec.repository = named.into())
                .map(|resolved| format!("{} {}", resolved.repository_home, resolved.repository))
        };
        assert_eq!(id("shop").unwrap(), "shop shop");
        assert_eq!(id("infra/deploy").unwrap(), "infra deploy");
        for bad in ["", "/deploy", "infra/", "a/b/c", "Infra/deploy", "a b"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repository_has_defaults() {
        let repository = Repository::new("shop", serde_saphyr::from_str("{url: https://git.example/x.git}").unwrap());
        let resolved = repository.resolve().unwrap();
        assert_eq!(resolved.interval, Duration::from_secs(60));
        assert_eq!(resolved.branches.master, "master");
    }
}
