//! The brake on all requests of the agent: it slows down together when the API server throttles or is away.
//!
//! One request that is told to come back later says something to all others. So the pause that a 429 asks for is taken
//! by all requests of its sort (reads or writes, for an API server counts them apart), and afterwards they go out one by
//! one, with ever longer pauses while they are still refused and ever shorter ones when they are not. A server that does
//! not answer at all brakes both sorts: one request asks for all whether it is back, and its answer lets all go. While all
//! is well nothing waits.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The longest pause that a server may ask for.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause between two requests after the first refusal.
const FIRST_SPACING: Duration = Duration::from_secs(1);
/// The longest pause between two requests to a server that throttles.
const LONGEST_SPACING: Duration = Duration::from_secs(10);
/// The longest pause between two requests to a server that does not answer: how soon it is noticed that it is back.
const AWAY_SPACING: Duration = Duration::from_secs(5);
/// Below this pause the brake is let go.
const LEAST_SPACING: Duration = Duration::from_millis(20);
/// How long requests wait for their turn. Where the trouble lasts longer, one that would have to wait is not sent: a sync
/// of a thousand objects would else wait for each of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// By how much the pauses become shorter with each request that succeeds.
const QUICKENING: u32 = 4;
/// Answers in a row that may be about one kind only (502, 503), until all slow down.
const DOUBTFUL: u32 = 3;

/// The sort of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// It changes nothing.
    Read,
    /// It changes something, or asks for a dry run: the API server counts these apart.
    Write,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With an answer.
    Answered {
        /// Its status code.
        code: u16,
        /// The pause that it asked for, as [`retry_after`] reads it.
        pause: Option<Duration>,
    },
    /// Without one.
    Unanswered,
}

/// The pace of one sort of requests, or of all.
#[derive(Clone, Debug, Default)]
struct Pace {
    /// The pause between two requests; zero when the brake is off.
    spacing: Duration,
    /// When the next request may go.
    next: Option<Instant>,
    /// No request before this: the server said so.
    not_before: Option<Instant>,
    /// Doubtful answers in a row.
    doubtful: u32,
    /// When it was last slowed down.
    slowed: Option<Instant>,
    /// When it was first slowed down since a request succeeded.
    since: Option<Instant>,
}

impl Pace {
    fn free_at(&self) -> Option<Instant> {
        self.next.max(self.not_before)
    }

    fn slow_down(&mut self, now: Instant, begun: Instant, (first, longest): (Duration, Duration)) {
        // What was sent before the pace was slowed says nothing new.
        if self.slowed.is_none_or(|slowed| begun > slowed) {
            self.spacing = (self.spacing * 2).clamp(first, longest);
            self.next = Some(now + self.spacing);
            self.slowed = Some(now);
            self.since.get_or_insert(now);
        }
    }

    /// Gives whether the brake was on and is off now.
    fn quicken(&mut self, now: Instant) -> bool {
        self.doubtful = 0;
        self.since = None;
        if self.spacing.is_zero() {
            return false;
        }
        self.spacing /= QUICKENING;
        if self.spacing < LEAST_SPACING {
            *self = Pace { not_before: self.not_before.filter(|until| *until > now), ..Pace::default() };
            return true;
        }
        self.next = self.next.map(|next| next.min(now + self.spacing));
        false
    }
}

#[derive(Default)]
struct State {
    /// Whether the server answers at all.
    all: Pace,
    reads: Pace,
    writes: Pace,
}

impl State {
    fn of(&mut self, sort: Sort) -> &mut Pace {
        match sort {
            Sort::Read => &mut self.reads,
            Sort::Write => &mut self.writes,
        }
    }
}

/// The brake of one pool of connections.
pub(super) struct Brake {
    state: Mutex<State>,
    changed: Notify,
    recoveries: watch::Sender<u64>,
    /// Divides its own pauses, for tests; not what a server asks for.
    scale: u32,
}

impl Brake {
    pub(super) fn new(scale: u32) -> Brake {
        let (state, changed, recoveries) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
        Brake { state, changed, recoveries, scale: scale.max(1) }
    }

    /// Waits until a request of this sort may go out.
    pub(super) async fn turn(&self, sort: Sort) {
        loop {
            let changed = self.changed.notified();
            let Some(until) = self.take_turn(sort, Instant::now()) else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = changed => {}
            }
        }
    }

    /// Takes the turn if there is one now, and says else when to ask again.
    fn take_turn(&self, sort: Sort, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let free_at = state.all.free_at().max(state.of(sort).free_at());
        if let Some(free_at) = free_at.filter(|free_at| *free_at > now) {
            return Some(free_at);
        }
        let State { all, reads, writes } = &mut *state;
        for pace in [all, if sort == Sort::Read { reads } else { writes }] {
            if !pace.spacing.is_zero() {
                pace.next = Some(now + pace.spacing);
            }
        }
        None
    }

    /// A request that began at this time has ended.
    pub(super) fn ended(&self, sort: Sort, begun: Instant, ended: Ended) {
        let now = Instant::now();
        let mut state = self.lock();
        let scale = self.scale;
        let limits = (FIRST_SPACING / scale, LONGEST_SPACING / scale);
        let is_free_again = match ended {
            // It may be the connection's fault alone: the next one tries at once, and only its failure says more.
            Ended::Unanswered if state.all.spacing.is_zero() => {
                state.all =
                    Pace { spacing: limits.0, next: Some(now), slowed: Some(now), since: Some(now), ..Pace::default() };
                false
            }
            Ended::Unanswered => {
                let was_doubt = state.all.spacing <= limits.0;
                state.all.slow_down(now, begun, (limits.0, AWAY_SPACING / scale));
                if was_doubt && state.all.spacing > limits.0 {
                    tracing::warn!("the API server does not answer; one request asks for all every few seconds");
                }
                false
            }
            Ended::Answered { code, pause } => {
                // One broken connection was no outage, and nobody needs to be told of its end.
                let is_back = state.all.spacing > limits.0;
                state.all = Pace::default();
                let pace = state.of(sort);
                match code {
                    429 => {
                        if pace.spacing.is_zero() {
                            tracing::warn!(?sort, "the API server throttles this agent; it slows down");
                        }
                        let pause = pause.unwrap_or_default().min(LONGEST_PAUSE / scale);
                        pace.not_before = pace.not_before.max(Some(now + pause));
                        pace.slow_down(now, begun, limits);
                        false
                    }
                    502 | 503 => {
                        pace.doubtful += 1;
                        if pace.doubtful >= DOUBTFUL {
                            pace.slow_down(now, begun, limits);
                        }
                        is_back
                    }
                    _ => pace.quicken(now) || is_back,
                }
            }
        };
        drop(state);
        self.changed.notify_waiters();
        if is_free_again {
            tracing::info!("the API server is well again");
            self.recoveries.send_modify(|count| *count += 1);
        }
    }

    /// When a request of this sort may go out at the earliest; `None` for at once.
    pub(super) fn free_at(&self, sort: Sort) -> Option<Instant> {
        let mut state = self.lock();
        state.all.free_at().max(state.of(sort).free_at()).filter(|free_at| *free_at > Instant::now())
    }

    /// Whether a request of this sort would have to wait, and the trouble has lasted for so long that it better does not.
    pub(super) fn is_hopeless(&self, sort: Sort) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let lasts = |pace: &Pace| pace.since.is_some_and(|since| now - since >= PATIENCE / self.scale);
        let lasts = lasts(&state.all) || lasts(state.of(sort));
        lasts && state.all.free_at().max(state.of(sort).free_at()).is_some_and(|free_at| free_at > now)
    }

    /// What is wrong with the server, for people; `None` while nothing is.
    pub(super) fn trouble(&self) -> Option<&'static str> {
        let state = self.lock();
        let is_slowed = |pace: &Pace| !pace.spacing.is_zero() || pace.not_before.is_some_and(|at| at > Instant::now());
        // A first failure is only a doubt.
        if state.all.spacing > FIRST_SPACING / self.scale {
            return Some("the API server does not answer");
        }
        (is_slowed(&state.reads) || is_slowed(&state.writes)).then_some("the API server throttles this agent")
    }

    /// Changes whenever the server is well again after a while of trouble.
    pub(super) fn recoveries(&self) -> watch::Receiver<u64> {
        self.recoveries.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

/// Reads a `Retry-After` (RFC 9110, 10.2.3): seconds or a date. What is neither, or in the past, asks for no pause. No
/// pause is longer than [`LONGEST_PAUSE`].
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // More digits than a number can hold are many seconds.
        return Some(value.parse().map_or(LONGEST_PAUSE, Duration::from_secs).min(LONGEST_PAUSE));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(at.duration_since(now)).ok()?.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Ended = Ended::Answered { code: 429, pause: None };
    const TAKEN: Ended = Ended::Answered { code: 200, pause: None };

    #[test]
    fn a_pause_is_read_from_seconds_and_dates_and_never_longer_than_a_minute() {
        let now: Timestamp = "2026-08-03T12:00:00Z".parse().unwrap();
        for (value, seconds) in [
            ("1", Some(1)),
            (" 30 ", Some(30)),
            ("60", Some(60)),
            ("61", Some(60)),
            ("86400", Some(60)),
            ("99999999999999999999999999", Some(60)),
            ("Mon, 03 Aug 2026 12:00:07 GMT", Some(7)),
            ("Mon, 03 Aug 2026 13:00:00 GMT", Some(60)),
            ("Mon, 03 Aug 2026 11:00:00 GMT", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("0x10", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    /// How many requests go out in a time if each ends in the same way at once, with as many as may be wanting to.
    async fn sent_within(brake: &Brake, time: Duration, sort: Sort, how: impl Fn() -> Ended) -> u32 {
        let end = Instant::now() + time;
        let mut sent = 0;
        while tokio::time::timeout_at(end, brake.turn(sort)).await.is_ok() && Instant::now() < end {
            sent += 1;
            brake.ended(sort, Instant::now(), how());
            assert!(sent < 10_000, "nothing brakes");
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_is_well_nothing_waits() {
        let brake = Brake::new(1);
        let start = Instant::now();
        for _ in 0..1000 {
            brake.turn(Sort::Write).await;
            brake.ended(Sort::Write, Instant::now(), TAKEN);
        }
        assert_eq!((Instant::now(), brake.trouble()), (start, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_throttles_gets_few_requests_and_all_of_them_when_it_is_well() {
        let brake = Brake::new(1);
        let sent = sent_within(&brake, Duration::from_secs(60), Sort::Write, || Ended::Answered {
            code: 429,
            pause: Some(Duration::from_secs(1)),
        })
        .await;
        assert!((5..=12).contains(&sent), "{sent}");
        assert_eq!(brake.trouble(), Some("the API server throttles this agent"));
        let back = Instant::now();
        for _ in 0..100 {
            brake.turn(Sort::Write).await;
            brake.ended(Sort::Write, Instant::now(), TAKEN);
        }
        assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
        assert_eq!(brake.trouble(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn where_trouble_lasts_nobody_waits_who_need_not() {
        let brake = Brake::new(1);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            assert!(!brake.is_hopeless(Sort::Write), "{:?}", start.elapsed());
            brake.turn(Sort::Write).await;
            brake.ended(Sort::Write, Instant::now(), REFUSED);
        }
        assert!(brake.is_hopeless(Sort::Write));
        assert!(!brake.is_hopeless(Sort::Read));
        tokio::time::advance(LONGEST_SPACING).await;
        assert!(!brake.is_hopeless(Sort::Write), "it is somebody's turn again");
        brake.turn(Sort::Write).await;
        assert!(brake.is_hopeless(Sort::Write));
        brake.ended(Sort::Write, Instant::now(), TAKEN);
        assert!(!brake.is_hopeless(Sort::Write), "it gets better");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_go_on_while_writes_are_throttled() {
        let brake = Brake::new(1);
        brake.ended(Sort::Write, Instant::now(), REFUSED);
        assert!(brake.free_at(Sort::Write).is_some());
        assert!(brake.free_at(Sort::Read).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_that_was_asked_for_is_kept_up_to_a_minute() {
        let brake = Brake::new(1);
        let start = Instant::now();
        brake.ended(Sort::Write, start, Ended::Answered { code: 429, pause: Some(Duration::from_secs(86_400)) });
        // Others that were under way end well; that shortens no pause that was asked for.
        for _ in 0..20 {
            brake.ended(Sort::Write, start, TAKEN);
        }
        brake.turn(Sort::Write).await;
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn sixteen_refusals_at_once_count_as_one() {
        let brake = Brake::new(1);
        let begun = Instant::now();
        for _ in 0..16 {
            brake.ended(Sort::Write, begun, REFUSED);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(brake.free_at(Sort::Write).unwrap() <= begun + FIRST_SPACING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_gets_less_than_one_request_a_second_and_is_noticed_when_it_is_back() {
        let brake = Brake::new(1);
        let recoveries = brake.recoveries();
        // Both sorts at once, as many as want to.
        let (reads, writes) = tokio::join!(
            sent_within(&brake, Duration::from_secs(60), Sort::Read, || Ended::Unanswered),
            sent_within(&brake, Duration::from_secs(60), Sort::Write, || Ended::Unanswered),
        );
        assert!((5..=20).contains(&(reads + writes)), "{reads} and {writes}");
        assert_eq!(brake.trouble(), Some("the API server does not answer"));
        let back = Instant::now();
        brake.turn(Sort::Read).await;
        brake.ended(Sort::Read, Instant::now(), TAKEN);
        assert!(back.elapsed() <= AWAY_SPACING);
        assert!(brake.free_at(Sort::Write).is_none());
        assert!(recoveries.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_broken_connection_is_no_outage_and_many_at_once_are_tried_by_one() {
        let brake = Brake::new(1);
        let start = Instant::now();
        for _ in 0..10 {
            brake.ended(Sort::Read, start, Ended::Unanswered);
        }
        brake.turn(Sort::Read).await;
        assert_eq!(Instant::now(), start, "one tries at once");
        let others = brake.turn(Sort::Write);
        tokio::pin!(others);
        assert!(futures::poll!(&mut others).is_pending(), "the others wait for what it finds");
        brake.ended(Sort::Read, start, TAKEN);
        others.await;
        assert_eq!((Instant::now(), brake.trouble()), (start, None));
    }

    #[tokio::test(start_paused = true)]
    async fn one_kind_that_is_not_available_does_not_slow_down_the_others() {
        let brake = Brake::new(1);
        let start = Instant::now();
        for number in 0..300 {
            brake.turn(Sort::Write).await;
            let code = if number % 3 == 0 { 201 } else { 503 };
            brake.ended(Sort::Write, Instant::now(), Ended::Answered { code, pause: None });
        }
        assert_eq!(Instant::now(), start);
        // Where there is nothing but refusals all are slowed down, and the first success lets go.
        let sent =
            sent_within(&brake, Duration::from_secs(60), Sort::Write, || Ended::Answered { code: 503, pause: None })
                .await;
        assert!(sent <= 15, "{sent}");
    }
}
