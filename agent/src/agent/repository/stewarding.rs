//! What a Repository's task does where its agent is the steward: it moves components on deploy branches, by itself or
//! because a person asks, and cuts releases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use towpath_core::bump::{Author, Move};
use towpath_core::fault::{Fault, Problem};
use towpath_core::lane::Release;
use towpath_core::names::annotation;
use towpath_core::revision::{CommitId, clean_line};
use towpath_core::status::Condition;

use super::Task;
use crate::blocking::blocking;
use crate::bump::{self, Lane, Pushed, Steward};
use crate::cluster::Severity;
use crate::cut::Cut;
use crate::registry::{ImageName, Keys, Looked};
use crate::repo::{self, Credentials, Mirror};
use crate::resources::{Answer, Ask, Bump, BumpAsk, CutAsk, Outside, Repository, ResolvedRepository, What, secret_for};

/// How often somebody else may be there first in one look.
const MAX_TRIES: usize = 5;
/// Commits that the status lists.
const MAX_LISTED: usize = 10;
/// Lines of an answer.
const MAX_LINES: usize = 200;
/// Characters of a line in the status.
const SHOWN_CHARACTERS: usize = 500;
/// Moves that a line in the status names.
const MAX_NAMED: usize = 10;
/// How long a request is tried. What cannot be done by then is not done, for a person may want something else by now.
const ASKED_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// How long a push that was refused is not tried again where nothing has changed.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// When an image that was missing is looked for again: at first, and at the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Images that are waited for at one time.
const MAX_WAITS: usize = 1000;
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
    waits: BTreeMap<String, Wait>,
    /// The last commits, the newest first; none before the status was read.
    done: Option<Vec<String>>,
    /// The answer to the last request.
    answer: Option<Answer>,
    /// When there will be something to do.
    pub(super) look_in: Option<Duration>,
}

/// An image that is not there, or of which that is not known.
struct Wait {
    problem: Problem,
    looks: u32,
    again: Instant,
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

    /// The moves whose images are there, and what the others wait for. They are looked for again ever more slowly.
    async fn with_images(
        &mut self,
        resolved: &ResolvedRepository,
        lane: &Lane,
        mut moves: Vec<Move>,
    ) -> Result<(Vec<Move>, Vec<Problem>), Problem> {
        let Some((mirror, _)) = self.lane(&lane.branch) else { return Ok((Vec::new(), Vec::new())) };
        let parts = self.components.parts.clone();
        let images = {
            let (lane, moves) = (lane.clone(), moves.clone());
            blocking(move || bump::images(&mirror, &parts, &lane, &moves)).await?
        };
        if images.is_empty() {
            return Ok((moves, Vec::new()));
        }
        let mut keys = Keys::default();
        for name in &resolved.image_pull_secrets {
            let secret = self.shared.cluster.secret(&resolved.home, name).await?;
            let secret = serde_json::to_value(secret).map_err(|error| Problem::setup(error.to_string()))?;
            keys.add(name, &secret)?;
        }
        let mut problems = Vec::new();
        for image in images {
            let waits = self.stewarding.waits.get(&image.image);
            let problem = match waits.filter(|wait| wait.again > Instant::now()) {
                Some(wait) => Some(wait.problem.clone()),
                None => {
                    let looks = waits.map_or(0, |wait| wait.looks);
                    let problem = self.look_up(&image, &keys).await;
                    if let Some(problem) = problem.clone() {
                        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(looks)).min(LONGEST_PAUSE);
                        let again = Instant::now() + self.shared.settings.scaled(pause);
                        let wait = Wait { problem, looks: looks + 1, again };
                        self.stewarding.waits.insert(image.image.clone(), wait);
                    } else {
                        self.stewarding.waits.remove(&image.image);
                    }
                    problem
                }
            };
            if let Some(problem) = problem {
                moves.retain(|one| one.path != image.path);
                if let Some(wait) = self.stewarding.waits.get(&image.image) {
                    let remaining = wait.again.saturating_duration_since(Instant::now());
                    let look_in = self.stewarding.look_in.map_or(remaining, |known| known.min(remaining));
                    self.stewarding.look_in = Some(look_in);
                }
                problems.push(problem);
            }
        }
        while self.stewarding.waits.len() > MAX_WAITS {
            self.stewarding.waits.pop_first();
        }
        Ok((moves, problems))
    }

    /// Why a component does not move to an image; none where it is there.
    async fn look_up(&self, image: &bump::Image, keys: &Keys) -> Option<Problem> {
        let bump::Image { path, image } = image;
        let name = match ImageName::parse(image) {
            Ok(name) => name,
            Err(problem) => return Some(problem),
        };
        match self.shared.registries.look_up(&name, keys).await {
            Looked::Found(_) => None,
            Looked::Missing => Some(
                Problem::passing(format!(
                    "component {path} waits for its image {image}: {} does not have it",
                    name.host()
                ))
                .hint("push it; it is looked for again by itself"),
            ),
            Looked::Unknown(problem) => {
                let message = format!("component {path} waits for its image {image}: {}", problem.message);
                Some(Problem { message, ..problem })
            }
        }
    }

    fn lane(&self, branch: &str) -> Option<(Arc<Mirror>, Lane)> {
        let head = *self.seen.heads.get(branch).filter(|_| !self.seen.deleted.contains(branch))?;
        let mirror = self.open.as_ref()?.mirror.clone();
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
        let credentials = self.write_credentials(resolved).await?;
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

    async fn write_credentials(&self, resolved: &ResolvedRepository) -> Result<Credentials, Problem> {
        match &resolved.write_secret {
            None => Ok(Credentials::default()),
            Some(name) => repo::credentials(&self.shared.cluster.secret(&resolved.home, name).await?),
        }
    }

    /// What a person asked for and was not told yet.
    fn asked(&self, resource: &Repository) -> Option<Result<Ask, Answer>> {
        let text = resource.annotations().get(annotation::REQUEST)?;
        let ask = serde_json::from_str::<Ask>(text).map_err(|error| {
            let line = format!("the annotation {} cannot be read: {error}", annotation::REQUEST);
            Answer { id: format!("unreadable-{:08x}", mark(text)), done: false, lines: vec![line] }
        });
        let id = ask.as_ref().map_or_else(|answer| &answer.id, |ask| &ask.id);
        let known = self.stewarding.answer.as_ref().or(self.status.answer.as_ref());
        if known.is_some_and(|known| known.id == *id) {
            return None;
        }
        Some(ask)
    }

    /// Whether a person waits for an answer.
    pub(super) fn is_asked(&self, resource: &Repository) -> bool {
        matches!(self.asked(resource), Some(Ok(_)))
    }

    /// Says that nothing of what was asked for can be done, where it has waited too long or the Repository needs somebody.
    pub(super) fn decline(&mut self, resource: &Repository, problem: &Problem) {
        let Some(asked) = self.asked(resource) else { return };
        match asked {
            Err(answer) => self.tell(resource, answer),
            Ok(ask) if problem.fault != Fault::Passing || is_late(&ask) => {
                self.tell(resource, Answer { id: ask.id, done: false, lines: vec![problem.to_string()] });
            }
            Ok(_) => {}
        }
    }

    fn tell(&mut self, resource: &Repository, mut answer: Answer) {
        answer.lines.truncate(MAX_LINES);
        for line in &mut answer.lines {
            *line = clean_line(line, SHOWN_CHARACTERS);
        }
        let Answer { id, done, lines } = &answer;
        tracing::info!(repository = self.id.1, request = id, done, ?lines, "a request was answered");
        let (severity, reason) = if *done { (Severity::Normal, "Done") } else { (Severity::Warning, "NotDone") };
        self.shared.cluster.event(resource, severity, reason, &clean_line(&lines.join("; "), SHOWN_CHARACTERS));
        self.stewarding.answer = Some(answer);
    }

    /// Does what a person asked for, once.
    async fn answer(&mut self, resource: &Repository, resolved: &ResolvedRepository) {
        let ask = match self.asked(resource) {
            None => return,
            Some(Err(answer)) => return self.tell(resource, answer),
            Some(Ok(ask)) => ask,
        };
        if is_late(&ask) {
            let lines = vec![format!("it was asked at {}, and could not be done until now: ask again", ask.at)];
            return self.tell(resource, Answer { id: ask.id, done: false, lines });
        }
        let came = if resolved.steward {
            match &ask.what {
                What::Bump(bump) => self.bump_by_hand(resolved, &ask, bump).await,
                What::Cut(cut) => self.cut(resolved, &ask, cut).await,
            }
        } else {
            Err(vec![
                Problem::setup("this agent is not the steward of the repository")
                    .hint("set spec.steward, or ask the agent that is"),
            ])
        };
        let (done, lines) = match came {
            Ok(lines) => (true, lines),
            // It is tried again at the next look.
            Err(problems) if problems.iter().any(|problem| problem.fault == Fault::Passing) => {
                tracing::info!(repository = self.id.1, problem = %problems[0], "a request is tried again");
                return;
            }
            Err(problems) => (false, problems.iter().map(ToString::to_string).collect()),
        };
        self.tell(resource, Answer { id: ask.id, done, lines });
    }

    async fn bump_by_hand(
        &mut self,
        resolved: &ResolvedRepository,
        ask: &Ask,
        wanted: &BumpAsk,
    ) -> Result<Vec<String>, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let branch = &wanted.lane;
        let rule = resolved
            .bumps
            .iter()
            .find(|rule| rule.lane.branch(&self.seen.heads, &resolved.branches) == Some(branch.as_str()));
        let may_be_outside = rule.is_some_and(|rule| rule.outside == Outside::Warn);
        for _ in 0..MAX_TRIES {
            let unknown = || {
                let known: Vec<&str> = self.seen.heads.keys().map(String::as_str).collect();
                let problem = Problem::content(format!("no branch {branch} is followed in the deploy repository"));
                one(problem.hint(format!("followed are: {}", known.join(", "))))
            };
            let (mirror, lane) = self.lane(branch).ok_or_else(unknown)?;
            let parts = self.components.parts.clone();
            let (looked_at, wanted, ask_id, at) = (lane.clone(), wanted.clone(), ask.id.clone(), ask.at);
            let done = {
                let mirror = mirror.clone();
                let is_it = move |message: &str| towpath_core::bump::is_for(message, &ask_id);
                blocking(move || mirror.newest_that_says(lane.head, at, is_it)).await.map_err(one)?
            };
            if let Some(done) = done {
                // Whoever did it was ended before it could be said, and somebody may have taken it back since.
                return Ok(vec![format!("done already, by {}", done.short())]);
            }
            let (moves, stays): (Vec<Move>, Vec<Problem>) = blocking(move || match &wanted.component {
                None => bump::look(&mirror, &parts, &looked_at).map(|found| (found.moves, found.problems)),
                Some(component) => {
                    let target = (component.as_str(), wanted.to.as_deref());
                    bump::by_hand(&mirror, &parts, &looked_at, target, may_be_outside)
                        .map(|moved| (moved.into_iter().collect(), Vec::new()))
                }
            })
            .await
            .map_err(one)?;
            let stays = stays.iter().map(|problem| format!("stays: {problem}"));
            if moves.is_empty() {
                let nothing = format!("nothing to move on {branch}@{}", lane.head.short());
                return Ok(std::iter::once(nothing).chain(stays).collect());
            }
            let mut lines: Vec<String> = moves
                .iter()
                .map(|moved| {
                    let outside = if moved.is_outside { " (outside of its branch)" } else { "" };
                    format!("{}: {} to {}{outside}", moved.path, moved.names.0, moved.names.1)
                })
                .chain(stays)
                .collect();
            if ask.dry_run {
                return Ok(lines);
            }
            let (moves, waits) = self.with_images(resolved, &lane, moves).await.map_err(one)?;
            if !waits.is_empty() {
                // A person decides whether to wait, or to ask for the rest.
                return Err(waits
                    .into_iter()
                    .map(|wait| Problem { fault: wait.fault.min(Fault::Setup), ..wait })
                    .collect());
            }
            let cluster = self.shared.settings.cluster_name.clone();
            let author = Author { cluster, request: Some((ask.id.clone(), ask.by.clone())) };
            if let Some(commit) = self.commit(resolved, &lane, moves, author).await.map_err(one)? {
                lines.insert(0, format!("{branch} moved to {}", commit.short()));
                return Ok(lines);
            }
            self.fetch(resolved).await.map_err(one)?;
        }
        Err(one(Problem::passing(format!("branch {branch} moves faster than it can be committed to"))))
    }

    async fn cut(
        &mut self,
        resolved: &ResolvedRepository,
        ask: &Ask,
        wanted: &CutAsk,
    ) -> Result<Vec<String>, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let release = Release::parse(&wanted.release).ok_or_else(|| {
            one(Problem::content(format!("{:?} is no name of a release", wanted.release)).hint("write it as r1.3"))
        })?;
        let from = wanted.from.clone().unwrap_or_else(|| resolved.branches.develop.clone());
        let by_commit = from.parse::<CommitId>().ok().and_then(|head| {
            let mirror = self.open.as_ref()?.mirror.clone();
            mirror.contains(head).then(|| (mirror, Lane { branch: head.short(), head }))
        });
        let (mirror, lane) = by_commit.or_else(|| self.lane(&from)).ok_or_else(|| {
            one(Problem::content(format!("no branch {from} is followed in the deploy repository"))
                .hint("name a branch that an Environment or spec.bumps follows, or a commit of it, with --from"))
        })?;
        let head = lane.head;
        let parts = self.components.parts.clone();
        let mut credentials = BTreeMap::from([(String::new(), self.write_credentials(resolved).await)]);
        for address in parts.parts.keys() {
            credentials.insert(address.clone(), self.component_credentials(resolved, address).await);
        }
        let dry_run = ask.dry_run;
        let came = blocking(move || {
            let credentials = |address: &str| {
                credentials.get(address).cloned().unwrap_or_else(|| Err(Problem::passing("it was not looked at yet")))
            };
            let from = (lane.branch.as_str(), lane.head);
            Cut { mirror: &mirror, parts: &parts, from, release, dry_run, credentials: &credentials }.run()
        })
        .await;
        if came.problems.is_empty() {
            return Ok(came.lines);
        }
        // A person waits: what is missing is said now, and the same cut goes on from there.
        let mut problems: Vec<Problem> = came.problems;
        problems.push(Problem::setup(format!("go on with towpath release cut {release} --from {head}")));
        problems.iter_mut().for_each(|problem| problem.fault = problem.fault.min(Fault::Setup));
        problems.extend(came.lines.into_iter().map(Problem::setup));
        Err(problems)
    }

    /// To push to a component with: what is said for its address, and beside the deploy repository what that is pushed to
    /// with.
    async fn component_credentials(
        &self,
        resolved: &ResolvedRepository,
        address: &str,
    ) -> Result<Credentials, Problem> {
        let beside = &resolved.components[..resolved.components.len().min(1)];
        let own = secret_for(&resolved.components, address)?;
        let is_beside = secret_for(beside, address).is_ok_and(|secret| secret == own);
        if is_beside {
            return self.write_credentials(resolved).await;
        }
        match own {
            None => Ok(Credentials::default()),
            Some(name) => repo::credentials(&self.shared.cluster.secret(&resolved.home, name).await?),
        }
    }

    /// The last commits that were made, as the status lists them.
    pub(super) fn bumps(&self) -> Vec<String> {
        self.stewarding.done.clone().unwrap_or_else(|| self.status.bumps.clone())
    }

    /// What became of the last request.
    pub(super) fn answered(&self) -> Option<Answer> {
        self.stewarding.answer.clone().or_else(|| self.status.answer.clone())
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

/// Whether a request has waited too long.
fn is_late(ask: &Ask) -> bool {
    Timestamp::now().duration_since(ask.at) > ASKED_WITHIN
}

/// Tells one unreadable request from another.
fn mark(text: &str) -> u32 {
    use sha2::Digest;
    u32::from_be_bytes(sha2::Sha256::digest(text)[..4].try_into().expect("there are 32 bytes"))
}
