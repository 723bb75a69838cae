//! The benchmark: what the agent takes for its work, against a raw loop of PATCH requests in the same run.
//!
//! It prints a table, writes the same figures to `target/bench.json`, and draws `docs/cost.svg`. It runs on one machine
//! with everything on loopback, so ratios mean more than seconds. Medians are taken, and the order of rounds is mixed,
//! because the API server's own garbage collection falls into some rounds and not into others.
//!
//! `bench SECTION` measures one section alone, and `bench scale SIZE` one size alone. Without it each section runs in a
//! process of its own, which has a control plane of its own: what one leaves behind does not slow the next. `ROUNDS`
//! says how often a first apply is measured.

mod bump;
mod change;
mod first;
mod fleet;
mod gauge;
mod ledger;
mod load;
mod plot;
mod rollback;
mod scale;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use support::world::World;
use towpath_core::status::EnvironmentStatus;

use crate::gauge::{Figures, machine, say};

/// Groups of four objects.
const GROUPS: usize = 250;
/// What the API asks for.
const TOKEN: &str = "a-token-for-the-benchmark";
/// Rounds of each kind of first apply, unless `ROUNDS` says otherwise.
const ROUNDS: usize = 8;
const SECTIONS: [&str; 7] = ["first", "change", "scale", "fleet", "ledger", "bump", "rollback"];

#[tokio::main]
async fn main() -> Result<()> {
    let folder = target();
    std::fs::create_dir_all(&folder)?;
    if let Some(section) = std::env::args().nth(1) {
        let figures = match section.as_str() {
            "first" => first::measure().await?,
            "change" => change::measure().await?,
            "scale" => scale::measure(&sizes()?).await?,
            "fleet" => fleet::measure().await?,
            "ledger" => ledger::measure().await?,
            "bump" => bump::measure().await?,
            "rollback" => rollback::measure().await?,
            "plot" => return plot::draw(&serde_json::from_slice(&std::fs::read(folder.join("bench.json"))?)?),
            other => anyhow::bail!("there is no section {other}; there are {SECTIONS:?} and plot"),
        };
        std::fs::write(folder.join(format!("bench-{section}.json")), serde_json::to_string_pretty(&figures)?)?;
        say(&table(&figures));
        return Ok(());
    }
    let mut figures = Figures::new();
    for section in SECTIONS {
        say(&format!("-- {section}"));
        let status = Command::new(std::env::current_exe()?).arg(section).status()?;
        anyhow::ensure!(status.success(), "section {section} failed");
        let measured: Figures = serde_json::from_slice(&std::fs::read(folder.join(format!("bench-{section}.json")))?)?;
        figures.extend(measured);
    }
    let largest = scale::SIZES[scale::SIZES.len() - 1];
    for (name, of) in [
        ("restart_10k_s", "restart_s"),
        ("restart_10k_writes", "restart_writes"),
        ("rss_10k_mib", "rss_peak_mib"),
        ("drift_10k_p95_ms", "drift_p95_ms"),
    ] {
        let value = *figures.get(&format!("{largest}: {of}")).context("it was measured")?;
        figures.insert(name.into(), value);
    }
    std::fs::write(folder.join("bench.json"), serde_json::to_string_pretty(&figures)?)?;
    plot::draw(&figures)?;
    say(&format!("\n{}\n\n{}", machine(), table(&figures)));
    Ok(())
}

/// The sizes that are measured: all, or the one that is named.
fn sizes() -> Result<Vec<usize>> {
    match std::env::args().nth(2) {
        Some(size) => Ok(vec![size.parse().context("a number of objects")?]),
        None => Ok(scale::SIZES.to_vec()),
    }
}

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

fn table(figures: &Figures) -> String {
    let rows = figures.iter().map(|(name, value)| format!("| {name} | {value:.2} |\n"));
    format!("| figure | value |\n| --- | --- |\n{}", rows.collect::<String>())
}

/// Starts the agent with the waits of production and an API that can be asked.
fn quiet_start(world: &mut World) -> Result<()> {
    let token = world.folder().join("token");
    std::fs::write(&token, TOKEN)?;
    world.listen();
    world.start_options().arguments.extend(["--token-file".into(), token.display().to_string()]);
    world.start_options().time_scale = 1;
    world.start_agent();
    Ok(())
}

/// Waits until an environment runs the head of master. How its objects fare does not matter here.
async fn in_sync(world: &World, environment: &str) -> Result<EnvironmentStatus> {
    let head = world.repo.head("master").to_string();
    for _ in 0..3000 {
        let status = world.status(environment).await;
        if status.running.as_ref().is_some_and(|running| running.revision.ends_with(&head)) {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{environment} never ran {head}:\n{}", world.agent_log())
}

/// Keeps the agent's log, which says how long each stage of each pass took.
fn keep_log(world: &World, section: &str) -> Result<()> {
    Ok(std::fs::write(target().join(format!("bench-{section}.log")), world.agent_log())?)
}
