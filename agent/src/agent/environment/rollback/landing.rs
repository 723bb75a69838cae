//! Going on with a rollback that was begun, until its branch has the reverts: they are made, written down, pushed, and looked
//! for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use towpath_core::candidate;
use towpath_core::environment;
use towpath_core::fault::{Fault, Problem};
use towpath_core::revision::CommitId;
use towpath_core::status::{CANNOT_PUSH, RollbackPhase, RollbackStatus, RolledBack};

use super::preview::{goes_to, revision};
use super::{Task, with_first_line};
use crate::agent::Slot;
use crate::blocking::blocking;
use crate::repo::View;
use crate::resources::{BY_ITSELF, Environment};
use crate::rollback::{self, Made, Plan, Pushed, Subject};

/// How often somebody else may be there first in one pass.
const MAX_TRIES: usize = 5;
/// How long what somebody must act on is not pushed again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// What comes after a step.
enum Step {
    /// Nothing is left to do.
    Over,
    /// The branch is looked at again.
    Again,
    /// Something else must happen first.
    Waits,
}

/// The branch of the lane, and where it stands.
struct Lane {
    branch: String,
    head: CommitId,
}

impl Task {
    /// Goes on with what was begun.
    pub(super) async fn carry_on(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        slot: &Arc<Slot>,
        seen: Arc<View>,
    ) -> Arc<View> {
        let mut view = seen;
        for _ in 0..MAX_TRIES {
            // What is not written down is not done.
            if !self.status.is_written() {
                return view;
            }
            let Some(rollback) = self.status.rollback.clone().filter(|rollback| rollback.phase.is_under_way()) else {
                return view;
            };
            match self.step(resource, environment, &view, rollback).await {
                Step::Over => return self.look(slot, view).await,
                Step::Again => view = self.look(slot, view).await,
                Step::Waits => return view,
            }
        }
        tracing::info!(environment = self.id.1, "the branch moves faster than a revert can be pushed; trying again");
        view
    }

    async fn step(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &Arc<View>,
        rollback: RollbackStatus,
    ) -> Step {
        let Ok(found) = candidate::find(&environment.lane, &view.heads, &view.branches) else { return Step::Waits };
        let lane = Lane { branch: found.branch, head: found.commit };
        if rollback.lane() != Some(&lane.branch) {
            let begun_on = rollback.lane().unwrap_or_default();
            let said = format!("it was begun on {begun_on}, and {} follows {} now", environment.name, lane.branch);
            let problem =
                Problem::content(said).hint(format!("revert on {begun_on} by hand where that is still wanted"));
            self.ends(resource, rollback, &[problem], true).await;
            return Step::Over;
        }
        match self.has_reverts(view, &lane, &rollback).await {
            Err(problem) => {
                tracing::info!(environment = self.id.1, %problem, "whether a revert is there is looked for again");
                return Step::Waits;
            }
            Ok(true) => {
                self.has_landed(resource, view, &lane, rollback).await;
                return Step::Over;
            }
            Ok(false) => {}
        }
        let is_refused = self.refused_at.is_some_and(|at| at.elapsed() < self.shared.settings.scaled(REFUSED_FOR));
        if rollback.phase == RollbackPhase::WaitsForMerge || view.problem.is_some() || is_refused {
            return Step::Waits;
        }
        let from = rollback.from.as_deref().and_then(crate::sync::revision_of).map(|from| from.commit);
        if rollback.id.starts_with(BY_ITSELF) && from != Some(lane.head) {
            // What is newer may be what mends it: that is for a person to say.
            let said = format!("{} has something newer, so nothing is taken back without a person", lane.branch);
            self.ends(resource, rollback, &[Problem::content(said)], false).await;
            return Step::Over;
        }
        match self.push_again(resource, environment, view, &lane, &rollback).await {
            Ok(step) => step,
            Err(problems) => match problems.iter().map(|problem| problem.fault).max() {
                Some(Fault::Passing) => {
                    tracing::info!(environment = self.id.1, problem = %problems[0], "a revert is pushed again");
                    Step::Waits
                }
                Some(Fault::Setup) => {
                    // It was agreed to, so it is done as soon as somebody has seen to this.
                    self.refused_at = Some(Instant::now());
                    let said = format!("{CANNOT_PUSH}: {}", problems[0]);
                    self.show(resource, with_first_line(rollback, said)).await;
                    Step::Waits
                }
                _ => {
                    self.does_not_fit(resource, rollback, &problems).await;
                    Step::Over
                }
            },
        }
    }

    /// Whether the branch has the reverts, made by us or by anybody.
    async fn has_reverts(&self, view: &Arc<View>, lane: &Lane, rollback: &RollbackStatus) -> Result<bool, Problem> {
        let tip = rollback.commit.as_ref().and_then(|tip| tip.parse::<CommitId>().ok());
        let (mirror, chosen, settled) = (view.mirror.clone(), rollback.commits(), self.settled.clone());
        let head = lane.head;
        blocking(move || {
            if let Some(tip) = tip.filter(|tip| mirror.contains(*tip))
                && mirror.is_ancestor(tip, head)?
            {
                return Ok(true);
            }
            for commit in &chosen {
                if !settled.is_without(&mirror, head, (*commit, None))? {
                    return Ok(false);
                }
            }
            Ok(!chosen.is_empty())
        })
        .await
    }

    /// Makes the commits on what the branch stands on now, writes them down, and pushes them.
    async fn push_again(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &Arc<View>,
        lane: &Lane,
        rollback: &RollbackStatus,
    ) -> Result<Step, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let from = rollback.from.as_deref().and_then(crate::sync::revision_of);
        let from = from.ok_or_else(|| one(Problem::content("what is rolled back is not known any more")))?.commit;
        let subject = Subject {
            environment: environment.name.clone(),
            branch: lane.branch.clone(),
            head: lane.head,
            from,
            past: self.past(environment).await,
            rolled_back: self.rolled_back(),
        };
        let committer = self.committer(rollback).await.map_err(one)?;
        let cause = self.cause(environment, rollback);
        let (seen, begun, settings) = (view.clone(), rollback.clone(), environment.clone());
        let (plan, made, goes_to) = blocking(move || -> Result<(Plan, Made, Option<CommitId>), Vec<Problem>> {
            let plan = rollback::again(&seen.mirror, subject, &begun).map_err(one)?;
            let made = rollback::make(&seen.mirror, &plan, &cause, &committer)?;
            let goes_to = goes_to(&plan, &made, &seen, &settings).ok().flatten();
            Ok((plan, made, goes_to))
        })
        .await?;
        let next = RollbackStatus {
            phase: RollbackPhase::Pushing,
            commit: Some(made.tip.to_string()),
            goes_to: goes_to.map(|commit| revision(&lane.branch, commit)).filter(|_| rollback.goes_to.is_some()),
            ..rollback.clone()
        };
        if next != *rollback {
            let mut status = (*self.status).clone();
            self.note_taken(&mut status, &view.mirror, &plan, Some(made.tip));
            status.rollback = Some(next.clone());
            self.status.write::<Environment>(&self.shared.cluster, &self.id, status).await;
            if !self.status.is_written() {
                return Ok(Step::Waits);
            }
        }
        let credentials = self.write_credentials(environment).await.map_err(one)?;
        let mirror = view.mirror.clone();
        let pushed = {
            let (plan, made) = (plan.clone(), made.clone());
            blocking(move || rollback::push(&mirror, &plan, &made, &credentials)).await.map_err(one)?
        };
        Ok(match pushed {
            Pushed::Done { without_rest: None } | Pushed::Overtaken => Step::Again,
            Pushed::Done { without_rest: Some(why) } => {
                let said = format!("what should be landed again could not be pushed: {why}");
                self.show(resource, with_first_line(next, said)).await;
                Step::Again
            }
            Pushed::Beside { branch: beside, why } => {
                let merge = format!("the reverts stand on {beside}: merge it into {}", lane.branch);
                let next = with_first_line(
                    with_first_line(next, merge),
                    format!("{} may not be pushed to: {why}", lane.branch),
                );
                let next = RollbackStatus { phase: RollbackPhase::WaitsForMerge, branch: Some(beside), ..next };
                self.show(resource, next).await;
                Step::Waits
            }
        })
    }

    /// The branch has the reverts.
    async fn has_landed(&mut self, resource: &Environment, view: &Arc<View>, lane: &Lane, rollback: RollbackStatus) {
        let tip = rollback.commit.as_ref().and_then(|tip| tip.parse::<CommitId>().ok());
        let commits: Vec<String> = rollback.reverts.iter().map(|one| one.commit.clone()).collect();
        let (mirror, head, noted) = (view.mirror.clone(), lane.head, self.status.rolled_back.clone());
        let (is_same, has_tip, noted) = blocking(move || {
            let tree = |commit: CommitId| mirror.commit(commit).map(|stored| stored.tree).ok();
            let is_in = |commit: CommitId| mirror.contains(commit) && mirror.is_ancestor(commit, head).unwrap_or(false);
            // Merged as it was made: that is what was agreed to, by whatever commit.
            let is_same = tip.is_some_and(|tip| tree(tip).is_some() && tree(tip) == tree(head));
            let noted = noted.into_iter().map(|one| {
                let known = one.revert.as_ref().and_then(|revert| revert.parse().ok());
                let is_known = known.is_some_and(is_in);
                // Reverted in another way: the head is known to be without it, whatever comes after.
                let revert =
                    if commits.contains(&one.commit) && !is_known { Some(head.to_string()) } else { one.revert };
                RolledBack { revert, ..one }
            });
            (is_same, tip.is_some_and(is_in), noted.collect::<Vec<_>>())
        })
        .await;
        let waited_for_tip =
            rollback.goes_to.is_some() && rollback.goes_to == tip.map(|tip| revision(&lane.branch, tip));
        let goes_to = match () {
            () if waited_for_tip && is_same => Some(revision(&lane.branch, lane.head)),
            () if waited_for_tip && !has_tip => None,
            () => rollback.goes_to.clone(),
        };
        // An environment that is there already need not go.
        let runs = self.status.running.as_ref().map(|running| running.revision.clone());
        let goes_to = goes_to.filter(|goes_to| runs.as_ref() != Some(goes_to));
        let commit = if is_same { Some(lane.head.to_string()) } else { rollback.commit.clone() };
        let next = RollbackStatus { phase: RollbackPhase::Done, goes_to, commit, ..rollback };
        let status = towpath_core::status::EnvironmentStatus { rolled_back: noted, ..(*self.status).clone() };
        self.show_with(resource, status, next).await;
    }

    /// What was begun cannot be done on what the branch is now.
    async fn does_not_fit(&mut self, resource: &Environment, rollback: RollbackStatus, problems: &[Problem]) {
        let lands = rollback.wish.as_ref().is_some_and(|wish| wish.reland.is_some());
        let went_back = !lands && !rollback.waits_for_its_revert();
        self.ends(resource, rollback, problems, went_back).await;
    }

    /// Ends what was begun without its reverts. What went back in the cluster stays held.
    async fn ends(&mut self, resource: &Environment, rollback: RollbackStatus, problems: &[Problem], stays_held: bool) {
        let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let went_back = stays_held && !rollback.waits_for_its_revert();
        if went_back {
            lines.insert(0, "it went back in the cluster, but its revert does not fit the branch any more:".to_owned());
            lines.push("it stays held; revert on the branch by hand, or let it go on with towpath reland".to_owned());
        }
        let mut status = (*self.status).clone();
        if !stays_held {
            status.rolled_back.retain(|one| !rollback.reverts.iter().any(|revert| revert.commit == one.commit));
        }
        let goes_to = rollback.goes_to.clone().filter(|_| went_back);
        let next = RollbackStatus { phase: RollbackPhase::Refused, goes_to, lines, ..rollback };
        self.show_with(resource, status, next).await;
    }
}
