//! What each slot needs to come to where the ring wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomring_proto::{Incarnation, Seat, SlotId};

use super::{History, Plan, recreate_after};
use crate::clock::Time;
use crate::placement::{Change, SlotRecord};

/// Most seats that a process receives, and most that one sends, at a time, for slots that lack a copy: a few tens of
/// milliseconds' worth. Each write that ends some of them begins the next ones.
pub(super) const CATCH_UPS: usize = 16;

/// The same for slots that have their copies and only move. Nobody waits for them, and each copy takes milliseconds of its workers'
/// time, which the rooms of the same workers feel: as many times as nodes take part at once.
pub(super) const MOVES: usize = 4;

/// Copies of such slots begin and end no sooner than this after the last write: a write costs every process as much as several
/// copies do, so those that are there go into one.
pub(super) const MOVE_EVERY: Duration = Duration::from_millis(20);

/// After an eviction no copies are begun for so long: first the rooms that lost their primary take publishes again, with every
/// core's help. A slot that may take none without another copy does not wait.
const ROOMS_FIRST: Duration = Duration::from_millis(500);

/// Most slots that change their primary by plan in one write, and time until the next ones may, where the primary is about to
/// leave: each is promoted and attached anew, which takes a millisecond or two of somebody's time, and what happens at once waits
/// for each other. A node's share of a common cluster is through in less than a second.
pub(super) const SWITCHES: usize = 8;
pub(super) const SWITCH_EVERY: Duration = Duration::from_millis(12);

/// The same where the primary stays and another one is only wanted more: nobody waits for that.
pub(super) const CALM_SWITCHES: usize = 5;
const CALM_SWITCH_EVERY: Duration = Duration::from_millis(25);

/// The rooms of slots that switched are served again long before this, unless something is wrong: copies wait for so long.
pub(super) const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// Running catch-ups by process.
#[derive(Default)]
struct CatchUps {
    receiving: BTreeMap<Incarnation, usize>,
    sending: BTreeMap<Incarnation, usize>,
}

impl CatchUps {
    fn fits(&self, from: Incarnation, to: Incarnation, most: usize) -> bool {
        let below = |running: &BTreeMap<_, _>, i| running.get(&i).is_none_or(|n| *n < most);
        below(&self.sending, from) && below(&self.receiving, to)
    }

    fn add(&mut self, from: Incarnation, to: Incarnation) {
        *self.sending.entry(from).or_default() += 1;
        *self.receiving.entry(to).or_default() += 1;
    }
}

impl Plan<'_> {
    /// Brings every slot one step nearer to the ring's wish.
    pub(super) fn place(&mut self) {
        let wish = self.wish();
        let numbers = || (0..).map(SlotId).zip(wish.iter());
        for (slot, wanted) in numbers() {
            self.recreate_if_lost(slot, wanted);
        }
        // What ends catch-ups comes before what begins them.
        for (slot, wanted) in numbers().filter(|(_, wanted)| !wanted.is_empty()) {
            self.take_in_ready(slot, wanted);
        }
        let copying = self.copying(&wish);
        let mut switches = if self.switched_within(SWITCH_EVERY) { 0 } else { SWITCHES };
        let mut calm = if self.switched_within(CALM_SWITCH_EVERY) { 0 } else { CALM_SWITCHES };
        let mut switching = self.switched_within(SETTLED_AFTER);
        for (slot, wanted) in numbers().filter(|(_, wanted)| !wanted.is_empty()) {
            if let Some((from, to, hurry)) = self.successor(slot, wanted) {
                if !hurry && (copying.contains(&from) || copying.contains(&to.incarnation)) {
                    // The rooms would feel the copies. Its own is there, so it waits for the others'.
                } else if switches == 0 || (!hurry && calm == 0) {
                    switching = true;
                } else if self.push(Change::Switch { slot, to }) {
                    switching = true;
                    switches -= 1;
                    calm = calm.saturating_sub(1);
                }
            }
            self.remove_unwanted(slot, wanted);
        }
        // Copies compete with the rooms that pause. They wait for no one but this plan, so not for long.
        self.rooms_first |= switching;
        let mut running = self.catch_ups();
        // Slots that lack a copy come before those that only move.
        let moves = if self.moves_wait() { 0 } else { MOVES };
        for (lacking, most) in [(true, CATCH_UPS), (false, moves)] {
            for (slot, wanted) in numbers().filter(|(_, wanted)| !wanted.is_empty()) {
                if self.lacks_a_copy(slot, wanted) == lacking {
                    self.add_learners(slot, wanted, &mut running, most);
                }
            }
        }
    }

    /// A slot whose in-sync processes are all out of the way for long enough starts empty on the best live node.
    fn recreate_if_lost(&mut self, slot: SlotId, wanted: &[Incarnation]) {
        let s = self.situation;
        let (Some(base), Some(record)) = (self.base.slot(slot), self.draft.placement().slot(slot)) else { return };
        if (base.term, &base.in_sync) != (record.term, &record.in_sync) {
            return; // It changes in this very write.
        }
        let wait = recreate_after(self.base.settings.fence_after);
        let unchanged = s.history.unchanged_since(slot).is_some_and(|since| s.now.since(since) >= wait);
        let lost =
            |seat: &Seat| self.processes.lost_at(self.base, s.history, seat.incarnation).is_some_and(|at| at <= s.now);
        if unchanged && record.in_sync.iter().all(lost) {
            let term = record.term;
            if let Some(on) = wanted.iter().copied().find(|i| self.processes.is_live(*i)) {
                self.push(Change::Recreate { slot, term, on });
            }
        }
    }

    fn take_in_ready(&mut self, slot: SlotId, wanted: &[Incarnation]) {
        if self.moves_wait() && !self.lacks_a_copy(slot, wanted) {
            return;
        }
        let Some(record) = self.draft.placement().slot(slot) else { return };
        let ready = record.learners.iter().copied().filter(|seat| {
            let said = |r: &&super::ReadySeat| (r.seat, r.term, r.base) == (*seat, record.term, self.base.version);
            wanted.contains(&seat.incarnation)
                && self.processes.is_live(seat.incarnation)
                && self.said_of(slot).any(|r| said(&r))
        });
        let term = record.term;
        for seat in ready.collect::<Vec<_>>() {
            self.push(Change::IntoSync { slot, seat, term });
        }
    }

    fn said_of(&self, slot: SlotId) -> impl Iterator<Item = &super::ReadySeat> {
        let from = super::ReadySeat { slot, seat: FIRST_SEAT, term: Default::default(), base: Default::default() };
        self.situation.ready.range(from..).take_while(move |r| r.slot == slot)
    }

    fn moves_wait(&self) -> bool {
        moves_wait_until(self.situation.history).is_some_and(|until| self.situation.now < until)
    }

    fn switched_within(&self, time: Duration) -> bool {
        let s = self.situation;
        s.history.switched_at().is_some_and(|at| s.now.since(at) < time)
    }

    /// The ring's first choice becomes primary as soon as it is in sync, but not right after the last change. While it can't serve
    /// it does not; instead of a primary that leaves, has lost etcd, or was evicted with the last copy and now is not alone any
    /// more, another one serves, and at once.
    /// With who is primary now, and whether that one should not be any longer.
    fn successor(&self, slot: SlotId, wanted: &[Incarnation]) -> Option<(Incarnation, Seat, bool)> {
        let (evidence, intents) = (self.situation.evidence, &self.situation.view.intents);
        let placement = self.draft.placement();
        let record = placement.slot(slot)?;
        let leaves = |i: Incarnation| self.processes.is_leaving(placement, intents, i);
        let in_contact = |i: Incarnation| !evidence.cut_off.contains(&i) && !evidence.contactless.contains(&i);
        let fit = |i: Incarnation| self.is_sound(i) && self.is_member(i) && in_contact(i) && !leaves(i);
        let seat = |i: &Incarnation| record.in_sync.iter().find(|s| s.incarnation == *i && fit(*i)).copied();
        let primary = record.primary.incarnation;
        let replace = evidence.cut_off.contains(&primary) || !self.is_member(primary) || leaves(primary);
        let stand_in =
            || wanted.iter().find_map(seat).or_else(|| record.in_sync.iter().copied().find(|s| fit(s.incarnation)));
        let settled = self.situation.history.settles_at(slot).is_none_or(|at| at <= self.situation.now);
        let first = wanted.first().filter(|_| settled || replace).and_then(seat);
        let to = first.or_else(|| replace.then(stand_in).flatten());
        to.filter(|to| *to != record.primary).map(|to| (primary, to, replace))
    }

    /// Learners that the ring does not want go at once, in-sync seats when all that it wants are in sync, those of evicted
    /// processes as soon as another one is there, and those that the primary does not reach as soon as enough are left for
    /// publishes to be taken. What may be dead is not there: an in-sync seat that goes may hold the last living copy. That a
    /// process died a moment ago nobody else knows yet, so where a single copy is to stay its own process says so.
    fn remove_unwanted(&mut self, slot: SlotId, wanted: &[Incarnation]) {
        let Some(record) = self.draft.placement().slot(slot) else { return };
        let unwanted = |s: &Seat| !wanted.contains(&s.incarnation) && *s != record.primary;
        let primary = record.primary.incarnation;
        let all = wanted.iter().all(|i| self.is_sound(*i) && record.in_sync.iter().any(|s| s.incarnation == *i));
        let stay = record.in_sync.iter().filter(|s| !unwanted(s)).count();
        let enough = all && (stay > 1 || primary == self.situation.me);
        let alone = !self.is_member(primary) || !self.is_sound(primary);
        let placement = self.draft.placement();
        let apart = |s: &&Seat| !alone && placement.apart.contains(&(primary, s.incarnation));
        let reached = record.in_sync.iter().filter(|s| self.is_sound(s.incarnation) && !apart(s)).count();
        let suffices = reached >= placement.settings.min_in_sync as usize;
        let in_sync = record
            .in_sync
            .iter()
            .filter(|s| enough || (!alone && !self.is_member(s.incarnation)) || (suffices && apart(s)));
        let remove: Vec<Seat> = in_sync.chain(&record.learners).copied().filter(unwanted).collect();
        for seat in remove {
            self.push(Change::RemoveSeat { slot, seat });
        }
    }

    fn is_member(&self, incarnation: Incarnation) -> bool {
        self.draft.placement().members.get(&incarnation).is_some_and(|m| m.active)
    }

    /// Nothing says that it is dead: what it holds counts as a copy.
    fn is_sound(&self, incarnation: Incarnation) -> bool {
        let evidence = self.situation.evidence;
        let doubted = evidence.suspects.contains(&incarnation) || evidence.dead.contains_key(&incarnation);
        self.processes.is_live(incarnation) && !doubted
    }

    fn lacks_a_copy(&self, slot: SlotId, wanted: &[Incarnation]) -> bool {
        self.draft.placement().slot(slot).is_some_and(|record| record.in_sync.len() < wanted.len())
    }

    fn add_learners(&mut self, slot: SlotId, wanted: &[Incarnation], running: &mut CatchUps, most: usize) {
        let placement = self.draft.placement();
        let Some(record) = placement.slot(slot) else { return };
        if self.rooms_first && record.in_sync.len() >= placement.settings.min_in_sync as usize {
            return;
        }
        let from = record.primary.incarnation;
        if !self.processes.is_live(from) {
            return; // Nobody to catch up from.
        }
        let missing: Vec<Incarnation> = wanted.iter().copied().filter(|i| record.seat_of(*i).is_none()).collect();
        for to in missing {
            let start = self.processes.is_live(to) && running.fits(from, to, most);
            if start && self.push(Change::AddLearner { slot, incarnation: to }) {
                running.add(from, to);
            }
        }
    }

    /// Processes that copies are made from or to, now or before long.
    fn copying(&self, wish: &[Vec<Incarnation>]) -> BTreeSet<Incarnation> {
        let live = |i: &Incarnation| self.processes.is_live(*i);
        let mut busy = BTreeSet::new();
        for (record, wanted) in self.draft.placement().slots.iter().zip(wish) {
            let from = record.primary.incarnation;
            let learners = record.learners.iter().map(|s| s.incarnation);
            let missing = wanted.iter().copied().filter(|i| record.seat_of(*i).is_none());
            let to: Vec<Incarnation> = learners.chain(missing).filter(live).collect();
            if !to.is_empty() && live(&from) {
                busy.insert(from);
                busy.extend(to);
            }
        }
        busy
    }

    /// Catch-ups that can run: from a primary that is there.
    fn catch_ups(&self) -> CatchUps {
        let mut running = CatchUps::default();
        let live = |record: &&SlotRecord| self.processes.is_live(record.primary.incarnation);
        for record in self.draft.placement().slots.iter().filter(live) {
            for learner in &record.learners {
                running.add(record.primary.incarnation, learner.incarnation);
            }
        }
        running
    }
}

/// Until when copies wait for the rooms of a process that was evicted; `None` if none was.
pub(super) fn copies_wait_until(history: &History) -> Option<Time> {
    history.last_eviction().map(|at| at + ROOMS_FIRST)
}

/// Until when copies of slots that only move wait for others of the kind.
pub(super) fn moves_wait_until(history: &History) -> Option<Time> {
    history.written_at().map(|at| at + MOVE_EVERY)
}

/// When more slots may switch, and when copies may begin, after some have switched.
pub(super) fn switched_for(history: &History) -> impl Iterator<Item = Time> {
    let at = history.switched_at();
    [SWITCH_EVERY, CALM_SWITCH_EVERY, SETTLED_AFTER].into_iter().filter_map(move |wait| at.map(|at| at + wait))
}

/// Before every seat in their order.
const FIRST_SEAT: Seat = Seat { incarnation: Incarnation(0), since: roomring_proto::Version(0) };
