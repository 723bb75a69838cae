//! What a rollback would do, found out without a write: the commits, and whether it may be done.

use std::collections::BTreeSet;
use std::sync::Arc;

use towpath_core::candidate::{self, Candidate};
use towpath_core::components::Declarations;
use towpath_core::environment;
use towpath_core::fault::{Fault, Problem, Problems};
use towpath_core::lane::Lane;
use towpath_core::ledger::LedgerName;
use towpath_core::ledger::passed::Ran;
use towpath_core::revert::marks::{self, Mark};
use towpath_core::revert::{MAX_REVERTS, Reverted};
use towpath_core::revision::CommitId;
use towpath_core::rollback::{Named, Past, named as rollback_named};
use towpath_core::status::{Outcome, RevertStatus, RollbackStatus};

use super::super::Task;
use crate::agent::Slot;
use crate::blocking::blocking;
use crate::repo::{BroughtLimits, Mirror, View};
use crate::resources::Environment;
use crate::rollback::{self, Made, Plan, Subject};
use crate::sync;

/// Commits of a plan that are named; the rest is counted.
const MAX_NAMED: usize = 20;

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
    /// Why only a person should do it.
    pub(super) doubts: Vec<String>,
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
pub(super) struct Found {
    pub(super) plan: Plan,
    pub(super) made: Made,
    pub(super) goes_to: Option<CommitId>,
    /// What is marked as not revertible.
    pub(super) marks: Vec<Mark>,
    /// What is done in git, for people.
    pub(super) said: Vec<String>,
    /// What else the environment is without while it is held.
    pub(super) left: Vec<CommitId>,
    /// Why only a person should do it.
    pub(super) doubts: Vec<String>,
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
            cluster: self.shared.settings.cluster_name.clone(),
            is_held: self.status.held.is_some(),
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
        let runs = self.status.running_commit();
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
            let mut said = said_of_git(&mirror, &plan, &made, &left);
            let doubts = lost_elsewhere(&seen, &plan).map_err(one)?;
            said.extend(doubts.iter().cloned());
            Ok(Found { plan, made, goes_to, marks, said, left, doubts })
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
            let Candidate { branch, commit } = revision;
            past.push(Past { sync: sync.number, commit, branch: Some(branch), was_healthy });
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
        let past_of = |Ran { sync, commit, healthy_since, .. }: Ran| {
            let was_healthy = healthy_since.is_some();
            Past { sync, commit, branch: None, was_healthy }
        };
        past.extend(older.map(past_of));
        let Some(wanted) = named.and_then(|named| {
            let of = (self.shared.settings.cluster_name.as_str(), environment.name.as_str());
            rollback_named(of, named).ok()
        }) else {
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
        let running = self.status.running_commit();
        slot.runs(&self.id, commits.into_iter().chain(running).collect());
        self.look(slot, view.clone()).await
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

/// What else goes where a merge is taken back that brought something from a lane that this branch is merged into later, as
/// from master into a release: with that merge it goes there too.
fn lost_elsewhere(view: &View, plan: &Plan) -> Result<Vec<String>, Problem> {
    if plan.lands || plan.restores {
        return Ok(Vec::new());
    }
    let mirror = &view.mirror;
    let branch = &plan.subject.branch;
    let place = |branch: &str| match Lane::of(branch, &view.branches) {
        Lane::Develop => Some((0, None)),
        Lane::Release(release) => Some((1, Some(release))),
        Lane::Master => Some((2, None)),
        Lane::Other(_) => None,
    };
    let Some(here) = place(branch) else { return Ok(Vec::new()) };
    let later = |other: &str| place(other).is_some_and(|there| there > here);
    let mut lost = Vec::new();
    for one in plan.chosen.iter().filter(|one| one.mainline.is_some()) {
        for theirs in mirror.commit(one.commit)?.parents.into_iter().skip(1) {
            for (other, head) in view.heads.iter().filter(|(other, _)| later(other)) {
                let is_of_it = mirror.contains(*head)
                    && mirror.is_ancestor(theirs, *head)?
                    && !mirror.is_ancestor(one.commit, *head)?;
                if is_of_it {
                    lost.push(format!(
                        "{} brought {} from {other}: taking it back takes that out of {other} too once {branch} is merged there",
                        one.commit.short(),
                        theirs.short()
                    ));
                }
            }
        }
    }
    lost.truncate(MAX_NAMED);
    Ok(lost)
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
        if let Some(over) = &plan.passed_over {
            let Past { sync, commit, .. } = over;
            let short = commit.short();
            said.push(format!(
                "passed over {short} ({environment}@{sync}), which was not healthy when it was left; to go there: --to {short}"
            ));
        }
        if let Some(of) = to.of_another(branch) {
            said.push(format!(
                "that ran as {of}: {branch} loses all that it has since; to run {of} again, set spec.lane to it"
            ));
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
    let merge = plan.chosen.iter().find(|one| one.mainline.is_some()).filter(|_| !plan.lands && !plan.restores);
    if let Some(merge) = merge {
        let merge = merge.commit.short();
        said.push(format!("merging that again brings nothing back: to land it again, towpath reland {branch} {merge}"));
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

fn commits(count: usize) -> String {
    if count == 1 { "1 commit".to_owned() } else { format!("{count} commits") }
}
