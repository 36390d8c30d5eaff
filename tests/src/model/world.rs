//! One state of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::placement::Retention;
use roomring_node::room::RoomLimits;
use roomring_node::slot::{Config, Slot};
use roomring_proto::{Incarnation, Version, v1};

use super::action::{Action, Ready};
use super::ghost::Ghost;
use super::register::{Register, SLOT, UID};
use super::router::{Off, Router};
use super::shared::Shared;
use super::streams::Streams;
use super::{Mutant, SlotModel};

/// A process that lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub(super) slot: Shared<Slot>,
    /// What was the newest placement when the read was sent that its contact is counted from; `None` once that is older than
    /// `fence_after`.
    pub(super) contact: Option<Version>,
}

impl Process {
    /// Its slot.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Whether it may serve as far as its contact goes.
    pub fn has_contact(&self) -> bool {
        self.contact.is_some()
    }

    pub(super) fn view(&self) -> Version {
        self.slot.view().map_or(Version(0), |(version, _)| version)
    }
}

/// What a slot says to a router, for the invariants to judge.
pub struct Said<'a> {
    /// Who.
    pub process: Incarnation,
    /// Its slot, right after.
    pub slot: &'a Slot,
    /// What.
    pub message: &'a v1::node_message::Kind,
    /// On the link that the router listens to.
    pub is_current: bool,
}

/// How much of the [`super::Bounds`] is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Used {
    pub(super) writes: u8,
    pub(super) publishes: u8,
    pub(super) crashes: u8,
    pub(super) restarts: u8,
    pub(super) wrong_evictions: u8,
    pub(super) breaks: u8,
    pub(super) expiries: u8,
    pub(super) attaches: u8,
    pub(super) waits: u8,
    pub(super) lost_words: u8,
}

/// One state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) processes: BTreeMap<Incarnation, Process>,
    /// Processes that died and have no successor.
    pub(super) dead: BTreeSet<Incarnation>,
    pub(super) register: Register,
    pub(super) streams: Streams,
    pub(super) ready: BTreeSet<Ready>,
    pub(super) router: Router,
    pub(super) ghost: Ghost,
    pub(super) used: Used,
    /// The first rule that was seen broken by something said or done.
    pub(super) broken: Option<&'static str>,
}

impl World {
    pub(super) fn first(model: &SlotModel) -> Self {
        let bounds = &model.bounds;
        let mut world = Self {
            processes: BTreeMap::new(),
            dead: BTreeSet::new(),
            register: Register::new(bounds.nodes, bounds.in_sync),
            streams: Streams::default(),
            ready: BTreeSet::new(),
            router: Router::new(model.router_rules()),
            ghost: Ghost::default(),
            used: Used::default(),
            broken: None,
        };
        for node in 1..=bounds.nodes {
            world.start(model, Incarnation(node));
        }
        world.router.subscribe(Off::default());
        world.perform(model, Action::Attach(Version(1)));
        world.settle_streams(model);
        assert!(world.router.attached().is_some(), "the first attach is answered");
        world.used = Used::default();
        world.clean(model);
        world
    }

    /// The same with nothing of the bounds used up.
    pub(super) fn unbounded(self) -> Self {
        Self { used: Used::default(), ..self }
    }

    pub(super) fn retention(bytes: usize) -> Retention {
        Retention { bytes, age: Duration::from_secs(3600) }
    }

    /// A process begins: it has registered and read the placement.
    pub(super) fn start(&mut self, model: &SlotModel, process: Incarnation) {
        let config = Config {
            uid: UID,
            slot: SLOT,
            slots: 1,
            me: process,
            limits: RoomLimits::default(),
            // It is trimmed after each input, when what was committed has been noted.
            retention: Self::retention(usize::MAX),
            presence_grace: Duration::from_secs(10),
            rules: model.rules(),
        };
        let others: Vec<Incarnation> = self.processes.keys().copied().collect();
        self.processes.insert(process, Process { slot: Shared::new(Slot::new(config)), contact: None });
        self.show(model, process, self.register.latest().version);
        for other in others {
            self.connect(model, process, other);
            self.connect(model, other, process);
        }
    }

    /// Everything under way arrives, and what waits for time comes due once.
    pub(super) fn settle_streams(&mut self, model: &SlotModel) {
        let mut ticks = 0;
        loop {
            let next = self.streams.busy().next();
            let late = self.streams.lingering().next();
            if let Some((opener, other)) = late {
                self.perform(model, Action::Late(opener, other));
            } else if let Some((opener, other, back)) = next {
                self.perform(model, Action::Deliver { opener, other, back });
            } else if !self.router.seen.inbox.is_empty() {
                self.perform(model, Action::Hear);
            } else if let Some(link) = self.router.seen.late.keys().next().copied() {
                self.perform(model, Action::Overhear(link));
            } else if ticks < 3 {
                ticks += 1;
                for process in self.processes.keys().copied().collect::<Vec<_>>() {
                    self.perform(model, Action::Tick(process));
                }
            } else {
                return;
            }
        }
    }

    /// The processes that live.
    pub fn processes(&self) -> &BTreeMap<Incarnation, Process> {
        &self.processes
    }

    /// The placement in etcd.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// What was committed.
    pub fn ghost(&self) -> &Ghost {
        &self.ghost
    }

    /// Proposals that may still reach etcd.
    pub fn ready(&self) -> &BTreeSet<Ready> {
        &self.ready
    }

    /// The rule that something said or done broke.
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    /// Every process that holds a seat of the newest generation in the newest placement's in-sync set, and lives.
    pub fn in_sync(&self) -> impl Iterator<Item = (roomring_proto::Seat, &Process)> {
        let seats = self.register.record().in_sync.iter();
        seats.filter_map(|seat| Some((*seat, self.processes.get(&seat.incarnation)?)))
    }

    /// Whether the slot may be recreated: the design's rule, with time taken out.
    ///
    /// The proposer has seen term and in-sync set unchanged for longer than `fence_after`, and as long no key of an in-sync
    /// process (or a successor proves it dead). So contact that is still fresh now was read after the last change: from a
    /// read that showed the placement of that change or a later one. No in-sync process can have read its own key since.
    pub fn may_recreate(&self, model: &SlotModel) -> bool {
        let record = self.register.record();
        let since = self.register.unchanged_since;
        self.processes.iter().all(|(incarnation, process)| {
            let Some(contact) = process.contact else { return true };
            let in_sync = record.in_sync.iter().any(|s| s.incarnation == *incarnation);
            let silent = !in_sync || model.has(Mutant::RecreateOnSuspicion);
            silent && (contact >= since || model.has(Mutant::RecreateUnsettled))
        })
    }

    /// The moment at which everything happens but what waited for time.
    pub(super) fn now() -> Time {
        Time(Duration::from_secs(1_000_000))
    }

    /// When everything comes due that waits for time.
    pub(super) fn due() -> Time {
        Self::now() + Duration::from_secs(1_000)
    }
}
