//! Partials that many deploy repositories share: those of a submodule that `towpath.yaml` names as its library.

use std::collections::BTreeMap;

use super::layout::Source;
use super::template::is_partial_name;
use crate::components::{Libraries, Library};
use crate::fault::{Place, Problem};
use crate::tree::{File, Tree};

/// Where a library has its partials, as a deploy repository has its own.
const PARTIALS: &str = "templates/partials";
/// What the names of its partials begin with.
const PREFIX: &str = "library/";

/// A partial of the library.
#[derive(Debug)]
pub(super) struct Shared<'l> {
    /// `library/<name>`.
    pub(super) name: String,
    /// Its path from the root of the deploy repository, through the submodule.
    pub(super) path: String,
    pub(super) file: &'l File,
}

/// The partials of a library, and what is wrong with the others. They never take the place of own ones: a name that both have is a problem.
pub(super) fn partials<'l>(
    declared: &Library,
    tree: &Tree,
    libraries: &'l Libraries,
    own: &BTreeMap<String, Source<'_>>,
) -> (Vec<Shared<'l>>, Vec<Problem>) {
    let Library { path: folder, place } = declared;
    if tree.submodule(folder).is_none() {
        let problem = Problem::content(format!("library {folder}: there is no submodule at {folder}"));
        let hint = "name the folder of a submodule, or add it with git submodule add";
        return (Vec::new(), vec![problem.at(place.clone()).hint(hint)]);
    }
    let library = match libraries.get(folder) {
        Some(Ok(library)) => library,
        Some(Err(problem)) => return (Vec::new(), vec![problem.clone()]),
        None => {
            let problem = Problem::setup(format!("library {folder}: its files are not known"));
            let hint = "check its submodule out, or ask an agent that may read it";
            return (Vec::new(), vec![problem.at(place.clone()).hint(hint)]);
        }
    };
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for (path, file) in library.below(PARTIALS) {
        let Some(inner) = path[PARTIALS.len() + 1..].strip_suffix(".hbs") else { continue };
        if inner.split('/').any(|part| part.starts_with('.')) {
            continue;
        }
        let inner = inner.strip_suffix(".yaml").or_else(|| inner.strip_suffix(".yml")).unwrap_or(inner);
        let (name, shown) = (format!("{PREFIX}{inner}"), format!("{folder}/{path}"));
        if let Err(problem) = library.text(path) {
            problems.push(problem.at(Place::file(shown)));
        } else if !is_partial_name(&name) {
            problems.push(
                Problem::content(format!("{name:?} is no name of a partial"))
                    .at(Place::file(shown))
                    .hint("use letters, digits, _ and - in the names of its file and folders"),
            );
        } else if let Some(own) = own.get(&name) {
            problems.push(
                Problem::content(format!("the library has a partial {name} too, {shown}"))
                    .at(Place::file(own.path))
                    .hint("move the own one out of partials/library"),
            );
        } else if let Some(other) = found.iter().find(|other: &&Shared<'_>| other.name == name) {
            problems.push(
                Problem::content(format!("there is another partial {name}, {}", other.path))
                    .at(Place::file(shown))
                    .hint("rename one of the two"),
            );
        } else {
            found.push(Shared { name, path: shown, file });
        }
    }
    if found.is_empty() && problems.is_empty() {
        let problem = Problem::content(format!("library {folder}: it has no partials in {PARTIALS}"));
        problems.push(problem.at(place.clone()).hint(format!("a library has {PARTIALS}/<name>.hbs")));
    }
    (found, problems)
}
