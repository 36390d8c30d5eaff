//! The edge router: holds client sockets, follows the placement, and does the last hop of every delivery.
//!
//! [`session`] speaks the clients' protocols, [`http`] brings clients in, and [`hub`] keeps the rooms that they are in,
//! attached to the nodes that own them. A router never assigns a room, it only follows the placement.

mod api;
pub mod auth;
mod backend;
mod cluster;
mod config;
mod frame;
mod grpc;
pub mod http;
pub mod hub;
pub mod limits;
mod metrics;
pub mod namespaces;
mod operator;
pub mod roster;
mod run;
pub mod session;
mod site;
pub mod webhook;

pub use api::{ApiKeys, BadKey};
pub use backend::{Backend, Sent, Whereabouts};
pub use config::{Config, Flags};
pub use frame::Frame;
pub use grpc::ServerError;
pub use run::{Error, Ready, run};
