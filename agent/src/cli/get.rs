//! `towpath get`: how environments are.

use std::collections::BTreeMap;

use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use towpath_core::fault::Problem;
use towpath_core::status::{EnvironmentStatus, RollbackPhase};

use super::access::{self, Access, Flags};
use super::exit::{Code, Failure};
use super::output::{self, Format};
use crate::resources::{Environment, prepared_by_itself};

mod leftovers;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The names of environments; all of the namespace by default.
    names: Vec<String>,
    /// The environments of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "names"])]
    all_namespaces: bool,
    /// How they are printed.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    /// Print each environment again when it changes, until interrupted.
    #[arg(short, long, conflicts_with = "orphans")]
    watch: bool,
    /// List what is not in git and is still there: members that are kept, and orphans.
    #[arg(long)]
    orphans: bool,
    #[command(flatten)]
    access: Flags,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let access = args.access.open().await?;
    let api: Api<Environment> =
        if args.all_namespaces { Api::all(access.client.clone()) } else { access.environments() };
    if args.watch {
        return watch(&args, api).await;
    }
    let environments = list(&args, &access, &api).await?;
    if args.orphans && matches!(args.output, Format::Table | Format::Wide) {
        return leftovers::print(&environments, args.output == Format::Wide);
    }
    match args.output {
        Format::Table | Format::Wide if environments.is_empty() => {
            let place =
                if args.all_namespaces { "any namespace".into() } else { format!("namespace {}", access.namespace) };
            output::progress(&format!("there are no environments in {place}"));
        }
        Format::Json | Format::Yaml => {
            let mut documents: Vec<Value> = environments.iter().map(document).collect();
            let is_one = args.names.len() == 1 && documents.len() == 1;
            let whole = if is_one { documents.remove(0) } else { list_of(documents) };
            output::data(&written(&whole, args.output)?)?;
        }
        Format::Name => output::data(&environments.iter().map(name).collect::<String>())?,
        Format::Table | Format::Wide => {
            let columns = Columns::new(&args, Timestamp::now());
            let rows: Vec<Vec<String>> = environments.iter().map(|environment| columns.row(environment)).collect();
            output::data(&output::table(&columns.header(), &rows, columns.width()))?;
        }
    }
    Ok(Code::Done)
}

async fn list(args: &Args, access: &Access, api: &Api<Environment>) -> Result<Vec<Environment>, Problem> {
    if args.names.is_empty() {
        let list = access::call(api.list(&kube::api::ListParams::default())).await?;
        return Ok(list.items);
    }
    let mut environments = Vec::new();
    for name in &args.names {
        environments.push(access.environment(name).await?);
    }
    Ok(environments)
}

/// Prints all of them, and then each one that looks different from how it was last printed.
async fn watch(args: &Args, api: Api<Environment>) -> Result<Code, Failure> {
    let mut config = watcher::Config::default();
    if let [name] = args.names.as_slice() {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let is_meant = |environment: &Environment| args.names.is_empty() || args.names.contains(&environment.name_any());
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = Vec::new();
    let mut shown: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut widths: Vec<usize> = Vec::new();
    let mut warned = false;
    while let Some(event) = events.next().await {
        let changed = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(environment)) => {
                listed.push(environment);
                continue;
            }
            Ok(Event::InitDone) => std::mem::take(&mut listed),
            Ok(Event::Apply(environment)) => vec![environment],
            Ok(Event::Delete(environment)) => {
                if is_meant(&environment) {
                    output::progress(&format!("{} is deleted", environment.name_any()));
                    shown.remove(&id(&environment));
                }
                continue;
            }
            Err(watcher::Error::InitialListFailed(error @ kube::Error::Api(_))) => {
                return Err(access::problem(&error).into());
            }
            Err(error) => {
                if !warned {
                    output::progress(&format!("the watch was interrupted; trying again: {error}"));
                }
                warned = true;
                continue;
            }
        };
        warned = false;
        let columns = Columns::new(args, Timestamp::now());
        let mut rows = Vec::new();
        for environment in changed.iter().filter(|environment| is_meant(environment)) {
            let row = columns.row(environment);
            // Time passes in every row: what it says counts, not how long it has been so.
            let said = columns.without_age(&row);
            if shown.insert(id(environment), said.clone()) == Some(said) && !is_document(args.output) {
                continue;
            }
            match args.output {
                Format::Name => output::data(&name(environment))?,
                Format::Json => output::data(&(document(environment).to_string() + "\n"))?,
                Format::Yaml => output::data(&format!("---\n{}", output::yaml(&document(environment))?))?,
                Format::Table | Format::Wide => rows.push(row),
            }
        }
        if rows.is_empty() {
            continue;
        }
        let header = columns.header();
        let is_first = widths.is_empty();
        let needed = output::widths(&header, &rows);
        widths = if is_first { needed } else { widths.iter().zip(needed).map(|(a, b)| *a.max(&b)).collect() };
        output::data(&output::lines(is_first.then_some(&header[..]), &rows, &widths, columns.width()))?;
    }
    Ok(Code::Done)
}

fn is_document(format: Format) -> bool {
    matches!(format, Format::Json | Format::Yaml)
}

fn id(environment: &Environment) -> (String, String) {
    (environment.namespace().unwrap_or_default(), environment.name_any())
}

fn name(environment: &Environment) -> String {
    format!("environment.towpath.dev/{}\n", environment.name_any())
}

/// An Environment without the record of who wrote which field, as kubectl prints objects.
fn document(environment: &Environment) -> Value {
    let mut environment = environment.clone();
    environment.metadata.managed_fields = None;
    serde_json::to_value(environment).expect("an Environment is made of texts and numbers")
}

fn list_of(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

fn written(value: &Value, format: Format) -> Result<String, Problem> {
    if format == Format::Yaml { output::yaml(value) } else { output::json(value) }
}

/// Which columns there are.
struct Columns {
    with_namespace: bool,
    is_wide: bool,
    now: Timestamp,
}

impl Columns {
    fn new(args: &Args, now: Timestamp) -> Columns {
        Columns { with_namespace: args.all_namespaces, is_wide: args.output == Format::Wide, now }
    }

    fn width(&self) -> Option<usize> {
        if self.is_wide { None } else { output::terminal_width() }
    }

    fn header(&self) -> Vec<&'static str> {
        let mut header = Vec::new();
        if self.with_namespace {
            header.push("NAMESPACE");
        }
        header.extend(["NAME", "LANE", "STATE", "HEALTH", "REVISION", "SINCE"]);
        if self.is_wide {
            header.extend(["CANDIDATE", "OBJECTS", "REPOSITORY", "PATH"]);
        }
        header.push("MESSAGE");
        header
    }

    fn row(&self, environment: &Environment) -> Vec<String> {
        let dash = || "-".to_owned();
        let status = environment.status.as_ref();
        let revision = |revision: &str| {
            if self.is_wide { revision.to_owned() } else { output::short_revisions(revision) }
        };
        let running = status.and_then(|status| status.running.as_ref());
        let since = status.and_then(|status| status.running_since);
        let mut row = Vec::new();
        if self.with_namespace {
            row.push(environment.namespace().unwrap_or_default());
        }
        row.extend([
            environment.name_any(),
            environment.spec.lane.clone(),
            status.map_or_else(dash, |status| status.state.to_string()),
            status.and_then(|status| status.health).map_or_else(dash, |health| format!("{health:?}")),
            running.map_or_else(dash, |running| revision(&running.revision)),
            since.map_or_else(dash, |since| output::age(since, self.now)),
        ]);
        if self.is_wide {
            let candidate = status.and_then(|status| status.candidate.as_ref());
            row.extend([
                candidate.map_or_else(dash, |candidate| revision(&candidate.revision)),
                status.map_or_else(dash, |status| status.objects.to_string()),
                environment.spec.repository.clone(),
                environment.spec.path.clone(),
            ]);
        }
        row.push(message(environment));
        row
    }

    fn without_age(&self, row: &[String]) -> Vec<String> {
        let mut row = row.to_vec();
        row[usize::from(self.with_namespace) + 5].clear();
        row
    }
}

/// What there is to say beside the other columns: nothing where all is well.
fn message(environment: &Environment) -> String {
    let Some(status) = &environment.status else { return "the agent has not looked at it yet".to_owned() };
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let message = match ready {
        Some(ready) if ready.status == "True" => match status.warnings.len() {
            0 => String::new(),
            1 => format!("warning: {}", status.warnings[0]),
            count => format!("{count} warnings, the first: {}", status.warnings[0]),
        },
        Some(ready) => output::short_revisions(&ready.message),
        None => String::new(),
    };
    let said = [rollback(status), Some(message)].into_iter().flatten().filter(|said| !said.is_empty());
    said.collect::<Vec<_>>().join("; ")
}

/// What a rollback waits for.
fn rollback(status: &EnvironmentStatus) -> Option<String> {
    if let Some(rollback) = status.rollback.as_ref().filter(|rollback| rollback.phase.is_under_way()) {
        let from = rollback.from.as_deref().unwrap_or_default();
        let lane = from.rsplit_once('@').map_or("the lane's branch", |(lane, _)| lane);
        return match (rollback.phase, &rollback.branch) {
            (RollbackPhase::WaitsForMerge, Some(branch)) => Some(format!("rolled back: merge {branch} into {lane}")),
            (RollbackPhase::WaitsForGit, _) => Some(format!("rolled back: pushed to {lane} when git is back")),
            _ => Some(format!("being rolled back on {lane}")),
        };
    }
    let waits = prepared_by_itself(status)?.phase == RollbackPhase::Prepared;
    waits.then(|| "a rollback waits for a person".to_owned())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn environment(name: &str, status: Option<Value>) -> Environment {
        serde_json::from_value(json!({
            "apiVersion": "towpath.dev/v1alpha1",
            "kind": "Environment",
            "metadata": {"name": name, "namespace": "shop", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"repository": "shop", "lane": "release", "path": "environments/x"},
            "status": status,
        }))
        .unwrap()
    }

    fn some() -> Vec<Environment> {
        let ready = |status: &str, message: &str| {
            json!([{
                "type": "Ready", "status": status, "reason": "R", "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }])
        };
        let running = json!({"revision": format!("r1.2@sha1:{ID}")});
        let good = json!({
            "state": "Synced", "health": "Healthy", "running": running, "runningSince": "2026-01-01T11:57:00Z",
            "conditions": ready("True", &format!("runs r1.2@sha1:{ID}")),
        });
        let bad = json!({
            "state": "Blocked", "health": "Degraded", "running": running, "runningSince": "2026-01-01T09:57:00Z",
            "objects": 7, "conditions": ready("False", &format!("r1.2@sha1:{ID} is degraded: Deployment.apps web/api: crashes")),
        });
        vec![environment("good", Some(good)), environment("bad", Some(bad)), environment("new", None)]
    }

    fn table(is_wide: bool, with_namespace: bool) -> String {
        let columns = Columns { with_namespace, is_wide, now: "2026-01-01T12:00:00Z".parse().unwrap() };
        let rows: Vec<Vec<String>> = some().iter().map(|environment| columns.row(environment)).collect();
        anstream::adapter::strip_str(&output::table(&columns.header(), &rows, None)).to_string()
    }

    #[test]
    fn a_row_says_what_runs_and_what_is_wrong() {
        expect![[r#"
            NAME  LANE     STATE    HEALTH    REVISION      SINCE  MESSAGE
            good  release  Synced   Healthy   r1.2@0123456  3m
            bad   release  Blocked  Degraded  r1.2@0123456  2h     r1.2@0123456 is degraded: Deployment.apps web/api: crashes
            new   release  -        -         -             -      the agent has not looked at it yet
        "#]]
        .assert_eq(&table(false, false));
    }

    #[test]
    fn what_a_rollback_waits_for_is_said_first() {
        let mut environment = some().remove(1);
        let mut said = |key: &str, value: Value| {
            let mut status = serde_json::to_value(&environment.status).unwrap();
            status[key] = value;
            environment.status = serde_json::from_value(status).unwrap();
            message(&environment)
        };
        let auto = json!({"id": "auto-1", "phase": "Prepared"});
        assert!(said("prepared", auto).starts_with("a rollback waits for a person; r1.2@0123456 is degraded"));
        let from = format!("r1.2@sha1:{ID}");
        let waits = json!({"id": "r", "phase": "WaitsForMerge", "from": from, "branch": "towpath/revert-x-1"});
        assert!(said("rollback", waits).starts_with("rolled back: merge towpath/revert-x-1 into r1.2; r1.2@0123456"));
    }

    #[test]
    fn of_all_namespaces_each_is_named() {
        assert!(table(false, true).lines().skip(1).all(|line| line.starts_with("shop ")));
    }

    #[test]
    fn a_wide_table_has_whole_revisions() {
        assert!(table(true, false).contains(&format!("r1.2@sha1:{ID}")));
    }

    #[test]
    fn a_document_leaves_out_who_wrote_which_field() {
        assert_eq!(document(&some()[0])["metadata"].get("managedFields"), None);
    }

    #[test]
    fn time_alone_makes_no_new_row() {
        let at = |now: &str| Columns { with_namespace: true, is_wide: false, now: now.parse().unwrap() };
        let (early, late) = (at("2026-01-01T12:00:00Z"), at("2026-01-01T13:00:00Z"));
        let environment = &some()[0];
        assert_ne!(early.row(environment), late.row(environment));
        assert_eq!(early.without_age(&early.row(environment)), late.without_age(&late.row(environment)));
    }
}
