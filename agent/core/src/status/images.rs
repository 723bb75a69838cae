//! The images of an environment: what runs, and what the syncs that are remembered ran before.

use std::cmp::Reverse;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EnvironmentStatus, SyncRecord};

/// Images that are listed; the rest is counted.
pub const MAX_IMAGES: usize = 200;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Its name, as the objects have it.
    pub image: String,
    /// The component that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The last revision that had it: `branch@sha1:<id>`.
    pub revision: String,
    /// Until when it ran; absent for as long as it does, or is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What a pass found of images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesSeen {
    /// Each image that the objects of a revision name, and the component that it is of.
    pub images: Vec<(String, Option<String>)>,
    /// The revision.
    pub revision: String,
    /// Whether all of it is applied: nothing else runs any more.
    pub is_applied: bool,
}

/// Folds what was seen into what was known, after the syncs that ended were put into the history. What an earlier sync ran is kept for as long as that sync is remembered, for a
/// rollback to it would need it.
pub(super) fn fold(before: &EnvironmentStatus, status: &mut EnvironmentStatus, seen: &ImagesSeen, now: Timestamp) {
    let mut images: Vec<ImageStatus> = seen
        .images
        .iter()
        .map(|(image, component)| {
            let (image, component, revision) = (image.clone(), component.clone(), seen.revision.clone());
            ImageStatus { image, component, revision, until: None }
        })
        .collect();
    // What an environment ran before anybody looked is not known; a new one is known from its first sync on.
    let had_run = before.running.is_some() || before.images.is_some() || before.history.iter().any(SyncRecord::has_run);
    let begun = status.history.iter().map(|sync| sync.started_at).chain(status.sync.iter().map(|sync| sync.started_at));
    let first = begun.min().filter(|_| !had_run).unwrap_or(now);
    let mut since = status.images_since.unwrap_or(first);
    let oldest = status.history.last().map(|sync| sync.started_at);
    for known in status.images.take().unwrap_or_default() {
        if images.iter().any(|image| image.image == known.image) {
            continue;
        }
        let until = if seen.is_applied { Some(known.until.unwrap_or(now)) } else { known.until };
        let is_forgotten = until.is_some_and(|until| oldest.is_some_and(|oldest| until < oldest));
        if !is_forgotten {
            images.push(ImageStatus { until, ..known });
        }
    }
    // What runs first, then what ran last.
    images.sort_by_key(|image| (Reverse(image.until.unwrap_or(Timestamp::MAX)), image.image.clone()));
    status.images_left_out = images.len().saturating_sub(MAX_IMAGES) as u32;
    // A sync that began after one had ended does not need it.
    let ended = images.iter().skip(MAX_IMAGES).map(|image| image.until.unwrap_or(now)).max();
    since = since.max(ended.unwrap_or(since));
    images.truncate(MAX_IMAGES);
    status.images_since = Some(since);
    status.images = Some(images);
}

impl EnvironmentStatus {
    /// Whether images may lack that a rollback to a sync in the history needs: it began before they were kept whole.
    pub fn lacks_images(&self) -> bool {
        let oldest = self.history.iter().filter(|sync| sync.has_run()).map(|sync| sync.started_at).min();
        oldest.is_some_and(|oldest| self.images_since.is_none_or(|since| oldest < since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Outcome;
    use crate::status::tests::at;
    use crate::status::tests::{record, revision};

    fn seen(revision: &str, images: &[&str], is_applied: bool) -> ImagesSeen {
        let images = images.iter().map(|image| ((*image).to_owned(), Some("web".to_owned()))).collect();
        ImagesSeen { images, revision: revision.to_owned(), is_applied }
    }

    fn fold(status: &mut EnvironmentStatus, seen: &ImagesSeen, now: Timestamp) {
        super::fold(&status.clone(), status, seen, now);
    }

    fn shown(status: &EnvironmentStatus) -> Vec<String> {
        let line = |image: &ImageStatus| {
            let until = image.until.map_or(String::new(), |until| format!(" until {}", until.as_second()));
            format!("{} {}{until}", image.image, image.revision)
        };
        status.images.iter().flatten().map(line).collect()
    }

    #[test]
    fn what_ran_before_is_kept_until_its_sync_is_forgotten() {
        let mut status = EnvironmentStatus::default();
        fold(&mut status, &seen("r1", &["log:1", "web:1"], true), at(10));
        fold(&mut status, &seen("r2", &["log:1", "web:2"], true), at(20));
        assert_eq!(shown(&status), ["log:1 r2", "web:2 r2", "web:1 r1 until 20"]);
        fold(&mut status, &seen("r3", &["log:1", "web:3"], true), at(30));
        assert_eq!(shown(&status), ["log:1 r3", "web:3 r3", "web:2 r2 until 30", "web:1 r1 until 20"]);
        // A rollback runs it again.
        fold(&mut status, &seen("r4", &["log:1", "web:2"], true), at(40));
        assert_eq!(shown(&status), ["log:1 r4", "web:2 r4", "web:3 r3 until 40", "web:1 r1 until 20"]);
        status.history = vec![record(25, Outcome::Applied)];
        fold(&mut status, &seen("r4", &["log:1", "web:2"], true), at(50));
        assert_eq!(shown(&status), ["log:1 r4", "web:2 r4", "web:3 r3 until 40"]);
    }

    #[test]
    fn while_a_sync_is_on_its_way_both_run() {
        let mut status = EnvironmentStatus::default();
        fold(&mut status, &seen("r1", &["web:1"], true), at(10));
        fold(&mut status, &seen("r2", &["web:2"], false), at(20));
        assert_eq!(shown(&status), ["web:1 r1", "web:2 r2"]);
        fold(&mut status, &seen("r2", &["web:2"], true), at(30));
        assert_eq!(shown(&status), ["web:2 r2", "web:1 r1 until 30"]);
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let images: Vec<String> = (0..=MAX_IMAGES).map(|number| format!("web:{number}")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let mut status = EnvironmentStatus::default();
        fold(&mut status, &seen("r1", &images, true), at(10));
        assert_eq!((shown(&status).len(), status.images_left_out), (MAX_IMAGES, 1));
        fold(&mut status, &seen("r1", &images[1..], true), at(10));
        assert_eq!((shown(&status).len(), status.images_left_out), (MAX_IMAGES, 1));
    }

    #[test]
    fn what_was_left_out_once_is_never_whole_again_for_the_syncs_before() {
        let images: Vec<String> = (0..=MAX_IMAGES).map(|number| format!("web:{number}")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let mut status = EnvironmentStatus::default();
        fold(&mut status, &seen("r1", &images[1..], true), at(10));
        status.history = vec![record(10, Outcome::Applied)];
        assert!(!status.lacks_images());
        // One of those that ended at 20 does not stand in the list any more, nor at any later look.
        status.history.insert(0, record(20, Outcome::Applied));
        for second in [20, 30, 40] {
            fold(&mut status, &seen("r2", &images[..1], true), at(second));
            assert_eq!(status.images_left_out, u32::from(second == 20), "at {second}");
            assert!(status.lacks_images(), "at {second}");
        }
        // Until the syncs before are forgotten.
        status.history.pop();
        assert!(!status.lacks_images());
    }

    #[test]
    fn what_ran_before_anybody_looked_is_not_known() {
        // An agent of an earlier version ran it.
        let mut status = EnvironmentStatus { history: vec![record(5, Outcome::Applied)], ..Default::default() };
        assert!(status.lacks_images());
        fold(&mut status, &seen("r1", &["web:1"], true), at(10));
        assert!(status.lacks_images());
        status.history.insert(0, record(12, Outcome::Applied));
        fold(&mut status, &seen("r2", &["web:2"], true), at(13));
        assert!(status.lacks_images());
        status.history.pop();
        assert!(!status.lacks_images());

        // A new environment is known from its first sync on, whatever was refused before.
        let refused = SyncRecord { created: 0, ..record(5, Outcome::Failed) };
        let before = EnvironmentStatus { history: vec![refused], ..Default::default() };
        let mut status = before.clone();
        status.history.insert(0, record(10, Outcome::Applied));
        status.running = Some((&revision(1)).into());
        super::fold(&before, &mut status, &seen("r1", &["web:1"], true), at(12));
        assert!(!status.lacks_images());
    }
}
