//! Namespaces on their way out: nothing can be made in them, so nothing is tried, and what holds them is said.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use towpath_core::fault::{Fault, Problem};
use towpath_core::manifest::ObjectKey;
use towpath_core::policy::Cleared;

use super::{Memory, Pass};
use crate::cluster::NamespaceState;

/// How soon it is asked again whether a namespace is gone. Each time it takes twice as long.
const FIRST: Duration = Duration::from_secs(2);
/// The longest time until it is asked again.
const LONGEST: Duration = Duration::from_secs(60);

/// A namespace that is being deleted.
pub(super) struct Ending {
    /// What to say of it.
    pub(super) problem: Problem,
    tries: u32,
    again: Instant,
}

/// Asks again about namespaces that were on their way out, each in its time.
pub(super) async fn look(pass: &Pass<'_>, memory: &mut Memory, desired: &Cleared) {
    let now = Instant::now();
    // One that git declares is watched, and says by itself when it goes and when it is gone.
    for object in desired.objects().iter().filter(|object| is_namespace(&object.key)) {
        let seen = pass.cluster.live().get(&pass.environment.name, &object.key);
        match (seen, memory.ending.get_mut(&object.key.name)) {
            (Some(row), None) if row.seen.terminating.is_some() => ask(pass, memory, desired, &object.key.name).await,
            (None, Some(ending)) => ending.again = now,
            _ => {}
        }
    }
    let due = |ending: &Ending| ending.again <= now || pass.request.is_some();
    let names: Vec<String> =
        memory.ending.iter().filter(|(_, ending)| due(ending)).map(|(name, _)| name.clone()).collect();
    for name in names {
        ask(pass, memory, desired, &name).await;
    }
}

/// Puts one problem for each namespace in the place of what failed because it is on its way out. A right that is missing
/// may have gone with it, for the RoleBindings of a namespace are among the first things that go.
pub(super) async fn learn(pass: &Pass<'_>, memory: &mut Memory, desired: &Cleared, problems: &mut Vec<Problem>) {
    let refused: BTreeSet<String> = problems.iter().filter_map(|problem| refused_in(&problem.message)).collect();
    let forbidden: BTreeSet<String> = problems.iter().filter_map(|problem| forbidden_in(&problem.message)).collect();
    for name in refused.union(&forbidden) {
        if memory.ending.contains_key(name) {
            continue;
        }
        if refused.contains(name) {
            // What was refused is a fact, whether the namespace can be asked for or not.
            let again = Instant::now() + FIRST / pass.time_scale;
            memory.ending.insert(name.clone(), Ending { problem: problem(desired, name, ""), tries: 0, again });
        }
        ask(pass, memory, desired, name).await;
    }
    let mut said = Vec::new();
    problems.retain(|problem| {
        let name = refused_in(&problem.message).or_else(|| forbidden_in(&problem.message));
        let ending = name.as_ref().and_then(|name| memory.ending.get(name));
        said.extend(ending.map(|ending| ending.problem.clone()));
        ending.is_none()
    });
    said.sort();
    said.dedup();
    problems.extend(said);
}

async fn ask(pass: &Pass<'_>, memory: &mut Memory, desired: &Cleared, name: &str) {
    let tries = memory.ending.get(name).map_or(0, |ending| ending.tries);
    let pause = FIRST.saturating_mul(2u32.saturating_pow(tries)).min(LONGEST) / pass.time_scale;
    let again = Instant::now() + pause;
    match pass.cluster.namespace_state(name).await {
        Ok(NamespaceState::Terminating(held)) => {
            let problem = problem(desired, name, &held);
            memory.ending.insert(name.to_owned(), Ending { problem, tries: tries + 1, again });
        }
        Ok(NamespaceState::Absent | NamespaceState::Active) => drop(memory.ending.remove(name)),
        // What may not be asked is found out by trying, in its time.
        Err(error) => match memory.ending.get_mut(name) {
            Some(ending) if error.fault == Fault::Passing || ending.again > Instant::now() => {
                ending.tries = tries + 1;
                ending.again = again;
            }
            _ => drop(memory.ending.remove(name)),
        },
    }
}

fn problem(desired: &Cleared, name: &str, held: &str) -> Problem {
    let held = if held.is_empty() { String::new() } else { format!(": {held}") };
    let said = format!("namespace {name} is being deleted, and nothing can be made in it{held}");
    if desired.objects().iter().any(|object| is_namespace(&object.key) && object.key.name == name) {
        return Problem::passing(said).hint("it is made anew when it is gone, for git has it");
    }
    Problem::setup(said).hint("make it anew when it is gone, or delete the Environment")
}

fn is_namespace(key: &ObjectKey) -> bool {
    key.group.is_empty() && key.kind == "Namespace"
}

/// The namespace in which the API server refused to make something because it is on its way out. The words are those of
/// its admission plugin NamespaceLifecycle.
fn refused_in(message: &str) -> Option<String> {
    let (before, _) = message.split_once(" because it is being terminated")?;
    let (_, name) = before.rsplit_once("in namespace ")?;
    Some(name.trim_matches('"').to_owned())
}

/// The namespace in which a right is missing. The words are those of its authorizer.
fn forbidden_in(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("in the namespace \"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_says_names_the_namespace() {
        let said = "ConfigMap gone/a: configmaps \"a\" is forbidden: unable to create new content in namespace gone \
                    because it is being terminated";
        assert_eq!(refused_in(said), Some("gone".to_owned()));
        assert_eq!(refused_in("namespaces \"gone\" not found"), None);
        let said = "configmaps is forbidden: User \"x\" cannot list resource \"configmaps\" in API group \"\" in the \
                    namespace \"gone\"";
        assert_eq!(forbidden_in(said), Some("gone".to_owned()));
    }
}
