//! Where every slot is: the value kept in etcd under `placement`, and every change of it as a guarded transition.
//!
//! Pure. The [`crate::coordinator`] writes what comes out of here by compare-and-swap.

mod change;
#[cfg(test)]
mod change_tests;
mod check;
mod codec;
#[cfg(test)]
pub(crate) mod fixtures;
mod recent;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

pub use change::{Change, Draft, Rejected};
pub use check::WEIGHT;
pub use codec::DecodeError;
pub use recent::{Cause, Eviction, Recent, Recents};
pub use settings::{HISTORY_BYTES, Retention, RoomLimits, Settings};

use roomring_proto::{Generation, Incarnation, NodeId, PlacementRef, Seat, SlotId, Term, Uid, Version};

/// The placement format that this build writes.
pub const FORMAT: u32 = 1;

/// The version of a placement just formed.
pub(crate) const FIRST_VERSION: Version = Version(1);

/// Parameters of the ring, kept with the placement so that every process and release computes the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingParams {
    /// Points on the ring of a node of weight 100.
    pub vnodes: u32,
    /// Bound on a node's primaries in percent of its weighted share.
    pub bound_percent: u32,
}

/// A process named by the placement: a member, or one that still holds seats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its configured name.
    pub node: NodeId,
    /// Random id of its directory; a successor that holds its lock proves this process dead.
    pub home: String,
    /// host:port of its gRPC server.
    pub grpc_addr: String,
    /// Failure zone, may be empty.
    pub zone: String,
    /// Registered weight in percent.
    pub weight: u32,
    /// False once evicted; its seats may remain.
    pub active: bool,
    /// Highest placement format it understands.
    pub max_format: u32,
    /// host:port of its watch service; empty if it has none.
    pub watch_addr: String,
}

/// One slot's record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlotRecord {
    /// Rises whenever the primary changes, and at recreation.
    pub term: Term,
    /// One of `in_sync`.
    pub primary: Seat,
    /// Replicas that count for every commit; never empty; in order of seniority.
    pub in_sync: Vec<Seat>,
    /// Replicas that catch up.
    pub learners: Vec<Seat>,
    /// Rises when the slot is recreated empty.
    pub generation: Generation,
}

/// Where every slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// This placement's history.
    pub uid: Uid,
    /// Format of the encoding.
    pub format: u32,
    /// Rises by one with every write.
    pub version: Version,
    /// Fixed at creation.
    pub settings: Settings,
    /// Fixed at creation.
    pub ring: RingParams,
    /// By incarnation: members, and processes that still hold seats.
    pub members: BTreeMap<Incarnation, Member>,
    /// Index = slot number.
    pub slots: Vec<SlotRecord>,
    /// What the last writes changed, for people; the latest last.
    pub recent: Recents,
    /// Members that don't get through to each other: the first found that the second does not acknowledge what it sends, and
    /// takes the pair out when it hears it again. A slot whose primary is the first wants no seat at the second.
    pub apart: BTreeSet<(Incarnation, Incarnation)>,
}

impl SlotRecord {
    /// Every seat: in-sync, then learners.
    pub fn seats(&self) -> impl Iterator<Item = Seat> + '_ {
        self.in_sync.iter().chain(&self.learners).copied()
    }

    /// The seat held by `incarnation`, if any. A process has at most one in a slot.
    pub fn seat_of(&self, incarnation: Incarnation) -> Option<Seat> {
        self.seats().find(|s| s.incarnation == incarnation)
    }
}

impl Placement {
    /// Which placement this is.
    pub fn reference(&self) -> PlacementRef {
        PlacementRef { uid: self.uid, version: self.version }
    }

    /// The record of `slot`; `None` past the end.
    pub fn slot(&self, slot: SlotId) -> Option<&SlotRecord> {
        self.slots.get(slot.0 as usize)
    }

    /// The process that is primary of `slot`.
    pub fn primary_of(&self, slot: SlotId) -> Option<(Incarnation, &Member)> {
        let seat = self.slot(slot)?.primary;
        self.members.get(&seat.incarnation).map(|m| (seat.incarnation, m))
    }
}
