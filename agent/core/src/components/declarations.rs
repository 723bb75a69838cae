//! `towpath.yaml`, read strictly.

mod not_revertible;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::fault::{Place, Problem};
use crate::tree::Tree;
use crate::yaml::{self, Scan};

pub use self::not_revertible::NotRevertible;

/// The file whose presence selects the layout of templates, configuration and environments.
pub const TOWPATH_YAML: &str = "towpath.yaml";

/// What `towpath.yaml` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declarations {
    /// Who approves changes below a path; the nearest path upwards counts.
    pub approvers: BTreeMap<String, Vec<String>>,
    /// Components by name.
    pub components: BTreeMap<String, Declared>,
    /// Values that must be there once the layers are merged, as keys joined by dots.
    pub required: Vec<Required>,
    /// The submodule whose partials are shared.
    pub library: Option<Library>,
    /// Paths whose changes may not be taken back.
    pub not_revertible: Vec<NotRevertible>,
    /// Rules for tickets, for a later room to read.
    pub tickets: Map<String, Value>,
}

/// What `towpath.yaml` says about one component.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Folder of the submodule; where it is not said, the submodule whose last folder has the component's name.
    pub path: Option<String>,
    /// Repository of the image, without a tag.
    pub image: Option<String>,
    /// How the tag is made: text with `{{commit}}`, `{{short}}`, `{{branch}}` or `{{version}}`.
    pub tag: Option<String>,
    /// Whether its image is looked up in the registry.
    pub check: Check,
    /// Where it is said.
    pub place: Place,
}

/// A submodule whose own files hold partials for many deploy repositories.
#[derive(Clone, Debug, PartialEq)]
pub struct Library {
    /// Folder of the submodule.
    pub path: String,
    /// Where it is said.
    pub place: Place,
}

/// What is asked of a registry before an environment moves to an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Nothing. It is the default, for an agent may be where it reaches no registry, and the nodes that pull do.
    #[default]
    Never,
    /// Whether it is there.
    Exists,
    /// The same, and its digest, by which it is then named.
    Digest,
}

/// One value that must be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Required {
    /// Its keys, joined by dots.
    pub path: String,
    /// The component that needs it, if one does.
    pub component: Option<String>,
    /// Where it is said.
    pub place: Place,
}

/// The folders of the submodules whose files are needed, and not only their commits.
pub fn libraries(declarations: &Declarations) -> Vec<&str> {
    declarations.library.iter().map(|library| library.path.as_str()).collect()
}

impl Declarations {
    /// What a revision says: nothing where it has no `towpath.yaml`.
    ///
    /// # Errors
    /// As [`read_declarations`], and where the file cannot be read.
    pub fn of(tree: &Tree) -> Result<Declarations, Vec<Problem>> {
        let text = tree.text(TOWPATH_YAML).map_err(|problem| vec![problem])?;
        read_declarations(text.unwrap_or_default())
    }
}

/// Reads `towpath.yaml`.
///
/// # Errors
/// Every field that is not known or has the wrong type.
pub fn read_declarations(text: &str) -> Result<Declarations, Vec<Problem>> {
    let flawed = |flaw: yaml::Flaw| vec![flaw.in_file(TOWPATH_YAML)];
    let scan = yaml::scan(text).map_err(flawed)?;
    let mut documents = scan.documents().map_err(flawed)?;
    if documents.len() > 1 {
        return Err(vec![Problem::content("more than one document").at(Place::file(TOWPATH_YAML))]);
    }
    let Some(document) = documents.pop() else { return Ok(Declarations::default()) };
    let mut reader = Reader { scan: &scan, problems: Vec::new() };
    let declarations = reader.declarations(&document.body);
    if reader.problems.is_empty() { Ok(declarations) } else { Err(reader.problems) }
}

/// The fields of the file.
const KEYS: &[&str] = &["approvers", "components", "library", "notRevertible", "required", "tickets"];

struct Reader<'s, 't> {
    scan: &'s Scan<'t>,
    problems: Vec<Problem>,
}

impl Reader<'_, '_> {
    fn place(&self, path: &[&str]) -> Place {
        match self.scan.place_of(0, path) {
            Some((line, column)) => Place::point(TOWPATH_YAML, line, column),
            None => Place::file(TOWPATH_YAML),
        }
    }

    fn problem(&mut self, path: &[&str], message: String, hint: &str) {
        let problem = Problem::content(message).at(self.place(path)).hint(hint);
        self.problems.push(problem);
    }

    /// A map; every key that is not known is a problem. No keys given means that any are allowed.
    fn map<'v>(&mut self, value: &'v Value, path: &[&str], known: &[&str]) -> Vec<(&'v str, &'v Value)> {
        let Value::Object(map) = value else {
            let what = if path.is_empty() { "the document".to_owned() } else { path.join(".") };
            self.problem(path, format!("{what} is no map"), "write `key: value` lines");
            return Vec::new();
        };
        for key in map.keys() {
            if !known.is_empty() && !known.contains(&key.as_str()) {
                let field = [path, &[key]].concat();
                let hint = format!("known here: {}", known.join(", "));
                self.problem(&field, format!("unknown field {}", field.join(".")), &hint);
            }
        }
        map.iter().map(|(key, value)| (key.as_str(), value)).collect()
    }

    fn text(&mut self, value: &Value, path: &[&str]) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.problem(path, format!("{} is no text", path.join(".")), "quote it");
                None
            }
        }
    }

    fn texts(&mut self, value: &Value, path: &[&str]) -> Vec<(String, Place)> {
        let Value::Array(items) = value else {
            self.problem(path, format!("{} is no list", path.join(".")), "write `- item` lines");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let index = index.to_string();
            let path = [path, &[&index]].concat();
            if let Some(text) = self.text(item, &path) {
                texts.push((text, self.place(&path)));
            }
        }
        texts
    }

    fn declarations(&mut self, body: &Value) -> Declarations {
        let mut declarations = Declarations::default();
        for (key, value) in self.map(body, &[], KEYS) {
            match key {
                "approvers" => {
                    for (path, approvers) in self.map(value, &["approvers"], &[]) {
                        let approvers = self.texts(approvers, &["approvers", path]);
                        if approvers.is_empty() {
                            let message = format!("approvers.{path} names nobody");
                            self.problem(
                                &["approvers", path],
                                message,
                                "name at least one approver, or delete the path",
                            );
                        }
                        let approvers = approvers.into_iter().map(|(approver, _)| approver).collect();
                        declarations.approvers.insert(path.trim_matches('/').to_owned(), approvers);
                    }
                }
                "components" => {
                    for (name, component) in self.map(value, &["components"], &[]) {
                        let declared = self.component(component, name, &mut declarations.required);
                        declarations.components.insert(name.to_owned(), declared);
                    }
                }
                "library" => {
                    let path = self.text(value, &["library"]).map(|path| path.trim_matches('/').to_owned());
                    if path.as_ref().is_some_and(String::is_empty) {
                        let hint = "name the folder of a submodule, or delete the line";
                        self.problem(&["library"], "library names nothing".to_owned(), hint);
                    }
                    let place = self.place(&["library"]);
                    declarations.library = path.map(|path| Library { path, place });
                }
                "notRevertible" => declarations.not_revertible = self.not_revertible(value),
                "required" => {
                    let required = self.texts(value, &["required"]);
                    let required = required.into_iter().map(|(path, place)| Required { path, component: None, place });
                    declarations.required.extend(required);
                }
                "tickets" => {
                    self.map(value, &["tickets"], &[]);
                    declarations.tickets = value.as_object().cloned().unwrap_or_default();
                }
                _ => {}
            }
        }
        declarations
    }

    fn component(&mut self, value: &Value, name: &str, required: &mut Vec<Required>) -> Declared {
        let at = ["components", name];
        let mut declared = Declared { path: None, image: None, tag: None, check: Check::Never, place: self.place(&at) };
        for (key, value) in self.map(value, &at, &["path", "image", "tag", "check", "required"]) {
            let field = ["components", name, key];
            if key == "required" {
                let needed = self.texts(value, &field).into_iter();
                let component = Some(name.to_owned());
                required.extend(needed.map(|(path, place)| Required { path, component: component.clone(), place }));
            }
            let text = match key {
                "path" | "image" | "tag" | "check" => self.text(value, &field),
                _ => None,
            };
            let Some(text) = text else { continue };
            match key {
                "path" => declared.path = Some(text.trim_matches('/').to_owned()),
                "tag" => declared.tag = Some(text),
                "check" => match text.as_str() {
                    "Never" => declared.check = Check::Never,
                    "Exists" => declared.check = Check::Exists,
                    "Digest" => declared.check = Check::Digest,
                    _ => {
                        let message = format!("{} cannot be {text:?}", field.join("."));
                        self.problem(&field, message, "write Never, Exists or Digest");
                    }
                },
                _ => {
                    let last = text.rsplit('/').next().unwrap_or(&text);
                    if last.contains([':', '@']) {
                        self.problem(
                            &field,
                            format!("{} has a tag already", field.join(".")),
                            "write the repository alone; the tag comes from the submodule's commit",
                        );
                    }
                    declared.image = Some(text);
                }
            }
        }
        if declared.check != Check::Never && declared.image.is_none() {
            let message = format!("components.{name}.check: there is no image to look up");
            self.problem(&["components", name, "check"], message, "name its image");
        }
        declared
    }
}

/// A file with everything, for tests.
#[cfg(test)]
pub(super) const FULL: &str = r#"
approvers:
  /: [alice]
  environments/prod: [bob, ops]
components:
  web:
    path: components/web
    image: harbor.example:5000/shop/web
    tag: "{{branch}}-{{short}}"
    check: Exists
    required: [web.port]
required: [database.host]
notRevertible:
  - paths: ["migrations/**", "**/schema.sql"]
    reason: the database only goes forward
  - paths: [crds/*.yaml]
tickets: {stages: [test, staging]}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(problems: Vec<Problem>) -> Vec<String> {
        problems.into_iter().map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn a_full_file_is_read() {
        let declarations = read_declarations(FULL).unwrap();
        assert_eq!(declarations.approvers["environments/prod"], ["bob", "ops"]);
        assert_eq!(declarations.approvers[""], ["alice"]);
        let required: Vec<_> =
            declarations.required.iter().map(|one| (one.path.as_str(), one.component.as_deref())).collect();
        assert_eq!(required, [("web.port", Some("web")), ("database.host", None)]);
        assert_eq!(declarations.components["web"].check, Check::Exists);
        let paths: Vec<String> = declarations.not_revertible[0].paths.iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["migrations/**", "**/schema.sql"]);
        let reasons: Vec<&str> = declarations.not_revertible.iter().map(|rule| rule.reason.as_str()).collect();
        assert_eq!(reasons, ["the database only goes forward", ""]);
        assert_eq!(libraries(&declarations), Vec::<&str>::new());
        let declarations = read_declarations("library: libs/shared/\n").unwrap();
        assert_eq!(libraries(&declarations), ["libs/shared"]);
        assert_eq!(declarations.library.unwrap().place, Place::point(TOWPATH_YAML, 1, 1));
        assert_eq!(read_declarations("# nothing yet\n").unwrap(), Declarations::default());
    }

    #[test]
    fn a_typing_error_is_named_with_its_line() {
        for (from, to, expected) in [
            ("approvers:", "approver:", "towpath.yaml:2:1: unknown field approver"),
            ("image:", "imgae:", "towpath.yaml:8:5: unknown field components.web.imgae"),
            ("[alice]", "alice", "towpath.yaml:3:3: approvers./ is no list"),
            ("[alice]", "[]", "towpath.yaml:3:3: approvers./ names nobody"),
            ("shop/web", "shop/web:v1", "towpath.yaml:8:5: components.web.image has a tag already"),
            ("tickets:", "library: {}\ntickets:", "towpath.yaml:17:1: library is no text"),
            ("tickets:", "library: /\ntickets:", "towpath.yaml:17:1: library names nothing"),
            ("[database.host]", "[1]", "towpath.yaml:12:12: required.0 is no text"),
            ("paths: [crds/*.yaml]", "path: crds/*.yaml", "towpath.yaml:16:5: unknown field notRevertible.1.path"),
            ("crds/*.yaml", "", "towpath.yaml:16:5: notRevertible.1 names no paths"),
            ("crds/*.yaml", "crds/", "towpath.yaml:16:13: notRevertible.1.paths cannot be \"crds/\": a folder"),
            ("- paths: [crds/*.yaml]", "- crds/*.yaml", "towpath.yaml:16:5: notRevertible.1 is no map"),
            ("reason: the", "reason: [the]\n    #", "towpath.yaml:15:5: notRevertible.0.reason is no text"),
            ("check: Exists", "check: true", "towpath.yaml:10:5: components.web.check is no text"),
            ("check: Exists", "check: Maybe", "towpath.yaml:10:5: components.web.check cannot be \"Maybe\""),
            (
                "    image: harbor.example:5000/shop/web\n",
                "",
                "towpath.yaml:9:5: components.web.check: there is no image",
            ),
            ("[web.port]", "web.port", "towpath.yaml:11:5: components.web.required is no list"),
        ] {
            let said = messages(read_declarations(&FULL.replace(from, to)).unwrap_err());
            assert!(said[0].starts_with(expected), "{said:?}");
        }
    }
}
