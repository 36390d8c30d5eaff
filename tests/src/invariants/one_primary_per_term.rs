//! A term has one primary.

use std::collections::BTreeSet;

use roomring_control::placement::Placement;

use crate::model::World;

/// No two processes lead the slot in one term.
pub fn holds(world: &World) -> bool {
    let mut terms = BTreeSet::new();
    let led = world.processes().values().filter_map(|p| Some((p.slot().held()?.generation(), p.slot().led()?.term())));
    led.into_iter().all(|term| terms.insert(term))
}

/// A write that names another primary raises the term.
pub fn judge(before: &Placement, after: &Placement) -> bool {
    let (before, after) = (&before.slots[0], &after.slots[0]);
    before.primary == after.primary || before.term < after.term
}
