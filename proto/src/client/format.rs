//! The protocol's encodings, behind one type.

use bytes::Bytes;

use super::{Command, Malformed, Push, Reply, json, protobuf};

/// How a connection encodes the client protocol. Fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Format {
    /// Text frames, see [`json`].
    #[default]
    Json,
    /// Binary frames, see [`protobuf`].
    Protobuf,
}

impl Format {
    /// The commands of one frame, in order, up to the first that breaks the protocol.
    pub fn decode(self, frame: &[u8]) -> Box<dyn Iterator<Item = Result<Command, Malformed>> + '_> {
        match self {
            Self::Json => Box::new(json::decode(frame)),
            Self::Protobuf => Box::new(protobuf::decode(frame)),
        }
    }

    /// A reply, as a frame of its own.
    pub fn reply(self, reply: &Reply) -> Bytes {
        match self {
            Self::Json => json::encode(reply),
            Self::Protobuf => protobuf::encode(reply),
        }
    }

    /// A push for `channel`, as a frame of its own.
    pub fn push(self, channel: &str, push: &Push<'_>) -> Bytes {
        match self {
            Self::Json => json::push(channel, push),
            Self::Protobuf => protobuf::push(channel, push),
        }
    }

    /// As [`Self::reply`], at the end of `out`.
    pub fn write_reply(self, reply: &Reply, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::write_reply(reply, out),
            Self::Protobuf => protobuf::write_reply(reply, out),
        }
    }

    /// As [`Self::push`], at the end of `out`.
    pub fn write_push(self, channel: &str, push: &Push<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::write_push(channel, push, out),
            Self::Protobuf => protobuf::write_push(channel, push, out),
        }
    }

    /// What a client without a WebSocket is told instead of a close frame, as a frame of its own.
    pub fn disconnect(self, code: u16, reason: &str) -> Bytes {
        match self {
            Self::Json => json::disconnect(code, reason),
            Self::Protobuf => protobuf::disconnect(code, reason),
        }
    }

    /// The server's ping, as a frame of its own.
    pub fn ping(self) -> Bytes {
        match self {
            Self::Json => json::PING,
            Self::Protobuf => protobuf::PING,
        }
    }
}
