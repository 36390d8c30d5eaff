//! What the business server wants of a connection.

use roomring_control::denials::{Denial, Denied};

use super::*;
use crate::roster::Roster;

fn order(s: &mut Subject, order: Order) -> Vec<String> {
    s.hub(ToClient::Order(order));
    s.lines()
}

#[test]
fn connections_end_when_told() {
    for code in [CloseCode::FORCE_DISCONNECT, CloseCode::FORCE_RECONNECT] {
        let mut s = Subject::joined();
        assert_eq!(order(&mut s, Order::Disconnect(code)), [format!("close {}", code.code)]);
    }
}

#[test]
fn memberships_end_when_told_once_nothing_more_comes_of_them() {
    let mut s = Subject::joined();
    assert_eq!(order(&mut s, Order::Unsubscribe(room("elsewhere"))), [""; 0]);
    assert_eq!(order(&mut s, Order::Unsubscribe(room("a"))), ["hub unsubscribe Some(0)"]);
    // On its way out it is neither told twice nor may it publish.
    assert_eq!(order(&mut s, Order::Unsubscribe(room("a"))), [""; 0]);
    assert_eq!(s.answer(r#"{"id":5,"publish":{"channel":"a","data":1}}"#), error(5, 103));
    s.hub(ToClient::Unsubscribed { request: SERVER, room: room("a") });
    let told = r#"{"push":{"channel":"a","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}}"#;
    assert_eq!(s.lines(), [told]);
    assert!(s.session.rooms().is_empty());

    // One that is asked for at the moment is answered first.
    let mut s = Subject::connected();
    s.command(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    assert_eq!(order(&mut s, Order::Unsubscribe(room("a"))), ["hub unsubscribe Some(0)"]);
    s.hub(ToClient::Subscribed { request: 2, room: room("a"), result: Ok(granted()) });
    s.hub(ToClient::Unsubscribed { request: SERVER, room: room("a") });
    let lines = s.lines();
    assert!(lines[0].starts_with(r#"{"id":2,"subscribe":{"#) && lines[1] == told, "{lines:?}");
}

#[test]
fn memberships_begin_when_told() {
    let mut s = Subject::connected();
    assert_eq!(order(&mut s, Order::Subscribe(room("a"))), ["hub subscribe 0"]);
    assert_eq!(order(&mut s, Order::Subscribe(room("a"))), [""; 0]);
    s.hub(ToClient::Subscribed { request: SERVER, room: room("a"), result: Ok(granted()) });
    let push = format!(
        r#"{{"push":{{"channel":"a","subscribe":{{"recoverable":true,"epoch":"{EPOCH}","offset":4,"positioned":true}}}}}}"#
    );
    assert_eq!(s.lines(), [push]);
    assert_eq!(s.session.rooms(), [room("a")]);
    // One that can't be had harms nothing; nor does one too many.
    assert_eq!(order(&mut s, Order::Subscribe(room("b"))), ["hub subscribe 0"]);
    s.hub(ToClient::Subscribed { request: SERVER, room: room("b"), result: Err(ErrorCode::LIMIT_EXCEEDED) });
    assert_eq!((s.lines(), s.session.rooms()), (vec![], vec![room("a")]));
    for name in ["c", "d"] {
        assert_eq!(order(&mut s, Order::Subscribe(room(name))), ["hub subscribe 0"]);
    }
    assert_eq!(order(&mut s, Order::Subscribe(room("e"))), [""; 0]);
}

#[test]
fn whoever_is_banned_does_not_get_in() {
    let roster = Arc::new(Roster::default());
    let policy = || Policy { auth: Auth::insecure(), roster: roster.clone(), ..Policy::default() };
    let connect = r#"{"id":1,"connect":{"data":{"user":"ann"}}}"#;
    let mut s = Subject::by(LIMITS, policy(), Transport::default(), User::default());
    s.answer(connect);
    let far = u64::MAX;
    roster.deny(Denial { user: "ann".into(), what: Denied::Room(room("a")), until: far });
    assert_eq!(s.answer(r#"{"id":2,"subscribe":{"channel":"a"}}"#), error(2, 103));
    s.command(r#"{"id":3,"subscribe":{"channel":"b"}}"#);
    // Without a token there is nothing to revoke.
    roster.deny(Denial { user: "ann".into(), what: Denied::Tokens { issued_until: far }, until: far });
    let mut again = Subject::by(LIMITS, policy(), Transport::default(), User::default());
    assert!(again.answer(connect).starts_with(r#"{"id":1,"connect""#));
    roster.deny(Denial { user: "ann".into(), what: Denied::Everywhere, until: far });
    let mut again = Subject::by(LIMITS, policy(), Transport::default(), User::default());
    assert_eq!(again.answer(connect), "close 3507");
}
