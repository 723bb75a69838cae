//! One write to one object, and why the server did not take it.

use http::{Method, Request};
use jiff::Timestamp;
use kube::core::Status;
use serde::Serialize;
use serde_json::{Map, Value};
use towpath_core::fault::Problem;
use towpath_core::manifest::{ObjectKey, is_protected};
use towpath_core::names::FIELD_MANAGER;
use towpath_core::plan::Known;
use towpath_core::policy::Desired;

use super::call::{self, Answer, CALL_DEADLINE, Failure};
use super::objects::{Applied, Outcome};
use super::{AccountClient, Kind};

/// What becomes of what a deleted object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes at once, and what it owns after it.
    Background,
    /// The object stays, on its way out, until what it owns is gone.
    Foreground,
}

/// Why the server refused a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another manager owns a field that would change; the write was not forced.
    Conflict,
    /// A field cannot be changed once it is set.
    Immutable,
    /// The object, or this change of it, fits no rule of its kind.
    Invalid,
    /// Anything else.
    Other,
}

/// A write that was not taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Of what kind.
    pub why: Refusal,
    /// For people.
    pub problem: Problem,
}

impl AccountClient {
    /// Sends `body` as a server-side apply of an object under our field manager, and gives what was done and the object
    /// as it is now. Without `force` nothing is taken from another manager.
    ///
    /// # Errors
    /// [`Refused`], at the object's place in the repository.
    pub async fn send(
        &self,
        kind: &Kind,
        desired: &Desired,
        body: &Map<String, Value>,
        force: bool,
        dry_run: bool,
    ) -> Result<(Applied, Value), Refused> {
        let query = format!("fieldManager={FIELD_MANAGER}&force={force}&fieldValidation=Strict");
        let path = kind.path(desired.key.namespace.as_deref(), Some(&desired.key.name));
        let answer = self.write(Method::PATCH, &path, &query, "application/apply-patch+yaml", body, dry_run).await;
        let answer = answer.map_err(|failure| self.refused(&failure, desired))?;
        let outcome = if answer.status == http::StatusCode::CREATED { Outcome::Created } else { Outcome::Configured };
        let reading = self.live.read(&answer.body, Timestamp::now()).ok_or_else(|| {
            let problem = Problem::passing(format!("the answer to applying {} is no object", desired.key));
            Refused { why: Refusal::Other, problem: problem.at(desired.source.clone()) }
        })?;
        let uid = reading.seen.uid.clone();
        let known = reading.seen.fingerprint.map(|held| Known { sent: desired.fingerprint, held });
        if !dry_run {
            // The event of our own write may come before or after this answer; whichever is newer stays.
            self.live.put(reading);
        }
        Ok((Applied { outcome, uid, known }, answer.body))
    }

    /// Changes an object by a JSON patch (RFC 6902), and gives it as it is then. The patch must hold only for what was
    /// read, by a `test` of its own.
    ///
    /// # Errors
    /// When the server refuses it, or the object is another by now: `Passing`, for it is read again then.
    pub async fn json_patch(&self, kind: &Kind, key: &ObjectKey, patch: &Value) -> Result<Value, Problem> {
        let path = kind.path(key.namespace.as_deref(), Some(&key.name));
        let query = format!("fieldManager={FIELD_MANAGER}");
        match self.write(Method::PATCH, &path, &query, "application/json-patch+json", patch, false).await {
            Ok(answer) => Ok(answer.body),
            // A `test` that fails is answered so.
            Err(Failure::Refused(status)) if matches!(status.code, 409 | 422) => {
                Err(Problem::passing(format!("{key} was changed while it was taken over")))
            }
            Err(failure) => Err(self.problem(&failure, key)),
        }
    }

    /// Asks whether an object could be created, without creating it.
    ///
    /// # Errors
    /// What the server has against it.
    pub async fn could_create(&self, kind: &Kind, key: &ObjectKey, body: &Value) -> Result<(), Problem> {
        let path = kind.path(key.namespace.as_deref(), None);
        let query = format!("fieldManager={FIELD_MANAGER}&fieldValidation=Strict");
        let sent = self.write(Method::POST, &path, &query, "application/json", body, true).await;
        sent.map(drop).map_err(|failure| self.problem(&failure, key))
    }

    async fn write(
        &self,
        method: Method,
        path: &str,
        query: &str,
        content: &str,
        body: &impl Serialize,
        dry_run: bool,
    ) -> Result<Answer, Failure> {
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?{query}{dry_run}"))
            .header(http::header::CONTENT_TYPE, content)
            .header(http::header::ACCEPT, "application/json")
            .body(serde_json::to_vec(body).expect("a tree of JSON values can always be written"))
            .expect("the parts of the path are names that were checked");
        call::repeatable(&self.client, &self.permits, CALL_DEADLINE, &request).await
    }

    fn refused(&self, failure: &Failure, desired: &Desired) -> Refused {
        let key = &desired.key;
        let why = match failure {
            Failure::Refused(status) => refusal(status),
            Failure::NoAnswer(_) | Failure::NotSent(_) => Refusal::Other,
        };
        let mut problem = self.problem(failure, key);
        if let (Refusal::Immutable, Failure::Refused(status)) = (why, failure) {
            // The fields alone: what the server says holds the values, and for a pod template that is a page.
            problem.message = format!("{key}: {} cannot be changed once it is set", unchangeable(status).join(", "));
            problem = problem.hint(match () {
                () if is_protected(key) => "undo the change: what takes more with it than itself is never replaced",
                () => "undo the change, or annotate the manifest with towpath.dev/replace: \"true\" to have the object deleted and created again",
            });
        }
        Refused { why, problem: problem.at(desired.source.clone()) }
    }
}

fn refusal(status: &Status) -> Refusal {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let is_webhook = status.message.contains("admission webhook") || status.message.contains("calling webhook");
    match status.code {
        409 if causes.clone().any(|cause| cause.reason == "FieldManagerConflict") => Refusal::Conflict,
        422 if is_webhook => Refusal::Other,
        422 if !unchangeable(status).is_empty() => Refusal::Immutable,
        422 => Refusal::Invalid,
        _ => Refusal::Other,
    }
}

/// The fields that the server says cannot be changed. Kinds say it in words of their own.
fn unchangeable(status: &Status) -> Vec<&str> {
    const WORDS: [&str; 7] = [
        "field is immutable",
        "is immutable",
        "may not change once set",
        "may not be changed",
        "cannot change roleRef",
        "updates to statefulset spec",
        "are forbidden",
    ];
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let is_meant = |message: &str| {
        let is_update = !message.contains("are forbidden") || message.contains("updates to");
        is_update && WORDS.iter().any(|words| message.contains(words))
    };
    let mut fields: Vec<&str> =
        causes.filter(|cause| is_meant(&cause.message)).map(|cause| cause.field.as_str()).collect();
    fields.dedup();
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(code: u16, reason: &str, message: &str, field: &str) -> Status {
        let cause = json!({"reason": reason, "message": message, "field": field});
        serde_json::from_value(json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
            "reason": "Invalid", "details": {"name": "web", "causes": [cause]},
        }))
        .unwrap()
    }

    #[test]
    fn words_of_the_server_for_what_cannot_be_changed() {
        for (message, field) in [
            ("Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable", "spec.selector"),
            ("Invalid value: []string{\"10.0.0.9\"}: may not change once set", "spec.clusterIPs[0]"),
            ("Forbidden: updates to statefulset spec for fields other than 'replicas' are forbidden", "spec"),
            ("Invalid value: {}: cannot change roleRef", "roleRef"),
            ("Forbidden: updates to provisioner are forbidden.", "provisioner"),
            ("Forbidden: may not be changed in an update.", "value"),
            ("Forbidden: field is immutable when `immutable` is set", "data"),
        ] {
            let status = status(422, "FieldValueInvalid", message, field);
            assert_eq!((refusal(&status), unchangeable(&status)), (Refusal::Immutable, vec![field]), "{message}");
        }
        let plain = status(422, "FieldValueInvalid", "Invalid value: -1: must be greater than 0", "spec.replicas");
        assert_eq!(refusal(&plain), Refusal::Invalid);
        let webhook = status(422, "", "admission webhook \"x\" denied the request: it is immutable", "spec");
        assert_eq!(refusal(&webhook), Refusal::Other);
    }

    #[test]
    fn a_conflict_of_managers_is_told_from_other_conflicts() {
        let managers = status(409, "FieldManagerConflict", "conflict with \"kubectl\"", ".spec.replicas");
        assert_eq!(refusal(&managers), Refusal::Conflict);
        assert_eq!(refusal(&status(409, "", "the object has been modified", "")), Refusal::Other);
    }
}
