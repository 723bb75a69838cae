//! 1000 environments of 4 objects in 100 namespaces, each namespace with an account of its own, all from one repository
//! and all changed by one commit.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use support::audit::Request;
use support::world::{World, apply};
use towpath::resources::Environment;

use crate::gauge::{Figures, cpu_ms, memory_mib, say};
use crate::load::{GROUP, objects};

const NAMESPACES: usize = 100;
const EACH: usize = 10;
pub const ENVIRONMENTS: usize = NAMESPACES * EACH;

/// The time from the commit until the last environment says that it runs it.
pub async fn measure() -> Result<Figures> {
    let mut world = World::new("bench-fleet").await;
    let url = world.repo.url();
    begin(&mut world, &url).await?;
    say("the fleet is in sync");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (mark, cpu) = (world.mark(), cpu_ms(&mut world)?);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let idle_cpu = cpu_ms(&mut world)? - cpu;
    let idle = world.all_requests_since(mark).iter().filter(|request| request.verb != "watch").count();

    let mut took = Vec::new();
    let (mark, cpu) = (world.mark(), cpu_ms(&mut world)?);
    for version in ["2", "3", "4"] {
        let began = Instant::now();
        commit(&world, version);
        let head = world.repo.head("master").to_string();
        all_run(&world, &head).await?;
        took.push(began.elapsed().as_secs_f64());
        say(&format!("{ENVIRONMENTS} environments in {:.1} s", took[took.len() - 1]));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let requests = world.all_requests_since(mark);
    say(&what_was_asked(&requests, 3 * ENVIRONMENTS));
    let changes_cpu = cpu_ms(&mut world)? - cpu;
    let (rss, peak) = memory_mib(world.agent().id())?;
    crate::keep_log(&world, "fleet")?;
    world.kill_agent();
    let raw = raw(&world, "5").await?;
    let seconds = crate::gauge::percentile(&mut took, 0.5);
    Ok(Figures::from([
        ("fleet_1000_s".into(), seconds),
        ("fleet_1000_raw_s".into(), raw),
        ("fleet_1000_ratio".into(), seconds / raw),
        ("fleet_1000_cpu_s".into(), changes_cpu / 3000.0),
        ("fleet_1000_requests".into(), requests.iter().filter(|request| request.verb != "watch").count() as f64 / 3.0),
        ("fleet_1000_rss_mib".into(), rss),
        ("fleet_1000_rss_peak_mib".into(), peak),
        ("fleet_1000_idle_requests".into(), idle as f64),
        ("fleet_1000_idle_cpu_ms".into(), idle_cpu),
    ]))
}

/// Starts the agent with a fleet in its first version, and waits until all of it runs.
pub async fn begin(world: &mut World, url: &str) -> Result<()> {
    commit(world, "1");
    world.start_options().namespace = None;
    crate::quiet_start(world)?;
    repository(world, url, json!({})).await;
    let made: Vec<Result<()>> = futures::stream::iter(cluster_objects(&world.namespace))
        .map(|object| {
            let client = world.admin.clone();
            async move { apply(&client, &object).await }
        })
        .buffered(8)
        .collect()
        .await;
    made.into_iter().collect::<Result<Vec<()>>>()?;
    all_run(world, &world.repo.head("master").to_string()).await
}

/// Makes the fleet's Repository, or makes it so.
pub async fn repository(world: &World, url: &str, more: Value) {
    let mut spec = json!({"url": url, "allowedFrom": ["*"]});
    spec.as_object_mut().expect("it is one").extend(more.as_object().cloned().unwrap_or_default());
    world.repository_with(spec).await;
}

/// How often each request was made for one environment and one change.
fn what_was_asked(requests: &[Request], changes: usize) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for request in requests.iter().filter(|request| request.verb != "watch") {
        let dry = if request.uri.contains("dryRun=All") { " (dry run)" } else { "" };
        *counts.entry(format!("{} {}{dry}", request.verb, request.resource)).or_default() += 1;
    }
    let lines = counts.iter().map(|(what, count)| format!("  {:.2} {what}", *count as f64 / changes as f64));
    lines.collect::<Vec<_>>().join("\n")
}

fn namespace(number: usize) -> String {
    format!("fleet-{}", number / EACH)
}

fn cluster_objects(home: &str) -> Vec<Value> {
    let mut made = Vec::new();
    for number in (0..ENVIRONMENTS).step_by(EACH) {
        let namespace = namespace(number);
        made.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
    }
    for number in (0..ENVIRONMENTS).step_by(EACH) {
        let namespace = namespace(number);
        made.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "towpath-deployer", "namespace": namespace},
        }));
        made.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "towpath-deployer", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "towpath-deployer", "namespace": namespace}],
        }));
    }
    for number in 0..ENVIRONMENTS {
        made.push(json!({
            "apiVersion": "towpath.dev/v1alpha1", "kind": "Environment",
            "metadata": {"name": format!("fleet-{number}"), "namespace": namespace(number)},
            "spec": {"repository": format!("{home}/shop"), "lane": "master", "path": format!("environments/{number}")},
        }));
    }
    made
}

/// Every object of every environment in a new version, in one commit.
pub fn commit(world: &World, version: &str) {
    let files: Vec<(String, String)> = (0..ENVIRONMENTS)
        .map(|number| {
            let text: String = versioned(number, version).iter().map(|object| format!("---\n{object}\n")).collect();
            (format!("environments/{number}/web.yaml"), text)
        })
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", version, &files);
}

fn versioned(number: usize, version: &str) -> Vec<Value> {
    let mut objects = objects(number, &format!("web:{version}"));
    for object in &mut objects {
        object["metadata"]["labels"]["version"] = version.into();
    }
    assert_eq!(objects.len(), GROUP);
    objects
}

/// Waits until all environments run a commit.
pub async fn all_run(world: &World, head: &str) -> Result<()> {
    let api: Api<Environment> = Api::all(world.admin.clone());
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    let mut there = HashSet::new();
    let wait = async {
        while let Some(event) = events.next().await {
            if let Ok(Event::Apply(environment) | Event::InitApply(environment)) = event {
                let status = environment.status.unwrap_or_default();
                if status.running.is_some_and(|running| running.revision.ends_with(head)) {
                    there.insert(environment.metadata.name);
                }
            }
            if there.len() == ENVIRONMENTS {
                return;
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(300), wait).await;
    ended.with_context(|| format!("only {} environments run {head}:\n{}", there.len(), world.agent_log()))
}

/// The floor: the same writes by a loop that knows nothing.
async fn raw(world: &World, version: &str) -> Result<f64> {
    let changes: Vec<(String, Value)> = (0..ENVIRONMENTS)
        .flat_map(|number| versioned(number, version).into_iter().map(move |object| (namespace(number), object)))
        .collect();
    let began = Instant::now();
    crate::first::apply_raw(&world.admin, changes, "towpath").await?;
    Ok(began.elapsed().as_secs_f64())
}
