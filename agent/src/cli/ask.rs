//! Asking the steward of a Repository for something, and waiting for the answer in its status.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use towpath_core::fault::Problem;
use towpath_core::names::annotation;
use towpath_core::revision::clean_line;

use super::access::{Access, Flags, call};
use super::exit::{Code, Failure};
use super::output;
use super::sync::new_request;
use crate::resources::{Ask, Repository, What};

/// How often the Repository is read while somebody waits.
const LOOK: Duration = Duration::from_millis(300);
/// Characters of a line that are shown.
const SHOWN_CHARACTERS: usize = 500;

/// Which Repository, and how long to wait.
#[derive(Debug, clap::Args)]
pub(super) struct Whom {
    /// The name of the Repository; may be left out where the namespace has one only.
    #[arg(short, long, value_name = "NAME")]
    repository: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    #[command(flatten)]
    access: Flags,
}

/// Asks, waits, and prints the answer.
pub(super) async fn ask(whom: &Whom, what: What) -> Result<Code, Failure> {
    let access = whom.access.open().await?;
    let api: Api<Repository> = Api::namespaced(access.client.clone(), &access.namespace);
    let name = name(&api, whom, &access).await?;
    let at = Timestamp::now();
    let id = new_request(at);
    let ask = Ask { id: id.clone(), at, by: Some(access.user().await), dry_run: whom.dry_run, what };
    let text = serde_json::to_string(&ask).map_err(|error| Problem::setup(error.to_string()))?;
    let change = json!({"metadata": {"annotations": {annotation::REQUEST: text}}});
    call(api.patch(&name, &PatchParams::default(), &Patch::Merge(&change))).await?;
    let deadline = Instant::now() + Duration::from_secs(whom.timeout);
    while Instant::now() < deadline {
        let repository = call(api.get(&name)).await?;
        if repository.annotations().get(annotation::REQUEST) != Some(&text) {
            let problem = Problem::passing("somebody else has asked for something before this was answered");
            return Err(problem.hint("look at what came of it, and ask again").into());
        }
        let status = repository.status.unwrap_or_default();
        let Some(answer) = status.answer.filter(|answer| answer.id == id) else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let lines = answer.lines.iter().map(|line| clean_line(line, SHOWN_CHARACTERS));
        if answer.done {
            lines.into_iter().try_for_each(|line| output::data(&line))?;
            return Ok(Code::Done);
        }
        let said: Vec<String> = lines.collect();
        return Err(Problem::setup(said.join("\n")).into());
    }
    output::progress(&format!("no answer within {} s; it may still be done", whom.timeout));
    output::progress(&format!("look at it with kubectl -n {} get repository {name} -o yaml", access.namespace));
    Ok(Code::TimedOut)
}

async fn name(api: &Api<Repository>, whom: &Whom, access: &Access) -> Result<String, Problem> {
    if let Some(name) = &whom.repository {
        return Ok(name.clone());
    }
    let all = call(api.list(&ListParams::default())).await?;
    let mut names: Vec<String> = all.items.iter().map(ResourceExt::name_any).collect();
    match names.len() {
        1 => Ok(names.remove(0)),
        0 => Err(Problem::setup(format!("there is no Repository in namespace {}", access.namespace))
            .hint("choose a namespace with -n")),
        _ => Err(Problem::setup(format!("there are several Repositories: {}", names.join(", ")))
            .hint("choose one with --repository")),
    }
}
