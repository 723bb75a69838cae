//! The command line: one file a command.
//!
//! Data goes to stdout, progress and problems to stderr. A command ends with a [`exit::Code`] or a [`exit::Failure`].

pub mod exit;
pub mod output;
mod access;
mod ask;
mod local;
mod agent;
mod render;
mod lint;
mod diff;
mod get;
mod sync;
mod history;
mod components;
mod changelog;
mod branches;
mod images;
mod suspend;
mod bump;
mod release;
mod rollback;
mod confirm;
mod crds;
mod key;
mod remote;
mod show;
mod completion;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::exit::{Code, Failure};

/// A GitOps sync agent for Kubernetes whose releases live on branches.
#[derive(Debug, Parser)]
#[command(name = "towpath", version, after_help = exit::SHORT)]
pub struct Cli {
    /// Whether to colour: NO_COLOR and CLICOLOR_FORCE are respected where it is left to auto.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

/// When output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how environments are.
    Get(get::Args),
    /// Ask for a sync of an environment now.
    Sync(sync::Args),
    /// Show the last syncs of an environment.
    History(history::Args),
    /// List the images that environments run.
    Images(images::Args),
    /// Show one sync as the ledger has it.
    Show(show::Args),
    /// Show which component stands where in which environment.
    Components(components::Args),
    /// Show what lies between two environments, syncs, branches or commits.
    Changelog(changelog::Args),
    /// Neither sync nor mend an environment until it is resumed.
    Suspend(suspend::Args),
    /// Sync and mend an environment again.
    Resume(suspend::Args),
    /// Move components on a branch of a deploy repository.
    Bump(bump::Args),
    /// Begin a release.
    Release(release::Args),
    /// Take back what an environment runs, by reverts in git: shows what would be done, asks, does it.
    Rollback(rollback::RollbackArgs),
    /// Land again what was rolled back, by reverting its revert.
    Reland(rollback::RelandArgs),
    /// Look at the deletions of an environment that wait for a person, and confirm them.
    Confirm(confirm::Args),
    /// Print the manifests of an environment, from files, without a cluster.
    Render(render::Args),
    /// Name everything that is wrong with an environment, from files, without a cluster.
    Lint(lint::Args),
    /// Show what a sync would change in the cluster.
    Diff(diff::Args),
    /// Run the agent.
    Agent(agent::Args),
    /// Print the public key that the agent signs its records with, and make the key where it is missing.
    Key(key::Args),
    /// Print the custom resource definitions.
    Crds,
    /// Print a completion script for a shell.
    Completion(completion::Args),
    /// Print the version of a checkout, by its tags: v1.0-12-e6e5d98.
    Version(version::Args),
    /// Explain the exit codes.
    #[command(name = "exit-codes", long_about = exit::LONG)]
    ExitCodes,
}

/// Runs the program.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::Failed as u8));
        }
    };
    match cli.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    // Two libraries of the TLS stack ask the process which cryptography to use; a second call finds it set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(Err(Failure::from(error))),
    };
    let result = runtime.block_on(execute(cli.command));
    runtime.shutdown_background();
    exit::report(result)
}

async fn execute(command: Command) -> Result<Code, Failure> {
    match command {
        Command::Get(args) => get::run(args).await,
        Command::Sync(args) => sync::run(args).await,
        Command::History(args) => history::run(args).await,
        Command::Images(args) => images::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Components(args) => components::run(args).await,
        Command::Changelog(args) => changelog::run(args).await,
        Command::Suspend(args) => suspend::run(args, true).await,
        Command::Resume(args) => suspend::run(args, false).await,
        Command::Bump(args) => bump::run(args).await,
        Command::Release(args) => release::run(args).await,
        Command::Rollback(args) => rollback::rollback(args).await,
        Command::Reland(args) => rollback::reland(args).await,
        Command::Confirm(args) => confirm::run(args).await,
        Command::Render(args) => render::run(&args),
        Command::Lint(args) => lint::run(&args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Key(args) => key::run(args).await,
        Command::Crds => crds::run(),
        Command::Completion(args) => completion::run(&args),
        Command::Version(args) => version::run(&args),
        Command::ExitCodes => {
            output::data(exit::LONG)?;
            Ok(Code::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {} says nothing", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
