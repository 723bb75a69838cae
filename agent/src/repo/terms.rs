//! How long the network may take, and which program speaks ssh.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use towpath_core::fault::Problem;

/// How long the network may take, and which program speaks ssh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a byte from the server.
    pub idle: Duration,
    /// A look at the branches, a push, or a fetch into a mirror that has something.
    pub whole: Duration,
    /// The first fetch into an empty mirror.
    pub first: Duration,
    /// The program that speaks ssh.
    pub ssh: PathBuf,
}

impl Default for Terms {
    /// 10 s to connect, 20 s of silence, 100 s for a whole operation (so that with a last silence it ends within
    /// 120 s), 10 min for the first fetch, and `ssh` from the `PATH`.
    fn default() -> Self {
        Terms {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(20),
            whole: Duration::from_secs(100),
            first: Duration::from_secs(600),
            ssh: PathBuf::from("ssh"),
        }
    }
}

/// The end of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    until: Instant,
    whole: Duration,
}

impl Deadline {
    pub(super) fn after(whole: Duration) -> Self {
        Deadline { until: Instant::now() + whole, whole }
    }

    /// The time that is left.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// # Errors
    /// A `Passing` problem when the time is over.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if Instant::now() < self.until {
            return Ok(());
        }
        Err(Problem::passing(format!("the git server was not done after {} s", self.whole.as_secs_f32())))
    }
}

/// Refusals of a login, counted so that no account gets locked: after some in a row the server is left alone for a
/// while. Other credentials begin with a new count.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Option<Refused>>);

#[derive(Debug)]
struct Refused {
    in_a_row: u32,
    last: Instant,
    problem: Problem,
}

/// Refusals in a row after which the server is left alone.
pub const MAX_REFUSALS: u32 = 3;
/// For how long it is left alone.
const REFUSED_FOR: Duration = Duration::from_secs(60);

impl Refusals {
    /// # Errors
    /// The last refusal, while the server is left alone.
    pub(super) fn check(&self) -> Result<(), Problem> {
        match &*self.lock() {
            Some(refused) if refused.in_a_row >= MAX_REFUSALS && refused.last.elapsed() < REFUSED_FOR => {
                Err(refused.problem.clone())
            }
            _ => Ok(()),
        }
    }

    /// Counts one more.
    pub(super) fn note(&self, problem: &Problem) {
        let mut refused = self.lock();
        let in_a_row = refused.as_ref().map_or(0, |refused| refused.in_a_row) + 1;
        *refused = Some(Refused { in_a_row, last: Instant::now(), problem: problem.clone() });
    }

    /// The login was taken.
    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The problem of an answer that does not end.
pub(super) fn too_long(limit: u64) -> Problem {
    Problem::setup(format!("the answer of the git server is longer than {limit} bytes"))
        .hint("delete branches, or keep large files out of the deploy repository")
}
