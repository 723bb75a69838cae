//! `towpath lint`: everything that is wrong, without a cluster.

use std::collections::BTreeMap;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use towpath_core::fault::Problem;
use towpath_core::scope::Scopes;

use super::branches;
use super::exit::{self, Code, Failure};
use super::local::Source;
use super::output::{self, Document};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --environment every environment is looked at.
With --repository it is an agent that is asked, about the branches of repositories and not about files.
Each problem is one line, file:line:column: message, with a line of help below it where there is one.
The exit code is 1 where there are problems; warnings alone are no failure.")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// The namespace of an Environment that names none.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How what was found is printed; lines of text by default.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<Document>,
    #[command(flatten)]
    branches: branches::Flags,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// It would not be applied.
    Error,
    /// It would be applied.
    Warning,
}

/// One thing that was found, and the environments it was found in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    #[serde(flatten)]
    problem: Problem,
    environments: Vec<String>,
}

pub(super) async fn run(args: &Args) -> Result<Code, Failure> {
    if let Some(repository) = &args.branches.repository {
        return branches::run(&args.branches.remote, repository.as_deref(), args.output).await;
    }
    let mut findings = Findings::default();
    let mut objects = 0;
    let mut environments = 0;
    let found = match args.source.checkout() {
        Ok(checkout) => args.source.subjects(&checkout, args.namespace.as_deref()).map(|subjects| {
            environments = subjects.len();
            for subject in subjects {
                let name = subject.environment.name.as_str();
                match args.source.clear(&checkout, &subject, &Scopes::offline()) {
                    Ok(cleared) => {
                        objects += cleared.objects().len();
                        findings.add(Level::Warning, cleared.warnings().to_vec(), Some(name));
                    }
                    Err(problems) => findings.add(Level::Error, problems.into_vec(), Some(name)),
                }
            }
        }),
        Err(problems) => Err(problems),
    };
    if let Err(problems) = found {
        findings.add(Level::Error, problems.into_vec(), None);
    }

    let findings = findings.sorted();
    match args.output {
        Some(format) => output::document(&findings, format)?,
        None => write(&mut anstream::stdout().lock(), &findings)?,
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let errors = count(Level::Error);
    let [environments, objects, problems, warnings] = [
        output::counted(environments, "environment"),
        output::counted(objects, "object"),
        output::counted(errors, "problem"),
        output::counted(count(Level::Warning), "warning"),
    ];
    output::progress(&format!("{environments}, {objects}: {problems}, {warnings}"));
    Ok(if errors == 0 { Code::Done } else { Code::Failed })
}

#[derive(Default)]
struct Findings(BTreeMap<(Level, Problem), Vec<String>>);

impl Findings {
    /// A problem of a template that several environments use is one finding.
    fn add(&mut self, level: Level, problems: Vec<Problem>, environment: Option<&str>) {
        for problem in problems {
            let environments = self.0.entry((level, problem)).or_default();
            environments
                .extend(environment.filter(|name| !environments.iter().any(|known| known == name)).map(Into::into));
        }
    }

    fn sorted(self) -> Vec<Finding> {
        let finding = |((level, problem), environments)| Finding { level, problem, environments };
        let mut findings: Vec<Finding> = self.0.into_iter().map(finding).collect();
        findings.sort_by(|a, b| (&a.problem.place, a.level, &a.problem).cmp(&(&b.problem.place, b.level, &b.problem)));
        findings
    }
}

fn write(out: &mut impl Write, findings: &[Finding]) -> std::io::Result<()> {
    const BOLD: Style = Style::new().bold();
    const WARNING: Style = AnsiColor::Yellow.on_default().bold();
    for Finding { level, problem, environments: _ } in findings {
        if let Some(place) = &problem.place {
            write!(out, "{BOLD}{place}:{BOLD:#} ")?;
        }
        if *level == Level::Warning {
            write!(out, "{WARNING}warning:{WARNING:#} ")?;
        }
        writeln!(out, "{}", problem.message)?;
        exit::help(out, problem)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use towpath_core::fault::Place;

    use super::*;

    #[test]
    fn findings_are_sorted_by_place_and_said_once_for_all_environments() {
        let problem = Problem::content("missing variable image").at(Place::point("templates/web.yaml.hbs", 3, 14));
        let warning = Problem::content("yes is a word in YAML 1.2").at(Place::line("a.yaml", 9)).hint("quote it");
        let mut findings = Findings::default();
        findings.add(Level::Error, vec![problem.clone()], Some("prod"));
        findings.add(Level::Error, vec![problem], Some("test"));
        findings.add(Level::Warning, vec![warning], Some("test"));
        let findings = findings.sorted();
        assert_eq!(findings[1].environments, ["prod", "test"]);
        let mut out = Vec::new();
        write(&mut out, &findings).unwrap();
        expect![[r#"
            a.yaml:9: warning: yes is a word in YAML 1.2
              help: quote it
            templates/web.yaml.hbs:3:14: missing variable image
        "#]]
        .assert_eq(&anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string());
        let json = serde_json::to_value(&findings[0]).unwrap();
        assert_eq!(json["level"], "warning");
        assert_eq!(json["place"]["line"], 9);
    }
}
