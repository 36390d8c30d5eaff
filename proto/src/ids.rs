//! One newtype per identifier and counter, so that none is passed for another.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{limits, v1};

/// An identifier that breaks its rules. The text names the rule and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct InvalidId {
    what: &'static str,
    problem: String,
}

impl InvalidId {
    fn new(what: &'static str, problem: impl Into<String>) -> Self {
        Self { what, problem: problem.into() }
    }
}

/// A required field was absent from a message, or a value breaks its rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub String);

impl From<InvalidId> for Malformed {
    fn from(e: InvalidId) -> Self {
        Self(e.to_string())
    }
}

/// A room's name: 1 to [`limits::ROOM_NAME_BYTES`] bytes of UTF-8 without control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RoomId(Arc<str>);

impl RoomId {
    /// Checks `name`.
    pub fn new(name: &str) -> Result<Self, InvalidId> {
        if name.is_empty() {
            return Err(InvalidId::new("room name", "is empty"));
        }
        if name.len() > limits::ROOM_NAME_BYTES {
            let problem = format!("has {} bytes, the limit is {}", name.len(), limits::ROOM_NAME_BYTES);
            return Err(InvalidId::new("room name", problem));
        }
        if name.chars().any(char::is_control) {
            return Err(InvalidId::new("room name", "has a control character"));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot of this room in a cluster of `slots` slots. Frozen: the hash is XXH3-64 with seed 0 of the name's bytes.
    pub fn slot(&self, slots: u32) -> SlotId {
        let hash = xxhash_rust::xxh3::xxh3_64(self.0.as_bytes());
        SlotId(u32::try_from(hash % u64::from(slots.max(1))).expect("less than a u32"))
    }
}

impl Borrow<str> for RoomId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for RoomId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Self::new(s)
    }
}

/// A node's or router's configured name: 1 to 63 of `a-z A-Z 0-9 - _ .`, as StatefulSets make them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Checks `id`.
    pub fn new(id: &str) -> Result<Self, InvalidId> {
        if id.is_empty() || id.len() > 63 {
            return Err(InvalidId::new("node id", format!("has {} bytes, it must have 1 to 63", id.len())));
        }
        if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(InvalidId::new("node id", "may only have letters, digits, '-', '_' and '.'"));
        }
        Ok(Self(id.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Self::new(s)
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        Self::new(&s)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0.as_ref().to_owned()
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            ///
            /// # Panics
            /// At the end of the type's range, which no run reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("counter overflow"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number!(
    /// A slot's number, below the cluster's number of slots: the unit of ownership, replication and movement.
    SlotId(u32), "s"
);
number!(
    /// A slot's term: rises whenever its primary changes, and at recreation. One primary per term.
    Term(u64), "t"
);
number!(
    /// A slot's generation: rises when the slot is recreated empty.
    Generation(u64), "g"
);
number!(
    /// Position in a slot's log, 1, 2, 3 ... within a generation; 0 is before the first entry.
    Lsn(u64), "l"
);
number!(
    /// Number of a publication in its room, 1, 2, 3 ... within an epoch; 0 is before the first.
    Seq(u64), "q"
);
number!(
    /// Version of the placement: rises by one with every write.
    Version(u64), "v"
);
number!(
    /// One run of a process: the etcd revision at which it registered. Unique in a cluster's etcd.
    Incarnation(u64), "i"
);

/// Random id of a placement's history: an etcd that was wiped or restored gets a new one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u64);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A replica's place in a slot. A process answers only for seats it holds; `(incarnation, since)` is never used twice in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Seat {
    /// The process.
    pub incarnation: Incarnation,
    /// The placement version that added the seat.
    pub since: Version,
}

/// Which placement a process has adopted. Within one `uid` versions are ordered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PlacementRef {
    /// The placement's history.
    pub uid: Uid,
    /// Its version.
    pub version: Version,
}

/// The identity of a room's history. A room that loses its history, or was removed and made again, gets another.
/// Within one `uid` a later epoch of a room is greater.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Epoch {
    /// The placement's history.
    pub uid: Uid,
    /// The slot's generation.
    pub generation: Generation,
    /// The entry that created the room.
    pub created: Lsn,
}

/// Short and opaque, as clients see it: three hexadecimal numbers joined by `-`.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.uid.0, self.generation.0, self.created.0)
    }
}

impl FromStr for Epoch {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let bad = || InvalidId::new("epoch", "is not one that this server gives");
        let mut parts = s.split('-').map(|p| u64::from_str_radix(p, 16).map_err(|_| bad()));
        let mut next = || parts.next().unwrap_or_else(|| Err(bad()));
        let epoch = Self { uid: Uid(next()?), generation: Generation(next()?), created: Lsn(next()?) };
        // One spelling only: epochs are compared as text by clients.
        if epoch.to_string() == s { Ok(epoch) } else { Err(bad()) }
    }
}

impl From<Seat> for v1::SeatRef {
    fn from(s: Seat) -> Self {
        Self { incarnation: s.incarnation.0, since: s.since.0 }
    }
}

impl From<v1::SeatRef> for Seat {
    fn from(s: v1::SeatRef) -> Self {
        Self { incarnation: Incarnation(s.incarnation), since: Version(s.since) }
    }
}

impl From<PlacementRef> for v1::PlacementRef {
    fn from(p: PlacementRef) -> Self {
        Self { uid: p.uid.0, version: p.version.0 }
    }
}

impl From<v1::PlacementRef> for PlacementRef {
    fn from(p: v1::PlacementRef) -> Self {
        Self { uid: Uid(p.uid), version: Version(p.version) }
    }
}

impl From<Epoch> for v1::Epoch {
    fn from(e: Epoch) -> Self {
        Self { uid: e.uid.0, generation: e.generation.0, created: e.created.0 }
    }
}

impl From<v1::Epoch> for Epoch {
    fn from(e: v1::Epoch) -> Self {
        Self { uid: Uid(e.uid), generation: Generation(e.generation), created: Lsn(e.created) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_names_are_checked() {
        assert!(RoomId::new("lobby").is_ok());
        assert!(RoomId::new(&"é".repeat(127)).is_ok());
        assert_eq!(RoomId::new("").unwrap_err().to_string(), "room name is empty");
        assert_eq!(RoomId::new(&"x".repeat(256)).unwrap_err().to_string(), "room name has 256 bytes, the limit is 255");
        assert_eq!(RoomId::new("a\nb").unwrap_err().to_string(), "room name has a control character");
        assert!(RoomId::new("a\u{85}b").is_err());
    }

    #[test]
    fn node_ids_are_checked() {
        assert!(NodeId::new("room-node-0.x_y").is_ok());
        assert!(NodeId::new("").is_err());
        assert!(NodeId::new("a/b").is_err());
        assert!(NodeId::new(&"n".repeat(64)).is_err());
    }

    #[test]
    fn slots_are_frozen() {
        let slot = |name: &str| RoomId::new(name).unwrap().slot(1024).0;
        assert_eq!([slot("lobby"), slot("room:7"), slot("chat"), slot("ä")], FROZEN);
    }
    const FROZEN: [u32; 4] = [418, 227, 472, 180];

    #[test]
    fn epochs_read_back() {
        let epoch = Epoch { uid: Uid(u64::MAX), generation: Generation(3), created: Lsn(77) };
        assert_eq!(epoch.to_string().parse::<Epoch>().unwrap(), epoch);
        for bad in ["", "_", "1-2", "1-2-3-4", "01-2-3", "+1-2-3", "1-2-g"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn epochs_are_ordered_by_generation_then_creation() {
        let epoch = |g, l| Epoch { uid: Uid(1), generation: Generation(g), created: Lsn(l) };
        assert!(epoch(1, 900) < epoch(2, 1));
        assert!(epoch(2, 1) < epoch(2, 5));
    }
}
