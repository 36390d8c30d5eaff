//! A primary that hears of a higher term stops.

use crate::model::World;

/// No process leads the slot in a term below the highest that it has seen.
pub fn holds(world: &World) -> bool {
    world.processes().values().all(|p| p.slot().led().is_none_or(|led| led.term() == p.slot().seen_term()))
}
