//! `towpath diff`: what a sync would change, asked from the API server by dry runs with the user's own rights.
//!
//! Values of Secrets are never printed: each is shown as `***` and a short hash under a key that is made anew for each
//! run, so that one can see whether it changes and nothing else.

use std::collections::BTreeMap;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use futures::StreamExt;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::core::{ApiResource, DynamicObject};
use kube::discovery::{ApiCapabilities, Scope as ServedScope};
use kube::{Api, Discovery};
use serde_json::Value;
use sha2::{Digest, Sha256};
use similar::{ChangeTag, TextDiff};
use towpath_core::environment::Environment;
use towpath_core::fault::{Problem, Problems};
use towpath_core::hooks;
use towpath_core::ledger::Entry;
use towpath_core::manifest::{ObjectKey, group_of};
use towpath_core::names::{ENVIRONMENT_LABEL, FIELD_MANAGER, annotation};
use towpath_core::policy::{Cleared, Desired};
use towpath_core::redact;
use towpath_core::revision::clean_line;
use towpath_core::scope::{Scope, Scopes};

use super::access::{Access, DEADLINE, Flags, call, problem};
use super::exit::{self, Code, Failure};
use super::local::{Source, Subject, subject};
use super::output;
use super::remote::Remote;
use crate::cluster::{Cluster, Manner};
use crate::resources::Repository;
use crate::web::records::Difference;

/// Dry runs under way at one time.
const AT_ONCE: usize = 8;

#[derive(Debug, clap::Args)]
#[command(override_usage = "\
towpath diff [OPTIONS] [FOLDER]
       towpath diff --agent <URL> <SYNC> <SYNC>")]
#[command(after_help = "\
Without --file the Environment is read from the cluster, by --environment.
Each object is sent as a dry run with your own rights; nothing is written.
Exit codes: 0 nothing differs, 1 something differs, 2 it could not be found out.")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// With a second name both are syncs of ledgers, such as prod@6 prod@7, or staging prod for what runs, and it is
    /// shown what differs between what they applied. Needs --agent.
    #[arg(value_name = "SYNC", requires = "agent")]
    to: Option<Entry>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    access: Flags,
}

/// What a sync would do to one object, in words and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    title: String,
    old: String,
    new: String,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    difference(args).await.map_err(|failure| failure.with(Code::Trouble))
}

/// What differs between two syncs, as an agent reads it from their ledgers.
async fn of_ledgers(remote: &Remote, from: &Entry, to: &Entry) -> Result<Code, Failure> {
    let (from, to) = (from.to_string(), to.to_string());
    let found: Difference = remote.ask(&["diff"], &[("from", &from), ("to", &to)]).await?;
    let mut out = anstream::stdout();
    for file in &found.files {
        let title = format!("{} ({})", clean_line(&file.path, 500), clean_line(&file.change, 20));
        write_title(&mut out, &title)?;
        for line in file.diff.lines() {
            write_line(&mut out, &clean_line(line, 4000))?;
        }
    }
    out.flush()?;
    let count = found.files.len() + found.more;
    let more = if found.more == 0 { String::new() } else { format!(", of which {} are not shown", found.more) };
    output::progress(&format!("{} → {}: {}{more}", found.from.name, found.to.name, output::counted(count, "file")));
    Ok(if count == 0 { Code::Done } else { Code::Failed })
}

async fn difference(args: Args) -> Result<Code, Failure> {
    if let Some(to) = &args.to {
        let from = args.source.folder.as_ref().map(|first| first.to_string_lossy().parse::<Entry>());
        let from = from.expect("a second name comes after a first one")?;
        return of_ledgers(&args.remote, &from, to).await;
    }
    let checkout = args.source.checkout()?;
    let access = args.access.open().await?;
    let subject = match (&args.source.environment, args.source.names_files()) {
        (Some(name), false) => from_cluster(&access, name).await?,
        (None, false) => {
            let problem = Problem::setup("it is not said which environment is meant");
            return Err(problem.hint("name it with --environment, or its file with --file").into());
        }
        (_, true) => args.source.subject(&checkout, Some(&access.namespace))?,
    };
    let kinds = Kinds::ask(&access).await?;
    let cleared = args.source.clear(&checkout, &subject, &kinds.scopes())?;
    exit::warn(&mut anstream::stderr(), cleared.warnings())?;

    let comparison = Comparison { access: &access, kinds: &kinds, environment: &subject.environment, key: Key::new() };
    let mut results =
        futures::stream::iter(cleared.objects().iter().map(|object| comparison.of(object))).buffered(AT_ONCE);
    let mut out = anstream::stdout();
    let (mut changes, mut found) = (0, Vec::new());
    while let Some(result) = results.next().await {
        match result {
            Ok(None) => {}
            Ok(Some(change)) => {
                changes += 1;
                write(&mut out, &change)?;
            }
            Err(problem) => found.push(problem),
        }
    }
    for key in gone(&access, &subject.environment, &cleared).await {
        changes += 1;
        write(
            &mut out,
            &Change { title: format!("{key} is no longer in git"), old: String::new(), new: String::new() },
        )?;
    }
    out.flush()?;
    let objects = output::counted(cleared.objects().len(), "object");
    output::progress(&format!("{objects} in git: {} to the cluster", output::counted(changes, "change")));
    Problems::check(found)?;
    Ok(if changes == 0 { Code::Done } else { Code::Failed })
}

/// The Environment as the cluster has it.
async fn from_cluster(access: &Access, name: &str) -> Result<Subject, Failure> {
    let environment = access.environment(name).await?;
    let (home, repository) = environment.repository_id();
    let repositories: Api<Repository> = Api::namespaced(access.client.clone(), &home);
    // Only the names of its branches are wanted, for which there are defaults.
    let repository = call(repositories.get_opt(&repository)).await.unwrap_or_else(|problem| {
        output::progress(&format!("its Repository cannot be read, its branches are taken to be default: {problem}"));
        None
    });
    Ok(subject(&environment, repository.as_ref())?)
}

/// Members of the environment that git no longer has.
async fn gone(access: &Access, environment: &Environment, cleared: &Cleared) -> Vec<ObjectKey> {
    let inventory = match Cluster::connect(access.config.clone(), Manner::default()) {
        Ok(cluster) => cluster.read_inventory(environment).await,
        Err(problem) => Err(problem),
    };
    match inventory {
        Ok(inventory) => {
            // The Jobs of hooks come and go with syncs.
            let is_run = |key: &ObjectKey| cleared.hooks().iter().any(|hook| hooks::is_run_of(hook, key));
            let is_wanted = |key: &ObjectKey| cleared.get(key).is_some() || is_run(key);
            inventory.iter().map(|(key, _)| key).filter(|key| !is_wanted(key)).cloned().collect()
        }
        Err(problem) => {
            output::progress(&format!("what would be pruned is not shown: {}", problem.message));
            Vec::new()
        }
    }
}

/// The kinds that the cluster serves.
struct Kinds(BTreeMap<(String, String), (ApiResource, ApiCapabilities)>);

impl Kinds {
    async fn ask(access: &Access) -> Result<Kinds, Problem> {
        let discovery = match call(Discovery::new(access.client.clone()).run_aggregated()).await {
            Ok(discovery) => discovery,
            // Servers before 1.30 answer only the many small questions.
            Err(_) => call(Discovery::new(access.client.clone()).run()).await?,
        };
        let mut kinds = BTreeMap::new();
        for group in discovery.groups() {
            for version in group.versions() {
                for (resource, capabilities) in group.versioned_resources(version) {
                    kinds.insert((resource.api_version.clone(), resource.kind.clone()), (resource, capabilities));
                }
            }
        }
        Ok(Kinds(kinds))
    }

    fn scopes(&self) -> Scopes {
        let mut scopes = Scopes::of_cluster();
        for (resource, capabilities) in self.0.values() {
            let scope = match capabilities.scope {
                ServedScope::Namespaced => Scope::Namespaced,
                ServedScope::Cluster => Scope::Cluster,
            };
            scopes.insert(group_of(&resource.api_version), &resource.kind, scope);
        }
        scopes
    }
}

/// Compares objects with what is there.
struct Comparison<'a> {
    access: &'a Access,
    kinds: &'a Kinds,
    environment: &'a Environment,
    key: Key,
}

impl Comparison<'_> {
    /// What would change of an object; `None` where nothing would.
    async fn of(&self, desired: &Desired) -> Result<Option<Change>, Problem> {
        if desired.leave_alone {
            return Ok(None);
        }
        let is_secret = desired.key.group.is_empty() && desired.key.kind == "Secret";
        let refused = |problem: Problem| {
            // What the server says of a Secret may hold its values.
            let said = if is_secret { "(what the server says of a Secret is not shown)" } else { &problem.message };
            Problem { message: format!("{}: {said}", desired.key), ..problem }.at(desired.source.clone())
        };
        let wanted = Value::Object(desired.body());
        let served = self.kinds.0.get(&(desired.api_version.clone(), desired.key.kind.clone()));
        // A kind that this revision brings itself has no objects yet.
        let Some((resource, _)) = served else { return Ok(Some(self.change(desired, None, &wanted))) };
        let api: Api<DynamicObject> = match &desired.key.namespace {
            Some(namespace) => Api::namespaced_with(self.access.client.clone(), namespace, resource),
            None => Api::all_with(self.access.client.clone(), resource),
        };
        let live = call(api.get_opt(&desired.key.name)).await.map_err(refused)?;
        let live = live.map(|object| serde_json::to_value(object).expect("an object is JSON"));
        let params = PatchParams {
            dry_run: true,
            force: true,
            field_manager: Some(FIELD_MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let patch = Patch::Apply(&wanted);
        let patched = tokio::time::timeout(DEADLINE, api.patch(&desired.key.name, &params, &patch)).await;
        let next = match patched {
            Ok(Ok(object)) => serde_json::to_value(object).expect("an object is JSON"),
            // Its namespace comes with the same revision.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && live.is_none() => wanted,
            Ok(Err(error)) => return Err(refused(problem(&error))),
            Err(_) => return Err(refused(Problem::passing("the API server did not answer"))),
        };
        if let Some(live) = &live {
            self.tell_owner(desired, live);
        }
        let change = self.change(desired, live.as_ref(), &next);
        Ok(Some(change).filter(|change| change.old != change.new))
    }

    /// An object that is there and not ours would not be applied.
    fn tell_owner(&self, desired: &Desired, live: &Value) {
        let owner = live["metadata"]["labels"][ENVIRONMENT_LABEL].as_str();
        if owner == Some(self.environment.name.as_str()) || desired.adopt {
            return;
        }
        let owner = owner.map_or("nobody's".to_owned(), |name| format!("that of environment {name}"));
        let key = &desired.key;
        output::progress(&format!("{key} exists and is {owner}: a sync refuses it without {}", annotation::ADOPT));
    }

    fn change(&self, desired: &Desired, live: Option<&Value>, next: &Value) -> Change {
        let text = |object: &Value| output::yaml(&shown(object, &self.key)).unwrap_or_default();
        let what = if live.is_some() { "" } else { " would be created" };
        Change {
            title: format!("{}{what} ({})", desired.key, desired.source),
            old: live.map(text).unwrap_or_default(),
            new: text(next),
        }
    }
}

/// A key for the hashes of one run.
struct Key([u8; 32]);

impl Key {
    fn new() -> Key {
        Key(rand::random())
    }

    /// `***` and enough of a hash to tell whether two values are the same.
    fn stand_in(&self, value: &str) -> String {
        let hash = Sha256::new().chain_update(self.0).chain_update(value).finalize();
        format!("*** ({})", hex::encode(&hash[..4]))
    }
}

/// An object as it is compared and shown: without what the server keeps for itself, and without values of Secrets.
fn shown(object: &Value, key: &Key) -> Value {
    let mut object = object.clone();
    let Some(map) = object.as_object_mut() else { return object };
    map.shift_remove("status");
    redact::secret(map, &|value| key.stand_in(value));
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        for name in ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"] {
            metadata.shift_remove(name);
        }
    }
    object
}

const TITLE: Style = Style::new().bold();
const HUNK: Style = AnsiColor::Cyan.on_default();
const OLD: Style = AnsiColor::Red.on_default();
const NEW: Style = AnsiColor::Green.on_default();

fn write(out: &mut impl Write, change: &Change) -> std::io::Result<()> {
    write_title(out, &change.title)?;
    let diff = TextDiff::from_lines(&change.old, &change.new);
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        write_line(out, &hunk.header().to_string())?;
        for line in hunk.iter_changes() {
            let sign = match line.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            write_line(out, &format!("{sign}{}", line.value().trim_end_matches('\n')))?;
        }
    }
    Ok(())
}

fn write_title(out: &mut impl Write, title: &str) -> std::io::Result<()> {
    writeln!(out, "{TITLE}{title}{TITLE:#}")
}

/// A line of a unified difference, in its colour.
fn write_line(out: &mut impl Write, line: &str) -> std::io::Result<()> {
    let style = match line.as_bytes() {
        [b'@', b'@', ..] => HUNK,
        [b'-', ..] => OLD,
        [b'+', ..] => NEW,
        _ => Style::new(),
    };
    writeln!(out, "{style}{line}{style:#}")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn plain(change: &Change) -> String {
        let mut out = Vec::new();
        write(&mut out, change).unwrap();
        anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string()
    }

    fn secret(password: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "a",
                "resourceVersion": "7",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": format!("{{\"data\":\"{password}\"}}")},
            },
            "data": {"password": password},
            "stringData": {"other": password},
        })
    }

    #[test]
    fn no_value_of_a_secret_is_shown() {
        let key = Key::new();
        let text = output::yaml(&shown(&secret("aHVudGVyMg=="), &key)).unwrap();
        assert!(!text.contains("aHVudGVyMg"), "{text}");
        assert_eq!(text.matches("*** (").count(), 3, "{text}");
        let strange = json!({"apiVersion": "v1", "kind": "Secret", "data": "hunter2"});
        assert!(!shown(&strange, &key).to_string().contains("hunter2"));
    }

    #[test]
    fn a_changed_value_of_a_secret_is_seen_and_an_equal_one_is_not() {
        let key = Key::new();
        assert_ne!(shown(&secret("old"), &key), shown(&secret("new"), &key));
        assert_eq!(shown(&secret("old"), &key), shown(&secret("old"), &key));
        // Another run has another key: hashes cannot be compared with those of guessed values.
        assert_ne!(shown(&secret("old"), &key), shown(&secret("old"), &Key::new()));
    }

    #[test]
    fn what_the_server_keeps_for_itself_is_no_difference() {
        let key = Key::new();
        let one = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}, "status": {"x": 1},
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "generation": 1, "managedFields": []},
        });
        let two = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}, "metadata": {"name": "a"}});
        assert_eq!(shown(&one, &key), two);
    }

    #[test]
    fn a_change_is_shown_as_a_unified_diff() {
        let change = Change {
            title: "ConfigMap web/a (a.yaml:1)".into(),
            old: "data:\n  a: 1\n  b: 2\n".into(),
            new: "data:\n  a: 1\n  b: 3\n".into(),
        };
        expect![[r#"
            ConfigMap web/a (a.yaml:1)
            @@ -1,3 +1,3 @@
             data:
               a: 1
            -  b: 2
            +  b: 3
        "#]]
        .assert_eq(&plain(&change));
    }
}
