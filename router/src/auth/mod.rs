//! Who a client is, and what a token lets it do. Pure: tokens are checked against a time that is handed in.

mod claims;
mod jwt;

use std::collections::BTreeMap;

use bytes::Bytes;
use roomring_proto::RoomId;

pub use claims::BadClaim;
pub use jwt::{Hmac, ShortSecret};

use crate::session::User;

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unix(pub u64);

/// A token that grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It was good once: the application has to make another.
    #[error("the token is expired")]
    Expired,
    /// It never was. The text is for logs.
    #[error("invalid token: {0}")]
    Invalid(String),
}

/// What a connection token grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionToken {
    /// Who; anonymous if it names nobody.
    pub user: User,
    /// JSON shown to others, or empty.
    pub info: Bytes,
    /// When the connection is over unless it is refreshed; `None` = never.
    pub expires: Option<Unix>,
    /// Rooms that the server joins for the client.
    pub rooms: BTreeMap<RoomId, Overrides>,
}

/// What a subscription token grants: joining the room it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionToken {
    /// Must be the connection's.
    pub user: User,
    /// The room.
    pub room: RoomId,
    /// If set it must be the connection's id.
    pub client: Option<String>,
    /// When the membership is over unless it is refreshed; `None` = never.
    pub expires: Option<Unix>,
    /// Options that hold for this member.
    pub overrides: Overrides,
}

/// Options of a room that a token sets for its bearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// It may be told of joins and leaves.
    pub join_leave: Option<bool>,
    /// It is told of joins and leaves.
    pub force_join_leave: Option<bool>,
    /// It is to recover.
    pub force_recovery: Option<bool>,
}

/// How clients are told apart.
#[derive(Debug, Default)]
pub struct Auth {
    /// Checks tokens; without it none is looked at.
    pub tokens: Option<Hmac>,
    /// A client without a token may connect, as nobody.
    pub anonymous: bool,
    /// A client without a token is whoever it says it is.
    pub insecure_names: bool,
}

impl Auth {
    /// Everybody is who they say they are.
    pub const fn insecure() -> Self {
        Self { tokens: None, anonymous: true, insecure_names: true }
    }
}
