//! What may be asked of a server by a push, what came of it, and the words for a refusal.

use towpath_core::fault::Problem;
use towpath_core::revision::{CommitId, clean_line};

/// Refs of one push.
pub const MAX_UPDATES: usize = 2000;
/// Bytes of the pack of one push. It is held in memory while it is sent.
pub const MAX_PUSH_BYTES: usize = 64 << 20;
/// Characters of what a server says to a refusal.
const SHOWN_CHARACTERS: usize = 300;

/// A ref that is to move on the server, forward and only from where it is thought to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The whole name of the ref.
    pub name: String,
    /// Where it must stand for the move to happen. `None` for a ref that must not be there.
    pub old: Option<CommitId>,
    /// Where it is to stand. Comes after `old`.
    pub new: CommitId,
}

/// What became of one ref of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stands on the new commit, maybe since an earlier push whose answer was lost.
    Done,
    /// It stands elsewhere than was thought, and was left there.
    Moved {
        /// Where it stands. `None` when it is not there.
        now: Option<CommitId>,
    },
    /// The server did not want it.
    Refused {
        /// Who can lift it.
        refusal: Refusal,
        /// Why, in words.
        why: String,
    },
    /// The answer was lost, and a look afterwards showed the ref where it stood before. A server may still be at it, so
    /// it may be done later; the same push again does no harm.
    Unsure {
        /// How the answer was lost.
        problem: Problem,
    },
}

/// Why a server did not want a ref to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A hook of the server or of its owner declined.
    Hook,
    /// The branch is protected, and these credentials may not move it.
    Protected,
    /// The server takes no refs of such a name: a branch is to be used instead.
    Name,
    /// The server could not store it: its disk, a quota. Worth another try.
    Storage,
    /// The server could not move the ref at the moment: something else holds it. Worth another try.
    Busy,
    /// Anything else.
    Other,
}

/// What a refusal in git's protocol means: the reason in the report, and the words beside it.
pub(super) fn refused(reason: &str, words: &str) -> Outcome {
    let has = |text: &str, parts: &[&str]| {
        let text = text.to_ascii_lowercase();
        parts.iter().any(|part| text.contains(part))
    };
    let (refusal, what) = if has(reason, &["hidden ref", "funny ref", "refname", "ref name"]) {
        (Refusal::Name, "the git server takes no refs of this name")
    } else if has(reason, &["protected branch"]) || has(words, &["protected branch", "protected ref"]) {
        (Refusal::Protected, "the branch is protected on the git server")
    } else if has(reason, &["pre-receive"]) {
        (Refusal::Hook, "the pre-receive hook of the git server declined")
    } else if has(reason, &["hook declined"]) {
        (Refusal::Hook, "the update hook of the git server declined")
    } else if has(reason, &["cannot lock ref", "failed to lock", "failed to update ref"]) {
        (Refusal::Busy, "the git server could not move the ref at the moment")
    } else if has(reason, &["checked out"]) {
        (Refusal::Other, "the branch is checked out in the repository of the git server")
    } else {
        (Refusal::Other, "the git server refused")
    };
    let reason = clean_line(reason, SHOWN_CHARACTERS);
    let words = said(words);
    let why = match (refusal, words.is_empty()) {
        (Refusal::Hook, true) => what.to_owned(),
        (Refusal::Hook | Refusal::Protected, false) => format!("{what}: {words}"),
        (_, true) => format!("{what}: {reason}"),
        (_, false) => format!("{what}: {reason}: {words}"),
    };
    Outcome::Refused { refusal, why }
}

/// What it means that a server could not unpack what was pushed.
pub(super) fn not_stored(reason: &str, words: &str) -> Outcome {
    let words = said(&format!("{reason}\n{words}"));
    let why = format!("the git server could not store what was pushed: {words}");
    Outcome::Refused { refusal: Refusal::Storage, why }
}

/// What a server says to people, in one line.
fn said(words: &str) -> String {
    let lines = words.lines().map(|line| clean_line(line, SHOWN_CHARACTERS).trim().to_owned());
    let line = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    clean_line(&line, SHOWN_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reason: &str, words: &str, refusal: Refusal, why: &str) {
        assert_eq!(refused(reason, words), Outcome::Refused { refusal, why: why.to_owned() });
    }

    #[test]
    fn a_refusal_says_who_can_lift_it() {
        let gitlab = "GitLab: You are not allowed to push code to protected branches on this project.\n";
        check(
            "pre-receive hook declined",
            gitlab,
            Refusal::Protected,
            &format!("the branch is protected on the git server: {}", gitlab.trim()),
        );
        check(
            "protected branch hook declined",
            "",
            Refusal::Protected,
            "the branch is protected on the git server: protected branch hook declined",
        );
        check("pre-receive hook declined", "", Refusal::Hook, "the pre-receive hook of the git server declined");
        check(
            "hook declined",
            "not\n\n on Fridays \n",
            Refusal::Hook,
            "the update hook of the git server declined: not on Fridays",
        );
        check(
            "deny updating a hidden ref",
            "",
            Refusal::Name,
            "the git server takes no refs of this name: deny updating a hidden ref",
        );
        for reason in ["cannot lock ref 'refs/heads/a': File exists", "failed to update ref"] {
            let why = format!("the git server could not move the ref at the moment: {reason}");
            check(reason, "", Refusal::Busy, &why);
        }
        check("non-fast-forward", "", Refusal::Other, "the git server refused: non-fast-forward");
    }

    #[test]
    fn what_a_server_says_is_cleaned_and_cut() {
        let Outcome::Refused { why, .. } = refused("x\u{1b}[31m", &"\u{1b}]0;y\u{7}".repeat(500)) else {
            panic!("not a refusal")
        };
        assert!(!why.contains(char::is_control) && why.len() < 2 * SHOWN_CHARACTERS + 100, "{why}");
    }
}
