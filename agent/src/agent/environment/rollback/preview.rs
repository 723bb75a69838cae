//! What a rollback would do, found out without a write: the commits, and what becomes of every environment of the lane.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use towpath_core::candidate::{self, Candidate};
use towpath_core::components::Declarations;
use towpath_core::environment::{self, SyncMode};
use towpath_core::fault::{Fault, Problem, Problems};
use towpath_core::health::Health;
use towpath_core::ledger::LedgerName;
use towpath_core::ledger::passed::Ran;
use towpath_core::revert::marks::{self, Mark};
use towpath_core::revert::{MAX_REVERTS, Reverted};
use towpath_core::revision::CommitId;
use towpath_core::rollback::{Confirmed, Named, Part, Past, fit, lines, named as rollback_named};
use towpath_core::status::{EnvironmentStatus, MAX_LINES, Outcome, RevertStatus, RollbackStatus};

use super::super::Task;
use crate::agent::Slot;
use crate::blocking::blocking;
use crate::repo::{BroughtLimits, Mirror, View};
use crate::resources::Environment;
use crate::rollback::{self, Made, Plan, Subject};
use crate::sync::{self, Foreseen};

/// Other environments of the lane whose differences are made; the rest is counted.
const MAX_OTHERS: usize = 20;
/// Commits of a plan that are named; the rest is counted.
const MAX_NAMED: usize = 20;

/// Lines of a preview. What is said before them later, as why it waits, has room in what a status keeps.
const MAX_SHOWN: usize = MAX_LINES - 10;
/// How many times the lines of another environment may be about the commits, and about the environment itself.
const OWN_WEIGHT: usize = 4;

/// What would be done.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) made: Made,
    /// Where the environment itself goes at once.
    pub(super) goes_to: Option<CommitId>,
    /// All of it, for people.
    pub(super) lines: Vec<String>,
    /// It stands for what the lines say.
    pub(super) digest: String,
    /// Whether nothing can be pushed now: the reverts follow later.
    pub(super) is_away: bool,
}

impl Prepared {
    /// Writes into an answer what would be done.
    pub(super) fn tell(&self, answer: &mut RollbackStatus) {
        let Subject { branch, from, .. } = &self.plan.subject;
        let revert = |one: &Reverted| RevertStatus { commit: one.commit.to_string(), subject: one.subject.clone() };
        answer.from = Some(revision(branch, *from));
        answer.to = self.plan.to.as_ref().map(|to| revision(branch, to.commit));
        answer.reverts = self.plan.chosen.iter().map(revert).collect();
        answer.digest = Some(self.digest.clone());
        answer.lines = self.lines.clone();
    }
}

/// What is found out by git alone.
struct Found {
    plan: Plan,
    made: Made,
    goes_to: Option<CommitId>,
    /// What is marked as not revertible.
    marks: Vec<Mark>,
    /// What is done in git, for people.
    said: Vec<String>,
    /// What else the environment is without while it is held.
    left: Vec<CommitId>,
}

/// A commit of a branch, as a status writes it.
pub(super) fn revision(branch: &str, commit: CommitId) -> String {
    sync::revision_text(&Candidate { branch: branch.to_owned(), commit })
}

/// Where the environment goes at once: to the revert, where it runs what the branch stands on and nothing untested comes
/// with it; else to the release that ran before. Nowhere where something is landed again.
///
/// # Errors
/// Where it would have to go back to a release that ran before and there is none.
pub(super) fn goes_to(
    plan: &Plan,
    made: &Made,
    view: &View,
    environment: &environment::Environment,
) -> Result<Option<CommitId>, Problem> {
    if plan.lands {
        return Ok(None);
    }
    let tree = |commit: CommitId| view.mirror.commit(commit).map(|stored| stored.tree);
    let to = plan.to.as_ref().map(|to| to.commit);
    let ran_before = match to {
        Some(to) => tree(to)? == tree(made.tip)?,
        None => false,
    };
    if !plan.is_emergency && plan.is_at_head() && (environment.after.is_empty() || ran_before) {
        return Ok(Some(made.tip));
    }
    if to.is_none() {
        let said = format!("no earlier release of {} without it is known", environment.name);
        return Err(Problem::content(said).hint("name one with --to"));
    }
    Ok(to)
}

impl Task {
    /// Finds out what would be done for a request.
    pub(super) async fn prepare_rollback(
        &mut self,
        resource: &Environment,
        environment: &environment::Environment,
        slot: &Arc<Slot>,
        view: &Arc<View>,
        answer: &RollbackStatus,
    ) -> Result<Prepared, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let wish = answer.wish.clone().unwrap_or_default();
        if environment.suspend {
            let problem = Problem::setup(format!("{} is suspended", environment.name));
            return Err(one(problem.hint(format!("towpath resume {}", environment.name))));
        }
        if matches!(environment.lane, towpath_core::lane::LaneRule::Commit(_)) {
            let problem = Problem::setup(format!("{} follows one commit and no branch", environment.name));
            return Err(one(problem.hint("name another commit in spec.lane of the Environment")));
        }
        if let Some(problem) = view.problem.as_ref().filter(|_| !wish.emergency) {
            let hint =
                "with --emergency the environment goes back in the cluster at once, and the revert is pushed later";
            return Err(one(Problem { fault: Fault::Setup, ..problem.clone() }.hint(hint)));
        }
        let lane = candidate::find(&environment.lane, &view.heads, &view.branches).map_err(one)?;
        if view.deleted.contains(&lane.branch) {
            let said = format!("branch {} is no longer on the server", lane.branch);
            return Err(one(Problem::content(said).hint("push it again, or correct spec.lane of the Environment")));
        }
        let subject = Subject {
            environment: environment.name.clone(),
            branch: lane.branch.clone(),
            head: lane.commit,
            from: self.rolls_back_from(&lane).map_err(one)?,
            past: self.past(environment, wish.to.as_deref()).await.map_err(one)?,
            rolled_back: self.status.changes_rolled_back(),
        };
        let committer = self.committer(answer).await.map_err(one)?;
        let cause = self.cause(environment, answer);
        let mirror = view.mirror.clone();
        let is_emergency = wish.emergency;
        let goes_further = self.waits_for_git() && wish.reland.is_none();
        let runs = self.status.running.as_ref().and_then(|running| running.commit());
        let (seen, settings) = (view.clone(), environment.clone());
        let made = blocking(move || -> Result<Found, Vec<Problem>> {
            let plan = rollback::plan(&mirror, subject, &wish).map_err(one)?;
            if goes_further && plan.to.as_ref().map(|to| to.commit) == runs {
                let problem = Problem::content("it went back there already, and git is away");
                return Err(one(problem.hint("name an older release with --to")));
            }
            let made = rollback::make(&mirror, &plan, &cause, &committer)?;
            let goes_to = goes_to(&plan, &made, &seen, &settings).map_err(one)?;
            let left = match goes_to {
                Some(to) if to != made.tip => plan.leaves_behind(&mirror, to).map_err(one)?,
                _ => Vec::new(),
            };
            let marks = marks_of(&mirror, &plan, &left)?;
            let said = said_of_git(&mirror, &plan, &made, &left);
            Ok(Found { plan, made, goes_to, marks, said, left })
        });
        let mut found = made.await?;
        self.is_kept_by(&found.plan).map_err(one)?;
        if found.plan.lands && found.made.commits.is_empty() && found.plan.lifts.is_empty() {
            return Err(one(Problem::content("nothing of it is left to be landed again")));
        }
        let mut is_away = view.problem.is_some();
        if !is_away && !found.made.commits.is_empty() {
            match self.may_push(environment, view).await {
                Ok(()) => {}
                Err(problem) if is_emergency => {
                    found.said.push(format!("{problem}; it is tried again"));
                    is_away = true;
                }
                Err(problem) => return Err(one(problem)),
            }
        }
        let needed = found.goes_to.into_iter().chain([found.made.tip]);
        let view = self.with_components(slot, view, needed).await;
        let (seen, tip, head) = (view.clone(), found.made.tip, found.plan.subject.head);
        let lacking = blocking(move || unfetchable(&seen, tip, head)).await?;
        if !lacking.is_empty() && !is_emergency {
            return Err(lacking);
        }
        found.said.extend(lacking.iter().map(ToString::to_string));
        self.foresee_all(resource, environment, &view, found, (answer.overridden, is_away)).await
    }

    /// Asks the git server whether it may be pushed to.
    async fn may_push(&self, environment: &environment::Environment, view: &View) -> Result<(), Problem> {
        let credentials = self.write_credentials(environment).await?;
        let mirror = view.mirror.clone();
        blocking(move || mirror.may_push(&credentials)).await.map_err(|problem| {
            let message = format!("the revert could not be pushed: {}", problem.message);
            let hint = problem
                .hint
                .clone()
                .unwrap_or_else(|| "give the Repository credentials that may push with spec.writeSecretRef".to_owned());
            Problem { message, hint: Some(hint), ..problem }
        })
    }

    /// What is rolled back: what is on its way, where something is, else what runs.
    pub(super) fn rolls_back_from(&self, lane: &Candidate) -> Result<CommitId, Problem> {
        // What went back in the cluster alone goes back further: both are taken back.
        let begun = self.status.rollback.as_ref().filter(|_| self.waits_for_git());
        if let Some(from) = begun.and_then(|begun| sync::revision_of(begun.from.as_ref()?)) {
            return Ok(from.commit);
        }
        let under_way = self.status.sync.as_ref().filter(|sync| !sync.applied);
        let under_way = under_way.and_then(|sync| sync::revision_of(&sync.revision));
        let running = self.status.running.as_ref().and_then(|running| sync::revision_of(&running.revision));
        let from = under_way.filter(|one| one.branch == lane.branch).or(running);
        from.map(|one| one.commit).ok_or_else(|| Problem::content(format!("{} runs nothing yet", self.id.1)))
    }

    /// The releases that it ran, the newest first: by its status, and by its ledger. One that somebody names is among them
    /// however long ago it ran.
    ///
    /// # Errors
    /// Where the ledger cannot be read as far back as that.
    async fn past(&self, environment: &environment::Environment, named: Option<&str>) -> Result<Vec<Past>, Problem> {
        let mut past: Vec<Past> = Vec::new();
        for sync in self.status.history.iter().filter(|sync| sync.outcome == Outcome::Applied) {
            let Some(revision) = sync::revision_of(&sync.revision) else { continue };
            let was_healthy = sync.health.as_ref().is_some_and(|health| health.is_healthy);
            past.push(Past { sync: sync.number, commit: revision.commit, was_healthy });
        }
        let id = (environment.repository_home.clone(), environment.repository.clone());
        let Some(known) = self.shared.slots.of(&id).desk.known() else { return Ok(past) };
        let cluster = self.shared.settings.cluster_name.clone();
        let name = LedgerName { cluster, environment: environment.name.clone() };
        let reader = known.reader.clone();
        let ledger = name.clone();
        let ran = blocking(move || reader.ran(&ledger, &std::collections::BTreeMap::new())).await;
        let oldest = past.last().map_or(u64::MAX, |one| one.sync);
        let older = ran.unwrap_or_default().into_iter().rev().filter(|ran| ran.sync < oldest);
        let past_of = |ran: Ran| Past { sync: ran.sync, commit: ran.commit, was_healthy: ran.healthy_since.is_some() };
        past.extend(older.map(past_of));
        let Some(wanted) = named.and_then(|named| rollback_named(environment.name.as_str(), named).ok()) else {
            return Ok(past);
        };
        let is_it = move |sync: u64, commit: CommitId| match &wanted {
            Named::Sync(number) => sync == *number,
            Named::Commit(digits) => commit.to_string().starts_with(digits),
        };
        if !past.iter().any(|one| is_it(one.sync, one.commit)) {
            match blocking(move || known.reader.release(&name, is_it)).await {
                Ok(found) => past.extend(found.map(past_of)),
                // Where there is no ledger it ran nothing else that is known.
                Err(problem) if problem.fault == Fault::Setup => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(past)
    }

    /// What is known once the components of some commits were looked for too.
    async fn with_components(
        &self,
        slot: &Arc<Slot>,
        view: &Arc<View>,
        commits: impl Iterator<Item = CommitId>,
    ) -> Arc<View> {
        let commits: BTreeSet<CommitId> = commits.collect();
        let (seen, wanted) = (view.clone(), commits.clone());
        let lacks = blocking(move || {
            let lacks = |commit: &CommitId| {
                let tree = seen.mirror.tree(*commit);
                tree.is_ok_and(|tree| seen.parts.of(&tree).iter().any(|pinned| pinned.pin().is_err()))
            };
            wanted.iter().any(lacks)
        });
        if !lacks.await {
            return view.clone();
        }
        let running = self.status.running.as_ref().and_then(|running| running.commit());
        slot.runs(&self.id, commits.into_iter().chain(running).collect());
        self.look(slot, view.clone()).await
    }

    async fn foresee_all(
        &self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &Arc<View>,
        found: Found,
        (is_overridden, is_away): (bool, bool),
    ) -> Result<Prepared, Vec<Problem>> {
        let Found { plan, made, goes_to, mut marks, mut said, left } = found;
        let name = &environment.name;
        let branch = plan.subject.branch.clone();
        let at = |commit: CommitId| Candidate { branch: branch.clone(), commit };
        let mut confirmed = Confirmed::default();
        confirmed.add("environment", name);
        confirmed.add("branch", format!("{branch}@{}", plan.subject.head));
        confirmed.add("from", plan.subject.from);
        confirmed.add("flags", format!("{} {} {}", plan.lands, plan.restores, plan.is_emergency));
        plan.taken().iter().for_each(|(commit, _)| confirmed.add("takes", commit));
        plan.lifts.iter().for_each(|commit| confirmed.add("lifts", commit));
        if let Some(to) = &plan.to {
            confirmed.add("to", to.commit);
        }
        confirmed.add("tree", view.mirror.commit(made.tip).map_err(|problem| vec![problem])?.tree);

        left.iter().for_each(|commit| confirmed.add("leaves", commit));
        let target = goes_to.unwrap_or(made.tip);
        let ran_before = plan.to.as_ref().is_some_and(|to| to.commit == target);
        let trusted = Some(at(target)).filter(|_| plan.is_emergency && ran_before);
        let own = self.foresee_one(environment, &self.status, view, &at(target), trusted).await?;
        if !own.missing.is_empty() {
            return Err(own.missing);
        }
        said.extend(own.unknown.iter().map(|problem| format!("not known, and done all the same: {}", problem.message)));
        if !plan.lands {
            let touched = own.changes.iter().chain(&own.also).map(|one| marks::Touched {
                key: &one.key,
                before: one.before.as_ref(),
                after: one.after.as_ref(),
            });
            for mark in marks::of_objects(touched) {
                // An object may be marked in what runs and in what is under way.
                if !marks.contains(&mark) {
                    marks.push(mark);
                }
            }
        }
        if !marks.is_empty() && !is_overridden {
            return Err(marks::problems(&marks));
        }
        for Mark { what, reason, .. } in &marks {
            confirmed.add("overrides", what);
            said.push(format!(
                "overridden: {what} is not revertible{}",
                if reason.is_empty() { String::new() } else { format!(": {reason}") }
            ));
        }
        confirmed
            .add("goes to", goes_to.filter(|to| *to != made.tip).map_or("the revert".to_owned(), |to| to.to_string()));
        confirmed.add_changes(name.as_str(), &own.changes);
        if let Some(under_way) = self.status.sync.as_ref().filter(|sync| !sync.applied) {
            let revision = sync::revision_of(&under_way.revision).map(|one| one.commit.short()).unwrap_or_default();
            said.push(format!(
                "a sync of {revision} has not come to its end: what it brings counts as if it were there"
            ));
        }
        said.extend(canaries(&self.status));
        let mut own_lines = vec![match () {
            () if plan.lands && environment.sync == SyncMode::Manual => {
                format!("{name} may move to it on request: {}", counted(own.changes.len()))
            }
            () if plan.lands => format!("{name} follows by itself: {}", counted(own.changes.len())),
            () if goes_to == Some(made.tip) => format!("{name} goes to the revert: {}", counted(own.changes.len())),
            () => format!(
                "{name} goes back to {} at once, and is held until {branch} has a revision without it that it may move to: {}",
                target.short(),
                counted(own.changes.len())
            ),
        }];
        own_lines.extend(lines(&own.changes));
        let mut parts = vec![said, own_lines];
        let others = self.others(resource, environment, view, &branch);
        let more = others.len().saturating_sub(MAX_OTHERS);
        for (other, status) in others.into_iter().take(MAX_OTHERS) {
            let (foreseen, how) = (self.foresee_one(&other, &status, view, &at(made.tip), None).await, how(&other));
            parts.push(match foreseen {
                Ok(Foreseen { changes, missing, .. }) => {
                    confirmed.add_changes(other.name.as_str(), &changes);
                    let mut told = vec![format!("{} {how}: {}", other.name, counted(changes.len()))];
                    // What is in another namespace may be nobody's business here.
                    if other.home == environment.home {
                        told.extend(lines(&changes));
                        told.extend(missing.iter().map(|problem| format!("  {problem}")));
                    }
                    told
                }
                Err(_) if other.home != environment.home => vec![format!("{} {how}, and cannot", other.name)],
                Err(problems) => {
                    let problems = problems.iter().take(3).map(|problem| format!("  {problem}"));
                    std::iter::once(format!("{} {how}, and cannot:", other.name)).chain(problems).collect()
                }
            });
        }
        if more > 0 {
            parts.push(vec![format!("{more} more environments follow {branch}")]);
        }
        let weight = |place: usize| if place < 2 { OWN_WEIGHT } else { 1 };
        let parts = parts.into_iter().enumerate().map(|(place, lines)| Part { lines, weight: weight(place) });
        let lines = fit(parts.collect(), MAX_SHOWN);
        Ok(Prepared { digest: confirmed.digest(), lines, plan, made, goes_to, is_away })
    }

    /// What would change in one environment.
    async fn foresee_one(
        &self,
        environment: &environment::Environment,
        status: &EnvironmentStatus,
        view: &View,
        then: &Candidate,
        trusted: Option<Candidate>,
    ) -> Result<Foreseen, Vec<Problem>> {
        let wanted = Ok(sync::Wanted::default());
        let pass = sync::Pass {
            cluster: &self.shared.cluster,
            cluster_name: &self.shared.settings.cluster_name,
            environment,
            status,
            registries: &self.shared.registries,
            view,
            wanted: &wanted,
            trusted,
            request: None,
            confirmed: None,
            claims: &self.shared.claims,
            own_namespace: self.shared.settings.own_namespace.as_deref(),
            neighbours: &|_| Vec::new(),
            recorded: None,
            time_scale: self.shared.settings.time_scale.max(1),
            overtaken: &|| false,
        };
        sync::foresee(&pass, then).await
    }

    /// The other environments that follow the branch.
    fn others(
        &self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &View,
        branch: &str,
    ) -> Vec<(environment::Environment, EnvironmentStatus)> {
        let follows = |other: &environment::Environment| {
            (&other.repository_home, &other.repository) == (&environment.repository_home, &environment.repository)
                && other.lane.branch(&view.heads, &view.branches) == Some(branch)
        };
        let others = self.shared.board.environments().into_iter().filter(|other| {
            let is_this = (other.namespace(), other.name_any()) == (resource.namespace(), resource.name_any());
            !is_this && !other.spec.suspend && other.meta().deletion_timestamp.is_none()
        });
        let others = others.filter_map(|other| Some((other.resolve().ok()?, other.status.clone().unwrap_or_default())));
        others.filter(|(other, _)| follows(other)).collect()
    }
}

/// Components that the reverts pin to another commit, which is not in their repositories any more, or is not known.
fn unfetchable(view: &View, tip: CommitId, head: CommitId) -> Result<Vec<Problem>, Vec<Problem>> {
    let (then, now) =
        (view.mirror.tree(tip).map_err(Problems::into_vec)?, view.mirror.tree(head).map_err(Problems::into_vec)?);
    let now: BTreeSet<(&str, CommitId)> = now.submodules().collect();
    let pinned = view.parts.of(&then).into_iter();
    let moved = pinned.filter(|pinned| !now.contains(&(pinned.submodule.path.as_str(), pinned.commit)));
    Ok(moved.filter_map(|pinned| pinned.pin().err()).collect())
}

/// What is marked as not revertible among the commits that are taken back.
fn marks_of(mirror: &Mirror, plan: &Plan, left: &[CommitId]) -> Result<Vec<Mark>, Vec<Problem>> {
    if plan.lands {
        return Ok(Vec::new());
    }
    let tree = mirror.tree(plan.subject.head).map_err(Problems::into_vec)?;
    let declared = Declarations::of(&tree)?.not_revertible;
    let mut found = Vec::new();
    for commit in plan.chosen.iter().map(|one| one.commit).chain(left.iter().copied()) {
        let brought = mirror.brought_by(commit, BroughtLimits::default()).map_err(|problem| vec![problem])?;
        found.extend(marks::of_commit(&brought, &declared));
    }
    if plan.is_cut {
        let reason = "they were not looked through".to_owned();
        found.push(Mark { commit: None, what: format!("a range of more than {MAX_REVERTS} commits"), reason });
    }
    Ok(found)
}

/// What is done in git, for people.
fn said_of_git(mirror: &Mirror, plan: &Plan, made: &Made, left: &[CommitId]) -> Vec<String> {
    let Subject { branch, from, head, environment, .. } = &plan.subject;
    let told = |commit: CommitId| {
        let subject = mirror.told(commit).map(|told| told.subject).unwrap_or_default();
        format!("{} {subject}", commit.short())
    };
    let mut said = Vec::new();
    if !plan.lands {
        said.push(format!("{environment} is on {}", told(*from)));
    }
    if let Some(to) = &plan.to {
        let number = if to.sync > 0 { format!(" ({environment}@{})", to.sync) } else { String::new() };
        said.push(format!("back to {}{number}", told(to.commit)));
        if !to.was_healthy {
            said.push(format!("{environment} was never seen healthy on {}", to.commit.short()));
        }
    }
    if let Ok(between) = mirror.count_between(*from, *head)
        && between > 0
    {
        said.push(format!("{branch} has moved on by {} that {environment} does not run", commits(between)));
    }
    let verb = match (plan.lands, made.commits.len()) {
        (true, 1) => "lands again",
        (true, _) => "land again",
        (false, 1) => "takes back",
        (false, _) => "take back",
    };
    match () {
        () if plan.restores => said.push(format!(
            "one commit on {branch} has exactly the files of {}",
            plan.to.as_ref().map(|to| to.commit.short()).unwrap_or_default()
        )),
        () if !plan.lifts.is_empty() && made.commits.is_empty() => {}
        () if made.commits.is_empty() => said.push(format!("{branch} has nothing left of it: no commit is made")),
        () => said.push(format!("{} on {branch} {verb}, in one push:", commits(made.commits.len()))),
    }
    if !plan.restores {
        said.extend(plan.chosen.iter().take(MAX_NAMED).map(|one| format!("  {}", told(one.commit))));
        if plan.chosen.len() > MAX_NAMED {
            said.push(format!("  and {} more", plan.chosen.len() - MAX_NAMED));
        }
    }
    if !left.is_empty() {
        said.push(format!("until it moves on, {environment} is also without:"));
        said.extend(left.iter().take(MAX_NAMED).map(|commit| format!("  {}", told(*commit))));
        if left.len() > MAX_NAMED {
            said.push(format!("  and {} more", left.len() - MAX_NAMED));
        }
    }
    for commit in &plan.lifts {
        said.push(format!("{} has no revert on {branch}: it may come again as it is", told(*commit)));
    }
    for one in plan.already.iter().take(MAX_NAMED) {
        said.push(format!("{} is taken back already, by {}", told(one.taken), one.revert.short()));
    }
    if !plan.rest.is_empty() {
        said.push(match made.rest {
            Some(rest) => format!(
                "{} of it that {environment} does not run land again by merging {} after that",
                commits(plan.rest.len()),
                rollback::rest_branch(environment, rest)
            ),
            None => "what of it the environment does not run cannot be landed again without what stays away".to_owned(),
        });
    }
    said
}

fn how(other: &environment::Environment) -> &'static str {
    match other.sync {
        SyncMode::Automatic if other.after.is_empty() => "follows by itself",
        SyncMode::Automatic => "follows by itself when it has passed",
        SyncMode::Manual => "may move to it on request",
    }
}

fn commits(count: usize) -> String {
    if count == 1 { "1 commit".to_owned() } else { format!("{count} commits") }
}

fn counted(changes: usize) -> String {
    match changes {
        0 => "nothing changes".to_owned(),
        1 => "1 object changes".to_owned(),
        _ => format!("{changes} objects change"),
    }
}

/// Rollouts that are under way: going back ends them.
fn canaries(status: &EnvironmentStatus) -> Vec<String> {
    let is_under_way = |health: Health| matches!(health, Health::Suspended | Health::Progressing);
    let unhealthy = status.unhealthy.iter().filter(|one| is_under_way(one.health));
    unhealthy.map(|one| format!("{} is under way ({}), and ends", one.object, one.message)).collect()
}
