//! What a write of the placement changed, for the log and for the record that the placement keeps of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomring_proto::{Incarnation, NodeId, SlotId, Version};

use crate::placement::{Change, Eviction, Placement, Recent};

/// Most slots, and most nodes, that are named; more are counted.
const NAMED: usize = 8;

/// Who writes which version when.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) version: Version,
    /// Unix time, ms.
    pub(super) time_ms: u64,
    pub(super) by: NodeId,
}

impl Written {
    fn record(self, text: String) -> Recent {
        Recent {
            version: self.version,
            time_ms: self.time_ms,
            by: self.by,
            text,
            evictions: Vec::new(),
            nodes: Vec::new(),
            slots: Vec::new(),
            slots_changed: 0,
            copying: None,
        }
    }

    /// How long the slowest of the copies took that are in sync now, as far as their beginning is still on record.
    fn copying(&self, base: &Placement, changes: &[Change]) -> Option<Duration> {
        let since = changes.iter().filter_map(|c| match c {
            Change::IntoSync { seat, .. } => Some(seat.since),
            _ => None,
        });
        let began =
            since.filter_map(|since| base.recent.iter().find(|r| r.version == since)).map(|r| r.time_ms).min()?;
        Some(Duration::from_millis(self.time_ms.saturating_sub(began)))
    }
}

/// Processes that come or go, and slots that are lost, by name; what happens to few slots by slot, to many by number.
pub(super) fn of_changes(base: &Placement, changes: &[Change], evictions: Vec<Eviction>, written: Written) -> Recent {
    let node = |i: &Incarnation| name(base, changes, *i);
    let mut parts = Vec::new();
    let mut by_kind = BTreeMap::<&str, Vec<(SlotId, String)>>::new();
    let mut recreated = Vec::new();
    let mut nodes = BTreeSet::new();
    for change in changes {
        let (kind, slot, text, who) = match change {
            Change::Join { incarnation, member } => {
                parts.push(format!("join {} ({incarnation})", member.node));
                nodes.insert(member.node.to_string());
                continue;
            }
            Change::Update { member, .. } => {
                parts.push(format!("update {}", member.node));
                nodes.insert(member.node.to_string());
                continue;
            }
            Change::Evict { incarnation } => {
                let cause = evictions.iter().find(|e| e.incarnation == *incarnation);
                let cause = cause.map(|e| format!(" ({})", e.cause)).unwrap_or_default();
                parts.push(format!("evict {}{cause}", node(incarnation)));
                nodes.insert(node(incarnation));
                continue;
            }
            Change::Forget { incarnation } => {
                parts.push(format!("forget {} ({incarnation})", node(incarnation)));
                nodes.insert(node(incarnation));
                continue;
            }
            Change::Part { by, other } => {
                parts.push(format!("{} does not reach {}", node(by), node(other)));
                nodes.extend([node(by), node(other)]);
                continue;
            }
            Change::Mend { by, other } => {
                parts.push(format!("{} hears {} again", node(by), node(other)));
                nodes.extend([node(by), node(other)]);
                continue;
            }
            Change::Recreate { slot, on, .. } => {
                recreated.push(*slot);
                ("recreate", slot, format!("recreate {slot} on {}", node(on)), on)
            }
            Change::AddLearner { slot, incarnation } => {
                ("add learner", slot, format!("copy {slot} to {}", node(incarnation)), incarnation)
            }
            Change::IntoSync { slot, seat, .. } => {
                ("into sync", slot, format!("{slot} in sync on {}", node(&seat.incarnation)), &seat.incarnation)
            }
            Change::Switch { slot, to } => {
                ("switch primary", slot, format!("switch {slot} to {}", node(&to.incarnation)), &to.incarnation)
            }
            Change::RemoveSeat { slot, seat } => {
                ("remove seat", slot, format!("remove {slot} from {}", node(&seat.incarnation)), &seat.incarnation)
            }
        };
        nodes.insert(node(who));
        by_kind.entry(kind).or_default().push((*slot, text));
    }
    let lost = recreated.iter().filter_map(|s| base.slot(*s)).flat_map(|s| &s.in_sync);
    let lost: BTreeSet<String> = lost.map(|seat| node(&seat.incarnation)).collect();
    for (kind, changed) in &by_kind {
        let mut text = match changed.len() {
            0..=NAMED => changed.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", "),
            n => format!("{kind} x{n}"),
        };
        if *kind == "recreate" {
            text += &format!(" (lost with {})", lost.iter().cloned().collect::<Vec<_>>().join(", "));
        }
        parts.push(text);
    }
    let slots = changed_slots(base, changes);
    let copying = written.copying(base, changes);
    let named = |n: usize| n <= NAMED;
    nodes.extend(lost);
    let nodes = nodes.iter().filter_map(|n| NodeId::new(n).ok()).collect::<Vec<_>>();
    Recent {
        evictions,
        nodes: if named(nodes.len()) { nodes } else { Vec::new() },
        slots_changed: u32::try_from(slots.len()).unwrap_or(u32::MAX),
        slots: if named(slots.len()) { slots.into_iter().collect() } else { Vec::new() },
        copying,
        ..written.record(parts.join(", "))
    }
}

/// For the first placement of a history.
pub(super) fn of_formation(placement: &Placement, regressed: bool, written: Written) -> Recent {
    let nodes: Vec<_> = placement.members.values().map(|m| m.node.as_str()).collect();
    let slots = placement.slots.len();
    written.record(match regressed {
        false => format!("form the cluster: {slots} slots on {}", nodes.join(", ")),
        true => format!(
            "etcd lost data: begin a new history (uid {}), {slots} empty slots on {}",
            placement.uid,
            nodes.join(", ")
        ),
    })
}

/// Slots named by a change, and those that lose a seat by an eviction.
fn changed_slots(base: &Placement, changes: &[Change]) -> BTreeSet<SlotId> {
    let of = |change: &Change| -> Vec<SlotId> {
        match change {
            Change::AddLearner { slot, .. }
            | Change::IntoSync { slot, .. }
            | Change::Switch { slot, .. }
            | Change::RemoveSeat { slot, .. }
            | Change::Recreate { slot, .. } => vec![*slot],
            Change::Evict { incarnation } => {
                let seated = (0..).map(SlotId).zip(&base.slots).filter(|(_, s)| s.seat_of(*incarnation).is_some());
                seated.map(|(slot, _)| slot).collect()
            }
            Change::Join { .. }
            | Change::Update { .. }
            | Change::Forget { .. }
            | Change::Part { .. }
            | Change::Mend { .. } => Vec::new(),
        }
    };
    changes.iter().flat_map(of).collect()
}

/// A node's name; of one that joins in this very write too.
fn name(base: &Placement, changes: &[Change], incarnation: Incarnation) -> String {
    let joining = changes.iter().find_map(|c| match c {
        Change::Join { incarnation: i, member } if *i == incarnation => Some(member),
        _ => None,
    });
    base.members.get(&incarnation).or(joining).map_or_else(|| incarnation.to_string(), |m| m.node.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Cause;
    use crate::placement::fixtures::placement;

    fn written() -> Written {
        Written { version: Version(2), time_ms: 7, by: NodeId::new("node-2").unwrap() }
    }

    fn account(base: &Placement, changes: &[Change]) -> Recent {
        let eviction = Eviction {
            node: NodeId::new("node-1").unwrap(),
            incarnation: Incarnation(1),
            cause: Cause::Refused,
            silent_for: Some(Duration::from_millis(30)),
        };
        of_changes(base, changes, vec![eviction], written())
    }

    #[test]
    fn few_slots_are_named_and_many_counted() {
        let base = placement(64, 2, &[1, 2, 3]);
        let switch = |slot: u32| Change::Switch { slot: SlotId(slot), to: base.slots[slot as usize].in_sync[1] };
        let few = account(&base, &[switch(17), switch(20)]);
        assert_eq!(few.text, "switch s17 to node-1, switch s20 to node-1");
        assert_eq!((few.slots, few.slots_changed), (vec![SlotId(17), SlotId(20)], 2));
        assert_eq!(few.nodes, [NodeId::new("node-1").unwrap()]);
        let many = account(&base, &(0..20).map(switch).collect::<Vec<_>>());
        assert_eq!(many.text, "switch primary x20");
        assert_eq!((many.slots, many.slots_changed), (vec![], 20));
    }

    #[test]
    fn an_eviction_is_told_with_its_cause_and_counts_the_slots_that_it_touches() {
        let base = placement(6, 2, &[1, 2, 3]);
        let told = account(&base, &[Change::Evict { incarnation: Incarnation(1) }]);
        assert_eq!(told.text, "evict node-1 (connection refused)");
        assert_eq!(told.slots.iter().map(|s| s.0).collect::<Vec<_>>(), [0, 2, 3, 5]);
        assert_eq!((told.evictions.len(), told.by.as_str(), told.version), (1, "node-2", Version(2)));
    }

    #[test]
    fn a_copy_that_is_in_sync_is_told_with_how_long_it_took() {
        let mut base = placement(4, 1, &[1, 2]);
        let copy = [Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(2) }];
        let begun = Written { version: Version(2), time_ms: 100, by: NodeId::new("node-1").unwrap() };
        let record = of_changes(&base, &copy, Vec::new(), begun);
        assert_eq!(record.copying, None);
        base = base.with(&copy).unwrap();
        base.recent.push(record);
        let seat = base.slots[0].learners[0];
        let done = [Change::IntoSync { slot: SlotId(0), seat, term: base.slots[0].term }];
        let ended = Written { version: Version(3), time_ms: 350, by: NodeId::new("node-1").unwrap() };
        assert_eq!(of_changes(&base, &done, Vec::new(), ended).copying, Some(Duration::from_millis(250)));
    }

    #[test]
    fn recreated_slots_are_told_with_what_was_lost() {
        let base = placement(3, 1, &[1, 2, 3]);
        let recreate = Change::Recreate { slot: SlotId(0), term: base.slots[0].term, on: Incarnation(2) };
        assert_eq!(account(&base, &[recreate]).text, "recreate s0 on node-2 (lost with node-1)");
    }
}
