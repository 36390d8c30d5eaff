//! What the benchmark and its load processes say to each other: a line of JSON each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::dialect::Dialect;
use crate::histogram::Histogram;

/// To a load process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Connect everybody. Answered by [`Report::Connected`].
    Connect(Crowd),
    /// Begin to publish. Not answered.
    Run {
        /// Bytes of a payload.
        payload: usize,
        /// How fast.
        pace: Pace,
    },
    /// Tell what came since the mark before. Answered by [`Report::Marked`].
    Mark,
    /// Publish no more, and wait for what is under way. Answered by [`Report::Stopped`].
    Stop,
    /// Subscribe every connection to so many more rooms. Answered by [`Report::Connected`].
    Subscribe {
        /// Rooms for each connection; as many share them as share its own.
        more: usize,
    },
    /// Publish one message in each of those rooms. Answered by [`Report::Said`].
    Say,
    /// End all connections. Answered by [`Report::Closed`].
    Close,
}

/// Who connects. Connection `n` is in room `first_room + n / members`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Crowd {
    /// How the server is spoken to.
    pub(crate) dialect: Dialect,
    /// Where the server listens; connections take turns.
    pub(crate) targets: Vec<SocketAddr>,
    /// The first room's number.
    pub(crate) first_room: usize,
    /// Rooms.
    pub(crate) rooms: usize,
    /// Members of each room.
    pub(crate) members: usize,
    /// Connections that are made at the same time.
    pub(crate) at_once: usize,
    /// Connections come from 127.`source`.0.0/16.
    pub(crate) source: u8,
}

/// How fast messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// As fast as they come back: always this many deliveries are under way, and at least one message.
    Backlog(u64),
    /// Deliveries a second.
    Rate(f64),
}

/// From a load process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// Everybody is a member.
    Connected {
        /// From the order.
        seconds: f64,
    },
    /// Since the mark before.
    Marked {
        /// Messages received, by all members.
        deliveries: u64,
        /// Reads that brought them.
        reads: u64,
        /// From publish to delivery, in ns, of some of them.
        latency: Histogram,
    },
    /// Nothing is under way any more, or it did not come in time.
    Stopped {
        /// Deliveries that the published messages should have led to.
        due: u64,
        /// Deliveries that came.
        came: u64,
        /// Members that did not receive just what was published to their room.
        wrong: usize,
        /// What else went wrong.
        faults: Vec<String>,
        /// How late the latest publish at a given rate was, in ns.
        late: u64,
    },
    /// Every such message came back, or not in time.
    Said {
        /// Messages.
        due: u64,
        /// Those that came back, to their publisher alone if nobody else is in the room.
        came: u64,
        /// From the first publish to the last delivery.
        seconds: f64,
        /// From publish to delivery, in ns, of some of them.
        latency: Histogram,
        /// What went wrong.
        faults: Vec<String>,
    },
    /// No connection is open.
    Closed,
    /// The process can't go on.
    Failed(String),
}
