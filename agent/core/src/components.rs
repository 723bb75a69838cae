//! What the deploy repository says about itself: `towpath.yaml`, and its submodules with `.gitmodules`.
//!
//! Both are read strictly. A field that is not known is an error with its name and line, for a typing error in
//! `approvers` would otherwise open a door in silence.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::fault::{Place, Problem};
use crate::lane;
use crate::limits;
use crate::revision::CommitId;
use crate::tree::Tree;
use crate::yaml::{self, Scan};

/// The file whose presence selects the layout of templates, configuration and environments.
pub const TOWPATH_YAML: &str = "towpath.yaml";

/// The file in which git keeps what it knows of submodules.
pub const GITMODULES: &str = ".gitmodules";

/// What `towpath.yaml` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declarations {
    /// Who approves changes below a path; the nearest path upwards counts.
    pub approvers: BTreeMap<String, Vec<String>>,
    /// Components by name.
    pub components: BTreeMap<String, Declared>,
    /// Values that must be there once the layers are merged, as keys joined by dots.
    pub required: Vec<Required>,
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
    /// Where it is said.
    pub place: Place,
}

/// One value that must be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Required {
    /// Its keys, joined by dots.
    pub path: String,
    /// Where it is said.
    pub place: Place,
}

/// One submodule as `.gitmodules` has it. The address is only read; nothing is contacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submodule {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub path: String,
    /// Where its commits come from: https, ssh, `user@host:path`, or a path relative to the deploy repository's own
    /// address.
    pub url: String,
    /// The branch that it follows.
    pub branch: Option<String>,
}

/// A component at one revision of the deploy repository: what templates see as `components.<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name: what `towpath.yaml` calls it, else the last folder of its path.
    pub name: String,
    /// Folder of the submodule.
    pub path: String,
    /// Its commit.
    pub commit: CommitId,
    /// The branch: the lane's.
    pub branch: String,
    /// `vX.Y-count-commit`, once tags are read.
    pub version: Option<String>,
    /// Tag of its image.
    pub tag: String,
    /// Image with its tag, where `towpath.yaml` names the image.
    pub image: Option<String>,
}

impl Component {
    /// The first 7 digits of its commit.
    pub fn short(&self) -> String {
        self.commit.short()
    }

    /// What templates see.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, value: &str| map.insert(key.to_owned(), Value::from(value));
        put("commit", &self.commit.to_string());
        put("short", &self.short());
        put("branch", &self.branch);
        put("tag", &self.tag);
        put("path", &self.path);
        if let Some(image) = &self.image {
            put("image", image);
        }
        if let Some(version) = &self.version {
            put("version", version);
        }
        Value::Object(map)
    }
}

/// The components of a revision, by name.
///
/// # Errors
/// Every declaration that fits no submodule, every name that two submodules share, every tag that is none.
pub fn components(
    tree: &Tree,
    declarations: &Declarations,
    branch: &str,
) -> Result<BTreeMap<String, Component>, Vec<Problem>> {
    let submodules: BTreeMap<&str, CommitId> = tree.submodules().collect();
    let mut problems = Vec::new();
    let mut components = BTreeMap::new();
    let mut declared_paths = BTreeSet::new();
    for (name, declared) in &declarations.components {
        let path = match &declared.path {
            Some(path) => submodules.get_key_value(&**path).map(|(path, _)| *path),
            None => submodules.keys().copied().find(|path| last_part(path) == name),
        };
        let Some(path) = path else {
            let message = match &declared.path {
                Some(path) => format!("component {name}: there is no submodule at {path}"),
                None => format!("component {name}: there is no submodule of that name"),
            };
            let hint = "add it with git submodule add, or name its folder as `path`";
            problems.push(Problem::content(message).at(declared.place.clone()).hint(hint));
            continue;
        };
        declared_paths.insert(path);
        match component(name, path, submodules[path], branch, Some(declared)) {
            Ok(component) => {
                components.insert(name.clone(), component);
            }
            Err(problem) => problems.push(problem),
        }
    }
    for (path, commit) in submodules {
        if declared_paths.contains(path) {
            continue;
        }
        let name = last_part(path);
        if components.contains_key(name) {
            let hint = format!("name both under `components` in {TOWPATH_YAML}, each with its path");
            problems
                .push(Problem::content(format!("two submodules are called {name}")).at(Place::file(path)).hint(hint));
            continue;
        }
        match component(name, path, commit, branch, None) {
            Ok(component) => {
                components.insert(name.to_owned(), component);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(components) } else { Err(problems) }
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn component(
    name: &str,
    path: &str,
    commit: CommitId,
    branch: &str,
    declared: Option<&Declared>,
) -> Result<Component, Problem> {
    let mut tag = commit.short();
    if let Some(declared) = declared
        && let Some(template) = &declared.tag
    {
        let refuse = |message: String, hint: &str| {
            Problem::content(format!("component {name}: {message}")).at(declared.place.clone()).hint(hint)
        };
        tag = fill(template, |variable| match variable {
            "commit" => Ok(commit.to_string()),
            "short" => Ok(commit.short()),
            "branch" => Ok(branch.to_owned()),
            "version" => {
                Err(refuse("its tag needs the version".to_owned(), "versions come from tags, not available yet"))
            }
            other => Err(refuse(
                format!("its tag has {{{{{other}}}}}"),
                "a tag is made of {{commit}}, {{short}}, {{branch}} and {{version}}",
            )),
        })?;
        if !is_tag(&tag) {
            return Err(refuse(
                format!("{tag:?} is no tag of an image"),
                "use letters, digits, _, - and ., at most 128 of them",
            ));
        }
    }
    let image = declared.and_then(|declared| declared.image.as_ref()).map(|image| format!("{image}:{tag}"));
    let (name, path, branch) = (name.to_owned(), path.to_owned(), branch.to_owned());
    Ok(Component { name, path, commit, branch, version: None, tag, image })
}

/// Puts variables into a text with `{{name}}`.
fn fill(template: &str, mut value: impl FnMut(&str) -> Result<String, Problem>) -> Result<String, Problem> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(&value(name.trim())?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Whether a registry would take a text as a tag.
fn is_tag(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(good) && !text.starts_with(['.', '-'])
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
        for (key, value) in self.map(body, &[], &["approvers", "components", "required", "tickets"]) {
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
                        let declared = self.component(component, name);
                        declarations.components.insert(name.to_owned(), declared);
                    }
                }
                "required" => {
                    let required = self.texts(value, &["required"]);
                    declarations.required =
                        required.into_iter().map(|(path, place)| Required { path, place }).collect();
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

    fn component(&mut self, value: &Value, name: &str) -> Declared {
        let at = ["components", name];
        let mut declared = Declared { path: None, image: None, tag: None, place: self.place(&at) };
        for (key, value) in self.map(value, &at, &["path", "image", "tag"]) {
            let field = ["components", name, key];
            let text = match key {
                "path" | "image" | "tag" => self.text(value, &field),
                _ => None,
            };
            let Some(text) = text else { continue };
            match key {
                "path" => declared.path = Some(text.trim_matches('/').to_owned()),
                "tag" => declared.tag = Some(text),
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
        declared
    }
}

/// Reads `.gitmodules`: strictly, for git's own reader has been the way in for more than one attack.
///
/// What git does with `update`, `fetchRecurseSubmodules`, `ignore` and `shallow` does not concern a reader of objects;
/// these are passed over.
///
/// # Errors
/// Every name, path, address or branch that is not plain.
pub fn read_gitmodules(text: &str) -> Result<Vec<Submodule>, Vec<Problem>> {
    let problem = |line: usize, message: String| {
        Problem::content(message).at(Place::line(GITMODULES, u32::try_from(line).unwrap_or(u32::MAX)))
    };
    if text.len() > limits::MAX_GITMODULES_BYTES {
        let limit = limits::MAX_GITMODULES_BYTES;
        return Err(vec![Problem::content(format!("more than {limit} bytes")).at(Place::file(GITMODULES))]);
    }
    let mut problems = Vec::new();
    let mut sections: Vec<(String, usize, BTreeMap<String, String>)> = Vec::new();
    for (index, raw) in text.split('\n').enumerate() {
        let number = index + 1;
        let line = raw.trim_matches([' ', '\t']);
        if line.chars().any(char::is_control) {
            problems.push(problem(number, "a control character".to_owned()).hint("save the file with plain line ends"));
            continue;
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            let name = line.strip_prefix("[submodule \"").and_then(|rest| rest.strip_suffix("\"]"));
            match name {
                Some(name) if is_submodule_path(name) => {
                    if sections.iter().any(|(other, ..)| other.eq_ignore_ascii_case(name)) {
                        problems.push(problem(number, format!("submodule {name:?} is there twice")));
                    }
                    sections.push((name.to_owned(), number, BTreeMap::new()));
                }
                Some(name) => problems.push(problem(number, format!("refused name of a submodule: {name:?}"))),
                None => problems.push(problem(number, "not a section of the form [submodule \"name\"]".to_owned())),
            }
            if sections.len() > limits::MAX_SUBMODULES {
                let limit = limits::MAX_SUBMODULES;
                problems.push(problem(number, format!("more than {limit} submodules")));
                return Err(problems);
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            problems.push(problem(number, "not of the form `key = value`".to_owned()));
            continue;
        };
        let key = key.trim().to_ascii_lowercase();
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        if value.contains(['"', '\\', '#', ';']) {
            problems.push(problem(number, format!("the value of {key} has quotes, comments or escapes in it")));
            continue;
        }
        let Some((name, _, section)) = sections.last_mut() else {
            problems.push(problem(number, "a value before the first section".to_owned()));
            continue;
        };
        let verdict = match &*key {
            "path" if !is_submodule_path(value) => Err("a path that leaves its place"),
            "url" => check_url(value),
            "branch" if value != "." && !lane::is_branch_name(value) => Err("no name of a branch"),
            "path" | "branch" => Ok(()),
            "update" | "fetchrecursesubmodules" | "ignore" | "shallow" => continue,
            _ => Err("an unknown key"),
        };
        if let Err(why) = verdict {
            // An address can hold a password, so it is not repeated.
            problems.push(problem(number, format!("submodule {name:?}: refused {key}: {why}")));
        } else if section.insert(key.clone(), value.to_owned()).is_some() {
            problems.push(problem(number, format!("submodule {name:?}: {key} is said twice")));
        }
    }
    let mut paths = BTreeSet::new();
    let mut submodules = Vec::new();
    for (name, line, mut section) in sections {
        let branch = section.remove("branch");
        match (section.remove("path"), section.remove("url")) {
            (Some(path), Some(url)) => {
                if !paths.insert(path.to_lowercase()) {
                    problems.push(problem(line, format!("two submodules at the path {path}")));
                }
                submodules.push(Submodule { name, path, url, branch });
            }
            _ if problems.is_empty() => {
                problems.push(problem(line, format!("submodule {name:?} needs a path and a url")));
            }
            _ => {}
        }
    }
    if problems.is_empty() { Ok(submodules) } else { Err(problems) }
}

/// A relative path of plain folder names.
fn is_submodule_path(path: &str) -> bool {
    let good = |part: &str| {
        let folded = part.to_lowercase();
        !part.is_empty()
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && !part.ends_with(['.', ' '])
            && folded != ".git"
            && !folded.starts_with("git~")
            && part.chars().all(|c| !c.is_control() && !matches!(c, '\\' | ':' | '"' | '\u{200b}'..='\u{200f}'))
    };
    path.len() <= 4096 && path.split('/').all(good)
}

/// The grammar of addresses: https and ssh with plain hosts and paths, `user@host:path`, or a relative path.
fn check_url(url: &str) -> Result<(), &'static str> {
    let is_path = |path: &str| {
        !path.is_empty()
            && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._~-+".contains(&byte))
            && path.split('/').all(|part| !part.starts_with('-'))
    };
    let is_plain_path = |path: &str| is_path(path) && path.split('/').all(|part| !matches!(part, "." | ".."));
    let is_host = |host: &str| {
        let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        !host.is_empty()
            && !host.starts_with(['-', '.'])
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
            && port.is_none_or(is_port)
    };
    let is_user = |user: &str| {
        !user.is_empty()
            && !user.starts_with('-')
            && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    if url.len() > 2048 {
        return Err("longer than 2048 bytes");
    }
    if let Some(rest) = url.strip_prefix("https://") {
        let (host, path) = rest.split_once('/').ok_or("no path")?;
        if host.contains('@') {
            return Err("a user or password within");
        }
        return if is_host(host) && is_plain_path(path) { Ok(()) } else { Err("no plain host and path") };
    }
    if let Some(rest) = url.strip_prefix("ssh://") {
        let (host, path) = rest.split_once('/').ok_or("no path")?;
        let (user, host) = host.split_once('@').map_or((None, host), |(user, host)| (Some(user), host));
        let is_plain = user.is_none_or(is_user) && is_host(host) && is_plain_path(path);
        return if is_plain { Ok(()) } else { Err("no plain user, host and path") };
    }
    if url.starts_with("./") || url.starts_with("../") {
        let below = url.trim_start_matches("./").trim_start_matches("../");
        return if is_plain_path(below) { Ok(()) } else { Err("no plain relative path") };
    }
    if url.contains("://") || url.contains("::") {
        return Err("only https and ssh are taken");
    }
    if let Some((at, path)) = url.split_once(':') {
        let (user, host) = at.split_once('@').ok_or("only https and ssh are taken")?;
        let is_plain = is_user(user) && is_host(host) && is_plain_path(path.trim_start_matches('/'));
        return if is_plain { Ok(()) } else { Err("no plain user, host and path") };
    }
    Err("a path on a disk")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::TreeBuilder;

    const FULL: &str = r#"
approvers:
  /: [alice]
  environments/prod: [bob, ops]
components:
  web:
    path: components/web
    image: harbor.example:5000/shop/web
    tag: "{{branch}}-{{short}}"
required: [database.host]
tickets: {stages: [test, staging]}
"#;

    fn tree(submodules: &[&str]) -> Tree {
        let mut builder = TreeBuilder::default();
        for path in submodules {
            builder.submodule((*path).to_owned(), CommitId::from_bytes([0xab; 20])).unwrap();
        }
        builder.build()
    }

    fn messages(problems: Vec<Problem>) -> Vec<String> {
        problems.into_iter().map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn a_full_file_is_read() {
        let declarations = read_declarations(FULL).unwrap();
        assert_eq!(declarations.approvers["environments/prod"], ["bob", "ops"]);
        assert_eq!(declarations.approvers[""], ["alice"]);
        assert_eq!(declarations.required[0].path, "database.host");
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
            ("[database.host]", "[1]", "towpath.yaml:10:12: required.0 is no text"),
        ] {
            let said = messages(read_declarations(&FULL.replace(from, to)).unwrap_err());
            assert!(said[0].starts_with(expected), "{said:?}");
        }
    }

    #[test]
    fn a_component_has_its_commit_tag_and_image() {
        let declarations = read_declarations(FULL).unwrap();
        let components = components(&tree(&["components/web", "libs/common"]), &declarations, "r1.2").unwrap();
        assert_eq!(components["web"].image.as_deref(), Some("harbor.example:5000/shop/web:r1.2-abababa"));
        assert_eq!(components["common"].tag, "abababa");
        assert_eq!(components["common"].image, None);
    }

    #[test]
    fn a_component_must_be_a_submodule_and_its_tag_a_tag() {
        let declarations = read_declarations(FULL).unwrap();
        let said = messages(components(&tree(&[]), &declarations, "r1.2").unwrap_err());
        assert!(said[0].contains("there is no submodule at components/web"), "{said:?}");
        let said = messages(components(&tree(&["components/web"]), &declarations, "feature/x").unwrap_err());
        assert!(said[0].contains("is no tag of an image"), "{said:?}");
        let declarations = read_declarations(&FULL.replace("{{short}}", "{{version}}")).unwrap();
        let said = messages(components(&tree(&["components/web"]), &declarations, "r1.2").unwrap_err());
        assert!(said[0].contains("versions come from tags"), "{said:?}");
        let said = messages(components(&tree(&["a/web", "b/web"]), &Declarations::default(), "r1.2").unwrap_err());
        assert!(said[0].contains("two submodules are called web"), "{said:?}");
    }

    #[test]
    fn gitmodules_as_git_writes_them_are_read() {
        let text = "# ours\n[submodule \"components/web\"]\n\tpath = components/web\n\turl = ../web.git\n\tbranch = develop\n\tupdate = !touch /tmp/pwn\n\
                    [submodule \"api\"]\n\tpath = components/api\n\turl = \"git@git.example:shop/api.git\"\n";
        let submodules = read_gitmodules(text).unwrap();
        assert_eq!(submodules.len(), 2);
        assert_eq!(submodules[0].branch.as_deref(), Some("develop"));
        assert_eq!(submodules[1].url, "git@git.example:shop/api.git");
    }

    #[test]
    fn hostile_names_and_paths_are_refused() {
        let with = |name: &str, path: &str| format!("[submodule \"{name}\"]\npath = {path}\nurl = ../web.git\n");
        assert!(read_gitmodules(&with("web", "components/web")).is_ok());
        for bad in [
            "../x", "a/../b", "-x", "a/-x", ".git", "a/.GIT/x", "git~1", "/etc", "a//b", "x\r", "a\\b", "a.", "x\u{1b}",
        ] {
            assert!(read_gitmodules(&with(bad, "ok")).is_err(), "name {bad:?}");
            assert!(read_gitmodules(&with("ok", bad)).is_err(), "path {bad:?}");
        }
    }

    #[test]
    fn addresses_that_run_or_reach_something_are_refused() {
        let with = |url: &str| format!("[submodule \"web\"]\npath = web\nurl = {url}\n");
        for good in [
            "https://git.example/shop/web.git",
            "https://git.example:8443/web",
            "ssh://git@git.example:2222/shop/web.git",
            "git@git.example:shop/web.git",
            "../web.git",
            "../../group/web",
            "./web",
        ] {
            assert!(read_gitmodules(&with(good)).is_ok(), "{good}");
        }
        for bad in [
            "-oProxyCommand=touch${IFS}/tmp/pwn",
            "ssh://-oX/y",
            "ssh://git@-oX/y",
            "ssh://git.example/a;b",
            "ssh://git.example/$(id)",
            "ssh://git.example/`id`",
            "ssh://git.example/a'b",
            "ssh://git.example/a|b",
            "file:///etc",
            "/etc/passwd",
            "web",
            "ext::sh -c id",
            "http://169.254.169.254/",
            "http://127.0.0.1:8080/x",
            "https:///evil/x",
            "https://user:secret@git.example/x",
            "https://git.example%0a.evil/x",
            "https://git.example/x/../../y",
            "https://git.example/%2e%2e/x",
            "../x/../../y",
            "git@host:-x/y",
            "-u@host:x",
        ] {
            assert!(read_gitmodules(&with(bad)).is_err(), "{bad}");
        }
        let said = messages(read_gitmodules(&with("https://user:secret@git.example/x")).unwrap_err());
        assert!(!said[0].contains("secret"), "{said:?}");
    }

    #[test]
    fn what_is_there_twice_or_unknown_is_refused() {
        let one = "[submodule \"web\"]\npath = web\nurl = ../web.git\n";
        for bad in [
            format!("{one}{one}"),
            format!("{one}{}", one.replace("\"web\"", "\"other\"")),
            format!("{one}path = again\n"),
            format!("{one}branch = --upload-pack=x\n"),
            format!("{one}wat = x\n"),
            "[core]\nx = y\n".to_owned(),
            "path = x\n".to_owned(),
            "[submodule \"web\"]\npath = web\n".to_owned(),
            one.replace('\n', "\r\n"),
        ] {
            assert!(read_gitmodules(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn number_and_size_have_limits() {
        let many = |count: usize| {
            (0..count).map(|n| format!("[submodule \"m{n}\"]\npath=p{n}\nurl=../x\n")).collect::<String>()
        };
        assert!(read_gitmodules(&many(limits::MAX_SUBMODULES)).is_ok());
        assert!(read_gitmodules(&many(limits::MAX_SUBMODULES + 1)).is_err());
        assert!(read_gitmodules(&"#".repeat(limits::MAX_GITMODULES_BYTES)).is_ok());
        assert!(read_gitmodules(&"#".repeat(limits::MAX_GITMODULES_BYTES + 1)).is_err());
    }
}
