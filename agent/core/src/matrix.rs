//! The release matrix: which component stands where in which environment, and what its next revision would bring.
//!
//! What is not known is said with its reason, and never left blank.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::components::{Component, Pins};
use crate::fault::Problem;
use crate::revision::CommitId;

/// Where a pin stands against the head of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Commits of the pin that are not on the branch.
    pub ahead: usize,
    /// Commits of the branch that the pin lacks.
    pub behind: usize,
}

/// What a pin is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The branch of the component.
    pub branch: String,
    /// Where the pin stands, or why that is not known.
    pub standing: Result<Standing, Problem>,
}

/// A component at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// Its name.
    pub name: String,
    /// Folder of its submodule.
    pub path: String,
    /// The commit that it is pinned to.
    pub commit: CommitId,
    /// The branch of the component that it is held against.
    pub branch: String,
    /// `vX.Y-count-commit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its image with tag, where `towpath.yaml` names one and all that makes the tag is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When its commit was made, as the committer says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Timestamp>,
    /// Commits of the pin that are not on the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<usize>,
    /// Commits of the branch that the pin lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<usize>,
    /// Why something of this is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// The components of one revision of the deploy repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// `branch@sha1:<commit>`.
    pub revision: String,
    /// The version of the deploy repository itself, where there is a tag `vX.Y`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The components, by name.
    pub components: Vec<Cell>,
    /// Why they cannot be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What an environment's next revision would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Next {
    /// `branch@sha1:<commit>`.
    pub revision: String,
    /// Components that are new, or at another commit.
    pub components: Vec<Cell>,
    /// Names of components that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Why that is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// One environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// Its name.
    pub environment: String,
    /// The lane that it follows, as it says itself.
    pub lane: String,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Snapshot>,
    /// What its candidate would bring, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Why it is not known what it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// The environments of one repository side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Matrix {
    /// Namespace and name of the Repository.
    pub repository: String,
    /// The environments, in the order of the way to production.
    pub environments: Vec<Column>,
}

/// A component in one environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot<'m> {
    /// It is there.
    Runs(&'m Cell),
    /// The environment runs a revision without it.
    Absent,
    /// It is not known what the environment runs, and why.
    Unknown(&'m str),
}

/// What the candidate of an environment does to a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'m> {
    /// It brings this, instead or anew.
    To(&'m Cell),
    /// It takes it away.
    Goes,
    /// It is not known what it does, and why.
    Unknown(&'m str),
}

/// Folds the components of a revision and what is known of their repositories, by their folders.
pub fn snapshot(
    (revision, version): (&str, Option<String>),
    components: Result<BTreeMap<String, Component>, Vec<Problem>>,
    pins: &Pins,
    held: &BTreeMap<String, Held>,
) -> Snapshot {
    let said = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    let (components, problems) = match components {
        Ok(components) => (components, Vec::new()),
        Err(problems) => (BTreeMap::new(), said(problems)),
    };
    let cell = |component: Component| {
        let (pin, held) = (pins.get(&component.path), held.get(&component.path));
        let standing = held.map(|held| &held.standing);
        let mut unknown: Vec<String> = component.lacks.iter().map(ToString::to_string).collect();
        unknown.extend(pin.and_then(|pin| pin.as_ref().err()).map(ToString::to_string));
        unknown.extend(standing.and_then(|standing| standing.as_ref().err()).map(ToString::to_string));
        let mut seen = BTreeSet::new();
        unknown.retain(|why| seen.insert(why.clone()));
        let standing = standing.and_then(|standing| standing.as_ref().ok());
        Cell {
            committed_at: pin.and_then(|pin| pin.as_ref().ok()).map(|pin| pin.committed_at),
            ahead: standing.map(|standing| standing.ahead),
            behind: standing.map(|standing| standing.behind),
            unknown,
            name: component.name,
            path: component.path,
            commit: component.commit,
            branch: held.map_or(component.branch, |held| held.branch.clone()),
            version: component.version,
            image: component.image,
        }
    };
    Snapshot {
        revision: revision.to_owned(),
        version,
        components: components.into_values().map(cell).collect(),
        problems,
    }
}

/// What one revision would change of another.
pub fn next(running: Option<&Snapshot>, candidate: &Snapshot) -> Next {
    let before = running.map(|running| &running.components[..]).unwrap_or_default();
    let is_new = |cell: &&Cell| {
        let known = before.iter().find(|known| known.name == cell.name);
        known.is_none_or(|known| (known.commit, &known.path) != (cell.commit, &cell.path))
    };
    let goes = |cell: &&Cell| {
        candidate.problems.is_empty() && !candidate.components.iter().any(|other| other.name == cell.name)
    };
    Next {
        revision: candidate.revision.clone(),
        components: candidate.components.iter().filter(is_new).cloned().collect(),
        removed: before.iter().filter(goes).map(|cell| cell.name.clone()).collect(),
        problems: candidate.problems.clone(),
    }
}

impl Matrix {
    /// The names of all components, those of the candidates too, in order.
    pub fn names(&self) -> Vec<&str> {
        let cells = self.environments.iter().flat_map(|column| {
            let running = column.running.iter().flat_map(|running| &running.components);
            running.chain(column.next.iter().flat_map(|next| &next.components))
        });
        let names: BTreeSet<&str> = cells.map(|cell| cell.name.as_str()).collect();
        names.into_iter().collect()
    }
}

impl Column {
    /// Where a component stands here.
    pub fn spot(&self, name: &str) -> Spot<'_> {
        let Some(running) = &self.running else {
            return Spot::Unknown(self.unknown.as_deref().unwrap_or("it runs nothing yet"));
        };
        match running.components.iter().find(|cell| cell.name == name) {
            Some(cell) => Spot::Runs(cell),
            None => running.problems.first().map_or(Spot::Absent, |why| Spot::Unknown(why)),
        }
    }

    /// What the candidate does to a component; none where it leaves it, or there is no candidate.
    pub fn change(&self, name: &str) -> Option<Change<'_>> {
        let next = self.next.as_ref()?;
        if let Some(why) = next.problems.first() {
            return Some(Change::Unknown(why));
        }
        let cell = next.components.iter().find(|cell| cell.name == name).map(Change::To);
        cell.or_else(|| next.removed.iter().any(|gone| gone == name).then_some(Change::Goes))
    }
}

impl Cell {
    /// Its version, or the first digits of its commit.
    pub fn title(&self) -> String {
        self.version.clone().unwrap_or_else(|| self.commit.short())
    }

    /// Where it stands against its branch, in words: `3 behind`, `at the head`.
    pub fn standing(&self) -> String {
        match (self.ahead, self.behind) {
            (Some(0), Some(0)) => "at the head".to_owned(),
            (Some(0), Some(behind)) => format!("{behind} behind"),
            (Some(ahead), Some(0)) => format!("{ahead} ahead"),
            (Some(ahead), Some(behind)) => format!("{ahead} ahead, {behind} behind"),
            _ => "unknown".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::{Declarations, Pin, components};
    use crate::tree::TreeBuilder;

    fn at(submodules: &[(&str, u8)], known: bool) -> Snapshot {
        let mut builder = TreeBuilder::default();
        for (path, byte) in submodules {
            builder.submodule((*path).to_owned(), CommitId::from_bytes([*byte; 20])).unwrap();
        }
        let lost = || Problem::passing("the git server does not answer");
        let (mut pins, mut held) = (Pins::new(), BTreeMap::new());
        for (path, byte) in submodules {
            let pin = Pin {
                version: Ok(format!("v1.0-{byte}-{}", CommitId::from_bytes([*byte; 20]).short())),
                committed_at: "2026-01-05T09:00:00Z".parse().unwrap(),
                git_tag: Ok("v1.0".into()),
                digests: BTreeMap::new(),
            };
            pins.insert((*path).to_owned(), if known { Ok(pin) } else { Err(lost()) });
            let standing = Standing { ahead: 0, behind: usize::from(*byte) };
            let standing = if known { Ok(standing) } else { Err(lost()) };
            held.insert((*path).to_owned(), Held { branch: "r1.2".into(), standing });
        }
        let found = components(&builder.build(), &Declarations::default(), "r1.2", &pins);
        snapshot(("r1.2@sha1:00", None), found, &pins, &held)
    }

    #[test]
    fn a_cell_says_what_is_known_and_why_the_rest_is_not() {
        let known = at(&[("c/web", 3)], true);
        let web = &known.components[0];
        assert_eq!((web.title().as_str(), web.standing().as_str()), ("v1.0-3-0303030", "3 behind"));
        assert!(web.committed_at.is_some() && web.unknown.is_empty());

        let lost = at(&[("c/web", 3)], false);
        let web = &lost.components[0];
        assert_eq!((web.title().as_str(), web.standing().as_str()), ("0303030", "unknown"));
        assert_eq!(web.unknown, ["the git server does not answer"], "each reason once");
    }

    #[test]
    fn a_candidate_is_told_where_it_differs() {
        let running = at(&[("c/web", 1), ("c/api", 1), ("c/old", 1)], true);
        let brings = next(Some(&running), &at(&[("c/web", 2), ("c/api", 1), ("c/new", 1)], true));
        assert_eq!(brings.components.iter().map(|cell| &*cell.name).collect::<Vec<_>>(), ["new", "web"]);
        assert_eq!(brings.removed, ["old"]);
        let column = Column {
            environment: "prod".into(),
            lane: "master".into(),
            running: Some(running.clone()),
            next: Some(brings),
            unknown: None,
        };
        assert!(matches!(column.change("web"), Some(Change::To(cell)) if cell.commit.as_bytes() == &[2; 20]));
        assert_eq!(column.change("old"), Some(Change::Goes));
        assert_eq!((column.change("api"), column.spot("new")), (None, Spot::Absent));
        let matrix = Matrix { repository: "shop/shop".into(), environments: vec![column] };
        assert_eq!(matrix.names(), ["api", "new", "old", "web"]);

        // A revision that cannot be read takes nothing away.
        let unreadable = Snapshot { components: Vec::new(), problems: vec!["no map".into()], ..running.clone() };
        let brings = next(Some(&running), &unreadable);
        assert!(brings.removed.is_empty() && brings.problems == ["no map"]);
    }

    #[test]
    fn what_an_environment_runs_is_unknown_before_it_is_absent() {
        let column = |running, unknown| Column {
            environment: "prod".into(),
            lane: "master".into(),
            running,
            next: None,
            unknown,
        };
        assert_eq!(column(None, None).spot("web"), Spot::Unknown("it runs nothing yet"));
        assert_eq!(column(None, Some("gone".into())).spot("web"), Spot::Unknown("gone"));
        let unreadable = Snapshot {
            revision: "x".into(),
            version: None,
            components: Vec::new(),
            problems: vec!["no map".to_owned()],
        };
        assert_eq!(column(Some(unreadable), None).spot("web"), Spot::Unknown("no map"));
    }
}
