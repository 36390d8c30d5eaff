//! What must hold inside, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roomring_control::placement::Placement;
use roomring_node::entry::Entry;
use roomring_node::slot::Slot;
use roomring_proto::{Generation, Incarnation, Lsn, Seat, SlotId, Term};

use super::SLOTS;
use super::node::Node;

#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Every entry that some replica took for committed.
    committed: BTreeMap<(SlotId, Generation, Lsn), Entry>,
    /// The highest of them.
    top: BTreeMap<(SlotId, Generation), Lsn>,
    /// How far each seat's log was compared. A seat given anew begins empty.
    compared: BTreeMap<(Seat, SlotId), (Generation, Lsn)>,
    primaries: BTreeMap<(SlotId, Term), Incarnation>,
    /// Placements looked at.
    placements: usize,
    gone: BTreeSet<(SlotId, Seat)>,
    /// Slots whose committed entries grew since all seats were looked at.
    grown: BTreeSet<SlotId>,
}

impl Checks {
    /// After a step of one node.
    pub(super) fn node(&mut self, node: &Node) -> Result<(), String> {
        let (Some(shard), Some(me)) = (&node.shard, node.me) else { return Ok(()) };
        for slot in (0..SLOTS).map(SlotId) {
            if let Some(inside) = shard.slot(slot) {
                self.replica(node.name.as_str(), me, slot, inside)?;
            }
        }
        Ok(())
    }

    fn replica(&mut self, name: &str, me: Incarnation, slot: SlotId, inside: &Slot) -> Result<(), String> {
        let Some(held) = inside.held() else { return Ok(()) };
        let serves = inside.led().filter(|led| led.is_promoted()).map(|led| led.term());
        if let Some(term) = serves {
            let primary = *self.primaries.entry((slot, term)).or_insert(me);
            if primary != me {
                return Err(format!("OnePrimaryPerTerm: {slot} has {primary} and {me} ({name}) in {term}"));
            }
        }
        let from = match self.compared.get(&(held.seat(), slot)) {
            Some((generation, lsn)) if *generation == held.generation() => *lsn,
            _ => Lsn(0),
        };
        if held.commit() < from {
            return Err(format!(
                "CommittedNeverTruncated: {name} went from commit {from} to {} in {slot}",
                held.commit()
            ));
        }
        for lsn in (from.0 + 1..=held.commit().0).map(Lsn) {
            let Some(entry) = held.entry(lsn) else { continue };
            let known = self.committed.entry((slot, held.generation(), lsn)).or_insert_with(|| entry.clone());
            if known != entry {
                return Err(format!("SameTermSameLog: {name} has {entry:?} in {slot}, where {known:?} is committed"));
            }
        }
        self.compared.insert((held.seat(), slot), (held.generation(), held.commit()));
        let top = self.top.entry((slot, held.generation())).or_insert(Lsn(0));
        if held.commit() > *top {
            *top = held.commit();
            self.grown.insert(slot);
        }
        Ok(())
    }

    /// After a step of anything: every in-sync seat of etcd's placement holds what is committed.
    pub(super) fn cluster(&mut self, nodes: &[Node], written: &[Arc<Placement>]) -> Result<(), String> {
        let fresh = written.len() > self.placements;
        while let Some(placement) = written.get(self.placements) {
            let before = self.placements.checked_sub(1).and_then(|i| written.get(i));
            self.placements += 1;
            self.placement(before.map(Arc::as_ref), placement)?;
        }
        let Some(latest) = written.last() else { return Ok(()) };
        if fresh {
            self.grown.extend((0..SLOTS).map(SlotId));
        }
        for slot in std::mem::take(&mut self.grown) {
            let Some(record) = latest.slot(slot) else { continue };
            let top = self.top.get(&(slot, record.generation)).copied().unwrap_or(Lsn(0));
            for seat in &record.in_sync {
                // What a dead process held is gone, and it counts no more.
                let Some(node) = nodes.iter().find(|n| n.up && n.me == Some(seat.incarnation)) else { continue };
                let held = node.shard.as_ref().and_then(|s| s.slot(slot)).and_then(Slot::held);
                let last = held.filter(|h| h.seat() == *seat && h.generation() == record.generation).map(|h| h.last());
                if top > Lsn(0) && last.is_none_or(|last| last < top) {
                    let (name, version) = (&node.name, node.version());
                    let sees = node.placement().map(|p| node.seat_in(p, slot));
                    return Err(format!(
                        "InSyncHoldsCommitted: {name} is in sync in {slot} ({}) and holds up to {last:?} of {top} (its view: {version}, seat {sees:?})",
                        latest.version
                    ));
                }
                if let (Some(held), Some(known)) = (held, self.committed.get(&(slot, record.generation, top)))
                    && held.entry(top).is_some_and(|entry| entry != known)
                {
                    return Err(format!("InSyncHoldsCommitted: {} holds another entry at {top} of {slot}", node.name));
                }
            }
        }
        Ok(())
    }

    fn placement(&mut self, before: Option<&Placement>, after: &Placement) -> Result<(), String> {
        after.check().map_err(|e| format!("a placement that is none: {e:?}"))?;
        for (number, record) in (0..).zip(&after.slots) {
            let slot = SlotId(number);
            if let Some(seat) = record.seats().find(|seat| self.gone.contains(&(slot, *seat))) {
                return Err(format!("SeatNeverReused: {seat:?} in {slot}"));
            }
            let Some(old) = before.and_then(|b| b.slot(slot)) else { continue };
            if record.term < old.term || record.generation < old.generation {
                return Err(format!("terms and generations never fall: {slot} went from {old:?} to {record:?}"));
            }
            self.gone.extend(old.seats().filter(|s| !record.seats().any(|n| n == *s)).map(|s| (slot, s)));
        }
        Ok(())
    }

    /// Entries that were committed.
    pub(super) fn entries(&self) -> usize {
        self.committed.len()
    }
}
