//! What is remembered of publishes, and all else in a room, is what the log says.

use roomring_node::room::Rooms;

use crate::model::World;

/// The rooms of every seat are those that the committed entries make, and a primary's memory of the others is theirs.
pub fn holds(world: &World) -> bool {
    world.processes().values().all(|process| {
        let Some(held) = process.slot().held().filter(|h| h.is_filled()) else { return true };
        let mut rooms = Rooms::new(roomring_proto::Uid(7), held.generation(), held.rooms().limits().clone());
        for entry in world.ghost().entries(held.generation()).take_while(|e| e.lsn <= held.commit()) {
            rooms.apply(entry);
        }
        rooms == *held.rooms() && process.slot().tail_equals_log()
    })
}
