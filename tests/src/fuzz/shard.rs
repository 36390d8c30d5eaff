//! What routers and other nodes send to the slots of a node: wrong or late, it must not stop them.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use roomring_control::clock::Time;
use roomring_control::placement::{FORMAT, Member, Placement, RingParams, Settings, SlotRecord};
use roomring_node::core::{Event, Moment, Part, Shard};
use roomring_node::slot::LinkId;
use roomring_proto::{Generation, Incarnation, NodeId, Seat, SlotId, Term, Uid, Version, v1};

const ME: Incarnation = Incarnation(1);
const OTHER: Incarnation = Incarnation(2);
const SLOTS: u32 = 2;

/// Messages for the slots of a node.
pub fn shard(data: &[u8]) {
    let mut now = Moment { now: Time(Duration::from_secs(1_000)), wall_ms: 1_000_000 };
    let mut shard = Shard::new(Part { index: 0, of: 1 }, ME);
    let mut out = Vec::new();
    let mut feed = |shard: &mut Shard, now: Moment, event: Event| {
        shard.handle(now, event, &mut out);
        out.clear();
    };
    feed(&mut shard, now, Event::Adopt { placement: Arc::new(placement()), contact: Some(now.now) });
    feed(&mut shard, now, Event::PeerUp(OTHER));
    feed(&mut shard, now, Event::LinkUp { link: LinkId(1), router: Incarnation(9) });
    let mut script = data;
    while !script.is_empty() {
        let (step, rest) = super::choice(script);
        let (message, rest) = super::piece(rest);
        script = rest;
        now.now = now.now + Duration::from_millis(u64::from(step) / 4);
        let slot = SlotId(u32::from(step) % SLOTS);
        if step & 2 == 0 {
            let Ok(v1::RouterMessage { kind: Some(message) }) = v1::RouterMessage::decode(message) else { continue };
            feed(&mut shard, now, Event::Router { link: LinkId(1), slot, message });
        } else if let Ok(message) = v1::Replication::decode(message) {
            feed(&mut shard, now, Event::Peer(message));
        }
        shard.tick(now, &mut Vec::new());
    }
    // A slot that panicked would be out of service.
    let fenced = |s: &v1::SlotStatus| s.role() == v1::slot_status::Role::Fenced && s.term == 0;
    assert!(!shard.status().iter().any(fenced), "a slot is quarantined");
}

/// Of the first slot this process is primary, of the second the other one.
fn placement() -> Placement {
    let member = |n: u64| Member {
        node: NodeId::new(&format!("node-{n}")).expect("a name"),
        home: format!("home-{n}"),
        grpc_addr: format!("10.0.0.{n}:7400"),
        zone: String::new(),
        weight: 100,
        active: true,
        max_format: FORMAT,
        watch_addr: String::new(),
    };
    let seat = |incarnation| Seat { incarnation, since: Version(1) };
    let slots = [[ME, OTHER], [OTHER, ME]].map(|seats| {
        let in_sync = seats.map(seat).to_vec();
        SlotRecord { term: Term(1), primary: in_sync[0], in_sync, learners: Vec::new(), generation: Generation(1) }
    });
    Placement {
        uid: Uid(7),
        format: FORMAT,
        version: Version(1),
        settings: Settings { slots: SLOTS, ..Settings::default() },
        ring: RingParams { vnodes: 2, bound_percent: 125 },
        members: [(ME, member(1)), (OTHER, member(2))].into(),
        slots: slots.to_vec(),
        recent: Default::default(),
        apart: Default::default(),
    }
}
