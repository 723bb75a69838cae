//! Images of components are looked up before an environment moves to them. What runs already is never asked about.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures::StreamExt;
use towpath_core::candidate::Candidate;
use towpath_core::components::{Check, NamedImage};
use towpath_core::fault::{Fault, Problem};
use towpath_core::manifest::{Identity, ObjectKey};
use towpath_core::policy::Cleared;
use towpath_core::revision::CommitId;
use towpath_core::status::IMAGE_WAIT;

use super::{Memory, Pass, course};
use crate::cluster::{AccountClient, Kinds};
use crate::registry::{ImageName, Keys, Looked, Registries};

/// When an image that was missing is looked for again: at first, and at the longest. Divided by the time scale.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Time for all looks of one pass together: a pass that waits for a silent registry keeps others from theirs.
const LOOKS: Duration = Duration::from_secs(10);
/// Images of one environment that are looked up at one time.
const CONCURRENCY: usize = 4;
/// Images that are remembered to be there.
const MAX_FOUND: usize = 1000;

/// What registries said.
#[derive(Default)]
pub(super) struct Lookups {
    /// Images that are there, and their digests. A tag may move, so it counts for one commit of the component.
    found: HashMap<(String, CommitId), String>,
    /// Images that are waited for.
    waits: BTreeMap<String, Wait>,
    /// The request of a person that was answered by a look.
    request: Option<String>,
    /// Until when this pass looks, once it does.
    until: Option<tokio::time::Instant>,
}

/// An image that is not there, or of which that is not known.
struct Wait {
    problem: Problem,
    looks: u32,
    again: Instant,
    /// Whether anybody still wants it.
    is_wanted: bool,
}

impl Lookups {
    /// Begins a pass: what the last one did not want is forgotten.
    pub(super) fn begin(&mut self) {
        self.waits.retain(|_, wait| std::mem::take(&mut wait.is_wanted));
        self.until = None;
        if self.found.len() > MAX_FOUND {
            self.found.clear();
        }
    }

    /// Whether an image is waited for that may come by itself, whatever is wrong with others.
    pub(super) fn are_waited_for(&self) -> bool {
        self.waits.values().any(|wait| wait.is_wanted && wait.problem.fault == Fault::Passing)
    }

    /// When to look again.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.waits.values().filter(|wait| wait.is_wanted).map(|wait| wait.again).min()
    }
}

/// The images of a revision, as a report tells of them.
pub(super) fn seen(desired: &Cleared) -> Vec<(String, Option<String>)> {
    let component = |image: &str| desired.named_images().iter().find(|named| named.image == image);
    let images = desired.images().into_iter();
    images.map(|image| (image.to_owned(), component(image).map(|named| named.component.clone()))).collect()
}

/// The digest that an image has in the objects of a revision that is applied in part already.
pub(super) fn begun(pass: &Pass<'_>, wanted: &Candidate, named: &NamedImage) -> Option<String> {
    let revision = course::revision_text(wanted);
    let known = pass.status.images.iter().flatten();
    // What runs meanwhile, after a hook said no, does not end what was begun.
    let is_under_way = pass.status.sync.as_ref().is_some_and(|sync| sync.revision == revision);
    let mut known = known.filter(|known| (known.until.is_none() || is_under_way) && known.revision == revision);
    known.find_map(|known| Some(known.image.strip_prefix(&named.image)?.strip_prefix('@')?.to_owned()))
}

/// The digest that an image had when it ran last: in the objects of this revision, or everywhere where it ran at all.
pub(super) fn ran_with(pass: &Pass<'_>, revision: &Candidate, named: &NamedImage) -> Option<String> {
    let text = course::revision_text(revision);
    let known = pass.status.images.iter().flatten().filter_map(|known| {
        let digest = known.image.strip_prefix(&named.image)?.strip_prefix('@')?;
        Some((known.revision == text, digest))
    });
    let known: Vec<(bool, &str)> = known.collect();
    let of_it = known.iter().find(|(is_of_it, _)| *is_of_it);
    // A tag that was moved has several, and only one was meant.
    let only = known.first().filter(|(_, first)| known.iter().all(|(_, digest)| digest == first));
    of_it.or(only).map(|(_, digest)| (*digest).to_owned())
}

/// Whether a registry says that it does not have an image, rather than nothing.
pub(super) fn is_gone(problem: &Problem) -> bool {
    problem.message.starts_with(IMAGE_WAIT)
}

/// Why an environment cannot move to a revision: the images that a registry does not have, or of which that is not known.
pub(super) async fn missing(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    kinds: &Kinds,
    desired: &Cleared,
) -> Vec<Problem> {
    let known = || pass.status.images.iter().flatten();
    let runs = |image: &str| known().any(|known| known.until.is_none() && known.image == image);
    // One that has its digest was looked up for that, or runs.
    let is_asked = |named: &&NamedImage| named.check == Check::Exists && !runs(&named.image);
    let wanted: Vec<&NamedImage> = desired.named_images().iter().filter(is_asked).collect();
    look_up(pass, memory, account, kinds, &wanted).await.err().unwrap_or_default()
}

/// Looks images up, and gives their digests in the same order. An image that was there for a commit of its component is
/// not asked about again, and one that was missing only in its time, or at once when a person asks for a sync.
///
/// # Errors
/// For every image that is missing, or of which that is not known.
pub(super) async fn look_up(
    pass: &Pass<'_>,
    memory: &mut Memory,
    account: &AccountClient,
    kinds: &Kinds,
    wanted: &[&NamedImage],
) -> Result<Vec<String>, Vec<Problem>> {
    let lookups = &mut memory.images;
    let request = pass.request.map(|request| &request.id);
    let is_urged = request.is_some() && lookups.request.as_ref() != request;
    let is_due = |named: &&&NamedImage| {
        let is_known = lookups.found.contains_key(&(named.image.clone(), named.commit));
        let waits = lookups.waits.get(&named.image).is_some_and(|wait| wait.again > Instant::now());
        !is_known && (is_urged || !waits)
    };
    let due: Vec<&NamedImage> = wanted.iter().filter(is_due).copied().collect();
    if !due.is_empty() {
        lookups.request = request.cloned();
        let (keys, lacking) = keys(pass, account, kinds).await.map_err(|problem| vec![problem])?;
        let until = *lookups.until.get_or_insert_with(|| tokio::time::Instant::now() + LOOKS);
        let looked = look_at_all(pass.registries, &due, &keys, &lacking, until).await;
        for (named, looked) in due.iter().zip(looked) {
            match looked {
                Ok(digest) => {
                    lookups.waits.remove(&named.image);
                    lookups.found.insert((named.image.clone(), named.commit), digest);
                }
                Err(problem) => {
                    let looks = lookups.waits.get(&named.image).map_or(0, |wait| wait.looks);
                    let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(looks)).min(LONGEST_PAUSE);
                    let again = Instant::now() + pause / pass.time_scale;
                    let wait = Wait { problem, looks: looks + 1, again, is_wanted: true };
                    lookups.waits.insert(named.image.clone(), wait);
                }
            }
        }
    }
    let mut problems = Vec::new();
    let mut digests = Vec::new();
    for named in wanted {
        if let Some(digest) = lookups.found.get(&(named.image.clone(), named.commit)) {
            digests.push(digest.clone());
        } else if let Some(wait) = lookups.waits.get_mut(&named.image) {
            wait.is_wanted = true;
            problems.push(wait.problem.clone());
        }
    }
    if problems.is_empty() { Ok(digests) } else { Err(problems) }
}

/// Asks registries for images, a few at a time, and until then at the latest.
async fn look_at_all(
    registries: &Registries,
    due: &[&NamedImage],
    keys: &Keys,
    lacking: &[String],
    until: tokio::time::Instant,
) -> Vec<Result<String, Problem>> {
    let looks: Vec<_> = due.iter().map(|named| look(registries, named, keys, lacking, until)).collect();
    futures::stream::iter(looks).buffered(CONCURRENCY).collect().await
}

/// Asks the registry for one image.
async fn look(
    registries: &Registries,
    named: &NamedImage,
    keys: &Keys,
    lacking: &[String],
    until: tokio::time::Instant,
) -> Result<String, Problem> {
    let NamedImage { image, component, version, .. } = named;
    let name = ImageName::parse(image)?;
    let late =
        || Problem::passing(format!("{} s were not enough to ask the registries for all images", LOOKS.as_secs()));
    let looked = tokio::time::timeout_at(until, registries.look_up(&name, keys)).await;
    match looked.unwrap_or_else(|_elapsed| Looked::Unknown(late())) {
        Looked::Found(digest) => Ok(digest),
        Looked::Missing => {
            let host = name.host();
            let said = format!("{IMAGE_WAIT}{image} of component {component} at {version}: {host} does not have it");
            Err(Problem::passing(said).hint("push it; it is looked for again by itself"))
        }
        Looked::Unknown(problem) => {
            let mut said = format!("image {image} of component {component} at {version}: {}", problem.message);
            if problem.fault == Fault::Setup && !lacking.is_empty() {
                said = format!("{said} ({} of spec.imagePullSecrets cannot be read)", lacking.join(", "));
            }
            Err(Problem { message: said, ..problem })
        }
    }
}

/// The logins that the environment names, and the Secrets among them that cannot be read: one may come with the very sync
/// that waits, and matters only where a registry asks for it. They are read as the environment's account, in the namespace
/// of its pods, so that nobody makes the agent use what that account may not see.
///
/// # Errors
/// When a Secret is no pull secret, or the API server does not answer.
async fn keys(pass: &Pass<'_>, account: &AccountClient, kinds: &Kinds) -> Result<(Keys, Vec<String>), Problem> {
    let (mut keys, mut lacking) = (Keys::default(), Vec::new());
    for name in &pass.environment.image_pull_secrets {
        let namespace = Some(pass.environment.namespace.clone());
        let key = Identity { group: String::new(), kind: "Secret".to_owned(), namespace, name: name.clone() };
        let kind = kinds.get("v1", "Secret").ok_or_else(|| Problem::passing("the cluster serves no Secrets now"))?;
        match account.read(kind, &ObjectKey::from(key)).await {
            Ok(Some(secret)) => keys.add(name, &secret)?,
            Ok(None) => lacking.push(format!("Secret {name}")),
            Err(problem) if problem.fault == Fault::Passing => return Err(problem),
            Err(_) => lacking.push(format!("Secret {name}")),
        }
    }
    Ok((keys, lacking))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_registries_cost_a_pass_no_more_than_its_time() {
        crate::repo::init();
        // They take the connection, and say nothing.
        let silent: Vec<_> =
            (0..3 * CONCURRENCY).map(|_| std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let image = |silent: &std::net::TcpListener| NamedImage {
            image: format!("{}/shop/web:v1", silent.local_addr().unwrap()),
            component: "web".to_owned(),
            path: "components/web".to_owned(),
            commit: CommitId::from_bytes([1; 20]),
            version: "v1".to_owned(),
            check: Check::Exists,
        };
        let images: Vec<NamedImage> = silent.iter().map(image).collect();
        let due: Vec<&NamedImage> = images.iter().collect();
        let began = tokio::time::Instant::now();
        let looked = look_at_all(&Registries::default(), &due, &Keys::default(), &[], began + LOOKS).await;
        assert!(began.elapsed() <= LOOKS + Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(looked.len(), due.len());
        for looked in looked {
            assert_eq!(looked.unwrap_err().fault, Fault::Passing);
        }
    }
}
