//! Which files of a revision are rendered for an environment, and as what.

use std::collections::BTreeMap;

use crate::components::TOWPATH_YAML;
use crate::environment::Environment;
use crate::fault::{Place, Problem};
use crate::tree::{File, Tree};

/// The files of one environment, sorted by what they are for.
#[derive(Debug, Default)]
pub(super) struct Layout<'t> {
    /// Whether `towpath.yaml` is there.
    pub(super) has_declarations: bool,
    /// Files of values, the lowest layer first.
    pub(super) values: Vec<&'t str>,
    /// Manifests that are taken as they are.
    pub(super) plain: Vec<Source<'t>>,
    /// Templates of manifests.
    pub(super) templates: Vec<Source<'t>>,
    /// Partials by name.
    pub(super) partials: BTreeMap<String, Source<'t>>,
    /// For each ConfigMap its files by name.
    pub(super) config: BTreeMap<&'t str, Vec<Source<'t>>>,
    /// Files that somebody may take for manifests and that are not.
    pub(super) warnings: Vec<Problem>,
}

/// One file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'t> {
    pub(super) path: &'t str,
    pub(super) file: &'t File,
}

const TEMPLATES: &str = "templates";
const CONFIG: &str = "config";
const VALUES: &str = "values.yaml";

/// Sorts the files of a revision.
pub(super) fn layout<'t>(tree: &'t Tree, environment: &Environment) -> Result<Layout<'t>, Vec<Problem>> {
    let mut layout = Layout { has_declarations: tree.file(TOWPATH_YAML).is_some(), ..Layout::default() };
    let mut problems = Vec::new();
    let folder = environment.path.trim_matches('/');
    let is_root = matches!(folder, "" | ".");
    if layout.has_declarations {
        let first = folder.split('/').next().unwrap_or_default();
        if is_root || matches!(first, TEMPLATES | CONFIG) {
            return Err(vec![Problem::setup(format!("the path {folder:?} is no folder of an environment")).hint(
                format!(
                    "beside {TOWPATH_YAML} an environment has a folder of its own, such as environments/{}",
                    environment.name
                ),
            )]);
        }
        sort(tree, TEMPLATES, &mut layout, &mut problems);
        sort_config(tree, &mut layout, &mut problems);
    }
    if !is_root && tree.below(folder).next().is_none() {
        let problem = if tree.submodules().any(|(path, _)| path == folder) {
            Problem::content(format!("the path {folder} is a submodule, not a folder"))
        } else {
            Problem::content(format!("there is no folder {folder} in this revision"))
        };
        problems.push(problem.at(Place::file(folder)).hint("correct `path` of the Environment, or add the folder"));
    }
    sort(tree, folder, &mut layout, &mut problems);
    let own_values = if is_root { VALUES.to_owned() } else { format!("{folder}/{VALUES}") };
    if layout.has_declarations {
        layout.values.extend(tree.path(VALUES));
    }
    // In a plain folder values.yaml is a manifest like any other, unless there are templates to see its values.
    if layout.has_declarations || !layout.templates.is_empty() {
        let is_own_values = |source: &Source<'_>| source.path == own_values;
        layout.values.extend(layout.plain.iter().filter(|source| is_own_values(source)).map(|source| source.path));
        layout.plain.retain(|source| !is_own_values(source));
    }
    if problems.is_empty() { Ok(layout) } else { Err(problems) }
}

fn sort<'t>(tree: &'t Tree, folder: &str, layout: &mut Layout<'t>, problems: &mut Vec<Problem>) {
    let skipped = if matches!(folder, "" | ".") { 0 } else { folder.len() + 1 };
    for (path, file) in tree.below(folder) {
        let source = Source { path, file };
        let inner = &path[skipped..];
        let name = inner.rsplit('/').next().unwrap_or(inner);
        if inner.split('/').any(|part| part.starts_with('.')) {
            continue;
        }
        if let Some(what) = foreign(name) {
            problems.push(Problem::content(format!("refused: {what}")).at(Place::file(path)).hint(format!(
                "Towpath renders plain YAML and *.yaml.hbs; render {what} elsewhere and commit the result, or write templates"
            )));
            continue;
        }
        let is_partial = inner.split('/').any(|part| part.starts_with('_'))
            || inner.split('/').next() == Some("partials") && inner != name;
        let is_yaml = |name: &str| name.ends_with(".yaml") || name.ends_with(".yml");
        match name.strip_suffix(".hbs") {
            Some(_) if is_partial => add_partial(inner, source, layout, problems),
            _ if is_partial => {}
            Some(rendered) if is_yaml(rendered) => layout.templates.push(source),
            Some(_) => problems.push(
                Problem::content("a template that is neither of YAML nor a partial")
                    .at(Place::file(path))
                    .hint("call it *.yaml.hbs, or begin its name with _ if it is a partial"),
            ),
            None if is_yaml(name) => layout.plain.push(source),
            None if name.ends_with(".json") => layout.warnings.push(
                Problem::content("not applied: only *.yaml and *.yaml.hbs are")
                    .at(Place::file(path))
                    .hint("JSON is YAML: call it *.yaml"),
            ),
            None => {}
        }
    }
}

fn add_partial<'t>(inner: &str, source: Source<'t>, layout: &mut Layout<'t>, problems: &mut Vec<Problem>) {
    let name = inner.strip_prefix("partials/").unwrap_or(inner);
    let name = name.strip_suffix(".hbs").unwrap_or(name);
    let name = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")).unwrap_or(name);
    if !super::template::is_partial_name(name) {
        problems.push(
            Problem::content(format!("{name:?} is no name of a partial"))
                .at(Place::file(source.path))
                .hint("use letters, digits, _ and - in the names of its file and folders"),
        );
    } else if let Some(other) = layout.partials.insert(name.to_owned(), source) {
        problems.push(
            Problem::content(format!("there is another partial {name}, {}", other.path))
                .at(Place::file(source.path))
                .hint("rename one of the two"),
        );
    }
}

fn sort_config<'t>(tree: &'t Tree, layout: &mut Layout<'t>, problems: &mut Vec<Problem>) {
    for (path, file) in tree.below(CONFIG) {
        let inner = &path[CONFIG.len() + 1..];
        if inner.split('/').any(|part| part.starts_with('.')) {
            continue;
        }
        let parts: Vec<&str> = inner.split('/').collect();
        match parts.as_slice() {
            [name, _] => layout.config.entry(name).or_default().push(Source { path, file }),
            [_] => problems.push(
                Problem::content("a file of configuration without a name for its ConfigMap")
                    .at(Place::file(path))
                    .hint("move it to config/<name>/"),
            ),
            _ => problems.push(
                Problem::content("a folder within a folder of configuration: a ConfigMap has no folders")
                    .at(Place::file(path))
                    .hint("move the file up to config/<name>/, or make it a ConfigMap of its own"),
            ),
        }
    }
}

/// What belongs to another tool. Half of it would look like manifests.
fn foreign(name: &str) -> Option<&'static str> {
    match name {
        "kustomization.yaml" | "kustomization.yml" | "Kustomization" => Some("a kustomization"),
        "Chart.yaml" | "Chart.yml" => Some("a Helm chart"),
        _ => None,
    }
}
