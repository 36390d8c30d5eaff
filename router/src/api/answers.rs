//! What the business server is told.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use roomring_proto::client::tags;
use roomring_proto::{NodeId, v1};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::problem::Problem;
use crate::cluster::Asked;
use crate::hub::api;
use crate::namespaces::Payload;

/// A call's outcome: `{"result": ...}` or `{"error": ...}`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Result(Box<RawValue>),
    Error(Problem),
}

impl From<Result<Box<RawValue>, Problem>> for Outcome {
    fn from(result: Result<Box<RawValue>, Problem>) -> Self {
        result.map_or_else(Self::Error, Self::Result)
    }
}

/// A result in JSON.
pub(super) fn result(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("text, numbers and JSON can be written as JSON")
}

/// `{}`
#[derive(Serialize)]
pub(super) struct Empty {}

/// Of a publish.
#[derive(Serialize)]
pub(super) struct Published {
    offset: u64,
    epoch: String,
    duplicate: bool,
}

impl From<api::Published> for Published {
    fn from(p: api::Published) -> Self {
        Self { offset: p.position.seq.0, epoch: p.position.epoch.to_string(), duplicate: p.duplicate }
    }
}

/// Of a broadcast: in the order of the channels.
#[derive(Serialize)]
pub(super) struct Broadcast {
    pub(super) responses: Vec<Outcome>,
}

/// Of a batch: in the order of the commands.
#[derive(Serialize)]
pub(super) struct Batch {
    pub(super) replies: Vec<BTreeMap<String, Outcome>>,
}

/// Of a deletion.
#[derive(Serialize)]
pub(super) struct Deleted {
    pub(super) deleted: bool,
}

/// Of the removal of a history: where the publication is that says so; nothing if there is no such room.
#[derive(Serialize)]
pub(super) struct Removed {
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
}

impl From<Option<api::Position>> for Removed {
    fn from(position: Option<api::Position>) -> Self {
        Self { offset: position.map(|p| p.seq.0), epoch: position.map(|p| p.epoch.to_string()) }
    }
}

/// Of presence.
#[derive(Serialize)]
pub(super) struct Presence {
    presence: BTreeMap<String, Info>,
}

/// Of presence_stats.
#[derive(Serialize)]
pub(super) struct PresenceStats {
    num_clients: u32,
    num_users: u32,
}

impl From<&api::Presence> for PresenceStats {
    fn from(p: &api::Presence) -> Self {
        Self { num_clients: p.num_clients, num_users: p.num_users }
    }
}

impl From<api::Presence> for Presence {
    fn from(p: api::Presence) -> Self {
        Self { presence: p.clients.into_iter().map(|(id, info)| (id, info.into())).collect() }
    }
}

#[derive(Serialize)]
struct Info {
    user: String,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<Box<RawValue>>,
}

impl From<v1::ClientInfo> for Info {
    fn from(info: v1::ClientInfo) -> Self {
        Self { user: info.user, client: info.client, conn_info: embedded(&info.conn_info) }
    }
}

/// JSON that was checked when it came in.
fn embedded(data: &Bytes) -> Option<Box<RawValue>> {
    serde_json::from_slice(data).ok()
}

/// Of history.
#[derive(Serialize)]
pub(super) struct History {
    publications: Vec<Publication>,
    offset: u64,
    epoch: String,
}

impl History {
    pub(super) fn new(history: api::History, payload: Payload) -> Self {
        let publications = history.publications.into_iter().map(|p| Publication::new(p, payload)).collect();
        Self { publications, offset: history.top.seq.0, epoch: history.top.epoch.to_string() }
    }
}

#[derive(Serialize)]
struct Publication {
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Info>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'static str, String>,
}

impl Publication {
    fn new(publication: v1::Publication, payload: Payload) -> Self {
        let tags = tags(&publication).map(|(name, value)| (name, value.into_owned())).collect();
        let author = publication.author();
        let v1::Publication { seq, data, .. } = publication;
        let data = match payload {
            Payload::Json => embedded(&data).ok_or(data),
            Payload::Binary => Err(data),
        };
        let (data, b64data) = match data {
            Ok(json) => (Some(json), None),
            Err(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        Self { offset: seq, data, b64data, info: author.map(Info::from), tags }
    }
}

/// Of what every router was asked to do.
#[derive(Serialize)]
pub(super) struct Done {
    connections: u64,
    unreached: Vec<NodeId>,
}

impl From<Asked<u64>> for Done {
    fn from(asked: Asked<u64>) -> Self {
        Self { connections: asked.answers.values().sum(), unreached: asked.unreached }
    }
}

/// Of info.
#[derive(Serialize)]
pub(super) struct Routers {
    nodes: Vec<Router>,
    unreached: Vec<NodeId>,
}

#[derive(Serialize)]
struct Router {
    name: String,
    version: String,
    uptime: u64,
    num_clients: u64,
    num_channels: u64,
}

impl From<Asked<v1::RouterStatusReply>> for Routers {
    fn from(asked: Asked<v1::RouterStatusReply>) -> Self {
        let router = |r: v1::RouterStatusReply| Router {
            name: r.router_id,
            version: r.release,
            uptime: r.uptime_ms / 1_000,
            num_clients: r.connections,
            num_channels: r.rooms,
        };
        Self { nodes: asked.answers.into_values().map(router).collect(), unreached: asked.unreached }
    }
}

/// Of channels.
#[derive(Serialize)]
pub(super) struct Channels {
    channels: BTreeMap<String, Channel>,
    /// Rooms that nodes left out, to keep their answers short.
    left_out: u64,
    unreached: Vec<NodeId>,
}

#[derive(Serialize)]
struct Channel {
    num_clients: u64,
}

impl Channels {
    /// Those with members whose names fit.
    pub(super) fn new(asked: Asked<v1::RoomsReply>, pattern: &str) -> Self {
        let mut channels = BTreeMap::new();
        let mut left_out = 0;
        for reply in asked.answers.into_values() {
            left_out += reply.left_out;
            let fitting = reply.rooms.into_iter().filter(|r| r.members > 0 && fits(&r.room, pattern));
            channels.extend(fitting.map(|r| (r.room, Channel { num_clients: r.members })));
        }
        Self { channels, left_out, unreached: asked.unreached }
    }
}

/// Whether `name` is like `pattern`, in which `*` stands for any text.
fn fits(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(before) = last.replace(part) {
            match rest.find(before) {
                Some(at) => rest = &rest[at + before.len()..],
                None => return false,
            }
        }
    }
    // Without any `*` nothing may be left.
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (name, pattern, fit) in [
            ("chat:a", "*", true),
            ("chat:a", "chat:a", true),
            ("chat:ab", "chat:a", false),
            ("chat:a", "chat:*", true),
            ("chat:", "chat:*", true),
            ("news:a", "chat:*", false),
            ("a-b-c", "a*c", true),
            ("a-b-c", "a*b*c", true),
            ("abab", "*ab*ab", true),
            ("ab", "*ab*ab", false),
            ("aXbX", "a*X", true),
            ("a", "", false),
            ("äö", "ä*", true),
        ] {
            assert_eq!(fits(name, pattern), fit, "{name} {pattern}");
        }
    }
}
