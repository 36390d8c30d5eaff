//! What the uncommitted entries of a primary will make of the rooms: the next sequence, who is in, what is under way.

use std::collections::BTreeMap;

use roomring_proto::{Epoch, Incarnation, Lsn, RoomId, Seq};

use super::replica::Replica;
use crate::entry::{Body, Entry};

/// A room with uncommitted entries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TailRoom {
    /// Uncommitted entries about it.
    pending: usize,
    /// `None` if the last of them removes it.
    state: Option<(Lsn, Seq)>,
    /// Last uncommitted word on each client: the router that holds it, or gone.
    members: BTreeMap<String, Option<Incarnation>>,
}

/// The effect of the uncommitted entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Tail {
    rooms: BTreeMap<RoomId, TailRoom>,
    created: usize,
    numbers: BTreeMap<(Incarnation, u64), Lsn>,
    ids: BTreeMap<(RoomId, String), Lsn>,
    bytes: usize,
}

impl Tail {
    /// Bytes of uncommitted entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rooms that uncommitted entries create.
    pub(super) fn created(&self) -> usize {
        self.created
    }

    /// Epoch and last assigned sequence of a room, uncommitted entries included; `None` if there is no such room.
    pub(super) fn room(&self, room: &RoomId, replica: &Replica, epoch: impl Fn(Lsn) -> Epoch) -> Option<(Epoch, Seq)> {
        match self.rooms.get(room) {
            Some(tail) => tail.state.map(|(created, seq)| (epoch(created), seq)),
            None => replica.rooms.top(room.as_str()),
        }
    }

    /// Publishes with an id among the uncommitted entries.
    pub(super) fn ids(&self) -> usize {
        self.ids.len()
    }

    /// Whether a room has uncommitted entries.
    pub(super) fn touches(&self, room: &RoomId) -> bool {
        self.rooms.contains_key(room)
    }

    /// The uncommitted entry that carries this publish number.
    pub(super) fn number(&self, router: Incarnation, number: u64) -> Option<Lsn> {
        self.numbers.get(&(router, number)).copied()
    }

    /// The uncommitted entry that carries this publish id.
    pub(super) fn id(&self, room: &RoomId, id: &str) -> Option<Lsn> {
        // Few publishes carry ids: the allocation for the key is paid by them alone.
        self.ids.get(&(room.clone(), id.to_owned())).copied()
    }

    /// The router that holds `client` in `room`, uncommitted entries included.
    pub(super) fn member(&self, room: &RoomId, client: &str, replica: &Replica) -> Option<Incarnation> {
        if let Some(tail) = self.rooms.get(room) {
            tail.state?;
            if let Some(word) = tail.members.get(client) {
                return *word;
            }
        }
        replica.rooms.get(room.as_str())?.member(client).map(|(_, router)| router)
    }

    /// The clients that `router` holds in `room`, uncommitted entries included.
    pub(super) fn members_of(&self, room: &RoomId, router: Incarnation, replica: &Replica) -> Vec<String> {
        let tail = self.rooms.get(room);
        if tail.is_some_and(|t| t.state.is_none()) {
            return Vec::new();
        }
        let mut clients: Vec<String> =
            replica.rooms.get(room.as_str()).map(|r| r.clients_of(router)).unwrap_or_default();
        if let Some(tail) = tail {
            clients.retain(|c| !tail.members.contains_key(c));
            clients.extend(tail.members.iter().filter(|(_, r)| **r == Some(router)).map(|(c, _)| c.clone()));
        }
        clients
    }

    /// The clients that uncommitted entries let join through `router`, with their rooms.
    pub(super) fn joined_through(&self, router: Incarnation) -> Vec<(RoomId, String)> {
        let of_room = |(room, tail): (&RoomId, &TailRoom)| {
            let joined = tail.members.iter().filter(|(_, r)| **r == Some(router));
            joined.map(|(client, _)| (room.clone(), client.clone())).collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(of_room).collect()
    }

    /// Whether both remember the same publishes.
    pub(super) fn remembers_as(&self, other: &Self) -> bool {
        (&self.numbers, &self.ids, self.created, self.bytes) == (&other.numbers, &other.ids, other.created, other.bytes)
    }

    /// Notes an entry that was appended.
    pub(super) fn push(&mut self, entry: &Entry, replica: &Replica) {
        self.bytes += entry.cost();
        let Some(room) = entry.room() else { return };
        let tail = self.rooms.entry(room.clone()).or_insert_with(|| TailRoom {
            pending: 0,
            state: replica.rooms.top(room.as_str()).map(|(epoch, seq)| (epoch.created, seq)),
            members: BTreeMap::new(),
        });
        tail.pending += 1;
        match &entry.body {
            Body::Create { .. } => {
                tail.state = Some((entry.lsn, Seq(0)));
                self.created += 1;
            }
            Body::Remove { .. } => {
                tail.state = None;
                tail.members.clear();
            }
            Body::Publish { room, publish } => {
                if let Some((_, seq)) = &mut tail.state {
                    *seq = publish.seq;
                }
                if publish.number != 0 {
                    self.numbers.insert((publish.router, publish.number), entry.lsn);
                }
                if !publish.id.is_empty() {
                    self.ids.insert((room.clone(), publish.id.clone()), entry.lsn);
                }
            }
            Body::Join { info, router, .. } => {
                tail.members.insert(info.client.clone(), Some(*router));
            }
            Body::Leave { client, .. } => {
                tail.members.insert(client.clone(), None);
            }
            Body::Expire => {}
        }
    }

    /// Notes that an entry was committed and applied.
    pub(super) fn pop(&mut self, entry: &Entry) {
        self.bytes = self.bytes.saturating_sub(entry.cost());
        let Some(room) = entry.room() else { return };
        if let Some(tail) = self.rooms.get_mut(room) {
            tail.pending -= 1;
            if tail.pending == 0 {
                self.rooms.remove(room);
            }
        }
        match &entry.body {
            Body::Create { .. } => self.created = self.created.saturating_sub(1),
            Body::Publish { room, publish } => {
                self.numbers.remove(&(publish.router, publish.number));
                if !publish.id.is_empty() {
                    self.ids.remove(&(room.clone(), publish.id.clone()));
                }
            }
            Body::Join { .. } | Body::Leave { .. } | Body::Expire | Body::Remove { .. } => {}
        }
    }
}
