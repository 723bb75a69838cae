//! From a commit to the objects that may be applied: tree → render → policy.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use towpath_core::candidate::Candidate;
use towpath_core::components::{Libraries, NamedImage, Pins};
use towpath_core::fault::{Fault, Problem, Problems};
use towpath_core::manifest::ObjectKey;
use towpath_core::policy::{self, Cleared};
use towpath_core::render;
use towpath_core::revision::Revision;

use super::{DesiredKey, Memory, Pass, images, pins};
use crate::blocking::blocking;
use crate::cluster::{AccountClient, Kinds};
use crate::repo::View;

/// Renders that run at one time. More would only hold more trees in memory, on as many threads.
const MAX_RENDERS: usize = 4;

static RENDERING: Semaphore = Semaphore::const_new(MAX_RENDERS);

/// The revision behind a candidate, `None` where the mirror does not have it.
pub(super) async fn revision(view: &View, candidate: Option<&Candidate>) -> Option<Revision> {
    let (mirror, candidate) = (view.mirror.clone(), candidate?.clone());
    blocking(move || mirror.revision(candidate.commit, &candidate.branch)).await.ok()
}

/// What should be there at a revision, with every image that has to be named by its digest named so; and what of newer
/// settings is held back, or which digests no registry has confirmed in an emergency. For what runs already (`is_move` is
/// false) and a digest that is not known that is what was desired before these settings: it is mended meanwhile.
///
/// # Errors
/// Everything that the tree, the render room or the policy room found, and every digest that is not known.
pub(super) async fn desired(
    pass: &Pass<'_>,
    memory: &mut Memory,
    (wanted, is_move): (&Candidate, bool),
    account: &AccountClient,
    kinds: &mut Arc<Kinds>,
) -> Result<(Arc<Cleared>, Vec<Problem>), Vec<Problem>> {
    let mut pins = pins::pins(pass, memory, wanted.commit).await?;
    let before = memory.desired.clone().filter(|(key, _)| !is_move && key.candidate == *wanted);
    let cleared = with_pins(pass, memory, wanted, &pins, kinds).await?;
    let lacking: Vec<_> = cleared.named_images().iter().filter(|named| named.lacks_digest()).collect();
    if lacking.is_empty() {
        return Ok((cleared, Vec::new()));
    }
    let (mut digests, mut asked, mut unsaid) = (Vec::new(), Vec::new(), Vec::new());
    for named in lacking {
        match images::begun(pass, wanted, named) {
            Some(digest) => digests.push((named.path.clone(), named.image.clone(), digest)),
            None => asked.push(named),
        }
    }
    match images::look_up(pass, memory, account, kinds, &asked).await {
        Ok(found) => {
            let found = asked.iter().zip(found);
            digests.extend(found.map(|(named, digest)| (named.path.clone(), named.image.clone(), digest)));
            pins = pins::with_digests(memory, wanted.commit, &pins, digests)?;
        }
        Err(problems) if let Some(ran) = trusted(pass, wanted, &asked, &problems) => {
            digests.extend(ran);
            pins = pins::with_digests(memory, wanted.commit, &pins, digests)?;
            unsaid = problems;
        }
        Err(problems) => {
            if let Some(before) = before {
                let earlier = before.1.clone();
                memory.desired = Some(before);
                return Ok((earlier, problems));
            }
            // It is in git all the same, whatever its images are called.
            memory.wanted = Some(cleared.objects().iter().map(|object| object.key.clone()).collect());
            return Err(problems);
        }
    }
    Ok((with_pins(pass, memory, wanted, &pins, kinds).await?, unsaid))
}

/// The digests with which images ran, where an emergency goes back to them and no registry says that one of them is gone.
fn trusted(
    pass: &Pass<'_>,
    wanted: &Candidate,
    asked: &[&NamedImage],
    problems: &[Problem],
) -> Option<Vec<(String, String, String)>> {
    if !pass.trusts(wanted) || problems.iter().any(images::is_gone) {
        return None;
    }
    let ran =
        |named: &&NamedImage| Some((named.path.clone(), named.image.clone(), images::ran_with(pass, wanted, named)?));
    asked.iter().map(ran).collect()
}

/// What should be there at a revision. What was rendered or refused before is not rendered again.
async fn with_pins(
    pass: &Pass<'_>,
    memory: &mut Memory,
    wanted: &Candidate,
    pins: &Arc<Pins>,
    kinds: &mut Arc<Kinds>,
) -> Result<Arc<Cleared>, Vec<Problem>> {
    let key = |kinds: &Kinds| DesiredKey {
        candidate: wanted.clone(),
        generation: pass.environment.generation,
        kinds: kinds.number,
        pins: pins.clone(),
    };
    if let Some((known, cleared)) = &memory.desired
        && *known == key(kinds)
    {
        return Ok(cleared.clone());
    }
    let parts = Arc::downgrade(&pass.view.parts);
    if let Some((known, by, problems)) = &memory.refused
        && *known == key(kinds)
        && by.ptr_eq(&parts)
    {
        return Err(problems.clone());
    }

    let mut result = render_and_clear(pass, memory, wanted, pins, kinds).await;
    let lacks_a_kind =
        |problems: &Problems| problems.iter().any(|problem| problem.message.starts_with("the cluster has no kind"));
    if result.as_ref().is_err_and(lacks_a_kind) {
        // Somebody may have installed it since the cluster was asked.
        *kinds = pass.cluster.kinds(Some(Instant::now())).await.map_err(|problem| vec![problem])?;
        result = render_and_clear(pass, memory, wanted, pins, kinds).await;
    }
    match result {
        Ok(cleared) => {
            let cleared = Arc::new(cleared);
            memory.desired = Some((key(kinds), cleared.clone()));
            memory.refused = None;
            Ok(cleared)
        }
        Err(problems) => {
            let may_change_without_a_commit = problems.iter().any(|problem| problem.fault != Fault::Content);
            let problems = problems.into_vec();
            if !may_change_without_a_commit {
                memory.refused = Some((key(kinds), parts, problems.clone()));
            }
            Err(problems)
        }
    }
}

async fn render_and_clear(
    pass: &Pass<'_>,
    memory: &mut Memory,
    wanted: &Candidate,
    pins: &Arc<Pins>,
    kinds: &Kinds,
) -> Result<Cleared, Problems> {
    memory.wanted = None;
    let mirror = pass.view.mirror.clone();
    let mut cache = std::mem::take(&mut memory.cache);
    let commit = wanted.commit;
    let environment = pass.environment.clone();
    let facts = render::Facts {
        cluster: pass.cluster_name.to_owned(),
        branch: wanted.branch.clone(),
        commit,
        pins: (**pins).clone(),
        libraries: Libraries::new(),
    };
    let parts = pass.view.parts.clone();
    let turn = RENDERING.acquire().await.expect("the semaphore is never closed");
    let (rendered, cache) = blocking(move || {
        let rendered = mirror.tree(commit).and_then(|tree| {
            let facts = render::Facts { libraries: parts.libraries(&tree), ..facts };
            render::render(&tree, &environment, &facts, Some(&mut cache))
        });
        (rendered, cache)
    })
    .await;
    drop(turn);
    memory.cache = cache;
    let environment = pass.environment;
    // The rules ask about every object, so that what they ask about is what is in git.
    let asked = RefCell::new(Vec::new());
    let claimed = |key: &ObjectKey| {
        asked.borrow_mut().push(key.clone());
        pass.claims.other_than(&environment.name, environment.moved_from.as_ref(), key)
    };
    let facts = policy::Facts { environment, scopes: kinds.scopes(), claimed: &claimed };
    let result = policy::clear(&rendered?, &facts, Some(&mut memory.cleared));
    let is_claim = |problem: &Problem| problem.message.contains(" belongs to environment ");
    // What no rule would allow is no wish that others must heed.
    let is_only_claimed = result.as_ref().is_err_and(|problems| problems.iter().all(is_claim));
    memory.wanted = is_only_claimed.then(|| asked.into_inner().into_iter().collect());
    result
}

/// Whether an object is a ConfigMap that the render room named by the hash of its content.
pub(crate) fn is_hash_named(key: &ObjectKey) -> bool {
    let is_config_map = key.group.is_empty() && key.kind == "ConfigMap";
    let hash = key.name.rsplit_once('-').map_or("", |(_, hash)| hash);
    is_config_map && hash.len() == 10 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}
