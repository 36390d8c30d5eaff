//! Why a slot is where it is, for people. Pure.

use std::collections::BTreeSet;

use roomring_proto::{Incarnation, SlotId};

use crate::intents::Origin;
use crate::placement::{Placement, Recent, SlotRecord};
use crate::planner;
use crate::view::ClusterView;

/// Most changes told.
const CHANGES: usize = 10;

/// What a process is called: its node's name, or its incarnation if the placement has forgotten it.
pub fn name(placement: &Placement, incarnation: Incarnation) -> String {
    placement.members.get(&incarnation).map_or_else(|| incarnation.to_string(), |m| m.node.to_string())
}

/// Why the slot is not where the ring wants it, one sentence for each reason.
///
/// `wish` is where the ring wants it, and `ago` how a moment in Unix ms is told.
pub fn why(view: &ClusterView, number: SlotId, wish: &[Incarnation], ago: impl Fn(u64) -> String) -> Vec<String> {
    let Some((placement, slot)) = view.placement.as_deref().and_then(|p| Some((p, p.slot(number)?))) else {
        return vec!["There is no placement yet.".to_owned()];
    };
    let mut why = Vec::new();
    let intents = &view.intents;
    let takers = planner::takers(view, intents);
    let name = |i: Incarnation| name(placement, i);
    let in_sync = |i: Incarnation| slot.in_sync.iter().any(|s| s.incarnation == i);
    let primary = slot.primary.incarnation;
    if let Some(pinned) = intents.pins.get(&number) {
        let void = if takers.contains_key(pinned) { "" } else { ", which takes no slots now" };
        why.push(format!("The slot is pinned to {pinned}{void}."));
    }
    if let Some(o) = intents.overrides.get(&number) {
        let who = match o.origin {
            Origin::Operator => "an operator",
            Origin::Rebalancer => "the rebalancer",
        };
        let reason = if o.reason.is_empty() { String::new() } else { format!(": {}", o.reason) };
        let void = match () {
            () if intents.pins.contains_key(&number) => " (a pin wins)",
            () if !takers.contains_key(&o.node) => " (which takes no slots now)",
            () => "",
        };
        why.push(format!("It was moved to {}{void} by {who}, {}{reason}.", o.node, ago(o.time_ms)));
    }
    let seats = slot.seats().filter_map(|s| placement.members.get(&s.incarnation)).map(|m| &m.node);
    let drained: BTreeSet<_> = seats.filter(|node| intents.drained.contains(*node)).collect();
    why.extend(drained.into_iter().map(|node| format!("{node} is being drained.")));
    let copies = placement.settings.replication as usize;
    if wish.len() < copies {
        why.push(format!("{copies} copies are wanted, and the ring has {} node(s) for them.", wish.len()));
    }
    if !view.nodes.values().any(|n| n.incarnation == primary) {
        let fence = humantime::format_duration(placement.settings.fence_after);
        let others = if slot.in_sync.len() > 1 { "another in-sync copy takes over" } else { "it is the last copy" };
        why.push(format!(
            "{} has no key in etcd: {others}; without any the slot is made anew after {fence}.",
            name(primary)
        ));
    } else if !placement.members.get(&primary).is_some_and(|m| m.active) {
        why.push(format!("{} was evicted and holds the last copy.", name(primary)));
    }
    for wanted in wish.iter().copied() {
        if slot.learners.iter().any(|s| s.incarnation == wanted) {
            why.push(format!("{} catches up.", name(wanted)));
        } else if !in_sync(wanted) {
            why.push(format!("{} waits for its turn to catch up, or for a primary to catch up from.", name(wanted)));
        }
    }
    if let Some(first) = wish.first().copied().filter(|first| *first != primary && in_sync(*first)) {
        why.push(format!(
            "{} is in sync and becomes primary with the next write, unless it is silent or has lost etcd.",
            name(first)
        ));
    }
    for seat in slot.in_sync.iter().filter(|s| !wish.contains(&s.incarnation) && **s != slot.primary) {
        why.push(format!("{} goes once all wanted copies are in sync.", name(seat.incarnation)));
    }
    why
}

/// The last writes that touched the slot or a node of it, the latest first.
pub fn changes<'a>(placement: &'a Placement, number: SlotId, wish: &[Incarnation]) -> Vec<&'a Recent> {
    let seats = placement.slot(number).into_iter().flat_map(SlotRecord::seats).map(|seat| seat.incarnation);
    let nodes: Vec<_> =
        seats.chain(wish.iter().copied()).filter_map(|i| placement.members.get(&i)).map(|m| &m.node).collect();
    let touches = |r: &&Recent| {
        // Of writes that changed many slots it is not recorded which.
        let many = r.slots.is_empty() && r.slots_changed > 0;
        r.slots.contains(&number) || many || r.nodes.iter().any(|n| nodes.contains(&n) && r.slots.is_empty())
    };
    placement.recent.iter().rev().filter(touches).take(CHANGES).collect()
}
