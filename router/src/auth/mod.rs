//! Who a client is, and what a token lets it do.
//!
//! Tokens are checked at once, against a time that is handed in and the keys that are there. What others have to be asked about
//! (`outside`) a session wants as a [`Lookup`], which its task waits for.

mod claims;
mod fetch;
mod jwks;
mod jwt;
mod outside;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use roomring_proto::RoomId;

pub use claims::BadClaim;
pub(crate) use fetch::cause;
pub use jwks::Jwks;
pub use jwt::{BadKey, Tokens};
pub use outside::{
    Act, ConnectCall, Lookup, NotKnown, Outside, PermitCall, Permits, Question, SessionCookie, Shown, Verdict,
};

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
    /// Nobody can tell yet: the keys it was signed with are being fetched.
    #[error("the key is not known yet")]
    Later,
    /// It never was. The text is for logs.
    #[error("invalid token: {0}")]
    Invalid(String),
}

/// What a connection token grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionToken {
    /// A signature vouches for it: it may have been revoked.
    pub signed: bool,
    /// When it was made, if it says so.
    pub issued: Option<Unix>,
    /// Who; anonymous if it names nobody.
    pub user: User,
    /// JSON shown to others, or empty.
    pub info: Bytes,
    /// When the connection is over unless it is refreshed; `None` = never.
    pub expires: Option<Unix>,
    /// Rooms that the server joins for the client.
    pub rooms: BTreeMap<RoomId, Overrides>,
}

impl ConnectionToken {
    /// What is granted to whoever is taken for `user` without a token.
    pub fn unsigned(user: User) -> Self {
        Self { signed: false, issued: None, user, info: Bytes::new(), expires: None, rooms: BTreeMap::new() }
    }
}

/// What a subscription token grants: joining the room it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionToken {
    /// When it was made, if it says so.
    pub issued: Option<Unix>,
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
    pub tokens: Option<Tokens>,
    /// Who is asked about clients without a token.
    pub outside: Option<Arc<Outside>>,
    /// Who is asked what clients may do, in rooms that want it.
    pub permits: Option<Arc<Permits>>,
    /// A client without a token may connect, as nobody.
    pub anonymous: bool,
    /// A client without a token is whoever it says it is.
    pub insecure_names: bool,
}

impl Auth {
    /// Everybody is who they say they are.
    pub const fn insecure() -> Self {
        Self { tokens: None, outside: None, permits: None, anonymous: true, insecure_names: true }
    }
}
