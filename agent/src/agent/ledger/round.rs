//! One round of the ledgers, on a thread that may block: look, write, push.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use towpath_core::fault::Problem;
use towpath_core::ledger::LedgerName;
use towpath_core::ledger::passed::{Gates, Ran};
use towpath_core::names::EnvironmentName;
use towpath_core::revision::CommitId;

use super::Terms;
use crate::ledger::{Books, Mark, Pending};

/// How often a push is tried in one round, where somebody else was there first.
const MAX_TRIES: usize = 5;
/// Records of others whose arrival is remembered.
const MAX_ARRIVALS: usize = 10_000;

/// What goes from round to round.
pub(super) struct Kept {
    pub(super) books: Books,
    /// What environments ran, by the head that it was read from.
    pub(super) ran: BTreeMap<LedgerName, (CommitId, Arc<Vec<Ran>>)>,
    /// The heads of others' ledgers at the last look.
    pub(super) heads: BTreeMap<LedgerName, CommitId>,
    /// When records arrived that were not there at the look before: no later than that look.
    pub(super) arrived: BTreeMap<CommitId, Timestamp>,
    /// When the last look began that was answered.
    pub(super) as_of: Option<Timestamp>,
}

/// What a round is given, on a thread that may block.
pub(super) struct Round {
    pub(super) terms: Terms,
    pub(super) pending: BTreeMap<EnvironmentName, Arc<Pending>>,
    pub(super) remembered: BTreeMap<EnvironmentName, String>,
    pub(super) gates: BTreeSet<LedgerName>,
    pub(super) is_due: bool,
    pub(super) scale: u32,
}

/// What a round came to.
pub(super) struct Done {
    pub(super) kept: Kept,
    pub(super) pending: BTreeMap<EnvironmentName, Arc<Pending>>,
    /// What is remembered and was not held against the server.
    pub(super) unheard: BTreeMap<EnvironmentName, String>,
    pub(super) gates: Gates,
    pub(super) alarms: Vec<String>,
    pub(super) problem: Option<Problem>,
    pub(super) look_at: Option<Timestamp>,
    pub(super) has_looked: bool,
}

impl Round {
    pub(super) fn run(mut self, kept: Kept) -> Done {
        let mut done = Done {
            kept,
            pending: BTreeMap::new(),
            unheard: BTreeMap::new(),
            gates: Gates::new(),
            alarms: Vec::new(),
            problem: None,
            look_at: None,
            has_looked: false,
        };
        done.problem = self.try_all(&mut done).err();
        done.gates = done.kept.gates(&self.gates);
        done.pending = self.pending;
        done.unheard = self.remembered;
        done
    }

    fn try_all(&mut self, done: &mut Done) -> Result<(), Problem> {
        let mut away = None;
        if self.is_due {
            match done.kept.look() {
                Ok(alarms) => {
                    done.alarms.extend(alarms);
                    done.has_looked = true;
                }
                // Nobody knows after which record to go on.
                Err(problem) if done.kept.as_of.is_none() => return Err(problem),
                Err(problem) => away = Some(problem),
            }
        }
        let books = &mut done.kept.books;
        let place = books.place();
        for (environment, text) in std::mem::take(&mut self.remembered) {
            if let Some(mark) = Mark::parse(&text, &place) {
                let name = books.own(&environment);
                books.remember(&name, mark, &mut done.alarms);
            }
        }
        for _ in 0..MAX_TRIES {
            let now = (Timestamp::now(), self.scale);
            done.look_at = done.kept.books.write(&self.pending, &self.terms.source, now, &mut done.alarms)?;
            if let Some(problem) = away {
                // What was written is kept here, and pushed when the server is back.
                return Err(problem);
            }
            if done.kept.books.waiting() == 0 {
                return Ok(());
            }
            let pushed = done.kept.books.push(&self.terms.credentials)?;
            if let Some(problem) = pushed.refused {
                return Err(problem);
            }
            if pushed.moved == 0 {
                return Ok(());
            }
            // Somebody else was there first: read again, and write on after that.
            done.alarms.extend(done.kept.look()?);
        }
        Err(Problem::passing("the ledgers move faster than they can be written"))
    }
}

impl Kept {
    /// Asks the server, and notes when records of others arrived.
    fn look(&mut self) -> Result<Vec<String>, Problem> {
        let (began, before) = (Timestamp::now(), self.as_of);
        let marks: BTreeMap<LedgerName, Mark> = match before {
            Some(_) => BTreeMap::new(),
            None => {
                self.books.ledgers().iter().filter_map(|(name, ledger)| Some((name.clone(), ledger.mark?))).collect()
            }
        };
        let alarms = self.books.refresh()?;
        let reader = self.books.reader();
        for (name, ledger) in self.books.ledgers() {
            let Some(head) = ledger.head.as_ref().filter(|_| name.cluster != reader.cluster()) else { continue };
            let known = self.heads.insert(name.clone(), head.commit);
            if known == Some(head.commit) || ledger.trouble.is_some() {
                continue;
            }
            match (known, before, marks.get(name)) {
                (Some(known), Some(before), _) => {
                    self.arrived.extend(reader.since(name, known)?.into_iter().map(|commit| (commit, before)));
                }
                // The first record of all.
                (None, Some(before), _) => {
                    self.arrived.extend(reader.last_health(name, head.commit)?.map(|commit| (commit, before)));
                }
                // After a restart: what came meanwhile came now, and what was there is remembered.
                (_, None, Some(mark)) => {
                    if mark.commit != head.commit {
                        self.arrived.extend(reader.since(name, mark.commit)?.into_iter().map(|commit| (commit, began)));
                    }
                    if let Some(seen) = mark.seen {
                        self.arrived.insert(mark.commit, seen);
                        self.arrived.extend(reader.last_health(name, mark.commit)?.map(|commit| (commit, seen)));
                    }
                }
                // Nobody knows since when it is there: it counts as it says.
                (_, None, None) => {}
            }
        }
        while self.arrived.len() > MAX_ARRIVALS {
            let oldest = self.arrived.iter().min_by_key(|(_, at)| **at).map(|(commit, _)| *commit);
            oldest.map(|commit| self.arrived.remove(&commit));
        }
        self.as_of = Some(began);
        Ok(alarms)
    }

    /// What the environments have run that others wait for.
    fn gates(&mut self, wanted: &BTreeSet<LedgerName>) -> Gates {
        if self.as_of.is_none() {
            return Gates::new();
        }
        let reader = self.books.reader();
        let mut read = BTreeMap::new();
        let mut ran = |name: &LedgerName| {
            let head = reader.head(name)?.commit;
            let known = self.ran.get(name).filter(|(known, _)| *known == head).map(|(_, ran)| ran.clone());
            let ran = known.map_or_else(|| reader.ran(name, &self.arrived).map(Arc::new), Ok)?;
            read.insert(name.clone(), (head, ran.clone()));
            Ok(ran)
        };
        let gates = wanted.iter().map(|name| (name.clone(), ran(name))).collect();
        self.ran = read;
        gates
    }
}
