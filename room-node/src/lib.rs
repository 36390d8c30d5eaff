//! The room node: holds seats in slots, and orders and keeps the messages of the rooms of those slots.
//!
//! [`slot`] and [`room`] are pure state machines: an event and a time in, effects out. The rest is the shell around them:
//! tasks that own the slots, the streams of routers and other nodes, and the node's registration. It decides nothing about
//! who owns what: that is the placement, which [`roomring_control`] follows and writes.

mod admin;
pub mod config;
mod counters;
mod drain;
pub mod entry;
mod follower;
mod greeting;
mod link;
mod metrics;
mod news;
mod node;
mod outbox;
mod peer;
pub mod room;
mod server;
mod sessions;
mod shell;
mod site;
pub mod slot;
mod vitals;
mod worker;

/// The pure core of a worker, for the simulation.
#[doc(hidden)]
pub mod core {
    pub use crate::worker::{Event, Moment, Part, Shard};
}

pub use node::{Error, Ready, run};
pub use server::ServerError;
