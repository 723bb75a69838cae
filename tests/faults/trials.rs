//! Releases in which more than one thing goes wrong, or goes wrong for a while. Each is also what a seeded bug is caught
//! by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;
use support::faults::{Action, Answer, Asked, Moment, On};
use towpath::seeded::ALL;

use super::end::End;
use super::release::Release;

/// How long the agent is watched at the end of a trial.
const QUIET: Duration = Duration::from_secs(2);

/// One trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// The agent is killed when it has made an object, and git has dropped the object when the agent is started again.
    DroppedWhileDead,
    /// The agent is killed before it deletes the only member of a kind.
    KilledBeforeDeletion,
    /// A deletion fails until the agent is started again.
    DeletionFails,
    /// Lists fail for a while after a start, while there is something to delete.
    ListsFail,
    /// The inventory cannot be read for a while after a start, while there is something to delete.
    InventoryFails,
    /// Somebody puts another object in the place of one that is about to be deleted.
    ReplacedMeanwhile,
}

const TRIALS: [Trial; 6] = [
    Trial::DroppedWhileDead,
    Trial::KilledBeforeDeletion,
    Trial::DeletionFails,
    Trial::ListsFail,
    Trial::InventoryFails,
    Trial::ReplacedMeanwhile,
];

impl Trial {
    /// Runs a release through it.
    ///
    /// # Panics
    /// When it ends otherwise than a release without faults.
    async fn run(self, release: &mut Release, expected: &End) {
        let log = |release: &Release| release.world.agent_log();
        match self {
            Trial::DroppedWhileDead => {
                release.proxy.inject(On::verb("patch", "serviceaccounts").first(1), Action::Kill(Moment::Applied));
                release.world.start_agent();
                release.is_killed().await;
                release.second_commit();
                release.world.start_agent();
            }
            Trial::KilledBeforeDeletion => {
                release.proxy.inject(On::verb("delete", "serviceaccounts").first(1), Action::Kill(Moment::Before));
                release.run().await;
            }
            Trial::DeletionFails => {
                release.world.start_agent();
                release.settle().await;
                let error = Answer::status(500, "etcdserver: request timed out");
                release.proxy.inject(On::verb("delete", "serviceaccounts"), Action::Answer(error));
                release.second_commit();
                release.has_asked("delete", "serviceaccounts", 4).await;
                tokio::time::sleep(Duration::from_secs(2)).await;
                release.world.kill_agent();
                release.proxy.heal();
                release.world.start_agent();
            }
            Trial::ListsFail => {
                let is_list = |verb: &str| matches!(verb, "list" | "watch" | "get");
                let lists = On::those(move |asked| is_list(asked.verb) && asked.resource == "serviceaccounts");
                release.fails_after_a_restart(lists).await;
            }
            Trial::InventoryFails => {
                let reads = On::those(|asked| asked.verb == "get" && asked.name.starts_with("towpath-inventory-"));
                release.fails_after_a_restart(reads).await;
            }
            Trial::ReplacedMeanwhile => return replaced_meanwhile(release).await,
        }
        release.settle().await;
        release.comes_to_rest().await;
        release.rests(QUIET).await;
        let end = release.end().await;
        if self == Trial::DroppedWhileDead {
            // The first commit never ran as a whole, so its configuration is used by nobody and goes with the rest.
            let is_there = |members: &BTreeSet<String>| {
                members.iter().filter(|member| !member.starts_with("ConfigMap web-")).cloned().collect::<BTreeSet<_>>()
            };
            assert_eq!(is_there(&end.members), is_there(&expected.members), "{}", log(release));
            assert_eq!(end.members, end.labelled, "{}", log(release));
            return;
        }
        end.must_be(expected, &format!("{self:?}"), &log(release));
    }
}

impl Release {
    /// Waits until the agent has sent so many requests of this verb on this resource.
    async fn has_asked(&self, verb: &str, resource: &str, times: usize) {
        let deadline = Instant::now() + support::world::PATIENCE;
        let is_it = |asked: &&Asked| asked.verb == verb && asked.resource == resource;
        while self.proxy.seen().iter().filter(is_it).count() < times {
            assert!(Instant::now() < deadline, "no {verb} of {resource}\n{}", self.world.agent_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The second commit comes while the agent is down, and for a while after its start these requests fail. Until they
    /// do not, nothing may be written: what is known is not all.
    async fn fails_after_a_restart(&mut self, on: On) {
        self.world.start_agent();
        self.settle().await;
        self.comes_to_rest().await;
        self.world.kill_agent();
        self.second_commit();
        let error = Answer::status(500, "etcdserver: request timed out");
        self.proxy.forget();
        self.proxy.inject(on, Action::Answer(error));
        self.world.start_agent();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let of_release = ["configmaps", "deployments", "jobs", "serviceaccounts", "services"];
        let seen = self.proxy.seen();
        let is_of_release = |asked: &&Asked| asked.is_write() && of_release.contains(&asked.resource.as_str());
        let writes: Vec<&Asked> = seen.iter().filter(is_of_release).collect();
        assert!(writes.is_empty(), "{writes:#?}\n{}", self.world.agent_log());
        self.proxy.heal();
    }
}

async fn replaced_meanwhile(release: &mut Release) {
    release.world.start_agent();
    release.settle().await;
    release.proxy.inject(On::verb("delete", "serviceaccounts").first(1), Action::Delay(Duration::from_secs(2)));
    release.second_commit();
    release.has_asked("delete", "serviceaccounts", 1).await;
    let namespace = release.world.namespace.clone();
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "leaves", "namespace": namespace},
    });
    release.world.plane.kubectl(&["delete", "serviceaccount", "leaves", "-n", &namespace]).expect("it is there");
    release.world.apply(account).await;
    release.settle().await;
    release.comes_to_rest().await;
    release.rests(QUIET).await;
    let theirs = release.world.get("v1", "ServiceAccount", "leaves").await;
    assert!(theirs.is_some(), "an object of somebody else was deleted\n{}", release.world.agent_log());
    let end = release.end().await;
    assert_eq!(end.members, end.labelled);
}

/// A release without faults.
async fn reference(name: &str) -> End {
    let mut release = Release::prepare(name).await;
    release.run().await;
    release.comes_to_rest().await;
    release.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_bears_more_than_one_blow() {
    let expected = reference("trial-none").await;
    let run = async |trial: Trial| {
        let name = format!("trial-{}", format!("{trial:?}").to_lowercase());
        trial.run(&mut Release::prepare(&name).await, &expected).await;
    };
    futures::stream::iter(TRIALS).for_each_concurrent(3, run).await;
}

/// Needs an agent that was built with its feature `seeded-bugs`; `TOWPATH_SEEDED_AGENT` says where it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs another build of the agent: make test-faults"]
async fn every_seeded_bug_is_caught() {
    let agent = std::env::var("TOWPATH_SEEDED_AGENT").expect("TOWPATH_SEEDED_AGENT names an agent with seeded bugs");
    let expected = Arc::new(reference("seeded-none").await);
    // And no bug at all: what catches this one catches everything.
    let bugs: Vec<&str> = ALL.into_iter().chain(["none"]).collect();
    let runs = bugs.iter().copied().flat_map(|bug| TRIALS.map(|trial| (bug, trial)));
    let caught = futures::stream::iter(runs)
        .map(|(bug, trial)| {
            let (agent, expected) = (agent.clone(), expected.clone());
            // A task of its own, so that a panic is no end of the test.
            let run = tokio::spawn(async move {
                let name = format!("seeded-{bug}-{}", format!("{trial:?}").to_lowercase());
                let mut release = Release::prepare(&name).await;
                release.world.start_options().program = Some(agent.into());
                release.world.start_options().variables = vec![("TOWPATH_SEEDED_BUG".into(), bug.into())];
                trial.run(&mut release, &expected).await;
            });
            async move { (bug, trial, run.await.is_err()) }
        })
        .buffer_unordered(4)
        .filter_map(async |(bug, trial, is_caught)| is_caught.then_some((bug, trial)))
        .collect::<Vec<_>>()
        .await;
    for (bug, trial) in &caught {
        eprintln!("{bug} is caught by {trial:?}");
    }
    let missed: Vec<&str> =
        bugs.into_iter().filter(|bug| (*bug == "none") == caught.iter().any(|(caught, _)| caught == bug)).collect();
    assert!(missed.is_empty(), "not caught, or none and caught: {missed:?}");
}

#[test]
fn an_agent_as_it_is_built_has_no_seeded_bugs() {
    let agent = std::fs::read(support::agent::binary().unwrap()).unwrap();
    let name = b"TOWPATH_SEEDED_BUG";
    assert!(!agent.windows(name.len()).any(|window| window == name));
}
