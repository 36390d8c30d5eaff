//! What a router gives to its clients goes on where it was, or it is told of the gap.

use roomring_proto::{Epoch, Term, v1};
use v1::node_message::Kind;

use crate::model::{Said, World};

/// The router was never shown an older term, an older epoch, a lower place or a hole.
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
                Some(now) if now == epoch && !room.gap => (room.seq, room.lsn) == (seq, lsn),
                Some(now) if now == epoch => room.seq >= seq && room.lsn >= lsn,
                Some(now) => room.gap && now > epoch,
                None => false,
            }
        })
}
