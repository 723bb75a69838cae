//! One environment of 1000 objects: nothing to do, one changed object, drift, memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use support::git_server::GitServer;
use support::world::World;

use crate::gauge::{Figures, cpu_ms, memory_mib, percentile, say};
use crate::load::{group, wait_for_image, wait_for_image_after};
use crate::{GROUPS, TOKEN, first};

/// Single changes, and drifts.
const CHANGES: usize = 30;

/// All of it, on one agent.
pub async fn measure() -> Result<Figures> {
    let mut figures = Figures::new();
    let environment = "bench-change";
    let (_, mut world) = first::first_apply(environment, "Always", GROUPS).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (mark, cpu) = (world.mark(), cpu_ms(&mut world)?);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let requests = world.requests_since(mark);
    figures.insert("idle_requests".into(), requests.iter().filter(|request| request.verb != "watch").count() as f64);
    figures.insert("idle_cpu_ms".into(), cpu_ms(&mut world)? - cpu);
    figures.insert("pass_cpu_ms".into(), idle_pass(&mut world, environment).await?);
    say("idle measured");

    let mut changes = changes_by_file(&mut world, CHANGES).await?;
    figures.insert("change_file_ms".into(), percentile(&mut changes, 0.5));
    figures.insert("change_file_p95_ms".into(), percentile(&mut changes, 0.95));
    crate::in_sync(&world, environment).await?;
    let mut changes = changes_over_http(&mut world, environment).await?;
    figures.insert("change_ms".into(), percentile(&mut changes, 0.5));
    figures.insert("change_p95_ms".into(), percentile(&mut changes, 0.95));
    say("changes measured");

    let mut drifts = drifts(&mut world, CHANGES).await?;
    figures.insert("drift_p50_ms".into(), percentile(&mut drifts, 0.5));
    figures.insert("drift_p95_ms".into(), percentile(&mut drifts, 0.95));
    let (rss, peak) = memory_mib(world.agent().id())?;
    figures.insert("rss_mib".into(), rss);
    figures.insert("rss_peak_mib".into(), peak);
    crate::keep_log(&world, "change")?;
    Ok(figures)
}

/// CPU time of a pass that finds nothing to do, in milliseconds, the mean of 40.
pub async fn idle_pass(world: &mut World, environment: &str) -> Result<f64> {
    const PASSES: usize = 40;
    let before = cpu_ms(world)?;
    for number in 0..PASSES {
        let patch = json!({"metadata": {"annotations": {"example.org/look": number.to_string()}}});
        world.patch("towpath.dev/v1alpha1", "Environment", environment, patch).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    Ok((cpu_ms(world)? - before) / PASSES as f64)
}

/// From a commit in a repository on the same disk to the changed object, in milliseconds.
pub async fn changes_by_file(world: &mut World, count: usize) -> Result<Vec<f64>> {
    let mut changes = Vec::new();
    for number in 0..count {
        let (name, image) = (format!("web-{number}"), format!("web:file-{number}"));
        let seen =
            tokio::spawn(wait_for_image(world.admin.clone(), world.namespace.clone(), name.clone(), image.clone()));
        tokio::time::sleep(Duration::from_millis(150)).await;
        let began = Instant::now();
        world.repo.commit("master", "change", &[(&format!("prod/{number}.yaml"), &group(number, &image))]);
        changes.push((seen.await?? - began).as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(changes)
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
        let (name, image) = (format!("web-{number}"), format!("web:http-{number}"));
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
    crate::in_sync(world, environment).await?;
    Ok(changes)
}

/// From the answer to somebody's change of an image to the event that shows it mended, in milliseconds.
pub async fn drifts(world: &mut World, count: usize) -> Result<Vec<f64>> {
    let api = world.api("apps/v1", "Deployment").await;
    let mut drifts = Vec::new();
    for number in 0..count {
        let name = format!("web-{number}");
        let back = tokio::spawn(wait_for_image_after(world.admin.clone(), world.namespace.clone(), name.clone()));
        tokio::time::sleep(Duration::from_millis(150)).await;
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "drift:1"}]}}}});
        let params = PatchParams { field_manager: Some("hand".into()), ..PatchParams::default() };
        api.patch(&name, &params, &Patch::Strategic(patch)).await?;
        let answered = Instant::now();
        drifts.push((back.await??.saturating_duration_since(answered)).as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(drifts)
}
