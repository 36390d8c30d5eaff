//! The state of a slot as parts to send, and back.

use std::collections::BTreeMap;

use prost::Message;
use roomring_proto::{Epoch, Generation, Incarnation, Lsn, Malformed, RoomId, Seq, Uid, v1};

use super::numbers::{Place, RouterNumbers};
use super::presence::Member;
use super::rooms::Rooms;
use super::state::Room;
use crate::entry::own_both;
use roomring_control::placement::RoomLimits;

/// Room for a field's tag and length around what is counted.
const FRAME: usize = 8;

impl Rooms {
    /// The whole state as parts of about `part_bytes` encoded bytes; a single publication or member may make one larger.
    /// A large room goes on in the next part under the same head. Never empty.
    pub fn snapshot(&self, part_bytes: usize) -> Vec<v1::SlotState> {
        let mut parts = Parts { limit: part_bytes, done: Vec::new(), current: v1::SlotState::default(), size: 0 };
        for (name, room) in self.iter() {
            parts.room(name, &room);
        }
        for (router, numbers) in &self.numbers {
            parts.router(*router, numbers);
        }
        parts.current.last_time_ms = self.last_time_ms;
        parts.done.push(parts.current);
        parts.done
    }

    /// The state that a [`Rooms::snapshot`] was made of.
    ///
    /// # Errors
    /// If the parts are not what a snapshot makes: a bad name, a head that differs from part to part, a hole in a history.
    pub fn install(
        uid: Uid,
        generation: Generation,
        limits: RoomLimits,
        parts: impl Iterator<Item = v1::SlotState>,
    ) -> Result<Self, Malformed> {
        let mut rooms = Self::new(uid, generation, limits);
        let mut filling: BTreeMap<RoomId, Room> = BTreeMap::new();
        for part in parts {
            for state in part.rooms {
                let name = RoomId::new(&state.room)?;
                let epoch = rooms.epoch(Lsn(state.created));
                let room = filling.entry(name).or_insert_with(|| head(epoch, &state));
                fill(room, epoch, state, &rooms.limits)?;
            }
            for state in part.routers {
                install_router(&mut rooms.numbers, state)?;
            }
            rooms.last_time_ms = rooms.last_time_ms.max(part.last_time_ms);
        }
        for (name, mut room) in filling {
            if room.history.last().is_some_and(|last| last.seq != room.seq.0) {
                return Err(Malformed(format!("history of room {name:?} does not end at its top")));
            }
            room.relist(&rooms.limits);
            rooms.insert(name, room);
        }
        Ok(rooms)
    }
}

struct Parts {
    limit: usize,
    done: Vec<v1::SlotState>,
    current: v1::SlotState,
    size: usize,
}

impl Parts {
    fn room(&mut self, name: &RoomId, room: &Room) {
        let head = v1::RoomState { room: name.as_str().to_owned(), ..head_of(room) };
        self.make_space(head.encoded_len());
        self.current.rooms.push(head.clone());
        for publication in room.history.iter() {
            self.in_room(&head, publication.encoded_len()).history.push(publication.clone());
        }
        for member in room.members.iter() {
            let state = v1::MemberState {
                info: Some((&member.info).into()),
                router: member.router.0,
                announced: member.announced,
            };
            self.in_room(&head, state.encoded_len()).members.push(state);
        }
        for (id, seq, time_ms) in room.ids.iter() {
            let state = seen_id(id, seq, time_ms);
            self.in_room(&head, state.encoded_len()).ids.push(state);
        }
    }

    /// The room state to put something of `len` bytes into: the open one, or the head again in a new part.
    fn in_room(&mut self, head: &v1::RoomState, len: usize) -> &mut v1::RoomState {
        if self.make_space(len) {
            self.size += head.encoded_len() + FRAME;
            self.current.rooms.push(head.clone());
        }
        self.current.rooms.last_mut().expect("a head was pushed to this part")
    }

    fn router(&mut self, router: Incarnation, numbers: &RouterNumbers) {
        let state = v1::RouterState {
            router: router.0,
            settled_below: numbers.settled_below,
            time_ms: numbers.time_ms,
            numbers: numbers.places.iter().map(|(number, place)| number_state(*number, place)).collect(),
        };
        // Routers stay in the last part whatever their size: tens of bytes for each publish in flight.
        self.current.routers.push(state);
    }

    /// Counts `len` bytes more; begins a new part first if they don't fit this one. True if it did.
    fn make_space(&mut self, len: usize) -> bool {
        let full = self.size > 0 && self.size + len + FRAME > self.limit;
        if full {
            self.done.push(std::mem::take(&mut self.current));
            self.size = 0;
        }
        self.size += len + FRAME;
        full
    }
}

/// A room that nobody is in, in one piece and without its name.
pub(super) fn whole(room: &Room) -> v1::RoomState {
    v1::RoomState {
        history: room.history.iter().cloned().collect(),
        ids: room.ids.iter().map(|(id, seq, time_ms)| seen_id(id, seq, time_ms)).collect(),
        ..head_of(room)
    }
}

/// The room that is [`whole`].
pub(super) fn room(epoch: Epoch, state: v1::RoomState, limits: &RoomLimits) -> Result<Room, Malformed> {
    let mut room = head(epoch, &state);
    fill(&mut room, epoch, state, limits)?;
    Ok(room)
}

fn head_of(room: &Room) -> v1::RoomState {
    v1::RoomState {
        created: room.created().0,
        seq: room.seq.0,
        lsn: room.lsn.0,
        presence_lsn: room.presence_lsn.0,
        keeps: room.history.keeps().into(),
        ..Default::default()
    }
}

fn seen_id(id: &str, seq: Seq, time_ms: u64) -> v1::SeenId {
    v1::SeenId { id: id.to_owned(), seq: seq.0, time_ms }
}

fn number_state(number: u64, place: &Place) -> v1::NumberState {
    v1::NumberState { number, epoch: Some(place.epoch.into()), seq: place.seq.0, duplicate: place.duplicate }
}

fn head(epoch: Epoch, state: &v1::RoomState) -> Room {
    Room {
        seq: Seq(state.seq),
        lsn: Lsn(state.lsn),
        presence_lsn: Lsn(state.presence_lsn),
        ..Room::new(epoch, state.keeps.into())
    }
}

fn fill(room: &mut Room, epoch: Epoch, state: v1::RoomState, limits: &RoomLimits) -> Result<(), Malformed> {
    let malformed = |what: &str| Malformed(format!("room {:?} in a snapshot: {what}", state.room));
    if (room.epoch, room.seq.0, room.lsn.0) != (epoch, state.seq, state.lsn) {
        return Err(malformed("its head changes from part to part"));
    }
    for publication in state.history {
        if room.history.last().is_some_and(|last| last.seq.checked_add(1) != Some(publication.seq)) {
            return Err(malformed("its history has a hole"));
        }
        let (data, info) = own_both(&publication.data, &publication.info);
        room.history.push(v1::Publication { data, info, ..publication }, limits);
    }
    for member in state.members {
        let info = member.info.ok_or_else(|| malformed("a member lacks its client"))?;
        let member = Member { info: info.into(), router: Incarnation(member.router), announced: member.announced };
        if room.members.insert(member).is_some() {
            return Err(malformed("a member is there twice"));
        }
    }
    for id in state.ids {
        room.ids.insert(&id.id, Seq(id.seq), id.time_ms);
    }
    Ok(())
}

fn install_router(numbers: &mut BTreeMap<Incarnation, RouterNumbers>, state: v1::RouterState) -> Result<(), Malformed> {
    let router = numbers.entry(Incarnation(state.router)).or_default();
    router.settled_below = state.settled_below;
    router.time_ms = state.time_ms;
    for number in state.numbers {
        let lacks = || Malformed(format!("number {} in a snapshot lacks its epoch", number.number));
        let epoch = number.epoch.ok_or_else(lacks)?.into();
        router.places.insert(number.number, Place { epoch, seq: Seq(number.seq), duplicate: number.duplicate });
    }
    Ok(())
}
