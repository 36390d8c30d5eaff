//! What sessions and the HTTP server need of the hub.

use std::future::Future;
use std::sync::Arc;

use roomring_proto::{NodeId, RoomId, SlotId};

use crate::hub::api::{Client, Command};

/// The rooms, as the edge sees them. The hub, or a stand-in under test.
pub trait Backend: Send + Sync + 'static {
    /// Hands over a command, whose answer comes through the client's queue. Waits for room, but not for long.
    ///
    /// # Errors
    /// The hub can't take it in time, or is stopping: it will not be answered.
    fn send(&self, command: Command) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Ends the client's memberships of `rooms`. It is gone: nothing is answered.
    fn leave(&self, client: Arc<Client>, rooms: Vec<RoomId>) -> impl Future<Output = ()> + Send;

    /// Where a room is; `None` before a placement was seen.
    fn whereabouts(&self, room: &RoomId) -> Option<Whereabouts>;
}

/// A command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub can't take a command now")]
pub struct Refused;

/// Where a room is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its slot.
    pub slot: SlotId,
    /// The slot's primary.
    pub node: NodeId,
}
