//! The flow of cutting a release: a branch `rX.Y` in every component and then in the deploy repository, all where the
//! branch stands that it is cut from, and a tag `vX.Y` where there is none.
//!
//! Each push is a compare-and-swap, and what stands already is left as it is: the same cut again goes on where it ended.
//! The deploy repository comes last, so that its branch is never there without those of its components.

use std::collections::BTreeMap;

use towpath_core::fault::Problem;
use towpath_core::lane::Release;
use towpath_core::revision::CommitId;

use crate::repo::{Credentials, Mirror, Outcome, Parts, Update};

/// What is cut, and where.
pub struct Cut<'a> {
    /// The deploy repository.
    pub mirror: &'a Mirror,
    /// Its components.
    pub parts: &'a Parts,
    /// The commit of the deploy repository that it is cut from.
    pub from: CommitId,
    /// The new release.
    pub release: Release,
    /// Whether nothing is pushed.
    pub dry_run: bool,
    /// What each repository is pushed to with, by its address; the deploy repository by `""`.
    pub credentials: &'a dyn Fn(&str) -> Result<Credentials, Problem>,
}

/// What became of it: a line for each repository, and whether all of it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Line by line.
    pub lines: Vec<String>,
    /// What is missing.
    pub problems: Vec<Problem>,
}

/// One repository of a cut.
struct Repo<'a> {
    name: String,
    mirror: &'a Mirror,
    at: CommitId,
    address: String,
}

impl Cut<'_> {
    /// Cuts the release. What cannot be done in one component keeps no other away, but the deploy repository waits for all
    /// of them.
    pub fn run(&self) -> Came {
        let mut came = Came::default();
        let tree = match self.mirror.tree(self.from) {
            Ok(tree) => tree,
            Err(problems) => {
                came.problems = problems.into_vec();
                return came;
            }
        };
        let pinned = self.parts.of(&tree);
        let mut pins = BTreeMap::new();
        for pinned in &pinned {
            let known = pins.entry(&pinned.submodule.url).or_insert(pinned.commit);
            if *known != pinned.commit {
                let message = format!("{} is pinned to two commits of it", pinned.submodule.url);
                let problem = Problem::content(message).hint("one branch cannot stand on both: pin them to the same");
                came.problems.push(problem);
            }
        }
        if !came.problems.is_empty() {
            return came;
        }
        for pinned in &pinned {
            let path = &pinned.submodule.path;
            if pinned.submodule.branch_for("x") != "x" {
                let fixed = pinned.submodule.branch.clone().unwrap_or_default();
                came.lines.push(format!("{path}: left alone, for .gitmodules names its branch {fixed}"));
                continue;
            }
            match &pinned.part {
                Err(problem) => came.problems.push(problem.clone()),
                Ok(part) => self.one(
                    &Repo {
                        name: path.clone(),
                        mirror: &part.mirror,
                        at: pinned.commit,
                        address: part.mirror.remote().to_string(),
                    },
                    &mut came,
                ),
            }
        }
        let deploy =
            Repo { name: "the deploy repository".into(), mirror: self.mirror, at: self.from, address: String::new() };
        if came.problems.is_empty() {
            self.one(&deploy, &mut came);
        } else {
            came.lines.push(format!("{}: waits for the components; cut it again when they are mended", deploy.name));
        }
        came
    }

    fn one(&self, repo: &Repo<'_>, came: &mut Came) {
        match self.try_one(repo) {
            Ok(line) => came.lines.push(format!("{}: {line}", repo.name)),
            Err(problem) => {
                let message = format!("{}: {}", repo.name, problem.message);
                came.problems.push(Problem { message, ..problem });
            }
        }
    }

    fn try_one(&self, repo: &Repo<'_>) -> Result<String, Problem> {
        let branch = self.release.to_string();
        let tag = format!("v{}.{}", self.release.major, self.release.minor);
        let look = repo.mirror.look(&["refs/tags/v"])?;
        let mut updates = Vec::new();
        let mut said = Vec::new();
        match look.heads.get(&branch) {
            None => updates.push(Update { name: format!("refs/heads/{branch}"), old: None, new: repo.at }),
            Some(stands) if *stands == repo.at => said.push(format!("{branch} is there")),
            // It went on since, or somebody cut it from elsewhere.
            Some(stands) => {
                let goes_on = repo.mirror.contains(*stands) && repo.mirror.is_ancestor(repo.at, *stands)?;
                if !goes_on {
                    return Err(Problem::content(format!(
                        "its branch {branch} stands on {} already, which does not come after {}",
                        stands.short(),
                        repo.at.short()
                    ))
                    .hint("look at what it is; delete it if it is a mistake, and cut the release again"));
                }
                said.push(format!("{branch} is there, and has gone on"));
            }
        }
        // A tag is never moved.
        match look.refs.get(&format!("refs/tags/{tag}")) {
            None => updates.push(Update { name: format!("refs/tags/{tag}"), old: None, new: repo.at }),
            Some(_) => said.push(format!("{tag} is there")),
        }
        let short = |name: &str| name.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/").to_owned();
        let names: Vec<String> = updates.iter().map(|update| short(&update.name)).collect();
        if !updates.is_empty() {
            let word = if self.dry_run { "would be made" } else { "made" };
            said.insert(0, format!("{} {word} at {}", names.join(" and "), repo.at.short()));
        }
        if self.dry_run || updates.is_empty() {
            return Ok(said.join(", "));
        }
        let credentials = (self.credentials)(&repo.address)?;
        let outcomes = repo.mirror.push(&updates, &credentials)?;
        for (update, outcome) in updates.iter().zip(outcomes) {
            let name = short(&update.name);
            match outcome {
                Outcome::Done => {}
                Outcome::Moved { .. } => {
                    return Err(Problem::passing(format!("{name} was made by somebody else meanwhile"))
                        .hint("cut the release again: what is there is looked at"));
                }
                Outcome::Unsure { problem } => return Err(problem),
                Outcome::Refused { why, .. } => {
                    return Err(Problem::setup(format!("{name}: {why}"))
                        .hint("let the agent's account push there, and cut the release again"));
                }
            }
        }
        Ok(said.join(", "))
    }
}
