use std::time::Duration;

use std::collections::BTreeMap;

use roomring_control::placement::{RingParams, Settings};
use roomring_proto::v1::router_message::Kind;
use roomring_proto::{Generation, RoomId, v1::node_message};

use super::*;

const ME: Incarnation = Incarnation(5);
const OTHER: Incarnation = Incarnation(6);
const LINK: LinkId = LinkId(1);

/// Two slots: s0 of `primaries[0]`, s1 of `primaries[1]`.
fn placement(version: u64, primaries: [(Incarnation, u64); 2]) -> Arc<Placement> {
    let slot = |(incarnation, since)| {
        let primary = Seat { incarnation, since: Version(since) };
        SlotRecord {
            term: Term(version),
            primary,
            in_sync: vec![primary],
            learners: vec![],
            generation: Generation(since),
        }
    };
    Arc::new(Placement {
        uid: Uid(1),
        format: 1,
        version: Version(version),
        settings: Settings { slots: 2, replication: 1, ..Settings::default() },
        ring: RingParams { vnodes: 1, bound_percent: 125 },
        members: BTreeMap::new(),
        slots: primaries.map(slot).to_vec(),
        recent: Default::default(),
        apart: Default::default(),
    })
}

/// A room of the slot.
fn room(slot: u32) -> String {
    let names = (0..).map(|n| format!("room-{n}"));
    names.into_iter().find(|n| RoomId::new(n).unwrap().slot(2) == SlotId(slot)).unwrap()
}

struct Harness {
    shard: Shard,
    now: Time,
}

impl Harness {
    fn new() -> Self {
        Self { shard: Shard::new(Part { index: 0, of: 1 }, ME), now: Time(Duration::from_secs(1000)) }
    }

    fn handle(&mut self, event: Event) -> Vec<Output> {
        let mut out = Vec::new();
        self.shard.handle(Moment { now: self.now, wall_ms: 1 }, event, &mut out);
        out
    }

    fn adopt(&mut self, placement: Arc<Placement>) -> Vec<Output> {
        let contact = Some(self.now);
        self.handle(Event::Adopt { placement, contact })
    }

    fn attach(&mut self, slot: u32) -> Vec<Output> {
        let rooms = vec![v1::RoomAttach { room: room(slot), ..Default::default() }];
        let attach = v1::Attach { slot, attach_id: 1, rooms, ..Default::default() };
        self.handle(Event::Router { link: LINK, slot: SlotId(slot), message: Kind::Attach(attach) })
    }
}

fn not_primary(output: &Output) -> Option<&v1::NotPrimary> {
    match output {
        Output::Router { message: v1::NodeMessage { kind: Some(node_message::Kind::NotPrimary(n)) }, .. } => Some(n),
        _ => None,
    }
}

fn is_attached(outputs: &[Output]) -> bool {
    outputs.iter().any(|o| {
        matches!(o, Output::Router { link: LINK, message: v1::NodeMessage { kind: Some(node_message::Kind::Attached(a)) } }
            if a.refused.is_none() && a.rooms.iter().all(|r| r.refused.is_none()))
    })
}

#[test]
fn slots_come_and_go_with_the_placement() {
    let mut h = Harness::new();
    assert!(h.handle(Event::LinkUp { link: LINK, router: OTHER }).is_empty());
    // Nothing is known yet: not ours, as far as anybody can tell.
    let refused = h.attach(0);
    assert_eq!(not_primary(&refused[0]).unwrap().placement, None);

    h.adopt(placement(3, [(ME, 3), (OTHER, 3)]));
    assert!(is_attached(&h.attach(0)), "the link came before the slot");
    let refused = h.attach(1);
    assert_eq!(refused.len(), 1);
    let told = not_primary(&refused[0]).unwrap();
    assert_eq!((told.slot, told.term, told.placement.unwrap().version), (1, 3, 3));
    assert_eq!(h.shard.status().len(), 1);

    let told = h.adopt(placement(4, [(OTHER, 4), (ME, 4)]));
    assert_eq!(told.iter().filter_map(not_primary).map(|n| (n.slot, n.term)).collect::<Vec<_>>(), [(0, 4)]);
    assert!(is_attached(&h.attach(1)));
    assert!(not_primary(&h.attach(0)[0]).is_some());
    assert_eq!(h.shard.status().iter().map(|s| s.slot).collect::<Vec<_>>(), [1]);
    // An older placement that arrives late changes nothing, nor does one of another history.
    h.adopt(placement(3, [(ME, 3), (OTHER, 3)]));
    let mut foreign = placement(9, [(ME, 3), (OTHER, 3)]);
    Arc::get_mut(&mut foreign).unwrap().uid = Uid(2);
    h.adopt(foreign);
    assert_eq!(h.shard.status().iter().map(|s| s.slot).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_router_that_is_ahead_is_answered_once_its_placement_is_known() {
    let mut h = Harness::new();
    h.handle(Event::LinkUp { link: LINK, router: OTHER });
    h.adopt(placement(3, [(OTHER, 3), (OTHER, 3)]));
    let placement_ref = |version| Some(v1::PlacementRef { uid: 1, version });
    let attach = |slot: u32| {
        let rooms = vec![v1::RoomAttach { room: room(slot), ..Default::default() }];
        let placement = placement_ref(4);
        Kind::Attach(v1::Attach { slot, attach_id: 1, rooms, placement, ..Default::default() })
    };
    let router = |slot: u32, message| Event::Router { link: LINK, slot: SlotId(slot), message };
    let out = h.handle(router(0, attach(0)));
    let asked = |o: &Output| {
        matches!(o, Output::Router { message: v1::NodeMessage { kind: Some(NodeKind::Heartbeat(b)) }, .. }
            if b.placement == placement_ref(3))
    };
    assert!(out.len() == 1 && asked(&out[0]), "it says what it knows: {out:?}");
    // What follows the attach waits with it; once is enough to say what is known.
    let joined = vec![v1::ClientInfo { client: "c".into(), ..Default::default() }];
    let presence = v1::Presence { slot: 0, room: room(0), joined, left: Vec::new() };
    assert_eq!(h.handle(router(0, Kind::Presence(presence))), []);
    assert_eq!(h.handle(router(1, attach(1))), []);
    let out = h.adopt(placement(4, [(ME, 4), (OTHER, 4)]));
    assert!(is_attached(&out));
    assert_eq!(out.iter().filter_map(not_primary).map(|n| n.slot).collect::<Vec<_>>(), [1]);
    assert_eq!(h.shard.status()[0].members, 1);

    // A link that ended is not answered, nor does it ask for a slot that there is not.
    let later =
        |slot: u32| Kind::Attach(v1::Attach { slot, attach_id: 1, placement: placement_ref(5), ..Default::default() });
    assert_eq!(h.handle(router(0, later(0))).len(), 1);
    assert!(not_primary(&h.handle(router(7, later(7)))[0]).is_some());
    h.handle(Event::LinkDown(LINK));
    assert!(!is_attached(&h.adopt(placement(5, [(ME, 5), (OTHER, 4)]))));
}

#[test]
fn what_is_for_others_is_turned_away() {
    let mut h = Harness::new();
    h.adopt(placement(3, [(OTHER, 3), (OTHER, 3)]));
    let mut say = |slot: u32, message| h.handle(Event::Router { link: LINK, slot: SlotId(slot), message });
    // A publish is answered by its number: it was not taken.
    let out = say(0, Kind::Publish(v1::Publish { slot: 0, number: 8, ..Default::default() }));
    let refused = out.iter().find_map(|o| match o {
        Output::Router { message: v1::NodeMessage { kind: Some(NodeKind::Published(p)) }, .. } => Some(p),
        _ => None,
    });
    let refused = refused.expect("an answer");
    assert_eq!((refused.number, refused.refused.as_ref().unwrap().reason()), (8, v1::refusal::Reason::NotPrimary));
    assert!(out.iter().any(|o| not_primary(o).is_some()));
    // Nobody waits for an answer to these.
    assert!(say(0, Kind::Detach(v1::Detach::default())).is_empty());
    // A slot number past the end is nobody's.
    assert!(not_primary(&say(99, Kind::History(v1::HistoryRequest::default()))[0]).is_some());

    let mut out = Vec::new();
    for _ in 0..3 {
        let message = Kind::History(v1::HistoryRequest::default());
        h.shard.handle(
            Moment { now: h.now, wall_ms: 1 },
            Event::Router { link: LINK, slot: SlotId(0), message },
            &mut out,
        );
    }
    assert_eq!(out.len(), 1, "one answer covers a batch");
}

#[test]
fn a_primary_that_is_mistaken_is_refused() {
    use v1::refused::Reason;
    let mut h = Harness::new();
    h.adopt(placement(3, [(OTHER, 3), (OTHER, 3)]));
    let probe = |since| v1::Replication {
        slot: 1,
        generation: 3,
        term: 8,
        from: Some(v1::SeatRef { incarnation: OTHER.0, since: 3 }),
        to: Some(v1::SeatRef { incarnation: ME.0, since }),
        placement: None,
        kind: Some(v1::replication::Kind::Probe(v1::Probe {})),
    };
    for (since, reason) in [(4, Reason::NotYet), (3, Reason::NoSeat), (2, Reason::NoSeat)] {
        let out = h.handle(Event::Peer(probe(since)));
        let [Output::Peer { to: OTHER, message }] = &out[..] else { panic!("{out:?}") };
        assert_eq!(message.to, probe(since).from);
        assert!(
            matches!(&message.kind, Some(v1::replication::Kind::Refused(r)) if r.reason() == reason),
            "{message:?}"
        );
    }
    // Answers are not answered, or two nodes would go on for ever.
    let mut answer = probe(4);
    answer.kind = Some(v1::replication::Kind::AppendAck(v1::AppendAck { lsn: 1 }));
    assert!(h.handle(Event::Peer(answer)).is_empty());
    // Nor is what names no sender.
    assert!(h.handle(Event::Peer(v1::Replication { from: None, ..probe(4) })).is_empty());
}

#[test]
fn a_slot_that_panicked_stays_out_until_it_gets_another_seat() {
    let mut h = Harness::new();
    h.handle(Event::LinkUp { link: LINK, router: OTHER });
    h.adopt(placement(3, [(ME, 3), (ME, 3)]));
    let mut out = Vec::new();
    h.shard.quarantine(SlotId(0), "boom", &mut out);
    assert_eq!(out.iter().filter_map(not_primary).map(|n| n.slot).collect::<Vec<_>>(), [0]);
    assert!(not_primary(&h.attach(0)[0]).is_some());
    assert!(is_attached(&h.attach(1)), "the others go on");
    assert_eq!(h.shard.status().last().unwrap().role(), v1::slot_status::Role::Fenced);
    // The same seat again: its state is lost, so it must not begin empty.
    h.adopt(placement(4, [(ME, 3), (ME, 3)]));
    assert!(not_primary(&h.attach(0)[0]).is_some());
    // A new seat, of a new generation.
    h.adopt(placement(5, [(ME, 5), (ME, 3)]));
    assert!(is_attached(&h.attach(0)));
    assert_eq!(h.shard.status().len(), 2);
}

#[test]
fn a_panic_is_caught_with_its_text() {
    assert_eq!(guarded(|| ()), Ok(()));
    assert_eq!(guarded(|| panic!("of {}", "some kind")), Err("of some kind".to_owned()));
    assert_eq!(guarded(|| panic!("plain")), Err("plain".to_owned()));
}

#[test]
fn contact_alone_lets_a_primary_serve_again() {
    let mut h = Harness::new();
    h.handle(Event::LinkUp { link: LINK, router: OTHER });
    let placement = placement(3, [(ME, 3), (OTHER, 3)]);
    h.adopt(Arc::clone(&placement));
    h.now = h.now + Duration::from_secs(61);
    assert!(!is_attached(&h.attach(0)), "contact is older than fence_after");
    h.adopt(placement);
    assert!(is_attached(&h.attach(0)));
}

#[test]
fn ticks_come_when_slots_want_them() {
    let mut h = Harness::new();
    h.handle(Event::LinkUp { link: LINK, router: OTHER });
    h.adopt(placement(3, [(ME, 3), (OTHER, 3)]));
    let attach = v1::Attach {
        slot: 0,
        rooms: vec![v1::RoomAttach {
            room: room(0),
            members: vec![v1::ClientInfo { client: "c".into(), ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    h.handle(Event::Router { link: LINK, slot: SlotId(0), message: Kind::Attach(attach) });
    assert_eq!(h.shard.status()[0].members, 1);
    // The router vanishes; after the grace its member does too.
    h.handle(Event::LinkDown(LINK));
    let mut ticks = 0;
    while h.shard.status()[0].members > 0 {
        h.now = h.now.max(h.shard.next_deadline().expect("the grace ends at some time"));
        assert!(h.now <= Time(Duration::from_secs(1011)), "later than the grace");
        h.shard.tick(Moment { now: h.now, wall_ms: 1 }, &mut Vec::new());
        ticks += 1;
        assert!(ticks < 100, "spinning");
    }
    assert!(h.now >= Time(Duration::from_secs(1010)), "earlier than the grace");
}
