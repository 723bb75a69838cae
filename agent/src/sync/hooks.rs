//! Hooks: Jobs before the waves and after them, one for each run, looked at and never waited for.
//!
//! The Job of a run is found by its name, so that a crash makes no second one; how it ended is in the status as soon as
//! it was seen, so that a Job that is removed later is not run again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use towpath_core::course::{Phase, Wave};
use towpath_core::environment::LogMode;
use towpath_core::fault::Problem;
use towpath_core::health;
use towpath_core::hooks::{self, Occasion};
use towpath_core::inventory::Member;
use towpath_core::manifest::ObjectKey;
use towpath_core::plan::{Seen, Table};
use towpath_core::policy::{Desired, Hook};
use towpath_core::status::{HookOutcome, HookStatus, WaitReason, WaitStatus};

use super::course::{self, Course, milliseconds};
use super::work::Work;
use super::{Memory, Progress, kind_of, members};
use crate::cluster::{Deleted, Kinds, Propagation};

/// How much longer than its deadline a hook may take to end: then nobody but us ends it.
const OVERTIME: Duration = Duration::from_secs(15);
/// How long the Job of an older revision may take to go before the new one begins beside it: a node that is away must
/// not hold up a newer commit.
const GOES_WITHIN: Duration = Duration::from_secs(30);
/// How old the last look at a log may be: the pods of a hook that is ended go, and their logs with them.
const LOG_FRESH_FOR: Duration = Duration::from_secs(8);
/// How long before its deadline the log of a hook is looked at.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// How a log begins that could not be read.
const NO_LOG: &str = "(no log:";

/// What is needed to work on the hooks of a sync.
pub(super) struct Hooks<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) kinds: &'a Kinds,
}

impl Hooks<'_> {
    /// The Jobs that this sync makes in a phase, for those hooks whose end is not known.
    pub(super) fn jobs(&self, course: &Course, phase: Phase) -> Vec<Desired> {
        let is_open = |hook: &&Hook| run_of(course, hook, phase).is_none_or(|run| run.outcome == HookOutcome::Running);
        let of_phase = self.work.desired.hooks().iter().filter(|hook| hook.phases.contains(&phase));
        of_phase.filter(is_open).map(|hook| hooks::job(hook, &self.run_id(course, hook, phase))).collect()
    }

    /// What stopped in a phase, for people.
    pub(super) fn stopped(&self, course: &Course, phase: Phase) -> Vec<Problem> {
        let of_phase = course.sync.hooks.iter().filter(|run| run.phase == phase && course::is_stopped(run));
        of_phase
            .map(|run| problem(run, &self.work.desired.hooks().iter().find(|hook| hook.key.to_string() == run.hook)))
            .collect()
    }

    /// Ends what is under way of other runs. A stuck hook of an older revision holds nothing up.
    pub(super) async fn end_others(&self, course: &mut Course, progress: &mut Progress) {
        let ours: Vec<String> = [Phase::BeforeSync, Phase::AfterSync]
            .into_iter()
            .flat_map(|phase| self.work.desired.hooks().iter().map(move |hook| (hook, phase)))
            .map(|(hook, phase)| self.run_id(course, hook, phase))
            .collect();
        for (key, seen) in &self.work.observed.hooks {
            let is_ours = seen.hook.as_ref().is_some_and(|mark| ours.contains(&mark.run));
            if is_ours || seen.terminating.is_some() || hooks::outcome(&seen.health) != HookOutcome::Running {
                continue;
            }
            if let Some(kind) = kind_of(self.kinds, "batch/v1", key)
                && let Err(problem) = self.work.account.delete_as(kind, key, &seen.uid, Propagation::Foreground).await
            {
                progress.problems.push(problem);
            }
        }
        for run in course.overtaken.iter_mut().flat_map(|sync| &mut sync.hooks) {
            if run.outcome == HookOutcome::Running {
                run.outcome = HookOutcome::Overtaken;
                run.took_ms = Some(milliseconds(run.started_at, Timestamp::now()));
            }
        }
    }

    /// Goes on with the hooks of a phase: begins those whose turn it is, and notes how the others are. Gives whether all
    /// of them have succeeded; where not, `progress` says what is waited for or went wrong.
    pub(super) async fn run(
        &self,
        memory: &mut Memory,
        course: &mut Course,
        phase: Phase,
        progress: &mut Progress,
    ) -> bool {
        let mut waves: BTreeMap<Wave, Vec<&Hook>> = BTreeMap::new();
        for hook in self.work.desired.hooks().iter().filter(|hook| hook.phases.contains(&phase)) {
            waves.entry(hook.wave).or_default().push(hook);
        }
        for hooks in waves.into_values() {
            let mut all_succeeded = true;
            for hook in hooks {
                let outcome = match self.look(memory, course, hook, phase, progress).await {
                    Ok(outcome) => outcome,
                    Err(problem) => {
                        progress.failed += 1;
                        progress.problems.push(problem);
                        HookOutcome::Failed
                    }
                };
                all_succeeded &= outcome == HookOutcome::Succeeded;
            }
            let stopped = self.stopped(course, phase);
            progress.failed += stopped.len() as u32;
            progress.problems.extend(stopped);
            if !all_succeeded {
                return false;
            }
        }
        true
    }

    /// Deletes the Jobs of hooks that git no longer has. What is not done now is done by the next sync.
    pub(super) async fn tidy(&self, memory: &mut Memory, progress: &mut Progress) {
        let known: Vec<String> = self.work.desired.hooks().iter().map(|hook| hooks::label(&hook.key)).collect();
        for (key, seen) in &self.work.observed.hooks {
            if !seen.hook.as_ref().is_some_and(|mark| known.contains(&mark.hook)) {
                self.delete(memory, key, seen, progress).await;
            }
        }
    }

    fn run_id(&self, course: &Course, hook: &Hook, phase: Phase) -> String {
        match run_of(course, hook, phase) {
            Some(run) => run.run.clone(),
            None => hooks::run(
                hook,
                phase,
                &Occasion {
                    environment: self.work.pass.environment,
                    revision: &course.sync.revision,
                    content: &course.sync.content,
                    attempt: course.sync.attempt.as_deref(),
                },
            ),
        }
    }

    /// Looks at one run, and begins it where it was not begun.
    async fn look(
        &self,
        memory: &mut Memory,
        course: &mut Course,
        hook: &Hook,
        phase: Phase,
        progress: &mut Progress,
    ) -> Result<HookOutcome, Problem> {
        let known = run_of(course, hook, phase).cloned();
        if let Some(run) = known.as_ref().filter(|run| run.outcome != HookOutcome::Running) {
            return Ok(run.outcome);
        }
        let id = self.run_id(course, hook, phase);
        let job = hooks::job(hook, &id);
        let live = self.work.pass.cluster.live().snapshot(&self.work.pass.environment.name);
        let seen = live.get(&job.key).filter(|seen| seen.hook.as_ref().is_some_and(|mark| mark.run == id)).cloned();
        let (uid, mut outcome, mut message) = match (&seen, &known) {
            (Some(seen), _) => (seen.uid.clone(), hooks::outcome(&seen.health), Some(seen.health.message.clone())),
            (None, Some(run)) => self.unseen(&job, run).await?,
            (None, None) => {
                if self.waits_for_others(memory, course, hook, &live, progress).await {
                    return Ok(HookOutcome::Running);
                }
                let uid = self.begin(memory, &job).await?;
                (uid, HookOutcome::Running, None)
            }
        };
        if let Some(inventory) = memory.inventory.as_mut().filter(|_| outcome != HookOutcome::Vanished) {
            let member = Member { api_version: job.api_version.clone(), uid: Some(uid.clone()) };
            inventory.insert(job.key.clone(), member);
        }
        let now = Timestamp::now();
        let started_at = known.as_ref().map_or(now, |run| run.started_at);
        let deadline = started_at + hook.timeout;
        if outcome == HookOutcome::Running && now >= deadline + OVERTIME {
            outcome = HookOutcome::TimedOut;
            message = Some(format!("it did not end within {} s", hook.timeout.as_secs()));
        }
        let log = self.log(memory, &job, outcome, message.is_some(), deadline).await;
        let is_over = outcome != HookOutcome::Running;
        if !is_over {
            let last_look = deadline - LAST_LOOK;
            let until = deadline + OVERTIME;
            progress.look_by(if now < last_look { last_look } else { until });
            progress.awaits(WaitStatus {
                reason: WaitReason::WaitsForHook,
                message: match &message {
                    Some(message) => format!("{phase} hook {}: {message}", hook.key),
                    None => format!("{phase} hook {}", hook.key),
                },
                since: started_at,
                until,
            });
        } else if outcome == HookOutcome::TimedOut
            && seen.as_ref().is_some_and(|seen| hooks::outcome(&seen.health) == HookOutcome::Running)
            && let Some(kind) = kind_of(self.kinds, &hook.api_version, &job.key)
            && let Err(problem) = self.work.account.delete_as(kind, &job.key, &uid, Propagation::Foreground).await
        {
            progress.warnings.push(problem);
        }
        let run = HookStatus {
            hook: hook.key.to_string(),
            phase,
            job: job.key.to_string(),
            run: id,
            uid,
            outcome,
            started_at,
            took_ms: is_over.then(|| milliseconds(started_at, now)),
            message: message.filter(|_| is_over),
            log: if is_over { log } else { Vec::new() },
        };
        course.sync.hooks.retain(|known| (known.hook.as_str(), known.phase) != (run.hook.as_str(), phase));
        course.sync.hooks.push(run);
        Ok(outcome)
    }

    /// A run that began and that no watch tells of: without our label it may still be there.
    async fn unseen(&self, job: &Desired, run: &HookStatus) -> Result<(String, HookOutcome, Option<String>), Problem> {
        let kind = kind_of(self.kinds, &job.api_version, &job.key).ok_or_else(|| unserved(job))?;
        let found = self.work.account.read(kind, &job.key).await?;
        let found = found.filter(|found| found["metadata"]["uid"] == run.uid.as_str());
        Ok(match found {
            Some(found) => {
                let health = health::assess(&found, &self.work.pass.environment.health, Timestamp::now());
                (run.uid.clone(), hooks::outcome(&health), Some(health.message))
            }
            None => {
                let message = "its Job was removed before its end was seen: nobody knows whether it succeeded";
                (run.uid.clone(), HookOutcome::Vanished, Some(message.to_owned()))
            }
        })
    }

    /// Whether the Job of an older run is still on its way out. One that has ended is deleted: the last one is kept.
    async fn waits_for_others(
        &self,
        memory: &mut Memory,
        course: &Course,
        hook: &Hook,
        live: &Table,
        progress: &mut Progress,
    ) -> bool {
        let label = hooks::label(&hook.key);
        let is_of_this = |key: &ObjectKey, seen: &Seen| {
            key.namespace == hook.key.namespace && seen.hook.as_ref().is_some_and(|mark| mark.hook == label)
        };
        let both_phases: Vec<String> = hook.phases.iter().map(|phase| self.run_id(course, hook, *phase)).collect();
        let until = course.sync.started_at + GOES_WITHIN;
        let mut waits = false;
        for (key, seen) in live.iter().filter(|(key, seen)| is_of_this(key, seen)) {
            if seen.hook.as_ref().is_some_and(|mark| both_phases.contains(&mark.run)) {
                continue;
            }
            if seen.terminating.is_none() && hooks::outcome(&seen.health) != HookOutcome::Running {
                self.delete(memory, key, seen, progress).await;
            } else if Timestamp::now() < until {
                waits = true;
                progress.look_by(until);
                progress.awaits(WaitStatus {
                    reason: WaitReason::WaitsForHook,
                    message: format!("{key} of an earlier sync, which is being deleted"),
                    since: course.sync.started_at,
                    until,
                });
            }
        }
        waits
    }

    /// Makes the Job of a run; it is written down before.
    async fn begin(&self, memory: &mut Memory, job: &Desired) -> Result<String, Problem> {
        let kind = kind_of(self.kinds, &job.api_version, &job.key).ok_or_else(|| unserved(job))?;
        members::write_down(self.work.pass, memory, &[(&job.key, &job.api_version)]).await?;
        tracing::info!(environment = %self.work.pass.environment.name, job = %job.key, "a hook begins");
        let sent = self.work.account.send(kind, job, &job.body(), false, false).await;
        sent.map(|(applied, _)| applied.uid).map_err(|refused| refused.problem)
    }

    async fn delete(&self, memory: &mut Memory, key: &ObjectKey, seen: &Seen, progress: &mut Progress) {
        let Some(kind) = kind_of(self.kinds, "batch/v1", key) else { return };
        match self.work.account.delete_as(kind, key, &seen.uid, Propagation::Foreground).await {
            Ok(Deleted::Pending(_) | Deleted::Changed) => {}
            Ok(Deleted::Gone | Deleted::Replaced) => {
                if let Some(inventory) = &mut memory.inventory {
                    inventory.remove(key);
                }
            }
            Err(problem) => progress.warnings.push(problem),
        }
    }

    /// The end of a run's log, read again where it ended or was not looked at for a while. What cannot be read is said.
    async fn log(
        &self,
        memory: &mut Memory,
        job: &Desired,
        outcome: HookOutcome,
        was_begun: bool,
        deadline: Timestamp,
    ) -> Vec<String> {
        let known = memory.hook_log.as_ref().filter(|(of, ..)| *of == job.key);
        let fresh_for =
            if Timestamp::now() >= deadline - LAST_LOOK { Duration::from_millis(500) } else { LOG_FRESH_FOR };
        let is_fresh = known.is_some_and(|(_, when, _)| when.elapsed() < fresh_for);
        let before = known.map(|(.., log)| log.clone()).unwrap_or_default();
        let may_not = self.work.pass.environment.logs == LogMode::Never;
        if may_not || outcome == HookOutcome::Vanished || !was_begun || (outcome == HookOutcome::Running && is_fresh) {
            return before;
        }
        let log = match self.work.account.job_log(self.kinds, &job.key).await {
            Ok(Some(text)) if !text.trim().is_empty() => hooks::log_tail(&text),
            Ok(_) => before,
            Err(_) if !before.is_empty() => before,
            Err(problem) => vec![format!("{NO_LOG} {})", problem.message)],
        };
        memory.hook_log = Some((job.key.clone(), Instant::now(), log.clone()));
        log
    }
}

fn run_of<'a>(course: &'a Course, hook: &Hook, phase: Phase) -> Option<&'a HookStatus> {
    let name = hook.key.to_string();
    course.sync.hooks.iter().find(|run| run.hook == name && run.phase == phase)
}

fn unserved(job: &Desired) -> Problem {
    Problem::passing(format!("the cluster does not serve {} {} yet", job.api_version, job.key.kind))
        .at(job.source.clone())
}

/// What went wrong with a run, with the last it said.
fn problem(run: &HookStatus, hook: &Option<&Hook>) -> Problem {
    let how = match run.outcome {
        HookOutcome::TimedOut => "timed out",
        HookOutcome::Vanished => "vanished",
        _ => "failed",
    };
    let message = run.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    let last = run
        .log
        .last()
        .filter(|line| !line.starts_with(NO_LOG))
        .map(|line| format!("; last line of its log: {line}"))
        .unwrap_or_default();
    let problem = Problem::content(format!("{} hook {} {how}{message}{last}", run.phase, run.hook))
        .hint("push a commit that mends it, or ask for a sync to run it again");
    match hook {
        Some(hook) => problem.at(hook.source.clone()),
        None => problem,
    }
}
