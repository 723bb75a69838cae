//! `towpath release cut`.

use super::ask::{self, Whom};
use super::exit::{Code, Failure};
use crate::resources::{CutAsk, What};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Begin a release: a branch rX.Y in the deploy repository and in every component, and a tag vX.Y where there is none.
    #[command(after_help = "\
Every branch begins where the deploy branch pins its component, so that what is cut is what ran. What is there already is
left as it is: the same cut again goes on where it ended. The deploy repository comes last.")]
    Cut(Cut),
}

#[derive(Debug, clap::Args)]
struct Cut {
    /// The release, such as r1.3.
    release: String,
    /// The deploy branch that it is cut from; develop where none is named.
    #[arg(long, value_name = "BRANCH")]
    from: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let Command::Cut(Cut { release, from, whom }) = args.command;
    ask::ask(&whom, What::Cut(CutAsk { release, from })).await
}
