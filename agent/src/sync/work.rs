//! What is done for a plan, in order: the ground, the waves and the hooks between them.

use std::sync::Arc;

use towpath_core::course::{Phase, Wave};
use towpath_core::fault::Problem;
use towpath_core::plan::{Observed, Plan};
use towpath_core::policy::Cleared;

use super::apply::Part;
use super::course::{Course, Role};
use super::hooks::Hooks;
use super::preflight::Rehearsal;
use super::{Memory, Pass, Progress};
use crate::cluster::{AccountClient, Kinds};

/// What a pass works with after it has planned.
pub(super) struct Work<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) account: &'a AccountClient,
    pub(super) desired: &'a Cleared,
    pub(super) observed: &'a Observed,
    pub(super) plan: &'a Plan,
}

impl Work<'_> {
    pub(super) fn hooks<'a>(&'a self, kinds: &'a Kinds) -> Hooks<'a> {
        Hooks { work: self, kinds }
    }

    /// Namespaces and definitions, and then the dry run of what needs them. Gives what that refused.
    pub(super) async fn ground(
        &self,
        rehearsal: &Rehearsal<'_>,
        course: &Course,
        memory: &mut Memory,
        kinds: &mut Arc<Kinds>,
        progress: &mut Progress,
    ) -> Vec<Problem> {
        if memory.known.len() > self.desired.objects().len() {
            memory.known.retain(|key, _| self.desired.get(key).is_some());
        }
        self.part(Part::Ground, course, memory, kinds, progress).await;
        if progress.is_stopped() {
            return Vec::new();
        }
        if let Err(problem) = self.wait_for_kinds(&rehearsal.later(), kinds).await {
            return vec![problem];
        }
        rehearsal.second(self.account, kinds).await
    }

    /// The waves and, where something is new, the hooks before them.
    pub(super) async fn waves(
        &self,
        course: &mut Course,
        memory: &mut Memory,
        kinds: &mut Arc<Kinds>,
        progress: &mut Progress,
    ) {
        self.part(Part::BeforeHooks, course, memory, kinds, progress).await;
        if course.is_change && !progress.is_stopped() && !progress.is_held {
            if self.desired.hooks().iter().any(|hook| hook.phases.contains(&Phase::BeforeSync)) {
                self.hold(Wave::Number(0), course, progress);
            }
            if !progress.is_held {
                let done = self.hooks(kinds).run(memory, course, Phase::BeforeSync, progress).await;
                progress.is_held = !done;
            }
        }
        self.part(Part::Main, course, memory, kinds, progress).await;
        if !progress.is_stopped() {
            self.note_what_is_right(memory);
        }
    }

    /// The hooks after the waves, when everything is healthy.
    pub(super) async fn after(&self, course: &mut Course, memory: &mut Memory, kinds: &Kinds, progress: &mut Progress) {
        if progress.is_held {
            // What is not there because its turn has not come is not missing.
            let live = self.pass.cluster.live().snapshot(&self.pass.environment.name);
            let absent = self.plan.writes().filter(|step| !step.mends && !live.contains_key(&step.key));
            for step in absent {
                progress.unhealthy.remove(&step.key.to_string());
            }
        }
        if !progress.is_applied || (course.role == Role::Fallback && !course.sync.applied) {
            return;
        }
        let hooks = self.hooks(kinds);
        if course.is_change || course.sync.applied {
            course.sync.applied = true;
            let is_open = !hooks.jobs(course, Phase::AfterSync).is_empty();
            let stopped = hooks.stopped(course, Phase::AfterSync);
            if !stopped.is_empty() {
                return progress.problems.extend(stopped);
            }
            if is_open
                && (!progress.unhealthy.is_empty() || !hooks.run(memory, course, Phase::AfterSync, progress).await)
            {
                return;
            }
        }
        course.is_over = true;
        hooks.tidy(memory, progress).await;
    }
}
