//! The custom resources of `towpath.dev/v1alpha1`: what people say in the cluster, and how it is resolved.
//!
//! The YAML in `manifests/crds` is generated from these types by `towpath crds`, and a test holds the two together.

mod ask;
mod components;
mod ledger;
mod resolve;
mod rollback;

pub use ask::{Ask, BY_ITSELF, BumpAsk, CutAsk, RollbackAsk, What, prepared_by_itself};
pub use components::{Allowed, Bump, BumpRule, BumpSpec, ComponentRule, Outside, secret_for};
pub use ledger::{After, LedgerPlace, LedgerRule, LedgerSpec, Peer};
pub use resolve::ResolvedRepository;
pub use rollback::{AlertsSpec, RollbackSpec};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use towpath_core::health::HealthRule;
use towpath_core::limits::MAX_HEALTH_RULES;
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
    /// Other namespaces whose Environments may be rolled back in git, by name; `*` stands for all. A revert is pushed with
    /// the right to write of this Repository, and every environment of the branch follows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollbacks_from: Vec<String>,
    /// A Secret like `secretRef`, with the right to push. It is used where something is pushed to the deploy repository or
    /// to one of its components beside it; `secretRef` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_secret_ref: Option<SecretReference>,
    /// Repositories of components that may be read, beside those in the same folder or group as the deploy repository,
    /// which are read with its own Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub components: Vec<ComponentRule>,
    /// Branches whose submodules follow their components. Only the steward's agent does this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub bumps: Vec<BumpSpec>,
    /// Secrets of the type `kubernetes.io/dockerconfigjson` in the same namespace, to look images up with before a component
    /// is moved whose `towpath.yaml` asks for that (`check`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub image_pull_secrets: Vec<String>,
    /// Where a signed record of every sync is kept. Without it none is: the last 20 syncs stand in the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerSpec>,
    /// The agents of other clusters that work from this repository, and the keys that they sign their records with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub peers: Vec<Peer>,
    /// Whether this agent is the one that writes what is said about the repository as a whole: bumps and new releases. At
    /// most one of the agents of a repository is.
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
    /// The last commits that this agent made, the newest first, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bumps: Vec<String>,
    /// What became of the last request of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// `Ready`, `Recorded`, `ComponentsRead`, and while they are true `Stalled` and `Reconciling`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What became of a request of a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The request: the value of `towpath.dev/requestedAt`.
    pub id: String,
    /// Whether it was done.
    pub done: bool,
    /// What was done, or why it was not, line by line.
    pub lines: Vec<String>,
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
    /// When it goes back to the release before by itself. Never by default: it then waits for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackSpec>,
    /// Secrets of the type `kubernetes.io/dockerconfigjson`, in `namespace`: put into the templates of pods that say
    /// nothing of `imagePullSecrets` themselves, and shown to registries in which images of components are looked up.
    /// `ca.crt` beside the logins is the authority that vouches for these registries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub image_pull_secrets: Vec<String>,
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
