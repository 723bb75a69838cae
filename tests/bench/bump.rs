//! From a commit in a component to the new image in the cluster: the look at the component, the signed commit on the
//! deploy branch, its push, and the sync.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use support::deploy_repo::DeployRepo;
use support::world::World;

use crate::gauge::{Figures, percentile, say};
use crate::load::wait_for_image;

/// Commits in the component.
const COMMITS: usize = 20;
const TEMPLATE: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "{{components.web.image}}"}]}
"#;

/// Both repositories are on the same disk, and moves are not gathered.
pub async fn measure() -> Result<Figures> {
    let mut world = World::new("bench-bump").await;
    world.own_key("bench").await;
    let web = DeployRepo::new(world.folder().join("web.git"));
    let first = web.commit("master", "The first", &[("main", "0")]);
    web.branch("next", "master");
    let files = [
        ("towpath.yaml", "components: {web: {path: components/web, image: web, tag: \"{{short}}\"}}\n"),
        ("templates/web.yaml.hbs", TEMPLATE),
        ("environments/all/values.yaml", "{}\n"),
    ];
    world.repo.commit("master", "The shop", &files);
    world.repo.submodule("master", "components/web", "../web.git", first);
    let bumps = json!([{"lane": "master", "bump": "Commit", "window": "0s"}]);
    world.repository_with(json!({"steward": true, "bumps": bumps})).await;
    world.environment("bench-bump", json!({"lane": "master", "path": "environments/all"})).await;
    crate::quiet_start(&mut world)?;
    crate::in_sync(&world, "bench-bump").await?;
    let mut took = Vec::new();
    for number in 1..=COMMITS {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The commit is made beside the branch, so that its id is known before the clock runs.
        let commit = web.commit("next", "Next", &[("main", &number.to_string())]);
        let image = format!("web:{}", commit.short());
        let seen = tokio::spawn(wait_for_image(world.admin.clone(), world.namespace.clone(), "web".into(), image));
        tokio::time::sleep(Duration::from_millis(150)).await;
        let began = Instant::now();
        web.force("master", commit);
        took.push((seen.await?? - began).as_secs_f64() * 1000.0);
    }
    say("bumps measured");
    crate::keep_log(&world, "bump")?;
    Ok(Figures::from([
        ("bump_to_live_ms".into(), percentile(&mut took, 0.5)),
        ("bump_to_live_p95_ms".into(), percentile(&mut took, 0.95)),
    ]))
}
