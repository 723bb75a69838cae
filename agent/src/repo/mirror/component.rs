//! What is asked of the repository of a component: the branches that a lane follows, the tags `vX.Y`, and the versions
//! that come of them.

use std::collections::{BTreeMap, HashMap};

use git2::{ErrorClass, Repository};
use towpath_core::fault::{Fault, Problem};
use towpath_core::lane::{Heads, is_branch_name};
use towpath_core::revision::{CommitId, clean_line};
use towpath_core::version::{self, Ancestry, Version, VersionTag};

use super::super::ls_refs::{self, Asked};
use super::super::packet::is_refusal;
use super::super::tree::{commit_id, oid};
use super::{Failure, HEADS, KEPT, Mirror, SHOWN_CHARACTERS, keep, lock, tips};

/// How the names of tags begin that begin versions.
const VERSION_TAGS: &str = "refs/tags/v";
const TAGS: &str = "refs/tags/";
/// Versions that a mirror remembers.
const MAX_VERSIONS: usize = 256;

/// What one look at the repository of a component shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentLook {
    /// Of the branches that were asked for, those that are there.
    pub heads: Heads,
    /// The tags `vX.Y`, and what they lead to; for an annotated tag that is not the tag itself.
    pub tags: BTreeMap<String, CommitId>,
    /// The other tags that begin with `v`.
    pub other_tags: BTreeMap<String, CommitId>,
}

/// Versions that were found, for as long as the tags are these.
#[derive(Default)]
pub(super) struct Described {
    tags: BTreeMap<String, CommitId>,
    versions: HashMap<CommitId, Result<Version, Problem>>,
}

impl Mirror {
    /// Some branches on the server now, and all tags that begin with `v`, in one request. Changes nothing here.
    ///
    /// # Errors
    /// As [`Mirror::heads`], and `Setup` when a name is none of a branch.
    pub fn look_at_component(
        &self,
        branches: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<ComponentLook, Problem> {
        let mut names = Vec::new();
        for branch in branches {
            let branch = branch.as_ref();
            if !is_branch_name(branch) {
                let shown = clean_line(branch, SHOWN_CHARACTERS);
                return Err(Problem::setup(format!("{shown:?} is not the name of a branch")));
            }
            names.push(format!("{HEADS}{branch}"));
        }
        let mut prefixes: Vec<&str> = names.iter().map(String::as_str).collect();
        prefixes.push(VERSION_TAGS);
        let refs = self.source.refs(Asked { prefixes: &prefixes, is_peeled: true })?;
        let mut look = ComponentLook::default();
        for (name, commit) in refs {
            // A prefix also fits longer names.
            if let Some(branch) = name.strip_prefix(HEADS).filter(|_| names.contains(&name)) {
                look.heads.insert(branch.to_owned(), commit);
            } else if let Some(tag) = name.strip_prefix(TAGS) {
                let is_version = VersionTag::parse(tag).is_some();
                let tags = if is_version { &mut look.tags } else { &mut look.other_tags };
                tags.insert(tag.to_owned(), commit);
            }
        }
        Ok(look)
    }

    /// All branches on the server now, and its tags that begin with `v`, in one request. Changes nothing here.
    ///
    /// # Errors
    /// As [`Mirror::heads`].
    pub fn heads_and_tags(&self) -> Result<ComponentLook, Problem> {
        let refs = self.source.refs(Asked { prefixes: &[HEADS, VERSION_TAGS], is_peeled: true })?;
        let heads = ls_refs::heads(&refs);
        let tags = refs.into_iter().filter_map(|(name, commit)| Some((name.strip_prefix(TAGS)?.to_owned(), commit)));
        let (tags, other_tags) = tags.partition(|(tag, _)| VersionTag::parse(tag).is_some());
        Ok(ComponentLook { heads, tags, other_tags })
    }

    /// Brings a commit that need not be where a branch stands, by the gentlest way that works: with some branches (and
    /// where they stand); by its id, if the server gives that; with all branches of the server.
    ///
    /// A commit that is here already costs nothing. One that the server no longer has costs all of these ways each time,
    /// so ask for it seldom.
    ///
    /// # Errors
    /// `Content` when the server does not have it, or shows it to nobody; otherwise as [`Mirror::fetch`].
    pub fn fetch_commit(&self, commit: CommitId, branches: &[(String, CommitId)]) -> Result<(), Problem> {
        if self.contains(commit) {
            return Ok(());
        }
        self.fetch(branches)?;
        if self.contains(commit) {
            return Ok(());
        }
        let by_id = self.fetch_by_id(commit);
        if by_id.is_ok() && self.contains(commit) {
            return Ok(());
        }
        // Refused, or the mirror is damaged: this mends it, too.
        let heads: Vec<(String, CommitId)> = self.heads()?.into_iter().collect();
        self.fetch(&heads)?;
        if self.contains(commit) {
            return Ok(());
        }
        // What did not come because the mirror was damaged comes into a new one.
        let by_id = match by_id {
            Err(problem) if is_refusal(&problem) => Err(problem),
            _ => self.fetch_by_id(commit),
        };
        match by_id {
            Ok(()) if self.contains(commit) => Ok(()),
            Ok(()) => Err(Problem::passing(format!("the commit {commit} did not come"))),
            Err(problem) if is_refusal(&problem) => {
                Err(Problem::content(format!("the server has no such commit on any branch: {}", problem.message))
                    .hint("push the commit, or move the submodule to one that is there"))
            }
            Err(problem) => Err(problem),
        }
    }

    fn fetch_by_id(&self, commit: CommitId) -> Result<(), Problem> {
        let _one_at_a_time = lock(&self.fetching);
        let fetch = || -> Result<(), Failure> {
            let repository = Repository::open_bare(&self.folder).map_err(Failure::damaged)?;
            let known = tips(&repository, &[HEADS, KEPT]);
            self.bring(&repository, &self.folder, vec![(commit.to_string(), commit)], known, Vec::new())?;
            // No branch of the mirror leads to it.
            keep(&repository, commit).map_err(Failure::damaged)
        };
        fetch().map_err(|failure| match failure {
            Failure::Problem(problem) => problem,
            Failure::Damaged(why) => self.damaged(&git2::Error::from_str(&why)),
        })?;
        self.compact();
        Ok(())
    }

    /// The version of a commit in the mirror, by these tags. Contacts nobody.
    ///
    /// A tag whose commit is not here is before none that is, for every commit is here with all of its history.
    ///
    /// # Errors
    /// `Setup` when no tag `vX.Y` is before it, `Passing` when it is not in the mirror, `Content` when a commit of its
    /// history is malformed.
    pub fn describe(&self, commit: CommitId, tags: &BTreeMap<String, CommitId>) -> Result<Version, Problem> {
        {
            let mut described = lock(&self.described);
            if described.tags != *tags {
                *described = Described { tags: tags.clone(), versions: HashMap::new() };
            }
            if let Some(version) = described.versions.get(&commit) {
                return version.clone();
            }
        }
        let version = {
            // Packs are taken away only by who holds this.
            let _store = lock(&self.store);
            // A handle of its own, for it keeps all that it reads.
            let repository = Repository::open_bare(&self.folder).map_err(|error| self.damaged(&error))?;
            repository.find_commit(oid(commit)).map_err(|error| self.absent(commit, &error))?;
            version::describe(commit, tags, |id| self.ancestry(&repository, id))
        };
        if !version.as_ref().is_err_and(|problem| problem.fault == Fault::Passing) {
            let mut described = lock(&self.described);
            if described.versions.len() >= MAX_VERSIONS {
                described.versions.clear();
            }
            // Another thread may have come with other tags.
            if described.tags == *tags {
                described.versions.insert(commit, version.clone());
            }
        }
        version
    }

    fn ancestry(&self, repository: &Repository, id: CommitId) -> Result<Ancestry, Problem> {
        let commit = repository.find_commit(oid(id)).map_err(|error| match error.class() {
            ErrorClass::Odb | ErrorClass::Os | ErrorClass::NoMemory => self.damaged(&error),
            _ => {
                let why = clean_line(error.message(), SHOWN_CHARACTERS);
                Problem::content(format!("the commit {id} is malformed: {why}"))
            }
        })?;
        Ok(Ancestry { committed_at: commit.time().seconds(), parents: commit.parent_ids().map(commit_id).collect() })
    }
}
