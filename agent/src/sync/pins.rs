//! What is known of the components of a revision: from what runs, else from their own repositories.
//!
//! A component that stays on the commit that runs keeps the version and digest that it runs with. So a tag that is made
//! or moved later releases nothing by itself, and what runs is mended also where a component's server is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use towpath_core::components::Pins;
use towpath_core::fault::{Problem, Problems};
use towpath_core::revision::CommitId;
use towpath_core::status::ComponentStatus;

use super::{Memory, Pass};
use crate::blocking::blocking;
use crate::repo::Parts;

/// Revisions whose components are remembered: what runs, and what it moves to.
const MAX_REMEMBERED: usize = 2;

/// What was known of the components of some revisions, and by what.
#[derive(Default)]
pub(super) struct Remembered(BTreeMap<CommitId, Known>);

struct Known {
    /// Not held: what nobody needs any more can be opened anew.
    by: Weak<Parts>,
    pins: Arc<Pins>,
    /// The commits that the submodules are pinned to, by their folders.
    commits: BTreeMap<String, CommitId>,
}

impl Memory {
    /// The components of a revision, as a status keeps them.
    pub(super) fn components_of(&self, commit: CommitId) -> Vec<ComponentStatus> {
        let Some(Known { pins, commits, .. }) = self.pins.0.get(&commit) else { return Vec::new() };
        let known = pins.iter().filter_map(|(path, pin)| {
            let pin = pin.as_ref().ok()?;
            Some(ComponentStatus {
                path: path.clone(),
                commit: commits.get(path)?.to_string(),
                committed_at: pin.committed_at,
                version: pin.version.clone().ok(),
                git_tag: pin.git_tag.clone().ok(),
                digests: pin.digests.clone(),
            })
        });
        known.collect()
    }
}

/// What is known of the components of a revision.
///
/// # Errors
/// When the revision cannot be read.
pub(super) async fn pins(pass: &Pass<'_>, memory: &mut Memory, commit: CommitId) -> Result<Arc<Pins>, Vec<Problem>> {
    let parts = pass.view.parts.clone();
    if let Some(known) = memory.pins.0.get(&commit)
        && std::ptr::eq(known.by.as_ptr(), Arc::as_ptr(&parts))
    {
        return Ok(known.pins.clone());
    }
    let running = pass.status.components.clone();
    // The same commit has the same components: what was looked up of them is not asked again.
    let before = memory.pins.0.get(&commit).map(|known| known.pins.clone()).unwrap_or_default();
    let (mirror, by) = (pass.view.mirror.clone(), parts.clone());
    let (pins, commits) = blocking(move || {
        let tree = mirror.tree(commit)?;
        let commits = tree.submodules().map(|(path, commit)| (path.to_owned(), commit)).collect();
        let pins = by.of(&tree).into_iter().map(|pinned| {
            let path = pinned.submodule.path.clone();
            let runs = ComponentStatus::find(&running, &path, pinned.commit);
            // Whoever reads of it wants to know who released it.
            let by_whom = |problem: Problem| match mirror.brought(commit, &path) {
                Some(brought) => {
                    let message = format!("{} (pinned by {} here)", problem.message, brought.short());
                    Problem { message, ..problem }
                }
                None => problem,
            };
            let look = || pinned.pin().map_err(by_whom);
            let mut pin = runs.map_or_else(look, |runs| Ok(runs.pin(look)));
            if let (Ok(pin), Some(Ok(before))) = (&mut pin, before.get(&path)) {
                let known = before.digests.iter().map(|(image, digest)| (image.clone(), digest.clone()));
                pin.digests = known.chain(std::mem::take(&mut pin.digests)).collect();
            }
            (path, pin)
        });
        Ok::<_, Problems>((pins.collect::<Pins>(), commits))
    })
    .await
    .map_err(|problems| problems.into_vec())?;
    let pins = Arc::new(pins);
    if memory.pins.0.len() >= MAX_REMEMBERED && !memory.pins.0.contains_key(&commit) {
        memory.pins.0.clear();
    }
    memory.pins.0.insert(commit, Known { by: Arc::downgrade(&parts), pins: pins.clone(), commits });
    Ok(pins)
}

/// The same, with digests of images: the folder of the component, the image with its tag, the digest. They are remembered.
///
/// # Errors
/// Why nothing is known of a component: then its image cannot be pinned.
pub(super) fn with_digests(
    memory: &mut Memory,
    commit: CommitId,
    pins: &Arc<Pins>,
    digests: Vec<(String, String, String)>,
) -> Result<Arc<Pins>, Vec<Problem>> {
    let mut pinned = (**pins).clone();
    let mut problems = Vec::new();
    for (path, image, digest) in digests {
        match pinned.get_mut(&path) {
            Some(Ok(pin)) => drop(pin.digests.insert(image, digest)),
            Some(Err(problem)) => problems.push(problem.clone()),
            None => problems.push(Problem::passing(format!("nothing is known of component {path} yet"))),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let pins = Arc::new(pinned);
    if let Some(known) = memory.pins.0.get_mut(&commit) {
        known.pins = pins.clone();
    }
    Ok(pins)
}
