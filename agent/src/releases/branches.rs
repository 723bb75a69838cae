//! Branch hygiene, read from the mirrors: the deploy repository's own by patches, the components' by what a cherry-pick
//! keeps, for of these only commits are here.

mod reverts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use towpath_core::commits::Commit;
use towpath_core::fault::Problem;
use towpath_core::hygiene::{self, Finding, Hygiene, MAX_COMPARED, Marked};
use towpath_core::lane::{BranchNames, Heads};
use towpath_core::revision::CommitId;

use super::{Reading, of_part};
use crate::repo::{Mirror, Part, View};

/// Looks at one repository's branches.
struct Look<'l> {
    reading: &'l Reading,
    names: &'l BranchNames,
    mirror: &'l Mirror,
    heads: &'l Heads,
    /// The component; none for the deploy repository itself.
    component: Option<&'l str>,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    unknown: BTreeSet<String>,
}

impl Found {
    fn hygiene(self, repository: String, compared: Vec<String>) -> Hygiene {
        let (findings, more) = hygiene::cut(self.findings);
        Hygiene { repository, compared, unknown: self.unknown.into_iter().collect(), findings, more }
    }
}

/// The branches that are there, of those that are wanted.
fn lanes_of(heads: &Heads, deleted: &BTreeSet<String>, is_wanted: impl Fn(&str) -> bool) -> Heads {
    let is_there = |(branch, _): &(&String, &CommitId)| !deleted.contains(*branch) && is_wanted(branch);
    heads.iter().filter(is_there).map(|(branch, head)| (branch.clone(), *head)).collect()
}

fn not_followed(branch: &str) -> String {
    format!("no environment follows {branch}, so it is not compared")
}

impl Reading {
    /// Looks at the branches of the deploy repository, and of every component that they name.
    pub(super) fn look_at_branches(&self, view: &View) -> Hygiene {
        let names = &view.branches;
        let heads = lanes_of(&view.heads, &view.deleted, |_| true);
        let compared = hygiene::compared(heads.keys(), names);
        let mut found = Found::default();
        for branch in [&names.develop, &names.master] {
            if !heads.contains_key(branch) {
                found.unknown.insert(not_followed(branch));
            }
        }
        let mut parts: BTreeMap<String, (String, Arc<Part>)> = BTreeMap::new();
        for branch in &compared {
            self.look_at_pins(view, branch, heads[*branch], &mut found, &mut parts);
        }
        let deploy = Look { reading: self, names, mirror: &view.mirror, heads: &heads, component: None };
        deploy.run(&mut found);
        for (name, part) in parts.values() {
            let heads = lanes_of(&part.heads, &part.deleted, |branch| compared.contains(&branch));
            let look = Look { reading: self, names, mirror: &part.mirror, heads: &heads, component: Some(name) };
            look.run(&mut found);
        }
        found.hygiene(self.name.clone(), compared.into_iter().map(str::to_owned).collect())
    }

    /// Whether the components of a branch have that branch too, and their pins are on it.
    fn look_at_pins(
        &self,
        view: &View,
        branch: &str,
        head: CommitId,
        found: &mut Found,
        parts: &mut BTreeMap<String, (String, Arc<Part>)>,
    ) {
        let revision = format!("{branch}@sha1:{head}");
        let (tree, snapshot) = match (self.sketch(view, head), self.snapshot_of(view, &revision, &[])) {
            (Ok(tree), Ok(snapshot)) => (tree, snapshot),
            (Err(problem), _) | (_, Err(problem)) => {
                found.unknown.insert(format!("the components of {branch}: {problem}"));
                return;
            }
        };
        for pinned in view.parts.of(&tree) {
            let path = &pinned.submodule.path;
            let cell = snapshot.components.iter().find(|cell| cell.path == *path);
            let name = cell.map_or(path.as_str(), |cell| cell.name.as_str());
            let part = match &pinned.part {
                Ok(part) => part,
                Err(problem) => {
                    found.unknown.insert(problem.to_string());
                    continue;
                }
            };
            parts.entry(part.mirror.remote().to_string()).or_insert_with(|| (name.to_owned(), part.clone()));
            let lane = branch;
            let branch = pinned.submodule.branch_for(lane);
            let Some(head) = part.heads.get(branch).filter(|_| !part.deleted.contains(branch)) else {
                match &part.problem {
                    Some(problem) => drop(found.unknown.insert(of_part(&pinned, problem).to_string())),
                    None => found.findings.push(hygiene::branch_missing(name, branch)),
                }
                continue;
            };
            match self.standing(&part.mirror, pinned.commit, *head) {
                Ok(standing) if standing.ahead > 0 => {
                    found.findings.push(hygiene::pin_not_on_branch(name, lane, branch, pinned.commit));
                }
                Ok(_) => {}
                Err(problem) => {
                    let problem = of_part(&pinned, &problem);
                    found
                        .unknown
                        .insert(format!("whether {name} at {} is on {branch}: {problem}", pinned.commit.short()));
                }
            }
        }
    }
}

impl Look<'_> {
    fn run(&self, found: &mut Found) {
        let mut judged = BTreeSet::new();
        for result in [self.reverts(found, &mut judged), self.fixes(found, &judged), self.traps(found)] {
            self.or_unknown(result, found);
        }
    }

    /// What was read, or none where it was noted as not known.
    fn or_unknown<T>(&self, result: Result<T, Problem>, found: &mut Found) -> Option<T> {
        result
            .inspect_err(|problem| {
                let who = self.component.unwrap_or("the deploy repository");
                found.unknown.insert(format!("{who}: {problem}"));
            })
            .ok()
    }

    /// Fixes on releases that develop or a newer release lacks. Reverts that were judged as such are none.
    fn fixes(&self, found: &mut Found, judged: &BTreeSet<CommitId>) -> Result<(), Problem> {
        let compared = hygiene::compared(self.heads.keys(), self.names);
        for branch in &compared {
            let mut lacking: BTreeMap<CommitId, Vec<&str>> = BTreeMap::new();
            let mut fixes: Vec<Commit> = Vec::new();
            for other in hygiene::must_reach(branch, &compared, self.names) {
                let (head, other_head) = (self.heads[*branch], self.heads[other]);
                let ours = self.marked((branch, head), other_head, found)?;
                if ours.is_empty() {
                    continue;
                }
                let theirs = self.marked((other, other_head), head, found)?;
                let missing = hygiene::missing(&ours, &theirs);
                for commit in missing.into_iter().filter(|commit| !judged.contains(&commit.commit)) {
                    let known = lacking.entry(commit.commit).or_default();
                    if known.is_empty() {
                        fixes.push(commit.clone());
                    }
                    known.push(other);
                }
            }
            found.findings.extend(
                fixes
                    .iter()
                    .map(|commit| hygiene::fix_missing(self.component, branch, commit, &lacking[&commit.commit])),
            );
        }
        Ok(())
    }

    /// The commits of one branch that another one does not contain, with their marks.
    fn marked(
        &self,
        (branch, head): (&str, CommitId),
        without: CommitId,
        found: &mut Found,
    ) -> Result<Vec<Marked>, Problem> {
        let (commits, is_cut) = self.mirror.commits_of(head, &[without], MAX_COMPARED)?;
        self.note_cut(is_cut, branch, found);
        commits.into_iter().map(|commit| Ok(Marked { mark: self.mark(&commit)?, commit })).collect()
    }

    fn note_cut(&self, is_cut: bool, branch: &str, found: &mut Found) {
        if is_cut {
            let place = self.component.map(|name| format!(" of {name}")).unwrap_or_default();
            found.unknown.insert(format!("of {branch}{place} only the newest {MAX_COMPARED} commits are compared"));
        }
    }

    /// By what a commit is known on another branch.
    fn mark(&self, commit: &Commit) -> Result<Option<String>, Problem> {
        if commit.is_merge {
            return Ok(None);
        }
        match self.component {
            Some(_) => Ok(Some(commit.kept_by_a_cherry_pick())),
            None => self.reading.marks.get_or(commit.commit, || self.mirror.patch_id(commit.commit)),
        }
    }
}
