//! `towpath images`: which images environments run, and which ones a rollback would need, for whoever cleans up a registry.

use std::collections::BTreeMap;

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;
use towpath_core::fault::Problem;
use towpath_core::status::{EnvironmentStatus, ImageStatus};

use super::access::{self, Flags};
use super::exit::{Code, Failure};
use super::output::{self, Format};
use crate::resources::Environment;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The names of environments; all of the namespace by default.
    names: Vec<String>,
    /// The environments of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "names"])]
    all_namespaces: bool,
    /// Also what the last syncs ran before: what a rollback would need.
    #[arg(long)]
    in_use: bool,
    /// How they are printed; `name` prints each image once.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Flags,
}

/// One image of one environment.
#[derive(Debug, Serialize)]
struct Line {
    namespace: String,
    environment: String,
    #[serde(flatten)]
    image: ImageStatus,
}

const HEADER: [&str; 5] = ["IMAGE", "ENVIRONMENT", "COMPONENT", "REVISION", "RAN"];

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let access = args.access.open().await?;
    let api: Api<Environment> =
        if args.all_namespaces { Api::all(access.client.clone()) } else { access.environments() };
    let mut environments = Vec::new();
    for name in &args.names {
        environments.push(access.environment(name).await?);
    }
    if args.names.is_empty() {
        environments = access::call(api.list(&ListParams::default())).await?.items;
    }
    let mut lines = Vec::new();
    let mut gaps = Vec::new();
    for environment in &environments {
        let (namespace, name) = (environment.namespace().unwrap_or_default(), environment.name_any());
        let status = environment.status.clone().unwrap_or_default();
        gaps.extend(
            gap(&status, args.in_use).map(|gap| Problem::passing(format!("environment {namespace}/{name}: {gap}"))),
        );
        let wanted = status.images.into_iter().flatten().filter(|image| args.in_use || image.until.is_none());
        lines.extend(wanted.map(|image| Line { namespace: namespace.clone(), environment: name.clone(), image }));
    }
    print(&lines, args.output)?;
    if gaps.is_empty() {
        return Ok(Code::Done);
    }
    // What is printed is right and not all there is: nothing may be deleted by it.
    Err(towpath_core::fault::Problems::check(gaps).expect_err("there are gaps").into())
}

/// Why the list of an environment is not whole.
fn gap(status: &EnvironmentStatus, in_use: bool) -> Option<String> {
    if status.images_left_out > 0 {
        return Some(format!("{} more images are not listed", status.images_left_out));
    }
    let has_run = status.running.is_some() || !status.history.is_empty();
    if status.images.is_none() && has_run {
        return Some("the agent has not said yet which images it runs".to_owned());
    }
    let since = || match status.images_since {
        Some(since) => format!("before {}", since.strftime("%FT%TZ")),
        None => "earlier".to_owned(),
    };
    let lacks = in_use && status.lacks_images();
    lacks.then(|| format!("not all is known of what ran {}, and syncs of then are still remembered", since()))
}

fn print(lines: &[Line], format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::data(&output::json(&lines)?),
        Format::Yaml => output::data(&output::yaml(&lines)?),
        Format::Name => {
            let images: BTreeMap<&str, ()> = lines.iter().map(|line| (line.image.image.as_str(), ())).collect();
            output::data(&images.keys().map(|image| format!("{image}\n")).collect::<String>())
        }
        Format::Table | Format::Wide if lines.is_empty() => {
            output::progress("no environment here runs an image");
            Ok(())
        }
        Format::Table | Format::Wide => {
            let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
            // An image that is cut short is none.
            output::data(&output::table(&HEADER, &rows, None))
        }
    }
}

fn row(line: &Line) -> Vec<String> {
    let ImageStatus { image, component, revision, until } = &line.image;
    let dash = || "-".to_owned();
    vec![
        image.clone(),
        format!("{}/{}", line.namespace, line.environment),
        component.clone().unwrap_or_else(dash),
        output::short_revisions(revision),
        until.map_or_else(|| "now".to_owned(), |until| format!("until {}", until.strftime("%FT%TZ"))),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> EnvironmentStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_line_says_whose_image_it_is_and_until_when() {
        let revision = format!("master@sha1:{}", "ab".repeat(20));
        let image = |image: &str, component: Option<&str>, until: Option<&str>| Line {
            namespace: "shop".into(),
            environment: "prod".into(),
            image: serde_json::from_value(
                json!({"image": image, "component": component, "revision": revision, "until": until}),
            )
            .unwrap(),
        };
        let lines = [image("web:2", Some("web"), None), image("web:1", None, Some("2026-01-01T00:00:00.5Z"))];
        let rows: Vec<_> = lines.iter().map(row).collect();
        let table = anstream::adapter::strip_str(&output::table(&HEADER, &rows, None)).to_string();
        expect![[r#"
            IMAGE  ENVIRONMENT  COMPONENT  REVISION        RAN
            web:2  shop/prod    web        master@abababa  now
            web:1  shop/prod    -          master@abababa  until 2026-01-01T00:00:00Z
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn a_list_that_is_not_whole_says_so() {
        let image = json!({"image": "web:1", "revision": "master@sha1:ab"});
        let running = json!({"revision": "master@sha1:ab"});
        assert_eq!(gap(&status(json!({})), true), None);
        assert_eq!(gap(&status(json!({"running": running, "images": [image]})), true), None);
        assert_eq!(gap(&status(json!({"running": running, "images": []})), true), None);
        assert!(gap(&status(json!({"running": running})), true).unwrap().contains("has not said yet"));
        assert!(gap(&status(json!({"images": [image], "imagesLeftOut": 3})), true).unwrap().starts_with("3 more"));
        let sync = json!({
            "revision": "master@sha1:ab", "subject": "", "trigger": "Commit", "startedAt": "2026-01-01T00:00:00Z",
            "tookMs": 1, "outcome": "Applied", "created": 1, "configured": 0, "unchanged": 0, "pruned": 0, "failed": 0,
        });
        let since = |since: &str| {
            status(json!({"images": [image], "imagesSince": since, "history": [sync], "running": running}))
        };
        assert_eq!(gap(&since("2026-01-01T00:00:00Z"), true), None);
        assert!(gap(&since("2026-01-02T00:00:00Z"), true).unwrap().contains("before 2026-01-02T00:00:00Z"));
        assert_eq!(gap(&since("2026-01-02T00:00:00Z"), false), None, "what runs now is known");
    }
}
