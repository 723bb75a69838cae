//! Replicas of the agent: one of them leads and works, the others stand by.
//!
//! A term of leading is a life of its own: connections, watches, tasks and everything remembered begin with it and end
//! with it. Who lost the lease stands by again and may win another term; it does not end, for an API server that is away
//! for a while would else leave nothing but agents that wait for their next start.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;
use towpath_core::lease::Standing;

use super::{Board, Shared};
use crate::cluster::{Fence, Lease, Pod};

/// One of the replicas: this one.
pub struct Replica {
    /// The election.
    pub lease: Lease,
    /// The pod that it runs in, if it runs in one.
    pub pod: Option<Pod>,
    /// Where it stands, for the page, the probes and the metrics.
    pub standing: watch::Sender<Standing>,
    /// The custom resources, for the page: empty while this replica stands by.
    pub board: Arc<Board>,
}

/// What begins a term: everything that tasks share, writing behind this fence.
pub type Start = dyn Fn(Fence) -> Result<Arc<Shared>, Problem> + Send + Sync;

/// Stands by and leads in turn, until `stop`. The lease is then given back, after the last task has ended.
///
/// # Errors
/// As [`super::run`], and those of `start`.
pub async fn lead(mut replica: Replica, start: &Start, stop: CancellationToken) -> Result<(), Problem> {
    let labels = replica.pod.clone().map(|pod| {
        let standing = replica.standing.subscribe();
        tokio::spawn(async move { pod.follow(standing).await })
    });
    let result = terms(&mut replica, start, &stop).await;
    replica.lease.release().await;
    if let (Some(labels), Some(pod)) = (labels, &replica.pod) {
        labels.abort();
        pod.step_down().await;
    }
    result
}

/// One term after the other.
async fn terms(replica: &mut Replica, start: &Start, stop: &CancellationToken) -> Result<(), Problem> {
    let standing = &replica.standing;
    loop {
        let stand_by = |leader: Option<&str>| {
            let now = Standing::StandingBy { leader: leader.map(str::to_owned) };
            standing.send_if_modified(|before| {
                let is_new = *before != now;
                if is_new {
                    tracing::info!(leader = leader.unwrap_or("unknown"), "this replica stands by");
                    *before = now;
                }
                is_new
            });
        };
        let fence = tokio::select! {
            fence = replica.lease.win(stand_by) => fence,
            () = stop.cancelled() => return Ok(()),
        };
        tracing::info!("this replica leads");
        let shared = start(fence.clone())?;
        standing.send_replace(Standing::Leading);
        let result = term(&mut replica.lease, shared, &fence, stop).await;
        standing.send_replace(Standing::StandingBy { leader: Some(String::new()) });
        replica.board.clear();
        if stop.is_cancelled() || result.is_err() {
            return result;
        }
    }
}

/// One term, from the first task to the end of the last. The lease is renewed until then.
async fn term(lease: &mut Lease, shared: Arc<Shared>, fence: &Fence, stop: &CancellationToken) -> Result<(), Problem> {
    let over = CancellationToken::new();
    let mut work = std::pin::pin!(super::run(shared, over.clone()));
    tokio::select! {
        // It ends by itself only where it cannot work at all.
        result = &mut work => {
            fence.close();
            return result;
        }
        () = lease.hold(fence) => tracing::warn!("the lease is lost: this replica writes nothing more and stands by"),
        () = stop.cancelled() => {}
    }
    // Nothing new goes out from here on, whatever the tasks are at.
    fence.close();
    over.cancel();
    if !stop.is_cancelled() {
        return work.await;
    }
    // While the tasks end the lease stays ours: another replica begins after them.
    tokio::select! {
        result = &mut work => result,
        () = lease.hold(fence) => work.await,
    }
}
