//! The rules one by one, and all of them together in a made-up cluster where everything goes wrong.

use super::*;

const WALL: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn election(identity: &str) -> Election {
    Election::new(identity, Terms::default())
}

fn held_by(holder: &str) -> Record {
    Record {
        holder: holder.to_owned(),
        duration_s: Some(15),
        acquired: Some(WALL),
        renewed: Some(WALL),
        transitions: Some(4),
        version: "1".to_owned(),
    }
}

/// A replica that won the lease, by a request that was sent and answered at a time.
fn leader(now: Duration) -> Election {
    let mut election = election("a");
    let Ask::Create(record) = election.read(None, now, WALL) else { panic!("there was none to read") };
    election.wrote(record, now, now);
    election
}

#[test]
fn the_times_are_those_of_client_go() {
    let terms = Terms::default();
    assert_eq!((terms.lease_duration, terms.renew_deadline, terms.retry_period), (at(15), at(10), at(2)));
    assert_eq!(terms.last_write_ends(), Duration::from_millis(12_500));
    assert!(terms.request_deadline() * 2 <= terms.renew_deadline);
    for (seconds, is_possible) in [(4, false), (5, true), (600, true), (601, false), (0, false)] {
        assert_eq!(Terms::new(at(seconds)).is_ok(), is_possible, "{seconds}");
    }
    // What client-go demands of any three.
    for terms in [Terms::new(MIN_LEASE_DURATION).unwrap(), Terms::default().divided(30)] {
        assert!(terms.lease_duration > terms.renew_deadline);
        assert!(terms.renew_deadline > terms.retry_period.mul_f64(JITTER));
    }
}

#[test]
fn where_there_is_no_lease_it_is_made() {
    let mut election = election("a");
    assert_eq!(election.begin(at(0), WALL), Ask::Read);
    let Ask::Create(record) = election.read(None, at(0), WALL) else { panic!("it is to be made") };
    assert_eq!((record.holder.as_str(), record.duration_s, record.transitions), ("a", Some(15), Some(0)));
    assert!(!election.leads(at(0)), "not before the answer");
    election.wrote(record, at(0), at(1));
    assert!(election.leads(at(1)));
}

#[test]
fn who_leads_writes_without_looking_and_keeps_the_beginning_of_its_time() {
    let mut leader = leader(at(0));
    let later = Timestamp::from_second(2).unwrap();
    let Ask::Update(record) = leader.begin(at(2), later) else { panic!("it is to be renewed") };
    assert_eq!((record.acquired, record.renewed, record.transitions), (Some(WALL), Some(later), Some(0)));
    leader.wrote(record, at(2), at(3));
    assert_eq!(leader.leads_for(at(3)), at(9), "from before the request was sent");
}

#[test]
fn a_lease_that_another_holds_is_left_alone_until_it_was_silent_for_its_time() {
    let mut standby = election("b");
    assert_eq!(standby.read(Some(held_by("a")), at(100), WALL), Ask::Nothing);
    assert_eq!(standby.read(Some(held_by("a")), at(114), WALL), Ask::Nothing);
    // Written again, even by a clock that stands still.
    let renewed = Record { version: "2".into(), ..held_by("a") };
    assert_eq!(standby.read(Some(renewed.clone()), at(115), WALL), Ask::Nothing, "it was renewed at the last moment");
    assert_eq!(standby.read(Some(renewed.clone()), at(129), WALL), Ask::Nothing);
    let Ask::Update(record) = standby.read(Some(renewed), at(130), WALL) else { panic!("its time is over") };
    assert_eq!((record.holder.as_str(), record.transitions, record.acquired), ("b", Some(5), Some(WALL)));
}

#[test]
fn the_times_and_numbers_in_a_record_make_nobody_leader_and_keep_nobody_from_it() {
    let far = "2099-01-01T00:00:00Z".parse().ok();
    let records = [
        Record { renewed: far, acquired: far, ..held_by("a") },
        Record { renewed: None, acquired: None, duration_s: None, transitions: None, ..held_by("a") },
        Record { duration_s: Some(-7), transitions: Some(-1), ..held_by("a") },
        Record { duration_s: Some(0), transitions: Some(i32::MAX), ..held_by("a") },
        Record { holder: "\u{0}\u{202e}{\"nonsense\":".repeat(1000), ..held_by("a") },
        Record { renewed: Some(Timestamp::MIN), acquired: Some(Timestamp::MAX), ..held_by("a") },
    ];
    for record in records {
        let mut standby = election("b");
        assert_eq!(standby.read(Some(record.clone()), at(7), WALL), Ask::Nothing, "{record:?}");
        assert_eq!(standby.read(Some(record.clone()), at(21), WALL), Ask::Nothing, "{record:?}");
        let Ask::Update(claim) = standby.read(Some(record.clone()), at(22), WALL) else { panic!("{record:?}") };
        assert!(claim.transitions.is_some_and(|transitions| transitions > 0), "{claim:?}");
        assert_eq!(claim.duration_s, Some(15));
    }
}

#[test]
fn a_record_that_claims_for_ever_is_believed_for_the_longest_lease_only() {
    let record = Record { duration_s: Some(i32::MAX), ..held_by("a") };
    let mut standby = election("b");
    assert_eq!(standby.read(Some(record.clone()), at(0), WALL), Ask::Nothing);
    assert_eq!(standby.read(Some(record.clone()), MAX_LEASE_DURATION - at(1), WALL), Ask::Nothing);
    assert!(matches!(standby.read(Some(record), MAX_LEASE_DURATION, WALL), Ask::Update(_)));
}

#[test]
fn a_longer_lease_of_another_is_respected() {
    let record = Record { duration_s: Some(60), ..held_by("a") };
    let mut standby = election("b");
    assert_eq!(standby.read(Some(record.clone()), at(0), WALL), Ask::Nothing);
    assert_eq!(standby.read(Some(record.clone()), at(59), WALL), Ask::Nothing);
    assert!(matches!(standby.read(Some(record), at(60), WALL), Ask::Update(_)));
}

#[test]
fn a_lease_that_was_given_back_is_taken_at_once() {
    let mut first = leader(at(0));
    let released = first.release(WALL).unwrap();
    assert_eq!((released.holder.as_str(), released.duration_s), ("", Some(1)));
    assert!(!first.leads(at(0)));
    let mut second = election("b");
    assert_eq!(second.read(Some(held_by("a")), at(0), WALL), Ask::Nothing);
    assert!(matches!(second.read(Some(released), at(1), WALL), Ask::Update(_)));
    assert_eq!(second.release(WALL), None, "what is not ours is not given back");
}

#[test]
fn without_a_renewal_in_time_it_leads_no_more_and_a_late_answer_does_not_bring_it_back() {
    let mut late = leader(at(0));
    assert!(late.leads(at(9)));
    let Ask::Update(record) = late.begin(at(9), WALL) else { panic!("it is to be renewed") };
    // It was stopped for a minute between the request and its answer.
    late.wrote(record, at(9), at(70));
    assert!(!late.leads(at(70)));
    assert_eq!(late.leads_for(at(70)), Duration::ZERO);

    // Even where nobody noticed in between that its time was over, and the answer itself is young.
    let mut late = leader(at(0));
    let record = late.claim(None, WALL);
    late.wrote(record, at(10), at(11));
    assert!(!late.leads(at(11)), "it has to win anew");
    let Ask::Update(record) = late.begin(at(12), WALL) else { panic!("the record still names it") };
    late.wrote(record, at(12), at(12));
    assert!(late.leads(at(12)));
}

#[test]
fn a_leader_that_reads_another_name_stops_at_once() {
    let mut leader = leader(at(0));
    assert_eq!(leader.read(Some(held_by("b")), at(3), WALL), Ask::Nothing);
    assert!(!leader.leads(at(3)));
}

#[test]
fn a_leader_whose_lease_was_deleted_makes_it_again() {
    let mut leader = leader(at(0));
    let Ask::Create(record) = leader.read(None, at(3), WALL) else { panic!("it is to be made") };
    leader.wrote(record, at(3), at(3));
    assert!(leader.leads(at(12)));
}

#[test]
fn a_lease_that_was_deleted_leaves_its_holder_the_time_to_make_it_again() {
    let mut standby = election("b");
    assert_eq!(standby.read(Some(held_by("a")), at(0), WALL), Ask::Nothing);
    assert_eq!(standby.read(None, at(100), WALL), Ask::Nothing, "whatever was seen long ago");
    assert_eq!(standby.read(None, at(114), WALL), Ask::Nothing);
    assert!(matches!(standby.read(None, at(115), WALL), Ask::Create(_)));
}

#[test]
fn what_was_written_without_an_answer_is_recognised() {
    let mut election = election("a");
    let Ask::Create(record) = election.read(None, at(0), WALL) else { panic!("there was none") };
    // The answer was lost; the next look shows the own name.
    let Ask::Update(record) = election.read(Some(record), at(2), WALL) else { panic!("it is its own") };
    assert_eq!(record.transitions, Some(0));
    assert!(!election.leads(at(2)));
    election.wrote(record, at(2), at(2));
    assert!(election.leads(at(2)));
}

#[test]
fn pauses_are_spread_and_end_when_the_lease_does() {
    let mut standby = election("b");
    assert_eq!((standby.pause(at(0), 0.0), standby.pause(at(0), 1.0)), (at(2), Duration::from_millis(4400)));
    standby.read(Some(held_by("a")), at(0), WALL);
    assert_eq!(standby.pause(at(14), 0.5), Duration::from_millis(1100), "the holder has one second left");
    assert_eq!(standby.pause(at(20), 0.0), at(2), "it is over, and somebody else is at it");
    assert_eq!(leader(at(0)).pause(at(1), 1.0), at(2), "who leads is on time");
}

/// Numbers that look like chance and are the same at each run (a linear congruential generator, Knuth's constants).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn unit(&mut self) -> f64 {
        self.below(1000) as f64 / 999.0
    }
}

/// What a replica of the made-up cluster is doing.
#[allow(clippy::large_enum_variant, reason = "there are three of them")]
enum Doing {
    Resting {
        until: u64,
    },
    /// A request is on its way; the server takes it at `arrives`, the answer is there at `answers`.
    Asking {
        ask: Ask,
        over: String,
        sent: u64,
        arrives: u64,
        answers: u64,
        is_lost: bool,
        taken: Option<Answer>,
    },
}

#[derive(Clone)]
enum Answer {
    Is(Option<Record>),
    Wrote(Record),
    Refused,
}

struct Replica {
    election: Election,
    /// Its monotonic clock began somewhere, and its wall clock is wrong by years.
    began: u64,
    wall: Timestamp,
    doing: Doing,
    stopped_until: u64,
}

/// Three replicas, requests that are slow, lost, or done without an answer, processes that are stopped, a Lease that is
/// deleted and stolen: at no moment may two of them begin a write, and there is a leader again when all is well.
#[test]
fn there_are_never_two_leaders() {
    for seed in 0..100 {
        let mut chance = Chance(seed);
        let mut store: Option<Record> = None;
        let mut version = 1u64;
        let mut stored = |record: Record| {
            version += 1;
            Record { version: version.to_string(), ..record }
        };
        let mut replicas: Vec<Replica> = ["a", "b", "c"]
            .iter()
            .map(|name| Replica {
                election: election(name),
                began: chance.below(1_000_000),
                wall: Timestamp::from_second(chance.below(4_000_000_000) as i64).unwrap(),
                doing: Doing::Resting { until: chance.below(3000) },
                stopped_until: 0,
            })
            .collect();
        const TROUBLE_ENDS: u64 = 400_000;
        for now in (0..460_000).step_by(20) {
            let is_troubled = now < TROUBLE_ENDS;
            // A deleted Lease is remade by whoever comes first and never saw it: the one case in which rules do not help.
            let is_known = replicas.iter().all(|replica| replica.election.observed.is_some());
            if is_troubled && is_known && chance.below(6000) == 0 {
                let theft = Record { holder: "thief".into(), duration_s: Some(-1), ..Record::default() };
                store = (chance.below(3) > 0).then(|| stored(theft));
            }
            for replica in &mut replicas {
                // The server does what arrives, whether the replica runs or not.
                if let Doing::Asking { ask, over, arrives, taken, .. } = &mut replica.doing
                    && taken.is_none()
                    && *arrives <= now
                {
                    let current = store.as_ref().map(|record| record.version.clone());
                    *taken = Some(match ask {
                        Ask::Read => Answer::Is(store.clone()),
                        Ask::Create(record) if store.is_none() => Answer::Wrote(stored(record.clone())),
                        Ask::Update(record) if current.as_ref() == Some(over) => Answer::Wrote(stored(record.clone())),
                        _ => Answer::Refused,
                    });
                    if let Some(Answer::Wrote(record)) = taken {
                        store = Some(record.clone());
                    }
                }
                if is_troubled && now > replica.stopped_until && chance.below(8000) == 0 {
                    replica.stopped_until = now + chance.below(70_000);
                }
                if now < replica.stopped_until {
                    continue;
                }
                step(replica, now, is_troubled, &mut chance);
            }
            let leading: Vec<String> = replicas
                .iter_mut()
                .filter_map(|replica| {
                    // Whoever is stopped cannot look at its clock, but its time runs: what counts is what it would find.
                    let its_now = Duration::from_millis(replica.began + now);
                    replica.election.clone().leads(its_now).then_some(replica.election.identity.clone())
                })
                .collect();
            assert!(leading.len() <= 1, "seed {seed}, at {now} ms: {leading:?} lead");
        }
        let leads = replicas.iter().filter(|replica| {
            let its_now = Duration::from_millis(replica.began + 460_000);
            replica.election.clone().leads(its_now)
        });
        assert_eq!(leads.count(), 1, "seed {seed}: a minute after all trouble somebody leads");
    }
}

/// One replica does what is due.
fn step(replica: &mut Replica, now: u64, is_troubled: bool, chance: &mut Chance) {
    let its_now = Duration::from_millis(replica.began + now);
    let wall = replica.wall + its_now;
    let next = match &mut replica.doing {
        Doing::Resting { until } if *until > now => return,
        Doing::Resting { .. } => replica.election.begin(its_now, wall),
        Doing::Asking { ask, sent, answers, is_lost, taken, .. } => {
            let is_over = now >= *sent + 5000;
            if !is_over && (now < *answers || *is_lost) {
                return;
            }
            let is_renewal = matches!(ask, Ask::Update(_));
            let sent = Duration::from_millis(replica.began + *sent);
            match taken.take().filter(|_| !*is_lost && now >= *answers) {
                Some(Answer::Is(record)) => replica.election.read(record, its_now, wall),
                Some(Answer::Wrote(record)) => {
                    replica.election.wrote(record, sent, its_now);
                    Ask::Nothing
                }
                Some(Answer::Refused) if is_renewal && replica.election.leads(its_now) => Ask::Read,
                _ => Ask::Nothing,
            }
        }
    };
    replica.doing = match next {
        Ask::Nothing => {
            let pause = replica.election.pause(its_now, chance.unit());
            Doing::Resting { until: now + pause.as_millis() as u64 }
        }
        ask => {
            let slowness = if is_troubled { 4000 } else { 50 };
            let arrives = now + chance.below(slowness);
            Doing::Asking {
                ask,
                over: replica.election.observed.as_ref().map(|(record, _)| record.version.clone()).unwrap_or_default(),
                sent: now,
                arrives,
                answers: arrives + chance.below(slowness),
                is_lost: is_troubled && chance.below(8) == 0,
                taken: None,
            }
        }
    };
}
