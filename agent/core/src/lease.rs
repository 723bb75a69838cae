//! Which replica leads: the rules of Kubernetes' own leader election (client-go, `tools/leaderelection`) as a machine
//! without clock and without requests.
//!
//! What goes in is what the Lease says and the time on the replica's own steadily running clock; what comes out is the
//! next thing to ask of the API server. The one rule that carries the others: how old a record is, is measured from
//! the moment at which this replica saw it change, never by the times that are written in it. So clocks that differ,
//! and records of nonsense, delay a change of leader and never make two.

use std::time::Duration;

use jiff::Timestamp;

use crate::fault::Problem;

/// How long a leader may be silent before another takes over, where nobody says otherwise.
pub const DEFAULT_LEASE_DURATION: Duration = Duration::from_secs(15);
/// The shortest lease that may be asked for: what is shorter is lost by a slow answer.
pub const MIN_LEASE_DURATION: Duration = Duration::from_secs(5);
/// The longest one, and the longest that another holder's record is believed.
pub const MAX_LEASE_DURATION: Duration = Duration::from_secs(600);
/// While a replica stands by, its pauses are longer by up to this factor, by chance (client-go's `JitterFactor`).
const JITTER: f64 = 1.2;

/// The times of an election, in the relation of client-go's defaults (15 s, 10 s, 2 s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a leader may be silent before another takes over.
    pub lease_duration: Duration,
    /// How long a leader goes on without a renewal that succeeded.
    pub renew_deadline: Duration,
    /// The pause between two looks at the Lease.
    pub retry_period: Duration,
}

impl Terms {
    /// The times for a duration of the lease: two thirds of it to renew in, two fifteenths between looks.
    ///
    /// # Errors
    /// `Setup` when it is shorter than [`MIN_LEASE_DURATION`] or longer than [`MAX_LEASE_DURATION`].
    pub fn new(lease_duration: Duration) -> Result<Terms, Problem> {
        if !(MIN_LEASE_DURATION..=MAX_LEASE_DURATION).contains(&lease_duration) {
            let (least, most) = (MIN_LEASE_DURATION.as_secs(), MAX_LEASE_DURATION.as_secs());
            return Err(Problem::setup(format!("a lease of {} s is not possible", lease_duration.as_secs()))
                .hint(format!("choose one from {least} s to {most} s")));
        }
        Ok(Terms::of(lease_duration))
    }

    fn of(lease_duration: Duration) -> Terms {
        Terms { lease_duration, renew_deadline: lease_duration * 2 / 3, retry_period: lease_duration * 2 / 15 }
    }

    /// The same with every time divided, for tests.
    #[must_use]
    pub fn divided(self, by: u32) -> Terms {
        Terms::of(self.lease_duration / by.max(1))
    }

    /// How long after the last renewal a write must have ended: in the middle between the last moment at which a leader
    /// begins one and the first at which another may lead.
    pub fn last_write_ends(&self) -> Duration {
        (self.lease_duration + self.renew_deadline) / 2
    }

    /// Time for one request about the Lease: two fit before the deadline.
    pub fn request_deadline(&self) -> Duration {
        self.renew_deadline / 2
    }
}

impl Default for Terms {
    fn default() -> Self {
        Terms::of(DEFAULT_LEASE_DURATION)
    }
}

/// What a Lease says. The times in it are for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who leads; empty where nobody does.
    pub holder: String,
    /// How long the holder may be silent, in seconds.
    pub duration_s: Option<i32>,
    /// When the holder began to lead, by its own clock.
    pub acquired: Option<Timestamp>,
    /// When it was last renewed, by the holder's clock.
    pub renewed: Option<Timestamp>,
    /// How often the holder changed.
    pub transitions: Option<i32>,
    /// The resource version; empty in a record that is to be written. A record that was written again is another one,
    /// also where it says the same: client-go does not look at it, and takes a stuck clock for silence.
    pub version: String,
}

/// What is to be asked of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read the Lease.
    Read,
    /// Make it.
    Create(Record),
    /// Write it over the version that was last read or written.
    Update(Record),
    /// Nothing in this round: somebody else leads.
    Nothing,
}

/// Where a replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no election: it is the only one.
    Alone,
    /// It leads.
    Leading,
    /// Another leads, or nobody yet.
    StandingBy {
        /// Who leads; empty where nobody does, `None` while it is not known.
        leader: Option<String>,
    },
}

impl Standing {
    /// Whether this replica does the work.
    pub fn works(&self) -> bool {
        !matches!(self, Standing::StandingBy { .. })
    }
}

/// The election as one replica sees it. Each `now` is the time on a clock of its own that only runs forward, and that
/// counts the time in which the process was stopped.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    terms: Terms,
    /// The last record that was seen to differ from the one before, and when.
    observed: Option<(Record, Duration)>,
    /// Since when a Lease that was there is not.
    missing_since: Option<Duration>,
    /// When the request was sent that last won or renewed the lease; only while leading.
    renewed: Option<Duration>,
}

impl Election {
    /// A replica that has seen nothing yet. No two may have the same identity.
    pub fn new(identity: impl Into<String>, terms: Terms) -> Election {
        Election { identity: identity.into(), terms, observed: None, missing_since: None, renewed: None }
    }

    /// This replica's own name.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The times.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether this replica leads. Once it was too late for a renewal it does not, whatever comes later: it has to win
    /// anew.
    pub fn leads(&mut self, now: Duration) -> bool {
        if self.renewed.is_some_and(|renewed| renewed + self.terms.renew_deadline <= now) {
            self.renewed = None;
        }
        self.renewed.is_some()
    }

    /// How long it leads at most if no renewal succeeds any more.
    pub fn leads_for(&self, now: Duration) -> Duration {
        self.renewed.map_or(Duration::ZERO, |renewed| (renewed + self.terms.renew_deadline).saturating_sub(now))
    }

    /// Who leads by the last record; `None` where none was seen.
    pub fn leader(&self) -> Option<&str> {
        self.observed.as_ref().map(|(record, _)| record.holder.as_str())
    }

    /// Begins a round: a leader writes at once, everybody else looks first.
    pub fn begin(&mut self, now: Duration, wall: Timestamp) -> Ask {
        match &self.observed {
            Some((record, at)) if record.holder == self.identity && *at + self.terms.lease_duration > now => {
                Ask::Update(self.claim(Some(record), wall))
            }
            _ => Ask::Read,
        }
    }

    /// The Lease was read; `None` where there is none.
    pub fn read(&mut self, record: Option<Record>, now: Duration, wall: Timestamp) -> Ask {
        let Some(record) = record else {
            // Somebody deleted it. That says nothing of its holder, who has its time all the same and makes it again; only
            // a replica that never saw one takes it for the first.
            let since = *self.missing_since.get_or_insert(now);
            let may_create = self.observed.is_none() || self.leads(now) || since + self.terms.lease_duration <= now;
            return if may_create { Ask::Create(self.claim(None, wall)) } else { Ask::Nothing };
        };
        self.missing_since = None;
        if self.observed.as_ref().is_none_or(|(known, _)| *known != record) {
            self.observed = Some((record.clone(), now));
        }
        if record.holder != self.identity {
            // It was taken away: whoever holds it counts on us being silent.
            self.renewed = None;
            if !record.holder.is_empty() && self.expires().is_some_and(|expires| expires > now) {
                return Ask::Nothing;
            }
        }
        Ask::Update(self.claim(Some(&record), wall))
    }

    /// A record of ours was written, and is as it was answered. `sent` is the time before the request was sent, `now` that of its answer.
    pub fn wrote(&mut self, record: Record, sent: Duration, now: Duration) {
        let was_late = self.renewed.is_some() && !self.leads(now);
        self.observed = Some((record, now));
        self.missing_since = None;
        if !was_late {
            self.renewed = Some(sent);
            self.leads(now);
        }
    }

    /// What gives the lease back, so that another need not wait; `None` where it is not ours.
    pub fn release(&mut self, wall: Timestamp) -> Option<Record> {
        self.renewed = None;
        let (record, _) = self.observed.as_ref().filter(|(record, _)| record.holder == self.identity)?;
        Some(Record {
            holder: String::new(),
            duration_s: Some(1),
            acquired: Some(wall),
            renewed: Some(wall),
            transitions: record.transitions,
            version: String::new(),
        })
    }

    /// How long it is until the next round. `chance` is from 0 to 1.
    pub fn pause(&mut self, now: Duration, chance: f64) -> Duration {
        let period = self.terms.retry_period;
        if self.leads(now) {
            return period;
        }
        let pause = period.mul_f64(1.0 + JITTER * chance.clamp(0.0, 1.0));
        // Nobody needs to wait longer than the holder has.
        let rest = self.expires().map(|expires| expires.saturating_sub(now)).filter(|rest| !rest.is_zero());
        rest.map_or(pause, |rest| pause.min(rest + period.mul_f64(0.1 * chance.clamp(0.0, 1.0))))
    }

    /// When the lease of the last record that was seen is over, if nothing changes.
    fn expires(&self) -> Option<Duration> {
        let (record, at) = self.observed.as_ref()?;
        let said = record.duration_s.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        let duration = said.map_or(self.terms.lease_duration, Duration::from_secs).min(MAX_LEASE_DURATION);
        Some(*at + duration)
    }

    /// The record by which this replica leads, after one that stands there.
    fn claim(&self, before: Option<&Record>, wall: Timestamp) -> Record {
        let is_mine = before.is_some_and(|before| before.holder == self.identity);
        let transitions = before.and_then(|before| before.transitions).unwrap_or(0).max(0);
        let seconds = self.terms.lease_duration.as_millis().div_ceil(1000);
        Record {
            holder: self.identity.clone(),
            duration_s: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquired: before.filter(|_| is_mine).and_then(|before| before.acquired).or(Some(wall)),
            renewed: Some(wall),
            transitions: Some(if is_mine || before.is_none() { transitions } else { transitions.saturating_add(1) }),
            version: String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
