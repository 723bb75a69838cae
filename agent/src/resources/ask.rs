//! What a person asks for: written into an annotation of a Repository or an Environment, answered in its status.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use towpath_core::status::{EnvironmentStatus, RollbackStatus, Wish};

/// A request, as the annotation `towpath.dev/request` of a Repository holds it, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ask {
    /// A value that no other request has. The answer bears it.
    pub id: String,
    /// When it was asked. What cannot be done soon is not done at all, for by then a person may want something else.
    pub at: Timestamp,
    /// Who asks, by their own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Says what would be done and does nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What is asked for.
    #[serde(flatten)]
    pub what: What,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// Components are to move on a deploy branch.
    Bump(BumpAsk),
    /// A release is to be cut.
    Cut(CutAsk),
}

/// Components are to move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BumpAsk {
    /// The deploy branch.
    pub lane: String,
    /// The component by its name or folder; all that can go forward where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// A commit of 40 digits or a tag vX.Y; the head of the component's branch where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// A release is to be cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CutAsk {
    /// The new branch, `rX.Y`.
    pub release: String,
    /// The deploy branch that it is cut from; develop where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A rollback, or a change to be landed again, as the annotation `towpath.dev/rollback` of an Environment holds it, as JSON.
/// Who asks stands in an annotation of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollbackAsk {
    /// A value that no other request has. The answer bears it.
    pub id: String,
    /// When it was asked. What was asked long ago is not done.
    pub at: Timestamp,
    /// Why. It stands in the commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The digest of the preview that somebody has agreed to. Without it there is a preview and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
    /// What is wanted.
    #[serde(default)]
    pub wish: Wish,
}

/// With this begins the id of a rollback that the agent began or prepared by itself.
pub const BY_ITSELF: &str = "auto-";

/// What the agent found out by itself about going back from what runs: a rollback that waits for a person, or why there is
/// none (`Refused`). What it found out about an earlier revision counts no more.
pub fn prepared_by_itself(status: &EnvironmentStatus) -> Option<&RollbackStatus> {
    let prepared = status.prepared.as_ref().filter(|prepared| prepared.id.starts_with(BY_ITSELF))?;
    let runs = status.running.as_ref().map(|running| running.revision.as_str());
    let goes_to = status.sync.as_ref().map(|sync| sync.revision.as_str());
    let from = prepared.from.as_deref();
    (from.is_none() || from == runs || from == goes_to).then_some(prepared)
}

impl RollbackAsk {
    /// Whether it has an id, and nothing of what is copied from it is longer than it need be.
    pub fn is_short(&self) -> bool {
        const MAX_CHARACTERS: usize = 200;
        let Wish { to, ticket, reland, .. } = &self.wish;
        let texts = [Some(&self.id), self.confirm.as_ref(), to.as_ref(), ticket.as_ref(), reland.as_ref()];
        !self.id.is_empty() && texts.into_iter().flatten().all(|text| text.chars().count() <= MAX_CHARACTERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_prepared_for_another_revision_counts_no_more() {
        let status = |id: &str, from: &str, runs: &str| {
            let prepared = RollbackStatus { id: id.into(), from: Some(from.into()), ..RollbackStatus::default() };
            let running = serde_json::from_value(serde_json::json!({"revision": runs})).unwrap();
            EnvironmentStatus { prepared: Some(prepared), running: Some(running), ..EnvironmentStatus::default() }
        };
        assert!(prepared_by_itself(&status("auto-1", "master@sha1:1", "master@sha1:1")).is_some());
        assert!(prepared_by_itself(&status("auto-1", "master@sha1:1", "master@sha1:2")).is_none());
        assert!(prepared_by_itself(&status("r-1", "master@sha1:1", "master@sha1:1")).is_none(), "somebody only looked");
    }

    #[test]
    fn a_request_is_plain_json() {
        let text = r#"{"id":"a-1","at":"2026-01-05T09:00:00Z","by":"robin","bump":{"lane":"r1.2","component":"web","to":"v1.3"}}"#;
        let ask: Ask = serde_json::from_str(text).unwrap();
        assert!(matches!(&ask.what, What::Bump(bump) if bump.lane == "r1.2"));
        assert_eq!(serde_json::to_string(&ask).unwrap(), text);
        let cut: Ask =
            serde_json::from_str(r#"{"id":"a-2","at":"2026-01-05T09:00:00Z","dryRun":true,"cut":{"release":"r1.3"}}"#)
                .unwrap();
        assert!(cut.dry_run && matches!(cut.what, What::Cut(_)));
        for bad in [
            r#"{"id":"a","at":"2026-01-05T09:00:00Z"}"#,
            r#"{"id":"a","at":"2026-01-05T09:00:00Z","bump":{"lane":"x","force":true}}"#,
            r#"{"bump":{"lane":"x"}}"#,
        ] {
            assert!(serde_json::from_str::<Ask>(bad).is_err(), "{bad}");
        }
    }
}
