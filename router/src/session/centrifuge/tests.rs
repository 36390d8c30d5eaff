use std::time::Duration;

use proptest::prelude::*;
use roomring_proto::client::Push;
use roomring_proto::{Epoch, Generation, Lsn, Seq, Uid, v1};

use super::*;
use crate::auth::{Auth, Unix};
use crate::hub::api::{self, ClientPosition, Codec, Position};

mod asking;
mod namespaces;
mod orders;
mod protobuf;
mod tokens;

const EPOCH: Epoch = Epoch { uid: Uid(0xe), generation: Generation(1), created: Lsn(2) };
const UNIX: Unix = Unix(1_000_000);
const LIMITS: Limits = Limits {
    ping: Duration::from_secs(25),
    pong_timeout: Duration::from_secs(8),
    connect_timeout: Duration::from_secs(10),
    queue_bytes: 1 << 20,
    rooms: 3,
    commands: None,
};

fn position(seq: u64) -> Position {
    Position { epoch: EPOCH, seq: Seq(seq) }
}

/// A session under test, whose outputs are collected.
struct Subject {
    session: Centrifuge,
    now: Instant,
    out: Vec<Output>,
}

impl Subject {
    fn new(limits: Limits) -> Self {
        let user = User::new("query".into()).unwrap();
        Self::over(limits, Transport::default(), user)
    }

    fn over(limits: Limits, transport: Transport, user: User) -> Self {
        Self::by(limits, Policy { auth: Auth::insecure(), ..Policy::default() }, transport, user)
    }

    fn by(limits: Limits, policy: Policy, transport: Transport, user: User) -> Self {
        let now = Instant::now();
        let clock = Clock::new(now, UNIX);
        let mut session =
            Centrifuge::new(limits, Arc::new(policy), transport, clock, ClientId(0xc1), (user, Shown::default()), 0.5);
        session.start(now, &mut Vec::new());
        Self { session, now, out: Vec::new() }
    }

    fn connected() -> Self {
        let mut s = Self::new(LIMITS);
        s.send(r#"{"id":1,"connect":{"data":{"user":"ann"}}}"#);
        s.lines();
        s
    }

    fn joined() -> Self {
        let mut s = Self::connected();
        s.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
        s.hub(ToClient::Subscribed { request: 2, room: room("a"), result: Ok(granted()) });
        s.out.clear();
        s
    }

    fn send(&mut self, frame: &str) {
        self.session.handle(self.now, Input::Message { data: frame.as_bytes(), text: true }, &mut self.out);
    }

    fn send_bytes(&mut self, frame: &[u8]) {
        self.session.handle(self.now, Input::Message { data: frame, text: false }, &mut self.out);
    }

    fn hub(&mut self, event: ToClient) {
        self.session.handle(self.now, Input::Hub(event), &mut self.out);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.handle(self.now, Input::Tick, &mut self.out);
    }

    /// What was written since the last call; a close as `close CODE`, a command to the hub as `hub NAME`.
    fn lines(&mut self) -> Vec<String> {
        self.out
            .drain(..)
            .map(|output| match output {
                Output::Write(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Output::Ping => "native ping".to_owned(),
                Output::Close(code) => format!("close {}", code.code),
                Output::Lookup(_) => "lookup".to_owned(),
                Output::Ask(question) => format!("ask {}", question.room),
                Output::Hub(Command::Subscribe { request, .. }) => format!("hub subscribe {request}"),
                Output::Hub(Command::Unsubscribe { request, .. }) => format!("hub unsubscribe {request:?}"),
                Output::Hub(Command::Publish { request, .. }) => format!("hub publish {request}"),
                Output::Hub(Command::Retract { .. }) => panic!("clients retract nothing"),
                Output::Hub(Command::History { request, .. }) => format!("hub history {request}"),
                Output::Hub(Command::Presence { request, .. }) => format!("hub presence {request}"),
            })
            .collect()
    }

    fn answer(&mut self, frame: &str) -> String {
        self.send(frame);
        let lines = self.lines();
        assert_eq!(lines.len(), 1, "{frame} gave {lines:?}");
        lines.into_iter().next().unwrap()
    }

    fn command(&mut self, frame: &str) -> Command {
        self.send(frame);
        match self.out.pop() {
            Some(Output::Hub(command)) if self.out.is_empty() => command,
            other => panic!("{frame} gave {other:?} after {:?}", self.out),
        }
    }
}

fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

fn granted() -> api::Subscribed {
    api::Subscribed { position: position(4), was_recovering: false, recovered: false, publications: vec![] }
}

fn error(id: u32, code: u32) -> String {
    let all = [
        ErrorCode::INTERNAL,
        ErrorCode::PERMISSION_DENIED,
        ErrorCode::METHOD_NOT_FOUND,
        ErrorCode::ALREADY_SUBSCRIBED,
        ErrorCode::LIMIT_EXCEEDED,
        ErrorCode::BAD_REQUEST,
        ErrorCode::NOT_AVAILABLE,
        ErrorCode::TOO_MANY_REQUESTS,
        ErrorCode::UNKNOWN_CHANNEL,
        ErrorCode::TOKEN_EXPIRED,
        ErrorCode::EXPIRED,
        ErrorCode::UNRECOVERABLE_POSITION,
        ErrorCode::OUTCOME_UNKNOWN,
    ];
    let e = all.into_iter().find(|e| e.code == code).unwrap();
    let temporary = if e.temporary { r#","temporary":true"# } else { "" };
    format!(r#"{{"id":{id},"error":{{"code":{code},"message":"{}"{temporary}}}}}"#, e.message)
}

#[test]
fn connect_answers_with_an_id_and_the_ping_interval() {
    let mut s = Subject::new(LIMITS);
    assert_eq!(
        s.answer(r#"{"id":1,"connect":{"name":"js"}}"#),
        format!(
            r#"{{"id":1,"connect":{{"client":"{:032x}","version":"{}","ping":25,"pong":true}}}}"#,
            0xc1,
            env!("CARGO_PKG_VERSION")
        )
    );
    assert_eq!(s.session.client().unwrap().user, "query");
    assert_eq!(Subject::connected().session.client().unwrap().user, "ann");
}

#[test]
fn connect_must_come_first_and_once() {
    for first in [
        r#"{"id":1,"subscribe":{"channel":"a"}}"#,
        r#"{"id":1,"publish":{"channel":"a","data":1}}"#,
        r#"{"id":1,"ping":{}}"#,
        r#"{"send":{}}"#,
        r#"{"connect":{}}"#,
        "{}",
        "",
        "x",
    ] {
        assert_eq!(Subject::new(LIMITS).answer(first), "close 3501", "{first}");
    }
    assert_eq!(Subject::connected().answer(r#"{"id":2,"connect":{}}"#), "close 3501");
}

#[test]
fn a_bad_user_name_ends_the_connection() {
    for data in [r#"{"user":7}"#.to_owned(), format!(r#"{{"user":"{}"}}"#, "x".repeat(256))] {
        let mut s = Subject::new(LIMITS);
        s.send(&format!("{{\"id\":1,\"connect\":{{\"data\":{data}}}}}\n{{\"id\":2,\"ping\":{{}}}}"));
        assert_eq!(s.lines(), [error(1, 107), "close 3501".into()]);
    }
}

#[test]
fn no_connect_in_time_is_stale() {
    let mut s = Subject::new(LIMITS);
    assert_eq!(s.session.next_deadline(), Some(s.now + LIMITS.connect_timeout));
    s.pass(Duration::from_secs(9));
    assert!(s.lines().is_empty());
    s.pass(Duration::from_secs(1));
    assert_eq!(s.lines(), ["close 3502"]);
    assert_eq!(s.session.next_deadline(), None);
}

#[test]
fn several_commands_of_one_frame_are_taken_in_order() {
    let mut s = Subject::new(LIMITS);
    s.send("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"publish\":{\"channel\":\"a\",\"data\":1}}");
    assert_eq!(s.lines()[1..], ["hub subscribe 2", "hub publish 3"]);
    // What follows a broken one is not looked at.
    s.send("{\"id\":4,\"ping\":{}}\nx\n{\"id\":5,\"ping\":{}}");
    assert_eq!(s.lines(), [r#"{"id":4,"ping":{}}"#, "close 3501"]);
    s.send(r#"{"id":6,"ping":{}}"#);
    assert!(s.lines().is_empty());
}

#[test]
fn subscribe_passes_the_position_and_the_wishes_on() {
    let mut s = Subject::connected();
    let frame =
        r#"{"id":2,"subscribe":{"channel":"a","recover":true,"offset":7,"epoch":"e-1","flag":3,"join_leave":true}}"#;
    let Command::Subscribe { request, room, recover, join_leave, reject_unrecovered, .. } = s.command(frame) else {
        panic!("a subscribe")
    };
    assert_eq!((request, room.as_str(), join_leave, reject_unrecovered), (2, "a", true, true));
    assert_eq!(recover, Some(ClientPosition { epoch: "e-1".into(), seq: Seq(7) }));
    let recovered = api::Subscribed {
        position: position(7),
        was_recovering: true,
        recovered: true,
        publications: vec![v1::Publication { seq: 8, data: Bytes::from_static(b"1"), ..Default::default() }],
    };
    s.hub(ToClient::Subscribed { request: 2, room, result: Ok(recovered) });
    assert_eq!(
        s.lines(),
        [
            r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"e-1-2","publications":[{"data":1,"offset":8}],"recovered":true,"offset":7,"positioned":true,"was_recovering":true}}"#
        ]
    );
    assert_eq!(s.session.rooms().len(), 1);
}

#[test]
fn subscribe_is_refused_by_its_rules() {
    let mut s = Subject::joined();
    assert_eq!(s.answer(r#"{"id":3,"subscribe":{"channel":"a"}}"#), error(3, 105));
    assert_eq!(s.answer(&format!(r#"{{"id":4,"subscribe":{{"channel":"{}"}}}}"#, "x".repeat(256))), error(4, 107));
    assert_eq!(s.answer(r#"{"id":5,"subscribe":{"channel":"a\u0007"}}"#), error(5, 107));
    assert_eq!(s.answer(r#"{"id":6,"subscribe":{"channel":"b","tf":{}}}"#), error(6, 107));
    assert_eq!(s.answer(r#"{"id":7,"subscribe":{"channel":"b"}}"#), "hub subscribe 7");
    assert_eq!(s.answer(r#"{"id":8,"subscribe":{"channel":"b"}}"#), error(8, 105));
    assert_eq!(s.answer(r#"{"id":9,"subscribe":{"channel":"c"}}"#), "hub subscribe 9");
    assert_eq!(s.answer(r#"{"id":10,"subscribe":{"channel":"d"}}"#), error(10, 106));
    assert_eq!(s.answer(r#"{"id":11,"subscribe":{"channel":""}}"#), "close 3501");
}

#[test]
fn a_refused_subscribe_leaves_nothing_behind() {
    let mut s = Subject::connected();
    s.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    s.hub(ToClient::Subscribed { request: 2, room: room("a"), result: Err(ErrorCode::INTERNAL) });
    assert_eq!(s.lines(), ["hub subscribe 2".into(), error(2, 100)]);
    assert!(s.session.rooms().is_empty());
    assert_eq!(s.answer(r#"{"id":3,"subscribe":{"channel":"a"}}"#), "hub subscribe 3");
}

#[test]
fn subscribing_again_right_after_an_unsubscribe_is_no_repeat() {
    let mut s = Subject::connected();
    let sub = |id| format!(r#"{{"id":{id},"subscribe":{{"channel":"a"}}}}"#);
    s.send(&format!("{}\n{{\"id\":3,\"unsubscribe\":{{\"channel\":\"a\"}}}}\n{}", sub(2), sub(4)));
    assert_eq!(s.lines(), ["hub subscribe 2", "hub unsubscribe Some(3)", "hub subscribe 4"]);
    s.hub(ToClient::Subscribed { request: 2, room: room("a"), result: Ok(granted()) });
    // The membership of command 2 was lost before the hub saw the unsubscribe: not the client's any more.
    s.hub(ToClient::Dropped { room: room("a"), code: CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE, position: None });
    s.hub(ToClient::Unsubscribed { request: 3, room: room("a") });
    s.hub(ToClient::Subscribed { request: 4, room: room("a"), result: Ok(granted()) });
    let ids: Vec<_> = s.lines().iter().map(|l| l[..7].to_owned()).collect();
    assert_eq!(ids, [r#"{"id":2"#, r#"{"id":3"#, r#"{"id":4"#]);
    assert_eq!(s.session.rooms(), [room("a")]);
}

#[test]
fn unsubscribe_always_succeeds() {
    let mut s = Subject::joined();
    for (id, channel) in [(3, "never joined".to_owned()), (4, "x".repeat(300)), (5, "\\u0001".to_owned())] {
        let frame = format!(r#"{{"id":{id},"unsubscribe":{{"channel":"{channel}"}}}}"#);
        assert_eq!(s.answer(&frame), format!(r#"{{"id":{id},"unsubscribe":{{}}}}"#));
    }
    assert_eq!(s.answer(r#"{"id":6,"unsubscribe":{"channel":"a"}}"#), "hub unsubscribe Some(6)");
    assert!(s.session.rooms().is_empty());
    s.hub(ToClient::Unsubscribed { request: 6, room: room("a") });
    assert_eq!(s.lines(), [r#"{"id":6,"unsubscribe":{}}"#]);
    assert_eq!(s.answer(r#"{"id":7,"unsubscribe":{}}"#), "close 3501");
}

#[test]
fn publishing_takes_a_membership_and_a_payload() {
    let mut s = Subject::joined();
    assert_eq!(s.answer(r#"{"id":3,"publish":{"channel":"b","data":1}}"#), error(3, 103));
    assert_eq!(s.answer(r#"{"id":4,"publish":{"channel":"a"}}"#), error(4, 107));
    assert_eq!(s.answer(r#"{"id":5,"publish":{"channel":"a\u0007","data":1}}"#), error(5, 107));
    let Command::Publish { data, id, client, .. } =
        s.command(r#"{"id":6,"publish":{"channel":"a","data":{"t": "yo"}}}"#)
    else {
        panic!("a publish")
    };
    assert_eq!((&data[..], id.as_str(), client.user.as_str()), (&br#"{"t": "yo"}"#[..], "", "ann"));
    s.hub(ToClient::Published { request: 6, result: Ok(api::Published { position: position(5), duplicate: false }) });
    assert_eq!(s.lines(), [r#"{"id":6,"publish":{}}"#]);
    s.send(r#"{"id":7,"publish":{"channel":"a","data":1}}"#);
    s.hub(ToClient::Published { request: 7, result: Err(ErrorCode::OUTCOME_UNKNOWN) });
    assert_eq!(s.lines(), ["hub publish 7".into(), error(7, 1000)]);
    assert_eq!(s.answer(r#"{"id":8,"publish":{"data":1}}"#), "close 3501");
}

#[test]
fn room_publish_says_where_the_publication_is() {
    let mut s = Subject::joined();
    let frame = r#"{"id":3,"rpc":{"method":"room.publish","data":{"channel":"a","id":"m1","data":[1]}}}"#;
    let Command::Publish { data, id, .. } = s.command(frame) else { panic!("a publish") };
    assert_eq!((&data[..], id.as_str()), (&b"[1]"[..], "m1"));
    s.hub(ToClient::Published { request: 3, result: Ok(api::Published { position: position(5), duplicate: true }) });
    assert_eq!(s.lines(), [r#"{"id":3,"rpc":{"data":{"offset":5,"epoch":"e-1-2","duplicate":true}}}"#]);

    let call = |id, data: &str| format!(r#"{{"id":{id},"rpc":{{"method":"room.publish","data":{data}}}}}"#);
    assert_eq!(s.answer(&call(4, r#"{"channel":"b","data":1}"#)), error(4, 103));
    assert_eq!(s.answer(&call(5, r#"{"channel":"a"}"#)), error(5, 107));
    assert_eq!(s.answer(&call(6, "7")), error(6, 107));
    assert_eq!(s.answer(r#"{"id":7,"rpc":{"method":"x","data":{}}}"#), error(7, 104));
}

#[test]
fn looking_into_a_room_takes_a_membership() {
    let mut s = Subject::joined();
    for (id, ask) in [(3, "presence"), (4, "presence_stats"), (5, "history")] {
        assert_eq!(s.answer(&format!(r#"{{"id":{id},"{ask}":{{"channel":"b"}}}}"#)), error(id, 103));
    }
    assert_eq!(s.answer(r#"{"id":6,"presence":{"channel":"a"}}"#), "hub presence 6");
    assert_eq!(s.answer(r#"{"id":7,"presence_stats":{"channel":"a"}}"#), "hub presence 7");
    let info = v1::ClientInfo { user: "ann".into(), client: "c".into(), ..Default::default() };
    let presence = api::Presence { clients: [("c".to_owned(), info)].into(), num_clients: 1, num_users: 1 };
    s.hub(ToClient::Presence { request: 6, result: Ok(presence.clone()) });
    s.hub(ToClient::Presence { request: 7, result: Ok(presence) });
    assert_eq!(
        s.lines(),
        [
            r#"{"id":6,"presence":{"presence":{"c":{"user":"ann","client":"c"}}}}"#,
            r#"{"id":7,"presence_stats":{"num_clients":1,"num_users":1}}"#
        ]
    );
    assert_eq!(s.answer(r#"{"id":8,"presence":{}}"#), "close 3501");
}

#[test]
fn history_is_passed_on() {
    let mut s = Subject::joined();
    let frame = r#"{"id":3,"history":{"channel":"a","limit":5,"reverse":true,"since":{"offset":9,"epoch":"x"}}}"#;
    let Command::History { limit, reverse, since, .. } = s.command(frame) else { panic!("history") };
    assert_eq!((limit, reverse), (5, true));
    assert_eq!(since, Some(ClientPosition { epoch: "x".into(), seq: Seq(9) }));
    s.hub(ToClient::History { request: 3, result: Err(ErrorCode::UNRECOVERABLE_POSITION) });
    assert_eq!(s.lines(), [error(3, 112)]);
    s.send(r#"{"id":4,"history":{"channel":"a"}}"#);
    s.hub(ToClient::History { request: 4, result: Ok(api::History { top: position(6), publications: vec![] }) });
    assert_eq!(s.lines()[1], r#"{"id":4,"history":{"publications":[],"epoch":"e-1-2","offset":6}}"#);
    assert_eq!(s.answer(r#"{"id":5,"history":{"channel":"a","reverse":true,"since":{"epoch":"x"}}}"#), error(5, 107));
}

#[test]
fn what_this_server_has_not() {
    assert_eq!(Subject::connected().answer(r#"{"send":{"data":1}}"#), "close 3508");
    assert_eq!(Subject::connected().answer(r#"{"id":2,"refresh":{"token":"t"}}"#), "close 3501");
    assert_eq!(Subject::connected().answer(r#"{"id":2,"sub_refresh":{"channel":"a"}}"#), error(2, 108));
    assert_eq!(Subject::connected().answer(r#"{"id":2,"sub_refresh":{}}"#), "close 3501");
    assert_eq!(Subject::connected().answer(r#"{"id":2,"unheard_of":{}}"#), "close 3501");
}

#[test]
fn pings_are_spread_regular_and_must_be_answered() {
    let mut s = Subject::connected();
    let first = LIMITS.ping.mul_f64(0.75);
    assert_eq!(s.session.next_deadline(), Some(s.now + first));
    s.pass(first);
    assert_eq!(s.lines(), ["{}"]);
    s.send("{}");
    assert!(s.lines().is_empty());
    assert_eq!(s.session.next_deadline(), Some(s.now + LIMITS.ping));
    s.pass(LIMITS.ping);
    assert_eq!(s.lines(), ["{}"]);
    assert_eq!(s.session.next_deadline(), Some(s.now + LIMITS.pong_timeout));
    s.pass(LIMITS.pong_timeout);
    assert_eq!(s.lines(), ["close 3012"]);
    // Not asked for.
    assert_eq!(Subject::connected().answer("{}"), "close 3501");
}

#[test]
fn a_dropped_member_is_told_and_may_come_back() {
    let mut s = Subject::joined();
    let code = CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE;
    s.hub(ToClient::Dropped { room: room("a"), code, position: Some(position(4)) });
    assert_eq!(s.lines(), [r#"{"push":{"channel":"a","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#]);
    assert!(s.session.rooms().is_empty());
    // It is about to subscribe again: what it publishes meanwhile is not refused for good.
    assert_eq!(s.answer(r#"{"id":3,"publish":{"channel":"a","data":1}}"#), "hub publish 3");
    assert_eq!(s.answer(r#"{"id":4,"subscribe":{"channel":"a"}}"#), "hub subscribe 4");
    assert_eq!(s.session.rooms(), [room("a")]);
    s.hub(ToClient::Subscribed { request: 4, room: room("a"), result: Ok(granted()) });
    s.hub(ToClient::Dropped { room: room("a"), code: CloseCode::UNSUBSCRIBED, position: None });
    s.lines();
    assert_eq!(s.answer(r#"{"id":5,"publish":{"channel":"a","data":1}}"#), error(5, 103));
}

#[test]
fn commands_in_flight_are_bounded_and_have_ids_of_their_own() {
    let mut s = Subject::joined();
    let publish = |id: usize| format!(r#"{{"id":{id},"publish":{{"channel":"a","data":1}}}}"#);
    for id in 10..10 + IN_FLIGHT {
        assert_eq!(s.answer(&publish(id)), format!("hub publish {id}"));
    }
    assert_eq!(s.answer(&publish(9_999)), error(9_999, 111));
    s.hub(ToClient::Published { request: 10, result: Err(ErrorCode::INTERNAL) });
    s.lines();
    assert_eq!(s.answer(&publish(9_999)), "hub publish 9999");
    assert_eq!(s.answer(&publish(11)), "close 3501");
}

#[test]
fn answers_that_nothing_asked_for_go_nowhere() {
    let mut s = Subject::joined();
    s.hub(ToClient::Published { request: 77, result: Err(ErrorCode::INTERNAL) });
    s.hub(ToClient::Unsubscribed { request: 77, room: room("a") });
    s.hub(ToClient::Presence { request: 77, result: Err(ErrorCode::INTERNAL) });
    assert!(s.lines().is_empty());
}

#[test]
fn native_pings_take_the_place_of_the_protocols() {
    let transport = Transport { native_pings: true, ..Transport::default() };
    let mut s = Subject::over(LIMITS, transport, User::default());
    let connected = s.answer(r#"{"id":1,"connect":{}}"#);
    assert!(!connected.contains("ping") && !connected.contains("pong"), "{connected}");
    s.pass(LIMITS.ping);
    assert_eq!(s.lines(), ["native ping"]);
    s.session.handle(s.now, Input::Pong, &mut s.out);
    s.pass(LIMITS.ping);
    assert_eq!(s.lines(), ["native ping"]);
    s.pass(LIMITS.pong_timeout);
    assert_eq!(s.lines(), ["close 3012"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a client sends: every command is answered once, or is on its way to the hub, or the session has ended, and
    /// nothing follows the end.
    #[test]
    fn commands_are_answered_or_end_the_session(commands in prop::collection::vec((0usize..12, 0usize..4), 0..60)) {
        let mut s = Subject::connected();
        for (n, (kind, name)) in commands.into_iter().enumerate() {
            let id = n + 10;
            let channel = ["a", "b", "c", "d"][name];
            let frame = match kind {
                0..=2 => format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}"}}}}"#),
                3 | 4 => format!(r#"{{"id":{id},"unsubscribe":{{"channel":"{channel}"}}}}"#),
                5 | 6 => format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":1}}}}"#),
                7 => format!(r#"{{"id":{id},"presence":{{"channel":"{channel}"}}}}"#),
                8 => format!(r#"{{"id":{id},"history":{{"channel":"{channel}"}}}}"#),
                9 => format!(r#"{{"id":{id},"rpc":{{"method":"{channel}"}}}}"#),
                10 => format!(r#"{{"id":{id},"ping":{{}}}}"#),
                _ => "{".to_owned(),
            };
            s.send(&frame);
            prop_assert_eq!(s.out.len(), 1, "{}", frame);
            let closed = matches!(s.out[0], Output::Close(_));
            prop_assert_eq!(closed, kind == 11);
            s.out.clear();
            prop_assert!(s.session.rooms().len() <= LIMITS.rooms);
            if closed {
                s.send(r#"{"id":1,"ping":{}}"#);
                prop_assert!(s.out.is_empty());
                break;
            }
        }
    }
}
