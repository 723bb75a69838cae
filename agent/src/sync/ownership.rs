//! What is remembered of other managers between passes, and what a pass does about them before and after it applies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use towpath_core::environment::DriftMode;
use towpath_core::fault::Problem;
use towpath_core::fights::{Fights, Pace};
use towpath_core::fingerprint;
use towpath_core::left::{Because, Left};
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Action, Known, Observed, Plan, Step, Wait, Why};
use towpath_core::policy::{Cleared, Desired};
use towpath_core::status::{Notice, NoticeKind};

use super::send::{Around, Done};
use super::{CONCURRENCY, Memory, Pass, Progress};
use crate::cluster::{AccountClient, Kinds};

/// What is remembered of other managers. None of it is truth.
pub(super) struct Ownership {
    /// Fields that are left to others, by object.
    pub(super) left: BTreeMap<ObjectKey, Vec<Left>>,
    /// Who owned what of those objects when that was decided ([`towpath_core::plan::Seen::others`]).
    pub(super) owners: BTreeMap<ObjectKey, u64>,
    /// What git dropped and others keep, by object.
    staying: BTreeMap<ObjectKey, Vec<String>>,
    fights: Fights,
    /// The targets of autoscalers, by namespace, and when they were listed.
    pub(super) autoscalers: HashMap<String, (Instant, BTreeSet<ObjectKey>)>,
    /// When the times of the fights began to be counted.
    since: Instant,
    look_at: Option<Instant>,
}

impl Default for Ownership {
    fn default() -> Self {
        Ownership {
            left: BTreeMap::new(),
            owners: BTreeMap::new(),
            staying: BTreeMap::new(),
            fights: Fights::default(),
            autoscalers: HashMap::new(),
            since: Instant::now(),
            look_at: None,
        }
    }
}

impl Ownership {
    /// Whether an autoscaler that was listed lately has an object for its target.
    fn is_target(&self, key: &ObjectKey) -> bool {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        self.autoscalers.get(namespace).is_some_and(|(_, targets)| targets.contains(key))
    }

    /// Asks for another pass within a time.
    pub(super) fn look_within(&mut self, time: Duration) {
        let at = Instant::now() + time;
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When another pass is needed although nothing wakes one.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Begins a pass.
    pub(super) fn begin(&mut self) {
        self.look_at = None;
    }

    /// Remembers what sending an object came to.
    pub(super) fn sent(&mut self, pass: &Pass<'_>, key: &ObjectKey, done: &mut Done) {
        remember(&mut self.left, key, std::mem::take(&mut done.left));
        self.owners.insert(key.clone(), done.others);
        remember(&mut self.staying, key, std::mem::take(&mut done.staying));
        if !done.is_correction {
            return;
        }
        let what = done.drift.clone().unwrap_or_else(|| {
            let taken: Vec<&str> = done.notices.iter().map(|notice| notice.message.as_str()).collect();
            taken.join(", ")
        });
        let pace = pace(pass);
        if self.fights.mended(key, self.since.elapsed(), &what, &pace) {
            let seconds = pace.spacing.as_secs_f64();
            let message = format!("contended: {what}; from now on it is mended at most every {seconds} s");
            done.notices.push(Notice { kind: NoticeKind::Contended, object: key.to_string(), message });
        }
    }
}

fn remember<T>(map: &mut BTreeMap<ObjectKey, Vec<T>>, key: &ObjectKey, values: Vec<T>) {
    match values.is_empty() {
        true => drop(map.remove(key)),
        false => drop(map.insert(key.clone(), values)),
    }
}

/// The times of a fight in this agent.
fn pace(pass: &Pass<'_>) -> Pace {
    let Pace { window, spacing, quiet } = Pace::default();
    let scale = pass.time_scale;
    Pace { window: window / scale, spacing: spacing / scale, quiet: quiet / scale }
}

/// Changes a plan by what is known of other managers: what is contended waits, and what is shared is read first.
pub(super) fn prepare(pass: &Pass<'_>, memory: &mut Memory, plan: &mut Plan) {
    let (now, pace) = (memory.ownership.since.elapsed(), pace(pass));
    for step in &mut plan.steps {
        let left = memory.ownership.left.get(&step.key);
        step.is_looked_at |= matches!(step.action, Action::Configure(_)) && left.is_some();
        // One that is not in git is asked for before a pass plans; where it is gone nothing is known of the object.
        let is_scaled = |left: &Vec<Left>| left.iter().any(|left| left.because == Because::Autoscaler);
        step.is_autoscaled |= left.is_some_and(is_scaled) && memory.ownership.is_target(&step.key);
        // What was there already and is to be made was deleted by somebody.
        let is_deleted = step.action == Action::Create && step.mends;
        let is_undone = matches!(step.action, Action::Configure(Why::Drifted | Why::Disowned | Why::CoOwned));
        if !is_deleted && !is_undone {
            memory.ownership.fights.rests(&step.key);
        } else if !memory.ownership.fights.may_mend(&step.key, now, &pace) {
            step.action = Action::Wait(Wait::Contended);
        }
    }
}

/// Where drift is only reported and no revision is new: finds out by a dry run whether what nobody remembers is as it
/// should be, so that a restart writes nothing.
pub(super) async fn prove(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    desired: &Cleared,
    observed: &Observed,
    kinds: &Kinds,
    plan: &mut Plan,
) -> Vec<Problem> {
    if pass.environment.drift != DriftMode::Report {
        return Vec::new();
    }
    let unproven = plan.steps.iter().enumerate();
    let unproven = unproven.filter(|(_, step)| step.action == Action::Configure(Why::Unproven));
    let mut tries = Vec::new();
    for (place, step) in unproven {
        let object = &desired.objects()[step.index];
        let found = observed.ours.get(&step.key).and_then(|seen| seen.fingerprint);
        tries.push(async move { (place, found, tried(pass, account, object, step, kinds).await) }.boxed());
    }
    let results: Vec<_> = futures::stream::iter(tries).buffer_unordered(CONCURRENCY).collect().await;
    let mut problems = Vec::new();
    for (place, found, result) in results {
        let step = &mut plan.steps[place];
        step.action = Action::Report;
        match result {
            Ok(Some((known, left))) => {
                // Remembered also where it differs: the next pass need not ask again.
                memory.known.insert(step.key.clone(), known);
                remember(&mut memory.ownership.left, &step.key, left);
                if let Some(seen) = observed.ours.get(&step.key) {
                    memory.ownership.owners.insert(step.key.clone(), seen.others);
                }
                if Some(known.held) == found {
                    step.action = Action::Leave;
                }
            }
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    problems
}

/// What we would own of an object after an apply.
async fn tried(
    pass: &Pass<'_>,
    account: &AccountClient,
    object: &Desired,
    step: &Step,
    kinds: &Kinds,
) -> Result<Option<(Known, Vec<Left>)>, Problem> {
    let Some(kind) = kinds.get(&object.api_version, &object.key.kind) else { return Ok(None) };
    let Some(before) = account.read(kind, &object.key).await? else { return Ok(None) };
    let around = Around::of(pass, account, object, step, kinds, &before).await;
    let (_, after) = account.send(kind, object, &around.body, true, true).await.map_err(|refused| refused.problem)?;
    let held = fingerprint::of_live(&after);
    Ok(held.map(|held| (Known { sent: object.fingerprint, held }, around.left)))
}

/// What a pass says about other managers when it is over, and when it wants another look.
pub(super) fn conclude(pass: &Pass<'_>, memory: &mut Memory, desired: &Cleared, plan: &Plan, progress: &mut Progress) {
    let ownership = &mut memory.ownership;
    let is_desired = |key: &ObjectKey| desired.get(key).is_some();
    ownership.fights.keep(is_desired);
    ownership.left.retain(|key, _| is_desired(key));
    let left = &ownership.left;
    ownership.owners.retain(|key, _| left.contains_key(key));
    ownership.staying.retain(|key, _| is_desired(key));
    let (now, pace) = (ownership.since.elapsed(), pace(pass));
    for key in ownership.fights.settle(now, &pace) {
        let message = "nobody has changed it for a while: it is mended at once again".to_owned();
        progress.notices.push(Notice { kind: NoticeKind::ContentionEnded, object: key.to_string(), message });
    }
    for (key, what) in ownership.fights.contended() {
        let text = format!("{key} is contended: {what}; it is mended at most every {} s", pace.spacing.as_secs_f64());
        let hint = "let only one of the two have the field: take it out of git, or name the manager in spec.ignore";
        progress.warnings.push(Problem::setup(text).hint(hint));
        progress.contended += 1;
    }
    for (key, lines) in &ownership.staying {
        let hint = "remove it by hand, or name the manager in spec.takeOver";
        progress.warnings.extend(lines.iter().map(|line| Problem::setup(format!("{key}: {line}")).hint(hint)));
    }
    if let Some(at) = ownership.fights.next_look(&pace) {
        ownership.look_within(at.saturating_sub(now));
    }
    for step in plan.terminating() {
        let problem = Problem::passing(format!("{} is being deleted: it is created again when it is gone", step.key));
        progress.wait(problem);
    }
}
