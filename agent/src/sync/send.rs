//! Sending one object: whom it takes fields from, whom it leaves some to, and what cannot be changed.
//!
//! Most objects are nobody else's, and one request is all. It is not forced at first: where another manager owns a field
//! that would change, the server says so, and only then is the object read. What others have is taken over, left to
//! them, or taken by force; whatever was taken is named by field and manager.

use serde_json::{Map, Value};
use towpath_core::fault::Problem;
use towpath_core::fingerprint::{self, FieldPath};
use towpath_core::left::{self, Left};
use towpath_core::owners;
use towpath_core::plan::{Action, Step, Why};
use towpath_core::policy::Desired;
use towpath_core::status::{Notice, NoticeKind};

use super::{Pass, autoscale, replace};
use crate::cluster::{AccountClient, Applied, Kind, Kinds, Refusal};

/// How sending one object ended.
pub(super) enum Sent<'a> {
    /// It is as git says.
    Done(&'a Step, Box<Done>),
    /// It is not touched any more in this pass, and goes on at the next look.
    Waits(Problem, Vec<Notice>),
    /// It could not be sent.
    Failed(Problem),
    /// Something newer came first.
    Overtaken,
}

/// What was done with one object.
pub(super) struct Done {
    pub(super) applied: Applied,
    /// What had drifted, in words.
    pub(super) drift: Option<String>,
    /// Whether this undid what somebody else did.
    pub(super) is_correction: bool,
    pub(super) notices: Vec<Notice>,
    /// Who else owns what of it now.
    pub(super) others: u64,
    /// The fields that are left to somebody else.
    pub(super) left: Vec<Left>,
    /// Fields that git dropped and that stay.
    pub(super) staying: Vec<String>,
}

/// Sends one object.
pub(super) async fn send<'a>(
    pass: &Pass<'_>,
    account: &AccountClient,
    object: &Desired,
    step: &'a Step,
    kinds: &Kinds,
) -> Sent<'a> {
    if (pass.overtaken)() {
        return Sent::Overtaken;
    }
    let Some(kind) = kinds.get(&object.api_version, &object.key.kind) else {
        return Sent::Failed(
            Problem::passing(format!("the cluster does not serve {} {} yet", object.api_version, object.key.kind))
                .at(object.source.clone()),
        );
    };
    let mut before = None;
    if step.is_looked_at {
        before = match account.read(kind, &object.key).await {
            Ok(found) => found,
            Err(problem) => return Sent::Failed(problem.at(object.source.clone())),
        };
    }
    if before.is_none() {
        match account.send(kind, object, &object.body(), false, false).await {
            Ok((applied, _)) => return Sent::Done(step, Box::new(Done::simply(applied, step))),
            Err(refused) if refused.why != Refusal::Conflict => {
                return replace::or_fail(pass, account, object, step, kind, refused).await;
            }
            Err(refused) if step.action == Action::Create => {
                // Somebody made it a moment ago. The next look says whose it is.
                return Sent::Failed(Problem { fault: towpath_core::fault::Fault::Passing, ..refused.problem });
            }
            Err(_) => {}
        }
        before = match account.read(kind, &object.key).await {
            Ok(Some(found)) => Some(found),
            Ok(None) => {
                let problem = Problem::passing(format!("{} went away while it was applied", object.key));
                return Sent::Failed(problem.at(object.source.clone()));
            }
            Err(problem) => return Sent::Failed(problem.at(object.source.clone())),
        };
    }
    let before = before.expect("it was read just now");
    among_others(pass, account, object, step, (kind, kinds), before).await
}

/// Sends an object in which others have their hands.
async fn among_others<'a>(
    pass: &Pass<'_>,
    account: &AccountClient,
    object: &Desired,
    step: &'a Step,
    (kind, kinds): (&Kind, &Kinds),
    mut before: Value,
) -> Sent<'a> {
    let key = &object.key;
    let is_adopted = step.action == Action::Configure(Why::Adopted);
    let mut taken = Vec::new();
    let found = Around::of(pass, account, object, step, kinds, &before).await;
    let drift = drift(step, &found.body, &before);
    if let Some(take_over) = owners::take_over(&before, &pass.environment.take_over, is_adopted) {
        before = match account.json_patch(kind, key, &take_over.patch).await {
            Ok(patched) => patched,
            Err(problem) => return Sent::Failed(problem.at(object.source.clone())),
        };
        taken = take_over.taken;
    }
    let (applied, after) = match account.send(kind, object, &found.body, true, false).await {
        Ok(sent) => sent,
        Err(refused) => return replace::or_fail(pass, account, object, step, kind, refused).await,
    };
    if drift.is_none() {
        // What was changed by hand and is mended is told as drift.
        taken.extend(owners::taken(&before, &after));
    }
    let left: Vec<FieldPath> = found.left.iter().map(|left| left.path.clone()).collect();
    let staying = owners::staying(&before, &after, &left);
    let notice = |kind, message: &String| Notice { kind, object: key.to_string(), message: message.clone() };
    let notices = taken.iter().map(|text| notice(NoticeKind::TookOver, text));
    let notices = notices.chain(staying.iter().map(|text| notice(NoticeKind::FieldStays, text))).collect();
    let is_correction = drift.is_some() || step.action == Action::Configure(Why::CoOwned);
    let (left, others) = (found.left, fingerprint::others(&after));
    Sent::Done(step, Box::new(Done { applied, drift, is_correction, notices, others, left, staying }))
}

/// What is sent of an object, given who else writes into it.
pub(super) struct Around {
    pub(super) body: Map<String, Value>,
    pub(super) left: Vec<Left>,
}

impl Around {
    /// Decides what is left to whom.
    pub(super) async fn of(
        pass: &Pass<'_>,
        account: &AccountClient,
        object: &Desired,
        step: &Step,
        kinds: &Kinds,
        before: &Value,
    ) -> Around {
        let body = object.body();
        let has_replicas = body.get("spec").is_some_and(|spec| spec.get("replicas").is_some());
        let is_autoscaled = has_replicas
            && (step.is_autoscaled
                || (left::scaler(before).is_some() && autoscale::is_target(account, kinds, &object.key).await));
        let facts = left::Facts { key: &object.key, rules: &pass.environment.ignore, is_autoscaled };
        let (body, left) = left::left(&body, before, &facts);
        Around { body, left }
    }
}

impl Done {
    /// Of an object in which nobody else has anything.
    pub(super) fn simply(applied: Applied, step: &Step) -> Done {
        // It was read and not there, or it was found to be gone.
        let drift = matches!(step.action, Action::Configure(Why::Drifted | Why::Disowned));
        let drift = drift.then(|| "it was deleted".to_owned());
        let is_correction = drift.is_some();
        Done { applied, drift, is_correction, notices: Vec::new(), others: 0, left: Vec::new(), staying: Vec::new() }
    }
}

/// What of an object had been changed by others, beside what is left to them.
fn drift(step: &Step, body: &Map<String, Value>, found: &Value) -> Option<String> {
    match step.action {
        Action::Configure(Why::Drifted) => describe(body, found),
        Action::Configure(Why::Disowned) => Some("our label or our ownership of its fields was gone".to_owned()),
        _ => None,
    }
}

/// Which fields differ, and whose they are now. Values are left out: a Secret has some.
fn describe(body: &Map<String, Value>, found: &Value) -> Option<String> {
    let Some(found_ours) = fingerprint::project(found) else {
        return Some("none of its fields is ours any longer".to_owned());
    };
    let paths = fingerprint::differences(&fingerprint::expected(body), &found_ours);
    if paths.is_empty() {
        return None;
    }
    let culprits = fingerprint::other_owners(found, &paths);
    if culprits.is_empty() {
        return Some("it differed from git".to_owned());
    }
    let lines: Vec<String> =
        culprits.iter().take(5).map(|culprit| format!("{} changed by {}", culprit.path, culprit.manager)).collect();
    Some(lines.join(", "))
}
