//! Rollbacks that nobody asked for: of a release that does not become healthy, whose rollout was aborted, or for which an
//! alert fires. Once for a commit; where the rules say otherwise it is only made ready for a person.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use towpath_core::candidate;
use towpath_core::commits::Commit;
use towpath_core::environment::{self, RollbackCase};
use towpath_core::fault::{Fault, Problem};
use towpath_core::health::Health;
use towpath_core::revert::is_restoring;
use towpath_core::revision::CommitId;
use towpath_core::rollback::{self, Trouble};
use towpath_core::status::{EnvironmentStatus, RollbackPhase, RollbackStatus, Wish};

use super::{AGAIN, ASKED_WITHIN, TOLD_AFTER, Task, with_short_lines};
use crate::agent::Slot;
use crate::blocking::blocking;
use crate::cluster::Severity;
use crate::repo::{Mirror, View};
use crate::resources::{BY_ITSELF, Environment};
use crate::rollback::{Plan, Subject};
use crate::sync;

/// How long at the most until a rollback is prepared again that could not be.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Commits that a merge brought which are looked through for reverts.
const MAX_BROUGHT: usize = 200;

/// A rollback that nobody asked for and that was tried to be prepared.
pub(in crate::agent::environment) struct Tried {
    /// What it would be called.
    id: String,
    /// When it was tried first, and last.
    since: Instant,
    at: Instant,
    times: u32,
    /// Whether git was away then.
    was_without_git: bool,
    /// Whether people were told what keeps it.
    is_told: bool,
}

impl Tried {
    fn new(id: String) -> Tried {
        Tried { id, since: Instant::now(), at: Instant::now(), times: 0, was_without_git: false, is_told: false }
    }
}

/// How long after a try, the how manieth it was, the next one is. None where there was none since git is back.
fn pause_after(times: u32) -> Duration {
    let Some(earlier) = times.checked_sub(1) else { return Duration::ZERO };
    AGAIN.saturating_mul(2u32.saturating_pow(earlier)).min(LONGEST_PAUSE)
}

impl Task {
    /// Whether a rollback should begin by itself, or be made ready, as soon as may be.
    pub(in crate::agent::environment) fn is_in_trouble(&self, environment: &environment::Environment) -> bool {
        self.tries_in(environment).is_some_and(|pause| pause.is_zero())
    }

    /// When a rollback should be tried to begin by itself, or to be made ready. `None` where there is nothing to go back for.
    pub(in crate::agent::environment) fn tries_in(&self, environment: &environment::Environment) -> Option<Duration> {
        let trouble = self.trouble(environment)?;
        let id = id_of(commit_of(&trouble)?, trouble.case);
        let Some(tried) = self.tried.as_ref().filter(|tried| tried.id == id) else { return Some(Duration::ZERO) };
        Some(self.shared.settings.scaled(pause_after(tried.times)).saturating_sub(tried.at.elapsed()))
    }

    /// What only git was missing for is tried again as soon as it is back.
    pub(super) fn note_that_git_is_back(&mut self, view: &View) {
        let waits_for_git = |tried: &&mut Tried| tried.was_without_git && view.problem.is_none();
        if let Some(tried) = self.tried.as_mut().filter(waits_for_git) {
            tried.times = 0;
        }
    }

    /// Whether people are told of a rollback that is tried again, and there is nothing to go back for any more.
    pub(super) fn tells_what_is_over(&self, environment: &environment::Environment) -> bool {
        let Some(told) = self.status.prepared.as_ref().filter(|told| told.id.starts_with(BY_ITSELF)) else {
            return false;
        };
        let is_it = |trouble: Trouble| commit_of(&trouble).is_some_and(|commit| id_of(commit, trouble.case) == told.id);
        let is_tried_again = told.phase == RollbackPhase::Refused && !self.status.answered.contains(&told.id);
        if !is_tried_again || self.trouble(environment).is_some_and(is_it) {
            return false;
        }
        // Where it is only not known for a moment how the release is, it is as it was.
        let running = self.status.running.as_ref().map(|running| &running.revision);
        let under_way = self.status.sync.as_ref().map(|sync| &sync.revision);
        let is_there = [running, under_way].into_iter().flatten().any(|revision| told.from.as_ref() == Some(revision));
        let is_of_an_alert = told.id.starts_with(&format!("{BY_ITSELF}{:?}-", RollbackCase::Alert));
        let is_well = self.status.health == Some(Health::Healthy);
        !is_there || is_of_an_alert || is_well || self.status.held.is_some()
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
        if is_busy || !self.status.is_written() || !self.is_in_trouble(environment) {
            return view;
        }
        let Some(trouble) = self.trouble(environment) else { return view };
        let Some(commit) = commit_of(&trouble) else { return view };
        let id = id_of(commit, trouble.case);
        let tried = self.tried.take().filter(|tried| tried.id == id).unwrap_or_else(|| Tried::new(id.clone()));
        let (times, was_without_git) = (tried.times.saturating_add(1), view.problem.is_some());
        self.tried = Some(Tried { at: Instant::now(), times, was_without_git, ..tried });
        let mut answer = RollbackStatus {
            id,
            at: Some(Timestamp::now()),
            reason: Some(towpath_core::revision::clean_line(&trouble.why, super::SHOWN_CHARACTERS)),
            wish: Some(Wish::default()),
            from: Some(trouble.revision.clone()),
            ..RollbackStatus::default()
        };
        if let Some(problem) = &view.problem {
            let hint = format!("who cannot wait: {} --emergency", self.command());
            self.is_tried_again(resource, answer, &trouble, &[problem.clone().hint(hint)]).await;
            return view;
        }
        let view = self.look(slot, view).await;
        if let Ok(lane) = candidate::find(&environment.lane, &view.heads, &view.branches)
            && self.rolls_back_from(&lane).is_ok_and(|from| from != commit)
        {
            let branch = &lane.branch;
            let said = format!("{} is of another branch, and the lane has {branch} now", commit.short());
            let hint = format!("sync what {branch} has, or take the commit back where it is");
            self.does_not_go_back(resource, answer, &trouble, &[Problem::content(said).hint(hint)]).await;
            return view;
        }
        let prepared = match self.prepare_rollback(resource, environment, slot, &view, &answer).await {
            Ok(prepared) => prepared,
            Err(problems)
                if problems.iter().any(|problem| problem.fault == Fault::Passing) || view.problem.is_some() =>
            {
                self.is_tried_again(resource, answer, &trouble, &problems).await;
                return view;
            }
            Err(problems) => {
                self.does_not_go_back(resource, answer, &trouble, &problems).await;
                return view;
            }
        };
        let plan = &prepared.plan;
        let is_asked_for = environment.rollback.automatic.contains(&trouble.case);
        let (mirror, looked_at) = (view.mirror.clone(), plan.clone());
        let case = trouble.case;
        let looked = blocking(move || {
            Ok::<_, Problem>((has_reverts(&mirror, &looked_at)?, is_doubtful(&mirror, &looked_at, case)?))
        });
        let (has_reverts, doubt) = match looked.await {
            Ok(looked) => looked,
            Err(problem) => {
                self.is_tried_again(resource, answer, &trouble, &[problem]).await;
                return view;
            }
        };
        prepared.tell(&mut answer);
        answer.lines.insert(0, trouble.why.clone());
        let of_another = plan.to.as_ref().and_then(|to| to.of_another(&plan.subject.branch));
        let waits = match () {
            () if !is_asked_for => {
                Some(format!("spec.rollback does not let it go back by itself when {:?}", trouble.case))
            }
            () if has_reverts => Some("what would be taken back is a revert itself".to_owned()),
            () if trouble.is_newer_there || !plan.is_at_head() => {
                Some(format!("{} has something newer", plan.subject.branch))
            }
            () if let Some(of) = of_another => Some(format!(
                "what ran before was of {of}, and {} would lose all that it has since",
                plan.subject.branch
            )),
            () => doubt.or_else(|| prepared.doubts.first().cloned()),
        };
        if let Some(why) = waits {
            let how = format!("do it with {} --confirm {}", self.command(), prepared.digest);
            answer.lines.splice(1..1, [format!("a rollback waits for a person: {why}"), how]);
            self.answer(resource, RollbackStatus { phase: RollbackPhase::Prepared, ..answer }).await;
            return view;
        }
        self.begin(resource, slot, &view, answer, prepared, Some(commit)).await;
        self.carry_on(resource, environment, slot, view).await
    }

    /// What a person types to do it.
    fn command(&self) -> String {
        format!("towpath rollback {} -n {}", self.id.1, self.id.0)
    }

    /// Answers for good that a person must see to it.
    async fn does_not_go_back(
        &mut self,
        resource: &Environment,
        answer: RollbackStatus,
        trouble: &Trouble,
        problems: &[Problem],
    ) {
        let why = std::iter::once(format!("{}; and it cannot go back by itself:", trouble.why));
        let lines = why.chain(problems.iter().map(ToString::to_string)).collect();
        self.answer(resource, RollbackStatus { phase: RollbackPhase::Refused, lines, ..answer }).await;
    }

    /// Notes that what may pass by itself keeps it, and says so to people where that lasts.
    async fn is_tried_again(
        &mut self,
        resource: &Environment,
        answer: RollbackStatus,
        trouble: &Trouble,
        problems: &[Problem],
    ) {
        tracing::info!(environment = self.id.1, problem = %problems[0], "a rollback is prepared again");
        let Some(tried) = self.tried.as_mut() else { return };
        if tried.since.elapsed() < TOLD_AFTER.unsigned_abs() {
            return;
        }
        let why =
            std::iter::once(format!("{}; and it cannot go back by itself yet, which is tried again:", trouble.why));
        let lines = why.chain(problems.iter().map(ToString::to_string)).collect();
        let told = with_short_lines(RollbackStatus { phase: RollbackPhase::Refused, lines, ..answer });
        let known = self.status.prepared.as_ref();
        let is_known = known.is_some_and(|known| known.id == told.id);
        let says_the_same = known.is_some_and(|known| is_known && known.lines == told.lines);
        // What somebody has just asked for stays to be seen, and whoever waits for it gets it.
        let now = Timestamp::now();
        let is_fresh = |at: Timestamp| now.duration_since(at) < ASKED_WITHIN;
        if known.is_some_and(|known| !known.id.starts_with(BY_ITSELF) && known.at.is_some_and(is_fresh)) {
            return;
        }
        let is_in_the_way = known.is_some() && !is_known && tried.is_told;
        tried.is_told = true;
        if says_the_same || is_in_the_way {
            return;
        }
        if !is_known {
            let said = towpath_core::revision::clean_line(&told.lines.join("; "), super::SHOWN_CHARACTERS);
            self.shared.cluster.event(resource, Severity::Warning, "RollbackWaits", &said);
        }
        let next = EnvironmentStatus { prepared: Some(told), ..(*self.status).clone() };
        self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
    }

    /// Takes back that a rollback is tried again.
    pub(super) async fn forget_what_is_over(&mut self) {
        let next = EnvironmentStatus { prepared: None, ..(*self.status).clone() };
        self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
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
    if past.iter().any(|one| one.commit == to.commit && one.sync > to.sync && !one.was_healthy) {
        return Ok(Some(format!("{} was not healthy when it ran last", to.commit.short())));
    }
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
        let takes_back = |commit: &Commit| !commit.reverts.is_empty() || is_restoring(&commit.subject);
        let is_known = plan.subject.rolled_back.iter().any(|(_, revert)| *revert == Some(one.commit));
        if is_cut || is_known || brought.iter().any(takes_back) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_prepared_is_tried_less_and_less_often() {
        let pauses: Vec<u64> = (1..=8).map(|times| pause_after(times).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!((pause_after(0), pause_after(u32::MAX)), (Duration::ZERO, LONGEST_PAUSE));
    }
}
