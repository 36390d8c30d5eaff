//! Once a slot is recreated nobody speaks for what it was.

use roomring_proto::{Epoch, v1};
use v1::node_message::Kind;

use crate::model::{Said, World};

/// No acknowledgement, delivery or attachment belongs to a generation before the newest one.
pub fn judge(world: &World, said: &Said<'_>) -> bool {
    let newest = world.register().record().generation;
    let of = |epoch: Option<v1::Epoch>| epoch.map(Epoch::from).is_none_or(|e| e.generation >= newest);
    match said.message {
        Kind::Published(answer) => answer.refused.is_some() || of(answer.epoch),
        Kind::Deliver(deliver) => of(deliver.epoch),
        Kind::Attached(attached) => attached.refused.is_some() || attached.generation >= newest.0,
        Kind::History(reply) => of(reply.epoch),
        _ => true,
    }
}
