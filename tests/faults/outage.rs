//! Servers that are away: they are not stormed, what was pushed meanwhile runs soon after they are back, and then there
//! is quiet.

use std::time::{Duration, Instant};

use serde_json::json;
use support::faults::{Action, On, Proxy};
use support::git_server::GitServer;
use support::world::World;
use towpath_core::status::State;

use super::release::Release;
use crate::manifests::config_map;

/// How soon all is well after a server is back.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// Checks what a server that is away had to bear: at most one request a second on average, and five in any second.
fn was_not_stormed(refused: &[Instant], away: Duration) {
    let average = refused.len() as f64 / away.as_secs_f64();
    let in_second_after = |first: &Instant| {
        refused.iter().filter(|at| **at >= *first && at.duration_since(*first) < Duration::from_secs(1)).count()
    };
    let peak = refused.iter().map(in_second_after).max().unwrap_or(0);
    assert!(average <= 1.0, "{average:.2} requests a second on average, {peak} at most");
    assert!(peak <= 5, "{peak} requests within a second");
    assert!(!refused.is_empty(), "nobody asked whether it is back");
}

async fn api_server_is_away(name: &str, away: Duration, quiet: Duration) {
    let mut release = Release::prepare(name).await;
    // With the waits of production: they are what is judged.
    release.world.start_options().time_scale = 1;
    release.world.start_agent();
    release.settle().await;
    release.comes_to_rest().await;

    release.proxy.go_away();
    release.second_commit();
    tokio::time::sleep(away).await;
    was_not_stormed(&release.proxy.refused(), away);
    release.proxy.heal();
    let back = Instant::now();
    release.settle().await;
    assert!(back.elapsed() < HEALED_WITHIN, "in sync after {:?}", back.elapsed());
    release.comes_to_rest().await;
    release.rests(quiet).await;
    let end = release.end().await;
    assert_eq!(end.members, end.labelled);
    assert!(end.effects.values().all(|(created, deleted)| *created <= 1 && *deleted <= 1), "{:?}", end.effects);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_is_not_stormed_and_all_is_well_when_it_is_back() {
    api_server_is_away("api-away", Duration::from_secs(20), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn an_api_server_that_is_away_for_five_minutes_is_not_stormed() {
    api_server_is_away("api-away-long", Duration::from_secs(300), Duration::from_secs(600)).await;
}
