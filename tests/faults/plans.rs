//! Crash plans: at each write of a release the agent is killed before it, after it was applied and before its answer,
//! and after its answer; or only the connection breaks. The end, what was created and deleted, and the quiet after it
//! are those of a run without faults.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use support::faults::{Action, Answer, Asked, Moment, On};
use tokio::sync::Semaphore;

use super::end::End;
use super::release::{Point, Release};

/// Releases that are worked on at one time.
pub(super) const ACTIVE: usize = 4;
/// Releases that are there at one time, those included that are only watched.
const RESTING: usize = 40;

/// What happens at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    Kill(Moment),
    /// The connection is reset, and the server hears nothing of the write.
    Cut,
    /// The connection is reset after the write was done.
    LostAnswer,
    /// The write was done, and the answer is an error of the server.
    ErrorAfter,
}

pub(super) const BLOWS: [Blow; 6] = [
    Blow::Kill(Moment::Before),
    Blow::Kill(Moment::Applied),
    Blow::Kill(Moment::Answered),
    Blow::Cut,
    Blow::LostAnswer,
    Blow::ErrorAfter,
];

impl Blow {
    pub(super) fn action(self) -> Action {
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
    let mut release = Release::staged(name).await;
    release.run().await;
    release.comes_to_rest().await;
    release.rests(quiet).await;
    release.is_recorded().await;
    (release.end().await, release.points())
}

/// One plan.
#[derive(Clone)]
struct Plan {
    point: Point,
    blow: Blow,
    /// A second kill, of the agent that was started again: when, and at which of its writes, from 1.
    again: Option<(Moment, u32)>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {}", self.blow, self.point)?;
        match self.again {
            Some((moment, number)) => write!(f, ", then Kill({moment:?}) at write {number} of the recovery"),
            None => Ok(()),
        }
    }
}

/// Runs a release with one blow, and says what differs. Also gives whether the write came that it was meant for.
async fn run(name: String, plan: Plan, expected: Arc<End>, active: Arc<Semaphore>, quiet: Duration) -> bool {
    let permit = active.acquire_owned().await.expect("the semaphore is never closed");
    let mut release = Release::staged(&name).await;
    release.proxy.inject(release.on(&plan.point), plan.blow.action());
    if let Some((moment, number)) = plan.again {
        let is_work = |asked: &Asked| asked.is_write() && !["leases", "events"].contains(&asked.resource.as_str());
        release.at_restart.push_back((On::those(is_work).nth(number), Action::Kill(moment)));
    }
    release.run().await;
    release.comes_to_rest().await;
    drop(permit);
    release.rests(quiet).await;
    release.is_recorded().await;
    let end = release.end().await;
    let came = release.points().contains(&plan.point);
    let what = format!("{name}: {plan:?}");
    end.must_be(&expected, &what, &release.world.agent_log());
    if matches!(plan.blow, Blow::Kill(_)) {
        let kills = release.proxy.kills();
        // Close to the end a recovery may need one write only.
        let must_come_again = plan.again.is_some_and(|(_, number)| number == 1);
        let (least, most) = (1 + u32::from(must_come_again), 1 + u32::from(plan.again.is_some()));
        assert!(if came { (least..=most).contains(&kills) } else { kills == 0 }, "{what}: {kills} kills");
    }
    came
}

/// Runs plans beside each other, and fails with everything that any of them found. All tests share one cluster, so each
/// has a name of its own for its releases.
async fn run_all(test: &str, plans: Vec<Plan>, expected: End, quiet: Duration) {
    let (expected, active) = (Arc::new(expected), Arc::new(Semaphore::new(ACTIVE)));
    let run = |name, plan| run(name, plan, expected.clone(), active.clone(), quiet);
    beside_each_other(test, plans, RESTING, run, |plan| is_by_chance(&plan.point)).await;
}

/// Runs plans beside each other, each under a name of its own and so many at one time, and fails with all that failed.
/// `run` says whether the write came that a plan is meant for; `is_by_chance` whether it need not come.
pub(super) async fn beside_each_other<Plan, Run>(
    test: &str,
    plans: Vec<Plan>,
    at_once: usize,
    run: impl Fn(String, Plan) -> Run,
    is_by_chance: impl Fn(&Plan) -> bool,
) where
    Plan: Clone + std::fmt::Debug,
    Run: Future<Output = bool> + Send + 'static,
{
    let runs = plans.iter().enumerate().map(|(number, plan)| {
        let run = run(format!("{test}-plan-{number}"), plan.clone());
        // A task of its own, so that a panic ends this plan only.
        async move { (plan, tokio::spawn(run).await) }
    });
    let results = futures::stream::iter(runs).buffer_unordered(at_once).collect::<Vec<_>>().await;
    let failed: Vec<String> =
        results.iter().filter(|(_, result)| result.is_err()).map(|(plan, _)| format!("{plan:?}")).collect();
    assert!(failed.is_empty(), "{} of {} plans failed (see above): {failed:#?}", failed.len(), plans.len());
    let missed: Vec<&Plan> =
        results.iter().filter(|(_, came)| matches!(came, Ok(false))).map(|(plan, _)| *plan).collect();
    assert!(missed.iter().all(|plan| is_by_chance(plan)), "writes that did not come: {missed:#?}");
    assert!(missed.len() * 10 <= plans.len(), "too many writes did not come: {missed:#?}");
}

/// Whether a write may come or not: how often a status is written depends on how fast pods start. One that did not come
/// was not tested.
pub(super) fn is_by_chance(point: &Point) -> bool {
    point.resource.contains("status") || point.resource == "events"
}

/// The writes that two runs without faults have in common, in the order of the first.
async fn learn(test: &str, quiet: Duration) -> (End, Vec<Point>) {
    let (one, two) = (format!("{test}-one"), format!("{test}-two"));
    let ((first, points), (second, others)) = futures::join!(reference(&one, quiet), reference(&two, quiet));
    first.must_be(&second, "two runs without faults", "");
    assert_eq!(first.members, first.labelled, "what carries the label is in the inventory, and nothing else");
    let points = points.into_iter().filter(|point| others.contains(point)).collect();
    (first, points)
}

/// The plan for a write, as [`Point`] says it.
fn plan(points: &[Point], text: &str, blow: Blow, again: Option<(Moment, u32)>) -> Plan {
    let text = text.replace("INVENTORY", "towpath-inventory-the-namespace");
    let point = points.iter().find(|point| point.to_string() == text);
    let point = point.unwrap_or_else(|| panic!("a release has no {text}: {points:#?}")).clone();
    Plan { point, blow, again }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_hit_at_a_write_comes_to_the_same_end() {
    use Moment::{Answered, Applied, Before};
    let sample = [
        ("create configmaps/ #1", Blow::Kill(Answered), None),
        ("create configmaps/ #1", Blow::ErrorAfter, None),
        ("patch configmaps/INVENTORY #2", Blow::Kill(Before), None),
        ("patch jobs/prepare-a-run #1", Blow::Kill(Applied), None),
        ("patch environments/status/the-namespace #1", Blow::Kill(Before), None),
        ("patch configmaps/late #1", Blow::Kill(Applied), None),
        ("delete jobs/prepare-a-run #1", Blow::Kill(Applied), None),
        ("patch deployments/web #2", Blow::Kill(Answered), None),
        ("delete configmaps/leaves #1", Blow::Kill(Applied), None),
        ("patch configmaps/INVENTORY #9", Blow::Kill(Before), None),
        ("delete serviceaccounts/leaves #1", Blow::LostAnswer, None),
        // And the agent that was started again is killed as well.
        ("patch jobs/prepare-a-run #2", Blow::Kill(Before), Some((Applied, 1))),
        ("patch configmaps/late #2", Blow::Kill(Answered), Some((Before, 1))),
        ("delete serviceaccounts/leaves #1", Blow::Kill(Applied), Some((Answered, 1))),
    ];
    let (expected, points) = learn("sample", Duration::from_secs(1)).await;
    let plans = sample.map(|(text, blow, again)| plan(&points, text, blow, again));
    run_all("sample", plans.into(), expected, Duration::from_secs(3)).await;
}

/// Those of the plans whose text has that of `TOWPATH_PLANS` in it.
pub(super) fn asked_for<Plan: std::fmt::Debug>(mut plans: Vec<Plan>) -> Vec<Plan> {
    if let Ok(only) = std::env::var("TOWPATH_PLANS") {
        plans.retain(|plan| format!("{plan:?}").contains(&only));
    }
    plans
}

/// Every write and every blow; an hour on a slow machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn every_write_of_a_release_may_be_hit() {
    let quiet = Duration::from_secs(60);
    let (expected, points) = learn("every", quiet).await;
    let plans = points.iter().flat_map(|point| BLOWS.map(|blow| Plan { point: point.clone(), blow, again: None }));
    run_all("every", asked_for(plans.collect()), expected, quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn an_agent_may_be_killed_again_while_it_recovers() {
    // Where the inventory is written, a hook begins or goes, a wave begins, something is pruned.
    const RISKY: [&str; 12] = [
        "create configmaps/ #1",
        "patch jobs/prepare-a-run #1",
        "patch configmaps/INVENTORY #3",
        "patch configmaps/late #1",
        "patch configmaps/INVENTORY #5",
        "delete jobs/prepare-a-run #1",
        "patch jobs/prepare-a-run #2",
        "patch configmaps/late #2",
        "patch configmaps/last #2",
        "delete serviceaccounts/leaves #1",
        "delete configmaps/leaves #1",
        "patch configmaps/INVENTORY #9",
    ];
    let (expected, points) = learn("again", Duration::from_secs(1)).await;
    let moments = [Moment::Before, Moment::Applied, Moment::Answered];
    let plans = RISKY.iter().flat_map(|text| {
        let again = [(Moment::Applied, 1), (Moment::Before, 2)];
        let both = moments.iter().flat_map(move |first| again.map(|again| (*first, again)));
        both.map(|(first, again)| plan(&points, text, Blow::Kill(first), Some(again))).collect::<Vec<_>>()
    });
    run_all("again", asked_for(plans.collect()), expected, Duration::from_secs(10)).await;
}
