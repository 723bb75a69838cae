//! What the custom resources say about ledgers: where they are kept, whose signatures count, and which environments
//! must have passed a revision first.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use towpath_core::environment::Required;
use towpath_core::fault::Problem;
use towpath_core::names;
use towpath_core::signature::PublicKey;

use super::SecretReference;
use super::resolve::duration;

/// How long a revision must have been healthy elsewhere, where nothing is said.
const DEFAULT_SOAK: Duration = Duration::ZERO;

/// Where the ledgers of the environments are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LedgerSpec {
    /// `Refs` keeps them as `refs/towpath/<cluster>/<environment>/<year>`, `Branch` as branches
    /// `towpath/<cluster>/<environment>/<year>` for servers that take no other refs, `Off` not at all.
    #[serde(default, rename = "as")]
    pub place: LedgerPlace,
    /// Another repository for them. The deploy repository itself by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub url: Option<String>,
    /// A Secret like that of the Repository, with the right to push there. The Repository's own by default, where the
    /// ledgers are in the deploy repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

/// How ledgers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LedgerPlace {
    /// Below `refs/towpath/`, where no clone fetches them unasked.
    #[default]
    Refs,
    /// Below `refs/heads/towpath/`.
    Branch,
    /// Not at all: the last 20 syncs stand in the status.
    Off,
}

/// The agent of another cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// The name of its cluster.
    #[schemars(length(min = 1, max = 63))]
    pub cluster: String,
    /// The key that it signs with, as `towpath key` prints it: `ssh-ed25519 AAAA…`. A cluster whose key was replaced
    /// stands here once for each; so does the agent's own cluster for its earlier keys.
    #[schemars(length(min = 1, max = 500))]
    pub public_key: String,
}

/// An environment that must have run and passed a revision first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct After {
    /// The cluster of its agent: one of the Repository's peers. The agent's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub cluster: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub environment: String,
    /// How long the revision must have been healthy there, such as `30m`: at most 24 h. As soon as it is healthy by
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub soak: Option<String>,
}

/// Where ledgers are kept, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRule {
    /// Whether they are branches.
    pub as_branches: bool,
    /// Another repository.
    pub url: Option<String>,
    /// The Secret to push with.
    pub secret: Option<String>,
}

impl LedgerSpec {
    pub(super) fn resolve(&self, of_repository: Option<&SecretReference>) -> Option<LedgerRule> {
        let own = self.secret_ref.as_ref();
        let secret = if self.url.is_none() { own.or(of_repository) } else { own };
        (self.place != LedgerPlace::Off).then(|| LedgerRule {
            as_branches: self.place == LedgerPlace::Branch,
            url: self.url.clone(),
            secret: secret.map(|secret| secret.name.clone()),
        })
    }
}

impl Peer {
    pub(super) fn resolve(&self, place: usize, found: &mut Vec<Problem>) -> Option<(String, PublicKey)> {
        if !names::is_dns_label(&self.cluster) {
            let problem = format!("spec.peers[{place}].cluster: {:?} is not the name of a cluster", self.cluster);
            found.push(Problem::setup(problem));
        }
        match self.public_key.parse() {
            Ok(key) => Some((self.cluster.clone(), key)),
            Err(problem) => {
                let problem: Problem = problem;
                found.push(
                    Problem::setup(format!("spec.peers[{place}].publicKey: {}", problem.message))
                        .hint("write what towpath key prints in that cluster"),
                );
                None
            }
        }
    }
}

impl After {
    pub(super) fn resolve(&self, place: usize, found: &mut Vec<Problem>) -> Option<Required> {
        let field = format!("after[{place}]");
        let mut refuse = |problem: String| found.push(Problem::setup(format!("spec.{field}{problem}")));
        if let Some(cluster) = self.cluster.as_ref().filter(|cluster| !names::is_dns_label(cluster)) {
            refuse(format!(".cluster: {cluster:?} is not the name of a cluster"));
        }
        let environment = self.environment.parse().map_err(|error| refuse(format!(".environment: {error}"))).ok();
        let soak = match self.soak.as_deref() {
            None | Some("0s") => DEFAULT_SOAK,
            Some(text) => duration(&format!("{field}.soak"), text).unwrap_or_else(|problem| {
                found.push(problem);
                DEFAULT_SOAK
            }),
        };
        Some(Required { cluster: self.cluster.clone(), environment: environment?, soak })
    }
}
