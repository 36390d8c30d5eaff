//! One client's connection: a pure state machine per protocol, and the task that pumps a WebSocket through it.

mod centrifuge;
mod control;
mod few;
pub mod frames;
mod identity;
mod plain;
mod policy;
mod questions;
mod rpc;
pub(crate) mod stream;
pub mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roomring_proto::RoomId;
use roomring_proto::client::Format;
use roomring_proto::close::CloseCode;

use crate::auth::{ConnectionToken, Lookup, NotKnown, Question, Verdict};
use crate::hub::api::{Client, Command, ToClient};
use crate::limits::Rate;

pub use centrifuge::Centrifuge;
pub use identity::{BadUser, ClientId, User};
pub use plain::Plain;
pub use policy::{Clock, Policy};

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// A whole message of the client. Text or binary: protocols that care are told.
    Message {
        /// Its payload.
        data: &'a [u8],
        /// It came as text.
        text: bool,
    },
    /// Native WebSocket pong.
    Pong,
    /// From the client's queue.
    Hub(ToClient),
    /// What a lookup found.
    Found(Result<ConnectionToken, NotKnown>),
    /// The answer to a question about this room.
    Verdict(RoomId, Verdict),
    /// The deadline of [`Machine::next_deadline`] passed.
    Tick,
}

/// What a session wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// A text frame, or a binary one: see [`Machine::binary`].
    Write(Bytes),
    /// A native WebSocket ping.
    Ping,
    /// A command to the hub.
    Hub(Command),
    /// To be waited for; what it finds is the next input.
    Lookup(Lookup),
    /// To be asked while everything goes on; the answer is an input.
    Ask(Question),
    /// Everything before this goes out, then the connection is closed.
    Close(CloseCode),
}

/// One client's session. No clock, no socket: what happens goes in, what is to be done comes out.
pub trait Machine {
    /// Opens the session. Called once, first.
    fn start(&mut self, now: Instant, out: &mut Vec<Output>);

    /// Takes one input. After an [`Output::Close`] inputs are ignored.
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Output>);

    /// What is written goes into binary frames.
    fn binary(&self) -> bool {
        false
    }

    /// When [`Input::Tick`] is due.
    fn next_deadline(&self) -> Option<Instant>;

    /// The client as the hub knows it, whose queue is to be emptied into [`Input::Hub`]; `None` before it is known.
    fn client(&self) -> Option<&Arc<Client>>;

    /// The memberships to be ended when the connection is gone.
    fn rooms(&self) -> Vec<RoomId>;
}

/// How a connection is spoken on. Fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transport {
    /// The encoding.
    pub format: Format,
    /// Native WebSocket pings instead of the protocol's, for tools that answer those by themselves.
    pub native_pings: bool,
    /// The secret of a session over HTTP.
    pub session: Option<u128>,
}

/// A client's share of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Interval of pings.
    pub ping: Duration,
    /// Time for the answer to a ping, less than `ping`.
    pub pong_timeout: Duration,
    /// Time for the connect command.
    pub connect_timeout: Duration,
    /// Bound of the client's queue.
    pub queue_bytes: usize,
    /// Most rooms a client may be in.
    pub rooms: usize,
    /// How often it may command something; `None` = as often as it likes.
    pub commands: Option<Rate>,
}

/// Commands in a row that are refused as too fast before the connection is closed.
const TOO_FAST: u32 = 100;

/// Most commands of one client that may be waiting for their answer. SDKs send at most a burst of subscribes on reconnect;
/// the hub's own queues hold what is in flight, so one client must not fill them.
const IN_FLIGHT: usize = 1_024;
