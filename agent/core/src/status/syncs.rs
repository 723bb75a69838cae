//! Syncs as the status tells of them: those that ended, the one that is under way, and their hooks.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::course::Phase;

/// Why a sync was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Trigger {
    /// The candidate moved.
    Commit,
    /// Somebody asked.
    Request,
    /// The Environment was changed.
    Settings,
    /// The sync before it did not come to its end.
    Retry,
    /// Something in the cluster differed.
    Drift,
    /// A rollback.
    Rollback,
}

/// How a sync ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// Everything was applied.
    Applied,
    /// Something was not.
    Failed,
    /// A newer revision came, or the sync was cancelled, before it was done.
    Overtaken,
}

/// How a hook is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HookOutcome {
    /// Its Job is under way.
    Running,
    /// Its Job completed.
    Succeeded,
    /// Its Job failed.
    Failed,
    /// Its Job did not end in time.
    TimedOut,
    /// Its Job went before its end was seen: nobody knows whether it succeeded.
    Vanished,
    /// Its Job was deleted while it was under way, for a newer revision came.
    Overtaken,
}

/// One run of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookStatus {
    /// The hook as git names it: `Job.batch shop/migrate`.
    pub hook: String,
    /// When it runs.
    pub phase: Phase,
    /// The Job of this run: `Job.batch shop/migrate-0123456789`.
    pub job: String,
    /// Which run it is: the end of the Job's name.
    pub run: String,
    /// UID of the Job.
    pub uid: String,
    /// How it is.
    pub outcome: HookOutcome,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took until its end was seen, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<i64>,
    /// What the Job says of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The last lines of its log, at most 20 and 2 KiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// Why a sync waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WaitReason {
    /// For the end of a hook.
    WaitsForHook,
    /// For the health of a wave.
    WaitsForWave,
    /// For the health of a wave, in which something waits for a person.
    RolloutPaused,
    /// For the health of a wave, in which something is degraded.
    Degraded,
}

impl WaitReason {
    /// As a condition says it.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::WaitsForHook => "WaitsForHook",
            WaitReason::WaitsForWave => "WaitsForWave",
            WaitReason::RolloutPaused => "RolloutPaused",
            WaitReason::Degraded => "Degraded",
        }
    }
}

/// What a sync waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitStatus {
    /// In one word.
    pub reason: WaitReason,
    /// In a sentence, with the wave and the object, or the hook.
    pub message: String,
    /// Since when it waits for this.
    pub since: Timestamp,
    /// When that has taken too long.
    pub until: Timestamp,
}

/// A sync that takes more than one look: it waits for a wave or a hook, or was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// What is applied.
    pub revision: String,
    /// Digest of everything that was rendered for it.
    pub content: String,
    /// First line of the commit's message.
    #[serde(default)]
    pub subject: String,
    /// Why.
    pub trigger: Trigger,
    /// Who asked, for a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// The request, by the value of its annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The request by which hooks that had failed were run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// Objects made so far.
    #[serde(default)]
    pub created: u32,
    /// Objects changed so far.
    #[serde(default)]
    pub configured: u32,
    /// Objects deleted so far.
    #[serde(default)]
    pub pruned: u32,
    /// What it took from other managers so far, at most 20 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub took_over: Vec<String>,
    /// Whether all waves are applied; what is left are hooks.
    #[serde(default)]
    pub applied: bool,
    /// Whether its record is in the history: it was stopped, and stands here for as long as nobody acts.
    #[serde(default)]
    pub recorded: bool,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitStatus>,
    /// The runs of its hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookStatus>,
}

/// What is known of the content that was last applied completely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContentStatus {
    /// Digest of everything that was rendered, hooks included.
    pub digest: String,
    /// The generation of the Environment that it was rendered for.
    pub generation: i64,
}

/// One execution of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncRecord {
    /// Its number: `prod@7` is the seventh sync of prod. 0 where nobody counted yet.
    #[serde(default)]
    pub number: u64,
    /// What was applied.
    pub revision: String,
    /// First line of the commit's message.
    #[serde(default)]
    pub subject: String,
    /// Why.
    pub trigger: Trigger,
    /// Who asked, for a request. Not verified before rights come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// The request, by the value of its annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// How it ended.
    pub outcome: Outcome,
    /// Objects made.
    pub created: u32,
    /// Objects changed.
    pub configured: u32,
    /// Objects that were right already.
    pub unchanged: u32,
    /// Objects deleted.
    pub pruned: u32,
    /// Objects that failed or were refused.
    pub failed: u32,
    /// What the apply took from other managers, by object, field and manager, at most 20 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub took_over: Vec<String>,
    /// What went wrong, the first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The runs of its hooks; the last five syncs keep their logs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookStatus>,
    /// How the environment came to be after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<SyncHealth>,
}

impl SyncRecord {
    /// Whether anything of it ran: what was refused as a whole has left everything as it was.
    pub fn has_run(&self) -> bool {
        self.outcome == Outcome::Applied || self.created + self.configured + self.pruned + self.failed > 0
    }
}

/// What a ledger knows of the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its number.
    pub sync: u64,
    /// When it began.
    pub started_at: Option<Timestamp>,
}

impl Recorded {
    /// Whether it is this sync.
    pub fn is(&self, sync: &SyncRecord) -> bool {
        sync.number == self.sync && Some(sync.started_at) == self.started_at
    }
}

/// How an environment came to be after a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncHealth {
    /// Healthy, or degraded.
    pub is_healthy: bool,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
