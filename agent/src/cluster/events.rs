//! Kubernetes Events about our own custom resources.
//!
//! Most are sent one after the other beside the passes, and nobody waits for them: what they say stands in the status,
//! too.

use std::sync::OnceLock;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;
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
/// Events that may wait to be sent. What comes beyond it is only logged.
const MAX_WAITING: usize = 2000;

/// An Event, and what it is about.
type Waiting = (Event, ObjectReference);

/// Where Events wait. Their task begins with the first one, and ends with the last copy of the [`Cluster`].
#[derive(Default)]
pub(super) struct Events(OnceLock<mpsc::Sender<Waiting>>);

impl Cluster {
    /// Has an Event published. One that cannot be is only logged.
    pub fn event<K>(&self, about: &K, severity: Severity, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let queue = self.events.0.get_or_init(|| {
            let (sender, waiting) = mpsc::channel(MAX_WAITING);
            tokio::spawn(publish_all(self.own_client(), waiting));
            sender
        });
        if let Err(error) = queue.try_send((event(severity, reason, note), about.object_ref(&()))) {
            let (event, about) = error.into_inner();
            not_published("too many are waiting", &event, &about);
        }
    }

    /// Publishes an Event, and waits until it is: for what nothing else says. One that cannot be published is logged.
    pub async fn event_first<K>(&self, about: &K, severity: Severity, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        publish(self.own_client(), event(severity, reason, note), about.object_ref(&())).await;
    }
}

fn event(severity: Severity, reason: &str, note: &str) -> Event {
    let mut note = clean_line(note, MAX_NOTE);
    while note.len() > MAX_NOTE {
        note.pop();
    }
    Event {
        type_: match severity {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        },
        reason: reason.to_owned(),
        note: Some(note),
        action: "Sync".to_owned(),
        secondary: None,
    }
}

async fn publish_all(client: Client, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some((event, about)) = waiting.recv().await {
        publish(client.clone(), event, about).await;
    }
}

async fn publish(client: Client, event: Event, about: ObjectReference) {
    let recorder = Recorder::new(client, Reporter { controller: "towpath".into(), instance: None });
    match tokio::time::timeout(CALL_DEADLINE, recorder.publish(&event, &about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => not_published(&error.to_string(), &event, &about),
        Err(_) => not_published("no answer in time", &event, &about),
    }
}

fn not_published(error: &str, event: &Event, about: &ObjectReference) {
    tracing::warn!(error, about = about.name, reason = event.reason, "an Event was not published");
}
