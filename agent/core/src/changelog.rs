//! What lies between two revisions of the deploy repository: its own commits, and those of each component.
//!
//! Which commits lie between two is read elsewhere; here it is told. Subjects come from anybody: they are made harmless
//! where they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::commits::{Commit, Log};
use crate::matrix::Cell;
use crate::revision::clean_line;

/// Commits of one repository that are named in a changelog; the rest is counted.
pub const MAX_NAMED: usize = 100;
/// Characters of a text that are written.
const MAX_SHOWN: usize = 200;

/// Which way something moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// It is the same.
    Same,
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// The later one contains the earlier one.
    Forward,
    /// The earlier one contains the later one: a downgrade.
    Back,
    /// Each has commits that the other lacks: another branch, or history was rewritten.
    Aside,
    /// They have no commit in common.
    Unrelated,
    /// It is not known.
    Unknown,
}

impl Way {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Way::Same => "unchanged",
            Way::Added => "added",
            Way::Removed => "removed",
            Way::Forward => "forward",
            Way::Back => "downgrade",
            Way::Aside => "to another line of history",
            Way::Unrelated => "to an unrelated history",
            Way::Unknown => "unknown",
        }
    }
}

/// What lies between two commits of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// What the later one has and the earlier one lacks, a merge as one commit.
    pub coming: Log,
    /// What the earlier one has and the later one lacks.
    pub going: Log,
    /// Whether they have a commit in common.
    pub is_related: bool,
}

impl Between {
    fn way(&self) -> Way {
        match (self.is_related, self.coming.is_empty(), self.going.is_empty()) {
            (_, true, true) => Way::Same,
            (false, ..) => Way::Unrelated,
            (true, false, true) => Way::Forward,
            (true, true, false) => Way::Back,
            (true, false, false) => Way::Aside,
        }
    }
}

/// How one repository moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// Which way.
    pub way: Way,
    /// The commits that come.
    #[serde(default)]
    pub coming: Log,
    /// The commits that go.
    #[serde(default)]
    pub going: Log,
    /// Why it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl Moved {
    /// Of what lies between, or of why that is not known.
    pub fn of(between: Result<Between, String>) -> Moved {
        match between {
            Ok(between) => Moved { way: between.way(), coming: between.coming, going: between.going, unknown: None },
            Err(why) => Moved { unknown: Some(why), ..Moved::only(Way::Unknown) },
        }
    }

    fn only(way: Way) -> Moved {
        Moved { way, coming: Log::default(), going: Log::default(), unknown: None }
    }
}

/// How one component moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentMove {
    /// Its name.
    pub name: String,
    /// Its version or the first digits of its commit before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The same afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How.
    #[serde(flatten)]
    pub moved: Moved,
}

/// One end of a changelog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What somebody asked for: `prod`, `prod@3`, `master`, a commit.
    pub name: String,
    /// `branch@sha1:<commit>`.
    pub revision: String,
}

/// What lies between two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changelog {
    /// From here.
    pub from: End,
    /// To here.
    pub to: End,
    /// The deploy repository's own commits.
    pub deploy: Moved,
    /// The components that moved, by name.
    pub components: Vec<ComponentMove>,
    /// Names of those that did not.
    pub unchanged: Vec<String>,
    /// Why components are not known at one of the ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl Changelog {
    /// Folds the components of two revisions. `between` is asked for each that is at another commit.
    pub fn of(
        (from, before): (End, &[Cell]),
        (to, after): (End, &[Cell]),
        deploy: Moved,
        problems: Vec<String>,
        mut between: impl FnMut(&Cell, &Cell) -> Result<Between, String>,
    ) -> Changelog {
        let by_name = |cells: &[Cell]| -> BTreeMap<String, Cell> {
            cells.iter().map(|cell| (cell.name.clone(), cell.clone())).collect()
        };
        let (before, after) = (by_name(before), by_name(after));
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let (mut components, mut unchanged) = (Vec::new(), Vec::new());
        for name in names {
            let (old, new) = (before.get(name), after.get(name));
            let moved = match (old, new) {
                (Some(old), Some(new)) if old.commit == new.commit => {
                    unchanged.push(name.clone());
                    continue;
                }
                (Some(old), Some(new)) => Moved::of(between(old, new)),
                // Where the components of one end cannot be named, nothing was added and nothing is gone.
                _ if !problems.is_empty() => Moved::of(Err("the components of one end are not known".to_owned())),
                (None, _) => Moved::only(Way::Added),
                (_, None) => Moved::only(Way::Removed),
            };
            let (from, to) = (old.map(Cell::title), new.map(Cell::title));
            components.push(ComponentMove { name: name.clone(), from, to, moved });
        }
        Changelog { from, to, deploy, components, unchanged, problems }
    }

    /// As Markdown, for a release note. What people wrote is shown as they wrote it, and is no markup, no mention and no
    /// link.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let ends = [&self.from, &self.to].map(|end| {
            let revision = short_revision(&end.revision);
            if end.name == revision { quiet(&end.name) } else { format!("{} ({})", quiet(&end.name), quiet(&revision)) }
        });
        let _ = writeln!(text, "# {} → {}", ends[0], ends[1]);
        for problem in &self.problems {
            let _ = writeln!(text, "\n**Unknown:** {}", quiet(problem));
        }
        for component in &self.components {
            let from = component.from.as_deref().map(quiet);
            let to = component.to.as_deref().map(quiet);
            let what = match (from, to) {
                (Some(from), Some(to)) => format!("{from} → {to}"),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => String::new(),
            };
            let _ = writeln!(text, "\n## {} {what} ({})", quiet(&component.name), component.moved.way.words());
            write_moved(&mut text, &component.moved);
        }
        if !self.unchanged.is_empty() {
            let names: Vec<String> = self.unchanged.iter().map(|name| quiet(name)).collect();
            let _ = writeln!(text, "\nUnchanged: {}", names.join(", "));
        }
        let _ = writeln!(text, "\n## Deploy repository ({})", self.deploy.way.words());
        write_moved(&mut text, &self.deploy);
        text
    }
}

/// `master@1a2b3c4` of `master@sha1:<40 digits>`.
fn short_revision(revision: &str) -> String {
    match revision.split_once("@sha1:") {
        Some((branch, id)) => {
            let short: String = id.chars().take(7).collect();
            if branch == id { short } else { format!("{branch}@{short}") }
        }
        None => revision.to_owned(),
    }
}

fn write_moved(text: &mut String, moved: &Moved) {
    if let Some(why) = &moved.unknown {
        let _ = writeln!(text, "\nNot known: {}", quiet(why));
    }
    for (log, heading) in [(&moved.coming, None), (&moved.going, Some("No longer in it:"))] {
        if log.is_empty() {
            continue;
        }
        text.push('\n');
        if let Some(heading) = heading {
            let _ = writeln!(text, "{heading}\n");
        }
        for Commit { commit, subject, author, authored_at, .. } in &log.commits {
            let (subject, author, day) = (quiet(subject), quiet(author), authored_at.strftime("%Y-%m-%d"));
            let _ = writeln!(text, "- `{}` {subject} – {author}, {day}", commit.short());
        }
        if log.more > 0 {
            let _ = writeln!(text, "- and {} more", log.more);
        }
    }
}

/// A text that Markdown, HTML within it, and what forges make of it (mentions, references) leave as it is.
fn quiet(text: &str) -> String {
    let mut quiet = String::with_capacity(text.len() + 8);
    let line = clean_line(text, MAX_SHOWN);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        if matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '~' | '&' | '$' | '#' | '@' | '!') {
            quiet.push('\\');
        }
        quiet.push(c);
        // A word joiner keeps forges from finding a person, a ticket, a merge request or an address.
        let next = characters.peek();
        let is_reference = matches!(c, '@' | '#' | '!') && next.is_some_and(|next| next.is_alphanumeric());
        let is_address = c == ':' && next == Some(&'/');
        if is_reference || is_address {
            quiet.push('\u{2060}');
        }
    }
    quiet
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::revision::CommitId;

    fn commit(byte: u8, subject: &str) -> Commit {
        Commit {
            commit: CommitId::from_bytes([byte; 20]),
            subject: subject.to_owned(),
            author: "Ada".to_owned(),
            authored_at: "2026-01-05T09:00:00Z".parse().unwrap(),
            is_merge: false,
            email: String::new(),
            reverts: Vec::new(),
        }
    }

    fn cell(name: &str, byte: u8) -> Cell {
        Cell {
            name: name.to_owned(),
            path: format!("components/{name}"),
            commit: CommitId::from_bytes([byte; 20]),
            branch: "r1.2".to_owned(),
            version: Some(format!("v1.0-{byte}")),
            image: None,
            committed_at: None,
            ahead: None,
            behind: None,
            unknown: Vec::new(),
        }
    }

    fn log(bytes: &[u8]) -> Log {
        Log { commits: bytes.iter().map(|byte| commit(*byte, &format!("change {byte}"))).collect(), more: 0 }
    }

    fn end(name: &str, byte: u8) -> End {
        End { name: name.to_owned(), revision: format!("{name}@sha1:{}", CommitId::from_bytes([byte; 20])) }
    }

    fn between(coming: &[u8], going: &[u8], is_related: bool) -> Between {
        Between { coming: log(coming), going: log(going), is_related }
    }

    #[test]
    fn which_way_it_went_is_said() {
        for (coming, going, is_related, way) in [
            (&[2][..], &[][..], true, Way::Forward),
            (&[], &[1], true, Way::Back),
            (&[2], &[1], true, Way::Aside),
            (&[2], &[1], false, Way::Unrelated),
            (&[], &[], true, Way::Same),
        ] {
            assert_eq!(Moved::of(Ok(between(coming, going, is_related))).way, way);
        }
        assert_eq!(Moved::of(Err("gone".into())).unknown.as_deref(), Some("gone"));
    }

    #[test]
    fn components_come_go_move_and_stay() {
        let before = [cell("api", 1), cell("old", 1), cell("web", 5)];
        let after = [cell("api", 1), cell("new", 1), cell("web", 4)];
        let deploy = Moved::of(Ok(between(&[9], &[], true)));
        let back = |_: &Cell, _: &Cell| Ok(between(&[], &[5], true));
        let told = Changelog::of((end("prod", 1), &before), (end("test", 2), &after), deploy.clone(), Vec::new(), back);
        assert_eq!(told.unchanged, ["api"]);
        expect![[r#"
            # prod (prod\@|0101010) → test (test\@|0202020)

            ## new v1.0-1 (added)

            ## old v1.0-1 (removed)

            ## web v1.0-5 → v1.0-4 (downgrade)

            No longer in it:

            - `0505050` change 5 – Ada, 2026-01-05

            Unchanged: api

            ## Deploy repository (forward)

            - `0909090` change 9 – Ada, 2026-01-05
        "#]]
        .assert_eq(&told.markdown().replace('\u{2060}', "|"));

        let problems = vec!["towpath.yaml: no map".to_owned()];
        let told = Changelog::of((end("prod", 1), &before), (end("test", 2), &[]), deploy, problems, back);
        assert!(told.components.iter().all(|component| component.moved.way == Way::Unknown), "unknown is not removed");
    }

    #[test]
    fn what_people_wrote_is_no_markup() {
        for (text, written) in [
            ("<script>alert(1)</script>", "\\<script\\>alert(1)\\</script\\>"),
            ("[x](javascript:1) *b* `c`", "\\[x\\](javascript:1) \\*b\\* \\`c\\`"),
            ("@ops #12 !3 a & b", "\\@\u{2060}ops \\#\u{2060}12 \\!\u{2060}3 a \\& b"),
            ("see https://evil.example", "see https:\u{2060}//evil.example"),
            ("\u{1b}[31mred\nnext", "\\[31mrednext"),
        ] {
            assert_eq!(quiet(text), written);
        }
    }

    #[test]
    fn the_rest_is_counted() {
        let mut moved = Moved::of(Ok(between(&[1], &[], true)));
        moved.coming.more = 41;
        let told = Changelog::of((end("a", 1), &[]), (end("b", 2), &[]), moved, Vec::new(), |_, _| unreachable!());
        assert!(told.markdown().contains("- and 41 more\n"));
    }
}
