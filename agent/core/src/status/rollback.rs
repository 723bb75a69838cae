//! Rollbacks as the status tells of them: what was prepared or is under way, and what may not come back.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EnvironmentStatus;
use crate::revision::CommitId;

/// Changes that are remembered as rolled back.
pub const MAX_ROLLED_BACK: usize = 100;
/// Lines of a preview that are kept.
pub const MAX_LINES: usize = 100;
/// Requests that are remembered as answered.
pub const MAX_ANSWERED: usize = 50;
/// Commits that were rolled back without a person and are remembered, so that it is done once for each.
pub const MAX_TRIED: usize = 20;

/// How far a rollback is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RollbackPhase {
    /// It was looked at and nothing was done: whoever wants it confirms it.
    #[default]
    Prepared,
    /// Its reverts are being pushed.
    Pushing,
    /// Its reverts stand on a branch of their own, which is to be merged.
    WaitsForMerge,
    /// The git server is away; its reverts are pushed when it is back.
    WaitsForGit,
    /// The branch of the lane has its reverts.
    Done,
    /// It was not done.
    Refused,
}

impl RollbackPhase {
    /// Whether its reverts are to be pushed yet.
    pub fn pushes(self) -> bool {
        matches!(self, RollbackPhase::Pushing | RollbackPhase::WaitsForGit)
    }

    /// Whether there is something left to do.
    pub fn is_under_way(self) -> bool {
        self.pushes() || self == RollbackPhase::WaitsForMerge
    }
}

/// What a rollback takes back or lands again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevertStatus {
    /// The commit that is reverted.
    pub commit: String,
    /// First line of its message.
    #[serde(default)]
    pub subject: String,
}

/// A rollback of an environment: prepared, under way or over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackStatus {
    /// The request that it is for; of one that the agent began or made ready by itself `auto-<case>-<commit>`, such as
    /// `auto-Degraded-1a2b…`.
    pub id: String,
    /// How far it is.
    pub phase: RollbackPhase,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Who asked, by their own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is done although something is marked as not revertible.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overridden: bool,
    /// What was asked for, as it is asked for again when the world has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<Wish>,
    /// The revision that is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The head of the branch that was looked at when it was agreed to: its commits were made on it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onto: Option<String>,
    /// The Repository whose branch it is, as `<namespace>/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The revision whose content comes back, where it is one that ran before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The commits that are reverted, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reverts: Vec<RevertStatus>,
    /// The last commit that was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The last of the commits that land the rest again, which stand on a branch of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
    /// The branch that is to be merged, where the lane's own could not be pushed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The revision that the environment goes to because of it, until it runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_to: Option<String>,
    /// What a confirmation must bear: it stands for all that the lines say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What would be done, or was, or why not; for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

/// How the first line begins where somebody must act before reverts can be pushed.
pub const CANNOT_PUSH: &str = "its reverts cannot be pushed";

impl RollbackStatus {
    /// What keeps its reverts from being pushed, where somebody must act.
    pub fn cannot_push(&self) -> Option<&str> {
        let first = self.lines.first().filter(|_| self.phase == RollbackPhase::Pushing)?;
        first.starts_with(CANNOT_PUSH).then_some(first)
    }

    /// Whether it goes to a revert that its branch does not have yet: that is nowhere to go.
    pub fn waits_for_its_revert(&self) -> bool {
        let Some((goes_to, commit)) = self.goes_to.as_ref().zip(self.commit.as_ref()) else { return false };
        self.phase.is_under_way() && goes_to.ends_with(commit)
    }

    /// Whether it goes on without anybody having to wait for it: what it waits for, a person must do, and the environment is
    /// where it goes until then, or goes nowhere before.
    pub fn waits_for_somebody(&self) -> bool {
        let waits = self.phase == RollbackPhase::WaitsForMerge || self.cannot_push().is_some();
        waits && (self.goes_to.is_none() || self.waits_for_its_revert())
    }

    /// Whether something is landed again, and nothing taken back.
    pub fn lands(&self) -> bool {
        self.wish.as_ref().is_some_and(|wish| wish.reland.is_some())
    }

    /// The last of its commits.
    pub fn tip(&self) -> Option<CommitId> {
        self.commit.as_ref()?.parse().ok()
    }

    /// The branch that is reverted on.
    pub fn lane(&self) -> Option<&str> {
        Some(self.from.as_ref()?.rsplit_once("@sha1:")?.0)
    }

    /// The commits that are reverted.
    pub fn commits(&self) -> Vec<CommitId> {
        self.reverts.iter().filter_map(|one| one.commit.parse().ok()).collect()
    }
}

/// What somebody wants to be rolled back or landed again. At most one of `to`, `ticket` and `reland` is said; without any
/// it is the release before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    /// What it goes back to: a sync of its ledger (`prod@7` or `7`) or a commit that it ran, by 7 digits at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What is taken back instead: a commit of the lane's branch, or a range `a..b` of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// What is landed again: a revert, or a commit that was reverted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reland: Option<String>,
    /// Takes back all that came to the lane since, also what the environment does not run yet. The rest of it is made ready
    /// to be landed again, on a branch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back_out_lane: bool,
    /// Makes one commit that has exactly the files of the older revision, where reverts do not fit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restore: bool,
    /// Goes back in the cluster at once, whether git can be reached or not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emergency: bool,
}

/// A change that was rolled back: only revisions without it are moved to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolledBack {
    /// The commit.
    pub commit: String,
    /// The commit that takes it back, where one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<String>,
}

impl RolledBack {
    /// The commit, and the one that takes it back where one was made. None where a person has written something else here.
    pub fn change(&self) -> Option<(CommitId, Option<CommitId>)> {
        Some((self.commit.parse().ok()?, self.revert.as_ref().and_then(|revert| revert.parse().ok())))
    }
}

impl EnvironmentStatus {
    /// The commit that it runs.
    pub fn running_commit(&self) -> Option<CommitId> {
        self.running.as_ref()?.commit()
    }

    /// What stands here of a request for a rollback: begun, or prepared.
    pub fn rollback_of(&self, id: &str) -> Option<&RollbackStatus> {
        [&self.rollback, &self.prepared].into_iter().flatten().find(|one| one.id == id)
    }

    /// What was rolled back and may not come back, and by what.
    pub fn changes_rolled_back(&self) -> Vec<(CommitId, Option<CommitId>)> {
        self.rolled_back.iter().filter_map(RolledBack::change).collect()
    }
}
