//! A primary that has not committed the tail it found answers nothing.

use roomring_node::slot::{Env, Input, LinkId, Output, Slot};
use roomring_proto::{Incarnation, v1};
use v1::node_message::Kind;

use crate::model::{ROOM, Said, SlotModel, World};

/// Whether a slot is led by a process that has committed the whole tail that it found.
pub fn is_promoted(slot: &Slot) -> bool {
    slot.led().zip(slot.held()).is_some_and(|(led, held)| led.is_promoted() && held.commit() >= led.tail_end())
}

/// Acknowledgements, deliveries, attachments and histories come from promoted primaries.
pub fn judge(_: &World, said: &Said<'_>) -> bool {
    let serves = match said.message {
        Kind::Published(answer) => answer.refused.is_none(),
        Kind::Attached(answer) => answer.refused.is_none(),
        Kind::History(reply) => reply.refused.is_none(),
        Kind::Presence(reply) => reply.refused.is_none(),
        Kind::Deliver(_) => true,
        _ => false,
    };
    !serves || is_promoted(said.slot)
}

/// A primary that is not promoted gives no history to a router that asks for it now.
pub fn holds(model: &SlotModel, world: &World) -> bool {
    world.processes().values().all(|process| {
        let slot = process.slot();
        slot.led().is_none() || is_promoted(slot) || !gives_history(slot, &world.env(model, process))
    })
}

fn gives_history(slot: &Slot, env: &Env) -> bool {
    let (mut slot, mut out, link) = (slot.clone(), Vec::new(), LinkId(u64::MAX));
    let request = v1::HistoryRequest { request: 1, room: ROOM.into(), ..Default::default() };
    slot.handle(env, Input::LinkUp { link, router: Incarnation(u64::MAX) }, &mut out);
    let message = v1::router_message::Kind::History(request);
    slot.handle(env, Input::Router { link, message }, &mut out);
    let given = |output: &Output| match output {
        Output::Router { message, .. } => matches!(&message.kind, Some(Kind::History(h)) if h.refused.is_none()),
        Output::Peer { .. } | Output::Ready { .. } | Output::Unanswered { .. } => false,
    };
    out.iter().any(given)
}
