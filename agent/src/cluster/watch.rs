//! Watches on workloads: one for each account, kind and namespace, shared between environments, selected by our label.
//!
//! A watch streams its first list, so that one object at a time is decoded, and keeps no bodies. While a watch has not
//! listed completely, what it watches is unknown, which is never the same as absent.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use rand::RngExt;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use towpath_core::fault::Problem;
use towpath_core::manifest::ObjectKey;
use towpath_core::names::ENVIRONMENT_LABEL;

use super::call::{self, Failure};
use super::live::{Covered, Live};
use super::{Account, AccountClient, Kind};

/// The first pause before an interrupted watch is taken up again.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
/// The longest one. What all watches together may ask of a server that is away, the brake decides.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A watch that was not interrupted for so long begins with the first pause again.
const CALM: Duration = Duration::from_secs(120);

/// The pauses of a watch that is interrupted again and again: doubled each time, and spread by chance so that many
/// watches do not come back in step.
#[derive(Clone, Debug)]
pub struct BackOff {
    next: Duration,
    last: Option<Instant>,
}

impl Default for BackOff {
    fn default() -> Self {
        BackOff { next: FIRST_PAUSE, last: None }
    }
}

impl Iterator for BackOff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > CALM) {
            self.next = FIRST_PAUSE;
        }
        self.last = Some(Instant::now());
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..1.0));
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

impl Backoff for BackOff {
    /// An event came. Not a reason to be quick: a server may send one and break off, again and again.
    fn reset(&mut self) {}
}

/// The events of a watch, for as long as it is polled. Where it cannot go on from where it was, because the server has
/// forgotten what came after (`410 Gone`), it lists anew. kube's watcher does so only where that is told within the
/// watch, and else repeats the request for ever.
pub fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).backoff(BackOff::default()).boxed();
    let state = (begin(), begin, BackOff::default(), false);
    futures::stream::unfold(state, |(mut events, begin, mut pauses, is_lost)| async move {
        if is_lost {
            tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            events = begin();
        }
        let event = events.next().await?;
        let is_lost = matches!(
            &event,
            Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) if status.code == 410
        );
        Some((event, (events, begin, pauses, is_lost)))
    })
}

/// How far a watch has come.
#[derive(Clone, Debug, PartialEq)]
enum Progress {
    /// Its first list is under way.
    Listing,
    /// It has listed completely, and follows.
    Following,
    /// It may not, or cannot: what it watches is unknown.
    Failed(Problem),
}

/// Keeps a watch running; the last one that is dropped ends it.
pub struct WatchHandle {
    progress: watch::Receiver<Progress>,
    task: AbortHandle,
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WatchHandle {
    /// Waits until the first list is complete.
    ///
    /// # Errors
    /// `Setup` when the account may not watch, `Passing` when the list does not come in time.
    pub async fn listed(&self) -> Result<(), Problem> {
        let mut progress = self.progress.clone();
        let wait = progress.wait_for(|progress| *progress != Progress::Listing);
        match tokio::time::timeout(call::LIST_DEADLINE, wait).await {
            Err(_) => Err(Problem::passing("the first list of a watch takes too long")),
            Ok(Err(_)) => Err(Problem::passing("a watch ended")),
            Ok(Ok(progress)) => match &*progress {
                Progress::Failed(problem) => Err(problem.clone()),
                Progress::Listing | Progress::Following => Ok(()),
            },
        }
    }
}

type Key = (Account, Kind, Option<String>);

#[derive(Default)]
pub(super) struct Watches {
    running: Mutex<HashMap<Key, Weak<WatchHandle>>>,
}

impl AccountClient {
    /// The watch on a kind in a namespace (`None`: cluster-scoped), started if nobody has it yet.
    pub fn watch(&self, kind: &Kind, namespace: Option<&str>) -> Arc<WatchHandle> {
        let key = (self.account.clone(), kind.clone(), namespace.map(str::to_owned));
        let mut running = self.watches.running.lock().expect("nothing panics while it holds this lock");
        running.retain(|_, handle| handle.strong_count() > 0);
        if let Some(handle) = running.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        let (sender, progress) = watch::channel(Progress::Listing);
        let resource = kind.api_resource();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let what = format!("{} of {}", self.account, kind.plural);
        let covered =
            Covered { group: resource.group.clone(), kind: kind.kind.clone(), namespace: namespace.map(str::to_owned) };
        let task = tokio::spawn(follow(api, kind.api_version.clone(), covered, self.live.clone(), sender, what));
        let handle = Arc::new(WatchHandle { progress, task: task.abort_handle() });
        running.insert(key, Arc::downgrade(&handle));
        handle
    }
}

async fn follow(
    api: Api<DynamicObject>,
    api_version: String,
    covered: Covered,
    live: Arc<Live>,
    progress: watch::Sender<Progress>,
    who: String,
) {
    let config = watcher::Config::default().labels(ENVIRONMENT_LABEL).streaming_lists();
    let mut events = std::pin::pin!(events(api, config));
    // Which environment each object belonged to when it was last seen here.
    let mut owners: HashMap<ObjectKey, Arc<str>> = HashMap::new();
    let mut listed: HashMap<ObjectKey, Option<Arc<str>>> = HashMap::new();
    let mut has_listed = false;
    let mut began = live.tick();

    let read = |mut object: DynamicObject| {
        // Items of a list come without their type.
        let kind = covered.kind.clone();
        object.types.get_or_insert_with(|| kube::core::TypeMeta { api_version: api_version.clone(), kind });
        let object = serde_json::to_value(&object).expect("what was read from JSON can be written as JSON");
        live.read(&object, Timestamp::now())
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                has_listed = false;
                listed.clear();
                began = live.tick();
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let Some(reading) = read(object) else { continue };
                let key = reading.key.clone();
                let version = reading.version;
                let owner = live.put(reading);
                if let Some(before) = owners.get(&key).filter(|before| Some(*before) != owner.as_ref()) {
                    live.gone(before, &key, version);
                }
                if !has_listed {
                    listed.insert(key.clone(), owner.clone());
                }
                match owner {
                    Some(owner) => drop(owners.insert(key, owner)),
                    None => drop(owners.remove(&key)),
                }
            }
            Ok(Event::Delete(object)) => {
                let Some(reading) = read(object) else { continue };
                if let Some(owner) = owners.remove(&reading.key) {
                    live.gone(&owner, &reading.key, reading.version);
                }
            }
            Ok(Event::InitDone) => {
                live.relisted(&covered, &listed, began);
                owners.retain(|key, _| listed.contains_key(key));
                has_listed = true;
                listed = HashMap::new();
                progress.send_replace(Progress::Following);
            }
            Err(error) => {
                tracing::debug!(%error, who, "a watch was interrupted");
                if let Some(problem) = lasting(error, &who) {
                    progress.send_replace(Progress::Failed(problem));
                }
            }
        }
    }
}

/// The problem of a watch that will not come back by itself. Interruptions are none: the watcher takes up where it was.
fn lasting(error: watcher::Error, who: &str) -> Option<Problem> {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        _ => return None,
    };
    // A refused token is no judgement about this watch: it is replaced, and the watcher goes on asking.
    matches!(status.code, 403 | 404).then(|| call::problem(&Failure::Refused(status), who, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_differ() {
        let pauses: Vec<Duration> = BackOff::default().take(20).collect();
        assert!(pauses[0] <= FIRST_PAUSE && pauses[0] >= FIRST_PAUSE / 2);
        assert!(pauses[5..].iter().all(|pause| *pause <= LONGEST_PAUSE && *pause >= LONGEST_PAUSE / 2), "{pauses:?}");
        let others: Vec<Duration> = BackOff::default().take(20).collect();
        assert_ne!(pauses, others);
    }
}
