//! Commands out of a frame.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::NESTING;
use crate::client::{Command, Connect, History, Request, Subscribe};

/// A frame that breaks the protocol. The connection ends with close code 3501.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The frame, or a line within it, is empty.
    #[error("empty command")]
    Empty,
    /// Nested deeper than [`NESTING`].
    #[error("nested deeper than {NESTING} levels")]
    TooDeep,
    /// Not JSON, or a field of the wrong type.
    #[error("{0}")]
    Json(String),
    /// An id, but nothing that this protocol asks.
    #[error("command {0} has no request")]
    NoRequest(u32),
}

impl From<serde_json::Error> for Malformed {
    fn from(e: serde_json::Error) -> Self {
        Self::Json(e.to_string())
    }
}

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
    let Some(request) = wire.request()? else {
        return if wire.id == 0 { Ok(pong()) } else { Err(Malformed::NoRequest(wire.id)) };
    };
    // Only `send` may come without an id; everything else without one counts as a pong.
    if wire.id == 0 && request != Request::Send { Ok(pong()) } else { Ok(Command { id: wire.id, request }) }
}

fn pong() -> Command {
    Command { id: 0, request: Request::Pong }
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
            parse::<WireSubscribe>(raw)?.into()
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
            parse::<WireEmpty>(raw)?;
            Request::Refresh
        } else if let Some(raw) = self.sub_refresh {
            Request::SubRefresh { channel: channel(raw)? }
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
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    name: String,
    version: String,
}

impl From<WireConnect<'_>> for Request {
    fn from(w: WireConnect<'_>) -> Self {
        Self::Connect(Connect { data: payload(w.data), name: w.name, version: w.version })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireSubscribe {
    channel: String,
    recover: bool,
    epoch: String,
    offset: u64,
    join_leave: bool,
    flag: i64,
    tf: Option<serde::de::IgnoredAny>,
}

impl From<WireSubscribe> for Request {
    fn from(w: WireSubscribe) -> Self {
        Self::Subscribe(Subscribe {
            channel: w.channel,
            recover: w.recover,
            epoch: w.epoch,
            offset: w.offset,
            join_leave: w.join_leave,
            flag: w.flag,
            tags_filter: w.tf.is_some(),
        })
    }
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
