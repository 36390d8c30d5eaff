//! A room that nobody is in, put away until somebody comes.

use prost::Message;
use roomring_control::placement::RoomLimits;
use roomring_proto::{Epoch, Lsn, Seq, v1};

use super::snapshot;
use super::state::Room;

/// Bytes, as counted in a room, up to which it is put away. It is done anew for each publication that nobody is there to see, so it must
/// cost little; of more than this a room's own part is small.
const BYTES: usize = 4096;

/// What a room that is put away counts beside its block and its name: its places in the trees of its slot.
const OVERHEAD: usize = 140;

/// A room as a snapshot has it, without its name, in one block: a room with one message would take six.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Quiet(Box<[u8]>);

/// The beginning of it.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(uint64, tag = "2")]
    created: u64,
    #[prost(uint64, tag = "3")]
    seq: u64,
}

impl Quiet {
    /// The room, if it is to be put away. Equal rooms are or are not: what they count must be equal too. One that is to be removed is
    /// seen again in a moment, and so is one that was just made.
    pub(super) fn of(room: &Room) -> Option<Self> {
        let quiet = room.num_clients() == 0 && !room.is_removable() && room.held_bytes() <= BYTES;
        quiet.then(|| Self(snapshot::whole(room).encode_to_vec().into_boxed_slice()))
    }

    /// The room as it was.
    pub(super) fn room(&self, epoch: impl FnOnce(Lsn) -> Epoch, limits: &RoomLimits) -> Room {
        let state = v1::RoomState::decode(&self.0[..]).expect("it was encoded here");
        snapshot::room(epoch(Lsn(state.created)), state, limits).expect("it is whole")
    }

    /// What made it, and its top.
    pub(super) fn head(&self) -> (Lsn, Seq) {
        let head = Head::decode(&self.0[..]).expect("it was encoded here");
        (Lsn(head.created), Seq(head.seq))
    }

    pub(super) fn bytes(&self) -> usize {
        OVERHEAD + self.0.len()
    }
}
