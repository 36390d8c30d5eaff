//! A cluster as the planner sees it: processes come and go, primaries say which learners are ready, time passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomring_proto::{Incarnation, NodeId, Seat, SlotId, Term, Uid};

use crate::clock::Time;
use crate::detector::{Death, Evidence};
use crate::placement::fixtures::settings;
use crate::placement::{Cause, Change, Eviction, FORMAT, Placement, Recent, RingParams};
use crate::planner::slots::CATCH_UPS;
use crate::planner::{self, History, ReadySeat, Situation};
use crate::view::{ClusterView, Intents, NodeEntry};

pub(super) const TTL: Duration = Duration::from_secs(10);
pub(super) const FENCE: Duration = Duration::from_secs(60);

/// More writes than any change of membership takes: a plan that never comes to rest ends here.
const ROUNDS: usize = 2000;

pub(super) struct Sim {
    pub(super) view: ClusterView,
    pub(super) history: History,
    pub(super) now: Time,
    pub(super) evidence: Evidence,
    /// Who does not get through to whom.
    pub(super) deaf: BTreeSet<(Incarnation, Incarnation)>,
    /// Every change written.
    pub(super) log: Vec<Change>,
    /// Fewest in-sync seats that any slot had in any placement.
    pub(super) fewest: usize,
    next_incarnation: u64,
    gone: BTreeSet<(usize, Seat)>,
    primaries: BTreeMap<(usize, Term), Seat>,
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

impl Sim {
    /// A formed cluster of the named nodes, in whose view nothing has happened for a long time.
    pub(super) fn new(slots: u32, replication: u32, names: &[&str]) -> Self {
        let mut sim = Self {
            view: ClusterView {
                unbroken_since: Some(Time::default()),
                answers_since: Some(Time::default()),
                ..Default::default()
            },
            history: History::default(),
            now: Time(Duration::from_secs(1)),
            evidence: Evidence::default(),
            deaf: BTreeSet::new(),
            log: Vec::new(),
            fewest: usize::MAX,
            next_incarnation: 100,
            gone: BTreeSet::new(),
            primaries: BTreeMap::new(),
        };
        for name in names {
            sim.start(name);
        }
        let formed = planner::form(&sim.view, settings(slots, replication), RingParams::for_slots(slots), Uid(9));
        sim.adopt(formed.unwrap());
        sim.pass(FENCE * 3);
        sim
    }

    /// A process starts in the directory of its name.
    pub(super) fn start(&mut self, name: &str) -> Incarnation {
        self.start_in(name, &format!("home of {name}"))
    }

    pub(super) fn start_in(&mut self, name: &str, home: &str) -> Incarnation {
        self.next_incarnation += 1;
        let incarnation = Incarnation(self.next_incarnation);
        let entry = NodeEntry {
            incarnation,
            home: home.into(),
            grpc_addr: format!("{name}:7400"),
            zone: String::new(),
            weight: 100,
            draining: false,
            release: String::new(),
            max_format: FORMAT,
            watch_addr: String::new(),
        };
        self.edit(|nodes| _ = nodes.insert(id(name), entry));
        incarnation
    }

    /// The key of a process goes: its lease ended.
    pub(super) fn lapse(&mut self, name: &str) {
        self.edit(|nodes| _ = nodes.remove(&id(name)));
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut BTreeMap<NodeId, NodeEntry>)) {
        change(Arc::make_mut(&mut self.view.nodes));
        self.history.observe(&self.view, self.now);
    }

    pub(super) fn intend(&mut self, change: impl FnOnce(&mut Intents)) {
        change(Arc::make_mut(&mut self.view.intents));
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.history.observe(&self.view, self.now);
    }

    pub(super) fn placement(&self) -> &Placement {
        self.view.placement.as_ref().unwrap()
    }

    /// The process of that name, if there is one.
    pub(super) fn of(&self, name: &str) -> Option<Incarnation> {
        self.view.nodes.get(&id(name)).map(|n| n.incarnation)
    }

    pub(super) fn incarnation(&self, name: &str) -> Incarnation {
        self.view.nodes[&id(name)].incarnation
    }

    /// What `me` would write, with every learner ready whose primary is registered.
    pub(super) fn plan(&self, me: Incarnation) -> Vec<Change> {
        self.ask(me, planner::plan)
    }

    pub(super) fn next_deadline(&self, me: Incarnation) -> Option<Time> {
        self.ask(me, planner::next_deadline)
    }

    fn ask<T>(&self, me: Incarnation, question: impl FnOnce(&Situation<'_>) -> T) -> T {
        let (view, history, evidence) = (&self.view, &self.history, &self.evidence);
        let mut evidence = evidence.clone();
        let deaf = |other: &Incarnation| self.are_deaf(me, *other);
        evidence.answering.retain(|other| !deaf(other));
        // Slots of `me` owe something to those that have a seat there.
        let led = self.placement().slots.iter().filter(|r| r.primary.incarnation == me);
        let owed = led.flat_map(|r| r.seats()).map(|s| s.incarnation);
        let unanswered = owed.filter(deaf).collect();
        let (ready, evidence) = (self.ready(), &evidence);
        let (ready, unanswered) = (&ready, &unanswered);
        question(&Situation { view, history, now: self.now, me, ttl: TTL, ready, unanswered, evidence })
    }

    pub(super) fn are_deaf(&self, a: Incarnation, b: Incarnation) -> bool {
        self.deaf.contains(&(a, b)) || self.deaf.contains(&(b, a))
    }

    fn ready(&self) -> BTreeSet<ReadySeat> {
        let registered = |i: Incarnation| self.view.nodes.values().any(|n| n.incarnation == i);
        let slots = (0..).map(SlotId).zip(&self.placement().slots);
        let said = slots.filter(|(_, r)| registered(r.primary.incarnation)).flat_map(|(slot, r)| {
            let base = self.placement().version;
            let reached = r.learners.iter().filter(|s| !self.are_deaf(r.primary.incarnation, s.incarnation));
            reached.map(move |seat| ReadySeat { slot, seat: *seat, term: r.term, base })
        });
        said.collect()
    }

    /// Plans and writes until nobody has anything to do or to wait for.
    /// Every placement is checked.
    pub(super) fn settle(&mut self) -> usize {
        let mut writes = 0;
        for _ in 0..ROUNDS {
            if self.step() {
                writes += 1;
                continue;
            }
            let deadlines = self.view.nodes.values().filter_map(|n| self.next_deadline(n.incarnation));
            match deadlines.min() {
                Some(deadline) => self.pass(deadline.since(self.now)),
                None => return writes,
            }
        }
        panic!("still planning after {ROUNDS} rounds: {:?}", &self.log[self.log.len().saturating_sub(9)..]);
    }

    /// One write, by the first in rank who has anything to write.
    pub(super) fn step(&mut self) -> bool {
        let mut writers: Vec<Incarnation> = self.view.nodes.values().map(|n| n.incarnation).collect();
        writers.sort_by_key(|i| planner::rank(&self.view, &self.evidence.suspects, *i));
        let plans = writers.iter().map(|i| (*i, self.plan(*i)));
        let Some((by, changes)) = plans.into_iter().find(|(_, c)| !c.is_empty()) else { return false };
        self.write(by, changes);
        true
    }

    /// A write of that process.
    pub(super) fn write(&mut self, by: Incarnation, changes: Vec<Change>) {
        let mut next = self.placement().with(&changes).expect("a plan fits");
        next.recent.push(self.record(by, &changes));
        self.log.extend(changes);
        self.adopt(next);
        self.pass(Duration::from_millis(50));
    }

    /// What a coordinator would note.
    fn record(&self, by: Incarnation, changes: &[Change]) -> Recent {
        let evicted = changes
            .iter()
            .filter_map(|c| if let Change::Evict { incarnation } = c { Some(*incarnation) } else { None });
        let eviction = |incarnation| Eviction {
            node: self.placement().members[&incarnation].node.clone(),
            incarnation,
            cause: self.ask(by, |s| planner::cause_of_eviction(s, incarnation)).expect("evicted for a reason"),
            silent_for: None,
        };
        Recent {
            version: self.placement().version.next(),
            time_ms: u64::try_from(self.now.0.as_millis()).unwrap(),
            by: id("sim"),
            text: String::new(),
            evictions: evicted.map(eviction).collect(),
            nodes: Vec::new(),
            slots: Vec::new(),
            slots_changed: 0,
            copying: None,
        }
    }

    /// The heartbeats of a process end.
    pub(super) fn silence(&mut self, who: Incarnation) {
        self.evidence.answering.remove(&who);
        self.evidence.suspects.insert(who);
        self.evidence.dead.insert(who, Death { cause: Cause::Silent, heard: Some(self.now) });
    }

    /// They are heard again.
    pub(super) fn speak(&mut self, who: Incarnation) {
        self.evidence.answering.insert(who);
        self.evidence.suspects.remove(&who);
        self.evidence.dead.remove(&who);
    }

    fn adopt(&mut self, next: Placement) {
        next.check().unwrap();
        for (slot, record) in next.slots.iter().enumerate() {
            for seat in record.seats() {
                assert!(!self.gone.contains(&(slot, seat)), "SeatNeverReused: {seat:?} in slot {slot}");
            }
            let primary = self.primaries.entry((slot, record.term)).or_insert(record.primary);
            assert_eq!(*primary, record.primary, "one primary per term");
            if let Some(old) = self.view.placement.as_ref().map(|p| &p.slots[slot]) {
                assert!(record.term >= old.term && record.generation >= old.generation);
                self.gone.extend(old.seats().filter(|s| !record.seats().any(|n| n == *s)).map(|s| (slot, s)));
            }
        }
        let in_sync = next.slots.iter().map(|r| r.in_sync.len());
        self.fewest = in_sync.chain([self.fewest]).min().unwrap_or(0);
        for name in self.view.nodes.keys() {
            let running =
                next.slots.iter().filter(|r| r.learners.iter().any(|s| next.members[&s.incarnation].node == *name));
            assert!(running.count() <= CATCH_UPS, "too many catch-ups at once on {name}");
        }
        self.view.placement = Some(Arc::new(next));
        self.view.placement_revision += 1;
        self.history.observe(&self.view, self.now);
    }

    /// Every slot's processes by name, primary first, others in any order.
    pub(super) fn places(&self) -> Vec<Vec<String>> {
        let name = |i: Incarnation| self.placement().members[&i].node.to_string();
        let place = |r: &crate::placement::SlotRecord| {
            assert_eq!(r.learners, [], "at rest nobody catches up");
            let mut others: Vec<String> =
                r.in_sync.iter().filter(|s| **s != r.primary).map(|s| name(s.incarnation)).collect();
            others.sort();
            [vec![name(r.primary.incarnation)], others].concat()
        };
        self.placement().slots.iter().map(place).collect()
    }

    /// Primaries of a node.
    pub(super) fn primaries_of(&self, name: &str) -> usize {
        self.places().iter().filter(|p| p[0] == name).count()
    }

    pub(super) fn count(&self, kind: impl Fn(&Change) -> bool) -> usize {
        self.log.iter().filter(|c| kind(c)).count()
    }
}
