//! What is wrong, where, who must act, and what to do about it.
//!
//! Every room that judges people's content returns all the [`Problem`]s it found, never the first one.
//! A [`Problem`] is for people: it never holds the value of a Secret.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What happens next after a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// A commit must change: the same revision will fail again.
    Content,
    /// The operator must act: credentials, rights, a missing kind or account.
    Setup,
    /// It is retried by itself.
    Passing,
}

/// A place in a file of the deploy repository. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Path from the root of the repository.
    pub file: String,
    /// Line, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in characters, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

impl Place {
    /// A whole file.
    pub fn file(file: impl Into<String>) -> Self {
        Place { file: file.into(), line: None, column: None }
    }

    /// A line of a file.
    pub fn line(file: impl Into<String>, line: u32) -> Self {
        Place { file: file.into(), line: Some(line), column: None }
    }

    /// A character of a file.
    pub fn point(file: impl Into<String>, line: u32, column: u32) -> Self {
        Place { file: file.into(), line: Some(line), column: Some(column) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        Ok(())
    }
}

/// One thing that is wrong.
///
/// `Display` writes `place: message`, and ` (help: …)` where there is a hint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Who must act.
    pub fault: Fault,
    /// Where, if it is in a file of the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What failed: lower case, no full stop.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A commit must change.
    pub fn content(message: impl Into<String>) -> Self {
        Problem { fault: Fault::Content, place: None, message: message.into(), hint: None }
    }

    /// The operator must act.
    pub fn setup(message: impl Into<String>) -> Self {
        Problem { fault: Fault::Setup, place: None, message: message.into(), hint: None }
    }

    /// It is retried.
    pub fn passing(message: impl Into<String>) -> Self {
        Problem { fault: Fault::Passing, place: None, message: message.into(), hint: None }
    }

    /// The same problem with its place.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The same problem with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (help: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// At least one problem: the error of every room that judges content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `Ok` when nothing was found, else the problems, sorted by place and without repeats.
    pub fn check(mut found: Vec<Problem>) -> Result<(), Problems> {
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by(|a, b| (&a.place, &a.message).cmp(&(&b.place, &b.message)));
        found.dedup();
        Err(Problems(found))
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// All of them, given away.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    /// The first of them, for whoever has room for one.
    pub fn into_first(mut self) -> Problem {
        self.0.remove(0)
    }

    /// The fault of the whole: `Content` before `Setup` before `Passing`, for what a commit must change is not
    /// mended by waiting.
    pub fn fault(&self) -> Fault {
        self.0.iter().map(|problem| problem.fault).min().unwrap_or(Fault::Passing)
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Problems(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_place_message_help() {
        let problem = Problem::content("missing variable values.image")
            .at(Place::point("templates/web.yaml.hbs", 3, 14))
            .hint("add it to values.yaml");
        assert_eq!(
            problem.to_string(),
            "templates/web.yaml.hbs:3:14: missing variable values.image (help: add it to values.yaml)"
        );
    }

    #[test]
    fn problems_are_sorted_by_place_and_said_once() {
        let one = Problem::content("x").at(Place::line("b", 2));
        let two = Problem::content("y").at(Place::line("a", 9));
        let problems = Problems::check(vec![one.clone(), two.clone(), one.clone()]).unwrap_err();
        assert_eq!(problems.into_vec(), vec![two, one]);
    }

    #[test]
    fn content_outweighs_what_is_retried() {
        let problems = Problems::check(vec![Problem::passing("a"), Problem::content("b")]).unwrap_err();
        assert_eq!(problems.fault(), Fault::Content);
    }
}
