//! Mistakes on demand, so that the fault journeys can be shown to notice them. Only a build with the feature
//! `seeded-bugs` has any: in every other one [`has`] is a constant `false`.
//!
//! | name | what it does |
//! | --- | --- |
//! | `enroll-late` | members are not written down before they are applied |
//! | `strike-off-first` | members are struck off before they are deleted |
//! | `failed-delete-is-done` | a deletion that failed counts as done |
//! | `delete-without-uid` | a deletion has no precondition |
//! | `failed-list-is-empty` | a watch or a look that failed counts as one that found nothing |
//! | `unread-inventory-is-empty` | an inventory that could not be read counts as one that is empty |

/// All of them by name.
pub const ALL: [&str; 6] = [
    "enroll-late",
    "strike-off-first",
    "failed-delete-is-done",
    "delete-without-uid",
    "failed-list-is-empty",
    "unread-inventory-is-empty",
];

/// Whether this mistake is to be made: the one that `TOWPATH_SEEDED_BUG` names.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn has(bug: &str) -> bool {
    debug_assert!(ALL.contains(&bug), "{bug} is no seeded bug");
    std::env::var("TOWPATH_SEEDED_BUG").is_ok_and(|name| name == bug)
}

/// No mistake is ever made.
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) const fn has(_bug: &str) -> bool {
    false
}
