//! Which registries are left alone, until when, and why: so that not each of its images waits for one that is away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::LOOK_UP;

/// The longest that a registry may ask to be left alone for.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long a registry is left alone that cannot be reached, and one that was silent for the first time.
pub(super) const UNREACHABLE: Duration = Duration::from_secs(5);
/// How long at the longest one is left alone that was silent ever again.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// An answer that took as long is hardly better than none.
const SLOW: Duration = Duration::from_secs(LOOK_UP.as_secs() * 3 / 4);

/// For how long a registry is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// For as long as it says, or as is good for what it says.
    For(Duration),
    /// It did not answer in time: ever longer.
    Silent,
}

/// The registries in trouble.
#[derive(Default)]
pub(super) struct Hosts(HashMap<String, Trouble>);

struct Trouble {
    until: Instant,
    why: String,
    /// How often in a row it was silent.
    silences: u32,
    /// Until when somebody may be trying whether it is well again.
    trial: Option<Instant>,
}

impl Hosts {
    /// Lets a look begin. After trouble one at a time is let in, until one was answered.
    ///
    /// # Errors
    /// Why the registry is left alone now.
    pub(super) fn enter(&mut self, host: &str, now: Instant) -> Result<(), String> {
        let Some(trouble) = self.0.get_mut(host) else { return Ok(()) };
        if trouble.until > now || trouble.trial.is_some_and(|until| until > now) {
            return Err(trouble.why.clone());
        }
        trouble.trial = Some(now + LOOK_UP);
        Ok(())
    }

    /// Ends a look that was answered, after some time.
    pub(super) fn answered(&mut self, host: &str, took: Duration, now: Instant) {
        if took >= SLOW {
            let why = format!("registry {host} is slow: it took {} s to answer", took.as_secs());
            self.failed(host, Pause::Silent, &why, now);
        } else if self.0.get(host).is_some_and(|trouble| trouble.until <= now) {
            self.0.remove(host);
        }
    }

    /// Ends a look after which the registry is left alone. Of several pauses the one that ends last counts.
    pub(super) fn failed(&mut self, host: &str, pause: Pause, why: &str, now: Instant) {
        // How often one was silent is remembered for a while.
        self.0.retain(|_, trouble| trouble.until + LONGEST_PAUSE > now);
        let new = || Trouble { until: now, why: why.to_owned(), silences: 0, trial: None };
        let trouble = self.0.entry(host.to_owned()).or_insert_with(new);
        let pause = match pause {
            Pause::For(pause) => pause,
            Pause::Silent => {
                // Several that were silent together were silent once.
                trouble.silences += u32::from(trouble.until <= now);
                let doubled = 2u32.saturating_pow(trouble.silences.saturating_sub(1));
                UNREACHABLE.saturating_mul(doubled).min(LONGEST_SILENCE)
            }
        };
        trouble.trial = None;
        if now + pause >= trouble.until {
            (trouble.until, trouble.why) = (now + pause, why.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn of_several_pauses_the_longest_counts() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        hosts.failed("h", Pause::For(seconds(300)), "asked too much", now);
        // Others were on their way when it said so.
        hosts.failed("h", Pause::For(UNREACHABLE), "broken", now + seconds(1));
        hosts.failed("h", Pause::Silent, "silent", now + seconds(2));
        hosts.answered("h", seconds(1), now + seconds(3));
        assert_eq!(hosts.enter("h", now + seconds(299)), Err("asked too much".to_owned()));
        assert_eq!(hosts.enter("h", now + seconds(300)), Ok(()));
        assert_eq!(hosts.enter("other", now), Ok(()));
    }

    #[test]
    fn who_is_silent_is_left_alone_ever_longer() {
        let (mut hosts, mut now) = (Hosts::default(), Instant::now());
        for pause in [5, 10, 20, 40, 60, 60] {
            assert_eq!(hosts.enter("h", now), Ok(()));
            // Those that were asked at the same time are silent, too.
            (0..4).for_each(|_| hosts.failed("h", Pause::Silent, "silent", now));
            assert!(hosts.enter("h", now + seconds(pause - 1)).is_err(), "{pause}");
            now += seconds(pause);
        }
        assert_eq!(hosts.enter("h", now), Ok(()));
        hosts.answered("h", seconds(1), now);
        hosts.failed("h", Pause::Silent, "silent", now);
        assert_eq!(hosts.enter("h", now + UNREACHABLE), Ok(()), "an answer ends the row");
    }

    #[test]
    fn after_trouble_one_looks_at_a_time() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        hosts.failed("h", Pause::For(seconds(5)), "broken", now);
        let then = now + seconds(5);
        assert_eq!(hosts.enter("h", then), Ok(()));
        assert_eq!(hosts.enter("h", then), Err("broken".to_owned()));
        // One that was given up says nothing.
        assert_eq!(hosts.enter("h", then + LOOK_UP), Ok(()));
        hosts.answered("h", seconds(1), then + LOOK_UP);
        (0..2).for_each(|_| assert_eq!(hosts.enter("h", then + LOOK_UP), Ok(())));
    }

    #[test]
    fn who_answers_at_the_last_moment_is_left_alone_too() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        hosts.answered("h", SLOW, now);
        assert!(hosts.enter("h", now + seconds(4)).unwrap_err().contains("slow"));
        hosts.answered("other", SLOW - seconds(1), now);
        assert_eq!(hosts.enter("other", now), Ok(()));
    }
}
