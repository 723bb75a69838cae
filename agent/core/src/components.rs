//! What the deploy repository says about itself: `towpath.yaml`, and its submodules with `.gitmodules`.
//!
//! Both are read strictly. A field that is not known is an error with its name and line, for a typing error in
//! `approvers` would otherwise open a door in silence.

mod declarations;
mod gitmodules;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

pub use self::declarations::{Declarations, Declared, Required, TOWPATH_YAML, read_declarations};
pub use self::gitmodules::{GITMODULES, Submodule, read_gitmodules};
use crate::fault::{Place, Problem};
use crate::revision::CommitId;
use crate::tree::Tree;

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

#[cfg(test)]
mod tests {
    use super::declarations::FULL;
    use super::*;
    use crate::tree::TreeBuilder;

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
}
