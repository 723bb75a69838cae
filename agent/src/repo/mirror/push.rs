//! Pushing: refs of the server move forward, each only from where it is thought to stand, and no outcome is guessed.

use std::collections::HashSet;
use std::io::Write;

use git2::{Oid, Repository};
use towpath_core::fault::{Fault, Problem};
use towpath_core::lane::is_ref_name;
use towpath_core::revision::{CommitId, clean_line};

use super::super::fetch::Holds;
use super::super::ls_refs::{Advertisement, Refs};
use super::super::push::{MAX_PUSH_BYTES, MAX_UPDATES, Outcome, Update, not_stored, refused};
use super::super::receive::{Report, Sent, Wanted};
use super::super::remote::Credentials;
use super::super::source::Target;
use super::super::tree::oid;
use super::{Mirror, SHOWN_CHARACTERS, is_ancestor, is_shortage, lock};

/// Commits behind those to be pushed that are looked at for one that the server has.
const MAX_NEAR: usize = 1000;
/// Commits that are looked at as present on the server, at most.
const MAX_HIDDEN: usize = 2000;

impl Mirror {
    /// Moves refs on the server, in one request where it is spoken to over a network. Gives what became of each, in the
    /// same order: some may be done and others not. Nothing is ever forced or deleted.
    ///
    /// `credentials` are for writing, and may be others than those for reading; refusals of the two are counted apart.
    /// A ref that was moved is [kept](Mirror::kept_ref).
    ///
    /// # Errors
    /// When nothing was done, or nothing is known: `Setup` when somebody must act (credentials, too much at once, a move
    /// that is not forward), `Passing` when it is worth another try. The same push again does no harm.
    pub fn push(&self, updates: &[Update], credentials: &Credentials) -> Result<Vec<Outcome>, Problem> {
        self.check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let target = self.source.target(credentials)?;
        let mut judged = vec![None; updates.len()];
        let sent = target.push(&mut |found| {
            let mut open = Vec::new();
            for (update, judged) in updates.iter().zip(&mut judged) {
                *judged = judge(update, &found.refs);
                if judged.is_none() {
                    open.push(update);
                }
            }
            if open.is_empty() {
                return Ok(None);
            }
            let pack = self.pack(&open, found)?;
            Ok(Some(Wanted { updates: open, pack }))
        })?;
        match sent {
            Sent::Nothing => {}
            Sent::Report(report) => settle(&target, updates, &mut judged, &report)?,
            Sent::Lost(problem) => look_again(&target, updates, &mut judged, &problem)?,
        }
        let outcomes: Vec<Outcome> =
            judged.into_iter().map(|outcome| outcome.expect("every ref has been judged")).collect();
        for (update, outcome) in updates.iter().zip(&outcomes) {
            if *outcome == Outcome::Done {
                self.note_pushed(&update.name, update.new);
            }
        }
        Ok(outcomes)
    }

    /// Asks the server whether somebody may push there at all, as far as it says so before a push: which refs it takes is
    /// known only when they are pushed.
    ///
    /// # Errors
    /// `Setup` where the credentials are refused, `Passing` where it does not answer.
    pub fn may_push(&self, credentials: &Credentials) -> Result<(), Problem> {
        self.source.target(credentials)?.push(&mut |_| Ok(None)).map(drop)
    }

    /// Asks the server whether one of its branches stands on a commit.
    ///
    /// # Errors
    /// As [`Mirror::may_push`].
    pub fn stands_on(&self, branch: &str, commit: CommitId, credentials: &Credentials) -> Result<bool, Problem> {
        let mut stands = false;
        self.source.target(credentials)?.push(&mut |found| {
            stands = found.refs.get(&format!("refs/heads/{branch}")) == Some(&commit);
            Ok(None)
        })?;
        Ok(stands)
    }

    fn check_updates(&self, updates: &[Update]) -> Result<(), Problem> {
        if updates.len() > MAX_UPDATES {
            return Err(Problem::setup(format!("more than {MAX_UPDATES} refs in one push")));
        }
        let mut names = HashSet::new();
        let store = lock(&self.store);
        for Update { name, old, new } in updates {
            let shown = clean_line(name, SHOWN_CHARACTERS);
            if !is_ref_name(name) || !names.insert(name) {
                return Err(Problem::setup(format!("{shown:?} is not the name of a ref, or is there twice")));
            }
            for id in old.iter().chain([new]) {
                store.repository.find_commit(oid(*id)).map_err(|error| self.absent(*id, &error))?;
            }
            let is_forward = old.map_or(Ok(true), |old| is_ancestor(&store.repository, old, *new));
            if !is_forward.map_err(|error| self.damaged(&error))? {
                return Err(Problem::setup(format!("{shown} is not pushed: {new} does not come after {old:?}"))
                    .hint("fetch it, and build on what is there"));
            }
        }
        Ok(())
    }

    fn pack(&self, updates: &[&Update], found: &Advertisement) -> Result<Vec<u8>, Problem> {
        let _packs = lock(&self.packs);
        let repository = Repository::open_bare(&self.folder).map_err(|error| self.unusable(&error))?;
        if self.holds == Holds::Commits {
            // A ref may be put where the server has a commit already. It refuses where it has not.
            return empty_pack(&repository).map_err(|error| self.unusable(&error));
        }
        match pack(&repository, updates, found, MAX_PUSH_BYTES) {
            Ok(Some(pack)) => Ok(pack),
            Ok(None) => Err(Problem::setup(format!("a push of more than {MAX_PUSH_BYTES} bytes is not sent"))
                .hint("push less at once")),
            Err(error) if is_shortage(&error) => Err(self.unusable(&error)),
            Err(error) => Err(self.damaged(&error)),
        }
    }
}

/// What is known of an update by what the server has. `None` when it is to be tried.
fn judge(update: &Update, refs: &Refs) -> Option<Outcome> {
    let now = refs.get(&update.name).copied();
    if now == Some(update.new) {
        return Some(Outcome::Done);
    }
    if now == update.old { None } else { Some(Outcome::Moved { now }) }
}

/// The pack with all that the server lacks. `None` when it would have more bytes than `limit`.
fn pack(
    repository: &Repository,
    updates: &[&Update],
    found: &Advertisement,
    limit: usize,
) -> Result<Option<Vec<u8>>, git2::Error> {
    let mut walk = repository.revwalk()?;
    for update in updates {
        walk.push(oid(update.new))?;
    }
    for id in near(repository, updates, found)? {
        walk.hide(id)?;
    }
    let mut builder = repository.packbuilder()?;
    builder.set_threads(1);
    builder.insert_walk(&mut walk)?;
    let mut pack = Vec::new();
    let mut is_too_long = false;
    let built = builder.foreach(|bytes| {
        is_too_long = pack.len() + bytes.len() > limit;
        !is_too_long && pack.write_all(bytes).is_ok()
    });
    if is_too_long {
        return Ok(None);
    }
    built.map(|()| Some(pack))
}

fn empty_pack(repository: &Repository) -> Result<Vec<u8>, git2::Error> {
    let mut pack = Vec::new();
    repository.packbuilder()?.foreach(|bytes| pack.write_all(bytes).is_ok())?;
    Ok(pack)
}

/// Commits that the server has and on which the new ones build. To hide every ref of the server would take long where
/// there are many, so those that are met first on the way back are enough.
fn near(repository: &Repository, updates: &[&Update], found: &Advertisement) -> Result<Vec<Oid>, git2::Error> {
    let there: HashSet<Oid> = found.refs.values().chain(&found.others).copied().map(oid).collect();
    let mut near = Vec::new();
    let mut seen = HashSet::new();
    let mut todo: Vec<Oid> = updates.iter().map(|update| oid(update.new)).collect();
    let mut is_enough = true;
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        if there.contains(&id) {
            near.push(id);
            continue;
        }
        if seen.len() > MAX_NEAR {
            // What is packed besides is there already, and does no harm.
            is_enough = false;
            break;
        }
        todo.extend(repository.find_commit(id)?.parent_ids());
    }
    if !is_enough || near.is_empty() {
        // A new ref on an older commit meets no ref on the way back: what the server has comes after it.
        let known = there.into_iter().filter(|id| repository.find_commit(*id).is_ok());
        near.extend(known.take(MAX_HIDDEN));
    }
    Ok(near)
}

/// Judges what was tried by the server's report.
fn settle(target: &Target, updates: &[Update], judged: &mut [Option<Outcome>], report: &Report) -> Result<(), Problem> {
    let mut is_all_done = true;
    for (update, judged) in updates.iter().zip(&mut *judged) {
        if judged.is_none() && report.refs.get(&update.name) == Some(&None) && report.unpack_failed.is_none() {
            *judged = Some(Outcome::Done);
        }
        is_all_done &= judged.is_some();
    }
    if is_all_done {
        return Ok(());
    }
    // Somebody else may have been quicker. The report says that only in words, which differ.
    let now = target.refs();
    for (update, judged) in updates.iter().zip(&mut *judged).filter(|(_, judged)| judged.is_none()) {
        let elsewhere = now.as_ref().ok().and_then(|refs| judge(update, refs));
        *judged = elsewhere.or_else(|| match (&report.unpack_failed, report.refs.get(&update.name)) {
            (Some(why), _) => Some(not_stored(why, &report.words)),
            (None, Some(Some(why))) => Some(refused(why, &report.words)),
            (None, _) => None,
        });
    }
    leave_unsure(judged, &Problem::passing("the git server did not say what became of a ref"))
}

/// Judges what was tried by where the refs stand now, for the answer was lost.
fn look_again(
    target: &Target,
    updates: &[Update],
    judged: &mut [Option<Outcome>],
    problem: &Problem,
) -> Result<(), Problem> {
    tracing::debug!(%problem, "the answer to a push was lost");
    if let Ok(refs) = target.refs() {
        for (update, judged) in updates.iter().zip(&mut *judged).filter(|(_, judged)| judged.is_none()) {
            *judged = judge(update, &refs);
        }
    }
    leave_unsure(judged, problem)
}

/// What is not known is said to be so; where nothing at all was done, the problem speaks for all.
fn leave_unsure(judged: &mut [Option<Outcome>], problem: &Problem) -> Result<(), Problem> {
    if problem.fault == Fault::Setup && judged.iter().all(Option::is_none) {
        return Err(problem.clone());
    }
    for judged in judged.iter_mut().filter(|judged| judged.is_none()) {
        *judged = Some(Outcome::Unsure { problem: problem.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use git2::Signature;
    use towpath_core::revision::CommitId;

    use super::super::super::tree::commit_id;
    use super::*;

    /// A commit with a file.
    fn commit(repository: &Repository, parents: &[Oid], content: &[u8]) -> CommitId {
        let mut tree = repository.treebuilder(None).unwrap();
        tree.insert("file", repository.blob(content).unwrap(), 0o100_644).unwrap();
        let tree = repository.find_tree(tree.write().unwrap()).unwrap();
        let parents: Vec<_> = parents.iter().map(|id| repository.find_commit(*id).unwrap()).collect();
        let person = Signature::now("x", "x@example.org").unwrap();
        let id = repository.commit(None, &person, &person, "m", &tree, &parents.iter().collect::<Vec<_>>());
        commit_id(id.unwrap())
    }

    fn update(new: CommitId) -> Update {
        Update { name: "refs/x/a".into(), old: None, new }
    }

    fn objects(pack: &[u8]) -> u32 {
        u32::from_be_bytes(pack[8..12].try_into().unwrap())
    }

    #[test]
    fn a_pack_has_what_the_server_lacks_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(folder.path()).unwrap();
        let first = commit(&repository, &[], b"one");
        let second = commit(&repository, &[oid(first)], b"two");
        let update = update(second);
        let pack = |found: &Advertisement, limit| pack(&repository, &[&update], found, limit).unwrap();
        let nothing = Advertisement::default();
        let whole = pack(&nothing, MAX_PUSH_BYTES).unwrap();
        assert_eq!(objects(&whole), 6);
        assert!(pack(&nothing, whole.len()).is_some());
        assert_eq!(pack(&nothing, whole.len() - 1), None);
        let first_there = Advertisement { refs: [("refs/heads/a".to_owned(), first)].into(), ..nothing.clone() };
        assert_eq!(objects(&pack(&first_there, MAX_PUSH_BYTES).unwrap()), 3);
        let elsewhere = Advertisement { others: vec![second], ..nothing };
        assert_eq!(objects(&pack(&elsewhere, MAX_PUSH_BYTES).unwrap()), 0);
    }

    #[test]
    fn where_the_server_stands_ahead_its_refs_are_hidden_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(folder.path()).unwrap();
        let mut history = vec![commit(&repository, &[], b"0")];
        for number in 1..MAX_NEAR + 50 {
            history.push(commit(&repository, &[oid(history[number - 1])], number.to_string().as_bytes()));
        }
        let aside = commit(&repository, &[oid(history[MAX_NEAR + 48])], b"aside");
        let head = *history.last().unwrap();
        let found = Advertisement { refs: [("refs/heads/a".to_owned(), head)].into(), ..Advertisement::default() };
        let pack = pack(&repository, &[&update(aside)], &found, MAX_PUSH_BYTES).unwrap().unwrap();
        assert_eq!(objects(&pack), 3);
    }

    #[test]
    fn only_a_ref_that_stands_where_it_is_thought_to_is_tried() {
        let [a, b, c] = [1, 2, 3].map(|byte| CommitId::from_bytes([byte; 20]));
        let refs = |id: Option<CommitId>| -> Refs { id.map(|id| ("refs/x/a".to_owned(), id)).into_iter().collect() };
        let update = |old| Update { name: "refs/x/a".into(), old, new: b };
        for (old, now, expected) in [
            (None, None, None),
            (Some(a), Some(a), None),
            (None, Some(b), Some(Outcome::Done)),
            (Some(a), Some(b), Some(Outcome::Done)),
            (None, Some(c), Some(Outcome::Moved { now: Some(c) })),
            (Some(a), Some(c), Some(Outcome::Moved { now: Some(c) })),
            (Some(a), None, Some(Outcome::Moved { now: None })),
        ] {
            assert_eq!(judge(&update(old), &refs(now)), expected);
        }
    }
}
