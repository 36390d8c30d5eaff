//! A slot seen from outside, for the checks in `tests/` and for operators: what it holds and believes. Nothing here is used to run a slot, and
//! nothing here changes what it does.

use std::collections::{BTreeMap, BTreeSet};

use roomring_control::clock::Time;
use roomring_control::placement::SlotRecord;
use roomring_proto::{Generation, Lsn, Seat, Term, Version};

use super::tail::Tail;
use super::{Leader, Replica, Retention, Slot};
use crate::entry::Entry;
use crate::room::Rooms;

/// What a seat holds.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a>(&'a Replica);

/// What a primary believes.
#[derive(Debug, Clone, Copy)]
pub struct Led<'a> {
    leader: &'a Leader,
    record: &'a SlotRecord,
}

impl Slot {
    /// The placement it follows.
    pub fn view(&self) -> Option<(Version, &SlotRecord)> {
        self.view.as_ref().map(|(version, record)| (*version, record))
    }

    /// Highest term it knows of.
    pub fn seen_term(&self) -> Term {
        self.seen_term
    }

    /// The seat it holds.
    pub fn held(&self) -> Option<Held<'_>> {
        self.replica.as_ref().map(Held)
    }

    /// Its part as primary, promoted or not.
    pub fn led(&self) -> Option<Led<'_>> {
        let (leader, (_, record)) = (self.leader.as_ref()?, self.view.as_ref()?);
        Some(Led { leader, record })
    }

    /// Whether what the primary remembers of uncommitted publishes is what those entries say.
    pub fn tail_equals_log(&self) -> bool {
        let (Some(leader), Some(replica)) = (&self.leader, &self.replica) else { return true };
        let mut tail = Tail::default();
        for (entry, _) in replica.log.after(replica.commit.max(leader.tail_end)) {
            tail.push(entry, replica);
        }
        tail.remembers_as(&leader.tail)
    }

    /// Drops old entries as a commit does. A check that has to see what is committed before it is dropped has the slot itself
    /// keep everything, and calls this after each input.
    pub fn trim(&mut self, retention: Retention) {
        if let Some(replica) = &mut self.replica {
            replica.log.trim(retention, replica.commit);
        }
    }

    /// Makes every pending deadline `due`, and forgets when ages and answers are looked at next: states that differ only in how long
    /// something waits become equal.
    pub fn blur(&mut self, due: Time) {
        let Some(leader) = &mut self.leader else { return };
        leader.age_at = None;
        leader.watch_at = None;
        let once = [&mut leader.ready_at, &mut leader.commit_notice_at, &mut leader.fence_at];
        for at in once.into_iter().flatten().chain(leader.gone.values_mut()) {
            *at = due;
        }
        for progress in leader.progress.values_mut() {
            progress.blur(due);
        }
    }
}

impl<'a> Held<'a> {
    /// Which seat.
    pub fn seat(self) -> Seat {
        self.0.seat
    }

    /// The generation of its data.
    pub fn generation(self) -> Generation {
        self.0.generation
    }

    /// It began with the generation, or installed a snapshot.
    pub fn is_filled(self) -> bool {
        self.0.filled
    }

    /// Applied up to here.
    pub fn commit(self) -> Lsn {
        self.0.commit
    }

    /// The newest entry.
    pub fn last(self) -> Lsn {
        self.0.log.last()
    }

    /// The entry before the first kept one.
    pub fn base(self) -> Lsn {
        self.0.log.base()
    }

    /// The entry at `lsn`, if it is kept.
    pub fn entry(self, lsn: Lsn) -> Option<&'a Entry> {
        self.0.log.get(lsn)
    }

    /// Kept entries in their order.
    pub fn entries(self) -> impl Iterator<Item = &'a Entry> {
        self.0.log.after(self.0.log.base()).map(|(entry, _)| entry)
    }

    /// The rooms as of [`Self::commit`].
    pub fn rooms(self) -> &'a Rooms {
        &self.0.rooms
    }
}

impl Led<'_> {
    /// Its term.
    pub fn term(self) -> Term {
        self.leader.term()
    }

    /// The end of the tail that it found.
    pub fn tail_end(self) -> Lsn {
        self.leader.tail_end
    }

    /// Whether it serves.
    pub fn is_promoted(self) -> bool {
        self.leader.is_promoted()
    }

    /// Whether a committed publish is not acknowledged yet, since too few seats are in sync.
    pub fn withholds(self) -> bool {
        !self.leader.withheld.is_empty()
    }

    /// The seats without whose acknowledgement nothing commits, its own left out.
    pub fn waits_for(self) -> BTreeSet<Seat> {
        let in_sync = self.record.in_sync.iter().copied().filter(|s| *s != self.record.primary);
        in_sync.chain(self.leader.proposed.keys().copied()).collect()
    }

    /// Up to where each seat acknowledged in this term.
    pub fn matched(self) -> BTreeMap<Seat, Lsn> {
        self.leader.progress.iter().filter_map(|(seat, progress)| Some((*seat, progress.matched()?))).collect()
    }
}
