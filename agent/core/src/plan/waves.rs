//! Whether a wave may begin: when every object of the waves before it is healthy.

use super::Plan;
use crate::course::Wave;
use crate::health::{Health, ObjectHealth};
use crate::manifest::ObjectKey;
use crate::policy::Cleared;

/// What keeps a wave from beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The wave that is not healthy.
    pub wave: Wave,
    /// The object of it that is worst.
    pub object: ObjectKey,
    /// How that is, and why.
    pub health: ObjectHealth,
}

/// The first wave below `wave` that is not healthy, with its worst object. `health` says how an object is, `None` where
/// it is not there. What is left alone holds nothing up.
pub fn held_by(
    plan: &Plan,
    desired: &Cleared,
    wave: Wave,
    health: &dyn Fn(&ObjectKey) -> Option<ObjectHealth>,
) -> Option<Held> {
    let mut held: Option<Held> = None;
    for step in plan.steps.iter().take_while(|step| step.wave < wave) {
        if held.as_ref().is_some_and(|held| held.wave < step.wave) {
            break;
        }
        if desired.objects()[step.index].leave_alone {
            continue;
        }
        let found = health(&step.key).unwrap_or_else(ObjectHealth::missing);
        let is_worse = held.as_ref().is_none_or(|held| held.health.health < found.health);
        if found.health != Health::Healthy && is_worse {
            held = Some(Held { wave: step.wave, object: step.key.clone(), health: found });
        }
    }
    held
}
