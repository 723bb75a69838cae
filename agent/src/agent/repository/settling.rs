//! What a Repository's task tells of reverts that are not settled: in a condition, after branches moved, and to whoever
//! cuts a release.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;
use towpath_core::hygiene::{Hygiene, MAX_FINDINGS, REVERTS_SETTLED};
use towpath_core::status::Condition;

use super::Task;
use crate::agent::{Id, Shared, Sight, Slot};
use crate::blocking::blocking;
use crate::bump::Lane;
use crate::resources::{Repository, ResolvedRepository};

/// How long after something moved the branches are looked at: environments come first, and moves come in flocks.
const AFTER: Duration = Duration::from_secs(2);
/// How many times as long as a look the next one waits at least.
const REST: u32 = 9;
/// Looks at branches at one time, of all Repositories: the first one of each is long.
static LOOKS: Semaphore = Semaphore::const_new(1);

/// What is known of reverts, between the task that looks and the one that writes the status.
#[derive(Default)]
pub(super) struct Settling {
    told: Mutex<Option<Result<Arc<Hygiene>, Problem>>>,
    /// Whenever something else is known.
    pub(super) news: Notify,
}

impl Settling {
    /// Looks at the branches whenever something of them has moved, until it is stopped. Where nothing moves it waits.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>, slot: Arc<Slot>, id: Id, stop: CancellationToken) {
        let watch = async {
            let mut sight = slot.sight.subscribe();
            let mut pause = shared.settings.scaled(AFTER);
            loop {
                let Ok(()) = sight.changed().await else { return };
                tokio::time::sleep(pause).await;
                let is_seen = matches!(&*sight.borrow_and_update(), Sight::View(_));
                let Some(releases) = shared.board.releases_of(&id).filter(|_| is_seen) else { continue };
                let _permit = LOOKS.acquire().await.expect("it is never closed");
                let begun = Instant::now();
                let looked = tokio::task::spawn_blocking(move || releases.hygiene()).await;
                pause = shared.settings.scaled(AFTER).max(begun.elapsed() * REST);
                let broken = |error| Problem::passing(format!("the branches could not be looked at: {error}"));
                self.tell(looked.unwrap_or_else(|error| Err(broken(error))));
            }
        };
        tokio::select! {
            () = watch => {}
            () = stop.cancelled() => {}
        }
    }

    fn tell(&self, looked: Result<Arc<Hygiene>, Problem>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
        self.news.notify_one();
    }
}

/// Status, reason and message of the condition.
fn condition(looked: &Result<Arc<Hygiene>, Problem>) -> (&'static str, &'static str, String) {
    let hygiene = match looked {
        Err(problem) => return ("Unknown", "NotKnown", problem.to_string()),
        Ok(hygiene) => hygiene,
    };
    let count = hygiene.of_reverts().count();
    match (hygiene.of_reverts().next(), hygiene.unknown.first()) {
        (Some(first), _) => {
            let at_least = if hygiene.more > 0 && count >= MAX_FINDINGS { "at least " } else { "" };
            let what = if count == 1 { "finding" } else { "findings" };
            let message =
                format!("{at_least}{count} {what} about reverts; the first: {} (help: {})", first.message, first.hint);
            ("False", "NotSettled", message)
        }
        (None, Some(unknown)) => {
            let more = match hygiene.unknown.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            ("Unknown", "NotAllKnown", format!("nothing was found on what is known, but: {unknown}{more}"))
        }
        (None, None) => ("True", "Settled", "every revert is settled on the branches that are compared".to_owned()),
    }
}

impl Task {
    /// Whether all reverts are settled, as a condition. None before something was found for the first time, which most
    /// Repositories never see; and as it was until the branches were looked at.
    pub(super) fn reverts_settled(&self, resource: &Repository, now: Timestamp) -> Option<Condition> {
        let known = self.status.conditions.iter().find(|condition| condition.type_ == REVERTS_SETTLED);
        let told = self.settling.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(looked) = told else { return known.cloned() };
        let (status, reason, message) = condition(&looked);
        if known.is_none() && status != "False" {
            return None;
        }
        let condition = Condition::after(&self.status.conditions, now, (REVERTS_SETTLED, status), reason, message);
        Some(condition.of_generation(resource.metadata.generation))
    }

    /// What whoever cuts a release is to know: what was reverted on master or an older release and lives on in it.
    pub(super) async fn warnings(&self, resolved: &ResolvedRepository, from: &Lane) -> Vec<String> {
        // As it was fetched for this cut.
        self.publish(resolved, None);
        let Some(releases) = self.shared.board.releases_of(&self.id) else { return Vec::new() };
        let from = from.clone();
        match blocking(move || releases.alive_at(&from.branch, from.head)).await {
            Err(problem) => vec![format!("warning: which reverts are not settled is not known: {problem}")],
            Ok(told) => {
                let found = told
                    .findings
                    .iter()
                    .flat_map(|finding| [format!("warning: {}", finding.message), format!("help: {}", finding.hint)]);
                let more = (told.more > 0).then(|| format!("warning: {} more reverts are not settled", told.more));
                let unknown = told.unknown.iter().map(|unknown| format!("warning: not known of reverts: {unknown}"));
                found.chain(more).chain(unknown).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towpath_core::hygiene::branch_missing;
    use towpath_core::hygiene::{Finding, Sort};

    fn hygiene(findings: Vec<Finding>, unknown: &[&str], more: usize) -> Result<Arc<Hygiene>, Problem> {
        let unknown = unknown.iter().map(|line| (*line).to_owned()).collect();
        Ok(Arc::new(Hygiene { findings, unknown, more, ..Hygiene::default() }))
    }

    #[test]
    fn only_reverts_are_told_and_what_is_not_known_is_not_settled() {
        let other = branch_missing("web", "r1.3");
        let trap = Finding { sort: Sort::MergeBringsNothingBack, ..other.clone() };
        assert_eq!(condition(&hygiene(vec![other.clone()], &[], 0)).0, "True");
        let (status, reason, message) = condition(&hygiene(vec![other, trap.clone()], &["web: 401"], 0));
        assert_eq!((status, reason), ("False", "NotSettled"));
        assert!(message.starts_with("1 finding about reverts; the first: component web has no"), "{message}");
        let (_, _, message) = condition(&hygiene(vec![trap; MAX_FINDINGS], &[], 1));
        assert!(message.starts_with("at least 50 findings"), "{message}");
        let (status, reason, message) = condition(&hygiene(Vec::new(), &["web: 401", "x"], 0));
        assert_eq!((status, reason), ("Unknown", "NotAllKnown"));
        assert!(message.ends_with("but: web: 401, and 1 more"), "{message}");
        assert_eq!(condition(&Err(Problem::passing("later"))).0, "Unknown");
    }
}
