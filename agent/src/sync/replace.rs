//! Objects with a field that cannot be changed: deleted and created again, where git says that this may be done.
//!
//! Before anything is deleted, the new object is tried as a dry run under another name, through the same admission.
//! What depends on the name, and what the old object holds as long as it is there (addresses, node ports, its part of
//! a quota), cannot be tried so. The pass does not wait until the old object is gone: the next one creates what is
//! missing, and so does an agent that was killed in between.

use serde_json::Value;
use sha2::{Digest, Sha256};
use towpath_core::fault::Problem;
use towpath_core::fingerprint;
use towpath_core::manifest::is_protected;
use towpath_core::names::{ENVIRONMENT_LABEL, PART_OF_LABEL};
use towpath_core::plan::{Action, Step, Why};
use towpath_core::policy::{self, Desired};
use towpath_core::status::{Notice, NoticeKind};

use super::Pass;
use super::send::{Done, Sent};
use crate::cluster::{AccountClient, Deleted, Kind, Propagation, Refusal, Refused};

/// Whether a refused change may end in replacing the object.
fn may_replace(object: &Desired, step: &Step, refused: &Refused) -> bool {
    // What is only being adopted was never ours to delete.
    let is_ours = matches!(step.action, Action::Configure(why) if why != Why::Adopted);
    let cannot_change = matches!(refused.why, Refusal::Immutable | Refusal::Invalid);
    object.replace && is_ours && cannot_change && !is_protected(&object.key)
}

/// What a dry run has against an object. A change that is refused although the new object would be taken is none, where
/// the object may be replaced.
pub(super) async fn denial(account: &AccountClient, kind: &Kind, object: &Desired, step: &Step) -> Option<Problem> {
    let refused = account.send(kind, object, &object.body(), true, true).await.err()?;
    if !may_replace(object, step, &refused) {
        return Some(refused.problem);
    }
    could_stand(account, kind, object).await.err().map(|problem| merged(refused, &problem))
}

/// Replaces an object that the server refused to change, or gives the refusal back.
pub(super) async fn or_fail<'a>(
    pass: &Pass<'_>,
    account: &AccountClient,
    object: &Desired,
    step: &'a Step,
    kind: &Kind,
    refused: Refused,
) -> Sent<'a> {
    if !may_replace(object, step, &refused) {
        return Sent::Failed(refused.problem);
    }
    let key = &object.key;
    let found = match account.read(kind, key).await {
        Ok(found) => found,
        Err(problem) => return Sent::Failed(problem.at(object.source.clone())),
    };
    let waits = |text: &str, notices| Sent::Waits(Problem::passing(format!("{key} {text}")), notices);
    let Some(found) = found else { return waits("is gone: it is created at the next look", Vec::new()) };
    let Some(uid) = uid_of_ours(pass, &found) else {
        return Sent::Failed(refused.problem.hint("it is not ours alone, so it is not replaced: delete it by hand"));
    };
    if let Err(problem) = could_stand(account, kind, object).await {
        return Sent::Failed(merged(refused, &problem));
    }
    if (pass.overtaken)() {
        return Sent::Overtaken;
    }
    let deleted = match account.delete_as(kind, key, uid, propagation(&key.kind)).await {
        Ok(deleted) => deleted,
        Err(problem) => return Sent::Failed(problem.at(object.source.clone())),
    };
    let message = format!("deleted, to be created again: {}", refused.problem.message);
    let notices = vec![Notice { kind: NoticeKind::Replaced, object: key.to_string(), message }];
    if deleted != Deleted::Gone {
        return waits("is being deleted: it is created again when it is gone", notices);
    }
    match account.send(kind, object, &object.body(), false, false).await {
        Ok((applied, _)) => {
            let done = Done { drift: None, is_correction: false, notices, ..Done::simply(applied, step) };
            Sent::Done(step, Box::new(done))
        }
        Err(refused) => Sent::Failed(refused.problem),
    }
}

/// Jobs and StatefulSets are waited out with their pods: a second migration beside the first, or two pods of one name,
/// would be worse than the pause.
fn propagation(kind: &str) -> Propagation {
    match kind {
        "Job" | "StatefulSet" => Propagation::Foreground,
        _ => Propagation::Background,
    }
}

/// The UID of an object with the three proofs that a deletion needs: our labels, our Apply entry, no controller.
fn uid_of_ours<'a>(pass: &Pass<'_>, found: &'a Value) -> Option<&'a str> {
    let metadata = &found["metadata"];
    let is_labelled = metadata["labels"][ENVIRONMENT_LABEL] == pass.environment.name.as_str()
        && metadata["labels"][PART_OF_LABEL] == policy::apply_set(pass.environment);
    let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let has_controller = owners.any(|owner| owner["controller"] == true);
    let is_ours = is_labelled && !has_controller && fingerprint::of_live(found).is_some();
    metadata["uid"].as_str().filter(|_| is_ours)
}

/// Asks whether the new object could be created, under another name because the old one still has its own.
async fn could_stand(account: &AccountClient, kind: &Kind, object: &Desired) -> Result<(), Problem> {
    let mut body = Value::Object(object.body());
    body["metadata"]["name"] = trial_name(&object.key.name).into();
    if object.key.group.is_empty() && object.key.kind == "Service" {
        // The old one holds them.
        if let Some(spec) = body["spec"].as_object_mut() {
            for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
                if spec.get(field).is_some_and(|value| value != "None" && *value != serde_json::json!(["None"])) {
                    spec.remove(field);
                }
            }
            for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
        }
    }
    account.could_create(kind, &object.key, &body).await
}

/// A name that nobody else has, as long as names may be that become a label (63 characters).
fn trial_name(name: &str) -> String {
    let hash = hex::encode(&Sha256::digest(name)[..4]);
    let short: String = name.chars().take(46).collect();
    format!("{}-trial-{hash}", short.trim_end_matches(['-', '.']))
}

fn merged(refused: Refused, against: &Problem) -> Problem {
    let message = format!(
        "{}; it is not replaced, because the new one would be refused: {}",
        refused.problem.message, against.message
    );
    Problem { message, hint: against.hint.clone(), fault: against.fault, ..refused.problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_name_fits_where_names_become_labels() {
        assert_eq!(trial_name("migrate"), format!("migrate-trial-{}", hex::encode(&Sha256::digest("migrate")[..4])));
        let long = trial_name(&"a-".repeat(100));
        assert!(long.len() <= 63 && !long.contains("--"), "{long}");
        assert_ne!(trial_name(&"a".repeat(60)), trial_name(&"a".repeat(61)));
    }
}
