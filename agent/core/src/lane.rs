//! Branch names, parsed once, and which one an environment follows.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::revision::CommitId;

/// The branches of a repository and the commit that each stands on.
pub type Heads = BTreeMap<String, CommitId>;

/// The number of a release branch `rX.Y`, compared as two numbers: r1.10 comes after r1.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// X.
    pub major: u32,
    /// Y.
    pub minor: u32,
}

impl Release {
    /// Reads `rX.Y`. Anything else (r1, r1.2.3, r01.2, r2.0-rc, R1.2) is no release branch.
    pub fn parse(branch: &str) -> Option<Release> {
        let (major, minor) = branch.strip_prefix('r')?.split_once('.')?;
        Some(Release { major: number(major)?, minor: number(minor)? })
    }
}

/// Digits without a leading zero.
pub(crate) fn number(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_padded = text.len() > 1 && text.starts_with('0');
    if is_plain && !is_padded { text.parse().ok() } else { None }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}.{}", self.major, self.minor)
    }
}

/// What the two long-lived branches are called in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchNames {
    /// Where work is merged first.
    pub develop: String,
    /// What production follows.
    pub master: String,
}

impl Default for BranchNames {
    fn default() -> Self {
        BranchNames { develop: "develop".to_owned(), master: "master".to_owned() }
    }
}

/// A branch by its role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The develop branch.
    Develop,
    /// A release branch.
    Release(Release),
    /// The master branch.
    Master,
    /// A branch that an environment names itself.
    Other(String),
}

impl Lane {
    /// The role of a branch.
    pub fn of(branch: &str, names: &BranchNames) -> Lane {
        if branch == names.develop {
            Lane::Develop
        } else if branch == names.master {
            Lane::Master
        } else if let Some(release) = Release::parse(branch) {
            Lane::Release(release)
        } else {
            Lane::Other(branch.to_owned())
        }
    }
}

/// Which lane an environment follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LaneRule {
    /// The develop branch.
    Develop,
    /// The newest release branch.
    NewestRelease,
    /// The master branch.
    Master,
    /// Exactly this branch.
    Branch(String),
    /// Exactly this commit.
    Commit(CommitId),
}

impl LaneRule {
    /// Reads the `lane` of an Environment: `develop`, `release`, `master`, 40 digits, or else the name of a branch.
    ///
    /// # Errors
    /// When it could not be a branch name (git-check-ref-format).
    pub fn parse(text: &str) -> Result<LaneRule, NotABranch> {
        match text {
            "develop" => Ok(LaneRule::Develop),
            "release" => Ok(LaneRule::NewestRelease),
            "master" => Ok(LaneRule::Master),
            other => match other.parse() {
                Ok(commit) => Ok(LaneRule::Commit(commit)),
                Err(_) if is_branch_name(other) => Ok(LaneRule::Branch(other.to_owned())),
                Err(_) => Err(NotABranch(other.chars().take(80).collect())),
            },
        }
    }

    /// The branch to follow, out of those that exist. `None` where there is none, and for an exact commit.
    pub fn branch<'a>(&self, heads: &'a Heads, names: &BranchNames) -> Option<&'a str> {
        let exact = |name: &str| heads.get_key_value(name).map(|(name, _)| name.as_str());
        match self {
            LaneRule::Develop => exact(&names.develop),
            LaneRule::Master => exact(&names.master),
            LaneRule::Branch(name) => exact(name),
            LaneRule::Commit(_) => None,
            LaneRule::NewestRelease => newest_release(heads.keys()).map(|(name, _)| name),
        }
    }
}

impl fmt::Display for LaneRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaneRule::Develop => f.write_str("develop"),
            LaneRule::NewestRelease => f.write_str("release"),
            LaneRule::Master => f.write_str("master"),
            LaneRule::Branch(name) => f.write_str(name),
            LaneRule::Commit(commit) => commit.fmt(f),
        }
    }
}

/// The newest release branch among some branches.
pub fn newest_release<'a>(branches: impl IntoIterator<Item = &'a String>) -> Option<(&'a str, Release)> {
    branches
        .into_iter()
        .filter_map(|name| Release::parse(name).map(|release| (name.as_str(), release)))
        .max_by_key(|(_, release)| *release)
}

/// Why a lane is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither develop, release or master, nor a branch name, nor a commit of 40 digits")]
pub struct NotABranch(pub String);

/// Bytes of the name of a branch.
const MAX_BRANCH_BYTES: usize = 200;
/// Bytes of the whole name of a ref: a ledger's holds the names of a cluster and of an environment.
const MAX_REF_BYTES: usize = 400;

/// Whether git would take a text as the name of a branch (git-check-ref-format), and nothing could take it for an
/// option or a revision expression.
pub fn is_branch_name(name: &str) -> bool {
    is_below_refs(name, MAX_BRANCH_BYTES) && name != "HEAD"
}

/// Whether git would take a text as the whole name of a ref (`refs/…`), and a file of that name stays in its folder.
pub fn is_ref_name(name: &str) -> bool {
    name.strip_prefix("refs/").is_some_and(|below| is_below_refs(below, MAX_REF_BYTES - "refs/".len()))
}

fn is_below_refs(name: &str, most_bytes: usize) -> bool {
    // With `.lock` at its end it must still be the name of a file.
    const MAX_PART_BYTES: usize = 250;
    let good_character = |c: char| c.is_ascii_graphic() && !matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let good_part =
        |part: &str| (1..=MAX_PART_BYTES).contains(&part.len()) && !part.starts_with('.') && !part.ends_with(".lock");
    (1..=most_bytes).contains(&name.len())
        && name.chars().all(good_character)
        && name.split('/').all(good_part)
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && name != "@"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(names: &[&str]) -> Heads {
        names.iter().map(|name| ((*name).to_owned(), CommitId::from_bytes([7; 20]))).collect()
    }

    #[test]
    fn release_branches_are_compared_as_numbers() {
        let heads = heads(&["r1.9", "r1.10", "r0.99", "master"]);
        assert_eq!(LaneRule::NewestRelease.branch(&heads, &BranchNames::default()), Some("r1.10"));
    }

    #[test]
    fn what_only_looks_like_a_release_is_ignored() {
        for name in [
            "r1.2.3",
            "r01.2",
            "r1.02",
            "R1.2",
            "r1.2 ",
            "r2.0-rc",
            "r1",
            "r1.",
            "r.1",
            "r1.x",
            "release/1.2",
            "r99999999999.1",
        ] {
            assert_eq!(Release::parse(name), None, "{name}");
        }
        assert_eq!(Release::parse("r0.0"), Some(Release { major: 0, minor: 0 }));
    }

    #[test]
    fn look_alikes_of_the_long_lived_branches_are_other_branches() {
        let names = BranchNames::default();
        assert_eq!(Lane::of("Develop", &names), Lane::Other("Develop".into()));
        assert_eq!(Lane::of("m\u{430}ster", &names), Lane::Other("m\u{430}ster".into()));
        assert_eq!(LaneRule::Master.branch(&heads(&["Master"]), &names), None);
    }

    #[test]
    fn a_repository_may_call_its_branches_otherwise() {
        let names = BranchNames { develop: "dev".into(), master: "main".into() };
        assert_eq!(LaneRule::Master.branch(&heads(&["main", "master"]), &names), Some("main"));
    }

    #[test]
    fn a_lane_is_a_role_a_branch_or_a_commit() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(LaneRule::parse("release"), Ok(LaneRule::NewestRelease));
        assert_eq!(LaneRule::parse("feature/x"), Ok(LaneRule::Branch("feature/x".into())));
        assert_eq!(LaneRule::parse(commit), Ok(LaneRule::Commit(commit.parse().unwrap())));
        for bad in ["", "--upload-pack=x", "a..b", ":/x", "@{-1}", "a b", "HEAD", "a//b", ".a", "a.lock", "a~1"] {
            assert!(LaneRule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ref_name_stays_in_its_folder_and_is_one_that_git_takes() {
        let part = "x".repeat(250);
        let longest = format!("refs/{part}/{}", "y".repeat(400 - 5 - 251));
        for good in ["refs/heads/develop", "refs/towpath/test/shop/2026", "refs/x", longest.as_str()] {
            assert!(is_ref_name(good), "{good}");
        }
        for bad in [
            "",
            "refs/",
            "refs",
            "HEAD",
            "heads/develop",
            "/refs/heads/x",
            "refs/heads/",
            "refs//x",
            "refs/heads/../../x",
            "refs/heads/.x",
            "refs/-x",
            "refs/heads/a..b",
            "refs/heads/x.lock",
            "refs/heads/x.lock/y",
            "refs/heads/x\n",
            "refs/heads/x y",
            "refs/heads/x^{}",
            "refs/heads/gr\u{f6}\u{df}e",
            "refs/heads/x.",
            "refs/heads/@{-1}",
            "refs/heads/a\\b",
            &format!("{longest}y"),
            &format!("refs/{part}x"),
        ] {
            assert!(!is_ref_name(bad), "{bad}");
        }
    }
}
