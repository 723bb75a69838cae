//! `towpath version`: the version of a checkout, as an agent would say it.

use std::path::PathBuf;

use serde_json::json;
use towpath_core::components::MadeOf;
use towpath_core::fault::Problem;

use super::exit::{Code, Failure};
use super::output::{self, Document};
use crate::disk::{self, Versioned};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  towpath version                                      v1.0-12-e6e5d98
  towpath version components/web                       of a submodule
  towpath version --tag '{{branch}}-{{short}}'         r1.2-e6e5d98
  docker build -t registry.example/web:$(towpath version) .

It is the nearest tag vX.Y before the commit that is checked out, the commits since, and the commit.
Files that were changed and not committed do not matter.
All history and all tags must be there: in CI set `fetch-depth: 0` or `GIT_DEPTH: 0`.
The version of the program itself is printed by `towpath --version`.")]
pub(super) struct Args {
    /// A folder of the checkout, such as that of a submodule.
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Print the tag of an image instead, by a template as in towpath.yaml.
    #[arg(long, value_name = "TEMPLATE")]
    tag: Option<String>,
    /// What the template has as the branch; by default the one that is checked out.
    #[arg(long, value_name = "BRANCH", requires = "tag")]
    branch: Option<String>,
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<Document>,
}

pub(super) fn run(args: &Args) -> Result<Code, Failure> {
    // A checkout in CI often belongs to somebody else.
    crate::repo::init();
    let Versioned { version, committed_at, git_tag, branch } = disk::version(&args.path)?;
    let branch = args.branch.clone().or(branch).ok_or_else(|| {
        Problem::setup("no branch is checked out").hint("name it with --branch, in GitLab CI as \"$CI_COMMIT_BRANCH\"")
    });
    let made_of = MadeOf {
        commit: version.commit,
        branch,
        version: Ok(version.to_string()),
        committed_at: Ok(committed_at),
        git_tag,
    };
    let tag = args.tag.as_ref().map(|template| made_of.tag(template)).transpose()?;
    match args.output {
        None => output::data(tag.as_ref().unwrap_or(&version.to_string()))?,
        Some(format) => {
            let mut document = json!({
                "version": version.to_string(),
                "nearestTag": version.tag.to_string(),
                "commitsSince": version.count,
                "commit": version.commit,
                "committedAt": committed_at,
            });
            if let Some(tag) = tag {
                document["tag"] = tag.into();
            }
            output::document(&document, format)?;
        }
    }
    Ok(Code::Done)
}
