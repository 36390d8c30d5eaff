use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::client::{
    Answer, Command, Connect, Connected, History, Malformed, Push, Reply, Request, Subscribe, Subscribed,
};
use crate::close::{CloseCode, ErrorCode};
use crate::{Epoch, Generation, Lsn, Seq, Uid, v1};
use v1::publication::Mark;

const EPOCH: Epoch = Epoch { uid: Uid(0x1f), generation: Generation(2), created: Lsn(3) };

fn one(line: &str) -> Result<Command, Malformed> {
    let all: Vec<_> = decode(line.as_bytes()).collect();
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap()
}

fn request(line: &str) -> Request {
    one(line).unwrap().request
}

fn text(bytes: Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn pushed(channel: &str, event: Push<'_>) -> String {
    text(push(channel, &event))
}

fn reply(id: u32, result: Result<Answer, ErrorCode>) -> String {
    text(encode(&Reply { id, result }))
}

fn info(user: &str, client: &str) -> v1::ClientInfo {
    v1::ClientInfo { user: user.into(), client: client.into(), ..Default::default() }
}

fn publication(seq: u64, data: &'static str) -> v1::Publication {
    v1::Publication { seq, data: Bytes::from_static(data.as_bytes()), ..Default::default() }
}

#[test]
fn commands_of_the_examples() {
    assert_eq!(
        one(r#"{"connect":{"token":"abc","name":"js"},"id":1}"#).unwrap(),
        Command {
            id: 1,
            request: Request::Connect(Connect { token: "abc".into(), name: "js".into(), ..Connect::default() })
        }
    );
    assert_eq!(
        request(r#"{"subscribe":{"channel":"room:7","flag":1,"recover":true,"offset":41,"epoch":"k3"},"id":2}"#),
        Request::Subscribe(Subscribe {
            channel: "room:7".into(),
            recover: true,
            epoch: "k3".into(),
            offset: 41,
            flag: 1,
            ..Subscribe::default()
        })
    );
    assert_eq!(
        one(r#"{"publish":{"channel":"room:7","data":{"t":"yo"}},"id":3}"#).unwrap(),
        Command {
            id: 3,
            request: Request::Publish { channel: "room:7".into(), data: Bytes::from_static(br#"{"t":"yo"}"#) }
        }
    );
    assert_eq!(
        request(r#"{"rpc":{"method":"x","data":{}},"id":4}"#),
        Request::Rpc { method: "x".into(), data: Bytes::from_static(b"{}") }
    );
    assert_eq!(one("{}").unwrap(), Command { id: 0, request: Request::Pong });
}

#[test]
fn every_other_command() {
    assert_eq!(request(r#"{"id":1,"unsubscribe":{"channel":"a"}}"#), Request::Unsubscribe { channel: "a".into() });
    assert_eq!(request(r#"{"id":1,"presence":{"channel":"a"}}"#), Request::Presence { channel: "a".into() });
    assert_eq!(request(r#"{"id":1,"presence_stats":{"channel":"a"}}"#), Request::PresenceStats { channel: "a".into() });
    assert_eq!(
        request(r#"{"id":1,"history":{"channel":"a","limit":-1,"reverse":true,"since":{"offset":4,"epoch":"e"}}}"#),
        Request::History(History { channel: "a".into(), limit: -1, since: Some((4, "e".into())), reverse: true })
    );
    assert_eq!(request(r#"{"id":1,"ping":{}}"#), Request::Ping);
    assert_eq!(request(r#"{"send":{"data":1}}"#), Request::Send);
    assert_eq!(request(r#"{"id":1,"refresh":{"token":"t"}}"#), Request::Refresh { token: "t".into() });
    assert_eq!(
        request(r#"{"id":1,"sub_refresh":{"channel":"a","token":"t"}}"#),
        Request::SubRefresh { channel: "a".into(), token: "t".into() }
    );
    let Request::Subscribe(s) = request(r#"{"id":1,"subscribe":{"channel":"a","join_leave":true,"tf":{"op":"x"}}}"#)
    else {
        panic!("a subscribe")
    };
    assert!(s.join_leave && s.tags_filter);
}

#[test]
fn the_first_request_in_protocol_order_wins() {
    assert_eq!(
        request(r#"{"id":1,"rpc":{},"ping":{},"presence":{"channel":"a"}}"#),
        Request::Presence { channel: "a".into() }
    );
}

#[test]
fn unknown_fields_are_ignored_and_null_is_absent() {
    let line = r#"{"id":1,"later":{"a":[1]},"connect":null,"presence":{"channel":"a","more":{}}}"#;
    assert_eq!(request(line), Request::Presence { channel: "a".into() });
    let Request::Publish { data, .. } = request(r#"{"id":1,"publish":{"channel":"a","data":null}}"#) else { panic!() };
    assert!(data.is_empty());
}

#[test]
fn a_frame_may_hold_several_commands() {
    let ids = |frame: &str| decode(frame.as_bytes()).map(|c| c.map(|c| c.id).map_err(|_| ())).collect::<Vec<_>>();
    let ping = |id: u32| format!(r#"{{"id":{id},"ping":{{}}}}"#);
    assert_eq!(ids(&format!("{}\n{}", ping(1), ping(2))), [Ok(1), Ok(2)]);
    assert_eq!(ids(&format!("{}\n{}\n", ping(1), ping(2))), [Ok(1), Ok(2)]);
    assert_eq!(ids(&format!("{}\n\n{}", ping(1), ping(2))), [Ok(1), Err(()), Ok(2)]);
    assert_eq!(ids(&format!("{}\n\n", ping(1))), [Ok(1), Err(())]);
    assert_eq!(ids(""), [Err(())]);
    assert_eq!(ids("\n"), [Err(())]);
    assert_eq!(ids("  \r"), [Err(())]);
}

#[test]
fn what_breaks_the_protocol() {
    for bad in [
        "x",
        "[]",
        "1",
        "\"a\"",
        "null",
        r#"{"id":1"#,
        r#"{"id":1,"unheard_of":{}}"#,
        r#"{"id":1}"#,
        r#"{"id":"1","ping":{}}"#,
        r#"{"id":-1,"ping":{}}"#,
        r#"{"id":1.5,"ping":{}}"#,
        r#"{"id":4294967296,"ping":{}}"#,
        r#"{"id":1,"subscribe":[]}"#,
        r#"{"id":1,"presence":["a"]}"#,
        r#"{"id":1,"subscribe":{"channel":7}}"#,
        r#"{"id":1,"subscribe":{"channel":"a","offset":-1}}"#,
        r#"{"id":1,"subscribe":{"channel":"a","recover":"yes"}}"#,
        r#"{"id":1,"history":{"channel":"a","since":7}}"#,
        r#"{"id":1,"publish":{"channel":"a","data":{]}}"#,
        r#"{"id":1,"ping":{}} {}"#,
        "{\"id\":1,\"presence\":{\"channel\":\"a\u{1}\"}}",
    ] {
        assert!(one(bad).is_err(), "{bad}");
    }
    assert!(decode(b"{\"id\":1,\"rpc\":{\"data\":\"\xff\"}}").next().unwrap().is_err());
}

#[test]
fn nesting_is_bounded_also_in_payloads_and_unknown_fields() {
    let nested = |field: &str, depth: usize| {
        format!(r#"{{"id":1,"publish":{{"channel":"a","{field}":{}1{}}}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    for field in ["data", "other"] {
        assert!(one(&nested(field, NESTING - 2)).is_ok());
        assert_eq!(one(&nested(field, NESTING - 1)), Err(Malformed::TooDeep));
        assert_eq!(one(&nested(field, 30_000)), Err(Malformed::TooDeep));
    }
    // Brackets within strings do not count.
    assert!(one(&format!(r#"{{"id":1,"rpc":{{"data":"\"{}"}}}}"#, "[".repeat(500))).is_ok());
}

#[test]
fn replies_of_the_examples() {
    let connected =
        Connected { client: "c1".into(), version: "1.0".into(), ping: 25, pong: true, ..Connected::default() };
    assert_eq!(
        reply(1, Ok(Answer::Connect(connected))),
        r#"{"id":1,"connect":{"client":"c1","version":"1.0","ping":25,"pong":true}}"#
    );
    let subscribed = Subscribed {
        ttl: None,
        recoverable: true,
        epoch: EPOCH,
        offset: Seq(41),
        was_recovering: true,
        recovered: true,
        publications: vec![publication(42, r#"{"t":"hi"}"#)],
    };
    assert_eq!(
        reply(2, Ok(Answer::Subscribe(subscribed))),
        r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"1f-2-3","publications":[{"data":{"t":"hi"},"offset":42}],"recovered":true,"offset":41,"positioned":true,"was_recovering":true}}"#
    );
    assert_eq!(
        pushed(
            "room:7",
            Push::Publication(&v1::Publication { info: info("42", "c1").packed(), ..publication(43, r#"{"t":"yo"}"#) })
        ),
        r#"{"push":{"channel":"room:7","pub":{"data":{"t":"yo"},"info":{"user":"42","client":"c1"},"offset":43}}}"#
    );
    assert_eq!(reply(3, Ok(Answer::Publish)), r#"{"id":3,"publish":{}}"#);
    assert_eq!(reply(4, Err(ErrorCode::NOT_AVAILABLE)), r#"{"id":4,"error":{"code":108,"message":"not available"}}"#);
    assert_eq!(text(PING), "{}");
    assert_eq!(
        pushed("room:7", Push::Unsubscribe(CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE)),
        r#"{"push":{"channel":"room:7","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#
    );
}

#[test]
fn every_other_reply() {
    assert_eq!(
        reply(1, Err(ErrorCode::INTERNAL)),
        r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#
    );
    assert_eq!(reply(1, Ok(Answer::Unsubscribe)), r#"{"id":1,"unsubscribe":{}}"#);
    assert_eq!(reply(1, Ok(Answer::Ping)), r#"{"id":1,"ping":{}}"#);
    assert_eq!(reply(1, Ok(Answer::Rpc(Bytes::from_static(b"[1]")))), r#"{"id":1,"rpc":{"data":[1]}}"#);
    assert_eq!(reply(1, Ok(Answer::Rpc(Bytes::new()))), r#"{"id":1,"rpc":{}}"#);
    assert_eq!(reply(1, Ok(Answer::Presence(BTreeMap::new()))), r#"{"id":1,"presence":{"presence":{}}}"#);
    let with_info = v1::ClientInfo { conn_info: Bytes::from_static(b"{\"a\":1}"), ..info("", "c1") };
    assert_eq!(
        reply(1, Ok(Answer::Presence([("c1".to_owned(), with_info)].into()))),
        r#"{"id":1,"presence":{"presence":{"c1":{"user":"","client":"c1","conn_info":{"a":1}}}}}"#
    );
    assert_eq!(
        reply(5, Ok(Answer::PresenceStats { num_clients: 2, num_users: 0 })),
        r#"{"id":5,"presence_stats":{"num_clients":2,"num_users":0}}"#
    );
    assert_eq!(
        reply(1, Ok(Answer::History { publications: vec![], epoch: EPOCH, offset: Seq(0) })),
        r#"{"id":1,"history":{"publications":[],"epoch":"1f-2-3","offset":0}}"#
    );
    let empty = Subscribed {
        ttl: None,
        recoverable: true,
        epoch: EPOCH,
        offset: Seq(0),
        was_recovering: false,
        recovered: false,
        publications: vec![],
    };
    assert_eq!(
        reply(1, Ok(Answer::Subscribe(empty))),
        r#"{"id":1,"subscribe":{"recoverable":true,"epoch":"1f-2-3","positioned":true}}"#
    );
    assert_eq!(reply(1, Ok(Answer::Refresh { ttl: Some(60) })), r#"{"id":1,"refresh":{"expires":true,"ttl":60}}"#);
    assert_eq!(reply(1, Ok(Answer::Refresh { ttl: None })), r#"{"id":1,"refresh":{}}"#);
    assert_eq!(reply(1, Ok(Answer::SubRefresh { ttl: Some(1) })), r#"{"id":1,"sub_refresh":{"expires":true,"ttl":1}}"#);
    assert_eq!(
        pushed("a", Push::Subscribe { epoch: EPOCH, offset: Seq(4), recoverable: true }),
        r#"{"push":{"channel":"a","subscribe":{"recoverable":true,"epoch":"1f-2-3","offset":4,"positioned":true}}}"#
    );
    assert_eq!(
        pushed("a", Push::Join(&info("u", "c"))),
        r#"{"push":{"channel":"a","join":{"info":{"user":"u","client":"c"}}}}"#
    );
    assert_eq!(
        pushed("a", Push::Leave(&info("u", "c"))),
        r#"{"push":{"channel":"a","leave":{"info":{"user":"u","client":"c"}}}}"#
    );
    assert_eq!(
        pushed("a", Push::Publication(&v1::Publication { id: "m\"1".into(), ..publication(1, "1") })),
        r#"{"push":{"channel":"a","pub":{"data":1,"offset":1,"tags":{"id":"m\"1"}}}}"#
    );
    for (mark, tag) in [
        (Mark::Deleted(v1::Deleted {}), r#""deleted":"1""#),
        (Mark::Deletes(5), r#""deletes":"5""#),
        (Mark::Clears(8), r#""clears":"8""#),
    ] {
        assert_eq!(
            pushed("a", Push::Publication(&v1::Publication { mark: Some(mark), ..publication(9, "{}") })),
            format!(r#"{{"push":{{"channel":"a","pub":{{"data":{{}},"offset":9,"tags":{{{tag}}}}}}}}}"#)
        );
    }
}

#[test]
fn a_payload_never_breaks_the_frame() {
    assert_eq!(
        pushed("a", Push::Publication(&publication(1, "{\n\"b\":\n1}"))),
        r#"{"push":{"channel":"a","pub":{"data":{ "b": 1},"offset":1}}}"#
    );
    assert_eq!(
        pushed("a", Push::Publication(&publication(1, "no\njson"))),
        r#"{"push":{"channel":"a","pub":{"data":"no\njson","offset":1}}}"#
    );
    assert_eq!(text(embeddable(b" {\n}\n").unwrap()), "{ }");
    assert!(embeddable(b"{").is_err() && embeddable(b"").is_err() && embeddable(b"1 2").is_err());
}

/// JSON of some depth, as a publisher might send it.
fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(".{0,4}", inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn garbage_never_panics(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&frame).count();
    }

    #[test]
    fn mangled_commands_never_panic(at in 0usize..80, with: u8) {
        let mut frame = br#"{"subscribe":{"channel":"room:7","flag":1,"recover":true,"offset":41,"epoch":"k3"},"id":2}"#.to_vec();
        frame[at] = with;
        let _ = decode(&frame).count();
    }

    #[test]
    fn a_published_payload_reaches_members_unchanged(data in json_value(), channel in ".{1,20}", id in 1u32..) {
        prop_assume!(!data.is_null());
        let line = serde_json::json!({"id": id, "publish": {"channel": channel, "data": data}}).to_string();
        let command = one(&line).unwrap();
        prop_assert_eq!(command.id, id);
        let Request::Publish { channel: read, data: payload } = command.request else { panic!("a publish") };
        prop_assert_eq!(&read, &channel);
        let publication = v1::Publication { seq: 9, data: payload, ..Default::default() };
        let push = push(&channel, &Push::Publication(&publication));
        prop_assert!(!push.contains(&b'\n'));
        let push: serde_json::Value = serde_json::from_slice(&push).unwrap();
        prop_assert_eq!(&push["push"]["pub"]["data"], &data);
        prop_assert_eq!(push["push"]["channel"].as_str(), Some(channel.as_str()));
    }
}
