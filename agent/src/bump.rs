//! The flow of bumps: what of a deploy branch's submodules may move, the commit that moves them, its push.

use std::sync::Arc;

use jiff::Timestamp;
use towpath_core::bump::{self, Author, Move, Place};
use towpath_core::components::{self, Check, Declarations, Pins, Submodule};
use towpath_core::fault::{Problem, Problems};
use towpath_core::revision::CommitId;
use towpath_core::signature::{self, SigningKey};
use towpath_core::tree::TreeBuilder;

use crate::repo::{Credentials, Mirror, Outcome, Part, Parts, Person, Pinned, Update};

/// A deploy branch and where it stands.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The name of the branch.
    pub branch: String,
    /// Its head.
    pub head: CommitId,
}

/// What may be moved by itself, and what keeps the rest from it.
#[derive(Debug, Default)]
pub struct Found {
    /// What goes forward to the head of its branch.
    pub moves: Vec<Move>,
    /// What should be looked at: pins beside their branch, components that cannot be read.
    pub problems: Vec<Problem>,
}

/// Who commits and pushes.
pub struct Steward {
    /// The name of the cluster.
    pub cluster: String,
    /// Signs the commits.
    pub key: Arc<SigningKey>,
    /// To push to the deploy repository with.
    pub credentials: Credentials,
}

/// The image that a move would bring, where `towpath.yaml` asks for it to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Folder of the submodule.
    pub path: String,
    /// Its image, with its tag and without a digest.
    pub image: String,
}

/// The images of moves that are to be looked up first. Reads the mirrors, contacts nobody.
///
/// # Errors
/// When `towpath.yaml` of the branch cannot be read, or the tag of an image cannot be made.
pub fn images(mirror: &Mirror, parts: &Parts, lane: &Lane, moves: &[Move]) -> Result<Vec<Image>, Problem> {
    let first = |problems: Vec<Problem>| problems.into_iter().next().unwrap_or_else(|| Problem::content("unreadable"));
    let tree = mirror.tree(lane.head).map_err(Problems::into_first)?;
    let declarations = Declarations::of(&tree).map_err(first)?;
    if declarations.components.values().all(|declared| declared.check == Check::Never) {
        return Ok(Vec::new());
    }
    // The components as they would be.
    let mut after = TreeBuilder::default();
    let mut pins = Pins::new();
    for pinned in parts.of(&tree) {
        let path = pinned.submodule.path.clone();
        let moved = moves.iter().find(|one| one.path == path).map(|one| one.to);
        let pinned = Pinned { commit: moved.unwrap_or(pinned.commit), ..pinned };
        after.submodule(path.clone(), pinned.commit)?;
        pins.insert(path, pinned.pin());
    }
    let found = components::components(&after.build(), &declarations, &lane.branch, &pins).map_err(first)?;
    let moved = found.into_values().filter(|one| moves.iter().any(|moved| moved.path == one.path));
    let mut images = Vec::new();
    for component in moved.filter(|one| one.check != Check::Never) {
        let lacking = || Problem::setup(format!("component {}: its image has no tag", component.path));
        let image = component.image.clone().ok_or_else(|| component.lacks.clone().unwrap_or_else(lacking))?;
        images.push(Image { path: component.path, image });
    }
    Ok(images)
}

/// What a push came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The branch stands on this commit.
    Done(CommitId),
    /// Somebody else was there first: it is to be looked at again.
    Overtaken,
}

/// Which submodules of a branch go forward to the heads of their own branches. Reads the mirrors, contacts nobody.
///
/// # Errors
/// When the branch's own files cannot be read.
pub fn look(mirror: &Mirror, parts: &Parts, lane: &Lane) -> Result<Found, Problem> {
    let tree = mirror.tree(lane.head).map_err(Problems::into_first)?;
    let mut found = Found::default();
    for pinned in parts.of(&tree) {
        match look_at(mirror, &pinned, lane) {
            Ok(moved) => found.moves.extend(moved),
            Err(problem) => found.problems.push(problem),
        }
    }
    Ok(found)
}

fn look_at(mirror: &Mirror, pinned: &Pinned, lane: &Lane) -> Result<Option<Move>, Problem> {
    let Submodule { path, .. } = &pinned.submodule;
    let part = pinned.part.clone()?;
    if part.mirror.remote().is_same(mirror.remote()) {
        let problem = format!("component {path} is the deploy repository itself: each move would bring another one");
        return Err(Problem::content(problem).hint("move it by hand"));
    }
    let branch = pinned.submodule.branch_for(&lane.branch);
    // A branch that is not there is told by whoever lints the repository; here there is nowhere to go.
    let Some(head) = part.heads.get(branch).copied().filter(|_| !part.deleted.contains(branch)) else {
        return Ok(None);
    };
    if let Some(problem) = &part.problem {
        return Err(problem.clone());
    }
    let place = place(&part.mirror, pinned.commit, head)?;
    if place == Place::Aside {
        let problem = format!("component {path}: {} is not on its branch {branch}", pinned.commit);
        return Err(Problem::content(problem)
            .hint(format!("it stays where it is; move it by hand with towpath bump {path} --lane {}", lane.branch)));
    }
    if !bump::moves_by_itself(place) {
        return Ok(None);
    }
    // Nobody can have pinned it before it was there.
    let since = part.mirror.revision(head, "")?.committed_at;
    if mirror.was_pinned(lane.head, path, head, since)? {
        let problem = format!("component {path}: {} was taken back from {}", head.short(), lane.branch);
        return Err(Problem::content(problem).hint(format!(
            "it moves on with the next commit on {branch}, which has that in it too: revert or mend it there first, or set \
             spec.bumps to Off for this lane; by hand: towpath bump {path} --lane {}",
            lane.branch
        )));
    }
    moved(pinned, &part, head, false).map(Some)
}

/// Where a commit stands against the head of a branch.
fn place(mirror: &Mirror, commit: CommitId, head: CommitId) -> Result<Place, Problem> {
    if commit == head {
        return Ok(Place::Head);
    }
    Ok(match (mirror.is_ancestor(commit, head)?, mirror.is_ancestor(head, commit)?) {
        (true, _) => Place::Behind,
        (_, true) => Place::Ahead,
        _ => Place::Aside,
    })
}

/// A component by hand: to a commit, a tag, or the head of its branch. What is not here yet is fetched.
///
/// # Errors
/// Where the component or the commit is not known, and where the commit is outside of the branch and that is refused.
pub fn by_hand(
    mirror: &Mirror,
    parts: &Parts,
    lane: &Lane,
    (component, to): (&str, Option<&str>),
    may_be_outside: bool,
) -> Result<Option<Move>, Problem> {
    let tree = mirror.tree(lane.head).map_err(Problems::into_first)?;
    let all = parts.of(&tree);
    let is_it = |pinned: &&Pinned| {
        let path = &pinned.submodule.path;
        path == component || path.rsplit('/').next() == Some(component)
    };
    let pinned = all.iter().find(is_it).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|pinned| pinned.submodule.path.as_str()).collect();
        Problem::content(format!("there is no component {component} on {}", lane.branch))
            .hint(format!("there are: {}", known.join(", ")))
    })?;
    let part = pinned.part.clone()?;
    let path = &pinned.submodule.path;
    let branch = pinned.submodule.branch_for(&lane.branch);
    let head = part.heads.get(branch).copied().filter(|_| !part.deleted.contains(branch));
    let is_by_id = to.is_some_and(|to| to.parse::<CommitId>().is_ok());
    if let Some(problem) = part.problem.as_ref().filter(|_| !is_by_id) {
        // What is known of its branches and tags may be old.
        return Err(problem.clone());
    }
    let commit = match to {
        None => head.ok_or_else(|| {
            Problem::content(format!("component {path} has no branch {branch}"))
                .hint("name a commit or tag with --to, or push the branch")
        })?,
        Some(to) => {
            part.tags.get(to).or(part.other_tags.get(to)).copied().or_else(|| to.parse().ok()).ok_or_else(|| {
                let mut tags: Vec<&str> = part.tags.keys().chain(part.other_tags.keys()).map(String::as_str).collect();
                tags.reverse();
                tags.truncate(20);
                Problem::content(format!("component {path} has no tag {to}, and it is no commit of 40 digits")).hint(
                    format!("its tags are: {}", if tags.is_empty() { "none".to_owned() } else { tags.join(", ") }),
                )
            })?
        }
    };
    if commit == pinned.commit {
        return Ok(None);
    }
    if !part.mirror.contains(commit) {
        let heads: Vec<(String, CommitId)> = part.heads.clone().into_iter().collect();
        part.mirror.fetch_commit(commit, &heads).map_err(|problem| {
            let message = format!("component {path}: {}", problem.message);
            Problem { message, ..problem }
        })?;
    }
    let is_inside = match head {
        Some(head) => part.mirror.is_ancestor(commit, head)?,
        None => false,
    };
    if !is_inside && !may_be_outside {
        return Err(bump::outside(path, commit, branch, &lane.branch));
    }
    moved(pinned, &part, commit, !is_inside).map(Some)
}

fn moved(pinned: &Pinned, part: &Part, to: CommitId, is_outside: bool) -> Result<Move, Problem> {
    let name = |commit: CommitId| {
        let pin = Pinned { commit, ..pinned.clone() }.pin();
        pin.and_then(|pin| pin.version).unwrap_or_else(|_| commit.short())
    };
    let is_forward = part.mirror.is_ancestor(pinned.commit, to).unwrap_or(false);
    let commits = is_forward.then(|| part.mirror.count_between(pinned.commit, to)).transpose()?;
    Ok(Move {
        path: pinned.submodule.path.clone(),
        from: pinned.commit,
        to,
        names: (name(pinned.commit), name(to)),
        commits,
        subject: part.mirror.revision(to, "")?.subject,
        is_outside,
    })
}

/// Commits moves to a branch and pushes it there, only from where it was looked at.
///
/// # Errors
/// `Setup` where the server does not want it, with who can lift that; `Passing` where it is worth another try. Nothing
/// has moved then.
pub fn commit(
    mirror: &Mirror,
    lane: &Lane,
    moves: &[Move],
    steward: &Steward,
    author: &Author,
    now: Timestamp,
) -> Result<Pushed, Problem> {
    let pins: Vec<(String, CommitId)> = moves.iter().map(|one| (one.path.clone(), one.to)).collect();
    let who = Person::agent_of(&steward.cluster, now);
    let sign = |bytes: &[u8]| Ok(steward.key.sign(signature::GIT, bytes));
    let commit = mirror.repin(lane.head, &pins, &who, &bump::message(moves, author), &sign)?;
    let name = format!("refs/heads/{}", lane.branch);
    let update = Update { name, old: Some(lane.head), new: commit };
    match mirror.push(&[update], &steward.credentials)?.remove(0) {
        Outcome::Done => Ok(Pushed::Done(commit)),
        Outcome::Moved { .. } => Ok(Pushed::Overtaken),
        Outcome::Unsure { problem } => Err(problem),
        Outcome::Refused { why, .. } => Err(Problem::setup(format!("branch {}: {why}", lane.branch))
            .hint("let the agent's account push there (spec.writeSecretRef), or set spec.bumps to Off for this lane")),
    }
}
