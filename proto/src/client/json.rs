//! The JSON encoding: objects separated by newlines, several to a WebSocket text frame.
//!
//! Payloads are embedded JSON values that pass through unparsed. None of our output has a newline in it, so that frames can
//! be joined.

mod read;
mod write;

pub use read::{decode, embeddable};
pub use write::{PING, disconnect, encode, push, write_push, write_reply};

pub(crate) use write::{Embedded, to_bytes};

/// Deepest nesting of a command. Far above any sane payload, far below what overflows a recursive parser in a browser
/// or a Python client that the payload is delivered to.
pub const NESTING: usize = 128;

#[cfg(test)]
mod tests;
