//! What the server says, as far as the client reads it.

use std::collections::BTreeMap;
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
pub(crate) struct Reply {
    #[serde(default)]
    pub(crate) id: u32,
    pub(crate) error: Option<Error>,
    pub(crate) push: Option<Push>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Push {
    #[serde(default)]
    pub(crate) channel: String,
    #[serde(rename = "pub")]
    pub(crate) publication: Option<Publication>,
    pub(crate) join: Option<Presence>,
    pub(crate) leave: Option<Presence>,
    pub(crate) unsubscribe: Option<Unsubscribe>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Publication {
    pub(crate) data: Box<RawValue>,
    #[serde(default)]
    pub(crate) offset: u64,
    pub(crate) info: Option<Info>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Presence {
    pub(crate) info: Info,
}

/// Both fields are always written.
#[derive(Debug, Deserialize)]
pub(crate) struct Info {
    pub(crate) user: String,
    pub(crate) client: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Unsubscribe {
    pub(crate) code: u32,
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
    pub(crate) offset: u64,
    pub(super) was_recovering: bool,
    pub(super) recovered: bool,
    pub(super) publications: Vec<Publication>,
}
