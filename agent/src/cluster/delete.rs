//! Deleting workloads as an environment's account: only what was meant, as it was when that was decided.

use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};
use towpath_core::fault::Problem;
use towpath_core::manifest::ObjectKey;
use towpath_core::names::EnvironmentName;
use towpath_core::plan::{Row, Terminating};

use super::call::{self, Answer, CALL_DEADLINE, Failure};
use super::live::terminating;
use super::send::Propagation;
use super::{AccountClient, Kind};
use crate::seeded;

/// The answer to a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone: the API server said so.
    Gone,
    /// It is on its way; a finalizer or its children hold it.
    Pending(Box<Terminating>),
    /// Another object stands there under its name; that one was not touched.
    Replaced,
    /// It is there, and was changed since its deletion was decided, or is changed all the time: that has to be decided
    /// anew.
    Changed,
}

/// How often a deletion is sent for an object that others change meanwhile, such as by its status.
const TRIES: u32 = 5;

impl AccountClient {
    /// Deletes one object that left git and carries this label, as it was when that was decided. What was read then may be
    /// old: so the deletion is for the newest version that is known and that it may be decided of alike; and where there is
    /// another one by now, that is read, and judged by the same proofs.
    ///
    /// # Errors
    /// When the server refuses or does not answer; the object is then still a member.
    pub async fn delete(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        label: &EnvironmentName,
        decided_on: &Row,
    ) -> Result<Deleted, Problem> {
        let known = &decided_on.seen;
        let newer = |row: &Row| row.version > decided_on.version && row.seen.may_still_go(known);
        let mut version = self.live.get(label, key).filter(newer).map_or(decided_on.version, |row| row.version);
        for _ in 0..TRIES {
            let sent = self.send_deletion(kind, key, &known.uid, Some(version), Propagation::Background).await;
            let conflict = match sent {
                Err(failure) if failure.is_conflict() => failure,
                sent => return self.deleted(kind, key, &known.uid, sent).await,
            };
            let found = match self.read(kind, key).await? {
                None => return Ok(self.gone(key, &known.uid)),
                Some(found) if found["metadata"]["uid"] != known.uid => return Ok(Deleted::Replaced),
                Some(found) => found,
            };
            if let Some(pending) = self.on_its_way(&found) {
                return Ok(pending);
            }
            let Some(reading) = self.live.read(&found, Timestamp::now()) else { return Ok(Deleted::Changed) };
            if reading.version == version {
                // It is the version that was to be deleted: somebody else said no.
                return Err(self.problem(&conflict, key));
            }
            version = reading.version;
            let is_labelled = reading.environment.as_deref() == Some(label.as_str());
            let may_go = is_labelled && reading.seen.may_still_go(known);
            if !is_labelled {
                self.live.gone(label.as_str(), key, version);
            }
            self.live.put(reading);
            if !may_go {
                break;
            }
        }
        Ok(Deleted::Changed)
    }

    /// Deletes one object if it still has this UID, and says what becomes of what it owns.
    ///
    /// # Errors
    /// When the server refuses or does not answer; the object is then still a member.
    pub async fn delete_as(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        uid: &str,
        propagation: Propagation,
    ) -> Result<Deleted, Problem> {
        let sent = self.send_deletion(kind, key, uid, None, propagation).await;
        self.deleted(kind, key, uid, sent).await
    }

    async fn send_deletion(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        uid: &str,
        version: Option<u64>,
        propagation: Propagation,
    ) -> Result<Answer, Failure> {
        let mut options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": format!("{propagation:?}"),
        });
        if let Some(version) = version.filter(|version| *version > 0) {
            options["preconditions"]["resourceVersion"] = version.to_string().into();
        }
        if seeded::has("delete-without-uid") {
            options["preconditions"] = json!({});
        }
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(kind.path(key.namespace.as_deref(), Some(&key.name)))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(options.to_string().into_bytes())
            .expect("the parts of the path are names that were checked");
        call::repeatable(&self.client, &self.permits, CALL_DEADLINE, &request).await
    }

    /// What the answer to a deletion means.
    async fn deleted(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        uid: &str,
        sent: Result<Answer, Failure>,
    ) -> Result<Deleted, Problem> {
        match sent {
            Err(failure) if failure.is_not_found() => Ok(self.gone(key, uid)),
            // Another UID is one conflict of several: a webhook may answer so, and a Namespace on its way out does.
            Err(failure) if failure.is_conflict() => match self.read(kind, key).await? {
                None => Ok(self.gone(key, uid)),
                Some(found) if found["metadata"]["uid"] != uid => Ok(Deleted::Replaced),
                Some(found) => self.on_its_way(&found).ok_or_else(|| self.problem(&failure, key)),
            },
            Err(failure) => Err(self.problem(&failure, key)),
            // The object comes back while finalizers hold it; else a Status says that it is gone.
            Ok(answer) if answer.body.pointer("/metadata/uid").is_some() => {
                Ok(self.on_its_way(&answer.body).unwrap_or_else(|| self.gone(key, uid)))
            }
            Ok(_) => Ok(self.gone(key, uid)),
        }
    }

    /// The server said that it is gone: no watch need tell of it.
    fn gone(&self, key: &ObjectKey, uid: &str) -> Deleted {
        self.live.absent(key, uid);
        Deleted::Gone
    }

    /// What holds an object that is being deleted; `None` for one that is not.
    fn on_its_way(&self, object: &Value) -> Option<Deleted> {
        let terminating = terminating(&object["metadata"])?;
        if let Some(reading) = self.live.read(object, Timestamp::now()) {
            self.live.put(reading);
        }
        Some(Deleted::Pending(terminating))
    }
}
