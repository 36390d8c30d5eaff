//! A publish is made once, however often it is sent.

use std::collections::BTreeSet;

use crate::model::World;

/// No two committed entries carry one publish; no generation takes one that was first sent in another.
pub fn holds(world: &World) -> bool {
    let mut seen = BTreeSet::new();
    world.ghost().publishes().all(|(_, _, publish)| seen.insert(&publish.data))
}
