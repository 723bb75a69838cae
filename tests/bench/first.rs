//! The first apply of 1000 objects, with and without a dry run first, against a raw loop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use serde_json::{Value, json};
use support::world::World;

use crate::gauge::{Figures, percentile, say};
use crate::load::{GROUP, commit_groups, objects};
use crate::{GROUPS, rounds};

/// Connections of the raw loop.
const RAW_CONCURRENCY: usize = 8;

/// Rounds in an order that is never the same: the API server's own garbage collection falls into every second run of
/// this size, and a fixed order lines up with it.
pub async fn measure() -> Result<Figures> {
    let (mut raw, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds() {
        let order: [usize; 3] = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1], [2, 1, 0], [1, 0, 2]][round * 7 % 6];
        for kind in order {
            match kind {
                0 => raw.push(raw_apply(round).await?),
                1 => without.push(first_apply(&format!("bench-never-{round}"), "Never", GROUPS).await?.0),
                _ => with.push(first_apply(&format!("bench-always-{round}"), "Always", GROUPS).await?.0),
            }
        }
        let (raw, without, with) = (raw[round], without[round], with[round]);
        say(&format!("round {}: raw {raw:.2} s, without preflight {without:.2} s, with {with:.2} s", round + 1));
    }
    let raw_s = percentile(&mut raw, 0.5);
    Ok(Figures::from([
        ("raw_apply_s".into(), raw_s),
        ("first_apply_ratio".into(), percentile(&mut without, 0.5) / raw_s),
        ("preflight_apply_ratio".into(), percentile(&mut with, 0.5) / raw_s),
    ]))
}

/// The floor: the same objects, applied by a loop that knows nothing.
async fn raw_apply(round: usize) -> Result<f64> {
    let world = World::new(&format!("bench-raw-{round}")).await;
    let objects = (0..GROUPS).flat_map(|number| objects(number, "web:1"));
    let objects: Vec<_> = objects.map(|object| (world.namespace.clone(), object)).collect();
    let began = Instant::now();
    apply_raw(&world.admin, objects, "raw").await?;
    Ok(began.elapsed().as_secs_f64())
}

/// Applies objects of the benchmark's four kinds, each in its namespace, as fast as a plain client can.
pub async fn apply_raw(client: &kube::Client, objects: Vec<(String, Value)>, manager: &str) -> Result<()> {
    let requests = objects.into_iter().map(|(namespace, mut object)| {
        object["metadata"]["namespace"] = namespace.clone().into();
        let (group, plural) = match object["kind"].as_str().unwrap_or_default() {
            "Deployment" => ("/apis/apps/v1", "deployments"),
            "Ingress" => ("/apis/networking.k8s.io/v1", "ingresses"),
            "Service" => ("/api/v1", "services"),
            _ => ("/api/v1", "serviceaccounts"),
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let uri = format!("{group}/namespaces/{namespace}/{plural}/{name}?fieldManager={manager}&force=true");
        (uri, object.to_string().into_bytes())
    });
    let requests: Vec<(String, Vec<u8>)> = requests.collect();
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
    Ok(())
}

/// The agent's first sync of the same objects: from the beginning of the pass to its end, rendering included.
pub async fn first_apply(name: &str, preflight: &str, groups: usize) -> Result<(f64, World)> {
    let mut world = World::new(name).await;
    commit_groups(&world, groups);
    world.listen();
    crate::quiet_start(&mut world)?;
    world.repository().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let spec = json!({"lane": "master", "path": "prod", "preflight": preflight, "timeout": "1h"});
    world.environment(name, spec).await;
    let status = crate::in_sync(&world, name).await?;
    let sync = status.history.last().context("there was a sync")?;
    anyhow::ensure!(sync.created as usize == groups * GROUP, "{sync:?}");
    Ok((sync.took_ms as f64 / 1000.0, world))
}
