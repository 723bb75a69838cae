//! What an Environment's task does about rollbacks: it prepares what somebody asks for, does what was confirmed, and goes
//! on with what is under way until the branch has it.
//!
//! Before each effect the status says what it will be: the commits, before they are pushed. So after a kill it is known
//! what to look for, and a rollback is done once.

mod alerts;
mod automatic;
mod foreseen;
mod landed;
mod landing;
mod preview;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use towpath_core::candidate::Candidate;
use towpath_core::environment;
use towpath_core::fault::{Fault, Problem};
use towpath_core::names::annotation;
use towpath_core::revert::{Cause, is_restoring};
use towpath_core::revision::{CommitId, clean_indented, clean_line};
use towpath_core::status::{
    EnvironmentStatus, MAX_ANSWERED, MAX_LINES, MAX_ROLLED_BACK, MAX_TRIED, RollbackPhase, RollbackStatus, RolledBack,
};

pub(super) use self::alerts::Asked;
pub(super) use self::automatic::Tried;
pub(super) use self::landing::Pushes;
use self::preview::{Prepared, revision};
use super::Task;
use crate::agent::{Sight, Slot, kin};
use crate::blocking::blocking;
use crate::cluster::Severity;
use crate::repo::{Mirror, View, brought, reverts};
use crate::resources::{BY_ITSELF, Environment, RollbackAsk};
use crate::rollback::{Committer, Plan};

/// How long a request counts. What cannot be done by then is not done, for a person may want something else by now.
const ASKED_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// How long what may pass by itself is tried again before whoever asks is told of it.
const TOLD_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// How far ahead the clock of whoever asks may be.
const AHEAD: SignedDuration = SignedDuration::from_mins(1);
/// Characters of a line.
const SHOWN_CHARACTERS: usize = 300;
/// How long a look at the repository is waited for.
const LOOK: Duration = Duration::from_secs(10);
/// How soon what could not be pushed or found out is tried again.
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
        self.take_over(environment).await;
        self.look_at_alerts(environment).await;
        self.note_that_git_is_back(&seen);
        let asked = self.asked_to_roll_back(resource);
        let is_under_way = self.status.rollback.as_ref().is_some_and(|rollback| rollback.phase.is_under_way());
        let has_open = self.status.rolled_back.iter().any(|one| one.revert.is_none());
        let running = self.status.running_commit();
        let has_moved = !self.status.rolled_back.is_empty() && self.noted_for != running;
        let is_idle = asked.is_none() && !is_under_way && !has_open && !has_moved && !self.is_in_trouble(environment);
        self.is_unanswered = false;
        if self.tells_what_is_over(environment) {
            self.forget_what_is_over().await;
        }
        if is_idle || kin::successor(&self.shared.board, &self.id).is_some() {
            return seen;
        }
        let mut view = seen;
        // Who suspends an environment wants nothing to be done for it.
        if is_under_way && !environment.suspend {
            view = self.carry_on(resource, environment, slot, view).await;
        }
        let has_answered = asked.is_some();
        if let Some(asked) = asked {
            match asked {
                Err(answer) => self.answer(resource, answer).await,
                Ok(ask) => view = self.do_as_asked(resource, environment, slot, view, &ask).await,
            }
            self.is_unanswered = self.asked_to_roll_back(resource).is_some();
        }
        // What somebody was told now is to be seen before anything takes its place.
        if !environment.suspend && !has_answered {
            view = Box::pin(self.roll_back_by_itself(resource, environment, slot, view)).await;
        }
        self.note_what_is_settled(&view).await;
        view
    }

    /// Takes over from the Environment that this one was before (`spec.movedFrom`) what was rolled back and may not come
    /// back, and what is under way of it. Once, before anything was done here.
    async fn take_over(&mut self, environment: &environment::Environment) {
        let is_new = self.status.running.is_none() && self.status.history.is_empty() && self.status.rollback.is_none();
        let Some(name) = environment.moved_from.as_ref().filter(|_| is_new && self.status.rolled_back.is_empty())
        else {
            return;
        };
        let earlier = self.shared.board.environments.get(&(self.id.0.clone(), name.to_string()));
        let Some(earlier) = earlier.and_then(|earlier| earlier.status.clone()) else { return };
        if earlier.rolled_back.is_empty() {
            return;
        }
        let is_kept = earlier.held.is_some();
        let stays = earlier.running.map(|running| running.revision).filter(|_| is_kept);
        let rollback = earlier.rollback.filter(|rollback| is_kept || rollback.phase.is_under_way());
        let rollback = rollback.map(|rollback| {
            // Where it waits for its revert, it goes nowhere before that.
            let goes_to = if rollback.waits_for_its_revert() { rollback.goes_to } else { stays.or(rollback.goes_to) };
            RollbackStatus { goes_to, ..rollback }
        });
        let next = EnvironmentStatus { rolled_back: earlier.rolled_back, rollback, ..(*self.status).clone() };
        self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
    }

    /// What somebody asks for and was not answered yet; an answer for what cannot be read.
    fn asked_to_roll_back(&self, resource: &Environment) -> Option<Result<RollbackAsk, RollbackStatus>> {
        let text = resource.annotations().get(annotation::ROLLBACK).filter(|text| !text.is_empty())?;
        let unreadable = |why: String| {
            use sha2::Digest;
            let line = format!("the annotation {} cannot be read: {why}", annotation::ROLLBACK);
            let id = format!("unreadable-{}", hex::encode(&sha2::Sha256::digest(text)[..4]));
            refused(id, [line])
        };
        let read = serde_json::from_str::<RollbackAsk>(text).map_err(|error| error.to_string());
        let is_short = read.as_ref().is_ok_and(RollbackAsk::is_short);
        let ask = match read {
            // Written in another way it would not be seen that an override names it.
            Ok(ask) if !text.contains(&ask.id) => Err(unreadable("its id is not written plainly".to_owned())),
            Ok(ask) if is_short => Ok(ask),
            Ok(_) => Err(unreadable("it has no id, or something in it is longer than 200 characters".to_owned())),
            Err(why) => Err(unreadable(why)),
        };
        let id = ask.as_ref().map_or_else(|answer| &answer.id, |ask| &ask.id);
        (!self.status.answered.contains(id)).then_some(ask)
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
        let age = Timestamp::now().duration_since(ask.at);
        let under_way = self.status.rollback.as_ref().filter(|rollback| rollback.phase.pushes());
        let why_not = match under_way {
            _ if age > ASKED_WITHIN => Some(format!(
                "it was asked at {}, and could not be done until now: ask again, and see whether the clock there is right",
                ask.at
            )),
            _ if age < -AHEAD => {
                Some(format!("it is of {}, which is to come: ask again with a clock that is right", ask.at))
            }
            // While git is away nothing else can be done. What was begun goes with it, but for a ticket alone.
            Some(_) if ask.wish.emergency && self.waits_for_git() && ask.wish.ticket.is_none() => None,
            Some(other) if ask.wish.reland.is_none() => Some(format!(
                "another rollback is under way, and its reverts are not on the branch yet ({}): wait for it, or end it with \
                 towpath reland",
                other.id
            )),
            _ => None,
        };
        if let Some(line) = why_not {
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
        prepared.tell(&mut answer);
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
        let Prepared { plan, made, goes_to, is_away, .. } = prepared;
        let phase = if is_away { RollbackPhase::WaitsForGit } else { RollbackPhase::Pushing };
        let rollback = RollbackStatus {
            phase,
            onto: Some(plan.subject.head.to_string()),
            repository: self.resolved.as_ref().map(repository_of),
            commit: Some(made.tip.to_string()),
            rest: made.rest.map(|rest| rest.to_string()),
            goes_to: self.not_there(goes_to.map(|commit| revision(&plan.subject.branch, commit))),
            ..answer
        };
        let mut next = EnvironmentStatus { prepared: None, ..(*self.status).clone() };
        note_answered(&mut next, &rollback.id);
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
        self.pushes = Pushes::default();
        let is_by_itself = self.status.rollback.as_ref().is_some_and(|rollback| rollback.id.starts_with(BY_ITSELF));
        self.shared.metrics.rollback(&self.id.1, is_by_itself);
        self.shared.cluster.event(resource, Severity::Normal, "RollbackBegun", &clean_line(&said, SHOWN_CHARACTERS));
    }

    /// What keeps a landing from being begun: it would take the place of a rollback whose reverts are not on the branch yet,
    /// without landing what that one takes back.
    fn is_kept_by(&self, plan: &Plan) -> Result<(), Problem> {
        let under_way = self.status.rollback.as_ref().filter(|rollback| plan.lands && rollback.phase.pushes());
        let left = |other: &RollbackStatus| other.commits().into_iter().find(|commit| !plan.lifts.contains(commit));
        match under_way.and_then(|other| Some((other, left(other)?))) {
            None => Ok(()),
            Some((other, left)) => Err(Problem::content(format!(
                "another rollback is under way, and its revert of {} is not on the branch yet ({})",
                left.short(),
                other.id
            ))
            .hint("wait for it, or name all that it takes back")),
        }
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
                if is_restoring(&one.subject) {
                    // It names none of those that it took back.
                    let by = Some(one.commit.to_string());
                    next.rolled_back.retain(|known| known.revert != by);
                }
                // A merge of reverts lands all that they took back.
                let merged = brought(mirror, one.commit).unwrap_or_default();
                merged.into_iter().flat_map(|one| one.reverts).for_each(|commit| forget(next, commit));
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

    /// A revision that it is to go to, unless it runs there.
    fn not_there(&self, goes_to: Option<String>) -> Option<String> {
        let runs = self.status.running_commit();
        goes_to.filter(|goes_to| crate::sync::revision_of(goes_to).map(|one| one.commit) != runs)
    }

    /// The release that somebody goes back to in an emergency, until it runs.
    pub(super) fn goes_back_in_an_emergency(&self) -> Option<Candidate> {
        let rollback = self.status.rollback.as_ref()?;
        let is_emergency = rollback.wish.as_ref().is_some_and(|wish| wish.emergency);
        let goes_to =
            rollback.goes_to.as_ref().filter(|goes_to| is_emergency && rollback.to.as_ref() == Some(goes_to))?;
        crate::sync::revision_of(goes_to)
    }

    fn waits_for_git(&self) -> bool {
        self.status.rollback.as_ref().is_some_and(|rollback| rollback.phase == RollbackPhase::WaitsForGit)
    }

    /// Notes of what runs now that it is without a change although it has it, so that this is known of what comes after it
    /// too, whatever is edited there. What somebody landed again by hand, and runs, is not rolled back any more.
    async fn note_what_is_settled(&mut self, view: &Arc<View>) {
        let is_open = |one: &RolledBack| one.revert.is_none();
        let Some(running) = self.status.running_commit() else { return };
        let has_moved = self.noted_for.replace(running) != Some(running);
        if self.status.rolled_back.is_empty() || !(has_moved || self.status.rolled_back.iter().any(is_open)) {
            return;
        }
        let (mirror, mut all, settled) = (view.mirror.clone(), self.status.rolled_back.clone(), self.settled.clone());
        let noted = blocking(move || {
            all.retain(|one| {
                let Some((commit, Some(revert))) = one.change().filter(|_| has_moved) else { return true };
                !is_reverted(&mirror, revert, running).unwrap_or(false)
                    || settled.is_without(&mirror, running, (commit, None)).unwrap_or(true)
            });
            for one in all.iter_mut().filter(|one| is_open(one)) {
                let Some((commit, _)) = one.change() else { continue };
                let is_settled = mirror.contains(commit)
                    && mirror.is_ancestor(commit, running).unwrap_or(false)
                    && settled.is_without(&mirror, running, (commit, None)).unwrap_or(false);
                if is_settled {
                    one.revert = Some(running.to_string());
                }
            }
            all
        })
        .await;
        if noted != self.status.rolled_back {
            let next = EnvironmentStatus { rolled_back: noted, ..(*self.status).clone() };
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
        let mut next = (*self.status).clone();
        note_answered(&mut next, &answer.id);
        next.prepared = Some(answer);
        self.status.write::<Environment>(&self.shared.cluster, &self.id, next).await;
    }

    /// Says how far the rollback under way is.
    async fn show(&mut self, resource: &Environment, rollback: RollbackStatus) {
        let status = (*self.status).clone();
        self.show_with(resource, status, rollback).await;
    }

    /// The same, with what else changes in the status.
    async fn show_with(&mut self, resource: &Environment, status: EnvironmentStatus, rollback: RollbackStatus) {
        let rollback = with_short_lines(rollback);
        let next = EnvironmentStatus { rollback: Some(rollback.clone()), ..status };
        if self.status.is(&next) {
            return;
        }
        let first = rollback.lines.first().cloned().unwrap_or_default();
        let (severity, reason) = match rollback.phase {
            RollbackPhase::Done => (Severity::Normal, "RolledBack"),
            RollbackPhase::Refused => (Severity::Warning, "RollbackRefused"),
            _ => (Severity::Warning, "RollbackWaits"),
        };
        tracing::info!(environment = self.id.1, request = rollback.id, phase = ?rollback.phase, first, "rollback");
        self.shared.cluster.event(resource, severity, reason, &clean_line(&first, SHOWN_CHARACTERS));
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

/// Whether a revision contains a commit and a revert of it.
fn is_reverted(mirror: &Mirror, commit: CommitId, revision: CommitId) -> Result<bool, Problem> {
    if !mirror.contains(commit) || !mirror.is_ancestor(commit, revision)? {
        return Ok(false);
    }
    Ok(reverts(mirror, revision, &[commit])?.iter().any(|one| one.taken == commit))
}

/// The Repository of an environment, as a status names it.
fn repository_of(environment: &environment::Environment) -> String {
    format!("{}/{}", environment.repository_home, environment.repository)
}

/// Remembers that a request was answered.
fn note_answered(status: &mut EnvironmentStatus, id: &str) {
    status.answered.retain(|known| known != id);
    status.answered.insert(0, id.to_owned());
    status.answered.truncate(MAX_ANSWERED);
}

fn refused(id: String, lines: impl Into<Vec<String>>) -> RollbackStatus {
    RollbackStatus { id, phase: RollbackPhase::Refused, lines: lines.into(), ..RollbackStatus::default() }
}

/// The same with a line before the others; what began with the same words is taken out.
fn with_first_line(rollback: RollbackStatus, line: String) -> RollbackStatus {
    with_line(rollback, 0, line)
}

/// The same with a line after so many others.
fn with_line(mut rollback: RollbackStatus, after: usize, line: String) -> RollbackStatus {
    let words = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    rollback.lines.retain(|known| words(known) != words(&line));
    rollback.lines.insert(after.min(rollback.lines.len()), line);
    rollback
}

fn with_short_lines(mut rollback: RollbackStatus) -> RollbackStatus {
    rollback.lines = towpath_core::rollback::cut(rollback.lines, MAX_LINES);
    for line in &mut rollback.lines {
        *line = clean_indented(line, SHOWN_CHARACTERS);
    }
    rollback
}

/// Whether a request has waited so long that its failure is told.
fn is_old(ask: &RollbackAsk) -> bool {
    Timestamp::now().duration_since(ask.at) > TOLD_AFTER
}
