//! What a router gives to its clients goes on where it was, or it is told of the gap.

use crate::model::World;

/// The router was never shown an older term, an older epoch, a lower place or a hole.
pub fn holds(world: &World) -> bool {
    !world.router().is_taken_back()
}
