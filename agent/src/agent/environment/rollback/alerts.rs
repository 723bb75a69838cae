//! Alerts that fire because of a release: asked for while it soaks, beside the passes.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use towpath_core::alerts::{Alert, blamed};
use towpath_core::environment::{self, AlertRule, RollbackCase};
use towpath_core::fault::Problem;
use towpath_core::manifest::{Identity, ObjectKey};
use towpath_core::rollback::{self, Trouble};
use towpath_core::status::{SyncRecord, Trigger};

use super::Task;
use crate::agent::Shared;
use crate::alerts::AlertKeys;
use crate::cluster::Account;

/// How often Alertmanager is asked while a release soaks.
const EVERY: Duration = Duration::from_secs(15);
/// How soon an answer is looked for.
const SOON: Duration = Duration::from_secs(1);
/// Alerts that are named.
const MAX_NAMED: usize = 3;

/// What is known of alerts, and who is asking for them.
#[derive(Default)]
pub(in crate::agent::environment) struct Asked {
    /// Alerts that fire because of the release.
    pub(super) trouble: Option<Trouble>,
    /// Why that is not known.
    pub(in crate::agent::environment) problem: Option<Problem>,
    asking: Option<Asking>,
    asked_at: Option<Instant>,
}

struct Asking {
    revision: String,
    released_at: Timestamp,
    task: JoinHandle<Result<Vec<Alert>, Problem>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A release that soaks.
struct Soaking {
    revision: String,
    /// When it began.
    released_at: Timestamp,
    is_newer_there: bool,
}

impl Task {
    /// Takes an answer, and asks again where that is due. Nothing is waited for.
    pub(in crate::agent::environment) async fn look_at_alerts(&mut self, environment: &environment::Environment) {
        let Some((rule, soaking)) = environment.rollback.alerts.as_ref().zip(self.soaking(environment)) else {
            self.alerts = Asked::default();
            return;
        };
        if self.alerts.trouble.as_ref().is_some_and(|trouble| trouble.revision != soaking.revision) {
            self.alerts.trouble = None;
        }
        if let Some(mut asking) = self.alerts.asking.take() {
            if !asking.task.is_finished() {
                self.alerts.asking = Some(asking);
                return;
            }
            let answer = (&mut asking.task).await.unwrap_or_else(|_| Err(Problem::passing("nobody was asked")));
            if asking.revision == soaking.revision {
                self.take(&asking, answer, soaking.is_newer_there);
            }
        }
        let every = self.shared.settings.scaled(EVERY);
        if self.alerts.asked_at.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.alerts.asked_at = Some(Instant::now());
        let (shared, rule, environment) = (self.shared.clone(), rule.clone(), environment.clone());
        let task = tokio::spawn(async move { ask(&shared, &environment, &rule).await });
        let Soaking { revision, released_at, .. } = soaking;
        self.alerts.asking = Some(Asking { revision, released_at, task });
    }

    fn take(&mut self, asking: &Asking, answer: Result<Vec<Alert>, Problem>, is_newer_there: bool) {
        match answer {
            Err(problem) => {
                let message = format!("alerts are not known: {}", problem.message);
                self.alerts.problem = Some(Problem { message, ..problem });
            }
            Ok(firing) => {
                self.alerts.problem = None;
                let blamed = blamed(firing, asking.released_at);
                let named: Vec<String> = blamed
                    .alerts
                    .iter()
                    .take(MAX_NAMED)
                    .map(|alert| format!("{} since {:.0}: {}", alert.name, alert.started_at, alert.summary))
                    .collect();
                let more = blamed.alerts.len() + blamed.more - named.len();
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                self.alerts.trouble = (!blamed.is_empty()).then(|| Trouble {
                    case: RollbackCase::Alert,
                    revision: asking.revision.clone(),
                    why: format!("an alert fires: {}{more}", named.join("; ")),
                    is_newer_there,
                });
            }
        }
    }

    /// How soon another pass is needed for the sake of alerts.
    pub(in crate::agent::environment) fn alerts_in(&self, environment: &environment::Environment) -> Option<Duration> {
        environment.rollback.alerts.as_ref()?;
        self.soaking(environment)?;
        let every = if self.alerts.asking.is_some() { SOON } else { EVERY };
        Some(self.shared.settings.scaled(every))
    }

    /// The release, while it soaks.
    fn soaking(&self, environment: &environment::Environment) -> Option<Soaking> {
        let (revision, is_newer_there) = rollback::release(&self.status, environment.sync)?;
        let runs = self.status.running.as_ref().is_some_and(|running| running.revision == revision);
        // New settings are no release.
        let under_way = self.status.sync.as_ref().filter(|sync| sync.revision == revision && !runs);
        let is_release = |sync: &&SyncRecord| sync.revision == revision && sync.trigger != Trigger::Settings;
        let begun = self.status.history.iter().find(is_release).map(|sync| sync.started_at);
        let released_at = under_way.map(|sync| sync.started_at).or(begun).or(self.status.running_since)?;
        let since = if under_way.is_some() { released_at } else { self.status.running_since? };
        let soak = SignedDuration::try_from(environment.rollback.soak).unwrap_or(SignedDuration::MAX);
        let soaks = Timestamp::now().duration_since(since) < soak;
        soaks.then_some(Soaking { revision, released_at, is_newer_there })
    }
}

async fn ask(shared: &Shared, environment: &environment::Environment, rule: &AlertRule) -> Result<Vec<Alert>, Problem> {
    let keys = match &rule.secret {
        None => None,
        Some(name) => {
            let account = shared.cluster.act_as(&Account::new(&environment.home, &environment.account)?);
            let kinds = shared.cluster.kinds(None).await?;
            let kind =
                kinds.get("v1", "Secret").ok_or_else(|| Problem::passing("the cluster serves no Secrets now"))?;
            let namespace = Some(environment.home.clone());
            let key = Identity { group: String::new(), kind: "Secret".to_owned(), namespace, name: name.clone() };
            let secret = account.read(kind, &ObjectKey::from(key)).await?.ok_or_else(|| {
                Problem::setup(format!("there is no Secret {name} in namespace {}", environment.home))
                    .hint("create it, or correct spec.rollback.alerts.secretRef")
            })?;
            Some(AlertKeys::read(name, &secret)?)
        }
    };
    shared.alerts.firing(rule, keys.as_ref()).await
}
