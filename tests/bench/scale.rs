//! What an environment costs by its size: a change, a restart, memory.

use std::time::Duration;

use anyhow::Result;
use support::audit::Request;

use crate::gauge::{Figures, cpu_ms, memory_mib, percentile, say, wait_for_log};
use crate::load::GROUP;
use crate::{change, first};

/// Sizes in objects. The last one is what the figures of the largest environment are taken from.
pub const SIZES: [usize; 5] = [100, 300, 1000, 3000, 10_000];

/// Each size with an agent of its own.
pub async fn measure(sizes: &[usize]) -> Result<Figures> {
    let mut figures = Figures::new();
    for &size in sizes {
        let name = format!("bench-scale-{size}");
        let (took, mut world) = first::first_apply(&name, "Never", size / GROUP).await?;
        let peak_of_first = memory_mib(world.agent().id())?.1;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let pass = change::idle_pass(&mut world, &name).await?;
        let mut changes = change::changes_by_file(&mut world, 15).await?;
        let mut drifts = change::drifts(&mut world, 15).await?;
        let (rss, peak) = memory_mib(world.agent().id())?;
        crate::keep_log(&world, &name)?;

        world.kill_agent();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mark = world.mark();
        let before = world.agent_log().matches("stage=\"health\"").count();
        world.start_agent();
        let restart = wait_for_log(&world, &["stage=\"health\""], before + 1).await?;
        let (cpu, (_, peak_of_restart)) = (cpu_ms(&mut world)?, memory_mib(world.agent().id())?);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let requests = world.requests_since(mark);
        let writes: Vec<&Request> = requests.iter().filter(|request| request.is_write()).collect();
        let mut put = |what: &str, value: f64| figures.insert(format!("{size}: {what}"), value);
        put("first_apply_s", took);
        put("pass_cpu_ms", pass);
        put("change_ms", percentile(&mut changes, 0.5));
        put("change_p95_ms", percentile(&mut changes, 0.95));
        put("drift_p50_ms", percentile(&mut drifts, 0.5));
        put("drift_p95_ms", percentile(&mut drifts, 0.95));
        put("rss_mib", rss);
        put("rss_peak_mib", peak.max(peak_of_first).max(peak_of_restart));
        put("restart_s", restart.as_secs_f64());
        put("restart_cpu_ms", cpu);
        put("restart_writes", writes.len() as f64);
        put("restart_requests", requests.iter().filter(|request| request.verb != "watch").count() as f64);
        say(&format!("{size} objects: first apply {took:.1} s, restart {:.2} s, {rss:.0} MiB", restart.as_secs_f64()));
    }
    Ok(figures)
}
