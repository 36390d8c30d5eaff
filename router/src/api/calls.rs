//! The calls of the business server, as they come in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use roomring_proto::client::json;
use roomring_proto::{RoomId, limits};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::problem::Problem;
use crate::namespaces::{Namespaces, Payload};

/// Every method, as in its address.
pub(super) const METHODS: [&str; 16] = [
    "publish",
    "broadcast",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "delete",
    "channels",
    "info",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "revoke",
    "ban",
    "unban",
    "batch",
];

/// Most channels of a broadcast, and most commands of a batch.
const MANY: usize = 1_000;

/// Longest time that something may be denied for, in seconds: ten years.
const LONGEST: u64 = 10 * 366 * 24 * 3_600;

/// A call that is not a batch.
#[derive(Debug)]
pub(super) enum Call {
    Publish { rooms: Vec<RoomId>, data: Given, id: String, one: bool },
    Presence { room: RoomId, stats_only: bool },
    History { room: RoomId, limit: i32, since: Option<Since>, reverse: bool },
    HistoryRemove { room: RoomId },
    Delete { room: RoomId, at: Since },
    Channels { pattern: String },
    Info,
    Subscribe { whom: Whom, room: RoomId },
    Unsubscribe { whom: Whom, room: RoomId },
    Disconnect { whom: Whom, reconnect: bool },
    Revoke { user: String, seconds: u64 },
    Ban { user: String, room: Option<RoomId>, seconds: u64 },
    Unban { user: String, room: Option<RoomId> },
}

/// Several calls.
#[derive(Debug)]
pub(super) struct Batch {
    /// Name and arguments of each.
    pub(super) calls: Vec<(String, Box<RawValue>)>,
    /// All at once, in no order.
    pub(super) parallel: bool,
}

/// A payload as it was given.
#[derive(Debug)]
pub(super) enum Given {
    Json(Bytes),
    Binary(Vec<u8>),
}

/// A place in a room's history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Since {
    pub(super) offset: u64,
    #[serde(default)]
    pub(super) epoch: String,
}

/// Connections of a user.
#[derive(Debug)]
pub(super) struct Whom {
    pub(super) user: String,
    /// Empty = all.
    pub(super) client: String,
}

impl Given {
    /// The payload as rooms of this kind have it.
    pub(super) fn payload(&self, room: &RoomId, namespaces: &Namespaces) -> Result<Bytes, Problem> {
        let options = namespaces.of(room)?;
        let payload = match (options.payload, self) {
            (Payload::Json, Self::Json(data)) => data.clone(),
            (Payload::Json, Self::Binary(data)) => json::embeddable(data).map_err(|e| Problem::bad("b64data", e))?,
            (Payload::Binary, Self::Json(data)) => data.clone(),
            (Payload::Binary, Self::Binary(data)) => data.clone().into(),
        };
        if payload.len() > limits::PAYLOAD_BYTES {
            let problem = format!("has {} bytes, the limit is {}", payload.len(), limits::PAYLOAD_BYTES);
            return Err(Problem::limit("data", problem));
        }
        Ok(payload)
    }
}

impl Batch {
    /// Reads `{"commands": [{"publish": {...}}, ...], "parallel": false}`.
    pub(super) fn parse(arguments: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire {
            commands: Vec<std::collections::BTreeMap<String, Box<RawValue>>>,
            #[serde(default)]
            parallel: bool,
        }
        let wire: Wire = read(arguments)?;
        if wire.commands.len() > MANY {
            return Err(Problem::limit("commands", format!("at most {MANY} at once")));
        }
        let mut calls = Vec::with_capacity(wire.commands.len());
        for mut command in wire.commands {
            match (command.pop_first(), command.is_empty()) {
                (Some(call), true) => calls.push(call),
                _ => return Err(Problem::bad("commands", "each has one method")),
            }
        }
        Ok(Self { calls, parallel: wire.parallel })
    }
}

impl Call {
    /// Reads the arguments of `method`.
    pub(super) fn parse(method: &str, arguments: &[u8]) -> Result<Self, Problem> {
        Ok(match method {
            "publish" => read::<Publish<'_>>(arguments)?.check()?,
            "broadcast" => read::<Broadcast<'_>>(arguments)?.check()?,
            "presence" => Self::Presence { room: read::<Channel>(arguments)?.room()?, stats_only: false },
            "presence_stats" => Self::Presence { room: read::<Channel>(arguments)?.room()?, stats_only: true },
            "history" => read::<History>(arguments)?.check()?,
            "history_remove" => Self::HistoryRemove { room: read::<Channel>(arguments)?.room()? },
            "delete" => {
                let Delete { channel, offset, epoch } = read(arguments)?;
                if offset == 0 {
                    return Err(Problem::bad("offset", "nothing has it: the first is 1"));
                }
                Self::Delete { room: room(&channel)?, at: Since { offset, epoch } }
            }
            "channels" => Self::Channels { pattern: read::<Channels>(arguments)?.pattern },
            "info" => read::<Nothing>(arguments).map(|Nothing {}| Self::Info)?,
            "subscribe" => read::<Member>(arguments)?.check().map(|(whom, room)| Self::Subscribe { whom, room })?,
            "unsubscribe" => read::<Member>(arguments)?.check().map(|(whom, room)| Self::Unsubscribe { whom, room })?,
            "disconnect" => {
                let Disconnect { user, client, reconnect } = read(arguments)?;
                Self::Disconnect { whom: whom(user, client)?, reconnect }
            }
            "revoke" => {
                let Revoke { user, seconds } = read(arguments)?;
                Self::Revoke { user: named(user)?, seconds: lasting(seconds)? }
            }
            "ban" => {
                let Ban { user, channel, seconds } = read(arguments)?;
                let room = channel.as_deref().map(room).transpose()?;
                Self::Ban { user: named(user)?, room, seconds: lasting(seconds)? }
            }
            "unban" => {
                let Unban { user, channel } = read(arguments)?;
                Self::Unban { user: named(user)?, room: channel.as_deref().map(room).transpose()? }
            }
            "batch" => return Err(Problem::bad("commands", "a batch can't be part of a batch")),
            _ => return Err(Problem::from(roomring_proto::close::ErrorCode::METHOD_NOT_FOUND)),
        })
    }
}

/// Reads an object; no body at all is an empty one.
fn read<'a, T: Deserialize<'a>>(arguments: &'a [u8]) -> Result<T, Problem> {
    let arguments = if arguments.trim_ascii().is_empty() { b"{}" } else { arguments };
    // A derived parser would take an array of the fields too.
    if !arguments.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::unreadable("expected a JSON object"));
    }
    serde_json::from_slice(arguments).map_err(Problem::unreadable)
}

fn room(name: &str) -> Result<RoomId, Problem> {
    RoomId::new(name).map_err(|e| Problem::bad("channel", e))
}

fn named(user: String) -> Result<String, Problem> {
    if user.is_empty() { Err(Problem::bad("user", "must not be empty")) } else { Ok(user) }
}

fn whom(user: String, client: String) -> Result<Whom, Problem> {
    if user.is_empty() && client.is_empty() {
        return Err(Problem::bad("user", "must not be empty unless a client is named: nobody's connections are many"));
    }
    Ok(Whom { user, client })
}

fn lasting(seconds: u64) -> Result<u64, Problem> {
    match seconds {
        1..=LONGEST => Ok(seconds),
        _ => Err(Problem::bad("seconds", format!("must be 1 to {LONGEST}"))),
    }
}

fn given(data: Option<&RawValue>, b64data: Option<String>) -> Result<Given, Problem> {
    match (data, b64data) {
        (Some(data), None) => {
            let data = json::embeddable(data.get().as_bytes()).map_err(|e| Problem::bad("data", e))?;
            Ok(Given::Json(data))
        }
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(data) if data.is_empty() => Err(Problem::bad("b64data", "must not be empty")),
            Ok(data) => Ok(Given::Binary(data)),
            Err(e) => Err(Problem::bad("b64data", e)),
        },
        (Some(_), Some(_)) => Err(Problem::bad("b64data", "only one of data and b64data may be given")),
        (None, None) => Err(Problem::bad("data", "missing")),
    }
}

fn id(id: String) -> Result<String, Problem> {
    if id.len() > limits::PUBLISH_ID_BYTES {
        let problem = format!("has {} bytes, the limit is {}", id.len(), limits::PUBLISH_ID_BYTES);
        return Err(Problem::limit("idempotency_key", problem));
    }
    Ok(id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    channel: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    #[serde(default)]
    idempotency_key: String,
}

impl Publish<'_> {
    fn check(self) -> Result<Call, Problem> {
        let (rooms, data) = (vec![room(&self.channel)?], given(self.data, self.b64data)?);
        Ok(Call::Publish { rooms, data, id: id(self.idempotency_key)?, one: true })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Broadcast<'a> {
    channels: Vec<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    #[serde(default)]
    idempotency_key: String,
}

impl Broadcast<'_> {
    fn check(self) -> Result<Call, Problem> {
        if self.channels.len() > MANY {
            return Err(Problem::limit("channels", format!("at most {MANY} at once")));
        }
        let rooms = self.channels.iter().map(|channel| room(channel)).collect::<Result<_, _>>()?;
        Ok(Call::Publish { rooms, data: given(self.data, self.b64data)?, id: id(self.idempotency_key)?, one: false })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Channel {
    channel: String,
}

impl Channel {
    fn room(&self) -> Result<RoomId, Problem> {
        room(&self.channel)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    channel: String,
    #[serde(default)]
    limit: i32,
    since: Option<Since>,
    #[serde(default)]
    reverse: bool,
}

impl History {
    fn check(self) -> Result<Call, Problem> {
        if self.reverse && self.since.as_ref().is_some_and(|since| since.offset == 0) {
            return Err(Problem::bad("since", "nothing comes before the first"));
        }
        let room = room(&self.channel)?;
        Ok(Call::History { room, limit: self.limit, since: self.since, reverse: self.reverse })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    channel: String,
    offset: u64,
    #[serde(default)]
    epoch: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Channels {
    #[serde(default = "everything")]
    pattern: String,
}

fn everything() -> String {
    "*".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    user: String,
    #[serde(default)]
    client: String,
    channel: String,
}

impl Member {
    fn check(self) -> Result<(Whom, RoomId), Problem> {
        Ok((whom(self.user, self.client)?, room(&self.channel)?))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    user: String,
    #[serde(default)]
    client: String,
    #[serde(default)]
    reconnect: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    user: String,
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    user: String,
    channel: Option<String>,
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unban {
    user: String,
    channel: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(method: &str, arguments: &str) -> String {
        let problem = Call::parse(method, arguments.as_bytes()).unwrap_err();
        serde_json::to_string(&problem).unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!(r#"{{"channel":"a","data":1,"idempotency_key":"{}"}}"#, "x".repeat(65));
        let deep = format!(r#"{{"channel":"a","data":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        for (method, arguments, says) in [
            ("fly", "{}", r#"{"code":104,"message":"method not found"}"#),
            ("publish", "[]", "expected a JSON object"),
            ("publish", "", "missing field `channel`"),
            ("publish", "{", "EOF"),
            ("publish", r#"{"channel":"a"}"#, r#"{"code":107,"message":"data: missing"}"#),
            ("publish", r#"{"channel":"","data":1}"#, "channel: room name is empty"),
            ("publish", r#"{"channel":"a","data":1,"b64data":"YQ=="}"#, "only one of"),
            ("publish", r#"{"channel":"a","b64data":"%"}"#, "b64data: "),
            ("publish", r#"{"channel":"a","b64data":""}"#, "b64data: must not be empty"),
            ("publish", r#"{"channel":"a","data":1,"tags":{}}"#, "unknown field `tags`"),
            ("publish", &long, r#"{"code":106,"message":"idempotency_key: has 65 bytes"#),
            ("publish", &deep, "data: "),
            ("broadcast", r#"{"channels":"a","data":1}"#, "expected a sequence"),
            ("history", r#"{"channel":"a","reverse":true,"since":{"offset":0}}"#, "since: nothing comes before"),
            ("disconnect", r#"{"user":""}"#, "user: must not be empty"),
            ("subscribe", r#"{"user":"ann"}"#, "missing field `channel`"),
            ("ban", r#"{"user":"ann","seconds":0}"#, "seconds: must be 1 to"),
            ("revoke", r#"{"user":"","seconds":1}"#, "user: must not be empty"),
            ("info", r#"{"x":1}"#, "unknown field `x`"),
            ("batch", "{}", "can't be part of a batch"),
        ] {
            let problem = problem(method, arguments);
            assert!(problem.contains(says), "{method} {arguments}: {problem}");
        }
    }

    #[test]
    fn every_method_is_known() {
        for method in METHODS {
            let problem = Call::parse(method, br#"{"unheard_of":1}"#).unwrap_err();
            assert_ne!(problem, Problem::from(roomring_proto::close::ErrorCode::METHOD_NOT_FOUND), "{method}");
        }
    }

    #[test]
    fn batches_are_lists_of_single_calls() {
        let batch =
            Batch::parse(br#"{"commands":[{"info":{}},{"presence":{"channel":"a"}}],"parallel":true}"#).unwrap();
        let names: Vec<&str> = batch.calls.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, batch.parallel), (vec!["info", "presence"], true));
        for bad in [r#"{"commands":[{}]}"#, r#"{"commands":[{"info":{},"ban":{}}]}"#, r#"{"commands":{}}"#, "{}"] {
            assert!(Batch::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
