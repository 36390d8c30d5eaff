//! What sessions and the HTTP server need of the hub.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use roomring_proto::{NodeId, RoomId, SlotId};

use crate::hub::api::{Client, Command};

/// The rooms, as the edge sees them. The hub, or a stand-in under test.
pub trait Backend: Send + Sync + 'static {
    /// Hands over a command, whose answer comes through the client's queue.
    fn send(&self, command: Command) -> Sent;

    /// Ends the client's memberships of `rooms`. It is gone: nothing is answered.
    fn leave(&self, client: Arc<Client>, rooms: Vec<RoomId>) -> impl Future<Output = ()> + Send;

    /// Where a room is; `None` before a placement was seen.
    fn whereabouts(&self, room: &RoomId) -> Option<Whereabouts>;
}

/// What became of a command. Not a future: sessions' own would hold room for all that it is made of.
#[must_use]
pub enum Sent {
    /// It will be answered.
    Taken,
    /// The hub is stopping, or not there yet: it will not be answered.
    Refused(Command),
    /// There is no room for it yet. Waits for some, but not for long; the error is the command, which will not be answered.
    Waiting(Pin<Box<dyn Future<Output = Result<(), Command>> + Send>>),
}

impl Sent {
    /// Waits until it is known.
    ///
    /// # Errors
    /// The command, if it will not be answered.
    pub async fn known(self) -> Result<(), Command> {
        match self {
            Self::Taken => Ok(()),
            Self::Refused(command) => Err(command),
            Self::Waiting(taken) => taken.await,
        }
    }
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("Taken"),
            Self::Refused(command) => f.debug_tuple("Refused").field(command).finish(),
            Self::Waiting(_) => f.write_str("Waiting"),
        }
    }
}

/// Where a room is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its slot.
    pub slot: SlotId,
    /// The slot's primary.
    pub node: NodeId,
}
