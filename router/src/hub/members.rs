//! The members of one room at this router, each with a position of its own. Pure, but for the pushes into their queues.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use roomring_proto::close::CloseCode;
use roomring_proto::{Epoch, RoomId, Seq, v1};

use super::api::{Client, Position, ToClient};
use super::encode::{Encoded, Event};
use super::queue::Pushed;

/// A client, ordered by its id.
#[derive(Debug, Clone)]
pub(super) struct ById(pub(super) Arc<Client>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ById {}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Member {
    /// Last publication it has. Never behind the room's position here, ahead if it came from a router that was further.
    seq: Seq,
    join_leave: bool,
    /// It was told of its own coming.
    announced: bool,
}

/// What a delivery did.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Pushes queued.
    pub(super) pushes: u64,
    /// Clients that turned out to be slow.
    pub(super) slow: u64,
    /// Clients whose queue is closed: they are gone, whoever was to say so.
    pub(super) gone: Vec<Arc<Client>>,
}

/// The members of a room.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Members {
    all: BTreeMap<ById, Member>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn contains(&self, client: &str) -> bool {
        self.all.contains_key(client)
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.all.keys().map(|key| &key.0)
    }

    /// Adds a client that has everything up to `seq`.
    pub(super) fn insert(&mut self, client: Arc<Client>, seq: Seq, join_leave: bool) {
        self.all.insert(ById(client), Member { seq, join_leave, announced: false });
    }

    pub(super) fn remove(&mut self, client: &str) -> bool {
        self.all.remove(client).is_some()
    }

    /// Pushes a publication to every member that has the one before it. Queues that are to be flushed are added to `owed`.
    pub(super) fn publication(
        &mut self,
        room: &RoomId,
        epoch: Epoch,
        publication: &v1::Publication,
        owed: &mut Vec<Arc<Client>>,
    ) -> Delivered {
        let encoded = Encoded::new(room, epoch, Event::Publication(publication));
        let mut delivered = Delivered::default();
        for (ById(client), member) in &mut self.all {
            // A higher one cannot come: the room itself goes up by one, and no member is behind it.
            if publication.seq.checked_sub(1) == Some(member.seq.0) {
                member.seq = Seq(publication.seq);
                delivered.push(client, &encoded, owed);
            }
        }
        delivered
    }

    /// Tells members that want to know that somebody came or, if `left`, went. A member hears once that it came itself, and
    /// never that it went: what a slow primary still says of its earlier visits is not news to it.
    pub(super) fn presence(
        &mut self,
        room: &RoomId,
        epoch: Epoch,
        info: &v1::ClientInfo,
        left: bool,
        owed: &mut Vec<Arc<Client>>,
    ) -> Delivered {
        let event = if left { Event::Leave(info) } else { Event::Join(info) };
        let encoded = Encoded::new(room, epoch, event);
        let mut delivered = Delivered::default();
        for (ById(client), member) in self.all.iter_mut().filter(|(_, member)| member.join_leave) {
            if client.id == info.client && (left || std::mem::replace(&mut member.announced, true)) {
                continue;
            }
            delivered.push(client, &encoded, owed);
        }
        delivered
    }

    /// Removes, and tells, every member that is behind `seq`: it subscribes again by itself, and recovers if that is possible.
    pub(super) fn drop_behind(&mut self, room: &RoomId, epoch: Epoch, seq: Seq) -> Vec<Arc<Client>> {
        self.drop_if(room, epoch, |member| member.seq < seq)
    }

    /// As [`Self::drop_behind`], and also every member that is told of joins and leaves: some of those are missing.
    pub(super) fn drop_for_gap(&mut self, room: &RoomId, epoch: Epoch, seq: Seq) -> Vec<Arc<Client>> {
        self.drop_if(room, epoch, |member| member.seq < seq || member.join_leave)
    }

    fn drop_if(&mut self, room: &RoomId, epoch: Epoch, goes: impl Fn(&Member) -> bool) -> Vec<Arc<Client>> {
        let mut dropped = Vec::new();
        self.all.retain(|ById(client), member| {
            if !goes(member) {
                return true;
            }
            let code = CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE;
            let position = Some(Position { epoch, seq: member.seq });
            client.queue.push(ToClient::Dropped { room: room.clone(), code, position });
            dropped.push(client.clone());
            false
        });
        dropped
    }

    /// Like [`Self::drop_behind`], all of them: their history is over.
    pub(super) fn drop_all(&mut self, room: &RoomId, epoch: Epoch) -> Vec<Arc<Client>> {
        self.drop_behind(room, epoch, Seq(u64::MAX))
    }
}

impl Delivered {
    fn push(&mut self, client: &Arc<Client>, encoded: &Encoded<'_>, owed: &mut Vec<Arc<Client>>) {
        match client.queue.push(ToClient::Push(encoded.get(client.codec))) {
            Pushed::Queued => self.pushes += 1,
            Pushed::Owed => {
                self.pushes += 1;
                owed.push(client.clone());
            }
            Pushed::Overflowed => self.slow += 1,
            Pushed::Refused if client.queue.is_slow() => {}
            Pushed::Refused => self.gone.push(client.clone()),
        }
    }
}
