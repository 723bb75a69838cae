//! In which order an environment comes up, as its manifests say it: waves, and hooks before and after them.
//!
//! Takes the text of annotations and gives their meaning. It knows nothing of what is in the cluster.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::{Manifest, ObjectKey};
use crate::names::annotation;

/// When an object is applied within a sync: a wave begins when every object of the waves before it is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wave {
    /// Before every number: Namespaces and CustomResourceDefinitions that name no wave, for whatever needs them.
    Ground,
    /// As the annotation says; 0 where there is none.
    Number(i32),
}

impl Wave {
    /// The wave of a manifest. One whose annotation means nothing counts as having none; policy refuses it.
    pub fn of(manifest: &Manifest) -> Wave {
        match manifest.annotation(annotation::WAVE).and_then(wave) {
            Some(number) => Wave::Number(number),
            None if is_ground(&manifest.key) => Wave::Ground,
            None => Wave::Number(0),
        }
    }

    /// Whether it comes before the BeforeSync hooks: what they need is in such a wave.
    pub fn is_before_hooks(self) -> bool {
        self < Wave::Number(0)
    }
}

impl fmt::Display for Wave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wave::Ground => f.write_str("the namespaces and definitions"),
            Wave::Number(number) => write!(f, "wave {number}"),
        }
    }
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// After the dry run, before the first write of wave 0 or later.
    BeforeSync,
    /// When all waves are applied and healthy.
    AfterSync,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The number that a `wave` annotation says; `None` where it is none.
pub fn wave(text: &str) -> Option<i32> {
    text.trim().parse().ok()
}

/// The phases that a `hook` annotation lists; `None` where it lists none or something else.
pub fn phases(text: &str) -> Option<BTreeSet<Phase>> {
    text.split(',')
        .map(|name| match name.trim() {
            "BeforeSync" => Some(Phase::BeforeSync),
            "AfterSync" => Some(Phase::AfterSync),
            _ => None,
        })
        .collect()
}

fn is_ground(key: &ObjectKey) -> bool {
    matches!(
        (key.group.as_str(), key.kind.as_str()),
        ("", "Namespace") | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_a_whole_number() {
        assert_eq!((wave("-3"), wave(" 7 ")), (Some(-3), Some(7)));
        for bad in ["", "first", "1.5", "1e3", "99999999999"] {
            assert_eq!(wave(bad), None, "{bad}");
        }
    }

    #[test]
    fn waves_are_in_the_order_of_their_numbers_and_the_ground_is_below_all_of_them() {
        assert!(Wave::Ground < Wave::Number(i32::MIN));
        assert!(Wave::Number(-1) < Wave::Number(0));
        assert!(Wave::Number(-1).is_before_hooks() && Wave::Ground.is_before_hooks());
        assert!(!Wave::Number(0).is_before_hooks());
    }

    #[test]
    fn a_hook_has_one_phase_or_both() {
        assert_eq!(phases("BeforeSync"), Some([Phase::BeforeSync].into()));
        assert_eq!(phases("BeforeSync, AfterSync"), Some([Phase::BeforeSync, Phase::AfterSync].into()));
        for bad in ["", "PreSync", "BeforeSync,", "BeforeSync AfterSync"] {
            assert_eq!(phases(bad), None, "{bad}");
        }
    }
}
