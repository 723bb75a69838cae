//! Renders an environment: a revision's files and an environment's values become manifests, each with the file and
//! line it comes from.
//!
//! It is a function of the tree, the environment and a few facts: no clock, no chance, no look-ups. The same input
//! renders to the same bytes. Everything that is wrong is returned at once, and then nothing is rendered.

mod cache;
mod config_maps;
mod context;
mod helpers;
mod layout;
mod library;
mod nearest;
mod objects;
mod output;
mod partials;
mod reading;
mod scalars;
mod template;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::cache::Piece;
pub use self::cache::RenderCache;
use self::config_maps::Renames;
use self::context::{Context, digest, key_of};
use self::layout::{Layout, Source};
use self::library::Shared;
pub(crate) use self::nearest::nearest;
use self::partials::{cycles, mention, reached};
use self::reading::{LineStarts, excerpt, read_piece, reserved};
use self::template::Template;
use self::walk::{Partials, is_missing};
use crate::components::{self, Component, Declarations, Libraries, NamedImage, Pins};
use crate::environment::Environment;
use crate::fault::{Place, Problem, Problems};
use crate::limits;
use crate::manifest::{Manifest, Packed};
use crate::revision::CommitId;
use crate::tree::Tree;
use crate::values::{self, Values};
use crate::yaml;

/// What a render needs to know beside the tree and the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Name of this agent's cluster.
    pub cluster: String,
    /// The branch that the environment follows: `lane` in templates.
    pub branch: String,
    /// The revision's commit: `revision` in templates.
    pub commit: CommitId,
    /// What is known of the commits of the submodules.
    pub pins: Pins,
    /// The files of the submodules that are libraries.
    pub libraries: Libraries,
}

/// The manifests of one environment at one revision. Only [`render`] builds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    manifests: Vec<Arc<Packed>>,
    images: Vec<NamedImage>,
    warnings: Vec<Problem>,
}

impl Rendered {
    /// The manifests, in order of their files and lines; ConfigMaps of configuration files come last.
    pub fn manifests(&self) -> Vec<Manifest> {
        self.manifests.iter().map(|manifest| manifest.open()).collect()
    }

    /// The same, as they are kept.
    pub fn packed(&self) -> &[Arc<Packed>] {
        &self.manifests
    }

    /// The images of components, whether an object has them or not.
    pub fn images(&self) -> &[NamedImage] {
        &self.images
    }

    /// What is not wrong and should be known: scalars that are read differently elsewhere, templates that change with
    /// every commit.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

/// Renders an environment.
///
/// 1. sort the files by what they are for
/// 2. read what the repository says about itself
/// 3. layer the values
/// 4. read templates and partials, those of the library too
/// 5. render each file, or take from the cache what was rendered before
/// 6. make ConfigMaps of configuration files, and let references follow
///
/// # Errors
/// Everything that is wrong, with file and line.
pub fn render(
    tree: &Tree,
    environment: &Environment,
    facts: &Facts,
    cache: Option<&mut RenderCache>,
) -> Result<Rendered, Problems> {
    let mut own_cache = RenderCache::with_limit(0);
    let cache = cache.unwrap_or(&mut own_cache);
    cache.begin();
    let result = Render { tree, environment, facts, cache, problems: Vec::new(), warnings: Vec::new() }.run();
    cache.end();
    result
}

/// The values of an environment at a revision, layer by layer, each with its source.
///
/// # Errors
/// Every values file that cannot be read.
pub fn layered_values(tree: &Tree, environment: &Environment) -> Result<Values, Problems> {
    let mut problems = Vec::new();
    let layout = layout::layout(tree, environment).unwrap_or_else(|found| {
        problems = found;
        Layout::default()
    });
    let values = layer(tree, environment, &layout.values, &mut problems, &mut Vec::new());
    Problems::check(problems)?;
    Ok(values)
}

fn layer(
    tree: &Tree,
    environment: &Environment,
    files: &[&str],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Values {
    let mut values = Values::default();
    for file in files {
        match tree.text(file) {
            Ok(Some(text)) => match values::read(file, text) {
                Ok(map) => {
                    values.push(*file, map);
                    warnings.extend(values::warnings(file, text));
                }
                Err(found) => problems.extend(found),
            },
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if !environment.values.is_empty() {
        values.push(format!("spec.values of Environment {}", environment.name), environment.values.clone());
    }
    values
}

/// One render, step by step.
struct Render<'r> {
    tree: &'r Tree,
    environment: &'r Environment,
    facts: &'r Facts,
    cache: &'r mut RenderCache,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Render<'_> {
    fn run(mut self) -> Result<Rendered, Problems> {
        let layout = match layout::layout(self.tree, self.environment) {
            Ok(layout) => layout,
            Err(problems) => {
                Problems::check(problems)?;
                Layout::default()
            }
        };
        self.warnings.extend(layout.warnings.iter().cloned());
        let declarations = self.declarations(&layout);
        let components = self.components(&declarations);
        let (problems, warnings) = (&mut self.problems, &mut self.warnings);
        let values = layer(self.tree, self.environment, &layout.values, problems, warnings).merged();
        self.check_required(&declarations, &values, &layout);
        let context = Context::new(self.environment, self.facts, values, &components);

        let facts = self.facts;
        let (shared, found) = declarations.library.as_ref().map_or_else(Default::default, |declared| {
            library::partials(declared, self.tree, &facts.libraries, &layout.partials)
        });
        let is_whole = found.is_empty();
        self.problems.extend(found);
        let partials = self.partials(&layout, shared, is_whole);
        let mut manifests = Vec::new();
        let mut bytes = 0;
        let mut sources: Vec<(Source<'_>, bool)> = Vec::new();
        sources.extend(layout.plain.iter().map(|source| (*source, false)));
        sources.extend(layout.templates.iter().map(|source| (*source, true)));
        sources.sort_by_key(|(source, _)| source.path);
        for (source, is_template) in sources {
            let piece =
                if is_template { self.template(source, &context, partials.as_ref()) } else { self.plain(source) };
            let Some(piece) = piece else { continue };
            bytes += piece.bytes;
            self.warnings.extend(piece.warnings.iter().cloned());
            manifests.extend(piece.manifests.iter().cloned());
            if bytes > limits::MAX_RENDERED_BYTES || manifests.len() > limits::MAX_OBJECTS {
                break;
            }
        }
        let config_maps = self.config_maps(&layout, &context, partials.as_ref(), &manifests);
        let renames: Renames = config_maps.iter().map(|(name, map)| (name.clone(), map.key.name.clone())).collect();
        for manifest in &mut manifests {
            let is_here = manifest.key.namespace.as_ref().is_none_or(|name| *name == self.environment.namespace);
            if is_here && renames.keys().any(|name| manifest.text().contains(&format!("\"{name}\""))) {
                let mut following = manifest.open();
                config_maps::follow(&mut following, &renames);
                *manifest = Arc::new(Packed::of(following));
            }
        }
        for (_, map) in config_maps {
            let map = Packed::of(map);
            bytes += map.text().len();
            manifests.push(Arc::new(map));
        }
        if bytes > limits::MAX_RENDERED_BYTES {
            let limit = limits::MAX_RENDERED_BYTES;
            self.problems.push(Problem::content(format!("the environment renders to more than {limit} bytes")));
        }
        if manifests.len() > limits::MAX_OBJECTS {
            let limit = limits::MAX_OBJECTS;
            self.problems.push(Problem::content(format!("the environment has more than {limit} objects")));
        }
        if self.problems.iter().any(is_missing) {
            // What templates miss may be what a component lacks.
            self.problems.extend(components.values().filter_map(|component| component.lacks.clone()));
        }
        Problems::check(self.problems)?;
        self.warnings.sort();
        self.warnings.dedup();
        let images = components.values().filter_map(Component::named_image).collect();
        Ok(Rendered { manifests, images, warnings: self.warnings })
    }

    fn declarations(&mut self, layout: &Layout<'_>) -> Declarations {
        if !layout.has_declarations {
            return Declarations::default();
        }
        Declarations::of(self.tree).unwrap_or_else(|found| {
            self.problems.extend(found);
            Declarations::default()
        })
    }

    fn components(&mut self, declarations: &Declarations) -> BTreeMap<String, Component> {
        // Nothing here is fetched by what it says, but a file that could lead somebody astray is refused all the same.
        self.problems.extend(components::submodules_of(self.tree).err().unwrap_or_default());
        components::components(self.tree, declarations, &self.facts.branch, &self.facts.pins).unwrap_or_else(|found| {
            self.problems.extend(found);
            BTreeMap::new()
        })
    }

    fn check_required(&mut self, declarations: &Declarations, values: &Map<String, Value>, layout: &Layout<'_>) {
        for required in &declarations.required {
            let path: Vec<&str> = required.path.split('.').collect();
            if values::find(values, &path).is_none() {
                let files = layout.values.join(" or ");
                let hint = if files.is_empty() { "add a values.yaml".to_owned() } else { format!("add it to {files}") };
                let component =
                    required.component.as_ref().map(|name| format!("component {name}: ")).unwrap_or_default();
                let message = format!("{component}required variable values.{} is missing", required.path);
                self.problems.push(Problem::content(message).at(required.place.clone()).hint(hint));
            }
        }
    }

    /// All partials, with those of the library, which may not be whole already. `None` where one of them cannot be read:
    /// then templates are read and not rendered.
    fn partials(&mut self, layout: &Layout<'_>, library: Vec<Shared<'_>>, mut is_whole: bool) -> Option<Partials> {
        let mut partials = Partials::new();
        for shared in library {
            match self.compiled(Source { path: &shared.path, file: shared.file }) {
                Some(template) => {
                    partials.insert(shared.name, template);
                }
                None => is_whole = false,
            }
        }
        for (name, source) in &layout.partials {
            match self.compiled(*source) {
                Some(template) => {
                    partials.insert(name.clone(), template);
                }
                None => is_whole = false,
            }
        }
        if !is_whole {
            return None;
        }
        let before = self.problems.len();
        for template in partials.values() {
            self.check_partials(template, &partials);
        }
        self.problems.extend(cycles(&partials));
        (self.problems.len() == before).then_some(partials)
    }

    /// Every partial that a template names must be there.
    fn check_partials(&mut self, template: &Template, partials: &Partials) -> bool {
        let mut is_whole = true;
        for (name, at) in &template.partials {
            if !partials.contains_key(name) {
                is_whole = false;
                let place = Place::point(&*template.file, at.line, at.column);
                let near = nearest(name, partials.keys().map(String::as_str));
                let hint = match near {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("partials are templates/partials/{name}.hbs, or files that begin with _"),
                };
                self.problems.push(Problem::content(format!("there is no partial {name}")).at(place).hint(hint));
            }
        }
        is_whole
    }

    fn compiled(&mut self, source: Source<'_>) -> Option<Arc<Template>> {
        if let Some(template) = self.cache.template(source.file.id, source.path) {
            return Some(template);
        }
        let text = self.text(source)?;
        match template::compile(source.path, text) {
            Ok(template) => {
                let template = Arc::new(template);
                self.cache.keep_template(source.file.id, &template);
                Some(template)
            }
            Err(found) => {
                self.problems.extend(found);
                None
            }
        }
    }

    fn text<'s>(&mut self, source: Source<'s>) -> Option<&'s str>
    where
        Self: 's,
    {
        // The tree checks what a text must be; the bytes are the source's own.
        match self.tree.text(source.path) {
            Ok(_) => std::str::from_utf8(&source.file.bytes).ok(),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// A file of manifests as it is.
    fn plain(&mut self, source: Source<'_>) -> Option<Arc<Piece>> {
        let key = digest(&[b"plain", source.path.as_bytes(), source.file.id.as_bytes()]);
        if let Some(piece) = self.cache.piece(&key) {
            return Some(piece);
        }
        let text = self.text(source)?;
        let place = |line: u32| Place::line(source.path, line);
        let mut found = Vec::new();
        let piece = read_piece(yaml::scan(text), &place, &mut found);
        if found.is_empty() && piece.as_ref().is_some_and(|piece| piece.manifests.is_empty()) {
            found.push(
                Problem::content("no objects in this file")
                    .at(Place::file(source.path))
                    .hint("delete the file, or begin its name with _"),
            );
        }
        self.keep(key, piece, found)
    }

    /// A template of manifests.
    fn template(&mut self, source: Source<'_>, context: &Context, partials: Option<&Partials>) -> Option<Arc<Piece>> {
        let template = self.compiled(source)?;
        let partials = partials?;
        if !self.check_partials(&template, partials) {
            return None;
        }
        let reached = reached(&template, partials);
        let key = key_of(source, &template, &reached, context);
        if let Some(piece) = self.cache.piece(&key) {
            return Some(piece);
        }
        let text = match walk::render(&template, partials, &context.root) {
            Ok(text) => text,
            Err(found) => {
                self.problems.extend(found);
                return None;
            }
        };
        let mut found = reserved(&text);
        let scan = yaml::scan(&text.text);
        found.extend(scalars::check(&text, scan.as_ref()));
        let mut piece = None;
        if found.is_empty() {
            let lines = LineStarts::of(&text.text);
            let place = |line: u32| lines.origin(&text, line, source.path);
            piece = read_piece(scan, &place, &mut found);
        }
        for problem in &mut found {
            excerpt(problem, &text, &template, &reached);
        }
        if let Some(piece) = &mut piece
            && let Some(place) = mention(&template, &reached, "revision")
        {
            piece.warnings.push(
                Problem::content("uses revision: the objects are applied again at each commit")
                    .at(place)
                    .hint("the ledger and the page say which revision runs"),
            );
        }
        self.keep(key, piece, found)
    }

    fn keep(&mut self, key: [u8; 32], piece: Option<Piece>, found: Vec<Problem>) -> Option<Arc<Piece>> {
        if !found.is_empty() {
            self.problems.extend(found);
            return None;
        }
        let piece = Arc::new(piece?);
        self.cache.keep_piece(key, &piece);
        Some(piece)
    }

    /// The ConfigMaps of configuration files, by the names that people write.
    fn config_maps(
        &mut self,
        layout: &Layout<'_>,
        context: &Context,
        partials: Option<&Partials>,
        manifests: &[Arc<Packed>],
    ) -> BTreeMap<String, Manifest> {
        let mut config_maps = BTreeMap::new();
        for (name, sources) in &layout.config {
            let folder = format!("config/{name}");
            let mut files = BTreeMap::new();
            for source in sources {
                let file_name = source.path.rsplit('/').next().unwrap_or(source.path);
                let (key, bytes) = match file_name.strip_suffix(".hbs") {
                    Some(key) => (key, self.configuration(*source, context, partials)),
                    None => (file_name, self.bytes(*source)),
                };
                let Some(bytes) = bytes else { continue };
                if files.insert(key.to_owned(), bytes).is_some() {
                    let message = format!("two files make the key {key} of the ConfigMap {name}");
                    self.problems.push(Problem::content(message).at(Place::file(source.path)).hint("delete one"));
                }
            }
            if let Some(other) = manifests
                .iter()
                .find(|other| other.key.kind == "ConfigMap" && other.key.group.is_empty() && other.key.name == **name)
            {
                let message = format!("there is a ConfigMap {name} already, of {folder}");
                self.problems
                    .push(Problem::content(message).at(other.source.clone()).hint("rename the folder or the object"));
            }
            match config_maps::config_map(&folder, name, &files) {
                Ok(map) if objects::size_of(&map.body) > limits::MAX_OBJECT_BYTES => {
                    let limit = limits::MAX_OBJECT_BYTES;
                    let message = format!("the ConfigMap has more than the {limit} bytes a cluster takes");
                    self.problems.push(Problem::content(message).at(Place::file(folder)).hint("split it"));
                }
                Ok(map) => {
                    config_maps.insert((*name).to_owned(), map);
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        config_maps
    }

    /// A file of configuration as it is, text or not.
    fn bytes(&mut self, source: Source<'_>) -> Option<Vec<u8>> {
        match self.tree.text(source.path) {
            Err(problem) if std::str::from_utf8(&source.file.bytes).is_ok() => {
                self.problems.push(problem);
                None
            }
            _ => Some(source.file.bytes.to_vec()),
        }
    }

    /// A file of configuration that is a template.
    fn configuration(&mut self, source: Source<'_>, context: &Context, partials: Option<&Partials>) -> Option<Vec<u8>> {
        let template = self.compiled(source)?;
        let partials = partials?;
        if !self.check_partials(&template, partials) {
            return None;
        }
        match walk::render(&template, partials, &context.root) {
            Ok(text) => Some(text.text.into_bytes()),
            Err(found) => {
                self.problems.extend(found);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
