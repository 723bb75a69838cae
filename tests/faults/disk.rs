//! A cache that is full, read-only, damaged or gone: never a wrong tree, nothing deleted, and it heals by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::world::World;
use towpath_core::status::EnvironmentStatus;

use crate::manifests::config_map;

/// Bytes of the small disk.
const DISK: usize = 3 << 20;

/// A world whose environment, named like it, is to run ConfigMaps of some size. No agent runs.
async fn world(name: &str) -> World {
    let world = World::new(name).await;
    for number in 0..4 {
        world.repo.commit(
            "master",
            "first",
            &[(&format!("prod/{number}.yaml"), &config_map(&format!("c{number}"), &noise(number)))],
        );
    }
    world.repository().await;
    world.environment(name, json!({"lane": "master", "path": "prod"})).await;
    world
}

/// 40 KB that cannot be compressed to much less.
fn noise(seed: usize) -> String {
    let number =
        |index: usize| (index as u64 ^ ((seed as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    (0..2500).map(|index| format!("{:016x}", number(index).wrapping_mul(0xd134_2543_de82_ef95))).collect()
}

/// Everything in the cluster is as git has it.
async fn is_right(world: &World) {
    world.runs(&world.namespace, "master").await;
    for number in 0..4 {
        let object: Value =
            serde_json::from_str(&world.repo.text("master", &format!("prod/{number}.yaml")).unwrap()).unwrap();
        let what = |found: &Value| found["data"] == object["data"];
        world.object_where("v1", "ConfigMap", &format!("c{number}"), "as git has it", what).await;
    }
}

fn packs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(packs(&entry.path()));
        } else if entry.path().extension().is_some_and(|extension| extension == "pack") {
            found.push(entry.path());
        }
    }
    found
}

/// Turns one bit of every pack around, at a place between 0 and 1.
fn flip(cache: &Path, place: f64) {
    let packs = packs(cache);
    assert!(!packs.is_empty(), "there is a pack in {}", cache.display());
    for path in packs {
        let mut bytes = fs::read(&path).unwrap();
        let at = 12 + ((bytes.len() - 33) as f64 * place) as usize;
        bytes[at] ^= 0x10;
        // A pack is read-only, and may be mapped by the agent: the file is replaced.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_never_gives_a_wrong_tree() {
    let mut world = world("bit-flip").await;
    let cache = world.folder().join("cache");
    world.start_agent();
    is_right(&world).await;
    let mark = world.mark();
    // While the agent runs; the next commit needs what was damaged.
    flip(&cache, 0.5);
    world.repo.commit("master", "second", &[("prod/0.yaml", &config_map("c0", &noise(10)))]);
    is_right(&world).await;
    // While it is down, wherever the bit is: all of the tree is read again.
    for (number, place) in [0.02, 0.3, 0.6, 0.95].into_iter().enumerate() {
        world.kill_agent();
        flip(&cache, place);
        world.patch("v1", "ConfigMap", &format!("c{number}"), json!({"data": {"key": "by hand"}})).await;
        world.start_agent();
        is_right(&world).await;
    }
    let requests = world.requests_since(mark);
    assert!(!requests.iter().any(|request| request.verb == "delete"), "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_with_git_away_changes_nothing_until_git_is_back() {
    let mut world = world("bit-flip-alone").await;
    world.start_agent();
    is_right(&world).await;
    world.kill_agent();
    let away = world.repo.path().with_extension("away");
    fs::rename(world.repo.path(), &away).unwrap();
    flip(&world.folder().join("cache"), 0.4);
    let mark = world.mark();
    world.start_agent();
    let is_said = |status: &EnvironmentStatus| !status.problems.is_empty();
    world.status_where("bit-flip-alone", "told of it", is_said).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let requests = world.requests_since(mark);
    let writes: Vec<_> =
        requests.iter().filter(|request| request.is_write() && request.impersonated.is_some()).collect();
    assert!(writes.is_empty(), "{writes:#?}");
    fs::rename(&away, world.repo.path()).unwrap();
    is_right(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_deleted_while_the_agent_runs_is_made_anew() {
    let mut world = world("no-cache").await;
    world.start_agent();
    is_right(&world).await;
    let mark = world.mark();
    fs::remove_dir_all(world.folder().join("cache")).unwrap();
    world.repo.commit("master", "second", &[("prod/1.yaml", &config_map("c1", &noise(20)))]);
    is_right(&world).await;
    let requests = world.requests_since(mark);
    assert!(!requests.iter().any(|request| request.verb == "delete"), "{requests:#?}");
}

/// A program that runs the agent with a small disk of its own as its cache.
fn agent_on_a_small_disk(world: &World) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let script = world.folder().join("agent-on-a-small-disk");
    let cache = world.folder().join("cache");
    let agent = support::agent::binary().unwrap();
    let text = format!(
        "#!/bin/sh\nmkdir -p '{cache}'\nexec unshare --user --map-root-user --mount sh -c \
         'mount -t tmpfs -o size={DISK} tmpfs {cache} && exec \"$0\" \"$@\"' '{agent}' \"$@\"\n",
        cache = cache.display(),
        agent = agent.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Whether this machine lets us mount something in a namespace of our own.
fn can_mount() -> bool {
    let mut mount = Command::new("unshare");
    mount.args(["--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]);
    mount.output().is_ok_and(|output| output.status.success())
}

/// Runs a program where the agent's cache is.
fn beside(agent: u32, program: &[&str]) {
    let mut command = Command::new("nsenter");
    command.args(["--target", &agent.to_string(), "--user", "--mount", "--preserve-credentials", "--"]).args(program);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_disk_is_told_and_heals() {
    if !can_mount() {
        eprintln!("skipped: this machine lets nobody mount a file system of their own");
        return;
    }
    let mut world = world("full").await;
    let program = agent_on_a_small_disk(&world);
    world.start_options().program = Some(program);
    world.start_agent();
    is_right(&world).await;
    let agent = world.agent().id();
    // The agent sees its cache, others do not.
    let cache = PathBuf::from(format!("/proc/{agent}/root{}", world.folder().join("cache").display()));
    let mark = world.mark();
    let is_said = |what: &'static str| {
        move |status: &EnvironmentStatus| status.problems.iter().any(|problem| problem.to_lowercase().contains(what))
    };

    // An error is the end of the space.
    let _ = fs::write(cache.join("full"), vec![1; 2 * DISK]);
    world.repo.commit("master", "second", &[("prod/0.yaml", &config_map("c0", &noise(30)))]);
    world.status_where("full", "told of the space", is_said("no space left")).await;
    world.patch("v1", "ConfigMap", "c1", json!({"data": {"key": "by hand"}})).await;
    world.object_where("v1", "ConfigMap", "c1", "mended", |found| found["data"]["key"] == noise(1)).await;
    fs::remove_file(cache.join("full")).unwrap();
    is_right(&world).await;

    let folder = world.folder().join("cache").display().to_string();
    // A second mount in the same place: the first one cannot become read-only while the agent has a file open in it.
    beside(agent, &["mount", "--bind", &folder, &folder]);
    beside(agent, &["mount", "-o", "remount,bind,ro", &folder]);
    world.repo.commit("master", "third", &[("prod/0.yaml", &config_map("c0", &noise(31)))]);
    world.status_where("full", "told of the disk", is_said("read-only")).await;
    beside(agent, &["umount", &folder]);
    is_right(&world).await;

    let requests = world.requests_since(mark);
    assert!(!requests.iter().any(|request| request.verb == "delete"), "{requests:#?}");
    assert!(world.agent().ended().is_none());
    let size = |folder: &Path| packs(folder).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    assert!(size(&cache) < DISK as u64 / 2, "nothing half-written is left: {}", size(&cache));
}
