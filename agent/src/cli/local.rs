//! What `render`, `lint` and `diff` work on: files of a deploy repository, and the Environments they are for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use towpath_core::components::{self, Declarations, Libraries};
use towpath_core::environment;
use towpath_core::fault::{Place, Problem, Problems};
use towpath_core::lane::{BranchNames, LaneRule};

use towpath_core::policy::{self, Cleared};
use towpath_core::render;
use towpath_core::revision::CommitId;
use towpath_core::scope::Scopes;

use crate::disk::{self, Checkout};
use crate::resources::{Environment, Repository};

/// Where manifests come from, and for which environment.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub(super) struct Source {
    /// The root of a checkout of the deploy repository; by default the git repository around the current folder.
    #[arg(value_name = "FOLDER")]
    pub(super) folder: Option<PathBuf>,
    /// Read this branch, tag or commit of the local repository, and not the files as they stand.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Files with Environments, and Repositories, as they are applied to the cluster; a folder means its *.yaml.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The name of the environment. Without --file it is the folder environments/NAME with every setting at its
    /// default.
    #[arg(short, long, value_name = "NAME")]
    pub(super) environment: Option<String>,
    /// What templates see as the cluster's name.
    #[arg(long, value_name = "NAME", default_value = "local")]
    cluster: String,
    /// What templates see as the branch; by default the one that the environment follows.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
}

/// An Environment, with what its Repository calls its branches.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Subject {
    pub(super) environment: environment::Environment,
    pub(super) branches: BranchNames,
}

impl Source {
    fn root(&self) -> PathBuf {
        let here = || std::env::current_dir().map(|here| disk::root_around(&here)).unwrap_or_else(|_| ".".into());
        self.folder.clone().unwrap_or_else(here)
    }

    /// The files of the submodules that are libraries: as they stand where the files of the checkout are read as they
    /// stand, else at the commits that they are pinned to.
    fn libraries(&self, checkout: &Checkout) -> Libraries {
        // What is wrong with it is told by whoever renders it.
        let declarations = Declarations::of(&checkout.tree).unwrap_or_default();
        let read = |path: &str| {
            let folder = self.root().join(path);
            let commit = checkout.tree.submodule(path)?;
            let found = match &self.revision {
                Some(_) => disk::submodule(&folder, commit),
                None => disk::folder(&folder),
            };
            let refused = |problems: Problems| {
                let first = problems.into_first();
                let message = format!("library {path} at {commit}: {}", first.message);
                Problem {
                    message,
                    hint: first.hint.or(Some("git submodule update --init checks it out".to_owned())),
                    ..first
                }
            };
            let is_empty = |library: &Checkout| library.tree.is_empty();
            let missing = || {
                Problem::setup(format!("library {path} at {commit}: it is not checked out"))
                    .hint(format!("git submodule update --init {path}"))
            };
            let library = match found {
                Ok(library) if is_empty(&library) => Err(missing()),
                Ok(library) => Ok(Arc::new(library.tree)),
                Err(problems) => Err(refused(problems)),
            };
            Some((path.to_owned(), library))
        };
        components::libraries(&declarations).into_iter().filter_map(read).collect()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// Everything that is refused.
    pub(super) fn checkout(&self) -> Result<Checkout, Problems> {
        let folder = self.root();
        match &self.revision {
            Some(revision) => disk::revision(&folder, revision),
            None => disk::folder(&folder),
        }
    }

    /// Whether files with Environments were named.
    pub(super) fn names_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Every environment that is meant.
    ///
    /// # Errors
    /// When there is none, and for everything in an Environment that means nothing.
    pub(super) fn subjects(&self, checkout: &Checkout, namespace: Option<&str>) -> Result<Vec<Subject>, Problems> {
        if self.names_files() { self.of_files(namespace) } else { self.of_folders(checkout, namespace) }
    }

    /// The one environment that is meant.
    ///
    /// # Errors
    /// As in [`Source::subjects`], and when there are several.
    pub(super) fn subject(&self, checkout: &Checkout, namespace: Option<&str>) -> Result<Subject, Problems> {
        let mut subjects = self.subjects(checkout, namespace)?;
        if subjects.len() > 1 {
            let names: Vec<&str> = subjects.iter().map(|subject| subject.environment.name.as_str()).collect();
            let problem = Problem::setup(format!("there are several environments: {}", names.join(", ")));
            return Err(problem.hint("choose one with --environment").into());
        }
        Ok(subjects.remove(0))
    }

    /// The manifests of an environment, and what of them may be applied.
    ///
    /// # Errors
    /// Everything that the render room or the policy room found.
    pub(super) fn clear(&self, checkout: &Checkout, subject: &Subject, scopes: &Scopes) -> Result<Cleared, Problems> {
        let Subject { environment, branches } = subject;
        let facts = render::Facts {
            cluster: self.cluster.clone(),
            branch: self.branch.clone().unwrap_or_else(|| branch(environment, branches, checkout)),
            commit: checkout.commit.unwrap_or(CommitId::from_bytes([0; 20])),
            pins: checkout.pins.clone(),
            libraries: self.libraries(checkout),
        };
        let rendered = render::render(&checkout.tree, environment, &facts, None)?;
        policy::clear(&rendered, &policy::Facts { environment, scopes, claimed: &|_| None }, None)
    }

    fn of_files(&self, namespace: Option<&str>) -> Result<Vec<Subject>, Problems> {
        let mut read = Documents::default();
        for file in &self.files {
            read.file_or_folder(file);
        }
        Problems::check(read.found)?;
        let mut found = Vec::new();
        let mut subjects = Vec::new();
        for (place, mut resource) in read.environments {
            if self.environment.as_ref().is_some_and(|name| resource.metadata.name.as_ref() != Some(name)) {
                continue;
            }
            resource.metadata.namespace.get_or_insert_with(|| namespace.unwrap_or("default").to_owned());
            let (at, named) = resource.repository_id();
            let repository = read.repositories.iter().find(|repository| {
                let is_at_home = repository.metadata.namespace.as_ref().is_none_or(|namespace| *namespace == at);
                is_at_home && repository.metadata.name.as_ref() == Some(&named)
            });
            match subject(&resource, repository) {
                Ok(subject) => subjects.push(subject),
                Err(problems) => found.extend(problems.into_vec().into_iter().map(|problem| problem.at(place.clone()))),
            }
        }
        Problems::check(found)?;
        if subjects.is_empty() {
            let which = self.environment.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            return Err(Problem::setup(format!("the files have no Environment{which}"))
                .hint("name files that hold Environments of towpath.dev/v1alpha1")
                .into());
        }
        Ok(subjects)
    }

    /// Without files that say more: one environment for each folder of `environments`, or the one of that name, or,
    /// where there is no such folder, all files as one plain folder.
    fn of_folders(&self, checkout: &Checkout, namespace: Option<&str>) -> Result<Vec<Subject>, Problems> {
        let known: BTreeSet<&str> = checkout
            .tree
            .below("environments")
            .filter_map(|(path, _)| path.strip_prefix("environments/")?.split_once('/'))
            .map(|(name, _)| name)
            .collect();
        let wanted: Vec<(&str, String)> = match &self.environment {
            Some(name) if known.contains(name.as_str()) => vec![(name.as_str(), format!("environments/{name}"))],
            Some(name) => {
                let names: Vec<&str> = known.into_iter().collect();
                let hint = match names.as_slice() {
                    [] => "describe it in a file and name that with --file".to_owned(),
                    names => {
                        format!("there are {}; or describe it in a file and name that with --file", names.join(", "))
                    }
                };
                return Err(Problem::setup(format!("there is no folder environments/{name}")).hint(hint).into());
            }
            None if known.is_empty() => vec![("local", ".".to_owned())],
            None => known.iter().map(|name| (*name, format!("environments/{name}"))).collect(),
        };
        let mut found = Vec::new();
        let mut subjects = Vec::new();
        for (name, path) in wanted {
            let spec = serde_json::json!({
                "repository": "local",
                "lane": checkout.branch.as_deref().unwrap_or("master"),
                "path": path,
            });
            let spec = serde_json::from_value(spec).expect("a spec needs only these three");
            let mut resource = Environment::new(name, spec);
            resource.metadata.namespace = Some(namespace.unwrap_or(name).to_owned());
            match subject(&resource, None) {
                Ok(subject) => subjects.push(subject),
                Err(problems) => {
                    let place = Place::file(path);
                    found.extend(problems.into_vec().into_iter().map(|problem| problem.at(place.clone())));
                }
            }
        }
        Problems::check(found)?;
        Ok(subjects)
    }
}

/// Resolves an Environment, and the Repository it names where that is known.
///
/// # Errors
/// Everything in them that means nothing.
pub(super) fn subject(resource: &Environment, repository: Option<&Repository>) -> Result<Subject, Problems> {
    let branches = match repository {
        Some(repository) => repository.resolve()?.branches,
        None => BranchNames::default(),
    };
    Ok(Subject { environment: resource.resolve()?, branches })
}

/// The branch that the agent would say.
fn branch(environment: &environment::Environment, names: &BranchNames, checkout: &Checkout) -> String {
    match (&environment.lane, environment.lane.branch(&checkout.heads, names)) {
        (_, Some(branch)) => branch.to_owned(),
        (LaneRule::Develop, None) => names.develop.clone(),
        (LaneRule::Master, None) => names.master.clone(),
        (LaneRule::NewestRelease, None) => checkout.branch.clone().unwrap_or_else(|| "release".to_owned()),
        (other, None) => other.to_string(),
    }
}

/// The custom resources in files.
#[derive(Default)]
struct Documents {
    environments: Vec<(Place, Environment)>,
    repositories: Vec<Repository>,
    found: Vec<Problem>,
}

impl Documents {
    fn file_or_folder(&mut self, path: &Path) {
        if !path.is_dir() {
            return self.file(path);
        }
        let is_yaml = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        let mut files: Vec<PathBuf> = match std::fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(is_yaml).collect(),
            Err(error) => return self.found.push(Problem::setup(error.to_string()).at(place(path))),
        };
        files.sort();
        files.iter().for_each(|file| self.file(file));
    }

    fn file(&mut self, path: &Path) {
        let text = if path == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(path)
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => return self.found.push(Problem::setup(error.to_string()).at(place(path))),
        };
        match serde_saphyr::from_multiple::<serde_json::Value>(&text) {
            Ok(documents) => documents.into_iter().for_each(|document| self.document(path, document)),
            Err(error) => {
                let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
                let place = match error.location() {
                    Some(at) => Place::point(path.display().to_string(), number(at.line()), number(at.column())),
                    None => place(path),
                };
                let said = error.without_snippet().to_string();
                let said = said.lines().next().unwrap_or_default();
                self.found.push(Problem::content(said).at(place));
            }
        }
    }

    fn document(&mut self, path: &Path, document: serde_json::Value) {
        if document["kind"] == "List" {
            let items = document["items"].as_array().cloned().unwrap_or_default();
            return items.into_iter().for_each(|item| self.document(path, item));
        }
        if !document["apiVersion"].as_str().is_some_and(|version| version.starts_with("towpath.dev/")) {
            return;
        }
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let result = match kind.as_str() {
            "Environment" => serde_json::from_value(document).map(|found| self.environments.push((place(path), found))),
            "Repository" => serde_json::from_value(document).map(|found| self.repositories.push(found)),
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.found.push(Problem::content(format!("{kind} {name}: {error}")).at(place(path)));
        }
    }
}

fn place(path: &Path) -> Place {
    Place::file(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
apiVersion: towpath.dev/v1alpha1
kind: Repository
metadata: {name: shop}
spec: {url: https://git.example/shop.git, branches: {master: main}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: towpath.dev/v1alpha1
kind: Environment
metadata: {name: prod, namespace: shop}
spec: {repository: shop, lane: master, path: environments/prod}
---
apiVersion: towpath.dev/v1alpha1
kind: Environment
metadata: {name: test}
spec: {repository: shop, lane: release, path: environments/test}
";

    fn source(yaml: &str) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("environments.yaml");
        std::fs::write(&file, yaml).unwrap();
        (folder, Source { files: vec![file], ..Source::default() })
    }

    fn checkout(paths: &[&str]) -> Checkout {
        let folder = tempfile::tempdir().unwrap();
        for path in paths {
            let file = folder.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "a: 1\n").unwrap();
        }
        disk::folder(folder.path()).unwrap()
    }

    #[test]
    fn environments_come_of_files_with_the_names_of_their_branches() {
        let (_folder, source) = source(YAML);
        let subjects = source.subjects(&Checkout::default(), Some("elsewhere")).unwrap();
        let homes: Vec<_> = subjects.iter().map(|subject| subject.environment.home.as_str()).collect();
        assert_eq!(homes, ["shop", "elsewhere"]);
        assert_eq!(branch(&subjects[0].environment, &subjects[0].branches, &Checkout::default()), "main");
    }

    #[test]
    fn of_several_environments_one_must_be_chosen() {
        let (_folder, mut source) = source(YAML);
        assert!(source.subject(&Checkout::default(), None).unwrap_err().to_string().contains("prod, test"));
        source.environment = Some("test".into());
        assert_eq!(source.subject(&Checkout::default(), None).unwrap().environment.name.as_str(), "test");
        source.environment = Some("nothing".into());
        assert!(source.subject(&Checkout::default(), None).is_err());
    }

    #[test]
    fn everything_wrong_with_the_files_is_said_with_its_place() {
        let (_folder, source) =
            source(&YAML.replace("lane: master", "lane: --force").replace("path: environments/test", "path: ../x"));
        let problems = source.subjects(&Checkout::default(), None).unwrap_err();
        assert_eq!(problems.iter().count(), 2, "{problems}");
        assert!(problems.iter().all(|problem| problem.place.is_some()), "{problems}");
    }

    #[test]
    fn a_health_rule_that_cannot_be_read_is_named() {
        let rule = "health: [{apiVersion: example.org/v1, kind: Database, current: status.stage = 'Fine'}]";
        let yaml = YAML.replace("path: environments/prod}", &format!("path: environments/prod, {rule}}}"));
        let (_folder, source) = source(&yaml);
        let problems = source.subjects(&Checkout::default(), None).unwrap_err().to_string();
        assert!(problems.contains("environments.yaml:") && problems.contains("spec.health[0].current: "), "{problems}");
    }

    #[test]
    fn a_typing_error_in_a_spec_is_named() {
        let (_folder, source) = source(&YAML.replace("lane: release", "lain: release"));
        assert!(source.subjects(&Checkout::default(), None).unwrap_err().to_string().contains("lain"));
    }

    #[test]
    fn without_files_each_folder_of_environments_is_one() {
        let checkout = checkout(&["environments/test/values.yaml", "environments/prod/values.yaml", "values.yaml"]);
        let subjects = Source::default().subjects(&checkout, None).unwrap();
        let paths: Vec<_> = subjects.iter().map(|subject| subject.environment.path.as_str()).collect();
        assert_eq!(paths, ["environments/prod", "environments/test"]);
        let source = Source { environment: Some("stage".into()), ..Source::default() };
        assert!(source.subjects(&checkout, None).unwrap_err().to_string().contains("prod, test"));
    }

    #[test]
    fn a_plain_folder_is_one_environment() {
        let subject = Source::default().subject(&checkout(&["a.yaml"]), None).unwrap();
        assert_eq!((subject.environment.name.as_str(), subject.environment.path.as_str()), ("local", ""));
    }
}
