//! What is read of ledgers that are longer than what is read by default.

use jiff::SignedDuration;
use towpath_core::status::{Outcome, Trigger};

use super::*;
use crate::repo::Credentials;

fn sync(number: u64) -> SyncRecord {
    let at = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(number as i64);
    let commit = CommitId::from_bytes([number as u8; 20]);
    SyncRecord {
        number,
        revision: format!("master@sha1:{commit}"),
        subject: "One".to_owned(),
        trigger: Trigger::Commit,
        requested_by: None,
        request: None,
        started_at: at,
        took_ms: 10,
        outcome: if number == 3 { Outcome::Failed } else { Outcome::Applied },
        created: 1,
        configured: 0,
        unchanged: 0,
        pruned: 0,
        failed: 0,
        took_over: Vec::new(),
        message: None,
        hooks: Vec::new(),
        health: Some(SyncHealth { is_healthy: number != 2, since: at, message: None }),
    }
}

#[test]
fn a_release_is_found_however_much_was_recorded_since() {
    crate::repo::init();
    let folder = tempfile::tempdir().unwrap();
    let remote = folder.path().join("none.git").display().to_string().parse().unwrap();
    let mirror = Arc::new(Mirror::open(&folder.path().join("mirror"), remote, Credentials::default()).unwrap());
    let keys = Keys { cluster: "east".to_owned(), own: Arc::new(SigningKey::from_seed([1; 32])), peers: Vec::new() };
    let mut books = Books::new(mirror.clone(), false, keys);
    let environment: EnvironmentName = "prod".parse().unwrap();
    let pending = Pending { history: (1..=120).map(sync).collect(), ..Pending::default() };
    let pending = BTreeMap::from([(environment.clone(), Arc::new(pending))]);
    let name = books.own(&environment);
    let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
    let last = |books: &Books| books.ledgers().get(&name).and_then(|ledger| Some(ledger.head.as_ref()?.record.sync));
    while last(&books) != Some(120) {
        books.write(&pending, &mirror, (now, 1), &mut Vec::new()).unwrap();
    }
    let reader = books.reader();
    let newest = reader.ran(&name, &BTreeMap::new()).unwrap();
    assert!(newest.iter().all(|ran| ran.sync > 2), "these are not all: {:?}", newest.first());
    let of = |number: u64| reader.release(&name, |sync, _| sync == number).unwrap();
    let found = of(1).unwrap();
    assert_eq!((found.sync, found.commit), (1, CommitId::from_bytes([1; 20])));
    assert_eq!((found.healthy_since.is_some(), of(2).unwrap().healthy_since), (true, None));
    assert_eq!(of(3), None, "it was not applied");
    assert_eq!(of(200), None);
    let by_commit = reader.release(&name, |_, commit| commit == CommitId::from_bytes([2; 20])).unwrap();
    assert_eq!(by_commit.unwrap().sync, 2);
}
