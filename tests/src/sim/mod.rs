//! The simulation: the pure cores of several nodes and routers, an etcd register and clients, under a seeded scheduler
//! with virtual time. Messages are delayed, streams break, processes crash, restart, hang and are drained, the network
//! parts, etcd is away.
//!
//! The state machines are those of production: a node's [`Shard`](roomring_node::core::Shard), the planner and its history
//! of views, the detector, the placement's changes, a router's [`Slot`](roomring_router::hub::core::Slot). The shells around them (streams,
//! registration, the coordinator's timing) are retold here. What clients see is recorded and judged by the
//! [`checker`](crate::checker); what must hold inside is looked at after every step. In the end faults stop, and everything
//! must work again.

mod bugs;
mod checks;
mod client;
mod ears;
mod etcd;
mod faults;
mod interrupt;
mod net;
mod node;
mod router;
mod world;

use std::time::Duration;

use roomring_node::slot::Rule;

pub use interrupt::{Interrupt, Phase, Victim};
pub use world::{Failure, Report, run};

/// How long registrations live without being renewed.
const TTL: Duration = Duration::from_secs(2);
/// How long a primary may serve without contact with etcd.
const FENCE: Duration = Duration::from_secs(3);
/// Slots of the cluster: few, so that much happens in each.
const SLOTS: u32 = 3;
/// The rooms.
const ROOMS: [&str; 4] = ["lobby", "garden", "attic", "cellar"];

/// A bug put in on purpose, where the simulation's shells meet the production cores: what its checks must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A learner goes in sync on a word that was given for an earlier placement: its primary does not wait for it any more.
    StaleReady,
    /// Replicas acknowledge what they do not hold yet: entries are delivered before they are committed.
    EarlyAck,
    /// A primary takes itself to be in contact with etcd always.
    EternalContact,
    /// A process that starts again takes its old incarnation, and with it seats that it holds nothing of.
    SameIncarnation,
    /// Learners are in sync as soon as they exist.
    UnreadyInSync,
    /// A rule of the slot is off in every node.
    Off(Rule),
    /// A router loses a delivery to a client now and then.
    LosesDeliveries,
    /// A router tells a client of a join twice now and then.
    JoinsTwice,
    /// A router answers a publish twice now and then.
    AnswersTwice,
    /// A router calls what is unknown refused, also when it closes a connection.
    CallsUnknownRefused,
    /// A router does not tell nodes who joined an attached room.
    TellsNoJoins,
    /// A router sends a publish whose outcome it gave as unknown once more, later.
    ResendsUnknown,
    /// Routers close their sockets when a node dies.
    ClosesSockets,
    /// A router sends what waits for answers in the wrong order, when it sends it again.
    ResendsInReverse,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep a line for every step.
    pub trace: bool,
    /// A bug to put in.
    pub mutant: Option<Mutant>,
    /// Look at what clients see only: a bug is to be found by the checker.
    pub black_box: bool,
    /// No router crashes, and the recording claims so.
    pub routers_stay: bool,
    /// Nothing goes wrong but this, at a planned move.
    pub interrupt: Option<Interrupt>,
}
