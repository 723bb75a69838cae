//! Table tests: one environment, one thing different at a time.

use super::*;
use crate::health::Health;
use crate::inventory::Member;
use crate::manifest::{Identity, Manifest};
use crate::policy;
use crate::scope::Scopes;

fn environment() -> Environment {
    crate::environment::sample()
}

fn manifest(kind: &str, name: &str, annotations: &[(&str, &str)]) -> Manifest {
    let annotations: serde_json::Map<_, _> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let body = serde_json::json!({
        "apiVersion": "v1", "kind": kind, "metadata": {"name": name, "annotations": annotations}, "data": {"a": "b"},
    });
    Manifest {
        key: ObjectKey::from(Identity { group: String::new(), kind: kind.into(), namespace: None, name: name.into() }),
        api_version: "v1".into(),
        body: body.as_object().unwrap().clone(),
        source: crate::fault::Place::line("x.yaml", 1),
    }
}

fn cleared(manifests: Vec<Manifest>) -> Cleared {
    let facts = policy::Facts { environment: &environment(), scopes: &Scopes::offline(), claimed: &|_| None };
    policy::judge_all(manifests, &facts).unwrap()
}

fn config_map(name: &str) -> Manifest {
    manifest("ConfigMap", name, &[])
}

fn key(kind: &str, name: &str) -> ObjectKey {
    let namespace = (kind != "Namespace").then(|| "shop".to_owned());
    ObjectKey::from(Identity { group: String::new(), kind: kind.into(), namespace, name: name.into() })
}

fn seen(fingerprint: Option<Fingerprint>) -> Seen {
    Seen {
        uid: "u".into(),
        fingerprint,
        has_controller: false,
        terminating: None,
        is_of_agent: false,
        never_prune: false,
        co_owners: Vec::new(),
        others: 0,
        is_rolled: false,
        part_of: None,
        hook: None,
        health: ObjectHealth { health: Health::Healthy, message: String::new(), moved_by: None },
    }
}

fn foreign(uid: &str, owner: &str) -> Foreign {
    Foreign { uid: uid.into(), owner: owner.into(), is_applied_by_us: false, is_of_other_environment: false }
}

fn print(number: u8) -> Fingerprint {
    crate::fingerprint::of_desired(serde_json::json!({"n": number}).as_object().unwrap())
}

/// A world in which everything desired was applied and is as it should be.
struct World {
    environment: Environment,
    desired: Cleared,
    observed: Observed,
    known: HashMap<ObjectKey, Known>,
    inventory: Inventory,
    confirmed: Option<String>,
    wanted_by_other: Option<ObjectKey>,
}

impl World {
    fn settled(names: &[&str]) -> World {
        let desired = cleared(names.iter().map(|name| config_map(name)).collect());
        let mut world = World {
            environment: environment(),
            desired,
            observed: Observed::default(),
            known: HashMap::new(),
            inventory: Inventory::default(),
            confirmed: None,
            wanted_by_other: None,
        };
        for name in names {
            world.member("ConfigMap", name);
        }
        for object in world.desired.objects() {
            world.known.insert(object.key.clone(), Known { sent: object.fingerprint, held: print(1) });
        }
        world
    }

    fn member(&mut self, kind: &str, name: &str) {
        let key = key(kind, name);
        self.observed.ours.insert(key.clone(), seen(Some(print(1))));
        self.inventory.insert(key, Member { api_version: "v1".into(), uid: Some("u".into()) });
    }

    fn plan(&self) -> Plan {
        plan(&Facts {
            environment: &self.environment,
            commit: CommitId::from_bytes([0xab; 20]),
            desired: &self.desired,
            observed: &self.observed,
            known: &self.known,
            inventory: &self.inventory,
            generated: &|key| key.name.ends_with("-0123456789"),
            confirmed: self.confirmed.as_deref(),
            own_namespace: Some("towpath"),
            wanted_by: &|key| (Some(key) == self.wanted_by_other.as_ref()).then(|| "other".parse().unwrap()),
        })
    }

    fn action(&self, name: &str) -> Action {
        self.plan().steps.into_iter().find(|step| step.key.name == name).unwrap().action
    }

    fn fate(&self, name: &str) -> Fate {
        self.plan().removals.into_iter().find(|(key, _)| key.name == name).unwrap().1
    }

    fn ours(&mut self, name: &str) -> &mut Seen {
        self.observed.ours.get_mut(&key("ConfigMap", name)).unwrap()
    }
}

#[test]
fn a_settled_world_needs_nothing() {
    let plan = World::settled(&["a", "b"]).plan();
    assert!(plan.is_idle());
    assert_eq!(plan.steps.len(), 2);
}

#[test]
fn what_is_not_there_is_created() {
    let mut world = World::settled(&["a"]);
    world.observed.ours.clear();
    assert_eq!(world.action("a"), Action::Create);
}

#[test]
fn what_changed_in_git_is_configured() {
    let mut world = World::settled(&["a"]);
    world.known.get_mut(&key("ConfigMap", "a")).unwrap().sent = print(9);
    assert_eq!(world.action("a"), Action::Configure(Why::Changed));
}

#[test]
fn what_changed_in_the_cluster_is_drift() {
    let mut world = World::settled(&["a"]);
    world.ours("a").fingerprint = Some(print(2));
    assert_eq!(world.action("a"), Action::Configure(Why::Drifted));
    world.environment.drift = DriftMode::Report;
    assert_eq!(world.action("a"), Action::Report);
}

#[test]
fn wiped_managed_fields_are_applied_again() {
    let mut world = World::settled(&["a"]);
    world.ours("a").fingerprint = None;
    assert_eq!(world.action("a"), Action::Configure(Why::Disowned));
}

#[test]
fn after_a_restart_what_is_literally_as_desired_is_left() {
    let mut world = World::settled(&["a"]);
    world.known.clear();
    assert_eq!(world.action("a"), Action::Configure(Why::Unproven));
    let desired = world.desired.objects()[0].fingerprint;
    world.ours("a").fingerprint = Some(desired);
    assert_eq!(world.action("a"), Action::Leave);
}

#[test]
fn a_foreign_object_is_refused_unless_adoption_is_said() {
    let mut world = World::settled(&["a"]);
    world.observed.ours.clear();
    world.inventory = Inventory::default();
    world.observed.foreign.insert(key("ConfigMap", "a"), foreign("f", "written by kubectl"));
    let Action::Refuse(problem) = world.action("a") else { panic!("it must be refused") };
    assert!(problem.message.contains("written by kubectl"), "{problem}");

    world.desired = cleared(vec![manifest("ConfigMap", "a", &[("towpath.dev/adopt", "true")])]);
    assert_eq!(world.action("a"), Action::Configure(Why::Adopted));
}

#[test]
fn a_member_that_lost_its_label_is_taken_back() {
    let mut world = World::settled(&["a"]);
    world.observed.ours.clear();
    world.observed.foreign.insert(key("ConfigMap", "a"), foreign("u", ""));
    assert_eq!(world.action("a"), Action::Configure(Why::Disowned));
    // Another object under the same name is not the member.
    world.observed.foreign.get_mut(&key("ConfigMap", "a")).unwrap().uid = "other".into();
    assert!(matches!(world.action("a"), Action::Refuse(_)));
}

#[test]
fn an_object_may_be_left_alone() {
    let mut world = World::settled(&["a"]);
    world.desired = cleared(vec![manifest("ConfigMap", "a", &[("towpath.dev/reconcile", "Disabled")])]);
    world.observed.ours.clear();
    assert_eq!(world.action("a"), Action::Leave);
}

#[test]
fn what_left_git_is_pruned_with_its_uid() {
    let mut world = World::settled(&["a", "b", "c"]);
    world.member("ConfigMap", "old");
    assert_eq!(world.fate("old"), Fate::Prune { uid: "u".into() });
}

#[test]
fn a_member_that_is_gone_is_struck_off() {
    let mut world = World::settled(&["a"]);
    world.member("ConfigMap", "old");
    world.observed.ours.remove(&key("ConfigMap", "old"));
    assert_eq!(world.fate("old"), Fate::Gone);
}

#[test]
fn a_member_whose_kind_is_not_served_is_unknown_and_not_gone() {
    let mut world = World::settled(&["a"]);
    world.member("ConfigMap", "old");
    world.observed.ours.remove(&key("ConfigMap", "old"));
    world.observed.unserved.insert(key("ConfigMap", "old"));
    assert_eq!(world.fate("old"), Fate::Keep(Keep::Unserved));
    assert!(world.plan().is_idle());
}

#[test]
fn each_missing_proof_saves_an_object_and_lists_it() {
    let mut world = World::settled(&["a"]);
    world.member("ConfigMap", "old");
    world.ours("old").has_controller = true;
    assert!(matches!(world.fate("old"), Fate::Keep(Keep::Unproven(_))));
    world.ours("old").has_controller = false;
    world.ours("old").fingerprint = None;
    assert!(matches!(world.fate("old"), Fate::Keep(Keep::Unproven(_))));
    world.observed.ours.remove(&key("ConfigMap", "old"));
    let mut unlabelled = foreign("u", "");
    unlabelled.is_applied_by_us = true;
    world.observed.foreign.insert(key("ConfigMap", "old"), unlabelled);
    assert!(matches!(world.fate("old"), Fate::Keep(Keep::Unproven(_))));
    assert_eq!(world.plan().orphans.len(), 1);
}

#[test]
fn what_has_no_mark_of_ours_left_is_let_go() {
    let mut world = World::settled(&["a"]);
    world.member("ConfigMap", "old");
    world.observed.ours.remove(&key("ConfigMap", "old"));
    world.observed.foreign.insert(key("ConfigMap", "old"), foreign("u", ""));
    assert!(matches!(world.fate("old"), Fate::Release(_)));
    let mut other = foreign("another", "");
    other.is_applied_by_us = true;
    world.observed.foreign.insert(key("ConfigMap", "old"), other.clone());
    assert!(matches!(world.fate("old"), Fate::Release(_)), "another object under its name");
    other.uid = "u".into();
    other.is_of_other_environment = true;
    world.observed.foreign.insert(key("ConfigMap", "old"), other);
    assert_eq!(world.fate("old"), Fate::HandedOver);
}

#[test]
fn a_copied_label_makes_no_member() {
    let mut world = World::settled(&["a"]);
    world.observed.ours.insert(key("ConfigMap", "copy"), seen(None));
    world.observed.strays.insert(key("ConfigMap", "forged"), seen(Some(print(1))));
    let plan = world.plan();
    assert!(plan.removals.is_empty());
    let orphans: Vec<&str> = plan.orphans.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(orphans, ["copy", "forged"]);
}

#[test]
fn what_was_applied_by_a_sync_that_was_killed_is_a_member() {
    let mut world = World::settled(&["a", "b", "c"]);
    world.observed.ours.insert(key("ConfigMap", "half"), seen(Some(print(1))));
    assert_eq!(world.fate("half"), Fate::Prune { uid: "u".into() });
}

#[test]
fn prune_can_be_off_for_all_or_for_one() {
    let mut world = World::settled(&["a", "b", "c"]);
    world.member("ConfigMap", "old");
    world.environment.prune = false;
    assert_eq!(world.fate("old"), Fate::Keep(Keep::PruneIsOff));
    world.environment.prune = true;
    world.ours("old").never_prune = true;
    assert_eq!(world.fate("old"), Fate::Keep(Keep::NeverPrune));
}

#[test]
fn what_is_on_its_way_out_is_not_deleted_twice() {
    let mut world = World::settled(&["a", "b", "c"]);
    world.member("ConfigMap", "old");
    let terminating = Terminating { since: Timestamp::UNIX_EPOCH, finalizers: vec!["example.com/slow".into()] };
    world.ours("old").terminating = Some(Box::new(terminating));
    let Fate::Keep(keep) = world.fate("old") else { panic!("it stays a member") };
    assert_eq!(keep.to_string(), "it is being deleted, and held by finalizer example.com/slow");
}

#[test]
fn the_budget_is_five_or_a_fifth_and_never_more_than_half() {
    for (members, budget) in [(0, 0), (1, 0), (2, 1), (4, 2), (10, 5), (11, 5), (25, 5), (30, 6), (1000, 200)] {
        assert_eq!(deletion_budget(members), budget, "of {members}");
    }
}

#[test]
fn over_budget_nothing_goes_until_this_very_list_is_confirmed() {
    let mut world = World::settled(&["a", "b"]);
    for name in ["x", "y", "z"] {
        world.member("ConfigMap", name);
    }
    assert_eq!(world.fate("x"), Fate::Keep(Keep::OverBudget));
    let confirmation = world.plan().confirmation.unwrap();
    assert!(confirmation.value.starts_with("abababa:"), "{confirmation:?}");
    assert_eq!(confirmation.objects.len(), 3);
    assert!(!confirmation.is_other_confirmed);

    world.confirmed = Some(confirmation.value);
    assert_eq!(world.fate("x"), Fate::Prune { uid: "u".into() });
    assert_eq!(world.plan().newly_confirmed.len(), 3);
    world.ours("x").uid = "made anew".into();
    assert_eq!(world.fate("x"), Fate::Keep(Keep::OverBudget), "it is another object now");
    world.ours("x").uid = "u".into();
    world.member("ConfigMap", "one-more");
    assert_eq!(world.fate("x"), Fate::Keep(Keep::OverBudget), "the list is another one now");
    assert!(world.plan().confirmation.unwrap().is_other_confirmed);
}

#[test]
fn what_was_confirmed_is_finished_after_a_deletion_that_was_cut_short() {
    let mut world = World::settled(&["a", "b"]);
    for name in ["x", "y", "z", "w"] {
        world.member("ConfigMap", name);
    }
    world.confirmed = Some(world.plan().confirmation.unwrap().value);
    for name in world.plan().newly_confirmed {
        world.inventory.confirm(&name, "abababa");
    }
    // One is gone, so the list that was confirmed is no longer the list.
    world.observed.ours.remove(&key("ConfigMap", "x"));
    world.inventory.remove(&key("ConfigMap", "x"));
    assert_eq!(world.fate("y"), Fate::Prune { uid: "u".into() });
    assert_eq!(world.plan().confirmation, None);
    // At another commit it would have to be confirmed again.
    for name in ["y", "z", "w"] {
        world.inventory.confirm(&key("ConfigMap", name), "cdcdcdc");
    }
    assert_eq!(world.fate("y"), Fate::Keep(Keep::OverBudget));
}

#[test]
fn what_another_environment_has_in_git_is_handed_over_and_not_deleted() {
    let mut world = World::settled(&["a", "b"]);
    world.member("ConfigMap", "moves");
    world.wanted_by_other = Some(key("ConfigMap", "moves"));
    assert_eq!(world.fate("moves"), Fate::Keep(Keep::TakenOver("other".parse().unwrap())));
    // Here it is on the other side: it is seen with the label that it still carries.
    let mut world = World::settled(&["a"]);
    world.observed.inherited.insert(key("ConfigMap", "a"), "other".parse().unwrap());
    assert_eq!(world.action("a"), Action::Configure(Why::HandedOver));
}

#[test]
fn a_decision_to_delete_stands_until_something_comes_up_that_would_keep_it() {
    let decided_on = Seen { is_of_agent: true, ..seen(Some(print(1))) };
    let changed = Seen { fingerprint: Some(print(2)), ..decided_on.clone() };
    assert!(changed.may_still_go(&decided_on), "what it was known to be when that was decided does not keep it");
    let unlabelled = Seen { is_of_agent: false, ..decided_on.clone() };
    assert!(changed.may_still_go(&decided_on) && !decided_on.may_still_go(&unlabelled));
    for keeps in [
        Seen { uid: "another".into(), ..decided_on.clone() },
        Seen { part_of: Some("another".into()), ..decided_on.clone() },
        Seen { has_controller: true, ..decided_on.clone() },
        Seen { never_prune: true, ..decided_on.clone() },
        Seen { fingerprint: None, ..decided_on.clone() },
    ] {
        assert!(!keeps.may_still_go(&decided_on), "{keeps:?}");
    }
}

#[test]
fn the_agent_is_never_pruned() {
    let mut world = World::settled(&["a", "b"]);
    world.member("ConfigMap", "old");
    world.ours("old").is_of_agent = true;
    assert_eq!(world.fate("old"), Fate::Prune { uid: "u".into() }, "a label alone does not make it the agent's");
    let own = ObjectKey::from(Identity {
        namespace: Some("towpath".into()),
        ..Identity::from(key("ConfigMap", "towpath-settings"))
    });
    world.observed.ours.insert(own.clone(), seen(Some(print(1))));
    world.inventory.insert(own, Member { api_version: "v1".into(), uid: Some("u".into()) });
    assert_eq!(world.fate("towpath-settings"), Fate::Keep(Keep::OwnResource));
}

#[test]
fn in_a_namespace_that_ends_nothing_is_made_and_nothing_is_called_gone() {
    let mut world = World::settled(&["a", "b"]);
    world.member("ConfigMap", "old");
    world.observed.ours.clear();
    world.observed.ending.insert("shop".into(), Problem::setup("namespace shop is being deleted"));
    assert!(matches!(world.action("a"), Action::Refuse(_)));
    assert_eq!(world.fate("old"), Fate::Keep(Keep::NamespaceEnds));
}

#[test]
fn workloads_are_deleted_before_what_they_stand_on() {
    let mut world = World::settled(&["a", "b", "c"]);
    for kind in ["Secret", "Widget", "ConfigMap"] {
        world.member(kind, "old");
    }
    let kinds: Vec<String> = world.plan().removals.into_iter().map(|(key, _)| key.kind.clone()).collect();
    assert_eq!(kinds, ["Widget", "ConfigMap", "Secret"]);
}

#[test]
fn a_farewell_deletes_what_is_proven_and_leaves_the_rest() {
    let environment = environment();
    let mut loose = seen(None);
    loose.uid = "loose".into();
    let observed = [
        (key("ConfigMap", "a"), seen(Some(print(1)))),
        (key("PersistentVolumeClaim", "data"), seen(Some(print(1)))),
        (key("ConfigMap", "copied"), loose),
        (key("ConfigMap", "moves"), seen(Some(print(1)))),
    ]
    .map(|(key, seen)| (key, Row { seen, version: 0, tick: 0 }));
    let wanted = |key: &ObjectKey| (key.name == "moves").then(|| "other".parse().unwrap());
    let fates =
        farewell(&Leaving { environment: &environment, observed: &observed, own_namespace: None, wanted_by: &wanted });
    let pruned: Vec<&str> =
        fates.iter().filter(|(_, fate)| matches!(fate, Fate::Prune { .. })).map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(pruned, ["a"]);
}

#[test]
fn replaced_hash_named_config_maps_do_not_count() {
    let mut world = World::settled(&["a", "b"]);
    for name in ["x-0123456789", "y-0123456789", "z-0123456789"] {
        world.member("ConfigMap", name);
    }
    assert_eq!(world.fate("x-0123456789"), Fate::Prune { uid: "u".into() });
}

#[test]
fn protected_kinds_wait_for_a_confirmation() {
    let mut world = World::settled(&["a", "b", "c"]);
    world.member("PersistentVolumeClaim", "data");
    assert_eq!(world.fate("data"), Fate::Keep(Keep::ProtectedKind));
    world.confirmed = world.plan().confirmation.map(|confirmation| confirmation.value);
    assert_eq!(world.fate("data"), Fate::Prune { uid: "u".into() });
}

#[test]
fn namespaces_come_first_and_gates_last() {
    let stage = |group: &str, kind: &str| {
        stage_of(&ObjectKey::from(Identity {
            group: group.into(),
            kind: kind.into(),
            namespace: None,
            name: "x".into(),
        }))
    };
    let order = [
        stage("", "Namespace"),
        stage("apiextensions.k8s.io", "CustomResourceDefinition"),
        stage("rbac.authorization.k8s.io", "RoleBinding"),
        stage("apps", "Deployment"),
        stage("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ];
    assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    assert_eq!(stage("", "Secret"), Stage::Foundations);
    assert_eq!(stage("example.com", "Widget"), Stage::Workloads);
}

#[test]
fn an_object_that_a_former_tool_owns_too_is_taken_over() {
    let mut world = World::settled(&["a"]);
    world.ours("a").co_owners = vec!["hand".into()];
    assert_eq!(world.action("a"), Action::Leave, "anybody may own a value with us");
    world.ours("a").co_owners = vec!["hand".into(), "kubectl-client-side-apply".into()];
    assert_eq!(world.action("a"), Action::Configure(Why::CoOwned));
    world.environment.drift = DriftMode::Report;
    assert_eq!(world.action("a"), Action::Leave);
    world.environment.drift = DriftMode::Correct;
    world.ours("a").co_owners = vec!["helm".into()];
    world.environment.take_over = ["helm".to_owned()].into();
    assert_eq!(world.action("a"), Action::Configure(Why::CoOwned));
}

#[test]
fn what_is_being_deleted_is_waited_for() {
    let mut world = World::settled(&["a"]);
    world.ours("a").terminating = Some(Box::new(Terminating { since: Timestamp::UNIX_EPOCH, finalizers: Vec::new() }));
    world.ours("a").fingerprint = Some(print(2));
    assert_eq!(world.action("a"), Action::Wait(Wait::Terminating));
    assert_eq!(world.plan().terminating().count(), 1);
}

/// A plan of objects that are all new, each in its wave.
fn in_waves(waves: &[(&str, &str)]) -> (Cleared, Plan) {
    let manifests = waves.iter().map(|(name, wave)| manifest("ConfigMap", name, &[("towpath.dev/wave", wave)]));
    let mut world = World::settled(&["other"]);
    world.desired = cleared(manifests.chain([manifest("Namespace", "shop", &[])]).collect());
    let plan = world.plan();
    (world.desired, plan)
}

#[test]
fn a_plan_goes_by_waves_and_within_a_wave_by_kinds() {
    let (_, plan) = in_waves(&[("a", "2"), ("b", "-1"), ("c", "0")]);
    let order: Vec<&str> = plan.steps.iter().map(|step| step.key.name.as_str()).collect();
    assert_eq!(order, ["shop", "b", "c", "a"]);
    assert_eq!(plan.waves(), [Wave::Ground, Wave::Number(-1), Wave::Number(0), Wave::Number(2)]);
}

#[test]
fn a_wave_is_held_by_the_worst_object_of_the_first_wave_that_is_not_healthy() {
    let (desired, plan) = in_waves(&[("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")]);
    let how = |object: &ObjectKey| {
        let health = match object.name.as_str() {
            "a" => Health::Progressing,
            "b" => Health::Degraded,
            "c" => return None,
            _ => Health::Healthy,
        };
        Some(ObjectHealth { health, ..healthy() })
    };
    let held =
        |wave| held_by(&plan, &desired, Wave::Number(wave), &how).map(|held| (held.wave, held.object.name.clone()));
    assert_eq!(held(1), None);
    assert_eq!(held(2), Some((Wave::Number(1), "b".to_owned())));
    assert_eq!(held(3), Some((Wave::Number(1), "b".to_owned())), "the first that is not well");
    let missing = |object: &ObjectKey| how(object).filter(|_| object.name == "c").or(Some(healthy()));
    let missing = |object: &ObjectKey| if object.name == "c" { None } else { missing(object) };
    let held = held_by(&plan, &desired, Wave::Number(3), &missing).unwrap();
    assert_eq!((held.object.name.as_str(), held.health.health), ("c", Health::Missing));
}

fn healthy() -> ObjectHealth {
    ObjectHealth { health: Health::Healthy, message: String::new(), moved_by: None }
}

#[test]
fn what_lost_our_fields_and_changed_in_git_waits_its_turn_and_is_applied_whatever_is_done_about_drift() {
    let mut world = World::settled(&["a"]);
    world.ours("a").fingerprint = None;
    assert!(world.plan().steps[0].mends, "git has what was sent before");
    world.known.values_mut().for_each(|known| known.sent = print(3));
    assert!(!world.plan().steps[0].mends, "git has something new");
    world.environment.drift = DriftMode::Report;
    assert_eq!(world.plan().steps[0].action, Action::Configure(Why::Disowned));
}

#[test]
fn what_was_applied_before_is_mended_out_of_turn_and_what_nobody_remembers_is_not() {
    let mends = |world: &World| world.plan().steps[0].mends;
    let mut world = World::settled(&["a"]);
    world.ours("a").fingerprint = Some(print(2));
    assert!(mends(&world), "changed in the cluster");
    world.observed.ours.clear();
    assert!(mends(&world), "deleted in the cluster");
    world.known.values_mut().for_each(|known| known.sent = print(3));
    assert!(!mends(&world), "git changed as well");
    world.known.clear();
    assert!(!mends(&world), "nobody knows");
}

#[test]
fn jobs_of_hooks_are_neither_pruned_nor_counted() {
    let mut world = World::settled(&["a", "b"]);
    for number in 0..4 {
        let job = key("Job", &format!("migrate-{number}"));
        world.inventory.insert(job.clone(), Member { api_version: "v1".into(), uid: Some("u".into()) });
        world.observed.hooks.insert(job, seen(Some(print(1))));
    }
    assert_eq!(world.plan().removals, []);
    // Of two members half may go, which is one.
    world.desired = cleared(vec![config_map("c")]);
    assert!(matches!(world.fate("a"), Fate::Keep(Keep::OverBudget)));
    // One that was removed is struck off.
    let gone = key("Job", "migrate-0");
    world.observed.hooks.remove(&gone);
    assert_eq!(world.fate("migrate-0"), Fate::Gone);
}
