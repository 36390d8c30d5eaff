//! A primary that has not committed the tail it found answers nothing.

use roomring_proto::v1;
use v1::node_message::Kind;

use crate::model::{Said, World};

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
    !serves || said.slot.led().is_some_and(|led| led.is_promoted())
}
