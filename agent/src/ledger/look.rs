//! Looking at the server: where the ledgers stand there, and whether they go on from what was seen before.

use std::collections::BTreeMap;

use towpath_core::fault::{Fault, Problem};
use towpath_core::ledger::LedgerName;
use towpath_core::revision::CommitId;

use super::read::Reader;
use super::{Books, Ledger, Mark};

/// Refs of one ledger that are tried, from the newest year.
const MAX_YEARS: usize = 3;

/// Where a ledger stands at the server, by one of its refs.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) year: i16,
    pub(super) reference: String,
    pub(super) commit: CommitId,
}

/// A ledger, and a ref of it as it is fetched.
type Ref<'a> = (&'a LedgerName, (String, CommitId));

/// Ledgers that cannot be read, and clusters whose ledgers did not come.
type Brought = (BTreeMap<LedgerName, Problem>, BTreeMap<String, Problem>);

impl Books {
    /// Asks the server where the ledgers stand, and reads what is new. Gives the alarms.
    ///
    /// # Errors
    /// When the server cannot be asked, or sends nothing of what it has. What was known before stays.
    pub fn refresh(&mut self) -> Result<Vec<String>, Problem> {
        let mut alarms = Vec::new();
        let listed = self.mirror.refs(self.below)?;
        // By year, the newest first.
        let mut stand: BTreeMap<LedgerName, Vec<At>> = BTreeMap::new();
        for (reference, commit) in &listed {
            let Some((name, year)) = LedgerName::of_reference(reference) else { continue };
            if self.keys.knows(&name.cluster) {
                let at = At { year, reference: reference.clone(), commit: *commit };
                stand.entry(name).or_default().push(at);
            }
        }
        stand.values_mut().for_each(|years| years.sort_by_key(|at| std::cmp::Reverse(at.year)));
        self.forget_what_is_not_there();
        let is_known = |name: &LedgerName, commit: CommitId| {
            let ledger = self.ledgers.get(name).filter(|ledger| ledger.trouble.is_none() && ledger.head.is_some());
            ledger.and_then(|ledger| ledger.mark).is_some_and(|mark| mark.commit == commit)
        };
        let unknown = stand.iter().filter(|(name, years)| !is_known(name, years[0].commit));
        let mut open: Vec<(LedgerName, At)> = unknown.map(|(name, years)| (name.clone(), years[0].clone())).collect();
        let mut refused: BTreeMap<LedgerName, Problem> = BTreeMap::new();
        let reader = self.reader();
        for rank in 0..MAX_YEARS {
            let (unreadable, late) = self.bring(&open)?;
            for problem in late.values() {
                self.alarm(&mut alarms, problem.message.clone());
            }
            let mut next = Vec::new();
            for (name, at) in open {
                if late.contains_key(&name.cluster) {
                    continue;
                }
                let result = match unreadable.get(&name) {
                    Some(problem) => Err(problem.clone()),
                    None => self.adopt(&reader, &name, &at, &mut alarms),
                };
                match result {
                    Ok(()) => {
                        if let Some(problem) = refused.remove(&name) {
                            let instead = format!("{}: {} is used instead", problem.message, at.reference);
                            self.alarm(&mut alarms, instead);
                        }
                    }
                    Err(problem) if problem.fault == Fault::Passing => return Err(problem),
                    Err(problem) => {
                        let has_mark = self.ledgers.get(&name).is_some_and(|ledger| ledger.mark.is_some());
                        // Somebody may have made a ref of another year: what was known goes on where it stood.
                        let earlier = stand[&name].get(rank + 1).filter(|_| has_mark);
                        next.extend(earlier.map(|at| (name.clone(), at.clone())));
                        refused.entry(name).or_insert(problem);
                    }
                }
            }
            open = next;
            if open.is_empty() {
                break;
            }
        }
        self.listed = listed;
        for (name, problem) in refused {
            self.distrust(&name, problem, &mut alarms);
        }
        let gone: Vec<LedgerName> = self.ledgers.keys().filter(|name| !stand.contains_key(name)).cloned().collect();
        for name in gone {
            self.is_gone(&name, &mut alarms);
        }
        Ok(alarms)
    }

    /// A mirror that was damaged and fetched anew has lost what nobody else keeps there. What an agent of an earlier life
    /// wrote into it is there.
    fn forget_what_is_not_there(&mut self) {
        for ledger in self.ledgers.values_mut() {
            ledger.head.take_if(|head| !self.mirror.contains(head.commit));
        }
        let reader = self.reader();
        for (name, ledger) in &mut self.ledgers {
            let (true, None, Some(mark)) = (name.cluster == self.keys.cluster, &ledger.head, ledger.mark) else {
                continue;
            };
            if self.mirror.contains(mark.commit) {
                ledger.head = reader.head_at(name, mark.commit, None).ok();
            }
        }
    }

    /// Fetches commits of ledgers. What is wrong with one must not keep the others away: gives what is, and the clusters
    /// whose ledgers did not come this time.
    fn bring(&self, wanted: &[(LedgerName, At)]) -> Result<Brought, Problem> {
        let (mut unreadable, mut late) = (BTreeMap::new(), BTreeMap::new());
        let mut by_cluster: BTreeMap<&str, Vec<Ref<'_>>> = BTreeMap::new();
        for (name, at) in wanted {
            by_cluster.entry(&name.cluster).or_default().push((name, (at.reference.clone(), at.commit)));
        }
        let clusters = by_cluster.len();
        for (cluster, group) in by_cluster {
            let refs: Vec<(String, CommitId)> = group.iter().map(|(_, at)| at.clone()).collect();
            // Where the mirror keeps a ref says nothing: what counts is the last record that was verified.
            let alone = match self.mirror.fetch_refs(&refs) {
                Ok(_) => continue,
                Err(problem) if problem.fault == Fault::Passing => Err(problem),
                Err(problem) if refs.len() == 1 => {
                    unreadable.insert(group[0].0.clone(), of_ledger(group[0].0, problem));
                    continue;
                }
                Err(_) => {
                    group.iter().try_for_each(|(name, at)| match self.mirror.fetch_refs(std::slice::from_ref(at)) {
                        Err(problem) if problem.fault != Fault::Passing => {
                            unreadable.insert((*name).clone(), of_ledger(name, problem));
                            Ok(())
                        }
                        result => result.map(drop),
                    })
                }
            };
            if let Err(problem) = alone {
                let message = format!("the ledgers of cluster {cluster} did not come: {}", problem.message);
                late.insert(cluster.to_owned(), Problem { message, ..problem });
            }
        }
        if late.len() == clusters
            && let Some((_, problem)) = late.pop_first()
        {
            return Err(problem);
        }
        Ok((unreadable, late))
    }

    /// Takes a commit that the server has for the last record of a ledger, if it goes on from what was verified before.
    fn adopt(&mut self, reader: &Reader, name: &LedgerName, at: &At, alarms: &mut Vec<String>) -> Result<(), Problem> {
        let commit = at.commit;
        let known = self.ledgers.get(name).cloned().unwrap_or_default();
        let is_own = name.cluster == self.keys.cluster;
        let is_in_ours = match &known.head {
            Some(head) => is_own && self.mirror.is_ancestor(commit, head.commit)?,
            None => false,
        };
        let goes_on = match known.mark {
            // What is remembered may not be here: then it is not behind the commit either.
            Some(mark) => self.mirror.is_ancestor(mark.commit, commit).unwrap_or(false),
            None => true,
        };
        if !goes_on && !is_in_ours {
            let mark = known.mark.expect("without one everything goes on");
            return Err(went_back(name, commit, mark).hint(format!(
                "put it back with git push --force <repository> {}:{}; if that ref was never there before, delete it",
                mark.commit, at.reference
            )));
        }
        if is_in_ours {
            if !goes_on {
                self.alarm(alarms, format!("ledger {name} went back to {commit} at the server: it is pushed again"));
            }
            let ledger = self.ledgers.entry(name.clone()).or_default();
            if goes_on && let Ok(stored) = reader.one(name, commit) {
                ledger.mark = Some(Mark { sequence: stored.record.sequence, commit, seen: None });
            }
            ledger.trouble = None;
            return Ok(());
        }
        // Where our own records are beside it, another replica wrote that had the lease before us: what is ours alone is
        // written anew after it.
        let head = reader.read_head(name, at, known.mark)?;
        let mark = Some(Mark { sequence: head.record.sequence, commit, seen: None });
        self.ledgers.insert(name.clone(), Ledger { head: Some(head), mark, trouble: None });
        Ok(())
    }

    /// A ledger that the server does not have, or no longer.
    fn is_gone(&mut self, name: &LedgerName, alarms: &mut Vec<String>) {
        let ledger = &self.ledgers[name];
        let Some(mark) = ledger.mark else { return };
        if !self.keys.knows(&name.cluster) {
            self.ledgers.remove(name);
        } else if name.cluster == self.keys.cluster && ledger.head.is_some() {
            self.alarm(alarms, format!("ledger {name} is gone at the server: it is pushed again"));
        } else {
            self.distrust(name, gone(name, mark), alarms);
        }
    }

    /// Holds what a status remembers of a ledger against what was read.
    pub fn remember(&mut self, name: &LedgerName, mark: Mark, alarms: &mut Vec<String>) {
        if !self.keys.knows(&name.cluster) {
            return;
        }
        let ledger = self.ledgers.entry(name.clone()).or_default();
        let head = ledger.head.as_ref().map(|head| (head.commit, head.record.sequence));
        if ledger.trouble.is_some() || ledger.mark.is_some_and(|known| known.commit == mark.commit) {
            return;
        }
        let goes_on = head.is_some_and(|(commit, sequence)| {
            sequence >= mark.sequence && self.mirror.is_ancestor(mark.commit, commit).unwrap_or(false)
        });
        if goes_on {
            return;
        }
        ledger.mark = Some(mark);
        let problem = match head {
            Some((commit, _)) => went_back(name, commit, mark).hint("put it back from a clone that has this commit"),
            None => gone(name, mark),
        };
        // It is read again, and used, once it goes on from there.
        self.distrust(name, problem, alarms);
    }
}

fn went_back(name: &LedgerName, commit: CommitId, mark: Mark) -> Problem {
    let Mark { sequence, commit: before, .. } = mark;
    Problem::setup(format!("ledger {name} was rewritten: {commit} does not come after record {sequence}, {before}"))
}

fn gone(name: &LedgerName, mark: Mark) -> Problem {
    let Mark { sequence, commit, .. } = mark;
    Problem::setup(format!("ledger {name} is gone at the server; its last record was {sequence}, {commit}"))
        .hint("put it back from a clone that has this commit")
}

fn of_ledger(name: &LedgerName, problem: Problem) -> Problem {
    Problem { message: format!("ledger {name}: {}", problem.message), ..problem }
}
