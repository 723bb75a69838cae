//! Commits as people read them in lists, of the deploy repository and of components.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::revision::CommitId;

/// A commit in a list. Its texts are one line each, fit for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// Its id.
    pub commit: CommitId,
    /// First line of its message.
    pub subject: String,
    /// Its author's name.
    pub author: String,
    /// When its author wrote it, which a cherry-pick keeps. For display, and to know a cherry-pick again.
    pub authored_at: Timestamp,
    /// Whether it has more than one parent.
    #[serde(default)]
    pub is_merge: bool,
    /// Its author's address; never shown.
    #[serde(skip)]
    pub email: String,
    /// The commits that its message says it reverts.
    #[serde(skip)]
    pub reverts: Vec<CommitId>,
}

impl Commit {
    /// What a cherry-pick keeps of a commit where nobody edits it: author, address, author's date and subject.
    pub fn kept_by_a_cherry_pick(&self) -> String {
        format!("{}\n{}\n{}\n{}", self.author, self.email, self.authored_at, self.subject)
    }
}

/// The commits that a message says it reverts, in git's own words: `This reverts commit <40 digits>`.
pub fn reverted(message: &str) -> Vec<CommitId> {
    const WORDS: &str = "This reverts commit ";
    let id = |(at, _): (usize, &str)| message.get(at + WORDS.len()..at + WORDS.len() + 40)?.parse().ok();
    message.match_indices(WORDS).filter_map(id).collect()
}

/// Some commits, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Those that are named.
    pub commits: Vec<Commit>,
    /// How many more there are.
    pub more: usize,
}

impl Log {
    /// How many there are, named or not.
    pub fn len(&self) -> usize {
        self.commits.len() + self.more
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revert_names_what_it_reverts() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let other = "f".repeat(40);
        let merge = format!("Revert \"x\"\n\nThis reverts commit {id}, reversing\nchanges made to {other}.\n");
        assert_eq!(reverted(&merge), [id.parse().unwrap()]);
        let two = format!("This reverts commit {id}.\nThis reverts commit {other}.");
        assert_eq!(reverted(&two).len(), 2);
        for none in ["This reverts commit 0123456.", "This reverts commit ", "This reverts commit ä", "Revert \"x\""] {
            assert_eq!(reverted(none), [], "{none}");
        }
    }
}
