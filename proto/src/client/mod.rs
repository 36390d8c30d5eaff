//! The Centrifuge client protocol: its messages, and one module per encoding of them.
//!
//! The types here know no encoding: [`json`] reads and writes them, and another encoding needs no more than a module
//! beside it. [`plain`] is the simpler protocol of `/rooms/{room}`, which only goes out.

mod command;
pub mod json;
pub mod plain;
mod reply;

pub use command::*;
pub use reply::*;
