//! `towpath rollback` and `towpath reland`: the agent says what it would do, a person agrees to exactly that, and the agent
//! does it.
//!
//! Both are an annotation of the Environment, which the agent answers in its status. What is agreed to is named by a digest:
//! where the world has changed meanwhile, the agent shows what it would do now, and nothing is done.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::Instant;
use towpath_core::fault::{Fault, Problem};
use towpath_core::names::annotation;
use towpath_core::revision::{clean_indented, clean_line};
use towpath_core::status::{EnvironmentStatus, RollbackPhase, RollbackStatus, Wish};

use super::access::{Access, Flags, call};
use super::confirm::{agrees, check_right};
use super::exit::{Code, Failure};
use super::output;
use super::sync::{duration, new_request};
use crate::resources::{Environment, RollbackAsk};

/// How often the Environment is read while somebody waits.
const LOOK: Duration = Duration::from_millis(300);
/// How long the preview may take.
const ANSWER: Duration = Duration::from_secs(120);
/// Characters of a line that are shown.
const SHOWN_CHARACTERS: usize = 500;
/// Failures to read the Environment, one after the other, that are waited out.
const MAX_FAILURES: u32 = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --to and --ticket it goes back to the newest release that was healthy.
Exit codes: 0 the environment is where it goes, or with --dry-run shown; 1 error, or not agreed to; 4 it is not there \
yet: it goes on by itself, or waits for a merge.")]
pub(super) struct RollbackArgs {
    /// The name of the environment.
    name: String,
    /// The release to go back to: a sync such as prod@7, or a commit that it ran.
    #[arg(long, value_name = "SYNC|COMMIT", conflicts_with = "ticket")]
    to: Option<String>,
    /// Take back one merge or commit of the branch, or a range of them, and nothing else.
    #[arg(long, value_name = "COMMIT|A..B")]
    ticket: Option<String>,
    /// Take back everything that came to the branch since, also what the environment does not run yet; the rest of it is
    /// made ready to be landed again, on a branch.
    #[arg(long, conflicts_with = "ticket")]
    back_out_lane: bool,
    /// Make one commit that has exactly the files of the older release, where reverts do not fit.
    #[arg(long, conflicts_with = "ticket")]
    restore: bool,
    /// Go back in the cluster at once, also while the git server is away; the revert is pushed when it is back.
    #[arg(long)]
    emergency: bool,
    /// Do it although something is marked as not revertible. Needs a reason, and the verb `override`.
    #[arg(long = "override", requires = "reason")]
    anyway: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 done, or with --dry-run shown; 1 error, or not agreed to; 4 not over: it goes on by itself, or waits for a \
merge.")]
pub(super) struct RelandArgs {
    /// The branch, or an environment that follows it.
    name: String,
    /// The revert, or the commit that it takes back; or a range of them.
    #[arg(value_name = "COMMIT|A..B")]
    commit: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Why. It stands in the commits.
    #[arg(short, long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long, conflicts_with_all = ["yes", "confirm"])]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Do it without showing it again, if it is still what this digest of a --dry-run stands for.
    #[arg(long, value_name = "DIGEST")]
    confirm: Option<String>,
    /// How long to wait for the end, such as 90s, 5m or 1h30m.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    access: Flags,
}

pub(super) async fn rollback(args: RollbackArgs) -> Result<Code, Failure> {
    let RollbackArgs { name, to, ticket, back_out_lane, restore, emergency, anyway, how } = args;
    let wish = Wish { to, ticket, reland: None, back_out_lane, restore, emergency };
    run(&name, wish, anyway, "Roll back?", &how).await
}

pub(super) async fn reland(args: RelandArgs) -> Result<Code, Failure> {
    let name = follower(&args.how.access.open().await?, args.name, &args.commit).await?;
    let wish = Wish { reland: Some(args.commit), ..Wish::default() };
    run(&name, wish, false, "Land it again?", &args.how).await
}

/// The environment of this name; else one that runs a revision of the branch of this name.
async fn follower(access: &Access, name: String, commit: &str) -> Result<String, Problem> {
    let all = call(access.environments().list(&ListParams::default())).await?.items;
    if all.iter().any(|environment| environment.name_any() == name) {
        return Ok(name);
    }
    let runs = |environment: &&Environment| {
        let running = environment.status.as_ref().and_then(|status| status.running.as_ref());
        running.and_then(|running| running.revision.rsplit_once("@sha1:")).is_some_and(|(branch, _)| branch == name)
    };
    let has_taken = |environment: &&Environment| {
        let taken = environment.status.iter().flat_map(|status| &status.rolled_back);
        commit.len() >= 7 && taken.into_iter().any(|one| one.commit.starts_with(commit))
    };
    // One that took it back itself may have noted what git does not say.
    let found = all.iter().filter(runs).find(has_taken).or(all.iter().find(runs)).map(ResourceExt::name_any);
    found.ok_or_else(|| {
        Problem::setup(format!(
            "there is no environment {name} in namespace {}, and none runs a branch {name}",
            access.namespace
        ))
        .hint("towpath get lists them")
    })
}

async fn run(name: &str, wish: Wish, anyway: bool, question: &str, how: &How) -> Result<Code, Failure> {
    let access = how.access.open().await?;
    check_right(&access, name, ("rollback", "roll back the releases")).await?;
    if anyway {
        check_right(&access, name, ("override", "override what stops a rollback")).await?;
    }
    let mut confirm = how.confirm.clone();
    if confirm.is_none() {
        let id = ask(&access, name, (&wish, anyway), how, None).await?;
        let answer = answer(&access, name, &id).await?;
        if answer.phase == RollbackPhase::Refused {
            return Err(told(&answer));
        }
        show(&answer)?;
        let digest = answer.digest.unwrap_or_default();
        if how.dry_run {
            output::progress(&format!("nothing was done; to do exactly this: --confirm {digest}"));
            return Ok(Code::Done);
        }
        if !how.yes && !agrees(question)? {
            output::progress("nothing was done");
            return Ok(Code::Failed);
        }
        confirm = Some(digest);
    }
    let id = ask(&access, name, (&wish, anyway), how, confirm).await?;
    let begun = answer(&access, name, &id).await?;
    match begun.phase {
        RollbackPhase::Refused => Err(told(&begun)),
        RollbackPhase::Prepared => {
            show(&begun)?;
            Err(Problem::setup("the world has changed: nothing was done").hint("look at it and ask again").into())
        }
        _ => follow(&access, name, &id, how.timeout).await,
    }
}

/// Writes the request. Gives its id.
async fn ask(
    access: &Access,
    name: &str,
    (wish, anyway): (&Wish, bool),
    how: &How,
    confirm: Option<String>,
) -> Result<String, Problem> {
    let at = Timestamp::now();
    let id = new_request(at);
    let ask = RollbackAsk { id: id.clone(), at, reason: how.reason.clone(), confirm, wish: wish.clone() };
    let text = serde_json::to_string(&ask).map_err(|error| Problem::setup(error.to_string()))?;
    let mut annotations = json!({ annotation::ROLLBACK: text, annotation::ROLLBACK_BY: access.user().await });
    if anyway {
        annotations[annotation::OVERRIDE] = json!(id);
    }
    access.patch(name, &json!({ "metadata": { "annotations": annotations } })).await?;
    Ok(id)
}

/// Waits for the first answer to a request.
async fn answer(access: &Access, name: &str, id: &str) -> Result<RollbackStatus, Problem> {
    let begun = Instant::now();
    let mut failures = 0;
    while begun.elapsed() < ANSWER {
        match access.environment(name).await {
            Ok(environment) => {
                failures = 0;
                if let Some(found) = environment.status.as_ref().and_then(|status| status.rollback_of(id)) {
                    return Ok(found.clone());
                }
                let asked = environment.annotations().get(annotation::ROLLBACK);
                if !asked.is_some_and(|asked| asked.contains(id)) {
                    let problem = Problem::passing("somebody else has asked for a rollback before this was answered");
                    return Err(problem.hint(format!("look at what came of it: towpath get {name}")));
                }
            }
            Err(problem) if problem.fault == Fault::Passing && failures < MAX_FAILURES => failures += 1,
            Err(problem) => return Err(problem),
        }
        tokio::time::sleep(LOOK).await;
    }
    let problem = Problem::passing(format!("the agent has not answered within {} s", ANSWER.as_secs()));
    Err(problem.hint(format!("see towpath get {name}, and whether the agent runs")))
}

/// Waits until the branch has the reverts and the environment is where it goes.
async fn follow(access: &Access, name: &str, id: &str, timeout: Duration) -> Result<Code, Failure> {
    let begun = Instant::now();
    let (mut said, mut failures) = (String::new(), 0);
    while begun.elapsed() < timeout {
        let environment = match access.environment(name).await {
            Ok(environment) => environment,
            Err(problem) if problem.fault == Fault::Passing && failures < MAX_FAILURES => {
                failures += 1;
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(problem) => return Err(problem.into()),
        };
        failures = 0;
        let status = environment.status.unwrap_or_default();
        let Some(rollback) = status.rollback_of(id) else {
            return Err(Problem::passing("another rollback has taken its place").into());
        };
        let goes = rollback.goes_to.as_deref().map(output::short_revisions);
        let is_there = goes.is_none() && !rollback.lands();
        if let Some(why) = rollback.cannot_push().filter(|_| rollback.waits_for_somebody()) {
            if !is_there {
                let hint = "it is tried again; it stays held until then, and towpath reland ends it";
                return Err(Problem::setup(clean_line(why, SHOWN_CHARACTERS)).hint(hint).into());
            }
            output::data(&format!("{}; it is tried again", clean_line(why, SHOWN_CHARACTERS)))?;
            output::data(&runs(name, &status))?;
            return Ok(Code::Done);
        }
        let now = match (rollback.phase, &goes) {
            (RollbackPhase::Refused, _) => return Err(told(rollback)),
            // Where it waits for the merge to go anywhere, nobody waits here.
            (RollbackPhase::WaitsForMerge, _) if rollback.waits_for_somebody() => {
                for line in rollback.lines.iter().take(4) {
                    output::data(&clean_line(line, SHOWN_CHARACTERS))?;
                }
                if is_there {
                    output::data(&runs(name, &status))?;
                }
                return Ok(if is_there { Code::Done } else { Code::TimedOut });
            }
            (RollbackPhase::WaitsForMerge, _) => "its branch waits to be merged".to_owned(),
            (RollbackPhase::Done | RollbackPhase::WaitsForGit, None) => {
                let branch =
                    rollback.from.as_deref().and_then(|from| from.split_once('@')).map_or("", |(name, _)| name);
                let commit = rollback.commit.as_deref().unwrap_or_default();
                match rollback.phase {
                    RollbackPhase::Done => {
                        output::data(&format!("{branch} has it with {}", commit.get(..7).unwrap_or(commit)))?;
                    }
                    _ => output::data("the git server is away: the revert is pushed when it is back")?,
                }
                output::data(&runs(name, &status))?;
                return Ok(Code::Done);
            }
            (RollbackPhase::Pushing, Some(goes)) if rollback.cannot_push().is_some() => {
                format!("{name} goes to {goes}")
            }
            (RollbackPhase::Pushing | RollbackPhase::Prepared, _) => "the reverts are being pushed".to_owned(),
            (_, Some(goes)) => format!("{name} goes to {goes}"),
        };
        if now != said {
            output::progress(&now);
            said = now;
        }
        tokio::time::sleep(LOOK).await;
    }
    output::progress(&format!("not over within {} s; it goes on by itself: towpath get {name}", timeout.as_secs()));
    Ok(Code::TimedOut)
}

/// What an environment runs, and whether it is kept there.
fn runs(name: &str, status: &EnvironmentStatus) -> String {
    let runs = status.running.as_ref().map_or("nothing", |running| running.revision.as_str());
    let held = if status.held.is_some() { ", held" } else { "" };
    let waiting = match status.leftovers.to_confirm_count {
        0 => String::new(),
        1 => format!("; 1 object stays until towpath confirm {name}"),
        count => format!("; {count} objects stay until towpath confirm {name}"),
    };
    format!("{name} runs {}{held}{waiting}", output::short_revisions(runs))
}

fn show(answer: &RollbackStatus) -> Result<(), Failure> {
    answer.lines.iter().try_for_each(|line| output::data(&clean_indented(line, SHOWN_CHARACTERS)))?;
    Ok(())
}

/// Why it was not done.
fn told(answer: &RollbackStatus) -> Failure {
    let lines: Vec<String> = answer.lines.iter().map(|line| clean_line(line, SHOWN_CHARACTERS)).collect();
    Problem::setup(lines.join("\n")).into()
}
