//! What the cluster's settings say of every room.

use std::time::Duration;

use roomring_control::placement::RoomLimits;
use serde::Serialize;

/// The limits of rooms. How much history a room keeps a namespace may say otherwise.
#[derive(Debug, Serialize)]
pub(crate) struct RoomLimitsRow {
    history_size: usize,
    history_age_ms: u64,
    history_bytes: usize,
    publish_ids: usize,
    publish_ids_age_ms: u64,
    members: usize,
    /// Above it members are counted only.
    members_listed: usize,
    /// In each slot.
    rooms: usize,
}

impl From<&RoomLimits> for RoomLimitsRow {
    fn from(limits: &RoomLimits) -> Self {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            history_size: limits.history_size,
            history_age_ms: ms(limits.history_age),
            history_bytes: limits.history_bytes,
            publish_ids: limits.ids_per_room,
            publish_ids_age_ms: ms(limits.id_window),
            members: limits.members,
            members_listed: limits.presence_list_limit,
            rooms: limits.rooms,
        }
    }
}

impl RoomLimitsRow {
    /// Messages and publish ids.
    pub(crate) fn keeps(&self) -> String {
        let age = |ms| humantime::format_duration(Duration::from_millis(ms));
        let (history, ids) = (age(self.history_age_ms), age(self.publish_ids_age_ms));
        format!(
            "{} messages, {history}, {} KiB; {} publish ids, {ids}",
            self.history_size,
            self.history_bytes >> 10,
            self.publish_ids,
        )
    }

    /// Members.
    pub(crate) fn holds(&self) -> String {
        format!("{} members, {} listed", self.members, self.members_listed)
    }
}
