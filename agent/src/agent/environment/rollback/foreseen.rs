//! What becomes of every environment of the lane, found out without a write, and the digest that stands for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use towpath_core::candidate::Candidate;
use towpath_core::environment::{self, SyncMode};
use towpath_core::fault::{Problem, Problems};
use towpath_core::health::Health;
use towpath_core::plan::{deletion_budget, is_protected};
use towpath_core::revert::marks::{self, Mark};
use towpath_core::revision::CommitId;
use towpath_core::rollback::{Changed, Confirmed, Part, fit, lines};
use towpath_core::status::{EnvironmentStatus, MAX_LINES};

use super::super::Task;
use super::preview::{Found, Prepared};
use crate::repo::View;
use crate::resources::{Bump, Environment};
use crate::sync::{self, Foreseen};

/// Other environments of the lane whose differences are made; the rest is counted.
const MAX_OTHERS: usize = 20;
/// Components that go back and are named.
const MAX_BUMPED: usize = 10;
/// Lines of a preview. What is said before them later, as why it waits, has room in what a status keeps.
const MAX_SHOWN: usize = MAX_LINES - 10;
/// How many times the lines of another environment may be about the commits, and about the environment itself.
const OWN_WEIGHT: usize = 4;

impl Task {
    /// Finds out what changes in this environment and in the others, and what keeps it from being done.
    pub(super) async fn foresee_all(
        &self,
        resource: &Environment,
        environment: &environment::Environment,
        view: &Arc<View>,
        found: Found,
        (is_overridden, is_away): (bool, bool),
    ) -> Result<Prepared, Vec<Problem>> {
        let Found { plan, made, goes_to, mut marks, mut said, left, mut doubts } = found;
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
        let home = (environment.repository_home.clone(), environment.repository.clone());
        let repository = self.shared.board.repositories.get(&home);
        let rules = repository.as_ref().and_then(|one| one.resolve().ok()).map(|resolved| resolved.bumps);
        let is_bumped = rules.into_iter().flatten().any(|rule| {
            rule.bump == Bump::Commit && rule.lane.branch(&view.heads, &view.branches) == Some(branch.as_str())
        });
        if is_bumped && !plan.lands {
            said.extend(bumped_again(view, made.tip, plan.subject.head).map_err(Problems::into_vec)?);
        }
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
        own_lines.extend(waiting_deletions(&own.changes, self.status.objects));
        if own.changes.is_empty() && own.also.is_empty() {
            doubts.push(format!("taking it back changes nothing in {name}"));
        }
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
        let clusters: Vec<String> =
            repository.iter().flat_map(|one| &one.spec.peers).map(|peer| peer.cluster.clone()).collect();
        if !clusters.is_empty() {
            let clusters = clusters.join(", ");
            parts.push(vec![format!(
                "what follows {branch} in cluster {clusters} follows too, and is not looked at here"
            )]);
        }
        if more > 0 {
            parts.push(vec![format!("{more} more environments follow {branch}")]);
        }
        let weight = |place: usize| if place < 2 { OWN_WEIGHT } else { 1 };
        let parts = parts.into_iter().enumerate().map(|(place, lines)| Part { lines, weight: weight(place) });
        let lines = fit(parts.collect(), MAX_SHOWN);
        Ok(Prepared { digest: confirmed.digest(), doubts, lines, plan, made, goes_to, is_away })
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

fn how(other: &environment::Environment) -> &'static str {
    match other.sync {
        SyncMode::Automatic if other.after.is_empty() => "follows by itself",
        SyncMode::Automatic => "follows by itself when it has passed",
        SyncMode::Manual => "may move to it on request",
    }
}

fn counted(changes: usize) -> String {
    match changes {
        0 => "nothing changes".to_owned(),
        1 => "1 object changes".to_owned(),
        _ => format!("{changes} objects change"),
    }
}

/// The components that go back to an older commit, and that the agent moves on again with their next one.
fn bumped_again(view: &View, tip: CommitId, head: CommitId) -> Result<Vec<String>, Problems> {
    let (then, now) = (view.mirror.tree(tip)?, view.mirror.tree(head)?);
    let then: BTreeMap<&str, CommitId> = then.submodules().collect();
    let moved = now.submodules().filter(|(path, commit)| then.get(path).is_some_and(|then| then != commit));
    let told = moved.map(|(path, commit)| {
        let short = commit.short();
        format!("the agent moves {path} on with its next commit, which has {short} in it unless that is reverted there")
    });
    Ok(told.take(MAX_BUMPED).collect())
}

/// The deletions that wait for a confirmation of their own, of an environment of so many objects.
fn waiting_deletions(changes: &[Changed], objects: u32) -> Option<String> {
    let gone: Vec<&Changed> = changes.iter().filter(|one| one.sign == '-' && !sync::is_hash_named(&one.key)).collect();
    let protected = gone.iter().filter(|one| is_protected(&one.key)).count();
    let budget = deletion_budget(usize::try_from(objects).unwrap_or(usize::MAX));
    let waiting = if gone.len() - protected > budget { gone.len() } else { protected };
    (waiting > 0)
        .then(|| format!("  {waiting} of the deletions wait for a confirmation after that: towpath get says which"))
}

/// Rollouts that are under way: going back ends them.
fn canaries(status: &EnvironmentStatus) -> Vec<String> {
    let is_under_way = |health: Health| matches!(health, Health::Suspended | Health::Progressing);
    let unhealthy = status.unhealthy.iter().filter(|one| is_under_way(one.health));
    unhealthy.map(|one| format!("{} is under way ({}), and ends", one.object, one.message)).collect()
}
