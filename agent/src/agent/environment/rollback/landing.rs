//! Going on with a rollback that was begun, until its branch has the reverts: they are made, written down and pushed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use towpath_core::candidate;
use towpath_core::environment;
use towpath_core::fault::{Fault, Problem};
use towpath_core::names::EnvironmentName;
use towpath_core::revert::{MAX_REVERTS, is_restoring};
use towpath_core::revision::CommitId;
use towpath_core::status::{CANNOT_PUSH, RollbackPhase, RollbackStatus};

use super::preview::{goes_to, revision};
use super::{Task, repository_of, with_first_line, with_line};
use crate::agent::Slot;
use crate::blocking::blocking;
use crate::repo::{Mirror, View};
use crate::resources::{BY_ITSELF, Environment};
use crate::rollback::{self, Made, Plan, Pushed, Subject};

/// How often somebody else may be there first in one pass.
const MAX_TRIES: usize = 5;
/// How long what somebody must act on is not pushed again.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How long a server that cannot move the branch at the moment is asked again before reverts are pushed beside it.
const BUSY_FOR: Duration = Duration::from_secs(60);
/// How long a branch that could not be pushed to is not tried again while its reverts wait to be merged. A pass comes every ten
/// minutes at the latest, so that is about how often.
const NOT_TRIED_FOR: Duration = Duration::from_secs(540);

/// What is said while reverts are not on their branch, and of the environment meanwhile.
const MAY_NOT: &str = "may not be pushed to:";
const STAND_ON: &str = "the reverts stand on";
const GOES_BACK: &str = "until then: it has the same files";
const STAYS: &str = "stays as it is until then:";

/// Whether a line says what a rollback waits for.
pub(super) fn is_of_waiting(line: &str) -> bool {
    let is_beside = line.starts_with(&format!("{STAND_ON} ")) || line.contains(&format!(" {MAY_NOT} "));
    let is_meanwhile = line.contains(&format!(" {GOES_BACK}")) || line.contains(&format!(" {STAYS} "));
    line.starts_with(CANNOT_PUSH) || is_beside || is_meanwhile
}

/// What came of pushes of a rollback.
#[derive(Default)]
pub(in crate::agent) struct Pushes {
    /// When one was last refused so that somebody must act.
    refused_at: Option<Instant>,
    /// Since when the server has not been able to do it.
    busy_since: Option<Instant>,
    /// When the branch was last pushed to while the reverts wait to be merged into it.
    tried_at: Option<Instant>,
    /// The rollback, its last commit and the head of the branch of which it is known that the reverts are not in it.
    pub(super) not_landed: Option<(String, Option<CommitId>, CommitId)>,
}

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
pub(super) struct Lane {
    pub(super) branch: String,
    pub(super) head: CommitId,
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
        let follows = repository_of(environment);
        if let Some(begun_in) = rollback.repository.as_ref().filter(|begun_in| **begun_in != follows) {
            let said = format!("it was begun in Repository {begun_in}, and {} follows {follows} now", environment.name);
            let problem = Problem::content(said).hint(match rollback.lands() {
                true => "land it again with an environment that follows that",
                false => "revert there by hand where that is still wanted",
            });
            self.ends(resource, rollback, &[problem], true).await;
            return Step::Over;
        }
        let Ok(found) = candidate::find(&environment.lane, &view.heads, &view.branches) else { return Step::Waits };
        let lane = Lane { branch: found.branch, head: found.commit };
        if rollback.lane() != Some(&lane.branch) {
            let begun_on = rollback.lane().unwrap_or_default();
            let said = format!("it was begun on {begun_on}, and {} follows {} now", environment.name, lane.branch);
            let problem = Problem::content(said).hint(match rollback.lands() {
                true => format!("land it again on {begun_on} with an environment that follows that"),
                false => format!("revert on {begun_on} by hand where that is still wanted"),
            });
            self.ends(resource, rollback, &[problem], true).await;
            return Step::Over;
        }
        if view.deleted.contains(&lane.branch) {
            let why = format!("branch {} is no longer on the server; push it again", lane.branch);
            self.cannot_push(resource, environment, view, rollback, &why).await;
            return Step::Waits;
        }
        // While git is away the branch may stand elsewhere, and after a start the mirror may be empty.
        if view.problem.is_some() || !view.mirror.contains(lane.head) {
            return Step::Waits;
        }
        if is_of_another_history(&view.mirror, &rollback) {
            let said = format!("nothing that it was begun with is in Repository {follows} any more");
            let problem = Problem::content(said)
                .hint("its history was rewritten, or its spec.url names another repository: revert there by hand");
            self.ends(resource, rollback, &[problem], true).await;
            return Step::Over;
        }
        match self.has_reverts(view, &lane, &rollback).await {
            Err(problem) => {
                tracing::info!(environment = self.id.1, %problem, "whether a revert is there is looked for again");
                return Step::Waits;
            }
            Ok(Some(by)) => {
                self.has_landed(resource, environment, view, (&lane, by), rollback).await;
                return Step::Over;
            }
            Ok(None) => {}
        }
        if rollback.phase == RollbackPhase::WaitsForMerge {
            return self.try_the_branch(environment, view, &lane, &rollback).await;
        }
        let is_refused =
            self.pushes.refused_at.is_some_and(|at| at.elapsed() < self.shared.settings.scaled(REFUSED_FOR));
        if is_refused {
            return Step::Waits;
        }
        let from = rollback.from.as_deref().and_then(crate::sync::revision_of).map(|from| from.commit);
        if rollback.id.starts_with(BY_ITSELF) && from != Some(lane.head) {
            // What is newer may be what mends it: that is for a person to say. What went back already stays there.
            let said = format!("{} has something newer, so nothing is taken back there without a person", lane.branch);
            let went_back = !rollback.waits_for_its_revert();
            self.ends(resource, rollback, &[Problem::content(said)], went_back).await;
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
                    self.pushes.refused_at = Some(Instant::now());
                    self.cannot_push(resource, environment, view, rollback, &problems[0].to_string()).await;
                    Step::Waits
                }
                _ => {
                    self.does_not_fit(resource, rollback, &problems).await;
                    Step::Over
                }
            },
        }
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
            cluster: self.shared.settings.cluster_name.clone(),
            is_held: self.status.held.is_some(),
            environment: environment.name.clone(),
            branch: lane.branch.clone(),
            head: lane.head,
            from,
            // What was agreed to is not chosen again.
            past: Vec::new(),
            rolled_back: Vec::new(),
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
        let went_to_revert = rollback.waits_for_its_revert();
        if let Some(to) = goes_to.filter(|to| went_to_revert && *to != made.tip) {
            let (plan, mirror) = (plan.clone(), view.mirror.clone());
            let left = blocking(move || plan.leaves_behind(&mirror, to)).await.map_err(one)?;
            if !left.is_empty() {
                // It would go back behind more than anybody agreed to.
                let said = format!("{} has moved on, and going back would be another thing now", lane.branch);
                return Err(one(Problem::content(said).hint("look at it and ask again")));
            }
        }
        // Where it goes back to a release that ran, it goes on doing so.
        let goes_to = match went_to_revert {
            true => goes_to.map(|commit| revision(&lane.branch, commit)),
            false => rollback.goes_to.clone(),
        };
        let next = RollbackStatus {
            phase: RollbackPhase::Pushing,
            commit: Some(made.tip.to_string()),
            rest: made.rest.map(|rest| rest.to_string()),
            goes_to: self.not_there(goes_to),
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
        let busy_for = self.shared.settings.scaled(BUSY_FOR);
        let is_patient = self.pushes.busy_since.is_none_or(|since| since.elapsed() < busy_for);
        let pushed = {
            let (plan, made) = (plan.clone(), made.clone());
            blocking(move || rollback::push(&mirror, &plan, &made, &credentials, is_patient)).await.map_err(one)?
        };
        Ok(match pushed {
            Pushed::Done | Pushed::Overtaken => Step::Again,
            Pushed::Busy(why) => {
                self.pushes.busy_since.get_or_insert_with(Instant::now);
                tracing::info!(environment = self.id.1, why, "a revert is pushed again");
                Step::Waits
            }
            Pushed::Beside { branch: beside, why } => {
                let merge = format!("{STAND_ON} {beside}: merge it into {}", lane.branch);
                let next = with_first_line(with_first_line(next, merge), format!("{} {MAY_NOT} {why}", lane.branch));
                let next = self.without_waiting(&environment.name, view, next, 2).await;
                let next = self.with_rest(environment, view, next).await;
                let next = RollbackStatus { phase: RollbackPhase::WaitsForMerge, branch: Some(beside), ..next };
                self.show(resource, next).await;
                Step::Waits
            }
        })
    }

    /// Where the revert cannot be gone to yet, but a release that ran before has its very files, it is gone back to that
    /// one meanwhile.
    async fn without_waiting(
        &self,
        name: &EnvironmentName,
        view: &View,
        rollback: RollbackStatus,
        lines_before: usize,
    ) -> RollbackStatus {
        let of = |text: &Option<String>| text.as_deref().and_then(crate::sync::revision_of);
        let is_waiting = rollback.waits_for_its_revert();
        let Some((to, made)) = of(&rollback.to).zip(of(&rollback.goes_to)).filter(|_| is_waiting) else {
            return rollback;
        };
        let mirror = view.mirror.clone();
        let has_its_files = blocking(move || {
            let tree = |commit: CommitId| mirror.commit(commit).map(|stored| stored.tree).ok();
            tree(made.commit).is_some() && tree(made.commit) == tree(to.commit)
        });
        if has_its_files.await {
            let said = format!("{name} goes back to {} {GOES_BACK}", to.commit.short());
            let goes_to = self.not_there(rollback.to.clone());
            with_line(RollbackStatus { goes_to, ..rollback }, lines_before, said)
        } else {
            let said = format!("{name} {STAYS} no release that ran before has the files of the revert");
            with_line(rollback, lines_before, said)
        }
    }

    /// Tries the branch itself again while its reverts wait to be merged, for a hook may have failed or it may not be protected
    /// any more. Only the commits that stand beside it, and where nothing has come to it since: else merging is what is left.
    async fn try_the_branch(
        &mut self,
        environment: &environment::Environment,
        view: &Arc<View>,
        lane: &Lane,
        rollback: &RollbackStatus,
    ) -> Step {
        let tried_at = *self.pushes.tried_at.get_or_insert_with(Instant::now);
        let Some((tip, beside)) = rollback.tip().zip(rollback.branch.clone()) else {
            return Step::Waits;
        };
        if tried_at.elapsed() < self.shared.settings.scaled(NOT_TRIED_FOR) {
            return Step::Waits;
        }
        self.pushes.tried_at = Some(Instant::now());
        let (mirror, commits) = (view.mirror.clone(), rollback.commits());
        let made_on = blocking(move || made_on(&mirror, tip, &commits)).await;
        // The branch may have been reset since: what was taken out of it by that does not come back.
        if !made_on.is_ok_and(|made_on| made_on == Some(lane.head)) {
            return Step::Waits;
        }
        let pushed = match self.write_credentials(environment).await {
            Ok(credentials) => {
                let (mirror, branch, at) = (view.mirror.clone(), lane.branch.clone(), (lane.head, tip));
                blocking(move || rollback::push_on(&mirror, (&branch, &beside), at, &credentials)).await
            }
            Err(problem) => Err(problem),
        };
        match pushed {
            Ok(true) => Step::Again,
            Ok(false) => Step::Waits,
            Err(problem) => {
                tracing::info!(environment = self.id.1, %problem, "the branch is tried again later");
                Step::Waits
            }
        }
    }

    /// Pushes what lands the rest again, where there is such; says where that cannot be.
    pub(super) async fn with_rest(
        &self,
        environment: &environment::Environment,
        view: &Arc<View>,
        rollback: RollbackStatus,
    ) -> RollbackStatus {
        let Some(rest) = rollback.rest.as_ref().and_then(|rest| rest.parse::<CommitId>().ok()) else { return rollback };
        let pushed = match self.write_credentials(environment).await {
            Ok(credentials) => {
                let (mirror, name) = (view.mirror.clone(), environment.name.clone());
                blocking(move || rollback::push_rest(&mirror, &name, rest, &credentials)).await
            }
            Err(problem) => Err(problem),
        };
        match pushed {
            Ok(()) => rollback,
            Err(problem) => {
                let said = format!("what should be landed again could not be pushed: {problem}");
                with_first_line(rollback, said)
            }
        }
    }

    /// Says why its reverts cannot be pushed, of what was written down last.
    async fn cannot_push(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &View,
        begun: RollbackStatus,
        why: &str,
    ) {
        let written = self.status.rollback.clone().unwrap_or(begun);
        let rollback = with_first_line(written, format!("{CANNOT_PUSH}: {why}"));
        let rollback = self.without_waiting(&environment.name, view, rollback, 1).await;
        // A branch that is to be merged still is.
        let waits = rollback.phase == RollbackPhase::WaitsForMerge;
        let phase = if waits { rollback.phase } else { RollbackPhase::Pushing };
        self.show(resource, RollbackStatus { phase, ..rollback }).await;
    }

    /// What was begun cannot be done on what the branch is now.
    async fn does_not_fit(&mut self, resource: &Environment, rollback: RollbackStatus, problems: &[Problem]) {
        let went_back = !rollback.lands() && !rollback.waits_for_its_revert();
        self.ends(resource, rollback, problems, went_back).await;
    }

    /// Ends what was begun without its reverts. What went back in the cluster stays held.
    async fn ends(&mut self, resource: &Environment, rollback: RollbackStatus, problems: &[Problem], stays_held: bool) {
        let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let went_back = stays_held && !rollback.lands() && !rollback.waits_for_its_revert();
        if went_back {
            lines.insert(0, "it went back in the cluster, but its revert is not on the branch:".to_owned());
            lines.push("it stays held; revert on the branch by hand, or let it go on with towpath reland".to_owned());
        }
        let mut status = (*self.status).clone();
        if !stays_held {
            status.rolled_back.retain(|one| !rollback.reverts.iter().any(|revert| revert.commit == one.commit));
        }
        let goes_to = self.not_there(rollback.goes_to.clone().filter(|_| went_back));
        let next = RollbackStatus { phase: RollbackPhase::Refused, goes_to, lines, ..rollback };
        self.show_with(resource, status, next).await;
    }
}

/// Whether a mirror has neither what is taken back, nor what ran, nor what is gone back to.
fn is_of_another_history(mirror: &Mirror, rollback: &RollbackStatus) -> bool {
    let revisions = [&rollback.from, &rollback.to].into_iter().flatten();
    let revisions = revisions.filter_map(|text| Some(crate::sync::revision_of(text)?.commit));
    let known: Vec<CommitId> = revisions.chain(rollback.commits()).collect();
    !known.is_empty() && !known.iter().any(|commit| mirror.contains(*commit))
}

/// What the commits of a rollback were made on: what comes before the last of them and is none of them.
fn made_on(mirror: &Mirror, tip: CommitId, commits: &[CommitId]) -> Result<Option<CommitId>, Problem> {
    for step in mirror.line(tip).take(MAX_REVERTS + 1) {
        let (commit, _) = step?;
        let told = mirror.told(commit)?;
        if !is_restoring(&told.subject) && !told.reverts.iter().any(|taken| commits.contains(taken)) {
            return Ok(Some(commit));
        }
    }
    Ok(None)
}
