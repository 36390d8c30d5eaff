//! What was committed is held by every in-sync seat of the newest placement, whatever that process has seen of it.

use crate::model::World;

/// Every in-sync process that lives holds every committed entry of the slot's generation.
pub fn holds(world: &World) -> bool {
    let generation = world.register().record().generation;
    let last = world.ghost().last(generation);
    world.in_sync().all(|(seat, process)| {
        let held = process.slot().held().filter(|h| h.seat() == seat && h.generation() == generation);
        // One that has not seen the placement that made its seat: nothing can have been committed yet.
        let Some(held) = held else { return last.0 == 0 };
        let same = |entry| held.entry(entry).is_none_or(|e| Some(e) == world.ghost().entry(generation, entry));
        held.is_filled()
            && held.last() >= last
            && (held.base().0 + 1..=last.0).all(|lsn| same(roomring_proto::Lsn(lsn)))
    })
}
