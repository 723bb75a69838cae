//! Pushing records: one push for everything that the server lacks, by compare-and-swap.

use towpath_core::fault::{Fault, Problem};
use towpath_core::ledger::LedgerName;

use super::{Books, Mark};
use crate::repo::{Credentials, Outcome, Refusal, Update};

/// Ledgers that one push moves.
const MAX_AT_ONCE: usize = 1000;

/// What came of a push.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    /// How many ledgers the server has as we do.
    pub done: usize,
    /// Ledgers that stand elsewhere at the server than we knew: they are read again before the next try.
    pub moved: usize,
    /// Why the server took something not, the first reason.
    pub refused: Option<Problem>,
}

impl Books {
    /// Pushes what the server lacks, and gives what came of it.
    ///
    /// # Errors
    /// When nothing was done, or nothing is known of it: the same again is safe.
    pub fn push(&mut self, credentials: &Credentials) -> Result<Pushed, Problem> {
        let behind: Vec<LedgerName> = self.ledgers.keys().filter(|name| self.is_behind(name)).cloned().collect();
        let mut wanted: Vec<(LedgerName, Update)> = Vec::new();
        for name in behind {
            let Some(head) = &self.ledgers[&name].head else { continue };
            let reference = name.reference(self.below, head.year);
            let update = Update { old: self.listed.get(&reference).copied(), new: head.commit, name: reference };
            wanted.push((name, update));
        }
        let mut found = Pushed::default();
        for part in wanted.chunks(MAX_AT_ONCE) {
            self.push_some(part, credentials, &mut found)?;
        }
        Ok(found)
    }

    /// One push; where it is refused as a whole, one for each half, so that what is wrong with one keeps no other away.
    fn push_some(
        &mut self,
        part: &[(LedgerName, Update)],
        credentials: &Credentials,
        found: &mut Pushed,
    ) -> Result<(), Problem> {
        let updates: Vec<Update> = part.iter().map(|(_, update)| update.clone()).collect();
        match self.mirror.push(&updates, credentials) {
            Ok(outcomes) => {
                for ((name, update), outcome) in part.iter().zip(outcomes) {
                    self.settle(name, update, outcome, found);
                }
                Ok(())
            }
            Err(problem) if problem.fault == Fault::Passing => Err(problem),
            Err(problem) if part.len() == 1 => {
                found.refused.get_or_insert(problem);
                Ok(())
            }
            Err(problem) => {
                let (one, other) = part.split_at(part.len() / 2);
                self.push_some(one, credentials, found)?;
                if found.done == 0 && found.refused.is_some() {
                    // Nobody is taken: asking for each in turn would only say the same.
                    found.refused = Some(problem);
                    return Ok(());
                }
                self.push_some(other, credentials, found)
            }
        }
    }

    fn settle(&mut self, name: &LedgerName, update: &Update, outcome: Outcome, found: &mut Pushed) {
        let Some(ledger) = self.ledgers.get_mut(name) else { return };
        match outcome {
            Outcome::Done => {
                if let Some(head) = ledger.head.as_ref().filter(|head| head.commit == update.new) {
                    ledger.mark = Some(Mark { sequence: head.record.sequence, commit: head.commit, seen: None });
                }
                self.listed.insert(update.name.clone(), update.new);
                found.done += 1;
            }
            // Where it stands now is asked anew.
            Outcome::Moved { .. } => found.moved += 1,
            Outcome::Unsure { problem } => drop(found.refused.get_or_insert(problem)),
            Outcome::Refused { refusal, why } => drop(found.refused.get_or_insert(refused(name, refusal, &why))),
        }
    }
}

fn refused(name: &LedgerName, refusal: Refusal, why: &str) -> Problem {
    let problem = Problem::setup(format!("the server does not take ledger {name}: {why}"));
    if matches!(refusal, Refusal::Storage | Refusal::Busy) {
        return Problem { fault: Fault::Passing, ..problem };
    }
    problem.hint(match refusal {
        Refusal::Name => {
            "it takes no such refs: set spec.ledger.as to Branch, or spec.ledger.url to another repository"
        }
        Refusal::Protected => "let the agent's user push there, or set spec.ledger.url to another repository",
        Refusal::Hook => {
            "let the hook of the server pass the agent's refs, or set spec.ledger.url to another repository"
        }
        Refusal::Storage | Refusal::Busy | Refusal::Other => "look at the server's log",
    })
}
