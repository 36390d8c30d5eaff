//! A task that owns a share of the slots: feeds them what happens, and carries what comes out to the links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::placement::Placement;
use roomring_control::view::ClusterView;
use roomring_proto::close::ErrorCode;
use roomring_proto::{Incarnation, RoomId, SlotId, Uid, v1};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use v1::node_message::Kind as FromNode;
use v1::router_message::Kind as ToNode;

use super::api::{Client, Command};
use super::attach::{Link, Route};
use super::debts::Debts;
use super::outbox::Outbox;
use super::slot::{Counts, HELD_UP, Output, Slot};
use crate::metrics::{ACKNOWLEDGED, DELIVERIES};
use crate::namespaces::Namespaces;
use crate::webhook::Webhook;

/// Events that wait for a worker. Senders wait when it is full; a worker handles some 100,000 a second.
pub(super) const MAILBOX: usize = 4_096;

/// Events handled in one go: enough to batch what goes out, few enough to look at timers in between.
const BATCH: usize = 512;

/// Clients written to before events are looked at again: a few milliseconds. What comes meanwhile for those who still wait
/// goes out with the same write.
const PAID: usize = 512;

/// Clients written to before other tasks of the thread go on: about half a millisecond. Links are read by it too.
const PAID_AT_ONCE: usize = 64;

/// What a message takes in a client's queue beside its payload, in bytes.
const OVERHEAD: usize = 128;

/// A worker with nothing to do looks around this often, to know that it was held up when it was.
const LOOK: Duration = Duration::from_millis(250);

/// A worker gives clients away to another one that has so many fewer to write to: about half a millisecond of writes.
const SHARE: usize = 64;

/// What a worker hears of.
#[derive(Debug)]
pub(super) enum Event {
    /// A client asks. `slot` is the room's in the placement named by `uid`.
    Command { uid: Uid, slot: SlotId, command: Command },
    /// A client goes to another router. `slot` and `uid` as above.
    HandOver { uid: Uid, slot: SlotId, room: RoomId, client: Arc<Client> },
    /// A link is open.
    LinkUp { link: Link, outbox: Arc<Outbox> },
    /// A link is no more.
    LinkDown { link: Link },
    /// A node speaks, of slots that are this worker's; it came `at`.
    Node { link: Link, messages: Vec<FromNode>, at: Time },
    /// Another worker has many clients to write to; these are this one's share.
    Owed(Vec<Arc<Client>>),
}

/// One worker among all.
#[derive(Debug, Clone)]
pub(super) struct Colleagues {
    /// Its own number.
    pub(super) own: usize,
    /// The mailboxes of all.
    pub(super) mailboxes: Arc<[mpsc::Sender<Event>]>,
    /// How many clients each has to write to.
    pub(super) owed: Arc<[AtomicUsize]>,
}

/// What all workers have counted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) rooms: AtomicU64,
    pub(super) members: AtomicU64,
    pub(super) publishes: AtomicU64,
    pub(super) deliveries: AtomicU64,
    pub(super) slow_clients: AtomicU64,
}

impl Totals {
    fn add(&self, before: Counts, after: Counts) {
        let add = |total: &AtomicU64, before: u64, after: u64| {
            // Gauges fall too: two's complement makes the sum right.
            if before != after {
                total.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
            }
        };
        add(&self.rooms, before.rooms, after.rooms);
        add(&self.members, before.members, after.members);
        add(&self.publishes, before.publishes, after.publishes);
        add(&self.deliveries, before.deliveries, after.deliveries);
        add(&self.slow_clients, before.slow_clients, after.slow_clients);
    }
}

/// A worker.
pub(super) struct Worker {
    mailbox: mpsc::Receiver<Event>,
    colleagues: Colleagues,
    view: watch::Receiver<ClusterView>,
    placement: Option<Arc<Placement>>,
    links: BTreeMap<Incarnation, (Link, Arc<Outbox>)>,
    slots: BTreeMap<SlotId, Slot>,
    /// Slots to be flushed.
    touched: BTreeSet<SlotId>,
    deadlines: Deadlines,
    publish_deadline: Duration,
    namespaces: Arc<Namespaces>,
    webhook: Option<Arc<Webhook>>,
    totals: Arc<Totals>,
    outputs: Vec<Output>,
    /// Clients whose queues are to be flushed.
    debts: Debts<Arc<Client>, Mark>,
    /// No more than so many bytes are put into queues that wait to be flushed: their clients are not to be taken for slow.
    most_behind: u64,
    turn: Turn,
}

/// What this turn has brought.
#[derive(Debug, Default)]
struct Turn {
    /// When the oldest of what nodes said came.
    came: Option<Time>,
    deliveries: u64,
    /// Of payloads, as queues count them.
    bytes: u64,
    owed: Vec<Arc<Client>>,
}

/// When the oldest of what was delivered together came, and how much that was.
type Mark = (Time, u64);

/// When which slot wants to be called again.
#[derive(Debug, Default)]
struct Deadlines {
    by_slot: BTreeMap<SlotId, Time>,
    by_time: BTreeSet<(Time, SlotId)>,
}

impl Deadlines {
    fn set(&mut self, slot: SlotId, at: Option<Time>) {
        let before = match at {
            Some(at) => self.by_slot.insert(slot, at),
            None => self.by_slot.remove(&slot),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, slot));
        }
        if let Some(at) = at {
            self.by_time.insert((at, slot));
        }
    }

    fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    fn due(&self, now: Time) -> Vec<SlotId> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, slot)| *slot).collect()
    }
}

impl Worker {
    pub(super) fn new(
        mailbox: mpsc::Receiver<Event>,
        colleagues: Colleagues,
        view: watch::Receiver<ClusterView>,
        (publish_deadline, queue_bytes): (Duration, usize),
        (namespaces, webhook): (Arc<Namespaces>, Option<Arc<Webhook>>),
        totals: Arc<Totals>,
    ) -> Self {
        Self {
            mailbox,
            colleagues,
            view,
            placement: None,
            links: BTreeMap::new(),
            slots: BTreeMap::new(),
            touched: BTreeSet::new(),
            deadlines: Deadlines::default(),
            publish_deadline,
            namespaces,
            webhook,
            totals,
            outputs: Vec::new(),
            debts: Debts::default(),
            // They may hold something already, and a turn may bring more than one message.
            most_behind: queue_bytes as u64 / 4,
            turn: Turn::default(),
        }
    }

    /// Runs until `stop` is cancelled or the registry is gone.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut events = Vec::with_capacity(BATCH);
        let mut looked = Time::now();
        self.follow_view(looked);
        loop {
            let wait = self.deadlines.next().map_or(LOOK, |at| at.since(Time::now()).min(LOOK));
            let busy = self.debts.len() > 0;
            let behind = self.debts.behind() > self.most_behind;
            tokio::select! {
                // The view is looked at in each turn, whoever was first.
                biased;
                () = stop.cancelled() => return self.finish(),
                count = self.mailbox.recv_many(&mut events, BATCH), if !behind => if count == 0 { return },
                () = std::future::ready(()), if busy => {}
                changed = self.view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            let now = Time::now();
            if now.since(looked) > LOOK + HELD_UP {
                for slot in self.slots.keys().copied().collect::<Vec<_>>() {
                    self.with_slot(slot, |slot, out| slot.doubt(now, out));
                }
            }
            looked = now;
            self.follow_view(now);
            for event in events.drain(..) {
                self.on_event(now, event);
            }
            for slot in self.deadlines.due(now) {
                self.with_slot(slot, |slot, out| slot.tick(now, out));
            }
            self.flush(now);
            // Last: nodes get on with what they were told meanwhile.
            self.share();
            self.pay().await;
        }
    }

    /// Gives clients to workers that have fewer: a large room takes more than one core.
    fn share(&mut self) {
        let Colleagues { own, mailboxes, owed } = &self.colleagues;
        for (n, mailbox) in mailboxes.iter().enumerate().filter(|(n, _)| n != own) {
            let more = self.debts.len().saturating_sub(owed[n].load(Ordering::Relaxed)) / 2;
            if more < SHARE {
                continue;
            }
            let given = self.debts.give(more);
            // Until it has them itself nobody else is to give it as many.
            owed[n].fetch_add(given.len(), Ordering::Relaxed);
            if let Err(TrySendError::Full(Event::Owed(mut back)) | TrySendError::Closed(Event::Owed(mut back))) =
                mailbox.try_send(Event::Owed(given))
            {
                self.debts.add(0, &mut back, (Time::now(), 0));
            }
        }
    }

    /// Writes what the next clients are owed, each client's messages at once.
    async fn pay(&mut self) {
        for n in 1..=PAID {
            let Some((client, done)) = self.debts.next() else { break };
            client.queue.flush();
            if let Some((came, deliveries @ 1..)) = done {
                DELIVERIES.observe(Time::now().since(came), deliveries);
            }
            if n % PAID_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.colleagues.owed[self.colleagues.own].store(self.debts.len(), Ordering::Relaxed);
    }

    /// What waits is done still: it says which clients left.
    fn finish(mut self) {
        let now = Time::now();
        while let Ok(event) = self.mailbox.try_recv() {
            self.on_event(now, event);
        }
        self.flush(now);
        while let Some((client, _)) = self.debts.next() {
            client.queue.flush();
        }
    }

    fn follow_view(&mut self, now: Time) {
        let placement = self.view.borrow_and_update().placement.clone();
        let Some(placement) = placement else { return };
        // Versions only rise within a uid; a change of anything else in the view is no news here.
        if self.placement.as_ref().is_some_and(|known| known.reference() == placement.reference()) {
            return;
        }
        let before = self.placement.replace(placement.clone());
        let route = |p: &Placement, slot| p.slot(slot).map(|record| (p.uid, record.primary, record.term));
        let mut moved = Vec::new();
        for (id, slot) in &mut self.slots {
            match before.as_ref().and_then(|before| route(before, *id)) {
                // While others move, a write says nothing new of most slots.
                Some(known) if route(&placement, *id) == Some(known) => slot.saw(placement.reference()),
                _ => moved.push(*id),
            }
        }
        for slot in moved {
            self.route(now, slot);
        }
    }

    /// Tells a slot where it is.
    fn route(&mut self, now: Time, id: SlotId) {
        let Some(placement) = &self.placement else { return };
        let Some(record) = placement.slot(id) else {
            // A cluster that began anew with fewer slots.
            return self.with_slot(id, |slot, _| slot.reset());
        };
        let primary = record.primary.incarnation;
        let session = self.links.get(&primary).map(|(link, _)| link.session);
        let route = Route { primary, term: record.term, session };
        let reference = placement.reference();
        self.with_slot(id, |slot, _| slot.follow(now, reference, route));
    }

    fn on_event(&mut self, now: Time, event: Event) {
        match event {
            Event::Command { uid, slot, command } => {
                if self.placement.as_ref().is_none_or(|p| p.uid != uid) {
                    // The cluster began anew in between: the room may be in another slot.
                    return command.refuse(ErrorCode::INTERNAL);
                }
                if !self.slots.contains_key(&slot) {
                    self.slots.insert(slot, Slot::new(slot, self.publish_deadline, self.namespaces.clone()));
                    self.route(now, slot);
                }
                self.with_slot(slot, |slot, out| slot.command(now, command, out));
            }
            Event::HandOver { uid, slot, room, client } => {
                if self.placement.as_ref().is_some_and(|p| p.uid == uid) {
                    self.with_slot(slot, |slot, out| slot.hand_over(now, &room, &client, out));
                }
            }
            Event::LinkUp { link, outbox } => {
                self.links.insert(link.node, (link, outbox));
                self.reroute(now, link.node);
            }
            Event::LinkDown { link } => {
                if self.links.get(&link.node).is_some_and(|(current, _)| *current == link) {
                    self.links.remove(&link.node);
                    self.reroute(now, link.node);
                }
            }
            Event::Owed(mut clients) => self.turn.owed.append(&mut clients),
            Event::Node { link, messages, at } => {
                self.turn.came = Some(self.turn.came.map_or(at, |oldest| oldest.min(at)));
                self.turn.bytes += messages.iter().map(cost).sum::<usize>() as u64;
                for message in messages {
                    if let Some(slot) = slot_of(&message) {
                        self.with_slot(slot, |slot, out| {
                            if let Some(taken) = slot.acknowledges(link, &message) {
                                ACKNOWLEDGED.observe(now.since(taken), 1);
                            }
                            slot.node(now, link, message, out);
                        });
                    }
                }
            }
        }
    }

    fn reroute(&mut self, now: Time, node: Incarnation) {
        let Some(placement) = &self.placement else { return };
        let there = |slot: &&SlotId| placement.slot(**slot).is_some_and(|r| r.primary.incarnation == node);
        let slots: Vec<SlotId> = self.slots.keys().filter(there).copied().collect();
        for slot in slots {
            self.route(now, slot);
        }
    }

    fn with_slot(&mut self, id: SlotId, f: impl FnOnce(&mut Slot, &mut Vec<Output>)) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let before = slot.counts();
        f(slot, &mut self.outputs);
        let after = slot.counts();
        self.turn.deliveries += after.deliveries.wrapping_sub(before.deliveries);
        self.totals.add(before, after);
        if let Some(webhook) = &self.webhook {
            slot.told().iter().for_each(|told| webhook.published(told));
        }
        self.touched.insert(id);
    }

    fn flush(&mut self, now: Time) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.flush(now, &mut self.outputs);
                self.turn.owed.append(slot.owed());
                self.deadlines.set(id, slot.next_deadline());
            }
        }
        let mut batches: BTreeMap<Link, Vec<ToNode>> = BTreeMap::new();
        for Output { link, message } in self.outputs.drain(..) {
            batches.entry(link).or_default().push(message);
        }
        for (link, messages) in batches {
            // A link that does not take them is closing: its end is an event of its own, and what was sent is sent again.
            if let Some((current, outbox)) = self.links.get(&link.node)
                && *current == link
            {
                let _ = outbox.push(messages);
            }
        }
        let Turn { came, deliveries, bytes, owed } = &mut self.turn;
        self.debts.add(*bytes, owed, (came.unwrap_or(now), *deliveries));
        (*came, *deliveries, *bytes) = (None, 0, 0);
    }
}

/// What a message of a node takes in the queue of a client, in bytes.
fn cost(message: &FromNode) -> usize {
    match message {
        FromNode::Deliver(deliver) => deliver.events.iter().map(|event| OVERHEAD + payload(event)).sum(),
        _ => OVERHEAD,
    }
}

fn payload(event: &v1::Event) -> usize {
    match &event.kind {
        Some(v1::event::Kind::Publication(publication)) => publication.data.len(),
        _ => 0,
    }
}

/// The slot that a node speaks of; `None` if it speaks of the link.
pub(super) fn slot_of(message: &FromNode) -> Option<SlotId> {
    match message {
        FromNode::Attached(m) => Some(SlotId(m.slot)),
        FromNode::Deliver(m) => Some(SlotId(m.slot)),
        FromNode::Published(m) => Some(SlotId(m.slot)),
        FromNode::NotPrimary(m) => Some(SlotId(m.slot)),
        FromNode::History(m) => Some(SlotId(m.slot)),
        FromNode::Presence(m) => Some(SlotId(m.slot)),
        FromNode::Hello(_) | FromNode::Heartbeat(_) | FromNode::Placement(_) | FromNode::Visit(_) => None,
    }
}
