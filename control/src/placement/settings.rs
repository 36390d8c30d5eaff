//! What is fixed when a cluster is created.

use std::time::Duration;

use roomring_proto::{Malformed, limits, v1};

use super::check::require;

/// Shortest `fence_after`: the contact loop needs a few round trips to etcd within it.
const FENCE_AFTER: Duration = Duration::from_millis(100);

/// Largest history of a room, in bytes: one answer with all of it fits a gRPC message, with room to spare.
pub const HISTORY_BYTES: usize = limits::GRPC_MESSAGE_BYTES / 2;

/// What is fixed when a cluster is created. All of it is the same for every replica, so that equal logs give equal rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Number of slots, 1 to [`limits::SLOTS`].
    pub slots: u32,
    /// Seats wanted per slot, 1 to 3.
    pub replication: u32,
    /// In-sync seats without which publishes wait, 1 to `replication`.
    pub min_in_sync: u32,
    /// How long a primary may serve without contact with etcd.
    pub fence_after: Duration,
    /// How long members of a vanished router stay.
    pub presence_grace: Duration,
    /// Limits of rooms.
    pub rooms: RoomLimits,
    /// How much of a slot's log is kept.
    pub retention: Retention,
}

/// Limits of the rooms of a slot. Ages and sizes are applied with the entries; `ids_per_room`, `rooms` and `members` are
/// for a primary to check before it logs: a logged entry is never refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoomLimits {
    /// Most publications that a room's history keeps.
    pub history_size: usize,
    /// How long a room's history keeps a publication.
    pub history_age: Duration,
    /// Most bytes that a room's history keeps, up to [`HISTORY_BYTES`].
    pub history_bytes: usize,
    /// How long a publish id is remembered, and the numbers of a router that has no members here any more.
    pub id_window: Duration,
    /// Most publish ids that a room remembers; past it publishes with an id are refused.
    pub ids_per_room: usize,
    /// Most members that a room lists and announces; above it there are counts only.
    pub presence_list_limit: usize,
    /// Most rooms of a slot.
    pub rooms: usize,
    /// Most members of a room.
    pub members: usize,
}

/// How much of a slot's applied log is kept for replay to routers and for seats that catch up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retention {
    /// Bytes a slot, counted with what an entry costs in memory.
    pub bytes: usize,
    /// Age of an entry against the newest one.
    pub age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Fifty nodes still get twenty slots each.
            slots: 1024,
            // One node may die.
            replication: 2,
            // A slot whose other copy died takes publishes while the next one is made.
            min_in_sync: 1,
            // An etcd that is restarted or upgraded is back by then.
            fence_after: Duration::from_secs(60),
            // Clients of a router that died are back at another one by then.
            presence_grace: Duration::from_secs(10),
            rooms: RoomLimits::default(),
            retention: Retention::default(),
        }
    }
}

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            history_size: 100,
            history_age: Duration::from_secs(5 * 60),
            history_bytes: 1 << 20,
            // Longer than any client keeps trying the same publish.
            id_window: Duration::from_secs(2 * 60),
            ids_per_room: 10_000,
            // The list of so many with their names stays near 100 KB, and a join costs as many frames.
            presence_list_limit: 1_000,
            // About 300 bytes each while idle: some 5 MB a slot.
            rooms: 16_384,
            // About 200 bytes each: some 200 MB, far above what one room's primary is asked to hold.
            members: 1_000_000,
        }
    }
}

impl RoomLimits {
    /// [`Self::history_age`] in ms.
    pub fn history_age_ms(&self) -> u64 {
        millis(self.history_age)
    }

    /// [`Self::id_window`] in ms.
    pub fn id_window_ms(&self) -> u64 {
        millis(self.id_window)
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { bytes: 8 << 20, age: Duration::from_secs(60) }
    }
}

impl Settings {
    /// Checks every field against its limits.
    ///
    /// # Errors
    /// The first field that breaks its rule, by name.
    pub fn check(&self) -> Result<(), Malformed> {
        require((1..=limits::SLOTS).contains(&self.slots), || {
            format!("slots is {}, not 1 to {}", self.slots, limits::SLOTS)
        })?;
        require((1..=3).contains(&self.replication), || format!("replication is {}, not 1 to 3", self.replication))?;
        require((1..=self.replication).contains(&self.min_in_sync), || {
            format!("min_in_sync is {}, not 1 to replication ({})", self.min_in_sync, self.replication)
        })?;
        let fence_after = self.fence_after;
        require(fence_after >= FENCE_AFTER && fence_after.as_millis() <= u32::MAX.into(), || {
            format!("fence_after is {fence_after:?}, not {FENCE_AFTER:?} to {} ms", u32::MAX)
        })?;
        require(self.rooms.history_bytes <= HISTORY_BYTES, || {
            format!("history_bytes is {}, not up to {HISTORY_BYTES}", self.rooms.history_bytes)
        })?;
        require(self.rooms.rooms > 0, || "rooms_limit is 0".into())?;
        require(self.rooms.members > 0, || "members_limit is 0".into())
    }

    pub(super) fn encode(&self) -> v1::Settings {
        v1::Settings {
            slots: self.slots,
            replication: self.replication,
            min_in_sync: self.min_in_sync,
            fence_after_ms: u32::try_from(self.fence_after.as_millis()).unwrap_or(u32::MAX),
            presence_grace_ms: millis(self.presence_grace),
            rooms: Some(v1::RoomLimits {
                history_size: self.rooms.history_size as u64,
                history_age_ms: millis(self.rooms.history_age),
                history_bytes: self.rooms.history_bytes as u64,
                id_window_ms: millis(self.rooms.id_window),
                ids_per_room: self.rooms.ids_per_room as u64,
                presence_list_limit: self.rooms.presence_list_limit as u64,
                rooms: self.rooms.rooms as u64,
                members: self.rooms.members as u64,
            }),
            log_bytes: self.retention.bytes as u64,
            log_age_ms: millis(self.retention.age),
        }
    }

    pub(super) fn decode(settings: v1::Settings) -> Result<Self, Malformed> {
        let rooms = settings.rooms.ok_or_else(|| Malformed("settings without limits of rooms".into()))?;
        Ok(Self {
            slots: settings.slots,
            replication: settings.replication,
            min_in_sync: settings.min_in_sync,
            fence_after: Duration::from_millis(settings.fence_after_ms.into()),
            presence_grace: Duration::from_millis(settings.presence_grace_ms),
            rooms: RoomLimits {
                history_size: count(rooms.history_size),
                history_age: Duration::from_millis(rooms.history_age_ms),
                history_bytes: count(rooms.history_bytes),
                id_window: Duration::from_millis(rooms.id_window_ms),
                ids_per_room: count(rooms.ids_per_room),
                presence_list_limit: count(rooms.presence_list_limit),
                rooms: count(rooms.rooms),
                members: count(rooms.members),
            },
            retention: Retention { bytes: count(settings.log_bytes), age: Duration::from_millis(settings.log_age_ms) },
        })
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
