//! What one router sent in an order is logged in that order.

use std::collections::BTreeMap;

use crate::model::World;

/// The numbers of a router's committed publishes rise within a generation.
pub fn holds(world: &World) -> bool {
    let mut newest = BTreeMap::new();
    world.ghost().publishes().all(|(generation, _, publish)| {
        let before = newest.insert((generation, publish.router), publish.number);
        before.is_none_or(|before| before < publish.number)
    })
}
