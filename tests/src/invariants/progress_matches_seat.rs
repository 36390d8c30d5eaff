//! What a primary counts as acknowledged is held by the very seat, as long as that has seen no later term.

use roomring_proto::Lsn;

use crate::model::World;

/// Every seat holds its primary's log up to where the primary counts it.
pub fn holds(world: &World) -> bool {
    world.processes().values().all(|primary| {
        let Some((led, own)) = primary.slot().led().zip(primary.slot().held()) else { return true };
        led.matched().into_iter().all(|(seat, matched)| {
            let Some(process) = world.processes().get(&seat.incarnation) else { return true };
            if process.slot().seen_term() > led.term() {
                return true;
            }
            // A seat that is gone counts for nothing.
            let Some(held) = process.slot().held().filter(|h| h.seat() == seat) else { return true };
            let from = held.base().max(own.base()).0 + 1;
            held.last() >= matched && (from..=matched.0).all(|lsn| held.entry(Lsn(lsn)) == own.entry(Lsn(lsn)))
        })
    })
}
