//! The status of a custom resource, as it is here and as it may be in the cluster.

use std::ops::Deref;
use std::time::Duration;

use kube::Resource;
use kube::core::NamespaceResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Id, Settings};
use crate::cluster::Cluster;

/// How soon a status that could not be written is written again.
const UNWRITTEN: Duration = Duration::from_secs(5);

/// A status that is written where it says something new. It reads like the status itself.
pub(super) struct Kept<S> {
    status: S,
    written: Written,
    /// Whether the status in the cluster is the one here.
    is_written: bool,
}

impl<S: Clone + Default + PartialEq + Serialize> Kept<S> {
    /// The status as it was found in the cluster.
    pub(super) fn found(status: Option<&S>) -> Kept<S> {
        let written = Written::new(&status);
        Kept { status: status.cloned().unwrap_or_default(), written, is_written: status.is_some() }
    }

    /// Whether the status in the cluster is the one here.
    pub(super) fn is_written(&self) -> bool {
        self.is_written
    }

    /// Whether there is nothing to write.
    pub(super) fn is(&self, next: &S) -> bool {
        self.is_written && self.status == *next
    }

    /// Writes a status. Where that fails it holds here all the same: what a sync has begun is not forgotten because the
    /// server is away. It is written with the next pass, which comes soon ([`Kept::pause`]).
    pub(super) async fn write<K>(&mut self, cluster: &Cluster, (namespace, name): &Id, next: S)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let patch = self.written.patch(&next);
        let written = cluster.patch_status::<K>(namespace, name, &patch).await;
        self.is_written = written.is_ok();
        match written {
            Ok(()) => self.written = Written::new(&next),
            Err(problem) => {
                self.written.maybe(&next);
                tracing::warn!(kind = %K::kind(&()), name, %problem, "the status was not written");
            }
        }
        self.status = next;
    }

    /// The time until the next pass: a shorter one where the status could not be written.
    pub(super) fn pause(&self, pause: Duration, settings: &Settings) -> Duration {
        if self.is_written { pause } else { pause.min(settings.scaled(UNWRITTEN)) }
    }
}

impl<S> Deref for Kept<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.status
    }
}

/// The fields of a status that may be in the cluster. A merge patch must name those that are no longer there, also those
/// of a write that was not answered: it may have been done.
///
/// Kept as JSON text, which takes a fraction of the memory of its tree.
struct Written(Box<str>);

impl Written {
    fn new(status: &impl Serialize) -> Written {
        Written::of(&status_value(status))
    }

    fn of(fields: &Value) -> Written {
        Written(fields.to_string().into())
    }

    fn fields(&self) -> Value {
        serde_json::from_str(&self.0).expect("it was written as JSON")
    }

    /// The merge patch that makes the status what it should be.
    fn patch(&self, next: &impl Serialize) -> Value {
        let mut next = status_value(next);
        name_what_is_gone(&self.fields(), &mut next);
        next
    }

    /// It was tried to write this, and nobody knows whether it was done.
    fn maybe(&mut self, next: &impl Serialize) {
        let mut both = status_value(next);
        add_fields(&self.fields(), &mut both);
        *self = Written::of(&both);
    }
}

fn status_value(status: &impl Serialize) -> Value {
    serde_json::to_value(status).expect("a status can always be written as JSON")
}

/// Writes a null for every field that was there before and is no longer.
fn name_what_is_gone(before: &Value, next: &mut Value) {
    let (Some(before), Some(next)) = (before.as_object(), next.as_object_mut()) else { return };
    for (name, value) in before {
        name_what_is_gone(value, next.entry(name.clone()).or_insert(Value::Null));
    }
}

/// Adds the fields that another status has besides.
fn add_fields(from: &Value, to: &mut Value) {
    let (Some(from), Some(to)) = (from.as_object(), to.as_object_mut()) else { return };
    for (name, value) in from {
        match to.get_mut(name) {
            Some(known) if known.is_object() => add_fields(value, known),
            Some(known) if value.is_object() => *known = value.clone(),
            Some(_) => {}
            None => drop(to.insert(name.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_takes_out_what_is_gone_also_what_only_may_have_been_written() {
        let mut written = Written::new(&json!({"state": "Synced", "running": {"revision": "a", "subject": "s"}}));
        let next = json!({"state": "OutOfSync", "running": {"revision": "b"}});
        assert_eq!(written.patch(&next), json!({"state": "OutOfSync", "running": {"revision": "b", "subject": null}}));
        written.maybe(&json!({"state": "OutOfSync", "unhealthy": [1], "drift": {"object": "o"}}));
        assert_eq!(
            written.patch(&next),
            json!({
                "state": "OutOfSync", "running": {"revision": "b", "subject": null},
                "unhealthy": null, "drift": null,
            })
        );
        assert_eq!(Written::new(&next).patch(&next), next);
    }
}
