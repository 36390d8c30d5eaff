//! What the server says, as far as the client reads it.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Closed;

/// An error in a reply. Code 0: the connection ended first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Error {
    /// The number SDKs act on.
    pub code: u32,
    /// For people.
    pub message: String,
    /// The SDK may try again by itself.
    #[serde(default)]
    pub temporary: bool,
}

impl Error {
    pub(super) fn closed(closed: &Closed) -> Self {
        Self { code: 0, message: format!("closed: {:?} {}", closed.code, closed.reason), temporary: false }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {} {:?}{}", self.code, self.message, if self.temporary { ", temporary" } else { "" })
    }
}

/// The head of a reply; the result under the method's name is read apart.
#[derive(Debug, Deserialize)]
pub(super) struct Reply {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) error: Option<Error>,
    pub(super) push: Option<Push>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Push {
    #[serde(default)]
    pub(super) channel: String,
    #[serde(rename = "pub")]
    pub(super) publication: Option<Publication>,
    pub(super) join: Option<Presence>,
    pub(super) leave: Option<Presence>,
    pub(super) unsubscribe: Option<Unsubscribe>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Publication {
    pub(super) data: Box<RawValue>,
    #[serde(default)]
    pub(super) offset: u64,
    pub(super) info: Option<Info>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Presence {
    pub(super) info: Info,
}

/// Both fields are always written.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) user: String,
    pub(super) client: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Unsubscribe {
    pub(super) code: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct SubscribeReply {
    pub(super) subscribe: Subscribed,
}

/// The part of a SubscribeResult that moves the client's position.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subscribed {
    pub(super) recoverable: bool,
    pub(super) epoch: String,
    pub(super) offset: u64,
    pub(super) was_recovering: bool,
    pub(super) recovered: bool,
    pub(super) publications: Vec<Publication>,
}
