//! Rollbacks that nobody asked for: of a release that does not become healthy, whose rollout was aborted, or for which an
//! alert fires. Once for a commit; where the rules say otherwise it is only made ready for a person.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use towpath_core::environment::{self, RollbackCase};
use towpath_core::fault::{Fault, Problem};
use towpath_core::revision::CommitId;
use towpath_core::rollback::{self, Trouble};
use towpath_core::status::{RollbackPhase, RollbackStatus, Wish};

use super::{AGAIN, Task};
use crate::agent::Slot;
use crate::blocking::blocking;
use crate::repo::{Mirror, View};
use crate::resources::{BY_ITSELF, Environment};
use crate::rollback::{Plan, Subject};
use crate::sync;

/// Commits that a merge brought which are looked through for reverts.
const MAX_BROUGHT: usize = 200;

impl Task {
    /// Whether a rollback should begin by itself, or be made ready, as soon as may be.
    pub(in crate::agent::environment) fn is_in_trouble(&self, environment: &environment::Environment) -> bool {
        let waits = self.tried_at.is_some_and(|at| at.elapsed() < self.shared.settings.scaled(AGAIN));
        !waits && self.trouble(environment).is_some()
    }

    /// What is wrong with the release, where nothing was done about it yet: first of all what may be done by itself.
    fn trouble(&self, environment: &environment::Environment) -> Option<Trouble> {
        let found = rollback::trouble(&self.status, environment.sync).into_iter().chain(self.alerts.trouble.clone());
        let is_asked_for = |trouble: &Trouble| environment.rollback.automatic.contains(&trouble.case);
        let is_new = |trouble: &Trouble| {
            let Some(commit) = commit_of(trouble) else { return false };
            let was_begun = self.status.tried.contains(&commit.to_string());
            !was_begun && !self.status.answered.contains(&id_of(commit, trouble.case))
        };
        let mut found: Vec<Trouble> = found.filter(is_new).collect();
        found.sort_by_key(|trouble| !is_asked_for(trouble));
        found.into_iter().next()
    }

    /// Begins a rollback by itself, or makes it ready for a person.
    pub(super) async fn roll_back_by_itself(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        slot: &Arc<Slot>,
        view: Arc<View>,
    ) -> Arc<View> {
        let is_busy = self.status.rollback.as_ref().is_some_and(|rollback| rollback.phase.is_under_way());
        if is_busy || view.problem.is_some() || !self.status.is_written() || !self.is_in_trouble(environment) {
            return view;
        }
        let Some(trouble) = self.trouble(environment) else { return view };
        let Some(commit) = commit_of(&trouble) else { return view };
        self.tried_at = Some(Instant::now());
        let view = self.look(slot, view).await;
        let mut answer = RollbackStatus {
            id: id_of(commit, trouble.case),
            at: Some(Timestamp::now()),
            reason: Some(towpath_core::revision::clean_line(&trouble.why, super::SHOWN_CHARACTERS)),
            wish: Some(Wish::default()),
            ..RollbackStatus::default()
        };
        let prepared = match self.prepare_rollback(resource, environment, slot, &view, &answer).await {
            Ok(prepared) => prepared,
            Err(problems) if problems.iter().any(|problem| problem.fault == Fault::Passing) => {
                tracing::info!(environment = self.id.1, problem = %problems[0], "a rollback is prepared again");
                return view;
            }
            Err(problems) => {
                let why = std::iter::once(format!("{}; and it cannot go back by itself:", trouble.why));
                let lines = why.chain(problems.iter().map(ToString::to_string)).collect();
                self.answer(resource, RollbackStatus { phase: RollbackPhase::Refused, lines, ..answer }).await;
                return view;
            }
        };
        let plan = &prepared.plan;
        // Somebody has pushed something newer in this moment.
        if plan.subject.from != commit {
            return view;
        }
        let is_asked_for = environment.rollback.automatic.contains(&trouble.case);
        let (mirror, looked_at) = (view.mirror.clone(), plan.clone());
        let case = trouble.case;
        let looked = blocking(move || {
            Ok::<_, Problem>((has_reverts(&mirror, &looked_at)?, is_doubtful(&mirror, &looked_at, case)?))
        });
        let (has_reverts, doubt) = match looked.await {
            Ok(looked) => looked,
            Err(problem) => {
                tracing::info!(environment = self.id.1, %problem, "a rollback is prepared again");
                return view;
            }
        };
        prepared.tell(&mut answer);
        answer.lines.insert(0, trouble.why.clone());
        let waits = match () {
            () if !is_asked_for => {
                Some(format!("spec.rollback does not let it go back by itself when {:?}", trouble.case))
            }
            () if has_reverts => Some("what would be taken back is a revert itself".to_owned()),
            () if trouble.is_newer_there || !plan.is_at_head() => {
                Some(format!("{} has something newer", plan.subject.branch))
            }
            () => doubt,
        };
        if let Some(why) = waits {
            let how = format!("do it with towpath rollback {} --confirm {}", self.id.1, prepared.digest);
            answer.lines.splice(1..1, [format!("a rollback waits for a person: {why}"), how]);
            self.answer(resource, RollbackStatus { phase: RollbackPhase::Prepared, ..answer }).await;
            return view;
        }
        self.begin(resource, slot, &view, answer, prepared, Some(commit)).await;
        self.carry_on(resource, environment, slot, view).await
    }
}

fn commit_of(trouble: &Trouble) -> Option<CommitId> {
    sync::revision_of(&trouble.revision).map(|one| one.commit)
}

fn id_of(commit: CommitId, case: RollbackCase) -> String {
    format!("{BY_ITSELF}{case:?}-{commit}")
}

/// Whether something else may be the matter: the environment was healthy with the commit before, or another release between
/// the two was no good either.
fn is_doubtful(mirror: &Mirror, plan: &Plan, case: RollbackCase) -> Result<Option<String>, Problem> {
    let Subject { from, past, .. } = &plan.subject;
    let was_healthy = past.iter().any(|one| one.commit == *from && one.was_healthy);
    if case != RollbackCase::Alert && was_healthy {
        return Ok(Some("it was healthy with the same commit before".to_owned()));
    }
    let Some(to) = &plan.to else { return Ok(None) };
    for one in past.iter().filter(|one| one.commit != *from && one.commit != to.commit && mirror.contains(one.commit)) {
        let is_between = mirror.is_ancestor(to.commit, one.commit)? && mirror.is_ancestor(one.commit, *from)?;
        if is_between {
            let taken = |wanted: CommitId| plan.chosen.iter().any(|chosen| chosen.commit == wanted);
            if taken(one.commit) {
                return Ok(Some(format!("{}, which ran before it, would be taken back too", one.commit.short())));
            }
        }
    }
    Ok(None)
}

/// Whether anything that would be taken back is a revert, or brought one.
fn has_reverts(mirror: &Mirror, plan: &Plan) -> Result<bool, Problem> {
    for one in &plan.chosen {
        let before: Vec<CommitId> = mirror.commit(one.commit)?.parents.into_iter().take(1).collect();
        let (brought, is_cut) = mirror.commits_of(one.commit, &before, MAX_BROUGHT)?;
        if is_cut || brought.iter().any(|commit| !commit.reverts.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}
