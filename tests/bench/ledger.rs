//! What keeping a ledger costs: the same fleet, changed by one commit, with and without records.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use support::git_server::{GitServer, Purpose};
use support::world::World;

use crate::fleet::{ENVIRONMENTS, all_run, begin, commit, repository};
use crate::gauge::{Figures, cpu_ms, memory_mib, percentile, say};

/// Whether each change is made with a ledger. What slows the server with time slows both alike, for neither comes first.
const TURNS: [bool; 8] = [false, true, true, false, true, false, false, true];
/// The agent is at rest when it has used no more than this of a core,
const RESTING: f64 = 0.02;
/// for this long.
const REST: Duration = Duration::from_secs(4);
/// For the last record to be at the server.
const PATIENCE: Duration = Duration::from_secs(120);

/// The time from a commit until all environments say that they run it; with a ledger also until all of it is recorded.
pub async fn measure() -> Result<Figures> {
    let mut world = World::new("bench-ledger").await;
    world.own_key("bench").await;
    // The deploy repository is watched on disk, so that no time is lost until somebody asks; pushes are counted.
    let server = GitServer::start(world.folder());
    let (url, pushed_to) = (world.repo.url(), server.url("deploy.git"));
    begin(&mut world, &url).await?;
    let mut took = [Vec::new(), Vec::new()];
    let mut cpu = [0.0, 0.0];
    let (mut pushes, mut until_recorded) = (0, Vec::new());
    let changes = TURNS.len() as f64 / 2.0;
    for (number, is_kept) in TURNS.into_iter().enumerate() {
        repository(&world, &url, if is_kept { json!({"ledger": {"url": pushed_to}}) } else { json!({}) }).await;
        // What the turn before left to do, and the change of the setting, are no part of this turn.
        rest(&mut world).await?;
        drop(server.take_requests());
        let records = recorded(&world)?;
        let cpu_before = cpu_ms(&mut world)?;
        let began = Instant::now();
        commit(&world, &format!("{}", number + 2));
        all_run(&world, &world.repo.head("master").to_string()).await?;
        let seconds = began.elapsed().as_secs_f64();
        took[usize::from(is_kept)].push(seconds);
        while is_kept && recorded(&world)? < records + ENVIRONMENTS {
            anyhow::ensure!(began.elapsed() < PATIENCE, "there are only {} records", recorded(&world)?);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if is_kept {
            until_recorded.push(began.elapsed().as_secs_f64() - seconds);
            pushes += server.take_requests().iter().filter(|request| request.purpose == Purpose::Push).count();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        cpu[usize::from(is_kept)] += (cpu_ms(&mut world)? - cpu_before) / changes;
        let with = if is_kept { "with" } else { "without" };
        say(&format!("{ENVIRONMENTS} environments in {seconds:.1} s {with} a ledger"));
    }
    let (rss, peak) = memory_mib(world.agent().id())?;
    crate::keep_log(&world, "ledger")?;
    let [mut without, mut with] = took;
    let (without, with) = (percentile(&mut without, 0.5), percentile(&mut with, 0.5));
    Ok(Figures::from([
        ("ledger_cost_ms".into(), (with - without) * 1000.0),
        ("ledger_1000_s".into(), with),
        ("ledger_1000_without_s".into(), without),
        ("ledger_1000_pushes".into(), pushes as f64 / changes),
        ("ledger_1000_until_recorded_s".into(), percentile(&mut until_recorded, 0.5)),
        ("ledger_1000_cpu_s".into(), (cpu[1] - cpu[0]) / 1000.0),
        ("ledger_1000_rss_mib".into(), rss),
        ("ledger_1000_rss_peak_mib".into(), peak),
    ]))
}

/// Waits until the agent has nothing left to do.
async fn rest(world: &mut World) -> Result<()> {
    let began = Instant::now();
    tokio::time::sleep(REST).await;
    loop {
        let before = cpu_ms(world)?;
        tokio::time::sleep(REST).await;
        if cpu_ms(world)? - before < RESTING * REST.as_millis() as f64 {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "the agent does not come to rest");
    }
}

/// Records of syncs at the server.
fn recorded(world: &World) -> Result<usize> {
    let output = Command::new("git")
        .arg("--git-dir")
        .arg(world.repo.path())
        .args(["log", "--format=%(trailers:key=Outcome,valueonly)", "--glob=refs/towpath/*"])
        .output()
        .context("git log")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.is_empty()).count())
}
