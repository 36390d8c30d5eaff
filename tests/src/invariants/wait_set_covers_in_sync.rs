//! A primary waits for every seat that counts, also for one that it does not know to count yet.

use crate::model::World;

/// The primary of the newest placement's term waits for every other in-sync seat of it.
pub fn holds(world: &World) -> bool {
    let record = world.register().record();
    world.processes().values().all(|process| {
        let Some((led, held)) = process.slot().led().zip(process.slot().held()) else { return true };
        if (led.term(), held.generation()) != (record.term, record.generation) {
            return true;
        }
        let waits = led.waits_for();
        record.in_sync.iter().all(|seat| *seat == held.seat() || waits.contains(seat))
    })
}
