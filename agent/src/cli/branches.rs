//! `towpath lint --repository`: how clean the branches of repositories are, by an agent, which has their commits.

use super::exit::{Code, Failure};
use super::output::{self, Document};
use super::remote::Remote;
use crate::web::releases::{Looked, Looks};
use towpath_core::hygiene::Finding;
use towpath_core::revision::clean_line;

/// Characters of one line.
const MAX_LINE: usize = 500;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Branches")]
pub(super) struct Flags {
    /// Look at the branches of this Repository, or of all where none is named. Needs --agent.
    #[arg(long, value_name = "NAME", num_args = 0..=1, conflicts_with_all = ["folder", "revision", "files", "environment", "namespace"])]
    #[allow(clippy::option_option, reason = "the flag may be there without a value")]
    pub(super) repository: Option<Option<String>>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

pub(super) async fn run(remote: &Remote, name: Option<&str>, format: Option<Document>) -> Result<Code, Failure> {
    let query: Vec<(&str, &str)> = name.into_iter().map(|name| ("repository", name)).collect();
    let looks: Looks = remote.ask(&["hygiene"], &query).await?;
    let findings: usize =
        looks.repositories.iter().map(|looked| looked.hygiene.findings.len() + looked.hygiene.more).sum();
    match format {
        Some(format) => output::document(&looks, format)?,
        None => output::data(&looks.repositories.iter().map(text).collect::<String>())?,
    }
    for looked in &looks.repositories {
        let unknown = looked.problem.iter().chain(&looked.hygiene.unknown);
        for line in unknown {
            output::progress(&format!("{}: not known: {}", clean(&looked.hygiene.repository), clean(line)));
        }
    }
    let repositories = match looks.repositories.len() {
        1 => "1 repository".to_owned(),
        many => format!("{many} repositories"),
    };
    output::progress(&format!("{repositories}: {}", output::counted(findings, "finding")));
    Ok(if findings == 0 { Code::Done } else { Code::Failed })
}

fn text(looked: &Looked) -> String {
    let repository = clean(&looked.hygiene.repository);
    let line = |finding: &Finding| {
        let (message, hint) = (clean(&finding.message), clean(&finding.hint));
        let named = finding.missing.commits.iter();
        let mut missing: String =
            named.map(|commit| format!("  missing: {} {}\n", commit.commit.short(), clean(&commit.subject))).collect();
        if finding.missing.more > 0 {
            missing.push_str(&format!("  missing: {} more\n", finding.missing.more));
        }
        format!("{repository}: {}: {message}\n{missing}  help: {hint}\n", finding.sort.words())
    };
    let mut text: String = looked.hygiene.findings.iter().map(line).collect();
    if looked.hygiene.more > 0 {
        text.push_str(&format!("{repository}: and {} more\n", looked.hygiene.more));
    }
    text
}

fn clean(text: &str) -> String {
    clean_line(text, MAX_LINE)
}
