//! `towpath bump`: moves components on a deploy branch.

use super::ask::{self, Whom};
use super::exit::{Code, Failure};
use crate::resources::{BumpAsk, What};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The agent that is the steward of the Repository makes a signed commit and pushes it. Where --to names no tag of the
component, its tags are listed.")]
pub(super) struct Args {
    /// The component by its name or folder; all that can go forward where none is named.
    component: Option<String>,
    /// A tag vX.Y or a commit of 40 digits; the head of the component's branch where nothing is said.
    #[arg(long, value_name = "TAG|COMMIT", requires = "component")]
    to: Option<String>,
    /// The branch of the deploy repository.
    #[arg(short, long, value_name = "BRANCH", default_value = "develop")]
    lane: String,
    #[command(flatten)]
    whom: Whom,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let Args { component, to, lane, whom } = args;
    ask::ask(&whom, What::Bump(BumpAsk { lane, component, to })).await
}
