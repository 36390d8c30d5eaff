//! What the business server is told of, as JSON.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use roomring_proto::{Epoch, RoomId, SlotId, v1};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::hub::api::Told;
use crate::namespaces::{Namespaces, Payload};

/// Something that the business server can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Happening {
    /// Somebody came into a room that was empty.
    Occupied,
    /// The last one left a room.
    Vacated,
    /// Somebody came into a room.
    Join,
    /// Somebody left a room.
    Leave,
    /// A client published.
    Published,
}

/// An event. Of equal ids one is the other told again.
#[derive(Debug, Serialize)]
struct Event<'a> {
    id: String,
    event: Happening,
    channel: &'a str,
    /// Unix time, ms.
    time: u64,
    epoch: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Who<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_clients: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'static str, &'a str>,
}

#[derive(Debug, Serialize)]
struct Who<'a> {
    user: &'a str,
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    /// `at` names it among what happens in a slot under `epoch`.
    fn new(event: Happening, channel: &'a str, slot: SlotId, epoch: Epoch, at: u64, time: u64) -> Self {
        let kind = match event {
            Happening::Occupied => "occupied",
            Happening::Vacated => "vacated",
            Happening::Join => "join",
            Happening::Leave => "leave",
            Happening::Published => "published",
        };
        Self {
            id: format!("{slot}-{epoch}-{at}-{kind}", slot = slot.0),
            event,
            channel,
            time,
            epoch: epoch.to_string(),
            info: None,
            num_clients: None,
            offset: None,
            data: None,
            b64data: None,
            tags: BTreeMap::new(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text, numbers and JSON can be written as JSON")
    }
}

fn who<'a>(user: &'a str, client: &'a str, conn_info: &'a Bytes) -> Who<'a> {
    Who { user, client, conn_info: serde_json::from_slice(conn_info).ok() }
}

/// What is told of a visit, in its order: a room is occupied before the first one has come, and vacated after the last one left.
pub(super) fn visit(visit: &v1::Visit, namespaces: &Namespaces) -> Vec<Vec<u8>> {
    let (Ok(room), Some(epoch), Some(info)) = (RoomId::new(&visit.room), visit.epoch, &visit.info) else {
        return Vec::new();
    };
    let Ok(options) = namespaces.of(&room) else { return Vec::new() };
    let happened: &[Happening] = match (visit.left, visit.clients) {
        (false, 1) => &[Happening::Occupied, Happening::Join],
        (false, _) => &[Happening::Join],
        (true, 0) => &[Happening::Leave, Happening::Vacated],
        (true, _) => &[Happening::Leave],
    };
    let event = |event: &Happening| {
        let mut told = Event::new(*event, &visit.room, SlotId(visit.slot), epoch.into(), visit.lsn, visit.time_ms);
        if matches!(event, Happening::Join | Happening::Leave) {
            told.info = Some(who(&info.user, &info.client, &info.conn_info));
            told.num_clients = Some(visit.clients);
        }
        told.encode()
    };
    happened.iter().filter(|event| options.webhook.contains(*event)).map(event).collect()
}

/// What is told of an acknowledged publish; `time` is that of the acknowledgement.
pub(super) fn published(told: &Told, time: u64, namespaces: &Namespaces) -> Option<Vec<u8>> {
    let payload = namespaces.of(&told.room).ok()?.payload;
    let position = told.position;
    let (room, client) = (told.room.as_str(), &told.client);
    let mut event = Event::new(Happening::Published, room, told.slot, position.epoch, position.seq.0, time);
    event.info = Some(who(&client.user, &client.id, &client.conn_info));
    event.offset = Some(position.seq.0);
    match payload {
        Payload::Json => event.data = serde_json::from_slice(&told.data).ok(),
        Payload::Binary => event.b64data = Some(STANDARD.encode(&told.data)),
    }
    if !told.id.is_empty() {
        event.tags.insert("id", &told.id);
    }
    Some(event.encode())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use roomring_proto::client::Format;
    use roomring_proto::{Generation, Lsn, Seq, Uid};
    use serde_json::{Value, json};

    use super::*;
    use crate::hub::api::{Client, Codec, Position};
    use crate::hub::queue::ClientQueue;
    use crate::namespaces::Options;

    fn namespaces(toml: &str) -> Namespaces {
        let options: Options = toml::from_str(toml).unwrap();
        Namespaces::new(options, BTreeMap::new())
    }

    fn told(left: bool, clients: u64, config: &str) -> Vec<Value> {
        let info = v1::ClientInfo { user: "ann".into(), client: "c".into(), ..Default::default() };
        let epoch = Some(v1::Epoch { uid: 1, generation: 1, created: 3 });
        let (room, info) = ("lobby".to_owned(), Some(info));
        let said = v1::Visit { slot: 5, room, epoch, lsn: 9, time_ms: 77, info, left, clients };
        visit(&said, &namespaces(config)).iter().map(|e| serde_json::from_slice(e).unwrap()).collect()
    }

    #[test]
    fn a_visit_is_told_as_what_was_asked_for() {
        let all = "webhook = [\"occupied\", \"vacated\", \"join\", \"leave\"]";
        let kinds = |left, clients, config: &str| -> Vec<Value> {
            told(left, clients, config).iter().map(|e| e["event"].clone()).collect()
        };
        assert_eq!(kinds(false, 1, all), ["occupied", "join"]);
        assert_eq!(kinds(false, 2, all), ["join"]);
        assert_eq!(kinds(true, 1, all), ["leave"]);
        assert_eq!(kinds(true, 0, all), ["leave", "vacated"]);
        assert_eq!(kinds(true, 0, "webhook = [\"vacated\", \"join\"]"), ["vacated"]);
        assert_eq!(kinds(false, 1, ""), [] as [&str; 0]);
        let joined = &told(false, 2, all)[0];
        let epoch = Epoch { uid: Uid(1), generation: Generation(1), created: Lsn(3) }.to_string();
        let wanted = json!({
            "id": format!("5-{epoch}-9-join"), "event": "join", "channel": "lobby", "time": 77, "epoch": epoch,
            "info": {"user": "ann", "client": "c"}, "num_clients": 2,
        });
        assert_eq!(joined, &wanted);
    }

    #[test]
    fn a_publication_is_told_with_its_place() {
        let epoch = Epoch { uid: Uid(1), generation: Generation(1), created: Lsn(3) };
        let told = Told {
            slot: SlotId(5),
            room: RoomId::new("lobby").unwrap(),
            client: Arc::new(Client {
                id: "c".into(),
                user: "ann".into(),
                conn_info: Bytes::new(),
                codec: Codec::Centrifuge(Format::Json),
                queue: ClientQueue::new(1_024),
            }),
            data: Bytes::from_static(b"{\"n\": 1}"),
            id: "k".into(),
            position: Position { epoch, seq: Seq(4) },
        };
        let json = |config: &str| -> Value {
            serde_json::from_slice(&published(&told, 77, &namespaces(config)).unwrap()).unwrap()
        };
        let event = json("");
        assert_eq!(
            (&event["offset"], &event["data"], &event["tags"]),
            (&json!(4), &json!({"n": 1}), &json!({"id": "k"}))
        );
        assert_eq!(event["id"], format!("5-{epoch}-4-published"));
        assert_eq!(event["info"]["client"], "c");
        let event = json("payload = \"binary\"");
        assert!(event.get("data").is_none() && event["b64data"] == STANDARD.encode(b"{\"n\": 1}"), "{event}");
    }
}
