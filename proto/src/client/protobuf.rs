//! The Protobuf encoding: messages behind their lengths, several to a WebSocket binary frame.
//!
//! Payloads are bytes of any kind. Everything encoded here has its length in front, so that frames can be joined.

mod read;
#[cfg(test)]
mod tests;
/// The protocol's messages, from `proto/centrifuge/client.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
mod wire {
    tonic::include_proto!("centrifugal.centrifuge.protocol");
}
mod write;

pub use read::decode;
pub use wire::EmulationRequest;
pub use write::{PING, disconnect, encode, push, write_push, write_reply};
