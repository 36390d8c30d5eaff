//! A slot always has a seat that counts, and its primary is one.

use crate::model::World;

/// The newest placement is one that can be read back.
pub fn holds(world: &World) -> bool {
    let record = world.register().record();
    record.in_sync.contains(&record.primary) && world.register().latest().check().is_ok()
}
