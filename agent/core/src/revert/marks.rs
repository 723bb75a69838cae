//! Changes that may not be taken back, and why: what their commits say, which paths they change, and which objects a
//! rollback would touch. What is not known counts as not revertible.

use serde_json::{Map, Value};

use crate::components::NotRevertible;
use crate::fault::Problem;
use crate::manifest::{ObjectKey, annotation_of};
use crate::names::annotation;
use crate::revision::{CommitId, clean_line};

/// The trailer of a commit that may not be taken back; its value is the reason. Its key is read in any case.
pub const TRAILER: &str = "Not-Revertible";
/// Marks that are said; the rest is counted.
pub const MAX_MARKS: usize = 50;
/// Characters of a reason or a path.
const SHOWN_CHARACTERS: usize = 200;

/// A commit of a branch with what a revert of it takes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brought {
    /// The commit.
    pub commit: CommitId,
    /// The whole messages of everything that it brought, with the commits that they are of: its own, for a merge those of
    /// the branch that it merged, and those of what any of them brings back by reverting a revert.
    pub messages: Vec<(CommitId, String)>,
    /// Whether there are more.
    pub is_log_cut: bool,
    /// The files that differ from the commit before it on its branch.
    pub paths: Vec<String>,
    /// Whether there are more.
    pub are_paths_cut: bool,
}

/// A change that may not be taken back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The commit of the branch whose revert would take it back; `None` where it is about an object.
    pub commit: Option<CommitId>,
    /// What may not be taken back. One line.
    pub what: String,
    /// Why, in the words of whoever marked it. One line; empty where nothing is said.
    pub reason: String,
}

/// An object that a rollback would change, create or delete.
#[derive(Clone, Copy, Debug)]
pub struct Touched<'a> {
    /// Its identity.
    pub key: &'a ObjectKey,
    /// What it is; `None` where it would be created.
    pub before: Option<&'a Map<String, Value>>,
    /// What it would be; `None` where it would be deleted.
    pub after: Option<&'a Map<String, Value>>,
}

/// The marks of one commit: those that messages carry, and those that the paths give. `rules` are those of the branch as it
/// is now, so that a mark can also be put on what is there already.
pub fn of_commit(brought: &Brought, rules: &[NotRevertible]) -> Vec<Mark> {
    let Brought { commit, messages, is_log_cut, paths, are_paths_cut } = brought;
    let mark = |what: String, reason: &str| Mark { commit: Some(*commit), what, reason: clean(reason) };
    let mut marks = Vec::new();
    for (id, message) in messages {
        let what = if id == commit { "its message says so".to_owned() } else { format!("{} says so", id.short()) };
        marks.extend(trailers(message).iter().map(|reason| mark(what.clone(), reason)));
    }
    for rule in rules {
        let mut found = paths.iter().filter(|path| rule.paths.iter().any(|pattern| pattern.matches(path)));
        if let Some(first) = found.next() {
            let more = match found.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            marks.push(mark(format!("it changes {}{more}", clean(first)), &rule.reason));
        }
    }
    if *is_log_cut {
        let what = format!("it brought more than {} commits", messages.len());
        marks.push(mark(what, "not all of them were looked at"));
    }
    if *are_paths_cut && !rules.is_empty() {
        let what = format!("it changes more than {} files", paths.len());
        marks.push(mark(what, "not all of them were looked at"));
    }
    marks
}

/// The marks of objects: those that carry the annotation, as they are or as they would be. One that stays as it is counts
/// for nothing.
pub fn of_objects<'a>(touched: impl IntoIterator<Item = Touched<'a>>) -> Vec<Mark> {
    let reason = |body: Option<&'a Map<String, Value>>| annotation_of(body?, annotation::NOT_REVERTIBLE);
    let marked = |Touched { key, before, after }: Touched<'a>| {
        let does = match (before, after) {
            (None, Some(_)) => "create",
            (Some(_), None) => "delete",
            (before, after) if before == after => return None,
            _ => "change",
        };
        // The newer word counts where both have one.
        let reason = reason(before).or_else(|| reason(after))?;
        Some(Mark { commit: None, what: format!("it would {does} {key}"), reason: clean(reason) })
    };
    touched.into_iter().filter_map(marked).collect()
}

/// What marks say to people, each with the way on.
pub fn problems(marks: &[Mark]) -> Vec<Problem> {
    const HINT: &str = "roll forward, or name it with --override and a reason";
    let problem = |Mark { commit, what, reason }: &Mark| {
        let who = commit.map_or_else(|| "not revertible".to_owned(), |it| format!("{} is not revertible", it.short()));
        let reason = if reason.is_empty() { "no reason is given" } else { reason };
        Problem::content(format!("{who}: {what}: {reason}")).hint(HINT)
    };
    let mut problems: Vec<Problem> = marks.iter().take(MAX_MARKS).map(problem).collect();
    if let Some(more) = marks.len().checked_sub(MAX_MARKS).filter(|more| *more > 0) {
        problems.push(Problem::content(format!("{more} more changes are not revertible")).hint(HINT));
    }
    problems
}

/// The reasons that the last paragraph of a message gives, empty ones too. A line that begins with a blank goes on with the
/// one before it, as git has it. A message of one paragraph counts too, for a forgotten empty line must not lose the mark.
fn trailers(message: &str) -> Vec<String> {
    let lines: Vec<&str> = message.lines().map(str::trim_end).collect();
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    let start = lines[..end].iter().rposition(|line| line.is_empty()).map_or(0, |empty| empty + 1);
    let mut reasons: Vec<String> = Vec::new();
    let mut is_ours = false;
    for line in &lines[start..end] {
        if line.starts_with([' ', '\t']) {
            if let Some(reason) = reasons.last_mut().filter(|_| is_ours) {
                *reason = format!("{reason} {}", line.trim()).trim_start().to_owned();
            }
            continue;
        }
        let found = line.split_once(':').filter(|(key, _)| key.trim_end().eq_ignore_ascii_case(TRAILER));
        is_ours = found.is_some();
        reasons.extend(found.map(|(_, reason)| reason.trim().to_owned()));
    }
    reasons
}

fn clean(text: &str) -> String {
    clean_line(&text.split_whitespace().collect::<Vec<_>>().join(" "), SHOWN_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::components::read_declarations;
    use crate::fault::Fault;
    use crate::manifest::Identity;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 20])
    }

    fn brought(messages: &[(u8, &str)], paths: &[&str]) -> Brought {
        Brought {
            commit: id(1),
            messages: messages.iter().map(|(byte, message)| (id(*byte), (*message).to_owned())).collect(),
            is_log_cut: false,
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            are_paths_cut: false,
        }
    }

    fn rules() -> Vec<NotRevertible> {
        let text = "notRevertible: [{paths: ['migrations/**', values.yaml], reason: forward only}, {paths: [crds/*]}]";
        read_declarations(text).unwrap().not_revertible
    }

    #[test]
    fn a_trailer_is_read_in_the_last_paragraph_only() {
        for (message, expected) in [
            ("Add a column\n\nNot-Revertible: data would be lost\n", vec!["data would be lost"]),
            ("Add\n\nbody\n\nSigned-off-by: R <r@example.org>\nnot-revertible : lost\n\n\n", vec!["lost"]),
            ("Add\n\nNOT-REVERTIBLE:\n", vec![""]),
            ("Add\r\n\r\nNot-Revertible: lost\r\n", vec!["lost"]),
            ("Add\n\nNot-Revertible: data\n would be lost\nTicket: 7\n more\n", vec!["data would be lost"]),
            ("Add\n\nNot-Revertible: one\nNot-Revertible: two\n", vec!["one", "two"]),
            ("Add\nNot-Revertible: no empty line before it\n", vec!["no empty line before it"]),
            ("Add\n\nNot-Revertible: above\n\nlast words\n", vec![]),
            ("Add\n\nIt is Not-Revertible: by me\n", vec![]),
            ("Add\n\nTicket: 7\n Not-Revertible: a second line of the ticket\n", vec![]),
            ("Not revertible\n", vec![]),
            ("", vec![]),
            ("\n \n", vec![]),
        ] {
            assert_eq!(trailers(message), expected, "{message:?}");
        }
    }

    #[test]
    fn a_merge_carries_the_marks_of_what_it_brought() {
        let marks = of_commit(&brought(&[(1, "Merge x\n"), (2, "Add\n\nNot-Revertible: \u{1b}[1mlost\n")], &[]), &[]);
        let what = format!("{} says so", id(2).short());
        assert_eq!(marks, [Mark { commit: Some(id(1)), what, reason: "[1mlost".into() }]);
        let marks = of_commit(&brought(&[(1, "Add\n\nNot-Revertible: lost\n")], &[]), &[]);
        assert_eq!(marks[0].what, "its message says so");
    }

    #[test]
    fn a_path_that_a_rule_names_is_a_mark() {
        let paths = ["config/web.yaml", "migrations/7.sql", "migrations/8/a.sql", "values.yaml"];
        let marks = of_commit(&brought(&[(1, "x")], &paths), &rules());
        let expected = Mark {
            commit: Some(id(1)),
            what: "it changes migrations/7.sql and 2 more".into(),
            reason: "forward only".into(),
        };
        assert_eq!(marks, [expected]);
        let marks = of_commit(&brought(&[(1, "x")], &["crds/a.yaml"]), &rules());
        assert_eq!((marks[0].what.as_str(), marks[0].reason.as_str()), ("it changes crds/a.yaml", ""));
        assert_eq!(of_commit(&brought(&[(1, "x")], &["config/web.yaml"]), &rules()), []);
    }

    #[test]
    fn what_was_not_looked_at_is_not_revertible() {
        let cut = Brought { is_log_cut: true, ..brought(&[(1, "x"), (2, "y")], &[]) };
        assert_eq!(of_commit(&cut, &[])[0].what, "it brought more than 2 commits");
        let cut = Brought { are_paths_cut: true, ..brought(&[(1, "x")], &["a"]) };
        assert_eq!(of_commit(&cut, &rules())[0].what, "it changes more than 1 files");
        assert_eq!(of_commit(&cut, &[]), [], "nothing is said about paths");
    }

    #[test]
    fn an_object_with_the_annotation_stops_what_would_touch_it() {
        let key = ObjectKey::from(Identity {
            group: "batch".into(),
            kind: "Job".into(),
            namespace: Some("shop".into()),
            name: "migrate".into(),
        });
        let body = |image: &str, reason: Option<&str>| {
            let mut body = json!({"spec": {"image": image}, "metadata": {"annotations": {"a": "b"}}});
            if let Some(reason) = reason {
                body["metadata"]["annotations"]["towpath.dev/notRevertible"] = reason.into();
            }
            body.as_object().unwrap().clone()
        };
        let (plain, newer, marked) = (body("1", None), body("2", None), body("2", Some("the schema\nmoved")));
        let of = |before: Option<&Map<String, Value>>, after: Option<&Map<String, Value>>| {
            of_objects([Touched { key: &key, before, after }]).pop().map(|mark| (mark.what, mark.reason))
        };
        let does = |does: &str| Some((format!("it would {does} {key}"), "the schema moved".to_owned()));
        assert_eq!(of(Some(&marked), Some(&plain)), does("change"));
        assert_eq!(of(Some(&plain), Some(&marked)), does("change"));
        assert_eq!(of(Some(&marked), None), does("delete"));
        assert_eq!(of(None, Some(&marked)), does("create"));
        assert_eq!(of(Some(&marked), Some(&marked)), None);
        assert_eq!(of(Some(&plain), Some(&newer)), None);
        let silent = body("2", Some(""));
        assert_eq!(of(Some(&silent), None).unwrap().1, "");
    }

    #[test]
    fn a_mark_says_what_to_do() {
        let mark =
            |reason: &str| Mark { commit: Some(id(1)), what: "its message says so".into(), reason: reason.into() };
        let object = Mark { commit: None, what: "it would delete a Job".into(), reason: String::new() };
        let said = problems(&[mark("lost"), object]);
        assert!(said.iter().all(|problem| problem.fault == Fault::Content));
        let short = id(1).short();
        let hint = "(help: roll forward, or name it with --override and a reason)";
        assert_eq!(said[0].to_string(), format!("{short} is not revertible: its message says so: lost {hint}"));
        let second = "not revertible: it would delete a Job: no reason is given";
        assert_eq!(said[1].to_string(), format!("{second} {hint}"));
        assert_eq!(problems(&vec![mark("x"); MAX_MARKS]).len(), MAX_MARKS);
        let many = problems(&vec![mark("x"); MAX_MARKS + 2]);
        assert_eq!(many.len(), MAX_MARKS + 1);
        assert_eq!(many[MAX_MARKS].message, "2 more changes are not revertible");
    }
}
