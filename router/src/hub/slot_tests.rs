//! One slot against a scripted primary, step by step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomring_control::clock::Time;
use roomring_proto::client::Format;
use roomring_proto::{Epoch, Incarnation, PlacementRef, Seq, SlotId, Term, Uid, Version, v1};
use v1::node_message::Kind as FromNode;
use v1::refusal::Reason;
use v1::router_message::Kind as ToNode;

use super::api::{Client, ClientPosition, Codec, Command, History, Presence, Subscribed, ToClient};
use super::attach::{Link, Route};
use super::queue::ClientQueue;
use super::slot::{HELD_UP, Output, Slot};
use super::testing::{Model, SLOT, answers, client, not_primary, room};

struct Rig {
    slot: Slot,
    model: Model,
    now: Time,
    link: Link,
    /// Sent by the router, not yet handled.
    sent: Vec<ToNode>,
}

impl Rig {
    /// With an open link to the primary, and nothing on it.
    fn new() -> Self {
        let link = Link { node: Incarnation(1), session: 1 };
        let slot = Slot::new(SlotId(SLOT), Duration::from_secs(4), Arc::default());
        let mut rig = Self { slot, model: Model::new(), now: Time(Duration::from_secs(9)), link, sent: Vec::new() };
        rig.follow();
        rig
    }

    fn follow(&mut self) {
        let placement = PlacementRef { uid: self.model.uid, version: Version(self.model.term.0) };
        let route = Route { primary: self.link.node, term: self.model.term, session: Some(self.link.session) };
        self.slot.follow(self.now, placement, route);
    }

    fn collect(&mut self, mut out: Vec<Output>) {
        self.slot.flush(self.now, &mut out);
        self.sent.extend(out.into_iter().map(|o| {
            assert_eq!(o.link, self.link);
            o.message
        }));
    }

    fn command(&mut self, command: Command) {
        let mut out = Vec::new();
        self.slot.command(self.now, command, &mut out);
        self.collect(out);
    }

    fn hear(&mut self, message: FromNode) {
        let mut out = Vec::new();
        self.slot.node(self.now, self.link, message, &mut out);
        self.collect(out);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        let mut out = Vec::new();
        self.slot.tick(self.now, &mut out);
        self.collect(out);
    }

    /// What the primary answers to what was sent.
    fn replies(&mut self) -> Vec<FromNode> {
        let mut out = Vec::new();
        for message in std::mem::take(&mut self.sent) {
            self.model.handle(message, &mut out);
        }
        out
    }

    /// Carries messages to and fro until nobody has anything to say.
    fn talk(&mut self) {
        self.collect(Vec::new());
        while !self.sent.is_empty() {
            for reply in self.replies() {
                self.hear(reply);
            }
        }
    }

    fn publish(&mut self, data: &'static str) {
        let mut out = Vec::new();
        self.model.append("a", Bytes::from_static(data.as_bytes()), &mut out);
        for message in out {
            self.hear(message);
        }
    }

    fn subscribe(&mut self, who: &Arc<Client>, request: u32, recover: Option<ClientPosition>) {
        self.subscribe_or_fail(who, request, recover, false);
    }

    fn subscribe_or_fail(&mut self, who: &Arc<Client>, request: u32, recover: Option<ClientPosition>, reject: bool) {
        self.command(Command::Subscribe {
            request,
            room: room("a"),
            client: who.clone(),
            join_leave: true,
            recover,
            reject_unrecovered: reject,
        });
    }

    /// Without joins and leaves.
    fn subscribe_quietly(&mut self, who: &Arc<Client>, request: u32, recover: Option<ClientPosition>) {
        let (room, client) = (room("a"), who.clone());
        let (join_leave, reject_unrecovered) = (false, false);
        self.command(Command::Subscribe { request, room, client, join_leave, recover, reject_unrecovered });
    }

    fn unsubscribe(&mut self, who: &Arc<Client>, request: Option<u32>) {
        self.command(Command::Unsubscribe { request, room: room("a"), client: who.clone() });
    }

    fn epoch(&self) -> Epoch {
        self.model.rooms["a"].epoch
    }

    fn at(&self, seq: u64) -> Option<ClientPosition> {
        Some(ClientPosition { epoch: self.epoch().to_string(), seq: Seq(seq) })
    }

    /// Refuses everything that was sent, as a node that is not primary.
    fn turn_away(&mut self) {
        let mut out = Vec::new();
        for message in std::mem::take(&mut self.sent) {
            not_primary(&message, self.model.term, &mut out);
        }
        for message in out {
            self.hear(message);
        }
    }

    fn attaches(&self) -> usize {
        self.sent.iter().filter(|m| matches!(m, ToNode::Attach(_))).count()
    }
}

/// What a client was told, briefly: kinds, offsets and errors.
fn told(who: &Client) -> Vec<String> {
    let brief = |message| match message {
        ToClient::Push(frame) => {
            let push: serde_json::Value = serde_json::from_slice(&frame.payload()).unwrap();
            let push = &push["push"];
            match (&push["pub"]["offset"], &push["join"]["info"]["client"], &push["leave"]["info"]["client"]) {
                (serde_json::Value::Number(offset), _, _) => format!("#{offset}"),
                (_, serde_json::Value::String(who), _) => format!("+{who}"),
                (_, _, serde_json::Value::String(who)) => format!("-{who}"),
                _ => panic!("{push}"),
            }
        }
        ToClient::Subscribed { request, result: Ok(s), .. } => format!("{request}: {}", subscribed(&s)),
        ToClient::Subscribed { request, result: Err(e), .. } => format!("{request}: error {}", e.code),
        ToClient::Unsubscribed { request, .. } => format!("{request}: out"),
        ToClient::Dropped { code, .. } => format!("dropped {}", code.code),
        ToClient::Order(order) => panic!("{order:?}"),
        ToClient::Published { request, result: Ok(p) } => format!("{request}: at {}", p.position.seq.0),
        ToClient::Published { request, result: Err(e) } => format!("{request}: error {}", e.code),
        ToClient::Retracted { request, result } => {
            format!("{request}: told at {:?}", result.map(|p| p.map(|p| p.seq.0)).map_err(|e| e.code))
        }
        ToClient::History { request, result: Ok(History { top, publications }) } => {
            format!("{request}: {} of {}", publications.len(), top.seq.0)
        }
        ToClient::History { request, result: Err(e) } => format!("{request}: error {}", e.code),
        ToClient::Presence { request, result: Ok(Presence { clients, num_clients, .. }) } => {
            format!("{request}: {:?} {num_clients}", clients.keys().collect::<Vec<_>>())
        }
        ToClient::Presence { request, result: Err(e) } => format!("{request}: error {}", e.code),
    };
    answers(who).into_iter().map(brief).collect()
}

fn subscribed(s: &Subscribed) -> String {
    let missed: Vec<u64> = s.publications.iter().map(|p| p.seq).collect();
    match (s.was_recovering, s.recovered) {
        (false, _) => format!("in at {}", s.position.seq.0),
        (true, false) => format!("not recovered, at {}", s.position.seq.0),
        (true, true) => format!("recovered from {} {missed:?}", s.position.seq.0),
    }
}

#[test]
fn the_reply_comes_first_then_the_own_join_then_what_others_do() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    assert_eq!(told(&ann), [""; 0], "not before the room is attached");
    rig.talk();
    rig.publish("1");
    rig.subscribe(&bob, 1, None);
    rig.talk();
    rig.unsubscribe(&bob, Some(2));
    rig.talk();
    rig.publish("2");
    assert_eq!(told(&ann), ["1: in at 0", "+ann", "#1", "+bob", "-bob", "#2"]);
    assert_eq!(told(&bob), ["1: in at 1", "+bob", "2: out"]);
}

#[test]
fn a_router_that_was_held_up_lets_nobody_in_before_its_primary_confirms() {
    let mut rig = Rig::new();
    let (ann, bob, cid) = (client("ann"), client("bob"), client("cid"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.publish("1");
    rig.publish("2");
    // Bob's answer is on its way when the router is held up. Meanwhile the slot is made anew; that it was lies unread.
    rig.subscribe(&bob, 1, rig.at(1));
    let (old, late) = (rig.at(2), rig.replies());
    rig.model.recreate();
    rig.model.append("a", Bytes::from_static(b"new"), &mut Vec::new());
    rig.now = rig.now + HELD_UP * 2;
    let mut out = Vec::new();
    rig.slot.doubt(rig.now, &mut out);
    rig.collect(out);
    rig.subscribe(&cid, 1, old);
    late.into_iter().for_each(|reply| rig.hear(reply));
    assert_eq!(
        (told(&ann), told(&bob), told(&cid)),
        (vec!["1: in at 0".into(), "+ann".into(), "#1".into(), "#2".into()], vec![], vec![])
    );
    rig.turn_away();
    rig.follow();
    rig.talk();
    assert_eq!(told(&ann), ["dropped 2500"]);
    assert_eq!(told(&bob)[0], "1: not recovered, at 1");
    assert_eq!(told(&cid)[0], "1: not recovered, at 1");
}

#[test]
fn a_router_that_was_held_up_goes_on_where_nothing_changed() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.publish("1");
    let mut out = Vec::new();
    rig.slot.doubt(rig.now, &mut out);
    rig.collect(out);
    assert_eq!(rig.attaches(), 1);
    rig.subscribe(&bob, 1, rig.at(1));
    rig.talk();
    rig.publish("2");
    assert_eq!(told(&ann), ["1: in at 0", "+ann", "#1", "+bob", "#2"]);
    assert_eq!(told(&bob), ["1: recovered from 1 []", "+bob", "#2"]);
}

#[test]
fn recovery_follows_the_rules() {
    let mut rig = Rig::new();
    let ann = client("ann");
    rig.subscribe(&ann, 1, None);
    rig.talk();
    for data in ["1", "2", "3", "4"] {
        rig.publish(data);
    }
    let any_epoch = |seq| Some(ClientPosition { epoch: String::new(), seq: Seq(seq) });
    let other = |epoch: &str| Some(ClientPosition { epoch: epoch.to_owned(), seq: Seq(4) });
    let later = Epoch { created: roomring_proto::Lsn(999), ..rig.epoch() }.to_string();
    let cases = [
        (rig.at(4), "recovered from 4 []"),
        (rig.at(2), "recovered from 2 [3, 4]"),
        (rig.at(0), "recovered from 0 [1, 2, 3, 4]"),
        (rig.at(5), "not recovered, at 4"),
        (rig.at(u64::MAX), "not recovered, at 4"),
        (any_epoch(3), "recovered from 3 [4]"),
        (other("_"), "not recovered, at 4"),
        (other("9-1-2-3"), "not recovered, at 4"),
        (other("8-1-1"), "not recovered, at 4"),
        (other(&later), "not recovered, at 4"),
    ];
    for (recover, expected) in cases {
        let bob = client("bob");
        rig.subscribe(&bob, 7, recover.clone());
        rig.talk();
        rig.pass(Duration::from_millis(200));
        rig.talk();
        assert_eq!(told(&bob)[0], format!("7: {expected}"), "{recover:?}");
        rig.unsubscribe(&bob, None);
        rig.talk();
    }
    // The two oldest are no longer kept.
    rig.model.base = rig.model.rooms["a"]
        .events
        .iter()
        .filter(|(_, e)| matches!(e.kind, Some(v1::event::Kind::Publication(_))))
        .nth(1)
        .unwrap()
        .0;
    for (seq, expected) in [(1, "not recovered, at 4"), (2, "recovered from 2 [3, 4]")] {
        let bob = client("bob");
        rig.subscribe(&bob, 7, rig.at(seq));
        rig.talk();
        assert_eq!(told(&bob)[0], format!("7: {expected}"));
        rig.unsubscribe(&bob, None);
        rig.talk();
    }
    let bob = client("bob");
    rig.subscribe_or_fail(&bob, 8, rig.at(1), true);
    rig.talk();
    rig.publish("5");
    assert_eq!(told(&bob), ["8: error 112"]);
    assert!(!rig.model.rooms["a"].members.contains_key("bob"));
}

#[test]
fn what_comes_while_the_missed_is_fetched_is_merged() {
    let mut rig = Rig::new();
    let (ann, bob, cid) = (client("ann"), client("bob"), client("cid"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    for data in ["1", "2", "3"] {
        rig.publish(data);
    }
    rig.subscribe(&bob, 1, rig.at(1));
    rig.subscribe(&cid, 1, rig.at(2));
    let replies = rig.replies();
    assert_eq!(replies.len(), 1, "one fetch for both");
    // The answer is overtaken by two publications.
    rig.publish("4");
    rig.publish("5");
    for reply in replies {
        rig.hear(reply);
    }
    rig.talk();
    rig.publish("6");
    assert_eq!(told(&bob), ["1: recovered from 1 [2, 3, 4, 5]", "+bob", "+cid", "#6"]);
    assert_eq!(told(&cid), ["1: recovered from 2 [3, 4, 5]", "+bob", "+cid", "#6"]);
}

#[test]
fn what_is_retracted_while_the_missed_is_fetched_is_not_handed_out() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    for data in ["1", "2", "3"] {
        rig.publish(data);
    }
    rig.subscribe(&bob, 1, rig.at(1));
    let replies = rig.replies();
    // What was read, and what came after, is taken back before the answer is here.
    rig.publish("4");
    for seq in [2, 4] {
        let mut out = Vec::new();
        rig.model.append("a", Bytes::from_static(b"{}"), &mut out);
        let FromNode::Deliver(mut deliver) = out.remove(0) else { panic!("{out:?}") };
        let Some(v1::event::Kind::Publication(p)) = &mut deliver.events[0].kind else { panic!("{deliver:?}") };
        p.mark = Some(v1::publication::Mark::Deletes(seq));
        rig.hear(FromNode::Deliver(deliver));
    }
    for reply in replies {
        rig.hear(reply);
    }
    let ToClient::Subscribed { result: Ok(subscribed), .. } = answers(&bob).remove(0) else { panic!("let in") };
    let given: Vec<_> = subscribed.publications.iter().map(|p| (p.seq, &p.data[..])).collect();
    assert_eq!(given, [(2, &b"{}"[..]), (3, b"3"), (4, b"{}"), (5, b"{}"), (6, b"{}")]);
}

#[test]
fn a_client_that_is_ahead_of_this_router_misses_nothing_and_sees_nothing_twice() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.publish("1");
    let mut late = Vec::new();
    for data in ["2", "3", "4"] {
        rig.model.append("a", Bytes::from_static(data.as_bytes()), &mut late);
    }
    // Bob comes from a router that delivered 3.
    rig.subscribe(&bob, 1, rig.at(3));
    rig.talk();
    for message in late {
        rig.hear(message);
    }
    assert_eq!(told(&bob)[0], "1: recovered from 3 [4]");
    rig.publish("5");
    assert!(told(&bob).ends_with(&["#5".to_owned()]));
}

#[test]
fn commands_in_quick_sequence_are_answered_in_order() {
    let mut rig = Rig::new();
    let ann = client("ann");
    rig.subscribe(&ann, 1, None);
    rig.subscribe(&ann, 2, None);
    rig.unsubscribe(&ann, Some(3));
    rig.subscribe(&ann, 4, None);
    rig.subscribe(&ann, 5, None);
    rig.unsubscribe(&ann, Some(6));
    rig.subscribe(&ann, 7, None);
    assert_eq!(told(&ann), ["2: error 105", "5: error 105"]);
    rig.talk();
    let answers: Vec<String> = told(&ann).into_iter().filter(|t| !t.starts_with(['+', '-'])).collect();
    assert_eq!(answers, ["1: in at 0", "3: out", "4: in at 0", "6: out", "7: in at 0"]);
    rig.subscribe(&ann, 8, None);
    rig.unsubscribe(&ann, Some(9));
    rig.unsubscribe(&ann, Some(10));
    assert_eq!(told(&ann), ["8: error 105", "9: out", "10: out"]);
    assert_eq!(rig.slot.counts().members, 0);
}

#[test]
fn what_waits_for_a_subscribe_is_bounded() {
    let mut rig = Rig::new();
    let ann = client("ann");
    for request in 0..100 {
        rig.subscribe(&ann, request, None);
        rig.unsubscribe(&ann, Some(request));
    }
    let refused = told(&ann).iter().filter(|t| t.ends_with("error 111")).count();
    assert!(refused > 80, "{refused} of 100 refused");
}

#[test]
fn a_recreated_room_is_told_to_its_members() {
    let mut rig = Rig::new();
    let ann = client("ann");
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.publish("1");
    let before = rig.at(1);
    rig.model.recreate();
    rig.follow();
    rig.talk();
    assert_eq!(told(&ann), ["1: in at 0", "+ann", "#1", "dropped 2500"]);
    assert!(rig.model.rooms["a"].members.contains_key("ann"), "it is expected back");
    rig.subscribe(&ann, 2, before);
    rig.talk();
    rig.publish("2");
    assert_eq!(told(&ann), ["2: not recovered, at 0", "#1"]);
    rig.pass(Duration::from_secs(2));
    rig.talk();
    assert!(rig.model.rooms["a"].members.contains_key("ann"));
}

#[test]
fn a_gap_drops_those_who_miss_something() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    for data in ["1", "2", "3"] {
        rig.model.append("a", Bytes::from_static(data.as_bytes()), &mut Vec::new());
    }
    // Bob has them already, and wants to hear of nothing else.
    rig.subscribe_quietly(&bob, 1, rig.at(3));
    for reply in rig.replies() {
        rig.hear(reply);
    }
    rig.sent.clear();
    rig.model.base = rig.model.lsn;
    rig.model.next_term();
    rig.follow();
    rig.talk();
    rig.publish("4");
    assert_eq!(told(&ann), ["1: in at 0", "+ann", "dropped 2500"]);
    assert_eq!(told(&bob), ["1: recovered from 3 []", "#4"]);
}

#[test]
fn a_gap_without_a_publication_drops_those_who_are_told_of_joins() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.subscribe_quietly(&bob, 1, None);
    rig.talk();
    told(&ann);
    told(&bob);
    // Somebody comes at another router meanwhile, and the next primary can't tell.
    rig.model.elsewhere("a", "eve");
    rig.model.base = rig.model.lsn;
    rig.model.next_term();
    rig.follow();
    rig.talk();
    assert_eq!(told(&ann), ["dropped 2500"]);
    rig.publish("1");
    assert_eq!(told(&bob), ["#1"]);
    // Ann does not come back.
    rig.pass(Duration::from_secs(1));
    rig.talk();
    assert!(!rig.model.rooms["a"].members.contains_key("ann"));
}

#[test]
fn a_member_hears_once_that_it_came() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.subscribe(&bob, 1, None);
    rig.talk();
    told(&ann);
    told(&bob);
    // Bob goes and comes twice before the primary gets to it.
    for request in [2, 4] {
        rig.unsubscribe(&bob, Some(request));
        rig.subscribe(&bob, request + 1, None);
    }
    rig.talk();
    assert_eq!(told(&ann), ["-bob", "+bob", "-bob", "+bob"]);
    assert_eq!(told(&bob).iter().filter(|t| *t == "+bob").count(), 1);
}

#[test]
fn a_hole_in_what_is_delivered_is_mended() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.publish("1");
    rig.model.append("a", Bytes::from_static(b"2"), &mut Vec::new());
    // A join is delivered after what was lost, so that the last lsn alone would hide the hole.
    rig.subscribe(&bob, 1, None);
    rig.talk();
    rig.publish("3");
    rig.talk();
    rig.publish("4");
    assert_eq!(told(&ann), ["1: in at 0", "+ann", "#1", "+bob", "#2", "#3", "#4"]);
    assert_eq!(told(&bob), ["1: in at 1", "+bob", "#2", "#3", "#4"]);
}

#[test]
fn refusals_of_a_room_reach_its_clients() {
    for (reason, expected) in [(Reason::Limit, "1: error 106"), (Reason::BadRequest, "1: error 107")] {
        let mut rig = Rig::new();
        let ann = client("ann");
        rig.subscribe(&ann, 1, None);
        let attached = rig.replies().remove(0);
        let FromNode::Attached(mut attached) = attached else { panic!("{attached:?}") };
        let refused = Some(v1::Refusal { reason: reason.into(), text: String::new() });
        attached.rooms[0] = v1::RoomAttached { room: "a".to_owned(), refused, ..Default::default() };
        rig.hear(FromNode::Attached(attached));
        assert_eq!(told(&ann), [expected]);
        rig.pass(Duration::from_secs(1));
        assert_eq!(rig.slot.counts().rooms, 0);
    }
}

#[test]
fn is_turned_away_politely_and_serves_later() {
    let mut rig = Rig::new();
    let ann = client("ann");
    rig.subscribe(&ann, 1, None);
    for wait in [20, 40, 80] {
        assert_eq!(rig.attaches(), 1);
        rig.turn_away();
        rig.pass(Duration::from_millis(wait - 1));
        assert_eq!(rig.attaches(), 0, "waits {wait} ms");
        rig.pass(Duration::from_millis(1));
    }
    rig.talk();
    assert_eq!(told(&ann)[0], "1: in at 0");
}

#[test]
fn a_subscribe_that_nobody_answers_fails_in_time() {
    let mut rig = Rig::new();
    let ann = client("ann");
    rig.subscribe(&ann, 1, None);
    rig.pass(Duration::from_millis(3_999));
    assert_eq!(told(&ann), [""; 0]);
    rig.pass(Duration::from_millis(1));
    assert_eq!(told(&ann), ["1: error 100"]);
}

#[test]
fn questions_are_checked_asked_again_and_answered_in_time() {
    let mut rig = Rig::new();
    let ann = client("ann");
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.publish("1");
    rig.publish("2");
    told(&ann);
    let history = |request, limit, reverse, since| Command::History {
        request,
        room: room("a"),
        client: ann.clone(),
        limit,
        reverse,
        since,
    };
    rig.command(history(1, -1, true, rig.at(0)));
    rig.command(history(2, -1, false, Some(ClientPosition { epoch: "_".to_owned(), seq: Seq(1) })));
    assert_eq!(told(&ann), ["1: error 107", "2: error 112"]);
    let other = Epoch { uid: Uid(1), ..rig.epoch() }.to_string();
    rig.command(history(3, -1, false, Some(ClientPosition { epoch: other, seq: Seq(1) })));
    rig.command(history(4, -1, false, rig.at(1)));
    rig.command(Command::Presence { request: 5, room: room("a"), client: ann.clone(), stats_only: false });
    // The primary changes before it answers.
    rig.turn_away();
    rig.pass(Duration::from_millis(20));
    rig.talk();
    assert_eq!(told(&ann), ["3: error 112", "4: 1 of 2", "5: [\"ann\"] 1"]);
    rig.command(history(6, 0, false, None));
    rig.command(Command::Presence { request: 7, room: room("a"), client: ann.clone(), stats_only: true });
    rig.sent.clear();
    rig.pass(Duration::from_secs(4));
    assert_eq!(told(&ann), ["6: error 100", "7: error 100"]);
}

#[test]
fn a_cluster_that_began_anew_ends_everything_truthfully() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    rig.subscribe(&ann, 1, None);
    rig.talk();
    let publish = |request| Command::Publish {
        request,
        room: room("a"),
        client: ann.clone(),
        data: Bytes::from_static(b"1"),
        id: String::new(),
    };
    rig.command(publish(2));
    rig.model.next_term();
    rig.follow();
    rig.command(publish(3));
    rig.subscribe(&bob, 1, None);
    rig.unsubscribe(&bob, Some(2));
    rig.model.uid = Uid(10);
    rig.model.term = Term(1);
    rig.follow();
    assert_eq!(told(&ann), ["1: in at 0", "+ann", "2: error 1000", "3: error 100", "dropped 2500"]);
    assert_eq!(told(&bob), ["1: error 100", "2: out"]);
    assert_eq!(rig.slot.counts().members, 0);
    // Terms start over.
    rig.model.rooms.clear();
    rig.sent.clear();
    rig.subscribe(&ann, 4, None);
    rig.talk();
    assert_eq!(told(&ann)[0], "4: in at 0");
}

#[test]
fn an_empty_room_is_let_go_after_a_moment() {
    let mut rig = Rig::new();
    let ann = client("ann");
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.unsubscribe(&ann, Some(2));
    rig.talk();
    rig.pass(Duration::from_millis(900));
    rig.subscribe(&ann, 3, None);
    rig.pass(Duration::from_millis(900));
    assert!(rig.sent.iter().all(|m| matches!(m, ToNode::Presence(_))), "{:?}", rig.sent);
    rig.unsubscribe(&ann, None);
    rig.talk();
    rig.pass(Duration::from_secs(1));
    assert!(matches!(rig.sent.as_slice(), [ToNode::Detach(d)] if d.rooms == ["a"]), "{:?}", rig.sent);
    assert_eq!(rig.slot.counts().rooms, 0);
    assert_eq!(rig.slot.next_deadline(), None);
}

#[test]
fn a_client_that_is_handed_over_stays_announced_for_a_while() {
    let mut rig = Rig::new();
    let (ann, bob) = (client("ann"), client("bob"));
    for who in [&ann, &bob] {
        rig.subscribe(who, 1, None);
        rig.talk();
    }
    told(&ann);
    let mut out = Vec::new();
    rig.slot.hand_over(rig.now, &room("a"), &ann, &mut out);
    rig.collect(out);
    rig.publish("1");
    rig.talk();
    assert_eq!(told(&ann), Vec::<String>::new(), "it gets nothing more");
    assert!(rig.model.rooms["a"].members.contains_key("ann"), "but is there still");
    // Also where the slot is attached anew meanwhile.
    rig.turn_away();
    rig.pass(Duration::from_secs(9));
    rig.talk();
    assert!(rig.model.rooms["a"].members.contains_key("ann"));
    rig.pass(Duration::from_secs(1));
    rig.talk();
    assert!(!rig.model.rooms["a"].members.contains_key("ann"), "it leaves in the end");
    assert!(rig.model.rooms["a"].members.contains_key("bob"));
}

#[test]
fn clients_that_are_gone_or_slow_cost_nothing() {
    let mut rig = Rig::new();
    let (gone, ann) = (client("gone"), client("ann"));
    let queue = ClientQueue::new(150);
    let slow = Arc::new(Client {
        id: "slow".to_owned(),
        queue,
        user: String::new(),
        conn_info: Bytes::new(),
        codec: Codec::Plain,
    });
    for who in [&gone, &ann, &slow] {
        rig.subscribe(who, 1, None);
        rig.talk();
    }
    gone.queue.close();
    rig.publish("1");
    rig.publish("2");
    rig.talk();
    assert_eq!(rig.slot.counts().members, 2);
    assert!(rig.model.rooms["a"].members.contains_key("gone"), "its session says whether it leaves");
    rig.pass(Duration::from_secs(1));
    rig.talk();
    assert!(!rig.model.rooms["a"].members.contains_key("gone"));
    assert!(slow.queue.is_slow());
    assert_eq!(rig.slot.counts().slow_clients, 1);
    assert!(told(&ann).contains(&"#2".to_owned()));
}

#[test]
fn every_codec_gets_its_own() {
    let mut rig = Rig::new();
    let queue = ClientQueue::new(1 << 20);
    let ann = Arc::new(Client {
        id: "ann".to_owned(),
        queue,
        user: "Ann".to_owned(),
        conn_info: Bytes::new(),
        codec: Codec::Plain,
    });
    rig.subscribe(&ann, 1, None);
    rig.talk();
    rig.publish("\"hi\"");
    let lines: Vec<serde_json::Value> = answers(&ann)
        .into_iter()
        .filter_map(|m| if let ToClient::Push(f) = m { serde_json::from_slice(&f.payload()).ok() } else { None })
        .collect();
    assert_eq!(lines.iter().map(|l| l["type"].as_str().unwrap()).collect::<Vec<_>>(), ["join", "message"]);
    assert_eq!((lines[1]["seq"].as_u64(), lines[1]["data"].as_str()), (Some(1), Some("hi")));
}

#[test]
fn a_large_slot_is_attached_in_parts() {
    let mut rig = Rig::new();
    let conn_info = Bytes::from(vec![b'1'; 4_096]);
    let mut clients = Vec::new();
    for i in 0..1_500 {
        let queue = ClientQueue::new(1 << 20);
        let who = Client {
            id: format!("c{i}"),
            queue,
            user: String::new(),
            conn_info: conn_info.clone(),
            codec: Codec::Centrifuge(Format::Json),
        };
        let who = Arc::new(who);
        rig.command(Command::Subscribe {
            request: 1,
            room: room(&format!("r{i}")),
            client: who.clone(),
            join_leave: false,
            recover: None,
            reject_unrecovered: false,
        });
        clients.push(who);
    }
    rig.talk();
    rig.model.next_term();
    rig.follow();
    rig.collect(Vec::new());
    let sizes = |rig: &Rig| rig.sent.iter().map(ToNode::encoded_len).max().unwrap_or(0);
    assert!(sizes(&rig) > 4 << 20 && sizes(&rig) < 5 << 20, "{}", sizes(&rig));
    rig.talk();
    let mut out = Vec::new();
    for i in 0..1_500 {
        rig.model.append(&format!("r{i}"), Bytes::from_static(b"1"), &mut out);
    }
    for message in out {
        rig.hear(message);
    }
    assert_eq!(rig.slot.counts().deliveries, 1_500);
}
