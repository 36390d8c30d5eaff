//! Replies and pushes. Field order is that of the protocol's field numbers; zero values are left out except where the
//! protocol always has them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::client::{Answer, Connected, Push, Reply, Subscribed, tags};
use crate::close::{CloseCode, ErrorCode};
use crate::v1;

/// The server's ping.
pub const PING: Bytes = Bytes::from_static(b"{}");

/// A reply, as one line without its newline.
pub fn encode(reply: &Reply) -> Bytes {
    to_bytes(&WireReply(reply))
}

/// As [`encode`], at the end of `out`.
pub fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    write(&WireReply(reply), out);
}

/// A push that ends a connection which is no WebSocket, as one line without its newline.
pub fn disconnect(code: u16, reason: &str) -> Bytes {
    let push = serde_json::json!({"push": {"disconnect": {"code": code, "reason": reason}}});
    push.to_string().into()
}

/// A push for `channel`, as one line without its newline.
pub fn push(channel: &str, push: &Push<'_>) -> Bytes {
    let mut out = Vec::new();
    write_push(channel, push, &mut out);
    out.into()
}

/// As [`push`], at the end of `out`.
pub fn write_push(channel: &str, push: &Push<'_>, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Outer<'a> {
        push: WirePush<'a>,
    }
    let nothing = WirePush { channel, ..WirePush::default() };
    let push = match *push {
        Push::Publication(publication) => WirePush { publication: Some(publication.into()), ..nothing },
        Push::Join(info) => WirePush { join: Some(WithInfo { info: info.into() }), ..nothing },
        Push::Leave(info) => WirePush { leave: Some(WithInfo { info: info.into() }), ..nothing },
        Push::Unsubscribe(CloseCode { code, reason }) => {
            WirePush { unsubscribe: Some(WireUnsubscribe { code, reason }), ..nothing }
        }
        Push::Subscribe { epoch, offset, recoverable } => {
            let (epoch, positioned) = (epoch.to_string(), true);
            let subscribe = WireSubscribePush { recoverable, epoch, offset: offset.0, positioned };
            WirePush { subscribe: Some(subscribe), ..nothing }
        }
    };
    write(&Outer { push }, out);
}

pub(crate) fn to_bytes(value: &impl Serialize) -> Bytes {
    let mut out = Vec::new();
    write(value, &mut out);
    out.into()
}

fn write(value: &impl Serialize, out: &mut Vec<u8>) {
    // Keys are strings and nothing else in these types can fail to be written.
    serde_json::to_writer(out, value).expect("our own messages can be written as JSON");
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A payload inside a message. Publishers' payloads are checked when they come in; one that is no JSON all the same (from a
/// node of another release) is shown as a string rather than break the frame.
pub(crate) struct Embedded<'a>(pub(crate) &'a [u8]);

impl Serialize for Embedded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_slice::<&RawValue>(self.0) {
            Ok(raw) if !raw.get().contains('\n') => raw.serialize(serializer),
            Ok(raw) => match RawValue::from_string(raw.get().replace('\n', " ")) {
                Ok(raw) => raw.serialize(serializer),
                Err(_) => serializer.serialize_unit(),
            },
            Err(_) => String::from_utf8_lossy(self.0).serialize(serializer),
        }
    }
}

fn embedded(bytes: &Bytes) -> Option<Embedded<'_>> {
    (!bytes.is_empty()).then_some(Embedded(bytes))
}

struct WireReply<'a>(&'a Reply);

impl Serialize for WireReply<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("id", &self.0.id)?;
        match &self.0.result {
            Err(error) => map.serialize_entry("error", &WireError::from(*error))?,
            Ok(Answer::Connect(c)) => map.serialize_entry("connect", &WireConnect::from(c))?,
            Ok(Answer::Subscribe(s)) => map.serialize_entry("subscribe", &WireSubscribe::from(s))?,
            Ok(Answer::Unsubscribe) => map.serialize_entry("unsubscribe", &Empty {})?,
            Ok(Answer::Publish) => map.serialize_entry("publish", &Empty {})?,
            Ok(Answer::Presence(clients)) => {
                let presence = clients.iter().map(|(id, info)| (id.as_str(), info.into())).collect();
                map.serialize_entry("presence", &WirePresence { presence })?;
            }
            Ok(Answer::PresenceStats { num_clients, num_users }) => {
                map.serialize_entry("presence_stats", &WireStats { num_clients: *num_clients, num_users: *num_users })?;
            }
            Ok(Answer::History { publications, epoch, offset }) => {
                let publications = publications.iter().map(Into::into).collect();
                let history = WireHistory { publications, epoch: epoch.to_string(), offset: offset.0 };
                map.serialize_entry("history", &history)?;
            }
            Ok(Answer::Ping) => map.serialize_entry("ping", &Empty {})?,
            Ok(Answer::Refresh { ttl }) => map.serialize_entry("refresh", &WireExpiry::from(*ttl))?,
            Ok(Answer::SubRefresh { ttl }) => map.serialize_entry("sub_refresh", &WireExpiry::from(*ttl))?,
            Ok(Answer::Rpc(data)) => map.serialize_entry("rpc", &WireRpc { data: embedded(data) })?,
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct WireError {
    code: u32,
    message: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    temporary: bool,
}

impl From<ErrorCode> for WireError {
    fn from(e: ErrorCode) -> Self {
        Self { code: e.code, message: e.message, temporary: e.temporary }
    }
}

#[derive(Serialize)]
struct WireExpiry {
    #[serde(skip_serializing_if = "is_zero")]
    expires: bool,
    #[serde(skip_serializing_if = "is_zero")]
    ttl: u32,
}

impl From<Option<u32>> for WireExpiry {
    fn from(ttl: Option<u32>) -> Self {
        Self { expires: ttl.is_some(), ttl: ttl.unwrap_or(0) }
    }
}

#[derive(Serialize)]
struct WireConnect<'a> {
    client: &'a str,
    version: &'a str,
    #[serde(flatten)]
    expiry: WireExpiry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    subs: BTreeMap<&'a str, WireSubscribe<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    ping: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pong: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    session: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
}

impl<'a> From<&'a Connected> for WireConnect<'a> {
    fn from(c: &'a Connected) -> Self {
        Self {
            client: &c.client,
            version: &c.version,
            expiry: c.ttl.into(),
            subs: c.subs.iter().map(|(channel, sub)| (channel.as_str(), sub.into())).collect(),
            ping: c.ping,
            pong: c.pong,
            session: &c.session,
            node: &c.node,
        }
    }
}

#[derive(Serialize)]
struct WireSubscribe<'a> {
    #[serde(flatten)]
    expiry: WireExpiry,
    #[serde(skip_serializing_if = "is_zero")]
    recoverable: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    epoch: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publications: Vec<WirePublication<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    recovered: bool,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    positioned: bool,
    #[serde(skip_serializing_if = "is_zero")]
    was_recovering: bool,
}

impl<'a> From<&'a Subscribed> for WireSubscribe<'a> {
    fn from(s: &'a Subscribed) -> Self {
        Self {
            expiry: s.ttl.into(),
            recoverable: s.recoverable,
            epoch: s.epoch.to_string(),
            publications: s.publications.iter().map(Into::into).collect(),
            recovered: s.recovered,
            offset: s.offset.0,
            positioned: true,
            was_recovering: s.was_recovering,
        }
    }
}

#[derive(Serialize)]
struct WirePresence<'a> {
    presence: BTreeMap<&'a str, WireInfo<'a>>,
}

#[derive(Serialize)]
struct WireStats {
    num_clients: u32,
    num_users: u32,
}

#[derive(Serialize)]
struct WireHistory<'a> {
    publications: Vec<WirePublication<'a>>,
    epoch: String,
    offset: u64,
}

#[derive(Serialize)]
struct WireRpc<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Embedded<'a>>,
}

#[derive(Serialize, Default)]
struct WirePush<'a> {
    channel: &'a str,
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    publication: Option<WirePublication<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    join: Option<WithInfo<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leave: Option<WithInfo<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsubscribe: Option<WireUnsubscribe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribe: Option<WireSubscribePush>,
}

#[derive(Serialize)]
struct WireSubscribePush {
    recoverable: bool,
    epoch: String,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    positioned: bool,
}

#[derive(Serialize)]
struct WithInfo<'a> {
    info: WireInfo<'a>,
}

#[derive(Serialize)]
struct WireUnsubscribe {
    code: u16,
    reason: &'static str,
}

#[derive(Serialize)]
struct WirePublication<'a> {
    data: Embedded<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<WireAuthor<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<WireTags<'a>>,
}

struct WireAuthor<'a>(&'a v1::Publication);

impl Serialize for WireAuthor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.author().as_ref().map(WireInfo::from).serialize(serializer)
    }
}

struct WireTags<'a>(&'a v1::Publication);

impl Serialize for WireTags<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(tags(self.0))
    }
}

impl<'a> From<&'a v1::Publication> for WirePublication<'a> {
    fn from(p: &'a v1::Publication) -> Self {
        Self {
            data: Embedded(&p.data),
            info: (!p.info.is_empty()).then_some(WireAuthor(p)),
            offset: p.seq,
            tags: tags(p).next().is_some().then_some(WireTags(p)),
        }
    }
}

#[derive(Serialize)]
struct WireInfo<'a> {
    user: &'a str,
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<Embedded<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<Embedded<'a>>,
}

impl<'a> From<&'a v1::ClientInfo> for WireInfo<'a> {
    fn from(c: &'a v1::ClientInfo) -> Self {
        Self { user: &c.user, client: &c.client, conn_info: embedded(&c.conn_info), chan_info: embedded(&c.chan_info) }
    }
}
