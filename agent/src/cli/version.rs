//! `towpath version`.

use super::exit::{Code, Failure};
use super::output::{self, Document};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<Document>,
}

pub(super) fn run(args: &Args) -> Result<Code, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match args.output {
        None => output::data(&format!("towpath {version}"))?,
        Some(format) => output::document(&serde_json::json!({ "version": version }), format)?,
    }
    Ok(Code::Done)
}
