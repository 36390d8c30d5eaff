//! Only committed publishes are acknowledged.

use roomring_node::entry::Entry;
use roomring_proto::{Epoch, Generation, v1};
use v1::node_message::Kind;

use crate::model::{Said, World};

/// An acknowledgement names the place where a committed entry has the number.
pub fn judge(world: &World, said: &Said<'_>) -> bool {
    let Kind::Published(answer) = said.message else { return true };
    if answer.refused.is_some() {
        return true;
    }
    let Some(epoch) = answer.epoch.map(Epoch::from) else { return false };
    let found = world.ghost().publishes().any(|(generation, lsn, publish)| {
        let place = (epoch.generation, answer.seq, answer.number) == (generation, publish.seq.0, publish.number);
        place && world.ghost().entry(generation, lsn).is_some_and(|e: &Entry| e.generation == generation)
    });
    found && epoch.generation != Generation(0)
}
