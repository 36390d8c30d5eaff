//! All rooms of one slot.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use roomring_proto::{Epoch, Generation, Incarnation, Lsn, RoomId, Seq, Uid, v1};
use v1::event::Kind;

use super::limits::LimitMet;
use super::numbers::{Number, Place, RouterNumbers};
use super::quiet::Quiet;
use super::state::{Room, Taken};
use crate::entry::{Body, Client, Entry, Publish};
use roomring_control::placement::RoomLimits;

/// What members of a room see of an entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The room.
    pub room: RoomId,
    /// The identity of its history.
    pub epoch: Epoch,
    /// What happened.
    pub event: v1::Event,
}

/// Who comes or goes by an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The room.
    pub room: RoomId,
    /// The identity of its history.
    pub epoch: Epoch,
    /// Who.
    pub info: Client,
    /// The router process that holds, or held, its socket.
    pub router: Incarnation,
    /// It goes.
    pub left: bool,
    /// Members of the room afterwards.
    pub clients: usize,
}

/// The committed state of all rooms of one slot. Entries go in through [`Rooms::apply`], in order of lsn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rooms {
    pub(super) uid: Uid,
    pub(super) generation: Generation,
    pub(super) limits: RoomLimits,
    pub(super) rooms: BTreeMap<RoomId, Held>,
    pub(super) numbers: BTreeMap<Incarnation, RouterNumbers>,
    pub(super) last_time_ms: u64,
    /// Members per router.
    routers: BTreeMap<Incarnation, usize>,
    /// Rooms by when something of them is too old.
    due: BTreeSet<(u64, RoomId)>,
    removable: BTreeSet<RoomId>,
    members: usize,
    bytes: usize,
}

/// A room as it is held. Boxed: a tree keeps room for up to twice as many as are in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Held {
    Live(Box<Room>),
    Quiet(Quiet),
}

impl Held {
    fn of(room: Room) -> Self {
        Quiet::of(&room).map_or_else(|| Self::Live(Box::new(room)), Self::Quiet)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Live(room) => room.bytes(),
            Self::Quiet(quiet) => quiet.bytes(),
        }
    }
}

/// What the indexes of [`Rooms`] hold of a room; the default for a room that is not there.
#[derive(Default)]
struct Mark {
    due: Option<u64>,
    removable: bool,
    members: usize,
    bytes: usize,
}

impl Mark {
    /// `bytes`: those of the room as it is held.
    fn of(name: &RoomId, room: &Room, bytes: usize, limits: &RoomLimits) -> Self {
        Self {
            due: room.due(limits),
            removable: room.is_removable(),
            members: room.num_clients(),
            bytes: bytes + name.as_str().len(),
        }
    }
}

impl Rooms {
    /// A slot without rooms. `uid` and `generation` name the epochs of its rooms.
    pub fn new(uid: Uid, generation: Generation, limits: RoomLimits) -> Self {
        Self {
            uid,
            generation,
            limits,
            rooms: BTreeMap::new(),
            numbers: BTreeMap::new(),
            last_time_ms: 0,
            routers: BTreeMap::new(),
            due: BTreeSet::new(),
            removable: BTreeSet::new(),
            members: 0,
            bytes: 0,
        }
    }

    /// Applies the next committed entry. What members are to see comes back: a publication, a join, a leave.
    ///
    /// A client that joins again is replaced without an event, and an absent one leaves without. A publish to no room, or
    /// one that is not the next of its room, is left out and its number stays unknown: a primary never logs one. `Create`
    /// and `Remove` do as they say whatever is there.
    pub fn apply(&mut self, entry: &Entry) -> Option<Applied> {
        self.last_time_ms = self.last_time_ms.max(entry.time_ms);
        match &entry.body {
            Body::Create { room, keeps } => {
                self.remove(room);
                self.insert(room.clone(), Room::new(self.epoch(entry.lsn), *keeps));
                None
            }
            Body::Publish { room, publish } => self.publish(room, entry.lsn, publish),
            Body::Join { room, info, router } => self.join(room, entry.lsn, info, *router),
            Body::Leave { room, client } => self.leave(room, entry.lsn, client),
            Body::Expire => {
                self.expire();
                None
            }
            Body::Remove { room } => {
                self.remove(room);
                None
            }
        }
    }

    /// Who comes or goes by an entry that is to be applied next.
    pub fn visit(&self, entry: &Entry) -> Option<Visit> {
        let (name, client) = match &entry.body {
            Body::Join { room, info, .. } => (room, &info.client),
            Body::Leave { room, client } => (room, client),
            Body::Create { .. } | Body::Publish { .. } | Body::Expire | Body::Remove { .. } => return None,
        };
        let room = self.get(name.as_str())?;
        let (info, router, left, clients) = match (&entry.body, room.member(client)) {
            (Body::Join { info, router, .. }, None) => (info, *router, false, room.num_clients() + 1),
            (Body::Leave { .. }, Some((info, router))) => (info, router, true, room.num_clients() - 1),
            // It is there, or gone, already.
            _ => return None,
        };
        Some(Visit { room: name.clone(), epoch: room.epoch, info: info.clone(), router, left, clients })
    }

    /// The room, if it exists.
    pub fn get(&self, room: &str) -> Option<Cow<'_, Room>> {
        self.rooms.get(room).map(|held| self.open(held))
    }

    /// Epoch and top of a room, if it exists: they are cheap to have, whoever is in it.
    pub fn top(&self, room: &str) -> Option<(Epoch, Seq)> {
        self.rooms.get(room).map(|held| self.top_of(held))
    }

    /// All rooms by name, with members, epoch and top.
    pub fn tops(&self) -> impl Iterator<Item = (&RoomId, usize, (Epoch, Seq))> {
        self.rooms.iter().map(|(name, held)| {
            let members = match held {
                Held::Live(room) => room.num_clients(),
                Held::Quiet(_) => 0,
            };
            (name, members, self.top_of(held))
        })
    }

    /// The name of a room that exists, as it is held here: a clone of it takes no memory.
    pub fn name(&self, room: &str) -> Option<&RoomId> {
        self.rooms.get_key_value(room).map(|(name, _)| name)
    }

    /// All rooms, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&RoomId, Cow<'_, Room>)> {
        self.rooms.iter().map(|(name, held)| (name, self.open(held)))
    }

    /// Number of rooms.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// No room exists.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Number of members, over all rooms.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Estimate of the memory held: payloads, names and a flat overhead for each thing kept.
    pub fn bytes(&self) -> usize {
        self.bytes + self.numbers.values().map(RouterNumbers::bytes).sum::<usize>()
    }

    /// The limits.
    pub fn limits(&self) -> &RoomLimits {
        &self.limits
    }

    /// Time of the newest entry, unix ms; 0 before the first.
    pub fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// From when on an `Expire` entry changes something, in unix ms; `None` if nothing here ages.
    pub fn expiry_due(&self) -> Option<u64> {
        let rooms = self.due.first().map(|(due, _)| *due);
        let routers = self.numbers.iter().filter_map(|(router, numbers)| self.numbers_due(*router, numbers)).min();
        [rooms, routers].into_iter().flatten().min()
    }

    /// Rooms that may be removed as far as their state goes: no members, no history, no remembered ids. That no router is
    /// attached, and that no entry for the room is under way, is for the primary to check.
    pub fn removable(&self) -> impl Iterator<Item = &RoomId> {
        self.removable.iter()
    }

    /// Every member that came through `router`: room and connection id. Walks all members.
    pub fn members_of_router(&self, router: Incarnation) -> Vec<(RoomId, String)> {
        if !self.routers.contains_key(&router) {
            return Vec::new();
        }
        let of_room = |(name, held): (&RoomId, &Held)| {
            // Nobody is in the others.
            let Held::Live(room) = held else { return Vec::new() };
            let clients = room.members.iter().filter(|m| m.router == router).map(|m| m.info.client.clone());
            clients.map(|client| (name.clone(), client)).collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(of_room).collect()
    }

    /// Router processes that have members here.
    pub fn routers(&self) -> BTreeSet<Incarnation> {
        self.routers.keys().copied().collect()
    }

    /// What became of publish `number` of `router`, as far as committed entries tell.
    pub fn number(&self, router: Incarnation, number: u64) -> Number {
        self.numbers.get(&router).map_or(Number::Unknown, |n| n.get(number))
    }

    /// Place of the first publication under this id, while it is remembered.
    pub fn seen_id(&self, room: &str, id: &str) -> Option<Seq> {
        self.get(room)?.ids.get(id)
    }

    /// Whether `count` more rooms may be created.
    pub fn admits_rooms(&self, count: usize) -> Result<(), LimitMet> {
        LimitMet::check("too many rooms in this slot", self.rooms.len(), count, self.limits.rooms)
    }

    /// Whether `count` more members may join `room`.
    pub fn admits_members(&self, room: &str, count: usize) -> Result<(), LimitMet> {
        let held = self.get(room).map_or(0, |room| room.num_clients());
        LimitMet::check("too many members in this room", held, count, self.limits.members)
    }

    /// Whether `count` more publishes with an id may be made in `room`.
    pub fn admits_ids(&self, room: &str, count: usize) -> Result<(), LimitMet> {
        let held = self.get(room).map_or(0, |room| room.num_ids());
        LimitMet::check("too many publish ids remembered in this room", held, count, self.limits.ids_per_room)
    }

    pub(super) fn epoch(&self, created: Lsn) -> Epoch {
        Epoch { uid: self.uid, generation: self.generation, created }
    }

    /// Remembers a number whose publish is not committed: what [`crate::slot::Rule::RemembersFromLog`] forbids.
    pub(crate) fn remember_early(&mut self, router: Incarnation, number: u64, epoch: Epoch, seq: Seq) {
        let place = Place { epoch, seq, duplicate: false };
        self.numbers.entry(router).or_default().record(number, 0, place, self.last_time_ms);
    }

    /// Puts a room in place; there must be none.
    pub(super) fn insert(&mut self, name: RoomId, room: Room) {
        for member in room.members.iter() {
            *self.routers.entry(member.router).or_default() += 1;
        }
        let mut mark = Mark::of(&name, &room, 0, &self.limits);
        let held = Held::of(room);
        mark.bytes += held.bytes();
        self.index(&name, Mark::default(), mark);
        self.rooms.insert(name, held);
    }

    fn remove(&mut self, name: &RoomId) {
        let Some(held) = self.rooms.remove(name) else { return };
        let room = self.open(&held);
        let was = Mark::of(name, &room, held.bytes(), &self.limits);
        for member in room.members.iter() {
            drop_one(&mut self.routers, member.router);
        }
        self.index(name, was, Mark::default());
    }

    fn publish(&mut self, name: &RoomId, lsn: Lsn, publish: &Publish) -> Option<Applied> {
        let now = self.last_time_ms;
        let (epoch, taken) = self.change(name, |room, limits| room.publish(lsn, now, publish, limits))?;
        let (duplicate, event) = match taken {
            Taken::Appended(publication) => (false, Some(Kind::Publication(publication))),
            Taken::Duplicate => (true, None),
            Taken::Left => return None,
        };
        if publish.number != 0 {
            let place = Place { epoch, seq: publish.seq, duplicate };
            let numbers = self.numbers.entry(publish.router).or_default();
            numbers.record(publish.number, publish.settled_below, place, now);
        }
        event.map(|kind| applied(name, epoch, kind))
    }

    fn join(&mut self, name: &RoomId, lsn: Lsn, info: &Client, router: Incarnation) -> Option<Applied> {
        let (epoch, (event, before)) = self.change(name, |room, limits| room.join(lsn, info, router, limits))?;
        *self.routers.entry(router).or_default() += 1;
        if let Some(before) = before {
            drop_one(&mut self.routers, before);
        }
        event.map(|kind| applied(name, epoch, kind))
    }

    fn leave(&mut self, name: &RoomId, lsn: Lsn, client: &str) -> Option<Applied> {
        let (epoch, (event, router)) = self.change(name, |room, limits| room.leave(lsn, client, limits))?;
        if let Some(router) = router {
            drop_one(&mut self.routers, router);
        }
        event.map(|kind| applied(name, epoch, kind))
    }

    fn expire(&mut self) {
        let now = self.last_time_ms;
        while let Some((due, name)) = self.due.first()
            && *due <= now
        {
            let name = name.clone();
            self.change(&name, |room, limits| room.expire(now, limits));
        }
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.retain(|router, n| self.numbers_due(*router, n).is_none_or(|due| due > now));
        self.numbers = numbers;
    }

    /// When the numbers of a router are forgotten. Not while it has members: it lives, and may send again after a failover
    /// to a primary whose clock is ahead. Without members the window is far longer than it sends anything again.
    fn numbers_due(&self, router: Incarnation, numbers: &RouterNumbers) -> Option<u64> {
        (!self.routers.contains_key(&router)).then(|| numbers.time_ms.saturating_add(self.limits.id_window_ms()))
    }

    /// Runs `act` on a room, if it exists, and keeps the indexes right.
    fn change<T>(&mut self, name: &RoomId, act: impl FnOnce(&mut Room, &RoomLimits) -> T) -> Option<(Epoch, T)> {
        let held = self.rooms.get_mut(name)?;
        let held_bytes = held.bytes();
        if let Held::Quiet(quiet) = held {
            let (uid, generation) = (self.uid, self.generation);
            let room = quiet.room(|created| Epoch { uid, generation, created }, &self.limits);
            *held = Held::Live(Box::new(room));
        }
        let Held::Live(room) = held else { return None };
        let was = Mark::of(name, room, held_bytes, &self.limits);
        let result = act(room, &self.limits);
        let mut is = Mark::of(name, room, 0, &self.limits);
        let epoch = room.epoch();
        if let Some(quiet) = Quiet::of(room) {
            debug_assert_eq!(quiet.room(|_| epoch, &self.limits), **room, "nothing of it is lost");
            *held = Held::Quiet(quiet);
        }
        is.bytes += held.bytes();
        self.index(name, was, is);
        Some((epoch, result))
    }

    fn open<'a>(&self, held: &'a Held) -> Cow<'a, Room> {
        match held {
            Held::Live(room) => Cow::Borrowed(room),
            Held::Quiet(quiet) => Cow::Owned(quiet.room(|created| self.epoch(created), &self.limits)),
        }
    }

    fn top_of(&self, held: &Held) -> (Epoch, Seq) {
        match held {
            Held::Live(room) => (room.epoch(), room.seq()),
            Held::Quiet(quiet) => {
                let (created, seq) = quiet.head();
                (self.epoch(created), seq)
            }
        }
    }

    fn index(&mut self, name: &RoomId, was: Mark, is: Mark) {
        self.members = self.members + is.members - was.members;
        self.bytes = self.bytes + is.bytes - was.bytes;
        if was.due != is.due {
            if let Some(due) = was.due {
                self.due.remove(&(due, name.clone()));
            }
            if let Some(due) = is.due {
                self.due.insert((due, name.clone()));
            }
        }
        if was.removable && !is.removable {
            self.removable.remove(name);
        } else if is.removable && !was.removable {
            self.removable.insert(name.clone());
        }
    }
}

fn applied(room: &RoomId, epoch: Epoch, kind: Kind) -> Applied {
    Applied { room: room.clone(), epoch, event: v1::Event { kind: Some(kind) } }
}

fn drop_one(routers: &mut BTreeMap<Incarnation, usize>, router: Incarnation) {
    if let Some(count) = routers.get_mut(&router) {
        *count -= 1;
        if *count == 0 {
            routers.remove(&router);
        }
    }
}
