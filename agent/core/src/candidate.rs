//! The revision that an environment may move to now.
//!
//! Until tickets and the ledger come, it is the head of the lane.

use crate::fault::Problem;
use crate::lane::{BranchNames, Heads, LaneRule};
use crate::revision::CommitId;

/// A commit of the lane that may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The branch it is on; the commit itself for an environment that names one.
    pub branch: String,
    /// The commit.
    pub commit: CommitId,
}

/// Finds the candidate among the heads of a repository.
///
/// # Errors
/// `Setup` when the lane has no branch there.
pub fn find(lane: &LaneRule, heads: &Heads, names: &BranchNames) -> Result<Candidate, Problem> {
    if let LaneRule::Commit(commit) = lane {
        return Ok(Candidate { branch: commit.to_string(), commit: *commit });
    }
    match lane.branch(heads, names) {
        Some(branch) => Ok(Candidate { branch: branch.to_owned(), commit: heads[branch] }),
        None => {
            let wanted = match lane {
                LaneRule::Develop => format!("branch {}", names.develop),
                LaneRule::Master => format!("branch {}", names.master),
                LaneRule::NewestRelease => "release branch rX.Y".to_owned(),
                LaneRule::Branch(name) => format!("branch {name}"),
                LaneRule::Commit(_) => unreachable!("an exact commit was answered above"),
            };
            Err(Problem::setup(format!("the repository has no {wanted}"))
                .hint("push the branch, or correct spec.lane of the Environment"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_the_head_of_the_lane() {
        let heads: Heads = [("r1.2".to_owned(), CommitId::from_bytes([1; 20]))].into();
        let names = BranchNames::default();
        let candidate = find(&LaneRule::NewestRelease, &heads, &names).unwrap();
        assert_eq!((candidate.branch.as_str(), candidate.commit), ("r1.2", CommitId::from_bytes([1; 20])));
        let problem = find(&LaneRule::Master, &heads, &names).unwrap_err();
        assert_eq!(problem.message, "the repository has no branch master");
    }
}
