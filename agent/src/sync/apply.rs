//! Applying a plan, wave by wave and stage by stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use towpath_core::course::Wave;
use towpath_core::fault::Problem;
use towpath_core::health::Health;
use towpath_core::inventory::Member;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{self, Action, Known, Stage, Step, Why};
use towpath_core::policy::{Cleared, Desired};
use towpath_core::scope::defined_kind;
use towpath_core::status::{WaitReason, WaitStatus};

use super::course::{Course, Role};
use super::send::{self, Sent};
use super::work::Work;
use super::{CONCURRENCY, Memory, Progress};
use crate::cluster::{Kinds, Outcome};

/// How long a CustomResourceDefinition may take until its kind is served.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(20);
/// All stages, in order.
const STAGES: [Stage; 6] =
    [Stage::Namespaces, Stage::Definitions, Stage::Foundations, Stage::Bindings, Stage::Workloads, Stage::Gates];

/// Which waves are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Namespaces and definitions.
    Ground,
    /// Waves below 0: what BeforeSync hooks need.
    BeforeHooks,
    /// All others.
    Main,
}

impl Part {
    fn holds(self, wave: Wave) -> bool {
        self == match wave {
            Wave::Ground => Part::Ground,
            wave if wave.is_before_hooks() => Part::BeforeHooks,
            _ => Part::Main,
        }
    }
}

impl Work<'_> {
    /// Applies wave by wave, and within a wave stage by stage. A wave whose time has not come is held back; what only
    /// mends is applied all the same. After a stage in which something failed no later one is begun.
    pub(super) async fn part(
        &self,
        part: Part,
        course: &Course,
        memory: &mut Memory,
        kinds: &mut Arc<Kinds>,
        progress: &mut Progress,
    ) {
        for wave in self.plan.waves().into_iter().filter(|wave| part.holds(*wave)) {
            if !progress.is_held && course.is_change && self.is_news(wave) {
                self.hold(wave, course, progress);
            }
            for stage in STAGES {
                if progress.is_stopped() {
                    return;
                }
                self.stage(wave, stage, course, memory, kinds, progress).await;
            }
        }
    }

    /// Whether a wave would bring something new.
    fn is_news(&self, wave: Wave) -> bool {
        self.plan.writes().any(|step| step.wave == wave && !step.mends)
    }

    /// Holds back from this wave on if one before it is not healthy.
    pub(super) fn hold(&self, wave: Wave, course: &Course, progress: &mut Progress) {
        let live = self.pass.cluster.live().snapshot(&self.pass.environment.name);
        let health = |key: &ObjectKey| live.get(key).map(|seen| seen.health.clone());
        let Some(held) = plan::held_by(self.plan, self.desired, wave, &health) else { return };
        let message = format!("{}: {}: {}", held.wave, held.object, held.health.message);
        let before =
            course.sync.waits.as_ref().filter(|before| before.message.starts_with(&format!("{}: ", held.wave)));
        let since = before.map_or_else(Timestamp::now, |before| before.since);
        let until = since + self.pass.environment.timeout;
        progress.is_held = true;
        progress.look_by(until);
        progress.awaits(WaitStatus {
            reason: match held.health.health {
                Health::Degraded => WaitReason::Degraded,
                Health::Suspended => WaitReason::RolloutPaused,
                _ => WaitReason::WaitsForWave,
            },
            message,
            since,
            until,
        });
    }

    /// Whether the turn of a step has come.
    fn is_due(&self, step: &Step, course: &Course, progress: &Progress) -> bool {
        // What a refused revision brought for everybody stays as it is: to go to and fro between two definitions would
        // do more harm than either.
        let goes_back = course.role != Role::Wanted
            && step.wave == Wave::Ground
            && matches!(step.action, Action::Configure(Why::Changed | Why::Unproven));
        !goes_back && (!progress.is_held || step.mends)
    }

    async fn stage(
        &self,
        wave: Wave,
        stage: Stage,
        course: &Course,
        memory: &mut Memory,
        kinds: &mut Arc<Kinds>,
        progress: &mut Progress,
    ) {
        let is_of_it = |step: &&Step| step.wave == wave && step.stage == stage;
        let steps: Vec<&Step> =
            self.plan.writes().filter(is_of_it).filter(|step| self.is_due(step, course, progress)).collect();
        // What comes after it may need it, and it has to be made again first.
        progress.is_ending |= self.plan.terminating().any(|step| is_of_it(&step));
        if steps.is_empty() {
            return;
        }
        if stage > Stage::Definitions {
            let objects: Vec<&Desired> = steps.iter().map(|step| &*self.desired.objects()[step.index]).collect();
            if let Err(problem) = self.wait_for_kinds(&objects, kinds).await {
                return progress.problems.push(problem);
            }
        }
        let mut steps = steps.into_iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            // Each is made when its turn comes: ten thousand at once would take more memory than what they send.
            while under_way.len() < CONCURRENCY
                && let Some(step) = steps.next()
            {
                let object = &self.desired.objects()[step.index];
                under_way.push(send::send(self.pass, self.account, object, step, kinds).boxed());
            }
            let Some(sent) = under_way.next().await else { return };
            self.take_in(sent, memory, progress);
        }
    }

    fn take_in(&self, sent: Sent, memory: &mut Memory, progress: &mut Progress) {
        let (step, mut done) = match sent {
            Sent::Overtaken => return progress.overtaken = true,
            Sent::Failed(problem) => {
                progress.failed += 1;
                return progress.problems.push(problem);
            }
            Sent::Waits(problem, notices) => {
                progress.notices.extend(notices);
                return progress.wait(problem);
            }
            Sent::Done(step, done) => (step, done),
        };
        progress.sent.insert(step.index);
        // Created anew after it was created once: somebody deleted it.
        done.is_correction |= step.action == Action::Create && step.mends;
        memory.ownership.sent(self.pass, &step.key, &mut done);
        let applied = done.applied;
        match applied.outcome {
            Outcome::Created => progress.created += 1,
            Outcome::Configured => progress.configured += 1,
        }
        progress.drift.extend(done.drift.map(|text| (step.key.to_string(), text)));
        progress.notices.extend(done.notices);
        match applied.known {
            Some(known) => drop(memory.known.insert(step.key.clone(), known)),
            None => drop(memory.known.remove(&step.key)),
        }
        let object = &self.desired.objects()[step.index];
        let member = Member { api_version: object.api_version.clone(), uid: Some(applied.uid) };
        if let Some(inventory) = &mut memory.inventory {
            inventory.insert(step.key.clone(), member);
        }
    }

    /// What is right already is known from here on, and a member even if it was found by its label only.
    pub(super) fn note_what_is_right(&self, memory: &mut Memory) {
        let live = self.pass.cluster.live().snapshot(&self.pass.environment.name);
        for step in self.plan.steps.iter().filter(|step| step.action == Action::Leave) {
            let object = &self.desired.objects()[step.index];
            let Some(seen) = live.get(&step.key).filter(|_| !object.leave_alone) else { continue };
            if !memory.known.contains_key(&step.key) {
                // Nothing was known of it, and it was left: so what was found is what is desired. It is not what is
                // there now, which somebody may have changed in between.
                memory.known.insert(step.key.clone(), Known { sent: object.fingerprint, held: object.fingerprint });
            }
            if let Some(inventory) = &mut memory.inventory {
                let uid = Some(seen.uid.clone());
                if inventory.get(&step.key).is_none_or(|member| member.uid != uid) {
                    inventory.insert(step.key.clone(), Member { api_version: object.api_version.clone(), uid });
                }
            }
        }
    }

    /// Waits until the kinds of these objects are served. Only kinds that this very plan defines are waited for.
    pub(super) async fn wait_for_kinds(&self, objects: &[&Desired], kinds: &mut Arc<Kinds>) -> Result<(), Problem> {
        let missing = |kinds: &Kinds| {
            objects
                .iter()
                .find(|object| kinds.get(&object.api_version, &object.key.kind).is_none())
                .map(|object| (object.key.kind.clone(), object.source.clone()))
        };
        let deadline = Instant::now() + ESTABLISHED_WITHIN;
        while let Some((kind, place)) = missing(kinds) {
            if !is_defined_by(self.desired, &kind) || Instant::now() >= deadline {
                return Err(Problem::passing(format!("the cluster does not serve kind {kind} yet")).at(place));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            *kinds = self.pass.cluster.kinds(Some(Instant::now())).await?;
        }
        Ok(())
    }
}

/// Whether one of the desired objects defines a kind.
fn is_defined_by(desired: &Cleared, kind: &str) -> bool {
    let definitions = desired.objects().iter().filter(|object| object.key.kind == "CustomResourceDefinition");
    definitions
        .filter_map(|definition| Some(defined_kind(&definition.body())?.1 == kind))
        .any(|is_this_one| is_this_one)
}
