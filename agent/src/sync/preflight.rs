//! The dry run before the first write: everything that would change, so that everything that is refused is said at once.
//!
//! What needs a namespace, a definition or a role that this very plan brings cannot be tried at first. Once the
//! namespaces and definitions are there, it is tried before anything else is written.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use towpath_core::course::Wave;
use towpath_core::environment::Preflight;
use towpath_core::fault::{Fault, Problem};
use towpath_core::plan::{Action, Plan, Step};
use towpath_core::policy::{Cleared, Desired};
use towpath_core::scope::defined_kind;

use super::{CONCURRENCY, Pass, replace};
use crate::cluster::{AccountClient, Kinds};

/// How long the API server may take until it judges by a definition that was just changed.
const SCHEMA_WITHIN: Duration = Duration::from_secs(5);

/// What is tried: a step of the plan, or the Job of a hook.
type Trial<'a> = (&'a Desired, Option<&'a Step>);

/// A dry run in two stages.
pub(super) struct Rehearsal<'a> {
    at_once: Vec<Trial<'a>>,
    later: Vec<Trial<'a>>,
    ground: Vec<String>,
}

impl<'a> Rehearsal<'a> {
    /// Sorts what would be sent by when it can be tried. One object alone is not tried: it is sent for good at once, and
    /// its own answer comes as early. `jobs` are those of hooks that were not begun. What was tried in an earlier pass
    /// of the same sync (`is_done`) is not tried again.
    pub(super) fn new(
        pass: &Pass,
        desired: &'a Cleared,
        plan: &'a Plan,
        jobs: &'a [Desired],
        is_done: bool,
    ) -> Rehearsal<'a> {
        let writes: Vec<&'a Step> = plan.writes().collect();
        let mut rehearsal = Rehearsal { at_once: Vec::new(), later: Vec::new(), ground: Vec::new() };
        if is_done || pass.environment.preflight == Preflight::Never || writes.len() + jobs.len() < 2 {
            return rehearsal;
        }
        let brought = Brought::by(desired, &writes);
        let steps = writes.iter().map(|step| (&*desired.objects()[step.index], Some(*step)));
        for trial in steps.chain(jobs.iter().map(|job| (job, None))) {
            match brought.needed_by(trial.0) {
                Need::Nothing => rehearsal.at_once.push(trial),
                Need::Ground => rehearsal.later.push(trial),
                Need::Untriable => {}
            }
        }
        let is_ground = |step: &&&Step| step.wave == Wave::Ground;
        rehearsal.ground = writes.iter().filter(is_ground).map(|step| step.key.to_string()).collect();
        rehearsal
    }

    /// Tries what can be tried before anything is written. Gives everything that was refused.
    pub(super) async fn first(&self, account: &AccountClient, kinds: &Kinds) -> Vec<Problem> {
        try_all(&self.at_once, account, kinds).await
    }

    /// What is tried when namespaces and definitions are there.
    pub(super) fn later(&self) -> Vec<&'a Desired> {
        self.later.iter().map(|(object, _)| *object).collect()
    }

    /// What stands already when the rest is tried.
    pub(super) fn stands(&self) -> String {
        format!("made or changed before that, and kept: {}", self.ground.join(", "))
    }

    /// Tries the rest, when namespaces and definitions are there. Gives everything that was refused.
    pub(super) async fn second(&self, account: &AccountClient, kinds: &Kinds) -> Vec<Problem> {
        let deadline = Instant::now() + SCHEMA_WITHIN;
        loop {
            let refused = try_all(&self.later, account, kinds).await;
            let may_be_old = refused.iter().any(|problem| is_about_schema(problem) || problem.fault == Fault::Passing);
            if refused.is_empty() || !may_be_old || Instant::now() >= deadline {
                return refused;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn try_all(trials: &[Trial<'_>], account: &AccountClient, kinds: &Kinds) -> Vec<Problem> {
    let mut refused: Vec<Problem> = Vec::new();
    let mut trials = trials.iter().copied();
    let mut under_way = FuturesUnordered::new();
    loop {
        // Each is made when its turn comes: all at once would take more memory than what they send.
        while under_way.len() < CONCURRENCY
            && let Some((object, step)) = trials.next()
        {
            // A kind that nobody serves yet is waited for when its turn comes.
            let Some(kind) = kinds.get(&object.api_version, &object.key.kind) else { continue };
            under_way.push(match step {
                Some(step) => replace::denial(account, kind, object, step).boxed(),
                None => async move {
                    account.send(kind, object, &object.body(), false, true).await.err().map(|refused| refused.problem)
                }
                .boxed(),
            });
        }
        let Some(denial) = under_way.next().await else { break };
        refused.extend(denial);
    }
    refused.sort_by(|a, b| (&a.place, &a.message).cmp(&(&b.place, &b.message)));
    refused
}

/// Whether a refusal may come of a definition as it was before.
fn is_about_schema(problem: &Problem) -> bool {
    ["field not declared in schema", "unknown field", "could not find the requested resource"]
        .iter()
        .any(|said| problem.message.contains(said))
}

/// When an object can be tried.
enum Need {
    Nothing,
    /// When namespaces and definitions are there.
    Ground,
    /// Not before it is applied.
    Untriable,
}

/// What a plan makes or changes that others need.
#[derive(Default)]
struct Brought {
    namespaces: BTreeSet<String>,
    kinds: BTreeSet<(String, String)>,
    /// Namespaces and kinds that come with a wave of their own, and not before the second part of the dry run.
    late_namespaces: BTreeSet<String>,
    late_kinds: BTreeSet<(String, String)>,
    roles: BTreeSet<(String, Option<String>, String)>,
    accounts: BTreeSet<(Option<String>, String)>,
}

impl Brought {
    fn by(desired: &Cleared, writes: &[&Step]) -> Brought {
        let mut brought = Brought::default();
        for step in writes {
            let key = &step.key;
            let (is_new, is_late) = (step.action == Action::Create, step.wave != Wave::Ground);
            match (key.group.as_str(), key.kind.as_str()) {
                ("", "Namespace") if is_new && is_late => drop(brought.late_namespaces.insert(key.name.clone())),
                ("", "Namespace") if is_new => drop(brought.namespaces.insert(key.name.clone())),
                ("", "ServiceAccount") if is_new => {
                    brought.accounts.insert((key.namespace.clone(), key.name.clone()));
                }
                ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                    let body = desired.objects()[step.index].body();
                    let defined = defined_kind(&body);
                    let kinds = if is_late { &mut brought.late_kinds } else { &mut brought.kinds };
                    kinds.extend(defined.map(|(group, kind, _)| (group.to_owned(), kind.to_owned())));
                }
                ("rbac.authorization.k8s.io", kind @ ("Role" | "ClusterRole")) if is_new => {
                    brought.roles.insert((kind.to_owned(), key.namespace.clone(), key.name.clone()));
                }
                _ => {}
            }
        }
        brought
    }

    fn needed_by(&self, object: &Desired) -> Need {
        let key = &object.key;
        let text = |pointer: &str| {
            let body = Value::Object(object.body());
            body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        // A binding is refused where its role is not there, and a pod where its account is not.
        let is_untriable = match (key.group.as_str(), key.kind.as_str()) {
            ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") if !self.roles.is_empty() => {
                let kind = text("/roleRef/kind");
                let namespace = key.namespace.clone().filter(|_| kind == "Role");
                self.roles.contains(&(kind, namespace, text("/roleRef/name")))
            }
            ("", "Pod") if !self.accounts.is_empty() => {
                self.accounts.contains(&(key.namespace.clone(), text("/spec/serviceAccountName")))
            }
            _ => false,
        };
        let kind = (key.group.clone(), key.kind.clone());
        let is_of_late = key.namespace.as_ref().is_some_and(|namespace| self.late_namespaces.contains(namespace))
            || self.late_kinds.contains(&kind);
        let lives_in_new = key.namespace.as_ref().is_some_and(|namespace| self.namespaces.contains(namespace));
        match () {
            () if is_untriable || is_of_late => Need::Untriable,
            () if lives_in_new || self.kinds.contains(&kind) => Need::Ground,
            () => Need::Nothing,
        }
    }
}
