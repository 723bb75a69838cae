//! `towpath suspend` and `towpath resume`.

use serde_json::{Value, json};

use super::access::Flags;
use super::exit::{Code, Failure};
use super::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the environment.
    name: String,
    #[command(flatten)]
    access: Flags,
}

pub(super) async fn run(args: Args, suspend: bool) -> Result<Code, Failure> {
    let access = args.access.open().await?;
    let before = access.environment(&args.name).await?;
    let word = if suspend { "suspended" } else { "resumed" };
    if before.spec.suspend == suspend {
        let already = if suspend { "is suspended already" } else { "is not suspended" };
        output::progress(&format!("{} {already}", args.name));
        return Ok(Code::Done);
    }
    // Taken out rather than set to false, so that the resource reads as it did before it was suspended.
    let value = if suspend { Value::Bool(true) } else { Value::Null };
    access.patch(&args.name, &json!({ "spec": { "suspend": value } })).await?;
    output::data(&format!("environment.towpath.dev/{} {word}", args.name))?;
    Ok(Code::Done)
}
