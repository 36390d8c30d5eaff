//! The publish ids that a room remembers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use roomring_proto::Seq;

use roomring_control::placement::RoomLimits;

/// What a remembered id counts beside its own bytes: an entry in the map and one in the queue.
const OVERHEAD: usize = 80;

/// Publish ids seen within the window, each with the seq of its first publication.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct SeenIds {
    seqs: BTreeMap<Arc<str>, Seq>,
    /// In order of time, oldest first.
    queue: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
}

impl SeenIds {
    pub(super) fn get(&self, id: &str) -> Option<Seq> {
        self.seqs.get(id).copied()
    }

    /// Remembers `id`, unless it is already.
    pub(super) fn insert(&mut self, id: &str, seq: Seq, time_ms: u64) {
        if self.seqs.contains_key(id) {
            return;
        }
        let id: Arc<str> = id.into();
        self.bytes += OVERHEAD + id.len();
        self.queue.push_back((time_ms, id.clone()));
        self.seqs.insert(id, seq);
    }

    /// Forgets what is outside the window at `now` (ms).
    pub(super) fn expire(&mut self, now: u64, limits: &RoomLimits) {
        while self.due(limits).is_some_and(|due| due <= now) {
            if let Some((_, id)) = self.queue.pop_front() {
                self.bytes -= OVERHEAD + id.len();
                self.seqs.remove(&id);
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// When the oldest id leaves the window, in unix ms.
    pub(super) fn due(&self, limits: &RoomLimits) -> Option<u64> {
        self.queue.front().map(|(time, _)| time.saturating_add(limits.id_window_ms()))
    }

    /// Id, seq and time, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Seq, u64)> {
        self.queue.iter().map(|(time, id)| (&**id, self.seqs[id], *time))
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
