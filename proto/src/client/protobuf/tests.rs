use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use super::wire;
use crate::client::{
    Answer, Command, Connect, Connected, Format, History, Malformed, Push, Reply, Request, Subscribe, Subscribed,
};
use crate::close::{CloseCode, ErrorCode};
use crate::{Epoch, Generation, Lsn, Seq, Uid, v1};
use v1::publication::Mark;

const EPOCH: Epoch = Epoch { uid: Uid(0x1f), generation: Generation(2), created: Lsn(3) };

fn bytes(hex: &str) -> Vec<u8> {
    hex.split_whitespace()
        .flat_map(|word| (0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()))
        .collect()
}

fn decode(frame: &[u8]) -> Vec<Result<Command, Malformed>> {
    super::decode(frame).collect()
}

fn one(hex: &str) -> Command {
    let all = decode(&bytes(hex));
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap().unwrap()
}

fn reply(id: u32, result: Result<Answer, ErrorCode>) -> Vec<u8> {
    super::encode(&Reply { id, result }).to_vec()
}

fn publication(seq: u64, data: &'static str) -> v1::Publication {
    v1::Publication { seq, data: Bytes::from_static(data.as_bytes()), ..Default::default() }
}

#[test]
fn commands_of_the_examples() {
    assert_eq!(
        one("0d 08 01 22 09 0a 03 61 62 63 22 02 6a 73"),
        Command {
            id: 1,
            request: Request::Connect(Connect { token: "abc".into(), name: "js".into(), ..Connect::default() })
        }
    );
    assert_eq!(
        one("16 08 02 2a 12 0a 06 72 6f 6f 6d 3a 37 18 01 32 02 6b 33 38 29 70 01"),
        Command {
            id: 2,
            request: Request::Subscribe(Subscribe {
                channel: "room:7".into(),
                recover: true,
                epoch: "k3".into(),
                offset: 41,
                flag: 1,
                ..Subscribe::default()
            })
        }
    );
    assert_eq!(
        one("18 08 03 3a 14 0a 06 72 6f 6f 6d 3a 37 12 0a 7b 22 74 22 3a 22 79 6f 22 7d"),
        Command {
            id: 3,
            request: Request::Publish { channel: "room:7".into(), data: Bytes::from_static(br#"{"t":"yo"}"#) }
        }
    );
    assert_eq!(
        one("0c 08 05 4a 08 0a 06 72 6f 6f 6d 3a 37"),
        Command { id: 5, request: Request::PresenceStats { channel: "room:7".into() } }
    );
    assert_eq!(one("00"), Command { id: 0, request: Request::Pong });
}

#[test]
fn replies_of_the_examples() {
    let connected =
        Connected { client: "c1".into(), version: "1.0".into(), ping: 25, pong: true, ..Connected::default() };
    assert_eq!(
        reply(1, Ok(Answer::Connect(connected))),
        bytes("11 08 01 2a 0d 0a 02 63 31 12 03 31 2e 30 38 19 40 01")
    );
    let info = v1::ClientInfo { user: "42".into(), client: "c1".into(), ..Default::default() };
    let mut frame = super::push(
        "room:7",
        &Push::Publication(&v1::Publication { info: info.packed(), ..publication(43, r#"{"t":"yo"}"#) }),
    )
    .to_vec();
    frame.extend(reply(3, Ok(Answer::Publish)));
    assert_eq!(
        frame,
        bytes(
            "24 22 22 12 06 72 6f 6f 6d 3a 37 22 18 22 0a 7b 22 74 22 3a 22 79 6f 22 7d 2a 08 0a 02 34 32 12 02 63 31 30 2b 04 08 03 42 00"
        )
    );
    assert_eq!(
        reply(4, Err(ErrorCode::NOT_AVAILABLE)),
        bytes("15 08 04 12 11 08 6c 12 0d 6e 6f 74 20 61 76 61 69 6c 61 62 6c 65")
    );
    assert_eq!(&super::PING[..], bytes("00"));
    assert_eq!(
        &super::push("room:7", &Push::Unsubscribe(CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE))[..],
        bytes(
            "23 22 21 12 06 72 6f 6f 6d 3a 37 3a 17 10 c4 13 1a 12 69 6e 73 75 66 66 69 63 69 65 6e 74 20 73 74 61 74 65"
        )
    );
    assert_eq!(
        reply(5, Ok(Answer::PresenceStats { num_clients: 2, num_users: 1 })),
        bytes("08 08 05 52 04 08 02 10 01")
    );
}

/// The example's epoch is none of ours: all else is as written there.
#[test]
fn a_recovery_of_the_examples() {
    let subscribed = Subscribed {
        ttl: None,
        recoverable: true,
        epoch: EPOCH,
        offset: Seq(41),
        was_recovering: true,
        recovered: true,
        publications: vec![publication(42, r#"{"t":"hi"}"#)],
    };
    let ours = reply(2, Ok(Answer::Subscribe(subscribed)));
    let mut ours = wire::Reply::decode_length_delimited(&ours[..]).unwrap();
    let subscribe = ours.subscribe.as_mut().unwrap();
    assert_eq!(std::mem::replace(&mut subscribe.epoch, "k3".into()), "1f-2-3");
    assert_eq!(
        ours.encode_length_delimited_to_vec(),
        bytes(
            "22 08 02 32 1e 18 01 32 02 6b 33 3a 0e 22 0a 7b 22 74 22 3a 22 68 69 22 7d 30 2a 40 01 48 29 50 01 60 01"
        )
    );
}

#[test]
fn a_frame_may_hold_several_commands() {
    let ping = bytes("04 08 01 5a 00");
    let both = [&ping[..], &[0], &ping[..]].concat();
    let ids: Vec<_> = decode(&both).into_iter().map(|c| c.unwrap().id).collect();
    assert_eq!(ids, [1, 0, 1]);
    assert_eq!(decode(b""), [Err(Malformed::Empty)]);
    // What follows a broken one is not looked at.
    let broken = [&ping[..], &[1, 0xff], &ping[..]].concat();
    let all = decode(&broken);
    assert!(all.len() == 2 && all[0].is_ok() && all[1].is_err(), "{all:?}");
}

#[test]
fn what_breaks_the_protocol() {
    for (hex, why) in [
        ("02 08 01", "an id without a request"),
        ("05 08 01", "cut off"),
        ("ff ff ff ff ff ff ff ff ff 7f", "a length beyond 64 bits"),
        ("ff ff ff ff ff ff ff ff ff 01", "a length beyond the frame"),
        ("80", "half a length"),
        ("01 08", "a tag without a value"),
        ("03 0a 01 61", "an id that is text"),
        ("07 08 01 2a 03 0a 01 ff", "a channel that is not UTF-8"),
        ("06 08 01 2a 02 0a 05", "a channel longer than its command"),
        ("02 0f 00", "wire type 7"),
        ("01 0b", "a group without an end"),
    ] {
        let all = decode(&bytes(hex));
        assert!(matches!(all[..], [Err(Malformed::Protobuf(_) | Malformed::NoRequest(_))]), "{why}: {all:?}");
    }
}

#[test]
fn unknown_fields_are_ignored_and_the_first_request_counts() {
    // Field 99 as varint, field 2 (reserved), then rpc and presence.
    let frame = "11 98 06 07 12 01 78 08 01 6a 00 42 03 0a 01 61 1a 00";
    assert_eq!(one(frame), Command { id: 1, request: Request::Presence { channel: "a".into() } });
    // Without an id everything but a send is a pong.
    assert_eq!(one("05 42 03 0a 01 61"), Command { id: 0, request: Request::Pong });
    assert_eq!(one("02 62 00"), Command { id: 0, request: Request::Send });
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9:#ä\"]{0,9}"
}

/// A payload that is JSON without a need to be changed.
fn payload() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i32>().prop_map(Value::from),
        text().prop_map(Value::from),
        prop::collection::btree_map(text(), any::<bool>(), 0..3).prop_map(|m| json!(m))
    ]
}

fn raw(value: &Value) -> Bytes {
    value.to_string().into()
}

prop_compose! {
    fn subscribe()(
        channel in text(), token in text(), recover: bool, epoch in text(), offset in 0u64..1 << 53, positioned: bool,
        recoverable: bool, join_leave: bool, flag in 0i64..4, tags_filter: bool,
    ) -> Subscribe {
        Subscribe { channel, token, recover, epoch, offset, positioned, recoverable, join_leave, flag, tags_filter }
    }
}

fn subscribe_json(s: &Subscribe) -> Value {
    let mut value = json!({
        "channel": s.channel, "token": s.token, "recover": s.recover, "epoch": s.epoch, "offset": s.offset,
        "positioned": s.positioned, "recoverable": s.recoverable, "join_leave": s.join_leave, "flag": s.flag,
    });
    if s.tags_filter {
        value["tf"] = json!({"op": "eq"});
    }
    value
}

fn subscribe_wire(s: &Subscribe) -> wire::SubscribeRequest {
    let s = s.clone();
    wire::SubscribeRequest {
        channel: s.channel,
        token: s.token,
        recover: s.recover,
        epoch: s.epoch,
        offset: s.offset,
        positioned: s.positioned,
        recoverable: s.recoverable,
        join_leave: s.join_leave,
        tags_filter: s.tags_filter.then(Bytes::new),
        flag: s.flag,
    }
}

/// A request, and the same in both encodings.
fn request() -> impl Strategy<Value = (Request, Value, wire::Command)> {
    let none = wire::Command::default;
    prop_oneof![
        (text(), payload(), text(), prop::collection::btree_map(text(), subscribe(), 0..3)).prop_map(
            move |(token, data, name, subs)| {
                let json = json!({"connect": {
                    "token": token, "data": data, "name": name, "version": "1",
                    "subs": subs.iter().map(|(c, s)| (c.clone(), subscribe_json(s))).collect::<BTreeMap<_, _>>(),
                }});
                let connect = wire::ConnectRequest {
                    token: token.clone(),
                    data: raw(&data),
                    subs: subs.iter().map(|(c, s)| (c.clone(), subscribe_wire(s))).collect(),
                    name: name.clone(),
                    version: "1".into(),
                };
                let wire = wire::Command { connect: Some(connect), ..none() };
                (Request::Connect(Connect { token, data: raw(&data), subs, name, version: "1".into() }), json, wire)
            }
        ),
        subscribe().prop_map(move |s| {
            let wire = wire::Command { subscribe: Some(subscribe_wire(&s)), ..none() };
            (Request::Subscribe(s.clone()), json!({"subscribe": subscribe_json(&s)}), wire)
        }),
        (text(), 0usize..4).prop_map(move |(channel, kind)| {
            let mut wire = none();
            let name = match kind {
                0 => {
                    wire.unsubscribe = Some(wire::UnsubscribeRequest { channel: channel.clone() });
                    "unsubscribe"
                }
                1 => {
                    wire.presence = Some(wire::PresenceRequest { channel: channel.clone() });
                    "presence"
                }
                2 => {
                    wire.presence_stats = Some(wire::PresenceStatsRequest { channel: channel.clone() });
                    "presence_stats"
                }
                _ => {
                    wire.sub_refresh = Some(wire::SubRefreshRequest { channel: channel.clone(), token: "t".into() });
                    "sub_refresh"
                }
            };
            let json = json!({name: {"channel": channel, "token": "t"}});
            let request = match kind {
                0 => Request::Unsubscribe { channel },
                1 => Request::Presence { channel },
                2 => Request::PresenceStats { channel },
                _ => Request::SubRefresh { channel, token: "t".into() },
            };
            (request, json, wire)
        }),
        (text(), payload()).prop_map(move |(channel, data)| {
            let json = json!({"publish": {"channel": channel, "data": data}});
            let publish = wire::PublishRequest { channel: channel.clone(), data: raw(&data) };
            (Request::Publish { channel, data: raw(&data) }, json, wire::Command { publish: Some(publish), ..none() })
        }),
        (text(), any::<i32>(), prop::option::of((0u64..1 << 53, text())), any::<bool>()).prop_map(
            move |(channel, limit, since, reverse)| {
                let mut json = json!({"history": {"channel": channel, "limit": limit, "reverse": reverse}});
                if let Some((offset, epoch)) = &since {
                    json["history"]["since"] = json!({"offset": offset, "epoch": epoch});
                }
                let history = wire::HistoryRequest {
                    channel: channel.clone(),
                    limit,
                    since: since.clone().map(|(offset, epoch)| wire::StreamPosition { offset, epoch }),
                    reverse,
                };
                let wire = wire::Command { history: Some(history), ..none() };
                (Request::History(History { channel, limit, since, reverse }), json, wire)
            }
        ),
        (text(), payload()).prop_map(move |(method, data)| {
            let json = json!({"rpc": {"method": method, "data": data}});
            let rpc = wire::RpcRequest { data: raw(&data), method: method.clone() };
            (Request::Rpc { method, data: raw(&data) }, json, wire::Command { rpc: Some(rpc), ..none() })
        }),
        text().prop_map(move |token| {
            let json = json!({"refresh": {"token": token}});
            let refresh = Some(wire::RefreshRequest { token: token.clone() });
            (Request::Refresh { token }, json, wire::Command { refresh, ..none() })
        }),
        Just((Request::Ping, json!({"ping": {}}), wire::Command { ping: Some(wire::Empty {}), ..none() })),
        Just((Request::Send, json!({"send": {}}), wire::Command { send: Some(wire::Empty {}), ..none() })),
    ]
}

prop_compose! {
    fn client_info()(user in text(), client in text(), conn in prop::option::of(payload())) -> v1::ClientInfo {
        v1::ClientInfo { user, client, conn_info: conn.as_ref().map(raw).unwrap_or_default(), chan_info: Bytes::new() }
    }
}

fn mark() -> impl Strategy<Value = Option<Mark>> {
    let deleted = Mark::Deleted(v1::Deleted {});
    prop_oneof![Just(None), Just(Some(deleted)), Just(Some(Mark::Deletes(7))), Just(Some(Mark::Clears(0)))]
}

prop_compose! {
    fn any_publication()(
        seq in 0u64..1 << 53, data in payload(), info in prop::option::of(client_info()), id in text(), mark in mark(),
    ) -> v1::Publication {
        let info = info.map(|i| i.packed()).unwrap_or_default();
        v1::Publication { seq, data: raw(&data), info, id, mark, ..Default::default() }
    }
}

prop_compose! {
    fn any_subscribed()(
        ttl in prop::option::of(1u32..), recoverable: bool, offset in 0u64..1 << 53, was_recovering: bool,
        recovered: bool, publications in prop::collection::vec(any_publication(), 0..3),
    ) -> Subscribed {
        let offset = Seq(offset);
        Subscribed { ttl, recoverable, epoch: EPOCH, offset, was_recovering, recovered, publications }
    }
}

fn answer() -> impl Strategy<Value = Result<Answer, ErrorCode>> {
    prop_oneof![
        prop_oneof![Just(ErrorCode::INTERNAL), Just(ErrorCode::BAD_REQUEST)].prop_map(Err),
        (text(), prop::option::of(1u32..), prop::collection::btree_map(text(), any_subscribed(), 0..3), any::<u32>())
            .prop_map(|(client, ttl, subs, ping)| {
                let version = "1".into();
                Ok(Answer::Connect(Connected {
                    client,
                    version,
                    ttl,
                    subs,
                    ping,
                    pong: ping % 2 == 0,
                    ..Connected::default()
                }))
            }),
        any_subscribed().prop_map(|s| Ok(Answer::Subscribe(s))),
        Just(Ok(Answer::Unsubscribe)),
        Just(Ok(Answer::Publish)),
        Just(Ok(Answer::Ping)),
        prop::collection::btree_map(text(), client_info(), 0..3).prop_map(|p| Ok(Answer::Presence(p))),
        any::<(u32, u32)>().prop_map(|(num_clients, num_users)| Ok(Answer::PresenceStats { num_clients, num_users })),
        (prop::collection::vec(any_publication(), 0..3), 0u64..1 << 53)
            .prop_map(|(publications, offset)| Ok(Answer::History { publications, epoch: EPOCH, offset: Seq(offset) })),
        prop::option::of(payload()).prop_map(|d| Ok(Answer::Rpc(d.as_ref().map(raw).unwrap_or_default()))),
        prop::option::of(1u32..).prop_map(|ttl| Ok(Answer::Refresh { ttl })),
        prop::option::of(1u32..).prop_map(|ttl| Ok(Answer::SubRefresh { ttl })),
    ]
}

/// A message as the JSON encoding has it: zero values are absent, payloads are embedded.
#[derive(Default)]
struct Object(serde_json::Map<String, Value>);

impl Object {
    fn always(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn set(self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let zero = value == json!(0)
            || value == json!("")
            || value == json!(false)
            || value == json!([])
            || value == json!({});
        if zero { self } else { self.always(key, value) }
    }

    fn payload(self, key: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.always(key, serde_json::from_slice::<Value>(bytes).unwrap()) }
    }

    fn end(self) -> Value {
        self.0.into()
    }
}

fn info_json(info: &wire::ClientInfo) -> Value {
    let object = Object::default().always("user", info.user.as_str()).always("client", info.client.as_str());
    object.payload("conn_info", &info.conn_info).payload("chan_info", &info.chan_info).end()
}

fn publication_json(p: &wire::Publication) -> Value {
    let object = Object::default().payload("data", &p.data).set("offset", p.offset).set("tags", json!(p.tags));
    match &p.info {
        Some(info) => object.always("info", info_json(info)).end(),
        None => object.end(),
    }
}

fn subscribed_json(s: &wire::SubscribeResult) -> Value {
    Object::default()
        .set("expires", s.expires)
        .set("ttl", s.ttl)
        .set("recoverable", s.recoverable)
        .set("epoch", s.epoch.as_str())
        .set("publications", s.publications.iter().map(publication_json).collect::<Vec<_>>())
        .set("recovered", s.recovered)
        .set("offset", s.offset)
        .set("positioned", s.positioned)
        .set("was_recovering", s.was_recovering)
        .end()
}

fn reply_json(r: &wire::Reply) -> Value {
    let empty = |there: &Option<wire::Empty>| there.as_ref().map(|_| json!({}));
    let expiry = |expires: bool, ttl: u32| Object::default().set("expires", expires).set("ttl", ttl).end();
    let parts = [
        (
            "error",
            r.error.as_ref().map(|e| {
                let object = Object::default().always("code", e.code).always("message", e.message.as_str());
                object.set("temporary", e.temporary).end()
            }),
        ),
        (
            "connect",
            r.connect.as_ref().map(|c| {
                let subs: serde_json::Map<_, _> = c.subs.iter().map(|(c, s)| (c.clone(), subscribed_json(s))).collect();
                Object::default()
                    .always("client", c.client.as_str())
                    .always("version", c.version.as_str())
                    .set("expires", c.expires)
                    .set("ttl", c.ttl)
                    .set("subs", subs)
                    .set("ping", c.ping)
                    .set("pong", c.pong)
                    .end()
            }),
        ),
        ("subscribe", r.subscribe.as_ref().map(subscribed_json)),
        ("unsubscribe", empty(&r.unsubscribe)),
        ("publish", empty(&r.publish)),
        (
            "presence",
            r.presence.as_ref().map(|p| {
                let clients: serde_json::Map<_, _> =
                    p.presence.iter().map(|(c, i)| (c.clone(), info_json(i))).collect();
                json!({"presence": clients})
            }),
        ),
        (
            "presence_stats",
            r.presence_stats.as_ref().map(|s| json!({"num_clients": s.num_clients, "num_users": s.num_users})),
        ),
        (
            "history",
            r.history.as_ref().map(|h| {
                let publications: Vec<_> = h.publications.iter().map(publication_json).collect();
                json!({"publications": publications, "epoch": h.epoch, "offset": h.offset})
            }),
        ),
        ("ping", empty(&r.ping)),
        ("rpc", r.rpc.as_ref().map(|r| Object::default().payload("data", &r.data).end())),
        ("refresh", r.refresh.as_ref().map(|r| expiry(r.expires, r.ttl))),
        ("sub_refresh", r.sub_refresh.as_ref().map(|r| expiry(r.expires, r.ttl))),
        ("push", r.push.as_ref().map(push_json)),
    ];
    let object = Object::default().set("id", r.id);
    parts
        .into_iter()
        .fold(object, |o, (key, part)| match part {
            Some(part) => o.always(key, part),
            None => o,
        })
        .end()
}

fn push_json(p: &wire::Push) -> Value {
    let object = Object::default().always("channel", p.channel.as_str());
    let info = |p: &wire::Presence| json!({"info": p.info.as_ref().map(info_json)});
    let (key, value) = if let Some(p) = &p.publication {
        ("pub", publication_json(p))
    } else if let Some(join) = &p.join {
        ("join", info(join))
    } else if let Some(leave) = &p.leave {
        ("leave", info(leave))
    } else if let Some(u) = &p.unsubscribe {
        ("unsubscribe", json!({"code": u.code, "reason": u.reason}))
    } else {
        let s = p.subscribe.as_ref().unwrap();
        let object = Object::default().always("recoverable", s.recoverable).set("epoch", s.epoch.as_str());
        ("subscribe", object.set("offset", s.offset).set("positioned", s.positioned).end())
    };
    object.always(key, value).end()
}

fn same(json: &[u8], protobuf: &[u8]) -> Result<(), TestCaseError> {
    prop_assert!(!json.contains(&b'\n'));
    let wire = wire::Reply::decode_length_delimited(protobuf).unwrap();
    prop_assert_eq!(wire.encode_length_delimited_to_vec(), protobuf);
    prop_assert_eq!(serde_json::from_slice::<Value>(json).unwrap(), reply_json(&wire));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn both_encodings_of_a_command_are_the_same(id in 1u32.., (request, mut json, mut wire) in request()) {
        json["id"] = json!(id);
        wire.id = id;
        let expected = [Ok(Command { id, request })];
        let protobuf = wire.encode_length_delimited_to_vec();
        prop_assert_eq!(&Format::Json.decode(json.to_string().as_bytes()).collect::<Vec<_>>(), &expected);
        prop_assert_eq!(&Format::Protobuf.decode(&protobuf).collect::<Vec<_>>(), &expected);
    }

    #[test]
    fn both_encodings_of_a_reply_are_the_same(id in 1u32.., result in answer()) {
        let reply = Reply { id, result };
        same(&Format::Json.reply(&reply), &Format::Protobuf.reply(&reply))?;
    }

    #[test]
    fn both_encodings_of_a_push_are_the_same(
        channel in text(), publication in any_publication(), info in client_info(), kind in 0usize..5,
    ) {
        let push = match kind {
            0 => Push::Publication(&publication),
            1 => Push::Join(&info),
            2 => Push::Leave(&info),
            3 => Push::Unsubscribe(CloseCode::UNSUBSCRIBED),
            _ => Push::Subscribe { epoch: EPOCH, offset: Seq(publication.seq), recoverable: true },
        };
        same(&Format::Json.push(&channel, &push), &Format::Protobuf.push(&channel, &push))?;
    }

    #[test]
    fn garbage_never_panics_and_ends(frame in prop::collection::vec(any::<u8>(), 0..300)) {
        let all = decode(&frame);
        prop_assert!(all.len() <= frame.len().max(1));
        prop_assert!(all.iter().rev().skip(1).all(Result::is_ok));
    }

    #[test]
    fn mangled_commands_never_panic(at in 0usize..23, with: u8) {
        let mut frame = bytes("16 08 02 2a 12 0a 06 72 6f 6f 6d 3a 37 18 01 32 02 6b 33 38 29 70 01");
        frame[at] = with;
        decode(&frame);
    }

    /// Also what is no JSON.
    #[test]
    fn a_published_payload_reaches_members_unchanged(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let publish = wire::PublishRequest { channel: "a".into(), data: data.clone().into() };
        let frame = wire::Command { id: 1, publish: Some(publish), ..Default::default() }.encode_length_delimited_to_vec();
        let Ok(Command { request: Request::Publish { data: read, .. }, .. }) = decode(&frame).remove(0) else { panic!() };
        let push = super::push("a", &Push::Publication(&v1::Publication { seq: 9, data: read, ..Default::default() }));
        let push = wire::Reply::decode_length_delimited(&push[..]).unwrap().push.unwrap();
        prop_assert_eq!(&push.publication.unwrap().data[..], &data[..]);
    }
}
