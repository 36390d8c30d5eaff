//! The publish ids that a room remembers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use roomring_proto::Seq;

use roomring_control::placement::RoomLimits;

/// What a remembered id counts beside its own bytes: an entry in the map and one in the queue.
const OVERHEAD: usize = 80;

/// Publish ids seen within the window, each with the seq of its first publication. Boxed, as most rooms have none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct SeenIds(Option<Box<Seen>>);

/// At least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Seen {
    seqs: BTreeMap<Arc<str>, Seq>,
    /// In order of time, oldest first.
    queue: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
}

impl SeenIds {
    pub(super) fn get(&self, id: &str) -> Option<Seq> {
        self.0.as_ref()?.seqs.get(id).copied()
    }

    /// Remembers `id`, unless it is already.
    pub(super) fn insert(&mut self, id: &str, seq: Seq, time_ms: u64) {
        let seen = self.0.get_or_insert_default();
        if seen.seqs.contains_key(id) {
            return;
        }
        let id: Arc<str> = id.into();
        seen.bytes += OVERHEAD + id.len();
        seen.queue.push_back((time_ms, id.clone()));
        seen.seqs.insert(id, seq);
    }

    /// Forgets what is outside the window at `now` (ms).
    pub(super) fn expire(&mut self, now: u64, limits: &RoomLimits) {
        while self.due(limits).is_some_and(|due| due <= now) {
            if let Some(seen) = &mut self.0
                && let Some((_, id)) = seen.queue.pop_front()
            {
                seen.bytes -= OVERHEAD + id.len();
                seen.seqs.remove(&id);
            }
        }
        if self.len() == 0 {
            self.0 = None;
        }
    }

    /// When the oldest id leaves the window, in unix ms.
    pub(super) fn due(&self, limits: &RoomLimits) -> Option<u64> {
        let (time, _) = self.0.as_ref()?.queue.front()?;
        Some(time.saturating_add(limits.id_window_ms()))
    }

    /// Id, seq and time, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Seq, u64)> {
        self.0.iter().flat_map(|seen| seen.queue.iter().map(|(time, id)| (&**id, seen.seqs[id], *time)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |seen| seen.queue.len())
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |seen| seen.bytes)
    }
}
