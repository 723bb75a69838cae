//! What is worth looking at, and in which order: environments by the way that changes take, and of all that is known
//! only what is failing or waits for a person.

mod rollback;

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use towpath_core::health::Health;
use towpath_core::lane::{BranchNames, Lane, LaneRule, Release};
use towpath_core::status::State;

use super::words;
use crate::resources::{Drift, Environment, Repository, Sync};

/// How long an alarm about a branch is held up; after that it is only in the repository's own list.
const ALARM_IS_NEWS: SignedDuration = SignedDuration::from_hours(24);
/// Lines under one entry; the rest is counted.
const MAX_LINES: usize = 4;

/// Where a lane stands on the way of a change, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stage {
    rank: Rank,
    /// `develop`, `r1.4`, `main`: the branch where it is known, else the rule.
    pub(super) name: String,
    /// What the name does not say.
    pub(super) note: &'static str,
}

impl Stage {
    /// Whether it is not on the way to production.
    pub(super) fn is_aside(&self) -> bool {
        self.rank == Rank::Other
    }
}

/// The order of lanes. Work that is not on the way to production comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Develop,
    NewestRelease,
    Release(Reverse<Release>),
    Master,
    Other,
}

/// The stage of an environment.
pub(super) fn stage(environment: &Environment, repository: Option<&Repository>) -> Stage {
    let names = repository.and_then(|repository| repository.resolve().ok()).map(|repository| repository.branches);
    let names = names.unwrap_or_default();
    let lane = &environment.spec.lane;
    let stage = |rank, name: &str, note| Stage { rank, name: name.to_owned(), note };
    match LaneRule::parse(lane) {
        Ok(LaneRule::Develop) => stage(Rank::Develop, &names.develop, ""),
        Ok(LaneRule::Master) => stage(Rank::Master, &names.master, ""),
        Ok(LaneRule::NewestRelease) => {
            let status = environment.status.as_ref();
            let revision = status.and_then(|status| status.running.as_ref().or(status.candidate.as_ref()));
            let branch = revision.map(|revision| words::revision(&revision.revision).0);
            stage(Rank::NewestRelease, branch.unwrap_or("release"), "newest release")
        }
        Ok(LaneRule::Branch(branch)) => by_role(&branch, &names),
        Ok(LaneRule::Commit(commit)) => stage(Rank::Other, &commit.short(), "exact commit"),
        Err(_) => stage(Rank::Other, lane, "not a branch name"),
    }
}

fn by_role(branch: &str, names: &BranchNames) -> Stage {
    let (rank, note) = match Lane::of(branch, names) {
        Lane::Develop => (Rank::Develop, ""),
        Lane::Release(release) => (Rank::Release(Reverse(release)), "release"),
        Lane::Master => (Rank::Master, ""),
        Lane::Other(_) => (Rank::Other, "branch"),
    };
    Stage { rank, name: branch.to_owned(), note }
}

/// The repository of an environment.
pub(super) fn repository_of<'a>(
    environment: &Environment,
    repositories: &'a [Arc<Repository>],
) -> Option<&'a Arc<Repository>> {
    let (home, name) = environment.repository_id();
    repositories
        .iter()
        .find(|repository| repository.namespace().as_deref() == Some(&home) && repository.name_any() == name)
}

/// Environments by repository, then develop before releases before master. Within a lane those that move by themselves
/// come first: the others wait for them.
pub(super) fn in_order(environments: &[Arc<Environment>], repositories: &[Arc<Repository>]) -> Vec<Arc<Environment>> {
    let mut sorted = environments.to_vec();
    sorted.sort_by_cached_key(|environment| {
        let stage = stage(environment, repository_of(environment, repositories).map(|found| &**found));
        let spec = &environment.spec;
        let is_manual = spec.sync == Sync::Manual;
        (environment.repository_id(), stage, is_manual, environment.name_any())
    });
    sorted
}

/// How pressing something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// It fails.
    Failing,
    /// It goes on when a person says so.
    Waiting,
    /// It is worth knowing.
    Notable,
}

impl Urgency {
    /// In a word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Urgency::Failing => "failing",
            Urgency::Waiting => "waiting",
            Urgency::Notable => "notable",
        }
    }
}

/// One thing that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// How pressing it is.
    pub(super) urgency: Urgency,
    /// The environment, or the repository.
    pub(super) who: String,
    /// Whether it has a page.
    pub(super) is_environment: bool,
    /// What is the matter: the end of a sentence that begins with `who`.
    pub(super) what: String,
    /// In detail.
    pub(super) lines: Vec<String>,
    /// A command that helps, where there is one.
    pub(super) command: Option<String>,
}

impl Entry {
    /// What is the matter with an environment.
    fn of(name: &str, urgency: Urgency, what: &str, lines: Vec<String>, command: Option<String>) -> Entry {
        let (who, what, lines) = (name.to_owned(), what.to_owned(), shorten(lines));
        Entry { urgency, who, is_environment: true, what, lines, command }
    }
}

/// Everything that needs attention, the most pressing first.
pub(super) fn attention(
    environments: &[Arc<Environment>],
    repositories: &[Arc<Repository>],
    now: Timestamp,
) -> Vec<Entry> {
    let of_repositories = repositories.iter().flat_map(|repository| about_repository(repository, now));
    let of_environments = environments
        .iter()
        .flat_map(|environment| about_environment(environment).into_iter().chain(rollback::about(environment)));
    let mut entries: Vec<Entry> = of_repositories.chain(of_environments).collect();
    // Stable: within one urgency the order of the page stays.
    entries.sort_by_key(|entry| entry.urgency);
    entries
}

/// What is the matter with an environment. Its rollback is told apart.
pub(super) fn about_environment(environment: &Environment) -> Vec<Entry> {
    let Some(status) = &environment.status else { return Vec::new() };
    let name = environment.name_any();
    let home = environment.namespace().unwrap_or_default();
    let entry = |urgency, what: &str, lines, command| Entry::of(&name, urgency, what, lines, command);
    let mut found = Vec::new();
    let unhealthy: Vec<String> =
        status.unhealthy.iter().map(|object| format!("{}: {}", object.object, object.message)).collect();

    if status.state == State::Blocked {
        found.push(entry(Urgency::Failing, "is blocked", status.problems.clone(), None));
    }
    if status.state != State::Suspended {
        match status.health {
            Some(Health::Degraded) => found.push(entry(Urgency::Failing, "is degraded", unhealthy, None)),
            Some(Health::Missing) => found.push(entry(Urgency::Failing, "misses objects", unhealthy, None)),
            _ if status.is_late() => {
                found.push(entry(Urgency::Failing, "did not become healthy in time", unhealthy, None));
            }
            Some(Health::Suspended) => {
                found.push(entry(Urgency::Waiting, "has a rollout that waits for a person", unhealthy, None));
            }
            _ => {}
        }
    }
    if status.leftovers.confirm_prune.is_some() {
        let waiting = &status.leftovers;
        let count = waiting.to_confirm.len().max(waiting.to_confirm_count as usize);
        let objects = words::count(count, "object that left git", "objects that left git");
        let reason = |object: &str| waiting.kept.iter().find(|kept| kept.object == object).map(|kept| &kept.reason);
        let line = |object: &String| match reason(object) {
            Some(reason) => format!("{object}: {reason}"),
            None => object.clone(),
        };
        let lines = waiting.to_confirm.iter().map(line).collect();
        let command = format!("towpath confirm -n {home} {name}");
        found.push(entry(Urgency::Waiting, &format!("keeps {objects}"), lines, Some(command)));
    }
    if let Some(held) = status.held.as_ref().filter(|_| status.state == State::Held) {
        found.push(entry(Urgency::Waiting, "is held on what it runs", vec![held.clone()], None));
    }
    if let Some(candidate) = &status.candidate
        && environment.spec.sync == Sync::Manual
        && status.state == State::OutOfSync
        && status.problems.is_empty()
    {
        let (branch, commit) = words::revision(&candidate.revision);
        let line = format!("{branch} {commit}: {}", candidate.subject);
        found.push(entry(
            Urgency::Waiting,
            "waits for a sync request",
            vec![line],
            Some(format!("towpath sync {name}")),
        ));
    }
    if let Some(drift) = &status.drift
        && environment.spec.drift == Drift::Report
    {
        let line = format!("{}: {}", drift.object, drift.message);
        found.push(entry(Urgency::Waiting, "has drifted and is only to report it", vec![line], None));
    }
    if status.state == State::OutOfSync && !status.problems.is_empty() {
        found.push(entry(Urgency::Notable, "failed for now and is tried again", status.problems.clone(), None));
    }
    if status.state == State::Suspended {
        found.push(entry(Urgency::Notable, "is suspended: neither synced nor mended", Vec::new(), None));
    }
    found
}

fn about_repository(repository: &Repository, now: Timestamp) -> Vec<Entry> {
    let Some(status) = &repository.status else { return Vec::new() };
    let entry = |urgency, what: &str, lines: Vec<String>| Entry {
        urgency,
        who: format!("Repository {}", repository.name_any()),
        is_environment: false,
        what: what.to_owned(),
        lines: shorten(lines),
        command: None,
    };
    let mut found = Vec::new();
    let not_ready = status.conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status != "True");
    if let Some(condition) = not_ready {
        found.push(entry(Urgency::Failing, "cannot be read", vec![condition.message.clone()]));
    }
    let is_news = |alarm: &&String| {
        let at = alarm.split_once(": ").and_then(|(at, _)| at.parse::<Timestamp>().ok());
        at.is_none_or(|at| now.duration_since(at) < ALARM_IS_NEWS)
    };
    let alarms: Vec<String> = status.alarms.iter().filter(is_news).cloned().collect();
    if !alarms.is_empty() {
        found.push(entry(Urgency::Waiting, "has branches that changed in a way they should not", alarms));
    }
    found
}

fn shorten(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > MAX_LINES {
        let more = lines.len() - (MAX_LINES - 1);
        lines.truncate(MAX_LINES - 1);
        lines.push(format!("and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str, spec: &str, status: &str) -> Arc<Environment> {
        let spec = format!("{{repository: shop, path: x, {spec}}}");
        let mut environment = Environment::new(name, serde_saphyr::from_str(&spec).unwrap());
        environment.metadata.namespace = Some("shop".into());
        environment.status = (!status.is_empty()).then(|| serde_saphyr::from_str(status).unwrap());
        Arc::new(environment)
    }

    fn said(environment: &Environment) -> Vec<(Urgency, String)> {
        about_environment(environment).into_iter().map(|entry| (entry.urgency, entry.what)).collect()
    }

    #[test]
    fn environments_stand_in_the_order_of_promotion() {
        let environments = [
            environment("prod", "lane: master, sync: Manual", ""),
            environment("playground", "lane: feature/x", ""),
            environment("staging", "lane: master", ""),
            environment("old", "lane: r1.9", ""),
            environment("older", "lane: r1.10", ""),
            environment("test", "lane: release", ""),
            environment("dev", "lane: develop", ""),
        ];
        let sorted: Vec<String> =
            in_order(&environments, &[]).iter().map(|environment| environment.name_any()).collect();
        assert_eq!(sorted, ["dev", "test", "older", "old", "staging", "prod", "playground"]);
    }

    #[test]
    fn a_branch_by_its_name_stands_with_its_role() {
        let yaml = "{url: /srv/git, branches: {develop: trunk, master: main}}";
        let repository = Repository::new("shop", serde_saphyr::from_str(yaml).unwrap());
        let of = |lane: &str| stage(&environment("x", &format!("lane: {lane}"), ""), Some(&repository));
        assert_eq!((of("trunk").rank, of("develop").name), (Rank::Develop, "trunk".into()));
        assert_eq!(of("main"), of("master"));
    }

    #[test]
    fn all_is_well_needs_no_attention() {
        assert_eq!(said(&environment("dev", "lane: develop", "{state: Synced, health: Healthy}")), []);
        assert_eq!(said(&environment("dev", "lane: develop", "{state: OutOfSync, health: Progressing}")), []);
        assert_eq!(said(&environment("dev", "lane: develop", "")), []);
    }

    #[test]
    fn each_trouble_is_said_once() {
        for (spec, status, expected) in [
            ("", "{state: Blocked, problems: [x]}", vec![(Urgency::Failing, "is blocked")]),
            ("", "{state: Synced, health: Degraded}", vec![(Urgency::Failing, "is degraded")]),
            ("", "{state: Synced, health: Missing}", vec![(Urgency::Failing, "misses objects")]),
            ("", "{state: OutOfSync, problems: [x]}", vec![(Urgency::Notable, "failed for now and is tried again")]),
            (
                "",
                "{state: Suspended, health: Degraded}",
                vec![(Urgency::Notable, "is suspended: neither synced nor mended")],
            ),
            (
                ", sync: Manual",
                "{state: OutOfSync, candidate: {revision: 'master@sha1:01'}}",
                vec![(Urgency::Waiting, "waits for a sync request")],
            ),
            ("", "{state: OutOfSync, candidate: {revision: 'master@sha1:01'}}", vec![]),
            (
                "",
                "{state: Synced, health: Suspended}",
                vec![(Urgency::Waiting, "has a rollout that waits for a person")],
            ),
            (
                "",
                "{state: Synced, confirmPrune: 'a:b', toConfirm: [ConfigMap x/y], kept: [{object: ConfigMap x/y, reason: z}]}",
                vec![(Urgency::Waiting, "keeps 1 object that left git")],
            ),
        ] {
            let found = said(&environment("prod", &format!("lane: master{spec}"), status));
            let found: Vec<(Urgency, &str)> = found.iter().map(|(urgency, what)| (*urgency, what.as_str())).collect();
            assert_eq!(found, expected, "{status}");
        }
    }

    #[test]
    fn an_old_alarm_is_no_news() {
        let now: Timestamp = "2026-08-03T12:00:00Z".parse().unwrap();
        for (alarm, is_news) in [
            ("2026-08-03T11:00:00Z: branch r1.4 was deleted", true),
            ("2026-08-02T11:00:00Z: branch r1.4 was deleted", false),
        ] {
            let mut repository = Repository::new("shop", serde_saphyr::from_str("{url: /srv/git}").unwrap());
            repository.status =
                Some(crate::resources::RepositoryStatus { alarms: vec![alarm.into()], ..Default::default() });
            assert_eq!(!about_repository(&repository, now).is_empty(), is_news, "{alarm}");
        }
    }

    #[test]
    fn many_lines_are_counted() {
        let lines = |count: usize| shorten((0..count).map(|number| number.to_string()).collect());
        assert_eq!(lines(MAX_LINES).len(), MAX_LINES);
        assert_eq!(lines(MAX_LINES + 1).last().unwrap(), "and 2 more");
    }
}
