//! A router process: the hub's slots, and its worker retold.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::placement::Placement;
use roomring_proto::{Incarnation, SlotId, v1};
use roomring_router::hub::api::Command;
use roomring_router::hub::core::{HELD_UP, Link, Output, Route, Slot};

use super::ears::Ears;
use super::etcd::Snapshot;
use super::net::Message;
use super::node::{BEAT, Do, SILENCE};
use super::{Mutant, bugs};

const PUBLISH_DEADLINE: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(super) struct Router {
    pub(super) life: u64,
    pub(super) up: bool,
    pub(super) me: Incarnation,
    pub(super) paused_until: Time,
    pub(super) watch_at: Time,
    /// After a hang what clients sent is read before what nodes sent.
    pub(super) clients_first: bool,
    /// When its last turn was.
    looked: Time,
    placement: Option<Arc<Placement>>,
    slots: BTreeMap<SlotId, Slot>,
    touched: BTreeSet<SlotId>,
    /// Open links; `None` while one is being opened.
    links: BTreeMap<Incarnation, Option<u64>>,
    dial_at: BTreeMap<Incarnation, Time>,
    heard: BTreeMap<u64, Time>,
    beat_at: Time,
    out: Vec<Output>,
    /// It evicts nobody, but is asked.
    pub(super) ears: Ears,
    mutant: Option<Mutant>,
}

impl Router {
    pub(super) fn new(life: u64, me: Incarnation, now: Time, mutant: Option<Mutant>) -> Self {
        Self {
            life,
            up: true,
            me,
            paused_until: Time::default(),
            watch_at: now,
            clients_first: false,
            looked: now,
            placement: None,
            slots: BTreeMap::new(),
            touched: BTreeSet::new(),
            links: BTreeMap::new(),
            dial_at: BTreeMap::new(),
            heard: BTreeMap::new(),
            beat_at: now,
            out: Vec::new(),
            ears: Ears::new(me, now),
            mutant,
        }
    }

    pub(super) fn knows_placement(&self) -> bool {
        self.placement.is_some()
    }

    pub(super) fn streams(&self) -> Vec<u64> {
        self.links.values().flatten().copied().collect()
    }

    pub(super) fn next_deadline(&self) -> Time {
        let slots = self.slots.values().filter_map(Slot::next_deadline).min();
        let dials = self.dial_at.values().min().copied();
        [slots, dials].into_iter().flatten().chain([self.beat_at, self.ears.look_at]).min().unwrap_or(self.beat_at)
    }

    /// As its worker does: after a hang it believes nothing that it has.
    fn turn(&mut self, now: Time) {
        if now.since(self.looked) > BEAT + HELD_UP {
            for id in self.slots.keys().copied().collect::<Vec<_>>() {
                self.with_slot(id, |slot, out| slot.doubt(now, out));
            }
        }
        self.looked = now;
    }

    pub(super) fn wake(&mut self, now: Time, todo: &mut Vec<Do>) {
        self.turn(now);
        let due: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, s)| s.next_deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.with_slot(id, |slot, out| slot.tick(now, out));
        }
        self.ears.look(now, None);
        if self.beat_at <= now {
            self.beat_at = now + BEAT;
            let beat = Message::Beat(self.placement.clone(), None);
            todo.extend(self.streams().into_iter().map(|conn| Do::Send { conn, message: beat.clone() }));
            let silent = self.heard.iter().filter(|(_, at)| now.since(**at) > SILENCE).map(|(c, _)| *c);
            todo.extend(silent.map(Do::Break));
        }
        if let Some(placement) = &self.placement {
            let nodes: BTreeSet<Incarnation> = placement.members.keys().copied().collect();
            self.dial_at.retain(|i, _| nodes.contains(i));
            for node in nodes {
                let wait = self.dial_at.get(&node).is_some_and(|at| *at > now);
                if !wait && !self.links.contains_key(&node) {
                    self.dial_at.remove(&node);
                    self.links.insert(node, None);
                    todo.push(Do::Dial(node));
                }
            }
        }
        self.flush(now, todo);
    }

    pub(super) fn not_connected(&mut self, node: Incarnation, again: Time) {
        if self.links.get(&node) == Some(&None) {
            self.links.remove(&node);
            self.dial_at.insert(node, again);
        }
    }

    pub(super) fn connected(&mut self, now: Time, node: Incarnation, conn: u64, todo: &mut Vec<Do>) {
        self.turn(now);
        self.links.insert(node, Some(conn));
        self.heard.insert(conn, now);
        self.route_all(now);
        self.flush(now, todo);
    }

    pub(super) fn disconnected(&mut self, now: Time, conn: u64, again: Time, todo: &mut Vec<Do>) {
        self.turn(now);
        self.heard.remove(&conn);
        if let Some(node) = self.links.iter().find(|(_, c)| **c == Some(conn)).map(|(n, _)| *n) {
            self.links.remove(&node);
            self.dial_at.insert(node, again);
            self.route_all(now);
        }
        self.flush(now, todo);
    }

    pub(super) fn message(&mut self, now: Time, conn: u64, message: Message, todo: &mut Vec<Do>) {
        self.turn(now);
        let Some(node) = self.links.iter().find(|(_, c)| **c == Some(conn)).map(|(n, _)| *n) else { return };
        self.heard.insert(conn, now);
        match message {
            Message::FromNode(message) => {
                let link = Link { node, session: conn };
                if let Some(slot) = slot_of(&message) {
                    self.with_slot(slot, |slot, out| slot.node(now, link, message, out));
                }
            }
            Message::Beat(placement, contact_age) => {
                self.ears.heard(now, node, contact_age);
                placement.iter().for_each(|placement| self.follow(now, placement));
            }
            Message::Peer(_) | Message::ToNode(_) => {}
        }
        self.flush(now, todo);
    }

    pub(super) fn watched(&mut self, now: Time, snapshot: &Snapshot, todo: &mut Vec<Do>) {
        self.turn(now);
        if let Some(placement) = &snapshot.placement {
            self.follow(now, placement);
        }
        self.flush(now, todo);
    }

    fn follow(&mut self, now: Time, placement: &Arc<Placement>) {
        if self.placement.as_ref().is_none_or(|known| known.version < placement.version) {
            self.placement = Some(placement.clone());
            self.ears.members(now, placement, std::iter::empty());
            // As the links' keeper: those to processes that are not named any more end by themselves there.
            self.route_all(now);
        }
    }

    pub(super) fn command(&mut self, now: Time, command: Command, slot: SlotId, todo: &mut Vec<Do>) {
        self.turn(now);
        if let Entry::Vacant(vacant) = self.slots.entry(slot) {
            vacant.insert(Slot::new(slot, PUBLISH_DEADLINE, Arc::default()));
            self.route(now, slot);
        }
        self.with_slot(slot, |slot, out| slot.command(now, command, out));
        self.flush(now, todo);
    }

    fn route_all(&mut self, now: Time) {
        for slot in self.slots.keys().copied().collect::<Vec<_>>() {
            self.route(now, slot);
        }
    }

    fn route(&mut self, now: Time, id: SlotId) {
        let Some(placement) = &self.placement else { return };
        let Some(record) = placement.slot(id) else { return };
        let primary = record.primary.incarnation;
        let session = self.links.get(&primary).copied().flatten();
        let route = Route { primary, term: record.term, session };
        let reference = placement.reference();
        self.with_slot(id, |slot, _| slot.follow(now, reference, route));
    }

    fn with_slot(&mut self, id: SlotId, f: impl FnOnce(&mut Slot, &mut Vec<Output>)) {
        if let Some(slot) = self.slots.get_mut(&id) {
            f(slot, &mut self.out);
            self.touched.insert(id);
        }
    }

    fn flush(&mut self, now: Time, todo: &mut Vec<Do>) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.flush(now, &mut self.out);
            }
        }
        if self.mutant == Some(Mutant::ResendsInReverse) {
            bugs::reverse_publishes(&mut self.out);
        }
        for Output { link, mut message } in self.out.drain(..) {
            bugs::spoil_presence(self.mutant, &mut message);
            // To a link that is no more: its end was told, and what was sent is sent again.
            if self.links.get(&link.node) == Some(&Some(link.session)) {
                todo.push(Do::Send { conn: link.session, message: Message::ToNode(message) });
            }
        }
    }
}

fn slot_of(message: &v1::node_message::Kind) -> Option<SlotId> {
    use v1::node_message::Kind;
    match message {
        Kind::Attached(m) => Some(SlotId(m.slot)),
        Kind::Deliver(m) => Some(SlotId(m.slot)),
        Kind::Published(m) => Some(SlotId(m.slot)),
        Kind::NotPrimary(m) => Some(SlotId(m.slot)),
        Kind::History(m) => Some(SlotId(m.slot)),
        Kind::Presence(m) => Some(SlotId(m.slot)),
        Kind::Hello(_) | Kind::Heartbeat(_) | Kind::Placement(_) | Kind::Visit(_) => None,
    }
}
