//! One slot at several processes under a seeded scheduler: delayed views, broken streams, planned moves, evictions, joins and
//! publishes sent again. Placement changes are those of production.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use roomring_control::placement::{Change, FORMAT, Member, Placement, RingParams, Settings, SlotRecord};
use roomring_proto::{Epoch, Generation, Lsn, NodeId, Seq};

use super::*;
use crate::entry::Entry;

const ROOM: &str = "lobby";

/// A scripted router: attaches to whoever says it is primary, sends unanswered publishes again, checks what it is told.
#[derive(Default)]
struct Router {
    number: u64,
    unanswered: BTreeMap<u64, Bytes>,
    acked: BTreeMap<u64, (Epoch, u64)>,
    epoch: Option<Epoch>,
    seq: u64,
    lsn: u64,
    delivered: Vec<(Epoch, u64, Bytes)>,
    at: Option<(Incarnation, LinkId)>,
    attached: bool,
    attach_id: u64,
    links: u64,
    gaps: usize,
    term: u64,
}

struct World {
    placements: Vec<Placement>,
    slots: BTreeMap<Incarnation, Slot>,
    seen: BTreeMap<Incarnation, usize>,
    /// One queue per direction of each stream, keyed by (who opened it, other end, towards the opener).
    streams: BTreeMap<(Incarnation, Incarnation, bool), VecDeque<v1::Replication>>,
    to_router: VecDeque<(Incarnation, v1::NodeMessage)>,
    ready: BTreeMap<Seat, (Term, Version)>,
    unanswered: BTreeSet<Seat>,
    router: Router,
    committed: BTreeMap<(Generation, Lsn), Entry>,
    now: Duration,
    min_in_sync: u32,
}

fn member(i: u64) -> Member {
    Member {
        node: NodeId::new(&format!("n{i}")).unwrap(),
        home: format!("h{i}"),
        grpc_addr: String::new(),
        zone: String::new(),
        weight: 100,
        active: true,
        max_format: FORMAT,
        watch_addr: String::new(),
    }
}

impl World {
    fn new(processes: u64) -> Self {
        let seat = Seat { incarnation: Incarnation(1), since: Version(1) };
        let placement = Placement {
            uid: Uid(7),
            format: FORMAT,
            version: Version(1),
            settings: Settings { slots: 1, ..Settings::default() },
            ring: RingParams { vnodes: 8, bound_percent: 125 },
            members: (1..=processes).map(|i| (Incarnation(i), member(i))).collect(),
            slots: vec![SlotRecord {
                term: Term(1),
                primary: seat,
                in_sync: vec![seat],
                learners: Vec::new(),
                generation: Generation(1),
            }],
            recent: Default::default(),
            apart: Default::default(),
        };
        let config = |i| Config {
            uid: Uid(7),
            slot: SlotId(0),
            slots: 1,
            me: Incarnation(i),
            limits: RoomLimits::default(),
            // Little, so that snapshots are needed.
            retention: Retention { bytes: 600, age: Duration::from_secs(60) },
            presence_grace: Duration::from_secs(10),
            rules: Rules::default(),
        };
        let mut world = Self {
            placements: vec![placement],
            slots: (1..=processes).map(|i| (Incarnation(i), Slot::new(config(i)))).collect(),
            seen: (1..=processes).map(|i| (Incarnation(i), 0)).collect(),
            streams: BTreeMap::new(),
            to_router: VecDeque::new(),
            ready: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            router: Router::default(),
            committed: BTreeMap::new(),
            now: Duration::from_secs(1000),
            min_in_sync: 1,
        };
        for a in 1..=processes {
            for b in (1..=processes).filter(|b| *b != a) {
                world.connect(Incarnation(a), Incarnation(b));
            }
        }
        world
    }

    fn latest(&self) -> &Placement {
        self.placements.last().unwrap()
    }

    fn record(&self) -> &SlotRecord {
        &self.latest().slots[0]
    }

    fn input(&mut self, to: Incarnation, input: Input) {
        let env = Env {
            now: Time(self.now),
            wall_ms: u64::try_from(self.now.as_millis()).unwrap(),
            contact: Some(Time(self.now)),
            fence_after: Duration::from_secs(60),
            min_in_sync: self.min_in_sync,
        };
        let mut out = Vec::new();
        let slot = self.slots.get_mut(&to).unwrap();
        let had = slot.replica.as_ref().map(|r| (r.seat, r.commit));
        slot.handle(&env, input, &mut out);
        if let Some(replica) = &slot.replica {
            if let Some((seat, commit)) = had
                && seat == replica.seat
            {
                assert!(replica.commit >= commit, "a commit point went back");
            }
            // CommittedNeverTruncated, SameTermSameLog: whatever anybody applied is the same everywhere.
            for (entry, _) in replica.log.after(Lsn(0)) {
                if entry.lsn <= replica.commit {
                    let known = self.committed.entry((entry.generation, entry.lsn)).or_insert_with(|| entry.clone());
                    assert_eq!(known, entry, "two entries were committed in one place");
                }
            }
        }
        for output in out {
            match output {
                Output::Peer { to: other, message } => {
                    let answer = matches!(
                        message.kind,
                        Some(
                            v1::replication::Kind::ProbeReply(_)
                                | v1::replication::Kind::AppendAck(_)
                                | v1::replication::Kind::SnapshotAck(_)
                                | v1::replication::Kind::Refused(_)
                        )
                    );
                    let key = if answer { (other, to, true) } else { (to, other, false) };
                    if let Some(queue) = self.streams.get_mut(&key) {
                        queue.push_back(message);
                    }
                }
                Output::Router { link, message } => {
                    if self.router.at == Some((to, link)) {
                        self.to_router.push_back((to, message));
                    }
                }
                Output::Unanswered { seat, .. } => _ = self.unanswered.insert(seat),
                Output::Ready { seat, term, base, .. } => {
                    self.ready.insert(seat, (term, base));
                }
            }
        }
        self.check_in_sync_holds_committed();
    }

    /// InSyncHoldsCommitted: every in-sync seat of the latest placement holds every committed entry.
    fn check_in_sync_holds_committed(&self) {
        let generation = self.record().generation;
        let last = self.committed.keys().filter(|(g, _)| *g == generation).map(|(_, l)| *l).max();
        for seat in &self.record().in_sync {
            let replica = self.slots[&seat.incarnation].replica.as_ref().filter(|r| r.seat == *seat);
            match replica {
                Some(replica) => {
                    assert!(Some(replica.log.last()) >= last, "{seat:?} lacks committed entries: {last:?}");
                }
                // It has not seen the placement that made it yet: that can only be before anything was committed.
                None => assert_eq!(last, None, "{seat:?} is in sync and holds nothing"),
            }
        }
    }

    fn connect(&mut self, a: Incarnation, b: Incarnation) {
        self.streams.insert((a, b, false), VecDeque::new());
        self.streams.insert((a, b, true), VecDeque::new());
        self.input(a, Input::PeerUp(b));
    }

    fn disconnect(&mut self, a: Incarnation, b: Incarnation) {
        self.streams.remove(&(a, b, false));
        self.streams.remove(&(a, b, true));
        self.input(a, Input::PeerDown(b));
    }

    /// Lets time pass in which the primary is ticked when it wants to be. Gives the seats that it named.
    fn wait(&mut self, time: Duration) -> BTreeSet<Seat> {
        let primary = self.record().primary.incarnation;
        let end = self.now + time;
        self.unanswered.clear();
        while let Some(at) = self.slots[&primary].next_deadline().filter(|at| at.0 <= end) {
            self.now = self.now.max(at.0);
            self.input(primary, Input::Tick);
        }
        self.now = end;
        std::mem::take(&mut self.unanswered)
    }

    fn deliver_stream(&mut self, index: usize) {
        let busy: Vec<_> = self.streams.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        if busy.is_empty() {
            return;
        }
        let key = busy[index % busy.len()];
        let message = self.streams.get_mut(&key).and_then(VecDeque::pop_front).unwrap();
        self.input(if key.2 { key.0 } else { key.1 }, Input::Peer(message));
    }

    fn show_placement(&mut self, to: Incarnation, skip: usize) {
        let at = self.seen[&to];
        let next = (at + 1 + skip).min(self.placements.len());
        if next > at {
            let placement = &self.placements[next - 1];
            let (version, record) = (placement.version, placement.slots[0].clone());
            self.seen.insert(to, next);
            let same = at > 0 && self.placements[at - 1].slots[0] == record;
            self.input(to, if same { Input::Unchanged { version } } else { Input::Placement { version, record } });
        }
    }

    fn write(&mut self, change: &Change) {
        if let Ok(next) = self.latest().with(std::slice::from_ref(change)) {
            self.placements.push(next);
        }
    }

    fn write_ready(&mut self) {
        let version = self.latest().version;
        let ready: Vec<_> =
            self.ready.iter().filter(|(_, (_, base))| *base == version).map(|(s, r)| (*s, *r)).collect();
        for (seat, (term, _)) in ready.into_iter().take(1) {
            self.write(&Change::IntoSync { slot: SlotId(0), seat, term });
        }
    }

    /// The router goes to `to` with a new link.
    fn attach(&mut self, to: Incarnation) {
        if let Some((old, link)) = self.router.at.take() {
            self.input(old, Input::LinkDown(link));
        }
        self.to_router.clear();
        self.router.links += 1;
        let link = LinkId(self.router.links);
        self.router.at = Some((to, link));
        self.router.attached = false;
        self.router.attach_id += 1;
        self.input(to, Input::LinkUp { link, router: Incarnation(99) });
        let attach = v1::Attach {
            slot: 0,
            attach_id: self.router.attach_id,
            term_seen: self.router.term,
            placement: None,
            rooms: vec![v1::RoomAttach {
                room: ROOM.into(),
                epoch: self.router.epoch.map(Into::into),
                seq: self.router.seq,
                lsn: self.router.lsn,
                members: vec![v1::ClientInfo { user: "ann".into(), client: "c1".into(), ..Default::default() }],
                keeps: None,
            }],
            whole: true,
        };
        self.input(to, Input::Router { link, message: v1::router_message::Kind::Attach(attach) });
    }

    fn publish(&mut self) {
        self.router.number += 1;
        let number = self.router.number;
        self.router.unanswered.insert(number, Bytes::from(format!("{{\"n\":{number}}}")));
        self.send_publish(number);
    }

    fn send_publish(&mut self, number: u64) {
        let (Some((at, link)), true) = (self.router.at, self.router.attached) else { return };
        let settled_below = self.router.unanswered.keys().next().map_or(number, |n| n - 1);
        let publish = v1::Publish {
            slot: 0,
            room: ROOM.into(),
            number,
            settled_below,
            generation: 1,
            data: self.router.unanswered[&number].clone(),
            info: Bytes::new(),
            id: String::new(),
            keeps: None,
        };
        self.input(at, Input::Router { link, message: v1::router_message::Kind::Publish(publish) });
    }

    /// Retracts what is at `seq` of a room; what the router is answered.
    fn retract(&mut self, number: u64, room: &str, seq: u64, epoch: Option<Epoch>) -> v1::Published {
        let (at, link) = self.router.at.unwrap();
        let publish = v1::Publish {
            room: room.into(),
            number,
            generation: 1,
            data: Bytes::from_static(b"{}"),
            ..Default::default()
        };
        let retract = v1::Retract { publish: Some(publish), seq, epoch: epoch.map(Into::into) };
        self.router.number = self.router.number.max(number);
        self.input(at, Input::Router { link, message: v1::router_message::Kind::Retract(Box::new(retract)) });
        let answer = self.to_router.iter().rev().find_map(|(_, message)| match &message.kind {
            Some(v1::node_message::Kind::Published(p)) if p.number == number => Some(p.clone()),
            _ => None,
        });
        answer.expect("one copy commits at once")
    }

    fn deliver_router(&mut self) {
        let Some((_, message)) = self.to_router.pop_front() else { return };
        use v1::node_message::Kind;
        let router = &mut self.router;
        match message.kind.unwrap() {
            Kind::Attached(a) if a.attach_id == router.attach_id => {
                if a.refused.is_some() {
                    return;
                }
                assert!(a.term >= router.term, "RouterNeverGoesBack");
                router.term = a.term;
                let room = &a.rooms[0];
                assert!(room.refused.is_none());
                let epoch = Epoch::from(room.epoch.unwrap());
                if room.gap || router.epoch.is_none() {
                    if router.epoch.is_some() {
                        assert!(room.gap);
                        router.gaps += 1;
                    }
                    router.epoch = Some(epoch);
                    (router.seq, router.lsn) = (room.seq, room.lsn);
                }
                assert_eq!((Some(epoch), router.seq, router.lsn), (router.epoch, room.seq, room.lsn));
                router.attached = true;
                for event in room.replay.clone() {
                    self.event(epoch, event);
                }
                let again: Vec<u64> = self.router.unanswered.keys().copied().collect();
                for number in again {
                    self.send_publish(number);
                }
            }
            Kind::Deliver(d) if router.attached => {
                let epoch = Epoch::from(d.epoch.unwrap());
                for event in d.events {
                    self.event(epoch, event);
                }
            }
            Kind::Published(p) if p.refused.is_none() => {
                let place = (Epoch::from(p.epoch.unwrap()), p.seq);
                let first = *router.acked.entry(p.number).or_insert(place);
                assert_eq!(first, place, "one publish, two places");
                router.unanswered.remove(&p.number);
            }
            Kind::NotPrimary(_) => router.attached = false,
            _ => {}
        }
    }

    fn event(&mut self, epoch: Epoch, event: v1::Event) {
        let router = &mut self.router;
        assert_eq!(Some(epoch), router.epoch, "EpochNeverReturns");
        match event.kind.unwrap() {
            v1::event::Kind::Publication(p) => {
                assert_eq!(p.seq, router.seq + 1, "deliveries have no hole and no repeat");
                assert!(p.lsn > router.lsn);
                (router.seq, router.lsn) = (p.seq, p.lsn);
                router.delivered.push((epoch, p.seq, p.data));
            }
            v1::event::Kind::Join(e) | v1::event::Kind::Leave(e) => {
                assert!(e.lsn > router.lsn);
                router.lsn = e.lsn;
            }
        }
    }

    /// Everything arrives, time passes, until nothing changes.
    fn quiesce(&mut self) {
        let all: Vec<Incarnation> = self.slots.keys().copied().collect();
        for a in &all {
            for b in all.iter().filter(|b| *b != a) {
                if !self.streams.contains_key(&(*a, *b, false)) {
                    self.connect(*a, *b);
                }
            }
        }
        for round in 0..200 {
            self.now += Duration::from_millis(100);
            for process in &all {
                self.show_placement(*process, 1000);
                self.input(*process, Input::Tick);
            }
            while self.streams.values().any(|q| !q.is_empty()) {
                self.deliver_stream(round);
            }
            self.write_ready();
            let primary = self.record().primary.incarnation;
            if self.router.at.is_none_or(|(at, _)| at != primary) || !self.router.attached {
                self.attach(primary);
            }
            while !self.to_router.is_empty() {
                self.deliver_router();
            }
        }
        assert!(self.router.attached, "EventuallyServes");
        assert!(self.router.unanswered.is_empty(), "every publish is answered in the end");
    }

    /// What the router was told agrees with what it saw, and every publish happened once.
    fn check_deliveries(&self) {
        let mut seen = BTreeMap::new();
        for (epoch, seq, data) in &self.router.delivered {
            assert!(seen.insert(data.clone(), (*epoch, *seq)).is_none(), "NoDuplicateDelivery: {data:?}");
        }
        for (number, place) in &self.router.acked {
            if self.router.gaps == 0 {
                let data = Bytes::from(format!("{{\"n\":{number}}}"));
                assert_eq!(seen.get(&data), Some(place), "AckSeqMatchesDelivery: {number}");
            }
        }
        let primary = &self.slots[&self.record().primary.incarnation];
        let room = primary.replica.as_ref().unwrap().rooms.get(ROOM).unwrap();
        assert_eq!(room.seq(), Seq(self.router.number), "PublishAtMostOnce, nothing acknowledged is lost");
        assert_eq!(room.num_clients(), 1);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Stream(usize),
    Router,
    Placement(u64, usize),
    Publish,
    Attach(u64),
    AttachPrimary,
    Cut(u64, u64),
    Connect(u64, u64),
    AddLearner(u64),
    Ready,
    Switch(usize),
    RemoveSeat(usize),
    Evict(u64),
    Rejoin(u64),
    Tick(u64),
}

fn step(processes: u64) -> impl Strategy<Value = Step> {
    let p = 1..=processes;
    prop_oneof![
        30 => any::<usize>().prop_map(Step::Stream),
        15 => Just(Step::Router),
        15 => (p.clone(), 0..3usize).prop_map(|(p, s)| Step::Placement(p, s)),
        10 => Just(Step::Publish),
        1 => p.clone().prop_map(Step::Attach),
        4 => Just(Step::AttachPrimary),
        2 => (p.clone(), p.clone()).prop_map(|(a, b)| Step::Cut(a, b)),
        4 => (p.clone(), p.clone()).prop_map(|(a, b)| Step::Connect(a, b)),
        5 => p.clone().prop_map(Step::AddLearner),
        6 => Just(Step::Ready),
        4 => any::<usize>().prop_map(Step::Switch),
        3 => any::<usize>().prop_map(Step::RemoveSeat),
        2 => p.clone().prop_map(Step::Evict),
        2 => p.clone().prop_map(Step::Rejoin),
        6 => p.prop_map(Step::Tick),
    ]
}

fn run(processes: u64, steps: Vec<Step>) -> World {
    let mut world = World::new(processes);
    world.show_placement(Incarnation(1), 0);
    for step in steps {
        match step {
            Step::Stream(i) => world.deliver_stream(i),
            Step::Router => world.deliver_router(),
            Step::Placement(p, skip) => world.show_placement(Incarnation(p), skip),
            Step::Publish => world.publish(),
            Step::Attach(p) => world.attach(Incarnation(p)),
            Step::AttachPrimary => world.attach(world.record().primary.incarnation),
            Step::Cut(a, b) if a != b => world.disconnect(Incarnation(a), Incarnation(b)),
            Step::Connect(a, b) if a != b && !world.streams.contains_key(&(Incarnation(a), Incarnation(b), false)) => {
                world.connect(Incarnation(a), Incarnation(b));
            }
            Step::Cut(..) | Step::Connect(..) => {}
            Step::AddLearner(p) => {
                world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(p) });
            }
            Step::Ready => world.write_ready(),
            Step::Switch(i) => {
                let to = world.record().in_sync[i % world.record().in_sync.len()];
                world.write(&Change::Switch { slot: SlotId(0), to });
            }
            Step::RemoveSeat(i) => {
                let seats: Vec<Seat> = world.record().seats().collect();
                world.write(&Change::RemoveSeat { slot: SlotId(0), seat: seats[i % seats.len()] });
            }
            Step::Evict(p) => world.write(&Change::Evict { incarnation: Incarnation(p) }),
            Step::Rejoin(p) => world.write(&Change::Join { incarnation: Incarnation(p), member: member(p) }),
            Step::Tick(p) => {
                world.now += Duration::from_millis(30);
                world.input(Incarnation(p), Input::Tick);
            }
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost(steps in proptest::collection::vec(step(3), 0..400)) {
        let mut world = run(3, steps);
        world.quiesce();
        world.check_deliveries();
    }
}

fn settle(world: &mut World) {
    world.quiesce();
    world.check_deliveries();
}

#[test]
fn a_planned_move_carries_everything_and_its_router_sees_no_gap() {
    let mut world = run(2, vec![]);
    settle(&mut world);
    for _ in 0..20 {
        world.publish();
    }
    settle(&mut world);
    world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(2) });
    world.publish();
    settle(&mut world);
    assert_eq!(world.record().in_sync.len(), 2, "the learner went in sync");
    let to = world.record().in_sync[1];
    world.write(&Change::Switch { slot: SlotId(0), to });
    world.publish();
    settle(&mut world);
    let old = world.record().in_sync[0];
    world.write(&Change::RemoveSeat { slot: SlotId(0), seat: old });
    world.publish();
    settle(&mut world);
    assert!(world.slots[&Incarnation(1)].is_empty());
    assert_eq!((world.router.gaps, world.router.delivered.len()), (0, 23));
    assert_eq!(world.slots[&Incarnation(2)].status().role(), v1::slot_status::Role::Primary);
}

#[test]
fn after_a_switch_publishes_commit_in_two_round_trips_or_three_where_a_log_is_short() {
    for short in [false, true] {
        let mut world = run(3, vec![]);
        for learner in [2, 3] {
            world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(learner) });
            settle(&mut world);
        }
        let ends = |w: &World| w.slots.values().map(|s| s.replica.as_ref().unwrap().log.last()).collect::<Vec<_>>();
        let heir = Incarnation(2);
        // The old primary has an entry that the heir has not; or the third lacks one that both others have.
        world.publish();
        if short {
            let sent = world.streams.get_mut(&(Incarnation(1), heir, false)).and_then(VecDeque::pop_front).unwrap();
            world.input(heir, Input::Peer(sent));
        }
        let before = ends(&world);
        assert_eq!((before[0] > before[1], before[1] > before[2]), (!short, short));
        world.streams.values_mut().for_each(VecDeque::clear);
        let to = world.record().in_sync[1];
        world.write(&Change::Switch { slot: SlotId(0), to });
        world.show_placement(heir, 1000);
        world.attach(heir);
        let mut trips = 0;
        loop {
            while !world.to_router.is_empty() {
                world.deliver_router();
            }
            if world.router.unanswered.is_empty() {
                break;
            }
            for (other, back) in [(1, false), (3, false), (1, true), (3, true)] {
                let key = (heir, Incarnation(other), back);
                for message in std::mem::take(world.streams.get_mut(&key).unwrap()) {
                    world.input(if back { heir } else { key.1 }, Input::Peer(message));
                }
            }
            trips += 1;
            assert!(trips < 10, "answered some day");
        }
        assert_eq!(trips, if short { 3 } else { 2 });
        let after = ends(&world);
        assert!(after.iter().all(|end| *end == after[0]), "all hold the heir's log: {after:?}");
        settle(&mut world);
    }
}

#[test]
fn a_seat_that_owes_an_answer_for_too_long_is_named() {
    let mut world = run(3, vec![]);
    world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(2) });
    settle(&mut world);
    let [primary, replica] = world.record().in_sync[..] else { panic!("{:?}", world.record()) };
    let (a, b) = (primary.incarnation, replica.incarnation);
    assert_eq!(world.wait(Duration::from_secs(60)), BTreeSet::new(), "it owes nothing");

    // What is sent to it gets lost, with the stream and without.
    for down in [false, true] {
        world.publish();
        if down {
            world.disconnect(a, b);
        }
        assert_eq!(world.wait(Duration::from_millis(2400)), BTreeSet::new());
        assert_eq!(world.wait(Duration::from_millis(350)), BTreeSet::from([replica]));
        assert_eq!(world.wait(Duration::from_millis(250)), BTreeSet::from([replica]), "again, while it lasts");
        settle(&mut world);
        assert_eq!(world.wait(Duration::from_secs(60)), BTreeSet::new());
    }

    // Answers that come, if slowly, are answers.
    for _ in 0..4 {
        world.publish();
        assert_eq!(world.wait(Duration::from_secs(2)), BTreeSet::new());
        while world.streams.values().any(|q| !q.is_empty()) {
            world.deliver_stream(0);
        }
    }

    // Whoever was held up itself blames nobody.
    world.publish();
    world.now += Duration::from_secs(5);
    world.input(a, Input::Tick);
    assert_eq!(world.unanswered, BTreeSet::new());
    assert_eq!(world.wait(Duration::from_millis(2400)), BTreeSet::new());
    assert_eq!(world.wait(Duration::from_millis(350)), BTreeSet::from([replica]));
    settle(&mut world);

    // A learner that can't be reached is named later, and nobody waits for it.
    world.disconnect(a, Incarnation(3));
    world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(3) });
    world.show_placement(a, 1000);
    let learner = world.record().learners[0];
    assert_eq!(world.wait(Duration::from_millis(4900)), BTreeSet::new());
    assert_eq!(world.wait(Duration::from_millis(350)), BTreeSet::from([learner]));
}

#[test]
fn without_the_seat_that_does_not_answer_what_waited_for_it_commits() {
    let mut world = run(2, vec![]);
    world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(2) });
    settle(&mut world);
    let seat = world.record().in_sync[1];
    world.disconnect(Incarnation(1), Incarnation(2));
    world.publish();
    assert_eq!(world.router.unanswered.len(), 1);
    assert_eq!(world.wait(Duration::from_secs(3)), BTreeSet::from([seat]));
    world.write(&Change::RemoveSeat { slot: SlotId(0), seat });
    world.show_placement(Incarnation(1), 1000);
    while !world.to_router.is_empty() {
        world.deliver_router();
    }
    assert!(world.router.unanswered.is_empty());
    settle(&mut world);
}

#[test]
fn what_fewer_seats_have_than_min_in_sync_is_acknowledged_once_another_has_it() {
    let mut world = run(3, vec![]);
    world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(2) });
    settle(&mut world);
    world.min_in_sync = 2;
    let seat = world.record().in_sync[1];
    world.disconnect(Incarnation(1), Incarnation(2));
    world.publish();
    // It was taken while two were in sync, and commits when one is.
    world.write(&Change::RemoveSeat { slot: SlotId(0), seat });
    world.show_placement(Incarnation(1), 1000);
    let hear = |world: &mut World| {
        while !world.to_router.is_empty() {
            world.deliver_router();
        }
    };
    hear(&mut world);
    let commit = |world: &World| world.slots[&Incarnation(1)].replica.as_ref().unwrap().commit;
    let committed = commit(&world);
    assert_eq!((world.router.delivered.len(), world.router.acked.len()), (1, 0));
    // Sent again it is known, and waits all the same.
    world.attach(Incarnation(1));
    hear(&mut world);
    assert_eq!((commit(&world), world.router.acked.len()), (committed, 0));
    world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(3) });
    settle(&mut world);
    assert_eq!(world.router.acked.keys().collect::<Vec<_>>(), [&1]);
    assert!(world.router.unanswered.is_empty());
}

#[test]
fn a_publish_sent_again_is_answered_and_not_repeated() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    world.publish();
    // The answer is lost with the link.
    world.attach(Incarnation(1));
    settle(&mut world);
    assert_eq!(world.router.delivered.len(), 1);
    assert_eq!(world.router.acked[&1].1, 1);
}

#[test]
fn what_the_log_no_longer_has_is_replayed_from_history() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    for _ in 0..10 {
        world.publish();
    }
    let replica = world.slots[&Incarnation(1)].replica.as_ref().unwrap();
    assert!(replica.log.base() > Lsn(world.router.lsn), "the log was trimmed past the router's position");
    // Deliveries and answers are lost with the link.
    world.attach(Incarnation(1));
    settle(&mut world);
    assert_eq!((world.router.gaps, world.router.delivered.len()), (0, 10));
}

#[test]
fn what_is_retracted_is_replayed_to_nobody() {
    // From the log, and from the history where the log is too short.
    for (publishes, seq, from_log) in [(2, 1, true), (2, 2, true), (6, 3, false)] {
        let mut world = run(1, vec![]);
        settle(&mut world);
        for _ in 0..publishes {
            world.publish();
        }
        let answer = world.retract(publishes + 1, ROOM, seq, world.router.epoch);
        assert_eq!((answer.refused, answer.seq), (None, publishes + 1));
        let replica = world.slots[&Incarnation(1)].replica.as_ref().unwrap();
        assert_eq!(replica.log.base() <= Lsn(world.router.lsn), from_log);
        // Deliveries are lost with the link.
        world.attach(Incarnation(1));
        world.quiesce();
        let expected = |n: u64| if n == seq || n > publishes { "{}".to_owned() } else { format!("{{\"n\":{n}}}") };
        let expected: Vec<_> = (1..=publishes + 1).map(|n| (n, Bytes::from(expected(n)))).collect();
        let delivered: Vec<_> = world.router.delivered.iter().map(|(_, seq, data)| (*seq, data.clone())).collect();
        assert_eq!((world.router.gaps, delivered), (0, expected));
    }
    for (publishes, gaps) in [(2, 0), (6, 1)] {
        let mut world = run(1, vec![]);
        settle(&mut world);
        for _ in 0..publishes {
            world.publish();
        }
        assert_eq!(world.retract(publishes + 1, ROOM, 0, None).seq, publishes + 1);
        world.attach(Incarnation(1));
        world.quiesce();
        assert_eq!((world.router.gaps, world.router.seq), (gaps, publishes + 1));
        assert!(world.router.delivered.iter().all(|(.., data)| data == "{}"), "{:?}", world.router.delivered);
    }
}

#[test]
fn what_can_not_be_retracted_is_said_and_not_logged() {
    use v1::refusal::Reason;
    let mut world = run(1, vec![]);
    settle(&mut world);
    world.publish();
    let here = world.router.epoch;
    let other = here.map(|e| Epoch { generation: Generation(9), ..e });
    let first = world.retract(2, ROOM, 1, here);
    assert_eq!((&first.refused, first.seq), (&None, 2));
    assert_eq!(world.retract(2, ROOM, 1, here), first, "sent again it is answered as before");
    let last = |world: &World| world.slots[&Incarnation(1)].replica.as_ref().unwrap().log.last();
    let before = last(&world);
    for (number, room, seq, epoch, reason) in [
        (3, ROOM, 1, None, Reason::Nothing),
        (4, ROOM, 2, None, Reason::Nothing),
        (5, ROOM, 3, None, Reason::Nothing),
        (6, ROOM, u64::MAX, None, Reason::Nothing),
        (7, "elsewhere", 1, None, Reason::Nothing),
        (8, "elsewhere", 0, None, Reason::Nothing),
        (9, ROOM, 1, other, Reason::UnknownEpoch),
        (10, ROOM, 0, other, Reason::UnknownEpoch),
        (11, "", 0, None, Reason::BadRequest),
    ] {
        let refused = world.retract(number, room, seq, epoch).refused;
        assert_eq!(refused.map(|r| r.reason()), Some(reason), "{room} {seq} {epoch:?}");
    }
    assert_eq!(last(&world), before);
    assert!(world.slots[&Incarnation(1)].replica.as_ref().unwrap().rooms.get("elsewhere").is_none());
}

#[test]
fn what_is_under_way_can_be_retracted() {
    let mut world = run(2, vec![]);
    settle(&mut world);
    world.write(&Change::AddLearner { slot: SlotId(0), incarnation: Incarnation(2) });
    settle(&mut world);
    // Nothing commits until the other copy has it.
    world.publish();
    let (at, link) = world.router.at.unwrap();
    let publish = v1::Publish { room: ROOM.into(), number: 2, data: Bytes::from_static(b"{}"), ..Default::default() };
    let retract = v1::Retract { publish: Some(publish), seq: 1, epoch: None };
    world.input(at, Input::Router { link, message: v1::router_message::Kind::Retract(Box::new(retract)) });
    assert!(world.to_router.is_empty());
    let to_other = (Incarnation(1), Incarnation(2), false);
    while !world.streams[&to_other].is_empty() {
        world.deliver_stream(0);
    }
    let to = world.record().in_sync[1];
    world.write(&Change::Switch { slot: SlotId(0), to });
    world.quiesce();
    assert_eq!((world.router.gaps, world.router.seq), (0, 2));
    for slot in world.slots.values() {
        let room = slot.replica.as_ref().unwrap().rooms.get(ROOM).unwrap();
        assert!(room.is_marked(Seq(1)) && room.is_marked(Seq(2)));
    }
}

#[test]
fn nothing_overtakes_a_publish_that_was_refused() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    let (at, link) = world.router.at.unwrap();
    let env = |contact: bool| Env {
        now: Time(Duration::from_secs(2000)),
        wall_ms: 0,
        contact: contact.then_some(Time(Duration::from_secs(2000))),
        fence_after: Duration::from_secs(60),
        min_in_sync: 1,
    };
    let publish = |number| {
        let publish = v1::Publish { slot: 0, room: ROOM.into(), number, ..Default::default() };
        Input::Router { link, message: v1::router_message::Kind::Publish(publish) }
    };
    let mut out = Vec::new();
    let slot = world.slots.get_mut(&at).unwrap();
    slot.handle(&env(false), publish(1), &mut out);
    slot.handle(&env(true), publish(2), &mut out);
    let refused = out.iter().filter(|o| {
        matches!(o, Output::Router { message: v1::NodeMessage { kind: Some(v1::node_message::Kind::Published(p)) }, .. }
            if p.refused.is_some())
    });
    assert_eq!(refused.count(), 2);
    let attach = v1::Attach { slot: 0, attach_id: 77, whole: true, ..Default::default() };
    slot.handle(&env(true), Input::Router { link, message: v1::router_message::Kind::Attach(attach) }, &mut out);
    slot.handle(&env(true), publish(1), &mut out);
    slot.handle(&env(true), publish(2), &mut out);
    let room = slot.replica.as_ref().unwrap().rooms.get(ROOM).unwrap();
    assert_eq!(room.seq(), Seq(2));
}

#[test]
fn without_contact_a_primary_takes_and_answers_nothing() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    let (at, link) = world.router.at.unwrap();
    let env = Env {
        now: Time(world.now),
        wall_ms: 0,
        contact: Some(Time(world.now - Duration::from_secs(60))),
        fence_after: Duration::from_secs(60),
        min_in_sync: 1,
    };
    let publish = v1::Publish { slot: 0, room: ROOM.into(), number: 1, generation: 1, ..Default::default() };
    let mut out = Vec::new();
    let slot = world.slots.get_mut(&at).unwrap();
    slot.handle(&env, Input::Router { link, message: v1::router_message::Kind::Publish(publish) }, &mut out);
    let Output::Router { message: v1::NodeMessage { kind: Some(v1::node_message::Kind::Published(p)) }, .. } = &out[0]
    else {
        panic!("{out:?}")
    };
    assert_eq!(p.refused.as_ref().unwrap().reason(), v1::refusal::Reason::NotPrimary);
    assert_eq!(slot.replica.as_ref().unwrap().log.last(), slot.replica.as_ref().unwrap().commit);
}

#[test]
fn a_fenced_primary_tells_its_routers_once() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    let (at, link) = world.router.at.unwrap();
    let contact = Time(world.now);
    let env = |now: Time| Env {
        now,
        wall_ms: 0,
        contact: Some(contact),
        fence_after: Duration::from_secs(60),
        min_in_sync: 1,
    };
    let fenced = contact + Duration::from_secs(60);
    let slot = world.slots.get_mut(&at).unwrap();
    let told = |out: &[Output]| {
        let told = out.iter().filter_map(|o| match o {
            Output::Router { link, message: v1::NodeMessage { kind: Some(v1::node_message::Kind::NotPrimary(_)) } } => {
                Some(*link)
            }
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let mut out = Vec::new();
    while let Some(next) = slot.next_deadline().filter(|at| *at < fenced) {
        slot.handle(&env(next), Input::Tick, &mut out);
    }
    assert_eq!(told(&out), []);
    assert_eq!(slot.next_deadline(), Some(fenced), "it does not wait for somebody to ask");
    slot.handle(&env(fenced), Input::Tick, &mut out);
    assert_eq!(told(&out), [link]);
    slot.handle(&env(fenced + Duration::from_secs(1)), Input::Tick, &mut out);
    assert_eq!(told(&out).len(), 1);
    // A router that asks again hears it again.
    let attach = v1::Attach { slot: 0, attach_id: 77, whole: true, ..Default::default() };
    let attach = Input::Router { link, message: v1::router_message::Kind::Attach(attach) };
    slot.handle(&env(fenced + Duration::from_secs(1)), attach, &mut out);
    assert_eq!(told(&out).len(), 2);
}

#[test]
fn members_of_a_router_that_stays_away_leave_after_the_grace() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    let (at, link) = world.router.at.take().unwrap();
    world.input(at, Input::LinkDown(link));
    let clients = |w: &World| w.slots[&at].replica.as_ref().unwrap().rooms.members();
    world.now += Duration::from_secs(9);
    world.input(at, Input::Tick);
    assert_eq!(clients(&world), 1);
    world.now += Duration::from_secs(1);
    assert!(world.slots[&at].next_deadline().unwrap() <= Time(world.now));
    world.input(at, Input::Tick);
    assert_eq!(clients(&world), 0);
}

/// Links that were told of a visit of the room's only client, and whether it left.
fn visits(out: &[Output]) -> Vec<(LinkId, bool)> {
    let visit = |output: &Output| match output {
        Output::Router { link, message: v1::NodeMessage { kind: Some(v1::node_message::Kind::Visit(visit)) } } => {
            assert_eq!((visit.clients, visit.info.as_ref().unwrap().client.as_str()), (u64::from(!visit.left), "c1"));
            Some((*link, visit.left))
        }
        _ => None,
    };
    out.iter().filter_map(visit).collect()
}

#[test]
fn a_visit_is_told_to_the_router_of_the_client_or_to_another() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    let (at, link) = world.router.at.take().unwrap();
    let now = world.now;
    let env = |now| Env {
        now: Time(now),
        wall_ms: 0,
        contact: Some(Time(now)),
        fence_after: Duration::from_secs(60),
        min_in_sync: 1,
    };
    let slot = world.slots.get_mut(&at).unwrap();
    let other = LinkId(1_000);
    let mut handle = |now, input| {
        let mut out = Vec::new();
        slot.handle(&env(now), input, &mut out);
        visits(&out)
    };
    let presence = |joined: bool| {
        let info = v1::ClientInfo { user: "ann".into(), client: "c1".into(), ..Default::default() };
        let (joined, left) = if joined { (vec![info], Vec::new()) } else { (Vec::new(), vec!["c1".to_owned()]) };
        let presence = v1::Presence { slot: 0, room: ROOM.into(), joined, left };
        Input::Router { link, message: v1::router_message::Kind::Presence(presence) }
    };
    assert_eq!(handle(now, presence(false)), [], "nobody wants to know");
    handle(now, Input::LinkUp { link: other, router: Incarnation(100) });
    handle(now, Input::Listens(other));
    assert_eq!(handle(now, presence(true)), [(other, false)], "its own does not want to know");
    handle(now, Input::Listens(link));
    assert_eq!(handle(now, presence(false)), [(link, true)]);
    assert_eq!(handle(now, presence(true)), [(link, false)]);
    assert_eq!(handle(now, presence(true)), [], "it is there already");
    handle(now, Input::LinkDown(link));
    let gone = now + Duration::from_secs(10);
    assert_eq!(handle(gone, Input::Tick), [(other, true)]);
}

#[test]
fn an_empty_room_costs_nothing_once_its_history_is_old() {
    let mut world = run(1, vec![]);
    settle(&mut world);
    world.publish();
    settle(&mut world);
    let (at, link) = world.router.at.take().unwrap();
    world.input(at, Input::LinkDown(link));
    let rooms = |w: &World| w.slots[&at].status().rooms;
    for _ in 0..200 {
        world.now += Duration::from_secs(2);
        world.input(at, Input::Tick);
    }
    assert_eq!(rooms(&world), 0);
    // The room comes back under another epoch, and its old router is told of the gap.
    let before = world.router.epoch.unwrap();
    world.attach(at);
    while !world.to_router.is_empty() {
        world.deliver_router();
    }
    assert_eq!(world.router.gaps, 1);
    assert!(world.router.epoch.unwrap() > before);
}
