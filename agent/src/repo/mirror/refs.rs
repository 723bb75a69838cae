//! Refs besides the branches that are followed: ledgers, wherever they are kept.
//!
//! They only ever grow. The mirror keeps each below a folder of its own, apart from branches, which may be rewritten.

use git2::Repository;
use towpath_core::fault::Problem;
use towpath_core::lane::{Heads, is_ref_name};
use towpath_core::revision::{CommitId, clean_line};

use super::super::ls_refs::{self, Asked, Refs};
use super::super::tree::{commit_id, oid};
use super::{Failure, HEADS, KEPT, Mirror, SHOWN_CHARACTERS, is_ancestor, lock, tips};

/// Where the mirror has the refs of [`Mirror::fetch_refs`]: `refs/x` of the server is `refs/only-grow/x` here.
const GROWING: &str = "refs/only-grow/";

/// What one look at the server shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The branches.
    pub heads: Heads,
    /// The refs below the prefixes that were asked for, branches among them too.
    pub refs: Refs,
}

/// A ref that stands elsewhere on the server than in the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefMove {
    /// It grew, and the mirror's ref has moved to where it stands now.
    Advanced {
        /// The whole name of the ref.
        name: String,
        /// Where it stood in the mirror. `None` when it was not there.
        from: Option<CommitId>,
        /// Where it stands.
        to: CommitId,
    },
    /// It was rewound or rewritten. The mirror's ref stays; what the server has can be looked at.
    Rewritten {
        /// The whole name of the ref.
        name: String,
        /// Where it stands in the mirror.
        ours: CommitId,
        /// Where it stands on the server. Does not come after `ours`.
        theirs: CommitId,
    },
}

impl Mirror {
    /// The branches on the server now, without those whose names git would not take. Changes nothing here.
    ///
    /// # Errors
    /// `Setup` when somebody must act (credentials, address), `Passing` when it is worth another try. An empty
    /// repository is no error and has no branches.
    pub fn heads(&self) -> Result<Heads, Problem> {
        self.look(&[]).map(|look| look.heads)
    }

    /// The branches on the server now, and the refs whose names begin with one of some prefixes (`refs/towpath/`), in one
    /// request. Changes nothing here.
    ///
    /// # Errors
    /// As [`Mirror::heads`], and `Setup` when a prefix is not the beginning of a ref's name.
    pub fn look(&self, prefixes: &[&str]) -> Result<Look, Problem> {
        check_prefixes(prefixes)?;
        let mut all = vec![HEADS];
        // What begins with another prefix is asked for already.
        all.extend(prefixes.iter().filter(|prefix| !prefix.starts_with(HEADS)));
        let refs = self.source.refs(Asked::below(&all))?;
        Ok(Look { heads: ls_refs::heads(&refs), refs: ls_refs::below(refs, prefixes) })
    }

    /// The refs on the server now whose names begin with a prefix, by their whole names. One request. Changes nothing
    /// here.
    ///
    /// # Errors
    /// As [`Mirror::look`].
    pub fn refs(&self, prefix: &str) -> Result<Refs, Problem> {
        check_prefixes(&[prefix])?;
        self.source.refs(Asked::below(&[prefix]))
    }

    /// Fetches exactly these refs, by their whole names, and moves the mirror's to exactly these commits where that is
    /// forward. A ref that moved otherwise is told and stays, and none is ever removed. What is there already is not
    /// fetched: when nothing is missing, nobody is contacted.
    ///
    /// # Errors
    /// As [`Mirror::fetch`]. A damaged mirror is not mended here, but by the next fetch of branches. A ref whose name
    /// cannot stand beside another one that the mirror has is a `Content` problem, after all others have moved.
    pub fn fetch_refs(&self, wanted: &[(String, CommitId)]) -> Result<Vec<RefMove>, Problem> {
        if let Some((name, _)) = wanted.iter().find(|(name, _)| !is_ref_name(name)) {
            let shown = clean_line(name, SHOWN_CHARACTERS);
            return Err(Problem::setup(format!("{shown:?} is not the name of a ref")));
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let _one_at_a_time = lock(&self.fetching);
        let moved = self.fetch_growing(wanted).map_err(|failure| match failure {
            Failure::Problem(problem) => problem,
            Failure::Damaged(why) => self.damaged(&git2::Error::from_str(&why)),
        })?;
        self.compact();
        moved
    }

    /// Where the mirror has a ref of [`Mirror::fetch_refs`], or of a push that was done. Contacts nobody.
    ///
    /// A mirror that was fetched anew has none until they are fetched again.
    pub fn kept_ref(&self, name: &str) -> Option<CommitId> {
        stands(&lock(&self.store).repository, name)
    }

    /// All refs of [`Mirror::kept_ref`] whose names begin with a prefix, by their whole names.
    pub fn kept_refs(&self, prefix: &str) -> Refs {
        let mut refs = Refs::new();
        let Some(prefix) = ours(prefix) else { return refs };
        let store = lock(&self.store);
        for reference in store.repository.references_glob(&format!("{prefix}*")).into_iter().flatten().flatten() {
            let name = reference.name().ok().and_then(|name| name.strip_prefix(GROWING));
            if let (Some(name), Some(target)) = (name, reference.target()) {
                refs.insert(format!("refs/{name}"), commit_id(target));
            }
        }
        refs
    }

    fn fetch_growing(&self, wanted: &[(String, CommitId)]) -> Result<Result<Vec<RefMove>, Problem>, Failure> {
        let repository = Repository::open_bare(&self.folder).map_err(Failure::damaged)?;
        let moving: Vec<(String, CommitId)> =
            wanted.iter().filter(|(name, commit)| stands(&repository, name) != Some(*commit)).cloned().collect();
        if moving.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let known = tips(&repository, &[HEADS, KEPT, GROWING]);
        let likely = moving.iter().filter_map(|(name, _)| stands(&repository, name)).collect();
        self.bring(&repository, &self.folder, moving.clone(), known, likely)?;
        let mut all = Vec::new();
        let mut in_the_way = Ok(());
        for (name, commit) in moving {
            match grow(&repository, &name, commit).map_err(Failure::damaged)? {
                Grown::Yes(moved) => all.push(moved),
                Grown::InTheWay => {
                    in_the_way = Err(Problem::content(format!(
                        "the ref {name} cannot be kept beside another one: one name is a folder of the other"
                    ))
                    .hint("remove the one that is no ledger from the git server"));
                }
            }
        }
        Ok(in_the_way.map(|()| all))
    }

    /// Remembers that a push was done.
    pub(super) fn note_pushed(&self, name: &str, commit: CommitId) {
        let store = lock(&self.store);
        match grow(&store.repository, name, commit) {
            Ok(Grown::Yes(RefMove::Advanced { .. })) => {}
            // The next fetch of this ref tells.
            Ok(_) => tracing::debug!(name, %commit, "pushed, and not kept in the mirror"),
            Err(error) => tracing::debug!(name, %commit, error = error.message(), "pushed, and not kept in the mirror"),
        }
    }
}

enum Grown {
    Yes(RefMove),
    /// Git keeps no ref `a` beside a ref `a/b`.
    InTheWay,
}

/// Moves a ref of the mirror forward, and nowhere else.
fn grow(repository: &Repository, name: &str, to: CommitId) -> Result<Grown, git2::Error> {
    let from = stands(repository, name);
    if let Some(from) = from
        && !is_ancestor(repository, from, to)?
    {
        return Ok(Grown::Yes(RefMove::Rewritten { name: name.to_owned(), ours: from, theirs: to }));
    }
    let ours = ours(name).expect("the name was judged before");
    if from.is_none() && has_conflict(repository, &ours)? {
        return Ok(Grown::InTheWay);
    }
    repository.reference(&ours, oid(to), true, "fetched")?;
    Ok(Grown::Yes(RefMove::Advanced { name: name.to_owned(), from, to }))
}

fn has_conflict(repository: &Repository, ours: &str) -> Result<bool, git2::Error> {
    let is_below = repository.references_glob(&format!("{ours}/*"))?.next().is_some();
    let is_above = ours.match_indices('/').any(|(at, _)| repository.refname_to_id(&ours[..at]).is_ok());
    Ok(is_below || is_above)
}

/// The name that a ref of the server has in the mirror.
fn ours(name: &str) -> Option<String> {
    name.strip_prefix("refs/").map(|name| format!("{GROWING}{name}"))
}

fn stands(repository: &Repository, name: &str) -> Option<CommitId> {
    repository.refname_to_id(&ours(name)?).ok().map(commit_id)
}

fn check_prefixes(prefixes: &[&str]) -> Result<(), Problem> {
    match prefixes.iter().find(|prefix| !is_ref_name(prefix.strip_suffix('/').unwrap_or(prefix))) {
        None => Ok(()),
        Some(bad) => {
            let shown = clean_line(bad, SHOWN_CHARACTERS);
            Err(Problem::setup(format!("{shown:?} is not the beginning of a ref's name")))
        }
    }
}
