//! A place in a room's history has one publication.

use std::collections::BTreeMap;

use crate::model::World;

/// No two publications have one place, committed or given to clients.
pub fn holds(world: &World) -> bool {
    let mut places = BTreeMap::new();
    world.router().delivered().iter().all(|(epoch, seq, data)| *places.entry((*epoch, *seq)).or_insert(data) == data)
        && {
            // One room, made once a generation: the generation stands for the epoch.
            let mut committed = BTreeMap::new();
            let mut publishes = world.ghost().publishes();
            publishes
                .all(|(generation, lsn, publish)| *committed.entry((generation, publish.seq)).or_insert(lsn) == lsn)
        }
}
