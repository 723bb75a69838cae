//! Other environments that may have in git what this one drops: nothing is deleted before they have looked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use towpath_core::candidate;
use towpath_core::environment::{Environment, SyncMode};
use towpath_core::manifest::ObjectKey;
use towpath_core::names::EnvironmentName;

use super::{Claims, Memory, Pass};
use crate::cluster::Cluster;

/// How long deletions wait for other environments to look at git. One that cannot (its branch is gone, its templates do
/// not render) must not keep another from pruning for good. Until then a look that failed is none: what could not be read
/// may be the very object, which moved there in the commit that somebody is mending now.
const NEIGHBOURS_WITHIN: Duration = Duration::from_secs(60);

/// The first environment that could take one of these objects over and has not looked at git yet. After
/// [`NEIGHBOURS_WITHIN`] nobody is waited for.
pub(super) fn to_wait_for(pass: &Pass<'_>, memory: &mut Memory, keys: &[&ObjectKey]) -> Option<EnvironmentName> {
    let places: BTreeSet<Option<&str>> = keys.iter().map(|key| key.namespace.as_deref()).collect();
    let found = if places.is_empty() {
        None
    } else {
        let neighbours = (pass.neighbours)(&places);
        neighbours.iter().find(|neighbour| !has_looked(pass, neighbour)).map(|neighbour| neighbour.name.clone())
    };
    let Some(name) = found else {
        memory.waits_since = None;
        return None;
    };
    // What comes to the list later waits its own time.
    if !memory.waits_since.as_ref().is_some_and(|(_, known)| keys.iter().all(|key| known.contains(*key))) {
        memory.waits_since = Some((Instant::now(), keys.iter().map(|key| (*key).clone()).collect()));
    }
    let since = memory.waits_since.as_ref().map_or_else(Instant::now, |(since, _)| *since);
    if since.elapsed() >= NEIGHBOURS_WITHIN / pass.time_scale {
        return None;
    }
    pass.claims.wait(&pass.environment.name);
    Some(name)
}

/// Gives objects of an environment to those that have them in git, and wakes these.
pub(super) fn give_away<'a>(
    cluster: &Cluster,
    claims: &Claims,
    from: &EnvironmentName,
    taken: impl Iterator<Item = (&'a ObjectKey, &'a EnvironmentName)>,
) {
    let is_news = |(key, other): &(&ObjectKey, &EnvironmentName)| claims.hand_over(from, other, key);
    for other in taken.filter(is_news).map(|(_, other)| other).collect::<BTreeSet<_>>() {
        cluster.live().wakes(other).moved.notify_one();
    }
}

/// Whether what a neighbour has in git is known as it is now.
fn has_looked(pass: &Pass<'_>, neighbour: &Environment) -> bool {
    let environment = pass.environment;
    let of = |environment: &Environment| (environment.repository_home.clone(), environment.repository.clone());
    let is_beside = of(neighbour) == of(environment);
    // Another repository is looked at in its own time, and a manual environment moves when somebody says so.
    // So does one that waits for others.
    let expected = (is_beside && neighbour.sync == SyncMode::Automatic && neighbour.after.is_empty())
        .then(|| candidate::find(&neighbour.lane, &pass.view.heads, &pass.view.branches).ok())
        .flatten();
    pass.claims.has_looked(&neighbour.name, expected.as_ref())
}
