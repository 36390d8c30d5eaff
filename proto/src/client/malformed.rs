//! Frames that break the protocol.

use super::json::NESTING;

/// A frame that breaks the protocol. The connection ends with close code 3501.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The frame, or a line within it, is empty.
    #[error("empty command")]
    Empty,
    /// Nested deeper than [`NESTING`].
    #[error("nested deeper than {NESTING} levels")]
    TooDeep,
    /// Not JSON, or a field of the wrong type.
    #[error("{0}")]
    Json(String),
    /// Not Protobuf, or a field of the wrong type.
    #[error("{0}")]
    Protobuf(String),
    /// An id, but nothing that this protocol asks.
    #[error("command {0} has no request")]
    NoRequest(u32),
}

impl From<serde_json::Error> for Malformed {
    fn from(e: serde_json::Error) -> Self {
        Self::Json(e.to_string())
    }
}

impl From<prost::DecodeError> for Malformed {
    fn from(e: prost::DecodeError) -> Self {
        Self::Protobuf(e.to_string())
    }
}
