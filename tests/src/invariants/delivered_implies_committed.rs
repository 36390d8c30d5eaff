//! Only committed publications are shown.

use roomring_proto::{Epoch, v1};
use v1::node_message::Kind;

use crate::model::{Said, World};

/// Every event sent to the router is that of a committed entry.
pub fn judge(world: &World, said: &Said<'_>) -> bool {
    match said.message {
        Kind::Deliver(deliver) => events(world, deliver.epoch, &deliver.events),
        Kind::Attached(attached) => attached.rooms.iter().all(|room| events(world, room.epoch, &room.replay)),
        _ => true,
    }
}

/// Everything that the client was given is that of a committed entry.
pub fn holds(world: &World) -> bool {
    world.router().delivered().iter().all(|(epoch, seq, data)| {
        let mut publishes = world.ghost().publishes();
        publishes.any(|(generation, _, p)| (generation, p.seq.0, &p.data) == (epoch.generation, *seq, data))
    })
}

fn events(world: &World, epoch: Option<v1::Epoch>, events: &[v1::Event]) -> bool {
    let Some(epoch) = epoch.map(Epoch::from) else { return events.is_empty() };
    events.iter().all(|event| {
        let Some(v1::event::Kind::Publication(shown)) = &event.kind else { return true };
        world.ghost().publishes().any(|(generation, lsn, publish)| {
            (generation, lsn.0, publish.seq.0, &publish.data) == (epoch.generation, shown.lsn, shown.seq, &shown.data)
        })
    })
}
