//! When an object is mended again that somebody changes again and again.
//!
//! The first corrections come at once: most drift is a person who tries something. After [`AT_ONCE`] corrections within
//! [`Pace::window`] the object is contended, and is mended at most once in [`Pace::spacing`], until nobody has touched
//! it for [`Pace::quiet`]. Nothing of this is kept over a restart.
//!
//! Time is the age of the process or of any other beginning, and never runs backwards.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::manifest::ObjectKey;

/// Corrections of one object that come at once.
pub const AT_ONCE: usize = 5;

/// The times of a fight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// [`AT_ONCE`] corrections within this time are a fight.
    pub window: Duration,
    /// The time between two corrections of a contended object.
    pub spacing: Duration,
    /// How long nobody may have touched a contended object until the fight is over.
    pub quiet: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { window: Duration::from_secs(300), spacing: Duration::from_secs(30), quiet: Duration::from_secs(120) }
    }
}

/// The fights of one environment.
#[derive(Debug, Default)]
pub struct Fights {
    objects: BTreeMap<ObjectKey, Fight>,
}

#[derive(Debug, Default)]
struct Fight {
    /// When it was mended, the last [`AT_ONCE`] times.
    mended: VecDeque<Duration>,
    /// When it was last found to differ.
    differed: Duration,
    /// Whether a difference waits to be mended.
    is_waiting: bool,
    is_contended: bool,
    /// Who did what, the last time that it was mended.
    what: String,
}

impl Fights {
    /// Whether an object that differs now is mended now.
    pub fn may_mend(&mut self, key: &ObjectKey, now: Duration, pace: &Pace) -> bool {
        let Some(fight) = self.objects.get_mut(key) else { return true };
        fight.differed = now;
        let last = fight.mended.back().copied().unwrap_or_default();
        fight.is_waiting = fight.is_contended && now < last + pace.spacing;
        !fight.is_waiting
    }

    /// An object is as it should be, or differs for another reason than somebody's change: nothing waits to be mended.
    pub fn rests(&mut self, key: &ObjectKey) {
        if let Some(fight) = self.objects.get_mut(key) {
            fight.is_waiting = false;
        }
    }

    /// An object was mended. `what` says which field whose manager had changed. Gives whether the object is contended
    /// from now on.
    pub fn mended(&mut self, key: &ObjectKey, now: Duration, what: &str, pace: &Pace) -> bool {
        let fight = self.objects.entry(key.clone()).or_default();
        fight.is_waiting = false;
        fight.differed = now;
        fight.what = what.to_owned();
        fight.mended.push_back(now);
        if fight.mended.len() > AT_ONCE {
            fight.mended.pop_front();
        }
        let first = fight.mended.front().copied().unwrap_or(now);
        let is_fought = fight.mended.len() == AT_ONCE && now.saturating_sub(first) <= pace.window;
        let begins = is_fought && !fight.is_contended;
        fight.is_contended |= is_fought;
        begins
    }

    /// Ends what has come to rest, and gives the objects whose fight is over.
    pub fn settle(&mut self, now: Duration, pace: &Pace) -> Vec<ObjectKey> {
        let mut over = Vec::new();
        self.objects.retain(|key, fight| {
            let rests = now.saturating_sub(fight.differed);
            let is_over =
                if fight.is_contended { !fight.is_waiting && rests >= pace.quiet } else { rests > pace.window };
            if is_over && fight.is_contended {
                over.push(key.clone());
            }
            !is_over
        });
        over
    }

    /// Forgets objects that are no longer desired.
    pub fn keep(&mut self, is_desired: impl Fn(&ObjectKey) -> bool) {
        self.objects.retain(|key, _| is_desired(key));
    }

    /// The contended objects, and who did what.
    pub fn contended(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        self.objects.iter().filter(|(_, fight)| fight.is_contended).map(|(key, fight)| (key, fight.what.as_str()))
    }

    /// When to look again: at the next correction that waits, and at the end of a fight.
    pub fn next_look(&self, pace: &Pace) -> Option<Duration> {
        let of = |fight: &Fight| match fight.is_waiting {
            true => fight.mended.back().copied().unwrap_or_default() + pace.spacing,
            false => fight.differed + pace.quiet,
        };
        self.objects.values().filter(|fight| fight.is_contended).map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Identity;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::from(Identity {
            group: String::new(),
            kind: "ConfigMap".into(),
            namespace: Some("web".into()),
            name: name.into(),
        })
    }

    #[test]
    fn a_difference_that_went_by_itself_holds_no_fight_up() {
        let (mut fights, pace) = (Fights::default(), Pace::default());
        for second in 0..5 {
            fights.mended(&key("a"), seconds(second), "data.key changed by hand", &pace);
        }
        assert!(!fights.may_mend(&key("a"), seconds(5), &pace), "it waits");
        fights.rests(&key("a"));
        assert!(fights.next_look(&pace).unwrap() > seconds(100), "and then there is nothing to look at soon");
        assert_eq!(fights.settle(seconds(1000), &pace), [key("a")]);
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Somebody changes an object every 100 ms for some seconds; the seconds at which it was mended.
    fn monkey(fights: &mut Fights, from: u64, to: u64) -> Vec<u64> {
        let pace = Pace::default();
        let mut mended = Vec::new();
        for tenth in from * 10..to * 10 {
            let now = Duration::from_millis(tenth * 100);
            if fights.may_mend(&key("a"), now, &pace) {
                fights.mended(&key("a"), now, "hand at data.key", &pace);
                mended.push(now.as_secs());
            }
        }
        mended
    }

    #[test]
    fn after_the_fifth_correction_there_is_one_in_thirty_seconds() {
        let mut fights = Fights::default();
        let mended = monkey(&mut fights, 0, 100);
        assert_eq!(mended, [0, 0, 0, 0, 0, 30, 60, 90]);
        assert_eq!(fights.contended().collect::<Vec<_>>(), [(&key("a"), "hand at data.key")]);
    }

    #[test]
    fn a_fight_begins_once_and_ends_when_it_is_quiet() {
        let pace = Pace::default();
        let mut fights = Fights::default();
        let begun: Vec<bool> = (0..7).map(|n| fights.mended(&key("a"), seconds(n), "x", &pace)).collect();
        assert_eq!(begun, [false, false, false, false, true, false, false]);
        assert_eq!(fights.next_look(&pace), Some(seconds(6 + 120)));
        assert_eq!(fights.settle(seconds(125), &pace), []);
        assert_eq!(fights.settle(seconds(126), &pace), [key("a")]);
        assert_eq!(fights.contended().count(), 0);
        assert_eq!(fights.next_look(&pace), None);
        assert!(!fights.mended(&key("a"), seconds(127), "x", &pace), "it begins anew");
    }

    #[test]
    fn a_correction_that_waits_is_made_at_its_time_and_holds_the_fight_open() {
        let pace = Pace::default();
        let mut fights = Fights::default();
        monkey(&mut fights, 0, 1);
        assert!(!fights.may_mend(&key("a"), seconds(2), &pace));
        assert_eq!(fights.next_look(&pace), Some(Duration::from_millis(30_400)));
        assert_eq!(fights.settle(seconds(500), &pace), [], "it still differs");
        assert!(fights.may_mend(&key("a"), seconds(31), &pace));
    }

    #[test]
    fn drift_now_and_then_is_no_fight() {
        let pace = Pace::default();
        let mut fights = Fights::default();
        for number in 0..20 {
            let now = seconds(number * 80);
            assert!(fights.may_mend(&key("a"), now, &pace));
            assert!(!fights.mended(&key("a"), now, "x", &pace));
        }
    }

    #[test]
    fn other_objects_are_mended_at_once() {
        let mut fights = Fights::default();
        monkey(&mut fights, 0, 1);
        assert!(fights.may_mend(&key("b"), seconds(1), &Pace::default()));
    }

    #[test]
    fn what_is_no_longer_desired_is_forgotten() {
        let mut fights = Fights::default();
        monkey(&mut fights, 0, 1);
        fights.keep(|_| false);
        assert_eq!(fights.contended().count(), 0);
    }
}
