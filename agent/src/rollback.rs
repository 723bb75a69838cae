//! The flow of rollbacks: what is to be taken back of a branch, the commits that do it, their push.
//!
//! 1. plan: the release that is gone back to, and the commits of the branch that are reverted for it
//! 2. make: the reverts, as commits in the mirror that no branch has yet
//! 3. push: by compare-and-swap; where the branch may not be pushed to, on a branch of their own
//!
//! It reads and writes the mirror and speaks to the git server. What becomes of environments is decided elsewhere.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use towpath_core::fault::Problem;
use towpath_core::names::EnvironmentName;
use towpath_core::revert::{self, Cause};
use towpath_core::revision::CommitId;
use towpath_core::rollback::Past;
use towpath_core::signature::{self, SigningKey};

pub use self::plan::{Plan, again, plan};
use crate::repo::{Chain, Credentials, Mirror, Outcome, Person, Refusal, Update};

/// An environment that is rolled back, and where its branch stands.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The name of this cluster.
    pub cluster: String,
    /// The environment.
    pub environment: EnvironmentName,
    /// The branch of its lane.
    pub branch: String,
    /// Where that stands.
    pub head: CommitId,
    /// What is rolled back: what it runs, or is on its way to.
    pub from: CommitId,
    /// The releases that it ran, the newest first.
    pub past: Vec<Past>,
    /// Whether a rollback keeps it back, on what it went back to.
    pub is_held: bool,
    /// What was rolled back and may not come back, and by what.
    pub rolled_back: Vec<(CommitId, Option<CommitId>)>,
}

/// Who commits.
#[derive(Clone)]
pub struct Committer {
    /// The name of the cluster.
    pub cluster: String,
    /// Signs the commits.
    pub key: Arc<SigningKey>,
    /// The time that they bear. With the same time the same commits are made again.
    pub at: Timestamp,
}

/// Commits that are in the mirror, and on no branch yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// They follow each other, the first one the head of the branch. None where nothing is left to be taken back.
    pub commits: Vec<CommitId>,
    /// The last of them; else the head.
    pub tip: CommitId,
    /// The last of those that land the rest again, where that was asked for and fits.
    pub rest: Option<CommitId>,
}

/// Makes the commits of a plan. Reads and writes the mirror, contacts nobody.
///
/// # Errors
/// Every file in which a revert does not fit, with the way out; and as [`Mirror::reverse_all`].
pub fn make(mirror: &Mirror, plan: &Plan, cause: &Cause, by: &Committer) -> Result<Made, Vec<Problem>> {
    let one = |problem: Problem| vec![problem];
    let who = Person::agent_of(&by.cluster, by.at);
    let sign = |bytes: &[u8]| Ok(by.key.sign(signature::GIT, bytes));
    let head = plan.subject.head;
    if plan.restores {
        let to = plan.to.as_ref().map_or(head, |past| past.commit);
        let subject = mirror.told(to).map_err(one)?.subject;
        let message = revert::restoring(to, &subject, cause);
        let made = mirror.restore(to, head, &message, &who, &sign).map_err(one)?;
        return Ok(Made { commits: made.into_iter().collect(), tip: made.unwrap_or(head), rest: None });
    }
    let message = |one: &revert::Reverted| {
        let cause = Cause { ticket: Some(one.commit), ..cause.clone() };
        (one.commit, revert::message(one, &cause))
    };
    let reverts: Vec<_> = plan.chosen.iter().map(message).collect();
    let commits = match mirror.reverse_all(&reverts, head, &who, &sign).map_err(one)? {
        Chain::Written(commits) => commits,
        Chain::Conflicts { commit, conflicts } => return Err(conflicts.problems(commit)),
    };
    let tip = commits.last().copied().unwrap_or(head);
    let rest = land_again(mirror, plan, &commits, cause, (&who, &sign)).map_err(one)?;
    is_as_before(mirror, plan, tip)?;
    Ok(Made { commits, tip, rest })
}

/// Holds what reverts of a whole range came to against the release that is gone back to: the same files.
fn is_as_before(mirror: &Mirror, plan: &Plan, tip: CommitId) -> Result<(), Vec<Problem>> {
    let Some(to) = plan.to.as_ref().filter(|_| plan.is_range && plan.already.is_empty() && !plan.lands) else {
        return Ok(());
    };
    // With what came after it, it is another thing.
    if !plan.is_at_head() && plan.rest.is_empty() {
        return Ok(());
    }
    let tree = |commit: CommitId| mirror.commit(commit).map(|stored| stored.tree).map_err(|problem| vec![problem]);
    if tree(to.commit)? == tree(tip)? {
        return Ok(());
    }
    let said = format!("the reverts would not come to the files of {}", to.commit.short());
    Err(vec![Problem::content(said).hint("restore them with --restore")])
}

/// Lands again, after reverts, what of them the environment that is rolled back did not run yet. None where that does not
/// fit without what stays away.
fn land_again(
    mirror: &Mirror,
    plan: &Plan,
    reverts: &[CommitId],
    cause: &Cause,
    (who, sign): (&Person, &crate::repo::Sign<'_>),
) -> Result<Option<CommitId>, Problem> {
    let Some(tip) = reverts.last().filter(|_| !plan.rest.is_empty()) else { return Ok(None) };
    let mut of: BTreeMap<CommitId, revert::Reverted> = BTreeMap::new();
    for revert in reverts {
        let told = mirror.told(*revert)?;
        let reverted = revert::Reverted { commit: *revert, subject: told.subject, mainline: None };
        of.extend(told.reverts.first().map(|taken| (*taken, reverted)));
    }
    // The oldest first: each finds the files as it found them before.
    let again = plan.rest.iter().rev().filter_map(|taken| of.get(taken));
    let again: Vec<_> = again.map(|one| (one.commit, revert::message(one, cause))).collect();
    Ok(match mirror.reverse_all(&again, *tip, who, sign)? {
        Chain::Written(commits) => commits.last().copied(),
        Chain::Conflicts { .. } => None,
    })
}

/// What a push came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The branch has the commits.
    Done,
    /// Somebody else was there first: it is to be looked at again.
    Overtaken,
    /// The server could not do it at the moment, and why.
    Busy(String),
    /// The branch may not be pushed to, and why: the commits stand on another one, whose name is here.
    Beside {
        /// The other branch.
        branch: String,
        /// Why.
        why: String,
    },
}

/// The branch on which the rest stands ready to be landed again.
pub fn rest_branch(environment: &EnvironmentName, rest: CommitId) -> String {
    format!("towpath/reland-{environment}-{}", rest.short())
}

/// Pushes what lands the rest again, on a branch of its own. Done twice it does no harm.
///
/// # Errors
/// Why it is not there.
pub fn push_rest(
    mirror: &Mirror,
    environment: &EnvironmentName,
    rest: CommitId,
    credentials: &Credentials,
) -> Result<(), Problem> {
    let branch = rest_branch(environment, rest);
    match push_to(mirror, &branch, None, rest, credentials)? {
        Outcome::Done => Ok(()),
        Outcome::Unsure { problem } => Err(problem),
        Outcome::Moved { .. } => Err(Problem::setup(format!("there is another branch {branch} already"))),
        Outcome::Refused { why, .. } => Err(Problem::setup(format!("branch {branch}: {why}"))),
    }
}

fn push_to(
    mirror: &Mirror,
    branch: &str,
    old: Option<CommitId>,
    new: CommitId,
    credentials: &Credentials,
) -> Result<Outcome, Problem> {
    let update = Update { name: format!("refs/heads/{branch}"), old, new };
    Ok(mirror.push(&[update], credentials)?.swap_remove(0))
}

/// Pushes what was made to the branch, only from where it was looked at. `is_patient` where what may pass is not pushed beside
/// it yet.
///
/// # Errors
/// `Setup` where the server wants it nowhere, `Passing` where it is worth another try: the same push again does no harm.
pub fn push(
    mirror: &Mirror,
    plan: &Plan,
    made: &Made,
    credentials: &Credentials,
    is_patient: bool,
) -> Result<Pushed, Problem> {
    let Subject { environment, branch, head, .. } = &plan.subject;
    let word = if plan.lands { "reland" } else { "revert" };
    let beside = format!("towpath/{word}-{environment}-{}", made.tip.short());
    let why = match push_to(mirror, branch, Some(*head), made.tip, credentials)? {
        Outcome::Done => return Ok(Pushed::Done),
        Outcome::Moved { .. } => return Ok(Pushed::Overtaken),
        Outcome::Unsure { problem } => return Err(problem),
        Outcome::Refused { refusal: Refusal::Storage, why } => {
            return Err(Problem::passing(format!("branch {branch}: {why}")));
        }
        Outcome::Refused { refusal: Refusal::Busy, why } if is_patient => return Ok(Pushed::Busy(why)),
        Outcome::Refused { why, .. } => why,
    };
    match push_to(mirror, &beside, None, made.tip, credentials)? {
        Outcome::Done => Ok(Pushed::Beside { branch: beside, why }),
        Outcome::Unsure { problem } => Err(problem),
        Outcome::Moved { .. } => Err(Problem::passing(format!("somebody has made the branch {beside} in this moment"))),
        Outcome::Refused { why: other, .. } => {
            let said = match why == other {
                true => format!("neither branch {branch} nor branch {beside}: {why}"),
                false => format!("branch {branch}: {why}; and branch {beside}: {other}"),
            };
            Err(Problem::setup(said)
                .hint("let the agent's account push to one of them (spec.writeSecretRef of the Repository)"))
        }
    }
}

/// Pushes to the branch itself what stands on a branch of its own (`beside`), as long as the branch is where it was made and
/// nobody has declined it by deleting the other one. Gives whether the branch is to be looked at again.
///
/// # Errors
/// Why it could not be done, or is not known.
pub fn push_on(
    mirror: &Mirror,
    (branch, beside): (&str, &str),
    (head, tip): (CommitId, CommitId),
    credentials: &Credentials,
) -> Result<bool, Problem> {
    if !mirror.contains(tip) || !mirror.is_ancestor(head, tip)? || !mirror.stands_on(beside, tip, credentials)? {
        return Ok(false);
    }
    match push_to(mirror, branch, Some(head), tip, credentials)? {
        Outcome::Done | Outcome::Moved { .. } => Ok(true),
        Outcome::Refused { .. } => Ok(false),
        Outcome::Unsure { problem } => Err(problem),
    }
}
