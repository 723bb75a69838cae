//! From the confirmation of a rollback to what ran before in the cluster: what was confirmed is looked at once more, the
//! revert is made, signed and pushed, the branch is looked at, and the environment is synced.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::json;
use support::world::World;

use crate::gauge::{Figures, percentile, say};
use crate::load::wait_for_image;

/// Rollbacks.
const ROUNDS: usize = 20;
const RESOURCE: (&str, &str) = ("towpath.dev/v1alpha1", "Environment");
const NAME: &str = "bench-rollback";

fn web(image: &str) -> String {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    })
    .to_string()
}

/// The repository is on the same disk. Nothing is read of health, so a ticket is taken back and not a release.
pub async fn measure() -> Result<Figures> {
    let mut world = World::new(NAME).await;
    world.own_key("bench").await;
    world.repo.commit("master", "The first", &[("prod/web.yaml", &web("web:good"))]);
    world.repository_with(json!({})).await;
    world.environment(NAME, json!({"lane": "master", "path": "prod"})).await;
    crate::quiet_start(&mut world)?;
    crate::in_sync(&world, NAME).await?;
    let (mut previews, mut took) = (Vec::new(), Vec::new());
    for number in 1..=ROUNDS {
        let bad = world.repo.commit("master", "Bad", &[("prod/web.yaml", &web(&format!("web:bad{number}")))]);
        crate::in_sync(&world, NAME).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ask = |id: String, confirm: Option<&str>| {
            let ask = json!({"id": id, "at": Timestamp::now(), "confirm": confirm, "wish": {"ticket": bad}});
            json!({"metadata": {"annotations": {"towpath.dev/rollback": ask.to_string(), "towpath.dev/rollbackBy": "admin"}}})
        };
        let id = format!("preview-{number}");
        let began = Instant::now();
        world.patch(RESOURCE.0, RESOURCE.1, NAME, ask(id.clone(), None)).await;
        let is_it = |status: &towpath_core::status::EnvironmentStatus| {
            status.prepared.as_ref().is_some_and(|prepared| prepared.id == id)
        };
        let status = world.status_where(NAME, "prepared", is_it).await;
        previews.push(began.elapsed().as_secs_f64() * 1000.0);
        let prepared = status.prepared.context("it is prepared")?;
        let digest = prepared.digest.with_context(|| prepared.lines.join("; "))?;
        let (client, namespace) = (world.admin.clone(), world.namespace.clone());
        let seen = tokio::spawn(wait_for_image(client, namespace, "web".into(), "web:good".into()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = Instant::now();
        world.patch(RESOURCE.0, RESOURCE.1, NAME, ask(format!("confirm-{number}"), Some(&digest))).await;
        took.push((seen.await?? - began).as_secs_f64() * 1000.0);
        crate::in_sync(&world, NAME).await?;
    }
    say("rollbacks measured");
    crate::keep_log(&world, "rollback")?;
    Ok(Figures::from([
        ("rollback_to_live_ms".into(), percentile(&mut took, 0.5)),
        ("rollback_to_live_p95_ms".into(), percentile(&mut took, 0.95)),
        ("rollback_preview_ms".into(), percentile(&mut previews, 0.5)),
    ]))
}
