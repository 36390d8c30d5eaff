//! The router of production, and a client of it that is in the room and publishes. What must hold of what they are told is for
//! the invariants to say.
//!
//! The client reads at once what it is told, so that its queue, which the copies of a state share, is empty between steps.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use roomring_control::clock::Time;
use roomring_node::slot::LinkId;
use roomring_proto::client::Format;
use roomring_proto::close::ErrorCode;
use roomring_proto::{Epoch, Generation, Incarnation, Lsn, PlacementRef, RoomId, Seq, Term, Version, v1};
use roomring_router::hub::api::{Client, ClientPosition, Codec, Command, Subscribed, ToClient};
use roomring_router::hub::core::{Link, Output, Route, Rules, Slot};
use roomring_router::hub::queue::ClientQueue;
use v1::router_message::Kind as ToNode;

use super::register::{SLOT, UID};
use super::shared::Shared;
use crate::client::wire::Reply;

/// The router's process.
pub const ROUTER: Incarnation = Incarnation(99);

/// The room.
pub const ROOM: &str = "r";

/// The moment of everything until the router waits: what it waits for happens when the model says.
const NOW: Time = Time(Duration::from_secs(1_000));

/// How long a publish may take.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(4);

/// What a publisher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its place.
    Acknowledged(Epoch, u64),
    /// Nobody knows.
    Unknown,
    /// It was not taken, and may be tried again.
    Refused,
}

/// The router.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Router {
    slot: Shared<Slot>,
    client: Reader,
    pub(super) seen: Seen,
}

/// The one client. Its queue is filled and emptied by one step of one state at a time.
#[derive(Debug, Clone)]
struct Reader {
    client: Arc<Client>,
    turn: Arc<Mutex<()>>,
}

impl PartialEq for Reader {
    fn eq(&self, other: &Self) -> bool {
        self.client == other.client
    }
}

impl Eq for Reader {}

impl Hash for Reader {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.client.hash(state);
    }
}

/// What is around the slot: the link, the client, and what they were told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Seen {
    pub(super) view: Version,
    pub(super) link: Option<(Incarnation, LinkId)>,
    links: u64,
    /// Requests of the client; its publishes are numbered by themselves.
    subscribes: u32,
    published: u32,
    /// Where the client is in the room, if it is in.
    client: Option<(Epoch, u64)>,
    left_at: Option<(Epoch, u64)>,
    /// How often each publish was sent.
    sent: BTreeMap<u64, u64>,
    outcomes: BTreeMap<u64, Outcome>,
    delivered: Vec<(Epoch, u64, Bytes)>,
    pub(super) inbox: VecDeque<Shared<v1::NodeMessage>>,
    /// What was said on earlier links and may still arrive.
    pub(super) late: BTreeMap<LinkId, (Incarnation, VecDeque<Shared<v1::NodeMessage>>)>,
    waited: u8,
    /// Something the client was told takes it back, or leaves a hole.
    taken_back: bool,
}

/// Rules of the router that may be off, see [`super::Mutant`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Off {
    pub(super) position: bool,
    pub(super) generation: bool,
    pub(super) numbers: bool,
}

impl Router {
    /// It knows nothing yet.
    pub(super) fn new(rules: Rules) -> Self {
        let (id, user, conn_info) = ("c".to_owned(), "u".to_owned(), Bytes::new());
        let client =
            Client { id, user, conn_info, codec: Codec::Centrifuge(Format::Json), queue: ClientQueue::new(1 << 20) };
        let client = Reader { client: Arc::new(client), turn: Arc::default() };
        Self {
            slot: Shared::new(Slot::new(SLOT, PUBLISH_DEADLINE, Arc::default()).with_rules(rules)),
            client,
            seen: Seen::default(),
        }
    }

    /// The confirmed attachment.
    pub fn attached(&self) -> Option<(Term, Generation)> {
        self.slot.attached_in()
    }

    /// What publishers were told, by number.
    pub fn outcomes(&self) -> &BTreeMap<u64, Outcome> {
        &self.seen.outcomes
    }

    /// What was given to clients, in order.
    pub fn delivered(&self) -> &[(Epoch, u64, Bytes)] {
        &self.seen.delivered
    }

    /// Whether a publish waits.
    pub fn waits(&self) -> bool {
        self.seen.outcomes.len() < self.seen.published as usize
    }

    /// Attached, with nothing to wait for.
    pub(super) fn is_at_rest(&self) -> bool {
        self.attached().is_some() && !self.waits() && self.seen.inbox.is_empty() && self.seen.client.is_some()
    }

    /// A publish went out again after an attach.
    pub fn has_resent(&self) -> bool {
        self.seen.sent.values().any(|sent| *sent > 1)
    }

    /// The attach that it sent last.
    pub fn attach_id(&self) -> u64 {
        self.slot.last_attach()
    }

    /// The highest term it knows of.
    pub fn term_seen(&self) -> Term {
        self.slot.term_seen()
    }

    /// What it has of the room: epoch, sequence and lsn.
    pub fn position(&self) -> Option<(Epoch, u64, u64)> {
        self.slot.place(ROOM).map(|(epoch, seq, lsn)| (epoch, seq.0, lsn.0))
    }

    /// What its client was told took it back, or left a hole that it was not told of.
    pub fn is_taken_back(&self) -> bool {
        self.seen.taken_back
    }

    /// A new link to the primary of `view` is up: it attaches. What is to be sent comes back.
    pub(super) fn attach(
        &mut self,
        primary: Incarnation,
        view: Version,
        term: Term,
        off: Off,
    ) -> (LinkId, Vec<ToNode>) {
        let seen = &mut self.seen;
        seen.links += 1;
        let link = LinkId(seen.links);
        seen.view = view;
        seen.link = Some((primary, link));
        let route = Route { primary, term, session: Some(link.0) };
        (link, self.step(off, |slot, now, _, _| slot.follow(now, PlacementRef { uid: UID, version: view }, route)))
    }

    /// The link's other end is gone.
    pub(super) fn cut(&mut self, late_words: bool) {
        let Some((primary, _)) = self.seen.hang_up(late_words) else { return };
        let route = Route { primary, term: self.term_seen(), session: None };
        let placement = PlacementRef { uid: UID, version: self.seen.view };
        self.step(Off::default(), |slot, now, _, _| slot.follow(now, placement, route));
    }

    /// A node says something.
    pub(super) fn said(&mut self, link: (Incarnation, LinkId), message: v1::NodeMessage) {
        if self.seen.link == Some(link) {
            self.seen.inbox.push_back(Shared::new(message));
        }
    }

    /// The oldest message of an earlier link arrives.
    pub(super) fn overheard(&mut self, link: LinkId) -> Option<(Incarnation, Shared<v1::NodeMessage>)> {
        let (node, queue) = self.seen.late.get_mut(&link)?;
        let (node, message) = (*node, queue.pop_front());
        if queue.is_empty() {
            self.seen.late.remove(&link);
        }
        Some((node, message?))
    }

    /// As much time passes as a publish may take.
    pub(super) fn wait(&mut self, off: Off) -> Vec<ToNode> {
        self.seen.waited += 1;
        self.step(off, |slot, now, _, out| slot.tick(now, out))
    }

    /// The client publishes.
    pub(super) fn publish(&mut self, off: Off) -> Vec<ToNode> {
        self.seen.published += 1;
        let (request, data) = (self.seen.published, payload(self.seen.published));
        self.step(off, |slot, now, client, out| {
            let (room, client, id) = (room(), client.clone(), String::new());
            slot.command(now, Command::Publish { request, room, client, data, id }, out);
        })
    }

    /// The client comes into the room, where it was if it was there.
    pub(super) fn subscribe(&mut self, off: Off) -> Vec<ToNode> {
        self.seen.subscribes += 1;
        let request = self.seen.subscribes;
        let recover = self.seen.left_at;
        let recover = recover.map(|(epoch, seq)| ClientPosition { epoch: epoch.to_string(), seq: Seq(seq) });
        self.step(off, |slot, now, client, out| {
            let (room, client) = (room(), client.clone());
            let (join_leave, reject_unrecovered) = (false, false);
            let command = Command::Subscribe { request, room, client, join_leave, recover, reject_unrecovered };
            slot.command(now, command, out);
        })
    }

    /// Takes a message of a link; what is to be sent for it comes back.
    pub(super) fn hear(
        &mut self,
        (node, link): (Incarnation, LinkId),
        message: &v1::NodeMessage,
        off: Off,
    ) -> Vec<ToNode> {
        let Some(kind) = message.kind.clone() else { return Vec::new() };
        self.step(off, |slot, now, _, out| slot.node(now, Link { node, session: link.0 }, kind, out))
    }

    /// The slot does something, and the client reads what it is told.
    fn step(&mut self, off: Off, f: impl FnOnce(&mut Slot, Time, &Arc<Client>, &mut Vec<Output>)) -> Vec<ToNode> {
        let mut slot = (*self.slot).clone();
        let now = NOW + PUBLISH_DEADLINE * u32::from(self.seen.waited);
        let before = slot.place(ROOM);
        let (mut out, mut told) = (Vec::new(), Vec::new());
        let Reader { client, turn } = &self.client;
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut slot, now, client, &mut out);
        slot.flush(now, &mut out);
        let slow = client.queue.try_recv_many(&mut told, usize::MAX).is_some_and(|taken| taken.is_err());
        drop(turn);
        assert!(!slow, "the client reads at once");
        self.slot = Shared::new(slot);
        let link = self.seen.link;
        let current = |output: &Output| link == Some((output.link.node, LinkId(output.link.session)));
        let mut messages: Vec<ToNode> = out.into_iter().filter(current).map(|output| output.message).collect();
        for message in &mut messages {
            self.seen.send(message, off);
        }
        let mut again = false;
        for message in told {
            again |= self.seen.told(message);
        }
        self.seen.placed(before, self.slot.place(ROOM));
        if again {
            messages.extend(self.subscribe(off));
        }
        messages
    }
}

fn room() -> RoomId {
    RoomId::new(ROOM).expect("a good name")
}

impl Seen {
    /// The link is no more: what was said on it is lost, or late.
    pub(super) fn hang_up(&mut self, late_words: bool) -> Option<(Incarnation, LinkId)> {
        let (node, link) = self.link.take()?;
        let words = std::mem::take(&mut self.inbox);
        if late_words && !words.is_empty() {
            self.late.insert(link, (node, words));
        }
        Some((node, link))
    }

    /// The room went from one place to another: never back, and the client with it.
    fn placed(&mut self, before: Option<(Epoch, Seq, Lsn)>, now: Option<(Epoch, Seq, Lsn)>) {
        let Some((epoch, seq, _)) = now else { return };
        self.taken_back |= before.is_some_and(|(e, s, _)| (epoch, seq) < (e, s));
        self.taken_back |= self.client.is_some_and(|client| client != (epoch, seq.0));
    }

    /// Notes what goes out, and breaks the rules that are off.
    fn send(&mut self, message: &mut ToNode, off: Off) {
        match message {
            ToNode::Attach(attach) if off.position => {
                attach.term_seen = 0;
                for room in &mut attach.rooms {
                    (room.epoch, room.seq, room.lsn) = (None, 0, 0);
                }
            }
            ToNode::Publish(publish) => {
                let sent = self.sent.entry(publish.number).or_default();
                *sent += 1;
                if off.generation {
                    publish.generation = 0;
                }
                if off.numbers {
                    publish.settled_below = 0;
                    publish.number += 100 * (*sent - 1);
                }
            }
            _ => {}
        }
    }

    /// The client is told something. True if it has to subscribe again.
    fn told(&mut self, message: ToClient) -> bool {
        match message {
            ToClient::Push(frame) => self.pushed(&frame.payload()),
            ToClient::Subscribed { result: Ok(subscribed), .. } => self.subscribed(subscribed),
            ToClient::Subscribed { result: Err(_), .. } => return true,
            ToClient::Dropped { .. } => {
                self.left_at = self.client.take().or(self.left_at);
                return true;
            }
            ToClient::Published { request, result } => {
                let outcome = match result {
                    Ok(p) => Outcome::Acknowledged(p.position.epoch, p.position.seq.0),
                    Err(e) if e.code == ErrorCode::OUTCOME_UNKNOWN.code => Outcome::Unknown,
                    Err(_) => Outcome::Refused,
                };
                self.taken_back |= self.outcomes.insert(request.into(), outcome).is_some();
            }
            ToClient::Unsubscribed { .. }
            | ToClient::Retracted { .. }
            | ToClient::History { .. }
            | ToClient::Presence { .. }
            | ToClient::Order(_) => {}
        }
        false
    }

    fn subscribed(&mut self, subscribed: Subscribed) {
        let top = (subscribed.position.epoch, subscribed.position.seq.0);
        if let Some((epoch, seq)) = self.left_at {
            // A client may be told of an older epoch by no router that knows the newer one.
            self.taken_back |= top.0 < epoch || (top.0 == epoch && top.1 < seq);
        }
        match self.left_at.filter(|_| subscribed.recovered) {
            Some(from) => {
                self.taken_back |= from != top;
                self.client = Some(from);
                for publication in subscribed.publications {
                    self.heard(publication.seq, publication.data);
                }
            }
            None => self.client = Some(top),
        }
    }

    fn pushed(&mut self, bytes: &Bytes) {
        let reply: Reply = serde_json::from_slice(bytes).expect("a push can be read");
        if let Some(publication) = reply.push.and_then(|push| push.publication) {
            self.heard(publication.offset, Bytes::from(publication.data.get().to_owned()));
        }
    }

    fn heard(&mut self, seq: u64, data: Bytes) {
        let Some((epoch, last)) = &mut self.client else {
            self.taken_back = true;
            return;
        };
        self.taken_back |= seq != *last + 1;
        *last = seq;
        self.delivered.push((*epoch, seq, data));
    }
}

/// What publish `number` says.
pub(super) fn payload(number: u32) -> Bytes {
    Bytes::from(number.to_string())
}
