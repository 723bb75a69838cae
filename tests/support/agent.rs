//! The real agent as a process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{Running, spawn};

/// The agent's binary, built beside the tests.
///
/// # Errors
/// When it is not there.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/<profile>/deps/<test> or target/<profile>/<program>
    let folder = test.parent().context("a program lies in a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = folder.join("towpath");
    anyhow::ensure!(binary.exists(), "{} is not there: run `cargo build -p towpath` first", binary.display());
    Ok(binary)
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
    /// The name of its cluster.
    pub cluster: String,
    /// The namespace that it watches; `None` for all.
    pub namespace: Option<String>,
    /// Where it keeps mirrors.
    pub cache: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
    /// The port of its page and API.
    pub port: u16,
    /// The port of its probes and metrics.
    pub probes: u16,
    /// Divides its waits.
    pub time_scale: u32,
    /// More arguments.
    pub arguments: Vec<String>,
    /// Another program than the agent that was built beside the tests.
    pub program: Option<PathBuf>,
    /// More variables.
    pub variables: Vec<(String, String)>,
}

/// Starts the agent.
///
/// # Errors
/// When it cannot be started.
pub fn start(start: &Start) -> Result<Running> {
    let program = start.program.clone().map_or_else(binary, Ok)?;
    let mut command = Command::new(program);
    command
        .arg("agent")
        .args(["--cluster", &start.cluster])
        .args(start.namespace.iter().flat_map(|namespace| ["--namespace", namespace]))
        .arg("--cache")
        .arg(&start.cache)
        .args(["--listen", &format!("127.0.0.1:{}", start.port)])
        .args(["--probes", &format!("127.0.0.1:{}", start.probes)])
        .args(["--time-scale", &start.time_scale.to_string()])
        .args(&start.arguments)
        .envs(start.variables.iter().cloned())
        .env("KUBECONFIG", &start.kubeconfig)
        // Its name in the audit log.
        .env("POD_NAME", start.namespace.as_deref().unwrap_or("agent"))
        .env(
            "RUST_LOG",
            std::env::var("TOWPATH_TEST_LOG").unwrap_or_else(|_| "info,towpath=debug,kube_client=off".into()),
        )
        .env("HOME", Path::new("/nonexistent"));
    spawn(command, &start.log)
}
