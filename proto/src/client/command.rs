//! What a client asks.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Malformed;

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Echoed in the reply; 0 only for [`Request::Send`] and [`Request::Pong`], which get none.
    pub id: u32,
    /// What is asked.
    pub request: Request,
}

impl Command {
    /// A command as it came. Only `send` may come without an id: everything else without one counts as a pong.
    pub(super) fn new(id: u32, request: Option<Request>) -> Result<Self, Malformed> {
        match request {
            Some(request) if id != 0 || request == Request::Send => Ok(Self { id, request }),
            None if id != 0 => Err(Malformed::NoRequest(id)),
            Some(_) | None => Ok(Self { id: 0, request: Request::Pong }),
        }
    }
}

/// What a command asks. Payloads are in the connection's encoding; empty means absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opens the session.
    Connect(Connect),
    /// Joins a channel.
    Subscribe(Subscribe),
    /// Leaves a channel.
    Unsubscribe {
        /// Its name.
        channel: String,
    },
    /// Publishes to a channel.
    Publish {
        /// Its name.
        channel: String,
        /// The payload.
        data: Bytes,
    },
    /// Asks who is in a channel.
    Presence {
        /// Its name.
        channel: String,
    },
    /// Asks how many are in a channel.
    PresenceStats {
        /// Its name.
        channel: String,
    },
    /// Asks for old publications.
    History(History),
    /// Asks for a reply, nothing else.
    Ping,
    /// A message without an answer.
    Send,
    /// Calls a method of the server.
    Rpc {
        /// The method.
        method: String,
        /// Its arguments.
        data: Bytes,
    },
    /// Renews the connection's token.
    Refresh {
        /// The new one.
        token: String,
    },
    /// Renews a subscription's token.
    SubRefresh {
        /// The channel.
        channel: String,
        /// The new one.
        token: String,
    },
    /// Answer to the server's ping.
    Pong,
}

/// Opens the session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// Says who it is; empty if it does not.
    pub token: String,
    /// Given by the application.
    pub data: Bytes,
    /// Where it stands in server-side subscriptions, by channel.
    pub subs: BTreeMap<String, Subscribe>,
    /// Name of the SDK.
    pub name: String,
    /// Version of the SDK or application.
    pub version: String,
}

/// Joins a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscribe {
    /// The channel.
    pub channel: String,
    /// Says that it may; empty if it does not.
    pub token: String,
    /// Continue after `offset` of `epoch`.
    pub recover: bool,
    /// May be empty: not compared.
    pub epoch: String,
    /// Last offset that the client has.
    pub offset: u64,
    /// Loss is to be noticed.
    pub positioned: bool,
    /// Recovery is wanted.
    pub recoverable: bool,
    /// Join and leave pushes are wanted.
    pub join_leave: bool,
    /// Bits of [`Subscribe::REJECT_UNRECOVERED`] and others that this server ignores.
    pub flag: i64,
    /// A filter on tags is asked for.
    pub tags_filter: bool,
}

impl Subscribe {
    /// Refuse with error 112 rather than answer `recovered: false`.
    pub const REJECT_UNRECOVERED: i64 = 2;
}

/// Asks for old publications.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The channel.
    pub channel: String,
    /// 0 = only the position, negative = all.
    pub limit: i32,
    /// Exclusive: (offset, epoch).
    pub since: Option<(u64, String)>,
    /// Newest first.
    pub reverse: bool,
}
