//! The components of what runs: a component that stays on its commit keeps the version that it was released with.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::components::Pin;
use crate::fault::Problem;
use crate::revision::CommitId;

/// A component as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Folder of its submodule.
    pub path: String,
    /// Its commit.
    pub commit: String,
    /// When that was committed.
    pub committed_at: Timestamp,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The tag of git that stands on its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_tag: Option<String>,
    /// The digests of its images, by their names with tags, where they are named by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, String>,
}

impl ComponentStatus {
    /// The component in a folder, where it runs at this commit.
    pub fn find<'a>(running: &'a [ComponentStatus], path: &str, commit: CommitId) -> Option<&'a ComponentStatus> {
        let commit = commit.to_string();
        running.iter().find(|one| one.path == path && one.commit == commit)
    }

    /// What is known of its commit, as it runs. What was not known when it was released may be by now, which `look` says.
    pub fn pin(&self, look: impl FnOnce() -> Result<Pin, Problem>) -> Pin {
        let untagged = || Problem::setup(format!("no tag stood on {} when it was released", self.commit));
        let (version, git_tag) = match &self.version {
            Some(version) => (Ok(version.clone()), self.git_tag.clone().ok_or_else(untagged)),
            None => match look() {
                Ok(now) => (now.version, now.git_tag),
                Err(why) => (Err(why.clone()), self.git_tag.clone().ok_or(why)),
            },
        };
        Pin { version, committed_at: self.committed_at, git_tag, digests: self.digests.clone() }
    }
}
