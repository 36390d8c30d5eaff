//! The Centrifuge client protocol: its messages, and one module per encoding of them.
//!
//! The types here know no encoding: [`json`] and [`protobuf`] read and write them, [`Format`] chooses. [`plain`] is the simpler
//! protocol of `/rooms/{room}`, which only goes out.

mod command;
mod format;
pub mod json;
mod malformed;
pub mod plain;
pub mod protobuf;
mod push;
mod reply;
mod tags;

pub use command::*;
pub use format::Format;
pub use malformed::Malformed;
pub use protobuf::EmulationRequest;
pub use push::Push;
pub use reply::*;
pub use tags::tags;
