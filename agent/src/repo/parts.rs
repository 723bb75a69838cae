//! What the rest of the agent knows of the repositories of components.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use towpath_core::components::{self, Declarations, Libraries, Pin, Submodule};
use towpath_core::fault::{Place, Problem};
use towpath_core::lane::Heads;
use towpath_core::revision::CommitId;
use towpath_core::tree::Tree;

use super::{Mirror, Remote};

/// A repository of a component, or why it may not or cannot be read.
type Known = Result<Arc<Part>, Problem>;

/// The repositories of components, by their addresses.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Where the deploy repository is: relative addresses begin there.
    pub deploy: Option<Remote>,
    /// Each that a followed revision names.
    pub parts: BTreeMap<String, Known>,
}

/// The repository of a component, as it was last seen.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where its commits are read from: commits only, neither folders nor files.
    pub mirror: Arc<Mirror>,
    /// The branches that are followed: those that are called like a followed lane. One that the server no longer has
    /// keeps its last commit.
    pub heads: Heads,
    /// Its tags `vX.Y`, and the commits that they stand on.
    pub tags: BTreeMap<String, CommitId>,
    /// Its other tags that begin with `v`.
    pub other_tags: BTreeMap<String, CommitId>,
    /// Branches among them that the server no longer has.
    pub deleted: BTreeSet<String>,
    /// Commits that submodules are pinned to and that could not be had, and why.
    pub missing: BTreeMap<CommitId, Problem>,
    /// Why the last look failed, if it did.
    pub problem: Option<Problem>,
}

/// A submodule at one revision, and its repository.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// What `.gitmodules` says.
    pub submodule: Submodule,
    /// Its commit.
    pub commit: CommitId,
    /// Its repository, or why that is not known.
    pub part: Known,
}

impl Part {
    /// Whether nothing of it is another.
    pub fn is_same(&self, other: &Part) -> bool {
        let Part { mirror, heads, tags, other_tags, deleted, missing, problem } = self;
        Arc::ptr_eq(mirror, &other.mirror)
            && (heads, tags, other_tags) == (&other.heads, &other.tags, &other.other_tags)
            && *deleted == other.deleted
            && (missing, problem) == (&other.missing, &other.problem)
    }
}

impl Parts {
    /// Whether nothing of it is another.
    pub fn is_same(&self, other: &Parts) -> bool {
        let same = |(address, part): (&String, &Known)| match (part, other.parts.get(address)) {
            (Ok(part), Some(Ok(other))) => Arc::ptr_eq(part, other),
            (Err(problem), Some(Err(other))) => problem == other,
            _ => false,
        };
        self.deploy == other.deploy && self.parts.len() == other.parts.len() && self.parts.iter().all(same)
    }

    /// The submodules of a revision, in order of their folders. Contacts nobody.
    pub fn of(&self, tree: &Tree) -> Vec<Pinned> {
        // What is wrong with it is told by whoever renders it.
        let named = components::submodules_of(tree).unwrap_or_default();
        let pinned = tree.submodules().map(|(path, commit)| {
            let submodule = named.iter().find(|submodule| submodule.path == path).cloned();
            let Some(submodule) = submodule else {
                let problem = Problem::content(format!("the submodule {path} is not in {}", components::GITMODULES))
                    .at(Place::file(components::GITMODULES))
                    .hint("add it with git submodule add");
                let submodule =
                    Submodule { name: path.to_owned(), path: path.to_owned(), url: String::new(), branch: None };
                return Pinned { submodule, commit, part: Err(problem) };
            };
            let part = self.part(&submodule);
            Pinned { submodule, commit, part }
        });
        pinned.collect()
    }

    fn part(&self, submodule: &Submodule) -> Known {
        let unknown =
            || Problem::passing(format!("component {}: {} was not looked at yet", submodule.path, submodule.url));
        let deploy = self.deploy.as_ref().ok_or_else(unknown)?;
        let address = components::address(&deploy.to_string(), &submodule.url)?;
        self.parts.get(&address).cloned().unwrap_or_else(|| Err(unknown()))
    }

    /// The files of the submodules that a revision names as its libraries. Reads the mirrors, contacts nobody.
    pub fn libraries(&self, tree: &Tree) -> Libraries {
        // What is wrong with it is told by whoever renders it.
        let declarations = Declarations::of(tree).unwrap_or_default();
        let needed = components::libraries(&declarations);
        if needed.is_empty() {
            return Libraries::new();
        }
        let is_needed = |pinned: &Pinned| needed.contains(&pinned.submodule.path.as_str());
        let libraries = self.of(tree).into_iter().filter(is_needed);
        libraries.map(|pinned| (pinned.submodule.path.clone(), pinned.library())).collect()
    }
}

impl Pinned {
    /// Its files, for one that is a library.
    fn library(&self) -> Result<Arc<Tree>, Problem> {
        let Submodule { path, url, .. } = &self.submodule;
        let of_this = |problem: Problem| Problem {
            message: format!("library {path} ({url}) at {}: {}", self.commit, problem.message),
            ..problem
        };
        let part = self.part.clone().map_err(of_this)?;
        // A mirror of commits alone is not damaged: its files are not here yet.
        part.mirror.root(self.commit).map_err(|absent| {
            let why = part.missing.get(&self.commit).or(part.problem.as_ref()).cloned();
            of_this(why.unwrap_or(absent))
        })?;
        part.mirror.tree(self.commit).map_err(|problems| of_this(problems.into_first()))
    }

    /// What is known of its commit.
    ///
    /// # Errors
    /// `Passing` where the commit is not here, with what kept it from coming; never a guess.
    pub fn pin(&self) -> Result<Pin, Problem> {
        let Submodule { path, url, .. } = &self.submodule;
        let of_this = |problem: Problem| Problem {
            message: format!("component {path} ({url}) at {}: {}", self.commit, problem.message),
            ..problem
        };
        let part = self.part.clone().map_err(of_this)?;
        let revision = part.mirror.revision(self.commit, "").map_err(|absent| {
            // What kept it from coming says more than that it is not here.
            let why = part.missing.get(&self.commit).or(part.problem.as_ref()).cloned();
            of_this(why.unwrap_or(absent))
        })?;
        let version = part.mirror.describe(self.commit, &part.tags);
        let version = version.map(|version| version.to_string()).map_err(of_this);
        let git_tag = components::tag_on(self.commit, part.tags.iter().chain(&part.other_tags)).map_err(of_this);
        Ok(Pin { version, committed_at: revision.committed_at, git_tag, digests: BTreeMap::new() })
    }
}
