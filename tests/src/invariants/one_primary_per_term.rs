//! A term has one primary.

use std::collections::BTreeSet;

use crate::model::World;

/// No two processes lead the slot in one term.
pub fn holds(world: &World) -> bool {
    let mut terms = BTreeSet::new();
    let led = world.processes().values().filter_map(|p| Some((p.slot().held()?.generation(), p.slot().led()?.term())));
    led.into_iter().all(|term| terms.insert(term))
}
