//! What the tests of the rooms share: a log that is built and applied entry by entry.

use std::borrow::Cow;

use bytes::Bytes;
use roomring_proto::{Generation, Incarnation, Lsn, RoomId, Seq, Term, Uid, v1};
use v1::event::Kind;

use super::*;
use crate::entry::{Body, Client, Entry, Publish, Retracts};

pub(super) const UID: Uid = Uid(7);
pub(super) const GENERATION: Generation = Generation(3);
pub(super) const R1: Incarnation = Incarnation(101);
pub(super) const R2: Incarnation = Incarnation(102);

pub(super) fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

pub(super) fn ann(client: &str) -> Client {
    Client { user: "ann".into(), client: client.into(), ..Client::default() }
}

/// As publications have it.
pub(super) fn told(client: &Client) -> Bytes {
    v1::ClientInfo::from(client).packed()
}

/// Makes entries in order, and applies them.
pub(super) struct Log {
    pub(super) rooms: Rooms,
    pub(super) lsn: Lsn,
    pub(super) now: u64,
}

impl Log {
    pub(super) fn new(limits: RoomLimits) -> Self {
        Self { rooms: Rooms::new(UID, GENERATION, limits), lsn: Lsn(0), now: 1_000_000 }
    }

    pub(super) fn entry(&mut self, body: Body) -> Entry {
        self.lsn = self.lsn.next();
        Entry { generation: GENERATION, term: Term(1), lsn: self.lsn, time_ms: self.now, body }
    }

    pub(super) fn add(&mut self, body: Body) -> Option<Applied> {
        let entry = self.entry(body);
        self.rooms.apply(&entry)
    }

    pub(super) fn create(&mut self, name: &str) {
        assert_eq!(self.add(Body::Create { room: room(name), keeps: Keeps::default() }), None);
    }

    pub(super) fn join(&mut self, name: &str, info: Client, router: Incarnation) -> Option<Applied> {
        self.add(Body::Join { room: room(name), info, router })
    }

    pub(super) fn leave(&mut self, name: &str, client: &str) -> Option<Applied> {
        self.add(Body::Leave { room: room(name), client: client.into() })
    }

    /// Publishes with the next seq of the room.
    pub(super) fn publish(&mut self, name: &str, change: impl FnOnce(&mut Publish)) -> Option<Applied> {
        let seq = self.rooms.get(name).map_or(Seq(1), |r| r.seq().next());
        let mut publish = Publish {
            seq,
            data: format!("{{\"n\":{}}}", seq.0).into(),
            info: told(&ann("c1")),
            id: String::new(),
            router: R1,
            number: 0,
            settled_below: 0,
            retracts: None,
        };
        change(&mut publish);
        self.add(Body::Publish { room: room(name), publish })
    }

    pub(super) fn say(&mut self, name: &str) -> v1::Publication {
        match self.publish(name, |_| ()).unwrap().event.kind.unwrap() {
            Kind::Publication(p) => p,
            other => panic!("{other:?}"),
        }
    }

    /// Retracts, and gives what members are told.
    pub(super) fn retract(&mut self, name: &str, retracts: Retracts) -> v1::Publication {
        let retract = |p: &mut Publish| (p.retracts, p.data, p.info) = (Some(retracts), "{}".into(), Bytes::new());
        match self.publish(name, retract).unwrap().event.kind.unwrap() {
            Kind::Publication(p) => p,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn expire_at(&mut self, now: u64) {
        self.now = now;
        assert_eq!(self.add(Body::Expire), None);
    }

    pub(super) fn room(&self, name: &str) -> Cow<'_, Room> {
        self.rooms.get(name).unwrap()
    }
}
