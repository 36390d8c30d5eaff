//! What a client is told without having asked.

use crate::close::CloseCode;
use crate::{Epoch, Seq, v1};

/// A push about a channel.
#[derive(Debug, Clone, Copy)]
pub enum Push<'a> {
    /// A publication.
    Publication(&'a v1::Publication),
    /// Somebody came.
    Join(&'a v1::ClientInfo),
    /// Somebody left.
    Leave(&'a v1::ClientInfo),
    /// The server ended the client's membership.
    Unsubscribe(CloseCode),
    /// The server made the client a member, which has everything up to the position.
    Subscribe {
        /// The history.
        epoch: Epoch,
        /// Its top.
        offset: Seq,
        /// The client may recover from the position later.
        recoverable: bool,
    },
}
