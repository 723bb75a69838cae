//! Which records are believed: each ledger is written by one agent's key and read by another's, at a real git server.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use support::deploy_repo::DeployRepo;
use support::git_server::{GitServer, git};
use tempfile::TempDir;
use towpath::board::Ledgers;
use towpath::ledger::{Books, Keys, Mark, Pending, Pushed, Reader};
use towpath::repo::{Credentials, Mirror, NewCommit, NewTree, Outcome, Person, Update};
use towpath_core::ledger::passed::{Standing, standing};
use towpath_core::ledger::{Entry, Fact, HealthFact, LedgerName, Record, SyncFact};
use towpath_core::names::EnvironmentName;
use towpath_core::revision::CommitId;
use towpath_core::signature::{GIT, SigningKey};
use towpath_core::status::{Outcome as Ended, SyncHealth, SyncRecord};

/// A served repository, and a place for mirrors.
struct Site {
    repo: DeployRepo,
    server: GitServer,
    folder: TempDir,
}

fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let repo = DeployRepo::new(folder.path().join("served/deploy.git"));
    repo.commit("master", "first", &[("a.yaml", "1")]);
    let server = GitServer::start(folder.path().join("served"));
    Site { repo, server, folder }
}

fn key(number: u8) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed([number; 32]))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn ledger_of(cluster: &str) -> LedgerName {
    LedgerName { cluster: cluster.into(), environment: "test".parse().unwrap() }
}

/// A sync of some revision that was applied.
fn sync(number: u64, started_at: &str) -> SyncRecord {
    let commit = format!("{number:040x}");
    serde_json::from_value(json!({
        "number": number, "revision": format!("master@sha1:{commit}"), "subject": format!("change {number}"),
        "trigger": "Commit", "startedAt": started_at, "tookMs": 10, "outcome": "Applied",
        "created": 1, "configured": 0, "unchanged": 0, "pruned": 0, "failed": 0,
    }))
    .unwrap()
}

fn record(sequence: u64, sync_number: u64, time: &str) -> Record {
    let sync = sync(sync_number, time);
    let commit = sync.revision.rsplit_once(':').unwrap().1.parse().ok();
    let fact = SyncFact { sync, commit, tree: None, committed_at: None, components: vec![], has_manifests: true };
    Record { ledger: ledger_of("west"), sequence, sync: sync_number, at: at(time), fact: Fact::Sync(Box::new(fact)) }
}

fn healthy(sequence: u64, sync: u64, time: &str) -> Record {
    let fact = Fact::Health(HealthFact { of: sync, is_healthy: true, message: None });
    Record { fact, ..record(sequence, sync, time) }
}

impl Site {
    fn mirror(&self, name: &str) -> Arc<Mirror> {
        let url = self.server.url("deploy.git").parse().unwrap();
        Arc::new(Mirror::open(&self.folder.path().join(name), url, Credentials::default()).unwrap())
    }

    /// The books of an agent.
    fn books(&self, cluster: &str, own: &Arc<SigningKey>, peers: &[(&str, &Arc<SigningKey>)]) -> Books {
        let peers = peers.iter().map(|(name, key)| (name.to_string(), key.public())).collect();
        let keys = Keys { cluster: cluster.into(), own: own.clone(), peers };
        Books::new(self.mirror(&format!("mirror-{cluster}")), false, keys)
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = git(self.folder.path()).arg("-C").arg(self.repo.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Writes whatever it is told to, as an agent that went wrong, or somebody who has its key.
struct Writer {
    mirror: Arc<Mirror>,
    key: Option<Arc<SigningKey>>,
}

impl Writer {
    fn write(&self, record: &Record, parents: &[CommitId], files: usize) -> CommitId {
        self.write_message(record.message(), record.at, parents, files)
    }

    fn write_message(&self, message: String, time: Timestamp, parents: &[CommitId], files: usize) -> CommitId {
        let mut tree = NewTree::default();
        for number in 0..files {
            tree.file(&format!("manifests/test/ConfigMap/c{number:05}.yaml"), format!("n: {number}\n").into_bytes())
                .unwrap();
        }
        let sign = |bytes: &[u8]| Ok(self.key.as_ref().expect("it signs").sign(GIT, bytes));
        let person = Person { name: "towpath".into(), email: "towpath@west".into(), at: time };
        let new = NewCommit {
            tree: &tree,
            parents: parents.to_vec(),
            author: person.clone(),
            committer: person,
            message,
            sign: self.key.is_some().then_some(&sign),
        };
        self.mirror.write_commit(&new).unwrap()
    }

    fn push(&self, name: &str, old: Option<CommitId>, new: CommitId) {
        let outcomes = self.mirror.push(&[Update { name: name.into(), old, new }], &Credentials::default()).unwrap();
        assert_eq!(outcomes, [Outcome::Done]);
    }
}

const WEST: &str = "refs/towpath/west/test/2026";

/// A ledger with a sync and its health, and who may go on with it.
struct Begun {
    site: Site,
    writer: Writer,
    reader: Books,
    commits: [CommitId; 2],
}

fn begun() -> Begun {
    let site = site();
    let (west, east) = (key(1), key(2));
    let writer = Writer { mirror: site.mirror("writer"), key: Some(west.clone()) };
    let first = writer.write(&record(1, 1, "2026-05-01T10:00:00Z"), &[], 1);
    let second = writer.write(&healthy(2, 1, "2026-05-01T10:01:00Z"), &[first], 1);
    writer.push(WEST, None, second);
    let mut reader = site.books("east", &east, &[("west", &west)]);
    assert_eq!(reader.refresh().unwrap(), Vec::<String>::new());
    assert_eq!(reader.reader().head(&ledger_of("west")).unwrap().commit, second);
    Begun { site, writer, reader, commits: [first, second] }
}

/// That a ledger is not used, and the only alarm says why.
fn is_refused(books: &mut Books, why: &str) {
    let alarms = books.refresh().unwrap();
    assert!(alarms.len() == 1 && alarms[0].contains(why), "{why}: {alarms:#?}");
    let problem = books.reader().head(&ledger_of("west")).unwrap_err();
    assert!(problem.message.contains(why), "{problem}");
    assert!(books.reader().ran(&ledger_of("west"), &BTreeMap::new()).is_err());
    // It is said once.
    assert_eq!(books.refresh().unwrap(), Vec::<String>::new());
}

#[test]
fn what_does_not_go_on_from_the_record_before_is_not_used() {
    let replayed = |_: &Begun| record(1, 1, "2026-05-01T10:00:00Z");
    let skipped = |_: &Begun| record(4, 2, "2026-05-01T11:00:00Z");
    let elsewhere = |_: &Begun| Record { ledger: ledger_of("north"), ..record(3, 2, "2026-05-01T11:00:00Z") };
    let backwards = |_: &Begun| record(3, 1, "2026-05-01T11:00:00Z");
    type Make = fn(&Begun) -> Record;
    for (make, why) in [
        (replayed as Make, "its number is 1 where 3 comes next"),
        (skipped, "its number is 4 where 3 comes next"),
        (elsewhere, "is one of ledger north/test"),
        (backwards, "it is about sync 1 after sync 1"),
    ] {
        let mut begun = begun();
        let bad = begun.writer.write(&make(&begun), &begun.commits[1..], 1);
        begun.writer.push(WEST, Some(begun.commits[1]), bad);
        is_refused(&mut begun.reader, why);
        // Put back, it is used again.
        begun.site.git(&["update-ref", WEST, &begun.commits[1].to_string()]);
        assert_eq!(begun.reader.refresh().unwrap(), Vec::<String>::new());
        assert!(begun.reader.reader().head(&ledger_of("west")).is_ok());
    }
}

#[test]
fn what_is_no_record_is_not_used() {
    let mut begun = begun();
    let bad = begun.writer.write_message("hello".into(), at("2026-05-01T11:00:00Z"), &begun.commits[1..], 1);
    begun.writer.push(WEST, Some(begun.commits[1]), bad);
    is_refused(&mut begun.reader, &format!("record {bad} of ledger west/test"));
}

#[test]
fn what_a_record_says_cannot_drive_a_terminal() {
    let mut begun = begun();
    let third = record(3, 2, "2026-05-01T11:00:00Z");
    let message = third.message().replace("change 2", "\u{1b}]0;owned\u{7}\u{1b}[2Jred\u{202e}");
    assert_ne!(message, third.message());
    let commit = begun.writer.write_message(message, third.at, &begun.commits[1..], 1);
    begun.writer.push(WEST, Some(begun.commits[1]), commit);
    let alarms = begun.reader.refresh().unwrap();
    let reader = begun.reader.reader();
    let said = match reader.history(&ledger_of("west"), 1) {
        Ok(page) => page.records[0].1.sync().unwrap().sync.subject.clone(),
        Err(problem) => problem.to_string(),
    };
    for text in alarms.iter().chain([&said]) {
        assert!(!text.chars().any(|character| character.is_control() || character == '\u{202e}'), "{text:?}");
    }
}

#[test]
fn a_record_by_another_key_is_not_used_and_the_key_is_named() {
    let mut begun = begun();
    let eve = Writer { mirror: begun.writer.mirror.clone(), key: Some(key(9)) };
    let bad = eve.write(&record(3, 2, "2026-05-01T11:00:00Z"), &begun.commits[1..], 1);
    eve.push(WEST, Some(begun.commits[1]), bad);
    let fingerprint = key(9).public().fingerprint();
    is_refused(&mut begun.reader, &format!("is signed by {fingerprint}, which is no key of cluster west"));
}

#[test]
fn a_record_without_a_signature_is_not_used() {
    let mut begun = begun();
    let eve = Writer { mirror: begun.writer.mirror.clone(), key: None };
    let bad = eve.write(&record(3, 2, "2026-05-01T11:00:00Z"), &begun.commits[1..], 1);
    eve.push(WEST, Some(begun.commits[1]), bad);
    is_refused(&mut begun.reader, "is not signed");
}

#[test]
fn a_forgery_below_a_good_record_is_found() {
    let begun = begun();
    let eve = Writer { mirror: begun.writer.mirror.clone(), key: Some(key(9)) };
    let bad = eve.write(&record(3, 2, "2026-05-01T11:00:00Z"), &begun.commits[1..], 1);
    let good = begun.writer.write(&record(4, 3, "2026-05-01T12:00:00Z"), &[bad], 1);
    begun.writer.push(WEST, Some(begun.commits[1]), good);
    let Begun { mut reader, .. } = begun;
    is_refused(&mut reader, &format!("record {bad} of ledger west/test is signed by"));
}

#[test]
fn a_ledger_that_went_back_is_not_used_although_every_record_is_good() {
    let mut begun = begun();
    begun.site.git(&["update-ref", WEST, &begun.commits[0].to_string()]);
    is_refused(&mut begun.reader, "was rewritten");
    begun.site.git(&["update-ref", "-d", WEST]);
    let alarms = begun.reader.refresh().unwrap();
    assert!(alarms.iter().any(|alarm| alarm.contains("is gone at the server")), "{alarms:?}");
    assert!(begun.reader.reader().head(&ledger_of("west")).is_err());
    // Another history, as good as the first one, by the same key.
    let other = begun.writer.write(&record(1, 1, "2026-05-02T10:00:00Z"), &[], 1);
    begun.writer.push(WEST, None, other);
    let alarms = begun.reader.refresh().unwrap();
    assert!(alarms.iter().any(|alarm| alarm.contains("was rewritten")), "{alarms:?}");
    assert!(begun.reader.reader().head(&ledger_of("west")).is_err());
}

#[test]
fn what_a_status_remembers_is_held_against_the_server_after_a_restart() {
    let begun = begun();
    let mark = Mark { sequence: 2, commit: begun.commits[1], seen: None };
    let line = format!("west/test {}", mark.to_text(&begun.reader.place()));
    begun.site.git(&["update-ref", WEST, &begun.commits[0].to_string()]);
    let site = &begun.site;
    let keys = Keys { cluster: "east".into(), own: key(2), peers: vec![("west".into(), key(1).public())] };
    let mut anew = Books::new(site.mirror("another-disk"), false, keys);
    anew.remember_all(&[line]);
    is_refused(&mut anew, "was rewritten");
}

#[test]
fn many_files_and_many_records_are_read_by_pieces() {
    let mut begun = begun();
    let large = begun.writer.write(&record(3, 2, "2026-05-01T11:00:00Z"), &begun.commits[1..], 10_000);
    let mut head = large;
    for sequence in 4..400 {
        head = begun.writer.write(&record(sequence, sequence - 1, "2026-05-01T12:00:00Z"), &[head], 3);
    }
    begun.writer.push(WEST, Some(begun.commits[1]), head);
    assert_eq!(begun.reader.refresh().unwrap(), Vec::<String>::new());
    let reader = begun.reader.reader();
    let page = reader.history(&ledger_of("west"), 50).unwrap();
    assert!(page.records.len() == 50 && page.has_more);
    assert_eq!(page.records[0].0, head);
    let (commit, record) = reader.sync(&"west/test@2".parse::<Entry>().unwrap()).unwrap();
    assert_eq!((commit, record.sequence), (large, 3));
    assert_eq!(reader.files(commit).unwrap().below("manifests").count(), 10_000);
}

#[test]
fn a_slow_clock_opens_nothing_early_and_a_fast_one_only_waits() {
    let begun = begun();
    let west = ledger_of("west");
    let soak = SignedDuration::from_mins(30);
    let tells = |reader: &Reader, arrived: &BTreeMap<CommitId, Timestamp>, now: &str| {
        let ran = reader.ran(&west, arrived).unwrap();
        standing(&ran, (ran[0].commit, None), soak, at(now))
    };
    let reader = begun.reader.reader();
    // Its clock is an hour slow: the record that it was healthy came at 11:01.
    let arrived = BTreeMap::from([(begun.commits[1], at("2026-05-01T11:01:00Z"))]);
    assert_eq!(tells(&reader, &arrived, "2026-05-01T11:02:00Z"), Standing::Soaks(at("2026-05-01T11:31:00Z")));
    assert_eq!(tells(&reader, &arrived, "2026-05-01T11:31:00Z"), Standing::Passed);
    // It is an hour fast: the record is one of the future.
    let arrived = BTreeMap::from([(begun.commits[1], at("2026-05-01T09:01:00Z"))]);
    assert_eq!(tells(&reader, &arrived, "2026-05-01T09:32:00Z"), Standing::Soaks(at("2026-05-01T10:31:00Z")));
}

/// What an agent has to tell of its environment, whose status remembers something of its ledger.
fn told(syncs: &[SyncRecord], remembered: Option<&str>) -> BTreeMap<EnvironmentName, Arc<Pending>> {
    let remembered = remembered.map(str::to_owned);
    let pending = Pending { history: syncs.to_vec(), remembered, ..Pending::default() };
    BTreeMap::from([("test".parse().unwrap(), Arc::new(pending))])
}

/// Writes and pushes what is told, as far as the server takes it.
fn keep(site: &Site, books: &mut Books, syncs: &[SyncRecord]) -> (Pushed, Vec<String>) {
    keep_on(site, books, syncs, None)
}

/// As [`keep`], of an Environment whose status remembers its ledger.
fn keep_on(site: &Site, books: &mut Books, syncs: &[SyncRecord], remembered: Option<&str>) -> (Pushed, Vec<String>) {
    let mut alarms = books.refresh().unwrap();
    let source = site.mirror("source");
    books.write(&told(syncs, remembered), &source, (Timestamp::now(), 1), &mut alarms).unwrap();
    (books.push(&Credentials::default()).unwrap(), alarms)
}

#[test]
fn a_new_year_is_a_new_ref_that_goes_on_from_the_old_one() {
    let site = site();
    let (east, west) = (key(2), key(1));
    let mut books = site.books("east", &east, &[]);
    let syncs = [sync(1, "2026-12-31T23:59:58Z"), sync(2, "2027-01-01T00:00:01Z"), sync(3, "2027-01-01T00:00:09Z")];
    let (pushed, alarms) = keep(&site, &mut books, &syncs[..1]);
    assert_eq!((pushed.done, alarms.len()), (1, 0));
    let (pushed, alarms) = keep(&site, &mut books, &syncs);
    assert_eq!((pushed.done, alarms.len()), (1, 0));
    let old = site.git(&["rev-parse", "refs/towpath/east/test/2026"]);
    assert_eq!(site.git(&["rev-list", "--count", "refs/towpath/east/test/2027"]), "3");
    assert_eq!(site.git(&["rev-parse", "refs/towpath/east/test/2027~2"]), old);
    // Somebody who never saw it reads both, and the writer goes on after a restart with an empty disk.
    let mut other = site.books("west", &west, &[("east", &east)]);
    assert_eq!(other.refresh().unwrap(), Vec::<String>::new());
    assert_eq!(other.reader().history(&ledger_of("east"), 50).unwrap().records.len(), 3);
    let keys = Keys { cluster: "east".into(), own: east, peers: vec![] };
    let mut anew = Books::new(site.mirror("another-disk"), false, keys);
    let (pushed, alarms) = keep(&site, &mut anew, &[syncs[2].clone(), sync(4, "2027-01-01T00:01:00Z")]);
    assert_eq!((pushed.done, alarms.len()), (1, 0));
    assert_eq!(site.git(&["rev-list", "--count", "refs/towpath/east/test/2027"]), "4");
    // The old year may go once it is part of the new one.
    site.git(&["update-ref", "-d", "refs/towpath/east/test/2026"]);
    assert_eq!(other.refresh().unwrap(), Vec::<String>::new());
    assert_eq!(other.reader().history(&ledger_of("east"), 50).unwrap().records.len(), 4);
}

#[test]
fn two_agents_with_one_name_are_noticed_and_neither_loses_a_record() {
    let site = site();
    let (one, two) = (key(1), key(2));
    let keys = |own: &Arc<SigningKey>| Keys { cluster: "east".into(), own: own.clone(), peers: vec![] };
    let mut first = Books::new(site.mirror("one"), false, keys(&one));
    let mut second = Books::new(site.mirror("two"), false, keys(&two));
    keep(&site, &mut first, &[sync(1, "2026-05-01T10:00:00Z")]);
    let head = site.git(&["rev-parse", "refs/towpath/east/test/2026"]);
    let (pushed, alarms) = keep(&site, &mut second, &[sync(1, "2026-05-01T10:00:05Z")]);
    assert_eq!((pushed.done, second.waiting()), (0, 0));
    let problem = second.reader().head(&ledger_of("east")).unwrap_err();
    assert!(alarms[0].contains("which is no key of cluster east"), "{alarms:?}");
    assert!(problem.hint.unwrap().contains("is another agent called so too?"));
    assert_eq!(site.git(&["rev-parse", "refs/towpath/east/test/2026"]), head);
    let syncs = [sync(1, "2026-05-01T10:00:00Z"), sync(2, "2026-05-01T10:01:00Z")];
    let (pushed, alarms) = keep(&site, &mut first, &syncs);
    assert_eq!((pushed.done, alarms.len()), (1, 0));

    // With the same key, as after a restore of one cluster into another, it is the number that is taken twice.
    let mut third = Books::new(site.mirror("three"), false, keys(&one));
    let mark = Mark { sequence: 1, commit: head.parse().unwrap(), seen: None }.to_text(&third.place());
    let other = [syncs[0].clone(), sync(2, "2026-05-01T10:01:07Z")];
    let (pushed, alarms) = keep_on(&site, &mut third, &other, Some(&mark));
    assert_eq!(pushed.done, 0);
    assert!(alarms[0].contains("sync 2 of ledger east/test was recorded by another agent"), "{alarms:?}");
}

#[test]
fn the_syncs_of_an_environment_made_anew_wait_until_they_are_counted_on() {
    let site = site();
    let mut books = site.books("east", &key(2), &[]);
    keep(&site, &mut books, &[sync(1, "2026-05-01T10:00:00Z"), sync(2, "2026-05-01T10:01:00Z")]);
    // It counts from 1 again, for as long as it does not know of the ledger.
    let mut anew: Vec<SyncRecord> = (1..=3).map(|number| sync(number, "2026-06-01T10:00:00Z")).collect();
    let (pushed, alarms) = keep(&site, &mut books, &anew);
    assert_eq!((pushed.done, alarms.len()), (0, 0));
    anew.iter_mut().for_each(|sync| sync.number += 2);
    let head = books.reader().head(&ledger_of("east")).unwrap().commit;
    let mark = Mark { sequence: 2, commit: head, seen: None }.to_text(&books.place());
    keep_on(&site, &mut books, &anew, Some(&mark));
    assert_eq!(site.git(&["rev-list", "--count", "refs/towpath/east/test/2026"]), "5");
}

#[test]
fn how_an_environment_fares_below_a_refused_sync_is_recorded_once() {
    let site = site();
    let mut books = site.books("east", &key(2), &[]);
    let mut syncs = vec![sync(1, "2026-05-01T10:00:00Z"), sync(2, "2026-05-01T10:01:00Z")];
    (syncs[1].outcome, syncs[1].created) = (Ended::Failed, 0);
    keep(&site, &mut books, &syncs);
    let count = |site: &Site| site.git(&["rev-list", "--count", "refs/towpath/east/test/2026"]);
    let health = |is_healthy, since: &str| Some(SyncHealth { is_healthy, since: at(since), message: None });
    for (is_healthy, since, records) in [
        (true, "2026-05-01T10:02:00Z", "3"),
        (true, "2026-05-01T10:02:00Z", "3"),
        // Degraded and healthy again before anybody looked: that is news.
        (true, "2026-05-01T10:04:00Z", "4"),
        (false, "2026-05-01T10:04:01Z", "5"),
    ] {
        syncs[0].health = health(is_healthy, since);
        keep(&site, &mut books, &syncs);
        assert_eq!(count(&site), records, "{is_healthy} since {since}");
    }
    syncs.push(sync(3, "2026-05-01T10:05:00Z"));
    keep(&site, &mut books, &syncs);
    assert_eq!(count(&site), "6");
}

#[test]
fn that_something_degraded_is_recorded_at_once_and_that_it_is_healthy_again_after_a_while() {
    let site = site();
    let mut books = site.books("east", &key(2), &[]);
    let now = Timestamp::now();
    let mut one = sync(1, "2026-05-01T10:00:00Z");
    let ago = |seconds: i64| now - SignedDuration::from_secs(seconds);
    for (is_healthy, since, sequence) in [(true, ago(30), 2), (false, ago(20), 3), (true, ago(10), 3)] {
        one.health = Some(SyncHealth { is_healthy, since, message: None });
        keep(&site, &mut books, std::slice::from_ref(&one));
        assert_eq!(books.reader().head(&ledger_of("east")).unwrap().record.sequence, sequence);
    }
}

#[test]
fn our_own_ledger_that_went_back_is_not_used_after_a_restart_with_an_empty_disk() {
    let site = site();
    let mut books = site.books("east", &key(2), &[]);
    let syncs = [sync(1, "2026-05-01T10:00:00Z"), sync(2, "2026-05-01T10:01:00Z")];
    keep(&site, &mut books, &syncs);
    let head = books.reader().head(&ledger_of("east")).unwrap().commit;
    let line = format!("east/test {}", Mark { sequence: 2, commit: head, seen: None }.to_text(&books.place()));
    site.git(&["update-ref", "refs/towpath/east/test/2026", &format!("{head}~1")]);
    let keys = || Keys { cluster: "east".into(), own: key(2), peers: vec![] };
    let mut anew = Books::new(site.mirror("another-disk"), false, keys());
    anew.remember_all(std::slice::from_ref(&line));
    let (pushed, alarms) = keep(&site, &mut anew, &[sync(3, "2026-05-01T10:02:00Z")]);
    assert_eq!(pushed.done, 0);
    assert!(alarms[0].contains("was rewritten"), "{alarms:?}");
    // Where the disk is still there, all of it is, and is pushed again.
    drop(books);
    let mut anew = Books::new(site.mirror("mirror-east"), false, keys());
    anew.remember_all(&[line]);
    let (pushed, alarms) = keep(&site, &mut anew, &syncs);
    assert_eq!(pushed.done, 1, "{alarms:?}");
    assert_eq!(site.git(&["rev-parse", "refs/towpath/east/test/2026"]), head.to_string());
}

#[test]
fn a_ref_that_is_no_ledger_keeps_no_other_away() {
    let mut begun = begun();
    let blob = begun.site.git(&["rev-parse", "master:a.yaml"]);
    begun.site.git(&["update-ref", "refs/towpath/west/other/2026", &blob]);
    begun.site.git(&["update-ref", "refs/towpath/east/other/2026", &blob]);
    let third = begun.writer.write(&record(3, 2, "2026-05-01T11:00:00Z"), &begun.commits[1..], 1);
    begun.writer.push(WEST, Some(begun.commits[1]), third);
    let alarms = begun.reader.refresh().unwrap();
    assert_eq!(alarms.len(), 2, "{alarms:?}");
    assert_eq!(begun.reader.reader().head(&ledger_of("west")).unwrap().commit, third);
}

#[test]
fn a_ref_of_a_year_to_come_shuts_no_ledger() {
    let mut begun = begun();
    begun.site.git(&["update-ref", "refs/towpath/west/test/9999", &begun.commits[0].to_string()]);
    let alarms = begun.reader.refresh().unwrap();
    assert!(alarms[0].contains("refs/towpath/west/test/2026 is used instead"), "{alarms:?}");
    let third = begun.writer.write(&record(3, 2, "2026-05-01T11:00:00Z"), &begun.commits[1..], 1);
    begun.writer.push(WEST, Some(begun.commits[1]), third);
    begun.reader.refresh().unwrap();
    assert_eq!(begun.reader.reader().head(&ledger_of("west")).unwrap().commit, third);
    // Nor does somebody who was never here before take it for the newest.
    let keys = Keys { cluster: "north".into(), own: key(3), peers: vec![("west".into(), key(1).public())] };
    let mut other = Books::new(begun.site.mirror("another-disk"), false, keys);
    let alarms = other.refresh().unwrap();
    assert!(alarms[0].contains("stands on refs/towpath/west/test/9999"), "{alarms:?}");
}

#[test]
fn a_replaced_key_goes_on_where_the_earlier_one_is_named() {
    let site = site();
    let (old, new) = (key(1), key(2));
    let mut before = site.books("east", &old, &[]);
    keep(&site, &mut before, &[sync(1, "2026-05-01T10:00:00Z")]);
    let keys = |peers| Keys { cluster: "east".into(), own: new.clone(), peers };
    let mut lacking = Books::new(site.mirror("lacking"), false, keys(vec![]));
    let one = sync(1, "2026-05-01T10:00:00Z");
    let (pushed, alarms) = keep(&site, &mut lacking, &[one.clone(), sync(2, "2026-05-02T10:00:00Z")]);
    assert_eq!((pushed.done, alarms.len()), (0, 1));
    let hint = lacking.reader().head(&ledger_of("east")).unwrap_err().hint.unwrap();
    assert!(hint.contains("add the earlier one to spec.peers"), "{hint}");
    let mut named = Books::new(site.mirror("named"), false, keys(vec![("east".into(), old.public())]));
    let (pushed, alarms) = keep(&site, &mut named, &[one, sync(2, "2026-05-02T10:00:00Z")]);
    assert_eq!((pushed.done, alarms.len()), (1, 0));
    assert_eq!(named.reader().history(&ledger_of("east"), 50).unwrap().records.len(), 2);
}

#[test]
fn a_hook_that_refuses_is_quoted_and_the_record_is_kept_for_later() {
    use std::os::unix::fs::PermissionsExt;
    let site = site();
    let hook = site.repo.path().join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho 'only releases on Tuesdays' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut books = site.books("east", &key(2), &[]);
    let (pushed, _) = keep(&site, &mut books, &[sync(1, "2026-05-01T10:00:00Z")]);
    let problem = pushed.refused.unwrap();
    assert!(problem.message.contains("only releases on Tuesdays"), "{problem}");
    assert!(problem.hint.unwrap().contains("let the hook of the server pass"), "{}", problem.message);
    assert_eq!(books.waiting(), 1);
    std::fs::remove_file(&hook).unwrap();
    let (pushed, alarms) = keep(&site, &mut books, &[sync(1, "2026-05-01T10:00:00Z")]);
    assert_eq!((pushed.done, alarms.len(), books.waiting()), (1, 0, 0));
    assert_eq!(site.git(&["rev-list", "--count", "refs/towpath/east/test/2026"]), "1");
}
