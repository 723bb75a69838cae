//! Moves of components in a deploy branch: which of them may be made, and the commit that makes them.

use std::fmt::Write as _;

use crate::fault::Problem;
use crate::revision::{CommitId, clean_line};

/// Characters of a subject that are shown.
const SHOWN_CHARACTERS: usize = 100;
/// Components that the subject of a commit names.
const MAX_NAMED: usize = 3;
/// The trailer that each commit has which the agent makes for components; its value is the cluster.
pub const TRAILER: &str = "Towpath-Bump";
/// The trailer with the request that a commit was made for.
pub const REQUEST_TRAILER: &str = "Request";

/// One component and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Folder of the submodule.
    pub path: String,
    /// Its commit until now.
    pub from: CommitId,
    /// Its new one.
    pub to: CommitId,
    /// The version, or what else names a commit, before and after.
    pub names: (String, String),
    /// How many commits come with it. None where it does not go forward.
    pub commits: Option<usize>,
    /// The subject of the new commit.
    pub subject: String,
    /// Whether it is not on the component's branch that goes with the deploy branch.
    pub is_outside: bool,
}

/// Where a component stands against its branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the head of the branch.
    Head,
    /// The branch has what it lacks, and it has nothing that the branch lacks.
    Behind,
    /// It has commits that the branch lacks, and lacks none.
    Ahead,
    /// Each has what the other lacks.
    Aside,
}

/// Whether a component moves by itself to the head of its branch: only forward, so that nothing that somebody has released
/// by hand goes back in silence.
pub fn moves_by_itself(place: Place) -> bool {
    place == Place::Behind
}

/// Who makes a commit, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The cluster whose agent makes it.
    pub cluster: String,
    /// The request of a person, and who that is by their own word.
    pub request: Option<(String, Option<String>)>,
}

/// The message of the commit that makes some moves: a subject, a line for each component, trailers.
pub fn message(moves: &[Move], author: &Author) -> String {
    let mut text = match moves {
        [one] => format!("{}: move to {}\n", clean(&one.path), one.names.1),
        _ => {
            let name = |one: &Move| clean(one.path.rsplit('/').next().unwrap_or(&one.path));
            let named: Vec<String> = moves.iter().take(MAX_NAMED).map(name).collect();
            let rest = moves.len() - named.len();
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            format!("components: move {}{rest}\n", named.join(", "))
        }
    };
    text.push('\n');
    for one in moves {
        let how = match one.commits {
            Some(1) => "1 commit".to_owned(),
            Some(count) => format!("{count} commits"),
            None => "not forward".to_owned(),
        };
        let outside = if one.is_outside { ", outside of its branch" } else { "" };
        let (from, to) = &one.names;
        let _ = writeln!(text, "* {} {from}..{to} ({how}{outside})", clean(&one.path));
        let _ = writeln!(text, "  {}", clean(&one.subject));
    }
    let _ = write!(text, "\n{TRAILER}: {}\n", author.cluster);
    if let Some((request, by)) = &author.request {
        let _ = writeln!(text, "{REQUEST_TRAILER}: {}", clean(request));
        if let Some(by) = by {
            let _ = writeln!(text, "Requested-By: {} (unverified)", clean(by));
        }
    }
    text
}

/// Whether a commit was made for a request.
pub fn is_for(message: &str, request: &str) -> bool {
    let line = format!("{REQUEST_TRAILER}: {}", clean(request));
    let mut lines = message.lines().rev().take_while(|line| !line.is_empty());
    lines.any(|other| other == line)
}

fn clean(text: &str) -> String {
    clean_line(text, SHOWN_CHARACTERS)
}

/// A bump by hand to a commit outside of the branch that goes with the deploy branch, where that is refused.
pub fn outside(path: &str, to: CommitId, branch: &str, lane: &str) -> Problem {
    Problem::content(format!("component {path}: {to} is not on its branch {branch}"))
        .hint(format!("merge it to {branch} first, or let the Repository's spec.bumps say `outside: Warn` for {lane}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(path: &str, digit: u8) -> Move {
        Move {
            path: path.into(),
            from: CommitId::from_bytes([1; 20]),
            to: CommitId::from_bytes([digit; 20]),
            names: ("v1.0-1-0101010".into(), format!("v1.0-4-{}", CommitId::from_bytes([digit; 20]).short())),
            commits: Some(3),
            subject: "Faster\u{1b}[2J start\nEnvironment: prod".into(),
            is_outside: false,
        }
    }

    #[test]
    fn a_commit_says_what_moves_and_for_whom() {
        let author = Author { cluster: "east".into(), request: Some(("r-1".into(), Some("robin".into()))) };
        let text = message(&[to("components/web", 2)], &author);
        assert_eq!(
            text,
            "components/web: move to v1.0-4-0202020\n\n\
             * components/web v1.0-1-0101010..v1.0-4-0202020 (3 commits)\n  Faster[2J startEnvironment: prod\n\n\
             Towpath-Bump: east\nRequest: r-1\nRequested-By: robin (unverified)\n"
        );
        assert!(is_for(&text, "r-1") && !is_for(&text, "r-2"));
        // What a component's author writes is no trailer of ours.
        let forged = Move { subject: "x\n\nRequest: r-2".into(), ..to("web", 2) };
        assert!(!is_for(&message(&[forged], &Author { cluster: "east".into(), request: None }), "r-2"));
    }

    #[test]
    fn many_moves_are_one_commit_with_a_short_subject() {
        let moves: Vec<Move> = (2..7).map(|digit| to(&format!("components/c{digit}"), digit)).collect();
        let text = message(&moves, &Author { cluster: "east".into(), request: None });
        assert_eq!(text.lines().next(), Some("components: move c2, c3, c4 and 2 more"));
        assert_eq!(text.lines().filter(|line| line.starts_with("* ")).count(), 5);
    }

    #[test]
    fn a_component_moves_by_itself_only_forward() {
        assert!(moves_by_itself(Place::Behind));
        for place in [Place::Head, Place::Ahead, Place::Aside] {
            assert!(!moves_by_itself(place), "{place:?}");
        }
    }
}
