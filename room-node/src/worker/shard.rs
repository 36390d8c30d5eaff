//! The slots of one worker, without its task: who gets which input, and what is said for slots not held here.
//!
//! Pure. [`super::Worker`] brings events with the time and sends what comes out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use roomring_control::clock::Time;
use roomring_control::placement::{Placement, SlotRecord};
use roomring_proto::v1::node_message::Kind as NodeKind;
use roomring_proto::{Epoch, Incarnation, PlacementRef, RoomId, Seat, Seq, SlotId, Term, Uid, Version, v1};

use crate::slot::{self, Env, Input, LinkId, Output, Rules, Slot};

/// Which slots are a worker's: those whose number leaves `index` when divided by `of`.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Below `of`.
    pub index: usize,
    /// Workers.
    pub of: usize,
}

impl Part {
    /// Whether a slot is in this part.
    pub fn has(self, slot: SlotId) -> bool {
        slot.0 as usize % self.of == self.index
    }
}

/// The moment of an event.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// On a clock that counts suspended time.
    pub now: Time,
    /// Unix time, ms.
    pub wall_ms: u64,
}

/// What happens to a worker's slots.
#[derive(Debug)]
pub enum Event {
    /// The placement and the contact that goes with it: they change together, or contact could vouch for a placement not
    /// yet seen.
    Adopt {
        /// The placement.
        placement: Arc<Placement>,
        /// The last contact with etcd.
        contact: Option<Time>,
    },
    /// The stream that this process opened to that one is up.
    PeerUp(Incarnation),
    /// It ended.
    PeerDown(Incarnation),
    /// A message from another replica.
    Peer(v1::Replication),
    /// A router's link is up.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The router process.
        router: Incarnation,
    },
    /// The router of a link that is up wants to be told who comes and goes.
    Listens(LinkId),
    /// It ended.
    LinkDown(LinkId),
    /// A router's message.
    Router {
        /// On this link.
        link: LinkId,
        /// About this slot.
        slot: SlotId,
        /// The message.
        message: v1::router_message::Kind,
    },
}

/// The slots of one worker.
#[derive(Debug)]
pub struct Shard {
    part: Part,
    me: Incarnation,
    rules: Rules,
    placement: Option<Arc<Placement>>,
    contact: Option<Time>,
    // Boxed, as they are large: a tree keeps room for up to twice as many as are in it.
    slots: BTreeMap<SlotId, Box<Held>>,
    /// Slots that have taken something since they were settled.
    unsettled: Vec<SlotId>,
    /// When each slot wants its next tick.
    deadlines: BTreeSet<(Time, SlotId)>,
    /// Seats whose slot's code panicked. Its state is lost, and a seat that lost its state must never act again.
    quarantined: BTreeMap<SlotId, Seat>,
    links: BTreeMap<LinkId, Incarnation>,
    /// Those of them that are told who comes and goes.
    listeners: BTreeSet<LinkId>,
    peers: BTreeSet<Incarnation>,
    /// What routers said on a placement that this process has yet to see, by slot: from an attach on. Refused, it would come
    /// again only after a wait, for each slot of a node that has just died.
    early: BTreeMap<SlotId, VecDeque<(LinkId, v1::router_message::Kind)>>,
}

/// Most early messages of a slot; more attaches than there are routers need none.
const EARLY: usize = 256;

#[derive(Debug)]
struct Held {
    slot: Slot,
    seat: Seat,
    deadline: Option<Time>,
    /// It is among the unsettled.
    unsettled: bool,
}

impl Shard {
    /// The same with other rules, for checks.
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// No slots yet.
    pub fn new(part: Part, me: Incarnation) -> Self {
        Self {
            part,
            me,
            rules: Rules::default(),
            placement: None,
            contact: None,
            slots: BTreeMap::new(),
            unsettled: Vec::new(),
            deadlines: BTreeSet::new(),
            quarantined: BTreeMap::new(),
            links: BTreeMap::new(),
            listeners: BTreeSet::new(),
            peers: BTreeSet::new(),
            early: BTreeMap::new(),
        }
    }

    /// Takes one event and does what became possible.
    pub fn handle(&mut self, at: Moment, event: Event, out: &mut Vec<Output>) {
        self.take(at, event, out);
        self.settle(at, out);
    }

    /// Takes one event. After the last of a turn [`Self::tick`] is to follow.
    pub fn take(&mut self, at: Moment, event: Event, out: &mut Vec<Output>) {
        match event {
            Event::Adopt { placement, contact } => self.adopt(at, placement, contact, out),
            Event::PeerUp(peer) => {
                self.peers.insert(peer);
                self.feed_all(at, || Input::PeerUp(peer), out);
            }
            Event::PeerDown(peer) => {
                self.peers.remove(&peer);
                self.feed_all(at, || Input::PeerDown(peer), out);
            }
            Event::LinkUp { link, router } => {
                self.links.insert(link, router);
                self.feed_all(at, || Input::LinkUp { link, router }, out);
            }
            Event::Listens(link) => {
                self.listeners.insert(link);
                self.feed_all(at, || Input::Listens(link), out);
            }
            Event::LinkDown(link) => {
                self.links.remove(&link);
                self.listeners.remove(&link);
                for early in self.early.values_mut() {
                    early.retain(|(l, _)| *l != link);
                }
                self.feed_all(at, || Input::LinkDown(link), out);
            }
            Event::Peer(message) => {
                let slot = SlotId(message.slot);
                if self.slots.contains_key(&slot) {
                    self.feed(at, slot, Input::Peer(message), out);
                } else {
                    out.extend(self.refuse(&message));
                }
            }
            Event::Router { link, slot, message } => self.on_router(at, link, slot, message, out),
        }
    }

    /// Lets every slot that has taken something do what became possible.
    fn settle(&mut self, at: Moment, out: &mut Vec<Output>) {
        let mut unsettled = std::mem::take(&mut self.unsettled);
        for id in unsettled.drain(..) {
            self.run(at, id, out, |slot, env, out| slot.settle(env, out));
            let Some(held) = self.slots.get_mut(&id) else { continue };
            held.unsettled = false;
            let next = held.slot.next_deadline();
            if next != held.deadline {
                if let Some(old) = std::mem::replace(&mut held.deadline, next) {
                    self.deadlines.remove(&(old, id));
                }
                self.deadlines.extend(next.map(|t| (t, id)));
            }
        }
        self.unsettled = unsettled;
    }

    fn on_router(
        &mut self,
        at: Moment,
        link: LinkId,
        slot: SlotId,
        message: v1::router_message::Kind,
        out: &mut Vec<Output>,
    ) {
        let early = self.early.get(&slot);
        let waits = early.is_some_and(|early| early.iter().any(|(l, _)| *l == link));
        let room = early.map_or(0, VecDeque::len) < EARLY;
        if (waits || self.is_early(&message)) && room && self.links.contains_key(&link) {
            if !waits && self.early.values().flatten().all(|(l, _)| *l != link) {
                // The router then sends the placement, if it does not come from etcd first.
                out.push(self.beat(link));
            }
            self.early.entry(slot).or_default().push_back((link, message));
        } else if self.slots.contains_key(&slot) {
            self.feed(at, slot, Input::Router { link, message }, out);
        } else {
            self.turn_away(link, slot, &message, out);
        }
    }

    /// Whether it asks for something that the router knows from a later placement than ours.
    fn is_early(&self, message: &v1::router_message::Kind) -> bool {
        let v1::router_message::Kind::Attach(attach) = message else { return false };
        let (Some(ours), Some(theirs)) = (&self.placement, attach.placement.map(PlacementRef::from)) else {
            return false;
        };
        ours.uid == theirs.uid && ours.version < theirs.version && ours.slot(SlotId(attach.slot)).is_some()
    }

    /// Says which placement is known here.
    fn beat(&self, link: LinkId) -> Output {
        let beat = v1::NodeHeartbeat { placement: self.reference().map(Into::into), ..Default::default() };
        Output::Router { link, message: v1::NodeMessage { kind: Some(NodeKind::Heartbeat(beat)) } }
    }

    /// Ticks the slots that are due, and settles all that have taken something.
    pub fn tick(&mut self, at: Moment, out: &mut Vec<Output>) {
        let due: Vec<SlotId> = self.deadlines.iter().take_while(|(t, _)| *t <= at.now).map(|(_, s)| *s).collect();
        for slot in due {
            self.feed(at, slot, Input::Tick, out);
        }
        self.settle(at, out);
    }

    /// When [`Shard::tick`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(t, _)| *t)
    }

    /// A slot in which this process holds a seat, for tests.
    pub fn slot(&self, slot: SlotId) -> Option<&Slot> {
        self.slots.get(&slot).map(|held| &held.slot)
    }

    /// Every slot here. A quarantined one shows as fenced, at term 0.
    pub fn status(&self) -> Vec<v1::SlotStatus> {
        let fenced = |slot: &SlotId| v1::SlotStatus {
            slot: slot.0,
            role: v1::slot_status::Role::Fenced.into(),
            ..Default::default()
        };
        self.slots.values().map(|h| h.slot.status()).chain(self.quarantined.keys().map(fenced)).collect()
    }

    /// Every room of the slots that are served here.
    pub fn rooms(&self) -> Vec<v1::RoomStatus> {
        let served = self.slots.iter().filter(|(_, h)| h.slot.led().is_some_and(slot::inspect::Led::is_promoted));
        let held = served.filter_map(|(slot, h)| Some((slot, h.slot.held()?)));
        let status = |slot: &SlotId, name: &RoomId, members: usize, (epoch, seq): (Epoch, Seq)| v1::RoomStatus {
            room: name.as_str().to_owned(),
            slot: slot.0,
            members: members as u64,
            seq: seq.0,
            created: epoch.created.0,
        };
        held.flat_map(|(slot, held)| held.rooms().tops().map(move |(name, n, top)| status(slot, name, n, top)))
            .collect()
    }

    fn adopt(&mut self, at: Moment, placement: Arc<Placement>, contact: Option<Time>, out: &mut Vec<Output>) {
        // Another history is another life of this process, with another shard.
        let same = |known: &Arc<Placement>| known.uid == placement.uid && known.version <= placement.version;
        if !self.placement.as_ref().is_none_or(same) {
            return;
        }
        let before = self.placement.replace(Arc::clone(&placement));
        let news = before.as_ref().is_none_or(|known| known.version < placement.version);
        let lapsed = self.contact.is_none_or(|before| at.now.since(before) >= placement.settings.fence_after);
        self.contact = contact;
        let known = |slot| before.as_ref().and_then(|known| known.slot(slot));
        let mine = (0..).map(SlotId).zip(&placement.slots).filter(|(slot, _)| news && self.part.has(*slot));
        for (slot, record) in mine.collect::<Vec<_>>() {
            if known(slot) == Some(record) {
                self.pass_by(at, slot, placement.version, out);
            } else {
                self.adopt_slot(at, slot, &placement, record, out);
            }
        }
        if lapsed {
            // A primary that had lost contact may serve again. Not before it has seen the placement that contact vouches for.
            self.feed_all(at, || Input::Tick, out);
        }
        if !news {
            return;
        }
        // A primary that this placement made serves as soon as it can: what was early does not come too early again.
        self.settle(at, out);
        for (slot, early) in std::mem::take(&mut self.early) {
            for (link, message) in early {
                self.on_router(at, link, slot, message, out);
            }
        }
    }

    /// A placement says nothing new of a slot. As a rule that makes nothing possible, so there is nothing to settle: this comes for
    /// nearly every slot with each write.
    fn pass_by(&mut self, at: Moment, id: SlotId, version: Version, out: &mut Vec<Output>) {
        let input = Input::Unchanged { version };
        match self.slots.get(&id) {
            Some(held) if held.slot.awaits_version() => self.feed(at, id, input, out),
            Some(_) => self.run(at, id, out, |slot, env, out| slot.take(env, input, out)),
            None => {}
        }
    }

    fn adopt_slot(
        &mut self,
        at: Moment,
        id: SlotId,
        placement: &Placement,
        record: &SlotRecord,
        out: &mut Vec<Output>,
    ) {
        let seat = record.seat_of(self.me);
        if self.quarantined.get(&id).is_some_and(|lost| seat != Some(*lost)) {
            self.quarantined.remove(&id);
        }
        let held = self.slots.contains_key(&id);
        if let Some(held) = self.slots.get_mut(&id) {
            held.seat = seat.unwrap_or(held.seat);
        } else if let Some(seat) = seat
            && !self.quarantined.contains_key(&id)
        {
            let settings = &placement.settings;
            let slot = Slot::new(slot::Config {
                uid: placement.uid,
                slot: id,
                slots: settings.slots,
                me: self.me,
                limits: settings.rooms.clone(),
                retention: settings.retention,
                presence_grace: settings.presence_grace,
                rules: self.rules,
            });
            self.slots.insert(id, Box::new(Held { slot, seat, deadline: None, unsettled: false }));
        } else {
            return;
        }
        self.feed(at, id, Input::Placement { version: placement.version, record: record.clone() }, out);
        if !held {
            for peer in self.peers.clone() {
                self.feed(at, id, Input::PeerUp(peer), out);
            }
            for (link, router) in self.links.clone() {
                self.feed(at, id, Input::LinkUp { link, router }, out);
            }
            for link in self.listeners.clone() {
                self.feed(at, id, Input::Listens(link), out);
            }
        }
        if self.slots.get(&id).is_some_and(|h| h.slot.is_empty()) {
            self.remove(id);
        }
    }

    fn feed_all(&mut self, at: Moment, input: impl Fn() -> Input, out: &mut Vec<Output>) {
        for slot in self.slots.keys().copied().collect::<Vec<_>>() {
            self.feed(at, slot, input(), out);
        }
    }

    fn feed(&mut self, at: Moment, id: SlotId, input: Input, out: &mut Vec<Output>) {
        if let Some(held) = self.slots.get_mut(&id)
            && !std::mem::replace(&mut held.unsettled, true)
        {
            self.unsettled.push(id);
        }
        self.run(at, id, out, |slot, env, out| slot.take(env, input, out));
    }

    /// Lets a slot act.
    fn run(
        &mut self,
        at: Moment,
        id: SlotId,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut Slot, &Env, &mut Vec<Output>),
    ) {
        let (Some(held), Some(placement)) = (self.slots.get_mut(&id), &self.placement) else { return };
        let env = Env {
            now: at.now,
            wall_ms: at.wall_ms,
            contact: self.contact,
            fence_after: placement.settings.fence_after,
            min_in_sync: placement.settings.min_in_sync,
        };
        let before = out.len();
        if let Err(panic) = guarded(|| act(&mut held.slot, &env, out)) {
            // What it said in its last moment is not to be trusted.
            out.truncate(before);
            self.quarantine(id, &panic, out);
        }
    }

    /// Drops a slot whose code panicked, and tells the routers: what it owed them won't come.
    fn quarantine(&mut self, id: SlotId, panic: &str, out: &mut Vec<Output>) {
        tracing::error!(slot = %id, panic, "slot quarantined: this process serves it no more; restart the node");
        let Some(seat) = self.slots.get(&id).map(|h| h.seat) else { return };
        self.remove(id);
        self.quarantined.insert(id, seat);
        out.extend(self.links.keys().map(|link| self.not_primary(*link, id)));
    }

    fn remove(&mut self, id: SlotId) {
        if let Some(deadline) = self.slots.remove(&id).and_then(|h| h.deadline) {
            self.deadlines.remove(&(deadline, id));
        }
    }

    fn reference(&self) -> Option<PlacementRef> {
        self.placement.as_ref().map(|p| p.reference())
    }

    /// The highest term known of `slot`.
    fn term(&self, slot: SlotId) -> Term {
        self.placement.as_ref().and_then(|p| p.slot(slot)).map_or(Term(0), |r| r.term)
    }

    fn not_primary(&self, link: LinkId, slot: SlotId) -> Output {
        let placement = self.reference().map(Into::into);
        let refusal = v1::NotPrimary { slot: slot.0, term: self.term(slot).0, placement };
        Output::Router { link, message: v1::NodeMessage { kind: Some(NodeKind::NotPrimary(refusal)) } }
    }

    /// Refuses a router's message about a slot that is not held here.
    fn turn_away(&self, link: LinkId, slot: SlotId, message: &v1::router_message::Kind, out: &mut Vec<Output>) {
        let none = PlacementRef { uid: Uid(0), version: Version(0) };
        let mut refusals = Vec::new();
        slot::refuse(link, slot, self.term(slot), self.reference().unwrap_or(none), message, &mut refusals);
        for mut refusal in refusals {
            if let Output::Router { message: v1::NodeMessage { kind: Some(NodeKind::NotPrimary(told)) }, .. } =
                &mut refusal
                && self.placement.is_none()
            {
                told.placement = None;
            }
            // A batch may hold many messages for one slot: one answer covers them.
            if out.last() != Some(&refusal) {
                out.push(refusal);
            }
        }
    }

    /// The answer to a primary that thinks we hold a seat; none to what is an answer itself.
    fn refuse(&self, message: &v1::Replication) -> Option<Output> {
        use v1::refused::Reason;
        use v1::replication::Kind;
        let (from, to) = (message.from?, message.to?);
        match message.kind.as_ref()? {
            Kind::Probe(_) | Kind::Append(_) | Kind::Snapshot(_) => {}
            Kind::ProbeReply(_) | Kind::AppendAck(_) | Kind::SnapshotAck(_) | Kind::Refused(_) => return None,
        }
        let version = self.placement.as_ref().map_or(0, |p| p.version.0);
        let reason = if to.since > version { Reason::NotYet } else { Reason::NoSeat };
        let answer = v1::Replication {
            slot: message.slot,
            generation: message.generation,
            term: message.term,
            from: Some(to),
            to: Some(from),
            placement: self.reference().map(Into::into),
            kind: Some(Kind::Refused(v1::Refused { reason: reason.into(), term: 0 })),
        };
        Some(Output::Peer { to: Incarnation(from.incarnation), message: answer })
    }
}

/// Runs `f`; a panic comes back as its text. Whatever `f` was changing must not be used again then.
fn guarded(f: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
    })
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
