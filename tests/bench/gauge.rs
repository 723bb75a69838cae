//! Reading the agent process from outside, and figures.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use support::world::World;

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

/// CPU time of the agent so far, user and system, in milliseconds.
pub fn cpu_ms(world: &mut World) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.agent().id()))?;
    let after_name = stat.rsplit_once(')').context("a stat line")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // A tick is a hundredth of a second on every Linux that matters (USER_HZ).
    Ok(ticks * 10.0)
}

/// Resident memory now and at its highest, in MiB.
pub fn memory_mib(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find(|line| line.starts_with(name)).context("a status line")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {model}; kube-apiserver 1.36.3, etcd, controllers and the agent all on this machine")
}

#[allow(clippy::print_stdout, reason = "this is what the program is for")]
pub fn say(text: &str) {
    println!("{text}");
}

/// Waits until the agent's log has so many lines that hold all of these texts, and gives how long it took.
pub async fn wait_for_log(world: &World, texts: &[&str], count: usize) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let log = world.agent_log();
        if log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).count() >= count {
            return Ok(began.elapsed());
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(300), "the agent never said {texts:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
