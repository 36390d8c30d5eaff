//! Commands out of a frame.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::NESTING;
use crate::client::{Command, Connect, History, Malformed, Request, Subscribe};

/// The commands of one frame, in order. After an error the rest of the frame is not to be used.
pub fn decode(frame: &[u8]) -> impl Iterator<Item = Result<Command, Malformed>> {
    // One newline at the end is tolerated, an empty line anywhere else is not.
    let frame = frame.strip_suffix(b"\n").unwrap_or(frame);
    frame.split(|&b| b == b'\n').map(command)
}

/// Checks that `data` is one JSON value that can be embedded in a command: not nested too deep. Gives it without
/// whitespace around it and without newlines.
///
/// # Errors
/// What is wrong with it.
pub fn embeddable(data: &[u8]) -> Result<Bytes, Malformed> {
    check_nesting(data)?;
    let raw: &RawValue = serde_json::from_slice(data)?;
    Ok(owned(raw))
}

fn command(line: &[u8]) -> Result<Command, Malformed> {
    if line.trim_ascii().is_empty() {
        return Err(Malformed::Empty);
    }
    check_nesting(line)?;
    let wire: Wire<'_> = serde_json::from_slice(line)?;
    Command::new(wire.id, wire.request()?)
}

/// The JSON parser skips unknown values and embedded payloads without recursion, so it sets no limit on them itself.
fn check_nesting(line: &[u8]) -> Result<(), Malformed> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in line {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > NESTING {
                    return Err(Malformed::TooDeep);
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// A command as it is on the wire. If several requests are set the first in this order counts.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    connect: Option<&'a RawValue>,
    #[serde(borrow)]
    subscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    unsubscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    publish: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    presence_stats: Option<&'a RawValue>,
    #[serde(borrow)]
    history: Option<&'a RawValue>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    send: Option<&'a RawValue>,
    #[serde(borrow)]
    rpc: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh: Option<&'a RawValue>,
    #[serde(borrow)]
    sub_refresh: Option<&'a RawValue>,
}

impl Wire<'_> {
    fn request(&self) -> Result<Option<Request>, Malformed> {
        let channel = |raw| parse::<WireChannel>(raw).map(|w| w.channel);
        Ok(Some(if let Some(raw) = self.connect {
            parse::<WireConnect<'_>>(raw)?.into()
        } else if let Some(raw) = self.subscribe {
            Request::Subscribe(parse::<WireSubscribe>(raw)?.into())
        } else if let Some(raw) = self.unsubscribe {
            Request::Unsubscribe { channel: channel(raw)? }
        } else if let Some(raw) = self.publish {
            let wire: WirePublish<'_> = parse(raw)?;
            Request::Publish { channel: wire.channel, data: payload(wire.data) }
        } else if let Some(raw) = self.presence {
            Request::Presence { channel: channel(raw)? }
        } else if let Some(raw) = self.presence_stats {
            Request::PresenceStats { channel: channel(raw)? }
        } else if let Some(raw) = self.history {
            parse::<WireHistory>(raw)?.into()
        } else if let Some(raw) = self.ping {
            parse::<WireEmpty>(raw)?;
            Request::Ping
        } else if let Some(raw) = self.send {
            parse::<WireEmpty>(raw)?;
            Request::Send
        } else if let Some(raw) = self.rpc {
            let wire: WireRpc<'_> = parse(raw)?;
            Request::Rpc { method: wire.method, data: payload(wire.data) }
        } else if let Some(raw) = self.refresh {
            Request::Refresh { token: parse::<WireRefresh>(raw)?.token }
        } else if let Some(raw) = self.sub_refresh {
            let wire: WireRefresh = parse(raw)?;
            Request::SubRefresh { channel: wire.channel, token: wire.token }
        } else {
            return Ok(None);
        }))
    }
}

fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Malformed> {
    // A request is an object; a derived parser would take an array of its fields too.
    if !raw.get().starts_with('{') {
        return Err(Malformed::Json("a request must be an object".into()));
    }
    Ok(serde_json::from_str(raw.get())?)
}

fn payload(raw: Option<&RawValue>) -> Bytes {
    raw.map_or_else(Bytes::new, owned)
}

fn owned(raw: &RawValue) -> Bytes {
    // Within valid JSON a raw newline can only be whitespace.
    if raw.get().contains('\n') {
        raw.get().replace('\n', " ").into()
    } else {
        Bytes::copy_from_slice(raw.get().as_bytes())
    }
}

#[derive(Deserialize)]
struct WireEmpty {}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct WireChannel {
    channel: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireConnect<'a> {
    token: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    subs: Option<BTreeMap<String, WireSubscribe>>,
    name: String,
    version: String,
}

impl From<WireConnect<'_>> for Request {
    fn from(w: WireConnect<'_>) -> Self {
        let subs = w.subs.unwrap_or_default().into_iter().map(|(channel, sub)| (channel, sub.into())).collect();
        Self::Connect(Connect { token: w.token, data: payload(w.data), subs, name: w.name, version: w.version })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireSubscribe {
    channel: String,
    token: String,
    recover: bool,
    epoch: String,
    offset: u64,
    positioned: bool,
    recoverable: bool,
    join_leave: bool,
    flag: i64,
    tf: Option<serde::de::IgnoredAny>,
}

impl From<WireSubscribe> for Subscribe {
    fn from(w: WireSubscribe) -> Self {
        Self {
            channel: w.channel,
            token: w.token,
            recover: w.recover,
            epoch: w.epoch,
            offset: w.offset,
            positioned: w.positioned,
            recoverable: w.recoverable,
            join_leave: w.join_leave,
            flag: w.flag,
            tags_filter: w.tf.is_some(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireRefresh {
    channel: String,
    token: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WirePublish<'a> {
    channel: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireHistory {
    channel: String,
    limit: i32,
    since: Option<WirePosition>,
    reverse: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WirePosition {
    offset: u64,
    epoch: String,
}

impl From<WireHistory> for Request {
    fn from(w: WireHistory) -> Self {
        Self::History(History {
            channel: w.channel,
            limit: w.limit,
            since: w.since.map(|p| (p.offset, p.epoch)),
            reverse: w.reverse,
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireRpc<'a> {
    method: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}
