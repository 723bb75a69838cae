//! What an Environment's task does about rollbacks: it prepares what somebody asks for, does what was confirmed, and goes
//! on with what is under way until the branch has it.
//!
//! Before each effect the status says what it will be: the commits, before they are pushed. So after a kill it is known
//! what to look for, and a rollback is done once.

mod alerts;
mod automatic;
mod preview;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use towpath_core::candidate;
use towpath_core::environment;
use towpath_core::fault::{Fault, Problem};
use towpath_core::names::annotation;
use towpath_core::revert::Cause;
use towpath_core::revision::{CommitId, clean_line};
use towpath_core::status::{
    EnvironmentStatus, MAX_LINES, MAX_ROLLED_BACK, MAX_TRIED, RevertStatus, RollbackPhase, RollbackStatus, RolledBack,
};

pub(super) use self::alerts::Asked;
use self::preview::{Prepared, goes_to, revision};
use super::Task;
use crate::agent::{Sight, Slot, kin};
use crate::blocking::blocking;
use crate::cluster::Severity;
use crate::repo::{Mirror, View};
use crate::resources::{Environment, RollbackAsk};
use crate::rollback::{self, Committer, Made, Plan, Pushed, Subject};

/// How often somebody else may be there first in one pass.
const MAX_TRIES: usize = 5;
/// How long a request counts. What cannot be done by then is not done, for a person may want something else by now.
const ASKED_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// Characters of a line.
const SHOWN_CHARACTERS: usize = 300;
/// How long a look at the repository is waited for.
const LOOK: Duration = Duration::from_secs(10);
/// How soon what could not be pushed is pushed again.
pub(super) const AGAIN: Duration = Duration::from_secs(10);

impl Task {
    /// Does what is to be done about rollbacks. Gives what is known of the repository after it.
    pub(super) async fn roll_back(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        slot: &Arc<Slot>,
        seen: Arc<View>,
    ) -> Arc<View> {
        self.look_at_alerts(environment).await;
        let asked = self.asked_to_roll_back(resource);
        let is_idle = asked.is_none() && self.status.rolled_back.is_empty();
        let is_under_way = self.status.rollback.as_ref().is_some_and(|rollback| rollback.phase.is_under_way());
        let is_idle = is_idle && !is_under_way && !self.is_in_trouble(environment);
        if is_idle || kin::successor(&self.shared.board, &self.id).is_some() {
            return seen;
        }
        let mut view = seen;
        if is_under_way {
            view = self.carry_on(resource, environment, slot, view).await;
        }
        if let Some(asked) = asked {
            match asked {
                Err(answer) => self.answer(resource, answer).await,
                Ok(ask) => view = self.do_as_asked(resource, environment, slot, view, &ask).await,
            }
        }
        view = Box::pin(self.roll_back_by_itself(resource, environment, slot, view)).await;
        self.forget_what_is_settled(&view).await;
        view
    }

    /// What somebody asks for and was not answered yet; an answer for what cannot be read.
    fn asked_to_roll_back(&self, resource: &Environment) -> Option<Result<RollbackAsk, RollbackStatus>> {
        let text = resource.annotations().get(annotation::ROLLBACK).filter(|text| !text.is_empty())?;
        let ask = serde_json::from_str::<RollbackAsk>(text).map_err(|error| {
            use sha2::Digest;
            let line = format!("the annotation {} cannot be read: {error}", annotation::ROLLBACK);
            let id = format!("unreadable-{}", hex::encode(&sha2::Sha256::digest(text)[..4]));
            refused(id, [line])
        });
        let id = ask.as_ref().map_or_else(|answer| &answer.id, |ask| &ask.id);
        let known = [&self.status.prepared, &self.status.rollback];
        let is_known = known.into_iter().flatten().any(|one| one.id == *id);
        (!is_known).then_some(ask)
    }

    /// Prepares what is asked for, and begins it where what is confirmed is what would be done.
    async fn do_as_asked(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        slot: &Arc<Slot>,
        seen: Arc<View>,
        ask: &RollbackAsk,
    ) -> Arc<View> {
        let by = resource.annotations().get(annotation::ROLLBACK_BY).map(|by| clean_line(by, SHOWN_CHARACTERS));
        let mut answer = RollbackStatus {
            id: ask.id.clone(),
            at: Some(ask.at),
            by,
            reason: ask.reason.as_deref().map(|reason| clean_line(reason, SHOWN_CHARACTERS)),
            wish: Some(ask.wish.clone()),
            ..RollbackStatus::default()
        };
        if Timestamp::now().duration_since(ask.at) > ASKED_WITHIN {
            let line = format!("it was asked at {}, and could not be done until now: ask again", ask.at);
            self.answer(resource, RollbackStatus { phase: RollbackPhase::Refused, lines: vec![line], ..answer }).await;
            return seen;
        }
        // Who asks means what git says now.
        let view = self.look(slot, seen).await;
        answer.overridden = resource.annotations().get(annotation::OVERRIDE) == Some(&ask.id);
        let prepared = match self.prepare_rollback(resource, environment, slot, &view, &answer).await {
            Ok(prepared) => prepared,
            Err(problems) if problems.iter().any(|problem| problem.fault == Fault::Passing) && !is_old(ask) => {
                tracing::info!(environment = self.id.1, problem = %problems[0], "a rollback is prepared again");
                return view;
            }
            Err(problems) => {
                let lines = problems.iter().map(ToString::to_string).collect();
                self.answer(resource, RollbackStatus { phase: RollbackPhase::Refused, lines, ..answer }).await;
                return view;
            }
        };
        let plan = &prepared.plan;
        answer.from = Some(revision(&plan.subject.branch, plan.subject.from));
        answer.to = plan.to.as_ref().map(|to| revision(&plan.subject.branch, to.commit));
        answer.reverts = reverts_of(plan);
        answer.digest = Some(prepared.digest.clone());
        answer.lines = prepared.lines.clone();
        match &ask.confirm {
            Some(digest) if *digest == prepared.digest => {
                self.begin(resource, slot, &view, answer, prepared, None).await;
                self.carry_on(resource, environment, slot, view).await
            }
            confirmed => {
                if confirmed.is_some() {
                    answer.lines.insert(0, "what was confirmed is not what would be done now:".to_owned());
                }
                self.answer(resource, RollbackStatus { phase: RollbackPhase::Prepared, ..answer }).await;
                view
            }
        }
    }

    /// Writes down what is about to be done, in one write: what is noted as tried has begun. `tried` is the commit that
    /// nobody asked to be rolled back.
    async fn begin(
        &mut self,
        resource: &Environment,
        slot: &Slot,
        view: &View,
        answer: RollbackStatus,
        prepared: Prepared,
        tried: Option<CommitId>,
    ) {
        let Prepared { plan, made, goes_to, .. } = prepared;
        let is_away = view.problem.is_some();
        let phase = if is_away { RollbackPhase::WaitsForGit } else { RollbackPhase::Pushing };
        let rollback = RollbackStatus {
            phase,
            commit: Some(made.tip.to_string()),
            goes_to: goes_to.map(|commit| revision(&plan.subject.branch, commit)),
            ..answer
        };
        let mut next = EnvironmentStatus { prepared: None, ..(*self.status).clone() };
        self.note_taken(&mut next, &view.mirror, &plan, (!is_away).then_some(made.tip));
        next.rollback = Some(rollback);
        if let Some(commit) = tried {
            next.tried.insert(0, commit.to_string());
            next.tried.truncate(MAX_TRIED);
        }
        let mut needed: std::collections::BTreeSet<CommitId> = slot.running();
        needed.extend(goes_to);
        slot.runs(&self.id, needed);
        self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
        let said = self.status.rollback.as_ref().map(|rollback| rollback.lines.join("; ")).unwrap_or_default();
        tracing::info!(environment = self.id.1, plan = said, "a rollback begins");
        let is_by_itself = self.status.rollback.as_ref().is_some_and(|rollback| rollback.by.is_none());
        self.shared.metrics.rollback(&self.id.1, is_by_itself);
        self.shared.cluster.event(resource, Severity::Normal, "RollbackBegun", &clean_line(&said, SHOWN_CHARACTERS));
    }

    /// Notes which changes may not come back, or may again.
    fn note_taken(&self, next: &mut EnvironmentStatus, mirror: &Mirror, plan: &Plan, tip: Option<CommitId>) {
        let forget = |next: &mut EnvironmentStatus, commit: CommitId| {
            let text = commit.to_string();
            next.rolled_back.retain(|one| one.commit != text);
        };
        if plan.lands {
            for one in &plan.chosen {
                let taken = mirror.told(one.commit).map(|told| told.reverts).unwrap_or_default();
                taken.into_iter().chain([one.commit]).for_each(|commit| forget(next, commit));
            }
            plan.lifts.iter().for_each(|commit| forget(next, *commit));
            return;
        }
        for (commit, revert) in plan.taken() {
            forget(next, commit);
            let revert = revert.or(tip).map(|revert| revert.to_string());
            next.rolled_back.push(RolledBack { commit: commit.to_string(), revert });
        }
        let cut = next.rolled_back.len().saturating_sub(MAX_ROLLED_BACK);
        next.rolled_back.drain(..cut);
    }

    /// What was rolled back and may not come back.
    fn rolled_back(&self) -> Vec<CommitId> {
        self.status.rolled_back.iter().filter_map(|one| one.commit.parse().ok()).collect()
    }

    /// Goes on with what was begun.
    async fn carry_on(
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
        let Ok(lane) = candidate::find(&environment.lane, &view.heads, &view.branches) else { return Step::Waits };
        let tip = rollback.commit.as_ref().and_then(|tip| tip.parse::<CommitId>().ok());
        let (mirror, chosen, settled) = (view.mirror.clone(), rollback.commits(), self.settled.clone());
        let head = lane.commit;
        let is_in = blocking(move || -> Result<bool, Problem> {
            match tip {
                Some(tip) if mirror.contains(tip) && mirror.is_ancestor(tip, head)? => Ok(true),
                _ if chosen.is_empty() => Ok(false),
                _ => {
                    for commit in chosen {
                        if !settled.is_without(&mirror, head, (commit, None))? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                }
            }
        });
        match is_in.await {
            Err(problem) => {
                tracing::info!(environment = self.id.1, %problem, "whether a revert is there is looked for again");
                return Step::Waits;
            }
            Ok(true) => {
                self.has_landed(resource, view, &lane.branch, lane.commit, rollback).await;
                return Step::Over;
            }
            Ok(false) => {}
        }
        if rollback.phase == RollbackPhase::WaitsForMerge || view.problem.is_some() {
            return Step::Waits;
        }
        match self.push_again(resource, environment, view, &lane.branch, lane.commit, &rollback).await {
            Ok(step) => step,
            Err(problems) if problems.iter().any(|problem| problem.fault == Fault::Passing) => {
                tracing::info!(environment = self.id.1, problem = %problems[0], "a revert is pushed again");
                Step::Waits
            }
            Err(problems) => {
                self.does_not_fit(resource, rollback, &problems).await;
                Step::Over
            }
        }
    }

    /// Makes the commits on what the branch stands on now, writes them down, and pushes them.
    async fn push_again(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &Arc<View>,
        branch: &str,
        head: CommitId,
        rollback: &RollbackStatus,
    ) -> Result<Step, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let from = rollback.from.as_deref().and_then(crate::sync::revision_of);
        let from = from.ok_or_else(|| one(Problem::content("what is rolled back is not known any more")))?.commit;
        let subject = Subject {
            environment: environment.name.clone(),
            branch: branch.to_owned(),
            head,
            from,
            past: self.past(environment).await,
            rolled_back: self.rolled_back(),
        };
        let committer = self.committer(rollback).await.map_err(one)?;
        let cause = self.cause(environment, rollback);
        let (mirror, begun) = (view.mirror.clone(), rollback.clone());
        let (plan, made) = blocking(move || -> Result<(Plan, Made), Vec<Problem>> {
            let plan = rollback::again(&mirror, subject, &begun).map_err(one)?;
            let made = rollback::make(&mirror, &plan, &cause, &committer)?;
            Ok((plan, made))
        })
        .await?;
        let goes_to = goes_to(&plan, &made, view, environment).ok().flatten();
        let next = RollbackStatus {
            phase: RollbackPhase::Pushing,
            commit: Some(made.tip.to_string()),
            goes_to: goes_to.map(|commit| revision(branch, commit)).filter(|_| rollback.goes_to.is_some()),
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
            Pushed::Done | Pushed::Overtaken => Step::Again,
            Pushed::Beside { branch: beside, why } => {
                let mut lines = vec![
                    format!("{branch} may not be pushed to: {why}"),
                    format!("the reverts stand on {beside}: merge it into {branch}"),
                ];
                lines.extend(next.lines.iter().cloned());
                let next = RollbackStatus { phase: RollbackPhase::WaitsForMerge, branch: Some(beside), lines, ..next };
                self.show(resource, next).await;
                Step::Waits
            }
        })
    }

    /// The branch has the reverts.
    async fn has_landed(
        &mut self,
        resource: &Environment,
        view: &View,
        branch: &str,
        head: CommitId,
        rollback: RollbackStatus,
    ) {
        let tip = rollback.commit.as_ref().and_then(|tip| tip.parse::<CommitId>().ok());
        let tree = |commit: CommitId| view.mirror.commit(commit).map(|stored| stored.tree).ok();
        // Merged as it was made: that is what was agreed to, by whatever commit.
        let is_same = tip.is_some_and(|tip| tree(tip).is_some() && tree(tip) == tree(head));
        let waited_for_tip = rollback.goes_to.is_some() && rollback.goes_to == tip.map(|tip| revision(branch, tip));
        let goes_to = match () {
            () if waited_for_tip && is_same => Some(revision(branch, head)),
            () if waited_for_tip && !tip.is_some_and(|tip| view.mirror.is_ancestor(tip, head).unwrap_or(false)) => None,
            () => rollback.goes_to.clone(),
        };
        let commit = if is_same { Some(head.to_string()) } else { rollback.commit.clone() };
        let next = RollbackStatus { phase: RollbackPhase::Done, goes_to, commit, ..rollback };
        self.show(resource, next).await;
    }

    /// What was begun cannot be done on what the branch is now.
    async fn does_not_fit(&mut self, resource: &Environment, rollback: RollbackStatus, problems: &[Problem]) {
        let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let lands = rollback.wish.as_ref().is_some_and(|wish| wish.reland.is_some());
        let tip = rollback.commit.as_ref().map(|tip| format!("@sha1:{tip}"));
        let is_for_tip = |goes_to: &String| tip.as_ref().is_some_and(|tip| goes_to.ends_with(tip));
        let went_back = !lands && !rollback.goes_to.as_ref().is_some_and(is_for_tip);
        if went_back {
            lines.insert(0, "it went back in the cluster, but its revert does not fit the branch any more:".to_owned());
            lines.push("it stays held; revert on the branch by hand, or let it go on with towpath reland".to_owned());
        }
        let commits = rollback.commits();
        let next = RollbackStatus {
            phase: RollbackPhase::Refused,
            goes_to: rollback.goes_to.clone().filter(|_| went_back),
            lines,
            ..rollback
        };
        if !went_back {
            let is_ours = |one: &RolledBack| commits.iter().any(|commit| one.commit == commit.to_string());
            let mut status = (*self.status).clone();
            status.rolled_back.retain(|one| !is_ours(one));
            self.status.write::<Environment>(&self.shared.cluster, &self.id, status).await;
        }
        self.show(resource, next).await;
    }

    /// Drops what came back to be reverted: what runs has both the change and its revert.
    async fn forget_what_is_settled(&mut self, view: &Arc<View>) {
        if self.status.rolled_back.is_empty() {
            return;
        }
        let Some(running) = self.status.running.as_ref().and_then(|running| running.commit()) else { return };
        let (mirror, all, settled) = (view.mirror.clone(), self.status.rolled_back.clone(), self.settled.clone());
        let left: Vec<RolledBack> = blocking(move || {
            let stays = |one: &RolledBack| {
                let Ok(commit) = one.commit.parse::<CommitId>() else { return false };
                let revert = one.revert.as_ref().and_then(|revert| revert.parse().ok());
                let runs_both = mirror.contains(commit)
                    && mirror.is_ancestor(commit, running).unwrap_or(false)
                    && settled.is_without(&mirror, running, (commit, revert)).unwrap_or(false);
                !runs_both
            };
            all.into_iter().filter(stays).collect()
        })
        .await;
        if left.len() < self.status.rolled_back.len() {
            let next = EnvironmentStatus { rolled_back: left, ..(*self.status).clone() };
            self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
        }
    }

    /// Looks at the repository, and gives what is known then.
    async fn look(&self, slot: &Slot, seen: Arc<View>) -> Arc<View> {
        slot.look(self.shared.settings.scaled(LOOK)).await;
        match &*slot.sight.borrow() {
            Sight::View(view) => view.clone(),
            _ => seen,
        }
    }

    /// Answers without having begun anything.
    async fn answer(&mut self, resource: &Environment, answer: RollbackStatus) {
        let answer = with_short_lines(answer);
        if answer.phase == RollbackPhase::Refused {
            let said = clean_line(&answer.lines.join("; "), SHOWN_CHARACTERS);
            self.shared.cluster.event(resource, Severity::Warning, "RollbackRefused", &said);
        }
        tracing::info!(environment = self.id.1, request = answer.id, phase = ?answer.phase, lines = ?answer.lines, "a rollback was answered");
        let next = EnvironmentStatus { prepared: Some(answer), ..(*self.status).clone() };
        self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
    }

    /// Says how far the rollback under way is.
    async fn show(&mut self, resource: &Environment, rollback: RollbackStatus) {
        let rollback = with_short_lines(rollback);
        let first = rollback.lines.first().cloned().unwrap_or_default();
        let (severity, reason) = match rollback.phase {
            RollbackPhase::Done => (Severity::Normal, "RolledBack"),
            RollbackPhase::Refused => (Severity::Warning, "RollbackRefused"),
            _ => (Severity::Warning, "RollbackWaits"),
        };
        tracing::info!(environment = self.id.1, request = rollback.id, phase = ?rollback.phase, first, "rollback");
        self.shared.cluster.event(resource, severity, reason, &clean_line(&first, SHOWN_CHARACTERS));
        let next = EnvironmentStatus { rollback: Some(rollback), ..(*self.status).clone() };
        self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
    }

    /// Who commits for a rollback: the time is that of the request, so that the same commits are made again.
    async fn committer(&self, rollback: &RollbackStatus) -> Result<Committer, Problem> {
        let at = rollback.at.unwrap_or_else(Timestamp::now);
        Ok(Committer { cluster: self.shared.settings.cluster_name.clone(), key: self.shared.key().await?, at })
    }

    fn cause(&self, environment: &environment::Environment, rollback: &RollbackStatus) -> Cause {
        Cause {
            cluster: self.shared.settings.cluster_name.clone(),
            environment: Some(environment.name.to_string()),
            ticket: None,
            by: rollback.by.clone(),
            reason: rollback.reason.clone(),
            request: Some(rollback.id.clone()),
            overridden_by: rollback.overridden.then(|| rollback.by.clone().unwrap_or_else(|| "somebody".to_owned())),
        }
    }

    /// To push to the deploy repository with. Who may follow it from another namespace may not write to it for that.
    async fn write_credentials(
        &self,
        environment: &environment::Environment,
    ) -> Result<crate::repo::Credentials, Problem> {
        let environment::Environment { home, repository_home, repository, .. } = environment;
        let resource = self.shared.board.repositories.get(&(repository_home.clone(), repository.clone()));
        let resource = resource.ok_or_else(|| Problem::passing("the Repository is not there"))?;
        let resolved = resource.resolve().map_err(towpath_core::fault::Problems::into_first)?;
        if !crate::repo::is_allowed(&resolved.rollbacks_from, home, repository_home) {
            let said = format!("Repository {repository_home}/{repository} takes no reverts from namespace {home}");
            let hint = format!("add {home} to spec.rollbacksFrom of the Repository");
            return Err(Problem::setup(said).hint(hint));
        }
        self.shared.credentials(&resolved.home, resolved.write_secret.as_deref()).await
    }
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

fn refused(id: String, lines: impl Into<Vec<String>>) -> RollbackStatus {
    RollbackStatus { id, phase: RollbackPhase::Refused, lines: lines.into(), ..RollbackStatus::default() }
}

fn with_short_lines(mut rollback: RollbackStatus) -> RollbackStatus {
    rollback.lines.truncate(MAX_LINES);
    for line in &mut rollback.lines {
        let blanks = line.len() - line.trim_start().len();
        *line = format!("{}{}", " ".repeat(blanks), clean_line(line.trim_start(), SHOWN_CHARACTERS));
    }
    rollback
}

fn reverts_of(plan: &Plan) -> Vec<RevertStatus> {
    let chosen = plan.chosen.iter();
    chosen.map(|one| RevertStatus { commit: one.commit.to_string(), subject: one.subject.clone() }).collect()
}

/// Whether a request has waited so long that its failure is told.
fn is_old(ask: &RollbackAsk) -> bool {
    Timestamp::now().duration_since(ask.at) > SignedDuration::from_secs(60)
}
