//! One slot at this router: its attachment, its rooms, and what its clients wait for. Pure: the worker hands in what happens,
//! carries what comes out to the nodes, and calls again at [`Slot::next_deadline`]. Answers and pushes go straight into the
//! clients' queues, which never waits.

mod inspect;
mod primary;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_proto::close::ErrorCode;
use roomring_proto::{PlacementRef, RoomId, SlotId, v1};
use v1::node_message::Kind as FromNode;
use v1::router_message::Kind as ToNode;

use super::api::{Client, Command, ToClient, Told};
use super::attach::{Attachment, Link, Route};
use super::entrance::Newcomer;
use super::publishes::{Publishes, Wanted};
use super::requests::{self, Requests};
use super::room::{Effects, Room, Standing};
use super::rules::Rules;
use crate::namespaces::Namespaces;

/// A worker whose turn comes this late was held up: see [`Slot::doubt`]. A slot is made anew no sooner than a router that hears
/// nothing gives up its link, which takes longer than this.
pub const HELD_UP: Duration = Duration::from_secs(1);

/// A message for the node at the other end of `link`.
#[derive(Debug)]
pub struct Output {
    /// Where to.
    pub link: Link,
    /// What.
    pub message: ToNode,
}

/// What a slot counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Counts {
    pub(super) rooms: u64,
    pub(super) members: u64,
    pub(super) publishes: u64,
    pub(super) deliveries: u64,
    pub(super) slow_clients: u64,
}

/// A slot's state in this router process. Kept for the process's life: numbers never start again.
///
/// A copy shares the clients: two are equal if they say the same from now on, whatever waits in the clients' queues.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    id: SlotId,
    /// What rooms keep that have to be made.
    namespaces: Arc<Namespaces>,
    placement: Option<PlacementRef>,
    attachment: Attachment,
    last_attach: u64,
    rooms: BTreeMap<RoomId, Room>,
    /// Rooms to be attached one by one while the slot is attached.
    wanted: BTreeSet<RoomId>,
    publishes: Publishes,
    requests: Requests,
    /// Commands that waited for something else of their client.
    deferred: VecDeque<Command>,
    /// Clients whose queues are to be flushed.
    owed: Vec<Arc<Client>>,
    /// When some room has something to do.
    sweep_at: Option<Time>,
    counts: Counts,
    rules: Rules,
}

impl Slot {
    /// A slot that nothing is known of.
    pub fn new(id: SlotId, publish_deadline: Duration, namespaces: Arc<Namespaces>) -> Self {
        Self {
            id,
            namespaces: namespaces.clone(),
            placement: None,
            attachment: Attachment::new(),
            last_attach: 0,
            rooms: BTreeMap::new(),
            wanted: BTreeSet::new(),
            publishes: Publishes::new(id, publish_deadline, namespaces),
            requests: Requests::new(id),
            deferred: VecDeque::new(),
            owed: Vec::new(),
            sweep_at: None,
            counts: Counts::default(),
            rules: Rules::default(),
        }
    }

    /// The same with other rules, for checks.
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self.publishes.set_rules(rules);
        self
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Clients whose queues the caller is to flush before it waits for anything.
    pub(super) fn owed(&mut self) -> &mut Vec<Arc<Client>> {
        &mut self.owed
    }

    /// When the publish was taken that this acknowledges; `None` if it acknowledges none that waits.
    pub(super) fn acknowledges(&self, link: Link, message: &FromNode) -> Option<Time> {
        match message {
            FromNode::Published(answer) if answer.refused.is_none() && self.attachment.listens_to(link) => {
                self.publishes.taken_at(answer.number)
            }
            _ => None,
        }
    }

    /// Publishes that the business server is to be told of.
    pub(super) fn told(&mut self) -> Vec<Told> {
        self.publishes.told()
    }

    /// The placement, or a link, changed.
    pub fn follow(&mut self, now: Time, placement: PlacementRef, route: Route) {
        if self.placement.is_some_and(|p| p.uid != placement.uid) {
            self.reset();
        }
        self.placement = Some(placement);
        if self.attachment.follow(route) {
            self.unattached(now);
        }
    }

    /// A later placement of the same history has the slot where it was.
    pub(super) fn saw(&mut self, placement: PlacementRef) {
        self.placement = Some(placement);
    }

    /// The cluster's placement began anew: nobody knows what was, and clients are told so.
    pub fn reset(&mut self) {
        self.attachment.reset();
        self.publishes.fail_all(&mut self.owed);
        self.requests.fail_all();
        let mut fx = Effects::default();
        for (_, room) in std::mem::take(&mut self.rooms) {
            room.reset(&mut fx);
        }
        self.wanted.clear();
        self.counts.rooms = 0;
        self.counts.members = 0;
        // Rooms may be in other slots now: clients ask again.
        for command in std::mem::take(&mut self.deferred).into_iter().chain(fx.commands) {
            command.refuse(ErrorCode::INTERNAL);
        }
    }

    /// This process was held up for longer than [`HELD_UP`]: that the slot has another primary since, or was made anew, may lie
    /// unread. Nobody is let in before a primary has confirmed where the rooms are.
    pub fn doubt(&mut self, now: Time, out: &mut Vec<Output>) {
        self.attachment.doubt();
        self.unattached(now);
        for id in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.with_room(now, id.as_str(), out, |room, fx| room.doubt(now, fx));
        }
    }

    fn unattached(&mut self, now: Time) {
        self.wanted.clear();
        for room in self.rooms.values_mut() {
            room.want(now);
        }
    }

    /// A client asks.
    pub fn command(&mut self, now: Time, command: Command, out: &mut Vec<Output>) {
        self.run(now, command, out);
        self.run_deferred(now, out);
    }

    /// A client goes to another router.
    pub(super) fn hand_over(&mut self, now: Time, room: &RoomId, client: &Arc<Client>, out: &mut Vec<Output>) {
        self.with_room(now, room.as_str(), out, |room, _| room.hand_over(now, client));
    }

    fn run_deferred(&mut self, now: Time, out: &mut Vec<Output>) {
        while let Some(command) = self.deferred.pop_front() {
            self.run(now, command, out);
        }
    }

    fn run(&mut self, now: Time, command: Command, out: &mut Vec<Output>) {
        match command {
            Command::Subscribe { request, room, client, join_leave, recover, reject_unrecovered } => {
                let due = now + requests::ANSWER_WITHIN;
                let newcomer = Newcomer {
                    request,
                    client,
                    join_leave,
                    recover,
                    reject_unrecovered,
                    due,
                    asked_again: false,
                    then: VecDeque::new(),
                };
                self.rooms.entry(room.clone()).or_insert_with(|| Room::new(room.clone(), now, self.rules));
                self.sweep_by(due);
                self.with_room(now, room.as_str(), out, |room, fx| room.subscribe(now, newcomer, fx));
            }
            Command::Unsubscribe { request, room, client } => {
                if self.rooms.contains_key(&room) {
                    self.with_room(now, room.as_str(), out, |room, fx| room.unsubscribe(now, request, &client, fx));
                } else if let Some(request) = request {
                    client.queue.push(ToClient::Unsubscribed { request, room });
                }
            }
            Command::Publish { request, room, client, data, id } => {
                self.publish(now, Wanted { request, room, client, data, id, retracts: None }, out);
            }
            Command::Retract { request, room, client, what, data } => {
                let (id, retracts) = (String::new(), Some(what));
                self.publish(now, Wanted { request, room, client, data, id, retracts }, out);
            }
            Command::History { request, room, client, limit, reverse, since } => {
                let asked = self.requests.history(now, request, client, room, (limit, reverse, since));
                self.ask(asked, out);
            }
            Command::Presence { request, room, client, stats_only } => {
                let asked = self.requests.presence(now, request, client, room, stats_only);
                self.ask(asked, out);
            }
        }
    }

    fn publish(&mut self, now: Time, wanted: Wanted, out: &mut Vec<Output>) {
        let Some(number) = self.publishes.take(now, wanted) else { return };
        self.counts.publishes += 1;
        if let Some(attached) = self.attachment.attached()
            && let Some(message) = self.publishes.send(number, attached.generation)
        {
            out.push(Output { link: attached.link, message });
        }
    }

    fn ask(&mut self, request: Option<u64>, out: &mut Vec<Output>) {
        if let Some(attached) = self.attachment.attached()
            && let Some(message) = request.and_then(|id| self.requests.send(id, self.attachment.term_seen()))
        {
            out.push(Output { link: attached.link, message });
        }
    }

    /// Lets `f` work on a room, and does what the room then wants.
    fn with_room(&mut self, now: Time, id: &str, out: &mut Vec<Output>, f: impl FnOnce(&mut Room, &mut Effects)) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let id = room.id().clone();
        let mut fx = Effects { owed: std::mem::take(&mut self.owed), ..Effects::default() };
        let before = room.members() as u64;
        f(room, &mut fx);
        let after = room.members() as u64;
        let (fetch, standing, due) = (room.wants_fetch(), room.standing(), room.next_deadline(now));
        self.counts.members = self.counts.members + after - before;
        self.counts.rooms = self.rooms.len() as u64;
        self.counts.deliveries += fx.pushes;
        self.counts.slow_clients += fx.slow;
        self.owed = std::mem::take(&mut fx.owed);
        if let Some(request) = fx.forget {
            self.requests.forget(request);
        }
        if let Some(due) = due {
            self.sweep_by(due);
        }
        match standing {
            Standing::Wanted { .. } => {
                self.wanted.insert(id.clone());
            }
            // Members that come and go before it is asked for are in the list it is asked with.
            Standing::Asked { .. } | Standing::Attached => self.announce(&id, &mut fx, out),
        }
        self.deferred.append(&mut fx.commands);
        if let Some((since, epoch)) = fetch {
            let request = self.requests.fetch(now, id.clone(), since, epoch);
            if let Some(room) = self.rooms.get_mut(&id) {
                room.fetching(request, since);
            }
            self.ask(Some(request), out);
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        self.publishes.expire(now, &mut self.owed);
        for room in self.requests.expire(now) {
            self.with_room(now, room.as_str(), out, |room, fx| room.fetched(now, None, fx));
        }
        if self.attachment.overdue(now) {
            self.unattached(now);
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now, out);
        }
        self.run_deferred(now, out);
    }

    fn sweep(&mut self, now: Time, out: &mut Vec<Output>) {
        self.sweep_at = None;
        let ids: Vec<RoomId> = self.rooms.keys().cloned().collect();
        let mut over = Vec::new();
        for id in ids {
            let mut ended = false;
            self.with_room(now, id.as_str(), out, |room, fx| ended = room.tick(now, fx));
            if ended {
                over.push(id);
            }
        }
        if over.is_empty() {
            return;
        }
        let told: Vec<String> = over.iter().filter(|id| self.end(id)).map(|id| id.as_str().to_owned()).collect();
        self.sweep_at = self.rooms.values().filter_map(|room| room.next_deadline(now)).min();
        if let Some(link) = self.attachment.link().filter(|_| !told.is_empty()) {
            let detach = v1::Detach { slot: self.id.0, rooms: told };
            out.push(Output { link, message: ToNode::Detach(detach) });
        }
    }

    /// Removes a room; true if the primary has heard of it.
    fn end(&mut self, id: &RoomId) -> bool {
        self.wanted.remove(id);
        let room = self.rooms.remove(id);
        self.counts.rooms = self.rooms.len() as u64;
        room.is_some_and(|room| !matches!(room.standing(), Standing::Wanted { .. }))
    }

    fn is_needed(&self) -> bool {
        !(self.rooms.is_empty() && self.publishes.is_empty() && self.requests.is_empty())
    }

    fn sweep_by(&mut self, at: Time) {
        self.sweep_at = Some(self.sweep_at.map_or(at, |s| s.min(at)));
    }

    /// When [`Self::tick`] and [`Self::flush`] are to be called, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Time> {
        let attachment = self.attachment.next_deadline().filter(|_| self.is_needed());
        let waits = [attachment, self.publishes.next_deadline(), self.requests.next_deadline()];
        waits.into_iter().chain([self.sweep_at]).flatten().min()
    }
}
