//! Reverts: what their commits say, in which order a range is reverted, and what a revert that does not fit says.

pub mod marks;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::bump::REQUEST_TRAILER;
use crate::fault::{Place, Problem};
use crate::revision::{CommitId, clean_line};

/// Commits that are reverted in one go.
pub const MAX_REVERTS: usize = 100;
/// Conflicts of one revert that are named; the rest is counted.
pub const MAX_CONFLICTS: usize = 100;
/// Characters of a subject, a reason or a name.
const SHOWN_CHARACTERS: usize = 200;
/// The trailer that each revert has which the agent makes; its value is the cluster.
pub const TRAILER: &str = "Towpath-Revert";
/// How the line of a message begins that git reads, and [`crate::commits::reverted`] too.
const WORDS: &str = "This reverts commit ";

/// The commit that is reverted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverted {
    /// Its id.
    pub commit: CommitId,
    /// First line of its message.
    pub subject: String,
    /// For a merge the parent that the branch had before it: the first.
    pub mainline: Option<CommitId>,
}

/// Who makes a revert, what for, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The cluster whose agent makes it.
    pub cluster: String,
    /// The environment that is rolled back.
    pub environment: Option<String>,
    /// The merge commit of the ticket that is taken back.
    pub ticket: Option<CommitId>,
    /// Who asks for it, by their own word.
    pub by: Option<String>,
    /// Why, in a person's words. One line of it is kept.
    pub reason: Option<String>,
    /// The request that it is made for.
    pub request: Option<String>,
    /// Who has it done although something is marked as not revertible, by their own word.
    pub overridden_by: Option<String>,
}

/// The message of a revert as git writes it (`sequencer.c`, git 2.43: a revert of a revert is a `Reapply`), with trailers.
pub fn message(reverted: &Reverted, cause: &Cause) -> String {
    let Reverted { commit, subject, mainline } = reverted;
    let subject = clean(subject);
    let mut text = match subject.strip_prefix("Revert \"") {
        // Git leaves deeper ones alone.
        Some(first) if !first.starts_with("Revert \"") => format!("Reapply \"{first}\n"),
        _ => format!("Revert \"{subject}\"\n"),
    };
    let _ = match mainline {
        Some(mainline) => writeln!(text, "\n{WORDS}{commit}, reversing\nchanges made to {mainline}."),
        None => writeln!(text, "\n{WORDS}{commit}."),
    };
    text.push('\n');
    trailers(&mut text, cause);
    text
}

/// How the subject of a commit begins that brings a whole older tree back.
const RESTORES: &str = "Restore the tree of ";

/// Whether a subject is that of a commit that brings a whole older tree back.
pub fn is_restoring(subject: &str) -> bool {
    subject.starts_with(RESTORES)
}

/// The message of the commit that brings a whole older tree back, where reverts do not fit. It reverts no commit by name,
/// for what it takes back is all that came after the older one.
pub fn restoring(older: CommitId, subject: &str, cause: &Cause) -> String {
    let short = older.short();
    let mut text = format!("{RESTORES}{short} \"{}\"\n\nAll files are as in {older}.\n\n", clean(subject));
    trailers(&mut text, cause);
    text
}

fn trailers(text: &mut String, cause: &Cause) {
    let Cause { cluster, environment, ticket, by, reason, request, overridden_by } = cause;
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = writeln!(text, "{name}: {value}");
        }
    };
    let cleaned = |value: &Option<String>| value.as_deref().map(clean);
    line(TRAILER, Some(clean(cluster)));
    line("Environment", cleaned(environment));
    line("Ticket", ticket.map(|ticket| ticket.to_string()));
    let unverified =
        |who: &Option<String>| cleaned(who).filter(|who| !who.is_empty()).map(|who| format!("{who} (unverified)"));
    line("Requested-By", unverified(by));
    line("Overridden-By", unverified(overridden_by));
    line("Reason", cleaned(reason));
    line(REQUEST_TRAILER, cleaned(request));
}

/// One line of a person's text that nobody takes for a word of ours: that some commit is reverted is said by us alone.
fn clean(text: &str) -> String {
    let line = clean_line(text, SHOWN_CHARACTERS);
    line.trim().replace(WORDS.trim_end(), "this reverts commit")
}

/// The order in which commits of a branch are reverted: the newest first, so that each finds the files as it left them.
/// `history` are the first parents of the branch, the newest first.
///
/// # Errors
/// `Content` when one of them is not there, or when they are more than [`MAX_REVERTS`].
pub fn order(history: &[CommitId], chosen: &[CommitId]) -> Result<Vec<CommitId>, Problem> {
    let mut left: BTreeSet<CommitId> = chosen.iter().copied().collect();
    if left.len() > MAX_REVERTS {
        let message = format!("{} commits are to be reverted in one go, and {MAX_REVERTS} may be", left.len());
        return Err(Problem::content(message).hint("restore the tree of an older commit instead"));
    }
    let ordered = history.iter().copied().filter(|commit| left.remove(commit)).collect();
    match left.first() {
        None => Ok(ordered),
        Some(other) => Err(Problem::content(format!("{other} is not a commit of the branch itself"))
            .hint("name the merge commit that brought it")),
    }
}

/// Where a revert does not fit what came after.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// A file that was changed since, or that is not certain to come out as git's own revert has it.
    File {
        /// Its path.
        path: String,
    },
    /// A submodule that was moved since. None where it is not there.
    Submodule {
        /// Its folder.
        path: String,
        /// The commit that it was pinned to before the commit that is reverted.
        before: Option<CommitId>,
        /// The one that the commit set.
        set: Option<CommitId>,
        /// The one that it is pinned to now.
        now: Option<CommitId>,
    },
}

/// All conflicts of one revert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// The first [`MAX_CONFLICTS`], sorted: files, then submodules.
    pub named: Vec<Conflict>,
    /// How many more there are.
    pub more: usize,
}

impl Conflicts {
    /// From all that were found.
    pub fn of(found: impl IntoIterator<Item = Conflict>) -> Conflicts {
        let mut named: Vec<Conflict> = found.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let more = named.len().saturating_sub(MAX_CONFLICTS);
        named.truncate(MAX_CONFLICTS);
        Conflicts { named, more }
    }

    /// What they say to people, each with the way out.
    pub fn problems(&self, reverted: CommitId) -> Vec<Problem> {
        const RESTORE: &str = "restore the tree of an older commit";
        let short = reverted.short();
        let name = |pin: &Option<CommitId>| pin.map_or_else(|| "nothing".to_owned(), |pin| pin.to_string());
        let problem = |conflict: &Conflict| match conflict {
            Conflict::File { path } => {
                let path = clean_line(path, SHOWN_CHARACTERS);
                Problem::content(format!("the revert of {short} does not fit what came after it"))
                    .at(Place::file(path))
                    .hint(format!("{RESTORE}, or revert it by hand"))
            }
            Conflict::Submodule { path, before, set, now } => {
                let path = clean_line(path, SHOWN_CHARACTERS);
                let (before, set, now) = (name(before), name(set), name(now));
                let message = format!("{short} moved the submodule from {before} to {set}, and now it is at {now}");
                Problem::content(message).at(Place::file(path)).hint(format!("pin it by hand, or {RESTORE}"))
            }
        };
        let mut problems: Vec<Problem> = self.named.iter().map(problem).collect();
        if self.more > 0 {
            problems.push(Problem::content(format!("{} more files do not fit the revert of {short}", self.more)));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bump::is_for;
    use crate::commits;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 20])
    }

    fn plain(subject: &str) -> Reverted {
        Reverted { commit: id(1), subject: subject.into(), mainline: None }
    }

    fn cause() -> Cause {
        Cause {
            cluster: "east".into(),
            environment: Some("prod".into()),
            ticket: Some(id(1)),
            by: Some("robin".into()),
            reason: Some("too slow".into()),
            request: Some("r-1".into()),
            overridden_by: None,
        }
    }

    #[test]
    fn a_revert_says_what_git_says_and_then_why() {
        let ones = "01".repeat(20);
        assert_eq!(
            message(&plain("faster start"), &cause()),
            format!(
                "Revert \"faster start\"\n\nThis reverts commit {ones}.\n\nTowpath-Revert: east\nEnvironment: prod\n\
                 Ticket: {ones}\nRequested-By: robin (unverified)\nReason: too slow\nRequest: r-1\n"
            )
        );
        let merge = Reverted { mainline: Some(id(2)), ..plain("Merge branch 'x'") };
        let twos = "02".repeat(20);
        let lone = Cause { cluster: "east".into(), ..Cause::default() };
        assert_eq!(
            message(&merge, &lone),
            format!(
                "Revert \"Merge branch 'x'\"\n\nThis reverts commit {ones}, reversing\nchanges made to {twos}.\n\n\
                 Towpath-Revert: east\n"
            )
        );
        assert!(is_for(&message(&plain("x"), &cause()), "r-1"));
    }

    #[test]
    fn a_revert_of_a_revert_is_a_reapply_and_deeper_ones_are_left_alone() {
        for (subject, expected) in [
            ("Revert \"x\"", "Reapply \"x\""),
            ("Reapply \"x\"", "Revert \"Reapply \"x\"\""),
            ("Revert \"Revert \"x\"\"", "Revert \"Revert \"Revert \"x\"\"\""),
        ] {
            assert_eq!(message(&plain(subject), &cause()).lines().next(), Some(expected));
        }
    }

    #[test]
    fn hostile_text_reverts_nothing_and_is_no_trailer() {
        let forged = format!("This reverts commit {}.", id(9));
        let split = forged.replace("reverts", "rev\u{200b}erts\u{1b}");
        for hostile in [forged.clone(), split, format!("x\n\n{forged}\n\nRequest: r-2\nTowpath-Revert: west")] {
            let cause = Cause {
                cluster: hostile.clone(),
                environment: Some(hostile.clone()),
                by: Some(hostile.clone()),
                reason: Some(hostile.clone()),
                request: Some(hostile.clone()),
                ..cause()
            };
            let text = message(&plain(&hostile), &cause);
            assert_eq!(commits::reverted(&text), [id(1)], "{text}");
            assert!(!is_for(&text, "r-2") && text.lines().count() == 10, "{text}");
            assert!(!text.contains(['\u{1b}', '\u{200b}']));
            let text = restoring(id(3), &hostile, &cause);
            assert!(commits::reverted(&text).is_empty() && !is_for(&text, "r-2"), "{text}");
        }
        let empty = Cause { by: Some("\n".into()), reason: Some(" ".into()), ..cause() };
        let text = message(&plain("x"), &empty);
        assert!(!text.contains("Requested-By") && !text.contains("Reason"), "{text}");
    }

    #[test]
    fn a_range_is_reverted_newest_first() {
        let history = [id(4), id(3), id(2), id(1)];
        assert_eq!(order(&history, &[id(2), id(4), id(3), id(2)]).unwrap(), [id(4), id(3), id(2)]);
        assert!(order(&history, &[]).unwrap().is_empty());
        assert!(order(&history, &[id(2), id(9)]).unwrap_err().message.contains(&id(9).to_string()));
        let long: Vec<CommitId> = (0..=MAX_REVERTS as u8).map(id).collect();
        assert!(order(&long, &long).unwrap_err().hint.unwrap().contains("restore the tree"));
        assert_eq!(order(&long, &long[1..]).unwrap().len(), MAX_REVERTS);
    }

    #[test]
    fn a_conflict_names_its_file_or_three_commits_and_the_way_out() {
        let submodule = Conflict::Submodule { path: "web".into(), before: Some(id(1)), set: Some(id(2)), now: None };
        let file = Conflict::File { path: "a\u{1b}.yaml".into() };
        let problems = Conflicts::of([submodule, file.clone(), file]).problems(id(7));
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with("a.yaml: the revert of 0707070 does not fit"), "{said:?}");
        for part in [id(1).to_string(), id(2).to_string(), "at nothing".into(), "pin it by hand, or restore".into()] {
            assert!(said[1].contains(&part), "{said:?}");
        }
        let many = (0..MAX_CONFLICTS + 3).map(|number| Conflict::File { path: number.to_string() });
        let many = Conflicts::of(many);
        assert_eq!((many.named.len(), many.more), (MAX_CONFLICTS, 3));
        assert!(many.problems(id(7)).last().unwrap().message.starts_with("3 more files"));
    }
}
