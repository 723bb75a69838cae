//! `towpath completion`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::{Code, Failure};
use super::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "For bash: source <(towpath completion bash)")]
pub(super) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<Code, Failure> {
    // Into memory first: the generator panics where it cannot write, and a pipe may be closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "towpath", &mut script);
    output::data(&String::from_utf8_lossy(&script))?;
    Ok(Code::Done)
}
