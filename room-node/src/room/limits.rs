//! How much rooms may keep and hold.

use std::time::Duration;

/// Limits of the rooms of a slot. Ages and sizes are applied with the entries; `ids_per_room`, `rooms` and `members` are
/// for a primary to check before it logs: a logged entry is never refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoomLimits {
    /// Most publications that a room's history keeps.
    pub history_size: usize,
    /// How long a room's history keeps a publication.
    pub history_age: Duration,
    /// Most bytes that a room's history keeps.
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

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            history_size: 100,
            history_age: Duration::from_secs(5 * 60),
            history_bytes: 1 << 20,
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
    pub(super) fn history_age_ms(&self) -> u64 {
        millis(self.history_age)
    }

    /// [`Self::id_window`] in ms.
    pub(super) fn id_window_ms(&self) -> u64 {
        millis(self.id_window)
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A limit would be passed. The text names what and the limit, for the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: the limit is {limit}")]
pub struct LimitMet {
    what: &'static str,
    limit: usize,
}

impl LimitMet {
    /// Fails if `count` more than what is there (`held`) passes `limit`.
    pub(super) fn check(what: &'static str, held: usize, count: usize, limit: usize) -> Result<(), Self> {
        if held.saturating_add(count) > limit { Err(Self { what, limit }) } else { Ok(()) }
    }
}
