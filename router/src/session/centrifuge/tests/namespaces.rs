//! What a room's namespace allows.

use std::collections::BTreeMap;

use roomring_control::daemon::ByteSize;

use super::*;
use crate::namespaces::{Join, Namespaces, Options, Payload, Publish, When};

/// A connected session for `user`, in which rooms `x:...` have these options.
fn subject(user: &str, format: Format, options: Options) -> Subject {
    let namespaces = Namespaces::new(Options::default(), BTreeMap::from([("x".to_owned(), options)]));
    let policy = Policy { auth: Auth::insecure(), namespaces, ..Policy::default() };
    let transport = Transport { format, ..Transport::default() };
    let mut s = Subject::by(LIMITS, policy, transport, User::new(user.to_owned()).unwrap());
    match format {
        Format::Json => s.send(r#"{"id":1,"connect":{}}"#),
        Format::Protobuf => s.send_bytes(&[4, 8, 1, 0x22, 0]),
    }
    s.out.clear();
    s
}

fn with(options: Options) -> Subject {
    subject("ann", Format::Json, options)
}

fn joined(options: Options) -> Subject {
    let mut s = with(options);
    s.send(r#"{"id":2,"subscribe":{"channel":"x:a"}}"#);
    s.hub(ToClient::Subscribed { request: 2, room: room("x:a"), result: Ok(granted()) });
    s.out.clear();
    s
}

fn subscribe(id: u32, channel: &str) -> String {
    format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}"}}}}"#)
}

#[test]
fn an_unknown_namespace_is_an_error() {
    let mut s = with(Options::default());
    assert_eq!(s.answer(&subscribe(2, "y:a")), error(2, 102));
    assert_eq!(s.answer(r#"{"id":3,"publish":{"channel":"y:a","data":1}}"#), error(3, 102));
    assert_eq!(s.answer(r#"{"id":4,"presence":{"channel":"y:a"}}"#), error(4, 102));
    assert_eq!(s.answer(r#"{"id":5,"history":{"channel":"y:a"}}"#), error(5, 102));
    assert_eq!(s.answer(&subscribe(6, "x:a")), "hub subscribe 6");
    assert_eq!(s.answer(&subscribe(7, "plain")), "hub subscribe 7");
}

#[test]
fn who_may_join() {
    let joins = |join: Join, user: &str, channel: &str| {
        subject(user, Format::Json, Options { join, ..Options::default() }).answer(&subscribe(2, channel))
    };
    assert_eq!(joins(Join::Anyone, "", "x:a"), "hub subscribe 2");
    assert_eq!(joins(Join::Users, "", "x:a"), error(2, 103));
    assert_eq!(joins(Join::Users, "ann", "x:a"), "hub subscribe 2");
    assert_eq!(joins(Join::Token, "ann", "x:a"), error(2, 103));
    assert_eq!(joins(Join::Anyone, "ann", "x:a#ann,bob"), "hub subscribe 2");
    assert_eq!(joins(Join::Anyone, "eve", "x:a#ann,bob"), error(2, 103));
    assert_eq!(joins(Join::Anyone, "", "a#"), error(2, 103));
}

#[test]
fn who_may_publish_and_how_much() {
    let publish = |id: u32, channel: &str| format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":[1,2]}}}}"#);
    let mut anyone = with(Options { publish: Publish::Anyone, ..Options::default() });
    assert_eq!(anyone.answer(&publish(2, "x:a")), "hub publish 2");
    assert_eq!(anyone.answer(&publish(3, "x:a#bob")), error(3, 103));
    let mut nobody = joined(Options { publish: Publish::Nobody, ..Options::default() });
    assert_eq!(nobody.answer(&publish(3, "x:a")), error(3, 103));
    let call = r#"{"id":4,"rpc":{"method":"room.publish","data":{"channel":"x:a","data":1}}}"#;
    assert_eq!(nobody.answer(call), error(4, 103));
    let mut short = joined(Options { max_payload: Some(ByteSize(5)), ..Options::default() });
    assert_eq!(short.answer(&publish(3, "x:a")), "hub publish 3");
    let mut shorter = joined(Options { max_payload: Some(ByteSize(4)), ..Options::default() });
    assert_eq!(shorter.answer(&publish(3, "x:a")), error(3, 106));
}

#[test]
fn presence_and_history_can_be_off() {
    let mut s = joined(Options { presence: false, history_size: Some(0), ..Options::default() });
    assert_eq!(s.answer(r#"{"id":3,"presence":{"channel":"x:a"}}"#), error(3, 108));
    assert_eq!(s.answer(r#"{"id":4,"presence_stats":{"channel":"x:a"}}"#), error(4, 108));
    assert_eq!(s.answer(r#"{"id":5,"history":{"channel":"x:a"}}"#), error(5, 108));
}

#[test]
fn joins_and_recovery_are_granted_by_policy() {
    let granted_to = |options: Options, wishes: &str| {
        let mut s = with(options);
        let frame = format!(r#"{{"id":2,"subscribe":{{"channel":"x:a"{wishes}}}}}"#);
        let Command::Subscribe { join_leave, recover, .. } = s.command(&frame) else { panic!("a subscribe") };
        s.hub(ToClient::Subscribed { request: 2, room: room("x:a"), result: Ok(granted()) });
        (join_leave, recover.is_some(), s.lines()[0].contains("recoverable"))
    };
    let wishes = r#","join_leave":true,"recoverable":true,"recover":true,"epoch":"e","offset":1"#;
    let of = |join_leave, recovery| Options { join_leave, recovery, ..Options::default() };
    assert_eq!(granted_to(of(When::Asked, When::Always), ""), (false, false, true));
    assert_eq!(granted_to(of(When::Asked, When::Asked), ""), (false, false, false));
    assert_eq!(granted_to(of(When::Asked, When::Asked), wishes), (true, true, true));
    assert_eq!(granted_to(of(When::Never, When::Never), wishes), (false, false, false));
    assert_eq!(granted_to(of(When::Always, When::Always), ""), (true, false, true));
    let kept_nothing = Options { history_size: Some(0), ..of(When::Asked, When::Always) };
    assert_eq!(granted_to(kept_nothing, wishes), (true, false, false));
}

#[test]
fn binary_payloads_are_for_protobuf_clients() {
    let binary = Options { payload: Payload::Binary, publish: Publish::Anyone, ..Options::default() };
    let mut json = with(binary.clone());
    assert_eq!(json.answer(&subscribe(2, "x:a")), error(2, 107));
    let mut s = subject("ann", Format::Protobuf, binary);
    s.send_bytes(b"\x0b\x08\x02\x3a\x07\x0a\x03x:a\x12\x00");
    s.out.clear();
    s.send_bytes(b"\x0e\x08\x03\x3a\x0a\x0a\x03x:a\x12\x03\xff\x00\x01");
    let Some(Output::Hub(Command::Publish { data, .. })) = s.out.pop() else { panic!("{:?}", s.out) };
    assert_eq!(&data[..], b"\xff\x00\x01");
}
