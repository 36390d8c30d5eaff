//! What every seat does: hold the log, follow the primary, apply up to the commit point.

use roomring_proto::{Generation, Lsn, Seat, Term, v1};

use super::log::{Log, Shown};
use super::{Config, Rule};
use crate::entry::Entry;
use crate::room::{Applied, Rooms};

/// A seat's data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Replica {
    pub(super) seat: Seat,
    pub(super) generation: Generation,
    /// Has the slot's state: it began with the generation or installed a snapshot.
    pub(super) filled: bool,
    pub(super) log: Log,
    /// The rooms as of `commit`.
    pub(super) rooms: Rooms,
    pub(super) commit: Lsn,
    /// The last term in which this log was made a prefix of its primary's.
    pub(super) synced_term: Term,
    installing: Option<Installing>,
}

/// Parts of a snapshot received so far.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Installing {
    term: Term,
    lsn: Lsn,
    parts: Vec<v1::SlotState>,
}

impl Replica {
    pub(super) fn new(config: &Config, seat: Seat, generation: Generation, filled: bool) -> Self {
        Self {
            seat,
            generation,
            filled,
            log: Log::default(),
            rooms: Rooms::new(config.uid, generation, config.limits.clone()),
            commit: Lsn(0),
            synced_term: Term(0),
            installing: None,
        }
    }

    /// Takes a message of the primary of `term`, the highest term seen. Returns the answer.
    pub(super) fn follow(&mut self, config: &Config, term: Term, kind: v1::replication::Kind) -> v1::replication::Kind {
        use v1::replication::Kind;
        match kind {
            Kind::Probe(_) => Kind::ProbeReply(v1::ProbeReply {
                filled: self.filled,
                commit: self.commit.0,
                runs: self.log.runs(self.commit),
                last: self.log.last().0,
            }),
            Kind::Append(append) => self.append(config, term, append),
            Kind::Snapshot(part) => self.snapshot(config, term, part),
            _ => probe_me(),
        }
    }

    fn append(&mut self, config: &Config, term: Term, append: v1::Append) -> v1::replication::Kind {
        let prev = Lsn(append.prev_lsn);
        if !self.filled || (self.synced_term != term && !append.truncate) {
            return probe_me();
        }
        // Entries older than the log's base are applied here; the primary's are the same.
        if prev >= self.log.base() && self.log.term_at(prev) != Some(Term(append.prev_term)) {
            return probe_me();
        }
        if self.synced_term != term {
            if prev < self.commit {
                return probe_me();
            }
            if config.rules.keep(Rule::DropsWhatPrimaryLacks) {
                self.log.truncate_after(prev);
            }
            self.synced_term = term;
        } else if !config.rules.keep(Rule::TruncatesOnceATerm) {
            self.log.truncate_after(prev);
        }
        for entry in append.entries {
            let held = |room: &str| self.rooms.name(room).cloned();
            let Ok(entry) = Entry::read(entry, held) else { return probe_me() };
            if entry.lsn <= self.log.last() {
                if entry.lsn > self.log.base() && self.log.term_at(entry.lsn) != Some(entry.term) {
                    return probe_me();
                }
            } else if entry.lsn == self.log.last().next() {
                self.log.push(entry);
            } else {
                return probe_me();
            }
        }
        // In a synced term the whole log is the primary's, so its commit point holds for all of it.
        let commit = if config.rules.keep(Rule::AppliesCommittedOnly) { Lsn(append.commit) } else { self.log.last() };
        self.apply_to(commit.min(self.log.last()), |_, _| {}, |_, _| {});
        self.log.trim(config.retention, self.commit);
        v1::replication::Kind::AppendAck(v1::AppendAck { lsn: self.log.last().0 })
    }

    fn snapshot(&mut self, config: &Config, term: Term, part: v1::Snapshot) -> v1::replication::Kind {
        let ack = v1::replication::Kind::SnapshotAck(v1::SnapshotAck { lsn: part.lsn, part: part.part });
        let lsn = Lsn(part.lsn);
        if self.filled && self.synced_term == term && self.log.last() >= lsn {
            // A late copy of one that is installed.
            return ack;
        }
        if part.part == 0 {
            self.installing = Some(Installing { term, lsn, parts: Vec::new() });
        }
        let Some(installing) =
            self.installing.as_mut().filter(|i| i.term == term && i.lsn == lsn && i.parts.len() == part.part as usize)
        else {
            return probe_me();
        };
        installing.parts.extend(part.state);
        if !part.last {
            return ack;
        }
        let parts = self.installing.take().map(|i| i.parts).unwrap_or_default();
        match Rooms::install(config.uid, self.generation, config.limits.clone(), parts.into_iter()) {
            Ok(rooms) => {
                self.rooms = rooms;
                self.log = Log::starting_after(lsn, Term(part.lsn_term));
                self.commit = lsn;
                self.filled = true;
                self.synced_term = term;
                ack
            }
            Err(_) => probe_me(),
        }
    }

    /// Applies entries up to `lsn`: `before` looks at each before it is, and `each` is told what members see of it.
    pub(super) fn apply_to(
        &mut self,
        lsn: Lsn,
        mut before: impl FnMut(&Rooms, &Entry),
        mut each: impl FnMut(&Entry, Option<Applied>),
    ) {
        while self.commit < lsn {
            let next = self.commit.next();
            let Some(entry) = self.log.get(next) else { return };
            before(&self.rooms, entry);
            let applied = self.rooms.apply(entry);
            let shown = match applied.as_ref().and_then(|a| a.event.kind.as_ref()) {
                None => Shown::No,
                Some(v1::event::Kind::Publication(_)) => Shown::Publication,
                Some(_) => applied.as_ref().map_or(Shown::No, |a| Shown::Presence(Box::new(a.event.clone()))),
            };
            each(entry, applied);
            self.log.set_shown(next, shown);
            self.commit = next;
        }
    }
}

fn probe_me() -> v1::replication::Kind {
    super::refused(v1::refused::Reason::ProbeMe, Term(0))
}
