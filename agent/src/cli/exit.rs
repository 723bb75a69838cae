//! How a command ends: its exit code, and what it says when it fails.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use towpath_core::fault::{Problem, Problems};

/// Exit codes in one line, below the list of commands.
pub const SHORT: &str = "Exit codes are explained by `towpath help exit-codes`.";

/// Exit codes in full.
pub const LONG: &str = "\
Exit codes of towpath

  0  done; for diff: nothing differs; for sync --wait: synced and healthy
  1  error; for lint: there are problems; for diff: something differs
  2  wrong use of the command line; for diff also: it could not be found out
  3  sync --wait: the environment is degraded, blocked or suspended
  4  sync --wait: it was not healthy in time; rollback, reland: it was not over in time, and goes on

A closed pipe, as with `towpath get | head -1`, is no error.
";

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HELP: Style = AnsiColor::Cyan.on_default();

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// What was asked for was done.
    Done = 0,
    /// It was not, or something was found.
    Failed = 1,
    /// The command line is wrong, or a diff could not be made.
    Trouble = 2,
    /// A sync ended with an environment that is degraded, blocked or suspended.
    Degraded = 3,
    /// A sync did not end in time.
    TimedOut = 4,
}

/// Why a command did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    problems: Vec<Problem>,
    code: Code,
}

impl Failure {
    /// The same failure with another exit code. A closed pipe stays what it is.
    #[must_use]
    pub fn with(mut self, code: Code) -> Failure {
        if !self.problems.is_empty() {
            self.code = code;
        }
        self
    }

    /// The exit code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What is wrong. Nothing where only the reader of a pipe has gone.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure { problems: vec![problem], code: Code::Failed }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure { problems: problems.into_vec(), code: Code::Failed }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure { problems: Vec::new(), code: Code::Done },
            _ => Problem::setup(error.to_string()).into(),
        }
    }
}

/// Says what is wrong and gives the exit code.
pub fn report(result: Result<Code, Failure>) -> ExitCode {
    let code = match result {
        Ok(code) => code,
        Err(failure) => {
            // Where stderr is closed too there is nobody left to tell.
            let _ = explain(&mut anstream::stderr(), failure.problems());
            failure.code()
        }
    };
    ExitCode::from(code as u8)
}

/// Writes problems as `error: place: message`, each with a line of help where there is one.
pub fn explain(out: &mut impl Write, problems: &[Problem]) -> std::io::Result<()> {
    for problem in problems {
        let place = problem.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        writeln!(out, "{ERROR}error:{ERROR:#} {place}{}", problem.message)?;
        help(out, problem)?;
    }
    Ok(())
}

/// Writes warnings as `warning: place: message`, each with a line of help where there is one.
pub fn warn(out: &mut impl Write, warnings: &[Problem]) -> std::io::Result<()> {
    for warning in warnings {
        let place = warning.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        writeln!(out, "{WARNING}warning:{WARNING:#} {place}{}", warning.message)?;
        help(out, warning)?;
    }
    Ok(())
}

/// Writes what to do about a problem, where that is known.
pub fn help(out: &mut impl Write, problem: &Problem) -> std::io::Result<()> {
    match &problem.hint {
        Some(hint) => writeln!(out, "  {HELP}help:{HELP:#} {hint}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use towpath_core::fault::Place;

    use super::*;

    #[test]
    fn each_end_has_its_own_exit_code() {
        let codes = [Code::Done, Code::Failed, Code::Trouble, Code::Degraded, Code::TimedOut].map(|code| code as u8);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        for code in codes {
            assert!(LONG.contains(&format!("\n  {code}  ")), "{code} is not explained");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let failure = Failure::from(std::io::Error::from(ErrorKind::BrokenPipe)).with(Code::Trouble);
        assert_eq!(failure.code(), Code::Done);
        assert!(failure.problems().is_empty());
        let failure = Failure::from(std::io::Error::from(ErrorKind::StorageFull)).with(Code::Trouble);
        assert_eq!(failure.code(), Code::Trouble);
        assert_eq!(failure.problems().len(), 1);
    }

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let problem = Problem::content("missing variable image").at(Place::line("a.yaml.hbs", 3)).hint("add it");
        let mut out = Vec::new();
        explain(&mut out, &[problem]).unwrap();
        let text = anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string();
        assert_eq!(text, "error: a.yaml.hbs:3: missing variable image\n  help: add it\n");
    }
}
