//! Random histories of an etcd, seen through a watch that lags, checks, loads and peers.

use std::collections::VecDeque;

use proptest::prelude::*;
use prost::Message;
use roomring_proto::{Incarnation, Uid, Version, v1};

use super::*;
use crate::placement::{FORMAT, Member, RingParams, Settings, SlotRecord};

const LEASE: i64 = 99;

fn placement(uid: u64, version: u64) -> Placement {
    let incarnation = Incarnation(1);
    let seat = roomring_proto::Seat { incarnation, since: Version(1) };
    let slot = SlotRecord {
        term: roomring_proto::Term(1),
        primary: seat,
        in_sync: vec![seat],
        learners: Vec::new(),
        generation: roomring_proto::Generation(1),
    };
    let member = Member {
        node: NodeId::new("node-0").unwrap(),
        home: "aa".into(),
        grpc_addr: "h:1".into(),
        zone: String::new(),
        weight: 100,
        active: true,
        max_format: FORMAT,
        watch_addr: String::new(),
    };
    Placement {
        uid: Uid(uid),
        format: FORMAT,
        version: Version(version),
        settings: Settings { slots: 1, replication: 1, fence_after: Duration::from_secs(1), ..Settings::default() },
        ring: RingParams { vnodes: 1, bound_percent: 125 },
        members: BTreeMap::from([(incarnation, member)]),
        slots: vec![slot],
        recent: Default::default(),
        apart: Default::default(),
    }
}

fn node_value(n: u8) -> Vec<u8> {
    v1::NodeInfo { home: format!("{n:02x}"), grpc_addr: "h:1".into(), weight: 100, max_format: 1, ..Default::default() }
        .encode_to_vec()
}

/// An etcd, and a registry that follows it.
struct World {
    keys: Keys,
    data: BTreeMap<String, (Vec<u8>, i64)>,
    revision: i64,
    /// What the watch has still to deliver.
    stream: VecDeque<Event>,
    now: Time,
    state: State,
    uid: u64,
    version: u64,
    /// A read under way, and the version of the placement that it saw.
    answer: Option<(Check, u64)>,
}

impl World {
    fn new() -> Self {
        let keys = Keys::new(&NodeId::new("c").unwrap());
        let mut state = State::new(keys.clone(), Duration::from_secs(5));
        state.set_own(Some(OwnKey { key: keys.node(&NodeId::new("node-0").unwrap()), lease: LEASE }));
        let now = Time(Duration::from_secs(1));
        let data = BTreeMap::new();
        let stream = VecDeque::new();
        let mut world = Self { keys, data, revision: 1, stream, now, state, uid: 1, version: 0, answer: None };
        world.put(0);
        world.load();
        world
    }

    fn put_value(&mut self, key: String, value: Vec<u8>) {
        self.revision += 1;
        self.data.insert(key.clone(), (value.clone(), self.revision));
        self.stream.push_back(Event::Put(KeyValue { key, value, mod_revision: self.revision }));
    }

    fn node(&self, n: u8) -> String {
        format!("{}node-{n}", self.keys.nodes())
    }

    fn put(&mut self, n: u8) {
        self.put_value(self.node(n), node_value(n));
    }

    fn delete(&mut self, n: u8) {
        let key = self.node(n);
        if self.data.remove(&key).is_some() {
            self.revision += 1;
            self.stream.push_back(Event::Delete { key, mod_revision: self.revision });
        }
    }

    /// Somebody writes the next version.
    fn write_placement(&mut self, mine: bool) {
        self.version += 1;
        let placement = placement(self.uid, self.version);
        self.put_value(self.keys.placement(), placement.encode().to_vec());
        // Only who knows the base can win.
        if mine && (self.version == 1 || self.state.in_etcd.is_some_and(|p| p.version.0 + 1 == self.version)) {
            self.state.written(Arc::new(placement), self.revision);
        }
    }

    fn deliver(&mut self, n: usize) {
        let n = n.min(self.stream.len());
        let events = self.stream.drain(..n).collect();
        assert_eq!(self.state.apply(events), []);
    }

    fn load(&mut self) {
        let before = self.state.before();
        let values = self.data.iter().map(|(key, (value, revision))| KeyValue {
            key: key.clone(),
            value: value.clone(),
            mod_revision: *revision,
        });
        let load = Load { values: values.collect(), revision: self.revision, before, received: self.now };
        assert_eq!(self.state.load(load), Some(vec![]));
        self.stream.clear();
    }

    /// A linearizable read of the revisions, sent and answered at once.
    fn read(&self) -> Check {
        let keys = self.data.iter().map(|(key, (_, mod_revision))| KeyRevision {
            key: key.clone(),
            mod_revision: *mod_revision,
            lease: if *key == self.node(0) { LEASE } else { 0 },
        });
        let before = self.state.before();
        Check { keys: keys.collect(), revision: self.revision, before, sent: self.now, received: self.now }
    }

    fn check(&mut self) -> Finding {
        let check = self.read();
        assert_eq!(self.state.holds_own_key(&check), self.data.contains_key(&self.node(0)));
        self.state.check(&check)
    }

    fn wipe(&mut self) {
        self.data.clear();
        self.stream.clear();
        self.revision = 1;
        self.answer = None;
    }

    /// What a process sees that starts now.
    fn fresh(&self) -> ClusterView {
        let mut world = World { state: State::new(self.keys.clone(), Duration::from_secs(5)), ..World::empty(self) };
        world.load();
        world.state.view().clone()
    }

    fn empty(of: &Self) -> Self {
        Self {
            keys: of.keys.clone(),
            data: of.data.clone(),
            revision: of.revision,
            stream: VecDeque::new(),
            now: of.now,
            state: State::new(of.keys.clone(), Duration::from_secs(5)),
            uid: of.uid,
            version: of.version,
            answer: None,
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8),
    Delete(u8),
    Write {
        mine: bool,
    },
    Offer,
    Deliver(usize),
    Check,
    /// A read whose answer takes its time.
    Read,
    Answer,
    Load,
    Time(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..3u8).prop_map(Op::Put),
        2 => (0..3u8).prop_map(Op::Delete),
        2 => any::<bool>().prop_map(|mine| Op::Write { mine }),
        1 => Just(Op::Offer),
        4 => (1..4usize).prop_map(Op::Deliver),
        3 => Just(Op::Check),
        1 => Just(Op::Read),
        1 => Just(Op::Answer),
        1 => Just(Op::Load),
        2 => (1..3000u64).prop_map(Op::Time),
    ]
}

fn run(world: &mut World, op: &Op) {
    match op {
        Op::Put(n) => world.put(*n),
        Op::Delete(n) => world.delete(*n),
        Op::Write { mine } => world.write_placement(*mine),
        Op::Offer => {
            if world.version > 0 {
                world.state.offer(placement(world.uid, world.version));
            }
        }
        Op::Deliver(n) => world.deliver(*n),
        Op::Load => world.load(),
        Op::Time(ms) => {
            world.now = world.now + Duration::from_millis(*ms);
            world.state.tick(world.now);
        }
        Op::Read => world.answer = Some((world.read(), world.version)),
        Op::Answer => {
            let Some((check, version)) = world.answer.take() else { return };
            let check = Check { received: world.now, ..check };
            let contact = world.state.view().contact;
            assert_ne!(world.state.check(&check), Finding::Contradiction, "etcd lost nothing");
            let view = world.state.view();
            if view.contact != contact && view.contact == Some(check.sent) {
                let reached = view.placement.as_ref().map_or(0, |p| p.version.0);
                assert!(reached >= version, "contact shows at least the placement that the read saw");
            }
        }
        Op::Check => {
            let before = world.state.view().clone();
            let finding = world.check();
            let own_writes_only = world.stream.iter().all(|e| match e {
                Event::Put(v) => world.state.known.get(&v.key) == Some(&v.mod_revision),
                Event::Delete { .. } => false,
            });
            assert_ne!(finding, Finding::Contradiction, "etcd lost nothing");
            if own_writes_only {
                assert_eq!(finding, Finding::InSync);
            }
            let view = world.state.view();
            if view.contact != before.contact {
                assert_eq!(view.contact, Some(world.now), "this read, or one that has waited");
            }
            if view.contact == Some(world.now) && before.contact != view.contact {
                let reached = view.placement.as_ref().map_or(0, |p| p.version.0);
                assert_eq!(reached, world.version, "contact shows the placement that the read saw");
            }
            // Equal revisions mean equal keys, so what is in sync shows what is there.
            if finding == Finding::InSync {
                assert_eq!(view.nodes, world.fresh().nodes);
                assert!(view.unbroken_since.is_some());
            }
        }
    }
    let view = world.state.view();
    assert!(!view.etcd_regressed, "etcd lost nothing");
    assert!(view.contact <= Some(world.now));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn however_the_news_come_the_view_ends_up_as_a_fresh_one(ops in proptest::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &ops {
            run(&mut world, op);
        }
        world.deliver(usize::MAX);
        prop_assert_eq!(world.check(), Finding::InSync);
        let (seen, fresh) = (world.state.view(), world.fresh());
        prop_assert_eq!(&seen.nodes, &fresh.nodes);
        prop_assert_eq!(&seen.node_revisions, &fresh.node_revisions);
        prop_assert_eq!(&seen.placement, &fresh.placement);
        prop_assert_eq!(seen.placement_revision, fresh.placement_revision);
        if world.data.contains_key(&world.node(0)) {
            prop_assert_eq!(seen.contact, Some(world.now));
        }
    }

    #[test]
    fn lost_data_is_noticed_however_far_etcd_has_come_since(
        ops in proptest::collection::vec(op(), 1..30),
        since in proptest::collection::vec(0..3u8, 0..60),
    ) {
        let mut world = World::new();
        world.write_placement(true);
        for op in &ops {
            run(&mut world, op);
        }
        // The watch broke with it; it starts again at a revision that may not exist any more.
        let known = world.state.view().placement.clone();
        let contact = world.state.view().contact;
        world.wipe();
        for n in since {
            world.put(n);
        }
        let resumed = world.state.next_revision();
        world.stream.retain(|e| matches!(e, Event::Put(v) if v.mod_revision >= resumed));
        world.deliver(usize::MAX);
        world.now = world.now + Duration::from_secs(1);
        prop_assert_ne!(world.check(), Finding::InSync);
        world.load();
        prop_assert!(world.state.view().etcd_regressed);
        prop_assert_eq!(&world.state.view().placement, &known);
        world.check();
        prop_assert_eq!(world.state.view().contact, contact, "no contact with an etcd that lost data");
        // A successor ends it.
        world.uid += 1;
        world.version = 0;
        world.put(0);
        world.write_placement(false);
        world.deliver(usize::MAX);
        world.check();
        prop_assert!(!world.state.view().etcd_regressed);
        prop_assert_eq!(world.state.view().contact, Some(world.now));
    }
}

#[test]
fn a_view_without_checks_counts_as_broken_until_the_next() {
    let mut world = World::new();
    let start = world.now;
    assert_eq!(world.state.view().unbroken_since, Some(start));
    world.now = start + Duration::from_millis(5001);
    assert!(world.state.tick(world.now));
    assert!(!world.state.tick(world.now), "told once");
    assert_eq!(world.state.view().unbroken_since, None);
    world.put(1);
    assert_eq!(world.check(), Finding::Behind);
    assert_eq!(world.state.view().unbroken_since, None);
    world.deliver(1);
    assert_eq!(world.check(), Finding::InSync);
    assert_eq!(world.state.view().unbroken_since, Some(world.now));
    // A whole process may stand still, and check before it looks at the clock.
    world.now = world.now + Duration::from_millis(5001);
    assert_eq!(world.check(), Finding::InSync);
    assert_eq!(world.state.view().unbroken_since, Some(world.now));
}

#[test]
fn etcd_that_answers_outlasts_a_view_that_breaks() {
    let mut world = World::new();
    let start = world.now;
    world.put(1);
    for _ in 0..3 {
        world.now = world.now + Duration::from_millis(2000);
        assert_eq!(world.check(), Finding::Behind);
        world.state.tick(world.now);
    }
    assert_eq!((world.state.view().unbroken_since, world.state.view().answers_since), (None, Some(start)));
    // Without an answer it does not, whether or not somebody looks at the clock in between.
    for looks in [true, false] {
        world.now = world.now + Duration::from_millis(5001);
        if looks {
            assert!(world.state.tick(world.now));
            assert_eq!(world.state.view().answers_since, None);
        }
        world.check();
        assert_eq!(world.state.view().answers_since, Some(world.now));
    }
}

#[test]
fn the_same_version_with_other_contents_is_another_history() {
    let mut world = World::new();
    world.write_placement(true);
    let mut other = placement(1, 1);
    other.slots[0].term = roomring_proto::Term(9);
    world.put_value(world.keys.placement(), other.encode().to_vec());
    world.deliver(usize::MAX);
    assert!(world.state.view().etcd_regressed);
}

#[test]
fn an_older_version_than_etcd_had_is_lost_data_and_one_older_than_a_peer_sent_is_not() {
    let mut world = World::new();
    world.write_placement(false);
    world.deliver(usize::MAX);
    assert!(world.state.offer(placement(1, 3)));
    world.write_placement(false);
    world.deliver(usize::MAX);
    let view = world.state.view();
    assert_eq!((view.etcd_regressed, view.placement.as_ref().map(|p| p.version)), (false, Some(Version(3))));
    world.version = 0;
    world.write_placement(false);
    world.deliver(usize::MAX);
    assert!(world.state.view().etcd_regressed);
}

#[test]
fn a_load_that_a_write_of_our_own_overtook_is_repeated() {
    let mut world = World::new();
    let before = world.state.before();
    world.write_placement(true);
    let load = Load { values: Vec::new(), revision: 2, before, received: world.now };
    assert!(world.state.load(load).is_none());
    assert_eq!(world.state.view().placement.as_ref().map(|p| p.version), Some(Version(1)));
}
