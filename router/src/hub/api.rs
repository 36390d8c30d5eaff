//! What sessions and the hub say to each other.
//!
//! A session (one client's connection) sends [`Command`]s; what comes back goes into the client's one queue as
//! [`ToClient`], so that a reply to a subscribe is always ahead of the first push of that room.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use roomring_proto::client::Format;
use roomring_proto::close::{CloseCode, ErrorCode};
use roomring_proto::{Epoch, RoomId, Seq, SlotId, v1};

use super::queue::ClientQueue;
use crate::frame::Frame;

/// How a client wants its pushes encoded. A push is encoded once per codec and room, and the bytes are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// Centrifuge client protocol.
    Centrifuge(Format),
    /// One JSON line per event, at `/rooms/{room}`.
    Plain,
}

/// A connected client as the hub sees it.
#[derive(Debug)]
pub struct Client {
    /// Id of the connection, unique in the cluster. Empty: the server itself, which nobody is shown.
    pub id: String,
    /// The user's name; empty for anonymous.
    pub user: String,
    /// JSON shown to others, or empty.
    pub conn_info: Bytes,
    /// Encoding of pushes.
    pub codec: Codec,
    /// Where everything for the client goes, in order.
    pub queue: ClientQueue,
}

/// The same connection.
impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Client {}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// A position in a room's history, as a client gives it: the epoch may be empty (not compared) or one we never gave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientPosition {
    /// As text.
    pub epoch: String,
    /// Last seq that the client has.
    pub seq: Seq,
}

/// A position in a room's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The history.
    pub epoch: Epoch,
    /// The last seq.
    pub seq: Seq,
}

/// What is taken back of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retracts {
    /// One publication.
    One {
        /// Its place.
        seq: Seq,
        /// Of this history; `None` = whichever it is.
        epoch: Option<Epoch>,
    },
    /// All of them.
    All,
}

/// What a session asks. `request` is echoed in the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Makes the client a member of the room.
    Subscribe {
        /// The command's id.
        request: u32,
        /// The room.
        room: RoomId,
        /// The client.
        client: Arc<Client>,
        /// Join and leave events are wanted.
        join_leave: bool,
        /// Continue after this position.
        recover: Option<ClientPosition>,
        /// If it can't be recovered answer error 112 and do not subscribe (flag bit 2).
        reject_unrecovered: bool,
    },
    /// Ends a membership. Nothing for the room follows in the queue once this was answered. Unknown ones are answered too.
    Unsubscribe {
        /// The command's id; `None` if nobody waits (the connection ended).
        request: Option<u32>,
        /// The room.
        room: RoomId,
        /// Id of the client.
        client: Arc<Client>,
    },
    /// Publishes to the room.
    Publish {
        /// The command's id.
        request: u32,
        /// The room.
        room: RoomId,
        /// The client.
        client: Arc<Client>,
        /// Payload, valid JSON without raw newlines.
        data: Bytes,
        /// Id given by the publisher, empty if none.
        id: String,
    },
    /// Takes back what was published.
    Retract {
        /// The command's id.
        request: u32,
        /// The room.
        room: RoomId,
        /// The client.
        client: Arc<Client>,
        /// What.
        what: Retracts,
        /// What stands in its place, as payloads of the room are.
        data: Bytes,
    },
    /// Reads history.
    History {
        /// The command's id.
        request: u32,
        /// The room.
        room: RoomId,
        /// The client.
        client: Arc<Client>,
        /// 0 = only the position, negative = all.
        limit: i32,
        /// Newest first.
        reverse: bool,
        /// Exclusive.
        since: Option<ClientPosition>,
    },
    /// Reads who is there.
    Presence {
        /// The command's id.
        request: u32,
        /// The room.
        room: RoomId,
        /// The client.
        client: Arc<Client>,
        /// Counts only.
        stats_only: bool,
    },
}

/// What a client is to be told, in order.
#[derive(Debug, Clone)]
pub enum ToClient {
    /// A push, ready in the client's codec, shared with the other members.
    Push(Frame),
    /// Answer to a subscribe.
    Subscribed {
        /// The command's id.
        request: u32,
        /// The room.
        room: RoomId,
        /// What was granted.
        result: Result<Subscribed, ErrorCode>,
    },
    /// Answer to an unsubscribe.
    Unsubscribed {
        /// The command's id.
        request: u32,
        /// The room.
        room: RoomId,
    },
    /// The server ended a membership: 2500 when the position was lost. Nothing follows for the room.
    Dropped {
        /// The room.
        room: RoomId,
        /// Why.
        code: CloseCode,
        /// Where the client stood: the last publication given to it. `None` if that means nothing any more.
        position: Option<Position>,
    },
    /// What the server wants of the connection.
    Order(Order),
    /// Answer to a publish.
    Published {
        /// The command's id.
        request: u32,
        /// What became of it.
        result: Result<Published, ErrorCode>,
    },
    /// Answer to a retraction.
    Retracted {
        /// The command's id.
        request: u32,
        /// Where the publication is that tells the members; `None`: there was nothing to take back.
        result: Result<Option<Position>, ErrorCode>,
    },
    /// Answer to a history command.
    History {
        /// The command's id.
        request: u32,
        /// The page.
        result: Result<History, ErrorCode>,
    },
    /// Answer to a presence or presence_stats command.
    Presence {
        /// The command's id.
        request: u32,
        /// Who is there.
        result: Result<Presence, ErrorCode>,
    },
}

/// What the server wants of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// To end.
    Disconnect(CloseCode),
    /// To be a member of the room.
    Subscribe(RoomId),
    /// To be a member of the room no longer.
    Unsubscribe(RoomId),
}

/// A granted subscription.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// Where the client stands: the requested position if recovered, else the top.
    pub position: Position,
    /// The client asked to recover.
    pub was_recovering: bool,
    /// Everything since its position follows, in `publications` and then in pushes.
    pub recovered: bool,
    /// What it missed, ascending; empty unless recovered.
    pub publications: Vec<v1::Publication>,
}

/// An acknowledged publish.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// Its place in the room.
    pub position: Position,
    /// The id was seen before: the position is that of the first.
    pub duplicate: bool,
}

/// An acknowledged publish of a client that others than its members are to be told of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// The room's slot.
    pub slot: SlotId,
    /// The room.
    pub room: RoomId,
    /// Who.
    pub client: Arc<Client>,
    /// The payload.
    pub data: Bytes,
    /// Id given by the publisher, empty if none.
    pub id: String,
    /// Its place in the room.
    pub position: Position,
}

/// A page of history.
#[derive(Debug, Clone)]
pub struct History {
    /// The top, not the page's end.
    pub top: Position,
    /// The page.
    pub publications: Vec<v1::Publication>,
}

/// Who is in a room.
#[derive(Debug, Clone)]
pub struct Presence {
    /// By connection id; empty when only counts were asked for.
    pub clients: BTreeMap<String, v1::ClientInfo>,
    /// Connections.
    pub num_clients: u32,
    /// Distinct users.
    pub num_users: u32,
}

impl Command {
    /// The room it is about.
    pub(super) fn room(&self) -> &RoomId {
        match self {
            Self::Subscribe { room, .. }
            | Self::Unsubscribe { room, .. }
            | Self::Publish { room, .. }
            | Self::Retract { room, .. }
            | Self::History { room, .. }
            | Self::Presence { room, .. } => room,
        }
    }

    /// Answers it with an error; an unsubscribe always works.
    pub(super) fn refuse(self, error: ErrorCode) {
        match self {
            Self::Subscribe { request, room, client, .. } => {
                client.queue.push(ToClient::Subscribed { request, room, result: Err(error) });
            }
            Self::Unsubscribe { request, room, client } => {
                if let Some(request) = request {
                    client.queue.push(ToClient::Unsubscribed { request, room });
                }
            }
            Self::Publish { request, client, .. } => {
                client.queue.push(ToClient::Published { request, result: Err(error) });
            }
            Self::Retract { request, client, .. } => {
                client.queue.push(ToClient::Retracted { request, result: Err(error) });
            }
            Self::History { request, client, .. } => {
                client.queue.push(ToClient::History { request, result: Err(error) });
            }
            Self::Presence { request, client, .. } => {
                client.queue.push(ToClient::Presence { request, result: Err(error) });
            }
        }
    }
}
