//! The fence before every write: it goes out only while this replica surely leads.
//!
//! A leader may begin a write until the renew deadline after its last renewal, and every write of its own has ended, or
//! is given up, before another replica may lead. What cannot be called back is a request whose bytes the system already
//! has: it arrives as if it had been sent before the pause, deletions fail by their UID where it came too late, and what
//! a late apply changed is drift for the new leader, who mends it.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use towpath_core::lease::Terms;

/// The time on a clock that only runs forward, also while the process is stopped and the machine sleeps.
#[cfg(target_os = "linux")]
pub fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time on a clock that only runs forward, also while the process is stopped.
#[cfg(not(target_os = "linux"))]
pub fn uptime() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Whether writes may go out. Clones are one fence.
#[derive(Clone, Debug, Default)]
pub struct Fence(Option<Arc<Term>>);

/// One term of leading. Once it is over it stays over.
#[derive(Debug)]
struct Term {
    terms: Terms,
    /// The time in milliseconds at which the last renewal was sent that succeeded; 0 when the term is over.
    renewed_ms: AtomicU64,
}

/// The write was not sent, or was given up, because this replica does not lead any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced;

impl fmt::Display for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this replica does not lead any more, so it writes nothing")
    }
}

impl std::error::Error for Fenced {}

impl Fence {
    /// No fence: there is no election.
    pub fn none() -> Fence {
        Fence(None)
    }

    /// A term that began with a request sent at this [`uptime`].
    pub fn of_term(terms: Terms, sent: Duration) -> Fence {
        Fence(Some(Arc::new(Term { terms, renewed_ms: AtomicU64::new(millis(sent).max(1)) })))
    }

    /// The lease was renewed, by a request sent at this [`uptime`]. A term that was over before stays over.
    pub fn renewed(&self, sent: Duration) {
        let Some(term) = &self.0 else { return };
        let now = uptime();
        let _ = term.renewed_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |before| {
            let is_over = before == 0 || Duration::from_millis(before) + term.terms.renew_deadline <= now;
            Some(if is_over { 0 } else { millis(sent).max(before) })
        });
    }

    /// Ends the term: nothing is written any more.
    pub fn close(&self) {
        if let Some(term) = &self.0 {
            term.renewed_ms.store(0, Ordering::SeqCst);
        }
    }

    /// Whether a write may begin.
    pub fn admits(&self, now: Duration) -> bool {
        self.within(now, |terms| terms.renew_deadline)
    }

    fn within(&self, now: Duration, limit: impl Fn(&Terms) -> Duration) -> bool {
        let Some(term) = &self.0 else { return true };
        let renewed = term.renewed_ms.load(Ordering::SeqCst);
        renewed > 0 && now < Duration::from_millis(renewed) + limit(&term.terms)
    }

    /// Does a write, and gives it up when its time is over. The clock is read each time before it goes on: whoever was
    /// stopped in the middle sends nothing more.
    pub(super) async fn guard<T>(&self, write: impl Future<Output = T>) -> Result<T, Fenced> {
        let Some(term) = &self.0 else { return Ok(write.await) };
        if !self.admits(uptime()) {
            return Err(Fenced);
        }
        let mut write = pin!(write);
        // A renewal moves the end; so the time is looked at every now and then, not only once.
        let mut look = tokio::time::interval(term.terms.retry_period / 4);
        std::future::poll_fn(|context| {
            while look.poll_tick(context).is_ready() {}
            if !self.within(uptime(), Terms::last_write_ends) {
                return Poll::Ready(Err(Fenced));
            }
            write.as_mut().poll(context).map(Ok)
        })
        .await
    }
}

/// Whether an error of a client comes from the fence.
pub(super) fn is_fenced(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Fenced>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms::default().divided(100)
    }

    #[test]
    fn a_write_begins_only_before_the_renew_deadline() {
        let now = Duration::from_secs(1000);
        let fence = Fence::of_term(Terms::default(), now);
        for (seconds, may_begin) in [(0, true), (9, true), (10, false), (70, false)] {
            assert_eq!(fence.admits(now + Duration::from_secs(seconds)), may_begin, "{seconds}");
        }
        assert!(Fence::none().admits(now));
    }

    #[test]
    fn a_term_that_is_over_stays_over() {
        let fence = Fence::of_term(terms(), uptime());
        assert!(fence.admits(uptime()));
        std::thread::sleep(terms().renew_deadline);
        fence.renewed(uptime());
        assert!(!fence.admits(uptime()), "the renewal came too late");

        let fence = Fence::of_term(terms(), uptime());
        fence.close();
        fence.renewed(uptime());
        assert!(!fence.admits(uptime()));
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_sent() {
        let sent = uptime();
        let fence = Fence::of_term(Terms::default(), sent);
        fence.renewed(sent + Duration::from_secs(2));
        assert!(fence.admits(sent + Duration::from_secs(11)));
        fence.renewed(sent + Duration::from_secs(1));
        assert!(fence.admits(sent + Duration::from_secs(11)), "an older one takes nothing away");
        assert!(!fence.admits(sent + Duration::from_secs(12)));
    }

    #[tokio::test]
    async fn a_write_that_hangs_is_given_up_before_another_may_lead() {
        let sent = uptime();
        let fence = Fence::of_term(terms(), sent);
        assert_eq!(fence.guard(std::future::pending::<()>()).await, Err(Fenced));
        let took = uptime() - sent;
        assert!(took >= terms().last_write_ends() - Duration::from_millis(1), "{took:?}");
        assert_eq!(fence.guard(async { 1 }).await, Err(Fenced), "and none is begun");
    }

    #[tokio::test]
    async fn a_write_may_take_long_while_the_lease_is_renewed() {
        // Long enough for a machine that has other things to do.
        let terms = Terms::default().divided(8);
        let fence = Fence::of_term(terms, uptime());
        let renewals = async {
            loop {
                fence.renewed(uptime());
                tokio::time::sleep(terms.retry_period).await;
            }
        };
        let write = fence.guard(tokio::time::sleep(terms.lease_duration * 3 / 2));
        tokio::select! {
            done = write => assert_eq!(done, Ok(())),
            () = renewals => unreachable!("it goes on for ever"),
        }
    }

    #[tokio::test]
    async fn who_was_stopped_in_the_middle_of_a_write_sends_nothing_more() {
        let fence = Fence::of_term(terms(), uptime());
        let mut sent = 0;
        let write = async {
            sent += 1;
            // The whole process stands still, as by SIGSTOP; the connection is ready when it goes on.
            std::thread::sleep(terms().lease_duration);
            tokio::task::yield_now().await;
            sent += 1;
        };
        assert_eq!(fence.guard(write).await, Err(Fenced));
        assert_eq!(sent, 1);
    }

    #[test]
    fn the_fence_is_found_below_other_errors() {
        let inner = kube::Error::Service(Box::new(Fenced));
        assert!(is_fenced(&kube::Error::Service(Box::new(inner))));
        assert!(!is_fenced(&kube::Error::LinesCodecMaxLineLengthExceeded));
    }
}
