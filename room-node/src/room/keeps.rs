//! What one room keeps.

use roomring_control::placement::RoomLimits;
use roomring_proto::v1;

/// What one room keeps, fixed by the entry that makes it: replicas agree, whatever their routers are configured to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Keeps {
    /// Most publications of its history; `None` = as the cluster's limits have it.
    pub history_size: Option<u64>,
    /// How long its history keeps a publication, in ms; `None` = as the cluster's limits have it.
    pub history_age_ms: Option<u64>,
}

impl Keeps {
    /// Most publications of the room's history. Their bytes are bounded by the cluster's limits whatever this says.
    pub(super) fn size(&self, limits: &RoomLimits) -> usize {
        self.history_size.map_or(limits.history_size, |size| usize::try_from(size).unwrap_or(usize::MAX))
    }

    /// How long a publication is kept, in ms.
    pub(super) fn age_ms(&self, limits: &RoomLimits) -> u64 {
        self.history_age_ms.unwrap_or_else(|| limits.history_age_ms())
    }
}

impl From<Option<v1::RoomKeeps>> for Keeps {
    fn from(keeps: Option<v1::RoomKeeps>) -> Self {
        keeps.map_or_else(Self::default, |k| Self { history_size: k.history_size, history_age_ms: k.history_age_ms })
    }
}

impl From<Keeps> for Option<v1::RoomKeeps> {
    fn from(k: Keeps) -> Self {
        let keeps = v1::RoomKeeps { history_size: k.history_size, history_age_ms: k.history_age_ms };
        (k != Keeps::default()).then_some(keeps)
    }
}
