//! Crash plans over a rollback: at each write to the API server and each push to git the agent is killed, or only the
//! connection breaks. Whatever happens, master has one revert of the ticket, the ledger one record of the sync that it
//! was for, and an environment that was behind its lane never runs what it had not run before.

mod scene;

use std::sync::Arc;
use std::time::Duration;

use support::faults::{Moment, On};
use support::git_server::Fault;
use tokio::sync::Semaphore;

use self::scene::{Place, Scene, Who, is_push};
use super::plans::{ACTIVE, BLOWS, Blow, asked_for, beside_each_other, is_by_chance};
use super::release::Point;

/// What goes wrong.
#[derive(Clone)]
enum Plan {
    /// A blow at a request.
    At(Place, Blow),
    /// The git server misbehaves at the push of the reverts. The agent is killed as soon as that has come, or is not.
    Server(Fault, bool),
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plan::At(Place::Cluster(point), blow) => write!(f, "{blow:?} at {point}"),
            Plan::At(Place::Push(number), blow) => write!(f, "{blow:?} at push #{number}"),
            Plan::Server(fault, true) => write!(f, "{fault:?}, and a kill"),
            Plan::Server(fault, false) => write!(f, "{fault:?}"),
        }
    }
}

impl Plan {
    /// Whether what it is meant for may come or not.
    fn is_by_chance(&self) -> bool {
        match self {
            Plan::At(Place::Cluster(point), _) => is_by_chance(point),
            // How often the ledger is pushed depends on how its records come together.
            Plan::At(Place::Push(number), _) => *number > 1,
            Plan::Server(..) => false,
        }
    }

    fn inject(&self, scene: &Scene) {
        match self {
            Plan::At(Place::Cluster(point), blow) => {
                scene.cluster.inject(point.on(&scene.shop.world.namespace), blow.action());
            }
            Plan::At(Place::Push(number), blow) => scene.git.inject(On::those(is_push).nth(*number), blow.action()),
            Plan::Server(fault, _) => scene.server.misbehave(Some(fault.clone())),
        }
    }
}

/// A rollback without faults: what happens in it.
async fn learn(name: &str, who: Who) -> Vec<Place> {
    let mut scene = Scene::new(name, who).await;
    scene.begin(|_| ()).await;
    scene.ends().await;
    let places = scene.places();
    scene.must_be_right("without faults").await;
    places
}

/// Rolls back while something goes wrong. Also gives whether the request came that it was meant for.
async fn run(name: String, who: Who, plan: Plan, active: Arc<Semaphore>) -> bool {
    let _permit = active.acquire_owned().await.expect("the semaphore is never closed");
    let mut scene = Scene::new(&name, who).await;
    scene.begin(|scene| plan.inject(scene)).await;
    if let Plan::Server(_, is_killed) = plan {
        scene.is_pushed_to(is_killed).await;
    }
    scene.ends().await;
    let came = match &plan {
        Plan::At(place, _) => scene.places().contains(place),
        Plan::Server(..) => true,
    };
    let what = format!("{name}: {plan:?}");
    scene.must_be_right(&what).await;
    if matches!(plan, Plan::At(_, Blow::Kill(_))) {
        assert_eq!(scene.kills(), u32::from(came), "{what}");
    }
    came
}

async fn run_all(test: &str, who: Who, plans: Vec<Plan>) {
    let active = Arc::new(Semaphore::new(ACTIVE));
    let run = |name, plan| run(name, who, plan, active.clone());
    beside_each_other(test, plans, ACTIVE, run, Plan::is_by_chance).await;
}

/// What a git server may do to the push of the reverts: it takes a part of it, loses its answer, or hands it to git when
/// the agent has given it up, or is another one.
fn of_server() -> Vec<Plan> {
    let late = |millis| Fault::LatePush(Duration::from_millis(millis));
    let faults = [Fault::BreakPush(100), Fault::BreakPush(400), Fault::CutReport(0), Fault::CutReport(10)];
    let faults = faults.into_iter().chain([late(50), late(300), late(1500)]);
    faults.flat_map(|fault| [false, true].map(|is_killed| Plan::Server(fault.clone(), is_killed))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_is_hit_is_done_once() {
    use Moment::{Answered, Applied, Before};
    let point = |verb, resource: &str, name: &str, number| {
        Place::Cluster(Point { verb, resource: resource.to_owned(), name: name.to_owned(), number })
    };
    let status = |number| point("patch", "environments/status", "the-namespace-prod", number);
    let plans = [
        // What is about to be done is written down; then it is pushed, and the environment moves.
        Plan::At(status(1), Blow::Kill(Before)),
        Plan::At(status(1), Blow::Kill(Applied)),
        Plan::At(Place::Push(1), Blow::Kill(Before)),
        Plan::At(Place::Push(1), Blow::Kill(Applied)),
        Plan::At(Place::Push(1), Blow::LostAnswer),
        Plan::At(status(2), Blow::Kill(Answered)),
        Plan::At(point("patch", "deployments", "web", 1), Blow::Kill(Applied)),
        Plan::Server(Fault::LatePush(Duration::from_millis(300)), true),
    ];
    run_all("rollback-sample", Who::Person, plans.into()).await;
}

/// Every write and every push of a rollback, and every blow.
async fn every_request(test: &str, who: Who) {
    // How often a status is written depends on how busy the machine is: what all of some runs beside each other have.
    let names = ["one", "two", "three"].map(|name| format!("{test}-{name}"));
    let runs = futures::future::join_all(names.iter().map(|name| learn(name, who))).await;
    let places = runs[0].iter().filter(|place| runs.iter().all(|run| run.contains(place)));
    let plans = places.flat_map(|place| BLOWS.map(|blow| Plan::At(place.clone(), blow)));
    run_all(test, who, asked_for(plans.chain(of_server()).collect())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn every_request_of_a_rollback_may_be_hit() {
    every_request("rollback", Who::Person).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-faults"]
async fn every_request_of_a_rollback_that_nobody_asked_for_may_be_hit() {
    every_request("by-nobody", Who::Nobody).await;
}
