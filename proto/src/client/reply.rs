//! What a client is answered.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::close::ErrorCode;
use crate::{Epoch, Seq, v1};

/// The answer to the command `id`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The command's id.
    pub id: u32,
    /// The answer.
    pub result: Result<Answer, ErrorCode>,
}

/// What a command gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The session is open.
    Connect(Connected),
    /// The channel is joined.
    Subscribe(Subscribed),
    /// The channel is left.
    Unsubscribe,
    /// The publication was taken.
    Publish,
    /// Who is there, by connection id.
    Presence(BTreeMap<String, v1::ClientInfo>),
    /// How many are there.
    PresenceStats {
        /// Connections.
        num_clients: u32,
        /// Distinct users.
        num_users: u32,
    },
    /// A page of history.
    History {
        /// The page.
        publications: Vec<v1::Publication>,
        /// The history.
        epoch: Epoch,
        /// Its top, not the page's end.
        offset: Seq,
    },
    /// Still here.
    Ping,
    /// What the method gave, in the connection's encoding.
    Rpc(Bytes),
    /// The connection's token was renewed.
    Refresh {
        /// As of [`Connected::ttl`].
        ttl: Option<u32>,
    },
    /// The subscription's token was renewed.
    SubRefresh {
        /// As of [`Subscribed::ttl`].
        ttl: Option<u32>,
    },
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Connected {
    /// The connection's id.
    pub client: String,
    /// The server's release.
    pub version: String,
    /// Seconds until it expires unless it is refreshed, at least 1; `None` = never.
    pub ttl: Option<u32>,
    /// Server-side subscriptions, by channel.
    pub subs: BTreeMap<String, Subscribed>,
    /// Interval of the server's pings in seconds; 0 = none.
    pub ping: u32,
    /// Pings are to be answered.
    pub pong: bool,
    /// Over HTTP only: the secret that requests of the client show. Empty on WebSockets.
    pub session: String,
    /// Over HTTP only: where these are to go.
    pub node: String,
}

/// A joined channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribed {
    /// Seconds until it expires unless it is refreshed, at least 1; `None` = never.
    pub ttl: Option<u32>,
    /// The client is to remember its position and to recover from it. If not, it is told of none.
    pub recoverable: bool,
    /// The history.
    pub epoch: Epoch,
    /// Where the client stands before `publications`.
    pub offset: Seq,
    /// The client asked to recover.
    pub was_recovering: bool,
    /// Everything since its position follows.
    pub recovered: bool,
    /// What it missed, ascending.
    pub publications: Vec<v1::Publication>,
}
