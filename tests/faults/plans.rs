//! Crash plans: at each write of a release the agent is killed before it, after it was applied and before its answer,
//! and after its answer; or only the connection breaks. The end, what was created and deleted, and the quiet after it
//! are those of a run without faults.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use support::faults::{Action, Answer, Moment};
use tokio::sync::Semaphore;

use super::release::{End, Point, Release};

/// Releases that are worked on at one time.
const ACTIVE: usize = 4;
/// Releases that are there at one time, those included that are only watched.
const RESTING: usize = 40;

/// What happens at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill(Moment),
    /// The connection is reset, and the server hears nothing of the write.
    Cut,
    /// The connection is reset after the write was done.
    LostAnswer,
    /// The write was done, and the answer is an error of the server.
    ErrorAfter,
}

const BLOWS: [Blow; 6] = [
    Blow::Kill(Moment::Before),
    Blow::Kill(Moment::Applied),
    Blow::Kill(Moment::Answered),
    Blow::Cut,
    Blow::LostAnswer,
    Blow::ErrorAfter,
];

impl Blow {
    fn action(self) -> Action {
        match self {
            Blow::Kill(moment) => Action::Kill(moment),
            Blow::Cut => Action::CutBefore,
            Blow::LostAnswer => Action::LoseAnswer,
            Blow::ErrorAfter => Action::AnswerAfter(Answer::status(500, "etcdserver: leader changed")),
        }
    }
}

/// A release without faults: its end, and its writes.
async fn reference(name: &str, quiet: Duration) -> (End, Vec<Point>) {
    let mut release = Release::prepare(name).await;
    release.run().await;
    release.comes_to_rest().await;
    release.rests(quiet).await;
    (release.end().await, release.points())
}

/// One plan.
#[derive(Clone, Debug)]
struct Plan {
    point: Point,
    blow: Blow,
}

/// Runs a release with one blow, and says what differs. Also gives whether the write came that it was meant for.
async fn run(name: String, plan: Plan, expected: Arc<End>, active: Arc<Semaphore>, quiet: Duration) -> bool {
    let permit = active.acquire_owned().await.expect("the semaphore is never closed");
    let mut release = Release::prepare(&name).await;
    release.proxy.inject(release.on(&plan.point), plan.blow.action());
    release.run().await;
    release.comes_to_rest().await;
    drop(permit);
    release.rests(quiet).await;
    let end = release.end().await;
    let came = release.points().contains(&plan.point);
    let what = format!("{name}: {:?} at {}", plan.blow, plan.point);
    end.must_be(&expected, &what, &release.world.agent_log());
    if matches!(plan.blow, Blow::Kill(_)) {
        assert_eq!(release.proxy.kills(), u32::from(came), "{what}");
    }
    came
}

/// Runs plans beside each other, and fails with everything that any of them found.
async fn run_all(plans: Vec<Plan>, expected: End, quiet: Duration) {
    let (expected, active) = (Arc::new(expected), Arc::new(Semaphore::new(ACTIVE)));
    let runs = plans.iter().enumerate().map(|(number, plan)| {
        let run = run(format!("plan-{number}"), plan.clone(), expected.clone(), active.clone(), quiet);
        // A task of its own, so that a panic ends this plan only.
        async move { (plan, tokio::spawn(run).await) }
    });
    let results = futures::stream::iter(runs).buffer_unordered(RESTING).collect::<Vec<_>>().await;
    let failed: Vec<String> = results
        .iter()
        .filter(|(_, result)| result.is_err())
        .map(|(plan, _)| format!("{:?} at {}", plan.blow, plan.point))
        .collect();
    assert!(failed.is_empty(), "{} of {} plans failed (see above): {failed:#?}", failed.len(), plans.len());
    // How often a status is written depends on how fast pods start; a write that did not come was not tested.
    let missed: Vec<&Plan> =
        results.iter().filter(|(_, came)| matches!(came, Ok(false))).map(|(plan, _)| *plan).collect();
    let is_by_chance = |plan: &&Plan| plan.point.resource.contains("status") || plan.point.resource == "events";
    assert!(missed.iter().all(is_by_chance), "writes that did not come: {missed:#?}");
    assert!(missed.len() * 10 <= plans.len(), "too many writes did not come: {missed:#?}");
}

/// The writes that two runs without faults have in common, in the order of the first.
async fn learn(quiet: Duration) -> (End, Vec<Point>) {
    let ((first, points), (second, others)) =
        futures::join!(reference("release-one", quiet), reference("release-two", quiet));
    first.must_be(&second, "two runs without faults", "");
    assert_eq!(first.members, first.labelled, "what carries the label is in the inventory, and nothing else");
    let points = points.into_iter().filter(|point| others.contains(point)).collect();
    (first, points)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_hit_at_a_write_comes_to_the_same_end() {
    const INVENTORY: &str = "patch configmaps/towpath-inventory-the-namespace";
    let sample = [
        (format!("{INVENTORY} #1"), Blow::Kill(Moment::Answered)),
        (format!("{INVENTORY} #2"), Blow::Kill(Moment::Before)),
        ("patch deployments/web #1".to_owned(), Blow::Kill(Moment::Applied)),
        ("patch environments/status/the-namespace #1".to_owned(), Blow::Kill(Moment::Before)),
        ("patch deployments/web #2".to_owned(), Blow::Kill(Moment::Answered)),
        ("delete configmaps/leaves #1".to_owned(), Blow::Kill(Moment::Applied)),
        (format!("{INVENTORY} #4"), Blow::Kill(Moment::Before)),
        ("patch jobs/migrate #1".to_owned(), Blow::ErrorAfter),
        ("delete serviceaccounts/leaves #1".to_owned(), Blow::LostAnswer),
    ];
    let (expected, points) = learn(Duration::from_secs(1)).await;
    let plans = sample.map(|(text, blow)| {
        let point = points.iter().find(|point| point.to_string() == text);
        let point = point.unwrap_or_else(|| panic!("a release has no {text}: {points:#?}")).clone();
        Plan { point, blow }
    });
    run_all(plans.into(), expected, Duration::from_secs(3)).await;
}

/// Every write and every blow; an hour on a slow machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn every_write_of_a_release_may_be_hit() {
    let quiet = Duration::from_secs(60);
    let (expected, points) = learn(quiet).await;
    let plans = points.iter().flat_map(|point| BLOWS.map(|blow| Plan { point: point.clone(), blow }));
    let mut plans: Vec<Plan> = plans.collect();
    if let Ok(only) = std::env::var("TOWPATH_PLANS") {
        plans.retain(|plan| format!("{:?} at {}", plan.blow, plan.point).contains(&only));
    }
    run_all(plans, expected, quiet).await;
}
