//! What the business server is to allow first.

use std::collections::BTreeMap;

use super::*;
use crate::auth::{Act, PermitCall, Permits, Verdict};
use crate::namespaces::{Join, Namespaces, Options};

/// A connected session in which the business server is asked about all of rooms `x:...`.
fn subject(options: Options) -> Subject {
    let call: PermitCall = toml::from_str("url = \"http://127.0.0.1:1\"").unwrap();
    let permits = Some(Arc::new(Permits::new(&call, reqwest::Client::new())));
    let options = Options { ask: [Act::Subscribe, Act::Publish].into(), ..options };
    let namespaces = Namespaces::new(Options::default(), BTreeMap::from([("x".to_owned(), options)]));
    let policy = Policy { auth: Auth { permits, ..Auth::insecure() }, namespaces, ..Policy::default() };
    let mut s = Subject::by(LIMITS, policy, Transport::default(), User::new("ann".to_owned()).unwrap());
    s.send(r#"{"id":1,"connect":{}}"#);
    s.out.clear();
    s
}

impl Subject {
    fn verdict(&mut self, name: &str, verdict: Verdict) -> Vec<String> {
        self.session.handle(self.now, Input::Verdict(room(name), verdict), &mut self.out);
        self.lines()
    }

    fn all(&mut self, frame: &str) -> Vec<String> {
        self.send(frame);
        self.lines()
    }
}

fn subscribe(id: u32, channel: &str) -> String {
    format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}"}}}}"#)
}

fn publish(id: u32, channel: &str) -> String {
    format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":1}}}}"#)
}

#[test]
fn the_business_server_lets_in_or_not() {
    let mut s = subject(Options::default());
    assert_eq!(s.all(&subscribe(2, "x:a")), ["ask x:a"]);
    assert_eq!(s.verdict("x:a", Verdict::No(ErrorCode::PERMISSION_DENIED)), [error(2, 103)]);
    assert_eq!(s.all(&subscribe(3, "x:a")), ["ask x:a"]);
    assert_eq!(s.verdict("x:a", Verdict::Yes), ["hub subscribe 3"]);
    assert_eq!(s.all(&subscribe(4, "x:b")), ["ask x:b"]);
    assert_eq!(s.verdict("x:b", Verdict::Closed(CloseCode::PERMISSION_DENIED)), ["close 3507"]);
    assert_eq!(s.verdict("x:b", Verdict::Yes), [] as [&str; 0]);
}

#[test]
fn what_is_said_of_a_room_keeps_its_order_and_holds_up_no_other() {
    let mut s = subject(Options::default());
    assert_eq!(s.all(&subscribe(2, "x:a")), ["ask x:a"]);
    for held in [publish(3, "x:a"), publish(4, "x:a"), r#"{"id":5,"unsubscribe":{"channel":"x:a"}}"#.into()] {
        assert_eq!(s.all(&held), [] as [&str; 0]);
    }
    assert_eq!(s.all(&subscribe(6, "x:b")), ["ask x:b"]);
    assert_eq!(s.all(&subscribe(7, "plain")), ["hub subscribe 7"]);
    assert_eq!(s.all(r#"{"id":8,"ping":{}}"#), [r#"{"id":8,"ping":{}}"#]);
    assert_eq!(s.verdict("x:b", Verdict::Yes), ["hub subscribe 6"]);
    // A publish is a question of its own.
    assert_eq!(s.verdict("x:a", Verdict::Yes), ["hub subscribe 2", "ask x:a"]);
    assert_eq!(s.verdict("x:a", Verdict::Yes), ["hub publish 3", "ask x:a"]);
    let refused = s.verdict("x:a", Verdict::No(ErrorCode::INTERNAL));
    assert_eq!(refused, [error(4, 100), "hub unsubscribe Some(5)".into()]);
}

#[test]
fn what_the_rules_refuse_nobody_is_asked() {
    let mut s = subject(Options { join: Join::Token, ..Options::default() });
    assert_eq!(s.all(&subscribe(2, "x:a")), [error(2, 103)]);
    let mut s = subject(Options::default());
    assert_eq!(s.all(&publish(2, "x:a")), [error(2, 103)], "no member");
    assert_eq!(s.all(&subscribe(3, "y:a")), [error(3, 102)]);
    assert_eq!(s.all(r#"{"id":4,"rpc":{"method":"room.publish","data":{"channel":"x:a","data":1}}}"#), [error(4, 103)]);
    // It is asked while it would be let in, and the rules hold when the answer comes.
    assert_eq!(s.all(&subscribe(5, "x:a")), ["ask x:a"]);
    for (id, name) in [(6, "p"), (7, "q"), (8, "r")] {
        assert_eq!(s.all(&subscribe(id, name)), [format!("hub subscribe {id}")]);
    }
    assert_eq!(s.verdict("x:a", Verdict::Yes), [error(5, 106)]);
}

#[test]
fn commands_that_wait_have_ids_of_their_own_and_are_bounded() {
    let mut s = subject(Options::default());
    assert_eq!(s.all(&subscribe(2, "x:a")), ["ask x:a"]);
    for id in 3..IN_FLIGHT as u32 + 2 {
        assert_eq!(s.all(&publish(id, "x:a")), [] as [&str; 0]);
    }
    assert_eq!(s.all(&publish(5_000, "x:a")), [error(5_000, 111)]);
    assert_eq!(s.all(&subscribe(5_001, "x:b")), [error(5_001, 111)]);
    assert_eq!(s.all(&publish(2, "plain")), ["close 3501"]);
    let mut s = subject(Options::default());
    s.all(&subscribe(2, "x:a"));
    s.all(&publish(3, "x:a"));
    assert_eq!(s.all(&publish(3, "x:a")), ["close 3501"]);
}
