//! Tokens: who connects, who joins, what expires, and rooms that the server joins.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::auth::Tokens;
use crate::frame::Frame;
use crate::namespaces::{Join, Namespaces, Options};

const SECRET: &[u8] = b"a secret of sufficient length";

fn token(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

fn subject(anonymous: bool) -> Subject {
    let tokens = Some(Tokens::default().with_secret(SECRET).unwrap());
    let rooms = Options { join: Join::Token, ..Options::default() };
    let namespaces = Namespaces::new(Options::default(), [("private".to_owned(), rooms)].into());
    let auth = Auth { tokens, anonymous, ..Auth::default() };
    Subject::by(
        LIMITS,
        Policy { auth, namespaces, ..Policy::default() },
        Transport::default(),
        User::new("query".into()).unwrap(),
    )
}

fn connect(claims: &Value) -> String {
    json!({"id": 1, "connect": {"token": token(claims), "data": {"user": "eve"}}}).to_string()
}

/// Connected by a token with these claims.
fn connected(claims: &Value) -> Subject {
    let mut s = subject(false);
    assert!(s.answer(&connect(claims)).starts_with(r#"{"id":1,"connect":{"client":"#));
    s
}

fn subscribe(id: u32, channel: &str, claims: &Value) -> String {
    json!({"id": id, "subscribe": {"channel": channel, "token": token(claims)}}).to_string()
}

fn after(seconds: u64) -> u64 {
    UNIX.0 + seconds
}

#[test]
fn a_token_says_who_connects() {
    let mut s = subject(false);
    let claims = json!({"sub": "ann", "info": {"n": 1}, "exp": after(60)});
    let connected = s.answer(&connect(&claims));
    assert!(connected.contains(r#""expires":true,"ttl":60,"ping":25"#), "{connected}");
    let client = s.session.client().unwrap();
    assert_eq!((client.user.as_str(), &client.conn_info[..]), ("ann", &br#"{"n":1}"#[..]));
    assert!(!subject(false).answer(&connect(&json!({"sub": "ann"}))).contains("expires"));

    assert_eq!(subject(false).answer(r#"{"id":1,"connect":{"data":{"user":"eve"}}}"#), "close 3501");
    let mut s = subject(true);
    assert!(s.answer(r#"{"id":1,"connect":{"data":{"user":"eve"}}}"#).contains("client"));
    assert_eq!(s.session.client().unwrap().user, "");
    for bad in ["x", &token(&json!({"channel": "a"}))] {
        let frame = json!({"id": 1, "connect": {"token": bad}}).to_string();
        assert_eq!(subject(true).answer(&frame), "close 3500");
    }
}

#[test]
fn an_expired_token_is_told_and_the_client_may_fetch_another() {
    let expired = connect(&json!({"sub": "ann", "exp": after(0)}));
    let mut s = subject(false);
    assert_eq!(s.answer(&format!("{expired}\n{{\"id\":2,\"ping\":{{}}}}")), error(1, 109), "the rest is dropped");
    assert_eq!(s.answer(r#"{"id":3,"ping":{}}"#), "close 3501");
    let mut s = subject(false);
    s.send(&expired);
    s.lines();
    s.pass(LIMITS.connect_timeout);
    assert_eq!(s.lines(), ["close 3502"]);
}

#[test]
fn a_revoked_token_is_as_good_as_an_expired_one() {
    use roomring_control::denials::{Denial, Denied};
    let revoked = Denial { user: "ann".into(), what: Denied::Tokens { issued_until: UNIX.0 }, until: after(600) };
    for (issued, good) in [(json!({"sub": "ann"}), false), (json!({"sub": "ann", "iat": UNIX.0}), false)]
        .into_iter()
        .chain([(json!({"sub": "ann", "iat": after(1)}), true), (json!({"sub": "bob"}), true)])
    {
        let mut s = subject(false);
        s.session.policy.roster.deny(revoked.clone());
        let answer = s.answer(&connect(&issued));
        assert_eq!(answer == error(1, 109), !good, "{issued}: {answer}");
    }
    let mut s = connected(&json!({"sub": "ann", "exp": after(60)}));
    s.session.policy.roster.deny(revoked);
    assert_eq!(s.answer(&subscribe(2, "private:a", &json!({"sub": "ann", "channel": "private:a"}))), error(2, 109));
    let renewed = json!({"sub": "ann", "exp": after(90)});
    assert_eq!(s.answer(&json!({"id": 3, "refresh": {"token": token(&renewed)}}).to_string()), "close 3005");
}

#[test]
fn a_connection_is_refreshed_or_ends() {
    let refresh = |claims: &Value| json!({"id": 5, "refresh": {"token": token(claims)}}).to_string();
    let claims = json!({"sub": "ann", "exp": after(60)});
    let mut s = connected(&claims);
    s.now += Duration::from_secs(50);
    assert_eq!(
        s.answer(&refresh(&json!({"sub": "ann", "exp": after(90)}))),
        r#"{"id":5,"refresh":{"expires":true,"ttl":40}}"#
    );
    let ends = s.now + Duration::from_secs(40 + 25);
    while s.now < ends {
        assert_ne!(s.lines(), ["close 3005"]);
        s.pass(s.session.next_deadline().unwrap().duration_since(s.now));
        if s.now < ends {
            s.send("{}");
        }
    }
    assert_eq!(s.now, ends);
    assert_eq!(s.lines().last().unwrap(), "close 3005");

    assert_eq!(connected(&claims).answer(&refresh(&json!({"sub": "ann"}))), r#"{"id":5,"refresh":{}}"#);
    assert_eq!(connected(&claims).answer(&refresh(&json!({"sub": "bob"}))), "close 3500");
    assert_eq!(connected(&claims).answer(&refresh(&json!({"sub": "ann", "exp": 5}))), "close 3005");
    assert_eq!(connected(&claims).answer(r#"{"id":5,"refresh":{"token":"x"}}"#), "close 3500");
    assert_eq!(connected(&claims).answer(r#"{"id":5,"refresh":{}}"#), "close 3501");
    assert_eq!(connected(&json!({"sub": "ann"})).answer(&refresh(&claims)), "close 3501", "nothing expires");
}

#[test]
fn a_subscription_token_grants_the_room_it_names() {
    let ann = json!({"sub": "ann"});
    let of = |claims: Value| connected(&ann).answer(&subscribe(2, "private:a", &claims));
    assert_eq!(connected(&ann).answer(r#"{"id":2,"subscribe":{"channel":"private:a"}}"#), error(2, 103));
    assert_eq!(of(json!({"sub": "ann", "channel": "private:a"})), "hub subscribe 2");
    assert_eq!(
        of(json!({"sub": "ann", "channel": "private:a", "client": format!("{:032x}", 0xc1)})),
        "hub subscribe 2"
    );
    assert_eq!(of(json!({"sub": "ann", "channel": "private:a", "client": "another"})), error(2, 103));
    assert_eq!(of(json!({"sub": "ann", "channel": "private:a", "exp": after(0)})), error(2, 109));
    assert_eq!(of(json!({"sub": "ann"})), error(2, 103));
    assert_eq!(of(json!({"sub": "ann", "channel": "private:b"})), "close 3500");
    assert_eq!(of(json!({"sub": "bob", "channel": "private:a"})), "close 3500");
    // By itself, also where the name says otherwise.
    let mut s = connected(&ann);
    assert_eq!(s.answer(&subscribe(2, "a#bob", &json!({"sub": "ann", "channel": "a#bob"}))), "hub subscribe 2");
    let overrides = json!({"force_push_join_leave": {"value": true}});
    let frame = subscribe(2, "private:a", &json!({"sub": "ann", "channel": "private:a", "override": overrides}));
    let Command::Subscribe { join_leave, .. } = connected(&ann).command(&frame) else { panic!("a subscribe") };
    assert!(join_leave);
}

/// A member of `private:a` until second 60.
fn member() -> Subject {
    let mut s = connected(&json!({"sub": "ann"}));
    let claims = json!({"sub": "ann", "channel": "private:a", "exp": after(60)});
    s.send(&subscribe(2, "private:a", &claims));
    s.hub(ToClient::Subscribed { request: 2, room: room("private:a"), result: Ok(granted()) });
    let lines = s.lines();
    assert!(lines[1].starts_with(r#"{"id":2,"subscribe":{"expires":true,"ttl":60,"recoverable":true"#), "{lines:?}");
    s
}

#[test]
fn a_membership_is_refreshed_or_ends() {
    let refresh =
        |claims: &Value| json!({"id": 5, "sub_refresh": {"channel": "private:a", "token": token(claims)}}).to_string();
    let claims = |exp: u64| json!({"sub": "ann", "channel": "private:a", "exp": exp});
    assert_eq!(member().answer(&refresh(&claims(after(0)))), error(5, 110));
    assert_eq!(member().answer(&refresh(&json!({"sub": "bob", "channel": "private:a"}))), "close 3500");
    assert_eq!(member().answer(r#"{"id":5,"sub_refresh":{"channel":"private:a","token":"x"}}"#), "close 3500");
    assert_eq!(member().answer(r#"{"id":5,"sub_refresh":{"channel":"other","token":"x"}}"#), error(5, 103));
    assert_eq!(member().answer(r#"{"id":5,"sub_refresh":{}}"#), "close 3501");
    assert_eq!(
        member().answer(&refresh(&json!({"sub": "ann", "channel": "private:a"}))),
        r#"{"id":5,"sub_refresh":{}}"#
    );

    let mut s = member();
    s.now += Duration::from_secs(50);
    assert_eq!(s.answer(&refresh(&claims(after(100)))), r#"{"id":5,"sub_refresh":{"expires":true,"ttl":50}}"#);
    s.now += Duration::from_secs(50 + 24);
    s.session.expire_rooms(s.now, &mut s.out);
    assert!(s.lines().is_empty());
    s.now += Duration::from_secs(1);
    assert!(s.session.next_deadline().unwrap() <= s.now);
    s.session.expire_rooms(s.now, &mut s.out);
    assert_eq!(s.lines(), ["hub unsubscribe Some(0)"]);
    assert!(s.session.rooms().is_empty());
    // What came before is delivered, then the client is told.
    s.hub(ToClient::Unsubscribed { request: 0, room: room("private:a") });
    assert_eq!(
        s.lines(),
        [r#"{"push":{"channel":"private:a","unsubscribe":{"code":2501,"reason":"subscription expired"}}}"#]
    );
    assert_eq!(s.answer(r#"{"id":6,"publish":{"channel":"private:a","data":1}}"#), error(6, 103));
}

#[test]
fn a_client_that_left_is_not_told_of_an_expiry() {
    let mut s = member();
    s.now += Duration::from_secs(85);
    s.session.expire_rooms(s.now, &mut s.out);
    s.lines();
    assert_eq!(s.answer(r#"{"id":6,"unsubscribe":{"channel":"private:a"}}"#), r#"{"id":6,"unsubscribe":{}}"#);
    let claims = json!({"sub": "ann", "channel": "private:a", "exp": after(600)});
    assert_eq!(s.answer(&subscribe(7, "private:a", &claims)), "hub subscribe 7");
    s.hub(ToClient::Unsubscribed { request: 0, room: room("private:a") });
    assert!(s.lines().is_empty());
    s.hub(ToClient::Subscribed { request: 7, room: room("private:a"), result: Ok(granted()) });
    assert_eq!(s.session.rooms(), [room("private:a")]);
}

#[test]
fn the_server_joins_rooms_before_it_answers() {
    let mut s = subject(false);
    let token = token(&json!({"sub": "ann", "channels": ["a", "b"]}));
    let known = json!({"b": {"recover": true, "offset": 3, "epoch": "e"}, "c": {"recover": true}});
    s.send(&json!({"id": 1, "connect": {"token": token, "subs": known}}).to_string());
    let recovers: Vec<_> = s
        .out
        .drain(..)
        .map(|output| match output {
            Output::Hub(Command::Subscribe { request: 0, room, recover, .. }) => {
                (room.to_string(), recover.map(|r| r.seq.0))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(recovers, [("a".into(), None), ("b".into(), Some(3))]);
    // Whatever comes meanwhile waits, in its order.
    s.hub(ToClient::Subscribed { request: 0, room: room("b"), result: Ok(granted()) });
    s.hub(ToClient::Push(Frame::text(b"a push to b")));
    s.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    s.send(r#"{"id":3,"publish":{"channel":"b","data":1}}"#);
    assert!(s.lines().is_empty());
    s.hub(ToClient::Subscribed { request: 0, room: room("a"), result: Ok(granted()) });
    let lines = s.lines();
    let connected: Value = serde_json::from_str(&lines[0]).unwrap();
    let sub = json!({"recoverable": true, "epoch": "e-1-2", "offset": 4, "positioned": true});
    assert_eq!(connected["connect"]["subs"], json!({"a": sub, "b": sub}));
    assert_eq!(lines[1..], ["a push to b".to_owned(), error(2, 105), "hub publish 3".into()]);
    // No SDK subscribes to it again by itself.
    let code = CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE;
    s.hub(ToClient::Dropped { room: room("a"), code, position: None });
    assert_eq!(s.lines(), ["close 3010"]);
}

#[test]
fn a_connection_without_one_of_its_rooms_is_none() {
    let claims = json!({"sub": "ann", "channels": ["a", "b"]});
    let failed = |error: ErrorCode| {
        let mut s = subject(false);
        s.send(&connect(&claims));
        s.lines();
        s.hub(ToClient::Subscribed { request: 0, room: room("a"), result: Err(error) });
        s.lines()
    };
    assert_eq!(failed(ErrorCode::INTERNAL), ["close 3004"]);
    assert_eq!(failed(ErrorCode::LIMIT_EXCEEDED), [error(1, 106), "close 3501".into()]);
    assert_eq!(subject(false).answer(&connect(&json!({"channels": ["a", "b", "c", "d"]}))), "close 3505");
    let mut s = subject(false);
    s.send(&connect(&json!({"channels": ["nowhere:a"]})));
    assert_eq!(s.lines(), [error(1, 102), "close 3501".into()]);
}
