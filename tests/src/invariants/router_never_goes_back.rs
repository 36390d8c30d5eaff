//! What a router gives to its clients goes on where it was, or it is told of the gap.

use roomring_proto::{Epoch, Term, v1};
use v1::node_message::Kind;

use crate::model::{Said, World};

/// What the router and its client have of the room never went back, and the client was told of every hole.
pub fn holds(world: &World) -> bool {
    !world.router().is_taken_back()
}

/// An attachment is confirmed in no lower term than the router has seen, from where it is or with a gap, and never from
/// before that.
pub fn judge(world: &World, said: &Said<'_>) -> bool {
    let Kind::Attached(answer) = said.message else { return true };
    let router = world.router();
    if answer.refused.is_some() || !said.is_current || answer.attach_id != router.attach_id() {
        return true;
    }
    Term(answer.term) >= router.term_seen()
        && answer.rooms.iter().filter(|room| room.refused.is_none()).all(|room| {
            let Some((epoch, seq, lsn)) = router.position() else { return true };
            match room.epoch.map(Epoch::from) {
                // After a hole joins and leaves come again from before it.
                Some(now) if now == epoch && !room.gap => room.seq == seq && room.lsn <= lsn,
                Some(now) if now == epoch => room.seq >= seq && room.lsn >= lsn,
                Some(now) => room.gap && now > epoch,
                None => false,
            }
        })
}
