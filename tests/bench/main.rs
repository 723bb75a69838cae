//! The benchmark: what the agent takes for its work, against a raw loop of PATCH requests in the same run.
//!
//! It prints a table and writes the same figures to `target/bench.json`. It runs on one machine with everything on
//! loopback, so ratios mean more than seconds. Rounds are shuffled by alternation, and medians are taken, because the
//! API server's own garbage collection falls into some rounds and not into others.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::{Value, json};
use support::git_server::GitServer;
use support::world::World;

/// Groups of four objects.
const GROUPS: usize = 250;
/// Rounds of each kind of first apply.
const ROUNDS: usize = 5;
/// Connections of the raw loop.
const RAW_CONCURRENCY: usize = 8;
/// What the API asks for.
const TOKEN: &str = "a-token-for-the-benchmark";
/// Single changes, and drifts.
const CHANGES: usize = 30;

#[tokio::main]
async fn main() -> Result<()> {
    let figures = measure().await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("bench.json"), serde_json::to_string_pretty(&figures)?)?;
    let mut table = String::from("| figure | value |\n| --- | --- |\n");
    for (name, value) in &figures {
        table.push_str(&format!("| {name} | {value:.2} |\n"));
    }
    say(&format!("\n{}\n\n{table}", machine()));
    Ok(())
}

async fn measure() -> Result<BTreeMap<&'static str, f64>> {
    let mut figures = BTreeMap::new();
    let (mut raw, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    for round in 0..rounds {
        raw.push(raw_apply(round).await?);
        without.push(first_apply(&format!("bench-never-{round}"), "Never").await?.0);
        if round + 1 < rounds {
            with.push(first_apply(&format!("bench-always-{round}"), "Always").await?.0);
        }
        say(&format!("round {}: raw {:.2} s, first apply {:.2} s", round + 1, raw[round], without[round]));
    }
    let (seconds, mut world) = first_apply("bench-always-last", "Always").await?;
    with.push(seconds);
    let raw_s = percentile(&mut raw, 0.5);
    figures.insert("raw_apply_s", raw_s);
    figures.insert("first_apply_ratio", percentile(&mut without, 0.5) / raw_s);
    figures.insert("first_apply_with_preflight_ratio", percentile(&mut with, 0.5) / raw_s);

    let environment = "bench-always-last";
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (mark, cpu) = (world.mark(), cpu_ms(&mut world)?);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let requests = world.requests_since(mark);
    figures.insert("idle_requests", requests.iter().filter(|request| request.verb != "watch").count() as f64);
    figures.insert("idle_cpu_ms", cpu_ms(&mut world)? - cpu);
    say("idle measured");

    let mut changes = Vec::new();
    for number in 0..CHANGES {
        let name = format!("web-{}", number % GROUPS);
        let image = format!("web:{}", number + 2);
        let seen =
            tokio::spawn(wait_for_image(world.admin.clone(), world.namespace.clone(), name.clone(), image.clone()));
        tokio::time::sleep(Duration::from_millis(150)).await;
        let began = Instant::now();
        world.repo.commit(
            "master",
            "change",
            &[(&format!("prod/{}.yaml", number % GROUPS), &group(number % GROUPS, &image))],
        );
        changes.push((seen.await?? - began).as_secs_f64() * 1000.0);
    }
    figures.insert("change_file_ms", percentile(&mut changes, 0.5));
    figures.insert("change_file_p95_ms", percentile(&mut changes, 0.95));
    world.runs(environment, "master").await;
    let mut changes = changes_over_http(&mut world, environment).await?;
    figures.insert("change_ms", percentile(&mut changes, 0.5));
    figures.insert("change_p95_ms", percentile(&mut changes, 0.95));
    say("changes measured");

    let api = world.api("apps/v1", "Deployment").await;
    let mut drifts = Vec::new();
    for number in 0..CHANGES {
        let name = format!("web-{}", 100 + number);
        let back = tokio::spawn(wait_for_image_after(world.admin.clone(), world.namespace.clone(), name.clone()));
        tokio::time::sleep(Duration::from_millis(150)).await;
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "drift:1"}]}}}});
        let params = PatchParams { field_manager: Some("hand".into()), ..PatchParams::default() };
        api.patch(&name, &params, &Patch::Strategic(patch)).await?;
        let answered = Instant::now();
        drifts.push((back.await??.saturating_duration_since(answered)).as_secs_f64() * 1000.0);
    }
    figures.insert("drift_p50_ms", percentile(&mut drifts, 0.5));
    figures.insert("drift_p95_ms", percentile(&mut drifts, 0.95));

    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-agent.log"), world.agent_log())?;
    let (rss, peak) = memory_mib(world.agent().id())?;
    figures.insert("rss_mib", rss);
    figures.insert("rss_peak_mib", peak);
    Ok(figures)
}

/// The same over http: from a request at the API to the changed object, the fetch included.
async fn changes_over_http(world: &mut World, environment: &str) -> Result<Vec<f64>> {
    let server = GitServer::start(world.folder());
    let patch = json!({"spec": {"url": server.url("deploy.git")}});
    world.patch("towpath.dev/v1alpha1", "Repository", "shop", patch).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://127.0.0.1:{}/api/v1/environments/{environment}/sync", world.start_options().port);
    let mut changes = Vec::new();
    for number in 0..CHANGES {
        let name = format!("web-{number}");
        let image = format!("web:http-{number}");
        let seen =
            tokio::spawn(wait_for_image(world.admin.clone(), world.namespace.clone(), name.clone(), image.clone()));
        tokio::time::sleep(Duration::from_millis(150)).await;
        world.repo.commit("master", "change", &[(&format!("prod/{number}.yaml"), &group(number, &image))]);
        let began = Instant::now();
        client.post(&url).bearer_auth(TOKEN).send().await?.error_for_status()?;
        changes.push((seen.await?? - began).as_secs_f64() * 1000.0);
        // A request that comes before the last one was answered merges with it.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    world.runs(environment, "master").await;
    Ok(changes)
}

/// Four objects in one file, as JSON documents of a YAML stream.
fn objects(number: usize, image: &str) -> Vec<Value> {
    let name = format!("web-{number}");
    let labels = json!({"app": name});
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"serviceAccountName": name, "containers": [{
                    "name": "web", "image": image,
                    "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                    "env": [{"name": "A", "value": "a"}, {"name": "B", "value": "b"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                }]},
            }},
        }),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "labels": labels}}),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "labels": labels},
            "spec": {"rules": [{"host": format!("{name}.example.com"), "http": {"paths": [{
                "path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": name, "port": {"number": 80}}},
            }]}}]},
        }),
    ]
}

fn group(number: usize, image: &str) -> String {
    objects(number, image).iter().map(|object| format!("---\n{object}\n")).collect()
}

/// The floor: the same objects, applied by a loop that knows nothing.
async fn raw_apply(round: usize) -> Result<f64> {
    let world = World::new(&format!("bench-raw-{round}")).await;
    let mut requests = Vec::new();
    for number in 0..GROUPS {
        for mut object in objects(number, "web:1") {
            object["metadata"]["namespace"] = world.namespace.clone().into();
            let (group, plural) = match object["kind"].as_str().unwrap_or_default() {
                "Deployment" => ("/apis/apps/v1", "deployments"),
                "Ingress" => ("/apis/networking.k8s.io/v1", "ingresses"),
                "Service" => ("/api/v1", "services"),
                _ => ("/api/v1", "serviceaccounts"),
            };
            let uri =
                format!("{group}/namespaces/{}/{plural}/web-{number}?fieldManager=raw&force=true", world.namespace);
            requests.push((uri, object.to_string().into_bytes()));
        }
    }
    let began = Instant::now();
    let client = &world.admin;
    let mut answers = futures::stream::iter(requests)
        .map(|(uri, body)| async move {
            let request = http::Request::patch(uri)
                .header("content-type", "application/apply-patch+yaml")
                .body(body)
                .context("a request")?;
            anyhow::Ok(client.request_text(request).await?)
        })
        .buffer_unordered(RAW_CONCURRENCY);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The agent's first sync of the same objects: from the beginning of the pass to its end, rendering included.
async fn first_apply(name: &str, preflight: &str) -> Result<(f64, World)> {
    let mut world = World::new(name).await;
    let files: Vec<(String, String)> =
        (0..GROUPS).map(|number| (format!("prod/{number}.yaml"), group(number, "web:1"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", "first", &files);
    let token = world.folder().join("token");
    std::fs::write(&token, TOKEN)?;
    world.listen();
    world.start_options().arguments = vec!["--token-file".into(), token.display().to_string()];
    world.start_options().time_scale = 1;
    world.start_agent();
    world.repository().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.environment(name, json!({"lane": "master", "path": "prod", "preflight": preflight})).await;
    let status = world.runs(name, "master").await;
    let sync = status.history.last().context("there was a sync")?;
    Ok((sync.took_ms as f64 / 1000.0, world))
}

/// When a Deployment was first seen with an image.
async fn wait_for_image(client: kube::Client, namespace: String, name: String, image: String) -> Result<Instant> {
    let mut events = watch(client, &namespace, &name);
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event
            && image_of(&object) == image
        {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("the watch ended")
}

/// When a Deployment was changed to a foreign image and back.
async fn wait_for_image_after(client: kube::Client, namespace: String, name: String) -> Result<Instant> {
    let mut events = watch(client, &namespace, &name);
    let mut drifted = false;
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(object)) = event else { continue };
        let is_foreign = image_of(&object) == "drift:1";
        if drifted && !is_foreign {
            return Ok(Instant::now());
        }
        drifted |= is_foreign;
    }
    anyhow::bail!("the watch ended")
}

fn watch(
    client: kube::Client,
    namespace: &str,
    name: &str,
) -> std::pin::Pin<Box<dyn futures::Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send>> {
    let resource = kube::api::ApiResource {
        group: "apps".into(),
        version: "v1".into(),
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        plural: "deployments".into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
    Box::pin(watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}"))))
}

fn image_of(object: &DynamicObject) -> &str {
    object.data.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}

/// CPU time of the agent so far, user and system, in milliseconds.
fn cpu_ms(world: &mut World) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.agent().id()))?;
    let after_name = stat.rsplit_once(')').context("a stat line")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // A tick is a hundredth of a second on every Linux that matters (USER_HZ).
    Ok(ticks * 10.0)
}

/// Resident memory now and at its highest, in MiB.
fn memory_mib(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find(|line| line.starts_with(name)).context("a status line")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {model}; kube-apiserver 1.36.3, etcd, controllers and the agent all on this machine")
}

#[allow(clippy::print_stdout, reason = "this is what the program is for")]
fn say(text: &str) {
    println!("{text}");
}
