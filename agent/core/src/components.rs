//! What the deploy repository says about itself: `towpath.yaml`, and its submodules with `.gitmodules`.
//!
//! Both are read strictly. A field that is not known is an error with its name and line, for a typing error in
//! `approvers` would otherwise open a door in silence.

mod declarations;
mod gitmodules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

pub use self::declarations::{
    Check, Declarations, Declared, Library, NotRevertible, Required, TOWPATH_YAML, libraries, read_declarations,
};
pub use self::gitmodules::{GITMODULES, Submodule, address, read_gitmodules, submodules_of};
use crate::fault::{Place, Problem};
use crate::revision::CommitId;
use crate::tree::Tree;

/// What is known of the commit that a submodule is pinned to, from the component's own repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// `vX.Y-count-commit`, or why there is none.
    pub version: Result<String, Problem>,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// The tag that begins with `v` and stands on the commit itself, or why there is none.
    pub git_tag: Result<String, Problem>,
    /// The digests of its images, such as `sha256:…`, by their names with tags, where they are named by them. One
    /// repository may be built into several images.
    pub digests: BTreeMap<String, String>,
}

/// The tag of a commit, of those that begin with `v` and stand on it: the highest, by the numbers in them.
///
/// # Errors
/// `Setup` where none does.
pub fn tag_on<'a>(
    commit: CommitId,
    tags: impl IntoIterator<Item = (&'a String, &'a CommitId)>,
) -> Result<String, Problem> {
    let numbers = |tag: &str| -> Vec<u64> {
        tag.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    let standing = tags.into_iter().filter(|(_, at)| **at == commit).map(|(tag, _)| tag);
    // Of two with the same numbers the plain one: v1.2.0 and not v1.2.0-rc.
    let highest = standing.max_by_key(|tag| (numbers(tag), std::cmp::Reverse(tag.len()), (*tag).clone()));
    highest.cloned().ok_or_else(|| {
        Problem::setup(format!("no tag that begins with v stands on {}", commit.short()))
            .hint("tag the commit, or move the submodule to one that is tagged")
    })
}

/// What is known of the commits that submodules are pinned to, by their folders; or why nothing is.
pub type Pins = BTreeMap<String, Result<Pin, Problem>>;

/// The files of submodules that are libraries, by their folders; or why they cannot be had.
pub type Libraries = BTreeMap<String, Result<Arc<Tree>, Problem>>;

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
    /// `vX.Y-count-commit`, where it is known.
    pub version: Option<String>,
    /// Tag of its image, where all that makes it is known.
    pub tag: Option<String>,
    /// Image with its tag, and its digest where it is pinned to that, where `towpath.yaml` names the image.
    pub image: Option<String>,
    /// Whether its image is looked up.
    pub check: Check,
    /// Why it has no version or no tag.
    pub lacks: Option<Problem>,
}

/// The image of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// Its name, with the digest where that is known.
    pub image: String,
    /// The component.
    pub component: String,
    /// Folder of its submodule.
    pub path: String,
    /// Its commit.
    pub commit: CommitId,
    /// What people call the commit: the version, or its first digits where there is none.
    pub version: String,
    /// Whether it is looked up before an environment moves to it.
    pub check: Check,
}

impl NamedImage {
    /// Whether it has to be named by its digest, and that is not known yet.
    pub fn lacks_digest(&self) -> bool {
        self.check == Check::Digest && !self.image.contains('@')
    }
}

impl Component {
    /// The first 7 digits of its commit.
    pub fn short(&self) -> String {
        self.commit.short()
    }

    /// Its image, where that is known.
    pub fn named_image(&self) -> Option<NamedImage> {
        Some(NamedImage {
            image: self.image.clone()?,
            component: self.name.clone(),
            path: self.path.clone(),
            commit: self.commit,
            version: self.version.clone().unwrap_or_else(|| self.short()),
            check: self.check,
        })
    }

    /// What templates see.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, value: &str| map.insert(key.to_owned(), Value::from(value));
        put("commit", &self.commit.to_string());
        put("short", &self.short());
        put("branch", &self.branch);
        put("path", &self.path);
        if let Some(tag) = &self.tag {
            put("tag", tag);
        }
        if let Some(image) = &self.image {
            put("image", image);
        }
        if let Some(version) = &self.version {
            put("version", version);
        }
        Value::Object(map)
    }
}

/// The components of a revision, by name. A submodule of which nothing is known has neither a version nor a tag that needs
/// one; only a template that uses them fails.
///
/// # Errors
/// Every declaration that fits no submodule, every name that two submodules share, every tag that is none.
pub fn components(
    tree: &Tree,
    declarations: &Declarations,
    branch: &str,
    pins: &Pins,
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
        match component(name, (path, submodules[path], pins.get(path)), branch, Some(declared)) {
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
        match component(name, (path, commit, pins.get(path)), branch, None) {
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

/// The tag of an image for which `towpath.yaml` says none.
const DEFAULT_TAG: &str = "{{version}}";

fn component(
    name: &str,
    (path, commit, pin): (&str, CommitId, Option<&Result<Pin, Problem>>),
    branch: &str,
    declared: Option<&Declared>,
) -> Result<Component, Problem> {
    let nothing = || {
        let message = format!("component {name}: nothing is known of its repository");
        Problem::setup(message).hint("check its submodule out, or ask an agent that may read it")
    };
    let pin = pin.map_or_else(|| Err(nothing()), Clone::clone);
    let version = pin.as_ref().map_err(Clone::clone).and_then(|pin| pin.version.clone());
    let mut lacks = version.as_ref().err().cloned();
    let template = match declared {
        Some(Declared { tag: Some(template), .. }) => template,
        Some(Declared { image: Some(_), .. }) => DEFAULT_TAG,
        _ => "{{short}}",
    };
    let place = declared.map(|declared| declared.place.clone()).unwrap_or_else(|| Place::file(path));
    let refuse = |message: String, hint: &str| {
        Problem::content(format!("component {name}: {message}")).at(place.clone()).hint(hint)
    };
    let committed_at = pin.as_ref().map(|pin| pin.committed_at).map_err(Clone::clone);
    let git_tag = pin.as_ref().map_err(Clone::clone).and_then(|pin| pin.git_tag.clone());
    let made_of = MadeOf { commit, branch: Ok(branch.to_owned()), version: version.clone(), committed_at, git_tag };
    let filled = fill(template, |variable| {
        made_of.value(variable).ok_or_else(|| refuse(format!("its tag has {{{{{variable}}}}}"), VARIABLES))
    })?;
    let tag = filled.map_err(|why| lacks = Some(why)).ok();
    if let Some(tag) = tag.as_ref().filter(|tag| !is_tag(tag)) {
        return Err(refuse(format!("{tag:?} is no tag of an image"), CHARACTERS));
    }
    let check = declared.map(|declared| declared.check).unwrap_or_default();
    let repository = declared.and_then(|declared| declared.image.as_ref());
    let image = repository.zip(tag.as_ref()).map(|(image, tag)| {
        let image = format!("{image}:{tag}");
        let digest = pin.as_ref().ok().and_then(|pin| pin.digests.get(&image)).filter(|_| check == Check::Digest);
        digest.map_or(image.clone(), |digest| format!("{image}@{digest}"))
    });
    let (name, path, branch) = (name.to_owned(), path.to_owned(), branch.to_owned());
    Ok(Component { name, path, commit, branch, version: version.ok(), tag, image, check, lacks })
}

const VARIABLES: &str = "a tag is made of {{version}}, {{commit}}, {{short}}, {{branch}}, {{time}} and {{git-tag}}";
const CHARACTERS: &str = "use letters, digits, _, - and ., at most 128 of them";

/// What the tag of an image can be made of, each or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeOf {
    /// The commit.
    pub commit: CommitId,
    /// The branch.
    pub branch: Result<String, Problem>,
    /// `vX.Y-count-commit`.
    pub version: Result<String, Problem>,
    /// When it was committed.
    pub committed_at: Result<Timestamp, Problem>,
    /// The tag of git that stands on it.
    pub git_tag: Result<String, Problem>,
}

impl MadeOf {
    /// The tag of an image, by a template as it stands in `towpath.yaml`.
    ///
    /// # Errors
    /// When the template has another variable, one that is not known, or makes what is no tag.
    pub fn tag(&self, template: &str) -> Result<String, Problem> {
        let unknown = |variable: &str| Problem::setup(format!("the tag has {{{{{variable}}}}}")).hint(VARIABLES);
        let tag = fill(template, |variable| self.value(variable).ok_or_else(|| unknown(variable)))??;
        if is_tag(&tag) {
            return Ok(tag);
        }
        Err(Problem::setup(format!("{tag:?} is no tag of an image")).hint(CHARACTERS))
    }

    /// `None` where there is no variable of that name.
    fn value(&self, variable: &str) -> Option<Result<String, Problem>> {
        Some(match variable {
            "commit" => Ok(self.commit.to_string()),
            "short" => Ok(self.commit.short()),
            "branch" => self.branch.clone(),
            "version" => self.version.clone(),
            "time" => self.committed_at.clone().map(|at| at.strftime("%Y-%m-%d-%H-%M").to_string()),
            "git-tag" => self.git_tag.clone(),
            _ => return None,
        })
    }
}

/// Puts variables into a text with `{{name}}`. The inner error is that one of them is not known.
fn fill(
    template: &str,
    mut value: impl FnMut(&str) -> Result<Result<String, Problem>, Problem>,
) -> Result<Result<String, Problem>, Problem> {
    let (mut filled, mut unknown) = (String::new(), None);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        filled.push_str(before);
        match value(name.trim())? {
            Ok(value) => filled.push_str(&value),
            Err(why) => unknown = Some(why),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(unknown.map_or(Ok(filled), Err))
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

    fn known(path: &str, version: Result<&str, Problem>) -> Pins {
        let committed_at = "2022-08-08T14:40:31Z".parse().unwrap();
        let git_tag = Err(Problem::setup("no tag"));
        let pin = Pin { version: version.map(str::to_owned), committed_at, git_tag, digests: BTreeMap::new() };
        [(path.to_owned(), Ok(pin))].into()
    }

    fn has_digest(pins: &mut Pins, image: &str) {
        let pin = pins.get_mut("components/web").unwrap().as_mut().unwrap();
        pin.digests.insert(image.to_owned(), "sha256:ab".to_owned());
    }

    #[test]
    fn a_component_has_its_commit_tag_and_image() {
        let declarations = read_declarations(FULL).unwrap();
        let tree = tree(&["components/web", "libs/common"]);
        let found = components(&tree, &declarations, "r1.2", &Pins::new()).unwrap();
        assert_eq!(found["web"].image.as_deref(), Some("harbor.example:5000/shop/web:r1.2-abababa"));
        assert_eq!(found["common"].tag.as_deref(), Some("abababa"));
        assert_eq!(found["common"].image, None);
        let by_time = read_declarations(&FULL.replace("{{branch}}-{{short}}", "{{time}}")).unwrap();
        let found = components(&tree, &by_time, "r1.2", &known("components/web", Ok("v1.0-12-e6e5d98"))).unwrap();
        assert_eq!(found["web"].tag.as_deref(), Some("2022-08-08-14-40"));
    }

    #[test]
    fn a_tag_of_git_may_be_the_tag_of_the_image() {
        let (here, there) = (CommitId::from_bytes([0xab; 20]), CommitId::from_bytes([1; 20]));
        let tags: BTreeMap<String, CommitId> =
            [("v1.9.0", here), ("v1.10.0", here), ("v1.10.0-rc", here), ("v2.0.0", there)]
                .map(|(tag, at)| (tag.to_owned(), at))
                .into();
        assert_eq!(tag_on(here, &tags).as_deref(), Ok("v1.10.0"));
        assert!(tag_on(CommitId::from_bytes([2; 20]), &tags).is_err());
        let declarations = read_declarations(&FULL.replace("{{branch}}-{{short}}", "{{git-tag}}")).unwrap();
        let mut pins = known("components/web", Ok("v1.10-0-abababa"));
        let lacking = components(&tree(&["components/web"]), &declarations, "r1.2", &pins).unwrap();
        assert_eq!(lacking["web"].image, None);
        pins.get_mut("components/web").unwrap().as_mut().unwrap().git_tag = tag_on(here, &tags);
        let found = components(&tree(&["components/web"]), &declarations, "r1.2", &pins).unwrap();
        assert_eq!(found["web"].tag.as_deref(), Some("v1.10.0"));
    }

    #[test]
    fn a_tag_is_the_version_where_nothing_else_is_said() {
        let declarations = read_declarations(&FULL.replace("    tag: \"{{branch}}-{{short}}\"\n", "")).unwrap();
        let tree = tree(&["components/web"]);
        let mut pins = known("components/web", Ok("v1.0-12-e6e5d98"));
        let found = components(&tree, &declarations, "r1.2", &pins).unwrap();
        assert_eq!(found["web"].image.as_deref(), Some("harbor.example:5000/shop/web:v1.0-12-e6e5d98"));
        assert_eq!(found["web"].to_json()["version"], "v1.0-12-e6e5d98");
        assert!(!found["web"].named_image().unwrap().lacks_digest());
        let image = "harbor.example:5000/shop/web:v1.0-12-e6e5d98";
        has_digest(&mut pins, image);
        let found = components(&tree, &declarations, "r1.2", &pins).unwrap();
        assert_eq!(found["web"].image.as_deref(), Some("harbor.example:5000/shop/web:v1.0-12-e6e5d98"));

        // Nothing is invented: without a version there is neither a tag nor an image.
        let none = known("components/web", Err(Problem::setup("there is no tag vX.Y")));
        for (pins, said) in [(none, "no tag vX.Y"), (Pins::new(), "nothing is known")] {
            let web = &components(&tree, &declarations, "r1.2", &pins).unwrap()["web"];
            assert_eq!((&web.tag, &web.image, &web.version), (&None, &None, &None));
            assert!(web.lacks.as_ref().unwrap().message.contains(said));
            assert!(web.to_json().get("image").is_none());
        }
    }

    #[test]
    fn an_image_is_named_by_its_digest_where_that_is_wanted() {
        let declarations = read_declarations(&FULL.replace("check: Exists", "check: Digest")).unwrap();
        let tree = tree(&["components/web"]);
        let mut pins = known("components/web", Ok("v1.0-12-e6e5d98"));
        let named = |pins: &Pins| components(&tree, &declarations, "r1.2", pins).unwrap()["web"].named_image();
        let image = named(&pins).unwrap();
        assert!(image.lacks_digest());
        assert_eq!(image.version, "v1.0-12-e6e5d98");
        // That of another image, or of another tag, is not its own.
        has_digest(&mut pins, "harbor.example:5000/shop/worker:r1.2-abababa");
        assert!(named(&pins).unwrap().lacks_digest());
        has_digest(&mut pins, "harbor.example:5000/shop/web:r1.2-abababa");
        let image = named(&pins).unwrap();
        assert!(!image.lacks_digest());
        assert_eq!(image.image, "harbor.example:5000/shop/web:r1.2-abababa@sha256:ab");
        assert!(named(&Pins::new()).unwrap().lacks_digest());
        let never = read_declarations(&FULL.replace("check: Exists", "check: Never")).unwrap();
        let image = components(&tree, &never, "r1.2", &pins).unwrap()["web"].named_image().unwrap();
        assert_eq!(image.image, "harbor.example:5000/shop/web:r1.2-abababa");
        assert!(!image.lacks_digest());
    }

    #[test]
    fn a_component_must_be_a_submodule_and_its_tag_a_tag() {
        let declarations = read_declarations(FULL).unwrap();
        let said = messages(components(&tree(&[]), &declarations, "r1.2", &Pins::new()).unwrap_err());
        assert!(said[0].contains("there is no submodule at components/web"), "{said:?}");
        let said =
            messages(components(&tree(&["components/web"]), &declarations, "feature/x", &Pins::new()).unwrap_err());
        assert!(said[0].contains("is no tag of an image"), "{said:?}");
        let declarations = read_declarations(&FULL.replace("{{short}}", "{{clock}}")).unwrap();
        let said = messages(components(&tree(&["components/web"]), &declarations, "r1.2", &Pins::new()).unwrap_err());
        assert!(said[0].contains("its tag has {{clock}}"), "{said:?}");
        let said = messages(
            components(&tree(&["a/web", "b/web"]), &Declarations::default(), "r1.2", &Pins::new()).unwrap_err(),
        );
        assert!(said[0].contains("two submodules are called web"), "{said:?}");
    }
}
