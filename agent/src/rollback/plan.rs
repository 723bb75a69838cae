//! Which release is gone back to, and which commits of the branch are reverted for it.

use std::collections::BTreeSet;

use towpath_core::commits::Commit;
use towpath_core::fault::{Fault, Problem};
use towpath_core::revert::{self, MAX_REVERTS, Reverted};
use towpath_core::revision::CommitId;
use towpath_core::rollback::{self, Named, Past};
use towpath_core::status::{RollbackStatus, Wish};

use super::Subject;
use crate::repo::{MAX_LOOKED_AT, Mirror, Reversal, StandingRevert, brought, reverts};

/// Reverts of reverts that are followed.
const MAX_CHAIN: usize = 100;
/// Releases that are looked through for the one before, from the newest.
const MAX_PAST: usize = 200;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The environment and its branch.
    pub subject: Subject,
    /// The release that is gone back to, where one that ran is.
    pub to: Option<Past>,
    /// A newer one that was passed over, for it was not healthy when it was left.
    pub passed_over: Option<Past>,
    /// The commits that are reverted, in this order.
    pub chosen: Vec<Reverted>,
    /// Those of the range that the branch has taken back already, and by what.
    pub already: Vec<StandingRevert>,
    /// What of the chosen ones the environment did not run yet, the newest first.
    pub rest: Vec<CommitId>,
    /// One commit with the files of the older release takes the place of reverts.
    pub restores: bool,
    /// Whether everything since a release is taken back, and not a ticket.
    pub is_range: bool,
    /// Whether there are more commits than those that are named: only where the files of a release are restored.
    pub is_cut: bool,
    /// It lands something again, and takes nothing back.
    pub lands: bool,
    /// What was rolled back in the cluster alone and may come again as it is, for no revert of it is on the branch.
    pub lifts: Vec<CommitId>,
    /// The environment goes back in the cluster whatever becomes of the branch.
    pub is_emergency: bool,
}

impl Plan {
    /// Every change that is taken back, and by what it is taken back already.
    pub fn taken(&self) -> Vec<(CommitId, Option<CommitId>)> {
        let already = self.already.iter().map(|one| (one.taken, Some(one.revert)));
        self.chosen.iter().map(|one| (one.commit, None)).chain(already).collect()
    }

    /// What else an environment is without while it is on a release: the commits of the branch after that one which stay on
    /// the branch.
    ///
    /// # Errors
    /// `Passing` when something of it is not in the mirror.
    pub fn leaves_behind(&self, mirror: &Mirror, on: CommitId) -> Result<Vec<CommitId>, Problem> {
        let mut left = Vec::new();
        for step in mirror.line(self.subject.from).take(MAX_LOOKED_AT) {
            let (commit, _) = step?;
            if mirror.is_ancestor(commit, on)? {
                break;
            }
            left.push(commit);
        }
        left.retain(|commit| !self.chosen.iter().any(|one| one.commit == *commit));
        left.retain(|commit| !self.already.iter().any(|one| one.taken == *commit));
        Ok(left)
    }

    /// Whether the environment runs what its branch stands on.
    pub fn is_at_head(&self) -> bool {
        self.subject.from == self.subject.head
    }
}

/// Finds out what is to be done. Reads the mirror, contacts nobody.
///
/// # Errors
/// `Content` where what is wished for makes no sense for this environment or branch, with what would; `Passing` where
/// something is not in the mirror.
pub fn plan(mirror: &Mirror, subject: Subject, wish: &Wish) -> Result<Plan, Problem> {
    if [&wish.to, &wish.ticket, &wish.reland].into_iter().flatten().count() > 1 {
        return Err(Problem::content("only one of to, ticket and reland can be said"));
    }
    if wish.restore && (wish.ticket.is_some() || wish.reland.is_some()) {
        return Err(Problem::content("the files of a whole release are restored, not of a ticket")
            .hint("name the release with --to"));
    }
    if let Some(text) = &wish.reland {
        return landing(mirror, subject, text);
    }
    let Subject { branch, head, from, environment, .. } = &subject;
    if !mirror.is_ancestor(*from, *head)? {
        let said = format!("{} of {environment} is no part of {branch}@{}", from.short(), head.short());
        return Err(Problem::content(format!("{said}: its history was rewritten, or the lane has another branch now"))
            .hint(
                "reverts on that branch would not bring back what ran; name a ticket of an environment that runs it",
            ));
    }
    // What has been reverted so far, as far back as is looked.
    let standing = reverts(mirror, *head, &[])?;
    let (to, passed_over, chosen, rest) = match &wish.ticket {
        Some(ticket) => {
            let chosen = tickets(mirror, &subject, ticket)?;
            let to = match previous(mirror, &subject, &standing, &chosen) {
                Ok((past, _)) => Some(past),
                Err(problem) if problem.fault == Fault::Content => None,
                Err(problem) => return Err(problem),
            };
            (to, None, chosen, Vec::new())
        }
        None => {
            let (to, passed_over) = match &wish.to {
                Some(text) => (named(mirror, &subject, text)?, None),
                None => {
                    let found = previous(mirror, &subject, &standing, &[]);
                    is_no_second(mirror, &subject, found.as_ref().ok().map(|(further, _)| further))?;
                    found?
                }
            };
            // The files of a release as a whole: whatever came since goes.
            let end = if wish.back_out_lane || wish.restore { *head } else { *from };
            let chosen = range(mirror, &subject, to.commit, end, wish.restore)?;
            let rest = if wish.back_out_lane { range(mirror, &subject, *from, *head, false)? } else { Vec::new() };
            (Some(to), passed_over, chosen, rest)
        }
    };
    let already = already(mirror, &chosen, &standing)?;
    let left = without(&chosen, &already);
    let is_cut = wish.restore && left.len() >= MAX_REVERTS;
    let chosen = reverted(mirror, *head, &left)?;
    Ok(Plan {
        to,
        passed_over,
        chosen,
        already,
        rest,
        restores: wish.restore,
        is_range: wish.ticket.is_none(),
        is_cut,
        lands: false,
        lifts: Vec::new(),
        is_emergency: wish.emergency,
        subject,
    })
}

/// What of the chosen commits is taken back already, and stays so: not by one of them, and by nothing that one of them
/// brought, for these are taken back too.
fn already(mirror: &Mirror, chosen: &[CommitId], standing: &[StandingRevert]) -> Result<Vec<StandingRevert>, Problem> {
    let mut found = Vec::new();
    for one in standing.iter().filter(|one| chosen.contains(&one.taken)) {
        let mut goes_with = chosen.contains(&one.revert);
        for commit in chosen {
            if goes_with {
                break;
            }
            goes_with = brought(mirror, *commit)?.iter().any(|brought| brought.commit == one.revert);
        }
        if !goes_with {
            found.push(*one);
        }
    }
    Ok(found)
}

/// What of the chosen commits is not taken back already.
fn without(chosen: &[CommitId], already: &[StandingRevert]) -> Vec<CommitId> {
    let is_taken = |commit: &CommitId| already.iter().any(|one| one.taken == *commit);
    chosen.iter().copied().filter(|commit| !is_taken(commit)).collect()
}

/// The same again, for what was begun and agreed to, on what the branch is now.
///
/// # Errors
/// As [`plan`]; `Content` too where the branch has moved on so that it would be something else.
pub fn again(mirror: &Mirror, subject: Subject, begun: &RollbackStatus) -> Result<Plan, Problem> {
    let wish = begun.wish.clone().unwrap_or_default();
    let Subject { head, from, branch, .. } = &subject;
    let chosen = begun.commits();
    for commit in chosen.iter().chain(wish.reland.is_none().then_some(from)) {
        if !mirror.is_ancestor(*commit, *head)? {
            let said = format!("{} is no part of {branch}@{} any more", commit.short(), head.short());
            return Err(Problem::content(format!("{said}: its history was rewritten")));
        }
    }
    // By what the status says, for the mirror may have lost the commit that was made on it.
    let agreed_on = begun.onto.as_ref().and_then(|onto| onto.parse::<CommitId>().ok());
    if wish.restore && agreed_on != Some(*head) {
        return Err(Problem::content(format!("{branch} has moved on, and would lose what came since"))
            .hint("look at it and ask again"));
    }
    let standing = reverts(mirror, *head, &[])?;
    let already = already(mirror, &chosen, &standing)?;
    let left = without(&chosen, &already);
    let mut rest = Vec::new();
    for commit in left.iter().filter(|_| wish.back_out_lane) {
        if !mirror.is_ancestor(*commit, *from)? {
            rest.push(*commit);
        }
    }
    let to = begun.to.as_ref().and_then(|to| to.rsplit_once("@sha1:")?.1.parse().ok());
    let to = to.map(|commit| Past { sync: 0, commit, branch: None, was_healthy: true });
    let chosen = reverted(mirror, *head, &left)?;
    let (restores, lands, is_emergency) = (wish.restore, wish.reland.is_some(), wish.emergency);
    // What came since is part of it now, so that it comes to other files.
    let is_range = false;
    Ok(Plan {
        to,
        passed_over: None,
        chosen,
        already,
        rest,
        restores,
        is_range,
        is_cut: false,
        lands,
        lifts: Vec::new(),
        is_emergency,
        subject,
    })
}

/// The commits with what a revert says of them, in the order in which they are reverted.
fn reverted(mirror: &Mirror, head: CommitId, chosen: &[CommitId]) -> Result<Vec<Reverted>, Problem> {
    let mut left: BTreeSet<CommitId> = chosen.iter().copied().collect();
    let mut history = Vec::new();
    for step in mirror.line(head).take(MAX_LOOKED_AT) {
        if left.is_empty() {
            break;
        }
        let (commit, _) = step?;
        history.push(commit);
        left.remove(&commit);
    }
    if let Some(other) = left.first() {
        let oldest = history.last().filter(|_| history.len() >= MAX_LOOKED_AT);
        if let Some(oldest) = oldest
            && mirror.is_ancestor(*other, *oldest)?
        {
            let said = format!("{} is older than the last {MAX_LOOKED_AT} commits of the branch", other.short());
            return Err(Problem::content(said).hint("that is too old to be taken back here: revert it with git"));
        }
        // It came with something: that is what can be reverted.
        let brought = history.iter().rev().find(|commit| mirror.is_ancestor(*other, **commit).unwrap_or(false));
        if let Some(brought) = brought {
            return Err(Problem::content(format!("{} came with {}", other.short(), brought.short()))
                .hint(format!("take that back: --ticket {}", brought.short())));
        }
    }
    let ordered = revert::order(&history, chosen)?;
    ordered
        .into_iter()
        .map(|commit| {
            let parents = mirror.commit(commit)?.parents;
            let mainline = parents.first().copied().filter(|_| parents.len() > 1);
            Ok(Reverted { commit, subject: mirror.told(commit)?.subject, mainline })
        })
        .collect()
}

/// The commits of the branch itself after a release and up to another one, the newest first.
fn range(
    mirror: &Mirror,
    subject: &Subject,
    after: CommitId,
    end: CommitId,
    restores: bool,
) -> Result<Vec<CommitId>, Problem> {
    let mut chosen = Vec::new();
    let mut commit = end;
    while commit != after {
        if mirror.is_ancestor(commit, after)? {
            if restores {
                break;
            }
            let said = format!("{} was no head of {}: it came into it from the side", after.short(), subject.branch);
            return Err(Problem::content(said).hint("restore its files with --restore, or take a ticket back"));
        }
        chosen.push(commit);
        if chosen.len() > MAX_REVERTS {
            if restores {
                chosen.pop();
                break;
            }
            return Err(Problem::content(format!("more than {MAX_REVERTS} commits would be reverted"))
                .hint("restore the files of the older release with --restore"));
        }
        match mirror.commit(commit)?.parents.first() {
            Some(parent) => commit = *parent,
            None => {
                return Err(Problem::content(format!("{} is no part of {}", after.short(), subject.branch)));
            }
        }
    }
    Ok(chosen)
}

/// The release that somebody names.
fn named(mirror: &Mirror, subject: &Subject, text: &str) -> Result<Past, Problem> {
    let Subject { cluster, environment, from, past, branch, .. } = subject;
    let found = match rollback::named((cluster, environment.as_str()), text)? {
        Named::Sync(number) => past.iter().find(|one| one.sync == number),
        Named::Commit(digits) => past.iter().find(|one| one.commit.to_string().starts_with(&digits)),
    };
    let found = found.ok_or_else(|| {
        let known: Vec<String> =
            past.iter().take(10).map(|one| format!("{environment}@{} ({})", one.sync, one.commit.short())).collect();
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        Problem::content(format!("{environment} never ran {}", towpath_core::revision::clean_line(text, 80)))
            .hint(format!("it ran {known}"))
    })?;
    if found.commit == *from {
        return Err(Problem::content(format!("{environment} runs {} already", found.commit.short())));
    }
    if !mirror.contains(found.commit) {
        return Err(Problem::content(format!("{} is no longer in the repository", found.commit.short()))
            .hint("name another release"));
    }
    if !mirror.is_ancestor(found.commit, *from)? {
        return Err(rollback::is_beside(found, branch, None));
    }
    Ok(found.clone())
}

/// The newest healthy release before, without what is to be taken back.
fn previous(
    mirror: &Mirror,
    subject: &Subject,
    reverts: &[StandingRevert],
    taken: &[CommitId],
) -> Result<(Past, Option<Past>), Problem> {
    let tree = |commit: CommitId| mirror.commit(commit).map(|stored| stored.tree);
    let from_tree = tree(subject.from)?;
    let past = &subject.past[..subject.past.len().min(MAX_PAST)];
    let standing = |past: &Past| {
        if !mirror.contains(past.commit) {
            return Ok(rollback::Standing::default());
        }
        let mut has_rolled_back = false;
        for change in taken {
            has_rolled_back |= mirror.is_ancestor(*change, past.commit)?;
        }
        // What took it back may not say so, as where files were restored or reverts were squashed.
        for (taken, revert) in &subject.rolled_back {
            let is_in = |commit: CommitId| -> Result<bool, Problem> {
                Ok(mirror.contains(commit) && mirror.is_ancestor(commit, past.commit)?)
            };
            has_rolled_back |= is_in(*taken)? && !revert.map_or(Ok(false), is_in)?;
        }
        for StandingRevert { taken, revert } in reverts {
            has_rolled_back |= mirror.contains(*taken)
                && mirror.is_ancestor(*taken, past.commit)?
                && !mirror.is_ancestor(*revert, past.commit)?
                && !takes_back(mirror, *taken)?;
        }
        let files = tree(past.commit)?;
        let is_part = mirror.is_ancestor(past.commit, subject.from)?;
        Ok(rollback::Standing { is_part, has_same_files: files == from_tree, files: Some(files), has_rolled_back })
    };
    let (found, passed_over) = rollback::previous(past, (&subject.branch, subject.from), standing)?;
    Ok((found.clone(), passed_over.cloned()))
}

/// Who asks twice, or after somebody else did, means the same rollback: going back further is something else, and is asked
/// for by name.
fn is_no_second(mirror: &Mirror, subject: &Subject, further: Option<&Past>) -> Result<(), Problem> {
    let Subject { environment, from, rolled_back, .. } = subject;
    let is_in = |commit: CommitId| -> Result<bool, Problem> {
        Ok(mirror.contains(commit) && mirror.is_ancestor(commit, *from)?)
    };
    let mut is_back = subject.is_held;
    for (taken, revert) in rolled_back.iter().filter(|_| subject.is_held) {
        // It may be held on what was rolled back, where it can go nowhere.
        is_back &= !is_in(*taken)? || revert.map_or(Ok(false), is_in)?;
    }
    if !is_back && !takes_back(mirror, *from)? {
        return Ok(());
    }
    let why = if is_back { "was rolled back already, and is held on" } else { "runs what a rollback came to:" };
    let further = further.map(|Past { sync, commit, .. }| {
        format!("to go further back name the release: --to {environment}@{sync} ({}); ", commit.short())
    });
    let hint = format!("{}to have again what was taken back: towpath reland", further.unwrap_or_default());
    Err(Problem::content(format!("{environment} {why} {}", from.short())).hint(hint))
}

/// Whether a commit takes something back: it reverts one that does not, or is a merge of such a revert. So a revert of it
/// lands something, and a release that has it and not that revert is as good as it was.
fn takes_back(mirror: &Mirror, commit: CommitId) -> Result<bool, Problem> {
    let (mut takes_back, mut commit) = (false, commit);
    for _ in 0..MAX_CHAIN {
        if !mirror.contains(commit) {
            break;
        }
        let merged = brought(mirror, commit)?;
        if revert::is_restoring(&mirror.told(commit)?.subject) {
            return Ok(!takes_back);
        }
        let reverts = match merged.iter().find(|one| !one.reverts.is_empty()) {
            Some(first) if only_reverts(&merged) => first.reverts.clone(),
            _ => mirror.told(commit)?.reverts,
        };
        let Some(taken) = reverts.first() else { break };
        (takes_back, commit) = (!takes_back, *taken);
    }
    Ok(takes_back)
}

/// The commits that somebody names as a ticket, or as a range of them.
fn tickets(mirror: &Mirror, subject: &Subject, text: &str) -> Result<Vec<CommitId>, Problem> {
    let chosen = match text.split_once("..") {
        None => vec![commit(mirror, text)?],
        Some((after, end)) => {
            let (after, end) = (commit(mirror, after)?, commit(mirror, end)?);
            if after == end || !mirror.is_ancestor(after, end)? {
                return Err(Problem::content(format!("{} does not come after {}", end.short(), after.short()))
                    .hint("write the older one first: older..newer; the older one itself stays"));
            }
            range(mirror, subject, after, end, false)?
        }
    };
    for commit in &chosen {
        if !mirror.is_ancestor(*commit, subject.from)? {
            let said = format!("{} does not run {}", subject.environment, commit.short());
            return Err(Problem::content(said).hint("take it back where it runs, or with git revert"));
        }
    }
    Ok(chosen)
}

fn commit(mirror: &Mirror, text: &str) -> Result<CommitId, Problem> {
    let unknown = || {
        Problem::content(format!("there is no commit {} here", towpath_core::revision::clean_line(text, 80)))
            .hint("name it by at least 7 digits of its id")
    };
    mirror.find(&text.to_ascii_lowercase())?.ok_or_else(unknown)
}

/// What lands changes again: reverts of their reverts.
fn landing(mirror: &Mirror, subject: Subject, text: &str) -> Result<Plan, Problem> {
    let head = subject.head;
    let standing = reverts(mirror, head, &[])?;
    let named = match text.split_once("..") {
        None => vec![commit(mirror, text)?],
        Some((after, end)) => range(mirror, &subject, commit(mirror, after)?, commit(mirror, end)?, false)?,
    };
    let (mut chosen, mut lifts) = (Vec::new(), Vec::new());
    for commit in named {
        let found = standing.iter().find(|one| one.revert == commit || one.taken == commit);
        let merged = brought(mirror, commit)?;
        let brings_a_revert = merged.iter().any(|brought| standing.iter().any(|one| one.revert == brought.commit));
        let revert = match found {
            Some(one) => Some(on_the_line(mirror, head, one.revert)?),
            None if brings_a_revert && only_reverts(&merged) => Some(commit),
            None => restored_by(mirror, &subject, commit)?,
        };
        match revert {
            Some(revert) if chosen.contains(&revert) => {}
            Some(revert) => chosen.push(revert),
            None if subject.rolled_back.iter().any(|(taken, _)| *taken == commit) => {
                if let Some(by) = silent_revert(mirror, &subject, commit)? {
                    let said = format!("{} was taken back by {by}, which does not say so", commit.short());
                    return Err(Problem::content(said).hint("revert that commit"));
                }
                lifts.push(commit);
            }
            None => {
                let said = format!("{} is no revert that holds on {}", commit.short(), subject.branch);
                return Err(Problem::content(format!("{said}, and nothing there reverts it"))
                    .hint("git log --grep 'This reverts commit' lists the reverts"));
            }
        }
    }
    let chosen = reverted(mirror, head, &chosen)?;
    Ok(Plan {
        to: None,
        passed_over: None,
        chosen,
        already: Vec::new(),
        rest: Vec::new(),
        restores: false,
        is_range: false,
        is_cut: false,
        lands: true,
        lifts,
        is_emergency: false,
        subject,
    })
}

/// The commit that brought a whole older tree back, named by itself or by what it took back.
fn restored_by(mirror: &Mirror, subject: &Subject, commit: CommitId) -> Result<Option<CommitId>, Problem> {
    let known = subject.rolled_back.iter().filter(|(taken, _)| *taken == commit).filter_map(|(_, revert)| *revert);
    for by in known.chain([commit]) {
        let is_it = mirror.contains(by)
            && mirror.is_ancestor(by, subject.head)?
            && revert::is_restoring(&mirror.told(by)?.subject);
        if is_it {
            return Ok(Some(by));
        }
    }
    Ok(None)
}

/// What is reverted to take a revert back: itself, or the merge that brought it and nothing but reverts.
fn on_the_line(mirror: &Mirror, head: CommitId, revert: CommitId) -> Result<CommitId, Problem> {
    let mut merge = None;
    for step in mirror.line(head).take(MAX_LOOKED_AT) {
        let (commit, _) = step?;
        if commit == revert {
            return Ok(revert);
        }
        if !mirror.is_ancestor(revert, commit)? {
            break;
        }
        merge = Some(commit);
    }
    match merge {
        Some(merge) if only_reverts(&brought(mirror, merge)?) => Ok(merge),
        _ => Ok(revert),
    }
}

/// Whether a merge brought reverts and nothing else.
fn only_reverts(brought: &[Commit]) -> bool {
    !brought.is_empty() && brought.iter().all(|one| !one.reverts.is_empty() || one.is_merge)
}

/// What took a change back on the branch without saying so: the commit that is known, else that somebody did.
fn silent_revert(mirror: &Mirror, subject: &Subject, commit: CommitId) -> Result<Option<String>, Problem> {
    let head = subject.head;
    for (_, revert) in subject.rolled_back.iter().filter(|(taken, _)| *taken == commit) {
        if let Some(revert) = revert.filter(|revert| mirror.contains(*revert))
            && mirror.is_ancestor(revert, head)?
        {
            return Ok(Some(revert.short()));
        }
    }
    let is_gone = mirror.is_ancestor(commit, head)? && mirror.reverse(commit, head)? == Reversal::Nothing;
    Ok(is_gone.then(|| "a commit".to_owned()))
}
