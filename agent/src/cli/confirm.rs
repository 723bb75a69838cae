//! `towpath confirm`: shows which deletions wait for a person, asks, and has them done.
//!
//! A confirmation is an annotation of the Environment that stands for one commit and one exact list. If either changes
//! in the meantime it confirms nothing.

use std::io::{BufRead, IsTerminal, Write};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use towpath_core::fault::Problem;
use towpath_core::names::{GROUP, annotation};
use towpath_core::status::LeftoverStatus;

use super::access::{Access, Flags, call};
use super::exit::{Code, Failure};
use super::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 confirmed, or nothing waits; 1 error, or not confirmed.")]
pub(super) struct Args {
    /// The name of the environment.
    name: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Confirm only if this is still what waits, as `<commit>:<digest>`: for a list that was looked at elsewhere.
    #[arg(long, value_name = "VALUE")]
    only: Option<String>,
    #[command(flatten)]
    access: Flags,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let access = args.access.open().await?;
    let environment = access.environment(&args.name).await?;
    let waiting = environment.status.unwrap_or_default().leftovers;
    let Some(value) = waiting.confirm_prune.clone() else {
        output::progress(&format!("no deletion of {} waits for a confirmation", args.name));
        return Ok(Code::Done);
    };
    if let Some(only) = args.only.filter(|only| *only != value) {
        let problem = Problem::setup(format!("what waits is {value}, and no longer {only}"));
        return Err(problem.hint(format!("look at it again: towpath confirm {}", args.name)).into());
    }
    output::data(&listed(&args.name, &waiting, &value))?;
    if !args.yes && !agrees("Delete them?")? {
        output::progress("nothing was confirmed");
        return Ok(Code::Failed);
    }
    check_right(&access, &args.name, ("confirm", "confirm deletions")).await?;
    let annotations = json!({ annotation::CONFIRM_PRUNE: value, annotation::CONFIRMED_BY: access.user().await });
    access.patch(&args.name, &json!({ "metadata": { "annotations": annotations } })).await?;
    output::data(&format!("environment.towpath.dev/{} deletions confirmed\n", args.name))?;
    Ok(Code::Done)
}

/// What would be deleted, each object on a line.
fn listed(name: &str, waiting: &LeftoverStatus, value: &str) -> String {
    let count = waiting.to_confirm.len().max(waiting.to_confirm_count as usize);
    let commit = value.split(':').next().unwrap_or_default();
    let mut text = format!("{name} would delete, at commit {commit}, {count} objects that left git:\n");
    for object in &waiting.to_confirm {
        let reason = waiting.kept.iter().find(|kept| kept.object == *object).map(|kept| format!("  # {}", kept.reason));
        text += &format!("  {object}{}\n", reason.unwrap_or_default());
    }
    if count > waiting.to_confirm.len() {
        text += &format!("  and {} more; towpath diff -e {name} names all of them\n", count - waiting.to_confirm.len());
    }
    text
}

/// Asks a person. Where there is none, the answer is an error and never a yes.
pub(super) fn agrees(question: &str) -> Result<bool, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Problem::setup("there is nobody to ask").hint("say -y to confirm without being asked").into());
    }
    let mut out = std::io::stderr();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The API server checks a right again when the annotation is written (manifests/policy.yaml); asked first, it can be said
/// with its name. `what` is what somebody may not do without it.
pub(super) async fn check_right(access: &Access, name: &str, (verb, what): (&str, &str)) -> Result<(), Problem> {
    let asked = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                resource: Some("environments".to_owned()),
                verb: Some(verb.to_owned()),
                namespace: Some(access.namespace.clone()),
                name: Some(name.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(access.client.clone());
    let answer = call(api.create(&PostParams::default(), &asked)).await?;
    if answer.status.is_some_and(|status| status.allowed) {
        return Ok(());
    }
    Err(Problem::setup(format!("you may not {what} of {name}"))
        .hint(format!("it needs the verb {verb} on environments.towpath.dev")))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use towpath_core::status::KeptStatus;

    use super::*;

    #[test]
    fn the_list_says_what_goes_and_why_it_waits() {
        let waiting = LeftoverStatus {
            to_confirm: vec!["ConfigMap shop/a".into(), "Namespace shop".into()],
            to_confirm_count: 3,
            kept: vec![KeptStatus::new("Namespace shop", "only after a confirmation")],
            ..LeftoverStatus::default()
        };
        expect![[r#"
            prod would delete, at commit abababa, 3 objects that left git:
              ConfigMap shop/a
              Namespace shop  # only after a confirmation
              and 1 more; towpath diff -e prod names all of them
        "#]]
        .assert_eq(&listed("prod", &waiting, "abababa:0123456789ab"));
    }
}
