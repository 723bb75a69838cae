//! What the watches have seen, by environment. Bodies are not kept: a fingerprint, a UID and the health of each object
//! are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;
use towpath_core::fingerprint;
use towpath_core::health::{self, HealthRules};
use towpath_core::left;
use towpath_core::manifest::{Identity, ObjectKey, group_of};
use towpath_core::names::{AGENT, ENVIRONMENT_LABEL, EnvironmentName, HOOK_LABEL, HOOK_RUN_ANNOTATION, PART_OF_LABEL};
use towpath_core::plan::{self, HookMark, Row, Seen, Terminating};

/// One table for each environment, fed by watches and by the answers to our own writes.
#[derive(Default)]
pub struct Live {
    environments: Mutex<HashMap<Arc<str>, Table>>,
    ticks: AtomicU64,
}

#[derive(Default)]
struct Table {
    objects: plan::Table,
    /// When objects went: the answer to a write of ours may arrive after the event that ended what it wrote.
    gone: BTreeMap<ObjectKey, u64>,
    /// How the health of its objects is read.
    rules: HealthRules,
    /// Objects whose health was read by other rules than these.
    stale: BTreeSet<ObjectKey>,
    /// The ApplySet of the object that was put in last: most often that of the next one, too.
    part_of: Option<Arc<str>>,
    wakes: Wakes,
}

/// How many objects that went are remembered for each environment. An answer is late by moments, not by thousands.
const MAX_GONE: usize = 1000;

/// What wakes an environment.
#[derive(Clone, Default)]
pub struct Wakes {
    /// Something about an object is not as it was: it may have drifted, come or gone. To be looked at at once.
    pub moved: Arc<Notify>,
    /// Only the health of an object changed, which happens often while something rolls out.
    pub health: Arc<Notify>,
}

/// What one watch covers.
pub(super) struct Covered {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
}

impl Covered {
    fn covers(&self, key: &ObjectKey) -> bool {
        (&key.group, &key.kind, &key.namespace) == (&self.group, &self.kind, &self.namespace)
    }
}

/// An object as a watch or a PATCH answered it, read once and let go.
pub(super) struct Reading {
    pub(super) key: ObjectKey,
    /// The value of our label; `None` where it does not carry it.
    pub(super) environment: Option<Arc<str>>,
    pub(super) version: u64,
    pub(super) seen: Seen,
}

impl Reading {
    /// Reads identity, fingerprint and health. `None` for something that is no object.
    fn of(object: &Value, rules: &HealthRules, now: Timestamp) -> Option<Reading> {
        let metadata = object.get("metadata")?;
        let text = |name: &str| metadata.get(name).and_then(Value::as_str);
        let key = ObjectKey::from(Identity {
            group: group_of(object.get("apiVersion")?.as_str()?).to_owned(),
            kind: object.get("kind")?.as_str()?.to_owned(),
            namespace: text("namespace").map(str::to_owned),
            name: text("name")?.to_owned(),
        });
        let owners = metadata.get("ownerReferences").and_then(Value::as_array);
        let is_controller = |owner: &Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
        Some(Reading {
            key,
            environment: metadata
                .get("labels")
                .and_then(|labels| labels.get(ENVIRONMENT_LABEL)?.as_str())
                .map(Into::into),
            version: text("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0),
            seen: Seen {
                uid: text("uid").unwrap_or_default().to_owned(),
                fingerprint: fingerprint::of_live(object),
                has_controller: owners.is_some_and(|owners| owners.iter().any(is_controller)),
                terminating: terminating(metadata),
                never_prune: metadata.pointer("/annotations/towpath.dev~1prune").and_then(Value::as_str)
                    == Some("Never")
                    || metadata.pointer("/annotations/towpath.dev~1reconcile").and_then(Value::as_str)
                        == Some("Disabled"),
                is_of_agent: metadata.pointer("/labels/app.kubernetes.io~1name").and_then(Value::as_str) == Some(AGENT),
                co_owners: fingerprint::co_owners(object),
                others: fingerprint::others(object),
                is_rolled: left::is_rolled(object),
                part_of: metadata.get("labels").and_then(|labels| labels.get(PART_OF_LABEL)?.as_str()).map(Into::into),
                hook: hook_mark(metadata),
                health: health::assess(object, rules, now),
            },
        })
    }
}

/// Since when an object is being deleted, and what holds it.
pub(super) fn terminating(metadata: &Value) -> Option<Box<Terminating>> {
    let since = metadata.get("deletionTimestamp")?.as_str()?.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let finalizers = metadata.get("finalizers").and_then(Value::as_array).into_iter().flatten();
    let finalizers = finalizers.filter_map(|finalizer| finalizer.as_str().map(str::to_owned)).collect();
    Some(Box::new(Terminating { since, finalizers }))
}

/// What the Job of a hook says of itself.
fn hook_mark(metadata: &Value) -> Option<HookMark> {
    let text = |map: &str, name: &str| metadata.get(map)?.get(name)?.as_str().map(str::to_owned);
    Some(HookMark { hook: text("labels", HOOK_LABEL)?, run: text("annotations", HOOK_RUN_ANNOTATION)? })
}

impl Live {
    /// What wakes an environment when its objects change.
    pub fn wakes(&self, environment: &EnvironmentName) -> Wakes {
        self.lock().entry(environment.as_str().into()).or_default().wakes.clone()
    }

    /// Forgets an environment that is no longer there.
    pub fn forget(&self, environment: &EnvironmentName) {
        self.lock().remove(environment.as_str());
    }

    /// What is known of an environment's objects at this moment.
    pub fn snapshot(&self, environment: &EnvironmentName) -> plan::Table {
        self.lock().get(environment.as_str()).map(|table| table.objects.clone()).unwrap_or_default()
    }

    /// What is known of one object of an environment.
    pub fn get(&self, environment: &EnvironmentName, key: &ObjectKey) -> Option<Row> {
        self.lock().get(environment.as_str())?.objects.row(key).cloned()
    }

    /// Sets the rules that an environment reads health by, before its watches begin. Objects that are known already, and
    /// that these rules or the ones before them cover, have to be read once more: [`Live::stale`].
    pub fn set_rules(&self, environment: &EnvironmentName, rules: &HealthRules) {
        let mut environments = self.lock();
        let table = environments.entry(environment.as_str().into()).or_default();
        if table.rules == *rules {
            return;
        }
        let before = std::mem::replace(&mut table.rules, rules.clone());
        let are_covered = |key: &&ObjectKey| [&before, rules].iter().any(|rules| rules.cover(&key.group, &key.kind));
        table.stale.extend(table.objects.iter().map(|(key, _)| key).filter(are_covered).cloned());
    }

    /// Group, kind and namespace of the objects whose health was read by rules that count no longer.
    pub fn stale(&self, environment: &EnvironmentName) -> BTreeSet<(String, String, Option<String>)> {
        let mut environments = self.lock();
        let Some(table) = environments.get_mut(environment.as_str()) else { return BTreeSet::new() };
        let Table { objects, stale, .. } = table;
        stale.retain(|key| objects.contains_key(key));
        stale.iter().map(|key| (key.group.clone(), key.kind.clone(), key.namespace.clone())).collect()
    }

    /// Reads an object by the rules of the environment that it belongs to. `None` for something that is no object.
    pub(super) fn read(&self, object: &Value, now: Timestamp) -> Option<Reading> {
        let labels = object.get("metadata")?.get("labels");
        let environment = labels.and_then(|labels| labels.get(ENVIRONMENT_LABEL)?.as_str());
        let rules = environment.and_then(|environment| Some(self.lock().get(environment)?.rules.clone()));
        Reading::of(object, &rules.unwrap_or_default(), now)
    }

    /// Takes in a reading. One that is older than what is known is ignored: answers and events overtake each other.
    /// Gives the environment that it belongs to.
    pub(super) fn put(&self, mut reading: Reading) -> Option<Arc<str>> {
        let mut environments = self.lock();
        let name = reading.environment?;
        // One text for all of its objects.
        let environment = environments.get_key_value(&name).map_or(name, |(known, _)| known.clone());
        let table = environments.entry(environment.clone()).or_default();
        if table.part_of == reading.seen.part_of {
            reading.seen.part_of = table.part_of.clone();
        } else {
            table.part_of = reading.seen.part_of.clone();
        }
        let known = table.objects.row(&reading.key);
        let is_stale = table.stale.remove(&reading.key);
        let is_old = known
            .is_some_and(|row| row.version > reading.version || (row.version == reading.version && !is_stale))
            || table.gone.get(&reading.key).is_some_and(|version| *version >= reading.version);
        if is_old && reading.version > 0 {
            return Some(environment);
        }
        table.gone.remove(&reading.key);
        let with_health_of = |seen: &Seen| Seen { health: seen.health.clone(), ..reading.seen.clone() };
        match known {
            Some(row) if row.seen == reading.seen => {}
            Some(row) if row.seen == with_health_of(&row.seen) => table.wakes.health.notify_one(),
            _ => table.wakes.moved.notify_one(),
        }
        let row = Row { version: reading.version, tick: self.tick(), seen: reading.seen };
        table.objects.put(reading.key, row);
        Some(environment)
    }

    /// An object left a watch's selection: deleted, or stripped of its label. A newer reading wins.
    pub(super) fn gone(&self, environment: &str, key: &ObjectKey, version: u64) {
        let mut environments = self.lock();
        let Some(table) = environments.get_mut(environment) else { return };
        if table.gone.len() >= MAX_GONE {
            table.gone.clear();
        }
        table.gone.insert(key.clone(), version);
        if table.objects.row(key).is_some_and(|row| row.version <= version || version == 0) {
            table.objects.remove(key);
            table.wakes.moved.notify_one();
        }
    }

    /// The API server said that this object is gone. The watch that would tell so may be interrupted, or end with the
    /// last member of its kind. Nobody is woken: who asked knows. A newer object of the same name stays.
    pub(super) fn absent(&self, key: &ObjectKey, uid: &str) {
        for table in self.lock().values_mut() {
            if table.objects.row(key).is_some_and(|row| row.seen.uid == uid) {
                table.objects.remove(key);
            }
        }
    }

    /// The next count of the table: what is put in from here on has it or a higher one.
    pub(super) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// A list of one kind in one namespace is complete. Whatever the table had of it before the list began, and the list
    /// does not name for the same environment, is gone: deleted or stripped while no watch was looking. Nothing
    /// remembers that it went, for a list may be older than the last answer to a write.
    pub(super) fn relisted(&self, covered: &Covered, listed: &HashMap<ObjectKey, Option<Arc<str>>>, began: u64) {
        for (environment, table) in self.lock().iter_mut() {
            let before = table.objects.len();
            table.objects.retain(|key, row| {
                let is_listed = listed.get(key).is_some_and(|owner| owner.as_ref() == Some(environment));
                !covered.covers(key) || row.tick >= began || is_listed
            });
            if table.objects.len() != before {
                table.wakes.moved.notify_one();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Table>> {
        self.environments.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(version: u64) -> Reading {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "a", "namespace": "shop", "uid": "u", "resourceVersion": version.to_string(),
                "labels": {ENVIRONMENT_LABEL: "prod"},
            },
        });
        Reading::of(&object, &HealthRules::default(), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn names(live: &Live) -> usize {
        live.snapshot(&"prod".parse().unwrap()).len()
    }

    #[test]
    fn an_answer_that_comes_after_the_end_of_its_object_does_not_bring_it_back() {
        let live = Live::default();
        live.put(reading(10));
        live.gone("prod", &reading(0).key, 12);
        live.put(reading(11));
        assert_eq!(names(&live), 0);
        live.put(reading(13));
        assert_eq!(names(&live), 1, "a newer one is another matter");
    }

    #[test]
    fn what_the_server_says_is_absent_is_gone_and_may_come_again() {
        let live = Live::default();
        live.put(reading(10));
        live.absent(&reading(0).key, "another");
        assert_eq!(names(&live), 1, "what stands there now is another object");
        live.absent(&reading(0).key, "u");
        assert_eq!(names(&live), 0);
        live.put(reading(11));
        assert_eq!(names(&live), 1);
    }

    #[test]
    fn the_newer_of_event_and_answer_stays() {
        let live = Live::default();
        live.put(reading(10));
        live.gone("prod", &reading(0).key, 9);
        assert_eq!(names(&live), 1, "an older end says nothing of what came after it");
    }

    #[test]
    fn what_a_new_list_does_not_name_is_gone_unless_it_was_put_in_since() {
        let live = Live::default();
        let covered = Covered { group: String::new(), kind: "ConfigMap".into(), namespace: Some("shop".into()) };
        live.put(reading(10));
        let began = live.tick();
        live.relisted(&covered, &HashMap::new(), began);
        assert_eq!(names(&live), 0, "deleted while no watch was looking");

        let began = live.tick();
        live.put(reading(11));
        live.relisted(&covered, &HashMap::new(), began);
        assert_eq!(names(&live), 1, "the answer to a write that came while the list was under way");

        let elsewhere = Covered { namespace: Some("other".into()), ..covered };
        live.relisted(&elsewhere, &HashMap::new(), live.tick());
        assert_eq!(names(&live), 1, "another watch says nothing of it");
    }

    #[test]
    fn what_was_read_by_other_rules_is_read_once_more_at_the_same_version() {
        let object = |phase: &str| {
            json!({
                "apiVersion": "example.org/v1", "kind": "Database", "status": {"phase": phase},
                "metadata": {"name": "a", "namespace": "shop", "resourceVersion": "5", "labels": {ENVIRONMENT_LABEL: "prod"}},
            })
        };
        let (live, prod) = (Live::default(), "prod".parse().unwrap());
        let health = |live: &Live| {
            live.put(live.read(&object("Broken"), Timestamp::UNIX_EPOCH).unwrap());
            live.snapshot(&prod).iter().next().unwrap().1.health.health
        };
        assert_eq!(health(&live), health::Health::Healthy);
        assert!(live.stale(&prod).is_empty());

        let rule = json!({"apiVersion": "example.org/v1", "kind": "Database", "current": "status.phase == 'Fine'"});
        let rules = HealthRules::read(&[serde_json::from_value(rule).unwrap()]).unwrap();
        live.set_rules(&prod, &rules);
        let shop = ("example.org".to_owned(), "Database".to_owned(), Some("shop".to_owned()));
        assert_eq!(live.stale(&prod), [shop.clone()].into());
        assert_eq!(health(&live), health::Health::Progressing);
        assert!(live.stale(&prod).is_empty());

        live.set_rules(&prod, &rules);
        assert!(live.stale(&prod).is_empty(), "the same rules change nothing");
        live.set_rules(&prod, &HealthRules::default());
        assert_eq!(live.stale(&prod), [shop].into());
        assert_eq!(health(&live), health::Health::Healthy);
    }
}
