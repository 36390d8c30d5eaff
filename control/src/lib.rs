//! Who should own which slot, who does, and who is alive.
//!
//! The pure modules ([`ring`], [`placement`], [`planner`], [`detector`]) know no etcd, socket or clock. The shells around them
//! ([`registry`], [`coordinator`], [`heartbeat`]) talk to etcd and to each other, and follow what is said. What a slot holds is no concern of this crate.

pub mod access;
pub mod clock;
pub mod coordinator;
pub mod daemon;
pub mod denials;
pub mod detector;
pub mod embedded_etcd;
mod entries;
pub mod explain;
pub mod health;
pub mod heartbeat;
pub mod home;
pub mod intents;
pub mod load;
pub mod metrics;
pub mod placement;
pub mod planner;
pub mod rebalance;
pub mod registry;
pub mod ring;
pub mod tls;
pub mod view;
pub mod wire;
