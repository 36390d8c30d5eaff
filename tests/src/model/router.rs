//! A scripted router: attaches where the placement says, sends what is unanswered again, and believes what it is told as
//! the production router does. What must hold of what it is told is for the invariants to say.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use roomring_node::slot::LinkId;
use roomring_proto::{Epoch, Generation, Incarnation, Term, Version, v1};
use v1::node_message::Kind as FromNode;
use v1::refusal::Reason;
use v1::router_message::Kind as ToNode;

use super::shared::Shared;

/// The router's process.
pub const ROUTER: Incarnation = Incarnation(99);

/// The room.
pub const ROOM: &str = "r";

/// A publish that is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Waiting {
    first_sent_in: Option<Generation>,
    sent: u32,
}

/// What a publisher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its place.
    Acknowledged(Epoch, u64),
    /// Nobody knows.
    Unknown,
}

/// The router.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Router {
    pub(super) view: Version,
    pub(super) link: Option<(Incarnation, LinkId)>,
    pub(super) links: u64,
    attached: Option<(Term, Generation)>,
    term_seen: Term,
    position: Option<(Epoch, u64, u64)>,
    last_number: u64,
    waiting: BTreeMap<u64, Waiting>,
    outcomes: BTreeMap<u64, Outcome>,
    delivered: Vec<(Epoch, u64, Bytes)>,
    /// How often a publish went out again after an attach.
    resent: bool,
    pub(super) inbox: VecDeque<Shared<v1::NodeMessage>>,
    /// Something it was told takes it back, or leaves a hole.
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
    /// The confirmed attachment.
    pub fn attached(&self) -> Option<(Term, Generation)> {
        self.attached
    }

    /// What publishers were told, by number.
    pub fn outcomes(&self) -> &BTreeMap<u64, Outcome> {
        &self.outcomes
    }

    /// What was given to clients, in order.
    pub fn delivered(&self) -> &[(Epoch, u64, Bytes)] {
        &self.delivered
    }

    /// Whether a publish waits.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Attached, with nothing to wait for.
    pub(super) fn is_at_rest(&self) -> bool {
        self.attached.is_some() && self.waiting.is_empty() && self.inbox.is_empty()
    }

    /// A publish went out again after an attach.
    pub fn has_resent(&self) -> bool {
        self.resent
    }

    /// The attach that it sent last.
    pub fn attach_id(&self) -> u64 {
        self.links
    }

    /// The highest term it knows of.
    pub fn term_seen(&self) -> Term {
        self.term_seen
    }

    /// What it has delivered: epoch, sequence and lsn.
    pub fn position(&self) -> Option<(Epoch, u64, u64)> {
        self.position
    }

    /// What it was told took it back, or left a hole that it was not told of.
    pub fn is_taken_back(&self) -> bool {
        self.taken_back
    }

    /// A link to the primary of `view` is up: the attach to send on it.
    pub(super) fn attach(&mut self, node: Incarnation, view: Version, term: Term, off: Off) -> (LinkId, ToNode) {
        self.links += 1;
        let link = LinkId(self.links);
        self.view = view;
        self.link = Some((node, link));
        self.attached = None;
        self.inbox.clear();
        self.term_seen = self.term_seen.max(term);
        let known = self.position.filter(|_| !off.position);
        let room = v1::RoomAttach {
            room: ROOM.into(),
            epoch: known.map(|(epoch, _, _)| epoch.into()),
            seq: known.map_or(0, |(_, seq, _)| seq),
            lsn: known.map_or(0, |(_, _, lsn)| lsn),
            members: Vec::new(),
        };
        let attach = v1::Attach {
            slot: 0,
            attach_id: self.links,
            term_seen: if off.position { 0 } else { self.term_seen.0 },
            placement: None,
            rooms: vec![room],
            whole: true,
        };
        (link, ToNode::Attach(attach))
    }

    /// The link's other end is gone.
    pub(super) fn cut(&mut self) {
        self.link = None;
        self.attached = None;
    }

    /// A client publishes: what to send, if attached.
    pub(super) fn publish(&mut self, off: Off) -> Option<ToNode> {
        self.last_number += 1;
        self.waiting.insert(self.last_number, Waiting::default());
        self.attached.map(|(_, generation)| self.send(self.last_number, generation, off))
    }

    fn send(&mut self, number: u64, generation: Generation, off: Off) -> ToNode {
        let settled_below = self.waiting.keys().next().map_or(self.last_number, |first| first - 1);
        let waiting = self.waiting.entry(number).or_default();
        let first_sent_in = waiting.first_sent_in.filter(|_| !off.generation).map_or(0, |g| g.0);
        waiting.first_sent_in.get_or_insert(generation);
        waiting.sent += 1;
        let again = off.numbers && waiting.sent > 1;
        ToNode::Publish(v1::Publish {
            slot: 0,
            room: ROOM.into(),
            number: if again { number + 100 * u64::from(waiting.sent) } else { number },
            settled_below: if off.numbers { 0 } else { settled_below },
            generation: first_sent_in,
            data: payload(number),
            info: None,
            id: String::new(),
        })
    }

    /// Takes a message of the current link; what is to be sent for it comes back.
    pub(super) fn hear(&mut self, message: &v1::NodeMessage, off: Off) -> Vec<ToNode> {
        match message.kind.clone() {
            Some(FromNode::Attached(answer)) => return self.confirmed(answer, off),
            Some(FromNode::Deliver(deliver)) => self.deliver(deliver),
            Some(FromNode::Published(answer)) => self.answered(answer),
            Some(FromNode::NotPrimary(refusal)) => {
                self.term_seen = self.term_seen.max(Term(refusal.term));
                self.attached = None;
            }
            _ => {}
        }
        Vec::new()
    }

    fn confirmed(&mut self, answer: v1::Attached, off: Off) -> Vec<ToNode> {
        let term = Term(answer.term);
        if answer.attach_id != self.links || answer.refused.is_some() || (term < self.term_seen && !off.position) {
            self.term_seen = self.term_seen.max(term);
            return Vec::new();
        }
        let Some(room) = answer.rooms.first().filter(|room| room.refused.is_none()) else { return Vec::new() };
        let Some(epoch) = room.epoch.map(Epoch::from) else { return Vec::new() };
        self.taken_back |= term < self.term_seen;
        self.term_seen = self.term_seen.max(term);
        match self.position {
            Some((known, seq, lsn)) if known == epoch && !room.gap => {
                self.taken_back |= (room.seq, room.lsn) != (seq, lsn);
            }
            Some((known, seq, lsn)) => {
                self.taken_back |= epoch < known || (epoch == known && (room.seq < seq || room.lsn < lsn));
            }
            None => {}
        }
        self.position = Some((epoch, room.seq, room.lsn));
        self.attached = Some((term, Generation(answer.generation)));
        for event in room.replay.clone() {
            self.event(epoch, event);
        }
        let generation = Generation(answer.generation);
        let numbers: Vec<u64> = self.waiting.keys().copied().collect();
        self.resent |= self.waiting.values().any(|w| w.sent > 0);
        numbers.into_iter().map(|number| self.send(number, generation, off)).collect()
    }

    fn deliver(&mut self, deliver: v1::Deliver) {
        let Some((term, _)) = self.attached else { return };
        let Some(epoch) = deliver.epoch.map(Epoch::from).filter(|_| Term(deliver.term) == term) else { return };
        for event in deliver.events {
            self.event(epoch, event);
        }
    }

    fn event(&mut self, epoch: Epoch, event: v1::Event) {
        let Some(v1::event::Kind::Publication(p)) = event.kind else { return };
        let Some((known, seq, lsn)) = &mut self.position else { return };
        if *known != epoch || p.seq != *seq + 1 || p.lsn <= *lsn {
            self.taken_back = true;
            return;
        }
        (*seq, *lsn) = (p.seq, p.lsn);
        self.delivered.push((epoch, p.seq, p.data));
    }

    fn answered(&mut self, answer: v1::Published) {
        let number = answer.number % 100;
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        let outcome = match (answer.refused, answer.epoch) {
            (None, Some(epoch)) => Outcome::Acknowledged(epoch.into(), answer.seq),
            (Some(refusal), _) if matches!(refusal.reason(), Reason::NotPrimary | Reason::Stale) => {
                if waiting.sent == 1 {
                    *waiting = Waiting::default();
                }
                self.attached = None;
                return;
            }
            _ => Outcome::Unknown,
        };
        self.waiting.remove(&number);
        self.outcomes.insert(number, outcome);
    }
}

/// What publish `number` says.
pub(super) fn payload(number: u64) -> Bytes {
    Bytes::from(number.to_string())
}
