//! What a person asks of the steward: a bump by hand, a new release. It is done once, and answered in the status.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use towpath_core::bump::{Author, Move};
use towpath_core::fault::{Fault, Problem};
use towpath_core::lane::Release;
use towpath_core::names::annotation;
use towpath_core::revision::{CommitId, clean_line};

use super::super::Task;
use super::{MAX_TRIES, SHOWN_CHARACTERS};
use crate::blocking::blocking;
use crate::bump::{self, Lane};
use crate::cluster::Severity;
use crate::cut::Cut;
use crate::repo::Credentials;
use crate::resources::{Answer, Ask, BumpAsk, CutAsk, Outside, Repository, ResolvedRepository, What, secret_for};

/// Lines of an answer.
const MAX_LINES: usize = 200;
/// How long a request is tried. What cannot be done by then is not done, for a person may want something else by now.
const ASKED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

impl Task {
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
    pub(in crate::agent::repository) fn is_asked(&self, resource: &Repository) -> bool {
        matches!(self.asked(resource), Some(Ok(_)))
    }

    /// Says that nothing of what was asked for can be done, where it has waited too long or the Repository needs somebody.
    pub(in crate::agent::repository) fn decline(&mut self, resource: &Repository, problem: &Problem) {
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
    pub(super) async fn answer(&mut self, resource: &Repository, resolved: &ResolvedRepository) {
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
            let mirror = self.open.as_ref()?.open.mirror.clone();
            mirror.contains(head).then(|| (mirror, Lane { branch: head.short(), head }))
        });
        let (mirror, lane) = by_commit.or_else(|| self.lane(&from)).ok_or_else(|| {
            one(Problem::content(format!("no branch {from} is followed in the deploy repository"))
                .hint("name a branch that an Environment or spec.bumps follows, or a commit of it, with --from"))
        })?;
        let head = lane.head;
        let warnings = self.warnings(resolved, &lane).await;
        let parts = self.components.parts.clone();
        let of_deploy = self.shared.credentials(&resolved.home, resolved.write_secret.as_deref()).await;
        let mut credentials = BTreeMap::from([(String::new(), of_deploy)]);
        for address in parts.parts.keys() {
            credentials.insert(address.clone(), self.component_credentials(resolved, address).await);
        }
        let dry_run = ask.dry_run;
        let mut came = blocking(move || {
            let credentials = |address: &str| {
                credentials.get(address).cloned().unwrap_or_else(|| Err(Problem::passing("it was not looked at yet")))
            };
            Cut { mirror: &mirror, parts: &parts, from: head, release, dry_run, credentials: &credentials }.run()
        })
        .await;
        came.lines.extend(warnings);
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
        let secret = if is_beside { resolved.write_secret.as_deref() } else { own };
        self.shared.credentials(&resolved.home, secret).await
    }

    /// What became of the last request.
    pub(in crate::agent::repository) fn answered(&self) -> Option<Answer> {
        self.stewarding.answer.clone().or_else(|| self.status.answer.clone())
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
