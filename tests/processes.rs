//! Nothing outlives the process that started it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The processes whose parent is `parent`, by `/proc`.
fn children_of(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        if fields.is_some_and(|fields| fields.get(1) == Some(&parent.to_string().as_str())) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn servers_and_agent_end_with_a_process_that_is_killed() {
    let demo = support::agent::binary().unwrap().with_file_name("demo");
    let mut demo = Command::new(demo)
        .arg("--once")
        .env_remove("KUBECONFIG")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // etcd, kube-apiserver, controller-manager, scheduler, kwok, and then the agent.
    let mut children = Vec::new();
    while children.len() < 6 {
        assert!(Instant::now() < deadline, "the demo has only {children:?}");
        assert!(demo.try_wait().unwrap().is_none(), "the demo ended by itself");
        std::thread::sleep(Duration::from_millis(20));
        children = children_of(demo.id());
    }
    demo.kill().unwrap();
    demo.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while children.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()) {
        assert!(Instant::now() < deadline, "{children:?} outlived the demo");
        std::thread::sleep(Duration::from_millis(20));
    }
}
