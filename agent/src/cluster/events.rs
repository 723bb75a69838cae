//! Kubernetes Events about our own custom resources.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Resource, ResourceExt};
use towpath_core::revision::clean_line;

use super::Cluster;
use super::call::CALL_DEADLINE;

/// How an Event is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Bytes that the note of an Event may have.
const MAX_NOTE: usize = 1000;

impl Cluster {
    /// Publishes an Event. One that cannot be published is only logged: what it says stands in the status, too.
    pub async fn event<K>(&self, about: &K, severity: Severity, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let recorder = Recorder::new(self.own_client(), Reporter { controller: "towpath".into(), instance: None });
        let mut note = clean_line(note, MAX_NOTE);
        while note.len() > MAX_NOTE {
            note.pop();
        }
        let event = Event {
            type_: match severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: reason.to_owned(),
            note: Some(note),
            action: "Sync".to_owned(),
            secondary: None,
        };
        let reference: ObjectReference = about.object_ref(&());
        let error = match tokio::time::timeout(CALL_DEADLINE, recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(error, about = about.name_any(), reason, "an Event was not published");
    }
}
