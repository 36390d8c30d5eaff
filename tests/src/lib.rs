//! The harness of the end-to-end tests: a cluster of real processes on a real etcd, clients that record what they are
//! told, and the oracle that judges the recordings. It holds no test of its own; those are in `tests/tests`.
//!
//! Nothing here is retried silently: a wait has a deadline and says what it waited for, a fault is checked to have
//! taken effect, and everything that was started ends with the value that started it.

mod answerer;
mod authority;
pub mod checker;
mod chrome;
mod client;
mod cluster;
mod crowd;
mod etcd;
mod expect;
mod fault;
mod follow;
mod frames;
pub mod fuzz;
pub mod invariants;
pub mod model;
mod net;
pub mod openapi;
mod oracle;
pub mod pods;
mod process;
mod proxy;
mod raw;
mod roamer;
mod roamers;
mod rogues;
mod sdk;
pub mod sim;
mod skew;
mod stage;
mod times;
mod tls_front;
mod traffic;
mod turn;
mod visitor;

pub use answerer::Answerer;
pub use authority::Authority;
pub use chrome::{Chrome, Page};
pub use client::{Client, Closed, Error, Event, Member, RoomLog};
pub use cluster::{ANYONE_PUBLISHES, Cluster, Node, Options, Router, holder, primary, write};
pub use crowd::Crowd;
pub use etcd::Etcd;
pub use expect::{eventually, evidence, within};
pub use fault::{Before, Fault, out_of_contact};
pub use follow::{Follow, Switch, has_seats, primaries};
pub use frames::{Socket, TEXT, Told};
pub use net::{Net, Ports};
pub use oracle::{Oracle, Story};
pub use process::{Process, Ran, alive, binary, resident_bytes, run};
pub use proxy::{Proxy, nowhere};
pub use raw::{Response, Tcp, get, post};
pub use roamer::{Addresses, Roamer};
pub use roamers::Roamers;
pub use rogues::{Got, Rogue, Rogues};
pub use sdk::{Encoding, Sdk, SdkKind, go_is_missing, sdk_dir};
pub use skew::{Skew, SkewedTraffic};
pub use stage::{Stage, Tally, judge};
pub use times::Times;
pub use tls_front::TlsFront;
pub use traffic::{Outcome, Sent, Traffic};
pub use turn::{Turn, Weight};
pub use visitor::Visitor;
