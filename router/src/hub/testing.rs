//! Helpers of the hub's tests: clients, and a primary that follows a script.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use roomring_proto::client::Format;
use roomring_proto::{Epoch, Generation, Lsn, RoomId, Term, Uid, v1};
use v1::node_message::Kind as FromNode;
use v1::refusal::Reason;
use v1::router_message::Kind as ToNode;

use super::api::{Client, Codec, ToClient};
use super::queue::ClientQueue;

/// The slot of every test.
pub(super) const SLOT: u32 = 5;

/// A client named `id` whose queue takes everything.
pub(super) fn client(id: &str) -> Arc<Client> {
    let queue = ClientQueue::new(usize::MAX / 2);
    let (id, user) = (id.to_owned(), format!("user-{id}"));
    Arc::new(Client { id, user, conn_info: Bytes::new(), codec: Codec::Centrifuge(Format::Json), queue })
}

/// What the client was told since it was asked last.
pub(super) fn answers(client: &Client) -> Vec<ToClient> {
    let mut out = Vec::new();
    if let Some(taken) = client.queue.try_recv_many(&mut out, usize::MAX) {
        taken.expect("not slow");
    }
    out
}

pub(super) fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

/// A room at its primary.
#[derive(Debug, Clone)]
pub(super) struct ModelRoom {
    pub(super) epoch: Epoch,
    pub(super) events: Vec<(u64, v1::Event)>,
    pub(super) seq: u64,
    pub(super) lsn: u64,
    pub(super) members: BTreeMap<String, v1::ClientInfo>,
}

/// A slot's primary, reduced to what a router sees of it: everything commits at once, and the state survives a change of
/// primary unless the slot is recreated.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) uid: Uid,
    pub(super) term: Term,
    pub(super) generation: Generation,
    pub(super) lsn: u64,
    pub(super) rooms: BTreeMap<String, ModelRoom>,
    numbers: BTreeMap<u64, (Epoch, u64)>,
    settled: u64,
    attached: BTreeSet<String>,
    /// Events up to here are no longer replayed, nor in the history.
    pub(super) base: u64,
    /// Payload of every publication there ever was.
    pub(super) truth: BTreeMap<(Epoch, u64), Bytes>,
    /// Publishes that came again after they were taken.
    pub(super) repeats: u32,
    /// Events replayed.
    pub(super) replayed: usize,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            uid: Uid(9),
            term: Term(1),
            generation: Generation(1),
            lsn: 0,
            rooms: BTreeMap::new(),
            numbers: BTreeMap::new(),
            settled: 0,
            attached: BTreeSet::new(),
            base: 0,
            truth: BTreeMap::new(),
            repeats: 0,
            replayed: 0,
        }
    }

    /// The slot is primary elsewhere, or anew.
    pub(super) fn next_term(&mut self) {
        self.term = self.term.next();
        self.attached.clear();
    }

    /// All is lost.
    pub(super) fn recreate(&mut self) {
        self.next_term();
        self.generation = self.generation.next();
        self.rooms.clear();
        self.numbers.clear();
        (self.settled, self.lsn, self.base) = (0, 0, 0);
    }

    /// The link is gone.
    pub(super) fn detach(&mut self) {
        self.attached.clear();
    }

    fn room(&mut self, name: &str) -> &mut ModelRoom {
        if !self.rooms.contains_key(name) {
            self.lsn += 1;
            let epoch = Epoch { uid: self.uid, generation: self.generation, created: Lsn(self.lsn) };
            let room = ModelRoom { epoch, events: Vec::new(), seq: 0, lsn: self.lsn, members: BTreeMap::new() };
            self.rooms.insert(name.to_owned(), room);
        }
        self.rooms.get_mut(name).unwrap()
    }

    fn emit(&mut self, name: &str, event: impl FnOnce(u64) -> v1::event::Kind, out: &mut Vec<FromNode>) {
        self.lsn += 1;
        let lsn = self.lsn;
        let event = v1::Event { kind: Some(event(lsn)) };
        let room = self.room(name);
        room.lsn = lsn;
        room.events.push((lsn, event.clone()));
        let epoch = Some(room.epoch.into());
        if self.attached.contains(name) {
            let (room, term) = (name.to_owned(), self.term.0);
            out.push(FromNode::Deliver(v1::Deliver { slot: SLOT, term, room, epoch, events: vec![event] }));
        }
    }

    /// Appends a publication, as if from another router.
    pub(super) fn append(&mut self, name: &str, data: Bytes, out: &mut Vec<FromNode>) -> (Epoch, u64) {
        let room = self.room(name);
        room.seq += 1;
        let (epoch, seq) = (room.epoch, room.seq);
        self.truth.insert((epoch, seq), data.clone());
        let publication = |lsn| v1::Publication { seq, lsn, data, ..Default::default() };
        self.emit(name, |lsn| v1::event::Kind::Publication(publication(lsn)), out);
        (epoch, seq)
    }

    /// Somebody joins at another router.
    pub(super) fn elsewhere(&mut self, name: &str, who: &str) {
        let info = v1::ClientInfo { client: who.to_owned(), ..Default::default() };
        self.presence(name, vec![info], Vec::new(), &mut Vec::new());
    }

    /// Answers one message.
    pub(super) fn handle(&mut self, message: ToNode, out: &mut Vec<FromNode>) {
        match message {
            ToNode::Attach(attach) => self.attach(attach, out),
            ToNode::Detach(detach) => {
                for name in detach.rooms {
                    self.attached.remove(&name);
                    let members = self.rooms.get(&name).map(|r| r.members.keys().cloned().collect());
                    self.presence(&name, Vec::new(), members.unwrap_or_default(), out);
                }
            }
            ToNode::Publish(publish) => self.publish(publish, out),
            // Of the publication that tells the members.
            ToNode::Retract(retract) => self.publish(retract.publish.unwrap(), out),
            ToNode::Presence(p) => {
                if self.attached.contains(&p.room) {
                    self.presence(&p.room, p.joined, p.left, out);
                }
            }
            ToNode::History(request) => out.push(FromNode::History(self.history(&request))),
            ToNode::PresenceQuery(request) => {
                let clients: Vec<_> =
                    self.rooms.get(&request.room).map(|r| r.members.values().cloned().collect()).unwrap_or_default();
                let count = u32::try_from(clients.len()).unwrap();
                out.push(FromNode::Presence(v1::PresenceReply {
                    request: request.request,
                    slot: SLOT,
                    term: self.term.0,
                    clients,
                    num_clients: count,
                    num_users: count,
                    refused: None,
                }));
            }
            ToNode::Hello(_) | ToNode::Heartbeat(_) | ToNode::Placement(_) => {}
        }
    }

    fn attach(&mut self, attach: v1::Attach, out: &mut Vec<FromNode>) {
        let mut answer = v1::Attached {
            slot: SLOT,
            attach_id: attach.attach_id,
            term: self.term.0,
            generation: self.generation.0,
            ..Default::default()
        };
        if attach.term_seen > self.term.0 {
            answer.refused = Some(refusal(Reason::Stale));
            out.push(FromNode::Attached(answer));
            return;
        }
        let mut lists = Vec::new();
        for wanted in attach.rooms {
            let base = self.base;
            let room = self.room(&wanted.room);
            let mut attached = v1::RoomAttached {
                room: wanted.room.clone(),
                epoch: Some(room.epoch.into()),
                seq: room.seq,
                lsn: room.lsn,
                ..Default::default()
            };
            match wanted.epoch.map(Epoch::from) {
                None => {}
                Some(epoch) if epoch != room.epoch => attached.gap = true,
                Some(_) if wanted.lsn < base && wanted.lsn < room.lsn => attached.gap = true,
                Some(_) => {
                    assert!(wanted.seq <= room.seq && wanted.lsn <= room.lsn, "the router knows more than there is");
                    (attached.seq, attached.lsn) = (wanted.seq, wanted.lsn);
                    attached.replay =
                        room.events.iter().filter(|(lsn, _)| *lsn > wanted.lsn).map(|(_, e)| e.clone()).collect();
                }
            }
            self.replayed += attached.replay.len();
            answer.rooms.push(attached);
            lists.push((wanted.room, wanted.members));
        }
        out.push(FromNode::Attached(answer));
        if attach.whole {
            self.attached.clear();
        }
        self.attached.extend(lists.iter().map(|(room, _)| room.clone()));
        if attach.whole {
            let others: Vec<String> = self.rooms.keys().filter(|r| !self.attached.contains(*r)).cloned().collect();
            lists.extend(others.into_iter().map(|room| (room, Vec::new())));
        }
        for (name, members) in lists {
            let listed: BTreeSet<&str> = members.iter().map(|m| m.client.as_str()).collect();
            let gone = self.room(&name).members.keys().filter(|c| !listed.contains(c.as_str())).cloned().collect();
            self.presence(&name, members, gone, out);
        }
    }

    fn presence(&mut self, name: &str, joined: Vec<v1::ClientInfo>, left: Vec<String>, out: &mut Vec<FromNode>) {
        for client in left {
            if let Some(info) = self.room(name).members.remove(&client) {
                let info = Some(info);
                self.emit(name, |lsn| v1::event::Kind::Leave(v1::PresenceEvent { lsn, info }), out);
            }
        }
        for info in joined {
            if self.room(name).members.insert(info.client.clone(), info.clone()).is_none() {
                let info = Some(info);
                self.emit(name, |lsn| v1::event::Kind::Join(v1::PresenceEvent { lsn, info }), out);
            }
        }
    }

    fn publish(&mut self, publish: v1::Publish, out: &mut Vec<FromNode>) {
        let number = publish.number;
        assert!(publish.settled_below < number, "a settled number is never sent");
        assert!(number > self.settled, "number {number} was said to be settled (up to {})", self.settled);
        let mut answer = v1::Published { slot: SLOT, number, term: self.term.0, ..Default::default() };
        if publish.generation != 0 && publish.generation != self.generation.0 {
            answer.refused = Some(refusal(Reason::OtherGeneration));
        } else {
            let known = self.numbers.get(&number).copied();
            self.repeats += u32::from(known.is_some());
            let (epoch, seq) = known.unwrap_or_else(|| self.append(&publish.room, publish.data, out));
            self.numbers.insert(number, (epoch, seq));
            (answer.epoch, answer.seq) = (Some(epoch.into()), seq);
        }
        self.settled = self.settled.max(publish.settled_below);
        self.numbers = self.numbers.split_off(&(self.settled + 1));
        out.push(FromNode::Published(answer));
    }

    fn history(&self, request: &v1::HistoryRequest) -> v1::HistoryReply {
        let mut reply =
            v1::HistoryReply { request: request.request, slot: SLOT, term: self.term.0, ..Default::default() };
        let Some(room) = self.rooms.get(&request.room) else { return reply };
        (reply.epoch, reply.seq) = (Some(room.epoch.into()), room.seq);
        if request.since_epoch.is_some_and(|e| Epoch::from(e) != room.epoch) {
            reply.refused = Some(refusal(Reason::UnknownEpoch));
            return reply;
        }
        let kept = room.events.iter().filter(|(lsn, _)| *lsn > self.base);
        reply.publications = kept
            .filter_map(|(_, e)| match &e.kind {
                Some(v1::event::Kind::Publication(p)) if p.seq > request.since_seq => Some(p.clone()),
                _ => None,
            })
            .collect();
        reply
    }
}

fn refusal(reason: Reason) -> v1::Refusal {
    v1::Refusal { reason: reason.into(), text: "as the script says".to_owned() }
}

/// What a node says that is no primary of the slot, to a message that wants an answer.
pub(super) fn not_primary(message: &ToNode, term: Term, out: &mut Vec<FromNode>) {
    let none = FromNode::NotPrimary(v1::NotPrimary { slot: SLOT, term: term.0, placement: None });
    match message {
        ToNode::Publish(p) => {
            let refused = Some(refusal(Reason::NotPrimary));
            let (number, term) = (p.number, term.0);
            out.push(FromNode::Published(v1::Published { slot: SLOT, number, term, refused, ..Default::default() }));
            out.push(none);
        }
        ToNode::Retract(_) => panic!("nobody retracts"),
        ToNode::Attach(_) | ToNode::History(_) | ToNode::PresenceQuery(_) => out.push(none),
        ToNode::Detach(_) | ToNode::Presence(_) => {}
        ToNode::Hello(_) | ToNode::Heartbeat(_) | ToNode::Placement(_) => {}
    }
}
