//! A slot's router side seen from outside, for the checks in `tests/`: nothing here changes what it does.

use roomring_proto::{Epoch, Generation, Lsn, Seq, Term};

use super::Slot;

impl Slot {
    /// The confirmed attachment.
    pub fn attached_in(&self) -> Option<(Term, Generation)> {
        self.attachment.attached().map(|a| (a.term, a.generation))
    }

    /// The highest term it knows of.
    pub fn term_seen(&self) -> Term {
        self.attachment.term_seen()
    }

    /// The attach that it sent last.
    pub fn last_attach(&self) -> u64 {
        self.last_attach
    }

    /// What it has of a room.
    pub fn place(&self, room: &str) -> Option<(Epoch, Seq, Lsn)> {
        self.rooms.get(room)?.place()
    }
}
