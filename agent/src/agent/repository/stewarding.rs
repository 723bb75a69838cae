//! What a Repository's task does where its agent is the steward: it moves components on deploy branches, by itself or
//! because a person asks, and cuts releases.

mod images;
mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use towpath_core::bump::{Author, Move};
use towpath_core::fault::{Fault, Problem};
use towpath_core::revision::{CommitId, clean_line};
use towpath_core::status::Condition;

use super::Task;
use crate::blocking::blocking;
use crate::bump::{self, Lane, Pushed, Steward};
use crate::repo::Mirror;
use crate::resources::{Answer, Bump, Repository, ResolvedRepository};

/// How often somebody else may be there first in one look.
const MAX_TRIES: usize = 5;
/// Commits that the status lists.
const MAX_LISTED: usize = 10;
/// Characters of a line in the status.
const SHOWN_CHARACTERS: usize = 500;
/// Moves that a line in the status names.
const MAX_NAMED: usize = 10;
/// How long a push that was refused is not tried again where nothing has changed.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// The condition that says whether components move as they should.
const BUMPED: &str = "Bumped";

/// What goes from look to look.
#[derive(Default)]
pub(super) struct Stewarding {
    /// Since when there are moves to be made, by branch.
    since: BTreeMap<String, Instant>,
    /// What keeps components from moving.
    problem: Option<Problem>,
    /// Pushes that were refused, by branch.
    refused: BTreeMap<String, Refused>,
    /// Images that are waited for.
    waits: BTreeMap<String, images::Wait>,
    /// The last commits, the newest first; none before the status was read.
    done: Option<Vec<String>>,
    /// The answer to the last request.
    answer: Option<Answer>,
    /// When there will be something to do.
    pub(super) look_in: Option<Duration>,
}

/// A push that was refused.
struct Refused {
    lane: Lane,
    moves: Vec<Move>,
    problem: Problem,
    at: Instant,
}

impl Task {
    /// Moves what is due, and does what was asked for.
    pub(super) async fn steward(&mut self, resource: &Repository, resolved: &ResolvedRepository) {
        self.stewarding.look_in = None;
        self.answer(resource, resolved).await;
        let rules = resolved.bumps.iter().filter(|rule| resolved.steward && rule.bump == Bump::Commit);
        let mut problems = Vec::new();
        let mut branches = Vec::new();
        for rule in rules {
            let Some(branch) = rule.lane.branch(&self.seen.heads, &resolved.branches).map(str::to_owned) else {
                continue;
            };
            branches.push(branch.clone());
            let window = self.shared.settings.scaled(rule.window);
            match self.bump(resolved, &branch, window).await {
                Ok(found) => problems.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        self.stewarding.since.retain(|branch, _| branches.contains(branch));
        problems.sort_by_key(|problem| problem.fault);
        self.stewarding.problem = problems.into_iter().next();
    }

    /// Moves the components of a branch forward, once they have been gathered for some time. Gives what should be looked at.
    async fn bump(
        &mut self,
        resolved: &ResolvedRepository,
        branch: &str,
        window: Duration,
    ) -> Result<Vec<Problem>, Problem> {
        for _ in 0..MAX_TRIES {
            let Some((mirror, lane)) = self.lane(branch) else { return Ok(Vec::new()) };
            let parts = self.components.parts.clone();
            let looked_at = lane.clone();
            let found = {
                let mirror = mirror.clone();
                blocking(move || bump::look(&mirror, &parts, &looked_at)).await?
            };
            if found.moves.is_empty() {
                self.stewarding.since.remove(branch);
                return Ok(found.problems);
            }
            let since = *self.stewarding.since.entry(branch.to_owned()).or_insert_with(Instant::now);
            let remaining = window.saturating_sub(since.elapsed());
            if !remaining.is_zero() {
                let look_in = self.stewarding.look_in.map_or(remaining, |known| known.min(remaining));
                self.stewarding.look_in = Some(look_in);
                return Ok(found.problems);
            }
            let (moves, waits) = self.with_images(resolved, &lane, found.moves).await?;
            let problems: Vec<Problem> = waits.into_iter().chain(found.problems).collect();
            if moves.is_empty() {
                return Ok(problems);
            }
            let refused_for = self.shared.settings.scaled(REFUSED_FOR);
            if let Some(refused) = self.stewarding.refused.get(branch)
                && (refused.lane.head, &refused.moves) == (lane.head, &moves)
                && refused.at.elapsed() < refused_for
            {
                return Err(refused.problem.clone());
            }
            self.stewarding.refused.remove(branch);
            let author = Author { cluster: self.shared.settings.cluster_name.clone(), request: None };
            match self.commit(resolved, &lane, moves.clone(), author).await {
                Ok(Some(_)) => {
                    self.stewarding.since.remove(branch);
                    return Ok(problems);
                }
                Ok(None) => self.fetch(resolved).await?,
                Err(problem) => {
                    if problem.fault != Fault::Passing {
                        let refused = Refused { lane, moves, problem: problem.clone(), at: Instant::now() };
                        self.stewarding.refused.insert(branch.to_owned(), refused);
                    }
                    return Err(problem);
                }
            }
        }
        Err(Problem::passing(format!("branch {branch} moves faster than its components can be committed")))
    }

    fn lane(&self, branch: &str) -> Option<(Arc<Mirror>, Lane)> {
        let head = *self.seen.heads.get(branch).filter(|_| !self.seen.deleted.contains(branch))?;
        let mirror = self.open.as_ref()?.open.mirror.clone();
        Some((mirror, Lane { branch: branch.to_owned(), head }))
    }

    /// Commits and pushes moves. None where somebody else was there first.
    async fn commit(
        &mut self,
        resolved: &ResolvedRepository,
        lane: &Lane,
        moves: Vec<Move>,
        author: Author,
    ) -> Result<Option<CommitId>, Problem> {
        let Some((mirror, _)) = self.lane(&lane.branch) else { return Ok(None) };
        let credentials = self.shared.credentials(&resolved.home, resolved.write_secret.as_deref()).await?;
        let steward = Steward { cluster: author.cluster.clone(), key: self.shared.key().await?, credentials };
        let named = moves.iter().take(MAX_NAMED);
        let mut said: Vec<String> = named.map(|one| format!("{} {}..{}", one.path, one.names.0, one.names.1)).collect();
        if moves.len() > MAX_NAMED {
            said.push(format!("{} more", moves.len() - MAX_NAMED));
        }
        let pushed = {
            let (mirror, lane) = (mirror.clone(), lane.clone());
            blocking(move || bump::commit(&mirror, &lane, &moves, &steward, &author, Timestamp::now())).await?
        };
        let Pushed::Done(commit) = pushed else { return Ok(None) };
        // It is here already: nobody is contacted.
        let moved = vec![(lane.branch.clone(), commit)];
        blocking(move || mirror.fetch(&moved)).await?;
        self.seen.heads.insert(lane.branch.clone(), commit);
        let line = format!("{}@{}: {}", lane.branch, commit.short(), said.join(", "));
        let line = clean_line(&line, SHOWN_CHARACTERS);
        tracing::info!(repository = self.id.1, bump = line, "bumped");
        let done = self.stewarding.done.get_or_insert_with(|| self.status.bumps.clone());
        done.insert(0, line);
        done.truncate(MAX_LISTED);
        Ok(Some(commit))
    }

    /// The last commits that were made, as the status lists them.
    pub(super) fn bumps(&self) -> Vec<String> {
        self.stewarding.done.clone().unwrap_or_else(|| self.status.bumps.clone())
    }

    /// Whether components move as they should, as a condition. None where nobody wants them to.
    pub(super) fn bumped(&self, resource: &Repository, now: Timestamp) -> Option<Condition> {
        let wants = resource.spec.bumps.iter().any(|bump| bump.bump == Bump::Commit);
        if !wants {
            return None;
        }
        let (status, reason, message) = match &self.stewarding.problem {
            _ if !resource.spec.steward => {
                ("False", "NotSteward", "spec.steward is not set: another agent moves components".to_owned())
            }
            Some(problem) => ("False", "NotBumped", problem.to_string()),
            None => ("True", "Bumped", "components follow their branches".to_owned()),
        };
        let condition = Condition::after(&self.status.conditions, now, (BUMPED, status), reason, message);
        Some(condition.of_generation(resource.metadata.generation))
    }
}
